/* Shortest texts of floats, for the JSON writer alone. Values must be finite. Threads: no state. */
#ifndef KITH_JSON_NUMBER_H
#define KITH_JSON_NUMBER_H

#include "common/kith_buf.h"

void kith_json_number_f32(struct kith_buf *buf, float value);
/* Always with a point or an exponent, so that it reads back as a float. */
void kith_json_number_f64(struct kith_buf *buf, double value);

#endif
