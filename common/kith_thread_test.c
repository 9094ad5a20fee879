#include "common/kith_thread.h"

#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <cmocka.h>

/* The kernel's struct sched_attr; its header and that of the C library exclude one another. */
struct attr {
    uint32_t size, sched_policy;
    uint64_t sched_flags;
    int32_t sched_nice;
    uint32_t sched_priority;
    uint64_t sched_runtime, sched_deadline, sched_period;
};

static struct attr attr_now(void)
{
    struct attr attr = {.size = sizeof attr};
    assert_int_equal(syscall(SYS_sched_getattr, 0, &attr, sizeof attr, 0), 0);
    return attr;
}

/* Kernels before 6.12 know of no slices of ordinary tasks, and tell 0. */
static void slice_is(uint64_t want_ns)
{
    uint64_t slice_ns = attr_now().sched_runtime;
    assert_true(slice_ns == 0 || slice_ns == want_ns);
}

static void *change(void *arg)
{
    int nice = attr_now().sched_nice;
    (void)arg;
    kith_thread_ahead();
    slice_is(100000);
    kith_thread_bulk();
    slice_is(10000000);
    kith_thread_ahead(); /* there and back, without privileges */
    slice_is(100000);
    assert_int_equal(attr_now().sched_nice, nice);
    kith_thread_behind(nice < 18 ? nice + 1 : 19);
    slice_is(100000000);
    assert_int_equal(attr_now().sched_nice, nice < 18 ? nice + 1 : 19);
    kith_thread_ahead();
    slice_is(100000);
    assert_int_equal(attr_now().sched_nice, nice < 18 ? nice + 1 : 19); /* as nice as it was */
    return NULL;
}

static void test_thread_changes_itself_alone(void **state)
{
    struct attr before = attr_now();
    pthread_t thread;
    (void)state;
    assert_int_equal(pthread_create(&thread, NULL, change, NULL), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
    struct attr after = attr_now();
    assert_int_equal(after.sched_nice, before.sched_nice);
    assert_int_equal(after.sched_runtime, before.sched_runtime);
}

static void *change_batch(void *arg)
{
    struct sched_param param = {0};
    (void)arg;
    assert_int_equal(sched_setscheduler(0, SCHED_BATCH, &param), 0);
    kith_thread_ahead();
    assert_int_equal(sched_getscheduler(0), SCHED_BATCH);
    kith_thread_behind(19);
    assert_int_equal(sched_getscheduler(0), SCHED_BATCH);
    return NULL;
}

static void test_thread_keeps_the_policy_it_was_started_with(void **state)
{
    pthread_t thread;
    (void)state;
    assert_int_equal(pthread_create(&thread, NULL, change_batch, NULL), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_thread_changes_itself_alone),
        cmocka_unit_test(test_thread_keeps_the_policy_it_was_started_with),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
