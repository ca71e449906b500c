/* FEATURE(name, leaf, subleaf, register, bit, state) for each instruction set that a compiler may
 * use by itself: its name in Linux, and where cpuid tells of it (on Arm: in which word of Linux'
 * auxiliary vector); state is what the system must save (0: nothing, 1: 256-bit registers, 2: those
 * of 512). Given are those that this compilation uses, or all of the processor with SEC_ALL. */
#ifndef SEC_ALL
#define SEC_ALL 0
#endif
#if defined(__x86_64__) || defined(__i386__)
#if SEC_ALL || defined(__SSE3__)
FEATURE("pni", 1, 0, ecx, 0, 0)
#endif
#if SEC_ALL || defined(__SSSE3__)
FEATURE("ssse3", 1, 0, ecx, 9, 0)
#endif
#if SEC_ALL || defined(__SSE4_1__)
FEATURE("sse4_1", 1, 0, ecx, 19, 0)
#endif
#if SEC_ALL || defined(__SSE4_2__)
FEATURE("sse4_2", 1, 0, ecx, 20, 0)
#endif
#if SEC_ALL || defined(__POPCNT__)
FEATURE("popcnt", 1, 0, ecx, 23, 0)
#endif
#if SEC_ALL || defined(__MOVBE__)
FEATURE("movbe", 1, 0, ecx, 22, 0)
#endif
#if SEC_ALL || defined(__LZCNT__)
FEATURE("abm", 0x80000001, 0, ecx, 5, 0)
#endif
#if SEC_ALL || defined(__BMI__)
FEATURE("bmi1", 7, 0, ebx, 3, 0)
#endif
#if SEC_ALL || defined(__BMI2__)
FEATURE("bmi2", 7, 0, ebx, 8, 0)
#endif
#if SEC_ALL || defined(__AVX__)
FEATURE("avx", 1, 0, ecx, 28, 1)
#endif
#if SEC_ALL || defined(__F16C__)
FEATURE("f16c", 1, 0, ecx, 29, 1)
#endif
#if SEC_ALL || defined(__FMA__)
FEATURE("fma", 1, 0, ecx, 12, 1)
#endif
#if SEC_ALL || defined(__XOP__)
FEATURE("xop", 0x80000001, 0, ecx, 11, 1)
#endif
#if SEC_ALL || defined(__FMA4__)
FEATURE("fma4", 0x80000001, 0, ecx, 16, 1)
#endif
#if SEC_ALL || defined(__AVX2__)
FEATURE("avx2", 7, 0, ebx, 5, 1)
#endif
#if SEC_ALL || defined(__AVXVNNI__)
FEATURE("avx_vnni", 7, 1, eax, 4, 1)
#endif
#if SEC_ALL || defined(__GFNI__)
FEATURE("gfni", 7, 0, ecx, 8, 0)
#endif
#if SEC_ALL || defined(__AVX512F__)
FEATURE("avx512f", 7, 0, ebx, 16, 2)
#endif
#if SEC_ALL || defined(__AVX512DQ__)
FEATURE("avx512dq", 7, 0, ebx, 17, 2)
#endif
#if SEC_ALL || defined(__AVX512CD__)
FEATURE("avx512cd", 7, 0, ebx, 28, 2)
#endif
#if SEC_ALL || defined(__AVX512BW__)
FEATURE("avx512bw", 7, 0, ebx, 30, 2)
#endif
#if SEC_ALL || defined(__AVX512VL__)
FEATURE("avx512vl", 7, 0, ebx, 31, 2)
#endif
#if SEC_ALL || defined(__AVX512IFMA__)
FEATURE("avx512ifma", 7, 0, ebx, 21, 2)
#endif
#if SEC_ALL || defined(__AVX512VBMI__)
FEATURE("avx512vbmi", 7, 0, ecx, 1, 2)
#endif
#if SEC_ALL || defined(__AVX512VBMI2__)
FEATURE("avx512_vbmi2", 7, 0, ecx, 6, 2)
#endif
#if SEC_ALL || defined(__AVX512VNNI__)
FEATURE("avx512_vnni", 7, 0, ecx, 11, 2)
#endif
#if SEC_ALL || defined(__AVX512BITALG__)
FEATURE("avx512_bitalg", 7, 0, ecx, 12, 2)
#endif
#if SEC_ALL || defined(__AVX512VPOPCNTDQ__)
FEATURE("avx512_vpopcntdq", 7, 0, ecx, 14, 2)
#endif
#if SEC_ALL || defined(__AVX512BF16__)
FEATURE("avx512_bf16", 7, 1, eax, 5, 2)
#endif
#if SEC_ALL || defined(__AVX512FP16__)
FEATURE("avx512_fp16", 7, 0, edx, 23, 2)
#endif
#elif defined(__aarch64__)
#if SEC_ALL || defined(__ARM_FEATURE_FP16_VECTOR_ARITHMETIC)
FEATURE("asimdhp", 16, 0, 0, 10, 0)
#endif
#if SEC_ALL || defined(__ARM_FEATURE_DOTPROD)
FEATURE("asimddp", 16, 0, 0, 20, 0)
#endif
#if SEC_ALL || defined(__ARM_FEATURE_SVE)
FEATURE("sve", 16, 0, 0, 22, 0)
#endif
#if SEC_ALL || defined(__ARM_FEATURE_SVE2)
FEATURE("sve2", 26, 0, 0, 1, 0)
#endif
#if SEC_ALL || defined(__ARM_FEATURE_MATMUL_INT8)
FEATURE("i8mm", 26, 0, 0, 13, 0)
#endif
#if SEC_ALL || defined(__ARM_FEATURE_BF16)
FEATURE("bf16", 26, 0, 0, 14, 0)
#endif
#elif defined(__arm__)
#if SEC_ALL || defined(__ARM_NEON)
FEATURE("neon", 16, 0, 0, 12, 0)
#endif
#if SEC_ALL || defined(__ARM_FEATURE_FMA)
FEATURE("vfpv4", 16, 0, 0, 16, 0)
#endif
#endif
