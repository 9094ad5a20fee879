/* The bytes of a columns section (column_format.h), from the fields that a builder gathered.
 *
 * Threads: one. Errors: KITH_NOMEM; KITH_TOO_BIG for more than 2^32 values of a field or 4 GiB of
 * rows. The fields are sorted in the course of it, also when it fails: they can only be freed. */
#ifndef COLUMN_SECTION_H
#define COLUMN_SECTION_H

#include "shard/storage/column_field.h"

struct column_section_fields {
    struct column_field **list; /* is put in order of paths */
    uint32_t n;
    uint32_t n_rows;
    bool shuffled; /* the rows did not come in ascending order */
    bool more;     /* some paths were left out */
};

/* Appends the section to out; out is as before when it fails, unless out itself has failed. */
enum kith_err column_section_write(const struct column_section_fields *fields, struct kith_buf *out,
                                   struct kith_diag *diag);

#endif
