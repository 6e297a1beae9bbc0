/* image_resize.c: resizing and cropping as Pillow and torchvision do them, to the last bit. */
#include <math.h>
#include <string.h>
#include "alloc.h"
#include "image_priv.h"
#include "vector.h"

/* ---- Pillow's bilinear resize ------------------------------------------------------------------------------ */
#define PRECISION 22 /* of weights: 32 bits minus the 8 of a pixel and 2 spare ones, as in Pillow */

/* For each output position: the first input position and the fixed-point weights of those that it covers. */
typedef struct taps {
  int size;     /* weights per place, room */
  int *first, *count;
  int32_t *weight; /* out * size */
} taps;

static void taps_free(taps *t) { mx_free(t->first); }

static int taps_make(taps *t, int in, int out) {
  double scale = (double)in / out, wide = scale < 1 ? 1 : scale, support = wide; /* a triangle of half-width `wide` */
  t->size = (int)ceil(support) * 2 + 1;
  size_t ints = (size_t)out * (2 + (size_t)t->size);
  int *block = mx_malloc(ints * sizeof *block + (size_t)t->size * sizeof(double) + 8);
  if (!block)
    return IMAGE_NOMEM;
  t->first = block;
  t->count = block + out;
  t->weight = (int32_t *)(block + 2 * (size_t)out);
  double *k = (double *)(block + ints + (ints & 1)), step = 1.0 / wide;
  for (int i = 0; i < out; i++) {
    double centre = (i + 0.5) * scale, sum = 0;
    int lo = (int)(centre - support + 0.5), hi = (int)(centre + support + 0.5);
    lo = lo < 0 ? 0 : lo;
    hi = (hi > in ? in : hi) - lo;
    for (int j = 0; j < hi; j++) {
      double x = fabs((j + lo - centre + 0.5) * step);
      k[j] = x < 1 ? 1 - x : 0;
      sum += k[j];
    }
    t->first[i] = lo;
    t->count[i] = hi;
    for (int j = 0; j < hi; j++)
      t->weight[(size_t)i * t->size + j] = (int32_t)(0.5 + (sum != 0 ? k[j] / sum : k[j]) * (1 << PRECISION));
  }
  return IMAGE_OK;
}

static uint8_t narrow(int32_t v) {
  v >>= PRECISION;
  return v < 0 ? 0 : v > 255 ? 255 : (uint8_t)v;
}

/* One row: w pixels of c channels. */
static void resize_row(uint8_t *restrict out, const uint8_t *restrict in, int w, int c, const taps *t) {
  for (int x = 0; x < w; x++) {
    const uint8_t *p = in + (size_t)t->first[x] * c;
    const int32_t *k = t->weight + (size_t)x * t->size;
    int n = t->count[x];
    if (c == 1) {
      int32_t s = 1 << (PRECISION - 1);
      for (int j = 0; j < n; j++)
        s += p[j] * k[j];
      out[x] = narrow(s);
      continue;
    }
    int32_t r = 1 << (PRECISION - 1), g = r, b = r;
    for (int j = 0; j < n; j++, p += 3) {
      r += p[0] * k[j];
      g += p[1] * k[j];
      b += p[2] * k[j];
    }
    out[3 * x] = narrow(r);
    out[3 * x + 1] = narrow(g);
    out[3 * x + 2] = narrow(b);
  }
}

MX_EVERY_WIDTH static void resize_columns(uint8_t *restrict out, const uint8_t *restrict in, int bytes,
                                          const int32_t *restrict k, int n, int32_t *restrict sum) {
  for (int x = 0; x < bytes; x++) /* vectorized */
    sum[x] = 1 << (PRECISION - 1);
  for (int j = 0; j < n; j++, in += bytes)
    for (int x = 0; x < bytes; x++) /* vectorized */
      sum[x] += in[x] * k[j];
  for (int x = 0; x < bytes; x++) /* vectorized */
    out[x] = narrow(sum[x]);
}

static int resize_across(image *out, const image *im, int w) {
  taps t;
  image wide;
  if (w == im->w)
    return image_copy(out, im);
  if (taps_make(&t, im->w, w))
    return IMAGE_NOMEM;
  int status = image_new(&wide, w, im->h, im->c);
  for (int y = 0; !status && y < im->h; y++)
    resize_row(wide.px + (size_t)y * w * im->c, im->px + (size_t)y * im->w * im->c, w, im->c, &t);
  taps_free(&t);
  if (!status) {
    wide.bits = im->bits;
    *out = wide;
  }
  return status;
}

static int resize_down(image *im, int h) { /* in place */
  taps t;
  image tall;
  int bytes = im->w * im->c;
  if (h == im->h)
    return IMAGE_OK;
  if (taps_make(&t, im->h, h))
    return IMAGE_NOMEM;
  int32_t *sum = mx_malloc((size_t)bytes * sizeof *sum);
  int status = sum ? image_new(&tall, im->w, h, im->c) : IMAGE_NOMEM;
  for (int y = 0; !status && y < h; y++)
    resize_columns(tall.px + (size_t)y * bytes, im->px + (size_t)t.first[y] * bytes, bytes,
                   t.weight + (size_t)y * t.size, t.count[y], sum);
  mx_free(sum);
  taps_free(&t);
  if (!status) {
    tall.bits = im->bits;
    mx_free(im->px);
    *im = tall;
  }
  return status;
}

int image_resize(image *out, const image *im, int w, int h) {
  image step;
  if (resize_across(&step, im, w))
    return IMAGE_NOMEM;
  if (resize_down(&step, h)) {
    image_free(&step);
    return IMAGE_NOMEM;
  }
  *out = step;
  return IMAGE_OK;
}

int image_resize_nearest(image *out, const image *im, int w, int h) {
  image to;
  int *from = mx_malloc((size_t)w * sizeof *from);
  if (!from || image_new(&to, w, h, im->c)) {
    mx_free(from);
    return IMAGE_NOMEM;
  }
  /* The position is accumulated step by step, as in Pillow, since its last bits decide ties. */
  double sx = (double)im->w / w, sy = (double)im->h / h, at = sx * 0.5;
  for (int x = 0; x < w; x++, at += sx)
    from[x] = (int)at < im->w ? (int)at : im->w - 1;
  at = sy * 0.5;
  for (int y = 0; y < h; y++, at += sy) {
    const uint8_t *row = im->px + (size_t)((int)at < im->h ? (int)at : im->h - 1) * im->w * im->c;
    for (int x = 0; x < w; x++)
      memcpy(to.px + ((size_t)y * w + x) * im->c, row + (size_t)from[x] * im->c, (size_t)im->c);
  }
  mx_free(from);
  to.bits = im->bits;
  *out = to;
  return IMAGE_OK;
}

/* ---- short side, crop ------------------------------------------------------------------------------------- */
void image_short_side(int *w, int *h, int short_side) {
  int *s = *w <= *h ? w : h, *l = *w <= *h ? h : w;
  int64_t other = (int64_t)short_side * *l / *s;
  *s = short_side;
  *l = other > IMAGE_MAX_SIDE ? IMAGE_MAX_SIDE : (int)other;
}

int image_crop_offset(int side, int size) {
  int spare = side - size, half = spare / 2;
  return spare % 2 && half % 2 ? half + 1 : half; /* round half to even */
}

int image_crop(image *out, const image *im, int x, int y, int w, int h) {
  image to;
  if (x < 0 || y < 0 || x + w > im->w || y + h > im->h)
    return IMAGE_ERROR;
  if (image_new(&to, w, h, im->c))
    return IMAGE_NOMEM;
  for (int r = 0; r < h; r++)
    memcpy(to.px + (size_t)r * w * im->c, im->px + ((size_t)(y + r) * im->w + x) * im->c, (size_t)w * im->c);
  to.bits = im->bits;
  *out = to;
  return IMAGE_OK;
}
