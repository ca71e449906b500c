/* Products of two activations: y[p][q] = alpha * sum over k of v[p][k] * s[k][q] + beta * c[p][q].
 *
 * Side v is read as whole vectors, p counting them; the other side, s, as vectors too where each
 * lane has a pair of its own, else as scalars for all lanes. Where the scalars' value is itself cut
 * over lanes along k or q, they are read where they lie: index i is position i % block of lane
 * i / block. All of `sec_product` is known when the C is compiled. Strides are in floats. */
#ifndef SECATEUR_MATMUL_H
#define SECATEUR_MATMUL_H
#include "transpose.h"
#include "vector.h"

typedef struct {
  int depth, depth_block;        /* k, and the block that s is cut into along it; 1 where it is not */
  int width, width_block;        /* the same for q */
  int vectors, tail;             /* whole vectors along p, and what is left beyond them */
  long v_lane, v_p, v_k;         /* v_lane: from lane to lane; 0 where vectors lie as such */
  long s_k, s_k_lane, s_q, s_q_lane;
  long y_p, y_q;
  long c_p, c_q;
  int s_vectors, c_vectors;      /* whether s and c are vectors, or the same for all lanes */
  float alpha, beta;
} sec_product;

/* A vector that lies as such, or n floats from anywhere and zeros. */
INLINE vec sec_take(const float *p, const long step, const int n) {
  if (step == 0) return *(const vec *)p;
  if (step == 1 && n == LANES) return (vec)*(const vec_anywhere *)p;
  float x[LANES] __attribute__((aligned(LANES * 4))) = {0};
  for (int l = 0; l < n; l++) x[l] = p[l * step];
  return *(const vec *)x;
}

/* tp vectors by tq, the last of them with n lanes that count: what k in [from, to) adds to them. */
INLINE void sec_product_tile(const sec_product *g, const float *v, const float *s, const float *c,
                             float *y, int from, int to, const int n, const int tp, const int tq) {
  const int whole = g->v_lane != 0;
  vec sum[32];
  UNROLL for (int i = 0; i < tp; i++)
    UNROLL for (int j = 0; j < tq; j++)
      sum[i * tq + j] = from == 0 ? sec_all(0)
                      : sec_take(y + i * g->y_p + j * g->width_block * g->y_q, whole, n);
  for (int b = 0; b < g->depth_block; b++) {
    const float *x = v + b * g->v_k + from * g->v_k, *w = s + b * g->s_k + from * g->s_k_lane;
    const int count = (to - from - b + g->depth_block - 1) / g->depth_block;
    ROLLED for (int k = 0; k < count; k++) {
      vec a[32];
      UNROLL for (int i = 0; i < tp; i++) a[i] = sec_take(x + i * g->v_p, g->v_lane, n);
      UNROLL for (int j = 0; j < tq; j++) {
        const float *at = w + j * g->s_q_lane;
        const vec m = g->s_vectors ? *(const vec *)at : sec_all(*at);
        UNROLL for (int i = 0; i < tp; i++) sum[i * tq + j] += a[i] * m;
      }
      x += g->v_k * g->depth_block;
      w += g->s_k_lane;
    }
  }
  UNROLL for (int i = 0; i < tp; i++)
    UNROLL for (int j = 0; j < tq; j++) {
      vec r = sum[i * tq + j];
      if (to == g->depth) {
        if (g->alpha != 1) r *= sec_all(g->alpha);
        if (c) {
          const float *at = c + i * g->c_p + j * g->width_block * g->c_q;
          r += sec_all(g->beta) * (g->c_vectors ? sec_take(at, whole, n) : sec_all(*at));
        }
      }
      float *at = y + i * g->y_p + j * g->width_block * g->y_q;
      if (!whole) *(vec *)at = r;
      else if (n == LANES) *(vec_anywhere *)at = (vec_anywhere)r;
      else memcpy(at, &r, sizeof(float) * (size_t)n);
    }
}

/* A tile at the right, where fewer than tq are left. */
INLINE void sec_product_strip(const sec_product *g, const float *v, const float *s, const float *c,
                              float *y, int from, int to, const int left, const int n, const int tp,
                              const int tq) {
  const int usual = (g->width + g->width_block - 1) / g->width_block % tq;
  if (left >= tq) sec_product_tile(g, v, s, c, y, from, to, n, tp, tq);
  else if (usual && left == usual) sec_product_tile(g, v, s, c, y, from, to, n, tp, usual);
  else for (int j = 0; j < left; j++)
    sec_product_tile(g, v, s + j * g->s_q_lane, c ? c + j * g->width_block * g->c_q : 0,
                     y + j * g->width_block * g->y_q, from, to, n, tp, 1);
}

/* A pair is worked off in units: so many rows of tiles (the last may be one of the tail) by one
   strip of tq. Lanes along q come before positions: they are neighbours in memory. */
INLINE int sec_product_rows(const sec_product *g, const int tp) {
  return (g->vectors + tp - 1) / tp + (g->tail > 0);
}
INLINE int sec_product_strips(const sec_product *g, const int tq) {
  const int most = (g->width + g->width_block - 1) / g->width_block;
  return (most + tq - 1) / tq;
}
INLINE long sec_product_units(const sec_product *g, const int rows, const int tp, const int tq) {
  const long chunks = (sec_product_rows(g, tp) + rows - 1) / rows;
  return chunks * g->width_block * sec_product_strips(g, tq);
}

/* One unit; `step` of k at a time, so that what the tiles of a unit share stays in the cache. */
INLINE void sec_product_unit(const sec_product *g, const float *v, const float *s, const float *c,
                             float *y, long unit, const int step, const int rows, const int tp,
                             const int tq) {
  const int strips = sec_product_strips(g, tq), rest = g->vectors % tp;
  const int first = (int)(unit % strips) * tq, b = (int)(unit / strips) % g->width_block;
  const int row = (int)(unit / strips) / g->width_block * rows, all = sec_product_rows(g, tp);
  const int left = (g->width - b + g->width_block - 1) / g->width_block - first;
  const long q = (long)first * g->width_block + b;
  s += b * g->s_q + first * g->s_q_lane;
  y += q * g->y_q;
  if (c) c += q * g->c_q;
  for (int from = 0; from < g->depth || from == 0; from += step) {
    const int to = SEC_LEAST(from + step, g->depth);
    for (int r = row; r < SEC_LEAST(row + rows, all); r++) {
      const int p = SEC_LEAST(r * tp, g->vectors);
#define AT v + p * g->v_p, s, c ? c + p * g->c_p : 0, y + p * g->y_p, from, to, left
      if (p + tp <= g->vectors) sec_product_strip(g, AT, LANES, tp, tq);
      else if (rest && p < g->vectors) sec_product_strip(g, AT, LANES, rest, tq);
      else if (g->tail) sec_product_strip(g, AT, g->tail, 1, tq);
#undef AT
    }
  }
}
#endif
