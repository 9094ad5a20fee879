#include "shard/storage/index_testing.h"
#include "shard/storage/store_testing.h"

#include <stdatomic.h>
#include <unistd.h>

#include "common/kith_aside.h"

/* Many writers and readers at once, with sealing and merging in the background: each writer owns
 * its ids and only raises their versions, so a reader may check every view by itself. Made for the
 * thread sanitizer; also run on a real disk. */

#define WRITERS 3u
#define READERS 2u
#define IDS     120u /* of each writer */

struct crowd {
    struct store *store;
    struct test_index index;
    uint64_t rounds;
    atomic_bool stop;
    _Atomic uint64_t acked[WRITERS][IDS]; /* version; 0 = deleted or never there */
};

struct member {
    struct crowd *crowd;
    uint32_t number;
    pthread_t thread;
    const char *problem;
};

static uint64_t id_of(uint32_t writer, uint64_t i)
{
    return writer * 1000 + i;
}

static void *writer(void *arg)
{
    struct member *me = arg;
    struct crowd *crowd = me->crowd;
    struct kith_buf ops = {0};
    uint64_t random = me->number + 1;
    for (uint64_t round = 1; round <= crowd->rounds; round++) {
        kith_buf_reset(&ops);
        struct kith_writer w = test_writer(&ops);
        uint64_t first = kith_random(&random) % IDS;
        bool deletes = kith_random(&random) % 4 == 0;
        kith_write_array(&w, 10);
        for (uint64_t k = 0; k < 10; k++) {
            uint64_t id = id_of(me->number, (first + k) % IDS);
            if (deletes)
                test_delete(&w, id);
            else
                test_put(&w, id, round);
        }
        struct store_write_result result;
        do
            result = test_write_id(crowd->store, 0, &ops, NULL);
        while (result.err == KITH_BUSY); /* seals may be far behind heads of 50 rows */
        if (result.err != KITH_OK) {
            me->problem = "a write failed";
            break;
        }
        if (kith_random(&random) % 32 == 0) {
            atomic_fetch_add(&crowd->index.generation, 1);
            store_assume_rest(crowd->store);
            store_nudge(crowd->store);
        }
        /* Its own writes are there as soon as they are acknowledged. */
        struct view *view = store_view(crowd->store);
        struct view_place place;
        struct kith_id id = kith_id_number(id_of(me->number, first));
        if (view->seq < result.seq || view_find(view, &id, &place) == deletes)
            me->problem = "a writer did not see its own write";
        view_unref(view);
        for (uint64_t k = 0; k < 10; k++)
            atomic_store(&crowd->acked[me->number][(first + k) % IDS], deletes ? 0 : round);
    }
    kith_buf_fini(&ops);
    return NULL;
}

/* All parts of the view, row by row: the sums must be what the view says. */
static bool view_is_sound(const struct view *view)
{
    uint64_t live = 0;
    float sum = 0;
    for (uint32_t s = 0; s < view->n_segments; s++) {
        const struct view_segment *part = &view->segments[s];
        const float *rows = segment_row_data(part->segment, 0, segment_rows(part->segment));
        for (uint32_t row = 0; row < segment_rows(part->segment); row++)
            if (part->deleted == NULL || !bitmap_contains(part->deleted, row)) {
                sum += rows[(size_t)row * DIM];
                live++;
            }
    }
    for (uint32_t h = 0; h < view->n_heads; h++) {
        const struct head *head = view->heads[h].head;
        for (uint32_t row = 0; row < view->heads[h].rows;) {
            uint32_t n;
            const float *run = head_run(head, row, &n);
            for (uint32_t k = 0; k < n && row < view->heads[h].rows; k++, row++)
                if (head_row_live(head, row, view->seq)) {
                    sum += run[(size_t)k * DIM];
                    live++;
                }
        }
    }
    return live == view->live_points && sum >= 0;
}

static void *reader(void *arg)
{
    struct member *me = arg;
    struct crowd *crowd = me->crowd;
    uint64_t random = 99 + me->number;
    struct kith_buf payload = {0};
    while (!atomic_load(&crowd->stop)) {
        struct view *view = store_view(crowd->store);
        if (!view_is_sound(view))
            me->problem = "a view's rows are not what it says";
        uint64_t found = 0;
        for (uint32_t w = 0; w < WRITERS; w++)
            for (uint64_t i = 0; i < IDS; i++) {
                struct kith_id id = kith_id_number(id_of(w, i));
                struct view_place place;
                if (!view_find(view, &id, &place))
                    continue;
                found++;
                kith_buf_reset(&payload);
                if (!place.in_head && kith_random(&random) % 16 == 0 &&
                    segment_payload(view->segments[place.part].segment, place.row, &payload,
                                    NULL) != KITH_OK)
                    me->problem = "a payload cannot be read";
            }
        if (found != view->live_points)
            me->problem = "ids are found twice or not at all";
        view_unref(view);
    }
    kith_buf_fini(&payload);
    return NULL;
}

static void run_crowd(struct io *io, uint64_t rounds)
{
    struct crowd *crowd = kith_xalloc(sizeof *crowd);
    struct member members[WRITERS + READERS] = {0};
    struct store_options options = test_options(io);
    struct kith_diag diag = {0};
    options.background = true;
    test_index_init(&crowd->index, 20);
    options.index = &crowd->index.hooks;
    crowd->rounds = rounds;
    if (store_create(&options, &test_config, &diag) != KITH_OK ||
        store_open(&crowd->store, &options, &diag) != KITH_OK)
        fail_msg("open: %s", diag.text);
    for (uint32_t i = 0; i < WRITERS + READERS; i++) {
        members[i].crowd = crowd;
        members[i].number = i;
        assert_int_equal(
            pthread_create(&members[i].thread, NULL, i < WRITERS ? writer : reader, &members[i]),
            0);
    }
    for (uint32_t i = 0; i < WRITERS + READERS; i++) {
        if (i == WRITERS)
            atomic_store(&crowd->stop, true);
        assert_int_equal(pthread_join(members[i].thread, NULL), 0);
    }
    for (uint32_t i = 0; i < WRITERS + READERS; i++)
        if (members[i].problem != NULL)
            fail_msg("thread %u: %s", i, members[i].problem);
    for (int again = 0; again < 2; again++) {
        struct view *view = store_view(crowd->store);
        for (uint32_t w = 0; w < WRITERS; w++)
            for (uint64_t i = 0; i < IDS; i++)
                assert_int_equal(test_version(view, id_of(w, i)), atomic_load(&crowd->acked[w][i]));
        view_unref(view);
        store_close(crowd->store);
        assert_int_equal(store_open(&crowd->store, &options, &diag), KITH_OK);
    }
    store_close(crowd->store);
    assert_int_equal(store_destroy(&options, &diag), KITH_OK);
    kith_free(crowd);
}

static void test_store_serves_a_crowd(void **state)
{
    (void)state;
    struct io *io = NULL;
    assert_int_equal(io_fake_new(&io, NULL), KITH_OK);
    run_crowd(io, test_env("KITH_ROUNDS", 200));
    io_fake_free(io);
    assert_int_equal(kith_mem_live(), 0);
}

/* Whatever can wait gets half of the time all the same. */
static void test_store_writes_beside_searches_without_end(void **state)
{
    (void)state;
    struct io *io = NULL;
    assert_int_equal(io_fake_new(&io, NULL), KITH_OK);
    kith_aside_answer_begin();
    run_crowd(io, test_env("KITH_ROUNDS", 200));
    kith_aside_answer_end();
    io_fake_free(io);
    assert_int_equal(kith_mem_live(), 0);
}

static void test_store_serves_a_crowd_on_a_real_disk(void **state)
{
    (void)state;
    char root[] = "/tmp/kith-store-XXXXXX";
    struct kith_diag diag = {0};
    struct io *io = NULL, *second = NULL;
    assert_non_null(mkdtemp(root));
    if (io_real_open(&io, root, &diag) != KITH_OK)
        fail_msg("%s", diag.text);
    assert_int_equal(io_real_open(&second, root, NULL), KITH_BUSY);
    run_crowd(io, test_env("KITH_ROUNDS", 200) / 4);
    assert_int_equal(io->unlink(io->self, "LOCK", NULL), KITH_OK);
    assert_int_equal(io->remove_dir(io->self, "c", NULL), KITH_OK);
    io_real_close(io);
    assert_int_equal(rmdir(root), 0); /* nothing was left behind */
    assert_int_equal(kith_mem_live(), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_store_serves_a_crowd),
        cmocka_unit_test(test_store_writes_beside_searches_without_end),
        cmocka_unit_test(test_store_serves_a_crowd_on_a_real_disk),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
