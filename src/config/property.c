/* SPDX-License-Identifier: Apache-2.0 */
/* Which librdkafka properties an operator may set. Everything passes but what the gateway sets itself and
 * what would break its promises: a command at most once, no reply lost (design.md section 5). Whether a
 * property exists and its value fits is librdkafka's to say. */
#include "options.h"

#include <errno.h>

#define READS_ITSELF "the reply reader assigns its partitions and offsets itself, without a consumer group"
#define ONLY_CODE    "it is set in code only"

static const struct {
    const char *name;
    const char *why;
} refused[] = {
    {"bootstrap.servers", "use KAFKA_BROKERS (kafka.brokers)"},
    {"metadata.broker.list", "use KAFKA_BROKERS (kafka.brokers)"},
    {"message.timeout.ms", "use KAFKA_MESSAGE_TIMEOUT (kafka.messageTimeout)"},
    {"delivery.timeout.ms", "use KAFKA_MESSAGE_TIMEOUT (kafka.messageTimeout)"},
    {"test.mock.num.brokers", "use KAFKA_BROKERS=embedded"},
    {"test.mock.broker.rtt", "use KAFKA_BROKERS=embedded"},
    {"group.id", READS_ITSELF},
    {"group.instance.id", READS_ITSELF},
    {"group.protocol", READS_ITSELF},
    {"enable.auto.commit", READS_ITSELF},
    {"auto.commit.enable", READS_ITSELF},
    {"enable.auto.offset.store", READS_ITSELF},
    {"auto.offset.reset", READS_ITSELF},
    {"enable.partition.eof", READS_ITSELF},
    {"partition.assignment.strategy", READS_ITSELF},
    {"transactional.id", "the gateway uses no transactions"},
    {"delivery.report.only.error",
     "every delivery report is needed: only they say whether a command may fall back"},
    {"enabled_events", ONLY_CODE},
    {"opaque", ONLY_CODE},
    {"default_topic_conf", ONLY_CODE},
    {"log.queue", ONLY_CODE},
};

const char *property_refused(const char *name)
{
    for (size_t i = 0; i < SG_ARRAY_LEN(refused); i++) {
        if (strcmp(refused[i].name, name) == 0)
            return refused[i].why;
    }
    size_t len = strlen(name);
    if (len > 3 && (strcmp(name + len - 3, "_cb") == 0 || strcmp(name + len - 3, ".cb") == 0))
        return ONLY_CODE;
    return NULL;
}

bool property_is_secret(const char *name)
{
    static const char *const parts[] = {"password", "passphrase", "secret", "key.pem"};
    for (size_t i = 0; i < SG_ARRAY_LEN(parts); i++) {
        if (strstr(name, parts[i]))
            return true;
    }
    return strcmp(name, "sasl.oauthbearer.config") == 0;
}

static const char *value_of(const struct config *config, const char *name)
{
    for (size_t i = 0; i < config->kafka_property_count; i++) {
        const struct config_property *property = &config->kafka_properties[i];
        if (strcmp(property->name, name) == 0)
            return property->value;
    }
    return NULL;
}

static bool is_positive(const char *text)
{
    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    return end == text || *end || errno || value > 0; /* what is no number is not known to be harmless */
}

static enum err_code check_acks(const char *acks, bool idempotent, struct err *err)
{
    if (!acks)
        return ERR_OK;
    bool all = strcmp(acks, "all") == 0 || strcmp(acks, "-1") == 0;
    uint64_t number = 0;
    if (!all && (!base_parse_u64(span_of(acks), &number) || number == 0))
        return err_set(err, ERR_CONFIG,
                       "Kafka property acks: expected all or 1, found \"%.40s\": without an acknowledgement "
                       "nobody knows whether a command is in Kafka",
                       acks);
    if (!all && idempotent)
        return err_set(err, ERR_CONFIG,
                       "Kafka property acks: expected all with enable.idempotence=true, found \"%.40s\"",
                       acks);
    return ERR_OK;
}

enum err_code property_check_all(const struct config *config, struct err *err)
{
    const char *idempotence = value_of(config, "enable.idempotence");
    bool idempotent = idempotence && strcmp(idempotence, "true") == 0;
    if (idempotence && !idempotent && strcmp(idempotence, "false") != 0)
        return err_set(err, ERR_CONFIG,
                       "Kafka property enable.idempotence: expected true or false, found \"%.40s\"",
                       idempotence);
    const char *const acks[] = {value_of(config, "acks"), value_of(config, "request.required.acks")};
    const char *const retries[] = {value_of(config, "retries"), value_of(config, "message.send.max.retries")};
    for (size_t i = 0; i < 2; i++) {
        if (check_acks(acks[i], idempotent, err) != ERR_OK)
            return ERR_CONFIG;
        if (retries[i] && !idempotent && is_positive(retries[i]))
            return err_set(
                err, ERR_CONFIG,
                "Kafka property retries: expected 0 unless enable.idempotence=true, found \"%.40s\": a "
                "resent command could be executed twice",
                retries[i]);
    }
    return ERR_OK;
}
