/* image_jpeg.c: JPEG by libjpeg-turbo, which is also the library inside Pillow, with the settings that Pillow uses (the
 * accurate integer transform, smooth upsampling): pixels are Pillow's to the last bit, whatever the coding.
 * Files that end early and damaged data are errors: libjpeg would fill such places with gray. */
#include "image_priv.h"
#include <setjmp.h>
#include <stdio.h>
#include <string.h>
#include "alloc.h"
#include <jpeglib.h>
#include <jerror.h>

#if !defined(LIBJPEG_TURBO_VERSION_NUMBER) || LIBJPEG_TURBO_VERSION_NUMBER < 2001000
#error "libjpeg-turbo 2.1 or later is needed: other libraries decode to other pixels"
#endif

enum { MOST_SCANS = 500 }; /* a progressive file has about ten; a crafted one could keep the reader busy for hours */

typedef struct reader {
  struct jpeg_decompress_struct d;
  struct jpeg_error_mgr errors;
  struct jpeg_progress_mgr progress;
  jmp_buf exit;
  const void *bytes;
  size_t n;
  uint8_t *px, *line; /* line: one row of four channels */
  int status, notes;
  int last;      /* code of libjpeg's message before this one */
  unsigned seen; /* bit k: a scan has held component k */
  char *why;
} reader;

/* ---- errors: libjpeg's handlers jump back to guarded() ------------------------------------------------------- */

static _Noreturn void leave(reader *r, int status) {
  r->status = status;
  longjmp(r->exit, 1);
}

static _Noreturn void refuse(reader *r, const char *text) {
  snprintf(r->why, IMAGE_WHY, "%s", text);
  leave(r, IMAGE_ERROR);
}

static _Noreturn void no_memory(reader *r) {
  snprintf(r->why, IMAGE_WHY, "out of memory");
  leave(r, IMAGE_NOMEM);
}

/* Fails with libjpeg's own message. */
static _Noreturn void refuse_message(reader *r, const char *what) {
  char text[JMSG_LENGTH_MAX];
  r->errors.format_message((j_common_ptr)&r->d, text);
  const char *bare = strncmp(text, "Corrupt JPEG data: ", 19) ? text : text + 19;
  snprintf(r->why, IMAGE_WHY, "the JPEG is %s: %.100s", what, bare);
  leave(r, IMAGE_ERROR);
}

static bool is_unsupported(int code) {
  static const int codes[] = { JERR_SOF_UNSUPPORTED, JERR_BAD_PRECISION, JERR_ARITH_NOTIMPL, JERR_COMPONENT_COUNT,
                               JERR_CCIR601_NOTIMPL, JERR_FRACT_SAMPLE_NOTIMPL, JERR_CONVERSION_NOTIMPL, JERR_NOTIMPL,
                               JERR_NOT_COMPILED, JERR_IMAGE_TOO_BIG, JERR_BAD_LIB_VERSION, JERR_BAD_STRUCT_SIZE };
  for (size_t i = 0; i < sizeof codes / sizeof *codes; i++)
    if (codes[i] == code)
      return true;
  return false;
}

static void on_error(j_common_ptr c) {
  reader *r = c->client_data;
  if (c->err->msg_code == JERR_OUT_OF_MEMORY)
    no_memory(r);
  refuse_message(r, is_unsupported(c->err->msg_code) ? "not one this reads" : "corrupt");
}

/* Extra bytes or an extra restart marker after a scan are noted. Inside a scan, extra bytes before a restart marker
 * mean that the scan's data are damaged. */
static void on_message(j_common_ptr c, int level) {
  reader *r = c->client_data;
  int code = c->err->msg_code, before = r->last, marker = c->err->msg_parm.i[0];
  r->last = code;
  if (code == JWRN_JPEG_EOF)
    refuse(r, "the JPEG is truncated");
  if (code == JTRC_RST && before == JWRN_EXTRANEOUS_DATA)
    refuse(r, "the JPEG is corrupt: extra bytes before a restart marker");
  if (code == JWRN_EXTRANEOUS_DATA || (code == JTRC_PARMLESS_MARKER && marker != 0x01))
    r->notes |= IMAGE_NOTE_STRAY_BYTES;
  else if (level < 0 && code != JWRN_JFIF_MAJOR && code != JWRN_ADOBE_XFORM && code != JWRN_NOT_SEQUENTIAL)
    refuse_message(r, "corrupt");
}

/* libjpeg calls this before it reads the next piece of a file with several scans. */
static void on_progress(j_common_ptr c) {
  reader *r = c->client_data;
  if (r->d.input_scan_number > MOST_SCANS)
    refuse(r, "the JPEG is corrupt: more than 500 scans");
  for (int i = 0; i < r->d.comps_in_scan; i++)
    r->seen |= 1u << r->d.cur_comp_info[i]->component_index;
}

static void no_output(j_common_ptr c) { (void)c; }

/* Runs work(r); returns its status, also where it left by longjmp. */
static int guarded(reader *r, void (*work)(reader *)) {
  if (setjmp(r->exit))
    return r->status;
  work(r);
  return IMAGE_OK;
}

/* ---- reading ------------------------------------------------------------------------------------------------- */

static void read_header(reader *r) {
  struct jpeg_decompress_struct *d = &r->d;
  jpeg_create_decompress(d); /* keeps err and client_data */
  d->progress = &r->progress;
  r->progress.progress_monitor = on_progress;
  jpeg_mem_src(d, r->bytes, (unsigned long)r->n);
  while (jpeg_read_header(d, FALSE) == JPEG_HEADER_TABLES_ONLY) {} /* tables alone may stand before the image */
  if (d->data_precision != 8 || (d->num_components != 1 && d->num_components != 3 && d->num_components != 4)) {
    snprintf(r->why, IMAGE_WHY, "the JPEG is not one this reads: %d components of %d bits (expected 1, 3 or 4 of 8)",
             d->num_components, d->data_precision);
    leave(r, IMAGE_ERROR);
  }
}

static void check_size(reader *r) {
  int64_t w = r->d.image_width, h = r->d.image_height;
  if (w <= IMAGE_MAX_SIDE && h <= IMAGE_MAX_SIDE && w * h <= IMAGE_MAX_PIXELS)
    return;
  snprintf(r->why, IMAGE_WHY, IMAGE_TOO_LARGE, (int)w, (int)h, IMAGE_MAX_PIXELS >> 20);
  leave(r, IMAGE_ERROR);
}

/* a * b / 255, rounded, as Pillow does it. */
static unsigned scaled(unsigned a, unsigned b) {
  unsigned v = a * b + 128;
  return (v + (v >> 8)) >> 8;
}

/* CMYK to RGB, as Pillow does: the file's values are taken as inverted (as Adobe writes them), marked so or not. */
static void inks_to_rgb(uint8_t *rgb, const uint8_t *inks, unsigned w) {
  for (unsigned x = 0; x < w; x++, rgb += 3, inks += 4)
    for (int k = 0; k < 3; k++)
      rgb[k] = (uint8_t)(inks[3] - scaled(255u - inks[k], inks[3]));
}

static void check_components(reader *r) {
  if (!r->d.progressive_mode && r->d.comps_in_scan == r->d.num_components)
    return;
  if (r->seen != (1u << r->d.num_components) - 1)
    refuse(r, "the JPEG is truncated: a color component has no data");
}

/* Reads the segments before the first scan one by one: libjpeg's own list of them takes time that grows with the square
 * of their number. */
static void note_orientation(reader *r) {
  const uint8_t *p = r->bytes;
  for (size_t at = 2; at + 4 <= r->n && p[at] == 0xff && p[at + 1] != 0xda;) {
    size_t length = (size_t)p[at + 2] << 8 | p[at + 3];
    if (p[at + 1] == 0xff) { /* filling */
      at++;
      continue;
    }
    if (length < 2 || length > r->n - at - 2)
      return;
    bool is_exif = p[at + 1] == 0xe1 && length > 8 && !memcmp(p + at + 4, "Exif\0", 6);
    if (is_exif && image_exif_orientation(p + at + 10, length - 8) != 1)
      r->notes |= IMAGE_NOTE_ORIENTATION;
    at += 2 + length;
  }
}

static void read_pixels(reader *r) {
  struct jpeg_decompress_struct *d = &r->d;
  read_header(r);
  check_size(r);
  note_orientation(r);
  int components = d->num_components, c = components == 1 ? 1 : 3;
  size_t row = (size_t)d->image_width * c;
  d->out_color_space = components == 1 ? JCS_GRAYSCALE : components == 3 ? JCS_RGB : JCS_CMYK;
  r->px = mx_malloc(row * d->image_height);
  r->line = mx_malloc((size_t)d->image_width * 4);
  if (!r->px || !r->line)
    no_memory(r);
  jpeg_start_decompress(d);
  check_components(r);
  while (d->output_scanline < d->output_height) {
    uint8_t *to = r->px + row * d->output_scanline;
    JSAMPROW target = components == 4 ? r->line : to;
    jpeg_read_scanlines(d, &target, 1);
    if (components == 4)
      inks_to_rgb(to, r->line, d->image_width);
  }
  jpeg_finish_decompress(d); /* reads to the end marker */
}

static int run(reader *r, const void *bytes, size_t n, char *why, void (*work)(reader *)) {
  memset(r, 0, sizeof *r);
  r->bytes = bytes;
  r->n = n;
  r->why = why;
  r->d.err = jpeg_std_error(&r->errors);
  r->d.client_data = r;
  r->errors.error_exit = on_error;
  r->errors.emit_message = on_message;
  r->errors.output_message = no_output;
  int status = guarded(r, work);
  jpeg_destroy_decompress(&r->d);
  mx_free(r->line);
  if (status)
    mx_free(r->px);
  return status;
}

static int channels(const reader *r) { return r->d.num_components == 1 ? 1 : 3; }

int image_jpeg_size(int *w, int *h, int *c, const void *bytes, size_t n, char *why) {
  reader r;
  int status = run(&r, bytes, n, why, read_header);
  if (status)
    return status;
  *w = (int)r.d.image_width;
  *h = (int)r.d.image_height;
  *c = channels(&r);
  return IMAGE_OK;
}

int image_jpeg_decode(image *out, const void *bytes, size_t n, char *why) {
  reader r;
  int status = run(&r, bytes, n, why, read_pixels);
  if (status)
    return status;
  *out = (image){ .w = (int)r.d.image_width, .h = (int)r.d.image_height, .c = channels(&r), .bits = 8, .notes = r.notes,
                  .px = r.px };
  return IMAGE_OK;
}

/* ---- EXIF ---------------------------------------------------------------------------------------------------- */

static uint32_t number(const uint8_t *p, int size, bool little) {
  uint32_t v = 0;
  for (int i = 0; i < size; i++)
    v = v << 8 | p[little ? size - 1 - i : i];
  return v;
}

int image_exif_orientation(const uint8_t *exif, size_t n) {
  if (n < 8 || (memcmp(exif, "II*\0", 4) && memcmp(exif, "MM\0*", 4)))
    return 1;
  bool little = exif[0] == 'I';
  size_t at = number(exif + 4, 4, little);
  if (at > n || n - at < 2)
    return 1;
  size_t entries = number(exif + at, 2, little), room = (n - at - 2) / 12;
  const uint8_t *entry = exif + at + 2;
  for (size_t i = 0; i < entries && i < room; i++, entry += 12)
    if (number(entry, 2, little) == 0x0112 && number(entry + 2, 2, little) == 3) {
      uint32_t v = number(entry + 8, 2, little);
      return v >= 1 && v <= 8 ? (int)v : 1;
    }
  return 1;
}
