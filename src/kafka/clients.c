/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <sys/eventfd.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "internal.h"

/* ---- callbacks of librdkafka ---- */

static enum log_level level_of(int syslog_level)
{
    return syslog_level <= 3   ? LOG_ERROR
           : syslog_level <= 4 ? LOG_WARN
           : syslog_level <= 6 ? LOG_INFO
                               : LOG_DEBUG;
}

/* A leader that steps down while it waits for its replicas answers "not leader" for commands that they may have. librdkafka takes
 * these for not written, puts them back, and reports them as not persisted if it cannot send them again in time. It says
 * so nowhere but in this line of its context `topic`, before it puts them back. What it says of a broken connection is passed
 * over: those messages it reports as possibly persisted itself. Any other wording errs on the safe side. */
static bool is_refusal(const rd_kafka_t *rk, const char *facility, const char *text)
{
    return rk && strcmp(facility, "BROKERUA") == 0 && rd_kafka_type(rk) == RD_KAFKA_PRODUCER &&
           !strstr(text, rd_kafka_err2str(RD_KAFKA_RESP_ERR__TRANSPORT));
}

/* Thread: librdkafka's. */
void kafka_on_log(const rd_kafka_t *rk, int level, const char *facility, const char *text)
{
    struct log_line line;
    if (is_refusal(rk, facility, text)) {
        struct kafka *kafka = rd_kafka_opaque(rk);
        atomic_store_explicit(&kafka->refused_ns, clock_mono_ns(), memory_order_release);
    }
    /* Connection trouble is told once by on_error(); librdkafka repeats it for each broker and attempt. */
    enum log_level mapped = level_of(level);
    if (mapped > LOG_INFO && strcmp(facility, "FAIL") == 0)
        mapped = LOG_INFO;
    /* Every property is given to both clients; that one of them has no use for it is no news. */
    if (strcmp(facility, "CONFWARN") == 0)
        mapped = LOG_DEBUG;
    log_begin(&line, mapped, "librdkafka");
    log_str(&line, "client", rk ? rd_kafka_name(rk) : NULL);
    log_str(&line, "facility", facility);
    log_str(&line, "text", text);
    log_end(&line);
}

/* kafka->reach: whether a broker can be reached, and above it how often all were down. librdkafka says once that all are down.
 * An answer that was on its way when it said so must not hide that for ever, so who asked before is not heard. */
#define REACHABLE 1u
#define ONE_DOWN  2u

static void log_reachable(bool reachable, const char *why)
{
    struct log_line line;
    log_begin(&line, reachable ? LOG_INFO : LOG_ERROR,
              reachable ? "kafka reachable again" : "kafka unreachable");
    log_str(&line, "reason", why);
    log_end(&line);
}

static void all_down(struct kafka *kafka, const char *why)
{
    uint64_t old = atomic_load_explicit(&kafka->reach, memory_order_relaxed);
    while (!atomic_compare_exchange_weak_explicit(&kafka->reach, &old,
                                                  (old | REACHABLE) - REACHABLE + ONE_DOWN,
                                                  memory_order_acq_rel, memory_order_relaxed))
        ;
    if (!(old & REACHABLE))
        return;
    log_reachable(false, why);
    kafka_watcher_wake(kafka);
}

void kafka_answered(struct kafka *kafka, uint64_t reach_when_asked)
{
    if (!(reach_when_asked & REACHABLE) && atomic_compare_exchange_strong_explicit(
                                               &kafka->reach, &reach_when_asked, reach_when_asked | REACHABLE,
                                               memory_order_acq_rel, memory_order_relaxed))
        log_reachable(true, "metadata received");
}

/* Thread: replies or the one that flushes. */
static void on_error(rd_kafka_t *rk, int code, const char *reason, void *opaque)
{
    struct kafka *kafka = opaque;
    bool producer = rd_kafka_type(rk) == RD_KAFKA_PRODUCER;
    if (code == RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN && producer) {
        all_down(kafka, reason);
        return;
    }
    if (code == RD_KAFKA_RESP_ERR__FATAL && producer) {
        kafka_producer_failed(kafka, rk);
        return;
    }
    struct log_line line;
    log_begin(&line,
              code == RD_KAFKA_RESP_ERR__TRANSPORT || code == RD_KAFKA_RESP_ERR__RESOLVE ? LOG_INFO
                                                                                         : LOG_WARN,
              "kafka client error");
    log_str(&line, "client", rd_kafka_name(rk));
    log_str(&line, "code", rd_kafka_err2name((rd_kafka_resp_err_t)code));
    log_str(&line, "text", reason);
    log_end(&line);
}

/* ---- configuration ---- */

struct defaults {
    const char *name, *value;
};

static const struct defaults common_defaults[] = {
    {"socket.connection.setup.timeout.ms", "10000"},
    {"client.id", "syncgate"},
    {"socket.nagle.disable", "true"},
    {"socket.keepalive.enable", "true"},
    {"reconnect.backoff.ms", "50"},
    {"reconnect.backoff.max.ms", "1000"},
    {"log.connection.close", "false"},
};
static const struct defaults producer_defaults[] = {
    {"acks", "all"},
    {"linger.ms", "0"},
    /* Without a limit every command is a request of its own and a busy broker drowns in them. With two, the commands that
     * come while it works leave together: nothing waits on an idle broker, and a busy one gets batches. Measured: three times
     * the throughput, half the CPU time and a third of the latency at 64 connections (docs/performance.md). */
    {"max.in.flight.requests.per.connection", "2"},
    {"partitioner", "murmur2_random"}, /* the partition that Java and kafkajs choose for a key */
    {"queue.buffering.max.messages", "100000"},
    {"queue.buffering.max.kbytes", "65536"},
};
/* Safety first (design.md section 5): with retries=0 librdkafka repeats only what certainly was not written. An idempotent
 * producer refuses retries=0, and needs none: the broker drops what it has. It chooses its own retries. */
static const struct defaults plain_producer_defaults[] = {
    {"enable.idempotence", "false"},
    {"retries", "0"},
};
static const struct defaults consumer_defaults[] = {
    {"group.id", "syncgate-assigns-partitions-itself"}, /* assign() asks for one; nothing is ever committed */
    {"enable.auto.commit", "false"},
    {"enable.auto.offset.store", "false"},
    {"auto.offset.reset", "error"}, /* we count it, then go to the earliest record ourselves */
    {"fetch.error.backoff.ms", "100"},
    /* A Fetch whose broker fell silent (no reset: a host that lost power) is given up after this + fetch.wait.max.ms.
     * librdkafka's 60 s are many route timeouts; the partition has another leader long before. */
    {"socket.timeout.ms", "10000"},
    {"queued.min.messages", "10000"},
};

static enum err_code set_one(rd_kafka_conf_t *conf, const char *name, const char *value, struct err *err)
{
    char text[256];
    if (rd_kafka_conf_set(conf, name, value, text, sizeof(text)) == RD_KAFKA_CONF_OK)
        return ERR_OK;
    return err_set(err, ERR_CONFIG, "kafka property %s: %s", name, text);
}

static enum err_code set_all(rd_kafka_conf_t *conf, const struct defaults *defaults, size_t count,
                             struct err *err)
{
    for (size_t i = 0; i < count; i++)
        if (set_one(conf, defaults[i].name, defaults[i].value, err) != ERR_OK)
            return ERR_CONFIG;
    return ERR_OK;
}

/* Adds the context that is_refusal() needs to those that the operator asked for. */
static enum err_code enable_refusals(rd_kafka_conf_t *conf, struct err *err)
{
    char asked[480], contexts[512];
    size_t size = sizeof(asked);
    if (rd_kafka_conf_get(conf, "debug", asked, &size) != RD_KAFKA_CONF_OK)
        *asked = '\0';
    snprintf(contexts, sizeof(contexts), "topic%s%s", *asked ? "," : "", asked);
    return set_one(conf, "debug", contexts, err);
}

static bool is_idempotent(const struct kafka_settings *settings)
{
    bool idempotent = false;
    for (size_t i = 0; i < settings->property_count; i++)
        if (strcmp(settings->properties[i].name, "enable.idempotence") == 0)
            idempotent = strcmp(settings->properties[i].value, "true") == 0;
    return idempotent;
}

static enum err_code configure(struct kafka *kafka, rd_kafka_conf_t *conf, rd_kafka_type_t type,
                               const struct kafka_settings *settings, struct err *err)
{
    char timeout[16];
    snprintf(timeout, sizeof(timeout), "%u", settings->message_timeout_ms);
    bool producer = type == RD_KAFKA_PRODUCER;
    if (set_all(conf, common_defaults, SG_ARRAY_LEN(common_defaults), err) != ERR_OK ||
        set_one(conf, "bootstrap.servers", kafka->bootstrap ? kafka->bootstrap : settings->brokers, err) !=
            ERR_OK)
        return ERR_CONFIG;
    if (producer && !is_idempotent(settings) &&
        set_all(conf, plain_producer_defaults, SG_ARRAY_LEN(plain_producer_defaults), err) != ERR_OK)
        return ERR_CONFIG;
    if (producer && (set_all(conf, producer_defaults, SG_ARRAY_LEN(producer_defaults), err) != ERR_OK ||
                     set_one(conf, "message.timeout.ms", timeout, err) != ERR_OK))
        return ERR_CONFIG;
    if (!producer && set_all(conf, consumer_defaults, SG_ARRAY_LEN(consumer_defaults), err) != ERR_OK)
        return ERR_CONFIG;
    /* The mock broker answers an empty fetch only after the whole wait, and makes the topics that it is asked for. */
    if (!producer && settings->embedded &&
        (set_one(conf, "fetch.wait.max.ms", "2", err) != ERR_OK ||
         set_one(conf, "allow.auto.create.topics", "true", err) != ERR_OK))
        return ERR_CONFIG;
    for (size_t i = 0; i < settings->property_count; i++)
        if (set_one(conf, settings->properties[i].name, settings->properties[i].value, err) != ERR_OK)
            return ERR_CONFIG;
    if (producer && enable_refusals(conf, err) != ERR_OK)
        return ERR_CONFIG;
    rd_kafka_conf_set_opaque(conf, kafka);
    rd_kafka_conf_set_log_cb(conf, kafka_on_log);
    rd_kafka_conf_set_error_cb(conf, on_error);
    if (producer)
        rd_kafka_conf_set_dr_msg_cb(conf, kafka_on_delivery);
    return ERR_OK;
}

static enum err_code clients_new(struct kafka *kafka, const struct kafka_settings *settings, struct err *err)
{
    kafka->producer_conf = rd_kafka_conf_new();
    if (configure(kafka, kafka->producer_conf, RD_KAFKA_PRODUCER, settings, err) != ERR_OK ||
        kafka_producer_start(kafka, err) != ERR_OK)
        return ERR_CONFIG;
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    char text[256];
    if (configure(kafka, conf, RD_KAFKA_CONSUMER, settings, err) == ERR_OK) {
        kafka->consumer = rd_kafka_new(RD_KAFKA_CONSUMER, conf, text, sizeof(text));
        if (kafka->consumer)
            return ERR_OK;
        err_set(err, ERR_CONFIG, "cannot create the kafka consumer: %s", text);
    }
    rd_kafka_conf_destroy(conf);
    return ERR_CONFIG;
}

/* ---- life ---- */

static enum err_code loops_new(struct kafka *kafka, const struct kafka_settings *settings, struct err *err)
{
    kafka->outboxes = calloc(settings->loop_count, sizeof(*kafka->outboxes));
    kafka->loops = calloc(settings->loop_count, sizeof(struct loop *));
    kafka->loop_args = calloc(settings->loop_count, sizeof(void *));
    if (!kafka->outboxes || !kafka->loops || !kafka->loop_args)
        return err_set(err, ERR_NO_MEMORY, "out of memory for the kafka clients");
    memcpy(kafka->loops, settings->loops, settings->loop_count * sizeof(struct loop *));
    memcpy(kafka->loop_args, settings->loop_args, settings->loop_count * sizeof(void *));
    kafka->loop_count = settings->loop_count;
    return ERR_OK;
}

static enum err_code names_new(struct kafka_names *names, const struct span *given, size_t count,
                               struct err *err)
{
    uint32_t index[KAFKA_TOPICS_MAX];
    if (count > KAFKA_TOPICS_MAX)
        return err_set(err, ERR_CONFIG, "%zu kafka topics of one kind, more than %d", count,
                       KAFKA_TOPICS_MAX);
    if (kafka_names_add(names, given, count, index) != ERR_OK)
        return err_set(err, ERR_NO_MEMORY, "out of memory for the kafka topics");
    SG_ASSERT(kafka_names_count(names) == count); /* none twice: the indexes are the caller's */
    return ERR_OK;
}

static enum err_code topics_new(struct kafka *kafka, const struct kafka_settings *settings, struct err *err)
{
    if (settings->own_topic.ptr && !(kafka->own_topic = span_dup(settings->own_topic)))
        return err_set(err, ERR_NO_MEMORY, "out of memory for the kafka topics");
    kafka->own_partition = settings->own_partition;
    enum err_code code =
        names_new(&kafka->reply_topics, settings->reply_topics, settings->reply_topic_count, err);
    if (code == ERR_OK)
        code =
            names_new(&kafka->command_topics, settings->command_topics, settings->command_topic_count, err);
    return code;
}

void kafka_signal_queue(rd_kafka_queue_t *queue, int fd)
{
    const uint64_t one = 1;
    rd_kafka_queue_io_event_enable(queue, fd, &one, sizeof(one));
}

static enum err_code descriptors_new(struct kafka *kafka, struct err *err)
{
    int *const fds[] = {&kafka->reply_fd, &kafka->delivery_fd, &kafka->stop_fd};
    kafka->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    for (size_t i = 0; i < SG_ARRAY_LEN(fds); i++) {
        *fds[i] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
        struct epoll_event event = {.events = EPOLLIN, .data.fd = *fds[i]};
        if (kafka->epoll_fd < 0 || *fds[i] < 0 ||
            epoll_ctl(kafka->epoll_fd, EPOLL_CTL_ADD, *fds[i], &event) != 0)
            return err_set(err, ERR_INTERNAL, "cannot watch the kafka queues: %s", strerror(errno));
    }
    return ERR_OK;
}

struct kafka *kafka_new(const struct kafka_settings *settings, struct err *err)
{
    _Static_assert(sizeof(void *) >= sizeof(uint64_t), "a handle travels in a message opaque");
    struct kafka *kafka = calloc(1, sizeof(*kafka));
    if (!kafka) {
        err_set(err, ERR_NO_MEMORY, "out of memory for the kafka clients");
        return NULL;
    }
    kafka->handler = settings->handler;
    kafka->reply_fd = kafka->delivery_fd = kafka->stop_fd = kafka->epoll_fd = -1;
    atomic_init(&kafka->reach, REACHABLE);
    pthread_mutex_init(&kafka->producer_mtx, NULL);
    pthread_mutex_init(&kafka->watcher_mtx, NULL);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&kafka->watcher_cond, &attr);
    pthread_condattr_destroy(&attr);
    if (loops_new(kafka, settings, err) != ERR_OK || topics_new(kafka, settings, err) != ERR_OK ||
        descriptors_new(kafka, err) != ERR_OK ||
        (settings->embedded && kafka_embedded_start(kafka, err) != ERR_OK) ||
        clients_new(kafka, settings, err) != ERR_OK) {
        kafka_freep(&kafka);
        return NULL;
    }
    rd_kafka_poll_set_consumer(kafka->consumer);
    kafka->reply_queue = rd_kafka_queue_get_consumer(kafka->consumer);
    kafka_signal_queue(kafka->reply_queue, kafka->reply_fd);
    return kafka;
}

enum err_code kafka_start(struct kafka *kafka)
{
    kafka->reader_started = pthread_create(&kafka->reader, NULL, kafka_reader_main, kafka) == 0;
    kafka->watcher_started = pthread_create(&kafka->watcher, NULL, kafka_watcher_main, kafka) == 0;
    return kafka->reader_started && kafka->watcher_started ? ERR_OK : ERR_INTERNAL;
}

void kafka_stop(struct kafka *kafka, uint32_t flush_ms)
{
    atomic_store(&kafka->stopping, true);
    const uint64_t one = 1;
    if (write(kafka->stop_fd, &one, sizeof(one)) < 0)
        SG_ASSERT(errno == EAGAIN);
    kafka_watcher_wake(kafka);
    if (kafka->reader_started)
        pthread_join(kafka->reader, NULL);
    if (kafka->watcher_started)
        pthread_join(kafka->watcher, NULL);
    kafka->reader_started = kafka->watcher_started = false;
    kafka_producer_stop(kafka, flush_ms);
    kafka_reader_post_all(kafka);
}

void kafka_freep(struct kafka **kafka_ptr)
{
    struct kafka *kafka = *kafka_ptr;
    if (!kafka)
        return;
    *kafka_ptr = NULL;
    SG_ASSERT(!kafka->reader_started && !kafka->watcher_started);
    if (kafka->reply_queue)
        rd_kafka_queue_destroy(kafka->reply_queue);
    for (size_t i = 0; i < KAFKA_TOPICS_MAX; i++)
        if (kafka->topics[i].handle)
            rd_kafka_topic_destroy(kafka->topics[i].handle);
    if (kafka->consumer) {
        rd_kafka_assign(kafka->consumer, NULL);
        rd_kafka_destroy_flags(kafka->consumer, RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);
    }
    kafka_producer_free_all(kafka);
    if (kafka->producer_conf)
        rd_kafka_conf_destroy(kafka->producer_conf);
    kafka_embedded_stop(kafka);
    const int fds[] = {kafka->reply_fd, kafka->delivery_fd, kafka->stop_fd, kafka->epoll_fd};
    for (size_t i = 0; i < SG_ARRAY_LEN(fds); i++)
        if (fds[i] >= 0)
            close(fds[i]);
    kafka_names_fini(&kafka->reply_topics);
    kafka_names_fini(&kafka->command_topics);
    for (size_t i = 0; kafka->outboxes && i < kafka->loop_count; i++)
        free(atomic_load(&kafka->outboxes[i].spare));
    free(kafka->outboxes);
    free(kafka->loops);
    free(kafka->loop_args);
    free(kafka->bootstrap);
    free(kafka->own_topic);
    pthread_cond_destroy(&kafka->watcher_cond);
    pthread_mutex_destroy(&kafka->watcher_mtx);
    pthread_mutex_destroy(&kafka->producer_mtx);
    free(kafka);
}

/* ---- commands ---- */

#define HEADERS_MAX 16

enum err_code kafka_translate_produce(rd_kafka_resp_err_t code)
{
    switch (code) {
    case RD_KAFKA_RESP_ERR__QUEUE_FULL:
        return ERR_KAFKA_QUEUE_FULL;
    case RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE:
        return ERR_KAFKA_TOO_LARGE;
    default:
        return kafka_is_of_topic(code) ? ERR_KAFKA_TOPIC : ERR_KAFKA_UNAVAILABLE;
    }
}

enum err_code kafka_produce(struct kafka *kafka, const struct kafka_command *command)
{
    SG_ASSERT(command->header_count <= HEADERS_MAX);
    if (!kafka_command_topic_is_ready(kafka, command->topic))
        return ERR_KAFKA_TOPIC;
    rd_kafka_headers_t *headers = rd_kafka_headers_new(command->header_count);
    for (size_t i = 0; i < command->header_count; i++) {
        const struct kafka_header *header = &command->headers[i];
        rd_kafka_header_add(headers, header->name, -1, header->value.ptr, (ssize_t)header->value.len);
    }
    rd_kafka_vu_t vus[] = {
        {.vtype = RD_KAFKA_VTYPE_RKT}, /* filled by kafka_producer_send() */
        {.vtype = RD_KAFKA_VTYPE_MSGFLAGS, .u.i = RD_KAFKA_MSG_F_COPY},
        {.vtype = RD_KAFKA_VTYPE_VALUE, .u.mem = {(void *)(uintptr_t)command->value.ptr, command->value.len}},
        {.vtype = RD_KAFKA_VTYPE_KEY, .u.mem = {(void *)(uintptr_t)command->key.ptr, command->key.len}},
        {.vtype = RD_KAFKA_VTYPE_OPAQUE, .u.ptr = (void *)(uintptr_t)command->handle},
        {.vtype = RD_KAFKA_VTYPE_HEADERS, .u.headers = headers},
    };
    rd_kafka_error_t *error = kafka_producer_send(kafka, command->topic, vus, SG_ARRAY_LEN(vus));
    if (!error)
        return ERR_OK; /* the headers are librdkafka's now */
    enum err_code code = kafka_translate_produce(rd_kafka_error_code(error));
    rd_kafka_error_destroy(error);
    rd_kafka_headers_destroy(headers);
    return code;
}

/* ---- state ---- */

bool kafka_topic_has_position(const struct kafka *kafka, uint32_t reply_topic)
{
    SG_ASSERT(reply_topic < kafka_names_count(&kafka->reply_topics));
    return atomic_load_explicit(&kafka->topics[reply_topic].has_position, memory_order_acquire);
}

bool kafka_command_topic_is_missing(const struct kafka *kafka, uint32_t command_topic)
{
    const struct kafka_command_state *state = &kafka->commands[command_topic];
    return atomic_load_explicit(&state->missing, memory_order_relaxed) &&
           !kafka_command_topic_is_ready(kafka, command_topic);
}

bool kafka_command_topic_is_ready(const struct kafka *kafka, uint32_t command_topic)
{
    SG_ASSERT(command_topic < kafka_names_count(&kafka->command_topics));
    return atomic_load_explicit(&kafka->commands[command_topic].ready, memory_order_acquire);
}

bool kafka_is_reachable(const struct kafka *kafka)
{
    return atomic_load_explicit(&kafka->reach, memory_order_acquire) & REACHABLE;
}

struct kafka_stats kafka_stats(const struct kafka *kafka)
{
    return (struct kafka_stats){
        .records = atomic_load_explicit(&kafka->records, memory_order_relaxed),
        .delivered = atomic_load_explicit(&kafka->delivered, memory_order_relaxed),
        .not_persisted = atomic_load_explicit(&kafka->not_persisted, memory_order_relaxed),
        .uncertain = atomic_load_explicit(&kafka->uncertain, memory_order_relaxed),
        .forwarded = atomic_load_explicit(&kafka->forwarded, memory_order_relaxed),
        .forward_failures = atomic_load_explicit(&kafka->forward_failures, memory_order_relaxed),
        .offset_resets = atomic_load_explicit(&kafka->offset_resets, memory_order_relaxed),
        .partitions = atomic_load_explicit(&kafka->partitions, memory_order_relaxed),
        .fatal_errors = atomic_load_explicit(&kafka->fatal_errors, memory_order_relaxed),
        .queue_len = kafka_producer_queue_len((struct kafka *)(uintptr_t)kafka), /* takes its lock */
    };
}
