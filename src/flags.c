/* SPDX-License-Identifier: Apache-2.0 */
/* Flags: three places may set them, and the highest that says anything about an operation decides: the admin port, then the
 * flags file, then the settings. In each place an operation's own value beats the common one. So `off` set at the admin
 * port takes every operation to legacy, whatever is configured below. design.md section 5. */
#include <stdio.h>

#include "app.h"

const char *app_flag_source_name(enum app_flag_source source)
{
    static const char *const names[] = {
#define X(code, name) name,
        APP_FLAG_SOURCES(X)
#undef X
    };
    return names[source];
}

/* ---- one place ---- */

static const char *find_feature(const struct config_feature *features, size_t count, const struct buf *name)
{
    for (size_t i = 0; i < count; i++)
        if (span_eq(span_of(features[i].operation), buf_span(name)))
            return features[i].value;
    return NULL;
}

/* Where a value was written: in the flags file, in the environment, which beats the file, or else in the file. */
static void name_place(const struct app *app, const struct config *config, enum app_flag_source source,
                       const char *variable, char *out, size_t size)
{
    if (source == APP_FLAG_FILE)
        snprintf(out, size, "%.200s: %s", config->feature_file, variable);
    else if (getenv(variable) || !app->config_file)
        snprintf(out, size, "%s", variable);
    else
        snprintf(out, size, "%.200s: $.feature (%s)", app->config_file, variable);
}

static enum err_code parse_flag(const struct app *app, const struct config *config,
                                enum app_flag_source source, const struct buf *operation, const char *value,
                                struct app_flag *ret_flag, struct err *err)
{
    char variable[200], where[480];
    snprintf(variable, sizeof(variable), "FEATURE_KAFKA_EVENTS%s%.*s", operation ? "_" : "",
             operation ? (int)operation->len : 0, operation ? operation->ptr : "");
    name_place(app, config, source, variable, where, sizeof(where));
    *ret_flag = (struct app_flag){.source = source, .own = operation != NULL};
    return path_flag_parse(span_of(value), where, &ret_flag->flag, err);
}

static const struct app_override *find_override(const struct app *app, struct span operation)
{
    for (size_t i = 0; i < app->override_count; i++) {
        const char *name = app->overrides[i].operation;
        if (operation.ptr ? name && span_eq(span_of(name), operation) : !name)
            return &app->overrides[i];
    }
    return NULL;
}

static bool names_one(const struct route *routes, size_t count, const char *operation, struct buf *name)
{
    for (size_t i = 0; i < count; i++) {
        buf_clear(name);
        config_operation_name(routes[i].operation_id, name);
        if (span_eq(buf_span(name), span_of(operation)))
            return true;
    }
    return false;
}

/* Every flag must name a route that is enabled. */
static enum err_code check_names(const struct route_table *routes, const struct config_feature *features,
                                 size_t count, const char *file, struct err *err)
{
    struct buf name = BUF_INIT;
    enum err_code code = ERR_OK;
    for (size_t f = 0; code == ERR_OK && f < count; f++) {
        const char *operation = features[f].operation;
        if (names_one(routes->routes, routes->count, operation, &name))
            continue;
        bool disabled = names_one(routes->disabled, routes->disabled_count, operation, &name);
        code = err_set(err, ERR_CONFIG, "%.200s%sFEATURE_KAFKA_EVENTS_%s: %s (see syncgate routes)",
                       file ? file : "", file ? ": " : "", operation,
                       disabled ? "the route is disabled in its file" : "no route has this operationId");
    }
    buf_fini(&name);
    return code;
}

/* ---- all places ---- */

static enum err_code resolve_common(const struct app *app, const struct config *config,
                                    struct app_flag *ret_common, struct err *err)
{
    const struct app_override *override = find_override(app, (struct span){NULL, 0});
    enum err_code code =
        parse_flag(app, config, APP_FLAG_CONFIGURED, NULL, config->feature_kafka_events, ret_common, err);
    if (code == ERR_OK && config->file_kafka_events)
        code = parse_flag(app, config, APP_FLAG_FILE, NULL, config->file_kafka_events, ret_common, err);
    if (code == ERR_OK && override)
        *ret_common = (struct app_flag){override->flag, APP_FLAG_ADMIN, false};
    return code;
}

static enum err_code resolve_one(const struct app *app, const struct config *config, struct span operation,
                                 const struct app_flag *common, struct buf *name, struct app_flag *ret_flag,
                                 struct err *err)
{
    enum err_code code = ERR_OK;
    buf_clear(name);
    config_operation_name(operation, name);
    const char *configured = find_feature(config->features, config->feature_count, name);
    const char *in_file = find_feature(config->file_features, config->file_feature_count, name);
    const struct app_override *override = find_override(app, operation);
    *ret_flag = *common;
    /* Also what is not used is looked at: a mistake there must not wait until it is. */
    struct app_flag flag;
    if (configured)
        code = parse_flag(app, config, APP_FLAG_CONFIGURED, name, configured, &flag, err);
    if (configured && code == ERR_OK && common->source <= APP_FLAG_CONFIGURED)
        *ret_flag = flag;
    if (in_file && code == ERR_OK)
        code = parse_flag(app, config, APP_FLAG_FILE, name, in_file, &flag, err);
    if (in_file && code == ERR_OK && common->source <= APP_FLAG_FILE)
        *ret_flag = flag;
    if (override)
        *ret_flag = (struct app_flag){override->flag, APP_FLAG_ADMIN, true};
    return code;
}

enum err_code app_flags_resolve(const struct app *app, const struct config *config,
                                const struct route_table *routes, struct app_flag *ret_flags,
                                struct app_flag *ret_common, struct err *err)
{
    struct app_flag common;
    struct buf name = BUF_INIT;
    enum err_code code = resolve_common(app, config, &common, err);
    for (size_t i = 0; code == ERR_OK && i < routes->count; i++)
        code = resolve_one(app, config, routes->routes[i].operation_id, &common, &name, &ret_flags[i], err);
    if (code == ERR_OK)
        code = check_names(routes, config->features, config->feature_count, NULL, err);
    if (code == ERR_OK)
        code =
            check_names(routes, config->file_features, config->file_feature_count, config->feature_file, err);
    if (code == ERR_OK && ret_common)
        *ret_common = common;
    buf_fini(&name);
    return code;
}

enum err_code app_flags_values(const struct app *app, const struct config *config,
                               const struct route_table *routes, struct path_flag *ret_values,
                               struct err *err)
{
    struct app_flag *flags = calloc(routes->count + 1, sizeof(*flags));
    if (!flags)
        return err_set(err, ERR_NO_MEMORY, "out of memory");
    enum err_code code = app_flags_resolve(app, config, routes, flags, NULL, err);
    for (size_t i = 0; code == ERR_OK && i < routes->count; i++)
        ret_values[i] = flags[i].flag;
    if (code == ERR_OK)
        code = app_check(config, routes, ret_values, err);
    free(flags);
    return code;
}

enum err_code app_flags_refresh(const struct app *app, struct exchange_plan *plan, struct err *err)
{
    struct path_flag *values = calloc(plan->routes->count + 1, sizeof(*values));
    if (!values)
        return err_set(err, ERR_NO_MEMORY, "out of memory");
    enum err_code code = app_flags_values(app, plan->config, plan->routes, values, err);
    for (size_t i = 0; code == ERR_OK && i < plan->routes->count; i++)
        exchange_route_set_flag(&plan->states[i], &values[i]);
    free(values);
    return code;
}

/* ---- the admin port's ---- */

static bool has_operation(const struct route_table *routes, const char *operation)
{
    for (size_t i = 0; i < routes->count; i++)
        if (span_eq(routes->routes[i].operation_id, span_of(operation)))
            return true;
    return false;
}

static bool same_operation(const char *a, const char *b)
{
    return a && b ? strcmp(a, b) == 0 : a == b;
}

enum err_code app_flags_override(struct app *app, const char *operation, const struct path_flag *flag,
                                 struct err *err)
{
    if (operation && !has_operation(app->plan->routes, operation))
        return ERR_NOT_FOUND;
    struct app_override *old = app->overrides;
    size_t old_count = app->override_count, count = 0;
    struct app_override *trial = calloc(old_count + 1, sizeof(*trial));
    char *name = operation ? strdup(operation) : NULL, *replaced = NULL;
    if (!trial || (operation && !name)) {
        free(trial);
        free(name);
        return ERR_NO_MEMORY;
    }
    for (size_t i = 0; i < old_count; i++) {
        if (same_operation(old[i].operation, operation))
            replaced = old[i].operation;
        else
            trial[count++] = old[i];
    }
    if (flag)
        trial[count++] = (struct app_override){name, *flag};
    app->overrides = trial;
    app->override_count = count;
    enum err_code code = app_flags_refresh(app, app->plan, err);
    if (code != ERR_OK) {
        app->overrides = old;
        app->override_count = old_count;
    }
    free(code == ERR_OK ? old : trial);
    free(code == ERR_OK ? replaced : NULL);
    if (code != ERR_OK || !flag)
        free(name);
    return code;
}

void app_flags_fini(struct app *app)
{
    for (size_t i = 0; i < app->override_count; i++)
        free(app->overrides[i].operation);
    free(app->overrides);
    app->overrides = NULL;
    app->override_count = 0;
}

void app_log_flag(const char *who, const char *peer, const char *operation, const char *before,
                  const char *after)
{
    struct log_line line;
    log_begin(&line, LOG_AUDIT, "flag changed");
    log_str(&line, "who", who);
    log_str(&line, "peer", peer);
    log_str(&line, "operation", operation ? operation : "*");
    log_str(&line, "before", before);
    log_str(&line, "after", after);
    log_end(&line);
}
