/* graph.c: builds, compiles and runs the graphs of graph.h. A plan is the list of steps for one kind of request; it
 * decides what is kept, what is freed and when, which batch norms are folded, and which nodes work in place.
 * Everything that a plan depends on stands in its key, so a cached plan is never wrong, only unused.
 * It refuses to work in place on a value that anyone else can still see. */
#include "graph.h"
#include "alloc.h"
#include "mx_assert.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* ---- memory, errors ----------------------------------------------------------------------------------------- */
static _Thread_local char message[512];

const char *graph_error(void) { return message; }

__attribute__((format(printf, 2, 3))) static int fail(int status, const char *fmt, ...) {
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(message, sizeof message, fmt, ap);
  va_end(ap);
  return status;
}

static int out_of_memory(void) { return fail(TX_NOMEM, "graph: out of memory"); }

/* ---- structures --------------------------------------------------------------------------------------------- */
typedef enum kind { INPUT, OP, DROP_PATH, FUNCTION } kind;

/* What the executor knows about an operator beyond its schema. */
enum {
  FRESH = 1,      /* its result never shares memory with an argument */
  INPLACE = 2,    /* op_ gives the same bits in its first argument */
  BINARY = 4,     /* ... where both arguments agree in dtype and layout */
  VIEW = 8,       /* its result may share its first argument's memory */
  RECTIFIER = 16, /* guided ReLU applies */
  DROPOUT = 32,   /* (x, p, training): x itself where p is 0 or not training */
  CONV = 64,      /* a batch norm can be folded into it */
  NORM = 128,
  CLAMP6 = 256,   /* hardtanh: no bfloat16 backward on libtorch 1 */
  LINEAR = 512
};
static const struct { const char *name; int traits; } known_ops[] = {
  { "conv2d", FRESH | CONV }, { "batch_norm", FRESH | NORM }, { "linear", FRESH | LINEAR },
  { "relu", FRESH | INPLACE | RECTIFIER }, { "hardtanh", FRESH | INPLACE | RECTIFIER | CLAMP6 },
  { "silu", FRESH | INPLACE }, { "sigmoid", FRESH | INPLACE },
  { "add", FRESH | INPLACE | BINARY }, { "mul", FRESH | INPLACE | BINARY },
  { "cat", FRESH }, { "max_pool2d", FRESH }, { "avg_pool2d", FRESH }, { "adaptive_avg_pool2d", FRESH },
  { "flatten", VIEW }, { "dropout", DROPOUT | VIEW },
  { "hardswish", FRESH | INPLACE }, { "hardsigmoid", FRESH | INPLACE }, { "gelu", FRESH | INPLACE },
  { "leaky_relu", FRESH | INPLACE }, { "elu", FRESH | INPLACE }, { "mish", FRESH | INPLACE }, { "tanh", FRESH | INPLACE },
  { "sub", FRESH | INPLACE | BINARY }, { "div", FRESH | INPLACE | BINARY },
  { "layer_norm", FRESH }, { "group_norm", FRESH }, { "softmax", FRESH }, { "matmul", FRESH }, { "bmm", FRESH },
  { "mean", FRESH }, { "index", FRESH }, { "stack", FRESH }, { "clone", FRESH }, { "roll", FRESH },
  { "scaled_dot_product_attention", FRESH },
  { "reshape", VIEW }, { "view", VIEW }, { "permute", VIEW }, { "transpose", VIEW }, { "contiguous", VIEW },
  { "select", VIEW }, { "slice", VIEW }, { "narrow", VIEW }, { "unsqueeze", VIEW }, { "squeeze", VIEW }, { "detach", VIEW },
};

typedef struct bind { /* an argument that is filled in when the node runs */
  int arg;
  graph_arg_kind kind;
  int first, n; /* GRAPH_VALUES: in inputs; GRAPH_VALUE: first in inputs; GRAPH_SLOT: first is the slot */
  uint64_t none; /* GRAPH_VALUES: which of the list's entries are None; n counts them, too */
} bind;

typedef struct node {
  char *name;
  kind kind;
  int traits;
  const tx_op *op, *inplace; /* inplace: NULL where there is none */
  tx_value *args; int nargs; /* constants; the rest is written over per run */
  bind *binds; int nbinds;
  int *inputs; int ninputs;  /* value ids in argument order */
  int *slots; int nslots;
  int counter;               /* num_batches_tracked, or -1 */
  double p;                  /* dropout, drop path */
  int batch_dim;             /* where its value holds the images, see graph_set_batch */
  int64_t per_image;
} node;

typedef enum how { RUN, IN_PLACE, GUIDED, PASS, FOLDED } how;
typedef struct step {
  int node;
  how how;
  bool grad, leaf;
  int conv;              /* FOLDED: the convolution's node */
  int free_first, nfree; /* in plan.frees: values that nobody reads after this step */
} step;

typedef struct plan {
  unsigned char *key; size_t nkey;
  int refs;              /* the cache's, and one a run */
  step *steps; int nsteps;
  int *frees;
  unsigned char *outside; /* per value: no override reaches it, but a reader is reached: expanded along the batch */
  unsigned char *reached; /* per value: an override reaches it */
  unsigned char *training;
} plan;

enum { MAX_PLANS = 64 };
struct graph {
  int refs;
  node *nodes; int count, room;
  int max_args, nslots; /* nslots: one more than the largest slot that a node reads */
  plan *plans[MAX_PLANS]; int nplans;
};

typedef struct folded { tx_tensor *w, *b; uint64_t stamp; } folded; /* of one batch norm */
struct graph_state {
  int refs; /* the owner's, and one a run */
  graph *g;
  tx_tensor **slots; int nslots;
  unsigned char *eval;            /* per node */
  folded *folded; int nfolded;    /* per node */
  uint64_t sets;                  /* counts graph_state_set */
};

struct graph_run {
  graph_state *s;
  graph *g;
  plan *plan;
  tx_tensor **values; /* per node; owned */
  tx_value *args;     /* scratch: graph.max_args */
  tx_tensor **lists;  /* scratch for tensor lists */
  tx_tensor **temps; int ntemps; /* expanded values of the running node; owned */
  tx_tensor *noise;   /* drawn for the running node, should it be tried again; owned */
  int pc, node, code;
  int64_t batch;      /* of the overrides; 0: there are none */
  int layout;
  bool single, given, clamped;
};

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

static void plan_release(plan *p) {
  if (!p || --p->refs > 0) return;
  mx_free(p->key);
  mx_free(p->steps);
  mx_free(p->frees);
  mx_free(p->outside);
  mx_free(p->reached);
  mx_free(p->training);
  mx_free(p);
}

void graph_release(graph *g) {
  mx_assert(!g || g->refs > 0);
  if (!g || --g->refs > 0) return;
  for (int i = 0; i < g->count; i++) node_clear(&g->nodes[i]);
  for (int i = 0; i < g->nplans; i++) plan_release(g->plans[i]);
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
  if (why) return fail(TX_ERROR, "graph: '%s' cannot be added (%s)", name, why), NULL;
  if (g->count == g->room) {
    int room = g->room ? g->room * 2 : 64;
    node *nodes = mx_calloc((size_t)room, sizeof *nodes);
    if (!nodes) return out_of_memory(), NULL;
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
  return n->name ? n : (out_of_memory(), NULL);
}

static int finish(graph *g, node *n, bool ok) {
  if (!n) return -1;
  if (!ok) return out_of_memory(), node_clear(n), -1;
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

static bool is_first_a_value(const node *n) { return n->nbinds && n->binds[0].arg == 0 && n->binds[0].kind == GRAPH_VALUE; }

static void learn_traits(node *n) {
  const char *name = tx_op_name(n->op);
  for (size_t i = 0; i < sizeof known_ops / sizeof *known_ops; i++)
    if (!strcmp(known_ops[i].name, name)) n->traits = known_ops[i].traits;
  /* All but FRESH is about an operator whose first argument is a node's value. */
  if (!is_first_a_value(n)) n->traits &= FRESH;
  if (n->traits & INPLACE && n->ninputs) {
    char inplace[64];
    snprintf(inplace, sizeof inplace, "%s_", name);
    n->inplace = tx_op_find(inplace, tx_op_overload(n->op));
  }
  if (n->traits & BINARY && n->ninputs != 2) n->inplace = NULL;
  if (n->traits & DROPOUT) {
    bool is_usual = n->nargs == 3 && n->ninputs == 1 && n->nbinds == 2 && n->binds[1].kind == GRAPH_TRAINING && n->args[1].kind == TX_DOUBLE;
    if (is_usual) n->p = n->args[1].d;
    else n->traits = 0;
  }
  /* Only the clamp to [0, 6] is a rectifier. */
  if (n->traits & CLAMP6 && !(n->nargs == 3 && n->args[1].kind == TX_INT && n->args[1].i == 0 && n->args[2].kind == TX_INT && n->args[2].i == 6))
    n->traits &= ~(RECTIFIER | CLAMP6);
  /* Folding reads: conv2d(x, w, b, ...), batch_norm(x, w, b, mean, var, training, momentum, eps, ...) all from slots. */
  if (n->traits & CONV && !(n->nargs >= 3 && n->nslots >= 1 && n->ninputs == 1 && n->binds[1].arg == 1 && n->binds[1].kind == GRAPH_SLOT))
    n->traits &= ~CONV;
  if (n->traits & NORM && !(n->nargs >= 8 && n->nslots == 4 && n->ninputs == 1 && n->args[7].kind == TX_DOUBLE)) n->traits &= ~NORM;
}

void graph_set_batch(graph *g, int id, int dim, int64_t per_image) {
  g->nodes[id].batch_dim = dim;
  g->nodes[id].per_image = per_image;
}

int graph_add_op(graph *g, const char *name, const tx_op *op, const graph_arg *args, int nargs, int counter) {
  if (tx_op_writes(op)) /* values are kept, and read again by later runs: the executor alone decides what works in place */
    return fail(TX_ERROR, "graph: '%s' is the operator '%s%s%s', which writes to its argument (expected one that gives a new value).", name,
                tx_op_name(op), *tx_op_overload(op) ? "." : "", tx_op_overload(op)), -1;
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
  if (nslots < g->nslots) return fail(TX_ERROR, "graph: its nodes read %d slots (got %d)", g->nslots, nslots), NULL;
  graph_state *s = mx_calloc(1, sizeof *s);
  if (!s) return out_of_memory(), NULL;
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
  return out_of_memory(), NULL;
}

graph_state *graph_state_retain(graph_state *s) { return s->refs++, s; }

void graph_state_drop_folded(graph_state *s) {
  for (int i = 0; i < s->nfolded; i++) {
    tx_tensor_free(s->folded[i].w);
    tx_tensor_free(s->folded[i].b);
    s->folded[i] = (folded){ 0 };
  }
}

void graph_state_free(graph_state *s) {
  mx_assert(!s || s->refs > 0);
  if (!s || --s->refs > 0) return;
  for (int i = 0; i < s->nslots; i++) tx_tensor_free(s->slots[i]);
  graph_state_drop_folded(s);
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

void graph_state_set(graph_state *s, int slot, tx_tensor *t) {
  tx_tensor *old = s->slots[slot];
  s->slots[slot] = t ? tx_tensor_ref(t) : NULL;
  tx_tensor_free(old);
  s->sets++;
}

/* ---- compiling ---------------------------------------------------------------------------------------------- */
/* Per value while a plan is made. */
typedef struct fact {
  bool over, based, reached, needed, kept, leaf, under_leaf, grad, grad_read, training, folded;
  bool escaped;          /* an operator that may give back its argument's memory has read it */
  int readers, last_use; /* last_use: index of a node; -1: nobody reads it */
  int memory;            /* the value whose memory this one shares; -1: unknown, or not ours to write to */
} fact;

typedef struct compiler {
  const graph *g;
  const graph_state *s;
  const graph_request *r;
  fact *f;
  how *how;
} compiler;

static bool is_pass(const node *n, bool training) {
  return (n->kind == DROP_PATH || n->traits & DROPOUT) && (!training || n->p == 0);
}

static bool slots_require_grad(const compiler *c, const node *n) {
  for (int i = 0; i < n->nslots; i++) {
    tx_tensor *t = c->s->slots[n->slots[i]];
    if (t && tx_tensor_requires_grad(t)) return true;
  }
  return false;
}

/* Which values are given, which an override reaches, which have to be computed. */
static int find_needed(compiler *c) {
  const graph_request *r = c->r;
  fact *f = c->f;
  for (int i = 0; i < r->noverrides; i++) f[r->overrides[i]].over = true;
  for (int i = 0; i < r->nbase; i++) f[r->base[i]].based = true;
  for (int i = 0; i < r->noutputs; i++) f[r->outputs[i]].needed = f[r->outputs[i]].kept = true;
  for (int i = 0; i < r->nleaves; i++) f[r->leaves[i]].needed = f[r->leaves[i]].kept = f[r->leaves[i]].leaf = true;
  for (int v = 0; v < c->g->count; v++) {
    const node *n = &c->g->nodes[v];
    f[v].reached = f[v].over;
    for (int i = 0; i < n->ninputs; i++) f[v].reached |= f[n->inputs[i]].reached;
    f[v].training = r->training && !c->s->eval[v];
    f[v].last_use = f[v].memory = -1;
  }
  for (int v = c->g->count - 1; v >= 0; v--) {
    const node *n = &c->g->nodes[v];
    if (f[v].over) f[v].based = false;
    if (f[v].reached) f[v].based = false; /* an earlier run's value is stale here */
    if (!f[v].needed || f[v].over || f[v].based) continue;
    if (n->kind == INPUT && !r->x) return fail(TX_ERROR, "graph: the input is read but was not given. Give x, or the values in base that are read.");
    for (int i = 0; i < n->ninputs; i++) f[n->inputs[i]].needed = true;
  }
  return TX_OK;
}

static bool is_given(const fact *f) { return f->over || f->based; }

static bool given_requires_grad(const compiler *c, int v) {
  const graph_request *r = c->r;
  for (int i = 0; i < r->noverrides; i++)
    if (r->overrides[i] == v) return tx_tensor_requires_grad(r->override_tensors[i]);
  for (int i = 0; i < r->nbase; i++)
    if (r->base[i] == v) return tx_tensor_requires_grad(r->base_tensors[i]);
  return false;
}

/* Where autograd records. With leaves: below them only. Without: as eager code would. */
static void find_grad(compiler *c) {
  for (int v = 0; v < c->g->count; v++) {
    fact *f = &c->f[v];
    const node *n = &c->g->nodes[v];
    if (!f->needed) continue;
    bool from_input = false;
    if (!is_given(f))
      for (int i = 0; i < n->ninputs; i++) {
        from_input |= c->f[n->inputs[i]].grad;
        f->under_leaf |= c->f[n->inputs[i]].leaf || c->f[n->inputs[i]].under_leaf;
      }
    if (f->under_leaf) f->leaf = false; /* it lies behind another leaf: part of the recorded graph, not cut off */
    if (c->r->nleaves) f->grad = f->leaf || f->under_leaf;
    else if (!c->r->grad) f->grad = false;
    else if (is_given(f)) f->grad = given_requires_grad(c, v);
    else if (n->kind == INPUT) f->grad = tx_tensor_requires_grad(c->r->x);
    else f->grad = n->kind == FUNCTION || from_input || slots_require_grad(c, n);
    if (f->grad && !is_given(f) && !f->leaf)
      for (int i = 0; i < n->ninputs; i++) c->f[n->inputs[i]].grad_read = true;
  }
}

/* A batch norm in eval mode folds into the convolution before it, where nobody else sees that one's output. Folded weights
 * record no gradients of their own: recorded nodes fold only where gradients are of leaves. */
static void find_folds(compiler *c) {
  for (int v = 0; v < c->g->count; v++) {
    const node *n = &c->g->nodes[v];
    if (!c->f[v].needed || is_given(&c->f[v])) continue;
    for (int i = 0; i < n->ninputs; i++) c->f[n->inputs[i]].readers++;
  }
  if (!c->r->fold) return;
  for (int v = 0; v < c->g->count; v++) {
    const node *n = &c->g->nodes[v];
    fact *f = &c->f[v];
    if (!(n->traits & NORM) || !f->needed || is_given(f) || f->training || (f->grad && !c->r->nleaves)) continue;
    int u = n->inputs[0];
    fact *conv = &c->f[u];
    if (!(c->g->nodes[u].traits & CONV) || conv->readers != 1 || conv->kept || is_given(conv) || conv->leaf || (conv->grad && !c->r->nleaves)) continue;
    conv->folded = true;
    c->how[v] = FOLDED;
  }
}

static void find_last_uses(compiler *c) {
  for (int v = 0; v < c->g->count; v++) {
    const node *n = &c->g->nodes[v];
    if (!c->f[v].needed || is_given(&c->f[v]) || c->f[v].folded) continue;
    const node *reads = c->how[v] == FOLDED ? &c->g->nodes[n->inputs[0]] : n;
    for (int i = 0; i < reads->ninputs; i++) c->f[reads->inputs[i]].last_use = v;
  }
}

/* May node v overwrite its first input? Only memory that this run made, that no later node, output or saved tensor shares. */
static bool may_overwrite(const compiler *c, int v) {
  const node *n = &c->g->nodes[v];
  const fact *f = &c->f[v];
  if (!n->inplace || f->grad || f->leaf) return false;
  int memory = c->f[n->inputs[0]].memory;
  if (memory < 0 || c->f[memory].escaped) return false;
  if (c->r->noverrides && f->reached) return false; /* its inputs may be expanded */
  for (int i = 1; i < n->ninputs; i++)
    if (c->f[n->inputs[i]].memory == memory) return false;
  for (int u = memory; u < v; u++) {
    const fact *o = &c->f[u];
    if (!o->needed || o->memory != memory) continue;
    if (o->kept || o->last_use > v || o->grad_read || o->grad) return false;
  }
  return true;
}

static void mark_escaped(compiler *c, const node *n) {
  for (int i = 0; i < n->ninputs; i++) {
    int memory = c->f[n->inputs[i]].memory;
    if (memory >= 0) c->f[memory].escaped = true;
  }
}

static bool is_guided(const graph_request *r, int v) {
  for (int i = 0; i < r->nrectifiers; i++)
    if (r->rectifiers[i] == v) return true;
  return r->nrectifiers == 0;
}

static void find_hows(compiler *c) {
  for (int v = 0; v < c->g->count; v++) {
    const node *n = &c->g->nodes[v];
    fact *f = &c->f[v];
    if (!f->needed || is_given(f) || f->folded) continue;
    if (c->how[v] == FOLDED) {
      f->memory = v;
      continue;
    }
    if (is_pass(n, f->training)) c->how[v] = PASS;
    else if (c->r->guided && f->grad && n->traits & RECTIFIER && is_guided(c->r, v)) c->how[v] = GUIDED;
    else if (may_overwrite(c, v)) c->how[v] = IN_PLACE;
    if (c->how[v] == PASS || c->how[v] == IN_PLACE || n->traits & VIEW) f->memory = c->f[n->inputs[0]].memory;
    else if (n->traits & FRESH) f->memory = v;
    else if (n->kind != INPUT) mark_escaped(c, n);
  }
}

static int write_plan(compiler *c, plan *p) {
  int count = c->g->count, nfrees = 0;
  p->steps = mx_calloc((size_t)count, sizeof *p->steps);
  p->frees = mx_calloc((size_t)count, sizeof *p->frees);
  p->outside = mx_calloc((size_t)count, 1);
  p->reached = mx_calloc((size_t)count, 1);
  p->training = mx_calloc((size_t)count, 1);
  if (!p->steps || !p->frees || !p->outside || !p->reached || !p->training) return out_of_memory();
  for (int v = 0; v < count; v++) {
    const fact *f = &c->f[v];
    const node *n = &c->g->nodes[v];
    p->reached[v] = c->r->noverrides && f->reached;
    p->outside[v] = c->r->noverrides && !f->reached;
    p->training[v] = f->training;
    if (!f->needed || f->folded || (is_given(f) && !f->leaf)) continue;
    step *s = &p->steps[p->nsteps++];
    *s = (step){ .node = v, .how = is_given(f) ? PASS : c->how[v], .grad = f->grad && !f->leaf, .leaf = f->leaf, .free_first = nfrees };
    if (s->how == FOLDED) s->conv = n->inputs[0];
    if (is_given(f)) continue;
    const node *reads = s->how == FOLDED ? &c->g->nodes[s->conv] : n;
    for (int i = 0; i < reads->ninputs; i++) {
      int u = reads->inputs[i];
      if (c->f[u].last_use != v || c->f[u].kept) continue;
      c->f[u].last_use = -1; /* once, though a node may read a value twice */
      p->frees[nfrees++] = u;
    }
    s->nfree = nfrees - s->free_first;
  }
  return TX_OK;
}

static int compile(plan **out, const graph_state *s, const graph_request *r) {
  size_t count = (size_t)s->g->count;
  compiler c = { s->g, s, r, mx_calloc(count, sizeof(fact)), mx_calloc(count, sizeof(how)) };
  plan *p = mx_calloc(1, sizeof *p);
  int status = c.f && c.how && p ? TX_OK : out_of_memory();
  if (status == TX_OK) p->refs = 1;
  if (status == TX_OK) status = find_needed(&c);
  if (status == TX_OK) {
    find_grad(&c);
    find_folds(&c);
    find_last_uses(&c);
    find_hows(&c);
    status = write_plan(&c, p);
  }
  mx_free(c.f);
  mx_free(c.how);
  if (status == TX_OK) *out = p;
  else plan_release(p);
  return status;
}

/* ---- the plan cache ----------------------------------------------------------------------------------------- */
/* Everything that compile() reads, as bytes. */
static size_t key_room(const graph_state *s, const graph_request *r) {
  return 16 + sizeof(int) * (size_t)(5 + r->noutputs + r->noverrides + r->nbase + r->nleaves + r->nrectifiers) + (size_t)(r->noverrides + r->nbase)
       + (size_t)s->nslots / 8 + 1 + (size_t)s->g->count / 8 + 1;
}

static unsigned char *put_ints(unsigned char *k, const int *v, int n) {
  memcpy(k, &n, sizeof n);
  k += sizeof n;
  if (n) memcpy(k, v, sizeof *v * (size_t)n);
  return k + sizeof *v * (size_t)n;
}

static size_t write_key(unsigned char *key, const graph_state *s, const graph_request *r) {
  unsigned char *k = key;
  *k++ = (unsigned char)((r->training ? 1 : 0) | (r->grad ? 2 : 0) | (r->fold ? 4 : 0) | (r->guided ? 8 : 0) | (r->x ? 16 : 0)
                         | (r->x && tx_tensor_requires_grad(r->x) ? 32 : 0));
  k = put_ints(k, r->outputs, r->noutputs);
  k = put_ints(k, r->overrides, r->noverrides);
  k = put_ints(k, r->base, r->nbase);
  k = put_ints(k, r->leaves, r->nleaves);
  k = put_ints(k, r->rectifiers, r->nrectifiers);
  for (int i = 0; i < r->noverrides; i++) *k++ = tx_tensor_requires_grad(r->override_tensors[i]);
  for (int i = 0; i < r->nbase; i++) *k++ = tx_tensor_requires_grad(r->base_tensors[i]);
  unsigned char *bits = k;
  k += s->nslots / 8 + 1;
  memset(bits, 0, (size_t)(k - bits));
  if (r->grad && !r->nleaves)
    for (int i = 0; i < s->nslots; i++)
      if (s->slots[i] && tx_tensor_requires_grad(s->slots[i])) bits[i / 8] |= (unsigned char)(1u << i % 8);
  bits = k;
  k += s->g->count / 8 + 1;
  memset(bits, 0, (size_t)(k - bits));
  if (r->training)
    for (int i = 0; i < s->g->count; i++)
      if (s->eval[i]) bits[i / 8] |= (unsigned char)(1u << i % 8);
  return (size_t)(k - key);
}

/* The plan of this request, the most recently used one first; the least recently used one makes room. */
static int find_plan(plan **out, graph_state *s, const graph_request *r) {
  graph *g = s->g;
  unsigned char *key = mx_calloc(key_room(s, r), 1);
  if (!key) return out_of_memory();
  size_t n = write_key(key, s, r);
  int at = 0;
  while (at < g->nplans && !(g->plans[at]->nkey == n && !memcmp(g->plans[at]->key, key, n))) at++;
  plan *p = NULL;
  if (at < g->nplans) {
    p = g->plans[at];
    mx_free(key);
  } else {
    int status = compile(&p, s, r);
    if (status != TX_OK) return mx_free(key), status;
    p->key = key;
    p->nkey = n;
    if (g->nplans < MAX_PLANS) g->nplans++;
    else plan_release(g->plans[MAX_PLANS - 1]);
    at = g->nplans - 1;
  }
  memmove(&g->plans[1], &g->plans[0], (size_t)at * sizeof g->plans[0]);
  g->plans[0] = p;
  p->refs++;
  *out = p;
  return TX_OK;
}

/* ---- small operators ---------------------------------------------------------------------------------------- */
static tx_value tensor_value(tx_tensor *t) { return (tx_value){ .kind = t ? TX_TENSOR : TX_NONE, .t = t }; }
static tx_value double_value(double d) { return (tx_value){ .kind = TX_DOUBLE, .d = d }; }

/* One tensor out of aten::name.overload. */
static int call(tx_tensor **out, const char *name, const char *overload, const tx_value *args, int nargs) {
  const tx_op *op = tx_op_find(name, overload);
  if (!op) return fail(TX_ERROR, "%s.%s: not in this libtorch", name, overload);
  tx_value v = { .kind = TX_NONE };
  int status = tx_op_call(&v, op, args, nargs);
  if (status != TX_OK) return fail(status, "%s: %s", name, tx_error());
  *out = v.t;
  return TX_OK;
}

static int call1(tx_tensor **out, const char *name, const char *overload, tx_tensor *a) {
  return call(out, name, overload, (tx_value[]){ tensor_value(a) }, 1);
}

static int call2(tx_tensor **out, const char *name, const char *overload, tx_tensor *a, tx_value b) {
  return call(out, name, overload, (tx_value[]){ tensor_value(a), b }, 2);
}

/* t = result: frees what t was. result by address, as it is set while the arguments are evaluated. */
static int replace(tx_tensor **t, int status, tx_tensor *const *result) {
  if (status != TX_OK) return status;
  tx_tensor_free(*t);
  *t = *result;
  return TX_OK;
}

/* ---- batch-norm folding ------------------------------------------------------------------------------------- */
static uint64_t mix(uint64_t h, uint64_t v) { return (h ^ v) * 0x9E3779B97F4A7C15u + (h >> 29); }

/* Changes whenever one of the tensors read by folding is replaced or written to. */
static uint64_t fold_stamp(const graph_state *s, const node *conv, const node *norm) {
  uint64_t h = mix(1, s->sets);
  for (int i = 0; i < conv->nslots; i++) h = mix(h, tx_tensor_version(s->slots[conv->slots[i]]));
  for (int i = 0; i < norm->nslots; i++) h = mix(h, tx_tensor_version(s->slots[norm->slots[i]]));
  return h | 1;
}

uint64_t graph_state_version(const graph_state *s) {
  uint64_t h = mix(2, s->sets);
  for (int i = 0; i < s->nslots; i++)
    if (s->slots[i]) h = mix(h, tx_tensor_version(s->slots[i]));
  return h;
}

static int as_double(tx_tensor **out, tx_tensor *t) { return tx_tensor_to(out, t, NULL, "float64", false, false); }

/* scale = gamma / sqrt(var + eps), in float64: (C) */
static int fold_scale(tx_tensor **out, tx_tensor *gamma, tx_tensor *var, double eps) {
  tx_tensor *t = NULL, *u = NULL, *g = NULL;
  int status = as_double(&t, var);
  if (status == TX_OK) status = replace(&t, call2(&u, "add", "Scalar", t, double_value(eps)), &u);
  if (status == TX_OK) status = replace(&t, call1(&u, "sqrt", "", t), &u);
  if (status == TX_OK) status = as_double(&g, gamma);
  if (status == TX_OK) status = call2(out, "div", "Tensor", g, tensor_value(t));
  tx_tensor_free(t);
  tx_tensor_free(g);
  return status;
}

/* w * scale along the output channels: (O, I, kh, kw), rounded once to w's dtype */
static int fold_weight(tx_tensor **out, tx_tensor *w, tx_tensor *scale) {
  tx_tensor *t = NULL, *u = NULL, *view = NULL;
  int64_t shape[TX_MAX_DIMS] = { -1, 1, 1, 1 };
  int status = as_double(&t, w);
  if (status == TX_OK) status = call2(&view, "reshape", "", scale, (tx_value){ .kind = TX_INTS, .n = 4, .is = shape });
  if (status == TX_OK) status = replace(&t, call2(&u, "mul", "Tensor", t, tensor_value(view)), &u);
  if (status == TX_OK) status = tx_tensor_to(out, t, NULL, tx_tensor_dtype(w), false, false);
  tx_tensor_free(t);
  tx_tensor_free(view);
  return status;
}

/* beta + (bias - mean) * scale: (O); bias may be NULL */
static int fold_bias(tx_tensor **out, tx_tensor *bias, tx_tensor *beta, tx_tensor *mean, tx_tensor *scale) {
  tx_tensor *t = NULL, *u = NULL, *b = NULL;
  int status = as_double(&t, mean);
  if (status == TX_OK) status = replace(&t, call1(&u, "neg", "", t), &u);
  if (status == TX_OK && bias) status = replace(&t, call2(&u, "add", "Tensor", t, tensor_value(bias)), &u);
  if (status == TX_OK) status = replace(&t, call2(&u, "mul", "Tensor", t, tensor_value(scale)), &u);
  if (status == TX_OK) status = as_double(&b, beta);
  if (status == TX_OK) status = replace(&t, call2(&u, "add", "Tensor", t, tensor_value(b)), &u);
  if (status == TX_OK) status = tx_tensor_to(out, t, NULL, tx_tensor_dtype(mean), false, false);
  tx_tensor_free(t);
  tx_tensor_free(b);
  return status;
}

static tx_tensor *slot_arg(const graph_state *s, const node *n, int arg) {
  for (int i = 0; i < n->nbinds; i++)
    if (n->binds[i].arg == arg && n->binds[i].kind == GRAPH_SLOT) return s->slots[n->binds[i].first];
  return NULL;
}

static bool has_slots(const graph_state *s, const node *n) {
  for (int i = 0; i < n->nslots; i++)
    if (!s->slots[n->slots[i]]) return false;
  return true;
}

static int fold(graph_state *s, int norm_id, int conv_id) {
  const node *conv = &s->g->nodes[conv_id], *norm = &s->g->nodes[norm_id];
  folded *f = &s->folded[norm_id];
  if (!has_slots(s, conv) || !has_slots(s, norm)) return fail(TX_ERROR, "batch_norm: a parameter has no tensor");
  uint64_t stamp = fold_stamp(s, conv, norm);
  if (f->stamp == stamp) return TX_OK;
  tx_tensor *scale = NULL, *w = NULL, *b = NULL;
  int status = fold_scale(&scale, slot_arg(s, norm, 1), slot_arg(s, norm, 4), norm->args[7].d);
  if (status == TX_OK) status = fold_weight(&w, slot_arg(s, conv, 1), scale);
  if (status == TX_OK) status = fold_bias(&b, slot_arg(s, conv, 2), slot_arg(s, norm, 2), slot_arg(s, norm, 3), scale);
  tx_tensor_free(scale);
  if (status != TX_OK) {
    tx_tensor_free(w);
    tx_tensor_free(b);
    return status;
  }
  tx_tensor_free(f->w);
  tx_tensor_free(f->b);
  *f = (folded){ w, b, stamp };
  return TX_OK;
}

/* ---- running ------------------------------------------------------------------------------------------------ */
static int64_t size0(const tx_tensor *t) {
  int64_t sizes[TX_MAX_DIMS];
  if (tx_tensor_dim(t) == 0) return 0;
  tx_tensor_sizes(t, sizes);
  return sizes[0];
}

/* How many images a value of node n holds; -1: none in particular. */
static int64_t images_in(const node *n, const tx_tensor *t) {
  int64_t sizes[TX_MAX_DIMS];
  if (n->batch_dim < 0) return -1;
  if (tx_tensor_dim(t) <= n->batch_dim) return 0;
  tx_tensor_sizes(t, sizes);
  return sizes[n->batch_dim] / n->per_image;
}

static int take_given(graph_run *run, const graph_request *r) {
  for (int i = 0; i < r->nbase; i++) {
    tx_tensor **v = &run->values[r->base[i]];
    if (!*v) *v = tx_tensor_ref(r->base_tensors[i]);
  }
  for (int i = 0; i < r->noverrides; i++) {
    tx_tensor **v = &run->values[r->overrides[i]];
    tx_tensor_free(*v);
    *v = tx_tensor_ref(r->override_tensors[i]);
    int64_t n = images_in(&run->g->nodes[r->overrides[i]], *v);
    if (run->batch > 1 && n >= 0 && n != run->batch && n != 1)
      return fail(TX_ERROR, "override: '%s' has batch %lld, another one %lld. Give all the same, or 1.",
                  run->g->nodes[r->overrides[i]].name, (long long)n, (long long)run->batch);
    if (n > run->batch) run->batch = n;
  }
  if (r->x && !run->values[0]) run->values[0] = tx_tensor_ref(r->x);
  return TX_OK;
}

/* A base value that an override reaches is stale; one that the plan computes again is dropped. */
static void drop_stale(graph_run *run, const graph_request *r) {
  for (int i = 0; i < r->nbase; i++)
    if (run->plan->reached[r->base[i]]) {
      bool is_override = false;
      for (int k = 0; k < r->noverrides; k++) is_override |= r->overrides[k] == r->base[i];
      if (is_override) continue;
      tx_tensor_free(run->values[r->base[i]]);
      run->values[r->base[i]] = NULL;
    }
}

int graph_run_new(graph_run **out, graph_state *s, const graph_request *r) {
  graph_run *run = mx_calloc(1, sizeof *run);
  if (!run) return out_of_memory();
  run->s = s;
  s->refs++;
  run->g = graph_retain(s->g);
  run->node = -1;
  run->layout = r->layout;
  run->single = r->single;
  size_t count = (size_t)s->g->count;
  run->values = mx_calloc(count, sizeof *run->values);
  run->args = mx_calloc((size_t)s->g->max_args + 1, sizeof *run->args);
  run->lists = mx_calloc(count + 64, sizeof *run->lists); /* a list may hold Nones, too */
  run->temps = mx_calloc(count, sizeof *run->temps);
  int status = run->values && run->args && run->lists && run->temps ? TX_OK : out_of_memory();
  if (status == TX_OK) status = find_plan(&run->plan, s, r);
  if (status == TX_OK) status = take_given(run, r);
  if (status == TX_OK) drop_stale(run, r);
  if (status == TX_OK) *out = run;
  else graph_run_free(run);
  return status;
}

static void free_temps(graph_run *run) {
  while (run->ntemps) tx_tensor_free(run->temps[--run->ntemps]);
}

void graph_run_free(graph_run *run) {
  if (!run) return;
  if (run->temps) free_temps(run);
  tx_tensor_free(run->noise);
  for (int i = 0; run->values && i < run->g->count; i++) tx_tensor_free(run->values[i]);
  mx_free(run->values);
  mx_free(run->args);
  mx_free(run->lists);
  mx_free(run->temps);
  plan_release(run->plan);
  graph_release(run->g);
  graph_state_free(run->s);
  mx_free(run);
}

int graph_run_node(const graph_run *run) { return run->node; }
int graph_run_code(const graph_run *run) { return run->code; }
bool graph_run_grad(const graph_run *run) { return run->plan->steps[run->pc].grad; }
bool graph_run_clamped(const graph_run *run) { return run->clamped; }

tx_tensor *graph_run_value(const graph_run *run, int id) {
  mx_assert(id >= 0 && id < run->g->count);
  return run->values[id];
}

void graph_run_give(graph_run *run, tx_tensor *t) {
  tx_tensor_free(run->values[run->node]);
  run->values[run->node] = tx_tensor_ref(t);
  run->given = true;
}

/* The value as node v may read it: what no override reaches has the base run's batch and is expanded. */
static int read_value(tx_tensor **out, graph_run *run, int v, int id) {
  mx_assert(id >= 0 && id < run->g->count && run->values[id]);
  tx_tensor *t = run->values[id];
  const node *n = &run->g->nodes[id];
  *out = t;
  if (!run->batch || !run->plan->reached[v]) return TX_OK;
  int64_t sizes[TX_MAX_DIMS], images = images_in(n, t);
  int dim = tx_tensor_dim(t);
  if (images < 0 || dim <= n->batch_dim || images == run->batch) return TX_OK;
  if (images != 1)
    return fail(TX_ERROR, "override: '%s' has batch %lld, the override %lld. Give a base run of one image, or of as many as the override.",
                n->name, (long long)images, (long long)run->batch);
  if (n->per_image != 1)
    return fail(TX_ERROR, "override: '%s' holds %lld parts of an image along one dimension, and is not repeated for %lld images. "
                "Override the output of a whole block instead.", n->name, (long long)n->per_image, (long long)run->batch);
  tx_tensor_sizes(t, sizes);
  sizes[n->batch_dim] = run->batch;
  int status = call2(out, "expand", "", t, (tx_value){ .kind = TX_INTS, .n = dim, .is = sizes });
  if (status == TX_OK) run->temps[run->ntemps++] = *out;
  return status;
}

int graph_run_input(tx_tensor **out, graph_run *run, int i) {
  int status = read_value(out, run, run->node, run->g->nodes[run->node].inputs[i]);
  if (status == TX_OK) *out = tx_tensor_ref(*out);
  free_temps(run);
  return status;
}

static int fill_args(graph_run *run, int v, const node *n, const tx_tensor *w, const tx_tensor *b) {
  memcpy(run->args, n->args, (size_t)n->nargs * sizeof *n->args);
  for (int i = 0; i < n->nbinds; i++) {
    const bind *bd = &n->binds[i];
    tx_value *a = &run->args[bd->arg];
    int status = TX_OK;
    switch (bd->kind) {
      case GRAPH_VALUE:
        a->kind = TX_TENSOR;
        status = read_value(&a->t, run, v, n->inputs[bd->first]);
        break;
      case GRAPH_VALUES:
        *a = (tx_value){ .kind = TX_TENSORS, .n = bd->n, .ts = run->lists };
        for (int k = 0, next = bd->first; k < bd->n && status == TX_OK; k++) {
          if (bd->none >> k & 1) run->lists[k] = NULL;
          else status = read_value(&run->lists[k], run, v, n->inputs[next++]);
        }
        break;
      case GRAPH_SLOT: *a = tensor_value(run->s->slots[bd->first]); break;
      case GRAPH_TRAINING: *a = (tx_value){ .kind = TX_BOOL, .b = run->plan->training[v] }; break;
      default: break;
    }
    if (status != TX_OK) return status;
  }
  if (w) run->args[1] = tensor_value((tx_tensor *)w);
  if (b) run->args[2] = tensor_value((tx_tensor *)b);
  return TX_OK;
}

static bool same_layout(const tx_tensor *a, const tx_tensor *b) {
  int64_t x[TX_MAX_DIMS], y[TX_MAX_DIMS];
  int dim = tx_tensor_dim(a);
  if (dim != tx_tensor_dim(b) || strcmp(tx_tensor_dtype(a), tx_tensor_dtype(b))) return false;
  size_t bytes = (size_t)dim * sizeof *x;
  tx_tensor_sizes(a, x);
  tx_tensor_sizes(b, y);
  if (memcmp(x, y, bytes)) return false;
  tx_tensor_strides(a, x);
  tx_tensor_strides(b, y);
  return !memcmp(x, y, bytes);
}

/* Batch statistics of a single value per channel are no statistics; libtorch would go on silently. */
static int check_norm(graph_run *run, int v) {
  int64_t sizes[TX_MAX_DIMS];
  const tx_tensor *x = run->args[0].t;
  int dim = tx_tensor_dim(x);
  tx_tensor_sizes(x, sizes);
  if (!run->plan->training[v] || dim < 2 || tx_tensor_numel(x) != sizes[1]) return TX_OK;
  return fail(TX_ERROR, "batch_norm: one value per channel has no variance (batch 1 in train mode). Use a larger batch, larger images, or model:eval().");
}

/* A linear layer's mismatch in the shapes that the user sees. */
static int linear_error(const graph_run *run, int status) {
  const tx_tensor *x = run->args[0].t, *w = run->args[1].t;
  int64_t xs[TX_MAX_DIMS], ws[TX_MAX_DIMS];
  int dim = tx_tensor_dim(x);
  if (status != TX_ERROR || dim != 2 || !w || tx_tensor_dim(w) != 2) return fail(status, "linear: %s", tx_error());
  tx_tensor_sizes(x, xs);
  tx_tensor_sizes(w, ws);
  if (xs[1] == ws[1]) return fail(status, "linear: %s", tx_error());
  return fail(status, "matmul: shapes %lldx%lld and %lldx%lld do not fit (%lld is not %lld)", (long long)xs[0], (long long)xs[1],
              (long long)ws[1], (long long)ws[0], (long long)xs[1], (long long)ws[1]);
}

static bool is_old_libtorch(void) { return tx_version()[0] == '1'; }

/* Of an operator with several results the first is the node's value, the others are freed. */
static int call_first(tx_tensor **out, const graph_run *run, const node *n, const tx_op *op) {
  enum { MOST = 8 };
  tx_value v[MOST] = { { .kind = TX_NONE } };
  const int results = tx_op_nresults(op);
  if (results > MOST) return fail(TX_ERROR, "%s: gives %d results", tx_op_name(op), results);
  int status = tx_op_call(v, op, run->args, n->nargs);
  if (status != TX_OK) return n->traits & LINEAR ? linear_error(run, status) : fail(status, "%s: %s", tx_op_name(n->op), tx_error());
  for (int i = 1; i < results; i++) tx_value_free(&v[i]);
  if (v[0].kind != TX_TENSOR) {
    tx_value_free(&v[0]);
    return fail(TX_ERROR, "%s: gives no tensor", tx_op_name(n->op));
  }
  *out = v[0].t;
  return TX_OK;
}

static int run_op(tx_tensor **out, graph_run *run, const step *st) {
  const node *n = &run->g->nodes[st->node];
  const tx_op *op = n->op;
  int status = fill_args(run, st->node, n, NULL, NULL);
  if (status == TX_OK && n->traits & NORM) status = check_norm(run, st->node);
  if (status != TX_OK) return status;
  if (st->how == IN_PLACE && (!(n->traits & BINARY) || same_layout(run->args[0].t, run->args[1].t))) op = n->inplace;
  /* libtorch 1 has no bfloat16 backward of hardtanh on CPU: clamp instead, whose gradient at exactly 0 and 6 is 1, not 0 */
  if (n->traits & CLAMP6 && st->grad && !strcmp(tx_tensor_dtype(run->args[0].t), "bfloat16") && is_old_libtorch()) {
    op = tx_op_find("clamp", "");
    run->clamped = true;
  }
  return call_first(out, run, n, op);
}

/* num_batches_tracked += 1, in two steps: what needs memory may be tried again, what writes needs no memory. */
static int count_batch(graph_run *run, const step *st) {
  const node *n = &run->g->nodes[st->node];
  if (n->counter < 0 || !run->plan->training[st->node] || !run->s->slots[n->counter]) return TX_OK;
  tx_tensor *sum = NULL, *t = NULL, *counter = run->s->slots[n->counter];
  int status = call2(&sum, "add", "Scalar", counter, (tx_value){ .kind = TX_INT, .i = 1 });
  if (status == TX_OK) status = call2(&t, "copy_", "", counter, tensor_value(sum));
  tx_tensor_free(sum);
  tx_tensor_free(t);
  return status;
}

static int run_folded(tx_tensor **out, graph_run *run, const step *st) {
  const node *conv = &run->g->nodes[st->conv];
  bool mode = tx_grad_mode(false);
  int status = fold(run->s, st->node, st->conv);
  tx_grad_mode(mode);
  if (status != TX_OK) return status;
  const folded *f = &run->s->folded[st->node];
  status = fill_args(run, st->node, conv, f->w, f->b);
  if (status != TX_OK) return status;
  tx_value v = { .kind = TX_NONE };
  status = tx_op_call(&v, conv->op, run->args, conv->nargs);
  if (status != TX_OK) return fail(status, "%s: %s", tx_op_name(conv->op), tx_error());
  *out = v.t;
  return TX_OK;
}

static int run_guided(tx_tensor **out, graph_run *run, const step *st) {
  const node *n = &run->g->nodes[st->node];
  tx_tensor *x;
  int status = read_value(&x, run, st->node, n->inputs[0]);
  if (status == TX_OK) status = tx_guided_relu(out, x, n->traits & CLAMP6 ? 6 : 0);
  return status == TX_OK ? TX_OK : fail(status, "guided_relu: %s", tx_error());
}

/* bernoulli(keep), one draw a sample of x: (N, 1, 1 ...) */
static int draw_rows(tx_tensor **noise, const tx_tensor *x, double keep) {
  tx_tensor *empty = NULL;
  int64_t sizes[TX_MAX_DIMS];
  char device[16];
  sizes[0] = size0(x);
  for (int i = 1; i < tx_tensor_dim(x); i++) sizes[i] = 1;
  tx_tensor_device(x, device);
  tx_value shape = { .kind = TX_INTS, .n = tx_tensor_dim(x), .is = sizes };
  tx_value args[] = { shape, { .kind = TX_STRING, .s = tx_tensor_dtype(x) }, { .kind = TX_DEFAULT }, { .kind = TX_STRING, .s = device } };
  int status = call(&empty, "empty", "memory_format", args, 4);
  /* the numbers of bernoulli_, but an operator that may be tried again */
  if (status == TX_OK) status = call2(noise, "bernoulli", "p", empty, double_value(keep));
  tx_tensor_free(empty);
  return status;
}

/* Stochastic depth by rows, as torchvision has it: x * bernoulli(1 - p) / (1 - p). What was drawn is kept until the
 * node has its value, so that a second try after out of memory does not draw again. */
static int run_drop_path(tx_tensor **out, graph_run *run, const step *st) {
  const node *n = &run->g->nodes[st->node];
  tx_tensor *x, *scaled = NULL;
  const double keep = 1.0 - n->p;
  int status = read_value(&x, run, st->node, n->inputs[0]);
  if (status == TX_OK && !run->noise) status = draw_rows(&run->noise, x, keep);
  if (status == TX_OK && keep > 0) status = call2(&scaled, "div", "Scalar", run->noise, double_value(keep));
  if (status == TX_OK) status = call2(out, "mul", "Tensor", x, tensor_value(scaled ? scaled : run->noise));
  tx_tensor_free(scaled);
  if (status != TX_OK) return status;
  tx_tensor_free(run->noise);
  run->noise = NULL;
  return TX_OK;
}

/* x as the network wants it in memory. */
static int run_input(tx_tensor **out, graph_run *run) {
  tx_tensor *x = run->values[0];
  bool is_image = tx_tensor_dim(x) == 4, channels_last = run->layout == 2;
  if (run->layout == 0 || !is_image || tx_tensor_is_contiguous(x, channels_last)) return *out = tx_tensor_ref(x), TX_OK;
  return call2(out, "contiguous", "", x, (tx_value){ .kind = TX_STRING, .s = channels_last ? "channels_last" : "contiguous_format" });
}

/* Cuts t off from what made it: a leaf that wants a gradient. */
static int make_leaf(tx_tensor **t) {
  tx_tensor *d = NULL;
  int status = replace(t, call1(&d, "detach", "", *t), &d);
  if (status == TX_OK) status = tx_tensor_set_requires_grad(*t, true);
  return status;
}

static int run_step(graph_run *run, const step *st) {
  const node *n = &run->g->nodes[st->node];
  tx_tensor *t = NULL;
  int status;
  if (run->values[st->node] && n->kind != INPUT) t = tx_tensor_ref(run->values[st->node]), status = TX_OK; /* given */
  else if (st->how == PASS && n->kind != INPUT) t = tx_tensor_ref(run->values[n->inputs[0]]), status = TX_OK;
  else if (st->how == PASS) t = tx_tensor_ref(run->values[0]), status = TX_OK; /* x given as an override */
  else if (n->kind == INPUT) status = run_input(&t, run);
  else if (st->how == FOLDED) status = run_folded(&t, run, st);
  else if (st->how == GUIDED) status = run_guided(&t, run, st);
  else if (n->kind == DROP_PATH) status = run_drop_path(&t, run, st);
  else status = run_op(&t, run, st);
  free_temps(run);
  if (status != TX_OK) return tx_tensor_free(t), status;
  tx_tensor_free(run->values[st->node]);
  run->values[st->node] = t; /* stands from here on: a second try goes on behind it and runs nothing twice */
  if (st->leaf) status = make_leaf(&run->values[st->node]);
  return status == TX_OK ? count_batch(run, st) : status;
}

static void free_after(graph_run *run, const step *st) {
  for (int i = 0; i < st->nfree; i++) {
    tx_tensor **v = &run->values[run->plan->frees[st->free_first + i]];
    tx_tensor_free(*v);
    *v = NULL;
  }
}

graph_status graph_step(graph_run *run) {
  const plan *p = run->plan;
  bool mode = tx_grad_mode_get(), now = mode;
  graph_status result = GRAPH_DONE;
  while (run->pc < p->nsteps) {
    const step *st = &p->steps[run->pc];
    const node *n = &run->g->nodes[st->node];
    run->node = st->node;
    if (n->kind == FUNCTION && st->how == RUN && !run->given) {
      result = GRAPH_WAITS;
      break;
    }
    if (st->grad != now) tx_grad_mode(now = st->grad);
    run->code = tx_interrupted() ? fail(TX_INTERRUPTED, "interrupted") : run_step(run, st);
    if (run->code != TX_OK) {
      result = GRAPH_FAILED;
      break;
    }
    run->given = false;
    free_after(run, st);
    run->pc++;
    if (run->single) {
      result = GRAPH_RAN;
      break;
    }
  }
  if (now != mode) tx_grad_mode(mode);
  return result;
}
