/* SPDX-License-Identifier: Apache-2.0 */
/* responder: answers the commands device.command.bind and device.command.unbind of the topic
 * device.commands.v1. One thread of its own consumes, executes and replies. */
#pragma once

#include <jansson.h>

#include "devices.h"

struct responder;

struct responder_config {
    const char *brokers, *group;
    const char *linger_ms;
    char **properties;      /* "key=value" for librdkafka, NULL-terminated */
    void (*on_ready)(void); /* once, when the consumer has its partitions. Thread: the responder's */
};

/* Borrows devices for its life. Returns owned; NULL when librdkafka refuses, with the reason on stderr. */
struct responder *responder_new(const struct responder_config *config, struct devices *devices);
/* Executes what it has, sends the replies, commits, leaves the group. NULL-safe. */
void responder_freep(struct responder **responder);

/* For tests, --test-hooks. Thread: any. */
json_t *responder_executions(struct responder *responder);
/* Replaces the whole behaviour: what wanted does not name is back to normal. Returns an owned text when
 * wanted is not understood, else NULL. */
char *responder_behave(struct responder *responder, json_t *wanted);
