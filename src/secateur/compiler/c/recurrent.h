/* Recurrent layers, one direction over a whole sequence.
 *
 * A vector holds one hidden unit of LANES samples (wide), or LANES units of one sample (not wide).
 * Weights lie as [units / LANES][inputs][gates][LANES], one input after another of a group of units;
 * biases and peepholes as [gates][units], units being filled up with zeros to whole groups. Weights of
 * states may be sparse: then only their non-zeros are there. */
#ifndef SECATEUR_RECURRENT_H
#define SECATEUR_RECURRENT_H
#include "single.h"

enum { SEC_RNN, SEC_GRU, SEC_LSTM };
enum { SEC_AHEAD = 4 };  /* steps of one sample whose inputs are summed at once */

typedef struct {
  int kind, steps, inputs, hidden;
  int backwards, wide;
  int late_reset;        /* of a GRU: the reset gate follows the product (linear_before_reset) */
  int peepholes;
  long x_step, x_input;  /* strides, floats */
  long y_step, y_unit;
  float clip;            /* bound of what activations are given; 0: none */
  int ready;             /* x holds what inputs come to, so many units of each gate; 0: inputs */
  const char *single;    /* sparse, of one sample: outputs [gates][units] as sec_single_at has them */
  int lookups;           /* its steps */
  const uint32_t *first; /* sparse, wide: where a unit's gate begins, [units][gates] and the end */
  const uint16_t *from;  /* units that are read */
  const float *value;
} sec_recurrent;

typedef struct {         /* strides of a state between units */
  const float *from;     /* null: zeros */
  float *to;             /* null: nobody wants it */
  long from_unit, to_unit;
} sec_state;

/* What `count` inputs add to the sums of `units` units or groups of units, four sums each: gates
 * [first, first + used) of all go to sums [to, to + used). Groups lie `apart` floats apart. */
INLINE void sec_recurrent_add(vec *sum, const float *w, const float *x, const long stride,
                              const int count, const int gates, const int first, const int used,
                              const int to, const int units, const long apart, const int wide) {
  ROLLED for (int k = 0; k < count; k++, x += stride, w += gates * LANES) {
    const vec v = wide ? *(const vec *)x : sec_all(*x);
    UNROLL for (int u = 0; u < units; u++)
      UNROLL for (int g = 0; g < used; g++) {
        const float *m = w + (first + g) * LANES + u * apart;
        sum[u * 4 + to + g] += v * (wide ? sec_all(*m) : *(const vec *)m);
      }
  }
}

/* Bias and inputs of `steps` steps, `step` floats apart, of one sample: to
 * ahead[steps][groups][gates][LANES]. A weight is fetched once for all of the steps. */
INLINE void sec_recurrent_ahead(float *ahead, const sec_recurrent g, const float *w,
                                const float *bias, const float *x, const long step,
                                const int gates, const int groups, const int steps) {
  for (int group = 0; group < groups; group++, w += (long)g.inputs * gates * LANES) {
    vec sum[4 * SEC_AHEAD];
    UNROLL for (int s = 0; s < steps; s++)
      UNROLL for (int k = 0; k < gates; k++)
        sum[s * 4 + k] = *(const vec *)(bias + (k * groups + group) * LANES);
    const float *m = w;
    ROLLED for (int i = 0; i < g.inputs; i++, m += gates * LANES)
      UNROLL for (int s = 0; s < steps; s++) {
        const vec v = sec_all(x[s * step + i * g.x_input]);
        UNROLL for (int k = 0; k < gates; k++) sum[s * 4 + k] += v * *(const vec *)(m + k * LANES);
      }
    UNROLL for (int s = 0; s < steps; s++)
      UNROLL for (int k = 0; k < gates; k++)
        *(vec *)(ahead + ((long)(s * groups + group) * gates + k) * LANES) = sum[s * 4 + k];
  }
}

/* What a state adds by its sparse weights to the sums of gates [first, first + used), as above. */
INLINE void sec_recurrent_skip(vec *sum, const sec_recurrent g, const float *product,
                               const float *h, const int unit, const int padded, const int gates,
                               const int first, const int used, const int to, const int units) {
  UNROLL for (int u = 0; u < units; u++)
    UNROLL for (int k = 0; k < used; k++) {
      vec *s = sum + u * 4 + to + k;
      if (!g.wide) {
        *s += *(const vec *)(product + (long)(first + k) * padded + unit + u * LANES);
        continue;
      }
      if (unit + u >= g.hidden) continue;
      const uint32_t *at = g.first + (long)(unit + u) * gates + first + k;
      vec even = *s, odd = sec_all(0);
      uint32_t i = at[0];
      ROLLED for (; i + 2 <= at[1]; i += 2) {
        even += sec_all(g.value[i]) * *(const vec *)(h + (long)g.from[i] * LANES);
        odd += sec_all(g.value[i + 1]) * *(const vec *)(h + (long)g.from[i + 1] * LANES);
      }
      if (i < at[1]) even += sec_all(g.value[i]) * *(const vec *)(h + (long)g.from[i] * LANES);
      *s = even + odd;
    }
}

/* Of one sample: the product of a state with sparse weights of gates [first, first + used). */
INLINE void sec_recurrent_product(const sec_recurrent g, const float *h, float *product,
                                  const int gates, const int first, const int used) {
  const int padded = (g.hidden + LANES - 1) / LANES * LANES;
  const sec_single s = {g.hidden, gates * padded, g.lookups};
  const sec_single_parts p = sec_single_at(s, (char *)g.single);
  float tail[SEC_SPAN];
  const int spans = sec_single_tail(g.hidden, h, tail);
  for (int q = first * padded / 16; q < (first + used) * padded / 16; q++)
    sec_single_sums(p, spans, q, h, tail, product + q * 16);
}

INLINE vec sec_recurrent_get(const float *p, long unit, const int wide) {
  return wide ? sec_all(p[unit]) : *(const vec *)(p + unit);
}

/* Give units of a state to memory where they are a stride apart. */
INLINE void sec_recurrent_put(float *to, long stride, long unit, vec v, const int hidden,
                              const int wide) {
  if (wide) {
    if (unit < hidden) *(vec *)(to + unit * stride) = v;
    return;
  }
  float x[LANES];
  memcpy(x, &v, sizeof x);
  for (int l = 0; l < LANES && unit + l < hidden; l++) to[(unit + l) * stride] = x[l];
}

/* States before the first step: zeros of a sample without any, as ONNX Runtime has them. */
INLINE void sec_recurrent_load(float *state, const sec_state s, const int hidden, const int padded,
                               const int32_t *lengths, const int wide) {
  const int lanes = wide ? LANES : 1;
  for (int u = 0; u < padded; u++)
    for (int l = 0; l < lanes; l++) {
      const int known = s.from && u < hidden && (!lengths || lengths[l] > 0);
      state[u * lanes + l] = known ? s.from[u * s.from_unit + l] : 0;
    }
}

INLINE void sec_recurrent_store(const float *state, const sec_state s, const int hidden,
                                const int wide) {
  const int lanes = wide ? LANES : 1;
  for (int u = 0; s.to && u < hidden; u++)
    for (int l = 0; l < lanes; l++) s.to[u * s.to_unit + l] = state[u * lanes + l];
}

/* What an activation is given. */
INLINE vec sec_recurrent_bounded(const sec_recurrent g, vec v) {
  return g.clip > 0 ? sec_act(v, SEC_CLIP, -g.clip, g.clip) : v;
}

/* Of every lane; loops over lanes are vectorised by the compiler. */
#define EACH(name, of) \
  INLINE vec name(vec x) { \
    float y[LANES] __attribute__((aligned(LANES * 4))); \
    memcpy(y, &x, sizeof y); \
    for (int l = 0; l < LANES; l++) y[l] = of(y[l]); \
    memcpy(&x, y, sizeof y); \
    return x; \
  }
EACH(sec_sigmoids, sec_sigmoid)
EACH(sec_tanhs, sec_tanh)
#undef EACH
#define SIGMOID(v) sec_sigmoids(sec_recurrent_bounded(g, v))
#define TANH(v) sec_tanhs(sec_recurrent_bounded(g, v))

/* Where a step works: weights, and states of whole groups of units. `in` are this step's inputs
 * (wide), or null: `ahead` has their sums, or what they come to (ready). */
typedef struct {
  const float *w, *r, *bias, *peephole, *in, *ahead;
  float *h, *next, *c, *update, *fresh, *kept, *product, *y;
} sec_recurrent_at;

/* One step of `units` units (wide), or groups of units, from `unit` on. Of a GRU whose reset gate
 * precedes the product, `second` is the part after all of the first. */
INLINE void sec_recurrent_units(const sec_recurrent g, const sec_recurrent_at p, const int unit,
                                const int units, const int second) {
  const int gates = g.kind == SEC_LSTM ? 4 : g.kind == SEC_GRU ? 3 : 1;
  const int groups = (g.hidden + LANES - 1) / LANES, padded = groups * LANES;
  const int lanes = g.wide ? LANES : 1, each = g.wide ? 1 : LANES;
  const int early = g.kind == SEC_GRU && !g.late_reset;
  const long apart = g.wide ? 1 : (long)g.hidden * gates * LANES;
  const float *r = p.r + (long)(unit / LANES) * g.hidden * gates * LANES + unit % LANES;
  vec sum[4 * 4];
  if (second) {
    UNROLL for (int u = 0; u < units; u++)
      sum[u * 4] = sec_recurrent_get(p.bias + 3 * padded, unit + u * each, g.wide);
    if (g.single || g.value)
      sec_recurrent_skip(sum, g, p.product, p.kept, unit, padded, gates, 2, 1, 0, units);
    else
      sec_recurrent_add(sum, r, p.kept, lanes, g.hidden, gates, 2, 1, 0, units, apart, g.wide);
  } else {
    UNROLL for (int u = 0; u < units; u++) {
      UNROLL for (int k = 0; k < 4; k++)
        sum[u * 4 + k] = p.in && k < gates + (g.kind == SEC_GRU)
                       ? sec_recurrent_get(p.bias + k * padded, unit + u, g.wide) : sec_all(0);
      if (g.ready) UNROLL for (int k = 0; k < gates; k++)
        sum[u * 4 + k] = sec_recurrent_get(p.bias + k * padded, unit + u * each, g.wide)
                       + *(const vec *)(p.ahead + ((long)k * g.ready + unit + u * each) * g.x_input);
      else if (!p.in) UNROLL for (int k = 0; k < gates; k++)
        sum[u * 4 + k] = *(const vec *)(p.ahead + ((long)unit + u * LANES) * gates + k * LANES);
      if (!p.in && g.kind == SEC_GRU)
        sum[u * 4 + 3] = sec_recurrent_get(p.bias + 3 * padded, unit + u * each, g.wide);
    }
    if (p.in)
      sec_recurrent_add(sum, p.w + (long)(unit / LANES) * g.inputs * gates * LANES + unit % LANES,
                        p.in, g.x_input, g.inputs, gates, 0, gates, 0, units, apart, g.wide);
    const int used = g.kind == SEC_GRU ? 2 : gates;
    if (g.single || g.value) {
      sec_recurrent_skip(sum, g, p.product, p.h, unit, padded, gates, 0, used, 0, units);
      if (g.kind == SEC_GRU && !early)
        sec_recurrent_skip(sum, g, p.product, p.h, unit, padded, gates, 2, 1, 3, units);
    } else {
      sec_recurrent_add(sum, r, p.h, lanes, g.hidden, gates, 0, used, 0, units, apart, g.wide);
      if (g.kind == SEC_GRU && !early)
        sec_recurrent_add(sum, r, p.h, lanes, g.hidden, gates, 2, 1, 3, units, apart, g.wide);
    }
  }
  UNROLL for (int u = 0; u < units; u++) {
    const long own = (long)(unit + u * each) * lanes;
    const vec *a = sum + u * 4, old = *(const vec *)(p.h + own);
    vec now;
    if (g.kind == SEC_RNN) now = TANH(a[0]);
    else if (second) {
      const vec z = *(const vec *)(p.update + own);
      now = (1.0f - z) * TANH(*(const vec *)(p.fresh + own) + a[0]) + z * old;
    } else if (g.kind == SEC_GRU) {
      const vec z = SIGMOID(a[0]), reset = SIGMOID(a[1]);
      if (early) {
        *(vec *)(p.update + own) = z;
        *(vec *)(p.fresh + own) = a[2];
        *(vec *)(p.kept + own) = reset * old;
        continue;
      }
      now = (1.0f - z) * TANH(a[2] + reset * a[3]) + z * old;
    } else {
      const vec past = *(const vec *)(p.c + own);
      vec i = a[0], o = a[1], f = a[2];
      if (g.peepholes) {
        i += sec_recurrent_get(p.peephole, unit + u * each, g.wide) * past;
        f += sec_recurrent_get(p.peephole + 2 * padded, unit + u * each, g.wide) * past;
      }
      const vec cell = SIGMOID(f) * past + SIGMOID(i) * TANH(a[3]);
      if (g.peepholes) o += sec_recurrent_get(p.peephole + padded, unit + u * each, g.wide) * cell;
      *(vec *)(p.c + own) = cell;
      now = SIGMOID(o) * sec_tanhs(cell);
    }
    *(vec *)(p.next + own) = now;
    if (p.y) sec_recurrent_put(p.y, g.y_unit, unit + u * each, now, g.hidden, g.wide);
  }
}

/* All units of a step, as many at once as there are registers for sums. */
INLINE void sec_recurrent_step(const sec_recurrent g, const sec_recurrent_at p, const int second) {
  const int groups = (g.hidden + LANES - 1) / LANES;
  if (g.wide) {
    for (int unit = 0; unit < g.hidden; unit += 4) sec_recurrent_units(g, p, unit, 4, second);
    return;
  }
  int group = 0;
  for (; group + 4 <= groups; group += 4) sec_recurrent_units(g, p, group * LANES, 4, second);
  for (; group < groups; group++) sec_recurrent_units(g, p, group * LANES, 1, second);
}

/* A step that only some of the samples in the lanes have: of the others, `next` and `c` become what
 * the states were before it, `h` and `past`, and Y is 0. */
INLINE void sec_recurrent_some(const sec_recurrent g, const sec_recurrent_at p, const float *past,
                               const int32_t *lengths, const int at) {
  for (int u = 0; u < g.hidden; u++)
    for (int l = 0; l < LANES; l++) {
      if (at < lengths[l]) continue;
      p.next[u * LANES + l] = p.h[u * LANES + l];
      if (g.kind == SEC_LSTM) p.c[u * LANES + l] = past[u * LANES + l];
      if (p.y) p.y[u * g.y_unit + l] = 0;
    }
}

/* One sample, or one in each lane. `lengths`: steps of each one's sequence, or null: all of them.
 * `work` holds six states of whole groups of units and, of one sample, the sums of SEC_AHEAD
 * steps and a product. */
INLINE void sec_recurrent_run(const sec_recurrent g, const float *w, const float *r,
                              const float *bias, const float *peephole, const float *x, float *y,
                              const sec_state h0, const sec_state c0, const int32_t *lengths,
                              float *work) {
  const int gates = g.kind == SEC_LSTM ? 4 : g.kind == SEC_GRU ? 3 : 1;
  const int groups = (g.hidden + LANES - 1) / LANES, padded = groups * LANES;
  const long size = (long)padded * (g.wide ? LANES : 1), way = g.backwards ? -1 : 1;
  const int lanes = g.wide ? LANES : 1;
  float *ahead = work + 6 * size, *past = work + 3 * size;  /* an LSTM has no update gate */
  sec_recurrent_at p = {
    .w = w, .r = r, .bias = bias, .peephole = peephole, .h = work, .next = work + size,
    .c = work + 2 * size, .update = work + 3 * size, .fresh = work + 4 * size,
    .kept = work + 5 * size, .product = ahead + (long)SEC_AHEAD * gates * padded};
  sec_recurrent_load(p.h, h0, g.hidden, padded, lengths, g.wide);
  if (g.kind == SEC_LSTM) sec_recurrent_load(p.c, c0, g.hidden, padded, lengths, g.wide);
  for (int s = 0; s < g.steps; s++) {
    const int at = g.backwards ? g.steps - 1 - s : s;
    const float *in = x + at * g.x_step;
    const int taken = s % SEC_AHEAD;
    if (g.ready) p.ahead = in;
    else if (g.wide) p.in = in;
    else {
      if (taken == 0 && s + SEC_AHEAD <= g.steps)
        sec_recurrent_ahead(ahead, g, w, bias, in, way * g.x_step, gates, groups, SEC_AHEAD);
      else if (s >= g.steps / SEC_AHEAD * SEC_AHEAD)
        sec_recurrent_ahead(ahead + (long)taken * padded * gates, g, w, bias, in, 0, gates, groups,
                            1);
      p.ahead = ahead + (long)taken * padded * gates;
    }
    p.y = y ? y + at * g.y_step : 0;
    int have = lengths ? 0 : lanes;
    for (int l = 0; lengths && l < lanes; l++) have += at < lengths[l];
    if (!have) {
      for (int u = 0; p.y && u < g.hidden; u++)
        for (int l = 0; l < lanes; l++) p.y[u * g.y_unit + l] = 0;
      continue;
    }
    if (have < lanes && g.kind == SEC_LSTM) memcpy(past, p.c, (size_t)size * sizeof *past);
    const int early = g.kind == SEC_GRU && !g.late_reset;
    if (g.single) sec_recurrent_product(g, p.h, p.product, gates, 0, gates - early);
    sec_recurrent_step(g, p, 0);
    if (early && g.single) sec_recurrent_product(g, p.kept, p.product, gates, 2, 1);
    if (early) sec_recurrent_step(g, p, 1);
    if (have < lanes) sec_recurrent_some(g, p, past, lengths, at);
    float *swap = p.h;
    p.h = p.next;
    p.next = swap;
  }
  sec_recurrent_store(p.h, h0, g.hidden, g.wide);
  if (g.kind == SEC_LSTM) sec_recurrent_store(p.c, c0, g.hidden, g.wide);
}
#undef SIGMOID
#undef TANH
#endif
