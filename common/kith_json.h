/* JSON in and out. Reading is simdjson's (one .cpp file includes it): a 768-float vector costs
 * microseconds, not hundreds.
 *
 * A document is parsed and checked as a whole first: valid UTF-8, depth <= KITH_JSON_DEPTH_MAX, no
 * duplicate keys, no trailing bytes, numbers that fit (u64, i64 or finite double). A value is a
 * small handle, valid while its document is open. Threads: a document belongs to one thread at a
 * time. Errors: KITH_BAD_REQUEST with the place and what was expected. */
#ifndef KITH_JSON_H
#define KITH_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/kith_buf.h"
#include "proto/kith_wire.h"

struct kith_json_doc;
struct kith_json {
    const struct kith_json_doc *doc;
    size_t at; /* position in the parser's tape */
};

enum kith_json_type {
    KITH_JSON_NULL,
    KITH_JSON_BOOL,
    KITH_JSON_INT /* u64 or i64 */,
    KITH_JSON_FLOAT,
    KITH_JSON_STR,
    KITH_JSON_ARRAY,
    KITH_JSON_OBJECT
};

/* KITH_JSON_PADDING readable bytes must follow text[len] (their content does not matter). */
#define KITH_JSON_PADDING 64
enum kith_err kith_json_open(struct kith_json_doc **out, const char *text, size_t len,
                             struct kith_diag *diag);
void kith_json_close(
    struct kith_json_doc *doc); /* NULL allowed; parsers are reused per thread where that pays */
struct kith_json kith_json_root(const struct kith_json_doc *doc);

enum kith_json_type kith_json_type(struct kith_json value);
const char *
kith_json_type_name(enum kith_json_type type); /* "a number", "an object"... for messages */
bool kith_json_bool(struct kith_json value, bool *out);    /* false: another type; the same below */
bool kith_json_u64(struct kith_json value, uint64_t *out); /* non-negative integers */
bool kith_json_i64(struct kith_json value, int64_t *out);
bool kith_json_f64(struct kith_json value, double *out); /* any number */
bool kith_json_str(struct kith_json value, const char **text,
                   size_t *len); /* borrowed from the document, NUL-terminated */
bool kith_json_is(struct kith_json value, const char *text); /* a string equal to text */
size_t kith_json_count(struct kith_json value); /* elements or members; 0 for scalars */

bool kith_json_get(struct kith_json object, const char *key,
                   struct kith_json *out); /* false: absent (or not an object) */
/* The same, but null counts as absent: the API allows null for every optional field. */
bool kith_json_opt(struct kith_json object, const char *key, struct kith_json *out);

struct kith_json_iter {
    const struct kith_json_doc *doc;
    size_t at, end;
};
struct kith_json_iter kith_json_iterate(struct kith_json array_or_object); /* empty for scalars */
bool kith_json_next(struct kith_json_iter *iter, struct kith_json *value); /* arrays */
bool kith_json_next_member(struct kith_json_iter *iter, const char **key, size_t *key_len,
                           struct kith_json *value);

/* An array of exactly n finite numbers that fit f32, straight into out: the hot path of upsert and
 * search. The message names the index of the first bad element; a wrong count names both counts. */
enum kith_err kith_json_f32s(struct kith_json array, float *out, size_t n, const char *where,
                             struct kith_diag *diag);

/* A value as msgpack (payloads, filters). */
void kith_json_to_msgpack(struct kith_json value, struct kith_writer *w);

/* ---- writing: straight into a buffer --------------------------------------------------------- */

/* Commas are the writer's business: begin/end nest, `key` before each member's value. */
struct kith_json_writer {
    struct kith_buf *buf;
    uint32_t depth;
    uint64_t not_first; /* a bit per depth */
    bool after_key;
};
void kith_jw_begin_object(struct kith_json_writer *w);
void kith_jw_end_object(struct kith_json_writer *w);
void kith_jw_begin_array(struct kith_json_writer *w);
void kith_jw_end_array(struct kith_json_writer *w);
void kith_jw_key(struct kith_json_writer *w, const char *key);
void kith_jw_key_n(struct kith_json_writer *w, const char *key, size_t len);
void kith_jw_null(struct kith_json_writer *w);
void kith_jw_bool(struct kith_json_writer *w, bool value);
void kith_jw_u64(struct kith_json_writer *w, uint64_t value);
void kith_jw_i64(struct kith_json_writer *w, int64_t value);
void kith_jw_f32(struct kith_json_writer *w,
                 float value); /* shortest text that reads back the same; non-finite: null */
void kith_jw_f64(struct kith_json_writer *w, double value);
void kith_jw_str(struct kith_json_writer *w, const char *text,
                 size_t len); /* escapes; invalid UTF-8 becomes U+FFFD */
void kith_jw_cstr(struct kith_json_writer *w, const char *text);
void kith_jw_id(struct kith_json_writer *w, const struct kith_id *id);
/* One msgpack value as JSON; bin values have no JSON form and fail. False: malformed bytes (nothing
 * sensible was written). */
bool kith_jw_msgpack(struct kith_json_writer *w, struct kith_bytes msgpack);

#endif
