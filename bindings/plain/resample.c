/* resample.c: see resample.h. */
#include <math.h>
#include <string.h>
#include "resample.h"

/* ---- draws -------------------------------------------------------------------------------------------------- */

static void draw(const mx_resample *r, int64_t b, uint32_t *out) {
  const uint64_t first = (uint64_t)b * (uint64_t)r->units;
  for (int64_t k = 0; k < r->units; k++)
    out[k] = (uint32_t)mx_stream_integer(&r->stream, first + (uint64_t)k, (uint64_t)r->units);
}

void mx_resample_fill(mx_resample *r) {
  for (int64_t b = 0; b < r->resamples; b++)
    draw(r, b, r->drawn + b * r->units);
}

const uint32_t *mx_resample_get(mx_resample *r, int64_t b) {
  if (r->all) return r->drawn + b * r->units;
  if (r->at != b) draw(r, b, r->drawn);
  r->at = b;
  return r->drawn;
}

/* ---- functions of totals -------------------------------------------------------------------------------------- */

static double corrected(double squares, int64_t units) { return sqrt(squares * (double)units / (double)(units - 1)); }

mx_estimate mx_ratio_of(const uint32_t *drawn, int64_t units, const double *sum, const double *count) {
  double s = 0, n = 0, squares = 0;
  for (int64_t k = 0; k < units; k++) {
    s += sum[drawn[k]];
    n += count[drawn[k]];
  }
  const double value = s / n;
  for (int64_t k = 0; k < units; k++) {
    const double rest = sum[drawn[k]] - value * count[drawn[k]];
    squares += rest * rest;
  }
  return (mx_estimate){ value, corrected(squares, units) / n };
}

void mx_totals_of(const uint32_t *drawn, int64_t units, const double *x, int64_t width, double *totals) {
  memset(totals, 0, (size_t)width * sizeof *totals);
  for (int64_t k = 0; k < units; k++)
    for (int64_t d = 0; d < width; d++)
      totals[d] += x[drawn[k] * width + d];
}

double mx_spread_of(const uint32_t *drawn, int64_t units, const double *x, int64_t width, const double *gradient) {
  double squares = 0;
  for (int64_t k = 0; k < units; k++) {
    double change = 0;
    for (int64_t d = 0; d < width; d++)
      change += gradient[d] * x[drawn[k] * width + d];
    squares += change * change;
  }
  return corrected(squares, units);
}

/* ---- signs ---------------------------------------------------------------------------------------------------- */

/* The signed sums of four values at a time, by their signs: table[16 x group + signs]. Returns the number of groups. */
static int64_t tabulate(const double *value, int64_t units, double *table) {
  const int64_t groups = (units + 3) / 4;
  for (int64_t g = 0; g < groups; g++)
    for (int signs = 0; signs < 16; signs++) {
      double sum = 0;
      for (int64_t i = 4 * g; i < units && i < 4 * g + 4; i++)
        sum += signs >> (i - 4 * g) & 1 ? value[i] : -value[i];
      table[16 * g + signs] = sum;
    }
  return groups;
}

int64_t mx_signs_all(const double *value, int64_t units, double least, double *table) {
  const int64_t groups = tabulate(value, units, table);
  int64_t found = 0;
  for (uint32_t pattern = 0; pattern < UINT32_C(1) << units; pattern++) {
    double sum = 0;
    for (int64_t g = 0; g < groups; g++)
      sum += table[16 * g + (pattern >> (4 * g) & 15)];
    found += fabs(sum) >= least;
  }
  return found;
}

int64_t mx_signs_random(const double *value, int64_t units, double least, double *table, const mx_stream *s,
                        int64_t patterns) {
  const int64_t groups = tabulate(value, units, table), words = (units + 63) / 64;
  int64_t found = 0;
  for (int64_t p = 0; p < patterns; p++) {
    double sum = 0;
    uint64_t bits = 0;
    for (int64_t g = 0; g < groups; g++, bits >>= 4) {
      if (g % 16 == 0) bits = mx_stream_bits(s, (uint64_t)(p * words + g / 16));
      sum += table[16 * g + (bits & 15)];
    }
    found += fabs(sum) >= least;
  }
  return found;
}
