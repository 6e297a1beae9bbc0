/* Pictures in plain C: stb_image decodes PNG, image_jpeg.c JPEG, stb_image_write encodes PNG; resize follows Pillow's
 * fixed-point arithmetic. stb accepts files that end early and does not check checksums, so both are checked here.
 * It refuses to show half a picture. */
#include "image.h"
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "alloc.h"
#include "image_jpeg.h"
#include "sha256.h"

/* ---- stb, with our malloc and a ceiling on what one file may unpack to ------------------------------------- */
static _Thread_local size_t unpack_limit = SIZE_MAX;
static _Thread_local bool out_of_memory;

static void *stb_alloc(size_t n) {
  if (n > unpack_limit)
    return NULL;
  void *p = mx_malloc(n);
  out_of_memory |= !p;
  return p;
}

static void *stb_realloc(void *old, size_t n) {
  if (n > unpack_limit)
    return NULL;
  void *p = mx_realloc(old, n);
  out_of_memory |= !p;
  return p;
}

/* stb's writer uses what its realloc returns without looking. So its blocks are kept in a ring, and the one that cannot be had
 * jumps back to image_encode_png, which frees the ring. */
typedef struct writer_block {
  struct writer_block *prev, *next;
} writer_block;

static _Thread_local writer_block writer_ring;
static _Thread_local jmp_buf writer_exit;

static void *writer_realloc(void *old, size_t n) {
  writer_block *before = old ? (writer_block *)old - 1 : NULL, *b = mx_realloc(before, n + sizeof *b);
  if (!b)
    longjmp(writer_exit, 1);
  if (!before) {
    b->prev = &writer_ring;
    b->next = writer_ring.next;
  }
  b->prev->next = b->next->prev = b;
  return b + 1;
}

static void writer_free(void *p) {
  writer_block *b = p ? (writer_block *)p - 1 : NULL;
  if (!b)
    return;
  b->prev->next = b->next;
  b->next->prev = b->prev;
  mx_free(b);
}

#pragma GCC diagnostic ignored "-Wunused-function" /* stb declares more than it defines: told at the end of the file */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-parameter"
#pragma GCC diagnostic ignored "-Wunused-but-set-variable"
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"
#define STB_IMAGE_IMPLEMENTATION
#define STB_IMAGE_STATIC
#define STBI_ONLY_PNG
#define STBI_NO_STDIO
#define STBI_FAILURE_USERMSG
#define STBI_MAX_DIMENSIONS IMAGE_MAX_SIDE
#define STBI_MALLOC(n) stb_alloc(n)
#define STBI_REALLOC(p, n) stb_realloc(p, n)
#define STBI_FREE(p) mx_free(p)
#include <stb/stb_image.h>
#define STB_IMAGE_WRITE_IMPLEMENTATION
#define STB_IMAGE_WRITE_STATIC
#define STBI_WRITE_NO_STDIO
#define STBIW_MALLOC(n) writer_realloc(NULL, n)
#define STBIW_REALLOC(p, n) writer_realloc(p, n)
#define STBIW_FREE(p) writer_free(p)
#include <stb/stb_image_write.h>
#pragma GCC diagnostic pop

static int fail(char *why, const char *format, ...) __attribute__((format(printf, 2, 3)));
static int fail(char *why, const char *format, ...) {
  va_list args;
  va_start(args, format);
  vsnprintf(why, IMAGE_WHY, format, args);
  va_end(args);
  return IMAGE_ERROR;
}

static int no_memory(char *why) {
  if (why)
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

/* ---- what kind of file ------------------------------------------------------------------------------------- */
static bool is_png(const uint8_t *p, size_t n) { return n >= 8 && !memcmp(p, "\x89PNG\r\n\x1a\n", 8); }
static bool is_jpeg(const uint8_t *p, size_t n) { return n >= 3 && p[0] == 0xff && p[1] == 0xd8 && p[2] == 0xff; }
static uint32_t big32(const uint8_t *p) { return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3]; }

static int not_an_image(const uint8_t *p, size_t n, char *why) {
  if (n == 0)
    return fail(why, "the file is empty");
  if (n < 8 && !memcmp(p, "\x89PNG\r\n\x1a\n", n))
    return fail(why, "the PNG is truncated");
  return fail(why, "not a PNG or JPEG");
}

static uint32_t crc32_png(const uint8_t *p, size_t n) {
  static uint32_t table[256]; /* filled alike by every thread that gets here first */
  if (!__atomic_load_n(&table[255], __ATOMIC_ACQUIRE))
    for (uint32_t i = 0; i < 256; i++) {
      uint32_t c = i;
      for (int k = 0; k < 8; k++)
        c = c & 1 ? 0xedb88320u ^ c >> 1 : c >> 1;
      __atomic_store_n(&table[i], c, __ATOMIC_RELEASE);
    }
  uint32_t c = 0xffffffffu;
  for (; n; n--)
    c = __atomic_load_n(&table[(c ^ *p++) & 255], __ATOMIC_RELAXED) ^ c >> 8;
  return ~c;
}

/* Walks the chunks: each whole, the critical ones with the right checksum, IEND present. */
static int check_png(const uint8_t *p, size_t n, int *notes, char *why) {
  size_t at = 8;
  bool data = false;
  if (n < 33 || memcmp(p + 12, "IHDR", 4))
    return fail(why, n < 33 ? "the PNG is truncated" : "the PNG has no header");
  for (;;) {
    if (n - at < 12)
      return fail(why, "the PNG is truncated");
    uint32_t length = big32(p + at);
    if (length > n - at - 12)
      return fail(why, "the PNG is truncated");
    const uint8_t *type = p + at + 4;
    if (!(type[0] & 32) && crc32_png(type, length + 4) != big32(type + 4 + length))
      return fail(why, "the PNG is corrupt: wrong checksum in its %.4s", type);
    if (!memcmp(type, "eXIf", 4) && image_exif_orientation(type + 4, length) != 1)
      *notes |= IMAGE_NOTE_ORIENTATION;
    data |= !memcmp(type, "IDAT", 4);
    if (!memcmp(type, "IEND", 4))
      return data ? IMAGE_OK : fail(why, "the PNG holds no picture");
    at += 12 + length;
  }
}

/* A whole PNG of indexed colours with its palette made 256 long, the colours that it lacks black: stb takes those from its stack.
 * The caller frees it. NULL: out of memory. The checksum is left out, nobody looks at it any more. */
static uint8_t *full_palette(const uint8_t *p, size_t *n) {
  size_t at = 8;
  while (memcmp(p + at + 4, "PLTE", 4) && memcmp(p + at + 4, "IEND", 4))
    at += 12 + big32(p + at);
  size_t length = big32(p + at), more = !memcmp(p + at + 4, "PLTE", 4) && length < 768 ? 768 - length : 0, head = at + 8 + length;
  uint8_t *out = mx_calloc(*n + more, 1);
  if (!out)
    return NULL;
  memcpy(out, p, head);
  memcpy(out + head + more, p + head, *n - head);
  if (more)
    memcpy(out + at, "\0\0\3\0", 4);
  *n += more;
  return out;
}

/* Memory as stb's stream, so that reading past the end is noticed: stb fills what is missing with zeros. */
typedef struct stream {
  const uint8_t *p;
  size_t n, at;
  bool past_end;
} stream;

static int stream_read(void *ud, char *data, int size) {
  stream *s = ud;
  size_t left = s->n - s->at, take = (size_t)size < left ? (size_t)size : left;
  memcpy(data, s->p + s->at, take);
  s->at += take;
  s->past_end |= take == 0 && size > 0;
  return (int)take;
}

static void stream_skip(void *ud, int count) {
  stream *s = ud;
  if (count < 0) {
    s->at -= (size_t)-count < s->at ? (size_t)-count : s->at;
    return;
  }
  if ((size_t)count > s->n - s->at)
    s->past_end = true;
  s->at += (size_t)count < s->n - s->at ? (size_t)count : s->n - s->at;
}

static int stream_eof(void *ud) {
  stream *s = ud;
  return s->at >= s->n;
}

static const stbi_io_callbacks stream_calls = { stream_read, stream_skip, stream_eof };

static int png_size(int *w, int *h, int *c, const uint8_t *p, size_t n, char *why) {
  int channels = 0;
  stream s = { p, n, 0, false };
  if (n < 33)
    return fail(why, "the PNG is truncated");
  out_of_memory = false;
  if (!stbi_info_from_callbacks(&stream_calls, &s, w, h, &channels)) {
    if (out_of_memory)
      return no_memory(why);
    if (s.past_end)
      return fail(why, "the PNG is truncated");
    return fail(why, "the PNG is not one this reads: %s", stbi_failure_reason());
  }
  *c = channels >= 3 ? 3 : 1;
  return IMAGE_OK;
}

int image_size(int *w, int *h, int *c, int *bits, const void *bytes, size_t n, char *why) {
  const uint8_t *p = bytes;
  bool png = is_png(p, n);
  if (!png && !is_jpeg(p, n))
    return not_an_image(p, n, why);
  int status = png ? png_size(w, h, c, p, n, why) : image_jpeg_size(w, h, c, p, n, why);
  if (status)
    return status;
  if (*w < 1 || *h < 1 || *w > IMAGE_MAX_SIDE || *h > IMAGE_MAX_SIDE || (int64_t)*w * *h > IMAGE_MAX_PIXELS)
    return fail(why, IMAGE_TOO_LARGE, *w, *h, IMAGE_MAX_PIXELS >> 20);
  *bits = png && p[24] == 16 ? 16 : 8;
  return IMAGE_OK;
}

/* Whether the last of n channels, alpha, is not the same everywhere. step: bytes a sample, compared as they lie. */
static bool alpha_varies(const void *px, size_t pixels, int n, size_t step) {
  const uint8_t *first = (const uint8_t *)px + (size_t)(n - 1) * step;
  if (n != 2 && n != 4)
    return false;
  for (size_t i = 1; i < pixels; i++)
    if (memcmp(first, first + i * (size_t)n * step, step))
      return true;
  return false;
}

/* The largest sample of the colour channels, and the share above white. */
static int range16(const uint16_t *wide, size_t pixels, int n, int white, float *over) {
  int top = 0, c = n >= 3 ? 3 : 1;
  size_t cut = 0;
  for (size_t i = 0; i < pixels; i++)
    for (int k = 0; k < c; k++) {
      int v = wide[i * (size_t)n + (size_t)k];
      top = v > top ? v : top;
      cut += v > white;
    }
  *over = (float)cut / (float)(pixels * (size_t)c);
  return top;
}

/* Keeps the first c of n channels, in place. */
static void drop_alpha(uint8_t *px, size_t pixels, int n, int c) {
  if (n == c)
    return;
  for (size_t i = 0; i < pixels; i++)
    for (int k = 0; k < c; k++)
      px[i * c + k] = px[i * n + k];
}

static uint8_t *narrow16(const uint16_t *wide, size_t count, int white) {
  uint8_t *px = mx_malloc(count);
  for (size_t i = 0; px && i < count; i++) {
    uint32_t v = ((uint32_t)wide[i] * 255 + (uint32_t)white / 2) / (uint32_t)white;
    px[i] = v > 255 ? 255 : (uint8_t)v;
  }
  return px;
}

static int png_decode(image *out, const void *bytes, size_t n, int white16, char *why) {
  int w, h, c, bits, channels, notes = 0, status = image_size(&w, &h, &c, &bits, bytes, n, why);
  status = status ? status : check_png(bytes, n, &notes, why);
  if (status)
    return status;
  uint8_t *padded = NULL;
  if (((const uint8_t *)bytes)[25] == 3 && !(bytes = padded = full_palette(bytes, &n)))
    return no_memory(why);
  /* Room for stb's own doublings, but not for a small file that inflates without end. */
  unpack_limit = (size_t)w * h * 4 * (bits / 8) * 3 + n * 2 + (1 << 20);
  out_of_memory = false;
  stream s = { bytes, n, 0, false };
  uint16_t *wide = NULL;
  uint8_t *px = NULL;
  if (bits == 16)
    wide = stbi_load_16_from_callbacks(&stream_calls, &s, &w, &h, &channels, 0);
  else
    px = stbi_load_from_callbacks(&stream_calls, &s, &w, &h, &channels, 0);
  unpack_limit = SIZE_MAX;
  mx_free(padded);
  if (!px && !wide)
    return out_of_memory ? no_memory(why) : s.past_end ? fail(why, "the PNG is truncated")
                                                       : fail(why, "the PNG is corrupt: %s", stbi_failure_reason());
  int top = 0, white = white16 > 0 ? white16 : 65535;
  float over = 0;
  const bool alpha = alpha_varies(wide ? (void *)wide : px, (size_t)w * h, channels, wide ? 2 : 1);
  if (wide) {
    top = range16(wide, (size_t)w * h, channels, white, &over);
    px = narrow16(wide, (size_t)w * h * channels, white);
    mx_free(wide);
    if (!px)
      return no_memory(why);
  }
  drop_alpha(px, (size_t)w * h, channels, c);
  *out = (image){ .w = w, .h = h, .c = c, .bits = bits, .top = top, .notes = notes, .px = px, .alpha = alpha, .over = over };
  return IMAGE_OK;
}

int image_decode(image *out, const void *bytes, size_t n, int white16, char *why) {
  if (is_png(bytes, n))
    return png_decode(out, bytes, n, white16, why);
  return is_jpeg(bytes, n) ? image_jpeg_decode(out, bytes, n, why) : not_an_image(bytes, n, why);
}

int image_read_file(uint8_t **bytes, size_t *n, const char *path, char *why) {
  struct stat st;
  int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC); /* a pipe without a writer would be waited for without end */
  FILE *f = fd >= 0 ? fdopen(fd, "rb") : NULL;
  if (!f) {
    fail(why, "%s", strerror(errno));
    if (fd >= 0)
      close(fd);
    return IMAGE_ERROR;
  }
  int status = IMAGE_OK;
  uint8_t *p = NULL;
  if (fstat(fileno(f), &st) || !S_ISREG(st.st_mode))
    status = fail(why, "not a file");
  else if (st.st_size > (256 << 20))
    status = fail(why, "larger than 256 MiB");
  else if (!(p = mx_malloc((size_t)st.st_size)))
    status = no_memory(why);
  else if (fread(p, 1, (size_t)st.st_size, f) != (size_t)st.st_size)
    status = fail(why, "%s", ferror(f) ? strerror(errno) : "it became shorter while it was read");
  fclose(f);
  if (status) {
    mx_free(p);
    return status;
  }
  *bytes = p;
  *n = (size_t)st.st_size;
  return IMAGE_OK;
}

int image_load(image *out, const char *path, int white16, char *why) {
  uint8_t *bytes = NULL;
  size_t n = 0;
  int status = image_read_file(&bytes, &n, path, why);
  if (status)
    return status;
  status = image_decode(out, bytes, n, white16, why);
  mx_free(bytes);
  return status;
}

/* ---- writing ----------------------------------------------------------------------------------------------- */
typedef struct sink {
  uint8_t *p;
  size_t n;
  bool failed;
} sink;

static void sink_write(void *ud, void *data, int size) {
  sink *s = ud;
  uint8_t *p = s->failed ? NULL : mx_realloc(s->p, s->n + (size_t)size);
  if (!p) {
    s->failed = true;
    return;
  }
  memcpy(p + s->n, data, (size_t)size);
  s->p = p;
  s->n += (size_t)size;
}

int image_encode_png(uint8_t **bytes, size_t *n, const image *im) {
  sink s = { 0 }; /* written only after the last jump that can happen */
  writer_ring.prev = writer_ring.next = &writer_ring;
  bool written = setjmp(writer_exit) == 0 && stbi_write_png_to_func(sink_write, &s, im->w, im->h, im->c, im->px, im->w * im->c);
  while (writer_ring.next != &writer_ring)
    writer_free(writer_ring.next + 1);
  if (!written || s.failed) {
    mx_free(s.p);
    return IMAGE_NOMEM;
  }
  *bytes = s.p;
  *n = s.n;
  return IMAGE_OK;
}

/* ---- Pillow's bilinear resize ------------------------------------------------------------------------------ */
#define PRECISION 22 /* 32 bits less 8 of a pixel less 2 of headroom, as in Pillow */

/* For each output place: the first input place and the fixed-point weights of those that it covers. */
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

/* One row: w places of c channels. */
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

static void resize_columns(uint8_t *restrict out, const uint8_t *restrict in, int bytes, const int32_t *k, int n, int32_t *restrict sum) {
  for (int x = 0; x < bytes; x++)
    sum[x] = 1 << (PRECISION - 1);
  for (int j = 0; j < n; j++, in += bytes)
    for (int x = 0; x < bytes; x++)
      sum[x] += in[x] * k[j];
  for (int x = 0; x < bytes; x++)
    out[x] = narrow(sum[x]);
}

static int copy_image(image *out, const image *im) {
  image copy;
  if (image_new(&copy, im->w, im->h, im->c))
    return IMAGE_NOMEM;
  memcpy(copy.px, im->px, (size_t)im->w * im->h * im->c);
  copy.bits = im->bits;
  *out = copy;
  return IMAGE_OK;
}

static int resize_across(image *out, const image *im, int w) {
  taps t;
  image wide;
  if (w == im->w)
    return copy_image(out, im);
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
    resize_columns(tall.px + (size_t)y * bytes, im->px + (size_t)t.first[y] * bytes, bytes, t.weight + (size_t)y * t.size, t.count[y], sum);
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
  /* The place is summed up step by step, as Pillow does: the last bits decide ties. */
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
    return copy_image(out, im);
  if (image_new(out, im->w, im->h, 1))
    return IMAGE_NOMEM;
  for (size_t i = 0; i < (size_t)im->w * im->h; i++) /* ITU-R 601 luma in 16 bits, as Pillow's "L" */
    out->px[i] = (uint8_t)((im->px[3 * i] * 19595u + im->px[3 * i + 1] * 38470u + im->px[3 * i + 2] * 7471u + 0x8000u) >> 16);
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
