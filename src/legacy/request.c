/* SPDX-License-Identifier: Apache-2.0 */
/* Everything of a request is written into one buffer, sized beforehand so that the pointers curl borrows stay
 * good: method, target, then the header lines, each NUL-terminated. curl copies the first two and reads the
 * lines in place. */
#include "call.h"

struct headers_in {
    const struct legacy_header *list;
    size_t count;
    bool filter; /* as RFC 9110 section 7.6.1 wants it */
};

static bool is_method(struct span method, const char *name)
{
    return span_eq(method, span_of(name));
}

/* Visible characters only: a blank or a control character would end the request line early. */
static bool target_is_safe(struct span target)
{
    for (size_t i = 0; i < target.len; i++)
        if ((unsigned char)target.ptr[i] <= ' ' || target.ptr[i] == 0x7f)
            return false;
    return target.len > 0;
}

/* What the transfer itself decides: Host and the framing; Expect, because the body is here already or paced
 * by us. */
static bool is_ours(struct span name)
{
    return span_eq_nocase(name, SPAN_LIT("Host")) || span_eq_nocase(name, SPAN_LIT("Content-Length")) ||
           span_eq_nocase(name, SPAN_LIT("Expect"));
}

static bool is_kept(const struct headers_in *in, struct span name)
{
    return !in->filter || (!is_ours(name) && field_is_end_to_end(in->list, in->count, name));
}

/* Adds the room that the headers need at most; false if one of them must not go out. */
static bool headers_measure(const struct headers_in *in, size_t *room)
{
    for (size_t i = 0; i < in->count; i++) {
        if (!field_is_token(in->list[i].name) || !field_value_is_safe(in->list[i].value))
            return false;
        *room += in->list[i].name.len + in->list[i].value.len + sizeof(": ");
    }
    return true;
}

static struct curl_slist **add_node(struct legacy_call *call, size_t at, struct curl_slist **tail, char *line)
{
    call->nodes[at].data = line;
    call->nodes[at].next = NULL;
    *tail = &call->nodes[at];
    return &call->nodes[at].next;
}

/* "Name: value", or "Name;" which is how curl is told to send a header without a value. */
static char *write_line(struct buf *text, const struct legacy_header *header)
{
    size_t start = text->len;
    struct span value = span_trim(header->value);
    buf_append_span(text, header->name);
    if (value.len) {
        buf_append_lit(text, ": ");
        buf_append_span(text, value);
    } else {
        buf_append_char(text, ';');
    }
    buf_append_char(text, '\0');
    return text->ptr + start;
}

/* Lines without a value take a header of curl's own away. */
static char no_accept[] = "Accept:", no_expect[] = "Expect:";

static struct curl_slist *write_headers(struct legacy_call *call, const struct headers_in *ins,
                                        size_t ins_len)
{
    struct curl_slist *list = NULL, **tail = &list;
    size_t used = 0;
    bool accept = false;
    for (size_t i = 0; i < ins_len; i++) {
        for (size_t j = 0; j < ins[i].count; j++) {
            const struct legacy_header *header = &ins[i].list[j];
            if (!is_kept(&ins[i], header->name))
                continue;
            accept = accept || span_eq_nocase(header->name, SPAN_LIT("Accept"));
            tail = add_node(call, used++, tail, write_line(&call->text, header));
        }
    }
    if (!accept)
        tail = add_node(call, used++, tail, no_accept);
    if (call->has_body)
        add_node(call, used, tail, no_expect);
    return list;
}

static bool reserve_nodes(struct legacy_call *call, size_t count)
{
    if (count <= call->node_cap)
        return true;
    size_t cap = count < 32 ? 32 : count;
    struct curl_slist *nodes = realloc(call->nodes, cap * sizeof(*nodes));
    if (!nodes)
        return false;
    call->nodes = nodes;
    call->node_cap = cap;
    return true;
}

/* RFC 9110 section 9.2.2. Methods that are not in it may be, but nobody says so. */
static bool is_idempotent(struct span method)
{
    static const char *const methods[] = {"GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE"};
    for (size_t i = 0; i < SG_ARRAY_LEN(methods); i++)
        if (is_method(method, methods[i]))
            return true;
    return false;
}

/* How curl is to frame the request. UPLOAD is its PUT machinery: unlike its POST it invents no Content-Type.
 * Methods whose meaning is their body say that it is empty (RFC 9110 section 8.6). Returns the length to
 * announce. */
static bool frame(struct legacy_call *call, const struct legacy_request *request, struct span method,
                  int64_t *ret_length)
{
    int64_t length = 0;
    bool announce = is_method(method, "POST") || is_method(method, "PUT") || is_method(method, "PATCH");
    if (request->body_kind == LEGACY_BODY_FIXED) {
        length = (int64_t)request->body.len;
        announce = true;
    } else if (request->body_kind == LEGACY_BODY_STREAM) {
        length = request->content_length < 0 ? -1 : request->content_length;
        announce = true;
    }
    *ret_length = length;
    call->body_kind = request->body_kind;
    call->body = request->body_kind == LEGACY_BODY_FIXED ? request->body : (struct span){NULL, 0};
    call->whole_body = call->body;
    call->stream_left = length;
    call->has_body = length != 0;
    call->head_method = is_method(method, "HEAD");
    call->resendable = is_idempotent(method) && (!call->has_body || call->body_kind == LEGACY_BODY_FIXED);
    return announce;
}

static CURLcode set_options(struct legacy_call *call, const char *method, const char *target,
                            struct curl_slist *list, bool announce, int64_t length)
{
    CURL *easy = call->easy;
    CURLcode rc =
        curl_easy_setopt(easy, CURLOPT_HTTPGET, 1L); /* takes back UPLOAD and NOBODY of the call before */
    if (!rc && announce) {
        rc = curl_easy_setopt(easy, CURLOPT_UPLOAD, 1L);
        if (!rc)
            rc = curl_easy_setopt(easy, CURLOPT_INFILESIZE_LARGE, (curl_off_t)length);
        if (!rc && call->has_body)
            rc = curl_easy_setopt(easy, CURLOPT_UPLOAD_BUFFERSIZE,
                                  length > 0 && length <= 16384 ? 16384L : 65536L);
    } else if (!rc && call->head_method) {
        rc = curl_easy_setopt(easy, CURLOPT_NOBODY, 1L);
    }
    if (!rc)
        rc = curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, method);
    if (!rc)
        rc = curl_easy_setopt(easy, CURLOPT_REQUEST_TARGET, target);
    if (!rc)
        rc = curl_easy_setopt(easy, CURLOPT_HTTPHEADER, list);
    if (!rc) /* on a new connection no old one can die under a request that must not be sent twice */
        rc = curl_easy_setopt(easy, CURLOPT_FRESH_CONNECT, !call->resendable && !call->has_body ? 1L : 0L);
    if (!rc)
        rc = curl_easy_setopt(easy, CURLOPT_FORBID_REUSE, 0L); /* set by an answer of HTTP/1.0 */
    return rc;
}

enum err_code request_apply(struct legacy_call *call, const struct legacy_request *request)
{
    const struct headers_in ins[] = {
        {request->headers, request->header_count, true},
        {request->extra, request->extra_count, false},
    };
    struct span method = request->method, target = request->target, prefix = span_of(call->legacy->prefix);
    bool asterisk = span_eq(target, SPAN_LIT("*")) && is_method(method, "OPTIONS");
    size_t room = method.len + 1 + prefix.len + target.len + 1;
    if (!field_is_token(method) || is_method(method, "CONNECT") || !target_is_safe(target) ||
        (target.ptr[0] != '/' && !asterisk) || !headers_measure(&ins[0], &room) ||
        !headers_measure(&ins[1], &room))
        return ERR_BAD_REQUEST;
    buf_clear(&call->text);
    if (!buf_reserve(&call->text, room) ||
        !reserve_nodes(call, request->header_count + request->extra_count + 2))
        return ERR_NO_MEMORY;

    buf_append_span(&call->text, method);
    buf_append_char(&call->text, '\0');
    size_t target_at = call->text.len;
    if (!asterisk)
        buf_append_span(&call->text, prefix);
    buf_append_span(&call->text, target);
    buf_append_char(&call->text, '\0');

    int64_t length;
    bool announce = frame(call, request, method, &length);
    struct curl_slist *list = write_headers(call, ins, SG_ARRAY_LEN(ins));
    SG_ASSERT(buf_ok(&call->text) && call->text.len <= room);
    return set_options(call, call->text.ptr, call->text.ptr + target_at, list, announce, length) == CURLE_OK
               ? ERR_OK
               : ERR_NO_MEMORY;
}
