/* The table of wordvec_file.h, as it is made: one word after the other, then the end.
 *
 * Owns: its memory. Borrows: the sink and the diag, until fini. Threads: one. Errors: CORRUPT (a
 * NaN or a huge number, no usable word), TOO_BIG, NOMEM; of the sink: DISK_FULL, IO. After one of
 * them only fini. */
#ifndef WORDVEC_TABLE_H
#define WORDVEC_TABLE_H

#include "common/kith_buf.h"
#include "coordinator/encode/wordvec_convert.h"

struct wordvec_table {
    const struct wordvec_sink *sink;
    struct kith_diag *diag;
    struct wordvec_header head; /* dim: to be set before the first word */
    uint64_t records;           /* words that came, also those left out */
    struct kith_buf text;
    uint32_t *offsets;
    size_t offsets_cap;
    struct wordvec_slot *slots;
    double norm_sum;
    /* Vectors on their way out. */
    uint8_t *out;
    size_t out_len;
    uint64_t out_at;
};

enum kith_err wordvec_table_init(struct wordvec_table *t, const struct wordvec_sink *sink,
                                 struct kith_diag *diag) KITH_MUST_CHECK;
void wordvec_table_fini(struct wordvec_table *t); /* also after a failed init */

/* A word as it stands in the source. Left out and counted: what becomes equal to an earlier one
 * when it is folded, words that are too long or not UTF-8, rows of zeros. */
enum kith_err wordvec_table_add(struct wordvec_table *t, const char *word, size_t len,
                                const float *row) KITH_MUST_CHECK;

/* Writes what is left; options say what is recorded of the source. */
enum kith_err wordvec_table_finish(struct wordvec_table *t,
                                   const struct wordvec_options *options) KITH_MUST_CHECK;

#endif
