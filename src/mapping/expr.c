/* SPDX-License-Identifier: Apache-2.0 */
/* Compiling expressions, at load. The grammar is in mapping.h; this is its recursive descent. */
#include "expr.h"

#include <stdarg.h>
#include <stdio.h>

#define EXPR_OPERANDS_MAX 16
#define EXPR_STEPS_MAX    32
#define EXPR_FILTERS_MAX  8
#define SEGMENT_MAX       999

struct parser {
    struct expr *expr;
    const char *pos, *end;
    unsigned roots;
    struct err *err;
};

enum root_shape { ROOT_DOCUMENT, ROOT_NAMED, ROOT_SCALAR };

static const struct root_info {
    const char *name;
    enum expr_root root;
    unsigned mask;
    enum root_shape shape;
} root_table[] = {
    {"body", EXPR_BODY, MAPPING_BODY, ROOT_DOCUMENT},
    {"claims", EXPR_CLAIMS, MAPPING_CLAIMS, ROOT_DOCUMENT},
    {"reply", EXPR_REPLY, MAPPING_REPLY, ROOT_DOCUMENT},
    {"path", EXPR_PATH, MAPPING_PATH, ROOT_NAMED},
    {"query", EXPR_QUERY, MAPPING_QUERY, ROOT_NAMED},
    {"headers", EXPR_HEADERS, MAPPING_HEADERS, ROOT_NAMED},
    {"replyHeaders", EXPR_REPLY_HEADERS, MAPPING_REPLY_HEADERS, ROOT_NAMED},
    {"correlationId", EXPR_CORRELATION_ID, MAPPING_CALL, ROOT_SCALAR},
    {"operationId", EXPR_OPERATION_ID, MAPPING_CALL, ROOT_SCALAR},
    {"now", EXPR_NOW, MAPPING_CALL, ROOT_SCALAR},
    {"nowMs", EXPR_NOW_MS, MAPPING_CALL, ROOT_SCALAR},
    {"deadlineMs", EXPR_DEADLINE_MS, MAPPING_CALL, ROOT_SCALAR},
    {"timeoutMs", EXPR_TIMEOUT_MS, MAPPING_CALL, ROOT_SCALAR},
    {"payload", EXPR_PAYLOAD, MAPPING_ENVELOPE, ROOT_SCALAR},
    {"eventType", EXPR_EVENT_TYPE, MAPPING_ENVELOPE | MAPPING_COMMAND_HEADERS, ROOT_SCALAR},
    {"replyTopic", EXPR_REPLY_TOPIC, MAPPING_COMMAND_HEADERS, ROOT_SCALAR},
    {"replyPartition", EXPR_REPLY_PARTITION, MAPPING_COMMAND_HEADERS, ROOT_SCALAR},
    {"traceparent", EXPR_TRACEPARENT, MAPPING_COMMAND_HEADERS, ROOT_SCALAR},
};

static bool fail(struct parser *p, const char *fmt, ...) SG_PRINTF(2, 3);
static bool fail(struct parser *p, const char *fmt, ...)
{
    char what[200];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof(what), fmt, ap);
    va_end(ap);
    size_t len = (size_t)(p->end - p->expr->text);
    const char *brace = memchr(p->pos, '}', (size_t)(p->end - p->pos));
    if (brace)
        len = (size_t)(brace - p->expr->text);
    err_set(p->err, ERR_CONFIG, "%s: in \"${%.*s}\": %s", p->expr->place, (int)(len < 80 ? len : 80),
            p->expr->text, what);
    return false;
}

static bool no_memory(struct parser *p)
{
    err_set(p->err, ERR_NO_MEMORY, "%s: out of memory", p->expr->place);
    return false;
}

static void skip_blanks(struct parser *p)
{
    while (p->pos < p->end && (*p->pos == ' ' || *p->pos == '\t' || *p->pos == '\n' || *p->pos == '\r'))
        p->pos++;
}

static bool at(const struct parser *p, const char *token)
{
    size_t len = strlen(token);
    return (size_t)(p->end - p->pos) >= len && memcmp(p->pos, token, len) == 0;
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* A byte of a name behind a dot: enough for the names that JSON APIs and HTTP headers use. */
static bool is_name_char(char c)
{
    return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || c == '-' ||
           c == '$' || c == '@' || (unsigned char)c >= 0x80;
}

static struct span take_name(struct parser *p)
{
    const char *start = p->pos;
    while (p->pos < p->end && is_name_char(*p->pos))
        p->pos++;
    return (struct span){start, (size_t)(p->pos - start)};
}

/* A JSON string at p->pos, quotes included; ptr NULL when it has no end. */
static struct span take_quoted(struct parser *p)
{
    const char *start = p->pos;
    for (p->pos++; p->pos < p->end; p->pos++) {
        if (*p->pos == '\\')
            p->pos++;
        else if (*p->pos == '"')
            return (struct span){start, (size_t)(++p->pos - start)};
    }
    p->pos = p->end;
    return (struct span){0};
}

static bool parse_literal(struct parser *p, struct expr_operand *operand, struct span text)
{
    operand->root = EXPR_LITERAL;
    enum err_code code = text.ptr ? json_parse(&operand->literal, text, 4) : ERR_BAD_JSON;
    if (code == ERR_NO_MEMORY)
        return no_memory(p);
    return code == ERR_OK || fail(p, "expected a JSON string, number, true, false or null");
}

static bool parse_quoted_name(struct parser *p, struct span *ret_name)
{
    p->pos++;
    skip_blanks(p);
    struct json_doc doc = JSON_DOC_INIT;
    struct buf decoded = BUF_INIT;
    bool ok = p->pos < p->end && *p->pos == '"';
    struct span text = ok ? take_quoted(p) : (struct span){0};
    skip_blanks(p);
    ok = text.ptr && p->pos < p->end && *p->pos == ']' && json_parse(&doc, text, 1) == ERR_OK;
    if (ok) {
        p->pos++;
        struct span name = json_string(&doc, json_root(&doc), &decoded);
        ok = name.ptr != NULL;
        *ret_name = (struct span){p->expr->names.ptr + p->expr->names.len, name.len};
        buf_append_span(&p->expr->names, name);
    }
    json_fini(&doc);
    buf_fini(&decoded);
    return ok || fail(p, "expected [\"name\"]");
}

static bool parse_steps(struct parser *p, struct mapping_step **ret_steps, size_t *ret_count)
{
    while (p->pos < p->end && (*p->pos == '.' || *p->pos == '[')) {
        struct mapping_step step = {.index = MAPPING_NO_INDEX};
        if (*ret_count == EXPR_STEPS_MAX)
            return fail(p, "at most %d names in a reference", EXPR_STEPS_MAX);
        if (*p->pos == '[') {
            if (!parse_quoted_name(p, &step.name))
                return false;
        } else {
            p->pos++;
            step.name = take_name(p);
            uint64_t index;
            if (step.name.len == 0)
                return fail(p, "expected a name or an index after '.'");
            if (base_parse_u64(step.name, &index) && index < MAPPING_NO_INDEX)
                step.index = (uint32_t)index;
        }
        struct mapping_step *steps = realloc(*ret_steps, (*ret_count + 1) * sizeof(*steps));
        if (!steps)
            return no_memory(p);
        *ret_steps = steps;
        steps[(*ret_count)++] = step;
    }
    return true;
}

static bool check_shape(struct parser *p, const struct root_info *info, struct expr_operand *operand)
{
    if (info->shape == ROOT_SCALAR && operand->step_count != 0)
        return fail(p, "'%s' has no members", info->name);
    if (info->shape == ROOT_NAMED && operand->step_count != 1)
        return fail(p, "expected %s.<name>", info->name);
    if (info->root == EXPR_REPLY_HEADERS &&
        (operand->steps[0].name.len > MAPPING_HEADER_MAX ||
         memchr(operand->steps[0].name.ptr, 0, operand->steps[0].name.len)))
        return fail(p, "a header's name has at most %d bytes, none of them NUL", MAPPING_HEADER_MAX);
    if (info->root == EXPR_HEADERS) /* names are looked up in lower case; expr.text is ours to change */
        for (size_t i = 0; i < operand->steps[0].name.len; i++) {
            char *c = (char *)operand->steps[0].name.ptr + i;
            if (*c >= 'A' && *c <= 'Z')
                *c = (char)(*c | 0x20);
        }
    return true;
}

static bool fail_root(struct parser *p, struct span name, bool known)
{
    char offered[200] = "";
    for (size_t i = 0; i < SG_ARRAY_LEN(root_table); i++)
        if (root_table[i].mask & p->roots)
            snprintf(offered + strlen(offered), sizeof(offered) - strlen(offered), "%s%s",
                     *offered ? ", " : "", root_table[i].name);
    return fail(p, "%s '%.*s'; expected one of %s", known ? "there is no root here called" : "unknown root",
                (int)(name.len < 40 ? name.len : 40), name.ptr, offered);
}

static bool parse_reference(struct parser *p, struct expr_operand *operand)
{
    struct span name = take_name(p);
    if (name.len == 0)
        return fail(p, "expected a reference or a JSON literal");
    for (size_t i = 0; i < SG_ARRAY_LEN(root_table); i++) {
        const struct root_info *info = &root_table[i];
        if (!span_eq(name, span_of(info->name)))
            continue;
        if (!(info->mask & p->roots))
            return fail_root(p, name, true);
        operand->root = info->root;
        operand->mask = info->mask;
        return parse_steps(p, &operand->steps, &operand->step_count) && check_shape(p, info, operand);
    }
    return fail_root(p, name, false);
}

static bool parse_operand(struct parser *p, struct expr_operand *operand)
{
    skip_blanks(p);
    if (p->pos == p->end)
        return fail(p, "the expression has no end");
    if (*p->pos == '"')
        return parse_literal(p, operand, take_quoted(p));
    const char *start = p->pos;
    if (*p->pos == '-' || is_digit(*p->pos)) {
        while (p->pos < p->end && (is_digit(*p->pos) || (*p->pos && strchr("+-.eE", *p->pos))))
            p->pos++;
        return parse_literal(p, operand, (struct span){start, (size_t)(p->pos - start)});
    }
    struct span word = take_name(p);
    if (span_eq(word, SPAN_LIT("true")) || span_eq(word, SPAN_LIT("false")) ||
        span_eq(word, SPAN_LIT("null")))
        return parse_literal(p, operand, word);
    p->pos = start;
    return parse_reference(p, operand);
}

static bool parse_chain(struct parser *p)
{
    bool or_else = false;
    for (;;) {
        struct expr *expr = p->expr;
        if (expr->operand_count == EXPR_OPERANDS_MAX)
            return fail(p, "at most %d operands", EXPR_OPERANDS_MAX);
        struct expr_operand *operands =
            realloc(expr->operands, (expr->operand_count + 1) * sizeof(*operands));
        if (!operands)
            return no_memory(p);
        expr->operands = operands;
        operands[expr->operand_count] = (struct expr_operand){.or_else = or_else};
        if (!parse_operand(p, &operands[expr->operand_count++]))
            return false;
        skip_blanks(p);
        or_else = at(p, "||");
        if (!or_else && !at(p, "??"))
            return true;
        p->pos += 2;
    }
}

static const struct {
    const char *name;
    enum expr_filter_type type;
} filter_table[] = {
    {"isoTime", EXPR_FILTER_ISO_TIME}, {"string", EXPR_FILTER_STRING},   {"array", EXPR_FILTER_ARRAY},
    {"json", EXPR_FILTER_JSON},        {"segment", EXPR_FILTER_SEGMENT}, {"length", EXPR_FILTER_LENGTH},
};

static bool parse_segment_number(struct parser *p, struct expr_filter *filter)
{
    uint64_t number;
    skip_blanks(p);
    bool ok = at(p, ":");
    p->pos += ok;
    skip_blanks(p);
    struct span digits = ok ? take_name(p) : (struct span){0};
    if (!digits.len || !base_parse_u64(digits, &number) || number > SEGMENT_MAX)
        return fail(p, "expected segment:<number>, 0 to %d", SEGMENT_MAX);
    filter->number = (uint32_t)number;
    return true;
}

static bool parse_filter(struct parser *p, struct expr_filter *filter)
{
    skip_blanks(p);
    struct span name = take_name(p);
    size_t i = 0;
    while (i < SG_ARRAY_LEN(filter_table) && !span_eq(name, span_of(filter_table[i].name)))
        i++;
    if (i == SG_ARRAY_LEN(filter_table))
        return fail(
            p, "unknown filter '%.*s'; expected isoTime, string, array, json, segment:<number> or length",
            (int)(name.len < 40 ? name.len : 40), name.ptr);
    filter->type = filter_table[i].type;
    if (filter->type == EXPR_FILTER_SEGMENT)
        return parse_segment_number(p, filter);
    return filter->type != EXPR_FILTER_JSON || parse_steps(p, &filter->steps, &filter->step_count);
}

static bool parse_filters(struct parser *p)
{
    struct expr *expr = p->expr;
    for (; at(p, "|"); skip_blanks(p)) {
        p->pos++;
        if (expr->filter_count == EXPR_FILTERS_MAX)
            return fail(p, "at most %d filters", EXPR_FILTERS_MAX);
        struct expr_filter *filters = realloc(expr->filters, (expr->filter_count + 1) * sizeof(*filters));
        if (!filters)
            return no_memory(p);
        expr->filters = filters;
        filters[expr->filter_count] = (struct expr_filter){0};
        if (!parse_filter(p, &filters[expr->filter_count++]))
            return false;
    }
    return true;
}

static bool parse_expr(struct parser *p)
{
    if (!parse_chain(p) || !parse_filters(p))
        return false;
    if (p->pos == p->end)
        return fail(p, "the expression has no end");
    if (*p->pos != '}')
        return fail(p, "unexpected '%c'; expected ??, ||, | or }", *p->pos);
    return true;
}

struct expr *expr_compile(struct span text, unsigned roots, const char *place, size_t *ret_used,
                          struct err *err)
{
    struct expr *expr = calloc(1, sizeof(*expr));
    if (expr) {
        expr->text = malloc(text.len + 1);
        expr->place = strdup(place);
    }
    if (!expr || !expr->text || !expr->place || !buf_reserve(&expr->names, text.len + 1)) {
        err_set(err, ERR_NO_MEMORY, "%s: out of memory", place);
        expr_freep(&expr);
        return NULL;
    }
    if (text.len)
        memcpy(expr->text, text.ptr, text.len);
    expr->text[text.len] = '\0';
    struct parser p = {
        .expr = expr, .pos = expr->text, .end = expr->text + text.len, .roots = roots, .err = err};
    if (!parse_expr(&p)) {
        expr_freep(&expr);
        return NULL;
    }
    expr->text_len = (size_t)(p.pos - expr->text);
    *ret_used = expr->text_len + 1;
    return expr;
}

void expr_freep(struct expr **expr_ptr)
{
    struct expr *expr = *expr_ptr;
    if (!expr)
        return;
    *expr_ptr = NULL;
    for (size_t i = 0; i < expr->operand_count; i++) {
        free(expr->operands[i].steps);
        json_fini(&expr->operands[i].literal);
    }
    free(expr->operands);
    for (size_t i = 0; i < expr->filter_count; i++)
        free(expr->filters[i].steps);
    free(expr->filters);
    buf_fini(&expr->names);
    free(expr->text);
    free(expr->place);
    free(expr);
}

void expr_each_ref(const struct expr *expr, mapping_ref_fn visit, void *arg)
{
    for (size_t i = 0; i < expr->operand_count; i++) {
        const struct expr_operand *operand = &expr->operands[i];
        if (operand->root == EXPR_LITERAL)
            continue;
        struct mapping_ref ref = {.root = (enum mapping_root)operand->mask,
                                  .steps = operand->steps,
                                  .step_count = operand->step_count,
                                  .text = {expr->text, expr->text_len},
                                  .place = expr->place};
        visit(arg, &ref);
    }
}
