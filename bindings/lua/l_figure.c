/* l_figure.c: core.figure: drawing with Cairo, and RGB pixels as byte strings.
 * A canvas draws lines, boxes, text and pixels in points (1/72 inch, y downwards) and gives back the bytes of a PNG or
 * a PDF. scripts/medxai/show/drawing.lua writes SVG itself, since Cairo would turn text into outlines. Text is
 * UTF-8. */
#include <cairo-pdf.h>
#include <cairo.h>
#include <lauxlib.h>
#include <lua.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include "alloc.h"
#include "xl.h"

#define CANVAS "medxai.canvas"
#define FONT "DejaVu Sans"

typedef struct bytes { unsigned char *data; size_t n, room; } bytes;
typedef struct canvas {
  cairo_t *cr;
  cairo_surface_t *surface;
  bytes out; /* what the surface has written so far */
  bool is_pdf;
} canvas;

static cairo_status_t collect(void *ud, const unsigned char *data, unsigned n) {
  bytes *b = ud;
  if (b->n + n > b->room) {
    size_t room = 2 * (b->n + n) + 4096;
    void *more = mx_realloc(b->data, room);
    if (!more) return CAIRO_STATUS_NO_MEMORY;
    b->data = more;
    b->room = room;
  }
  memcpy(b->data + b->n, data, n);
  b->n += n;
  return CAIRO_STATUS_SUCCESS;
}

/* ---- the canvas ------------------------------------------------------------------------------------------- */

static void destroy_canvas(void *p) {
  canvas *c = p;
  if (c->cr) cairo_destroy(c->cr);
  if (c->surface) cairo_surface_destroy(c->surface);
  mx_free(c->out.data);
}

/* Pushes the object first, empty, then creates what it owns: an error in between leaks nothing. */
static canvas *push_canvas(lua_State *L) { return xl_newobject(L, CANVAS, sizeof(canvas), destroy_canvas); }

static int canvas_close(lua_State *L) {
  xl_closeobject(L, 1, CANVAS);
  return 0;
}

static canvas *check_canvas(lua_State *L) {
  luaL_checkudata(L, 1, CANVAS);
  canvas *c = xl_testobject(L, 1, CANVAS);
  luaL_argcheck(L, c, 1, "canvas is finished");
  return c;
}

static void check_cairo(lua_State *L, cairo_status_t status) {
  if (status != CAIRO_STATUS_SUCCESS) xl_error(L, "figure: %s", cairo_status_to_string(status));
}

/* A position or a length in points. NaN or a number out of Cairo's range would make every later call fail. */
static double points(lua_State *L, int arg) {
  double v = luaL_checknumber(L, arg);
  luaL_argcheck(L, fabs(v) <= 1e6, arg, "must be a finite number of points, at most 1e6");
  return v;
}

static double font_size(lua_State *L, int arg) {
  double v = luaL_checknumber(L, arg);
  luaL_argcheck(L, v >= 0.01 && v <= 14400, arg, "a size must be within 0.01 to 14400 pt");
  return v;
}

/* No hinting, so that text has the same width on every surface and at every resolution. */
static void set_font(cairo_t *cr, double size, bool bold) {
  cairo_font_options_t *o = cairo_font_options_create();
  cairo_font_options_set_hint_metrics(o, CAIRO_HINT_METRICS_OFF);
  cairo_font_options_set_hint_style(o, CAIRO_HINT_STYLE_NONE);
  cairo_font_options_set_antialias(o, CAIRO_ANTIALIAS_GRAY);
  cairo_set_font_options(cr, o);
  cairo_font_options_destroy(o);
  cairo_select_font_face(cr, FONT, CAIRO_FONT_SLANT_NORMAL, bold ? CAIRO_FONT_WEIGHT_BOLD : CAIRO_FONT_WEIGHT_NORMAL);
  cairo_set_font_size(cr, size);
}

/* canvas("png"|"pdf", width_pt, height_pt [, dpi = 300]): a new canvas, white. */
static int figure_canvas(lua_State *L) {
  static const char *const formats[] = { "png", "pdf", NULL };
  int format = luaL_checkoption(L, 1, NULL, formats);
  double width = luaL_checknumber(L, 2), height = luaL_checknumber(L, 3), dpi = luaL_optnumber(L, 4, 300);
  luaL_argcheck(L, width > 0 && width <= 14400, 2, "width must be within 0 to 14400 pt");
  luaL_argcheck(L, height > 0 && height <= 14400, 3, "height must be within 0 to 14400 pt");
  luaL_argcheck(L, dpi >= 10 && dpi <= 2400, 4, "resolution must be within 10 to 2400 dpi");
  double scale = dpi / 72;
  if (format == 0 && (width * scale > 32767 || height * scale > 32767)) {
    int most = (int)(32767 * 72 / fmax(width, height));
    xl_error(L, "figure: a picture of %d x %d pt at %d dpi is over 32767 pixels. Use dpi = %d or less.", (int)width,
             (int)height, (int)dpi, most);
  }
  canvas *c = push_canvas(L);
  c->is_pdf = format == 1;
  c->surface = c->is_pdf
                 ? cairo_pdf_surface_create_for_stream(collect, &c->out, width, height)
                 : cairo_image_surface_create(CAIRO_FORMAT_RGB24, (int)ceil(width * scale), (int)ceil(height * scale));
  check_cairo(L, cairo_surface_status(c->surface));
  /* Without a date of its own a drawing gives the same bytes whenever it is made. */
  if (c->is_pdf) cairo_pdf_surface_set_metadata(c->surface, CAIRO_PDF_METADATA_CREATE_DATE, "1970-01-01T00:00:00Z");
  c->cr = cairo_create(c->surface);
  check_cairo(L, cairo_status(c->cr));
  if (!c->is_pdf) cairo_scale(c->cr, scale, scale);
  cairo_set_source_rgb(c->cr, 1, 1, 1);
  cairo_paint(c->cr);
  return 1;
}

/* c:finish(): the file's bytes; closes the canvas. */
static int canvas_finish(lua_State *L) {
  canvas *c = check_canvas(L);
  check_cairo(L, cairo_status(c->cr));
  if (c->is_pdf) {
    cairo_show_page(c->cr);
    cairo_surface_finish(c->surface);
    check_cairo(L, cairo_surface_status(c->surface));
  } else {
    check_cairo(L, cairo_surface_write_to_png_stream(c->surface, collect, &c->out));
  }
  lua_pushlstring(L, (const char *)c->out.data, c->out.n);
  xl_closeobject(L, 1, CANVAS);
  return 1;
}

/* A color argument is 0xRRGGBB; alpha is its opacity. */
static void set_color(lua_State *L, cairo_t *cr, int arg, double alpha) {
  lua_Integer rgb = luaL_checkinteger(L, arg);
  if (!(alpha >= 0 && alpha <= 1)) xl_error(L, "figure: an opacity is within 0 to 1 (got %g)", alpha);
  luaL_argcheck(L, rgb >= 0 && rgb <= 0xffffff, arg, "a color is 0x000000 to 0xffffff");
  cairo_set_source_rgba(cr, (double)(rgb >> 16) / 255, (double)(rgb >> 8 & 255) / 255, (double)(rgb & 255) / 255,
                        alpha);
}

/* c:rect(x, y, w, h, color [, alpha]): filled. */
static int canvas_rect(lua_State *L) {
  canvas *c = check_canvas(L);
  set_color(L, c->cr, 6, luaL_optnumber(L, 7, 1));
  cairo_rectangle(c->cr, points(L, 2), points(L, 3), points(L, 4), points(L, 5));
  cairo_fill(c->cr);
  return 0;
}

/* Makes {x1, y1, x2, y2, ...} at arg the current path. */
static void set_path(lua_State *L, cairo_t *cr, int arg) {
  luaL_checktype(L, arg, LUA_TTABLE);
  lua_Integer n = luaL_len(L, arg);
  luaL_argcheck(L, n >= 2 && n % 2 == 0, arg, "points are x1, y1, x2, y2, ...");
  cairo_new_path(cr);
  for (lua_Integer i = 1; i < n; i += 2) {
    lua_rawgeti(L, arg, i);
    lua_rawgeti(L, arg, i + 1);
    double x = luaL_checknumber(L, -2), y = luaL_checknumber(L, -1);
    luaL_argcheck(L, fabs(x) <= 1e6 && fabs(y) <= 1e6, arg, "points must be finite numbers, at most 1e6");
    cairo_line_to(cr, x, y);
    lua_pop(L, 2);
  }
}

/* c:line(points, width, color [, dash [, alpha]]): dash is the length of strokes and gaps, 0 for a solid line. */
static int canvas_line(lua_State *L) {
  canvas *c = check_canvas(L);
  double width = points(L, 3), dash = lua_isnoneornil(L, 5) ? 0 : points(L, 5);
  set_color(L, c->cr, 4, luaL_optnumber(L, 6, 1));
  set_path(L, c->cr, 2);
  cairo_set_line_width(c->cr, width);
  cairo_set_line_join(c->cr, CAIRO_LINE_JOIN_ROUND);
  cairo_set_dash(c->cr, &dash, dash > 0, 0);
  cairo_stroke(c->cr);
  return 0;
}

/* c:polygon(points, color [, alpha]): filled. */
static int canvas_polygon(lua_State *L) {
  canvas *c = check_canvas(L);
  set_color(L, c->cr, 3, luaL_optnumber(L, 4, 1));
  set_path(L, c->cr, 2);
  cairo_fill(c->cr);
  return 0;
}

/* c:circle(x, y, radius, color) */
static int canvas_circle(lua_State *L) {
  canvas *c = check_canvas(L);
  set_color(L, c->cr, 5, 1);
  cairo_new_path(c->cr);
  cairo_arc(c->cr, points(L, 2), points(L, 3), points(L, 4), 0, 6.283185307179586);
  cairo_fill(c->cr);
  return 0;
}

static const char *check_text(lua_State *L, int arg) {
  const char *s = luaL_checkstring(L, arg);
  lua_getglobal(L, "utf8");
  lua_getfield(L, -1, "len");
  lua_pushvalue(L, arg);
  lua_call(L, 1, 1);
  luaL_argcheck(L, !lua_isnil(L, -1), arg, "text is not UTF-8");
  lua_pop(L, 2);
  return s;
}

/* c:text(x, y, text, size, color [, bold [, turned]]): starts at x on the baseline y; turned: runs upwards. */
static int canvas_text(lua_State *L) {
  canvas *c = check_canvas(L);
  double x = points(L, 2), y = points(L, 3), size = font_size(L, 5);
  const char *text = check_text(L, 4);
  set_color(L, c->cr, 6, 1);
  set_font(c->cr, size, lua_toboolean(L, 7));
  cairo_save(c->cr);
  cairo_move_to(c->cr, x, y);
  if (lua_toboolean(L, 8)) cairo_rotate(c->cr, -1.5707963267948966);
  cairo_show_text(c->cr, text);
  cairo_restore(c->cr);
  cairo_new_path(c->cr);
  return 0;
}

/* An image surface of RGB bytes (3 * w * h); the caller destroys it. */
static cairo_surface_t *rgb_surface(lua_State *L, int arg, int *w, int *h) {
  size_t n;
  const char *rgb = luaL_checklstring(L, arg, &n);
  lua_Integer lw = luaL_checkinteger(L, arg + 1), lh = luaL_checkinteger(L, arg + 2);
  luaL_argcheck(L, lw > 0 && lw <= 32767 && lh > 0 && lh <= 32767, arg + 1, "sides must be within 1 to 32767");
  luaL_argcheck(L, n == (size_t)lw * (size_t)lh * 3, arg, "needs 3 bytes per pixel");
  *w = (int)lw;
  *h = (int)lh;
  cairo_surface_t *s = cairo_image_surface_create(CAIRO_FORMAT_RGB24, *w, *h);
  unsigned char *data = cairo_image_surface_get_data(s);
  if (!data) return s; /* s is in an error state, which its user reports */
  int stride = cairo_image_surface_get_stride(s);
  for (int y = 0; y < *h; y++) {
    uint32_t *row = (uint32_t *)(void *)(data + (size_t)y * (size_t)stride);
    for (int x = 0; x < *w; x++, rgb += 3)
      row[x] = (uint32_t)(unsigned char)rgb[0] << 16 | (uint32_t)(unsigned char)rgb[1] << 8 | (unsigned char)rgb[2];
  }
  cairo_surface_mark_dirty(s);
  return s;
}

/* c:image(x, y, w, h, rgb, columns, rows [, blocky]) */
static int canvas_image(lua_State *L) {
  canvas *c = check_canvas(L);
  double x = points(L, 2), y = points(L, 3), w = points(L, 4), h = points(L, 5);
  luaL_argcheck(L, fabs(w) > 1e-6 && fabs(h) > 1e-6, 4, "a picture needs a width and a height");
  bool blocky = lua_toboolean(L, 9);
  int columns, rows;
  cairo_surface_t *s = rgb_surface(L, 6, &columns, &rows);
  cairo_save(c->cr);
  cairo_rectangle(c->cr, x, y, w, h); /* clipped: interpolation would reach half a pixel beyond the edge */
  cairo_clip(c->cr);
  cairo_translate(c->cr, x, y);
  cairo_scale(c->cr, w / columns, h / rows);
  cairo_set_source_surface(c->cr, s, 0, 0);
  cairo_pattern_set_filter(cairo_get_source(c->cr), blocky ? CAIRO_FILTER_NEAREST : CAIRO_FILTER_GOOD);
  cairo_pattern_set_extend(cairo_get_source(c->cr), CAIRO_EXTEND_PAD);
  cairo_paint(c->cr);
  cairo_restore(c->cr);
  cairo_surface_destroy(s);
  check_cairo(L, cairo_status(c->cr));
  return 0;
}

/* ---- without a canvas ------------------------------------------------------------------------------------- */

/* text_width(text, size [, bold]): points. */
static int figure_text_width(lua_State *L) {
  static cairo_t *cr; /* one small surface for the life of the process */
  const char *text = check_text(L, 1);
  double size = font_size(L, 2);
  if (cr && cairo_status(cr) != CAIRO_STATUS_SUCCESS) { /* an error (out of memory) is permanent: start anew */
    cairo_destroy(cr);
    cr = NULL;
  }
  if (!cr) {
    cairo_surface_t *s = cairo_image_surface_create(CAIRO_FORMAT_A8, 1, 1);
    cr = cairo_create(s);
    cairo_surface_destroy(s);
  }
  set_font(cr, size, lua_toboolean(L, 3));
  cairo_text_extents_t e;
  cairo_text_extents(cr, text, &e);
  check_cairo(L, cairo_status(cr));
  lua_pushnumber(L, e.x_advance);
  return 1;
}

/* png(rgb, columns, rows): the file's bytes. */
static int figure_png(lua_State *L) {
  int columns, rows;
  canvas *c = push_canvas(L);
  lua_insert(L, 1);
  c->surface = rgb_surface(L, 2, &columns, &rows);
  check_cairo(L, cairo_surface_write_to_png_stream(c->surface, collect, &c->out));
  lua_pushlstring(L, (const char *)c->out.data, c->out.n);
  return 1;
}

static int figure_base64(lua_State *L) {
  static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  size_t n;
  const unsigned char *s = (const unsigned char *)luaL_checklstring(L, 1, &n);
  size_t m = (n + 2) / 3 * 4;
  luaL_Buffer b;
  char *out = luaL_buffinitsize(L, &b, m);
  for (size_t i = 0, k = 0; i < n; i += 3) {
    uint32_t v = (uint32_t)s[i] << 16 | (i + 1 < n ? (uint32_t)s[i + 1] << 8 : 0) | (i + 2 < n ? s[i + 2] : 0);
    out[k++] = digits[v >> 18];
    out[k++] = digits[v >> 12 & 63];
    out[k++] = i + 1 < n ? digits[v >> 6 & 63] : '=';
    out[k++] = i + 2 < n ? digits[v & 63] : '=';
  }
  luaL_pushresultsize(&b, m);
  return 1;
}

/* color(values, palette, lo, hi): float32 values -> RGB by a palette of 256 colors; NaN becomes mid gray. The index is
 * floor(255 * (v - lo) / (hi - lo)), as in pytorch-grad-cam. */
static int figure_color(lua_State *L) {
  size_t n, p;
  const char *v = luaL_checklstring(L, 1, &n);
  const unsigned char *palette = (const unsigned char *)luaL_checklstring(L, 2, &p);
  double lo = luaL_checknumber(L, 3), hi = luaL_checknumber(L, 4);
  luaL_argcheck(L, n % sizeof(float) == 0, 1, "needs float32 bytes");
  luaL_argcheck(L, p == 768, 2, "a palette has 256 RGB colors");
  luaL_argcheck(L, hi > lo, 4, "the upper limit must lie above the lower");
  n /= sizeof(float);
  luaL_Buffer b;
  char *out = luaL_buffinitsize(L, &b, 3 * n);
  for (size_t i = 0; i < n; i++) {
    float f;
    memcpy(&f, v + i * sizeof f, sizeof f);
    if (isnan(f)) {
      memset(out + 3 * i, 128, 3);
      continue;
    }
    double at = 255 * fmin(fmax(((double)f - lo) / (hi - lo), 0), 1);
    memcpy(out + 3 * i, palette + 3 * (size_t)at, 3);
  }
  luaL_pushresultsize(&b, 3 * n);
  return 1;
}

/* blend(a, b, share): RGB bytes a * (1 - share) + b * share, rounded. */
static int figure_blend(lua_State *L) {
  size_t n, m;
  const unsigned char *a = (const unsigned char *)luaL_checklstring(L, 1, &n);
  const unsigned char *b = (const unsigned char *)luaL_checklstring(L, 2, &m);
  double share = luaL_checknumber(L, 3);
  luaL_argcheck(L, n == m, 2, "pictures of two sizes");
  luaL_argcheck(L, share >= 0 && share <= 1, 3, "share must be within 0 to 1");
  luaL_Buffer buffer;
  char *out = luaL_buffinitsize(L, &buffer, n);
  for (size_t i = 0; i < n; i++) out[i] = (char)(unsigned char)lround(a[i] * (1 - share) + b[i] * share);
  luaL_pushresultsize(&buffer, n);
  return 1;
}

static const luaL_Reg functions[] = {
  { "base64",     figure_base64 },
  { "blend",      figure_blend },
  { "canvas",     figure_canvas },
  { "color",     figure_color },
  { "png",        figure_png },
  { "text_width", figure_text_width },
  { NULL, NULL },
};

static const luaL_Reg methods[] = {
  { "circle",  canvas_circle },
  { "close",   canvas_close },
  { "finish",  canvas_finish },
  { "image",   canvas_image },
  { "line",    canvas_line },
  { "polygon", canvas_polygon },
  { "rect",    canvas_rect },
  { "text",    canvas_text },
  { NULL, NULL },
};

int luaopen_core_figure(lua_State *L) {
  xl_newtype(L, CANVAS, methods, canvas_close);
  xl_newlib(L, functions);
  return 1;
}
