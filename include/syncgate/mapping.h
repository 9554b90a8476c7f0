/* SPDX-License-Identifier: Apache-2.0 */
/* mapping: JSON templates compiled into plans that splice values from a request, a token and a reply into a message.
 * Pure: no I/O, no clock (the time is in the scope), no lock. design.md section 4.
 *
 * A template is plain JSON. `${...}` inside a string is an expression; a string that is exactly one expression keeps the
 * value's type, otherwise the value is put in as text. Expression grammar:
 *
 *   expr      := operand { ("??" | "||") operand } { "|" filter }
 *   operand   := reference | JSON string | JSON number | true | false | null
 *   reference := root { "." name | "." index | "[" JSON string "]" }
 *   filter    := "isoTime"  ISO text or integer unix ms -> 2025-08-16T10:00:00.000Z; anything else counts as missing
 *              | "string"   the value as a JSON string; null stays null
 *              | "array"    an array as it is; anything else counts as missing
 *              | "json" { "." name | "." index | "[" JSON string "]" }
 *                           a string that holds JSON becomes its value, any other string counts as missing, what is no
 *                           string stays; then the member behind the steps, if there are any
 *              | "segment" ":" N   the N-th part of a string between slashes, from 0; missing if there is none
 *              | "length"   bytes of a string's text (UTF-8), else of the compact JSON; missing for null
 *
 * `a ?? b` takes b when a is missing or null; `a || b` also when a is the empty string (or false/0 as in JavaScript). A
 * chain is read from the left and chooses by the values themselves; the filters then convert the chosen one, one after the
 * other, and when one cannot, that operand counts as missing and the next is tried. A missing value without a default drops its key (or array
 * element; inside a longer string it is empty). null is a value: it is written as null where the type is kept, and is
 * empty inside a longer string or text. Duplicates in a repeated member or query name: the last member, the first query
 * parameter. `$${` stands for a literal `${`. Keys of a template are literal.
 *
 * Roots: body, path, query, headers (request header, lower case), claims, reply, replyHeaders (header of the reply's
 * record, exact case, the last of repeated ones; binary values are text that is not UTF-8), correlationId, now (ISO), nowMs
 * (integer), deadlineMs (integer unix ms), timeoutMs (integer), operationId, and the caller's extra roots (e.g. `payload`
 * and `eventType` in an envelope). A root that the scope kind does not offer, a malformed expression or an unknown filter
 * is a load error. */
#pragma once

#include "syncgate/base.h"
#include "syncgate/err.h"
#include "syncgate/json.h"

struct mapping_template;
struct mapping_condition;

#define MAPPING_DEPTH_MAX 32 /* nesting of a template */

/* Where an expression's root may come from. */
enum mapping_root {
    MAPPING_BODY = 1 << 0,
    MAPPING_PATH = 1 << 1,
    MAPPING_QUERY = 1 << 2,
    MAPPING_HEADERS = 1 << 3,
    MAPPING_CLAIMS = 1 << 4,
    MAPPING_REPLY = 1 << 5,
    MAPPING_CALL = 1 << 6,     /* correlationId, now, nowMs, deadlineMs, timeoutMs, operationId */
    MAPPING_ENVELOPE = 1 << 7, /* payload, eventType: the parts an envelope file wraps */
    MAPPING_REPLY_HEADERS = 1 << 8,
    MAPPING_COMMAND_HEADERS = 1 << 12, /* eventType, replyTopic, replyPartition, traceparent */
};
#define MAPPING_REQUEST_ROOTS \
    (MAPPING_BODY | MAPPING_PATH | MAPPING_QUERY | MAPPING_HEADERS | MAPPING_CLAIMS | MAPPING_CALL)
#define MAPPING_REPLY_ROOTS (MAPPING_REQUEST_ROOTS | MAPPING_REPLY | MAPPING_REPLY_HEADERS)
#define MAPPING_HEADER_MAX  255 /* bytes of the name of a reply's header */

struct mapping_param {
    struct span name;
    struct span value; /* percent-decoded text */
};

/* What the roots stand for in one call. All borrowed; absent parts are NULL / empty. */
struct mapping_scope {
    const struct json_doc *body;
    const struct json_doc *claims;
    const struct json_doc *reply; /* NULL also when the record has no body */
    const struct mapping_param *path;
    size_t path_count;
    struct span
        query; /* raw, without '?'; decoded on use (application/x-www-form-urlencoded); first of repeated names */
    struct span (*header)(const void *arg, struct span lower_name); /* ptr NULL = absent */
    const void *header_arg;
    /* name: at most MAPPING_HEADER_MAX bytes, none of them NUL */
    struct span (*reply_header)(const void *arg, struct span name); /* ptr NULL = absent */
    const void *reply_header_arg;
    struct span correlation_id;
    struct span operation_id;
    int64_t now_ms;      /* unix ms */
    int64_t deadline_ms; /* unix ms */
    int64_t timeout_ms;
    struct span payload;    /* MAPPING_ENVELOPE: rendered JSON */
    struct span event_type; /* MAPPING_ENVELOPE, MAPPING_COMMAND_HEADERS */
    /* MAPPING_COMMAND_HEADERS: where to answer; ptr NULL: missing. */
    struct span reply_topic, reply_partition; /* the partition as decimal text */
    struct span traceparent;
};

/* Compiles the template at `node`, which is borrowed only during the call; `roots` is a set of enum mapping_root; `where` ("routes/bind.json: $.command.payload") begins
 * every message. Returns owned, or NULL with *err filled. Thread: any, at load. */
struct mapping_template *mapping_compile(const struct json_doc *doc, const struct json_node *node,
                                         unsigned roots, const char *where, struct err *err);
void mapping_template_freep(struct mapping_template **tmpl);

/* Appends the template filled from `scope` as compact JSON to `out`; a template that is one missing expression appends
 * nothing. `scratch` is working memory, cleared inside. ERR_OK or ERR_NO_MEMORY. Thread: any. */
enum err_code mapping_render(const struct mapping_template *tmpl, const struct mapping_scope *scope,
                             struct buf *scratch, struct buf *out) SG_NODISCARD;
/* The same for a template that is one string, as plain text without quotes (message keys, header values).
 * *ret_missing: it was one expression and that is missing. */
enum err_code mapping_render_text(const struct mapping_template *tmpl, const struct mapping_scope *scope,
                                  struct buf *scratch, struct buf *out, bool *ret_missing) SG_NODISCARD;

/* True for a template that is one JSON string: what mapping_render_text() takes. */
bool mapping_template_is_text(const struct mapping_template *tmpl);

/* One reference of an expression, for checks at load. All borrowed. */
#define MAPPING_NO_INDEX UINT32_MAX
struct mapping_step {
    struct span name;
    uint32_t index; /* of an array element; MAPPING_NO_INDEX when the name is no number */
};
struct mapping_ref {
    enum mapping_root root;
    const struct mapping_step *steps; /* what stands behind the root; none for scalar roots */
    size_t step_count;
    struct span text;  /* the whole expression */
    const char *place; /* "routes/bind.json: $.command.payload.deviceId" */
};
typedef void (*mapping_ref_fn)(void *arg, const struct mapping_ref *ref);
/* Calls `visit` for each reference, in the order they are written. Thread: any, at load. */
void mapping_template_each_ref(const struct mapping_template *tmpl, mapping_ref_fn visit, void *arg);

/* Conditions: a JSON array, all of which must hold, of {"value": "${...}", "<op>": ...} where <op> is one of
 * "is": json (equal), "in": [json, ...], "not": json (differs, or is missing), "exists": bool, "empty": bool (missing, null or "").
 * "value" is exactly one expression. A missing value fails "is" and "in"; null exists. An empty array always holds. */
struct mapping_condition *mapping_condition_compile(const struct json_doc *doc, const struct json_node *node,
                                                    unsigned roots, const char *where, struct err *err);
void mapping_condition_freep(struct mapping_condition **cond);
void mapping_condition_each_ref(const struct mapping_condition *cond, mapping_ref_fn visit, void *arg);
/* False also when scratch runs out of memory (then it has failed). Thread: any. */
bool mapping_condition_holds(const struct mapping_condition *cond, const struct mapping_scope *scope,
                             struct buf *scratch);
