/* SPDX-License-Identifier: Apache-2.0 */
/* What the option table says to people: --help, the sample file, the documentation. A test compares the files
 * of the repository with this output. */
#include "loader.h"

#define HELP_WIDTH 96

/* Wraps `text` at blanks, each line after `indent` blanks. */
static void print_wrapped(FILE *stream, const char *text, int indent)
{
    size_t width = HELP_WIDTH - (size_t)indent;
    while (*text) {
        size_t len = strlen(text);
        if (len > width) {
            len = width;
            while (len > 0 && text[len] != ' ')
                len--;
            if (len == 0)
                len = strcspn(text, " ");
        }
        fprintf(stream, "%*s%.*s\n", indent, "", (int)len, text);
        text += len;
        text += strspn(text, " ");
    }
}

void config_print_help(FILE *stream)
{
    fprintf(stream,
            "Settings (environment variable, key in the configuration file; the environment wins):\n");
    for (size_t i = 0; i < option_count; i++) {
        const struct option *option = &options[i];
        char expected[EXPECTED_MAX];
        struct buf text = BUF_INIT;
        option_expected(option, expected, sizeof(expected));
        if (option->group)
            fprintf(stream, "\n%s\n", option->group);
        fprintf(stream, "  %s", option->env);
        if (option->secret)
            fprintf(stream, ", %s_FILE", option->env);
        fprintf(stream, "  %s\n", option->key);
        buf_printf(&text, "%s Expects %s. Default: %s.", option->text, expected,
                   option->def ? option->def : "not set");
        buf_append_char(&text, '\0');
        if (buf_ok(&text))
            print_wrapped(stream, text.ptr, 6);
        buf_fini(&text);
    }
    fprintf(stream, "\nMore\n"
                    "  FEATURE_KAFKA_EVENTS_<OPERATION>  feature.operations\n"
                    "      The flag of one operation; bindDeviceQr is FEATURE_KAFKA_EVENTS_BIND_DEVICE_QR.\n"
                    "  KAFKA_<PROPERTY>  kafka.properties\n"
                    "      Any librdkafka property; KAFKA_SASL_USERNAME is sasl.username. Secrets also from\n"
                    "      KAFKA_<PROPERTY>_FILE.\n");
}

/* ---- the sample ---- */

static void print_sample_value(FILE *stream, const struct option *option)
{
    if (!option->def)
        fprintf(stream, "null");
    else if (option->type == OPTION_UINT || option->type == OPTION_BOOL)
        fprintf(stream, "%s", option->def);
    else
        fprintf(stream, "\"%s\"", option->def);
}

/* The object after the named values of a group, for the two lists that are open-ended. */
static void close_group(FILE *stream, const char *group, size_t len)
{
    if (len == 5 && memcmp(group, "kafka", 5) == 0)
        fprintf(stream, ",\n    \"properties\": {}");
    if (len == 7 && memcmp(group, "feature", 7) == 0)
        fprintf(stream, ",\n    \"operations\": {}");
    if (len > 0)
        fprintf(stream, "\n  }");
}

void config_print_sample(FILE *stream)
{
    const char *group = "";
    size_t group_len = 0;
    fprintf(stream, "{");
    for (size_t i = 0; i < option_count; i++) {
        const char *key = options[i].key, *dot = strchr(key, '.');
        size_t len = dot ? (size_t)(dot - key) : 0;
        bool same = len == group_len && memcmp(key, group, len) == 0;
        if (!same) {
            close_group(stream, group, group_len);
            fprintf(stream, ",\n  \"%.*s\": {", (int)len, key);
        }
        fprintf(stream, "%s\n%s\"%s\": ", same && i > 0 ? "," : "", len ? "    " : "  ", dot ? dot + 1 : key);
        print_sample_value(stream, &options[i]);
        group = key;
        group_len = len;
    }
    close_group(stream, group, group_len);
    fprintf(stream, "\n}\n");
}

/* ---- the documentation ---- */

static const char intro[] =
    "# Configuration\n"
    "\n"
    "<!-- Generated from the option table in src/config/options.c. Change it there. -->\n"
    "\n"
    "A setting comes from its environment variable, else from the configuration file (`--config FILE`), else "
    "it has its default.\n"
    "A bad value stops the start with a message that names the variable, or the file with the line or JSON "
    "path, and says\n"
    "what was expected; it never becomes a default. `syncgate check` says the same without starting; only "
    "whether librdkafka\n"
    "knows a property (`KAFKA_*` below) and takes its value shows at the start.\n"
    "\n"
    "- Durations are whole numbers with `ms`, `s`, `m` or `h`; without a unit they are milliseconds. Sizes "
    "take `B`, `KiB`, `MiB`;\n"
    "  without a unit they are bytes.\n"
    "- The file is JSON. Keys are nested at the dots of the tables below (`legacy.url` is `{\"legacy\": "
    "{\"url\": ...}}`); `null` is\n"
    "  the same as leaving the key out; lists may be JSON arrays. Unknown and repeated keys are errors.\n"
    "  `config/syncgate.json` holds every key with its default.\n"
    "- Unknown variables that begin with `SYNCGATE_`, `AUTH_`, `LEGACY_`, `SHUTDOWN_`, `FEATURE_KAFKA` or "
    "`TRUSTED_PROX` are errors, so\n"
    "  that a typing error does not go unnoticed. So is an empty value: leave the variable out. What "
    "Kubernetes sets for\n"
    "  services (`KAFKA_PORT=tcp://...`, `KAFKA_SERVICE_HOST`) is passed over.\n"
    "- Secrets may come from a file: the variable with `_FILE` (`AUTH_HS256_SECRET_FILE=/run/secrets/jwt`), "
    "or the key with `File`\n"
    "  (`auth.hs256SecretFile`). One line end at the end of that file is cut off. Secrets are never shown.\n"
    "- On SIGHUP the file, the route files, the OpenAPI document, the flags file and secrets in files are "
    "read "
    "again. Settings marked\n"
    "  \"reload\" take effect then, for calls that begin afterwards; others keep their value until a "
    "restart, "
    "and a log line names those\n"
    "  that changed. What is wrong changes nothing: see "
    "[operations.md](operations.md#changing-things-while-it-runs).\n";

static const char after_kafka[] =
    "\n"
    "Any other `KAFKA_*` variable is a librdkafka property: its name in lower case with dots, so "
    "`KAFKA_SASL_USERNAME` is\n"
    "`sasl.username`. In the file they are the members of `kafka.properties`, as librdkafka spells them. A "
    "property whose name contains\n"
    "`password`, `passphrase`, `secret` or `key.pem` is a secret, and may be given as "
    "`KAFKA_<PROPERTY>_FILE`.\n"
    "\n"
    "Refused are properties that the gateway sets itself (`bootstrap.servers`, `message.timeout.ms`, "
    "`group.id` and what belongs to\n"
    "consumer groups and offsets, `transactional.id`, `delivery.report.only.error`) and values that would "
    "break its promise to execute\n"
    "a command at most once: `acks=0`, and `retries` above 0 without `enable.idempotence=true`.\n"
    "\n"
    "```sh\n"
    "KAFKA_BROKERS=kafka-1:9093,kafka-2:9093\n"
    "KAFKA_SECURITY_PROTOCOL=SASL_SSL\n"
    "KAFKA_SASL_MECHANISM=SCRAM-SHA-512\n"
    "KAFKA_SASL_USERNAME=syncgate\n"
    "KAFKA_SASL_PASSWORD_FILE=/run/secrets/kafka-password\n"
    "KAFKA_SSL_CA_LOCATION=/etc/ssl/kafka-ca.pem\n"
    "```\n";

static const char after_feature[] = "\n"
                                    "`FEATURE_KAFKA_EVENTS_<OPERATION>` sets the flag of one operation; the "
                                    "operationId is written in upper snake case:\n"
                                    "`bindDeviceQr` is `FEATURE_KAFKA_EVENTS_BIND_DEVICE_QR`. In the file, "
                                    "`feature.operations` takes the operationId as it is or in\n"
                                    "upper snake case: `{\"feature\": {\"kafkaEvents\": \"false\", "
                                    "\"operations\": {\"bindDeviceQr\": \"only\"}}}`.\n"
                                    "How flags from several places combine: "
                                    "[operations.md](operations.md#flags).\n";

/* In a table cell a bar would end the cell. */
static void print_cell(FILE *stream, const char *text)
{
    for (; *text; text++)
        fprintf(stream, "%s%c", *text == '|' ? "\\" : "", *text);
}

static void print_row(FILE *stream, const struct option *option)
{
    char expected[EXPECTED_MAX];
    option_expected(option, expected, sizeof(expected));
    fprintf(stream, "| `%s`", option->env);
    if (option->secret)
        fprintf(stream, ", `%s_FILE`", option->env);
    fprintf(stream, " | `%s` | ", option->key);
    if (option->def)
        fprintf(stream, "`%s`", option->def);
    fprintf(stream, " | ");
    print_cell(stream, expected);
    fprintf(stream, " | ");
    print_cell(stream, option->text);
    fprintf(stream, "%s | %s |\n", option->secret ? " Secret." : "",
            option->reloadable ? "reload" : "restart");
}

void config_print_markdown(FILE *stream)
{
    fputs(intro, stream);
    for (size_t i = 0; i < option_count; i++) {
        const struct option *option = &options[i];
        if (option->group)
            fprintf(stream,
                    "\n## %s\n\n"
                    "| variable | key in the file | default | expects | meaning | changes with |\n"
                    "|---|---|---|---|---|---|\n",
                    option->group);
        print_row(stream, option);
        if (i + 1 < option_count && !options[i + 1].group)
            continue;
        if (strncmp(option->key, "kafka.", 6) == 0)
            fputs(after_kafka, stream);
        if (strncmp(option->key, "feature.", 8) == 0)
            fputs(after_feature, stream);
    }
}
