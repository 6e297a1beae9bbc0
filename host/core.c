/* core.c: opens medxai_core.so, and with it libtorch, on the first require "medxai.core", so that whatever needs no
 * tensor starts in milliseconds. It is opened once and never closed, which libtorch does not support. */
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include "host.h"

const char *volatile core_running_op;
static const char *(*full_text)(void);

const char *core_error_full(void) { return full_text ? full_text() : NULL; }

typedef void attach_function(volatile sig_atomic_t *interrupted, const char *volatile *running_op);

/* Calls device.NAME, whose argument is on top of the core's table. */
static void call_device(lua_State *L, const char *name) {
  if (lua_getfield(L, -2, "device") == LUA_TTABLE) {
    lua_getfield(L, -1, name);
    lua_pushvalue(L, -3);
    lua_call(L, 1, 0);
  }
  lua_pop(L, 2);
}

/* OpenMP and BLAS read the number of threads from the environment; this sets it for a libtorch with a thread pool of
 * its own. --device is taken here, too. The core's table is on top. */
static void set_threads_and_device(lua_State *L) {
  lua_pushinteger(L, the_host.threads);
  call_device(L, "set_threads");
  if (!the_host.options.device || the_host.options.command) return; /* a command computes nothing */
  lua_pushstring(L, the_host.options.device);
  call_device(L, "use");
}

int core_open(lua_State *L) {
  const char *path = the_host.paths.core;
  if (!path) {
    lua_pushfstring(L, "host: medxai_core.so is not beside %s. Build it (./bootstrap build).", the_host.paths.exe);
    return lua_error(L);
  }
  threads_set_environment(the_host.threads);
  void *core = dlopen(path, RTLD_NOW | RTLD_GLOBAL);
  if (!core) {
    lua_pushfstring(
      L, "host: cannot open the native core (%s). Build again with the libtorch that is installed (./bootstrap build).",
      dlerror());
    return lua_error(L);
  }
  attach_function *attach = (attach_function *)dlsym(core, "medxai_core_attach");
  lua_CFunction opener = (lua_CFunction)dlsym(core, "luaopen_medxai_core");
  full_text = (const char *(*)(void))dlsym(core, "medxai_core_error_full");
  if (!attach || !opener) {
    lua_pushfstring(L, "host: %s is not medxai's core. Build again (./bootstrap build).", path);
    return lua_error(L);
  }
  attach(&signals_caught, &core_running_op);
  lua_pushcfunction(L, opener);
  lua_call(L, 0, 1);
  set_threads_and_device(L);
  return 1;
}
