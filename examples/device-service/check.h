/* SPDX-License-Identifier: Apache-2.0 */
/* check: the legacy backend's request validation, down to the issue objects its clients see (it used zod). */
#pragma once

#include <jansson.h>
#include <stdbool.h>

struct check_shape;

extern const struct check_shape check_generate_qr_body, check_bind_body, check_unbind_body;
extern const struct check_shape check_my_query, check_admin_query;

/* NULL when value (NULL: absent) has the shape, else its problems: {"issues":[...],"name":"ZodError"}, owned.
 */
json_t *check(const json_t *value, const struct check_shape *shape);
/* What JavaScript's Number() makes of a query parameter: a string, or (repeated) an array, which is NaN. */
double check_number(const json_t *text);
/* 8-4-4-4-12 hex digits, any version. */
bool check_is_uuid(const char *text);
/* JavaScript's text.length. */
size_t check_utf16_len(const char *text);
