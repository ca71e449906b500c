/* What a compiled network (model.c, generated) and the runtime (runtime.c) know of each other. */
#ifndef SECATEUR_RUNTIME_H
#define SECATEUR_RUNTIME_H
#include <stddef.h>
#include <stdint.h>
#include "names.h"

/* One tile of work: `count` samples from sample `first` on, of the caller's arrays. */
typedef struct {
  char *arena;               /* scratch memory of this team, 64-byte aligned */
  const char *weights;       /* the constants, 64-byte aligned, 16-bit values already decoded */
  const char *prepared;      /* what sec_model.prepare made of them, 64-byte aligned */
  const void *const *inputs; /* row-major arrays of the caller, in the order of the network's inputs */
  void *const *outputs;
  size_t first, count;
  size_t sample;             /* of the tile, in a step that runs once for each; else 0 */
} sec_frame;

/* One operator. It does its share of the work, of thread `thread` of `threads`; which thread does
   what never changes a result. A barrier follows. */
typedef void (*sec_step)(const sec_frame *frame, int thread, int threads);

typedef struct {
  size_t batch;              /* samples a tile holds */
  size_t arena;              /* bytes of scratch memory a team needs */
  size_t staged;             /* its first bytes, where looped steps leave what the others read */
  size_t steps;
  size_t looped;             /* so many first steps run sample by sample, the others once a tile */
  size_t cost;               /* of a tile, full or not, beside those of other programs */
  int alone;                 /* whether a tile is too little work for several threads */
  const sec_step *step;
  const char *const *names;  /* what each step does, for profiles */
} sec_program;

/* Constants are stored narrow and decoded once, when an engine is made. With no sections that
   need decoding, the stored bytes are used where they lie. */
typedef struct {
  size_t from, to, count;    /* byte offset in the stored data, in the decoded data, number of values */
  int kind;                  /* 0: bytes as they are, 1: IEEE half -> float, 2: bfloat16 -> float */
} sec_section;

/* An input of indices, `width` bytes each, and what they may be. */
typedef struct {
  size_t input, width;
  int64_t low, high;
} sec_range;

typedef struct {
  const char *info;                /* JSON: see artifact.py */
  size_t inputs, outputs;
  const size_t *input_bytes;       /* of one sample; of the whole array where batch is fixed */
  const size_t *output_bytes;
  const sec_program *programs;     /* ascending by batch; the first has batch 1 */
  size_t program_count;
  size_t fixed;                    /* samples of every call, whose batch the caller counts as 1; or 0 */
  const unsigned char *stored;     /* 64-byte aligned */
  size_t stored_bytes, decoded_bytes;
  const sec_section *sections;
  size_t section_count;
  size_t prepared_bytes;           /* memory that prepare fills, once, when an engine is made */
  void (*prepare)(const char *weights, char *prepared);  /* null where prepared_bytes is 0 */
  const sec_range *ranges;
  size_t range_count;
} sec_model;

extern const sec_model sec_the_model;
#endif
