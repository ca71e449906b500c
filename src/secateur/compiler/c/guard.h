/* Whether this processor can run the network. */
#ifndef SECATEUR_GUARD_H
#define SECATEUR_GUARD_H
#include "names.h"

/* Instruction sets that model.c may use, ended by null. */
extern const char *const sec_required[];

/* The first of them that this processor, or its system, lacks; null where there is none. */
const char *sec_lacking(void);
#endif
