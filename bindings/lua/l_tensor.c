/* l_tensor.c: core.tensor: the tensor's fields, its methods, Lua's operators on it.
 * A name that is not a field is looked up as a method, then as an operator of libtorch, which becomes a method. `<` and
 * `<=` raise an error, since Lua turns their result into one boolean; `==` compares identity. */
#include <stdlib.h>
#include <string.h>
#include "l_tensor.h"

/* ---- fields ------------------------------------------------------------------------------------------------- */

/* A shape is a plain list that prints as "{2, 3}" and compares by its numbers. */
static int shape_tostring(lua_State *L) {
  luaL_Buffer b;
  lua_Integer n = (lua_Integer)lua_rawlen(L, 1);
  luaL_buffinit(L, &b);
  luaL_addchar(&b, '{');
  for (lua_Integer i = 1; i <= n; i++) {
    if (i > 1)
      luaL_addstring(&b, ", ");
    lua_rawgeti(L, 1, i);
    luaL_tolstring(L, -1, NULL);
    lua_remove(L, -2);
    luaL_addvalue(&b);
  }
  luaL_addchar(&b, '}');
  luaL_pushresult(&b);
  return 1;
}

static int shape_eq(lua_State *L) {
  lua_Integer n = (lua_Integer)lua_rawlen(L, 1);
  bool same = n == (lua_Integer)lua_rawlen(L, 2);
  for (lua_Integer i = 1; same && i <= n; i++) {
    lua_rawgeti(L, 1, i);
    lua_rawgeti(L, 2, i);
    same = lua_compare(L, -1, -2, LUA_OPEQ);
    lua_pop(L, 2);
  }
  lua_pushboolean(L, same);
  return 1;
}

static void set_shape_metatable(lua_State *L) {
  if (luaL_newmetatable(L, "medxai.shape")) {
    lua_pushcfunction(L, shape_tostring);
    lua_setfield(L, -2, "__tostring");
    lua_pushcfunction(L, shape_eq);
    lua_setfield(L, -2, "__eq");
  }
  lua_setmetatable(L, -2);
}

static void push_shape(lua_State *L, const tx_tensor *t) {
  int64_t sizes[TX_MAX_DIMS];
  int dim = tx_tensor_dim(t);
  tx_tensor_sizes(t, sizes);
  xl_pushints(L, sizes, dim);
  set_shape_metatable(L);
}

static void push_grad(lua_State *L, const tx_tensor *t) {
  tx_tensor **g = xl_slots(L, 1);
  xl_check(L, tx_tensor_grad(g, t), "grad");
  xl_pushheld(L, *g);
}

/* Pushes the field and returns true, or pushes nothing and returns false. */
static bool push_field(lua_State *L, const tx_tensor *t, const char *name) {
  char device[16];
  if (strcmp(name, "shape") == 0)
    push_shape(L, t);
  else if (strcmp(name, "dtype") == 0)
    lua_pushstring(L, tx_tensor_dtype(t));
  else if (strcmp(name, "device") == 0)
    tx_tensor_device(t, device), lua_pushstring(L, device);
  else if (strcmp(name, "layout") == 0)
    lua_pushstring(L, tx_tensor_layout(t));
  else if (strcmp(name, "grad") == 0)
    push_grad(L, t);
  else if (strcmp(name, "requires_grad") == 0)
    lua_pushboolean(L, tx_tensor_requires_grad(t));
  else if (strcmp(name, "is_leaf") == 0)
    lua_pushboolean(L, tx_tensor_is_leaf(t));
  else if (strcmp(name, "grad_fn") == 0)
    lua_pushstring(L, tx_tensor_grad_fn(t));
  else
    return false;
  return true;
}

static void set_field(lua_State *L, tx_tensor *t, const char *name) {
  if (strcmp(name, "grad") == 0) {
    xl_check(L, tx_tensor_set_grad(t, xl_opttensor(L, 3)), "tensor");
  } else if (strcmp(name, "requires_grad") == 0) {
    if (!lua_isboolean(L, 3))
      xl_error(L, "tensor: requires_grad (expected true or false, got %s)", luaL_typename(L, 3));
    xl_check(L, tx_tensor_set_requires_grad(t, lua_toboolean(L, 3)), "tensor");
  } else if (push_field(L, t, name)) {
    xl_error(L, "tensor: field '%s' cannot be set. Use t:to{...} or t:reshape(...), which give a new tensor.", name);
  } else {
    xl_error(L, "tensor: no field '%s' (grad and requires_grad can be set)", name);
  }
}

/* ---- __index, __newindex ------------------------------------------------------------------------------------ */

enum { METHODS = 1 }; /* upvalue */

/* scripts/medxai/torch.lua adds methods and the deny list. A tensor may be used before anything has required it. */
static void load_torch_lua(lua_State *L) {
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
  lua_getfield(L, -1, "medxai.torch");
  bool loaded = !lua_isnil(L, -1);
  lua_pop(L, 2);
  if (loaded)
    return;
  lua_pushglobaltable(L);
  lua_pushliteral(L, "require");
  lua_rawget(L, -2);
  lua_remove(L, -2);
  lua_pushliteral(L, "medxai.torch");
  if (lua_pcall(L, 1, 0, 0) != LUA_OK)
    lua_pop(L, 1); /* without torch.lua a tensor still has its operators */
}

static int no_such_name(lua_State *L, const char *name) {
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
  lua_getfield(L, -1, "medxai.torch");
  if (lua_istable(L, -1)) {
    lua_pushliteral(L, "_unknown");
    if (lua_rawget(L, -2) == LUA_TFUNCTION) { /* raises an error that suggests the nearest name */
      lua_pushliteral(L, "tensor");
      lua_pushstring(L, name);
      lua_call(L, 2, 0);
    }
  }
  xl_error(L, "tensor: no field, method or operator '%s'", name);
}

static int tensor_index(lua_State *L) {
  if (lua_type(L, 2) != LUA_TSTRING) {
    xl_begin(L);
    lt_index(L);
    xl_end(L);
    return 1;
  }
  lua_pushvalue(L, 2);
  if (lua_rawget(L, lua_upvalueindex(METHODS)) != LUA_TNIL)
    return 1;
  const char *name = lua_tostring(L, 2);
  xl_begin(L);
  const bool is_field = push_field(L, xl_totensor(L, 1), name);
  xl_end(L);
  if (is_field)
    return 1;
  load_torch_lua(L);
  lua_pushvalue(L, 2);
  if (lua_rawget(L, lua_upvalueindex(METHODS)) != LUA_TNIL)
    return 1;
  lt_pushop(L, name, true, false);
  if (lua_isnil(L, -1))
    return no_such_name(L, name);
  lua_pushvalue(L, 2);
  lua_pushvalue(L, -2);
  lua_rawset(L, lua_upvalueindex(METHODS));
  return 1;
}

static int tensor_newindex(lua_State *L) {
  if (lua_type(L, 2) != LUA_TSTRING)
    lt_newindex(L);
  else
    set_field(L, xl_totensor(L, 1), lua_tostring(L, 2));
  return 0;
}

/* ---- Lua's operators ---------------------------------------------------------------------------------------- */

/* Calls the operator in upvalue 1; if the first operand is a number, the one in upvalue 2. */
static int arithmetic(lua_State *L) {
  bool number_first = !xl_testbox(L, 1);
  lua_settop(L, 2);
  lua_pushvalue(L, lua_upvalueindex(number_first ? 2 : 1));
  bool swap = number_first && lua_toboolean(L, lua_upvalueindex(3));
  lua_pushvalue(L, swap ? 2 : 1);
  lua_pushvalue(L, swap ? 1 : 2);
  lua_call(L, 2, 1);
  return 1;
}

static int unary(lua_State *L) {
  lua_pushvalue(L, lua_upvalueindex(1));
  lua_pushvalue(L, 1);
  lua_call(L, 1, 1);
  return 1;
}

/* number / tensor and number // tensor, which have no operator of their own. */
static int divide_number(lua_State *L) {
  tx_value number;
  if (!lt_scalar(L, 1, &number))
    xl_error(L, "div: argument 'self' (expected a number or a tensor, got %s)", luaL_typename(L, 1));
  xl_begin(L);
  tx_tensor *t = xl_totensor(L, 2), *first;
  if (lua_toboolean(L, lua_upvalueindex(1))) { /* floor_divide takes no number as its first argument */
    first = lt_call(L, "full_like", "", (tx_value[]){ lt_tensor(t), number }, 2);
    t = lt_call(L, "floor_divide", "", (tx_value[]){ lt_tensor(first), lt_tensor(t) }, 2);
  } else {
    first = lt_call(L, "reciprocal", "", (tx_value[]){ lt_tensor(t) }, 1);
    t = lt_call(L, "mul", "Scalar", (tx_value[]){ lt_tensor(first), number }, 2);
  }
  xl_pushheld(L, t);
  xl_end(L);
  return 1;
}

static int no_order(lua_State *L) {
  xl_error(L, "tensor: '%s' gives one boolean in Lua, not a tensor. Use a:%s(b).", lua_tostring(L, lua_upvalueindex(1)),
           lua_tostring(L, lua_upvalueindex(2)));
}

static int tensor_len(lua_State *L) {
  int64_t sizes[TX_MAX_DIMS];
  tx_tensor *t = xl_totensor(L, 1);
  if (tx_tensor_dim(t) == 0)
    xl_error(L, "tensor: a tensor without dimensions has no length");
  tx_tensor_sizes(t, sizes);
  lua_pushinteger(L, sizes[0]);
  return 1;
}

static int no_pairs(lua_State *L) {
  xl_error(L, "tensor: pairs does not iterate over a tensor. Use for i = 0, #t - 1 do ... t[i] ... end.");
}

static void set_binary(lua_State *L, const char *event, const char *op, const char *number_first, bool swap) {
  lt_pushop(L, op, false, true);
  if (strcmp(number_first, "/") == 0 || strcmp(number_first, "//") == 0) {
    lua_pushboolean(L, number_first[1] == '/');
    lua_pushcclosure(L, divide_number, 1);
  } else {
    lt_pushop(L, number_first, false, true);
  }
  lua_pushboolean(L, swap);
  lua_pushcclosure(L, arithmetic, 3);
  lua_setfield(L, -2, event);
}

static void set_unary(lua_State *L, const char *event, const char *op) {
  lt_pushop(L, op, false, true);
  lua_pushcclosure(L, unary, 1);
  lua_setfield(L, -2, event);
}

static void set_no_order(lua_State *L, const char *event, const char *sign, const char *op) {
  lua_pushstring(L, sign);
  lua_pushstring(L, op);
  lua_pushcclosure(L, no_order, 2);
  lua_setfield(L, -2, event);
}

static void set_operators(lua_State *L) {
  set_binary(L, "__add", "add", "add", true);
  set_binary(L, "__sub", "sub", "rsub", true);
  set_binary(L, "__mul", "mul", "mul", true);
  set_binary(L, "__div", "div", "/", false);
  set_binary(L, "__idiv", "floor_divide", "//", false);
  set_binary(L, "__mod", "remainder", "remainder", false);
  set_binary(L, "__pow", "pow", "pow", false);
  set_binary(L, "__band", "bitwise_and", "bitwise_and", true);
  set_binary(L, "__bor", "bitwise_or", "bitwise_or", true);
  set_binary(L, "__bxor", "bitwise_xor", "bitwise_xor", true);
  set_binary(L, "__shl", "bitwise_left_shift", "bitwise_left_shift", false);
  set_binary(L, "__shr", "bitwise_right_shift", "bitwise_right_shift", false);
  set_unary(L, "__unm", "neg");
  set_unary(L, "__bnot", "bitwise_not");
  set_no_order(L, "__lt", "<", "lt");
  set_no_order(L, "__le", "<=", "le");
}

/* ---- methods that are no operators -------------------------------------------------------------------------- */

static int tensor_close(lua_State *L) {
  xl_tensor *box = xl_testbox(L, 1);
  if (!box)
    xl_error(L, "close: expected a tensor, got %s", luaL_typename(L, 1));
  xl_closebox(box);
  return 0;
}

static int tensor_is_closed(lua_State *L) {
  lua_pushboolean(L, ((xl_tensor *)luaL_checkudata(L, 1, XL_TENSOR))->t == NULL);
  return 1;
}

/* t:size() -> list; t:size(d) -> integer, d from the end when negative */
static int tensor_size(lua_State *L) {
  int64_t sizes[TX_MAX_DIMS];
  tx_tensor *t = xl_totensor(L, 1);
  int dim = tx_tensor_dim(t);
  tx_tensor_sizes(t, sizes);
  if (lua_isnoneornil(L, 2)) {
    push_shape(L, t);
    return 1;
  }
  int64_t d = xl_toint(L, 2, "size");
  if (d < -dim || d >= dim)
    xl_error(L, "size: dimension %lld is out of range (the tensor has %d)", (long long)d, dim);
  lua_pushinteger(L, sizes[d < 0 ? d + dim : d]);
  return 1;
}

static int tensor_dim(lua_State *L) {
  lua_pushinteger(L, tx_tensor_dim(xl_totensor(L, 1)));
  return 1;
}

static int tensor_numel(lua_State *L) {
  lua_pushinteger(L, tx_tensor_numel(xl_totensor(L, 1)));
  return 1;
}

static int tensor_element_size(lua_State *L) {
  lua_pushinteger(L, tx_tensor_itemsize(xl_totensor(L, 1)));
  return 1;
}

static int tensor_version(lua_State *L) {
  lua_pushinteger(L, (lua_Integer)tx_tensor_version(xl_totensor(L, 1)));
  return 1;
}

static int tensor_is_same(lua_State *L) {
  lua_pushboolean(L, tx_tensor_same(xl_totensor(L, 1), xl_totensor(L, 2)));
  return 1;
}

/* t:requires_grad_([on = true]) -> t */
static int tensor_requires_grad_(lua_State *L) {
  bool on = lua_isnoneornil(L, 2) || lua_toboolean(L, 2);
  xl_check(L, tx_tensor_set_requires_grad(xl_totensor(L, 1), on), "requires_grad_");
  lua_settop(L, 1);
  return 1;
}

/* is_tensor(v) */
static int tensor_is_tensor(lua_State *L) {
  lua_pushboolean(L, xl_testbox(L, 1) != NULL);
  return 1;
}

/* to_(t, device or nil, dtype or nil, memory format or nil, copy): what torch.lua's t:to(...) ends in */
static int tensor_to(lua_State *L) {
  lua_settop(L, 5);
  const char *device = luaL_optstring(L, 2, NULL), *dtype = luaL_optstring(L, 3, NULL),
             *format = luaL_optstring(L, 4, NULL);
  tx_tensor *t = xl_totensor(L, 1), **out = xl_slots(L, 1);
  bool channels_last = format && strcmp(format, "channels_last") == 0;
  if (format && !channels_last && strcmp(format, "preserve") != 0 && strcmp(format, "contiguous") != 0)
    xl_error(L, "to: unknown memory format '%s' (one of contiguous preserve channels_last)", format);
  if (channels_last && tx_tensor_dim(t) != 4)
    xl_error(L, "to: channels_last is for tensors of 4 dimensions (this one has %d)", tx_tensor_dim(t));
  XL_TRY(L, "to", tx_tensor_to(out, t, device, dtype, channels_last, lua_toboolean(L, 5)));
  if (format && strcmp(format, "contiguous") == 0)
    xl_pushheld(L, lt_call(L, "contiguous", "", (tx_value[]){ lt_tensor(*out) }, 1));
  else
    xl_pushheld(L, *out);
  return 1;
}

static int tensor_version_of_torch(lua_State *L) {
  lua_pushstring(L, tx_version());
  return 1;
}

static int tensor_error_full(lua_State *L) {
  lua_pushstring(L, tx_error_full());
  return 1;
}

/* name_fits("dtype" | "device" | "memory_format" | "layout", s) */
static int tensor_name_fits(lua_State *L) {
  static const char *const kinds[] = { "dtype", "device", "memory_format", "layout", NULL };
  static const tx_kind values[] = { TX_DTYPE, TX_DEVICE, TX_MEMORY_FORMAT, TX_LAYOUT };
  tx_kind kind = values[luaL_checkoption(L, 1, NULL, kinds)];
  lua_pushboolean(L, lua_type(L, 2) == LUA_TSTRING && tx_name_fits(kind, lua_tostring(L, 2)));
  return 1;
}

/* ---- opening ------------------------------------------------------------------------------------------------ */

static const luaL_Reg methods[] = {
  { "close", tensor_close },
  { "is_closed", tensor_is_closed },
  { "size", tensor_size },
  { "dim", tensor_dim },
  { "numel", tensor_numel },
  { "element_size", tensor_element_size },
  { "is_same", tensor_is_same },
  { "requires_grad_", tensor_requires_grad_ },
  { "version", tensor_version },
  { "tolist", lt_tolist },
  { "item", lt_item },
  { "data_string", lt_data_string },
  { NULL, NULL },
};

static void make_metatable(lua_State *L) {
  luaL_newmetatable(L, XL_TENSOR);
  xl_newlib(L, methods);
  lua_pushvalue(L, -1);
  lua_pushcclosure(L, tensor_index, 1);
  lua_setfield(L, -3, "__index");
  lua_setfield(L, -2, "__methods"); /* for torch.lua, which adds to them */
  static const luaL_Reg meta[] = {
    { "__newindex", tensor_newindex }, { "__len", tensor_len },     { "__close", tensor_close },
    { "__tostring", lt_tostring },     { "__pairs", no_pairs },     { NULL, NULL },
  };
  xl_setfuncs(L, meta);
  lua_pushcfunction(L, tensor_close); /* not by xl_setfuncs: it is called most often and holds nothing */
  lua_setfield(L, -2, "__gc");
  set_operators(L);
}

int luaopen_core_tensor(lua_State *L) {
  static const luaL_Reg functions[] = {
    { "is_tensor", tensor_is_tensor },
    { "to", tensor_to },
    { "torch_version", tensor_version_of_torch },
    { "error_full", tensor_error_full },
    { "name_fits", tensor_name_fits },
    { NULL, NULL },
  };
  make_metatable(L);
  xl_newlib(L, functions);
  lua_getfield(L, -2, "__methods");
  lua_setfield(L, -2, "methods");
  lua_pushnil(L);
  lua_setfield(L, -3, "__methods");
  lua_pushvalue(L, -2);
  lua_setfield(L, -2, "metatable"); /* for torch.lua alone */
  xl_pushnone(L);
  lua_setfield(L, -2, "none");
  lt_open_ops(L);
  lt_open_table(L);
  lua_remove(L, -2);
  return 1;
}
