/* infer_net.c: reads the next steps of a run as operators of one image with known sizes, until one comes that oneDNN
 * has no fast form for. What it leaves out, and shapes that do not fit, run node by node, where errors are raised. */
#include "infer_net.h"
#include "alloc.h"
#include "infer_dnnl.h"

#include <stdio.h>
#include <string.h>

typedef struct reader {
  net *n;
  graph_run *run;
  graph_look look;
  int status; /* TX_NOMEM, or an error of the run: ends the reading */
} reader;

void net_clear(net *n) {
  mx_free(n->values);
  mx_free(n->ops);
  mx_free(n->inputs);
  mx_free(n->of_node);
  mx_free(n->given);
  mx_free(n->given_reader);
  mx_free(n->kept);
  mx_free(n->kept_step);
  *n = (net){ 0 };
}

/* ---- constants of a step ------------------------------------------------------------------------------------ */
static const tx_value *arg(const reader *r, int i) {
  static const tx_value absent = { .kind = TX_DEFAULT };
  return i < r->look.nargs ? &r->look.args[i] : &absent;
}

/* A pair of sizes; what is left out is the default, or `usual` where that is an empty list. */
static bool pair(const reader *r, int i, const int usual[2], int out[2]) {
  const tx_value *v = arg(r, i);
  if (v->kind == TX_DEFAULT || (v->kind == TX_INTS && v->n == 0)) return memcpy(out, usual, 2 * sizeof *out), true;
  if (v->kind != TX_INTS || v->n < 1 || v->n > 2) return false;
  for (int k = 0; k < 2; k++) {
    int64_t size = v->is[v->n == 2 ? k : 0];
    if (size < 0 || size > 1 << 20) return false;
    out[k] = (int)size;
  }
  return true;
}

static bool flag(const reader *r, int i, bool usual) {
  const tx_value *v = arg(r, i);
  return v->kind == TX_BOOL ? v->b : usual;
}

static bool is_number(const reader *r, int i, double wanted) {
  const tx_value *v = arg(r, i);
  return (v->kind == TX_INT && (double)v->i == wanted) || (v->kind == TX_DOUBLE && v->d == wanted);
}

/* ---- values ------------------------------------------------------------------------------------------------- */
typedef struct shape {
  int c, h, w;
  bool rows;
  int dims;
} shape;

static int add_value(reader *r, int node, const shape *s) {
  net *n = r->n;
  n->values[n->nvalues] = (net_value){ .node = node,
                                       .c = s->c,
                                       .h = s->h,
                                       .w = s->w,
                                       .rows = s->rows,
                                       .dims = s->rows ? s->dims : 4,
                                       .given = -1,
                                       .maker = -1,
                                       .last_reader = -1 };
  return n->of_node[node] = n->nvalues++;
}

static const char *dtype_name(net_dtype d) { return d == NET_BFLOAT16 ? "bfloat16" : "float32"; }

static bool is_readable(const tx_tensor *t, net_dtype dtype) {
  char device[16];
  if (!t) return false;
  tx_tensor_device(t, device);
  return !strcmp(device, "cpu") && !strcmp(tx_tensor_layout(t), "strided")
         && !strcmp(tx_tensor_dtype(t), dtype_name(dtype));
}

/* One number a channel; also float32 in a bfloat16 network. */
static bool is_row(const tx_tensor *t, int64_t channels, net_dtype dtype) {
  return (is_readable(t, dtype) || is_readable(t, NET_FLOAT32)) && tx_tensor_dim(t) == 1
         && tx_tensor_numel(t) == channels;
}

bool net_fits(const graph_run *run, int conv, int norm, const int64_t size[4], net_dtype dtype) {
  if (conv >= 0) {
    int64_t now[TX_MAX_DIMS];
    const tx_tensor *w = graph_run_slot(run, conv, 1), *b = graph_run_slot(run, conv, 2);
    int dims = size[2] ? 4 : 2;
    if (!is_readable(w, dtype) || tx_tensor_dim(w) != dims || (b && !is_row(b, size[0], dtype))) return false;
    tx_tensor_sizes(w, now);
    if (memcmp(now, size, (size_t)dims * sizeof *size)) return false;
  }
  for (int i = 1; norm >= 0 && i <= 4; i++)
    if (!is_row(graph_run_slot(run, norm, i), size[0], dtype)) return false;
  return true;
}

bool net_fits_rows(const graph_run *run, int node, int first, int last, int64_t channels, net_dtype dtype) {
  for (int i = first; i <= last; i++)
    if (!is_row(graph_run_slot(run, node, i), channels, dtype)) return false;
  return true;
}

bool net_fits_scale(const graph_run *run, int node, int argument, int64_t channels, net_dtype dtype) {
  const tx_tensor *t = graph_run_slot(run, node, argument);
  return is_readable(t, dtype) && tx_tensor_dim(t) <= 4 && tx_tensor_numel(t) == channels;
}

typedef enum form { ANY, IMAGE, ROWS } form; /* of what an op reads; ANY: 3 dimensions are rows, 4 an image */

/* A tensor's sizes as those of a value; a whole net's dimension 0 is the other nets' count of images. */
static bool shape_of(shape *out, const net *n, const int64_t *sizes, int dims, form wanted) {
  bool rows = wanted == ANY ? dims == 3 : wanted == ROWS;
  if (dims != 4 && !(rows && dims == 3)) return false;
  for (int i = 0; i < dims; i++)
    if (sizes[i] <= 0 || sizes[i] >= 1 << 24) return false;
  if (!rows)
    *out = (shape){ .c = (int)sizes[1], .h = (int)sizes[2], .w = (int)sizes[3] };
  else
    *out = (shape){ (int)sizes[dims - 1], (int)sizes[1], dims == 4 ? (int)sizes[2] : 1, true, dims };
  if (!n->outer) return true;
  if (!rows || dims != 3 || sizes[0] != n->outer || sizes[0] * sizes[1] >= 1 << 24) return false;
  out->h = (int)(sizes[0] * sizes[1]);
  return true;
}

/* A value from outside, as the present node reads it; -1: it cannot be used here. */
static int give(reader *r, int id, form wanted) {
  net *n = r->n;
  tx_tensor *t = NULL;
  int64_t sizes[TX_MAX_DIMS];
  shape s;
  r->status = graph_run_value_for(&t, r->run, r->look.node, id);
  if (r->status != TX_OK) return -1;
  int dims = tx_tensor_dim(t);
  bool fits = is_readable(t, n->dtype) && dims >= 3, whole = dims == 3 && graph_run_batch_dim(r->run, id) != 0;
  if (fits) tx_tensor_sizes(t, sizes);
  tx_tensor_free(t);
  if (fits && !n->ngiven) n->outer = whole && sizes[0] < 1 << 24 ? (int)sizes[0] : 0;
  if (!fits || whole != (n->outer > 0) || !shape_of(&s, n, sizes, dims, wanted)) return -1;
  n->given[n->ngiven] = id;
  n->given_reader[n->ngiven] = r->look.node;
  int v = add_value(r, id, &s);
  n->values[v].given = n->ngiven++;
  return v;
}

static int value_of(reader *r, int id, form wanted) {
  int v = r->n->of_node[id];
  if (v < 0) return give(r, id, wanted);
  return wanted == ANY || (wanted == ROWS) == r->n->values[v].rows ? v : -1;
}

/* The op's inputs become values; false: one cannot be used. ANY: all in the form of those that are values already. */
static bool take_inputs(reader *r, net_op *op, int count, form wanted) {
  net *n = r->n;
  if (r->look.ninputs != count || !count) return false;
  op->first = n->ninputs;
  op->nin = count;
  for (int i = 0; i < count && wanted == ANY; i++) {
    int v = n->of_node[r->look.inputs[i]];
    if (v >= 0) wanted = n->values[v].rows ? ROWS : IMAGE;
  }
  for (int i = 0; i < count; i++) {
    int v = value_of(r, r->look.inputs[i], wanted);
    if (v < 0) return false;
    n->inputs[n->ninputs++] = v;
  }
  return true;
}

static const net_value *input(const reader *r, const net_op *op, int i) {
  return &r->n->values[r->n->inputs[op->first + i]];
}

/* ---- operators ---------------------------------------------------------------------------------------------- */
static shape same_as(const net_value *v) { return (shape){ v->c, v->h, v->w, v->rows, v->dims }; }

static int out_size(int in, const net_op *op, int k) {
  return (in + 2 * op->pad[k] - op->dilation[k] * (op->kernel[k] - 1) - 1) / op->stride[k] + 1;
}

static bool window_fits(const net_op *op, const net_value *x) {
  const int size[2] = { x->h, x->w };
  for (int k = 0; k < 2; k++)
    if (op->kernel[k] < 1 || op->stride[k] < 1 || op->dilation[k] < 1
        || size[k] + 2 * op->pad[k] < op->dilation[k] * (op->kernel[k] - 1) + 1)
      return false;
  return true;
}

static const int ones[2] = { 1, 1 }, zeros[2] = { 0, 0 };

static bool read_conv(reader *r, net_op *op, shape *s) {
  int64_t size[TX_MAX_DIMS];
  int node = r->look.conv >= 0 ? r->look.conv : r->look.node, norm = r->look.conv >= 0 ? r->look.node : -1;
  tx_tensor *w = graph_run_slot(r->run, node, 1), *b = graph_run_slot(r->run, node, 2);
  if (!w || tx_tensor_dim(w) != 4 || !take_inputs(r, op, 1, IMAGE)) return false;
  if (!b && arg(r, 2)->kind > TX_NONE) return false;
  const net_value *x = input(r, op, 0);
  const tx_value *groups = arg(r, 6);
  tx_tensor_sizes(w, size);
  if (!net_fits(r->run, node, norm, size, r->n->dtype)) return false;
  op->kind = NET_CONV;
  op->conv = node;
  op->norm = norm;
  op->has_bias = b != NULL;
  op->groups = groups->kind == TX_INT ? (int)groups->i : 1;
  op->kernel[0] = (int)size[2];
  op->kernel[1] = (int)size[3];
  if (!pair(r, 3, ones, op->stride) || !pair(r, 4, zeros, op->pad) || !pair(r, 5, ones, op->dilation)) return false;
  if (!window_fits(op, x) || op->groups < 1 || size[1] * op->groups != x->c || size[0] % op->groups) return false;
  *s = (shape){ .c = (int)size[0], .h = out_size(x->h, op, 0), .w = out_size(x->w, op, 1) };
  return true;
}

enum { LEAST_ROWS = 16 }; /* fewer are as fast by BLAS, which takes a whole batch at once */

static bool read_linear(reader *r, net_op *op, shape *s) {
  int node = r->look.node;
  int64_t size[TX_MAX_DIMS] = { 0 };
  tx_tensor *w = graph_run_slot(r->run, node, 1), *b = graph_run_slot(r->run, node, 2);
  if (!w || tx_tensor_dim(w) != 2 || (!b && arg(r, 2)->kind > TX_NONE) || !take_inputs(r, op, 1, ROWS)) return false;
  const net_value *x = input(r, op, 0);
  tx_tensor_sizes(w, size);
  size[2] = size[3] = 0;
  if (size[1] != x->c || x->h * x->w < LEAST_ROWS || size[0] < 1 || size[0] >= 1 << 24) return false;
  if (!net_fits(r->run, node, -1, size, r->n->dtype)) return false;
  op->kind = NET_LINEAR;
  op->conv = node;
  op->has_bias = b != NULL;
  *s = same_as(x);
  s->c = (int)size[0];
  return true;
}

/* Over the channels alone. */
static bool read_layer_norm(reader *r, net_op *op, shape *s) {
  const tx_value *over = arg(r, 1), *eps = arg(r, 4);
  if (over->kind != TX_INTS || over->n != 1 || (eps->kind != TX_DOUBLE && eps->kind != TX_DEFAULT)) return false;
  if (!take_inputs(r, op, 1, ROWS) || over->is[0] != input(r, op, 0)->c) return false;
  if (!net_fits_rows(r->run, r->look.node, 2, 3, input(r, op, 0)->c, r->n->dtype)) return false;
  op->kind = NET_LAYER_NORM;
  op->norm = r->look.node;
  op->eps = eps->kind == TX_DOUBLE ? eps->d : 1e-5;
  *s = same_as(input(r, op, 0));
  return true;
}

/* What turns channels to the end or back; by itself it is a view and needs no plan. */
static bool read_permute(reader *r, net_op *op, shape *s) {
  static const int64_t to_rows[4] = { 0, 2, 3, 1 }, to_image[4] = { 0, 3, 1, 2 };
  const tx_value *dims = arg(r, 1);
  if (dims->kind != TX_INTS || dims->n != 4 || r->look.ninputs != 1 || r->n->of_node[r->look.inputs[0]] < 0)
    return false;
  bool rows = !memcmp(dims->is, to_rows, sizeof to_rows);
  if (!rows && memcmp(dims->is, to_image, sizeof to_image)) return false;
  if (!take_inputs(r, op, 1, rows ? IMAGE : ROWS)) return false;
  const net_value *x = input(r, op, 0);
  if (x->dims != 4) return false;
  op->kind = NET_TURN;
  *s = (shape){ x->c, x->h, x->w, rows, 4 };
  return true;
}

static bool read_norm(reader *r, net_op *op, shape *s) {
  if (!r->look.evaluates || flag(r, 5, false) || arg(r, 7)->kind != TX_DOUBLE || !take_inputs(r, op, 1, IMAGE))
    return false;
  if (!net_fits(r->run, -1, r->look.node, (const int64_t[4]){ input(r, op, 0)->c }, r->n->dtype)) return false;
  op->kind = NET_NORM;
  op->norm = r->look.node;
  op->eps = arg(r, 7)->d;
  *s = same_as(input(r, op, 0));
  return true;
}

static bool read_act(reader *r, net_op *op, shape *s) {
  static const struct {
    const char *name;
    net_act act;
  } known[] = {
    { "relu", NET_RELU },       { "hardtanh", NET_RELU6 },      { "silu", NET_SILU },
    { "sigmoid", NET_SIGMOID }, { "hardswish", NET_HARDSWISH }, { "hardsigmoid", NET_HARDSIGMOID },
    { "gelu", NET_GELU },
  };
  op->kind = NET_ACT;
  for (size_t i = 0; i < sizeof known / sizeof *known; i++)
    if (!strcmp(known[i].name, r->look.op)) op->act = known[i].act;
  if (op->act == NET_RELU6 && !(is_number(r, 1, 0) && is_number(r, 2, 6))) return false;
  if (op->act == NET_GELU && arg(r, 1)->kind == TX_STRING && !strcmp(arg(r, 1)->s, "tanh")) op->act = NET_GELU_TANH;
  if (op->act == NET_NO_ACT || !take_inputs(r, op, 1, ANY)) return false;
  *s = same_as(input(r, op, 0));
  return true;
}

static bool same_shape(const net_value *a, const net_value *b) {
  return a->c == b->c && a->h == b->h && a->w == b->w && a->rows == b->rows && a->dims == b->dims;
}

/* A product with a tensor of the model that has one number per channel: (C) behind rows, (C, 1, 1) at an image. */
static bool read_scale(reader *r, net_op *op, shape *s) {
  int64_t sizes[TX_MAX_DIMS];
  op->scale = graph_run_slot(r->run, r->look.node, 0) ? 0 : 1;
  const tx_tensor *t = graph_run_slot(r->run, r->look.node, op->scale);
  if (!t || !take_inputs(r, op, 1, ANY)) return false;
  const net_value *x = input(r, op, 0);
  int dims = tx_tensor_dim(t), at = dims - (x->rows ? 1 : 3);
  tx_tensor_sizes(t, sizes);
  if (at < 0 || sizes[at] != x->c || !net_fits_scale(r->run, r->look.node, op->scale, x->c, r->n->dtype)) return false;
  op->kind = NET_SCALE;
  op->norm = r->look.node;
  *s = same_as(x);
  return true;
}

/* Sums and products of equal shapes; products with one number per channel (squeeze and excitation), which then stands
 * second. */
static bool read_binary(reader *r, net_op *op, shape *s) {
  op->kind = !strcmp(r->look.op, "add") ? NET_ADD : NET_MUL;
  if (arg(r, 0)->kind != TX_NONE || arg(r, 1)->kind != TX_NONE) return false;
  if (op->kind == NET_MUL && r->look.ninputs == 1) return read_scale(r, op, s);
  if (!take_inputs(r, op, 2, ANY)) return false;
  if (op->kind == NET_ADD && arg(r, 2)->kind != TX_DEFAULT && !is_number(r, 2, 1)) return false;
  int *in = &r->n->inputs[op->first];
  const net_value *a = input(r, op, 0), *b = input(r, op, 1);
  if (op->kind == NET_MUL && !a->rows && a->c == b->c && a->h == 1 && a->w == 1 && !same_shape(a, b)) {
    int first = in[0];
    in[0] = in[1];
    in[1] = first;
    a = input(r, op, 0);
    b = input(r, op, 1);
  }
  if (in[0] == in[1]) return false;
  *s = same_as(a);
  if (a->rows || b->rows) return same_shape(a, b);
  return same_shape(a, b) || (op->kind == NET_MUL && a->c == b->c && b->h == 1 && b->w == 1);
}

/* Along the channels; all but the last in whole blocks. */
static bool read_cat(reader *r, net_op *op, shape *s) {
  if (arg(r, 1)->kind != TX_INT || arg(r, 1)->i != 1 || !take_inputs(r, op, r->look.ninputs, IMAGE)) return false;
  op->kind = NET_CAT;
  const net_value *a = input(r, op, 0);
  *s = (shape){ .h = a->h, .w = a->w };
  for (int i = 0; i < op->nin; i++) {
    const net_value *v = input(r, op, i);
    if (v->h != a->h || v->w != a->w || (i + 1 < op->nin && v->c % r->n->block)) return false;
    s->c += v->c;
  }
  return true;
}

/* ceil_mode only where it changes nothing, or adds windows of a maximum. */
static bool read_pool(reader *r, net_op *op, shape *s) {
  bool is_max = !strcmp(r->look.op, "max_pool2d");
  op->kind = is_max ? NET_MAX_POOL : NET_AVG_POOL;
  if (!pair(r, 1, zeros, op->kernel) || !pair(r, 2, op->kernel, op->stride) || !pair(r, 3, zeros, op->pad))
    return false;
  if (is_max && !pair(r, 4, ones, op->dilation)) return false;
  if (op->dilation[0] != 1 || op->dilation[1] != 1 || !take_inputs(r, op, 1, IMAGE)) return false;
  const net_value *x = input(r, op, 0);
  if (!window_fits(op, x) || 2 * op->pad[0] > op->kernel[0] || 2 * op->pad[1] > op->kernel[1]) return false;
  op->counts_pad = flag(r, 5, true);
  if (!is_max && arg(r, 6)->kind != TX_DEFAULT && arg(r, 6)->kind != TX_NONE) return false;
  *s = (shape){ .c = x->c, .h = out_size(x->h, op, 0), .w = out_size(x->w, op, 1) };
  if (!flag(r, is_max ? 5 : 4, false)) return true;
  int *out[2] = { &s->h, &s->w };
  const int in[2] = { x->h, x->w };
  for (int k = 0; k < 2; k++) {
    int rest = (in[k] + 2 * op->pad[k] - op->kernel[k]) % op->stride[k];
    bool adds = rest && *out[k] * op->stride[k] < in[k] + op->pad[k]; /* a window begins inside the image */
    if (adds && !is_max) return false;
    *out[k] += adds;
  }
  return true;
}

static bool read_adaptive(reader *r, net_op *op, shape *s) {
  int size[2];
  if (!pair(r, 1, zeros, size) || !take_inputs(r, op, 1, IMAGE)) return false;
  const net_value *x = input(r, op, 0);
  const int in[2] = { x->h, x->w };
  op->kind = NET_AVG_POOL;
  for (int k = 0; k < 2; k++) {
    if (size[k] < 1 || in[k] % size[k]) return false;
    op->kernel[k] = op->stride[k] = in[k] / size[k];
  }
  *s = (shape){ .c = x->c, .h = size[0], .w = size[1] };
  return true;
}

/* Over height and width, which stay as 1. */
static bool read_mean(reader *r, net_op *op, shape *s) {
  const tx_value *dims = arg(r, 1);
  if (dims->kind != TX_INTS || dims->n != 2 || !flag(r, 2, false) || arg(r, 3)->kind > TX_NONE) return false;
  int64_t a = dims->is[0] + (dims->is[0] < 0 ? 4 : 0), b = dims->is[1] + (dims->is[1] < 0 ? 4 : 0);
  if (a + b != 5 || a * b != 6 || !take_inputs(r, op, 1, IMAGE)) return false;
  const net_value *x = input(r, op, 0);
  op->kind = NET_AVG_POOL;
  op->kernel[0] = op->stride[0] = x->h;
  op->kernel[1] = op->stride[1] = x->w;
  *s = (shape){ .c = x->c, .h = 1, .w = 1 };
  return true;
}

typedef bool (*read_function)(reader *r, net_op *op, shape *s);

static read_function function_for(const char *name) {
  static const struct {
    const char *name;
    read_function read;
  } known[] = {
    { "conv2d", read_conv },     { "batch_norm", read_norm },
    { "add", read_binary },      { "mul", read_binary },
    { "cat", read_cat },         { "max_pool2d", read_pool },
    { "avg_pool2d", read_pool }, { "adaptive_avg_pool2d", read_adaptive },
    { "relu", read_act },        { "hardtanh", read_act },
    { "silu", read_act },        { "sigmoid", read_act },
    { "hardswish", read_act },   { "hardsigmoid", read_act },
    { "gelu", read_act },        { "linear", read_linear },
    { "mean", read_mean },       { "layer_norm", read_layer_norm },
    { "permute", read_permute },
  };
  for (size_t i = 0; i < sizeof known / sizeof *known; i++)
    if (!strcmp(known[i].name, name)) return known[i].read;
  return NULL;
}

/* One step as an op; false: the reading ends before it. */
static bool read_step(reader *r) {
  net *n = r->n;
  int node = r->look.node;
  if (r->look.pass) {
    int v = value_of(r, r->look.inputs[0], ANY);
    if (v >= 0) n->of_node[node] = v;
    return v >= 0;
  }
  read_function read = r->look.op ? function_for(r->look.op) : NULL;
  if (!read) return false;
  net_op *op = &n->ops[n->nops];
  shape s;
  *op = (net_op){ .node = node, .groups = 1, .conv = -1, .norm = -1, .over = -1, .dilation = { 1, 1 }, .out = -1 };
  if (!read(r, op, &s)) return false;
  op->out = add_value(r, node, &s);
  if (op->kind == NET_AVG_POOL && op->kernel[0] == 1 && op->kernel[1] == 1 && op->stride[0] == 1
      && op->stride[1] == 1) {
    n->nvalues--; /* each window is one number: the value itself */
    n->of_node[node] = n->inputs[op->first];
    return true;
  }
  n->values[op->out].maker = n->nops;
  if (!dn_is_fast(n, op)) return false;
  n->nops++;
  return true;
}

/* ---- the whole ---------------------------------------------------------------------------------------------- */
static bool make_room(net *n, const graph_run *run) {
  size_t steps = 0, inputs = 0, nodes = (size_t)graph_count(graph_run_graph(run));
  graph_look look;
  for (; graph_run_look(&look, run, (int)steps); steps++) inputs += (size_t)look.ninputs;
  size_t values = steps + inputs + 1;
  n->values = mx_calloc(values, sizeof *n->values);
  n->ops = mx_calloc(steps + 1, sizeof *n->ops);
  n->inputs = mx_calloc(inputs + 1, sizeof *n->inputs);
  n->of_node = mx_malloc(nodes * sizeof *n->of_node);
  n->given = mx_calloc(inputs + 1, sizeof *n->given);
  n->given_reader = mx_calloc(inputs + 1, sizeof *n->given_reader);
  n->kept = mx_calloc(steps + 1, sizeof *n->kept);
  n->kept_step = mx_calloc(steps + 1, sizeof *n->kept_step);
  if (!n->values || !n->ops || !n->inputs || !n->of_node || !n->given || !n->given_reader || !n->kept || !n->kept_step)
    return false;
  memset(n->of_node, -1, nodes * sizeof *n->of_node);
  return true;
}

/* What the steps give and do not free themselves goes outside. False: x itself would have to. */
static bool find_kept(net *n, const graph_run *run) {
  graph_look look;
  for (int i = 0; i < n->steps && graph_run_look(&look, run, i); i++) {
    bool freed = false;
    for (int k = i; k < n->steps && !freed; k++) {
      graph_look later;
      graph_run_look(&later, run, k);
      for (int f = 0; f < later.nfrees; f++) freed |= later.frees[f] == look.node;
    }
    if (freed) continue;
    if (look.node == 0) return false;
    n->kept[n->nkept] = n->of_node[look.node];
    n->kept_step[n->nkept++] = i;
    n->values[n->of_node[look.node]].kept = true;
  }
  return true;
}

void net_count_readers(net *n) {
  for (int v = 0; v < n->nvalues; v++) n->values[v].readers = 0, n->values[v].last_reader = -1;
  for (int i = 0; i < n->nops; i++) {
    const net_op *op = &n->ops[i];
    if (op->gone) continue;
    for (int k = 0; k < op->nin; k++) {
      net_value *v = &n->values[n->inputs[op->first + k]];
      v->readers++;
      v->last_reader = i;
    }
    if (op->adds) n->values[op->over].readers++, n->values[op->over].last_reader = i;
  }
}

/* Two convolutions at least: for a single one the way into blocks and out again costs what it gains. Rows are read and
 * written where they are: even a single op is taken, so that a run in two pieces has the bits of one in one. */
static bool pays(const net *n) {
  int convolutions = 0, of_rows = 0;
  for (int i = 0; i < n->nops; i++) {
    const net_op *op = &n->ops[i];
    convolutions += op->kind == NET_CONV;
    of_rows += n->values[op->out].rows && (op->kind == NET_LINEAR || op->kind == NET_LAYER_NORM || op->kind == NET_ACT);
  }
  return convolutions > 1 || of_rows > 0;
}

/* Is there a convolution behind the step where the reading ended? */
static bool conv_follows(const graph_run *run, int ahead) {
  graph_look look;
  for (; graph_run_look(&look, run, ahead); ahead++)
    if (look.op && !strcmp(look.op, "conv2d")) return true;
  return false;
}

static void write_note(const graph_run *run, int ahead, char *note, size_t room) {
  graph_look look;
  if (*note || !graph_run_look(&look, run, ahead) || !conv_follows(run, ahead)) return;
  const graph *g = graph_run_graph(run);
  snprintf(note, room, "'%s' (%s)", graph_name(g, look.node), graph_op(g, look.node));
}

/* The lists had room for all steps; a graph may have a program for each of its steps. */
static void *shrink(void *list, int count, size_t size) {
  void *smaller = mx_realloc(list, ((size_t)count + 1) * size);
  return smaller ? smaller : list;
}

static void give_room_back(net *n) {
  n->values = shrink(n->values, n->nvalues, sizeof *n->values);
  n->ops = shrink(n->ops, n->nops, sizeof *n->ops);
  n->inputs = shrink(n->inputs, n->ninputs, sizeof *n->inputs);
  n->given = shrink(n->given, n->ngiven, sizeof *n->given);
  n->given_reader = shrink(n->given_reader, n->ngiven, sizeof *n->given_reader);
  n->kept = shrink(n->kept, n->nkept, sizeof *n->kept);
  n->kept_step = shrink(n->kept_step, n->nkept, sizeof *n->kept_step);
  mx_free(n->of_node);
  n->of_node = NULL;
}

int net_read(net *out, graph_run *run, char *note, size_t room) {
  reader r = { .n = out, .run = run };
  if (!make_room(out, run)) return net_clear(out), TX_NOMEM;
  bool reached = false;
  for (int i = 0; graph_run_look(&r.look, run, i); i++) {
    if (i && r.look.reached != reached) break; /* another batch begins here */
    bool is_input = i == 0 && r.look.node == 0 && !r.look.leaf;
    int values = out->nvalues, given = out->ngiven;
    if (!is_input && !read_step(&r)) {
      if (r.status == TX_OK) write_note(run, i, note, room);
      if (i) out->nvalues = values, out->ngiven = given; /* what this step was given is not needed */
      break;
    }
    reached = r.look.reached;
    out->steps++;
    if (r.look.leaf) break;
  }
  if (r.status != TX_OK) return net_clear(out), r.status;
  if (!pays(out) || !find_kept(out, run)) out->steps = 0;
  if (!out->steps) out->nops = out->ninputs = out->nkept = 0;
  give_room_back(out);
  return TX_OK;
}
