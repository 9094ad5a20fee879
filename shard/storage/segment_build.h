/* Builds one segment from rows of a head or of other segments: the index decides the order of the
 * rows, the rows and the index are written, then the points in the order they come.
 *
 * Owns: nothing after the call; place is the caller's, to be freed with kith_free.
 * Threads: one call is one thread's (the hooks may use more). Errors: those of the writer;
 * KITH_CANCELLED when `stop` says so. After an error the file may have its name already: the caller
 * removes it. */
#ifndef SEGMENT_BUILD_H
#define SEGMENT_BUILD_H

#include "shard/storage/segment_index.h"
#include "shard/storage/segment_writer.h"

struct segment_building;
struct segment_build {
    struct segment_writer_options writer; /* n_rows is that of the rows */
    struct segment_source rows;           /* numbered as they come; stop is for the hooks */
    bool (*stop)(const void *ctx);        /* with rows.ctx, while it is written; NULL: never */
    /* Calls segment_build_point once for each of the rows, in any order. */
    enum kith_err (*points)(void *ctx, struct segment_building *building, struct kith_diag *diag);
    void *points_ctx;
    const struct segment_index_hooks *index; /* NULL: none */
};

/* place[i]: the row of the segment that the source's row i became. *bytes: of the file. */
enum kith_err segment_build_run(const struct segment_build *build, uint32_t **place,
                                uint64_t *bytes, struct kith_diag *diag);

/* For `points`: the source's row i. */
enum kith_err segment_build_point(struct segment_building *building, uint32_t i,
                                  const struct segment_point *point, struct kith_diag *diag);

#endif
