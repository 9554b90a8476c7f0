/* SPDX-License-Identifier: Apache-2.0 */
#include "principal.h"

#include "key.h"

/* 16 KiB of token hold some 300 uuids or 1500 short names; 2048 nodes are 48 KiB while they are counted. */
#define PAYLOAD_NODES_MAX 2048

/* The principal with the text that its spans and its index point into. */
struct principal_box {
    struct auth_principal principal;
    struct buf subject; /* the decoded `sub`, when it was written with escapes */
    char payload[];
};

struct auth_principal *auth_principal_ref(struct auth_principal *principal)
{
    principal->refs++;
    return principal;
}

void auth_principal_unrefp(struct auth_principal **principal_ptr)
{
    struct auth_principal *principal = *principal_ptr;
    *principal_ptr = NULL;
    if (!principal || --principal->refs)
        return;
    struct principal_box *box = SG_CONTAINER_OF(principal, struct principal_box, principal);
    json_fini(&principal->claims);
    buf_fini(&box->subject);
    free(box);
}

bool auth_principal_has_role(const struct auth_principal *principal, struct span role)
{
    return span_eq(role, principal->admin ? SPAN_LIT("admin") : SPAN_LIT("personal-user"));
}

/* ---- claims ---- */

/* A NumericDate (RFC 7519 section 2) in whole seconds, rounded up: for a whole n, date <= n holds exactly
 * when the rounded one does. Saturates. */
static int64_t whole_seconds_up(double date)
{
    if (date >= 0x1p63)
        return INT64_MAX;
    if (date < -0x1p63)
        return INT64_MIN;
    int64_t whole = (int64_t)date;
    return (double)whole < date ? whole + 1 : whole;
}

static bool array_has(const struct json_doc *doc, const struct json_node *array, struct span value)
{
    if (!array || array->type != JSON_ARRAY)
        return false;
    for (const struct json_node *item = json_first(doc, array); item; item = json_next(doc, item))
        if (json_string_eq(doc, item, value))
            return true;
    return false;
}

/* Reads the claim called `name` into *ret_s. False: it is there, but no number. */
static bool date_claim(const struct json_doc *doc, struct span name, int64_t absent_s, int64_t *ret_s)
{
    const struct json_node *node = json_get(doc, json_root(doc), name);
    *ret_s = absent_s;
    if (!node)
        return true;
    if (node->type != JSON_NUMBER)
        return false;
    *ret_s = whole_seconds_up(json_number(doc, node));
    return true;
}

/* Returns NULL, or why the token is refused. Fills exp_s. */
static const char *dates_check(struct auth_principal *principal, const struct claim_rules *rules,
                               int64_t now_s)
{
    const struct json_doc *doc = &principal->claims;
    int64_t nbf_s, iat_s;
    if (!date_claim(doc, SPAN_LIT("exp"), INT64_MAX, &principal->exp_s))
        return "exp is not a number";
    if (rules->require_exp && !json_get(doc, json_root(doc), SPAN_LIT("exp")))
        return "no exp";
    if (principal->exp_s <= now_s)
        return "expired";
    if (!date_claim(doc, SPAN_LIT("nbf"), INT64_MIN, &nbf_s))
        return "nbf is not a number";
    if (nbf_s > now_s)
        return "not valid yet";
    return date_claim(doc, SPAN_LIT("iat"), 0, &iat_s) ? NULL : "iat is not a number";
}

static const char *parties_check(const struct json_doc *doc, const struct claim_rules *rules)
{
    const struct json_node *iss = json_get(doc, json_root(doc), SPAN_LIT("iss"));
    const struct json_node *aud = json_get(doc, json_root(doc), SPAN_LIT("aud"));
    if (rules->issuer && !(iss && json_string_eq(doc, iss, span_of(rules->issuer))))
        return "wrong issuer";
    struct span audience = span_of(rules->audience);
    if (rules->audience && !(aud && json_string_eq(doc, aud, audience)) && !array_has(doc, aud, audience))
        return "wrong audience";
    return NULL;
}

static enum err_code subject_read(struct principal_box *box, const char **ret_reason)
{
    const struct json_doc *doc = &box->principal.claims;
    const struct json_node *sub = json_get(doc, json_root(doc), SPAN_LIT("sub"));
    if (!sub || sub->type != JSON_STRING) {
        *ret_reason = "no sub";
        return ERR_UNAUTHORIZED;
    }
    box->principal.subject = json_string(doc, sub, &box->subject);
    if (!box->principal.subject.ptr)
        return ERR_NO_MEMORY;
    if (box->principal.subject.len)
        return ERR_OK;
    *ret_reason = "empty sub";
    return ERR_UNAUTHORIZED;
}

static enum err_code box_fill(struct principal_box *box, struct span payload, const struct claim_rules *rules,
                              int64_t now_s, const char **ret_reason)
{
    struct auth_principal *principal = &box->principal;
    struct json_doc *doc = &principal->claims;
    enum err_code code = json_parse(doc, payload, PAYLOAD_NODES_MAX);
    if (code == ERR_NO_MEMORY)
        return code;
    const char *why = NULL;
    if (code != ERR_OK || json_root(doc)->type != JSON_OBJECT)
        why = "payload is not a JSON object";
    if (!why)
        why = dates_check(principal, rules, now_s);
    if (!why)
        why = parties_check(doc, rules);
    if (why) {
        *ret_reason = why;
        return ERR_UNAUTHORIZED;
    }
    const struct json_node *access = json_get(doc, json_root(doc), SPAN_LIT("realm_access"));
    principal->admin = array_has(doc, json_get(doc, access, SPAN_LIT("roles")), SPAN_LIT("admin")) ||
                       array_has(doc, json_get(doc, json_root(doc), SPAN_LIT("role")), SPAN_LIT("admin"));
    return subject_read(box, ret_reason);
}

/* The index stays as long as the token is cached: give back what parsing reserved on top. */
static void claims_trim(struct json_doc *doc)
{
    struct json_node *nodes = realloc(doc->nodes, doc->count * sizeof(*nodes));
    if (nodes) {
        doc->nodes = nodes;
        doc->cap = doc->count;
    }
}

enum err_code principal_new(struct span payload_base64url, const struct claim_rules *rules, int64_t now_s,
                            struct auth_principal **ret_principal, const char **ret_reason)
{
    struct principal_box *box = malloc(sizeof(*box) + payload_base64url.len + 2);
    if (!box)
        return ERR_NO_MEMORY;
    box->principal = (struct auth_principal){.refs = 1, .claims = JSON_DOC_INIT};
    box->subject = BUF_INIT;
    struct auth_principal *principal = &box->principal;
    size_t len = 0;
    enum err_code code = ERR_UNAUTHORIZED;
    if (base64url_decode(payload_base64url, (unsigned char *)box->payload, &len))
        code = box_fill(box, (struct span){box->payload, len}, rules, now_s, ret_reason);
    else
        *ret_reason = "payload is not base64url";
    if (code != ERR_OK) {
        auth_principal_unrefp(&principal);
        return code;
    }
    claims_trim(&principal->claims);
    *ret_principal = principal;
    return ERR_OK;
}
