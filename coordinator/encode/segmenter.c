/* The dictionary is one block of folded words and an open-addressing index of their offsets. */
#include "coordinator/encode/segmenter.h"

#include <string.h>

#include "common/kith_buf.h"
#include "common/kith_mem.h"
#include "coordinator/encode/textfold.h"
#include "proto/kith_hash.h"
#include "proto/kith_limits.h"

struct word {
    uint32_t offset;
    uint32_t len;
    uint64_t count;
};

struct segmenter {
    struct kith_buf text;
    struct word *words;
    size_t n;
    size_t cap;
    uint32_t *slots; /* word index + 1; 0 = empty */
    size_t slots_n;  /* power of two, more than twice n */
    uint64_t count_sum;
    uint32_t cps_max;
};

static uint64_t word_hash(const char *word, size_t len)
{
    uint64_t h = kith_hash_bytes(KITH_HASH_START, word, len);
    return h ^ (h >> 32); /* the high half is folded in for the low bits */
}

static size_t slot_of(const struct segmenter *seg, const char *word, size_t len)
{
    size_t mask = seg->slots_n - 1;
    size_t at = word_hash(word, len) & mask;
    while (seg->slots[at] != 0) {
        const struct word *found = &seg->words[seg->slots[at] - 1];
        if (found->len == len && memcmp(seg->text.data + found->offset, word, len) == 0) {
            break;
        }
        at = (at + 1) & mask;
    }
    return at;
}

static bool slots_resize(struct segmenter *seg, size_t slots_n)
{
    uint32_t *slots = kith_alloc(slots_n * sizeof *slots);
    if (slots == NULL) {
        return false;
    }
    kith_free(seg->slots);
    seg->slots = slots;
    seg->slots_n = slots_n;
    for (size_t i = 0; i < seg->n; i++) {
        const char *word = (const char *)seg->text.data + seg->words[i].offset;
        seg->slots[slot_of(seg, word, seg->words[i].len)] = (uint32_t)i + 1;
    }
    return true;
}

static bool word_add(struct segmenter *seg, const char *word, size_t len, uint64_t count)
{
    if ((seg->n + 1) * 2 >= seg->slots_n && !slots_resize(seg, seg->slots_n * 2)) {
        return false;
    }
    size_t at = slot_of(seg, word, len);
    seg->count_sum += count;
    if (seg->slots[at] != 0) {
        seg->words[seg->slots[at] - 1].count += count;
        return true;
    }
    if (!kith_grow((void **)&seg->words, &seg->cap, seg->n + 1, sizeof *seg->words)) {
        return false;
    }
    size_t offset = seg->text.len;
    kith_buf_append(&seg->text, word, len);
    if (seg->text.failed) {
        return false;
    }
    seg->words[seg->n] =
        (struct word){.offset = (uint32_t)offset, .len = (uint32_t)len, .count = count};
    seg->slots[at] = (uint32_t)++seg->n;
    return true;
}

/* "word count tag": false when the count is no number. */
static bool line_split(const char *line, size_t len, size_t *word_len, uint64_t *count)
{
    size_t end = 0;
    while (end < len && line[end] != ' ' && line[end] != '\t') {
        end++;
    }
    *word_len = end;
    *count = 0;
    while (end < len && (line[end] == ' ' || line[end] == '\t')) {
        end++;
    }
    for (; end < len && line[end] != ' ' && line[end] != '\t'; end++) {
        if (line[end] < '0' || line[end] > '9' || *count > (1ull << 40)) {
            return false;
        }
        *count = *count * 10 + (uint64_t)(line[end] - '0');
    }
    return true;
}

static enum kith_err line_add(struct segmenter *seg, const char *line, size_t len, size_t number,
                              struct kith_diag *diag)
{
    size_t word_len;
    uint64_t count;
    char folded[KITH_WORDVEC_WORD_MAX];
    size_t folded_len;
    if (len > 0 && line[len - 1] == '\r') {
        len--;
    }
    if (!line_split(line, len, &word_len, &count)) {
        return kith_fail(diag, KITH_CORRUPT,
                         "dictionary line %zu: a count must be a number below 2^40", number);
    }
    if (word_len == 0) {
        return KITH_OK;
    }
    if (!textfold_utf8(line, word_len, folded, sizeof folded, &folded_len)) {
        return kith_fail(diag, KITH_CORRUPT,
                         "dictionary line %zu: the word is not UTF-8 or longer than %u bytes",
                         number, KITH_WORDVEC_WORD_MAX);
    }
    if (folded_len == 0) {
        return KITH_OK;
    }
    if (!word_add(seg, folded, folded_len, count)) {
        return kith_fail(diag, KITH_NOMEM, "dictionary line %zu", number);
    }
    uint32_t cps = textfold_count(folded, folded_len);
    if (cps > seg->cps_max) {
        seg->cps_max = cps;
    }
    return KITH_OK;
}

enum kith_err segmenter_load(struct segmenter **out, const char *text, size_t len,
                             struct kith_diag *diag)
{
    enum kith_err err = KITH_OK;
    kith_assert(out != NULL && (text != NULL || len == 0));
    if (len > KITH_DICTIONARY_BYTES_MAX) {
        return kith_fail(diag, KITH_TOO_BIG, "dictionary: %zu bytes, limit %u", len,
                         KITH_DICTIONARY_BYTES_MAX);
    }
    struct segmenter *seg = kith_alloc(sizeof *seg);
    if (seg == NULL || !slots_resize(seg, 64)) {
        err = kith_fail(diag, KITH_NOMEM, "dictionary");
        goto out;
    }
    size_t number = 0;
    for (size_t at = 0; at < len;) {
        const char *end = memchr(text + at, '\n', len - at);
        size_t line_len = end != NULL ? (size_t)(end - (text + at)) : len - at;
        err = line_add(seg, text + at, line_len, ++number, diag);
        if (err != KITH_OK) {
            goto out;
        }
        at += line_len + 1;
    }
    if (seg->n == 0) {
        err = kith_fail(diag, KITH_CORRUPT, "dictionary: it holds no word");
        goto out;
    }
    *out = seg;
    seg = NULL;
out:
    segmenter_free(seg);
    return err;
}

void segmenter_free(struct segmenter *seg)
{
    if (seg == NULL) {
        return;
    }
    kith_buf_fini(&seg->text);
    kith_free(seg->words);
    kith_free(seg->slots);
    kith_free(seg);
}

static bool seg_has(const void *ctx, const char *word, size_t len)
{
    const struct segmenter *seg = ctx;
    return seg->slots[slot_of(seg, word, len)] != 0;
}

struct segmenter_words segmenter_words(const struct segmenter *seg)
{
    return (struct segmenter_words){.has = seg_has, .ctx = seg, .cps_max = seg->cps_max};
}

size_t segmenter_n(const struct segmenter *seg)
{
    return seg->n;
}

double segmenter_probability(const struct segmenter *seg, const char *word, size_t len)
{
    uint32_t found = seg->slots[slot_of(seg, word, len)];
    if (found == 0 || seg->count_sum == 0) {
        return -1.0;
    }
    return (double)seg->words[found - 1].count / (double)seg->count_sum;
}

size_t segmenter_longest(const struct segmenter_words *words, const uint32_t *cps, size_t n,
                         size_t cps_min)
{
    char text[SEGMENTER_CPS_MAX * 4];
    size_t ends[SEGMENTER_CPS_MAX + 1]; /* bytes of the first i code points */
    size_t most = n < words->cps_max ? n : words->cps_max;
    most = most < SEGMENTER_CPS_MAX ? most : SEGMENTER_CPS_MAX;
    ends[0] = 0;
    for (size_t i = 0; i < most; i++) {
        ends[i + 1] = ends[i] + textfold_encode(cps[i], text + ends[i]);
    }
    for (size_t len = most; len >= cps_min && len > 0; len--) {
        if (words->has(words->ctx, text, ends[len])) {
            return len;
        }
    }
    return 0;
}
