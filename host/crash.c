/* crash.c: on SIGSEGV, SIGFPE, SIGABRT, SIGBUS or SIGILL prints a report with the operator and the experiment's line;
 * then the process dies of the signal, which shells and core dumps need. Only calls that are safe in a handler: write,
 * signal, raise, prctl, and lua_getstack/lua_getinfo("Sl"), which walk existing frames, copy into the caller's
 * lua_Debug and allocate nothing. The handler has its own stack, so that a C stack overflow is reported too. */
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>
#include "host.h"
#include "worker.h"

static char stack[64 * 1024];
static volatile sig_atomic_t reporting;

static void put(const char *text) {
  size_t n = strlen(text);
  while (n > 0) {
    ssize_t done = write(STDERR_FILENO, text, n);
    if (done <= 0) return;
    text += done; n -= (size_t)done;
  }
}

static void put_number(int n) {
  char digits[16], *c = digits + sizeof digits;
  *--c = '\0';
  do *--c = (char)('0' + n % 10); while ((n /= 10) > 0 && c > digits);
  put(c);
}

static bool put_line(lua_State *L) {
  lua_Debug ar;
  size_t n = strlen(the_host.paths.scripts);
  for (int level = 0; level < 1000 && lua_getstack(L, level, &ar); level++) {
    if (!lua_getinfo(L, "Sl", &ar) || ar.currentline <= 0) continue;
    if (ar.source[0] == '@' && strncmp(ar.source + 1, the_host.paths.scripts, n) == 0) continue;
    put(ar.source[0] == '@' || ar.source[0] == '=' ? ar.source + 1 : ar.short_src);
    put(":");
    put_number(ar.currentline);
    put(": ");
    return true;
  }
  return false;
}

/* Whether this is an image worker: then the line and the operator of the main thread are not the cause. */
static bool in_worker(void) {
  char name[16] = "";
  return prctl(PR_GET_NAME, name) == 0 && strcmp(name, WORKER_NAME) == 0;
}

static void on_crash(int sig) {
  signal(sig, SIG_DFL);
  if (!reporting) {
    reporting = 1; /* a second crash in here ends without a report */
    const char *op = core_running_op;
    bool worker = in_worker();
    put("medxai-run: ");
    lua_State *L = signals_running();
    if (L && !worker) put_line(L);
    put("crash: ");
    put(signals_name(sig));
    if (worker) put(" in a thread that reads images");
    else if (op) { put(" in operator "); put(op); }
    else put(" outside any operator");
    put(". Files written so far are whole.\n");
  }
  raise(sig); /* pending until the handler returns */
}

void crash_install(void) {
  static const int fatal[] = { SIGSEGV, SIGFPE, SIGABRT, SIGBUS, SIGILL };
  stack_t own = { .ss_sp = stack, .ss_size = sizeof stack };
  sigaltstack(&own, NULL);
  struct sigaction action;
  memset(&action, 0, sizeof action);
  action.sa_handler = on_crash;
  action.sa_flags = SA_ONSTACK;
  sigemptyset(&action.sa_mask);
  for (size_t i = 0; i < sizeof fatal / sizeof *fatal; i++) sigaction(fatal[i], &action, NULL);
}
