/* SPDX-License-Identifier: Apache-2.0 */
/* answer: reads one HTTP/1.1 answer from the front of a buffer. Pure; keeps no state between calls. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct answer {
    int status;
    bool close;       /* the server closes the connection behind it */
    const char *body; /* inside the buffer; chunks joined */
    size_t body_len;
};

/* Returns the bytes the answer takes, 0 if it is not complete yet, -1 if it is none that can be framed (RFC
 * 9112 section 6). A chunked body is joined in place, so `text` is changed, but only once the answer is
 * complete. */
ssize_t answer_parse(char *text, size_t len, struct answer *ret_answer);

/* True if the JSON text `body` has the key `name` with the string `value` somewhere. A search, not a parser:
 * enough for answers whose shape is known. `name` with its quotes; value without. */
bool answer_has_string(const struct answer *answer, const char *name, const char *value, size_t value_len);
bool answer_has_key(const struct answer *answer, const char *name);
