/* graph_run.c: runs a plan step by step. It stops when a node fails, when the caller has to compute one, or on an
 * interrupt, and continues from there: no step is run twice. */
#include "graph_priv.h"
#include <string.h>
#include <time.h>
#include "alloc.h"
#include "mx_assert.h"

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
      return graph_fail(TX_ERROR, "override: '%s' has batch %lld, another one %lld. Give all the same, or 1.",
                        run->g->nodes[r->overrides[i]].name, (long long)n, (long long)run->batch);
    if (n > run->batch) run->batch = n;
  }
  if (r->x && !run->values[0]) run->values[0] = tx_tensor_ref(r->x);
  return TX_OK;
}

/* Drops base values that an override reaches: the plan computes them again. */
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
  if (!run) return graph_out_of_memory();
  run->s = s;
  s->refs++;
  run->g = graph_retain(s->g);
  run->node = -1;
  run->layout = r->layout;
  run->single = r->single;
  run->infer = r->infer && !r->single;
  size_t count = (size_t)s->g->count;
  run->values = mx_calloc(count, sizeof *run->values);
  run->args = mx_calloc((size_t)s->g->max_args + 1, sizeof *run->args);
  run->lists = mx_calloc(count + 64, sizeof *run->lists); /* a list may hold Nones, too */
  run->temps = mx_calloc(count, sizeof *run->temps);
  bool timed = true;
  if (r->profile) {
    run->seconds = mx_calloc(count + 1, sizeof *run->seconds);
    run->sequences = mx_malloc((count + 1) * sizeof *run->sequences);
    timed = run->seconds && run->sequences;
    if (run->sequences) memset(run->sequences, 0xff, (count + 1) * sizeof *run->sequences);
  }
  int status = run->values && run->args && run->lists && run->temps && timed ? TX_OK : graph_out_of_memory();
  if (status == TX_OK) status = graph_find_plan(&run->plan, s, r);
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
  mx_free(run->seconds);
  mx_free(run->sequences);
  graph_plan_release(run->plan);
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

/* The value as node v reads it. A value that no override reaches has the base run's batch size and is expanded. */
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
    return graph_fail(TX_ERROR,
                      "override: '%s' has batch %lld, the override %lld. Give a base run of one image, or of as many "
                      "as the override.",
                      n->name, (long long)images, (long long)run->batch);
  if (n->per_image != 1)
    return graph_fail(TX_ERROR,
                      "override: '%s' holds %lld parts of an image along one dimension, and is not repeated for %lld "
                      "images. Override the output of a whole block instead.",
                      n->name, (long long)n->per_image, (long long)run->batch);
  tx_tensor_sizes(t, sizes);
  sizes[n->batch_dim] = run->batch;
  int status = graph_call2(out, "expand", "", t, (tx_value){ .kind = TX_INTS, .n = dim, .is = sizes });
  if (status == TX_OK) run->temps[run->ntemps++] = *out;
  return status;
}

int graph_run_value_for(tx_tensor **out, graph_run *run, int v, int id) {
  int status = read_value(out, run, v, id);
  if (status == TX_OK) *out = tx_tensor_ref(*out);
  free_temps(run);
  return status;
}

int graph_run_input(tx_tensor **out, graph_run *run, int i) {
  return graph_run_value_for(out, run, run->node, run->g->nodes[run->node].inputs[i]);
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

/* The variance of one value per channel is 0, with which libtorch would continue silently. */
static int check_norm(graph_run *run, int v) {
  int64_t sizes[TX_MAX_DIMS];
  const tx_tensor *x = run->args[0].t;
  int dim = tx_tensor_dim(x);
  tx_tensor_sizes(x, sizes);
  if (!run->plan->training[v] || dim < 2 || tx_tensor_numel(x) != sizes[1]) return TX_OK;
  return graph_fail(TX_ERROR, "batch_norm: one value per channel has no variance (batch 1 in train mode). Use a larger "
                              "batch, larger images, or model:eval().");
}

/* A linear layer's shape mismatch, with the shapes of the matrix product. */
static int linear_error(const graph_run *run, int status) {
  const tx_tensor *x = run->args[0].t, *w = run->args[1].t;
  int64_t xs[TX_MAX_DIMS], ws[TX_MAX_DIMS];
  int dim = tx_tensor_dim(x);
  if (status != TX_ERROR || dim != 2 || !w || tx_tensor_dim(w) != 2)
    return graph_fail(status, "linear: %s", tx_error());
  tx_tensor_sizes(x, xs);
  tx_tensor_sizes(w, ws);
  if (xs[1] == ws[1]) return graph_fail(status, "linear: %s", tx_error());
  return graph_fail(status, "matmul: shapes %lldx%lld and %lldx%lld do not fit (%lld is not %lld)", (long long)xs[0],
                    (long long)xs[1], (long long)ws[1], (long long)ws[0], (long long)xs[1], (long long)ws[1]);
}

static bool is_old_libtorch(void) { return tx_version()[0] == '1'; }

/* Calls op; the first result is the node's value, others are freed. */
static int call_first(tx_tensor **out, const graph_run *run, const node *n, const tx_op *op) {
  enum { MOST = 8 };
  tx_value v[MOST] = { { .kind = TX_NONE } };
  const int results = tx_op_nresults(op);
  if (results > MOST) return graph_fail(TX_ERROR, "%s: gives %d results", tx_op_name(op), results);
  int status = tx_op_call(v, op, run->args, n->nargs);
  if (status != TX_OK)
    return n->traits & LINEAR ? linear_error(run, status) : graph_fail(status, "%s: %s", tx_op_name(n->op), tx_error());
  for (int i = 1; i < results; i++) tx_value_free(&v[i]);
  if (v[0].kind != TX_TENSOR) {
    tx_value_free(&v[0]);
    return graph_fail(TX_ERROR, "%s: gives no tensor", tx_op_name(n->op));
  }
  *out = v[0].t;
  return TX_OK;
}

static int run_op(tx_tensor **out, graph_run *run, const step *st) {
  const node *n = &run->g->nodes[st->node];
  const tx_op *op = n->op;
  int status = fill_args(run, st->node, n, NULL, NULL);
  const bool synced = n->traits & NORM && run->s->sync && run->plan->training[st->node];
  if (status == TX_OK && n->traits & NORM && !synced) status = check_norm(run, st->node);
  if (status != TX_OK) return status;
  if (synced) {
    status = tx_dist_batch_norm(out, run->s->sync, run->args, n->nargs);
    if (status == TX_NOMEM) status = TX_NOMEM_CHANGED; /* the other processes would not try again */
    return status == TX_OK ? TX_OK : graph_fail(status, "batch_norm: %s", tx_error());
  }
  if (st->how == IN_PLACE && (!(n->traits & BINARY) || same_layout(run->args[0].t, run->args[1].t))) op = n->inplace;
  /* libtorch 1 has no bfloat16 backward of hardtanh on the CPU. clamp is used instead; its gradient at exactly 0 and 6
   * is 1 and not 0. */
  if (n->traits & CLAMP6 && st->grad && !strcmp(tx_tensor_dtype(run->args[0].t), "bfloat16") && is_old_libtorch()) {
    op = tx_op_find("clamp", "");
    run->clamped = true;
  }
  return call_first(out, run, n, op);
}

/* num_batches_tracked += 1, in two steps: the first needs memory and may be tried again, the second writes and needs
 * none. */
static int count_batch(graph_run *run, const step *st) {
  const node *n = &run->g->nodes[st->node];
  if (n->counter < 0 || !run->plan->training[st->node] || !run->s->slots[n->counter]) return TX_OK;
  tx_tensor *sum = NULL, *t = NULL, *counter = run->s->slots[n->counter];
  int status = graph_call2(&sum, "add", "Scalar", counter, (tx_value){ .kind = TX_INT, .i = 1 });
  if (status == TX_OK) status = graph_call2(&t, "copy_", "", counter, tensor_value(sum));
  tx_tensor_free(sum);
  tx_tensor_free(t);
  return status;
}

static int run_folded(tx_tensor **out, graph_run *run, const step *st) {
  const node *conv = &run->g->nodes[st->conv];
  bool mode = tx_grad_mode(false);
  int status = graph_fold(run->s, st->node, st->conv);
  tx_grad_mode(mode);
  if (status != TX_OK) return status;
  const folded *f = &run->s->folded[st->node];
  status = fill_args(run, st->node, conv, f->w, f->b);
  if (status != TX_OK) return status;
  tx_value v = { .kind = TX_NONE };
  status = tx_op_call(&v, conv->op, run->args, conv->nargs);
  if (status != TX_OK) return graph_fail(status, "%s: %s", tx_op_name(conv->op), tx_error());
  *out = v.t;
  return TX_OK;
}

static int run_guided(tx_tensor **out, graph_run *run, const step *st) {
  const node *n = &run->g->nodes[st->node];
  tx_tensor *x;
  int status = read_value(&x, run, st->node, n->inputs[0]);
  if (status == TX_OK) status = tx_guided_relu(out, x, n->traits & CLAMP6 ? 6 : 0);
  return status == TX_OK ? TX_OK : graph_fail(status, "guided_relu: %s", tx_error());
}

/* bernoulli(keep), one draw per sample of x: (N, 1, 1 ...) */
static int draw_rows(tx_tensor **noise, const tx_tensor *x, double keep) {
  tx_tensor *empty = NULL;
  int64_t sizes[TX_MAX_DIMS];
  char device[16];
  sizes[0] = size0(x);
  for (int i = 1; i < tx_tensor_dim(x); i++) sizes[i] = 1;
  tx_tensor_device(x, device);
  tx_value shape = { .kind = TX_INTS, .n = tx_tensor_dim(x), .is = sizes };
  tx_value args[] = {
    shape, { .kind = TX_STRING, .s = tx_tensor_dtype(x) }, { .kind = TX_DEFAULT }, { .kind = TX_STRING, .s = device }
  };
  int status = graph_call(&empty, "empty", "memory_format", args, 4);
  /* draws the same numbers as bernoulli_, but may be tried again */
  if (status == TX_OK) status = graph_call2(noise, "bernoulli", "p", empty, double_value(keep));
  tx_tensor_free(empty);
  return status;
}

/* Stochastic depth in torchvision's mode "row": x * bernoulli(1 - p) / (1 - p). The draw is kept until the node has its
 * value, so that a second try after out of memory does not draw again. */
static int run_drop_path(tx_tensor **out, graph_run *run, const step *st) {
  const node *n = &run->g->nodes[st->node];
  tx_tensor *x, *scaled = NULL;
  const double keep = 1.0 - n->p;
  int status = read_value(&x, run, st->node, n->inputs[0]);
  if (status == TX_OK && !run->noise) status = draw_rows(&run->noise, x, keep);
  if (status == TX_OK && keep > 0) status = graph_call2(&scaled, "div", "Scalar", run->noise, double_value(keep));
  if (status == TX_OK) status = graph_call2(out, "mul", "Tensor", x, tensor_value(scaled ? scaled : run->noise));
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
  return graph_call2(out, "contiguous", "", x,
                     (tx_value){ .kind = TX_STRING, .s = channels_last ? "channels_last" : "contiguous_format" });
}

int graph_make_leaf(tx_tensor **t) {
  tx_tensor *d = NULL;
  int status = graph_replace(t, graph_call1(&d, "detach", "", *t), &d);
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
  if (n->traits & NORM && run->plan->training[st->node]) run->s->folded[st->node].updates++;
  if (status != TX_OK) return tx_tensor_free(t), status;
  tx_tensor_free(run->values[st->node]);
  run->values[st->node] = t; /* set before what may still fail: a second try then does not compute it again */
  if (st->leaf) status = graph_make_leaf(&run->values[st->node]);
  return status == TX_OK ? count_batch(run, st) : status;
}

static void free_after(graph_run *run, const step *st) {
  for (int i = 0; i < st->nfree; i++) {
    tx_tensor **v = &run->values[run->plan->frees[st->free_first + i]];
    tx_tensor_free(*v);
    *v = NULL;
  }
}

/* Gives steps to the inference plan; *done: how many it has computed. */
static int run_planned(int *done, graph_run *run) {
  *done = 0;
  if (!run->infer || run->given) return TX_OK;
  int status = infer_steps(done, run, run->note, sizeof run->note);
  for (int i = 0; i < *done; i++) free_after(run, &run->plan->steps[run->pc + i]);
  run->planned += *done;
  return status == TX_OK ? TX_OK : graph_fail(status, "%s", infer_error());
}

static double seconds_now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* The step by itself, timed where that is asked for; what the caller computed since it was asked to. */
static int run_timed(graph_run *run, const step *st) {
  if (!run->seconds) return run_step(run, st);
  int node = st->how == FOLDED ? st->conv : st->node;
  uint64_t sequence = run->given ? run->asked_sequence : tx_sequence();
  double before = run->given ? run->asked_at : seconds_now();
  int status = run_step(run, st);
  run->seconds[node] += seconds_now() - before;
  if (tx_sequence() != sequence) run->sequences[node] = sequence;
  return status;
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
      if (run->seconds) run->asked_at = seconds_now(), run->asked_sequence = tx_sequence();
      result = GRAPH_WAITS;
      break;
    }
    if (st->grad != now) tx_grad_mode(now = st->grad);
    int planned = 0;
    run->code = tx_interrupted() ? graph_fail(TX_INTERRUPTED, "interrupted") : run_planned(&planned, run);
    if (run->code == TX_OK && !planned) run->code = run_timed(run, st);
    if (run->code != TX_OK) {
      result = GRAPH_FAILED;
      break;
    }
    run->given = false;
    if (!planned) free_after(run, st);
    run->pc += planned ? planned : 1;
    if (run->single) {
      result = GRAPH_RAN;
      break;
    }
  }
  if (now != mode) tx_grad_mode(mode);
  return result;
}
