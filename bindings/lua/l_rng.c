/* l_rng.c: core.rng: keyed random streams and NumPy's generators, as float64 and int64 tensors on the CPU.
 * A stream is named by its purpose, so its numbers do not depend on when they are drawn. Torch's own generator, for
 * weights and dropout, is in core.autograd. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "rng.h"
#include "xl.h"

/* ---- results ------------------------------------------------------------------------------------------------ */

static int64_t to_count(lua_State *L, int idx, const char *what) {
  const int64_t n = xl_toint(L, idx, what);
  if (n < 0 || n > INT64_C(1) << 40)
    xl_error(L, "%s: expected a count of 0 or more, got %lld", what, (long long)n);
  return n;
}

/* Pushes a new tensor of n numbers and returns its memory. */
static void *push_numbers(lua_State *L, const char *dtype, int64_t n, const char *what) {
  tx_tensor **out = xl_slots(L, 1);
  XL_TRY(L, what, tx_tensor_new(out, dtype, 1, &n, NULL, 0));
  xl_pushheld(L, *out);
  return tx_tensor_data(*out);
}

/* An integer of at least low. */
static int64_t to_integer(lua_State *L, int idx, const char *what, int64_t low) {
  const int64_t v = xl_toint(L, idx, what);
  if (v < low)
    xl_error(L, "%s: expected %lld or more, got %lld", what, (long long)low, (long long)v);
  return v;
}

/* ---- keyed streams ------------------------------------------------------------------------------------------ */

#define XL_STREAM "medxai.stream"

typedef struct stream_box {
  mx_stream s;
  uint64_t first; /* where its draws begin */
} stream_box;

static stream_box *to_stream(lua_State *L) { return luaL_checkudata(L, 1, XL_STREAM); }

static stream_box *push_stream(lua_State *L) {
  stream_box *b = lua_newuserdatauv(L, sizeof *b, 0);
  *b = (stream_box){ .first = 0 };
  luaL_setmetatable(L, XL_STREAM);
  return b;
}

static const char *string_field(lua_State *L, const char *name, const char *absent) {
  const int type = lua_getfield(L, 1, name);
  if (type == LUA_TNIL && absent)
    return absent;
  if (type != LUA_TSTRING)
    xl_error(L, "stream: %s: expected a string, got %s", name, luaL_typename(L, -1));
  return lua_tostring(L, -1); /* stays on the stack */
}

/*- stream { seed, purpose = "what@version", id = "", replicate = 0 }: the stream of that key. Draw i is always the same
 * number, in whatever order or amount the draws are made. */
static int rng_stream(lua_State *L) {
  static const char *const names[] = { "seed", "purpose", "id", "replicate" };
  if (!lua_istable(L, 1))
    xl_error(L, "stream: expected { seed =, purpose =, id =, replicate = }, got %s", luaL_typename(L, 1));
  lua_settop(L, 1);
  for (lua_pushnil(L); lua_next(L, 1); lua_pop(L, 1)) {
    const char *key = lua_type(L, -2) == LUA_TSTRING ? lua_tostring(L, -2) : luaL_typename(L, -2);
    int i = 0;
    while (i < 4 && strcmp(names[i], key) != 0)
      i++;
    if (i == 4)
      xl_error(L, "stream: unknown option '%s' (seed, purpose, id, replicate)", key);
  }
  const char *purpose = string_field(L, "purpose", NULL), *id = string_field(L, "id", "");
  lua_getfield(L, 1, "seed");
  const int64_t seed = xl_toint(L, -1, "stream: seed");
  lua_getfield(L, 1, "replicate");
  const int64_t replicate = lua_isnil(L, -1) ? 0 : to_integer(L, -1, "stream: replicate", 0);
  mx_stream_init(&push_stream(L)->s, (uint64_t)seed, purpose, id, (uint64_t)replicate);
  return 1;
}

/*- s:at(i): the same stream from draw i on (0 is the first) */
static int stream_at(lua_State *L) {
  const stream_box *b = to_stream(L);
  const int64_t i = to_integer(L, 2, "stream: at", 0);
  stream_box *c = push_stream(L);
  c->s = b->s;
  c->first = b->first + (uint64_t)i;
  return 1;
}

/*- s:uniform(n): float64 in [0, 1) */
static int stream_uniform(lua_State *L) {
  const stream_box *b = to_stream(L);
  const int64_t n = to_count(L, 2, "stream: uniform");
  double *v = push_numbers(L, "float64", n, "stream: uniform");
  for (int64_t i = 0; i < n; i++)
    v[i] = mx_stream_uniform(&b->s, b->first + (uint64_t)i);
  return 1;
}

/*- s:normal(n): float64, mean 0, deviation 1 */
static int stream_normal(lua_State *L) {
  const stream_box *b = to_stream(L);
  const int64_t n = to_count(L, 2, "stream: normal");
  double *v = push_numbers(L, "float64", n, "stream: normal");
  for (int64_t i = 0; i < n; i++)
    v[i] = mx_stream_normal(&b->s, b->first + (uint64_t)i);
  return 1;
}

/*- s:bits(n): int64 0 or 1 */
static int stream_bits(lua_State *L) {
  const stream_box *b = to_stream(L);
  const int64_t n = to_count(L, 2, "stream: bits");
  int64_t *v = push_numbers(L, "int64", n, "stream: bits");
  for (int64_t i = 0; i < n; i++)
    v[i] = (int64_t)(mx_stream_bits(&b->s, b->first + (uint64_t)i) >> 63);
  return 1;
}

/*- s:integers(n, below): int64 in [0, below) */
static int stream_integers(lua_State *L) {
  const stream_box *b = to_stream(L);
  const int64_t n = to_count(L, 2, "stream: integers"), below = to_integer(L, 3, "stream: integers: below", 1);
  int64_t *v = push_numbers(L, "int64", n, "stream: integers");
  for (int64_t i = 0; i < n; i++)
    v[i] = (int64_t)mx_stream_integer(&b->s, b->first + (uint64_t)i, (uint64_t)below);
  return 1;
}

/*- s:permutation(n): int64, 0 .. n-1 in a random order */
static int stream_permutation(lua_State *L) {
  const stream_box *b = to_stream(L);
  if (b->first != 0)
    xl_error(L, "stream: permutation: of a whole stream only. Use another replicate instead of at(%lld).",
             (long long)b->first);
  const int64_t n = to_count(L, 2, "stream: permutation");
  mx_stream_permutation(&b->s, n, push_numbers(L, "int64", n, "stream: permutation"));
  return 1;
}

/* ---- numpy -------------------------------------------------------------------------------------------------- */

#define XL_RANDOM_STATE "medxai.numpy.RandomState"
#define XL_DEFAULT_RNG "medxai.numpy.Generator"

/*- numpy_random_state(seed): numpy.random.RandomState(seed), to the last bit */
static int rng_numpy_random_state(lua_State *L) {
  const int64_t seed = to_integer(L, 1, "numpy_random_state: seed", 0);
  if (seed > UINT32_MAX)
    xl_error(L, "numpy_random_state: seed: expected at most 4294967295, got %lld", (long long)seed);
  mx_mt19937 *g = lua_newuserdatauv(L, sizeof *g, 0);
  mx_mt19937_seed(g, (uint32_t)seed);
  luaL_setmetatable(L, XL_RANDOM_STATE);
  return 1;
}

/*- numpy_default_rng(seed): numpy.random.default_rng(seed), to the last bit */
static int rng_numpy_default_rng(lua_State *L) {
  const int64_t seed = to_integer(L, 1, "numpy_default_rng: seed", 0);
  mx_pcg64 *g = lua_newuserdatauv(L, sizeof *g, 0);
  mx_pcg64_seed(g, (uint64_t)seed);
  luaL_setmetatable(L, XL_DEFAULT_RNG);
  return 1;
}

typedef struct numpy { /* RandomState or default_rng, told apart by these functions */
  void *g;
  const char *name;
  double (*uniform)(void *g);
  double (*normal)(void *g);
  uint64_t (*interval)(void *g, uint64_t most);
  void (*permutation)(void *g, int64_t n, int64_t *out);
} numpy;

static double mt_uniform(void *g) { return mx_mt19937_uniform(g); }
static double mt_normal(void *g) { return mx_mt19937_normal(g); }
static uint64_t mt_interval(void *g, uint64_t most) { return mx_mt19937_interval(g, most); }
static void mt_permutation(void *g, int64_t n, int64_t *out) { mx_mt19937_permutation(g, n, out); }
static double pcg_uniform(void *g) { return mx_pcg64_uniform(g); }
static double pcg_normal(void *g) { return mx_pcg64_normal(g); }
static uint64_t pcg_interval(void *g, uint64_t most) { return mx_pcg64_interval(g, most); }
static void pcg_permutation(void *g, int64_t n, int64_t *out) { mx_pcg64_permutation(g, n, out); }

static numpy to_numpy(lua_State *L) {
  void *g = luaL_testudata(L, 1, XL_RANDOM_STATE);
  if (g)
    return (numpy){ g, "RandomState", mt_uniform, mt_normal, mt_interval, mt_permutation };
  g = luaL_checkudata(L, 1, XL_DEFAULT_RNG);
  return (numpy){ g, "default_rng", pcg_uniform, pcg_normal, pcg_interval, pcg_permutation };
}

/*- g:randint(low, high, n), g:integers(low, high, n): int64 in [low, high) */
static int numpy_integers(lua_State *L) {
  const numpy g = to_numpy(L);
  const int64_t low = xl_toint(L, 2, "integers: low"), high = xl_toint(L, 3, "integers: high"),
                n = to_count(L, 4, "integers");
  if (low >= high)
    xl_error(L, "integers: expected low < high, got %lld and %lld", (long long)low, (long long)high);
  int64_t *v = push_numbers(L, "int64", n, "integers");
  const uint64_t most = (uint64_t)high - 1 - (uint64_t)low;
  for (int64_t i = 0; i < n; i++)
    v[i] = (int64_t)((uint64_t)low + g.interval(g.g, most));
  return 1;
}

/*- g:uniform(n, low = 0, high = 1): float64 in [low, high) */
static int numpy_uniform(lua_State *L) {
  const numpy g = to_numpy(L);
  const int64_t n = to_count(L, 2, "uniform");
  const double low = luaL_optnumber(L, 3, 0), high = luaL_optnumber(L, 4, 1);
  double *v = push_numbers(L, "float64", n, "uniform");
  for (int64_t i = 0; i < n; i++)
    v[i] = low + (high - low) * g.uniform(g.g);
  return 1;
}

/*- g:normal(n, mean = 0, deviation = 1): float64 */
static int numpy_normal(lua_State *L) {
  const numpy g = to_numpy(L);
  const int64_t n = to_count(L, 2, "normal");
  const double mean = luaL_optnumber(L, 3, 0), deviation = luaL_optnumber(L, 4, 1);
  double *v = push_numbers(L, "float64", n, "normal");
  for (int64_t i = 0; i < n; i++)
    v[i] = mean + deviation * g.normal(g.g);
  return 1;
}

/*- g:permutation(n): int64 */
static int numpy_permutation(lua_State *L) {
  const numpy g = to_numpy(L);
  const int64_t n = to_count(L, 2, "permutation");
  g.permutation(g.g, n, push_numbers(L, "int64", n, "permutation"));
  return 1;
}

/* The list of probabilities at idx as running sums over their total; pushes what holds them. */
static double *push_cumulative(lua_State *L, int idx, int64_t n) {
  luaL_checktype(L, idx, LUA_TTABLE);
  if ((int64_t)lua_rawlen(L, idx) != n)
    xl_error(L, "choice: expected %lld probabilities, got %lld", (long long)n, (long long)lua_rawlen(L, idx));
  double *sums = lua_newuserdatauv(L, (size_t)n * sizeof *sums, 0), sum = 0;
  for (int64_t i = 0; i < n; i++) {
    const double p = lua_rawgeti(L, idx, i + 1) == LUA_TNUMBER ? lua_tonumber(L, -1) : NAN;
    lua_pop(L, 1);
    if (!(p >= 0))
      xl_error(L, "choice: probability %lld is not a number of 0 or more", (long long)i + 1);
    sums[i] = sum += p;
  }
  if (!(fabs(sum - 1) < 1.5e-8)) /* numpy's tolerance */
    xl_error(L, "choice: probabilities sum to %.17g, not 1", sum);
  for (int64_t i = 0; i < n; i++)
    sums[i] /= sum;
  return sums;
}

/* How many of the sums are not above u (searchsorted, right). */
static int64_t place_of(const double *sums, int64_t n, double u) {
  int64_t low = 0, high = n;
  while (low < high) {
    const int64_t mid = low + (high - low) / 2;
    if (sums[mid] <= u)
      low = mid + 1;
    else
      high = mid;
  }
  return low;
}

/*- g:choice(n, size, p): int64 in [0, n), with replacement, evenly or by the list of probabilities p */
static int numpy_choice(lua_State *L) {
  const numpy g = to_numpy(L);
  lua_settop(L, 4);
  const int64_t n = to_integer(L, 2, "choice: n", 1), size = to_count(L, 3, "choice");
  const double *sums = lua_isnil(L, 4) ? NULL : push_cumulative(L, 4, n);
  int64_t *v = push_numbers(L, "int64", size, "choice");
  for (int64_t i = 0; i < size; i++)
    v[i] = sums ? place_of(sums, n, g.uniform(g.g)) : (int64_t)g.interval(g.g, (uint64_t)n - 1);
  return 1;
}

/* ---- module ------------------------------------------------------------------------------------------------- */

static const luaL_Reg stream_methods[] = {
  { "at", stream_at },
  { "bits", stream_bits },
  { "integers", stream_integers },
  { "normal", stream_normal },
  { "permutation", stream_permutation },
  { "uniform", stream_uniform },
  { NULL, NULL },
};
static const luaL_Reg numpy_methods[] = {
  { "choice", numpy_choice },
  { "integers", numpy_integers },
  { "normal", numpy_normal },
  { "permutation", numpy_permutation },
  { "randint", numpy_integers },
  { "uniform", numpy_uniform },
  { NULL, NULL },
};
static const luaL_Reg functions[] = {
  { "numpy_default_rng", rng_numpy_default_rng },
  { "numpy_random_state", rng_numpy_random_state },
  { "stream", rng_stream },
  { NULL, NULL },
};

int luaopen_core_rng(lua_State *L) {
  xl_newtype(L, XL_STREAM, stream_methods, NULL);
  xl_newtype(L, XL_RANDOM_STATE, numpy_methods, NULL);
  xl_newtype(L, XL_DEFAULT_RNG, numpy_methods, NULL);
  xl_newlib(L, functions);
  return 1;
}
