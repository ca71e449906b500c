/* Contractions on values that are not cut over lanes: one position at a time. */
#ifndef SECATEUR_PLAIN_H
#define SECATEUR_PLAIN_H
#include "contract.h"

/* Sixteen numbers, as vectors of the machine: gcc keeps sums of longer ones in memory. */
enum { SEC_PARTS = 16 / LANES };

/* One output channel's non-zeros of one block against one position. */
INLINE float sec_dot(const char *base, const int32_t *offset, const uint8_t *code,
                     const float *value, int count) {
  float a0 = 0, a1 = 0, a2 = 0, a3 = 0;
  int k = 0;
#define X(i) *(const float *)(base + offset[code[k + i]])
  for (; k + 3 < count; k += 4) {
    a0 += value[k] * X(0);
    a1 += value[k + 1] * X(1);
    a2 += value[k + 2] * X(2);
    a3 += value[k + 3] * X(3);
  }
  for (; k < count; k++) a0 += value[k] * X(0);
#undef X
  return (a0 + a1) + (a2 + a3);
}

INLINE void sec_sparse_plain(const sec_sparse *w, const sec_shape *g, const float *in, float *out,
                             const float *res, int t, int T) {
  const int c0 = (int)sec_share(w->chunks, t, T), c1 = (int)sec_share(w->chunks, t + 1, T);
  for (int z = 0; z < g->positions[0]; z++)
    for (int y = 0; y < g->positions[1]; y++)
      for (int x = 0; x < g->positions[2]; x++) {
        const float *i0 = in + z * g->in[0] + y * g->in[1] + x * g->in[2];
        float *o0 = out + z * g->out[0] + y * g->out[1] + x * g->out[2];
        const float *r0 = res ? res + z * g->res[0] + y * g->res[1] + x * g->res[2] : 0;
        for (int b = 0; b < w->blocks; b++) {
          const char *base = (const char *)(i0 + b * w->in_block);
          const int32_t *offset = w->offset + (long)b * w->table;
          const uint32_t *s = w->start + 2 * ((long)b * w->chunks + c0);
          const uint8_t *row = w->rows + 2 * (long)s[0], *code = w->codes + s[1];
          const float *value = w->values + s[1];
          for (int c = c0; c < c1; c++, s += 2) {
            const uint8_t *last_row = w->rows + 2 * (long)s[2];
            for (; row < last_row; row += 2) {
              const int channel = c * w->chunk + (row[1] & 63);
              float *o = o0 + channel * g->out_channel;
              float sum = row[1] & SEC_FIRST ? w->bias[channel] : *o;
              sum += sec_dot(base, offset, code, value, row[0]);
              code += row[0];
              value += row[0];
              if (row[1] & SEC_LAST) {
                if (res) sum += r0[channel * g->res_channel];
                sum = sec_act1(sum, g->act, g->alpha, g->beta);
              }
              *o = sum;
            }
          }
        }
      }
}

/* n lines of sixteen outputs at one position whose inputs lie side by side, y = W x. */
INLINE void sec_dense_lines(const sec_dense *w, const sec_shape *g, const float *in, float *out,
                            const float *res, const long q, const int n) {
  const long line = 16L * w->channels;
  const float *v = w->weights + q * line;
  vec sums[4][2][SEC_PARTS];
  UNROLL for (int i = 0; i < n; i++)
    UNROLL for (int h = 0; h < SEC_PARTS; h++) sums[i][0][h] = sums[i][1][h] = (vec){0};
  int c = 0;
#define ADD(m) UNROLL for (int i = 0; i < n; i++) \
    UNROLL for (int h = 0; h < SEC_PARTS; h++) \
      sums[i][m][h] += *(const vec *)(v + i * line + 16L * (c + m) + h * LANES) * in[c + m]
  ROLLED for (; c + 2 <= w->channels; c += 2) {  /* two sets of sums hide an addition's latency */
    ADD(0);
    ADD(1);
  }
  if (c < w->channels) ADD(0);
#undef ADD
  UNROLL for (int i = 0; i < n; i++) {
    float sum[16] __attribute__((aligned(64)));
    UNROLL for (int h = 0; h < SEC_PARTS; h++) *(vec *)(sum + h * LANES) = sums[i][0][h] + sums[i][1][h];
    for (int o = (int)(q + i) * 16, l = 0; l < 16 && o < w->outputs; l++, o++)
      out[o] = sec_act1(sum[l] + w->bias[o] + (res ? res[o] : 0), g->act, g->alpha, g->beta);
  }
}

INLINE void sec_dense_vector(const sec_dense *w, const sec_shape *g, const float *in, float *out,
                             const float *res, int t, int T) {
  const long units = (w->outputs + 15) / 16, q1 = sec_share(units, t + 1, T);
  long q = sec_share(units, t, T);
  for (; q + LANES / 4 <= q1; q += LANES / 4) sec_dense_lines(w, g, in, out, res, q, LANES / 4);
  for (; q < q1; q++) sec_dense_lines(w, g, in, out, res, q, 1);
}

/* Sixteen outputs at once; one input is broadcast to all of them. */
INLINE void sec_dense_plain(const sec_dense *w, const sec_shape *g, const float *in, float *out,
                            const float *res, int t, int T) {
  const long a_group = (w->outputs + 15) / 16, units = w->groups * a_group;
  const long q0 = sec_share(units, t, T), q1 = sec_share(units, t + 1, T);
  for (int z = 0; z < g->positions[0]; z++)
    for (int y = 0; y < g->positions[1]; y++)
      for (int x = 0; x < g->positions[2]; x++) {
        const float *i0 = in + z * g->in[0] + y * g->in[1] + x * g->in[2];
        float *o0 = out + z * g->out[0] + y * g->out[1] + x * g->out[2];
        const float *r0 = res ? res + z * g->res[0] + y * g->res[1] + x * g->res[2] : 0;
        for (long q = q0; q < q1; q++) {
          const int group = (int)(q / a_group), first = (int)(q % a_group) * 16;
          const float *v = w->weights + q * 16 * (long)w->channels * w->taps;
          float sum[2][16] = {{0}};
          for (int c = 0; c < w->channels; c++) {
            const char *base = (const char *)(i0 + ((long)group * w->channels + c) * w->in_channel);
            for (int k = 0; k < w->taps; k++, v += 16) {
              const float s = *(const float *)(base + w->offset[k]);
              float *a = sum[c & 1];
              UNROLL for (int l = 0; l < 16; l++) a[l] += s * v[l];
            }
          }
          for (int l = 0; l < 16 && first + l < w->outputs; l++) {
            const int channel = group * w->outputs + first + l;
            float s = sum[0][l] + sum[1][l] + w->bias[channel];
            if (res) s += r0[channel * g->res_channel];
            o0[channel * g->out_channel] = sec_act1(s, g->act, g->alpha, g->beta);
          }
        }
      }
}
#endif
