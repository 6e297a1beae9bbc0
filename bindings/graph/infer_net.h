/* infer_net.h: a stretch of a graph as the planner sees it: values and operators of one image, with sizes known.
 * infer_net.c reads it from a run, infer_plan.c fuses operators and places buffers, infer_dnnl.c makes primitives. */
#ifndef MEDXAI_INFER_NET_H
#define MEDXAI_INFER_NET_H

#include "graph_look.h"

typedef enum net_kind { NET_CONV, NET_NORM, NET_ACT, NET_ADD, NET_MUL, NET_CAT, NET_MAX_POOL, NET_AVG_POOL } net_kind;
typedef enum net_act { NET_NO_ACT, NET_RELU, NET_RELU6, NET_SILU, NET_SIGMOID, NET_HARDSWISH, NET_HARDSIGMOID } net_act;
typedef enum net_dtype { NET_FLOAT32, NET_BFLOAT16 } net_dtype;

typedef struct net_value {
  int node; /* of the graph, that gives it first */
  int c, h, w;
  int given;                /* which of the tensors that come from outside; -1: computed here */
  bool kept;                /* somebody outside reads it */
  int maker;                /* op; -1: given */
  int readers, last_reader; /* ops */
} net_value;

typedef struct net_op {
  net_kind kind;
  net_act act; /* NET_ACT; of a convolution or norm: fused behind it */
  int node;
  int out;
  int first, nin;                                        /* in net.inputs */
  int kernel[2], stride[2], pad[2], dilation[2], groups; /* convolution and pooling: height, width */
  bool counts_pad;                                       /* NET_AVG_POOL: zeros of the padding count */
  int conv, norm; /* graph nodes whose tensors it uses, -1: none; both: the norm is folded into the convolution */
  bool has_bias;  /* the convolution */
  double eps;     /* of the norm */
  int over;       /* a value whose memory the result takes over, -1: none */
  bool adds;      /* convolution: to what lies there, before the activation */
  bool gone;      /* fused into another one */
} net_op;

typedef struct net {
  net_value *values;
  int nvalues;
  net_op *ops;
  int nops;
  int *inputs;
  int ninputs;
  int *of_node; /* per graph node: value, -1 */
  int *given;
  int *given_reader;
  int ngiven; /* graph nodes whose values come from outside, and who reads them first */
  int *kept;
  int *kept_step;
  int nkept; /* values that go outside, and the steps ahead that give them */
  int steps; /* of the run that it covers */
  net_dtype dtype;
  int block;    /* channels that lie together: 8 or 16 */
  void *engine; /* oneDNN's */
} net;

/* Reads as many of the run's next steps as can be computed. net.steps 0: none that pay; note says why a step cannot.
 * TX_OK, TX_NOMEM, or an error of the run (a value's batch does not fit). */
int net_read(net *out, graph_run *run, char *note, size_t room); /* out: engine, block and dtype are set */
void net_clear(net *n);
/* Are the tensors of a convolution (-1: none) and of a norm (-1: none) such as a program can read: on the CPU, of the
 * net's dtype, the convolution's weight of this size, all others one number for each of size[0] channels? */
bool net_fits(const graph_run *run, int conv, int norm, const int64_t size[4], net_dtype dtype);
void net_count_readers(net *n); /* of ops that are not gone */

#endif
