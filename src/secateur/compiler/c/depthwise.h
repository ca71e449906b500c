/* Dense depthwise convolutions: every channel has a window of its own.
 *
 * A tile of positions stays in registers. Of each row of the window its weights do, too, and where
 * neighbours overlap an input is loaded once for all that see it. */
#ifndef SECATEUR_DEPTHWISE_H
#define SECATEUR_DEPTHWISE_H
#include "contract.h"

typedef struct {
  int channels, high, wide;    /* of the window */
  long in_channel;             /* floats from one channel of the input to the next */
  long row, column;            /* floats from one place of the window to the next */
  int stride;                  /* along a row, in columns, where neighbours share loads; or 0 */
  const float *weights, *bias; /* [channels][high][wide], [channels] */
} sec_depthwise;

INLINE void sec_depthwise_tile(const sec_depthwise *w, const sec_shape *g, const float *in,
                               float *out, const float *res, const int channel, const int th,
                               const int tw) {
  const float *v = w->weights + (long)channel * w->high * w->wide;
  vec sums[16];
  const vec b = sec_all(w->bias[channel]);
  UNROLL for (int i = 0; i < th * tw; i++) sums[i] = b;
  ROLLED for (int ky = 0; ky < w->high; ky++, in += w->row, v += w->wide) {
    vec row[16];
    UNROLL for (int kx = 0; kx < w->wide; kx++) row[kx] = sec_all(v[kx]);
    UNROLL for (int i = 0; i < th; i++) {
      const float *x = in + i * g->in[1];
      if (w->stride) {
        UNROLL for (int j = 0; j < (tw - 1) * w->stride + w->wide; j++) {
          const vec p = *(const vec *)(x + j * w->column);
          UNROLL for (int kx = 0; kx < w->wide; kx++)
            if (j >= kx && (j - kx) % w->stride == 0 && (j - kx) / w->stride < tw)
              sums[i * tw + (j - kx) / w->stride] += row[kx] * p;
        }
      } else {
        UNROLL for (int kx = 0; kx < w->wide; kx++)
          UNROLL for (int j = 0; j < tw; j++)
            sums[i * tw + j] += row[kx] * *(const vec *)(x + kx * w->column + j * g->in[2]);
      }
    }
  }
  UNROLL for (int i = 0; i < th; i++)
    UNROLL for (int j = 0; j < tw; j++) {
      vec sum = sums[i * tw + j];
      if (res) sum += *(const vec *)(res + i * g->res[1] + j * g->res[2]);
      *(vec *)(out + i * g->out[1] + j * g->out[2]) = sec_act(sum, g->act, g->alpha, g->beta);
    }
}

/* Tiles of th x tw vectors over a plane, row by row: TILE(y, x, high, wide) at each. What is left at
   the bottom and at the right is done by tiles of their own size. `bottom` and `right` are 0 or 1,
   literally, and say whether there is such a rest: the compiler copies a function to wherever it is
   called before it sees that it never is, and to copy and drop those took a third of its time. So a
   layer has four forms, and its name ends in its rests. */
#define SEC_IF_0(...)
#define SEC_IF_1(...) __VA_ARGS__
#define SEC_ROW(right, g, y, high, tw, TILE) \
  for (int x = 0; x + tw <= g->positions[2]; x += tw) TILE(y, x, high, tw); \
  SEC_IF_##right(TILE(y, g->positions[2] / tw * tw, high, g->positions[2] % tw);)
#define SEC_PLANE(bottom, right, g, th, tw, TILE) \
  for (int y = 0; y + th <= g->positions[1]; y += th) { SEC_ROW(right, g, y, th, tw, TILE) } \
  SEC_IF_##bottom({ \
    const int y = g->positions[1] / th * th; \
    SEC_ROW(right, g, y, g->positions[1] % th, tw, TILE) \
  })
#define SEC_TILE(y, x, high, wide) sec_depthwise_tile(w, g, SEC_AT(0, y, x), c, high, wide)
#define SEC_LAYER(bottom, right) \
  INLINE void sec_depthwise_layer_##bottom##right( \
      const sec_depthwise *w, const sec_shape *g, const float *from, float *to, const float *sum, \
      int t, int T, const int th, const int tw) { \
    const int end = (int)sec_share(w->channels, t + 1, T); \
    for (int c = (int)sec_share(w->channels, t, T); c < end; c++) { \
      const float *in = from + c * w->in_channel, *res = sum ? sum + c * g->res_channel : 0; \
      float *out = to + c * g->out_channel; \
      SEC_PLANE(bottom, right, g, th, tw, SEC_TILE) \
    } \
  }
SEC_LAYER(0, 0) SEC_LAYER(0, 1) SEC_LAYER(1, 0) SEC_LAYER(1, 1)
#undef SEC_LAYER
#undef SEC_TILE
#endif
