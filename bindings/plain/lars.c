/* lars.c: see lars.h. The active columns' Gram matrix is kept as a Cholesky factor, a row added with each column and
 * made anew when one leaves. */
#include "lars.h"
#include <float.h>
#include <math.h>
#include <string.h>
#include "alloc.h"

/* Differences of alpha below this fraction of the first alpha count as zero (scikit-learn uses an absolute bound,
 * whatever the scale of y). A pivot below 1e-7 means that the active columns already span the new one. */
static const double tolerance = FLT_EPSILON, smallest_pivot = 1e-7;

typedef struct lars {
  const double *gram, *xy;
  int p, nactive;
  int *order;     /* the active columns, then the others, in the order that ties are broken by */
  double *cov;    /* by place in order: correlation of an inactive column with the residual */
  bool *gone;     /* by column: it is spanned by active ones and never enters */
  double *sign;   /* by place */
  double *factor; /* p x p, lower */
  double *way, *turn; /* by place: direction of the active coefficients; rate of change of an inactive correlation */
  double *left;   /* scratch */
} lars;

static bool make(lars *l, const double *gram, const double *xy, int p) {
  *l = (lars){ .gram = gram, .xy = xy, .p = p };
  const size_t n = (size_t)p;
  l->order = mx_malloc(n * sizeof *l->order);
  l->gone = mx_calloc(n, sizeof *l->gone);
  l->cov = mx_malloc(n * sizeof *l->cov);
  l->sign = mx_malloc(n * sizeof *l->sign);
  l->factor = mx_malloc(n * n * sizeof *l->factor);
  l->way = mx_malloc(n * sizeof *l->way);
  l->turn = mx_malloc(n * sizeof *l->turn);
  l->left = mx_malloc(n * sizeof *l->left);
  if (!l->order || !l->gone || !l->cov || !l->sign || !l->factor || !l->way || !l->turn || !l->left) return false;
  for (int i = 0; i < p; i++) {
    l->order[i] = i;
    l->cov[i] = xy[i];
  }
  return true;
}

static void unmake(lars *l) {
  mx_free(l->order);
  mx_free(l->gone);
  mx_free(l->cov);
  mx_free(l->sign);
  mx_free(l->factor);
  mx_free(l->way);
  mx_free(l->turn);
  mx_free(l->left);
}

/* by place */
static double between(const lars *l, int i, int j) { return l->gram[(size_t)l->order[i] * l->p + l->order[j]]; }

/* The inactive place with the largest |correlation|, the first among equals; -1: none is left. */
static int most_correlated(const lars *l) {
  int best = -1;
  for (int i = l->nactive; i < l->p; i++)
    if (!l->gone[l->order[i]] && (best < 0 || fabs(l->cov[i]) > fabs(l->cov[best]))) best = i;
  return best;
}

static void swap_places(lars *l, int i, int j) {
  const int column = l->order[i];
  const double cov = l->cov[i];
  l->order[i] = l->order[j];
  l->cov[i] = l->cov[j];
  l->order[j] = column;
  l->cov[j] = cov;
}

/* Computes row n of the Cholesky factor; false: the active columns already span the new one. */
static bool factor_row(lars *l, int n) {
  double *row = l->factor + (size_t)n * l->p, sum = between(l, n, n);
  for (int j = 0; j < n; j++) {
    const double *other = l->factor + (size_t)j * l->p;
    double v = between(l, n, j);
    for (int k = 0; k < j; k++)
      v -= row[k] * other[k];
    row[j] = v / other[j];
    sum -= row[j] * row[j];
  }
  row[n] = sqrt(fabs(sum));
  return row[n] >= smallest_pivot;
}

/* The column at this place becomes active, or is marked as gone. */
static bool enter(lars *l, int place) {
  const double cov = l->cov[place];
  swap_places(l, l->nactive, place);
  if (!factor_row(l, l->nactive)) {
    l->gone[l->order[l->nactive]] = true;
    swap_places(l, l->nactive, place);
    return false;
  }
  l->sign[l->nactive++] = cov > 0 ? 1 : cov < 0 ? -1 : 0;
  return true;
}

/* The equiangular direction: way = A G^-1 sign; returns A, not finite where G is too ill-conditioned. */
static double find_way(lars *l) {
  const int n = l->nactive;
  for (int i = 0; i < n; i++) {
    double v = l->sign[i];
    for (int k = 0; k < i; k++)
      v -= l->factor[(size_t)i * l->p + k] * l->left[k];
    l->left[i] = v / l->factor[(size_t)i * l->p + i];
  }
  double dot = 0;
  for (int i = n - 1; i >= 0; i--) {
    double v = l->left[i];
    for (int k = i + 1; k < n; k++)
      v -= l->factor[(size_t)k * l->p + i] * l->way[k];
    l->way[i] = v / l->factor[(size_t)i * l->p + i];
    dot += l->way[i] * l->sign[i];
  }
  if (n == 1 && l->way[0] == 0) return l->way[0] = 1;
  const double a = 1 / sqrt(dot);
  for (int i = 0; i < n; i++)
    l->way[i] *= a;
  return a;
}

static double smaller_positive(double best, double v) { return v > 0 && v < best ? v : best; }

/* The step length at which an inactive column becomes as correlated as the active ones. Fills turn, rounded to 15
 * decimals so that ties stay ties. */
static double find_length(lars *l, double largest, double a) {
  double length = DBL_MAX;
  for (int i = l->nactive; i < l->p; i++) {
    double v = 0;
    for (int k = 0; k < l->nactive; k++)
      v += between(l, k, i) * l->way[k];
    l->turn[i] = v = rint(v * 1e15) / 1e15;
    if (l->gone[l->order[i]]) continue;
    length = smaller_positive(length, (largest - l->cov[i]) / (a - v + FLT_MIN));
    length = smaller_positive(length, (largest + l->cov[i]) / (a + v + FLT_MIN));
  }
  return fmin(length, largest / a);
}

/* Removes a place from the active ones; it becomes the first of the others. */
static void leave(lars *l, int place, const double *coef) {
  const int column = l->order[place];
  for (int i = place; i + 1 < l->nactive; i++) {
    l->order[i] = l->order[i + 1];
    l->sign[i] = l->sign[i + 1];
  }
  l->order[--l->nactive] = column;
  double cov = l->xy[column];
  for (int i = 0; i < l->p; i++)
    cov -= l->gram[(size_t)column * l->p + i] * coef[i];
  l->cov[l->nactive] = cov;
  for (int i = 0; i < l->nactive; i++)
    factor_row(l, i);
}

/* ---- the path ------------------------------------------------------------------------------------------------ */

/* Appends a row of zeros. */
static bool add_row(lars_path *out, int *room) {
  const int rows = out->steps + 2;
  if (rows > *room) {
    const int more = 2 * rows + 8;
    double *coef = mx_realloc(out->coef, (size_t)more * out->columns * sizeof *coef);
    if (!coef) return false;
    out->coef = coef;
    double *alpha = mx_realloc(out->alpha, (size_t)more * sizeof *alpha);
    if (!alpha) return false;
    out->alpha = alpha;
    *room = more;
  }
  out->steps++;
  memset(out->coef + (size_t)out->steps * out->columns, 0, (size_t)out->columns * sizeof *out->coef);
  out->alpha[out->steps] = 0;
  return true;
}

static double *row_of(const lars_path *out, int step) { return out->coef + (size_t)step * out->columns; }

/* Ends the path at alpha_min: interpolates the last row there. */
static void stop_at(lars_path *out, double alpha_min) {
  const int n = out->steps;
  if (fabs(out->alpha[n] - alpha_min) <= tolerance * out->alpha[0]) return;
  if (n > 0) {
    const double share = (out->alpha[n - 1] - alpha_min) / (out->alpha[n - 1] - out->alpha[n]);
    double *coef = row_of(out, n), *before = row_of(out, n - 1);
    for (int i = 0; i < out->columns; i++)
      coef[i] = before[i] + share * (coef[i] - before[i]);
  }
  out->alpha[n] = alpha_min;
}

/* Moves along `way`. Where a coefficient would pass 0 before the step's end, its sign turns, and the lasso stops there.
 * Returns whether any did; which: by place. */
static bool advance(lars *l, lars_path *out, double length, bool lasso, bool *which) {
  double *before = row_of(out, out->steps - 1), *coef = row_of(out, out->steps), zero = DBL_MAX;
  for (int i = 0; i < l->nactive; i++)
    zero = smaller_positive(zero, -before[l->order[i]] / (l->way[i] + FLT_MIN));
  const bool passes = zero < length;
  for (int i = 0; i < l->nactive; i++) {
    which[i] = passes && -before[l->order[i]] / (l->way[i] + FLT_MIN) == zero;
    if (which[i]) l->sign[i] = -l->sign[i];
  }
  if (passes && lasso) length = zero;
  for (int i = 0; i < l->nactive; i++)
    coef[l->order[i]] = before[l->order[i]] + length * l->way[i];
  for (int i = l->nactive; i < l->p; i++)
    l->cov[i] -= length * l->turn[i];
  return passes;
}

static int walk(lars *l, lars_path *out, double samples, bool lasso, int max_steps, double alpha_min, bool *which) {
  int room = 0;
  bool turned = false; /* after a change of sign no column enters */
  out->steps = -1;
  if (!add_row(out, &room)) return LARS_NOMEM;
  for (;;) {
    const int place = most_correlated(l), n = out->steps;
    const double largest = place < 0 ? 0 : fabs(l->cov[place]);
    out->alpha[n] = largest / samples;
    if (!(out->alpha[n] > alpha_min + tolerance * out->alpha[0])) return stop_at(out, alpha_min), LARS_OK;
    if (n >= max_steps || l->nactive >= l->p) return LARS_OK;
    if (!turned && !enter(l, place)) continue;
    if (lasso && n > 0 && out->alpha[n - 1] < out->alpha[n]) return LARS_OK; /* only rounding errors are left */
    const double a = find_way(l);
    if (!isfinite(a)) return LARS_OK;
    const double length = find_length(l, largest, a);
    if (!add_row(out, &room)) return LARS_NOMEM;
    turned = advance(l, out, length, lasso, which);
    for (int i = l->nactive - 1; turned && lasso && i >= 0; i--)
      if (which[i]) leave(l, i, row_of(out, out->steps));
  }
}

int lars_run(lars_path *out, const double *gram, const double *xy, int columns, double samples, bool lasso,
             int max_steps, double alpha_min) {
  *out = (lars_path){ .columns = columns };
  lars l;
  bool *which = mx_calloc((size_t)columns, sizeof *which);
  int status = make(&l, gram, xy, columns) && which ? LARS_OK : LARS_NOMEM;
  if (status == LARS_OK) status = walk(&l, out, samples, lasso, max_steps, alpha_min, which);
  if (status == LARS_OK) {
    out->active = l.order; /* handed over */
    out->nactive = l.nactive;
    l.order = NULL;
  }
  unmake(&l);
  mx_free(which);
  return status;
}

void lars_free(lars_path *path) {
  mx_free(path->coef);
  mx_free(path->alpha);
  mx_free(path->active);
  *path = (lars_path){ 0 };
}
