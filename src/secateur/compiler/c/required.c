/* Compiled with the flags of model.c: the instruction sets that the two may use. */
#include "guard.h"

#define FEATURE(name, leaf, subleaf, reg, bit, state) name,
const char *const sec_required[] = {
#include "instructions.h"
    0};
