"""A network written by hand, so that tests of runtime and toolchain need no code generator.

y = 2x + 11w for samples of 501 floats; a second output says which program ran each sample and,
where tiles are for one thread alone, ten times how many threads it had. It has 100 added where the
first tile found anything but zeros at samples that it has not. Steps read what other
threads wrote in the step before.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

WIDTH = 501
TILE = 8
WEIGHTS = np.random.default_rng(3).standard_normal(WIDTH).astype(np.float32)
WEIGHTS[:6] = [0.0, -0.0, 6e-8, -3e-6, 65504.0, 1.0]  # half: zeros, subnormals, the largest

_MODEL = """
#include "runtime.h"
#define WIDTH 501
extern const unsigned char sec_stored[];

static size_t from(size_t n, int t, int T) { return n * (size_t)t / (size_t)T; }
#define EACH(n) for (size_t j = from(n, t, T); j < from(n, t + 1, T); j++)
#define VALUES size_t n = f->count * WIDTH; float *a = (float *)f->arena, *b = a + TILE * WIDTH

static void twice(const sec_frame *f, int t, int T) {
  VALUES;
  (void)b;
  const float *x = (const float *)f->inputs[0] + f->first * WIDTH;
  EACH(n) a[j] = 2 * x[j];
}
static void twice1(const sec_frame *f, int t, int T) { /* runs once for each sample */
  float *a = (float *)f->arena + f->sample * WIDTH;
  const float *x = (const float *)f->inputs[0] + (f->first + f->sample) * WIDTH;
  EACH(WIDTH) a[j] = 2 * x[j];
}
static void turn(const sec_frame *f, int t, int T) {
  VALUES;
  EACH(n) b[j] = a[n - 1 - j];
}
static void add(const sec_frame *f, int t, int T) {
  VALUES;
  const float *w = (const float *)f->weights, *ten = (const float *)f->prepared;
  float *y = (float *)f->outputs[0] + f->first * WIDTH;
  (void)a;
  EACH(n) y[j] = b[n - 1 - j] + (w[j % WIDTH] + ten[j % WIDTH]);
}
static void tell(const sec_frame *f, int t, int T, int64_t program) {
  int64_t *y = (int64_t *)f->outputs[1] + f->first;
  EACH(f->count) y[j] = ALONE ? 10 * T + program : program;
}
static void tell0(const sec_frame *f, int t, int T) { tell(f, t, T, 0); }
static void tell1(const sec_frame *f, int t, int T) {
  int64_t found = 0;
  for (size_t j = f->count * WIDTH; !f->first && j < TILE * WIDTH; j++)
    if (((float *)f->arena)[j] != 0) found = 100;
  tell(f, t, T, 1 + found);
}
static void prepare(const char *weights, char *prepared) {
  for (int j = 0; j < WIDTH; j++) ((float *)prepared)[j] = 10 * ((const float *)weights)[j];
}

static const sec_step steps0[] = {twice, turn, add, tell0}, steps1[] = {twice1, turn, add, tell1};
static const char *const names0[] = {"Twice", "Turn", "Add", "Tell 0"};
static const char *const names1[] = {"Twice", "Turn", "Add", "Tell 1"};
#define STAGED (4 * WIDTH * TILE)
#define ARENA (2 * STAGED)
static const sec_program programs[] = {
  {.batch = 1, .arena = ARENA, .steps = 4, .cost = 4, .alone = ALONE, .step = steps0,
   .names = names0},
  {.batch = TILE, .arena = ARENA, .staged = STAGED, .steps = 4, .looped = 1, .cost = TILE,
   .alone = ALONE, .step = steps1,
   .names = names1}};
static const size_t input_bytes[] = {4 * WIDTH}, output_bytes[] = {4 * WIDTH, 8};
static const sec_section sections[] = {{0, 0, WIDTH, SECTION}};
const sec_model sec_the_model = {
  INFO, 1, 2, input_bytes, output_bytes, programs, FIXED ? 1 : 2, FIXED, sec_stored,
  sizeof(short) * WIDTH, 4 * WIDTH, sections, SECTION ? 1 : 0, 4 * WIDTH, prepare, 0, 0};
"""


def model(*, section: int = 0, fixed: bool = False, alone: bool = False) -> dict[str, str]:
    """Return the generated C; section: 0 float32 weights, 1 half, 2 bfloat16."""
    head = f"#define TILE {TILE}\n#define SECTION {section}\n#define FIXED {int(fixed)}\n"
    head += f"#define ALONE {int(alone)}\n"
    head += f"#define INFO {json.dumps(json.dumps(network(fixed=fixed)))}\n"
    return {"model.c": head + _MODEL}


def network(*, fixed: bool = False) -> dict[str, Any]:
    lead = [1] if fixed else []
    return {
        "name": "tiny",
        "secateur": "0",
        "batched": not fixed,
        "values": "fp32",
        "origin": "",
        "inputs": [{"name": "x", "dtype": "float32", "shape": [*lead, WIDTH]}],
        "outputs": [
            {"name": "y", "dtype": "float32", "shape": [*lead, WIDTH]},
            {"name": "program", "dtype": "int64", "shape": lead},
        ],
        "batches": [1] if fixed else [1, TILE],
    }


def stored(section: int = 0) -> bytes:
    if section == 1:
        return WEIGHTS.astype(np.float16).tobytes()
    if section == 2:
        return (WEIGHTS.view(np.uint32) >> 16).astype(np.uint16).tobytes()
    return WEIGHTS.tobytes()


def samples(batch: int) -> np.ndarray:
    return np.random.default_rng(batch).standard_normal((batch, WIDTH)).astype(np.float32)


def expected(x: np.ndarray, weights: np.ndarray = WEIGHTS) -> np.ndarray:
    return np.float32(2) * x + (weights + np.float32(10) * weights)
