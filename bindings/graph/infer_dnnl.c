/* infer_dnnl.c: oneDNN's primitives for the ops of a net, one image at a time, in its blocked layout nChw8c or nChw16c;
 * rows as a matrix (rows, channels).
 * It refuses oneDNN's reference implementations: they are right, and slower than the node by node pass. */
#include "infer_dnnl.h"
#include "alloc.h"
#include "infer_priv.h"

#include <string.h>

int dn_status(dnnl_status_t s) {
  if (s == dnnl_success) return TX_OK;
  if (s == dnnl_out_of_memory) return infer_fail(TX_NOMEM, "graph: out of memory");
  return infer_fail(TX_ERROR, "oneDNN: error %d", (int)s);
}

/* The block of channels that this processor's fast kernels take; 0: there are none. */
int dn_start(infer *p) {
  dnnl_cpu_isa_t isa = dnnl_get_effective_cpu_isa();
  p->block = (isa & dnnl_cpu_isa_avx512_core) == dnnl_cpu_isa_avx512_core ? 16
             : (isa & dnnl_cpu_isa_avx2) == dnnl_cpu_isa_avx2             ? 8
                                                                          : 0;
  return p->block ? dn_status(dnnl_engine_create(&p->engine, dnnl_cpu, 0)) : TX_OK;
}

bool dn_has_bfloat16(void) {
  return (dnnl_get_effective_cpu_isa() & dnnl_cpu_isa_avx512_core_bf16) == dnnl_cpu_isa_avx512_core_bf16;
}

/* ---- memory descriptors ------------------------------------------------------------------------------------- */
static dnnl_data_type_t dtype_of(const net *n) { return n->dtype == NET_BFLOAT16 ? dnnl_bf16 : dnnl_f32; }
static size_t item_size(const net *n) { return n->dtype == NET_BFLOAT16 ? 2 : 4; }

static dnnl_memory_desc_t describe(int ndims, const dnnl_dims_t dims, dnnl_data_type_t type, dnnl_format_tag_t tag) {
  dnnl_memory_desc_t md;
  if (dnnl_memory_desc_init_by_tag(&md, ndims, dims, type, tag) != dnnl_success) memset(&md, 0, sizeof md);
  return md;
}

static dnnl_memory_desc_t image(const net *n, int c, int h, int w, dnnl_format_tag_t tag) {
  const dnnl_dims_t dims = { 1, c, h, w };
  return describe(4, dims, dtype_of(n), tag);
}

static dnnl_memory_desc_t blocked(const net *n, int v) {
  const net_value *x = &n->values[v];
  return image(n, x->c, x->h, x->w, n->block == 16 ? dnnl_nChw16c : dnnl_nChw8c);
}

static dnnl_memory_desc_t matrix(int rows, int c, dnnl_data_type_t type) {
  const dnnl_dims_t dims = { rows, c };
  return describe(2, dims, type, dnnl_nc);
}

static int rows_of(const net_value *x) { return x->h * x->w; }

/* As a value lies in the workspace. */
static dnnl_memory_desc_t laid(const net *n, int v) {
  const net_value *x = &n->values[v];
  return x->rows ? matrix(rows_of(x), x->c, dtype_of(n)) : blocked(n, v);
}

static dnnl_memory_desc_t plain(const net *n, int v, bool channels_last) {
  const net_value *x = &n->values[v];
  return image(n, x->c, x->h, x->w, channels_last ? dnnl_nhwc : dnnl_nchw);
}

static dnnl_memory_desc_t row(int c) {
  const dnnl_dims_t dims = { c };
  return describe(1, dims, dnnl_f32, dnnl_x);
}

/* ---- primitive descriptors ---------------------------------------------------------------------------------- */
static bool add_act(dnnl_post_ops_t ops, net_act act) {
  switch (act) {
    case NET_NO_ACT: return true;
    case NET_RELU: return dnnl_post_ops_append_eltwise(ops, 1, dnnl_eltwise_relu, 0, 0) == dnnl_success;
    case NET_RELU6: return dnnl_post_ops_append_eltwise(ops, 1, dnnl_eltwise_clip, 0, 6) == dnnl_success;
    case NET_SILU: return dnnl_post_ops_append_eltwise(ops, 1, dnnl_eltwise_swish, 1, 0) == dnnl_success;
    case NET_SIGMOID: return dnnl_post_ops_append_eltwise(ops, 1, dnnl_eltwise_logistic, 0, 0) == dnnl_success;
    case NET_HARDSWISH: return dnnl_post_ops_append_eltwise(ops, 1, dnnl_eltwise_hardswish, 0, 0) == dnnl_success;
    case NET_GELU: return dnnl_post_ops_append_eltwise(ops, 1, dnnl_eltwise_gelu_erf, 0, 0) == dnnl_success;
    case NET_GELU_TANH: return dnnl_post_ops_append_eltwise(ops, 1, dnnl_eltwise_gelu_tanh, 0, 0) == dnnl_success;
    case NET_HARDSIGMOID:
      return dnnl_post_ops_append_eltwise(ops, 1, dnnl_eltwise_linear, 1.0f / 6, 0.5f) == dnnl_success
             && dnnl_post_ops_append_eltwise(ops, 1, dnnl_eltwise_clip, 0, 1) == dnnl_success;
  }
  return false;
}

/* What is done behind the primitive proper; scratch memory comes from the workspace. */
static dnnl_primitive_attr_t attributes(bool adds, net_act act) {
  dnnl_primitive_attr_t a = NULL;
  dnnl_post_ops_t ops = NULL;
  bool ok = dnnl_primitive_attr_create(&a) == dnnl_success && dnnl_post_ops_create(&ops) == dnnl_success
            && dnnl_primitive_attr_set_scratchpad_mode(a, dnnl_scratchpad_mode_user) == dnnl_success
            && (!adds || dnnl_post_ops_append_sum(ops, 1) == dnnl_success) && add_act(ops, act)
            && dnnl_primitive_attr_set_post_ops(a, ops) == dnnl_success;
  if (ops) dnnl_post_ops_destroy(ops);
  if (ok) return a;
  if (a) dnnl_primitive_attr_destroy(a);
  return NULL;
}

/* A descriptor, if oneDNN has a fast form; NULL: it has none. Takes the attributes. */
static dnnl_primitive_desc_t fast(dnnl_engine_t engine, const void *desc, dnnl_primitive_attr_t a) {
  dnnl_primitive_desc_t pd = NULL;
  const char *name = NULL;
  if (a && dnnl_primitive_desc_create(&pd, desc, a, engine, NULL) != dnnl_success) pd = NULL;
  if (a) dnnl_primitive_attr_destroy(a);
  if (!pd) return NULL;
  dnnl_primitive_desc_query(pd, dnnl_query_impl_info_str, 0, &name);
  if (name && !strstr(name, "ref")) return pd;
  dnnl_primitive_desc_destroy(pd);
  return NULL;
}

static int in(const net *n, const net_op *op, int i) { return n->inputs[op->first + i]; }

/* Up to three channels straight from the image as it is given. */
bool dn_reads_plain(const net *n, const net_op *op) {
  return op->kind == NET_CONV && op->groups == 1 && n->values[in(n, op, 0)].given >= 0
         && n->values[in(n, op, 0)].c <= 3;
}

static dnnl_primitive_desc_t conv(const net *n, const net_op *op, bool has_bias) {
  const net_value *x = &n->values[in(n, op, 0)], *y = &n->values[op->out];
  const int c = x->c, o = y->c, groups = op->groups;
  const dnnl_dims_t whole = { o, c, op->kernel[0], op->kernel[1] };
  const dnnl_dims_t grouped = { groups, o / groups, c / groups, op->kernel[0], op->kernel[1] };
  const int size[2] = { x->h, x->w }, out[2] = { y->h, y->w };
  dnnl_dims_t stride, dilation, left, right;
  for (int k = 0; k < 2; k++) {
    stride[k] = op->stride[k];
    dilation[k] = op->dilation[k] - 1;
    left[k] = op->pad[k];
    right[k] = (out[k] - 1) * op->stride[k] + op->dilation[k] * (op->kernel[k] - 1) + 1 - size[k] - op->pad[k];
  }
  dnnl_memory_desc_t src = dn_reads_plain(n, op) ? plain(n, in(n, op, 0), false) : blocked(n, in(n, op, 0)),
                     dst = blocked(n, op->out);
  dnnl_memory_desc_t w = describe(groups > 1 ? 5 : 4, groups > 1 ? grouped : whole, dtype_of(n), dnnl_format_tag_any),
                     b = row(o);
  dnnl_convolution_desc_t d;
  if (dnnl_dilated_convolution_forward_desc_init(&d, dnnl_forward_inference, dnnl_convolution_direct, &src, &w,
                                                 has_bias ? &b : NULL, &dst, stride, dilation, left, right)
      != dnnl_success)
    return NULL;
  return fast(n->engine, &d, attributes(op->adds, op->act));
}

static dnnl_primitive_desc_t pool(const net *n, const net_op *op) {
  const net_value *x = &n->values[in(n, op, 0)], *y = &n->values[op->out];
  const int size[2] = { x->h, x->w }, out[2] = { y->h, y->w };
  dnnl_dims_t stride, kernel, left, right;
  for (int k = 0; k < 2; k++) {
    stride[k] = op->stride[k];
    kernel[k] = op->kernel[k];
    left[k] = op->pad[k];
    right[k] = (out[k] - 1) * op->stride[k] + op->kernel[k] - size[k] - op->pad[k];
  }
  dnnl_alg_kind_t kind = op->kind == NET_MAX_POOL ? dnnl_pooling_max
                         : op->counts_pad         ? dnnl_pooling_avg_include_padding
                                                  : dnnl_pooling_avg_exclude_padding;
  dnnl_memory_desc_t src = blocked(n, in(n, op, 0)), dst = blocked(n, op->out);
  dnnl_pooling_desc_t d;
  if (dnnl_pooling_forward_desc_init(&d, dnnl_forward_inference, kind, &src, &dst, stride, kernel, left, right)
      != dnnl_success)
    return NULL;
  return fast(n->engine, &d, attributes(false, NET_NO_ACT));
}

static dnnl_primitive_desc_t norm(const net *n, const net_op *op) {
  dnnl_memory_desc_t x = blocked(n, in(n, op, 0));
  dnnl_batch_normalization_desc_t d;
  unsigned flags = dnnl_use_global_stats | dnnl_use_scaleshift | (op->act == NET_RELU ? dnnl_fuse_norm_relu : 0);
  if (dnnl_batch_normalization_forward_desc_init(&d, dnnl_forward_inference, &x, (float)op->eps, flags) != dnnl_success)
    return NULL;
  return fast(n->engine, &d, attributes(false, NET_NO_ACT));
}

static dnnl_primitive_desc_t eltwise(const net *n, const dnnl_memory_desc_t *x, dnnl_alg_kind_t kind, float alpha,
                                     float beta) {
  dnnl_eltwise_desc_t d;
  if (dnnl_eltwise_forward_desc_init(&d, dnnl_forward_inference, kind, x, alpha, beta) != dnnl_success) return NULL;
  return fast(n->engine, &d, attributes(false, NET_NO_ACT));
}

/* A sigmoid would write 1 / 2 where a block is not filled, so oneDNN has it in the plain layout alone. */
static bool fills_blocks(const net *n, const net_op *op) {
  const net_value *x = &n->values[op->out];
  bool writes = op->act == NET_SIGMOID || op->act == NET_HARDSIGMOID;
  return op->kind == NET_ACT && writes && !x->rows && x->c % n->block;
}

/* Of hard sigmoid the first step, x / 6 + 1 / 2. */
static dnnl_primitive_desc_t act(const net *n, const net_op *op) {
  static const struct {
    dnnl_alg_kind_t kind;
    float alpha, beta;
  } forms[] = {
    [NET_RELU] = { dnnl_eltwise_relu, 0, 0 },           [NET_RELU6] = { dnnl_eltwise_clip, 0, 6 },
    [NET_SILU] = { dnnl_eltwise_swish, 1, 0 },          [NET_SIGMOID] = { dnnl_eltwise_logistic, 0, 0 },
    [NET_HARDSWISH] = { dnnl_eltwise_hardswish, 0, 0 }, [NET_HARDSIGMOID] = { dnnl_eltwise_linear, 1.0f / 6, 0.5f },
    [NET_GELU] = { dnnl_eltwise_gelu_erf, 0, 0 },       [NET_GELU_TANH] = { dnnl_eltwise_gelu_tanh, 0, 0 },
  };
  dnnl_memory_desc_t x = fills_blocks(n, op) ? plain(n, op->out, false) : laid(n, op->out);
  return eltwise(n, &x, forms[op->act].kind, forms[op->act].alpha, forms[op->act].beta);
}

/* The tensor of a product with one number per channel. */
static dnnl_memory_desc_t scale_row(const net *n, const net_op *op) {
  const net_value *x = &n->values[op->out];
  const dnnl_dims_t dims = { 1, x->c, 1, 1 };
  return x->rows ? matrix(1, x->c, dnnl_f32) : describe(4, dims, dnnl_f32, n->block == 16 ? dnnl_nChw16c : dnnl_nChw8c);
}

static dnnl_primitive_desc_t binary(const net *n, const net_op *op) {
  dnnl_memory_desc_t a = laid(n, in(n, op, 0)), y = laid(n, op->out),
                     b = op->kind == NET_SCALE ? scale_row(n, op) : laid(n, in(n, op, 1));
  dnnl_binary_desc_t d;
  if (dnnl_binary_desc_init(&d, op->kind == NET_ADD ? dnnl_binary_add : dnnl_binary_mul, &a, &b, &y) != dnnl_success)
    return NULL;
  return fast(n->engine, &d, attributes(false, NET_NO_ACT));
}

static dnnl_primitive_desc_t layer_norm(const net *n, const net_op *op) {
  dnnl_memory_desc_t x = laid(n, op->out);
  dnnl_layer_normalization_desc_t d;
  if (dnnl_layer_normalization_forward_desc_init(&d, dnnl_forward_inference, &x, NULL, (float)op->eps,
                                                 dnnl_use_scaleshift)
      != dnnl_success)
    return NULL;
  return fast(n->engine, &d, attributes(false, NET_NO_ACT));
}

/* A linear layer on so many rows, its weight as given, or NULL: as oneDNN likes it best. */
static dnnl_primitive_desc_t linear(const net *n, const net_op *op, int rows, const dnnl_memory_desc_t *weight) {
  const int c = n->values[in(n, op, 0)].c, o = n->values[op->out].c;
  const dnnl_dims_t dims = { o, c };
  dnnl_memory_desc_t src = matrix(rows, c, dtype_of(n)), dst = matrix(rows, o, dtype_of(n)), b = row(o),
                     w = weight ? *weight : describe(2, dims, dtype_of(n), dnnl_format_tag_any);
  dnnl_inner_product_desc_t d;
  if (dnnl_inner_product_forward_desc_init(&d, dnnl_forward_inference, &src, &w, op->has_bias ? &b : NULL, &dst)
      != dnnl_success)
    return NULL;
  return fast(n->engine, &d, attributes(op->adds, op->act));
}

/* A linear layer's rows are computed in parts of equal size, the last one smaller. How many there are depends on their
 * number alone, so that bits do not depend on threads: more than one thread in a product adds in another order. */
static int part_of(int rows) {
  enum { USUAL = 48, MOST = 16 };
  int parts = rows / USUAL < 1 ? 1 : rows / USUAL > MOST ? MOST : rows / USUAL;
  return (rows + parts - 1) / parts;
}

static dnnl_primitive_desc_t describe_op(const net *n, const net_op *op, bool has_bias) {
  switch (op->kind) {
    case NET_CONV: return conv(n, op, has_bias);
    case NET_NORM: return norm(n, op);
    case NET_ACT: return act(n, op);
    case NET_ADD:
    case NET_SCALE:
    case NET_MUL: return binary(n, op);
    case NET_MAX_POOL:
    case NET_AVG_POOL: return pool(n, op);
    case NET_LAYER_NORM: return layer_norm(n, op);
    case NET_LINEAR: return linear(n, op, part_of(rows_of(&n->values[op->out])), NULL);
    case NET_TURN:
    case NET_CAT: break;
  }
  return NULL;
}

bool dn_is_fast(const net *n, const net_op *op) {
  if (op->kind == NET_CAT || op->kind == NET_TURN) return true;
  dnnl_primitive_desc_t pd = describe_op(n, op, true);
  if (pd) dnnl_primitive_desc_destroy(pd);
  return pd != NULL;
}

/* ---- instructions ------------------------------------------------------------------------------------------- */
static instruction *add_instruction(program *g, dnnl_primitive_t primitive, int op) {
  if (g->ninstructions == g->instruction_room) {
    int room = g->instruction_room * 2 + 64;
    instruction *more = mx_realloc(g->instructions, (size_t)room * sizeof *more);
    if (!more) return NULL;
    g->instructions = more;
    g->instruction_room = room;
  }
  instruction *i = &g->instructions[g->ninstructions++];
  *i = (instruction){ .primitive = primitive, .first = g->noperands, .op = op };
  return i;
}

static int add_operand(program *g, instruction *i, int arg, const dnnl_memory_desc_t *md, place at) {
  if (g->noperands == g->operand_room) {
    int room = g->operand_room * 2 + 256;
    operand *more = mx_realloc(g->operands, (size_t)room * sizeof *more);
    if (!more) return TX_NOMEM;
    g->operands = more;
    g->operand_room = room;
  }
  g->operands[g->noperands++] = (operand){ arg, *md, at };
  i->noperands++;
  return TX_OK;
}

/* The primitive of pd as a new instruction, with its scratch memory. Takes pd. */
static int add_primitive(instruction **out, program *g, dnnl_primitive_desc_t pd, int op) {
  dnnl_primitive_t primitive = NULL;
  int status = dn_status(dnnl_primitive_create(&primitive, pd));
  instruction *i = status == TX_OK ? add_instruction(g, primitive, op) : NULL;
  if (status == TX_OK && !i) {
    dnnl_primitive_destroy(primitive);
    status = TX_NOMEM;
  }
  const dnnl_memory_desc_t *scratch = dnnl_primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0);
  size_t bytes = scratch ? dnnl_memory_desc_get_size(scratch) : 0;
  if (status == TX_OK && bytes) {
    int b = plan_add_buffer(g, bytes);
    status = b < 0 ? TX_NOMEM : add_operand(g, i, DNNL_ARG_SCRATCHPAD, scratch, (place){ PLACE_BUFFER, b, 0 });
  }
  dnnl_primitive_desc_destroy(pd);
  *out = i;
  return status;
}

static place place_at(const program *g, int v, int channel) {
  const net_value *x = &g->net.values[v];
  if (x->rows && x->given >= 0) return (place){ PLACE_GIVEN, x->given, 0 };
  int kept = plan_kept_at(&g->net, v);
  if (kept >= 0) return (place){ PLACE_KEPT, kept, 0 };
  return (place){ PLACE_BUFFER, g->buffer_of[v], (size_t)channel * (size_t)x->h * (size_t)x->w * item_size(&g->net) };
}

static place place_of(const program *g, int v) { return place_at(g, v, g->channel_of[v]); }

/* A copy from one layout or place to another. */
static int reorder(infer *p, program *g, const dnnl_memory_desc_t *from, place from_at, const dnnl_memory_desc_t *to,
                   place to_at) {
  dnnl_primitive_desc_t pd = NULL;
  dnnl_primitive_attr_t a = attributes(false, NET_NO_ACT);
  int status = a ? dn_status(dnnl_reorder_primitive_desc_create(&pd, from, p->engine, to, p->engine, a)) : TX_NOMEM;
  if (a) dnnl_primitive_attr_destroy(a);
  instruction *i = NULL;
  if (status == TX_OK) status = add_primitive(&i, g, pd, -1);
  if (status == TX_OK) status = add_operand(g, i, DNNL_ARG_FROM, from, from_at);
  return status == TX_OK ? add_operand(g, i, DNNL_ARG_TO, to, to_at) : status;
}

int dn_bring_in(infer *p, program *g, int v) {
  int given = g->net.values[v].given;
  dnnl_memory_desc_t from = plain(&g->net, v, g->given[given].channels_last), to = blocked(&g->net, v);
  return reorder(p, g, &from, (place){ PLACE_GIVEN, given, 0 }, &to, place_of(g, v));
}

int dn_take_out(infer *p, program *g, int kept) {
  int v = g->net.kept[kept];
  bool rows = g->net.values[v].rows;
  dnnl_memory_desc_t from = laid(&g->net, v), to = rows ? from : plain(&g->net, v, g->channels_last);
  return reorder(p, g, &from, place_of(g, v), &to, (place){ PLACE_KEPT, kept, 0 });
}

int dn_copy(infer *p, program *g, int from, int to, int channel) {
  dnnl_memory_desc_t md = blocked(&g->net, from);
  place at = place_at(g, from, channel);
  at.index = g->buffer_of[to];
  return reorder(p, g, &md, place_of(g, from), &md, at);
}

/* The image as a first convolution reads it; channels last are sorted before. */
static int plain_source(infer *p, program *g, int v, place *at) {
  int given = g->net.values[v].given;
  *at = (place){ PLACE_GIVEN, given, 0 };
  if (!g->given[given].channels_last) return TX_OK;
  dnnl_memory_desc_t from = plain(&g->net, v, true), to = plain(&g->net, v, false);
  int b = plan_add_buffer(g, dnnl_memory_desc_get_size(&to));
  if (b < 0) return TX_NOMEM;
  place sorted = { PLACE_BUFFER, b, 0 };
  int status = reorder(p, g, &from, *at, &to, sorted);
  *at = sorted;
  return status;
}

/* The entry of these tensors in these forms; -1: out of memory. */
static int find_weight(infer *p, const weight *like) {
  for (int i = 0; i < p->nweights; i++) {
    const weight *w = &p->weights[i];
    bool same = w->form == like->form && w->conv == like->conv && w->norm == like->norm && w->has_bias == like->has_bias
                && !memcmp(w->size, like->size, sizeof w->size);
    if (same && (w->form != FORM_ONEDNN || dnnl_memory_desc_equal(&w->md, &like->md))) return i;
  }
  if (p->nweights == p->weight_room) {
    int room = p->weight_room * 2 + 64;
    weight *more = mx_realloc(p->weights, (size_t)room * sizeof *more);
    if (!more) return -1;
    p->weights = more;
    p->weight_room = room;
  }
  p->weights[p->nweights] = *like;
  return p->nweights++;
}

/* Winograd's algorithm where it applies and pays: 3x3 of stride 1 on whole blocks of channels. */
static bool takes_winograd(const net *n, const net_op *op) {
  const net_value *x = &n->values[in(n, op, 0)], *y = &n->values[op->out];
  for (int k = 0; k < 2; k++)
    if (op->kernel[k] != 3 || op->stride[k] != 1 || op->dilation[k] != 1) return false;
  return n->dtype == NET_FLOAT32 && op->groups == 1 && x->c % n->block == 0 && y->c % n->block == 0 && y->h >= 4
         && y->w >= 4 && (op->act == NET_NO_ACT || op->act == NET_RELU || op->act == NET_RELU6);
}

/* Of op's convolution: (out, in / groups, height, width). */
static void set_size(weight *w, const net *n, const net_op *op) {
  w->size[0] = n->values[op->out].c;
  w->size[1] = n->values[in(n, op, 0)].c / op->groups;
  w->size[2] = op->kernel[0];
  w->size[3] = op->kernel[1];
}

static int emit_winograd(infer *p, program *g, int index, bool has_bias) {
  const net *n = &g->net;
  const net_op *op = &n->ops[index];
  const net_value *x = &n->values[in(n, op, 0)], *y = &n->values[op->out];
  winograd shape = { .block = n->block,
                     .in = x->c,
                     .out = y->c,
                     .height = x->h,
                     .width = x->w,
                     .pad = { op->pad[0], op->pad[1] },
                     .out_height = y->h,
                     .out_width = y->w,
                     .threads = g->threads,
                     .adds = op->adds,
                     .act = op->act == NET_RELU    ? WINOGRAD_RELU
                            : op->act == NET_RELU6 ? WINOGRAD_RELU6
                                                   : WINOGRAD_NO_ACT };
  weight like = { .form = FORM_WINOGRAD, .conv = op->conv, .norm = op->norm, .has_bias = has_bias, .winograd = shape };
  set_size(&like, n, op);
  int w = g->weights[index] = find_weight(p, &like), scratch = plan_add_buffer(g, winograd_scratch_bytes(&shape));
  instruction *i = w < 0 || scratch < 0 ? NULL : add_instruction(g, NULL, index);
  if (!i) return TX_NOMEM;
  i->winograd = shape;
  dnnl_memory_desc_t src = blocked(n, in(n, op, 0)), dst = blocked(n, op->out), none = row(1);
  int status = add_operand(g, i, DNNL_ARG_SRC, &src, place_of(g, in(n, op, 0)));
  if (status == TX_OK) status = add_operand(g, i, DNNL_ARG_WEIGHTS, &none, (place){ PLACE_WEIGHT, w, 0 });
  if (status == TX_OK) status = add_operand(g, i, DNNL_ARG_SCRATCHPAD, &none, (place){ PLACE_BUFFER, scratch, 0 });
  if (status == TX_OK) status = add_operand(g, i, DNNL_ARG_DST, &dst, place_of(g, op->out));
  return status == TX_OK && has_bias ? add_operand(g, i, DNNL_ARG_BIAS, &none, (place){ PLACE_BIAS, w, 0 }) : status;
}

static int emit_conv(infer *p, program *g, int index, bool has_bias) {
  const net *n = &g->net;
  const net_op *op = &n->ops[index];
  int x = in(n, op, 0), status = TX_OK;
  place src = place_of(g, x);
  if (dn_reads_plain(n, op)) status = plain_source(p, g, x, &src);
  dnnl_primitive_desc_t pd = status == TX_OK ? conv(n, op, has_bias) : NULL;
  if (!pd) return status == TX_OK ? infer_fail(TX_ERROR, "oneDNN: no fast convolution") : status;
  dnnl_memory_desc_t src_md = *dnnl_primitive_desc_query_md(pd, dnnl_query_src_md, 0), dst = blocked(n, op->out),
                     b = row(n->values[op->out].c);
  weight like = { .conv = op->conv,
                  .norm = op->norm,
                  .md = *dnnl_primitive_desc_query_md(pd, dnnl_query_weights_md, 0),
                  .has_bias = has_bias };
  set_size(&like, n, op);
  int w = g->weights[index] = find_weight(p, &like);
  instruction *i = NULL;
  status = add_primitive(&i, g, pd, index);
  if (status == TX_OK && w < 0) status = TX_NOMEM;
  if (status == TX_OK) status = add_operand(g, i, DNNL_ARG_SRC, &src_md, src);
  if (status == TX_OK) status = add_operand(g, i, DNNL_ARG_WEIGHTS, &like.md, (place){ PLACE_WEIGHT, w, 0 });
  if (status == TX_OK && has_bias) status = add_operand(g, i, DNNL_ARG_BIAS, &b, (place){ PLACE_BIAS, w, 0 });
  return status == TX_OK ? add_operand(g, i, DNNL_ARG_DST, &dst, place_of(g, op->out)) : status;
}

static int emit_norm(infer *p, program *g, int index) {
  const net *n = &g->net;
  const net_op *op = &n->ops[index];
  dnnl_primitive_desc_t pd = norm(n, op);
  if (!pd) return infer_fail(TX_ERROR, "oneDNN: no fast batch norm");
  weight like = {
    .form = FORM_NORM, .conv = -1, .norm = op->norm, .eps = op->eps, .size = { n->values[in(n, op, 0)].c }
  };
  int w = g->weights[index] = find_weight(p, &like), x = in(n, op, 0), c = n->values[x].c;
  const dnnl_dims_t two = { 2, c };
  size_t bytes = (size_t)c * sizeof(float);
  dnnl_memory_desc_t src = blocked(n, x), one = row(c), both = describe(2, two, dnnl_f32, dnnl_nc);
  instruction *i = NULL;
  int status = add_primitive(&i, g, pd, index);
  if (status == TX_OK && w < 0) status = TX_NOMEM;
  if (status == TX_OK) status = add_operand(g, i, DNNL_ARG_SRC, &src, place_of(g, x));
  if (status == TX_OK) status = add_operand(g, i, DNNL_ARG_MEAN, &one, (place){ PLACE_WEIGHT, w, 0 });
  if (status == TX_OK) status = add_operand(g, i, DNNL_ARG_VARIANCE, &one, (place){ PLACE_WEIGHT, w, bytes });
  if (status == TX_OK) status = add_operand(g, i, DNNL_ARG_SCALE_SHIFT, &both, (place){ PLACE_WEIGHT, w, 2 * bytes });
  return status == TX_OK ? add_operand(g, i, DNNL_ARG_DST, &src, place_of(g, op->out)) : status;
}

/* One part of a linear layer; *weight is that of the first part. */
static int emit_part(infer *p, program *g, int index, int first, int rows, dnnl_memory_desc_t *weight_md) {
  const net *n = &g->net;
  const net_op *op = &n->ops[index];
  int x = in(n, op, 0), c = n->values[x].c, o = n->values[op->out].c;
  dnnl_primitive_desc_t pd = linear(n, op, rows, first ? weight_md : NULL);
  if (!pd) return infer_fail(TX_ERROR, "oneDNN: no fast linear layer");
  *weight_md = *dnnl_primitive_desc_query_md(pd, dnnl_query_weights_md, 0);
  weight like = { .conv = op->conv, .norm = -1, .md = *weight_md, .has_bias = op->has_bias, .size = { o, c } };
  int w = g->weights[index] = find_weight(p, &like);
  dnnl_memory_desc_t src = matrix(rows, c, dtype_of(n)), dst = matrix(rows, o, dtype_of(n)), b = row(o);
  place from = place_of(g, x), to = place_of(g, op->out);
  from.offset += (size_t)first * (size_t)c * item_size(n);
  to.offset += (size_t)first * (size_t)o * item_size(n);
  instruction *i = NULL;
  int status = add_primitive(&i, g, pd, index);
  if (status == TX_OK && w < 0) status = TX_NOMEM;
  if (status == TX_OK) status = add_operand(g, i, DNNL_ARG_SRC, &src, from);
  if (status == TX_OK) status = add_operand(g, i, DNNL_ARG_WEIGHTS, weight_md, (place){ PLACE_WEIGHT, w, 0 });
  if (status == TX_OK && op->has_bias) status = add_operand(g, i, DNNL_ARG_BIAS, &b, (place){ PLACE_BIAS, w, 0 });
  return status == TX_OK ? add_operand(g, i, DNNL_ARG_DST, &dst, to) : status;
}

static int emit_linear(infer *p, program *g, int index) {
  int rows = rows_of(&g->net.values[g->net.ops[index].out]), size = part_of(rows), start = g->ninstructions;
  int before = infer_threads(1), status = TX_OK;
  dnnl_memory_desc_t weight_md;
  for (int first = 0; first < rows && status == TX_OK; first += size)
    status = emit_part(p, g, index, first, rows - first < size ? rows - first : size, &weight_md);
  infer_threads(before);
  if (status == TX_OK) g->instructions[start].parts = g->ninstructions - start;
  return status;
}

static int emit_layer_norm(infer *p, program *g, int index) {
  const net *n = &g->net;
  const net_op *op = &n->ops[index];
  dnnl_primitive_desc_t pd = layer_norm(n, op);
  if (!pd) return infer_fail(TX_ERROR, "oneDNN: no fast layer norm");
  int x = in(n, op, 0), c = n->values[x].c;
  weight like = { .form = FORM_LAYER_NORM, .conv = -1, .norm = op->norm, .size = { c } };
  int w = g->weights[index] = find_weight(p, &like);
  dnnl_memory_desc_t src = laid(n, x), both = matrix(2, c, dnnl_f32);
  instruction *i = NULL;
  int status = add_primitive(&i, g, pd, index);
  if (status == TX_OK && w < 0) status = TX_NOMEM;
  if (status == TX_OK) status = add_operand(g, i, DNNL_ARG_SRC, &src, place_of(g, x));
  if (status == TX_OK) status = add_operand(g, i, DNNL_ARG_SCALE_SHIFT, &both, (place){ PLACE_WEIGHT, w, 0 });
  return status == TX_OK ? add_operand(g, i, DNNL_ARG_DST, &src, place_of(g, op->out)) : status;
}

static int emit_scale(infer *p, program *g, int index) {
  const net *n = &g->net;
  const net_op *op = &n->ops[index];
  dnnl_primitive_desc_t pd = binary(n, op);
  if (!pd) return infer_fail(TX_ERROR, "oneDNN: no fast product");
  weight like = { .form = FORM_SCALE, .conv = -1, .norm = op->norm, .argument = op->scale };
  like.size[0] = n->values[op->out].c;
  int w = g->weights[index] = find_weight(p, &like);
  dnnl_memory_desc_t src = laid(n, op->out), one = scale_row(n, op);
  instruction *i = NULL;
  int status = add_primitive(&i, g, pd, index);
  if (status == TX_OK && w < 0) status = TX_NOMEM;
  if (status == TX_OK) status = add_operand(g, i, DNNL_ARG_SRC, &src, place_of(g, in(n, op, 0)));
  if (status == TX_OK) status = add_operand(g, i, DNNL_ARG_SRC_1, &one, (place){ PLACE_WEIGHT, w, 0 });
  return status == TX_OK ? add_operand(g, i, DNNL_ARG_DST, &src, place_of(g, op->out)) : status;
}

/* Rows lie as channels last do. */
static int emit_turn(infer *p, program *g, const net_op *op) {
  int x = in(&g->net, op, 0);
  bool rows = g->net.values[x].rows;
  dnnl_memory_desc_t from = rows ? plain(&g->net, x, true) : blocked(&g->net, x),
                     to = rows ? blocked(&g->net, op->out) : plain(&g->net, op->out, true);
  return reorder(p, g, &from, place_of(g, x), &to, place_of(g, op->out));
}

static int emit_eltwise(program *g, dnnl_primitive_desc_t pd, int index, const dnnl_memory_desc_t *md, place from,
                        place to) {
  instruction *i = NULL;
  if (!pd) return infer_fail(TX_ERROR, "oneDNN: no fast form");
  int status = add_primitive(&i, g, pd, index);
  if (status == TX_OK) status = add_operand(g, i, DNNL_ARG_SRC, md, from);
  return status == TX_OK ? add_operand(g, i, DNNL_ARG_DST, md, to) : status;
}

static int emit_act(infer *p, program *g, int index) {
  const net *n = &g->net;
  const net_op *op = &n->ops[index];
  bool fills = fills_blocks(n, op);
  dnnl_memory_desc_t in_place = laid(n, op->out), md = fills ? plain(n, op->out, false) : in_place;
  place from = place_of(g, in(n, op, 0)), to = place_of(g, op->out), result = to;
  int status = TX_OK;
  if (fills) {
    int b = plan_add_buffer(g, dnnl_memory_desc_get_size(&md));
    if (b < 0) return TX_NOMEM;
    to = (place){ PLACE_BUFFER, b, 0 };
    status = reorder(p, g, &in_place, from, &md, to);
    from = to;
  }
  if (status == TX_OK) status = emit_eltwise(g, act(n, op), index, &md, from, to);
  if (status == TX_OK && op->act == NET_HARDSIGMOID)
    status = emit_eltwise(g, eltwise(n, &md, dnnl_eltwise_clip, 0, 1), -1, &md, to, to);
  return status == TX_OK && fills ? reorder(p, g, &md, to, &in_place, result) : status;
}

static int emit_other(program *g, int index) {
  const net *n = &g->net;
  const net_op *op = &n->ops[index];
  dnnl_primitive_desc_t pd = describe_op(n, op, false);
  if (!pd) return infer_fail(TX_ERROR, "oneDNN: no fast form");
  instruction *i = NULL;
  int status = add_primitive(&i, g, pd, index);
  for (int k = 0; k < op->nin && status == TX_OK; k++) {
    dnnl_memory_desc_t src = laid(n, in(n, op, k));
    status = add_operand(g, i, k ? DNNL_ARG_SRC_1 : DNNL_ARG_SRC, &src, place_of(g, in(n, op, k)));
  }
  dnnl_memory_desc_t dst = laid(n, op->out);
  return status == TX_OK ? add_operand(g, i, DNNL_ARG_DST, &dst, place_of(g, op->out)) : status;
}

int dn_emit(infer *p, program *g, int index) {
  const net_op *op = &g->net.ops[index];
  bool has_bias = op->has_bias || op->norm >= 0;
  switch (op->kind) {
    case NET_CONV: return (takes_winograd(&g->net, op) ? emit_winograd : emit_conv)(p, g, index, has_bias);
    case NET_NORM: return emit_norm(p, g, index);
    case NET_LINEAR: return emit_linear(p, g, index);
    case NET_LAYER_NORM: return emit_layer_norm(p, g, index);
    case NET_SCALE: return emit_scale(p, g, index);
    case NET_TURN: return emit_turn(p, g, op);
    case NET_ACT: return emit_act(p, g, index);
    default: return emit_other(g, index);
  }
}

/* ---- threads ------------------------------------------------------------------------------------------------ */
static int make_worker(const infer *p, const program *g, worker *w) {
  w->memories = mx_calloc((size_t)g->noperands + 1, sizeof *w->memories);
  w->args = mx_calloc((size_t)g->noperands + 1, sizeof *w->args);
  if (!w->memories || !w->args) return TX_NOMEM;
  int status = dn_status(dnnl_stream_create(&w->stream, p->engine, dnnl_stream_default_flags));
  for (int i = 0; i < g->noperands && status == TX_OK; i++) {
    status = dn_status(dnnl_memory_create(&w->memories[i], &g->operands[i].md, p->engine, DNNL_MEMORY_NONE));
    w->args[i] = (dnnl_exec_arg_t){ g->operands[i].arg, w->memories[i] };
  }
  return status;
}

int dn_make_workers(infer *p, program *g, int count) {
  if (g->nworkers >= count) return TX_OK;
  worker *more = mx_realloc(g->workers, (size_t)count * sizeof *more);
  if (!more) return TX_NOMEM;
  g->workers = more;
  int status = TX_OK;
  while (g->nworkers < count && status == TX_OK) {
    worker *w = &g->workers[g->nworkers++];
    *w = (worker){ 0 };
    status = make_worker(p, g, w);
    if (status != TX_OK) dn_free_worker(g, w), g->nworkers--;
  }
  return status;
}

void dn_free_worker(const program *g, worker *w) {
  for (int i = 0; w->memories && i < g->noperands; i++)
    if (w->memories[i]) dnnl_memory_destroy(w->memories[i]);
  if (w->stream) dnnl_stream_destroy(w->stream);
  mx_free(w->memories);
  mx_free(w->args);
}

/* ---- weights ------------------------------------------------------------------------------------------------ */
/* Brings a convolution's plain weight (O, I / groups, kh, kw), or a linear layer's (O, I), of any strides, into w->md's
 * form in memory `to`. */
int dn_pack(infer *p, const weight *w, const tx_tensor *plain, void *to) {
  int64_t size[TX_MAX_DIMS], stride[TX_MAX_DIMS];
  dnnl_dims_t dims, strides;
  tx_tensor_sizes(plain, size);
  tx_tensor_strides(plain, stride);
  bool grouped = w->md.ndims == 5;
  if (grouped) dims[0] = w->md.dims[0], strides[0] = size[0] / dims[0] * stride[0];
  for (int i = 0; i + grouped < w->md.ndims; i++) dims[i + grouped] = size[i], strides[i + grouped] = stride[i];
  if (grouped) dims[1] /= dims[0];
  dnnl_memory_desc_t from;
  dnnl_memory_t m[2] = { NULL, NULL };
  dnnl_primitive_desc_t pd = NULL;
  dnnl_primitive_t primitive = NULL;
  dnnl_stream_t stream = NULL;
  int status = dn_status(dnnl_memory_desc_init_by_strides(&from, w->md.ndims, dims, w->md.data_type, strides));
  if (status == TX_OK) status = dn_status(dnnl_memory_create(&m[0], &from, p->engine, tx_tensor_data(plain)));
  if (status == TX_OK) status = dn_status(dnnl_memory_create(&m[1], &w->md, p->engine, to));
  if (status == TX_OK)
    status = dn_status(dnnl_reorder_primitive_desc_create(&pd, &from, p->engine, &w->md, p->engine, NULL));
  if (status == TX_OK) status = dn_status(dnnl_primitive_create(&primitive, pd));
  if (status == TX_OK) status = dn_status(dnnl_stream_create(&stream, p->engine, dnnl_stream_default_flags));
  dnnl_exec_arg_t args[2] = { { DNNL_ARG_FROM, m[0] }, { DNNL_ARG_TO, m[1] } };
  if (status == TX_OK) status = dn_status(dnnl_primitive_execute(primitive, stream, 2, args));
  if (stream) dnnl_stream_destroy(stream);
  if (primitive) dnnl_primitive_destroy(primitive);
  if (pd) dnnl_primitive_desc_destroy(pd);
  for (int i = 0; i < 2; i++)
    if (m[i]) dnnl_memory_destroy(m[i]);
  return status;
}
