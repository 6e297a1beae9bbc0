/* winograd_kernel.h: the loops of winograd.c for one width of vector: LANES channels, functions named NAME(f), compiled
 * for TARGET. KERNELS lists products by their shape: vectors of output channels, tiles at a time; the largest first. */
#define VEC NAME(vec)
#define LOAD(p) (*(const VEC *)(p))
#define STORE(p, v) (*(VEC *)(p) = (v))

typedef float VEC __attribute__((vector_size(LANES * 4), may_alias));
typedef int NAME(mask) __attribute__((vector_size(LANES * 4)));

/* product (TILES, VECTORS * LANES) = tiles (TILES, depth; a row apart) by weights (depth, VECTORS * LANES) */
#define KERNEL(VECTORS, TILES) \
  TARGET static void NAME(product_##VECTORS)(const float *restrict tiles, long row, const float *restrict weights, \
                                             long depth, float *restrict product) { \
    VEC sum[TILES][VECTORS]; \
    for (int i = 0; i < TILES; i++) \
      for (int j = 0; j < VECTORS; j++) sum[i][j] = (VEC){ 0 }; \
    for (long k = 0; k < depth; k++) { \
      VEC w[VECTORS]; \
      for (int j = 0; j < VECTORS; j++) w[j] = LOAD(weights + (k * VECTORS + j) * LANES); \
      for (int i = 0; i < TILES; i++) { \
        VEC x = (VEC){ 0 } + tiles[i * row + k]; \
        for (int j = 0; j < VECTORS; j++) sum[i][j] += x * w[j]; \
      } \
    } \
    for (int i = 0; i < TILES; i++) \
      for (int j = 0; j < VECTORS; j++) STORE(product + (i * VECTORS + j) * LANES, sum[i][j]); \
  }
KERNELS(KERNEL)
#undef KERNEL

#define ENTRY(VECTORS, TILES) { VECTORS, TILES, NAME(product_##VECTORS) },
static const kernel NAME(kernels)[] = { KERNELS(ENTRY) };
#undef ENTRY

/* Rows or columns of B'dB: four values, `step` apart, in their place. */
TARGET static inline void NAME(forward)(VEC *d, int step) {
  VEC a = d[0], b = d[step], c = d[2 * step], e = d[3 * step];
  d[0] = a - c;
  d[step] = b + c;
  d[2 * step] = c - b;
  d[3 * step] = b - e;
}

/* The tiles from..to-1 of the image, transformed: (16, tile, channel). Outside the image are zeros. */
TARGET static void NAME(transform_input)(const winograd *w, const float *source, int from, int to, float *tiles,
                                         long slice) {
  const int across = (w->out_width + 1) / 2;
  const long plane = (long)w->height * w->width * LANES;
  for (int t = from; t < to; t++) {
    const int top = t / across * 2 - w->pad[0], left = t % across * 2 - w->pad[1];
    const bool inside = top >= 0 && left >= 0 && top + 4 <= w->height && left + 4 <= w->width;
    const float *corner = source + ((long)top * w->width + left) * LANES;
    float *to_tile = tiles + (long)(t - from) * w->in;
    for (int c = 0; c < w->in / LANES; c++, corner += plane, to_tile += LANES) {
      VEC d[16];
      for (int i = 0; i < 4; i++)
        for (int j = 0; j < 4; j++) {
          bool there = inside || ((unsigned)(top + i) < (unsigned)w->height
                                  && (unsigned)(left + j) < (unsigned)w->width);
          d[i * 4 + j] = there ? LOAD(corner + ((long)i * w->width + j) * LANES) : (VEC){ 0 };
        }
      for (int j = 0; j < 4; j++) NAME(forward)(d + j, 4);
      for (int i = 0; i < 4; i++) NAME(forward)(d + i * 4, 1);
      for (int i = 0; i < 16; i++) STORE(to_tile + i * slice, d[i]);
    }
  }
}

/* a where which, else b */
TARGET static inline VEC NAME(select)(NAME(mask) which, VEC a, VEC b) {
  return (VEC)((which & (NAME(mask))a) | (~which & (NAME(mask))b));
}

TARGET static inline VEC NAME(activate)(winograd_act act, VEC v) {
  const VEC zero = { 0 }, six = zero + 6;
  if (act != WINOGRAD_NO_ACT) v = NAME(select)(v > zero, v, zero);
  return act == WINOGRAD_RELU6 ? NAME(select)(v < six, v, six) : v;
}

/* One channel block of one tile: A'MA, bias, sum, activation; what lies outside the result is left out. */
TARGET static inline void NAME(finish_tile)(const winograd *w, const float *product, long slice, VEC bias,
                                            float *result, int y, int x) {
  VEC m[16], s[8];
  for (int i = 0; i < 16; i++) m[i] = LOAD(product + i * slice);
  for (int j = 0; j < 4; j++) {
    s[j] = m[j] + m[4 + j] + m[8 + j];
    s[4 + j] = m[4 + j] - m[8 + j] - m[12 + j];
  }
  for (int i = 0; i < 2; i++)
    for (int j = 0; j < 2; j++) {
      if (y + i >= w->out_height || x + j >= w->out_width) continue;
      float *at = result + ((long)(y + i) * w->out_width + x + j) * LANES;
      VEC v = j ? s[4 * i + 1] - s[4 * i + 2] - s[4 * i + 3] : s[4 * i] + s[4 * i + 1] + s[4 * i + 2];
      v += bias;
      if (w->adds) v += LOAD(at);
      STORE(at, NAME(activate)(w->act, v));
    }
}

/* product: (16, tile, vectors * LANES) of the channel blocks from `first` on. */
TARGET static void NAME(transform_output)(const winograd *w, const float *product, long slice, int from, int to,
                                          int first, int vectors, const float *bias, float *result) {
  const int across = (w->out_width + 1) / 2;
  const long plane = (long)w->out_height * w->out_width * LANES;
  for (int j = 0; j < vectors; j++) {
    VEC b = bias ? LOAD(bias + (first + j) * LANES) : (VEC){ 0 };
    for (int t = from; t < to; t++)
      NAME(finish_tile)(w, product + ((long)(t - from) * vectors + j) * LANES, slice, b, result + (first + j) * plane,
                        t / across * 2, t % across * 2);
  }
}

#undef VEC
#undef LOAD
#undef STORE
