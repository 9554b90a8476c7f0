/* SPDX-License-Identifier: Apache-2.0 */
/* A request target against a small table, compared with a slow matcher: it tries every route in turn and
 * decodes with code point arithmetic. The first byte chooses the method. */
#include <stdio.h>

#include "syncgate/route.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct {
    const char *operation, *method, *path;
    bool exact;
} routes[] = {
    {"listThings", "GET", "/api/things", false},
    {"createThing", "POST", "/api/things", false},
    {"getMyThings", "GET", "/api/things/my", false},
    {"getThing", "GET", "/api/things/{thingId}", false},
    {"deleteThing", "DELETE", "/api/things/{thingId}", false},
    {"getPart", "GET", "/api/things/{thingId}/parts/{partId}", false},
    {"getAllParts", "GET", "/api/things/my/parts/all", false},
    {"exactOne", "GET", "/Exact/{id}", true},
    {"exactTwo", "GET", "/exact/{id}", true},
    {"exactSlash", "GET", "/exact/slash/", true},
    {"root", "GET", "/", false},
    {"eightParams", "GET", "/{a}/{b}/{c}/{d}/{e}/{f}/{g}/{h}", false},
};
static const char *const methods[] = {"GET", "POST", "DELETE", "HEAD"};
static struct route_table *table;

static void load_routes(void)
{
    const char *root = getenv("SYNCGATE_SOURCE_ROOT");
    static char texts[SG_ARRAY_LEN(routes)][512];
    struct route_source sources[SG_ARRAY_LEN(routes)];
    char dir[512], openapi[600];
    struct err err = {0};
    snprintf(dir, sizeof(dir), "%s/tests/routes", root ? root : ".");
    snprintf(openapi, sizeof(openapi), "%s/openapi.json", dir);
    for (size_t i = 0; i < SG_ARRAY_LEN(routes); i++) {
        snprintf(texts[i], sizeof(texts[i]),
                 "{\"operationId\":\"%s\",\"method\":\"%s\",\"path\":\"%s\",\"pathMode\":\"%s\",\"command\":{"
                 "\"topic\":\"t\","
                 "\"eventType\":\"e\",\"payload\":{}},\"replies\":[{\"topic\":\"o\",\"status\":200}]}",
                 routes[i].operation, routes[i].method, routes[i].path,
                 routes[i].exact ? "exact" : "express");
        sources[i] = (struct route_source){routes[i].operation, span_of(texts[i])};
    }
    table = route_table_parse(sources, SG_ARRAY_LEN(routes), dir, openapi, &err);
    if (!table)
        fprintf(stderr, "%s\n", err.text);
    SG_ASSERT(table);
}

/* ---- the slow way ---- */

struct pieces {
    struct span items[2048];
    size_t count;
};

static void cut(struct span path, struct pieces *pieces)
{
    size_t start = 1;
    pieces->count = 0;
    for (size_t i = 1; i <= path.len; i++)
        if (i == path.len || path.ptr[i] == '/') {
            pieces->items[pieces->count++] = (struct span){path.ptr + start, i - start};
            start = i + 1;
        }
    if (path.len == 1)
        pieces->count = 0;
}

static bool is_param(struct span piece)
{
    return piece.len > 0 && piece.ptr[0] == '{';
}

static bool fits(size_t route, const char *method, const struct pieces *path)
{
    struct pieces tmpl;
    cut(span_of(routes[route].path), &tmpl);
    size_t count = path->count;
    if (!routes[route].exact && count > 1 && path->items[count - 1].len == 0)
        count--;
    if (strcmp(method, routes[route].method) != 0 || tmpl.count != count)
        return false;
    for (size_t i = 0; i < count; i++) {
        struct span piece = path->items[i];
        if (is_param(tmpl.items[i]) ? piece.len == 0
                                    : !(routes[route].exact ? span_eq(piece, tmpl.items[i])
                                                            : span_eq_nocase(piece, tmpl.items[i])))
            return false;
    }
    return true;
}

/* Exact before express, then the one with a literal where they first differ in kind. */
static bool is_better(size_t a, size_t b)
{
    struct pieces of_a, of_b;
    if (routes[a].exact != routes[b].exact)
        return routes[a].exact;
    cut(span_of(routes[a].path), &of_a);
    cut(span_of(routes[b].path), &of_b);
    for (size_t i = 0; i < of_a.count && i < of_b.count; i++)
        if (is_param(of_a.items[i]) != is_param(of_b.items[i]))
            return is_param(of_b.items[i]);
    return false;
}

static int hex(char c)
{
    static const char digits[] = "00112233445566778899aAbBcCdDeEfF";
    const char *at = c ? strchr(digits, c) : NULL;
    return at ? (int)((at - digits) / 2) : -1;
}

static int escape_at(struct span raw, size_t pos)
{
    if (pos + 2 >= raw.len || raw.ptr[pos] != '%' || hex(raw.ptr[pos + 1]) < 0 || hex(raw.ptr[pos + 2]) < 0)
        return -1;
    return hex(raw.ptr[pos + 1]) * 16 + hex(raw.ptr[pos + 2]);
}

static bool decode(struct span raw, char *out, size_t *ret_len)
{
    static const uint32_t smallest[] = {0, 0, 0x80, 0x800, 0x10000};
    *ret_len = 0;
    for (size_t pos = 0; pos < raw.len;) {
        if (raw.ptr[pos] != '%') {
            out[(*ret_len)++] = raw.ptr[pos++];
            continue;
        }
        int lead = escape_at(raw, pos);
        if (lead < 0)
            return false;
        int bytes = lead < 0x80 ? 1 : lead >> 5 == 6 ? 2 : lead >> 4 == 14 ? 3 : lead >> 3 == 30 ? 4 : 0;
        if (bytes == 0)
            return false;
        uint32_t code = bytes == 1 ? (uint32_t)lead : (uint32_t)lead & (0xffu >> (bytes + 1));
        for (int i = 0; i < bytes; i++) {
            int byte = escape_at(raw, pos + (size_t)i * 3);
            if (byte < 0 || (i > 0 && byte >> 6 != 2))
                return false;
            out[(*ret_len)++] = (char)byte;
            if (i > 0)
                code = code << 6 | ((uint32_t)byte & 0x3f);
        }
        if (code < smallest[bytes] || code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff))
            return false;
        pos += (size_t)bytes * 3;
    }
    return true;
}

static void check_params(const struct route_match *match, const struct pieces *path)
{
    struct pieces tmpl;
    size_t used = 0;
    bool bad = false;
    cut(match->route->path, &tmpl);
    for (size_t i = 0; i < tmpl.count; i++) {
        char decoded[4096];
        size_t len;
        if (!is_param(tmpl.items[i]))
            continue;
        SG_ASSERT(used < match->param_count);
        const struct mapping_param *param = &match->params[used++];
        if (decode(path->items[i], decoded, &len)) {
            SG_ASSERT(span_eq(param->value, (struct span){decoded, len}));
        } else if (!bad) {
            bad = true;
            SG_ASSERT(span_eq(match->bad_param, path->items[i]));
        }
        SG_ASSERT(span_eq(param->name, (struct span){tmpl.items[i].ptr + 1, tmpl.items[i].len - 2}));
    }
    SG_ASSERT(used == match->param_count && bad == (match->bad_param.ptr != NULL));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct pieces path;
    struct route_match match;
    if (!table)
        load_routes();
    if (size < 1 || size > 2000)
        return 0;
    const char *method = methods[data[0] % SG_ARRAY_LEN(methods)];
    struct span target = {(const char *)data + 1, size - 1};
    SG_ASSERT(route_table_match(table, span_of(method), target, &match) == ERR_OK);
    if (target.len > 0 && target.ptr[0] == '/') {
        const char *query = memchr(target.ptr, '?', target.len);
        size_t best = SG_ARRAY_LEN(routes);
        cut((struct span){target.ptr, query ? (size_t)(query - target.ptr) : target.len}, &path);
        for (size_t i = 0; i < SG_ARRAY_LEN(routes); i++)
            if (fits(i, method, &path) && (best == SG_ARRAY_LEN(routes) || is_better(i, best)))
                best = i;
        SG_ASSERT((match.route ? match.route->index : SG_ARRAY_LEN(routes)) == best);
        if (match.route)
            check_params(&match, &path);
    }
    route_match_fini(&match);
    return 0;
}
