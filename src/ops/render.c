/* SPDX-License-Identifier: Apache-2.0 */
#include "counters.h"

#include <stdio.h>

static void head(struct buf *out, const char *name, const char *type, const char *help)
{
    buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void value(struct buf *out, const char *name, const char *type, const char *help, uint64_t number)
{
    head(out, name, type, help);
    buf_printf(out, "%s %llu\n", name, (unsigned long long)number);
}

/* {label="value" with the value escaped: an operationId is free text. The caller goes on with , or }. */
static void first_label(struct buf *out, const char *name, const char *label, struct span text)
{
    buf_printf(out, "%s{%s=\"", name, label);
    for (size_t i = 0; i < text.len; i++) {
        char c = text.ptr[i];
        if (c == '"' || c == '\\' || c == '\n')
            buf_append_char(out, '\\');
        buf_append_char(out, c == '\n' ? 'n' : c);
    }
    buf_append_char(out, '"');
}

static struct span route_name(const struct ops_process *process, size_t row)
{
    return row > 0 && row <= process->operation_count ? process->operations[row - 1].name : SPAN_LIT("none");
}

static void render_requests(const struct ops_counters *counters, const struct ops_process *process,
                            struct buf *out)
{
    head(out, "syncgate_requests_total", "counter",
         "Requests that ended, by route, path taken and HTTP status.");
    for (size_t i = 0; i < (counters->route_count + 1) * PATH_TAKEN_COUNT; i++) {
        const struct ops_cell *cell = counters->cells[i];
        struct span route = route_name(process, i / PATH_TAKEN_COUNT);
        for (int s = 0; cell && s < OPS_STATUS_COUNT; s++) {
            if (!cell->by_status[s])
                continue;
            first_label(out, "syncgate_requests_total", "route", route);
            buf_printf(out, ",path=\"%s\",status=\"%d\"} %llu\n",
                       path_taken_name((enum path_taken)(i % PATH_TAKEN_COUNT)), s + OPS_STATUS_MIN,
                       (unsigned long long)cell->by_status[s]);
        }
    }
}

static void render_histogram(const struct ops_cell *cell, struct span route, const char *path,
                             struct buf *out)
{
    uint64_t cumulative = 0;
    for (size_t b = 0; b <= OPS_BUCKETS; b++) {
        char le[24] = "+Inf";
        if (b < OPS_BUCKETS)
            snprintf(le, sizeof(le), "%g", (double)ops_bucket_ns[b] / 1e9);
        cumulative += cell->buckets[b];
        first_label(out, "syncgate_request_duration_seconds_bucket", "route", route);
        buf_printf(out, ",path=\"%s\",le=\"%s\"} %llu\n", path, le, (unsigned long long)cumulative);
    }
    first_label(out, "syncgate_request_duration_seconds_sum", "route", route);
    buf_printf(out, ",path=\"%s\"} %.6f\n", path, (double)cell->sum_ns / 1e9);
    first_label(out, "syncgate_request_duration_seconds_count", "route", route);
    buf_printf(out, ",path=\"%s\"} %llu\n", path, (unsigned long long)cumulative);
}

static void render_durations(const struct ops_counters *counters, const struct ops_process *process,
                             struct buf *out)
{
    head(out, "syncgate_request_duration_seconds", "histogram",
         "Time from a request's first line to the end of its answer.");
    for (size_t i = 0; i < (counters->route_count + 1) * PATH_TAKEN_COUNT; i++)
        if (counters->cells[i])
            render_histogram(counters->cells[i], route_name(process, i / PATH_TAKEN_COUNT),
                             path_taken_name((enum path_taken)(i % PATH_TAKEN_COUNT)), out);
}

static void render_labelled(struct buf *out, const char *name, const char *label, const char *label_value,
                            uint64_t number)
{
    first_label(out, name, label, span_of(label_value));
    buf_printf(out, "} %llu\n", (unsigned long long)number);
}

static void render_dead_letters(const struct ops_counters *counters, const struct ops_process *process,
                                struct buf *out)
{
    const uint64_t reported[OPS_DEAD_LETTER_COUNT] = {
        [OPS_DEAD_LETTER_SENT] = process->dead_letters_sent,
        [OPS_DEAD_LETTER_FAILED] = process->dead_letters_failed,
    };
    head(out, "syncgate_dead_letters_total", "counter",
         "Replies that could not be used, on their way to the dead-letter topic, by result.");
    for (int i = 0; i < OPS_DEAD_LETTER_COUNT; i++)
        render_labelled(out, "syncgate_dead_letters_total", "result",
                        ops_dead_letter_name((enum ops_dead_letter)i),
                        counters->dead_letters[i] + reported[i]);
}

static void render_kafka(const struct ops_process *process, struct buf *out)
{
    if (!process->kafka)
        return;
    value(out, "syncgate_kafka_reachable", "gauge", "1 while a broker can be reached.",
          process->kafka_reachable);
    value(out, "syncgate_kafka_reply_partitions", "gauge", "Partitions of reply topics being read.",
          process->kafka_partitions);
    value(out, "syncgate_kafka_producer_queue_messages", "gauge",
          "Messages in the producer's queue or in flight.", process->kafka_queue_len);
    value(out, "syncgate_kafka_records_total", "counter", "Records read from reply topics.",
          process->kafka_records);
    value(out, "syncgate_kafka_offset_resets_total", "counter",
          "Positions in reply topics that were lost and fell back to the earliest record.",
          process->kafka_offset_resets);
    value(out, "syncgate_kafka_fatal_errors_total", "counter",
          "Fatal errors of the producer, each followed by a new producer.", process->kafka_fatal_errors);
    head(out, "syncgate_kafka_deliveries_total", "counter", "Delivery reports of commands, by result.");
    render_labelled(out, "syncgate_kafka_deliveries_total", "result", "persisted", process->kafka_delivered);
    render_labelled(out, "syncgate_kafka_deliveries_total", "result", "not_persisted",
                    process->kafka_not_persisted);
    render_labelled(out, "syncgate_kafka_deliveries_total", "result", "uncertain", process->kafka_uncertain);
}

static void render_routes(const struct ops_process *process, struct buf *out)
{
    head(out, "syncgate_route_kafka_ratio", "gauge", "Share of users that take Kafka, by the route's flag.");
    for (size_t i = 0; i < process->operation_count; i++) {
        if (!process->operations[i].active)
            continue;
        first_label(out, "syncgate_route_kafka_ratio", "route", process->operations[i].name);
        buf_printf(out, "} %g\n", process->operations[i].kafka_ratio);
    }
    head(out, "syncgate_route_parked_requests", "gauge", "Requests waiting for a reply, by route.");
    for (size_t i = 0; i < process->operation_count; i++) {
        if (!process->operations[i].active)
            continue;
        first_label(out, "syncgate_route_parked_requests", "route", process->operations[i].name);
        buf_printf(out, "} %llu\n", (unsigned long long)process->operations[i].parked);
    }
}

/* The view of row i: the operations', then the cluster's, which has no route. NULL: nothing to show. */
static const struct path_breaker_view *breaker_row(const struct ops_process *process, size_t i,
                                                   struct span *ret_name)
{
    if (i == process->operation_count) {
        *ret_name = SPAN_LIT("");
        return &process->cluster_breaker;
    }
    *ret_name = process->operations[i].name;
    return process->operations[i].active ? &process->operations[i].breaker : NULL;
}

static const char *scope_of(struct span name)
{
    return name.len ? "route" : "cluster";
}

static void render_breakers(const struct ops_process *process, struct buf *out)
{
    struct span name;
    head(out, "syncgate_breaker_state", "gauge", "Circuit breakers: 1 for the state that each is in.");
    for (size_t i = 0; i <= process->operation_count; i++) {
        const struct path_breaker_view *view = breaker_row(process, i, &name);
        for (int s = 0; view && s < PATH_BREAKER_STATE_COUNT; s++) {
            first_label(out, "syncgate_breaker_state", "route", name);
            buf_printf(out, ",scope=\"%s\",state=\"%s\"} %d\n", scope_of(name),
                       path_breaker_state_name((enum path_breaker_state)s),
                       view->state == (enum path_breaker_state)s);
        }
    }
    head(out, "syncgate_breaker_opened_total", "counter", "How often a breaker opened.");
    for (size_t i = 0; i <= process->operation_count; i++) {
        const struct path_breaker_view *view = breaker_row(process, i, &name);
        if (!view)
            continue;
        first_label(out, "syncgate_breaker_opened_total", "route", name);
        buf_printf(out, ",scope=\"%s\"} %llu\n", scope_of(name), (unsigned long long)view->opened);
    }
    head(out, "syncgate_breaker_next_probe_seconds", "gauge",
         "Time until the next probe of an open breaker may go; 0 when it is not open.");
    for (size_t i = 0; i <= process->operation_count; i++) {
        const struct path_breaker_view *view = breaker_row(process, i, &name);
        if (!view)
            continue;
        first_label(out, "syncgate_breaker_next_probe_seconds", "route", name);
        buf_printf(out, ",scope=\"%s\"} %.3f\n", scope_of(name), (double)view->wait_ns / 1e9);
    }
}

void ops_render_metrics(const struct ops_counters *counters, const struct ops_gauges *gauges,
                        const struct ops_process *process, struct buf *out)
{
    head(out, "syncgate_info", "gauge", "The version that runs.");
    render_labelled(out, "syncgate_info", "version", process->version, 1);
    render_requests(counters, process, out);
    render_durations(counters, process, out);
    value(out, "syncgate_parked_requests", "gauge", "Requests waiting for a reply.", gauges->parked);
    value(out, "syncgate_active_requests", "gauge",
          "Requests between their first line and the end of their answer.", gauges->active_requests);
    value(out, "syncgate_connections", "gauge", "Open client connections.", process->connections);
    value(out, "syncgate_legacy_active_requests", "gauge", "Requests under way to the legacy backend.",
          gauges->legacy_active);
    value(out, "syncgate_legacy_retries_total", "counter", "Requests sent again to the legacy backend.",
          gauges->legacy_retries);
    head(out, "syncgate_fallbacks_total", "counter",
         "Requests of a Kafka route that were not produced, by reason.");
    for (int i = 0; i < PATH_FALLBACK_COUNT; i++)
        render_labelled(out, "syncgate_fallbacks_total", "reason", path_fallback_name((enum path_fallback)i),
                        counters->fallbacks[i]);
    head(out, "syncgate_replies_total", "counter", "Records of reply topics, by what became of them.");
    for (int i = 0; i < OPS_REPLY_COUNT; i++)
        render_labelled(out, "syncgate_replies_total", "result", ops_reply_name((enum ops_reply)i),
                        counters->replies[i] + (i == OPS_REPLY_UNMATCHED ? process->unmatched_skipped
                                                : i == OPS_REPLY_INVALID ? process->invalid_skipped
                                                                         : 0));
    render_dead_letters(counters, process, out);
    value(out, "syncgate_event_streams", "gauge", "Event streams under way.", gauges->streams);
    head(out, "syncgate_stream_events_total", "counter", "Events of event streams, by result.");
    render_labelled(out, "syncgate_stream_events_total", "result", "sent", counters->events_sent);
    render_labelled(out, "syncgate_stream_events_total", "result", "dropped", counters->events_dropped);
    head(out, "syncgate_awaiter_wins_total", "counter", "Parked requests that ended, by who finished them.");
    for (int i = AWAIT_PENDING + 1; i < AWAIT_WINNER_COUNT; i++)
        render_labelled(out, "syncgate_awaiter_wins_total", "winner", await_winner_name((enum await_winner)i),
                        gauges->wins[i]);
    head(out, "syncgate_tokens_total", "counter", "Bearer tokens looked at, by result.");
    render_labelled(out, "syncgate_tokens_total", "result", "cached", gauges->auth_hits);
    render_labelled(out, "syncgate_tokens_total", "result", "verified", gauges->auth_verified);
    render_labelled(out, "syncgate_tokens_total", "result", "refused", gauges->auth_refused);
    value(out, "syncgate_log_lines_dropped_total", "counter",
          "Log lines lost because their reader was too slow.", process->log_dropped);
    value(out, "syncgate_draining", "gauge", "1 from SIGTERM on.", process->draining);
    value(out, "syncgate_body_bytes", "gauge",
          "Bytes of bodies that are being received or kept for a fallback.", process->body_bytes);
    head(out, "syncgate_config_reloads_total", "counter", "Reloads of the configuration, by result.");
    render_labelled(out, "syncgate_config_reloads_total", "result", "ok", process->reloads_ok);
    render_labelled(out, "syncgate_config_reloads_total", "result", "failed", process->reloads_failed);
    render_routes(process, out);
    if (process->kafka)
        render_breakers(process, out);
    render_kafka(process, out);
}

bool ops_render_health(const struct ops_check *checks, size_t count, const char *version, bool embedded,
                       struct buf *out)
{
    bool all = true;
    for (size_t i = 0; i < count; i++)
        all &= checks[i].ok;
    buf_printf(out, "{\"status\":\"%s\",\"version\":\"%s\",\"embeddedBroker\":%s,\"checks\":[",
               all ? "ok" : "unavailable", version, embedded ? "true" : "false");
    for (size_t i = 0; i < count; i++) {
        buf_printf(out, "%s{\"name\":\"%s\",\"ok\":%s,\"detail\":", i ? "," : "", checks[i].name,
                   checks[i].ok ? "true" : "false");
        buf_append_json_string(out, span_of(checks[i].detail));
        buf_append_char(out, '}');
    }
    buf_append_lit(out, "]}");
    return all;
}
