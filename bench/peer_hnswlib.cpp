// The peer hnswlib. spec: "M16 efC200". Compiled for this machine's CPU: hnswlib has no kernels to
// choose from at run time.
#include <hnswlib/hnswlib.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#include "ann_engine.h"

namespace
{

const unsigned efs[] = {10,  12,  16,  20,  24,  28,  32,  40,  48,  56,  64,  80,   96,  112,
                        128, 160, 192, 224, 256, 320, 384, 448, 512, 640, 800, 1000, 1300};

struct peer {
    hnswlib::InnerProductSpace space;
    hnswlib::HierarchicalNSW<float> graph;
    peer(const ann_set *set, size_t m, size_t ef)
        : space(set->dim), graph(&space, set->n, m, ef, 100)
    {
    }
};

void describe(void *, uint32_t setting, char out[ANN_NAME_BYTES])
{
    snprintf(out, ANN_NAME_BYTES, "ef %u", efs[setting]);
}

void choose(void *index, uint32_t setting)
{
    static_cast<peer *>(index)->graph.setEf(efs[setting]);
}

uint32_t search(void *index, const float *query, uint32_t k, uint32_t *rows)
{
    auto found = static_cast<peer *>(index)->graph.searchKnn(query, k);
    uint32_t n = static_cast<uint32_t>(found.size());
    for (uint32_t i = n; i-- > 0; found.pop())
        rows[i] = static_cast<uint32_t>(found.top().second);
    return n;
}

void close_peer(void *index)
{
    delete static_cast<peer *>(index);
}

} // namespace

extern "C" void ann_hnswlib_open(ann_engine *out, const ann_set *set, const char *spec,
                                 uint32_t threads)
{
    unsigned m = 16, ef = 200;
    if (sscanf(spec, "M%u efC%u", &m, &ef) != 2) {
        fprintf(stderr, "ann: hnswlib: '%s' is not like 'M16 efC200'\n", spec);
        exit(1);
    }
    peer *made = new peer(set, m, ef);
    std::atomic<uint32_t> next{0};
    std::vector<std::thread> workers;
    for (uint32_t t = 0; t < threads; t++)
        workers.emplace_back([&] {
            for (uint32_t i; (i = next++) < set->n;)
                made->graph.addPoint(set->base + static_cast<size_t>(i) * set->dim, i);
        });
    for (auto &worker : workers)
        worker.join();
    *out = ann_engine{"hnswlib", "",        sizeof(efs) / sizeof(efs[0]), made, describe, choose,
                      search,    close_peer};
    snprintf(out->build, sizeof(out->build), "%s", spec);
}
