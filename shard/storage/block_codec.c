#include "shard/storage/block_codec.h"

#include <pthread.h>
#include <string.h>
#include <zstd.h>

/* Contexts take 100 KiB and more to set up, so each thread keeps one of each. Level 1: on JSON-like
 * payloads level 3 saves a few percent more and takes twice the time of a seal. */
#define LEVEL 1

static pthread_key_t pack_key, unpack_key;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void free_pack(void *ctx)
{
    (void)ZSTD_freeCCtx(ctx);
}

static void free_unpack(void *ctx)
{
    (void)ZSTD_freeDCtx(ctx);
}

static void make_keys(void)
{
    kith_assert(pthread_key_create(&pack_key, free_pack) == 0);
    kith_assert(pthread_key_create(&unpack_key, free_unpack) == 0);
}

enum kith_err block_codec_pack(const uint8_t *data, size_t len, struct kith_buf *out, size_t *bytes,
                               struct kith_diag *diag)
{
    (void)pthread_once(&once, make_keys);
    ZSTD_CCtx *ctx = pthread_getspecific(pack_key);
    if (ctx == NULL) {
        ctx = ZSTD_createCCtx();
        if (ctx == NULL || pthread_setspecific(pack_key, ctx) != 0) {
            (void)ZSTD_freeCCtx(ctx);
            return kith_fail(diag, KITH_NOMEM, "compressor");
        }
    }
    uint8_t *to = kith_buf_reserve(out, ZSTD_compressBound(len));
    if (to == NULL)
        return kith_fail(diag, KITH_NOMEM, "block of %zu bytes", len);
    size_t n = ZSTD_compressCCtx(ctx, to, ZSTD_compressBound(len), data, len, LEVEL);
    if (ZSTD_isError(n) || n >= len) {
        memcpy(to, data, len);
        n = len;
    }
    out->len += n;
    *bytes = n;
    return KITH_OK;
}

enum kith_err block_codec_unpack(const uint8_t *data, size_t len, uint8_t *out, size_t out_len,
                                 struct kith_diag *diag)
{
    if (len == out_len) {
        memcpy(out, data, len);
        return KITH_OK;
    }
    (void)pthread_once(&once, make_keys);
    ZSTD_DCtx *ctx = pthread_getspecific(unpack_key);
    if (ctx == NULL) {
        ctx = ZSTD_createDCtx();
        if (ctx == NULL || pthread_setspecific(unpack_key, ctx) != 0) {
            (void)ZSTD_freeDCtx(ctx);
            return kith_fail(diag, KITH_NOMEM, "decompressor");
        }
    }
    size_t n = ZSTD_decompressDCtx(ctx, out, out_len, data, len);
    if (ZSTD_isError(n) || n != out_len)
        return kith_fail(diag, KITH_CORRUPT, "a payload block does not decompress");
    return KITH_OK;
}
