/* lars.c: orthogonal columns in closed form, the laws of the lasso's path on correlated ones, columns that repeat, and
 * every allocation failing once. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include "alloc.h"
#include "lars.h"

static int failures;

static void expect(int ok, const char *what, double got) {
  if (ok) return;
  printf("lars: %s (%g)\n", what, got);
  failures++;
}

enum { N = 40, P = 6 };
static double x[N][P], y[N], gram[P * P], xy[P];

static void make(double mixing, int repeat) {
  for (int i = 0; i < N; i++) {
    y[i] = sin(0.7 * i * i) + cos(i);
    for (int j = 0; j < P; j++)
      x[i][j] = sin(1.3 * i * (j + 1) + j) + mixing * sin(0.9 * i);
    if (repeat) x[i][3] = x[i][1];
    for (int j = 0; j < P; j++)
      y[i] += (j - 2) * 0.5 * x[i][j];
  }
  for (int a = 0; a < P; a++) {
    xy[a] = 0;
    for (int i = 0; i < N; i++) xy[a] += x[i][a] * y[i];
    for (int b = 0; b < P; b++) {
      gram[a * P + b] = 0;
      for (int i = 0; i < N; i++) gram[a * P + b] += x[i][a] * x[i][b];
    }
  }
}

/* Orthogonal columns: coefficients shrink by alpha, soft thresholding. */
static void check_orthogonal(void) {
  const double g[9] = { 2, 0, 0, 0, 2, 0, 0, 0, 2 }, b[3] = { 3, -5, 1 };
  lars_path path;
  int status = lars_run(&path, g, b, 3, 1, true, 100, 0);
  expect(status == LARS_OK && path.steps == 3, "steps", path.steps);
  expect(path.nactive == 3 && path.active[0] == 1 && path.active[1] == 0 && path.active[2] == 2, "order of entry",
         path.active[0]);
  for (int s = 0; s <= path.steps; s++)
    for (int j = 0; j < 3; j++) {
      const double soft = fmax(fabs(b[j]) - path.alpha[s], 0) * (b[j] < 0 ? -1 : 1) / 2;
      expect(fabs(path.coef[s * 3 + j] - soft) < 1e-12, "soft thresholding", path.coef[s * 3 + j]);
    }
  lars_free(&path);
  status = lars_run(&path, g, b, 3, 1, true, 100, 2);
  expect(status == LARS_OK, "alpha_min", status);
  expect(fabs(path.alpha[path.steps] - 2) < 1e-12 && fabs(path.coef[path.steps * 3] - 0.5) < 1e-12,
         "interpolated at alpha_min", path.coef[path.steps * 3]);
  lars_free(&path);
  status = lars_run(&path, g, b, 3, 1, false, 1, 0);
  expect(status == LARS_OK && path.nactive == 1 && path.steps == 1, "one step", path.nactive);
  lars_free(&path);
}

/* At each point: correlations of columns that are in are alpha with the coefficient's sign, of the others at most
 * alpha. */
static void check_laws(double mixing) {
  make(mixing, 0);
  lars_path path;
  expect(lars_run(&path, gram, xy, P, N, true, 500, 0) == LARS_OK, "status", 0);
  for (int s = 0; s <= path.steps; s++)
    for (int j = 0; j < P; j++) {
      const double *coef = path.coef + s * P;
      double c = xy[j];
      for (int k = 0; k < P; k++) c -= gram[j * P + k] * coef[k];
      c /= N;
      expect(fabs(c) <= path.alpha[s] + 1e-9, "a correlation above alpha", c);
      if (coef[j] != 0 && s > 0)
        expect(fabs(fabs(c) - path.alpha[s]) < 1e-9 && c * coef[j] > -1e-12, "correlation of a column that is in", c);
    }
  expect(path.alpha[path.steps] < 1e-6, "the path ends at least squares", path.alpha[path.steps]);
  lars_free(&path);
}

static void check_repeated(void) {
  make(0.5, 1);
  lars_path path;
  expect(lars_run(&path, gram, xy, P, N, false, 500, 0) == LARS_OK, "status", 0);
  int ones = 0, threes = 0;
  for (int i = 0; i < path.nactive; i++) ones += path.active[i] == 1, threes += path.active[i] == 3;
  expect(path.nactive == P - 1 && ones + threes == 1, "of two equal columns one enters", path.nactive);
  lars_free(&path);
}

static void check_out_of_memory(void) {
  make(1, 0);
  for (int n = 0;; n++) {
    lars_path path;
    mx_alloc_fail_after(n, 1);
    const int status = lars_run(&path, gram, xy, P, N, true, 500, 0);
    mx_alloc_fail_after(-1, 0);
    lars_free(&path);
    expect(mx_alloc_live() == 0, "blocks are left", n);
    if (status == LARS_OK) {
      expect(n > 9, "allocations", n);
      break;
    }
    expect(status == LARS_NOMEM && n < 100, "out of memory is told otherwise", status);
    if (n >= 100) break;
  }
}

int main(void) {
  check_orthogonal();
  for (int i = 0; i < 8; i++) check_laws(0.5 * i);
  check_repeated();
  check_out_of_memory();
  return failures > 0;
}
