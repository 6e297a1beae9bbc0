/* The linear imputer against a dense solve, over masks of every kind; steps stay few on large images; threads and
 * failed allocations change nothing. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "alloc.h"
#include "impute.h"

enum { KINDS = 10, MOST = 40 * 40 };

static double formula(int i, int j, int k) {
  return 0.5 + 0.3 * sin(0.31 * i + k) * cos(0.17 * j) + 0.1 * sin(1.7 * i * j + k);
}

static uint8_t kept(int kind, int rows, int columns, int i, int j) {
  const double r = hypot(i - 0.4 * rows, j - 0.6 * columns), side = fmin(rows, columns);
  switch (kind) {
    case 0: return r < 0.28 * side;
    case 1: return r > 0.28 * side;
    case 2: return i == rows / 2 && j == columns / 3; /* one pixel */
    case 3: return (i * 7 + j * 13 + i * j) % 20 == 0;
    case 4: return (i * 5 + j * 3 + i * j) % 4 == 0;
    case 5: return (i + j) % 2 == 0; /* only corner neighbours are removed */
    case 6: return i % 5 == 0;
    case 7: return i == 0;
    case 8: return ((i / 3 + j / 3) % 2) && (i * j) % 3;
    default: return j < columns / 2;
  }
}

/* Gauss' elimination of the whole system, in place; NULL-safe sizes only. */
static void dense(int rows, int columns, const uint8_t *keep, const double *v, double *out) {
  static int number[MOST];
  int n = 0;
  for (int k = 0; k < rows * columns; k++) {
    number[k] = keep[k] ? -1 : n++;
    out[k] = v[k];
  }
  double *a = calloc((size_t)n * (size_t)(n + 1), sizeof *a);
  for (int i = 0; i < rows; i++)
    for (int j = 0; j < columns; j++) {
      const int me = number[i * columns + j];
      if (me < 0)
        continue;
      double *row = a + (size_t)me * (size_t)(n + 1);
      for (int y = i - 1; y <= i + 1; y++)
        for (int x = j - 1; x <= j + 1; x++) {
          if (y < 0 || x < 0 || y >= rows || x >= columns || (y == i && x == j))
            continue;
          const double w = y == i || x == j ? 1.0 / 6 : 1.0 / 12;
          row[me] += w;
          if (number[y * columns + x] < 0)
            row[n] += w * v[y * columns + x];
          else
            row[number[y * columns + x]] -= w;
        }
    }
  for (int p = 0; p < n; p++) /* diagonally dominant: no pivoting is needed */
    for (int q = p + 1; q < n; q++) {
      double *from = a + (size_t)p * (size_t)(n + 1), *to = a + (size_t)q * (size_t)(n + 1), f = to[p] / from[p];
      if (f != 0)
        for (int k = p; k <= n; k++)
          to[k] -= f * from[k];
    }
  for (int p = n - 1; p >= 0; p--) {
    double *row = a + (size_t)p * (size_t)(n + 1);
    for (int k = p + 1; k < n; k++)
      row[n] -= row[k] * a[(size_t)k * (size_t)(n + 1) + (size_t)n];
    row[n] /= row[p];
  }
  for (int k = 0; k < rows * columns; k++)
    if (number[k] >= 0)
      out[k] = a[(size_t)number[k] * (size_t)(n + 1) + (size_t)n];
  free(a);
}

static int fill(int kind, int rows, int columns, uint8_t *keep, double *v) {
  int n = 0;
  for (int i = 0; i < rows; i++)
    for (int j = 0; j < columns; j++) {
      keep[i * columns + j] = kept(kind, rows, columns, i, j);
      n += keep[i * columns + j];
      v[i * columns + j] = formula(i, j, 0);
    }
  return n;
}

static int against_dense(void) {
  static const int sizes[][2] = { { 2, 2 }, { 1, 9 }, { 9, 1 }, { 5, 7 }, { 8, 8 }, { 17, 4 }, { 24, 31 }, { 33, 20 } };
  static uint8_t keep[MOST];
  static double v[MOST], other[MOST], right[MOST];
  int wrong = 0;
  for (int s = 0; s < (int)(sizeof sizes / sizeof sizes[0]); s++)
    for (int kind = 0; kind < KINDS; kind++) {
      const int rows = sizes[s][0], columns = sizes[s][1];
      if (fill(kind, rows, columns, keep, v) == 0)
        continue;
      dense(rows, columns, keep, v, right);
      for (int k = 0; k < rows * columns; k++)
        other[k] = 100 + 3 * v[k]; /* a second plane of another size and origin */
      double *planes[3] = { v, other, v };
      static double third[MOST];
      memcpy(third, v, sizeof third);
      planes[2] = third;
      if (!mx_impute(rows, columns, keep, planes, 3, NULL))
        return 1 + printf("out of memory\n");
      double worst = 0;
      for (int k = 0; k < rows * columns; k++) {
        worst = fmax(worst, fabs(v[k] - right[k]));
        worst = fmax(worst, fabs(other[k] - 100 - 3 * right[k]) / 3);
        worst = fmax(worst, fabs(third[k] - right[k]));
        if (v[k] != v[k])
          worst = INFINITY;
      }
      if (worst > 1e-9)
        wrong += printf("mask %d of %d x %d: off by %g\n", kind, rows, columns, worst) > 0;
    }
  return wrong;
}

/* Few steps whatever the mask: a preconditioner gone wrong shows here, since the answers would stay right. */
static int steps_stay_few(void) {
  const int side = 256;
  uint8_t *keep = malloc((size_t)side * side);
  double *v = malloc((size_t)side * side * sizeof *v);
  int wrong = 0;
  for (int kind = 0; kind < KINDS; kind++) {
    fill(kind, side, side, keep, v);
    int steps;
    mx_impute(side, side, keep, &v, 1, &steps);
    if (steps > 15)
      wrong += printf("mask %d: %d steps\n", kind, steps) > 0;
  }
  free(keep);
  free(v);
  return wrong;
}

static int edge_cases(void) {
  uint8_t none[12] = { 0 }, all[12], one[1] = { 0 };
  double v[12], w[12], single[1] = { 3 }, *planes[1] = { v };
  int wrong = 0;
  memset(all, 1, sizeof all);
  for (int k = 0; k < 12; k++)
    v[k] = w[k] = k;
  mx_impute(3, 4, all, planes, 1, NULL);
  wrong += memcmp(v, w, sizeof v) != 0;
  mx_impute(3, 4, none, planes, 1, NULL);
  for (int k = 0; k < 12; k++)
    wrong += v[k] != 0;
  planes[0] = single;
  mx_impute(1, 1, one, planes, 1, NULL);
  wrong += single[0] != 0;
  none[5] = 1; /* one kept pixel that is not a number: no endless loop */
  v[5] = NAN;
  planes[0] = v;
  mx_impute(3, 4, none, planes, 1, NULL);
  wrong += v[0] == v[0];
  return wrong ? printf("%d edge cases are wrong\n", wrong) : 0;
}

static int threads_and_memory(void) {
  enum { N = 6, SIDE = 37, PIXELS = SIDE * SIDE };
  static uint8_t keep[N * PIXELS];
  static double a[N * 3 * PIXELS], b[N * 3 * PIXELS], before[N * 3 * PIXELS];
  for (int i = 0; i < N; i++)
    for (int k = 0; k < 3; k++)
      fill(i, SIDE, SIDE, keep + i * PIXELS, a + (i * 3 + k) * PIXELS);
  memcpy(before, a, sizeof a);
  memcpy(b, a, sizeof a);
  int wrong = !mx_impute_all(N, 3, SIDE, SIDE, keep, a, 1, NULL) || !mx_impute_all(N, 3, SIDE, SIDE, keep, b, 4, NULL);
  wrong += memcmp(a, b, sizeof a) != 0;
  memcpy(b, before, sizeof b);
  mx_alloc_fail_after(0, 1);
  wrong += mx_impute_all(1, 3, SIDE, SIDE, keep, b, 1, NULL);
  mx_alloc_fail_after(-1, 0);
  wrong += memcmp(b, before, sizeof b) != 0;
  wrong += !mx_impute_all(N, 3, SIDE, SIDE, keep, b, 2, NULL) || memcmp(a, b, sizeof a) != 0;
  wrong += mx_alloc_live() != 0;
  return wrong ? printf("threads or memory: %d checks are wrong\n", wrong) : 0;
}

int main(void) { return against_dense() + steps_stay_few() + edge_cases() + threads_and_memory() != 0; }
