/* SPDX-License-Identifier: Apache-2.0 */
/* Private to exchange: the call, its worker, and what its files offer each other. */
#pragma once

#include <netinet/in.h>

#include "syncgate/exchange.h"
#include "syncgate/log.h"

#define EXCHANGE_JSON_NODES 65536u
#define EXCHANGE_SMALL_BODY (16 << 10) /* legacy answers up to this size are sent in one piece */

#define EXCHANGE_STATES(X)                                                                      \
    X(EXCHANGE_NEW, "new")               /* the head is being looked at */                      \
    X(EXCHANGE_COLLECTING, "collecting") /* Kafka path: the body comes in */                    \
    X(EXCHANGE_PARKED, "parked")         /* the command is out; the awaiter table has it */     \
    X(EXCHANGE_STREAMING, "streaming")   /* the same, and the head of an event stream is out */ \
    X(EXCHANGE_PROXYING, "proxying")     /* legacy path: a call is under way */                 \
    X(EXCHANGE_ANSWERED, "answered")     /* an answer is queued, or the client is gone */
enum exchange_state {
#define X(code, name) code,
    EXCHANGE_STATES(X)
#undef X
        EXCHANGE_STATE_COUNT
};

/* A plan as one loop holds it: `uses` counts its calls without atomics. Gone with the last of them, once another is current. */
struct exchange_view {
    struct exchange_plan *plan; /* a reference */
    uint32_t uses;
};

struct exchange_worker {
    struct exchange_shared *shared;
    struct exchange_view *view; /* of calls that begin now */
    struct loop *loop;
    struct await_table *table;
    struct legacy *legacy; /* NULL: none configured */
    struct auth *auth;     /* NULL: no keys */
    struct ops_counters *counters;
    uint32_t active, streams;
    struct log_limit log_limit;
    struct log_limit dead_letters,
        dead_letter_log; /* how many may go in a second; how many failures are told */
    /* Working memory, used within one callback only. */
    struct json_doc body_doc, reply_doc, command_doc;
    struct buf scratch, payload, value, key, text, headers;
};

/* The answer as an event stream. */
struct exchange_stream {
    struct exchange *ex;
    struct loop_timer quiet; /* the next comment line is due */
    struct buf last;         /* the terminal event, while the front has no room for it */
    uint64_t events;         /* taken by the front */
};

struct exchange {
    struct exchange_worker *worker;
    struct exchange_view *view; /* the configuration it began with */
    struct http_request *http;
    enum exchange_state state;
    struct path_flag flag; /* of the route when it began */
    enum path_taken path;
    enum err_code code;      /* of a gateway-made answer, for the log */
    int fallback;            /* enum path_fallback, -1: none */
    const char *auth_reason; /* why a token was refused, for the log */
    struct route_match match;
    const struct route *route; /* NULL: no route file names it */
    struct await_entry entry;
    struct await_id id; /* the correlation id, whatever the path */
    char id_text[AWAIT_ID_TEXT_LEN + 1];
    struct auth_principal *principal;
    int64_t now_ms, deadline_ms; /* unix ms of the command */
    uint64_t parked_ns;          /* CLOCK_MONOTONIC */
    uint64_t waited_ns;          /* produce to reply */
    bool delivered, uncertain;
    bool progressed; /* a progress reply came: the command is in Kafka, whatever a report says */
    bool
        awaits_report; /* one-way, or the cluster's probe: Kafka knows that somebody waits for delivery reports */
    bool in_flight;         /* counted in the route's bulkhead */
    bool has_json;          /* the body was read as JSON; one of another type counts as absent */
    bool unread_body;       /* there is one that legacy would have read */
    uint64_t body_reserved; /* bytes of the body budget */
    struct path_permit route_permit, cluster_permit;
    uint64_t retry_after_ns;                /* of an answer that may be retried; 0: a second */
    struct await_fields_node **field_nodes; /* one per field match of the route; NULL: off */
    struct exchange_stream *stream;         /* NULL: its answer is no event stream */
    struct legacy_call *call;
    bool legacy_streaming, legacy_ended;
    struct buf legacy_body;          /* a small answer being gathered */
    struct http_answer *legacy_head; /* its head, kept meanwhile */
};

/* worker.c */
struct exchange_view *exchange_view_take(struct exchange_worker *worker);
void exchange_view_release(struct exchange_worker *worker, struct exchange_view *view);
/* exchange.c */
void exchange_set_state(struct exchange *ex, enum exchange_state state);
struct exchange_route *exchange_route_state(const struct exchange *ex);
/* Its time is the command's. */
void exchange_scope(const struct exchange *ex, struct mapping_scope *scope);
/* Whether the awaiter table has it. */
static inline bool exchange_waits(const struct exchange *ex)
{
    return ex->state == EXCHANGE_PARKED || ex->state == EXCHANGE_STREAMING;
}
/* The awaiter's side: out of the table and of the field index. */
void exchange_unpark(struct exchange *ex, enum await_winner winner);
/* Gives the body's part of the budget back, and the body itself if it is not needed any more. */
void exchange_body_release(struct exchange *ex, bool drop);
/* choose.c: whether a call of a Kafka route takes Kafka; if not, *ret_reason says why, or -1: its flag says so. */
bool exchange_takes_kafka(struct exchange *ex, int *ret_reason);
/* breaker.c */
/* A look without taking a permit: would every call be refused right now? */
bool exchange_breaker_refuses(struct exchange *ex, enum path_fallback *ret_reason);
/* Takes both permits, or none and says which breaker refused. */
bool exchange_breaker_ask(struct exchange *ex, enum path_fallback *ret_reason);
void exchange_breaker_report(struct exchange *ex, enum path_outcome route, enum path_outcome cluster);
/* The command was refused, or its delivery failed. */
void exchange_breaker_report_failure(struct exchange *ex, enum err_code code);
/* The command is in Kafka: all that the cluster's breaker wants to know. */
void exchange_breaker_report_written(struct exchange *ex);
/* The wait is over. */
void exchange_breaker_report_end(struct exchange *ex, enum await_winner winner);
/* check.c: body, token, role, schema. True: the request is good. False: it was answered or sent to legacy. */
bool exchange_check(struct exchange *ex);
/* body.c: reads and indexes the body. *ret_root is NULL for an absent one. False: answered, or sent to legacy. */
bool exchange_parse_body(struct exchange *ex, const struct json_node **ret_root);
/* profile.c: refusals in the form of the error profile. `message` is a JSON string with its quotes. */
void exchange_refuse(struct exchange *ex, enum err_code code, struct span message);
/* The list of issues that schema_explain() wrote. */
void exchange_refuse_invalid(struct exchange *ex, const struct buf *issues);
/* command.c: forms the command and produces it; parks, answers or falls back. */
void exchange_send_command(struct exchange *ex);
void exchange_on_delivery(void *loop_arg, uint64_t handle, enum kafka_delivery delivery, enum err_code code);
/* One-way calls and the cluster's probes wait for delivery reports; true before the command is out, false when the wait is over. */
void exchange_await_report(struct exchange *ex, bool awaits);
/* The command is in Kafka, by its report or by a progress reply: legacy cannot get it any more. */
void exchange_written(struct exchange *ex);
/* fields.c */
void exchange_fields_add(struct exchange *ex, const struct mapping_scope *scope);
void exchange_fields_remove(struct exchange *ex);
uint64_t exchange_fields_find(struct exchange_shared *shared, const struct kafka_record *record,
                              const struct json_doc *doc);
/* address.c */
/* The instance's reply address is read from now on. As exchange_plan_bind(). Thread: main. */
enum err_code exchange_address_bind(struct exchange_shared *shared, struct exchange_plan *plan) SG_NODISCARD;
/* Whether a record that came on kafka_topic counts as one on the route's topic `topic`: replies on the instance's own address
 * count as replies on the topic of the first rule. */
bool exchange_came_on(const struct exchange_plan *plan, const struct route *route, uint32_t topic,
                      uint32_t kafka_topic);
/* The reader looks at the headers of this plan's profiles from now on. As exchange_plan_bind(). Thread: main. */
enum err_code exchange_id_headers_bind(struct exchange_shared *shared,
                                       const struct exchange_plan *plan) SG_NODISCARD;
void exchange_id_headers_fini(struct exchange_shared *shared);
/* reply.c */
/* The request's body again, when a template of the answer refers to it: it was kept, its index was not. */
void exchange_restore_body(struct exchange *ex);
bool exchange_on_record(void *arg, struct kafka_record *record);
void exchange_on_reply(void *loop_arg, const struct kafka_record *record);
/* dead_letter.c: keeps a reply to this call that cannot be used, if there is a topic for that. */
void exchange_dead_letter(struct exchange *ex, const struct kafka_record *record, const char *reason);
/* stream.c */
/* A progress reply: an event if the client asked for a stream, which its first one begins. The call goes on waiting. */
void exchange_stream_progress(struct exchange *ex, const struct route_answer *answer,
                              const struct mapping_scope *scope);
/* A terminal reply is here, and the call still parked. Begins the stream if this is the first reply, the client asked for a
 * stream, and the reply is a success. */
void exchange_stream_offer(struct exchange *ex, const struct route_answer *answer);
/* The terminal event of a call that is STREAMING and not in the table any more. */
void exchange_stream_end(struct exchange *ex, const struct route_answer *answer,
                         const struct mapping_scope *scope);
void exchange_stream_end_error(struct exchange *ex, struct span body);
/* The front has room again. */
void exchange_stream_drain(struct exchange *ex);
/* Nothing is waited for any more: no more comment lines. */
void exchange_stream_quit(struct exchange *ex);
void exchange_stream_free(struct exchange *ex);
/* proxy.c */
void exchange_proxy_start(struct exchange *ex, bool stream);
size_t exchange_proxy_write(struct exchange *ex, const char *data, size_t len);
void exchange_proxy_stop(struct exchange *ex);
/* To legacy when it may go there, else the error's answer. Only for a command that is certainly not in Kafka. */
void exchange_fall_back(struct exchange *ex, enum path_fallback reason, enum err_code code);
/* Counts it, and keeps it for the log line. */
void exchange_note_fallback(struct exchange *ex, enum path_fallback reason);
/* IPv4-mapped addresses as IPv4. */
void exchange_format_address(const struct sockaddr *address, char out[INET6_ADDRSTRLEN]);
/* answer.c */
void exchange_answer_error(struct exchange *ex, enum err_code code, const char *message);
/* An error, in the form of the profile already. */
void exchange_answer_json(struct exchange *ex, int status, struct span body);
void exchange_answer_rule(struct exchange *ex, const struct route_answer *answer,
                          const struct mapping_scope *scope);
void exchange_answer_legacy(struct exchange *ex, const struct legacy_response *response,
                            int64_t stream_length, struct span body, bool streamed);
void exchange_answer_preflight(struct exchange *ex);
/* The head of an event stream. */
void exchange_answer_stream(struct exchange *ex);
/* report.c */
void exchange_report(struct exchange *ex, const struct http_summary *summary);
