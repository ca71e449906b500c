/* A team of threads that work together on one call at a time.
 *
 * A job is tiles that one thread runs, then pieces that all do part by part. Each thread goes
 * through all of it: it claims what is still to be done, does that, and says so. */
#ifndef SECATEUR_POOL_H
#define SECATEUR_POOL_H
#include <stddef.h>
#include <stdint.h>
#include "names.h"

enum { SEC_JOB = 512 };  /* bytes that a job may take */

typedef struct sec_pool sec_pool;

/* Where a thread is in a job. */
typedef struct {
  sec_pool *pool;  /* null for a thread on its own */
  int thread, threads;
  uint64_t turn;   /* pieces of which all parts are done */
  uint64_t taken;  /* tiles before this job's */
  uint64_t done;   /* tiles and parts before the next meeting */
} sec_progress;

/* Done by each thread of a team, on a copy of the job. What the job points to may be gone for a thread
   that comes late: it is read only for what was claimed. */
typedef void (*sec_work)(const void *job, sec_progress *at);

/* A pool of at most `threads`, or null without memory. Its threads start with the first call. */
sec_pool *sec_pool_make(int threads);

/* Nobody may use the pool any more. */
void sec_pool_free(sec_pool *pool);

/* Take the pool for one call. Returns how many threads will work, the caller included; 1 where
   another caller has it: do the work alone then, and do not give the pool back. */
int sec_pool_take(sec_pool *pool);

/* Let the team do a job of so many bytes, the caller being thread 0; returns when all is done. */
void sec_pool_run(sec_pool *pool, sec_work work, const void *job, size_t bytes);

void sec_pool_give(sec_pool *pool);

/* Claim part `part` of this piece, or tile `number`: whether it is for this thread to do. */
int sec_claim(const sec_progress *at, int part);
int sec_take(const sec_progress *at, uint64_t number);

/* What was claimed is done. */
void sec_did(const sec_progress *at);

/* Wait for all parts of this piece, or, if not 0, for so many tiles; all that threads wrote for them
   is seen after. */
void sec_meet(sec_progress *at, uint64_t tiles);
#endif
