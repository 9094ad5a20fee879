#include "common/kith_aside.h"

#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/kith_pool.h"
#include "common/kith_thread.h"

/* What kith_aside_stand says on a thread of each kind. */
static void *stand(void *arg)
{
    bool *stood = arg;
    stood[0] = kith_aside_stand();
    kith_thread_bulk();
    stood[1] = kith_aside_stand();
    kith_thread_ahead();
    stood[2] = kith_aside_stand();
    return NULL;
}

static void *stand_behind(void *arg)
{
    bool *stood = arg;
    kith_thread_behind(19);
    *stood = kith_aside_stand();
    return NULL;
}

static void run(void *(*fn)(void *), void *arg)
{
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, fn, arg), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
}

static void test_aside_stands_for_an_answer_only(void **state)
{
    bool stood[3], behind;
    (void)state;
    run(stand, stood);
    assert_false(stood[0] || stood[1] || stood[2]);
    run(stand_behind, &behind);
    assert_false(behind);
}

/* No end comes here: it goes on all the same. */
static void test_aside_stands_if_it_can_wait(void **state)
{
    bool stood[3], behind;
    (void)state;
    kith_aside_answer_begin();
    kith_aside_answer_begin();
    kith_aside_answer_end(); /* one is left */
    run(stand, stood);
    run(stand_behind, &behind);
    kith_aside_answer_end();
    assert_false(stood[0]);
    assert_true(stood[1]);
    assert_false(stood[2]);
    assert_true(behind);
}

static void *count_stands(void *arg)
{
    unsigned *n = arg;
    kith_thread_bulk();
    for (int i = 0; i < 1000; i++)
        n[kith_aside_stand()]++;
    return NULL;
}

/* Beside answers without a break: after a sleep comes work. */
static void test_aside_does_not_stand_all_the_time(void **state)
{
    unsigned n[2] = {0};
    (void)state;
    kith_aside_answer_begin();
    run(count_stands, n);
    kith_aside_answer_end();
    assert_true(n[true] > 0);
    assert_true(n[false] > n[true]);
}

static void *leave(void *arg)
{
    bool *right = arg;
    cpu_set_t before, away, after;
    assert_int_equal(sched_getaffinity(0, sizeof before, &before), 0);
    int cpu = sched_getcpu();
    bool left = kith_aside_leave(cpu);
    if (!left) { /* one CPU, or moved meanwhile by somebody else */
        *right = CPU_COUNT(&before) == 1 || sched_getcpu() != cpu;
        return NULL;
    }
    *right = sched_getcpu() != cpu && sched_getaffinity(0, sizeof away, &away) == 0 &&
             !CPU_ISSET((size_t)cpu, &away) && !kith_aside_leave(cpu);
    kith_aside_return();
    *right = *right && sched_getaffinity(0, sizeof after, &after) == 0 &&
             CPU_EQUAL(&before, &after) != 0;
    return NULL;
}

static void test_aside_leaves_a_cpu(void **state)
{
    bool right = false;
    (void)state;
    run(leave, &right);
    assert_true(right);
}

static void tell(void *arg)
{
    *(bool *)arg = kith_aside_get();
}

static void *open_pools(void *arg)
{
    bool *stands = arg;
    struct kith_pool *pool;
    assert_int_equal(kith_pool_open(&pool, 1, NULL), KITH_OK);
    assert_int_equal(kith_pool_submit(pool, tell, &stands[0]), KITH_OK);
    kith_pool_close(pool);
    kith_thread_bulk();
    assert_int_equal(kith_pool_open(&pool, 1, NULL), KITH_OK);
    assert_int_equal(kith_pool_submit(pool, tell, &stands[1]), KITH_OK);
    kith_pool_close(pool);
    assert_int_equal(kith_pool_open_ahead(&pool, 1, NULL), KITH_OK);
    assert_int_equal(kith_pool_submit(pool, tell, &stands[2]), KITH_OK);
    kith_pool_close(pool);
    return NULL;
}

static void test_aside_is_handed_on_to_a_pool(void **state)
{
    bool stands[3];
    (void)state;
    run(open_pools, stands);
    assert_false(stands[0]);
    assert_true(stands[1]);
    assert_false(stands[2]);
}

static int count_cpus(void)
{
    cpu_set_t cpus;
    assert_int_equal(sched_getaffinity(0, sizeof cpus, &cpus), 0);
    return CPU_COUNT(&cpus);
}

static void *count_all(void *arg)
{
    *(int *)arg = count_cpus();
    return NULL;
}

static void *count_behind(void *arg)
{
    kith_thread_behind(19);
    *(int *)arg = count_cpus();
    return NULL;
}

/* Of a thread that answers; that can wait; that answers again; and of those it starts meanwhile. */
static void *count_in_turn(void *arg)
{
    int *n = arg;
    n[0] = count_cpus();
    kith_thread_bulk();
    n[1] = count_cpus();
    run(count_behind, &n[3]);
    run(count_all, &n[4]);
    kith_thread_ahead();
    n[2] = count_cpus();
    return NULL;
}

static void test_aside_keeps_off_one_cpu(void **state)
{
    int n[5], all = count_cpus(), fewer = all > 1 ? all - 1 : 1;
    (void)state;
    kith_aside_answer_begin();
    run(count_in_turn, n);
    kith_aside_answer_end();
    assert_int_equal(n[0], all);
    assert_int_equal(n[1], fewer);
    assert_int_equal(n[2], all);
    assert_int_equal(n[3], fewer);
    assert_int_equal(n[4], fewer); /* until it says what it is */
    assert_int_equal(count_cpus(), all);
}

static void *answer(void *arg)
{
    (void)arg;
    for (int i = 0; i < 20000; i++) {
        kith_aside_answer_begin();
        kith_aside_answer_end();
    }
    return NULL;
}

static void *work(void *arg)
{
    (void)arg;
    kith_thread_bulk();
    for (int i = 0; i < 20000; i++)
        (void)kith_aside_stand();
    return NULL;
}

/* For the thread sanitizer, and for whoever is never woken. */
static void test_aside_many_answer_and_many_stand(void **state)
{
    pthread_t threads[4];
    (void)state;
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, i % 2 == 0 ? answer : work, NULL), 0);
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_aside_stands_for_an_answer_only),
        cmocka_unit_test(test_aside_stands_if_it_can_wait),
        cmocka_unit_test(test_aside_does_not_stand_all_the_time),
        cmocka_unit_test(test_aside_leaves_a_cpu),
        cmocka_unit_test(test_aside_keeps_off_one_cpu),
        cmocka_unit_test(test_aside_is_handed_on_to_a_pool),
        cmocka_unit_test(test_aside_many_answer_and_many_stand),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
