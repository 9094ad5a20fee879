#include "filter_peer.h"

#include <cstdio>
#include <cstdlib>

#ifdef FILTER_HNSWLIB
#include "peer_hnswlib.h"

void *filter_peer_open(const ann_set *set, const char *spec, uint32_t threads)
{
    return hnswlib_peer_open(set, spec, threads);
}

void filter_peer_allow(void *opaque, const uint8_t *allowed)
{
    auto &graph = static_cast<hnswlib_peer *>(opaque)->graph;
    for (uint32_t at = 0; at < static_cast<hnswlib_peer *>(opaque)->n; at++) {
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
    auto *peer = static_cast<hnswlib_peer *>(opaque);
    peer->graph.setEf(ef);
    return hnswlib_peer_search(peer, query, k, rows);
}

void filter_peer_close(void *opaque)
{
    delete static_cast<hnswlib_peer *>(opaque);
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
