/* SPDX-License-Identifier: Apache-2.0 */
/* reply: a command and what came of it -> the messages that say so. Only the responder's thread uses it. */
#pragma once

#include <librdkafka/rdkafka.h>

#include "executed.h"

#define RESPONSES_TOPIC "device.commands.responses.v1"
#define EVENTS_TOPIC    "device.events.v1"

struct command {
    rd_kafka_headers_t *headers; /* borrowed, or NULL */
    json_t *body;                /* owned; the texts below point into it, or into the headers */
    bool is_unbind, wants_response;
    const char *id; /* the correlation id, shorter than EXECUTED_ID_SIZE */
    const char *device_id, *user_id, *reason;
    const char *malformed; /* what is wrong with it, or NULL */
};

/* How tests want the service to misbehave; all zero is normal. */
struct behaviour {
    int delay_ms, drop, drop_commands;
    int duplicate, stranger, no_headers, wrong_type, int_timestamp, no_payload_on_failure;
    bool by_event, by_response; /* how a successful bind is answered; neither: by response */
    bool fail;
    char fail_code[64], fail_message[256];
};

struct replier {
    rd_kafka_t *producer;                 /* borrowed */
    struct reply *delayed, *last_delayed; /* by due time */
};

/* The value of a header, NUL-terminated; NULL when absent. */
const char *reply_header(const rd_kafka_headers_t *headers, const char *name, size_t *ret_len);
void reply_send(struct replier *replier, const struct command *command, const struct outcome *outcome,
                const struct behaviour *behaviour);
/* Sends what was delayed until now_ms. Returns the ms until more is due, at most max_wait_ms. */
int reply_send_delayed(struct replier *replier, int64_t now_ms, int max_wait_ms);
