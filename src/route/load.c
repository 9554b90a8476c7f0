/* SPDX-License-Identifier: Apache-2.0 */
/* Route files -> table: the files around the routes (OpenAPI document, envelopes, command schemas), each read
 * once, and the checks between routes. */
#include "reader.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>

#define OPENAPI_FILE_MAX ((size_t)16 << 20)

static bool fail(struct route_loader *loader, const char *file, const char *what)
{
    err_set(loader->err, ERR_CONFIG, "%s: %s", file, what);
    return false;
}

static bool no_memory(struct route_loader *loader)
{
    err_set(loader->err, ERR_NO_MEMORY, "out of memory for the route table");
    return false;
}

static bool read_file(struct route_loader *loader, const char *path, size_t max_len, struct buf *text)
{
    int rc = base_read_file(path, max_len, text);
    return rc == 0 || (rc == ENOMEM ? no_memory(loader) : fail(loader, path, strerror(rc)));
}

/* "routes/" and "envelopes/x.json" -> "routes/envelopes/x.json"; owned. */
static char *join_path(const char *dir, struct span name)
{
    char *path = NULL;
    size_t len = strlen(dir);
    while (len > 1 && dir[len - 1] == '/')
        len--;
    return asprintf(&path, "%.*s/%.*s", (int)len, dir, (int)name.len, name.ptr) < 0 ? NULL : path;
}

bool loader_read(struct route_loader *loader, struct span name, struct buf *text, char **ret_path)
{
    *ret_path = join_path(loader->dir, name);
    return *ret_path ? read_file(loader, *ret_path, ROUTE_FILE_MAX, text) : no_memory(loader);
}

/* ---- envelopes ---- */

static struct mapping_template *compile_envelope(struct route_loader *loader, const char *file,
                                                 struct span text)
{
    struct json_doc doc = JSON_DOC_INIT;
    struct mapping_template *tmpl = NULL;
    char *where = NULL;
    if (asprintf(&where, "%s: $", file) < 0) {
        no_memory(loader);
    } else if (reader_parse(file, text, &doc, loader->err)) {
        tmpl = mapping_compile(&doc, json_root(&doc), MAPPING_REQUEST_ROOTS | MAPPING_ENVELOPE, where,
                               loader->err);
        free(where);
    } else {
        free(where);
    }
    json_fini(&doc);
    return tmpl;
}

static struct mapping_template *read_envelope(struct route_loader *loader, struct span name)
{
    if (!name.ptr)
        return compile_envelope(loader, "(no envelope)", SPAN_LIT("\"${payload}\""));
    struct buf text = BUF_INIT;
    struct mapping_template *tmpl = NULL;
    char *path = join_path(loader->dir, name);
    if (!path)
        no_memory(loader);
    else if (read_file(loader, path, ROUTE_FILE_MAX, &text))
        tmpl = compile_envelope(loader, path, buf_span(&text));
    free(path);
    buf_fini(&text);
    return tmpl;
}

const struct mapping_template *loader_envelope(struct route_loader *loader, struct span name)
{
    struct route_table_impl *table = loader->table;
    for (size_t i = 0; i < table->envelope_count; i++)
        if (span_eq(table->envelopes[i].name, name))
            return table->envelopes[i].tmpl;
    struct route_envelope *envelopes =
        realloc(table->envelopes, (table->envelope_count + 1) * sizeof(*envelopes));
    if (!envelopes) {
        no_memory(loader);
        return NULL;
    }
    table->envelopes = envelopes;
    struct mapping_template *tmpl = read_envelope(loader, name);
    if (tmpl)
        envelopes[table->envelope_count++] = (struct route_envelope){name, tmpl};
    return tmpl;
}

/* ---- schemas ---- */

static struct schema_set *schema_file(struct route_loader *loader, struct span name)
{
    struct route_table_impl *table = loader->table;
    for (size_t i = 0; i < table->schema_file_count; i++)
        if (span_eq(table->schema_files[i].name, name))
            return table->schema_files[i].set;
    struct route_schema_file *files =
        realloc(table->schema_files, (table->schema_file_count + 1) * sizeof(*files));
    if (!files) {
        no_memory(loader);
        return NULL;
    }
    table->schema_files = files;
    char *path = join_path(loader->dir, name);
    struct schema_set *set = NULL;
    if (path)
        set = schema_set_load(path, loader->err);
    else
        no_memory(loader);
    free(path);
    if (set)
        files[table->schema_file_count++] = (struct route_schema_file){name, set};
    return set;
}

const struct schema *loader_schema(struct route_loader *loader, struct span reference)
{
    /* The reference is in the arena and NUL-terminated: what stands behind '#' is the pointer. */
    const char *hash = memchr(reference.ptr, '#', reference.len);
    struct span name = {reference.ptr, hash ? (size_t)(hash - reference.ptr) : reference.len};
    struct schema_set *set = schema_file(loader, name);
    return set ? schema_compile(set, hash ? hash + 1 : "", loader->err) : NULL;
}

/* ---- checks between routes ---- */

static size_t split_template(const struct route *route, struct span *segments)
{
    if (route->path.len == 1)
        return 0;
    return path_split((struct span){route->path.ptr + 1, route->path.len - 1}, segments, ROUTE_SEGMENTS_MAX);
}

/* True if the two templates match the same targets, whatever their parameters are called. */
static bool same_targets(const struct route *a, const struct route *b)
{
    struct span of_a[ROUTE_SEGMENTS_MAX], of_b[ROUTE_SEGMENTS_MAX];
    size_t count = split_template(a, of_a);
    bool exact = a->case_sensitive && b->case_sensitive;
    if (!span_eq(a->method, b->method) || split_template(b, of_b) != count)
        return false;
    for (size_t i = 0; i < count; i++) {
        bool is_param = segment_is_param(of_a[i]);
        if (is_param != segment_is_param(of_b[i]))
            return false;
        if (!is_param && !(exact ? span_eq(of_a[i], of_b[i]) : span_eq_nocase(of_a[i], of_b[i])))
            return false;
    }
    return true;
}

static const struct route *nth_route(const struct route_table *table, size_t n)
{
    return n < table->count ? &table->routes[n] : &table->disabled[n - table->count];
}

/* Also with disabled routes, so that enabling one brings no new mistake to light. */
static bool check_pairs(struct route_loader *loader)
{
    const struct route_table *table = &loader->table->pub;
    for (size_t i = 1; i < table->count + table->disabled_count; i++)
        for (size_t j = 0; j < i; j++) {
            const struct route *a = nth_route(table, j), *b = nth_route(table, i);
            if (span_eq(a->operation_id, b->operation_id)) {
                err_set(loader->err, ERR_CONFIG, "%s: $.operationId: \"%s\" is already the route of %s",
                        b->file, b->operation_id.ptr, a->file);
                return false;
            }
            if (same_targets(a, b)) {
                err_set(loader->err, ERR_CONFIG, "%s: $.path: %s %s is already the route of %s (%s)", b->file,
                        b->method.ptr, b->path.ptr, a->file, a->path.ptr);
                return false;
            }
        }
    return true;
}

/* ---- table ---- */

static bool load_openapi(struct route_loader *loader)
{
    const char *path = loader->openapi_path;
    if (!read_file(loader, path, OPENAPI_FILE_MAX, &loader->openapi_text) ||
        !reader_parse(path, buf_span(&loader->openapi_text), &loader->openapi_doc, loader->err))
        return false;
    loader->table->openapi = schema_set_parse(buf_span(&loader->openapi_text), path, loader->err);
    return loader->table->openapi != NULL;
}

static bool load_routes(struct route_loader *loader, const struct route_source *sources, size_t count)
{
    struct route_table *table = &loader->table->pub;
    table->routes = calloc(count + 1, sizeof(*table->routes));
    table->disabled = calloc(count + 1, sizeof(*table->disabled));
    if (!table->routes || !table->disabled)
        return no_memory(loader);
    for (size_t i = 0; i < count; i++) {
        struct route *route = &table->routes[table->count];
        route->index = (uint32_t)table->count++;
        if (!route_parse(loader, &sources[i], route))
            return false;
        if (!route->disabled_because.ptr)
            continue;
        struct route *disabled = &table->disabled[table->disabled_count];
        *disabled = *route;
        disabled->index = (uint32_t)table->disabled_count++;
        *route = (struct route){0};
        table->count--;
    }
    return check_pairs(loader) && (matcher_build(&loader->table->matcher, table) || no_memory(loader));
}

static bool check_topic_names(struct route_loader *loader)
{
    for (size_t i = 0; i < loader->topic_name_count; i++)
        if (!loader->topic_name_used[i]) {
            struct span from = loader->topic_names[i].from;
            err_set(loader->err, ERR_CONFIG,
                    "SYNCGATE_TOPIC_NAMES: no route file of %s uses the topic \"%.*s\"", loader->dir,
                    (int)from.len, from.ptr);
            return false;
        }
    return true;
}

static struct route_table *parse_table(const struct route_source *sources, size_t count,
                                       struct route_loader *loader)
{
    loader->table = calloc(1, sizeof(*loader->table));
    loader->topic_name_used = calloc(loader->topic_name_count + 1, sizeof(*loader->topic_name_used));
    bool ok = loader->table && loader->topic_name_used
                  ? load_openapi(loader) && load_routes(loader, sources, count) && check_topic_names(loader)
                  : no_memory(loader);
    free(loader->topic_name_used);
    buf_fini(&loader->openapi_text);
    json_fini(&loader->openapi_doc);
    struct route_table *table = (struct route_table *)loader->table;
    if (!ok)
        route_table_freep(&table);
    return table;
}

struct route_table *route_table_parse(const struct route_source *sources, size_t count, const char *dir,
                                      const char *openapi_path, struct err *err)
{
    struct err unused;
    struct route_loader loader = {.dir = dir, .openapi_path = openapi_path, .err = err ? err : &unused};
    return parse_table(sources, count, &loader);
}

void route_table_freep(struct route_table **table_ptr)
{
    struct route_table_impl *table = (struct route_table_impl *)*table_ptr;
    if (!table)
        return;
    *table_ptr = NULL;
    for (size_t i = 0; i < table->pub.count; i++)
        route_fini(&table->pub.routes[i]);
    for (size_t i = 0; i < table->pub.disabled_count; i++)
        route_fini(&table->pub.disabled[i]);
    for (size_t i = 0; i < table->envelope_count; i++)
        mapping_template_freep(&table->envelopes[i].tmpl);
    for (size_t i = 0; i < table->schema_file_count; i++)
        schema_set_freep(&table->schema_files[i].set);
    headers_files_fini(table);
    schema_set_freep(&table->openapi);
    matcher_fini(&table->matcher);
    free(table->envelopes);
    free(table->schema_files);
    free(table->pub.reply_topics);
    free(table->pub.routes);
    free(table->pub.disabled_topics);
    free(table->pub.disabled);
    arena_fini(&table->arena);
    free(table);
}

/* ---- directory ---- */

static int is_candidate(const struct dirent *entry)
{
    size_t len = strlen(entry->d_name);
    return entry->d_name[0] != '.' && len > 5 && strcmp(entry->d_name + len - 5, ".json") == 0;
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name); /* not strcoll(): the order must not depend on the locale */
}

struct files {
    struct route_source *sources;
    struct buf *texts;
    size_t count;
};

static bool read_files(struct route_loader *loader, struct dirent **entries, int entry_count,
                       struct files *files)
{
    files->sources = calloc((size_t)entry_count + 1, sizeof(*files->sources));
    files->texts = calloc((size_t)entry_count + 1, sizeof(*files->texts));
    if (!files->sources || !files->texts)
        return no_memory(loader);
    for (int i = 0; i < entry_count; i++) {
        struct stat st;
        char *path = join_path(loader->dir, span_of(entries[i]->d_name));
        if (!path)
            return no_memory(loader);
        files->sources[files->count].name = path; /* freed with files, used or not */
        if (stat(path, &st) == 0 && S_ISDIR(st.st_mode)) {
            free(path);
            continue;
        }
        struct buf *text = &files->texts[files->count++];
        if (!read_file(loader, path, ROUTE_FILE_MAX, text))
            return false;
        files->sources[files->count - 1].text = buf_span(text);
    }
    return true;
}

static void files_fini(struct files *files)
{
    for (size_t i = 0; i < files->count; i++) {
        free((char *)files->sources[i].name);
        buf_fini(&files->texts[i]);
    }
    free(files->sources);
    free(files->texts);
}

struct route_table *route_table_load(const char *dir, const char *openapi_path, struct err *err)
{
    return route_table_load_renamed(dir, openapi_path, NULL, 0, err);
}

struct route_table *route_table_load_renamed(const char *dir, const char *openapi_path,
                                             const struct route_topic_name *names, size_t name_count,
                                             struct err *err)
{
    struct err unused;
    struct route_loader loader = {.dir = dir,
                                  .openapi_path = openapi_path,
                                  .topic_names = names,
                                  .topic_name_count = name_count,
                                  .err = err ? err : &unused};
    struct files files = {0};
    struct dirent **entries = NULL;
    struct route_table *table = NULL;
    int entry_count = scandir(dir, &entries, is_candidate, by_name);
    if (entry_count < 0)
        fail(&loader, dir, strerror(errno));
    else if (read_files(&loader, entries, entry_count, &files))
        table = parse_table(files.sources, files.count, &loader);
    files_fini(&files);
    for (int i = 0; i < entry_count; i++)
        free(entries[i]);
    free(entries);
    return table;
}
