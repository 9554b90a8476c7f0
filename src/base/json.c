/* SPDX-License-Identifier: Apache-2.0 */
/* Invariants of the node array, which every reader below relies on:
 *  - nodes are in text order; a container's contents follow it at once, so the first element of a non-empty
 * container is the node behind it, and a member's value is the node behind its name;
 *  - the text of a node was checked while it was parsed, so readers never look past node->end and never fail
 * on it;
 *  - a well-formed text nests at most JSON_DEPTH_MAX containers, so readers may recurse over values. */
#include "syncgate/json.h"

#include <stdio.h>

/* ---- parsing ---- */

struct parser {
    struct json_doc *doc;
    const char *pos;
    const char *end;
    uint32_t max_nodes;
    enum err_code code;
    unsigned depth;
    struct {
        uint32_t container; /* node index */
        uint32_t last;      /* node index of the latest element or name; 0 = none yet */
    } open[JSON_DEPTH_MAX];
};

static bool parse_fail(struct parser *ps, const char *at, const char *what)
{
    ps->code = ERR_BAD_JSON;
    ps->doc->err_pos = (uint32_t)(at - ps->doc->text);
    ps->doc->err_what = at == ps->end ? "unexpected end" : what;
    return false;
}

static bool nodes_grow(struct parser *ps)
{
    struct json_doc *doc = ps->doc;
    if (doc->count >= ps->max_nodes) {
        ps->code = ERR_BAD_JSON;
        doc->err_pos = (uint32_t)(ps->pos - doc->text);
        doc->err_what = "too many nodes";
        return false;
    }
    uint64_t cap = doc->cap ? (uint64_t)doc->cap * 2 : 64;
    if (cap > ps->max_nodes)
        cap = ps->max_nodes;
    struct json_node *nodes = reallocarray(doc->nodes, (size_t)cap, sizeof(*nodes));
    if (!nodes) {
        ps->code = ERR_NO_MEMORY;
        return false;
    }
    doc->nodes = nodes;
    doc->cap = (uint32_t)cap;
    return true;
}

/* Adds a node that starts at pos; the caller sets its end. */
static inline struct json_node *node_add(struct parser *ps, enum json_type type)
{
    struct json_doc *doc = ps->doc;
    if ((doc->count == doc->cap || doc->count >= ps->max_nodes) && !nodes_grow(ps))
        return NULL;
    struct json_node *node = &doc->nodes[doc->count++];
    *node = (struct json_node){.start = (uint32_t)(ps->pos - doc->text), .type = (uint8_t)type};
    return node;
}

/* Counts the next node to be added as an element (or a name) of the innermost container. */
static inline void link_next(struct parser *ps)
{
    struct json_doc *doc = ps->doc;
    uint32_t *last = &ps->open[ps->depth - 1].last;
    doc->nodes[ps->open[ps->depth - 1].container].count++;
    if (*last)
        doc->nodes[*last].next = doc->count;
    *last = doc->count;
}

static inline void skip_blanks(struct parser *ps)
{
    const char *p = ps->pos;
    while (p < ps->end && (*p == ' ' || *p == '\n' || *p == '\r' || *p == '\t'))
        p++;
    ps->pos = p;
}

/* Length of the well-formed UTF-8 sequence at p, whose first byte is >= 0x80, or 0 (Unicode table 3-7). */
static size_t utf8_sequence(const unsigned char *p, size_t left)
{
    size_t len = p[0] < 0xc2 ? 0 : p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : p[0] < 0xf5 ? 4 : 0;
    if (len == 0 || left < len)
        return 0;
    for (size_t i = 1; i < len; i++) {
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    }
    if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f) || (p[0] == 0xf0 && p[1] < 0x90) ||
        (p[0] == 0xf4 && p[1] > 0x8f))
        return 0;
    return len;
}

/* True if none of the eight bytes needs a look: no quote, backslash, control or non-ASCII byte. A borrow may
 * only turn "plain" into "look", never the other way round. */
static inline bool eight_plain(const char *p)
{
    const uint64_t ones = UINT64_C(0x0101010101010101), tops = UINT64_C(0x8080808080808080);
    uint64_t x;
    memcpy(&x, p, sizeof(x));
    uint64_t quote = x ^ (ones * '"'), slash = x ^ (ones * '\\');
    return ((x | (x - ones * 0x20) | (quote - ones) | (slash - ones)) & tops) == 0;
}

static inline bool is_plain(unsigned char c)
{
    return c >= 0x20 && c < 0x80 && c != '"' && c != '\\';
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f')
        return (c | 0x20) - 'a' + 10;
    return -1;
}

/* p is at a backslash. Returns the byte behind the escape, or NULL after parse_fail(). */
static const char *skip_escape(struct parser *ps, const char *p)
{
    if (++p == ps->end || !strchr("\"\\/bfnrtu", *p) || *p == '\0') {
        parse_fail(ps, p, "bad escape");
        return NULL;
    }
    if (*p++ != 'u')
        return p;
    for (int i = 0; i < 4; i++, p++) {
        if (p == ps->end || hex_value(*p) < 0) {
            parse_fail(ps, p, "bad escape");
            return NULL;
        }
    }
    return p;
}

static bool parse_string(struct parser *ps)
{
    struct json_node *node = node_add(ps, JSON_STRING);
    if (!node)
        return false;
    const char *p = ps->pos + 1, *end = ps->end;
    for (;;) {
        while (end - p >= 8 && eight_plain(p))
            p += 8;
        while (p < end && is_plain((unsigned char)*p))
            p++;
        if (p == end)
            return parse_fail(ps, end, NULL);
        if (*p == '"')
            break;
        if ((unsigned char)*p < 0x20)
            return parse_fail(ps, p, "control character in a string");
        if (*p == '\\') {
            node->escaped = true;
            p = skip_escape(ps, p);
            if (!p)
                return false;
            continue;
        }
        do {
            size_t n = utf8_sequence((const unsigned char *)p, (size_t)(end - p));
            if (n == 0)
                return parse_fail(ps, p, "not UTF-8");
            p += n;
        } while (p < end && (unsigned char)*p >= 0x80);
    }
    ps->pos = p + 1;
    node->end = (uint32_t)(ps->pos - ps->doc->text);
    return true;
}

static inline bool is_digit(char c)
{
    return (unsigned char)(c - '0') <= 9;
}

static bool parse_number(struct parser *ps)
{
    struct json_node *node = node_add(ps, JSON_NUMBER);
    if (!node)
        return false;
    const char *p = ps->pos, *end = ps->end;
    if (*p == '-')
        p++;
    if (p == end || !is_digit(*p))
        return parse_fail(ps, p, "bad number");
    if (*p++ != '0') {
        while (p < end && is_digit(*p))
            p++;
    }
    if (p < end && *p == '.') {
        if (++p == end || !is_digit(*p))
            return parse_fail(ps, p, "bad number");
        while (p < end && is_digit(*p))
            p++;
    }
    if (p < end && (*p | 0x20) == 'e') {
        p++;
        if (p < end && (*p == '+' || *p == '-'))
            p++;
        if (p == end || !is_digit(*p))
            return parse_fail(ps, p, "bad number");
        while (p < end && is_digit(*p))
            p++;
    }
    ps->pos = p;
    node->end = (uint32_t)(p - ps->doc->text);
    return true;
}

static bool parse_literal(struct parser *ps, enum json_type type, const char *word)
{
    struct json_node *node = node_add(ps, type);
    if (!node)
        return false;
    const char *p = ps->pos;
    for (; *word; word++, p++) {
        if (p == ps->end || *p != *word)
            return parse_fail(ps, p, "unexpected token");
    }
    ps->pos = p;
    node->end = (uint32_t)(p - ps->doc->text);
    return true;
}

/* Reads a member name and its colon; the value follows. */
static bool parse_name(struct parser *ps)
{
    skip_blanks(ps);
    if (ps->pos == ps->end || *ps->pos != '"')
        return parse_fail(ps, ps->pos, "expected a member name");
    link_next(ps);
    if (!parse_string(ps))
        return false;
    skip_blanks(ps);
    if (ps->pos == ps->end || *ps->pos != ':')
        return parse_fail(ps, ps->pos, "expected a colon");
    ps->pos++;
    return true;
}

static bool parse_open(struct parser *ps, enum json_type type)
{
    if (ps->depth == JSON_DEPTH_MAX)
        return parse_fail(ps, ps->pos, "too deep");
    if (!node_add(ps, type))
        return false;
    ps->open[ps->depth].container = ps->doc->count - 1;
    ps->open[ps->depth].last = 0;
    ps->depth++;
    ps->pos++;
    return true;
}

static bool parse_scalar(struct parser *ps)
{
    switch (*ps->pos) {
    case '"':
        return parse_string(ps);
    case 't':
        return parse_literal(ps, JSON_TRUE, "true");
    case 'f':
        return parse_literal(ps, JSON_FALSE, "false");
    case 'n':
        return parse_literal(ps, JSON_NULL, "null");
    default:
        if (*ps->pos == '-' || is_digit(*ps->pos))
            return parse_number(ps);
        return parse_fail(ps, ps->pos, "unexpected token");
    }
}

/* Behind a value (or an opening bracket, if `fresh`): closes containers and reads on to the next value.
 * Sets *ret_done when the outermost value has ended. */
static bool parse_to_next(struct parser *ps, bool fresh, bool *ret_done)
{
    for (; ps->depth > 0; fresh = false) {
        struct json_node *container = &ps->doc->nodes[ps->open[ps->depth - 1].container];
        bool object = container->type == JSON_OBJECT;
        skip_blanks(ps);
        if (ps->pos < ps->end && *ps->pos == (object ? '}' : ']')) {
            container->end = (uint32_t)(++ps->pos - ps->doc->text);
            ps->depth--;
            continue;
        }
        if (!fresh) {
            if (ps->pos == ps->end || *ps->pos != ',')
                return parse_fail(ps, ps->pos, object ? "expected , or }" : "expected , or ]");
            ps->pos++;
        }
        if (object)
            return parse_name(ps);
        link_next(ps);
        return true;
    }
    *ret_done = true;
    return true;
}

static bool parse_document(struct parser *ps)
{
    for (bool done = false; !done;) {
        skip_blanks(ps);
        if (ps->pos == ps->end)
            return parse_fail(ps, ps->pos, NULL);
        bool fresh = *ps->pos == '{' || *ps->pos == '[';
        if (fresh ? !parse_open(ps, *ps->pos == '{' ? JSON_OBJECT : JSON_ARRAY) : !parse_scalar(ps))
            return false;
        if (!parse_to_next(ps, fresh, &done))
            return false;
    }
    skip_blanks(ps);
    return ps->pos == ps->end || parse_fail(ps, ps->pos, "text behind the value");
}

enum err_code json_parse(struct json_doc *doc, struct span text, uint32_t max_nodes)
{
    doc->text = text.len ? text.ptr : "";
    doc->len = text.len;
    doc->count = 0;
    doc->err_pos = 0;
    doc->err_what = NULL;
    if (text.len > UINT32_MAX) {
        doc->err_what = "too long";
        return ERR_BAD_JSON;
    }
    struct parser ps;
    ps.doc = doc;
    ps.pos = doc->text;
    ps.end = doc->text + text.len;
    ps.max_nodes = max_nodes;
    ps.code = ERR_OK;
    ps.depth = 0;
    if (text.len >= 3 && memcmp(doc->text, "\xef\xbb\xbf", 3) == 0)
        ps.pos += 3;
    if (parse_document(&ps))
        return ERR_OK;
    doc->count = 0;
    return ps.code;
}

void json_fini(struct json_doc *doc)
{
    if (!doc)
        return;
    free(doc->nodes);
    *doc = JSON_DOC_INIT;
}

/* ---- walking ---- */

const struct json_node *json_first(const struct json_doc *doc, const struct json_node *node)
{
    (void)doc;
    return node && (node->type == JSON_ARRAY || node->type == JSON_OBJECT) && node->count ? node + 1 : NULL;
}

const struct json_node *json_next(const struct json_doc *doc, const struct json_node *node)
{
    return node->next ? &doc->nodes[node->next] : NULL;
}

const struct json_node *json_get(const struct json_doc *doc, const struct json_node *node, struct span key)
{
    const struct json_node *found = NULL;
    if (!node || node->type != JSON_OBJECT)
        return NULL;
    for (const struct json_node *name = json_first(doc, node); name; name = json_next(doc, name)) {
        if (json_string_eq(doc, name, key))
            found = json_member_value(name);
    }
    return found;
}

/* ---- strings ---- */

/* The contents of a string, character by character. */
struct chars {
    const char *pos;
    const char *end; /* the closing quote */
};
#define CHARS_END UINT32_MAX

static struct chars chars_of(const struct json_doc *doc, const struct json_node *node)
{
    return (struct chars){doc->text + node->start + 1, doc->text + node->end - 1};
}

static uint32_t hex4(const char *p)
{
    return (uint32_t)(hex_value(p[0]) << 12 | hex_value(p[1]) << 8 | hex_value(p[2]) << 4 | hex_value(p[3]));
}

static uint32_t chars_next_escape(struct chars *it)
{
    char c = it->pos[1];
    it->pos += 2;
    switch (c) {
    case 'b':
        return '\b';
    case 'f':
        return '\f';
    case 'n':
        return '\n';
    case 'r':
        return '\r';
    case 't':
        return '\t';
    case 'u':
        break;
    default:
        return (unsigned char)c;
    }
    uint32_t unit = hex4(it->pos);
    it->pos += 4;
    if (unit >> 10 == 0xd800 >> 10 && it->end - it->pos >= 6 && it->pos[0] == '\\' && it->pos[1] == 'u') {
        uint32_t low = hex4(it->pos + 2);
        if (low >> 10 == 0xdc00 >> 10) {
            it->pos += 6;
            return 0x10000 + ((unit & 0x3ff) << 10 | (low & 0x3ff));
        }
    }
    return unit;
}

/* The next code point (a lone surrogate as itself), or CHARS_END. */
static uint32_t chars_next(struct chars *it)
{
    if (it->pos >= it->end)
        return CHARS_END;
    const unsigned char *p = (const unsigned char *)it->pos;
    if (p[0] == '\\')
        return chars_next_escape(it);
    if (p[0] < 0x80) {
        it->pos += 1;
        return p[0];
    }
    if (p[0] < 0xe0) {
        it->pos += 2;
        return (p[0] & 0x1fu) << 6 | (p[1] & 0x3fu);
    }
    if (p[0] < 0xf0) {
        it->pos += 3;
        return (p[0] & 0x0fu) << 12 | (p[1] & 0x3fu) << 6 | (p[2] & 0x3fu);
    }
    it->pos += 4;
    return (p[0] & 0x07u) << 18 | (p[1] & 0x3fu) << 12 | (p[2] & 0x3fu) << 6 | (p[3] & 0x3fu);
}

static inline bool is_surrogate(uint32_t cp)
{
    return cp >= 0xd800 && cp <= 0xdfff;
}

static size_t utf8_encode(uint32_t cp, char out[4])
{
    if (cp < 0x80) {
        out[0] = (char)cp;
        return 1;
    }
    size_t len = cp < 0x800 ? 2 : cp < 0x10000 ? 3 : 4;
    for (size_t i = len - 1; i > 0; i--, cp >>= 6)
        out[i] = (char)(0x80 | (cp & 0x3f));
    out[0] = (char)(0xf00 >> len | cp);
    return len;
}

struct span json_string(const struct json_doc *doc, const struct json_node *node, struct buf *scratch)
{
    struct chars it = chars_of(doc, node);
    size_t raw_len = (size_t)(it.end - it.pos);
    if (!node->escaped)
        return (struct span){it.pos, raw_len};
    /* No escape is shorter than what it stands for. */
    if (!buf_reserve(scratch, raw_len))
        return (struct span){NULL, 0};
    size_t start = scratch->len;
    for (uint32_t cp; (cp = chars_next(&it)) != CHARS_END;)
        scratch->len += utf8_encode(is_surrogate(cp) ? 0xfffd : cp, scratch->ptr + scratch->len);
    return (struct span){scratch->ptr + start, scratch->len - start};
}

bool json_string_eq(const struct json_doc *doc, const struct json_node *node, struct span value)
{
    if (!node || node->type != JSON_STRING)
        return false;
    size_t raw_len = node->end - node->start - 2;
    if (!node->escaped)
        return raw_len == value.len && memcmp(doc->text + node->start + 1, value.ptr, raw_len) == 0;
    if (value.len > raw_len)
        return false;
    struct chars it = chars_of(doc, node);
    size_t at = 0;
    for (uint32_t cp; (cp = chars_next(&it)) != CHARS_END;) {
        char out[4];
        size_t n = utf8_encode(cp, out);
        /* UTF-8 has no form for a lone surrogate: no value is equal to it. */
        if (is_surrogate(cp) || value.len - at < n || memcmp(value.ptr + at, out, n) != 0)
            return false;
        at += n;
    }
    return at == value.len;
}

/* Equality of the contents of two string nodes, lone surrogates included. */
static bool strings_equal(const struct json_doc *doc_a, const struct json_node *a,
                          const struct json_doc *doc_b, const struct json_node *b)
{
    if (!a->escaped && !b->escaped)
        return a->end - a->start == b->end - b->start &&
               memcmp(doc_a->text + a->start, doc_b->text + b->start, a->end - a->start) == 0;
    struct chars it_a = chars_of(doc_a, a), it_b = chars_of(doc_b, b);
    for (;;) {
        uint32_t cp = chars_next(&it_a);
        if (cp != chars_next(&it_b))
            return false;
        if (cp == CHARS_END)
            return true;
    }
}

bool json_member_is_last(const struct json_doc *doc, const struct json_node *object,
                         const struct json_node *name)
{
    (void)object;
    for (const struct json_node *later = json_next(doc, name); later; later = json_next(doc, later)) {
        if (strings_equal(doc, name, doc, later))
            return false;
    }
    return true;
}

size_t json_string_utf16_len(const struct json_doc *doc, const struct json_node *node)
{
    size_t units = 0;
    struct chars it = chars_of(doc, node);
    if (node->escaped) {
        for (uint32_t cp; (cp = chars_next(&it)) != CHARS_END;)
            units += cp >= 0x10000 ? 2 : 1;
        return units;
    }
    for (const char *p = it.pos; p < it.end; p++)
        units += ((unsigned char)*p & 0xc0) != 0x80 ? 1u + ((unsigned char)*p >= 0xf0) : 0u;
    return units;
}

size_t json_string_codepoints(const struct json_doc *doc, const struct json_node *node)
{
    size_t points = 0;
    struct chars it = chars_of(doc, node);
    if (node->escaped) {
        while (chars_next(&it) != CHARS_END)
            points++;
        return points;
    }
    for (const char *p = it.pos; p < it.end; p++)
        points += ((unsigned char)*p & 0xc0) != 0x80;
    return points;
}

int json_string_compare(const struct json_doc *doc, const struct json_node *a, const struct json_node *b)
{
    struct chars it_a = chars_of(doc, a), it_b = chars_of(doc, b);
    for (;;) {
        uint32_t x = chars_next(&it_a), y = chars_next(&it_b);
        if (x != y)
            return x == CHARS_END || (y != CHARS_END && x < y) ? -1 : 1;
        if (x == CHARS_END)
            return 0;
    }
}

void json_string_append_js(const struct json_doc *doc, const struct json_node *node, struct buf *out)
{
    static const char short_escape[] = "btn\0fr"; /* of 0x08 to 0x0d */
    struct chars it = chars_of(doc, node);
    if (!node->escaped) {
        buf_append(out, it.pos, (size_t)(it.end - it.pos));
        return;
    }
    for (uint32_t cp; (cp = chars_next(&it)) != CHARS_END;) {
        char utf8[4];
        if (cp == '"' || cp == '\\')
            buf_append(out, (char[]){'\\', (char)cp}, 2);
        else if (cp >= 0x08 && cp <= 0x0d && short_escape[cp - 0x08])
            buf_append(out, (char[]){'\\', short_escape[cp - 0x08]}, 2);
        else if (cp < 0x20 || is_surrogate(cp))
            buf_printf(out, "\\u%04x", (unsigned)cp);
        else
            buf_append(out, utf8, utf8_encode(cp, utf8));
    }
}

/* ---- numbers ---- */

/* A number as 0.d1 d2 ... dn times 10^exponent, d1 and dn not 0. Zero has no digits. */
struct decimal {
    const char *first; /* d1; a point may stand between the digits */
    const char *last;  /* dn; NULL for zero */
    int64_t exponent;
    size_t digits;
    bool negative;
};
/* Far beyond any double and any text's length, far below an overflow when lengths are added. */
#define EXPONENT_LIMIT (INT64_C(1) << 40)

static int64_t parse_exponent(const char *p, const char *end)
{
    bool negative = *p == '-';
    int64_t value = 0;
    if (*p == '-' || *p == '+')
        p++;
    for (; p < end; p++)
        value = value < EXPONENT_LIMIT ? value * 10 + (*p - '0') : EXPONENT_LIMIT;
    return negative ? -value : value;
}

static struct decimal decimal_of(const struct json_doc *doc, const struct json_node *node)
{
    const char *p = doc->text + node->start, *end = doc->text + node->end;
    struct decimal dec = {.negative = *p == '-'};
    p += dec.negative;
    int64_t before_point = 0, exponent = 0, place = 0, first_place = 0, last_place = 0;
    bool point = false;
    for (; p < end; p++) {
        if (*p == '.') {
            point = true;
            continue;
        }
        if (!is_digit(*p)) {
            exponent = parse_exponent(p + 1, end);
            break;
        }
        if (*p != '0') {
            if (!dec.first) {
                dec.first = p;
                first_place = place;
            }
            dec.last = p;
            last_place = place;
        }
        place++;
        before_point += !point;
    }
    if (dec.last) {
        dec.digits = (size_t)(last_place - first_place + 1);
        dec.exponent = before_point - first_place + exponent;
    }
    return dec;
}

/* Digits beyond this many can only break a tie: one more non-zero digit stands for all of them. A double's
 * exact midpoints have at most 767 significant digits. */
#define DOUBLE_DIGITS 800

double json_number(const struct json_doc *doc, const struct json_node *node)
{
    const char *p = doc->text + node->start, *end = doc->text + node->end;
    bool negative = *p == '-';
    /* Most numbers are short integers. */
    if (end - p <= 15) {
        int64_t value = 0;
        const char *q = p + negative;
        while (q < end && is_digit(*q))
            value = value * 10 + (*q++ - '0');
        if (q == end)
            return negative ? -(double)value : (double)value;
    }
    struct decimal dec = decimal_of(doc, node);
    if (!dec.last)
        return negative ? -0.0 : 0.0;
    char text[DOUBLE_DIGITS + 32];
    size_t n = 0;
    if (negative)
        text[n++] = '-';
    size_t digits = 0;
    for (p = dec.first; p <= dec.last && digits < DOUBLE_DIGITS; p++) {
        if (*p != '.') {
            text[n++] = *p;
            digits++;
        }
    }
    if (dec.digits > digits) {
        text[n++] = '1';
        digits++;
    }
    /* No decimal point, so that no locale matters. Written as an integer, the value is text * 10^(exponent -
     * digits). */
    snprintf(text + n, sizeof(text) - n, "e%lld", (long long)(dec.exponent - (int64_t)digits));
    return strtod(text, NULL);
}

bool json_number_is_integer(const struct json_doc *doc, const struct json_node *node)
{
    if (!node || node->type != JSON_NUMBER)
        return false;
    struct decimal dec = decimal_of(doc, node);
    return !dec.last || dec.exponent >= (int64_t)dec.digits;
}

static bool numbers_equal(const struct json_doc *doc_a, const struct json_node *a,
                          const struct json_doc *doc_b, const struct json_node *b)
{
    struct decimal x = decimal_of(doc_a, a), y = decimal_of(doc_b, b);
    if (x.digits != y.digits || x.exponent != y.exponent)
        return false;
    if (!x.last)
        return true;
    if (x.negative != y.negative)
        return false;
    const char *p = x.first, *q = y.first;
    for (size_t i = 0; i < x.digits; i++, p++, q++) {
        p += *p == '.';
        q += *q == '.';
        if (*p != *q)
            return false;
    }
    return true;
}

/* ---- equality ---- */

/* The value of the member of `object` called as `name` (a node of another document), the last one. */
static const struct json_node *get_by_node(const struct json_doc *doc, const struct json_node *object,
                                           const struct json_doc *name_doc, const struct json_node *name)
{
    const struct json_node *found = NULL;
    for (const struct json_node *own = json_first(doc, object); own; own = json_next(doc, own)) {
        if (strings_equal(doc, own, name_doc, name))
            found = json_member_value(own);
    }
    return found;
}

static bool objects_equal(const struct json_doc *doc_a, const struct json_node *a,
                          const struct json_doc *doc_b, const struct json_node *b)
{
    for (const struct json_node *name = json_first(doc_b, b); name; name = json_next(doc_b, name)) {
        if (!get_by_node(doc_a, a, doc_b, name))
            return false;
    }
    for (const struct json_node *name = json_first(doc_a, a); name; name = json_next(doc_a, name)) {
        if (!json_member_is_last(doc_a, a, name))
            continue;
        const struct json_node *other = get_by_node(doc_b, b, doc_a, name);
        if (!other || !json_equal(doc_a, json_member_value(name), doc_b, other))
            return false;
    }
    return true;
}

bool json_equal(const struct json_doc *doc_a, const struct json_node *a, const struct json_doc *doc_b,
                const struct json_node *b)
{
    if (a->type != b->type)
        return false;
    switch ((enum json_type)a->type) {
    case JSON_NUMBER:
        return numbers_equal(doc_a, a, doc_b, b);
    case JSON_STRING:
        return strings_equal(doc_a, a, doc_b, b);
    case JSON_OBJECT:
        return objects_equal(doc_a, a, doc_b, b);
    case JSON_ARRAY: {
        if (a->count != b->count)
            return false;
        const struct json_node *x = json_first(doc_a, a), *y = json_first(doc_b, b);
        for (; x; x = json_next(doc_a, x), y = json_next(doc_b, y)) {
            if (!json_equal(doc_a, x, doc_b, y))
                return false;
        }
        return true;
    }
    default:
        return true;
    }
}
