/* SPDX-License-Identifier: Apache-2.0 */
/* device-service: an example of a service behind syncgate. It is two things over the same devices in memory:
 * the legacy REST backend for them (rest.c), and the service that answers their Kafka commands (responder.c).
 */
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "rest.h"

static const char usage[] =
    "usage: device-service [options]\n"
    "  --listen HOST:PORT    REST address, an IPv4 one; port 0: any (127.0.0.1:3000)\n"
    "  --hs256-secret TEXT   verify tokens with this shared secret, or\n"
    "  --public-key FILE     with this RSA or EC public key (PEM)\n"
    "  --kafka BROKERS       also answer commands; without it REST only\n"
    "  --group NAME          consumer group (device-service)\n"
    "  --linger-ms N         wait to batch replies (0)\n"
    "  -X KEY=VALUE          any librdkafka property; may be repeated\n"
    "  --devices N           register GH-1..GH-N at start\n"
    "  --test-hooks          serve /__test/executions and /__test/behaviour\n"
    "It prints its REST address, then `ready`.\n";

struct options {
    struct rest_config rest;
    struct responder_config kafka;
    long device_count;
};

static void say_ready(void)
{
    puts("ready");
    fflush(stdout);
}

static char *read_file(const char *path)
{
    char *text = NULL;
    size_t size = 0;
    FILE *file = fopen(path, "re");
    if (!file || getdelim(&text, &size, '\0', file) < 0) {
        perror(path);
        exit(1);
    }
    fclose(file);
    return text;
}

static _Noreturn void bad_option(const char *what)
{
    fprintf(stderr, "device-service: %s\n%s", what, usage);
    exit(2);
}

static long whole_number(const char *text, long max)
{
    char *end;
    long number = strtol(text, &end, 10);
    if (end == text || *end || number < 0 || number > max)
        bad_option(text);
    return number;
}

static void parse_listen(char *text, struct rest_config *rest)
{
    char *colon = strrchr(text, ':');
    if (!colon)
        bad_option("--listen takes HOST:PORT");
    *colon = '\0';
    rest->host = text;
    rest->port = (uint16_t)whole_number(colon + 1, 65535);
}

static void parse_options(int argc, char **argv, struct options *options)
{
    static const struct option names[] = {{"listen", required_argument, NULL, 'l'},
                                          {"hs256-secret", required_argument, NULL, 's'},
                                          {"public-key", required_argument, NULL, 'p'},
                                          {"kafka", required_argument, NULL, 'k'},
                                          {"group", required_argument, NULL, 'g'},
                                          {"linger-ms", required_argument, NULL, 'm'},
                                          {"devices", required_argument, NULL, 'd'},
                                          {"test-hooks", no_argument, NULL, 't'},
                                          {"help", no_argument, NULL, 'h'},
                                          {0}};
    size_t property_count = 0;
    for (int option; (option = getopt_long(argc, argv, "X:h", names, NULL)) != -1;) {
        switch (option) {
        case 'l':
            parse_listen(optarg, &options->rest);
            break;
        case 's':
        case 'p':
            if (options->rest.key.text)
                bad_option("one of --hs256-secret and --public-key");
            options->rest.key.is_public = option == 'p';
            options->rest.key.text = option == 'p' ? read_file(optarg) : or_die(strdup(optarg));
            break;
        case 'k':
            options->kafka.brokers = optarg;
            break;
        case 'g':
            options->kafka.group = optarg;
            break;
        case 'm':
            options->kafka.linger_ms = optarg;
            break;
        case 'X':
            options->kafka.properties[property_count++] = optarg;
            break;
        case 'd':
            options->device_count = whole_number(optarg, 10000000);
            break;
        case 't':
            options->rest.test_hooks = true;
            break;
        case 'h':
            fputs(usage, stdout);
            exit(0);
        default:
            bad_option("unknown option");
        }
    }
    if (optind < argc)
        bad_option(argv[optind]);
}

static void add_devices(struct devices *devices, long count)
{
    char id[32];
    for (long i = 1; i <= count; i++) {
        snprintf(id, sizeof(id), "GH-%ld", i);
        devices_add(devices, id, "GrowBox-2", "2.4.1", "");
    }
}

int main(int argc, char **argv)
{
    struct options options = {
        .rest = {.host = "127.0.0.1", .port = 3000},
        .kafka = {.group = "device-service",
                  .linger_ms = "0",
                  .on_ready = say_ready,
                  .properties = or_die(calloc((size_t)argc + 1, sizeof(char *)))},
    };
    parse_options(argc, argv, &options);
    if (!options.rest.key.text)
        fputs("device-service: no key given, every token will be refused\n", stderr);

    /* Blocked before any thread starts, so that only sigwait() below gets them. */
    int signal_number, status = 1;
    sigset_t stop;
    sigemptyset(&stop);
    sigaddset(&stop, SIGTERM);
    sigaddset(&stop, SIGINT);
    pthread_sigmask(SIG_BLOCK, &stop, NULL);

    struct devices *devices = devices_new();
    add_devices(devices, options.device_count);
    struct responder *responder = NULL;
    struct rest *rest = NULL;
    if (options.kafka.brokers && !(responder = responder_new(&options.kafka, devices)))
        goto out;
    if (!(rest = rest_new(&options.rest, devices, responder)))
        goto out;
    printf("listening on %s:%u\n", options.rest.host, rest_port(rest));
    fflush(stdout);
    if (!responder)
        say_ready();
    sigwait(&stop, &signal_number);
    status = 0;
out:
    rest_freep(&rest);
    responder_freep(&responder);
    devices_freep(&devices);
    free(options.rest.key.text);
    free(options.kafka.properties);
    return status;
}
