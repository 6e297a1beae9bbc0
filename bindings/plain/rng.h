/* rng.h: random numbers. No Lua, no libtorch, no allocation.
 * Keyed streams (Philox4x32-10; Salmon et al., SC 2011): draw i of the stream named by (seed, purpose, id, replicate)
 * is always the same number, whatever the order or amount of draws and the number of threads. Their normals use libm's
 * log, sin and cos, so they are equal where libm is.
 * NumPy's two generators, bit for bit, for comparisons with Python. */
#ifndef MEDXAI_RNG_H
#define MEDXAI_RNG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Philox4x32-10 (Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as 1, 2, 3; SC 2011) ----------- */
void mx_philox(uint32_t out[4], const uint32_t counter[4], const uint32_t key[2]);

/* A stream. Drawing does not change it, so threads can share it. */
typedef struct mx_stream {
  uint32_t key[2];
  uint32_t lane[2]; /* the counter's upper half; the lower half counts the draws */
} mx_stream;

/* purpose is "what@version" ("lime@1"), id an image id or "" */
void mx_stream_init(mx_stream *s, uint64_t seed, const char *purpose, const char *id, uint64_t replicate);
uint64_t mx_stream_bits(const mx_stream *s, uint64_t draw);
double mx_stream_uniform(const mx_stream *s, uint64_t draw);                    /* [0, 1), 53 bits */
double mx_stream_normal(const mx_stream *s, uint64_t draw);                     /* mean 0, deviation 1 */
uint64_t mx_stream_integer(const mx_stream *s, uint64_t draw, uint64_t below);  /* [0, below), unbiased; below >= 1 */
void mx_stream_permutation(const mx_stream *s, int64_t n, int64_t *out);        /* of 0 .. n-1 */
/* uniform, normal and integer read the same bits: one stream serves one of them. */

/* ---- numpy.random.RandomState: MT19937 -------------------------------------------------------------------------- */
typedef struct mx_mt19937 {
  uint32_t word[624];
  int used;
  bool has_normal;
  double normal; /* the polar method makes two */
} mx_mt19937;

void mx_mt19937_seed(mx_mt19937 *g, uint32_t seed);
uint32_t mx_mt19937_next(mx_mt19937 *g);
double mx_mt19937_uniform(mx_mt19937 *g);
double mx_mt19937_normal(mx_mt19937 *g);                                /* randn */
uint64_t mx_mt19937_interval(mx_mt19937 *g, uint64_t most);             /* [0, most] by masked rejection */
void mx_mt19937_permutation(mx_mt19937 *g, int64_t n, int64_t *out);

/* ---- numpy.random.default_rng: PCG64 over SeedSequence ---------------------------------------------------------- */
typedef struct mx_pcg64 {
  uint64_t state[2], step[2]; /* 128 bits each, the lower half first: Lua aligns its values to 8 bytes only */
  bool has_half;
  uint32_t half; /* the upper half of the last 64 bits that a 32-bit draw split */
} mx_pcg64;

void mx_pcg64_seed(mx_pcg64 *g, uint64_t seed);
uint64_t mx_pcg64_next(mx_pcg64 *g);
double mx_pcg64_uniform(mx_pcg64 *g);
double mx_pcg64_normal(mx_pcg64 *g);                                    /* ziggurat of 256 layers */
uint64_t mx_pcg64_interval(mx_pcg64 *g, uint64_t most);                 /* [0, most] by Lemire's method */
void mx_pcg64_permutation(mx_pcg64 *g, int64_t n, int64_t *out);

#ifdef __cplusplus
}
#endif
#endif
