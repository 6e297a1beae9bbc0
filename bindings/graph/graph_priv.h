/* graph_priv.h: what the graph*.c files share. No other file includes it. */
#ifndef MEDXAI_GRAPH_PRIV_H
#define MEDXAI_GRAPH_PRIV_H

#include "graph.h"
#include "infer.h"

typedef enum kind { INPUT, OP, DROP_PATH, FUNCTION } kind;

/* What the executor knows about an operator beyond its schema. */
enum {
  FRESH = 1,      /* its result never shares memory with an argument */
  INPLACE = 2,    /* op_ gives the same bits in its first argument */
  BINARY = 4,     /* ... where both arguments agree in dtype and layout */
  VIEW = 8,       /* its result may share its first argument's memory */
  RECTIFIER = 16, /* guided ReLU applies */
  DROPOUT = 32,   /* (x, p, training): x itself where p is 0 or not training */
  CONV = 64,      /* a batch norm can be folded into it */
  NORM = 128,
  CLAMP6 = 256,   /* hardtanh: no bfloat16 backward on libtorch 1 */
  LINEAR = 512
};

typedef struct bind { /* an argument that is filled in when the node runs */
  int arg;
  graph_arg_kind kind;
  int first, n; /* GRAPH_VALUES: in inputs; GRAPH_VALUE: first in inputs; GRAPH_SLOT: first is the slot */
  uint64_t none; /* GRAPH_VALUES: which of the list's entries are None; n counts them, too */
} bind;

typedef struct node {
  char *name;
  kind kind;
  int traits;
  const tx_op *op, *inplace; /* inplace: NULL where there is none */
  tx_value *args; int nargs; /* constants; the rest is written over per run */
  bind *binds; int nbinds;
  int *inputs; int ninputs;  /* value ids in argument order */
  int *slots; int nslots;
  int counter;               /* num_batches_tracked, or -1 */
  double p;                  /* dropout, drop path */
  int batch_dim;             /* where its value holds the images, see graph_set_batch */
  int64_t per_image;
} node;

typedef enum how { RUN, IN_PLACE, GUIDED, PASS, FOLDED } how;
typedef struct step {
  int node;
  how how;
  bool grad, leaf;
  int conv;              /* FOLDED: the convolution's node */
  int free_first, nfree; /* in plan.frees: values that nobody reads after this step */
} step;

typedef struct plan {
  unsigned char *key; size_t nkey;
  uint64_t number;       /* counts a graph's plans: no two have the same */
  int refs;              /* the cache's, and one per run */
  step *steps; int nsteps;
  int *frees;
  unsigned char *reached; /* per value: an override reaches it */
  unsigned char *training;
} plan;

enum { MAX_PLANS = 64 };
struct graph {
  int refs;
  node *nodes; int count, room;
  int max_args, nslots; /* nslots: one more than the largest slot that a node reads */
  plan *plans[MAX_PLANS]; int nplans;
  uint64_t compiled;    /* plans, those that made room included */
};

typedef struct folded { /* of one batch norm */
  tx_tensor *w, *b;
  uint64_t stamp;
  uint64_t updates; /* how often it has changed its running statistics: libtorch does not count these as versions */
} folded;
struct graph_state {
  int refs; /* the owner's, and one per run */
  graph *g;
  tx_tensor **slots; int nslots;
  unsigned char *eval;            /* per node */
  folded *folded; int nfolded;    /* per node */
  infer *infer;                   /* programs and packed weights, NULL: none yet */
  uint64_t sets;                  /* counts graph_state_set */
  tx_dist *sync;                  /* batch norms: see graph_state_sync; owned, NULL: none */
};

struct graph_run {
  graph_state *s;
  graph *g;
  plan *plan;
  tx_tensor **values; /* per node; owned */
  tx_value *args;     /* scratch: graph.max_args */
  tx_tensor **lists;  /* scratch for tensor lists */
  tx_tensor **temps; int ntemps; /* expanded values of the running node; owned */
  tx_tensor *noise;   /* drawn for the running node, should it be tried again; owned */
  int pc, node, code;
  int64_t batch;      /* of the overrides; 0: there are none */
  int layout;
  bool single, given, clamped, infer;
  int planned;        /* steps that the inference plan has computed */
  char note[128];     /* why it left steps */
  double *seconds;    /* per node, and of the inference plan's copies; NULL: not timed */
  uint64_t *sequences;
  double asked_at;    /* when the caller was asked to compute a node */
  uint64_t asked_sequence;
};

/* ---- graph.c ------------------------------------------------------------------------------------------------ */
/* sets graph_error(), gives status */
int graph_fail(int status, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
int graph_out_of_memory(void);                                                          /* the same with TX_NOMEM */

/* ---- graph_plan.c ------------------------------------------------------------------------------------------- */
/* cached or compiled; the caller releases it */
int graph_find_plan(plan **out, graph_state *s, const graph_request *r);
void graph_plan_release(plan *p);                                        /* accepts NULL */

/* ---- graph_fold.c ------------------------------------------------------------------------------------------- */
int graph_fold(graph_state *s, int norm, int conv); /* s->folded[norm] holds the weights of both nodes in one */
/* The weight and bias of both nodes in one, new. */
int graph_folded_weights(tx_tensor **w, tx_tensor **b, const graph_state *s, const node *norm, const node *conv);
/* Changes whenever a tensor of these nodes is replaced or written to; each may be NULL. Never 0. */
uint64_t graph_fold_stamp(const graph_state *s, const node *conv, const node *norm);
bool graph_has_slots(const graph_state *s, const node *n);                /* has each of its slots a tensor? */
tx_tensor *graph_slot_arg(const graph_state *s, const node *n, int arg); /* borrowed; NULL: no tensor stands there */

/* ---- graph_run.c -------------------------------------------------------------------------------------------- */
int graph_make_leaf(tx_tensor **t); /* detaches t and makes it a leaf that requires grad */

/* ---- graph_call.c ------------------------------------------------------------------------------------------- */
static inline tx_value tensor_value(tx_tensor *t) { return (tx_value){ .kind = t ? TX_TENSOR : TX_NONE, .t = t }; }
static inline tx_value double_value(double d) { return (tx_value){ .kind = TX_DOUBLE, .d = d }; }
/* One tensor out of aten::name.overload. */
int graph_call(tx_tensor **out, const char *name, const char *overload, const tx_value *args, int nargs);
int graph_call1(tx_tensor **out, const char *name, const char *overload, tx_tensor *a);
int graph_call2(tx_tensor **out, const char *name, const char *overload, tx_tensor *a, tx_value b);
/* On TX_OK frees *t and sets it to *result, which may be set by the call whose status is given. */
int graph_replace(tx_tensor **t, int status, tx_tensor *const *result);

/* Adds v to a hash of 64 bits. */
static inline uint64_t graph_mix(uint64_t h, uint64_t v) { return (h ^ v) * 0x9E3779B97F4A7C15u + (h >> 29); }

#endif
