#include "shard/rpc/index_exchange.h"

#include <string.h>

#include "common/kith_buf.h"
#include "common/kith_mem.h"

static void write_codebook(struct kith_writer *w, const void *body)
{
    kith_msg_write_codebook(w, body);
}

static void write_sample(struct kith_writer *w, const void *body)
{
    kith_msg_write_sample(w, body);
}

/* An answer that is of use only when it is of the slices asked for. */
static enum kith_err check_slices(const struct kith_msg_slices *slices,
                                  const struct kith_msg_scope *scope, struct kith_diag *diag)
{
    bool same = slices->n_slices == scope->n_slices;
    for (uint32_t i = 0; i < scope->n_slices && same; i++)
        same = slices->slices[i].slice == scope->slices[i];
    return same ? KITH_OK : kith_fail(diag, KITH_PROTOCOL, "an answer of other slices");
}

/* state->piece lies in *reply. */
static enum kith_err ask_codebook(const struct index_exchange *exchange,
                                  const struct node_share *share, uint64_t hash, uint64_t offset,
                                  struct kith_msg_codebooked *state, struct kith_net_msg **reply,
                                  struct kith_diag *diag)
{
    struct kith_msg_codebook msg = {.scope = share->scope, .hash = hash, .offset = offset};
    struct node_ask ask = {.node = share->node,
                           .message = KITH_MSG_CODEBOOK,
                           .write = write_codebook,
                           .body = &msg,
                           .stop = exchange->stop,
                           .stop_ctx = exchange->stop_ctx};
    struct kith_bytes body;
    enum kith_err err = node_peers_ask(exchange->peers, &ask, reply, &body, diag);
    if (err != KITH_OK)
        return err;
    err = kith_msg_read_codebooked(body, state)
              ? check_slices(&state->slices, &share->scope, diag)
              : kith_fail(diag, KITH_PROTOCOL, "malformed answer to CODEBOOK");
    if (err != KITH_OK) {
        kith_net_msg_free(*reply);
        *reply = NULL;
    }
    return err;
}

enum kith_err index_exchange_state(const struct index_exchange *exchange,
                                   const struct node_share *share, struct kith_msg_codebooked *out,
                                   struct kith_diag *diag)
{
    struct kith_net_msg *reply = NULL;
    enum kith_err err = ask_codebook(exchange, share, 0, 0, out, &reply, diag);
    kith_net_msg_free(reply);
    return err;
}

/* ---- a codebook ------------------------------------------------------------------------------ */

static enum kith_err append_piece(struct kith_buf *bytes, const struct kith_msg_codebooked *piece,
                                  uint64_t wanted, struct kith_diag *diag)
{
    if (piece->piece.len == 0)
        return kith_fail(diag, KITH_CONFLICT, "the node has another codebook by now");
    if (piece->piece.len > wanted - bytes->len)
        return kith_fail(diag, KITH_PROTOCOL, "more of a codebook than there is");
    kith_buf_append(bytes, piece->piece.data, piece->piece.len);
    return bytes->failed ? kith_fail(diag, KITH_NOMEM, "codebook") : KITH_OK;
}

enum kith_err index_exchange_fetch(const struct index_exchange *exchange,
                                   const struct node_share *share,
                                   const struct kith_msg_codebooked *state,
                                   const struct slice_config *config, struct codebook **out,
                                   struct kith_diag *diag)
{
    struct kith_msg_codebooked *piece = kith_alloc(sizeof *piece);
    struct kith_buf bytes = {.limit = KITH_CODEBOOK_MAX};
    struct codebook *codebook = NULL;
    enum kith_err err = piece != NULL ? KITH_OK : kith_fail(diag, KITH_NOMEM, "codebook");
    while (err == KITH_OK && bytes.len < state->bytes) {
        struct kith_net_msg *reply = NULL;
        err = ask_codebook(exchange, share, state->hash, bytes.len, piece, &reply, diag);
        if (err == KITH_OK)
            err = append_piece(&bytes, piece, state->bytes, diag);
        kith_net_msg_free(reply);
    }
    if (err == KITH_OK)
        err = codebook_load(&codebook, (struct kith_bytes){bytes.data, bytes.len}, config, diag);
    if (err == KITH_OK &&
        (codebook->hash != state->hash || codebook->generation != state->generation))
        err = kith_fail(diag, KITH_CORRUPT, "a codebook of another hash than was asked for");
    kith_buf_fini(&bytes);
    kith_free(piece);
    if (err != KITH_OK)
        codebook_unref(codebook);
    else
        *out = codebook;
    return err;
}

/* ---- rows ------------------------------------------------------------------------------------ */

static enum kith_err take_rows(const struct kith_msg_sampled *msg,
                               const struct kith_msg_sample *part, uint32_t dim, float *rows,
                               uint32_t *n, struct kith_diag *diag)
{
    size_t row_bytes = dim * sizeof(float);
    if (msg->dim != dim || msg->rows.len / row_bytes > part->n_rows)
        return kith_fail(diag, KITH_PROTOCOL, "other rows than were asked for");
    memcpy(rows, msg->rows.data, msg->rows.len);
    *n = (uint32_t)(msg->rows.len / row_bytes);
    return KITH_OK;
}

static enum kith_err ask_rows(const struct index_exchange *exchange, const struct node_share *share,
                              const struct kith_msg_sample *part, uint32_t dim, float *rows,
                              uint32_t *n, struct kith_diag *diag)
{
    struct kith_msg_sampled *msg = kith_alloc(sizeof *msg);
    struct node_ask ask = {.node = share->node,
                           .message = KITH_MSG_SAMPLE,
                           .write = write_sample,
                           .body = part,
                           .stop = exchange->stop,
                           .stop_ctx = exchange->stop_ctx};
    struct kith_net_msg *reply = NULL;
    struct kith_bytes body;
    if (msg == NULL)
        return kith_fail(diag, KITH_NOMEM, "sample");
    enum kith_err err = node_peers_ask(exchange->peers, &ask, &reply, &body, diag);
    if (err == KITH_OK)
        err = kith_msg_read_sampled(body, msg)
                  ? take_rows(msg, part, dim, rows, n, diag)
                  : kith_fail(diag, KITH_PROTOCOL, "malformed answer to SAMPLE");
    kith_net_msg_free(reply);
    kith_free(msg);
    return err;
}

enum kith_err index_exchange_sample(const struct index_exchange *exchange,
                                    const struct node_share *share,
                                    const struct index_exchange_rows *wanted, uint32_t *n_rows,
                                    struct kith_diag *diag)
{
    uint32_t of_piece = KITH_SAMPLE_PIECE / (uint32_t)(wanted->dim * sizeof(float));
    uint32_t n_parts = wanted->n_wanted / of_piece + 1;
    enum kith_err err = KITH_OK;
    *n_rows = 0;
    n_parts = n_parts < KITH_SAMPLE_PARTS ? n_parts : KITH_SAMPLE_PARTS;
    for (uint32_t part = 0; part < n_parts && err == KITH_OK; part++) {
        uint64_t before = (uint64_t)wanted->n_wanted * part / n_parts;
        uint64_t after = (uint64_t)wanted->n_wanted * (part + 1) / n_parts;
        struct kith_msg_sample msg = {.scope = share->scope,
                                      .n_rows = (uint32_t)(after - before),
                                      .part = part,
                                      .n_parts = n_parts,
                                      .seed = wanted->seed + part};
        uint32_t n = 0;
        err = ask_rows(exchange, share, &msg, wanted->dim,
                       wanted->rows + (size_t)*n_rows * wanted->dim, &n, diag);
        *n_rows += n;
    }
    return err;
}
