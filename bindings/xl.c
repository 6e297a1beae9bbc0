/* xl.c: what the l_*.c files share: tensor boxes and their scopes, lists, errors.
 * A box holds one reference to a tensor; its finalizer, its __close and the scope it is linked into all end in
 * xl_closebox, which is safe twice. Nothing here calls lua_gc (xl_budget.c does). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "xl.h"

const char xl_tensor_mark[1] = "";
static const char state_key, none_key, array_key; /* registry keys */

/* ---- scopes ------------------------------------------------------------------------------------------------- */

void xl_scope_init(xl_scope *s) {
  *s = (xl_scope){ .parent = NULL };
  s->ring.prev = s->ring.next = &s->ring;
}

void xl_scope_free(xl_scope *s) {
  while (s->ring.next != &s->ring)
    xl_closebox(s->ring.next);
}

/* The state of the Lua that was asked about last: a process has one, but for tests. Known by its registry's address. */
static struct {
  const void *registry;
  xl_state *state;
} last;

static int forget_state(lua_State *L) {
  last.registry = NULL;
  (void)L;
  return 0;
}

/* Its finalizer runs after those of the boxes, since it is made first; its memory outlives them all. */
static xl_state *new_state(lua_State *L) {
  xl_state *s = lua_newuserdatauv(L, sizeof *s, 0);
  xl_scope_init(&s->root);
  s->root.open = true;
  s->innermost = &s->root;
  lua_createtable(L, 0, 1);
  lua_pushcfunction(L, forget_state);
  lua_setfield(L, -2, "__gc");
  lua_setmetatable(L, -2);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &state_key);
  return s;
}

xl_state *xl_getstate(lua_State *L) {
  const void *registry = lua_topointer(L, LUA_REGISTRYINDEX);
  if (registry == last.registry)
    return last.state;
  lua_rawgetp(L, LUA_REGISTRYINDEX, &state_key);
  xl_state *s = lua_touserdata(L, -1);
  lua_pop(L, 1);
  if (!s)
    s = new_state(L);
  last.registry = registry;
  last.state = s;
  return s;
}

void xl_link(xl_scope *s, xl_tensor *box) {
  box->scope = s;
  box->prev = &s->ring;
  box->next = s->ring.next;
  s->ring.next->prev = box;
  s->ring.next = box;
}

void xl_unlink(xl_tensor *box) {
  box->prev->next = box->next;
  box->next->prev = box->prev;
  box->prev = box->next = box;
  box->scope = NULL;
}

void xl_closebox(xl_tensor *box) {
  tx_tensor *t = box->t;
  xl_unlink(box);
  box->t = NULL;
  tx_tensor_free(t);
}

/* ---- boxes -------------------------------------------------------------------------------------------------- */

xl_tensor *xl_newtensor(lua_State *L) {
  xl_state *state = xl_getstate(L);
  xl_tensor *box = lua_newuserdatauv(L, sizeof *box, 0);
  box->mark = xl_tensor_mark;
  box->t = NULL;
  xl_link(state->innermost, box);
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, xl_tensor_mark) == LUA_TNIL) {
    lua_pop(L, 1);
    luaL_getmetatable(L, XL_TENSOR);
    lua_pushvalue(L, -1);
    lua_rawsetp(L, LUA_REGISTRYINDEX, xl_tensor_mark);
  }
  lua_setmetatable(L, -2);
  return box;
}

static xl_tensor *box_or_null(lua_State *L, int idx) {
  xl_tensor *box = xl_testbox(L, idx);
  if (box && !box->t)
    xl_error(L, "tensor is closed (by close(), or with the scope in which it was made: scope:keep(t) lets it live on).");
  return box;
}

xl_tensor *xl_tobox(lua_State *L, int idx) {
  xl_tensor *box = box_or_null(L, idx);
  if (!box)
    xl_error(L, "expected a tensor, got %s", luaL_typename(L, idx));
  return box;
}

tx_tensor *xl_totensor(lua_State *L, int idx) { return xl_tobox(L, idx)->t; }

tx_tensor *xl_testtensor(lua_State *L, int idx) {
  xl_tensor *box = box_or_null(L, idx);
  return box ? box->t : NULL;
}

tx_tensor *xl_opttensor(lua_State *L, int idx) { return xl_isnone(L, idx) ? NULL : xl_totensor(L, idx); }

static int push_box(lua_State *L) {
  xl_newtensor(L);
  return 1;
}

void xl_pushtensor(lua_State *L, tx_tensor *t) {
  if (!t) {
    lua_pushnil(L);
    return;
  }
  if (!lua_checkstack(L, 2)) {
    tx_tensor_free(t);
    xl_error(L, "tensor: too many values on Lua's stack");
  }
  lua_pushcfunction(L, push_box); /* a light C function: allocates nothing */
  if (lua_pcall(L, 0, 1, 0) != LUA_OK) {
    tx_tensor_free(t);
    lua_error(L);
  }
  ((xl_tensor *)lua_touserdata(L, -1))->t = t;
  xl_budget_check(L);
}

/* ---- arrays of owned tensors -------------------------------------------------------------------------------- */

static int array_gc(lua_State *L) {
  xl_array *a = lua_touserdata(L, 1);
  for (int i = 0; i < a->n; i++) {
    tx_tensor_free(a->t[i]);
    a->t[i] = NULL;
  }
  return 0;
}

xl_array *xl_newarray(lua_State *L, int n) {
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, &array_key) == LUA_TNIL) {
    lua_pop(L, 1);
    lua_createtable(L, 0, 2);
    lua_pushcfunction(L, array_gc);
    lua_setfield(L, -2, "__gc");
    lua_pushvalue(L, -1);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &array_key);
  }
  xl_array *a = lua_newuserdatauv(L, sizeof *a + (size_t)n * sizeof a->t[0], 0);
  a->n = n;
  memset(a->t, 0, (size_t)n * sizeof a->t[0]);
  lua_insert(L, -2);
  lua_setmetatable(L, -2);
  return a;
}

void xl_array_totable(lua_State *L, int idx) {
  idx = lua_absindex(L, idx);
  xl_array *a = lua_touserdata(L, idx);
  luaL_checkstack(L, 3, "list of tensors");
  lua_createtable(L, a->n, 0);
  for (int i = 0; i < a->n; i++) {
    if (a->t[i]) {
      xl_newtensor(L)->t = a->t[i];
      a->t[i] = NULL;
    } else {
      xl_pushnone(L);
    }
    lua_rawseti(L, -2, i + 1);
  }
  xl_budget_check(L);
}

/* ---- none, lists -------------------------------------------------------------------------------------------- */

static int none_tostring(lua_State *L) {
  lua_pushliteral(L, "none");
  return 1;
}

void xl_pushnone(lua_State *L) {
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, &none_key) != LUA_TNIL)
    return;
  lua_pop(L, 1);
  lua_newuserdatauv(L, 0, 0);
  lua_createtable(L, 0, 2);
  lua_pushcfunction(L, none_tostring);
  lua_setfield(L, -2, "__tostring");
  lua_pushliteral(L, "torch.none");
  lua_setfield(L, -2, "__name");
  lua_setmetatable(L, -2);
  lua_pushvalue(L, -1);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &none_key);
}

bool xl_isnone(lua_State *L, int idx) {
  if (lua_isnoneornil(L, idx))
    return true;
  if (lua_type(L, idx) != LUA_TUSERDATA)
    return false;
  idx = lua_absindex(L, idx);
  lua_rawgetp(L, LUA_REGISTRYINDEX, &none_key);
  bool same = lua_rawequal(L, -1, idx);
  lua_pop(L, 1);
  return same;
}

int64_t xl_toint(lua_State *L, int idx, const char *what) {
  int ok = 0;
  lua_Integer i = lua_type(L, idx) == LUA_TNUMBER ? lua_tointegerx(L, idx, &ok) : 0;
  if (ok)
    return i;
  if (lua_type(L, idx) == LUA_TNUMBER)
    xl_error(L, "%s: expected an integer, got %.14g", what, lua_tonumber(L, idx));
  xl_error(L, "%s: expected an integer, got %s", what, luaL_typename(L, idx));
}

/* The length of the list at idx; raises when it is no list (a metamethod's length is not asked). */
static int list_length(lua_State *L, int idx, const char *what, const char *of) {
  if (lua_type(L, idx) != LUA_TTABLE)
    xl_error(L, "%s: expected a list of %s, got %s", what, of, luaL_typename(L, idx));
  lua_Unsigned n = lua_rawlen(L, idx);
  if (n > INT32_MAX / 16)
    xl_error(L, "%s: a list of %llu elements is too long", what, (unsigned long long)n);
  return (int)n;
}

const int64_t *xl_toints(lua_State *L, int idx, int *n, const char *what) {
  idx = lua_absindex(L, idx);
  *n = list_length(L, idx, what, "integers");
  luaL_checkstack(L, 2, what);
  int64_t *v = lua_newuserdatauv(L, ((size_t)*n + 1) * sizeof *v, 0);
  for (int i = 0; i < *n; i++) {
    lua_rawgeti(L, idx, i + 1);
    v[i] = xl_toint(L, -1, what);
    lua_pop(L, 1);
  }
  return v;
}

void xl_pushints(lua_State *L, const int64_t *v, int n) {
  luaL_checkstack(L, 2, "list of integers");
  lua_createtable(L, n, 0);
  for (int i = 0; i < n; i++) {
    lua_pushinteger(L, v[i]);
    lua_rawseti(L, -2, i + 1);
  }
}

tx_tensor **xl_totensors(lua_State *L, int idx, int *n, const char *what) {
  idx = lua_absindex(L, idx);
  *n = list_length(L, idx, what, "tensors");
  luaL_checkstack(L, 3, what);
  tx_tensor **v = lua_newuserdatauv(L, ((size_t)*n + 1) * sizeof *v, 0);
  for (int i = 0; i < *n; i++) {
    lua_rawgeti(L, idx, i + 1);
    bool none = xl_isnone(L, -1) || (lua_isboolean(L, -1) && !lua_toboolean(L, -1));
    v[i] = none ? NULL : xl_testtensor(L, -1);
    if (!none && !v[i])
      xl_error(L, "%s: expected a list of tensors, got %s at %d", what, luaL_typename(L, -1), i + 1);
    lua_pop(L, 1); /* the list keeps it alive */
  }
  return v;
}

/* ---- errors ------------------------------------------------------------------------------------------------- */

noreturn void xl_error(lua_State *L, const char *fmt, ...) {
  char small[1024];
  va_list ap, again;
  va_start(ap, fmt);
  va_copy(again, ap);
  int n = vsnprintf(small, sizeof small, fmt, ap);
  va_end(ap);
  if (n < (int)sizeof small) {
    va_end(again);
    lua_pushstring(L, n < 0 ? fmt : small);
    lua_error(L);
    abort();
  }
  luaL_Buffer b;
  char *p = luaL_buffinitsize(L, &b, (size_t)n + 1);
  vsnprintf(p, (size_t)n + 1, fmt, again);
  va_end(again);
  luaL_pushresultsize(&b, (size_t)n);
  lua_error(L);
  abort();
}

void xl_check(lua_State *L, int status, const char *what) {
  if (status == TX_OK)
    return;
  if (status == TX_INTERRUPTED)
    xl_error(L, "interrupted");
  if (status == TX_NOMEM)
    xl_budget_nomem(L, what);
  const char *lead = tx_error_lead();
  xl_error(L, "%s: %s", lead ? lead : what, tx_error());
}
