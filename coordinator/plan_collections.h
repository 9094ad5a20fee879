/* The plans of everything about a collection but its points. */
#ifndef PLAN_COLLECTIONS_H
#define PLAN_COLLECTIONS_H

#include "coordinator/plan.h"
#include "coordinator/text_models.h"

struct create_plan {
    struct topology_spec spec;
    bool has_dim; /* else the encoder's */
    struct text_models_wait wait;
};

/* Changes of a collection's registry key: metadata, indexes. */
struct change_plan {
    const char *metadata;           /* JSON to merge; NULL = none */
    const char *field, *field_type; /* index to note; type NULL = forget it */
};

struct drop_plan {
    bool existed;
};

struct info_field {
    struct kith_bytes path;
    uint32_t types;
    uint64_t points;
};
struct info_recall {
    const struct topology_node *node;
    struct kith_msg_info_recall seen;
};
struct info_plan {
    struct kith_msg_info_slice sum; /* failed: also when a slice is away */
    uint32_t n_infos;
    bool codebooks_differ; /* not all slices have the same one, or any */
    bool refuses;          /* a slice that is there has failed */
    uint64_t points_by_slice[KITH_SLICES_PER_COLLECTION_MAX];
    struct info_field *fields;
    size_t n_fields, fields_cap;
    struct info_recall *recalls;
    size_t n_recalls, recalls_cap;
};

extern const struct work run_create_work, run_change_work, run_drop_work;
extern const struct work run_list_work, run_exists_work, run_index_work;
extern const struct work run_info_work;
extern const struct scatter_round run_info_round;

/* A JSON value of the body as text, in the arena; NULL when memory is out. */
const char *plan_collections_json(struct request *req, struct kith_json value);

#endif
