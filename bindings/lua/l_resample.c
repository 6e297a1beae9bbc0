/* l_resample.c: core.resample: resample.c for Lua. Lists hold numbers; units and samples count from 1.
 *   local r = resample.new { seed =, purpose = "what@1", id = "", units =, resamples = }, or { units =, drawn = list }
 *   #r: how many resamples
 *   r:ratio(sum, count) -> values, standard errors
 *   local x = resample.matrix(flat list, width)   r:totals(x, b) -> list   r:spread(x, b, gradient) -> number
 *   resample.studentized(value, least, values, ses) -> sorted t, how many were left out
 *   resample.signs(list, least, { seed =, purpose =, id =, patterns = } or nil: all) -> how many, of how many */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "resample.h"
#include "xl.h"

#define XL_RESAMPLE "medxai.resample"
#define XL_MATRIX "medxai.resample.matrix"

enum { MOST_KEPT = 8 << 20 }; /* draws that are kept, 32 MiB; more are drawn again whenever they are asked for */

/* ---- lists ---------------------------------------------------------------------------------------------------- */

static int64_t length_of(lua_State *L, int idx, const char *what) {
  if (!lua_istable(L, idx))
    xl_error(L, "resample: %s: expected a list of numbers, got %s", what, luaL_typename(L, idx));
  return (int64_t)lua_rawlen(L, idx);
}

/* The list at idx as n finite numbers; pushes what holds them. */
static double *push_list(lua_State *L, int idx, int64_t n, const char *what) {
  const int64_t got = length_of(L, idx, what);
  if (got != n) xl_error(L, "resample: %s: expected %lld numbers, got %lld", what, (long long)n, (long long)got);
  idx = lua_absindex(L, idx);
  double *v = lua_newuserdatauv(L, (size_t)(n + 1) * sizeof *v, 0);
  for (int64_t i = 0; i < n; i++) {
    const bool is_number = lua_rawgeti(L, idx, i + 1) == LUA_TNUMBER;
    v[i] = is_number ? lua_tonumber(L, -1) : NAN;
    if (!isfinite(v[i])) xl_error(L, "resample: %s: value %lld is not a finite number", what, (long long)i + 1);
    lua_pop(L, 1);
  }
  return v;
}

/* The list at idx as n whole numbers from low to high; pushes what holds them. */
static int32_t *push_indices(lua_State *L, int idx, int64_t n, int64_t low, int64_t high, const char *what) {
  const double *v = push_list(L, idx, n, what);
  int32_t *out = lua_newuserdatauv(L, (size_t)(n + 1) * sizeof *out, 0);
  for (int64_t i = 0; i < n; i++) {
    if (!(v[i] >= (double)low && v[i] <= (double)high) || v[i] != floor(v[i]))
      xl_error(L, "resample: %s: value %lld is %g (expected a whole number from %lld to %lld)", what, (long long)i + 1,
               v[i], (long long)low, (long long)high);
    out[i] = (int32_t)v[i];
  }
  lua_remove(L, -2);
  return out;
}

static void push_numbers(lua_State *L, const double *v, int64_t n) {
  lua_createtable(L, (int)n, 0);
  for (int64_t i = 0; i < n; i++) {
    lua_pushnumber(L, v[i]);
    lua_rawseti(L, -2, i + 1);
  }
}

/* ---- resamples ------------------------------------------------------------------------------------------------ */

static int64_t whole_field(lua_State *L, int idx, const char *name, int64_t low, int64_t high) {
  lua_getfield(L, idx, name);
  const int64_t v = xl_toint(L, -1, name);
  if (v < low || v > high)
    xl_error(L, "resample: %s is %lld (expected %lld to %lld)", name, (long long)v, (long long)low, (long long)high);
  lua_pop(L, 1);
  return v;
}

static mx_stream stream_of(lua_State *L, int idx) {
  mx_stream s;
  lua_getfield(L, idx, "seed");
  const int64_t seed = xl_toint(L, -1, "resample: seed");
  lua_getfield(L, idx, "purpose");
  lua_getfield(L, idx, "id");
  mx_stream_init(&s, (uint64_t)seed, luaL_checkstring(L, -2), luaL_optstring(L, -1, ""), 0);
  lua_pop(L, 3);
  return s;
}

static mx_resample *to_resample(lua_State *L) { return luaL_checkudata(L, 1, XL_RESAMPLE); }

static void stop_if_interrupted(lua_State *L) {
  if (tx_interrupted()) xl_error(L, "interrupted");
}

static int resample_new(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_settop(L, 1);
  const int64_t units = whole_field(L, 1, "units", 2, INT32_MAX);
  const bool given = lua_getfield(L, 1, "drawn") != LUA_TNIL;
  const int64_t count = given ? length_of(L, 2, "drawn") / units : whole_field(L, 1, "resamples", 1, 1 << 24);
  const int32_t *drawn = given ? push_indices(L, 2, count * units, 1, units, "drawn") : NULL;
  const bool all = given || units * count <= MOST_KEPT;
  mx_resample *r = lua_newuserdatauv(L, sizeof *r + (size_t)(all ? count * units : units) * sizeof(uint32_t), 0);
  *r = (mx_resample){ .units = units, .resamples = count, .all = all, .at = -1, .drawn = (uint32_t *)(r + 1) };
  luaL_setmetatable(L, XL_RESAMPLE);
  if (given)
    for (int64_t i = 0; i < count * units; i++)
      r->drawn[i] = (uint32_t)drawn[i] - 1;
  else
    r->stream = stream_of(L, 1);
  if (all && !given) mx_resample_fill(r);
  return 1;
}

/*- #r: how many resamples */
static int resample_len(lua_State *L) {
  lua_pushinteger(L, to_resample(L)->resamples);
  return 1;
}

/*- r:ratio(sum, count): of each resample sum / count and its standard error, two lists */
static int resample_ratio(lua_State *L) {
  mx_resample *r = to_resample(L);
  lua_settop(L, 3);
  const double *sum = push_list(L, 2, r->units, "sum"), *count = push_list(L, 3, r->units, "count");
  lua_createtable(L, (int)r->resamples, 0);
  lua_createtable(L, (int)r->resamples, 0);
  for (int64_t b = 0; b < r->resamples; b++) {
    if (b % 64 == 0) stop_if_interrupted(L);
    const mx_estimate e = mx_ratio_of(mx_resample_get(r, b), r->units, sum, count);
    lua_pushnumber(L, e.value);
    lua_rawseti(L, -3, b + 1);
    lua_pushnumber(L, e.se);
    lua_rawseti(L, -2, b + 1);
  }
  return 2;
}

/* ---- functions of totals -------------------------------------------------------------------------------------- */

typedef struct matrix {
  int64_t rows, width;
  double x[];
} matrix;

static int resample_matrix(lua_State *L) {
  lua_settop(L, 2);
  const int64_t n = length_of(L, 1, "matrix"), width = luaL_checkinteger(L, 2);
  if (width < 0 || (width > 0 ? n % width : n) != 0)
    xl_error(L, "resample: a matrix of width %lld cannot hold %lld numbers", (long long)width, (long long)n);
  const double *v = push_list(L, 1, n, "matrix");
  matrix *m = lua_newuserdatauv(L, sizeof *m + (size_t)n * sizeof(double), 0);
  m->rows = width > 0 ? n / width : 0; /* no columns: nothing was counted */
  m->width = width;
  memcpy(m->x, v, (size_t)n * sizeof *v);
  luaL_setmetatable(L, XL_MATRIX);
  return 1;
}

static const matrix *to_matrix(lua_State *L, const mx_resample *r) {
  const matrix *m = luaL_checkudata(L, 2, XL_MATRIX);
  if (m->rows != r->units)
    xl_error(L, "resample: the matrix has %lld rows (expected %lld, one per unit)", (long long)m->rows,
             (long long)r->units);
  return m;
}

static int64_t to_number_of_resample(lua_State *L, const mx_resample *r) {
  const int64_t b = luaL_checkinteger(L, 3);
  if (b < 1 || b > r->resamples)
    xl_error(L, "resample: there is no resample %lld (expected 1 to %lld)", (long long)b, (long long)r->resamples);
  return b - 1;
}

/*- r:totals(x, b): the sums of x's columns over the units of resample b */
static int resample_totals(lua_State *L) {
  mx_resample *r = to_resample(L);
  const matrix *m = to_matrix(L, r);
  const int64_t b = to_number_of_resample(L, r);
  double *totals = lua_newuserdatauv(L, (size_t)m->width * sizeof *totals, 0);
  mx_totals_of(mx_resample_get(r, b), r->units, m->x, m->width, totals);
  push_numbers(L, totals, m->width);
  return 1;
}

/*- r:spread(x, b, gradient): the standard error of a function of those totals that has this gradient there */
static int resample_spread(lua_State *L) {
  mx_resample *r = to_resample(L);
  const matrix *m = to_matrix(L, r);
  const int64_t b = to_number_of_resample(L, r);
  const double *gradient = push_list(L, 4, m->width, "gradient");
  lua_pushnumber(L, mx_spread_of(mx_resample_get(r, b), r->units, m->x, m->width, gradient));
  return 1;
}

/* ---- studentized, signs ----------------------------------------------------------------------------------------- */

static int ascending(const void *a, const void *b) {
  const double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

/*- studentized(value, least, values, ses): the t of each resample, (values[b] - value) / ses[b], ascending; those with
 * a standard error of `least` or less, or none, are left out. Returns the list and how many were left out. */
static int resample_studentized(lua_State *L) {
  lua_settop(L, 4);
  const double value = luaL_checknumber(L, 1), least = luaL_checknumber(L, 2);
  const int64_t n = length_of(L, 3, "values");
  if (length_of(L, 4, "ses") != n) xl_error(L, "resample: values and standard errors differ in number");
  double *t = lua_newuserdatauv(L, (size_t)(n + 1) * sizeof *t, 0);
  int64_t kept = 0;
  for (int64_t b = 1; b <= n; b++) {
    lua_rawgeti(L, 3, b);
    lua_rawgeti(L, 4, b);
    const double v = lua_tonumber(L, -2), se = lua_tonumber(L, -1);
    lua_pop(L, 2);
    if (se > least && isfinite(se) && isfinite(v)) t[kept++] = (v - value) / se;
  }
  qsort(t, (size_t)kept, sizeof *t, ascending);
  push_numbers(L, t, kept);
  lua_pushinteger(L, n - kept);
  return 2;
}

/*- signs(values, least, { seed =, purpose =, id =, patterns = }): how many of that many random patterns of signs give a
 * total of at least `least` away from 0; without the table: of all patterns, of at most 16 values. Returns how many,
 * and of how many. */
static int resample_signs(lua_State *L) {
  lua_settop(L, 3);
  const int64_t n = length_of(L, 1, "signs");
  const double least = luaL_checknumber(L, 2);
  const double *value = push_list(L, 1, n, "signs");
  double *table = lua_newuserdatauv(L, (size_t)(4 * n + 16) * sizeof *table, 0);
  if (lua_isnil(L, 3)) {
    if (n > 16) xl_error(L, "resample: signs: expected at most 16 values for all patterns, got %lld", (long long)n);
    lua_pushinteger(L, mx_signs_all(value, n, least, table));
    lua_pushinteger(L, (lua_Integer)1 << n);
    return 2;
  }
  luaL_checktype(L, 3, LUA_TTABLE);
  const int64_t patterns = whole_field(L, 3, "patterns", 1, 1 << 24);
  const mx_stream s = stream_of(L, 3);
  lua_pushinteger(L, mx_signs_random(value, n, least, table, &s, patterns));
  lua_pushinteger(L, patterns);
  return 2;
}

int luaopen_core_resample(lua_State *L) {
  static const luaL_Reg methods[] = {
    { "ratio", resample_ratio },
    { "spread", resample_spread },
    { "totals", resample_totals },
    { NULL, NULL },
  };
  static const luaL_Reg functions[] = {
    { "matrix", resample_matrix }, { "new", resample_new },
    { "signs", resample_signs },   { "studentized", resample_studentized },
    { NULL, NULL },
  };
  luaL_newmetatable(L, XL_RESAMPLE);
  lua_newtable(L);
  luaL_setfuncs(L, methods, 0);
  lua_setfield(L, -2, "__index");
  lua_pushcfunction(L, resample_len);
  lua_setfield(L, -2, "__len");
  luaL_newmetatable(L, XL_MATRIX);
  lua_pop(L, 2);
  luaL_newlib(L, functions);
  return 1;
}
