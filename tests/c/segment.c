/* Quickshift and SLIC against the label maps that scikit-image 0.19.3 and 0.26 make of the same pictures (SHA-256 of
 * all labels), on one and two threads; boundaries by hand; each allocation made to fail once. */
#include <omp.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include "alloc.h"
#include "segment.h"
#include "sha256.h"

enum { CONSTANT, SMOOTH, COLOURED, THREE };

static const struct {
  int kind, h, w, setting, count;
  const char *digest;
} expected[] = {
#include "segment_expected.h"
};

static int failures;

static void expect(int ok, const char *what, int i) {
  if (ok)
    return;
  printf("segment: %s (%d)\n", what, i);
  failures++;
}

/* perturb_segments.py's formula */
static int64_t value(int kind, int64_t x, int64_t y, int64_t k, int64_t w, int64_t h) {
  switch (kind) {
  case CONSTANT: return 94;
  case SMOOTH: return (x * x / 37 + y * 3 + (x * 7919 + y * 104729) % 13) % 256 / 2 + 60;
  case COLOURED:
    return (x * (3 + 2 * k) + y * (7 - k) + x * y / (5 + k) + 40 * (x * 2 > w) + 90 * (y * 2 > h) + 31 * k) % 256;
  default: return ((x / 9 + y / 7) % 3 == k) * 150 + 40;
  }
}

static double planes[3 * 120 * 120];
static int64_t labels[120 * 120];

static void fill(int kind, int h, int w) {
  for (int k = 0; k < 3; k++)
    for (int y = 0; y < h; y++)
      for (int x = 0; x < w; x++)
        planes[(k * h + y) * w + x] = (double)value(kind, x, y, k, w, h) / 255;
}

static int run(int setting, int h, int w, int64_t *count) { /* perturb_segments.py's SETTINGS */
  static const segment_quickshift_options quick[] = { { 4, 200, 0.2, 0, 42, NULL, false, NULL },
    { 5, 10, 1, 0, 42, NULL, false, NULL }, { 1, 3, 0.5, 0, 7, NULL, false, NULL },
    { 2.3, 6, 0.7, 1.3, 123, NULL, false, NULL } };
  static const segment_slic_options slic[] = { { 10, 10, 0, 10, true, 0.5, 3, false, NULL },
    { 100, 0.1, 0, 10, true, 0.5, 3, false, NULL }, { 50, 10, 1, 10, true, 0.5, 3, false, NULL },
    { 300, 1, 0, 10, false, 0.5, 3, false, NULL }, { 1, 10, 0, 10, true, 0.5, 3, false, NULL } };
  static const int which[] = { 0, -1, 1, 2, 3, -2, -3, -4, -5 };
  if (which[setting] >= 0)
    return segment_quickshift(labels, count, planes, h, w, &quick[which[setting]]);
  return segment_slic(labels, count, planes, h, w, &slic[-which[setting] - 1]);
}

static void compare(int i) {
  const int h = expected[i].h, w = expected[i].w;
  int64_t count = 0;
  uint8_t digest[32];
  char hex[65];
  fill(expected[i].kind, h, w);
  expect(run(expected[i].setting, h, w, &count) == SEGMENT_OK, "status", i);
  sha256 s;
  sha256_init(&s);
  sha256_add(&s, labels, (size_t)h * w * sizeof *labels);
  sha256_finish(&s, digest);
  sha256_hex(digest, hex);
  expect(count == expected[i].count, "another number of labels", i);
  expect(strcmp(hex, expected[i].digest) == 0, "other labels", i);
}

/* Lab of white, black and pure red: CIE's values to their published digits. */
static void check_lab(void) {
  const double rgb[9] = { 1, 0, 1, 1, 0, 0, 1, 0, 0 };
  static const double known[9] = { 100, 0, 53.2408, 0, 0, 80.0925, 0, 0, 67.2032 };
  double lab[9];
  segment_lab(lab, rgb, 3, NULL);
  for (int i = 0; i < 9; i++)
    expect(lab[i] - known[i] < 0.01 && known[i] - lab[i] < 0.01, "Lab differs from CIE's", i);
}

/* One foreground square in background, and two that touch. Drawn: the ring outside, and where they touch. */
static void check_boundaries(void) {
  static const int64_t map[] = {
    0, 0, 0, 0, 0, 0,
    0, 1, 1, 1, 0, 0,
    0, 1, 1, 1, 2, 0,
    0, 1, 1, 1, 2, 0,
    0, 0, 0, 0, 0, 0 };
  static const char plain[] = "011100"
                              "100110"
                              "100111"
                              "100111"
                              "011110",
                    wrapped[] = "011100"
                                "110110"
                                "110111"
                                "110111"
                                "011110";
  uint8_t marked[30];
  for (int quirk = 0; quirk < 2; quirk++) {
    segment_boundaries(marked, map, 5, 6, 0, quirk);
    for (int i = 0; i < 30; i++)
      expect(marked[i] == (quirk ? wrapped : plain)[i] - '0', quirk ? "wrapped boundary" : "boundary", i);
  }
}

static atomic_int questions, most_questions;

static bool stops(void) { return atomic_fetch_add(&questions, 1) >= atomic_load(&most_questions); }

/* Stopped after any number of questions it ends at once, with nothing left behind. */
static void check_stop(void) {
  const segment_quickshift_options quick = { 4, 200, 0.2, 1, 42, NULL, false, stops };
  const segment_slic_options slic = { 10, 10, 1, 10, true, 0.5, 3, false, stops };
  fill(COLOURED, 30, 40);
  for (int which = 0; which < 2; which++)
    for (int most = 0;; most = most * 2 + 1) {
      int64_t count = 0;
      atomic_store(&questions, 0);
      atomic_store(&most_questions, most);
      const int status = which ? segment_slic(labels, &count, planes, 30, 40, &slic)
                               : segment_quickshift(labels, &count, planes, 30, 40, &quick);
      expect(mx_alloc_live() == 0, "blocks are left after a stop", most);
      if (status == SEGMENT_OK)
        break;
      expect(status == SEGMENT_STOPPED && most < 1 << 20, "a stop is told otherwise", most);
      if (most >= 1 << 20)
        break;
    }
}

static void check_out_of_memory(void) {
  fill(COLOURED, 30, 40);
  for (int setting = 0; setting < 9; setting++)
    for (int n = 0;; n++) {
      int64_t count = 0;
      mx_alloc_fail_after(n, 1);
      const int status = run(setting, 30, 40, &count);
      mx_alloc_fail_after(-1, 0);
      expect(mx_alloc_live() == 0, "blocks are left", setting);
      if (status == SEGMENT_OK)
        break;
      expect(status == SEGMENT_NOMEM && n < 20, "out of memory is told otherwise", setting);
      if (n >= 20)
        break;
    }
}

int main(void) {
  for (int threads = 1; threads <= 2; threads++) {
    omp_set_num_threads(threads);
    for (int i = 0; i < (int)(sizeof expected / sizeof expected[0]); i++)
      compare(i);
  }
  check_lab();
  check_boundaries();
  check_stop();
  check_out_of_memory();
  printf("%d wrong\n", failures);
  return failures != 0;
}
