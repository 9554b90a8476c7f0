/* SPDX-License-Identifier: Apache-2.0 */
/* A template becomes a flat plan: runs of literal JSON, and expressions between them. Rendering walks the
 * plan and appends spans; it never looks at the shape of the template again.
 *
 * Commas: a member (or element) that may be missing carries its own ",\"key\":" and is left out as a whole.
 * Whether the next one needs its comma is known at compile time unless only droppable members stand before
 * it; then the op is `unsure`, and its comma is left out when the output ends in '{' or '['. Only an opener
 * can put these bytes there: values end in a quote, a digit, a letter or a closing bracket. */
#include "expr.h"

enum op_type {
    OP_COPY,  /* the literal */
    OP_VALUE, /* the literal, then the value as JSON; neither when it is missing */
    OP_PIECE, /* the literal, then the value as the contents of a string */
};

struct op {
    enum op_type type;
    bool unsure;   /* the literal begins with a comma that an opener makes superfluous */
    size_t offset; /* of the literal in template.literals */
    size_t len;
    const struct expr *expr;
};

/* A string cut at its expressions. */
struct part {
    struct span literal; /* owned when expr is NULL */
    const struct expr *expr;
};
struct parts {
    struct part *items;
    size_t count;
};

struct mapping_template {
    struct op *ops;
    size_t op_count;
    struct buf literals;
    struct expr **exprs; /* owned */
    size_t expr_count;
    bool is_text;
    struct parts text; /* is_text: the string, unescaped */
};

struct compiler {
    struct mapping_template *tmpl;
    const struct json_doc *doc;
    unsigned roots;
    struct buf place; /* NUL-terminated */
    size_t run;       /* where the literal that is being collected starts */
    bool run_unsure;
    struct err *err;
};

enum separator { SEPARATOR_FIRST, SEPARATOR_UNSURE, SEPARATOR_NEEDED };

static bool no_memory(struct compiler *c)
{
    err_set(c->err, ERR_NO_MEMORY, "out of memory for a template");
    return false;
}

static bool fail(struct compiler *c, const char *what)
{
    err_set(c->err, ERR_CONFIG, "%s: %s", c->place.ptr, what);
    return false;
}

/* ---- places ---- */

static size_t place_push(struct compiler *c, const struct json_node *key, size_t index)
{
    size_t len = c->place.len;
    if (key)
        buf_printf(&c->place, ".%.*s", (int)(key->end - key->start - 2), c->doc->text + key->start + 1);
    else
        buf_printf(&c->place, "[%zu]", index);
    return len;
}

static void place_pop(struct compiler *c, size_t len)
{
    c->place.len = len;
    if (c->place.ptr)
        c->place.ptr[len] = '\0';
}

/* ---- plan ---- */

static bool add_op(struct compiler *c, struct op op)
{
    struct mapping_template *tmpl = c->tmpl;
    struct op *ops = buf_ok(&tmpl->literals) ? realloc(tmpl->ops, (tmpl->op_count + 1) * sizeof(*ops)) : NULL;
    if (!ops)
        return no_memory(c);
    op.offset = c->run;
    op.len = tmpl->literals.len - c->run;
    op.unsure = c->run_unsure;
    c->run = tmpl->literals.len;
    c->run_unsure = false;
    tmpl->ops = ops;
    ops[tmpl->op_count++] = op;
    return true;
}

static bool flush(struct compiler *c)
{
    return c->tmpl->literals.len == c->run || add_op(c, (struct op){.type = OP_COPY});
}

/* The comma before a member or element, whose literal starts anew where it may turn out to be superfluous. */
static bool separate(struct compiler *c, enum separator separator)
{
    if (separator == SEPARATOR_UNSURE) {
        if (!flush(c))
            return false;
        c->run_unsure = true;
    }
    if (separator != SEPARATOR_FIRST)
        buf_append_char(&c->tmpl->literals, ',');
    return true;
}

/* ---- strings ---- */

static const struct expr *own_expr(struct compiler *c, struct expr *expr)
{
    struct mapping_template *tmpl = c->tmpl;
    struct expr **exprs = realloc(tmpl->exprs, (tmpl->expr_count + 1) * sizeof(struct expr *));
    if (!exprs) {
        expr_freep(&expr);
        no_memory(c);
        return NULL;
    }
    tmpl->exprs = exprs;
    return exprs[tmpl->expr_count++] = expr;
}

static void parts_fini(struct parts *parts)
{
    for (size_t i = 0; i < parts->count; i++)
        if (!parts->items[i].expr)
            free((char *)parts->items[i].literal.ptr);
    free(parts->items);
    *parts = (struct parts){0};
}

static bool add_part(struct compiler *c, struct parts *parts, const struct expr *expr, struct buf *literal)
{
    struct part part = {.expr = expr};
    if (!expr) {
        if (!buf_ok(literal))
            return no_memory(c);
        part.literal = buf_span(literal);
    }
    struct part *items = realloc(parts->items, (parts->count + 1) * sizeof(*items));
    if (!items)
        return no_memory(c);
    if (!expr)
        *literal = BUF_INIT; /* its storage belongs to the part now */
    parts->items = items;
    items[parts->count++] = part;
    return true;
}

static bool split_string(struct compiler *c, struct span text, struct parts *ret_parts)
{
    struct buf literal = BUF_INIT;
    bool ok = true;
    for (size_t i = 0; ok && i < text.len;) {
        const char *p = text.ptr + i;
        size_t left = text.len - i;
        if (left >= 3 && memcmp(p, "$${", 3) == 0) {
            buf_append_lit(&literal, "${");
            i += 3;
        } else if (left >= 2 && memcmp(p, "${", 2) == 0) {
            size_t used;
            struct expr *expr =
                expr_compile((struct span){p + 2, left - 2}, c->roots, c->place.ptr, &used, c->err);
            const struct expr *owned = expr ? own_expr(c, expr) : NULL;
            ok = owned && (literal.len == 0 || add_part(c, ret_parts, NULL, &literal)) &&
                 add_part(c, ret_parts, owned, NULL);
            i += ok ? 2 + used : 0;
        } else {
            buf_append_char(&literal, *p);
            i++;
        }
    }
    if (ok && literal.len > 0)
        ok = add_part(c, ret_parts, NULL, &literal);
    if (ok && !buf_ok(&literal))
        ok = no_memory(c);
    buf_fini(&literal);
    return ok;
}

static void append_unquoted(struct buf *out, struct span text)
{
    struct buf quoted = BUF_INIT;
    buf_append_json_string(&quoted, text);
    if (buf_ok(&quoted))
        buf_append(out, quoted.ptr + 1, quoted.len - 2);
    else
        out->failed = true;
    buf_fini(&quoted);
}

static bool emit_string(struct compiler *c, const struct parts *parts)
{
    struct buf *literals = &c->tmpl->literals;
    buf_append_char(literals, '"');
    for (size_t i = 0; i < parts->count; i++) {
        const struct part *part = &parts->items[i];
        if (!part->expr)
            append_unquoted(literals, part->literal);
        else if (!add_op(c, (struct op){.type = OP_PIECE, .expr = part->expr}))
            return false;
    }
    buf_append_char(literals, '"');
    return true;
}

/* ---- values ---- */

static bool is_value(const struct parts *parts)
{
    return parts->count == 1 && parts->items[0].expr;
}

static bool emit_json(struct compiler *c, const struct json_node *node, unsigned depth);

static bool split_node(struct compiler *c, const struct json_node *node, struct parts *ret_parts)
{
    struct buf decoded = BUF_INIT;
    struct span text = json_string(c->doc, node, &decoded);
    bool ok = text.ptr ? split_string(c, text, ret_parts) : no_memory(c);
    buf_fini(&decoded);
    return ok;
}

static bool check_key(struct compiler *c, const struct json_node *key)
{
    struct span text = json_text(c->doc, key);
    return !memmem(text.ptr, text.len, "${", 2) || fail(c, "a key cannot hold an expression");
}

/* The value of a member or element, behind its separator. */
static bool emit_child_value(struct compiler *c, const struct json_node *key, const struct json_node *node,
                             const struct parts *parts, enum separator separator, unsigned depth)
{
    if (is_value(parts) && !flush(c)) /* its literal is its own, to be left out with it */
        return false;
    if (!separate(c, separator))
        return false;
    if (key) {
        buf_append_span(&c->tmpl->literals, json_text(c->doc, key));
        buf_append_char(&c->tmpl->literals, ':');
    }
    if (is_value(parts))
        return add_op(c, (struct op){.type = OP_VALUE, .expr = parts->items[0].expr});
    return node->type == JSON_STRING ? emit_string(c, parts) : emit_json(c, node, depth + 1);
}

/* One member (key) or element (no key); *separator is what stands before it and then before the next. */
static bool emit_child(struct compiler *c, const struct json_node *key, size_t index,
                       const struct json_node *node, enum separator *separator, unsigned depth)
{
    struct parts parts = {0};
    size_t place_len = place_push(c, key, index);
    bool ok = (buf_ok(&c->place) || no_memory(c)) && (!key || check_key(c, key)) &&
              (node->type != JSON_STRING || split_node(c, node, &parts)) &&
              emit_child_value(c, key, node, &parts, *separator, depth);
    if (!is_value(&parts))
        *separator = SEPARATOR_NEEDED;
    else if (*separator == SEPARATOR_FIRST)
        *separator = SEPARATOR_UNSURE;
    parts_fini(&parts);
    place_pop(c, place_len);
    return ok;
}

static bool emit_children(struct compiler *c, const struct json_node *node, unsigned depth)
{
    enum separator separator = SEPARATOR_FIRST;
    bool is_object = node->type == JSON_OBJECT;
    size_t index = 0;
    for (const struct json_node *child = json_first(c->doc, node); child; child = json_next(c->doc, child)) {
        if (is_object && !json_member_is_last(c->doc, node, child))
            return fail(c, "a key stands twice in one object");
        if (!emit_child(c, is_object ? child : NULL, index++, is_object ? json_member_value(child) : child,
                        &separator, depth))
            return false;
    }
    return true;
}

/* Any value but a string. */
static bool emit_json(struct compiler *c, const struct json_node *node, unsigned depth)
{
    struct buf *literals = &c->tmpl->literals;
    if (node->type != JSON_OBJECT && node->type != JSON_ARRAY) {
        buf_append_span(literals, json_text(c->doc, node));
        return true;
    }
    if (depth > MAPPING_DEPTH_MAX)
        return fail(c, "nested too deeply");
    buf_append_char(literals, node->type == JSON_OBJECT ? '{' : '[');
    if (!emit_children(c, node, depth))
        return false;
    buf_append_char(literals, node->type == JSON_OBJECT ? '}' : ']');
    return true;
}

static bool emit_root(struct compiler *c, const struct json_node *node)
{
    if (node->type != JSON_STRING)
        return emit_json(c, node, 1) && flush(c);
    struct parts *parts = &c->tmpl->text;
    c->tmpl->is_text = true;
    if (!split_node(c, node, parts))
        return false;
    if (is_value(parts))
        return add_op(c, (struct op){.type = OP_VALUE, .expr = parts->items[0].expr});
    return emit_string(c, parts) && flush(c);
}

struct mapping_template *mapping_compile(const struct json_doc *doc, const struct json_node *node,
                                         unsigned roots, const char *where, struct err *err)
{
    struct compiler c = {.tmpl = calloc(1, sizeof(*c.tmpl)), .doc = doc, .roots = roots, .err = err};
    buf_printf(&c.place, "%s", where);
    bool ok = c.tmpl && buf_ok(&c.place) ? emit_root(&c, node) : no_memory(&c);
    if (ok && !buf_ok(&c.tmpl->literals))
        ok = no_memory(&c);
    if (!ok)
        mapping_template_freep(&c.tmpl);
    buf_fini(&c.place);
    return c.tmpl;
}

void mapping_template_freep(struct mapping_template **tmpl_ptr)
{
    struct mapping_template *tmpl = *tmpl_ptr;
    if (!tmpl)
        return;
    *tmpl_ptr = NULL;
    for (size_t i = 0; i < tmpl->expr_count; i++)
        expr_freep(&tmpl->exprs[i]);
    free(tmpl->exprs);
    free(tmpl->ops);
    parts_fini(&tmpl->text);
    buf_fini(&tmpl->literals);
    free(tmpl);
}

bool mapping_template_is_text(const struct mapping_template *tmpl)
{
    return tmpl->is_text;
}

void mapping_template_each_ref(const struct mapping_template *tmpl, mapping_ref_fn visit, void *arg)
{
    for (size_t i = 0; i < tmpl->expr_count; i++)
        expr_each_ref(tmpl->exprs[i], visit, arg);
}

/* ---- rendering ---- */

static void append_literal(const struct mapping_template *tmpl, const struct op *op, struct buf *out)
{
    size_t skip = 0;
    if (op->unsure && out->len > 0)
        skip = out->ptr[out->len - 1] == '{' || out->ptr[out->len - 1] == '[';
    buf_append(out, tmpl->literals.ptr + op->offset + skip, op->len - skip);
}

static enum err_code finish(const struct buf *scratch, const struct buf *out)
{
    return buf_ok(scratch) && buf_ok(out) ? ERR_OK : ERR_NO_MEMORY;
}

enum err_code mapping_render(const struct mapping_template *tmpl, const struct mapping_scope *scope,
                             struct buf *scratch, struct buf *out)
{
    struct value value;
    value.type = VALUE_MISSING;
    buf_clear(scratch);
    for (size_t i = 0; i < tmpl->op_count; i++) {
        const struct op *op = &tmpl->ops[i];
        if (op->expr)
            expr_eval(op->expr, scope, scratch, &value);
        if (op->type == OP_VALUE && value.type == VALUE_MISSING)
            continue;
        if (op->len > 0)
            append_literal(tmpl, op, out);
        if (op->type == OP_VALUE)
            value_append_json(&value, out);
        else if (op->type == OP_PIECE)
            value_append_piece(&value, out);
    }
    return finish(scratch, out);
}

enum err_code mapping_render_text(const struct mapping_template *tmpl, const struct mapping_scope *scope,
                                  struct buf *scratch, struct buf *out, bool *ret_missing)
{
    struct value value;
    SG_ASSERT(tmpl->is_text);
    buf_clear(scratch);
    *ret_missing = false;
    for (size_t i = 0; i < tmpl->text.count; i++) {
        const struct part *part = &tmpl->text.items[i];
        if (!part->expr) {
            buf_append_span(out, part->literal);
            continue;
        }
        expr_eval(part->expr, scope, scratch, &value);
        if (tmpl->text.count == 1)
            *ret_missing = value_is_nullish(&value);
        value_append_text(&value, scratch, out);
    }
    return finish(scratch, out);
}
