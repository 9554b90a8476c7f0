/* SPDX-License-Identifier: Apache-2.0 */
/* Matching: two tries of path segments (node 0: express routes, node 1: exact ones) whose literal edges stand
 * in one hash table keyed by (node, segment), so that a step costs the same however many routes there are. A
 * literal is tried before a parameter, and the search goes back when the literal leads nowhere, also when
 * only the method is missing there.
 *
 * Like the legacy framework, literals are compared with the raw path (never percent-decoded) and parameters
 * are decoded as JavaScript's decodeURIComponent() does: what it throws on is a bad parameter. */
#include "table.h"

enum { ROOT_EXPRESS, ROOT_EXACT, ROOT_COUNT };

size_t path_split(struct span path, struct span *segments, size_t max)
{
    size_t count = 0;
    const char *pos = path.ptr, *end = path.ptr + path.len;
    for (;;) {
        const char *slash = memchr(pos, '/', (size_t)(end - pos));
        if (count == max)
            return 0;
        segments[count++] = (struct span){pos, (size_t)((slash ? slash : end) - pos)};
        if (!slash)
            return count;
        pos = slash + 1;
    }
}

/* ---- edges ---- */

static uint32_t edge_hash(uint32_t parent, struct span segment)
{
    uint32_t hash = (2166136261u ^ parent) * 16777619u;
    for (size_t i = 0; i < segment.len; i++) {
        unsigned char c = (unsigned char)segment.ptr[i];
        hash = (hash ^ (c >= 'A' && c <= 'Z' ? c | 0x20u : c)) * 16777619u;
    }
    return hash ^ hash >> 15;
}

/* The edge, or the free place where it belongs. The table is never full. */
static struct match_edge *find_edge(const struct matcher *matcher, uint32_t parent, struct span segment,
                                    bool exact)
{
    for (uint32_t i = edge_hash(parent, segment);; i++) {
        struct match_edge *edge = &matcher->edges[i & matcher->edge_mask];
        if (edge->child == 0 || (edge->parent == parent && (exact ? span_eq(edge->segment, segment)
                                                                  : span_eq_nocase(edge->segment, segment))))
            return edge;
    }
}

/* ---- building ---- */

static void insert_route(struct matcher *matcher, const struct route *route)
{
    struct span segments[ROUTE_SEGMENTS_MAX];
    struct span path = {route->path.ptr + 1, route->path.len - 1};
    size_t count = path.len ? path_split(path, segments, ROUTE_SEGMENTS_MAX) : 0;
    struct route_params *params = &matcher->params[route->index];
    uint32_t node = route->case_sensitive ? ROOT_EXACT : ROOT_EXPRESS;
    for (size_t i = 0; i < count; i++) {
        uint32_t *child = &matcher->nodes[node].param_child;
        if (segment_is_param(segments[i])) {
            params->name[params->count] = segment_param(segments[i]);
            params->segment[params->count++] = (uint8_t)i;
        } else {
            struct match_edge *edge = find_edge(matcher, node, segments[i], route->case_sensitive);
            edge->parent = node;
            edge->segment = segments[i];
            child = &edge->child;
        }
        if (*child == 0)
            *child = matcher->node_count++;
        node = *child;
    }
    matcher->next_route[route->index] = matcher->nodes[node].route;
    matcher->nodes[node].route = route->index + 1;
}

bool matcher_build(struct matcher *matcher, const struct route_table *table)
{
    size_t segments = 0;
    for (size_t i = 0; i < table->count; i++)
        for (size_t j = 0; j < table->routes[i].path.len; j++)
            segments += table->routes[i].path.ptr[j] == '/';
    size_t edges = 8;
    while (edges < segments * 2)
        edges *= 2;
    matcher->edge_mask = (uint32_t)edges - 1;
    matcher->edges = calloc(edges, sizeof(*matcher->edges));
    matcher->nodes = calloc(ROOT_COUNT + segments, sizeof(*matcher->nodes));
    matcher->next_route = calloc(table->count + 1, sizeof(*matcher->next_route));
    matcher->params = calloc(table->count + 1, sizeof(*matcher->params));
    if (!matcher->edges || !matcher->nodes || !matcher->next_route || !matcher->params)
        return false;
    matcher->node_count = ROOT_COUNT;
    for (size_t i = 0; i < table->count; i++)
        insert_route(matcher, &table->routes[i]);
    return true;
}

void matcher_fini(struct matcher *matcher)
{
    free(matcher->edges);
    free(matcher->nodes);
    free(matcher->next_route);
    free(matcher->params);
    *matcher = (struct matcher){0};
}

/* ---- searching ---- */

struct search {
    const struct route_table_impl *table;
    struct span method;
    struct span segments[ROUTE_SEGMENTS_MAX + 1];
    size_t count;
    bool exact;
};

static const struct route *find_route(const struct search *search, uint32_t node, size_t depth)
{
    const struct matcher *matcher = &search->table->matcher;
    if (depth == search->count) {
        for (uint32_t i = matcher->nodes[node].route; i; i = matcher->next_route[i - 1])
            if (span_eq(search->table->pub.routes[i - 1].method, search->method))
                return &search->table->pub.routes[i - 1];
        return NULL;
    }
    const struct route *route = NULL;
    uint32_t child = find_edge(matcher, node, search->segments[depth], search->exact)->child;
    if (child)
        route = find_route(search, child, depth + 1);
    child = matcher->nodes[node].param_child;
    if (!route && child && search->segments[depth].len > 0)
        route = find_route(search, child, depth + 1);
    return route;
}

/* The path of a target, which may be in absolute form (RFC 9112 3.2.2); ptr NULL if it has none ("*"). */
static struct span target_path(struct span target)
{
    const char *pos = target.ptr, *end = target.ptr + target.len;
    if (target.len == 0)
        return (struct span){0};
    if (*pos != '/') {
        const char *colon = memchr(pos, ':', target.len);
        if (!colon || end - colon < 3 || memcmp(colon, "://", 3) != 0 ||
            memchr(pos, '?', (size_t)(colon - pos)))
            return (struct span){0};
        for (pos = colon + 3; pos < end && *pos != '/' && *pos != '?'; pos++)
            ;
        if (pos == end || *pos == '?')
            return SPAN_LIT("/");
    }
    const char *query = memchr(pos, '?', (size_t)(end - pos));
    return (struct span){pos, (size_t)((query ? query : end) - pos)};
}

/* ---- parameters ---- */

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c = (char)(c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The byte of an escape "%XY" at *pos, which moves behind it; -1 if there is none. */
static int next_escape(struct span text, size_t *pos)
{
    if (text.len - *pos < 3 || text.ptr[*pos] != '%')
        return -1;
    int high = hex_value(text.ptr[*pos + 1]), low = hex_value(text.ptr[*pos + 2]);
    if (high < 0 || low < 0)
        return -1;
    *pos += 3;
    return high << 4 | low;
}

/* One escaped character: as many escapes as its UTF-8 form has bytes. False if it is not well-formed. */
static bool decode_char(struct span text, size_t *pos, struct buf *out)
{
    int lead = next_escape(text, pos);
    int more = lead < 0x80 ? 0 : lead < 0xe0 ? 1 : lead < 0xf0 ? 2 : 3;
    if (lead < 0 || (lead >= 0x80 && lead < 0xc2) || lead > 0xf4)
        return false;
    buf_append_char(out, (char)lead);
    int min = lead == 0xe0   ? 0xa0
              : lead == 0xf0 ? 0x90
                             : 0x80,
        max = lead == 0xed   ? 0x9f
              : lead == 0xf4 ? 0x8f
                             : 0xbf;
    while (more-- > 0) {
        int byte = next_escape(text, pos);
        if (byte < min || byte > max)
            return false;
        buf_append_char(out, (char)byte);
        min = 0x80;
        max = 0xbf;
    }
    return true;
}

static bool decode_param(struct span raw, struct buf *storage, struct span *ret_value)
{
    *ret_value = raw;
    if (raw.len == 0 || !memchr(raw.ptr, '%', raw.len))
        return true;
    size_t start = storage->len;
    for (size_t pos = 0; pos < raw.len;) {
        if (raw.ptr[pos] != '%')
            buf_append_char(storage, raw.ptr[pos++]);
        else if (!decode_char(raw, &pos, storage))
            return false;
    }
    *ret_value = (struct span){storage->ptr + start, storage->len - start};
    return true;
}

static enum err_code fill_params(const struct search *search, struct span path, struct route_match *match)
{
    const struct route_params *params = &search->table->matcher.params[match->route->index];
    /* Decoding never lengthens a text, so that spans into the storage stay. */
    if (params->count > 0 && memchr(path.ptr, '%', path.len) && !buf_reserve(&match->decoded, path.len))
        return ERR_NO_MEMORY;
    for (size_t i = 0; i < params->count; i++) {
        struct mapping_param *param = &match->params[match->param_count++];
        struct span raw = search->segments[params->segment[i]];
        param->name = params->name[i];
        if (!decode_param(raw, &match->decoded, &param->value) && !match->bad_param.ptr)
            match->bad_param = raw;
    }
    return ERR_OK;
}

enum err_code route_table_match(const struct route_table *table, struct span method, struct span target,
                                struct route_match *match)
{
    match->route = NULL;
    match->param_count = 0;
    match->decoded = BUF_INIT;
    match->bad_param = (struct span){0};
    struct search search = {.table = (const struct route_table_impl *)table, .method = method};
    struct span path = target_path(target);
    if (!path.ptr)
        return ERR_OK;
    if (path.len > 1) {
        struct span rest = {path.ptr + 1, path.len - 1};
        search.count = path_split(rest, search.segments, ROUTE_SEGMENTS_MAX + 1);
        if (search.count == 0)
            return ERR_OK;
    }
    search.exact = true;
    match->route = find_route(&search, ROOT_EXACT, 0);
    if (!match->route) {
        search.exact = false;
        if (search.count > 1 && search.segments[search.count - 1].len == 0)
            search.count--; /* one trailing slash */
        match->route = find_route(&search, ROOT_EXPRESS, 0);
    }
    return match->route ? fill_params(&search, path, match) : ERR_OK;
}

void route_match_fini(struct route_match *match)
{
    buf_fini(&match->decoded);
}
