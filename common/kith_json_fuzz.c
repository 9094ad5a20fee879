/* Any bytes: open, walk everything, write what was read, and read that again. */
#include <string.h>

#include "common/kith_json.h"
#include "common/kith_json_locate.h"
#include "common/kith_mem.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void walk(struct kith_json value, struct kith_json_writer *w)
{
    struct kith_json_iter iter = kith_json_iterate(value);
    struct kith_json child;
    const char *text;
    size_t len;
    uint64_t u;
    int64_t i;
    double f;
    bool b;
    if (kith_json_type(value) == KITH_JSON_ARRAY) {
        float out[4];
        (void)kith_json_f32s(value, out, 4, "v", NULL);
        kith_jw_begin_array(w);
        while (kith_json_next(&iter, &child))
            walk(child, w);
        kith_jw_end_array(w);
    } else if (kith_json_type(value) == KITH_JSON_OBJECT) {
        kith_jw_begin_object(w);
        while (kith_json_next_member(&iter, &text, &len, &child)) {
            kith_jw_key_n(w, text, len);
            walk(child, w);
        }
        kith_jw_end_object(w);
    } else if (kith_json_str(value, &text, &len)) {
        kith_jw_str(w, text, len);
    } else if (kith_json_bool(value, &b)) {
        kith_jw_bool(w, b);
    } else if (kith_json_u64(value, &u)) {
        kith_jw_u64(w, u);
    } else if (kith_json_i64(value, &i)) {
        kith_jw_i64(w, i);
    } else if (kith_json_f64(value, &f)) {
        kith_jw_f64(w, f);
    } else {
        kith_jw_null(w);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = kith_xalloc(size + KITH_JSON_PADDING);
    memcpy(text, data, size);
    struct kith_json_doc *doc = NULL;
    struct kith_buf first = {0}, second = {0};
    const char *what;
    (void)kith_json_locate(text, size, 32, &what);
    if (kith_json_open(&doc, text, size, NULL) == KITH_OK) {
        kith_assert(what == NULL); /* the slow scanner accepts whatever the parser does */
        struct kith_json_writer w = {.buf = &first};
        walk(kith_json_root(doc), &w);
        kith_json_close(doc);
        memset(kith_buf_reserve(&first, KITH_JSON_PADDING), 0, KITH_JSON_PADDING);
        doc = NULL;
        kith_assert(kith_json_open(&doc, (char *)first.data, first.len, NULL) == KITH_OK);
        w = (struct kith_json_writer){.buf = &second};
        walk(kith_json_root(doc), &w);
        kith_assert(first.len == second.len && memcmp(first.data, second.data, first.len) == 0);
        kith_json_close(doc);
    }
    kith_buf_fini(&first);
    kith_buf_fini(&second);
    kith_free(text);
    return 0;
}
