/* l_augment.c: lists of random transforms from Lua, { { name = "random_rotation", p = 1, degrees = { -10, 10 } ... } ..
 * }, whose values scripts/medxai/data/augment.lua has checked and completed; and core.loader's function to try them. */
#include <string.h>
#include "augment.h"
#include "image.h"
#include "xl.h"

/* The n numbers of the list in field `name`, which stay as they are where it is absent. */
static bool numbers(lua_State *L, int idx, const char *name, double *to, int n) {
  bool given = lua_getfield(L, idx, name) == LUA_TTABLE;
  for (int i = 0; given && i < n; i++) {
    lua_rawgeti(L, -1, i + 1);
    to[i] = luaL_checknumber(L, -1);
    lua_pop(L, 1);
  }
  lua_pop(L, 1);
  return given;
}

static void read_step(lua_State *L, int idx, augment_step *a) {
  *a = (augment_step){ .scale = { 1, 1 }, .ratio = { 1, 1 }, .brightness = { 1, 1 }, .contrast = { 1, 1 },
                       .saturation = { 1, 1 }, .kernel = { 1, 1 }, .sigma = { 1, 1 } };
  lua_getfield(L, idx, "name");
  const char *name = luaL_checkstring(L, -1);
  while (a->kind < AUGMENT_COUNT && strcmp(name, augment_names[a->kind]))
    a->kind++;
  if (a->kind == AUGMENT_COUNT)
    xl_error(L, "augment: there is no transform '%s'.", name);
  lua_getfield(L, idx, "p");
  a->p = luaL_optnumber(L, -1, 1);
  lua_getfield(L, idx, "interpolation");
  a->bilinear = !strcmp(luaL_optstring(L, -1, "nearest"), "bilinear");
  lua_pop(L, 3);
  a->centered = numbers(L, idx, "center", a->center, 2);
  numbers(L, idx, "fill", a->fill, 3);
  numbers(L, idx, "degrees", a->degrees, 2);
  numbers(L, idx, "shear", a->shear, 4);
  numbers(L, idx, "translate", a->translate, 2);
  numbers(L, idx, "scale", a->scale, 2);
  numbers(L, idx, "ratio", a->ratio, 2);
  numbers(L, idx, "brightness", a->brightness, 2);
  numbers(L, idx, "contrast", a->contrast, 2);
  numbers(L, idx, "saturation", a->saturation, 2);
  numbers(L, idx, "kernel_size", a->kernel, 2);
  numbers(L, idx, "sigma", a->sigma, 2);
}

/* The list at idx as C structs in a userdata, which it pushes. */
void xl_augment(lua_State *L, int idx, augment_step **steps, int *n) {
  luaL_checktype(L, idx, LUA_TTABLE);
  lua_Unsigned count = lua_rawlen(L, idx);
  if (count > 1024)
    xl_error(L, "augment: the list is too long (expected at most 1024 transforms, got %lld).", (long long)count);
  *n = (int)count;
  *steps = lua_newuserdatauv(L, (size_t)(count + 1) * sizeof **steps, 0);
  for (int i = 0; i < *n; i++) {
    lua_rawgeti(L, idx, i + 1);
    luaL_checktype(L, -1, LUA_TTABLE);
    read_step(L, lua_gettop(L), &(*steps)[i]);
    lua_pop(L, 1);
  }
}

static void push_drawn(lua_State *L, const augment_drawn *d) {
  lua_createtable(L, d->n, 1);
  lua_pushboolean(L, d->happens);
  lua_setfield(L, -2, "happens");
  for (int k = 0; k < d->n; k++) {
    lua_pushnumber(L, d->v[k]);
    lua_rawseti(L, -2, k + 1);
  }
}

/* augmented(bytes, size, channels, transforms, seed, epoch, id [, mask]) -> bytes, { what was drawn for each } */
int xl_augmented(lua_State *L) {
  lua_settop(L, 8);
  size_t given;
  const char *in = luaL_checklstring(L, 1, &given), *id = luaL_checkstring(L, 7);
  int64_t size = luaL_checkinteger(L, 2), c = luaL_checkinteger(L, 3);
  augment_step *steps;
  int n;
  if (size < 1 || size > 8192 || (c != 1 && c != 3) || given != (size_t)(size * size * c))
    xl_error(L, "augment: the image is wrong (expected size x size x 1 or 3 bytes, got %zu).", given);
  xl_augment(L, 4, &steps, &n);
  augment_key key = { (uint64_t)luaL_checkinteger(L, 5), (uint64_t)luaL_checkinteger(L, 6), id };
  augment_drawn *drawn = lua_newuserdatauv(L, (size_t)(n + 1) * sizeof *drawn, 0);
  uint8_t *out = lua_newuserdatauv(L, given, 0);
  if (augment_apply(out, (const uint8_t *)in, (int)size, (int)c, steps, n, &key, lua_toboolean(L, 8), drawn))
    xl_error(L, "augment: out of memory.");
  lua_pushlstring(L, (const char *)out, given);
  lua_createtable(L, n, 0);
  for (int i = 0; i < n; i++) {
    push_drawn(L, &drawn[i]);
    lua_rawseti(L, -2, i + 1);
  }
  return 2;
}
