/* SPDX-License-Identifier: Apache-2.0 */
#include "table.h"

static bool type_fits(const struct route_reply_rule *rule, struct span event_type, bool has_body)
{
    if (rule->untyped)
        return !event_type.ptr;
    return has_body && (!rule->event_type.ptr || (event_type.ptr && span_eq(rule->event_type, event_type)));
}

const struct route_reply_rule *route_find_rule(const struct route *route, uint32_t topic,
                                               struct span event_type, const struct mapping_scope *scope,
                                               struct buf *scratch, bool *ret_expected)
{
    *ret_expected = false;
    for (size_t i = 0; i < route->rule_count; i++) {
        const struct route_reply_rule *rule = &route->rules[i];
        if (rule->topic != topic || !type_fits(rule, event_type, scope->reply))
            continue;
        if (scope->reply && !versions_accept(&rule->versions, scope->reply))
            continue;
        bool holds = !rule->when || mapping_condition_holds(rule->when, scope, scratch);
        /* Something without a type is meant for the route only if a rule knows it by its conditions. */
        *ret_expected |= holds || !rule->untyped;
        if (holds)
            return rule;
    }
    return NULL;
}

bool route_knows_reply(const struct route *route, uint32_t topic, struct span event_type)
{
    for (size_t i = 0; i < route->rule_count; i++)
        if (route->rules[i].topic == topic && !route->rules[i].untyped &&
            type_fits(&route->rules[i], event_type, true))
            return true;
    return false;
}
