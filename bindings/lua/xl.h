/* xl.h: what the l_*.c files share: calls and what they hold, tensor boxes, scopes, lists, errors.
 * Everything here may raise a Lua error; nothing here knows libtorch beyond tx.h.
 *
 * While a binding runs, Lua code may run too (a finalizer, __close, __index, a callback), and may close any tensor and
 * any other object. So a binding never uses a pointer that only a Lua value owns: every pointer from a function of this
 * file is held for the calling binding, that is, kept alive until that binding returns or raises. xl_setfuncs registers
 * bindings so that their calls are known. Results are held too, and become Lua values last (xl_pushheld). */
#ifndef MEDXAI_XL_H
#define MEDXAI_XL_H

#include <lauxlib.h>
#include <lua.h>
#include <stdarg.h>
#include <stdnoreturn.h>
#include "mx_assert.h"
#include "tx.h"

/* ---- calls ------------------------------------------------------------------------------------------------ */
void xl_setfuncs(lua_State *L, const luaL_Reg *functions); /* into the table on top, as luaL_setfuncs */
void xl_newlib(lua_State *L, const luaL_Reg *functions);   /* pushes a table of them */
void xl_setfunction(lua_State *L, const char *name, lua_CFunction f);
/* For a closure with upvalues, which xl_setfuncs cannot register: its first and its last statement. */
#define xl_begin(L) xl_begin_at((L), __builtin_frame_address(0))
#define xl_end(L) xl_end_at((L), __builtin_frame_address(0))
void xl_begin_at(lua_State *L, const void *frame);
void xl_end_at(lua_State *L, const void *frame);
/* Calls release(p) when the running call ends; at once, before raising, if there is no memory to note it. */
void xl_hold(lua_State *L, void *p, void (*release)(void *p));
tx_tensor *xl_own(lua_State *L, tx_tensor *t); /* t is freed when the call ends; gives t */
tx_tensor **xl_slots(lua_State *L, int n);     /* room for n tensors, all NULL; the call owns what is put there */

/* Objects other than tensors that Lua may close at any time. They are reference-counted: a call that uses one keeps it
 * alive. destroy(object) runs when the last reference is gone; then the object's own memory is freed. */
void *xl_newobject(lua_State *L, const char *type, size_t size, void (*destroy)(void *object)); /* pushes it; zeroed */
void *xl_toobject(lua_State *L, int idx, const char *type, const char *closed); /* held; raises `closed` where it is */
void *xl_testobject(lua_State *L, int idx, const char *type); /* held; NULL where it is closed or something else */
void xl_closeobject(lua_State *L, int idx, const char *type); /* for __gc, __close and close; may be called twice */
/* Registers a type of userdata: its methods, and close (may be NULL) as __gc and __close. */
void xl_newtype(lua_State *L, const char *type, const luaL_Reg *methods, lua_CFunction close);
void *xl_retainobject(void *object);                          /* for an object that refers to another one */
void xl_releaseobject(void *object);                          /* accepts NULL */

#define XL_TENSOR "medxai.tensor" /* name of the boxes' metatable */

/* ---- boxes ------------------------------------------------------------------------------------------------ */
/* The full userdata that is a tensor in Lua; owns one reference. t NULL: closed. Linked into the scope that was
 * innermost when it was made. */
typedef struct xl_scope xl_scope;
typedef struct xl_tensor {
  /* xl_tensor_mark: tells a box from other userdata without its metatable, which is slower */
  const void *mark;
  tx_tensor *t;
  struct xl_tensor *prev, *next; /* the ring of its scope; itself when in no scope */
  xl_scope *scope;               /* NULL when in none */
} xl_tensor;

/* A ring of boxes with a sentinel (ring.next == &ring: empty). Scopes are per coroutine: a new box goes into the
 * innermost scope of the coroutine that makes it; if that has none open, into the root, which is never closed. */
struct xl_scope {
  xl_tensor ring;
  xl_scope *parent;  /* the enclosing scope of the same coroutine; the outermost one's is the root */
  lua_State *thread; /* its coroutine; lives as long as the scope */
  bool open;
};
xl_scope *xl_root(lua_State *L);
xl_scope *xl_innermost_of(lua_State *L, lua_State *thread);
static inline xl_scope *xl_innermost(lua_State *L) { return xl_innermost_of(L, L); }
void xl_set_innermost(lua_State *L, lua_State *thread, xl_scope *scope);
int64_t xl_boxes(void); /* how many boxes lie in scopes */

extern const char xl_tensor_mark[1];
/* The box at idx, closed or not; NULL if it is not a box. Fast, as every argument of every operator passes here. */
static inline xl_tensor *xl_testbox(lua_State *L, int idx) {
  if (lua_rawlen(L, idx) != sizeof(xl_tensor))
    return NULL;
  xl_tensor *box = lua_touserdata(L, idx);
  return box && box->mark == xl_tensor_mark ? box : NULL;
}
tx_tensor *xl_totensor(lua_State *L, int idx);    /* held; raises "tensor is closed" */
tx_tensor *xl_testtensor(lua_State *L, int idx);  /* held; NULL if not a tensor; raises if it is closed */
tx_tensor *xl_opttensor(lua_State *L, int idx);   /* held; NULL for nil or none */
tx_tensor *xl_toresolved(lua_State *L, int idx);  /* held; conjugate and negative views are copied: memory = values */
/* The row-major elements of a held tensor that must be contiguous, on the CPU and of that dtype (NULL: any); raises
 * otherwise. NULL where it has no elements. */
void *xl_todata(lua_State *L, const tx_tensor *t, const char *dtype, const char *what);
/* such float64 data of n elements; held */
const double *xl_todoubles(lua_State *L, int idx, int64_t n, const char *what);
void xl_pushheld(lua_State *L, tx_tensor *t);     /* a new box with another reference of t; NULL pushes nil */
void xl_pushtensors(lua_State *L, tx_tensor *const *t, int n); /* a list of such boxes; NULL becomes torch.none */
/* Pushes an empty box. The caller must fill it without calling Lua in between, which might close its scope. */
xl_tensor *xl_newtensor(lua_State *L);
void xl_closebox(xl_tensor *box);                 /* frees and unlinks; safe twice */
void xl_link(xl_scope *scope, xl_tensor *box);
void xl_unlink(xl_tensor *box);                   /* safe twice */
void xl_scope_init(xl_scope *scope);
void xl_scope_free(xl_scope *scope);              /* closes every box in it */

/* ---- lists -------------------------------------------------------------------------------------------------- */
int64_t xl_toint(lua_State *L, int idx, const char *what);        /* integer, or float with an integral value */
/* such an integer in [low, high] */
int64_t xl_torange(lua_State *L, int idx, int64_t low, int64_t high, const char *what);
/* list of integers; pushes what owns the array */
const int64_t *xl_toints(lua_State *L, int idx, int *n, const char *what);
void xl_pushints(lua_State *L, const int64_t *v, int n);          /* pushes a list */
/* Held, as the array is; torch.none and false give NULL. */
tx_tensor **xl_totensors(lua_State *L, int idx, int *n, const char *what);
void xl_pushnone(lua_State *L);                                   /* torch.none */
bool xl_isnone(lua_State *L, int idx);                            /* torch.none, nil or no argument */

/* ---- errors ------------------------------------------------------------------------------------------------- */
/* printf's formats, without a position in front: the host adds it. */
noreturn void xl_error(lua_State *L, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* TX_OK returns. TX_INTERRUPTED raises "interrupted". Otherwise raises "what: message". */
void xl_check(lua_State *L, int status, const char *what);
/* xl_check with a second try after out of memory: `call` is evaluated again if the first left everything unchanged. */
#define XL_TRY(L, what, call)                                           \
  do {                                                                  \
    int status_, tries_ = 0;                                            \
    do                                                                  \
      status_ = (call);                                                 \
    while (status_ == TX_NOMEM && xl_budget_retry((L), &tries_));       \
    xl_check((L), status_, (what));                                     \
  } while (0)

/* ---- memory (xl_budget.c) ----------------------------------------------------------------------------------- */
void xl_budget_check(lua_State *L);   /* called after a fresh result is pushed: the soft limit */
noreturn void xl_nomem(lua_State *L, const char *what); /* raises out of memory; for failures in bindings/plain */
/* after TX_NOMEM: collects, empties caches, true once (tries starts at 0) */
bool xl_budget_retry(lua_State *L, int *tries);
/* Raises the out of memory error; changed: after TX_NOMEM_CHANGED. */
noreturn void xl_budget_nomem(lua_State *L, const char *what, bool changed);
void xl_budget_open(lua_State *L);    /* once, when the module opens: the collector's mode */
void xl_budget_collect(lua_State *L); /* a full collection */
void xl_budget_before_backward(lua_State *L); /* collects first if memory is short: a pass cannot be tried again */
int64_t xl_budget_lua_bytes(lua_State *L);
const char *xl_megabytes(char buf[32], int64_t bytes); /* "3,210 MB" */

/* ---- modules ------------------------------------------------------------------------------------------------ */
int luaopen_core_tensor(lua_State *L);
int luaopen_core_autograd(lua_State *L);
int luaopen_core_optim(lua_State *L);
int luaopen_core_memory(lua_State *L);
int luaopen_core_device(lua_State *L);
int luaopen_core_dist(lua_State *L);
int luaopen_core_rng(lua_State *L);
int luaopen_core_graph(lua_State *L);
int luaopen_core_pt2(lua_State *L);
int luaopen_core_store(lua_State *L);
int luaopen_core_image(lua_State *L);
int luaopen_core_impute(lua_State *L);
int luaopen_core_loader(lua_State *L);
int luaopen_core_lars(lua_State *L);
int luaopen_core_partition(lua_State *L);
int luaopen_core_phantom(lua_State *L);
int luaopen_core_resample(lua_State *L);
int luaopen_core_figure(lua_State *L);
int luaopen_core_segment(lua_State *L);
int luaopen_core_ssim(lua_State *L);

#endif
