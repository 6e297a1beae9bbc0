/* resample.h: bootstrap resamples of units (patients) and what is summed over them, without Lua and without libtorch.
 * Draw k of resample b is draw b x units + k of a keyed stream: a resample is the same in whatever order they are
 * drawn, and by whatever process. Nothing here allocates; sums go from left to right, so that the same numbers come
 * out on every processor. */
#ifndef MEDXAI_RESAMPLE_H
#define MEDXAI_RESAMPLE_H

#include <stdbool.h>
#include <stdint.h>
#include "rng.h"

typedef struct mx_resample {
  mx_stream stream;
  int64_t units, resamples;
  bool all;        /* drawn holds every resample, else one */
  int64_t at;      /* which one, where it holds one; -1: none yet */
  uint32_t *drawn; /* (resamples, units) or (units): numbers of units, from 0; the caller's */
} mx_resample;

/* Draws every resample, where there is room for all. */
void mx_resample_fill(mx_resample *r);
/* The units of resample b. Valid until the next call. */
const uint32_t *mx_resample_get(mx_resample *r, int64_t b);

typedef struct mx_estimate {
  double value, se;
} mx_estimate;

/* sum / count over the drawn units, and its standard error: se^2 = U/(U-1) sum (S - value n)^2 / (sum n)^2. */
mx_estimate mx_ratio_of(const uint32_t *drawn, int64_t units, const double *sum, const double *count);
/* totals[d] = sum of x[u][d] over the drawn units; x: (units, width). */
void mx_totals_of(const uint32_t *drawn, int64_t units, const double *x, int64_t width, double *totals);
/* sqrt(U/(U-1) sum (gradient . x[u])^2) over the drawn units: the standard error of a function of the totals that has
 * this gradient there and does not change when all totals are doubled. */
double mx_spread_of(const uint32_t *drawn, int64_t units, const double *x, int64_t width, const double *gradient);

/* How many of all 2^units patterns of signs give the values a total of at least `least` away from 0. units: at most 16.
 * table: 4 x units + 16 numbers. */
int64_t mx_signs_all(const double *value, int64_t units, double least, double *table);
/* The same of `patterns` random ones. */
int64_t mx_signs_random(const double *value, int64_t units, double least, double *table, const mx_stream *s,
                        int64_t patterns);

#endif
