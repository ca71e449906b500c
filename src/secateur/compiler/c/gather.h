/* A value from one way of cutting its axes into another: where each element lies is a sum of one
 * offset for each axis, so a table for each axis that is cut says it. */
#ifndef SECATEUR_GATHER_H
#define SECATEUR_GATHER_H
#include "vector.h"

enum { SEC_OUTSIDE = -(1 << 30) };  /* less than any offset, and so is its sum with one */

typedef struct {
  int extent, lanes, block;  /* lanes that the axis is cut over, and elements in each */
  long stride;               /* of an element within its block, floats */
  int lane_stride;           /* lanes from one block to the next */
} sec_cut;

/* Where the elements of an axis, as `to` has it, lie in `from`: for each position within a block, one
   offset for each of `lanes` (the lanes of a vector, or 1). */
SHARED void sec_tabulate(int32_t *table, const sec_cut to, int lanes,
                                                 int used, const sec_cut from) {
  for (int i = 0; i < to.block; i++)
    for (int l = 0; l < lanes; l++) {
      const int at = i + l / to.lane_stride % to.lanes * to.block;
      *table++ = at < to.extent && l < used
                     ? (int32_t)(at % from.block * from.stride) + at / from.block * from.lane_stride
                     : SEC_OUTSIDE;
    }
}

#if LANES == 16 && defined(__AVX512F__)
INLINE vec sec_gathered(const float *x, veci at) {
  return (vec)_mm512_mask_i32gather_ps(_mm512_setzero_ps(),
                                       _mm512_cmpge_epi32_mask((__m512i)at, _mm512_setzero_si512()),
                                       (__m512i)at, x, 4);
}
#elif LANES == 8 && defined(__AVX2__)
INLINE vec sec_gathered(const float *x, veci at) {
  return (vec)_mm256_mask_i32gather_ps(_mm256_setzero_ps(), x, (__m256i)at, (__m256)(at >= 0), 4);
}
#else
INLINE vec sec_gathered(const float *x, veci at) {
  vec y;
  UNROLL for (int l = 0; l < LANES; l++) y[l] = at[l] < 0 ? 0 : x[at[l]];
  return y;
}
#endif

/* One vector, of the sum of two tables; 0 where there is no element. */
INLINE void sec_gather(float *y, const float *x, const int32_t *p, const int32_t *q) {
  veci at = *(const veci *)p;
  if (q) at += *(const veci *)q;
  *(vec *)y = sec_gathered(x, at);
}

/* A row of floats side by side. */
INLINE void sec_gather_row(float *y, const float *x, const int32_t *p, const long n) {
  long i = 0;
  for (; i + LANES <= n; i += LANES) {
    const vec v = sec_gathered(x, *(const veci *)(p + i));
    memcpy(y + i, &v, sizeof v);
  }
  for (; i < n; i++) y[i] = x[p[i]];
}
#endif
