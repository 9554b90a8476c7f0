/* SPDX-License-Identifier: Apache-2.0 */
#include <ctype.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include "syncgate/json.h"
#include "syncgate/ops.h"

/* ---- a reader of the Prometheus text format (version 0.0.4), strict in what it lets pass ---- */

#define LABELS_MAX   8
#define SAMPLES_MAX  4096
#define FAMILIES_MAX 64

struct sample {
    char name[96];
    struct {
        char name[32], value[128];
    } labels[LABELS_MAX];
    size_t label_count;
    double value;
};

struct family {
    char name[96], type[16];
    bool helped, typed, closed; /* closed: another family's samples came behind it */
};

struct exposition {
    struct sample samples[SAMPLES_MAX];
    size_t sample_count;
    struct family families[FAMILIES_MAX];
    size_t family_count;
    char complaint[256];
};

static bool complain(struct exposition *exposition, const char *what, const char *line)
{
    snprintf(exposition->complaint, sizeof(exposition->complaint), "%s: %.150s", what, line);
    return false;
}

/* [a-zA-Z_:][a-zA-Z0-9_:]*, without colons for labels. */
static size_t name_len(const char *p, bool colons)
{
    size_t len = 0;
    while (isalpha((unsigned char)p[len]) || p[len] == '_' || (colons && p[len] == ':') ||
           (len && isdigit((unsigned char)p[len])))
        len++;
    return len;
}

static struct family *family_of(struct exposition *exposition, const char *name, size_t len)
{
    for (size_t i = 0; i < exposition->family_count; i++)
        if (strlen(exposition->families[i].name) == len &&
            memcmp(exposition->families[i].name, name, len) == 0)
            return &exposition->families[i];
    return NULL;
}

static bool read_comment(struct exposition *exposition, const char *line)
{
    bool help = strncmp(line, "# HELP ", 7) == 0;
    if (!help && strncmp(line, "# TYPE ", 7) != 0)
        return complain(exposition, "a comment that is neither HELP nor TYPE", line);
    const char *name = line + 7;
    size_t len = name_len(name, true);
    if (!len || len >= sizeof(exposition->families[0].name) || name[len] != ' ' || !name[len + 1])
        return complain(exposition, "no name or no text", line);
    struct family *family = family_of(exposition, name, len);
    if (!family) {
        if (exposition->family_count)
            exposition->families[exposition->family_count - 1].closed = true;
        SG_ASSERT(exposition->family_count < FAMILIES_MAX);
        family = &exposition->families[exposition->family_count++];
        memcpy(family->name, name, len);
    }
    if (family->closed || (help ? family->helped : family->typed))
        return complain(exposition, "a family described twice", line);
    if (help) {
        family->helped = true;
        return true;
    }
    static const char *const types[] = {"counter", "gauge", "histogram"};
    for (size_t i = 0; i < SG_ARRAY_LEN(types); i++)
        family->typed |= strcmp(name + len + 1, types[i]) == 0;
    if (!family->typed)
        return complain(exposition, "an unknown type", line);
    snprintf(family->type, sizeof(family->type), "%s", name + len + 1);
    return true;
}

/* From behind `{` to behind `}`; NULL when malformed. */
static const char *read_labels(struct sample *sample, const char *p)
{
    while (*p != '}') {
        size_t len = name_len(p, false), out = 0;
        if (!len || len >= sizeof(sample->labels[0].name) || strncmp(p + len, "=\"", 2) != 0 ||
            sample->label_count == LABELS_MAX)
            return NULL;
        memcpy(sample->labels[sample->label_count].name, p, len);
        char *value = sample->labels[sample->label_count++].value;
        for (p += len + 2; *p != '"'; p++) {
            if (!*p || out == sizeof(sample->labels[0].value) - 1)
                return NULL;
            if (*p == '\\' && *++p != '\\' && *p != '"' && *p != 'n')
                return NULL;
            value[out++] = *p;
        }
        p++;
        if (*p == ',')
            p++;
        else if (*p != '}')
            return NULL;
    }
    return p + 1;
}

/* The family a sample belongs to: a histogram's have suffixes. */
static struct family *sample_family(struct exposition *exposition, const char *name)
{
    static const char *const suffixes[] = {"_bucket", "_sum", "_count"};
    struct family *family = family_of(exposition, name, strlen(name));
    for (size_t i = 0; !family && i < SG_ARRAY_LEN(suffixes); i++) {
        size_t len = strlen(name), tail = strlen(suffixes[i]);
        if (len > tail && strcmp(name + len - tail, suffixes[i]) == 0)
            family = family_of(exposition, name, len - tail);
        if (family && strcmp(family->type, "histogram") != 0)
            family = NULL;
    }
    return family;
}

static bool same_labels(const struct sample *a, const struct sample *b)
{
    if (strcmp(a->name, b->name) != 0 || a->label_count != b->label_count)
        return false;
    for (size_t i = 0; i < a->label_count; i++)
        if (strcmp(a->labels[i].name, b->labels[i].name) != 0 ||
            strcmp(a->labels[i].value, b->labels[i].value) != 0)
            return false;
    return true;
}

static bool read_sample(struct exposition *exposition, const char *line)
{
    SG_ASSERT(exposition->sample_count < SAMPLES_MAX);
    struct sample *sample = &exposition->samples[exposition->sample_count];
    size_t len = name_len(line, true);
    const char *p = line + len;
    char *end;
    if (!len || len >= sizeof(sample->name))
        return complain(exposition, "no metric name", line);
    memcpy(sample->name, line, len);
    if (*p == '{' && !(p = read_labels(sample, p + 1)))
        return complain(exposition, "malformed labels", line);
    if (*p != ' ')
        return complain(exposition, "no blank before the value", line);
    errno = 0;
    sample->value = strtod(p + 1, &end);
    if (end == p + 1 || *end || errno || isspace((unsigned char)p[1]))
        return complain(exposition, "malformed value", line);
    struct family *family = sample_family(exposition, sample->name);
    if (!family || !family->helped || !family->typed || family->closed)
        return complain(exposition, "a sample away from its HELP and TYPE", line);
    if (strcmp(family->type, "counter") == 0 &&
        (strlen(sample->name) < 6 || strcmp(sample->name + len - 6, "_total") != 0 || sample->value < 0))
        return complain(exposition, "a counter that is not a _total, or negative", line);
    for (size_t i = 0; i < exposition->sample_count; i++)
        if (same_labels(sample, &exposition->samples[i]))
            return complain(exposition, "a sample given twice", line);
    exposition->sample_count++;
    return true;
}

static bool read_exposition(struct exposition *exposition, const char *text)
{
    char line[1024];
    memset(exposition, 0, sizeof(*exposition));
    while (*text) {
        const char *end = strchr(text, '\n');
        if (!end || (size_t)(end - text) >= sizeof(line))
            return complain(exposition, "a line without an end", text);
        memcpy(line, text, (size_t)(end - text));
        line[end - text] = '\0';
        text = end + 1;
        if (line[0] == '#' ? !read_comment(exposition, line) : !read_sample(exposition, line))
            return false;
    }
    return true;
}

static const char *label(const struct sample *sample, const char *name)
{
    for (size_t i = 0; i < sample->label_count; i++)
        if (strcmp(sample->labels[i].name, name) == 0)
            return sample->labels[i].value;
    return NULL;
}

/* The value of the only sample with this name and these labels ("a=b,c=d"; "" means none); -1: there is none. */
static double value_of(const struct exposition *exposition, const char *name, const char *labels)
{
    for (size_t i = 0; i < exposition->sample_count; i++) {
        const struct sample *sample = &exposition->samples[i];
        char text[512] = "";
        size_t len = 0;
        for (size_t l = 0; l < sample->label_count; l++)
            len += (size_t)snprintf(text + len, sizeof(text) - len, "%s%s=%s", l ? "," : "",
                                    sample->labels[l].name, sample->labels[l].value);
        if (strcmp(sample->name, name) == 0 && strcmp(text, labels) == 0)
            return sample->value;
    }
    return -1;
}

/* Buckets of one label set follow each other: `le` rises up to +Inf, counts never fall, _count is +Inf's. */
static void check_histogram(const struct exposition *exposition, const char *family)
{
    char bucket[128], labels[512];
    double last_le = 0, last = 0;
    size_t closed = 0;
    snprintf(bucket, sizeof(bucket), "%s_bucket", family);
    for (size_t i = 0; i < exposition->sample_count; i++) {
        const struct sample *sample = &exposition->samples[i];
        if (strcmp(sample->name, bucket) != 0)
            continue;
        const char *le = label(sample, "le");
        assert_non_null(le);
        double bound = strtod(le, NULL); /* reads +Inf */
        assert_true(bound > last_le && sample->value >= last);
        last_le = bound;
        last = sample->value;
        if (strcmp(le, "+Inf") != 0)
            continue;
        snprintf(labels, sizeof(labels), "route=%s,path=%s", label(sample, "route"), label(sample, "path"));
        snprintf(bucket, sizeof(bucket), "%s_count", family);
        assert_true(value_of(exposition, bucket, labels) == sample->value);
        snprintf(bucket, sizeof(bucket), "%s_sum", family);
        assert_true(value_of(exposition, bucket, labels) >= 0);
        snprintf(bucket, sizeof(bucket), "%s_bucket", family);
        last_le = last = 0;
        closed++;
    }
    assert_true(last_le == 0); /* the last label set was closed by +Inf, too */
    assert_true(closed > 0);
}

static struct exposition *exposition;

static void render(const struct ops_counters *counters, const struct ops_gauges *gauges,
                   const struct ops_process *process)
{
    struct buf out = BUF_INIT;
    ops_render_metrics(counters, gauges, process, &out);
    buf_append_char(&out, '\0');
    assert_true(buf_ok(&out));
    assert_int_equal(strlen(out.ptr) + 1, out.len);
    if (!read_exposition(exposition, out.ptr))
        fail_msg("%s", exposition->complaint);
    check_histogram(exposition, "syncgate_request_duration_seconds");
    buf_fini(&out);
}

/* The reader itself must be able to refuse. */
static void test_reader_refuses(void **state)
{
    (void)state;
#define HEAD "# HELP a_total h\n# TYPE a_total counter\n"
    static const struct {
        const char *text;
        bool ok;
    } cases[] = {
        {HEAD "a_total 1\n", true},
        {HEAD "a_total{b=\"c\",d=\"\\\"\\\\\\n\"} 1\n", true},
        {"a_total 1\n", false},
        {"# TYPE a_total counter\na_total 1\n", false},
        {HEAD "a_total 1", false},
        {HEAD "a_total\n", false},
        {HEAD "a_total 1 x\n", false},
        {HEAD "a_total  1\n", false},
        {HEAD "a_total -1\n", false},
        {HEAD "a_total{b=\"c\" 1\n", false},
        {HEAD "a_total{b=c} 1\n", false},
        {HEAD "a_total{1b=\"c\"} 1\n", false},
        {HEAD "a_total{b=\"\\x\"} 1\n", false},
        {HEAD "a_total 1\na_total 2\n", false},
        {HEAD HEAD, false},
        {HEAD "# HELP b h\n# TYPE b gauge\nb 1\na_total 1\n", false},
        {"# HELP a h\n# TYPE a counter\na 1\n", false},
        {"# HELP a h\n# TYPE a thing\na 1\n", false},
        {"# HELP 1a h\n# TYPE 1a gauge\n", false},
        {"\n", false},
    };
#undef HEAD
    for (size_t i = 0; i < SG_ARRAY_LEN(cases); i++)
        if (read_exposition(exposition, cases[i].text) != cases[i].ok)
            fail_msg("case %zu: %s", i, exposition->complaint);
}

/* ---- counters ---- */

static const struct ops_operation operations[] = {{.name = SPAN_INIT("bindDeviceQR"), .active = true},
                                                  {.name = SPAN_INIT("unbindDevice"), .active = true}};
static const struct ops_process quiet_process = {
    .operations = operations, .operation_count = 2, .version = "1.2.3"};

static void test_one_request(void **state)
{
    (void)state;
    struct ops_counters *counters = ops_counters_new(2);
    const struct ops_gauges gauges = {0};
    static const struct {
        uint64_t duration_ns;
        const char *first_le; /* of the buckets that hold it */
        const char *last_without;
    } cases[] = {
        {0, "0.0005", NULL},
        {500000, "0.0005", NULL},
        {500001, "0.001", "0.0005"},
        {5000000, "0.005", "0.0025"},
        {30000000000, "30", "10"},
        {30000000001, "+Inf", "30"},
        {UINT64_C(3600000000000), "+Inf", "30"},
    };
    for (size_t i = 0; i < SG_ARRAY_LEN(cases); i++) {
        char labels[128];
        ops_counters_freep(&counters);
        counters = ops_counters_new(2);
        ops_count_request(counters, 0, PATH_TAKEN_KAFKA, 200, cases[i].duration_ns);
        render(counters, &gauges, &quiet_process);
        snprintf(labels, sizeof(labels), "route=bindDeviceQR,path=kafka,le=%s", cases[i].first_le);
        assert_true(value_of(exposition, "syncgate_request_duration_seconds_bucket", labels) == 1);
        snprintf(labels, sizeof(labels), "route=bindDeviceQR,path=kafka,le=%s",
                 cases[i].last_without ? cases[i].last_without : "-");
        assert_true(value_of(exposition, "syncgate_request_duration_seconds_bucket", labels) ==
                    (cases[i].last_without ? 0 : -1));
        double sum =
            value_of(exposition, "syncgate_request_duration_seconds_sum", "route=bindDeviceQR,path=kafka") -
            (double)cases[i].duration_ns / 1e9;
        assert_true(sum > -1e-6 && sum < 1e-6);
    }
    assert_true(value_of(exposition, "syncgate_requests_total", "route=bindDeviceQR,path=kafka,status=200") ==
                1);
    assert_true(value_of(exposition, "syncgate_info", "version=1.2.3") == 1);
    ops_counters_freep(&counters);
    assert_null(counters);
    ops_counters_freep(&counters);
}

static void test_statuses(void **state)
{
    (void)state;
    static const struct {
        uint32_t route;
        enum path_taken path;
        int status;
        const char *labels;
    } cases[] = {
        {0, PATH_TAKEN_KAFKA, 504, "route=bindDeviceQR,path=kafka,status=504"},
        {1, PATH_TAKEN_LEGACY, 201, "route=unbindDevice,path=legacy,status=201"},
        {1, PATH_TAKEN_NONE, 499, "route=unbindDevice,path=none,status=499"},
        {OPS_NO_ROUTE, PATH_TAKEN_LEGACY, 404, "route=none,path=legacy,status=404"},
        {OPS_NO_ROUTE, PATH_TAKEN_NONE, 100, "route=none,path=none,status=100"},
        {OPS_NO_ROUTE, PATH_TAKEN_NONE, 599, "route=none,path=none,status=599"},
        {0, PATH_TAKEN_LEGACY, 999, "route=bindDeviceQR,path=legacy,status=599"},
        {1, PATH_TAKEN_KAFKA, 0, "route=unbindDevice,path=kafka,status=599"},
    };
    struct ops_counters *counters = ops_counters_new(2);
    const struct ops_gauges gauges = {0};
    for (size_t i = 0; i < SG_ARRAY_LEN(cases); i++)
        for (size_t n = 0; n <= i; n++)
            ops_count_request(counters, cases[i].route, cases[i].path, cases[i].status, n * 1000000);
    render(counters, &gauges, &quiet_process);
    for (size_t i = 0; i < SG_ARRAY_LEN(cases); i++)
        if (value_of(exposition, "syncgate_requests_total", cases[i].labels) != (double)i + 1)
            fail_msg("%s", cases[i].labels);
    ops_counters_freep(&counters);
}

/* Three loops' counters, added up, are the counts of one loop that did it all. */
static void test_adding_up(void **state)
{
    (void)state;
    struct ops_counters *loops[3], *sum = ops_counters_new(2), *all = ops_counters_new(2);
    struct ops_gauges gauges = {0}, parts[3];
    struct buf texts[2] = {BUF_INIT, BUF_INIT};
    uint32_t random = 7;
    for (int i = 0; i < 3; i++)
        loops[i] = ops_counters_new(2);
    for (int i = 0; i < 5000; i++) {
        random = random * 1664525 + 1013904223;
        struct ops_counters *const both[] = {loops[random >> 8 & 1 ? 0 : 1], all}; /* the third stays empty */
        uint32_t route = random >> 9 & 3;
        for (int b = 0; b < 2; b++) {
            ops_count_request(both[b], route < 2 ? route : OPS_NO_ROUTE,
                              (enum path_taken)((random >> 11) % PATH_TAKEN_COUNT),
                              100 + (int)((random >> 13) % 500), (uint64_t)(random >> 3) * 100);
            ops_count_fallback(both[b], (enum path_fallback)((random >> 16) % PATH_FALLBACK_COUNT));
            ops_count_reply(both[b], (enum ops_reply)((random >> 19) % OPS_REPLY_COUNT));
            ops_count_dead_letter(both[b], (enum ops_dead_letter)((random >> 22) % OPS_DEAD_LETTER_COUNT));
            ops_count_event(both[b], random >> 22 & 1);
        }
    }
    for (int i = 0; i < 3; i++) {
        unsigned n = 1u << (4 * i);
        parts[i] = (struct ops_gauges){
            n, 2 * n, 3 * n, {0, n, 2 * n, 3 * n, 4 * n, 5 * n, 6 * n}, 4 * n, 5 * n, 6 * n, 7 * n, 8 * n};
        ops_gauges_add(&gauges, &parts[i]);
        assert_int_equal(ops_counters_add(sum, loops[i]), ERR_OK);
    }
    ops_render_metrics(sum, &gauges, &quiet_process, &texts[0]);
    ops_render_metrics(all, &gauges, &quiet_process, &texts[1]);
    assert_true(span_eq(buf_span(&texts[0]), buf_span(&texts[1])));
    render(sum, &gauges, &quiet_process);
    double requests = 0, durations = 0, fallbacks = 0, replies = 0, dead_letters = 0;
    for (size_t i = 0; i < exposition->sample_count; i++) {
        const struct sample *sample = &exposition->samples[i];
        requests += strcmp(sample->name, "syncgate_requests_total") == 0 ? sample->value : 0;
        durations += strcmp(sample->name, "syncgate_request_duration_seconds_count") == 0 ? sample->value : 0;
        fallbacks += strcmp(sample->name, "syncgate_fallbacks_total") == 0 ? sample->value : 0;
        replies += strcmp(sample->name, "syncgate_replies_total") == 0 ? sample->value : 0;
        dead_letters += strcmp(sample->name, "syncgate_dead_letters_total") == 0 ? sample->value : 0;
    }
    assert_true(requests == 5000 && durations == 5000 && fallbacks == 5000 && replies == 5000 &&
                dead_letters == 5000);
    static const struct {
        const char *name, *labels;
        double value;
    } cases[] = {
        {"syncgate_parked_requests", "", 0x111},
        {"syncgate_active_requests", "", 0x222},
        {"syncgate_legacy_active_requests", "", 0x333},
        {"syncgate_awaiter_wins_total", "winner=reply", 0x111},
        {"syncgate_awaiter_wins_total", "winner=deadline", 0x222},
        {"syncgate_awaiter_wins_total", "winner=produce_failure", 0x333},
        {"syncgate_awaiter_wins_total", "winner=client_gone", 0x444},
        {"syncgate_awaiter_wins_total", "winner=shutdown", 0x555},
        {"syncgate_awaiter_wins_total", "winner=delivered", 0x666},
        {"syncgate_tokens_total", "result=cached", 0x444},
        {"syncgate_tokens_total", "result=verified", 0x555},
        {"syncgate_tokens_total", "result=refused", 0x666},
    };
    for (size_t i = 0; i < SG_ARRAY_LEN(cases); i++)
        if (value_of(exposition, cases[i].name, cases[i].labels) != cases[i].value)
            fail_msg("%s{%s}", cases[i].name, cases[i].labels);
    for (int i = 0; i < 3; i++)
        ops_counters_freep(&loops[i]);
    ops_counters_freep(&sum);
    ops_counters_freep(&all);
    buf_fini(&texts[0]);
    buf_fini(&texts[1]);
}

static void test_process_values(void **state)
{
    (void)state;
    struct ops_counters *counters = ops_counters_new(2);
    const struct ops_gauges gauges = {0};
    struct ops_process process = quiet_process;
    ops_count_request(counters, 0, PATH_TAKEN_KAFKA, 200, 1);
    ops_count_reply(counters, OPS_REPLY_UNMATCHED);
    ops_count_reply(counters, OPS_REPLY_INVALID);
    ops_count_dead_letter(counters, OPS_DEAD_LETTER_FAILED);
    ops_count_dead_letter(counters, OPS_DEAD_LETTER_SUPPRESSED);
    ops_count_event(counters, true);
    ops_count_event(counters, true);
    ops_count_event(counters, false);
    render(counters, &gauges, &process);
    assert_true(value_of(exposition, "syncgate_kafka_reachable", "") == -1); /* no Kafka: no such metrics */
    assert_true(value_of(exposition, "syncgate_draining", "") == 0);
    process.connections = 11;
    process.log_dropped = 12;
    process.kafka = process.kafka_reachable = process.draining = true;
    process.kafka_records = 13;
    process.kafka_delivered = 14;
    process.kafka_not_persisted = 15;
    process.kafka_uncertain = 16;
    process.kafka_offset_resets = 17;
    process.kafka_partitions = 18;
    process.kafka_fatal_errors = 19;
    process.kafka_queue_len = UINT64_C(1) << 52;
    process.unmatched_skipped = 20;
    process.invalid_skipped = 30;
    process.dead_letters_sent = 31;
    process.dead_letters_failed = 32;
    render(counters, &gauges, &process);
    static const struct {
        const char *name, *labels;
        double value;
    } cases[] = {
        {"syncgate_connections", "", 11},
        {"syncgate_log_lines_dropped_total", "", 12},
        {"syncgate_draining", "", 1},
        {"syncgate_kafka_reachable", "", 1},
        {"syncgate_kafka_records_total", "", 13},
        {"syncgate_kafka_deliveries_total", "result=persisted", 14},
        {"syncgate_kafka_deliveries_total", "result=not_persisted", 15},
        {"syncgate_kafka_deliveries_total", "result=uncertain", 16},
        {"syncgate_kafka_offset_resets_total", "", 17},
        {"syncgate_kafka_reply_partitions", "", 18},
        {"syncgate_kafka_fatal_errors_total", "", 19},
        {"syncgate_kafka_producer_queue_messages", "", 4503599627370496.0},
        {"syncgate_replies_total", "result=unmatched", 21}, /* the loops' and the reader's */
        {"syncgate_replies_total", "result=invalid", 31},
        {"syncgate_replies_total", "result=matched", 0},
        {"syncgate_stream_events_total", "result=sent", 2},
        {"syncgate_stream_events_total", "result=dropped", 1},
    };
    for (size_t i = 0; i < SG_ARRAY_LEN(cases); i++)
        if (value_of(exposition, cases[i].name, cases[i].labels) != cases[i].value)
            fail_msg("%s{%s}", cases[i].name, cases[i].labels);
    ops_counters_freep(&counters);
}

/* operationId is free text in a route file: a quote in it must not break the line. */
static void test_hostile_names(void **state)
{
    (void)state;
    static const struct ops_operation names[] = {{.name = SPAN_INIT("a\"b")}, {.name = SPAN_INIT("c\\d\ne")}};
    const struct ops_process process = {.operations = names, .operation_count = 2, .version = "1\"2"};
    const struct ops_gauges gauges = {0};
    struct ops_counters *counters = ops_counters_new(2);
    ops_count_request(counters, 0, PATH_TAKEN_KAFKA, 200, 1);
    ops_count_request(counters, 1, PATH_TAKEN_LEGACY, 200, 1);
    render(counters, &gauges, &process);
    assert_true(value_of(exposition, "syncgate_requests_total", "route=a\"b,path=kafka,status=200") == 1);
    assert_true(value_of(exposition, "syncgate_requests_total", "route=c\\dne,path=legacy,status=200") == 1);
    assert_true(value_of(exposition, "syncgate_info", "version=1\"2") == 1);
    ops_counters_freep(&counters);
}

/* ---- health ---- */

static void assert_text(const struct json_doc *doc, const struct json_node *object, const char *name,
                        const char *expected)
{
    const struct json_node *node = json_get(doc, object, span_of(name));
    if (!node || node->type != JSON_STRING || !json_string_eq(doc, node, span_of(expected)))
        fail_msg("%s is not %s", name, expected);
}

static void test_health(void **state)
{
    (void)state;
    struct ops_check checks[] = {
        {"kafka", true, "open"},
        {"routes", true, "a \"quoted\" \\ detail\nwith a line break, \x01 and \xff"},
        {"draining", true, ""},
    };
    memset(checks[2].detail, 'x', sizeof(checks[2].detail) - 1);
    for (size_t bad = 0; bad <= SG_ARRAY_LEN(checks); bad++) {
        struct buf out = BUF_INIT;
        struct json_doc doc = JSON_DOC_INIT;
        bool all = bad == SG_ARRAY_LEN(checks);
        for (size_t i = 0; i < SG_ARRAY_LEN(checks); i++)
            checks[i].ok = i != bad;
        assert_int_equal(ops_render_health(checks, SG_ARRAY_LEN(checks), "1.2.3", bad == 0, &out), all);
        assert_true(buf_ok(&out));
        assert_int_equal(json_parse(&doc, buf_span(&out), 1000), ERR_OK);
        const struct json_node *root = json_root(&doc);
        assert_text(&doc, root, "status", all ? "ok" : "unavailable");
        assert_text(&doc, root, "version", "1.2.3");
        assert_int_equal(json_get(&doc, root, SPAN_LIT("embeddedBroker"))->type,
                         bad == 0 ? JSON_TRUE : JSON_FALSE);
        const struct json_node *list = json_get(&doc, root, SPAN_LIT("checks"));
        assert_non_null(list);
        assert_int_equal(list->count, SG_ARRAY_LEN(checks));
        size_t i = 0;
        for (const struct json_node *item = json_first(&doc, list); item; item = json_next(&doc, item), i++) {
            assert_text(&doc, item, "name", checks[i].name);
            assert_int_equal(json_get(&doc, item, SPAN_LIT("ok"))->type, i == bad ? JSON_FALSE : JSON_TRUE);
        }
        assert_text(&doc, json_first(&doc, list), "detail", "open");
        json_fini(&doc);
        buf_fini(&out);
    }
}

static void test_health_without_checks(void **state)
{
    (void)state;
    struct buf out = BUF_INIT;
    assert_true(ops_render_health(NULL, 0, "v", false, &out));
    assert_true(
        span_eq(buf_span(&out),
                SPAN_LIT("{\"status\":\"ok\",\"version\":\"v\",\"embeddedBroker\":false,\"checks\":[]}")));
    buf_fini(&out);
}

static void test_names(void **state)
{
    (void)state;
    static const char *const names[] = {"matched",   "progress",        "late",
                                        "duplicate", "unmatched",       "mismatched",
                                        "invalid",   "unknown_version", "invalid_schema"};
    assert_int_equal(SG_ARRAY_LEN(names), OPS_REPLY_COUNT);
    for (int i = 0; i < OPS_REPLY_COUNT; i++)
        assert_string_equal(ops_reply_name((enum ops_reply)i), names[i]);
    static const char *const dead_letters[] = {"sent", "failed", "suppressed"};
    assert_int_equal(SG_ARRAY_LEN(dead_letters), OPS_DEAD_LETTER_COUNT);
    for (int i = 0; i < OPS_DEAD_LETTER_COUNT; i++)
        assert_string_equal(ops_dead_letter_name((enum ops_dead_letter)i), dead_letters[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reader_refuses), cmocka_unit_test(test_one_request),
        cmocka_unit_test(test_statuses),       cmocka_unit_test(test_adding_up),
        cmocka_unit_test(test_process_values), cmocka_unit_test(test_hostile_names),
        cmocka_unit_test(test_health),         cmocka_unit_test(test_health_without_checks),
        cmocka_unit_test(test_names),
    };
    exposition = malloc(sizeof(*exposition));
    SG_ASSERT(exposition);
    int failures = cmocka_run_group_tests(tests, NULL, NULL);
    free(exposition);
    return failures;
}
