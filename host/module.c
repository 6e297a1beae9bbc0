/* module.c: require "medxai.host": the library's access to the program: options, fields, warnings, functions to run at
 * the end. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "clock.h"
#include "host.h"

static const char at_exit_key = 0, warnings_key = 0; /* addresses: two lists in the registry */

static void push_list(lua_State *L, const void *key) {
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, key) == LUA_TTABLE) return;
  lua_pop(L, 1);
  lua_newtable(L);
  lua_pushvalue(L, -1);
  lua_rawsetp(L, LUA_REGISTRYINDEX, key);
}

static int host_interrupted(lua_State *L) {
  if (signals_caught) lua_pushstring(L, signals_name(signals_caught)); else lua_pushnil(L);
  return 1;
}

/* host.hold_signals(on): while on, SIGUSR1 and SIGUSR2 do not stop the program; off, one that came meanwhile does. */
static int host_hold_signals(lua_State *L) {
  signals_hold(lua_toboolean(L, 1));
  return 0;
}

/* host.asked(): "SIGUSR1" or "SIGUSR2" where one came while signals were held. */
static int host_asked(lua_State *L) {
  int sig = signals_asked();
  if (sig) lua_pushstring(L, signals_name(sig)); else lua_pushnil(L);
  return 1;
}

/* host.stopped_by(): the signal that ended the program, for functions given to at_exit. */
static int host_stopped_by(lua_State *L) {
  int sig = signals_stopped_by();
  if (sig) lua_pushstring(L, signals_name(sig)); else lua_pushnil(L);
  return 1;
}

/* host.sleep(seconds): waits; a signal ends it. */
static int host_sleep(lua_State *L) {
  double seconds = luaL_checknumber(L, 1);
  luaL_argcheck(L, seconds >= 0 && seconds < 1e9, 1, "seconds from 0 expected");
  signals_sleep(seconds);
  return 0;
}

static int host_now(lua_State *L) {
  lua_pushnumber(L, clock_seconds());
  return 1;
}

void module_warn(lua_State *L, const char *message) {
  fprintf(stderr, "medxai-run: warning: %s\n", message);
  push_list(L, &warnings_key);
  lua_pushstring(L, message);
  lua_rawseti(L, -2, (lua_Integer)lua_rawlen(L, -2) + 1);
  lua_pop(L, 1);
}

static int host_warn(lua_State *L) {
  module_warn(L, luaL_checkstring(L, 1));
  return 0;
}

static int host_warnings(lua_State *L) {
  push_list(L, &warnings_key);
  return 1;
}

static int host_at_exit(lua_State *L) {
  luaL_checktype(L, 1, LUA_TFUNCTION);
  push_list(L, &at_exit_key);
  lua_pushvalue(L, 1);
  lua_rawseti(L, -2, (lua_Integer)lua_rawlen(L, -2) + 1);
  return 0;
}

static const luaL_Reg functions[] = {
  { "asked",        host_asked },
  { "at_exit",      host_at_exit },
  { "hold_signals", host_hold_signals },
  { "interrupted",  host_interrupted },
  { "now",          host_now },
  { "separate",     separate_run },
  { "sleep",        host_sleep },
  { "stopped_by",   host_stopped_by },
  { "warn",         host_warn },
  { "warnings",     host_warnings },
  { NULL, NULL },
};

static void set_string(lua_State *L, const char *name, const char *value) {
  lua_pushstring(L, value); /* NULL pushes nil */
  lua_setfield(L, -2, name);
}

static void set_boolean(lua_State *L, const char *name, bool value) {
  lua_pushboolean(L, value);
  lua_setfield(L, -2, name);
}

static void set_integer(lua_State *L, const char *name, lua_Integer value) {
  lua_pushinteger(L, value);
  lua_setfield(L, -2, name);
}

static void push_options(lua_State *L, const host_options *o) {
  lua_newtable(L);
  set_string(L, "device", o->device ? o->device : "cpu");
  set_string(L, "out", o->out);
  if (o->has_seed) set_integer(L, "seed", o->seed);
  set_integer(L, "threads", the_host.threads);
  if (o->devices) set_integer(L, "devices", o->devices);
  set_boolean(L, "smoke", o->smoke);
  set_boolean(L, "trace", o->trace);
  set_boolean(L, "profile", o->profile);
  set_boolean(L, "resume", o->resume);
  set_boolean(L, "overwrite", o->overwrite);
  set_boolean(L, "quiet", o->quiet);
  set_boolean(L, "verbose", o->verbose);
}

static void push_fields(lua_State *L, const host_options *o) {
  lua_newtable(L);
  for (int i = 0; i < o->nfields; i++) set_string(L, o->fields[i].name, o->fields[i].value);
}

int module_open(lua_State *L) {
  luaL_newlib(L, functions);
  set_string(L, "version", HOST_VERSION);
  set_string(L, "script", the_host.script);
  set_string(L, "script_dir", the_host.script_dir);
  set_string(L, "scripts_dir", the_host.paths.scripts);
  set_string(L, "exe", the_host.paths.exe);
  set_boolean(L, "is_tty", isatty(STDERR_FILENO));
  set_integer(L, "cores", the_host.cores);
  push_options(L, &the_host.options);
  lua_setfield(L, -2, "options");
  push_fields(L, &the_host.options);
  lua_setfield(L, -2, "fields");
  return 1;
}

static const char *how_it_ended(int code) {
  if (code == EXIT_DONE) return "finished";
  int sig = signals_stopped_by();
  return sig == SIGTERM || sig == SIGHUP ? "terminated" : sig ? "interrupted" : "failed";
}

/* Runs the at_exit functions, the last one first. Each is called with how the script ended ("finished", "failed",
 * "interrupted", "terminated") and the error message. An error in one is reported, and the next one runs. */
static int run_at_exit(lua_State *L, int code) {
  const char *ended = how_it_ended(code);
  luaL_checkstack(L, 8, NULL);
  lua_pushstring(L, code == EXIT_DONE ? NULL : report_last()); /* NULL pushes nil */
  push_list(L, &at_exit_key);
  int list = lua_gettop(L);
  for (lua_Integer i; (i = (lua_Integer)lua_rawlen(L, list)) > 0;) {
    lua_pushcfunction(L, report_handler);
    lua_rawgeti(L, list, i);
    lua_pushnil(L);
    lua_rawseti(L, list, i); /* removed first, so that each runs once, even if it ends the program */
    lua_pushstring(L, ended);
    lua_pushvalue(L, list - 1);
    int status = lua_pcall(L, 2, 0, list + 1);
    if (status != LUA_OK) {
      int failed = report_failure(L, status);
      if (code == EXIT_DONE) code = failed;
    }
    lua_settop(L, list);
  }
  lua_pop(L, 2);
  return code;
}

static void count_warnings(lua_State *L) {
  push_list(L, &warnings_key);
  lua_Integer n = (lua_Integer)lua_rawlen(L, -1);
  if (n > 0) fprintf(stderr, "medxai-run: %d warning%s:\n", (int)n, n == 1 ? "" : "s");
  for (lua_Integer i = 1; i <= n; i++) {
    lua_rawgeti(L, -1, i);
    fprintf(stderr, "  %s\n", lua_tostring(L, -1));
    lua_pop(L, 1);
  }
  lua_pop(L, 1);
}

static int finish(lua_State *L) { /* code -> code */
  lua_pushinteger(L, run_at_exit(L, (int)lua_tointeger(L, 1)));
  count_warnings(L);
  return 1;
}

/* Output that could not be written (a full disk behind > FILE) is a failure; a reader that has gone (a closed pipe) is
 * not. */
static int finish_output(int code) {
  errno = 0;
  bool lost = fflush(stdout) != 0 || ferror(stdout);
  if (!lost || code != EXIT_DONE || errno == EPIPE) return code;
  fputs("medxai-run: standard output could not be written (is the disk full?). What was printed is cut short.\n",
        stderr);
  return EXIT_FAILED;
}

int module_finish(lua_State *L, int code) {
  signals_finish();
  lua_pushcfunction(L, finish);
  lua_pushinteger(L, code);
  int status = lua_pcall(L, 1, 1, 0);
  if (status == LUA_OK) { code = (int)lua_tointeger(L, -1); lua_pop(L, 1); }
  else if (code == EXIT_DONE) code = report_failure(L, status);
  code = finish_output(code);
  fflush(NULL);
  return code;
}

/* Lua's own warnings (warn(...), an error in a finalizer) come in pieces. "@on" and "@off" concern the program lua
 * alone. */
void module_lua_warning(void *state, const char *piece, int more) {
  static char text[1024];
  static size_t used;
  if (used == 0 && !more && piece[0] == '@') return;
  size_t n = strlen(piece), room = sizeof text - 1 - used;
  if (n > room) n = room;
  memcpy(text + used, piece, n);
  used += n;
  if (more) return;
  text[used] = '\0';
  used = 0;
  (void)state;
  fprintf(stderr, "medxai-run: warning: %s\n", text);
}
