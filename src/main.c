/* SPDX-License-Identifier: Apache-2.0 */
/* The command line: syncgate [serve] | check | routes, --config FILE, --version, --help. design.md section 3. */
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

#include "app.h"

static void print_help(void)
{
    printf("Usage: syncgate [serve] [--config FILE]   serve until SIGTERM\n"
           "       syncgate check [--config FILE]     validate settings, routes and the OpenAPI document; "
           "exit 0 or 1\n"
           "       syncgate routes [--config FILE]    print the routes\n"
           "       syncgate --version | --help\n\n"
           "Settings come from the environment, then from FILE (JSON), then from the defaults below.\n\n");
    config_print_help(stdout);
}

/* A column of `width` characters, at least one blank behind it. */
static void column(struct span text, int width)
{
    printf("%-*.*s ", width, (int)text.len, text.ptr);
}

static void print_route(const struct route *route, const char *flag, const struct span *reply_topics)
{
    char timeout[16];
    snprintf(timeout, sizeof(timeout), "%ums", route->timeout_ms);
    column(route->method, 7);
    column(route->path, 50);
    column(route->operation_id, 25);
    column(route->case_sensitive ? SPAN_LIT("exact") : SPAN_LIT("express"), 8);
    column(span_of(flag), 11);
    column(route->command.event_type, 28);
    column(route->command.topic, 24);
    column(span_of(timeout), 8);
    if (route->one_way)
        printf("accepted:%d", route->accepted.status);
    for (size_t r = 0; r < route->rule_count; r++) { /* each type once */
        const struct route_reply_rule *rule = &route->rules[r];
        struct span topic = reply_topics[rule->topic];
        bool seen = false;
        for (size_t before = 0; before < r; before++)
            seen |= route->rules[before].topic == rule->topic &&
                    route->rules[before].untyped == rule->untyped &&
                    span_eq(route->rules[before].event_type, rule->event_type);
        struct span type = rule->untyped          ? SPAN_LIT("-")
                           : rule->event_type.ptr ? rule->event_type
                                                  : SPAN_LIT("*");
        if (!seen)
            printf("%s%.*s@%.*s", r ? "," : "", (int)type.len, type.ptr, (int)topic.len, topic.ptr);
    }
    printf("\n");
}

static void print_routes(const struct app *app)
{
    const struct route_table *routes = app->plan->routes;
    column(SPAN_LIT("METHOD"), 7);
    column(SPAN_LIT("PATH"), 50);
    column(SPAN_LIT("OPERATION"), 25);
    column(SPAN_LIT("PATHMODE"), 8);
    column(SPAN_LIT("FLAG"), 11);
    column(SPAN_LIT("COMMAND"), 28);
    column(SPAN_LIT("TOPIC"), 24);
    column(SPAN_LIT("TIMEOUT"), 8);
    printf("REPLIES\n");
    for (size_t i = 0; i < routes->count; i++) {
        char flag[PATH_FLAG_TEXT_LEN + 1];
        struct path_flag value = exchange_route_flag(&app->plan->states[i]);
        path_flag_format(&value, flag);
        print_route(&routes->routes[i], flag, routes->reply_topics);
    }
    for (size_t i = 0; i < routes->disabled_count; i++)
        print_route(&routes->disabled[i], "disabled", routes->disabled_topics);
    for (size_t i = 0; i < routes->disabled_count; i++)
        printf("%s%.*s is disabled: %.*s\n", i ? "" : "\n", (int)routes->disabled[i].operation_id.len,
               routes->disabled[i].operation_id.ptr, (int)routes->disabled[i].disabled_because.len,
               routes->disabled[i].disabled_because.ptr);
}

/* Takes config. */
static int run_offline(struct config *config, const char *file, bool routes)
{
    struct app app = {.config_file = file};
    struct err err = {ERR_OK, ""};
    enum err_code code = app_load(&app, config, &err);
    if (code != ERR_OK)
        fprintf(stderr, "syncgate: %s\n", err.text);
    else if (routes)
        print_routes(&app);
    else
        printf("ok: %zu routes\n", app.plan->routes->count);
    app_unload(&app);
    return code == ERR_OK ? 0 : 1;
}

/* One that comes while the settings are read waits until they can be read again; it would end the process. */
static void hold_hangup(void)
{
    sigset_t hangup;
    sigemptyset(&hangup);
    sigaddset(&hangup, SIGHUP);
    sigprocmask(SIG_BLOCK, &hangup, NULL);
}

int main(int argc, char **argv)
{
    static const struct option options[] = {{"config", required_argument, NULL, 'c'},
                                            {"version", no_argument, NULL, 'V'},
                                            {"help", no_argument, NULL, 'h'},
                                            {0}};
    const char *file = NULL;
    for (int c; (c = getopt_long(argc, argv, "c:Vh", options, NULL)) != -1;) {
        switch (c) {
        case 'c':
            file = optarg;
            break;
        case 'V':
            printf("syncgate %s\n", APP_VERSION);
            return 0;
        case 'h':
            print_help();
            return 0;
        default:
            fprintf(stderr, "Try syncgate --help\n");
            return 2;
        }
    }
    const char *command = optind < argc ? argv[optind] : "serve";
    bool serve = strcmp(command, "serve") == 0, check = strcmp(command, "check") == 0,
         routes = strcmp(command, "routes") == 0;
    if (argc - optind > 1 || !(serve || check || routes)) {
        fprintf(stderr, "syncgate: unknown command '%s'; try syncgate --help\n",
                argc - optind > 1 ? argv[optind + 1] : command);
        return 2;
    }
    struct err err = {ERR_OK, ""};
    if (serve)
        hold_hangup();
    struct config *config = config_load(file, environ, &err);
    if (!config) {
        fprintf(stderr, "syncgate: %s\n", err.text);
        return 1;
    }
    return serve ? app_serve(config, file) : run_offline(config, file, routes);
}
