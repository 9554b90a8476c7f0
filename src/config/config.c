/* SPDX-License-Identifier: Apache-2.0 */
/* Loading: every source first becomes texts per option (a later source replaces an earlier one), then each
 * text is parsed once, by one parser, and last what settings mean together is checked. A secret's text is in
 * no message: whatever could contain one is shown through show_value(). */
#include "syncgate/config.h"

#include <ctype.h>
#include <errno.h>

#include "loader.h"

#define ADMIN_TOKEN_MIN 16u

/* ---- life ---- */

static void free_secret(char *text)
{
    if (text)
        explicit_bzero(text, strlen(text));
    free(text);
}

static void free_features(struct config_feature *features, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        free(features[i].operation);
        free(features[i].value);
    }
    free(features);
}

void config_properties_free(struct config *config)
{
    for (size_t i = 0; i < config->kafka_property_count; i++) {
        free(config->kafka_properties[i].name);
        free_secret(config->kafka_properties[i].value);
    }
    free(config->kafka_properties);
    config->kafka_properties = NULL;
    config->kafka_property_count = 0;
}

void config_freep(struct config **config_ptr)
{
    struct config *config = *config_ptr;
    if (!config)
        return;
    *config_ptr = NULL;
    for (size_t i = 0; i < option_count; i++) {
        if (option_is_text(&options[i]))
            free_secret(*(char **)(void *)((char *)config + options[i].offset));
    }
    config_properties_free(config);
    free_features(config->features, config->feature_count);
    free_features(config->file_features, config->file_feature_count);
    free(config->file_kafka_events);
    free(config->trusted_proxies);
    free(config);
}

void config_operation_name(struct span id, struct buf *out)
{
    bool mixed = false; /* else it is in upper snake case already */
    for (size_t i = 0; i < id.len; i++)
        mixed |= islower((unsigned char)id.ptr[i]) != 0;
    for (size_t i = 0; i < id.len; i++) {
        unsigned char c = (unsigned char)id.ptr[i], before = i ? (unsigned char)id.ptr[i - 1] : 0;
        bool lower_follows = i + 1 < id.len && islower((unsigned char)id.ptr[i + 1]);
        if (mixed && isupper(c) && (islower(before) || isdigit(before) || (isupper(before) && lower_follows)))
            buf_append_char(out, '_');
        buf_append_char(out, isalnum(c) ? (char)toupper(c) : '_');
    }
}

/* ---- messages ---- */

void show_text(const char *text, char out[SHOWN_MAX])
{
    struct buf buf = BUF_INIT;
    size_t len = strlen(text), max = 80;
    buf_append_json_string(&buf, (struct span){text, len < max ? len : max});
    for (size_t i = 0; i < buf.len; i++)
        if (buf.ptr[i] == 0x7f) /* JSON would let it through to the terminal */
            buf.ptr[i] = '?';
    if (buf_ok(&buf))
        snprintf(out, SHOWN_MAX, "%.*s%s", (int)buf.len, buf.ptr, len > max ? "..." : "");
    else
        snprintf(out, SHOWN_MAX, "a value");
    buf_fini(&buf);
}

/* A URL with a user's password in it is a secret too. */
void show_value(const char *text, bool secret, char out[SHOWN_MAX])
{
    if (secret || strchr(text, '@'))
        snprintf(out, SHOWN_MAX, "a value that is not shown");
    else
        show_text(text, out);
}

/* ---- values ---- */

enum err_code loader_no_memory(struct loader *loader)
{
    err_set(loader->err, ERR_NO_MEMORY, "out of memory while loading the configuration");
    return ERR_NO_MEMORY;
}

enum err_code loader_set(struct loader *loader, const struct option *option, const char *place,
                         const char *text)
{
    struct loader_value *value = &loader->values[option - options];
    char *text_copy = strdup(text), *place_copy = strdup(place);
    if (!text_copy || !place_copy) {
        free_secret(text_copy);
        free(place_copy);
        return loader_no_memory(loader);
    }
    free_secret(value->text);
    free(value->place);
    *value = (struct loader_value){text_copy, place_copy};
    return ERR_OK;
}

enum err_code loader_set_property(struct loader *loader, const char *place, const char *name,
                                  const char *value)
{
    const char *why = property_refused(name);
    if (why)
        return err_set(loader->err, ERR_CONFIG, "%s: Kafka property %s cannot be set: %s", place, name, why);
    if (!*value)
        return err_set(loader->err, ERR_CONFIG, "%s: expected a value for Kafka property %s, found none",
                       place, name);
    struct config *config = loader->config;
    size_t i = 0;
    while (i < config->kafka_property_count && strcmp(config->kafka_properties[i].name, name) != 0)
        i++;
    char *value_copy = strdup(value);
    if (!value_copy)
        return loader_no_memory(loader);
    if (i < config->kafka_property_count) {
        free_secret(config->kafka_properties[i].value);
        config->kafka_properties[i].value = value_copy;
        return ERR_OK;
    }
    struct config_property *more = realloc(config->kafka_properties, (i + 1) * sizeof(*more));
    char *name_copy = strdup(name);
    if (more)
        config->kafka_properties = more;
    if (!more || !name_copy) {
        free_secret(value_copy);
        free(name_copy);
        return loader_no_memory(loader);
    }
    more[i] = (struct config_property){name_copy, value_copy, property_is_secret(name)};
    config->kafka_property_count++;
    return ERR_OK;
}

enum err_code feature_set(struct loader *loader, struct config_feature **list, size_t *count,
                          const char *place, const char *operation, const char *value)
{
    char shown[SHOWN_MAX];
    size_t len = strlen(value);
    if (len == 0 || len > 64) {
        show_text(value, shown);
        return err_set(loader->err, ERR_CONFIG, "%s: expected a flag's value, such as true or only, found %s",
                       place, shown);
    }
    size_t i = 0;
    while (i < *count && strcmp((*list)[i].operation, operation) != 0)
        i++;
    char *value_copy = strdup(value);
    if (!value_copy)
        return loader_no_memory(loader);
    if (i < *count) {
        free((*list)[i].value);
        (*list)[i].value = value_copy;
        return ERR_OK;
    }
    struct config_feature *more = realloc(*list, (i + 1) * sizeof(*more));
    char *operation_copy = strdup(operation);
    if (more)
        *list = more;
    if (!more || !operation_copy) {
        free(value_copy);
        free(operation_copy);
        return loader_no_memory(loader);
    }
    more[i] = (struct config_feature){operation_copy, value_copy};
    ++*count;
    return ERR_OK;
}

enum err_code loader_set_feature(struct loader *loader, const char *place, const char *operation,
                                 const char *value)
{
    struct config *config = loader->config;
    return feature_set(loader, &config->features, &config->feature_count, place, operation, value);
}

enum err_code loader_read_secret(struct loader *loader, const char *place, const char *path,
                                 struct buf *ret_text)
{
    char shown[SHOWN_MAX];
    show_text(path, shown);
    int rc = *path ? base_read_file(path, SECRET_MAX, ret_text) : ENOENT;
    if (rc != 0)
        return err_set(loader->err, ERR_CONFIG, "%s: cannot read %s: %s", place, shown, strerror(rc));
    if (ret_text->len > 0 && ret_text->ptr[ret_text->len - 1] == '\n')
        ret_text->len--;
    if (ret_text->len > 0 && ret_text->ptr[ret_text->len - 1] == '\r')
        ret_text->len--;
    if (ret_text->len == 0)
        return err_set(loader->err, ERR_CONFIG, "%s: expected a secret in %s, found an empty file", place,
                       shown);
    if (memchr(ret_text->ptr, '\0', ret_text->len))
        return err_set(loader->err, ERR_CONFIG, "%s: expected text in %s, found a NUL byte", place, shown);
    buf_append_char(ret_text, '\0');
    return buf_ok(ret_text) ? ERR_OK : loader_no_memory(loader);
}

void secret_fini(struct buf *text)
{
    if (text->ptr)
        explicit_bzero(text->ptr, text->cap);
    buf_fini(text);
}

/* ---- the whole ---- */

static enum err_code parse_values(struct loader *loader)
{
    for (size_t i = 0; i < option_count; i++) {
        const struct option *option = &options[i];
        const struct loader_value *value = &loader->values[i];
        const char *text = value->text ? value->text : option->def, *hint;
        if (!text)
            continue;
        enum err_code code = *text ? option_parse(option, text, loader->config, &hint) : ERR_CONFIG;
        if (code == ERR_OK)
            continue;
        if (code == ERR_NO_MEMORY)
            return loader_no_memory(loader);
        char expected[EXPECTED_MAX], shown[SHOWN_MAX];
        option_expected(option, expected, sizeof(expected));
        if (!*text)
            return err_set(loader->err, ERR_CONFIG,
                           "%s: expected %s, found an empty value (leave it out if it is not needed)",
                           value->place, expected);
        show_value(text, option->secret, shown);
        return err_set(loader->err, ERR_CONFIG, "%s: expected %s, found %s%s%s%s",
                       value->place ? value->place : option->env, expected, shown, *hint ? " (" : "", hint,
                       *hint ? ")" : "");
    }
    return ERR_OK;
}

static const char *place_of(const struct loader *loader, const char *env)
{
    for (size_t i = 0; i < option_count; i++) {
        if (strcmp(options[i].env, env) == 0)
            return loader->values[i].place ? loader->values[i].place : env;
    }
    return env;
}

bool config_next_admin_token(const char **rest, struct span *ret_name, struct span *ret_token)
{
    const char *at = *rest;
    if (!at)
        return false;
    size_t len = strcspn(at, ",");
    struct span pair = span_trim((struct span){at, len});
    const char *colon = pair.len ? memchr(pair.ptr, ':', pair.len) : NULL;
    *ret_name = (struct span){pair.ptr, colon ? (size_t)(colon - pair.ptr) : pair.len};
    *ret_token = colon ? (struct span){colon + 1, pair.len - ret_name->len - 1} : (struct span){NULL, 0};
    *rest = at[len] ? at + len + 1 : NULL;
    return true;
}

static enum err_code check_admin_tokens(struct loader *loader)
{
    const char *rest = loader->config->admin_tokens;
    struct span name, token;
    for (unsigned number = 1; config_next_admin_token(&rest, &name, &token); number++) {
        bool ok = name.len > 0 && token.len >= ADMIN_TOKEN_MIN;
        for (size_t i = 0; i < name.len; i++)
            ok &= isalnum((unsigned char)name.ptr[i]) || strchr("._@-", name.ptr[i]) != NULL;
        for (size_t i = 0; i < token.len; i++)
            ok &= token.ptr[i] > ' ' && token.ptr[i] < 0x7f;
        if (!ok)
            return err_set(
                loader->err, ERR_CONFIG,
                "%s: entry %u: expected name:token, the name of letters, digits, '.', '_', '@' and '-', "
                "the token of %u or more printable characters",
                place_of(loader, "SYNCGATE_ADMIN_TOKENS"), number, ADMIN_TOKEN_MIN);
    }
    return ERR_OK;
}

bool config_next_topic_name(const char **rest, struct span *ret_from, struct span *ret_to)
{
    const char *at = *rest;
    if (!at)
        return false;
    size_t len = strcspn(at, ",");
    struct span pair = {at, len};
    const char *equals = memchr(pair.ptr, '=', pair.len);
    *ret_from = span_trim((struct span){pair.ptr, equals ? (size_t)(equals - pair.ptr) : pair.len});
    *ret_to = equals ? span_trim((struct span){equals + 1, (size_t)(pair.ptr + pair.len - equals - 1)})
                     : (struct span){NULL, 0};
    *rest = at[len] ? at + len + 1 : NULL;
    return true;
}

static bool is_topic_name(struct span name)
{
    bool ok =
        name.len > 0 && name.len <= 249 && !span_eq(name, SPAN_LIT(".")) && !span_eq(name, SPAN_LIT(".."));
    for (size_t i = 0; i < name.len; i++)
        ok &= isalnum((unsigned char)name.ptr[i]) || (name.ptr[i] && strchr("._-", name.ptr[i]));
    return ok;
}

/* Whether `from` is renamed by one of the first `count` pairs. */
static bool is_renamed_before(const struct config *config, struct span from, unsigned count)
{
    const char *rest = config->topic_names;
    struct span other, to;
    for (unsigned i = 0; i < count && config_next_topic_name(&rest, &other, &to); i++)
        if (span_eq(from, other))
            return true;
    return false;
}

static enum err_code check_topic_names(struct loader *loader)
{
    const char *rest = loader->config->topic_names, *place = place_of(loader, "SYNCGATE_TOPIC_NAMES");
    struct span from, to;
    for (unsigned number = 1; config_next_topic_name(&rest, &from, &to); number++) {
        if (!is_topic_name(from) || !is_topic_name(to))
            return err_set(
                loader->err, ERR_CONFIG,
                "%s: pair %u: expected from=to, both the name of a Kafka topic: letters, digits, '.', "
                "'_', '-', at most 249",
                place, number);
        if (is_renamed_before(loader->config, from, number - 1))
            return err_set(loader->err, ERR_CONFIG, "%s: pair %u: the topic \"%.*s\" is renamed twice", place,
                           number, (int)from.len, from.ptr);
    }
    return ERR_OK;
}

static enum err_code check_reply_address(struct loader *loader)
{
    const struct config *config = loader->config;
    if (!config->reply_topic && config->reply_partition != CONFIG_ANY_PARTITION)
        return err_set(
            loader->err, ERR_CONFIG,
            "%s: expected SYNCGATE_REPLY_TOPIC as well: it names the topic that the partition is of",
            place_of(loader, "SYNCGATE_REPLY_PARTITION"));
    return ERR_OK;
}

static enum err_code check_together(struct loader *loader)
{
    if (check_admin_tokens(loader) != ERR_OK || check_topic_names(loader) != ERR_OK)
        return ERR_CONFIG;
    const struct config *config = loader->config;
    static const char *const names[] = {"AUTH_JWKS", "AUTH_HS256_SECRET", "AUTH_PUBLIC_KEY"};
    const char *const sources[] = {config->auth_jwks, config->auth_hs256_secret, config->auth_public_key};
    const char *first = NULL;
    for (size_t i = 0; i < SG_ARRAY_LEN(sources); i++) {
        if (!sources[i])
            continue;
        if (first)
            return err_set(loader->err, ERR_CONFIG,
                           "%s: expected exactly one source of keys (AUTH_JWKS, AUTH_HS256_SECRET or "
                           "AUTH_PUBLIC_KEY), found %s as well",
                           place_of(loader, names[i]), place_of(loader, first));
        first = names[i];
    }
    if (check_reply_address(loader) != ERR_OK)
        return ERR_CONFIG;
    if (config->env == CONFIG_PRODUCTION && config_is_embedded(config))
        return err_set(
            loader->err, ERR_CONFIG,
            "%s: expected the brokers of a cluster, found the embedded broker, which is refused with "
            "SYNCGATE_ENV=production",
            place_of(loader, "KAFKA_BROKERS"));
    return property_check_all(config, loader->err);
}

static int compare_properties(const void *a, const void *b)
{
    return strcmp(((const struct config_property *)a)->name, ((const struct config_property *)b)->name);
}

static int compare_features(const void *a, const void *b)
{
    return strcmp(((const struct config_feature *)a)->operation,
                  ((const struct config_feature *)b)->operation);
}

static void sort_lists(struct config *config)
{
    if (config->kafka_property_count > 1)
        qsort(config->kafka_properties, config->kafka_property_count, sizeof(*config->kafka_properties),
              compare_properties);
    if (config->feature_count > 1)
        qsort(config->features, config->feature_count, sizeof(*config->features), compare_features);
}

struct config *config_load(const char *file, char *const *environ, struct err *err)
{
    struct loader loader = {.err = err, .config = calloc(1, sizeof(struct config))};
    loader.values = calloc(option_count, sizeof(*loader.values));
    enum err_code code = ERR_OK;
    if (!loader.config || !loader.values)
        code = loader_no_memory(&loader);
    if (code == ERR_OK)
        loader.config->reply_partition = CONFIG_ANY_PARTITION;
    if (code == ERR_OK && file)
        code = loader_take_file(&loader, file);
    if (code == ERR_OK && environ)
        code = loader_take_environ(&loader, environ);
    if (code == ERR_OK)
        code = parse_values(&loader);
    if (code == ERR_OK)
        code = loader_take_flags(&loader);
    if (code == ERR_OK)
        code = check_together(&loader);
    if (code == ERR_OK)
        sort_lists(loader.config);
    else
        config_freep(&loader.config);
    for (size_t i = 0; loader.values && i < option_count; i++) {
        free_secret(loader.values[i].text);
        free(loader.values[i].place);
    }
    free(loader.values);
    return loader.config;
}
