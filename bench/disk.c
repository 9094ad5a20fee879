/* What the disk below a folder gives by itself, the way a log uses it: the yardstick of `ingest`.
 *
 * usage: bench_disk DIR [step bytes...]
 * For each step size (4096 when none is given): append a step, fdatasync, again for a second, into
 * space that is already allocated. Then 256 MiB in steps of 1 MiB and one fdatasync at the end, to
 * a new file. One JSON line each. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/kith_clock.h"
#include "common/kith_mem.h"

#define RUN_NS           1000000000ull
#define SEQUENTIAL_BYTES (256u << 20)
#define STEP_MAX         (16u << 20)
#define SPACE_BYTES      (1ull << 30)

static char path[4096];

static _Noreturn void die(const char *what)
{
    fprintf(stderr, "bench_disk: %s: %s\n", what, strerror(errno));
    unlink(path);
    exit(1);
}

static int file_new(uint64_t bytes)
{
    int fd = open(path, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);

    if (fd < 0)
        die(path);
    if (bytes > 0 && (posix_fallocate(fd, 0, (off_t)bytes) != 0 || fsync(fd) != 0))
        die("fallocate");
    return fd;
}

static void append(int fd, const uint8_t *data, size_t n, uint64_t at)
{
    if (pwrite(fd, data, n, (off_t)at) != (ssize_t)n)
        die("write");
}

static void synced_steps(const uint8_t *data, size_t step)
{
    int fd = file_new(SPACE_BYTES);
    uint64_t start = kith_now_ns(), now = start, at = 0, n = 0;

    for (; now - start < RUN_NS && at + step <= SPACE_BYTES; at += step, n++) {
        append(fd, data, step, at);
        if (fdatasync(fd) != 0)
            die("fdatasync");
        now = kith_now_ns();
    }
    double seconds = (double)(now - start) / 1e9;
    printf("{\"bench\":\"disk\",\"name\":\"disk/sync%zu\",\"step_bytes\":%zu,\"syncs_per_s\":%.0f,"
           "\"mb_per_s\":%.1f}\n",
           step, step, (double)n / seconds, (double)at / 1e6 / seconds);
    close(fd);
    unlink(path);
}

static void sequential(const uint8_t *data)
{
    int fd = file_new(0);
    uint64_t start = kith_now_ns();

    for (uint64_t at = 0; at < SEQUENTIAL_BYTES; at += 1u << 20)
        append(fd, data, 1u << 20, at);
    if (fdatasync(fd) != 0)
        die("fdatasync");
    printf("{\"bench\":\"disk\",\"name\":\"disk/sequential\",\"mb_per_s\":%.1f}\n",
           (double)SEQUENTIAL_BYTES / 1e6 / ((double)(kith_now_ns() - start) / 1e9));
    close(fd);
    unlink(path);
}

int main(int argc, char **argv)
{
    uint8_t *data = kith_xalloc(STEP_MAX);

    if (argc < 2) {
        fputs("usage: bench_disk DIR [step bytes...]\n", stderr);
        return 2;
    }
    snprintf(path, sizeof path, "%s/bench-disk-%d", argv[1], (int)getpid());
    for (size_t i = 0; i < STEP_MAX; i++) /* no disk may compress it away */
        data[i] = (uint8_t)((i * 0x9e3779b97f4a7c15ull) >> 40);
    for (int i = 2; i < argc || i == 2; i++) {
        size_t step = i < argc ? (size_t)strtoull(argv[i], NULL, 10) : 4096;
        if (step == 0 || step > STEP_MAX) {
            fputs("bench_disk: a step is 1 byte to 16 MiB\n", stderr);
            return 2;
        }
        synced_steps(data, step);
    }
    sequential(data);
    kith_free(data);
    return 0;
}
