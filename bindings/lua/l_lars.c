/* l_lars.c: core.lars: least angle regression and the lasso's path (lars.c) for Lua.
 *   path(gram, xy, { samples =, lasso = false, max_steps = 500, alpha_min = 0 }) -> active, coef, alpha
 * gram (p, p) and xy (p): X'X and X'y, float64 on the CPU; active: list of columns (from 0) in their order of entry;
 * coef (steps + 1, p) and alpha (steps + 1): float64. */
#include "alloc.h"
#include "lars.h"
#include "xl.h"

static void release_path(void *p) {
  lars_free(p);
  mx_free(p);
}

static double number_field(lua_State *L, const char *name, double absent) {
  lua_getfield(L, 3, name);
  const double v = luaL_optnumber(L, -1, absent);
  lua_pop(L, 1);
  return v;
}

static int lars_path_(lua_State *L) {
  luaL_checktype(L, 3, LUA_TTABLE);
  lua_settop(L, 3);
  const int64_t p = tx_tensor_numel(xl_totensor(L, 2));
  if (p < 1 || p > 4096) xl_error(L, "lars: expected 1 to 4096 columns, got %lld", (long long)p);
  const double samples = number_field(L, "samples", 1), steps = number_field(L, "max_steps", 500);
  const double least = number_field(L, "alpha_min", 0);
  lua_getfield(L, 3, "lasso");
  const bool lasso = lua_toboolean(L, -1);
  lars_path *path = mx_calloc(1, sizeof *path);
  if (!path) xl_nomem(L, "lars");
  xl_hold(L, path, release_path);
  tx_tensor **out = xl_slots(L, 2);
  const double *gram = xl_todoubles(L, 1, p * p, "lars: gram"), *xy = xl_todoubles(L, 2, p, "lars: xy");
  const int most = steps < 1e6 ? (int)steps : 1000000;
  if (lars_run(path, gram, xy, (int)p, samples, lasso, most, least) != LARS_OK) xl_nomem(L, "lars");
  lua_createtable(L, path->nactive, 0);
  for (int i = 0; i < path->nactive; i++) {
    lua_pushinteger(L, path->active[i]);
    lua_rawseti(L, -2, i + 1);
  }
  const int64_t sizes[2] = { path->steps + 1, p };
  XL_TRY(L, "lars", tx_tensor_new(&out[0], "float64", 2, sizes, path->coef, (size_t)sizes[0] * p * sizeof(double)));
  XL_TRY(L, "lars", tx_tensor_new(&out[1], "float64", 1, sizes, path->alpha, (size_t)sizes[0] * sizeof(double)));
  xl_pushheld(L, out[0]);
  xl_pushheld(L, out[1]);
  return 3;
}

int luaopen_core_lars(lua_State *L) {
  static const luaL_Reg functions[] = { { "path", lars_path_ }, { NULL, NULL } };
  xl_newlib(L, functions);
  return 1;
}
