/* GET /collections/{c}: what the nodes count, and the configuration as the API words it. Numbers of
 * an index Kith does not have are echoed from the create request, or the API's defaults. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/kith_arena.h"
#include "common/kith_mem.h"
#include "coordinator/plan_collections.h"
#include "coordinator/plan_quantization.h"

static void write_body(struct request *req, struct scatter_ask *ask, struct kith_writer *w)
{
    (void)req;
    kith_msg_write_scope_only(w, &ask->scope);
}

static enum kith_err add_field(struct request *req, const struct kith_msg_info_field *field)
{
    struct info_plan *plan = req->plan;
    for (size_t i = 0; i < plan->n_fields; i++) {
        struct info_field *known = &plan->fields[i];
        if (known->path.len == field->path.len &&
            memcmp(known->path.data, field->path.data, field->path.len) == 0) {
            known->types |= field->types;
            known->points += field->points;
            return KITH_OK;
        }
    }
    struct info_field *fields =
        request_grow(req, plan->fields, plan->n_fields, &plan->fields_cap, sizeof(*fields));
    if (!fields)
        return KITH_NOMEM;
    plan->fields = fields;
    fields[plan->n_fields++] = (struct info_field){field->path, field->types, field->points};
    return KITH_OK;
}

/* As far as the one that is least far; none (no points there) says nothing about the others. */
static void add_index(struct kith_msg_info_slice *sum, const struct kith_msg_info_slice *info)
{
    sum->indexed_points += info->indexed_points;
    sum->busy = sum->busy || info->busy;
    if (sum->phase == KITH_INDEX_ABSENT ||
        (info->phase != KITH_INDEX_ABSENT && info->phase < sum->phase))
        sum->phase = info->phase;
    if (info->generation > sum->generation) {
        sum->generation = info->generation;
        sum->n_lists = info->n_lists;
    }
}


static enum kith_err add_recalls(struct request *req, const struct scatter_ask *ask,
                                 struct kith_cursor *cursor, struct kith_diag *diag)
{
    struct info_plan *plan = req->plan;
    uint32_t n;
    if (!kith_msg_info_recalls(cursor, &n))
        return kith_fail(diag, KITH_PROTOCOL, "malformed info");
    for (uint32_t i = 0; i < n; i++) {
        struct info_recall recall = {.node = ask->node};
        if (!kith_msg_info_recall(cursor, &recall.seen))
            return kith_fail(diag, KITH_PROTOCOL, "recall %u is malformed", i);
        struct info_recall *recalls =
            request_grow(req, plan->recalls, plan->n_recalls, &plan->recalls_cap, sizeof(*recalls));
        if (!recalls)
            return kith_fail(diag, KITH_NOMEM, "request: out of memory");
        plan->recalls = recalls;
        recalls[plan->n_recalls++] = recall;
    }
    return KITH_OK;
}

static enum kith_err take(struct request *req, struct scatter_ask *ask, struct kith_bytes body,
                          struct kith_diag *diag)
{
    struct info_plan *plan = req->plan;
    struct kith_msg_infos *msg = kith_alloc(sizeof(*msg));
    if (!msg)
        return kith_fail(diag, KITH_NOMEM, "out of memory");
    enum kith_err err = kith_msg_read_infos(body, msg)
                            ? scatter_verdicts(ask, &msg->slices, diag)
                            : kith_fail(diag, KITH_PROTOCOL, "malformed info");
    for (uint32_t i = 0; !err && i < msg->slices.n_slices; i++) {
        const struct kith_msg_info_slice *info = &msg->info[i];
        plan->points_by_slice[msg->slices.slices[i].slice] = info->live_points;
        plan->sum.live_points += info->live_points;
        plan->sum.deleted_points += info->deleted_points;
        plan->sum.segments += info->segments;
        plan->sum.head_rows += info->head_rows;
        plan->sum.segment_bytes += info->segment_bytes;
        plan->sum.wal_bytes += info->wal_bytes;
        plan->sum.head_bytes += info->head_bytes;
        plan->sum.failed = plan->sum.failed || info->failed;
        plan->refuses = plan->refuses || info->failed;
        plan->codebooks_differ |= plan->n_infos++ > 0 && info->codebook != plan->sum.codebook;
        plan->sum.codebook = info->codebook;
        add_index(&plan->sum, info);
    }
    struct kith_msg_info_field field;
    for (uint32_t i = 0; !err && i < msg->n_fields; i++) {
        if (i >= 64 * KITH_FIELDS_INDEXED_MAX || !kith_msg_infos_next(&msg->fields, &field))
            err = kith_fail(diag, KITH_PROTOCOL, "field %u is malformed", i);
        else
            err = add_field(req, &field);
    }
    if (!err && msg->has_recalls)
        err = add_recalls(req, ask, &msg->fields, diag);
    kith_free(msg);
    return err;
}

/* An info of what is there beats none: a slice that is away turns the status, not the answer. */
static enum kith_err merge(struct request *req, struct kith_diag *diag)
{
    (void)diag;
    struct info_plan *plan = req->plan;
    plan->sum.failed = plan->sum.failed || req->coverage.ok < req->coverage.total;
    req->coverage.partial = false;
    return KITH_OK;
}

/* ---- the answer ------------------------------------------------------------------------------ */

static void write_u64(struct kith_json_writer *w, const char *key, uint64_t value)
{
    kith_jw_key(w, key);
    kith_jw_u64(w, value);
}

static void write_json(struct request *req, struct kith_json value, struct kith_json_writer *w)
{
    struct kith_bytes bytes;
    if (plan_msgpack(req, value, &bytes, NULL) || !kith_jw_msgpack(w, bytes))
        kith_jw_null(w);
}

/* The number given at creation under section.key, or the default. */
static void write_option(struct kith_json options, bool has, const char *section, const char *key,
                         uint64_t otherwise, struct kith_json_writer *w)
{
    struct kith_json object, value;
    uint64_t number;
    if (has && kith_json_opt(options, section, &object) && kith_json_opt(object, key, &value) &&
        kith_json_u64(value, &number))
        otherwise = number;
    write_u64(w, key, otherwise);
}

static const char *distance_name(enum kith_metric metric)
{
    switch (metric) {
    case KITH_DOT:
        return "Dot";
    case KITH_EUCLID:
        return "Euclid";
    case KITH_MANHATTAN:
        return "Manhattan";
    default:
        return "Cosine";
    }
}

static void write_vectors(const struct topology_collection *c, struct kith_json_writer *w)
{
    bool named = *c->vector_name != '\0';
    kith_jw_key(w, "vectors");
    kith_jw_begin_object(w);
    if (named) {
        kith_jw_key(w, c->vector_name);
        kith_jw_begin_object(w);
    }
    write_u64(w, "size", c->dim);
    kith_jw_key(w, "distance");
    kith_jw_cstr(w, distance_name(c->metric));
    if (c->rows == KITH_ROWS_F16) {
        kith_jw_key(w, "datatype");
        kith_jw_cstr(w, "float16");
    }
    if (named)
        kith_jw_end_object(w);
    kith_jw_end_object(w);
}

static void write_params(const struct topology_collection *c, struct kith_json options, bool has,
                         struct kith_json_writer *w)
{
    struct kith_json value;
    bool on_disk = true;
    kith_jw_key(w, "params");
    kith_jw_begin_object(w);
    write_vectors(c, w);
    write_u64(w, "shard_number", c->n_slices);
    write_u64(w, "replication_factor", 1);
    write_u64(w, "write_consistency_factor", 1);
    if (has && kith_json_opt(options, "on_disk_payload", &value))
        (void)kith_json_bool(value, &on_disk);
    kith_jw_key(w, "on_disk_payload");
    kith_jw_bool(w, on_disk);
    kith_jw_end_object(w);
}

static void write_metadata(struct request *req, struct kith_json_writer *w)
{
    const char *text = req->collection->metadata;
    struct kith_json_doc *doc = NULL;
    size_t len = text ? strlen(text) : 0;
    char *padded = text ? kith_arena_alloc(req->arena, len + 1 + KITH_JSON_PADDING) : NULL;
    if (!padded)
        return;
    memcpy(padded, text, len);
    if (kith_json_open(&doc, padded, len, NULL) == KITH_OK &&
        kith_json_type(kith_json_root(doc)) == KITH_JSON_OBJECT) {
        kith_jw_key(w, "metadata");
        write_json(req, kith_json_root(doc), w);
    }
    kith_json_close(doc);
}

static void write_config(struct request *req, struct kith_json options, bool has,
                         struct kith_json_writer *w)
{
    const struct topology_collection *c = req->collection;
    kith_jw_key(w, "config");
    kith_jw_begin_object(w);
    write_params(c, options, has, w);
    kith_jw_key(w, "hnsw_config");
    kith_jw_begin_object(w);
    write_option(options, has, "hnsw_config", "m", 16, w);
    write_option(options, has, "hnsw_config", "ef_construct", 100, w);
    write_option(options, has, "hnsw_config", "full_scan_threshold", 10000, w);
    kith_jw_end_object(w);
    kith_jw_key(w, "optimizer_config");
    kith_jw_begin_object(w);
    write_option(options, has, "optimizers_config", "default_segment_number", 0, w);
    write_option(options, has, "optimizers_config", "flush_interval_sec", 5, w);
    kith_jw_end_object(w);
    kith_jw_key(w, "wal_config");
    kith_jw_begin_object(w);
    write_option(options, has, "wal_config", "wal_capacity_mb", KITH_WAL_FILE_MAX >> 20, w);
    write_option(options, has, "wal_config", "wal_segments_ahead", 0, w);
    kith_jw_end_object(w);
    struct kith_json asked;
    kith_jw_key(w, "quantization_config");
    if (has && plan_quantization_asked(options, &asked))
        write_json(req, asked, w);
    else
        kith_jw_null(w);
    write_metadata(req, w);
    kith_jw_end_object(w);
}

static void write_warnings(struct kith_json options, struct kith_json_writer *w)
{
    const char *notes[PLAN_QUANTIZATION_NOTES_MAX];
    size_t n = plan_quantization_notes(options, notes);
    if (n == 0)
        return;
    kith_jw_key(w, "warnings");
    kith_jw_begin_array(w);
    for (size_t i = 0; i < n; i++) {
        kith_jw_begin_object(w);
        kith_jw_key(w, "message");
        kith_jw_cstr(w, notes[i]);
        kith_jw_end_object(w);
    }
    kith_jw_end_array(w);
}

static const char *type_name(uint32_t types)
{
    if (types & 16u)
        return "datetime";
    if (types & 1u)
        return "keyword";
    if (types & 8u)
        return "float";
    return types & 4u ? "integer" : "bool";
}

static const struct info_field *field_named(const struct info_plan *plan, const char *path,
                                            size_t len)
{
    for (size_t i = 0; i < plan->n_fields; i++)
        if (plan->fields[i].path.len == len && memcmp(plan->fields[i].path.data, path, len) == 0)
            return &plan->fields[i];
    return NULL;
}

static void write_field(const char *path, size_t len, const char *type, uint64_t points,
                        struct kith_json_writer *w)
{
    kith_jw_key_n(w, path, len);
    kith_jw_begin_object(w);
    kith_jw_key(w, "data_type");
    kith_jw_cstr(w, type);
    write_u64(w, "points", points);
    kith_jw_end_object(w);
}

/* Fields that were declared come with their declared type; the others as they are found. */
static void write_schema(const struct info_plan *plan, struct kith_json options, bool has,
                         struct kith_json_writer *w)
{
    struct kith_json indexes, value;
    const char *path, *type;
    size_t len, type_len;
    bool any = has && kith_json_opt(options, "kith_indexes", &indexes);
    kith_jw_key(w, "payload_schema");
    kith_jw_begin_object(w);
    if (any) {
        struct kith_json_iter iter = kith_json_iterate(indexes);
        while (kith_json_next_member(&iter, &path, &len, &value)) {
            const struct info_field *field = field_named(plan, path, len);
            if (kith_json_str(value, &type, &type_len))
                write_field(path, len, type, field ? field->points : 0, w);
        }
    }
    for (size_t i = 0; i < plan->n_fields; i++) {
        const struct info_field *field = &plan->fields[i];
        struct kith_json declared;
        char name[KITH_FIELD_PATH_MAX + 1];
        size_t n = field->path.len < sizeof(name) ? field->path.len : sizeof(name) - 1;
        memcpy(name, field->path.data, n);
        name[n] = '\0';
        if (any && kith_json_get(indexes, name, &declared))
            continue;
        write_field((const char *)field->path.data, field->path.len, type_name(field->types),
                    field->points, w);
    }
    kith_jw_end_object(w);
}

static void write_index(const struct info_plan *plan, const struct topology_collection *c,
                        struct kith_json_writer *w)
{
    static const char *const phases[] = {[KITH_INDEX_ABSENT] = "none",
                                         [KITH_INDEX_TRAINING] = "training",
                                         [KITH_INDEX_BUILDING] = "building",
                                         [KITH_INDEX_READY] = "ready"};
    kith_jw_key(w, "index");
    kith_jw_begin_object(w);
    kith_jw_key(w, "kind");
    kith_jw_cstr(w, topology_index_name(c->index));
    if (c->factory) {
        kith_jw_key(w, "factory");
        kith_jw_cstr(w, c->factory);
    }
    kith_jw_key(w, "phase");
    kith_jw_cstr(w, phases[plan->sum.phase]);
    write_u64(w, "generation", plan->sum.generation);
    write_u64(w, "lists", plan->sum.n_lists);
    kith_jw_key(w, "codebook");
    if (plan->codebooks_differ || plan->sum.codebook == 0) {
        kith_jw_null(w);
    } else {
        char hash[17];
        snprintf(hash, sizeof(hash), "%016" PRIx64, plan->sum.codebook);
        kith_jw_cstr(w, hash);
    }
    kith_jw_end_object(w);
}

/* What Kith knows beyond the API. */
static void write_own(struct request *req, struct kith_json_writer *w)
{
    const struct info_plan *plan = req->plan;
    const struct topology_collection *c = req->collection;
    kith_jw_key(w, "kith");
    kith_jw_begin_object(w);
    if (c->encoder) {
        struct kith_json_doc *doc = NULL;
        size_t len = strlen(c->encoder);
        char *padded = kith_arena_alloc(req->arena, len + 1 + KITH_JSON_PADDING);
        if (padded)
            memcpy(padded, c->encoder, len);
        kith_jw_key(w, "encoder");
        if (padded && kith_json_open(&doc, padded, len, NULL) == KITH_OK)
            write_json(req, kith_json_root(doc), w);
        else
            kith_jw_null(w);
        kith_json_close(doc);
    }
    kith_jw_key(w, "quantization");
    kith_jw_cstr(w, plan_quantization_word(c->index, c->rows));
    write_index(plan, c, w);
    write_u64(w, "deleted_points", plan->sum.deleted_points);
    write_u64(w, "segment_bytes", plan->sum.segment_bytes);
    write_u64(w, "wal_bytes", plan->sum.wal_bytes);
    write_u64(w, "head_bytes", plan->sum.head_bytes);
    write_u64(w, "slices_answered", req->coverage.ok);
    kith_jw_end_object(w);
}

static void write_result(struct request *req, struct kith_json_writer *w)
{
    const struct info_plan *plan = req->plan;
    struct kith_json_doc *doc = NULL;
    struct kith_json options = {.doc = NULL};
    const char *text = req->collection->options;
    size_t len = text ? strlen(text) : 0;
    char *padded = text ? kith_arena_alloc(req->arena, len + 1 + KITH_JSON_PADDING) : NULL;
    if (padded)
        memcpy(padded, text, len);
    bool has = padded && kith_json_open(&doc, padded, len, NULL) == KITH_OK;
    if (has)
        options = kith_json_root(doc);
    kith_jw_begin_object(w);
    kith_jw_key(w, "status");
    bool working = plan->sum.busy || plan->sum.phase == KITH_INDEX_TRAINING ||
                   plan->sum.phase == KITH_INDEX_BUILDING;
    const char *calm = working ? "yellow" : "green";
    kith_jw_cstr(w, plan->sum.failed ? "red" : calm);
    kith_jw_key(w, "optimizer_status");
    if (plan->refuses) {
        kith_jw_begin_object(w);
        kith_jw_key(w, "error");
        kith_jw_cstr(w, "a slice takes no writes since a sync failed: see its node's log");
        kith_jw_end_object(w);
    } else {
        kith_jw_cstr(w, "ok");
    }
    write_u64(w, "points_count", plan->sum.live_points);
    write_u64(w, "indexed_vectors_count", plan->sum.indexed_points);
    write_u64(w, "segments_count", plan->sum.segments + req->coverage.ok); /* heads too */
    write_config(req, options, has, w);
    if (has)
        write_warnings(options, w);
    write_schema(plan, options, has, w);
    write_own(req, w);
    kith_jw_end_object(w);
    kith_json_close(doc);
}

const struct scatter_round run_info_round = {
    .message = KITH_MSG_INFO, .write_body = write_body, .take = take};
const struct work run_info_work = {
    .name = "info",
    .round = &run_info_round,
    .merge = merge,
    .write_result = write_result,
};
