/* A sparse layer at a single position, y = W x: nothing to vectorise over but the outputs.
 *
 * Sixteen outputs lie in the lanes. Inputs are taken 128 at a time into eight registers; step k looks
 * up the k-th non-zero's input of every lane there, which costs a few permutations whatever the
 * pattern is. Lanes with fewer non-zeros are padded with zeros (about 1.5 times the memory at 90 %).
 * This form is made from the stored one when an engine is made. */
#ifndef SECATEUR_SINGLE_H
#define SECATEUR_SINGLE_H
#include "plain.h"

#define SEC_SPAN 128  /* inputs looked up at once */

typedef struct {
  int inputs, outputs, steps;  /* steps of all groups of sixteen outputs and all spans */
} sec_single;

/* The prepared form: uint32 first[groups + 1], uint8 count[groups][spans], uint8 index[steps][16],
   float value[steps][16], each part at a multiple of 64 bytes. */
typedef struct {
  uint32_t *first;
  uint8_t *count, *index;
  float *value;
} sec_single_parts;

INLINE size_t sec_line(size_t bytes) { return (bytes + 63) / 64 * 64; }
INLINE sec_single_parts sec_single_at(const sec_single g, char *memory) {
  const size_t groups = ((size_t)g.outputs + 15) / 16;
  const size_t spans = ((size_t)g.inputs + SEC_SPAN - 1) / SEC_SPAN;
  sec_single_parts p;
  p.first = (uint32_t *)memory;
  memory += sec_line(4 * (groups + 1));
  p.count = (uint8_t *)memory;
  memory += sec_line(groups * spans);
  p.index = (uint8_t *)memory;
  memory += sec_line((size_t)g.steps * 16);
  p.value = (float *)memory;
  return p;
}

/* Visit the non-zeros of a stored layer, outputs in order and inputs in order within each. `channels`:
   inputs a block. A non-zero that made a row even comes as its two halves, of the same input. */
typedef void sec_visitor(void *to, int output, int input, float value);
static __attribute__((unused)) void sec_visit(const sec_sparse *w, int outputs, int channels,
                                              sec_visitor *visit, void *to) {
  for (int o = 0; o < outputs; o++) {
    const int chunk = o / w->chunk;
    for (int b = 0; b < w->blocks; b++) {
      const uint32_t *s = w->start + 2 * ((long)b * w->chunks + chunk);
      const uint8_t *code = w->codes + s[1];
      const float *value = w->values + s[1];
      for (uint32_t r = s[0]; r < s[2]; r++) {
        const uint8_t *row = w->rows + 2 * (long)r;
        if (chunk * w->chunk + (row[1] & 63) == o)
          for (int i = 0; i < row[0]; i++) visit(to, o, b * channels + code[i], value[i]);
        code += row[0];
        value += row[0];
      }
    }
  }
}

typedef struct {
  sec_single_parts p;
  int spans, counting, output, input, span, k;
  uint32_t step;
} sec_single_place;

static __attribute__((unused)) void sec_single_visit(void *to, int output, int input, float value) {
  sec_single_place *at = to;
  const int group = output / 16;
  uint8_t *count = at->p.count + (size_t)group * (size_t)at->spans;
  if (output != at->output || input / SEC_SPAN != at->span) {
    at->span = input / SEC_SPAN;
    at->k = 0;
    at->step = at->p.first[group];
    for (int j = 0; !at->counting && j < at->span; j++) at->step += count[j];
  } else if (input == at->input) {  /* the other half */
    if (!at->counting) at->p.value[((size_t)at->step + (size_t)at->k - 1) * 16 + (size_t)output % 16] += value;
    return;
  }
  at->output = output;
  at->input = input;
  if (at->counting) {
    if (at->k + 1 > count[at->span]) count[at->span] = (uint8_t)(at->k + 1);
  } else {
    const size_t place = ((size_t)at->step + (size_t)at->k) * 16 + (size_t)output % 16;
    at->p.index[place] = (uint8_t)(input % SEC_SPAN);
    at->p.value[place] = value;
  }
  at->k++;
}

/* Make the prepared form of a layer from its stored one. */
SHARED void sec_single_prepare(const sec_sparse *w, const sec_single g,
                                                       int channels, char *memory) {
  const sec_single_parts p = sec_single_at(g, memory);
  const int groups = (g.outputs + 15) / 16, spans = (g.inputs + SEC_SPAN - 1) / SEC_SPAN;
  memset(p.first, 0, 4 * ((size_t)groups + 1));
  memset(p.count, 0, (size_t)groups * (size_t)spans);
  memset(p.index, 0, (size_t)g.steps * 16);
  memset(p.value, 0, (size_t)g.steps * 64);
  for (int counting = 1; counting >= 0; counting--) {
    sec_single_place at = {p, spans, counting, -1, -1, -1, 0, 0};
    sec_visit(w, g.outputs, channels, sec_single_visit, &at);
    for (int q = 0; q < groups && counting; q++) {
      p.first[q + 1] = p.first[q];
      for (int j = 0; j < spans; j++) p.first[q + 1] += p.count[q * spans + j];
    }
  }
}

#ifdef __AVX512F__
INLINE __m512 sec_lookup(const __m512 x[8], __m512i i) {
  const __mmask16 low = _mm512_test_epi32_mask(i, _mm512_set1_epi32(32));
  const __mmask16 high = _mm512_test_epi32_mask(i, _mm512_set1_epi32(64));
  const __m512 a = _mm512_mask_blend_ps(low, _mm512_permutex2var_ps(x[0], i, x[1]),
                                        _mm512_permutex2var_ps(x[2], i, x[3]));
  const __m512 b = _mm512_mask_blend_ps(low, _mm512_permutex2var_ps(x[4], i, x[5]),
                                        _mm512_permutex2var_ps(x[6], i, x[7]));
  return _mm512_mask_blend_ps(high, a, b);
}
#endif

/* What sixteen sums become: bias, residual and activation, for outputs `from` to `to`. */
INLINE void sec_sixteen_out(const float *sum, int from, int to, const float *bias, float *out,
                            const float *res, const int act, const float alpha, const float beta) {
  for (int l = 0; l < 16 && from + l < to; l++) {
    const int o = from + l;
    float y = sum[l] + bias[o];
    if (res) y += res[o];
    out[o] = sec_act1(y, act, alpha, beta);
  }
}

/* The sums of the sixteen outputs of group q. `tail`: inputs of the last span, zeros behind them. */
INLINE void sec_single_sums(const sec_single_parts p, const int spans, const int q, const float *in,
                            const float *tail, float *sum) {
  const uint8_t *index = p.index + (size_t)p.first[q] * 16;
  const float *value = p.value + (size_t)p.first[q] * 16;
#ifdef __AVX512F__
  __m512 a0 = _mm512_setzero_ps(), a1 = a0;
  for (int s = 0; s < spans; s++) {
    const float *from = s < spans - 1 ? in + s * SEC_SPAN : tail;
    __m512 x[8];
    UNROLL for (int j = 0; j < 8; j++) x[j] = _mm512_loadu_ps(from + 16 * j);
    int k = p.count[q * spans + s];
    for (; k > 1; k -= 2, index += 32, value += 32) {
      const __m512i i0 = _mm512_cvtepu8_epi32(_mm_load_si128((const __m128i *)index));
      const __m512i i1 = _mm512_cvtepu8_epi32(_mm_load_si128((const __m128i *)(index + 16)));
      a0 = _mm512_fmadd_ps(_mm512_load_ps(value), sec_lookup(x, i0), a0);
      a1 = _mm512_fmadd_ps(_mm512_load_ps(value + 16), sec_lookup(x, i1), a1);
    }
    if (k) {
      const __m512i i0 = _mm512_cvtepu8_epi32(_mm_load_si128((const __m128i *)index));
      a0 = _mm512_fmadd_ps(_mm512_load_ps(value), sec_lookup(x, i0), a0);
      index += 16;
      value += 16;
    }
  }
  _mm512_store_ps(sum, _mm512_add_ps(a0, a1));
#else
  for (int l = 0; l < 16; l++) sum[l] = 0;
  for (int s = 0; s < spans; s++) {
    const float *from = s < spans - 1 ? in + s * SEC_SPAN : tail;
    for (int k = p.count[q * spans + s]; k > 0; k--, index += 16, value += 16)
      UNROLL for (int l = 0; l < 16; l++) sum[l] += value[l] * from[index[l]];
  }
#endif
}

INLINE int sec_single_tail(const int inputs, const float *in, float *tail) {
  const int spans = (inputs + SEC_SPAN - 1) / SEC_SPAN, from = (spans - 1) * SEC_SPAN;
  memset(tail, 0, SEC_SPAN * sizeof *tail);
  memcpy(tail, in + from, sizeof *tail * (size_t)(inputs - from));
  return spans;
}

INLINE void sec_single_layer(const sec_single g, const char *prepared, const float *bias,
                             const float *in, float *out, const float *res, const int act,
                             const float alpha, const float beta, int t, int T) {
  const sec_single_parts p = sec_single_at(g, (char *)prepared);
  const int groups = (g.outputs + 15) / 16;
  float tail[SEC_SPAN], sum[16] __attribute__((aligned(64)));
  const int spans = sec_single_tail(g.inputs, in, tail);
  for (int q = (int)sec_share(groups, t, T); q < (int)sec_share(groups, t + 1, T); q++) {
    sec_single_sums(p, spans, q, in, tail, sum);
    sec_sixteen_out(sum, q * 16, g.outputs, bias, out, res, act, alpha, beta);
  }
}
#endif
