/* SPDX-License-Identifier: Apache-2.0 */
/* What the loading of file and environment share. Private to the room. */
#pragma once

#include "options.h"

#define SHOWN_MAX    600 /* 80 bytes as a JSON string, at worst \u00xx each */
#define EXPECTED_MAX 160
#define SECRET_MAX   ((size_t)64 * 1024)
#define PLACE_MAX    256

struct loader_value {
    char *text;  /* owned; NULL: the default */
    char *place; /* owned: "LEGACY_URL" or "syncgate.json: $.legacy.url" */
};

struct loader {
    struct config *config;       /* owned until config_load() returns it */
    struct loader_value *values; /* owned; one per option */
    struct err *err;
};

enum err_code loader_no_memory(struct loader *loader);
/* All copy what they are given; a later call replaces what an earlier one set. */
enum err_code loader_set(struct loader *loader, const struct option *option, const char *place,
                         const char *text);
enum err_code loader_set_property(struct loader *loader, const char *place, const char *name,
                                  const char *value);
enum err_code loader_set_feature(struct loader *loader, const char *place, const char *operation,
                                 const char *value);
/* Adds a flag to a list, or replaces its value there. */
enum err_code feature_set(struct loader *loader, struct config_feature **list, size_t *count,
                          const char *place, const char *operation, const char *value);
/* Appends the file's content without one trailing line end, and a NUL. Release with secret_fini(), also on
 * failure. */
enum err_code loader_read_secret(struct loader *loader, const char *place, const char *path,
                                 struct buf *ret_text);
void secret_fini(struct buf *text);
/* Wipes the values, then frees them. */
void config_properties_free(struct config *config);

enum err_code loader_take_file(struct loader *loader, const char *file);
enum err_code loader_take_environ(struct loader *loader, char *const *environ);
/* The flags file, when config->feature_file names one. */
enum err_code loader_take_flags(struct loader *loader);

/* As a quoted JSON string, cut after 80 bytes. */
void show_text(const char *text, char out[SHOWN_MAX]);
/* The same, unless the value may hold a secret. */
void show_value(const char *text, bool secret, char out[SHOWN_MAX]);

static inline bool option_is_text(const struct option *option)
{
    return option->type <= OPTION_ALGORITHMS;
}
