#include "shard/storage/residency.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define WINDOW_PAGES 4096u /* asked about at a time */
#ifdef MADV_POPULATE_READ
#define POPULATE_READ MADV_POPULATE_READ
#else
#define POPULATE_READ MADV_WILLNEED /* before Linux 5.14 */
#endif

static size_t page_bytes(void)
{
    return (size_t)sysconf(_SC_PAGESIZE);
}

/* The pages that hold it. Sections begin at pages of 4 KiB, a machine's may be larger. */
static struct kith_bytes pages_of(struct kith_bytes map)
{
    size_t page = page_bytes();
    size_t before = (uintptr_t)map.data % page;
    size_t len = map.len + before;
    return (struct kith_bytes){map.data - before, (len + page - 1) / page * page};
}

static void *address(struct kith_bytes pages, size_t offset)
{
    return (void *)(uintptr_t)(pages.data + offset);
}

uint64_t residency_bytes(struct kith_bytes map)
{
    if (map.len == 0)
        return 0;
    struct kith_bytes pages = pages_of(map);
    size_t page = page_bytes();
    unsigned char in[WINDOW_PAGES];
    uint64_t sum = 0;
    for (size_t at = 0; at < pages.len; at += WINDOW_PAGES * page) {
        size_t len = pages.len - at < WINDOW_PAGES * page ? pages.len - at : WINDOW_PAGES * page;
        if (mincore(address(pages, at), len, in) != 0)
            return sum;
        for (size_t i = 0; i < len / page; i++)
            sum += (in[i] & 1u) * page;
    }
    return sum < map.len ? sum : map.len;
}

void residency_advise(struct kith_bytes map, enum residency_use use)
{
    struct kith_bytes pages = pages_of(map);
    if (map.len == 0)
        return;
    if (use == RESIDENCY_HUGE) {
        (void)madvise(address(pages, 0), pages.len, MADV_HUGEPAGE);
        (void)madvise(address(pages, 0), pages.len, POPULATE_READ);
        return;
    }
    (void)madvise(address(pages, 0), pages.len,
                  use == RESIDENCY_RANDOM ? MADV_RANDOM : MADV_WILLNEED);
}

enum kith_err residency_lock(struct kith_bytes map, struct kith_diag *diag)
{
    struct kith_bytes pages = pages_of(map);
    if (map.len == 0 || mlock(address(pages, 0), pages.len) == 0)
        return KITH_OK;
    return kith_fail(diag, errno == EIO ? KITH_IO : KITH_NOMEM, "mlock of %zu bytes: %s", pages.len,
                     strerror(errno));
}

void residency_unlock(struct kith_bytes map)
{
    struct kith_bytes pages = pages_of(map);
    if (map.len > 0)
        (void)munlock(address(pages, 0), pages.len);
}
