#include "proto/kith_crc32c.h"

#include <pthread.h>
#include <string.h>
#if defined(__aarch64__)
#include <arm_acle.h>
#include <sys/auxv.h>
#endif

#define POLY 0x82f63b78u /* reversed 0x1edc6f41 */

static uint32_t table[256];
static int have_instruction;

static void init(void)
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;
        for (int bit = 0; bit < 8; bit++)
            c = (c & 1) != 0 ? (c >> 1) ^ POLY : c >> 1;
        table[i] = c;
    }
#if defined(__x86_64__)
    have_instruction = __builtin_cpu_supports("sse4.2") != 0;
#elif defined(__aarch64__)
    have_instruction = (getauxval(AT_HWCAP) & HWCAP_CRC32) != 0;
#endif
}

static void init_once(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    (void)pthread_once(&once, init);
}

uint32_t kith_crc32c_table(uint32_t crc, const void *data, size_t len)
{
    init_once();
    const uint8_t *p = data;
    crc = ~crc;
    for (size_t i = 0; i < len; i++)
        crc = table[(crc ^ p[i]) & 0xff] ^ (crc >> 8);
    return ~crc;
}

#if defined(__x86_64__)
#define WITH_CRC           __attribute__((target("sse4.2")))
#define CRC_8(crc_, word_) __builtin_ia32_crc32di(crc_, word_)
#define CRC_1(crc_, byte_) __builtin_ia32_crc32qi(crc_, byte_)
#elif defined(__aarch64__)
#define WITH_CRC           /* the build system says so for this file */
#define CRC_8(crc_, word_) __crc32cd((uint32_t)crc_, word_)
#define CRC_1(crc_, byte_) __crc32cb(crc_, byte_)
#endif

#ifdef WITH_CRC
WITH_CRC static uint32_t crc_instruction(uint32_t crc, const uint8_t *p, size_t len)
{
    uint64_t c = ~crc;
    for (; len >= 8; len -= 8, p += 8) {
        uint64_t word;
        memcpy(&word, p, 8);
        c = CRC_8(c, word);
    }
    uint32_t c32 = (uint32_t)c;
    for (; len > 0; len--, p++)
        c32 = CRC_1(c32, *p);
    return ~c32;
}
#endif

uint32_t kith_crc32c(uint32_t crc, const void *data, size_t len)
{
    init_once();
#ifdef WITH_CRC
    if (have_instruction)
        return crc_instruction(crc, data, len);
#endif
    return kith_crc32c_table(crc, data, len);
}
