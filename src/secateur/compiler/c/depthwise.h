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
                               float *out, const float *res, const long channel, const int th,
                               const int tw) {
  const float *v = w->weights + channel * w->high * w->wide;
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
#endif
