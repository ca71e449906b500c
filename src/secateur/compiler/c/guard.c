/* Compiled for the oldest processors, like all of the runtime: only model.c needs the newest. */
#include "guard.h"

#if defined(__x86_64__) || defined(__i386__)
#include <cpuid.h>
#define KNOWN 1
enum { eax, ebx, ecx, edx };

/* What the system saves when it switches threads: 1: 256-bit registers, 2: those of 512 too. */
static int saved_state(void) {
  unsigned r[4], low, high;
  if (!__get_cpuid(1, r, r + 1, r + 2, r + 3) || !(r[ecx] >> 27 & 1)) return 0;
  __asm__(".byte 0x0f, 0x01, 0xd0" : "=a"(low), "=d"(high) : "c"(0)); /* xgetbv */
  (void)high;
  if ((low & 0x06) != 0x06) return 0;
#if defined(__APPLE__) /* tells of 512-bit registers only once they are in use */
  return 2;
#else
  return (low & 0xe0) == 0xe0 ? 2 : 1;
#endif
}

static unsigned long word(unsigned leaf, unsigned subleaf, int reg) {
  unsigned r[4];
  return __get_cpuid_count(leaf, subleaf, r, r + 1, r + 2, r + 3) ? r[reg] : 0;
}

#elif defined(__linux__) && (defined(__aarch64__) || defined(__arm__))
#include <sys/auxv.h>
#define KNOWN 1
static int saved_state(void) { return 2; }
static unsigned long word(unsigned leaf, unsigned subleaf, int reg) {
  (void)subleaf;
  (void)reg;
  return getauxval(leaf);
}
#endif

#if KNOWN
#include <string.h>

typedef struct {
  const char *name;
  unsigned leaf, subleaf;
  int reg, bit, state;
} feature;

#define SEC_ALL 1
#define FEATURE(name, leaf, subleaf, reg, bit, state) {name, leaf, subleaf, reg, bit, state},
static const feature features[] = {
#include "instructions.h"
};

static int has(const char *name) {
  for (unsigned i = 0; i < sizeof features / sizeof *features; i++) {
    const feature *f = features + i;
    if (!strcmp(f->name, name))
      return (word(f->leaf, f->subleaf, f->reg) >> f->bit & 1) && f->state <= saved_state();
  }
  return 0;
}

const char *sec_lacking(void) {
  for (const char *const *name = sec_required; *name; name++)
    if (!has(*name)) return *name;
  return 0;
}
#else
const char *sec_lacking(void) { return 0; }
#endif
