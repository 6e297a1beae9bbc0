/* ssim.c: see ssim.h. */
#include <math.h>
#include <stddef.h>
#include "ssim.h"
#include "vector.h"

enum { W = MX_SSIM_WINDOW };

static void make_window(double w[W]) {
  const double sigma = 1.5;
  double sum = 0;
  for (int i = 0; i < W; i++)
    sum += w[i] = exp(-(i - W / 2) * (i - W / 2) / (2 * sigma * sigma));
  for (int i = 0; i < W; i++)
    w[i] /= sum;
}

/* Windowed means of x * y, or of x alone, where the window lies inside: (height - 10, width - 10) numbers into out. */
MX_EVERY_WIDTH static void smooth(const double *x, const double *y, int64_t height, int64_t width, const double w[W],
                                  double *restrict across, double *restrict out) {
  const int64_t h = height - W + 1, n = width - W + 1;
  for (int64_t r = 0; r < height; r++)
    for (int64_t c = 0; c < n; c++) { /* vectorized */
      double sum = 0;
      for (int64_t k = 0, at = r * width + c; k < W; k++, at++)
        sum += w[k] * (y ? x[at] * y[at] : x[at]);
      across[r * n + c] = sum;
    }
  for (int64_t r = 0; r < h; r++)
    for (int64_t c = 0; c < n; c++) { /* vectorized */
      double sum = 0;
      for (int64_t k = 0; k < W; k++)
        sum += w[k] * across[(r + k) * n + c];
      out[r * n + c] = sum;
    }
}

double mx_ssim(const double *a, const double *b, int64_t height, int64_t width, double *scratch) {
  const int64_t size = height * width, inside = (height - W + 1) * (width - W + 1);
  const double c1 = 0.01 * 0.01, c2 = 0.03 * 0.03;
  double w[W], *across = scratch, *ma = scratch + size, *mb = ma + size;
  double *aa = mb + size, *bb = aa + size, *ab = bb + size;
  make_window(w);
  smooth(a, NULL, height, width, w, across, ma);
  smooth(b, NULL, height, width, w, across, mb);
  smooth(a, a, height, width, w, across, aa);
  smooth(b, b, height, width, w, across, bb);
  smooth(a, b, height, width, w, across, ab);
  double sum = 0;
  for (int64_t i = 0; i < inside; i++) {
    const double squares = ma[i] * ma[i] + mb[i] * mb[i], product = ma[i] * mb[i];
    const double alike = (2 * product + c1) * (2 * (ab[i] - product) + c2);
    sum += alike / ((squares + c1) * (aa[i] + bb[i] - squares + c2));
  }
  return sum / (double)inside;
}
