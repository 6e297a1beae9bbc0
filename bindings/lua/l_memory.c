/* l_memory.c: core.memory: scopes that free a step's tensors, memory statistics (memory() itself), limits.
 *   local step <close> = memory.scope()   tensors made from here on are closed at the end of the block, on error too
 *   return step:keep(loss)                except this one, which moves to the enclosing scope
 * Each coroutine has its own scopes: tensors that other coroutines make are not affected. A tensor made while no scope
 * is open belongs to none and is freed by the garbage collector; so are tensors made inside memory.unscoped(f), which
 * is for models and caches. */
#include <stdio.h>
#include "alloc.h"
#include "xl.h"

#define XL_SCOPE "medxai.scope"

/* ---- scopes ------------------------------------------------------------------------------------------------- */

static xl_scope *push_scope(lua_State *L) {
  xl_scope *s = lua_newuserdatauv(L, sizeof *s, 1);
  xl_scope_init(s);
  luaL_setmetatable(L, XL_SCOPE);
  lua_pushthread(L); /* lives as long as the scope */
  lua_setiuservalue(L, -2, 1);
  s->thread = L;
  s->parent = xl_innermost(L);
  xl_set_innermost(L, L, s);
  s->open = true;
  return s;
}

/* Takes the scope out of its coroutine's chain of open scopes. It need not be the innermost one. */
static void take_out(lua_State *L, xl_scope *s) {
  xl_scope *inner = xl_innermost_of(L, s->thread);
  if (inner == s)
    xl_set_innermost(L, s->thread, s->parent);
  for (; inner; inner = inner->parent)
    if (inner->parent == s)
      inner->parent = s->parent;
  s->open = false;
}

static void move_box(xl_tensor *box, xl_scope *to) {
  xl_unlink(box);
  xl_link(to, box);
}

static void move_all(xl_scope *from, xl_scope *to) {
  while (from->ring.prev != &from->ring) /* oldest first, so that the newest stays in front */
    move_box(from->ring.prev, to);
}

/* A scope that is collected without having been closed gives its tensors to the enclosing scope: they may be in use. */
static int scope_gc(lua_State *L) {
  xl_scope *s = luaL_checkudata(L, 1, XL_SCOPE);
  if (s->open) {
    xl_scope *parent = s->parent;
    take_out(L, s);
    move_all(s, parent);
  }
  return 0;
}

static int scope_close(lua_State *L) {
  xl_scope *s = luaL_checkudata(L, 1, XL_SCOPE);
  if (s->open) {
    take_out(L, s);
    xl_scope_free(s);
  }
  return 0;
}

/* Whether box was made in s or in a scope that is open inside it. */
static bool is_within(const xl_tensor *box, const xl_scope *s) {
  const xl_scope *at = box->scope;
  while (at && at != s)
    at = at->parent;
  return at != NULL;
}

static void keep_value(lua_State *L, xl_scope *s, int idx, int depth) {
  xl_tensor *box = luaL_testudata(L, idx, XL_TENSOR);
  if (box) {
    if (!box->t)
      xl_error(L, "scope: keep: tensor is closed");
    if (is_within(box, s))
      move_box(box, s->parent);
  } else if (lua_istable(L, idx) && depth < 16) {
    luaL_checkstack(L, 4, "scope: keep");
    for (lua_pushnil(L); lua_next(L, idx); lua_pop(L, 1))
      keep_value(L, s, lua_gettop(L), depth + 1);
  }
}

/*- s:keep(v, ...): moves the tensors among the values, and in tables up to 16 deep, to the enclosing scope; returns the
 * values. */
static int scope_keep(lua_State *L) {
  xl_scope *s = luaL_checkudata(L, 1, XL_SCOPE);
  if (!s->open)
    xl_error(L, "scope: keep: the scope is closed. Keep tensors before it ends.");
  const int n = lua_gettop(L);
  for (int i = 2; i <= n; i++) {
    if (!lua_istable(L, i) && !luaL_testudata(L, i, XL_TENSOR) && !lua_isnil(L, i))
      xl_error(L, "scope: keep: expected tensors, got %s. Call it as scope:keep(t, ...).", luaL_typename(L, i));
    keep_value(L, s, i, 0);
  }
  return n - 1;
}

static int scope_tostring(lua_State *L) {
  xl_scope *s = luaL_checkudata(L, 1, XL_SCOPE);
  lua_Integer n = 0;
  for (xl_tensor *box = s->ring.next; box != &s->ring; box = box->next)
    n++;
  if (s->open)
    lua_pushfstring(L, "scope with %I tensors", n);
  else
    lua_pushliteral(L, "scope (closed)");
  return 1;
}

static int memory_scope(lua_State *L) {
  push_scope(L);
  return 1;
}

/*- memory.unscoped(f, ...): f's results; tensors made in it belong to no scope, so that a cache or a model survives the
 * step in which it was first needed. */
static int memory_unscoped(lua_State *L) {
  luaL_checkany(L, 1);
  xl_scope *s = push_scope(L);
  lua_insert(L, 1);
  lua_toclose(L, 1); /* an error closes what f made; no pcall, so that the error keeps its place */
  lua_call(L, lua_gettop(L) - 2, LUA_MULTRET);
  take_out(L, s);
  move_all(s, xl_root(L));
  return lua_gettop(L) - 1;
}

/* ---- numbers ------------------------------------------------------------------------------------------------ */

static void set_number(lua_State *L, const char *name, int64_t v) {
  lua_pushinteger(L, v);
  lua_setfield(L, -2, name);
}

static int stats_tostring(lua_State *L) {
  static const struct { const char *field, *text;
  } rows[] = {
    { "live_bytes", "live" },
    { "peak_bytes", ", peak" },
    { "cached_bytes", ", kept for reuse" },
    { "limit_bytes", ", limit" },
    { "cuda_live_bytes", "; CUDA live" },
    { "cuda_peak_bytes", ", peak" },
    { "cuda_reserved_bytes", ", reserved" },
  };
  luaL_Buffer b;
  luaL_buffinit(L, &b);
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    lua_getfield(L, 1, rows[i].field);
    const bool there = lua_isinteger(L, -1);
    const lua_Integer v = lua_tointeger(L, -1);
    lua_pop(L, 1);
    char text[64], mb[32];
    if (there)
      luaL_addlstring(&b, text, (size_t)snprintf(text, sizeof text, "%s %s", rows[i].text, xl_megabytes(mb, v)));
  }
  luaL_pushresult(&b);
  return 1;
}

/*- memory(): { live_bytes, peak_bytes (of CPU tensors since the start or reset_peak), cached_bytes (freed, kept for
 * reuse), cache_limit_bytes, limit_bytes (0: none), tensors (native references), boxes (Lua values that hold one),
 * lua_bytes, and with CUDA cuda_live_bytes, cuda_peak_bytes, cuda_reserved_bytes }; tostring gives one line. */
static int memory_stats(lua_State *L) {
  tx_memory m;
  tx_memory_stats(&m);
  lua_settop(L, 0);
  lua_createtable(L, 0, 12);
  set_number(L, "live_bytes", m.live_bytes);
  set_number(L, "peak_bytes", m.peak_bytes);
  set_number(L, "cached_bytes", m.cached_bytes);
  set_number(L, "cache_limit_bytes", m.cache_cap_bytes);
  set_number(L, "limit_bytes", m.limit_bytes);
  set_number(L, "tensors", m.live_tensors);
  set_number(L, "boxes", xl_boxes());
  set_number(L, "lua_bytes", xl_budget_lua_bytes(L));
  if (tx_cuda_count() > 0) {
    set_number(L, "cuda_live_bytes", m.cuda_live_bytes);
    set_number(L, "cuda_peak_bytes", m.cuda_peak_bytes);
    set_number(L, "cuda_reserved_bytes", m.cuda_reserved_bytes);
  }
  luaL_setmetatable(L, "medxai.memory");
  return 1;
}

/*- memory.live(): { tensors, bytes }, cheap. Tests compare it before and after to find leaks. */
static int memory_live(lua_State *L) {
  tx_memory m;
  tx_memory_stats(&m);
  lua_createtable(L, 0, 2);
  set_number(L, "tensors", m.live_tensors);
  set_number(L, "bytes", m.live_bytes + m.cuda_live_bytes);
  return 1;
}

static int memory_reset_peak(lua_State *L) {
  (void)L;
  tx_memory_reset_peak();
  return 0;
}

static int memory_empty_cache(lua_State *L) {
  (void)L;
  tx_memory_empty_cache();
  return 0;
}

/* A size in MB at argument 1; "none" gives 0. */
static int64_t to_bytes(lua_State *L, const char *what) {
  const double mb = lua_type(L, 1) == LUA_TNUMBER ? lua_tonumber(L, 1) : -1;
  if (!(mb >= 0 && mb < 0x1p40))
    xl_error(L, "%s: expected a size in MB (0 or more), got %s", what, luaL_tolstring(L, 1, NULL));
  return (int64_t)(mb * 0x1p20);
}

/*- memory.set_limit(mb): an allocation that would bring the live CPU tensors above it fails; 0: no limit. Default: 90 %
 * of the memory of the machine or container. */
static int memory_set_limit(lua_State *L) {
  tx_memory_set_limit(to_bytes(L, "memory.set_limit"));
  return 0;
}

/*- memory.set_cache(mb): how much memory of freed tensors is kept for reuse, at most; 0: none. */
static int memory_set_cache(lua_State *L) {
  tx_memory_set_cache(to_bytes(L, "memory.set_cache"));
  return 0;
}

static int memory_collect(lua_State *L) {
  xl_budget_collect(L);
  return 0;
}

/* ---- for tests: allocations that fail ----------------------------------------------------------------------- */

/*- memory.fail_after(n, times): after n more tensor allocations the next `times` (default 1) fail; -1: never. */
static int memory_fail_after(lua_State *L) {
  tx_memory_fail_after(luaL_checkinteger(L, 1), luaL_optinteger(L, 2, 1));
  return 0;
}

static struct { /* Lua's allocator and when it is to fail */
  lua_Alloc alloc;
  void *ud;
  lua_Integer after, times;
} lua_failing;

static void *failing_alloc(void *ud, void *p, size_t old, size_t size) {
  (void)ud;
  const bool grows = size > 0 && (!p || size > old);
  if (grows && lua_failing.after >= 0 && lua_failing.after-- == 0) {
    if (--lua_failing.times > 0)
      lua_failing.after = 0;
    return NULL;
  }
  return lua_failing.alloc(lua_failing.ud, p, old, size);
}

/*- memory.lua_fail_after(n, times): the same for Lua's own allocations. After a failure Lua collects garbage and asks
 * again, so a single failure often has no effect. */
static int memory_lua_fail_after(lua_State *L) {
  const lua_Integer n = luaL_checkinteger(L, 1), times = luaL_optinteger(L, 2, 1);
  if (!lua_failing.alloc) {
    lua_failing.alloc = lua_getallocf(L, &lua_failing.ud);
    lua_setallocf(L, failing_alloc, NULL);
  }
  lua_failing.after = n;
  lua_failing.times = times;
  return 0;
}

/*- memory.c_fail_after(n, times): the same for bindings/plain. */
static int memory_c_fail_after(lua_State *L) {
  mx_alloc_fail_after(luaL_checkinteger(L, 1), luaL_optinteger(L, 2, 1));
  return 0;
}

/* ---- module ------------------------------------------------------------------------------------------------- */

static const luaL_Reg scope_methods[] = {
  { "close", scope_close }, { "keep", scope_keep }, { NULL, NULL },
};
static const luaL_Reg scope_meta[] = {
  { "__close", scope_close }, { "__gc", scope_gc }, { "__tostring", scope_tostring }, { NULL, NULL },
};
static const luaL_Reg functions[] = {
  { "c_fail_after", memory_c_fail_after },
  { "collect", memory_collect },
  { "empty_cache", memory_empty_cache },
  { "fail_after", memory_fail_after },
  { "live", memory_live },
  { "lua_fail_after", memory_lua_fail_after },
  { "reset_peak", memory_reset_peak },
  { "scope", memory_scope },
  { "set_cache", memory_set_cache },
  { "set_limit", memory_set_limit },
  { "stats", memory_stats },
  { "unscoped", memory_unscoped },
  { NULL, NULL },
};

int luaopen_core_memory(lua_State *L) {
  xl_check(L, tx_memory_setup(), "memory");
  xl_budget_open(L);
  luaL_newmetatable(L, XL_SCOPE);
  xl_setfuncs(L, scope_meta);
  xl_newlib(L, scope_methods);
  lua_setfield(L, -2, "__index");
  luaL_newmetatable(L, "medxai.memory");
  lua_pushcfunction(L, stats_tostring);
  lua_setfield(L, -2, "__tostring");
  lua_pop(L, 2);
  xl_newlib(L, functions);
  lua_createtable(L, 0, 1);
  xl_setfunction(L, "__call", memory_stats);
  lua_setmetatable(L, -2);
  return 1;
}
