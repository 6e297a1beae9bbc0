/* infer_dnnl.h: what the reader of networks asks of oneDNN. */
#ifndef MEDXAI_INFER_DNNL_H
#define MEDXAI_INFER_DNNL_H

#include "infer_net.h"

bool dn_is_fast(const net *n, const net_op *op); /* is there more than a reference implementation? */

#endif
