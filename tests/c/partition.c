/* partition.c: the halving of boxes, additive functions got back exactly, interactions shared alike, budgets, trees,
 * and every allocation failing once. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "alloc.h"
#include "partition.h"

static int failures;

static void expect(int ok, const char *what, double got) {
  if (ok) return;
  printf("partition: %s (%g)\n", what, got);
  failures++;
}

enum { ROWS = 5, COLUMNS = 3, COLOURS = 2, CELLS = ROWS * COLUMNS * COLOURS };

static double weight_of(int z, int y, int x) { return sin(1.0 + z * 7 + y * 3 + x); }

/* The sum of the weights of shown cells, and with `pairs` the product of two of them. */
static double f(const partition_box *boxes, int most, int pairs) {
  int shown[COLOURS][ROWS][COLUMNS] = { 0 };
  double sum = 0;
  for (int b = 0; b < most; b++)
    for (int y = boxes[b].lo[0]; y < boxes[b].hi[0]; y++)
      for (int x = boxes[b].lo[1]; x < boxes[b].hi[1]; x++)
        for (int z = boxes[b].lo[2]; z < boxes[b].hi[2]; z++)
          shown[z][y][x]++;
  for (int z = 0; z < COLOURS; z++)
    for (int y = 0; y < ROWS; y++)
      for (int x = 0; x < COLUMNS; x++) {
        expect(shown[z][y][x] <= 1, "boxes overlap", shown[z][y][x]);
        sum += shown[z][y][x] * weight_of(z, y, x);
      }
  return sum + (pairs ? 4.0 * shown[0][0][0] * shown[1][4][2] : 0);
}

/* Runs to the budget. Returns the status; values has room for 2 * CELLS. */
static int run(int64_t budget, int batch, int context, int pairs, double *values, int64_t *evaluated) {
  partition_options o = {
    .size = { ROWS, COLUMNS, COLOURS }, .outputs = 2, .budget = budget, .queue_batch = batch, .context = context
  };
  const partition_box all = { { 0, 0, 0 }, { ROWS, COLUMNS, COLOURS } }, none = { { 0 }, { 0 } };
  partition *p = partition_new(&o);
  if (!p) return PARTITION_NOMEM;
  double hidden[2] = { f(&none, 1, pairs), 1 }, shown[2] = { f(&all, 1, pairs), 1 - 2 * f(&all, 1, pairs) };
  int status = partition_start(p, hidden, shown);
  while (status == PARTITION_OK) {
    const partition_box *boxes;
    int n, most;
    double answers[2 * 64];
    status = partition_ask(p, &boxes, &n, &most);
    if (status != PARTITION_OK || n == 0) break;
    for (int i = 0; i < n; i++) {
      answers[2 * i] = f(boxes + (size_t)i * most, most, pairs);
      answers[2 * i + 1] = 1 - 2 * answers[2 * i];
    }
    status = partition_tell(p, answers);
  }
  if (status == PARTITION_OK) status = partition_values(p, values);
  *evaluated = partition_evaluated(p);
  partition_free(p);
  return status;
}

static void check_values(void) {
  double values[2 * CELLS];
  int64_t evaluated;
  for (int context = -1; context <= 1; context++) {
    expect(run(1000000, 16, context, 0, values, &evaluated) == PARTITION_OK, "run", context);
    for (int z = 0, i = 0; z < COLOURS; z++)
      for (int y = 0; y < ROWS; y++)
        for (int x = 0; x < COLUMNS; x++, i++) {
          expect(fabs(values[i] - weight_of(z, y, x)) < 1e-12, "an additive function's value", values[i]);
          expect(fabs(values[CELLS + i] + 2 * values[i]) < 1e-12, "the second output", values[CELLS + i]);
        }
  }
  run(1000000, 7, -1, 1, values, &evaluated); /* both contexts share an interaction alike between its two cells */
  expect(fabs(values[0] - weight_of(0, 0, 0) - 2) < 1e-12, "half of the interaction", values[0]);
  expect(fabs(values[CELLS - 1] - weight_of(1, 4, 2) - 2) < 1e-12, "the other half", values[CELLS - 1]);
  /* whatever the budget, the sums are right, and no more is asked than one over it */
  for (int64_t budget = 0; budget < 40; budget++) {
    double sum = 0;
    run(budget, 6, -1, 1, values, &evaluated);
    for (int i = 0; i < CELLS; i++) sum += values[i];
    const partition_box all = { { 0, 0, 0 }, { ROWS, COLUMNS, COLOURS } };
    expect(fabs(sum - f(&all, 1, 1)) < 1e-12, "the sum of the values", sum);
    expect(evaluated >= budget && evaluated <= budget + 1, "evaluations", (double)evaluated);
  }
}

static void check_halving(void) { /* 5 rows: the lower part is the left child with rows 3, 4, the upper the right one */
  partition_options o = {
    .size = { ROWS, COLUMNS, COLOURS }, .outputs = 1, .budget = 2, .queue_batch = 32, .context = -1
  };
  partition *p = partition_new(&o);
  const double zero = 0, one = 1;
  const partition_box *boxes;
  int n, most;
  partition_start(p, &zero, &one);
  partition_ask(p, &boxes, &n, &most);
  static const partition_box expected[2] = { { { 3, 0, 0 }, { 5, 3, 2 } }, { { 0, 0, 0 }, { 3, 3, 2 } } };
  expect(n == 2 && most == 1 && memcmp(boxes, expected, sizeof expected) == 0, "the first halves", n);
  const double bad[2] = { 0.5, NAN };
  expect(partition_tell(p, bad) == PARTITION_NAN, "an output that is not a number", 0);
  partition_free(p);
}

static void check_trees(void) {
  static const int32_t good[3][2] = { { -1, 1 }, { 2, -2 }, { -4, -3 } },
                       back[3][2] = { { 1, -1 }, { 0, -2 }, { -3, -4 } },
                       twice[3][2] = { { 1, 2 }, { -1, -2 }, { -2, -4 } },
                       lost[3][2] = { { -1, -2 }, { -3, -4 }, { -1, -1 } };
  int32_t order[4];
  const int status = partition_leaf_order(good, 4, order);
  expect(status == PARTITION_OK && order[0] == 0 && order[1] == 3 && order[2] == 2 && order[3] == 1, "leaves in order",
         order[1]);
  expect(partition_leaf_order(back, 4, order) == -1, "a node below itself", 0);
  expect(partition_leaf_order(twice, 4, order) == -1, "a leaf that comes twice", 0);
  expect(partition_leaf_order(lost, 4, order) == -1, "leaves that are lost", 0);
  expect(partition_leaf_order(NULL, 1, order) == PARTITION_OK && order[0] == 0, "a single leaf", 0);
}

static void check_out_of_memory(void) {
  double values[2 * CELLS];
  int64_t evaluated;
  for (int n = 0;; n++) {
    mx_alloc_fail_after(n, 1);
    const int status = run(200, 16, -1, 0, values, &evaluated);
    mx_alloc_fail_after(-1, 0);
    expect(mx_alloc_live() == 0, "blocks are left", n);
    if (status == PARTITION_OK) {
      expect(n > 8, "allocations", n);
      break;
    }
    expect(status == PARTITION_NOMEM && n < 200, "out of memory is told otherwise", status);
    if (n >= 200) break;
  }
}

int main(void) {
  check_values();
  check_halving();
  check_trees();
  check_out_of_memory();
  return failures > 0;
}
