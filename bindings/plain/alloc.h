/* alloc.h: malloc for C files, which counts live blocks and which a test can make fail at the n-th allocation. The
 * memory of tensors has an allocator of its own (tx_memory.cpp). */
#ifndef MEDXAI_ALLOC_H
#define MEDXAI_ALLOC_H

#include <stddef.h>
#include <stdint.h>

void *mx_malloc(size_t bytes);                 /* NULL when out of memory; 0 bytes gives a pointer */
void *mx_calloc(size_t count, size_t bytes);
void *mx_realloc(void *p, size_t bytes);       /* on failure p stays as it was */
char *mx_strdup(const char *s);
void mx_free(void *p);                         /* accepts NULL */
int64_t mx_alloc_live(void);                   /* blocks not freed yet */
/* tests: n more succeed, then `times` fail (-1: all); n -1: never fail */
void mx_alloc_fail_after(int64_t n, int64_t times);

#endif
