/* How many points each slice held when it last answered: what an incomplete answer is measured by.
 *
 * Owns: its table. Threads: loop. Errors: a full table or a failed allocation forgets; then the
 * total of an incomplete answer is unknown, which is said. Limits: KITH_COLLECTIONS_MAX. */
#ifndef CENSUS_H
#define CENSUS_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/kith_limits.h"

#define CENSUS_BUCKETS 256u

struct census_entry;
struct census {
    struct census_entry *buckets[CENSUS_BUCKETS];
    uint32_t n;
};

void census_note(struct census *census, uint64_t collection, uint32_t slice, uint64_t points);
bool census_get(const struct census *census, uint64_t collection, uint32_t slice, uint64_t *points);
void census_forget(struct census *census, uint64_t collection);
void census_fini(struct census *census);

#endif
