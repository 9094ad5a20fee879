/* Hashes of bytes: FNV-1a (Fowler, Noll, Vo; 64 bits) and the finaliser of MurmurHash3 (Appleby).
 *
 * Stored files hold such hashes (tables of word vectors, indexes of Faiss, fingerprints of
 * encoders), so the bits stay what they are. Threads: any. */
#ifndef KITH_HASH_H
#define KITH_HASH_H

#include <stddef.h>
#include <stdint.h>

#define KITH_HASH_START UINT64_C(0xcbf29ce484222325) /* of no bytes */

/* Goes on with one byte, or whatever is taken as one. */
static inline uint64_t kith_hash_step(uint64_t hash, uint32_t value)
{
    return (hash ^ value) * UINT64_C(0x100000001b3);
}

/* Goes on with len bytes. */
static inline uint64_t kith_hash_bytes(uint64_t hash, const void *data, size_t len)
{
    const uint8_t *bytes = data;
    for (size_t i = 0; i < len; i++)
        hash = kith_hash_step(hash, bytes[i]);
    return hash;
}

/* Lets each bit depend on all: for tables that take some of the bits. */
static inline uint64_t kith_hash_mix(uint64_t hash)
{
    hash = (hash ^ (hash >> 33)) * UINT64_C(0xff51afd7ed558ccd);
    hash = (hash ^ (hash >> 33)) * UINT64_C(0xc4ceb9fe1a85ec53);
    return hash ^ (hash >> 33);
}

#endif
