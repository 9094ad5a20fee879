#include "store_probe.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/kith_clock.h"
#include "common/kith_mem.h"

#define FILE_BYTES (256u << 20) /* then from its begin again */
#define PERIOD_US  100000u

struct store_probe {
    char path[512];
    int fd;
    size_t step;
    uint8_t *data;
    uint64_t *samples_ns;
    size_t n_samples, cap_samples;
    atomic_bool stop;
    pthread_t thread;
};

static int by_size(const void *a, const void *b)
{
    uint64_t x, y;
    memcpy(&x, a, sizeof x);
    memcpy(&y, b, sizeof y);
    return x < y ? -1 : x > y;
}

struct latencies latencies_of(uint64_t *samples_ns, size_t n)
{
    if (n == 0)
        return (struct latencies){0};
    qsort(samples_ns, n, sizeof *samples_ns, by_size);
    return (struct latencies){.median = (double)samples_ns[n / 2] / 1e6,
                              .p999 = (double)samples_ns[(n - 1) * 999 / 1000] / 1e6,
                              .max = (double)samples_ns[n - 1] / 1e6};
}

static _Noreturn void die(const struct store_probe *probe)
{
    perror(probe->path);
    (void)unlink(probe->path);
    exit(1);
}

static void *run(void *arg)
{
    struct store_probe *probe = arg;
    uint64_t at = 0;
    while (!atomic_load(&probe->stop)) {
        uint64_t begin = kith_now_ns();
        if (pwrite(probe->fd, probe->data, probe->step, (off_t)at) != (ssize_t)probe->step ||
            fdatasync(probe->fd) != 0)
            die(probe);
        void *samples = probe->samples_ns;
        if (!kith_grow(&samples, &probe->cap_samples, probe->n_samples + 1, sizeof(uint64_t)))
            die(probe);
        probe->samples_ns = samples;
        probe->samples_ns[probe->n_samples++] = kith_now_ns() - begin;
        at = (at + probe->step) % (FILE_BYTES - probe->step);
        (void)usleep(PERIOD_US);
    }
    return NULL;
}

struct store_probe *store_probe_start(const char *dir, size_t step_bytes)
{
    struct store_probe *probe = kith_xalloc(sizeof *probe);
    (void)snprintf(probe->path, sizeof probe->path, "%s/disk-probe", dir);
    probe->step = step_bytes < FILE_BYTES / 2 ? step_bytes : FILE_BYTES / 2;
    probe->data = kith_xalloc(probe->step);
    memset(probe->data, 0x5a, probe->step);
    probe->fd = open(probe->path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (probe->fd < 0 || posix_fallocate(probe->fd, 0, FILE_BYTES) != 0 ||
        fdatasync(probe->fd) != 0 || pthread_create(&probe->thread, NULL, run, probe) != 0)
        die(probe);
    return probe;
}

struct latencies store_probe_stop(struct store_probe *probe)
{
    atomic_store(&probe->stop, true);
    (void)pthread_join(probe->thread, NULL);
    struct latencies latencies = latencies_of(probe->samples_ns, probe->n_samples);
    (void)close(probe->fd);
    (void)unlink(probe->path);
    kith_free(probe->data);
    kith_free(probe->samples_ns);
    kith_free(probe);
    return latencies;
}
