/* SPDX-License-Identifier: Apache-2.0 */
/* Loading: routes, flags, keys, and the checks across settings that no single room can make. */
#include "app.h"

struct needs {
    bool kafka, legacy, keys;
    const struct route *legacy_for, *keys_for, *kafka_for;
};

static struct needs needs_of(const struct route_table *routes, const struct path_flag *flags)
{
    struct needs needs = {0};
    for (size_t i = 0; i < routes->count; i++) {
        const struct route *route = &routes->routes[i];
        bool kafka = path_flag_needs_kafka(&flags[i]);
        if (path_flag_has_legacy(&flags[i]) && !needs.legacy) {
            needs.legacy = true;
            needs.legacy_for = route;
        }
        if (kafka && !needs.kafka) {
            needs.kafka = true;
            needs.kafka_for = route;
        }
        if (kafka && route->auth_required && !needs.keys) {
            needs.keys = true;
            needs.keys_for = route;
        }
    }
    return needs;
}

static enum err_code check_needs(const struct config *config, const struct needs *needs, struct err *err)
{
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
    if (needs->kafka && config->body_memory < config->body_limit) /* it would be refused for ever */
        return err_set(err, ERR_CONFIG,
                       "SYNCGATE_BODY_MEMORY: %u bytes have no room for one body of SYNCGATE_BODY_LIMIT, %u "
                       "bytes: expected at least that",
                       config->body_memory, config->body_limit);
    if (config->legacy_url && !legacy_url_check(config->legacy_url, err))
        return ERR_CONFIG;
    return ERR_OK;
}

/* No zombie commands: a message that librdkafka still holds must be given up before its request is. */
static enum err_code check_timeouts(const struct config *config, const struct route_table *routes,
                                    const struct path_flag *flags, struct err *err)
{
    for (size_t i = 0; i < routes->count; i++) {
        const struct route *route = &routes->routes[i];
        if (path_flag_needs_kafka(&flags[i]) && route->timeout_ms <= config->kafka_message_timeout_ms + 1000)
            return err_set(err, ERR_CONFIG,
                           "%s: $.timeoutMs: %u is too short: it must exceed KAFKA_MESSAGE_TIMEOUT (%u ms) "
                           "by more than 1000 ms",
                           route->file, route->timeout_ms, config->kafka_message_timeout_ms);
    }
    return ERR_OK;
}

/* What is written there must not be read as a reply, nor as a command. */
static enum err_code check_dead_letters(const struct config *config, const struct route_table *routes,
                                        struct err *err)
{
    const char *topic = config->dead_letter_topic;
    if (topic && config->reply_topic && strcmp(topic, config->reply_topic) == 0)
        return err_set(err, ERR_CONFIG,
                       "SYNCGATE_DEAD_LETTER_TOPIC: %s is SYNCGATE_REPLY_TOPIC: expected a topic of its own",
                       topic);
    for (size_t i = 0; topic && i < routes->count; i++) {
        const struct route *route = &routes->routes[i];
        bool taken = span_eq(route->command.topic, span_of(topic));
        for (size_t t = 0; t < route->reply_topic_count; t++)
            taken |= span_eq(routes->reply_topics[route->reply_topics[t]], span_of(topic));
        if (taken)
            return err_set(
                err, ERR_CONFIG,
                "SYNCGATE_DEAD_LETTER_TOPIC: %s has commands or replies of %s: expected a topic of "
                "its own",
                topic, route->file);
    }
    return ERR_OK;
}

/* The instance would read its own commands. */
static enum err_code check_reply_topic(const struct config *config, const struct route_table *routes,
                                       struct err *err)
{
    for (size_t i = 0; config->reply_topic && i < routes->count; i++)
        if (span_eq(routes->routes[i].command.topic, span_of(config->reply_topic)))
            return err_set(err, ERR_CONFIG,
                           "SYNCGATE_REPLY_TOPIC: %s has commands of %s: expected a topic of replies",
                           config->reply_topic, routes->routes[i].file);
    return ERR_OK;
}

enum err_code app_check(const struct config *config, const struct route_table *routes,
                        const struct path_flag *flags, struct err *err)
{
    struct needs needs = needs_of(routes, flags);
    enum err_code code = check_needs(config, &needs, err);
    if (code == ERR_OK)
        code = check_dead_letters(config, routes, err);
    if (code == ERR_OK)
        code = check_reply_topic(config, routes, err);
    return code == ERR_OK ? check_timeouts(config, routes, flags, err) : code;
}

/* ---- keys ---- */

struct auth_keys *app_load_keys(const struct config *config, struct err *err)
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
    err->code = ERR_OK;
    if (!config->auth_jwks && !config->auth_hs256_secret && !config->auth_public_key)
        return NULL;
    if (config->auth_jwks &&
        (strncmp(config->auth_jwks, "http://", 7) == 0 || strncmp(config->auth_jwks, "https://", 8) == 0)) {
        err_set(err, ERR_CONFIG,
                "AUTH_JWKS: a URL is not supported by this version: expected the path of a JWK Set file");
        return NULL;
    }
    return auth_keys_load(&settings, err);
}

/* ---- all of it ---- */

/* The routes, with the topics' names of this installation. Returns owned, or NULL with *err. */
static struct route_table *load_routes(const struct config *config, struct err *err)
{
    const char *rest = config->topic_names;
    size_t count = 0, most = 1;
    for (const char *at = rest; at && *at; at++)
        most += *at == ',';
    struct route_topic_name *names = calloc(most, sizeof(*names));
    if (!names) {
        err_set(err, ERR_NO_MEMORY, "out of memory");
        return NULL;
    }
    while (count < most && config_next_topic_name(&rest, &names[count].from, &names[count].to))
        count++;
    struct route_table *routes = route_table_load_renamed(config->routes, config->openapi, names, count, err);
    free(names);
    return routes;
}

struct exchange_plan *app_make_plan(struct app *app, struct config *config, struct err *err)
{
    struct exchange_plan *plan = NULL;
    struct route_table *routes = load_routes(config, err);
    struct path_flag *flags = routes ? calloc(routes->count + 1, sizeof(*flags)) : NULL;
    if (routes && !flags)
        err_set(err, ERR_NO_MEMORY, "out of memory");
    if (flags && app_flags_values(app, config, routes, flags, err) == ERR_OK)
        plan = exchange_plan_new(&app->shared, config, routes, flags, err); /* takes both */
    else {
        route_table_freep(&routes);
        config_freep(&config);
    }
    free(flags);
    return plan;
}

enum err_code app_load(struct app *app, struct config *config, struct err *err)
{
    if (exchange_shared_init(&app->shared) != ERR_OK) {
        config_freep(&config);
        return err_set(err, ERR_NO_MEMORY, "out of memory");
    }
    app->plan = app_make_plan(app, config, err);
    if (!app->plan)
        return ERR_CONFIG;
    app->keys_mtime_ns = app_keys_mtime_ns(app_config(app));
    app->keys = app_load_keys(app_config(app), err);
    app->shared.auth_keys = app->keys;
    return app->keys || err->code == ERR_OK ? ERR_OK : ERR_CONFIG;
}

void app_unload(struct app *app)
{
    app_reload_drop(app);
    app_flags_fini(app);
    exchange_plan_unrefp(&app->shared, &app->plan);
    exchange_shared_fini(&app->shared);
    auth_keys_unrefp(&app->keys);
}
