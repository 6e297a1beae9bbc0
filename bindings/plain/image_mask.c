/* image_mask.c: the mask modes of image.h: the thesis' fill between the lungs, the mask as it is, its hull, its
 * bounding box, complements, and the mask alone. They work on 8-bit images at the file's size, before any resize. A
 * mask without lung is an error, so that an unmasked image never counts as masked. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "alloc.h"
#include "image_priv.h"
#include "vector.h"

const char *const image_mask_names[IMAGE_MASK_COUNT] = { "none",    "lungs", "lungs_raw", "lungs_hull",
                                                         "outside", "box",   "border",    "shape" };

MX_EVERY_WIDTH static uint8_t largest(const uint8_t *p, size_t n) {
  uint8_t top = 0;
  for (size_t i = 0; i < n; i++) /* vectorized */
    top = p[i] > top ? p[i] : top;
  return top;
}

/* 255 from bar on, else 0 */
MX_EVERY_WIDTH static void threshold(uint8_t *p, size_t n, uint8_t bar) {
  for (size_t i = 0; i < n; i++) /* vectorized */
    p[i] = p[i] >= bar ? 255 : 0;
}

MX_EVERY_WIDTH static void keep_gray(uint8_t *restrict px, const uint8_t *restrict mask, size_t n, uint8_t light,
                                     uint8_t inverse) {
  for (size_t i = 0; i < n; i++) /* vectorized */
    px[i] = (px[i] | light) & (mask[i] ^ inverse);
}

const char *const image_mask_resizes[3] = { "none", "nearest", "bilinear" };

static bool all_the_same(const uint8_t *p, size_t n) { return n < 2 || !memcmp(p, p + 1, n - 1); }

int image_binary(image *mask, char *why) {
  size_t n = (size_t)mask->w * mask->h;
  for (size_t i = 0; mask->c == 3 && i < n; i++) {
    const uint8_t *p = mask->px + 3 * i, top = p[0] > p[1] ? p[0] : p[1];
    mask->px[i] = top > p[2] ? top : p[2];
  }
  mask->c = 1;
  uint8_t top = largest(mask->px, n);
  if (mask->alpha && all_the_same(mask->px, n))
    return image_fail(why,
                      "its color is the same everywhere, its content lies in the alpha channel. Save that as gray "
                      "values");
  if (mask->bits == 16 && top < 128 && mask->top > 0 && mask->top < 128 * 257) /* 0 and 1 in 16 bits become 0 in 8 */
    return image_fail(why, "its largest 16-bit value is %d (expected 0 and 65535, or 0 and 1 in 8 bits)", mask->top);
  if (top > 1 && top < 128)
    return image_fail(why, "its largest value is %d (expected 0 and 255, or 0 and 1)", top);
  threshold(mask->px, n, top == 1 ? 1 : 128);
  if (!memchr(mask->px, 0, n))
    return image_fail(why, "it marks the whole image");
  return IMAGE_OK;
}

int image_fit_mask(image *mask, int w, int h, image_mask_resize how, char *why) {
  image out;
  if (mask->w == w && mask->h == h)
    return IMAGE_OK;
  if (how == IMAGE_MASK_RESIZE_NONE)
    return image_fail(why, "it is %d x %d, its image %d x %d; mask_resize = 'nearest' would stretch it", mask->w,
                      mask->h, w, h);
  const bool nearest = how == IMAGE_MASK_RESIZE_NEAREST;
  int status = nearest ? image_resize_nearest(&out, mask, w, h) : image_resize(&out, mask, w, h);
  if (status)
    return snprintf(why, IMAGE_WHY, "out of memory"), status;
  threshold(out.px, (size_t)w * h, 128);
  image_free(mask);
  *mask = out;
  return IMAGE_OK;
}

/* ---- the thesis' fill ---------------------------------------------------------------------------------------- */
static bool column_has_lung(const image *mask, int x) {
  for (int y = mask->h - 1; y >= 1; y--)
    if (mask->px[(size_t)y * mask->w + x] == 255)
      return true;
  return false;
}

int image_lung_fill(image *mask, char *why) {
  int w = mask->w, h = mask->h, left = 0, right = w - 1;
  size_t n = (size_t)w * h;
  const uint8_t *first = memchr(mask->px, largest(mask->px, n), n);
  int top = (int)((size_t)(first - mask->px) / (size_t)w);
  while (left < w / 2 && !column_has_lung(mask, left))
    left++;
  while (right > w / 2 && !column_has_lung(mask, right))
    right--;
  if (left == w / 2 || right == w / 2) {
    bool none = left == w / 2 && right == w / 2;
    return image_fail(why, none ? "it shows no lung" : "it shows no lung in its %s half",
                      left == w / 2 ? "left" : "right");
  }
  for (int y = top + 1; y <= h - 2; y++)
    for (int x = left + 1; x < right && x <= w - 2; x++)
      mask->px[(size_t)y * w + x] = 255;
  return IMAGE_OK;
}

/* ---- hull ------------------------------------------------------------------------------------------------------ */
typedef struct point { int x, y; } point;

/* Going down from a to c: positive where b lies to the right of the line. */
static int64_t turn(point a, point b, point c) {
  return (int64_t)(b.x - a.x) * (c.y - a.y) - (int64_t)(b.y - a.y) * (c.x - a.x);
}

/* Adds p to a convex chain, which turns in one direction only: sign 1 or -1. */
static int push(point *chain, int n, point p, int sign) {
  while (n >= 2 && sign * turn(chain[n - 2], chain[n - 1], p) <= 0)
    n--;
  chain[n] = p;
  return n + 1;
}

/* Where the chain crosses row y, rounded inwards: up for the left chain, down for the right one. */
static int crossing(const point *chain, int n, int *at, int y, bool left) {
  while (*at + 2 < n && chain[*at + 1].y < y)
    ++*at;
  point a = chain[*at], b = n > 1 ? chain[*at + 1] : a;
  int64_t height = b.y - a.y, across = (int64_t)(b.x - a.x) * (y - a.y);
  if (height == 0)
    return left ? (a.x < b.x ? a.x : b.x) : (a.x > b.x ? a.x : b.x);
  int64_t q = across / height, r = across % height; /* height > 0 */
  if (r < 0)
    q--, r += height;
  return a.x + (int)q + (left && r ? 1 : 0);
}

/* The convex hull of the pixels' centers, filled: rows from the first with lung to the last. */
static int fill_hull(image *mask) {
  int w = mask->w, h = mask->h, nl = 0, nr = 0, first = -1, last = -1;
  point *left = mx_malloc(2 * (size_t)h * sizeof *left), *right = left ? left + h : NULL;
  if (!left)
    return IMAGE_NOMEM;
  for (int y = 0; y < h; y++) {
    const uint8_t *row = mask->px + (size_t)y * w;
    int lo = 0, hi = w - 1;
    while (lo < w && !row[lo])
      lo++;
    while (hi > lo && !row[hi])
      hi--;
    if (lo == w)
      continue;
    first = first < 0 ? y : first;
    last = y;
    nl = push(left, nl, (point){ lo, y }, -1);
    nr = push(right, nr, (point){ hi, y }, 1);
  }
  int al = 0, ar = 0;
  for (int y = first; first >= 0 && y <= last; y++) {
    int lo = crossing(left, nl, &al, y, true), hi = crossing(right, nr, &ar, y, false);
    memset(mask->px + (size_t)y * w + lo, 255, (size_t)(hi - lo + 1));
  }
  mx_free(left);
  return IMAGE_OK;
}

/* ---- box -------------------------------------------------------------------------------------------------------- */
static void fill_box(image *mask) {
  int w = mask->w, x0 = w, x1 = -1, y0 = -1, y1 = -1;
  for (int y = 0; y < mask->h; y++)
    for (int x = 0; x < w; x++)
      if (mask->px[(size_t)y * w + x]) {
        x0 = x < x0 ? x : x0;
        x1 = x > x1 ? x : x1;
        y0 = y0 < 0 ? y : y0;
        y1 = y;
      }
  for (int y = y0; y <= y1; y++)
    memset(mask->px + (size_t)y * w + x0, 255, (size_t)(x1 - x0 + 1));
}

/* ---- all -------------------------------------------------------------------------------------------------------- */
/* Changes the mask into the pixels to keep. */
static int shape_mask(image *mask, image_mask mode, char *why) {
  if (!memchr(mask->px, 255, (size_t)mask->w * mask->h))
    return image_fail(why, "it shows no lung");
  switch (mode) {
    case IMAGE_MASK_LUNGS: case IMAGE_MASK_SHAPE: return image_lung_fill(mask, why);
    case IMAGE_MASK_LUNGS_HULL:
      if (fill_hull(mask))
        return snprintf(why, IMAGE_WHY, "out of memory"), IMAGE_NOMEM;
      return IMAGE_OK;
    case IMAGE_MASK_BOX: case IMAGE_MASK_BORDER: return fill_box(mask), IMAGE_OK;
    default: return IMAGE_OK;
  }
}

int image_apply_mask(image *im, image *mask, image_mask mode, char *why) {
  if (mode == IMAGE_MASK_NONE)
    return IMAGE_OK;
  if (mask->w != im->w || mask->h != im->h || mask->c != 1)
    return image_fail(why, "it is %d x %d, its image %d x %d", mask->w, mask->h, im->w, im->h);
  int status = shape_mask(mask, mode, why);
  if (status)
    return status;
  uint8_t inverse = mode == IMAGE_MASK_OUTSIDE || mode == IMAGE_MASK_BORDER ? 255 : 0,
          light = mode == IMAGE_MASK_SHAPE ? 255 : 0;
  size_t n = (size_t)im->w * im->h;
  if (im->c == 1)
    keep_gray(im->px, mask->px, n, light, inverse);
  for (size_t i = 0; im->c > 1 && i < n; i++)
    for (int k = 0; k < im->c; k++)
      im->px[i * im->c + k] = (im->px[i * im->c + k] | light) & (mask->px[i] ^ inverse);
  return IMAGE_OK;
}
