#include "shard/storage/merge_policy.h"

#include "common/kith_mem.h"
#include "proto/kith_limits.h"

/* Size-tiered: segments of about the same number of live rows (within a factor of 8) form a tier;
 * eight of a tier are merged, so a point is rewritten once per factor of eight. Heads at rest are
 * sealed when they are not full: two tiers are below that of a full head. While points pour in it
 * takes sixteen: more segments for searches that have to wait for a CPU anyway, and fewer bytes.
 * What is left of a load when it ends, fewer than sixteen, waits for the gathering at rest, which
 * would write it once more. A segment with a fifth of its rows deleted is rewritten alone, so that
 * disk use stays within 1.25 of the live data. Above SEGMENTS_WANTED eight make a tier full again,
 * and when none is, the smallest are merged whatever their sizes.
 *
 * Segments that have no index and want one are rewritten too, those of one tier together, because
 * that costs the same bytes and leaves fewer of them. But most of them would be merged soon anyway
 * while points pour in, so that waits until it is quiet, or until as many rows want it as a merge
 * of the first tier holds. While a codebook is being trained nothing is merged that can wait: it
 * would be written twice.
 *
 * A better index than the one it has is no reason to write a segment until all is at rest: searches
 * are a little slower with the old one, and the next merge, or the gathering below, replaces it for
 * nothing. So a new generation of the codebook costs no bytes of its own but for a segment too
 * large to be gathered. Where there is never rest, a collection that grows outgrows what is old,
 * and one that changes has it holey.
 *
 * A merge writes an index, too, which takes many times as long as the copying. When more segments
 * come than that keeps up with, the next merges do without: those of small ones, that will be
 * merged again anyway. So the number of segments stays bounded by how fast the disk copies, and not
 * by how long the slowest index takes.
 *
 * At rest the smallest are gathered with the largest that has at most three times their rows: a
 * segment costs a query its share of half-filled blocks and a call for each list. Each such merge
 * makes of a row's segment one at least a third larger, so that however rows come, a row is written
 * few times, and never while it would take the disk from somebody.
 *
 * What lost: leveled merging (more bytes written per byte kept, and a query must look at all
 * segments either way). A factor of 4: 1.2 times the data more is written for a million points, and
 * the segments it saves cost a query little, because their indexes share a codebook. */

#define TIER_FACTOR     8u
#define TIER_FULL       8u
#define TIER_POURING    16u
#define TIERS           14u
#define GATHER_FACTOR   3u
#define GATHER_ROWS_MAX (1u << 22) /* larger ones are few, and their copy needs much disk */
#define SEGMENTS_WANTED 24u
#define SEGMENTS_PLAIN  36u
#define SEGMENTS_HELD   40u /* then none: it would be another soon */
#define SEGMENTS_URGENT 48u

_Static_assert(MERGE_POLICY_MAX >= TIER_POURING, "a full tier becomes one segment");

bool merge_policy_is_holey(uint32_t rows, uint32_t n_deleted)
{
    return (uint64_t)n_deleted * 5 >= rows;
}

bool merge_policy_is_pressed(uint32_t n_segments)
{
    return n_segments > SEGMENTS_URGENT;
}

/* A full head is sealed with base to 2 * base rows: tier 2. */
static uint32_t tier_of(uint32_t live, uint32_t base)
{
    uint32_t tier = 0;
    uint64_t edge = (uint64_t)base * 2 / TIER_FACTOR / TIER_FACTOR;
    for (; live > edge && tier < TIERS - 1; edge = (edge < 1 ? 1 : edge) * TIER_FACTOR)
        tier++;
    return tier;
}

struct choosing {
    const struct merge_part *parts;
    uint32_t n, base;
    struct merge_choice *out;
};

/* The smallest of a tier (or of any), of those that want an index so much. */
#define ANY_TIER UINT32_MAX
static void take_smallest(const struct choosing *choosing, uint32_t tier, enum index_want want)
{
    struct merge_choice *out = choosing->out;
    for (uint32_t i = choosing->n; i-- > 0 && out->n < MERGE_POLICY_MAX;) {
        const struct merge_part *part = &choosing->parts[i];
        if ((tier == ANY_TIER || tier_of(part->live, choosing->base) == tier) && part->want >= want)
            out->from[out->n++] = i;
    }
}

/* The smallest, as far as one is at most GATHER_FACTOR times all below it. */
static void take_gathered(const struct choosing *choosing)
{
    struct merge_choice *out = choosing->out;
    uint64_t rows = 0;
    uint32_t n = 0;
    for (uint32_t i = choosing->n; i-- > 0 && n < MERGE_POLICY_MAX;) {
        uint32_t live = choosing->parts[i].live;
        out->from[n++] = i;
        if (n > 1 && live <= rows * GATHER_FACTOR && rows + live <= GATHER_ROWS_MAX)
            out->n = n;
        rows += live;
    }
}

/* What only makes searches faster. older: the largest part with an older index, or n. */
static void gather(const struct choosing *choosing, uint32_t older, enum merge_pace pace)
{
    struct merge_choice *out = choosing->out;
    take_gathered(choosing);
    if (out->n == 0 && older < choosing->n)
        take_smallest(choosing, tier_of(choosing->parts[older].live, choosing->base),
                      INDEX_WANT_BETTER);
    out->why = MERGE_WHY_REST;
    out->gathers = out->n > 0 && pace != MERGE_REST;
    if (out->gathers)
        out->n = 0;
}

static void choose(const struct merge_part *parts, uint32_t n, uint32_t base, enum merge_pace pace,
                   bool pours, struct merge_choice *out)
{
    const uint32_t full = pours && n <= SEGMENTS_WANTED ? TIER_POURING : TIER_FULL;
    struct choosing choosing = {.parts = parts, .n = n, .base = base, .out = out};
    uint32_t by_tier[TIERS] = {0}, holey = n, older = n, bare = n; /* in the end the largest */
    uint64_t bare_rows = 0;
    kith_assert(n <= KITH_SEGMENTS_MAX);
    *out = (struct merge_choice){0};
    for (uint32_t i = n; i-- > 0;) {
        by_tier[tier_of(parts[i].live, base)]++;
        if (merge_policy_is_holey(parts[i].rows, parts[i].rows - parts[i].live))
            holey = i;
        if (parts[i].want == INDEX_WANT_BETTER)
            older = i;
        if (parts[i].want != INDEX_WANT_ANY)
            continue;
        bare = i;
        bare_rows += parts[i].live;
        out->pending++;
    }
    if (pace == MERGE_HELD) {
        out->waits = true;
        if (n > SEGMENTS_HELD)
            take_smallest(&choosing, ANY_TIER, INDEX_WANT_NOTHING);
        return;
    }
    for (uint32_t tier = 0; tier < TIERS && out->n == 0; tier++)
        if (by_tier[tier] >= full)
            take_smallest(&choosing, tier, INDEX_WANT_NOTHING);
    if (out->n == 0 && n > SEGMENTS_WANTED)
        take_smallest(&choosing, ANY_TIER, INDEX_WANT_NOTHING);
    if (out->n == 0 && holey < n)
        out->from[out->n++] = holey;
    if (out->n > 0)
        return;
    if (bare == n) {
        gather(&choosing, older, pace);
        return;
    }
    out->waits = pace == MERGE_BUSY && bare_rows < (uint64_t)base * TIER_FULL;
    out->why = MERGE_WHY_INDEX;
    if (!out->waits)
        take_smallest(&choosing, tier_of(parts[bare].live, base), INDEX_WANT_ANY);
}

void merge_policy_choose(const struct merge_part *parts, uint32_t n, uint32_t base,
                         enum merge_pace pace, bool pours, struct merge_choice *out)
{
    choose(parts, n, base, pace, pours, out);
    out->plain = out->n > 1 && n > SEGMENTS_PLAIN;
}
