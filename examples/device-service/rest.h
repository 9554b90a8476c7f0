/* SPDX-License-Identifier: Apache-2.0 */
/* rest: the device endpoints of the legacy backend, under /api. One thread of libmicrohttpd's serves them.
 * With test_hooks also GET /__test/executions and POST /__test/behaviour, which are no part of the API. */
#pragma once

#include <stdint.h>

#include "auth.h"
#include "devices.h"
#include "responder.h"

struct rest;

struct rest_config {
    const char *host; /* an IPv4 address */
    uint16_t port;    /* 0: any free one */
    struct auth_key key;
    bool test_hooks;
};

/* Borrows all but the config struct itself; responder may be NULL. Returns owned; NULL with the reason on
 * stderr. */
struct rest *rest_new(const struct rest_config *config, struct devices *devices, struct responder *responder);
uint16_t rest_port(const struct rest *rest);
/* Answers what is under way first. NULL-safe. */
void rest_freep(struct rest **rest);
