/* l_phantom.c: core.phantom: single drawn chest X-rays. core.loader.set makes a data set of them. */
#include <string.h>
#include "phantom.h"
#include "xl.h"

static double field(lua_State *L, int idx, const char *name, double otherwise) {
  lua_getfield(L, idx, name);
  double v = luaL_optnumber(L, -1, otherwise);
  lua_pop(L, 1);
  return v;
}

/* The table at idx: seed, size_px, contrast, marker_rate = { 3 numbers }, marker_tells. scripts/medxai/data/phantom.lua
 * checks it. */
void xl_tophantom(lua_State *L, int idx, phantom *p) {
  luaL_checktype(L, idx, LUA_TTABLE);
  phantom_defaults(p);
  lua_getfield(L, idx, "seed");
  p->seed = (uint64_t)luaL_optinteger(L, -1, (lua_Integer)p->seed);
  lua_pop(L, 1);
  p->size_px = (int)field(L, idx, "size_px", p->size_px);
  p->contrast = field(L, idx, "contrast", p->contrast);
  if (p->size_px < 16 || p->size_px > 4096)
    xl_error(L, "phantom: size_px is wrong (expected 16 to 4096, got %d).", p->size_px);
  if (lua_getfield(L, idx, "marker_tells") != LUA_TNIL)
    p->marker_tells = lua_toboolean(L, -1);
  if (lua_getfield(L, idx, "marker_rate") == LUA_TTABLE)
    for (int i = 0; i < PHANTOM_CLASSES; i++) {
      lua_rawgeti(L, -1, i + 1);
      p->marker_rate[i] = luaL_optnumber(L, -1, 0);
      lua_pop(L, 1);
    }
  lua_pop(L, 2);
}

/* draw(options, index) -> { image, lungs, lesion, marker }: uint8 (H, W), masks 0 and 255.
 * index counts from 0; the class is index % 3 */
static int phantom_lua_draw(lua_State *L) {
  static const char *const names[] = { "image", "lungs", "lesion", "marker" };
  phantom p;
  xl_tophantom(L, 1, &p);
  int64_t index = xl_toint(L, 2, "phantom: the index");
  if (index < 0)
    xl_error(L, "phantom: the index is negative (%lld).", (long long)index);
  lua_settop(L, 2);
  tx_tensor **out = xl_slots(L, 4);
  image im;
  phantom_masks m;
  if (phantom_draw(&p, index, &im, &m))
    xl_error(L, "phantom: out of memory.");
  const image *part[4] = { &im, &m.lungs, &m.lesion, &m.marker };
  int64_t size[2] = { p.size_px, p.size_px };
  int status = TX_OK;
  for (int i = 0; i < 4 && status == TX_OK; i++)
    status = tx_tensor_new(&out[i], "uint8", 2, size, part[i]->px, (size_t)size[0] * size[1]);
  image_free(&im);
  phantom_masks_free(&m);
  xl_check(L, status, "phantom");
  lua_createtable(L, 0, 4);
  for (int i = 0; i < 4; i++) {
    xl_pushheld(L, out[i]);
    lua_setfield(L, 3, names[i]);
  }
  return 1;
}

int luaopen_core_phantom(lua_State *L) {
  static const luaL_Reg functions[] = { { "draw", phantom_lua_draw }, { NULL, NULL } };
  xl_newlib(L, functions);
  lua_createtable(L, PHANTOM_CLASSES, 0);
  for (int i = 0; i < PHANTOM_CLASSES; i++) {
    lua_pushstring(L, phantom_classes[i]);
    lua_rawseti(L, -2, i + 1);
  }
  lua_setfield(L, -2, "classes");
  return 1;
}
