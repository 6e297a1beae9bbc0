/* graph.c: builds the graphs of graph.h and keeps the tensors of one model (its state). graph_plan.c compiles plans,
 * graph_fold.c folds batch norms, graph_run.c runs. */
#include "graph_priv.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include "alloc.h"
#include "mx_assert.h"

/* ---- errors ------------------------------------------------------------------------------------------------- */
static _Thread_local char message[512];

const char *graph_error(void) { return message; }

int graph_fail(int status, const char *fmt, ...) {
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(message, sizeof message, fmt, ap);
  va_end(ap);
  return status;
}

int graph_out_of_memory(void) { return graph_fail(TX_NOMEM, "graph: out of memory"); }

/* ---- building ----------------------------------------------------------------------------------------------- */
graph *graph_new(void) {
  graph *g = mx_calloc(1, sizeof *g);
  if (g) g->refs = 1;
  return g;
}

graph *graph_retain(graph *g) { return g->refs++, g; }

static void value_clear(tx_value *v) {
  switch (v->kind) {
    case TX_STRING: mx_free((void *)v->s); break;
    case TX_INTS: mx_free((void *)v->is); break;
    case TX_DOUBLES: mx_free((void *)v->ds); break;
    case TX_BOOLS: mx_free((void *)v->bs); break;
    default: break;
  }
  v->kind = TX_NONE;
}

static void node_clear(node *n) {
  mx_free(n->name);
  for (int i = 0; n->args && i < n->nargs; i++) value_clear(&n->args[i]);
  mx_free(n->args);
  mx_free(n->binds);
  mx_free(n->inputs);
  mx_free(n->slots);
}

void graph_release(graph *g) {
  mx_assert(!g || g->refs > 0);
  if (!g || --g->refs > 0) return;
  for (int i = 0; i < g->count; i++) node_clear(&g->nodes[i]);
  for (int i = 0; i < g->nplans; i++) graph_plan_release(g->plans[i]);
  mx_free(g->nodes);
  mx_free(g);
}

int graph_count(const graph *g) { return g->count; }
const char *graph_name(const graph *g, int id) { return g->nodes[id].name; }
int graph_plans(const graph *g) { return g->nplans; }

const char *graph_op(const graph *g, int id) {
  const node *n = &g->nodes[id];
  switch (n->kind) {
    case INPUT: return "input";
    case DROP_PATH: return "drop_path";
    case FUNCTION: return "function";
    default: return tx_op_name(n->op);
  }
}

int graph_inputs(const graph *g, int id, const int **ids) {
  *ids = g->nodes[id].inputs;
  return g->nodes[id].ninputs;
}

static bool copy_list(tx_value *v, const void *from, size_t size) {
  void *to = mx_calloc((size_t)v->n, size);
  if (!to) return v->kind = TX_NONE, false;
  memcpy(to, from, (size_t)v->n * size);
  v->is = to;
  return true;
}

static bool copy_value(tx_value *to, const tx_value *from) {
  *to = *from;
  switch (from->kind) {
    case TX_STRING: return (to->s = mx_strdup(from->s)) || (to->kind = TX_NONE, false);
    case TX_INTS: return copy_list(to, from->is, sizeof *from->is);
    case TX_DOUBLES: return copy_list(to, from->ds, sizeof *from->ds);
    case TX_BOOLS: return copy_list(to, from->bs, sizeof *from->bs);
    default: return true;
  }
}

/* Room for one more node; the new node is cleared but not yet counted. States and runs have arrays over all nodes. */
static node *next_node(graph *g, const char *name, kind kind) {
  const char *why = g->refs > 1 ? "a model uses the graph already"
                    : (g->count == 0) != (kind == INPUT) ? "the first node is the input, and no other" : NULL;
  if (why) return graph_fail(TX_ERROR, "graph: '%s' cannot be added (%s)", name, why), NULL;
  if (g->count == g->room) {
    int room = g->room ? g->room * 2 : 64;
    node *nodes = mx_calloc((size_t)room, sizeof *nodes);
    if (!nodes) return graph_out_of_memory(), NULL;
    if (g->nodes) memcpy(nodes, g->nodes, (size_t)g->count * sizeof *nodes);
    mx_free(g->nodes);
    g->nodes = nodes;
    g->room = room;
  }
  node *n = &g->nodes[g->count];
  memset(n, 0, sizeof *n);
  n->kind = kind;
  n->counter = -1;
  n->per_image = 1;
  n->name = mx_strdup(name);
  return n->name ? n : (graph_out_of_memory(), NULL);
}

static int finish(graph *g, node *n, bool ok) {
  if (!n) return -1;
  if (!ok) return graph_out_of_memory(), node_clear(n), -1;
  if (n->nargs > g->max_args) g->max_args = n->nargs;
  return g->count++;
}

int graph_add_input(graph *g, const char *name) {
  node *n = next_node(g, name, INPUT);
  return finish(g, n, n != NULL);
}

static bool set_inputs(node *n, const int *ids, int count) {
  n->ninputs = count;
  n->inputs = mx_calloc((size_t)count, sizeof *n->inputs);
  if (n->inputs) memcpy(n->inputs, ids, (size_t)count * sizeof *ids);
  return n->inputs != NULL;
}

int graph_add_drop_path(graph *g, const char *name, int id, double p) {
  node *n = next_node(g, name, DROP_PATH);
  if (n) n->p = p, n->traits = VIEW;
  return finish(g, n, n && set_inputs(n, &id, 1));
}

int graph_add_function(graph *g, const char *name, const int *ids, int count) {
  node *n = next_node(g, name, FUNCTION);
  return finish(g, n, n && set_inputs(n, ids, count));
}

static bool fill_node(node *n, const graph_arg *args, int nargs) {
  int ninputs = 0, nslots = 0;
  for (int i = 0; i < nargs; i++) {
    if (args[i].kind == GRAPH_VALUE) ninputs++;
    if (args[i].kind == GRAPH_VALUES) ninputs += args[i].n;
    if (args[i].kind == GRAPH_SLOT) nslots++;
  }
  n->args = mx_calloc((size_t)nargs, sizeof *n->args);
  n->nargs = n->args ? nargs : 0;
  n->binds = mx_calloc((size_t)nargs, sizeof *n->binds);
  n->inputs = mx_calloc((size_t)ninputs, sizeof *n->inputs);
  n->slots = mx_calloc((size_t)nslots, sizeof *n->slots);
  if (!n->args || !n->binds || !n->inputs || !n->slots) return false;
  for (int i = 0; i < nargs; i++) {
    const graph_arg *a = &args[i];
    if (a->kind == GRAPH_CONST) {
      if (!copy_value(&n->args[i], &a->value)) return false;
      continue;
    }
    bind *b = &n->binds[n->nbinds++];
    *b = (bind){ i, a->kind, n->ninputs, a->n + __builtin_popcountll(a->none), a->none };
    if (a->kind == GRAPH_VALUE) n->inputs[n->ninputs++] = a->id;
    if (a->kind == GRAPH_VALUES)
      for (int k = 0; k < a->n; k++) n->inputs[n->ninputs++] = a->ids[k];
    if (a->kind == GRAPH_SLOT) n->slots[n->nslots++] = b->first = a->id;
  }
  return true;
}

static const struct { const char *name; int traits; } known_ops[] = {
  { "conv2d", FRESH | CONV }, { "batch_norm", FRESH | NORM }, { "linear", FRESH | LINEAR },
  { "relu", FRESH | INPLACE | RECTIFIER }, { "hardtanh", FRESH | INPLACE | RECTIFIER | CLAMP6 },
  { "silu", FRESH | INPLACE }, { "sigmoid", FRESH | INPLACE },
  { "add", FRESH | INPLACE | BINARY }, { "mul", FRESH | INPLACE | BINARY },
  { "cat", FRESH }, { "max_pool2d", FRESH }, { "avg_pool2d", FRESH }, { "adaptive_avg_pool2d", FRESH },
  { "flatten", VIEW }, { "dropout", DROPOUT | VIEW },
  { "hardswish", FRESH | INPLACE }, { "hardsigmoid", FRESH | INPLACE }, { "gelu", FRESH | INPLACE },
  { "leaky_relu", FRESH | INPLACE }, { "elu", FRESH | INPLACE }, { "mish", FRESH | INPLACE },
  { "tanh", FRESH | INPLACE },
  { "sub", FRESH | INPLACE | BINARY }, { "div", FRESH | INPLACE | BINARY },
  { "layer_norm", FRESH }, { "group_norm", FRESH }, { "softmax", FRESH }, { "matmul", FRESH }, { "bmm", FRESH },
  { "mean", FRESH }, { "index", FRESH }, { "stack", FRESH }, { "clone", FRESH }, { "roll", FRESH },
  { "scaled_dot_product_attention", FRESH },
  { "reshape", VIEW }, { "view", VIEW }, { "permute", VIEW }, { "transpose", VIEW }, { "contiguous", VIEW },
  { "select", VIEW }, { "slice", VIEW }, { "narrow", VIEW }, { "unsqueeze", VIEW }, { "squeeze", VIEW },
  { "detach", VIEW },
};

static void learn_traits(node *n) {
  const char *name = tx_op_name(n->op);
  for (size_t i = 0; i < sizeof known_ops / sizeof *known_ops; i++)
    if (!strcmp(known_ops[i].name, name)) n->traits = known_ops[i].traits;
  /* All traits but FRESH assume that the first argument is a node's value. */
  if (!n->nbinds || n->binds[0].arg != 0 || n->binds[0].kind != GRAPH_VALUE) n->traits &= FRESH;
  if (n->traits & INPLACE && n->ninputs) {
    char inplace[64];
    snprintf(inplace, sizeof inplace, "%s_", name);
    n->inplace = tx_op_find(inplace, tx_op_overload(n->op));
  }
  if (n->traits & BINARY && n->ninputs != 2) n->inplace = NULL;
  if (n->traits & DROPOUT) {
    bool is_usual = n->nargs == 3 && n->ninputs == 1 && n->nbinds == 2 && n->binds[1].kind == GRAPH_TRAINING
                    && n->args[1].kind == TX_DOUBLE;
    if (is_usual) n->p = n->args[1].d;
    else n->traits = 0;
  }
  /* Only the clamp to [0, 6] is a rectifier. */
  if (n->traits & CLAMP6
      && !(n->nargs == 3 && n->args[1].kind == TX_INT && n->args[1].i == 0 && n->args[2].kind == TX_INT
           && n->args[2].i == 6))
    n->traits &= ~(RECTIFIER | CLAMP6);
  /* Folding expects conv2d(x, w, b, ...) and batch_norm(x, w, b, mean, var, training, momentum, eps, ...), all from
   * slots. */
  if (n->traits & CONV
      && !(n->nargs >= 3 && n->nslots >= 1 && n->ninputs == 1 && n->binds[1].arg == 1
           && n->binds[1].kind == GRAPH_SLOT))
    n->traits &= ~CONV;
  if (n->traits & NORM && !(n->nargs >= 8 && n->nslots == 4 && n->ninputs == 1 && n->args[7].kind == TX_DOUBLE))
    n->traits &= ~NORM;
  if (n->traits & NORM && n->args[5].kind == TX_BOOL && n->args[5].b) n->traits &= ~NORM; /* always in training */
}

void graph_set_batch(graph *g, int id, int dim, int64_t per_image) {
  g->nodes[id].batch_dim = dim;
  g->nodes[id].per_image = per_image;
}

int graph_add_op(graph *g, const char *name, const tx_op *op, const graph_arg *args, int nargs, int counter) {
  if (tx_op_writes(op)) /* values are kept, and read again by later runs: the executor alone works in place */
    return graph_fail(TX_ERROR,
                      "graph: '%s' is the operator '%s%s%s', which writes to its argument (expected one that gives a "
                      "new value).",
                      name, tx_op_name(op), *tx_op_overload(op) ? "." : "", tx_op_overload(op)),
           -1;
  node *n = next_node(g, name, OP);
  bool ok = n && fill_node(n, args, nargs);
  if (ok) {
    n->op = op;
    n->counter = counter;
    learn_traits(n);
    if (counter >= g->nslots) g->nslots = counter + 1;
    for (int i = 0; i < n->nslots; i++)
      if (n->slots[i] >= g->nslots) g->nslots = n->slots[i] + 1;
  }
  return finish(g, n, ok);
}

/* ---- state -------------------------------------------------------------------------------------------------- */
graph_state *graph_state_new(graph *g, int nslots) {
  if (nslots < g->nslots)
    return graph_fail(TX_ERROR, "graph: its nodes read %d slots (got %d)", g->nslots, nslots), NULL;
  graph_state *s = mx_calloc(1, sizeof *s);
  if (!s) return graph_out_of_memory(), NULL;
  s->refs = 1;
  s->nslots = nslots;
  s->nfolded = g->count;
  s->slots = mx_calloc((size_t)nslots, sizeof *s->slots);
  s->eval = mx_calloc((size_t)g->count, 1);
  s->folded = mx_calloc((size_t)g->count, sizeof *s->folded);
  s->g = graph_retain(g);
  if (s->slots && s->eval && s->folded) return s;
  s->nslots = s->nfolded = 0;
  graph_state_free(s);
  return graph_out_of_memory(), NULL;
}

graph_state *graph_state_retain(graph_state *s) { return s->refs++, s; }

void graph_state_drop_folded(graph_state *s) {
  for (int i = 0; i < s->nfolded; i++) {
    tx_tensor_free(s->folded[i].w);
    tx_tensor_free(s->folded[i].b);
    s->folded[i].w = s->folded[i].b = NULL;
    s->folded[i].stamp = 0;
  }
  infer_free(s->infer);
  s->infer = NULL;
}

void graph_state_free(graph_state *s) {
  mx_assert(!s || s->refs > 0);
  if (!s || --s->refs > 0) return;
  for (int i = 0; i < s->nslots; i++) tx_tensor_free(s->slots[i]);
  graph_state_drop_folded(s);
  tx_dist_free(s->sync);
  mx_free(s->slots);
  mx_free(s->eval);
  mx_free(s->folded);
  graph_release(s->g);
  mx_free(s);
}

graph *graph_state_graph(graph_state *s) { return s->g; }
int graph_state_size(const graph_state *s) { return s->nslots; }

tx_tensor *graph_state_get(const graph_state *s, int slot) {
  mx_assert(slot >= 0 && slot < s->nslots);
  return s->slots[slot];
}

void graph_state_set_eval(graph_state *s, int node, bool on) { s->eval[node] = on; }

void graph_state_sync(graph_state *s, tx_dist *group) {
  tx_dist *before = s->sync;
  s->sync = tx_dist_retain(group);
  tx_dist_free(before);
}

void graph_state_set(graph_state *s, int slot, tx_tensor *t) {
  tx_tensor *old = s->slots[slot];
  s->slots[slot] = t ? tx_tensor_ref(t) : NULL;
  tx_tensor_free(old);
  s->sets++;
}

uint64_t graph_state_version(const graph_state *s) {
  uint64_t h = graph_mix(2, s->sets);
  for (int i = 0; i < s->nslots; i++)
    if (s->slots[i]) h = graph_mix(h, tx_tensor_version(s->slots[i]));
  return h;
}
