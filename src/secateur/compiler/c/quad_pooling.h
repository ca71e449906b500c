/* Means of levels: sums over windows or whole planes, exact, of the four channels of each word.
 *
 * Sums of channels 0 and 2, and of 1 and 3, grow as halves of one word, until they might not fit. */
#ifndef SECATEUR_QUAD_POOLING_H
#define SECATEUR_QUAD_POOLING_H
#include "pooling.h"
#include "quads.h"

enum { SEC_HALF = 257 };  /* levels whose sum fits 16 bits */

typedef struct {
  int quads, channels;       /* whether the output is words; channels of this word that there are */
  long out_channel;          /* stride of numbers */
  float low, high;           /* ends, less zero */
  int zero;
} sec_mean;

typedef struct { veci even, odd, sum[4]; int count; } sec_total;

/* Words of levels. */
INLINE veci sec_levels_at(const float *x) { return (veci)sec_words((vecu)*(const vec *)x); }

INLINE void sec_total_settle(sec_total *r) {
  r->sum[0] += r->even & 0xffff;
  r->sum[1] += r->odd & 0xffff;
  r->sum[2] += r->even >> 16 & 0xffff;
  r->sum[3] += r->odd >> 16 & 0xffff;
  r->even = r->odd = sec_word(0);
  r->count = 0;
}
INLINE void sec_total_add(sec_total *r, veci word) {
  if (r->count == SEC_HALF) sec_total_settle(r);
  r->even += word & 0x00ff00ff;
  r->odd += word >> 8 & 0x00ff00ff;
  r->count++;
}

INLINE void sec_mean_put(const sec_mean m, const veci sums[4], const veci offset, const vec factor,
                         float *out) {
  veci word = {0};
  UNROLL for (int k = 0; k < 4; k++) {
    vec y = sec_real(sums[k] + offset) * factor;
    SEC_ROUNDED(y);
    if (m.quads) word |= sec_level(y, m.low, m.high, m.zero) << 8 * k;
    else if (k < m.channels) *(vec *)(out + k * m.out_channel) = y;
  }
  if (m.quads) *(vec *)out = (vec)sec_words((vecu)word);
}
INLINE void sec_mean_put1(const sec_mean m, const int32_t sums[4], const int32_t offset,
                          const float factor, float *out) {
  uint32_t word = 0;
  UNROLL for (int k = 0; k < 4; k++) {
    float y = (float)(sums[k] + offset) * factor;
    SEC_ROUNDED(y);
    if (m.quads) word |= (uint32_t)sec_level1(y, m.low, m.high, m.zero) << 8 * k;
    else if (k < m.channels) out[k * m.out_channel] = y;
  }
  word = sec_words(word);
  if (m.quads) memcpy(out, &word, sizeof word);
}

INLINE void sec_mean_window(const float *p, const sec_pool_axis z, const sec_pool_axis y,
                            const sec_pool_axis x, int z0, int z1, int y0, int y1, int x0, int x1,
                            veci sums[4]) {
  sec_total r = {0};
  for (int k = z0; k < z1; k++)
    for (int i = y0; i < y1; i++)  /* unrolled where these are constants */
      for (int j = x0; j < x1; j++)
        sec_total_add(&r, sec_levels_at(p + k * z.dilation * z.in + i * y.dilation * y.in
                                        + j * x.dilation * x.in));
  sec_total_settle(&r);
  UNROLL for (int k = 0; k < 4; k++) sums[k] = r.sum[k];
}

/* One row of outputs, as `sec_pool_row`; offsets and factors lie in tables of `lanes`, or, of one
   position, serve all. */
INLINE void sec_mean_row(const float *in, float *out, const int32_t *offsets, const float *factors,
                         const long oz, const long oy, const sec_pool_axis z, const sec_pool_axis y,
                         const sec_pool_axis x, const int lanes, const sec_mean m) {
  const int z0 = sec_pool_first(z, oz), z1 = sec_pool_end(z, oz);
  const int y0 = sec_pool_first(y, oy), y1 = sec_pool_end(y, oy);
  const float *p = in + (oz * z.stride - z.before) * z.in + (oy * y.stride - y.before) * y.in
                 - x.before * x.in;
  float *q = out + oz * z.out + oy * y.out;
  const long table = oz * z.table + oy * y.table;
  for (int o = 0; o < x.outs; o++) {
    const float *w = p + o * x.stride * x.in;
    const int x0 = sec_pool_first(x, o), x1 = sec_pool_end(x, o);
    veci sums[4];
    if (z0 == 0 && z1 == z.kernel && y0 == 0 && y1 == y.kernel && x0 == 0 && x1 == x.kernel)
      sec_mean_window(w, z, y, x, 0, z.kernel, 0, y.kernel, 0, x.kernel, sums);
    else sec_mean_window(w, z, y, x, z0, z1, y0, y1, x0, x1, sums);
    const long at = table + o * x.table;
    if (lanes == 1) sec_mean_put(m, sums, sec_word(offsets[at]), sec_all(factors[at]), q + o * x.out);
    else sec_mean_put(m, sums, *(const veci *)(offsets + at), *(const vec *)(factors + at),
                      q + o * x.out);
  }
}

/* All of a word's plane: z.outs x y.outs x x.outs vectors; `real` as in `sec_pool_all`. */
INLINE void sec_mean_all(const float *in, const int32_t *real, const sec_pool_axis z,
                         const sec_pool_axis y, const sec_pool_axis x, veci sums[4]) {
  sec_total r = {0};
  for (int i = 0; i < z.outs; i++)
    for (int j = 0; j < y.outs; j++)
      for (int k = 0; k < x.outs; k++) {
        veci v = sec_levels_at(in + i * z.in + j * y.in + k * x.in);
        if (real) {
          v &= *(const veci *)real;
          real += LANES;
        }
        sec_total_add(&r, v);
      }
  sec_total_settle(&r);
  UNROLL for (int k = 0; k < 4; k++) sums[k] = r.sum[k];
}

/* Sums of all lanes. */
INLINE void sec_mean_across(const veci sums[4], int32_t all[4]) {
  UNROLL for (int k = 0; k < 4; k++) {
    int32_t x[LANES] __attribute__((aligned(LANES * 4)));
    memcpy(x, &sums[k], sizeof x);
    all[k] = 0;
    UNROLL for (int l = 0; l < LANES; l++) all[k] += x[l];
  }
}
#endif
