/* LANES rows of floats into vectors: element i of every row side by side. */
#ifndef SECATEUR_TRANSPOSE_H
#define SECATEUR_TRANSPOSE_H
#include "vector.h"

typedef float vec_anywhere __attribute__((vector_size(LANES * 4), aligned(4)));

/* One stage swaps blocks of d elements between rows i and i + d; after log2(LANES) stages rows
   and columns have changed places. */
#define LOW(d, j) ((j) & (d) ? LANES + (j) - (d) : (j))
#define HIGH(d, j) ((j) & (d) ? LANES + (j) : (j) + (d))
#if LANES == 16
#define PICK(a, b, P, d) __builtin_shufflevector(a, b, P(d, 0), P(d, 1), P(d, 2), P(d, 3), P(d, 4), \
  P(d, 5), P(d, 6), P(d, 7), P(d, 8), P(d, 9), P(d, 10), P(d, 11), P(d, 12), P(d, 13), P(d, 14), P(d, 15))
#elif LANES == 8
#define PICK(a, b, P, d) \
  __builtin_shufflevector(a, b, P(d, 0), P(d, 1), P(d, 2), P(d, 3), P(d, 4), P(d, 5), P(d, 6), P(d, 7))
#else
#define PICK(a, b, P, d) __builtin_shufflevector(a, b, P(d, 0), P(d, 1), P(d, 2), P(d, 3))
#endif
#define STAGE(x, d) \
  UNROLL for (int low = 0; low < LANES; low++) if (!(low & d)) { \
    const vec a = x[low], b = x[low + d]; \
    x[low] = PICK(a, b, LOW, d); \
    x[low + d] = PICK(a, b, HIGH, d); \
  }
#if LANES == 16
#define STAGES(x) STAGE(x, 1) STAGE(x, 2) STAGE(x, 4) STAGE(x, 8)
#elif LANES == 8
#define STAGES(x) STAGE(x, 1) STAGE(x, 2) STAGE(x, 4)
#else
#define STAGES(x) STAGE(x, 1) STAGE(x, 2)
#endif

/* y[i * stride ..] = {from[0][i], from[1][i], ...} for i below n. */
static __attribute__((noinline, unused)) void sec_to_lanes(const float *const from[LANES], float *y,
                                                           long stride, long n) {
  const long whole = n - n % LANES;
  for (long i = 0; i < whole; i += LANES) {
    vec x[LANES];
    UNROLL for (int l = 0; l < LANES; l++) x[l] = (vec)*(const vec_anywhere *)(from[l] + i);
    STAGES(x)
    UNROLL for (int l = 0; l < LANES; l++) *(vec *)(y + (i + l) * stride) = x[l];
  }
  for (long i = whole; i < n; i++)
    for (int l = 0; l < LANES; l++) y[i * stride + l] = from[l][i];
}
/* LANES vectors, `apart` floats apart, turned: y[to[i] ..] has element i of each. */
INLINE void sec_turn(const float *from, long apart, float *y, const int64_t to[LANES]) {
  vec x[LANES];
  UNROLL for (int l = 0; l < LANES; l++) x[l] = *(const vec *)(from + l * apart);
  STAGES(x)
  UNROLL for (int l = 0; l < LANES; l++) *(vec *)(y + to[l]) = x[l];
}

/* The other way: `count` vectors, `apart` floats apart, into rows of floats side by side, one for each
   of the first `lanes` lanes. */
static __attribute__((noinline, unused)) void sec_from_lanes(const float *x, long apart, float *y,
                                                             const int64_t to[LANES], long lanes,
                                                             long count) {
  for (long k = 0; k < count; k += LANES) {
    const long some = count - k < LANES ? count - k : LANES;
    vec v[LANES];
    const vec *const from = (const vec *)x;
    const long step = apart / LANES;
    UNROLL for (int i = 0; i < LANES; i++) v[i] = from[(k + (i < some ? i : 0)) * step];
    STAGES(v)
    if (some == LANES) for (long l = 0; l < lanes; l++) *(vec_anywhere *)(y + to[l] + k) = v[l];
    else for (long l = 0; l < lanes; l++) memcpy(y + to[l] + k, v + l, (size_t)some * sizeof(float));
  }
}
#undef STAGES
#undef STAGE
#undef PICK
#undef HIGH
#undef LOW
#endif
