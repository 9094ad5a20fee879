/* What calibrations of indexes have in common: the recalls that settings are kept for, and how much
 * of a measured recall is certain. Threads: no state. */
#ifndef RECALL_LEVELS_H
#define RECALL_LEVELS_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>

#define RECALL_LEVELS 12u
static const float recall_levels_all[RECALL_LEVELS] = {0.7f,  0.8f,  0.85f, 0.9f,   0.925f, 0.95f,
                                                       0.97f, 0.98f, 0.99f, 0.995f, 0.998f, 0.999f};

#define RECALL_LEVELS_CONFIDENCE 1.65 /* standard errors below the mean: 95 %, one-sided */

/* Mean less RECALL_LEVELS_CONFIDENCE standard errors of n queries' recalls, k hits each. Where no
 * query missed anything, one hit in all may be due to luck. */
static inline float recall_levels_bound(const float *recalls, uint32_t n, uint32_t k)
{
    double sum = 0.0, squares = 0.0;
    for (uint32_t i = 0; i < n; i++) {
        sum += (double)recalls[i];
        squares += (double)recalls[i] * (double)recalls[i];
    }
    double mean = sum / n, variance = squares / n - mean * mean, least = 0.5 / ((double)n * k);
    double error = RECALL_LEVELS_CONFIDENCE * sqrt((variance > 0.0 ? variance : 0.0) / n);
    double bound = mean - (error > least ? error : least);
    return bound > 0.0 ? (float)bound : 0.0f;
}

/* What is known of a setting that was tried; a larger struct may begin with it. */
struct recall_trial {
    float bound; /* of its recall */
    double cost;
};

/* For each level the cheapest of n trials, `stride` bytes apart, that is sure to reach it; a trial
 * is named once. Returns how many were chosen: recalls ascend. */
static inline uint32_t recall_levels_choose(const void *trials, size_t stride, uint32_t n,
                                            const struct recall_trial *chosen[RECALL_LEVELS])
{
    uint32_t n_chosen = 0;
    for (uint32_t level = 0; level < RECALL_LEVELS; level++) {
        const struct recall_trial *best = NULL;
        for (uint32_t i = 0; i < n; i++) {
            const struct recall_trial *trial = (const void *)((const char *)trials + i * stride);
            if (trial->bound >= recall_levels_all[level] &&
                (best == NULL || trial->cost < best->cost))
                best = trial;
        }
        if (best != NULL && (n_chosen == 0 || best != chosen[n_chosen - 1]))
            chosen[n_chosen++] = best;
    }
    return n_chosen;
}

#endif
