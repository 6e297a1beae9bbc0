/* augment.c: see augment.h. Each step works on 8 bits and rounds as torchvision does on uint8 tensors; a resized crop
 * resizes as on Pillow's images. Where a bilinear sample lies partly outside, torchvision darkens it twice; here the
 * fill has the share that lies outside. */
#include "augment.h"
#include <math.h>
#include <string.h>
#include "alloc.h"
#include "image.h"
#include "rng.h"

const char *const augment_names[AUGMENT_COUNT] = {
  "random_horizontal_flip", "random_vertical_flip", "random_rotation", "random_affine",
  "random_resized_crop",    "color_jitter",         "gaussian_blur",   "random_erasing",
};

enum { DRAWS = 64, TRIES = 10 }; /* draws that a step may use; boxes tried as in torchvision */
static const double degree = 3.14159265358979323846 / 180;

/* ---- draws ------------------------------------------------------------------------------------------------- */
typedef struct source {
  mx_stream stream;
  uint64_t at;
} source;

static double uniform(source *s, double least, double most) {
  return least + (most - least) * mx_stream_uniform(&s->stream, s->at++);
}

static double below(source *s, int n) { return floor(uniform(s, 0, n)); }

static void draw_affine(const augment_step *a, int size, source *s, augment_drawn *d) {
  double dx = a->translate[0] * size, dy = a->translate[1] * size;
  d->n = 6;
  d->v[0] = uniform(s, a->degrees[0], a->degrees[1]);
  d->v[1] = nearbyint(uniform(s, -dx, dx));
  d->v[2] = nearbyint(uniform(s, -dy, dy));
  d->v[3] = uniform(s, a->scale[0], a->scale[1]);
  d->v[4] = uniform(s, a->shear[0], a->shear[1]);
  d->v[5] = uniform(s, a->shear[2], a->shear[3]);
}

static void set_box(augment_drawn *d, double top, double left, double height, double width) {
  d->n = 4;
  d->v[0] = top, d->v[1] = left, d->v[2] = height, d->v[3] = width;
}

/* The rectangle of random_resized_crop: sqrt(area x ratio) wide; in the middle where none of ten fits. */
static void draw_crop(const augment_step *a, int size, source *s, augment_drawn *d) {
  double w = size, h = size;
  for (int i = 0; i < TRIES; i++) {
    double area = (double)size * size * uniform(s, a->scale[0], a->scale[1]);
    double ratio = exp(uniform(s, log(a->ratio[0]), log(a->ratio[1])));
    w = nearbyint(sqrt(area * ratio)), h = nearbyint(sqrt(area / ratio));
    if (w > 0 && w <= size && h > 0 && h <= size) {
      double top = below(s, size - (int)h + 1), left = below(s, size - (int)w + 1);
      set_box(d, top, left, h, w);
      return;
    }
  }
  w = a->ratio[1] < 1 ? fmax(1, nearbyint(size * a->ratio[1])) : size;
  h = a->ratio[0] > 1 ? fmax(1, nearbyint(size / a->ratio[0])) : size;
  set_box(d, floor((size - h) / 2), floor((size - w) / 2), h, w);
}

/* The rectangle of random_erasing: sqrt(area x ratio) high; nothing happens where none of ten fits. */
static void draw_erased(const augment_step *a, int size, source *s, augment_drawn *d) {
  for (int i = 0; i < TRIES; i++) {
    double area = (double)size * size * uniform(s, a->scale[0], a->scale[1]);
    double ratio = exp(uniform(s, log(a->ratio[0]), log(a->ratio[1])));
    double h = nearbyint(sqrt(area * ratio)), w = nearbyint(sqrt(area / ratio));
    if (h < size && w < size) {
      double top = below(s, size - (int)h + 1), left = below(s, size - (int)w + 1);
      set_box(d, top, left, h, w);
      return;
    }
  }
  d->happens = false;
}

static void draw_jitter(const augment_step *a, source *s, augment_drawn *d) {
  double *order = d->v + 3;
  d->n = 6;
  d->v[0] = uniform(s, a->brightness[0], a->brightness[1]);
  d->v[1] = uniform(s, a->contrast[0], a->contrast[1]);
  d->v[2] = uniform(s, a->saturation[0], a->saturation[1]);
  for (int i = 0; i < 3; i++)
    order[i] = i;
  for (int i = 2; i > 0; i--) {
    int j = (int)below(s, i + 1);
    double kept = order[i];
    order[i] = order[j], order[j] = kept;
  }
}

static void draw(const augment_step *a, int size, source *s, augment_drawn *d) {
  *d = (augment_drawn){ .happens = uniform(s, 0, 1) < a->p };
  if (!d->happens)
    return;
  switch (a->kind) {
  case AUGMENT_ROTATION: d->n = 1, d->v[0] = uniform(s, a->degrees[0], a->degrees[1]); break;
  case AUGMENT_AFFINE: draw_affine(a, size, s, d); break;
  case AUGMENT_RESIZED_CROP: draw_crop(a, size, s, d); break;
  case AUGMENT_JITTER: draw_jitter(a, s, d); break;
  case AUGMENT_BLUR: d->n = 1, d->v[0] = uniform(s, a->sigma[0], a->sigma[1]); break;
  case AUGMENT_ERASING: draw_erased(a, size, s, d); break;
  default: break;
  }
}

/* ---- geometry ---------------------------------------------------------------------------------------------- */
static void flip(uint8_t *out, const uint8_t *in, int size, int c, bool across) {
  for (int y = 0; y < size; y++)
    for (int x = 0; x < size; x++) {
      size_t from = across ? (size_t)y * size + (size - 1 - x) : (size_t)(size - 1 - y) * size + x;
      memcpy(out + ((size_t)y * size + x) * c, in + from * c, (size_t)c);
    }
}

/* torchvision's _get_inverse_affine_matrix: from places in the result to places in the image, from the middle. */
static void inverse_matrix(double m[6], const double center[2], const augment_drawn *d) {
  double turn = d->v[0] * degree, sx = d->v[4] * degree, sy = d->v[5] * degree, scale = d->v[3];
  double a = cos(turn - sy) / cos(sy), b = -cos(turn - sy) * tan(sx) / cos(sy) - sin(turn);
  double c = sin(turn - sy) / cos(sy), e = -sin(turn - sy) * tan(sx) / cos(sy) + cos(turn);
  double x = -center[0] - d->v[1], y = -center[1] - d->v[2];
  m[0] = e / scale, m[1] = -b / scale, m[3] = -c / scale, m[4] = a / scale;
  m[2] = m[0] * x + m[1] * y + center[0];
  m[5] = m[3] * x + m[4] * y + center[1];
}

static double bilinear(const uint8_t *in, int size, int c, double u, double v, double fill) {
  double x0 = floor(u), y0 = floor(v), fx = u - x0, fy = v - y0, sum = 0;
  for (int j = 0; j < 2; j++)
    for (int i = 0; i < 2; i++) {
      double x = x0 + i, y = y0 + j, share = (i ? fx : 1 - fx) * (j ? fy : 1 - fy);
      bool inside = x >= 0 && x < size && y >= 0 && y < size;
      sum += share * (inside ? in[((size_t)y * size + (size_t)x) * c] : fill);
    }
  return sum;
}

static void warp(uint8_t *out, const uint8_t *in, int size, int c, const double m[6], bool smooth,
                 const double fill[3]) {
  double middle = (size - 1) / 2.0;
  for (int y = 0; y < size; y++)
    for (int x = 0; x < size; x++, out += c) {
      double px = x - middle, py = y - middle;
      double u = m[0] * px + m[1] * py + m[2] + middle, v = m[3] * px + m[4] * py + m[5] + middle;
      double nx = nearbyint(u), ny = nearbyint(v);
      bool inside = nx >= 0 && nx < size && ny >= 0 && ny < size;
      for (int k = 0; k < c; k++)
        if (smooth)
          out[k] = (uint8_t)nearbyint(bilinear(in + k, size, c, u, v, fill[k]));
        else
          out[k] = inside ? in[((size_t)ny * size + (size_t)nx) * c + k] : (uint8_t)nearbyint(fill[k]);
    }
}

/* A rotation turns against the clock, an affine transform with it, as in torchvision. */
static void turn(uint8_t *out, const uint8_t *in, int size, int c, const augment_step *a, const augment_drawn *d,
                 bool mask) {
  static const double black[3] = { 0 };
  augment_drawn how = *d;
  double m[6], center[2] = { 0 };
  if (a->kind == AUGMENT_ROTATION)
    how = (augment_drawn){ .v = { -d->v[0], 0, 0, 1, 0, 0 } };
  for (int i = 0; a->centered && i < 2; i++)
    center[i] = a->center[i] - size * 0.5;
  inverse_matrix(m, center, &how);
  warp(out, in, size, c, m, a->bilinear && !mask, mask ? black : a->fill);
}

static int resized_crop(uint8_t *out, const uint8_t *in, int size, int c, const double box[4], bool smooth) {
  image cut = { 0 }, sized = { 0 };
  int top = (int)box[0], left = (int)box[1], h = (int)box[2], w = (int)box[3];
  int status = image_new(&cut, w, h, c);
  for (int y = 0; !status && y < h; y++)
    memcpy(cut.px + (size_t)y * w * c, in + ((size_t)(top + y) * size + left) * c, (size_t)w * c);
  if (!status)
    status = smooth ? image_resize(&sized, &cut, size, size) : image_resize_nearest(&sized, &cut, size, size);
  if (!status)
    memcpy(out, sized.px, (size_t)size * size * c);
  image_free(&sized);
  image_free(&cut);
  return status;
}

/* ---- gray values ------------------------------------------------------------------------------------------- */
static uint8_t cut_off(float v) { return v < 0 ? 0 : v > 255 ? 255 : (uint8_t)v; }

static float gray(const uint8_t *px) {
  return floorf((float)px[0] * 0.2989f + (float)px[1] * 0.587f + (float)px[2] * 0.114f);
}

static float mean_gray(const uint8_t *px, size_t n, int c) {
  double sum = 0;
  for (size_t i = 0; i < n; i++)
    sum += c == 3 ? gray(px + 3 * i) : px[i];
  return (float)(sum / (double)n);
}

/* what: 0 brightness, 1 contrast, 2 saturation. A gray image has no saturation. */
static void adjust(uint8_t *px, size_t n, int c, int what, double factor) {
  float f = (float)factor, rest = (float)(1 - factor), mean = what == 1 ? mean_gray(px, n, c) : 0;
  if (what == 2 && c != 3)
    return;
  for (size_t i = 0; i < n; i++) {
    float to = what == 2 ? gray(px + 3 * i) : mean;
    for (int k = 0; k < c; k++)
      px[i * c + k] = cut_off((float)px[i * c + k] * f + to * rest);
  }
}

static void weights_of(double *weight, int n, double sigma) {
  double sum = 0;
  for (int i = 0; i < n; i++) {
    double x = (i - n / 2) / sigma;
    sum += weight[i] = exp(-0.5 * x * x);
  }
  for (int i = 0; i < n; i++)
    weight[i] /= sum;
}

static int reflected(int i, int size) { return i < 0 ? -i : i >= size ? 2 * (size - 1) - i : i; }

static int blur(uint8_t *out, const uint8_t *in, int size, int c, int w, int h, double sigma) {
  size_t row = (size_t)size * c;
  double *weight = mx_malloc(((size_t)w + h + row * size) * sizeof *weight), *down = weight + w, *rows = down + h;
  if (!weight)
    return IMAGE_NOMEM;
  weights_of(weight, w, sigma);
  weights_of(down, h, sigma);
  for (int y = 0; y < size; y++)
    for (size_t x = 0; x < row; x++) {
      double sum = 0;
      for (int j = 0; j < w; j++)
        sum += weight[j] * in[y * row + (size_t)reflected((int)(x / c) + j - w / 2, size) * c + x % c];
      rows[y * row + x] = sum;
    }
  for (int y = 0; y < size; y++)
    for (size_t x = 0; x < row; x++) {
      double sum = 0;
      for (int j = 0; j < h; j++)
        sum += down[j] * rows[(size_t)reflected(y + j - h / 2, size) * row + x];
      out[y * row + x] = (uint8_t)nearbyint(sum);
    }
  mx_free(weight);
  return IMAGE_OK;
}

static void erase(uint8_t *px, int size, int c, const double box[4], const double value[3]) {
  for (int y = (int)box[0]; y < (int)(box[0] + box[2]); y++)
    for (int x = (int)box[1]; x < (int)(box[1] + box[3]); x++)
      for (int k = 0; k < c; k++)
        px[((size_t)y * size + x) * c + k] = (uint8_t)nearbyint(value[k]);
}

/* ---- all of them ------------------------------------------------------------------------------------------- */
/* One step from `in` to `out`, which holds the same pixels. */
static int apply(uint8_t *out, const uint8_t *in, int size, int c, const augment_step *a, const augment_drawn *d,
                 bool mask) {
  if (mask && a->kind >= AUGMENT_JITTER)
    return IMAGE_OK; /* these move nothing */
  switch (a->kind) {
  case AUGMENT_HORIZONTAL_FLIP:
  case AUGMENT_VERTICAL_FLIP: flip(out, in, size, c, a->kind == AUGMENT_HORIZONTAL_FLIP); break;
  case AUGMENT_ROTATION:
  case AUGMENT_AFFINE: turn(out, in, size, c, a, d, mask); break;
  case AUGMENT_RESIZED_CROP: return resized_crop(out, in, size, c, d->v, a->bilinear && !mask);
  case AUGMENT_BLUR: return blur(out, in, size, c, (int)a->kernel[0], (int)a->kernel[1], d->v[0]);
  case AUGMENT_ERASING: erase(out, size, c, d->v, a->fill); break;
  default:
    for (int i = 3; i < 6; i++)
      adjust(out, (size_t)size * size, c, (int)d->v[i], d->v[(int)d->v[i]]);
  }
  return IMAGE_OK;
}

int augment_apply(uint8_t *out, const uint8_t *in, int size, int c, const augment_step *steps, int n,
                  const augment_key *key, bool mask, augment_drawn *drawn) {
  size_t bytes = (size_t)size * size * c;
  uint8_t *before = mx_malloc(bytes);
  int status = before ? IMAGE_OK : IMAGE_NOMEM;
  source s;
  mx_stream_init(&s.stream, key->seed, "augment@2", key->id, key->epoch);
  memcpy(out, in, bytes);
  for (int i = 0; !status && i < n; i++) {
    augment_drawn d;
    s.at = (uint64_t)i * DRAWS;
    draw(&steps[i], size, &s, &d);
    if (drawn)
      drawn[i] = d;
    if (!d.happens)
      continue;
    memcpy(before, out, bytes);
    status = apply(out, before, size, c, &steps[i], &d, mask);
  }
  mx_free(before);
  return status;
}
