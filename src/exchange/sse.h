/* SPDX-License-Identifier: Apache-2.0 */
/* Private to exchange, and pure: server-sent events (HTML Standard, section "Server-sent events"): who asks for them, and how
 * they are written. */
#pragma once

#include "syncgate/base.h"

/* What the Accept fields of a request say, added up field line by field line. Zero-initialised: nothing. Weights are
 * thousandths (RFC 9110 section 12.4.2). */
struct sse_accept {
    unsigned events;          /* of text/event-stream by its name */
    unsigned json, json_rank; /* of application/json, by the most specific range so far; rank 0: by none */
};
/* One field value: a list of media ranges (RFC 9110 section 12.5.1). A range with a malformed weight is passed over. */
void sse_accept_add(struct sse_accept *accept, struct span value);
/* text/event-stream is named, and JSON, the other form of the answer, is not preferred to it. A range with an asterisk does not
 * ask for a stream. */
bool sse_accept_asks(const struct sse_accept *accept);

/* Appends one event. `data` of several lines becomes several data fields, which the reader joins again by line feeds. */
void sse_append(struct buf *out, const char *event, uint64_t id, struct span data);
