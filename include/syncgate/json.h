/* SPDX-License-Identifier: Apache-2.0 */
/* json: a read-only index over a JSON text. Nothing is copied or rebuilt: nodes are spans of the text, so that a
 * value can be checked and then spliced byte for byte into another message (design.md section 4).
 * Strict RFC 8259 plus well-formed UTF-8; \u0000 and lone surrogate escapes are allowed (JSON.parse allows them),
 * numbers of any size are allowed and kept as text. Bounded in depth and nodes. libc only.
 * Thread: any, one thread at a time per document. Locks: none. */
#pragma once

#include "syncgate/base.h"
#include "syncgate/err.h"

/* jansson has functions of these two names, and libjwt calls them: without other names for the linker ours would be
 * called instead. For the same reason no file includes both headers. */
#define json_string sg_json_string
#define json_equal  sg_json_equal

enum json_type { JSON_NULL, JSON_FALSE, JSON_TRUE, JSON_NUMBER, JSON_STRING, JSON_ARRAY, JSON_OBJECT };

/* One value, or one member name (a JSON_STRING node that is followed at once by its value's node). */
struct json_node {
    uint32_t start; /* first byte of the value in the text; for strings the opening quote */
    uint32_t end;   /* one past the last byte */
    uint32_t next;  /* index of the next element, or of the next member name; 0 = last */
    uint32_t count; /* elements of an array, members (duplicates included) of an object */
    uint8_t type;   /* enum json_type */
    bool escaped;   /* a string with at least one backslash */
};

struct json_doc {
    const char *text; /* borrowed: must outlive the document */
    size_t len;
    struct json_node *nodes; /* owned; nodes[0] is the root */
    uint32_t count;
    uint32_t cap;
    uint32_t err_pos;     /* after ERR_BAD_JSON: byte offset of the offending byte, or len */
    const char *err_what; /* after ERR_BAD_JSON: static text, e.g. "unexpected token", "too deep" */
};
#define JSON_DOC_INIT  ((struct json_doc){0})
#define JSON_DEPTH_MAX 64

/* Parses `text` (at most 4 GiB - 1) into `doc`, whose node storage is reused when it is parsed into again.
 * max_nodes bounds the memory (24 bytes a node). A leading UTF-8 BOM is skipped.
 * Returns ERR_OK, ERR_BAD_JSON (malformed, too deep, too many nodes) or ERR_NO_MEMORY. */
enum err_code json_parse(struct json_doc *doc, struct span text, uint32_t max_nodes) SG_NODISCARD;
/* Frees the node storage; borrows nothing afterwards. NULL-safe; the doc may be used again. */
void json_fini(struct json_doc *doc);

static inline const struct json_node *json_root(const struct json_doc *doc)
{
    return doc->count ? &doc->nodes[0] : NULL;
}
static inline struct span json_text(const struct json_doc *doc, const struct json_node *node)
{
    return (struct span){doc->text + node->start, node->end - node->start};
}
/* First element of an array, or first member name of an object; NULL if empty or neither. */
const struct json_node *json_first(const struct json_doc *doc, const struct json_node *node);
/* The next element, or next member name; NULL after the last. */
const struct json_node *json_next(const struct json_doc *doc, const struct json_node *node);
/* The value behind a member name. */
static inline const struct json_node *json_member_value(const struct json_node *name)
{
    return name + 1;
}
/* The member called `key` (raw UTF-8, compared after unescaping); the last one wins among duplicates, as in
 * JSON.parse. NULL if absent, or if node is NULL or not an object. */
const struct json_node *json_get(const struct json_doc *doc, const struct json_node *node, struct span key);
/* True when member name node `name` is the one json_get() would choose (false: an overridden duplicate). */
bool json_member_is_last(const struct json_doc *doc, const struct json_node *object,
                         const struct json_node *name);
/* Contents of a string without quotes. When it holds no escapes the span points into the text; otherwise it is
 * decoded (lone surrogates become U+FFFD) behind what `scratch` holds, and the span points there: use it before
 * the next append to scratch. NULL ptr when out of memory. */
struct span json_string(const struct json_doc *doc, const struct json_node *node, struct buf *scratch);
/* True if node is a string with exactly these (raw UTF-8) contents. */
bool json_string_eq(const struct json_doc *doc, const struct json_node *node, struct span value);
/* Length of a string in UTF-16 code units (JavaScript's .length) and in code points. */
size_t json_string_utf16_len(const struct json_doc *doc, const struct json_node *node);
size_t json_string_codepoints(const struct json_doc *doc, const struct json_node *node);
/* Appends the contents without quotes, escaped as JavaScript's JSON.stringify escapes them (lone surrogates as \udxxx). */
void json_string_append_js(const struct json_doc *doc, const struct json_node *node, struct buf *out);
/* Total order over the contents of two strings of one document, by code points: <0, 0, >0. */
int json_string_compare(const struct json_doc *doc, const struct json_node *a, const struct json_node *b);
/* The number as a double (1e999 gives infinity). */
double json_number(const struct json_doc *doc, const struct json_node *node);
/* True if node is a number without a fraction in the mathematical sense (1.0 and 1e2 count), exactly. */
bool json_number_is_integer(const struct json_doc *doc, const struct json_node *node);
/* Deep equality of two values as JSON Schema defines it (1 == 1.0, member order does not matter). */
bool json_equal(const struct json_doc *doc_a, const struct json_node *a, const struct json_doc *doc_b,
                const struct json_node *b);
