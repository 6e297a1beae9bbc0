/* l_graph.c: core.graph, the networks of bindings/graph: new() gives a graph to add nodes to, graph:state(n) the
 * tensors of one model, state:run{...} one pass. Ids and slots count from 1 in Lua, from 0 in C. Blocks and parameters
 * have no names here: scripts/medxai/nn/ turns names into ids.
 * Whatever must be freed is put into a collectable userdata (a box) before anything can raise an error. */
#include <stdio.h>
#include <string.h>
#include "graph.h"
#include "l_dist.h"
#include "xl.h"

#define GRAPH "medxai.graph"
#define STATE "medxai.graph_state"
#define RUN "medxai.graph_run"

typedef struct graph_box { graph *g; } graph_box;         /* uservalue 1: functions by node id; 2: name */
typedef struct state_box { graph_state *s; } state_box;   /* uservalue 1: boxes by slot; 2: the graph's box */
typedef struct run_box { graph_run *run; } run_box;

static graph *to_graph(lua_State *L, int idx) { return ((graph_box *)luaL_checkudata(L, idx, GRAPH))->g; }

static void release_state(void *s) { graph_state_free(s); }

/* Held, since a function node may close the model that is running it. */
static graph_state *to_state(lua_State *L, int idx) {
  graph_state *s = ((state_box *)luaL_checkudata(L, idx, STATE))->s;
  if (!s) xl_error(L, "model is closed");
  xl_hold(L, graph_state_retain(s), release_state);
  return s;
}

/* Pushes a new box whose pointer is NULL, which the finalizer accepts. */
static void *new_box(lua_State *L, const char *type, int uservalues) {
  void **box = lua_newuserdatauv(L, sizeof *box, uservalues);
  *box = NULL;
  luaL_setmetatable(L, type);
  return box;
}

/* A 0-based id of a node that exists. */
static int check_id(lua_State *L, int idx, const graph *g) {
  int isnum;
  lua_Integer id = lua_tointegerx(L, idx, &isnum);
  if (!isnum || id < 1 || id > graph_count(g)) xl_error(L, "graph: there is no node %s", luaL_tolstring(L, idx, NULL));
  return (int)id - 1;
}

static int check_slot(lua_State *L, int idx, const graph_state *s) {
  int isnum;
  lua_Integer slot = lua_tointegerx(L, idx, &isnum);
  if (!isnum || slot < 1 || slot > graph_state_size(s))
    xl_error(L, "graph: there is no slot %s", luaL_tolstring(L, idx, NULL));
  return (int)slot - 1;
}

/* ---- building ----------------------------------------------------------------------------------------------- */
/* new(name of the network) */
static int graph_lua_new(lua_State *L) {
  luaL_checkstring(L, 1);
  graph_box *box = new_box(L, GRAPH, 2);
  lua_newtable(L);
  lua_setiuservalue(L, -2, 1);
  lua_pushvalue(L, 1);
  lua_setiuservalue(L, -2, 2);
  if (!(box->g = graph_new())) xl_error(L, "graph: out of memory");
  return 1;
}

static int graph_lua_gc(lua_State *L) {
  graph_box *box = luaL_checkudata(L, 1, GRAPH);
  graph_release(box->g);
  box->g = NULL;
  return 0;
}

static int push_id(lua_State *L, int id) {
  if (id < 0) xl_error(L, "%s", graph_error());
  lua_pushinteger(L, id + 1);
  return 1;
}

static int graph_lua_input(lua_State *L) {
  graph *g = to_graph(L, 1);
  return push_id(L, graph_add_input(g, luaL_checkstring(L, 2)));
}

/* Copies a list of value ids ({id=} tables or integers) into a userdata, which it pushes. */
static int *to_ids(lua_State *L, int idx, const graph *g, int *n) {
  idx = lua_absindex(L, idx);
  *n = (int)lua_rawlen(L, idx);
  int *ids = lua_newuserdatauv(L, sizeof *ids * (size_t)(*n + 1), 0);
  for (int i = 0; i < *n; i++) {
    if (lua_rawgeti(L, idx, i + 1) == LUA_TTABLE) {
      lua_getfield(L, -1, "id");
      lua_remove(L, -2);
    }
    ids[i] = check_id(L, -1, g);
    lua_pop(L, 1);
  }
  return ids;
}

static bool has_field(lua_State *L, int idx, const char *name) {
  bool has = lua_getfield(L, idx, name) != LUA_TNIL;
  lua_pop(L, 1);
  return has;
}

enum { MOST_SLOTS = 1 << 24 }; /* a state has a pointer for each */

/* A slot's 0-based number. */
static int slot_number(lua_State *L, int idx) {
  int64_t slot = xl_toint(L, idx, "graph: a slot");
  if (slot < 1 || slot > MOST_SLOTS)
    xl_error(L, "graph: there is no slot %lld (expected 1 to %d)", (long long)slot, MOST_SLOTS);
  return (int)slot - 1;
}

/* What a field of an argument refers to: a node's id or a slot, 0-based. */
static int reference(lua_State *L, int idx, const char *name, const graph *g) {
  lua_getfield(L, idx, name);
  int v = *name == 'i' ? check_id(L, -1, g) : slot_number(L, -1);
  lua_pop(L, 1);
  return v;
}

/* A constant for a list argument; one number fills int[N]. False: does not fit. Pushes what owns the memory. */
static bool to_list(lua_State *L, int idx, const tx_arg *arg, tx_value *v) {
  bool is_number = lua_type(L, idx) == LUA_TNUMBER;
  if (is_number && !arg->fixed) return false;
  if (!is_number && !lua_istable(L, idx)) return false;
  int n = is_number ? arg->fixed : (int)lua_rawlen(L, idx);
  bool ints = arg->kind == TX_INTS;
  int64_t *is = lua_newuserdatauv(L, sizeof *is * (size_t)(n + 1), 0);
  for (int i = 0; i < n; i++) {
    int isnum = 1;
    if (is_number) lua_pushvalue(L, idx);
    else lua_rawgeti(L, idx, i + 1);
    if (ints) is[i] = lua_tointegerx(L, -1, &isnum);
    else ((double *)is)[i] = lua_tonumberx(L, -1, &isnum);
    lua_pop(L, 1);
    if (!isnum) return false;
  }
  *v = (tx_value){ .kind = arg->kind, .n = n, .is = is };
  return true;
}

/* The constant at idx as the schema wants it. False: does not fit. */
static bool to_constant(lua_State *L, int idx, const tx_arg *arg, tx_value *v) {
  int type = lua_type(L, idx), is_integral;
  switch (arg->kind) {
    case TX_INT:
      if (type != LUA_TNUMBER) return false;
      *v = (tx_value){ .kind = TX_INT, .i = lua_tointegerx(L, idx, &is_integral) };
      return is_integral;
    case TX_DOUBLE:
      if (type != LUA_TNUMBER) return false;
      *v = (tx_value){ .kind = TX_DOUBLE, .d = lua_tonumber(L, idx) };
      return true;
    case TX_SCALAR:
      if (type == LUA_TBOOLEAN) return *v = (tx_value){ .kind = TX_BOOL, .b = lua_toboolean(L, idx) }, true;
      if (type != LUA_TNUMBER) return false;
      if (lua_isinteger(L, idx)) *v = (tx_value){ .kind = TX_INT, .i = lua_tointeger(L, idx) };
      else *v = (tx_value){ .kind = TX_DOUBLE, .d = lua_tonumber(L, idx) };
      return true;
    case TX_BOOL:
      if (type != LUA_TBOOLEAN) return false;
      *v = (tx_value){ .kind = TX_BOOL, .b = lua_toboolean(L, idx) };
      return true;
    case TX_STRING: case TX_DTYPE: case TX_LAYOUT: case TX_MEMORY_FORMAT: case TX_DEVICE:
      if (type != LUA_TSTRING) return false;
      *v = (tx_value){ .kind = TX_STRING, .s = lua_tostring(L, idx) };
      return true;
    case TX_INTS: case TX_DOUBLES: return to_list(L, idx, arg, v);
    default: return false;
  }
}

/* A list of values in which false stands for None. False: not to be had. Pushes what owns the ids. */
static bool to_values(lua_State *L, int idx, const graph *g, graph_arg *out) {
  int total = (int)lua_rawlen(L, idx);
  if (total > 64) return out->kind = GRAPH_VALUES, out->ids = to_ids(L, idx, g, &out->n), true;
  lua_createtable(L, total, 0);
  for (int i = 0, n = 0; i < total; i++) {
    if (lua_rawgeti(L, idx, i + 1) == LUA_TBOOLEAN) {
      out->none |= (uint64_t)1 << i;
      lua_pop(L, 1);
    } else {
      lua_rawseti(L, -2, ++n);
    }
  }
  out->kind = GRAPH_VALUES;
  out->ids = to_ids(L, -1, g, &out->n);
  return out->n > 0;
}

/* One argument of a node: a value {id=}, a parameter {slot=}, the mode {training=}, a list of values, or a constant. */
static bool to_arg(lua_State *L, int idx, const graph *g, const tx_arg *arg, graph_arg *out) {
  *out = (graph_arg){ .kind = GRAPH_CONST };
  if (lua_istable(L, idx)) {
    if (has_field(L, idx, "id"))
      return *out = (graph_arg){ .kind = GRAPH_VALUE, .id = reference(L, idx, "id", g) }, arg->kind == TX_TENSOR;
    if (has_field(L, idx, "slot"))
      return *out = (graph_arg){ .kind = GRAPH_SLOT, .id = reference(L, idx, "slot", g) }, arg->kind == TX_TENSOR;
    if (has_field(L, idx, "training")) return out->kind = GRAPH_TRAINING, arg->kind == TX_BOOL;
    if (arg->kind == TX_TENSORS || arg->kind == TX_OPT_TENSORS) return to_values(L, idx, g, out);
  }
  return to_constant(L, idx, arg, &out->value);
}

/* All arguments of one overload from the table at idx; false: they do not fit. What owns their memory stays on the
 * stack. */
static bool to_args(lua_State *L, int idx, const graph *g, const tx_op *op, graph_arg *args, int *nargs) {
  int n = tx_op_nargs(op), positional = (int)lua_rawlen(L, idx), used = 0, given = 0;
  if (positional > n) return false;
  luaL_checkstack(L, 2 * n + 8, "graph: arguments");
  lua_pushnil(L);
  while (lua_next(L, idx)) given++, lua_pop(L, 1);
  *nargs = 0;
  for (int i = 0; i < n; i++) {
    const tx_arg *arg = tx_op_arg(op, i);
    args[i] = (graph_arg){ .kind = GRAPH_CONST, .value = { .kind = TX_DEFAULT } };
    if (i < positional) lua_rawgeti(L, idx, i + 1);
    else lua_getfield(L, idx, arg->name);
    if (lua_isnil(L, -1)) {
      lua_pop(L, 1);
      if (!arg->has_default && !arg->optional) return false;
      if (!arg->has_default) args[i].value.kind = TX_NONE;
      continue;
    }
    used++;
    *nargs = i + 1;
    if (!to_arg(L, lua_gettop(L), g, arg, &args[i])) return false;
  }
  return used == given;
}

static const tx_op *find_overload(lua_State *L, const graph *g, const char *name, int idx, graph_arg *args,
                                  int *nargs) {
  char base[128];
  const tx_op *ops[64];
  const char *dot = strchr(name, '.');
  int n;
  if (dot) {
    snprintf(base, sizeof base, "%.*s", (int)(dot - name), name);
    n = (ops[0] = tx_op_find(base, dot + 1)) != NULL;
  } else {
    n = tx_op_overloads(name, ops, 64);
    if (n > 64) n = 64;
  }
  if (!n) xl_error(L, "graph: there is no operator '%s'", name);
  for (int i = 0; i < n; i++) {
    int top = lua_gettop(L);
    if (tx_op_nargs(ops[i]) <= 64 && to_args(L, idx, g, ops[i], args, nargs)) return ops[i];
    lua_settop(L, top);
  }
  xl_error(L, "graph: no form of '%s' takes these arguments (%s%s)", name, tx_op_schema(ops[0]),
           n > 1 ? " and others" : "");
}

/* graph:op(name, operator, { arguments by position and by name }, counter slot or nil) -> id */
static int graph_lua_op(lua_State *L) {
  lua_settop(L, 5);
  graph *g = to_graph(L, 1);
  const char *name = luaL_checkstring(L, 2), *opname = luaL_checkstring(L, 3);
  luaL_checktype(L, 4, LUA_TTABLE);
  int counter = lua_isnil(L, 5) ? -1 : slot_number(L, 5);
  graph_arg args[64];
  int nargs;
  const tx_op *op = find_overload(L, g, opname, 4, args, &nargs);
  return push_id(L, graph_add_op(g, name, op, args, nargs, counter));
}

static int graph_lua_drop_path(lua_State *L) {
  graph *g = to_graph(L, 1);
  const char *name = luaL_checkstring(L, 2);
  int id = check_id(L, 3, g);
  double p = luaL_checknumber(L, 4);
  if (!(p >= 0 && p <= 1)) xl_error(L, "drop_path: p is %f (expected 0 to 1)", p);
  return push_id(L, graph_add_drop_path(g, name, id, p));
}

/* graph:func(name, function, { ids }) -> id: a node that Lua computes */
static int graph_lua_func(lua_State *L) {
  lua_settop(L, 4);
  graph *g = to_graph(L, 1);
  const char *name = luaL_checkstring(L, 2);
  luaL_checktype(L, 3, LUA_TFUNCTION);
  luaL_checktype(L, 4, LUA_TTABLE);
  int n;
  const int *ids = to_ids(L, 4, g, &n);
  lua_getiuservalue(L, 1, 1);
  lua_pushvalue(L, 3);
  lua_rawseti(L, -2, graph_count(g) + 1); /* before the node is added: a node must never lack its function */
  return push_id(L, graph_add_function(g, name, ids, n));
}

/* graph:node(id) -> name, operator, { ids it reads } */
static int graph_lua_node(lua_State *L) {
  graph *g = to_graph(L, 1);
  int id = check_id(L, 2, g);
  const int *ids;
  int n = graph_inputs(g, id, &ids);
  lua_pushstring(L, graph_name(g, id));
  lua_pushstring(L, graph_op(g, id));
  lua_createtable(L, n, 0);
  for (int i = 0; i < n; i++) {
    lua_pushinteger(L, ids[i] + 1);
    lua_rawseti(L, -2, i + 1);
  }
  return 3;
}

/* graph:batch(id, dim, per_image): where the value holds the images of a batch; dim 0-based, -1: it holds none */
static int graph_lua_batch(lua_State *L) {
  graph *g = to_graph(L, 1);
  int id = check_id(L, 2, g);
  lua_Integer dim = luaL_checkinteger(L, 3), per_image = luaL_checkinteger(L, 4);
  if (dim < -1 || dim >= TX_MAX_DIMS || per_image < 1) xl_error(L, "graph: batch takes a dimension and a count");
  graph_set_batch(g, id, (int)dim, per_image);
  return 0;
}

static int graph_lua_count(lua_State *L) { return lua_pushinteger(L, graph_count(to_graph(L, 1))), 1; }
static int graph_lua_plans(lua_State *L) { return lua_pushinteger(L, graph_plans(to_graph(L, 1))), 1; }

/* ---- state -------------------------------------------------------------------------------------------------- */
static int graph_lua_state(lua_State *L) {
  lua_settop(L, 2);
  graph *g = to_graph(L, 1);
  int64_t n = xl_toint(L, 2, "graph: the number of slots");
  if (n < 0 || n > MOST_SLOTS) xl_error(L, "graph: %lld slots (expected 0 to %d)", (long long)n, MOST_SLOTS);
  state_box *box = new_box(L, STATE, 2);
  lua_newtable(L);
  lua_setiuservalue(L, -2, 1);
  lua_pushvalue(L, 1);
  lua_setiuservalue(L, -2, 2);
  if (!(box->s = graph_state_new(g, (int)n))) xl_error(L, "%s", graph_error());
  return 1;
}

/* Frees the tensors now, also those that state:get has returned. */
static int state_close(lua_State *L) {
  state_box *box = luaL_checkudata(L, 1, STATE);
  graph_state_free(box->s);
  box->s = NULL;
  if (lua_getiuservalue(L, 1, 1) != LUA_TTABLE) return 0;
  for (lua_pushnil(L); lua_next(L, -2); lua_pop(L, 1)) xl_closebox(lua_touserdata(L, -1));
  return 0;
}

/* When collected, parameters that are still referenced elsewhere stay open. */
static int state_gc(lua_State *L) {
  state_box *box = luaL_checkudata(L, 1, STATE);
  graph_state_free(box->s);
  box->s = NULL;
  return 0;
}

/* The tensor in a slot, held: state:set may replace it meanwhile. NULL: the slot is empty. */
static tx_tensor *held_slot(lua_State *L, const graph_state *s, int slot) {
  return xl_own(L, tx_tensor_ref(graph_state_get(s, slot)));
}

/* state:get(slot) -> the slot's tensor, always the same Lua value; it belongs to no scope and lives as long as the
 * model */
static int state_get(lua_State *L) {
  graph_state *s = to_state(L, 1);
  int slot = check_slot(L, 2, s);
  if (!graph_state_get(s, slot)) return lua_pushnil(L), 1;
  lua_getiuservalue(L, 1, 1);
  if (lua_rawgeti(L, -1, slot + 1) != LUA_TNIL) return 1;
  lua_pop(L, 1);
  tx_tensor *t = held_slot(L, s, slot);
  xl_tensor *box = xl_newtensor(L);
  xl_unlink(box);
  box->t = tx_tensor_ref(t);
  lua_pushvalue(L, -1);
  lua_rawseti(L, -3, slot + 1);
  return 1;
}

/* state:set(slot, tensor): values that state:get has returned then show the new tensor */
static int state_set(lua_State *L) {
  graph_state *s = to_state(L, 1);
  int slot = check_slot(L, 2, s);
  tx_tensor *t = xl_totensor(L, 3);
  lua_getiuservalue(L, 1, 1);
  if (lua_rawgeti(L, -1, slot + 1) != LUA_TNIL) {
    xl_tensor *box = lua_touserdata(L, -1);
    tx_tensor *old = box->t;
    box->t = tx_tensor_ref(t);
    tx_tensor_free(old);
  }
  graph_state_set(s, slot, t);
  return 0;
}

static int state_set_eval(lua_State *L) {
  graph_state *s = to_state(L, 1);
  graph_state_set_eval(s, check_id(L, 2, graph_state_graph(s)), lua_toboolean(L, 3));
  return 0;
}

/* state:sync(group | nil): see graph_state_sync */
static int state_sync(lua_State *L) {
  graph_state *s = to_state(L, 1);
  graph_state_sync(s, lua_isnoneornil(L, 2) ? NULL : l_dist_togroup(L, 2));
  return 0;
}

/* state:set_requires_grad(slot, on), state:requires_grad(slot) */
static int state_set_requires_grad(lua_State *L) {
  graph_state *s = to_state(L, 1);
  tx_tensor *t = held_slot(L, s, check_slot(L, 2, s));
  if (t) xl_check(L, tx_tensor_set_requires_grad(t, lua_toboolean(L, 3)), "requires_grad");
  return 0;
}

static int state_requires_grad(lua_State *L) {
  graph_state *s = to_state(L, 1);
  tx_tensor *t = held_slot(L, s, check_slot(L, 2, s));
  lua_pushboolean(L, t && tx_tensor_requires_grad(t));
  return 1;
}

static int state_zero_grad(lua_State *L) {
  graph_state *s = to_state(L, 1);
  for (int i = 0; i < graph_state_size(s); i++)
    if (graph_state_get(s, i)) xl_check(L, tx_tensor_set_grad(graph_state_get(s, i), NULL), "zero_grad");
  return 0;
}

/* A number that changes when a tensor is replaced or written to. */
static int state_version(lua_State *L) {
  graph_state *s = to_state(L, 1);
  lua_pushinteger(L, (lua_Integer)graph_state_version(s));
  return 1;
}

static int state_drop_folded(lua_State *L) { return graph_state_drop_folded(to_state(L, 1)), 0; }

/* ---- running ------------------------------------------------------------------------------------------------ */
static int run_gc(lua_State *L) {
  run_box *box = luaL_checkudata(L, 1, RUN);
  graph_run_free(box->run);
  box->run = NULL;
  return 0;
}

/* A list of ids from a field of the request at index 2; pushes what owns it. */
static const int *ids_field(lua_State *L, const char *name, const graph *g, int *n) {
  *n = 0;
  if (lua_getfield(L, 2, name) == LUA_TNIL) return NULL;
  luaL_checktype(L, -1, LUA_TTABLE);
  return to_ids(L, -1, g, n);
}

/* The tensors that belong to a list of ids; they stay owned by the request's table. */
static tx_tensor *const *tensors_field(lua_State *L, const char *name, int n) {
  if (!n) return NULL;
  int count;
  lua_getfield(L, 2, name);
  tx_tensor **ts = xl_totensors(L, -1, &count, name);
  if (count != n) xl_error(L, "graph: %d tensors for %d names", count, n);
  return ts;
}

static bool bool_field(lua_State *L, const char *name) {
  lua_getfield(L, 2, name);
  bool b = lua_toboolean(L, -1);
  lua_pop(L, 1);
  return b;
}

/* Pushes "vgg19 > classifier > fc1" for node classifier.fc1. Index 1: the state's box. */
static void push_path(lua_State *L, const char *node) {
  lua_getiuservalue(L, 1, 2);
  lua_getiuservalue(L, -1, 2);
  luaL_gsub(L, node, ".", " > ");
  lua_pushfstring(L, "%s > %s", lua_tostring(L, -2), lua_tostring(L, -1));
}

static int push_nomem(lua_State *L) { xl_budget_nomem(L, luaL_checkstring(L, 1), lua_toboolean(L, 2)); }

/* Pushes the message of a failed code. Must run before anything that changes tx_error() or graph_error(). */
static void push_message(lua_State *L, int code) {
  if (code == TX_INTERRUPTED) lua_pushliteral(L, "interrupted");
  else if (code == TX_NOMEM || code == TX_NOMEM_CHANGED) {
    char what[64];
    snprintf(what, sizeof what, "%.*s", (int)strcspn(graph_error(), ":"), graph_error());
    lua_pushcfunction(L, push_nomem);
    lua_pushstring(L, what);
    lua_pushboolean(L, code == TX_NOMEM_CHANGED);
    lua_pcall(L, 2, 1, 0);
  } else lua_pushstring(L, graph_error());
}

/* Frees the run, appends "\n  in node" to the error value on top (if it is a text and not an interrupt) and raises
 * it. */
static noreturn void raise_text(lua_State *L, run_box *box, const char *node) {
  graph_run_free(box->run);
  box->run = NULL;
  if (node && lua_type(L, -1) == LUA_TSTRING && !tx_interrupted()) {
    int text = lua_gettop(L);
    push_path(L, node);
    lua_pushfstring(L, "%s\n  in %s", lua_tostring(L, text), lua_tostring(L, -1));
  }
  lua_error(L);
  __builtin_unreachable();
}

/* Raises the run's error with the node it happened in. */
static noreturn void raise_code(lua_State *L, run_box *box, const graph *g, int code) {
  int node = box->run ? graph_run_node(box->run) : -1;
  luaL_checkstack(L, 8, "graph: error");
  push_message(L, code);
  raise_text(L, box, node >= 0 && code != TX_INTERRUPTED ? graph_name(g, node) : NULL);
}

/* Calls the Lua function of the waiting node. Index 3: the run's box. */
static void call_function(lua_State *L, run_box *box, graph *g) {
  int node = graph_run_node(box->run), top = lua_gettop(L);
  const int *ids;
  int n = graph_inputs(g, node, &ids);
  luaL_checkstack(L, n + 8, "graph: function node");
  lua_getiuservalue(L, 1, 2);
  lua_getiuservalue(L, -1, 1);
  lua_rawgeti(L, -1, node + 1);
  tx_tensor **in = xl_slots(L, n);
  for (int i = 0; i < n; i++) {
    int status = graph_run_input(&in[i], box->run, i);
    if (status != TX_OK) raise_code(L, box, g, status);
    xl_pushheld(L, in[i]);
    tx_tensor_free(in[i]); /* the box has its own: freed with it, not at the end of the run */
    in[i] = NULL;
  }
  bool mode = tx_grad_mode(graph_run_grad(box->run));
  int status = lua_pcall(L, n, 1, 0);
  tx_grad_mode(mode);
  if (status != LUA_OK) raise_text(L, box, graph_name(g, node));
  const xl_tensor *given = xl_testbox(L, -1);
  if (!given || !given->t) {
    lua_pushfstring(L, "function: gives %s (expected an open tensor)", luaL_typename(L, -1));
    raise_text(L, box, graph_name(g, node));
  }
  graph_run_give(box->run, given->t);
  lua_settop(L, top);
}

/* Calls request.each(id, tensor) after a node; true: stop here. Index 4: the function. */
static bool call_each(lua_State *L, run_box *box, const graph *g) {
  int node = graph_run_node(box->run), top = lua_gettop(L);
  lua_pushvalue(L, 4);
  lua_pushinteger(L, node + 1);
  xl_pushheld(L, graph_run_value(box->run, node));
  int box_at = lua_gettop(L);
  lua_pushvalue(L, box_at);
  lua_insert(L, top + 1);
  int status = lua_pcall(L, 2, 1, 0);
  if (status != LUA_OK) raise_text(L, box, graph_name(g, node));
  bool stop = lua_toboolean(L, -1);
  xl_closebox(lua_touserdata(L, top + 1)); /* each is called for every node: nothing is kept */
  lua_settop(L, top);
  return stop;
}

/* Two lists, or two nils. */
static void push_profile(lua_State *L, const graph_run *run, int count) {
  const double *seconds = graph_run_seconds(run);
  const uint64_t *sequences = graph_run_sequences(run);
  if (!seconds) {
    lua_pushnil(L);
    lua_pushnil(L);
    return;
  }
  lua_createtable(L, count + 1, 0);
  for (int i = 0; i <= count; i++) {
    lua_pushnumber(L, seconds[i]);
    lua_rawseti(L, -2, i + 1);
  }
  lua_createtable(L, count, 0);
  for (int i = 0; i < count; i++) {
    lua_pushinteger(L, sequences[i] == UINT64_MAX ? -1 : (lua_Integer)sequences[i]);
    lua_rawseti(L, -2, i + 1);
  }
}

/* state:run{ x=, outputs={ids}, override={ids}, override_tensors=, base={ids}, base_tensors=, leaves={ids}, training=,
 *   fold= (nil: in eval mode without grad), infer= (may the inference plan take steps), guided=, rectifiers={ids},
 *   layout=0|1|2, profile=, each=function(id, tensor) -> stop }
 *   -> list of tensors, one per output, false where `each` stopped before it; whether a ReLU6 ran as clamp(0, 6); what
 *   the inference plan left to the node by node pass, and why; how many steps it computed; with profile also the nodes'
 *   seconds, behind them those of the plan's copies, and the nodes' numbers in autograd, -1: none */
static int state_run(lua_State *L) {
  lua_settop(L, 2);
  graph_state *s = to_state(L, 1);
  graph *g = graph_state_graph(s);
  luaL_checktype(L, 2, LUA_TTABLE);
  run_box *box = new_box(L, RUN, 0);    /* 3 */
  lua_getfield(L, 2, "each");           /* 4 */
  luaL_checkstack(L, 32, "graph: run");
  graph_request r = { .training = bool_field(L, "training"),
                      .guided = bool_field(L, "guided"),
                      .grad = tx_grad_mode_get(),
                      .single = !lua_isnil(L, 4) };
  lua_getfield(L, 2, "layout");
  r.layout = (int)luaL_optinteger(L, -1, 0);
  r.outputs = ids_field(L, "outputs", g, &r.noutputs);
  r.overrides = ids_field(L, "override", g, &r.noverrides);
  r.base = ids_field(L, "base", g, &r.nbase);
  r.leaves = ids_field(L, "leaves", g, &r.nleaves);
  r.rectifiers = ids_field(L, "rectifiers", g, &r.nrectifiers);
  bool fold_usually = !r.training && !r.grad && !r.nleaves;
  r.fold = lua_getfield(L, 2, "fold") == LUA_TNIL ? fold_usually : lua_toboolean(L, -1);
  r.infer = bool_field(L, "infer");
  r.profile = bool_field(L, "profile");
  lua_getfield(L, 2, "x");
  int x_at = lua_gettop(L);
  r.override_tensors = tensors_field(L, "override_tensors", r.noverrides);
  r.base_tensors = tensors_field(L, "base_tensors", r.nbase);
  r.x = xl_opttensor(L, x_at);
  int tries = 0, failed_at = -1;
  int code = graph_run_new(&box->run, s, &r);
  while (code == TX_NOMEM && xl_budget_retry(L, &tries)) code = graph_run_new(&box->run, s, &r);
  if (code != TX_OK) raise_code(L, box, g, code);
  for (bool stop = false; !stop;) {
    switch (graph_step(box->run)) {
      case GRAPH_DONE: stop = true; break;
      case GRAPH_RAN: stop = call_each(L, box, g); break;
      case GRAPH_WAITS: call_function(L, box, g); break;
      case GRAPH_FAILED:
        code = graph_run_code(box->run);
        if (failed_at != graph_run_node(box->run)) tries = 0;
        failed_at = graph_run_node(box->run);
        if (code != TX_NOMEM || !xl_budget_retry(L, &tries)) raise_code(L, box, g, code);
    }
  }
  lua_createtable(L, r.noutputs, 0);
  for (int i = 0; i < r.noutputs; i++) {
    tx_tensor *t = graph_run_value(box->run, r.outputs[i]);
    if (t) xl_pushheld(L, t);
    else lua_pushboolean(L, false);
    lua_rawseti(L, -2, i + 1);
  }
  lua_pushboolean(L, graph_run_clamped(box->run));
  lua_pushstring(L, graph_run_note(box->run));
  lua_pushinteger(L, graph_run_planned(box->run));
  push_profile(L, box->run, graph_count(g));
  graph_run_free(box->run);
  box->run = NULL;
  xl_budget_check(L);
  return 6;
}

static void new_type(lua_State *L, const char *name, const luaL_Reg *methods, lua_CFunction gc, lua_CFunction close) {
  luaL_newmetatable(L, name);
  xl_setfunction(L, "__gc", gc);
  if (close) xl_setfunction(L, "__close", close);
  if (methods) {
    xl_newlib(L, methods);
    lua_setfield(L, -2, "__index");
  }
  lua_pushliteral(L, "protected");
  lua_setfield(L, -2, "__metatable");
  lua_pop(L, 1);
}

int luaopen_core_graph(lua_State *L) {
  static const luaL_Reg graph_methods[] = {
    { "input", graph_lua_input }, { "op", graph_lua_op },       { "drop_path", graph_lua_drop_path },
    { "func", graph_lua_func },   { "node", graph_lua_node },   { "batch", graph_lua_batch },
    { "count", graph_lua_count },
    { "plans", graph_lua_plans }, { "state", graph_lua_state }, { NULL, NULL },
  };
  static const luaL_Reg state_methods[] = { { "get", state_get },
                                            { "set", state_set },
                                            { "set_eval", state_set_eval },
                                            { "sync", state_sync },
                                            { "drop_folded", state_drop_folded },
                                            { "set_requires_grad", state_set_requires_grad },
                                            { "requires_grad", state_requires_grad },
                                            { "zero_grad", state_zero_grad },
                                            { "version", state_version },
                                            { "run", state_run },
                                            { "close", state_close },
                                            { NULL, NULL } };
  static const luaL_Reg functions[] = { { "new", graph_lua_new }, { NULL, NULL } };
  new_type(L, GRAPH, graph_methods, graph_lua_gc, NULL);
  new_type(L, STATE, state_methods, state_gc, state_close);
  new_type(L, RUN, NULL, run_gc, run_gc);
  xl_newlib(L, functions);
  return 1;
}
