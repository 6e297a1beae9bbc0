/* image.c: images in memory, reading of files by their format, hashes, conversion to floats. image_png.c,
 * image_jpeg.c and image_dicom.c decode, image_resize.c resizes and crops, image_mask.c applies lung masks. */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "alloc.h"
#include "dicom_file.h"
#include "image_priv.h"
#include "sha256.h"

int image_fail(char *why, const char *format, ...) {
  va_list args;
  va_start(args, format);
  vsnprintf(why, IMAGE_WHY, format, args);
  va_end(args);
  return IMAGE_ERROR;
}

int image_no_memory(char *why) {
  snprintf(why, IMAGE_WHY, "out of memory");
  return IMAGE_NOMEM;
}

int image_new(image *out, int w, int h, int c) {
  uint8_t *px = mx_calloc((size_t)w * h, c);
  if (!px)
    return IMAGE_NOMEM;
  *out = (image){ .w = w, .h = h, .c = c, .bits = 8, .px = px };
  return IMAGE_OK;
}

void image_free(image *im) {
  mx_free(im->px);
  *im = (image){ 0 };
}

int image_copy(image *out, const image *im) {
  image copy;
  if (image_new(&copy, im->w, im->h, im->c))
    return IMAGE_NOMEM;
  memcpy(copy.px, im->px, (size_t)im->w * im->h * im->c);
  copy.bits = im->bits;
  *out = copy;
  return IMAGE_OK;
}

/* ---- what kind of file ------------------------------------------------------------------------------------- */
static bool is_png(const uint8_t *p, size_t n) { return n >= 8 && !memcmp(p, "\x89PNG\r\n\x1a\n", 8); }
static bool is_jpeg(const uint8_t *p, size_t n) { return n >= 3 && p[0] == 0xff && p[1] == 0xd8 && p[2] == 0xff; }

static int not_an_image(const uint8_t *p, size_t n, char *why) {
  if (n == 0)
    return image_fail(why, "the file is empty");
  if (n < 8 && !memcmp(p, "\x89PNG\r\n\x1a\n", n))
    return image_fail(why, "the PNG is truncated");
  return image_fail(why, "not a PNG, JPEG or DICOM");
}

int image_size(int *w, int *h, int *c, int *bits, const void *bytes, size_t n, char *why) {
  const uint8_t *p = bytes;
  bool png = is_png(p, n), is_dicom = dicom_is(p, n);
  if (!png && !is_jpeg(p, n) && !is_dicom)
    return not_an_image(p, n, why);
  int status = is_dicom ? image_dicom_size(w, h, c, bits, p, n, why)
               : png    ? image_png_size(w, h, c, p, n, why)
                        : image_jpeg_size(w, h, c, p, n, why);
  if (status)
    return status;
  if (*w < 1 || *h < 1 || *w > IMAGE_MAX_SIDE || *h > IMAGE_MAX_SIDE || (int64_t)*w * *h > IMAGE_MAX_PIXELS)
    return image_fail(why, IMAGE_TOO_LARGE, *w, *h, IMAGE_MAX_PIXELS >> 20);
  if (!is_dicom)
    *bits = png && p[24] == 16 ? 16 : 8;
  return IMAGE_OK;
}

int image_decode(image *out, const void *bytes, size_t n, image_levels levels, char *why) {
  if (is_png(bytes, n))
    return image_png_decode(out, bytes, n, levels.white16, why);
  if (dicom_is(bytes, n))
    return image_dicom_decode(out, bytes, n, &levels.window, why);
  return is_jpeg(bytes, n) ? image_jpeg_decode(out, bytes, n, why) : not_an_image(bytes, n, why);
}

int image_read_file(uint8_t **bytes, size_t *n, const char *path, char *why) {
  struct stat st;
  int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC); /* O_NONBLOCK: opening a pipe without a writer would block */
  FILE *f = fd >= 0 ? fdopen(fd, "rb") : NULL;
  if (!f) {
    image_fail(why, "%s", strerror(errno));
    if (fd >= 0)
      close(fd);
    return IMAGE_ERROR;
  }
  int status = IMAGE_OK;
  uint8_t *p = NULL;
  if (fstat(fileno(f), &st) || !S_ISREG(st.st_mode))
    status = image_fail(why, "not a file");
  else if (st.st_size > (256 << 20))
    status = image_fail(why, "larger than 256 MiB");
  else if (!(p = mx_malloc((size_t)st.st_size)))
    status = image_no_memory(why);
  else if (fread(p, 1, (size_t)st.st_size, f) != (size_t)st.st_size)
    status = image_fail(why, "%s", ferror(f) ? strerror(errno) : "it became shorter while it was read");
  fclose(f);
  if (status) {
    mx_free(p);
    return status;
  }
  *bytes = p;
  *n = (size_t)st.st_size;
  return IMAGE_OK;
}

int image_load(image *out, const char *path, image_levels levels, char *why) {
  uint8_t *bytes = NULL;
  size_t n = 0;
  int status = image_read_file(&bytes, &n, path, why);
  if (status)
    return status;
  status = image_decode(out, bytes, n, levels, why);
  mx_free(bytes);
  return status;
}

/* ---- identity ---------------------------------------------------------------------------------------------- */
void image_digest(const image *im, uint8_t digest[32]) {
  char head[40];
  sha256 s;
  sha256_init(&s);
  sha256_add(&s, head, (size_t)snprintf(head, sizeof head, "%d %d %d\n", im->w, im->h, im->c));
  sha256_add(&s, im->px, (size_t)im->w * im->h * im->c);
  sha256_finish(&s, digest);
}

static int grey(image *out, const image *im) {
  if (im->c == 1)
    return image_copy(out, im);
  if (image_new(out, im->w, im->h, 1))
    return IMAGE_NOMEM;
  for (size_t i = 0; i < (size_t)im->w * im->h; i++) /* ITU-R 601 luma in 16 bits, as Pillow's "L" */
    out->px[i] =
      (uint8_t)((im->px[3 * i] * 19595u + im->px[3 * i + 1] * 38470u + im->px[3 * i + 2] * 7471u + 0x8000u) >> 16);
  return IMAGE_OK;
}

int image_perceptual(const image *im, uint64_t *hash, uint8_t thumbnail[1024]) {
  image g = { 0 }, small = { 0 }, tiny = { 0 };
  int status = grey(&g, im);
  status = status ? status : image_resize(&small, &g, 32, 32);
  status = status ? status : image_resize(&tiny, &g, 9, 8);
  if (!status) {
    memcpy(thumbnail, small.px, 1024);
    uint64_t bits = 0;
    for (int y = 0; y < 8; y++)
      for (int x = 0; x < 8; x++)
        bits = bits << 1 | (tiny.px[9 * y + x + 1] > tiny.px[9 * y + x]);
    *hash = bits;
  }
  image_free(&g);
  image_free(&small);
  image_free(&tiny);
  return status;
}

double image_correlation(const uint8_t a[1024], const uint8_t b[1024]) {
  int64_t sa = 0, sb = 0, aa = 0, bb = 0, ab = 0;
  for (int i = 0; i < 1024; i++) {
    sa += a[i];
    sb += b[i];
    aa += a[i] * a[i];
    bb += b[i] * b[i];
    ab += a[i] * b[i];
  }
  double va = 1024.0 * aa - (double)sa * sa, vb = 1024.0 * bb - (double)sb * sb;
  return va > 0 && vb > 0 ? (1024.0 * ab - (double)sa * sb) / sqrt(va * vb) : 0;
}

/* ---- to floats --------------------------------------------------------------------------------------------- */
void image_float_table(float table[3][256], const float mean[3], const float std[3]) {
  for (int k = 0; k < 3; k++)
    for (int v = 0; v < 256; v++) {
      float x = (float)v / 255.0f;
      table[k][v] = mean && std ? (x - mean[k]) / std[k] : x;
    }
}

void image_to_float(float *out, const uint8_t *px, int w, int h, int c, bool channels_last, const float table[3][256]) {
  size_t n = (size_t)w * h;
  for (int k = 0; k < 3; k++) {
    const uint8_t *p = px + (c == 3 ? k : 0);
    float *to = channels_last ? out + k : out + n * k;
    size_t step = channels_last ? 3 : 1;
    for (size_t i = 0; i < n; i++)
      to[i * step] = table[k][p[i * c]];
  }
}
