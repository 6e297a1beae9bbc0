/* tx.h: libtorch for C: opaque structs and int statuses in C11; the only header about libtorch that a .c file includes.
 * No exception leaves a function: it is caught, its message is left in tx_error(), and a status is returned.
 * Results are written through the first pointer, on success only. Free functions accept NULL.
 * Nothing here knows Lua: callbacks must not enter a Lua state. */
#ifndef MEDXAI_TX_H
#define MEDXAI_TX_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
#define TX_NOEXCEPT noexcept
extern "C" {
#else
#define TX_NOEXCEPT
#endif

/* TX_NOMEM: out of memory; nothing has changed, and the call may be repeated.
 * TX_NOMEM_CHANGED: out of memory; data or a random generator may have changed, and the call must not be repeated. */
enum { TX_OK = 0, TX_ERROR = 1, TX_NOMEM = 2, TX_INTERRUPTED = 3, TX_NOMEM_CHANGED = 4 };

#define TX_MAX_DIMS 64 /* tensors with more dimensions are errors, so that arrays of sizes can have a fixed length */

typedef struct tx_tensor tx_tensor;       /* one reference to a tensor (a TensorImpl*); freed by tx_tensor_free */
typedef struct tx_op tx_op;               /* one operator overload; lives as long as the process */
typedef struct tx_generator tx_generator; /* one random generator */

/* ---- errors, process -------------------------------------------------------------------------------------- */
const char *tx_error(void) TX_NOEXCEPT;      /* the last failure on this thread, in one line */
const char *tx_error_lead(void) TX_NOEXCEPT; /* the name to put before the message; NULL: the caller's own */
const char *tx_error_full(void) TX_NOEXCEPT; /* libtorch's whole text with its C++ trace, for --trace */
const char *tx_version(void) TX_NOEXCEPT;    /* of the libtorch that is loaded, "1.13.1" */

/* interrupted: non-zero stops at the next operator, forward or backward. running_op: set to the running operator's
 * name, for the crash handler. Either may be NULL. */
void tx_attach(volatile sig_atomic_t *interrupted, const char *volatile *running_op) TX_NOEXCEPT;
bool tx_interrupted(void) TX_NOEXCEPT;

/* ---- tensors ---------------------------------------------------------------------------------------------- */
void tx_tensor_free(tx_tensor *t) TX_NOEXCEPT;
tx_tensor *tx_tensor_ref(tx_tensor *t) TX_NOEXCEPT; /* another reference to the same tensor; never fails */
int tx_tensor_dim(const tx_tensor *t) TX_NOEXCEPT;
void tx_tensor_sizes(const tx_tensor *t, int64_t *sizes) TX_NOEXCEPT;     /* sizes: room for tx_tensor_dim() numbers */
void tx_tensor_strides(const tx_tensor *t, int64_t *strides) TX_NOEXCEPT; /* zeros for layouts that have none */
int64_t tx_tensor_numel(const tx_tensor *t) TX_NOEXCEPT;
void tx_tensor_shape_text(const tx_tensor *t, char buf[128]) TX_NOEXCEPT; /* "2x3", for messages; "()": no dimension */
const char *tx_tensor_dtype(const tx_tensor *t) TX_NOEXCEPT; /* "float32", "int64", "bool" ...: static */
int64_t tx_tensor_itemsize(const tx_tensor *t) TX_NOEXCEPT;
void tx_tensor_device(const tx_tensor *t, char buf[16]) TX_NOEXCEPT; /* "cpu", "cuda:0" */
const char *tx_tensor_layout(const tx_tensor *t) TX_NOEXCEPT;         /* "strided", "sparse_coo" ...: static */
/* "AddBackward0", valid until the next call; or NULL */
const char *tx_tensor_grad_fn(const tx_tensor *t) TX_NOEXCEPT;
bool tx_tensor_is_contiguous(const tx_tensor *t, bool channels_last) TX_NOEXCEPT;
bool tx_tensor_requires_grad(const tx_tensor *t) TX_NOEXCEPT;
bool tx_tensor_is_leaf(const tx_tensor *t) TX_NOEXCEPT;
int tx_tensor_set_requires_grad(tx_tensor *t, bool on) TX_NOEXCEPT;
int tx_tensor_grad(tx_tensor **out, const tx_tensor *t) TX_NOEXCEPT;  /* *out NULL where there is none */
int tx_tensor_set_grad(tx_tensor *t, const tx_tensor *g) TX_NOEXCEPT; /* g NULL clears it */
uint64_t tx_tensor_version(const tx_tensor *t) TX_NOEXCEPT;           /* counts in-place changes */
/* Valid while t lives. NULL where the memory does not hold the values: on other devices, in other layouts, and in
 * conjugate or negative views (see tx_tensor_resolved). */
void *tx_tensor_data(const tx_tensor *t) TX_NOEXCEPT;
/* t, or a copy of what a conjugate or negative view shows */
int tx_tensor_resolved(tx_tensor **out, const tx_tensor *t) TX_NOEXCEPT;
bool tx_tensor_same(const tx_tensor *a, const tx_tensor *b) TX_NOEXCEPT; /* the same TensorImpl */
/* A new contiguous CPU tensor that owns its memory. Filled from data if data is not NULL; nbytes must fit the sizes. */
int tx_tensor_new(tx_tensor **out, const char *dtype, int dim, const int64_t *sizes, const void *data,
                  size_t nbytes) TX_NOEXCEPT;
/* one element; bool is an integer 0 or 1 */
int tx_tensor_item(double *d, int64_t *i, bool *is_int, const tx_tensor *t) TX_NOEXCEPT;
int tx_tensor_to(tx_tensor **out, const tx_tensor *t, const char *device, const char *dtype, bool channels_last,
                 bool copy) TX_NOEXCEPT;
/* device, dtype NULL: unchanged; channels_last true: that memory format for 4-d tensors, false: preserved */

/* ---- operators -------------------------------------------------------------------------------------------- */
typedef enum tx_kind {
  TX_DEFAULT = -1, /* in a value: the schema's default */
  TX_NONE,    /* None; in a value: an absent optional */
  TX_TENSOR, TX_INT, TX_DOUBLE, TX_BOOL, TX_STRING,
  TX_SCALAR,  /* schema only: a value gives TX_INT, TX_DOUBLE or TX_BOOL */
  /* schema only: values are TX_STRING ("float32", "strided", "channels_last", "cuda:0") */
  TX_DTYPE, TX_LAYOUT, TX_MEMORY_FORMAT, TX_DEVICE,
  TX_GENERATOR,
  TX_INTS, TX_DOUBLES, TX_BOOLS, TX_TENSORS, TX_OPT_TENSORS, TX_SCALARS, /* lists */
  TX_OTHER    /* a type that this binding does not pass (Dimname, Storage, Stream ...) */
} tx_kind;

typedef struct tx_value {
  tx_kind kind;
  int64_t n; /* list length */
  union {
    int64_t i;
    double d;
    bool b;
    const char *s;              /* borrowed by calls; in results owned by the callee's thread-local buffer */
    tx_tensor *t;               /* borrowed by calls; owned by the caller in results */
    tx_generator *g;
    const int64_t *is;          /* borrowed by calls; in results malloc'ed, caller frees with tx_value_free */
    const double *ds;
    const bool *bs;
    tx_tensor **ts;             /* NULL elements are None; in results malloc'ed, and each element owned */
    const struct tx_value *vs;  /* TX_SCALARS */
  };
} tx_value;
void tx_value_free(tx_value *v) TX_NOEXCEPT; /* frees what a result owns and leaves TX_NONE */

typedef struct tx_arg {
  const char *name;
  tx_kind kind;
  bool optional;    /* None allowed */
  bool has_default;
  bool kwarg_only;
  bool is_out;      /* written to (an out= argument) */
  int fixed;        /* int[N]: N, else 0 */
  const char *type; /* as the schema prints it */
} tx_arg;

/* Overloads of aten::name ("add"; or "ns::name"), in the order in which to try them. Returns their number. */
int tx_op_overloads(const char *name, const tx_op **ops, int room) TX_NOEXCEPT;
/* "conv2d", ""; "add", "Tensor"; NULL: not there */
const tx_op *tx_op_find(const char *name, const char *overload) TX_NOEXCEPT;
const char *tx_op_schema(const tx_op *op) TX_NOEXCEPT; /* "aten::add.Tensor(Tensor self, ...) -> Tensor" */
const char *tx_op_name(const tx_op *op) TX_NOEXCEPT;   /* "add" */
const char *tx_op_overload(const tx_op *op) TX_NOEXCEPT;
int tx_op_nargs(const tx_op *op) TX_NOEXCEPT;
const tx_arg *tx_op_arg(const tx_op *op, int i) TX_NOEXCEPT;
const tx_arg *tx_op_args(const tx_op *op) TX_NOEXCEPT;        /* tx_op_nargs() of them, in schema order */
int tx_op_nresults(const tx_op *op) TX_NOEXCEPT;
tx_kind tx_op_result(const tx_op *op, int i) TX_NOEXCEPT;     /* as the schema declares it */
bool tx_op_writes(const tx_op *op) TX_NOEXCEPT;               /* its results are arguments it writes to: add_, out= */
bool tx_op_has_out(const tx_op *op) TX_NOEXCEPT;
bool tx_name_fits(tx_kind kind, const char *name) TX_NOEXCEPT; /* whether it names a dtype, layout ... (kind) */
/* Every operator name of namespace aten, sorted; returns the count and fills up to room. */
int tx_op_names(const char **names, int room) TX_NOEXCEPT;

/* Calls op with nargs values in schema order; missing trailing ones, and those of kind TX_DEFAULT, take the schema's
 * default. results: room for tx_op_nresults(op). Out of memory (host or device): TX_NOMEM if the operator only reads,
 * or if what it drew or wrote was restored; else TX_NOMEM_CHANGED. TX_INTERRUPTED if the interrupt flag is set. */
int tx_op_call(tx_value *results, const tx_op *op, const tx_value *args, int nargs) TX_NOEXCEPT;

/* ---- autograd, modes -------------------------------------------------------------------------------------- */
bool tx_grad_mode(bool on) TX_NOEXCEPT;        /* returns the mode before */
bool tx_grad_mode_get(void) TX_NOEXCEPT;
/* grads may be NULL or hold NULLs. */
int tx_backward(tx_tensor *const *outputs, tx_tensor *const *grads, int n, bool retain_graph,
                bool create_graph) TX_NOEXCEPT;
/* results: NULL for unused inputs. */
int tx_autograd_grad(tx_tensor **results, tx_tensor *const *outputs, tx_tensor *const *grads, int nout,
                     tx_tensor *const *inputs, int nin, bool retain_graph, bool create_graph,
                     bool allow_unused) TX_NOEXCEPT;
/* The number that the next operator gets whose gradient is recorded. */
uint64_t tx_sequence(void) TX_NOEXCEPT;
/* Times the operators of backward passes on this thread from now on (forgets earlier ones), or no more. */
void tx_profile(bool on) TX_NOEXCEPT;
int tx_profile_count(void) TX_NOEXCEPT;
/* The i-th that ran: its number (UINT64_MAX: a sum into a parameter's gradient), seconds, autograd's name. */
void tx_profile_get(int i, uint64_t *sequence, double *seconds, const char **name) TX_NOEXCEPT;
/* max(x, 0), for limit > 0 clamped to limit (ReLU6). The gradient passes only where x and the gradient are positive
 * (guided backpropagation, Springenberg et al. 2015). */
int tx_guided_relu(tx_tensor **out, const tx_tensor *x, double limit) TX_NOEXCEPT;
/* Autocast on device type "cpu"/"cuda": dtype "bfloat16"/"float16", NULL switches off. */
int tx_autocast(const char *device_type, const char *dtype) TX_NOEXCEPT;
const char *tx_autocast_get(const char *device_type) TX_NOEXCEPT; /* the dtype in force, NULL: off */
void tx_autocast_clear_cache(void) TX_NOEXCEPT;

/* ---- random ----------------------------------------------------------------------------------------------- */
int tx_manual_seed(int64_t seed) TX_NOEXCEPT;                                  /* all default generators */
int tx_generator_default(tx_generator **out, const char *device) TX_NOEXCEPT;  /* caller frees */
int tx_generator_new(tx_generator **out, const char *device, int64_t seed) TX_NOEXCEPT;
void tx_generator_free(tx_generator *g) TX_NOEXCEPT;
int tx_generator_get_state(tx_tensor **out, const tx_generator *g) TX_NOEXCEPT; /* uint8 tensor */
int tx_generator_set_state(tx_generator *g, const tx_tensor *state) TX_NOEXCEPT;

/* ---- optimizers ------------------------------------------------------------------------------------------- */
typedef struct tx_optim tx_optim;
/* "lr", "momentum", "nesterov" (0 or 1) ...; of all groups together "fused": one kernel a step where libtorch has it */
typedef struct tx_option { const char *name; double value; } tx_option;
/* "sgd" "adam" "adamw" "rmsprop" */
int tx_optim_new(tx_optim **out, const char *kind, const tx_option *options, int n) TX_NOEXCEPT;
void tx_optim_free(tx_optim *o) TX_NOEXCEPT;
int tx_optim_add_group(tx_optim *o, tx_tensor *const *params, const char *const *names, int n, const tx_option *options,
                       int noptions) TX_NOEXCEPT;
int tx_optim_groups(const tx_optim *o) TX_NOEXCEPT;
/* One update by the gradients. bad: NULL, or one number; nothing changes unless it is 0. Out of memory: nothing has
 * changed. */
int tx_optim_step(tx_optim *o, const tx_tensor *bad) TX_NOEXCEPT;
int tx_optim_zero_grad(tx_optim *o) TX_NOEXCEPT; /* sets gradients to None, as PyTorch 2 does */
int tx_optim_set_lr(tx_optim *o, int group, double lr) TX_NOEXCEPT; /* group -1: all */
int tx_optim_get_lr(double *lr, const tx_optim *o, int group) TX_NOEXCEPT;
/* Calls fn once per parameter and entry of its state ("momentum_buffer", "exp_avg", "step" as an int64 0-d tensor); t
 * is borrowed. */
int tx_optim_state_each(const tx_optim *o, void (*fn)(void *ud, const char *param, const char *entry, tx_tensor *t),
                        void *ud) TX_NOEXCEPT;
int tx_optim_state_clear(tx_optim *o) TX_NOEXCEPT;
int tx_optim_state_set(tx_optim *o, const char *param, const char *entry, tx_tensor *t) TX_NOEXCEPT;

/* ---- memory, threads, devices ----------------------------------------------------------------------------- */
typedef struct tx_memory {
  int64_t live_bytes, peak_bytes; /* CPU tensor storage */
  int64_t cached_bytes;           /* freed blocks kept for reuse */
  int64_t live_tensors;           /* tx_tensor references not yet freed */
  int64_t cuda_live_bytes, cuda_peak_bytes, cuda_reserved_bytes; /* 0 without CUDA */
  int64_t limit_bytes, cache_cap_bytes, last_request_bytes;
} tx_memory;
int tx_memory_setup(void) TX_NOEXCEPT;             /* installs our CPU allocator; called once when the module opens */
void tx_memory_stats(tx_memory *out) TX_NOEXCEPT;
int64_t tx_memory_live_bytes(void) TX_NOEXCEPT;    /* live_bytes alone, cheap */
void tx_memory_reset_peak(void) TX_NOEXCEPT;
void tx_memory_set_limit(int64_t bytes) TX_NOEXCEPT; /* 0: none; allocations beyond it fail as out of memory */
void tx_memory_set_cache(int64_t bytes) TX_NOEXCEPT; /* how much freed memory is kept for reuse, at most; 0: none */
void tx_memory_empty_cache(void) TX_NOEXCEPT;
/* For tests: after n more allocations the next `times` fail; n -1: never. */
void tx_memory_fail_after(int64_t n, int64_t times) TX_NOEXCEPT;
int tx_set_threads(int n) TX_NOEXCEPT;
int tx_get_threads(void) TX_NOEXCEPT;
int tx_cuda_count(void) TX_NOEXCEPT;
/* Work goes to this device where a device's name has no number; an error that says why where it is not here, or
 * computes nothing. "cpu": nothing changes. */
int tx_use_device(const char *device) TX_NOEXCEPT;
int64_t tx_free_bytes(void) TX_NOEXCEPT; /* that the device in use can still give; 0: no device, or it does not say */
int tx_synchronize(void) TX_NOEXCEPT; /* waits until the devices have finished; for every time that is measured */
int tx_set_deterministic(bool on) TX_NOEXCEPT;
/* Products of float32 on CUDA in TF32 (10 bits of mantissa): off from the start, cuDNN's too. */
int tx_set_tf32(bool on) TX_NOEXCEPT;
bool tx_get_tf32(void) TX_NOEXCEPT;

/* ---- files (tx_store.cpp) --------------------------------------------------------------------------------- */
/* A tensor of those sizes and strides over base's storage, but not a view of base to autograd. offset: in elements. The
 * caller must have checked that it lies inside the storage. */
int tx_tensor_over(tx_tensor **out, const tx_tensor *base, int64_t offset, int dim, const int64_t *sizes,
                   const int64_t *strides) TX_NOEXCEPT;
/* The values of a strided t in memory that C can read: on the CPU, detached, conjugate and negative views resolved;
 * with t's strides, or contiguous. May share t's memory. */
int tx_tensor_packed(tx_tensor **out, const tx_tensor *t, bool keep_strides) TX_NOEXCEPT;

#ifdef __cplusplus
}
#endif
#endif
