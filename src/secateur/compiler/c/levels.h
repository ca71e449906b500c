/* Levels of 8 bits: numbers to levels and back, and quads, four of them in a word.
 *
 * Byte k of a word (the lowest first) is channel 4 i + k. What becomes of a number is defined to the
 * last bit, so nothing here may be contracted: where a product is added to, either it is exact, since
 * its factor has 16 bits, or SEC_ROUNDED keeps it apart.
 *
 * Arm has products of int8 with int8 everywhere, but with uint8 only where there is i8mm. Where there
 * is not, words lie in memory with the highest bit of each byte turned: as int8 that is the level less
 * 128, and the bias makes up for it. A word is turned, by `sec_words`, where it is made and where its
 * levels are read one by one. */
#ifndef SECATEUR_LEVELS_H
#define SECATEUR_LEVELS_H
#include "vector.h"
#if defined(__aarch64__)
#include <arm_neon.h>
#endif

#if defined(__ARM_NEON) && !defined(__ARM_FEATURE_MATMUL_INT8) && LANES == 4
#define SEC_MOVED 128
#define SEC_BIAS(plain, moved) (moved)
typedef int8_t sec_stored_level;
#else
#define SEC_MOVED 0
#define SEC_BIAS(plain, moved) (plain)
typedef uint8_t sec_stored_level;
#endif
/* A word of levels as it lies in memory, or such a word as levels: the same both ways. */
#define sec_words(x) ((x) ^ SEC_MOVED * 0x01010101u)

/* Keeps a product from becoming part of a fused multiply-add. WebAssembly has none. */
#if defined(__AVX512F__)
#define SEC_ROUNDED(v) __asm__("" : "+v"(v))
#elif defined(__SSE2__)
#define SEC_ROUNDED(v) __asm__("" : "+x"(v))
#elif defined(__ARM_NEON)
#define SEC_ROUNDED(v) __asm__("" : "+w"(v))
#elif defined(__wasm__)
#define SEC_ROUNDED(v) ((void)(v))
#else
#define SEC_ROUNDED(v) __asm__("" : "+m"(v))
#endif

/* Added to a number of less than 2^22, this leaves the nearest whole number, ties to even, in the last
   bits of the sum. */
#define SEC_WHOLE 12582912.0f
#define SEC_WHOLE_BITS 0x4b400000

/* The level of a number that is counted in steps; low and high are ends less zero. NaN is at `low`. */
INLINE int32_t sec_level1(float steps, const float low, const float high, const int zero) {
  union { float f; int32_t i; } y;
  y.f = steps > low ? steps : low;
  y.f = y.f < high ? y.f : high;
  y.f += SEC_WHOLE;
  return y.i - (SEC_WHOLE_BITS - zero);
}
INLINE vec sec_between(vec x, const float low, const float high) {
#if LANES == 16 && defined(__AVX512F__)
  return (vec)_mm512_min_ps(_mm512_max_ps((__m512)x, _mm512_set1_ps(low)), _mm512_set1_ps(high));
#elif LANES == 8 && defined(__AVX__)
  return (vec)_mm256_min_ps(_mm256_max_ps((__m256)x, _mm256_set1_ps(low)), _mm256_set1_ps(high));
#else
  const vec y = sec_pick((veci)(x > sec_all(low)), x, sec_all(low));
  return sec_pick((veci)(y < sec_all(high)), y, sec_all(high));
#endif
}
INLINE veci sec_level(vec steps, const float low, const float high, const int zero) {
  const vec y = sec_between(steps, low, high) + sec_all(SEC_WHOLE);
  return (veci)y - (SEC_WHOLE_BITS - zero);
}

/* Level k of a word of levels. */
INLINE int32_t sec_byte1(uint32_t word, const int k) { return word >> 8 * k & 255; }
INLINE veci sec_byte(veci word, const int k) { return word >> 8 * k & 255; }
INLINE vec sec_real(veci x) { return __builtin_convertvector(x, vec); }

/* What numbers become levels by. */
typedef struct {
  float scale, low, high;  /* ends less zero */
  int zero;
} sec_grid;
INLINE int32_t sec_level_of(const float a, const sec_grid g) {
  return sec_level1(a / g.scale, g.low, g.high, g.zero);
}
INLINE uint32_t sec_quad_of(const float a, const float b, const float c, const float d,
                            const sec_grid g) {
  return sec_words((uint32_t)sec_level_of(a, g) | (uint32_t)sec_level_of(b, g) << 8
                   | (uint32_t)sec_level_of(c, g) << 16 | (uint32_t)sec_level_of(d, g) << 24);
}
/* n words, one after the other, of channels side by side. */
static __attribute__((unused)) void sec_quads_of(uint32_t *to, const float *from, const long n,
                                                 const sec_grid g) {
  sec_stored_level *restrict y = (sec_stored_level *)to;
  for (long i = 0; i < 4 * n; i++) y[i] = (sec_stored_level)(sec_level_of(from[i], g) - SEC_MOVED);
}

/* The sum of two words' numbers, as levels; both factors have 16 bits, so that products are exact. */
typedef struct {
  float zeros[2], factors[2], low, high;
  int zero;
} sec_sum;
INLINE uint32_t sec_quad_sum(const uint32_t a, const uint32_t b, const sec_sum s) {
  const uint32_t p = sec_words(a), q = sec_words(b);
  uint32_t y = 0;
  UNROLL for (int k = 0; k < 4; k++) {
    const float x = ((float)sec_byte1(p, k) - s.zeros[0]) * s.factors[0]
                    + ((float)sec_byte1(q, k) - s.zeros[1]) * s.factors[1];
    y |= (uint32_t)sec_level1(x, s.low, s.high, s.zero) << 8 * k;
  }
  return sec_words(y);
}

INLINE uint32_t sec_quad_table(uint32_t x, const uint8_t *table) {
  x = sec_words(x);
  return sec_words(table[x & 255] | (uint32_t)table[x >> 8 & 255] << 8
                   | (uint32_t)table[x >> 16 & 255] << 16 | (uint32_t)table[x >> 24] << 24);
}

/* The same of n words, one after the other: instructions that look many bytes up at once, if there are. */
static __attribute__((unused)) void sec_quad_tables(uint32_t *to, const uint32_t *from, const long n,
                                                    const uint8_t *table) {
  long i = 0;
#if LANES == 16 && defined(__AVX512VBMI__) && defined(__AVX512BW__)
  __m512i part[4];
  UNROLL for (int k = 0; k < 4; k++) part[k] = _mm512_loadu_si512(table + 64 * k);
  for (; i + 16 <= n; i += 16) {
    const __m512i x = _mm512_loadu_si512(from + i);
    const __m512i low = _mm512_permutex2var_epi8(part[0], x, part[1]);
    const __m512i high = _mm512_permutex2var_epi8(part[2], x, part[3]);
    _mm512_storeu_si512(to + i, _mm512_mask_blend_epi8(_mm512_movepi8_mask(x), low, high));
  }
#elif LANES == 4 && defined(__aarch64__)
  uint8x16x4_t part[4];
  UNROLL for (int k = 0; k < 4; k++)
    UNROLL for (int l = 0; l < 4; l++) part[k].val[l] = vld1q_u8(table + 64 * k + 16 * l);
  for (; i + 4 <= n; i += 4) {
    uint8x16_t x = veorq_u8(vld1q_u8((const uint8_t *)(from + i)), vdupq_n_u8(SEC_MOVED));
    uint8x16_t y = vqtbl4q_u8(part[0], x);
    UNROLL for (int k = 1; k < 4; k++) {
      x = vsubq_u8(x, vdupq_n_u8(64));
      y = vqtbx4q_u8(y, part[k], x);  /* where x is beyond the part, y stays */
    }
    vst1q_u8((uint8_t *)(to + i), veorq_u8(y, vdupq_n_u8(SEC_MOVED)));
  }
#endif
  for (; i < n; i++) to[i] = sec_quad_table(from[i], table);
}

/* The larger of each two levels of stored words. */
INLINE vec sec_larger_bytes(vec a, vec b) {
#if LANES == 16 && defined(__AVX512BW__)
  return (vec)_mm512_max_epu8((__m512i)a, (__m512i)b);
#elif LANES == 8 && defined(__AVX2__)
  return (vec)_mm256_max_epu8((__m256i)a, (__m256i)b);
#else
  typedef sec_stored_level bytes __attribute__((vector_size(LANES * 4)));
  const bytes x = (bytes)a, y = (bytes)b, m = (bytes)(x > y);
  return (vec)((x & m) | (y & ~m));
#endif
}
INLINE uint32_t sec_larger_bytes1(uint32_t a, uint32_t b) {
  a = sec_words(a), b = sec_words(b);
  uint32_t y = 0;
  UNROLL for (int k = 0; k < 32; k += 8) {
    const uint32_t x = a >> k & 255, z = b >> k & 255;
    y |= (x > z ? x : z) << k;
  }
  return sec_words(y);
}
#endif
