/* SPDX-License-Identifier: Apache-2.0 */
/* json_text: JSON as Node.js reads it. Jansson refuses some of what JSON.parse() takes; that is made fit for it first. */
#pragma once

#include <jansson.h>

/* The value, owned; or NULL, and then *ret_message (may be NULL) has JSON.parse()'s message, owned. Halves of surrogate pairs,
 * NUL and bytes that are not UTF-8 become U+FFFD, numbers beyond the doubles the largest power of ten. One byte order mark is
 * dropped. */
json_t *json_text_parse(const char *text, size_t len, json_t **ret_message);
