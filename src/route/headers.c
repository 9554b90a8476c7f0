/* SPDX-License-Identifier: Apache-2.0 */
/* Header profiles: which headers a command carries, and in which its reply may carry the correlation id. Each file is read
 * once; a route that names none has the built-in profile. docs/routes.md describes the format. */
#include "reader.h"

#define HEADER_NAME_MAX 255

const char route_default_headers[] = "{\n"
                                     "  \"command\": {\n"
                                     "    \"content-type\": \"application/json\",\n"
                                     "    \"correlation-id\": \"${correlationId}\",\n"
                                     "    \"event-type\": \"${eventType}\",\n"
                                     "    \"traceparent\": \"${traceparent}\",\n"
                                     "    \"deadline\": \"${deadlineMs}\",\n"
                                     "    \"kafka_correlationId\": \"${correlationId}\",\n"
                                     "    \"kafka_replyTopic\": \"${replyTopic}\",\n"
                                     "    \"kafka_replyPartition\": \"${replyPartition}\",\n"
                                     "    \"idempotency-key\": \"${headers.idempotency-key}\"\n"
                                     "  },\n"
                                     "  \"reply\": [\"correlation-id\", \"kafka_correlationId\", "
                                     "\"correlationId\"]\n"
                                     "}\n";

/* Of one-way routes: an event stays true when its caller has gone, and nobody answers it. */
static const char event_headers[] = "{\"command\": {\"content-type\": \"application/json\","
                                    " \"correlation-id\": \"${correlationId}\","
                                    " \"event-type\": \"${eventType}\", \"traceparent\": \"${traceparent}\","
                                    " \"idempotency-key\": \"${headers.idempotency-key}\"},"
                                    " \"reply\": [\"correlation-id\"]}";

static bool check_name(struct reader *r, struct span name)
{
    return name.len <= HEADER_NAME_MAX || reader_fail(r, "at most %d bytes", HEADER_NAME_MAX);
}

/* A text template, or {"int32": template}. */
static bool parse_value(struct reader *r, const struct json_node *node, struct route_command_header *header)
{
    static const char *const keys[] = {"int32", NULL};
    size_t mark = r->where.len;
    header->is_int32 = node->type == JSON_OBJECT;
    if (header->is_int32) {
        if (!reader_keys(r, node, keys))
            return false;
        node = reader_get(r, node, "int32");
        if (!node)
            return reader_fail(r, "the key \"int32\" is missing");
        reader_enter(r, "int32");
    }
    if (node->type != JSON_STRING)
        return reader_fail(r, header->is_int32 ? "expected a string"
                                               : "expected a string or {\"int32\": string}");
    header->value =
        mapping_compile(r->doc, node, MAPPING_REQUEST_ROOTS | MAPPING_COMMAND_HEADERS, r->where.ptr, r->err);
    reader_leave(r, mark);
    return header->value != NULL;
}

static bool parse_command(struct reader *r, const struct json_node *node, struct route_headers *headers)
{
    if (node->type != JSON_OBJECT)
        return reader_fail(r, "expected an object of header names and templates");
    for (const struct json_node *key = json_first(r->doc, node); key; key = json_next(r->doc, key)) {
        if (headers->command_count == ROUTE_COMMAND_HEADERS_MAX)
            return reader_fail(r, "at most %d headers", ROUTE_COMMAND_HEADERS_MAX);
        struct route_command_header *header = &headers->command[headers->command_count];
        if (!reader_text(r, key, &header->name) || !check_name(r, header->name))
            return false;
        for (size_t i = 0; i < headers->command_count; i++)
            if (span_eq(headers->command[i].name, header->name))
                return reader_fail(r, "the header \"%s\" stands twice", header->name.ptr);
        headers->command_count++; /* its template is freed from here on */
        size_t mark = reader_enter(r, header->name.ptr);
        if (!parse_value(r, json_member_value(key), header))
            return false;
        reader_leave(r, mark);
    }
    return true;
}

static bool parse_reply(struct reader *r, const struct json_node *node, struct route_headers *headers)
{
    if (node->type != JSON_ARRAY || node->count == 0)
        return reader_fail(r, "expected a list of header names");
    for (const struct json_node *item = json_first(r->doc, node); item; item = json_next(r->doc, item)) {
        if (headers->reply_count == ROUTE_REPLY_HEADERS_MAX)
            return reader_fail(r, "at most %d headers", ROUTE_REPLY_HEADERS_MAX);
        size_t mark = reader_enter_index(r, headers->reply_count);
        struct span *name = &headers->reply[headers->reply_count++];
        if (!reader_text(r, item, name) || !check_name(r, *name))
            return false;
        reader_leave(r, mark);
    }
    return true;
}

static bool parse_member(struct reader *r, const char *key, struct route_headers *headers,
                         bool (*parse)(struct reader *, const struct json_node *, struct route_headers *))
{
    const struct json_node *node = reader_get(r, json_root(r->doc), key);
    if (!node)
        return reader_fail(r, "the key \"%s\" is missing", key);
    size_t mark = reader_enter(r, key);
    if (!parse(r, node, headers))
        return false;
    reader_leave(r, mark);
    return true;
}

static bool parse_profile(struct route_loader *loader, const char *file, struct span text,
                          struct route_headers *headers)
{
    static const char *const keys[] = {"description", "command", "reply", NULL};
    struct json_doc doc = JSON_DOC_INIT;
    struct reader r;
    struct arena *arena = &loader->table->arena;
    struct span description;
    headers->command = arena_alloc(arena, ROUTE_COMMAND_HEADERS_MAX * sizeof(*headers->command));
    headers->reply = arena_alloc(arena, ROUTE_REPLY_HEADERS_MAX * sizeof(*headers->reply));
    bool ok = reader_init(&r, file, &doc, arena, loader->err);
    if (ok && (!headers->command || !headers->reply))
        ok = reader_no_memory(&r);
    ok = ok && reader_parse(file, text, &doc, loader->err) && reader_keys(&r, json_root(&doc), keys) &&
         reader_string(&r, json_root(&doc), "description", false, &description) &&
         parse_member(&r, "command", headers, parse_command) &&
         parse_member(&r, "reply", headers, parse_reply);
    reader_fini(&r);
    json_fini(&doc);
    return ok;
}

static bool load_profile(struct route_loader *loader, struct span name, bool one_way,
                         struct route_headers *headers)
{
    const char *built_in = one_way ? event_headers : route_default_headers;
    struct buf text = BUF_INIT;
    char *path = NULL;
    bool ok = name.ptr ? loader_read(loader, name, &text, &path) &&
                             parse_profile(loader, path, buf_span(&text), headers)
                       : parse_profile(loader, "(built-in headers)", span_of(built_in), headers);
    free(path);
    buf_fini(&text);
    return ok;
}

const struct route_headers *loader_headers(struct route_loader *loader, struct span name, bool one_way)
{
    struct route_table_impl *table = loader->table;
    for (size_t i = 0; i < table->headers_file_count; i++)
        if (span_eq(table->headers_files[i].name, name) &&
            (name.ptr || table->headers_files[i].one_way == one_way))
            return table->headers_files[i].headers;
    struct route_headers_file *files =
        realloc(table->headers_files, (table->headers_file_count + 1) * sizeof(*files));
    struct route_headers *headers = arena_alloc(&table->arena, sizeof(*headers));
    if (files)
        table->headers_files = files;
    if (!files || !headers) {
        err_set(loader->err, ERR_NO_MEMORY, "out of memory for the route table");
        return NULL;
    }
    /* In the table before it is read: what was compiled before a mistake is freed with the table. */
    files[table->headers_file_count++] = (struct route_headers_file){name, one_way, headers};
    return load_profile(loader, name, one_way, headers) ? headers : NULL;
}

void headers_files_fini(struct route_table_impl *table)
{
    for (size_t i = 0; i < table->headers_file_count; i++) {
        struct route_headers *headers = table->headers_files[i].headers;
        for (size_t h = 0; h < headers->command_count; h++)
            mapping_template_freep(&headers->command[h].value);
    }
    free(table->headers_files);
}
