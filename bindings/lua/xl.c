/* xl.c: what the l_*.c files share: calls, tensor boxes and their scopes, lists, errors.
 * A box holds one reference to a tensor; its finalizer, its __close and the scope it is linked into all end in
 * xl_closebox, which may be called twice. Nothing here calls lua_gc (xl_budget.c does). */
#include <stdalign.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "alloc.h"
#include "xl.h"

const char xl_tensor_mark[1] = "";
static const char state_key, scopes_key, none_key; /* registry keys */

/* Something that a running call holds, or (release NULL) the mark of the call's beginning. */
typedef struct hold {
  const char *frame; /* the call's address on the C stack */
  const void *call;  /* Lua's record of the call (its CallInfo) */
  void *p;
  void (*release)(void *p);
} hold;

/* One per Lua state, in the registry. */
typedef struct xl_state {
  lua_State *main;
  xl_scope root;       /* lives as long as the Lua state */
  xl_scope *innermost; /* of the main coroutine */
  hold *holds;
  int nholds, room;
} xl_state;

/* ---- scopes ------------------------------------------------------------------------------------------------- */

void xl_scope_init(xl_scope *s) {
  *s = (xl_scope){ .parent = NULL };
  s->ring.prev = s->ring.next = &s->ring;
}

void xl_scope_free(xl_scope *s) {
  while (s->ring.next != &s->ring)
    xl_closebox(s->ring.next);
}

/* Caches the xl_state of the Lua state used last, known by the address of its registry. Only tests have several. */
static struct {
  const void *registry;
  xl_state *state;
} last;

static void release_all(xl_state *s, const char *frame);

static int forget_state(lua_State *L) {
  xl_state *s = lua_touserdata(L, 1);
  release_all(s, (const char *)UINTPTR_MAX);
  mx_free(s->holds);
  s->holds = NULL;
  s->room = 0;
  last.registry = NULL;
  return 0;
}

/* Made before any box, so that its finalizer runs after theirs and its memory outlives them. */
static xl_state *new_state(lua_State *L) {
  xl_state *s = lua_newuserdatauv(L, sizeof *s, 0);
  memset(s, 0, sizeof *s);
  xl_scope_init(&s->root);
  s->root.open = true;
  s->innermost = &s->root;
  lua_rawgeti(L, LUA_REGISTRYINDEX, LUA_RIDX_MAINTHREAD);
  s->main = lua_tothread(L, -1);
  lua_pop(L, 1);
  lua_createtable(L, 0, 1);
  lua_pushcfunction(L, forget_state);
  lua_setfield(L, -2, "__gc");
  lua_setmetatable(L, -2);
  lua_newtable(L); /* coroutine (weak key) -> its innermost scope */
  lua_createtable(L, 0, 1);
  lua_pushliteral(L, "k");
  lua_setfield(L, -2, "__mode");
  lua_setmetatable(L, -2);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &scopes_key);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &state_key);
  return s;
}

static xl_state *get_state(lua_State *L) {
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

xl_scope *xl_root(lua_State *L) { return &get_state(L)->root; }

static void push_thread(lua_State *L, lua_State *thread) {
  if (!lua_checkstack(thread, 1))
    xl_error(L, "scope: out of memory");
  lua_pushthread(thread);
  if (thread != L)
    lua_xmove(thread, L, 1);
}

xl_scope *xl_innermost_of(lua_State *L, lua_State *thread) {
  xl_state *state = get_state(L);
  if (thread == state->main)
    return state->innermost;
  luaL_checkstack(L, 2, "scope");
  lua_rawgetp(L, LUA_REGISTRYINDEX, &scopes_key);
  push_thread(L, thread);
  lua_rawget(L, -2);
  xl_scope *s = lua_touserdata(L, -1);
  lua_pop(L, 2);
  return s ? s : &state->root;
}

void xl_set_innermost(lua_State *L, lua_State *thread, xl_scope *scope) {
  xl_state *state = get_state(L);
  if (thread == state->main) {
    state->innermost = scope;
    return;
  }
  luaL_checkstack(L, 4, "scope");
  lua_rawgetp(L, LUA_REGISTRYINDEX, &scopes_key);
  push_thread(L, thread);
  if (scope == &state->root)
    lua_pushnil(L);
  else
    lua_pushlightuserdata(L, scope);
  lua_rawset(L, -3);
  lua_pop(L, 1);
}

static int64_t boxes; /* in scopes */

int64_t xl_boxes(void) { return boxes; }

void xl_link(xl_scope *s, xl_tensor *box) {
  mx_assert(!box->scope && s->open);
  box->scope = s;
  box->prev = &s->ring;
  box->next = s->ring.next;
  s->ring.next->prev = box;
  s->ring.next = box;
  boxes++;
}

void xl_unlink(xl_tensor *box) {
  mx_assert(box->prev->next == box && box->next->prev == box);
  boxes -= box->scope != NULL;
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

/* ---- calls -------------------------------------------------------------------------------------------------- */

/* A call that returns ends with xl_end. A call that raises an error does not: longjmp leaves it, and its entries stay
 * until another call begins or ends at the same place of the C stack or above. That proves that the failed call is
 * gone, since the C stack grows downwards and calls nest on it, in whatever coroutine. So nothing is released too
 * early, and what a failed call held is released by the next call after the error was caught, or sooner. xl_hold finds
 * the running call's entries by Lua's record of the call. */
static void release_all(xl_state *s, const char *frame) {
  while (s->nholds > 0 && s->holds[s->nholds - 1].frame <= frame) {
    const hold h = s->holds[--s->nholds];
    if (h.release)
      h.release(h.p);
  }
}

static const void *this_call(lua_State *L) {
  lua_Debug ar;
  return lua_getstack(L, 0, &ar) ? (const void *)ar.i_ci : NULL;
}

static bool add_hold(xl_state *s, hold h) {
  if (s->nholds == s->room) {
    const int room = s->room ? 2 * s->room : 256;
    hold *more = mx_realloc(s->holds, (size_t)room * sizeof *more);
    if (!more)
      return false;
    s->holds = more;
    s->room = room;
  }
  s->holds[s->nholds++] = h;
  return true;
}

void xl_begin_at(lua_State *L, const void *frame) {
  xl_state *s = get_state(L);
  release_all(s, frame);
  if (!add_hold(s, (hold){ .frame = frame, .call = this_call(L) }))
    xl_error(L, "out of memory");
}

void xl_end_at(lua_State *L, const void *frame) {
  xl_state *s = get_state(L);
  mx_assert(s->nholds > 0 && s->holds[0].frame >= (const char *)frame);
  release_all(s, frame);
}

void xl_hold(lua_State *L, void *p, void (*release)(void *p)) {
  xl_state *s = get_state(L);
  const void *call = this_call(L);
  int i = s->nholds;
  while (i > 0 && s->holds[i - 1].call != call)
    i--;
  if (i > 0 && add_hold(s, (hold){ s->holds[i - 1].frame, call, p, release }))
    return;
  release(p);
  xl_error(L, i > 0 ? "out of memory" : "a binding was made without xl_setfuncs");
}

/* Upvalue 1: the binding. */
static int call_binding(lua_State *L) {
  const lua_CFunction f = lua_tocfunction(L, lua_upvalueindex(1));
  xl_begin(L);
  const int n = f(L);
  xl_end(L);
  return n;
}

void xl_setfunction(lua_State *L, const char *name, lua_CFunction f) {
  lua_pushcfunction(L, f);
  lua_pushcclosure(L, call_binding, 1);
  lua_setfield(L, -2, name);
}

void xl_setfuncs(lua_State *L, const luaL_Reg *functions) {
  luaL_checkstack(L, 2, "functions");
  for (; functions->name; functions++)
    xl_setfunction(L, functions->name, functions->func);
}

void xl_newlib(lua_State *L, const luaL_Reg *functions) {
  lua_newtable(L);
  xl_setfuncs(L, functions);
}

static void release_tensor(void *p) { tx_tensor_free(p); }

tx_tensor *xl_own(lua_State *L, tx_tensor *t) {
  if (t)
    xl_hold(L, t, release_tensor);
  return t;
}

typedef struct slots {
  int n;
  tx_tensor *t[];
} slots;

static void release_slots(void *p) {
  slots *s = p;
  for (int i = 0; i < s->n; i++)
    tx_tensor_free(s->t[i]);
  mx_free(s);
}

tx_tensor **xl_slots(lua_State *L, int n) {
  slots *s = mx_calloc(1, sizeof *s + (size_t)n * sizeof s->t[0]);
  if (!s)
    xl_error(L, "out of memory");
  s->n = n;
  xl_hold(L, s, release_slots);
  return s->t;
}

/* ---- objects ------------------------------------------------------------------------------------------------ */

typedef struct object {
  int users;
  void (*destroy)(void *p);
  alignas(max_align_t) unsigned char p[];
} object;

static object *object_of(void *p) { return (object *)(void *)((unsigned char *)p - offsetof(object, p)); }

void *xl_retainobject(void *p) {
  object_of(p)->users++;
  return p;
}

void xl_releaseobject(void *p) {
  if (!p)
    return;
  object *o = object_of(p);
  mx_assert(o->users > 0);
  if (--o->users > 0)
    return;
  o->destroy(p);
  mx_free(o);
}

void *xl_newobject(lua_State *L, const char *type, size_t size, void (*destroy)(void *p)) {
  void **box = lua_newuserdatauv(L, sizeof *box, 1);
  *box = NULL;
  luaL_setmetatable(L, type);
  object *o = mx_calloc(1, sizeof *o + size);
  if (!o)
    xl_error(L, "out of memory");
  *o = (object){ .users = 1, .destroy = destroy };
  *box = o->p;
  xl_hold(L, xl_retainobject(*box), xl_releaseobject);
  return *box;
}

void *xl_testobject(lua_State *L, int idx, const char *type) {
  void **box = luaL_testudata(L, idx, type);
  if (!box || !*box)
    return NULL;
  void *p = *box;
  xl_hold(L, xl_retainobject(p), xl_releaseobject);
  return p;
}

void *xl_toobject(lua_State *L, int idx, const char *type, const char *closed) {
  luaL_checkudata(L, idx, type);
  void *p = xl_testobject(L, idx, type);
  if (!p)
    xl_error(L, "%s", closed);
  return p;
}

void xl_closeobject(lua_State *L, int idx, const char *type) {
  void **box = luaL_checkudata(L, idx, type), *p = *box;
  *box = NULL;
  xl_releaseobject(p);
}

void xl_newtype(lua_State *L, const char *type, const luaL_Reg *methods, lua_CFunction close) {
  luaL_newmetatable(L, type);
  xl_newlib(L, methods);
  lua_setfield(L, -2, "__index");
  if (close) {
    xl_setfunction(L, "__gc", close);
    xl_setfunction(L, "__close", close);
  }
  lua_pop(L, 1);
}

/* ---- boxes -------------------------------------------------------------------------------------------------- */

xl_tensor *xl_newtensor(lua_State *L) {
  xl_tensor *box = lua_newuserdatauv(L, sizeof *box, 0); /* may run finalizers, which may close scopes */
  box->mark = xl_tensor_mark;
  box->t = NULL;
  box->scope = NULL;
  xl_link(xl_innermost(L), box);
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, xl_tensor_mark) == LUA_TNIL) {
    lua_pop(L, 1);
    luaL_getmetatable(L, XL_TENSOR);
    lua_pushvalue(L, -1);
    lua_rawsetp(L, LUA_REGISTRYINDEX, xl_tensor_mark);
  }
  lua_setmetatable(L, -2);
  return box;
}

tx_tensor *xl_testtensor(lua_State *L, int idx) {
  xl_tensor *box = xl_testbox(L, idx);
  if (box && !box->t)
    xl_error(L,
             "tensor is closed (by close(), or with the scope in which it was made: scope:keep(t) lets it live on).");
  return box ? xl_own(L, tx_tensor_ref(box->t)) : NULL;
}

tx_tensor *xl_totensor(lua_State *L, int idx) {
  tx_tensor *t = xl_testtensor(L, idx);
  if (!t)
    xl_error(L, "expected a tensor, got %s", luaL_typename(L, idx));
  return t;
}

tx_tensor *xl_opttensor(lua_State *L, int idx) { return xl_isnone(L, idx) ? NULL : xl_totensor(L, idx); }

tx_tensor *xl_toresolved(lua_State *L, int idx) {
  tx_tensor *t = xl_totensor(L, idx), **out = xl_slots(L, 1);
  XL_TRY(L, "tensor", tx_tensor_resolved(out, t));
  return *out;
}

void *xl_todata(lua_State *L, const tx_tensor *t, const char *dtype, const char *what) {
  if (dtype && strcmp(tx_tensor_dtype(t), dtype) != 0)
    xl_error(L, "%s: wrong dtype (expected %s, got %s).", what, dtype, tx_tensor_dtype(t));
  if (tx_tensor_numel(t) > 0 && (!tx_tensor_data(t) || !tx_tensor_is_contiguous(t, false)))
    xl_error(L, "%s: the tensor must be contiguous and on the CPU. Use t:cpu():contiguous().", what);
  return tx_tensor_data(t);
}

const double *xl_todoubles(lua_State *L, int idx, int64_t n, const char *what) {
  const tx_tensor *t = xl_toresolved(L, idx);
  const double *data = xl_todata(L, t, "float64", what);
  if (tx_tensor_numel(t) != n)
    xl_error(L, "%s: expected %lld numbers, got %lld", what, (long long)n, (long long)tx_tensor_numel(t));
  return data;
}

void xl_pushheld(lua_State *L, tx_tensor *t) {
  luaL_checkstack(L, 4, "tensor");
  if (t)
    xl_newtensor(L)->t = tx_tensor_ref(t);
  else
    lua_pushnil(L);
  xl_budget_check(L);
}

void xl_pushtensors(lua_State *L, tx_tensor *const *t, int n) {
  luaL_checkstack(L, 4, "list of tensors");
  lua_createtable(L, n, 0);
  for (int i = 0; i < n; i++) {
    if (t[i])
      xl_newtensor(L)->t = tx_tensor_ref(t[i]);
    else
      xl_pushnone(L);
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

int64_t xl_torange(lua_State *L, int idx, int64_t low, int64_t high, const char *what) {
  const int64_t v = xl_toint(L, idx, what);
  if (v < low || v > high)
    xl_error(L, "%s: expected %lld to %lld, got %lld", what, (long long)low, (long long)high, (long long)v);
  return v;
}

/* The length of the list at idx, without metamethods; raises if it is not a list. */
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
  tx_tensor **v = xl_slots(L, *n + 1);
  for (int i = 0; i < *n; i++) {
    lua_rawgeti(L, idx, i + 1);
    const bool none = xl_isnone(L, -1) || (lua_isboolean(L, -1) && !lua_toboolean(L, -1));
    const xl_tensor *box = none ? NULL : xl_testbox(L, -1);
    if (box && box->t)
      v[i] = tx_tensor_ref(box->t);
    else if (box)
      xl_totensor(L, -1); /* raises: it is closed */
    else if (!none)
      xl_error(L, "%s: expected a list of tensors, got %s at %d", what, luaL_typename(L, -1), i + 1);
    lua_pop(L, 1);
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
  if (status == TX_NOMEM || status == TX_NOMEM_CHANGED)
    xl_budget_nomem(L, what, status == TX_NOMEM_CHANGED);
  const char *lead = tx_error_lead();
  xl_error(L, "%s: %s", lead ? lead : what, tx_error());
}
