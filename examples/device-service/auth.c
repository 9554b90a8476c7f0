/* SPDX-License-Identifier: Apache-2.0 */
#include "auth.h"

#include <jansson.h>
#include <jwt.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "devices.h"

/* The claims of a token whose signature holds, owned; else NULL. */
static json_t *verified_claims(const struct auth_key *key, const char *token)
{
    jwt_t *jwt = NULL;
    json_t *claims = NULL;
    if (!key->text || jwt_decode(&jwt, token, (const unsigned char *)key->text, (int)strlen(key->text)) != 0)
        return NULL;
    jwt_alg_t alg = jwt_get_alg(jwt);
    bool is_shared = alg == JWT_ALG_HS256 || alg == JWT_ALG_HS384 || alg == JWT_ALG_HS512;
    if (alg != JWT_ALG_NONE && is_shared == !key->is_public) {
        char *text = jwt_get_grants_json(jwt, NULL);
        claims = text ? json_loads(text, JSON_DECODE_INT_AS_REAL, NULL) : NULL;
        free(text);
    }
    jwt_free(jwt);
    return claims;
}

static bool has_admin(const json_t *roles)
{
    size_t i;
    json_t *role;
    json_array_foreach(roles, i, role) if (json_is_string(role) &&
                                           strcmp(json_string_value(role), "admin") == 0) return true;
    /* The legacy backend searches a plain string, so "superadmin" is an admin too. */
    return json_is_string(roles) && strstr(json_string_value(roles), "admin");
}

/* {"<alias>": {"id": "..."}}: the first entry must have that form; none at all is fine. */
static bool organization_ok(json_t *organization)
{
    void *first = json_object_iter(organization);
    json_t *entry = first ? json_object_iter_value(first) : json_array_get(organization, 0);
    return !entry || json_is_string(json_object_get(entry, "id"));
}

bool auth_user_from(const struct auth_key *key, const char *authorization, struct auth_user *ret_user)
{
    if (!authorization || strncmp(authorization, "Bearer ", 7) != 0)
        return false;
    /* Split on single spaces: what follows a third part is ignored, a double space makes an empty token. */
    char *token = or_die(strndup(authorization + 7, strcspn(authorization + 7, " ")));
    json_t *claims = *token ? verified_claims(key, token) : NULL;
    free(token);
    if (!claims)
        return false;
    const char *sub = json_string_value(json_object_get(claims, "sub"));
    const json_t *exp = json_object_get(claims, "exp"), *nbf = json_object_get(claims, "nbf"),
                 *iat = json_object_get(claims, "iat");
    double now = (double)time(NULL);
    bool ok = sub && *sub && json_is_string(json_object_get(claims, "email")) &&
              (!exp || (json_is_number(exp) && json_number_value(exp) > now)) &&
              (!nbf || (json_is_number(nbf) && json_number_value(nbf) <= now)) &&
              (!iat || json_is_number(iat)) && organization_ok(json_object_get(claims, "organization"));
    if (ok) {
        ret_user->sub = or_die(strdup(sub));
        ret_user->is_admin = has_admin(json_object_get(json_object_get(claims, "realm_access"), "roles")) ||
                             has_admin(json_object_get(claims, "role"));
    }
    json_decref(claims);
    return ok;
}
