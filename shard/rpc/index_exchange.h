/* What nodes ask each other so that a collection has one codebook on all of them: how far they are,
 * the codebook itself, and rows to train one on.
 *
 * Owns: nothing. Threads: that of node_peers_ask. Errors: those of node_peers_ask; KITH_PROTOCOL
 * for an answer that fits no question, KITH_CORRUPT for bytes that are no codebook of the
 * collection, KITH_NOMEM. Limits: KITH_CODEBOOK_MAX, KITH_CODEBOOK_PIECE, KITH_SAMPLE_PIECE; memory
 * is taken for what has come, not for what was announced. */
#ifndef INDEX_EXCHANGE_H
#define INDEX_EXCHANGE_H

#include "shard/index/codebook.h"
#include "shard/rpc/node_peers.h"

struct index_exchange {
    struct node_peers *peers;
    bool (*stop)(const void *ctx);
    const void *stop_ctx;
};

/* How far a node is; out->piece is of no meaning. */
enum kith_err index_exchange_state(const struct index_exchange *exchange,
                                   const struct node_share *share, struct kith_msg_codebooked *out,
                                   struct kith_diag *diag);

/* The codebook that a node said it has, checked by its hash. */
enum kith_err index_exchange_fetch(const struct index_exchange *exchange,
                                   const struct node_share *share,
                                   const struct kith_msg_codebooked *state,
                                   const struct slice_config *config, struct codebook **out,
                                   struct kith_diag *diag);

/* Up to n_wanted random rows of a node, dim floats each. *n_rows counts those that came, after an
 * error too. */
struct index_exchange_rows {
    uint32_t n_wanted, dim;
    uint64_t seed;
    float *rows; /* room for n_wanted */
};
enum kith_err index_exchange_sample(const struct index_exchange *exchange,
                                    const struct node_share *share,
                                    const struct index_exchange_rows *wanted, uint32_t *n_rows,
                                    struct kith_diag *diag);

#endif
