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

/* Fill the halo rows of axis a, and its elements beyond the extent, over the rows [from, to) of
   the other axis. Lane l of an axis' own grid is (l / lane_stride) % lanes. */
INLINE void sec_fill_axis(float *base, const sec_axis a, const sec_axis other, int from, int to,
                          const float padding, const int lanes) {
  for (int r = -a.before; r < a.block + a.after; r++) {
    const int inside = r >= 0 && r < a.block;
    if (inside && a.lanes * a.block == a.extent) continue;
    /* the block that row r lies in, counted from the lane's own, and its row there */
    const int hop = r < 0 ? -((-r + a.block - 1) / a.block) : r / a.block;
    const int row = r - hop * a.block;
    float *y = base + r * a.stride;
    const float *x = base + row * a.stride + (long)hop * a.lane_stride;
    if (a.lanes == 1 && hop != 0) {  /* a block of its own: all of it is padding */
      for (int j = from; j < to; j++)
        for (int l = 0; l < lanes; l++) y[j * other.stride + l] = padding;
      continue;
    }
    int32_t real[LANES];
    for (int l = 0; l < lanes; l++) {
      const int q = l / a.lane_stride % a.lanes + hop;
      real[l] = q >= 0 && q < a.lanes && q * a.block + row < a.extent
             && l + hop * a.lane_stride >= 0 && l + hop * a.lane_stride < lanes;
    }
    for (int j = from; j < to; j++) {
      const float *p = x + j * other.stride;
      float *q = y + j * other.stride;
      float moved[LANES];
      for (int l = 0; l < lanes; l++) moved[l] = real[l] ? p[l] : padding;
      memcpy(q, moved, sizeof(float) * (size_t)lanes);
    }
  }
}

/* The halo of one plane. Columns first, then whole rows: so corners get the diagonal neighbour. */
INLINE void sec_fill_plane(float *base, const sec_axis y, const sec_axis x, const float padding, const int lanes) {
  sec_fill_axis(base, x, y, 0, y.block, padding, lanes);
  sec_fill_axis(base, y, x, -x.before, x.block + x.after, padding, lanes);
}

/* The halos of planes [from, to) of channels times depth; a third axis z is never cut. */
INLINE void sec_fill_lanes(float *base, long from, long to, long channel_stride, const sec_axis z,
                     const sec_axis y, const sec_axis x, const float padding, const int lanes) {
  for (long c = from; c < to; c++) {
    float *channel = base + c * channel_stride;
    for (int k = 0; k < z.block; k++) sec_fill_plane(channel + k * z.stride, y, x, padding, lanes);
    const int high = y.block + y.after, wide = x.block + x.after;
    for (int k = -z.before; k < z.block + z.after; k++) {
      if (k >= 0 && k < z.block) continue;
      for (int i = -y.before; i < high; i++)
        for (int j = -x.before; j < wide; j++)
          for (int l = 0; l < lanes; l++)
            channel[k * z.stride + i * y.stride + j * x.stride + l] = padding;
    }
  }
}

static __attribute__((noinline, unused)) void sec_fill(
    float *base, long from, long to, long channel_stride, const sec_axis z, const sec_axis y,
    const sec_axis x, float padding) {
  sec_fill_lanes(base, from, to, channel_stride, z, y, x, padding, LANES);
}
static __attribute__((noinline, unused)) void sec_fill_plain(
    float *base, long from, long to, long channel_stride, const sec_axis z, const sec_axis y,
    const sec_axis x, float padding) {
  sec_fill_lanes(base, from, to, channel_stride, z, y, x, padding, 1);
}
#endif
