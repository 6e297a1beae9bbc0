/* infer_weights.c: the tensors of a program in the forms that its primitives want, made again when they change; which
 * values are looked at while it runs. oneDNN's ReLU turns NaN into 0, so that an overflow could pass unseen: from the
 * weights' sums follows how large a value can become, and where that nears float32's end the values are looked at.
 * It refuses weights that are not finite: the node by node pass shows what they do. */
#include "infer_priv.h"

#include <math.h>
#include <string.h>
#include "vector.h"

#define BOUND 1e18    /* of what is looked at: far beyond what a network computes with */
#define NEAR_END 1e30 /* beyond this a value is looked at before it is read */
#define END 1e37      /* beyond this a sum could overflow */

/* ---- looking ------------------------------------------------------------------------------------------------ */
MX_EVERY_WIDTH static bool all_below(const uint32_t *bits, size_t n, uint32_t limit) {
  uint32_t beyond = 0;
  for (size_t i = 0; i < n; i++) /* vectorized */
    beyond |= (uint32_t)((int32_t)limit - (int32_t)(bits[i] & 0x7fffffffu));
  return !(beyond >> 31);
}

MX_EVERY_WIDTH static bool halves_below(const uint16_t *bits, size_t n, uint16_t limit) {
  uint16_t beyond = 0;
  for (size_t i = 0; i < n; i++) /* vectorized */
    beyond |= (uint16_t)((int16_t)limit - (int16_t)(bits[i] & 0x7fffu));
  return !(beyond >> 15);
}

/* Are all numbers finite and at most BOUND? The bits of a float without its sign are in the order of its size. */
bool weights_in_bounds(const void *data, size_t bytes, net_dtype dtype) {
  const float bound = (float)BOUND;
  uint32_t limit;
  memcpy(&limit, &bound, sizeof limit);
  return dtype == NET_BFLOAT16 ? halves_below(data, bytes / 2, (uint16_t)(limit >> 16))
                               : all_below(data, bytes / 4, limit);
}

/* ---- making ------------------------------------------------------------------------------------------------- */
/* t as contiguous float32. */
static int as_floats(tx_tensor **out, const tx_tensor *t) {
  tx_tensor *f = NULL;
  int status = tx_tensor_to(&f, t, NULL, "float32", false, false);
  if (status == TX_OK) status = tx_tensor_packed(out, f, false);
  tx_tensor_free(f);
  return status == TX_OK ? TX_OK : infer_fail(status, "graph: %s", tx_error());
}

static int new_bytes(tx_tensor **out, size_t bytes) {
  int64_t size = (int64_t)bytes;
  int status = tx_tensor_new(out, "uint8", 1, &size, NULL, 0);
  return status == TX_OK ? TX_OK : infer_fail(status, "graph: %s", tx_error());
}

/* NaN where one of them is. */
static double larger(double a, double b) { return b <= a || isnan(a) ? a : b; }

static double largest(const tx_tensor *t) {
  const float *v = tx_tensor_data(t);
  double most = 0;
  for (int64_t i = 0; i < tx_tensor_numel(t); i++) most = larger(most, fabs(v[i]));
  return most;
}

/* The largest sum of |weights| of an output channel. */
static double largest_sum(const tx_tensor *t) {
  int64_t sizes[TX_MAX_DIMS], n = tx_tensor_numel(t);
  tx_tensor_sizes(t, sizes);
  const float *v = tx_tensor_data(t);
  double most = 0;
  for (int64_t o = 0; o < sizes[0]; o++) {
    double sum = 0;
    for (int64_t i = 0; i < n / sizes[0]; i++) sum += fabs(v[o * (n / sizes[0]) + i]);
    most = larger(most, sum);
  }
  return most;
}

static size_t packed_bytes(const weight *w) {
  if (w->form == FORM_WINOGRAD) return winograd_weight_floats(&w->winograd) * sizeof(float);
  return dnnl_memory_desc_get_size(&w->md);
}

static int pack(infer *p, const weight *w, const tx_tensor *plain) {
  if (w->form == FORM_ONEDNN) return dn_pack(p, w, plain, tx_tensor_data(w->w));
  int64_t stride[TX_MAX_DIMS];
  tx_tensor_strides(plain, stride);
  winograd_pack(&w->winograd, tx_tensor_data(plain), (const long[]){ stride[0], stride[1], stride[2], stride[3] },
                tx_tensor_data(w->w));
  return TX_OK;
}

static int make_conv(infer *p, weight *w, graph_run *run) {
  tx_tensor *plain = NULL, *bias = NULL, *floats = NULL;
  int status = TX_OK;
  if (w->norm >= 0)
    status = graph_run_fold(&plain, &bias, run, w->norm, w->conv);
  else {
    plain = tx_tensor_ref(graph_run_slot(run, w->conv, 1));
    if (w->has_bias) bias = tx_tensor_ref(graph_run_slot(run, w->conv, 2));
  }
  if (status != TX_OK) return infer_fail(status, "%s", graph_error());
  if (!w->w) status = new_bytes(&w->w, packed_bytes(w));
  if (status == TX_OK) status = pack(p, w, plain);
  if (status == TX_OK) status = as_floats(&floats, plain);
  if (status == TX_OK) w->gain = largest_sum(floats);
  if (status == TX_OK && bias) {
    tx_tensor *b = NULL;
    status = as_floats(&b, bias);
    if (status == TX_OK && w->b)
      memcpy(tx_tensor_data(w->b), tx_tensor_data(b), (size_t)tx_tensor_numel(b) * sizeof(float));
    if (status == TX_OK && !w->b) status = tx_tensor_to(&w->b, b, NULL, NULL, false, true);
    if (status == TX_OK) w->shift = largest(b);
    tx_tensor_free(b);
  }
  tx_tensor_free(plain);
  tx_tensor_free(bias);
  tx_tensor_free(floats);
  return status;
}

static int make_norm(weight *w, graph_run *run) {
  static const int rows[4] = { 3, 4, 1, 2 }; /* mean, variance, scale, shift */
  tx_tensor *t[4] = { NULL };
  int status = TX_OK;
  for (int i = 0; i < 4 && status == TX_OK; i++) status = as_floats(&t[i], graph_run_slot(run, w->norm, rows[i]));
  size_t c = status == TX_OK ? (size_t)tx_tensor_numel(t[0]) : 0;
  if (status == TX_OK && !w->w) status = new_bytes(&w->w, (4 * c + 16) * sizeof(float));
  if (status == TX_OK) {
    float *to = tx_tensor_data(w->w);
    for (size_t i = 0; i < 4; i++) memcpy(to + i * c, tx_tensor_data(t[i]), c * sizeof(float));
    w->gain = w->shift = 0;
    for (size_t i = 0; i < c; i++) {
      double scale = fabs(to[2 * c + i] / sqrt(to[c + i] + w->eps));
      w->gain = larger(w->gain, scale);
      w->shift = larger(w->shift, fabs(to[3 * c + i]) + fabs(to[i]) * scale);
    }
  }
  for (int i = 0; i < 4; i++) tx_tensor_free(t[i]);
  return status;
}

/* One number per channel: scale and shift of a layer norm, or a product's factor, and zeros up to a whole block. */
static int make_rows(weight *w, graph_run *run) {
  bool is_norm = w->form == FORM_LAYER_NORM;
  int first = is_norm ? 2 : w->argument, last = is_norm ? 3 : w->argument;
  size_t c = (size_t)w->size[0], room = (size_t)(last - first + 1) * c + 16;
  int status = w->w ? TX_OK : new_bytes(&w->w, room * sizeof(float));
  float *to = status == TX_OK ? tx_tensor_data(w->w) : NULL;
  double most[2] = { 0 };
  if (to) memset(to, 0, room * sizeof(float));
  for (int i = first; i <= last && status == TX_OK; i++) {
    tx_tensor *t = NULL;
    status = as_floats(&t, graph_run_slot(run, w->norm, i));
    if (status == TX_OK) memcpy(to + (size_t)(i - first) * c, tx_tensor_data(t), c * sizeof(float));
    if (status == TX_OK) most[i - first] = largest(t);
    tx_tensor_free(t);
  }
  w->gain = most[0]; /* a layer norm's input becomes at most sqrt(c), whatever it was */
  w->shift = is_norm ? most[0] * sqrt((double)c) + most[1] : 0;
  if (is_norm) w->gain = 0;
  return status;
}

static int make(infer *p, weight *w, graph_run *run) {
  switch (w->form) {
    case FORM_NORM: return make_norm(w, run);
    case FORM_LAYER_NORM:
    case FORM_SCALE: return make_rows(w, run);
    default: return make_conv(p, w, run);
  }
}

static bool weight_fits(const weight *w, const graph_run *run, net_dtype dtype) {
  if (w->form == FORM_LAYER_NORM) return net_fits_rows(run, w->norm, 2, 3, w->size[0], dtype);
  if (w->form == FORM_SCALE) return net_fits_scale(run, w->norm, w->argument, w->size[0], dtype);
  return net_fits(run, w->conv, w->norm, w->size, dtype);
}

/* ---- which values are looked at ----------------------------------------------------------------------------- */
static double after_act(net_act act, double bound) {
  if (act == NET_RELU6) return fmin(bound, 6);
  return act == NET_SIGMOID || act == NET_HARDSIGMOID ? 1 : bound;
}

/* How large op's result can become, before its activation. */
static double bound_of(const infer *p, const program *g, int index, const double *bound) {
  const net_op *op = &g->net.ops[index];
  const int *in = &g->net.inputs[op->first];
  const weight *w = g->weights[index] < 0 ? NULL : &p->weights[g->weights[index]];
  double most = 0;
  switch (op->kind) {
    case NET_CONV:
    case NET_LINEAR: return w->gain * bound[in[0]] + w->shift + (op->adds ? bound[op->over] : 0);
    case NET_NORM:
    case NET_LAYER_NORM:
    case NET_SCALE: return w->gain * bound[in[0]] + w->shift;
    case NET_ADD: return bound[in[0]] + bound[in[1]];
    case NET_MUL: return bound[in[0]] * bound[in[1]];
    case NET_CAT:
      for (int i = 0; i < op->nin; i++) most = larger(most, bound[in[i]]);
      return most;
    default: return bound[in[0]];
  }
}

/* The instructions of op look at what they read; false: it has none. */
static bool check(const program *g, int op) {
  bool some = false;
  for (int i = 0; i < g->ninstructions; i++)
    if (g->instructions[i].op == op) some = g->instructions[i].checked = true;
  return some;
}

static void choose_checks(const infer *p, program *g, double *bound) {
  const net *n = &g->net;
  for (int i = 0; i < g->ninstructions; i++) g->instructions[i].checked = false;
  for (int v = 0; v < n->nvalues; v++) bound[v] = BOUND; /* of given values; the others follow */
  g->safe = true;
  for (int i = 0; i < n->nops && g->safe; i++) {
    const net_op *op = &n->ops[i];
    if (op->gone) continue;
    double most = bound_of(p, g, i, bound);
    if (!(most <= NEAR_END) && op->kind != NET_CAT && check(g, i)) {
      for (int k = 0; k < op->nin; k++) bound[n->inputs[op->first + k]] = BOUND;
      if (op->adds) bound[op->over] = BOUND;
      most = bound_of(p, g, i, bound);
      g->safe = most <= END;
    }
    bound[op->out] = after_act(op->act, most);
  }
}

static uint64_t mix(uint64_t h, uint64_t v) { return (h ^ v) * 0x9E3779B97F4A7C15u + (h >> 29); }

int weights_update(infer *p, program *g, graph_run *run, bool *fits) {
  uint64_t stamp = 1;
  *fits = true;
  for (int i = 0; i < g->net.nops; i++) {
    if (g->weights[i] < 0) continue;
    weight *w = &p->weights[g->weights[i]];
    if (!weight_fits(w, run, g->net.dtype)) return *fits = false, TX_OK;
    uint64_t now = graph_run_stamp(run, w->conv, w->norm);
    stamp = mix(stamp, now);
    if (w->stamp == now) continue;
    w->stamp = 0;
    int status = make(p, w, run);
    if (status != TX_OK) return status;
    w->stamp = now;
  }
  if (g->stamp == stamp) return TX_OK;
  int64_t n = g->net.nvalues + 1;
  tx_tensor *room = NULL;
  int status = tx_tensor_new(&room, "float64", 1, &n, NULL, 0);
  if (status != TX_OK) return infer_fail(status, "graph: %s", tx_error());
  choose_checks(p, g, tx_tensor_data(room));
  tx_tensor_free(room);
  g->stamp = stamp;
  return TX_OK;
}
