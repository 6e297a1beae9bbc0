/* Resize, crop and nearest against what Pillow and torchvision make of the same pictures (SHA-256 of all pixels). */
#include <stdio.h>
#include <string.h>
#include "alloc.h"
#include "image.h"
#include "sha256.h"

enum { BILINEAR, NEAREST, FIT, FIT_NEAREST };

static const struct {
  int w, h, c, a, b, how;
  const char *digest;
} expected[] = {
#include "resize_expected.h"
};

static void formula(image *im) { /* the integers of tests/reference/resize.py */
  for (int y = 0; y < im->h; y++)
    for (int x = 0; x < im->w; x++)
      for (int k = 0; k < im->c; k++) {
        int64_t v = (int64_t)x * (3 + 2 * k) + (int64_t)y * (7 - k) + (int64_t)x * y / (5 + k);
        v += 40 * (x * 2 > im->w) + 90 * (y * 2 > im->h) + 31 * k;
        im->px[((size_t)y * im->w + x) * im->c + k] = (uint8_t)(v % 256);
      }
}

static int fit(image *out, const image *im, int short_side, int size, int nearest) {
  image sized;
  int w = im->w, h = im->h;
  image_short_side(&w, &h, short_side);
  int status = nearest ? image_resize_nearest(&sized, im, w, h) : image_resize(&sized, im, w, h);
  status =
    status ? status : image_crop(out, &sized, image_crop_offset(w, size), image_crop_offset(h, size), size, size);
  image_free(&sized);
  return status;
}

int main(void) {
  int wrong = 0, n = (int)(sizeof expected / sizeof expected[0]);
  image im = { 0 };
  for (int i = 0; i < n; i++) {
    int w = expected[i].w, h = expected[i].h, c = expected[i].c, a = expected[i].a, b = expected[i].b,
        how = expected[i].how, status;
    image out = { 0 };
    uint8_t digest[32];
    char hex[65];
    if (im.w != w || im.h != h || im.c != c) {
      image_free(&im);
      if (image_new(&im, w, h, c))
        return 2;
      formula(&im);
    }
    if (how == BILINEAR)
      status = image_resize(&out, &im, a, b);
    else if (how == NEAREST)
      status = image_resize_nearest(&out, &im, a, b);
    else
      status = fit(&out, &im, a, b, how == FIT_NEAREST);
    image_digest(&out, digest);
    sha256_hex(digest, hex);
    if (status || strcmp(hex, expected[i].digest)) {
      printf("%d x %d x %d to %d, %d (%d): status %d, %s\n", w, h, c, a, b, how, status, hex);
      wrong++;
    }
    image_free(&out);
  }
  image_free(&im);
  printf("%d of %d wrong, %lld blocks alive\n", wrong, n, (long long)mx_alloc_live());
  return wrong != 0 || mx_alloc_live() != 0;
}
