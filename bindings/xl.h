/* xl.h: what the l_*.c files share: tensor boxes, scopes, errors in the house form, lists.
 * Everything here may raise a Lua error; nothing here knows libtorch beyond tx.h.
 * Order in a binding: settop, make the empty box, borrow argument pointers last, call, fill the box, return. */
#ifndef MEDXAI_XL_H
#define MEDXAI_XL_H

#include <lauxlib.h>
#include <lua.h>
#include <stdarg.h>
#include <stdnoreturn.h>
#include "tx.h"

#define XL_TENSOR "medxai.tensor" /* name of the boxes' metatable */

/* ---- boxes ------------------------------------------------------------------------------------------------ */
/* A full userdata owns one reference. t NULL: closed. Linked into the scope that was innermost when it was made. */
typedef struct xl_scope xl_scope;
typedef struct xl_tensor {
  const void *mark;              /* xl_tensor_mark: tells a box from other userdata without a look at its metatable */
  tx_tensor *t;
  struct xl_tensor *prev, *next; /* the ring of its scope; itself when in none */
  xl_scope *scope;               /* NULL when in none */
} xl_tensor;

/* A ring of boxes with a sentinel (ring.next == &ring: empty). */
struct xl_scope {
  xl_tensor ring;
  xl_scope *parent;
  bool open; /* for the owner's use */
};

/* One a Lua state, in the registry. */
typedef struct xl_state {
  xl_scope root;       /* lives as long as the Lua state */
  xl_scope *innermost; /* where new boxes go */
} xl_state;

extern const char xl_tensor_mark[1];
/* The box at idx, closed or not; NULL if it is none. Two calls into Lua, as every operator's every argument passes here. */
static inline xl_tensor *xl_testbox(lua_State *L, int idx) {
  if (lua_rawlen(L, idx) != sizeof(xl_tensor))
    return NULL;
  xl_tensor *box = lua_touserdata(L, idx);
  return box && box->mark == xl_tensor_mark ? box : NULL;
}
xl_tensor *xl_newtensor(lua_State *L);            /* pushes an empty box; then fill ->t */
xl_tensor *xl_tobox(lua_State *L, int idx);       /* the box of an open tensor; raises otherwise */
tx_tensor *xl_totensor(lua_State *L, int idx);    /* borrowed; raises "tensor is closed" */
tx_tensor *xl_testtensor(lua_State *L, int idx);  /* borrowed; NULL if not a tensor; raises if it is closed */
tx_tensor *xl_opttensor(lua_State *L, int idx);   /* borrowed; NULL for nil or none */
void xl_pushtensor(lua_State *L, tx_tensor *t);   /* takes ownership, also when it raises; NULL pushes nil */
void xl_closebox(xl_tensor *box);                 /* frees and unlinks; safe twice */
void xl_link(xl_scope *scope, xl_tensor *box);
void xl_unlink(xl_tensor *box);                   /* safe twice */
xl_state *xl_getstate(lua_State *L);
void xl_scope_init(xl_scope *scope);
void xl_scope_free(xl_scope *scope);              /* closes every box in it */

/* An array of tensors in a userdata: frees what it still owns when collected, so an error in the middle leaks nothing. */
typedef struct xl_array {
  int n;
  tx_tensor *t[];
} xl_array;
xl_array *xl_newarray(lua_State *L, int n);       /* pushes it, all NULL; entries are owned */
void xl_array_totable(lua_State *L, int idx);     /* pushes a list of boxes, moved out of the array; NULL becomes torch.none */

/* ---- lists -------------------------------------------------------------------------------------------------- */
int64_t xl_toint(lua_State *L, int idx, const char *what);        /* integer, or float with an integral value */
const int64_t *xl_toints(lua_State *L, int idx, int *n, const char *what); /* list of integers; pushes what owns the array */
void xl_pushints(lua_State *L, const int64_t *v, int n);          /* pushes a list */
tx_tensor **xl_totensors(lua_State *L, int idx, int *n, const char *what); /* borrowed; pushes what holds the array; torch.none and false give NULL */
void xl_pushnone(lua_State *L);                                   /* torch.none */
bool xl_isnone(lua_State *L, int idx);                            /* torch.none, nil or no argument */

/* ---- errors ------------------------------------------------------------------------------------------------- */
/* printf's formats; no position in front (the host adds it). */
noreturn void xl_error(lua_State *L, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* TX_OK returns. TX_INTERRUPTED raises "interrupted". Otherwise raises "what: message". */
void xl_check(lua_State *L, int status, const char *what);
/* xl_check with a retry after out of memory. call is evaluated again then, and must not use pointers that a
 * collection can free. */
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
bool xl_budget_retry(lua_State *L, int *tries); /* after TX_NOMEM: collects, empties caches, true once (tries starts at 0) */
noreturn void xl_budget_nomem(lua_State *L, const char *what); /* raises the out of memory error */
void xl_budget_open(lua_State *L);    /* once, when the module opens: the collector's mode */
void xl_budget_collect(lua_State *L); /* a full collection */
void xl_budget_before_backward(lua_State *L); /* a pass cannot be tried again: collects first where room is short */
int64_t xl_budget_lua_bytes(lua_State *L);
const char *xl_megabytes(char buf[32], int64_t bytes); /* "3,210 MB" */

/* ---- operators (l_tensor_ops.c) ------------------------------------------------------------------------------ */
void xl_pushvalue(lua_State *L, tx_value *v); /* a result of tx_op_call, moved out of v; frees it also when it raises */

/* ---- modules ------------------------------------------------------------------------------------------------ */
int luaopen_core_tensor(lua_State *L);
int luaopen_core_autograd(lua_State *L);
int luaopen_core_optim(lua_State *L);
int luaopen_core_memory(lua_State *L);
int luaopen_core_device(lua_State *L);
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
int luaopen_core_figure(lua_State *L);
int luaopen_core_segment(lua_State *L);

#endif
