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

/* ---- area under the ROC curve ----------------------------------------------------------------------------------- */

typedef struct sides {
  double positive, negative;
} sides;

static void count_in(sides *s, const mx_roc *roc, int64_t c, int32_t sample, const double *weight) {
  const double w = weight[roc->unit[sample]];
  if (roc->label[sample] == roc->class_of[c]) s->positive += w;
  else s->negative += w;
}

/* One column, its class against the rest: its area; placement: of each sample, the share of the other side that it
 * beats (a positive) or that beats it (a negative). */
static double place(const mx_roc *roc, int64_t c, const double *weight, sides all, double *placement) {
  const int32_t *order = roc->order + c * roc->samples;
  const bool *last = roc->last + c * roc->samples;
  sides below = { 0, 0 };
  double area = 0;
  for (int64_t i = 0, end; i < roc->samples; i = end) {
    sides tied = { 0, 0 };
    end = i;
    do
      count_in(&tied, roc, c, order[end], weight);
    while (!last[end++]);
    const double beats = (below.negative + tied.negative / 2) / all.negative;
    const double beaten = (all.positive - below.positive - tied.positive / 2) / all.positive;
    for (int64_t k = i; k < end; k++)
      placement[order[k]] = roc->label[order[k]] == roc->class_of[c] ? beats : beaten;
    area += tied.positive * beats;
    below.positive += tied.positive;
    below.negative += tied.negative;
  }
  return area / all.positive;
}

mx_estimate mx_auroc_of(const uint32_t *drawn, int64_t units, const mx_roc *roc, double *scratch) {
  double *weight = scratch, *influence = scratch + units, *placement = scratch + 2 * units;
  memset(scratch, 0, (size_t)(2 * units) * sizeof *scratch);
  for (int64_t k = 0; k < units; k++)
    weight[drawn[k]] += 1;
  double mean = 0, n = 0;
  for (int64_t c = 0; c < roc->columns; c++) {
    sides all = { 0, 0 };
    for (int32_t i = 0; i < roc->samples; i++)
      count_in(&all, roc, c, i, weight);
    if (all.positive == 0 || all.negative == 0) return (mx_estimate){ NAN, NAN };
    n = all.positive + all.negative;
    const double area = place(roc, c, weight, all, placement);
    for (int64_t i = 0; i < roc->samples; i++) {
      const double side = roc->label[i] == roc->class_of[c] ? all.positive : all.negative;
      influence[roc->unit[i]] += (placement[i] - area) * n / (side * (double)roc->columns);
    }
    mean += area / (double)roc->columns;
  }
  double squares = 0;
  for (int64_t u = 0; u < units; u++)
    squares += weight[u] * influence[u] * influence[u];
  return (mx_estimate){ mean, corrected(squares, units) / n };
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
