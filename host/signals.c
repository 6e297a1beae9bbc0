/* signals.c: SIGINT, SIGTERM and SIGHUP (and SIGPIPE, when the reader of our output has gone). The first signal sets a
 * flag and stops Lua code at its next instruction and libtorch at its next operator; a second one kills the process.
 * pcall and coroutines of the experiment do not catch the stop, and __close handlers delay it only for a short
 * time. Lua runs no hooks in a finalizer (__gc), nor in the closers of a coroutine that was stopped within a C function
 * such as table.sort: there the first signal has to wait. A handler only sets the flag and calls lua_sethook.
 * SIGUSR1 and SIGUSR2 stop the program, too, but not in the middle of a training step (signals_hold): first the
 * training writes a checkpoint. */
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>
#include "host.h"

volatile sig_atomic_t signals_caught;
static volatile sig_atomic_t held, asked; /* a training step runs; SIGUSR1 or SIGUSR2 that came meanwhile */
static volatile sig_atomic_t stopped_by; /* the value of signals_caught when the program began to end */
static lua_State *volatile running; /* the running coroutine: each has its own hook */
static pthread_t main_thread;
static struct termios terminal; /* as it was at the start */
static bool has_terminal;

/* Instructions that run between the first stop and the next: room for <close> handlers on the way out. */
enum { GRACE_INSTRUCTIONS = 1000000 };

lua_State *signals_running(void) { return running; }

lua_State *signals_enter(lua_State *L) {
  lua_State *before = running;
  running = L;
  return before;
}

const char *signals_name(int sig) {
  switch (sig) {
    case SIGINT:  return "SIGINT";
    case SIGTERM: return "SIGTERM";
    case SIGPIPE: return "SIGPIPE";
    case SIGHUP:  return "SIGHUP";
    case SIGUSR1: return "SIGUSR1";
    case SIGUSR2: return "SIGUSR2";
    case SIGSEGV: return "SIGSEGV";
    case SIGFPE:  return "SIGFPE";
    case SIGABRT: return "SIGABRT";
    case SIGBUS:  return "SIGBUS";
    case SIGILL:  return "SIGILL";
    default:      return "signal";
  }
}

static void stop_hook(lua_State *L, lua_Debug *ar);

/* Stops what runs in L after the error (closers, for example) again after a while. */
static void give_grace(lua_State *L) { lua_sethook(L, stop_hook, LUA_MASKCOUNT, GRACE_INSTRUCTIONS); }

static int interrupted(lua_State *L) {
  give_grace(L);
  lua_pushliteral(L, "interrupted");
  return lua_error(L);
}

/* A coroutine is left by a yield where possible: after an error raised in a hook, Lua would run its closers without
 * hooks, and an endless one could not be stopped. */
static void stop_hook(lua_State *L, lua_Debug *ar) {
  (void)ar;
  if (!signals_caught) lua_sethook(L, NULL, 0, 0); /* cleared meanwhile */
  else if (lua_isyieldable(L)) lua_yield(L, 0);
  else interrupted(L);
}

static void die_of(int sig) {
  if (has_terminal) tcsetattr(STDIN_FILENO, TCSANOW, &terminal);
  signal(sig, SIG_DFL);
  raise(sig); /* blocked until the handler returns, then fatal */
}

static void on_stop(int sig) {
  /* Lua belongs to one thread */
  if (!pthread_equal(pthread_self(), main_thread)) { pthread_kill(main_thread, sig); return; }
  if (signals_caught || stopped_by || !running) {
    if (sig != SIGPIPE) die_of(sig);
    return;
  }
  signals_caught = sig;
  if (running) lua_sethook(running, stop_hook, LUA_MASKCOUNT, 1); /* Lua allows this call in a handler */
}

/* Of several only the first counts: the program may be on its way to a checkpoint, or to its end. */
static void on_ask(int sig) {
  if (!pthread_equal(pthread_self(), main_thread)) { pthread_kill(main_thread, sig); return; }
  if (signals_caught || stopped_by || asked || !running) return;
  if (held) asked = sig;
  else on_stop(sig);
}

void signals_hold(bool on) {
  held = on;
  int sig = asked;
  if (on || !sig) return;
  asked = 0;
  if (!signals_caught && !stopped_by) on_stop(sig);
}

int signals_asked(void) { return asked; }

/* Without the mask a signal between the question and the wait would be found after it. */
void signals_sleep(double seconds) {
  static const int ending[] = { SIGINT, SIGTERM, SIGHUP, SIGPIPE, SIGUSR1, SIGUSR2 };
  sigset_t block, before;
  struct timespec t = { .tv_sec = (time_t)seconds };
  t.tv_nsec = (long)((seconds - (double)t.tv_sec) * 1e9);
  sigemptyset(&block);
  for (size_t i = 0; i < sizeof ending / sizeof *ending; i++) sigaddset(&block, ending[i]);
  pthread_sigmask(SIG_BLOCK, &block, &before);
  if (!signals_caught && !asked) ppoll(NULL, 0, &t, &before);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static bool is_ignored(int sig) {
  struct sigaction action;
  return sigaction(sig, NULL, &action) == 0 && action.sa_handler == SIG_IGN;
}

void signals_install(lua_State *L) {
  main_thread = pthread_self();
  running = L;
  has_terminal = isatty(STDIN_FILENO) && tcgetattr(STDIN_FILENO, &terminal) == 0;
  struct sigaction action;
  memset(&action, 0, sizeof action);
  action.sa_handler = on_stop; /* SA_RESTART not set: a read or a wait ends at once */
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, NULL);
  sigaction(SIGTERM, &action, NULL);
  sigaction(SIGPIPE, &action, NULL);
  if (!is_ignored(SIGHUP)) sigaction(SIGHUP, &action, NULL); /* nohup */
  action.sa_handler = on_ask;
  sigaction(SIGUSR1, &action, NULL);
  sigaction(SIGUSR2, &action, NULL);
  signal(SIGXFSZ, SIG_IGN); /* a write over the limit fails with EFBIG, which the writer reports */
}

void signals_clear(void) {
  signals_caught = 0;
  if (running) lua_sethook(running, NULL, 0, 0);
}

/* From here on the program ends: what it still runs may finish, and another signal kills it. */
void signals_finish(void) {
  stopped_by = signals_caught;
  signals_clear();
}

void signals_leave(void) { running = NULL; }

int signals_stopped_by(void) { return stopped_by ? stopped_by : signals_caught; }

/* ---- pcall, xpcall: as Lua's, but an interrupt goes through them ---- */

static int finish_call(lua_State *L, int status, lua_KContext first) { /* results from index first */
  if (status != LUA_OK && status != LUA_YIELD) {
    if (signals_caught) return interrupted(L);
    lua_pushboolean(L, 0);
    lua_insert(L, -2);
    return 2;
  }
  lua_pushboolean(L, 1);
  lua_replace(L, (int)first - 1);
  return lua_gettop(L) - (int)first + 2;
}

static int guarded_pcall(lua_State *L) {
  luaL_checkany(L, 1);
  lua_pushboolean(L, 1); /* room for the first result */
  lua_insert(L, 1);
  return finish_call(L, lua_pcallk(L, lua_gettop(L) - 2, LUA_MULTRET, 0, 2, finish_call), 2);
}

/* Calls the experiment's message handler, except for an interrupt: that is raised in a hook, so the handler would run
 * without hooks and could not be stopped. */
static int guarded_handler(lua_State *L) { /* upvalue 1: the handler */
  if (signals_caught) { lua_pushliteral(L, "interrupted"); return 1; }
  lua_settop(L, 1);
  lua_pushvalue(L, lua_upvalueindex(1));
  lua_insert(L, 1);
  lua_call(L, 1, 1);
  return 1;
}

static int guarded_xpcall(lua_State *L) { /* f, handler, ... */
  luaL_checktype(L, 2, LUA_TFUNCTION);
  lua_pushvalue(L, 2);
  lua_pushcclosure(L, guarded_handler, 1);
  lua_replace(L, 2);
  int n = lua_gettop(L) - 2;
  lua_pushboolean(L, 1);
  lua_pushvalue(L, 1);
  lua_rotate(L, 3, 2); /* f, handler, room, f, ... */
  return finish_call(L, lua_pcallk(L, n, LUA_MULTRET, 2, 4, finish_call), 4);
}

/* ---- coroutines: the hook follows the one that runs, and a stop leaves it for its caller ---- */

/* The signal may have come while `running` was another coroutine: then the hook is missing here. */
static void ensure_hook(lua_State *L) {
  if (signals_caught && lua_gethook(L) != stop_hook) give_grace(L);
}

/* Calls the function below n arguments on the stack, with co as the running coroutine. */
static int call_in(lua_State *L, lua_State *co, int n) {
  lua_State *before = running;
  running = co;
  ensure_hook(co);
  int status = lua_pcall(L, n, LUA_MULTRET, 0);
  running = before;
  ensure_hook(L);
  return status;
}

/* Closes a coroutine after a stop: its closers run. */
static int leave(lua_State *L, lua_State *co) {
  lua_State *before = running;
  running = co;
  give_grace(co);
  if (lua_status(co) == LUA_YIELD) lua_resetthread(co);
  running = before;
  return interrupted(L);
}

static int guarded_resume(lua_State *L) { /* upvalue 1: Lua's resume */
  lua_State *co = lua_tothread(L, 1);
  luaL_argexpected(L, co, 1, "coroutine");
  int n = lua_gettop(L);
  lua_pushvalue(L, lua_upvalueindex(1));
  lua_insert(L, 1);
  int status = call_in(L, co, n);
  if (status != LUA_OK) return lua_error(L);
  if (signals_caught) return leave(L, co);
  return lua_gettop(L);
}

static int resume_wrapped(lua_State *L) { /* upvalues: the function that Lua's wrap made, its coroutine */
  lua_State *co = lua_tothread(L, lua_upvalueindex(2));
  int n = lua_gettop(L);
  lua_pushvalue(L, lua_upvalueindex(1));
  lua_insert(L, 1);
  int status = call_in(L, co, n);
  if (signals_caught) return leave(L, co);
  return status == LUA_OK ? lua_gettop(L) : lua_error(L);
}

static int guarded_close(lua_State *L) { /* upvalue 1: Lua's close */
  lua_State *co = lua_tothread(L, 1);
  luaL_argexpected(L, co, 1, "coroutine");
  lua_settop(L, 1);
  lua_pushvalue(L, lua_upvalueindex(1));
  lua_insert(L, 1);
  int status = call_in(L, co, 1);
  if (signals_caught) return interrupted(L);
  return status == LUA_OK ? lua_gettop(L) : lua_error(L);
}

static int guarded_wrap(lua_State *L) { /* upvalue 1: Lua's wrap, whose function keeps its coroutine as first upvalue */
  luaL_checktype(L, 1, LUA_TFUNCTION);
  lua_settop(L, 1);
  lua_pushvalue(L, lua_upvalueindex(1));
  lua_insert(L, 1);
  lua_call(L, 1, 1);
  lua_getupvalue(L, 1, 1);
  lua_pushcclosure(L, resume_wrapped, 2);
  return 1;
}

static void guard_coroutine(lua_State *L, const char *name, lua_CFunction f) { /* coroutine library on top */
  lua_getfield(L, -1, name);
  lua_pushcclosure(L, f, 1);
  lua_setfield(L, -2, name);
}

void signals_guard_library(lua_State *L) {
  lua_register(L, "pcall", guarded_pcall);
  lua_register(L, "xpcall", guarded_xpcall);
  lua_getglobal(L, "coroutine");
  guard_coroutine(L, "resume", guarded_resume);
  guard_coroutine(L, "wrap", guarded_wrap);
  guard_coroutine(L, "close", guarded_close);
  lua_pop(L, 1);
}
