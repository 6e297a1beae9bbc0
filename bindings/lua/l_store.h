/* l_store.h: what l_store.c, l_store_read.c and l_store_write.c share. */
#ifndef MEDXAI_L_STORE_H
#define MEDXAI_L_STORE_H

#include "store.h"
#include "xl.h"

enum { STORE_DEPTH_MAX = 60 }; /* how deep values may be nested */

/* What a read or a write holds outside Lua's memory; the finalizer frees it also after an error. */
typedef struct store_guard {
  store *in;
  tx_tensor **storages; /* of in: those that have been read, as tensors of one dimension */
  size_t nstorages;
  store_out *out;
  pickle_out pickle;
  double *numbers; /* the floating-point numbers of a .pt being written */
  size_t nnumbers, room;
  tx_tensor **tensors; /* those to be written; held by the call */
  size_t ntensors, tensors_room;
  tx_tensor *packed;
} store_guard;

store_guard *store_guard_new(lua_State *L); /* pushes what owns it */
void store_guard_close(store_guard *g);

int store_read(lua_State *L);
int store_write_pt(lua_State *L);
int store_write_safetensors(lua_State *L);

#endif
