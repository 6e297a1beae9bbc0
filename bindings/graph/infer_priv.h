/* infer_priv.h: programs of the inference plan: instructions over buffers of one workspace. For infer*.c alone. */
#ifndef MEDXAI_INFER_PRIV_H
#define MEDXAI_INFER_PRIV_H

#include "infer.h"
#include "infer_net.h"
#include "winograd.h"

#include <dnnl.h>

typedef enum place_kind { PLACE_BUFFER, PLACE_WEIGHT, PLACE_BIAS, PLACE_GIVEN, PLACE_KEPT } place_kind;
typedef struct place {
  place_kind kind;
  int index;     /* of the buffer, weight, given or kept value */
  size_t offset; /* bytes */
} place;

typedef struct operand { /* of a primitive */
  int arg;               /* DNNL_ARG_ */
  dnnl_memory_desc_t md;
  place at;
} operand;

typedef struct instruction {
  dnnl_primitive_t primitive; /* NULL: the convolution runs by Winograd's algorithm */
  winograd winograd;
  int first, noperands; /* in program.operands */
  int op;               /* in net.ops; -1: a copy */
  int parts;            /* this one and those behind it are parts of one op and may run at the same time; 0, 1: none */
  bool checked;         /* the largest number that it reads is looked at before (infer_weights.c) */
} instruction;

typedef struct buffer {
  size_t bytes, offset;
  int first, last; /* instructions between which it is in use */
  bool placed;
} buffer;

typedef enum weight_form {
  FORM_ONEDNN,
  FORM_WINOGRAD,
  FORM_NORM,
  FORM_LAYER_NORM,
  FORM_SCALE
} weight_form; /* FORM_NORM: rows of mean, variance, scale, shift; FORM_LAYER_NORM: of scale, shift; FORM_SCALE: one */

/* The tensors of one convolution or norm as what reads them wants them. */
typedef struct weight {
  weight_form form;
  int conv, norm;  /* graph nodes, -1: none */
  int64_t size[4]; /* of the convolution's weight, or (out, in, 0, 0) of a linear layer's; of a norm alone: channels */
  int argument;    /* FORM_SCALE: of its node */
  bool has_bias;
  double eps;            /* FORM_NORM */
  dnnl_memory_desc_t md; /* FORM_ONEDNN */
  winograd winograd;     /* FORM_WINOGRAD: block and channels count */
  tx_tensor *w, *b;      /* owned */
  uint64_t stamp;        /* of the tensors that it was made from; 0: not made yet */
  double gain, shift;    /* |result| <= gain * |input| + shift */
} weight;

typedef struct given_info {
  int c, h, w;
  bool rows;
  bool channels_last;
} given_info;

/* What a thread needs of its own to run a program. */
typedef struct worker {
  dnnl_stream_t stream;
  dnnl_memory_t *memories; /* one an operand */
  dnnl_exec_arg_t *args;
  char *arena; /* where the memories' handles point into */
} worker;

typedef struct program {
  uint64_t place, used; /* graph_run_place; when it ran last */
  int threads;          /* of its primitives: 1 where the images are divided among the threads */
  bool channels_last;   /* of what it gives */
  net net;
  given_info *given;
  instruction *instructions;
  int ninstructions, instruction_room;
  operand *operands;
  int noperands, operand_room;
  buffer *buffers;
  int nbuffers, buffer_room;
  size_t arena;                /* bytes of one workspace */
  int *buffer_of, *channel_of; /* per value: where it lies */
  int *weights;                /* per op: in infer.weights, -1 */
  worker *workers;
  int nworkers;
  uint64_t stamp; /* of the weights for which safe was decided */
  bool safe;      /* with these weights an overflow cannot go unnoticed */
} program;

struct infer {
  dnnl_engine_t engine;
  int block; /* channels that lie together; 0: no fast form on this processor */
  program **programs;
  int nprograms, program_room;
  weight *weights;
  int nweights, weight_room;
  uint64_t uses;
};

/* infer_plan.c */
int plan_program(infer *p, program *g);
int plan_add_buffer(program *g, size_t bytes); /* -1: out of memory */
int plan_kept_at(const net *n, int v);

/* infer_weights.c */
/* Makes what is new or has changed, chooses the checks; *fits: false where a tensor has another size or dtype now. */
int weights_update(infer *p, program *g, graph_run *run, bool *fits);
bool weights_in_bounds(const void *data, size_t bytes, net_dtype dtype);

/* infer_dnnl.c. TX_OK, TX_NOMEM, TX_ERROR: oneDNN has no fast form */
int dn_start(infer *p);
bool dn_has_bfloat16(void);
bool dn_reads_plain(const net *n, const net_op *op);              /* a first convolution reads the image as it is */
int dn_emit(infer *p, program *g, int op);                        /* adds the instructions of one op */
int dn_bring_in(infer *p, program *g, int value);                 /* a given value into its buffer */
int dn_take_out(infer *p, program *g, int kept);                  /* a kept value into its tensor */
int dn_copy(infer *p, program *g, int from, int to, int channel); /* a value into another one's buffer */
int dn_pack(infer *p, const weight *w, const tx_tensor *plain, void *to);
int dn_make_workers(infer *p, program *g, int count);
void dn_free_worker(const program *g, worker *w);
int dn_status(dnnl_status_t s);

int infer_threads(int threads); /* sets OpenMP's number for this thread, gives the one before */
int infer_fail(int status, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
