/* Rows by their bytes, or as they are, without codes: a list of an index that has none, or all that
 * a filter leaves of a segment.
 *
 * The second is for filters that leave so few rows that ranking lists and scanning blocks of codes
 * for the sake of one row each would take longer: a row of bytes is a third of the row. What is
 * found is exact but for bytes that err by more than ivf_rerank.c allows for. */
#include "shard/index/ivf_job.h"

#include <string.h>

#define LEAD      64u   /* rows fetched before they are ranked: as many as a word of a filter has */
#define STOP_ROWS 8192u /* of a segment, between two questions whether to stop */

/* Through rows [at, end) of a part; run_rows has those that wait for their bytes. */
struct walk {
    const struct ivf_part *part;
    uint32_t number, at, end;
    uint32_t list;       /* of the last word: to be verified, unless the caller did */
    uint32_t n, fetched; /* that wait; of those, how many were fetched a while ago */
};

static uint64_t next_word(const struct walk *walk, uint32_t *span)
{
    uint32_t shift = walk->at % 64, left = walk->end - walk->at;
    *span = left < 64 - shift ? left : 64 - shift;
    uint64_t word = walk->part->allowed == NULL ? UINT64_MAX : walk->part->allowed[walk->at / 64];
    return word >> shift & UINT64_MAX >> (64 - *span);
}

static void verify(struct walk *walk, uint32_t span)
{
    const struct ivf *index = walk->part->index;
    while (index->lists[walk->list + 1] <= walk->at)
        walk->list++;
    for (uint32_t list = walk->list; index->lists[list] < walk->at + span; list++)
        ivf_need_list(index, list);
}

static void rank_exactly(struct ivf_job *job, const struct ivf_part *part, const uint32_t *rows,
                         uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        float score = ivf_rerank_score(job, ivf_rerank_exact(job, part, rows[i]));
        ivf_best_offer(&job->best, score >= -FLT_MAX ? score : -INFINITY); /* damaged: NaN */
    }
}

/* Ranks the first n rows that wait. */
static void rank(struct ivf_job *job, struct walk *walk, uint32_t n)
{
    uint32_t *rows = job->scratch->run_rows;
    if (job->codebook->codes == CODEBOOK_ROWS)
        rank_exactly(job, walk->part, rows, n);
    else
        ivf_rerank_bytes(job, walk->number, rows, n);
    ivf_rerank_refresh(job);
    job->stats.rows += n;
    walk->n -= n;
    memmove(rows, rows + n, sizeof *rows * walk->n);
    walk->fetched = walk->n;
}

/* A whole word of rows is a stream, which the hardware fetches sooner than prefetches do: with
 * them, a scan of all rows of bytes took a quarter longer (100 dimensions) to three quarters (384
 * and more). */
static void take(struct ivf_job *job, struct walk *walk, uint64_t word)
{
    uint32_t *rows = job->scratch->run_rows;
    bool fetch = job->codebook->codes != CODEBOOK_ROWS && word != UINT64_MAX;
    for (; word != 0; word &= word - 1) {
        rows[walk->n] = walk->at + (uint32_t)__builtin_ctzll(word);
        if (fetch)
            ivf_rerank_fetch_row(walk->part->index, rows[walk->n]);
        walk->n++;
    }
    if (walk->n >= walk->fetched + LEAD)
        rank(job, walk, walk->fetched > 0 ? walk->fetched : LEAD);
}

void ivf_rows_scan(struct ivf_job *job, uint32_t number, uint32_t list)
{
    const struct ivf_part *part = &job->parts[number];
    const uint32_t *lists = part->index->lists;
    struct walk walk = {.part = part, .number = number, .at = lists[list], .end = lists[list + 1]};
    for (uint32_t span; walk.at < walk.end; walk.at += span)
        take(job, &walk, next_word(&walk, &span));
    rank(job, &walk, walk.n);
}

/* False: stopped. */
static bool search_part(struct ivf_job *job, uint32_t number)
{
    const struct ivf_part *part = &job->parts[number];
    struct walk walk = {.part = part, .number = number, .end = part->index->n_rows};
    for (uint32_t span; walk.at < walk.end; walk.at += span) {
        if (walk.at % STOP_ROWS == 0 && ivf_job_is_stopped(job))
            return false;
        uint64_t word = next_word(&walk, &span);
        if (word == 0)
            continue;
        verify(&walk, span);
        take(job, &walk, word);
    }
    rank(job, &walk, walk.n);
    return true;
}

bool ivf_rows_search(struct ivf_job *job)
{
    job->opening = false;
    ivf_rerank_refresh(job); /* by what others know */
    for (uint32_t p = 0; p < job->n_parts; p++)
        if (!search_part(job, p))
            return false;
    ivf_rerank_finish(job);
    return true;
}
