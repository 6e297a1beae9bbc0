/* The list of what medxai_core.so holds: one line a module. */
#include <lauxlib.h>
#include <lua.h>
#include "tx.h"
#include "xl.h"

static const luaL_Reg modules[] = {
  { NULL, NULL }
};

__attribute__((visibility("default"))) void medxai_core_attach(volatile sig_atomic_t *interrupted, const char *volatile *running_op) {
  (void)interrupted; (void)running_op;
}

__attribute__((visibility("default"))) int luaopen_medxai_core(lua_State *L) {
  lua_newtable(L);
  for (const luaL_Reg *m = modules; m->name; m++) {
    m->func(L);
    lua_setfield(L, -2, m->name);
  }
  return 1;
}
