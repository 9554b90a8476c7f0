/* SPDX-License-Identifier: Apache-2.0 */
/* The compiled form of a schema, private to the room. Everything is immutable once schema_compile() has
 * returned it. Schemas and names live in the set's arena; constants are nodes of the set's own document. */
#pragma once

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "syncgate/schema.h"

/* Bits of schema.types, by enum json_type; a number that must be an integer has a bit of its own. */
#define TYPE_BIT(type) (1u << (type))
#define TYPE_BOOLEAN   (TYPE_BIT(JSON_FALSE) | TYPE_BIT(JSON_TRUE))
#define TYPE_INTEGER   0x80u

enum schema_coerce { COERCE_NONE, COERCE_JS_NUMBER, COERCE_JS_BOOLEAN };

enum schema_format {
    FORMAT_UUID,
    FORMAT_DATE_TIME,
    FORMAT_EMAIL,
    FORMAT_URI,
    FORMAT_JS_UUID,
    FORMAT_JS_DATE_TIME,
    FORMAT_JS_EMAIL,
    FORMAT_JS_URL,
};

enum check_kind {
    CHECK_MIN_LENGTH,
    CHECK_MAX_LENGTH,
    CHECK_FORMAT,
    CHECK_PATTERN,
    CHECK_MINIMUM,
    CHECK_MAXIMUM,
    CHECK_EXCLUSIVE_MINIMUM,
    CHECK_EXCLUSIVE_MAXIMUM,
    CHECK_MULTIPLE_OF,
    CHECK_MIN_ITEMS,
    CHECK_MAX_ITEMS,
};

/* digits * 10^exponent */
struct decimal_unit {
    uint64_t digits;
    int64_t exponent;
};

struct pattern {
    struct pattern *next; /* of the set, to free it */
    pcre2_code *code;
    pcre2_match_context *limits;
    bool anchored; /* it can match at the first character only */
};

/* One assertion about strings, numbers or arrays. Checks keep the order of their keywords in the document. */
struct check {
    enum check_kind kind;
    enum schema_format format;
    uint64_t count; /* lengths, items */
    double number;  /* bounds, multipleOf */
    struct decimal_unit unit;
    const struct pattern *pattern;
};

struct property {
    const struct json_node *name; /* in the set's document */
    struct span key;
    const struct schema *schema; /* NULL: required, but not declared */
    bool required;
};

struct schema_list {
    const struct schema **items;
    size_t count;
};

struct schema {
    const struct schema_set *set;
    struct schema *next; /* of the set, newest first */
    uint32_t node;       /* where it comes from: index in the set's document */
    bool never;          /* the boolean schema false */
    bool length_utf16;
    bool enum_of_strings; /* apart from null */
    uint8_t types;        /* 0: any */
    uint8_t mark;         /* cycle search */
    enum schema_coerce coerce;
    const struct json_node *constant;
    const struct json_node *enumeration;
    struct check *checks;
    size_t check_count, check_cap;
    struct property *props; /* declared ones in document order, then the merely required */
    size_t prop_count, prop_cap;
    const struct schema *additional; /* NULL: anything */
    const struct schema *items;      /* NULL: anything */
    const struct schema *ref, *negated;
    struct schema_list all_of, any_of, one_of;
    const struct json_node *starts_with; /* x-syncgate-zod-check: how a failing pattern is reported */
};

struct arena_block;

struct schema_set {
    char *name;
    struct buf text;
    struct json_doc doc;
    struct schema **by_node; /* compiled schema per document node, or NULL */
    struct schema *schemas;
    struct pattern *patterns;
    struct arena_block *arena;
};

/* load.c: zeroed memory that lives as long as the set; NULL without memory. */
void *set_alloc(struct schema_set *set, size_t size);
/* The node at a JSON pointer, or NULL. */
const struct json_node *set_resolve(const struct schema_set *set, struct span pointer);

/* ---- compile.c ---- */
struct compiler {
    struct schema_set *set;
    struct err *err;
    struct buf at; /* JSON pointer of what is being compiled */
    unsigned depth;
};
/* Fills c->err with file, pointer and text; returns false. */
bool compile_fail(struct compiler *c, const char *fmt, ...) SG_PRINTF(2, 3);
bool compile_no_memory(struct compiler *c);
/* Compiles the schema at `node`, whose place is c->at. */
const struct schema *compile_node(struct compiler *c, const struct json_node *node);
/* The same one step further down: below the member called `name`, or below element `index` if name is NULL.
 */
const struct schema *compile_below(struct compiler *c, const struct json_node *name, size_t index,
                                   const struct json_node *node);
const struct schema *compile_ref(struct compiler *c, struct span reference);

/* ---- keyword.c ---- */
/* Compiles all keywords of the schema object `node` into `schema`. */
bool keywords_compile(struct compiler *c, struct schema *schema, const struct json_node *node);

/* ---- valid.c: what valid.c and explain.c share ---- */
/* A value as a schema sees it: converted first, if the schema says so. */
struct value {
    const struct json_doc *doc;
    const struct json_node *node;
    enum json_type type;
    bool coerced;
    double number; /* of a coerced number; may be NaN */
};
struct value value_of(const struct schema *schema, const struct json_doc *doc, const struct json_node *node);
bool value_has_type(const struct value *value, unsigned types);
/* True if the check does not apply to the value's type, or holds. */
bool check_applies(const struct check *check, const struct value *value);
bool check_holds(const struct schema *schema, const struct check *check, const struct value *value);
bool enum_holds(const struct schema *schema, const struct value *value);
bool schema_declares(const struct schema *schema, const struct json_doc *doc, const struct json_node *name);

/* The members of an object as JavaScript sees them: duplicates folded (first place, last value), integer keys
 * first in ascending order. */
struct members {
    struct member {
        const struct json_node *name;  /* first occurrence */
        const struct json_node *value; /* of the last one */
        uint32_t order;
    } * list;
    size_t count;
};
/* Returns false without memory. The list is owned by the caller: free(members->list). */
bool members_of(const struct json_doc *doc, const struct json_node *object,
                struct members *ret_members) SG_NODISCARD;

/* ---- format.c, url.c ---- */
bool format_holds(enum schema_format format, struct span text);
bool url_is_valid(struct span text);
bool ipv6_is_valid(struct span text);
bool ipv4_is_valid(struct span text);

/* ---- number.c ---- */
#define JS_NUMBER_LEN 40
/* Writes a number as JavaScript prints it; infinities and NaN as null, as JSON.stringify does. */
void js_number_format(double value, char out[JS_NUMBER_LEN]);
/* JavaScript's Number(text). */
double js_number_parse(struct span text);
/* False when there are more than 18 significant digits, or none but zeros. */
bool decimal_unit_parse(struct span text, struct decimal_unit *ret_unit);
/* True if the JSON number `text` is an integer multiple of the unit, exactly. */
bool decimal_is_multiple(struct span text, struct decimal_unit unit);
