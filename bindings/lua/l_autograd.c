/* l_autograd.c: core.autograd: backward, gradients, the modes in which a function runs, torch's own random generators.
 * A mode is put back when the function returns or fails, by a to-be-closed value instead of pcall, so that an error
 * keeps its line. A backward pass that ran out of memory is not tried again: part of its graph is already freed. */
#include <stdio.h>
#include <string.h>
#include "xl.h"

/* ---- options ------------------------------------------------------------------------------------------------ */

typedef struct flag {
  const char *name;
  bool *to;
} flag;

/* Reads booleans from the option table at idx; an unknown key is an error. skip: a further known key, which the caller
 * reads itself. */
static void read_flags(lua_State *L, int idx, const char *what, const flag *flags, int n, const char *skip) {
  if (lua_isnoneornil(L, idx))
    return;
  if (!lua_istable(L, idx))
    xl_error(L, "%s: expected a table of options, got %s", what, luaL_typename(L, idx));
  for (lua_pushnil(L); lua_next(L, idx); lua_pop(L, 1)) {
    const char *key = lua_type(L, -2) == LUA_TSTRING ? lua_tostring(L, -2) : "";
    int i = 0;
    while (i < n && strcmp(flags[i].name, key) != 0)
      i++;
    if (i < n) {
      if (!lua_isboolean(L, -1))
        xl_error(L, "%s: option '%s' is true or false, got %s", what, key, luaL_typename(L, -1));
      *flags[i].to = lua_toboolean(L, -1);
    } else if (!skip || strcmp(skip, key) != 0) {
      xl_error(L, "%s: unknown option '%s' (retain_graph, create_graph%s%s)", what, luaL_tolstring(L, -2, NULL),
               n > 2 ? ", allow_unused" : "", skip ? ", grad_outputs" : "");
    }
  }
}

/* ---- backward ----------------------------------------------------------------------------------------------- */

/* A tensor or a list of them at idx; held. */
static tx_tensor **one_or_list(lua_State *L, int idx, int *n, const char *what) {
  if (xl_testbox(L, idx)) {
    tx_tensor **one = xl_slots(L, 1);
    *one = tx_tensor_ref(xl_totensor(L, idx));
    *n = 1;
    return one;
  }
  if (!lua_istable(L, idx))
    xl_error(L, "%s: expected a tensor or a list of tensors, got %s", what, luaL_typename(L, idx));
  tx_tensor **v = xl_totensors(L, idx, n, what);
  if (*n == 0)
    xl_error(L, "%s: expected at least one tensor, got an empty list", what);
  return v;
}

/* Outputs must require grad, and have one element where no gradient is given. */
static void check_outputs(lua_State *L, const char *what, tx_tensor **out, int n, tx_tensor **grads, int ngrads) {
  if (grads && ngrads != n)
    xl_error(L, "%s: %d gradients for %d outputs. Give one each (torch.none for 1).", what, ngrads, n);
  for (int i = 0; i < n; i++) {
    if (!out[i])
      xl_error(L, "%s: output %d is none", what, i + 1);
    if (!tx_tensor_requires_grad(out[i]))
      xl_error(L, "%s: output %d does not require grad: it was made under no_grad or from tensors that do not.", what,
               i + 1);
    if (tx_tensor_numel(out[i]) != 1 && !(grads && grads[i])) {
      char shape[128];
      tx_tensor_shape_text(out[i], shape);
      xl_error(L, "%s: output %d has shape %s, not one number. Give its gradient, or reduce it first (sum, mean).",
               what, i + 1, shape);
    }
  }
}

static void check_pass(lua_State *L, int status, const char *what) {
  if (status == TX_ERROR && strstr(tx_error(), "second time"))
    xl_error(L, "%s: the graph was freed by an earlier pass. Give { retain_graph = true } to that one.", what);
  xl_check(L, status, what);
}

/*- backward(outputs, gradients, { retain_graph, create_graph }): adds to .grad of the leaves. Outputs of one element
 * need no gradients. */
static int autograd_backward(lua_State *L) {
  bool retain = false, create = false;
  lua_settop(L, 3);
  if (lua_isnil(L, 3) && lua_istable(L, 2) && lua_rawlen(L, 2) == 0)
    lua_insert(L, 2); /* t:backward { retain_graph = true } */
  const flag flags[] = { { "retain_graph", &retain }, { "create_graph", &create } };
  read_flags(L, 3, "backward", flags, 2, NULL);
  int n, ngrads = 0;
  tx_tensor **out = one_or_list(L, 1, &n, "backward");
  tx_tensor **grads = lua_isnil(L, 2) ? NULL : one_or_list(L, 2, &ngrads, "backward");
  check_outputs(L, "backward", out, n, grads, ngrads);
  xl_budget_before_backward(L);
  check_pass(L, tx_backward(out, grads, n, retain || create, create), "backward");
  return 0;
}

/*- grad(outputs, inputs, { grad_outputs, retain_graph, create_graph, allow_unused }): list of the inputs' gradients;
 * .grad stays as it is. */
static int autograd_grad(lua_State *L) {
  bool retain = false, create = false, unused = false;
  lua_settop(L, 3);
  const flag flags[] = { { "retain_graph", &retain }, { "create_graph", &create }, { "allow_unused", &unused } };
  read_flags(L, 3, "grad", flags, 3, "grad_outputs");
  lua_pushnil(L);
  if (lua_istable(L, 3)) {
    lua_getfield(L, 3, "grad_outputs");
    lua_replace(L, 4);
  }
  int nout, nin, ngrads = 0;
  tx_tensor **out = one_or_list(L, 1, &nout, "grad");
  tx_tensor **in = one_or_list(L, 2, &nin, "grad");
  tx_tensor **grads = lua_isnil(L, 4) ? NULL : one_or_list(L, 4, &ngrads, "grad");
  check_outputs(L, "grad", out, nout, grads, ngrads);
  for (int i = 0; i < nin; i++) {
    if (!in[i])
      xl_error(L, "grad: input %d is none", i + 1);
    if (!tx_tensor_requires_grad(in[i]))
      xl_error(L, "grad: input %d does not require grad. Call requires_grad_() on it before the outputs are made.",
               i + 1);
  }
  xl_budget_before_backward(L);
  tx_tensor **found = xl_slots(L, nin);
  check_pass(L, tx_autograd_grad(found, out, grads, nout, in, nin, retain || create, create, true), "grad");
  for (int i = 0; i < nin && !unused; i++)
    if (!found[i])
      xl_error(L, "grad: input %d has no part in the outputs. Give allow_unused = true to get torch.none for it.",
               i + 1);
  xl_pushtensors(L, found, nin);
  return 1;
}

/*- guided_relu(x, limit): max(x, 0), clamped to limit if one is given. Backward, only positive gradients pass. */
static int autograd_guided_relu(lua_State *L) {
  const double limit = luaL_optnumber(L, 2, 0);
  lua_settop(L, 1);
  tx_tensor *x = xl_totensor(L, 1), **out = xl_slots(L, 1);
  XL_TRY(L, "guided_relu", tx_guided_relu(out, x, limit));
  xl_pushheld(L, *out);
  return 1;
}

/* ---- modes -------------------------------------------------------------------------------------------------- */

#define XL_MODE "medxai.mode"

typedef struct mode { /* what __close puts back */
  bool grad;            /* grad mode, unless device is set */
  const char *device;   /* autocast: "cpu" or "cuda" */
  const char *dtype;    /* as it was; NULL: off */
} mode;

static int mode_close(lua_State *L) {
  const mode *m = luaL_checkudata(L, 1, XL_MODE);
  if (!m->device) {
    tx_grad_mode(m->grad);
    return 0;
  }
  tx_autocast(m->device, m->dtype);
  if (!m->dtype) /* the outermost autocast ends: cached casts of parameters would be stale after an update */
    tx_autocast_clear_cache();
  return 0;
}

/* Stores the mode to restore at the bottom of the stack: Lua restores it when the calling C function ends. */
static void keep_mode(lua_State *L, mode now) {
  mode *m = lua_newuserdatauv(L, sizeof *m, 0);
  *m = now;
  luaL_setmetatable(L, XL_MODE);
  lua_insert(L, 1);
  lua_toclose(L, 1);
}

static void check_function(lua_State *L, int idx, const char *what) {
  if (lua_isfunction(L, idx))
    return;
  if (!luaL_getmetafield(L, idx, "__call"))
    xl_error(L, "%s: expected a function to run, got %s. Call it as %s(function() ... end).", what,
             luaL_typename(L, idx), what);
  lua_pop(L, 1);
}

static int call_in_grad_mode(lua_State *L, bool on, const char *what) {
  check_function(L, 1, what);
  keep_mode(L, (mode){ .grad = tx_grad_mode_get() });
  tx_grad_mode(on);
  lua_call(L, lua_gettop(L) - 2, LUA_MULTRET);
  return lua_gettop(L) - 1;
}

/*- no_grad(f, ...): f's results; nothing in it is recorded for backward. */
static int autograd_no_grad(lua_State *L) { return call_in_grad_mode(L, false, "no_grad"); }

/*- enable_grad(f, ...): f's results; recorded again, inside no_grad too. */
static int autograd_enable_grad(lua_State *L) { return call_in_grad_mode(L, true, "enable_grad"); }

static int autograd_is_grad_enabled(lua_State *L) {
  lua_pushboolean(L, tx_grad_mode_get());
  return 1;
}

/* The string option `name` of the table at 1: `first` or `second`. Default: `first`. */
static const char *option_of(lua_State *L, const char *name, const char *first, const char *second, bool *given) {
  lua_getfield(L, 1, name);
  *given = !lua_isnil(L, -1);
  const char *v = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : *given ? "" : first;
  const char *found = strcmp(v, first) == 0 ? first : strcmp(v, second) == 0 ? second : NULL;
  if (!found)
    xl_error(L, "autocast: %s is '%s' or '%s', got %s", name, first, second, luaL_tolstring(L, -1, NULL));
  lua_pop(L, 1);
  return found;
}

/*- autocast({ device = "cpu"|"cuda", dtype = "bfloat16"|"float16" }, f, ...): f's results; matrix products and
 * convolutions run in that dtype. */
static int autograd_autocast(lua_State *L) {
  if (!lua_istable(L, 1))
    xl_error(
      L, "autocast: expected options first, got %s. Call it as autocast({ dtype = \"bfloat16\" }, function() ... end).",
      luaL_typename(L, 1));
  for (lua_pushnil(L); lua_next(L, 1); lua_pop(L, 1)) {
    lua_pushvalue(L, -2);
    const char *key = luaL_tolstring(L, -1, NULL);
    if (strcmp(key, "device") != 0 && strcmp(key, "dtype") != 0)
      xl_error(L, "autocast: unknown option '%s' (device, dtype)", key);
    lua_pop(L, 2);
  }
  bool given;
  const char *device = option_of(L, "device", "cpu", "cuda", &given);
  const char *dtype = option_of(L, "dtype", "bfloat16", "float16", &given);
  if (!given && strcmp(device, "cuda") == 0)
    dtype = "float16"; /* PyTorch's default there */
  check_function(L, 2, "autocast");
  lua_remove(L, 1);
  keep_mode(L, (mode){ .device = device, .dtype = tx_autocast_get(device) });
  xl_check(L, tx_autocast(device, dtype), "autocast");
  lua_call(L, lua_gettop(L) - 2, LUA_MULTRET);
  return lua_gettop(L) - 1;
}

/* ---- torch's own random numbers ----------------------------------------------------------------------------- */

#define XL_GENERATOR "medxai.generator"

typedef struct generator_box { /* l_tensor_ops.c reads it */
  tx_generator *g;
} generator_box;

static void destroy_generator(void *b) { tx_generator_free(((generator_box *)b)->g); }

static int generator_gc(lua_State *L) {
  xl_closeobject(L, 1, XL_GENERATOR);
  return 0;
}

static generator_box *push_generator(lua_State *L) {
  return xl_newobject(L, XL_GENERATOR, sizeof(generator_box), destroy_generator);
}

static tx_generator *to_generator(lua_State *L, int idx) {
  return ((generator_box *)xl_toobject(L, idx, XL_GENERATOR, "generator is closed"))->g;
}

static int push_state(lua_State *L, const tx_generator *g) {
  tx_tensor **state = xl_slots(L, 1);
  xl_check(L, tx_generator_get_state(state, g), "get_state");
  xl_pushheld(L, *state);
  return 1;
}

static void take_state(lua_State *L, tx_generator *g, int idx) {
  tx_tensor *state = xl_totensor(L, idx);
  if (strcmp(tx_tensor_dtype(state), "uint8") != 0)
    xl_error(L, "set_state: expected the uint8 tensor of get_state, got %s", tx_tensor_dtype(state));
  xl_check(L, tx_generator_set_state(g, state), "set_state");
}

static int generator_get_state(lua_State *L) {
  tx_generator *g = to_generator(L, 1);
  lua_settop(L, 1);
  return push_state(L, g);
}

static int generator_set_state(lua_State *L) {
  take_state(L, to_generator(L, 1), 2);
  return 0;
}

/*- generator { device = "cpu", seed = 0 }: a new generator, for the `generator` argument of operators. */
static int autograd_generator(lua_State *L) {
  char device[32] = "cpu";
  int64_t seed = 0;
  if (lua_istable(L, 1)) {
    for (lua_pushnil(L); lua_next(L, 1); lua_pop(L, 1)) {
      lua_pushvalue(L, -2);
      const char *key = luaL_tolstring(L, -1, NULL);
      if (strcmp(key, "seed") == 0)
        seed = xl_toint(L, -3, "generator: seed");
      else if (strcmp(key, "device") == 0 && lua_isstring(L, -3))
        snprintf(device, sizeof device, "%s", lua_tostring(L, -3));
      else
        xl_error(L, "generator: unknown option '%s' (device = \"cpu\", seed = 0)", key);
      lua_pop(L, 2);
    }
  }
  generator_box *b = push_generator(L);
  xl_check(L, tx_generator_new(&b->g, device, seed), "generator");
  return 1;
}

/*- manual_seed(n): of all of torch's default generators. */
static int autograd_manual_seed(lua_State *L) {
  xl_check(L, tx_manual_seed(xl_toint(L, 1, "manual_seed")), "manual_seed");
  return 0;
}

/* Pushes torch's default generator of the device named at idx ("cpu" where absent). */
static tx_generator *push_default(lua_State *L, int idx) {
  const char *device = luaL_optstring(L, idx, "cpu");
  generator_box *b = push_generator(L);
  xl_check(L, tx_generator_default(&b->g, device), "rng_state");
  return b->g;
}

/*- get_rng_state([device]): uint8 tensor. */
static int autograd_get_rng_state(lua_State *L) {
  lua_settop(L, 1);
  return push_state(L, push_default(L, 1));
}

/*- set_rng_state(state, [device]) */
static int autograd_set_rng_state(lua_State *L) {
  lua_settop(L, 2);
  take_state(L, push_default(L, 2), 1);
  return 0;
}

/*- profile(true): backward passes are timed from now on. profile(false) -> what ran since: a list of
 * { operator, number, seconds }, number nil for a sum into a parameter's gradient. */
static int autograd_profile(lua_State *L) {
  luaL_checktype(L, 1, LUA_TBOOLEAN);
  tx_profile(lua_toboolean(L, 1));
  if (lua_toboolean(L, 1)) return 0;
  int n = tx_profile_count();
  lua_createtable(L, n, 0);
  for (int i = 0; i < n; i++) {
    uint64_t sequence;
    double seconds;
    const char *name;
    tx_profile_get(i, &sequence, &seconds, &name);
    lua_createtable(L, 0, 3);
    lua_pushstring(L, name);
    lua_setfield(L, -2, "operator");
    lua_pushnumber(L, seconds);
    lua_setfield(L, -2, "seconds");
    if (sequence != UINT64_MAX) lua_pushinteger(L, (lua_Integer)sequence), lua_setfield(L, -2, "number");
    lua_rawseti(L, -2, i + 1);
  }
  return 1;
}

/* ---- module ------------------------------------------------------------------------------------------------- */

static const luaL_Reg functions[] = {
  { "autocast", autograd_autocast },
  { "backward", autograd_backward },
  { "enable_grad", autograd_enable_grad },
  { "generator", autograd_generator },
  { "get_rng_state", autograd_get_rng_state },
  { "grad", autograd_grad },
  { "guided_relu", autograd_guided_relu },
  { "is_grad_enabled", autograd_is_grad_enabled },
  { "manual_seed", autograd_manual_seed },
  { "no_grad", autograd_no_grad },
  { "profile", autograd_profile },
  { "set_rng_state", autograd_set_rng_state },
  { NULL, NULL },
};
static const luaL_Reg generator_methods[] = {
  { "get_state", generator_get_state }, { "set_state", generator_set_state }, { NULL, NULL },
};

int luaopen_core_autograd(lua_State *L) {
  luaL_newmetatable(L, XL_MODE);
  lua_pushcfunction(L, mode_close);
  lua_setfield(L, -2, "__close");
  lua_pop(L, 1);
  xl_newtype(L, XL_GENERATOR, generator_methods, generator_gc);
  xl_newlib(L, functions);
  return 1;
}
