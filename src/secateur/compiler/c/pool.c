/* Threads spin for a moment, because the next piece of work comes within microseconds or not for
 * long, and then sleep. They belong to one process: a child made by fork has none of them, notices
 * by its process number, and starts its own. */
#include "system.h"
#include "pool.h"

enum { SPINS = 4000, CHECK = 64, LINE = 64 };
#define IDLE_SECONDS 1e-4

#if defined(__wasm__)
struct sec_pool { int threads; };

sec_pool *sec_pool_make(int threads) {
  sec_pool *pool = malloc(sizeof *pool);
  if (pool) pool->threads = threads;
  return pool;
}
void sec_pool_free(sec_pool *pool) { free(pool); }
int sec_pool_take(sec_pool *pool) { (void)pool; return 1; }
void sec_pool_run(sec_pool *pool, sec_work work, void *job) { (void)pool; work(job, 0, 0, 1); }
void sec_pool_give(sec_pool *pool) { (void)pool; }
void sec_meet(sec_pool *team) { (void)team; }

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
static void prepare(lock_type *l, signal_type *s) { InitializeSRWLock(l); InitializeConditionVariable(s); }
static void dispose(lock_type *l, signal_type *s) { (void)l; (void)s; }
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
static void prepare(lock_type *l, signal_type *s) { pthread_mutex_init(l, 0); pthread_cond_init(s, 0); }
static void dispose(lock_type *l, signal_type *s) { pthread_cond_destroy(s); pthread_mutex_destroy(l); }
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

/* What all threads write lies in cache lines of its own. */
struct sec_pool {
  int threads, team;    /* asked for; at work, the caller included */
  int crowded;          /* more threads than cores: whoever waits must not keep a core */
  int process;          /* that the workers live in; 0: not started */
  int stop;
  sec_work work;
  void *job;
  worker *workers;
  lock_type lock;
  signal_type wake;
  int owner __attribute__((aligned(LINE)));      /* process of the caller that has it; 0: free */
  int asleep __attribute__((aligned(LINE)));
  unsigned jobs __attribute__((aligned(LINE)));  /* given out so far */
  int arrived __attribute__((aligned(LINE)));
  unsigned meetings __attribute__((aligned(LINE)));
};

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
  for (unsigned seen = 0;; seen++) {
    await(pool, seen);
    if (pool->stop) return 0;
    pool->work(pool->job, pool, me->number, pool->team);
    sec_meet(pool);
  }
}

static void start(sec_pool *pool) {
  pool->jobs = 0;
  pool->asleep = pool->arrived = 0;
  pool->team = pool->threads;  /* nobody reads it before the first job */
  prepare(&pool->lock, &pool->wake);
  int started = 1;
  while (started < pool->threads) {
    worker *w = pool->workers + started;
    w->pool = pool;
    w->number = started;
    if (!start_thread(&w->thread, live, w)) break;  /* go on with fewer */
    started++;
  }
  pool->team = started;
  pool->process = sec_process();
}

sec_pool *sec_pool_make(int threads) {
  sec_pool *pool = sec_allocate(sizeof *pool);
  if (!pool) return 0;
  *pool = (sec_pool){0};
  pool->threads = threads;
  pool->crowded = threads > sec_cores();
  pool->workers = calloc((size_t)threads, sizeof *pool->workers);
  if (pool->workers) return pool;
  sec_release(pool);
  return 0;
}

void sec_pool_free(sec_pool *pool) {
  if (!pool) return;
  if (pool->process == sec_process()) {
    pool->stop = 1;
    publish(pool);
    for (int i = 1; i < pool->team; i++) join(pool->workers[i].thread);
    dispose(&pool->lock, &pool->wake);
  }
  free(pool->workers);
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

void sec_pool_run(sec_pool *pool, sec_work work, void *job) {
  pool->work = work;
  pool->job = job;
  publish(pool);
  work(job, pool, 0, pool->team);
  sec_meet(pool);
}

void sec_meet(sec_pool *team) {
  if (!team) return;
  const unsigned meeting = __atomic_load_n(&team->meetings, __ATOMIC_RELAXED);
  if (__atomic_add_fetch(&team->arrived, 1, __ATOMIC_ACQ_REL) == team->team) {
    __atomic_store_n(&team->arrived, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&team->meetings, meeting + 1, __ATOMIC_RELEASE);
    return;
  }
  for (int i = team->crowded ? SPINS : 0;
       __atomic_load_n(&team->meetings, __ATOMIC_ACQUIRE) == meeting;) {
    if (i < SPINS) {
      sec_relax();
      i++;
    } else {
      sec_yield();
    }
  }
}
#endif
