/* infer_net.h: a stretch of a graph as the planner sees it: values and operators of one image, with sizes known.
 * A value is an image (N, C, h, w), which lies in blocks of channels, or rows (N, tokens, C) or (N, h, w, C), which lie
 * as PyTorch has them. In a whole net dimension 0 does not count images, and all of it is one.
 * What infer_net.c reads from a run, infer_plan.c fuses and places, infer_dnnl.c makes primitives of. */
#ifndef MEDXAI_INFER_NET_H
#define MEDXAI_INFER_NET_H

#include "graph_look.h"

typedef enum net_kind {
  NET_CONV,
  NET_NORM,
  NET_ACT,
  NET_ADD,
  NET_MUL,
  NET_CAT,
  NET_MAX_POOL,
  NET_AVG_POOL,
  NET_LINEAR,
  NET_LAYER_NORM,
  NET_SCALE, /* a product with one number per channel that is a tensor of the model */
  NET_TURN   /* an image to rows, or rows to an image */
} net_kind;
typedef enum net_act {
  NET_NO_ACT,
  NET_RELU,
  NET_RELU6,
  NET_SILU,
  NET_SIGMOID,
  NET_HARDSWISH,
  NET_HARDSIGMOID,
  NET_GELU,
  NET_GELU_TANH
} net_act;
typedef enum net_dtype { NET_FLOAT32, NET_BFLOAT16 } net_dtype;

typedef struct net_value {
  int node; /* of the graph, that gives it first */
  int c, h, w; /* of rows: (N, tokens, C) has h tokens and w 1, in a whole net h of all its rows */
  bool rows;
  int dims;                 /* of the tensor: 4, or 3 of rows */
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
  /* graph nodes whose tensors it uses, -1: none; both: the norm is folded into the convolution. conv: also a linear
   * layer; norm: also a layer norm, or a product with one number per channel */
  int conv, norm;
  int scale;      /* NET_SCALE: the argument that is the model's tensor */
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
  int *of_node; /* per graph node: value, -1; while it is read */
  int *given;
  int *given_reader;
  int ngiven; /* graph nodes whose values come from outside, and who reads them first */
  int *kept;
  int *kept_step;
  int nkept; /* values that go outside, and the steps ahead that give them */
  int steps; /* of the run that it covers */
  int outer; /* of a whole net: dimension 0 of its values; 0: images are counted there */
  net_dtype dtype;
  int block;    /* channels that lie together: 8 or 16 */
  void *engine; /* oneDNN's */
} net;

/* Reads as many of the run's next steps as can be computed. net.steps 0: none that pay; note says why a step cannot.
 * TX_OK, TX_NOMEM, or an error of the run (a value's batch does not fit). */
int net_read(net *out, graph_run *run, char *note, size_t room); /* out: engine, block and dtype are set */
void net_clear(net *n);
/* Are the tensors of a convolution or linear layer (-1: none) and of a norm (-1: none) such as a program can read: on
 * the CPU, of the net's dtype, the weight of this size (a linear layer's: out, in, 0, 0), all others one number for
 * each of size[0] channels? */
bool net_fits(const graph_run *run, int conv, int norm, const int64_t size[4], net_dtype dtype);
/* The same of the arguments first to last of a layer norm or of a product: one number per channel. */
bool net_fits_rows(const graph_run *run, int node, int first, int last, int64_t channels, net_dtype dtype);
bool net_fits_scale(const graph_run *run, int node, int argument, int64_t channels, net_dtype dtype);
void net_count_readers(net *n); /* of ops that are not gone */

#endif
