/* infer_plan.c: from a net to a program: fuses batch norms, activations and sums into convolutions, lets concatenations
 * share one buffer with what they join, and gives every buffer a place in the workspace by its lifetime.
 * It refuses to let a value be overwritten that anybody reads later. */
#include "infer_priv.h"
#include "alloc.h"

#include <string.h>

/* ---- fusion ------------------------------------------------------------------------------------------------- */
/* The only op that reads op's result; NULL: several, or somebody outside. */
static net_op *only_reader(net *n, const net_op *op) {
  const net_value *v = &n->values[op->out];
  return v->kept || v->readers != 1 ? NULL : &n->ops[v->last_reader];
}

static bool reads(const net *n, const net_op *op, int v) {
  for (int i = 0; i < op->nin; i++)
    if (n->inputs[op->first + i] == v) return true;
  return op->adds && op->over == v;
}

/* May op i work in the memory of v? Nobody but op `done` reads v after i, and no concatenation shares v's memory. */
static bool may_take_over(const net *n, int v, int i, int done) {
  const net_value *x = &n->values[v];
  if (x->given >= 0 || x->maker >= i || n->ops[x->maker].kind == NET_CAT) return false;
  for (int k = 0; k < n->nops; k++) {
    const net_op *op = &n->ops[k];
    if (op->gone || k == done || !reads(n, op, v)) continue;
    if (k > i || op->kind == NET_CAT) return false;
  }
  return true;
}

/* A convolution adds to the other value of a sum, where that is there already and needed no more. */
static bool fuse_sum(net *n, net_op *op, const net_op *add) {
  const int *in = &n->inputs[add->first];
  int other = in[in[0] == op->out];
  if (reads(n, op, other)) return false;
  if (!may_take_over(n, other, (int)(op - n->ops), (int)(add - n->ops))) return false;
  op->over = other;
  return op->adds = true;
}

static void fuse_behind(net *n, net_op *op) {
  net_op *next;
  while (op->act == NET_NO_ACT && (next = only_reader(n, op))) {
    bool is_product = op->kind == NET_CONV || op->kind == NET_LINEAR;
    if (op->kind == NET_CONV && next->kind == NET_NORM && op->norm < 0 && !op->adds)
      op->norm = next->norm, op->act = next->act;
    else if (next->kind == NET_ACT && (is_product || next->act == NET_RELU))
      op->act = next->act;
    else if (!is_product || next->kind != NET_ADD || op->adds || !fuse_sum(n, op, next))
      return;
    op->out = next->out;
    n->values[op->out].maker = (int)(op - n->ops);
    next->gone = true;
    net_count_readers(n);
  }
}

static void fuse(net *n) {
  net_count_readers(n);
  for (int i = 0; i < n->nops; i++) {
    net_op *op = &n->ops[i];
    if (!op->gone && (op->kind == NET_CONV || op->kind == NET_NORM || op->kind == NET_LINEAR)) fuse_behind(n, op);
  }
  for (int i = 0; i < n->nops; i++) {
    net_op *op = &n->ops[i];
    bool in_place = op->kind == NET_ACT || op->kind == NET_NORM || op->kind == NET_ADD || op->kind == NET_MUL
                    || op->kind == NET_SCALE;
    if (!op->gone && in_place && may_take_over(n, n->inputs[op->first], i, i)) op->over = n->inputs[op->first];
  }
}

/* ---- where values lie --------------------------------------------------------------------------------------- */
typedef struct home {
  int value, channel;
  bool shared;
} home; /* in that value's buffer, from that channel on */

/* The value that has the memory first. */
static int first_of(const net *n, int v) {
  for (;;) {
    int maker = n->values[v].maker;
    if (maker < 0 || n->ops[maker].over < 0) return v;
    v = n->ops[maker].over;
  }
}

/* Does all that op joins lie side by side already? */
static bool is_joined(const net *n, const home *at, const net_op *op) {
  const home *a = &at[first_of(n, n->inputs[op->first])];
  int channel = a->channel;
  for (int i = 0; i < op->nin; i++) {
    int v = n->inputs[op->first + i];
    const home *b = &at[first_of(n, v)];
    if (!b->shared || b->value != a->value || b->channel != channel) return false;
    channel += n->values[v].c;
  }
  return true;
}

/* From the last concatenation to the first: what it joins lies in its buffer, or is going to be copied there. */
static void share_buffers(const net *n, home *at) {
  for (int i = n->nops - 1; i >= 0; i--) {
    const net_op *op = &n->ops[i];
    if (op->kind != NET_CAT) continue;
    home *out = &at[first_of(n, op->out)];
    if (!out->shared && is_joined(n, at, op)) {
      *out = at[first_of(n, n->inputs[op->first])];
      continue;
    }
    out->shared = true;
    int channel = out->channel;
    for (int k = 0; k < op->nin; k++) {
      int v = n->inputs[op->first + k];
      home *h = &at[first_of(n, v)];
      if (!h->shared) *h = (home){ out->value, channel, true };
      channel += n->values[v].c;
    }
  }
}

int plan_add_buffer(program *g, size_t bytes) {
  if (g->nbuffers == g->buffer_room) {
    int room = g->buffer_room * 2 + 64;
    buffer *b = mx_realloc(g->buffers, (size_t)room * sizeof *b);
    if (!b) return -1;
    g->buffers = b;
    g->buffer_room = room;
  }
  g->buffers[g->nbuffers] = (buffer){ .bytes = bytes, .first = -1, .last = -1 };
  return g->nbuffers++;
}

static size_t value_bytes(const net *n, const net_value *v) {
  size_t channels = (size_t)(v->rows ? v->c : (v->c + n->block - 1) / n->block * n->block);
  return channels * (size_t)v->h * (size_t)v->w * (n->dtype == NET_BFLOAT16 ? 2 : 4);
}

static int place_values(program *g) {
  const net *n = &g->net;
  home *at = mx_calloc((size_t)n->nvalues + 1, sizeof *at);
  if (!at) return TX_NOMEM;
  for (int v = 0; v < n->nvalues; v++) {
    at[v].value = v;
    g->buffer_of[v] = -1;
  }
  share_buffers(n, at);
  int status = TX_OK;
  for (int v = 0; v < n->nvalues && status == TX_OK; v++) {
    const home *h = &at[first_of(n, v)];
    int *b = &g->buffer_of[h->value];
    if (*b < 0) *b = plan_add_buffer(g, value_bytes(n, &n->values[h->value]));
    if (*b < 0) status = TX_NOMEM;
    g->buffer_of[v] = *b;
    g->channel_of[v] = h->channel;
  }
  mx_free(at);
  return status;
}

/* ---- instructions in order ---------------------------------------------------------------------------------- */
/* What an op joins and that does not lie in its place is copied. */
static int join(infer *p, program *g, const net_op *op) {
  const net *n = &g->net;
  int channel = g->channel_of[op->out], status = TX_OK;
  for (int i = 0; i < op->nin && status == TX_OK; i++) {
    int v = n->inputs[op->first + i];
    if (g->buffer_of[v] != g->buffer_of[op->out] || g->channel_of[v] != channel)
      status = dn_copy(p, g, v, op->out, channel);
    channel += n->values[v].c;
  }
  return status;
}

/* Given values are brought in where they are first read in blocks; rows are read where they are. */
static int bring_in(infer *p, program *g, const net_op *op, bool *there) {
  int status = TX_OK;
  for (int i = 0; i < op->nin && status == TX_OK; i++) {
    int v = g->net.inputs[op->first + i];
    if (g->net.values[v].given < 0 || there[v] || g->net.values[v].rows || dn_reads_plain(&g->net, op)) continue;
    there[v] = true;
    status = dn_bring_in(p, g, v);
  }
  return status;
}

/* Which kept tensor rows are computed in; -1: they lie in the workspace. */
int plan_kept_at(const net *n, int v) {
  const net_value *x = &n->values[v];
  if (!x->rows || !x->kept || x->given >= 0 || n->ops[x->maker].over >= 0) return -1;
  for (int i = 0; i < n->nops; i++)
    if (!n->ops[i].gone && n->ops[i].over == v) return -1;
  for (int i = 0; i < n->nkept; i++)
    if (n->kept[i] == v) return i;
  return -1;
}

static int take_out(infer *p, program *g, int v, bool *there) {
  int status = TX_OK;
  for (int i = 0; i < g->net.nkept && status == TX_OK; i++) {
    if (g->net.kept[i] != v) continue;
    if (g->net.values[v].given >= 0 && !g->net.values[v].rows && !there[v]) status = dn_bring_in(p, g, v);
    there[v] = true;
    if (plan_kept_at(&g->net, v) == i) continue; /* its op writes it there */
    if (status == TX_OK) status = dn_take_out(p, g, i);
  }
  return status;
}

static int write_instructions(infer *p, program *g) {
  net *n = &g->net;
  bool *there = mx_calloc((size_t)n->nvalues + 1, sizeof *there);
  int status = there ? TX_OK : TX_NOMEM;
  for (int i = 0; i < n->nops && status == TX_OK; i++) {
    const net_op *op = &n->ops[i];
    if (op->gone) continue;
    status = bring_in(p, g, op, there);
    if (status == TX_OK) status = op->kind == NET_CAT ? join(p, g, op) : dn_emit(p, g, i);
    if (status == TX_OK) status = take_out(p, g, op->out, there);
  }
  for (int v = 0; v < n->nvalues && status == TX_OK; v++)
    if (n->values[v].given >= 0) status = take_out(p, g, v, there);
  mx_free(there);
  return status;
}

/* ---- the workspace ------------------------------------------------------------------------------------------ */
static void use_buffers(program *g, int i, int first, int last) {
  for (int k = 0; k < g->instructions[i].noperands; k++) {
    const place *at = &g->operands[g->instructions[i].first + k].at;
    if (at->kind != PLACE_BUFFER) continue;
    buffer *b = &g->buffers[at->index];
    if (b->first < 0) b->first = first;
    b->last = last;
  }
}

/* Instructions that run at the same time use their buffers all that time. */
static void find_lifetimes(program *g) {
  for (int i = 0; i < g->ninstructions;) {
    int count = g->instructions[i].parts > 1 ? g->instructions[i].parts : 1;
    for (int k = i; k < i + count; k++) use_buffers(g, k, i, i + count - 1);
    i += count;
  }
}

/* The lowest offset at which b meets no buffer of `placed` that is in use at the same time. */
static size_t find_offset(const program *g, const buffer *b, const int *placed, int nplaced) {
  size_t offset = 0;
  for (bool moved = true; moved;) {
    moved = false;
    for (int i = 0; i < nplaced; i++) {
      const buffer *o = &g->buffers[placed[i]];
      if (o->last < b->first || b->last < o->first) continue;
      if (offset + b->bytes <= o->offset || o->offset + o->bytes <= offset) continue;
      offset = o->offset + o->bytes;
      moved = true;
    }
  }
  return offset;
}

/* The largest first. */
static int lay_out(program *g) {
  int *placed = mx_calloc((size_t)g->nbuffers + 1, sizeof *placed), nplaced = 0;
  if (!placed) return TX_NOMEM;
  find_lifetimes(g);
  for (int i = 0; i < g->nbuffers; i++) g->buffers[i].bytes = (g->buffers[i].bytes + 63) / 64 * 64;
  for (;;) {
    int best = -1;
    for (int i = 0; i < g->nbuffers; i++) {
      const buffer *b = &g->buffers[i];
      if (b->first >= 0 && !b->placed && (best < 0 || b->bytes > g->buffers[best].bytes)) best = i;
    }
    if (best < 0) break;
    buffer *b = &g->buffers[best];
    b->offset = find_offset(g, b, placed, nplaced);
    b->placed = true;
    placed[nplaced++] = best;
    if (b->offset + b->bytes > g->arena) g->arena = b->offset + b->bytes;
  }
  mx_free(placed);
  return TX_OK;
}

int plan_program(infer *p, program *g) {
  size_t values = (size_t)g->net.nvalues + 1;
  g->buffer_of = mx_calloc(values, sizeof *g->buffer_of);
  g->channel_of = mx_calloc(values, sizeof *g->channel_of);
  g->weights = mx_calloc((size_t)g->net.nops + 1, sizeof *g->weights);
  if (!g->buffer_of || !g->channel_of || !g->weights) return TX_NOMEM;
  for (int i = 0; i < g->net.nops; i++) g->weights[i] = -1;
  fuse(&g->net);
  int status = place_values(g);
  if (status == TX_OK) status = write_instructions(p, g);
  return status == TX_OK ? lay_out(g) : status;
}
