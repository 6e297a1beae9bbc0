/* graph_look.h: a run as the inference plan (infer.h) sees it: the next steps, their tensors, a place for values. */
#ifndef MEDXAI_GRAPH_LOOK_H
#define MEDXAI_GRAPH_LOOK_H

#include "graph.h"

typedef struct graph_look { /* a step that has not run yet */
  int node, conv;           /* conv: the convolution that this batch norm is folded into, else -1 */
  bool pass, leaf, reached; /* pass: the value is that of its only input */
  bool evaluates;           /* a batch norm that takes its running statistics */
  const char *op;           /* aten's name; NULL: none, or one that only the node by node pass can run */
  const tx_value *args;
  int nargs; /* constants in schema order; where a tensor stands, TX_NONE */
  const int *inputs;
  int ninputs; /* the values that it reads, a folded norm its convolution's */
  const int *frees;
  int nfrees; /* the values that nobody reads after it */
} graph_look;
/* The step `ahead` of the next; false: there is none. */
bool graph_run_look(graph_look *out, const graph_run *run, int ahead);
uint64_t graph_run_place(const graph_run *run); /* of plan and next step: no other plan of the graph has this number */
int graph_run_layout(const graph_run *run);
int graph_run_batch_dim(const graph_run *run, int id); /* where a value holds the images; -1: nowhere */
graph *graph_run_graph(const graph_run *run);
tx_tensor *graph_run_slot(const graph_run *run, int node, int arg); /* borrowed; NULL: no tensor there */
/* The value as node v reads it: what no override reaches is expanded to the overrides' batch. The caller frees. */
int graph_run_value_for(tx_tensor **out, graph_run *run, int v, int id);
int graph_run_put(graph_run *run, int ahead, tx_tensor *t); /* gives the value of that step; takes another reference */
/* New weight and bias of a convolution with a batch norm behind it; the caller frees. */
int graph_run_fold(tx_tensor **w, tx_tensor **b, const graph_run *run, int norm, int conv);
uint64_t graph_run_stamp(const graph_run *run, int conv,
                         int norm); /* changes when their tensors do; -1: none; never 0 */
struct infer;
struct infer **graph_state_infer(graph_state *s);
graph_state *graph_run_state(const graph_run *run);

#endif
