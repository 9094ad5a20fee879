// A graph of hnswlib over the rows of a set, for the benchmarks that compare with it. What includes
// this is compiled for the machine's own CPU: hnswlib has no kernels to choose from at run time.
#ifndef PEER_HNSWLIB_H
#define PEER_HNSWLIB_H

#include <hnswlib/hnswlib.h>

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#include "ann_set.h"

struct hnswlib_peer {
    hnswlib::InnerProductSpace space;
    hnswlib::HierarchicalNSW<float> graph;
    uint32_t n;
    hnswlib_peer(const ann_set *set, size_t m, size_t ef)
        : space(set->dim), graph(&space, set->n, m, ef, 100), n(set->n)
    {
    }
};

// spec: "M16 efC200". Another one ends the program with a message.
inline hnswlib_peer *hnswlib_peer_open(const ann_set *set, const char *spec, uint32_t threads)
{
    unsigned m = 16, ef = 200;
    if (sscanf(spec, "M%u efC%u", &m, &ef) != 2) {
        fprintf(stderr, "bench: hnswlib: '%s' is not like 'M16 efC200'\n", spec);
        exit(1);
    }
    hnswlib_peer *made = new hnswlib_peer(set, m, ef);
    std::atomic<uint32_t> next{0};
    std::vector<std::thread> workers;
    for (uint32_t t = 0; t < threads; t++)
        workers.emplace_back([&] {
            for (uint32_t i; (i = next++) < set->n;)
                made->graph.addPoint(set->base + static_cast<size_t>(i) * set->dim, i);
        });
    for (auto &worker : workers)
        worker.join();
    return made;
}

// The k best rows, best first; returns how many.
inline uint32_t hnswlib_peer_search(hnswlib_peer *peer, const float *query, uint32_t k,
                                    uint32_t *rows)
{
    auto found = peer->graph.searchKnn(query, k);
    uint32_t n = static_cast<uint32_t>(found.size());
    for (uint32_t i = n; i-- > 0; found.pop())
        rows[i] = static_cast<uint32_t>(found.top().second);
    return n;
}

#endif
