/* Inputs that pick from an axis: a call with an index outside of it is refused before it runs. */
#ifndef SECATEUR_RANGES_H
#define SECATEUR_RANGES_H
#include "runtime.h"

static int sec_outside(const sec_model *m, const void *const *inputs, size_t samples) {
  for (size_t r = 0; r < m->range_count; r++) {
    const sec_range *const range = m->ranges + r;
    const size_t count = samples * m->input_bytes[range->input] / range->width;
    const int64_t low = range->low, high = range->high;
    int outside = 0;
    if (range->width == sizeof(int64_t)) {
      const int64_t *x = inputs[range->input];
      for (size_t i = 0; i < count; i++) outside |= (x[i] < low) | (x[i] > high);
    } else {
      const int32_t *x = inputs[range->input];
      for (size_t i = 0; i < count; i++) outside |= (x[i] < low) | (x[i] > high);
    }
    if (outside) return 1;
  }
  return 0;
}
#endif
