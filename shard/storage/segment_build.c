#include "shard/storage/segment_build.h"

#include "common/kith_aside.h"
#include "common/kith_mem.h"

/* Three passes: the hooks read the rows and say their order; the rows are copied in that order,
 * followed by the index, whose memory is given back then; the points come in the order of their
 * source, so that a merge decompresses each block of payloads once however the rows are ordered.
 *
 * What lost: points in the order of the rows. Each of a million payloads then meant a block of
 * 16 KiB to decompress, and payloads written together lay apart afterwards. */

#define STOP_EVERY 1024u
#define NO_PLACE   UINT32_MAX

struct segment_building {
    const struct segment_build *build;
    struct segment_writer *writer;
    uint32_t *order; /* order[i]: the source's number of row i */
    uint32_t *place; /* the other way round */
    void *made;
};

/* After each row and each point. */
static enum kith_err check_stop(const struct segment_build *build, uint32_t i,
                                struct kith_diag *diag)
{
    (void)kith_aside_stand();
    if (i % STOP_EVERY == 0 && build->stop != NULL && build->stop(build->rows.ctx))
        return kith_fail(diag, KITH_CANCELLED, "closing");
    return KITH_OK;
}

static enum kith_err choose_order(struct segment_building *building, struct kith_diag *diag)
{
    const struct segment_build *build = building->build;
    const struct segment_index_hooks *hooks = build->index;
    uint32_t n = build->rows.n_rows;
    building->order = kith_alloc((size_t)n * sizeof *building->order);
    building->place = kith_alloc((size_t)n * sizeof *building->place);
    if (building->order == NULL || building->place == NULL)
        return kith_fail(diag, KITH_NOMEM, "order of %u rows", n);
    for (uint32_t i = 0; i < n; i++) {
        building->order[i] = i;
        building->place[i] = NO_PLACE;
    }
    enum kith_err err = KITH_OK;
    if (hooks != NULL)
        err = hooks->begin(hooks->self, build->writer.config, &build->rows, building->order,
                           &building->made, diag);
    for (uint32_t i = 0; i < n && err == KITH_OK; i++) {
        uint32_t from = building->order[i];
        kith_assert(from < n && building->place[from] == NO_PLACE); /* or rows would be lost */
        building->place[from] = i;
    }
    return err;
}

static enum kith_err write_rows(struct segment_building *building, struct kith_diag *diag)
{
    const struct segment_build *build = building->build;
    enum kith_err err = segment_writer_new(&building->writer, &build->writer, diag);
    for (uint32_t i = 0; i < build->rows.n_rows && err == KITH_OK; i++) {
        err = segment_writer_row(building->writer,
                                 build->rows.row(build->rows.ctx, building->order[i]), diag);
        if (err == KITH_OK)
            err = check_stop(build, i, diag);
    }
    if (err == KITH_OK && building->made != NULL)
        err = build->index->emit(building->made, segment_writer_index, building->writer, diag);
    return err;
}

enum kith_err segment_build_point(struct segment_building *building, uint32_t i,
                                  const struct segment_point *point, struct kith_diag *diag)
{
    enum kith_err err = segment_writer_point(building->writer, building->place[i], point, diag);
    return err == KITH_OK ? check_stop(building->build, i, diag) : err;
}

enum kith_err segment_build_run(const struct segment_build *build, uint32_t **place,
                                uint64_t *bytes, struct kith_diag *diag)
{
    struct segment_building building = {.build = build};
    kith_assert(build->rows.n_rows == build->writer.n_rows);
    enum kith_err err = choose_order(&building, diag);
    if (err == KITH_OK)
        err = write_rows(&building, diag);
    if (building.made != NULL)
        build->index->end(building.made);
    kith_free(building.order);
    if (err == KITH_OK)
        err = build->points(build->points_ctx, &building, diag);
    if (err == KITH_OK)
        err = segment_writer_finish(building.writer, diag);
    if (err == KITH_OK) {
        *bytes = segment_writer_bytes(building.writer);
        *place = building.place;
        building.place = NULL;
    }
    segment_writer_free(building.writer);
    kith_free(building.place);
    return err;
}
