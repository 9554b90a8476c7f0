/* SPDX-License-Identifier: Apache-2.0 */
#include "clients.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "devices.h"

static bool set(rd_kafka_conf_t *conf, const char *name, const char *value)
{
    char why[512];
    if (rd_kafka_conf_set(conf, name, value, why, sizeof(why)) == RD_KAFKA_CONF_OK)
        return true;
    fprintf(stderr, "device-service: kafka: %s\n", why);
    return false;
}

static bool set_property(rd_kafka_conf_t *conf, const char *property)
{
    char *name = or_die(strdup(property)), *value = strchr(name, '=');
    if (value)
        *value++ = '\0';
    bool ok = set(conf, name, value ? value : "");
    free(name);
    return ok;
}

static rd_kafka_t *new_client(const struct clients_config *config, rd_kafka_type_t type,
                              rd_kafka_conf_t *conf, bool ok)
{
    char why[512] = "";
    ok = ok && set(conf, "bootstrap.servers", config->brokers) && set(conf, "client.id", "device-service") &&
         set(conf, "socket.nagle.disable", "true");
    for (char **property = config->properties; ok && *property; property++)
        ok = set_property(conf, *property);
    rd_kafka_conf_set_opaque(conf, config->opaque);
    rd_kafka_t *client = ok ? rd_kafka_new(type, conf, why, sizeof(why)) : NULL;
    if (client)
        return client;
    rd_kafka_conf_destroy(conf);
    if (*why)
        fprintf(stderr, "device-service: kafka: %s\n", why);
    return NULL;
}

static void on_delivery_failed(rd_kafka_t *producer, const rd_kafka_message_t *msg, void *opaque)
{
    (void)producer;
    (void)opaque;
    fprintf(stderr, "device-service: reply lost: %s\n", rd_kafka_err2str(msg->err));
}

rd_kafka_t *clients_new_producer(const struct clients_config *config)
{
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    rd_kafka_conf_set_dr_msg_cb(conf, on_delivery_failed);
    /* The partitioner is the one of Java and NestJS clients: a device keeps its partition whoever writes. */
    bool ok = set(conf, "linger.ms", config->linger_ms) &&
              set(conf, "max.in.flight", "2") && /* busy: batches */
              set(conf, "message.timeout.ms", "10000") && set(conf, "delivery.report.only.error", "true") &&
              set(conf, "partitioner", "murmur2_random");
    return new_client(config, RD_KAFKA_PRODUCER, conf, ok);
}

rd_kafka_t *clients_new_consumer(const struct clients_config *config)
{
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    rd_kafka_conf_set_rebalance_cb(conf, config->on_rebalance);
    /* earliest: a new group misses no command. Offsets are stored and committed by hand, after the work is
     * done. 10 ms: the embedded broker answers an empty fetch only when this time is over. */
    bool ok = set(conf, "group.id", config->group) && set(conf, "auto.offset.reset", "earliest") &&
              set(conf, "enable.auto.commit", "false") && set(conf, "enable.auto.offset.store", "false") &&
              set(conf, "allow.auto.create.topics", "true") && set(conf, "fetch.wait.max.ms", "10");
    return new_client(config, RD_KAFKA_CONSUMER, conf, ok);
}

void clients_learn_topic(rd_kafka_t *producer, const char *name)
{
    const struct rd_kafka_metadata *metadata = NULL;
    rd_kafka_topic_t *topic = rd_kafka_topic_new(producer, name, NULL);
    if (topic && rd_kafka_metadata(producer, 0, topic, &metadata, 5000) == RD_KAFKA_RESP_ERR_NO_ERROR)
        rd_kafka_metadata_destroy(metadata);
    if (topic)
        rd_kafka_topic_destroy(topic);
}
