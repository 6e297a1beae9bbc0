/* alloc.c: see alloc.h. Thread-safe. */
#include "alloc.h"
#include "mx_assert.h"
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static atomic_int_fast64_t live;
static atomic_bool armed;
static atomic_int_fast64_t countdown, failures;

int64_t mx_alloc_live(void) { return atomic_load(&live); }

void mx_alloc_fail_after(int64_t n, int64_t times) {
  atomic_store(&countdown, n);
  atomic_store(&failures, times < 0 ? INT64_MAX : times);
  atomic_store(&armed, n >= 0);
}

static bool refused(void) {
  if (!atomic_load_explicit(&armed, memory_order_relaxed))
    return false;
  if (atomic_fetch_sub(&countdown, 1) > 0)
    return false;
  return atomic_fetch_sub(&failures, 1) > 0;
}

void *mx_malloc(size_t bytes) {
  void *p = refused() ? NULL : malloc(bytes ? bytes : 1);
  if (p)
    atomic_fetch_add_explicit(&live, 1, memory_order_relaxed);
  return p;
}

void *mx_calloc(size_t count, size_t bytes) {
  void *p = refused() ? NULL : calloc(count ? count : 1, bytes ? bytes : 1);
  if (p)
    atomic_fetch_add_explicit(&live, 1, memory_order_relaxed);
  return p;
}

void *mx_realloc(void *p, size_t bytes) {
  if (!p)
    return mx_malloc(bytes);
  return refused() ? NULL : realloc(p, bytes ? bytes : 1);
}

char *mx_strdup(const char *s) {
  size_t n = strlen(s) + 1;
  char *copy = mx_malloc(n);
  if (copy)
    memcpy(copy, s, n);
  return copy;
}

void mx_free(void *p) {
  mx_assert(!p || atomic_load(&live) > 0);
  if (p)
    atomic_fetch_sub_explicit(&live, 1, memory_order_relaxed);
  free(p);
}
