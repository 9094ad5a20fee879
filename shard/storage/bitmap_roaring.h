/* CRoaring behind a small wall: inside of bitmap.c and bitmap_disk.c, nobody else includes it. */
#ifndef BITMAP_ROARING_H
#define BITMAP_ROARING_H

#include <roaring/roaring.h>

#include "shard/storage/bitmap.h"

struct bitmap {
    roaring_bitmap_t *roaring;
    bool view; /* one piece of our memory, whose containers point into somebody else's bytes */
};

/* Takes the bitmap over; NULL (of NULL, too): no memory, and it is gone. */
struct bitmap *bitmap_wrap(roaring_bitmap_t *roaring, bool view);

#endif
