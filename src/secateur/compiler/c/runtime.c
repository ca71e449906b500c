/* Engines: how a batch is cut into tiles, who runs them, in which memory. */
#include "system.h"
#include <string.h>
#define SEC_EXPORT 1
#include "runtime.h"
#include "constants.h"
#include "guard.h"
#include "pool.h"
#include "ranges.h"
#include SEC_HEADER

enum { OK, WRONG_BATCH, NO_MEMORY, NO_PROGRAM, WRONG_INDEX };
enum { KEPT = 8, LINE = 64, PROGRAMS = 8 };
enum { SELDOM = 64, RARELY = 4096, TRIED = 3 };  /* calls: between trials, at most; of a trial */

/* ---- Calls: scratch memory, and the tiles of a batch. ---- */

typedef struct {
  char *memory;
  size_t bytes;
} arena;

typedef struct {
  size_t first, tiles, rest;  /* first sample; full tiles; samples of a last one, partly filled */
  size_t alone;               /* tiles that one thread runs by itself */
} share;

/* What a call needs and the next can use again: an arena for each thread. */
typedef struct {
  arena *arenas;
} context;

/* Whether a team is faster than one thread at batches of a size: it need not be, where its cores
   share no cache or another process has one of them. Only who has the pool looks at this. */
typedef struct {
  size_t batch;
  int usual;        /* threads that calls have; others are tried now and then */
  int calls, next;  /* since the last trial; when the next one begins */
  double best[2];   /* seconds: of one thread; of the team */
} habit;

struct SEC_NAME(engine) {
  int threads;
  sec_pool *pool;
  habit habit;
  context *free[KEPT];  /* each slot is taken and given back in one exchange: no lock */
};
typedef struct SEC_NAME(engine) engine;

typedef struct {
  const context *context;
  const void *const *inputs;
  void *const *outputs;
  size_t alone;        /* tiles that are run by one thread each, over all programs */
  double *seconds;     /* of each thread, of each step; or null */
  size_t steps;
  share shares[PROGRAMS];
} call;

typedef char call_fits_a_job[sizeof(call) <= SEC_JOB ? 1 : -1];

static void free_context(const engine *e, context *c) {
  if (!c) return;
  for (int t = 0; c->arenas && t < e->threads; t++) sec_release(c->arenas[t].memory);
  free(c->arenas);
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
  if (c->arenas) return c;
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
    const sec_program *large = M->programs + p, *small = p ? large - 1 : 0;
    const size_t left = (batch - first) % large->batch;
    by_one(shares, p, first, batch - first - left);
    first = batch - left;
    if (small && (left + small->batch - 1) / small->batch * small->cost >= large->cost) {
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
  c->alone = 0;
  for (size_t p = 0; p < M->program_count; p++) {
    share *s = c->shares + p;
    const size_t bytes = M->programs[p].arena;
    s->alone = M->programs[p].alone ? s->tiles + (s->rest != 0)
                                    : s->tiles / (size_t)threads * (size_t)threads;
    c->alone += s->alone;
    if (s->alone && bytes > alone) alone = bytes;
    if ((s->tiles > s->alone || s->rest) && bytes > whole) whole = bytes;
  }
  for (int t = 0; t < (c->alone ? threads : 1); t++)
    if (!reserve(c->context->arenas + t, t || alone > whole ? alone : whole)) return 0;
  /* a tile that is not full computes on samples that nobody gave: zeros, since numbers that other
     layers left may be so small that the processor takes a hundred times as long */
  for (size_t p = 0; p < M->program_count; p++)
    for (int t = 0; c->shares[p].rest && t < (c->alone ? threads : 1); t++)
      memset(c->context->arenas[t].memory, 0, M->programs[p].staged);
  return 1;
}

/* Run steps of a program on a tile, `team` being where its threads are, or null for one by itself. */
static void run_steps(const call *c, const sec_program *p, size_t from, size_t to, sec_frame frame,
                      int owner, sec_progress *team, double *seconds) {
  const int threads = team ? team->threads : 1;
  const double weight = c->alone ? threads : 1;  /* times of tiles are summed over threads */
  for (size_t k = from; k < to; k++) {
    const double start = seconds ? sec_now() : 0;
    for (int i = 0; i < threads; i++) {  /* its own part first, then what others have not begun */
      const int part = team ? (team->thread + i) % threads : 0;
      if (team && !sec_claim(team, part)) continue;
      frame.arena = c->context->arenas[owner].memory;
      p->step[k](&frame, part, threads);
      if (team) sec_did(team);
    }
    if (team) sec_meet(team, 0);
    if (seconds) seconds[k] += weight * (sec_now() - start);
  }
}

static void run_tile(const call *c, size_t program, size_t number, int owner, sec_progress *team,
                     double *seconds) {
  const sec_program *p = M->programs + program;
  const share *s = c->shares + program;
  const size_t count = number < s->tiles ? p->batch : s->rest;
  sec_frame frame = {0, weights(), constants.prepared, c->inputs, c->outputs,
                     s->first + number * p->batch, count, 0};
  for (; p->looped && frame.sample < count; frame.sample++)
    run_steps(c, p, 0, p->looped, frame, owner, team, seconds);
  frame.sample = 0;
  run_steps(c, p, p->looped, p->steps, frame, owner, team, seconds);
}

static void work(const void *job, sec_progress *at) {
  const call *c = job;
  uint64_t tile = 0;
  for (size_t p = 0; c->alone && p < M->program_count; p++)
    for (size_t number = 0; number < c->shares[p].alone; number++, tile++) {
      if (!sec_take(at, tile)) continue;
      double *seconds = c->seconds ? c->seconds + (size_t)at->thread * c->steps : 0;
      run_tile(c, p, number, at->thread, 0, seconds);
      sec_did(at);
    }
  if (c->alone) sec_meet(at, c->alone);  /* the first arena is everybody's from here on */
  sec_progress *team = at->pool ? at : 0;
  /* a late thread may not touch the caller's memory: the caller has the times */
  double *seconds = at->thread ? 0 : c->seconds;
  for (size_t p = 0; p < M->program_count; p++) {
    const share *s = c->shares + p;
    for (size_t number = s->alone; number < s->tiles + (s->rest != 0); number++)
      run_tile(c, p, number, 0, team, seconds);
  }
}

/* Whether there is nothing for a second thread: at most one tile, which one thread runs. */
static int needs_one(const call *c) {
  size_t tiles = 0;
  for (size_t p = 0; p < M->program_count; p++)
    tiles += c->shares[p].tiles + (c->shares[p].rest != 0);
  return c->alone == tiles && tiles <= 1;
}

/* Return the threads for the next call of such a batch. */
static int threads_for(habit *h, size_t batch, int team) {
  if (h->batch != batch) *h = (habit){batch, team, 0, SELDOM, {0, 0}};
  const int other = h->usual == 1 ? team : 1;
  if (h->calls < h->next) return h->usual;
  if (h->calls == h->next) h->best[other > 1] = 0;
  return other;
}

/* Note how long a call took; after a trial, keep what was faster, and try less often what is not. */
static void note(habit *h, int threads, double seconds) {
  double *best = h->best + (threads > 1);
  if (*best == 0 || seconds < *best) *best = seconds;
  if (++h->calls < h->next + TRIED) {
    if (h->calls == h->next - TRIED) h->best[h->usual > 1] = 0;  /* as it is now */
    return;
  }
  const double usual = h->best[h->usual > 1], other = h->best[h->usual <= 1];
  const int better = other < 0.97 * usual;
  h->next = better || other < 1.3 * usual ? SELDOM : h->next > RARELY / 4 ? RARELY : 4 * h->next;
  if (better) h->usual = threads;
  h->calls = 0;
}

static int do_call(engine *e, call *c, size_t batch, int repeats) {
  const int taken = sec_pool_take(e->pool);
  const int ready = arrange(c, taken);
  const int team = ready && taken > 1 && !needs_one(c), tried = team && !c->seconds && !c->alone;
  const int threads = !team ? 1 : tried ? threads_for(&e->habit, batch, taken) : taken;
  for (int i = 0; ready && i < repeats; i++) {
    sec_progress alone = {0, 0, 1, 0, 0, 0};
    const double start = tried ? sec_now() : 0;
    if (threads > 1) sec_pool_run(e->pool, work, c, sizeof *c);
    else work(c, &alone);
    if (tried) note(&e->habit, threads, sec_now() - start);
  }
  if (taken > 1) sec_pool_give(e->pool);
  for (size_t k = 0; ready && k < c->steps; k++) {
    /* tiles that threads ran side by side: as if each had taken its part of the time */
    for (int t = 1; t < threads; t++) c->seconds[k] += c->seconds[(size_t)t * c->steps + k];
    c->seconds[k] /= (double)(c->alone ? threads : 1) * repeats;
  }
  return ready ? OK : NO_MEMORY;
}

static int wrong_batch(size_t batch) { return M->fixed && batch != 1; }
static int wrong(const void *const *inputs, size_t batch) {
  return wrong_batch(batch) ? WRONG_BATCH : sec_outside(M, inputs, batch) ? WRONG_INDEX : OK;
}
static size_t samples_of(size_t batch) { return M->fixed ? M->fixed : batch; }

/* ---- The public functions; see the header. ---- */

const char *SEC_NAME(info)(void) { return M->info; }
size_t SEC_NAME(inputs)(void) { return M->inputs; }
size_t SEC_NAME(outputs)(void) { return M->outputs; }
size_t SEC_NAME(input_bytes)(size_t i) { return i < M->inputs ? M->input_bytes[i] : 0; }
size_t SEC_NAME(output_bytes)(size_t i) { return i < M->outputs ? M->output_bytes[i] : 0; }
size_t SEC_NAME(fixed_batch)(void) { return M->fixed != 0; }
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
    case WRONG_INDEX: return "an input picks from an axis, by an index outside of it";
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
  int code = wrong(inputs, batch);
  if (code || !batch) return code;
  context *own = take_context(e);
  if (!own) return NO_MEMORY;
  call c = {own, inputs, outputs, 0, 0, 0, {{0, 0, 0, 0}}};
  by_all(c.shares, samples_of(batch));
  code = do_call(e, &c, batch, 1);
  give_context(e, own);
  return code;
}

size_t SEC_NAME(program_for)(size_t batch) {
  size_t best = 0, most = 0, first = 0, end;
  share shares[PROGRAMS];
  if (wrong_batch(batch)) return 0;
  batch = samples_of(batch);
  by_all(shares, batch);
  for (size_t p = M->program_count; p-- > 0; first = end) {
    end = p ? shares[p - 1].first : batch;
    if (end - first > most) {
      most = end - first;
      best = p;
    }
  }
  return best;
}

int SEC_NAME(profile)(engine *e, const void *const *inputs, void *const *outputs, size_t batch,
                      int repeats, double *seconds, size_t program) {
  int code = wrong(inputs, batch);
  if (code || program >= M->program_count) return code ? code : NO_PROGRAM;
  const size_t steps = M->programs[program].steps;
  double *all = calloc((size_t)e->threads * steps, sizeof *all);
  context *own = take_context(e);
  code = NO_MEMORY;
  if (all && own) {
    call c = {own, inputs, outputs, 0, all, steps, {{0, 0, 0, 0}}};
    by_one(c.shares, program, 0, samples_of(batch));
    code = do_call(e, &c, batch, repeats < 1 ? 1 : repeats);
    if (!code) memcpy(seconds, all, steps * sizeof *all);
  }
  if (own) give_context(e, own);
  free(all);
  return code;
}
