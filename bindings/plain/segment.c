/* segment.c: see segment.h. Sums run in scikit-image's order wherever their order changes a result, and the compiler
 * must not fuse multiplications and additions here (CMakeLists.txt), so that every processor gives the same labels.
 * exp is implemented here, so that it can be vectorized. Its error of one unit in the last place has changed no label
 * in the tests. */
#include "segment.h"
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "alloc.h"
#include "rng.h"
#include "vector.h"

static bool asked(segment_stop stop) { return stop && stop(); }

/* ---- color ------------------------------------------------------------------------------------------------- */

/* The last bits of Lab decide ties between links of equal length, and gray images have many. So each step here is
 * correctly rounded (glibc's pow is; cbrt gets a correction), with fused products as in BLAS. */
static double linear(double v) { return v > 0.04045 ? pow((v + 0.055) / 1.055, 2.4) : v / 12.92; }

static double weighted(double r, double g, double b, double wr, double wg, double wb) {
  return fma(b, wb, fma(g, wg, r * wr));
}

static double root(double t) {
  if (!(t > 0.008856))
    return 7.787 * t + 16.0 / 116;
  /* one Newton step from the error of c^3, known to twice the precision */
  const double c = cbrt(t), c2 = c * c, c3 = c2 * c;
  const double rest = (t - c3) - (fma(c2, c, -c3) + fma(c, c, -c2) * c);
  return c + rest / (3 * c2);
}

typedef struct color { double rgb[3], lab[3]; } color;

static void convert(color *c) {
  const double r = linear(c->rgb[0]), g = linear(c->rgb[1]), b = linear(c->rgb[2]);
  const double x = root(weighted(r, g, b, 0.412453, 0.357580, 0.180423) / 0.95047);
  const double y = root(weighted(r, g, b, 0.212671, 0.715160, 0.072169));
  const double z = root(weighted(r, g, b, 0.019334, 0.119193, 0.950227) / 1.08883);
  c->lab[0] = 116 * y - 16;
  c->lab[1] = 500 * (x - y);
  c->lab[2] = 200 * (y - z);
}

static unsigned hash_color(const double rgb[3]) {
  uint64_t bits[3];
  memcpy(bits, rgb, sizeof bits);
  return (unsigned)((bits[0] * 0x9E3779B97F4A7C15u + bits[1] * 0xC2B2AE3D27D4EB4Fu + bits[2] * 0x165667B19E3779F9u)
                    >> 55);
}

/* Pixels first .. last - 1. An 8-bit image has few colors, and pow is slow: each thread caches the last 512. */
static void convert_span(double *lab, const double *rgb, int64_t n, int64_t first, int64_t last, color known[512]) {
  for (int64_t i = first; i < last; i++) {
    const double here[3] = { rgb[i], rgb[n + i], rgb[2 * n + i] };
    color *c = &known[hash_color(here)];
    if (c->rgb[0] != here[0] || c->rgb[1] != here[1] || c->rgb[2] != here[2]) {
      memcpy(c->rgb, here, sizeof here);
      convert(c);
    }
    for (int k = 0; k < 3; k++)
      lab[k * n + i] = c->lab[k];
  }
}

int segment_lab(double *lab, const double *rgb, int64_t n, segment_stop stop) {
  enum { SPAN = 16384 };
#pragma omp parallel for schedule(static)
  for (int64_t first = 0; first < n; first += SPAN) {
    color known[512];
    if (asked(stop))
      continue;
    for (int i = 0; i < 512; i++)
      known[i].rgb[0] = NAN; /* equals no pixel */
    convert_span(lab, rgb, n, first, first + SPAN < n ? first + SPAN : n, known);
  }
  return asked(stop) ? SEGMENT_STOPPED : SEGMENT_OK;
}

/* ---- blur: scipy.ndimage.gaussian_filter, mode "reflect", truncated at 4 sigma ---------------------------------- */

static int reflected(int i, int n) { /* d c b a | a b c d | d c b a */
  const int period = 2 * n;
  i %= period;
  if (i < 0)
    i += period;
  return i < n ? i : period - 1 - i;
}

static void blur_line(double *line, int n, int64_t stride, const double *kernel, int radius, double *padded) {
  for (int i = -radius; i < n + radius; i++)
    padded[i + radius] = line[stride * reflected(i, n)];
  for (int i = 0; i < n; i++) {
    const double *at = padded + i + radius;
    double sum = at[0] * kernel[0];
    for (int k = radius; k > 0; k--) /* the far ends first, as scipy sums a symmetric kernel */
      sum += (at[-k] + at[k]) * kernel[k];
    line[stride * i] = sum;
  }
}

static int blur(double *planes, int h, int w, double sigma, segment_stop stop) {
  if (sigma <= 1e-15)
    return SEGMENT_OK;
  const int radius = (int)(4 * sigma + 0.5);
  double *kernel = mx_malloc((size_t)(radius + 1 + 2 * radius + (h > w ? h : w)) * sizeof *kernel);
  if (!kernel)
    return SEGMENT_NOMEM;
  double *padded = kernel + radius + 1, sum = 0;
  for (int k = -radius; k <= radius; k++)
    sum += kernel[abs(k)] = exp(-0.5 / (sigma * sigma) * (double)(k * k));
  for (int k = 0; k <= radius; k++)
    kernel[k] /= sum;
  for (int p = 0; p < 3; p++) {
    double *plane = planes + (int64_t)p * h * w;
    for (int x = 0; x < w && !asked(stop); x++)
      blur_line(plane + x, h, w, kernel, radius, padded);
    for (int y = 0; y < h && !asked(stop); y++)
      blur_line(plane + (int64_t)y * w, w, 1, kernel, radius, padded);
  }
  mx_free(kernel);
  return asked(stop) ? SEGMENT_STOPPED : SEGMENT_OK;
}

/* A new Lab image, blurred; mx_free frees. */
static int prepare(double **out, const double *image, bool is_lab, int h, int w, double sigma, segment_stop stop) {
  const int64_t n = (int64_t)h * w;
  double *lab = mx_malloc((size_t)n * 3 * sizeof *lab);
  int status = lab ? SEGMENT_OK : SEGMENT_NOMEM;
  if (!status && is_lab)
    memcpy(lab, image, (size_t)n * 3 * sizeof *lab);
  else if (!status)
    status = segment_lab(lab, image, n, stop);
  status = status ? status : blur(lab, h, w, sigma, stop);
  if (status)
    mx_free(lab);
  else
    *out = lab;
  return status;
}

/* ---- quick shift ------------------------------------------------------------------------------------------------ */

/* exp(x), x <= 0, within one unit of the last place; below -700 as at -700, where nothing is left to see.
 * x = k ln 2 + r with |r| <= ln 2 / 2; the polynomial is Taylor's, its first terms summed last. */
static inline __attribute__((always_inline)) double exp_negative(double x) {
  const double shift = 0x1.8p52;
  x = x < -700 ? -700 : x;
  const double shifted = x * 0x1.71547652b82fep0 + shift, k = shifted - shift;
  /* ln 2 in two parts: the first product is exact */
  const double r = (x - k * 0x1.62e42feep-1) - k * 0x1.a39ef35793c76p-33;
  double q = 1 / 6227020800.0;
  q = q * r + 1 / 479001600.0;
  q = q * r + 1 / 39916800.0;
  q = q * r + 1 / 3628800.0;
  q = q * r + 1 / 362880.0;
  q = q * r + 1 / 40320.0;
  q = q * r + 1 / 5040.0;
  q = q * r + 1 / 720.0;
  q = q * r + 1 / 120.0;
  q = q * r + 1 / 24.0;
  q = q * r + 1 / 6.0;
  q = q * r + 0.5;
  const double mantissa = 1 + (r + r * r * q);
  int64_t bits;
  memcpy(&bits, &shifted, sizeof bits);
  bits = (int64_t)((uint64_t)bits << 52) + 0x3ff0000000000000; /* 2^k: k stands in the last bits of shifted */
  double power;
  memcpy(&power, &bits, sizeof power);
  return mantissa * power;
}

typedef struct field {
  const double *lab; /* 3 planes, times ratio */
  double *density;
  int h, w, reach;
  double scale; /* -1 / (2 kernel_size^2) */
  segment_stop stop;
} field;

/* Adds to each of n densities the contribution of the pixel dx to its right and dy below; dy2 = dy^2. */
MX_EVERY_WIDTH static void add_pulls(double *restrict density, const double *l, const double *a, const double *b,
                                     const double *l2, const double *a2, const double *b2, int n, double dy2,
                                     double dx2, double scale) {
#pragma GCC ivdep
  for (int i = 0; i < n; i++) { /* vectorized */
    const double t0 = l[i] - l2[i], t1 = a[i] - a2[i], t2 = b[i] - b2[i];
    const double d2 = t0 * t0 + t1 * t1 + t2 * t2 + dy2 + dx2;
    density[i] += exp_negative(d2 * scale);
  }
}

/* For each pixel of the row the sum over its window runs in raster order, whatever the order of the pixels. */
static void add_row(const field *f, int y) {
  const int64_t n = (int64_t)f->h * f->w, row = (int64_t)y * f->w;
  const int first = y - f->reach < 0 ? 0 : y - f->reach, last = y + f->reach >= f->h ? f->h - 1 : y + f->reach;
  for (int other = first; other <= last && !asked(f->stop); other++)
    for (int dx = -f->reach; dx <= f->reach; dx++) {
      const int from = dx < 0 ? -dx : 0, to = dx > 0 ? f->w - dx : f->w;
      if (from >= to)
        continue;
      const int64_t p = row + from, q = (int64_t)other * f->w + from + dx;
      add_pulls(f->density + p, f->lab + p, f->lab + n + p, f->lab + 2 * n + p, f->lab + q, f->lab + n + q,
                f->lab + 2 * n + q, to - from, (double)(y - other) * (y - other), (double)dx * dx, f->scale);
    }
}

typedef struct offset { int dy, dx, d2; } offset;

/* The window's pixels but its center, nearest first, equals in raster order: sorted by counting. NULL: no memory. */
static offset *window_offsets(int reach, int *count) {
  const int side = 2 * reach + 1, most = 2 * reach * reach;
  offset *list = mx_malloc((size_t)side * side * sizeof *list);
  int *place = mx_calloc((size_t)most + 2, sizeof *place); /* of the next offset at that distance */
  if (list && place) {
    for (int dy = -reach; dy <= reach; dy++)
      for (int dx = -reach; dx <= reach; dx++)
        place[dy * dy + dx * dx + 1] += dy || dx;
    for (int d2 = 0; d2 <= most; d2++)
      place[d2 + 1] += place[d2];
    for (int dy = -reach; dy <= reach; dy++)
      for (int dx = -reach; dx <= reach; dx++)
        if (dy || dx)
          list[place[dy * dy + dx * dx]++] = (offset){ dy, dx, dy * dy + dx * dx };
    *count = side * side - 1;
  } else {
    mx_free(list);
    list = NULL;
  }
  mx_free(place);
  return list;
}

/* The nearest denser pixel in position and color, the first in raster order among equals; the pixel itself if there is
 * none or it is too far. The search goes outwards and ends where the position alone is farther than the best so far. */
static int64_t find_parent(const field *f, const offset *window, int count, int y, int x, double max_dist) {
  const int64_t n = (int64_t)f->h * f->w, p = (int64_t)y * f->w + x;
  const double l = f->lab[p], a = f->lab[n + p], b = f->lab[2 * n + p], density = f->density[p];
  double closest = DBL_MAX;
  int64_t parent = p;
  for (const offset *o = window; o < window + count && o->d2 <= closest; o++) {
    const int other_y = y + o->dy, other_x = x + o->dx;
    if (other_y < 0 || other_y >= f->h || other_x < 0 || other_x >= f->w)
      continue;
    const int64_t q = (int64_t)other_y * f->w + other_x;
    if (!(f->density[q] > density))
      continue;
    const double t0 = l - f->lab[q], t1 = a - f->lab[n + q], t2 = b - f->lab[2 * n + q];
    const double d2 = t0 * t0 + t1 * t1 + t2 * t2 + (double)(o->dy * o->dy) + (double)(o->dx * o->dx);
    if (d2 < closest || (d2 == closest && q < parent)) {
      closest = d2;
      parent = q;
    }
  }
  return sqrt(closest) > max_dist ? p : parent;
}

/* Replaces each pixel's parent by the number of its root; roots are counted in raster order. */
static int64_t number_trees(int64_t *parent, int64_t n, int64_t *number) {
  int64_t count = 0;
  for (int64_t p = 0; p < n; p++)
    if (parent[p] == p)
      number[p] = count++;
  for (int64_t p = 0; p < n; p++) {
    int64_t at = p;
    while (parent[at] != at) {
      parent[at] = parent[parent[at]];
      at = parent[at];
    }
    parent[p] = at;
  }
  for (int64_t p = 0; p < n; p++)
    parent[p] = number[parent[p]];
  return count;
}

static void draw_noise(double *out, int64_t n, const segment_quickshift_options *o) {
  mx_pcg64 g;
  mx_pcg64_seed(&g, o->seed);
  for (int64_t p = 0; p < n; p++)
    out[p] = 0.00001 * (o->noise ? o->noise[p] : mx_pcg64_normal(&g));
}

int segment_quickshift(int64_t *labels, int64_t *count, const double *image, int h, int w,
                       const segment_quickshift_options *o) {
  const int64_t n = (int64_t)h * w;
  const int wide = (int)ceil(3 * o->kernel_size), side = h > w ? h : w, reach = wide < side ? wide : side;
  int offsets = 0;
  double *lab = NULL, *density = mx_malloc((size_t)n * sizeof *density);
  offset *window = window_offsets(reach, &offsets);
  int status = density && window ? prepare(&lab, image, o->is_lab, h, w, o->sigma, o->stop) : SEGMENT_NOMEM;
  if (!status) {
    for (int64_t i = 0; i < 3 * n; i++)
      lab[i] *= o->ratio;
    draw_noise(density, n, o);
    const field f = { lab, density, h, w, reach, -0.5 / (o->kernel_size * o->kernel_size), o->stop };
#pragma omp parallel for schedule(dynamic, 4)
    for (int y = 0; y < h; y++)
      add_row(&f, y);
#pragma omp parallel for schedule(dynamic, 4)
    for (int y = 0; y < h; y++)
      for (int x = 0; x < w && !asked(o->stop); x++)
        labels[(int64_t)y * w + x] = find_parent(&f, window, offsets, y, x, o->max_dist);
    status = asked(o->stop) ? SEGMENT_STOPPED : SEGMENT_OK;
  }
  if (!status)
    /* the densities are not needed any more: their memory is reused */
    *count = number_trees(labels, n, (int64_t *)density);
  mx_free(lab);
  mx_free(density);
  mx_free(window);
  return status;
}

/* ---- SLIC ----------------------------------------------------------------------------------------------------- */

typedef struct axis { int64_t start, step; } axis;

/* numpy's round: halves to even, as rint in the default mode. */
static axis axis_of(double step) { return (axis){ (int64_t)floor(step / 2), (int64_t)rint(step) }; }

/* scikit-image's regular grid of about n points over 1 x h x w: the cube root first, and where the depth (1) or a side
 * is shorter than that step, it is taken whole and the step is computed anew for the others. */
static void regular_grid(axis *rows, axis *columns, int h, int w, double n) {
  const double space = (double)h * w, shorter = h <= w ? h : w, longer = h <= w ? w : h;
  *rows = *columns = (axis){ 0, 1 };
  if (space <= n)
    return;
  double near = pow(space / n, 1.0 / 3), far = near;
  if (1 < near) {
    near = far = pow(space / n, 1.0 / 2);
    if (shorter < near || longer < far) {
      near = shorter;
      far = longer / n;
    }
  }
  *rows = axis_of(h <= w ? near : far);
  *columns = axis_of(h <= w ? far : near);
}

typedef struct seed {
  double y, x, l, a, b;
  int64_t pixels;
} seed;

typedef struct slic {
  const double *lab; /* 3 planes, over compactness */
  int64_t *labels;
  int h, w;
  seed *seeds;
  int64_t count, step_y, step_x; /* the windows reach 2 steps */
  double weight;                 /* of squared distance in the image */
} slic;

/* Assigns to seed `number` those of a row's n pixels that are strictly nearer to it than to their present seed. */
MX_EVERY_WIDTH static void claim(double *restrict best, int64_t *restrict labels, const double *l, const double *a,
                                 const double *b, int n, double first, const seed *s, double dy2, double weight,
                                 int64_t number) {
  const double x = s->x, sl = s->l, sa = s->a, sb = s->b;
#pragma GCC ivdep
  for (int i = 0; i < n; i++) { /* vectorized */
    const double dx = x - (first + i), t0 = l[i] - sl, t1 = a[i] - sa, t2 = b[i] - sb;
    const double d2 = (dy2 + dx * dx) * weight + (t0 * t0 + t1 * t1 + t2 * t2);
    const double least = best[i] > d2 ? d2 : best[i], change = least - best[i];
    uint64_t nearer; /* all ones or 0, from the sign: without AVX-512, GCC vectorizes no choice between integers */
    memcpy(&nearer, &change, sizeof nearer);
    nearer = 0 - (nearer >> 63);
    labels[i] = (int64_t)(((uint64_t)number & nearer) | ((uint64_t)labels[i] & ~nearer));
    best[i] = least;
  }
}

static int64_t clamped(double v, int64_t most) { return v <= 0 ? 0 : v >= (double)most ? most : (int64_t)v; }

/* Assigns one row's pixels to the nearest seed whose window contains them, the first among equals. An empty seed (NaN)
 * has no window. */
static void assign_row(const slic *s, int y, double *best) {
  const int64_t n = (int64_t)s->h * s->w, row = (int64_t)y * s->w;
  for (int x = 0; x < s->w; x++)
    best[x] = DBL_MAX;
  for (int64_t k = 0; k < s->count; k++) {
    const seed *c = &s->seeds[k];
    if (c->y != c->y || y < clamped(c->y - 2 * s->step_y, s->h) || y >= clamped(c->y + 2 * s->step_y + 1, s->h))
      continue;
    const int64_t from = clamped(c->x - 2 * s->step_x, s->w), to = clamped(c->x + 2 * s->step_x + 1, s->w),
                  p = row + from;
    const double dy = c->y - y;
    if (from < to)
      claim(best + from, s->labels + p, s->lab + p, s->lab + n + p, s->lab + 2 * n + p, (int)(to - from), (double)from,
            c, dy * dy, s->weight, k);
  }
}

/* Seeds become the means of their pixels, summed in raster order; one without pixels becomes NaN. */
static void move_seeds(const slic *s) {
  const int64_t n = (int64_t)s->h * s->w;
  memset(s->seeds, 0, (size_t)s->count * sizeof *s->seeds);
  for (int64_t p = 0, y = 0; y < s->h; y++)
    for (int64_t x = 0; x < s->w; x++, p++) {
      if (s->labels[p] < 0)
        continue;
      seed *c = &s->seeds[s->labels[p]];
      c->pixels++;
      c->y += (double)y;
      c->x += (double)x;
      c->l += s->lab[p];
      c->a += s->lab[n + p];
      c->b += s->lab[2 * n + p];
    }
  for (int64_t k = 0; k < s->count; k++) {
    seed *c = &s->seeds[k];
    const double m = c->pixels ? (double)c->pixels : NAN;
    c->y /= m, c->x /= m, c->l /= m, c->a /= m, c->b /= m;
  }
}

/* Splits labels into 4-connected pieces of at most max_size pixels, found in raster order by breadth-first search; a
 * piece smaller than min_size takes the number of the last numbered neighbor that the search met. Pixels that no seed
 * took stay -1. queue: room for max_size pixels and one more. Returns the largest number + 1. */
static int64_t connect(int64_t *out, const int64_t *labels, int h, int w, int64_t min_size, int64_t max_size,
                       int64_t *queue) {
  const int64_t n = (int64_t)h * w;
  int64_t next = 0, count = 0;
  for (int64_t p = 0; p < n; p++)
    out[p] = -1;
  for (int64_t start = 0; start < n; start++) {
    if (labels[start] < 0 || out[start] >= 0)
      continue;
    int64_t size = 1, visited = 0, adjacent = next;
    const int64_t label = labels[start];
    out[start] = next;
    queue[0] = start;
    while (visited < size && size < max_size) {
      const int64_t at = queue[visited++], x = at % w, y = at / w;
      const bool inside[4] = { x + 1 < w, x > 0, y + 1 < h, y > 0 };
      const int64_t neighbour[4] = { at + 1, at - 1, at + w, at - w };
      for (int i = 0; i < 4; i++) {
        if (!inside[i])
          continue;
        const int64_t q = neighbour[i];
        if (labels[q] == label && out[q] < 0) {
          out[q] = next;
          queue[size++] = q;
          if (size >= max_size)
            break;
        } else if (out[q] >= 0 && out[q] != next) {
          adjacent = out[q];
        }
      }
    }
    if (size < min_size)
      for (int64_t i = 0; i < size; i++)
        out[queue[i]] = adjacent;
    else
      next++;
  }
  for (int64_t p = 0; p < n; p++) /* the last pieces may have been small and without a neighbor: then next was used */
    count = out[p] >= count ? out[p] + 1 : count;
  return count;
}

/* Moves all values to [0, 1], as scikit-image does before the colors are converted. */
static void stretch(double *v, int64_t n) {
  double low = v[0], high = v[0];
  for (int64_t i = 1; i < n; i++) {
    low = v[i] < low ? v[i] : low;
    high = v[i] > high ? v[i] : high;
  }
  const double range = high - low;
  for (int64_t i = 0; i < n; i++)
    v[i] = range != 0 ? (v[i] - low) / range : v[i] - low;
}

static int place_seeds(slic *s, int64_t n_segments, double *step) {
  axis rows, columns;
  regular_grid(&rows, &columns, s->h, s->w, (double)n_segments);
  *step = (double)(rows.step > columns.step ? rows.step : columns.step);
  const int64_t across = (s->w - columns.start + columns.step - 1) / columns.step,
                down = (s->h - rows.start + rows.step - 1) / rows.step;
  s->count = across * down;
  s->seeds = mx_calloc((size_t)s->count, sizeof *s->seeds);
  if (!s->seeds)
    return SEGMENT_NOMEM;
  for (int64_t k = 0; k < s->count; k++)
    s->seeds[k] = (seed){ .y = (double)(rows.start + k / across * rows.step),
                          .x = (double)(columns.start + k % across * columns.step) };
  regular_grid(&rows, &columns, s->h, s->w, (double)s->count); /* the windows follow the number that there really is */
  s->step_y = rows.step;
  s->step_x = columns.step;
  return SEGMENT_OK;
}

static int run_slic(slic *s, int iterations, segment_stop stop) {
  double *best = mx_malloc((size_t)s->h * s->w * sizeof *best);
  if (!best)
    return SEGMENT_NOMEM;
  for (int64_t p = 0; p < (int64_t)s->h * s->w; p++)
    s->labels[p] = -1;
  for (int pass = 0; pass < iterations && !asked(stop); pass++) {
#pragma omp parallel for schedule(static)
    for (int y = 0; y < s->h; y++)
      if (!asked(stop))
        assign_row(s, y, best + (int64_t)y * s->w);
    if (pass + 1 < iterations)
      move_seeds(s);
  }
  mx_free(best);
  return asked(stop) ? SEGMENT_STOPPED : SEGMENT_OK;
}

static int enforce_connection(slic *s, const segment_slic_options *o, int64_t *count) {
  const int64_t n = (int64_t)s->h * s->w;
  const double size = (double)n / (double)s->count;
  const int64_t min_size = (int64_t)(o->min_size * size), most = (int64_t)(o->max_size * size),
                max_size = most < n ? most : n;
  int64_t *out = mx_malloc((size_t)n * sizeof *out), *queue = mx_malloc((size_t)(max_size + 1) * sizeof *queue);
  if (out && queue) {
    *count = connect(out, s->labels, s->h, s->w, min_size, max_size, queue);
    memcpy(s->labels, out, (size_t)n * sizeof *out);
  }
  const bool done = out && queue;
  mx_free(out);
  mx_free(queue);
  return done ? SEGMENT_OK : SEGMENT_NOMEM;
}

int segment_slic(int64_t *labels, int64_t *count, const double *image, int h, int w, const segment_slic_options *o) {
  const int64_t n = (int64_t)h * w;
  slic s = { .labels = labels, .h = h, .w = w };
  double step = 1;
  double *stretched = mx_malloc((size_t)n * 3 * sizeof *stretched), *lab = NULL;
  int status = stretched ? place_seeds(&s, o->n_segments, &step) : SEGMENT_NOMEM;
  if (!status) {
    memcpy(stretched, image, (size_t)n * 3 * sizeof *stretched);
    stretch(stretched, 3 * n);
    status = prepare(&lab, stretched, o->is_lab, h, w, o->sigma, o->stop);
  }
  mx_free(stretched);
  if (!status) {
    const double ratio = 1.0 / o->compactness;
    for (int64_t i = 0; i < 3 * n; i++)
      lab[i] *= ratio;
    s.lab = lab;
    s.weight = 1.0 / (step * step);
    status = run_slic(&s, o->iterations, o->stop);
  }
  *count = s.count;
  if (!status && o->connected)
    status = enforce_connection(&s, o, count);
  mx_free(lab);
  mx_free(s.seeds);
  return status;
}

/* ---- boundaries ------------------------------------------------------------------------------------------------- */

static int64_t at_edge(const int64_t *labels, int h, int w, int y, int x) { /* edges are repeated outwards */
  y = y < 0 ? 0 : y >= h ? h - 1 : y;
  x = x < 0 ? 0 : x >= w ? w - 1 : x;
  return labels[(int64_t)y * w + x];
}

/* Whether the 3 x 3 window contains a foreground label other than the largest of all labels or, if wrapped, a column of
 * background. */
static bool touches_other(const int64_t *labels, int h, int w, int y, int x, int64_t background, bool wrapped) {
  int64_t largest = INT64_MIN, least = INT64_MAX;
  for (int dx = -1; dx <= 1; dx++) {
    bool foreground = false;
    for (int dy = -1; dy <= 1; dy++) {
      const int64_t v = at_edge(labels, h, w, y + dy, x + dx);
      largest = v > largest ? v : largest;
      if (v == background)
        continue;
      foreground = true;
      least = v < least ? v : least;
    }
    if (wrapped && !foreground)
      return true;
  }
  return largest != least;
}

void segment_boundaries(uint8_t *marked, const int64_t *labels, int h, int w, int64_t background, bool wrapped) {
  for (int y = 0; y < h; y++)
    for (int x = 0; x < w; x++) {
      const int64_t p = (int64_t)y * w + x, v = labels[p];
      const bool edge = v != at_edge(labels, h, w, y - 1, x) || v != at_edge(labels, h, w, y + 1, x)
                        || v != at_edge(labels, h, w, y, x - 1) || v != at_edge(labels, h, w, y, x + 1);
      marked[p] = edge && (v == background || touches_other(labels, h, w, y, x, background, wrapped));
    }
}
