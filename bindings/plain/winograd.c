/* winograd.c: winograd.h's loops over blocks of tiles. A block's transformed input stays in the cache while all weights
 * pass by; of the products only a few output channels of one block exist at a time. */
#include "winograd.h"

#include <omp.h>

enum { MOST_TILES = 72, MARGIN = 12 }; /* of a block; rows that a product may compute beyond its end */

typedef void (*product)(const float *tiles, long row, const float *weights, long depth, float *out);
typedef struct kernel {
  int vectors, tiles;
  product run;
} kernel;

#define LANES 16
#define NAME(f) f##_avx512
#define TARGET __attribute__((target("avx512f")))
#define KERNELS(K) K(4, 6) K(3, 8) K(2, 12) K(1, 12)
#include "winograd_kernel.h"
#undef LANES
#undef NAME
#undef TARGET
#undef KERNELS

#define LANES 8
#define NAME(f) f##_avx2
#define TARGET __attribute__((target("avx2,fma")))
#define KERNELS(K) K(2, 6) K(1, 12)
#include "winograd_kernel.h"

/* How many of `blocks` channel blocks the next product takes, and with which kernel: as many as there is a kernel for,
 * but no single one is left over. */
static const kernel *choose(const winograd *w, int blocks) {
  const kernel *list = w->block == 16 ? kernels_avx512 : kernels_avx2;
  while (list->vectors > blocks || (list->vectors > 2 && blocks - list->vectors == 1)) list++;
  return list;
}

static int tiles_of(const winograd *w) { return (w->out_height + 1) / 2 * ((w->out_width + 1) / 2); }

/* Tiles of a block: many, so that weights are read seldom; as few as leave every thread one, and as fit into 2.5 MB. */
static int block_tiles(const winograd *w) {
  int tiles = tiles_of(w), most = MOST_TILES, room = (5 << 19) / (64 * w->in);
  if (room < most) most = room < 12 ? 12 : room / 12 * 12;
  int share = (tiles + w->threads - 1) / w->threads;
  return share < most ? share : most;
}

/* Floats between the 16 slices: a line more than they need, so that they do not meet in the cache. */
static long tile_slice(const winograd *w) { return (long)(block_tiles(w) + MARGIN) * w->in + 16; }
static long product_slice(const winograd *w) { return (long)(block_tiles(w) + MARGIN) * 4 * w->block + 16; }
static size_t thread_floats(const winograd *w) { return 16 * (size_t)(tile_slice(w) + product_slice(w)); }

size_t winograd_scratch_bytes(const winograd *w) { return thread_floats(w) * sizeof(float) * (size_t)w->threads; }
size_t winograd_weight_floats(const winograd *w) { return 16 * (size_t)w->in * (size_t)w->out; }

/* GgG' of one kernel, in double precision: G = (1, 0, 0; 1/2, 1/2, 1/2; 1/2, -1/2, 1/2; 0, 0, 1). */
static void transform_weight(const float *g, const long stride[4], double u[16]) {
  double half[4][3];
  for (int j = 0; j < 3; j++) {
    double a = g[j * stride[3]], b = g[stride[2] + j * stride[3]], c = g[2 * stride[2] + j * stride[3]];
    half[0][j] = a;
    half[1][j] = (a + b + c) / 2;
    half[2][j] = (a - b + c) / 2;
    half[3][j] = c;
  }
  for (int i = 0; i < 4; i++) {
    double a = half[i][0], b = half[i][1], c = half[i][2];
    u[4 * i] = a;
    u[4 * i + 1] = (a + b + c) / 2;
    u[4 * i + 2] = (a - b + c) / 2;
    u[4 * i + 3] = c;
  }
}

/* packed: for each group of output channels that one product takes: (16, in, channels of the group) */
void winograd_pack(const winograd *w, const float *weight, const long stride[4], float *packed) {
  for (int first = 0; first < w->out / w->block;) {
    int vectors = choose(w, w->out / w->block - first)->vectors, wide = vectors * w->block;
    float *group = packed + 16 * (long)w->in * first * w->block;
    for (int c = 0; c < w->in; c++)
      for (int o = 0; o < wide; o++) {
        double u[16];
        transform_weight(weight + (first * w->block + o) * stride[0] + c * stride[1], stride, u);
        for (int i = 0; i < 16; i++) group[((long)i * w->in + c) * wide + o] = (float)u[i];
      }
    first += vectors;
  }
}

static void run_block(const winograd *w, const float *source, const float *packed, const float *bias, float *result,
                      float *scratch, int from, int to) {
  const bool is_wide = w->block == 16;
  const long slice = tile_slice(w), product_step = product_slice(w);
  float *tiles = scratch, *products = scratch + 16 * slice;
  (is_wide ? transform_input_avx512 : transform_input_avx2)(w, source, from, to, tiles, slice);
  for (int first = 0; first < w->out / w->block;) {
    const kernel *k = choose(w, w->out / w->block - first);
    const int wide = k->vectors * w->block;
    const float *weights = packed + 16 * (long)w->in * first * w->block;
    for (int i = 0; i < 16; i++)
      for (int t = 0; t < to - from; t += k->tiles)
        k->run(tiles + i * slice + (long)t * w->in, w->in, weights + (long)i * w->in * wide, w->in,
               products + i * product_step + (long)t * wide);
    (is_wide ? transform_output_avx512 : transform_output_avx2)(w, products, product_step, from, to, first, k->vectors,
                                                                bias, result);
    first += k->vectors;
  }
}

void winograd_run(const winograd *w, const float *source, const float *packed, const float *bias, float *result,
                  void *scratch) {
  const int tiles = tiles_of(w), step = block_tiles(w);
#pragma omp parallel for num_threads(w->threads) schedule(static) if (w->threads > 1)
  for (int from = 0; from < tiles; from += step)
    run_block(w, source, packed, bias, result, (float *)scratch + thread_floats(w) * (size_t)omp_get_thread_num(), from,
              from + step < tiles ? from + step : tiles);
}
