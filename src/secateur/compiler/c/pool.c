/* A thread that waits spins for a moment, because the next piece of work comes within microseconds
 * or not for long, and then sleeps, so that a system with less than a core for each thread runs the one
 * that is waited for. What a thread has not begun another does in its place: nobody waits for a thread
 * that has no core. Threads belong to one process: a child made by fork has none of them, notices by its
 * process number, and starts its own.
 *
 * All counters only ever grow, from job to job. So a thread that comes late finds that all is claimed
 * and done, and touches nothing. */
#include "system.h"
#include "pool.h"
#include <string.h>

enum { CHECK = 64, LINE = 64 };
#define IDLE_SECONDS 1e-4    /* between jobs */
#define SPIN_SECONDS 3e-5    /* within one */

#if defined(__wasm__)
struct sec_pool { int threads; };

sec_pool *sec_pool_make(int threads) {
  sec_pool *pool = malloc(sizeof *pool);
  if (pool) pool->threads = threads;
  return pool;
}
void sec_pool_free(sec_pool *pool) { free(pool); }
int sec_pool_take(sec_pool *pool) { (void)pool; return 1; }
void sec_pool_run(sec_pool *pool, sec_work work, const void *job, size_t bytes) {
  sec_progress alone = {0, 0, 1, 0, 0, 0};
  (void)pool, (void)bytes;
  work(job, &alone);
}
void sec_pool_give(sec_pool *pool) { (void)pool; }
int sec_claim(const sec_progress *at, int part) { (void)at, (void)part; return 1; }
int sec_take(const sec_progress *at, uint64_t number) { (void)at, (void)number; return 1; }
void sec_did(const sec_progress *at) { (void)at; }
void sec_meet(sec_progress *at, uint64_t tiles) { (void)at, (void)tiles; }

#else

#if defined(_WIN32)
typedef HANDLE thread_type;
typedef SRWLOCK lock_type;
typedef CONDITION_VARIABLE signal_type;
#define RESULT DWORD WINAPI
static void lock(lock_type *l) { AcquireSRWLockExclusive(l); }
static void unlock(lock_type *l) { ReleaseSRWLockExclusive(l); }
static void sleep_on(signal_type *s, lock_type *l) { SleepConditionVariableSRW(s, l, INFINITE, 0); }
static void wake_all(signal_type *s) { WakeAllConditionVariable(s); }
static void prepare(lock_type *l, signal_type *a, signal_type *b) {
  InitializeSRWLock(l);
  InitializeConditionVariable(a);
  InitializeConditionVariable(b);
}
static void dispose(lock_type *l, signal_type *a, signal_type *b) { (void)l; (void)a; (void)b; }
static void join(thread_type t) { WaitForSingleObject(t, INFINITE); CloseHandle(t); }
static int start_thread(thread_type *t, LPTHREAD_START_ROUTINE f, void *argument) {
  *t = CreateThread(0, (SIZE_T)2 << 20, f, argument, 0, 0);
  return *t != 0;
}
#else
typedef pthread_t thread_type;
typedef pthread_mutex_t lock_type;
typedef pthread_cond_t signal_type;
#define RESULT void *
static void lock(lock_type *l) { pthread_mutex_lock(l); }
static void unlock(lock_type *l) { pthread_mutex_unlock(l); }
static void sleep_on(signal_type *s, lock_type *l) { pthread_cond_wait(s, l); }
static void wake_all(signal_type *s) { pthread_cond_broadcast(s); }
static void prepare(lock_type *l, signal_type *a, signal_type *b) {
  pthread_mutex_init(l, 0);
  pthread_cond_init(a, 0);
  pthread_cond_init(b, 0);
}
static void dispose(lock_type *l, signal_type *a, signal_type *b) {
  pthread_cond_destroy(a);
  pthread_cond_destroy(b);
  pthread_mutex_destroy(l);
}
static void join(thread_type t) { pthread_join(t, 0); }
/* Signals are for the threads of the program, not for ours. */
static int start_thread(thread_type *t, void *(*f)(void *), void *argument) {
  sigset_t all, before;
  pthread_attr_t attributes;
  sigfillset(&all);
  if (pthread_attr_init(&attributes)) return 0;
  pthread_attr_setstacksize(&attributes, (size_t)2 << 20);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  const int failed = pthread_create(t, &attributes, f, argument);
  pthread_sigmask(SIG_SETMASK, &before, 0);
  pthread_attr_destroy(&attributes);
  return !failed;
}
#endif

typedef struct {
  sec_pool *pool;
  int number;
  thread_type thread;
} worker;

typedef struct {
  uint64_t count __attribute__((aligned(LINE)));
} counter;

/* What all threads write lies in cache lines of its own. */
struct sec_pool {
  int threads, team;    /* asked for; at work, the caller included */
  int crowded;          /* more threads than cores: whoever waits must not keep a core */
  int process;          /* that the workers live in; 0: not started */
  int stop;
  worker *workers;
  counter *turns;       /* by part, pieces of work in which it was claimed */
  lock_type lock;
  signal_type wake, met;
  /* The job, which workers copy while it is open. */
  sec_work work;
  sec_progress start;       /* where its counters begin */
  unsigned number;
  size_t bytes;
  char job[SEC_JOB] __attribute__((aligned(16)));
  int owner __attribute__((aligned(LINE)));      /* process of the caller that has it; 0: free */
  int asleep __attribute__((aligned(LINE)));
  unsigned jobs __attribute__((aligned(LINE)));  /* given out so far */
  int open __attribute__((aligned(LINE)));
  int copying __attribute__((aligned(LINE)));
  int waiting __attribute__((aligned(LINE)));
  counter taken, done;  /* tiles; parts and tiles */
};

static uint64_t now_at(const counter *c) { return __atomic_load_n(&c->count, __ATOMIC_ACQUIRE); }

static void publish(sec_pool *pool) {
  __atomic_add_fetch(&pool->jobs, 1, __ATOMIC_SEQ_CST);
  if (__atomic_load_n(&pool->asleep, __ATOMIC_SEQ_CST)) {
    lock(&pool->lock);
    wake_all(&pool->wake);
    unlock(&pool->lock);
  }
}

static void await(sec_pool *pool, unsigned seen) {
  if (!pool->crowded) {
    const double end = sec_now() + IDLE_SECONDS;
    do {
      for (int i = 0; i < CHECK; i++) {
        if (__atomic_load_n(&pool->jobs, __ATOMIC_ACQUIRE) != seen) return;
        sec_relax();
      }
    } while (sec_now() < end);
  }
  lock(&pool->lock);
  __atomic_add_fetch(&pool->asleep, 1, __ATOMIC_SEQ_CST);
  while (__atomic_load_n(&pool->jobs, __ATOMIC_SEQ_CST) == seen) sleep_on(&pool->wake, &pool->lock);
  __atomic_sub_fetch(&pool->asleep, 1, __ATOMIC_SEQ_CST);
  unlock(&pool->lock);
}

static RESULT live(void *argument) {
  const worker *me = argument;
  sec_pool *pool = me->pool;
  char job[SEC_JOB] __attribute__((aligned(16)));
  for (unsigned seen = 0;;) {
    await(pool, seen);
    seen = __atomic_load_n(&pool->jobs, __ATOMIC_ACQUIRE);
    if (pool->stop) return 0;  /* asked after: else the call to stop could be taken for seen */
    __atomic_add_fetch(&pool->copying, 1, __ATOMIC_SEQ_CST);
    const int open = __atomic_load_n(&pool->open, __ATOMIC_SEQ_CST);
    sec_work work = 0;
    sec_progress at = {0, 0, 0, 0, 0, 0};
    if (open) {
      seen = pool->number;
      work = pool->work;
      at = pool->start;
      memcpy(job, pool->job, pool->bytes);
    }
    __atomic_sub_fetch(&pool->copying, 1, __ATOMIC_SEQ_CST);
    at.thread = me->number;
    if (open) work(job, &at);
  }
}

static void start(sec_pool *pool) {
  pool->jobs = 0;
  pool->asleep = pool->open = pool->copying = pool->waiting = 0;
  pool->taken.count = pool->done.count = 0;
  for (int i = 0; i < pool->threads; i++) pool->turns[i].count = 0;
  pool->start = (sec_progress){pool, 0, pool->threads, 0, 0, 0};
  pool->team = pool->threads;  /* nobody reads it before the first job */
  prepare(&pool->lock, &pool->wake, &pool->met);
  int started = 1;
  while (started < pool->threads) {
    worker *w = pool->workers + started;
    w->pool = pool;
    w->number = started;
    if (!start_thread(&w->thread, live, w)) break;  /* go on with fewer */
    started++;
  }
  pool->team = pool->start.threads = started;
  pool->process = sec_process();
}

sec_pool *sec_pool_make(int threads) {
  sec_pool *pool = sec_allocate(sizeof *pool);
  if (!pool) return 0;
  *pool = (sec_pool){0};
  pool->threads = threads;
  pool->crowded = threads > sec_cores();
  pool->workers = calloc((size_t)threads, sizeof *pool->workers);
  pool->turns = sec_allocate((size_t)threads * sizeof *pool->turns);
  if (pool->workers && pool->turns) return pool;
  free(pool->workers);
  sec_release(pool->turns);
  sec_release(pool);
  return 0;
}

void sec_pool_free(sec_pool *pool) {
  if (!pool) return;
  if (pool->process == sec_process()) {
    pool->stop = 1;
    publish(pool);
    for (int i = 1; i < pool->team; i++) join(pool->workers[i].thread);
    dispose(&pool->lock, &pool->wake, &pool->met);
  }
  free(pool->workers);
  sec_release(pool->turns);
  sec_release(pool);
}

int sec_pool_take(sec_pool *pool) {
  const int me = sec_process();
  int owner = __atomic_load_n(&pool->owner, __ATOMIC_RELAXED);
  /* an owner in another process was copied by fork while it worked: it is not here */
  if (pool->threads == 1 || owner == me ||
      !__atomic_compare_exchange_n(&pool->owner, &owner, me, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
    return 1;
  if (pool->process != me) start(pool);
  if (pool->team == 1) sec_pool_give(pool);
  return pool->team;
}

void sec_pool_give(sec_pool *pool) { __atomic_store_n(&pool->owner, 0, __ATOMIC_RELEASE); }

void sec_pool_run(sec_pool *pool, sec_work work, const void *job, size_t bytes) {
  while (__atomic_load_n(&pool->copying, __ATOMIC_SEQ_CST)) sec_yield();  /* a late one: the last job */
  pool->work = work;
  pool->bytes = bytes;
  pool->number = pool->jobs + 1;
  memcpy(pool->job, job, bytes);
  __atomic_store_n(&pool->open, 1, __ATOMIC_SEQ_CST);
  publish(pool);
  sec_progress at = pool->start;
  work(job, &at);
  __atomic_store_n(&pool->open, 0, __ATOMIC_SEQ_CST);
  while (__atomic_load_n(&pool->copying, __ATOMIC_SEQ_CST)) sec_yield();
  pool->start = at;
}

static int claim(counter *c, uint64_t at) {
  return now_at(c) == at && __atomic_compare_exchange_n(&c->count, &at, at + 1, 0, __ATOMIC_ACQ_REL,
                                                        __ATOMIC_ACQUIRE);
}

int sec_claim(const sec_progress *at, int part) {
  return !at->pool || claim(at->pool->turns + part, at->turn);
}

int sec_take(const sec_progress *at, uint64_t number) {
  return !at->pool || claim(&at->pool->taken, at->taken + number);
}

void sec_did(const sec_progress *at) {
  sec_pool *pool = at->pool;
  if (!pool) return;
  __atomic_add_fetch(&pool->done.count, 1, __ATOMIC_SEQ_CST);
  if (__atomic_load_n(&pool->waiting, __ATOMIC_SEQ_CST)) {
    lock(&pool->lock);
    wake_all(&pool->met);
    unlock(&pool->lock);
  }
}

static void wait_for(sec_pool *pool, uint64_t done) {
  if (now_at(&pool->done) >= done) return;
  if (!pool->crowded) {
    const double end = sec_now() + SPIN_SECONDS;
    do {
      for (int i = 0; i < CHECK; i++) {
        if (now_at(&pool->done) >= done) return;
        sec_relax();
      }
    } while (sec_now() < end);
  }
  lock(&pool->lock);
  __atomic_add_fetch(&pool->waiting, 1, __ATOMIC_SEQ_CST);
  while (__atomic_load_n(&pool->done.count, __ATOMIC_SEQ_CST) < done)
    sleep_on(&pool->met, &pool->lock);
  __atomic_sub_fetch(&pool->waiting, 1, __ATOMIC_SEQ_CST);
  unlock(&pool->lock);
}

void sec_meet(sec_progress *at, uint64_t tiles) {
  if (!at->pool) return;
  at->taken += tiles;
  at->turn += !tiles;
  at->done += tiles ? tiles : (uint64_t)at->threads;
  wait_for(at->pool, at->done);
}
#endif
