/* etcd's answers and base64 from untrusted bytes: the first byte picks the reader. */
#include <string.h>

#include "common/kith_etcd_decode.h"
#include "common/kith_json.h"
#include "common/kith_mem.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static enum kith_err on_kv(void *ctx, const struct kith_etcd_kv *kv)
{
    (void)ctx;
    kith_assert(kv->key[kv->key_len] == 0 && kv->value[kv->value_len] == 0);
    return kv->key_len > 1000 ? KITH_TOO_BIG : KITH_OK;
}

static void round_trip(const char *text, size_t len)
{
    struct kith_buf encoded = {0};
    struct kith_buf decoded = {0};
    kith_etcd_base64_encode(&encoded, text, len);
    kith_assert(kith_etcd_base64_decode(&decoded, (const char *)encoded.data, encoded.len));
    kith_assert(decoded.len == len && (len == 0 || memcmp(decoded.data, text, len) == 0));
    kith_buf_reset(&decoded);
    (void)kith_etcd_base64_decode(&decoded, text, len);
    kith_buf_fini(&encoded);
    kith_buf_fini(&decoded);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0) {
        return 0;
    }
    const size_t len = size - 1;
    char *text = kith_alloc(len + KITH_JSON_PADDING);
    if (!text) {
        return 0;
    }
    memcpy(text, data + 1, len);
    struct kith_diag diag;
    struct kith_etcd_header header;
    struct kith_etcd_watch watch;
    struct kith_etcd_txn txn;
    struct kith_etcd_lease lease;
    bool more;
    switch (data[0] % 5) {
    case 0:
        (void)kith_etcd_read_range(text, len, &header, &more, on_kv, NULL, &diag);
        break;
    case 1:
        (void)kith_etcd_read_watch(text, len, &watch, on_kv, NULL, &diag);
        break;
    case 2:
        (void)kith_etcd_read_txn(text, len, &txn, &diag);
        break;
    case 3:
        (void)kith_etcd_read_lease(text, len, &lease, &diag);
        break;
    default:
        round_trip(text, len);
    }
    kith_free(text);
    return 0;
}
