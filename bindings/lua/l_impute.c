/* l_impute.c: core.impute: the linear imputer (impute.h), in place on contiguous float64 tensors on the CPU. */
#include <string.h>
#include "impute.h"
#include "xl.h"

enum { MOST_CHANNELS = 64, MOST_SIDE = 8192 };

static void *check_data(lua_State *L, int idx, const char *dtype, int dim, int64_t *size, const char *what) {
  tx_tensor *t = xl_totensor(L, idx);
  if (strcmp(tx_tensor_dtype(t), dtype) || tx_tensor_dim(t) != dim)
    xl_error(L, "%s is wrong (expected %s of %d dimensions, got %s of %d).", what, dtype, dim, tx_tensor_dtype(t),
             tx_tensor_dim(t));
  tx_tensor_sizes(t, size);
  return xl_todata(L, t, dtype, what);
}

/*- fill_(x, keep): x (N, C, H, W) float64, keep (N, H, W) bool; x's pixels outside keep are replaced */
static int impute_fill(lua_State *L) {
  int64_t size[4], kept[3];
  lua_settop(L, 2);
  double *x = check_data(L, 1, "float64", 4, size, "impute: x");
  const uint8_t *keep = check_data(L, 2, "bool", 3, kept, "impute: keep");
  if (kept[0] != size[0] || kept[1] != size[2] || kept[2] != size[3])
    xl_error(L, "impute: keep does not fit x (expected (%lld, %lld, %lld), got (%lld, %lld, %lld)).",
             (long long)size[0], (long long)size[2], (long long)size[3], (long long)kept[0], (long long)kept[1],
             (long long)kept[2]);
  if (size[1] > MOST_CHANNELS || size[2] > MOST_SIDE || size[3] > MOST_SIDE || size[0] > INT32_MAX)
    xl_error(L, "impute: x is too large (expected up to %d channels of %d x %d pixels).", MOST_CHANNELS, MOST_SIDE,
             MOST_SIDE);
  if (tx_tensor_numel(xl_totensor(L, 1)) > 0) {
    int tries = 0;
    const int n = (int)size[0], c = (int)size[1], h = (int)size[2], w = (int)size[3];
    while (!mx_impute_all(n, c, h, w, keep, x, tx_get_threads(), tx_interrupted))
      if (!xl_budget_retry(L, &tries))
        xl_error(L, "impute: out of memory. Use smaller images, or fewer at once.");
    if (tx_interrupted())
      xl_error(L, "interrupted");
  }
  lua_settop(L, 1);
  return 1;
}

int luaopen_core_impute(lua_State *L) {
  static const luaL_Reg functions[] = { { "fill_", impute_fill }, { NULL, NULL } };
  xl_newlib(L, functions);
  return 1;
}
