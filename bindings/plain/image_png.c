/* image_png.c: PNG in and out, by stb_image and stb_image_write. stb accepts files that end early and does not check
 * checksums, so both are checked here. */
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "alloc.h"
#include "crc32.h"
#include "image_priv.h"

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

/* stb's writer does not check for NULL. So its blocks are kept in a ring, and a failing allocation jumps back to
 * image_encode_png, which frees the ring. */
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

/* stb declares more functions than it defines, of which GCC warns at the end of the file. */
#pragma GCC diagnostic ignored "-Wunused-function"
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

/* ---- reading ----------------------------------------------------------------------------------------------- */
static uint32_t big32(const uint8_t *p) {
  return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

/* Checks the chunks: each must be complete, critical ones must have the right checksum, and IEND must be there. */
static int check_png(const uint8_t *p, size_t n, int *notes, char *why) {
  size_t at = 8;
  bool data = false;
  if (n < 33 || memcmp(p + 12, "IHDR", 4))
    return image_fail(why, n < 33 ? "the PNG is truncated" : "the PNG has no header");
  for (;;) {
    if (n - at < 12)
      return image_fail(why, "the PNG is truncated");
    uint32_t length = big32(p + at);
    if (length > n - at - 12)
      return image_fail(why, "the PNG is truncated");
    const uint8_t *type = p + at + 4;
    if (!(type[0] & 32) && mx_crc32(0, type, length + 4) != big32(type + 4 + length))
      return image_fail(why, "the PNG is corrupt: wrong checksum in its %.4s", type);
    if (!memcmp(type, "eXIf", 4) && image_exif_orientation(type + 4, length) != 1)
      *notes |= IMAGE_NOTE_ORIENTATION;
    data |= !memcmp(type, "IDAT", 4);
    if (!memcmp(type, "IEND", 4))
      return data ? IMAGE_OK : image_fail(why, "the PNG holds no image");
    at += 12 + length;
  }
}

/* A copy of a PNG with a palette, which is extended to 256 colors with black: for missing ones stb would read
 * uninitialized memory. The caller frees it. NULL: out of memory. The palette's checksum is not updated, since stb does
 * not read it. */
static uint8_t *full_palette(const uint8_t *p, size_t *n) {
  size_t at = 8;
  while (memcmp(p + at + 4, "PLTE", 4) && memcmp(p + at + 4, "IEND", 4))
    at += 12 + big32(p + at);
  size_t length = big32(p + at), more = !memcmp(p + at + 4, "PLTE", 4) && length < 768 ? 768 - length : 0,
         head = at + 8 + length;
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

/* Gives stb the bytes as a stream, so that reading past the end is noticed: stb would continue with zeros. */
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

int image_png_size(int *w, int *h, int *c, const uint8_t *p, size_t n, char *why) {
  int channels = 0;
  stream s = { p, n, 0, false };
  if (n < 33)
    return image_fail(why, "the PNG is truncated");
  out_of_memory = false;
  if (!stbi_info_from_callbacks(&stream_calls, &s, w, h, &channels)) {
    if (out_of_memory)
      return image_no_memory(why);
    if (s.past_end)
      return image_fail(why, "the PNG is truncated");
    return image_fail(why, "the PNG is not one this reads: %s", stbi_failure_reason());
  }
  *c = channels >= 3 ? 3 : 1;
  return IMAGE_OK;
}

/* Whether the last of n channels, alpha, is not constant. step: bytes per sample. */
static bool alpha_varies(const void *px, size_t pixels, int n, size_t step) {
  const uint8_t *first = (const uint8_t *)px + (size_t)(n - 1) * step;
  if (n != 2 && n != 4)
    return false;
  for (size_t i = 1; i < pixels; i++)
    if (memcmp(first, first + i * (size_t)n * step, step))
      return true;
  return false;
}

/* The largest sample of the color channels, and the share above white. */
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

int image_png_decode(image *out, const void *bytes, size_t n, int white16, char *why) {
  int w, h, c, bits, channels, notes = 0, status = image_size(&w, &h, &c, &bits, bytes, n, why);
  status = status ? status : check_png(bytes, n, &notes, why);
  if (status)
    return status;
  uint8_t *padded = NULL;
  if (((const uint8_t *)bytes)[25] == 3 && !(bytes = padded = full_palette(bytes, &n)))
    return image_no_memory(why);
  /* Enough for stb's doubling of buffers, but not for a small file that inflates to gigabytes. */
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
    return out_of_memory ? image_no_memory(why)
           : s.past_end  ? image_fail(why, "the PNG is truncated")
                         : image_fail(why, "the PNG is corrupt: %s", stbi_failure_reason());
  int top = 0, white = white16 > 0 ? white16 : 65535;
  float over = 0;
  const bool alpha = alpha_varies(wide ? (void *)wide : px, (size_t)w * h, channels, wide ? 2 : 1);
  if (wide) {
    top = range16(wide, (size_t)w * h, channels, white, &over);
    px = narrow16(wide, (size_t)w * h * channels, white);
    mx_free(wide);
    if (!px)
      return image_no_memory(why);
  }
  drop_alpha(px, (size_t)w * h, channels, c);
  *out = (image){ .w = w, .h = h, .c = c, .bits = bits, .top = top, .notes = notes,
                  .px = px, .alpha = alpha, .over = over };
  return IMAGE_OK;
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
  sink s = { 0 }; /* changed only after the last possible longjmp */
  writer_ring.prev = writer_ring.next = &writer_ring;
  bool written =
    setjmp(writer_exit) == 0 && stbi_write_png_to_func(sink_write, &s, im->w, im->h, im->c, im->px, im->w * im->c);
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

int image_encode_jpeg(uint8_t **bytes, size_t *n, const image *im, int quality) {
  sink s = { 0 };
  int written = stbi_write_jpg_to_func(sink_write, &s, im->w, im->h, im->c, im->px, quality);
  if (!written || s.failed) {
    mx_free(s.p);
    return IMAGE_NOMEM;
  }
  *bytes = s.p;
  *n = s.n;
  return IMAGE_OK;
}
