/* Dense layers on quads by the matrix instructions of x86 (AMX), where processor and system have them.
 *
 * A tile register holds sixteen rows of 64 bytes. Sixteen words of channels at a vector of positions
 * are such rows as they lie in memory, so are sums of sixteen outputs; only weights are laid out anew:
 * [output / 16][block of words][k][16 outputs][words of the block]. Whether the instructions may be
 * used is asked at run time; without them `sec_vector_sums` does the same. */
#ifndef SECATEUR_MATRIX_H
#define SECATEUR_MATRIX_H
#include "quads.h"

typedef struct {
  int depth;    /* words of a block: a divisor of the layer's */
  int lines;    /* of sixteen outputs that are done at once: 1 or 2 */
  int heavy;    /* whether weights are what there is more of: see sec_dense_layer */
} sec_matrix;

#if defined(__AMX_INT8__) && defined(__linux__) && LANES == 16
#include <sys/syscall.h>
#include <unistd.h>

/* Whether tiles may be used: a process asks for them once (arch_prctl, ARCH_REQ_XCOMP_PERM). */
static __attribute__((unused)) int sec_matrix_there(void) {
  static int known;
  int there = __atomic_load_n(&known, __ATOMIC_RELAXED);
  if (!there) {
    unsigned a = 7, b, c = 0, d;
    __asm__("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
    const unsigned both = 1u << 24 | 1u << 25;  /* amx_tile, amx_int8 */
    there = (d & both) == both && syscall(SYS_arch_prctl, 0x1023, 18) == 0 ? 1 : -1;
    __atomic_store_n(&known, there, __ATOMIC_RELAXED);
  }
  return there > 0;
}

SHARED void sec_matrix_prepare(const sec_dense *w, const int depth, char *to) {
  if (!sec_matrix_there()) return;
  const int32_t *from = (const int32_t *)w->weights;
  for (long line = 0; line < w->outputs / 16; line++)
    for (int c = 0; c < w->channels; c += depth)
      for (int k = 0; k < w->taps; k++)
        for (int o = 0; o < 16; o++)
          for (int i = 0; i < depth; i++, to += 4)
            memcpy(to, from + ((line * w->channels + c + i) * w->taps + k) * 16 + o, 4);
}

/* Tiles 4..7: sums, outputs by positions; 0, 1: weights, outputs by words; 2, 3: data. */
INLINE void sec_matrix_begin(const int depth) {
  struct {
    uint8_t palette, row, none[14];
    uint16_t bytes[16];
    uint8_t rows[16];
  } form = {.palette = 1};
  for (int i = 0; i < 8; i++) {
    form.bytes[i] = i < 2 ? (uint16_t)(4 * depth) : 64;
    form.rows[i] = i == 2 || i == 3 ? (uint8_t)depth : 16;
  }
  _tile_loadconfig(&form);
}

INLINE void sec_matrix_end(void) { _tile_release(); }

/* Sums of `lines` lines of outputs at one or two vectors of positions. */
INLINE void sec_matrix_sums(const sec_dense *w, const char *weights, const float *x0, const float *x1,
                            int32_t *sums, const int depth, const int lines, const int places) {
  const long step = 4 * w->in_channel, size = 64L * w->channels * w->taps;
  _tile_zero(4);
  if (places > 1) _tile_zero(5);
  if (lines > 1) _tile_zero(6);
  if (lines > 1 && places > 1) _tile_zero(7);
  const char *a = (const char *)x0, *b = (const char *)x1;
  for (int c = 0; c < w->channels; c += depth, a += depth * step, b += depth * step)
    ROLLED for (int k = 0; k < w->taps; k++, weights += 64 * depth) {
      _tile_loadd(2, a + w->offset[k], step);
      _tile_loadd(0, weights, 4 * depth);
      if (places > 1) _tile_loadd(3, b + w->offset[k], step);
      if (lines > 1) _tile_loadd(1, weights + size, 4 * depth);
      _tile_dpbsud(4, 0, 2);
      if (places > 1) _tile_dpbsud(5, 0, 3);
      if (lines > 1) _tile_dpbsud(6, 1, 2);
      if (lines > 1 && places > 1) _tile_dpbsud(7, 1, 3);
    }
  _tile_stored(4, sums, 64);
  if (lines > 1) _tile_stored(6, sums + 256, 64);
  if (places > 1) _tile_stored(5, sums + 512, 64);
  if (lines > 1 && places > 1) _tile_stored(7, sums + 768, 64);
  __asm__ volatile("" ::: "memory");
}

#else
INLINE int sec_matrix_there(void) { return 0; }
INLINE void sec_matrix_begin(const int depth) { (void)depth; }
INLINE void sec_matrix_end(void) {}
INLINE void sec_matrix_prepare(const sec_dense *w, const int depth, char *to) {
  (void)w, (void)depth, (void)to;
}
INLINE void sec_matrix_sums(const sec_dense *w, const char *weights, const float *x0, const float *x1,
                            int32_t *sums, const int depth, const int lines, const int places) {
  (void)w, (void)weights, (void)x0, (void)x1, (void)sums, (void)depth, (void)lines, (void)places;
}
#endif

/* The same with vectors, eight outputs at a time. */
static __attribute__((noinline, unused)) void sec_vector_sums(const sec_dense *w, long output,
                                                              const float *x0, const float *x1,
                                                              int32_t *sums, const int lines) {
  for (int o = 0; o < 16 * lines; o += 8) {
    const int32_t *v = (const int32_t *)w->weights + (output + o) / 16 * 16 * w->channels * w->taps
                       + o % 16;
    veci acc[2][8];
    UNROLL for (int i = 0; i < 8; i++) acc[0][i] = acc[1][i] = sec_word(0);
    for (int c = 0; c < w->channels; c++)
      ROLLED for (int k = 0; k < w->taps; k++, v += 16) {
        const long at = 4 * c * w->in_channel + w->offset[k];
        const sec_bytes p0 = sec_data((veci)*(const vec *)((const char *)x0 + at));
        const sec_bytes p1 = sec_data((veci)*(const vec *)((const char *)x1 + at));
        UNROLL for (int i = 0; i < 8; i++) {
          const sec_bytes b = sec_weights(sec_word(v[i]));
          acc[0][i] = sec_dot4(acc[0][i], p0, b, 0);
          acc[1][i] = sec_dot4(acc[1][i], p1, b, 0);
        }
      }
    UNROLL for (int i = 0; i < 8; i++) {
      *(veci *)(sums + 16 * (o + i)) = acc[0][i];
      *(veci *)(sums + 512 + 16 * (o + i)) = acc[1][i];
    }
  }
}

/* What becomes of the sums of `outputs` outputs at a vector of positions. */
INLINE void sec_matrix_put(const sec_dense *w, const sec_shape *g, const int32_t *sums, float *out,
                           const float *res, int output, const int outputs) {
  const int step = w->levels->quads ? 4 : 1;
  for (int o = 0; o < outputs; o += 4) {
    veci four[4];
    UNROLL for (int k = 0; k < 4; k++)
      four[k] = *(const veci *)(sums + 16 * (o + k)) + ((const int32_t *)w->bias)[output + o + k];
    const long at = (output + o) / step;
    sec_quad_put(w->levels, g, four, 1, out + at * g->out_channel,
                 res ? res + at * g->res_channel : 0, output + o, 4);
  }
}

INLINE void sec_matrix_units(const sec_dense *w, const sec_shape *g, const sec_matrix m,
                             const char *prepared, const float *in, float *out, const float *res,
                             long q0, long q1, const int there) {
  int32_t sums[1024] __attribute__((aligned(64)));
  const int outputs = 16 * m.lines, all = g->positions[1] * g->positions[2];
  for (int z = 0; z < g->positions[0]; z++)
    for (int p = 0; p < all; p += 2) {
      const int two = p + 1 < all;
      const float *x[2], *r[2];
      float *y[2];
      for (int n = 0; n < 2; n++) {
        const int at = p + (two ? n : 0), i = at / g->positions[2], j = at % g->positions[2];
        x[n] = in + z * g->in[0] + i * g->in[1] + j * g->in[2];
        y[n] = out + z * g->out[0] + i * g->out[1] + j * g->out[2];
        r[n] = res ? res + z * g->res[0] + i * g->res[1] + j * g->res[2] : 0;
      }
      for (long q = q0; q < q1; q++) {
        const char *weights = prepared + q * outputs * 4 * w->channels * w->taps;
        if (!there) sec_vector_sums(w, q * outputs, x[0], x[1], sums, m.lines);
        else if (two) sec_matrix_sums(w, weights, x[0], x[1], sums, m.depth, m.lines, 2);
        else sec_matrix_sums(w, weights, x[0], x[0], sums, m.depth, m.lines, 1);
        for (int n = 0; n <= two; n++)
          sec_matrix_put(w, g, sums + 512 * n, y[n], r[n], (int)q * outputs, outputs);
      }
    }
}
/* The whole layer, of one group; threads share units of sixteen or 32 outputs. */
INLINE void sec_matrix_layer(const sec_dense *w, const sec_shape *g, const sec_matrix m,
                             const char *prepared, const float *in, float *out, const float *res,
                             int t, int T) {
  const long units = w->outputs / (16 * m.lines);
  const long q0 = sec_share(units, t, T), q1 = sec_share(units, t + 1, T);
  const int there = sec_matrix_there();
  if (there) sec_matrix_begin(m.depth);
  for (long q = q0; q < q1; q += m.heavy ? 1 : q1 - q0)
    sec_matrix_units(w, g, m, prepared, in, out, res, q, m.heavy ? q + 1 : q1, there);
  if (there) sec_matrix_end();
}
#endif
