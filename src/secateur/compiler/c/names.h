/* What every name with external linkage begins with, so that two networks fit in one program. */
#ifndef SEC_PREFIX
#define SEC_PREFIX secateur
#define SEC_HEADER "secateur.h"
#endif

#ifndef SEC_NAME
#define SEC_JOIN_(a, b) a##_##b
#define SEC_JOIN(a, b) SEC_JOIN_(a, b)
#define SEC_NAME(name) SEC_JOIN(SEC_PREFIX, name)
#define sec_the_model SEC_NAME(the_model)
#define sec_stored SEC_NAME(stored)
#define sec_required SEC_NAME(required)
#define sec_lacking SEC_NAME(lacking)
#define sec_pool_make SEC_NAME(pool_make)
#define sec_pool_free SEC_NAME(pool_free)
#define sec_pool_take SEC_NAME(pool_take)
#define sec_pool_run SEC_NAME(pool_run)
#define sec_pool_give SEC_NAME(pool_give)
#define sec_meet SEC_NAME(meet)
#endif
