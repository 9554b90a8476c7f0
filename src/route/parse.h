/* SPDX-License-Identifier: Apache-2.0 */
/* What the parts of the route file's parser share. Those that parse return false (or NULL) with the error filled. */
#pragma once

#include "reader.h"

struct parser {
    struct reader r;
    struct route_loader *loader;
    struct route *route;
    struct span request_ref;        /* "#/components/schemas/X"; ptr NULL: the body is unchecked */
    struct route_versions versions; /* of the route */
    bool refs_ok;
};

/* parse.c */
/* A token of RFC 9110: the name of a method or of a header. */
bool parser_is_token(struct span text);
/* Templates check their references against the path and the request's schema. Owned by the caller. */
struct mapping_template *parser_template(struct parser *p, const struct json_node *node, unsigned roots);
/* One string. */
struct mapping_template *parser_text_template(struct parser *p, const struct json_node *node, unsigned roots);
/* "when"; without the key *ret stays NULL. */
bool parser_when(struct parser *p, const struct json_node *object, unsigned roots,
                 struct mapping_condition **ret_cond);
/* A member that may be missing; text: it must be one string. */
bool parser_member_template(struct parser *p, const struct json_node *object, const char *key, bool text,
                            unsigned roots, struct mapping_template **ret_tmpl);
/* "topic", under the name that the installation gives it. */
bool parser_topic(struct parser *p, const struct json_node *object, struct span *ret_topic);
/* Puts the place in this file before an error of another one. Always false. */
bool parser_prefix_err(struct parser *p);

/* outcome.c */
/* "replies" or "accepted". */
bool parser_outcome(struct parser *p, const struct json_node *root);
/* "finishByFields" */
bool parser_field_matches(struct parser *p, const struct json_node *root);
