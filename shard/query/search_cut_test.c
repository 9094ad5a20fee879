/* Segment files that are cut while they are searched: the process stays, no answer is wrong.
 *
 * A slice of several segments is copied to a fresh folder, opened, read by some threads in every
 * way there is; then a file is cut somewhere. What a reader gets is the whole right answer or
 * KITH_CORRUPT; when all readers have seen the cut, every further read and write is refused. The
 * long form: KITH_CUTS=1000. */
#include "shard/query/search.h"

#include <fcntl.h>
#include <float.h>
#include <stdatomic.h>
#include <sched.h>
#include <sys/stat.h>
#include <unistd.h>

#include "shard/query/context_testing.h"
#include "shard/query/count.h"
#include "shard/query/facet.h"
#include "shard/query/records.h"
#include "shard/query/scroll.h"
#include "shard/query/select.h"
#include "shard/storage/store_testing.h"

#define IDS      6000u
#define READERS  3u
#define FILES    16u
#define GROUPS   7u
#define K        10u
#define VERSIONS 5u

static char root[64];
static struct kith_filter filters[GROUPS];
static struct kith_buf filter_bytes[GROUPS];

static uint64_t version_of(uint64_t id)
{
    return 1 + id % VERSIONS;
}

/* ---- the slice that is copied ---------------------------------------------------------------- */

struct saved {
    char name[64];
    uint8_t *bytes;
    size_t len;
};

static struct saved files[FILES];
static uint32_t n_files;
static struct io *disk;

static void on_saved_name(void *ctx, const char *name)
{
    (void)ctx;
    assert_true(n_files < FILES);
    (void)snprintf(files[n_files++].name, sizeof files[0].name, "%s", name);
}

static void save_files(void)
{
    assert_int_equal(disk->list(disk->self, "c/0", on_saved_name, NULL, NULL), KITH_OK);
    for (uint32_t i = 0; i < n_files; i++) {
        char path[128];
        struct io_file *file = NULL;
        uint64_t len = 0;
        (void)snprintf(path, sizeof path, "c/0/%.63s", files[i].name);
        assert_int_equal(disk->open(disk->self, path, IO_READ, &file, NULL), KITH_OK);
        assert_int_equal(disk->size(disk->self, file, &len, NULL), KITH_OK);
        files[i].len = (size_t)len;
        files[i].bytes = kith_xalloc(files[i].len);
        assert_int_equal(disk->read(disk->self, file, 0, files[i].bytes, files[i].len, NULL),
                         KITH_OK);
        disk->close(disk->self, file);
    }
}

static void restore_files(void)
{
    for (uint32_t i = 0; i < n_files; i++) {
        char path[256];
        (void)snprintf(path, sizeof path, "%s/c/0/%.63s", root, files[i].name);
        (void)unlink(path);
        int fd = open(path, O_WRONLY | O_CREAT | O_EXCL, 0640);
        assert_true(fd >= 0);
        assert_int_equal(write(fd, files[i].bytes, files[i].len), files[i].len);
        assert_int_equal(close(fd), 0);
    }
}

static struct store_options options_here(void)
{
    struct store_options options = test_options(disk);
    options.head_rows_max = 2000;
    return options;
}

static void make_slice(void)
{
    struct store_options options = options_here();
    struct store *store = NULL;
    assert_int_equal(store_create(&options, &test_config, NULL), KITH_OK);
    assert_int_equal(store_open(&store, &options, NULL), KITH_OK);
    for (uint64_t first = 0; first < IDS; first += 500) {
        struct kith_buf ops = {0};
        struct kith_writer w = test_writer(&ops);
        bool did;
        kith_write_array(&w, 500);
        for (uint64_t id = first; id < first + 500; id++)
            test_put(&w, id, version_of(id));
        assert_int_equal(test_write(store, &ops).err, KITH_OK);
        kith_buf_fini(&ops);
        assert_int_equal(store_maintain(store, &did, NULL), KITH_OK);
    }
    struct view *view = store_view(store);
    assert_in_range(view->n_segments, 2, 8);
    view_unref(view);
    store_close(store);
}

static void make_filters(void)
{
    for (uint32_t g = 0; g < GROUPS; g++)
        context_filter(&filters[g], &filter_bytes[g], "match", "value", g);
}

static int set_up(void **state)
{
    random_begin(test_env("KITH_SEED", 1));
    (void)random_say_seed(state);
    (void)snprintf(root, sizeof root, "/tmp/kith-cut-XXXXXX");
    if (mkdtemp(root) == NULL || io_real_open(&disk, root, NULL) != KITH_OK)
        return -1;
    make_slice();
    save_files();
    make_filters();
    return context_open(2);
}

static int tear_down(void **state)
{
    (void)context_tear_down(state);
    struct store_options options = options_here();
    (void)store_destroy(&options, NULL);
    io_real_close(disk);
    for (uint32_t i = 0; i < n_files; i++)
        kith_free(files[i].bytes);
    for (uint32_t g = 0; g < GROUPS; g++)
        kith_buf_fini(&filter_bytes[g]);
    char command[128];
    (void)snprintf(command, sizeof command, "rm -rf '%s'", root);
    int rc = system(command);
    return kith_mem_live() == 0 ? rc : -1;
}

/* ---- reading, and knowing what should come --------------------------------------------------- */

struct cutting {
    struct store *store;
    atomic_uint reads, refused; /* by all readers */
    atomic_bool cut;
    _Atomic(const char *) problem;
};

static uint64_t group_size(uint32_t group)
{
    return IDS / GROUPS + (group < IDS % GROUPS ? 1 : 0);
}

/* Ranks grow with the id (dot product with ones), but for the versions' small share: the k best of
 * a group are its k highest ids. */
static const char *read_search(struct view *view, int group, enum kith_err *err)
{
    static const float ones[DIM] = {1, 1, 1, 1};
    struct search_part part = {.n_queries = 1, .k = K, .vectors = (const uint8_t *)ones};
    part.filter = group >= 0 ? &filters[group] : NULL;
    struct search_request request = {.views = &view, .n_views = 1, .parts = &part, .n_parts = 1};
    struct search_result result = {0};
    *err = search_run(context, &request, &result, NULL);
    if (*err != KITH_OK)
        return NULL;
    const char *problem = NULL;
    if (result.matched != (group >= 0 ? group_size((uint32_t)group) : IDS) ||
        result.found[0].n != K)
        problem = "a search found fewer points";
    uint64_t id = IDS;
    for (uint32_t i = 0; problem == NULL && i < K; i++) {
        do
            id--;
        while (group >= 0 && id % GROUPS != (uint32_t)group);
        float vector[DIM], rank = 0;
        test_vector(id, version_of(id), vector);
        for (uint32_t d = 0; d < DIM; d++)
            rank += vector[d];
        const struct kith_hit *hit = &result.found[0].hits[i];
        if (hit->id.lo != id || hit->rank - rank > 0.01f || rank - hit->rank > 0.01f)
            problem = "a wrong hit";
    }
    search_result_fini(&result);
    return problem;
}

static const char *read_count(struct view *view, uint32_t group, enum kith_err *err)
{
    uint64_t n = 0;
    struct parts_scope scope = {.views = &view, .n_views = 1, .filter = &filters[group]};
    *err = count_run(&scope, &n, NULL);
    return *err == KITH_OK && n != group_size(group) ? "a wrong count" : NULL;
}

static const char *read_facet(struct view *view, enum kith_err *err)
{
    static const struct kith_filter all;
    struct facet facet = {0};
    struct parts_scope scope = {.views = &view, .n_views = 1, .filter = &all};
    *err = facet_run(&facet, &scope, (struct kith_bytes){(const uint8_t *)"v", 1}, NULL);
    const char *problem = NULL;
    if (*err == KITH_OK && (facet.n != VERSIONS || facet.hits[0].count != IDS / VERSIONS))
        problem = "a wrong facet";
    facet_fini(&facet);
    return problem;
}

static const char *read_scroll(struct view *view, uint64_t from, enum kith_err *err)
{
    static const struct kith_filter all;
    struct kith_msg_scroll msg = {
        .limit = 100, .with_payload = true, .with_vector = true, .has_from = true};
    msg.from = kith_id_number(from);
    struct records records = {0};
    const char *problem = NULL;
    struct parts_scope scope = {.views = &view, .n_views = 1, .filter = &all};
    *err = scroll_run(&records, &scope, &msg, NULL);
    if (*err == KITH_OK && records.n != (IDS - from < 100 ? IDS - from : 100))
        problem = "a page has too few points";
    for (uint32_t i = 0; *err == KITH_OK && problem == NULL && i < records.n; i++) {
        struct kith_buf payload = {0};
        float vector[DIM];
        test_payload(&payload, from + i, version_of(from + i));
        test_vector(from + i, version_of(from + i), vector);
        const struct kith_record *record = &records.items[i];
        if (record->id.lo != from + i || record->payload.len != payload.len ||
            memcmp(record->payload.data, payload.data, payload.len) != 0 ||
            memcmp(record->vector.data, vector, sizeof vector) != 0)
            problem = "a wrong point";
        kith_buf_fini(&payload);
    }
    records_fini(&records);
    return problem;
}

static const char *read_once(struct view *view, uint64_t *random, enum kith_err *err)
{
    uint32_t group = (uint32_t)(kith_random(random) % GROUPS);
    switch (kith_random(random) % 5) {
    case 0:
        return read_search(view, -1, err);
    case 1:
        return read_search(view, (int)group, err);
    case 2:
        return read_count(view, group, err);
    case 3:
        return read_facet(view, err);
    default:
        return read_scroll(view, kith_random(random) % IDS, err);
    }
}

/* Until a read is refused. */
static void *reader(void *ctx)
{
    struct cutting *cutting = ctx;
    uint64_t random = (uint64_t)(uintptr_t)&random;
    uint32_t unnoticed = 0;
    for (;;) {
        bool was_cut = atomic_load(&cutting->cut);
        struct view *view = store_view(cutting->store);
        enum kith_err err = KITH_OK;
        const char *problem = read_once(view, &random, &err);
        view_unref(view);
        atomic_fetch_add(&cutting->reads, 1);
        if (problem == NULL && err == KITH_OK && was_cut && ++unnoticed > 50)
            problem = "a cut was not noticed";
        if (err != KITH_OK && err != KITH_CORRUPT)
            problem = "an error that is not CORRUPT";
        if (problem != NULL)
            atomic_store(&cutting->problem, problem);
        if (problem != NULL || err != KITH_OK)
            break;
    }
    atomic_fetch_add(&cutting->refused, 1);
    return NULL;
}

static void cut_one(const struct view *view, uint64_t *random)
{
    char path[256];
    uint32_t at = (uint32_t)(kith_random(random) % view->n_segments);
    const struct segment *segment = view->segments[at].segment;
    uint64_t len = segment_file_bytes(segment);
    (void)snprintf(path, sizeof path, "%s/c/0/seg-%016llx", root,
                   (unsigned long long)segment_number(segment));
    assert_int_equal(truncate(path, (off_t)(kith_random(random) % len)), 0);
    if (kith_random(random) % 4 == 0) /* and long again, with zeros */
        assert_int_equal(truncate(path, (off_t)len), 0);
}

static void one_cut(uint64_t *random, uint64_t *reads)
{
    struct cutting cutting = {0};
    struct store_options options = options_here();
    restore_files();
    options.background = kith_random(random) % 2 == 0;
    assert_int_equal(store_open(&cutting.store, &options, NULL), KITH_OK);
    struct view *view = store_view(cutting.store);
    if (kith_random(random) % 2 == 0) /* also files whose blocks are all verified */
        for (uint32_t i = 0; i < view->n_segments; i++)
            assert_int_equal(segment_verify(view->segments[i].segment, NULL, NULL, NULL), KITH_OK);
    pthread_t threads[READERS];
    for (uint32_t i = 0; i < READERS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, reader, &cutting), 0);
    uint32_t wanted = (uint32_t)(kith_random(random) % 60);
    while (atomic_load(&cutting.reads) < wanted && atomic_load(&cutting.refused) == 0)
        (void)sched_yield();
    if (atomic_load(&cutting.problem) != NULL)
        fail_msg("before the cut: %s", atomic_load(&cutting.problem));
    assert_int_equal(atomic_load(&cutting.refused), 0);
    cut_one(view, random);
    atomic_store(&cutting.cut, true);
    for (uint32_t i = 0; i < READERS; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    if (atomic_load(&cutting.problem) != NULL)
        fail_msg("%s", atomic_load(&cutting.problem));
    /* For good, for writes too; and the rest goes its way. */
    enum kith_err err = KITH_OK;
    assert_null(read_once(view, random, &err));
    assert_int_equal(err, KITH_CORRUPT);
    struct kith_buf ops = {0};
    struct kith_writer w = test_writer(&ops);
    struct kith_diag diag = {0};
    kith_write_array(&w, 1);
    test_put(&w, 1, 99);
    assert_int_equal(test_write_id(cutting.store, 0, &ops, &diag).err, KITH_CORRUPT);
    assert_non_null(strstr(diag.text, "seg-"));
    kith_buf_fini(&ops);
    view_unref(view);
    store_close(cutting.store);
    *reads += atomic_load(&cutting.reads);
}

static void test_search_survives_cut_files(void **state)
{
    (void)state;
    uint64_t n = test_env("KITH_CUTS", 60), reads = 0;
    for (uint64_t i = 0; i < n; i++)
        one_cut(&random_state, &reads);
    print_message("cuts: %llu, during %llu reads\n", (unsigned long long)n,
                  (unsigned long long)reads);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_search_survives_cut_files),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
