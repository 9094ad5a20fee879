/* Kills, failed syncs and full disks at every call of six workloads, on a real file system.
 *
 * Every KITH_FAULT_STEP-th call (default 7; the long form is 1). kill -9 keeps the page cache, so
 * a memory file system shows the same as a disk; power losses are in fault_power_test. */
#include "tests/fault/fault_rig.h"

#include <ftw.h>
#include <signal.h>
#include <unistd.h>

#include "shard/storage/store_testing.h"

static char root[64];
static struct fault_shared *shared;

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *at)
{
    (void)st;
    (void)type;
    (void)at;
    return remove(path);
}

static void clear(void)
{
    (void)nftw(root, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static int set_up(void **state)
{
    (void)state;
    (void)snprintf(root, sizeof root, "%s/kith-fault-XXXXXX",
                   access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    shared = fault_shared_new();
    return mkdtemp(root) != NULL ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    clear();
    return 0;
}

static uint64_t step(void)
{
    return test_env("KITH_FAULT_STEP", 7);
}

static void expect(const char *workload, const struct fault *fault, const struct fault *recovery)
{
    if (!fault_check(workload, root, recovery, shared))
        fail_msg("%s: fault %d at call %llu: see above", workload, (int)fault->mode,
                 (unsigned long long)fault->at);
}

/* Recovers from what a kill left, killed again at call `again` of that; false: it has fewer. */
static bool recover_twice(const char *workload, const struct fault *fault, uint64_t again)
{
    const struct fault second = {.mode = FAULT_KILL, .at = again};
    const struct fault none = {0};
    bool whole = fault_check(workload, root, &second, shared);
    if (!whole)
        expect(workload, fault, &none);
    return !whole;
}

static void kill_everywhere(const char *workload, enum fault_mode mode, uint64_t *cycles)
{
    const struct fault none = {0};
    uint64_t again = 1;
    for (uint64_t at = 1 + (uint64_t)mode % step();; at += step()) {
        const struct fault fault = {.mode = mode, .at = at};
        clear();
        bool ended = fault_run(workload, root, &fault, shared);
        ++*cycles;
        if (ended) {
            expect(workload, &fault, &none);
            return;
        }
        /* Every call of the recovery in turn, as the calls of the workload go by. */
        again = recover_twice(workload, &fault, again) ? again + 1 : 1;
    }
}

static void test_fault_kill_at_every_call(void **state)
{
    (void)state;
    static const enum fault_mode modes[] = {FAULT_KILL, FAULT_KILL_AFTER, FAULT_KILL_HALF};
    for (uint32_t w = 0; fault_workloads[w] != NULL; w++) {
        uint64_t cycles = 0;
        for (uint32_t m = 0; m < 3; m++)
            kill_everywhere(fault_workloads[w], modes[m], &cycles);
        print_message("%s: killed %llu times of %llu calls, recovery killed as often\n",
                      fault_workloads[w], (unsigned long long)cycles,
                      (unsigned long long)atomic_load(&shared->calls));
    }
}

static void test_fault_sync_fails(void **state)
{
    (void)state;
    const struct fault none = {0};
    for (uint32_t w = 0; fault_workloads[w] != NULL; w++) {
        uint64_t n = 0;
        clear();
        assert_true(fault_run(fault_workloads[w], root, &none, shared));
        uint64_t syncs = atomic_load(&shared->syncs);
        for (uint64_t at = 1; at <= syncs; at += 1 + step() / 4, n++) {
            const struct fault fault = {.mode = FAULT_SYNC, .at = at};
            clear();
            assert_true(fault_run(fault_workloads[w], root, &fault, shared));
            expect(fault_workloads[w], &fault, &none);
        }
        print_message("%s: %llu of %llu syncs failed\n", fault_workloads[w], (unsigned long long)n,
                      (unsigned long long)syncs);
    }
}

static void test_fault_full_disk(void **state)
{
    (void)state;
    const struct fault none = {0};
    for (uint32_t w = 0; fault_workloads[w] != NULL; w++) {
        uint64_t n = 0;
        clear();
        assert_true(fault_run(fault_workloads[w], root, &none, shared));
        uint64_t calls = atomic_load(&shared->calls);
        for (uint64_t at = 1; at <= calls; at += step(), n++) {
            const struct fault fault = {.mode = FAULT_SPACE, .at = at};
            clear();
            assert_true(fault_run(fault_workloads[w], root, &fault, shared));
            for (uint32_t i = 1; i <= FAULT_WRITES_MAX; i++) {
                int result = atomic_load(&shared->results[i]);
                if (result != 0 && result != 1 + KITH_OK && result != 1 + KITH_DISK_FULL)
                    fail_msg("%s: write %u failed with %s", fault_workloads[w], i,
                             kith_err_name((enum kith_err)(result - 1)));
            }
            assert_int_equal(atomic_load(&shared->reads_failed), 0);
            expect(fault_workloads[w], &fault, &none);
        }
        print_message("%s: full at %llu calls\n", fault_workloads[w], (unsigned long long)n);
    }
}

/* A limit on the size of files: the kernel says it with a signal and EFBIG. */
static void test_fault_limited_files(void **state)
{
    (void)state;
    const struct fault none = {0};
    for (uint64_t kib = 1; kib < 400; kib += kib / 3 + 1) {
        const struct fault fault = {.file_bytes_max = kib * 1024};
        clear();
        assert_true(fault_run("seal", root, &fault, shared));
        for (uint32_t i = 1; i <= FAULT_WRITES_MAX; i++)
            assert_int_not_equal(atomic_load(&shared->results[i]), 1 + KITH_IO);
        expect("seal", &fault, &none);
    }
}

/* The same at the kernel's door: what the io's own error paths make of it. */
static void strace_one(const char *workload, const char *calls, const char *what, uint64_t *runs)
{
    const struct fault none = {0};
    uint64_t wide = step() < 3 ? 1 : 5;
    for (uint64_t n = 1; n <= 16; n += wide, ++*runs) {
        char inject[128];
        (void)snprintf(inject, sizeof inject, "%s:%s:when=%llu%s", calls, what,
                       (unsigned long long)n, strstr(what, "ENOSPC") != NULL ? "+" : "");
        clear();
        (void)fault_strace(workload, root, inject, shared);
        if (!fault_check(workload, root, &none, shared))
            fail_msg("%s under %s: see above", workload, inject);
        if (strstr(what, "ENOSPC") == NULL)
            continue;
        for (uint32_t i = 1; i <= FAULT_WRITES_MAX; i++)
            assert_int_not_equal(atomic_load(&shared->results[i]), 1 + KITH_IO);
    }
}

static void test_fault_under_strace(void **state)
{
    (void)state;
    static const char *const killed[] = {"pwrite64",  "fdatasync", "fsync",
                                         "fallocate", "/renameat", "unlinkat"};
    uint64_t runs = 0;
    if (!fault_strace_works()) {
        print_message("SKIPPED (strace does not work here): failing system calls\n");
        skip();
    }
    for (uint32_t w = 0; fault_workloads[w] != NULL; w += step() < 3 ? 1 : 2) {
        strace_one(fault_workloads[w], "fdatasync,fsync", "error=EIO", &runs);
        strace_one(fault_workloads[w], "fallocate", "error=ENOSPC", &runs);
        for (uint32_t k = 0; k < sizeof killed / sizeof *killed; k += step() < 3 ? 1 : 2)
            strace_one(fault_workloads[w], killed[k], "signal=SIGKILL", &runs);
    }
    print_message("%llu runs under strace\n", (unsigned long long)runs);
}

int main(int argc, char **argv)
{
    fault_work(argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fault_kill_at_every_call), cmocka_unit_test(test_fault_sync_fails),
        cmocka_unit_test(test_fault_full_disk),          cmocka_unit_test(test_fault_limited_files),
        cmocka_unit_test(test_fault_under_strace),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
