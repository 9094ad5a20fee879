#include "common/kith_realtime.h"

#include <linux/capability.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "common/kith_aside.h"
#include "common/kith_clock.h"
#include "common/kith_mem.h"
#include "common/kith_pool.h"
#include "common/kith_thread.h"
#include "proto/kith_limits.h"

#define MS UINT64_C(1000000)

static int policy(void)
{
    return sched_getscheduler(0) & ~SCHED_RESET_ON_FORK;
}

static void run(void *(*fn)(void *), void *arg)
{
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, fn, arg), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
}

/* ---- where the kernel lets us -----------------------------------------------------------------
 */

static void *try(void *arg)
{
    struct sched_param param = {.sched_priority = 1};
    *(bool *)arg = sched_setscheduler(0, SCHED_RR, &param) == 0;
    return NULL;
}

/* Says so, and skips, where the process may not: the tests below it are those of that. */
static void need_rights(void)
{
    bool may;
    run(try, &may);
    if (may)
        return;
    print_message("this process may not have SCHED_RR: what it does with it is not tested\n");
    skip();
}

static void *tell_policy(void *arg)
{
    *(int *)arg = policy();
    return NULL;
}

static void *take_and_give_back(void *arg)
{
    int of_child;
    (void)arg;
    kith_thread_behind(3);
    int nice = getpriority(PRIO_PROCESS, (id_t)gettid());
    kith_realtime_want(true, kith_now_ns());
    assert_int_equal(policy(), SCHED_OTHER); /* it has not joined */
    kith_realtime_join();
    kith_realtime_want(true, kith_now_ns());
    assert_int_equal(policy(), SCHED_RR);
    run(tell_policy, &of_child);
    assert_int_equal(of_child, SCHED_OTHER);
    kith_realtime_want(false, kith_now_ns());
    assert_int_equal(policy(), SCHED_OTHER);
    assert_int_equal(getpriority(PRIO_PROCESS, (id_t)gettid()), nice);
    kith_realtime_want(true, kith_now_ns());
    assert_int_equal(policy(), SCHED_RR);
    kith_realtime_leave();
    assert_int_equal(policy(), SCHED_OTHER);
    assert_false(kith_realtime_joined());
    kith_thread_ahead();
    kith_realtime_want(true, kith_now_ns());
    assert_int_equal(policy(), SCHED_RR);
    kith_thread_bulk(); /* a load of writes */
    assert_int_equal(policy(), SCHED_OTHER);
    return NULL;
}

static void test_realtime_is_taken_and_given_back(void **state)
{
    (void)state;
    need_rights();
    run(take_and_give_back, NULL);
}

static void spend_budget(void)
{
    uint64_t end_ns = kith_thread_ns() + KITH_REALTIME_BUDGET_MS * MS;
    while (kith_thread_ns() < end_ns)
        continue;
}

static void *spend(void *arg)
{
    uint64_t at_ns = kith_now_ns();
    (void)arg;
    kith_realtime_join();
    kith_realtime_want(true, at_ns);
    assert_int_equal(policy(), SCHED_RR);
    spend_budget();
    kith_realtime_want(true, at_ns + KITH_REALTIME_WINDOW_MS * MS - 1);
    assert_int_equal(policy(), SCHED_OTHER);
    kith_realtime_want(true, at_ns + KITH_REALTIME_WINDOW_MS * MS);
    assert_int_equal(policy(), SCHED_RR);
    return NULL;
}

static void test_realtime_has_a_budget(void **state)
{
    (void)state;
    need_rights();
    run(spend, NULL);
}

/* Takes it at the moment *arg and spends what a thread may; *arg becomes 0 if it did not get it. */
static void *spend_all(void *arg)
{
    uint64_t *at_ns = arg;
    kith_realtime_join();
    kith_realtime_want(true, *at_ns);
    if (policy() == SCHED_RR)
        spend_budget();
    else
        *at_ns = 0;
    kith_realtime_leave();
    return NULL;
}

/* As many threads get it in one window as half of the CPUs are worth. */
static void test_realtime_has_a_budget_for_all(void **state)
{
    uint64_t half_ms = KITH_REALTIME_WINDOW_MS * (uint64_t)sysconf(_SC_NPROCESSORS_ONLN) / 2;
    uint64_t threads = (half_ms + KITH_REALTIME_BUDGET_MS - 1) / KITH_REALTIME_BUDGET_MS;
    uint64_t begin_ns = kith_now_ns() + KITH_REALTIME_WINDOW_MS * MS, at_ns;
    (void)state;
    need_rights();
    for (uint64_t i = 0; i < threads; i++) {
        at_ns = begin_ns;
        run(spend_all, &at_ns);
        assert_true(at_ns == begin_ns);
    }
    at_ns = begin_ns;
    run(spend_all, &at_ns);
    assert_true(at_ns == 0);
    at_ns = begin_ns + KITH_REALTIME_WINDOW_MS * MS;
    run(spend_all, &at_ns);
    assert_true(at_ns != 0);
}

static void *take_in_batch(void *arg)
{
    struct sched_param param = {0};
    (void)arg;
    assert_int_equal(sched_setscheduler(0, SCHED_BATCH, &param), 0);
    kith_realtime_join();
    kith_realtime_want(true, kith_now_ns());
    assert_int_equal(policy(), SCHED_BATCH);
    return NULL;
}

static void test_realtime_leaves_a_policy_of_its_own(void **state)
{
    (void)state;
    need_rights();
    run(take_in_batch, NULL);
}

static void note_policy(void *arg)
{
    atomic_store((atomic_int *)arg, policy());
}

static void *load(void *arg)
{
    (void)arg;
    kith_thread_bulk();
    (void)kith_aside_searched();
    return NULL;
}

/* A worker looks when a task has ended, and not more often than KITH_REALTIME_LOOK_US. */
static int policy_of_worker(struct kith_pool *pool)
{
    atomic_int found;
    for (int i = 0; i < 2; i++) {
        uint64_t later_ns = kith_now_ns() + 2 * KITH_REALTIME_LOOK_US * UINT64_C(1000);
        while (kith_now_ns() < later_ns)
            continue;
        atomic_init(&found, -1);
        assert_int_equal(kith_pool_submit(pool, note_policy, &found), KITH_OK);
        while (atomic_load(&found) < 0)
            (void)sched_yield();
    }
    return atomic_load(&found);
}

static void test_realtime_is_for_searches_beside_a_load(void **state)
{
    struct kith_pool *pool;
    (void)state;
    need_rights();
    assert_int_equal(kith_pool_open_ahead(&pool, 1, NULL), KITH_OK);
    assert_int_equal(policy_of_worker(pool), SCHED_OTHER);
    kith_aside_answer_begin();
    assert_int_equal(policy_of_worker(pool), SCHED_OTHER);
    run(load, NULL);
    assert_int_equal(policy_of_worker(pool), SCHED_RR);
    kith_aside_answer_end();
    kith_pool_close(pool);
}

/* ---- where nobody may -------------------------------------------------------------------------
 */

static void drop_rights(void)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2] = {0};
    const struct rlimit none = {0, 0};
    kith_assert(syscall(SYS_capset, &header, data) == 0);
    kith_assert(setrlimit(RLIMIT_RTPRIO, &none) == 0);
}

static void want_without_rights(void)
{
    drop_rights();
    kith_thread_ahead();
    kith_assert(!kith_realtime_refused());
    kith_realtime_want(true, kith_now_ns());
    kith_assert(policy() == SCHED_OTHER);
    kith_assert(kith_realtime_refused());
}

static void want_refused(void)
{
    kith_thread_ahead();
    kith_realtime_refuse();
    kith_realtime_want(true, kith_now_ns());
    kith_assert(policy() == SCHED_OTHER);
}

/* A refusal is for the rest of a process. */
static void in_a_child(void (*fn)(void))
{
    int status = 0;
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        fn();
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
}

static void test_realtime_is_refused(void **state)
{
    (void)state;
    in_a_child(want_without_rights);
    in_a_child(want_refused);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_realtime_is_refused), /* before there are threads */
        cmocka_unit_test(test_realtime_is_for_searches_beside_a_load), /* before there is a load */
        cmocka_unit_test(test_realtime_is_taken_and_given_back),
        cmocka_unit_test(test_realtime_has_a_budget),
        cmocka_unit_test(test_realtime_has_a_budget_for_all),
        cmocka_unit_test(test_realtime_leaves_a_policy_of_its_own),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
