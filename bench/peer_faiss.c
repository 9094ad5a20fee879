/* The peer Faiss, through its C API. spec: "ip " or "l2 " and an index factory string; rows have
 * length 1, so both rank alike and the faster one counts. */
#include <faiss/c_api/AutoTune_c.h>
#include <faiss/c_api/Index_c.h>
#include <faiss/c_api/error_c.h>
#include <faiss/c_api/index_factory_c.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ann_engine.h"
#include "common/kith_mem.h"

#define K_MAX 128u

/* Of the OpenMP and OpenBLAS that Faiss is linked to. */
void omp_set_num_threads(int n);
void openblas_set_num_threads(int n);

static const unsigned efs[] = {10, 16,  24,  32,  40,  48,  64,  80,
                               96, 128, 160, 192, 256, 320, 384, 512};
static const unsigned nprobes[] = {4, 6, 8, 12, 16, 20, 24, 32, 40, 48, 64, 80, 96, 128, 192, 256};
static const unsigned factors[] = {4, 8, 12, 16, 24, 32, 48, 64};

#define N_EFS     (sizeof(efs) / sizeof(efs[0]))
#define N_PROBES  (sizeof(nprobes) / sizeof(nprobes[0]))
#define N_FACTORS (sizeof(factors) / sizeof(factors[0]))

struct peer {
    FaissIndex *index;
    FaissParameterSpace *space;
    bool is_graph;
};

static void must(int err, const char *what)
{
    if (err == 0)
        return;
    fprintf(stderr, "ann: faiss: %s: %s\n", what, faiss_get_last_error());
    exit(1);
}

static void describe(void *index, uint32_t setting, char out[ANN_NAME_BYTES])
{
    const struct peer *peer = index;

    if (peer->is_graph)
        snprintf(out, ANN_NAME_BYTES, "efSearch=%u", efs[setting]);
    else
        snprintf(out, ANN_NAME_BYTES, "nprobe=%u,k_factor_rf=%u", nprobes[setting / N_FACTORS],
                 factors[setting % N_FACTORS]);
}

static void choose(void *index, uint32_t setting)
{
    const struct peer *peer = index;
    char name[ANN_NAME_BYTES];

    describe(index, setting, name);
    must(faiss_ParameterSpace_set_index_parameters(peer->space, peer->index, name), name);
}

static uint32_t search(void *index, const float *query, uint32_t k, uint32_t *rows)
{
    const struct peer *peer = index;
    float scores[K_MAX];
    idx_t found[K_MAX];
    uint32_t n = 0;

    must(faiss_Index_search(peer->index, 1, query, k, scores, found), "search");
    for (uint32_t i = 0; i < k; i++)
        if (found[i] >= 0)
            rows[n++] = (uint32_t)found[i];
    return n;
}

static void close_peer(void *index)
{
    struct peer *peer = index;

    faiss_Index_free(peer->index);
    faiss_ParameterSpace_free(peer->space);
    kith_free(peer);
}

void ann_faiss_open(struct ann_engine *out, const struct ann_set *set, const char *spec,
                    uint32_t threads)
{
    struct peer *peer = kith_xalloc(sizeof(*peer));
    bool is_l2 = strncmp(spec, "l2 ", 3) == 0;

    peer->is_graph = strstr(spec, "HNSW") != NULL;
    omp_set_num_threads((int)threads);
    openblas_set_num_threads((int)threads);
    must(faiss_ParameterSpace_new(&peer->space), spec);
    must(faiss_index_factory(&peer->index, (int)set->dim, spec + 3,
                             is_l2 ? METRIC_L2 : METRIC_INNER_PRODUCT),
         spec);
    if (peer->is_graph)
        must(faiss_ParameterSpace_set_index_parameter(peer->space, peer->index, "efConstruction",
                                                      200),
             spec);
    must(faiss_Index_train(peer->index, set->n, set->base), spec);
    must(faiss_Index_add(peer->index, set->n, set->base), spec);
    omp_set_num_threads(1);
    openblas_set_num_threads(1);
    *out = (struct ann_engine){
        .family = peer->is_graph ? "faiss-hnsw" : "faiss-ivf",
        .n_settings = (uint32_t)(peer->is_graph ? N_EFS : N_PROBES * N_FACTORS),
        .index = peer,
        .describe = describe,
        .choose = choose,
        .search = search,
        .close = close_peer,
    };
    snprintf(out->build, sizeof(out->build), "%s", spec);
}
