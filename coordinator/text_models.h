/* The encoders of the collections, opened once each, at first need.
 *
 * An encoder is named by the JSON that a collection keeps ("encoder"). Opening may read or convert
 * a file for minutes, so it happens in the pool; who asks meanwhile waits in a line.
 *
 * The JSON a collection keeps ends with the fingerprint of the encoder that it was made with
 * (text_models_pin). Texts are never encoded for it by another one: a file that was exchanged would
 * give vectors that cannot be compared with those stored, and wrong answers that look right.
 *
 * Owns: the encoders, until text_models_close. Borrows: loop, pool, the folder's name. Threads:
 * loop; an encoder itself may be used by any thread. Errors: a failed opening is told to everybody
 * who waited and forgotten: the next request tries again. Limits: KITH_COLLECTIONS_MAX. */
#ifndef TEXT_MODELS_H
#define TEXT_MODELS_H

#include "common/kith_arena.h"
#include "common/kith_json.h"
#include "common/kith_loop.h"
#include "common/kith_pool.h"
#include "coordinator/encode/encoder.h"

struct text_models;

/* The asker's memory, valid until done is called. encoder is NULL on failure. */
struct text_models_wait {
    struct text_models_wait *next;
    void (*done)(void *ctx, const struct encoder *encoder, const struct kith_diag *diag);
    void *ctx;
    uint64_t fingerprint; /* set by text_models_get; 0: any will do */
};

enum kith_err text_models_open(struct text_models **out, struct kith_loop *loop,
                               struct kith_pool *pool, const char *dir, struct kith_diag *diag);
void text_models_close(struct text_models *models); /* the pool has ended before; NULL allowed */

/* KITH_OK: *out at once. KITH_BUSY: done will be called. Anything else: refused. */
enum kith_err text_models_get(struct text_models *models, const char *json,
                              const struct encoder **out, struct text_models_wait *wait,
                              struct kith_diag *diag);

/* The JSON with the encoder's fingerprint at its end; NULL = out of memory. */
const char *text_models_pin(struct kith_arena *arena, const char *json,
                            const struct encoder *encoder) KITH_MUST_CHECK;

/* Checks the "encoder" object of a create request; `where` begins the messages. */
enum kith_err text_models_check(struct kith_json encoder, const char *where,
                                struct kith_diag *diag);

#endif
