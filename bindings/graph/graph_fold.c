/* graph_fold.c: folds a batch norm in eval mode into the convolution before it, which then has other weights:
 *   w' = w * gamma / sqrt(var + eps),  b' = beta + (b - mean) * gamma / sqrt(var + eps)
 * They are computed in float64, kept with the state, and computed again when a tensor that they depend on has
 * changed. */
#include "graph_priv.h"

#include <string.h>

/* Changes whenever one of the tensors read by folding is replaced or written to. */
uint64_t graph_fold_stamp(const graph_state *s, const node *conv, const node *norm) {
  uint64_t h = graph_mix(1, s->sets);
  for (int i = 0; conv && i < conv->nslots; i++) h = graph_mix(h, tx_tensor_version(s->slots[conv->slots[i]]));
  for (int i = 0; norm && i < norm->nslots; i++) h = graph_mix(h, tx_tensor_version(s->slots[norm->slots[i]]));
  if (norm) h = graph_mix(h, s->folded[norm - s->g->nodes].updates);
  return h | 1;
}

static int as_double(tx_tensor **out, tx_tensor *t) { return tx_tensor_to(out, t, NULL, "float64", false, false); }

/* scale = gamma / sqrt(var + eps), in float64: (C) */
static int fold_scale(tx_tensor **out, tx_tensor *gamma, tx_tensor *var, double eps) {
  tx_tensor *t = NULL, *u = NULL, *g = NULL;
  int status = as_double(&t, var);
  if (status == TX_OK) status = graph_replace(&t, graph_call2(&u, "add", "Scalar", t, double_value(eps)), &u);
  if (status == TX_OK) status = graph_replace(&t, graph_call1(&u, "sqrt", "", t), &u);
  if (status == TX_OK) status = as_double(&g, gamma);
  if (status == TX_OK) status = graph_call2(out, "div", "Tensor", g, tensor_value(t));
  tx_tensor_free(t);
  tx_tensor_free(g);
  return status;
}

/* A float32 weight on the CPU with four dimensions, and a factor for each of its output channels? */
static bool is_plain(const tx_tensor *w, const tx_tensor *scale) {
  char device[16];
  int64_t n[TX_MAX_DIMS];
  tx_tensor_device(w, device);
  if (strcmp(device, "cpu") || strcmp(tx_tensor_dtype(w), "float32") || tx_tensor_dim(w) != 4) return false;
  tx_tensor_sizes(w, n);
  return tx_tensor_dim(scale) == 1 && tx_tensor_numel(scale) == n[0] && !strcmp(tx_tensor_dtype(scale), "float64")
         && tx_tensor_is_contiguous(scale, false) && tx_tensor_data(w) && tx_tensor_data(scale);
}

/* The same numbers as fold_weight, without copies of the weight in float64. */
static int fold_plain(tx_tensor **out, tx_tensor *w, const tx_tensor *scale) {
  int64_t n[TX_MAX_DIMS], from[TX_MAX_DIMS], to[TX_MAX_DIMS];
  const double *factor = tx_tensor_data(scale);
  const float *v = tx_tensor_data(w);
  int status = graph_call1(out, "empty_like", "", w);
  if (status != TX_OK) return status;
  float *r = tx_tensor_data(*out);
  tx_tensor_sizes(w, n);
  tx_tensor_strides(w, from);
  tx_tensor_strides(*out, to);
  for (int64_t o = 0; o < n[0]; o++)
    for (int64_t i = 0; i < n[1]; i++)
      for (int64_t y = 0; y < n[2]; y++)
        for (int64_t x = 0; x < n[3]; x++)
          r[o * to[0] + i * to[1] + y * to[2] + x * to[3]] =
            (float)((double)v[o * from[0] + i * from[1] + y * from[2] + x * from[3]] * factor[o]);
  return TX_OK;
}

/* w * scale along the output channels: (O, I, kh, kw), rounded once to w's dtype */
static int fold_weight(tx_tensor **out, tx_tensor *w, tx_tensor *scale) {
  tx_tensor *t = NULL, *u = NULL, *view = NULL;
  if (is_plain(w, scale)) return fold_plain(out, w, scale);
  int64_t shape[TX_MAX_DIMS] = { -1, 1, 1, 1 };
  int status = as_double(&t, w);
  if (status == TX_OK)
    status = graph_call2(&view, "reshape", "", scale, (tx_value){ .kind = TX_INTS, .n = 4, .is = shape });
  if (status == TX_OK) status = graph_replace(&t, graph_call2(&u, "mul", "Tensor", t, tensor_value(view)), &u);
  if (status == TX_OK) status = tx_tensor_to(out, t, NULL, tx_tensor_dtype(w), false, false);
  tx_tensor_free(t);
  tx_tensor_free(view);
  return status;
}

/* beta + (bias - mean) * scale: (O); bias may be NULL */
static int fold_bias(tx_tensor **out, tx_tensor *bias, tx_tensor *beta, tx_tensor *mean, tx_tensor *scale) {
  tx_tensor *t = NULL, *u = NULL, *b = NULL;
  int status = as_double(&t, mean);
  if (status == TX_OK) status = graph_replace(&t, graph_call1(&u, "neg", "", t), &u);
  if (status == TX_OK && bias) status = graph_replace(&t, graph_call2(&u, "add", "Tensor", t, tensor_value(bias)), &u);
  if (status == TX_OK) status = graph_replace(&t, graph_call2(&u, "mul", "Tensor", t, tensor_value(scale)), &u);
  if (status == TX_OK) status = as_double(&b, beta);
  if (status == TX_OK) status = graph_replace(&t, graph_call2(&u, "add", "Tensor", t, tensor_value(b)), &u);
  if (status == TX_OK) status = tx_tensor_to(out, t, NULL, tx_tensor_dtype(mean), false, false);
  tx_tensor_free(t);
  tx_tensor_free(b);
  return status;
}

tx_tensor *graph_slot_arg(const graph_state *s, const node *n, int arg) {
  for (int i = 0; i < n->nbinds; i++)
    if (n->binds[i].arg == arg && n->binds[i].kind == GRAPH_SLOT) return s->slots[n->binds[i].first];
  return NULL;
}

bool graph_has_slots(const graph_state *s, const node *n) {
  for (int i = 0; i < n->nslots; i++)
    if (!s->slots[n->slots[i]]) return false;
  return true;
}

int graph_folded_weights(tx_tensor **out_w, tx_tensor **out_b, const graph_state *s, const node *norm,
                         const node *conv) {
  tx_tensor *scale = NULL, *w = NULL, *b = NULL, *bias = graph_slot_arg(s, conv, 2);
  int status = fold_scale(&scale, graph_slot_arg(s, norm, 1), graph_slot_arg(s, norm, 4), norm->args[7].d);
  if (status == TX_OK) status = fold_weight(&w, graph_slot_arg(s, conv, 1), scale);
  if (status == TX_OK) status = fold_bias(&b, bias, graph_slot_arg(s, norm, 2), graph_slot_arg(s, norm, 3), scale);
  tx_tensor_free(scale);
  if (status != TX_OK) {
    tx_tensor_free(w);
    tx_tensor_free(b);
    return status;
  }
  *out_w = w;
  *out_b = b;
  return TX_OK;
}

int graph_fold(graph_state *s, int norm_id, int conv_id) {
  const node *conv = &s->g->nodes[conv_id], *norm = &s->g->nodes[norm_id];
  folded *f = &s->folded[norm_id];
  if (!graph_has_slots(s, conv) || !graph_has_slots(s, norm))
    return graph_fail(TX_ERROR, "batch_norm: a parameter has no tensor");
  uint64_t stamp = graph_fold_stamp(s, conv, norm);
  if (f->stamp == stamp) return TX_OK;
  tx_tensor *w = NULL, *b = NULL;
  int status = graph_folded_weights(&w, &b, s, norm, conv);
  if (status != TX_OK) return status;
  tx_tensor_free(f->w);
  tx_tensor_free(f->b);
  f->w = w;
  f->b = b;
  f->stamp = stamp;
  return TX_OK;
}
