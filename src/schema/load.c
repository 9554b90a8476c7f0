/* SPDX-License-Identifier: Apache-2.0 */
/* The document behind the schemas: reading, JSON pointers, memory. */
#include "program.h"

#include <string.h>

#define DOCUMENT_MAX   (16u << 20)
#define DOCUMENT_NODES 4000000u

struct arena_block {
    struct arena_block *next;
    max_align_t data[];
};

void *set_alloc(struct schema_set *set, size_t size)
{
    struct arena_block *block = calloc(1, sizeof(*block) + size);
    if (!block)
        return NULL;
    block->next = set->arena;
    set->arena = block;
    return block->data;
}

void schema_set_freep(struct schema_set **set_ptr)
{
    if (!set_ptr || !*set_ptr)
        return;
    struct schema_set *set = *set_ptr;
    *set_ptr = NULL;
    for (struct pattern *pattern = set->patterns; pattern; pattern = pattern->next) {
        pcre2_code_free(pattern->code);
        pcre2_match_context_free(pattern->limits);
    }
    for (struct arena_block *block = set->arena, *next; block; block = next) {
        next = block->next;
        free(block);
    }
    free(set->by_node);
    json_fini(&set->doc);
    buf_fini(&set->text);
    free(set->name);
    free(set);
}

/* Line and column (in bytes) of an offset, both from 1. */
static void locate(const struct schema_set *set, uint32_t offset, unsigned *ret_line, unsigned *ret_column)
{
    const char *text = set->text.ptr, *line = text;
    *ret_line = 1;
    for (uint32_t i = 0; i < offset; i++) {
        if (text[i] == '\n') {
            (*ret_line)++;
            line = text + i + 1;
        }
    }
    *ret_column = (unsigned)(text + offset - line) + 1;
}

/* Two members of one name are a slip of the author: whichever wins, one was meant in vain. */
static bool refuse_duplicates(const struct schema_set *set, struct err *err)
{
    for (uint32_t i = 0; i < set->doc.count; i++) {
        const struct json_node *object = &set->doc.nodes[i];
        if (object->type != JSON_OBJECT)
            continue;
        for (const struct json_node *name = json_first(&set->doc, object); name;
             name = json_next(&set->doc, name)) {
            if (json_member_is_last(&set->doc, object, name))
                continue;
            unsigned line, column;
            locate(set, name->start, &line, &column);
            struct span text = json_text(&set->doc, name);
            err_set(err, ERR_CONFIG, "%s:%u:%u: member %.*s appears twice", set->name, line, column,
                    (int)text.len, text.ptr);
            return false;
        }
    }
    return true;
}

static bool set_parse(struct schema_set *set, struct err *err)
{
    enum err_code code = json_parse(&set->doc, buf_span(&set->text), DOCUMENT_NODES);
    if (code == ERR_BAD_JSON) {
        unsigned line, column;
        locate(set, set->doc.err_pos, &line, &column);
        err_set(err, ERR_CONFIG, "%s:%u:%u: not JSON: %s", set->name, line, column, set->doc.err_what);
        return false;
    }
    if (code == ERR_OK)
        set->by_node = calloc(set->doc.count, sizeof(void *));
    if (!set->by_node) {
        err_set(err, ERR_NO_MEMORY, "%s: out of memory", set->name);
        return false;
    }
    return refuse_duplicates(set, err);
}

static struct schema_set *set_new(const char *name, struct err *err)
{
    struct schema_set *set = calloc(1, sizeof(*set));
    if (set)
        set->name = strdup(name);
    if (set && set->name)
        return set;
    free(set);
    err_set(err, ERR_NO_MEMORY, "%s: out of memory", name);
    return NULL;
}

struct schema_set *schema_set_parse(struct span text, const char *name, struct err *err)
{
    struct schema_set *set = set_new(name, err);
    if (!set)
        return NULL;
    buf_append_span(&set->text, text);
    if (!buf_ok(&set->text))
        err_set(err, ERR_NO_MEMORY, "%s: out of memory", name);
    else if (set_parse(set, err))
        return set;
    schema_set_freep(&set);
    return NULL;
}

struct schema_set *schema_set_load(const char *path, struct err *err)
{
    struct schema_set *set = set_new(path, err);
    if (!set)
        return NULL;
    int rc = base_read_file(path, DOCUMENT_MAX, &set->text);
    if (rc != 0)
        err_set(err, ERR_CONFIG, "%s: cannot be read: %s", path, strerror(rc));
    else if (set_parse(set, err))
        return set;
    schema_set_freep(&set);
    return NULL;
}

/* Undoes ~0 and ~1 (RFC 6901 section 4). False on any other use of a tilde. */
static bool unescape_token(struct span token, struct buf *out)
{
    buf_clear(out);
    for (size_t i = 0; i < token.len; i++) {
        char c = token.ptr[i];
        if (c == '~') {
            if (++i == token.len || (token.ptr[i] != '0' && token.ptr[i] != '1'))
                return false;
            c = token.ptr[i] == '0' ? '~' : '/';
        }
        buf_append_char(out, c);
    }
    return buf_ok(out);
}

static const struct json_node *step(const struct schema_set *set, const struct json_node *node,
                                    struct span token)
{
    if (node->type == JSON_OBJECT)
        return json_get(&set->doc, node, token);
    uint64_t index;
    if (node->type != JSON_ARRAY || (token.len > 1 && token.ptr[0] == '0') ||
        !base_parse_u64(token, &index) || index >= node->count)
        return NULL;
    node = json_first(&set->doc, node);
    while (node && index-- > 0)
        node = json_next(&set->doc, node);
    return node;
}

const struct json_node *set_resolve(const struct schema_set *set, struct span pointer)
{
    const struct json_node *node = json_root(&set->doc);
    struct buf token = BUF_INIT;
    const char *p = pointer.ptr, *end = p + pointer.len;
    while (node && p < end) {
        if (*p++ != '/') {
            node = NULL;
            break;
        }
        const char *slash = memchr(p, '/', (size_t)(end - p));
        struct span raw = {p, (size_t)((slash ? slash : end) - p)};
        node =
            unescape_token(raw, &token) ? step(set, node, token.len ? buf_span(&token) : SPAN_LIT("")) : NULL;
        p += raw.len;
    }
    buf_fini(&token);
    return node;
}
