/* SPDX-License-Identifier: Apache-2.0 */
/* The issues of the legacy form are rendered first and read back for the other forms: one source of truth, and only on
 * the error path. */
#include "profile.h"

#include "internal.h"

#define ISSUE_NODES_MAX (1u << 20)

const char *profile_reason(int status)
{
    switch (status) {
    case 400:
        return "Bad Request";
    case 401:
        return "Unauthorized";
    case 403:
        return "Forbidden";
    case 404:
        return "Not Found";
    case 413:
        return "Content Too Large";
    case 415:
        return "Unsupported Media Type";
    case 501:
        return "Not Implemented";
    case 502:
        return "Bad Gateway";
    case 503:
        return "Service Unavailable";
    case 504:
        return "Gateway Timeout";
    default:
        return "Internal Server Error";
    }
}

/* ---- lists of issues ---- */

/* The items of a list, found by their text: a body has room for 50000 issues, too many to compare each with all. */
struct items {
    struct item {
        uint64_t hash;
        size_t start, len; /* in list->out; len 0: a free slot */
    } * slots;
    size_t cap, count; /* cap: a power of two, or 0 */
};

struct list {
    const struct json_doc *doc;
    enum config_error_profile profile;
    struct buf *out;
    size_t start; /* of the list in out */
    struct items *items;
};

static const struct json_node *member(const struct list *list, const struct json_node *object,
                                      const char *name)
{
    return json_get(list->doc, object, span_of(name));
}

/* The contents of a string node as it stands in the text: it is escaped well already. */
static struct span inner(const struct list *list, const struct json_node *node)
{
    struct span text = json_text(list->doc, node);
    return node->type == JSON_STRING ? (struct span){text.ptr + 1, text.len - 2} : text;
}

/* qrData.deviceId */
static void append_dotted(const struct list *list, const struct json_node *path)
{
    for (const struct json_node *step = json_first(list->doc, path); step;
         step = json_next(list->doc, step)) {
        buf_append_span(list->out, inner(list, step));
        if (step->next)
            buf_append_char(list->out, '.');
    }
}

/* /qrData/deviceId, RFC 6901. JSON escapes hold neither '~' nor '/', so that the escaped text can be looked at: the writer
 * of issues escapes as JSON.stringify() does, which leaves both as they are. */
static void append_pointer(const struct list *list, const struct json_node *path)
{
    for (const struct json_node *step = json_first(list->doc, path); step;
         step = json_next(list->doc, step)) {
        struct span name = inner(list, step);
        buf_append_char(list->out, '/');
        for (size_t i = 0; i < name.len; i++) {
            if (name.ptr[i] == '~')
                buf_append_lit(list->out, "~0");
            else if (name.ptr[i] == '/')
                buf_append_lit(list->out, "~1");
            else
                buf_append_char(list->out, name.ptr[i]);
        }
    }
}

/* The slot of that item, or the free one where it would be. */
static struct item *item_slot(const struct list *list, const struct item *item)
{
    const struct items *items = list->items;
    for (size_t i = item->hash;; i++) {
        struct item *slot = &items->slots[i & (items->cap - 1)];
        if (!slot->len ||
            (slot->hash == item->hash && slot->len == item->len &&
             memcmp(list->out->ptr + slot->start, list->out->ptr + item->start, item->len) == 0))
            return slot;
    }
}

/* Keeps a half of the slots free. */
static bool items_grow(const struct list *list)
{
    struct items *items = list->items, old = *items;
    if (items->count < items->cap / 2)
        return true;
    size_t cap = old.cap ? old.cap * 2 : 64;
    struct item *slots = calloc(cap, sizeof(*slots));
    if (!slots)
        return false;
    items->slots = slots;
    items->cap = cap;
    for (size_t i = 0; i < old.cap; i++)
        if (old.slots[i].len)
            *item_slot(list, &old.slots[i]) = old.slots[i];
    free(old.slots);
    return true;
}

/* Removes what was appended at `start` if the list has it already: alternatives of a union repeat each other. Without memory
 * it stays. */
static void drop_repeated(const struct list *list, size_t start)
{
    struct buf *out = list->out;
    if (!buf_ok(out) || !items_grow(list))
        return;
    struct item item = {.hash = 14695981039346656037u, .start = start + (start > list->start)}; /* no comma */
    item.len = out->len - item.start;
    for (size_t i = item.start; i < out->len; i++) /* FNV-1a */
        item.hash = (item.hash ^ (unsigned char)out->ptr[i]) * 1099511628211u;
    struct item *slot = item_slot(list, &item);
    if (slot->len) {
        out->len = start;
        return;
    }
    *slot = item;
    list->items->count++;
}

static void append_issue(const struct list *list, const struct json_node *issue)
{
    struct buf *out = list->out;
    const struct json_node *path = member(list, issue, "path"), *message = member(list, issue, "message");
    size_t start = out->len;
    if (start > list->start)
        buf_append_char(out, ',');
    if (list->profile == CONFIG_ERRORS_NEST) {
        buf_append_char(out, '"');
        append_dotted(list, path);
        if (path->count)
            buf_append_lit(out, ": ");
        buf_append_span(out, inner(list, message));
        buf_append_char(out, '"');
    } else {
        buf_append_lit(out, "{\"pointer\":\"");
        append_pointer(list, path);
        buf_append_lit(out, "\",\"detail\":");
        buf_append_span(out, json_text(list->doc, message));
        buf_append_char(out, '}');
    }
    drop_repeated(list, start);
}

/* A union is told by the issues of its alternatives; unions may nest, as deep as the schema does. */
static void append_issues(const struct list *list, const struct json_node *issues)
{
    for (const struct json_node *issue = json_first(list->doc, issues); issue;
         issue = json_next(list->doc, issue)) {
        const struct json_node *errors = member(list, issue, "unionErrors");
        if (!errors)
            append_issue(list, issue);
        for (const struct json_node *error = json_first(list->doc, errors); error;
             error = json_next(list->doc, error))
            append_issues(list, member(list, error, "issues"));
    }
}

/* ---- bodies ---- */

static void problem_head(struct buf *out, int status, struct span detail, const char *code)
{
    buf_printf(out,
               "{\"type\":\"about:blank\",\"title\":\"%s\",\"status\":%d,\"detail\":", profile_reason(status),
               status);
    buf_append_span(out, detail);
    buf_printf(out, ",\"code\":\"%s\"", code);
}

static void problem_tail(struct buf *out, struct span correlation_id)
{
    buf_append_lit(out, ",\"correlationId\":\"");
    buf_append_span(out, correlation_id);
    buf_append_lit(out, "\"}");
}

void profile_problem(enum err_code code, struct span detail, struct span correlation_id, struct buf *out)
{
    problem_head(out, err_info(code)->status, detail, err_info(code)->wire);
    problem_tail(out, correlation_id);
}

bool profile_invalid(enum config_error_profile profile, struct span issues, struct span correlation_id,
                     struct json_doc *doc, struct buf *out)
{
    if (profile == CONFIG_ERRORS_TS_REST) {
        buf_append_lit(out,
                       "{\"paramsResult\":null,\"headersResult\":null,\"queryResult\":null,\"bodyResult\":{"
                       "\"issues\":");
        buf_append_span(out, issues);
        buf_append_lit(out, ",\"name\":\"ZodError\"}}");
        return buf_ok(out);
    }
    if (json_parse(doc, issues, ISSUE_NODES_MAX) != ERR_OK)
        return false;
    if (profile == CONFIG_ERRORS_NEST) {
        buf_append_lit(out, "{\"message\":[");
    } else {
        problem_head(out, 400, SPAN_LIT("\"The request is not valid\""), err_info(ERR_INVALID)->wire);
        buf_append_lit(out, ",\"errors\":[");
    }
    struct items items = {0};
    const struct list list = {doc, profile, out, out->len, &items};
    append_issues(&list, json_root(doc));
    free(items.slots);
    buf_append_char(out, ']');
    if (profile == CONFIG_ERRORS_NEST)
        buf_append_lit(out, ",\"error\":\"Bad Request\",\"statusCode\":400}");
    else
        problem_tail(out, correlation_id);
    return buf_ok(out);
}

/* ---- answers ---- */

static struct span id_of(const struct exchange *ex)
{
    return (struct span){ex->id_text, AWAIT_ID_TEXT_LEN};
}

void exchange_refuse(struct exchange *ex, enum err_code code, struct span message)
{
    struct buf *text = &ex->worker->text;
    int status = err_info(code)->status;
    buf_clear(text);
    ex->code = code;
    if (ex->view->plan->config->error_profile == CONFIG_ERRORS_PROBLEM) {
        profile_problem(code, message, id_of(ex), text);
    } else if (status == 413 || status == 415) { /* the body parser's own errors have no `error` */
        buf_printf(text, "{\"statusCode\":%d,\"message\":", status);
        buf_append_span(text, message);
        buf_append_char(text, '}');
    } else { /* E-nest */
        buf_append_lit(text, "{\"message\":");
        buf_append_span(text, message);
        buf_printf(text, ",\"error\":\"%s\",\"statusCode\":%d}", profile_reason(status), status);
    }
    if (buf_ok(text))
        exchange_answer_json(ex, status, buf_span(text));
    else
        exchange_answer_error(ex, ERR_NO_MEMORY, "Out of memory");
}

void exchange_refuse_invalid(struct exchange *ex, const struct buf *issues)
{
    struct exchange_worker *worker = ex->worker;
    buf_clear(&worker->text);
    ex->code = ERR_INVALID;
    if (buf_ok(issues) && profile_invalid(ex->view->plan->config->error_profile, buf_span(issues), id_of(ex),
                                          &worker->reply_doc, &worker->text))
        exchange_answer_json(ex, 400, buf_span(&worker->text));
    else
        exchange_answer_error(ex, ERR_NO_MEMORY, "Out of memory");
}
