#include "coordinator/merge.h"

#include <float.h>
#include <math.h>
#include <string.h>

enum kith_err merge_list_init(struct merge_list *out, struct kith_arena *arena, uint32_t k,
                              struct kith_diag *diag)
{
    struct kith_hit *hits = kith_arena_array(arena, k ? k : 1, sizeof(*hits));
    if (!hits)
        return kith_fail(diag, KITH_NOMEM, "request: out of memory");
    *out = (struct merge_list){.hits = hits, .n = 0, .k = k};
    return KITH_OK;
}

enum kith_err merge_scratch_init(struct merge_scratch *out, struct kith_arena *arena,
                                 uint32_t k_max, struct kith_diag *diag)
{
    kith_assert(k_max <= KITH_K_MAX);
    uint32_t table_n = 8;
    while (table_n < 2 * k_max)
        table_n *= 2;
    size_t n = k_max ? k_max : 1;
    struct merge_scratch scratch = {
        .incoming = kith_arena_array(arena, n, sizeof(*scratch.incoming)),
        .merged = kith_arena_array(arena, n, sizeof(*scratch.merged)),
        .table = kith_arena_array(arena, table_n, sizeof(*scratch.table)),
        .table_n = table_n,
        .k_max = k_max,
    };
    if (!scratch.incoming || !scratch.merged || !scratch.table)
        return kith_fail(diag, KITH_NOMEM, "request: out of memory");
    *out = scratch;
    return KITH_OK;
}

int merge_compare(const struct kith_hit *a, const struct kith_hit *b)
{
    if (a->rank != b->rank)
        return a->rank > b->rank ? -1 : 1;
    return kith_id_compare(&a->id, &b->id);
}

static bool asked_for(const struct merge_source *source, const struct kith_id *id)
{
    uint32_t slice = kith_id_slice(id, source->n_slices_total);
    for (uint32_t i = 0; i < source->n_slices; i++)
        if (source->slices[i] == slice)
            return true;
    return false;
}

/* Remembers incoming[at]; false when its id is there already. Slots hold index + 1. */
static bool remember(struct merge_scratch *scratch, uint32_t at)
{
    const struct kith_id *id = &scratch->incoming[at].id;
    uint32_t mask = scratch->table_n - 1;
    uint32_t slot = (uint32_t)(kith_id_hash(id) >> 7) & mask;
    while (scratch->table[slot]) {
        if (kith_id_equal(&scratch->incoming[scratch->table[slot] - 1].id, id))
            return false;
        slot = (slot + 1) & mask;
    }
    scratch->table[slot] = at + 1;
    return true;
}

static enum kith_err unpack(struct kith_bytes packed, uint32_t n_hits,
                            const struct merge_source *source, struct merge_scratch *scratch,
                            struct kith_diag *diag)
{
    memset(scratch->table, 0, scratch->table_n * sizeof(*scratch->table));
    for (uint32_t i = 0; i < n_hits; i++) {
        struct kith_hit *hit = &scratch->incoming[i];
        if (!kith_hit_unpack(packed.data + (size_t)i * KITH_HIT_BYTES, hit) || isnan(hit->rank))
            return kith_fail(diag, KITH_PROTOCOL, "hit %u is malformed", i);
        if (i > 0 && merge_compare(hit - 1, hit) >= 0)
            return kith_fail(diag, KITH_PROTOCOL, "hit %u is out of order", i);
        if (!asked_for(source, &hit->id))
            return kith_fail(diag, KITH_PROTOCOL, "hit %u is of another slice", i);
        if (!remember(scratch, i))
            return kith_fail(diag, KITH_PROTOCOL, "hit %u comes twice", i);
    }
    return KITH_OK;
}

enum kith_err merge_check(const struct merge_list *list, struct kith_bytes packed, uint32_t n_hits,
                          const struct merge_source *source, struct merge_scratch *scratch,
                          struct kith_diag *diag)
{
    kith_assert(list->k <= scratch->k_max);
    if (n_hits > list->k || packed.len != (size_t)n_hits * KITH_HIT_BYTES)
        return kith_fail(diag, KITH_PROTOCOL, "%u hits, asked for %u", n_hits, list->k);
    return unpack(packed, n_hits, source, scratch, diag);
}

enum kith_err merge_add(struct merge_list *into, struct kith_bytes packed, uint32_t n_hits,
                        const struct merge_source *source, struct merge_scratch *scratch,
                        struct kith_diag *diag)
{
    enum kith_err err = merge_check(into, packed, n_hits, source, scratch, diag);
    if (err)
        return err;
    uint32_t n = 0, a = 0, b = 0;
    while (n < into->k && (a < into->n || b < n_hits)) {
        bool first = b >= n_hits ||
                     (a < into->n && merge_compare(&into->hits[a], &scratch->incoming[b]) <= 0);
        scratch->merged[n++] = first ? into->hits[a++] : scratch->incoming[b++];
    }
    if (n)
        memcpy(into->hits, scratch->merged, n * sizeof(*into->hits));
    into->n = n;
    return KITH_OK;
}

void merge_remove(struct merge_list *list, const struct kith_id *id)
{
    for (uint32_t i = 0; i < list->n; i++) {
        if (!kith_id_equal(&list->hits[i].id, id))
            continue;
        memmove(&list->hits[i], &list->hits[i + 1], (list->n - i - 1) * sizeof(*list->hits));
        list->n--;
        return;
    }
}

/* Sums of huge vectors overflow to infinity, which JSON cannot say. */
static float clamped(double value)
{
    if (value > (double)FLT_MAX)
        return FLT_MAX;
    return value < -(double)FLT_MAX ? -FLT_MAX : (float)value;
}

float merge_score(enum kith_metric metric, float rank)
{
    switch (metric) {
    case KITH_EUCLID:
        return rank < 0 ? clamped(sqrt(-(double)rank)) : 0.0F;
    case KITH_MANHATTAN:
        return rank < 0 ? clamped(-(double)rank) : 0.0F;
    default:
        return clamped(rank);
    }
}

bool merge_passes(enum kith_metric metric, float score, float threshold)
{
    bool distance = metric == KITH_EUCLID || metric == KITH_MANHATTAN;
    return distance ? score <= threshold : score >= threshold;
}

float merge_threshold(enum kith_metric metric, float score)
{
    if (metric != KITH_EUCLID && metric != KITH_MANHATTAN)
        return score;
    if (score < 0)
        return FLT_MAX; /* nothing is nearer than 0 */
    double rank = metric == KITH_EUCLID ? -(double)score * (double)score : -(double)score;
    /* sqrt and its square round: a score taken from an earlier answer must pass its own test. */
    return nextafterf(nextafterf(clamped(rank), -FLT_MAX), -FLT_MAX);
}
