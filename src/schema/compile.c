/* SPDX-License-Identifier: Apache-2.0 */
/* From document nodes to schemas. A schema is entered into set->by_node before its keywords are compiled, so
 * that a reference back to it finds it: recursion costs nothing. What a failed schema_compile() had begun is
 * forgotten. */
#include "program.h"

#include <stdarg.h>
#include <stdio.h>

/* Far deeper than any hand-written document; the compiler recurses. */
#define COMPILE_DEPTH_MAX 400

bool compile_fail(struct compiler *c, const char *fmt, ...)
{
    char text[300];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    err_set(c->err, ERR_CONFIG, "%s#%.*s: %s", c->set->name, (int)c->at.len, c->at.len ? c->at.ptr : "",
            text);
    return false;
}

bool compile_no_memory(struct compiler *c)
{
    err_set(c->err, ERR_NO_MEMORY, "%s: out of memory", c->set->name);
    return false;
}

static void pointer_push(struct compiler *c, struct span token)
{
    buf_append_char(&c->at, '/');
    for (size_t i = 0; i < token.len; i++) {
        if (token.ptr[i] == '~')
            buf_append_lit(&c->at, "~0");
        else if (token.ptr[i] == '/')
            buf_append_lit(&c->at, "~1");
        else
            buf_append_char(&c->at, token.ptr[i]);
    }
}

const struct schema *compile_below(struct compiler *c, const struct json_node *name, size_t index,
                                   const struct json_node *node)
{
    size_t mark = c->at.len;
    if (name) {
        struct buf scratch = BUF_INIT;
        struct span token = json_string(&c->set->doc, name, &scratch);
        pointer_push(c, token.ptr ? token : SPAN_LIT("?"));
        buf_fini(&scratch);
    } else {
        buf_printf(&c->at, "/%zu", index);
    }
    const struct schema *schema = compile_node(c, node);
    if (schema)
        c->at.len = mark;
    return schema;
}

const struct schema *compile_node(struct compiler *c, const struct json_node *node)
{
    struct schema_set *set = c->set;
    uint32_t index = (uint32_t)(node - set->doc.nodes);
    if (set->by_node[index])
        return set->by_node[index];
    if (node->type != JSON_OBJECT && node->type != JSON_TRUE && node->type != JSON_FALSE) {
        compile_fail(c, "expected a schema: an object, true or false");
        return NULL;
    }
    if (c->depth == COMPILE_DEPTH_MAX) {
        compile_fail(c, "schemas are nested more than %d deep", COMPILE_DEPTH_MAX);
        return NULL;
    }
    struct schema *schema = set_alloc(set, sizeof(*schema));
    if (!schema) {
        compile_no_memory(c);
        return NULL;
    }
    schema->set = set;
    schema->node = index;
    schema->never = node->type == JSON_FALSE;
    schema->next = set->schemas;
    set->schemas = schema;
    set->by_node[index] = schema;
    c->depth++;
    bool ok = node->type != JSON_OBJECT || keywords_compile(c, schema, node);
    c->depth--;
    return ok ? schema : NULL;
}

/* Undoes %XX of a URI fragment. False on a broken escape. */
static bool percent_decode(struct span text, struct buf *out)
{
    for (size_t i = 0; i < text.len; i++) {
        char c = text.ptr[i];
        if (c == '%') {
            char hex[3] = {0}, *end;
            if (text.len - i < 3)
                return false;
            memcpy(hex, text.ptr + i + 1, 2);
            c = (char)strtoul(hex, &end, 16);
            if (end != hex + 2 || hex[0] == '+' || hex[0] == '-' || hex[0] == ' ')
                return false;
            i += 2;
        }
        buf_append_char(out, c);
    }
    return buf_ok(out);
}

const struct schema *compile_ref(struct compiler *c, struct span reference)
{
    if (reference.len == 0 || reference.ptr[0] != '#' || (reference.len > 1 && reference.ptr[1] != '/')) {
        compile_fail(c, "expected a reference into this document, \"#\" or \"#/...\"");
        return NULL;
    }
    struct buf target = BUF_INIT;
    const struct schema *schema = NULL;
    const struct json_node *node = NULL;
    if (percent_decode((struct span){reference.ptr + 1, reference.len - 1}, &target))
        node = set_resolve(c->set, target.len ? buf_span(&target) : SPAN_LIT(""));
    if (!node) {
        compile_fail(c, "%.*s leads nowhere", (int)reference.len, reference.ptr);
    } else {
        /* Messages about the target name its own place. */
        struct buf here = c->at;
        c->at = target;
        schema = compile_node(c, node);
        if (schema) {
            target = c->at;
            c->at = here;
        } else {
            target = here;
        }
    }
    buf_fini(&target);
    return schema;
}

/* ---- endless recursion ---- */

enum { MARK_NEW, MARK_OPEN, MARK_DONE };

static bool has_cycle(const struct schema *schema);

static bool list_has_cycle(const struct schema_list *list)
{
    for (size_t i = 0; i < list->count; i++) {
        if (has_cycle(list->items[i]))
            return true;
    }
    return false;
}

/* True if evaluating the schema leads back to it without a step into the value: that would never end. */
static bool has_cycle(const struct schema *schema)
{
    if (!schema || schema->mark == MARK_DONE)
        return false;
    if (schema->mark == MARK_OPEN)
        return true;
    /* Schemas are writable until schema_compile() returns. */
    struct schema *own = schema->set->by_node[schema->node];
    own->mark = MARK_OPEN;
    bool found = has_cycle(schema->ref) || has_cycle(schema->negated) || list_has_cycle(&schema->all_of) ||
                 list_has_cycle(&schema->any_of) || list_has_cycle(&schema->one_of);
    own->mark = MARK_DONE;
    return found;
}

const struct schema *schema_compile(struct schema_set *set, const char *pointer, struct err *err)
{
    struct compiler c = {.set = set, .err = err};
    struct schema *before = set->schemas;
    const struct schema *schema = NULL;
    const struct json_node *node = set_resolve(set, span_of(pointer));
    buf_append(&c.at, pointer, strlen(pointer));
    if (!node)
        compile_fail(&c, "there is nothing at this place");
    else
        schema = compile_node(&c, node);
    for (struct schema *s = set->schemas; schema && s != before; s = s->next) {
        if (has_cycle(s)) {
            compile_fail(&c, "a reference leads back to itself without a step into the value");
            schema = NULL;
        }
    }
    if (!schema) {
        for (struct schema *s = set->schemas; s != before; s = s->next)
            set->by_node[s->node] = NULL;
        set->schemas = before;
    }
    buf_fini(&c.at);
    return schema;
}
