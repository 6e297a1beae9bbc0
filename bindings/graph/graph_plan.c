/* graph_plan.c: compiles a request into a plan, which is a list of steps, and caches plans. A plan decides which values
 * are kept, when the others are freed, which batch norms are folded, and which nodes work in place (only where nobody
 * else can see the value). The cache's key holds everything that a plan depends on, so a cached plan is never
 * outdated. */
#include "graph_priv.h"
#include <string.h>
#include "alloc.h"

void graph_plan_release(plan *p) {
  if (!p || --p->refs > 0) return;
  mx_free(p->key);
  mx_free(p->steps);
  mx_free(p->frees);
  mx_free(p->reached);
  mx_free(p->training);
  mx_free(p);
}

/* ---- compiling ---------------------------------------------------------------------------------------------- */
/* What compile() finds out about a value. */
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
    if (f[v].reached) f[v].based = false; /* the base run's value does not hold with the override */
    if (!f[v].needed || f[v].over || f[v].based) continue;
    if (n->kind == INPUT && !r->x)
      return graph_fail(TX_ERROR,
                        "graph: the input is read but was not given. Give x, or the values in base that are read.");
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

/* Where autograd records. With leaves: from them on. Without: as PyTorch's eager mode does. */
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

/* A batch norm in eval mode folds into the convolution before it if nobody else reads the convolution's output. Folded
 * weights get no gradients: where autograd records, nodes are folded only if gradients are taken of leaves. */
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
    if (!(c->g->nodes[u].traits & CONV) || conv->readers != 1 || conv->kept || is_given(conv) || conv->leaf
        || (conv->grad && !c->r->nleaves))
      continue;
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

/* Whether node v may overwrite its first input: only memory that this run made and that no later node, output or tensor
 * saved for backward shares. */
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
  p->reached = mx_calloc((size_t)count, 1);
  p->training = mx_calloc((size_t)count, 1);
  if (!p->steps || !p->frees || !p->reached || !p->training) return graph_out_of_memory();
  for (int v = 0; v < count; v++) {
    const fact *f = &c->f[v];
    const node *n = &c->g->nodes[v];
    p->reached[v] = c->r->noverrides && f->reached;
    p->training[v] = f->training;
    if (!f->needed || f->folded || (is_given(f) && !f->leaf)) continue;
    step *s = &p->steps[p->nsteps++];
    *s = (step){ .node = v, .how = is_given(f) ? PASS : c->how[v],
                  
                  .grad = f->grad && !f->leaf, .leaf = f->leaf, .free_first = nfrees };
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
  int status = c.f && c.how && p ? TX_OK : graph_out_of_memory();
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
  else graph_plan_release(p);
  return status;
}

/* ---- the plan cache ----------------------------------------------------------------------------------------- */
/* Everything that compile() reads, as bytes. */
static size_t key_room(const graph_state *s, const graph_request *r) {
  return 16 + sizeof(int) * (size_t)(5 + r->noutputs + r->noverrides + r->nbase + r->nleaves + r->nrectifiers)
         + (size_t)(r->noverrides + r->nbase) + (size_t)s->nslots / 8 + 1 + (size_t)s->g->count / 8 + 1;
}

static unsigned char *put_ints(unsigned char *k, const int *v, int n) {
  memcpy(k, &n, sizeof n);
  k += sizeof n;
  if (n) memcpy(k, v, sizeof *v * (size_t)n);
  return k + sizeof *v * (size_t)n;
}

static size_t write_key(unsigned char *key, const graph_state *s, const graph_request *r) {
  unsigned char *k = key;
  *k++ = (unsigned char)((r->training ? 1 : 0) | (r->grad ? 2 : 0) | (r->fold ? 4 : 0) | (r->guided ? 8 : 0)
                         | (r->x ? 16 : 0) | (r->x && tx_tensor_requires_grad(r->x) ? 32 : 0));
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
int graph_find_plan(plan **out, graph_state *s, const graph_request *r) {
  graph *g = s->g;
  unsigned char *key = mx_calloc(key_room(s, r), 1);
  if (!key) return graph_out_of_memory();
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
    p->number = g->compiled++;
    if (g->nplans < MAX_PLANS) g->nplans++;
    else graph_plan_release(g->plans[MAX_PLANS - 1]);
    at = g->nplans - 1;
  }
  memmove(&g->plans[1], &g->plans[0], (size_t)at * sizeof g->plans[0]);
  g->plans[0] = p;
  p->refs++;
  *out = p;
  return TX_OK;
}
