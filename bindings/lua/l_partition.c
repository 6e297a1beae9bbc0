/* l_partition.c: core.partition: the SHAP Partition algorithm of partition.h.
 *   local p = partition.new { size = { h, w, c }, outputs =, budget =, queue_batch =, context =,
 *                             children = { l0, r0, l1, r1 ... } }
 *   p:start(hidden, shown)   p:ask() -> boxes (n, most, 6) int32, or nil   p:tell(outputs)
 *   p:values() -> (outputs, c, h, w)
 * Tensors are float64 on the CPU, boxes int32. start and tell return false where an output is not finite. */
#include <stdio.h>
#include "partition.h"
#include "xl.h"

#define XL_PARTITION "medxai.partition"

typedef struct partition_handle {
  partition *p;
  int outputs, asked; /* asked: masks of the last ask */
  int32_t size[3];
} partition_handle;

static void destroy_partition(void *b) { partition_free(((partition_handle *)b)->p); }

static int partition_close(lua_State *L) {
  xl_closeobject(L, 1, XL_PARTITION);
  return 0;
}

static partition_handle *to_partition(lua_State *L) { return xl_toobject(L, 1, XL_PARTITION, "partition: is closed"); }

static int64_t field(lua_State *L, const char *name, int64_t low, int64_t high) {
  char what[64];
  snprintf(what, sizeof what, "partition: %s", name);
  lua_getfield(L, 1, name);
  const int64_t v = xl_torange(L, -1, low, high, what);
  lua_pop(L, 1);
  return v;
}

static int status_of(lua_State *L, int status) {
  if (status == PARTITION_NOMEM) xl_nomem(L, "partition");
  lua_pushboolean(L, status == PARTITION_OK);
  return 1;
}

/* The tree's children as checked pairs, in a userdata that stays on the stack. */
static const int32_t (*push_tree(lua_State *L, int32_t regions))[2] {
  int n;
  const int64_t *flat = xl_toints(L, -1, &n, "partition: children");
  if (n != 2 * (regions - 1))
    xl_error(L, "partition: a tree of %d regions has %d inner nodes (got %d numbers, expected %d).", regions,
             regions - 1, n, 2 * (regions - 1));
  int32_t(*children)[2] = lua_newuserdatauv(L, ((size_t)regions + 1) * 2 * sizeof(int32_t), 0);
  for (int i = 0; i < n; i++)
    children[i / 2][i % 2] = (int32_t)(flat[i] > INT32_MAX || flat[i] < -INT32_MAX ? INT32_MAX : flat[i]);
  int32_t *order = lua_newuserdatauv(L, (size_t)regions * sizeof *order, 0);
  const int status = partition_leaf_order((const int32_t(*)[2])children, regions, order);
  if (status == PARTITION_NOMEM) xl_nomem(L, "partition");
  if (status != PARTITION_OK)
    xl_error(L, "partition: the children do not form a tree with each of the %d regions once.", regions);
  lua_pop(L, 1);
  return (const int32_t(*)[2])children;
}

/*- new { ... }: see the top of the file */
static int partition_new_(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_settop(L, 1);
  partition_handle *b = xl_newobject(L, XL_PARTITION, sizeof *b, destroy_partition);
  lua_getfield(L, 1, "size");
  int n;
  const int64_t *size = xl_toints(L, -1, &n, "partition: size");
  if (n != 3) xl_error(L, "partition: size has three sides (got %d).", n);
  partition_options o = { .outputs = (int)field(L, "outputs", 1, 1 << 20),
                          .budget = field(L, "budget", 0, INT64_C(1) << 30),
                          .queue_batch = (int)field(L, "queue_batch", 1, 1 << 24),
                          .context = (int)field(L, "context", -1, 1) };
  int64_t cells = 1;
  for (int i = 0; i < 3; i++) {
    if (size[i] < 1 || size[i] > 1 << 24)
      xl_error(L, "partition: a side is 1 to %d (got %lld).", 1 << 24, (long long)size[i]);
    o.size[i] = b->size[i] = (int32_t)size[i];
    cells *= size[i];
  }
  if (cells > INT32_MAX) xl_error(L, "partition: %lld cells are too many.", (long long)cells);
  if (lua_getfield(L, 1, "children") != LUA_TNIL) o.children = push_tree(L, o.size[0]);
  b->outputs = o.outputs;
  b->p = partition_new(&o);
  if (!b->p) xl_nomem(L, "partition");
  lua_settop(L, 2);
  return 1;
}

/*- leaf_order(children, regions): list of regions by their place among the tree's leaves */
static int partition_order(lua_State *L) {
  const int64_t regions = xl_torange(L, 2, 1, 1 << 24, "partition: regions");
  lua_settop(L, 1);
  const int32_t(*children)[2] = push_tree(L, (int32_t)regions);
  int32_t *order = lua_newuserdatauv(L, (size_t)regions * sizeof *order, 0);
  if (partition_leaf_order(children, (int32_t)regions, order) != PARTITION_OK) xl_nomem(L, "partition");
  lua_createtable(L, (int)regions, 0);
  for (int i = 0; i < regions; i++) {
    lua_pushinteger(L, order[i]);
    lua_rawseti(L, -2, i + 1);
  }
  return 1;
}

static int partition_start_(lua_State *L) {
  partition_handle *b = to_partition(L);
  const double *hidden = xl_todoubles(L, 2, b->outputs, "partition: start");
  const double *shown = xl_todoubles(L, 3, b->outputs, "partition: start");
  return status_of(L, partition_start(b->p, hidden, shown));
}

static int partition_ask_(lua_State *L) {
  partition_handle *b = to_partition(L);
  const partition_box *boxes;
  int n, most;
  if (partition_ask(b->p, &boxes, &n, &most) != PARTITION_OK) xl_nomem(L, "partition");
  b->asked = n;
  if (n == 0) return 0;
  tx_tensor **out = xl_slots(L, 1);
  const int64_t sizes[3] = { n, most, 6 };
  XL_TRY(L, "partition", tx_tensor_new(out, "int32", 3, sizes, boxes, (size_t)n * most * sizeof *boxes));
  xl_pushheld(L, *out);
  return 1;
}

static int partition_tell_(lua_State *L) {
  partition_handle *b = to_partition(L);
  return status_of(L, partition_tell(b->p, xl_todoubles(L, 2, (int64_t)b->asked * b->outputs, "partition: tell")));
}

static int partition_values_(lua_State *L) {
  partition_handle *b = to_partition(L);
  tx_tensor **out = xl_slots(L, 1);
  const int64_t sizes[4] = { b->outputs, b->size[2], b->size[0], b->size[1] };
  XL_TRY(L, "partition", tx_tensor_new(out, "float64", 4, sizes, NULL, 0));
  if (partition_values(b->p, tx_tensor_data(*out)) != PARTITION_OK) xl_nomem(L, "partition");
  xl_pushheld(L, *out);
  return 1;
}

static int partition_evaluated_(lua_State *L) {
  lua_pushinteger(L, partition_evaluated(to_partition(L)->p));
  return 1;
}

int luaopen_core_partition(lua_State *L) {
  static const luaL_Reg methods[] = {
    { "start", partition_start_ },   { "ask", partition_ask_ },
    { "tell", partition_tell_ },     { "values", partition_values_ },
    { "evaluated", partition_evaluated_ }, { NULL, NULL },
  };
  static const luaL_Reg functions[] = { { "new", partition_new_ }, { "leaf_order", partition_order }, { NULL, NULL } };
  _Static_assert(sizeof(partition_box) == 6 * sizeof(int32_t), "boxes are passed as six numbers");
  xl_newtype(L, XL_PARTITION, methods, partition_close);
  xl_newlib(L, functions);
  return 1;
}
