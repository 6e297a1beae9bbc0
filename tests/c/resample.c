/* resample.c: draws are the same kept or drawn again, and evenly spread; a mean by its two ways; signs against all
 * patterns written out. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include "resample.h"

static int failures;

static void expect(int ok, const char *what, double got) {
  if (ok) return;
  printf("resample: %s (%.17g)\n", what, got);
  failures++;
}

enum { UNITS = 7, RESAMPLES = 500 };

static uint32_t room[RESAMPLES * UNITS], one[UNITS];

static void draws(void) {
  mx_resample kept = { .units = UNITS, .resamples = RESAMPLES, .all = true, .at = -1, .drawn = room };
  mx_resample again = { .units = UNITS, .resamples = RESAMPLES, .at = -1, .drawn = one };
  mx_stream_init(&kept.stream, 42, "test@1", "", 0);
  again.stream = kept.stream;
  mx_resample_fill(&kept);
  int count[UNITS] = { 0 };
  for (int64_t b = RESAMPLES; b-- > 0;) {
    const uint32_t *x = mx_resample_get(&kept, b), *y = mx_resample_get(&again, b);
    expect(mx_resample_get(&again, b) == y, "the last one is not drawn twice", b);
    for (int k = 0; k < UNITS; k++) {
      expect(x[k] == y[k] && x[k] < UNITS, "kept and drawn again", b);
      count[x[k]]++;
    }
  }
  for (int u = 0; u < UNITS; u++) /* 500 each, deviation 20.7: five of them */
    expect(abs(count[u] - RESAMPLES) < 104, "every unit is drawn alike", count[u]);
}

static void means(void) {
  const uint32_t drawn[UNITS] = { 0, 2, 2, 3, 4, 6, 6 };
  const double sum[UNITS] = { 0.3, 9, 1.2, 0.4, 0.7, 9, 0.1 }, count[UNITS] = { 1, 1, 3, 1, 2, 1, 1 };
  double x[2 * UNITS], totals[2];
  for (int u = 0; u < UNITS; u++) {
    x[2 * u] = sum[u];
    x[2 * u + 1] = count[u];
  }
  const mx_estimate e = mx_ratio_of(drawn, UNITS, sum, count);
  mx_totals_of(drawn, UNITS, x, 2, totals);
  expect(fabs(totals[0] - 4.0) < 1e-12 && totals[1] == 12, "totals", totals[0]);
  expect(fabs(e.value - 4.0 / 12) < 1e-15, "ratio", e.value);
  const double gradient[2] = { 1 / totals[1], -totals[0] / (totals[1] * totals[1]) };
  expect(fabs(mx_spread_of(drawn, UNITS, x, 2, gradient) - e.se) < 1e-15, "the ratio's spread by its gradient", e.se);
}

static void signs(void) {
  const double value[9] = { 0.12, 0.05, -0.03, 0.2, 0.08, 0.01, 0.3, -0.07, 0.02 };
  double table[4 * 9 + 16];
  for (int n = 0; n <= 9; n++) {
    int64_t found = 0;
    for (int pattern = 0; pattern < 1 << n; pattern++) {
      double sum = 0;
      for (int i = 0; i < n; i++)
        sum += pattern >> i & 1 ? value[i] : -value[i];
      found += fabs(sum) >= 0.2 - 1e-12;
    }
    expect(mx_signs_all(value, n, 0.2 - 1e-12, table) == found, "all patterns", n);
  }
  mx_stream s;
  mx_stream_init(&s, 1, "signs@2", "", 0);
  const double share = mx_signs_random(value, 9, 0.4, table, &s, 20000) / 20000.0;
  const double exact = mx_signs_all(value, 9, 0.4, table) / 512.0;
  expect(fabs(share - exact) < 5 * sqrt(exact * (1 - exact) / 20000), "random patterns", share - exact);
  double many[130], wide[4 * 130 + 16]; /* more than two words of signs */
  for (int i = 0; i < 130; i++)
    many[i] = i < 128 ? 0 : 1;
  const double both = mx_signs_random(many, 130, 2, wide, &s, 20000) / 20000.0;
  expect(fabs(both - 0.5) < 5 * 0.5 / sqrt(20000), "the last two signs agree in half of the patterns", both);
}

int main(void) {
  draws();
  means();
  signs();
  return failures != 0;
}
