/* SPDX-License-Identifier: Apache-2.0 */
/* Private to route: the parts of a table behind its public face, and what loading needs besides.
 * The table owns every string, template and schema that its routes point to. */
#pragma once

#include "syncgate/json.h"
#include "syncgate/route.h"

#define ROUTE_SEGMENTS_MAX 32
#define ROUTE_FILE_MAX     ((size_t)1 << 20)
#define ROUTE_NODES_MAX    (1u << 20)
#define ROUTE_TOPIC_MAX    249 /* bytes of a topic's name: Kafka's own limit */

/* ---- memory that lives as long as the table ---- */

struct arena_block;
struct arena {
    struct arena_block *blocks;
};
/* Zeroed; NULL when out of memory. */
void *arena_alloc(struct arena *arena, size_t size);
/* A NUL-terminated copy; ptr NULL when out of memory. */
struct span arena_copy(struct arena *arena, struct span text);
void arena_fini(struct arena *arena);

/* ---- matching: match.c ---- */

struct route_params {
    uint8_t count;
    uint8_t segment[ROUTE_PARAMS_MAX]; /* position in the path */
    struct span name[ROUTE_PARAMS_MAX];
};

struct match_node {
    uint32_t param_child; /* 0: none */
    uint32_t route;       /* index + 1 of the first route that ends here; 0: none */
};

struct match_edge {
    uint32_t parent;
    uint32_t child; /* 0: free */
    struct span segment;
};

struct matcher {
    struct match_node *nodes;
    uint32_t node_count;
    struct match_edge *edges; /* open addressing */
    uint32_t edge_mask;
    uint32_t *next_route;        /* by route index: index + 1 of the next one that ends at the same node */
    struct route_params *params; /* by route index */
};

/* Builds the matcher over routes whose paths are well-formed. False when out of memory. */
bool matcher_build(struct matcher *matcher, const struct route_table *table);
void matcher_fini(struct matcher *matcher);

/* Cuts a path without its leading '/' at the slashes. Returns the number of segments, or 0 when there are
 * more than `max`. */
size_t path_split(struct span path, struct span *segments, size_t max);
static inline bool segment_is_param(struct span segment)
{
    return segment.len > 2 && segment.ptr[0] == '{';
}
static inline struct span segment_param(struct span segment)
{
    return (struct span){segment.ptr + 1, segment.len - 2};
}

/* ---- the table ---- */

struct route_envelope {
    struct span name;
    struct mapping_template *tmpl;
};
struct route_schema_file {
    struct span name;
    struct schema_set *set;
};

struct route_headers_file {
    struct span name;              /* ptr NULL: built in */
    bool one_way;                  /* which of the two that are built in */
    struct route_headers *headers; /* in the arena, but for its templates */
};

struct route_table_impl {
    struct route_table pub; /* first */
    struct arena arena;
    struct matcher matcher;
    struct schema_set *openapi;
    struct route_envelope *envelopes;
    size_t envelope_count;
    struct route_schema_file *schema_files;
    size_t schema_file_count;
    struct route_headers_file *headers_files;
    size_t headers_file_count;
};

/* ---- loading ---- */

struct route_loader {
    struct route_table_impl *table;
    const char *dir;
    const char *openapi_path;
    const struct route_topic_name *topic_names;
    bool *topic_name_used; /* as topic_names */
    size_t topic_name_count;
    struct buf openapi_text;
    struct json_doc openapi_doc;
    struct err *err;
};

/* Compiled once each and kept by the table; NULL with *err filled. load.c */
const struct mapping_template *loader_envelope(struct route_loader *loader, struct span name);
const struct schema *loader_schema(struct route_loader *loader, struct span reference);
/* The text of a file that the routes refer to, its path relative to the routes folder; *ret_path is the whole path, owned,
 * also on failure. load.c */
bool loader_read(struct route_loader *loader, struct span name, struct buf *text, char **ret_path);

/* A header profile; name: ptr NULL means the built-in one for this kind of route. NULL with *err filled. headers.c */
const struct route_headers *loader_headers(struct route_loader *loader, struct span name, bool one_way);
void headers_files_fini(struct route_table_impl *table);

struct reader;
/* "versions" of a route or of a rule: a missing one keeps what *versions holds. versions.c */
bool versions_parse(struct reader *r, const struct json_node *object, struct route_versions *versions);
/* True if every version in `b` is also in `a`. */
bool versions_cover(const struct route_versions *a, const struct route_versions *b);
/* Whether a reply has one of these versions. */
bool versions_accept(const struct route_versions *versions, const struct json_doc *reply);

/* Reads one route file into `route` (zeroed), which belongs to the table from then on, failed or not. parse.c
 */
bool route_parse(struct route_loader *loader, const struct route_source *source, struct route *route);
void route_fini(struct route *route);

/* Where an operation stands in the OpenAPI document; false if there is none. The method is in lower case.
 * openapi.c */
bool openapi_find(const struct json_doc *doc, struct span operation_id, const struct json_node **ret_path,
                  const struct json_node **ret_method);
/* False only if no value that is valid by the schema at `reference` ("#/components/schemas/X") can have the
 * member that the steps lead to. */
bool openapi_may_hold(const struct json_doc *doc, struct span reference, const struct mapping_step *steps,
                      size_t count);
