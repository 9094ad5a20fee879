#include "shard/index/ivf_assign.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "common/kith_mem.h"

enum kith_err ivf_assign_init(struct ivf_assign *assign, const struct codebook *codebook,
                              struct kith_diag *diag)
{
    struct nearest_space space = nearest_space_of(codebook->metric, codebook->dim, codebook->lift);
    float *centroids = kith_alloc((size_t)codebook->n_lists * space.width * sizeof *centroids);
    if (centroids == NULL)
        return kith_fail(diag, KITH_NOMEM, "centroids of %u lists", codebook->n_lists);
    for (uint32_t c = 0; c < codebook->n_lists; c++) {
        float *centroid = centroids + (size_t)c * space.width;
        memcpy(centroid, codebook->centroids + (size_t)c * space.dim, space.dim * sizeof *centroid);
        if (codebook->lifts != NULL)
            centroid[space.dim] = codebook->lifts[c];
        centroid[space.width - 1] = -codebook->minus[c] * codebook->weight;
    }
    *assign = (struct ivf_assign){.codebook = codebook, .space = space, .centroids = centroids};
    enum kith_err err = nearest_set_init(&assign->set, &space, centroids, codebook->n_lists, diag);
    if (err == KITH_OK)
        nearest_set_renew(&assign->set);
    return err;
}

void ivf_assign_fini(struct ivf_assign *assign)
{
    nearest_set_fini(&assign->set);
    kith_free(assign->centroids);
    assign->centroids = NULL;
}

struct job {
    const struct ivf_assign *assign;
    const struct segment_source *source;
    enum kith_row_type type;
    struct workers *workers;
    uint32_t *lists;
    double *energy; /* of each worker */
    float *scratch;
    size_t scratch_floats;
};

static void assign_piece(void *ctx, uint32_t piece, uint32_t worker)
{
    struct job *job = ctx;
    const struct nearest_space *space = &job->assign->space;
    uint32_t first = piece * NEAREST_ROWS, left = job->source->n_rows - first;
    uint32_t n = left < NEAREST_ROWS ? left : NEAREST_ROWS;
    float lengths[NEAREST_ROWS], scores[NEAREST_ROWS];
    float *rows = job->scratch + worker * job->scratch_floats;
    if (workers_stopped(job->workers))
        return;
    for (uint32_t i = 0; i < n; i++)
        lengths[i] = nearest_prepare(space, job->source->row(job->source->ctx, first + i),
                                     job->type, rows + (size_t)i * space->width);
    struct nearest_rows prepared = {rows, lengths, n};
    nearest_find(&job->assign->set, &prepared, rows + (size_t)NEAREST_ROWS * space->width,
                 job->lists + first, scores);
    for (uint32_t i = 0; i < n; i++) {
        float energy = lengths[i] - 2 * scores[i];
        if (energy > 0.0f && isfinite(energy))
            job->energy[worker] += (double)energy;
    }
}

enum kith_err ivf_assign_run(const struct ivf_assign *assign, const struct segment_source *source,
                             enum kith_row_type type, struct workers *workers, uint32_t *lists,
                             float *residual_energy, struct kith_diag *diag)
{
    struct job job = {assign, source, type, workers, lists, NULL, NULL, 0};
    uint32_t pieces = (source->n_rows + NEAREST_ROWS - 1) / NEAREST_ROWS;
    job.scratch_floats = (size_t)NEAREST_ROWS * assign->space.width +
                         nearest_scratch_bytes(&assign->set) / sizeof(float);
    job.energy = kith_alloc(workers->threads * sizeof *job.energy);
    job.scratch = kith_alloc_aligned(64, workers->threads * job.scratch_floats * sizeof(float));
    enum kith_err err;
    if (job.energy == NULL || job.scratch == NULL)
        err = kith_fail(diag, KITH_NOMEM, "lists of %u rows", source->n_rows);
    else
        err = workers_run(workers, pieces, assign_piece, &job, diag);
    double sum = 0.0;
    for (uint32_t i = 0; i < workers->threads && err == KITH_OK; i++)
        sum += job.energy[i] / source->n_rows;
    if (err == KITH_OK)
        *residual_energy = sum < (double)FLT_MAX ? (float)sum : FLT_MAX;
    kith_free(job.scratch);
    kith_free(job.energy);
    return err;
}
