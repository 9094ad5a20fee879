/* Half precision numbers (IEEE 754 binary16), as rows of a collection may be stored.
 *
 * Rounding is to nearest, ties to even; beyond the largest half the result is infinite, so whoever
 * stores rows refuses values above KITH_F16_MAX first. Every half is exactly a float. The CPU's own
 * instruction is used when it has one; the results are the same bits. Threads: any. */
#ifndef KITH_F16_H
#define KITH_F16_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define KITH_F16_MAX 65504.0f

uint16_t kith_f16_from_f32(float value);
float kith_f16_to_f32(uint16_t half);
/* n numbers; neither side needs alignment, and the two must not overlap. */
void kith_f16_pack(uint16_t *out, const float *values, size_t n);
void kith_f16_unpack(float *out, const void *halves, size_t n);
bool kith_f16_hardware(void); /* this CPU has F16C */

#endif
