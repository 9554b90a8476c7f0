/* SPDX-License-Identifier: Apache-2.0 */
/* A command's way: drop it if its deadline has passed, understand it, execute it unless this correlation id
 * was executed before, reply, store its offset.
 *
 * Offsets are committed once a second, after the producer was flushed: what is committed has been answered
 * (or its reply was given up, which is logged).
 * After a crash some commands come again, and executed.c keeps them from being executed again (while the
 * process lives; kept in a database, for good).
 *
 * mtx guards what tests read and set; all else belongs to the responder's thread. */
#include "responder.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "clients.h"
#include "json_text.h"
#include "reply.h"

#define COMMANDS_TOPIC "device.commands.v1"
#define BATCH_MAX      1000
#define POLL_MS        100
#define COMMIT_MS      1000
#define FLUSH_MS       5000

struct responder {
    struct devices *devices;
    rd_kafka_t *consumer, *producer;
    struct replier replier;
    pthread_t thread;
    atomic_bool stopping;
    bool is_started, has_partitions;
    void (*on_ready)(void);
    int64_t commit_at_ms;

    pthread_mutex_t mtx;
    struct executed *executed;
    struct behaviour behaviour;
    struct {
        json_int_t commands, redelivered, expired, malformed, ignored, dropped, replies;
    } count;
};

/* ---- understanding a command ---- */

/* Nobody waits for the reply any more: executing the command now would surprise a user who has been told that
 * it failed, and would delay those who still wait. */
static bool is_expired(const rd_kafka_headers_t *headers)
{
    size_t len;
    const char *deadline = reply_header(headers, "deadline", &len);
    return deadline && strtoll(deadline, NULL, 10) != 0 && strtoll(deadline, NULL, 10) < time_now_ms();
}

static const char *text_of(const json_t *object, const char *key)
{
    return json_string_value(json_object_get(object, key));
}

/* NULL also when its bytes are no text, which no JSON could hold. */
static const char *text_header(const rd_kafka_headers_t *headers, const char *name)
{
    size_t len;
    const char *value = reply_header(headers, name, &len);
    json_t *text = value ? json_stringn(value, len) : NULL;
    if (!text)
        return NULL;
    json_decref(text);
    return value;
}

/* False: not a command of ours, or one that cannot even be answered. */
static bool command_parse(struct command *command, const rd_kafka_message_t *msg)
{
    size_t len;
    *command = (struct command){.wants_response = true};
    if (rd_kafka_message_headers(msg, &command->headers) != RD_KAFKA_RESP_ERR_NO_ERROR)
        command->headers = NULL;
    command->body = msg->payload ? json_text_parse(msg->payload, msg->len, NULL) : NULL;
    const char *type = text_of(command->body, "eventType");
    command->id = text_of(command->body, "correlationId");
    if (!type)
        type = reply_header(command->headers, "event-type", &len);
    if (!command->id)
        command->id = text_header(command->headers, "correlation-id");
    command->is_unbind = type && strcmp(type, "device.command.unbind") == 0;
    if (!type || !command->id || !*command->id || strlen(command->id) >= EXECUTED_ID_SIZE)
        return false;
    if (!command->is_unbind && strcmp(type, "device.command.bind") != 0)
        return false;

    const json_t *payload = json_object_get(command->body, "payload");
    command->wants_response = !json_is_false(json_object_get(command->body, "responseRequired"));
    command->device_id = text_of(payload, "deviceId");
    command->user_id = text_of(payload, command->is_unbind ? "requestedBy" : "userId");
    command->reason = text_of(payload, "reason");
    if (!command->body)
        command->malformed = "The command is not JSON";
    else if (!command->device_id || !*command->device_id)
        command->malformed = "payload.deviceId must be a text that is not empty";
    else if (!command->user_id || !check_is_uuid(command->user_id))
        command->malformed =
            command->is_unbind ? "payload.requestedBy must be a uuid" : "payload.userId must be a uuid";
    else if (!command->is_unbind && !text_of(payload, "bindingToken"))
        command->malformed = "payload.bindingToken must be a text";
    return true;
}

/* ---- executing a command ---- */

/* Needs mtx. */
static struct outcome execute(struct responder *responder, const struct command *command)
{
    struct outcome outcome = {0};
    if (responder->behaviour.fail)
        outcome.is_forced = true;
    else if (command->is_unbind)
        outcome.result =
            devices_unbind(responder->devices, command->device_id, command->user_id, &outcome.at_ms);
    else
        outcome.result =
            devices_bind(responder->devices, command->device_id, command->user_id, &outcome.at_ms);
    executed_add(responder->executed, command->id, outcome);
    responder->count.commands++;
    return outcome;
}

static void handle(struct responder *responder, const rd_kafka_message_t *msg)
{
    struct command command;
    struct outcome outcome = {0};
    struct behaviour behaviour;
    bool is_ours = command_parse(&command, msg), is_late = is_expired(command.headers), is_silent = true;
    pthread_mutex_lock(&responder->mtx);
    if (responder->behaviour.drop_commands > 0) {
        responder->behaviour.drop_commands--;
        responder->count.dropped++;
    } else if (!is_ours) {
        responder->count.ignored++;
    } else if (is_late) {
        responder->count.expired++;
    } else {
        is_silent = false;
        if (command.malformed)
            responder->count.malformed++;
        else if (executed_recall(responder->executed, command.id, &outcome))
            responder->count.redelivered++;
        else
            outcome = execute(responder, &command);
        if (responder->behaviour.drop > 0) {
            responder->behaviour.drop--;
            is_silent = true;
        } else {
            responder->count.replies++;
        }
    }
    behaviour = responder->behaviour;
    pthread_mutex_unlock(&responder->mtx);
    if (!is_silent)
        reply_send(&responder->replier, &command, &outcome, &behaviour);
    json_decref(command.body);
}

/* ---- the consumer ---- */

/* Every reply to a stored offset is out before the offset is committed. */
static void commit(struct responder *responder, bool wait)
{
    responder->commit_at_ms = time_now_ms() + COMMIT_MS;
    rd_kafka_resp_err_t err = rd_kafka_flush(responder->producer, FLUSH_MS);
    if (err == RD_KAFKA_RESP_ERR_NO_ERROR)
        err = rd_kafka_commit(responder->consumer, NULL, !wait);
    if (err != RD_KAFKA_RESP_ERR_NO_ERROR && err != RD_KAFKA_RESP_ERR__NO_OFFSET)
        fprintf(stderr, "device-service: not committed: %s\n", rd_kafka_err2str(err));
}

static void on_rebalance(rd_kafka_t *consumer, rd_kafka_resp_err_t err,
                         rd_kafka_topic_partition_list_t *partitions, void *arg)
{
    struct responder *responder = arg;
    if (err == RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS) {
        rd_kafka_assign(consumer, partitions);
        responder->has_partitions = true;
        return;
    }
    commit(responder, true);
    rd_kafka_assign(consumer, NULL);
}

static void on_message(struct responder *responder, rd_kafka_message_t *msg)
{
    if (msg->err) {
        fprintf(stderr, "device-service: %s\n", rd_kafka_message_errstr(msg));
    } else {
        handle(responder, msg);
        rd_kafka_offset_store(msg->rkt, msg->partition, msg->offset);
    }
    rd_kafka_message_destroy(msg);
}

static void *run(void *arg)
{
    struct responder *responder = arg;
    while (!atomic_load(&responder->stopping)) {
        int64_t now_ms = time_now_ms();
        int wait_ms = reply_send_delayed(&responder->replier, now_ms, POLL_MS);
        if (now_ms >= responder->commit_at_ms)
            commit(responder, false);
        rd_kafka_message_t *msg = rd_kafka_consumer_poll(responder->consumer, wait_ms);
        for (int i = 0; msg && i < BATCH_MAX; i++) {
            on_message(responder, msg);
            msg = rd_kafka_consumer_poll(responder->consumer, 0);
        }
        if (msg)
            on_message(responder, msg);
        rd_kafka_poll(responder->producer, 0);
        if (responder->has_partitions && responder->on_ready) {
            responder->on_ready();
            responder->on_ready = NULL;
        }
    }
    reply_send_delayed(&responder->replier, INT64_MAX, 0);
    rd_kafka_consumer_close(responder->consumer); /* gives the partitions back, which commits */
    return NULL;
}

/* ---- life ---- */

struct responder *responder_new(const struct responder_config *config, struct devices *devices)
{
    struct responder *responder = or_die(calloc(1, sizeof(*responder)));
    responder->devices = devices;
    responder->on_ready = config->on_ready;
    responder->executed = executed_new();
    pthread_mutex_init(&responder->mtx, NULL);
    struct clients_config clients = {config->brokers,    config->group, config->linger_ms,
                                     config->properties, on_rebalance,  responder};
    responder->producer = responder->replier.producer = clients_new_producer(&clients);
    responder->consumer = responder->producer ? clients_new_consumer(&clients) : NULL;
    if (!responder->consumer) {
        responder_freep(&responder);
        return NULL;
    }
    rd_kafka_poll_set_consumer(responder->consumer);
    clients_learn_topic(responder->producer, RESPONSES_TOPIC);
    clients_learn_topic(responder->producer, EVENTS_TOPIC);
    return responder;
}

void responder_start(struct responder *responder)
{
    rd_kafka_topic_partition_list_t *topics = rd_kafka_topic_partition_list_new(1);
    rd_kafka_topic_partition_list_add(topics, COMMANDS_TOPIC, RD_KAFKA_PARTITION_UA);
    rd_kafka_subscribe(responder->consumer, topics);
    rd_kafka_topic_partition_list_destroy(topics);
    if (pthread_create(&responder->thread, NULL, run, responder) != 0)
        abort();
    responder->is_started = true;
}

void responder_freep(struct responder **responder_ptr)
{
    struct responder *responder = *responder_ptr;
    if (!responder)
        return;
    *responder_ptr = NULL;
    atomic_store(&responder->stopping, true);
    if (responder->is_started)
        pthread_join(responder->thread, NULL);
    if (responder->consumer)
        rd_kafka_destroy(responder->consumer);
    if (responder->producer) {
        rd_kafka_flush(responder->producer, FLUSH_MS);
        rd_kafka_destroy(responder->producer);
    }
    executed_freep(&responder->executed);
    pthread_mutex_destroy(&responder->mtx);
    free(responder);
}

/* ---- for tests ---- */

json_t *responder_executions(struct responder *responder)
{
    pthread_mutex_lock(&responder->mtx);
    json_t *executions = json_pack(
        "{sI sI sI sI sI sI sI so so}", "commands", responder->count.commands, "redelivered",
        responder->count.redelivered, "expired", responder->count.expired, "malformed",
        responder->count.malformed, "ignored", responder->count.ignored, "dropped", responder->count.dropped,
        "replies", responder->count.replies, "byCorrelationId", executed_counts(responder->executed, false),
        "redeliveredByCorrelationId", executed_counts(responder->executed, true));
    pthread_mutex_unlock(&responder->mtx);
    return executions;
}

char *responder_behave(struct responder *responder, json_t *wanted)
{
    struct behaviour b = {0};
    json_error_t error;
    const char *reply_by = "response", *fail_message = "";
    const json_t *fail_code = NULL; /* may be null */
    if (json_unpack_ex(wanted, &error, 0, "{s?i s?i s?i s?b s?b s?b s?b s?b s?b s?s s?o s?s !}",
                       "replyDelayMs", &b.delay_ms, "drop", &b.drop, "dropCommands", &b.drop_commands,
                       "duplicate", &b.duplicate, "stranger", &b.stranger, "noHeaders", &b.no_headers,
                       "wrongType", &b.wrong_type, "intTimestamp", &b.int_timestamp, "noPayloadOnFailure",
                       &b.no_payload_on_failure, "replyBy", &reply_by, "failCode", &fail_code, "failMessage",
                       &fail_message) != 0)
        return or_die(strdup(error.text));
    b.by_event = strcmp(reply_by, "response") != 0;
    b.by_response = strcmp(reply_by, "event") != 0;
    b.fail = json_is_string(fail_code);
    snprintf(b.fail_code, sizeof(b.fail_code), "%s", b.fail ? json_string_value(fail_code) : "");
    snprintf(b.fail_message, sizeof(b.fail_message), "%s", fail_message);
    pthread_mutex_lock(&responder->mtx);
    responder->behaviour = b;
    pthread_mutex_unlock(&responder->mtx);
    return NULL;
}
