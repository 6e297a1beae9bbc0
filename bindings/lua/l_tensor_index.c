/* l_tensor_index.c: t[key] and t[key] = value with PyTorch's meaning: indices from 0, negative ones from the end,
 * slices half-open.
 *   t[1]               the second row
 *   t[{1, 2}]          element (1, 2)
 *   t[{1, {0, 4}}]     of row 1 the columns 0 to 3; {a, b, step} too; {} or nil: all; {2}: from 2 on; {nil, 4}: up to 4
 *   t[{"...", 0}]      "..." stands for the dimensions in between; torch.none adds a dimension of size 1
 *   t[mask], t[{0, i}] a bool tensor selects, an integer tensor gathers
 * Reading with numbers and slices gives a view. Negative steps are errors, as in PyTorch. */
#include <string.h>
#include "l_tensor.h"

enum { MOST_INDICES = 3 * TX_MAX_DIMS };

typedef struct indexer {
  lua_State *L;
  tx_tensor *view;     /* the tensor after the integers and slices so far; held */
  int dim;             /* the dimension that the next entry indexes */
  tx_tensor **tensors; /* per dimension of view: its index tensor, NULL for all of it; NULL as a whole: none yet */
  int ntensors;
} indexer;

static int64_t size_of(const tx_tensor *t, int dim) {
  int64_t sizes[TX_MAX_DIMS];
  tx_tensor_sizes(t, sizes);
  return sizes[dim];
}

static void need_dimension(indexer *x) {
  if (x->dim >= tx_tensor_dim(x->view))
    xl_error(x->L, "index: too many indices for a tensor of %d dimensions", tx_tensor_dim(x->view));
}

static void take_integer(indexer *x, int64_t i) {
  need_dimension(x);
  int64_t n = size_of(x->view, x->dim);
  if (i < -n || i >= n)
    xl_error(x->L, "index: %lld is out of range (dimension of size %lld, indices from 0)", (long long)i, (long long)n);
  x->view = lt_call(x->L, "select", "int", (tx_value[]){ lt_tensor(x->view), lt_int(x->dim), lt_int(i) }, 3);
}

/* Element i of the slice at idx; `otherwise` where it is absent. */
static int64_t bound(indexer *x, int idx, int i, int64_t otherwise) {
  lua_State *L = x->L;
  if (lua_rawgeti(L, idx, i) != LUA_TNIL && !xl_isnone(L, -1))
    otherwise = xl_toint(L, -1, "index: a slice");
  lua_pop(L, 1);
  return otherwise;
}

static int highest_key(lua_State *L, int idx, const char *what) {
  lua_Integer n = 0;
  for (lua_pushnil(L); lua_next(L, idx); lua_pop(L, 1)) {
    if (!lua_isinteger(L, -2) || lua_tointeger(L, -2) < 1 || lua_tointeger(L, -2) > 2 * TX_MAX_DIMS)
      xl_error(L, "index: %s is a list such as {1, {0, 4}}", what);
    if (lua_tointeger(L, -2) > n)
      n = lua_tointeger(L, -2);
  }
  return (int)n;
}

static void take_slice(indexer *x, int idx) {
  need_dimension(x);
  if (highest_key(x->L, idx, "a slice") > 3)
    xl_error(x->L, "index: a slice is {first, end} or {first, end, step}");
  int64_t first = bound(x, idx, 1, 0), end = bound(x, idx, 2, INT64_MAX), step = bound(x, idx, 3, 1);
  if (step < 1)
    xl_error(x->L, "index: the step of a slice is %lld (expected 1 or more). Use t:flip.", (long long)step);
  if (first != 0 || end < size_of(x->view, x->dim) || step != 1)
    x->view = lt_call(x->L, "slice", "Tensor",
            (tx_value[]){ lt_tensor(x->view), lt_int(x->dim), lt_int(first), lt_int(end), lt_int(step) }, 5);
  x->dim++;
}

/* The place of the next index, NULL so far. */
static tx_tensor **next_index(indexer *x) {
  if (!x->tensors)
    x->tensors = xl_slots(x->L, MOST_INDICES);
  if (x->ntensors >= MOST_INDICES)
    xl_error(x->L, "index: too many indices");
  return &x->tensors[x->ntensors++];
}

/* Keeps a reference to the index tensor t, which indexes dimension x->dim of the view. */
static void hold(indexer *x, tx_tensor *t) {
  const char *dtype = tx_tensor_dtype(t);
  bool mask = strcmp(dtype, "bool") == 0 || strcmp(dtype, "uint8") == 0;
  if (!mask && strcmp(dtype, "int64") != 0 && strcmp(dtype, "int32") != 0 && strcmp(dtype, "int16") != 0
      && strcmp(dtype, "int8") != 0)
    xl_error(x->L, "index: a %s tensor is not an index (expected int64 or bool)", dtype);
  need_dimension(x);
  int spans = mask ? tx_tensor_dim(t) : 1;
  if (mask && (spans == 0 || x->dim + spans > tx_tensor_dim(x->view)))
    xl_error(x->L, "index: a mask of %d dimensions does not fit a tensor of %d from dimension %d", spans,
             tx_tensor_dim(x->view), x->dim);
  if (mask) {
    int64_t have[TX_MAX_DIMS], want[TX_MAX_DIMS];
    tx_tensor_sizes(t, have);
    tx_tensor_sizes(x->view, want);
    for (int i = 0; i < spans; i++)
      if (have[i] != want[x->dim + i])
        xl_error(x->L, "index: the mask has %lld in dimension %d, the tensor %lld", (long long)have[i], i,
                 (long long)want[x->dim + i]);
  }
  /* index() takes a list with one entry per dimension; dimensions without an index tensor are None */
  tx_tensor **at = next_index(x);
  if (strcmp(dtype, "int64") == 0 || mask)
    *at = tx_tensor_ref(t);
  else
    XL_TRY(x->L, "index", tx_tensor_to(at, t, NULL, "int64", false, false));
  x->dim += spans;
}

static void skip_dimension(indexer *x) { (void)next_index(x); }

static void take_newaxis(indexer *x) {
  x->view = lt_call(x->L, "unsqueeze", "", (tx_value[]){ lt_tensor(x->view), lt_int(x->dim) }, 2);
  x->dim++;
}

/* How many dimensions the entry at idx indexes. */
static int dims_of(lua_State *L, int idx) {
  if (lua_isnil(L, idx))
    return 1;
  if (xl_isnone(L, idx) || lua_type(L, idx) == LUA_TSTRING)
    return 0;
  tx_tensor *t = lua_type(L, idx) == LUA_TUSERDATA ? xl_testtensor(L, idx) : NULL;
  bool mask = t && (strcmp(tx_tensor_dtype(t), "bool") == 0 || strcmp(tx_tensor_dtype(t), "uint8") == 0);
  return mask ? tx_tensor_dim(t) : 1;
}

/* One entry, at the top of the stack. rest: how many dimensions the entries after it index. */
static void take_entry(indexer *x, int rest) {
  lua_State *L = x->L;
  int idx = lua_gettop(L);
  int before = x->dim;
  bool integer = false, tensor = false;
  switch (lua_type(L, idx)) {
    case LUA_TNUMBER:
      take_integer(x, xl_toint(L, idx, "index"));
      integer = true;
      break;
    case LUA_TTABLE: take_slice(x, idx); break;
    case LUA_TNIL: need_dimension(x), x->dim++; break;
    case LUA_TSTRING:
      if (strcmp(lua_tostring(L, idx), "...") != 0)
        xl_error(L, "index: '%.40s' is not an index (only \"...\" is)", lua_tostring(L, idx));
      if (tx_tensor_dim(x->view) - rest > x->dim)
        x->dim = tx_tensor_dim(x->view) - rest;
      break;
    default:
      if (xl_isnone(L, idx)) {
        take_newaxis(x);
      } else if (xl_testtensor(L, idx)) {
        hold(x, xl_totensor(L, idx));
        tensor = true;
      } else {
        xl_error(L, "index: a %s is not an index (expected an integer, a slice {a, b} or a tensor)",
                 luaL_typename(L, idx));
      }
  }
  if (!integer && !tensor)
    for (int d = before; d < x->dim; d++)
      skip_dimension(x);
}

/* Applies key, at index 2, to the tensor at index 1. */
static void apply_key(indexer *x, lua_State *L) {
  *x = (indexer){ .L = L };
  luaL_checkstack(L, 10, "index");
  x->view = xl_totensor(L, 1);
  if (lua_type(L, 2) != LUA_TTABLE) {
    lua_pushvalue(L, 2);
    take_entry(x, 0);
    lua_pop(L, 1);
    return;
  }
  int n = highest_key(L, 2, "an index"), rest = 0, dots = 0;
  for (int i = 1; i <= n; i++) {
    lua_rawgeti(L, 2, i);
    rest += dims_of(L, -1);
    dots += lua_type(L, -1) == LUA_TSTRING;
    lua_pop(L, 1);
  }
  if (dots > 1)
    xl_error(L, "index: only one \"...\" has a meaning");
  for (int i = 1; i <= n; i++) {
    lua_rawgeti(L, 2, i);
    rest -= dims_of(L, -1);
    take_entry(x, rest);
    lua_pop(L, 1);
  }
}

static bool has_tensors(const indexer *x) {
  for (int i = 0; i < x->ntensors; i++)
    if (x->tensors[i])
      return true;
  return false;
}

static tx_value held_list(indexer *x) {
  while (x->ntensors > 0 && !x->tensors[x->ntensors - 1])
    x->ntensors--;
  return (tx_value){ .kind = TX_OPT_TENSORS, .n = x->ntensors, .ts = x->tensors };
}

int lt_index(lua_State *L) {
  indexer x;
  lua_settop(L, 2);
  apply_key(&x, L);
  if (has_tensors(&x))
    x.view = lt_call(L, "index", "Tensor", (tx_value[]){ lt_tensor(x.view), held_list(&x) }, 2);
  if (tx_tensor_same(x.view, xl_totensor(L, 1))) /* t[{}]: a new view, not another name */
    x.view = lt_call(L, "alias", "", (tx_value[]){ lt_tensor(x.view) }, 1);
  xl_pushheld(L, x.view);
  return 1;
}

/* Drops leading dimensions of size 1 beyond those of the target: PyTorch allows t[0] = a value of shape (1, n). */
static tx_tensor *drop_leading(lua_State *L, tx_tensor *value, int dim) {
  while (tx_tensor_dim(value) > dim && size_of(value, 0) == 1)
    value = lt_call(L, "squeeze", "dim", (tx_value[]){ lt_tensor(value), lt_int(0) }, 2);
  return value;
}

/* The value at index 3 as a tensor; a number gets the target's dtype and device. */
static tx_tensor *value_tensor(lua_State *L, const tx_tensor *target) {
  tx_value v;
  char device[16];
  if (!lt_scalar(L, 3, &v))
    return xl_totensor(L, 3);
  tx_tensor_device(target, device);
  tx_value args[] = { v, lt_string(tx_tensor_dtype(target)), { .kind = TX_DEFAULT }, lt_string(device) };
  return lt_call(L, "scalar_tensor", "", args, 4);
}

static void assign_indexed(lua_State *L, indexer *x) {
  char device[16];
  tx_tensor *value = value_tensor(L, x->view);
  if (strcmp(tx_tensor_dtype(value), tx_tensor_dtype(x->view)) != 0) {
    tx_tensor **converted = xl_slots(L, 1);
    tx_tensor_device(x->view, device);
    XL_TRY(L, "index", tx_tensor_to(converted, value, device, tx_tensor_dtype(x->view), false, false));
    value = *converted;
  }
  lt_call(L, "index_put_", "", (tx_value[]){ lt_tensor(x->view), held_list(x), lt_tensor(value) }, 3);
}

static void assign_plain(lua_State *L, indexer *x) {
  tx_value v;
  if (lt_scalar(L, 3, &v)) {
    lt_call(L, "fill_", "Scalar", (tx_value[]){ lt_tensor(x->view), v }, 2);
    return;
  }
  tx_tensor *value = drop_leading(L, value_tensor(L, x->view), tx_tensor_dim(x->view));
  lt_call(L, "copy_", "", (tx_value[]){ lt_tensor(x->view), lt_tensor(value) }, 2);
}

int lt_newindex(lua_State *L) {
  indexer x;
  lua_settop(L, 3);
  if (!xl_testbox(L, 3) && lua_type(L, 3) != LUA_TNUMBER && !lua_isboolean(L, 3))
    xl_error(L, "index: cannot store a %s in a tensor (expected a number or a tensor)", luaL_typename(L, 3));
  apply_key(&x, L);
  if (has_tensors(&x))
    assign_indexed(L, &x);
  else
    assign_plain(L, &x);
  return 0;
}
