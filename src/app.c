/* SPDX-License-Identifier: Apache-2.0 */
/* The order of life:
 *   start: files -> Kafka clients -> listeners -> loops -> threads -> Kafka threads -> serving
 *   stop:  not ready -> (SHUTDOWN_DELAY) -> refuse new -> requests finish, or are ended after SHUTDOWN_TIMEOUT -> answers
 *          flushed -> loops stopped -> HTTP -> Kafka reader stopped -> inboxes emptied -> exchange -> Kafka -> loops */
#include "app.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

#define TICK_NS        (50 * SG_NSEC_PER_MSEC)
#define START_GRACE_NS (5 * SG_NSEC_PER_SEC)
#define FLUSH_NS       (2 * SG_NSEC_PER_SEC)
#define KEYS_CHECK_NS  (2 * SG_NSEC_PER_SEC)
#define RESERVED_FDS   256u

/* ---- start ---- */

/* Every connection is a descriptor. The soft limit is raised to the hard one; what is still too little is told. */
static uint32_t connections_allowed(const struct config *config)
{
    struct rlimit limit;
    uint64_t wanted = (uint64_t)config->max_connections + config->legacy_max_connections + RESERVED_FDS;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return config->max_connections;
    if (limit.rlim_cur < wanted && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
    if (limit.rlim_cur >= wanted)
        return config->max_connections;
    uint64_t spare = (uint64_t)config->legacy_max_connections + RESERVED_FDS;
    uint32_t allowed = limit.rlim_cur > spare + 64 ? (uint32_t)(limit.rlim_cur - spare) : 64;
    struct log_line line;
    log_begin(&line, LOG_WARN,
              "fewer connections than SYNCGATE_MAX_CONNECTIONS: raise the limit of open files");
    log_u64(&line, "openFilesLimit", limit.rlim_cur);
    log_u64(&line, "wanted", config->max_connections);
    log_u64(&line, "allowed", allowed);
    log_end(&line);
    return allowed;
}

static enum err_code start_kafka(struct app *app, struct err *err)
{
    const struct config *config = app_config(app);
    struct kafka_property *properties = calloc(config->kafka_property_count + 1, sizeof(*properties));
    struct loop **loops = calloc(app->worker_count, sizeof(struct loop *));
    void **args = calloc(app->worker_count, sizeof(void *));
    for (size_t i = 0; properties && i < config->kafka_property_count; i++)
        properties[i] =
            (struct kafka_property){config->kafka_properties[i].name, config->kafka_properties[i].value};
    for (size_t i = 0; loops && args && i < app->worker_count; i++) {
        loops[i] = app->workers[i].loop;
        args[i] = app->workers[i].exchange;
    }
    struct kafka_settings settings = {
        .brokers = config->kafka_brokers,
        .embedded = config_is_embedded(config),
        .properties = properties,
        .property_count = config->kafka_property_count,
        .message_timeout_ms = config->kafka_message_timeout_ms,
        .reply_topics = app->plan->routes->reply_topics,
        .reply_topic_count = app->plan->routes->reply_topic_count,
        .command_topics = app->plan->command_topics,
        .command_topic_count = app->plan->command_topic_count,
        .own_topic = config->reply_partition != CONFIG_ANY_PARTITION ? span_of(config->reply_topic)
                                                                     : (struct span){NULL, 0},
        .own_partition = (int32_t)config->reply_partition,
        .loops = loops,
        .loop_args = args,
        .loop_count = app->worker_count,
        .handler = exchange_kafka_handler,
    };
    settings.handler.arg = &app->shared;
    if (properties && loops && args)
        app->kafka = kafka_new(&settings, err);
    else
        err_set(err, ERR_NO_MEMORY, "out of memory");
    free(properties);
    free(loops);
    free(args);
    app->shared.kafka = app->kafka;
    if (!app->kafka)
        return ERR_CONFIG;
    enum err_code code = exchange_plan_bind(&app->shared, app->plan);
    if (code != ERR_OK)
        err_set(err, code, "too many Kafka topics or reply headers, or no memory for them");
    return code;
}

static uint32_t share(uint32_t total, size_t parts)
{
    uint32_t part = (uint32_t)((total + parts - 1) / parts);
    return part ? part : 1;
}

static enum err_code make_workers(struct app *app, struct err *err)
{
    const struct config *config = app_config(app);
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    app->worker_count = config->loops ? config->loops : cores > 0 ? (size_t)cores : 1;
    if (app->worker_count > 64)
        app->worker_count = 64;
    app->shared.loop_count = app->worker_count;
    app->shared.has_legacy = config->legacy_url != NULL;
    app->shared.legacy = (struct legacy_settings){
        .url = config->legacy_url,
        .connect_timeout_ms = config->legacy_connect_timeout_ms,
        .timeout_ms = config->legacy_timeout_ms,
        .max_connections = share(config->legacy_max_connections, app->worker_count),
        .max_calls = share(config->legacy_max_requests, app->worker_count),
        .retries = config->legacy_retries,
        .retry_backoff_ms = config->legacy_retry_backoff_ms,
    };
    app->workers = calloc(app->worker_count, sizeof(*app->workers));
    if (!app->workers)
        return err_set(err, ERR_NO_MEMORY, "out of memory");
    const struct http_settings settings = {
        .connection_memory = config->connection_memory,
        .body_limit = config->body_limit,
        .idle_timeout_ms = config->idle_timeout_ms,
        .body_timeout_ms = config->body_timeout_ms,
        .handler = exchange_http_handler,
    };
    for (size_t i = 0; i < app->worker_count; i++) {
        struct app_worker *worker = &app->workers[i];
        struct http_settings mine = settings;
        if (!(worker->loop = loop_new(err)) ||
            !(worker->exchange =
                  exchange_worker_new(&app->shared, app->plan, worker->loop, (unsigned)i, err)))
            return ERR_INTERNAL;
        mine.handler.arg = worker->exchange;
        if (!(worker->front = http_front_new(worker->loop, app->listener, &mine, err)))
            return ERR_INTERNAL;
        if (http_front_join(worker->front) != ERR_OK)
            return err_set(err, ERR_INTERNAL, "cannot watch the listening socket: %s", strerror(errno));
    }
    return ERR_OK;
}

static void *worker_main(void *arg)
{
    struct app_worker *worker = arg;
    log_batch_thread(true);
    loop_run(worker->loop, log_flush_thread);
    log_flush_thread();
    return NULL;
}

static enum err_code start_threads(struct app *app, struct err *err)
{
    for (size_t i = 0; i < app->worker_count; i++) {
        if (pthread_create(&app->workers[i].thread, NULL, worker_main, &app->workers[i]) != 0)
            return err_set(err, ERR_INTERNAL, "cannot start a thread");
        app->workers[i].started = true;
    }
    if (app->kafka && kafka_start(app->kafka) != ERR_OK)
        return err_set(err, ERR_INTERNAL, "cannot start a thread");
    return ERR_OK;
}

static void say_listening(const struct app *app)
{
    struct log_line line;
    log_begin(&line, LOG_INFO, "listening");
    log_str(&line, "listen", http_listener_address(app->listener));
    log_str(&line, "admin", http_listener_address(app->admin_listener));
    log_u64(&line, "loops", app->worker_count);
    log_u64(&line, "routes", app->plan->routes->count);
    log_end(&line);
    if (!app->kafka || !kafka_embedded_bootstrap(app->kafka))
        return;
    log_begin(&line, LOG_WARN, "embedded broker");
    log_str(&line, "bootstrap", kafka_embedded_bootstrap(app->kafka));
    log_str(&line, "warning", "librdkafka's mock cluster: for a first look and for tests, it keeps nothing");
    log_end(&line);
}

/* ---- phases ---- */

static void set_phase(struct app *app, enum app_phase phase, const char *msg)
{
    app->phase = phase;
    app->phase_ns = loop_now_ns(app->loop);
    struct log_line line;
    log_begin(&line, LOG_INFO, msg);
    if (phase == APP_SERVING && app->kafka) {
        struct exchange_closed closed = {.why = app_uses_kafka(app) ? "open" : "not used"};
        (void)app_closed_route(app, APP_ALL_ROUTES, &closed);
        log_str(&line, "kafka", closed.why);
        if (closed.topic.ptr)
            log_span(&line, "topic", closed.topic);
    }
    log_end(&line);
}

/* Something that each worker's loop does with its front. */
struct front_msg {
    struct loop_msg msg;
    struct http_front *front;
    void (*act)(struct http_front *front);
};

/* Thread: the worker's loop. */
static void on_front_msg(struct loop_msg *msg)
{
    struct front_msg *said = SG_CONTAINER_OF(msg, struct front_msg, msg);
    said->act(said->front);
    free(said);
}

/* A loop that there is no memory to tell goes on as before. */
static void tell_fronts(struct app *app, void (*act)(struct http_front *front))
{
    for (size_t i = 0; i < app->worker_count; i++) {
        struct front_msg *say = malloc(sizeof(*say));
        if (!say)
            continue;
        *say = (struct front_msg){.msg.on_msg = on_front_msg, .front = app->workers[i].front, .act = act};
        loop_post(app->workers[i].loop, &say->msg);
    }
}

static void on_counted(struct app_gather *gather)
{
    struct app *app = gather->app;
    uint64_t active = gather->gauges.active_requests;
    uint64_t waited_ns = loop_now_ns(app->loop) - app->phase_ns;
    bool over = app->hurry || waited_ns >= (uint64_t)app_config(app)->shutdown_timeout_ms * SG_NSEC_PER_MSEC;
    if (over && !app->abandoned && active) {
        struct log_line line;
        log_begin(&line, LOG_WARN, "requests under way are ended");
        log_u64(&line, "active", active);
        log_u64(&line, "parked", gather->gauges.parked);
        log_end(&line);
    }
    app->counting = false;
    if (gather->abandon) {
        app->abandoned = true;
        app->phase_ns = loop_now_ns(app->loop);
    }
    bool flushed = app->abandoned && loop_now_ns(app->loop) - app->phase_ns >= FLUSH_NS;
    app_gather_freep(&gather);
    if (flushed || (active == 0 && app->refusing)) {
        loop_stop(app->loop);
    } else if (active == 0) { /* once more: what came behind the count would be executed and not answered */
        app->refusing = true;
        tell_fronts(app, http_front_refuse);
        (void)!loop_timer_set(app->loop, &app->tick, loop_now_ns(app->loop));
    }
}

/* After the delay no new connection is taken; requests finish, and what does not is ended. */
static void drain_step(struct app *app)
{
    if (app->counting)
        return;
    uint64_t waited_ns = loop_now_ns(app->loop) - app->phase_ns;
    bool over = app->hurry || waited_ns >= (uint64_t)app_config(app)->shutdown_timeout_ms * SG_NSEC_PER_MSEC;
    app->counting = app_gather_start(app, over && !app->abandoned, on_counted, NULL) != NULL;
}

static void leave(struct app *app)
{
    if (app->phase >= APP_LEAVING) {
        app->hurry = true;
        return;
    }
    set_phase(app, APP_LEAVING, "shutting down");
    tell_fronts(app, http_front_drain);
}

static void on_tick(struct loop_timer *timer)
{
    struct app *app = SG_CONTAINER_OF(timer, struct app, tick);
    uint64_t now_ns = loop_now_ns(app->loop), in_phase_ns = now_ns - app->phase_ns, wait_ns = TICK_NS;
    struct exchange_closed closed;
    switch (app->phase) {
    case APP_STARTING:
        (void)app_reload_step(app); /* it may mend what the start waits for */
        if (!app_closed_route(app, APP_WAITED_FOR, &closed) ||
            (in_phase_ns >= START_GRACE_NS && !app_closed_route(app, APP_ONLY_KAFKA, &closed)))
            set_phase(app, APP_SERVING, "ready");
        break;
    case APP_SERVING:
        exchange_cluster_observe(&app->shared, app->plan);
        if (app_reload_step(app))
            break;
        app_reload_keys(app);
        wait_ns = KEYS_CHECK_NS;
        break;
    case APP_LEAVING:
        if (app->hurry || in_phase_ns >= (uint64_t)app_config(app)->shutdown_delay_ms * SG_NSEC_PER_MSEC) {
            http_listener_close(app->listener);
            set_phase(app, APP_DRAINING, "draining");
        }
        break;
    case APP_DRAINING:
        drain_step(app);
        break;
    case APP_STOPPED:
        return;
    }
    (void)!loop_timer_set(app->loop, &app->tick, now_ns + wait_ns);
}

static void on_signal(struct loop_io *io, uint32_t events)
{
    (void)events;
    struct app *app = SG_CONTAINER_OF(io, struct app, signal_io);
    struct signalfd_siginfo info;
    bool hangup = false;
    while (read(io->fd, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
        if (info.ssi_signo != SIGHUP)
            leave(app);
        hangup |= info.ssi_signo == SIGHUP;
    }
    /* Once a turn: while files are read the next SIGHUP may come, and the loop has more to do. */
    if (hangup)
        app_reload(app);
    (void)!loop_timer_set(app->loop, &app->tick, loop_now_ns(app->loop));
}

static enum err_code make_main_loop(struct app *app, struct err *err)
{
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGHUP);
    app->signal_io.fd = signalfd(-1, &signals, SFD_NONBLOCK | SFD_CLOEXEC);
    app->signal_io.on_ready = on_signal;
    app->tick.on_timer = on_tick;
    const struct http_settings settings = {.connection_memory = 16 << 10,
                                           .body_limit = 64 << 10,
                                           .idle_timeout_ms = 30000,
                                           .body_timeout_ms = 10000,
                                           .handler = app_admin_handler};
    struct http_settings mine = settings;
    mine.handler.arg = app;
    if (app->signal_io.fd < 0 || loop_io_add(app->loop, &app->signal_io, EPOLLIN) != ERR_OK ||
        loop_timer_set(app->loop, &app->tick, loop_now_ns(app->loop)) != ERR_OK)
        return err_set(err, ERR_INTERNAL, "cannot watch signals: %s", strerror(errno));
    app->admin_front = http_front_new(app->loop, app->admin_listener, &mine, err);
    if (!app->admin_front || http_front_join(app->admin_front) != ERR_OK)
        return err_set(err, ERR_INTERNAL, "cannot start the admin port");
    return ERR_OK;
}

/* Puts the setting in front of what is wrong with it. */
static enum err_code name_setting(const char *setting, struct err *err)
{
    struct err inner = *err;
    return err_set(err, ERR_CONFIG, "%s: %.400s", setting, inner.text);
}

static enum err_code start(struct app *app, struct err *err)
{
    const struct config *config = app_config(app);
    if (legacy_global_init() != ERR_OK || await_instance_new(&app->shared.instance) != ERR_OK)
        return err_set(err, ERR_INTERNAL, "cannot initialise libcurl or read random bytes");
    if (!(app->loop = loop_new(err)))
        return ERR_CONFIG;
    app->listener = http_listener_new(config->listen.text, connections_allowed(config), err);
    if (!app->listener)
        return name_setting("SYNCGATE_LISTEN", err);
    app->admin_listener = http_listener_new(config->admin_listen.text, 64, err);
    if (!app->admin_listener)
        return name_setting("SYNCGATE_ADMIN_LISTEN", err);
    enum err_code code = make_workers(app, err);
    if (code == ERR_OK && config->kafka_brokers)
        code = start_kafka(app, err);
    if (code == ERR_OK)
        code = make_main_loop(app, err);
    if (code == ERR_OK)
        code = start_threads(app, err);
    return code;
}

static void stop(struct app *app)
{
    for (size_t i = 0; i < app->worker_count; i++)
        if (app->workers[i].started)
            loop_stop(app->workers[i].loop);
    for (size_t i = 0; i < app->worker_count; i++)
        if (app->workers[i].started)
            pthread_join(app->workers[i].thread, NULL);
    if (app->listener)
        http_listener_close(app->listener); /* still open when the start failed */
    /* Connections on their way to another front arrive before any front goes. The loops do not turn any more: idle
     * connections stay open until here, and what they send now must not become a command nor a legacy call. */
    for (size_t i = 0; i < app->worker_count; i++)
        if (app->workers[i].loop)
            loop_deliver(app->workers[i].loop);
    /* A count that was on its tour ends here, where main's loop and the admin front still are. */
    if (app->loop)
        loop_deliver(app->loop);
    for (size_t i = 0; i < app->worker_count; i++)
        http_front_freep(&app->workers[i].front);
    if (app->kafka)
        kafka_stop(app->kafka, 1000);
    for (size_t i = 0; i < app->worker_count; i++) {
        struct app_worker *worker = &app->workers[i];
        if (worker->loop)
            loop_deliver(worker->loop);
        exchange_worker_freep(&worker->exchange);
    }
    http_front_freep(&app->admin_front);
    kafka_freep(&app->kafka);
    for (size_t i = 0; i < app->worker_count; i++)
        loop_freep(&app->workers[i].loop);
    if (app->signal_io.fd > 0)
        close(app->signal_io.fd);
    loop_freep(&app->loop);
    free(app->workers);
    http_listener_freep(&app->listener);
    http_listener_freep(&app->admin_listener);
}

static void block_signals(void)
{
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGHUP);
    pthread_sigmask(SIG_BLOCK, &signals, NULL); /* before any thread: they inherit it */
    signal(SIGPIPE, SIG_IGN);
}

int app_serve(struct config *config, const char *config_file)
{
    struct app app = {.config_file = config_file};
    struct err err = {ERR_OK, ""};
    struct log_line line;
    block_signals();
    if (log_start(STDERR_FILENO, config->log_level) != ERR_OK) {
        fprintf(stderr, "syncgate: cannot start the log thread\n");
        config_freep(&config);
        return 1;
    }
    enum err_code code = app_load(&app, config, &err);
    if (code == ERR_OK)
        code = start(&app, &err);
    if (code == ERR_OK) {
        say_listening(&app);
        app.started_ns = app.phase_ns = loop_now_ns(app.loop);
        loop_run(app.loop, NULL);
        set_phase(&app, APP_STOPPED, "stopped");
    } else {
        log_begin(&line, LOG_FATAL, "cannot start");
        log_str(&line, "error", err.text);
        log_end(&line);
    }
    stop(&app);
    app_unload(&app);
    log_stop();
    return code == ERR_OK ? 0 : 1;
}
