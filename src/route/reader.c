/* SPDX-License-Identifier: Apache-2.0 */
#include "reader.h"

#include <stdarg.h>
#include <stdio.h>

/* ---- arena ---- */

struct arena_block {
    struct arena_block *next;
    _Alignas(max_align_t) char data[];
};

void *arena_alloc(struct arena *arena, size_t size)
{
    struct arena_block *block = calloc(1, sizeof(*block) + size);
    if (!block)
        return NULL;
    block->next = arena->blocks;
    arena->blocks = block;
    return block->data;
}

struct span arena_copy(struct arena *arena, struct span text)
{
    char *copy = arena_alloc(arena, text.len + 1);
    if (copy && text.len)
        memcpy(copy, text.ptr, text.len);
    return (struct span){copy, copy ? text.len : 0};
}

void arena_fini(struct arena *arena)
{
    for (struct arena_block *block = arena->blocks, *next; block; block = next) {
        next = block->next;
        free(block);
    }
    arena->blocks = NULL;
}

/* ---- reader ---- */

bool reader_parse(const char *file, struct span text, struct json_doc *doc, struct err *err)
{
    enum err_code code = json_parse(doc, text, ROUTE_NODES_MAX);
    if (code == ERR_NO_MEMORY) {
        err_set(err, ERR_NO_MEMORY, "%s: out of memory", file);
    } else if (code != ERR_OK) {
        size_t line = 1, column = 1;
        for (size_t i = 0; i < doc->err_pos && i < text.len; i++) {
            column = text.ptr[i] == '\n' ? 1 : column + 1;
            line += text.ptr[i] == '\n';
        }
        err_set(err, ERR_CONFIG, "%s:%zu:%zu: malformed JSON: %s", file, line, column, doc->err_what);
    }
    return code == ERR_OK;
}

bool reader_init(struct reader *r, const char *file, const struct json_doc *doc, struct arena *arena,
                 struct err *err)
{
    *r = (struct reader){.file = file, .doc = doc, .arena = arena, .err = err};
    buf_printf(&r->where, "%s: $", file);
    return buf_ok(&r->where) || reader_no_memory(r);
}

void reader_fini(struct reader *r)
{
    buf_fini(&r->where);
}

bool reader_fail(struct reader *r, const char *fmt, ...)
{
    char what[360];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof(what), fmt, ap);
    va_end(ap);
    err_set(r->err, ERR_CONFIG, "%s: %s", r->where.ptr, what);
    return false;
}

bool reader_no_memory(struct reader *r)
{
    err_set(r->err, ERR_NO_MEMORY, "%s: out of memory", r->file);
    return false;
}

size_t reader_enter(struct reader *r, const char *key)
{
    size_t mark = r->where.len;
    buf_printf(&r->where, ".%s", key);
    return mark;
}

size_t reader_enter_index(struct reader *r, size_t index)
{
    size_t mark = r->where.len;
    buf_printf(&r->where, "[%zu]", index);
    return mark;
}

void reader_leave(struct reader *r, size_t mark)
{
    r->where.len = mark;
    r->where.ptr[mark] = '\0'; /* its storage exists since reader_init() */
}

bool reader_keys(struct reader *r, const struct json_node *object, const char *const *keys)
{
    if (object->type != JSON_OBJECT)
        return reader_fail(r, "expected an object");
    for (const struct json_node *name = json_first(r->doc, object); name; name = json_next(r->doc, name)) {
        struct span text = json_text(r->doc, name);
        size_t i = 0;
        while (keys[i] && !json_string_eq(r->doc, name, span_of(keys[i])))
            i++;
        if (keys[i] && !json_member_is_last(r->doc, object, name))
            return reader_fail(r, "the key \"%s\" stands twice", keys[i]);
        if (keys[i])
            continue;
        char known[200] = "";
        for (i = 0; keys[i]; i++)
            snprintf(known + strlen(known), sizeof(known) - strlen(known), "%s%s", i ? ", " : "", keys[i]);
        return reader_fail(r, "unknown key %.*s; expected one of %s", (int)(text.len < 60 ? text.len : 60),
                           text.ptr, known);
    }
    return true;
}

const struct json_node *reader_get(struct reader *r, const struct json_node *object, const char *key)
{
    return json_get(r->doc, object, span_of(key));
}

bool reader_text(struct reader *r, const struct json_node *node, struct span *ret_text)
{
    if (node->type != JSON_STRING || node->end - node->start == 2)
        return reader_fail(r, "expected a non-empty string");
    struct buf decoded = BUF_INIT;
    struct span text = json_string(r->doc, node, &decoded);
    *ret_text = text.ptr ? arena_copy(r->arena, text) : (struct span){0};
    buf_fini(&decoded);
    if (!ret_text->ptr)
        return reader_no_memory(r);
    return !memchr(ret_text->ptr, '\0', ret_text->len) || reader_fail(r, "expected no \\u0000");
}

bool reader_string(struct reader *r, const struct json_node *object, const char *key, bool required,
                   struct span *ret_text)
{
    const struct json_node *node = reader_get(r, object, key);
    if (!node)
        return !required || reader_fail(r, "the key \"%s\" is missing", key);
    size_t mark = reader_enter(r, key);
    bool ok = reader_text(r, node, ret_text);
    reader_leave(r, mark);
    return ok;
}

bool reader_bool(struct reader *r, const struct json_node *object, const char *key, bool *ret_value)
{
    const struct json_node *node = reader_get(r, object, key);
    if (!node)
        return true;
    *ret_value = node->type == JSON_TRUE;
    if (node->type == JSON_TRUE || node->type == JSON_FALSE)
        return true;
    size_t mark = reader_enter(r, key);
    reader_fail(r, "expected true or false");
    reader_leave(r, mark);
    return false;
}

bool reader_uint(struct reader *r, const struct json_node *object, const char *key, uint32_t min,
                 uint32_t max, uint32_t *ret_value)
{
    const struct json_node *node = reader_get(r, object, key);
    if (!node)
        return true;
    uint64_t value;
    if (node->type == JSON_NUMBER && base_parse_u64(json_text(r->doc, node), &value) && value >= min &&
        value <= max) {
        *ret_value = (uint32_t)value;
        return true;
    }
    size_t mark = reader_enter(r, key);
    reader_fail(r, "expected a whole number from %u to %u", min, max);
    reader_leave(r, mark);
    return false;
}
