/* CRC32C (Castagnoli, RFC 3720 appendix B.4), hardware instruction when the CPU has it.
 * Start with crc = 0; feed pieces by passing the previous result. Threads: any. */
#ifndef KITH_CRC32C_H
#define KITH_CRC32C_H

#include <stddef.h>
#include <stdint.h>

uint32_t kith_crc32c(uint32_t crc, const void *data, size_t len);
uint32_t kith_crc32c_table(uint32_t crc, const void *data,
                           size_t len); /* the reference, for tests */

#endif
