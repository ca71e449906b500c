/* Folding many floats into one: sums, extremes and their kin, a vector at a time.
 *
 * Columns: one vector, or up to four side by side, after the other; each lane is folded by itself.
 * A row: floats side by side; in the end the lanes are folded too. Four sums are under way at once,
 * because an addition takes as long as four of them. `how` is known when the C is compiled. */
#ifndef SECATEUR_FOLD_H
#define SECATEUR_FOLD_H
#include "transpose.h"

enum { SEC_SUM, SEC_ABSOLUTES, SEC_SQUARES, SEC_EXPONENTIALS, SEC_HIGHEST, SEC_LOWEST, SEC_PRODUCT };

/* The first `count` floats from anywhere, zeros behind them. */
INLINE vec sec_load(const float *x, const int count) {
  if (count == LANES) return (vec)*(const vec_anywhere *)x;
  vec v = {0};
  memcpy(&v, x, (size_t)count * sizeof *x);
  return v;
}

INLINE vec sec_exp_all(vec x) {
  float y[LANES] __attribute__((aligned(LANES * 4)));
  memcpy(y, &x, sizeof y);
  for (int l = 0; l < LANES; l++) y[l] = sec_exp(y[l]);
  memcpy(&x, y, sizeof y);
  return x;
}

/* What a fold begins with. */
INLINE float sec_nothing(const int how) {
  return how == SEC_HIGHEST ? -INFINITY : how == SEC_LOWEST ? INFINITY : how == SEC_PRODUCT;
}

/* What adds nothing to a fold. */
INLINE float sec_neutral(const int how, float shift) {
  return how == SEC_SQUARES ? shift : how == SEC_EXPONENTIALS ? -INFINITY : sec_nothing(how);
}

/* Sums of x, |x|, (x - shift)^2 or exp(x - shift); the largest, the smallest, the product. */
INLINE vec sec_fold(const int how, vec a, vec x, vec shift) {
  switch (how) {
    case SEC_ABSOLUTES: return a + (vec)((veci)x & 0x7fffffff);
    case SEC_SQUARES: x -= shift; return a + x * x;
    case SEC_EXPONENTIALS: return a + sec_exp_all(x - shift);
    case SEC_HIGHEST: return sec_pick((x > a) | (x != x), x, a);
    case SEC_LOWEST: return sec_pick((x < a) | (x != x), x, a);
    case SEC_PRODUCT: return a * x;
    default: return a + x;
  }
}

/* Two parts of one fold. */
INLINE vec sec_join(const int how, vec a, vec b) {
  switch (how) {
    case SEC_HIGHEST: case SEC_LOWEST: case SEC_PRODUCT: return sec_fold(how, a, b, b);
    default: return a + b;
  }
}

INLINE float sec_all_lanes(const int how, vec a) {
  float y[LANES] __attribute__((aligned(LANES * 4)));
  memcpy(y, &a, sizeof y);
  for (int half = LANES / 2; half; half /= 2)
    for (int l = 0; l < half; l++) {
      const float p = y[l], q = y[l + half];
      y[l] = how == SEC_HIGHEST ? (q > p || q != q ? q : p)
           : how == SEC_LOWEST ? (q < p || q != q ? q : p)
           : how == SEC_PRODUCT ? p * q : p + q;
    }
  return y[0];
}

INLINE void sec_fold_column(const int how, vec a[4], vec shift, const float *x, const long n,
                            const long step, const int count) {
  long i = 0;
  for (; i + 4 <= n; i += 4)
    UNROLL for (int k = 0; k < 4; k++)
      a[k] = sec_fold(how, a[k], sec_load(x + (i + k) * step, count), shift);
  for (; i < n; i++) a[0] = sec_fold(how, a[0], sec_load(x + i * step, count), shift);
}

/* Columns of up to four vectors: what is read of one step lies together. Sums stay apart. */
INLINE void sec_fold_columns(const int how, vec a[4], const float *shift, const float *x,
                             const long n, const long step, const int count) {
  const int whole = count / LANES, rest = count % LANES;
  vec s[4];
  for (int k = 0; k < whole + (rest > 0); k++)
    s[k] = shift ? *(const vec *)(shift + k * LANES) : sec_all(0);
  for (long i = 0; i < n; i++) {
    UNROLL for (int k = 0; k < whole; k++)
      a[k] = sec_fold(how, a[k], sec_load(x + i * step + k * LANES, LANES), s[k]);
    if (rest)
      a[whole] = sec_fold(how, a[whole], sec_load(x + i * step + whole * LANES, rest), s[whole]);
  }
}

INLINE void sec_fold_row(const int how, vec a[4], float shift, const float *x, const long n) {
  const long whole = n / LANES;
  sec_fold_column(how, a, sec_all(shift), x, whole, LANES, LANES);
  const int rest = (int)(n % LANES);
  if (rest) {
    vec v = sec_all(sec_neutral(how, shift));
    memcpy(&v, x + whole * LANES, (size_t)rest * sizeof *x);
    a[1] = sec_fold(how, a[1], v, sec_all(shift));
  }
}

#define SEC_FOLDS(how) {sec_all(sec_nothing(how)), sec_all(sec_nothing(how)), \
                        sec_all(sec_nothing(how)), sec_all(sec_nothing(how))}

INLINE vec sec_folded(const int how, const vec a[4]) {
  return sec_join(how, sec_join(how, a[0], a[1]), sec_join(how, a[2], a[3]));
}
#endif
