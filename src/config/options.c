/* SPDX-License-Identifier: Apache-2.0 */
#include "options.h"

#define TEXT_MAX  4096
#define TOPIC_MAX 249 /* Kafka's own limit */

#define OPTION(group, env, key, type, field, def, min, max, choices, reloadable, secret, text)           \
    {                                                                                                    \
        group, env, key, offsetof(struct config, field), def, choices, text, type, min, max, reloadable, \
            secret                                                                                       \
    }
#define TEXT_OPTION(env, key, type, field, def, reloadable, text) \
    OPTION(NULL, env, key, type, field, def, 1, TEXT_MAX, NULL, reloadable, false, text)
#define NUMBER_OPTION(env, key, type, field, def, min, max, reloadable, text) \
    OPTION(NULL, env, key, type, field, def, min, max, NULL, reloadable, false, text)

#define MS  1u
#define SEC 1000u
#define MIN (60 * SEC)
#define KIB 1024u
#define MIB (1024 * KIB)

/* clang-format off */
const struct option options[] = {
    OPTION("The gateway", "SYNCGATE_LISTEN", "listen", OPTION_ADDRESS, listen, "0.0.0.0:8080", 0, 0, NULL, false, false,
     "Public HTTP. Port 0 lets the system choose a free port, which is logged."),
    OPTION(NULL, "SYNCGATE_ADMIN_LISTEN", "adminListen", OPTION_ADDRESS, admin_listen, "127.0.0.1:9090", 0, 0, NULL, false, false,
     "Health, metrics and admin. Never served on the public port."),
    OPTION(NULL, "SYNCGATE_ADMIN_TOKENS", "adminTokens", OPTION_STRING, admin_tokens, NULL, 1, TEXT_MAX, NULL, true, true,
     "Who may change flags at the admin port: `name:token` pairs, separated by commas; a token has 16 characters or more. The name stands in the audit log. Not set: nobody may."),
    TEXT_OPTION("SYNCGATE_ROUTES", "routes", OPTION_STRING, routes, "routes/", true, "Folder of route files."),
    TEXT_OPTION("SYNCGATE_OPENAPI", "openapi", OPTION_STRING, openapi, "openapi/openapi.json", true,
        "OpenAPI document that the route files refer to."),
    TEXT_OPTION("SYNCGATE_TOPIC_NAMES", "topicNames", OPTION_STRING, topic_names, NULL, true,
        "What topics of the route files are called here: `from=to` pairs, separated by commas. Applied once, as the files are read. Each `from` must stand in a route file."),
    OPTION(NULL, "SYNCGATE_ENV", "env", OPTION_CHOICE, env, "development", 0, 0, "development|production|test", false, false,
     "In production the embedded broker is refused."),
    NUMBER_OPTION("SYNCGATE_LOOPS", "loops", OPTION_UINT, loops, "0", 0, 64, false, "Event loops (worker threads); 0: one per core."),
    OPTION(NULL, "SYNCGATE_LOG_LEVEL", "logLevel", OPTION_CHOICE, log_level, "info", 0, 0, "debug|info|warn|error|fatal", true, false,
     "Lowest level that is logged."),
    NUMBER_OPTION("SYNCGATE_MAX_CONNECTIONS", "maxConnections", OPTION_UINT, max_connections, "20000", 1, 1000000, false,
        "Public connections at a time, all loops together. Needs as many file descriptors."),
    NUMBER_OPTION("SYNCGATE_MAX_PARKED", "maxParked", OPTION_UINT, max_parked, "20000", 1, 1000000, true,
        "Requests that wait for a reply at a time, all loops together. More take legacy, or are answered 503 OVERLOADED."),
    NUMBER_OPTION("SYNCGATE_MAX_PARKED_PER_ROUTE", "maxParkedPerRoute", OPTION_UINT, max_parked_per_route, "10000", 1, 1000000, true,
        "The same for each route whose file has no `maxInFlight`: a slow service must not take the places of all others."),
    NUMBER_OPTION("SYNCGATE_BODY_LIMIT", "bodyLimit", OPTION_SIZE, body_limit, "100KiB", 1, 64 * MIB, false,
        "Largest request body on the Kafka path; more is answered 413. The default is the legacy backend's."),
    NUMBER_OPTION("SYNCGATE_BODY_MEMORY", "bodyMemory", OPTION_SIZE, body_memory, "256MiB", 64 * KIB, 4095u * MIB, true,
        "Bodies on the Kafka path at a time, all loops together; at least SYNCGATE_BODY_LIMIT. More take legacy, streamed, or are answered 503 OVERLOADED."),
    NUMBER_OPTION("SYNCGATE_CONNECTION_MEMORY", "connectionMemory", OPTION_SIZE, connection_memory, "16KiB", 4 * KIB, 256 * KIB, false,
        "Memory for the request line and headers of one connection; longer ones are answered 431."),
    NUMBER_OPTION("SYNCGATE_IDLE_TIMEOUT", "idleTimeout", OPTION_DURATION, idle_timeout_ms, "75s", SEC, 60 * MIN, false,
        "A connection without a request is closed after this time. Keep it above the idle timeout of a proxy in front."),
    NUMBER_OPTION("SYNCGATE_BODY_TIMEOUT", "bodyTimeout", OPTION_DURATION, body_timeout_ms, "30s", 100 * MS, 10 * MIN, false,
        "A request whose body has not arrived after this time is given up."),
    OPTION(NULL, "SYNCGATE_ERROR_PROFILE", "errorProfile", OPTION_CHOICE, error_profile, "ts-rest", 0, 0, "ts-rest|nest|problem+json", true, false,
     "Form of the Kafka path's error answers. `ts-rest`: as the legacy backend; `nest`: validation errors as NestJS's ValidationPipe; "
     "`problem+json`: RFC 9457 for every error that the gateway makes."),
    OPTION(NULL, "TRUSTED_PROXIES", "trustedProxies", OPTION_CIDRS, trusted_proxies, NULL, 0, 0, NULL, true, false,
     "Proxies whose X-Forwarded-* headers are believed."),

    OPTION("Kafka", "KAFKA_BROKERS", "kafka.brokers", OPTION_BROKERS, kafka_brokers, NULL, 1, TEXT_MAX, NULL, false, false,
     "Bootstrap list, or `embedded` for the built-in broker (a first look and tests only). Required unless the flag of every route is `false`."),
    NUMBER_OPTION("KAFKA_MESSAGE_TIMEOUT", "kafka.messageTimeout", OPTION_DURATION, kafka_message_timeout_ms, "2s", 100 * MS, 5 * MIN, false,
        "A command that could not be handed to a broker in this time is given up. Plus 1s it must stay below the shortest route timeout."),
    OPTION(NULL, "SYNCGATE_DEAD_LETTER_TOPIC", "kafka.deadLetterTopic", OPTION_TOPIC, dead_letter_topic, NULL, 1, TOPIC_MAX, NULL, true, false,
     "Where replies to our calls go that cannot be used, with the reason in headers. No topic of a route. Not set: they are only counted and logged."),
    OPTION(NULL, "SYNCGATE_REPLY_TOPIC", "kafka.replyTopic", OPTION_TOPIC, reply_topic, NULL, 1, TOPIC_MAX, NULL, false, false,
        "The reply address of this instance: commands carry it instead of the topic of their route's first reply rule, and replies on it count as replies on that topic."),
    NUMBER_OPTION("SYNCGATE_REPLY_PARTITION", "kafka.replyPartition", OPTION_UINT, reply_partition, NULL, 0, INT32_MAX, false,
        "The partition of SYNCGATE_REPLY_TOPIC that belongs to this instance: commands carry it, and of that topic only it is read. Not set: all partitions are read, and the service's partitioner chooses."),

    OPTION("Circuit breakers", "SYNCGATE_BREAKER", "breaker.enabled", OPTION_BOOL, breaker, "true", 0, 0, NULL, true, false,
     "One for each route, and one for the cluster. Open, it sends calls to legacy at once; with `only` they are answered 503."),
    NUMBER_OPTION("SYNCGATE_BREAKER_WINDOW", "breaker.window", OPTION_DURATION, breaker_window_ms, "30s", SEC, 10 * MIN, true,
        "Calls that ended within this time count."),
    NUMBER_OPTION("SYNCGATE_BREAKER_MIN_CALLS", "breaker.minCalls", OPTION_UINT, breaker_min_calls, "20", 1, 1000000, true,
        "With fewer calls in the window there is no verdict."),
    NUMBER_OPTION("SYNCGATE_BREAKER_PRODUCE_FAILURES", "breaker.produceFailures", OPTION_UINT, breaker_produce_failures, "50", 0, 100, true,
        "Percentage of calls that could not be written, from which a route's breaker opens; 0: never for that."),
    NUMBER_OPTION("SYNCGATE_BREAKER_TIMEOUTS", "breaker.timeouts", OPTION_UINT, breaker_timeouts, "50", 0, 100, true,
        "Percentage of calls without a reply in time, from which a route's breaker opens; 0: never for that."),
    NUMBER_OPTION("SYNCGATE_BREAKER_CLUSTER_FAILURES", "breaker.clusterFailures", OPTION_UINT, breaker_cluster_failures, "80", 0, 100, true,
        "Percentage of calls of all routes that could not be written, from which the cluster's breaker opens; 0: only when no broker can be reached."),
    NUMBER_OPTION("SYNCGATE_BREAKER_OPEN", "breaker.open", OPTION_DURATION, breaker_open_ms, "5s", 100 * MS, 10 * MIN, true,
        "After this time, more or less a fifth at random, the first probes go. Each time they fail it doubles."),
    NUMBER_OPTION("SYNCGATE_BREAKER_OPEN_MAX", "breaker.openMax", OPTION_DURATION, breaker_open_max_ms, "1m", 100 * MS, 60 * MIN, true,
        "The longest such time."),
    NUMBER_OPTION("SYNCGATE_BREAKER_PROBES", "breaker.probes", OPTION_UINT, breaker_probes, "3", 1, 1000, true,
        "Half-open: calls that may try at a time, and how many must succeed to close the breaker."),

    OPTION("Legacy backend", "LEGACY_URL", "legacy.url", OPTION_URL, legacy_url, NULL, 1, TEXT_MAX, NULL, false, false,
     "Base URL of the legacy backend, such as `http://backend:3000`. Required unless the flag of every route is `only`."),
    NUMBER_OPTION("LEGACY_TIMEOUT", "legacy.timeout", OPTION_DURATION, legacy_timeout_ms, "30s", 100 * MS, 60 * MIN, false,
        "Longest wait for the answer's head, and between two pieces of its body."),
    NUMBER_OPTION("LEGACY_CONNECT_TIMEOUT", "legacy.connectTimeout", OPTION_DURATION, legacy_connect_timeout_ms, "2s", 10 * MS, 5 * MIN, false,
        "Longest wait for a connection, name resolution included."),
    NUMBER_OPTION("LEGACY_MAX_CONNECTIONS", "legacy.maxConnections", OPTION_UINT, legacy_max_connections, "256", 1, 65535, false,
        "Connections to the backend at a time, all loops together."),
    NUMBER_OPTION("LEGACY_MAX_REQUESTS", "legacy.maxRequests", OPTION_UINT, legacy_max_requests, "4096", 1, 1000000, false,
        "Calls to the backend at a time, those that wait for a connection included, all loops together. More are answered 503 OVERLOADED."),
    NUMBER_OPTION("LEGACY_RETRIES", "legacy.retries", OPTION_UINT, legacy_retries, "2", 0, 10, false,
        "How often a GET, HEAD, OPTIONS, TRACE, PUT or DELETE without a streamed body is sent again when the backend refuses the "
        "connection or closes it without an answer; 0: never."),
    NUMBER_OPTION("LEGACY_RETRY_BACKOFF", "legacy.retryBackoff", OPTION_DURATION, legacy_retry_backoff_ms, "50ms", 1 * MS, 10 * SEC, false,
        "Before it is sent again: a random time up to this, doubled with every attempt, and never more than 1s."),

    OPTION("Feature flag", "FEATURE_KAFKA_EVENTS", "feature.kafkaEvents", OPTION_STRING, feature_kafka_events, "false", 1, 64, NULL, true, false,
     "`false` or `off`: legacy only; `split:N`: N % of the users as with `true`, the rest as with `off`; `true` or `primary`: Kafka first, legacy when the command is certainly not in Kafka; `only`: Kafka only."),
    TEXT_OPTION("FEATURE_KAFKA_EVENTS_FILE", "feature.file", OPTION_STRING, feature_file, NULL, true,
        "A file with flags, read again on SIGHUP: lines `FEATURE_KAFKA_EVENTS=VALUE` and `FEATURE_KAFKA_EVENTS_<OPERATION>=VALUE`, or one value alone. It beats the settings."),

    OPTION("Tokens", "AUTH_JWKS", "auth.jwks", OPTION_STRING, auth_jwks, NULL, 1, TEXT_MAX, NULL, true, false,
     "Path of a JWK Set file, read again when it changes. At most one of AUTH_JWKS, AUTH_HS256_SECRET and AUTH_PUBLIC_KEY may be set."),
    OPTION(NULL, "AUTH_HS256_SECRET", "auth.hs256Secret", OPTION_STRING, auth_hs256_secret, NULL, 1, TEXT_MAX, NULL, true, true,
     "Shared secret for HMAC signatures (HS256 and its kin)."),
    TEXT_OPTION("AUTH_PUBLIC_KEY", "auth.publicKey", OPTION_STRING, auth_public_key, NULL, true,
        "A PEM public key: the path of its file, or the PEM text itself."),
    TEXT_OPTION("AUTH_ISSUER", "auth.issuer", OPTION_STRING, auth_issuer, NULL, true, "The `iss` a token must have."),
    TEXT_OPTION("AUTH_AUDIENCE", "auth.audience", OPTION_STRING, auth_audience, NULL, true, "The `aud` a token must have, alone or among others."),
    TEXT_OPTION("AUTH_ALGORITHMS", "auth.algorithms", OPTION_ALGORITHMS, auth_algorithms, NULL, true,
        "Allow-list of signature algorithms, such as `RS256,ES256`. Not set: those that fit the type of the key."),
    OPTION(NULL, "AUTH_REQUIRE_EXP", "auth.requireExp", OPTION_BOOL, auth_require_exp, "true", 0, 0, NULL, true, false,
     "Refuse tokens without `exp`. The legacy backend accepts them."),
    NUMBER_OPTION("AUTH_CACHE_SIZE", "auth.cacheSize", OPTION_UINT, auth_cache_size, "10000", 0, 1000000, false,
        "Verified tokens that are remembered, per loop; 0: none."),

    OPTION("Shutting down", "SHUTDOWN_DELAY", "shutdown.delay", OPTION_DURATION, shutdown_delay_ms, "5s", 0, 10 * MIN, NULL, true, false,
     "After SIGTERM readiness is false at once, but connections are accepted for this time, until load balancers have noticed."),
    NUMBER_OPTION("SHUTDOWN_TIMEOUT", "shutdown.timeout", OPTION_DURATION, shutdown_timeout_ms, "35s", 100 * MS, 60 * MIN, true,
        "After the delay, requests under way may take this long. Keep it above the longest route timeout."),
};
/* clang-format on */
const size_t option_count = SG_ARRAY_LEN(options);
