/* SPDX-License-Identifier: Apache-2.0 */
/* Private to mapping: expressions (`${...}`) and the values they yield.
 * An expression owns its text; a value borrows from the scope, from its expression or from the scratch
 * buffer, which holds one value in flight at a time. */
#pragma once

#include "syncgate/mapping.h"

enum expr_filter_type {
    EXPR_FILTER_ISO_TIME,
    EXPR_FILTER_STRING,
    EXPR_FILTER_ARRAY,
    EXPR_FILTER_JSON,
    EXPR_FILTER_SEGMENT,
    EXPR_FILTER_LENGTH,
};

struct expr_filter {
    enum expr_filter_type type;
    uint32_t number;            /* EXPR_FILTER_SEGMENT: which, from 0 */
    struct mapping_step *steps; /* EXPR_FILTER_JSON: into the parsed value. As those of an operand */
    size_t step_count;
};

enum expr_root {
    EXPR_BODY,
    EXPR_CLAIMS,
    EXPR_REPLY,
    EXPR_PATH,
    EXPR_QUERY,
    EXPR_HEADERS,
    EXPR_REPLY_HEADERS,
    EXPR_CORRELATION_ID,
    EXPR_OPERATION_ID,
    EXPR_NOW,
    EXPR_NOW_MS,
    EXPR_DEADLINE_MS,
    EXPR_TIMEOUT_MS,
    EXPR_PAYLOAD,
    EXPR_EVENT_TYPE,
    EXPR_REPLY_TOPIC,
    EXPR_REPLY_PARTITION,
    EXPR_TRACEPARENT,
    EXPR_LITERAL,
};

struct expr_operand {
    enum expr_root root;
    bool or_else;  /* taken when what stands before is falsy (||), not only when it is nullish (??) */
    unsigned mask; /* the enum mapping_root it needs */
    struct mapping_step *steps; /* owned; the names point into expr.text or expr.names */
    size_t step_count;
    struct json_doc literal; /* EXPR_LITERAL: over expr.text */
};

struct expr {
    char *text;       /* owned: what stands between the braces */
    size_t text_len;  /* up to and without the closing brace */
    struct buf names; /* decoded ["..."] names; reserved once, so that spans into it stay */
    struct expr_operand *operands;
    size_t operand_count;
    struct expr_filter *filters; /* owned; applied one after the other */
    size_t filter_count;
    char *place; /* owned: where it was written, for messages */
};

/* Compiles the expression at the start of `text` (behind "${") up to its closing brace. *ret_used: bytes
 * taken, brace included. `place` begins every message. Returns owned, or NULL with *err filled. */
struct expr *expr_compile(struct span text, unsigned roots, const char *place, size_t *ret_used,
                          struct err *err);
void expr_freep(struct expr **expr_ptr);
void expr_each_ref(const struct expr *expr, mapping_ref_fn visit, void *arg);

#define VALUE_JSON_NODES 65536u /* of a text that is parsed while a value is made */

enum value_type { VALUE_MISSING, VALUE_NODE, VALUE_TEXT, VALUE_INT, VALUE_JSON };

/* Not to be copied: `text` may point at `local`. */
struct value {
    enum value_type type;
    const struct json_doc *doc; /* VALUE_NODE */
    const struct json_node *node;
    struct span text; /* VALUE_TEXT: a string's contents; VALUE_JSON: JSON text */
    int64_t number;   /* VALUE_INT */
    char local[CLOCK_ISO_LEN + 1];
};

/* The value of an expression in a scope. A failing scratch buffer shows as VALUE_MISSING and stays failed. */
void expr_eval(const struct expr *expr, const struct mapping_scope *scope, struct buf *scratch,
               struct value *ret_value);

/* filter.c: makes the value what the filter says, or VALUE_MISSING. */
void value_filter(struct value *value, const struct expr_filter *filter, struct buf *scratch);
/* The node behind the steps, NULL if there is none. */
const struct json_node *value_walk(const struct json_doc *doc, const struct json_node *node,
                                   const struct mapping_step *steps, size_t step_count);
void value_set_text(struct value *value, struct span text);
void value_set_iso(struct value *value, int64_t unix_ms);
/* Copies JSON text without the blanks between tokens; `escape` makes it the contents of a JSON string. */
void value_append_compact(struct span json, bool escape, struct buf *out);

bool value_is_nullish(const struct value *value);
bool value_is_falsy(const struct value *value);
/* True for missing, null and the empty string. */
bool value_is_empty(const struct value *value);
bool value_equals(const struct value *value, const struct json_doc *doc, const struct json_node *node);

/* As a JSON value; nothing when missing. */
void value_append_json(const struct value *value, struct buf *out);
/* As the contents of a JSON string, escaped but without quotes; nothing when missing or null. */
void value_append_piece(const struct value *value, struct buf *out);
/* As plain text; nothing when missing or null. */
void value_append_text(const struct value *value, struct buf *scratch, struct buf *out);
