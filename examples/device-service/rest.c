/* SPDX-License-Identifier: Apache-2.0 */
/* The order of checks is part of the API: body (400, 413, 415), path escapes (400), token (401), route (404),
 * role (403), shape of query and body (400), and only then the endpoint itself. */
#include "rest.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <math.h>
#include <microhttpd.h>
#include <openssl/evp.h>
#include <regex.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "json_text.h"

#define BODY_MAX 102400

struct rest {
    struct MHD_Daemon *http;
    struct devices *devices;
    struct responder *responder;
    struct rest_config config;
    atomic_ullong bind_count, unbind_count;
};

/* One request. Handlers fill status and return the answer's body, owned. */
struct call {
    struct rest *rest;
    struct MHD_Connection *connection;
    const char *method;
    char *target, *path; /* as sent; without query and one trailing slash */
    char *text;          /* the body as received, len bytes and a NUL */
    size_t len;
    bool is_started, is_too_large;
    json_t *body, *query; /* body: NULL when there is none */
    struct auth_user user;
    unsigned status;
};

/* ---- answers ---- */

static json_t *message(struct call *call, unsigned status, json_t *text)
{
    call->status = status;
    return json_pack("{so}", "message", text);
}

/* A service error's status is found by its text, which holds the device's id: an odd id can change it. */
static json_t *service_error(struct call *call, json_t *text)
{
    if (!strstr(json_string_value(text), "not found"))
        return message(call, 400, text);
    json_decref(text);
    return message(call, 404, json_string("Устройство не найдено"));
}

static json_t *nest_error(struct call *call, unsigned status, json_t *text)
{
    call->status = status;
    const char *name = status == 400   ? "Bad Request"
                       : status == 401 ? "Unauthorized"
                       : status == 403 ? "Forbidden"
                                       : "Not Found";
    return json_pack("{so ss si}", "message", text, "error", name, "statusCode", status);
}

static json_t *cannot(struct call *call)
{
    return nest_error(call, 404, json_sprintf("Cannot %s %s", call->method, call->target));
}

/* ---- reading the request ---- */

/* Decodes %XX in place, and + where it is a blank. False for a malformed escape (left as it is). */
static bool unescape(char *text, bool plus)
{
    bool ok = true;
    char *out = text;
    for (const char *in = text; *in; in++) {
        if (*in == '%' && isxdigit((unsigned char)in[1]) && isxdigit((unsigned char)in[2])) {
            char hex[3] = {in[1], in[2], '\0'};
            *out++ = (char)strtol(hex, NULL, 16);
            in += 2;
        } else {
            ok = ok && *in != '%';
            *out++ = *in == '+' && plus ? ' ' : *in;
        }
    }
    *out = '\0';
    return ok;
}

/* {"name": "value"}; a repeated name has an array. */
static json_t *parse_form(const char *text)
{
    json_t *form = json_object();
    char *copy = or_die(strdup(text)), *rest = copy, *pair;
    while ((pair = strsep(&rest, "&"))) {
        char *value = strchr(pair, '=');
        if (value)
            *value++ = '\0';
        if (!*pair && !value)
            continue;
        unescape(pair, true);
        if (value)
            unescape(value, true);
        json_t *old = json_object_get(form, pair), *new = json_string(value ? value : "");
        if (!new)
            new = json_string("\xEF\xBF\xBD"); /* not UTF-8: the replacement character */
        if (json_is_array(old))
            json_array_append_new(old, new);
        else
            json_object_set_new(form, pair, old ? json_pack("[Oo]", old, new) : new);
    }
    free(copy);
    return form;
}

static const char *header(const struct call *call, const char *name)
{
    return MHD_lookup_connection_value(call->connection, MHD_HEADER_KIND, name);
}

#define TOKEN     "[!#$%&'*+.^_`|~0-9A-Za-z-]+"
#define PARAMETER "; *(" TOKEN ") *= *(" TOKEN "|\"([^\"\\\\]|\\\\.)*\") *"

enum body_kind { BODY_UNREAD, BODY_JSON, BODY_FORM };

static bool matches(const char *pattern, const char *text, regmatch_t *groups, size_t count)
{
    regex_t regex;
    if (regcomp(&regex, pattern, REG_EXTENDED | REG_ICASE) != 0)
        abort();
    bool found = regexec(&regex, text, count, groups, 0) == 0;
    regfree(&regex);
    return found;
}

/* A type with a parameter out of form is no type. *ret_charset: lower case, owned, or NULL; the last one counts. */
static enum body_kind body_kind(const char *type, char **ret_charset)
{
    regmatch_t groups[3];
    *ret_charset = NULL;
    bool is_json = matches("^ *application/json *(" PARAMETER ")*$", type, NULL, 0);
    if (!is_json && !matches("^ *application/x-www-form-urlencoded *(" PARAMETER ")*$", type, NULL, 0))
        return BODY_UNREAD;
    for (const char *at = strchr(type, ';'); at && matches("^" PARAMETER, at, groups, 3);
         at += groups[0].rm_eo) {
        if (groups[1].rm_eo - groups[1].rm_so != 7 || strncasecmp(at + groups[1].rm_so, "charset", 7) != 0)
            continue;
        const char *value = at + groups[2].rm_so;
        size_t len = (size_t)(groups[2].rm_eo - groups[2].rm_so);
        free(*ret_charset);
        *ret_charset = *value == '"' ? strndup(value + 1, len - 2) : strndup(value, len);
        for (char *c = or_die(*ret_charset); *c; c++)
            *c = (char)tolower((unsigned char)*c);
    }
    return is_json ? BODY_JSON : BODY_FORM;
}

/* The body parser's own errors have no `error`. Takes text. */
static json_t *parser_error(struct call *call, unsigned status, json_t *text)
{
    call->status = status;
    return json_pack("{si so}", "statusCode", status, "message", text);
}

static json_t *unsupported(struct call *call, const char *what, char *name, int (*letter)(int))
{
    for (char *c = name; *c; c++)
        *c = (char)letter((unsigned char)*c);
    return parser_error(call, 415, json_sprintf("unsupported %s \"%s\"", what, name));
}

/* The parser's order: charset, content coding, size. NULL: the body may be read. */
static json_t *check_coding(struct call *call, enum body_kind kind, char *charset)
{
    const char *coding = header(call, "Content-Encoding");
    bool is_allowed = !charset || !*charset;
    if (!is_allowed && kind == BODY_JSON)
        is_allowed = strncmp(charset, "utf-", 4) == 0;
    else if (!is_allowed)
        is_allowed = strcmp(charset, "utf-8") == 0 || strcmp(charset, "iso-8859-1") == 0;
    if (!is_allowed)
        return unsupported(call, "charset", charset, toupper);
    if (coding && *coding && strcasecmp(coding, "identity") != 0) { /* this example inflates nothing */
        char *copy = or_die(strdup(coding));
        json_t *refusal = unsupported(call, "content encoding", copy, tolower);
        free(copy);
        return refusal;
    }
    if (call->is_too_large)
        return parser_error(call, 413, json_string("request entity too large"));
    if (kind == BODY_JSON && charset && *charset &&
        !matches("^utf-*8$", charset, NULL, 0)) /* nor knows others */
        return unsupported(call, "charset", charset, toupper);
    return NULL;
}

/* Returns the answer that refuses the body, or NULL with call->body set. */
static json_t *parse_body(struct call *call)
{
    const char *type = header(call, "Content-Type");
    char *charset = NULL;
    json_t *text = NULL;
    if (!type || (!header(call, "Content-Length") && !header(call, "Transfer-Encoding")))
        return NULL;
    enum body_kind kind = body_kind(type, &charset);
    json_t *refusal = kind == BODY_UNREAD ? NULL : check_coding(call, kind, charset);
    free(charset);
    if (kind == BODY_UNREAD || refusal)
        return refusal;
    bool is_bom = call->len == 3 && memcmp(call->text, "\xEF\xBB\xBF", 3) == 0;
    if (call->len == 0 || is_bom || kind == BODY_FORM) {
        call->body = parse_form(call->text && !is_bom ? call->text : "");
        return NULL;
    }
    call->body = json_text_parse(call->text, call->len, &text);
    return call->body ? NULL : nest_error(call, 400, text);
}

static json_t *check_escapes(struct call *call)
{
    json_t *refusal = NULL;
    char *copy = or_die(strdup(call->path)), *rest = copy, *segment;
    while (!refusal && (segment = strsep(&rest, "/"))) {
        json_t *raw = json_string(segment);
        bool ok = unescape(segment, false);
        json_t *decoded = json_string(segment); /* NULL: not UTF-8 */
        if (raw && (!ok || !decoded))
            refusal =
                nest_error(call, 400, json_sprintf("Failed to decode param '%s'", json_string_value(raw)));
        json_decref(raw);
        json_decref(decoded);
    }
    free(copy);
    return refusal;
}

/* ---- endpoints ---- */

static const char *body_text(const struct call *call, const char *key)
{
    return json_string_value(json_object_get(call->body, key));
}

static json_t *on_generate_qr(struct call *call)
{
    const char *id = body_text(call, "deviceId");
    if (devices_add(call->rest->devices, id, body_text(call, "model"), body_text(call, "firmwareVersion"),
                    body_text(call, "publicKeyPem")) != DEVICE_OK)
        return message(call, 400, json_sprintf("Device with ID %s already exists", id));
    call->status = 201;
    json_t *qr = json_pack("{ss ss si}", "deviceId", id, "fingerprint", "placeholder-fingerprint", "v", 1);
    char *text = or_die(json_dumps(qr, JSON_COMPACT));
    json_t *answer =
        json_pack("{ss s{ss so sI}}", "message", "Устройство успешно зарегистрировано", "data", "deviceId",
                  id, "qrData", qr, "estimatedQRSize", (json_int_t)check_utf16_len(text));
    free(text);
    return answer;
}

static json_t *on_bind(struct call *call)
{
    char at[TIME_TEXT_SIZE];
    int64_t at_ms = 0;
    const char *id = json_string_value(json_object_get(json_object_get(call->body, "qrData"), "deviceId"));
    atomic_fetch_add(&call->rest->bind_count, 1);
    enum device_result result = devices_bind(call->rest->devices, id, call->user.sub, &at_ms);
    if (result == DEVICE_NOT_FOUND || (result == DEVICE_ALREADY_BOUND && strstr(id, "not found")))
        return message(call, 404, json_string("Устройство не найдено"));
    if (result == DEVICE_ALREADY_BOUND) {
        call->status = 409;
        return json_pack("{ss ss}", "message", "Устройство уже привязано", "code", "ALREADY_BOUND");
    }
    return json_pack("{ss s{ss ss ss ss}}", "message", "Устройство успешно привязано", "device", "deviceId",
                     id, "userId", call->user.sub, "boundAt", time_text(at_ms, at), "status", "bound");
}

static json_t *on_unbind(struct call *call)
{
    int64_t at_ms = 0;
    const char *id = body_text(call, "deviceId");
    atomic_fetch_add(&call->rest->unbind_count, 1);
    switch (devices_unbind(call->rest->devices, id, call->user.sub, &at_ms)) {
    case DEVICE_OK:
        return json_pack("{ss ss}", "message", "Устройство успешно отвязано", "deviceId", id);
    case DEVICE_ALREADY_UNBOUND:
        return service_error(call, json_sprintf("Device with ID %s is already unbound", id));
    case DEVICE_NOT_OWNER:
        return service_error(call, json_sprintf("User %s is not the owner of device %s", call->user.sub, id));
    default:
        return service_error(call, json_sprintf("Device with ID %s not found", id));
    }
}

static void add_my_device(const struct device *device, void *arg)
{
    char created[TIME_TEXT_SIZE], seen[TIME_TEXT_SIZE];
    /* boundAt was never stored by the legacy backend; its clients see createdAt there. */
    json_array_append_new(arg, json_pack("{ss ss* ss ss ss}", "deviceId", device->id, "model",
                                         *device->model ? device->model : NULL, "status", "bound", "boundAt",
                                         time_text(device->created_ms, created), "lastSeenAt",
                                         time_text(device->last_seen_ms, seen)));
}

static void add_any_device(const struct device *device, void *arg)
{
    char created[TIME_TEXT_SIZE], seen[TIME_TEXT_SIZE];
    json_array_append_new(arg, json_pack("{ss ss ss ss ss? ss sn ss ss ss}", "deviceId", device->id, "model",
                                         device->model, "firmwareVersion", device->firmware, "status",
                                         device->owner ? "bound" : "unbound", "ownerId", device->owner,
                                         "createdAt", time_text(device->created_ms, created), "boundAt",
                                         "lastSeenAt", time_text(device->last_seen_ms, seen), "publicKeyPem",
                                         device->public_key_pem, "ownerType", "user"));
}

static double query_number(const struct call *call, const char *name, double absent)
{
    const json_t *value = json_object_get(call->query, name);
    return value ? check_number(value) : absent;
}

/* As JSON.stringify() writes it. */
static json_t *json_number(double number)
{
    if (isinf(number))
        return json_null();
    return number == floor(number) && fabs(number) < 1e15 ? json_integer((json_int_t)number)
                                                          : json_real(number);
}

/* The filters are checked, but the legacy backend never applied them. */
static json_t *list(struct call *call, const char *owner, void (*on_device)(const struct device *, void *))
{
    double page = query_number(call, "page", 1), limit = query_number(call, "limit", 10);
    json_t *devices = json_array();
    size_t total = devices_list(call->rest->devices, owner, (page - 1) * limit, limit, on_device, devices);
    json_t *answer = json_pack("{so sI so so}", "devices", devices, "total", (json_int_t)total, "page",
                               json_number(page), "limit", json_number(limit));
    if (!owner)
        json_object_set_new(answer, "totalPages", json_number(ceil((double)total / limit)));
    return answer;
}

static json_t *on_my(struct call *call)
{
    return list(call, call->user.sub, add_my_device);
}

static json_t *on_admin(struct call *call)
{
    return list(call, NULL, add_any_device);
}

static json_t *on_health(struct call *call)
{
    (void)call;
    char now[TIME_TEXT_SIZE];
    return json_pack("{ss ss ss s{s{ss s{}} s{ss s{}}}}", "status", "healthy", "version", "1.0.0",
                     "timestamp", time_text(time_now_ms(), now), "services", "logging", "status", "healthy",
                     "details", "kafka", "status", "healthy", "details");
}

static const struct route {
    const char *method, *path;
    const struct check_shape *query, *body;
    bool is_admin;
    json_t *(*handle)(struct call *call);
} routes[] = {
    {"POST", "/api/manufacturing/generate-device-qr", NULL, &check_generate_qr_body, false, on_generate_qr},
    {"POST", "/api/devices/bind-qr", NULL, &check_bind_body, false, on_bind},
    {"POST", "/api/devices/unbind", NULL, &check_unbind_body, false, on_unbind},
    {"GET", "/api/devices/my", &check_my_query, NULL, false, on_my},
    {"GET", "/api/admin/devices", &check_admin_query, NULL, true, on_admin},
    {"GET", "/api/health", NULL, NULL, false, on_health},
};

/* Everything below these needs no token. */
static bool is_open(const char *path)
{
    static const char *const prefixes[] = {"/api/health",     "/api/metrics",
                                           "/api/docs",       "/api/manufacturing",
                                           "/api/kafka-test", "/api/devices/certificates"};
    for (size_t i = 0; i < sizeof(prefixes) / sizeof(prefixes[0]); i++) {
        size_t len = strlen(prefixes[i]);
        if (strncasecmp(path, prefixes[i], len) == 0 && (path[len] == '\0' || path[len] == '/'))
            return true;
    }
    return false;
}

static const struct route *find_route(const struct call *call)
{
    const char *method = strcmp(call->method, "HEAD") == 0 ? "GET" : call->method;
    for (size_t i = 0; i < sizeof(routes) / sizeof(routes[0]); i++)
        if (strcmp(routes[i].method, method) == 0 && strcasecmp(routes[i].path, call->path) == 0)
            return &routes[i];
    return NULL;
}

static json_t *test_hook(struct call *call)
{
    struct rest *rest = call->rest;
    if (strcmp(call->method, "GET") == 0 && strcmp(call->path, "/__test/executions") == 0)
        return json_pack("{s{sI sI} so sI}", "rest", "bind", (json_int_t)rest->bind_count, "unbind",
                         (json_int_t)rest->unbind_count, "kafka",
                         rest->responder ? responder_executions(rest->responder) : json_null(), "devices",
                         (json_int_t)devices_count(rest->devices));
    if (strcmp(call->method, "POST") != 0 || strcmp(call->path, "/__test/behaviour") != 0 || !rest->responder)
        return cannot(call);
    json_t *wanted = json_loadb(call->text ? call->text : "", call->len, 0, NULL);
    char *problem = responder_behave(rest->responder, wanted ? wanted : call->query);
    json_decref(wanted);
    if (!problem && !wanted)
        problem = or_die(strdup("not JSON"));
    json_t *answer = problem ? message(call, 400, json_string(problem)) : json_object();
    free(problem);
    return answer;
}

static json_t *answer(struct call *call)
{
    json_t *refusal;
    call->status = 200;
    if (call->rest->config.test_hooks && strncmp(call->path, "/__test/", 8) == 0)
        return test_hook(call);
    if ((refusal = parse_body(call)) || (refusal = check_escapes(call)))
        return refusal;
    if (strncasecmp(call->path, "/api", 4) != 0 || (call->path[4] != '/' && call->path[4] != '\0'))
        return cannot(call);
    if (!is_open(call->path) &&
        !auth_user_from(&call->rest->config.key, header(call, "Authorization"), &call->user))
        return nest_error(call, 401, json_string("Ошибка аутентификации"));
    const struct route *route = find_route(call);
    if (!route)
        return cannot(call);
    if (route->is_admin && !call->user.is_admin)
        return nest_error(call, 403, json_string("Требуется роль: admin"));
    json_t *query_problems = route->query ? check(call->query, route->query) : NULL;
    json_t *body_problems = route->body ? check(call->body, route->body) : NULL;
    if (!query_problems && !body_problems)
        return route->handle(call);
    call->status = 400;
    return json_pack("{sn sn so? so?}", "paramsResult", "headersResult", "queryResult", query_problems,
                     "bodyResult", body_problems);
}

/* ---- libmicrohttpd ---- */

/* Express' weak tag: W/"<length, hex>-<27 characters of the SHA-1 in base64>". */
static void add_etag(struct MHD_Response *response, const char *text)
{
    unsigned char digest[EVP_MAX_MD_SIZE], base64[64];
    unsigned digest_len = 0;
    char tag[64];
    EVP_Digest(text, strlen(text), digest, &digest_len, EVP_sha1(), NULL);
    EVP_EncodeBlock(base64, digest, (int)digest_len);
    snprintf(tag, sizeof(tag), "W/\"%zx-%.27s\"", strlen(text), (const char *)base64);
    MHD_add_response_header(response, "ETag", tag);
}

static enum MHD_Result send_answer(struct call *call, json_t *body)
{
    static char nothing[] = "";
    char *text = body ? or_die(json_dumps(body, JSON_COMPACT | JSON_REAL_PRECISION(15))) : nothing;
    struct MHD_Response *response = or_die(MHD_create_response_from_buffer(
        strlen(text), text, body ? MHD_RESPMEM_MUST_FREE : MHD_RESPMEM_PERSISTENT));
    MHD_add_response_header(response, "X-Powered-By", "Express");
    MHD_add_response_header(response, "Access-Control-Allow-Origin", "*");
    if (body) {
        MHD_add_response_header(response, "Content-Type", "application/json; charset=utf-8");
        add_etag(response, text);
    } else {
        MHD_add_response_header(response, "Access-Control-Allow-Methods", "GET,HEAD,PUT,PATCH,POST,DELETE");
        MHD_add_response_header(response, "Access-Control-Allow-Headers", "Content-Type, Authorization");
    }
    json_decref(body);
    enum MHD_Result result = MHD_queue_response(call->connection, call->status, response);
    MHD_destroy_response(response);
    return result;
}

/* Called with the raw target, before anything else of the request. */
static void *on_target(void *arg, const char *target, struct MHD_Connection *connection)
{
    struct call *call = or_die(calloc(1, sizeof(*call)));
    call->rest = arg;
    call->connection = connection;
    call->target = or_die(strdup(target));
    call->path = or_die(strndup(target, strcspn(target, "?")));
    size_t len = strlen(call->path);
    if (len > 1 && call->path[len - 1] == '/')
        call->path[len - 1] = '\0';
    const char *query = strchr(target, '?');
    call->query = parse_form(query ? query + 1 : "");
    return call;
}

static void on_completed(void *arg, struct MHD_Connection *connection, void **call_ptr,
                         enum MHD_RequestTerminationCode code)
{
    (void)arg;
    (void)connection;
    (void)code;
    struct call *call = *call_ptr;
    if (!call)
        return;
    *call_ptr = NULL;
    json_decref(call->body);
    json_decref(call->query);
    free(call->user.sub);
    free(call->target);
    free(call->path);
    free(call->text);
    free(call);
}

static enum MHD_Result on_request(void *arg, struct MHD_Connection *connection, const char *url,
                                  const char *method, const char *version, const char *data, size_t *data_len,
                                  void **call_ptr)
{
    (void)arg;
    (void)connection;
    (void)url;
    (void)version;
    struct call *call = *call_ptr;
    if (!call->is_started) {
        call->is_started = true;
        call->method = method;
        return MHD_YES;
    }
    if (*data_len == 0) {
        if (strcmp(method, "OPTIONS") != 0)
            return send_answer(call, answer(call));
        call->status = 204;
        return send_answer(call, NULL);
    }
    call->is_too_large = call->is_too_large || call->len + *data_len > BODY_MAX;
    if (!call->is_too_large) { /* what is too large is read, and forgotten */
        call->text = or_die(realloc(call->text, call->len + *data_len + 1));
        memcpy(call->text + call->len, data, *data_len);
        call->len += *data_len;
        call->text[call->len] = '\0';
    }
    *data_len = 0;
    return MHD_YES;
}

struct rest *rest_new(const struct rest_config *config, struct devices *devices, struct responder *responder)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(config->port)};
    struct rest *rest = or_die(calloc(1, sizeof(*rest)));
    rest->devices = devices;
    rest->responder = responder;
    rest->config = *config;
    if (inet_pton(AF_INET, config->host, &address.sin_addr) == 1)
        rest->http =
            MHD_start_daemon(MHD_USE_POLL_INTERNAL_THREAD | MHD_USE_ERROR_LOG, config->port, NULL, NULL,
                             on_request, rest, MHD_OPTION_SOCK_ADDR, &address, MHD_OPTION_URI_LOG_CALLBACK,
                             on_target, rest, MHD_OPTION_NOTIFY_COMPLETED, on_completed, rest,
                             MHD_OPTION_CONNECTION_LIMIT, 10000u, MHD_OPTION_END);
    if (!rest->http) {
        fprintf(stderr, "device-service: cannot listen on %s:%u\n", config->host, config->port);
        rest_freep(&rest);
    }
    return rest;
}

uint16_t rest_port(const struct rest *rest)
{
    return MHD_get_daemon_info(rest->http, MHD_DAEMON_INFO_BIND_PORT)->port;
}

void rest_freep(struct rest **rest)
{
    if (*rest && (*rest)->http)
        MHD_stop_daemon((*rest)->http);
    free(*rest);
    *rest = NULL;
}
