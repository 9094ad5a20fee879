/* Arbitrary bytes as a filter, tried on a fixed payload and on the rest of the bytes as a payload:
 * both ways of searching lists agree, and nothing is read outside. */
#include "common/kith_buf.h"
#include "common/kith_mem.h"
#include "shard/index/filter_doc.h"

static void make_payload(struct kith_buf *out)
{
    struct kith_writer w = {.write = kith_buf_sink, .sink = out};
    kith_write_map(&w, 3); /* {k: "x", n: [1, 2.5, null], l: [{k: true, t: "2026-01-31"}]} */
    kith_write_cstr(&w, "k");
    kith_write_cstr(&w, "x");
    kith_write_cstr(&w, "n");
    kith_write_array(&w, 3);
    kith_write_u64(&w, 1);
    kith_write_f64(&w, 2.5);
    kith_write_nil(&w);
    kith_write_cstr(&w, "l");
    kith_write_array(&w, 1);
    kith_write_map(&w, 2);
    kith_write_cstr(&w, "k");
    kith_write_bool(&w, true);
    kith_write_cstr(&w, "t");
    kith_write_cstr(&w, "2026-01-31");
}

static void try_payload(const struct kith_filter *filter, const struct filter_lists *lists,
                        struct kith_bytes payload)
{
    const struct kith_id id = kith_id_number(1);
    bool plain = filter_doc(filter, NULL, &id, payload);
    kith_assert(filter_doc(filter, lists, &id, payload) == plain);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct kith_filter filter;
    struct filter_lists *lists = NULL;
    struct kith_buf buf = {0};
    struct kith_diag diag;
    if (size == 0)
        return 0;
    /* Byte 0: how many bytes at the end are the payload. */
    size_t tail = data[0] % size;
    const struct kith_bytes text = {data + 1, size - 1 - tail};
    const struct kith_bytes rest = {data + size - tail, tail};
    if (kith_filter_parse(&filter, text, "filter", &diag) != KITH_OK)
        return 0;
    kith_assert(filter_lists_new(&lists, &filter, NULL) == KITH_OK);
    make_payload(&buf);
    try_payload(&filter, lists, (struct kith_bytes){buf.data, buf.len});
    try_payload(&filter, lists, rest);
    filter_lists_free(lists);
    kith_buf_fini(&buf);
    return 0;
}
