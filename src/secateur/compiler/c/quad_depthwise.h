/* Depthwise layers on quads: each channel by a window of its own.
 *
 * The words of four columns of a row are turned, so that a word has four columns of one channel, and
 * its product with four weights is what a row of the window gives. Turned once, they serve every
 * output whose window has that row. */
#ifndef SECATEUR_QUAD_DEPTHWISE_H
#define SECATEUR_QUAD_DEPTHWISE_H
#include "quads.h"

typedef struct {
  int quads, high, wide;       /* words of channels; the window */
  long in_channel, row, column;/* strides: from word to word, and between the taps of a window */
  int row_every, high_every;   /* in rows of the input: between outputs, and between taps */
  const int32_t *weights;      /* [quads][high][columns / 4][4 channels] words of four columns */
  const int32_t *bias;
  struct sec_levels levels;
} sec_quad_windows;

/* Four words of columns to four words of channels. */
INLINE void sec_quad_turned(const veci x[4], veci y[4]) {
#if defined(__ARM_NEON) && LANES == 4
  const uint8x16x2_t p = vtrnq_u8((uint8x16_t)x[0], (uint8x16_t)x[1]);
  const uint8x16x2_t q = vtrnq_u8((uint8x16_t)x[2], (uint8x16_t)x[3]);
  for (int k = 0; k < 2; k++) {
    const uint16x8x2_t r = vtrnq_u16((uint16x8_t)p.val[k], (uint16x8_t)q.val[k]);
    y[k] = (veci)r.val[0];
    y[k + 2] = (veci)r.val[1];
  }
#else
  const veci low = (veci){0} + 0x00ff00ff, half = (veci){0} + 0xffff;
  const veci a = (x[0] & low) | (x[1] & low) << 8, b = (x[0] >> 8 & low) | (x[1] & ~low);
  const veci c = (x[2] & low) | (x[3] & low) << 8, d = (x[2] >> 8 & low) | (x[3] & ~low);
  y[0] = (a & half) | c << 16;
  y[1] = (b & half) | d << 16;
  y[2] = (a >> 16 & half) | (c & ~half);
  y[3] = (b >> 16 & half) | (d & ~half);
#endif
}

/* th outputs, one below the other, of one word of channels. */
INLINE void sec_quad_windows_at(const sec_quad_windows *w, const sec_shape *g, const float *in,
                                float *out, const float *res, int c, const int th) {
  const int fours = (w->wide + 3) / 4;
  const int rows = (th - 1) * w->row_every + (w->high - 1) * w->high_every + 1;
  veci sums[8][4];
  UNROLL for (int i = 0; i < th; i++)
    UNROLL for (int k = 0; k < 4; k++) sums[i][k] = sec_word(w->bias[4 * c + k]);
  const int32_t *weights = w->weights + (long)c * w->high * fours * 4;
  UNROLL for (int r = 0; r < rows; r++) {
    int used = 0;
    UNROLL for (int i = 0; i < th; i++) {
      const int t = r - i * w->row_every;
      used |= t >= 0 && t % w->high_every == 0 && t / w->high_every < w->high;
    }
    if (!used) continue;
    UNROLL for (int f = 0; f < fours; f++) {
      veci x[4], y[4];
      UNROLL for (int k = 0; k < 4; k++) {
        const int column = 4 * f + k < w->wide ? 4 * f + k : w->wide - 1;
        x[k] = (veci)*(const vec *)(in + r * w->row + column * w->column);
      }
      sec_quad_turned(x, y);
      sec_bytes data[4];
      UNROLL for (int k = 0; k < 4; k++) data[k] = sec_data(y[k]);
      UNROLL for (int i = 0; i < th; i++) {
        const int t = r - i * w->row_every, tap = t / w->high_every;
        if (t < 0 || t % w->high_every || tap >= w->high) continue;
        UNROLL for (int k = 0; k < 4; k++) {
          const sec_bytes v = sec_weights(sec_word(weights[(tap * fours + f) * 4 + k]));
          sums[i][k] = sec_dot4(sums[i][k], data[k], v, w->levels.narrow);
        }
      }
    }
  }
  UNROLL for (int i = 0; i < th; i++)
    sec_quad_put(&w->levels, g, sums[i], 1, out + i * g->out[1], res ? res + i * g->res[1] : 0,
                 4 * c, 4);
}

/* The whole layer: a word of channels after the other, which threads share, in columns of th. */
INLINE void sec_quad_windows_layer(const sec_quad_windows *w, const sec_shape *g, const float *in,
                                   float *out, const float *res, int t, int T, const int th) {
  const int high = g->positions[1], rest = high % th;
  const int step = w->levels.quads ? 1 : 4;
  for (int c = (int)sec_share(w->quads, t, T); c < (int)sec_share(w->quads, t + 1, T); c++) {
    const float *x = in + c * w->in_channel;
    float *y = out + (long)c * step * g->out_channel;
    const float *r = res ? res + (long)c * step * g->res_channel : 0;
#define AT(i, j) w, g, x + (i) * g->in[1] + (j) * g->in[2], y + (i) * g->out[1] + (j) * g->out[2], \
                 r ? r + (i) * g->res[1] + (j) * g->res[2] : 0, c
    int i = 0;
    for (; i + th <= high; i += th)
      for (int j = 0; j < g->positions[2]; j++) sec_quad_windows_at(AT(i, j), th);
    if (rest) for (int j = 0; j < g->positions[2]; j++) sec_quad_windows_at(AT(i, j), rest);
#undef AT
  }
}

/* The same where values do not lie in lanes: a channel after the other. */
INLINE void sec_quad_windows_plain(const sec_quad_windows *w, const sec_shape *g, const float *in,
                                   float *out, const float *res, int t, int T, int channels) {
  const int fours = (w->wide + 3) / 4;
  const int from = 4 * (int)sec_share(w->quads, t, T), to = 4 * (int)sec_share(w->quads, t + 1, T);
  for (int o = from; o < SEC_LEAST(to, channels); o++)
    for (int i = 0; i < g->positions[1]; i++)
      for (int j = 0; j < g->positions[2]; j++) {
        const float *x = in + o / 4 * w->in_channel + i * g->in[1] + j * g->in[2];
        int32_t sum = w->bias[o];
        for (int a = 0; a < w->high; a++)
          for (int b = 0; b < w->wide; b++) {
            const int32_t *words = w->weights + (((long)o / 4 * w->high + a) * fours + b / 4) * 4;
            const int8_t weight = ((const int8_t *)(words + o % 4))[b % 4];
            const float *p = x + (long)a * w->high_every * w->row + b * w->column;
            sum += weight * ((const sec_stored_level *)p)[o % 4];
          }
        sec_quad_put1(&w->levels, g, sum, out + i * g->out[1] + j * g->out[2],
                      res ? res + i * g->res[1] + j * g->res[2] : 0, o);
      }
}
#endif
