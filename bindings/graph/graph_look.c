/* graph_look.c: lets the inference plan (infer.h) see the next steps of a run, and put their values. */
#include "graph_priv.h"

double *graph_run_seconds(const graph_run *run) { return run->seconds; }
const uint64_t *graph_run_sequences(const graph_run *run) { return run->sequences; }
const char *graph_run_note(const graph_run *run) { return run->note; }
int graph_run_planned(const graph_run *run) { return run->planned; }
int graph_run_layout(const graph_run *run) { return run->layout; }
int graph_run_batch_dim(const graph_run *run, int id) { return run->g->nodes[id].batch_dim; }
graph *graph_run_graph(const graph_run *run) { return run->g; }
graph_state *graph_run_state(const graph_run *run) { return run->s; }
infer **graph_state_infer(graph_state *s) { return &s->infer; }

uint64_t graph_run_place(const graph_run *run) {
  return run->plan->number * (uint64_t)run->g->count + (uint64_t)run->pc;
}

bool graph_run_look(graph_look *out, const graph_run *run, int ahead) {
  if (run->pc + ahead >= run->plan->nsteps) return false;
  const step *st = &run->plan->steps[run->pc + ahead];
  const node *n = &run->g->nodes[st->node];
  bool folds = st->how == FOLDED, is_own = st->grad || st->how == GUIDED || (st->leaf && run->values[st->node]);
  *out = (graph_look){ .node = st->node,
                       .conv = folds ? st->conv : -1,
                       .pass = st->how == PASS && n->kind != INPUT && !is_own,
                       .leaf = st->leaf,
                       .reached = run->plan->reached[st->node],
                       .evaluates = !run->plan->training[st->node],
                       .frees = run->plan->frees + st->free_first,
                       .nfrees = st->nfree };
  if (folds) n = &run->g->nodes[st->conv];
  out->inputs = n->inputs;
  out->ninputs = n->ninputs;
  bool has_all = graph_has_slots(run->s, n) && graph_has_slots(run->s, &run->g->nodes[st->node]);
  if (is_own || n->kind != OP || !has_all) return true;
  out->op = tx_op_name(n->op);
  out->args = n->args;
  out->nargs = n->nargs;
  return true;
}

tx_tensor *graph_run_slot(const graph_run *run, int node, int arg) {
  return graph_slot_arg(run->s, &run->g->nodes[node], arg);
}

uint64_t graph_run_stamp(const graph_run *run, int conv, int norm) {
  const node *nodes = run->g->nodes;
  return graph_fold_stamp(run->s, conv < 0 ? NULL : &nodes[conv], norm < 0 ? NULL : &nodes[norm]);
}

int graph_run_fold(tx_tensor **w, tx_tensor **b, const graph_run *run, int norm, int conv) {
  return graph_folded_weights(w, b, run->s, &run->g->nodes[norm], &run->g->nodes[conv]);
}

int graph_run_put(graph_run *run, int ahead, tx_tensor *t) {
  const step *st = &run->plan->steps[run->pc + ahead];
  t = tx_tensor_ref(t);
  int status = st->leaf ? graph_make_leaf(&t) : TX_OK;
  if (status != TX_OK) return tx_tensor_free(t), status;
  tx_tensor_free(run->values[st->node]);
  run->values[st->node] = t;
  return TX_OK;
}
