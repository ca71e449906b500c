/* Recurrent layers, one direction over a whole sequence.
 *
 * A vector holds one hidden unit of LANES samples (wide), or LANES units of one sample (not wide).
 * Weights lie as [units / LANES][inputs][gates][LANES], one input after another of a group of units;
 * biases and peepholes as [gates][units], units being filled up with zeros to whole groups. */
#ifndef SECATEUR_RECURRENT_H
#define SECATEUR_RECURRENT_H
#include "vector.h"

enum { SEC_RNN, SEC_GRU, SEC_LSTM };

typedef struct {
  int kind, steps, inputs, hidden;
  int backwards, wide;
  int late_reset;        /* of a GRU: the reset gate follows the product (linear_before_reset) */
  int peepholes;
  long x_step, x_input;  /* strides, floats */
  long y_step, y_unit;
} sec_recurrent;

typedef struct {         /* strides of a state between units */
  const float *from;     /* null: zeros */
  float *to;             /* null: nobody wants it */
  long from_unit, to_unit;
} sec_state;

/* What `count` inputs add to the sums of `units` units: gates [first, first + used) of all. */
INLINE void sec_recurrent_add(vec *sum, const float *w, const float *x, const long stride,
                              const int count, const int gates, const int first, const int used,
                              const int units, const int wide) {
  ROLLED for (int k = 0; k < count; k++, x += stride, w += gates * LANES) {
    const vec v = wide ? *(const vec *)x : sec_all(*x);
    UNROLL for (int u = 0; u < units; u++)
      UNROLL for (int g = 0; g < used; g++) {
        const float *m = w + (first + g) * LANES;
        sum[u * 4 + g] += v * (wide ? sec_all(m[u]) : *(const vec *)m);
      }
  }
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

INLINE void sec_recurrent_load(float *state, const sec_state s, const int hidden, const int padded,
                               const int wide) {
  const int lanes = wide ? LANES : 1;
  for (int u = 0; u < padded; u++)
    for (int l = 0; l < lanes; l++)
      state[u * lanes + l] = s.from && u < hidden ? s.from[u * s.from_unit + l] : 0;
}

INLINE void sec_recurrent_store(const float *state, const sec_state s, const int hidden,
                                const int wide) {
  const int lanes = wide ? LANES : 1;
  for (int u = 0; s.to && u < hidden; u++)
    for (int l = 0; l < lanes; l++) s.to[u * s.to_unit + l] = state[u * lanes + l];
}

#define SIGMOID(v) sec_act(v, SEC_SIGMOID, 0, 0)
#define TANH(v) sec_act(v, SEC_TANH, 0, 0)

/* One sample, or one in each lane. `work` holds six states of whole groups of units. */
INLINE void sec_recurrent_run(const sec_recurrent g, const float *w, const float *r,
                              const float *bias, const float *peephole, const float *x, float *y,
                              const sec_state h0, const sec_state c0, float *work) {
  const int gates = g.kind == SEC_LSTM ? 4 : g.kind == SEC_GRU ? 3 : 1;
  const int groups = (g.hidden + LANES - 1) / LANES, padded = groups * LANES;
  const int units = g.wide ? 4 : 1, step = g.wide ? 4 : LANES, lanes = g.wide ? LANES : 1;
  const int early = g.kind == SEC_GRU && !g.late_reset;
  const long size = (long)padded * lanes;
  float *h = work, *next = work + size, *c = work + 2 * size;
  float *update = work + 3 * size, *fresh = work + 4 * size, *kept = work + 5 * size;
  sec_recurrent_load(h, h0, g.hidden, padded, g.wide);
  if (g.kind == SEC_LSTM) sec_recurrent_load(c, c0, g.hidden, padded, g.wide);
  for (int s = 0; s < g.steps; s++) {
    const int at = g.backwards ? g.steps - 1 - s : s;
    const float *in = x + at * g.x_step;
    for (int unit = 0; unit < padded; unit += step) {
      if (unit >= g.hidden) break;
      const float *wg = w + (long)(unit / LANES) * g.inputs * gates * LANES + unit % LANES;
      const float *rg = r + (long)(unit / LANES) * g.hidden * gates * LANES + unit % LANES;
      vec sum[16];
      UNROLL for (int u = 0; u < units; u++)
        UNROLL for (int k = 0; k < 4; k++)
          sum[u * 4 + k] = k < gates + (g.kind == SEC_GRU)
                         ? sec_recurrent_get(bias + k * padded, unit + u, g.wide) : sec_all(0);
      sec_recurrent_add(sum, wg, in, g.x_input, g.inputs, gates, 0, gates, units, g.wide);
      if (g.kind == SEC_GRU) {
        sec_recurrent_add(sum, rg, h, lanes, g.hidden, gates, 0, 2, units, g.wide);
        if (!early) sec_recurrent_add(sum + 3, rg, h, lanes, g.hidden, gates, 2, 1, units, g.wide);
      } else sec_recurrent_add(sum, rg, h, lanes, g.hidden, gates, 0, gates, units, g.wide);
      UNROLL for (int u = 0; u < units; u++) {
        const long own = (long)(unit + u) * lanes;
        const vec *a = sum + u * 4, old = *(const vec *)(h + own);
        vec now;
        if (g.kind == SEC_RNN) now = TANH(a[0]);
        else if (g.kind == SEC_GRU) {
          const vec z = SIGMOID(a[0]), reset = SIGMOID(a[1]);
          if (early) {
            *(vec *)(update + own) = z;
            *(vec *)(fresh + own) = a[2];
            *(vec *)(kept + own) = reset * old;
            continue;
          }
          now = (1.0f - z) * TANH(a[2] + reset * a[3]) + z * old;
        } else {
          const vec past = *(const vec *)(c + own);
          vec i = a[0], o = a[1], f = a[2];
          if (g.peepholes) {
            i += sec_recurrent_get(peephole, unit + u, g.wide) * past;
            f += sec_recurrent_get(peephole + 2 * padded, unit + u, g.wide) * past;
          }
          const vec cell = SIGMOID(f) * past + SIGMOID(i) * TANH(a[3]);
          if (g.peepholes) o += sec_recurrent_get(peephole + padded, unit + u, g.wide) * cell;
          *(vec *)(c + own) = cell;
          now = SIGMOID(o) * TANH(cell);
        }
        *(vec *)(next + own) = now;
        if (y) sec_recurrent_put(y + at * g.y_step, g.y_unit, unit + u, now, g.hidden, g.wide);
      }
    }
    for (int unit = 0; early && unit < g.hidden; unit += step) {
      const float *rg = r + (long)(unit / LANES) * g.hidden * gates * LANES + unit % LANES;
      vec sum[16];
      UNROLL for (int u = 0; u < units; u++)
        sum[u * 4] = sec_recurrent_get(bias + 3 * padded, unit + u, g.wide);
      sec_recurrent_add(sum, rg, kept, lanes, g.hidden, gates, 2, 1, units, g.wide);
      UNROLL for (int u = 0; u < units; u++) {
        const long own = (long)(unit + u) * lanes;
        const vec z = *(const vec *)(update + own);
        const vec now = (1.0f - z) * TANH(*(const vec *)(fresh + own) + sum[u * 4])
                      + z * *(const vec *)(h + own);
        *(vec *)(next + own) = now;
        if (y) sec_recurrent_put(y + at * g.y_step, g.y_unit, unit + u, now, g.hidden, g.wide);
      }
    }
    float *swap = h;
    h = next;
    next = swap;
  }
  sec_recurrent_store(h, h0, g.hidden, g.wide);
  if (g.kind == SEC_LSTM) sec_recurrent_store(c, c0, g.hidden, g.wide);
}
#undef SIGMOID
#undef TANH
#endif
