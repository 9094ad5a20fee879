#include <string.h>

#include "coordinator/cluster/topology_impl.h"

/* collections/<name>: {"id", "dim", "metric", "rows", "index", "factory", "slices", "vector",
 * "encoder", "options", "metadata"}; the last three are JSON inside a string: kept as given, never looked into here. */

bool topology_codec_name_ok(const char *name)
{
    const size_t len = strnlen(name, KITH_NAME_MAX + 1);
    return len > 0 && len <= KITH_NAME_MAX &&
           strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") == len;
}

static void put_text(struct kith_json_writer *w, const char *name, const char *text)
{
    if (text) {
        kith_jw_key(w, name);
        kith_jw_cstr(w, text);
    }
}

static const char *const indexes[] = {[KITH_INDEX_NONE] = "none",
                                      [KITH_INDEX_ROWS] = "rows",
                                      [KITH_INDEX_INT8] = "int8",
                                      [KITH_INDEX_PQ4] = "pq4",
                                      [KITH_INDEX_FAISS] = "faiss"};

const char *topology_index_name(enum kith_index index)
{
    return indexes[index];
}

void topology_codec_write(struct kith_buf *buf, const struct topology_collection *collection)
{
    struct kith_json_writer w = {.buf = buf};
    struct kith_buf id = {0};
    kith_buf_printf(&id, "%016llx", (unsigned long long)collection->id);
    kith_jw_begin_object(&w);
    kith_jw_key(&w, "id");
    kith_jw_str(&w, (const char *)id.data, id.len);
    kith_jw_key(&w, "dim");
    kith_jw_u64(&w, collection->dim);
    put_text(&w, "metric", kith_metric_word(collection->metric));
    put_text(&w, "rows", collection->rows == KITH_ROWS_F16 ? "f16" : "f32");
    put_text(&w, "index", indexes[collection->index]);
    put_text(&w, "factory", collection->factory);
    kith_jw_key(&w, "slices");
    kith_jw_u64(&w, collection->n_slices);
    put_text(&w, "vector", collection->vector_name);
    put_text(&w, "encoder", collection->encoder);
    put_text(&w, "options", collection->options);
    put_text(&w, "metadata", collection->metadata);
    kith_jw_end_object(&w);
    kith_buf_byte(buf, 0);
    buf->failed |= id.failed;
    kith_buf_fini(&id);
}

static bool get_u32(struct kith_json root, const char *name, uint32_t min, uint32_t max,
                    uint32_t *out)
{
    struct kith_json field;
    uint64_t value = 0;
    if (!kith_json_opt(root, name, &field) || !kith_json_u64(field, &value) || value < min ||
        value > max) {
        return false;
    }
    *out = (uint32_t)value;
    return true;
}

/* Absent: *out is NULL. */
static enum kith_err get_text(struct kith_json root, const char *name, struct kith_arena *arena,
                              const char **out)
{
    struct kith_json field;
    const char *text = NULL;
    size_t len = 0;
    *out = NULL;
    if (!kith_json_opt(root, name, &field)) {
        return KITH_OK;
    }
    if (!kith_json_str(field, &text, &len)) {
        return KITH_CORRUPT;
    }
    *out = kith_arena_text(arena, text, len);
    return *out ? KITH_OK : KITH_NOMEM;
}

/* None said: written before there was one. One that is not known: by a newer version. */
static bool read_index(struct kith_json root, enum kith_index *out)
{
    struct kith_json field;
    *out = KITH_INDEX_NONE;
    if (!kith_json_opt(root, "index", &field)) {
        return true;
    }
    for (unsigned i = 0; i < sizeof indexes / sizeof *indexes; i++) {
        if (kith_json_is(field, indexes[i])) {
            *out = (enum kith_index)i;
            return true;
        }
    }
    return false;
}

static bool factory_ok(const struct topology_collection *collection)
{
    const char *factory = collection->factory;
    if (collection->index != KITH_INDEX_FAISS) {
        return !factory;
    }
    return factory && *factory && strlen(factory) <= KITH_FAISS_FACTORY_MAX;
}

static enum kith_err read_root(struct topology_collection *out, struct kith_arena *arena,
                               struct kith_json root)
{
    struct kith_json field;
    if (!kith_keys_id(root, "id", &out->id) || !get_u32(root, "dim", 1, KITH_DIM_MAX, &out->dim) ||
        !get_u32(root, "slices", 1, KITH_SLICES_PER_COLLECTION_MAX, &out->n_slices) ||
        !kith_json_opt(root, "metric", &field)) {
        return KITH_CORRUPT;
    }
    for (int m = KITH_COSINE; m <= KITH_MANHATTAN; m++) {
        if (kith_json_is(field, kith_metric_word((enum kith_metric)m))) {
            out->metric = (enum kith_metric)m;
        }
    }
    if (!out->metric || !kith_json_opt(root, "rows", &field)) {
        return KITH_CORRUPT;
    }
    out->rows = kith_json_is(field, "f16") ? KITH_ROWS_F16 : KITH_ROWS_F32;
    if (!read_index(root, &out->index)) {
        return KITH_CORRUPT;
    }
    enum kith_err err = get_text(root, "factory", arena, &out->factory);
    if (!err && !factory_ok(out)) {
        return KITH_CORRUPT;
    }
    err = err ? err : get_text(root, "vector", arena, &out->vector_name);
    err = err ? err : get_text(root, "encoder", arena, &out->encoder);
    err = err ? err : get_text(root, "options", arena, &out->options);
    err = err ? err : get_text(root, "metadata", arena, &out->metadata);
    out->vector_name = out->vector_name ? out->vector_name : "";
    return err;
}

enum kith_err topology_codec_read(struct topology_collection *out, struct kith_arena *arena,
                                  const char *text, size_t len)
{
    struct kith_json_doc *doc = NULL;
    struct kith_buf copy = {0};
    enum kith_err err = kith_keys_open(&doc, &copy, text, len);
    if (!err) {
        err = read_root(out, arena, kith_json_root(doc));
    }
    kith_json_close(doc);
    kith_buf_fini(&copy);
    return err == KITH_OK || err == KITH_NOMEM ? err : KITH_CORRUPT;
}
