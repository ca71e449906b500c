/* Pooling: the largest or the mean of what a window sees, of LANES images or positions at once. */
#ifndef SECATEUR_POOLING_H
#define SECATEUR_POOLING_H
#include "levels.h"

typedef struct {
  int outs, kernel, stride, dilation;
  int extent, before;  /* what lies outside [0, extent) is left out; extent 0: there is a halo */
  long in, out;        /* strides, floats */
  long table;          /* stride of the means' factors */
} sec_pool_axis;

/* The largest so far, and where a NaN was among them; or the sum so far. */
#if LANES == 16 && defined(__AVX512F__)
#include <immintrin.h>
typedef struct { vec most; __mmask16 odd; } sec_pooled;
INLINE void sec_larger(sec_pooled *r, vec v) {
  r->odd |= _mm512_cmp_ps_mask((__m512)v, (__m512)v, _CMP_UNORD_Q);
  r->most = (vec)_mm512_max_ps((__m512)r->most, (__m512)v);
}
INLINE vec sec_largest(const sec_pooled r) {
  return (vec)_mm512_mask_mov_ps((__m512)r.most, r.odd, _mm512_set1_ps(NAN));
}
#else
typedef struct { vec most; veci odd; } sec_pooled;
INLINE void sec_larger(sec_pooled *r, vec v) {
  const veci take = (veci)(v > r->most);
  r->odd |= (veci)(v != v);
  r->most = (vec)(((veci)v & take) | ((veci)r->most & ~take));
}
INLINE vec sec_largest(const sec_pooled r) { return (vec)((veci)r.most | r.odd); }
#endif

/* What is pooled: 0, the sum; 1, the largest number; or the largest of each byte of a word. */
#define SEC_LARGEST_BYTES 2

INLINE sec_pooled sec_pool_nothing(const int largest) {
  sec_pooled r = {0};
  if (largest == 1) r.most = sec_all(-INFINITY);
  if (largest == SEC_LARGEST_BYTES) r.most = (vec)sec_words((vecu)r.most);
  return r;
}
INLINE void sec_pool_add(sec_pooled *r, vec v, const int largest) {
  if (largest == SEC_LARGEST_BYTES) r->most = sec_larger_bytes(r->most, v);
  else if (largest) sec_larger(r, v);
  else r->most += v;
}
INLINE vec sec_pool_result(const sec_pooled r, const int largest) {
  return largest == 1 ? sec_largest(r) : r.most;
}

/* The kernel positions of output o that are to be read: [first, end). */
INLINE int sec_pool_first(const sec_pool_axis a, long o) {
  const long start = o * a.stride - a.before;
  return !a.extent || start >= 0 ? 0 : (int)((-start + a.dilation - 1) / a.dilation);
}
INLINE int sec_pool_end(const sec_pool_axis a, long o) {
  const long room = a.extent - (o * a.stride - a.before);
  return !a.extent || room > (a.kernel - 1L) * a.dilation
             ? a.kernel : (int)((room + a.dilation - 1) / a.dilation);
}

INLINE vec sec_pool_window(const float *p, const sec_pool_axis z, const sec_pool_axis y,
                           const sec_pool_axis x, int z0, int z1, int y0, int y1, int x0, int x1,
                           const int largest) {
  sec_pooled r = sec_pool_nothing(largest);
  for (int k = z0; k < z1; k++)
    for (int i = y0; i < y1; i++)  /* unrolled where these are constants */
      for (int j = x0; j < x1; j++)
        sec_pool_add(&r, *(const vec *)(p + k * z.dilation * z.in + i * y.dilation * y.in
                                        + j * x.dilation * x.in), largest);
  return sec_pool_result(r, largest);
}

INLINE void sec_pool_columns(const float *p, float *q, const float *table, const sec_pool_axis z,
                             const sec_pool_axis y, const sec_pool_axis x, int z0, int z1, int y0,
                             int y1, const float factor, const int lanes, const int largest) {
  /* the outputs whose window lies inside */
  const long room = x.extent - 1L - (x.kernel - 1L) * x.dilation + x.before;
  const long inside = room < 0 ? 0 : SEC_LEAST(room / x.stride + 1, x.outs);
  const long from = x.extent ? SEC_LEAST((x.before + x.stride - 1) / x.stride, x.outs) : 0;
  const long to = x.extent ? inside : x.outs;
  for (int o = 0; o < x.outs; o++) {
    const float *w = p + o * x.stride * x.in;
    vec r;
    if (o >= from && o < to) r = sec_pool_window(w, z, y, x, z0, z1, y0, y1, 0, x.kernel, largest);
    else r = sec_pool_window(w, z, y, x, z0, z1, y0, y1, sec_pool_first(x, o), sec_pool_end(x, o),
                             largest);
    if (!largest && table)
      r *= lanes == 1 ? sec_all(table[o * x.table]) : *(const vec *)(table + o * x.table);
    else if (!largest) r *= sec_all(factor);
    *(vec *)(q + o * x.out) = r;
  }
}

/* One row of outputs: (oz, oy) of a channel that begins at `in` and `out`. A mean is the sum times
   the factor, or times that of its position in the table, which has one for each of `lanes`. */
INLINE void sec_pool_row(const float *in, float *out, const float *table, const long oz,
                         const long oy, const sec_pool_axis z, const sec_pool_axis y,
                         const sec_pool_axis x, const float factor, const int lanes,
                         const int largest) {
  const int z0 = sec_pool_first(z, oz), z1 = sec_pool_end(z, oz);
  const int y0 = sec_pool_first(y, oy), y1 = sec_pool_end(y, oy);
  const float *p = in + (oz * z.stride - z.before) * z.in + (oy * y.stride - y.before) * y.in
                 - x.before * x.in;
  float *q = out + oz * z.out + oy * y.out;
  if (table) table += oz * z.table + oy * y.table;
  if (y0 == 0 && y1 == y.kernel)
    sec_pool_columns(p, q, table, z, y, x, z0, z1, 0, y.kernel, factor, lanes, largest);
  else sec_pool_columns(p, q, table, z, y, x, z0, z1, y0, y1, factor, lanes, largest);
}

/* All of a channel: z.outs x y.outs x x.outs vectors; `real`, where not null, says by position and
   lane what is no padding, all bits set or none. */
INLINE vec sec_pool_all(const float *in, const int32_t *real, const sec_pool_axis z,
                        const sec_pool_axis y, const sec_pool_axis x, const int largest) {
  const vec none = sec_all(largest ? -INFINITY : 0);
  sec_pooled r[4];
  UNROLL for (int m = 0; m < 4; m++) r[m] = sec_pool_nothing(largest);
  for (int i = 0; i < z.outs; i++)
    for (int j = 0; j < y.outs; j++)
      for (int k = 0; k < x.outs; k += 4)
        UNROLL for (int m = 0; m < 4; m++) {
          if (k + m >= x.outs) break;
          vec v = *(const vec *)(in + i * z.in + j * y.in + (k + m) * x.in);
          if (real) {
            const veci mine = *(const veci *)real;
            v = (vec)(((veci)v & mine) | ((veci)none & ~mine));
            real += LANES;
          }
          sec_pool_add(r + m, v, largest);
        }
  UNROLL for (int m = 1; m < 4; m++) sec_pool_add(r, sec_pool_result(r[m], largest), largest);
  return sec_pool_result(r[0], largest);
}

/* All lanes of a vector. */
INLINE float sec_across(vec v, const int largest) {
  float x[LANES] __attribute__((aligned(LANES * 4)));
  memcpy(x, &v, sizeof x);
  UNROLL for (int d = LANES / 2; d > 0; d /= 2)
    UNROLL for (int l = 0; l < d; l++)
      x[l] = !largest ? x[l] + x[l + d] : x[l + d] > x[l] || x[l + d] != x[l + d] ? x[l + d] : x[l];
  return x[0];
}
#endif
