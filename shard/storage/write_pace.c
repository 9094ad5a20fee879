#include "shard/storage/write_pace.h"

#include "proto/kith_limits.h"

/* One full head is being sealed most of the time, and a second one waits now and then: free. Merges
 * keep it below 25 segments, and a merge of eight takes a while: so are 40. Both scales end a
 * little before the limit, where a pause must hold against any speed.
 *
 * What lost: a bucket of bytes per second (which rate? that of the disk is not known, and changes);
 * pauses in step with the size of a write (a small one would be let through between two large
 * ones, but its cost is the sync, which it shares). */

#define HEADS_FREE      1.9f
#define HEADS_MARGIN    0.1f
#define SEGMENTS_FREE   40.0f
#define SEGMENTS_MARGIN 2.0f
#define PAUSE_US_MAX    (KITH_WRITE_PAUSE_MS_MAX * 1000u)

static float share(float value, float free, float end)
{
    float share = (value - free) / (end - free);
    return share < 0 ? 0 : share > 1 ? 1 : share;
}

uint32_t write_pace_us(const struct write_debt *debt)
{
    float heads_end = (float)debt->heads_max + 1 - HEADS_MARGIN;
    float heads =
        share((float)debt->heads + (debt->fill < 1 ? debt->fill : 1), HEADS_FREE, heads_end);
    float segments =
        share((float)debt->segments, SEGMENTS_FREE, (float)KITH_SEGMENTS_MAX - SEGMENTS_MARGIN);
    return (uint32_t)((heads > segments ? heads : segments) * (float)PAUSE_US_MAX);
}
