/* xl.h: what the l_*.c files share. */
#ifndef MEDXAI_XL_H
#define MEDXAI_XL_H
#include <lua.h>
#include "tx.h"
#endif
