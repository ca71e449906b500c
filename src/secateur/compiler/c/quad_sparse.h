/* Layers on quads that skip zeros: words of weights whose four are all 0, as the pattern dot4 leaves.
 *
 * Non-zero words lie as non-zeros do in contract.h. While a chunk of outputs goes through the blocks
 * of input channels, its sums wait beside each other, so that four of them make a word at the end. */
#ifndef SECATEUR_QUAD_SPARSE_H
#define SECATEUR_QUAD_SPARSE_H
#include "quads.h"

enum { SEC_WAITING = 32, SEC_ROOM = 16 };  /* most outputs of a chunk; most sums of a tile */

/* One non-zero word against th x tw vectors of words. */
INLINE void sec_quad_add(const sec_sparse *w, const sec_shape *g, const sec_walk *at, int i,
                         veci *sums, const int th, const int tw, const int narrow) {
  const float *x = (const float *)(at->base + (w->unit ? (size_t)at->place[i] * (size_t)w->unit
                                                       : (size_t)at->offset[at->code[i]]));
  OPAQUE(x);
  const sec_bytes v = sec_weights(sec_word(((const int32_t *)at->value)[i]));
  UNROLL for (int r = 0; r < th; r++)
    UNROLL for (int c = 0; c < tw; c++) {
      const sec_bytes p = sec_data((veci)*(const vec *)(x + r * g->in[1] + c * g->in[2]));
      sums[r * tw + c] = sec_dot4(sums[r * tw + c], p, v, narrow);
    }
}

/* The rows of a block and a chunk. */
INLINE void sec_quad_rows(const sec_sparse *w, const sec_shape *g, const float *in, veci *waiting,
                          int block, int chunk, const int th, const int tw, const int narrow) {
  const int n = th * tw, sets = n <= 2 ? 4 : n <= 8 ? 2 : 1;
  const uint32_t *s = w->start + 2 * ((long)block * w->chunks + chunk);
  const uint8_t *row = w->rows + 2 * (long)s[0], *last_row = w->rows + 2 * (long)s[2];
  sec_walk at = {(const char *)(in + block * w->in_block), w->offset + (long)block * w->table,
                 w->codes + s[1], w->places + s[1], w->values + s[1]};
  for (; row < last_row; row += 2) {
    const int channel = row[1] & 63, count = row[0];
    veci *to = waiting + channel * n, sums[32];
    if (row[1] & SEC_FIRST) {
      const veci b = sec_word(((const int32_t *)w->bias)[chunk * w->chunk + channel]);
      UNROLL for (int i = 0; i < n; i++) sums[i] = b;
    } else {
      UNROLL for (int i = 0; i < n; i++) sums[i] = to[i];
    }
    UNROLL for (int i = n; i < sets * n; i++) sums[i] = sec_word(0);
    const int turn = sets > 2 ? sets : 2;
    int k = 0;
    ROLLED for (; k + turn <= count; k += turn)
      UNROLL for (int m = 0; m < turn; m++)
        sec_quad_add(w, g, &at, k + m, sums + m % sets * n, th, tw, narrow);
    ROLLED for (; k < count; k++) sec_quad_add(w, g, &at, k, sums, th, tw, narrow);
    at.code += count;
    at.place += count;
    at.value += count;
    UNROLL for (int m = 1; m < sets; m++)
      UNROLL for (int i = 0; i < n; i++) sums[i] += sums[m * n + i];
    UNROLL for (int i = 0; i < n; i++) to[i] = sums[i];
  }
}

INLINE void sec_quad_sparse_tile(const sec_sparse *w, const struct sec_levels *q, const sec_shape *g,
                                 const float *in, float *out, const float *res, int c0, int c1,
                                 const int th, const int tw) {
  veci waiting[SEC_WAITING * SEC_ROOM];
  const int n = th * tw, step = q->quads ? 4 : 1;
  for (int c = c0; c < c1; c++) {
    const int from = c * w->chunk, to = SEC_LEAST(from + w->chunk, w->outputs);
    for (int b = 0; b < w->blocks; b++) sec_quad_rows(w, g, in, waiting, b, c, th, tw, q->narrow);
    for (int o = from; o < to; o += step) {
      float *y = out + o / step * g->out_channel;
      const float *r = res ? res + o / step * g->res_channel : 0;
      UNROLL for (int i = 0; i < th; i++)
        UNROLL for (int j = 0; j < tw; j++)
          sec_quad_put(q, g, waiting + (o - from) * n + i * tw + j, n,
                       y + i * g->out[1] + j * g->out[2],
                       r ? r + i * g->res[1] + j * g->res[2] : 0, o, step);
    }
  }
}

/* The same where values do not lie in lanes, a position after the other. */
INLINE void sec_quad_sparse_plain(const sec_sparse *w, const struct sec_levels *q, const sec_shape *g,
                                  const float *in, float *out, const float *res, int outputs, int t,
                                  int T) {
  const int c0 = (int)sec_share(w->chunks, t, T), c1 = (int)sec_share(w->chunks, t + 1, T);
  for (int z = 0; z < g->positions[0]; z++)
    for (int y = 0; y < g->positions[1]; y++)
      for (int x = 0; x < g->positions[2]; x++) {
        const float *i0 = in + z * g->in[0] + y * g->in[1] + x * g->in[2];
        float *o0 = out + z * g->out[0] + y * g->out[1] + x * g->out[2];
        const float *r0 = res ? res + z * g->res[0] + y * g->res[1] + x * g->res[2] : 0;
        for (int c = c0; c < c1; c++) {
          int32_t waiting[SEC_WAITING];
          const int from = c * w->chunk, to = SEC_LEAST(from + w->chunk, outputs);
          for (int b = 0; b < w->blocks; b++) {
            const char *base = (const char *)(i0 + b * w->in_block);
            const int32_t *offset = w->offset + (long)b * w->table;
            const uint32_t *s = w->start + 2 * ((long)b * w->chunks + c);
            const uint8_t *row = w->rows + 2 * (long)s[0], *code = w->codes + s[1];
            const int8_t *value = (const int8_t *)(w->values + s[1]);
            for (; row < w->rows + 2 * (long)s[2]; row += 2) {
              const int channel = row[1] & 63;
              int32_t sum = row[1] & SEC_FIRST ? ((const int32_t *)w->bias)[from + channel]
                                               : waiting[channel];
              for (int k = 0; k < row[0]; k++, code++, value += 4) {
                const sec_stored_level *p = (const sec_stored_level *)(base + offset[*code]);
                UNROLL for (int m = 0; m < 4; m++) sum += p[m] * value[m];
              }
              waiting[channel] = sum;
            }
          }
          for (int o = from; o < to; o++) sec_quad_put1(q, g, waiting[o - from], o0, r0, o);
        }
      }
}
#endif
