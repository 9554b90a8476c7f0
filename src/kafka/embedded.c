/* SPDX-License-Identifier: Apache-2.0 */
/* The embedded broker: librdkafka's mock cluster in this process, for a first look and for tests. Other processes can
 * join it over its bootstrap address. It keeps nothing on disk, and its Fetch never long-polls.
 *
 * It makes a topic, of 4 partitions, when a client that allows it asks for one; ours do. rd_kafka_mock_topic_create() is not
 * used: the mock's thread may miss the wake-up of a call that follows another at once, and then sleeps for a second. */
#include "internal.h"

enum err_code kafka_embedded_start(struct kafka *kafka, struct err *err)
{
    char text[256];
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    /* Without it the mock's answers wait 40 ms for the client's acknowledgement. */
    rd_kafka_conf_set(conf, "socket.nagle.disable", "true", NULL, 0);
    rd_kafka_conf_set(conf, "client.id", "syncgate-embedded", NULL, 0);
    rd_kafka_conf_set_log_cb(conf, kafka_on_log);
    kafka->embedded = rd_kafka_new(RD_KAFKA_PRODUCER, conf, text, sizeof(text));
    if (!kafka->embedded) {
        rd_kafka_conf_destroy(conf);
        return err_set(err, ERR_INTERNAL, "cannot create the embedded broker: %s", text);
    }
    kafka->cluster = rd_kafka_mock_cluster_new(kafka->embedded, 1);
    kafka->bootstrap = kafka->cluster ? strdup(rd_kafka_mock_cluster_bootstraps(kafka->cluster)) : NULL;
    if (!kafka->bootstrap)
        return err_set(err, ERR_INTERNAL, "cannot start the embedded broker");
    return ERR_OK;
}

void kafka_embedded_stop(struct kafka *kafka)
{
    if (kafka->cluster)
        rd_kafka_mock_cluster_destroy(kafka->cluster);
    if (kafka->embedded)
        rd_kafka_destroy(kafka->embedded);
}

const char *kafka_embedded_bootstrap(const struct kafka *kafka)
{
    return kafka->bootstrap;
}
