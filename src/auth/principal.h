/* SPDX-License-Identifier: Apache-2.0 */
/* principal: the payload of a token whose signature holds -> principal, if its claims hold too. Private to
 * auth. */
#pragma once

#include "syncgate/auth.h"

/* What a payload must say. */
struct claim_rules {
    const char *issuer;   /* NULL: anything */
    const char *audience; /* NULL: anything */
    bool require_exp;
};

/* Decodes and checks. ERR_OK with *ret_principal owned; ERR_UNAUTHORIZED with *ret_reason (static text);
 * ERR_NO_MEMORY. */
enum err_code principal_new(struct span payload_base64url, const struct claim_rules *rules, int64_t now_s,
                            struct auth_principal **ret_principal, const char **ret_reason) SG_NODISCARD;
