/* Layers on quads: as those of contract.h, with a product of two words for one of two floats.
 *
 * A word of inputs has four levels, uint8, of as many channels; a word of weights four int8. Their
 * product is the sum of four products, exact, in int32. What becomes of the sums is float arithmetic
 * that is defined to the last bit. Words are moved as if they were floats, whose bits nobody reads. */
#ifndef SECATEUR_QUADS_H
#define SECATEUR_QUADS_H
#include "contract.h"
#include "levels.h"

/* sec_dot4: to each lane of `sum`, what four levels times four weights give. Operands that several
   products share are made ready once: of words of data, of a word of weights in every lane, and of a
   vector of words of weights. `narrow`: no weight is -128, which spares NEON a third of its work. */
#if LANES == 16 && defined(__AVX512VNNI__) || LANES == 8 && (defined(__AVXVNNI__) \
    || defined(__AVX512VNNI__) && defined(__AVX512VL__))
typedef veci sec_bytes;
INLINE sec_bytes sec_data(veci x) { return x; }
INLINE sec_bytes sec_weights(veci w) { return w; }
INLINE veci sec_dot4(veci sum, sec_bytes x, sec_bytes w, const int narrow) {
  (void)narrow;
#if LANES == 16
  return (veci)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)x, (__m512i)w);
#elif defined(__AVX512VNNI__)
  return (veci)_mm256_dpbusd_epi32((__m256i)sum, (__m256i)x, (__m256i)w);
#else
  return (veci)_mm256_dpbusd_avx_epi32((__m256i)sum, (__m256i)x, (__m256i)w);
#endif
}
#elif (defined(__ARM_FEATURE_MATMUL_INT8) || SEC_MOVED) && LANES == 4
#include <arm_neon.h>
/* Sums of neighbours, those of the first vector first. */
INLINE int16x8_t sec_pairs16(int16x8_t p, int16x8_t q) {
#if defined(__aarch64__)
  return vpaddq_s16(p, q);
#else
  return vcombine_s16(vpadd_s16(vget_low_s16(p), vget_high_s16(p)),
                      vpadd_s16(vget_low_s16(q), vget_high_s16(q)));
#endif
}
INLINE int32x4_t sec_pairs32(int32x4_t p, int32x4_t q) {
#if defined(__aarch64__)
  return vpaddq_s32(p, q);
#else
  return vcombine_s32(vpadd_s32(vget_low_s32(p), vget_high_s32(p)),
                      vpadd_s32(vget_low_s32(q), vget_high_s32(q)));
#endif
}
typedef veci sec_bytes;
INLINE sec_bytes sec_data(veci x) { return x; }
INLINE sec_bytes sec_weights(veci w) { return w; }
INLINE veci sec_dot4(veci sum, sec_bytes x, sec_bytes w, const int narrow) {
  (void)narrow;
#if !SEC_MOVED
  return (veci)vusdotq_s32((int32x4_t)sum, (uint8x16_t)x, (int8x16_t)w);
#elif defined(__ARM_FEATURE_DOTPROD)
  return (veci)vdotq_s32((int32x4_t)sum, (int8x16_t)x, (int8x16_t)w);
#else
  const int8x16_t a = (int8x16_t)x, b = (int8x16_t)w;
  const int16x8_t p = vmull_s8(vget_low_s8(a), vget_low_s8(b));
  const int16x8_t q = vmull_s8(vget_high_s8(a), vget_high_s8(b));
  /* two products are at most 2 * 128 * 127, which 16 bits hold, or else 2 * 128 * 128, which they do not */
  if (narrow) return (veci)vpadalq_s16((int32x4_t)sum, sec_pairs16(p, q));
  return sum + (veci)sec_pairs32(vpaddlq_s16(p), vpaddlq_s16(q));
#endif
}
#elif LANES == 16 && defined(__AVX512BW__) || LANES == 8 && defined(__AVX2__) || defined(__wasm_simd128__)
/* Pairs of 16 bits: those of bytes 0 and 2, and of 1 and 3. Products of 8 bits cannot saturate. */
#ifdef __wasm__
#include <wasm_simd128.h>
#endif
typedef int16_t sec_short __attribute__((vector_size(LANES * 4)));
typedef struct { veci even, odd; } sec_bytes;
INLINE sec_bytes sec_data(veci x) {
  return (sec_bytes){x & 0x00ff00ff, x >> 8 & 0x00ff00ff};
}
INLINE sec_bytes sec_weights(veci w) {
  return (sec_bytes){(veci)((sec_short)((sec_short)w << 8) >> 8), (veci)((sec_short)w >> 8)};
}
INLINE veci sec_pairs(veci x, veci w) {
#if LANES == 16
  return (veci)_mm512_madd_epi16((__m512i)x, (__m512i)w);
#elif LANES == 8
  return (veci)_mm256_madd_epi16((__m256i)x, (__m256i)w);
#else
  return (veci)wasm_i32x4_dot_i16x8((v128_t)x, (v128_t)w);
#endif
}
INLINE veci sec_dot4(veci sum, sec_bytes x, sec_bytes w, const int narrow) {
  (void)narrow;
  return sum + sec_pairs(x.even, w.even) + sec_pairs(x.odd, w.odd);
}
#else
typedef struct { veci of[4]; } sec_bytes;
INLINE sec_bytes sec_data(veci x) {
  return (sec_bytes){{x & 255, x >> 8 & 255, x >> 16 & 255, x >> 24 & 255}};
}
INLINE sec_bytes sec_weights(veci w) {
  return (sec_bytes){{(w << 24) >> 24, (w << 16) >> 24, (w << 8) >> 24, w >> 24}};
}
INLINE veci sec_dot4(veci sum, sec_bytes x, sec_bytes w, const int narrow) {
  (void)narrow;
  return sum + x.of[0] * w.of[0] + x.of[1] * w.of[1] + x.of[2] * w.of[2] + x.of[3] * w.of[3];
}
#endif
INLINE veci sec_word(int32_t x) { return x - (veci){0}; }

/* What becomes of sums: numbers, or levels in words. */
struct sec_levels {
  const float *factor;            /* [outputs], from a sum to a number, or to steps of the output */
  int quads;                      /* whether the output is words */
  int narrow;                     /* see sec_dot4 */
  float res_zero, res_factor;     /* of a residual in words; the factor has 16 bits */
  float low, high;                /* ends, less zero */
  int zero;
  const float *more;              /* [outputs], added to numbers; or null */
};

/* Numbers of an output channel, in a vector. */
INLINE vec sec_quad_number(const struct sec_levels *q, veci sum, int output) {
  vec y = sec_real(sum) * sec_all(q->factor[output]);
  SEC_ROUNDED(y);
  return y;
}

/* One word of outputs from the sums of its four channels. */
INLINE vec sec_quad_word(const struct sec_levels *q, const veci sums[4], int output,
                         const float *res) {
  veci word = {0}, r = {0};
  if (res) r = (veci)sec_words((vecu)*(const vec *)res);
  UNROLL for (int k = 0; k < 4; k++) {
    vec y = sec_quad_number(q, sums[k], output + k);
    if (res) y += (sec_real(sec_byte(r, k)) - sec_all(q->res_zero)) * sec_all(q->res_factor);
    word |= sec_level(y, q->low, q->high, q->zero) << 8 * k;
  }
  return (vec)sec_words((vecu)word);
}

/* A vector of sums of each of `n` outputs, 4 or as many as there are, at the places of the first. */
INLINE void sec_quad_put(const struct sec_levels *q, const sec_shape *g, const veci *sums,
                         const long apart, float *out, const float *res, int output, const int n) {
  const int step = q->quads ? 4 : 1;
  UNROLL for (int o = 0; o < n; o += step) {
    float *y = out + o / step * g->out_channel;
    const float *r = res ? res + o / step * g->res_channel : 0;
    if (step == 4) {
      const veci four[4] = {sums[o * apart], sums[(o + 1) * apart], sums[(o + 2) * apart],
                            sums[(o + 3) * apart]};
      *(vec *)y = sec_quad_word(q, four, output + o, r);
    } else {
      vec x = sec_quad_number(q, sums[o * apart], output + o);
      if (q->more) x += sec_all(q->more[output + o]);
      if (r) x += *(const vec *)r;
      *(vec *)y = sec_act(x, g->act, g->alpha, g->beta);
    }
  }
}

/* One sum of an output, at a position that begins at `out`. */
INLINE void sec_quad_put1(const struct sec_levels *q, const sec_shape *g, int32_t sum, float *out,
                          const float *res, int output) {
  float y = (float)sum * q->factor[output];
  SEC_ROUNDED(y);
  if (q->quads) {
    if (res) {
      const sec_stored_level *r = (const sec_stored_level *)(res + output / 4 * g->res_channel);
      y += ((float)(r[output % 4] + SEC_MOVED) - q->res_zero) * q->res_factor;
    }
    sec_stored_level *to = (sec_stored_level *)(out + output / 4 * g->out_channel);
    to[output % 4] = (sec_stored_level)(sec_level1(y, q->low, q->high, q->zero) - SEC_MOVED);
  } else {
    if (q->more) y += q->more[output];
    if (res) y += res[output * g->res_channel];
    out[output * g->out_channel] = sec_act1(y, g->act, g->alpha, g->beta);
  }
}

/* A tile of `sec_dense_layer`, all channels at once. */
INLINE void sec_quad_tile(const sec_dense *w, const sec_shape *g, const float *in, float *out,
                          const float *res, const float *weights, int output, const int ob,
                          const int th, const int tw) {
  veci acc[8][24];
  UNROLL for (int o = 0; o < ob; o++) {
    const veci b = sec_word(((const int32_t *)w->bias)[output + o]);
    UNROLL for (int i = 0; i < th * tw; i++) acc[o][i] = b;
  }
  const int32_t *v = (const int32_t *)weights;
  for (int c = 0; c < w->channels; c++) {
    const char *base = (const char *)(in + c * w->in_channel);
    ROLLED for (int k = 0; k < w->taps; k++, v += 16) {
      const float *x = (const float *)(base + w->offset[k]);
      OPAQUE(x);
      sec_bytes p[24];
      UNROLL for (int i = 0; i < th; i++)
        UNROLL for (int j = 0; j < tw; j++)
          p[i * tw + j] = sec_data((veci)*(const vec *)(x + i * g->in[1] + j * g->in[2]));
      UNROLL for (int o = 0; o < ob; o++) {
        const sec_bytes b = sec_weights(sec_word(v[o]));
        UNROLL for (int i = 0; i < th * tw; i++)
          acc[o][i] = sec_dot4(acc[o][i], p[i], b, w->levels->narrow);
      }
    }
  }
  const int step = w->levels->quads ? 4 : 1;
  float *y = out + output / step * g->out_channel;
  const float *r = res ? res + output / step * g->res_channel : 0;
  UNROLL for (int i = 0; i < th; i++)
    UNROLL for (int j = 0; j < tw; j++)
      sec_quad_put(w->levels, g, &acc[0][i * tw + j], 24, y + i * g->out[1] + j * g->out[2],
                   r ? r + i * g->res[1] + j * g->res[2] : 0, output, ob);
}

/* As `sec_dense_tiles`; sums have no place to wait in, so all channels are done at once. */
INLINE void sec_quad_tiles(const sec_dense *w, const sec_shape *g, const float *in, float *out,
                           const float *res, const sec_part *part, const int ob, const int th,
                           const int tw) {
  const int few = w->levels->quads ? 4 : 1;
  for (long q = part->q0; q < part->q1; q++) {
    const sec_unit u = sec_unit_of(w, in, q, ob);
    if (u.left >= ob) sec_quad_tile(w, g, u.in, out, res, u.weights, u.output, ob, th, tw);
    else for (int i = 0; i < u.left; i += few)
      sec_quad_tile(w, g, u.in, out, res, u.weights + i, u.output + i, few, th, tw);
  }
}

/* `sec_dense_plain` on quads: sixteen outputs at once; a word of inputs meets all of them. n lines of
   sixteen, of one group. */
#define SEC_PARTS (16 / LANES)
INLINE void sec_quad_lines(const sec_dense *w, const sec_shape *g, const float *in, float *out,
                           const float *res, int group, int line, const int n) {
  const long size = 16L * w->channels * w->taps, a_group = (w->outputs + 15) / 16;
  const int32_t *v = (const int32_t *)w->weights + (group * a_group + line) * size;
  veci sums[4][SEC_PARTS];
  UNROLL for (int i = 0; i < n; i++) UNROLL for (int m = 0; m < SEC_PARTS; m++) sums[i][m] = sec_word(0);
  const float *first = in + (long)group * w->channels * w->in_channel;
  for (int c = 0; c < w->channels; c++) {
    const char *base = (const char *)(first + c * w->in_channel);
    ROLLED for (int k = 0; k < w->taps; k++, v += 16) {
      int32_t word;
      memcpy(&word, base + w->offset[k], sizeof word);
      const sec_bytes x = sec_data(sec_word(word));
      UNROLL for (int i = 0; i < n; i++)
        UNROLL for (int m = 0; m < SEC_PARTS; m++)
          sums[i][m] = sec_dot4(sums[i][m], x, sec_weights(*(const veci *)(v + i * size + m * LANES)),
                                w->levels->narrow);
    }
  }
  const struct sec_levels *q = w->levels;
  UNROLL for (int i = 0; i < n; i++) {
    int32_t sum[16] __attribute__((aligned(64)));
    UNROLL for (int m = 0; m < SEC_PARTS; m++) *(veci *)(sum + m * LANES) = sums[i][m];
    const int from = (line + i) * 16;
    for (int l = 0; l < 16 && from + l < w->outputs; l++) {
      const int output = group * w->outputs + from + l;
      sec_quad_put1(q, g, sum[l] + ((const int32_t *)w->bias)[output], out, res, output);
    }
  }
}

INLINE void sec_quad_plain(const sec_dense *w, const sec_shape *g, const float *in, float *out,
                           const float *res, int t, int T) {
  const int a_group = (w->outputs + 15) / 16;
  const long units = (long)w->groups * a_group;
  const long q0 = sec_share(units, t, T), q1 = sec_share(units, t + 1, T);
  for (int z = 0; z < g->positions[0]; z++)
    for (int y = 0; y < g->positions[1]; y++)
      for (int x = 0; x < g->positions[2]; x++) {
        const float *i0 = in + z * g->in[0] + y * g->in[1] + x * g->in[2];
        float *o0 = out + z * g->out[0] + y * g->out[1] + x * g->out[2];
        const float *r0 = res ? res + z * g->res[0] + y * g->res[1] + x * g->res[2] : 0;
        for (long q = q0; q < q1;) {
          const int group = (int)(q / a_group), line = (int)(q % a_group);
          const int four = q + 4 <= q1 && line + 4 <= a_group;
          if (four) sec_quad_lines(w, g, i0, o0, r0, group, line, 4);
          else sec_quad_lines(w, g, i0, o0, r0, group, line, 1);
          q += four ? 4 : 1;
        }
      }
}
#undef SEC_PARTS
#endif
