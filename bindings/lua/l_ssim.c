/* l_ssim.c: core.ssim(a, b, height, width): ssim.c for Lua; a and b flat lists, row by row. nil where a map holds NaN.
 * It refuses sides that the window does not fit in. */
#include <math.h>
#include "ssim.h"
#include "xl.h"

static double *push_map(lua_State *L, int idx, int64_t n) {
  if (!lua_istable(L, idx) || (int64_t)lua_rawlen(L, idx) != n)
    xl_error(L, "ssim: expected a list of %lld numbers, got %s", (long long)n, luaL_typename(L, idx));
  double *v = lua_newuserdatauv(L, (size_t)n * sizeof *v, 0);
  for (int64_t i = 0; i < n; i++) {
    if (lua_rawgeti(L, idx, i + 1) != LUA_TNUMBER) xl_error(L, "ssim: value %lld is not a number", (long long)i + 1);
    v[i] = lua_tonumber(L, -1);
    lua_pop(L, 1);
  }
  return v;
}

static int ssim(lua_State *L) {
  lua_settop(L, 4);
  const int64_t height = xl_toint(L, 3, "ssim: height"), width = xl_toint(L, 4, "ssim: width");
  if (height < MX_SSIM_WINDOW || width < MX_SSIM_WINDOW || height > 1 << 14 || width > 1 << 14)
    xl_error(L, "ssim: expected sides of %d to 16384, got %lld and %lld", MX_SSIM_WINDOW, (long long)height,
             (long long)width);
  const int64_t n = height * width;
  const double *a = push_map(L, 1, n), *b = push_map(L, 2, n);
  const double value = mx_ssim(a, b, height, width, lua_newuserdatauv(L, 6 * (size_t)n * sizeof(double), 0));
  if (isnan(value)) lua_pushnil(L);
  else lua_pushnumber(L, value);
  return 1;
}

int luaopen_core_ssim(lua_State *L) {
  lua_pushcfunction(L, ssim);
  return 1;
}
