/* What the runtime asks of the operating system: Linux, macOS, other POSIX, Windows, WebAssembly. */
#ifndef SECATEUR_SYSTEM_H
#define SECATEUR_SYSTEM_H
#if !defined(_WIN32) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE 1
#endif
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#if defined(_WIN32)
#define WIN32_LEAN_AND_MEAN 1
#include <malloc.h>
#include <windows.h>
#else
#include <unistd.h>
#endif
#if !defined(_WIN32) && !defined(__wasm__)
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#endif

#define SEC_HELPER static __attribute__((unused))

/* This process: another number after a fork, and never 0. */
SEC_HELPER int sec_process(void) {
#if defined(_WIN32) || defined(__wasm__)
  return 1;
#else
  return (int)getpid();
#endif
}

/* Let the sibling of this core go on, for a moment. */
SEC_HELPER void sec_relax(void) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__) || (defined(__arm__) && __ARM_ARCH >= 7)
  __asm__ volatile("yield");
#endif
}

/* Let another thread have this core. */
SEC_HELPER void sec_yield(void) {
#if defined(_WIN32)
  SwitchToThread();
#elif !defined(__wasm__)
  sched_yield();
#endif
}

SEC_HELPER double sec_now(void) {
#if defined(_WIN32)
  LARGE_INTEGER count, second;
  QueryPerformanceCounter(&count);
  QueryPerformanceFrequency(&second);
  return (double)count.QuadPart / (double)second.QuadPart;
#else
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
#endif
}

#if defined(__linux__)
/* Whether a logical core is the first of its physical core that this process may use: two threads
   on one core would share its multipliers and its cache. */
SEC_HELPER int sec_first_sibling(int cpu, const cpu_set_t *usable) {
  char path[80];
  int first = cpu;
  snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", cpu);
  FILE *file = fopen(path, "r");
  if (file) {
    if (fscanf(file, "%d", &first) != 1 || first < 0 || first >= CPU_SETSIZE) first = cpu;
    fclose(file);
  }
  return first == cpu || !CPU_ISSET((size_t)first, usable);
}
#endif

/* Physical cores that this process may use: its affinity and, in a container, its share of time. */
SEC_HELPER int sec_cores(void) {
  long cores = 1;
#if defined(_WIN32)
  DWORD_PTR mine = 0, all = 0;
  if (GetProcessAffinityMask(GetCurrentProcess(), &mine, &all))
    cores = __builtin_popcountll((unsigned long long)mine);
#elif !defined(__wasm__)
  cores = sysconf(_SC_NPROCESSORS_ONLN);
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) {
    cores = 0;
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
      if (CPU_ISSET((size_t)cpu, &set)) cores += sec_first_sibling(cpu, &set);
  }
  FILE *file = fopen("/sys/fs/cgroup/cpu.max", "r");
  if (file) {
    long quota, period;
    if (fscanf(file, "%ld %ld", &quota, &period) == 2 && quota > 0 && period > 0) {
      const long most = (quota + period - 1) / period;
      if (most < cores) cores = most;
    }
    fclose(file);
  }
#endif
#endif
  return cores < 1 ? 1 : cores > 1024 ? 1024 : (int)cores;
}

/* Memory at a multiple of 64 bytes, or null. Large pieces are in large pages where there are any:
   walking through an arena then misses fewer address translations. */
SEC_HELPER void *sec_allocate(size_t bytes) {
#if defined(_WIN32)
  return _aligned_malloc(bytes ? bytes : 64, 64);
#else
  const size_t page = (size_t)2 << 20;
  void *memory = 0;
  if (posix_memalign(&memory, bytes >= page ? page : 64, bytes ? bytes : 64)) return 0;
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  if (bytes >= page) (void)madvise(memory, bytes, MADV_HUGEPAGE);
#endif
  return memory;
#endif
}

SEC_HELPER void sec_release(void *memory) {
#if defined(_WIN32)
  _aligned_free(memory);
#else
  free(memory);
#endif
}
#endif
