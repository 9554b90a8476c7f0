/* SPDX-License-Identifier: Apache-2.0 */
/* route: route files -> an immutable table, and matching a request target against it. Pure after load.
 * A route is one operation of the OpenAPI document (design.md section 4). The file format is documented in
 * docs/routes.md; an unknown key, a reference that cannot resolve or a wrong type is a load error naming file and JSON path. */
#pragma once

#include "syncgate/base.h"
#include "syncgate/err.h"
#include "syncgate/mapping.h"
#include "syncgate/schema.h"

#define ROUTE_PARAMS_MAX       8
#define ROUTE_REPLY_TOPICS_MAX 8

/* HTTP answer of one reply rule. */
struct route_answer {
    int status;                    /* 200..599 */
    struct mapping_template *body; /* NULL: no body */
    struct route_header {
        struct span name;
        struct mapping_template *value; /* text */
    } * headers;
    size_t header_count;
};

/* Values of `__version`. A reply without one has "v1". */
struct route_versions {
    struct span *names;
    size_t count; /* 0: any value, also one that is no string */
};

/* One entry of the ordered reply rules: the first whose topic, eventType, versions and conditions agree answers. */
struct route_reply_rule {
    uint32_t topic;                 /* index into route_table.reply_topics */
    struct span event_type;         /* ptr NULL: any, or none */
    bool untyped;                   /* only replies without an eventType, also those without a body */
    struct route_versions versions; /* its own, or the route's */
    struct mapping_condition *when; /* NULL: always */
    const struct schema
        *schema;   /* a reply that it would answer is of no use unless it satisfies it; NULL: unchecked */
    bool progress; /* it ends nothing: more replies follow. Its answer has a body, and nothing else */
    struct route_answer answer;
};

/* Finishing by fields, for events without a usable id. Off unless the route asks for it (design.md section 4). Fields are
 * compared as text; one that is missing on either side matches nothing. */
struct route_field_match {
    uint32_t topic;
    struct span event_type;                   /* ptr NULL: any, or none */
    struct mapping_template **request_fields; /* text, over the request: what this call's fields are */
    struct mapping_template **reply_fields;   /* text, over the reply: where the event holds them */
    size_t field_count;
};

/* A header profile: which headers a command carries, and in which headers its reply may carry the correlation id. */
#define ROUTE_COMMAND_HEADERS_MAX 16
#define ROUTE_REPLY_HEADERS_MAX   8
struct route_headers {
    struct route_command_header {
        struct span name;               /* NUL-terminated */
        struct mapping_template *value; /* text; a missing value drops the header */
        bool is_int32;                  /* the text is a number, sent as four big-endian bytes */
    } * command;
    size_t command_count;
    struct span *reply; /* NUL-terminated, in the order in which they are looked at */
    size_t reply_count;
};
/* The text of the profile of routes that name none. */
extern const char route_default_headers[];

struct route_command {
    struct span topic;
    struct mapping_template *key; /* text; NULL: messages have no key */
    struct span event_type;
    struct mapping_template *payload;
    const struct mapping_template
        *envelope; /* never NULL: without an envelope file it is the payload alone */
    const struct schema
        *schema; /* the whole message must satisfy it, else the call has no command; NULL: unchecked */
    struct mapping_condition *when;      /* NULL: always */
    const struct route_headers *headers; /* never NULL */
};

struct route {
    uint32_t index; /* position in the table; stable for its life */
    struct span operation_id;
    struct span method;
    struct span path; /* the template, "/api/devices/{deviceId}" */
    bool
        case_sensitive; /* path mode: "express" (case-insensitive, one trailing slash tolerated) or "exact" */
    bool auth_required;
    struct span *roles; /* any of them; count 0: none needed */
    size_t role_count;
    const struct schema *claims_schema; /* the token's payload must satisfy it, else 401; NULL: unchecked */
    const struct schema *body_schema;   /* NULL: the body is not checked */
    bool body_required;
    uint32_t timeout_ms;
    uint32_t max_in_flight; /* 0: no own limit */
    struct route_command command;
    uint32_t reply_topics[ROUTE_REPLY_TOPICS_MAX]; /* distinct, indexes into route_table.reply_topics */
    size_t reply_topic_count;
    struct route_reply_rule *rules; /* at least one of them is no progress */
    size_t rule_count;
    bool has_progress;
    bool one_way;                 /* no reply comes: rules and reply topics are empty */
    struct route_answer accepted; /* one_way: the answer once the broker has the record; over the request */
    struct route_field_match *field_matches; /* count 0: off */
    size_t field_match_count;
    struct span disabled_because; /* ptr NULL: enabled */
    const char *file;             /* for messages */
};

struct route_table {
    struct route *routes;
    size_t count;
    struct span *reply_topics; /* distinct names over all routes */
    size_t reply_topic_count;
    /* Routes with "enabled": false. They are as complete as the others, but nothing is matched with them and nobody
     * needs their topics: their `index` is the place in this list, and their reply topics are in a list of their own. */
    struct route *disabled;
    size_t disabled_count;
    struct span *disabled_topics;
    size_t disabled_topic_count;
    /* private parts follow in route_table_impl */
};

struct route_match {
    const struct route *route;
    struct mapping_param params[ROUTE_PARAMS_MAX]; /* values point into the target or into decoded */
    size_t param_count;
    struct buf decoded;    /* storage of decoded values; route_match_fini() */
    struct span bad_param; /* set when a percent-escape of a parameter is malformed: the raw segment */
};

/* Loads every *.json of `dir` (sorted by name; sub-directories are not routes), with the OpenAPI document at `openapi_path`
 * and envelopes and schemas relative to `dir`. Returns owned, or NULL with *err filled. Thread: any, at start. */
struct route_table *route_table_load(const char *dir, const char *openapi_path, struct err *err);
/* A topic of the route files, and what it is called in this installation. */
struct route_topic_name {
    struct span from, to;
};
/* The same; each topic that stands in `names` gets its other name as it is read, once. A name that no route file uses is
 * an error. */
struct route_table *route_table_load_renamed(const char *dir, const char *openapi_path,
                                             const struct route_topic_name *names, size_t name_count,
                                             struct err *err);
/* The same for route files in memory; `dir` still is where envelopes and schemas are. The texts are borrowed only during
 * the call. */
struct route_source {
    const char *name; /* stands for the file in messages */
    struct span text;
};
struct route_table *route_table_parse(const struct route_source *sources, size_t count, const char *dir,
                                      const char *openapi_path, struct err *err);
void route_table_freep(struct route_table **table);

/* Finds the route for a method and a raw request target (path and query as received). HEAD does not match GET routes
 * here. match->route is NULL when none fits (then nothing else is set but is safe to fini). A target whose parameter has a bad percent-escape matches
 * with bad_param set. Cost: independent of the number of routes but for shared prefixes. Thread: any. */
enum err_code route_table_match(const struct route_table *table, struct span method, struct span target,
                                struct route_match *match) SG_NODISCARD;
void route_match_fini(struct route_match *match);

/* The rule that answers a reply (scope->reply) which came on `topic` (an index into route_table.reply_topics) with
 * `event_type` (ptr NULL: it has none): the first that agrees and whose conditions hold, or NULL. *ret_expected: some rule
 * agrees in topic, eventType and version, so that the reply is meant for this route even if no rule answers it
 * (ERR_REPLY_UNMAPPED). The rule's schema is the caller's to check. Thread: any. */
const struct route_reply_rule *route_find_rule(const struct route *route, uint32_t topic,
                                               struct span event_type, const struct mapping_scope *scope,
                                               struct buf *scratch, bool *ret_expected);
/* True if some rule agrees in topic and eventType, whatever the version. Thread: any. */
bool route_knows_reply(const struct route *route, uint32_t topic, struct span event_type);
