/* infer.c: runs programs of the inference plan. A program is made once for its place in a plan, the sizes of what it is
 * given and the threads of its primitives. The images of a batch are divided among the threads; where there are fewer
 * images than threads the primitives divide themselves.
 * It keeps nothing of a run but the weights: the workspace comes from the counted allocator and goes back. */
#include "infer.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static _Thread_local char message[256];

const char *infer_error(void) { return message; }

#ifndef MEDXAI_DNNL
int infer_steps(int *done, graph_run *run, char *note, size_t room) {
  (void)run;
  *done = 0;
  if (!*note) snprintf(note, room, "this program was built without oneDNN");
  return TX_OK;
}

void infer_free(infer *p) { (void)p; }
#else

#include "alloc.h"
#include "infer_priv.h"
#include <omp.h>

/* Of all programs together: a transformer has one for each stretch between two attentions, and an empty one for each
 * step in between. */
enum { MOST_INSTRUCTIONS = 8192 };

int infer_fail(int status, const char *fmt, ...) {
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(message, sizeof message, fmt, ap);
  va_end(ap);
  return status;
}

/* ---- programs ----------------------------------------------------------------------------------------------- */
static void program_free(program *g) {
  if (!g) return;
  for (int i = 0; i < g->nworkers; i++) dn_free_worker(g, &g->workers[i]);
  for (int i = 0; i < g->ninstructions; i++)
    if (g->instructions[i].primitive) dnnl_primitive_destroy(g->instructions[i].primitive);
  net_clear(&g->net);
  mx_free(g->given);
  mx_free(g->instructions);
  mx_free(g->operands);
  mx_free(g->buffers);
  mx_free(g->buffer_of);
  mx_free(g->channel_of);
  mx_free(g->weights);
  mx_free(g->workers);
  mx_free(g);
}

void infer_free(infer *p) {
  if (!p) return;
  for (int i = 0; i < p->nprograms; i++) program_free(p->programs[i]);
  for (int i = 0; i < p->nweights; i++) {
    tx_tensor_free(p->weights[i].w);
    tx_tensor_free(p->weights[i].b);
  }
  if (p->engine) dnnl_engine_destroy(p->engine);
  mx_free(p->programs);
  mx_free(p->weights);
  mx_free(p);
}

static int open_infer(infer **out, graph_state *s) {
  infer **at = graph_state_infer(s);
  if (!*at) {
    infer *p = mx_calloc(1, sizeof *p);
    if (!p) return infer_fail(TX_NOMEM, "graph: out of memory");
    int status = dn_start(p);
    if (status != TX_OK) return infer_free(p), status;
    *at = p;
  }
  *out = *at;
  return TX_OK;
}

/* ---- what a run gives --------------------------------------------------------------------------------------- */
typedef struct image_source { /* one value of all images */
  tx_tensor *t;
  const char *data;
  int64_t step; /* bytes from image to image; 0: one image for all */
} image_source;

typedef struct job {
  program *g;
  int64_t images;
  image_source *given;
  tx_tensor **kept;
  size_t *kept_step;
  double *seconds; /* per node, then of copies; NULL: not timed */
  int nodes;
  int code;        /* of the first failure */
  bool strange;    /* a number beyond the bounds came */
} job;

static const net_value *given_value(const net *n, int given) {
  const net_value *v = n->values;
  while (v->given != given) v++;
  return v;
}

/* Do the rows of each image of t, or in a whole net all rows, lie densely? */
static bool is_dense_rows(const tx_tensor *t, int outer, given_info *out, int64_t *images, int64_t *step) {
  int64_t n[TX_MAX_DIMS], s[TX_MAX_DIMS], inner = 1;
  int dims = tx_tensor_dim(t);
  bool dense = true;
  tx_tensor_sizes(t, n);
  tx_tensor_strides(t, s);
  *images = outer ? 1 : n[0];
  *step = outer ? 0 : s[0] * tx_tensor_itemsize(t);
  *out = (given_info){ (int)n[dims - 1], (int)n[1], dims == 4 ? (int)n[2] : 1, true, false };
  if (outer) out->h = n[0] == outer ? (int)(n[0] * n[1]) : 0;
  for (int i = dims - 1; i >= (outer ? 0 : 1); i--) {
    dense &= n[i] == 1 || s[i] == inner;
    inner *= n[i];
  }
  return dense && s[0] >= 0;
}

/* Does each image of t lie densely? Tells its order of channels. */
static bool is_dense(const tx_tensor *t, const net_value *v, int outer, given_info *out, int64_t *images,
                     int64_t *step) {
  int64_t n[TX_MAX_DIMS], s[TX_MAX_DIMS];
  if (v->rows) return is_dense_rows(t, outer, out, images, step);
  tx_tensor_sizes(t, n);
  tx_tensor_strides(t, s);
  *images = n[0];
  *step = s[0] * tx_tensor_itemsize(t);
  *out = (given_info){ (int)n[1], (int)n[2], (int)n[3], false, false };
  bool first = (n[1] == 1 || s[1] == n[2] * n[3]) && (n[2] == 1 || s[2] == n[3]) && (n[3] == 1 || s[3] == 1);
  bool last = (n[1] == 1 || s[1] == 1) && (n[2] == 1 || s[2] == n[3] * n[1]) && (n[3] == 1 || s[3] == n[1]);
  out->channels_last = !first && last;
  return (first || last) && s[0] >= 0;
}

static int contiguous(tx_tensor **t) {
  const tx_op *op = tx_op_find("contiguous", "");
  tx_value in = { .kind = TX_TENSOR, .t = *t }, out = { .kind = TX_NONE };
  int status = op ? tx_op_call(&out, op, &in, 1) : TX_ERROR;
  if (status != TX_OK) return infer_fail(status, "contiguous: %s", tx_error());
  tx_tensor_free(*t);
  *t = out.t;
  return TX_OK;
}

/* Takes what the program reads; *fits: it has the sizes that the program was made for, in one batch. */
static int take_given(job *j, graph_run *run, bool *fits) {
  program *g = j->g;
  *fits = true;
  for (int i = 0; i < g->net.ngiven && *fits; i++) {
    image_source *s = &j->given[i];
    given_info info;
    int64_t images;
    int status = graph_run_value_for(&s->t, run, g->net.given_reader[i], g->net.given[i]);
    if (status != TX_OK) return infer_fail(status, "%s", graph_error());
    if (tx_tensor_dim(s->t) != given_value(&g->net, i)->dims) return *fits = false, TX_OK;
    if (!is_dense(s->t, given_value(&g->net, i), g->net.outer, &info, &images, &s->step)) {
      status = contiguous(&s->t);
      if (status != TX_OK) return status;
      is_dense(s->t, given_value(&g->net, i), g->net.outer, &info, &images, &s->step);
    }
    s->data = tx_tensor_data(s->t);
    const given_info *want = &g->given[i];
    *fits = s->data && info.c == want->c && info.h == want->h && info.w == want->w
            && info.channels_last == want->channels_last && (i == 0 || images == j->images)
            && !strcmp(tx_tensor_dtype(s->t), g->net.dtype == NET_BFLOAT16 ? "bfloat16" : "float32");
    j->images = images;
  }
  return TX_OK;
}

static void drop(job *j) {
  for (int i = 0; j->given && i < j->g->net.ngiven; i++) tx_tensor_free(j->given[i].t);
  for (int i = 0; j->kept && i < j->g->net.nkept; i++) tx_tensor_free(j->kept[i]);
  mx_free(j->given);
  mx_free(j->kept);
  mx_free(j->kept_step);
  *j = (job){ 0 };
}

static int open_job(job *j, program *g) {
  *j = (job){ .g = g };
  j->given = mx_calloc((size_t)g->net.ngiven + 1, sizeof *j->given);
  j->kept = mx_calloc((size_t)g->net.nkept + 1, sizeof *j->kept);
  j->kept_step = mx_calloc((size_t)g->net.nkept + 1, sizeof *j->kept_step);
  if (j->given && j->kept && j->kept_step) return TX_OK;
  drop(j);
  return infer_fail(TX_NOMEM, "graph: out of memory");
}

/* What the convolutions compute in; false: nothing that the plan has. */
static bool find_dtype(net_dtype *out, const graph_run *run, char *note, size_t room) {
  graph_look look;
  char device[16];
  for (int i = 0; graph_run_look(&look, run, i); i++) {
    if (!look.op || (strcmp(look.op, "conv2d") && strcmp(look.op, "linear") && look.conv < 0)) continue;
    const tx_tensor *w = graph_run_slot(run, look.conv >= 0 ? look.conv : look.node, 1);
    if (!w) continue;
    const char *dtype = tx_tensor_dtype(w);
    bool is_half = !strcmp(dtype, "bfloat16");
    tx_tensor_device(w, device);
    *out = is_half ? NET_BFLOAT16 : NET_FLOAT32;
    bool has =
      !strcmp(device, "cpu") && (is_half ? dn_has_bfloat16() : !strcmp(dtype, "float32")) && !tx_autocast_get("cpu");
    if (!has && !*note)
      snprintf(note, room, "%s on %s%s", dtype, device, tx_autocast_get("cpu") ? " with autocast" : "");
    return has;
  }
  return false;
}

/* ---- finding and making programs ---------------------------------------------------------------------------- */
/* How the images are shared out: 1: among the threads; else each image by all threads together, which wait for one
 * another some 15 % of the time. */
static int threads_for(int64_t images) {
  int all = tx_get_threads();
  int64_t rounds = (images + all - 1) / all;
  return all == 1 || (double)rounds <= (double)images / (0.85 * all) ? 1 : all;
}

/* oneDNN asks OpenMP how many threads it may take; libtorch may have an OpenMP of its own, with another number. */
int infer_threads(int threads) {
  int before = omp_get_max_threads();
  omp_set_num_threads(threads);
  return before;
}

static int64_t batch_of(graph_run *run, const net *n) {
  tx_tensor *t = NULL;
  int64_t sizes[TX_MAX_DIMS] = { 1 };
  if (!n->ngiven || n->outer || graph_run_value_for(&t, run, n->given_reader[0], n->given[0]) != TX_OK) return 1;
  if (tx_tensor_dim(t)) tx_tensor_sizes(t, sizes);
  tx_tensor_free(t);
  return sizes[0];
}

/* The least recently used ones make room. */
static void make_place(infer *p, const program *g) {
  for (;;) {
    int oldest = 0, all = g->ninstructions + 1;
    for (int i = 0; i < p->nprograms; i++) {
      if (p->programs[i]->used < p->programs[oldest]->used) oldest = i;
      all += p->programs[i]->ninstructions + 1;
    }
    if (!p->nprograms || all <= MOST_INSTRUCTIONS) return;
    program_free(p->programs[oldest]);
    p->programs[oldest] = p->programs[--p->nprograms];
  }
}

static int add_program(infer *p, program *g) {
  make_place(p, g);
  if (p->nprograms == p->program_room) {
    int room = p->program_room + 32;
    program **more = mx_realloc(p->programs, (size_t)room * sizeof *more);
    if (!more) return infer_fail(TX_NOMEM, "graph: out of memory");
    p->programs = more;
    p->program_room = room;
  }
  p->programs[p->nprograms++] = g;
  return TX_OK;
}

/* How the given tensors lie is part of the program. */
static int note_given(program *g, graph_run *run) {
  g->given = mx_calloc((size_t)g->net.ngiven + 1, sizeof *g->given);
  if (!g->given) return TX_NOMEM;
  for (int i = 0; i < g->net.ngiven; i++) {
    tx_tensor *t = NULL;
    int64_t images, step;
    int status = graph_run_value_for(&t, run, g->net.given_reader[i], g->net.given[i]);
    if (status != TX_OK) return status;
    is_dense(t, given_value(&g->net, i), g->net.outer, &g->given[i], &images, &step);
    tx_tensor_free(t);
  }
  return TX_OK;
}

/* A program for the run's next steps; one of 0 steps where oneDNN has nothing for them. */
static int make_program(program **out, infer *p, graph_run *run, net_dtype dtype, char *note, size_t room) {
  program *g = mx_calloc(1, sizeof *g);
  if (!g) return infer_fail(TX_NOMEM, "graph: out of memory");
  g->place = graph_run_place(run);
  g->channels_last = graph_run_layout(run) == 2;
  g->net = (net){ .engine = p->engine, .block = p->block, .dtype = dtype };
  int status = net_read(&g->net, run, note, room);
  if (status == TX_OK) status = note_given(g, run);
  if (status != TX_OK) infer_fail(status, "%s", status == TX_NOMEM ? "graph: out of memory" : graph_error());
  g->threads = threads_for(batch_of(run, &g->net));
  if (status == TX_OK && g->net.steps) {
    int before = infer_threads(g->threads);
    status = plan_program(p, g);
    infer_threads(before);
    if (status == TX_ERROR) { /* a fused form is missing: node by node */
      if (!*note) snprintf(note, room, "%s", message);
      g->net.steps = 0;
      status = TX_OK;
    }
  }
  if (status == TX_OK) status = add_program(p, g);
  if (status != TX_OK) return program_free(g), status == TX_NOMEM ? infer_fail(status, "graph: out of memory") : status;
  *out = g;
  return TX_OK;
}

/* ---- running ------------------------------------------------------------------------------------------------ */
static char *address(const infer *p, const job *j, const operand *o, char *arena, int64_t image) {
  const program *g = j->g;
  size_t at = o->at.offset;
  switch (o->at.kind) {
    case PLACE_BUFFER: return arena + g->buffers[o->at.index].offset + at;
    case PLACE_WEIGHT: return (char *)tx_tensor_data(p->weights[o->at.index].w) + at;
    case PLACE_BIAS: return tx_tensor_data(p->weights[o->at.index].b);
    case PLACE_GIVEN: return (char *)j->given[o->at.index].data + image * j->given[o->at.index].step + at;
    case PLACE_KEPT:
      return (char *)tx_tensor_data(j->kept[o->at.index]) + (size_t)image * j->kept_step[o->at.index] + at;
  }
  return NULL;
}

/* Points the worker's memories into its workspace and at the weights. */
static int attach(const infer *p, const job *j, worker *w, char *arena) {
  if (w->arena == arena) return TX_OK;
  w->arena = NULL;
  for (int i = 0; i < j->g->noperands; i++) {
    const operand *o = &j->g->operands[i];
    if (o->at.kind == PLACE_GIVEN || o->at.kind == PLACE_KEPT) continue;
    int status = dn_status(dnnl_memory_set_data_handle_v2(w->memories[i], address(p, j, o, arena, 0), w->stream));
    if (status != TX_OK) return status;
  }
  w->arena = arena;
  return TX_OK;
}

/* Looks at what an instruction reads: given values always, others where asked. */
static bool is_usual(const infer *p, const job *j, const worker *w, const instruction *ins, int64_t image) {
  for (int k = ins->first; k < ins->first + ins->noperands; k++) {
    const operand *o = &j->g->operands[k];
    bool reads = o->arg == DNNL_ARG_SRC || o->arg == DNNL_ARG_SRC_1 || o->arg == DNNL_ARG_DST;
    bool computed = o->at.kind == PLACE_BUFFER || o->at.kind == PLACE_KEPT;
    if (o->at.kind != PLACE_GIVEN && !(ins->checked && reads && computed)) continue;
    if (o->arg == DNNL_ARG_DST && !j->g->net.ops[ins->op].adds) continue;
    if (!weights_in_bounds(address(p, j, o, w->arena, image), dnnl_memory_desc_get_size(&o->md), j->g->net.dtype))
      return false;
  }
  return true;
}

static void run_winograd(const infer *p, const job *j, const worker *w, const instruction *ins) {
  const operand *o = &j->g->operands[ins->first];
  const void *at[5] = { NULL };
  for (int k = 0; k < ins->noperands; k++) at[k] = address(p, j, &o[k], w->arena, 0);
  winograd_run(&ins->winograd, at[0], at[1], at[4], (float *)at[3], (void *)at[2]);
}

static int run_primitive(const infer *p, const job *j, worker *w, const instruction *ins, int64_t image) {
  for (int k = ins->first; k < ins->first + ins->noperands; k++) {
    const operand *o = &j->g->operands[k];
    if (o->at.kind != PLACE_GIVEN && o->at.kind != PLACE_KEPT) continue;
    dnnl_status_t s = dnnl_memory_set_data_handle_v2(w->memories[k], address(p, j, o, w->arena, image), w->stream);
    if (s != dnnl_success) return s == dnnl_out_of_memory ? TX_NOMEM : TX_ERROR;
  }
  dnnl_status_t s = dnnl_primitive_execute(ins->primitive, w->stream, ins->noperands, w->args + ins->first);
  return s == dnnl_success ? TX_OK : s == dnnl_out_of_memory ? TX_NOMEM : TX_ERROR;
}

static int run_instruction_at(const infer *p, const job *j, worker *w, const instruction *ins, int64_t image,
                              bool *usual) {
  if (!is_usual(p, j, w, ins, image)) return *usual = false, TX_OK;
  if (ins->primitive) return run_primitive(p, j, w, ins, image);
  run_winograd(p, j, w, ins);
  return TX_OK;
}

static int run_instruction(const infer *p, const job *j, worker *w, const instruction *ins, int64_t image,
                           bool *usual) {
  if (!j->seconds) return run_instruction_at(p, j, w, ins, image, usual);
  const net_op *op = ins->op < 0 ? NULL : &j->g->net.ops[ins->op];
  double before = omp_get_wtime();
  int status = run_instruction_at(p, j, w, ins, image, usual);
  double *at = op ? &j->seconds[op->conv >= 0 ? op->conv : op->node] : &j->seconds[j->nodes];
  double took = omp_get_wtime() - before;
#pragma omp atomic
  *at += took;
  return status;
}

/* The parts of one op, by all threads. */
static int run_parts(const infer *p, const job *j, worker *w, const instruction *first, int64_t image, bool *usual) {
  int code = TX_OK;
#pragma omp parallel for num_threads(j->g->threads) schedule(dynamic)
  for (int i = 0; i < first->parts; i++) {
    bool is_usual_part = true;
    int status = run_instruction(p, j, w, first + i, image, &is_usual_part);
    if (status == TX_OK && is_usual_part) continue;
#pragma omp critical(infer_part)
    if (status != TX_OK)
      code = status;
    else
      *usual = false;
  }
  return code;
}

static int run_image(const infer *p, const job *j, worker *w, int64_t image, bool *usual) {
  const program *g = j->g;
  for (int i = 0; i < g->ninstructions && *usual; i++) {
    const instruction *ins = &g->instructions[i];
    bool divides = g->threads > 1 && ins->parts > 1;
    if (tx_interrupted()) return TX_INTERRUPTED;
    int status = divides ? run_parts(p, j, w, ins, image, usual) : run_instruction(p, j, w, ins, image, usual);
    if (status != TX_OK) return status;
    if (divides) i += ins->parts - 1;
  }
  return TX_OK;
}

static void run_images(const infer *p, job *j, int nworkers) {
  int64_t next = 0;
#pragma omp parallel num_threads(nworkers) if (nworkers > 1)
  {
    worker *w = &j->g->workers[omp_get_thread_num()];
    for (;;) {
      int64_t image;
      bool usual = true;
#pragma omp atomic capture
      image = next++;
      if (image >= j->images || j->code != TX_OK || j->strange) break;
      int code = run_image(p, j, w, image, &usual);
      if (code == TX_OK && usual) continue;
#pragma omp critical(infer_failure)
      if (code != TX_OK)
        j->code = code;
      else
        j->strange = true;
    }
  }
}

/* The tensors that the program fills, in the run's layout. */
static int make_results(job *j) {
  program *g = j->g;
  const tx_op *op = tx_op_find("empty", "memory_format");
  if (!op) return infer_fail(TX_ERROR, "empty: not in this libtorch");
  for (int i = 0; i < g->net.nkept; i++) {
    const net_value *v = &g->net.values[g->net.kept[i]];
    const int outer = g->net.outer;
    const int64_t image[4] = { j->images, v->c, v->h, v->w }, grid[4] = { j->images, v->h, v->w, v->c },
                  row[3] = { outer ? outer : j->images, outer ? v->h / outer : v->h, v->c };
    const int64_t *size = !v->rows ? image : v->dims == 4 ? grid : row;
    tx_value args[6] = { { .kind = TX_INTS, .n = v->rows ? v->dims : 4, .is = size },
                         { .kind = TX_STRING, .s = g->net.dtype == NET_BFLOAT16 ? "bfloat16" : "float32" },
                         { .kind = TX_DEFAULT },
                         { .kind = TX_DEFAULT },
                         { .kind = TX_DEFAULT },
                         { .kind = TX_STRING,
                           .s = g->channels_last && !v->rows ? "channels_last" : "contiguous_format" } };
    tx_value out = { .kind = TX_NONE };
    int status = tx_op_call(&out, op, args, 6);
    if (status != TX_OK) return infer_fail(status, "empty: %s", tx_error());
    j->kept[i] = out.t;
    j->kept_step[i] = (size_t)(v->c * (int64_t)v->h * v->w * tx_tensor_itemsize(out.t));
  }
  return TX_OK;
}

static int run_job(infer *p, job *j) {
  program *g = j->g;
  int nworkers = g->threads > 1 ? 1 : tx_get_threads();
  if (nworkers > j->images) nworkers = (int)j->images;
  size_t arena = (g->arena + 4096 + 63) / 64 * 64; /* a page apart, so that threads do not share lines' places */
  int64_t bytes = (int64_t)arena * nworkers;
  tx_tensor *workspace = NULL;
  int status = tx_tensor_new(&workspace, "uint8", 1, &bytes, NULL, 0);
  if (status != TX_OK) return infer_fail(status, "graph: %s", tx_error());
  status = make_results(j);
  if (status == TX_OK) status = dn_make_workers(p, g, nworkers);
  for (int i = 0; i < nworkers && status == TX_OK; i++)
    status = attach(p, j, &g->workers[i], (char *)tx_tensor_data(workspace) + arena * (size_t)i);
  if (status == TX_OK) {
    int before = infer_threads(g->threads);
    run_images(p, j, nworkers);
    infer_threads(before);
    status = j->code;
    if (status != TX_OK)
      infer_fail(status, status == TX_INTERRUPTED ? "interrupted"
                         : status == TX_NOMEM     ? "graph: out of memory"
                                                  : "oneDNN: a primitive failed");
  }
  tx_tensor_free(workspace);
  return status;
}

/* Runs the steps by a program that fits what they are given. */
static int try_program(int *done, infer *p, program *g, graph_run *run, bool *fits, char *note, size_t room) {
  job j;
  int status = open_job(&j, g);
  if (status != TX_OK) return status;
  status = take_given(&j, run, fits);
  if (status == TX_OK && *fits && g->net.ngiven && g->threads != threads_for(j.images)) *fits = false;
  if (status != TX_OK || !*fits || !g->net.steps) return drop(&j), status;
  j.seconds = graph_run_seconds(run);
  j.nodes = graph_count(graph_run_graph(run));
  status = weights_update(p, g, run, fits);
  if (status != TX_OK || !*fits) return drop(&j), status;
  g->used = ++p->uses;
  if (status == TX_OK && !g->safe) j.strange = true;
  if (status == TX_OK && !j.strange) status = run_job(p, &j);
  for (int i = 0; i < g->net.nkept && status == TX_OK && !j.strange; i++)
    status = graph_run_put(run, g->net.kept_step[i], j.kept[i]);
  if (status == TX_OK && j.strange && !*note) snprintf(note, room, "numbers that are not finite, or beyond 1e18");
  if (status == TX_OK && !j.strange) *done = g->net.steps;
  drop(&j);
  return status;
}

int infer_steps(int *done, graph_run *run, char *note, size_t room) {
  infer *p = NULL;
  program *g = NULL;
  graph_look next;
  *done = 0;
  if (!graph_run_look(&next, run, 0) || (!next.op && !next.pass && next.node != 0)) return TX_OK;
  int status = open_infer(&p, graph_run_state(run));
  if (status != TX_OK) return status;
  if (!p->block) {
    if (!*note) snprintf(note, room, "oneDNN has no fast form on this processor (AVX2 is needed)");
    return TX_OK;
  }
  uint64_t place = graph_run_place(run);
  net_dtype dtype;
  bool fits = false;
  if (!find_dtype(&dtype, run, note, room)) return TX_OK;
  for (int i = 0; i < p->nprograms; i++) {
    if (p->programs[i]->place != place || p->programs[i]->net.dtype != dtype) continue;
    status = try_program(done, p, p->programs[i], run, &fits, note, room);
    if (status != TX_OK || fits) return status;
  }
  status = make_program(&g, p, run, dtype, note, room);
  return status == TX_OK ? try_program(done, p, g, run, &fits, note, room) : status;
}
#endif
