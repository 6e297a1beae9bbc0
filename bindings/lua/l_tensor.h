/* l_tensor.h: what the l_tensor*.c files share. */
#ifndef MEDXAI_L_TENSOR_H
#define MEDXAI_L_TENSOR_H
#include "xl.h"

/* l_tensor_ops.c */
/* pushes the closure, or nil where libtorch has none */
void lt_pushop(lua_State *L, const char *name, bool method, bool raw);
/* adds op, deny, names, schemas to the table on top */
void lt_open_ops(lua_State *L);
/* The one result of aten::name.overload for these values, held; NULL where it is None. */
tx_tensor *lt_call(lua_State *L, const char *name, const char *overload, const tx_value *args, int nargs);
static inline tx_value lt_tensor(tx_tensor *t) { return (tx_value){ .kind = t ? TX_TENSOR : TX_NONE, .t = t }; }
static inline tx_value lt_int(int64_t i) { return (tx_value){ .kind = TX_INT, .i = i }; }
static inline tx_value lt_string(const char *s) { return (tx_value){ .kind = TX_STRING, .s = s }; }
/* The number at idx as an integer, float or boolean scalar; false where it is none of them. */
bool lt_scalar(lua_State *L, int idx, tx_value *v);

/* l_tensor_index.c */
int lt_index(lua_State *L);    /* (t, key) -> pushes t[key] */
int lt_newindex(lua_State *L); /* (t, key, value) */

/* l_tensor_table.c: Lua tables, numbers, bytes */
void lt_open_table(lua_State *L);
int lt_tolist(lua_State *L);
int lt_item(lua_State *L);
int lt_data_string(lua_State *L);
/* pushes element i of dense CPU data of that dtype as a number or boolean; complex gives false */
bool lt_pushelement(lua_State *L, const char *dtype, const void *data, int64_t i);

/* l_tensor_print.c */
int lt_tostring(lua_State *L);

#endif
