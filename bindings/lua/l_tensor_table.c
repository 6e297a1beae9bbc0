/* l_tensor_table.c: tensors from and to Lua's tables, numbers and byte strings.
 * An integer dtype takes no 1.5 and no value out of its range; a ragged table is an error that names the place. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include "l_tensor.h"

/* ---- reading elements --------------------------------------------------------------------------------------- */

typedef enum elem { E_NONE, E_F32, E_F64, E_F16, E_BF16, E_I64, E_I32, E_I16, E_I8, E_U8, E_BOOL } elem;

static elem elem_of(const char *dtype) {
  static const struct { const char *name; elem e; } names[] = {
    { "float32", E_F32 }, { "float64", E_F64 }, { "float16", E_F16 }, { "bfloat16", E_BF16 }, { "int64", E_I64 },
    { "int32", E_I32 },   { "int16", E_I16 },   { "int8", E_I8 },     { "uint8", E_U8 },      { "bool", E_BOOL },
  };
  for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
    if (strcmp(names[i].name, dtype) == 0)
      return names[i].e;
  return E_NONE;
}

static double half_to_double(uint16_t h) {
  int exponent = (h >> 10) & 31, fraction = h & 1023;
  double v = exponent == 31 ? (fraction ? NAN : INFINITY)
             : exponent     ? ldexp(fraction + 1024, exponent - 25)
                            : ldexp(fraction, -24);
  return h >> 15 ? -v : v;
}

static double bfloat_to_double(uint16_t b) {
  uint32_t bits = (uint32_t)b << 16;
  float f;
  memcpy(&f, &bits, sizeof f);
  return f;
}

static void push_elem(lua_State *L, elem e, const void *data, int64_t i) {
  switch (e) {
    case E_F32: lua_pushnumber(L, ((const float *)data)[i]); break;
    case E_F64: lua_pushnumber(L, ((const double *)data)[i]); break;
    case E_F16: lua_pushnumber(L, half_to_double(((const uint16_t *)data)[i])); break;
    case E_BF16: lua_pushnumber(L, bfloat_to_double(((const uint16_t *)data)[i])); break;
    case E_I64: lua_pushinteger(L, ((const int64_t *)data)[i]); break;
    case E_I32: lua_pushinteger(L, ((const int32_t *)data)[i]); break;
    case E_I16: lua_pushinteger(L, ((const int16_t *)data)[i]); break;
    case E_I8: lua_pushinteger(L, ((const int8_t *)data)[i]); break;
    case E_U8: lua_pushinteger(L, ((const uint8_t *)data)[i]); break;
    default: lua_pushboolean(L, ((const uint8_t *)data)[i] != 0);
  }
}

bool lt_pushelement(lua_State *L, const char *dtype, const void *data, int64_t i) {
  elem e = elem_of(dtype);
  if (e != E_NONE)
    push_elem(L, e, data, i);
  return e != E_NONE;
}

/* The tensor at idx as a contiguous CPU tensor; held. copy: with memory of its own, which no Lua code can resize. */
static tx_tensor *to_plain(lua_State *L, int idx, bool copy, const char *what) {
  tx_tensor *t = xl_totensor(L, idx), **out = xl_slots(L, 2);
  if (strcmp(tx_tensor_layout(t), "strided") != 0)
    xl_error(L, "%s: a %s tensor is not dense. Use t:to_dense().", what, tx_tensor_layout(t));
  if (copy)
    XL_TRY(L, what, tx_tensor_to(&out[1], t, "cpu", NULL, false, true));
  XL_TRY(L, what, tx_tensor_packed(&out[0], copy ? out[1] : t, false));
  return out[0];
}

static void push_nested(lua_State *L, elem e, const char *data, int64_t itemsize, int dim, const int64_t *sizes) {
  if (dim == 0) {
    push_elem(L, e, data, 0);
    return;
  }
  luaL_checkstack(L, 3, "tolist");
  int64_t n = sizes[0], step = itemsize;
  for (int i = 1; i < dim; i++)
    step *= sizes[i];
  lua_createtable(L, (int)(n < INT32_MAX ? n : INT32_MAX), 0);
  for (int64_t i = 0; i < n; i++) {
    if (dim == 1)
      push_elem(L, e, data, i);
    else
      push_nested(L, e, data + i * step, itemsize, dim - 1, sizes + 1);
    lua_rawseti(L, -2, i + 1);
  }
}

/* t:tolist() -> nested lists of numbers or booleans; a number where t has no dimension */
int lt_tolist(lua_State *L) {
  int64_t sizes[TX_MAX_DIMS];
  tx_tensor *t = to_plain(L, 1, true, "tolist");
  elem e = elem_of(tx_tensor_dtype(t));
  if (e == E_NONE)
    xl_error(L, "tolist: Lua has no numbers of dtype %s. Convert with t:to or torch.view_as_real.", tx_tensor_dtype(t));
  tx_tensor_sizes(t, sizes);
  push_nested(L, e, tx_tensor_data(t), tx_tensor_itemsize(t), tx_tensor_dim(t), sizes);
  return 1;
}

/* t:item() -> the one element as a number, or boolean for dtype bool */
int lt_item(lua_State *L) {
  double d;
  int64_t i;
  bool is_int;
  tx_tensor *t = xl_totensor(L, 1);
  xl_check(L, tx_tensor_item(&d, &i, &is_int, t), "item");
  if (strcmp(tx_tensor_dtype(t), "bool") == 0)
    lua_pushboolean(L, i != 0);
  else if (is_int)
    lua_pushinteger(L, i);
  else
    lua_pushnumber(L, d);
  return 1;
}

/* t:data_string() -> the bytes of its elements in row-major order, in the machine's byte order */
int lt_data_string(lua_State *L) {
  tx_tensor *t = to_plain(L, 1, false, "data_string");
  size_t n = (size_t)(tx_tensor_numel(t) * tx_tensor_itemsize(t));
  lua_pushlstring(L, n ? tx_tensor_data(t) : "", n);
  return 1;
}

/* ---- from tables -------------------------------------------------------------------------------------------- */

typedef struct reader {
  lua_State *L;
  int dim;
  int64_t sizes[TX_MAX_DIMS];
  elem e;
  void *data;
  int64_t at;
  bool floats, bools, ints; /* kinds seen */
} reader;

/* Reads dim and sizes from the table at the top of the stack, following the first elements down. */
static void read_shape(reader *r) {
  lua_State *L = r->L;
  int top = lua_gettop(L);
  while (lua_istable(L, -1)) {
    if (r->dim == TX_MAX_DIMS)
      xl_error(L, "tensor: a table nested more than %d deep", TX_MAX_DIMS);
    luaL_checkstack(L, 2, "tensor");
    r->sizes[r->dim++] = (int64_t)lua_rawlen(L, -1);
    lua_rawgeti(L, -1, 1);
  }
  lua_settop(L, top);
}

static noreturn void wrong_element(reader *r, const char *got) {
  xl_error(r->L, "tensor: element %lld (expected a number or boolean, got %s). A tensor needs a regular nested list.",
           (long long)r->at + 1, got);
}

static void look_at(reader *r) {
  lua_State *L = r->L;
  switch (lua_type(L, -1)) {
    case LUA_TNUMBER:
      if (lua_isinteger(L, -1))
        r->ints = true;
      else
        r->floats = true;
      break;
    case LUA_TBOOLEAN: r->bools = true; break;
    default: wrong_element(r, luaL_typename(L, -1));
  }
  r->at++;
}

static void store_integer(reader *r, int64_t v) {
  static const struct { int64_t low, high; } ranges[] = {
    [E_I64] = { INT64_MIN, INT64_MAX }, [E_I32] = { INT32_MIN, INT32_MAX }, [E_I16] = { INT16_MIN, INT16_MAX },
    [E_I8] = { INT8_MIN, INT8_MAX },    [E_U8] = { 0, UINT8_MAX },
  };
  if (v < ranges[r->e].low || v > ranges[r->e].high)
    xl_error(r->L, "tensor: %lld does not fit the integer dtype (%lld to %lld)", (long long)v,
             (long long)ranges[r->e].low, (long long)ranges[r->e].high);
  switch (r->e) {
    case E_I64: ((int64_t *)r->data)[r->at] = v; break;
    case E_I32: ((int32_t *)r->data)[r->at] = (int32_t)v; break;
    case E_I16: ((int16_t *)r->data)[r->at] = (int16_t)v; break;
    case E_I8: ((int8_t *)r->data)[r->at] = (int8_t)v; break;
    default: ((uint8_t *)r->data)[r->at] = (uint8_t)v;
  }
}

static void store(reader *r) {
  lua_State *L = r->L;
  bool boolean = lua_isboolean(L, -1);
  if (!boolean && lua_type(L, -1) != LUA_TNUMBER)
    wrong_element(r, luaL_typename(L, -1));
  double d = boolean ? lua_toboolean(L, -1) : lua_tonumber(L, -1);
  switch (r->e) {
    case E_F32: ((float *)r->data)[r->at] = (float)d; break;
    case E_F64: ((double *)r->data)[r->at] = d; break;
    case E_BOOL: ((uint8_t *)r->data)[r->at] = d != 0; break;
    default: {
      int ok = boolean;
      int64_t v = boolean ? lua_toboolean(L, -1) : lua_tointegerx(L, -1, &ok);
      if (!ok)
        xl_error(L, "tensor: element %lld (expected an integer, got %.14g)", (long long)r->at + 1, d);
      store_integer(r, v);
    }
  }
  r->at++;
}

/* Visits every element of the value on top of the stack, depth first; checks that the nesting is regular. */
static void walk(reader *r, int depth, void (*visit)(reader *)) {
  lua_State *L = r->L;
  if (depth == r->dim) {
    visit(r);
    return;
  }
  if (!lua_istable(L, -1))
    xl_error(L, "tensor: expected a list of %lld at depth %d, got %s. A tensor needs a regular nested list.",
             (long long)r->sizes[depth], depth + 1, luaL_typename(L, -1));
  int64_t n = (int64_t)lua_rawlen(L, -1);
  if (n != r->sizes[depth])
    xl_error(L, "tensor: a list of %lld among lists of %lld at depth %d. A tensor needs a regular nested list.",
             (long long)n, (long long)r->sizes[depth], depth + 1);
  luaL_checkstack(L, 2, "tensor");
  for (int64_t i = 0; i < n; i++) {
    lua_rawgeti(L, -1, i + 1);
    walk(r, depth + 1, visit);
    lua_pop(L, 1);
  }
}

static const char *natural_dtype(const reader *r) {
  return r->floats ? "float32" : r->ints ? "int64" : r->bools ? "bool" : "float32";
}

/* from_table(value, dtype or nil) -> tensor; floats give float32, integers int64, booleans bool */
static int tensor_from_table(lua_State *L) {
  lua_settop(L, 2);
  const char *dtype = luaL_optstring(L, 2, NULL);
  reader r = { .L = L };
  lua_pushvalue(L, 1);
  read_shape(&r);
  walk(&r, 0, look_at);
  const char *want = dtype ? dtype : natural_dtype(&r);
  if (!tx_name_fits(TX_DTYPE, want))
    xl_error(L,
             "tensor: unknown dtype '%s' (one of float32 float64 float16 bfloat16 int64 int32 int16 int8 uint8 bool "
             "complex64 complex128)",
             want);
  r.e = elem_of(want);
  const char *made = r.e == E_NONE || r.e == E_F16 || r.e == E_BF16 ? "float64" : want; /* libtorch converts those */
  tx_tensor **out = xl_slots(L, 2);
  XL_TRY(L, "tensor", tx_tensor_new(&out[0], made, r.dim, r.sizes, NULL, 0));
  r.e = elem_of(made), r.data = tx_tensor_data(out[0]), r.at = 0;
  lua_pushvalue(L, 1);
  walk(&r, 0, store);
  lua_pop(L, 1);
  if (strcmp(made, want) != 0)
    XL_TRY(L, "tensor", tx_tensor_to(&out[1], out[0], NULL, want, false, false));
  xl_pushheld(L, out[1] ? out[1] : out[0]);
  return 1;
}

/* from_string(bytes, dtype, shape) -> tensor */
static int tensor_from_string(lua_State *L) {
  size_t len;
  int dim;
  lua_settop(L, 3);
  if (lua_type(L, 1) != LUA_TSTRING || lua_type(L, 2) != LUA_TSTRING)
    xl_error(L, "from_string: expected (bytes, dtype, shape), got (%s, %s, %s)", luaL_typename(L, 1),
             luaL_typename(L, 2), luaL_typename(L, 3));
  const char *bytes = lua_tolstring(L, 1, &len);
  const int64_t *sizes = xl_toints(L, 3, &dim, "from_string");
  tx_tensor **out = xl_slots(L, 1);
  XL_TRY(L, "from_string", tx_tensor_new(out, lua_tostring(L, 2), dim, sizes, bytes, len));
  xl_pushheld(L, *out);
  return 1;
}

void lt_open_table(lua_State *L) {
  static const luaL_Reg functions[] = {
    { "from_table", tensor_from_table },
    { "from_string", tensor_from_string },
    { NULL, NULL },
  };
  xl_setfuncs(L, functions);
}
