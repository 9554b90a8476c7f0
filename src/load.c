/* SPDX-License-Identifier: Apache-2.0 */
/* Loading: routes, flags, keys, and the checks across settings that no single room can make. */
#include <stdio.h>
#include <sys/stat.h>

#include "app.h"

static const char *feature_value(const struct config *config, struct span operation, struct buf *name)
{
    buf_clear(name);
    config_operation_name(operation, name);
    for (size_t i = 0; i < config->feature_count; i++)
        if (span_eq(span_of(config->features[i].operation), buf_span(name)))
            return config->features[i].value;
    return NULL;
}

/* Every FEATURE_KAFKA_EVENTS_<OPERATION> must name a route. */
static enum err_code check_feature_names(const struct app *app, struct buf *name, struct err *err)
{
    for (size_t f = 0; f < app->config->feature_count; f++) {
        bool found = false;
        for (size_t i = 0; i < app->routes->count && !found; i++) {
            buf_clear(name);
            config_operation_name(app->routes->routes[i].operation_id, name);
            found = span_eq(buf_span(name), span_of(app->config->features[f].operation));
        }
        if (!found)
            return err_set(err, ERR_CONFIG,
                           "FEATURE_KAFKA_EVENTS_%s: no route has this operationId (see syncgate routes)",
                           app->config->features[f].operation);
    }
    return ERR_OK;
}

/* A flag's value, named where it was written: in the environment, which beats the file, or else in the file. */
static enum err_code parse_flag(const struct app *app, const char *variable, const char *value,
                                enum path_mode *ret_mode, struct err *err)
{
    char where[400];
    if (getenv(variable) || !app->config_file)
        snprintf(where, sizeof(where), "%s", variable);
    else
        snprintf(where, sizeof(where), "%s: $.feature (%s)", app->config_file, variable);
    return path_mode_parse(span_of(value), where, ret_mode, err);
}

static enum err_code parse_modes(const struct app *app, enum path_mode *modes, struct err *err)
{
    enum path_mode common = PATH_MODE_LEGACY;
    struct buf name = BUF_INIT;
    enum err_code code =
        parse_flag(app, "FEATURE_KAFKA_EVENTS", app->config->feature_kafka_events, &common, err);
    for (size_t i = 0; code == ERR_OK && i < app->routes->count; i++) {
        const char *value = feature_value(app->config, app->routes->routes[i].operation_id, &name);
        char variable[160];
        snprintf(variable, sizeof(variable), "FEATURE_KAFKA_EVENTS_%.*s", (int)name.len,
                 name.ptr ? name.ptr : "");
        modes[i] = common;
        if (value)
            code = parse_flag(app, variable, value, &modes[i], err);
    }
    if (code == ERR_OK)
        code = check_feature_names(app, &name, err);
    buf_fini(&name);
    return code;
}

struct needs {
    bool kafka, legacy, keys;
    const struct route *legacy_for, *keys_for, *kafka_for;
};

static struct needs needs_of(const struct app *app)
{
    struct needs needs = {0};
    for (size_t i = 0; i < app->routes->count; i++) {
        const struct route *route = &app->routes->routes[i];
        enum path_mode mode = app->shared.route_states[i].mode;
        if (mode != PATH_MODE_ONLY && !needs.legacy) {
            needs.legacy = true;
            needs.legacy_for = route;
        }
        if (mode != PATH_MODE_LEGACY && !needs.kafka) {
            needs.kafka = true;
            needs.kafka_for = route;
        }
        if (mode != PATH_MODE_LEGACY && route->auth_required && !needs.keys) {
            needs.keys = true;
            needs.keys_for = route;
        }
    }
    return needs;
}

static enum err_code check_needs(const struct app *app, const struct needs *needs, struct err *err)
{
    const struct config *config = app->config;
    if (needs->kafka && !config->kafka_brokers)
        return err_set(err, ERR_CONFIG,
                       "KAFKA_BROKERS is not set, but route %.*s takes the Kafka path: expected a list of "
                       "host:port, or embedded",
                       (int)needs->kafka_for->operation_id.len, needs->kafka_for->operation_id.ptr);
    if (needs->legacy && !config->legacy_url)
        return err_set(
            err, ERR_CONFIG,
            "LEGACY_URL is not set, but route %.*s may take the legacy path: set it, or the flag to only",
            (int)needs->legacy_for->operation_id.len, needs->legacy_for->operation_id.ptr);
    if (!needs->kafka && !config->legacy_url)
        return err_set(err, ERR_CONFIG,
                       "LEGACY_URL is not set, and no route takes the Kafka path: nothing could be served");
    if (needs->keys && !config->auth_jwks && !config->auth_hs256_secret && !config->auth_public_key)
        return err_set(err, ERR_CONFIG,
                       "no key for tokens, but route %.*s needs one: set AUTH_JWKS, AUTH_PUBLIC_KEY or "
                       "AUTH_HS256_SECRET",
                       (int)needs->keys_for->operation_id.len, needs->keys_for->operation_id.ptr);
    if (config->legacy_url && !legacy_url_check(config->legacy_url, err))
        return ERR_CONFIG;
    return ERR_OK;
}

/* No zombie commands: a message that librdkafka still holds must be given up before its request is. */
static enum err_code check_timeouts(const struct app *app, struct err *err)
{
    for (size_t i = 0; i < app->routes->count; i++) {
        const struct route *route = &app->routes->routes[i];
        if (app->shared.route_states[i].mode != PATH_MODE_LEGACY &&
            route->timeout_ms <= app->config->kafka_message_timeout_ms + 1000)
            return err_set(err, ERR_CONFIG,
                           "%s: $.timeoutMs: %u is too short: it must exceed KAFKA_MESSAGE_TIMEOUT (%u ms) "
                           "by more than 1000 ms",
                           route->file, route->timeout_ms, app->config->kafka_message_timeout_ms);
    }
    return ERR_OK;
}

/* ---- keys ---- */

static int64_t mtime_ns(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 ? (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec : 0;
}

static struct auth_keys *load_keys(const struct config *config, struct err *err)
{
    const struct auth_settings settings = {
        .jwks_path = config->auth_jwks,
        .hs256_secret = config->auth_hs256_secret,
        .public_key_path = config->auth_public_key,
        .issuer = config->auth_issuer,
        .audience = config->auth_audience,
        .algorithms = config->auth_algorithms,
        .require_exp = config->auth_require_exp,
    };
    if (config->auth_jwks &&
        (strncmp(config->auth_jwks, "http://", 7) == 0 || strncmp(config->auth_jwks, "https://", 8) == 0)) {
        err_set(err, ERR_CONFIG,
                "AUTH_JWKS: a URL is not supported by this version: expected the path of a JWK Set file");
        return NULL;
    }
    return auth_keys_load(&settings, err);
}

struct new_keys {
    struct loop_msg msg;
    struct exchange_worker *worker;
    struct auth_keys *keys; /* a reference */
};

/* Thread: the worker's loop. */
static void on_new_keys(struct loop_msg *msg)
{
    struct new_keys *news = SG_CONTAINER_OF(msg, struct new_keys, msg);
    exchange_worker_set_keys(news->worker, news->keys);
    auth_keys_unrefp(&news->keys);
    free(news);
}

void app_reload_keys(struct app *app)
{
    const char *path = app->config->auth_jwks;
    int64_t now = path && app->keys ? mtime_ns(path) : app->keys_mtime_ns;
    if (now == app->keys_mtime_ns || now == 0)
        return;
    app->keys_mtime_ns = now;
    struct err err;
    struct log_line line;
    struct auth_keys *keys = load_keys(app->config, &err);
    log_begin(&line, keys ? LOG_INFO : LOG_ERROR,
              keys ? "keys reloaded" : "keys not reloaded, the old ones stay");
    log_str(&line, "file", path);
    log_str(&line, "error", keys ? NULL : err.text);
    log_end(&line);
    if (!keys)
        return;
    for (size_t i = 0; i < app->worker_count; i++) {
        struct new_keys *news = malloc(sizeof(*news));
        if (!news)
            continue; /* this loop keeps the old keys until the file changes again */
        *news = (struct new_keys){{.on_msg = on_new_keys}, app->workers[i].exchange, auth_keys_ref(keys)};
        loop_post(app->workers[i].loop, &news->msg);
    }
    auth_keys_unrefp(&app->keys);
    app->keys = keys;
}

/* ---- all of it ---- */

static bool trusts(const void *arg, const struct sockaddr *peer)
{
    return config_trusts(arg, peer);
}

static enum err_code load_shared(struct app *app, struct needs *ret_needs, struct err *err)
{
    const struct config *config = app->config;
    enum path_mode *modes = calloc(app->routes->count + 1, sizeof(*modes));
    enum err_code code = modes ? parse_modes(app, modes, err) : err_set(err, ERR_NO_MEMORY, "out of memory");
    if (code == ERR_OK && exchange_shared_init(&app->shared, app->routes, modes) != ERR_OK)
        code = err_set(err, ERR_NO_MEMORY, "out of memory");
    free(modes);
    if (code != ERR_OK)
        return code;
    *ret_needs = needs_of(app);
    app->shared.trusts = trusts;
    app->shared.trusts_arg = config;
    app->shared.auth_cache_max = config->auth_cache_size;
    app->shared.has_legacy = config->legacy_url != NULL;
    app->shared.legacy = (struct legacy_settings){
        .url = config->legacy_url,
        .connect_timeout_ms = config->legacy_connect_timeout_ms,
        .timeout_ms = config->legacy_timeout_ms,
        .retries = config->legacy_retries,
        .retry_backoff_ms = config->legacy_retry_backoff_ms,
    };
    return ERR_OK;
}

enum err_code app_load(struct app *app, struct err *err)
{
    struct needs needs = {0};
    app->routes = route_table_load(app->config->routes, app->config->openapi, err);
    if (!app->routes)
        return ERR_CONFIG;
    enum err_code code = load_shared(app, &needs, err);
    if (code == ERR_OK)
        code = check_needs(app, &needs, err);
    if (code == ERR_OK)
        code = check_timeouts(app, err);
    if (code != ERR_OK ||
        !(app->config->auth_jwks || app->config->auth_hs256_secret || app->config->auth_public_key))
        return code;
    app->keys_mtime_ns = app->config->auth_jwks ? mtime_ns(app->config->auth_jwks) : 0;
    app->keys = load_keys(app->config, err);
    app->shared.auth_keys = app->keys;
    return app->keys ? ERR_OK : ERR_CONFIG;
}

void app_unload(struct app *app)
{
    exchange_shared_fini(&app->shared);
    auth_keys_unrefp(&app->keys);
    route_table_freep(&app->routes);
}
