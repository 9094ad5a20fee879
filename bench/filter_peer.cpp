#include "filter_peer.h"

#include <cstdio>
#include <cstdlib>

#ifdef FILTER_HNSWLIB
#include <hnswlib/hnswlib.h>

#include <atomic>
#include <thread>
#include <vector>

namespace
{
struct peer {
    hnswlib::InnerProductSpace space;
    hnswlib::HierarchicalNSW<float> graph;
    uint32_t n;
    peer(const ann_set *set, size_t m, size_t ef)
        : space(set->dim), graph(&space, set->n, m, ef, 100), n(set->n)
    {
    }
};
} // namespace

void *filter_peer_open(const ann_set *set, const char *spec, uint32_t threads)
{
    unsigned m = 16, ef = 200;
    if (sscanf(spec, "M%u efC%u", &m, &ef) != 2) {
        fprintf(stderr, "bench_filter: hnswlib: '%s' is not like 'M16 efC200'\n", spec);
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
    return made;
}

void filter_peer_allow(void *opaque, const uint8_t *allowed)
{
    auto &graph = static_cast<peer *>(opaque)->graph;
    for (uint32_t at = 0; at < static_cast<peer *>(opaque)->n; at++) {
        bool marked = graph.isMarkedDeleted(at);
        bool wanted = allowed[graph.getExternalLabel(at)] != 0;
        if (marked && wanted)
            graph.unmarkDeletedInternal(at);
        else if (!marked && !wanted)
            graph.markDeletedInternal(at);
    }
}

uint32_t filter_peer_search(void *opaque, const float *query, uint32_t k, uint32_t ef,
                            uint32_t *rows)
{
    auto &graph = static_cast<peer *>(opaque)->graph;
    graph.setEf(ef);
    auto found = graph.searchKnn(query, k);
    uint32_t n = static_cast<uint32_t>(found.size());
    for (uint32_t i = n; i-- > 0; found.pop())
        rows[i] = static_cast<uint32_t>(found.top().second);
    return n;
}

void filter_peer_close(void *opaque)
{
    delete static_cast<peer *>(opaque);
}

#else

void *filter_peer_open(const ann_set *, const char *, uint32_t)
{
    fprintf(stderr, "bench_filter: hnswlib is not installed (bench/setup)\n");
    return nullptr;
}

void filter_peer_allow(void *, const uint8_t *)
{
}

uint32_t filter_peer_search(void *, const float *, uint32_t, uint32_t, uint32_t *)
{
    return 0;
}

void filter_peer_close(void *)
{
}

#endif
