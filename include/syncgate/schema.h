/* SPDX-License-Identifier: Apache-2.0 */
/* schema: JSON Schema 2020-12 (the keywords the legacy contract needs), compiled once from a JSON or OpenAPI 3.1
 * document, evaluated over a json_doc without building values. Pure: no I/O after load, no clock, no lock.
 * Supported: type, required, properties, additionalProperties, enum, const, minimum, maximum, exclusiveMinimum,
 * exclusiveMaximum, multipleOf, minLength, maxLength, pattern, items, minItems, maxItems, anyOf, oneOf, allOf, not,
 * $ref, $defs, format (uuid, date-time, email, uri), nullable types as arrays; annotations (title, description,
 * default, example(s), deprecated, readOnly, writeOnly, $comment, $schema, $id at the root, discriminator) are accepted
 * and ignored; "x-syncgate-*" extensions below; every other keyword is a load error with its JSON pointer.
 * x-syncgate-length-unit: "utf-16" makes minLength/maxLength of that schema count UTF-16 code units.
 * x-syncgate-format: "js-uuid" | "js-date-time" | "js-email" | "js-url": the legacy backend's own rule for the string
 * (legacy contract 0.1), which differs from the RFC's.
 * x-syncgate-coerce: "js-number" | "js-boolean": the value (the text of a query parameter) is first converted as the legacy
 * backend does, by JavaScript's Number() or by truthiness; arrays and objects become NaN.
 * x-syncgate-zod-check: {"startsWith": "sha256-"}: how a failing `pattern` beside it, "^sha256-", is reported. Asserts
 * nothing itself; a pattern that does not say the same is a load error.
 * A $ref leads into the same document ("#" or "#/..."); $id is accepted and not used; a member that appears twice is
 * refused. Numbers are compared as doubles, except by const, enum and multipleOf, which are exact.
 * Memory of schema_valid() is bounded; a pattern gives up, as not matching, after a fixed number of steps.
 * design.md section 4, legacy contract sections 0.1 and 0.3. */
#pragma once

#include "syncgate/base.h"
#include "syncgate/err.h"
#include "syncgate/json.h"

struct schema_set; /* the compiled schemas of one document */
struct schema;     /* one compiled schema, borrowed from its set */

/* Reads a document (JSON). Nothing is compiled yet. Returns owned, or NULL with *err naming file and line or pointer.
 * Thread: any, at load. */
struct schema_set *schema_set_load(const char *path, struct err *err);
/* The same from memory; `name` stands for the file in messages. */
struct schema_set *schema_set_parse(struct span text, const char *name, struct err *err);
void schema_set_freep(struct schema_set **set);
/* Compiles the schema at a JSON pointer ("/components/schemas/BindDeviceQr"; "" = the root) and all it refers to
 * (recursion allowed). Compiled once per pointer. NULL with *err filled when the pointer leads nowhere, a keyword is
 * unsupported or a value is malformed. Thread: any, one at a time, before the set is shared. */
const struct schema *schema_compile(struct schema_set *set, const char *pointer, struct err *err);

/* True if `node` (NULL = absent, fails every schema) is valid. Never fails for lack of memory.
 * Thread: any (the set is immutable then). */
bool schema_valid(const struct schema *schema, const struct json_doc *doc, const struct json_node *node);

/* Appends why `node` is not valid, as the legacy backend's validation issues (legacy contract 0.3): a JSON array
 * `[{"code":...,"path":[...],"message":...},...]`, key order included: declared properties in schema order first, then
 * unrecognized keys; unions as invalid_union unless one alternative fails only by range, format or extra keys ("dirty"), whose
 * issues stand alone then. `[]` if valid. node == NULL means the value is absent ("Required"). The properties named in the
 * document's order. Thread: any. */
void schema_explain(const struct schema *schema, const struct json_doc *doc, const struct json_node *node,
                    struct buf *out);
/* Appends one short English line "body.qrData.deviceId: expected string" for the first problem, for logs and load errors. */
void schema_explain_line(const struct schema *schema, const struct json_doc *doc,
                         const struct json_node *node, struct buf *out);
/* Appends only where the first problem is, "body.qrData.deviceId": nothing of the values, for logs. */
void schema_explain_place(const struct schema *schema, const struct json_doc *doc,
                          const struct json_node *node, struct buf *out);
