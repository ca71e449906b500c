/* Engines: how a batch is cut into tiles, who runs them, in which memory. */
#include "system.h"
#include <string.h>
#define SEC_EXPORT 1
#include "runtime.h"
#include "guard.h"
#include "pool.h"
#include SEC_HEADER

#define M (&sec_the_model)

enum { OK, WRONG_BATCH, NO_MEMORY, NO_PROGRAM };
enum { KEPT = 8, LINE = 64 };

/* A tile of the smallest program costs about this many times its share of a full larger tile. */
enum { FILLED = 4 };

/* ---- Constants: decoded and prepared once, for all engines together. ---- */

static struct {
  int lock;       /* process that has it; 0: free */
  size_t users;
  char *decoded, *prepared;
} constants;

static void take_constants(void) {
  const int me = sec_process();
  for (;;) {
    int owner = __atomic_load_n(&constants.lock, __ATOMIC_RELAXED);
    if (owner != me && __atomic_compare_exchange_n(&constants.lock, &owner, me, 0, __ATOMIC_ACQUIRE,
                                                   __ATOMIC_RELAXED))
      return;
    sec_yield();
  }
}

static void give_constants(void) { __atomic_store_n(&constants.lock, 0, __ATOMIC_RELEASE); }

static float half(uint16_t h) {
  /* the exponent starts from 15 in a half, from 127 in a float; also right for subnormals */
  union { uint32_t i; float f; } x = {(uint32_t)(h & 0x7fff) << 13};
  x.f *= 0x1p112f;
  if ((h & 0x7c00) == 0x7c00) x.i |= 0x7f800000;
  x.i |= (uint32_t)(h & 0x8000) << 16;
  return x.f;
}

static void decode(char *decoded) {
  for (size_t s = 0; s < M->section_count; s++) {
    const sec_section *p = M->sections + s;
    const unsigned char *from = M->stored + p->from;
    if (p->kind == 0) memcpy(decoded + p->to, from, p->count);
    for (size_t i = 0; p->kind && i < p->count; i++) {
      uint16_t narrow;
      memcpy(&narrow, from + 2 * i, 2);
      union { uint32_t i; float f; } wide = {(uint32_t)narrow << 16};
      if (p->kind == 1) wide.f = half(narrow);
      memcpy(decoded + p->to + 4 * i, &wide, 4);
    }
  }
}

static const char *weights(void) {
  return constants.decoded ? constants.decoded : (const char *)M->stored;
}

static void drop_constants(void) {
  sec_release(constants.decoded);
  sec_release(constants.prepared);
  constants.decoded = constants.prepared = 0;
}

static int use_constants(void) {
  int done = 1;
  take_constants();
  if (!constants.users) {
    drop_constants();  /* left where a fork came in between */
    if (M->section_count && (constants.decoded = sec_allocate(M->decoded_bytes)))
      decode(constants.decoded);
    if (M->prepared_bytes && (constants.prepared = sec_allocate(M->prepared_bytes)))
      M->prepare(weights(), constants.prepared);
    done = (!M->section_count || constants.decoded) && (!M->prepared_bytes || constants.prepared);
    if (!done) drop_constants();
  }
  constants.users += (size_t)done;
  give_constants();
  return done;
}

static void leave_constants(void) {
  take_constants();
  if (--constants.users == 0) drop_constants();
  give_constants();
}

/* ---- Calls: scratch memory, and the tiles of a batch. ---- */

typedef struct {
  char *memory;
  size_t bytes;
} arena;

typedef struct {
  size_t first, tiles, rest;  /* first sample; full tiles; samples of a last one, partly filled */
  size_t alone;               /* tiles that one thread runs by itself */
} share;

/* What a call needs and the next can use again: an arena for each thread, a share for each
   program. */
typedef struct {
  arena *arenas;
  share *shares;
} context;

struct SEC_NAME(engine) {
  int threads;
  sec_pool *pool;
  context *free[KEPT];  /* each slot is taken and given back in one exchange: no lock */
};
typedef struct SEC_NAME(engine) engine;

typedef struct {
  const context *context;
  const void *const *inputs;
  void *const *outputs;
  size_t alone, next;  /* tiles that are run by one thread each, over all programs; the next one */
  double *seconds;     /* of each thread, of each step; or null */
  size_t steps;
} call;

static void free_context(const engine *e, context *c) {
  if (!c) return;
  for (int t = 0; c->arenas && t < e->threads; t++) sec_release(c->arenas[t].memory);
  free(c->arenas);
  free(c->shares);
  free(c);
}

static context *take_context(engine *e) {
  for (int i = 0; i < KEPT; i++) {
    context *c = __atomic_exchange_n(&e->free[i], 0, __ATOMIC_ACQ_REL);
    if (c) return c;
  }
  context *c = calloc(1, sizeof *c);
  if (!c) return 0;
  c->arenas = calloc((size_t)e->threads, sizeof *c->arenas);
  c->shares = calloc(M->program_count, sizeof *c->shares);
  if (c->arenas && c->shares) return c;
  free_context(e, c);
  return 0;
}

static void give_context(engine *e, context *c) {
  for (int i = 0; i < KEPT; i++) {
    context *none = 0;
    if (__atomic_compare_exchange_n(&e->free[i], &none, c, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
      return;
  }
  free_context(e, c);
}

/* Give `samples` from `first` on to one program. */
static void by_one(share *shares, size_t program, size_t first, size_t samples) {
  const size_t tile = M->programs[program].batch;
  shares[program] = (share){first, samples / tile, samples % tile, 0};
}

/* Give a batch to the programs, the same way for any number of threads. */
static void by_all(share *shares, size_t batch) {
  size_t first = 0;
  for (size_t p = M->program_count; p-- > 0;) {
    const size_t tile = M->programs[p].batch, left = (batch - first) % tile;
    by_one(shares, p, first, batch - first - left);
    first = batch - left;
    if (!left) continue;
    const size_t smaller = p ? M->programs[p - 1].batch : 0;
    const size_t cost = p > 1 ? (left + smaller - 1) / smaller * smaller : left * FILLED;
    if (p && cost >= tile) {
      shares[p].rest = left;
      first = batch;
    }
  }
}

static int reserve(arena *a, size_t bytes) {
  if (a->memory && a->bytes >= bytes) return 1;
  sec_release(a->memory);
  a->memory = sec_allocate(bytes);
  a->bytes = a->memory ? bytes : 0;
  return a->memory != 0;
}

/* Decide which tiles one thread runs by itself; make room for them. */
static int arrange(call *c, int threads) {
  size_t whole = LINE, alone = LINE;  /* bytes for tiles of the whole team; of one thread */
  c->alone = c->next = 0;
  for (size_t p = 0; p < M->program_count; p++) {
    share *s = c->context->shares + p;
    const size_t bytes = M->programs[p].arena;
    s->alone = M->programs[p].alone ? s->tiles + (s->rest != 0)
                                    : s->tiles / (size_t)threads * (size_t)threads;
    c->alone += s->alone;
    if (s->alone && bytes > alone) alone = bytes;
    if ((s->tiles > s->alone || s->rest) && bytes > whole) whole = bytes;
  }
  for (int t = 0; t < (c->alone ? threads : 1); t++)
    if (!reserve(c->context->arenas + t, t || alone > whole ? alone : whole)) return 0;
  return 1;
}

static void run_steps(const sec_program *p, size_t from, size_t to, const sec_frame *frame,
                      double *seconds, sec_pool *team, int thread, int threads) {
  for (size_t k = from; k < to; k++) {
    const double start = seconds ? sec_now() : 0;
    p->step[k](frame, thread, threads);
    sec_meet(team);
    if (seconds) seconds[k] += sec_now() - start;
  }
}

static void run_tile(const call *c, size_t program, size_t number, char *memory, double *seconds,
                     sec_pool *team, int thread, int threads) {
  const sec_program *p = M->programs + program;
  const share *s = c->context->shares + program;
  const size_t count = number < s->tiles ? p->batch : s->rest;
  sec_frame frame = {memory, weights(), constants.prepared, c->inputs, c->outputs,
                     s->first + number * p->batch, count, 0};
  for (; p->looped && frame.sample < count; frame.sample++)
    run_steps(p, 0, p->looped, &frame, seconds, team, thread, threads);
  frame.sample = 0;
  run_steps(p, p->looped, p->steps, &frame, seconds, team, thread, threads);
}

static void work(void *job, sec_pool *team, int thread, int threads) {
  call *c = job;
  const context *own = c->context;
  double *seconds = c->seconds ? c->seconds + (size_t)thread * c->steps : 0;
  for (;;) {
    size_t number = __atomic_fetch_add(&c->next, 1, __ATOMIC_RELAXED), p = 0;
    if (number >= c->alone) break;
    while (number >= own->shares[p].alone) number -= own->shares[p++].alone;
    run_tile(c, p, number, own->arenas[thread].memory, seconds, 0, 0, 1);
  }
  if (c->alone) sec_meet(team);  /* the first arena is everybody's from here on */
  for (size_t p = 0; p < M->program_count; p++) {
    const share *s = own->shares + p;
    for (size_t number = s->alone; number < s->tiles + (s->rest != 0); number++)
      run_tile(c, p, number, own->arenas[0].memory, seconds, team, thread, threads);
  }
}

/* Whether there is nothing for a second thread: at most one tile, which one thread runs. */
static int needs_one(const call *c) {
  size_t tiles = 0;
  for (size_t p = 0; p < M->program_count; p++)
    tiles += c->context->shares[p].tiles + (c->context->shares[p].rest != 0);
  return c->alone == tiles && tiles <= 1;
}

static int do_call(engine *e, call *c, int repeats) {
  const int taken = sec_pool_take(e->pool);
  const int ready = arrange(c, taken), threads = ready && needs_one(c) ? 1 : taken;
  for (int i = 0; ready && i < repeats; i++) {
    c->next = 0;
    if (threads > 1) sec_pool_run(e->pool, work, c);
    else work(c, 0, 0, 1);
  }
  if (taken > 1) sec_pool_give(e->pool);
  /* times of the threads add up to those of the team, whether it worked together or not */
  for (size_t k = 0; ready && k < c->steps; k++) {
    for (int t = 1; t < threads; t++) c->seconds[k] += c->seconds[(size_t)t * c->steps + k];
    c->seconds[k] /= (double)threads * repeats;
  }
  return ready ? OK : NO_MEMORY;
}

static int wrong_batch(size_t batch) { return M->fixed_batch && batch != M->programs[0].batch; }

/* ---- The public functions; see the header. ---- */

const char *SEC_NAME(info)(void) { return M->info; }
size_t SEC_NAME(inputs)(void) { return M->inputs; }
size_t SEC_NAME(outputs)(void) { return M->outputs; }
size_t SEC_NAME(input_bytes)(size_t i) { return i < M->inputs ? M->input_bytes[i] : 0; }
size_t SEC_NAME(output_bytes)(size_t i) { return i < M->outputs ? M->output_bytes[i] : 0; }
size_t SEC_NAME(fixed_batch)(void) { return M->fixed_batch ? M->programs[0].batch : 0; }
size_t SEC_NAME(programs)(void) { return M->program_count; }
size_t SEC_NAME(tile)(size_t p) { return p < M->program_count ? M->programs[p].batch : 0; }
size_t SEC_NAME(steps)(size_t p) { return p < M->program_count ? M->programs[p].steps : 0; }
const char *SEC_NAME(step_name)(size_t p, size_t k) {
  return k < SEC_NAME(steps)(p) ? M->programs[p].names[k] : 0;
}
int SEC_NAME(threads)(const engine *e) { return e->threads; }

const char *SEC_NAME(error_text)(int code) {
  switch (code) {
    case OK: return "no error";
    case WRONG_BATCH: return "the batch is not the one that this network is fixed to";
    case NO_MEMORY: return "out of memory";
    case NO_PROGRAM: return "there is no such program";
    default: return "unknown error";
  }
}

engine *SEC_NAME(create)(int threads, const char **error) {
  static char text[96];  /* always the same text */
  const char *why = 0, *lacking = sec_lacking();
  engine *e = 0;
  if (lacking) {
    snprintf(text, sizeof text, "this engine needs %s, which this processor lacks", lacking);
    why = text;
  } else if (threads < 0 || threads > 1024) {
    why = "the number of threads is not between 0 and 1024";
  } else if (!(e = calloc(1, sizeof *e))) {
    why = "out of memory";
  } else if (!use_constants()) {
    free(e);
    e = 0;
    why = "out of memory";
  } else {
    e->threads = threads ? threads : sec_cores();
    e->pool = sec_pool_make(e->threads);
    if (!e->pool) {
      SEC_NAME(destroy)(e);
      e = 0;
      why = "out of memory";
    }
  }
  if (error) *error = why;
  return e;
}

void SEC_NAME(destroy)(engine *e) {
  if (!e) return;
  sec_pool_free(e->pool);
  for (int i = 0; i < KEPT; i++) free_context(e, e->free[i]);
  free(e);
  leave_constants();
}

int SEC_NAME(run)(engine *e, const void *const *inputs, void *const *outputs, size_t batch) {
  if (wrong_batch(batch)) return WRONG_BATCH;
  if (!batch) return OK;
  context *own = take_context(e);
  if (!own) return NO_MEMORY;
  by_all(own->shares, batch);
  call c = {own, inputs, outputs, 0, 0, 0, 0};
  const int code = do_call(e, &c, 1);
  give_context(e, own);
  return code;
}

size_t SEC_NAME(program_for)(size_t batch) {
  size_t best = 0, most = 0, first = 0, end;
  share *shares = calloc(M->program_count, sizeof *shares);
  if (!shares || wrong_batch(batch)) {
    free(shares);
    return 0;
  }
  by_all(shares, batch);
  for (size_t p = M->program_count; p-- > 0; first = end) {
    end = p ? shares[p - 1].first : batch;
    if (end - first > most) {
      most = end - first;
      best = p;
    }
  }
  free(shares);
  return best;
}

int SEC_NAME(profile)(engine *e, const void *const *inputs, void *const *outputs, size_t batch,
                      int repeats, double *seconds, size_t program) {
  if (wrong_batch(batch)) return WRONG_BATCH;
  if (program >= M->program_count) return NO_PROGRAM;
  const size_t steps = M->programs[program].steps;
  double *all = calloc((size_t)e->threads * steps, sizeof *all);
  context *own = take_context(e);
  int code = NO_MEMORY;
  if (all && own) {
    memset(own->shares, 0, M->program_count * sizeof *own->shares);
    by_one(own->shares, program, 0, batch);
    call c = {own, inputs, outputs, 0, 0, all, steps};
    code = do_call(e, &c, repeats < 1 ? 1 : repeats);
    if (!code) memcpy(seconds, all, steps * sizeof *all);
  }
  if (own) give_context(e, own);
  free(all);
  return code;
}
