/* One request on its way through the pipeline: what every stage reads and adds to.
 *
 * The stages (plan, encode, lookup, scatter, fetch, reply) do not know each other; what one leaves
 * for the next is here. A family of requests (search, write, scroll...) is a `struct work`: which
 * message its nodes are asked, how an answer of theirs is taken in, and how the result is written.
 *
 * Owns:    the parsed body, the scratch buffer, the reference to its collection, the replies of
 *          nodes (records borrow from them until the end). Everything else is in the arena of the
 *          gateway's request and goes with it.
 * Borrows: the server.
 * Threads: the loop; while a stage works in the pool, that task alone.
 * Limits:  kith_limits.h; the arena of one request is capped by the gateway. */
#ifndef REQUEST_H
#define REQUEST_H

#include "common/kith_json.h"
#include "common/kith_loop.h"
#include "coordinator/gateway/gateway.h"
#include "coordinator/scatter.h"
#include "coordinator/cluster/topology.h"
#include "proto/kith_wire.h"

struct server;
struct route;
struct request;

/* What a plan must know of its collection: plain values, so that plans are pure. */
struct plan_target {
    const char *name;
    uint32_t dim;
    enum kith_metric metric;
    const char *vector_name; /* "" = unnamed */
    bool has_encoder;
    uint32_t n_slices;
};

/* A text that becomes a vector before anything is sent. */
struct request_text {
    const char *text; /* borrowed from the body */
    size_t len;
    float *out; /* dim floats */
    const char *where;
};

/* A point whose vector becomes the query. */
struct request_lookup {
    struct kith_id id;
    float *out;
    const char *where;
    bool found;
};

struct work {
    const char *name;
    bool cache_texts; /* queries come again; documents do not, and would push queries out */
    /* Asked of the nodes; NULL = nothing to ask. */
    const struct scatter_round *round;
    /* Which slices: NULL = all. */
    bool (*wants)(struct request *req, uint32_t slice);
    /* After all answers are in and complete enough; may be NULL. Runs on the loop. */
    enum kith_err (*merge)(struct request *req, struct kith_diag *diag);
    /* The ids whose records the answer needs: NULL = no fetch. */
    const struct scatter_round *fetch;
    bool (*fetch_wants)(struct request *req, uint32_t slice);
    /* Instead of asking nodes: begins something that ends with pipeline_resume. */
    enum kith_err (*start)(struct request *req, struct kith_diag *diag);
    void (*write_result)(struct request *req, struct kith_json_writer *w);
    /* More members of the envelope, beside the result; may be NULL. */
    void (*write_beside)(struct request *req, struct kith_json_writer *w);
    void (*fini)(struct request *req); /* gives back what is not in the arena; may be NULL */
};

struct request {
    struct server *server;
    struct gateway_request *http;
    struct kith_arena *arena; /* &http->arena, or a test's */
    const struct route *route;
    struct topology_collection *collection; /* a reference, or NULL */
    struct plan_target target;

    struct kith_json_doc *doc;
    struct kith_json body; /* valid when has_body */
    bool has_body;
    struct kith_buf scratch; /* msgpack made by the plan: payloads, filters, keys */

    const struct work *work;
    void *plan;          /* of the family, in the arena */
    uint32_t timeout_ms; /* asked for; 0 = default */
    bool wait;           /* ?wait=true */
    const char *allow;   /* of a 405 */

    struct request_text *texts;
    size_t n_texts, texts_cap;
    struct request_lookup *lookups;
    size_t n_lookups, lookups_cap;

    /* Coverage (scatter.h fills it in) */
    bool allow_partial;
    double min_coverage;
    bool want_coverage;
    struct coverage coverage;

    /* Stages */
    struct scatter scatter;
    uint32_t stage;
    uint64_t stage_ns; /* by kith_now_ns: when the stage in hand began */
    uint64_t parse_ns; /* how long the reading of the body's JSON took */
    struct kith_letter letter;
    bool in_pool;
    bool awaited; /* what can wait stands aside for it (kith_aside.h) */
    struct request *prev, *next; /* of the server's list */

    /* The answer */
    enum kith_err err;
    struct kith_diag diag;
    const char *content_type; /* NULL = JSON with the envelope */
    struct kith_buf out;
    int status; /* 0 = 200 */
    bool bare;  /* write_result writes the whole body: no envelope */
};

/* Room for one more element in an arena array (doubling copies). NULL when memory is out. */
void *request_grow(struct request *req, void *items, size_t n, size_t *cap,
                   size_t elem) KITH_MUST_CHECK;
const char *request_text_of(struct request *req, const char *fmt, ...) KITH_PRINTF(2, 3);
uint32_t request_left_ms(const struct request *req); /* until its deadline; 0 = passed */

#endif
