/* SPDX-License-Identifier: Apache-2.0 */
/* Private to exchange, and pure: what JSON.parse() says about a text that is none. */
#pragma once

#include "syncgate/base.h"

enum bad_json {
    BAD_JSON_MALFORMED,   /* *message has the text */
    BAD_JSON_WELL_FORMED, /* JSON.parse() takes it: only our own limits, or strict UTF-8, are against it */
    BAD_JSON_NO_MEMORY,
};

/* Reads `body` as the legacy backend's body parser does (one byte order mark dropped, bytes that are not UTF-8 become U+FFFD,
 * top level an object or an array) and appends its error message to `message`, as a JSON string with its quotes.
 * The texts are those of Node.js 20 (V8 11.3). Positions count UTF-16 code units. */
enum bad_json bad_json_explain(struct span body, struct buf *message);
