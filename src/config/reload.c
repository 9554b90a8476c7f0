/* SPDX-License-Identifier: Apache-2.0 */
/* Loading again while the process runs. What cannot change without a restart keeps the value that it runs with, so that the
 * settings always tell the truth; whoever reloads is told what was kept. */
#include "loader.h"

static size_t field_size(const struct option *option)
{
    switch (option->type) {
    case OPTION_BOOL:
        return sizeof(bool);
    case OPTION_CHOICE:
        return sizeof(int);
    case OPTION_ADDRESS:
        return sizeof(struct config_address);
    default:
        return sizeof(uint32_t);
    }
}

static void *field_of(const struct option *option, struct config *config)
{
    return (char *)config + option->offset;
}

static const void *const_field_of(const struct option *option, const struct config *config)
{
    return (const char *)config + option->offset;
}

static bool text_differs(const char *a, const char *b)
{
    return a && b ? strcmp(a, b) != 0 : a != b;
}

static bool is_kept(const struct option *option, const struct config *fresh, const struct config *running)
{
    const void *a = const_field_of(option, fresh), *b = const_field_of(option, running);
    if (option->reloadable)
        return false;
    if (option_is_text(option))
        return text_differs(*(char *const *)a, *(char *const *)b);
    if (option->type == OPTION_ADDRESS)
        return text_differs(((const struct config_address *)a)->text,
                            ((const struct config_address *)b)->text);
    return memcmp(a, b, field_size(option)) != 0;
}

static enum err_code keep(const struct option *option, struct config *fresh, const struct config *running)
{
    void *to = field_of(option, fresh);
    const void *from = const_field_of(option, running);
    if (!option_is_text(option)) {
        memcpy(to, from, field_size(option));
        return ERR_OK;
    }
    char *copy = *(char *const *)from ? strdup(*(char *const *)from) : NULL;
    if (*(char *const *)from && !copy)
        return ERR_NO_MEMORY;
    free(*(char **)to);
    *(char **)to = copy;
    return ERR_OK;
}

static bool properties_differ(const struct config *a, const struct config *b)
{
    if (a->kafka_property_count != b->kafka_property_count)
        return true;
    for (size_t i = 0; i < a->kafka_property_count; i++)
        if (strcmp(a->kafka_properties[i].name, b->kafka_properties[i].name) != 0 ||
            strcmp(a->kafka_properties[i].value, b->kafka_properties[i].value) != 0)
            return true;
    return false;
}

/* So that the next reload compares with those that the clients have. */
static enum err_code keep_properties(struct config *fresh, const struct config *running)
{
    size_t count = running->kafka_property_count;
    struct config_property *copies = calloc(count + 1, sizeof(*copies));
    if (!copies)
        return ERR_NO_MEMORY;
    config_properties_free(fresh);
    fresh->kafka_properties = copies;
    fresh->kafka_property_count = count;
    for (size_t i = 0; i < count; i++) {
        const struct config_property *from = &running->kafka_properties[i];
        copies[i] = (struct config_property){strdup(from->name), strdup(from->value), from->secret};
        if (!copies[i].name || !copies[i].value)
            return ERR_NO_MEMORY;
    }
    return ERR_OK;
}

static void name_kept(struct buf *kept, const char *name)
{
    if (kept->len)
        buf_append_lit(kept, ", ");
    buf_append_span(kept, span_of(name));
}

struct config *config_reload(const char *file, char *const *environ, const struct config *running,
                             struct buf *ret_kept, struct err *err)
{
    struct config *config = config_load(file, environ, err);
    for (size_t i = 0; config && i < option_count; i++) {
        if (!is_kept(&options[i], config, running))
            continue;
        name_kept(ret_kept, options[i].env);
        if (keep(&options[i], config, running) != ERR_OK) {
            err_set(err, ERR_NO_MEMORY, "out of memory while loading the configuration");
            config_freep(&config);
        }
    }
    if (config && properties_differ(config, running)) {
        name_kept(ret_kept, "kafka.properties");
        if (keep_properties(config, running) != ERR_OK) {
            err_set(err, ERR_NO_MEMORY, "out of memory while loading the configuration");
            config_freep(&config);
        }
    }
    return config;
}
