/* SPDX-License-Identifier: Apache-2.0 */
/* Private to route: reading typed members of a JSON file with messages that name the file and the place in
 * it. */
#pragma once

#include "table.h"

struct reader {
    const char *file;
    const struct json_doc *doc;
    struct arena *arena; /* where strings are copied to */
    struct buf where;    /* "routes/bind.json: $.command", NUL-terminated */
    struct err *err;
};

/* Reads the JSON text of a file into `doc`. False with *err filled: file, line and column. */
bool reader_parse(const char *file, struct span text, struct json_doc *doc, struct err *err);

bool reader_init(struct reader *r, const char *file, const struct json_doc *doc, struct arena *arena,
                 struct err *err);
void reader_fini(struct reader *r);
/* Fills *err with the place and the message; returns false. */
bool reader_fail(struct reader *r, const char *fmt, ...) SG_PRINTF(2, 3);
bool reader_no_memory(struct reader *r);

/* Goes into a member or an element; the result takes reader_leave() back. */
size_t reader_enter(struct reader *r, const char *key);
size_t reader_enter_index(struct reader *r, size_t index);
void reader_leave(struct reader *r, size_t mark);

/* The value at the place must be an object with these keys and no others. `keys` ends with NULL. */
bool reader_keys(struct reader *r, const struct json_node *object, const char *const *keys);
const struct json_node *reader_get(struct reader *r, const struct json_node *object, const char *key);
/* At the place: a non-empty string. */
bool reader_text(struct reader *r, const struct json_node *node, struct span *ret_text);
/* Members: a missing one keeps what *ret_ holds, unless it is required. */
bool reader_string(struct reader *r, const struct json_node *object, const char *key, bool required,
                   struct span *ret_text);
bool reader_bool(struct reader *r, const struct json_node *object, const char *key, bool *ret_value);
bool reader_uint(struct reader *r, const struct json_node *object, const char *key, uint32_t min,
                 uint32_t max, uint32_t *ret_value);
