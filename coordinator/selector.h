/* Which parts of a payload or which vectors an answer shows: with_payload, with_vector.
 *
 * Paths are those of filters ("a.b", "items[].price"); "[]" may be left out. Owns nothing: paths
 * are borrowed from the request's body. Threads: plain values. */
#ifndef SELECTOR_H
#define SELECTOR_H

#include "common/kith_json.h"

struct request;

enum selector_kind { SELECTOR_NONE, SELECTOR_ALL, SELECTOR_INCLUDE, SELECTOR_EXCLUDE };

struct selector {
    enum selector_kind kind;
    uint32_t n_paths;
    const char **paths; /* "[]" dropped */
};

/* Reads the member (absent or null leaves *out, which must be initialised). */
enum kith_err selector_payload(struct request *req, struct kith_json object, const char *name,
                               const char *where, struct selector *out, struct kith_diag *diag);
/* with_vector: a bool, or a list of names that must be the collection's. Both spellings are read.
 */
enum kith_err selector_vector(struct request *req, struct kith_json object, const char *where,
                              bool *out, struct kith_diag *diag);
/* The payload (a msgpack map; empty = {}) as a JSON object with what the selector keeps. */
void selector_write(const struct selector *selector, struct kith_bytes payload,
                    struct kith_json_writer *w);

#endif
