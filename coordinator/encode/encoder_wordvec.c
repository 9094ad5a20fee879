#include "coordinator/encode/encoder_wordvec.h"

#include <fcntl.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/kith_mem.h"
#include "coordinator/encode/encoder_files.h"
#include "coordinator/encode/encoder_ngram.h"
#include "coordinator/encode/segmenter.h"
#include "coordinator/encode/textfold.h"
#include "coordinator/encode/wordvec_convert.h"
#include "coordinator/encode/wordvec_file.h"
#include "proto/kith_limits.h"

#define WORDVEC_VERSION 1u /* changes whenever the same text would give another vector */
#define SIF_A           1e-3
#define ZIPF_SHIFT      2.7 /* Mandelbrot's; only the few commonest words feel it */
#define TABLE_SUFFIX    ".kwv"
#define PIECE_CPS_MIN   3u /* shorter pieces of a word are accidents */

struct encoder_wordvec {
    struct encoder base; /* first: encoder.h casts */
    struct wordvec_file table;
    struct segmenter *dictionary; /* NULL: the vocabulary segments */
    struct segmenter_words vocabulary;
    double sif_a;
    double zipf_sum;
};

/* One text on its way: where the average gathers. */
struct sum {
    const struct encoder_wordvec *enc;
    const struct textfold *fold;
    float *out;
    float *scratch; /* dim floats for hashed words */
    size_t words;
};

static const struct encoder_wordvec *self_of(const struct encoder *enc)
{
    return (const struct encoder_wordvec *)(const void *)enc;
}

/* --- words ------------------------------------------------------------------------------------ */

static double weight_of(const struct encoder_wordvec *enc, uint32_t row, const char *word,
                        size_t len)
{
    double p = -1.0;
    if (enc->dictionary != NULL) {
        p = segmenter_probability(enc->dictionary, word, len);
    }
    if (p < 0) {
        p = 1.0 / ((row + ZIPF_SHIFT) * enc->zipf_sum);
    }
    return enc->sif_a / (enc->sif_a + p);
}

static void add_row(struct sum *sum, uint32_t row, double weight)
{
    const float *vector = wordvec_file_row(&sum->enc->table, row);
    float w = (float)weight;
    for (uint32_t i = 0; i < sum->enc->base.dim; i++) {
        sum->out[i] += w * vector[i];
    }
    sum->words++;
}

/* Hashed n-grams, as long as an average row: an unknown word counts like a rare one. */
static void add_hashed(struct sum *sum, size_t from, size_t to, enum textfold_class cls)
{
    uint32_t dim = sum->enc->base.dim;
    memset(sum->scratch, 0, dim * sizeof *sum->scratch);
    if (encoder_ngram_add(sum->fold, from, to, cls, sum->scratch, dim) == 0) {
        return;
    }
    double squares = 0;
    for (uint32_t i = 0; i < dim; i++) {
        squares += (double)sum->scratch[i] * (double)sum->scratch[i];
    }
    if (!(squares > 0)) {
        return;
    }
    float scale = (float)((double)sum->enc->table.head.norm_mean / sqrt(squares));
    for (uint32_t i = 0; i < dim; i++) {
        sum->out[i] += scale * sum->scratch[i];
    }
    sum->words++;
}

/* UTF-8 of code points [from, to); 0 when longer than any listed word. */
static size_t run_text(const struct textfold *fold, size_t from, size_t to, char *text)
{
    size_t len = 0;
    for (size_t i = from; i < to; i++) {
        char bytes[4];
        size_t n = textfold_encode(fold->cps[i], bytes);
        if (len + n > KITH_WORDVEC_WORD_MAX) {
            return 0;
        }
        memcpy(text + len, bytes, n);
        len += n;
    }
    return len;
}

static bool add_listed(struct sum *sum, size_t from, size_t to)
{
    char text[KITH_WORDVEC_WORD_MAX];
    size_t len = run_text(sum->fold, from, to, text);
    int64_t row = len > 0 ? wordvec_file_find(&sum->enc->table, text, len) : -1;
    if (row < 0) {
        return false;
    }
    add_row(sum, (uint32_t)row, weight_of(sum->enc, (uint32_t)row, text, len));
    return true;
}

/* The code points of [from, to) that listed pieces cover; adds them when `add`. */
static size_t pieces(struct sum *sum, size_t from, size_t to, bool add)
{
    size_t covered = 0;
    for (size_t at = from; at < to;) {
        size_t n =
            segmenter_longest(&sum->enc->vocabulary, sum->fold->cps + at, to - at, PIECE_CPS_MIN);
        if (n > 0 && add) {
            add_listed(sum, at, at + n);
        }
        covered += n;
        at += n > 0 ? n : 1;
    }
    return covered;
}

static void add_word(struct sum *sum, size_t from, size_t to)
{
    const uint32_t *cps = sum->fold->cps;
    if (add_listed(sum, from, to)) {
        return;
    }
    for (size_t i = to; i-- > from + 1;) {
        if (cps[i] == '\'' && add_listed(sum, from, i)) {
            return; /* the possessive of a listed word */
        }
    }
    /* Pieces stand for the word when they cover most of it ("emailaddress"), not when one happens
     * to lie within it. */
    if (pieces(sum, from, to, false) * 4 >= (to - from) * 3) {
        pieces(sum, from, to, true);
    } else {
        add_hashed(sum, from, to, TEXTFOLD_WORD);
    }
}

/* A run without spaces, cut by the vocabulary; what it does not know is hashed, run by run. */
static void add_by_vocabulary(struct sum *sum, size_t from, size_t to)
{
    size_t unknown = from;
    for (size_t at = from; at < to;) {
        size_t n = segmenter_longest(&sum->enc->vocabulary, sum->fold->cps + at, to - at, 1);
        if (n == 0) {
            at++;
            continue;
        }
        if (unknown < at) {
            add_hashed(sum, unknown, at, TEXTFOLD_CJK);
        }
        add_listed(sum, at, at + n);
        at += n;
        unknown = at;
    }
    if (unknown < to) {
        add_hashed(sum, unknown, to, TEXTFOLD_CJK);
    }
}

static void add_unspaced(struct sum *sum, size_t from, size_t to)
{
    if (sum->enc->dictionary == NULL) {
        add_by_vocabulary(sum, from, to);
        return;
    }
    struct segmenter_words words = segmenter_words(sum->enc->dictionary);
    for (size_t at = from; at < to;) {
        size_t n = segmenter_longest(&words, sum->fold->cps + at, to - at, 1);
        n = n > 0 ? n : 1;
        if (!add_listed(sum, at, at + n)) {
            add_by_vocabulary(sum, at, at + n);
        }
        at += n;
    }
}

static enum kith_err wordvec_encode(const struct encoder *self, const char *text, size_t len,
                                    float *out, struct kith_diag *diag)
{
    float room[1024];
    struct textfold fold;
    struct sum sum = {.enc = self_of(self), .fold = &fold, .out = out, .scratch = room};
    enum kith_err err = textfold_init(&fold, text, len, diag);
    if (err != KITH_OK) {
        return err;
    }
    if (self->dim > sizeof room / sizeof room[0]) {
        sum.scratch = kith_alloc(self->dim * sizeof *sum.scratch);
        if (sum.scratch == NULL) {
            err = kith_fail(diag, KITH_NOMEM, "vector of %u", self->dim);
            goto out;
        }
    }
    for (size_t at = 0; at < fold.n;) {
        enum textfold_class cls;
        size_t end = textfold_run(&fold, at, &cls);
        if (cls == TEXTFOLD_WORD) {
            add_word(&sum, at, end);
        } else if (cls == TEXTFOLD_CJK) {
            add_unspaced(&sum, at, end);
        } else if (cls == TEXTFOLD_SYMBOL && !add_listed(&sum, at, end)) {
            add_hashed(&sum, at, end, cls);
        }
        at = end;
    }
    if (sum.words == 0) {
        err = kith_fail(diag, KITH_UNPROCESSABLE,
                        "cannot encode: the text holds no letter, digit or symbol");
    }
out:
    if (sum.scratch != room) {
        kith_free(sum.scratch);
    }
    textfold_fini(&fold);
    return err;
}

/* --- opening ---------------------------------------------------------------------------------- */

static void wordvec_close(struct encoder *self)
{
    struct encoder_wordvec *enc = (struct encoder_wordvec *)(void *)self;
    wordvec_file_close(&enc->table);
    segmenter_free(enc->dictionary);
    kith_free(enc);
}

static const struct encoder_ops wordvec_ops = {"wordvec", wordvec_encode, wordvec_close};

static bool vocabulary_has(const void *ctx, const char *word, size_t len)
{
    return wordvec_file_find(ctx, word, len) >= 0;
}

static bool is_table_name(const char *name)
{
    size_t len = strlen(name);
    size_t suffix = sizeof TABLE_SUFFIX - 1;
    return len > suffix && strcmp(name + len - suffix, TABLE_SUFFIX) == 0;
}

static bool is_of_source(const struct wordvec_file *table, int source_fd)
{
    struct stat st;
    return fstat(source_fd, &st) == 0 && table->head.source_bytes == (uint64_t)st.st_size &&
           table->head.source_mtime_ns ==
               (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec;
}

/* Opens the table `name` of dir_fd. */
static enum kith_err table_open(struct wordvec_file *table, int dir_fd, const char *name,
                                struct kith_diag *diag)
{
    int fd = -1;
    enum kith_err err = encoder_files_open(dir_fd, "encoder.file", name, &fd, diag);
    if (err != KITH_OK) {
        return err;
    }
    err = wordvec_file_open(table, fd, diag);
    if (err != KITH_OK) {
        kith_diag_prefix(diag, "encoder.file \"%.60s\"", name);
    }
    close(fd);
    return err;
}

/* The table of a source file, converted now if there is no valid one of this very source. */
static enum kith_err table_of_source(struct wordvec_file *table, int dir_fd,
                                     const struct encoder_config *cfg, struct kith_diag *diag)
{
    char name[KITH_ENCODER_FILE_NAME_MAX + sizeof TABLE_SUFFIX];
    int source_fd = -1;
    enum kith_err err = encoder_files_open(dir_fd, "encoder.file", cfg->file, &source_fd, diag);
    if (err != KITH_OK) {
        return err;
    }
    snprintf(name, sizeof name, "%s" TABLE_SUFFIX, cfg->file);
    err = table_open(table, dir_fd, name, NULL);
    if (err == KITH_OK && is_of_source(table, source_fd)) {
        goto out;
    }
    if (err == KITH_OK) {
        wordvec_file_close(table);
    } else if (err == KITH_NOMEM || err == KITH_BAD_REQUEST) {
        err = kith_fail(diag, err, "encoder.file: cannot open \"%.100s\"", name);
        goto out;
    }
    struct wordvec_options options = {.progress = cfg->progress, .progress_ctx = cfg->progress_ctx};
    err = wordvec_convert_file(dir_fd, source_fd, name, &options, diag);
    if (err == KITH_OK) {
        err = table_open(table, dir_fd, name, diag);
    } else {
        kith_diag_prefix(diag, "encoder.file \"%.60s\"", cfg->file);
    }
out:
    close(source_fd);
    return err;
}

static enum kith_err dictionary_open(struct encoder_wordvec *enc, int dir_fd, const char *name,
                                     struct kith_diag *diag)
{
    struct kith_buf buf = {.limit = KITH_DICTIONARY_BYTES_MAX};
    enum kith_err err = encoder_files_read(dir_fd, "encoder.dictionary", name, &buf, diag);
    if (err == KITH_OK) {
        err = segmenter_load(&enc->dictionary, (const char *)buf.data, buf.len, diag);
        if (err != KITH_OK) {
            kith_diag_prefix(diag, "encoder.dictionary \"%.60s\"", name);
        }
    }
    if (err == KITH_OK) {
        enc->base.fingerprint = encoder_hash(enc->base.fingerprint, buf.data, buf.len);
    }
    kith_buf_fini(&buf);
    return err;
}

static void identity(struct encoder_wordvec *enc)
{
    const struct wordvec_header *head = &enc->table.head;
    /* The checksums stand for the table's bytes: they were just verified against them. */
    uint32_t numbers[] = {WORDVEC_VERSION,   TEXTFOLD_VERSION,  head->dim,      head->words,
                          head->crc_vectors, head->crc_offsets, head->crc_text, head->crc_index};
    uint64_t hash = encoder_hash(0, "wordvec", 7);
    hash = encoder_hash(hash, numbers, sizeof numbers);
    enc->base.fingerprint = encoder_hash(hash, &enc->sif_a, sizeof enc->sif_a);
}

static enum kith_err check_config(const struct encoder_config *cfg, struct kith_diag *diag)
{
    if (cfg->sif_a != 0 && !(cfg->sif_a > 0 && cfg->sif_a <= 1)) {
        return kith_fail(diag, KITH_BAD_REQUEST, "encoder.sif_a must be above 0 and at most 1");
    }
    enum kith_err err = encoder_files_check("encoder.file", cfg->file, diag);
    if (err == KITH_OK && cfg->dictionary != NULL) {
        err = encoder_files_check("encoder.dictionary", cfg->dictionary, diag);
    }
    return err;
}

enum kith_err encoder_wordvec_open(struct encoder **out, const struct encoder_config *cfg,
                                   struct kith_diag *diag)
{
    struct encoder_wordvec *enc = NULL;
    int dir_fd = -1;
    enum kith_err err = check_config(cfg, diag);
    if (err != KITH_OK) {
        return err;
    }
    enc = kith_alloc(sizeof *enc);
    if (enc == NULL) {
        return kith_fail(diag, KITH_NOMEM, "encoder");
    }
    enc->base.ops = &wordvec_ops;
    enc->sif_a = cfg->sif_a != 0 ? cfg->sif_a : SIF_A;
    err = encoder_files_open_dir(cfg->dir, &dir_fd, diag);
    if (err != KITH_OK) {
        goto out;
    }
    err = is_table_name(cfg->file) ? table_open(&enc->table, dir_fd, cfg->file, diag)
                                   : table_of_source(&enc->table, dir_fd, cfg, diag);
    if (err != KITH_OK) {
        goto out;
    }
    enc->base.dim = enc->table.head.dim;
    if (cfg->dim != 0 && cfg->dim != enc->base.dim) {
        err =
            kith_fail(diag, KITH_BAD_REQUEST, "encoder.dim is %u, the vectors of \"%.60s\" have %u",
                      cfg->dim, cfg->file, enc->base.dim);
        goto out;
    }
    enc->vocabulary = (struct segmenter_words){
        .has = vocabulary_has, .ctx = &enc->table, .cps_max = enc->table.head.word_cps_max};
    for (uint32_t row = 0; row < enc->table.head.words; row++) {
        enc->zipf_sum += 1.0 / (row + ZIPF_SHIFT);
    }
    identity(enc);
    if (cfg->dictionary != NULL) {
        err = dictionary_open(enc, dir_fd, cfg->dictionary, diag);
        if (err != KITH_OK) {
            goto out;
        }
    }
    *out = &enc->base;
    enc = NULL;
out:
    if (dir_fd >= 0) {
        close(dir_fd);
    }
    if (enc != NULL) {
        wordvec_close(&enc->base);
    }
    return err;
}
