#include "shard/query/memory.h"

#include "shard/index/faiss_segment.h"
#include "shard/index/ivf.h"
#include "shard/storage/residency.h"
#include "shard/storage/segment_format.h"

static const enum memory_kind kinds[SEGMENT_SECTIONS] = {
    [SEGMENT_ROWS] = MEMORY_ROWS,         [SEGMENT_IDS] = MEMORY_IDS,
    [SEGMENT_ID_TABLE] = MEMORY_IDS,      [SEGMENT_ID_ORDER] = MEMORY_IDS,
    [SEGMENT_SEQS] = MEMORY_IDS,          [SEGMENT_COLUMNS] = MEMORY_COLUMNS,
    [SEGMENT_PAYLOADS] = MEMORY_PAYLOADS, [SEGMENT_PAYLOAD_INDEX] = MEMORY_PAYLOADS,
    [SEGMENT_BLOCKS] = MEMORY_PAYLOADS,   [IVF_SECTION_CODEBOOK] = MEMORY_CODEBOOK,
    [IVF_SECTION_META] = MEMORY_LISTS,    [IVF_SECTION_LISTS] = MEMORY_LISTS,
    [IVF_SECTION_CODES] = MEMORY_CODES,   [IVF_SECTION_TERMS] = MEMORY_CODES,
    [IVF_SECTION_ROWS8] = MEMORY_ROWS8,
};

const char *memory_name(enum memory_kind kind)
{
    static const char *const names[MEMORY_KINDS] = {"rows",     "rows8",     "codes",   "lists",
                                                    "codebook", "ids",       "columns", "payloads",
                                                    "other",    "codebooks", "heads",   "wal"};
    return names[kind];
}

static void add_segment(const struct segment *segment, memory_locked_fn locked, void *ctx,
                        struct memory_use *uses)
{
    uint64_t rest = segment_file_bytes(segment);
    for (unsigned section = 0; section < SEGMENT_SECTIONS; section++) {
        struct kith_bytes place = segment_place(segment, section);
        struct memory_use *use = &uses[kinds[section]];
        use->file += place.len;
        use->mapped += place.len;
        use->resident += residency_bytes(place);
        if (locked != NULL)
            use->locked += locked(ctx, segment_serial(segment), section);
        rest -= place.len;
    }
    uses[MEMORY_OTHER].file += rest;
    uses[MEMORY_OTHER].mapped += rest;
}

/* The codebook of part `at` of a view, unless an earlier part has the same. */
static const struct codebook *new_codebook(struct view *const *views, uint32_t v, uint32_t at)
{
    const struct ivf *index = ivf_of(views[v]->segments[at].segment, &views[v]->config);
    if (index == NULL)
        return NULL;
    for (uint32_t i = 0; i <= v; i++) {
        uint32_t end = i == v ? at : views[i]->n_segments;
        for (uint32_t j = 0; j < end; j++) {
            const struct ivf *other = ivf_of(views[i]->segments[j].segment, &views[i]->config);
            if (other != NULL && other->codebook->hash == index->codebook->hash)
                return NULL;
        }
    }
    return index->codebook;
}

void memory_of_views(struct view *const *views, uint32_t n_views, memory_locked_fn locked,
                     void *ctx, struct memory_use *uses)
{
    for (uint32_t v = 0; v < n_views; v++) {
        for (uint32_t i = 0; i < views[v]->n_segments; i++) {
            const struct segment *segment = views[v]->segments[i].segment;
            const struct faiss_segment *faiss = faiss_segment_of(segment, &views[v]->config);
            add_segment(segment, locked, ctx, uses);
            uses[MEMORY_CODEBOOKS].mapped += faiss != NULL ? faiss->meta.bytes : 0;
            uses[MEMORY_CODEBOOKS].resident += faiss != NULL ? faiss->meta.bytes : 0;
            const struct codebook *codebook = new_codebook(views, v, i);
            if (codebook == NULL)
                continue;
            uses[MEMORY_CODEBOOKS].mapped += codebook_memory(codebook);
            uses[MEMORY_CODEBOOKS].resident += codebook_memory(codebook);
        }
    }
}
