// The peer hnswlib. spec: "M16 efC200".
#include "ann_engine.h"
#include "peer_hnswlib.h"

namespace
{

const unsigned efs[] = {10,  12,  16,  20,  24,  28,  32,  40,  48,  56,  64,  80,   96,  112,
                        128, 160, 192, 224, 256, 320, 384, 448, 512, 640, 800, 1000, 1300};

void describe(void *, uint32_t setting, char out[ANN_NAME_BYTES])
{
    snprintf(out, ANN_NAME_BYTES, "ef %u", efs[setting]);
}

void choose(void *index, uint32_t setting)
{
    static_cast<hnswlib_peer *>(index)->graph.setEf(efs[setting]);
}

uint32_t search(void *index, const float *query, uint32_t k, uint32_t *rows)
{
    return hnswlib_peer_search(static_cast<hnswlib_peer *>(index), query, k, rows);
}

void close_peer(void *index)
{
    delete static_cast<hnswlib_peer *>(index);
}

} // namespace

extern "C" void ann_hnswlib_open(ann_engine *out, const ann_set *set, const char *spec,
                                 uint32_t threads)
{
    hnswlib_peer *made = hnswlib_peer_open(set, spec, threads);
    *out = ann_engine{"hnswlib", "",        sizeof(efs) / sizeof(efs[0]), made, describe, choose,
                      search,    close_peer};
    snprintf(out->build, sizeof(out->build), "%s", spec);
}
