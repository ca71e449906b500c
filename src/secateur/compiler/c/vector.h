/* Vectors of floats, in the extensions that GCC and clang share. LANES is set by the target. */
#ifndef SECATEUR_VECTOR_H
#define SECATEUR_VECTOR_H
#include <math.h>
#include <stdint.h>
#include <string.h>
#include "runtime.h"
#if defined(__AVX__)
#include <immintrin.h>
#endif

typedef float vec __attribute__((vector_size(LANES * 4)));
typedef int32_t veci __attribute__((vector_size(LANES * 4)));
typedef uint32_t vecu __attribute__((vector_size(LANES * 4)));

#define INLINE static inline __attribute__((always_inline, unused))
/* What several steps call, or what is made for each of them once: copies would be most of a small
   network's file. GCC 12 must not look into it: it then drops calls whose stores go through a restrict
   pointer. */
#if defined(__clang__)
#define SHARED static __attribute__((noinline, unused))
#define UNROLL _Pragma("unroll")
#define ROLLED _Pragma("clang loop unroll(disable)")
#else
#define SHARED static __attribute__((noipa, unused))
#define UNROLL _Pragma("GCC unroll 32")
#define ROLLED _Pragma("GCC unroll 1")
#endif

/* Keeps the compiler from looking through a pointer. Without it, each constant offset from a computed
   address gets a register of its own, and these run out: twice the time in the innermost loop. */
#define OPAQUE(pointer) __asm__("" : "+r"(pointer))

/* The share of thread t of T of the whole numbers below n: [sec_from, sec_from of t + 1). */
INLINE long sec_share(long n, int t, int T) { return n * t / T; }

#define SEC_LEAST(a, b) ((a) < (b) ? (a) : (b))

INLINE vec sec_all(float x) { return x - (vec){0}; }

/* Few floats, each to be multiplied with whole vectors. Where a shuffle is cheaper than a load, they
   are loaded together: p[0..1] or p[0..3] over and over, then element m of them in every lane. */
#if defined(__AVX512F__) && LANES == 16 || defined(__AVX__) && LANES == 8
#if LANES == 16
#define SEC_SHUFFLED(x, a, b, c, d) __builtin_shufflevector(x, x, a, b, c, d, a + 4, b + 4, c + 4, \
  d + 4, a + 8, b + 8, c + 8, d + 8, a + 12, b + 12, c + 12, d + 12)
typedef int64_t sec_long __attribute__((vector_size(64)));
INLINE vec sec_four(const float *p) { return (vec)_mm512_broadcast_f32x4(_mm_loadu_ps(p)); }
#else
#define SEC_SHUFFLED(x, a, b, c, d) __builtin_shufflevector(x, x, a, b, c, d, a + 4, b + 4, c + 4, d + 4)
typedef int64_t sec_long __attribute__((vector_size(32)));
INLINE vec sec_four(const float *p) { return (vec)_mm256_broadcast_ps((const __m128 *)p); }
#endif
INLINE vec sec_two(const float *p) {
  int64_t both;
  memcpy(&both, p, 8);
  return (vec)((sec_long){0} + both);
}
INLINE vec sec_of_two(const float *p, vec together, const int m) {
  (void)p;
  return m ? SEC_SHUFFLED(together, 1, 1, 3, 3) : SEC_SHUFFLED(together, 0, 0, 2, 2);
}
INLINE vec sec_of_four(const float *p, vec together, const int m) {
  (void)p;
  switch (m) {
    case 0: return SEC_SHUFFLED(together, 0, 0, 0, 0);
    case 1: return SEC_SHUFFLED(together, 1, 1, 1, 1);
    case 2: return SEC_SHUFFLED(together, 2, 2, 2, 2);
    default: return SEC_SHUFFLED(together, 3, 3, 3, 3);
  }
}
#undef SEC_SHUFFLED
#else
INLINE vec sec_two(const float *p) { (void)p; return (vec){0}; }
INLINE vec sec_four(const float *p) { (void)p; return (vec){0}; }
INLINE vec sec_of_two(const float *p, vec together, const int m) { (void)together; return sec_all(p[m]); }
INLINE vec sec_of_four(const float *p, vec together, const int m) { (void)together; return sec_all(p[m]); }
#endif

/* The first half is for floats one by one; loops over them are vectorised by the compiler. */
INLINE float sec_exp(float x) {
  /* Cephes' expf: 2^n times a polynomial on [-ln 2 / 2, ln 2 / 2]; relative error 2e-7. 2^n is a product
     of two powers, so that it reaches the denormals and overflows by itself. At -176 both are the float
     whose exponent is 0, that is 0: what is masked with -infinity costs no denormal arithmetic. */
  float y = x > -176.0f ? x : -176.0f;  /* NaN gives -176 here: it must not become an integer */
  y = y < 89.0f ? y : 89.0f;
  float n = rintf(y * 1.44269504f);
  float r = y - n * 0.693359375f + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const int32_t k = (int32_t)n, half = k >> 1;
  const union { int32_t i; float f; } a = {(half + 127) << 23}, b = {(k - half + 127) << 23};
  const float e = p * a.f * b.f;
  return x != x ? x : e;
}
INLINE float sec_sigmoid(float x) {
  const float e = sec_exp(-fabsf(x));  /* of -|x|: it never overflows, and small results keep their digits */
  return (x < 0 ? e : 1.0f) / (1.0f + e);
}
INLINE float sec_tanh(float x) {
  /* Near 0 the difference of exponentials loses digits: an odd polynomial there (Cephes' tanhf). */
  float a = fabsf(x), s = x * x;
  float small = x + x * s * (-3.33332819422e-1f + s * (1.33314422036e-1f + s * (-5.37397155531e-2f
              + s * (2.06390887954e-2f + s * -5.70498872745e-3f))));
  float large = 1.0f - 2.0f / (sec_exp(2.0f * a) + 1.0f);
  return a < 0.625f ? small : x < 0 ? -large : large;
}
INLINE float sec_erf(float x) {
  /* x times a quotient of polynomials in x^2, fitted to erf(x) / x on [0, 3.92] by least squares with
     weights that level the error; beyond, erf is 1 to float's precision. Error below 4e-7. */
  const float y = x < -3.92f ? -3.92f : x > 3.92f ? 3.92f : x, s = y * y;
  const float p = 1.1283791f + s * (0.190396875f + s * (0.0527472757f + s * (0.00376515882f
                + s * (2.84864858e-4f + s * 2.05006177e-6f))));
  const float q = 1.0f + s * (0.502067566f + s * (0.114104986f + s * (0.0149683021f
                + s * (0.00116241048f + s * 3.80905185e-5f))));
  const float e = y * p / q;
  return e < -1.0f ? -1.0f : e > 1.0f ? 1.0f : e;
}

INLINE float sec_log(float x) {
  /* Cephes' logf: the exponent, and a polynomial on [sqrt(1/2), sqrt(2)]; relative error 1e-7. */
  union { float f; int32_t i; } u = {x < 1.17549435e-38f ? x * 8388608.0f : x};
  int32_t e = (u.i >> 23) - (x < 1.17549435e-38f ? 149 : 126);
  u.i = (u.i & 0x007fffff) | 0x3f000000;
  const int low = u.f < 0.70710678f;
  const float m = (low ? u.f + u.f : u.f) - 1.0f, n = (float)(e - low), z = m * m;
  float p = 7.0376836292e-2f;
  p = p * m - 1.1514610310e-1f;
  p = p * m + 1.1676998740e-1f;
  p = p * m - 1.2420140846e-1f;
  p = p * m + 1.4249322787e-1f;
  p = p * m - 1.6668057665e-1f;
  p = p * m + 2.0000714765e-1f;
  p = p * m - 2.4999993993e-1f;
  p = p * m + 3.3333331174e-1f;
  float y = m + (p * m * z + n * -2.12194440e-4f - 0.5f * z) + n * 0.693359375f;
  y = x == 0 ? -INFINITY : x < 0 ? NAN : y;
  return x != x || x == INFINITY ? x : y;
}
INLINE float sec_log1p(float x) {
  /* What 1 + x loses of x, the quotient gives back (Kahan). */
  const float u = 1.0f + x, d = u - 1.0f;
  return d == 0 ? x : u == INFINITY ? u : sec_log(u) * (x / d);
}
INLINE float sec_expm1(float x) {
  /* Near 0 the difference loses digits: the series there. */
  float p = x * (1.0f / 5040) + 1.0f / 720;
  p = p * x + 1.0f / 120;
  p = p * x + 1.0f / 24;
  p = p * x + 1.0f / 6;
  p = p * x + 0.5f;
  return fabsf(x) < 0.4f ? p * x * x + x : sec_exp(x) - 1.0f;
}
INLINE float sec_mish(float x) {
  /* tanh(log(1 + e)) as a fraction; beyond 20 it is 1. */
  const float e = sec_exp(x > 20.0f ? 20.0f : x), n = e * (e + 2.0f);
  return x * (n / (n + 2.0f));
}
INLINE double sec_sigmoid64(double x) {
  const double e = exp(-fabs(x));
  return (x >= 0 ? 1.0 : e) / (1.0 + e);
}
INLINE double sec_mish64(double x) { return x * tanh(fmax(x, 0.0) + log1p(exp(-fabs(x)))); }
INLINE int64_t sec_power(int64_t base, int64_t exponent) {
  if (exponent < 0) return base == 1 ? 1 : base == -1 ? (exponent % 2 ? -1 : 1) : 0;
  uint64_t y = 1, b = (uint64_t)base;
  for (; exponent; exponent >>= 1, b *= b)
    if (exponent & 1) y *= b;
  return (int64_t)y;
}
/* Of any type; NaN where one of them is. */
#define SEC_OF_TWO(a, b, sign, one, other) ({ \
  const __typeof__(b) one = (__typeof__(b))(a), other = (b); \
  (__typeof__(b))(one sign other || one != one ? one : other); })
#define SEC_MAXIMUM(a, b) SEC_OF_TWO(a, b, >, one_, other_)
#define SEC_MINIMUM(a, b) SEC_OF_TWO(a, b, <, one_, other_)
/* Whole numbers of any number, towards zero. A cast alone is undefined for what does not fit, and for
   NaN: here it gives the least number, as processors of the kind x86 do. */
#define SEC_INT32(x) ((x) >= -0x1p31f && (x) < 0x1p31f ? (int32_t)(x) : INT32_MIN)
#define SEC_INT64(x) ((x) >= -0x1p63f && (x) < 0x1p63f ? (int64_t)(x) : INT64_MIN)
#define SEC_UINT64(x) \
  ((x) >= 0x1p63f ? ((x) < 0x1p64f ? (uint64_t)(x) : 0) : (uint64_t)SEC_INT64(x))
#define SEC_WITHIN(x) ({ const __typeof__(x) x_ = (x); x_ < 0 ? 0 : x_ > 1 ? 1 : x_; })

enum { SEC_NONE, SEC_RELU, SEC_LEAKY, SEC_CLIP, SEC_SIGMOID, SEC_HARDSIGMOID, SEC_HARDSWISH,
       SEC_TANH, SEC_GELU, SEC_GELUTANH, SEC_SILU, SEC_ELU, SEC_SOFTPLUS };

/* Bit SEC_X of SEC_ACTS: whether a step of this network has activation SEC_X. What none has is left out
   here already: a compiler copies a kernel whole before it leaves out what a layer has not. */
#ifndef SEC_ACTS
#define SEC_ACTS ~0u
#endif
INLINE float sec_act1(float x, const int act, const float alpha, const float beta) {
  (void)alpha, (void)beta;
  switch (act) {
#define CASE(kind, y) case kind: return SEC_ACTS >> kind & 1 ? (y) : x
#define WITHIN(y, low, high) ((y) < (low) ? (low) : (y) > (high) ? (high) : (y))
    CASE(SEC_RELU, x < 0 ? 0 : x);
    CASE(SEC_LEAKY, x < 0 ? alpha * x : x);
    CASE(SEC_CLIP, WITHIN(x, alpha, beta));
    CASE(SEC_SIGMOID, sec_sigmoid(x));
    CASE(SEC_HARDSIGMOID, WITHIN(alpha * x + beta, 0, 1));
    CASE(SEC_HARDSWISH, x * WITHIN(x * (1.0f / 6) + 0.5f, 0, 1));
    CASE(SEC_TANH, sec_tanh(x));
    CASE(SEC_GELU, 0.5f * x * (1.0f + sec_erf(x * 0.70710678118654752f)));
    CASE(SEC_GELUTANH, 0.5f * x * (1.0f + sec_tanh(0.7978845608028654f * (x + 0.044715f * x * x * x))));
    CASE(SEC_SILU, x * sec_sigmoid(x));
    CASE(SEC_ELU, x < 0 ? alpha * sec_expm1(x) : x);
    CASE(SEC_SOFTPLUS, (x > 0 ? x : 0) + sec_log1p(sec_exp(-fabsf(x))));
#undef WITHIN
#undef CASE
    default: return x;
  }
}

INLINE vec sec_pick(veci where, vec a, vec b) {
  return (vec)(((veci)a & where) | ((veci)b & ~where));
}

/* As `x < low ? low : x > high ? high : x`: NaN stays, and a bound that is NaN bounds nothing. */
INLINE vec sec_within(vec x, float low, float high) {
  return sec_pick(x < sec_all(low), sec_all(low), sec_pick(x > sec_all(high), sec_all(high), x));
}

/* Of what compilers vectorise by themselves. */
INLINE vec sec_act_each(vec x, const int act, const float alpha, const float beta) {
  float y[LANES] __attribute__((aligned(LANES * 4)));
  memcpy(y, &x, sizeof y);
  for (int l = 0; l < LANES; l++) y[l] = sec_act1(y[l], act, alpha, beta);
  memcpy(&x, y, sizeof y);
  return x;
}

INLINE vec sec_act(vec x, const int act, const float alpha, const float beta) {
  if (act == SEC_NONE) return x;
  if (act == SEC_RELU) return (vec)((veci)x & ~(x < sec_all(0)));
  /* what takes comparisons is written out: compilers make branches of it, lane by lane */
  if (act == SEC_LEAKY) return sec_pick(x < sec_all(0), alpha * x, x);
  if (act == SEC_CLIP) return sec_within(x, alpha, beta);
  if (act == SEC_HARDSIGMOID) return sec_within(alpha * x + beta, 0, 1);
  if (act == SEC_HARDSWISH) return x * sec_within(x * (1.0f / 6) + 0.5f, 0, 1);
  return sec_act_each(x, act, alpha, beta);
}
#endif
