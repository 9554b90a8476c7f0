/* SPDX-License-Identifier: Apache-2.0 */
#include <arpa/inet.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/un.h>
#include <unistd.h>
#include <cmocka.h>

#include "syncgate/config.h"

#define SECRET "s3cr3t-never-shown"

/* A file in memory with a path: "/proc/self/fd/N". */
struct temp_file {
    int fd;
    char path[64];
};

static struct temp_file temp_file(const char *text, size_t len)
{
    struct temp_file file = {.fd = memfd_create("config", MFD_CLOEXEC)};
    assert_true(file.fd >= 0);
    assert_int_equal(write(file.fd, text, len), len);
    snprintf(file.path, sizeof(file.path), "/proc/self/fd/%d", file.fd);
    return file;
}

static struct config *load(const char *json, char *const *env, struct err *err)
{
    if (!json)
        return config_load(NULL, env, err);
    struct temp_file file = temp_file(json, strlen(json));
    struct config *config = config_load(file.path, env, err);
    close(file.fd);
    return config;
}

static struct config *load_ok(const char *json, char *const *env)
{
    struct err err = {0};
    struct config *config = load(json, env, &err);
    if (!config)
        fail_msg("refused: %s", err.text);
    return config;
}

static void expect_refused(const char *json, char *const *env, const char *message)
{
    struct err err = {0};
    struct config *config = load(json, env, &err);
    if (config)
        fail_msg("accepted: %s %s", json ? json : "", env ? env[0] : "");
    assert_int_equal(err.code, ERR_CONFIG);
    if (!strstr(err.text, message))
        fail_msg("expected \"%s\" in \"%s\"", message, err.text);
    if (strstr(err.text, SECRET))
        fail_msg("a secret is shown: %s", err.text);
    for (const char *at = err.text; *at; at++)
        assert_true((unsigned char)*at >= 0x20);
}

#define ENV(...) ((char *[]){__VA_ARGS__, NULL})

static void test_defaults(void **state)
{
    (void)state;
    struct config *config = load_ok(NULL, NULL);
    assert_string_equal(config->listen.text, "0.0.0.0:8080");
    assert_int_equal(config->listen.port, 8080);
    assert_int_equal(config->listen.addr.ss_family, AF_INET);
    assert_string_equal(config->admin_listen.text, "127.0.0.1:9090");
    assert_string_equal(config->routes, "routes/");
    assert_string_equal(config->openapi, "openapi/openapi.json");
    assert_int_equal(config->env, CONFIG_DEVELOPMENT);
    assert_int_equal(config->log_level, LOG_INFO);
    assert_int_equal(config->loops, 0);
    assert_int_equal(config->body_limit, 102400);
    assert_int_equal(config->connection_memory, 16384);
    assert_int_equal(config->idle_timeout_ms, 75000);
    assert_int_equal(config->kafka_message_timeout_ms, 2000);
    assert_null(config->kafka_brokers);
    assert_false(config_is_embedded(config));
    assert_null(config->legacy_url);
    assert_string_equal(config->feature_kafka_events, "false");
    assert_true(config->auth_require_exp);
    assert_int_equal(config->trusted_proxy_count, 0);
    assert_int_equal(config->shutdown_delay_ms, 5000);
    assert_int_equal(config->shutdown_timeout_ms, 35000);
    config_freep(&config);
    assert_null(config);
    config_freep(&config);
}

static void test_good_values(void **state)
{
    (void)state;
    struct config *config = load_ok(
        NULL,
        ENV("PATH=/bin", "SYNCGATE_LISTEN=[::1]:0", "SYNCGATE_ADMIN_LISTEN=localhost:65535",
            "SYNCGATE_ENV=test", "SYNCGATE_LOOPS=64", "SYNCGATE_LOG_LEVEL=fatal", "SYNCGATE_BODY_LIMIT=1MiB",
            "SYNCGATE_CONNECTION_MEMORY=4096", "SYNCGATE_IDLE_TIMEOUT=1m", "SHUTDOWN_DELAY=0",
            "SHUTDOWN_TIMEOUT=1500", "KAFKA_BROKERS=a:1,SSL://b,[::1]:9092", "KAFKA_MESSAGE_TIMEOUT=500ms",
            "LEGACY_URL=https://backend:3000/x", "AUTH_ALGORITHMS=RS256,ES256", "AUTH_REQUIRE_EXP=false",
            "AUTH_PUBLIC_KEY=-----BEGIN PUBLIC KEY-----\nAA==\n-----END PUBLIC KEY-----\n", "FEATURE_OTHER=1",
            "FEATURE_KAFKA_EVENTS=split:10", "FEATURE_KAFKA_EVENTS_UNBIND=only",
            "FEATURE_KAFKA_EVENTS_BIND_DEVICE_QR=true"));
    assert_int_equal(config->listen.addr.ss_family, AF_INET6);
    assert_int_equal(config->listen.port, 0);
    assert_int_equal(config->admin_listen.port, 65535);
    const struct sockaddr_in *admin = (const struct sockaddr_in *)&config->admin_listen.addr;
    assert_int_equal(ntohl(admin->sin_addr.s_addr), INADDR_LOOPBACK);
    assert_int_equal(ntohs(admin->sin_port), 65535);
    assert_int_equal(config->env, CONFIG_TEST);
    assert_int_equal(config->loops, 64);
    assert_int_equal(config->log_level, LOG_FATAL);
    assert_int_equal(config->body_limit, 1048576);
    assert_int_equal(config->connection_memory, 4096);
    assert_int_equal(config->idle_timeout_ms, 60000);
    assert_int_equal(config->shutdown_delay_ms, 0);
    assert_int_equal(config->shutdown_timeout_ms, 1500);
    assert_int_equal(config->kafka_message_timeout_ms, 500);
    assert_string_equal(config->kafka_brokers, "a:1,SSL://b,[::1]:9092");
    assert_false(config->auth_require_exp);
    assert_int_equal(config->feature_count, 2);
    assert_string_equal(config->features[0].operation, "BIND_DEVICE_QR");
    assert_string_equal(config->features[0].value, "true");
    assert_string_equal(config->features[1].operation, "UNBIND");
    config_freep(&config);
}

/* One bad variable each, and what its message must contain. */
static void test_bad_variables(void **state)
{
    (void)state;
    static const struct {
        const char *env, *message;
    } cases[] = {
        {"SYNCGATE_LISTEN=8080", "SYNCGATE_LISTEN: expected address:port, such as"},
        {"SYNCGATE_LISTEN=::1:8080", "found \"::1:8080\""},
        {"SYNCGATE_LISTEN=[::1]", "SYNCGATE_LISTEN: expected"},
        {"SYNCGATE_LISTEN=[::1", "SYNCGATE_LISTEN: expected"},
        {"SYNCGATE_LISTEN=[127.0.0.1]:1", "SYNCGATE_LISTEN: expected"},
        {"SYNCGATE_LISTEN=0.0.0.0:65536", "SYNCGATE_LISTEN: expected"},
        {"SYNCGATE_LISTEN=0.0.0.0:+1", "SYNCGATE_LISTEN: expected"},
        {"SYNCGATE_LISTEN=:80", "SYNCGATE_LISTEN: expected"},
        {"SYNCGATE_LISTEN=example.org:80", "SYNCGATE_LISTEN: expected"},
        {"SYNCGATE_LISTEN=1111111111111111111111111111111111111111111111111111111111111111111111111111:1",
         "expected address:port"},
        {"SYNCGATE_ENV=prod", "SYNCGATE_ENV: expected one of development, production, test, found \"prod\""},
        {"SYNCGATE_ENV=production|test", "SYNCGATE_ENV: expected"},
        {"SYNCGATE_LOG_LEVEL=INFO",
         "SYNCGATE_LOG_LEVEL: expected one of debug, info, warn, error, fatal, found \"INFO\""},
        {"SYNCGATE_LOOPS=65", "SYNCGATE_LOOPS: expected a whole number from 0 to 64, found \"65\""},
        {"SYNCGATE_LOOPS=-1", "found \"-1\""},
        {"SYNCGATE_LOOPS=1s", "found \"1s\""},
        {"SYNCGATE_LOOPS= 1", "found \" 1\""},
        {"SYNCGATE_LOOPS=18446744073709551616", "SYNCGATE_LOOPS: expected"},
        {"SYNCGATE_LOOPS=", "SYNCGATE_LOOPS: expected a whole number from 0 to 64, found an empty value"},
        {"SYNCGATE_MAX_PARKED=0", "expected a whole number from 1 to 1000000"},
        {"SYNCGATE_BODY_LIMIT=100KB", "SYNCGATE_BODY_LIMIT: expected a size (B, KiB, MiB) from 1B to 64MiB"},
        {"SYNCGATE_BODY_LIMIT=4294967297", "SYNCGATE_BODY_LIMIT: expected"},
        {"SYNCGATE_BODY_LIMIT=4194304MiB", "SYNCGATE_BODY_LIMIT: expected"},
        {"SYNCGATE_CONNECTION_MEMORY=4095", "from 4KiB to 256KiB"},
        {"SYNCGATE_IDLE_TIMEOUT=1.5s",
         "SYNCGATE_IDLE_TIMEOUT: expected a duration (ms, s, m, h) from 1s to 1h, found \"1.5s\""},
        {"SYNCGATE_IDLE_TIMEOUT=75 s", "found \"75 s\""},
        {"SYNCGATE_IDLE_TIMEOUT=s", "found \"s\""},
        {"SYNCGATE_ROUTES=a\nb", "it has control characters"},
        {"SYNCGATE_ROUTES=a\x1b[2J\xff", "found \"a\\u001b[2J"},
        {"KAFKA_BROKERS=a:1,,b:2", "KAFKA_BROKERS: expected host:port,host:port... or embedded"},
        {"KAFKA_BROKERS=a:0", "KAFKA_BROKERS: expected"},
        {"KAFKA_BROKERS=a:b", "KAFKA_BROKERS: expected"},
        {"KAFKA_BROKERS=embedded,a:1", "KAFKA_BROKERS: expected"},
        {"KAFKA_BROKERS=a:1, b:1", "KAFKA_BROKERS: expected"},
        {"LEGACY_URL=backend:3000", "LEGACY_URL: expected a URL that begins with http:// or https://"},
        {"LEGACY_URL=http://", "LEGACY_URL: expected"},
        {"LEGACY_URL=ftp://u:" SECRET "@h", "found a value that is not shown"},
        {"AUTH_ALGORITHMS=RS256,none", "none cannot be allowed"},
        {"AUTH_ALGORITHMS=RS256 ES256", "AUTH_ALGORITHMS: expected"},
        {"AUTH_REQUIRE_EXP=yes", "AUTH_REQUIRE_EXP: expected true or false, found \"yes\""},
        {"AUTH_HS256_SECRET=", "AUTH_HS256_SECRET: expected"},
        {"FEATURE_KAFKA_EVENTS_BIND=", "FEATURE_KAFKA_EVENTS_BIND: expected a flag's value"},
        {"TRUSTED_PROXIES=10.0.0.0/33", "a prefix goes from 0 to 32"},
        {"TRUSTED_PROXIES=::/129", "a prefix goes from 0 to 128"},
        {"TRUSTED_PROXIES=10.0.0.1/8", "bits set behind its prefix"},
        {"TRUSTED_PROXIES=10.0.0.1,", "TRUSTED_PROXIES: expected a comma list"},
        {"TRUSTED_PROXIES=10.0.0", "TRUSTED_PROXIES: expected"},
        {"TRUSTED_PROXIES=10.0.0.0/", "TRUSTED_PROXIES: expected"},
        {"TRUSTED_PROXIES=proxy.example.org", "TRUSTED_PROXIES: expected"},
        /* typing errors */
        {"SYNCGATE_LISTENS=0.0.0.0:1",
         "\"SYNCGATE_LISTENS\": unknown environment variable; did you mean SYNCGATE_LISTEN?"},
        {"SYNCGATE_MAX_CONNECTION=1", "did you mean SYNCGATE_MAX_CONNECTIONS?"},
        {"SYNCGATE_listen=0.0.0.0:1", "\"SYNCGATE_listen\": unknown environment variable"},
        {"AUTH_ISUER=x", "did you mean AUTH_ISSUER?"},
        {"AUTH_HS256_SECRET_FIL=x", "did you mean AUTH_HS256_SECRET_FILE?"},
        {"AUTH_ISSUER_FILE=/x", "\"AUTH_ISSUER_FILE\": unknown environment variable"},
        {"LEGACY_URI=x", "did you mean LEGACY_URL?"},
        {"SHUTDOWN_DELAI=1", "did you mean SHUTDOWN_DELAY?"},
        {"FEATURE_KAFKA_EVENT=true", "did you mean FEATURE_KAFKA_EVENTS?"},
        {"FEATURE_KAFKA_EVENTS_bind=true", "unknown environment variable"},
        {"TRUSTED_PROXY=::1", "did you mean TRUSTED_PROXIES?"},
        {"KAFKA_BROKER=a:1", "did you mean KAFKA_BROKERS?"},
        {"KAFKA_Sasl_PASSWORD=" SECRET, "unknown environment variable"},
        /* properties with a rule */
        {"KAFKA_BOOTSTRAP_SERVERS=a:1", "bootstrap.servers cannot be set: use KAFKA_BROKERS"},
        {"KAFKA_MESSAGE_TIMEOUT_MS=1", "message.timeout.ms cannot be set: use KAFKA_MESSAGE_TIMEOUT"},
        {"KAFKA_GROUP_ID=x", "without a consumer group"},
        {"KAFKA_ENABLE_AUTO_COMMIT=true", "enable.auto.commit cannot be set"},
        {"KAFKA_ACKS=0", "acks: expected all or 1, found \"0\""},
        {"KAFKA_ACKS=+0", "acks: expected all or 1"},
        {"KAFKA_REQUEST_REQUIRED_ACKS=0", "acks: expected all or 1"},
        {"KAFKA_RETRIES=3", "retries: expected 0 unless enable.idempotence=true, found \"3\""},
        {"KAFKA_RETRIES=0x3", "retries: expected 0"},
        {"KAFKA_MESSAGE_SEND_MAX_RETRIES=1", "retries: expected 0"},
        {"KAFKA_ENABLE_IDEMPOTENCE=t", "enable.idempotence: expected true or false"},
        {"KAFKA_SASL_PASSWORD=", "expected a value for Kafka property sasl.password"},
    };
    for (size_t i = 0; i < SG_ARRAY_LEN(cases); i++)
        expect_refused(NULL, ENV((char *)cases[i].env), cases[i].message);
    /* no end of the world for a long one */
    static char huge[70000] = "SYNCGATE_ROUTES=";
    memset(huge + strlen(huge), 'x', sizeof(huge) - 1 - strlen("SYNCGATE_ROUTES="));
    expect_refused(NULL, ENV(huge), "SYNCGATE_ROUTES: expected a text of 1 to 4096 bytes");
}

static void test_bad_files(void **state)
{
    (void)state;
    static const struct {
        const char *json, *message;
    } cases[] = {
        {"", ":1:0: expected JSON"},
        {"{\n  \"listen\": \"0.0.0.0:1\"\n  \"env\": \"test\"\n}", ":3:7: expected JSON"},
        {"{\"auth\": {\"hs256Secret\": \"" SECRET "\n\"}}", "expected JSON"},
        {"{\"auth\": {\"hs256Secret\": \"" SECRET "\" \"" SECRET "\"}}", "expected JSON"},
        {"{\"loops\": 1, \"loops\": 2}", "duplicate object key"},
        {"[]", "$: expected an object, found an array"},
        {"{\"loops\": 99}", ": $.loops: expected a whole number from 0 to 64, found \"99\""},
        {"{\"loops\": 1.0}", "$.loops: expected a whole number from 0 to 64, found a number with a fraction"},
        {"{\"loops\": true}", "$.loops: expected a whole number from 0 to 64, found a boolean"},
        {"{\"loops\": {}}", "found an object"},
        {"{\"loops\": \"\"}", "found an empty value"},
        {"{\"routes\": 1}", "$.routes: expected a text of 1 to 4096 bytes, found a whole number"},
        {"{\"routes\": \"a\\u0000b\"}", "expected JSON"},
        {"{\"lissten\": \"x\"}", ": $: unknown key \"lissten\"; did you mean \"listen\"?"},
        {"{\"kafka\": {\"broker\": \"x\"}}", "$.kafka: unknown key \"broker\"; did you mean \"brokers\"?"},
        {"{\"kafka\": {\"messageTimout\": 1}}", "did you mean \"messageTimeout\"?"},
        {"{\"kafka.brokers\": \"x\"}", "$: unknown key \"kafka.brokers\""},
        {"{\"\": 1}", "$: unknown key \"\""},
        {"{\"xyzzy\\u001b\": 1}", "unknown key \"xyzzy\\u001b\""},
        {"{\"kafka\": 1}", "$.kafka: expected an object, found a whole number"},
        {"{\"kafka\": {\"properties\": []}}", "$.kafka.properties: expected an object, found an array"},
        {"{\"kafka\": {\"properties\": {\"acks\": 0}}}", "acks: expected all or 1"},
        {"{\"kafka\": {\"properties\": {\"acks\": 1.5}}}",
         "kafka.properties[\"acks\"]: expected a string, a whole number or a boolean"},
        {"{\"kafka\": {\"properties\": {\"group.id\": \"g\"}}}",
         "kafka.properties[\"group.id\"]: Kafka property group.id cannot be set"},
        {"{\"kafka\": {\"properties\": {\"SASL\": \"g\"}}}", "expected the name of a librdkafka property"},
        {"{\"kafka\": {\"properties\": {\"sasl.password\": [\"" SECRET "\"]}}}", "found an array"},
        {"{\"legacy\": {\"connectTimeout\": \"1ms\"}}",
         "$.legacy.connectTimeout: expected a duration (ms, s, m, h) from 10ms to 5m"},
        {"{\"trustedProxies\": [\"10.0.0.0/8\", 1]}", "$.trustedProxies: expected a comma list"},
        {"{\"trustedProxies\": []}", "found an array"},
        {"{\"feature\": {\"operations\": {\"bindQr\": 1}}}",
         "feature.operations[\"bindQr\"]: expected a flag's value as a string or boolean"},
        {"{\"feature\": {\"operations\": {\"bindQr\": true, \"BIND_QR\": true}}}",
         "expected each operation once, found BIND_QR again"},
        {"{\"auth\": {\"hs256Secret\": 5}}", "$.auth.hs256Secret: expected"},
        {"{\"auth\": {\"hs256Secret\": \"" SECRET "\", \"jwks\": \"x\"}}",
         "$.auth.hs256Secret: expected exactly one source of keys"},
        {"{\"auth\": {\"hs256SecretFile\": \"/nowhere/secret\"}}",
         "$.auth.hs256SecretFile: cannot read \"/nowhere/secret\": No such file"},
        {"{\"auth\": {\"hs256Secret\": \"" SECRET "\", \"hs256SecretFile\": \"x\"}}", "found both"},
        {"{\"env\": \"production\", \"kafka\": {\"brokers\": \"embedded\"}}",
         "$.kafka.brokers: expected the brokers of a cluster"},
    };
    for (size_t i = 0; i < SG_ARRAY_LEN(cases); i++)
        expect_refused(cases[i].json, NULL, cases[i].message);
    struct err err;
    assert_null(config_load("/nowhere/syncgate.json", NULL, &err));
    assert_string_equal(
        err.text, "/nowhere/syncgate.json: cannot read the configuration file: No such file or directory");
    assert_null(config_load("/", NULL, &err));
    assert_non_null(strstr(err.text, "/: cannot read the configuration file"));
}

static const char *property(const struct config *config, const char *name)
{
    for (size_t i = 0; i < config->kafka_property_count; i++) {
        if (strcmp(config->kafka_properties[i].name, name) == 0)
            return config->kafka_properties[i].value;
    }
    return NULL;
}

static void test_environment_beats_file(void **state)
{
    (void)state;
    static const char json[] = "{\"listen\": \"127.0.0.1:1\", \"adminListen\": \"127.0.0.1:2\", \"loops\": "
                               "3, \"bodyLimit\": \"64KiB\", \"openapi\": null,"
                               " \"trustedProxies\": [\"10.0.0.0/8\", \"::1\"],"
                               " \"kafka\": {\"brokers\": [\"a:1\", \"b:2\"], \"properties\": "
                               "{\"linger.ms\": 5, \"sasl.username\": \"file\","
                               "   \"enable.idempotence\": true, \"retries\": 5}},"
                               " \"feature\": {\"kafkaEvents\": true, \"operations\": {\"bindDeviceQr\": "
                               "\"split:10\", \"UNBIND\": false}},"
                               " \"auth\": {\"hs256Secret\": \"" SECRET
                               "\", \"requireExp\": false}, \"shutdown\": {\"delay\": 250}}";
    struct config *config = load_ok(json, NULL);
    assert_string_equal(config->listen.text, "127.0.0.1:1");
    assert_int_equal(config->loops, 3);
    assert_int_equal(config->body_limit, 65536);
    assert_string_equal(config->openapi, "openapi/openapi.json");
    assert_string_equal(config->kafka_brokers, "a:1,b:2");
    assert_int_equal(config->trusted_proxy_count, 2);
    assert_string_equal(config->feature_kafka_events, "true");
    assert_string_equal(config->features[0].operation, "BIND_DEVICE_QR");
    assert_string_equal(config->features[1].value, "false");
    assert_string_equal(config->auth_hs256_secret, SECRET);
    assert_string_equal(property(config, "linger.ms"), "5");
    assert_int_equal(config->shutdown_delay_ms, 250);
    config_freep(&config);

    config = load_ok(json, ENV("SYNCGATE_LISTEN=127.0.0.1:9", "KAFKA_SASL_USERNAME=env", "KAFKA_CLIENT_ID=me",
                               "AUTH_HS256_SECRET=other", "FEATURE_KAFKA_EVENTS=only",
                               "FEATURE_KAFKA_EVENTS_BIND_DEVICE_QR=primary", "TRUSTED_PROXIES=::1"));
    assert_string_equal(config->listen.text, "127.0.0.1:9");
    assert_string_equal(config->admin_listen.text, "127.0.0.1:2");
    assert_string_equal(property(config, "sasl.username"), "env");
    assert_string_equal(property(config, "client.id"), "me");
    assert_string_equal(property(config, "retries"), "5");
    assert_int_equal(config->kafka_property_count, 5);
    for (size_t i = 1; i < config->kafka_property_count; i++)
        assert_true(strcmp(config->kafka_properties[i - 1].name, config->kafka_properties[i].name) < 0);
    assert_string_equal(config->auth_hs256_secret, "other");
    assert_string_equal(config->feature_kafka_events, "only");
    assert_int_equal(config->feature_count, 2);
    assert_string_equal(config->features[0].value, "primary");
    assert_int_equal(config->trusted_proxy_count, 1);
    config_freep(&config);

    /* A bad value in the file is of no interest when the environment replaces it; a second source of keys is.
     */
    config = load_ok("{\"loops\": 1000}", ENV("SYNCGATE_LOOPS=2"));
    config_freep(&config);
    expect_refused(json, ENV("AUTH_JWKS=/keys.json"), "expected exactly one source of keys");
    expect_refused(json, ENV("KAFKA_ENABLE_IDEMPOTENCE=false"), "retries: expected 0 unless");
    expect_refused(json, ENV("KAFKA_ACKS=1"), "acks: expected all with enable.idempotence=true");
}

static void test_secret_files(void **state)
{
    (void)state;
    static const struct {
        const char *content;
        size_t len;
        const char *secret; /* NULL: refused */
    } cases[] = {
        {SECRET, sizeof(SECRET) - 1, SECRET},
        {SECRET "\n", sizeof(SECRET), SECRET},
        {SECRET "\r\n", sizeof(SECRET) + 1, SECRET},
        {"a\n\n", 3, "a\n"},
        {" a ", 3, " a "},
        {"", 0, NULL},
        {"\n", 1, NULL},
        {SECRET "\0x", sizeof(SECRET) + 1, NULL},
    };
    for (size_t i = 0; i < SG_ARRAY_LEN(cases); i++) {
        struct temp_file file = temp_file(cases[i].content, cases[i].len);
        char auth[128], kafka[128];
        snprintf(auth, sizeof(auth), "AUTH_HS256_SECRET_FILE=%s", file.path);
        snprintf(kafka, sizeof(kafka), "KAFKA_SASL_PASSWORD_FILE=%s", file.path);
        if (cases[i].secret) {
            struct config *config = load_ok("{\"auth\": {\"hs256Secret\": \"replaced\"}}", ENV(auth, kafka));
            assert_string_equal(config->auth_hs256_secret, cases[i].secret);
            assert_string_equal(property(config, "sasl.password"), cases[i].secret);
            assert_true(config->kafka_properties[0].secret);
            config_freep(&config);
        } else {
            expect_refused(NULL, ENV(auth), "AUTH_HS256_SECRET_FILE: expected");
            expect_refused(NULL, ENV(kafka), "KAFKA_SASL_PASSWORD_FILE: expected");
        }
        expect_refused(NULL, ENV("AUTH_HS256_SECRET=" SECRET, auth),
                       "AUTH_HS256_SECRET_FILE: expected either AUTH_HS256_SECRET or its file");
        expect_refused(NULL, ENV(kafka, "KAFKA_SASL_PASSWORD=" SECRET),
                       "expected either KAFKA_SASL_PASSWORD or its file");
        close(file.fd);
    }
    expect_refused(NULL, ENV("KAFKA_SSL_KEY_PASSWORD_FILE=/nowhere"),
                   "KAFKA_SSL_KEY_PASSWORD_FILE: cannot read \"/nowhere\"");
    expect_refused(NULL, ENV("AUTH_HS256_SECRET_FILE="), "AUTH_HS256_SECRET_FILE: cannot read \"\"");
    /* Not a secret, so not a file of ours: librdkafka has names that end so. */
    struct config *config =
        load_ok(NULL, ENV("KAFKA_SOME_FILE=/x", "KAFKA_SSL_KEY_PASSWORD=y", "KAFKA_FILE=/y"));
    assert_string_equal(property(config, "file"), "/y");
    assert_string_equal(property(config, "some.file"), "/x");
    assert_false(config->kafka_properties[1].secret);
    assert_true(config->kafka_properties[2].secret);
    config_freep(&config);
}

/* null is the same as leaving the key out, wherever it stands; what is unknown stays a mistake. */
static void test_null_is_not_set(void **state)
{
    (void)state;
    struct config *config =
        load_ok("{\"loops\": null, \"legacy\": null, \"auth\": {\"hs256SecretFile\": null}, \"feature\": "
                "{\"operations\":"
                " {\"bindQr\": null}}, \"kafka\": {\"properties\": {\"linger.ms\": null}}}",
                NULL);
    assert_int_equal(config->feature_count, 0);
    assert_int_equal(config->kafka_property_count, 0);
    config_freep(&config);
    config = load_ok("{\"feature\": {\"operations\": null}, \"kafka\": {\"properties\": null}}", NULL);
    config_freep(&config);
    expect_refused("{\"legasy\": null}", NULL, "unknown key \"legasy\"");
    expect_refused("{\"kafka\": {\"properties\": {\"SASL\": null}}}", NULL,
                   "expected the name of a librdkafka property");
}

/* Kubernetes sets these for services called kafka, syncgate, legacy and auth. */
static void test_service_links(void **state)
{
    (void)state;
    struct config *config = load_ok(
        NULL, ENV("KAFKA_PORT=tcp://10.0.0.1:9092", "KAFKA_SERVICE_HOST=10.0.0.1", "KAFKA_SERVICE_PORT=9092",
                  "KAFKA_SERVICE_PORT_CLIENT=9092", "KAFKA_PORT_9092_TCP=tcp://10.0.0.1:9092",
                  "KAFKA_PORT_9092_TCP_ADDR=10.0.0.1", "SYNCGATE_SERVICE_HOST=10.0.0.2",
                  "SYNCGATE_PORT=tcp://10.0.0.2:80", "SYNCGATE_PORT_80_TCP_PROTO=tcp",
                  "LEGACY_BACKEND_SERVICE_HOST=10.0.0.3", "AUTH_SERVICE_PORT=80", "NO_EQUALS_SIGN"));
    assert_int_equal(config->kafka_property_count, 0);
    config_freep(&config);
    expect_refused(NULL, ENV("SYNCGATE_PORT=8080"), "\"SYNCGATE_PORT\": unknown environment variable");
    /* Nor is the flag of an operation that is called like one of them. */
    config = load_ok(NULL, ENV("FEATURE_KAFKA_EVENTS_GET_SERVICE_HOST=off"));
    assert_int_equal(config->feature_count, 1);
    config_freep(&config);
}

static bool trusts(const struct config *config, const char *address)
{
    struct sockaddr_in v4 = {.sin_family = AF_INET};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6};
    if (inet_pton(AF_INET, address, &v4.sin_addr) == 1)
        return config_trusts(config, (const struct sockaddr *)&v4);
    assert_int_equal(inet_pton(AF_INET6, address, &v6.sin6_addr), 1);
    return config_trusts(config, (const struct sockaddr *)&v6);
}

static void test_trusted_proxies(void **state)
{
    (void)state;
    static const struct {
        const char *proxies, *address;
        bool trusted;
    } cases[] = {
        {"TRUSTED_PROXIES=10.0.0.0/8", "10.255.0.1", true},
        {"TRUSTED_PROXIES=10.0.0.0/8", "11.0.0.1", false},
        {"TRUSTED_PROXIES=10.0.0.0/8", "::ffff:10.1.2.3", true},
        {"TRUSTED_PROXIES=10.0.0.0/8", "::ffff:11.1.2.3", false},
        {"TRUSTED_PROXIES=10.0.0.0/8", "a00::1", false},
        {"TRUSTED_PROXIES=192.168.1.64/27", "192.168.1.95", true},
        {"TRUSTED_PROXIES=192.168.1.64/27", "192.168.1.96", false},
        {"TRUSTED_PROXIES=192.168.1.64/27", "192.168.1.63", false},
        {"TRUSTED_PROXIES=127.0.0.1", "127.0.0.1", true},
        {"TRUSTED_PROXIES=127.0.0.1", "127.0.0.2", false},
        {"TRUSTED_PROXIES=0.0.0.0/0", "1.2.3.4", true},
        {"TRUSTED_PROXIES=0.0.0.0/0", "2001:db8::1", false},
        {"TRUSTED_PROXIES=::/0", "2001:db8::1", true},
        {"TRUSTED_PROXIES=::/0", "1.2.3.4", false},
        {"TRUSTED_PROXIES=::/0", "::ffff:1.2.3.4", false},
        {"TRUSTED_PROXIES=2001:db8::/33", "2001:db8:7fff::1", true},
        {"TRUSTED_PROXIES=2001:db8::/33", "2001:db8:8000::1", false},
        {"TRUSTED_PROXIES=::1", "::1", true},
        {"TRUSTED_PROXIES=::ffff:10.0.0.0/104", "10.9.9.9", true},
        {"TRUSTED_PROXIES=172.16.0.0/12, ::1,10.0.0.7", "10.0.0.7", true},
        {"TRUSTED_PROXIES=172.16.0.0/12, ::1,10.0.0.7", "10.0.0.8", false},
        {"X=", "127.0.0.1", false},
    };
    for (size_t i = 0; i < SG_ARRAY_LEN(cases); i++) {
        struct config *config = load_ok(NULL, ENV((char *)cases[i].proxies));
        if (trusts(config, cases[i].address) != cases[i].trusted)
            fail_msg("%s %s", cases[i].proxies, cases[i].address);
        struct sockaddr_un local = {.sun_family = AF_UNIX};
        assert_false(config_trusts(config, (const struct sockaddr *)&local));
        config_freep(&config);
    }
}

static void test_operation_names(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"bindDeviceQr", "BIND_DEVICE_QR"},
        {"getURLList", "GET_URL_LIST"},
        {"BIND_DEVICE_QR", "BIND_DEVICE_QR"},
        {"bind-device", "BIND_DEVICE"},
        {"getV2Devices", "GET_V2_DEVICES"},
        {"get2faStatus", "GET2FA_STATUS"}, /* and written so already: */
        {"GET2FA_STATUS", "GET2FA_STATUS"},
        {"x", "X"},
        {"", ""},
    };
    for (size_t i = 0; i < SG_ARRAY_LEN(cases); i++) {
        struct buf out = BUF_INIT;
        config_operation_name(span_of(cases[i][0]), &out);
        assert_true(span_eq(buf_span(&out), span_of(cases[i][1])));
        buf_fini(&out);
    }
}

static char *printed(void (*print)(FILE *stream), size_t *ret_len)
{
    char *text = NULL;
    FILE *stream = open_memstream(&text, ret_len);
    assert_non_null(stream);
    print(stream);
    assert_int_equal(fclose(stream), 0);
    return text;
}

/* With SYNCGATE_UPDATE=1 the files are written instead. */
static void test_generated_files_are_current(void **state)
{
    (void)state;
    static const struct {
        const char *path;
        void (*print)(FILE *stream);
    } files[] = {{"config/syncgate.json", config_print_sample},
                 {"docs/configuration.md", config_print_markdown}};
    const char *root = getenv("SYNCGATE_SOURCE_ROOT");
    if (!root)
        fail_msg("SYNCGATE_SOURCE_ROOT is not set: run through meson test");
    for (size_t i = 0; i < SG_ARRAY_LEN(files); i++) {
        char path[4096];
        size_t len;
        char *text = printed(files[i].print, &len);
        snprintf(path, sizeof(path), "%s/%s", root, files[i].path);
        if (getenv("SYNCGATE_UPDATE")) {
            FILE *stream = fopen(path, "we");
            assert_non_null(stream);
            assert_int_equal(fwrite(text, 1, len, stream), len);
            assert_int_equal(fclose(stream), 0);
        }
        struct buf committed = BUF_INIT;
        assert_int_equal(base_read_file(path, 1 << 20, &committed), 0);
        if (!span_eq(buf_span(&committed), (struct span){text, len}))
            fail_msg("%s differs from the option table; SYNCGATE_UPDATE=1 writes it anew", files[i].path);
        buf_fini(&committed);
        free(text);
    }
}

/* The sample says what the defaults are, and can be loaded. */
static void test_sample_is_the_defaults(void **state)
{
    (void)state;
    size_t len;
    char *text = printed(config_print_sample, &len);
    struct config *sample = load_ok(text, NULL), *defaults = load_ok(NULL, NULL);
    assert_memory_equal(&sample->listen, &defaults->listen, sizeof(sample->listen));
    assert_memory_equal(&sample->admin_listen, &defaults->admin_listen, sizeof(sample->admin_listen));
    assert_int_equal(sample->max_parked, defaults->max_parked);
    assert_int_equal(sample->legacy_timeout_ms, defaults->legacy_timeout_ms);
    assert_int_equal(sample->auth_cache_size, defaults->auth_cache_size);
    assert_int_equal(sample->shutdown_timeout_ms, defaults->shutdown_timeout_ms);
    assert_null(sample->legacy_url);
    config_freep(&sample);
    config_freep(&defaults);
    free(text);
}

static void test_help(void **state)
{
    (void)state;
    size_t len;
    char *text = printed(config_print_help, &len);
    assert_non_null(strstr(text, "  SYNCGATE_LISTEN  listen\n"));
    assert_non_null(strstr(text, "  AUTH_HS256_SECRET, AUTH_HS256_SECRET_FILE  auth.hs256Secret\n"));
    assert_non_null(strstr(text, "Default: 100KiB."));
    for (const char *line = text; *line; line += strcspn(line, "\n") + 1)
        assert_true(strcspn(line, "\n") <= 100);
    free(text);
}

/* ---- the flags file ---- */

/* A configuration whose flags file has this content. */
static struct config *load_flags(const char *text, size_t len, struct err *err)
{
    struct temp_file file = temp_file(text, len);
    char variable[128];
    snprintf(variable, sizeof(variable), "FEATURE_KAFKA_EVENTS_FILE=%s", file.path);
    struct config *config = load(NULL, ENV(variable, "FEATURE_KAFKA_EVENTS=only"), err);
    close(file.fd);
    return config;
}

static void test_flags_file(void **state)
{
    (void)state;
    static const struct {
        const char *text, *common; /* common NULL: none */
        const char *flags[3];      /* operation=value, in the order of the file */
    } cases[] = {
        {"", NULL, {NULL}},
        {"\n# nothing\n  \n\t#also nothing", NULL, {NULL}},
        {"true", "true", {NULL}},
        {"split:10\n", "split:10", {NULL}},
        {"\n # phase A\n  off \r\n\n", "off", {NULL}},
        {"FEATURE_KAFKA_EVENTS=primary", "primary", {NULL}},
        {"FEATURE_KAFKA_EVENTS = primary\r\n", "primary", {NULL}},
        {"FEATURE_KAFKA_EVENTS_B=off\nFEATURE_KAFKA_EVENTS=true\nFEATURE_KAFKA_EVENTS_A_1=split:5\n",
         "true",
         {"B=off", "A_1=split:5"}},
        {"FEATURE_KAFKA_EVENTS_A=x=y\n", NULL, {"A=x=y"}}, /* what a value means is not known here */
        {"FEATURE_KAFKA_EVENTS_FILE=off\n", NULL, {"FILE=off"}},
        {"a#b", "a#b", {NULL}},
    };
    for (size_t i = 0; i < SG_ARRAY_LEN(cases); i++) {
        struct err err = {0};
        struct config *config = load_flags(cases[i].text, strlen(cases[i].text), &err);
        if (!config)
            fail_msg("%s: %s", cases[i].text, err.text);
        assert_string_equal(config->feature_kafka_events, "only"); /* a place of its own */
        assert_int_equal(config->file_kafka_events != NULL, cases[i].common != NULL);
        if (cases[i].common)
            assert_string_equal(config->file_kafka_events, cases[i].common);
        size_t count = 0;
        for (; count < 3 && cases[i].flags[count]; count++) {
            char flag[128];
            assert_true(count < config->file_feature_count);
            snprintf(flag, sizeof(flag), "%s=%s", config->file_features[count].operation,
                     config->file_features[count].value);
            assert_string_equal(flag, cases[i].flags[count]);
        }
        assert_int_equal(config->file_feature_count, count);
        assert_int_equal(config->feature_count, 0);
        config_freep(&config);
    }
}

static void expect_flags_refused(const char *text, size_t len, const char *message)
{
    struct err err = {0};
    struct config *config = load_flags(text, len, &err);
    if (config)
        fail_msg("accepted: %s", text);
    assert_int_equal(err.code, ERR_CONFIG);
    if (!strstr(err.text, message))
        fail_msg("expected \"%s\" in \"%s\"", message, err.text);
    for (const char *at = err.text; *at; at++)
        assert_true((unsigned char)*at >= 0x20 && *at != 0x7f);
}

static void test_bad_flags_file(void **state)
{
    (void)state;
    static const struct {
        const char *text, *message;
    } cases[] = {
        {"true\nfalse", ":1: expected FEATURE_KAFKA_EVENTS=VALUE, "},
        {"FEATURE_KAFKA_EVENTS=true\noff\n", ":2: expected FEATURE_KAFKA_EVENTS=VALUE"},
        {"KAFKA=true", ":1: expected FEATURE_KAFKA_EVENTS=VALUE, FEATURE_KAFKA_EVENTS_<OPERATION>=VALUE"},
        {"\n\n#\nFEATURE_KAFKA_EVENT=true", ":4: expected"},
        {"FEATURE_KAFKA_EVENTS_=true", "found \"FEATURE_KAFKA_EVENTS_\""},
        {"FEATURE_KAFKA_EVENTS_a=true", "found \"FEATURE_KAFKA_EVENTS_a\""},
        {"FEATURE_KAFKA_EVENTS_A B=true", ":1: expected"},
        {"FEATURE_KAFKA_EVENTS_A-B=true", ":1: expected"},
        {"feature_kafka_events=true", ":1: expected"},
        {"export FEATURE_KAFKA_EVENTS=true", ":1: expected"},
        {"=true", ":1: expected"},
        {"=", ":1: expected"},
        {"\xef\xbb\xbf"
         "FEATURE_KAFKA_EVENTS=true",
         ":1: expected"},
        {"\x1b[2J\x7f=true", ":1: expected"},
        {"FEATURE_KAFKA_EVENTS=", ":1: expected"},
        {"FEATURE_KAFKA_EVENTS=\nFEATURE_KAFKA_EVENTS_A=off", ":1: expected"},
        {"FEATURE_KAFKA_EVENTS_A=", ":1: expected"},
        {"FEATURE_KAFKA_EVENTS=true\nFEATURE_KAFKA_EVENTS=true", ":2: expected the common value once"},
        {"FEATURE_KAFKA_EVENTS_A=off\n#\nFEATURE_KAFKA_EVENTS_A=off",
         ":3: expected each operation once, found A"},
    };
    for (size_t i = 0; i < SG_ARRAY_LEN(cases); i++)
        expect_flags_refused(cases[i].text, strlen(cases[i].text), cases[i].message);
    static const char nul[] = "FEATURE_KAFKA_EVENTS=true\0\n";
    expect_flags_refused(nul, sizeof(nul) - 1, "expected text, found a NUL byte");
    static char large[300 * 1024 + 1];
    memset(large, 'x', sizeof(large) - 1);
    expect_flags_refused(large, sizeof(large) - 1, "FEATURE_KAFKA_EVENTS_FILE: cannot read");
    large[200 * 1024] = '\n'; /* large, but not too large; a long line is shown as far as it fits */
    memset(large, 'x', 200 * 1024);
    expect_flags_refused(large, 200 * 1024 + 100, ":1: expected");
    expect_refused(NULL, ENV("FEATURE_KAFKA_EVENTS_FILE=/nowhere/flags"),
                   "FEATURE_KAFKA_EVENTS_FILE: cannot read \"/nowhere/flags\": No such file");
    expect_refused(NULL, ENV("FEATURE_KAFKA_EVENTS_FILE=/"), "FEATURE_KAFKA_EVENTS_FILE: cannot read");
    expect_refused(NULL, ENV("FEATURE_KAFKA_EVENTS_FILE="), "FEATURE_KAFKA_EVENTS_FILE: expected");
}

/* ---- admin tokens ---- */

static void test_admin_tokens(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        const char *pairs[3];
    } cases[] = {
        {"alice:0123456789abcdef", {"alice 0123456789abcdef"}},
        {" a.b_c@d-9:0123456789abcdef , bob:!\"#$%&'()*+-./:;<=>?~",
         {"a.b_c@d-9 0123456789abcdef", "bob !\"#$%&'()*+-./:;<=>?~"}},
        {"a:0123456789abcdef,a:fedcba9876543210", {"a 0123456789abcdef", "a fedcba9876543210"}},
    };
    for (size_t i = 0; i < SG_ARRAY_LEN(cases); i++) {
        char variable[256];
        snprintf(variable, sizeof(variable), "SYNCGATE_ADMIN_TOKENS=%s", cases[i].text);
        struct config *config = load_ok(NULL, ENV(variable));
        const char *rest = config->admin_tokens;
        struct span name, token;
        size_t count = 0;
        for (; config_next_admin_token(&rest, &name, &token); count++) {
            char pair[128];
            snprintf(pair, sizeof(pair), "%.*s %.*s", (int)name.len, name.ptr, (int)token.len, token.ptr);
            assert_non_null(cases[i].pairs[count]);
            assert_string_equal(pair, cases[i].pairs[count]);
        }
        assert_null(cases[i].pairs[count]);
        config_freep(&config);
    }
    const char *none = NULL;
    struct span name, token;
    assert_false(config_next_admin_token(&none, &name, &token));
}

static void test_bad_admin_tokens(void **state)
{
    (void)state;
    static const struct {
        const char *text, *message;
    } cases[] = {
        {SECRET, "entry 1: expected name:token"},
        {":" SECRET, "entry 1: expected name:token"},
        {"alice:" SECRET ",bob", "entry 2: expected name:token"},
        {"alice:" SECRET ",", "entry 2: expected name:token"},
        {"alice:" SECRET ", ,bob:" SECRET, "entry 2: expected name:token"},
        {",alice:" SECRET, "entry 1: expected name:token"},
        {",", "entry 1: expected name:token"},
        {"alice:short", "the token of 16 or more printable characters"},
        {"alice:0123456789abcde", "entry 1"},
        {"alice:" SECRET " x", "entry 1"}, /* a blank in it */
        {"alice:" SECRET "\xc3\xa4", "entry 1"},
        {"al ice:" SECRET, "entry 1"},
        {"al/ice:" SECRET, "entry 1"},
        {"\xc3\xa4:" SECRET, "entry 1"},
        {"alice:" SECRET "\tx", ""},
        {"", "SYNCGATE_ADMIN_TOKENS: expected"},
    };
    for (size_t i = 0; i < SG_ARRAY_LEN(cases); i++) {
        char variable[256];
        snprintf(variable, sizeof(variable), "SYNCGATE_ADMIN_TOKENS=%s", cases[i].text);
        expect_refused(NULL, ENV(variable), cases[i].message);
        expect_refused(NULL, ENV(variable), "SYNCGATE_ADMIN_TOKENS: ");
    }
    expect_refused("{\"adminTokens\": \"alice:short," SECRET "\"}", NULL, "$.adminTokens: entry 1");
}

/* ---- names of topics ---- */

static void test_topic_names(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        const char *pairs[3];
    } cases[] = {
        {"a=b", {"a b"}},
        {" a.b-c_9 = d ,x=y", {"a.b-c_9 d", "x y"}},
        {"a=b,b=a", {"a b", "b a"}},
        {"a=c,b=c", {"a c", "b c"}},
    };
    struct span from, to;
    for (size_t i = 0; i < SG_ARRAY_LEN(cases); i++) {
        char variable[256];
        snprintf(variable, sizeof(variable), "SYNCGATE_TOPIC_NAMES=%s", cases[i].text);
        struct config *config = load_ok(NULL, ENV(variable));
        const char *rest = config->topic_names;
        size_t count = 0;
        for (; config_next_topic_name(&rest, &from, &to); count++) {
            char pair[128];
            snprintf(pair, sizeof(pair), "%.*s %.*s", (int)from.len, from.ptr, (int)to.len, to.ptr);
            assert_non_null(cases[i].pairs[count]);
            assert_string_equal(pair, cases[i].pairs[count]);
        }
        assert_null(cases[i].pairs[count]);
        config_freep(&config);
    }
    const char *none = NULL;
    assert_false(config_next_topic_name(&none, &from, &to));
}

static void test_bad_topic_names(void **state)
{
    (void)state;
    static const struct {
        const char *text, *message;
    } cases[] = {
        {"a", "pair 1: expected from=to"},
        {"a=", "pair 1: expected from=to"},
        {"=a", "pair 1: expected from=to"},
        {"a=b,", "pair 2: expected from=to"},
        {"a=b,,c=d", "pair 2: expected from=to"},
        {"a=b=c", "pair 1: expected from=to"},
        {"a=b c", "pair 1: expected from=to"},
        {"a/b=c", "pair 1: expected from=to"},
        {"a=\xc3\xa4", "pair 1: expected from=to"},
        {"a=.", "pair 1: expected from=to"},
        {"..=a", "pair 1: expected from=to"},
        {"a=b,c=d,a=e", "pair 3: the topic \"a\" is renamed twice"},
        {"", "SYNCGATE_TOPIC_NAMES: expected"},
    };
    for (size_t i = 0; i < SG_ARRAY_LEN(cases); i++) {
        char variable[256];
        snprintf(variable, sizeof(variable), "SYNCGATE_TOPIC_NAMES=%s", cases[i].text);
        expect_refused(NULL, ENV(variable), cases[i].message);
        expect_refused(NULL, ENV(variable), "SYNCGATE_TOPIC_NAMES: ");
    }
    char variable[600] = "SYNCGATE_TOPIC_NAMES=a=";
    memset(variable + strlen(variable), 'x', 249);
    struct config *config = load_ok(NULL, ENV(variable));
    config_freep(&config);
    variable[strlen(variable)] = 'x';
    expect_refused(NULL, ENV(variable), "pair 1: expected from=to");
    expect_refused("{\"topicNames\": \"a\"}", NULL, "$.topicNames: pair 1");
}

/* ---- reloading ---- */

static struct config *reload(const char *json, char *const *env, const struct config *running,
                             const char *expected_kept)
{
    struct temp_file file = temp_file(json, strlen(json));
    struct buf kept = BUF_INIT;
    struct err err = {0};
    struct config *config = config_reload(file.path, env, running, &kept, &err);
    close(file.fd);
    if (!config)
        fail_msg("refused: %s", err.text);
    if (!span_eq(buf_span(&kept), span_of(expected_kept)))
        fail_msg("kept %.*s instead of %s", (int)kept.len, kept.ptr, expected_kept);
    buf_fini(&kept);
    return config;
}

#define PROPERTIES "\"kafka\": {\"properties\": {\"linger.ms\": 5, \"sasl.password\": \"" SECRET "\"}}"

static void test_reload(void **state)
{
    (void)state;
    struct config *running = load_ok(
        "{\"listen\": \"127.0.0.1:1\", \"bodyLimit\": 5000, \"env\": \"test\", \"bodyMemory\": \"1MiB\","
        " \"logLevel\": \"warn\", \"legacy\": {\"url\": \"http://a\"}, " PROPERTIES "}",
        NULL);
    /* Reloadable ones of every type change; nothing else does. */
    struct config *next = reload(
        "{\"listen\": \"127.0.0.1:1\", \"bodyLimit\": \"5000\", \"env\": \"test\", \"bodyMemory\": \"2MiB\","
        " \"logLevel\": \"debug\", \"legacy\": {\"url\": \"http://a\"}, \"maxParked\": 7, \"routes\": \"r\","
        " \"maxParkedPerRoute\": 8, \"trustedProxies\": [\"::1\"], \"adminTokens\": \"a:0123456789abcdef\","
        " \"breaker\": {\"enabled\": false, \"window\": \"7s\", \"minCalls\": 3, \"produceFailures\": 4,"
        " \"timeouts\": 5, \"clusterFailures\": 6, \"open\": \"1s\", \"openMax\": \"2s\", \"probes\": 9},"
        " \"feature\": {\"kafkaEvents\": \"split:7\", \"operations\": {\"a\": \"off\"}},"
        " \"auth\": {\"hs256Secret\": \"" SECRET "\"}, " PROPERTIES "}",
        NULL, running, "");
    assert_int_equal(next->body_memory, 2 << 20);
    assert_int_equal(next->log_level, LOG_DEBUG);
    assert_int_equal(next->max_parked, 7);
    assert_int_equal(next->max_parked_per_route, 8);
    assert_string_equal(next->routes, "r");
    assert_int_equal(next->trusted_proxy_count, 1);
    assert_string_equal(next->admin_tokens, "a:0123456789abcdef");
    assert_false(next->breaker);
    assert_int_equal(next->breaker_window_ms, 7000);
    assert_int_equal(next->breaker_open_max_ms, 2000);
    assert_int_equal(next->breaker_probes, 9);
    assert_string_equal(next->feature_kafka_events, "split:7");
    assert_int_equal(next->feature_count, 1);
    assert_string_equal(next->auth_hs256_secret, SECRET);
    config_freep(&running);
    assert_int_equal(next->body_limit, 5000);
    config_freep(&next);
}

static void test_reload_keeps_what_needs_a_restart(void **state)
{
    (void)state;
    static const char first[] =
        "{\"listen\": \"127.0.0.1:1\", \"bodyLimit\": 5000, \"env\": \"test\", \"maxConnections\": 9,"
        " \"legacy\": {\"url\": \"http://a\", \"timeout\": \"3s\"}, " PROPERTIES "}";
    /* An address, a size, a choice, a number, texts that come, change and go, a duration; and a reloadable one. */
    static const char second[] =
        "{\"listen\": \"[::1]:2\", \"bodyLimit\": 6000, \"env\": \"development\", \"maxConnections\": 10,"
        " \"kafka\": {\"brokers\": \"b:1\", \"properties\": {\"linger.ms\": 6}}, \"maxParked\": 77,"
        " \"legacy\": {\"timeout\": \"4s\"}}";
    static const char kept[] =
        "SYNCGATE_LISTEN, SYNCGATE_ENV, SYNCGATE_MAX_CONNECTIONS, SYNCGATE_BODY_LIMIT, "
        "KAFKA_BROKERS, LEGACY_URL, LEGACY_TIMEOUT, kafka.properties";
    struct config *running = load_ok(first, NULL);
    /* As often as it is reloaded: it is compared with what runs, not with what was written the time before. */
    for (int i = 0; i < 3; i++) {
        struct config *next = reload(second, NULL, running, kept);
        assert_string_equal(next->listen.text, "127.0.0.1:1");
        assert_int_equal(next->listen.port, 1);
        assert_int_equal(next->listen.addr.ss_family, AF_INET);
        assert_int_equal(next->listen.addr_len, sizeof(struct sockaddr_in));
        assert_int_equal(next->body_limit, 5000);
        assert_int_equal(next->env, CONFIG_TEST);
        assert_int_equal(next->max_connections, 9);
        assert_null(next->kafka_brokers);
        assert_string_equal(next->legacy_url, "http://a");
        assert_int_equal(next->legacy_timeout_ms, 3000);
        assert_int_equal(next->kafka_property_count, 2);
        assert_string_equal(property(next, "linger.ms"), "5");
        assert_string_equal(property(next, "sasl.password"), SECRET);
        assert_true(next->kafka_properties[1].secret);
        assert_int_equal(next->max_parked, 77);
        config_freep(&running);
        running = next;
    }
    struct config *back = reload(first, NULL, running, "");
    assert_int_equal(back->max_parked, 20000);
    config_freep(&running);
    /* The environment goes on to beat the file. */
    running = reload(first, ENV("SYNCGATE_BODY_LIMIT=7000", "KAFKA_LINGER_MS=7", "SYNCGATE_MAX_PARKED=3"),
                     back, "SYNCGATE_BODY_LIMIT, kafka.properties");
    assert_int_equal(running->body_limit, 5000);
    assert_int_equal(running->max_parked, 3);
    config_freep(&back);
    config_freep(&running);
}

static void test_reload_refuses(void **state)
{
    (void)state;
    struct config *running = load_ok("{\"maxParked\": 5}", NULL);
    static const char *const broken[] = {"",
                                         "{",
                                         "{\"maxParked\": 0}",
                                         "{\"bodyLimit\": 0}",
                                         "{\"x\": 1}",
                                         "{\"feature\": {\"file\": \"/nowhere\"}}"};
    for (size_t i = 0; i < SG_ARRAY_LEN(broken); i++) {
        struct temp_file file = temp_file(broken[i], strlen(broken[i]));
        struct buf kept = BUF_INIT;
        struct err err = {0};
        assert_null(config_reload(file.path, NULL, running, &kept, &err));
        assert_int_equal(err.code, ERR_CONFIG);
        assert_true(err.text[0] != '\0');
        buf_fini(&kept);
        close(file.fd);
    }
    assert_int_equal(running->max_parked, 5);
    config_freep(&running);
}

static void test_reply_address(void **state)
{
    (void)state;
    struct config *config = load_ok(NULL, NULL);
    assert_null(config->reply_topic);
    assert_int_equal(config->reply_partition, CONFIG_ANY_PARTITION);
    config_freep(&config);
    char *env[] = {"SYNCGATE_REPLY_TOPIC=gate_1.replies-x", "SYNCGATE_REPLY_PARTITION=0", NULL};
    config = load_ok("{\"kafka\":{\"replyTopic\":\"other\",\"replyPartition\":7}}", env);
    assert_string_equal(config->reply_topic, "gate_1.replies-x");
    assert_int_equal(config->reply_partition, 0);
    /* Both need a restart: a reload keeps them, also where they were not set before. */
    struct buf kept = BUF_INIT;
    struct err err = {0};
    struct config *fresh = config_reload(NULL, NULL, config, &kept, &err);
    assert_non_null(fresh);
    assert_string_equal(fresh->reply_topic, "gate_1.replies-x");
    assert_int_equal(fresh->reply_partition, 0);
    assert_true(span_eq(buf_span(&kept), SPAN_LIT("SYNCGATE_REPLY_TOPIC, SYNCGATE_REPLY_PARTITION")));
    config_freep(&fresh);
    config_freep(&config);
    buf_fini(&kept);
    expect_refused(NULL, (char *[]){"SYNCGATE_REPLY_PARTITION=1", NULL},
                   "SYNCGATE_REPLY_PARTITION: expected SYNCGATE_REPLY_TOPIC as well");
    expect_refused(NULL, (char *[]){"SYNCGATE_REPLY_TOPIC=a", "SYNCGATE_REPLY_PARTITION=-1", NULL},
                   "SYNCGATE_REPLY_PARTITION: expected a whole number from 0 to 2147483647");
    expect_refused(NULL, (char *[]){"SYNCGATE_REPLY_TOPIC=a", "SYNCGATE_REPLY_PARTITION=2147483648", NULL},
                   "SYNCGATE_REPLY_PARTITION: expected a whole number");
    static const char *const bad[] = {"SYNCGATE_REPLY_TOPIC=a b", "SYNCGATE_REPLY_TOPIC=.",
                                      "SYNCGATE_REPLY_TOPIC=..", "SYNCGATE_REPLY_TOPIC=a/b"};
    for (size_t i = 0; i < SG_ARRAY_LEN(bad); i++)
        expect_refused(NULL, (char *[]){(char *)bad[i], NULL},
                       "SYNCGATE_REPLY_TOPIC: expected a Kafka topic: letters");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_good_values),
        cmocka_unit_test(test_bad_variables),
        cmocka_unit_test(test_bad_files),
        cmocka_unit_test(test_environment_beats_file),
        cmocka_unit_test(test_secret_files),
        cmocka_unit_test(test_null_is_not_set),
        cmocka_unit_test(test_service_links),
        cmocka_unit_test(test_trusted_proxies),
        cmocka_unit_test(test_operation_names),
        cmocka_unit_test(test_reply_address),
        cmocka_unit_test(test_generated_files_are_current),
        cmocka_unit_test(test_sample_is_the_defaults),
        cmocka_unit_test(test_help),
        cmocka_unit_test(test_flags_file),
        cmocka_unit_test(test_bad_flags_file),
        cmocka_unit_test(test_admin_tokens),
        cmocka_unit_test(test_bad_admin_tokens),
        cmocka_unit_test(test_topic_names),
        cmocka_unit_test(test_bad_topic_names),
        cmocka_unit_test(test_reload),
        cmocka_unit_test(test_reload_keeps_what_needs_a_restart),
        cmocka_unit_test(test_reload_refuses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
