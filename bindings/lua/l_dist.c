/* l_dist.c: core.dist: processes that train one network together (tx_dist.h) for Lua.
 *   available() -> boolean
 *   store(host, port, serves, timeout_s) -> store
 *   store:set(key, text), store:get(key, wait_s) -> text | nil    wait_s < 0: for ever
 *   store:group(prefix, address | nil, rank, world, timeout_s) -> group
 *   group:all_reduce(tensor) -> tensor    the sum, in place; group:broadcast(tensor, root = 0)
 *   group:reducer(tensors, names) -> reducer; reducer:prepare(loss) before each backward pass
 *   group:abandon()    after an error: nothing that is under way is waited for
 * Each is closed by close(), as a <close> variable or by the collector. */
#include <stdlib.h>
#include "l_dist.h"
#include "xl.h"

#define XL_DIST_STORE "medxai.dist.store"
#define XL_DIST_GROUP "medxai.dist.group"
#define XL_REDUCER "medxai.dist.reducer"

typedef struct store_box { tx_dist_store *s; } store_box;
typedef struct group_box { tx_dist *d; } group_box;
typedef struct reducer_box { tx_reducer *r; } reducer_box;

static void destroy_store(void *object) { tx_dist_store_free(((store_box *)object)->s); }
static void destroy_group(void *object) { tx_dist_free(((group_box *)object)->d); }
static void destroy_reducer(void *object) { tx_reducer_free(((reducer_box *)object)->r); }

static tx_dist_store *to_store(lua_State *L) {
  return ((store_box *)xl_toobject(L, 1, XL_DIST_STORE, "processes: the store is closed"))->s;
}
tx_dist *l_dist_togroup(lua_State *L, int idx) {
  return ((group_box *)xl_toobject(L, idx, XL_DIST_GROUP, "processes: the group is closed"))->d;
}

static int dist_available(lua_State *L) {
  lua_pushboolean(L, tx_dist_available());
  return 1;
}

static int dist_store(lua_State *L) {
  const char *host = luaL_checkstring(L, 1);
  const int port = (int)xl_torange(L, 2, 1, 65535, "processes: port");
  const bool serves = lua_toboolean(L, 3);
  const double timeout_s = luaL_checknumber(L, 4);
  store_box *b = xl_newobject(L, XL_DIST_STORE, sizeof *b, destroy_store);
  xl_check(L, tx_dist_store_open(&b->s, host, port, serves, timeout_s), "processes");
  return 1;
}

static int store_set(lua_State *L) {
  size_t n;
  const char *key = luaL_checkstring(L, 2), *text = luaL_checklstring(L, 3, &n);
  xl_check(L, tx_dist_store_set(to_store(L), key, text, n), "processes");
  return 0;
}

static int store_get(lua_State *L) {
  size_t n = 0;
  char *text = NULL;
  const char *key = luaL_checkstring(L, 2);
  xl_check(L, tx_dist_store_get(&text, &n, to_store(L), key, luaL_checknumber(L, 3)), "processes");
  if (text) xl_hold(L, text, free);
  lua_pushlstring(L, text ? text : "", n);
  if (!text) lua_pushnil(L);
  return 1;
}

static int store_group(lua_State *L) {
  tx_dist_store *s = to_store(L);
  const char *prefix = luaL_checkstring(L, 2), *address = luaL_optstring(L, 3, NULL);
  const int world = (int)xl_torange(L, 5, 1, 65536, "processes: world");
  const int rank = (int)xl_torange(L, 4, 0, world - 1, "processes: rank");
  const double timeout_s = luaL_checknumber(L, 6);
  group_box *b = xl_newobject(L, XL_DIST_GROUP, sizeof *b, destroy_group);
  xl_check(L, tx_dist_open(&b->d, s, prefix, address, rank, world, timeout_s), "processes");
  return 1;
}

static int group_all_reduce(lua_State *L) {
  xl_check(L, tx_dist_all_reduce(l_dist_togroup(L, 1), xl_totensor(L, 2)), "processes");
  lua_settop(L, 2);
  return 1;
}

static int group_broadcast(lua_State *L) {
  const int root = (int)luaL_optinteger(L, 3, 0);
  xl_check(L, tx_dist_broadcast(l_dist_togroup(L, 1), xl_totensor(L, 2), root), "processes");
  return 0;
}

static int group_abandon(lua_State *L) {
  group_box *b = xl_testobject(L, 1, XL_DIST_GROUP);
  if (b && b->d) tx_dist_abandon(b->d);
  return 0;
}

static int group_reducer(lua_State *L) {
  int n;
  tx_dist *d = l_dist_togroup(L, 1);
  tx_tensor **params = xl_totensors(L, 2, &n, "processes: parameters");
  luaL_checktype(L, 3, LUA_TTABLE);
  const char **names = lua_newuserdatauv(L, (size_t)(n + 1) * sizeof *names, 0);
  for (int i = 0; i < n; i++) {
    if (!params[i]) xl_error(L, "processes: parameter %d is none (expected a tensor)", i + 1);
    lua_rawgeti(L, 3, i + 1);
    names[i] = luaL_checkstring(L, -1); /* stays in the list */
    lua_pop(L, 1);
  }
  reducer_box *b = xl_newobject(L, XL_REDUCER, sizeof *b, destroy_reducer);
  xl_check(L, tx_reducer_new(&b->r, d, params, names, n), "processes");
  return 1;
}

static int reducer_prepare(lua_State *L) {
  reducer_box *b = xl_toobject(L, 1, XL_REDUCER, "processes: the reducer is closed");
  xl_check(L, tx_reducer_prepare(b->r, xl_totensor(L, 2)), "processes");
  return 0;
}

#define CLOSE(name, type)                 \
  static int name(lua_State *L) {         \
    xl_closeobject(L, 1, type);           \
    return 0;                             \
  }
CLOSE(store_close, XL_DIST_STORE)
CLOSE(group_close, XL_DIST_GROUP)
CLOSE(reducer_close, XL_REDUCER)

int luaopen_core_dist(lua_State *L) {
  static const luaL_Reg store_methods[] = {
    { "set", store_set }, { "get", store_get }, { "group", store_group }, { "close", store_close }, { NULL, NULL }
  };
  static const luaL_Reg group_methods[] = {
    { "all_reduce", group_all_reduce }, { "broadcast", group_broadcast }, { "reducer", group_reducer },
    { "abandon", group_abandon },       { "close", group_close },         { NULL, NULL }
  };
  static const luaL_Reg reducer_methods[] = {
    { "prepare", reducer_prepare }, { "close", reducer_close }, { NULL, NULL }
  };
  static const luaL_Reg functions[] = { { "available", dist_available }, { "store", dist_store }, { NULL, NULL } };
  xl_newtype(L, XL_DIST_STORE, store_methods, store_close);
  xl_newtype(L, XL_DIST_GROUP, group_methods, group_close);
  xl_newtype(L, XL_REDUCER, reducer_methods, reducer_close);
  xl_newlib(L, functions);
  return 1;
}
