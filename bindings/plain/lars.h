/* lars.h: least angle regression and its lasso form (Efron, Hastie, Johnstone, Tibshirani 2004, Ann. Statist. 32), from
 * a Gram matrix: which columns enter in which order, and the coefficients at every step. Plain C, float64, no BLAS: for
 * the few hundred columns that superpixels make. Steps, ties and stopping are those of scikit-learn's lars_path.
 * The caller centers and scales. */
#ifndef MEDXAI_LARS_H
#define MEDXAI_LARS_H

#include <stdbool.h>
#include <stdint.h>

enum { LARS_OK = 0, LARS_NOMEM = 1 };

typedef struct lars_path {
  int columns, steps;  /* rows 0 .. steps of coef and alpha */
  double *coef;        /* (steps + 1) x columns; row 0 is 0 */
  double *alpha;       /* largest |correlation| / samples of each row */
  int *active, nactive; /* columns in their order of entry (of those still in, for the lasso) */
} lars_path;

/* gram: X'X, columns x columns; xy: X'y. lasso: a column whose coefficient comes to 0 leaves. max_steps: 0 or more.
 * alpha_min: where the path stops; its last row is interpolated there. lars_free frees the path, also after
 * LARS_NOMEM. */
int lars_run(lars_path *out, const double *gram, const double *xy, int columns, double samples, bool lasso,
             int max_steps, double alpha_min);
void lars_free(lars_path *path);

#endif
