/* The codes of lists that are chosen by the hits expected in them.
 *
 * There are thousands of blocks to scan, in hundreds of lists of a few blocks each: what a list
 * costs beside its blocks counts, and what comes next is not next in memory. So the blocks of all
 * lists are lined up, those with rows that may be found, and the kernel takes them from there,
 * fetching some ahead.
 *
 * The bound rises while lists are scanned, so they are chosen in three rounds. The first is small:
 * the opening's bound is that of 64 rows of the nearest lists, far from that of the best, and
 * before it had risen half of all the rows that are ranked by their bytes had passed. Within a
 * round lists are scanned in the order they lie in memory: there are so many that reading ahead,
 * which the hardware does, is worth more than a bound that rises a little sooner.
 *
 * Lost: a kernel that goes through lists by itself (a tenth slower, it cannot fetch what it does
 * not know); ranking only rows by their bytes at once whose estimate is at the bound, and the
 * others when the scan has ended (half as many, but each waits for its bytes then); smaller batches
 * at first, for a bound that rises sooner (4 % fewer rows by their bytes, no less time); estimates
 * of all that two rounds give, and bytes of the best of them first, as in the opening (a sixth
 * fewer rows, and 12 % more time for word vectors); look-ups of half of the sub-quantizers first,
 * those in which the query has most, and of the others where a row may still pass (half of the
 * blocks for 2 % of the rows that pass: 9 rows of a block are open); leaving out blocks with few
 * open rows (3 % of them). */
#include <string.h>

#include "shard/index/ivf_format.h"
#include "shard/index/ivf_job.h"

#define LISTS_A_STOP 64u  /* lists between two questions whether to stop */
#define BATCH        32u  /* blocks between two looks at the bound */
#define PIECE        128u /* blocks of a list that are lined up at once */
#define LINE         (2 * PIECE)

#define OPENING_REST 0.99f /* of the expected hits is left after the first round */

_Static_assert(BATCH *IVF_BLOCK <= IVF_RUN_ROWS, "candidates have room for a batch");
_Static_assert(BATCH + IVF_KERNELS_LEAD + PIECE <= LINE, "a piece fits behind what is left");

struct line {
    uint32_t part;
    uint32_t from, n; /* those before `from` have been scanned */
    int32_t wanted;   /* of estimates, in steps of the tables; too little by up to 3 */
    uint32_t blocks[LINE + IVF_KERNELS_SLACK], open[LINE + IVF_KERNELS_SLACK];
    int16_t bounds[LINE + IVF_KERNELS_SLACK];
};

static struct ivf_kernels_line line_at(struct line *line, uint32_t at)
{
    return (struct ivf_kernels_line){line->blocks + at, line->open + at, line->bounds + at};
}

/* Drops what has been scanned. */
static void move_up(struct line *line)
{
    line->n -= line->from;
    memmove(line->blocks, line->blocks + line->from, sizeof *line->blocks * line->n);
    memmove(line->open, line->open + line->from, sizeof *line->open * line->n);
    memmove(line->bounds, line->bounds + line->from, sizeof *line->bounds * line->n);
    line->from = 0;
}

static void scan_batch(struct ivf_job *job, struct line *line, uint32_t n)
{
    struct ivf_scratch *s = job->scratch;
    struct ivf_kernels_found found[BATCH];
    const struct ivf *index = job->parts[line->part].index;
    struct ivf_kernels_scan scan = ivf_codes_kernel_scan(job, index);
    uint32_t n_found =
        job->kernels->scan_blocks(&scan, line_at(line, line->from), n, line->n - line->from, found);
    line->from += n;
    job->stats.rows += (uint64_t)n * IVF_BLOCK;
    for (uint32_t i = 0; i < n_found; i++)
        for (uint32_t rows = found[i].rows; rows != 0; rows &= rows - 1) {
            uint32_t row = found[i].block * IVF_BLOCK + (uint32_t)__builtin_ctz(rows);
            s->rows[job->n] = row;
            s->parts[job->n++] = line->part;
            ivf_rerank_fetch_row(index, row);
        }
    if (job->n_pending > 0)
        ivf_rerank_candidates(job, job->n_pending);
    job->n_pending = job->n;
    line->wanted = ivf_codes_wanted(job, index);
}

/* Leaves fewer than n blocks. */
static void scan_line(struct ivf_job *job, struct line *line, uint32_t n)
{
    for (uint32_t left; (left = line->n - line->from) >= n && left > 0;)
        scan_batch(job, line, left < BATCH ? left : BATCH);
}

/* A saturated estimate must pass. */
static int16_t bound_of(const struct line *line, int32_t base)
{
    int32_t bound = line->wanted - base;
    bound = bound > INT16_MIN ? bound : INT16_MIN;
    return (int16_t)(bound < INT16_MAX - 1 ? bound : INT16_MAX - 1);
}

static void scan_list(struct ivf_job *job, struct line *line, uint32_t list)
{
    const struct ivf_part *part = &job->parts[line->part];
    const struct ivf *index = part->index;
    uint32_t end = index->lists[list + 1];
    job->stats.lists++;
    job->stats.listed += end - index->lists[list];
    ivf_need_list(index, list);
    for (uint32_t first = index->lists[list], to; first < end; first = to) {
        to = (first / IVF_BLOCK + PIECE) * IVF_BLOCK;
        to = to < end ? to : end;
        if (line->n + PIECE > LINE)
            move_up(line);
        int16_t bound = bound_of(line, job->scratch->far.bases[list]);
        line->n += job->kernels->line_up(part->allowed, first, to, bound, line_at(line, line->n));
        scan_line(job, line, BATCH + IVF_KERNELS_LEAD);
    }
}

/* False: stopped. */
static bool scan_chosen(struct ivf_job *job)
{
    struct ivf_far *far = &job->scratch->far;
    for (uint32_t part = 0; part < job->n_parts; part++) {
        const uint32_t *lists = job->parts[part].index->lists;
        struct line line;
        line.part = part;
        line.from = line.n = 0;
        line.wanted = ivf_codes_wanted(job, job->parts[part].index);
        for (uint32_t i = 0; i < far->n_chosen; i++) {
            uint32_t list = far->chosen[i];
            if (i % LISTS_A_STOP == 0 && ivf_job_is_stopped(job))
                return false;
            if (lists[list] < lists[list + 1])
                scan_list(job, &line, list);
        }
        scan_line(job, &line, 1);
    }
    for (uint32_t i = 0; i < far->n_chosen; i++)
        far->rows[far->chosen[i]] = 0;
    return true;
}

/* Scans until no more than a part `rest` of the hits that are expected by now is left. False:
 * stopped. */
static bool scan_round(struct ivf_job *job, float rest)
{
    ivf_far_choose(job, rest);
    if (!scan_chosen(job))
        return false;
    ivf_rerank_candidates(job, job->n);
    job->n_pending = 0;
    return true;
}

bool ivf_far_scan(struct ivf_job *job)
{
    float rest = ivf_far_rest(&job->query->effort);
    return scan_round(job, OPENING_REST) && scan_round(job, IVF_FAR_FIRST_REST) &&
           scan_round(job, fminf(rest / IVF_FAR_FIRST_REST, 1));
}
