/* A team of threads that work together on one call at a time. */
#ifndef SECATEUR_POOL_H
#define SECATEUR_POOL_H
#include "names.h"

typedef struct sec_pool sec_pool;

/* Done by each thread of a team; `team` is null for a thread on its own. */
typedef void (*sec_work)(void *job, sec_pool *team, int thread, int threads);

/* A pool of at most `threads`, or null without memory. Its threads start with the first call. */
sec_pool *sec_pool_make(int threads);

/* Nobody may use the pool any more. */
void sec_pool_free(sec_pool *pool);

/* Take the pool for one call. Returns how many threads will work, the caller included; 1 where
   another caller has it: do the work alone then, and do not give the pool back. */
int sec_pool_take(sec_pool *pool);

/* Let the team do a job, the caller being thread 0; returns when all are done. */
void sec_pool_run(sec_pool *pool, sec_work work, void *job);

void sec_pool_give(sec_pool *pool);

/* Wait for all threads of the team; all that they wrote before is seen after. */
void sec_meet(sec_pool *team);
#endif
