/* l_dist.h: what other bindings need of l_dist.c. */
#ifndef MEDXAI_L_DIST_H
#define MEDXAI_L_DIST_H

#include <lua.h>
#include "tx_dist.h"

tx_dist *l_dist_togroup(lua_State *L, int idx); /* held; raises where it is closed or no group */

#endif
