/* Only preprocessed, never compiled: what these compiler flags mean. Floats of a vector, vector
 * registers, whether there are matrix instructions, and the instruction sets that may be used. */
#define FEATURE(name, leaf, subleaf, reg, bit, state) feature name
#if defined(__AVX512F__)
vectors 16 32
#elif defined(__AVX__)
vectors 8 16
#elif defined(__x86_64__) || defined(__i386__) || defined(__arm__) || defined(__wasm__)
vectors 4 16
#elif defined(__aarch64__)
vectors 4 32
#else /* four floats one by one, in 32 registers */
vectors 4 8
#endif
#if defined(__AMX_INT8__) && defined(__linux__)
matrix
#endif
#include "instructions.h"
