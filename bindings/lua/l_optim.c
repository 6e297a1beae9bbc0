/* l_optim.c: core.optim: the optimizers of tx_optim.cpp. Options are names and numbers here;
 * scripts/medxai/train/optim.lua checks them and is what users call. Groups count from 1. */
#include <stdlib.h>
#include <string.h>
#include "xl.h"

#define XL_OPTIM "medxai.optimizer"

typedef struct optim_box {
  tx_optim *o;
} optim_box;

static tx_optim *to_optim(lua_State *L) {
  return ((optim_box *)xl_toobject(L, 1, XL_OPTIM, "optimizer is closed"))->o;
}

static void destroy_optim(void *b) { tx_optim_free(((optim_box *)b)->o); }

static int optim_close(lua_State *L) {
  xl_closeobject(L, 1, XL_OPTIM);
  return 0;
}

/* ---- making ------------------------------------------------------------------------------------------------- */

#define MAX_OPTIONS 16

/* { name = number or boolean } at idx; leaves the names on the stack, which keeps them alive. */
static int read_options(lua_State *L, int idx, tx_option *options) {
  int n = 0;
  if (lua_isnoneornil(L, idx))
    return 0;
  luaL_checktype(L, idx, LUA_TTABLE);
  luaL_checkstack(L, MAX_OPTIONS + 4, "optimizer");
  for (lua_pushnil(L); lua_next(L, idx); lua_pop(L, 1)) {
    if (n == MAX_OPTIONS || lua_type(L, -2) != LUA_TSTRING)
      xl_error(L, "optimizer: options are up to %d named numbers", MAX_OPTIONS);
    if (!lua_isboolean(L, -1) && lua_type(L, -1) != LUA_TNUMBER)
      xl_error(L, "optimizer: option '%s' is a %s (expected a number or boolean)", lua_tostring(L, -2),
               luaL_typename(L, -1));
    options[n++] =
      (tx_option){ lua_tostring(L, -2), lua_isboolean(L, -1) ? lua_toboolean(L, -1) : lua_tonumber(L, -1) };
    lua_pushvalue(L, -2);
    lua_insert(L, -3); /* the name below the pair */
  }
  return n;
}

/*- new(kind, options) */
static int optim_new(lua_State *L) {
  const char *kind = luaL_checkstring(L, 1);
  lua_settop(L, 2);
  tx_option options[MAX_OPTIONS];
  const int n = read_options(L, 2, options);
  optim_box *b = xl_newobject(L, XL_OPTIM, sizeof *b, destroy_optim);
  xl_check(L, tx_optim_new(&b->o, kind, options, n), kind);
  return 1;
}

/*- o:add_group(names, params, options) */
static int optim_add_group(lua_State *L) {
  tx_optim *o = to_optim(L);
  tx_option options[MAX_OPTIONS];
  lua_settop(L, 4);
  luaL_checktype(L, 2, LUA_TTABLE);
  luaL_checktype(L, 3, LUA_TTABLE);
  const int noptions = read_options(L, 4, options);
  int n;
  tx_tensor **params = xl_totensors(L, 3, &n, "optimizer");
  if ((int)lua_rawlen(L, 2) != n)
    xl_error(L, "optimizer: %d names for %d parameters", (int)lua_rawlen(L, 2), n);
  const char **names = lua_newuserdatauv(L, ((size_t)n + 1) * sizeof *names, 0);
  lua_createtable(L, n, 0); /* keeps the names alive, whatever happens to the list */
  for (int i = 0; i < n; i++) {
    if (lua_rawgeti(L, 2, i + 1) != LUA_TSTRING)
      xl_error(L, "optimizer: name %d is a %s (expected a string)", i + 1, luaL_typename(L, -1));
    names[i] = lua_tostring(L, -1);
    lua_rawseti(L, -2, i + 1);
  }
  xl_check(L, tx_optim_add_group(o, params, names, n, options, noptions), "optimizer");
  return 0;
}

/* ---- use ---------------------------------------------------------------------------------------------------- */

/*- o:step([bad]): bad: one number; nothing changes unless it is 0 */
static int optim_step(lua_State *L) {
  tx_optim *o = to_optim(L);
  const tx_tensor *bad = lua_isnoneornil(L, 2) ? NULL : xl_totensor(L, 2);
  if (bad && tx_tensor_numel(bad) != 1)
    xl_error(L, "optimizer: step: expected one number that says whether to leave the step out, got %lld",
             (long long)tx_tensor_numel(bad));
  XL_TRY(L, "optimizer", tx_optim_step(o, bad));
  return 0;
}

static int optim_zero_grad(lua_State *L) {
  xl_check(L, tx_optim_zero_grad(to_optim(L)), "optimizer");
  return 0;
}

static int group_at(lua_State *L, int idx) { return (int)xl_toint(L, idx, "optimizer: group") - 1; }

/*- o:lr([group]) */
static int optim_lr(lua_State *L) {
  double lr = 0;
  tx_optim *o = to_optim(L);
  xl_check(L, tx_optim_get_lr(&lr, o, lua_isnoneornil(L, 2) ? 0 : group_at(L, 2)), "optimizer");
  lua_pushnumber(L, lr);
  return 1;
}

/*- o:set_lr(lr, [group]): of one group, or of all */
static int optim_set_lr(lua_State *L) {
  tx_optim *o = to_optim(L);
  const double lr = lua_type(L, 2) == LUA_TNUMBER ? lua_tonumber(L, 2) : -1;
  if (!(lr >= 0))
    xl_error(L, "optimizer: set_lr: expected a learning rate of 0 or more, got %s", luaL_tolstring(L, 2, NULL));
  const int group = lua_isnoneornil(L, 3) ? -1 : group_at(L, 3);
  if (group < -1 || (group == -1 && !lua_isnoneornil(L, 3)))
    xl_error(L, "optimizer: no group %d (%d groups)", group + 1, tx_optim_groups(o));
  xl_check(L, tx_optim_set_lr(o, group, lr), "optimizer");
  return 0;
}

static int optim_groups(lua_State *L) {
  lua_pushinteger(L, tx_optim_groups(to_optim(L)));
  return 1;
}

/* ---- state -------------------------------------------------------------------------------------------------- */

typedef struct row {
  char *param, *entry;
  tx_tensor *t;
} row;

typedef struct rows { /* filled by a callback from C++, which must not raise Lua errors; held */
  row *v;
  size_t n, room;
  bool failed;
} rows;

static void rows_add(void *ud, const char *param, const char *entry, tx_tensor *t) {
  rows *r = ud;
  if (r->n == r->room) {
    const size_t room = r->room ? 2 * r->room : 64;
    row *v = realloc(r->v, room * sizeof *v);
    if (!v) {
      r->failed = true;
      return;
    }
    r->v = v;
    r->room = room;
  }
  row *at = &r->v[r->n];
  *at = (row){ strdup(param), strdup(entry), NULL };
  if (!at->param || !at->entry) {
    free(at->param);
    free(at->entry);
    r->failed = true;
    return;
  }
  at->t = tx_tensor_ref(t);
  r->n++;
}

static void release_rows(void *p) {
  rows *r = p;
  for (size_t i = 0; i < r->n; i++) {
    free(r->v[i].param);
    free(r->v[i].entry);
    tx_tensor_free(r->v[i].t);
  }
  free(r->v);
  free(r);
}

/*- o:state(): list of { param, entry, tensor }, in the order of the groups. The tensors are not copies: the next step
 * changes them. */
static int optim_state(lua_State *L) {
  tx_optim *o = to_optim(L);
  lua_settop(L, 1);
  rows *r = calloc(1, sizeof *r);
  if (!r)
    xl_error(L, "optimizer: out of memory while its state was listed");
  xl_hold(L, r, release_rows);
  xl_check(L, tx_optim_state_each(o, rows_add, r), "optimizer");
  if (r->failed)
    xl_error(L, "optimizer: out of memory while its state was listed");
  lua_createtable(L, (int)r->n, 0);
  for (size_t i = 0; i < r->n; i++) {
    lua_createtable(L, 0, 3);
    lua_pushstring(L, r->v[i].param);
    lua_setfield(L, -2, "param");
    lua_pushstring(L, r->v[i].entry);
    lua_setfield(L, -2, "entry");
    xl_pushheld(L, r->v[i].t);
    lua_setfield(L, -2, "tensor");
    lua_rawseti(L, -2, (lua_Integer)i + 1);
  }
  return 1;
}

static int optim_clear_state(lua_State *L) {
  xl_check(L, tx_optim_state_clear(to_optim(L)), "optimizer");
  return 0;
}

/*- o:set_state(param, entry, tensor): keeps a copy */
static int optim_set_state(lua_State *L) {
  tx_optim *o = to_optim(L);
  const char *param = luaL_checkstring(L, 2), *entry = luaL_checkstring(L, 3);
  tx_tensor *t = xl_totensor(L, 4);
  XL_TRY(L, "optimizer", tx_optim_state_set(o, param, entry, t));
  return 0;
}

/* ---- module ------------------------------------------------------------------------------------------------- */

static const luaL_Reg methods[] = {
  { "add_group", optim_add_group },
  { "clear_state", optim_clear_state },
  { "close", optim_close },
  { "groups", optim_groups },
  { "lr", optim_lr },
  { "set_lr", optim_set_lr },
  { "set_state", optim_set_state },
  { "state", optim_state },
  { "step", optim_step },
  { "zero_grad", optim_zero_grad },
  { NULL, NULL },
};
static const luaL_Reg functions[] = { { "new", optim_new }, { NULL, NULL } };

int luaopen_core_optim(lua_State *L) {
  xl_newtype(L, XL_OPTIM, methods, optim_close);
  xl_newlib(L, functions);
  return 1;
}
