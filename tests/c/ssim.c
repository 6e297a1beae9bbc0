/* ssim.c: the golden value of shared/spec/comparison.md; a map and itself; symmetry; sides that differ against the sum
 * written out; NAN. */
#include <math.h>
#include <stdio.h>
#include "ssim.h"

static int failures;

static void expect(int ok, const char *what, double got) {
  if (ok) return;
  printf("ssim: %s (%.17g)\n", what, got);
  failures++;
}

enum { H = 13, N = 17 };

static double a[256], b[256], scratch[6 * 256];

/* One pixel's similarity after another, every window's sums written out. */
static double by_definition(void) {
  double w[11][11], sum = 0, all = 0;
  for (int i = 0; i < 11; i++)
    for (int j = 0; j < 11; j++)
      sum += w[i][j] = exp(-((i - 5) * (i - 5) + (j - 5) * (j - 5)) / 4.5);
  for (int r = 0; r <= H - 11; r++)
    for (int c = 0; c <= N - 11; c++) {
      double ma = 0, mb = 0, va = 0, vb = 0, ab = 0;
      for (int i = 0; i < 121; i++) {
        const double p = w[i / 11][i % 11] / sum;
        ma += p * a[(r + i / 11) * N + c + i % 11];
        mb += p * b[(r + i / 11) * N + c + i % 11];
      }
      for (int i = 0; i < 121; i++) {
        const double p = w[i / 11][i % 11] / sum, x = a[(r + i / 11) * N + c + i % 11] - ma;
        const double y = b[(r + i / 11) * N + c + i % 11] - mb;
        va += p * x * x;
        vb += p * y * y;
        ab += p * x * y;
      }
      all += (2 * ma * mb + 1e-4) * (2 * ab + 9e-4) / ((ma * ma + mb * mb + 1e-4) * (va + vb + 9e-4));
    }
  return all / ((H - 10) * (N - 10));
}

int main(void) {
  for (int i = 0; i < 16; i++)
    for (int j = 0; j < 16; j++) {
      a[16 * i + j] = (3 * i + 5 * j) % 16 / 15.0;
      b[16 * i + j] = (5 * i + 3 * j + 1) % 16 / 15.0;
    }
  const double golden = mx_ssim(a, b, 16, 16, scratch);
  expect(fabs(golden / 0.0567825213323 - 1) < 1e-9, "the golden value", golden);
  expect(fabs(mx_ssim(b, a, 16, 16, scratch) - golden) < 1e-15, "symmetry", golden);
  expect(fabs(mx_ssim(a, a, 16, 16, scratch) - 1) < 1e-12, "a map and itself", 1);
  const double oblong = mx_ssim(a, b, H, N, scratch);
  expect(fabs(oblong - by_definition()) < 1e-12, "13 x 17 by the definition", oblong);
  a[100] = NAN;
  expect(isnan(mx_ssim(a, b, 16, 16, scratch)), "NAN", 0);
  return failures != 0;
}
