/* l_store.c: core.store: reads and writes files of tensors. scripts/medxai/nn/checkpoint.lua is what the library calls.
 *   read(path, what) -> tree, format, order, skipped     order[table] = its keys in the file's order; skipped: a list
 *     of texts, the objects that are not read ("args (argparse.Namespace)"). What shares memory in the
 *     file shares it here.
 *   write_pt(path, what, node)                   node: see checkpoint.lua
 *   write_safetensors(path, what, header, tensors)
 * Values that are not plain data, and tables that contain themselves, are errors. */
#include <string.h>
#include "alloc.h"
#include "l_store.h"

#define GUARD "medxai.store"

void store_guard_close(store_guard *g) {
  store_close(g->in);
  for (size_t i = 0; i < g->nstorages; i++)
    tx_tensor_free(g->storages[i]);
  mx_free(g->storages);
  store_abandon(g->out);
  pickle_out_free(&g->pickle);
  mx_free(g->numbers);
  mx_free(g->tensors);
  tx_tensor_free(g->packed);
  memset(g, 0, sizeof *g);
}

static int guard_gc(lua_State *L) {
  store_guard_close(luaL_checkudata(L, 1, GUARD));
  return 0;
}

store_guard *store_guard_new(lua_State *L) {
  store_guard *g = lua_newuserdatauv(L, sizeof *g, 0);
  memset(g, 0, sizeof *g);
  luaL_setmetatable(L, GUARD);
  return g;
}

static const luaL_Reg functions[] = {
  { "read",              store_read },
  { "write_pt",          store_write_pt },
  { "write_safetensors", store_write_safetensors },
  { NULL, NULL },
};

int luaopen_core_store(lua_State *L) {
  luaL_newmetatable(L, GUARD);
  lua_pushcfunction(L, guard_gc);
  lua_setfield(L, -2, "__gc");
  lua_pop(L, 1);
  xl_newlib(L, functions);
  return 1;
}
