/* graph.h: a network as a list of named nodes, compiled into plans and run node by node. C over tx.h, without Lua.
 * A value is the output of one node; its id is the node's. Nodes are added, and run, in forward order. Blocks and
 * parameters have no names here (scripts/medxai/nn/model.lua has them).
 * Results of int functions: TX_OK, TX_ERROR (graph_error() says why), TX_NOMEM, TX_INTERRUPTED. */
#ifndef MEDXAI_GRAPH_H
#define MEDXAI_GRAPH_H

#include "tx.h"
#include "tx_dist.h"

typedef struct graph graph;             /* the nodes; shared by every model of one architecture */
typedef struct graph_state graph_state; /* one model's tensors: parameters and buffers in numbered slots */
typedef struct graph_run graph_run;     /* one forward pass */

/* ---- building ----------------------------------------------------------------------------------------------- */
typedef enum graph_arg_kind { GRAPH_CONST, GRAPH_VALUE, GRAPH_VALUES, GRAPH_SLOT, GRAPH_TRAINING } graph_arg_kind;
typedef struct graph_arg {
  graph_arg_kind kind;
  int id;          /* GRAPH_VALUE, GRAPH_SLOT */
  int n;           /* GRAPH_VALUES */
  const int *ids;
  uint64_t none;   /* GRAPH_VALUES: bit k: entry k of the list is None, and ids has no id for it */
  tx_value value;  /* GRAPH_CONST: no tensors; copied */
} graph_arg;

graph *graph_new(void);             /* NULL: out of memory */
graph *graph_retain(graph *g);
void graph_release(graph *g);
int graph_count(const graph *g);    /* nodes */
const char *graph_name(const graph *g, int id);
const char *graph_op(const graph *g, int id); /* "conv2d", "input", "function", "drop_path" */
/* Each adds a node after the others and returns its id, or -1: graph_error() says why. Ids in args are those of earlier
 * nodes; slots count from 0. The input is added first; after the first graph_state_new adding is an error. */
int graph_add_input(graph *g, const char *name); /* node 0, the only input */
int graph_add_op(graph *g, const char *name, const tx_op *op, const graph_arg *args, int nargs, int counter);
                 /* counter: slot of a batch norm's num_batches_tracked, or -1 */
int graph_add_drop_path(graph *g, const char *name, int id, double p); /* stochastic depth, by rows */
int graph_add_function(graph *g, const char *name, const int *ids, int n); /* the caller computes it */
int graph_inputs(const graph *g, int id, const int **ids);
/* Where the images of a batch stand in a value: along dimension dim, per_image entries each; dim -1: it holds none.
 * Usual, and so where this is not called: dimension 0, one each. Before the first run. */
void graph_set_batch(graph *g, int id, int dim, int64_t per_image);

/* ---- state -------------------------------------------------------------------------------------------------- */
/* Retains g; slots empty. NULL: graph_error() says why (nodes read more slots than nslots, memory is out). */
graph_state *graph_state_new(graph *g, int nslots);
graph_state *graph_state_retain(graph_state *s);
/* The memory lasts until a run in progress has ended and everyone who retained it has freed it. */
void graph_state_free(graph_state *s);
graph *graph_state_graph(graph_state *s);
int graph_state_size(const graph_state *s);
void graph_state_set(graph_state *s, int slot, tx_tensor *t); /* takes another reference */
tx_tensor *graph_state_get(const graph_state *s, int slot);   /* borrowed; may be NULL */
void graph_state_set_eval(graph_state *s, int node, bool on); /* this node stays in eval mode while the model trains */
/* From now on batch norms in training take their moments over the batches of all processes of the group; NULL: over
 * their own batch. Takes another reference. */
void graph_state_sync(graph_state *s, tx_dist *group);
uint64_t graph_state_version(const graph_state *s); /* changes when a tensor is replaced or written to */
void graph_state_drop_folded(graph_state *s);                 /* forgets folded weights */

/* ---- running ------------------------------------------------------------------------------------------------ */
typedef struct graph_request {
  tx_tensor *x;                     /* may be NULL where base and overrides give all that is read */
  const int *outputs; int noutputs; /* kept; everything else is freed after its last use */
  const int *overrides; tx_tensor *const *override_tensors; int noverrides;
  /* values of an earlier run, for what no override reaches */
  const int *base; tx_tensor *const *base_tensors; int nbase;
  const int *leaves; int nleaves;   /* gradients are recorded from these values on, and not before them */
  const int *rectifiers; int nrectifiers; /* guided: these alone; none: all of them */
  bool training, grad;              /* grad: the caller's grad mode */
  bool fold, guided, single;        /* single: graph_step stops after every node; fold with leaves: behind them too */
  bool infer;                       /* steps that record nothing may go to the inference plan (infer.h) */
  bool profile;                     /* times the nodes */
  int layout;                       /* of x: 0 as it is, 1 contiguous, 2 channels_last */
} graph_request;

typedef enum graph_status { GRAPH_DONE, GRAPH_RAN, GRAPH_WAITS, GRAPH_FAILED } graph_status;

/* Finds or compiles the plan and takes references of all tensors of the request. */
int graph_run_new(graph_run **out, graph_state *s, const graph_request *r);
void graph_run_free(graph_run *run);
/* Runs nodes until all are done, one fails, or a function node waits for graph_run_give. After GRAPH_FAILED a further
 * call tries the same node again (for out of memory). */
graph_status graph_step(graph_run *run);
int graph_run_node(const graph_run *run);      /* that ran last, waits or failed; -1: none */
int graph_run_code(const graph_run *run);      /* after GRAPH_FAILED: a TX_ code */
bool graph_run_grad(const graph_run *run);     /* grad mode in which a waiting node is to be computed */
int graph_run_input(tx_tensor **out, graph_run *run, int i); /* of a waiting node; the caller frees */
tx_tensor *graph_run_value(const graph_run *run, int id); /* borrowed; NULL: not computed or freed already */
void graph_run_give(graph_run *run, tx_tensor *t);        /* takes another reference */
bool graph_run_clamped(const graph_run *run);             /* a ReLU6 ran as clamp(0, 6): see run_op */
/* What went wrong, "conv2d: ..." without the node's name; thread-local, as tx_error() is. */
const char *graph_error(void);

/* What the inference plan left to the node by node pass though convolutions follow, and why; "": nothing. */
const char *graph_run_note(const graph_run *run);
int graph_run_planned(const graph_run *run); /* steps that the inference plan has computed */
/* With profile: per node the seconds that it took (of what the inference plan fuses, at the first one; of several
 * threads, their sum), behind them those of the plan's copies; NULL: without. */
double *graph_run_seconds(const graph_run *run);
/* With profile: per node tx_sequence() before it ran; UINT64_MAX: it recorded no gradient. */
const uint64_t *graph_run_sequences(const graph_run *run);

/* ---- for tests ---------------------------------------------------------------------------------------------- */
int graph_plans(const graph *g);      /* compiled and cached */

#endif
