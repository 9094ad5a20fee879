/* Plans: from an HTTP request to what must be asked of the nodes, checked to the last field.
 *
 * A plan function is pure: it reads the request's body and query and its plan_target, writes into
 * the request, and sends nothing; so a body that is refused has changed nothing, and a plan may run
 * in the pool. This header has what the families share; a family is plan_NAME.c and its run_NAME.c.
 *
 * Errors: KITH_BAD_REQUEST, _UNSUPPORTED, _TOO_BIG, _UNPROCESSABLE; the text begins with the path
 * of the field. Threads: one per request. */
#ifndef PLAN_H
#define PLAN_H

#include "coordinator/request.h"
#include "proto/kith_filter.h"

typedef enum kith_err (*plan_fn)(struct request *req, struct kith_diag *diag);

enum plan_field_use {
    PLAN_TAKEN,   /* read by the plan */
    PLAN_IGNORED, /* accepted: cannot change an answer */
    PLAN_REFUSED, /* null is accepted, anything else is "not supported" */
};
struct plan_field {
    const char *name;
    enum plan_field_use use;
};
/* object must be an object with known fields only. where: "" at the top. */
enum kith_err plan_fields(struct kith_json object, const char *where,
                          const struct plan_field *fields, size_t n, struct kith_diag *diag);
#define PLAN_FIELDS(object_, where_, fields_, diag_)                                               \
    plan_fields(object_, where_, fields_, sizeof(fields_) / sizeof((fields_)[0]), diag_)

/* "a" + "b" = "a.b"; an empty where gives name. In the request's arena. */
const char *plan_where(struct request *req, const char *where, const char *name);
const char *plan_where_at(struct request *req, const char *where, size_t index);

enum kith_err plan_wrong_type(struct kith_diag *diag, const char *where, const char *expected,
                              struct kith_json got);
enum kith_err plan_id(struct kith_json value, const char *where, struct kith_id *out,
                      struct kith_diag *diag);
enum kith_err plan_id_text(const char *text, const char *where, struct kith_id *out,
                           struct kith_diag *diag);
enum kith_err plan_ids(struct request *req, struct kith_json array, const char *where,
                       struct kith_id **out, uint32_t *n, struct kith_diag *diag);
/* An optional member: *out keeps its value when it is absent or null. */
enum kith_err plan_u32(struct kith_json object, const char *name, const char *where, uint32_t min,
                       uint32_t max, uint32_t *out, struct kith_diag *diag);
enum kith_err plan_bool(struct kith_json object, const char *name, const char *where, bool *out,
                        struct kith_diag *diag);
/* The member `name` of object as a checked filter; absent gives empty bytes. The bytes live as long
 * as the request. */
enum kith_err plan_filter(struct request *req, struct kith_json object, const char *name,
                          const char *where, struct kith_bytes *out, struct kith_diag *diag);
/* A value as msgpack in the arena. */
enum kith_err plan_msgpack(struct request *req, struct kith_json value, struct kith_bytes *out,
                           struct kith_diag *diag);
/* A payload: an object within KITH_PAYLOAD_MAX and KITH_PAYLOAD_DEPTH_MAX. */
enum kith_err plan_payload(struct request *req, struct kith_json value, const char *where,
                           struct kith_bytes *out, struct kith_diag *diag);
/* A vector: numbers, {"text": ...}, or {name: either}. Gives where the floats are or will be (a
 * text is queued for the encoder). */
enum kith_err plan_vector(struct request *req, struct kith_json value, const char *where,
                          float **out, struct kith_diag *diag);
enum kith_err plan_text(struct request *req, struct kith_json object, const char *where,
                        float **out, struct kith_diag *diag);
/* `using`: must name the collection's vector. */
enum kith_err plan_using(struct request *req, struct kith_json object, const char *where,
                         struct kith_diag *diag);
/* min_coverage, deadline_ms, coverage of a `params` object, and the search parameters of the API.
 */
enum kith_err plan_params(struct request *req, struct kith_json object, const char *where,
                          struct kith_diag *diag);
/* The body must be there (and be an object). */
enum kith_err plan_body(struct request *req, struct kith_diag *diag);
bool plan_name_ok(const char *name); /* of a collection */

/* The families. */
#define PLAN(name_) enum kith_err name_(struct request *req, struct kith_diag *diag)
PLAN(plan_collections_list);
PLAN(plan_collections_create);
PLAN(plan_collections_update);
PLAN(plan_collections_delete);
PLAN(plan_collections_exists);
PLAN(plan_collections_info);
PLAN(plan_collections_index_create);
PLAN(plan_collections_index_delete);
PLAN(plan_points_upsert);
PLAN(plan_points_delete);
PLAN(plan_points_set_payload);
PLAN(plan_points_overwrite_payload);
PLAN(plan_points_delete_payload);
PLAN(plan_points_clear_payload);
PLAN(plan_points_update_vectors);
PLAN(plan_points_batch);
PLAN(plan_read_get);
PLAN(plan_read_retrieve);
PLAN(plan_read_count);
PLAN(plan_read_scroll);
PLAN(plan_query_query);
PLAN(plan_query_query_batch);
PLAN(plan_query_search);
PLAN(plan_query_search_batch);
PLAN(plan_facet_facet);
PLAN(plan_memory_memory);
PLAN(plan_cluster_status);
PLAN(plan_cluster_collection);
PLAN(plan_system_root);
PLAN(plan_system_health);
PLAN(plan_system_ready);
PLAN(plan_metrics_metrics);
PLAN(plan_system_telemetry);
PLAN(plan_system_issues);
PLAN(plan_system_unsupported);
#undef PLAN

#endif
