/* xl_budget.c: when to run Lua's garbage collector because of tensors, which are a few bytes to Lua and megabytes to
 * the machine. The only file that calls lua_gc. A full collection runs when the live bytes, as the allocator counts
 * them, have grown past the soft limit, and before an operator that ran out of memory is tried again. If that fails
 * too, the error is raised. */
#include <stdio.h>
#include <string.h>
#include "xl.h"

#define MiB (INT64_C(1) << 20)
#define FIRST_SOFT_LIMIT (256 * MiB) /* also the least growth between two collections */

static int64_t soft_limit = FIRST_SOFT_LIMIT; /* static: there is one allocator per process */
static int64_t soft_limit_cuda = FIRST_SOFT_LIMIT;
static bool has_cuda;

void xl_budget_open(lua_State *L) {
  /* Incremental, since generational mode keeps dead tensors of old tables too long (744 MB instead of 32). A new cycle
   * starts after 30 % of growth instead of 100 %: fewer dead boxes stay in the processor's cache, and an addition of
   * small tensors takes half the time. */
  lua_gc(L, LUA_GCINC, 130, 400, 0);
  has_cuda = tx_cuda_count() > 0;
}

int64_t xl_budget_lua_bytes(lua_State *L) { return (int64_t)lua_gc(L, LUA_GCCOUNT) * 1024 + lua_gc(L, LUA_GCCOUNTB); }

/* The next collection is due when half as much again is live, so that its cost stays proportional to what is held. */
static int64_t next_limit(int64_t live) { return live + (live / 2 > FIRST_SOFT_LIMIT ? live / 2 : FIRST_SOFT_LIMIT); }

/* Sets the limits anew, down as well: an earlier peak must not allow as much garbage now. */
void xl_budget_collect(lua_State *L) {
  lua_gc(L, LUA_GCCOLLECT);
  tx_memory m;
  tx_memory_stats(&m);
  soft_limit = next_limit(m.live_bytes);
  soft_limit_cuda = next_limit(m.cuda_live_bytes);
}

static bool cuda_is_full(void) {
  tx_memory m;
  tx_memory_stats(&m);
  return m.cuda_live_bytes >= soft_limit_cuda;
}

void xl_budget_check(lua_State *L) {
  static unsigned calls; /* asking CUDA's allocator costs more than an operator's call: every 32nd time */
  if (tx_memory_live_bytes() >= soft_limit || (has_cuda && ++calls % 32 == 0 && cuda_is_full()))
    xl_budget_collect(L);
}

bool xl_budget_retry(lua_State *L, int *tries) {
  if ((*tries)++)
    return false;
  xl_budget_collect(L);
  tx_memory_empty_cache();
  return true;
}

void xl_budget_before_backward(lua_State *L) {
  tx_memory m;
  tx_memory_stats(&m);
  if (m.limit_bytes > 0 && m.live_bytes > m.limit_bytes / 2)
    xl_budget_collect(L);
}

/* "3,210 MB"; one digit after the point below 10 MB. */
const char *xl_megabytes(char buf[32], int64_t bytes) {
  const double mb = (double)bytes / MiB;
  char digits[32];
  const int n = snprintf(digits, sizeof digits, mb < 10 ? "%.1f" : "%.0f", mb);
  const int whole = mb < 10 ? n - 2 : n;
  char *to = buf;
  for (int i = 0; i < n; i++) {
    if (i > 0 && i < whole && (whole - i) % 3 == 0)
      *to++ = ',';
    *to++ = digits[i];
  }
  strcpy(to, " MB");
  return buf;
}

noreturn void xl_nomem(lua_State *L, const char *what) {
  xl_error(L, "out of memory: %s. Use a smaller batch or image.", what);
}

noreturn void xl_budget_nomem(lua_State *L, const char *what, bool changed) {
  char why[512], asked[32], live[32], limit[32];
  snprintf(why, sizeof why, "%s", tx_error()); /* before asking the allocators, which may fail themselves */
  tx_memory m;
  tx_memory_stats(&m);
  const char *half = changed ? " What it works on may be half changed." : "";
  static const char ours[] = "out of memory: ";
  if (strncmp(why, ours, sizeof ours - 1) != 0) /* the device's allocator, or libtorch's own new */
    xl_error(L, "out of memory: %s: %s.%s Use a smaller batch or image.", what, why, half);
  const char *reason = strchr(why, ',');
  const bool fits = m.last_request_bytes <= m.limit_bytes - m.live_bytes;
  xl_error(L, "out of memory: %s asked for %s, %s live, limit %s%s.%s Use a smaller batch or image, or a scope around "
           "each step.", what, xl_megabytes(asked, m.last_request_bytes), xl_megabytes(live, m.live_bytes),
           m.limit_bytes > 0 ? xl_megabytes(limit, m.limit_bytes) : "none", reason && fits ? reason : "", half);
}
