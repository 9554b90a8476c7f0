/* SPDX-License-Identifier: Apache-2.0 */
/* clients: the service's two librdkafka clients, set up for answering commands. */
#pragma once

#include <librdkafka/rdkafka.h>

struct clients_config {
    const char *brokers, *group, *linger_ms;
    char **properties; /* "key=value", NULL-terminated; they win over what is set here */
    void (*on_rebalance)(rd_kafka_t *consumer, rd_kafka_resp_err_t err,
                         rd_kafka_topic_partition_list_t *partitions, void *opaque);
    void *opaque; /* on_rebalance's last argument */
};

/* Return owned; NULL with the reason on stderr. */
rd_kafka_t *clients_new_producer(const struct clients_config *config);
rd_kafka_t *clients_new_consumer(const struct clients_config *config);
/* The first message to a topic that the producer does not know yet takes up to a second: learns it now. */
void clients_learn_topic(rd_kafka_t *producer, const char *name);
