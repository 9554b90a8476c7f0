/* SPDX-License-Identifier: Apache-2.0 */
/* Lines come from curl one by one, whole, and already refused by it when they have no colon or hold a NUL.
 * What curl tolerates but a gateway must not repeat is refused here: folded lines (RFC 9112 section 5.2
 * allows 502), CR inside a value, contradictory lengths, and a length beside a transfer coding (section 6.3).
 */
#include "call.h"

static bool add_line(struct head *head, struct span name, struct span value)
{
    if (head->count == head->cap) {
        size_t cap = head->cap ? head->cap * 2 : 32;
        struct head_line *lines = realloc(head->lines, cap * sizeof(*lines));
        if (!lines)
            return false;
        head->lines = lines;
        struct legacy_header *headers = realloc(head->headers, 2 * cap * sizeof(*headers));
        if (!headers)
            return false;
        head->headers = headers;
        head->cap = cap;
    }
    struct head_line *line = &head->lines[head->count];
    line->name = (uint32_t)head->text.len;
    line->name_len = (uint32_t)name.len;
    buf_append_span(&head->text, name);
    line->value = (uint32_t)head->text.len;
    line->value_len = (uint32_t)value.len;
    buf_append_span(&head->text, value);
    if (!buf_ok(&head->text))
        return false;
    head->count++;
    return true;
}

static bool note_length(struct head *head, struct span value)
{
    uint64_t length;
    if (!base_parse_u64(value, &length) || length > INT64_MAX)
        return false;
    if (head->content_length >= 0 && head->content_length != (int64_t)length)
        return false;
    head->content_length = (int64_t)length;
    return true;
}

/* Nothing is decoded, and Transfer-Encoding ends here: a body in another coding would reach the client as it is, and nobody
 * would tell. */
static bool note_codings(struct head *head, struct span list)
{
    head->transfer_encoding = true;
    while (list.len) {
        const char *comma = memchr(list.ptr, ',', list.len);
        size_t len = comma ? (size_t)(comma - list.ptr) : list.len;
        struct span coding = span_trim((struct span){list.ptr, len});
        if (coding.len && !span_eq_nocase(coding, SPAN_LIT("chunked")) &&
            !span_eq_nocase(coding, SPAN_LIT("identity")))
            return false;
        len += comma != NULL;
        list = (struct span){list.ptr + len, list.len - len};
    }
    return true;
}

static bool take_field(struct head *head, struct span line)
{
    const char *colon = memchr(line.ptr, ':', line.len);
    if (!colon || head->count == LEGACY_HEAD_MAX_HEADERS)
        return false;
    struct span name = {line.ptr, (size_t)(colon - line.ptr)};
    struct span value = span_trim((struct span){colon + 1, line.len - name.len - 1});
    if (!field_is_token(name) || !field_value_is_safe(value))
        return false;
    if (span_eq_nocase(name, SPAN_LIT("Content-Length")) && !note_length(head, value))
        return false;
    if (span_eq_nocase(name, SPAN_LIT("Transfer-Encoding")) && !note_codings(head, value))
        return false;
    return add_line(head, name, value);
}

static void start_over(struct head *head)
{
    buf_clear(&head->text);
    head->count = 0;
    head->content_length = -1;
    head->transfer_encoding = false;
    head->in_lines = false;
}

enum head_result head_take(struct head *head, struct span line, int status)
{
    head->bytes += line.len;
    if (head->bytes > LEGACY_HEAD_MAX_BYTES)
        return HEAD_BAD;
    if (line.len && line.ptr[line.len - 1] == '\n')
        line.len--;
    if (line.len && line.ptr[line.len - 1] == '\r')
        line.len--;
    if (!head->in_lines) { /* the status line: curl has parsed it */
        head->in_lines = true;
        return HEAD_MORE;
    }
    if (line.len)
        return take_field(head, line) ? HEAD_MORE : HEAD_BAD;
    if (status == 101 || status < 100) /* nobody asked for another protocol */
        return HEAD_BAD;
    if (status < 200) {
        start_over(head);
        return HEAD_INTERIM;
    }
    if (head->transfer_encoding && head->content_length >= 0)
        return HEAD_BAD;
    head->done = true;
    return HEAD_FINAL;
}

void head_response(struct head *head, int status, struct legacy_response *response)
{
    struct legacy_header *all = head->headers, *kept = NULL;
    size_t count = all ? head->count : 0, kept_count = 0;
    if (all)
        kept = all + head->cap;
    for (size_t i = 0; i < count; i++) {
        const struct head_line *line = &head->lines[i];
        all[i].name = (struct span){head->text.ptr + line->name, line->name_len};
        all[i].value = (struct span){head->text.ptr + line->value, line->value_len};
    }
    for (size_t i = 0; i < count; i++)
        if (!span_eq_nocase(all[i].name, SPAN_LIT("Content-Length")) &&
            field_is_end_to_end(all, count, all[i].name))
            kept[kept_count++] = all[i];
    *response = (struct legacy_response){
        .status = status,
        .headers = kept,
        .header_count = kept_count,
        .content_length = head->content_length,
    };
}

void head_reset(struct head *head)
{
    start_over(head);
    head->bytes = 0;
    head->done = false;
    if (head->text.cap > 8192) /* a rare giant is not kept in the pool */
        buf_fini(&head->text);
}

void head_fini(struct head *head)
{
    buf_fini(&head->text);
    free(head->lines);
    free(head->headers);
}
