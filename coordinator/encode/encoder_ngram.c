/* One pass over the folded text. For each start position the hash of the gram grows code point by
 * code point, so a position costs one multiply a length; the finaliser makes bucket, sign and table
 * key independent.
 *
 * A gram counts each time it occurs: queries and titles are short, and damping would need a table
 * per call.
 *
 * Each gram goes to PROBES buckets. With one bucket two unrelated short texts that share a bucket
 * look alike by a whole gram, and among thousands of points one always does; spread over eight, the
 * same noise has no tail. On the emoji set (3176 points, dim 1024) hit@1 rose from 0.63 to 0.76,
 * more than eight times the dimensions with one bucket gave (0.71).
 *
 * The weights by length were chosen on demo/eval.tsv over some twenty settings: single Chinese
 * characters help paraphrases, trigrams mostly dilute, the whole word tells "rest" from
 * "restaurant" but a large weight loses plurals. A short run of Chinese counts a little as a whole,
 * so that a keyword beats the longer ones that contain it ("开心" and not "不开心").
 * docs/ENCODERS.md has the figures.
 */
#include "coordinator/encode/encoder_ngram.h"

#include <string.h>

#include "common/kith_mem.h"
#include "coordinator/encode/ngram_idf.h"
#include "proto/kith_hash.h"
#include "proto/kith_limits.h"

#define DIM_MIN       16u
#define BOUNDARY      1u /* a control character: never inside a run */
#define WORD_GRAM_MIN 3u
#define WORD_GRAM_MAX 5u
#define CJK_GRAM_MAX  3u
#define PROBES        8u
#define WHOLE_CJK_MAX 6u  /* a longer run is a sentence: it never comes again as it is */
#define WORD_CPS_MAX  64u /* a longer run is data, not a word: it is cut into pieces */

/* Changes whenever the same text would give another vector. */
#define NGRAM_VERSION 1u

static const float cjk_weight[CJK_GRAM_MAX + 1] = {0.0f, 0.9f, 1.0f, 0.3f};
static const float word_gram_weight = 0.5f;
static const float whole_word_weight = 0.6f;
static const float whole_cjk_weight = 0.3f;
static const float symbol_weight = 0.5f;

static float gram_idf(uint64_t hash)
{
    uint32_t key = (uint32_t)hash & ~15u;
    size_t lo = 0;
    size_t hi = ngram_idf_n;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (ngram_idf_entries[mid] < key) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    uint32_t level = NGRAM_IDF_LEVELS - 1;
    if (lo < ngram_idf_n && (ngram_idf_entries[lo] & ~15u) == key) {
        level = ngram_idf_entries[lo] & 15u;
    }
    return ngram_idf_weight[level];
}

static void gram_add(uint64_t h, float weight, float *out, uint32_t dim)
{
    uint64_t hash = kith_hash_mix(h);
    float value = weight * gram_idf(hash);
    for (uint64_t probe = hash, i = 0; i < PROBES; i++) {
        /* Multiply-shift instead of modulo; the bucket comes from the high half, the sign from
         * bit 0, the table key (of the first) from bits 4..31. */
        uint32_t bucket = (uint32_t)(((probe >> 32) * dim) >> 32);
        out[bucket] += (probe & 1u) != 0 ? value : -value;
        probe = kith_hash_mix(probe + 0x9e3779b97f4a7c15u);
    }
}

static size_t add_word(const uint32_t *cps, size_t n, float *out, uint32_t dim)
{
    uint32_t marked[WORD_CPS_MAX + 2];
    size_t grams = 0;
    kith_assert(n > 0 && n <= WORD_CPS_MAX);
    marked[0] = BOUNDARY;
    memcpy(marked + 1, cps, n * sizeof *cps);
    marked[n + 1] = BOUNDARY;
    n += 2;

    uint64_t whole = KITH_HASH_START;
    for (size_t i = 0; i < n; i++) {
        whole = kith_hash_step(whole, marked[i]);
        uint64_t h = KITH_HASH_START;
        for (size_t len = 1; len <= WORD_GRAM_MAX && i + len <= n; len++) {
            h = kith_hash_step(h, marked[i + len - 1]);
            if (len >= WORD_GRAM_MIN && len < n) {
                gram_add(h, word_gram_weight, out, dim);
                grams++;
            }
        }
    }
    gram_add(whole, whole_word_weight, out, dim);
    return grams + 1;
}

static size_t add_cjk(const uint32_t *cps, size_t n, float *out, uint32_t dim)
{
    size_t grams = 0;
    uint64_t whole = kith_hash_step(KITH_HASH_START, BOUNDARY);
    for (size_t i = 0; i < n; i++) {
        uint64_t h = KITH_HASH_START;
        whole = kith_hash_step(whole, cps[i]);
        for (size_t len = 1; len <= CJK_GRAM_MAX && i + len <= n; len++) {
            h = kith_hash_step(h, cps[i + len - 1]);
            gram_add(h, cjk_weight[len], out, dim);
            grams++;
        }
    }
    if (n <= WHOLE_CJK_MAX) {
        gram_add(kith_hash_step(whole, BOUNDARY), whole_cjk_weight, out, dim);
        grams++;
    }
    return grams;
}

size_t encoder_ngram_add(const struct textfold *fold, size_t from, size_t to,
                         enum textfold_class cls, float *out, uint32_t dim)
{
    size_t grams = 0;
    kith_assert(from < to && to <= fold->n);
    switch (cls) {
    case TEXTFOLD_BREAK:
        break;
    case TEXTFOLD_WORD:
        for (size_t at = from; at < to; at += WORD_CPS_MAX) {
            size_t n = to - at < WORD_CPS_MAX ? to - at : WORD_CPS_MAX;
            grams += add_word(fold->cps + at, n, out, dim);
        }
        break;
    case TEXTFOLD_CJK:
        grams = add_cjk(fold->cps + from, to - from, out, dim);
        break;
    case TEXTFOLD_SYMBOL:
        gram_add(kith_hash_step(KITH_HASH_START, fold->cps[from]), symbol_weight, out, dim);
        grams = 1;
        break;
    }
    return grams;
}

static enum kith_err ngram_encode(const struct encoder *self, const char *text, size_t len,
                                  float *out, struct kith_diag *diag)
{
    struct textfold fold;
    size_t grams = 0;
    enum kith_err err = textfold_init(&fold, text, len, diag);
    if (err != KITH_OK) {
        return err;
    }
    for (size_t at = 0; at < fold.n;) {
        enum textfold_class cls;
        size_t end = textfold_run(&fold, at, &cls);
        grams += encoder_ngram_add(&fold, at, end, cls, out, self->dim);
        at = end;
    }
    textfold_fini(&fold);
    if (grams == 0) {
        return kith_fail(diag, KITH_UNPROCESSABLE,
                         "cannot encode: the text holds no letter, digit or symbol");
    }
    return KITH_OK;
}

static void ngram_close(struct encoder *self)
{
    kith_free(self);
}

static const struct encoder_ops ngram_ops = {"ngram", ngram_encode, ngram_close};

enum kith_err encoder_ngram_open(struct encoder **out, const struct encoder_config *cfg,
                                 struct kith_diag *diag)
{
    uint32_t dim = cfg->dim != 0 ? cfg->dim : ENCODER_NGRAM_DIM;
    if (dim < DIM_MIN) {
        return kith_fail(diag, KITH_BAD_REQUEST, "encoder.dim is %u, kind \"ngram\" takes %u to %u",
                         dim, DIM_MIN, KITH_DIM_MAX);
    }
    struct encoder *enc = kith_alloc(sizeof *enc);
    if (enc == NULL) {
        return kith_fail(diag, KITH_NOMEM, "encoder");
    }
    enc->ops = &ngram_ops;
    enc->dim = dim;
    uint32_t identity[3] = {NGRAM_VERSION, TEXTFOLD_VERSION, dim};
    enc->fingerprint = encoder_hash(0, "ngram", 5);
    enc->fingerprint = encoder_hash(enc->fingerprint, identity, sizeof identity);
    for (size_t i = 0; i < ngram_idf_n; i++) {
        enc->fingerprint =
            encoder_hash(enc->fingerprint, &ngram_idf_entries[i], sizeof ngram_idf_entries[i]);
    }
    *out = enc;
    return KITH_OK;
}
