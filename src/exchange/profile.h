/* SPDX-License-Identifier: Apache-2.0 */
/* Private to exchange, and pure: error bodies in the forms of SYNCGATE_ERROR_PROFILE. */
#pragma once

#include "syncgate/exchange.h"
#include "syncgate/json.h"

/* Appends the 400 body for the list of issues that schema_explain() wrote. `doc` is working memory. False: no memory. */
bool profile_invalid(enum config_error_profile profile, struct span issues, struct span correlation_id,
                     struct json_doc *doc, struct buf *out);
/* Appends an RFC 9457 body; `detail` is a JSON string with its quotes, `code` the wire code of the error. */
void profile_problem(enum err_code code, struct span detail, struct span correlation_id, struct buf *out);
/* The reason phrase of RFC 9110 for the statuses that the gateway makes. */
const char *profile_reason(int status);
