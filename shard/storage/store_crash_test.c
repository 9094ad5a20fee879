#include "shard/storage/index_testing.h"
#include "shard/storage/store_testing.h"

#include <malloc.h>

/* Power losses, failed syncs, full disks: one client writes a history, write after write, a few in
 * flight at a time; something happens to the disk; what is read back must be the state after some
 * write of the history, not before the last acknowledged one and not after the last attempted one.
 *
 * A state is the version of each id (0 = absent). A write that was refused is no part of the
 * history. */

#define IDS       40u
#define WRITES    120u
#define IN_FLIGHT 4u
#define IMAGES    64u

struct state {
    uint64_t version[IDS];
};

struct history {
    struct test_index index;
    struct io *io;
    struct store *store;
    struct store_options options;
    struct kith_buf ops[WRITES + 1];
    struct state states[WRITES + 1]; /* [0] = empty; [i] = after write i */
    uint64_t seqs[WRITES + 1];
    struct store_write_result results[WRITES + 1];
    uint32_t n; /* made */
    uint64_t random;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    uint32_t attempted, done; /* guarded by lock */
    uint32_t acked;           /* the last one acknowledged; guarded by lock */
};

struct image {
    struct io *io;
    uint32_t acked, attempted;
};

struct images {
    struct history *history;
    struct image list[IMAGES];
    uint32_t n;
    uint64_t random, gap_max;
};

/* Makes write number n: some puts and deletes, sometimes by filter. */
static void make_write(struct history *h)
{
    uint32_t i = ++h->n;
    struct state *state = &h->states[i];
    *state = h->states[i - 1];
    kith_buf_reset(&h->ops[i]);
    struct kith_writer w = test_writer(&h->ops[i]);
    uint32_t n = 1 + (uint32_t)(kith_random(&h->random) % 8);
    kith_write_array(&w, n);
    for (uint32_t k = 0; k < n; k++) {
        uint64_t id = kith_random(&h->random) % IDS;
        uint64_t dice = kith_random(&h->random) % 16;
        if (dice < 11) {
            test_put(&w, id, i);
            state->version[id] = i;
        } else if (dice < 15) {
            test_delete(&w, id);
            state->version[id] = 0;
        } else {
            kith_op_write_head(&w, KITH_OP_DELETE);
            test_filter(&w, 5, id % 5);
            for (uint64_t other = id % 5; other < IDS; other += 5)
                state->version[other] = 0;
        }
    }
}

struct in_flight {
    struct history *history;
    uint32_t write;
    struct in_flight *next_free;
};

static void on_done(void *ctx, const struct store_write_result *result,
                    const struct kith_diag *diag)
{
    (void)diag;
    struct in_flight *flight = ctx;
    struct history *h = flight->history;
    pthread_mutex_lock(&h->lock);
    h->results[flight->write] = *result;
    h->seqs[flight->write] = result->seq;
    if (result->err == KITH_OK)
        h->acked = flight->write;
    h->done++;
    pthread_cond_signal(&h->wake);
    pthread_mutex_unlock(&h->lock);
}

/* Sends writes h->attempted + 1 .. + n together and waits for all. */
static void send(struct history *h, uint32_t n)
{
    struct in_flight flights[IN_FLIGHT];
    uint32_t sent = 0;
    pthread_mutex_lock(&h->lock);
    h->done = 0;
    uint32_t first = h->attempted + 1;
    h->attempted += n;
    pthread_mutex_unlock(&h->lock);
    for (uint32_t k = 0; k < n; k++) {
        uint32_t i = first + k;
        flights[k] = (struct in_flight){.history = h, .write = i};
        enum kith_err err =
            store_write(h->store, i, (struct kith_bytes){h->ops[i].data, h->ops[i].len}, on_done,
                        &flights[k], NULL);
        if (err == KITH_OK)
            sent++;
        else
            h->results[i].err = err;
    }
    pthread_mutex_lock(&h->lock);
    while (h->done < sent)
        pthread_cond_wait(&h->wake, &h->lock);
    pthread_mutex_unlock(&h->lock);
}

static struct history *history_new(uint64_t seed, bool background)
{
    struct history *h = kith_xalloc(sizeof *h);
    h->random = seed;
    assert_int_equal(pthread_mutex_init(&h->lock, NULL), 0);
    assert_int_equal(pthread_cond_init(&h->wake, NULL), 0);
    assert_int_equal(io_fake_new(&h->io, NULL), KITH_OK);
    h->options = test_options(h->io);
    h->options.head_rows_max = 20 + (uint32_t)(seed % 40);
    h->options.background = background;
    h->options.rest_ms = 1; /* between any two writes */
    test_index_init(&h->index, 5);
    if (seed % 3 != 1)
        h->options.index = &h->index.hooks;
    return h;
}

static void history_open(struct history *h)
{
    struct kith_diag diag = {0};
    if (store_create(&h->options, &test_config, &diag) != KITH_OK ||
        store_open(&h->store, &h->options, &diag) != KITH_OK)
        fail_msg("open: %s", diag.text);
}

static void history_free(struct history *h)
{
    store_close(h->store);
    for (uint32_t i = 0; i <= WRITES; i++)
        kith_buf_fini(&h->ops[i]);
    io_fake_free(h->io);
    kith_free(h);
}

/* Writes the history up to write `end`, with rounds of maintenance in between. */
static void history_run(struct history *h, uint32_t end)
{
    while (h->n < end) {
        uint32_t n = 1 + (uint32_t)(kith_random(&h->random) % IN_FLIGHT);
        if (n > end - h->n)
            n = end - h->n;
        for (uint32_t k = 0; k < n; k++)
            make_write(h);
        send(h, n);
        bool did;
        if (kith_random(&h->random) % 16 == 0) {
            atomic_fetch_add(&h->index.generation, 1);
            store_assume_rest(h->store);
            store_nudge(h->store);
        }
        if (kith_random(&h->random) % 8 == 0)
            (void)store_maintain(h->store, &did, NULL);
        if (!h->options.background && kith_random(&h->random) % 16 == 0)
            (void)store_rest(h->store, &did, NULL);
    }
}

static bool same_state(const struct view *view, const struct state *state)
{
    uint64_t live = 0;
    for (uint64_t id = 0; id < IDS; id++) {
        if (test_version(view, id) != state->version[id])
            return false;
        live += state->version[id] != 0;
    }
    return live == test_count(view);
}

/* Opens what is on `io` and finds the write of the history whose state it has. */
static uint32_t which_state(const struct history *h, struct io *io, uint32_t acked,
                            uint32_t attempted, const char *what)
{
    struct store_options options = h->options;
    options.io = io;
    options.background = false;
    struct store *store = NULL;
    struct kith_diag diag = {0};
    if (store_open(&store, &options, &diag) != KITH_OK) {
        if (acked == 0 && diag.err == KITH_NOT_FOUND)
            return 0;
        fail_msg("%s: does not open: %s", what, diag.text);
    }
    struct view *view = store_view(store);
    uint32_t found = UINT32_MAX;
    for (uint32_t i = attempted + 1; i-- > acked && found == UINT32_MAX;)
        if (same_state(view, &h->states[i]))
            found = i;
    if (found == UINT32_MAX) {
        for (uint32_t i = 0; i <= WRITES; i++)
            if (same_state(view, &h->states[i]))
                print_message("it is the state after write %u\n", i);
        for (uint64_t id = 0; id < IDS; id++)
            if (test_version(view, id) != h->states[attempted].version[id])
                print_message("id %u: version %u, after the last attempt %u\n", (unsigned)id,
                              (unsigned)test_version(view, id),
                              (unsigned)h->states[attempted].version[id]);
        fail_msg("%s: seq %llu is no state between write %u (acknowledged) and %u (attempted)",
                 what, (unsigned long long)view->seq, acked, attempted);
    }
    view_unref(view);
    /* An acknowledged write that is sent again is not applied again. */
    if (acked > 0) {
        struct store_write_result again = test_write_id(store, acked, &h->ops[acked], NULL);
        assert_int_equal(again.err, KITH_OK);
        assert_int_equal(again.seq, h->results[acked].seq);
        view = store_view(store);
        assert_true(same_state(view, &h->states[found]));
        view_unref(view);
    }
    store_close(store);
    return found;
}

/* ---- power loss -------------------------------------------------------------------------------
 */

static void on_image(void *ctx, struct io *io)
{
    struct images *images = ctx;
    struct history *h = images->history;
    struct image *image = &images->list[images->n];
    pthread_mutex_lock(&h->lock);
    if (io == NULL)
        image->acked = h->acked; /* before it is taken: these must be in it */
    else
        image->attempted = h->attempted;
    pthread_mutex_unlock(&h->lock);
    if (io == NULL)
        return;
    image->io = io;
    if (++images->n < IMAGES)
        io_fake_crash_at(h->io, 1 + kith_random(&images->random) % images->gap_max,
                         kith_random(&images->random), on_image, images);
}

static void power_loss(uint64_t seed, uint64_t *n_images, bool background)
{
    struct history *h = history_new(seed, background);
    struct images *images = kith_xalloc(sizeof *images);
    images->history = h;
    images->random = seed * 77 + 1;
    images->gap_max = 1 + seed % 17;
    io_fake_crash_at(h->io, kith_random(&images->random) % 12, kith_random(&images->random),
                     on_image, images);
    history_open(h);
    history_run(h, WRITES);
    for (uint32_t i = 1; i <= WRITES; i++)
        assert_int_equal(h->results[i].err, KITH_OK);
    store_close(h->store); /* no more images from now on */
    h->store = NULL;
    for (uint32_t i = 0; i < images->n; i++) {
        struct image *image = &images->list[i];
        char what[96];
        (void)snprintf(what, sizeof what, "seed %llu, image %u", (unsigned long long)seed, i);
        /* A second power loss while the first is being recovered from. */
        struct images second = {.history = h, .n = IMAGES - 1, .gap_max = 1};
        if (kith_random(&images->random) % 3 == 0)
            io_fake_crash_at(image->io, kith_random(&images->random) % 12,
                             kith_random(&images->random), on_image, &second);
        (void)which_state(h, image->io, image->acked, image->attempted, what);
        if (second.n == IMAGES) {
            (void)which_state(h, second.list[IMAGES - 1].io, image->acked, image->attempted,
                              "second power loss");
            io_fake_free(second.list[IMAGES - 1].io);
        }
        io_fake_free(image->io);
        (*n_images)++;
    }
    kith_free(images);
    history_free(h);
}

static void test_store_survives_power_loss(void **state)
{
    (void)state;
    uint64_t seed = test_env("KITH_SEED", 1), n = 0;
    uint64_t wanted = test_env("KITH_CRASH_IMAGES", 2000);
    print_message("power loss: %llu images from seed %llu\n", (unsigned long long)wanted,
                  (unsigned long long)seed);
    for (; n < wanted; seed++)
        power_loss(seed, &n, seed % 8 == 0);
    assert_int_equal(kith_mem_live(), 0);
}

/* ---- failures ---------------------------------------------------------------------------------
 */

/* The history as it was acknowledged: refused writes leave no trace, and after the first KITH_IO
 * nothing is acknowledged. */
static void drop_refused(struct history *h)
{
    bool failed = false;
    for (uint32_t i = 1; i <= h->n; i++) {
        if (failed)
            assert_int_equal(h->results[i].err, KITH_IO);
        failed |= h->results[i].err == KITH_IO;
        if (h->results[i].err == KITH_OK || h->results[i].err == KITH_IO)
            continue;
        /* Deletes and puts are absolute, so dropping a write only changes what it changed. */
        h->ops[i].len = 0;
    }
}

/* Applies the surviving writes to an empty store in order, to have the states that are allowed. */
static void replay_states(struct history *h)
{
    struct history *plain = history_new(1, false);
    history_open(plain);
    for (uint32_t i = 1; i <= h->n; i++) {
        if (h->ops[i].len > 0)
            assert_int_equal(test_write(plain->store, &h->ops[i]).err, KITH_OK);
        struct view *view = store_view(plain->store);
        for (uint64_t id = 0; id < IDS; id++)
            h->states[i].version[id] = test_version(view, id);
        view_unref(view);
    }
    history_free(plain);
}

struct fault {
    enum io_fake_call call;
    enum kith_err err;
    bool for_ever, heal;
};

/* One run with call number n failing; false when the workload has fewer calls. */
static bool run_fault(const struct fault *fault, uint64_t n)
{
    struct history *h = history_new(9, false);
    char what[96];
    (void)snprintf(what, sizeof what, "%s at call %llu", kith_err_name(fault->err),
                   (unsigned long long)n);
    history_open(h);
    uint64_t before = io_fake_calls(h->io, fault->call);
    io_fake_fail(h->io, fault->call, n, fault->err, fault->for_ever);
    history_run(h, WRITES - 1);
    bool reached = io_fake_calls(h->io, fault->call) - before > n;
    struct store_stats stats;
    store_stats(h->store, &stats);
    if (fault->err == KITH_DISK_FULL && stats.failed)
        fail_msg("%s: the store failed for good", what);
    io_fake_heal(h->io);
    if (fault->heal && reached) {
        /* Space is back: the same store writes again. */
        make_write(h);
        send(h, 1);
        assert_int_equal(h->results[WRITES].err, KITH_OK);
    }
    drop_refused(h);
    replay_states(h);
    /* What the running store shows, what it left behind cleanly closed, and after a power loss. */
    struct view *view = store_view(h->store);
    bool shown = false;
    for (uint32_t i = h->acked; i <= h->attempted && !shown; i++)
        shown = same_state(view, &h->states[i]);
    view_unref(view);
    if (!shown)
        fail_msg("%s: reads show a state that never was", what);
    struct io *image = NULL;
    assert_int_equal(io_fake_crash(h->io, n, &image, NULL), KITH_OK);
    (void)which_state(h, image, h->acked, h->attempted, what);
    io_fake_free(image);
    store_close(h->store);
    h->store = NULL;
    (void)which_state(h, h->io, h->acked, h->attempted, what);
    history_free(h);
    return reached;
}

static void sweep_fault(const struct fault *fault)
{
    uint64_t n = 0, step = test_env("KITH_FAULT_STEP", 3);
    while (run_fault(fault, n))
        n += 1 + n % step;
    print_message("%s: swept up to call %llu\n", kith_err_name(fault->err), (unsigned long long)n);
    assert_int_equal(kith_mem_live(), 0);
}

static void test_store_fails_for_good_when_a_sync_fails(void **state)
{
    (void)state;
    sweep_fault(&(struct fault){.call = IO_FAKE_SYNC, .err = KITH_IO});
}

static void test_store_survives_any_io_error(void **state)
{
    (void)state;
    sweep_fault(&(struct fault){.call = IO_FAKE_ANY, .err = KITH_IO});
}

static void test_store_recovers_from_a_full_disk(void **state)
{
    (void)state;
    sweep_fault(&(struct fault){
        .call = IO_FAKE_SPACE, .err = KITH_DISK_FULL, .for_ever = true, .heal = true});
}

static void test_store_takes_a_moment_without_space(void **state)
{
    (void)state;
    sweep_fault(&(struct fault){.call = IO_FAKE_SPACE, .err = KITH_DISK_FULL, .heal = true});
}

/* ---- damage at rest ---------------------------------------------------------------------------
 */

struct file_names {
    char path[64][300];
    uint32_t n;
};

static void on_file(void *ctx, const char *name)
{
    struct file_names *files = ctx;
    assert_true(files->n < 64);
    (void)snprintf(files->path[files->n++], sizeof files->path[0], "c/0/%s", name);
}

/* Opens the damaged disk and reads it: it must refuse, or show exactly the state it had. A point
 * that is read wrong fails the test only if the verdict afterwards is good. */
static bool open_damaged(const struct history *h, struct io *io, const char *what)
{
    struct store_options options = h->options;
    options.io = io;
    struct store *store = NULL;
    struct kith_diag diag = {0};
    enum kith_err err = store_open(&store, &options, &diag);
    if (err != KITH_OK) {
        if (err != KITH_CORRUPT && err != KITH_NOT_FOUND)
            fail_msg("%s: %s %s", what, kith_err_name(err), diag.text);
        return false;
    }
    struct view *view = store_view(store);
    bool same = true;
    for (uint64_t id = 0; id < IDS && same; id++)
        same = test_reads(view, id, h->states[WRITES].version[id]);
    bool believed = view_verdict(&view, 1, KITH_OK, NULL) == KITH_OK;
    if (believed && !same)
        fail_msg("%s: a wrong answer", what);
    /* What reading did not touch is found when all of it is verified. */
    for (uint32_t s = 0; s < view->n_segments && believed; s++)
        believed = segment_verify(view->segments[s].segment, NULL, NULL, NULL) == KITH_OK;
    if (believed && !same_state(view, &h->states[WRITES]))
        fail_msg("%s: a wrong state", what);
    view_unref(view);
    store_close(store);
    return believed;
}

/* A slice with segments, deletes and a log of several records, closed; its files. */
static struct history *closed_history(struct file_names *files)
{
    for (uint64_t seed = 3;; seed++) {
        struct history *h = history_new(seed, false);
        history_open(h);
        history_run(h, WRITES);
        store_close(h->store);
        h->store = NULL;
        files->n = 0;
        assert_int_equal(h->io->list(h->io->self, "c/0", on_file, files, NULL), KITH_OK);
        uint32_t n_deletes = 0, n_segments = 0;
        for (uint32_t i = 0; i < files->n; i++) {
            n_deletes += strstr(files->path[i], "/del-") != NULL;
            n_segments += strstr(files->path[i], "/seg-") != NULL;
        }
        if (n_deletes > 0 && n_segments > 1)
            return h;
        history_free(h);
    }
}

static void test_store_notices_flipped_bits(void **state)
{
    (void)state;
    struct file_names files;
    struct history *h = closed_history(&files);
    uint64_t random = test_env("KITH_SEED", 1), n = test_env("KITH_FLIPS", 3000), harmless = 0;
    uint32_t kinds = 0;
    for (uint64_t i = 0; i < n; i++) {
        struct io *io = NULL;
        char what[400];
        uint8_t *bytes;
        uint64_t len;
        const char *path = files.path[i % files.n];
        assert_int_equal(io_fake_crash(h->io, 0, &io, NULL), KITH_OK);
        assert_true(io_fake_peek(io, path, &bytes, &len));
        /* Half of them in the first 4 KiB, where the headers are. */
        uint64_t room = kith_random(&random) % 2 == 0 || len < 4096 ? len : 4096;
        uint64_t bit = kith_random(&random) % (room * 8);
        bytes[bit / 8] ^= (uint8_t)(1u << (bit % 8));
        (void)snprintf(what, sizeof what, "bit %llu of %s", (unsigned long long)bit, path);
        harmless += open_damaged(h, io, what);
        kinds |= 1u << (path[4] % 32);
        io_fake_free(io);
    }
    print_message("flips: %llu, %llu of them harmless, %u files\n", (unsigned long long)n,
                  (unsigned long long)harmless, files.n);
    assert_true(harmless < n / 2);
    assert_int_equal(kinds,
                     1u << ('w' % 32) | 1u << ('s' % 32) | 1u << ('M' % 32) | 1u << ('d' % 32));
    history_free(h);
}

static void test_store_notices_misplaced_pages(void **state)
{
    (void)state;
    struct file_names files;
    struct history *h = closed_history(&files);
    uint64_t random = test_env("KITH_SEED", 1), n = test_env("KITH_FLIPS", 3000) / 4;
    for (uint64_t i = 0; i < n; i++) {
        struct io *io = NULL;
        char what[700];
        uint8_t *from, *to;
        uint64_t from_len, to_len;
        const char *a = files.path[kith_random(&random) % files.n];
        const char *b = files.path[kith_random(&random) % files.n];
        assert_int_equal(io_fake_crash(h->io, 0, &io, NULL), KITH_OK);
        assert_true(io_fake_peek(io, a, &from, &from_len) && io_fake_peek(io, b, &to, &to_len));
        uint64_t page = kith_random(&random) % 2 == 0 ? 512 : 4096;
        if (from_len >= page && to_len >= page) {
            uint64_t x = kith_random(&random) % (from_len / page) * page;
            uint64_t y = kith_random(&random) % (to_len / page) * page;
            memmove(to + y, from + x, (size_t)page);
            (void)snprintf(what, sizeof what, "page at %llu of %s over %llu of %s",
                           (unsigned long long)x, a, (unsigned long long)y, b);
            (void)open_damaged(h, io, what);
        }
        io_fake_free(io);
    }
    history_free(h);
}

static void test_store_notices_missing_and_cut_files(void **state)
{
    (void)state;
    struct file_names files;
    struct history *h = closed_history(&files);
    for (uint32_t i = 0; i < files.n * 2; i++) {
        struct io *io = NULL;
        uint8_t *bytes;
        uint64_t len;
        const char *path = files.path[i / 2];
        assert_int_equal(io_fake_crash(h->io, 0, &io, NULL), KITH_OK);
        assert_true(io_fake_peek(io, path, &bytes, &len));
        if (i % 2 == 0) {
            assert_int_equal(io->unlink(io->self, path, NULL), KITH_OK);
            assert_false(open_damaged(h, io, path));
        } else if (strstr(path, "wal-") == NULL) { /* a cut log is a torn one: see the wal's test */
            uint8_t *half = kith_memdup(bytes, (size_t)len / 2);
            assert_int_equal(io_fake_put(io, path, half, len / 2), KITH_OK);
            kith_free(half);
            assert_false(open_damaged(h, io, path));
        }
        io_fake_free(io);
    }
    history_free(h);
}

/* ---- memory -----------------------------------------------------------------------------------
 */

/* Every allocation of open, write, maintain, close fails once. */
static void test_store_survives_each_failed_allocation(void **state)
{
    (void)state;
    long step = (long)test_env("KITH_ALLOC_STEP", 7);
    for (long n = 0;; n += 1 + n % step) {
        struct history *h = history_new(5, false);
        struct kith_diag diag = {0};
        assert_int_equal(store_create(&h->options, &test_config, &diag), KITH_OK);
        while (h->n < 40)
            make_write(h);
        kith_mem_fail_after(n);
        enum kith_err err = store_open(&h->store, &h->options, &diag);
        kith_mem_fail_after(-1);
        bool passed = err == KITH_OK;
        if (!passed) {
            assert_int_equal(err, KITH_NOMEM);
            assert_int_equal(store_open(&h->store, &h->options, &diag), KITH_OK);
        }
        history_free(h);
        assert_int_equal(kith_mem_live(), 0);
        if (passed)
            return;
    }
}

static void test_store_undoes_writes_without_memory(void **state)
{
    (void)state;
    struct history *h = history_new(6, false);
    history_open(h);
    uint64_t refused = 0, random = 1;
    bool did;
    while (h->n < WRITES) {
        make_write(h);
        kith_mem_fail_after((long)(kith_random(&random) % 12));
        send(h, 1);
        kith_mem_fail_after(-1);
        refused += h->results[h->n].err != KITH_OK;
        if (h->n % 10 == 0) {
            kith_mem_fail_after((long)(kith_random(&random) % 60));
            (void)(h->n % 20 == 0 ? store_rest : store_maintain)(h->store, &did, NULL);
            kith_mem_fail_after(-1);
        }
    }
    assert_in_range(refused, 1, WRITES - 1);
    drop_refused(h);
    replay_states(h);
    struct view *view = store_view(h->store);
    assert_true(same_state(view, &h->states[WRITES]));
    view_unref(view);
    store_close(h->store);
    h->store = NULL;
    assert_true(open_damaged(h, h->io, "reopened"));
    history_free(h);
    assert_int_equal(kith_mem_live(), 0);
}

int main(void)
{
    /* Thousands of stores are opened and closed: keep their memory instead of mapping it anew. */
    (void)mallopt(M_MMAP_THRESHOLD, 64 << 20);
    (void)mallopt(M_TRIM_THRESHOLD, 512 << 20);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_store_survives_power_loss),
        cmocka_unit_test(test_store_fails_for_good_when_a_sync_fails),
        cmocka_unit_test(test_store_survives_any_io_error),
        cmocka_unit_test(test_store_recovers_from_a_full_disk),
        cmocka_unit_test(test_store_takes_a_moment_without_space),
        cmocka_unit_test(test_store_notices_flipped_bits),
        cmocka_unit_test(test_store_notices_misplaced_pages),
        cmocka_unit_test(test_store_notices_missing_and_cut_files),
        cmocka_unit_test(test_store_survives_each_failed_allocation),
        cmocka_unit_test(test_store_undoes_writes_without_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
