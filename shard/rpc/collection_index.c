#include "shard/rpc/collection_index.h"

#include <pthread.h>

#include "common/kith_mem.h"

struct collection_indexes {
    /* Immutable. */
    uint32_t min_rows; /* 0: none is fixed */
    uint32_t threads;
    pthread_mutex_t lock;
    struct collection_index *first; /* guarded by lock; as many as collections on this node */
};

_Static_assert((int)KITH_INDEX_ROWS == (int)CODEBOOK_ROWS &&
                   (int)KITH_INDEX_INT8 == (int)CODEBOOK_INT8 &&
                   (int)KITH_INDEX_PQ4 == (int)CODEBOOK_PQ4,
               "a collection's index is named by its codes");

enum kith_err collection_indexes_open(struct collection_indexes **out, uint32_t min_rows,
                                      uint32_t threads, struct kith_diag *diag)
{
    struct collection_indexes *indexes = kith_alloc(sizeof *indexes);
    if (indexes == NULL)
        return kith_fail(diag, KITH_NOMEM, "no memory for the indexes");
    indexes->min_rows = min_rows;
    indexes->threads = threads != 0 ? threads : 1;
    (void)pthread_mutex_init(&indexes->lock, NULL);
    *out = indexes;
    return KITH_OK;
}

void collection_indexes_close(struct collection_indexes *indexes)
{
    if (indexes == NULL)
        return;
    kith_assert(indexes->first == NULL);
    (void)pthread_mutex_destroy(&indexes->lock);
    kith_free(indexes);
}

uint32_t collection_indexes_train_rows(const struct collection_indexes *indexes)
{
    return indexes->min_rows != 0 ? indexes->min_rows : IVF_TRAIN_ROWS;
}

static struct collection_index *find_locked(struct collection_indexes *indexes, uint64_t collection)
{
    struct collection_index *index = indexes->first;
    while (index != NULL && index->config.collection != collection)
        index = index->next;
    if (index != NULL)
        index->refs++;
    return index;
}

struct collection_index *collection_index_find(struct collection_indexes *indexes,
                                               uint64_t collection)
{
    (void)pthread_mutex_lock(&indexes->lock);
    struct collection_index *index = find_locked(indexes, collection);
    (void)pthread_mutex_unlock(&indexes->lock);
    return index;
}

static void discard(struct collection_index *index)
{
    faiss_builder_free(index->faiss);
    ivf_builder_free(index->builder);
    kith_free(index);
}

static enum kith_err make(struct collection_indexes *indexes, const struct slice_config *config,
                          struct collection_index **out, struct kith_diag *diag)
{
    bool by_faiss = config->index == KITH_INDEX_FAISS;
    struct ivf_builder_options options = {
        .config = *config,
        .codes = by_faiss ? CODEBOOK_ROWS : (enum codebook_codes)config->index,
        .min_rows = indexes->min_rows,
        .threads = indexes->threads,
    };
    struct faiss_builder_options faiss = {.config = *config,
                                          .min_rows = collection_indexes_train_rows(indexes),
                                          .threads = indexes->threads};
    struct collection_index *index = kith_alloc(sizeof *index);
    if (index == NULL)
        return kith_fail(diag, KITH_NOMEM, "no memory for an index");
    enum kith_err err = ivf_builder_new(&index->builder, &options, diag);
    if (err == KITH_OK && by_faiss)
        err = faiss_builder_new(&index->faiss, &faiss, diag);
    if (err != KITH_OK) {
        discard(index);
        return err;
    }
    index->all = indexes;
    index->config = *config;
    index->refs = 1;
    atomic_init(&index->training, false);
    *out = index;
    return KITH_OK;
}

enum kith_err collection_index_get(struct collection_indexes *indexes,
                                   const struct slice_config *config, struct collection_index **out,
                                   struct kith_diag *diag)
{
    struct collection_index *fresh = NULL;
    *out = NULL;
    if (config->index == KITH_INDEX_NONE)
        return KITH_OK;
    *out = collection_index_find(indexes, config->collection);
    if (*out != NULL)
        return KITH_OK;
    enum kith_err err = make(indexes, config, &fresh, diag);
    if (err != KITH_OK)
        return err;
    (void)pthread_mutex_lock(&indexes->lock);
    *out = find_locked(indexes, config->collection); /* another thread may have been first */
    if (*out == NULL) {
        fresh->next = indexes->first;
        indexes->first = *out = fresh;
        fresh = NULL;
    }
    (void)pthread_mutex_unlock(&indexes->lock);
    if (fresh != NULL)
        discard(fresh);
    return KITH_OK;
}

void collection_index_put(struct collection_index *index)
{
    if (index == NULL)
        return;
    struct collection_indexes *indexes = index->all;
    (void)pthread_mutex_lock(&indexes->lock);
    bool last = --index->refs == 0;
    struct collection_index **link = &indexes->first;
    while (last && *link != index)
        link = &(*link)->next;
    if (last)
        *link = index->next;
    (void)pthread_mutex_unlock(&indexes->lock);
    if (last)
        discard(index);
}

const struct segment_index_hooks *collection_index_hooks(struct collection_index *index)
{
    if (index == NULL)
        return NULL;
    return index->faiss != NULL ? faiss_builder_hooks(index->faiss)
                                : ivf_builder_hooks(index->builder);
}

void collection_index_adopt(struct collection_index *index, struct store *store)
{
    if (index == NULL)
        return;
    struct view *view = store_view(store);
    for (uint32_t i = 0; i < view->n_segments; i++) {
        const struct ivf *ivf = ivf_of(view->segments[i].segment, &index->config);
        if (ivf != NULL)
            ivf_builder_set_codebook(index->builder, ivf->codebook);
    }
    view_unref(view);
    store_nudge(store);
}

struct collection_index_state collection_index_state(struct collection_index *index,
                                                     const struct store_stats *stats)
{
    struct collection_index_state state = {.phase = KITH_INDEX_ABSENT};
    if (index == NULL)
        return state;
    bool working = stats->busy || stats->index_pending > 0;
    if (index->faiss != NULL) {
        bool ready = stats->indexed_points > 0;
        state.phase = working ? KITH_INDEX_BUILDING : ready ? KITH_INDEX_READY : KITH_INDEX_ABSENT;
        return state;
    }
    const struct codebook *codebook = ivf_builder_codebook(index->builder);
    if (codebook != NULL) {
        state.generation = codebook->generation;
        state.n_lists = codebook->n_lists;
        state.codebook = codebook->hash;
        state.phase = working ? KITH_INDEX_BUILDING : KITH_INDEX_READY;
    }
    codebook_unref(codebook);
    bool awaited =
        state.codebook == 0 && stats->live_points >= collection_indexes_train_rows(index->all);
    if (awaited || atomic_load_explicit(&index->training, memory_order_relaxed))
        state.phase = KITH_INDEX_TRAINING;
    return state;
}
