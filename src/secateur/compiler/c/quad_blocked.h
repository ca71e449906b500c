/* A layer on quads at a single position that skips zeros: sixteen outputs at once, as in
 * `sec_quad_lines`, and of the inputs only those words that any of them has weights for. The pattern
 * 16x4 leaves a tenth of them where it leaves a tenth of the weights.
 *
 * The weights of these words lie beside each other, in a form that is made from the stored one when an
 * engine is made; words that an output lacks are zero. */
#ifndef SECATEUR_QUAD_BLOCKED_H
#define SECATEUR_QUAD_BLOCKED_H
#include "quad_sparse.h"
#include "single.h"

typedef struct {
  int outputs;
  const uint32_t *first;  /* [groups of sixteen outputs + 1], into index */
  const uint32_t *index;  /* the words of inputs that a group reads, ascending */
} sec_quad_blocked;

typedef struct {
  const sec_quad_blocked *g;
  int32_t *value;  /* [words of all groups][16] */
} sec_quad_place;

static __attribute__((unused)) void sec_quad_visit(void *to, int output, int input, float value) {
  const sec_quad_place *at = to;
  uint32_t low = at->g->first[output / 16], high = at->g->first[output / 16 + 1];
  while (high - low > 1) {
    const uint32_t middle = low + (high - low) / 2;
    if (at->g->index[middle] <= (uint32_t)input) low = middle;
    else high = middle;
  }
  int32_t word;
  memcpy(&word, &value, sizeof word);
  at->value[(size_t)low * 16 + (size_t)output % 16] |= word;  /* one that makes a row even is zero */
}

SHARED void sec_quad_blocked_prepare(const sec_sparse *w,
                                                             const sec_quad_blocked g, int channels,
                                                             char *memory) {
  sec_quad_place at = {&g, (int32_t *)memory};
  memset(memory, 0, (size_t)g.first[(g.outputs + 15) / 16] * 64);
  sec_visit(w, g.outputs, channels, sec_quad_visit, &at);
}

#define SEC_PARTS (16 / LANES)
INLINE void sec_quad_blocked_layer(const sec_quad_blocked w, const char *prepared, const int32_t *bias,
                                   const struct sec_levels *q, const sec_shape *g, const float *in,
                                   float *out, const float *res, int t, int T) {
  const int groups = (w.outputs + 15) / 16;
  for (int u = (int)sec_share(groups, t, T); u < (int)sec_share(groups, t + 1, T); u++) {
    veci sums[2][SEC_PARTS];
    UNROLL for (int i = 0; i < 2; i++) UNROLL for (int m = 0; m < SEC_PARTS; m++) sums[i][m] = sec_word(0);
    const uint32_t to = w.first[u + 1];
    uint32_t k = w.first[u];
    const int32_t *v = (const int32_t *)prepared + (size_t)k * 16;
#define ADD(i)                                                                                   \
  {                                                                                              \
    int32_t word;                                                                                \
    memcpy(&word, in + w.index[k + i], sizeof word);                                             \
    const sec_bytes x = sec_data(sec_word(word));                                                \
    UNROLL for (int m = 0; m < SEC_PARTS; m++)                                                   \
      sums[i][m] = sec_dot4(sums[i][m], x, sec_weights(*(const veci *)(v + 16 * i + m * LANES)), \
                            q->narrow);                                                          \
  }
    ROLLED for (; k + 2 <= to; k += 2, v += 32) {
      ADD(0)
      ADD(1)
    }
    if (k < to) ADD(0)
#undef ADD
    int32_t sum[16] __attribute__((aligned(64)));
    UNROLL for (int m = 0; m < SEC_PARTS; m++) *(veci *)(sum + m * LANES) = sums[0][m] + sums[1][m];
    for (int l = 0; l < 16 && u * 16 + l < w.outputs; l++)
      sec_quad_put1(q, g, sum[l] + bias[u * 16 + l], out, res, u * 16 + l);
  }
}
#undef SEC_PARTS
#endif
