/* impute.c: see impute.h. The system is a graph Laplacian on the removed pixels: symmetric, positive definite as soon
 * as one pixel is kept, with a 9-point stencil. Its multigrid hierarchy is built from its own coefficients, so that it
 * follows any mask: interpolation after Dendy (Black box multigrid, J. Comput. Phys. 48, 1982), coarse systems by
 * Galerkin's product, which keeps nine points. The preconditioner is one cycle with a symmetric Gauss-Seidel sweep
 * before and after; about ten steps of conjugate gradients are enough. */
#include <math.h>
#include <string.h>
#include "alloc.h"
#include "impute.h"
#include "vector.h"

/* One grid. Arrays have a border of zeros (stride = columns + 2), so that neighbors need no bounds check.
 * e, s, se, sw: coupling (the negated coefficient) with that neighbor; the west and north ones are stored there.
 * Where there is no unknown (kept) centre and couplings are 0. */
typedef struct level {
  int rows, columns, stride;
  double *centre, *inverse;     /* diagonal, and 1 / diagonal (0 where there is no unknown) */
  double *e, *s, *se, *sw;
  double *x, *b, *r;
  double *p[4];                 /* of a fine point: weights of the next grid's points (i/2 + a, j/2 + b), k = 2a + b */
} level;

enum { LEVEL_ARRAYS = 13, MOST_LEVELS = 32, MOST_STEPS = 500 };

static size_t level_size(int rows, int columns) { return (size_t)(rows + 2) * (size_t)(columns + 2); }

static void level_take(level *l, int rows, int columns, double **arena) {
  double **const arrays[LEVEL_ARRAYS] = { &l->centre, &l->inverse, &l->e,    &l->s,    &l->se,   &l->sw,  &l->x,
                                          &l->b,      &l->r,       &l->p[0], &l->p[1], &l->p[2], &l->p[3] };
  l->rows = rows;
  l->columns = columns;
  l->stride = columns + 2;
  for (int k = 0; k < LEVEL_ARRAYS; k++) {
    *arrays[k] = *arena;
    *arena += level_size(rows, columns);
  }
}

/* Index of (row, column) in a bordered array. */
static inline size_t at(const level *l, int i, int j) { return (size_t)(i + 1) * (size_t)l->stride + (size_t)(j + 1); }

/* ---- the hierarchy ------------------------------------------------------------------------------------------ */

static const double SIDE = 1.0 / 6, CORNER = 1.0 / 12;

/* The finest system. A neighbor outside the image has no part in it; a kept one only in the diagonal. */
static void build_finest(level *l, const uint8_t *keep) {
  for (int i = 0; i < l->rows; i++)
    for (int j = 0; j < l->columns; j++) {
      const uint8_t *here = keep + (size_t)i * (size_t)l->columns + j;
      if (*here)
        continue;
      const size_t k = at(l, i, j);
      const bool down = i + 1 < l->rows, right = j + 1 < l->columns, left = j > 0;
      const int lines = (i > 0) + down, sides = left + right;
      l->centre[k] = SIDE * (lines + sides) + CORNER * (lines * sides);
      l->inverse[k] = l->centre[k] > 0 ? 1 / l->centre[k] : 0; /* an image of one pixel has no neighbors */
      if (right && !here[1])
        l->e[k] = SIDE;
      if (down && !here[l->columns])
        l->s[k] = SIDE;
      if (down && right && !here[l->columns + 1])
        l->se[k] = CORNER;
      if (down && left && !here[l->columns - 1])
        l->sw[k] = CORNER;
    }
}

static double ratio(double a, double b) { return b > 1e-14 ? a / b : 0; }

/* Points between two coarse ones in a row or column: the stencil is summed across the line. Points between four: by
 * their own equation, after their neighbors have been interpolated. */
static void build_interpolation(level *l) {
  const size_t w = (size_t)l->stride;
  double *const *p = l->p;
  for (int i = 0; i < l->rows; i += 2)
    for (int j = 0; j < l->columns; j++) {
      const size_t k = at(l, i, j);
      if (l->inverse[k] == 0)
        continue;
      if (j % 2 == 0) {
        p[0][k] = 1;
        continue;
      }
      const double rest = l->centre[k] - l->s[k] - l->s[k - w];
      p[0][k] = ratio(l->e[k - 1] + l->se[k - w - 1] + l->sw[k], rest);
      p[1][k] = ratio(l->e[k] + l->sw[k - w + 1] + l->se[k], rest);
    }
  for (int i = 1; i < l->rows; i += 2)
    for (int j = 0; j < l->columns; j += 2) {
      const size_t k = at(l, i, j);
      if (l->inverse[k] == 0)
        continue;
      const double rest = l->centre[k] - l->e[k] - l->e[k - 1];
      p[0][k] = ratio(l->s[k - w] + l->se[k - w - 1] + l->sw[k - w + 1], rest);
      p[2][k] = ratio(l->s[k] + l->se[k] + l->sw[k], rest);
    }
  for (int i = 1; i < l->rows; i += 2)
    for (int j = 1; j < l->columns; j += 2) {
      const size_t k = at(l, i, j);
      const double d = l->inverse[k];
      if (d == 0)
        continue;
      const double north = l->s[k - w], south = l->s[k], west = l->e[k - 1], east = l->e[k];
      p[0][k] = d * (l->se[k - w - 1] + north * p[0][k - w] + west * p[0][k - 1]);
      p[1][k] = d * (l->sw[k - w + 1] + north * p[1][k - w] + east * p[0][k + 1]);
      p[2][k] = d * (l->sw[k] + south * p[0][k + w] + west * p[2][k - 1]);
      p[3][k] = d * (l->se[k] + south * p[1][k + w] + east * p[2][k + 1]);
    }
}

/* The coarse points that a fine point is interpolated from: k of p[k], by the parities of its row and column. */
static const struct {
  int n, k[4];
} parents[4] = { { 1, { 0 } }, { 2, { 0, 1 } }, { 2, { 0, 2 } }, { 4, { 0, 1, 2, 3 } } };

static int parity(int i, int j) { return 2 * (i % 2) + j % 2; }

/* Adds a number to the coarse coefficient between cells I and J = I + (y, x). The matrix is symmetric, so only one half
 * of it is stored. */
static void add_coefficient(level *c, size_t I, size_t J, int y, int x, double v) {
  if (y < 0 || (y == 0 && x < 0)) {
    I = J;
    y = -y;
    x = -x;
  }
  if (y == 0)
    x == 0 ? (c->centre[I] += 2 * v) : (c->e[I] -= v);
  else
    (x == 0 ? c->s : x == 1 ? c->se : c->sw)[I] -= v;
}

/* Adds the contribution of the fine coefficient between two points f and g. */
static void add_pair(level *c, const level *l, int i, int j, int down, int right, double coefficient) {
  const size_t f = at(l, i, j), g = at(l, i + down, j + right), from = at(c, i / 2, j / 2),
               to = at(c, (i + down) / 2, (j + right) / 2);
  const int pf = parity(i, j), pg = parity(i + down, j + right), di = (i + down) / 2 - i / 2,
            dj = (j + right) / 2 - j / 2;
  for (int a = 0; a < parents[pf].n; a++) {
    const int ka = parents[pf].k[a];
    const double left = l->p[ka][f] * coefficient;
    const size_t I = from + (size_t)(ka / 2) * (size_t)c->stride + (size_t)(ka % 2);
    for (int b = 0; b < parents[pg].n; b++) {
      const int kb = parents[pg].k[b];
      const size_t J = to + (size_t)(kb / 2) * (size_t)c->stride + (size_t)(kb % 2);
      add_coefficient(c, I, J, di + kb / 2 - ka / 2, dj + kb % 2 - ka % 2, left * l->p[kb][g]);
    }
  }
}

/* Adds the contribution of a diagonal coefficient: every pair of parents once, and each with itself. */
static void add_diagonal(level *c, const level *l, int i, int j) {
  const size_t f = at(l, i, j), from = at(c, i / 2, j / 2);
  const int pf = parity(i, j);
  for (int a = 0; a < parents[pf].n; a++)
    for (int b = a; b < parents[pf].n; b++) {
      const int ka = parents[pf].k[a], kb = parents[pf].k[b];
      const size_t I = from + (size_t)(ka / 2) * (size_t)c->stride + (size_t)(ka % 2);
      const size_t J = from + (size_t)(kb / 2) * (size_t)c->stride + (size_t)(kb % 2);
      const double v = l->p[ka][f] * l->centre[f] * l->p[kb][f];
      add_coefficient(c, I, J, kb / 2 - ka / 2, kb % 2 - ka % 2, a == b ? v / 2 : v);
    }
}

/* Galerkin's product: coarse = P' fine P. */
static void build_coarse(level *c, const level *l) {
  for (int i = 0; i < l->rows; i++)
    for (int j = 0; j < l->columns; j++) {
      const size_t k = at(l, i, j);
      if (l->inverse[k] == 0)
        continue;
      add_diagonal(c, l, i, j);
      if (l->e[k] != 0) add_pair(c, l, i, j, 0, 1, -l->e[k]);
      if (l->s[k] != 0) add_pair(c, l, i, j, 1, 0, -l->s[k]);
      if (l->se[k] != 0) add_pair(c, l, i, j, 1, 1, -l->se[k]);
      if (l->sw[k] != 0) add_pair(c, l, i, j, 1, -1, -l->sw[k]);
    }
  for (size_t k = 0; k < level_size(c->rows, c->columns); k++)
    c->inverse[k] = c->centre[k] > 1e-14 ? 1 / c->centre[k] : 0;
}

static int count_levels(int rows, int columns, size_t *numbers) {
  int n = 1;
  *numbers = level_size(rows, columns);
  for (; rows > 1 || columns > 1; n++) {
    rows = (rows + 1) / 2;
    columns = (columns + 1) / 2;
    *numbers += level_size(rows, columns);
  }
  *numbers *= LEVEL_ARRAYS;
  return n;
}

/* arena: zeroed memory for all levels. */
static void build(level *levels, int n, int rows, int columns, const uint8_t *keep, double **arena) {
  for (int k = 0; k < n; k++) {
    level_take(&levels[k], rows, columns, arena);
    rows = (rows + 1) / 2;
    columns = (columns + 1) / 2;
  }
  build_finest(&levels[0], keep);
  for (int k = 0; k + 1 < n; k++) {
    build_interpolation(&levels[k]);
    build_coarse(&levels[k + 1], &levels[k]);
  }
}

/* ---- one cycle ---------------------------------------------------------------------------------------------- */

/* out[j]: coupling times v, summed over the six neighbors of (i, j) in the rows above and below. */
MX_EVERY_WIDTH static void add_lines(const level *l, const double *v, int i, double *restrict out) {
  const size_t w = (size_t)l->stride, k = at(l, i, 0);
  const double *s = l->s + k, *se = l->se + k, *sw = l->sw + k, *n = s - w, *nw = se - w - 1, *ne = sw - w + 1,
               *up = v + k - w, *down = v + k + w;
  const int columns = l->columns;
  for (int j = 0; j < columns; j++) /* vectorized */
    out[j] =
      s[j] * down[j] + se[j] * down[j + 1] + sw[j] * down[j - 1] + n[j] * up[j] + nw[j] * up[j - 1] + ne[j] * up[j + 1];
}

/* Every second point of a row; `lines` holds the sums over the rows above and below. */
static void relax_row(const level *l, int i, int first, const double *lines) {
  const size_t k = at(l, i, 0);
  const double *inverse = l->inverse + k, *b = l->b + k, *e = l->e + k;
  double *x = l->x + k;
  for (int j = first; j < l->columns; j += 2)
    x[j] = inverse[j] * (b[j] + lines[j] + e[j] * x[j + 1] + e[j - 1] * x[j - 1]);
}

/* Gauss-Seidel in four colours, and in the reverse order: together they are symmetric. */
static void relax(const level *l, bool reverse) {
  for (int half = 0; half < 2; half++)
    for (int i = half ^ reverse; i < l->rows; i += 2) {
      double *lines = l->r + at(l, i, 0); /* not yet in use for this row */
      add_lines(l, l->x, i, lines);
      relax_row(l, i, reverse, lines);
      relax_row(l, i, !reverse, lines);
    }
}

MX_EVERY_WIDTH static void apply(const level *l, const double *v, double *restrict out) {
  const int rows = l->rows, columns = l->columns;
  for (int i = 0; i < rows; i++) {
    const size_t k = at(l, i, 0);
    const double *centre = l->centre + k, *e = l->e + k, *here = v + k;
    double *restrict to = out + k;
    add_lines(l, v, i, to);
    for (int j = 0; j < columns; j++) /* vectorized */
      to[j] = centre[j] * here[j] - e[j] * here[j + 1] - e[j - 1] * here[j - 1] - to[j];
  }
}

/* An even point of a row has one coarse point in its line, an odd one two; odd rows lie between two lines. */
static void restrict_residual(const level *l, const level *c) {
  memset(c->b, 0, level_size(c->rows, c->columns) * sizeof *c->b);
  for (int i = 0; i < l->rows; i++) {
    const size_t k = at(l, i, 0);
    const double *b = l->b + k, *r = l->r + k, *p0 = l->p[0] + k, *p1 = l->p[1] + k, *p2 = l->p[2] + k,
                 *p3 = l->p[3] + k;
    double *line = c->b + at(c, i / 2, 0), *next = line + c->stride;
    for (int j = 0; j < l->columns; j++) {
      const double v = b[j] - r[j];
      line[j / 2] += p0[j] * v;
      if (j % 2)
        line[j / 2 + 1] += p1[j] * v;
      if (i % 2)
        next[j / 2] += p2[j] * v;
      if (i % 2 && j % 2)
        next[j / 2 + 1] += p3[j] * v;
    }
  }
}

static void prolongate(const level *l, const level *c) {
  for (int i = 0; i < l->rows; i++) {
    const size_t k = at(l, i, 0);
    const double *p0 = l->p[0] + k, *p1 = l->p[1] + k, *p2 = l->p[2] + k, *p3 = l->p[3] + k,
                 *line = c->x + at(c, i / 2, 0), *next = line + c->stride;
    double *x = l->x + k;
    for (int j = 0; j < l->columns; j++) {
      double v = p0[j] * line[j / 2];
      if (j % 2)
        v += p1[j] * line[j / 2 + 1];
      if (i % 2)
        v += p2[j] * next[j / 2];
      if (i % 2 && j % 2)
        v += p3[j] * next[j / 2 + 1];
      x[j] += v;
    }
  }
}

/* One multigrid cycle: levels[0].x = approximate solution for levels[0].b */
static void cycle(const level *levels, int n) {
  for (int k = 0; k < n; k++) {
    const level *l = &levels[k];
    memset(l->x, 0, level_size(l->rows, l->columns) * sizeof *l->x);
    relax(l, false);
    if (k + 1 == n)
      break;
    apply(l, l->x, l->r);
    restrict_residual(l, &levels[k + 1]);
  }
  for (int k = n - 2; k >= 0; k--) {
    prolongate(&levels[k], &levels[k + 1]);
    relax(&levels[k], true);
  }
}

/* ---- conjugate gradients ------------------------------------------------------------------------------------ */

static double dot(const double *a, const double *b, size_t n) {
  double sum = 0;
  for (size_t k = 0; k < n; k++)
    sum += a[k] * b[k];
  return sum;
}

static double largest(const double *a, size_t n) {
  double top = 0;
  for (size_t k = 0; k < n; k++)
    top = fabs(a[k]) > top ? fabs(a[k]) : top;
  return top;
}

/* Solves for x, starting at 0; levels[0].b holds the right side and is overwritten. The cycle's solution for the
 * residual is a close estimate of the error: steps continue until its largest value is below `within`, and it is added
 * at the end. d, q: memory for one array each. NaN ends it at once. */
static int solve(const level *levels, int n, double *x, double *d, double *q, double within, bool (*stop)(void)) {
  const level *l = &levels[0];
  const size_t size = level_size(l->rows, l->columns);
  double before = 0;
  int step = 0;
  for (;; step++) {
    cycle(levels, n);
    if (!(largest(l->x, size) > within) || step == MOST_STEPS || (stop && stop()))
      break;
    const double now = dot(l->b, l->x, size), beta = step ? now / before : 0;
    for (size_t k = 0; k < size; k++)
      d[k] = l->x[k] + beta * d[k];
    apply(l, d, q);
    const double alpha = now / dot(d, q, size);
    for (size_t k = 0; k < size; k++) {
      x[k] += alpha * d[k];
      l->b[k] -= alpha * q[k];
    }
    before = now;
  }
  for (size_t k = 0; k < size; k++)
    x[k] += l->x[k];
  return step;
}

/* Mean of what is kept, and the largest distance from it. */
static double mean_of(const uint8_t *keep, const double *v, size_t n, double *span) {
  double sum = 0, count = 0;
  for (size_t k = 0; k < n; k++)
    if (keep[k]) {
      sum += v[k];
      count++;
    }
  const double mean = count > 0 ? sum / count : 0;
  *span = 0;
  for (size_t k = 0; k < n; k++)
    if (keep[k] && fabs(v[k] - mean) > *span)
      *span = fabs(v[k] - mean);
  return mean;
}

/* The right side: couplings with kept neighbors, whose values are taken relative to the mean (a constant image is then
 * solved exactly). */
static void right_side(const level *l, const uint8_t *keep, const double *v, double mean) {
  memset(l->b, 0, level_size(l->rows, l->columns) * sizeof *l->b);
  for (int i = 0; i < l->rows; i++)
    for (int j = 0; j < l->columns; j++) {
      if (keep[(size_t)i * (size_t)l->columns + j])
        continue;
      double sum = 0;
      for (int y = i > 0 ? i - 1 : 0; y <= i + 1 && y < l->rows; y++)
        for (int x = j > 0 ? j - 1 : 0; x <= j + 1 && x < l->columns; x++) {
          const size_t other = (size_t)y * (size_t)l->columns + x;
          if (keep[other])
            sum += (y == i || x == j ? SIDE : CORNER) * (v[other] - mean);
        }
      l->b[at(l, i, j)] = sum;
    }
}

static int impute_plane(const level *levels, int n, const uint8_t *keep, double *v, double *room, bool (*stop)(void)) {
  const level *l = &levels[0];
  const size_t size = level_size(l->rows, l->columns), pixels = (size_t)l->rows * (size_t)l->columns;
  double span, mean = mean_of(keep, v, pixels, &span);
  double *x = room, *d = room + size, *q = room + 2 * size;
  memset(room, 0, 3 * size * sizeof *room);
  right_side(l, keep, v, mean);
  const int steps = solve(levels, n, x, d, q, 1e-10 * span, stop);
  for (int i = 0; i < l->rows; i++)
    for (int j = 0; j < l->columns; j++) {
      const size_t k = (size_t)i * (size_t)l->columns + j;
      if (!keep[k])
        v[k] = mean + x[at(l, i, j)];
    }
  return steps;
}

static bool impute(int rows, int columns, const uint8_t *keep, double *const *planes, int count, int *iterations,
                   bool (*stop)(void)) {
  const size_t pixels = (size_t)rows * (size_t)columns;
  size_t kept = 0, numbers;
  if (iterations)
    *iterations = 0;
  for (size_t k = 0; k < pixels; k++)
    kept += keep[k] != 0;
  if (kept == pixels)
    return true;
  if (kept == 0) {
    for (int k = 0; k < count; k++)
      memset(planes[k], 0, pixels * sizeof **planes);
    return true;
  }
  level levels[MOST_LEVELS];
  const int n = count_levels(rows, columns, &numbers);
  const size_t room = 3 * level_size(rows, columns);
  double *memory = mx_calloc(numbers + room, sizeof *memory), *arena = memory;
  if (!memory)
    return false;
  build(levels, n, rows, columns, keep, &arena);
  /* equal planes are found before the first one is changed */
  int same_as[64];
  for (int k = 0; k < count && k < 64; k++) {
    same_as[k] = k;
    for (int m = 0; m < k && same_as[k] == k; m++)
      if (!memcmp(planes[m], planes[k], pixels * sizeof **planes))
        same_as[k] = m;
  }
  for (int k = 0; k < count; k++) {
    if (k < 64 && same_as[k] != k) {
      memcpy(planes[k], planes[same_as[k]], pixels * sizeof **planes);
      continue;
    }
    const int steps = impute_plane(levels, n, keep, planes[k], arena, stop);
    if (iterations && steps > *iterations)
      *iterations = steps;
  }
  mx_free(memory);
  return true;
}

bool mx_impute(int rows, int columns, const uint8_t *keep, double *const *planes, int count, int *iterations) {
  return impute(rows, columns, keep, planes, count, iterations, NULL);
}

bool mx_impute_all(int n, int channels, int rows, int columns, const uint8_t *keep, double *x, int threads,
                   bool (*stop)(void)) {
  const size_t pixels = (size_t)rows * (size_t)columns;
  bool enough = true;
#pragma omp parallel for schedule(dynamic) num_threads(threads)
  for (int i = 0; i < n; i++) {
    double *planes[64];
    if (stop && stop())
      continue;
    for (int k = 0; k < channels; k++)
      planes[k] = x + ((size_t)i * (size_t)channels + (size_t)k) * pixels;
    if (!impute(rows, columns, keep + (size_t)i * pixels, planes, channels, NULL, stop)) {
#pragma omp atomic write
      enough = false;
    }
  }
  return enough;
}
