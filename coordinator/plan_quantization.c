#include "coordinator/plan_quantization.h"

#include <string.h>

#include "coordinator/plan.h"
#include "proto/kith_limits.h"

/* ---- the API's configuration ----------------------------------------------------------------- */

static const struct plan_field config_fields[] = {{"scalar", PLAN_TAKEN},
                                                  {"product", PLAN_TAKEN},
                                                  {"binary", PLAN_TAKEN},
                                                  {"turbo", PLAN_REFUSED}};
static const struct plan_field scalar_fields[] = {{"type", PLAN_TAKEN},
                                                  {"quantile", PLAN_TAKEN},
                                                  {"always_ram", PLAN_TAKEN},
                                                  {"memory", PLAN_IGNORED}};
static const struct plan_field product_fields[] = {
    {"compression", PLAN_TAKEN}, {"always_ram", PLAN_TAKEN}, {"memory", PLAN_IGNORED}};
static const struct plan_field binary_fields[] = {{"always_ram", PLAN_TAKEN},
                                                  {"encoding", PLAN_TAKEN},
                                                  {"query_encoding", PLAN_TAKEN},
                                                  {"memory", PLAN_IGNORED}};

#define AT_CONFIG "quantization_config"

static enum kith_err always_ram_of(struct kith_json object, const char *where,
                                   struct kith_diag *diag)
{
    bool ignored;
    return plan_bool(object, "always_ram", where, &ignored, diag);
}

static enum kith_err scalar(struct kith_json object, struct plan_quantization *out,
                            struct kith_diag *diag)
{
    struct kith_json value;
    double quantile;
    const char *at = AT_CONFIG ".scalar";
    enum kith_err err = PLAN_FIELDS(object, at, scalar_fields, diag);
    if (!err)
        err = always_ram_of(object, at, diag);
    if (err)
        return err;
    if (!kith_json_opt(object, "type", &value))
        return kith_fail(diag, KITH_BAD_REQUEST, "%s.type: required", at);
    if (!kith_json_is(value, "int8"))
        return kith_fail(diag, KITH_BAD_REQUEST, "%s.type: expected int8", at);
    if (kith_json_opt(object, "quantile", &value) &&
        (!kith_json_f64(value, &quantile) || !(quantile >= 0.5 && quantile <= 1)))
        return kith_fail(diag, KITH_BAD_REQUEST, "%s.quantile: expected a number from 0.5 to 1",
                         at);
    out->index = KITH_INDEX_INT8;
    out->said = at;
    return KITH_OK;
}

static enum kith_err product(struct kith_json object, struct plan_quantization *out,
                             struct kith_diag *diag)
{
    static const char *const ratios[] = {"x4", "x8", "x16", "x32", "x64"};
    struct kith_json value;
    const char *at = AT_CONFIG ".product";
    enum kith_err err = PLAN_FIELDS(object, at, product_fields, diag);
    if (!err)
        err = always_ram_of(object, at, diag);
    if (err)
        return err;
    if (!kith_json_opt(object, "compression", &value))
        return kith_fail(diag, KITH_BAD_REQUEST, "%s.compression: required", at);
    for (size_t i = 0; i < sizeof(ratios) / sizeof(ratios[0]); i++) {
        if (kith_json_is(value, ratios[i])) {
            out->index = i == 0 ? KITH_INDEX_INT8 : KITH_INDEX_PQ4;
            out->said = at;
            return KITH_OK;
        }
    }
    return kith_fail(diag, KITH_BAD_REQUEST, "%s.compression: expected x4, x8, x16, x32 or x64",
                     at);
}

static bool is_one_of(struct kith_json value, const char *const *words, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (kith_json_is(value, words[i]))
            return true;
    return false;
}

static enum kith_err binary(struct kith_json object, struct plan_quantization *out,
                            struct kith_diag *diag)
{
    static const char *const encodings[] = {"one_bit", "two_bits", "one_and_half_bits"};
    static const char *const query_encodings[] = {"default", "binary", "scalar4bits",
                                                  "scalar8bits"};
    struct kith_json value;
    const char *at = AT_CONFIG ".binary";
    enum kith_err err = PLAN_FIELDS(object, at, binary_fields, diag);
    if (!err)
        err = always_ram_of(object, at, diag);
    if (err)
        return err;
    if (kith_json_opt(object, "encoding", &value) && !is_one_of(value, encodings, 3))
        return kith_fail(diag, KITH_BAD_REQUEST,
                         "%s.encoding: expected one_bit, two_bits or one_and_half_bits", at);
    if (kith_json_opt(object, "query_encoding", &value) && !is_one_of(value, query_encodings, 4))
        return kith_fail(diag, KITH_BAD_REQUEST,
                         "%s.query_encoding: expected default, binary, scalar4bits or scalar8bits",
                         at);
    out->index = KITH_INDEX_PQ4;
    out->said = at;
    return KITH_OK;
}

static enum kith_err config_of(struct kith_json config, struct plan_quantization *out,
                               struct kith_diag *diag)
{
    static const struct {
        const char *name;
        enum kith_err (*read)(struct kith_json object, struct plan_quantization *out,
                              struct kith_diag *diag);
    } kinds[] = {{"scalar", scalar}, {"product", product}, {"binary", binary}};
    struct kith_json object;
    uint32_t n = 0;
    enum kith_err err = PLAN_FIELDS(config, AT_CONFIG, config_fields, diag);
    for (size_t i = 0; !err && i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        if (!kith_json_opt(config, kinds[i].name, &object))
            continue;
        n++;
        err = kinds[i].read(object, out, diag);
    }
    if (!err && n != 1)
        err = kith_fail(diag, KITH_BAD_REQUEST,
                        AT_CONFIG ": expected one of scalar, product, binary");
    out->has_index = true;
    return err;
}

/* ---- Kith's word ----------------------------------------------------------------------------- */

bool plan_quantization_of_word(const char *word, struct plan_quantization *out)
{
    static const struct {
        const char *word;
        bool has_index, f16;
        enum kith_index index;
    } words[] = {{"auto", false, false, KITH_INDEX_NONE},  {"none", true, false, KITH_INDEX_ROWS},
                 {"f16", true, true, KITH_INDEX_ROWS},     {"int8", true, false, KITH_INDEX_INT8},
                 {"pq4", true, false, KITH_INDEX_PQ4},     {"scalar", true, false, KITH_INDEX_INT8},
                 {"product", true, false, KITH_INDEX_PQ4}, {"binary", true, false, KITH_INDEX_PQ4}};
    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
        if (strcmp(word, words[i].word) != 0)
            continue;
        *out = (struct plan_quantization){.has_index = words[i].has_index,
                                          .index = words[i].index,
                                          .has_rows = words[i].f16,
                                          .rows = KITH_ROWS_F16,
                                          .said = "quantization"};
        return true;
    }
    return false;
}

static enum kith_err word_of(struct kith_json value, struct plan_quantization *out,
                             struct kith_diag *diag)
{
    const char *word;
    size_t len;
    if (kith_json_str(value, &word, &len) && strlen(word) == len &&
        plan_quantization_of_word(word, out))
        return KITH_OK;
    return kith_fail(diag, KITH_BAD_REQUEST, "quantization: expected auto, none, f16, int8 or pq4");
}

const char *plan_quantization_word(enum kith_index index, enum kith_row_type rows)
{
    switch (index) {
    case KITH_INDEX_INT8:
        return "int8";
    case KITH_INDEX_PQ4:
        return "pq4";
    default:
        return rows == KITH_ROWS_F16 ? "f16" : "none";
    }
}

/* ---- by Faiss ---------------------------------------------------------------------------------
 */

static enum kith_err factory_of(struct kith_json value, struct plan_quantization *out,
                                struct kith_diag *diag)
{
    static const char prefix[] = "faiss:";
    const size_t before = sizeof(prefix) - 1;
    const char *text;
    size_t len;
    if (!kith_json_str(value, &text, &len))
        return plan_wrong_type(diag, "index", "a text", value);
    if (strlen(text) != len || strncmp(text, prefix, before) != 0 || len == before)
        return kith_fail(diag, KITH_BAD_REQUEST,
                         "index: expected \"faiss:\" and a factory string, as in "
                         "\"faiss:IVF1024,PQ50x4fs,RFlat\"");
    if (len - before > KITH_FAISS_FACTORY_MAX)
        return kith_fail(diag, KITH_TOO_BIG, "index: a factory string has at most %u bytes",
                         KITH_FAISS_FACTORY_MAX);
    *out = (struct plan_quantization){
        .has_index = true, .index = KITH_INDEX_FAISS, .factory = text + before, .said = "index"};
    return KITH_OK;
}

/* ---- the whole ------------------------------------------------------------------------------- */

/* The vector's own goes before the collection's, as in the API. */
static bool member_of(struct kith_json body, bool has_vector, struct kith_json vector,
                      const char *name, struct kith_json *out)
{
    return (has_vector && kith_json_type(vector) == KITH_JSON_OBJECT &&
            kith_json_opt(vector, name, out)) ||
           kith_json_opt(body, name, out);
}

static enum kith_err graph_of(struct kith_json body, bool has_vector, struct kith_json vector,
                              struct plan_quantization *out, struct kith_diag *diag)
{
    struct kith_json config;
    uint32_t m = 1;
    if (!member_of(body, has_vector, vector, "hnsw_config", &config))
        return KITH_OK;
    if (kith_json_type(config) != KITH_JSON_OBJECT)
        return plan_wrong_type(diag, "hnsw_config", "an object", config);
    enum kith_err err = plan_u32(config, "m", "hnsw_config", 0, UINT32_MAX, &m, diag);
    if (err || m > 0)
        return err;
    if (out->has_index)
        return kith_fail(diag, KITH_BAD_REQUEST,
                         "hnsw_config.m: 0 means no index, which %s asks for", out->said);
    out->has_index = true;
    out->index = KITH_INDEX_NONE;
    return KITH_OK;
}

enum kith_err plan_quantization_read(struct kith_json body, bool has_vector,
                                     struct kith_json vector, struct plan_quantization *out,
                                     struct kith_diag *diag)
{
    struct kith_json config, word, index;
    enum kith_err err = KITH_OK;
    *out = (struct plan_quantization){.said = NULL};
    bool has_factory = member_of(body, has_vector, vector, "index", &index);
    bool has_word = kith_json_opt(body, "quantization", &word);
    bool has_config = member_of(body, has_vector, vector, "quantization_config", &config);
    if (has_word && has_config)
        return kith_fail(diag, KITH_BAD_REQUEST,
                         "quantization: not together with quantization_config");
    if (has_factory && (has_word || has_config))
        return kith_fail(diag, KITH_BAD_REQUEST, "index: not together with %s",
                         has_word ? "quantization" : "quantization_config");
    if (has_factory)
        err = factory_of(index, out, diag);
    else if (has_word)
        err = word_of(word, out, diag);
    else if (has_config)
        err = config_of(config, out, diag);
    struct kith_json datatype;
    if (!err && out->has_rows && has_vector && kith_json_opt(vector, "datatype", &datatype) &&
        kith_json_is(datatype, "float32"))
        err = kith_fail(diag, KITH_BAD_REQUEST,
                        "quantization: f16 is not float32, which "
                        "vectors.datatype asks for");
    return err ? err : graph_of(body, has_vector, vector, out, diag);
}

enum kith_err plan_quantization_fits(const struct plan_quantization *q, enum kith_metric metric,
                                     struct kith_diag *diag)
{
    if (q->has_index && q->index == KITH_INDEX_PQ4 && metric == KITH_MANHATTAN)
        return kith_fail(diag, KITH_UNSUPPORTED,
                         "%s: product codes are not supported with Manhattan; use int8", q->said);
    return KITH_OK;
}

/* ---- telling --------------------------------------------------------------------------------- */

/* Of a kept request, that was read before: the vector's parameters, named or not. */
static bool vector_of(struct kith_json options, struct kith_json *out)
{
    struct kith_json size;
    if (!kith_json_opt(options, "vectors", out) || kith_json_type(*out) != KITH_JSON_OBJECT)
        return false;
    if (kith_json_get(*out, "size", &size) || kith_json_get(*out, "distance", &size))
        return true;
    struct kith_json_iter iter = kith_json_iterate(*out);
    const char *name;
    size_t len;
    return kith_json_next_member(&iter, &name, &len, out);
}

bool plan_quantization_asked(struct kith_json options, struct kith_json *out)
{
    struct kith_json vector = {.doc = NULL};
    bool has = vector_of(options, &vector);
    return member_of(options, has, vector, "quantization_config", out);
}

/* Tuning of things Kith does not have, or decides by itself. */
static const struct {
    const char *object, *member, *note;
} notes_of[] = {
    {"hnsw_config", "m", "hnsw_config.m: the index is made of lists; only 0 (none) has an effect"},
    {"hnsw_config", "ef_construct", "hnsw_config.ef_construct has no effect"},
    {"hnsw_config", "full_scan_threshold",
     "hnsw_config.full_scan_threshold has no effect: the costs of both are compared"},
    {"hnsw_config", "max_indexing_threads", "hnsw_config.max_indexing_threads has no effect"},
    {"hnsw_config", "payload_m", "hnsw_config.payload_m has no effect"},
    {"hnsw_config", "on_disk", "hnsw_config.on_disk has no effect: indexes are mapped files"},
    {"scalar", "quantile",
     "quantization_config.scalar.quantile has no effect: each row has its "
     "own scale"},
    {"scalar", "always_ram",
     "quantization_config.scalar.always_ram has no effect: see memory_lock_mib of "
     "the nodes"},
    {"product", "compression",
     "quantization_config.product.compression: x4 is a byte a dimension, "
     "all others are 4-bit codes of as many dimensions as suit the size"},
    {"product", "always_ram",
     "quantization_config.product.always_ram has no effect: see memory_lock_mib "
     "of the nodes"},
    {"binary", NULL, "quantization_config.binary is served by 4-bit product codes"},
    {"binary", "always_ram",
     "quantization_config.binary.always_ram has no effect: see memory_lock_mib of "
     "the nodes"},
};

size_t plan_quantization_notes(struct kith_json options, const char **notes)
{
    _Static_assert(sizeof(notes_of) / sizeof(notes_of[0]) <= PLAN_QUANTIZATION_NOTES_MAX, "room");
    struct kith_json vector = {.doc = NULL}, graph, config, object, member;
    bool has_vector = vector_of(options, &vector);
    bool has_graph = member_of(options, has_vector, vector, "hnsw_config", &graph);
    bool has_config = member_of(options, has_vector, vector, "quantization_config", &config);
    size_t n = 0;
    uint64_t m;
    for (size_t i = 0; i < sizeof(notes_of) / sizeof(notes_of[0]); i++) {
        bool of_graph = strcmp(notes_of[i].object, "hnsw_config") == 0;
        if (of_graph)
            object = graph;
        else if (!has_config || !kith_json_opt(config, notes_of[i].object, &object))
            continue;
        if (of_graph && !has_graph)
            continue;
        if (notes_of[i].member && !kith_json_opt(object, notes_of[i].member, &member))
            continue;
        if (of_graph && strcmp(notes_of[i].member, "m") == 0 && kith_json_u64(member, &m) && m == 0)
            continue;
        notes[n++] = notes_of[i].note;
    }
    return n;
}
