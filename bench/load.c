/* SPDX-License-Identifier: Apache-2.0 */
/* sg-load: an HTTP load generator that checks every answer. See usage() and docs/performance.md. */
#include <arpa/inet.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "client.h"

#define BODY_MAX 102400

static volatile sig_atomic_t stop_requested;

static void on_signal(int number)
{
    (void)number;
    stop_requested = 1;
}

static void usage(FILE *out)
{
    fputs("usage: sg-load --target 127.0.0.1:PORT [MODE] [OPTION]...\n"
          "Modes (without one: bind, unbind, bind, ... of device GH-<base+i> on connection i):\n"
          "  --get PATH | --post PATH [--body FILE]   the same request again and again\n"
          "  --park N --admin 127.0.0.1:PORT          N binds that nobody answers; prints `parked N` when "
          "all wait,\n"
          "                                           holds them for --seconds or until SIGTERM, then "
          "expects 504s\n"
          "Options:\n"
          "  --token FILE|TEXT  bearer token            --base N         first device number (1)\n"
          "  --connections N    (64)                    --expect STATUS  of --get, --post (200) and --park "
          "(504)\n"
          "  --seconds S        measured time (5)       --warmup S       before it, not measured (1)\n"
          "  --requests N       end after N             --rate R         requests/s; late starts count as "
          "latency\n"
          "  --drain S          wait at the end (40)    --abandon        --park: close instead of waiting "
          "for answers\n"
          "  --watch NAME=PID   CPU per request of that process; may be repeated, one name for several\n"
          "  --json             one line of JSON instead of text\n"
          "Exit: 0 every answer was right, 1 not (unexpected, crossed or missing answers), 2 usage.\n",
          out);
}

static bool parse_address(const char *text, struct sockaddr_in *ret_address)
{
    static const char host[] = "127.0.0.1:";
    uint64_t port;
    if (strncmp(text, host, sizeof(host) - 1) != 0 ||
        !stats_parse_u64(text + sizeof(host) - 1, 1, 65535, &port))
        return false;
    *ret_address = (struct sockaddr_in){
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    return true;
}

/* Returns owned, or NULL. */
static char *read_file(const char *path, size_t *ret_len)
{
    FILE *file = fopen(path, "re");
    char *text = file ? malloc(BODY_MAX + 1) : NULL;
    if (text) {
        *ret_len = fread(text, 1, BODY_MAX, file);
        text[*ret_len] = '\0';
    }
    if (file)
        fclose(file);
    return text;
}

/* A token has no slash in it, a file name for it should. Returns owned, or NULL. */
static char *read_token(const char *text)
{
    size_t len;
    if (!strchr(text, '/'))
        return strdup(text);
    char *token = read_file(text, &len);
    if (token)
        token[strcspn(token, "\r\n")] = '\0';
    return token;
}

static bool parse_watch(const char *text, struct load_result *result)
{
    const char *equals = strchr(text, '=');
    uint64_t pid;
    if (!equals || equals == text || !stats_parse_u64(equals + 1, 1, INT32_MAX, &pid) ||
        result->watched_count == CLIENT_WATCH_MAX)
        return false;
    char *name = strndup(text, (size_t)(equals - text));
    if (!name)
        return false;
    result->watched[result->watched_count++] = (struct watched_process){.name = name, .pid = (pid_t)pid};
    return true;
}

static bool parse_unsigned(const char *text, uint64_t min, uint64_t max, unsigned *ret_value)
{
    uint64_t value;
    if (!stats_parse_u64(text, min, max, &value))
        return false;
    *ret_value = (unsigned)value;
    return true;
}

enum {
    OPT_TARGET = 256,
    OPT_ADMIN,
    OPT_GET,
    OPT_POST,
    OPT_BODY,
    OPT_PARK,
    OPT_TOKEN,
    OPT_BASE,
    OPT_CONNECTIONS,
    OPT_EXPECT,
    OPT_SECONDS,
    OPT_WARMUP,
    OPT_REQUESTS,
    OPT_RATE,
    OPT_DRAIN,
    OPT_ABANDON,
    OPT_WATCH,
    OPT_JSON,
    OPT_HELP
};

static const struct option long_options[] = {
    {"target", required_argument, NULL, OPT_TARGET},
    {"admin", required_argument, NULL, OPT_ADMIN},
    {"get", required_argument, NULL, OPT_GET},
    {"post", required_argument, NULL, OPT_POST},
    {"body", required_argument, NULL, OPT_BODY},
    {"park", required_argument, NULL, OPT_PARK},
    {"token", required_argument, NULL, OPT_TOKEN},
    {"base", required_argument, NULL, OPT_BASE},
    {"connections", required_argument, NULL, OPT_CONNECTIONS},
    {"expect", required_argument, NULL, OPT_EXPECT},
    {"seconds", required_argument, NULL, OPT_SECONDS},
    {"warmup", required_argument, NULL, OPT_WARMUP},
    {"requests", required_argument, NULL, OPT_REQUESTS},
    {"rate", required_argument, NULL, OPT_RATE},
    {"drain", required_argument, NULL, OPT_DRAIN},
    {"abandon", no_argument, NULL, OPT_ABANDON},
    {"watch", required_argument, NULL, OPT_WATCH},
    {"json", no_argument, NULL, OPT_JSON},
    {"help", no_argument, NULL, OPT_HELP},
    {NULL, 0, NULL, 0},
};

static bool parse_request(int opt, const char *arg, struct load_options *options)
{
    switch (opt) {
    case OPT_GET:
    case OPT_POST:
        options->mode = LOAD_PLAIN;
        options->method = opt == OPT_GET ? "GET" : "POST";
        options->path = arg;
        return *arg == '/' && !strpbrk(arg, " \r\n");
    case OPT_BODY:
        free(options->body);
        options->body = read_file(arg, &options->body_len);
        return options->body != NULL;
    case OPT_PARK:
        options->mode = LOAD_PARK;
        return parse_unsigned(arg, 1, 1000000, &options->connections);
    case OPT_TOKEN:
        free(options->token);
        options->token = read_token(arg);
        return options->token != NULL;
    default:
        return false;
    }
}

static bool parse_option(int opt, const char *arg, struct load_options *options, struct load_result *result)
{
    uint64_t status;
    switch (opt) {
    case OPT_TARGET:
        return parse_address(arg, &options->target);
    case OPT_ADMIN:
        return parse_address(arg, &options->admin);
    case OPT_BASE:
        return parse_unsigned(arg, 0, 100000000, &options->first_device);
    case OPT_CONNECTIONS:
        return parse_unsigned(arg, 1, 1000000, &options->connections);
    case OPT_EXPECT:
        options->expect_status = stats_parse_u64(arg, 100, 599, &status) ? (int)status : 0;
        return options->expect_status != 0;
    case OPT_SECONDS:
        return stats_parse_double(arg, 0, 3600, &options->seconds);
    case OPT_WARMUP:
        return stats_parse_double(arg, 0, 600, &options->warmup_seconds);
    case OPT_REQUESTS:
        return stats_parse_u64(arg, 1, UINT64_MAX, &options->max_requests);
    case OPT_RATE:
        return stats_parse_double(arg, 0.01, 1e7, &options->rate);
    case OPT_DRAIN:
        return stats_parse_double(arg, 0, 600, &options->drain_seconds);
    case OPT_ABANDON:
        options->abandon = true;
        return true;
    case OPT_WATCH:
        return parse_watch(arg, result);
    default:
        return parse_request(opt, arg, options);
    }
}

/* Exits by itself on a usage error. */
static bool parse_command_line(int argc, char **argv, struct load_options *options,
                               struct load_result *result)
{
    bool json = false;
    int opt;
    while ((opt = getopt_long(argc, argv, "", long_options, NULL)) != -1) {
        if (opt == OPT_HELP) {
            usage(stdout);
            exit(0);
        }
        if (opt == OPT_JSON) {
            json = true;
        } else if (opt == '?' || !parse_option(opt, optarg, options, result)) {
            if (opt != '?')
                fprintf(stderr, "sg-load: bad value: %s\n", optarg);
            exit(2);
        }
    }
    if (optind != argc || !options->target.sin_port ||
        (options->mode == LOAD_PARK && !options->admin.sin_port)) {
        usage(stderr);
        exit(2);
    }
    if (!options->expect_status)
        options->expect_status = options->mode == LOAD_PARK ? 504 : 200;
    return json;
}

static void raise_fd_limit(unsigned connections)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
        if (limit.rlim_max < connections + 16u)
            fprintf(stderr, "sg-load: the limit of %lu open files is too low\n",
                    (unsigned long)limit.rlim_max);
    }
}

/* ---- report ---- */

/* The processes of one name together; each name once. */
static void report_watched(const struct load_result *result, bool json)
{
    for (unsigned i = 0; i < result->watched_count; i++) {
        const char *name = result->watched[i].name;
        double used_us = 0;
        bool again = false, gone = false;
        for (unsigned j = 0; j < result->watched_count; j++) {
            if (strcmp(name, result->watched[j].name) != 0)
                continue;
            again = again || j < i;
            gone = gone || result->watched[j].used_us < 0;
            used_us += result->watched[j].used_us;
        }
        if (again)
            continue;
        double per_request = result->requests ? used_us / (double)result->requests : 0;
        if (gone)
            used_us = per_request = -1;
        printf(json ? ",\"cpu_us_%s\":%.3f,\"cpu_total_us_%s\":%.0f"
                    : "cpu of %s: %.2f us a request (%s: %.0f us)\n",
               name, per_request, name, used_us);
    }
}

static void report(const struct load_options *options, const struct load_result *result, bool json)
{
    const struct histogram *latency = &result->latency;
    const double rps = result->seconds > 0 ? (double)result->requests / result->seconds : 0;
    const double own_us = result->requests ? result->own_cpu_us / (double)result->requests : 0;
    const double p50 = histogram_percentile_ms(latency, 0.5), p90 = histogram_percentile_ms(latency, 0.9),
                 p99 = histogram_percentile_ms(latency, 0.99), max = (double)latency->max_ns / 1e6;
    if (json) {
        printf("{\"connections\":%u,\"requests\":%lu,\"seconds\":%.3f,\"rps\":%.1f,\"p50_ms\":%.4f,\"p90_"
               "ms\":%.4f,"
               "\"p99_ms\":%.4f,\"max_ms\":%.4f,\"checked\":%lu,\"unexpected\":%lu,\"crossed\":%lu,"
               "\"errors\":%lu,"
               "\"parked\":%lu,\"load_cpu_us\":%.3f",
               options->connections, result->requests, result->seconds, rps, p50, p90, p99, max,
               result->checked, result->unexpected, result->crossed, result->errors, result->parked, own_us);
        report_watched(result, true);
        puts("}");
        return;
    }
    printf("%lu requests in %.2f s from %u connections: %.0f/s\n"
           "latency ms: p50 %.3f, p90 %.3f, p99 %.3f, max %.3f\n"
           "answers: %lu right, %lu unexpected, %lu crossed; %lu errors\n",
           result->requests, result->seconds, options->connections, rps, p50, p90, p99, max, result->checked,
           result->unexpected, result->crossed, result->errors);
    printf("cpu of sg-load: %.2f us a request\n", own_us);
    report_watched(result, false);
}

int main(int argc, char **argv)
{
    struct load_options options = {
        .first_device = 1, .connections = 64, .seconds = 5, .warmup_seconds = 1, .drain_seconds = 40};
    static struct load_result result;
    const bool json = parse_command_line(argc, argv, &options, &result);
    const struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    raise_fd_limit(options.connections);
    /* The last resort: nothing here may outlive its time. */
    alarm((unsigned)(options.warmup_seconds + options.seconds + 2 * options.drain_seconds) + 60);
    bool ok = client_run(&options, &stop_requested, &result);
    if (ok)
        report(&options, &result, json);
    for (unsigned i = 0; i < result.watched_count; i++)
        free(result.watched[i].name);
    free(options.token);
    free(options.body);
    return !ok || result.unexpected || result.crossed || result.errors ? 1 : 0;
}
