/* A layer at a single position in which outputs side by side read the same inputs, y = W x.
 *
 * That is what a pattern of 16x1 or 8x1 leaves. Up to sixteen such outputs are a group, whose input is
 * broadcast to its lanes; there is nothing to look up. Groups may be smaller, where outputs that
 * nobody reads were taken out of them. This form is made from the stored one when an engine is made. */
#ifndef SECATEUR_BLOCKED_H
#define SECATEUR_BLOCKED_H
#include "single.h"

typedef struct {
  int groups, steps;      /* steps: non-zeros of an output, summed over the groups */
  const uint32_t *begin;  /* [groups + 1], the first output of each group */
} sec_blocked;

/* The prepared form: uint32 first[groups + 1], uint32 index[steps], float value[steps][16], each part
   at a multiple of 64 bytes. */
typedef struct {
  uint32_t *first, *index;
  float *value;
} sec_blocked_parts;

INLINE sec_blocked_parts sec_blocked_at(const sec_blocked g, char *memory) {
  sec_blocked_parts p;
  p.first = (uint32_t *)memory;
  memory += sec_line(4 * ((size_t)g.groups + 1));
  p.index = (uint32_t *)memory;
  memory += sec_line(4 * (size_t)g.steps);
  p.value = (float *)memory;
  return p;
}

typedef struct {
  sec_blocked_parts p;
  const uint32_t *begin;
  int output, input, group;
  uint32_t step;  /* behind the last one of this output */
} sec_blocked_place;

static __attribute__((unused)) void sec_blocked_visit(void *to, int output, int input, float value) {
  sec_blocked_place *at = to;
  if (output != at->output) {
    for (; (uint32_t)output >= at->begin[at->group + 1]; at->group++)  /* its steps are known */
      at->p.first[at->group + 1] = at->step;
    at->step = at->p.first[at->group];
  } else if (input == at->input) {  /* the other half */
    at->p.value[((size_t)at->step - 1) * 16 + (size_t)output - at->begin[at->group]] += value;
    return;
  }
  at->output = output;
  at->input = input;
  at->p.index[at->step] = (uint32_t)input;
  at->p.value[(size_t)at->step++ * 16 + (size_t)output - at->begin[at->group]] = value;
}

SHARED void sec_blocked_prepare(const sec_sparse *w, const sec_blocked g,
                                                        int channels, char *memory) {
  const sec_blocked_parts p = sec_blocked_at(g, memory);
  p.first[0] = 0;
  memset(p.value, 0, (size_t)g.steps * 64);
  sec_blocked_place at = {p, g.begin, -1, -1, 0, 0};
  sec_visit(w, (int)g.begin[g.groups], channels, sec_blocked_visit, &at);
  for (; at.group < g.groups; at.group++) p.first[at.group + 1] = at.step;
}

INLINE void sec_blocked_layer(const sec_blocked g, const char *prepared, const float *bias,
                              const float *in, float *out, const float *res, const int act,
                              const float alpha, const float beta, int t, int T) {
  const sec_blocked_parts p = sec_blocked_at(g, (char *)prepared);
  for (int q = (int)sec_share(g.groups, t, T); q < (int)sec_share(g.groups, t + 1, T); q++) {
    const uint32_t to = p.first[q + 1];
    vec sums[4][SEC_PARTS];
    UNROLL for (int i = 0; i < 4; i++)
      UNROLL for (int h = 0; h < SEC_PARTS; h++) sums[i][h] = (vec){0};
    uint32_t k = p.first[q];
#define ADD(i) UNROLL for (int h = 0; h < SEC_PARTS; h++) \
      sums[i][h] += *(const vec *)(p.value + (size_t)(k + i) * 16 + h * LANES) * in[p.index[k + i]]
    ROLLED for (; k + 4 <= to; k += 4) {
      ADD(0);
      ADD(1);
      ADD(2);
      ADD(3);
    }
    ROLLED for (; k < to; k++) ADD(0);
#undef ADD
    float sum[16] __attribute__((aligned(64)));
    UNROLL for (int h = 0; h < SEC_PARTS; h++)
      *(vec *)(sum + h * LANES) = (sums[0][h] + sums[1][h]) + (sums[2][h] + sums[3][h]);
    sec_sixteen_out(sum, (int)g.begin[q], (int)g.begin[q + 1], bias, out, res, act, alpha, beta);
  }
}
#endif
