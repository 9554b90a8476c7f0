/* SPDX-License-Identifier: Apache-2.0 */
#include "reply.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

struct reply {
    const char *topic;
    int32_t partition;
    const char *key;
    char *value;                 /* owned */
    rd_kafka_headers_t *headers; /* owned, or NULL */
    int64_t due_ms;
    struct reply *next;
};

const char *reply_header(const rd_kafka_headers_t *headers, const char *name, size_t *ret_len)
{
    const void *value = NULL;
    /* librdkafka ends every header value with a NUL that its length does not count. */
    if (!headers || rd_kafka_header_get_last(headers, name, &value, ret_len) != RD_KAFKA_RESP_ERR_NO_ERROR)
        return NULL;
    return value;
}

static void produce(struct replier *replier, struct reply *reply)
{
    for (;;) {
        rd_kafka_vu_t fields[] = {
            {.vtype = RD_KAFKA_VTYPE_TOPIC, .u.cstr = reply->topic},
            {.vtype = RD_KAFKA_VTYPE_PARTITION, .u.i32 = reply->partition},
            {.vtype = RD_KAFKA_VTYPE_KEY, .u.mem = {(void *)reply->key, strlen(reply->key)}},
            {.vtype = RD_KAFKA_VTYPE_VALUE, .u.mem = {reply->value, strlen(reply->value)}},
            {.vtype = RD_KAFKA_VTYPE_MSGFLAGS, .u.i = RD_KAFKA_MSG_F_FREE},
            {.vtype = RD_KAFKA_VTYPE_HEADERS, .u.headers = reply->headers},
        };
        rd_kafka_error_t *error = rd_kafka_produceva(replier->producer, fields,
                                                     reply->headers ? 6 : 5); /* owns value and headers now */
        if (!error)
            return;
        bool is_full = rd_kafka_error_code(error) == RD_KAFKA_RESP_ERR__QUEUE_FULL;
        if (!is_full)
            fprintf(stderr, "device-service: reply lost: %s\n", rd_kafka_error_string(error));
        rd_kafka_error_destroy(error);
        if (!is_full)
            break;
        rd_kafka_poll(replier->producer, 10);
    }
    free(reply->value);
    if (reply->headers)
        rd_kafka_headers_destroy(reply->headers);
}

/* Copies what reply only borrows. Delays rarely change, so the place is nearly always the end. */
static void delay(struct replier *replier, const struct reply *reply)
{
    struct reply *copy = or_die(malloc(sizeof(*copy))), **at = &replier->delayed;
    *copy = *reply;
    copy->topic = or_die(strdup(reply->topic));
    copy->key = or_die(strdup(reply->key));
    if (replier->last_delayed && replier->last_delayed->due_ms <= copy->due_ms)
        at = &replier->last_delayed->next;
    while (*at && (*at)->due_ms <= copy->due_ms)
        at = &(*at)->next;
    copy->next = *at;
    *at = copy;
    if (!copy->next)
        replier->last_delayed = copy;
}

int reply_send_delayed(struct replier *replier, int64_t now_ms, int max_wait_ms)
{
    while (replier->delayed && replier->delayed->due_ms <= now_ms) {
        struct reply *reply = replier->delayed;
        replier->delayed = reply->next;
        if (!replier->delayed)
            replier->last_delayed = NULL;
        produce(replier, reply);
        free((void *)reply->topic);
        free((void *)reply->key);
        free(reply);
    }
    if (replier->delayed && replier->delayed->due_ms - now_ms < max_wait_ms)
        return (int)(replier->delayed->due_ms - now_ms);
    return max_wait_ms;
}

/* The caller recognises its reply by the headers it sent with the command, so they go back as they came. */
static rd_kafka_headers_t *reply_headers(const struct command *command, const char *type,
                                         const char *foreign_id)
{
    static const char *const echoed[] = {"kafka_correlationId", "correlation-id", "traceparent"};
    rd_kafka_headers_t *headers = rd_kafka_headers_new(5);
    for (size_t i = 0; i < sizeof(echoed) / sizeof(echoed[0]); i++) {
        size_t len;
        const char *value = reply_header(command->headers, echoed[i], &len);
        if (value && foreign_id && i < 2)
            rd_kafka_header_add(headers, echoed[i], -1, foreign_id, -1);
        else if (value)
            rd_kafka_header_add(headers, echoed[i], -1, value, (ssize_t)len);
    }
    rd_kafka_header_add(headers, "event-type", 10, type, -1);
    rd_kafka_header_add(headers, "content-type", 12, "application/json", 16);
    return headers;
}

/* borrows body. foreign_id: instead of the command's id, for tests. */
static void send_as(struct replier *replier, const struct command *command, const struct behaviour *behaviour,
                    struct reply *reply, json_t *body, const char *foreign_id)
{
    const char *type = json_string_value(json_object_get(body, "eventType"));
    if (foreign_id)
        json_object_set_new(body, "correlationId", json_string(foreign_id));
    reply->key = command->device_id ? command->device_id : "";
    reply->value = or_die(json_dumps(body, JSON_COMPACT));
    reply->headers = behaviour->no_headers ? NULL : reply_headers(command, type, foreign_id);
    reply->due_ms = behaviour->delay_ms ? time_now_ms() + behaviour->delay_ms : 0;
    if (reply->due_ms)
        delay(replier, reply);
    else
        produce(replier, reply);
}

/* takes body */
static void send_reply(struct replier *replier, const struct command *command,
                       const struct behaviour *behaviour, struct reply *reply, json_t *body)
{
    if (behaviour->wrong_type)
        json_object_set_new(body, "eventType", json_string("device.response.ota"));
    if (behaviour->stranger) {
        char foreign_id[37];
        uint16_t r[8];
        if (getrandom(r, sizeof(r), 0) != sizeof(r))
            abort();
        snprintf(foreign_id, sizeof(foreign_id), "%04x%04x-%04x-4%03x-8%03x-%04x%04x%04x", r[0], r[1], r[2],
                 r[3] & 0xFFFu, r[4] & 0xFFFu, r[5], r[6], r[7]);
        send_as(replier, command, behaviour, reply, body, foreign_id);
        json_object_set_new(body, "correlationId", json_string(command->id));
    }
    for (int i = 0; i <= behaviour->duplicate; i++)
        send_as(replier, command, behaviour, reply, body, NULL);
    json_decref(body);
}

/* The address the caller asked for. The partition is text from NestJS, four big-endian bytes from Spring; as
 * bytes, four digits would be a partition beyond 800 million. */
static struct reply reply_address(const struct command *command)
{
    struct reply reply = {.topic = RESPONSES_TOPIC, .partition = RD_KAFKA_PARTITION_UA};
    size_t len;
    const char *topic = reply_header(command->headers, "kafka_replyTopic", &len);
    if (topic && *topic)
        reply.topic = topic;
    const char *partition = reply_header(command->headers, "kafka_replyPartition", &len);
    if (!partition || len == 0)
        return reply;
    const unsigned char *b = (const unsigned char *)partition;
    if (strspn(partition, "0123456789") == len)
        reply.partition = atoi(partition);
    else if (len == 4 && b[0] < 0x80)
        reply.partition = (int32_t)b[0] << 24 | b[1] << 16 | b[2] << 8 | b[3];
    return reply;
}

static json_t *failure(const struct command *command, const struct outcome *outcome,
                       const struct behaviour *behaviour)
{
    const char *code, *id = command->device_id;
    json_t *message;
    if (command->malformed) {
        code = "VALIDATION_FAILED";
        message = json_string(command->malformed);
    } else if (outcome->is_forced) {
        code = behaviour->fail_code;
        message = json_string(behaviour->fail_message);
    } else if (outcome->result == DEVICE_NOT_FOUND) {
        code = "DEVICE_NOT_FOUND";
        message = json_sprintf("Device with ID %s not found", id);
    } else if (outcome->result == DEVICE_ALREADY_BOUND) {
        code = "ALREADY_BOUND";
        message = json_sprintf("Device with ID %s is already bound", id);
    } else if (outcome->result == DEVICE_ALREADY_UNBOUND) {
        code = "ALREADY_UNBOUND";
        message = json_sprintf("Device with ID %s is already unbound", id);
    } else {
        code = "NOT_OWNER";
        message = json_sprintf("User %s is not the owner of device %s", command->user_id, id);
    }
    return json_pack("{ss so}", "code", code, "message", message);
}

/* takes payload (NULL: none) */
static json_t *envelope(const struct command *command, const struct behaviour *behaviour, const char *type,
                        json_t *payload)
{
    char text[TIME_TEXT_SIZE];
    int64_t now_ms = time_now_ms();
    return json_pack(
        "{ss ss so s{ss ss} ss so*}", "eventType", type, "correlationId", command->id, "timestamp",
        behaviour->int_timestamp ? json_integer(now_ms) : json_string(time_text(now_ms, text)), "source",
        "type", "backend", "id", "device-service", "__version", "v1", "payload", payload);
}

static void respond(struct replier *replier, const struct command *command, const struct behaviour *behaviour,
                    const struct outcome *outcome, bool success)
{
    char at[TIME_TEXT_SIZE];
    json_t *payload = NULL;
    if (success && !command->is_unbind)
        payload = json_pack("{ss ss ss}", "deviceId", command->device_id, "userId", command->user_id,
                            "boundAt", time_text(outcome->at_ms, at));
    else if (success || !behaviour->no_payload_on_failure)
        payload = json_pack("{ss*}", "deviceId", command->device_id);
    json_t *body = envelope(command, behaviour,
                            command->is_unbind ? "device.response.unbind" : "device.response.bind", payload);
    json_object_set_new(body, "success", json_boolean(success));
    if (!success && !(outcome->is_forced && !*behaviour->fail_code))
        json_object_set_new(body, "error", failure(command, outcome, behaviour));
    struct reply reply = reply_address(command);
    send_reply(replier, command, behaviour, &reply, body);
}

static void publish_event(struct replier *replier, const struct command *command,
                          const struct behaviour *behaviour, const struct outcome *outcome)
{
    char at[TIME_TEXT_SIZE];
    const char *unbind = command->is_unbind ? "un" : "";
    char type[32], at_name[16], by_name[16];
    snprintf(type, sizeof(type), "device.%sbound", unbind);
    snprintf(at_name, sizeof(at_name), "%s", command->is_unbind ? "unboundAt" : "boundAt");
    snprintf(by_name, sizeof(by_name), "%s", command->is_unbind ? "unboundBy" : "boundBy");
    json_t *payload = json_pack("{ss ss ss ss* ss}", "deviceId", command->device_id,
                                command->is_unbind ? "previousUserId" : "userId", command->user_id, at_name,
                                time_text(outcome->at_ms, at), "reason",
                                command->is_unbind ? command->reason : NULL, by_name, "user");
    struct reply reply = {.topic = EVENTS_TOPIC, .partition = RD_KAFKA_PARTITION_UA};
    send_reply(replier, command, behaviour, &reply, envelope(command, behaviour, type, payload));
}

/* A bind is answered by its response. The contract knows no response to a successful unbind: its event with
 * the command's correlation id is the answer. */
void reply_send(struct replier *replier, const struct command *command, const struct outcome *outcome,
                const struct behaviour *behaviour)
{
    bool success = !command->malformed && !outcome->is_forced && outcome->result == DEVICE_OK;
    bool event = success && (command->is_unbind || behaviour->by_event);
    bool response = !event || (behaviour->by_event && behaviour->by_response);
    if (event)
        publish_event(replier, command, behaviour, outcome);
    if (response && command->wants_response)
        respond(replier, command, behaviour, outcome, success);
}
