/* Vectors are written as they come, at their final place; words, offsets and the index are kept in
 * memory (about 40 bytes a word) and written after them, the header last, so a table cut short by a
 * crash has no magic and is not opened even if the rename had happened. */
#include "coordinator/encode/wordvec_table.h"

#include <errno.h>
#include <math.h>
#include <string.h>

#include "common/kith_mem.h"
#include "coordinator/encode/textfold.h"
#include "proto/kith_crc32c.h"
#include "proto/kith_limits.h"

#define OUT_BYTES (1u << 20)

static enum kith_err write_at(struct wordvec_table *t, const void *data, size_t n, uint64_t at)
{
    int error = t->sink->write(t->sink->self, data, n, at);
    if (error != 0) {
        return kith_fail(t->diag, error == ENOSPC ? KITH_DISK_FULL : KITH_IO,
                         "word-vector table: write: errno %d", error);
    }
    return KITH_OK;
}

static enum kith_err flush(struct wordvec_table *t)
{
    if (t->out_len == 0) {
        return KITH_OK;
    }
    t->head.crc_vectors = kith_crc32c(t->head.crc_vectors, t->out, t->out_len);
    enum kith_err err = write_at(t, t->out, t->out_len, t->out_at);
    if (err != KITH_OK) {
        return err;
    }
    t->out_at += t->out_len;
    t->out_len = 0;
    return KITH_OK;
}

static enum kith_err put(struct wordvec_table *t, const void *data, size_t n)
{
    const uint8_t *bytes = data;
    while (n > 0) {
        size_t room = OUT_BYTES - t->out_len;
        size_t part = n < room ? n : room;
        memcpy(t->out + t->out_len, bytes, part);
        t->out_len += part;
        bytes += part;
        n -= part;
        if (t->out_len == OUT_BYTES) {
            enum kith_err err = flush(t);
            if (err != KITH_OK) {
                return err;
            }
        }
    }
    return KITH_OK;
}

/* The slot of the word, or the empty one where it belongs. */
static uint64_t slot_of(const struct wordvec_table *t, const char *word, size_t len, uint32_t *tag)
{
    uint64_t hash = wordvec_file_hash(word, len);
    uint64_t mask = t->head.slots - 1;
    uint64_t at = hash & mask;
    *tag = (uint32_t)(hash >> 32);
    for (; t->slots[at].row != 0; at = (at + 1) & mask) {
        if (t->slots[at].tag != *tag) {
            continue;
        }
        uint32_t start = t->offsets[t->slots[at].row - 1];
        if (t->offsets[t->slots[at].row] - start == len &&
            memcmp(t->text.data + start, word, len) == 0) {
            break;
        }
    }
    return at;
}

static enum kith_err slots_double(struct wordvec_table *t)
{
    uint64_t slots_n = t->head.slots == 0 ? 1024 : t->head.slots * 2;
    struct wordvec_slot *slots = kith_alloc(slots_n * sizeof *slots);
    if (slots == NULL) {
        return kith_fail(t->diag, KITH_NOMEM, "word-vector index of %u words", t->head.words);
    }
    kith_free(t->slots);
    t->slots = slots;
    t->head.slots = slots_n;
    for (uint32_t row = 0; row < t->head.words; row++) {
        uint32_t tag;
        const char *word = (const char *)t->text.data + t->offsets[row];
        uint64_t at = slot_of(t, word, t->offsets[row + 1] - t->offsets[row], &tag);
        t->slots[at] = (struct wordvec_slot){.tag = tag, .row = row + 1};
    }
    return KITH_OK;
}

enum kith_err wordvec_table_init(struct wordvec_table *t, const struct wordvec_sink *sink,
                                 struct kith_diag *diag)
{
    *t = (struct wordvec_table){.sink = sink, .diag = diag, .out_at = WORDVEC_FILE_HEADER};
    t->out = kith_alloc(OUT_BYTES);
    if (t->out == NULL) {
        return kith_fail(diag, KITH_NOMEM, "word-vector conversion buffers");
    }
    return slots_double(t);
}

void wordvec_table_fini(struct wordvec_table *t)
{
    kith_free(t->out);
    kith_free(t->offsets);
    kith_free(t->slots);
    kith_buf_fini(&t->text);
}

/* A folded word that is not listed yet; at is its slot. */
static enum kith_err append_word(struct wordvec_table *t, const char *word, size_t len, uint64_t at,
                                 uint32_t tag)
{
    if (t->head.words == KITH_WORDVEC_WORDS_MAX) {
        return kith_fail(t->diag, KITH_TOO_BIG, "word-vector file: more than %u words",
                         KITH_WORDVEC_WORDS_MAX);
    }
    if (!kith_grow((void **)&t->offsets, &t->offsets_cap, (size_t)t->head.words + 2,
                   sizeof *t->offsets)) {
        return kith_fail(t->diag, KITH_NOMEM, "word-vector file: %u words", t->head.words);
    }
    kith_buf_append(&t->text, word, len);
    if (t->text.failed) {
        return kith_fail(t->diag, KITH_NOMEM, "word-vector file: %u words", t->head.words);
    }
    t->offsets[0] = 0;
    t->offsets[t->head.words + 1] = (uint32_t)t->text.len;
    t->slots[at] = (struct wordvec_slot){.tag = tag, .row = ++t->head.words};
    uint32_t cps = textfold_count(word, len);
    t->head.word_cps_max = cps > t->head.word_cps_max ? cps : t->head.word_cps_max;
    return (uint64_t)t->head.words * 2 >= t->head.slots ? slots_double(t) : KITH_OK;
}

enum kith_err wordvec_table_add(struct wordvec_table *t, const char *word, size_t len,
                                const float *row)
{
    char folded[KITH_WORDVEC_WORD_MAX];
    size_t folded_len;
    double sum = 0;
    uint32_t tag;
    t->records++;
    for (uint32_t i = 0; i < t->head.dim; i++) {
        sum += (double)row[i] * (double)row[i];
    }
    if (!isfinite(sum) || sum > 1e30) {
        return kith_fail(t->diag, KITH_CORRUPT,
                         "word-vector file: record %llu has a NaN, an infinity or a huge number",
                         (unsigned long long)t->records);
    }
    if (!(sum > 1e-30) || len > KITH_WORDVEC_WORD_MAX ||
        !textfold_utf8(word, len, folded, sizeof folded, &folded_len) || folded_len == 0) {
        t->head.skipped++;
        return KITH_OK;
    }
    uint64_t at = slot_of(t, folded, folded_len, &tag);
    if (t->slots[at].row != 0) {
        t->head.skipped++;
        return KITH_OK;
    }
    t->norm_sum += sqrt(sum);
    enum kith_err err = append_word(t, folded, folded_len, at, tag);
    return err == KITH_OK ? put(t, row, t->head.dim * sizeof *row) : err;
}

enum kith_err wordvec_table_finish(struct wordvec_table *t, const struct wordvec_options *options)
{
    struct wordvec_layout layout = {0};
    uint8_t first[WORDVEC_FILE_HEADER] = {0};
    struct wordvec_header *head = &t->head;
    enum kith_err err = flush(t);
    if (err != KITH_OK) {
        return err;
    }
    if (head->words == 0) {
        return kith_fail(t->diag, KITH_CORRUPT, "word-vector file: it holds no usable word");
    }
    memcpy(head->magic, WORDVEC_FILE_MAGIC, sizeof head->magic);
    head->version = WORDVEC_FILE_VERSION;
    head->fold_version = TEXTFOLD_VERSION;
    head->text_bytes = t->text.len;
    head->source_bytes = options->source_bytes;
    head->source_mtime_ns = options->source_mtime_ns;
    head->norm_mean = (float)(t->norm_sum / head->words);
    int fits = wordvec_file_layout(head, &layout);
    kith_assert(fits);
    head->file_bytes = layout.end;
    size_t offsets_bytes = ((size_t)head->words + 1) * sizeof *t->offsets;
    size_t index_bytes = head->slots * sizeof *t->slots;
    head->crc_offsets = kith_crc32c(0, t->offsets, offsets_bytes);
    head->crc_text = kith_crc32c(0, t->text.data, t->text.len);
    head->crc_index = kith_crc32c(0, t->slots, index_bytes);
    head->crc_header = kith_crc32c(0, head, offsetof(struct wordvec_header, crc_header));
    memcpy(first, head, sizeof *head);
    err = write_at(t, t->offsets, offsets_bytes, layout.offsets);
    if (err == KITH_OK) {
        err = write_at(t, t->text.data, t->text.len, layout.text);
    }
    if (err == KITH_OK) {
        err = write_at(t, t->slots, index_bytes, layout.index);
    }
    if (err == KITH_OK) {
        err = write_at(t, first, sizeof first, 0);
    }
    return err;
}
