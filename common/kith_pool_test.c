#include "common/kith_pool.h"

#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <string.h>
#include <cmocka.h>

#include "common/kith_clock.h"
#include "common/kith_mem.h"
#include "proto/kith_limits.h"

static atomic_uint ran;

static void count_one(void *ctx)
{
    (void)ctx;
    atomic_fetch_add(&ran, 1);
}

static void test_pool_close_runs_what_is_queued(void **state)
{
    (void)state;
    struct kith_pool *pool = NULL;
    assert_int_equal(kith_pool_open(&pool, 3, NULL), KITH_OK);
    assert_int_equal(kith_pool_threads(pool), 3);
    atomic_store(&ran, 0);
    unsigned taken = 0;
    for (int i = 0; i < 10000; i++)
        taken += kith_pool_submit(pool, count_one, NULL) == KITH_OK;
    kith_pool_close(pool);
    assert_int_equal(atomic_load(&ran), taken);
}

struct gate {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int held; /* tasks waiting at the gate */
    bool open;
};

static void wait_at_gate(void *ctx)
{
    struct gate *gate = ctx;
    pthread_mutex_lock(&gate->lock);
    gate->held++;
    pthread_cond_broadcast(&gate->changed);
    while (!gate->open)
        pthread_cond_wait(&gate->changed, &gate->lock);
    pthread_mutex_unlock(&gate->lock);
}

static void test_pool_refuses_beyond_its_queue(void **state)
{
    (void)state;
    struct gate gate = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};
    struct kith_pool *pool = NULL;
    assert_int_equal(kith_pool_open(&pool, 1, NULL), KITH_OK);
    assert_int_equal(kith_pool_submit(pool, wait_at_gate, &gate), KITH_OK);
    pthread_mutex_lock(&gate.lock);
    while (gate.held == 0)
        pthread_cond_wait(&gate.changed, &gate.lock);
    pthread_mutex_unlock(&gate.lock);
    atomic_store(&ran, 0);
    for (unsigned i = 0; i < KITH_POOL_QUEUE_MAX; i++)
        assert_int_equal(kith_pool_submit(pool, count_one, NULL), KITH_OK);
    assert_int_equal(kith_pool_submit(pool, count_one, NULL), KITH_BUSY);
    assert_int_equal(kith_pool_waiting(pool), KITH_POOL_QUEUE_MAX);
    pthread_mutex_lock(&gate.lock);
    gate.open = true;
    pthread_cond_broadcast(&gate.changed);
    pthread_mutex_unlock(&gate.lock);
    kith_pool_close(pool);
    assert_int_equal(atomic_load(&ran), KITH_POOL_QUEUE_MAX);
}

#define PIECES 1000
struct marks {
    uint8_t done[PIECES]; /* plain memory: kept apart by index, published by the end of the run */
    atomic_uint at_work[8];
    uint32_t workers;
};

static void mark(void *ctx, uint32_t index, uint32_t worker)
{
    struct marks *marks = ctx;
    kith_assert(worker < marks->workers);
    kith_assert(atomic_fetch_add(&marks->at_work[worker], 1) == 0);
    marks->done[index]++;
    kith_assert(atomic_fetch_sub(&marks->at_work[worker], 1) == 1);
}

static void check_run(struct kith_pool *pool, uint32_t workers)
{
    struct marks marks = {.workers = workers}, of_short = {.workers = workers};
    kith_pool_run(pool, PIECES, mark, &marks);
    kith_pool_run_short(pool, PIECES, mark, &of_short);
    for (int i = 0; i < PIECES; i++)
        kith_assert(marks.done[i] == 1 && of_short.done[i] == 1);
}

static void run_inside(void *ctx)
{
    for (int i = 0; i < 20; i++)
        check_run(ctx, 4);
    atomic_fetch_add(&ran, 1);
}

static void test_pool_run_does_each_piece_once(void **state)
{
    (void)state;
    check_run(NULL, 1);
    struct kith_pool *pool = NULL;
    assert_int_equal(kith_pool_open(&pool, 3, NULL), KITH_OK);
    for (int i = 0; i < 200; i++)
        check_run(pool, 4);
    /* From more tasks at once than there are threads: none waits for another. */
    atomic_store(&ran, 0);
    for (int i = 0; i < 20; i++)
        assert_int_equal(kith_pool_submit(pool, run_inside, pool), KITH_OK);
    for (int i = 0; i < 50; i++)
        check_run(pool, 4);
    kith_pool_close(pool);
    assert_int_equal(atomic_load(&ran), 20);
}

/* The first piece lasts until help is asked for, and the others until it has come. */
static void wait_for_help(void *ctx, uint32_t index, uint32_t worker)
{
    atomic_uint *helpers = ctx;
    uint64_t end_ns = kith_now_ns() + KITH_POOL_ALONE_NS;
    while (index == 0 && kith_now_ns() <= end_ns)
        continue;
    if (worker > 0)
        atomic_fetch_add(helpers, 1);
    while (index > 0 && atomic_load(helpers) == 0)
        (void)sched_yield();
}

static void count_alone(void *ctx, uint32_t index, uint32_t worker)
{
    unsigned *n = ctx; /* plain memory: of one thread */
    (void)index;
    kith_assert(worker == 0);
    (*n)++;
}

static void test_pool_run_short_has_help_when_it_lasts(void **state)
{
    (void)state;
    atomic_uint helpers = 0;
    struct kith_pool *pool = NULL;
    assert_int_equal(kith_pool_open(&pool, 1, NULL), KITH_OK);
    kith_pool_run_short(pool, 3, wait_for_help, &helpers);
    assert_true(atomic_load(&helpers) > 0);
    unsigned n = 0;
    kith_pool_run_short(pool, 0, count_alone, &n);
    kith_pool_run_short(pool, 1, count_alone, &n);
    kith_pool_run_short(NULL, 5, count_alone, &n);
    assert_int_equal(n, 6);
    kith_pool_close(pool);
}

static void *submit_to(void *arg)
{
    kith_assert(kith_pool_submit(arg, count_one, NULL) == KITH_OK);
    return NULL;
}

/* Whoever sees that a task has run may close the pool, be the one who gave it still at it. */
static void test_pool_closes_while_a_task_is_given(void **state)
{
    (void)state;
    for (int i = 0; i < 500; i++) {
        struct kith_pool *pool = NULL;
        pthread_t thread;
        assert_int_equal(kith_pool_open(&pool, 1, NULL), KITH_OK);
        atomic_store(&ran, 0);
        assert_int_equal(pthread_create(&thread, NULL, submit_to, pool), 0);
        while (atomic_load(&ran) == 0)
            (void)sched_yield();
        kith_pool_close(pool);
        assert_int_equal(pthread_join(thread, NULL), 0);
    }
}

static void test_pool_open_survives_each_oom(void **state)
{
    (void)state;
    long live = kith_mem_live();
    struct kith_pool *pool = NULL;
    for (long n = 0; pool == NULL; n++) {
        kith_mem_fail_after(n);
        enum kith_err err = kith_pool_open(&pool, 2, NULL);
        kith_mem_fail_after(-1);
        assert_true(err == KITH_OK || err == KITH_NOMEM);
        assert_true(err == KITH_OK || kith_mem_live() == live);
    }
    kith_pool_close(pool);
    kith_pool_close(NULL);
    assert_int_equal(kith_mem_live(), live);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pool_close_runs_what_is_queued),
        cmocka_unit_test(test_pool_refuses_beyond_its_queue),
        cmocka_unit_test(test_pool_run_does_each_piece_once),
        cmocka_unit_test(test_pool_run_short_has_help_when_it_lasts),
        cmocka_unit_test(test_pool_closes_while_a_task_is_given),
        cmocka_unit_test(test_pool_open_survives_each_oom),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
