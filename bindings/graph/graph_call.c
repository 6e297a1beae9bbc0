/* graph_call.c: single operators, called by name. */
#include "graph_priv.h"

int graph_call(tx_tensor **out, const char *name, const char *overload, const tx_value *args, int nargs) {
  const tx_op *op = tx_op_find(name, overload);
  if (!op) return graph_fail(TX_ERROR, "%s.%s: not in this libtorch", name, overload);
  tx_value v = { .kind = TX_NONE };
  int status = tx_op_call(&v, op, args, nargs);
  if (status != TX_OK) return graph_fail(status, "%s: %s", name, tx_error());
  *out = v.t;
  return TX_OK;
}

int graph_call1(tx_tensor **out, const char *name, const char *overload, tx_tensor *a) {
  return graph_call(out, name, overload, (tx_value[]){ tensor_value(a) }, 1);
}

int graph_call2(tx_tensor **out, const char *name, const char *overload, tx_tensor *a, tx_value b) {
  return graph_call(out, name, overload, (tx_value[]){ tensor_value(a), b }, 2);
}

int graph_replace(tx_tensor **t, int status, tx_tensor *const *result) {
  if (status != TX_OK) return status;
  tx_tensor_free(*t);
  *t = *result;
  return TX_OK;
}
