/* Contractions: y[o][p] = act(bias[o] + residual[o][p] + sum over c, k of w[o][c, k] x[c][p + k]).
 *
 * Convolutions of any kind and linear layers are all this. A position p is (z, y, x); each step
 * of it is a whole vector, LANES positions (or images) side by side, so every load is aligned.
 * Strides are in floats. All of `sec_shape` is known when the C is compiled.
 *
 * The non-zeros of a sparse layer are cut into blocks of input channels, small enough for what a
 * tile of positions reads to stay in the first-level cache, and chunks of output channels. In each
 * lie rows, one for an output channel, ordered by their number of non-zeros, because short loops of
 * slowly growing length are predicted. A row's header is two bytes: how many non-zeros, and which
 * channel of the chunk, with two flags. A non-zero is one byte, which of the block's (c, k) it is,
 * and its value. */
#ifndef SECATEUR_CONTRACT_H
#define SECATEUR_CONTRACT_H
#include "vector.h"

enum { SEC_FIRST = 128, SEC_LAST = 64 };  /* of a row: begins, ends its output channel */

typedef struct {
  int positions[3];          /* how many vectors of outputs along z, y, x */
  long in[3], out[3], res[3];/* strides of those steps */
  long out_channel, res_channel;
  int act;
  float alpha, beta;
} sec_shape;

struct sec_levels;               /* see quads.h */

typedef struct {
  int blocks, chunks, chunk;     /* chunk: output channels a chunk holds */
  long in_block;                 /* floats from one block of input channels to the next */
  int table;                     /* from one block's offsets to the next's; 0: all the same */
  const uint32_t *start;         /* [blocks * chunks + 1][2]: first row, first non-zero */
  const uint8_t *rows;           /* [rows][2] */
  const uint8_t *codes;
  const float *values;
  const float *bias;             /* [outputs] */
  const int32_t *offset;         /* by code: what it adds to the address, bytes */
  const uint16_t *places;        /* by non-zero: the same, looked up beforehand */
  int unit;                      /* bytes that a place counts: 8, or a vector; 0: there are none */
  int even;                      /* whether every row is: its last one may be two halves */
  int outputs;
} sec_sparse;

/* Look up every non-zero's offset, which spares the innermost loop a load: a tenth of its time. */
SHARED void sec_look_up(const sec_sparse *w, uint16_t *places) {
  for (int b = 0; b < w->blocks; b++) {
    const int32_t *offset = w->offset + (long)b * w->table;
    const uint32_t from = w->start[2 * (long)b * w->chunks + 1];
    const uint32_t to = w->start[2 * (long)(b + 1) * w->chunks + 1];
    for (uint32_t i = from; i < to; i++) places[i] = (uint16_t)(offset[w->codes[i]] / w->unit);
  }
}

/* The non-zeros that come next, in the order in which rows take them. */
typedef struct {
  const char *base;              /* what offsets count from */
  const int32_t *offset;
  const uint8_t *code;
  const uint16_t *place;
  const float *value;
} sec_walk;

/* Add v times th x tw vectors at x to sums. */
INLINE void sec_sparse_add(const sec_shape *g, const float *x, const vec v, vec *sums, const int th,
                           const int tw) {
  UNROLL for (int i = 0; i < th; i++)
    UNROLL for (int j = 0; j < tw; j++)
      sums[i * tw + j] += v * *(const vec *)(x + i * g->in[1] + j * g->in[2]);
}

/* A row of many sums: what counts is that the multiply-adds come without a break. */
INLINE void sec_sparse_many(const sec_sparse *w, const sec_shape *g, sec_walk *at, int count,
                            vec *sums, const int th, const int tw) {
  int k = 0;
#define ADD(i) do { \
    const float *x = (const float *)(at->base + (w->unit ? (size_t)at->place[i] * (size_t)w->unit \
                                                         : (size_t)at->offset[at->code[i]])); \
    OPAQUE(x); \
    sec_sparse_add(g, x, sec_all(at->value[i]), sums, th, tw); \
  } while (0)
  ROLLED for (; k + 2 <= count; k += 2) {
    ADD(k);
    ADD(k + 1);
  }
  ROLLED for (; k < count; k++) ADD(k);
#undef ADD
  at->code += count;
  at->place += count;
  at->value += count;
}

/* The next `turn` non-zeros of a row of few sums, where loads are what is short: they are loaded
   together. Several sets of sums hide the latency of an addition. */
INLINE void sec_sparse_turn(const sec_sparse *w, const sec_shape *g, sec_walk *at, vec *sums,
                            const int turn, const int sets, const int th, const int tw) {
  uint64_t places = 0;
  if (w->unit) memcpy(&places, at->place, (size_t)turn * sizeof *at->place);
  const vec values =
      turn == 4 ? sec_four(at->value) : turn == 2 ? sec_two(at->value) : sec_all(*at->value);
  UNROLL for (int m = 0; m < turn; m++) {
    const size_t place = places >> 16 * m & 0xffff;
    const float *x = (const float *)(at->base + (w->unit ? place * (size_t)w->unit
                                                         : (size_t)at->offset[at->code[m]]));
    if (th * tw > 4) OPAQUE(x);  /* few offsets fit registers, and an index costs nothing */
    const vec v = turn == 4 ? sec_of_four(at->value, values, m)
                  : turn == 2 ? sec_of_two(at->value, values, m) : values;
    sec_sparse_add(g, x, v, sums + m % sets * th * tw, th, tw);
  }
  at->value += turn;
  OPAQUE(at->value);
  if (w->unit) {
    at->place += turn;
    OPAQUE(at->place);
  } else {
    at->code += turn;
    OPAQUE(at->code);
  }
}

INLINE void sec_sparse_tile(const sec_sparse *w, const sec_shape *g, const float *in, float *out,
                            const float *res, int block, int chunk, const int th, const int tw) {
  const int n = th * tw, turn = n <= 2 ? 4 : 2, sets = n <= 2 ? 4 : n <= 8 ? 2 : 1;
  const uint32_t *s = w->start + 2 * ((long)block * w->chunks + chunk);
  const uint8_t *row = w->rows + 2 * (long)s[0], *last_row = w->rows + 2 * (long)s[2];
  sec_walk at = {(const char *)(in + block * w->in_block), w->offset + (long)block * w->table,
                 w->codes + s[1], w->places + s[1], w->values + s[1]};
  const int first = chunk * w->chunk;
  for (; row < last_row; row += 2) {
    const int channel = first + (row[1] & 63);
    float *y = out + channel * g->out_channel;
    vec sums[32];
    if (row[1] & SEC_FIRST) {
      const vec b = sec_all(w->bias[channel]);
      UNROLL for (int i = 0; i < n; i++) sums[i] = b;
    } else {
      UNROLL for (int i = 0; i < th; i++)
        UNROLL for (int j = 0; j < tw; j++)
          sums[i * tw + j] = *(const vec *)(y + i * g->out[1] + j * g->out[2]);
    }
    UNROLL for (int i = n; i < sets * n; i++) sums[i] = sec_all(0);
    if (n > 8) {
      sec_sparse_many(w, g, &at, row[0], sums, th, tw);
    } else {
      const float *stop = at.value + row[0] / turn * turn;
      ROLLED while (at.value != stop) sec_sparse_turn(w, g, &at, sums, turn, sets, th, tw);
      if (turn > 2 && row[0] & 2) sec_sparse_turn(w, g, &at, sums, 2, sets, th, tw);
      if (!w->even && row[0] & 1) sec_sparse_turn(w, g, &at, sums, 1, sets, th, tw);
    }
    UNROLL for (int m = 1; m < sets; m++)
      UNROLL for (int i = 0; i < n; i++) sums[i] += sums[m * n + i];
    if (row[1] & SEC_LAST) {
      if (res) {
        const float *r = res + channel * g->res_channel;
        UNROLL for (int i = 0; i < th; i++)
          UNROLL for (int j = 0; j < tw; j++)
            sums[i * tw + j] += *(const vec *)(r + i * g->res[1] + j * g->res[2]);
      }
      UNROLL for (int i = 0; i < n; i++) sums[i] = sec_act(sums[i], g->act, g->alpha, g->beta);
    }
    UNROLL for (int i = 0; i < th; i++)
      UNROLL for (int j = 0; j < tw; j++)
        *(vec *)(y + i * g->out[1] + j * g->out[2]) = sums[i * tw + j];
  }
}

INLINE void sec_sparse_tiles(const sec_sparse *w, const sec_shape *g, const float *in, float *out,
                             const float *res, int c0, int c1, const int th, const int tw) {
  for (int b = 0; b < w->blocks; b++)
    for (int c = c0; c < c1; c++) sec_sparse_tile(w, g, in, out, res, b, c, th, tw);
}

/* What is done at a tile is a function that layers share: copies of it would be most of the time that
   compiling takes. There are up to four of a layer: for whole tiles and for what is left at the right,
   at the bottom and in the corner, which tiles of their own size do. */
typedef void sec_sparse_spot(const sec_sparse *w, const struct sec_levels *q, const float *in,
                             float *out, const float *res, int c0, int c1);

/* What a tile at (y, x) of plane z reads and writes, and adds. */
#define SEC_AT(z, y, x) \
  in + (z) * g->in[0] + (y) * g->in[1] + (x) * g->in[2], \
  out + (z) * g->out[0] + (y) * g->out[1] + (x) * g->out[2], \
  res ? res + (z) * g->res[0] + (y) * g->res[1] + (x) * g->res[2] : 0

/* SPOT(which, z, y, x) at every tile of a layer. */
#define SEC_EACH_SPOT(SPOT) do { \
    const int ny = g->positions[1], nx = g->positions[2], rh = ny % th, rw = nx % tw; \
    for (int z = 0; z < g->positions[0]; z++) \
      for (int y = 0; y < ny; y += th) { \
        const int low = y + th > ny ? 2 : 0, at = low ? ny - rh : y; \
        for (int x = 0; x + tw <= nx; x += tw) SPOT(low, z, at, x); \
        if (rw) SPOT(low + 1, z, at, nx - rw); \
      } \
  } while (0)

/* The whole layer, in tiles of th x tw vectors; threads share the chunks. Chunks that read inputs of
   their own (`apart`) are done one after the other, for all positions, so that these stay near. */
SHARED void sec_sparse_layer(const sec_sparse *w, const struct sec_levels *q, const sec_shape *g,
                             const float *in, float *out, const float *res, int t, int T,
                             sec_sparse_spot *const *spots, int th, int tw, int apart) {
  const int c0 = (int)sec_share(w->chunks, t, T), c1 = (int)sec_share(w->chunks, t + 1, T);
  for (int c = c0; c < c1; c += apart ? 1 : c1 - c0) {
    const int end = apart ? c + 1 : c1;
#define SPOT(which, z, y, x) spots[which](w, q, SEC_AT(z, y, x), c, end)
    SEC_EACH_SPOT(SPOT);
#undef SPOT
  }
}

/* A dense layer. Weights lie as [output / 16][channel of its group][k][16]. Where there are levels, it
   works on quads (see quads.h): inputs, weights and biases are then words, not floats. */
typedef struct {
  int outputs, groups, channels, taps;  /* outputs of one group, input channels of one group */
  int channels_a_block;
  long in_channel;
  const float *weights;
  const float *bias;
  const int32_t *offset;                /* [taps], bytes */
  const struct sec_levels *levels;
} sec_dense;

INLINE void sec_dense_tile(const sec_dense *w, const sec_shape *g, const float *in, float *out,
                           const float *res, const float *weights, int output, int from, int to,
                           const int ob, const int th, const int tw) {
  vec acc[8][24];
  UNROLL for (int o = 0; o < ob; o++) {
    float *y = out + (output + o) * g->out_channel;
    if (from == 0) {
      const vec b = sec_all(w->bias[output + o]);
      UNROLL for (int i = 0; i < th * tw; i++) acc[o][i] = b;
    } else {
      UNROLL for (int i = 0; i < th; i++)
        UNROLL for (int j = 0; j < tw; j++)
          acc[o][i * tw + j] = *(const vec *)(y + i * g->out[1] + j * g->out[2]);
    }
  }
  for (int c = from; c < to; c++) {
    const char *base = (const char *)(in + c * w->in_channel);
    const float *v = weights + (long)c * w->taps * 16;
    ROLLED for (int k = 0; k < w->taps; k++, v += 16) {
      const float *x = (const float *)(base + w->offset[k]);
      OPAQUE(x);
      vec p[24];
      UNROLL for (int i = 0; i < th; i++)
        UNROLL for (int j = 0; j < tw; j++)
          p[i * tw + j] = *(const vec *)(x + i * g->in[1] + j * g->in[2]);
      UNROLL for (int o = 0; o < ob; o++) {
        const vec b = sec_all(v[o]);
        UNROLL for (int i = 0; i < th * tw; i++) acc[o][i] += b * p[i];
      }
    }
  }
  UNROLL for (int o = 0; o < ob; o++) {
    float *y = out + (output + o) * g->out_channel;
    if (to == w->channels) {
      if (res) {
        const float *r = res + (output + o) * g->res_channel;
        UNROLL for (int i = 0; i < th; i++)
          UNROLL for (int j = 0; j < tw; j++)
            acc[o][i * tw + j] += *(const vec *)(r + i * g->res[1] + j * g->res[2]);
      }
      UNROLL for (int i = 0; i < th * tw; i++)
        acc[o][i] = sec_act(acc[o][i], g->act, g->alpha, g->beta);
    }
    UNROLL for (int i = 0; i < th; i++)
      UNROLL for (int j = 0; j < tw; j++)
        *(vec *)(y + i * g->out[1] + j * g->out[2]) = acc[o][i * tw + j];
  }
}

/* What of a layer is done at a tile: outputs in units of `ob`, and channels [from, to), or all of them,
   block after block, where `to` is -1. */
typedef struct {
  long q0, q1;
  int from, to;
} sec_part;

/* One group is the usual case, and spares a division by what is not known. */
typedef struct {
  const float *in, *weights;
  int output, left;              /* the first output, and how many there are from it on */
} sec_unit;

INLINE sec_unit sec_unit_of(const sec_dense *w, const float *in, const long q, const int ob) {
  const int a_group = (w->outputs + ob - 1) / ob;
  const int group = w->groups == 1 ? 0 : (int)(q / a_group);
  const int o = (int)(q - (long)group * a_group) * ob;
  return (sec_unit){
      in + (long)group * w->channels * w->in_channel,
      w->weights + 16 * ((long)group * ((w->outputs + 15) / 16) + o / 16) * w->channels * w->taps + o % 16,
      group * w->outputs + o, w->outputs - o};
}

INLINE void sec_dense_tiles(const sec_dense *w, const sec_shape *g, const float *in, float *out,
                            const float *res, const sec_part *part, const int ob, const int th,
                            const int tw) {
  const int step = w->channels_a_block, end = part->to < 0 ? w->channels : part->to;
  for (int from = part->from; from < end || from == part->from; from += step) {
    const int to = from + step < end ? from + step : end;
    for (long q = part->q0; q < part->q1; q++) {
      const sec_unit u = sec_unit_of(w, in, q, ob);
      if (u.left >= ob)
        sec_dense_tile(w, g, u.in, out, res, u.weights, u.output, from, to, ob, th, tw);
      else for (int i = 0; i < u.left; i++)
        sec_dense_tile(w, g, u.in, out, res, u.weights + i, u.output + i, from, to, 1, th, tw);
    }
  }
}

typedef void sec_dense_spot(const sec_dense *w, const sec_shape *g, const float *in, float *out,
                            const float *res, const sec_part *part);

/* The whole layer, in tiles as a sparse one. Where `heavy`, weights are what there is more of: each is
   read once, for all positions; else each input is, for all outputs. */
SHARED void sec_dense_layer(const sec_dense *w, const sec_shape *g, const float *in, float *out,
                            const float *res, int t, int T, sec_dense_spot *const *spots, int ob,
                            int th, int tw, int heavy) {
  const long units = (long)w->groups * ((w->outputs + ob - 1) / ob);
  const long q0 = sec_share(units, t, T), q1 = sec_share(units, t + 1, T);
  const int step = heavy ? w->channels_a_block : w->channels + !w->channels;
  for (int from = 0; from < w->channels || from == 0; from += step)
    for (long q = q0; q < q1; q += heavy ? 1 : q1 - q0) {
      const sec_part part = {q, heavy ? q + 1 : q1, from,
                             heavy ? SEC_LEAST(from + step, w->channels) : -1};
#define SPOT(which, z, y, x) spots[which](w, g, SEC_AT(z, y, x), &part)
      SEC_EACH_SPOT(SPOT);
#undef SPOT
    }
}
#endif
