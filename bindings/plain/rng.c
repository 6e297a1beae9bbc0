/* rng.c: see rng.h. Written from the papers and from numpy's documented behaviour; tests compare with Random123's
 * published vectors and with numbers that numpy made. */
#include "rng.h"
#include <math.h>
#include <pthread.h>
#include <string.h>
#include "rng_ziggurat.h"

/* ---- Philox ----------------------------------------------------------------------------------------------------- */

void mx_philox(uint32_t out[4], const uint32_t counter[4], const uint32_t key[2]) {
  uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3], k0 = key[0], k1 = key[1];
  for (int round = 0; round < 10; round++) {
    const uint64_t a = (uint64_t)0xD2511F53u * c0, b = (uint64_t)0xCD9E8D57u * c2;
    c0 = (uint32_t)(b >> 32) ^ c1 ^ k0;
    c1 = (uint32_t)b;
    c2 = (uint32_t)(a >> 32) ^ c3 ^ k1;
    c3 = (uint32_t)a;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  out[0] = c0, out[1] = c1, out[2] = c2, out[3] = c3;
}

/* The key of a stream: the text is absorbed 8 bytes at a time into the counter of a chain of Philox blocks
 * (out = philox(out ^ text) under a fixed key), with each field's length in front, so that ("ab", "c") is not ("a",
 * "bc"). */
static void absorb(uint32_t chain[4], const void *data, size_t n) {
  static const uint32_t key[2] = { 0x6D656478u, 0x61692D31u }; /* "medxai-1" */
  const unsigned char *p = data;
  uint64_t word = n;
  for (size_t at = 0;; at += 8) {
    chain[0] ^= (uint32_t)word;
    chain[1] ^= (uint32_t)(word >> 32);
    mx_philox(chain, chain, key);
    if (at >= n)
      return;
    word = 0;
    for (size_t i = 0; i < 8 && at + i < n; i++)
      word |= (uint64_t)p[at + i] << (8 * i);
  }
}

static void absorb_number(uint32_t chain[4], uint64_t v) {
  unsigned char bytes[8];
  for (int i = 0; i < 8; i++)
    bytes[i] = (unsigned char)(v >> (8 * i));
  absorb(chain, bytes, 8);
}

void mx_stream_init(mx_stream *s, uint64_t seed, const char *purpose, const char *id, uint64_t replicate) {
  uint32_t chain[4] = { 0, 0, 0, 0 };
  absorb_number(chain, seed);
  absorb(chain, purpose, strlen(purpose));
  absorb(chain, id, strlen(id));
  absorb_number(chain, replicate);
  memcpy(s->key, chain, sizeof s->key);
  memcpy(s->lane, chain + 2, sizeof s->lane);
}

/* One block, 128 bits. attempt: 0, or which repetition of a rejected draw. */
static void block(const mx_stream *s, uint64_t at, uint32_t attempt, uint64_t out[2]) {
  const uint32_t counter[4] = { (uint32_t)at, (uint32_t)(at >> 32), s->lane[0], s->lane[1] + attempt };
  uint32_t v[4];
  mx_philox(v, counter, s->key);
  out[0] = v[0] | (uint64_t)v[1] << 32;
  out[1] = v[2] | (uint64_t)v[3] << 32;
}

uint64_t mx_stream_bits(const mx_stream *s, uint64_t draw) {
  uint64_t b[2];
  block(s, draw / 2, 0, b);
  return b[draw % 2];
}

static double to_unit(uint64_t bits) { return (double)(bits >> 11) * 0x1p-53; }

double mx_stream_uniform(const mx_stream *s, uint64_t draw) { return to_unit(mx_stream_bits(s, draw)); }

/* Box and Muller: one block gives the pair (2i, 2i + 1). */
double mx_stream_normal(const mx_stream *s, uint64_t draw) {
  uint64_t b[2];
  block(s, draw / 2, 0, b);
  const double radius = sqrt(-2 * log(1 - to_unit(b[0]))), angle = 6.283185307179586476925 * to_unit(b[1]);
  return radius * (draw % 2 ? sin(angle) : cos(angle));
}

/* Lemire, Fast random integer generation in an interval (2019): the product's upper half, redrawn where biased. */
uint64_t mx_stream_integer(const mx_stream *s, uint64_t draw, uint64_t below) {
  unsigned __int128 m = (unsigned __int128)mx_stream_bits(s, draw) * below;
  if ((uint64_t)m < below) {
    const uint64_t floor = -below % below;
    for (uint32_t attempt = 1; (uint64_t)m < floor; attempt++) {
      uint64_t b[2];
      block(s, draw / 2, attempt, b);
      m = (unsigned __int128)b[draw % 2] * below;
    }
  }
  return (uint64_t)(m >> 64);
}

static void swap(int64_t *v, int64_t i, int64_t j) {
  const int64_t t = v[i];
  v[i] = v[j];
  v[j] = t;
}

static void fill_identity(int64_t n, int64_t *out) {
  for (int64_t i = 0; i < n; i++)
    out[i] = i;
}

void mx_stream_permutation(const mx_stream *s, int64_t n, int64_t *out) {
  fill_identity(n, out);
  for (int64_t i = n - 1; i > 0; i--)
    swap(out, i, (int64_t)mx_stream_integer(s, (uint64_t)i, (uint64_t)i + 1));
}

/* ---- MT19937 (Matsumoto and Nishimura 1998) --------------------------------------------------------------------- */

void mx_mt19937_seed(mx_mt19937 *g, uint32_t seed) {
  g->word[0] = seed;
  for (uint32_t i = 1; i < 624; i++)
    g->word[i] = 1812433253u * (g->word[i - 1] ^ (g->word[i - 1] >> 30)) + i;
  g->used = 624;
  g->has_normal = false;
  g->normal = 0;
}

static void refill(mx_mt19937 *g) {
  for (int i = 0; i < 624; i++) {
    const uint32_t y = (g->word[i] & 0x80000000u) | (g->word[(i + 1) % 624] & 0x7FFFFFFFu);
    g->word[i] = g->word[(i + 397) % 624] ^ (y >> 1) ^ (y & 1 ? 0x9908B0DFu : 0);
  }
  g->used = 0;
}

uint32_t mx_mt19937_next(mx_mt19937 *g) {
  if (g->used == 624)
    refill(g);
  uint32_t y = g->word[g->used++];
  y ^= y >> 11;
  y ^= (y << 7) & 0x9D2C5680u;
  y ^= (y << 15) & 0xEFC60000u;
  return y ^ (y >> 18);
}

static uint64_t mt_next64(mx_mt19937 *g) {
  const uint64_t high = mx_mt19937_next(g);
  return high << 32 | mx_mt19937_next(g);
}

double mx_mt19937_uniform(mx_mt19937 *g) {
  const double a = mx_mt19937_next(g) >> 5, b = mx_mt19937_next(g) >> 6;
  return (a * 67108864.0 + b) / 9007199254740992.0;
}

/* Marsaglia's polar method; the second of each pair waits for the next call. */
double mx_mt19937_normal(mx_mt19937 *g) {
  if (g->has_normal) {
    g->has_normal = false;
    return g->normal;
  }
  double x, y, r2;
  do {
    x = 2 * mx_mt19937_uniform(g) - 1;
    y = 2 * mx_mt19937_uniform(g) - 1;
    r2 = x * x + y * y;
  } while (r2 >= 1 || r2 == 0);
  const double f = sqrt(-2 * log(r2) / r2);
  g->normal = f * x;
  g->has_normal = true;
  return f * y;
}

static uint64_t mask_over(uint64_t most) { /* the smallest 2^k - 1 that is not below */
  for (int shift = 1; shift < 64; shift *= 2)
    most |= most >> shift;
  return most;
}

uint64_t mx_mt19937_interval(mx_mt19937 *g, uint64_t most) {
  const uint64_t mask = mask_over(most);
  uint64_t v = 0;
  if (most > 0)
    do
      v = (most <= UINT32_MAX ? mx_mt19937_next(g) : mt_next64(g)) & mask;
    while (v > most);
  return v;
}

void mx_mt19937_permutation(mx_mt19937 *g, int64_t n, int64_t *out) {
  fill_identity(n, out);
  for (int64_t i = n - 1; i > 0; i--)
    swap(out, i, (int64_t)mx_mt19937_interval(g, (uint64_t)i));
}

/* ---- PCG64 (O'Neill 2014), seeded by SeedSequence (O'Neill's seed_seq with fixed-size pool) --------------------- */

static uint32_t mix_hash(uint32_t v, uint32_t *constant, uint32_t multiplier) {
  v ^= *constant;
  *constant *= multiplier;
  v *= *constant;
  return v ^ (v >> 16);
}

static uint32_t mix_pair(uint32_t x, uint32_t y) {
  const uint32_t v = 0xCA01F9DDu * x - 0x4973F715u * y;
  return v ^ (v >> 16);
}

/* The first 8 words that SeedSequence(seed) generates. */
static void seed_sequence(uint64_t seed, uint32_t out[8]) {
  const uint32_t entropy[4] = { (uint32_t)seed, (uint32_t)(seed >> 32), 0, 0 };
  uint32_t pool[4], constant = 0x43B0D7E5u;
  for (int i = 0; i < 4; i++)
    pool[i] = mix_hash(entropy[i], &constant, 0x931E8875u);
  for (int from = 0; from < 4; from++)
    for (int to = 0; to < 4; to++)
      if (from != to)
        pool[to] = mix_pair(pool[to], mix_hash(pool[from], &constant, 0x931E8875u));
  constant = 0x8B51F9DDu;
  for (int i = 0; i < 8; i++)
    out[i] = mix_hash(pool[i % 4], &constant, 0x58F38DEDu);
}

static unsigned __int128 whole(const uint64_t half[2]) { return (unsigned __int128)half[1] << 64 | half[0]; }

static void set_whole(uint64_t half[2], unsigned __int128 v) {
  half[0] = (uint64_t)v;
  half[1] = (uint64_t)(v >> 64);
}

/* added goes in before the step: seeding does that once */
static void pcg_step(mx_pcg64 *g, unsigned __int128 added) {
  const unsigned __int128 multiplier = (unsigned __int128)0x2360ED051FC65DA4u << 64 | 0x4385DF649FCCF645u;
  set_whole(g->state, (whole(g->state) + added) * multiplier + whole(g->step));
}

void mx_pcg64_seed(mx_pcg64 *g, uint64_t seed) {
  uint32_t w[8];
  seed_sequence(seed, w);
  unsigned __int128 v[4];
  for (int i = 0; i < 4; i++)
    v[i] = w[2 * i] | (uint64_t)w[2 * i + 1] << 32;
  *g = (mx_pcg64){ .has_half = false };
  set_whole(g->step, (v[2] << 64 | v[3]) << 1 | 1);
  pcg_step(g, 0);
  pcg_step(g, v[0] << 64 | v[1]);
}

uint64_t mx_pcg64_next(mx_pcg64 *g) {
  pcg_step(g, 0);
  const uint64_t v = g->state[1] ^ g->state[0];
  const unsigned turn = (unsigned)(g->state[1] >> 58);
  return v >> turn | v << (-turn & 63);
}

static uint32_t pcg_next32(mx_pcg64 *g) {
  g->has_half = !g->has_half;
  if (!g->has_half)
    return g->half;
  const uint64_t v = mx_pcg64_next(g);
  g->half = (uint32_t)(v >> 32);
  return (uint32_t)v;
}

double mx_pcg64_uniform(mx_pcg64 *g) { return to_unit(mx_pcg64_next(g)); }

uint64_t mx_pcg64_interval(mx_pcg64 *g, uint64_t most) {
  if (most == 0)
    return 0;
  if (most == UINT64_MAX)
    return mx_pcg64_next(g);
  const uint64_t count = most + 1;
  if (most == UINT32_MAX)
    return pcg_next32(g);
  if (most < UINT32_MAX) {
    const uint32_t floor = (uint32_t)((UINT32_MAX - most) % count);
    uint64_t m;
    do {
      m = pcg_next32(g) * count;
    } while ((uint32_t)m < floor);
    return m >> 32;
  }
  const uint64_t floor = (UINT64_MAX - most) % count;
  unsigned __int128 m;
  do {
    m = (unsigned __int128)mx_pcg64_next(g) * count;
  } while ((uint64_t)m < floor);
  return (uint64_t)(m >> 64);
}

/* Unlike its integers, numpy's shuffle draws by masked rejection. */
void mx_pcg64_permutation(mx_pcg64 *g, int64_t n, int64_t *out) {
  fill_identity(n, out);
  for (int64_t i = n - 1; i > 0; i--) {
    const uint64_t mask = mask_over((uint64_t)i);
    uint64_t j;
    do
      j = (i <= (int64_t)UINT32_MAX ? pcg_next32(g) : mx_pcg64_next(g)) & mask;
    while (j > (uint64_t)i);
    swap(out, i, (int64_t)j);
  }
}

/* ---- the ziggurat of default_rng's normals (Marsaglia and Tsang 2000; 256 layers, 52-bit abscissae) ------------- */

#define ZIGGURAT_R 3.6541528853610087963519472518L      /* where the tail begins */
#define ZIGGURAT_AREA 0.004928673233974654931590913432L /* of each layer, and of the base with its tail */

static struct {
  uint64_t inside[256]; /* abscissae below lie under the curve without a further test */
  double height[256];   /* exp(-x^2/2) at a layer's edge */
} ziggurat;

static void make_ziggurat(void) {
  const long double scale = 0x1p52L;
  long double x = ZIGGURAT_R, y = expl(-0.5L * x * x);
  ziggurat.inside[0] = (uint64_t)(x * y / ZIGGURAT_AREA * scale);
  ziggurat.height[0] = 1;
  ziggurat.height[255] = (double)y;
  for (int i = 254; i > 0; i--) {
    const long double next = sqrtl(-2 * logl(ZIGGURAT_AREA / x + y));
    ziggurat.inside[i + 1] = (uint64_t)(next / x * scale);
    y = expl(-0.5L * next * next);
    ziggurat.height[i] = (double)y;
    x = next;
  }
  ziggurat.inside[1] = 0;
}

static double ziggurat_tail(mx_pcg64 *g) {
  for (;;) {
    const double x = -0.27366123732975827203338247596 * log1p(-mx_pcg64_uniform(g)); /* 1 / ZIGGURAT_R */
    const double y = -log1p(-mx_pcg64_uniform(g));
    if (y + y > x * x)
      return (double)ZIGGURAT_R + x;
  }
}

double mx_pcg64_normal(mx_pcg64 *g) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, make_ziggurat);
  for (;;) {
    const uint64_t bits = mx_pcg64_next(g), at = (bits >> 9) & 0xFFFFFFFFFFFFFu;
    const unsigned layer = bits & 255;
    const double x = (bits >> 8 & 1 ? -1.0 : 1.0) * ((double)at * ziggurat_width[layer]);
    if (at < ziggurat.inside[layer])
      return x;
    if (layer == 0)
      return (at >> 8 & 1 ? -1.0 : 1.0) * ziggurat_tail(g);
    const double low = ziggurat.height[layer], high = ziggurat.height[layer - 1];
    if ((high - low) * mx_pcg64_uniform(g) + low < exp(-0.5 * x * x))
      return x;
  }
}
