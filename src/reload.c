/* SPDX-License-Identifier: Apache-2.0 */
/* Reloading: SIGHUP makes a new plan beside the one that runs.
 *   read and check everything -> wrong: log why, nothing has changed
 *   -> make its topics known to Kafka -> wait until they can be used, at most TOPICS_WAIT_NS
 *   -> tell every loop: calls that begin from now on use it
 * Calls under way keep the plan they began with; it goes with the last of them. */
#include <sys/stat.h>
#include <unistd.h>

#include "app.h"

#define TOPICS_WAIT_NS (5 * SG_NSEC_PER_SEC)

/* ---- to the loops ---- */

struct news {
    struct loop_msg msg;
    struct news *next; /* of those not posted yet */
    struct loop *loop;
    struct exchange_shared *shared;
    struct exchange_worker *worker;
    struct exchange_plan *plan; /* a reference; NULL: the plan stays */
    struct auth_keys *keys;     /* a reference; NULL: the keys stay */
};

/* Thread: the worker's loop. */
static void on_news(struct loop_msg *msg)
{
    struct news *news = SG_CONTAINER_OF(msg, struct news, msg);
    if (news->plan && exchange_worker_set_plan(news->worker, news->plan) != ERR_OK) {
        struct log_line line;
        log_begin(&line, LOG_ERROR, "a loop has no memory for the new configuration and keeps the old one");
        log_end(&line);
    }
    if (news->keys)
        exchange_worker_set_keys(news->worker, news->keys);
    exchange_plan_unrefp(news->shared, &news->plan);
    auth_keys_unrefp(&news->keys);
    free(news);
}

/* All or none: one message a loop, made before the first is sent. */
static bool tell_loops(struct app *app, struct exchange_plan *plan, struct auth_keys *keys)
{
    struct news *all = NULL;
    for (size_t i = 0; i < app->worker_count; i++) {
        struct news *news = malloc(sizeof(*news));
        if (!news) {
            while ((news = all)) {
                all = news->next;
                free(news);
            }
            return false;
        }
        *news = (struct news){
            .msg = {.on_msg = on_news},
            .next = all,
            .loop = app->workers[i].loop,
            .shared = &app->shared,
            .worker = app->workers[i].exchange,
            .plan = plan,
            .keys = keys,
        };
        all = news;
    }
    for (struct news *news; (news = all);) {
        all = news->next;
        if (plan)
            exchange_plan_ref(plan);
        if (keys)
            auth_keys_ref(keys);
        loop_post(news->loop, &news->msg);
    }
    return true;
}

/* ---- keys ---- */

int64_t app_keys_mtime_ns(const struct config *config)
{
    struct stat st;
    return config->auth_jwks && stat(config->auth_jwks, &st) == 0
               ? (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec
               : 0;
}

void app_reload_keys(struct app *app)
{
    int64_t now = app->keys ? app_keys_mtime_ns(app_config(app)) : 0;
    if (now == app->keys_mtime_ns || now == 0)
        return;
    app->keys_mtime_ns = now;
    struct err err = {ERR_OK, ""};
    struct log_line line;
    struct auth_keys *keys = app_load_keys(app_config(app), &err);
    bool told = keys && tell_loops(app, NULL, keys);
    log_begin(&line, told ? LOG_INFO : LOG_ERROR,
              told ? "keys reloaded" : "keys not reloaded, the old ones stay");
    log_str(&line, "file", app_config(app)->auth_jwks);
    log_str(&line, "error", told ? NULL : keys ? "out of memory" : err.text);
    log_end(&line);
    if (told) {
        auth_keys_unrefp(&app->keys);
        app->keys = keys;
    } else
        auth_keys_unrefp(&keys);
}

/* ---- the whole ---- */

static void say_failed(struct app *app, const char *why)
{
    struct log_line line;
    app->reloads_failed++;
    log_begin(&line, LOG_ERROR, "configuration not reloaded, the old one stays");
    log_str(&line, "error", why);
    log_end(&line);
}

void app_reload_drop(struct app *app)
{
    exchange_plan_unrefp(&app->shared, &app->next_plan);
    auth_keys_unrefp(&app->next_keys);
    buf_fini(&app->next_kept);
}

void app_reload(struct app *app)
{
    struct err err = {ERR_OK, ""};
    struct buf kept = BUF_INIT;
    if (app->phase >= APP_LEAVING) {
        say_failed(app, "the gateway is shutting down");
        return;
    }
    struct config *config = config_reload(app->config_file, environ, app_config(app), &kept, &err);
    struct exchange_plan *plan = config ? app_make_plan(app, config, &err) : NULL;
    int64_t keys_mtime_ns = plan ? app_keys_mtime_ns(plan->config) : 0; /* before they are read */
    struct auth_keys *keys = plan ? app_load_keys(plan->config, &err) : NULL;
    enum err_code code = plan && (keys || err.code == ERR_OK) ? ERR_OK : err.code;
    if (code == ERR_OK)
        code = exchange_plan_bind(&app->shared, plan);
    if (code == ERR_OVERLOADED)
        err_set(&err, code, "too many Kafka topics or reply headers since the start: restart the gateway");
    else if (code == ERR_NO_MEMORY)
        err_set(&err, code, "out of memory");
    if (code != ERR_OK) { /* nor does it change what an earlier one, that may still wait, has brought */
        say_failed(app, err.text);
        exchange_plan_unrefp(&app->shared, &plan);
        auth_keys_unrefp(&keys);
        buf_fini(&kept);
        return;
    }
    /* The earlier one waits no more: this one is newer. It waits no longer than that one would have. */
    uint64_t since_ns = app->next_plan ? app->next_since_ns : loop_now_ns(app->loop);
    app_reload_drop(app);
    app->next_plan = plan;
    app->next_keys = keys;
    app->next_keys_mtime_ns = keys_mtime_ns;
    app->next_kept = kept;
    app->next_since_ns = since_ns;
}

static bool has_command_topic(const struct exchange_plan *plan, uint32_t topic)
{
    for (size_t i = 0; i < plan->command_topic_count; i++)
        if (plan->command_topic_ids[i] == topic)
            return true;
    return false;
}

/* Whether every route that takes Kafka can, or could not before either. */
static bool topics_are_ready(const struct app *app)
{
    const struct exchange_plan *plan = app->next_plan;
    struct exchange_closed closed;
    if (!app->kafka || !kafka_is_reachable(app->kafka))
        return true;
    for (size_t i = 0; i < plan->routes->count; i++) {
        struct path_flag flag = exchange_route_flag(&plan->states[i]);
        if (path_flag_needs_kafka(&flag) &&
            exchange_route_closed(&app->shared, plan, &plan->routes->routes[i], &closed) &&
            !(closed.lacks_topic && has_command_topic(app->plan, plan->states[i].command_topic)))
            return false;
    }
    return true;
}

/* One line for each operation whose flag is another one now. */
static void log_changes(const struct exchange_plan *before, const struct exchange_plan *after)
{
    for (size_t i = 0; i < after->routes->count; i++) {
        for (size_t b = 0; b < before->routes->count; b++) {
            char from[PATH_FLAG_TEXT_LEN + 1], to[PATH_FLAG_TEXT_LEN + 1];
            struct path_flag old = exchange_route_flag(&before->states[b]);
            struct path_flag new = exchange_route_flag(&after->states[i]);
            if (before->states[b].operation != after->states[i].operation || path_flag_eq(&old, &new))
                continue;
            path_flag_format(&old, from);
            path_flag_format(&new, to);
            app_log_flag("reload", NULL, after->states[i].operation->name, from, to);
        }
    }
}

static void say_done(const struct app *app)
{
    struct log_line line;
    log_begin(&line, LOG_INFO, "configuration reloaded");
    log_u64(&line, "routes", app->plan->routes->count);
    log_end(&line);
    if (app->next_kept.len == 0)
        return;
    log_begin(&line, LOG_WARN, "settings that changed need a restart");
    log_span(&line, "settings", buf_span(&app->next_kept));
    log_end(&line);
}

bool app_reload_step(struct app *app)
{
    struct err err = {ERR_OK, ""};
    if (!app->next_plan)
        return false;
    if (!topics_are_ready(app) && loop_now_ns(app->loop) - app->next_since_ns < TOPICS_WAIT_NS)
        return true;
    /* Flags may have been set at the admin port since the plan was made. */
    if (app_flags_refresh(app, app->next_plan, &err) != ERR_OK ||
        !tell_loops(app, app->next_plan, app->next_keys)) {
        say_failed(app, err.code == ERR_OK ? "out of memory" : err.text);
        app_reload_drop(app);
        return false;
    }
    log_changes(app->plan, app->next_plan);
    exchange_plan_unrefp(&app->shared, &app->plan);
    app->plan = app->next_plan;
    app->next_plan = NULL;
    if (app->next_keys) {
        auth_keys_unrefp(&app->keys);
        app->keys = app->next_keys;
        app->next_keys = NULL;
    }
    app->keys_mtime_ns = app->next_keys_mtime_ns;
    log_set_level(app_config(app)->log_level);
    app->reloads_ok++;
    say_done(app);
    app_reload_drop(app);
    return false;
}
