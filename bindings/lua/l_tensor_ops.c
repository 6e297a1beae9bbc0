/* l_tensor_ops.c: calls libtorch's operators from Lua: chooses the overload, converts arguments and results.
 * An operator is a closure over its overloads, which are looked up once.
 * Surplus arguments, tables that are half list and half names, and floats where an integer is expected are errors: the
 * message names the argument and shows the operator's schemas. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "alloc.h"
#include "l_tensor.h"

enum { MAX_ARGS = 48, MAX_OVERLOADS = 64, POOL = 64, FEW = 8 };

typedef struct family {
  const char *name;
  bool method; /* called as t:name(...): the first argument fills "self" */
  int n;
  const tx_op *ops[];
} family;

/* The list arguments of one call: small ones in this pool, larger ones in userdata on Lua's stack. */
typedef struct pool {
  int ints, doubles, bools, tensors, scalars; /* used */
  int64_t i[POOL];
  double d[POOL];
  bool b[POOL];
  tx_tensor *t[POOL];
  tx_value v[POOL];
} pool;

/* One attempt to bind the Lua arguments 1..top to an overload. */
typedef struct binding {
  lua_State *L;
  const family *f;
  const tx_op *op;
  const tx_arg *args;
  int nargs;
  int top;   /* positional Lua arguments */
  int named; /* index of the table of named arguments, 0 where there is none */
  bool spread;
  bool requires_grad; /* zeros(..., { requires_grad = true }): factories' schemas have no such argument */
  tx_value values[MAX_ARGS];
  pool *pool;
  int reached;    /* how far it got, for the choice of the best message */
  char why[320];  /* why it does not fit */
} binding;

static bool refuse(binding *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static bool refuse(binding *b, const char *fmt, ...) {
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(b->why, sizeof b->why, fmt, ap);
  va_end(ap);
  return false;
}

/* A description of the argument at idx: "float 1.5", "string 'x'", "list of 3", "tensor". */
static const char *describe(lua_State *L, int idx, char buf[80]) {
  switch (lua_type(L, idx)) {
    case LUA_TNUMBER:
      if (lua_isinteger(L, idx))
        snprintf(buf, 80, "%lld", (long long)lua_tointeger(L, idx));
      else
        snprintf(buf, 80, "%.14g", lua_tonumber(L, idx));
      break;
    case LUA_TSTRING: snprintf(buf, 80, "'%.60s'", lua_tostring(L, idx)); break;
    case LUA_TBOOLEAN: snprintf(buf, 80, "%s", lua_toboolean(L, idx) ? "true" : "false"); break;
    case LUA_TTABLE: snprintf(buf, 80, "a list of %llu", (unsigned long long)lua_rawlen(L, idx)); break;
    case LUA_TUSERDATA:
      snprintf(buf, 80, "%s", xl_isnone(L, idx) ? "none" : xl_testbox(L, idx) ? "a tensor" : "a userdata");
      break;
    default: snprintf(buf, 80, "%s", luaL_typename(L, idx));
  }
  return buf;
}

static bool refuse_value(binding *b, const tx_arg *a, int idx) {
  char got[80];
  return refuse(b, "argument '%s' (expected %s, got %s)", a->name, a->type, describe(b->L, idx, got));
}

/* ---- lists -------------------------------------------------------------------------------------------------- */

static bool element_integer(lua_State *L, int idx, int64_t *i) {
  int ok = 0;
  if (lua_type(L, idx) != LUA_TNUMBER)
    return false;
  *i = lua_tointegerx(L, idx, &ok);
  return ok;
}

bool lt_scalar(lua_State *L, int idx, tx_value *v) {
  switch (lua_type(L, idx)) {
    case LUA_TNUMBER:
      if (lua_isinteger(L, idx))
        *v = lt_int(lua_tointeger(L, idx));
      else
        *v = (tx_value){ .kind = TX_DOUBLE, .d = lua_tonumber(L, idx) };
      return true;
    case LUA_TBOOLEAN: *v = (tx_value){ .kind = TX_BOOL, .b = lua_toboolean(L, idx) }; return true;
    default: return false;
  }
}

/* Memory for n elements of size bytes: from the pool, or a userdata that stays on Lua's stack. */
static void *room(lua_State *L, void *pool_base, int *used, int n, size_t size) {
  if (*used + n <= POOL) {
    void *p = (char *)pool_base + (size_t)*used * size;
    *used += n;
    return p;
  }
  luaL_checkstack(L, 4, "too many lists");
  return lua_newuserdatauv(L, (size_t)n * size, 0);
}

static bool list_element(binding *b, const tx_arg *a, tx_value *v, void *p, int i) {
  lua_State *L = b->L;
  char got[80];
  bool ok = true;
  switch (a->kind) {
    case TX_INTS: ok = element_integer(L, -1, &((int64_t *)p)[i]); break;
    case TX_DOUBLES:
      ok = lua_type(L, -1) == LUA_TNUMBER;
      ((double *)p)[i] = ok ? lua_tonumber(L, -1) : 0;
      break;
    case TX_BOOLS:
      ok = lua_isboolean(L, -1);
      ((bool *)p)[i] = lua_toboolean(L, -1);
      break;
    case TX_TENSORS:
    case TX_OPT_TENSORS: {
      tx_tensor *t = xl_testtensor(L, -1);
      ok = t || (a->kind == TX_OPT_TENSORS && xl_isnone(L, -1));
      ((tx_tensor **)p)[i] = t;
      break;
    }
    default: ok = lt_scalar(L, -1, &((tx_value *)p)[i]);
  }
  (void)v;
  return ok
         || refuse(b, "argument '%s' (expected %s, got a list with %s at %d)", a->name, a->type, describe(L, -1, got),
                   i + 1);
}

/* A table is a list if its keys are 1..n. */
static bool is_list(lua_State *L, int idx, lua_Unsigned n) {
  lua_Unsigned keys = 0;
  for (lua_pushnil(L); lua_next(L, idx); lua_pop(L, 1)) {
    if (!lua_isinteger(L, -2)) {
      lua_pop(L, 2);
      return false;
    }
    keys++;
  }
  return keys == n;
}

static bool bind_list(binding *b, const tx_arg *a, tx_value *v, int idx) {
  lua_State *L = b->L;
  pool *p = b->pool;
  lua_Unsigned len = lua_rawlen(L, idx);
  if (len > INT32_MAX / 64 || !is_list(L, idx, len))
    return refuse(b, "argument '%s' (expected %s, got a table that is not a list)", a->name, a->type);
  int n = (int)len;
  void *at;
  switch (a->kind) {
    case TX_INTS: v->is = at = room(L, p->i, &p->ints, n, sizeof p->i[0]); break;
    case TX_DOUBLES: v->ds = at = room(L, p->d, &p->doubles, n, sizeof p->d[0]); break;
    case TX_BOOLS: v->bs = at = room(L, p->b, &p->bools, n, sizeof p->b[0]); break;
    case TX_TENSORS:
    case TX_OPT_TENSORS: v->ts = at = room(L, p->t, &p->tensors, n, sizeof p->t[0]); break;
    case TX_SCALARS: v->vs = at = room(L, p->v, &p->scalars, n, sizeof p->v[0]); break;
    default: return refuse_value(b, a, idx);
  }
  v->kind = a->kind;
  v->n = n;
  for (int i = 0; i < n; i++) {
    lua_rawgeti(L, idx, i + 1);
    bool ok = list_element(b, a, v, at, i);
    lua_pop(L, 1);
    if (!ok)
      return false;
  }
  if (a->kind == TX_INTS && a->fixed > 1 && n != a->fixed && n != 1 && n != 0)
    return refuse(b, "argument '%s' (expected %d integers, got %d)", a->name, a->fixed, n);
  return true;
}

/* ---- single values ------------------------------------------------------------------------------------------ */

static bool bind_number(binding *b, const tx_arg *a, tx_value *v, int idx) {
  lua_State *L = b->L;
  int64_t i;
  switch (a->kind) {
    case TX_SCALAR: return lt_scalar(L, idx, v);
    case TX_DOUBLE: *v = (tx_value){ .kind = TX_DOUBLE, .d = lua_tonumber(L, idx) }; return true;
    case TX_DOUBLES:
      if (!a->fixed)
        return refuse_value(b, a, idx);
      *v = (tx_value){ .kind = TX_DOUBLE, .d = lua_tonumber(L, idx) };
      return true;
    case TX_INT:
    case TX_INTS:
      if ((a->kind == TX_INTS && !a->fixed) || !element_integer(L, idx, &i))
        return refuse_value(b, a, idx);
      *v = lt_int(i);
      return true;
    default: return refuse_value(b, a, idx);
  }
}

static bool bind_string(binding *b, const tx_arg *a, tx_value *v, int idx) {
  size_t len;
  const char *s = lua_tolstring(b->L, idx, &len);
  if (memchr(s, 0, len))
    return refuse(b, "argument '%s' (a string with a zero byte in it)", a->name);
  *v = lt_string(s);
  if (a->kind == TX_INT && strcmp(a->name, "reduction") == 0) { /* PyTorch's names for 0, 1, 2 */
    static const char *const reductions[] = { "none", "mean", "sum" };
    for (int i = 0; i < 3; i++)
      if (strcmp(s, reductions[i]) == 0) {
        *v = lt_int(i);
        return true;
      }
  }
  if (a->kind == TX_STRING || tx_name_fits(a->kind, s))
    return true;
  return refuse_value(b, a, idx);
}

typedef struct generator_box { /* l_autograd.c's */
  tx_generator *g;
} generator_box;

static bool bind_userdata(binding *b, const tx_arg *a, tx_value *v, int idx) {
  tx_tensor *t = xl_testtensor(b->L, idx);
  if (t && a->kind == TX_TENSOR) {
    *v = lt_tensor(t);
    return true;
  }
  generator_box *g = a->kind == TX_GENERATOR ? xl_testobject(b->L, idx, "medxai.generator") : NULL;
  if (!g)
    return refuse_value(b, a, idx);
  *v = (tx_value){ .kind = TX_GENERATOR, .g = g->g };
  return true;
}

/* nil gives the argument's default, or None if it has none; torch.none gives None. */
static bool bind_none(binding *b, const tx_arg *a, tx_value *v, bool explicit_none) {
  if (a->has_default && !explicit_none)
    v->kind = TX_DEFAULT;
  else if (a->optional)
    v->kind = TX_NONE;
  else if (explicit_none)
    return refuse(b, "argument '%s' (expected %s, got none)", a->name, a->type);
  else
    return refuse(b, "argument '%s' is missing (expected %s)", a->name, a->type);
  return true;
}

static bool bind_value(binding *b, int i, int idx) {
  const tx_arg *a = &b->args[i];
  tx_value *v = &b->values[i];
  switch (lua_type(b->L, idx)) {
    case LUA_TUSERDATA:
      if (a->kind != TX_TENSOR && xl_isnone(b->L, idx))
        return bind_none(b, a, v, true);
      if (bind_userdata(b, a, v, idx))
        return true;
      return xl_isnone(b->L, idx) && bind_none(b, a, v, true);
    case LUA_TNUMBER: return bind_number(b, a, v, idx);
    case LUA_TBOOLEAN:
      if (a->kind != TX_BOOL && a->kind != TX_SCALAR)
        return refuse_value(b, a, idx);
      *v = (tx_value){ .kind = TX_BOOL, .b = lua_toboolean(b->L, idx) };
      return true;
    case LUA_TSTRING: return bind_string(b, a, v, idx);
    case LUA_TTABLE: return bind_list(b, a, v, idx);
    case LUA_TNIL: return bind_none(b, a, v, false);
    default: return refuse_value(b, a, idx);
  }
}

/* ---- named arguments ---------------------------------------------------------------------------------------- */

static int argument_named(const binding *b, const char *name) {
  for (int i = 0; i < b->nargs; i++)
    if (strcmp(b->args[i].name, name) == 0)
      return i;
  return -1;
}

/* out = t, or out = {t1, t2}: fills the arguments that the overload writes to. */
static bool bind_out(binding *b, bool *given, int idx) {
  lua_State *L = b->L;
  int nth = 0;
  bool list = lua_istable(L, idx);
  for (int i = 0; i < b->nargs; i++) {
    if (!b->args[i].is_out)
      continue;
    nth++;
    if (list)
      lua_rawgeti(L, idx, nth);
    else
      lua_pushvalue(L, idx);
    given[i] = bind_value(b, i, lua_gettop(L));
    lua_pop(L, 1);
    if (!given[i] || (!list && nth > 1))
      return refuse(b, "argument 'out' (expected %s)", nth > 1 && !list ? "a list of tensors" : "a tensor");
  }
  return nth > 0 || refuse(b, "this form takes no 'out'");
}

static bool bind_named(binding *b, bool *given) {
  lua_State *L = b->L;
  for (lua_pushnil(L); lua_next(L, b->named); lua_pop(L, 1)) {
    const char *key = lua_tostring(L, -2); /* a string: the caller has checked */
    int value = lua_gettop(L), i = argument_named(b, key);
    bool ok;
    if (i < 0 && strcmp(key, "out") == 0) {
      ok = bind_out(b, given, value);
    } else if (i < 0 && strcmp(key, "requires_grad") == 0 && argument_named(b, "pin_memory") >= 0
               && lua_isboolean(L, value)) {
      b->requires_grad = lua_toboolean(L, value);
      ok = true;
    } else if (i < 0) {
      ok = refuse(b, "there is no argument '%.60s'", key);
    } else if (given[i]) {
      ok = refuse(b, "argument '%s' is given twice", key);
    } else {
      ok = given[i] = bind_value(b, i, value);
      /* A list beyond the pool was left above the pair that lua_next needs, and a string stays where nobody can take it
       * out of the table: bring the pair to the top again. */
      if (lua_gettop(L) > value || lua_type(L, value) == LUA_TSTRING) {
        luaL_checkstack(L, 4, "named arguments");
        lua_pushvalue(L, value - 1);
        lua_pushvalue(L, value);
      }
    }
    if (!ok)
      return false;
  }
  return true;
}

/* ---- one overload ------------------------------------------------------------------------------------------- */

/* The remaining integers, from Lua argument idx on, as one list for argument i. */
static bool bind_spread(binding *b, int i, int idx) {
  int n = b->top - idx + 1;
  int64_t *p = room(b->L, b->pool->i, &b->pool->ints, n, sizeof *p);
  for (int k = 0; k < n; k++)
    if (!element_integer(b->L, idx + k, &p[k]))
      return refuse_value(b, &b->args[i], idx + k);
  if (b->args[i].fixed > 1 && n != b->args[i].fixed)
    return refuse(b, "argument '%s' (expected %d integers, got %d)", b->args[i].name, b->args[i].fixed, n);
  b->values[i] = (tx_value){ .kind = TX_INTS, .n = n, .is = p };
  return true;
}

/* Whether argument i is a list of integers and the last positional one, and a number stands at idx: t:view(2, 3). */
static bool can_spread(const binding *b, int i, int idx) {
  const tx_arg *a = &b->args[i];
  if (a->kind != TX_INTS || lua_type(b->L, idx) != LUA_TNUMBER)
    return false;
  if (a->fixed && idx == b->top)
    return false; /* one number for int[N] */
  return i + 1 >= b->nargs || b->args[i + 1].kwarg_only;
}

static bool bind_positional(binding *b, bool *given) {
  int self = b->f->method ? argument_named(b, "self") : -1;
  int next = 0, idx = 1;
  if (self >= 0 && b->top >= 1) {
    if (!bind_value(b, self, idx++))
      return false;
    given[self] = true;
  }
  for (; idx <= b->top; idx++, next++) {
    if (next == self && self >= 0)
      next++;
    if ((next >= b->nargs || b->args[next].kwarg_only) && lua_isnil(b->L, idx))
      continue; /* a nil too many says nothing */
    if (next >= b->nargs || b->args[next].kwarg_only)
      return refuse(b, "%d arguments are too many%s", b->top,
                    next < b->nargs ? " by position; the others are given by name" : "");
    b->reached = idx;
    if (can_spread(b, next, idx)) {
      given[next] = true;
      return bind_spread(b, next, idx);
    }
    if (!bind_value(b, next, idx))
      return false;
    given[next] = true;
  }
  b->reached = idx;
  return true;
}

/* Binds all arguments; false: b->why says why they do not fit. */
static bool bind(binding *b, const tx_op *op) {
  bool given[MAX_ARGS] = { false };
  b->op = op;
  b->args = tx_op_args(op);
  b->nargs = tx_op_nargs(op);
  b->reached = 0;
  b->requires_grad = false;
  if (b->nargs > MAX_ARGS)
    return refuse(b, "%d arguments are more than this binding passes", b->nargs);
  if (!bind_positional(b, given) || (b->named && !bind_named(b, given)))
    return false;
  for (int i = 0; i < b->nargs; i++) {
    if (given[i])
      continue;
    if (!b->args[i].has_default)
      return refuse(b, "argument '%s' is missing (expected %s)", b->args[i].name, b->args[i].type);
    b->values[i].kind = TX_DEFAULT;
  }
  return true;
}

/* ---- the best message --------------------------------------------------------------------------------------- */

/* "aten::add.Tensor(Tensor self, ...) -> Tensor" as "add(Tensor self, ...) -> Tensor" */
static void add_schema(luaL_Buffer *buf, const tx_op *op) {
  const char *s = tx_op_schema(op), *open = strchr(s, '(');
  luaL_addstring(buf, "\n  ");
  luaL_addstring(buf, tx_op_name(op));
  luaL_addstring(buf, open ? open : "");
}

static noreturn void raise_no_form(binding *b) {
  lua_State *L = b->L;
  const family *f = b->f;
  char best[sizeof b->why] = "";
  int reached = -1, shown = 0;
  for (int i = 0; i < f->n; i++) {
    if (tx_op_has_out(f->ops[i]) && reached >= 0)
      continue;
    memset(b->pool, 0, sizeof(int) * 5);
    lua_settop(L, b->named ? b->named : b->top);
    if (!bind(b, f->ops[i]) && b->reached > reached) {
      reached = b->reached;
      memcpy(best, b->why, sizeof best);
    }
  }
  luaL_Buffer buf;
  luaL_buffinit(L, &buf);
  luaL_addstring(&buf, f->name);
  luaL_addstring(&buf, ": ");
  luaL_addstring(&buf, best);
  luaL_addstring(&buf, f->n > 1 ? ". Its forms:" : ". Its form:");
  for (int i = 0; i < f->n; i++)
    if (!tx_op_has_out(f->ops[i]) || shown == 0) {
      add_schema(&buf, f->ops[i]);
      shown++;
    }
  luaL_pushresult(&buf);
  lua_error(L);
  abort();
}

/* ---- results ------------------------------------------------------------------------------------------------ */

typedef struct results {
  int n;
  tx_value v[];
} results;

static void release_results(void *p) {
  results *r = p;
  for (int i = 0; i < r->n; i++)
    tx_value_free(&r->v[i]);
  mx_free(r);
}

/* Room for n results that the call owns, all None. */
static tx_value *result_slots(lua_State *L, int n) {
  results *r = mx_calloc(1, sizeof *r + (size_t)n * sizeof r->v[0]);
  if (!r)
    xl_error(L, "out of memory");
  r->n = n; /* zeroed: TX_NONE */
  xl_hold(L, r, release_results);
  return r->v;
}

/* Pushes one number, string or list; its memory stays owned by v. */
static void push_plain(lua_State *L, tx_value *v) {
  switch (v->kind) {
    case TX_INT: lua_pushinteger(L, v->i); break;
    case TX_DOUBLE: lua_pushnumber(L, v->d); break;
    case TX_BOOL: lua_pushboolean(L, v->b); break;
    case TX_STRING: lua_pushstring(L, v->s); break;
    case TX_INTS: xl_pushints(L, v->is, (int)v->n); break;
    case TX_DOUBLES:
    case TX_BOOLS:
      lua_createtable(L, (int)v->n, 0);
      for (int i = 0; i < v->n; i++) {
        if (v->kind == TX_DOUBLES)
          lua_pushnumber(L, v->ds[i]);
        else
          lua_pushboolean(L, v->bs[i]);
        lua_rawseti(L, -2, i + 1);
      }
      break;
    default: lua_pushnil(L);
  }
}

static void push_result(lua_State *L, tx_value *v) {
  luaL_checkstack(L, 4, "results");
  if (v->kind == TX_TENSOR)
    xl_pushheld(L, v->t);
  else if (v->kind == TX_TENSORS || v->kind == TX_OPT_TENSORS)
    xl_pushtensors(L, v->ts, (int)v->n);
  else
    push_plain(L, v);
}

static bool plain_kind(tx_kind k) {
  return k == TX_TENSOR || k == TX_INT || k == TX_DOUBLE || k == TX_BOOL || k == TX_SCALAR || k == TX_STRING
         || k == TX_DTYPE;
}

/* Lists among the results. */
static int call_with_lists(binding *b, int nresults) {
  lua_State *L = b->L;
  tx_value *r = result_slots(L, nresults);
  XL_TRY(L, b->f->name, tx_op_call(r, b->op, b->values, b->nargs));
  for (int i = 0; i < nresults; i++)
    push_result(L, &r[i]);
  return nresults;
}

/* The index of the Lua argument that is t, for operators that return what they wrote to; 0: none. */
static int argument_with(const binding *b, const tx_tensor *t) {
  for (int idx = 1; idx <= b->top; idx++) {
    xl_tensor *box = xl_testbox(b->L, idx);
    if (box && tx_tensor_same(box->t, t))
      return idx;
  }
  return 0;
}

/* Pushes the argument that is t, else a new box. */
static void push_written(binding *b, tx_tensor *t) {
  int idx = t ? argument_with(b, t) : 0;
  if (idx == 0)
    xl_pushheld(b->L, t);
  else
    lua_pushvalue(b->L, idx);
}

/* add_, out=: the results are arguments. */
static int call_in_place(binding *b, int nresults) {
  lua_State *L = b->L;
  tx_tensor *one, **t = nresults == 1 ? &one : xl_slots(L, nresults);
  tx_value r[FEW];
  luaL_checkstack(L, nresults + 4, "results");
  XL_TRY(L, b->f->name, tx_op_call(r, b->op, b->values, b->nargs));
  for (int i = 0; i < nresults; i++)
    t[i] = r[i].kind == TX_TENSOR ? r[i].t : NULL;
  if (nresults == 1)
    xl_own(L, one);
  for (int i = 0; i < nresults; i++)
    push_written(b, t[i]);
  return nresults;
}

/* Takes over t, also if it raises. */
static void set_requires_grad(lua_State *L, const char *name, tx_tensor *t) {
  const int status = tx_tensor_set_requires_grad(t, true);
  if (status != TX_OK)
    tx_tensor_free(t);
  xl_check(L, status, name);
}

static int call(binding *b) {
  lua_State *L = b->L;
  int n = tx_op_nresults(b->op), boxes = lua_gettop(L) + 1;
  bool plain = n <= FEW;
  for (int i = 0; i < n && plain; i++)
    plain = plain_kind(tx_op_result(b->op, i));
  if (!plain)
    return call_with_lists(b, n);
  bool tensors = n > 0;
  for (int i = 0; i < n; i++)
    tensors = tensors && tx_op_result(b->op, i) == TX_TENSOR;
  if (tensors && tx_op_writes(b->op))
    return call_in_place(b, n);
  luaL_checkstack(L, n + 4, "results");
  xl_tensor *box[FEW];
  tx_value r[FEW];
  for (int i = 0; i < n; i++) {
    if (tx_op_result(b->op, i) == TX_TENSOR) /* an empty box is left where the result is None */
      box[i] = xl_newtensor(L);
    else
      lua_pushnil(L);
  }
  XL_TRY(L, b->f->name, tx_op_call(r, b->op, b->values, b->nargs));
  if (b->requires_grad && n == 1 && r[0].kind == TX_TENSOR)
    set_requires_grad(L, b->f->name, r[0].t);
  for (int i = 0; i < n; i++) /* tensors first: a string may fail to be made */
    if (r[i].kind == TX_TENSOR)
      mx_assert(!box[i]->t), box[i]->t = r[i].t;
  for (int i = 0; i < n; i++)
    if (r[i].kind != TX_TENSOR) {
      push_plain(L, &r[i]);
      lua_replace(L, boxes + i);
    }
  xl_budget_check(L);
  return n;
}

/* ---- the closure -------------------------------------------------------------------------------------------- */

/* Whether the last argument is a table of named arguments. A table with both positions and names is an error. */
static bool has_names(lua_State *L, const family *f, int top) {
  if (top == 0 || lua_type(L, top) != LUA_TTABLE)
    return false;
  bool names = false, other = false;
  for (lua_pushnil(L); lua_next(L, top); lua_pop(L, 1)) {
    if (lua_type(L, -2) == LUA_TSTRING)
      names = true;
    else
      other = true;
    if (other && !names && lua_rawlen(L, top) > POOL) { /* a long list: bind_list looks at the rest */
      lua_pop(L, 2);
      break;
    }
  }
  if (names && other)
    xl_error(L, "%s: a table is either a list or named arguments, not both. Write %s({2, 3}, {dtype = \"float32\"}).",
             f->name, f->name);
  return names;
}

static int bind_and_call(lua_State *L) {
  const family *f = lua_touserdata(L, lua_upvalueindex(1));
  pool p;
  binding b;
  int top = lua_gettop(L);
  p.ints = p.doubles = p.bools = p.tensors = p.scalars = 0;
  b.L = L, b.f = f, b.pool = &p;
  b.named = has_names(L, f, top) ? top : 0;
  b.top = b.named ? top - 1 : top;
  luaL_checkstack(L, 8, f->name);
  for (int i = 0; i < f->n; i++) {
    if (bind(&b, f->ops[i]))
      return call(&b);
    lua_settop(L, top);
    p.ints = p.doubles = p.bools = p.tensors = p.scalars = 0;
  }
  raise_no_form(&b);
}

static int call_operator(lua_State *L) {
  xl_begin(L);
  const int n = bind_and_call(L);
  xl_end(L);
  return n;
}

/* ---- look-up ------------------------------------------------------------------------------------------------ */

static const char deny_key;

static bool documented(lua_State *L, const char *name) {
  if (name[0] == '_' || strstr(name, "_backward"))
    return false;
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, &deny_key) == LUA_TTABLE) {
    lua_getfield(L, -1, name);
    bool denied = lua_toboolean(L, -1);
    lua_pop(L, 2);
    return !denied;
  }
  lua_pop(L, 1);
  return true;
}

/* shown: the name in messages; NULL: the operator's own */
static void push_operator(lua_State *L, const char *name, bool method, bool raw, const char *shown) {
  const tx_op *ops[MAX_OVERLOADS];
  int n = tx_op_overloads(name, ops, MAX_OVERLOADS);
  if (n == 0) {
    lua_pushnil(L);
    return;
  }
  if (n > MAX_OVERLOADS)
    n = MAX_OVERLOADS;
  if (!raw && !documented(L, name))
    xl_error(
      L, "torch: '%s' is not a documented operator, or crashes on bad arguments. It can be reached as torch.raw%s%s%s.",
      name, name[0] == '_' ? "[\"" : ".", name, name[0] == '_' ? "\"]" : "");
  family *f = lua_newuserdatauv(L, sizeof *f + (size_t)n * sizeof f->ops[0], 0);
  f->name = tx_op_name(ops[0]);
  f->method = method;
  f->n = n;
  memcpy(f->ops, ops, (size_t)n * sizeof ops[0]);
  lua_pushstring(L, shown); /* the closure keeps it */
  if (shown)
    f->name = lua_tostring(L, -1);
  lua_pushcclosure(L, call_operator, 2);
}

void lt_pushop(lua_State *L, const char *name, bool method, bool raw) { push_operator(L, name, method, raw, NULL); }

tx_tensor *lt_call(lua_State *L, const char *name, const char *overload, const tx_value *args, int nargs) {
  const tx_op *op = tx_op_find(name, overload);
  if (!op || tx_op_nresults(op) != 1)
    xl_error(L, "%s: this libtorch has no operator %s.%s", name, name, overload);
  tx_value r;
  XL_TRY(L, name, tx_op_call(&r, op, args, nargs));
  return r.kind == TX_TENSOR ? xl_own(L, r.t) : NULL;
}

/* op(name, method, raw, shown) -> function, or nil where libtorch has no such operator; shown: its name in messages */
static int tensor_op(lua_State *L) {
  lua_settop(L, 4);
  const char *shown = luaL_optstring(L, 4, NULL);
  push_operator(L, luaL_checkstring(L, 1), lua_toboolean(L, 2), lua_toboolean(L, 3), shown);
  return 1;
}

/* deny(set): names that only torch.raw reaches */
static int tensor_deny(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_settop(L, 1);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &deny_key);
  return 0;
}

/* op_names() -> sorted list of every operator's name */
static int tensor_op_names(lua_State *L) {
  int n = tx_op_names(NULL, 0);
  const char **names = lua_newuserdatauv(L, ((size_t)n + 1) * sizeof *names, 0);
  tx_op_names(names, n);
  lua_createtable(L, n, 0);
  for (int i = 0; i < n; i++) {
    lua_pushstring(L, names[i]);
    lua_rawseti(L, -2, i + 1);
  }
  return 1;
}

/* op_schemas(name) -> list of schemas, in the order in which they are tried */
static int tensor_op_schemas(lua_State *L) {
  const tx_op *ops[MAX_OVERLOADS];
  int n = tx_op_overloads(luaL_checkstring(L, 1), ops, MAX_OVERLOADS);
  lua_createtable(L, n, 0);
  for (int i = 0; i < n && i < MAX_OVERLOADS; i++) {
    lua_pushstring(L, tx_op_schema(ops[i]));
    lua_rawseti(L, -2, i + 1);
  }
  return 1;
}

void lt_open_ops(lua_State *L) {
  static const luaL_Reg functions[] = {
    { "op", tensor_op },
    { "deny", tensor_deny },
    { "op_names", tensor_op_names },
    { "op_schemas", tensor_op_schemas },
    { NULL, NULL },
  };
  xl_setfuncs(L, functions);
}
