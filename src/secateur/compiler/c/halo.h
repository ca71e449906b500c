/* What a window reads beyond a lane's own block: its neighbours' values, or the padding.
 *
 * An axis of `extent` elements is cut into `lanes` blocks of `block`, block q in lane q (one lane,
 * one block: no cut). Row r of all lanes at once is one vector; rows -before..-1 and
 * block..block+after-1 belong to the neighbours, and elements beyond the extent are padding. */
#ifndef SECATEUR_HALO_H
#define SECATEUR_HALO_H
#include "vector.h"

typedef struct {
  int extent, lanes, block, before, after;
  long stride;      /* floats from one row to the next */
  int lane_stride;  /* lanes from one block to the next */
} sec_axis;

#define TURN(j, s) (((j) + (s)) & (LANES - 1))
#if LANES == 16
#define TURNED(x, s) __builtin_shufflevector(x, x, TURN(0, s), TURN(1, s), TURN(2, s), TURN(3, s), \
  TURN(4, s), TURN(5, s), TURN(6, s), TURN(7, s), TURN(8, s), TURN(9, s), TURN(10, s), TURN(11, s), \
  TURN(12, s), TURN(13, s), TURN(14, s), TURN(15, s))
#elif LANES == 8
#define TURNED(x, s) __builtin_shufflevector(x, x, TURN(0, s), TURN(1, s), TURN(2, s), TURN(3, s), \
  TURN(4, s), TURN(5, s), TURN(6, s), TURN(7, s))
#else
#define TURNED(x, s) __builtin_shufflevector(x, x, TURN(0, s), TURN(1, s), TURN(2, s), TURN(3, s))
#endif

/* Lane l of the result is lane l + s of x, around the end. */
INLINE vec sec_turned(vec x, const int s) {
  switch (s & (LANES - 1)) {
#define CASE(s) case s: return TURNED(x, s);
    CASE(1) CASE(2) CASE(3)
#if LANES > 4
    CASE(4) CASE(5) CASE(6) CASE(7)
#endif
#if LANES > 8
    CASE(8) CASE(9) CASE(10) CASE(11) CASE(12) CASE(13) CASE(14) CASE(15)
#endif
#undef CASE
    default: return x;
  }
}
#undef TURNED
#undef TURN

/* Bits as a float, and in every lane: where words of other types lie, they must stay as they are. */
INLINE float sec_bits(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}
INLINE vec sec_same(float x) {
  int32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return (vec)(bits - (veci){0});
}

/* Fill the halo rows of axis a, and its elements beyond the extent, over the rows [from, to) of
   the other axis. Lane l is block (l / lane_stride) % lanes of an axis. */
INLINE void sec_fill_axis(float *base, const sec_axis a, const sec_axis other, const int from,
                          const int to, const float padding) {
  UNROLL for (int r = -a.before; r < a.block + a.after; r++) {
    const int inside = r >= 0 && r < a.block;
    if (inside && a.lanes * a.block == a.extent) continue;
    float *y = base + r * a.stride;
    if (a.lanes == 1 && !inside) {  /* a block of its own: all around is padding */
      for (int j = from; j < to; j++) *(vec *)(y + j * other.stride) = sec_same(padding);
      continue;
    }
    /* the block that row r lies in, counted from the lane's own, and its row there */
    const int hop = r < 0 ? -((-r + a.block - 1) / a.block) : r / a.block;
    const int row = r - hop * a.block;
    const float *x = base + row * a.stride;
    veci real;
    UNROLL for (int l = 0; l < LANES; l++) {
      const int q = l / a.lane_stride % a.lanes + hop;
      real[l] = q >= 0 && q < a.lanes && q * a.block + row < a.extent ? -1 : 0;
    }
    const veci rest = (veci)sec_same(padding) & ~real;
    for (int j = from; j < to; j++) {
      const vec moved = sec_turned(*(const vec *)(x + j * other.stride), hop * a.lane_stride);
      *(vec *)(y + j * other.stride) = (vec)(((veci)moved & real) | rest);
    }
  }
}

/* The halos of planes [from, to) of channels; a third axis z is never cut. Columns first, then
   whole rows: so corners get the diagonal neighbour. */
INLINE void sec_fill(float *base, long from, long to, long channel_stride, const sec_axis z,
                     const sec_axis y, const sec_axis x, const float padding) {
  for (long c = from; c < to; c++) {
    float *channel = base + c * channel_stride;
    for (int k = 0; k < z.block; k++) {
      sec_fill_axis(channel + k * z.stride, x, y, 0, y.block, padding);
      sec_fill_axis(channel + k * z.stride, y, x, -x.before, x.block + x.after, padding);
    }
    for (int k = -z.before; k < z.block + z.after; k++) {
      if (k >= 0 && k < z.block) continue;
      for (int i = -y.before; i < y.block + y.after; i++)
        for (int j = -x.before; j < x.block + x.after; j++)
          *(vec *)(channel + k * z.stride + i * y.stride + j * x.stride) = sec_same(padding);
    }
  }
}

/* The same of values that are not cut: all around is padding. */
static __attribute__((noinline, unused)) void sec_fill_plain(
    float *base, long from, long to, long channel_stride, const sec_axis z, const sec_axis y,
    const sec_axis x, float padding) {
  for (long c = from; c < to; c++)
    for (int k = -z.before; k < z.block + z.after; k++)
      for (int i = -y.before; i < y.block + y.after; i++)
        for (int j = -x.before; j < x.block + x.after; j++)
          if (k < 0 || k >= z.block || i < 0 || i >= y.block || j < 0 || j >= x.block)
            base[c * channel_stride + k * z.stride + i * y.stride + j * x.stride] = padding;
}
#endif
