/* What `kith import` reads: a file of points in one of four formats, one point at a time, as the
 * JSON text of an upsert.
 *
 *   jsonl   {"id": 1, "vector": [...] or {"text": "..."}, "payload": {...}} per line; with
 *           text_field, any object: that field is encoded, the whole object becomes the payload
 *   npy     a float32 matrix; ids count from first_id
 *   fvecs   int32 dimension and floats, row after row; ids as above
 *   text    one text per line, encoded by the server; the id is the line number
 *
 * Owns: the file. Threads: one. Errors: a bad line is SOURCE_BAD with a diag and reading goes on; a
 * file that cannot be read on is SOURCE_ERROR. Limits: SOURCE_LINE_MAX. */
#ifndef SOURCE_H
#define SOURCE_H

#include <stdbool.h>
#include <stdint.h>

#include "common/kith_buf.h"
#include "proto/kith_err.h"

#define SOURCE_LINE_MAX (8u << 20) /* 8192 floats of 25 digits, a 1 MiB payload, and room */

enum source_format { SOURCE_AUTO, SOURCE_JSONL, SOURCE_NPY, SOURCE_FVECS, SOURCE_TEXT };

/* "jsonl"...; false: no such format. */
bool source_format_named(const char *name, enum source_format *out);

struct source_options {
    enum source_format format; /* AUTO: by the first bytes and the name */
    const char *text_field;    /* NULL = none */
    bool has_first_id;
    uint64_t first_id; /* default: 0 for npy and fvecs, 1 for lines */
};

struct source;

/* path "-" is standard input. */
enum kith_err source_open(struct source **out, const char *path,
                          const struct source_options *options,
                          struct kith_diag *diag) KITH_MUST_CHECK;
void source_close(struct source *source); /* NULL allowed */

/* Continues at an offset and row that source_at and source_row once gave. False: cannot. */
bool source_seek(struct source *source, uint64_t offset, uint64_t row);

enum source_result { SOURCE_POINT, SOURCE_BAD, SOURCE_END, SOURCE_ERROR };

/* Appends one point's JSON to out (on POINT only; memory shows as out->failed). */
enum source_result source_next(struct source *source, struct kith_buf *out, struct kith_diag *diag);

uint64_t source_at(const struct source *source);    /* bytes read, lines and rows in whole */
uint64_t source_row(const struct source *source);   /* lines or rows read; the last one's number */
uint64_t source_bytes(const struct source *source); /* of the whole file, 0 = not known */
bool source_is_lines(const struct source *source);  /* "line 7" or "row 7" */
int source_fd(const struct source *source);

#endif
