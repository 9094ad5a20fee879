#include "shard/index/pq.h"

#include <string.h>

#include "common/kith_mem.h"

#define ITERATIONS  12u /* more change the error by less than 0.5 % */
#define SUB_DIM_MAX 64u
#define STRETCH_MAX 4.0f

struct training {
    const float *columns;
    uint32_t n, sub_dim;
    float *words;
    struct workers *workers;
};

void pq_halves(const float *words, uint32_t sub_dim, uint32_t n_subs, float *halves)
{
    for (uint32_t s = 0; s < n_subs; s++)
        for (uint32_t k = 0; k < BUILD_WORDS; k++) {
            float sum = 0.0f;
            for (uint32_t j = 0; j < sub_dim; j++) {
                float value = words[((size_t)s * sub_dim + j) * BUILD_WORDS + k];
                sum += value * value;
            }
            halves[s * BUILD_WORDS + k] = sum / 2;
        }
}

struct sums {
    double of[SUB_DIM_MAX][BUILD_WORDS];
    uint32_t counts[BUILD_WORDS];
};

/* Adds the rows of one sub-quantizer to the word each is nearest to. */
static void assign(const struct training *t, const float *columns, const float *words,
                   struct sums *sums)
{
    float block[SUB_DIM_MAX * BUILD_LANES], halves[BUILD_WORDS];
    uint8_t codes[BUILD_LANES];
    pq_halves(words, t->sub_dim, 1, halves);
    memset(sums, 0, sizeof *sums);
    for (uint32_t at = 0; at < t->n; at += BUILD_LANES) {
        for (uint32_t j = 0; j < t->sub_dim; j++)
            memcpy(block + j * BUILD_LANES, columns + (size_t)j * t->n + at,
                   BUILD_LANES * sizeof *block);
        build_kernels()->encode(block, words, halves, t->sub_dim, codes);
        for (uint32_t r = 0; r < BUILD_LANES; r++)
            sums->counts[codes[r]]++;
        for (uint32_t j = 0; j < t->sub_dim; j++)
            for (uint32_t r = 0; r < BUILD_LANES; r++)
                sums->of[j][codes[r]] += (double)block[j * BUILD_LANES + r];
    }
}

/* A word that nobody chose moves beside the most chosen one. */
static void move_words(uint32_t sub_dim, struct sums *sums, float *words)
{
    for (uint32_t k = 0; k < BUILD_WORDS; k++)
        for (uint32_t j = 0; j < sub_dim && sums->counts[k] > 0; j++)
            words[j * BUILD_WORDS + k] = (float)(sums->of[j][k] / sums->counts[k]);
    for (uint32_t k = 0; k < BUILD_WORDS; k++) {
        if (sums->counts[k] > 0)
            continue;
        uint32_t full = 0;
        for (uint32_t other = 1; other < BUILD_WORDS; other++)
            if (sums->counts[other] > sums->counts[full])
                full = other;
        for (uint32_t j = 0; j < sub_dim; j++)
            words[j * BUILD_WORDS + k] =
                words[j * BUILD_WORDS + full] * (1.0f + 0x1p-6f * (float)(k + 1));
        sums->counts[k] = sums->counts[full] / 2;
        sums->counts[full] -= sums->counts[k];
    }
}

static void train_piece(void *ctx, uint32_t sub, uint32_t worker)
{
    (void)worker;
    const struct training *t = ctx;
    const float *columns = t->columns + (size_t)sub * t->sub_dim * t->n;
    float *words = t->words + (size_t)sub * t->sub_dim * BUILD_WORDS;
    struct sums sums;
    for (uint32_t k = 0; k < BUILD_WORDS; k++)
        for (uint32_t j = 0; j < t->sub_dim; j++)
            words[j * BUILD_WORDS + k] = columns[(size_t)j * t->n + k % t->n];
    for (uint32_t i = 0; i < ITERATIONS && !workers_stopped(t->workers); i++) {
        assign(t, columns, words, &sums);
        move_words(t->sub_dim, &sums, words);
    }
}

enum kith_err pq_train(const float *columns, uint32_t n, uint32_t sub_dim, uint32_t n_subs,
                       float *words, struct workers *workers, struct kith_diag *diag)
{
    kith_assert(n > 0 && n % BUILD_LANES == 0 && sub_dim >= 1 && sub_dim <= SUB_DIM_MAX);
    struct training training = {columns, n, sub_dim, words, workers};
    return workers_run(workers, n_subs, train_piece, &training, diag);
}

float pq_stretch(const float *columns, uint32_t n, const struct pq *pq)
{
    struct training training = {.columns = columns, .n = n, .sub_dim = pq->sub_dim};
    double rows = 0.0, products = 0.0;
    struct sums sums;
    for (uint32_t sub = 0; sub < pq->n_subs; sub++) {
        const float *column = columns + (size_t)sub * pq->sub_dim * n;
        const float *words = pq->words + (size_t)sub * pq->sub_dim * BUILD_WORDS;
        assign(&training, column, words, &sums);
        for (uint32_t j = 0; j < pq->sub_dim; j++, column += n) {
            rows += (double)build_kernels()->square(column, n);
            for (uint32_t k = 0; k < BUILD_WORDS; k++)
                products += sums.of[j][k] * (double)words[j * BUILD_WORDS + k];
        }
    }
    float stretch = products > 0.0 ? (float)(rows / products) : 1.0f;
    return !(stretch > 1.0f) ? 1.0f : stretch < STRETCH_MAX ? stretch : STRETCH_MAX;
}
