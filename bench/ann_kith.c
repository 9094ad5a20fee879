/* Kith itself, as a shard runs it: a store in a temporary folder, filled by writes, sealed and
 * merged, and searched by search_run on the calling thread.
 *
 * spec: the index, "pq4", "int8", "rows" or "none", as in a collection's settings. Its settings are
 * recall targets, as users give them, and exact search. With " effort" behind, they are a grid over
 * what a target stands for: it shows what the targets leave on the table. With " bytes" behind,
 * ranks are those of the index's bytes: no row is read. "pq4 segments 4": without the store, in so
 * many segments of equal size. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ann_engine.h"
#include "ann_memory.h"
#include "ann_segments.h"
#include "common/kith_buf.h"
#include "common/kith_clock.h"
#include "common/kith_mem.h"
#include "proto/kith_limits.h"
#include "proto/kith_ops.h"
#include "shard/index/faiss_build.h"
#include "shard/index/ivf_build.h"
#include "shard/query/search.h"
#include "shard/storage/store.h"
#include "store_fill.h"

#define ROWS_PER_WRITE 1000u
#define SAMPLE_SEED    20231u

struct kith {
    char dir[4096];
    char family[ANN_NAME_BYTES];
    enum kith_index kind;
    const char *factory; /* of an index by Faiss */
    bool by_effort, no_rescore;
    uint32_t threads, n_segments; /* 0: as the store makes them */
    struct ivf_builder *builder;  /* NULL: no index of lists */
    struct faiss_builder *faiss;
    struct io *io;
    struct store *store;
    struct view *view;
    struct search_context *context;
    uint32_t setting;
};

static _Noreturn void die(const char *what, const struct kith_diag *diag)
{
    fprintf(stderr, "ann: kith: %s: %s\n", what, diag->text);
    exit(1);
}

/* ---- effort: the one place that knows how a search is told how hard to look ------------------ */

static const float targets[] = {0.80f,  0.85f,  0.90f,  0.92f,  0.93f,  0.935f,
                                0.94f,  0.945f, 0.95f,  0.96f,  0.97f,  0.98f,
                                0.985f, 0.99f,  0.993f, 0.995f, 0.998f, 1.0f /* exact */};
static const float reaches[] = {0.85f, 0.9f, 0.95f, 1.0f, 1.05f, 1.1f, 1.15f, 1.2f, 1.3f, 1.5f};
static const float margins[] = {1.5f, 2.0f, 2.5f, 3.0f, 3.5f};
#define MEMORY_RECALL 0.95f
#define MEMORY_K      10u
#define HEAD_BYTES    (1u << 30)
#define SEGMENTS_MAX  64u

#define COUNT(array) ((uint32_t)(sizeof(array) / sizeof((array)[0])))

static uint32_t count_settings(const struct kith *kith)
{
    return kith->by_effort ? COUNT(reaches) * COUNT(margins) : COUNT(targets);
}

static struct ivf_effort effort_of(uint32_t setting)
{
    return (struct ivf_effort){.reach = reaches[setting / COUNT(margins)],
                               .margin = margins[setting % COUNT(margins)],
                               .first_lists = IVF_FIRST_LISTS};
}

static void describe(void *index, uint32_t setting, char out[ANN_NAME_BYTES])
{
    const struct kith *kith = index;
    struct ivf_effort effort = effort_of(setting);

    if (kith->by_effort)
        snprintf(out, ANN_NAME_BYTES, "reach %g, margin %g", (double)effort.reach,
                 (double)effort.margin);
    else if (targets[setting] >= 1.0f)
        snprintf(out, ANN_NAME_BYTES, "exact");
    else
        snprintf(out, ANN_NAME_BYTES, "recall %g", (double)targets[setting]);
}

/* `effort` lives until the search is over. */
static void set_effort(const struct kith *kith, struct search_part *part, struct ivf_effort *effort)
{
    *effort = effort_of(kith->setting);
    if (kith->by_effort)
        part->effort = effort;
    else if (targets[kith->setting] >= 1.0f)
        part->exact = true;
    else
        part->recall = targets[kith->setting];
}

/* ---- filling --------------------------------------------------------------------------------- */

static void write_rows(struct kith *kith, const struct ann_set *set, uint32_t first, uint32_t n)
{
    struct kith_buf ops = {0};
    struct kith_writer w = {.write = kith_buf_sink, .sink = &ops};

    kith_write_array(&w, n);
    for (uint32_t i = first; i < first + n; i++) {
        struct kith_id id = kith_id_number(i);
        kith_op_write_put(&w, KITH_PUT_UPSERT, &id, set->base + (size_t)i * set->dim, set->dim,
                          (struct kith_bytes){0});
    }
    store_fill_write(kith->store, &ops);
    kith_buf_fini(&ops);
}

/* A full head is sealed by the write that comes after: one that deletes a point nobody has. */
static void write_nothing(struct kith *kith, const struct ann_set *set)
{
    struct kith_id id = kith_id_number(set->n);
    struct kith_buf ops = {0};
    struct kith_writer w = {.write = kith_buf_sink, .sink = &ops};

    kith_write_array(&w, 1);
    kith_op_write_head(&w, KITH_OP_DELETE);
    kith_write_array(&w, 1);
    kith_write_id(&w, &id);
    store_fill_write(kith->store, &ops);
    kith_buf_fini(&ops);
}

/* The size of a head that leaves the fewest rows in the last one: what is measured is the index,
 * and heads have none. For the same reason it is not their bytes that limit them. */
static uint32_t head_rows_for(uint32_t n)
{
    uint32_t best = n < KITH_HEAD_ROWS_MAX ? n : KITH_HEAD_ROWS_MAX;

    for (uint32_t rows = best; rows >= KITH_HEAD_ROWS_MAX / 2; rows--)
        if (n % rows < n % best)
            best = rows;
    return best;
}

/* A codebook out of rows drawn at random, as a node does once there are enough. */
static void train(struct kith *kith, const struct ann_set *set, const struct slice_config *config)
{
    uint32_t n = codebook_sample_rows(set->n, set->dim), dim = set->dim;
    uint32_t *order = kith_xalloc(set->n * sizeof(*order));
    float *rows;
    struct codebook *codebook = NULL;
    struct kith_diag diag = {0};
    struct drand48_data random;

    n = n < set->n ? n : set->n;
    rows = kith_xalloc((size_t)n * dim * sizeof(float));
    srand48_r(SAMPLE_SEED, &random);
    for (uint32_t i = 0; i < set->n; i++)
        order[i] = i;
    for (uint32_t i = 0; i < n; i++) {
        long value;
        lrand48_r(&random, &value);
        uint32_t other = i + (uint32_t)value % (set->n - i), row = order[other];
        order[other] = order[i];
        memcpy(rows + (size_t)i * dim, set->base + (size_t)row * dim, dim * sizeof(float));
    }
    struct codebook_training training = {
        .config = config,
        .codes = (enum codebook_codes)kith->kind,
        .rows = rows,
        .n_rows = n,
        .collection_rows = set->n,
        .generation = 1,
        .threads = kith->threads,
    };
    if (codebook_train(&codebook, &training, &diag) != KITH_OK)
        die("train", &diag);
    ivf_builder_set_codebook(kith->builder, codebook);
    codebook_unref(codebook);
    kith_free(order);
    kith_free(rows);
}

/* Segments by Faiss: made at once, as a merge would. */
static void fill_by_faiss(struct kith *kith, const struct ann_set *set, struct slice_config *config)
{
    struct kith_diag diag = {0};
    uint64_t start = kith_now_ns();

    snprintf(config->factory, sizeof(config->factory), "%s", kith->factory);
    struct faiss_builder_options building = {
        .config = *config, .min_rows = IVF_TRAIN_ROWS, .threads = kith->threads};
    if (faiss_builder_new(&kith->faiss, &building, &diag) != KITH_OK)
        die(kith->factory, &diag);
    kith->view = ann_segments_build(set, kith->io, config, faiss_builder_hooks(kith->faiss),
                                    kith->n_segments);
    fprintf(stderr, "kith: %s in %.1f s\n", kith->factory, (double)(kith_now_ns() - start) / 1e9);
}

static void fill(struct kith *kith, const struct ann_set *set)
{
    struct slice_config config = {.collection = 1,
                                  .dim = set->dim,
                                  .metric = KITH_COSINE,
                                  .rows = KITH_ROWS_F32,
                                  .index = kith->kind};
    struct ivf_builder_options building = {
        .config = config, .codes = (enum codebook_codes)kith->kind, .threads = kith->threads};
    uint32_t head_rows = head_rows_for(set->n);
    struct store_options options = {.io = kith->io,
                                    .dir = "slice",
                                    .select = store_fill_select_none,
                                    .head_rows_max = head_rows,
                                    .head_bytes_max = HEAD_BYTES};
    struct kith_diag diag = {0};
    uint64_t start = kith_now_ns(), written, trained;

    if (kith->kind == KITH_INDEX_FAISS) {
        fill_by_faiss(kith, set, &config);
        return;
    }
    if (kith->kind != KITH_INDEX_NONE) {
        if (ivf_builder_new(&kith->builder, &building, &diag) != KITH_OK)
            die("builder", &diag);
        options.index = ivf_builder_hooks(kith->builder);
    }
    if (kith->n_segments > 0) {
        train(kith, set, &config);
        kith->view = ann_segments_build(set, kith->io, &config, options.index, kith->n_segments);
        return;
    }
    if (store_create(&options, &config, &diag) != KITH_OK ||
        store_open(&kith->store, &options, &diag) != KITH_OK)
        die("create", &diag);
    for (uint32_t i = 0, n; i < set->n; i += n) {
        n = head_rows - i % head_rows;
        n = n < ROWS_PER_WRITE ? n : ROWS_PER_WRITE;
        n = n < set->n - i ? n : set->n - i;
        write_rows(kith, set, i, n);
        store_fill_maintain(kith->store);
    }
    write_nothing(kith, set);
    store_fill_maintain(kith->store);
    written = kith_now_ns();
    if (kith->kind != KITH_INDEX_NONE)
        train(kith, set, &config);
    trained = kith_now_ns();
    store_assume_rest(kith->store);
    store_fill_maintain(kith->store);
    kith->view = store_view(kith->store);
    if (kith->view->live_points != set->n)
        die("fill", &(struct kith_diag){.text = "the store does not hold the rows"});
    fprintf(stderr, "kith: wrote in %.1f s, trained in %.1f s, indexed in %.1f s; %u segments\n",
            (double)(written - start) / 1e9, (double)(trained - written) / 1e9,
            (double)(kith_now_ns() - trained) / 1e9, kith->view->n_segments);
}

/* ---- the engine ------------------------------------------------------------------------------ */

static void choose(void *index, uint32_t setting)
{
    ((struct kith *)index)->setting = setting;
}

static void search_batch(void *index, const float *queries, uint32_t n, uint32_t k, uint32_t *rows,
                         uint32_t *found)
{
    struct kith *kith = index;
    struct search_part part = {.n_queries = n,
                               .k = k,
                               .vectors = (const uint8_t *)queries,
                               .no_rescore = kith->no_rescore};
    struct search_request request = {
        .views = &kith->view, .n_views = 1, .parts = &part, .n_parts = 1};
    struct search_result result = {0};
    struct kith_diag diag = {0};
    struct ivf_effort effort;

    set_effort(kith, &part, &effort);
    if (search_run(kith->context, &request, &result, &diag) != KITH_OK)
        die("search", &diag);
    for (uint32_t q = 0; q < n; q++) {
        found[q] = result.found[q].n;
        for (uint32_t i = 0; i < found[q]; i++)
            rows[(size_t)q * k + i] = (uint32_t)result.found[q].hits[i].id.lo;
    }
    search_result_fini(&result);
}

static uint32_t search(void *index, const float *query, uint32_t k, uint32_t *rows)
{
    uint32_t n;

    search_batch(index, query, 1, k, rows, &n);
    return n;
}

static uint64_t rows_read(void *index)
{
    const struct kith *kith = index;
    struct search_stats stats;

    search_context_stats(kith->context, &stats);
    return stats.rows + stats.lists.listed;
}

/* Twice: what a few queries read, and all of them. */
static void tell_memory(void *index, const struct ann_set *set)
{
    struct kith *kith = index;
    struct search_stats stats;
    char dir[4200];
    uint32_t n = 0;

    snprintf(dir, sizeof(dir), "%s/%s", kith->dir, kith->n_segments > 0 ? "segments" : "slice");
    for (kith->setting = 0; targets[kith->setting] < MEMORY_RECALL; kith->setting++)
        ;
    search_context_stats(kith->context, &stats);
    uint64_t fell_back = stats.fell_back;
    ann_memory_evict(kith->view, dir);
    for (uint32_t end = set->n_queries / 10, i = 0; i < 2; i++, end = set->n_queries) {
        uint32_t rows[MEMORY_K];
        for (; n < end; n++)
            (void)search(kith, set->queries + (size_t)n * set->dim, MEMORY_K, rows);
        search_context_stats(kith->context, &stats);
        if (stats.fell_back > fell_back)
            fprintf(stderr, "kith: %llu of these queries were done exactly, which reads all rows\n",
                    (unsigned long long)(stats.fell_back - fell_back));
        ann_memory_tell(kith->view, kith->family, set->name, n);
    }
}

static void close_kith(void *index)
{
    struct kith *kith = index;

    search_context_close(kith->context);
    view_unref(kith->view);
    store_close(kith->store);
    ivf_builder_free(kith->builder);
    faiss_builder_free(kith->faiss);
    io_real_close(kith->io);
    store_fill_remove_dir(kith->dir);
    kith_free(kith);
}

static void read_spec(struct kith *kith, const char *spec)
{
    static const char *const names[] = {
        [KITH_INDEX_NONE] = "none",
        [KITH_INDEX_ROWS] = "rows",
        [KITH_INDEX_INT8] = "int8",
        [KITH_INDEX_PQ4] = "pq4",
    };
    size_t length = strcspn(spec, " ");

    if (strncmp(spec, "faiss:", 6) == 0) {
        kith->kind = KITH_INDEX_FAISS;
        kith->factory = spec + 6;
        kith->n_segments = 1;
        snprintf(kith->family, sizeof(kith->family), "kith-faiss");
        return;
    }

    for (uint32_t i = 0; i < COUNT(names); i++)
        if (strlen(names[i]) == length && strncmp(spec, names[i], length) == 0) {
            kith->kind = (enum kith_index)i;
            kith->by_effort = strcmp(spec + length, " effort") == 0;
            kith->no_rescore = strcmp(spec + length, " bytes") == 0;
            snprintf(kith->family, sizeof(kith->family), "kith%s",
                     kith->by_effort    ? "-effort"
                     : kith->no_rescore ? "-bytes"
                                        : "");
            if (sscanf(spec + length, " segments %u", &kith->n_segments) == 1)
                snprintf(kith->family, sizeof(kith->family), "kith-%u", kith->n_segments);
            if (kith->n_segments <= SEGMENTS_MAX)
                return;
        }
    die(spec,
        &(struct kith_diag){.text = "is not pq4, int8, rows, none or faiss:STRING, or has too many "
                                    "segments"});
}

void ann_kith_open(struct ann_engine *out, const struct ann_set *set, const char *spec,
                   uint32_t threads)
{
    struct kith *kith = kith_xalloc(sizeof(*kith));
    struct kith_diag diag = {0};

    read_spec(kith, spec);
    kith->threads = threads;
    store_fill_make_dir(kith->dir, sizeof(kith->dir));
    if (io_real_open(&kith->io, kith->dir, &diag) != KITH_OK ||
        search_context_open(&kith->context, NULL, &diag) != KITH_OK)
        die(kith->dir, &diag);
    fill(kith, set);
    *out = (struct ann_engine){
        .family = kith->family,
        .n_settings = count_settings(kith),
        .index = kith,
        .describe = describe,
        .choose = choose,
        .search = search,
        .search_batch = search_batch,
        .close = close_kith,
    };
    out->rows_read = rows_read;
    out->tell_memory = kith->by_effort ? NULL : tell_memory;
    snprintf(out->build, sizeof(out->build), "%s", spec);
}
