/* state.c: the Lua state in which an experiment starts: Lua's libraries, some of their functions replaced by the
 * host's, the search path, preloaded modules (opened when required), arguments, a seeded math.random, strict
 * globals. */
#include <lualib.h>
#include <stdlib.h>
#include "host.h"

int luaopen_medxai_file(lua_State *L); /* l_file.c */
int luaopen_medxai_archive(lua_State *L); /* l_archive.c */
int luaopen_medxai_dicom(lua_State *L); /* l_dicom.c */

static void seed_random(lua_State *L, long long seed) { /* the library seeds again when the experiment names its seed */
  lua_getglobal(L, "math");
  lua_getfield(L, -1, "randomseed");
  lua_pushinteger(L, seed);
  lua_call(L, 1, 0);
  lua_pop(L, 1);
}

/* os.exit ends the program as the end of the script does: functions given to at_exit run first. */
static int exit_now(lua_State *L) {
  int code =
    lua_isboolean(L, 1) ? (lua_toboolean(L, 1) ? EXIT_DONE : EXIT_FAILED) : (int)luaL_optinteger(L, 1, EXIT_DONE);
  exit(module_finish(L, code));
}

static void replace_exit(lua_State *L) {
  lua_getglobal(L, "os");
  lua_pushcfunction(L, exit_now);
  lua_setfield(L, -2, "exit");
  lua_pop(L, 1);
}

static void set_arguments(lua_State *L, const host_options *o) {
  lua_createtable(L, o->nargs, 1);
  lua_pushstring(L, the_host.script);
  lua_rawseti(L, -2, 0);
  for (int i = 0; i < o->nargs; i++) {
    lua_pushstring(L, o->args[i]);
    lua_rawseti(L, -2, i + 1);
  }
  lua_setglobal(L, "arg");
}

static void preload(lua_State *L, const char *name, lua_CFunction open) {
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_PRELOAD_TABLE);
  lua_pushcfunction(L, open);
  lua_setfield(L, -2, name);
  lua_pop(L, 1);
}

int state_prepare(lua_State *L) {
  lua_setwarnf(L, module_lua_warning, L);
  preload(L, "medxai.core", core_open);
  state_fill(L);
  return 0;
}

void state_fill(lua_State *L) {
  luaL_openlibs(L);
  signals_guard_library(L);
  replace_exit(L);
  paths_install(L, &the_host.paths, the_host.script_dir);
  preload(L, "medxai.host", module_open);
  preload(L, "medxai.file", luaopen_medxai_file);
  preload(L, "medxai.archive", luaopen_medxai_archive);
  preload(L, "medxai.dicom", luaopen_medxai_dicom);
  set_arguments(L, &the_host.options);
  seed_random(L, the_host.options.has_seed ? the_host.options.seed : HOST_DEFAULT_SEED);
  lua_getglobal(L, "require");
  lua_pushliteral(L, "medxai.base.globals");
  lua_call(L, 1, 0);
}
