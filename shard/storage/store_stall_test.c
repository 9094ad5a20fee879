#include "shard/storage/index_testing.h"
#include "shard/storage/store_testing.h"

#include <sched.h>
#include <time.h>

/* Work in the background that gets stuck: writes must go on beside it as long as there is memory
 * to write to, then be refused, then go on again. Nothing here is timed: a gate holds the work, and
 * a write that waited for it would never return (a minute's patience turns that into a failure). */

#define HEAD_ROWS 50u

/* Whoever comes to a closed gate stays there until it opens. */
struct gate {
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool closed;
    uint32_t n_held;
};

struct fixture {
    struct io *fake, io; /* io: the fake, and a gate before writing a merge's segment */
    struct gate gate;
    struct test_index index;
    struct store_options options;
    struct store *store;
    uint64_t next_id;
};

/* Which thread is writing a merge: its index was begun with more rows than a head has. */
static _Thread_local bool merging;

static void pass(struct gate *gate)
{
    pthread_mutex_lock(&gate->lock);
    gate->n_held++;
    pthread_cond_broadcast(&gate->wake);
    while (gate->closed)
        pthread_cond_wait(&gate->wake, &gate->lock);
    gate->n_held--;
    pthread_mutex_unlock(&gate->lock);
}

static void set_gate(struct gate *gate, bool closed)
{
    pthread_mutex_lock(&gate->lock);
    gate->closed = closed;
    pthread_cond_broadcast(&gate->wake);
    pthread_mutex_unlock(&gate->lock);
}

static bool is_held(struct gate *gate)
{
    pthread_mutex_lock(&gate->lock);
    bool held = gate->closed && gate->n_held > 0;
    pthread_mutex_unlock(&gate->lock);
    return held;
}

static void pass_gate(void *arg)
{
    pass(arg);
}

/* ---- the disk ---- */

static struct fixture *current; /* the io's functions get the fake's self */

static enum kith_err gated_write(void *self, struct io_file *file, uint64_t offset,
                                 const void *data, size_t len, struct kith_diag *diag)
{
    if (merging)
        pass(&current->gate);
    return current->fake->write(self, file, offset, data, len, diag);
}

static enum kith_err begin_index(void *self, const struct slice_config *config,
                                 const struct segment_source *source, uint32_t *order, void **made,
                                 struct kith_diag *diag)
{
    merging = source->n_rows > 3 * HEAD_ROWS;
    return test_index_begin(self, config, source, order, made, diag);
}

/* ---- writes ---- */

static uint32_t patience_s(void)
{
    return (uint32_t)test_env("KITH_PATIENCE_S", 60);
}

/* A batch of ten new points; fails the test when the write never returns. */
static enum kith_err put_ten(struct fixture *f)
{
    struct kith_buf ops = {0};
    struct kith_writer w = test_writer(&ops);
    kith_write_array(&w, 10);
    for (uint32_t i = 0; i < 10; i++)
        test_put(&w, f->next_id + i, 1);
    struct store_write_result result = test_write_for(f->store, 0, &ops, patience_s(), NULL);
    kith_buf_fini(&ops);
    if (result.err == KITH_OK)
        f->next_id += 10;
    return result.err;
}

/* On a busy machine the sealer may be behind: that is a refusal, but not for ever. */
static void put_until(struct fixture *f, uint64_t end)
{
    time_t patience = time(NULL) + (time_t)patience_s();
    while (f->next_id < end) {
        enum kith_err err = put_ten(f);
        assert_true(err == KITH_OK || (err == KITH_BUSY && time(NULL) < patience));
    }
}

static void put_heads(struct fixture *f, uint32_t n)
{
    put_until(f, f->next_id + (uint64_t)n * HEAD_ROWS);
}

static void check_all(struct fixture *f)
{
    struct view *view = store_view(f->store);
    assert_int_equal(test_count(view), f->next_id);
    for (uint64_t id = 0; id < f->next_id; id += 7)
        assert_int_equal(test_version(view, id), 1);
    view_unref(view);
}

static int setup(void **state)
{
    struct fixture *f = current = kith_xalloc(sizeof *f);
    struct kith_diag diag = {0};
    assert_int_equal(io_fake_new(&f->fake, NULL), KITH_OK);
    f->io = *f->fake;
    f->io.write = gated_write;
    (void)pthread_mutex_init(&f->gate.lock, NULL);
    (void)pthread_cond_init(&f->gate.wake, NULL);
    test_index_init(&f->index, 10);
    f->index.hooks.begin = begin_index;
    f->options = test_options(&f->io);
    f->options.head_rows_max = HEAD_ROWS;
    f->options.background = true;
    f->options.index = &f->index.hooks;
    if (store_create(&f->options, &test_config, &diag) != KITH_OK ||
        store_open(&f->store, &f->options, &diag) != KITH_OK)
        fail_msg("open: %s", diag.text);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    set_gate(&f->gate, false); /* after a failure, too */
    store_close(f->store);
    io_fake_free(f->fake);
    (void)pthread_cond_destroy(&f->gate.wake);
    (void)pthread_mutex_destroy(&f->gate.lock);
    kith_free(f);
    assert_int_equal(kith_mem_live(), 0);
    return 0;
}

/* ---- tests ---- */

static void test_store_writes_while_a_merge_is_stuck(void **state)
{
    struct fixture *f = *state;
    set_gate(&f->gate, true);
    while (!is_held(&f->gate)) /* eight seals, and the merge has come to its first write */
        put_until(f, f->next_id + 10);
    put_heads(f, 20);
    assert_true(is_held(&f->gate));
    check_all(f);
    set_gate(&f->gate, false);
    put_heads(f, 10);
    check_all(f);
}

static void test_store_writes_while_an_index_is_stuck(void **state)
{
    struct fixture *f = *state;
    f->index.during = pass_gate;
    f->index.during_ctx = &f->gate;
    set_gate(&f->gate, true);
    put_until(f, HEAD_ROWS + 10); /* the first head is full */
    while (!is_held(&f->gate))
        (void)sched_yield();
    put_heads(f, 2);
    assert_true(is_held(&f->gate));
    check_all(f);

    /* No memory is left in the end: a refusal, and no wait for the gate. */
    enum kith_err err = KITH_OK;
    for (uint32_t i = 0; i < 4 * HEAD_ROWS / 10 && err == KITH_OK; i++)
        err = put_ten(f);
    assert_int_equal(err, KITH_BUSY);
    assert_int_equal(put_ten(f), KITH_BUSY);
    assert_true(is_held(&f->gate));
    check_all(f);

    set_gate(&f->gate, false);
    put_heads(f, 4);
    check_all(f);
    assert_int_not_equal(atomic_load(&f->index.n_stopped), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_store_writes_while_a_merge_is_stuck, setup, teardown),
        cmocka_unit_test_setup_teardown(test_store_writes_while_an_index_is_stuck, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
