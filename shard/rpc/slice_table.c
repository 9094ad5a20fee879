#include "shard/rpc/slice_table.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/kith_log.h"
#include "common/kith_mem.h"
#include "proto/kith_limits.h"
#include "shard/index/sketch.h"

#define ROOT          "slices"
#define DIR_BYTES     64u
#define BUCKETS       4096u /* a node holds hundreds of slices, some thousands at most */
#define CLOSE_SHARES  256u
#define CLOSE_THREADS 16u

struct slice {
    /* Immutable once in the table. */
    uint64_t collection;
    uint32_t number;
    char dir[DIR_BYTES];
    /* Set by the admin worker before the state becomes OPEN. */
    struct store *store;
    struct collection_index *index; /* a reference; NULL: none */
    /* Guarded by the table's lock. */
    struct slice *next; /* in its bucket */
    enum slice_state state;
    enum kith_err err; /* FAILED: why */
    uint32_t refs;
};

struct slice_table {
    /* Immutable after open. */
    struct slice_table_options options;
    /* Guarded by lock. */
    pthread_mutex_t lock;
    pthread_cond_t released; /* some slice lost its last reference */
    struct slice *buckets[BUCKETS];
    struct slice_table_counts counts;
    bool hurry;
};

/* ---- the table ------------------------------------------------------------------------------- */

static struct slice **bucket_of(struct slice_table *table, uint64_t collection, uint32_t number)
{
    uint64_t mixed = (collection ^ ((uint64_t)number << 48)) * UINT64_C(0x9E3779B97F4A7C15);
    return &table->buckets[mixed >> 52];
}
_Static_assert(BUCKETS == 1u << 12, "bucket_of takes the top 12 bits");

static struct slice *find_locked(struct slice_table *table, uint64_t collection, uint32_t number)
{
    struct slice *slice = *bucket_of(table, collection, number);
    while (slice != NULL && (slice->collection != collection || slice->number != number))
        slice = slice->next;
    return slice;
}

static void count_locked(struct slice_table *table, enum slice_state state, uint32_t by)
{
    table->counts.slices += by;
    table->counts.open += state == SLICE_OPEN ? by : 0;
    table->counts.warming += state == SLICE_WARMING ? by : 0;
    table->counts.failed += state == SLICE_FAILED ? by : 0;
}

static void set_state_locked(struct slice_table *table, struct slice *slice, enum slice_state state)
{
    count_locked(table, slice->state, UINT32_MAX); /* minus one */
    slice->state = state;
    count_locked(table, state, 1);
}

static struct slice *new_slice(uint64_t collection, uint32_t number)
{
    struct slice *slice = kith_alloc(sizeof *slice);
    if (slice == NULL)
        return NULL;
    slice->collection = collection;
    slice->number = number;
    slice->state = SLICE_WARMING;
    (void)snprintf(slice->dir, sizeof slice->dir, ROOT "/%016llx-%u",
                   (unsigned long long)collection, number);
    return slice;
}

static void insert(struct slice_table *table, struct slice *slice)
{
    (void)pthread_mutex_lock(&table->lock);
    struct slice **bucket = bucket_of(table, slice->collection, slice->number);
    slice->next = *bucket;
    *bucket = slice;
    count_locked(table, slice->state, 1);
    (void)pthread_mutex_unlock(&table->lock);
}

/* Takes it out and frees it; its store must be closed. */
static void discard(struct slice_table *table, struct slice *slice)
{
    (void)pthread_mutex_lock(&table->lock);
    struct slice **link = bucket_of(table, slice->collection, slice->number);
    while (*link != slice)
        link = &(*link)->next;
    *link = slice->next;
    count_locked(table, slice->state, UINT32_MAX);
    kith_assert(slice->refs == 0 && slice->store == NULL);
    (void)pthread_mutex_unlock(&table->lock);
    kith_free(slice);
}

/* ---- opening one ----------------------------------------------------------------------------- */

static struct store_options options_for(const struct slice_table *table, const struct slice *slice)
{
    return (struct store_options){
        .io = table->options.io,
        .dir = slice->dir,
        .select = table->options.select,
        .index = collection_index_hooks(slice->index),
        .sketch = sketch_where_it_pays,
        .head_rows_max = table->options.head_rows_max,
        .background = true,
    };
}

static enum kith_err fail_slice(struct slice_table *table, struct slice *slice, enum kith_err err)
{
    (void)pthread_mutex_lock(&table->lock);
    slice->err = err;
    set_state_locked(table, slice, SLICE_FAILED);
    (void)pthread_mutex_unlock(&table->lock);
    return err;
}

static void close_slice(struct slice *slice)
{
    store_close(slice->store);
    collection_index_put(slice->index); /* after the segments that were parsed with it */
    slice->store = NULL;
    slice->index = NULL;
}

static enum kith_err find_index(struct slice_table *table, struct slice *slice,
                                struct kith_diag *diag)
{
    struct store_options options = options_for(table, slice);
    struct slice_config config;
    enum kith_err err = store_peek(&options, &config, diag);
    if (err == KITH_OK && (config.collection != slice->collection || config.slice != slice->number))
        err = kith_fail(diag, KITH_CORRUPT, "%s holds slice %016llx-%u", slice->dir,
                        (unsigned long long)config.collection, config.slice);
    if (err == KITH_OK)
        err = collection_index_get(table->options.indexes, &config, &slice->index, diag);
    return err;
}

/* From WARMING or FAILED to OPEN or FAILED. */
static enum kith_err open_slice(struct slice_table *table, struct slice *slice,
                                struct kith_diag *diag)
{
    struct store *store = NULL;
    enum kith_err err = find_index(table, slice, diag);
    if (err == KITH_OK) {
        struct store_options options = options_for(table, slice);
        err = store_open(&store, &options, diag);
    }
    if (err != KITH_OK) {
        close_slice(slice);
        return fail_slice(table, slice, err);
    }
    collection_index_adopt(slice->index, store);
    (void)pthread_mutex_lock(&table->lock);
    slice->store = store;
    set_state_locked(table, slice, SLICE_OPEN);
    (void)pthread_mutex_unlock(&table->lock);
    return KITH_OK;
}

struct warming {
    struct slice_table *table;
    struct slice **slices;
};

static void warm_one(void *ctx, uint32_t index, uint32_t worker)
{
    struct warming *warming = ctx;
    struct slice *slice = warming->slices[index];
    struct kith_diag diag = {0};
    (void)worker;
    (void)pthread_mutex_lock(&warming->table->lock);
    bool hurry = warming->table->hurry;
    (void)pthread_mutex_unlock(&warming->table->lock);
    if (!hurry && open_slice(warming->table, slice, &diag) != KITH_OK)
        kith_log(ERROR, "slice.open_failed", "dir=%s error=%s text=\"%s\"", slice->dir,
                 kith_err_name(slice->err), diag.text);
}

void slice_table_warm(struct slice_table *table, struct kith_pool *pool)
{
    struct warming warming = {.table = table};
    (void)pthread_mutex_lock(&table->lock);
    uint32_t n = table->counts.warming, i = 0;
    warming.slices = kith_alloc(((size_t)n + 1) * sizeof *warming.slices);
    for (uint32_t b = 0; b < BUCKETS && warming.slices != NULL; b++)
        for (struct slice *slice = table->buckets[b]; slice != NULL; slice = slice->next)
            if (slice->state == SLICE_WARMING)
                warming.slices[i++] = slice;
    (void)pthread_mutex_unlock(&table->lock);
    if (warming.slices == NULL)
        kith_log(ERROR, "slice.open_failed", "error=NOMEM slices=%u", n);
    else
        kith_pool_run(pool, i, warm_one, &warming); /* nobody else moves a WARMING slice */
    kith_free(warming.slices);
}

void slice_table_hurry(struct slice_table *table)
{
    (void)pthread_mutex_lock(&table->lock);
    table->hurry = true;
    (void)pthread_mutex_unlock(&table->lock);
}

/* ---- create and drop ------------------------------------------------------------------------- */

static bool same_config(const struct slice_config *a, const struct slice_config *b)
{
    return a->collection == b->collection && a->slice == b->slice && a->dim == b->dim &&
           a->metric == b->metric && a->rows == b->rows && a->index == b->index &&
           strcmp(a->factory, b->factory) == 0;
}

static enum kith_err create_new(struct slice_table *table, const struct slice_config *config,
                                struct slice **out, struct kith_diag *diag)
{
    struct slice *slice = new_slice(config->collection, config->slice);
    if (slice == NULL)
        return kith_fail(diag, KITH_NOMEM, "no memory for a slice");
    struct store_options options = options_for(table, slice);
    enum kith_err err = store_create(&options, config, diag);
    if (err != KITH_OK && err != KITH_EXISTS) {
        kith_free(slice);
        return err;
    }
    insert(table, slice);
    *out = slice;
    return KITH_OK;
}

enum kith_err slice_table_create(struct slice_table *table, const struct slice_config *config,
                                 struct kith_diag *diag)
{
    (void)pthread_mutex_lock(&table->lock);
    struct slice *slice = find_locked(table, config->collection, config->slice);
    (void)pthread_mutex_unlock(&table->lock);
    enum kith_err err = KITH_OK;
    if (slice == NULL)
        err = create_new(table, config, &slice, diag);
    if (err == KITH_OK && slice->state != SLICE_OPEN)
        err = open_slice(table, slice, diag);
    if (err == KITH_OK && !same_config(store_config(slice->store), config))
        err = kith_fail(diag, KITH_CONFLICT,
                        "slice %u exists with another dimension, metric, row type or index",
                        config->slice);
    return err;
}

enum kith_err slice_table_drop(struct slice_table *table, uint64_t collection, uint32_t number,
                               struct kith_diag *diag)
{
    (void)pthread_mutex_lock(&table->lock);
    struct slice *slice = find_locked(table, collection, number);
    if (slice != NULL) {
        set_state_locked(table, slice, SLICE_DROPPING); /* no new references from here on */
        if (slice->store != NULL)
            store_hurry(slice->store);
        while (slice->refs > 0)
            (void)pthread_cond_wait(&table->released, &table->lock);
    }
    (void)pthread_mutex_unlock(&table->lock);
    if (slice == NULL)
        return KITH_OK;
    close_slice(slice);
    struct store_options options = options_for(table, slice);
    enum kith_err err = store_destroy(&options, diag);
    if (err != KITH_OK && err != KITH_NOT_FOUND)
        return fail_slice(table, slice, err); /* a repeated drop tries again */
    discard(table, slice);
    return KITH_OK;
}

/* ---- references ------------------------------------------------------------------------------ */

enum kith_err slice_table_get(struct slice_table *table, uint64_t collection, uint32_t number,
                              struct slice **out, const char **why)
{
    enum kith_err err = KITH_OK;
    (void)pthread_mutex_lock(&table->lock);
    struct slice *slice = find_locked(table, collection, number);
    if (slice == NULL || slice->state == SLICE_DROPPING) {
        err = KITH_NOT_FOUND;
        *why = "this node does not hold the slice";
    } else if (slice->state == SLICE_WARMING) {
        err = KITH_UNAVAILABLE;
        *why = "the slice is being opened";
    } else if (slice->state == SLICE_FAILED) {
        err = slice->err;
        *why = "the slice could not be opened; the node's log says why";
    } else {
        slice->refs++;
        *out = slice;
    }
    (void)pthread_mutex_unlock(&table->lock);
    return err;
}

void slice_put(struct slice_table *table, struct slice *slice)
{
    (void)pthread_mutex_lock(&table->lock);
    kith_assert(slice->refs > 0);
    if (--slice->refs == 0 && slice->state == SLICE_DROPPING)
        (void)pthread_cond_broadcast(&table->released);
    (void)pthread_mutex_unlock(&table->lock);
}

struct store *slice_store(const struct slice *slice)
{
    return slice->store;
}

struct collection_index *slice_index(const struct slice *slice)
{
    return slice->index;
}

void slice_table_counts(struct slice_table *table, struct slice_table_counts *out)
{
    (void)pthread_mutex_lock(&table->lock);
    *out = table->counts;
    (void)pthread_mutex_unlock(&table->lock);
}

void slice_table_each(struct slice_table *table, slice_each_fn fn, void *ctx)
{
    bool more = true;
    for (uint32_t b = 0; b < BUCKETS && more; b++) {
        (void)pthread_mutex_lock(&table->lock);
        struct slice *slice = table->buckets[b];
        while (slice != NULL && more) {
            if (slice->state == SLICE_OPEN) {
                slice->refs++; /* keeps it, and its link, in the table */
                (void)pthread_mutex_unlock(&table->lock);
                more = fn(ctx, store_config(slice->store), slice->store);
                (void)pthread_mutex_lock(&table->lock);
                if (--slice->refs == 0 && slice->state == SLICE_DROPPING)
                    (void)pthread_cond_broadcast(&table->released);
            }
            slice = slice->next; /* freed only by a drop, which needs the lock we hold */
        }
        (void)pthread_mutex_unlock(&table->lock);
    }
}

/* ---- the whole ------------------------------------------------------------------------------- */

struct listing {
    struct slice_table *table;
    enum kith_err err;
};

static void on_name(void *ctx, const char *name)
{
    struct listing *listing = ctx;
    unsigned long long collection;
    unsigned number;
    int end = 0;
    if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0 || listing->err != KITH_OK)
        return;
    if (sscanf(name, "%16llx-%3u%n", &collection, &number, &end) != 2 || name[end] != '\0' ||
        number >= KITH_SLICES_PER_COLLECTION_MAX) {
        kith_log(WARN, "slice.unknown_folder", "name=%.80s", name);
        return;
    }
    struct slice *slice = new_slice(collection, number);
    if (slice == NULL)
        listing->err = KITH_NOMEM;
    else if (strcmp(slice->dir + strlen(ROOT "/"), name) != 0)
        kith_free(slice); /* another spelling of the same numbers: not ours */
    else
        insert(listing->table, slice);
}

enum kith_err slice_table_open(struct slice_table **out, const struct slice_table_options *options,
                               struct kith_diag *diag)
{
    struct io *io = options->io;
    struct slice_table *table = kith_alloc(sizeof *table);
    if (table == NULL)
        return kith_fail(diag, KITH_NOMEM, "no memory for the slices");
    table->options = *options;
    (void)pthread_mutex_init(&table->lock, NULL);
    (void)pthread_cond_init(&table->released, NULL);
    struct listing listing = {.table = table};
    enum kith_err err = io->make_dir(io->self, ROOT, diag);
    if (err == KITH_OK)
        err = io->sync_dir(io->self, "", diag);
    if (err == KITH_OK)
        err = io->list(io->self, ROOT, on_name, &listing, diag);
    if (err == KITH_OK && listing.err != KITH_OK)
        err = kith_fail(diag, listing.err, "no memory for the slices");
    if (err != KITH_OK) {
        slice_table_close(table);
        return err;
    }
    *out = table;
    return KITH_OK;
}

/* Closes the slices of one share of the buckets. */
static void close_share(void *ctx, uint32_t share, uint32_t worker)
{
    struct slice_table *table = ctx;
    (void)worker;
    for (uint32_t b = share; b < BUCKETS; b += CLOSE_SHARES)
        while (table->buckets[b] != NULL) {
            struct slice *next = table->buckets[b]->next;
            kith_assert(table->buckets[b]->refs == 0);
            close_slice(table->buckets[b]);
            kith_free(table->buckets[b]);
            table->buckets[b] = next;
        }
}

/* Closing a store waits for the disk, not for a CPU, and the disk serves several at once: a
 * thousand slices one after the other took 3 to 6 s. Threads are a help here, not a need. */
void slice_table_close(struct slice_table *table)
{
    if (table == NULL)
        return;
    struct kith_pool *pool = NULL;
    if (table->counts.slices > CLOSE_THREADS &&
        kith_pool_open(&pool, CLOSE_THREADS, NULL) != KITH_OK)
        pool = NULL;
    kith_pool_run(pool, CLOSE_SHARES, close_share, table);
    kith_pool_close(pool);
    (void)pthread_cond_destroy(&table->released);
    (void)pthread_mutex_destroy(&table->lock);
    kith_free(table);
}
