/* Any bytes as a frame, and any bytes as the body of each message: no crash, no read outside.
 * The first byte chooses the reader, so that one corpus covers all messages. */
#include <stdlib.h>
#include <string.h>

#include "proto/kith_frame.h"
#include "proto/kith_msg.h"
#include "proto/kith_ops.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void drain_found(struct kith_bytes body)
{
    static struct kith_msg_found msg;
    uint64_t matched;
    uint32_t queries, n;
    struct kith_bytes packed;
    struct kith_hit hit;
    if (!kith_msg_read_found(body, &msg))
        return;
    for (uint32_t p = 0; p < msg.n_parts && kith_msg_found_part(&msg.parts, &matched, &queries);
         p++)
        for (uint32_t q = 0; q < queries && kith_msg_found_hits(&msg.parts, &packed, &n); q++)
            for (uint32_t i = 0; i < n; i++)
                (void)kith_hit_unpack(packed.data + (size_t)i * KITH_HIT_BYTES, &hit);
    struct kith_msg_explain explain;
    if (msg.has_explains && kith_msg_found_explains(&msg.parts, &n))
        for (uint32_t i = 0; i < n && kith_msg_found_explain(&msg.parts, &explain); i++) {
        }
}

static void drain_search(struct kith_bytes body)
{
    static struct kith_msg_search msg;
    struct kith_msg_search_part part;
    if (!kith_msg_read_search(body, &msg))
        return;
    struct kith_cursor c = kith_cursor_of(msg.parts.data, msg.parts.len);
    for (uint32_t p = 0; p < msg.n_parts && kith_msg_search_next(&c, msg.dim, &part); p++) {
    }
}

static void drain_replies(uint8_t which, struct kith_bytes body)
{
    static struct kith_msg_records records;
    static struct kith_msg_facets facets;
    static struct kith_msg_infos infos;
    struct kith_record record;
    struct kith_msg_info_field field;
    struct kith_bytes value;
    uint64_t count;
    if (which == 0 && kith_msg_read_records(body, &records))
        for (uint32_t i = 0;
             i < records.n_records && kith_msg_records_next(&records.records, &record); i++) {
        }
    if (which == 1 && kith_msg_read_facets(body, &facets))
        for (uint32_t i = 0;
             i < facets.n_hits && kith_msg_facets_next(&facets.hits, &value, &count); i++) {
        }
    if (which == 2 && kith_msg_read_infos(body, &infos)) {
        struct kith_msg_info_recall recall;
        uint32_t n;
        for (uint32_t i = 0; i < infos.n_fields && kith_msg_infos_next(&infos.fields, &field);
             i++) {
        }
        if (infos.has_recalls && kith_msg_info_recalls(&infos.fields, &n))
            for (uint32_t i = 0; i < n && kith_msg_info_recall(&infos.fields, &recall); i++) {
            }
    }
    static struct kith_msg_memories memories;
    static struct kith_msg_codebooked codebooked;
    static struct kith_msg_sampled sampled;
    if (which == 3) {
        (void)kith_msg_read_memories(body, &memories);
        (void)kith_msg_read_codebooked(body, &codebooked);
        (void)kith_msg_read_sampled(body, &sampled);
    }
}

static void drain_ops(struct kith_bytes body)
{
    struct kith_ops_reader reader;
    struct kith_op op;
    if (kith_ops_begin(&reader, body))
        while (kith_ops_next(&reader, &op)) {
        }
}

static void drain_plain(struct kith_bytes body)
{
    static union {
        struct kith_msg_scope scope;
        struct kith_msg_open open;
        struct kith_msg_write write;
        struct kith_msg_fetch fetch;
        struct kith_msg_count count;
        struct kith_msg_scroll scroll;
        struct kith_msg_facet facet;
        struct kith_msg_slices slices;
        struct kith_msg_written written;
        struct kith_msg_counted counted;
        struct kith_msg_error error;
        struct kith_msg_codebook codebook;
        struct kith_msg_sample sample;
    } msg;
    (void)kith_msg_read_scope_only(body, &msg.scope);
    (void)kith_msg_read_open(body, &msg.open);
    (void)kith_msg_read_write(body, &msg.write);
    (void)kith_msg_read_fetch(body, &msg.fetch);
    (void)kith_msg_read_count(body, &msg.count);
    (void)kith_msg_read_scroll(body, &msg.scroll);
    (void)kith_msg_read_facet(body, &msg.facet);
    (void)kith_msg_read_slices_only(body, &msg.slices);
    (void)kith_msg_read_written(body, &msg.written);
    (void)kith_msg_read_counted(body, &msg.counted);
    (void)kith_msg_read_error(body, &msg.error);
    (void)kith_msg_read_codebook(body, &msg.codebook);
    (void)kith_msg_read_sample(body, &msg.sample);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct kith_frame header;
    (void)kith_frame_open(data, size, 0, &header, NULL);
    if (size == 0)
        return 0;
    struct kith_bytes body = {data + 1, size - 1};
    switch (data[0] % 8) {
    case 0:
    case 1:
    case 2:
        drain_replies(data[0] % 8, body);
        break;
    case 3:
        drain_found(body);
        break;
    case 4:
        drain_search(body);
        break;
    case 5:
        drain_ops(body);
        break;
    case 6:
        drain_replies(3, body);
        break;
    default:
        drain_plain(body);
    }
    return 0;
}
