/* SPDX-License-Identifier: Apache-2.0 */
#include "options.h"

#define TEXT_MAX 4096

#define OPTION(group, env, key, type, field, def, min, max, choices, reloadable, secret, text)           \
    {                                                                                                    \
        group, env, key, offsetof(struct config, field), def, choices, text, type, min, max, reloadable, \
            secret                                                                                       \
    }
#define TEXT_OPTION(env, key, type, field, def, text) \
    OPTION(NULL, env, key, type, field, def, 1, TEXT_MAX, NULL, false, false, text)
#define NUMBER_OPTION(env, key, type, field, def, min, max, text) \
    OPTION(NULL, env, key, type, field, def, min, max, NULL, false, false, text)

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
    TEXT_OPTION("SYNCGATE_ROUTES", "routes", OPTION_STRING, routes, "routes/", "Folder of route files."),
    TEXT_OPTION("SYNCGATE_OPENAPI", "openapi", OPTION_STRING, openapi, "openapi/openapi.json",
        "OpenAPI document that the route files refer to."),
    OPTION(NULL, "SYNCGATE_ENV", "env", OPTION_CHOICE, env, "development", 0, 0, "development|production|test", false, false,
     "In production the embedded broker is refused."),
    NUMBER_OPTION("SYNCGATE_LOOPS", "loops", OPTION_UINT, loops, "0", 0, 64, "Event loops (worker threads); 0: one per core."),
    OPTION(NULL, "SYNCGATE_LOG_LEVEL", "logLevel", OPTION_CHOICE, log_level, "info", 0, 0, "debug|info|warn|error|fatal", false, false,
     "Lowest level that is logged."),
    NUMBER_OPTION("SYNCGATE_MAX_CONNECTIONS", "maxConnections", OPTION_UINT, max_connections, "20000", 1, 1000000,
        "Public connections at a time, all loops together. Needs as many file descriptors."),
    NUMBER_OPTION("SYNCGATE_MAX_PARKED", "maxParked", OPTION_UINT, max_parked, "20000", 1, 1000000,
        "Requests that wait for a reply at a time, all loops together. More are answered 503 OVERLOADED."),
    NUMBER_OPTION("SYNCGATE_BODY_LIMIT", "bodyLimit", OPTION_SIZE, body_limit, "100KiB", 1, 64 * MIB,
        "Largest request body on the Kafka path; more is answered 413. The default is the legacy backend's."),
    NUMBER_OPTION("SYNCGATE_CONNECTION_MEMORY", "connectionMemory", OPTION_SIZE, connection_memory, "16KiB", 4 * KIB, 256 * KIB,
        "Memory for the request line and headers of one connection; longer ones are answered 431."),
    NUMBER_OPTION("SYNCGATE_IDLE_TIMEOUT", "idleTimeout", OPTION_DURATION, idle_timeout_ms, "75s", SEC, 60 * MIN,
        "A connection without a request is closed after this time. Keep it above the idle timeout of a proxy in front."),
    NUMBER_OPTION("SYNCGATE_BODY_TIMEOUT", "bodyTimeout", OPTION_DURATION, body_timeout_ms, "30s", 100 * MS, 10 * MIN,
        "A request whose body has not arrived after this time is given up."),
    OPTION(NULL, "TRUSTED_PROXIES", "trustedProxies", OPTION_CIDRS, trusted_proxies, NULL, 0, 0, NULL, false, false,
     "Proxies whose X-Forwarded-* headers are believed."),

    OPTION("Kafka", "KAFKA_BROKERS", "kafka.brokers", OPTION_BROKERS, kafka_brokers, NULL, 1, TEXT_MAX, NULL, false, false,
     "Bootstrap list, or `embedded` for the built-in broker (a first look and tests only). Required unless the flag of every route is `false`."),
    NUMBER_OPTION("KAFKA_MESSAGE_TIMEOUT", "kafka.messageTimeout", OPTION_DURATION, kafka_message_timeout_ms, "2s", 100 * MS, 5 * MIN,
        "A command that could not be handed to a broker in this time is given up. Plus 1s it must stay below the shortest route timeout."),

    OPTION("Legacy backend", "LEGACY_URL", "legacy.url", OPTION_URL, legacy_url, NULL, 1, TEXT_MAX, NULL, false, false,
     "Base URL of the legacy backend, such as `http://backend:3000`. Required unless the flag of every route is `only`."),
    NUMBER_OPTION("LEGACY_TIMEOUT", "legacy.timeout", OPTION_DURATION, legacy_timeout_ms, "30s", 100 * MS, 60 * MIN,
        "Longest wait for the answer's head, and between two pieces of its body."),
    NUMBER_OPTION("LEGACY_CONNECT_TIMEOUT", "legacy.connectTimeout", OPTION_DURATION, legacy_connect_timeout_ms, "2s", 10 * MS, 5 * MIN,
        "Longest wait for a connection, name resolution included."),
    NUMBER_OPTION("LEGACY_MAX_CONNECTIONS", "legacy.maxConnections", OPTION_UINT, legacy_max_connections, "256", 1, 65535,
        "Connections to the backend at a time, all loops together."),
    NUMBER_OPTION("LEGACY_RETRIES", "legacy.retries", OPTION_UINT, legacy_retries, "2", 0, 10,
        "How often a GET, HEAD, OPTIONS, TRACE, PUT or DELETE without a streamed body is sent again when the backend refuses the "
        "connection or closes it without an answer; 0: never."),
    NUMBER_OPTION("LEGACY_RETRY_BACKOFF", "legacy.retryBackoff", OPTION_DURATION, legacy_retry_backoff_ms, "50ms", 1 * MS, 10 * SEC,
        "Before it is sent again: a random time up to this, doubled with every attempt, and never more than 1s."),

    OPTION("Feature flag", "FEATURE_KAFKA_EVENTS", "feature.kafkaEvents", OPTION_STRING, feature_kafka_events, "false", 1, 64, NULL, false, false,
     "`false` or `off`: legacy only; `true` or `primary`: Kafka first, legacy when the command is certainly not in Kafka; `only`: Kafka only."),

    OPTION("Tokens", "AUTH_JWKS", "auth.jwks", OPTION_STRING, auth_jwks, NULL, 1, TEXT_MAX, NULL, false, false,
     "Path of a JWK Set file, read again when it changes. At most one of AUTH_JWKS, AUTH_HS256_SECRET and AUTH_PUBLIC_KEY may be set."),
    OPTION(NULL, "AUTH_HS256_SECRET", "auth.hs256Secret", OPTION_STRING, auth_hs256_secret, NULL, 1, TEXT_MAX, NULL, false, true,
     "Shared secret for HMAC signatures (HS256 and its kin)."),
    TEXT_OPTION("AUTH_PUBLIC_KEY", "auth.publicKey", OPTION_STRING, auth_public_key, NULL,
        "A PEM public key: the path of its file, or the PEM text itself."),
    TEXT_OPTION("AUTH_ISSUER", "auth.issuer", OPTION_STRING, auth_issuer, NULL, "The `iss` a token must have."),
    TEXT_OPTION("AUTH_AUDIENCE", "auth.audience", OPTION_STRING, auth_audience, NULL, "The `aud` a token must have, alone or among others."),
    TEXT_OPTION("AUTH_ALGORITHMS", "auth.algorithms", OPTION_ALGORITHMS, auth_algorithms, NULL,
        "Allow-list of signature algorithms, such as `RS256,ES256`. Not set: those that fit the type of the key."),
    OPTION(NULL, "AUTH_REQUIRE_EXP", "auth.requireExp", OPTION_BOOL, auth_require_exp, "true", 0, 0, NULL, false, false,
     "Refuse tokens without `exp`. The legacy backend accepts them."),
    NUMBER_OPTION("AUTH_CACHE_SIZE", "auth.cacheSize", OPTION_UINT, auth_cache_size, "10000", 0, 1000000,
        "Verified tokens that are remembered, per loop; 0: none."),

    OPTION("Shutting down", "SHUTDOWN_DELAY", "shutdown.delay", OPTION_DURATION, shutdown_delay_ms, "5s", 0, 10 * MIN, NULL, false, false,
     "After SIGTERM readiness is false at once, but connections are accepted for this time, until load balancers have noticed."),
    NUMBER_OPTION("SHUTDOWN_TIMEOUT", "shutdown.timeout", OPTION_DURATION, shutdown_timeout_ms, "35s", 100 * MS, 60 * MIN,
        "After the delay, requests under way may take this long. Keep it above the longest route timeout."),
};
/* clang-format on */
const size_t option_count = SG_ARRAY_LEN(options);
