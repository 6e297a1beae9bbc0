/* l_segment.c: core.segment: superpixels and their boundaries. Images are float64 (3, H, W) on the CPU, label maps
 * int64 (H, W). All arguments are required and checked; scripts/medxai/perturb/regions.lua has the defaults. */
#include <math.h>
#include <string.h>
#include "segment.h"
#include "xl.h"

/* The data of a contiguous CPU tensor of that dtype and number of dimensions, and its last two sizes. */
static void *planes(lua_State *L, int idx, const char *what, const char *dtype, int dim, int64_t *h, int64_t *w) {
  tx_tensor *t = xl_toresolved(L, idx);
  int64_t size[TX_MAX_DIMS];
  if (strcmp(tx_tensor_dtype(t), dtype) != 0 || tx_tensor_dim(t) != dim)
    xl_error(L, "%s: wrong tensor (expected %s of %d dimensions, got %s of %d).", what, dtype, dim, tx_tensor_dtype(t),
             tx_tensor_dim(t));
  tx_tensor_sizes(t, size);
  *h = size[dim - 2], *w = size[dim - 1];
  if (dim == 3 && size[0] != 3)
    xl_error(L, "%s: wrong shape (expected 3 channels first, got %lld).", what, (long long)size[0]);
  if (*h < 1 || *w < 1 || *h > 32768 || *w > 32768)
    xl_error(L, "%s: wrong size (expected 1 to 32768 per side, got %lld x %lld).", what, (long long)*h, (long long)*w);
  return xl_todata(L, t, dtype, what);
}

static const double *image(lua_State *L, int idx, const char *what, int64_t *h, int64_t *w) {
  const double *v = planes(L, idx, what, "float64", 3, h, w);
  for (int64_t i = 0; i < 3 * *h * *w; i++)
    if (!isfinite(v[i]))
      xl_error(L, "%s: the image holds values that are not finite.", what);
  return v;
}

static double number(lua_State *L, int idx, const char *what, double low, double high) {
  const double v = lua_type(L, idx) == LUA_TNUMBER ? lua_tonumber(L, idx) : NAN;
  if (!(v >= low && v <= high))
    xl_error(L, "%s: expected a number from %.14g to %.14g, got %s", what, low, high, luaL_tolstring(L, idx, NULL));
  return v;
}

/* A new tensor (H, W), or (planes, H, W), held. */
static tx_tensor *new_map(lua_State *L, const char *what, const char *dtype, int64_t planes, int64_t h, int64_t w) {
  tx_tensor **out = xl_slots(L, 1);
  const int64_t size[3] = { planes, h, w };
  XL_TRY(L, what, tx_tensor_new(out, dtype, planes ? 3 : 2, planes ? size : size + 1, NULL, 0));
  return *out;
}

static void check_status(lua_State *L, int status, const char *what) {
  if (status == SEGMENT_STOPPED)
    xl_error(L, "interrupted");
  if (status)
    xl_nomem(L, what);
}

/*- lab(image) -> float64 (3, H, W): L, a, b */
static int segment_lua_lab(lua_State *L) {
  int64_t h, w;
  const double *rgb = image(L, 1, "lab", &h, &w);
  tx_tensor *lab = new_map(L, "lab", "float64", 3, h, w);
  check_status(L, segment_lab(tx_tensor_data(lab), rgb, h * w, tx_interrupted), "lab");
  xl_pushheld(L, lab);
  return 1;
}

/*- quickshift(image, kernel_size, max_dist, ratio, sigma, seed [, is_lab [, noise (H, W)]]) -> labels, count */
static int segment_lua_quickshift(lua_State *L) {
  int64_t h, w, noise_h, noise_w;
  const double *rgb = image(L, 1, "quickshift", &h, &w);
  segment_quickshift_options o = { number(L, 2, "quickshift: kernel_size", 1, 1000),
                                   number(L, 3, "quickshift: max_dist", 0, HUGE_VAL),
                                   number(L, 4, "quickshift: ratio", 0, 1e6),
                                   number(L, 5, "quickshift: sigma", 0, 1000),
                                   (uint64_t)xl_torange(L, 6, 0, INT64_MAX, "quickshift: seed"),
                                   NULL,
                                   lua_toboolean(L, 7),
                                   tx_interrupted };
  if (!lua_isnoneornil(L, 8)) {
    o.noise = planes(L, 8, "quickshift: noise", "float64", 2, &noise_h, &noise_w);
    if (noise_h != h || noise_w != w)
      xl_error(L, "quickshift: noise: expected (%lld, %lld), got (%lld, %lld)", (long long)h, (long long)w,
               (long long)noise_h, (long long)noise_w);
  }
  tx_tensor *labels = new_map(L, "quickshift", "int64", 0, h, w);
  int64_t count = 0;
  check_status(L, segment_quickshift(tx_tensor_data(labels), &count, rgb, (int)h, (int)w, &o), "quickshift");
  xl_pushheld(L, labels);
  lua_pushinteger(L, count);
  return 2;
}

/*- slic(image, n_segments, compactness, sigma, iterations, connected, min_size, max_size [, is_lab])
 * -> labels, count (the largest label + 1) */
static int segment_lua_slic(lua_State *L) {
  int64_t h, w, count = 0;
  const double *rgb = image(L, 1, "slic", &h, &w);
  const segment_slic_options o = { xl_torange(L, 2, 1, INT32_MAX, "slic: n_segments"),
                                   number(L, 3, "slic: compactness", 1e-12, 1e12),
                                   number(L, 4, "slic: sigma", 0, 1000),
                                   (int)xl_torange(L, 5, 1, 100000, "slic: iterations"),
                                   lua_toboolean(L, 6),
                                   number(L, 7, "slic: min_size", 0, 1e9),
                                   number(L, 8, "slic: max_size", 0, 1e9),
                                   lua_toboolean(L, 9),
                                   tx_interrupted };
  tx_tensor *labels = new_map(L, "slic", "int64", 0, h, w);
  check_status(L, segment_slic(tx_tensor_data(labels), &count, rgb, (int)h, (int)w, &o), "slic");
  xl_pushheld(L, labels);
  lua_pushinteger(L, count);
  return 2;
}

/*- boundaries(labels, background, wrapped) -> uint8 (H, W), 1 where mark_boundaries(mode = "outer") draws */
static int segment_lua_boundaries(lua_State *L) {
  int64_t h, w;
  const int64_t *labels = planes(L, 1, "boundaries", "int64", 2, &h, &w);
  const int64_t background = xl_toint(L, 2, "boundaries: background");
  const bool wrapped = lua_toboolean(L, 3);
  tx_tensor *drawn = new_map(L, "boundaries", "uint8", 0, h, w);
  segment_boundaries(tx_tensor_data(drawn), labels, (int)h, (int)w, background, wrapped);
  xl_pushheld(L, drawn);
  return 1;
}

int luaopen_core_segment(lua_State *L) {
  static const luaL_Reg functions[] = {
    { "lab", segment_lua_lab },
    { "quickshift", segment_lua_quickshift },
    { "slic", segment_lua_slic },
    { "boundaries", segment_lua_boundaries },
    { NULL, NULL },
  };
  xl_newlib(L, functions);
  return 1;
}
