/* The converted word-vector table, NAME.kwv: mapped read-only, checksummed, shared by all threads.
 *
 * Layout (little endian; every section starts at a multiple of 64 bytes, the vectors at 4096):
 *
 *   header   4096 bytes  struct wordvec_header, then zeros
 *   vectors  words x dim f32, in the order of the source: row = rank by frequency
 *   offsets  (words + 1) u32: word i is text[offsets[i] .. offsets[i + 1])
 *   text     folded words (textfold.h), no separators
 *   index    slots x struct wordvec_slot, open addressing, linear probing, at most half full
 *
 * Owns: the mapping. Borrows: nothing. Threads: any, after open.
 * Errors: CORRUPT names what does not agree; NOT_FOUND, IO, NOMEM, TOO_BIG.
 * Limits: KITH_WORDVEC_WORDS_MAX, KITH_WORDVEC_WORD_MAX, KITH_DIM_MAX. A table must not be
 * shortened in place while it is mapped (replace it by rename, as the converter does). */
#ifndef WORDVEC_FILE_H
#define WORDVEC_FILE_H

#include <stddef.h>
#include <stdint.h>

#include "proto/kith_err.h"

#define WORDVEC_FILE_MAGIC   "KITHWVEC"
#define WORDVEC_FILE_VERSION 1u
#define WORDVEC_FILE_HEADER  4096u
#define WORDVEC_FILE_ALIGN   64u

struct wordvec_header {
    char magic[8];
    uint32_t version;
    uint32_t fold_version; /* TEXTFOLD_VERSION the words were folded by */
    uint32_t dim;
    uint32_t words;
    uint64_t slots;
    uint64_t text_bytes;
    uint64_t file_bytes;
    uint64_t source_bytes; /* size and time of the source: another one means convert again */
    int64_t source_mtime_ns;
    uint32_t word_cps_max; /* longest word, in code points */
    uint32_t skipped;      /* source rows left out: duplicates after folding, bad words, zeros */
    float norm_mean;       /* mean L2 norm of the rows */
    uint32_t crc_vectors;
    uint32_t crc_offsets;
    uint32_t crc_text;
    uint32_t crc_index;
    uint32_t crc_header; /* over all bytes before it; last */
};
_Static_assert(sizeof(struct wordvec_header) == 96, "stored size");
_Static_assert(offsetof(struct wordvec_header, crc_header) == 92, "no hidden padding");

struct wordvec_slot {
    uint32_t tag; /* high half of the word's hash */
    uint32_t row; /* row + 1; 0 = empty */
};

/* Where the sections of a header's table lie. */
struct wordvec_layout {
    uint64_t vectors;
    uint64_t offsets;
    uint64_t text;
    uint64_t index;
    uint64_t end;
};

struct wordvec_file {
    /* Immutable after open. */
    struct wordvec_header head;
    const float *vectors;
    const uint32_t *offsets;
    const char *text;
    const struct wordvec_slot *index;
    void *map; /* NULL for wordvec_file_view */
    size_t map_bytes;
};

/* Reads a table that lies in memory (4-byte aligned), trusting nothing in it. *out borrows bytes.
 * Untouched on failure. */
enum kith_err wordvec_file_view(struct wordvec_file *out, const uint8_t *bytes, size_t len,
                                struct kith_diag *diag) KITH_MUST_CHECK;

/* Maps and checks the table behind fd (borrowed; may be closed afterwards). */
enum kith_err wordvec_file_open(struct wordvec_file *out, int fd,
                                struct kith_diag *diag) KITH_MUST_CHECK;
void wordvec_file_close(struct wordvec_file *file); /* a zeroed struct is allowed */

/* The row of a folded word, -1 when it is not there. */
int64_t wordvec_file_find(const struct wordvec_file *file, const char *word, size_t len);
const float *wordvec_file_row(const struct wordvec_file *file, uint32_t row);

/* For the converter. layout: false when the sizes overflow. */
int wordvec_file_layout(const struct wordvec_header *head, struct wordvec_layout *out);
uint64_t wordvec_file_hash(const char *word, size_t len);

#endif
