#include "ann_memory.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "shard/index/ivf.h"
#include "shard/query/memory.h"

static void forget_file(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    /* Pages that are not on the disk yet cannot be dropped. */
    if (fd < 0 || fsync(fd) != 0 || posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) != 0) {
        fprintf(stderr, "ann: %s cannot be put out of memory\n", path);
        exit(1);
    }
    close(fd);
}

static void forget_files(const char *dir)
{
    DIR *folder = opendir(dir);
    struct dirent *entry;

    if (folder == NULL) {
        fprintf(stderr, "ann: %s cannot be read\n", dir);
        exit(1);
    }
    while ((entry = readdir(folder)) != NULL) {
        char path[4352];
        snprintf(path, sizeof(path), "%s/%s", dir, entry->d_name);
        if (strncmp(entry->d_name, "seg-", 4) == 0)
            forget_file(path);
    }
    closedir(folder);
}

void ann_memory_evict(struct view *view, const char *dir)
{
    for (uint32_t i = 0; i < view->n_segments; i++) {
        struct segment *segment = view->segments[i].segment;
        struct kith_diag diag = {0};
        if (segment_verify(segment, NULL, NULL, &diag) != KITH_OK) {
            fprintf(stderr, "ann: %s\n", diag.text);
            exit(1);
        }
        /* A page that is mapped stays; sections begin at pages. */
        for (unsigned kind = 0; kind < SEGMENT_SECTIONS; kind++) {
            struct kith_bytes place = segment_place(segment, kind);
            if (place.len > 0)
                (void)madvise((void *)(uintptr_t)place.data, place.len, MADV_DONTNEED);
        }
    }
    forget_files(dir);
}

void ann_memory_tell(struct view *view, const char *engine, const char *set, uint32_t queries)
{
    struct memory_use uses[MEMORY_KINDS] = {0};
    uint32_t dim = view->config.dim, n_lists = 0;
    double points = (double)view->live_points, f32 = dim * sizeof(float), file = 0, resident = 0,
           hot = 0;

    memory_of_views(&view, 1, NULL, NULL, uses);
    for (uint32_t i = 0; i < view->n_segments; i++) {
        const struct ivf *index = segment_index(view->segments[i].segment);
        n_lists = index != NULL ? index->codebook->n_lists : n_lists;
    }
    fprintf(stderr,
            "%s: memory after everything was put out of it and %u queries ran: bytes a point",
            engine, queries);
    printf("{\"bench\":\"ann\",\"case\":\"memory\",\"engine\":\"%s\",\"data\":\"%s\",\"rows\":%.0f,"
           "\"dim\":%u,"
           "\"queries\":%u,\"segments\":%u,\"lists\":%u",
           engine, set, points, dim, queries, view->n_segments, n_lists);
    for (int kind = 0; kind < MEMORY_KINDS; kind++) {
        file += (double)uses[kind].file;
        resident += (double)uses[kind].resident;
        if (kind == MEMORY_CODES || kind == MEMORY_ROWS8)
            hot += (double)uses[kind].file;
        if (uses[kind].mapped == 0)
            continue;
        fprintf(stderr, ", %s %.1f of %.1f", memory_name((enum memory_kind)kind),
                (double)uses[kind].resident / points, (double)uses[kind].mapped / points);
        printf(",\"%s\":[%.2f,%.2f]", memory_name((enum memory_kind)kind),
               (double)uses[kind].resident / points, (double)uses[kind].mapped / points);
    }
    fprintf(stderr,
            "\n%s: %.1f bytes a point on disk, %.1f resident: %.3f of the rows as f32; "
            "codes and bytes, what may be locked, %.1f\n",
            engine, file / points, resident / points, resident / points / f32, hot / points);
    printf(",\"file_per_point\":%.1f,\"value\":%.1f,\"unit\":\"resident bytes a point\","
           "\"of_f32\":%.3f,\"lockable_per_point\":%.1f}\n",
           file / points, resident / points, resident / points / f32, hot / points);
}
