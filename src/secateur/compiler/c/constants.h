/* Constants, decoded and prepared once, for all engines of a library together. */
#ifndef SECATEUR_CONSTANTS_H
#define SECATEUR_CONSTANTS_H
#include "system.h"
#include <string.h>
#include "runtime.h"

#define M (&sec_the_model)

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
#endif
