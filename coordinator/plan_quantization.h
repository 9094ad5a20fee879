/* Which index and rows a new collection gets: the API's words (`quantization_config`,
 * `hnsw_config.m`, `datatype`) and Kith's one word (`quantization`), made into one choice.
 *
 *   quantization   rows                  index
 *   auto           as `datatype` says    what the metric has by default
 *   none           as `datatype` says    lists of rows
 *   f16            float16               lists of rows
 *   int8           as `datatype` says    lists, a byte a dimension
 *   pq4            as `datatype` says    lists, 4-bit product codes and bytes
 *   scalar         int8; product and binary: pq4, as quantization_config of these names
 *
 * `index` (Kith's) is "faiss:" and a factory string of Faiss, instead of all that.
 *
 * scalar and product x4 are int8; product x8 and more, and binary, are pq4. hnsw_config.m = 0: no
 * index at all. docs/API.md says where these differ from what the API means.
 * Threads: any. Errors: KITH_BAD_REQUEST, KITH_UNSUPPORTED; the text begins with the path. */
#ifndef PLAN_QUANTIZATION_H
#define PLAN_QUANTIZATION_H

#include "common/kith_json.h"
#include "proto/kith_collection.h"

struct plan_quantization {
    bool has_index; /* else the metric's default */
    enum kith_index index;
    const char *factory; /* of KITH_INDEX_FAISS, borrowed from the body; what Faiss thinks of it is
                            for whoever can ask */
    bool has_rows;       /* else as `datatype` says */
    enum kith_row_type rows;
    const char *said; /* the path of what chose the index, for errors; NULL: nothing did */
};

/* body: of the create request; vector: the parameters of its vector, or has_vector false. */
enum kith_err plan_quantization_read(struct kith_json body, bool has_vector,
                                     struct kith_json vector, struct plan_quantization *out,
                                     struct kith_diag *diag);
/* Once the metric and the rows are known: KITH_UNSUPPORTED for an index the metric cannot have. */
enum kith_err plan_quantization_fits(const struct plan_quantization *q, enum kith_metric metric,
                                     struct kith_diag *diag);

/* Kith's word; false: none of the table. */
bool plan_quantization_of_word(const char *word, struct plan_quantization *out);
/* The word that `quantization` would have been for such a collection: "pq4". */
const char *plan_quantization_word(enum kith_index index, enum kith_row_type rows);

/* What of a create request has no effect, or another one than the API's, a sentence each, in order;
 * returns how many. options: the create request as it was kept. */
#define PLAN_QUANTIZATION_NOTES_MAX 16u
size_t plan_quantization_notes(struct kith_json options, const char **notes);
/* The quantization_config that was asked for; false: none. */
bool plan_quantization_asked(struct kith_json options, struct kith_json *out);

#endif
