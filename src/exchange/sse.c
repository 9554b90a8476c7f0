/* SPDX-License-Identifier: Apache-2.0 */
#include "sse.h"

#define WEIGHT_ONE 1000u

/* ---- Accept ---- */

/* The text before the first `end` that is not in a quoted-string; *rest goes behind it. */
static struct span take_until(struct span *rest, char end)
{
    bool quoted = false;
    size_t len = 0;
    for (; len < rest->len && (quoted || rest->ptr[len] != end); len++) {
        if (rest->ptr[len] == '"')
            quoted = !quoted;
        else if (quoted && rest->ptr[len] == '\\' && len + 1 < rest->len)
            len++;
    }
    struct span taken = {rest->ptr, len};
    len += len < rest->len;
    *rest = (struct span){rest->ptr + len, rest->len - len};
    return span_trim(taken);
}

/* "0" to "1" with up to three decimals. */
static bool parse_weight(struct span text, unsigned *ret_weight)
{
    if (text.len < 1 || text.len > 5 || (text.ptr[0] != '0' && text.ptr[0] != '1') ||
        (text.len > 1 && text.ptr[1] != '.'))
        return false;
    unsigned weight = text.ptr[0] == '1' ? WEIGHT_ONE : 0, unit = 100;
    for (size_t i = 2; i < text.len; i++, unit /= 10) {
        if (text.ptr[i] < '0' || text.ptr[i] > '9')
            return false;
        weight += (unsigned)(text.ptr[i] - '0') * unit;
    }
    *ret_weight = weight;
    return weight <= WEIGHT_ONE;
}

/* False: the weight is malformed. Other parameters do not matter to us. */
static bool weight_of(struct span parameters, unsigned *ret_weight)
{
    *ret_weight = WEIGHT_ONE;
    while (parameters.len) {
        struct span parameter = take_until(&parameters, ';');
        if (parameter.len >= 2 && (parameter.ptr[0] == 'q' || parameter.ptr[0] == 'Q') &&
            parameter.ptr[1] == '=')
            return parse_weight((struct span){parameter.ptr + 2, parameter.len - 2}, ret_weight);
    }
    return true;
}

void sse_accept_add(struct sse_accept *accept, struct span value)
{
    static const char *const json_ranges[] = {"*/*", "application/*", "application/json"};
    while (value.len) {
        unsigned weight;
        struct span range = take_until(&value, ',');
        struct span media = take_until(&range, ';');
        if (!media.len || !weight_of(range, &weight))
            continue;
        if (span_eq_nocase(media, SPAN_LIT("text/event-stream")) && weight > accept->events)
            accept->events = weight;
        for (unsigned rank = 1; rank <= SG_ARRAY_LEN(json_ranges); rank++)
            if (span_eq_nocase(media, span_of(json_ranges[rank - 1])) &&
                (rank > accept->json_rank || (rank == accept->json_rank && weight > accept->json))) {
                accept->json_rank = rank;
                accept->json = weight;
            }
    }
}

bool sse_accept_asks(const struct sse_accept *accept)
{
    return accept->events > 0 && accept->events >= accept->json;
}

/* ---- events ---- */

void sse_append(struct buf *out, const char *event, uint64_t id, struct span data)
{
    size_t start = 0;
    buf_printf(out, "event: %s\nid: %llu\n", event, (unsigned long long)id);
    for (size_t i = 0; i <= data.len; i++) {
        if (i < data.len && data.ptr[i] != '\n' && data.ptr[i] != '\r')
            continue;
        buf_append_lit(out, "data: ");
        buf_append(out, data.ptr + start, i - start);
        buf_append_char(out, '\n');
        if (i + 1 < data.len && data.ptr[i] == '\r' && data.ptr[i + 1] == '\n')
            i++;
        start = i + 1;
    }
    buf_append_char(out, '\n');
}
