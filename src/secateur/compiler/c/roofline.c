/* The most multiply-adds that this processor does: usage: roofline THREADS
 *
 * Prints "REGISTERS L1 DOT", in 10^9 operations a second of all threads together, two a
 * multiply-add: of floats with both factors in registers, and with one of them an aligned vector
 * from the first-level cache, as in a sparse kernel; and of int8 by dot products of four, in
 * registers; 0 where this processor has no such instruction. Each is the best of several short
 * trials: a roofline is what can be reached, not what usually is. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#if defined(__AVX512VNNI__) || defined(__AVXVNNI__)
#include <immintrin.h>
#elif defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>
#endif

#if defined(__AVX512F__)
enum { BYTES = 64, SUMS = 16 };
#elif defined(__AVX__)
enum { BYTES = 32, SUMS = 12 };  /* of 16 registers */
#else
enum { BYTES = 16, SUMS = 12 };
#endif
enum { VECTORS = 8192 / BYTES, TRIALS = 9, ROUNDS = 400000, MOST = 1024 };

typedef float vec __attribute__((vector_size(BYTES)));

static int threads = 1, arrived;
static double best[MOST][3];

/* Wait for all threads; spinning, because some systems have no pthread_barrier_t. */
static void meet(int times) {
  __atomic_add_fetch(&arrived, 1, __ATOMIC_ACQ_REL);
  while (__atomic_load_n(&arrived, __ATOMIC_ACQUIRE) < times * threads) {}
}

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

#define EACH _Pragma("GCC unroll 16") for (int j = 0; j < SUMS; j++)

/* Nothing here may be taken out of the loop, or computed once for two sums. */
static vec in_registers(const vec *data) {
  vec sums[SUMS], factor = data[SUMS];
  EACH sums[j] = data[j];
  for (long i = 0; i < ROUNDS; i++) EACH sums[j] += factor * sums[j];
  EACH factor += sums[j];
  return factor;
}

static vec from_cache(const vec *data) {
  vec sums[SUMS], factor = data[SUMS];
  EACH sums[j] = data[j];
  for (long i = 0; i < ROUNDS; i++) {
    const vec *from = data + i * SUMS % (VECTORS - SUMS);
    __asm__ volatile("" ::: "memory");
    EACH sums[j] += factor * from[j];
  }
  EACH factor += sums[j];
  return factor;
}

#if defined(__AVX512VNNI__)
typedef __m512i ints;
#define DOT(sum, a, b) _mm512_dpbusd_epi32(sum, a, b)
#elif defined(__AVXVNNI__)
typedef __m256i ints;
#define DOT(sum, a, b) _mm256_dpbusd_avx_epi32(sum, a, b)
#elif defined(__ARM_FEATURE_DOTPROD)
typedef int32x4_t ints;
#define DOT(sum, a, b) vdotq_s32(sum, vreinterpretq_s8_s32(a), vreinterpretq_s8_s32(b))
#endif

#ifdef DOT
static vec of_dots(const vec *data) {
  ints sums[SUMS], factor;
  __builtin_memcpy(sums, data, sizeof sums);
  __builtin_memcpy(&factor, data + SUMS, sizeof factor);
  for (long i = 0; i < ROUNDS; i++) EACH sums[j] = DOT(sums[j], factor, sums[j]);
  EACH factor = DOT(factor, factor, sums[j]);
  vec sum = data[0];
  __builtin_memcpy(&sum, &factor, sizeof factor);
  return sum;
}
enum { KINDS = 3, PRODUCTS = sizeof(ints) };
static vec (*const kinds[KINDS])(const vec *) = {in_registers, from_cache, of_dots};
#else
enum { KINDS = 2, PRODUCTS = 0 };
static vec (*const kinds[KINDS])(const vec *) = {in_registers, from_cache};
#endif

static void *work(void *argument) {
  double *mine = argument;
  vec data[VECTORS];
  for (int i = 0; i < VECTORS; i++)
    for (int j = 0; j < BYTES / 4; j++) data[i][j] = 1e-6f * (float)(i + 1);
  for (int trial = 0; trial < TRIALS; trial++)
    for (int kind = 0; kind < KINDS; kind++) {
      meet(KINDS * trial + kind + 1);
      const double start = now();
      const vec sum = kinds[kind](data);
      const double rate = 2e-9 * ROUNDS * SUMS * (kind < 2 ? BYTES / 4 : PRODUCTS) / (now() - start);
      if (rate > mine[kind]) mine[kind] = rate;
      __asm__ volatile("" : "+m"(data) : "m"(sum) : "memory");
    }
  return 0;
}

int main(int count, char **words) {
  threads = count > 1 ? atoi(words[1]) : 1;
  if (threads < 1 || threads > MOST) return 2;
  pthread_t others[MOST];
  for (int t = 1; t < threads; t++)
    if (pthread_create(&others[t], 0, work, best[t])) return 1;
  work(best[0]);
  double all[3] = {0, 0, 0};
  for (int t = 0; t < threads; t++) {
    if (t) pthread_join(others[t], 0);
    for (int k = 0; k < 3; k++) all[k] += best[t][k];
  }
  printf("%.2f %.2f %.2f\n", all[0], all[1], all[2]);
  return 0;
}
