/* SPDX-License-Identifier: Apache-2.0 */
/* Where replies come to, and by which headers they are known: the instance's own reply address, and the names in which a
 * reply may carry its id. */
#include "internal.h"

enum err_code exchange_address_bind(struct exchange_shared *shared, struct exchange_plan *plan)
{
    const struct config *config = plan->config;
    if (config->reply_partition != CONFIG_ANY_PARTITION)
        snprintf(plan->reply_partition, sizeof(plan->reply_partition), "%u", config->reply_partition);
    plan->address_id = EXCHANGE_NO_ADDRESS;
    if (!config->reply_topic || !shared->kafka)
        return ERR_OK;
    const struct span name = span_of(config->reply_topic);
    return kafka_add_reply_topics(shared->kafka, &name, 1, &plan->address_id);
}

bool exchange_came_on(const struct exchange_plan *plan, const struct route *route, uint32_t topic,
                      uint32_t kafka_topic)
{
    return plan->reply_topic_ids[topic] == kafka_topic ||
           (kafka_topic == plan->address_id && route->rule_count && route->rules[0].topic == topic);
}

/* ---- headers of replies ---- */

static bool is_known(const struct exchange_shared *shared, unsigned count, struct span name)
{
    for (unsigned i = 0; i < count; i++)
        if (span_eq(span_of(shared->id_headers[i]), name))
            return true;
    return false;
}

static enum err_code add_id_header(struct exchange_shared *shared, struct span name)
{
    unsigned count = atomic_load_explicit(&shared->id_header_count, memory_order_relaxed); /* our own */
    if (is_known(shared, count, name))
        return ERR_OK;
    if (count == EXCHANGE_ID_HEADERS_MAX)
        return ERR_OVERLOADED;
    shared->id_headers[count] = span_dup(name);
    if (!shared->id_headers[count])
        return ERR_NO_MEMORY;
    atomic_store_explicit(&shared->id_header_count, count + 1, memory_order_release);
    return ERR_OK;
}

enum err_code exchange_id_headers_bind(struct exchange_shared *shared, const struct exchange_plan *plan)
{
    enum err_code code = ERR_OK;
    for (size_t i = 0; i < plan->routes->count; i++) {
        const struct route_headers *headers = plan->routes->routes[i].command.headers;
        for (size_t h = 0; code == ERR_OK && h < headers->reply_count; h++)
            code = add_id_header(shared, headers->reply[h]);
    }
    return code;
}

void exchange_id_headers_fini(struct exchange_shared *shared)
{
    unsigned count = atomic_load(&shared->id_header_count);
    for (unsigned i = 0; i < count; i++)
        free(shared->id_headers[i]);
}
