/* l_image.c: core.image: images and hashes. Images are uint8 tensors (H, W, C), C 1 or 3; (H, W) is accepted too.
 * Files are written whole or not at all. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "alloc.h"
#include "image.h"
#include "sha256.h"
#include "whole_file.h"
#include "xl.h"

#define XL_SHA256 "medxai.sha256"

/* ---- tensors as images ----------------------------------------------------------------------------------- */
/* The tensor's own memory; the tensor is held. */
static image check_picture(lua_State *L, int idx, const char *what) {
  tx_tensor *t = xl_totensor(L, idx);
  int64_t size[TX_MAX_DIMS];
  int dim = tx_tensor_dim(t);
  if (strcmp(tx_tensor_dtype(t), "uint8"))
    xl_error(L, "%s: wrong type (expected a uint8 image, got %s).", what, tx_tensor_dtype(t));
  tx_tensor_sizes(t, size);
  if (!(dim == 2 || (dim == 3 && (size[2] == 1 || size[2] == 3))) || size[0] < 1 || size[1] < 1
      || size[0] > IMAGE_MAX_SIDE || size[1] > IMAGE_MAX_SIDE)
    xl_error(L, "%s: wrong shape (expected (H, W), (H, W, 1) or (H, W, 3), got %d dimensions%s).", what, dim,
             dim == 3 ? " with other channels last" : "");
  return (image){ .w = (int)size[1], .h = (int)size[0], .c = dim == 3 ? (int)size[2] : 1, .bits = 8,
                  .px = xl_todata(L, t, "uint8", what) };
}

/* Pushes the image as a tensor and frees it. flat: (H, W) for one channel. */
static void push_picture(lua_State *L, image *im, bool flat) {
  tx_tensor *t = NULL;
  int64_t size[3] = { im->h, im->w, im->c };
  size_t bytes = (size_t)im->w * im->h * im->c;
  int status = tx_tensor_new(&t, "uint8", flat && im->c == 1 ? 2 : 3, size, im->px, bytes);
  image_free(im);
  xl_check(L, status, "image");
  xl_pushheld(L, xl_own(L, t));
}

static void check_status(lua_State *L, int status, const char *what, const char *path, const char *why) {
  if (status == IMAGE_NOMEM)
    xl_error(L, "%s: out of memory.", what);
  if (status)
    xl_error(L, "%s: cannot read '%s' (%s).", what, path, why);
}

static int white_option(lua_State *L, int idx) {
  if (lua_isnoneornil(L, idx))
    return 65535;
  return (int)xl_torange(L, idx, 1, 65535, "image.load: the 16-bit white level");
}

static double window_number(lua_State *L, int idx, const char *name) {
  if (lua_getfield(L, idx, name) != LUA_TNUMBER)
    xl_error(L, "window: %s is missing (expected { center = .., width = .. }).", name);
  const double v = lua_tonumber(L, -1);
  lua_pop(L, 1);
  return v;
}

dicom_window xl_towindow(lua_State *L, int idx); /* for l_loader.c */

/* "first", "range", "minmax", the number of one of the file's windows from 1, or { center =, width = }; nil:
 * "first". */
dicom_window xl_towindow(lua_State *L, int idx) {
  static const char *const names[] = { "first", "range", "minmax", NULL };
  static const int kinds[] = { DICOM_WINDOW_FILE, DICOM_WINDOW_RANGE, DICOM_WINDOW_MINMAX };
  idx = lua_absindex(L, idx);
  if (lua_isnoneornil(L, idx))
    return (dicom_window){ .kind = DICOM_WINDOW_FILE };
  if (lua_istable(L, idx))
    return (dicom_window){ DICOM_WINDOW_GIVEN, 0, window_number(L, idx, "center"), window_number(L, idx, "width") };
  if (lua_type(L, idx) == LUA_TNUMBER)
    return (dicom_window){ DICOM_WINDOW_FILE, (int)xl_torange(L, idx, 1, 1000, "window: a number of the file's") - 1, 0,
                           0 };
  return (dicom_window){ .kind = kinds[luaL_checkoption(L, idx, NULL, names)] };
}

static image_levels levels_options(lua_State *L, int white, int window) {
  return (image_levels){ white_option(L, white), xl_towindow(L, window) };
}

/* load(path [, white16 [, window]]) -> uint8 (H, W, C); window: of a DICOM file, see xl_towindow */
static int image_lua_load(lua_State *L) {
  const char *path = luaL_checkstring(L, 1);
  const image_levels levels = levels_options(L, 2, 3);
  char why[IMAGE_WHY];
  image im;
  check_status(L, image_load(&im, path, levels, why), "image.load", path, why);
  push_picture(L, &im, false);
  return 1;
}

/* load_mask(path [, white16]) -> uint8 (H, W, 1) of 0 and 255: see image_binary for files that are refused */
static int image_lua_load_mask(lua_State *L) {
  const char *path = luaL_checkstring(L, 1);
  const image_levels levels = { white_option(L, 2), { .kind = DICOM_WINDOW_RANGE } };
  char why[IMAGE_WHY];
  image mask;
  check_status(L, image_load(&mask, path, levels, why), "image.load_mask", path, why);
  int status = image_binary(&mask, why);
  if (status)
    image_free(&mask);
  check_status(L, status, "image.load_mask", path, why);
  push_picture(L, &mask, false);
  return 1;
}

/* info(path) -> { width, height, channels, bits } from the header alone */
static int image_lua_info(lua_State *L) {
  const char *path = luaL_checkstring(L, 1);
  char why[IMAGE_WHY];
  uint8_t *bytes = NULL;
  size_t n = 0;
  int w = 0, h = 0, c = 0, bits = 0, status = image_read_file(&bytes, &n, path, why);
  if (!status)
    status = image_size(&w, &h, &c, &bits, bytes, n, why);
  mx_free(bytes);
  check_status(L, status, "image.info", path, why);
  lua_createtable(L, 0, 4);
  lua_pushinteger(L, w), lua_setfield(L, -2, "width");
  lua_pushinteger(L, h), lua_setfield(L, -2, "height");
  lua_pushinteger(L, c), lua_setfield(L, -2, "channels");
  lua_pushinteger(L, bits), lua_setfield(L, -2, "bits");
  return 1;
}

/* save(path, image): a PNG */
static int image_lua_save(lua_State *L) {
  const char *path = luaL_checkstring(L, 1);
  image im = check_picture(L, 2, "image.save");
  uint8_t *bytes;
  size_t n;
  if (image_encode_png(&bytes, &n, &im))
    xl_error(L, "image.save: out of memory.");
  int error = whole_file_put(path, bytes, n);
  mx_free(bytes);
  if (error)
    xl_error(L, "image.save: cannot write '%s': %s", path, strerror(error));
  return 0;
}

/* encode(image [, quality]) -> the bytes of a PNG; with a quality from 1 to 100 those of a JPEG */
static int image_lua_encode(lua_State *L) {
  image im = check_picture(L, 1, "image.encode");
  const int64_t quality = lua_isnoneornil(L, 2) ? 0 : xl_toint(L, 2, "image.encode: the quality");
  if (quality < 0 || quality > 100 || (quality == 0 && !lua_isnoneornil(L, 2)))
    xl_error(L, "image.encode: the quality is wrong (expected 1 to 100, got %lld).", (long long)quality);
  uint8_t *bytes;
  size_t n;
  if (quality ? image_encode_jpeg(&bytes, &n, &im, (int)quality) : image_encode_png(&bytes, &n, &im))
    xl_error(L, "image.encode: out of memory.");
  xl_hold(L, bytes, mx_free);
  lua_pushlstring(L, (const char *)bytes, n);
  return 1;
}

/* decode(bytes [, white16 [, window]]) -> uint8 (H, W, C) */
static int image_lua_decode(lua_State *L) {
  size_t n;
  const char *bytes = luaL_checklstring(L, 1, &n);
  const image_levels levels = levels_options(L, 2, 3);
  char why[IMAGE_WHY];
  image im;
  int status = image_decode(&im, bytes, n, levels, why);
  if (status)
    xl_error(L, "image.decode: %s.", why);
  push_picture(L, &im, false);
  return 1;
}

/* dicom(bytes [, window]) -> float64 (H, W, C), { low, high, inverted }: the values after modality LUT and window, and
 * those that become black and white (the other way round where inverted) */
static int image_lua_dicom(lua_State *L) {
  size_t n;
  const char *bytes = luaL_checklstring(L, 1, &n);
  const dicom_window window = xl_towindow(L, 2);
  char why[IMAGE_WHY];
  dicom_facts f;
  double *values, range[2];
  bool inverted;
  tx_tensor *t = NULL;
  int status = image_dicom_values(&values, &f, range, &inverted, bytes, n, &window, why);
  if (status)
    xl_error(L, "image.dicom: %s.", why);
  const int64_t size[3] = { f.h, f.w, f.c };
  status = tx_tensor_new(&t, "float64", 3, size, values, (size_t)f.w * f.h * f.c * sizeof *values);
  mx_free(values);
  xl_check(L, status, "image.dicom");
  xl_pushheld(L, xl_own(L, t));
  lua_createtable(L, 0, 3);
  lua_pushnumber(L, range[0]), lua_setfield(L, -2, "low");
  lua_pushnumber(L, range[1]), lua_setfield(L, -2, "high");
  lua_pushboolean(L, inverted), lua_setfield(L, -2, "inverted");
  return 2;
}

static int side(lua_State *L, int idx, const char *what) {
  return (int)xl_torange(L, idx, 1, IMAGE_MAX_SIDE, what);
}

/* resize(image, width, height [, "bilinear" | "nearest"]) -> image, as Pillow does it */
static int image_lua_resize(lua_State *L) {
  static const char *const filters[] = { "bilinear", "nearest", NULL };
  image im = check_picture(L, 1, "image.resize"), out;
  const bool flat = tx_tensor_dim(xl_totensor(L, 1)) == 2;
  int w = side(L, 2, "image.resize: the width"), h = side(L, 3, "image.resize: the height");
  bool nearest = luaL_checkoption(L, 4, "bilinear", filters) == 1;
  if (nearest ? image_resize_nearest(&out, &im, w, h) : image_resize(&out, &im, w, h))
    xl_error(L, "image.resize: out of memory.");
  push_picture(L, &out, flat);
  return 1;
}

/* fit(image, resize_px, size_px [, "nearest"]) -> short side to resize_px, then center crop of size_px, as
 * torchvision does it */
static int image_lua_fit(lua_State *L) {
  static const char *const filters[] = { "bilinear", "nearest", NULL };
  image im = check_picture(L, 1, "image.fit"), sized, out;
  const bool flat = tx_tensor_dim(xl_totensor(L, 1)) == 2;
  int w = im.w, h = im.h, size = side(L, 3, "image.fit: the size");
  image_short_side(&w, &h, side(L, 2, "image.fit: the short side"));
  if (size > w || size > h)
    xl_error(L, "image.fit: the crop is larger than the image (expected at most %d, got %d).", w < h ? w : h, size);
  bool nearest = luaL_checkoption(L, 4, "bilinear", filters) == 1;
  if (nearest ? image_resize_nearest(&sized, &im, w, h) : image_resize(&sized, &im, w, h))
    xl_error(L, "image.fit: out of memory.");
  int status = image_crop(&out, &sized, image_crop_offset(w, size), image_crop_offset(h, size), size, size);
  image_free(&sized);
  if (status)
    xl_error(L, "image.fit: out of memory.");
  push_picture(L, &out, flat);
  return 1;
}

/* mask(image, mask, mode [, resize = "none"]) -> image; mode: one of image_mask_names; resize: of a mask of another
 * size, one of image_mask_resizes */
static int image_lua_mask(lua_State *L) {
  static const char *const resizes[] = { "none", "nearest", "bilinear", NULL };
  image im = check_picture(L, 1, "image.mask"), given = check_picture(L, 2, "image.mask"), out = { 0 }, mask = { 0 };
  const bool flat = tx_tensor_dim(xl_totensor(L, 1)) == 2;
  char why[IMAGE_WHY];
  int mode = IMAGE_MASK_COUNT;
  const char *name = luaL_checkstring(L, 3);
  for (int i = 0; i < IMAGE_MASK_COUNT; i++)
    if (!strcmp(name, image_mask_names[i]))
      mode = i;
  if (mode == IMAGE_MASK_COUNT)
    xl_error(L,
             "image.mask: unknown mode '%s'. Known: none, lungs, lungs_raw, lungs_hull, outside, box, border, shape.",
             name);
  const int resize = lua_isnoneornil(L, 4) ? 0 : luaL_checkoption(L, 4, NULL, resizes);
  int status = image_copy(&out, &im);
  status = status ? status : image_copy(&mask, &given);
  if (status)
    snprintf(why, sizeof why, "out of memory");
  status = status ? status : image_binary(&mask, why);
  status = status ? status : image_fit_mask(&mask, out.w, out.h, (image_mask_resize)resize, why);
  status = status ? status : image_apply_mask(&out, &mask, (image_mask)mode, why);
  image_free(&mask);
  if (status) {
    image_free(&out);
    xl_error(L, "image.mask: the mask cannot be used (%s).", why);
  }
  push_picture(L, &out, flat);
  return 1;
}

/* lung_fill(mask) -> the mask (H, W) with the thesis' fill between the lungs */
static int image_lua_lung_fill(lua_State *L) {
  image given = check_picture(L, 1, "image.lung_fill"), mask;
  char why[IMAGE_WHY];
  if (image_copy(&mask, &given))
    xl_error(L, "image.lung_fill: out of memory.");
  int status = image_binary(&mask, why);
  status = status ? status : image_lung_fill(&mask, why);
  if (status) {
    image_free(&mask);
    xl_error(L, "image.lung_fill: the mask cannot be used (%s).", why);
  }
  push_picture(L, &mask, true);
  return 1;
}

/* digest(image) -> 64 hex digits, of which the first 16 are the image id */
static int image_lua_digest(lua_State *L) {
  image im = check_picture(L, 1, "image.digest");
  uint8_t digest[32];
  char hex[65];
  image_digest(&im, digest);
  sha256_hex(digest, hex);
  lua_pushstring(L, hex);
  return 1;
}

/* ---- hashes ------------------------------------------------------------------------------------------------ */
static int push_digest(lua_State *L, sha256 *s) {
  uint8_t digest[32];
  char hex[65];
  sha256_finish(s, digest);
  sha256_hex(digest, hex);
  lua_pushstring(L, hex);
  return 1;
}

/* sha256(bytes) -> 64 hex digits */
static int image_lua_sha256(lua_State *L) {
  size_t n;
  const char *bytes = luaL_checklstring(L, 1, &n);
  sha256 s;
  sha256_init(&s);
  sha256_add(&s, bytes, n);
  return push_digest(L, &s);
}

/* sha256_file(path) -> 64 hex digits, or nil and a reason; reads it piece by piece */
static int image_lua_sha256_file(lua_State *L) {
  const char *path = luaL_checkstring(L, 1);
  FILE *f = fopen(path, "rb");
  uint8_t *piece = f ? mx_malloc(1 << 20) : NULL;
  sha256 s;
  size_t n;
  sha256_init(&s);
  while (piece && !tx_interrupted() && (n = fread(piece, 1, 1 << 20, f)) > 0)
    sha256_add(&s, piece, n);
  int error = !f ? errno : !piece ? ENOMEM : ferror(f) ? EIO : 0;
  mx_free(piece);
  if (f)
    fclose(f);
  if (tx_interrupted())
    xl_error(L, "interrupted");
  if (!error)
    return push_digest(L, &s);
  lua_pushnil(L);
  lua_pushfstring(L, "cannot read '%s': %s", path, strerror(error));
  return 2;
}

/* sha256_stream() -> s; s:update(string | CPU tensor) returns s; s:hex() may be asked at any time */
static int image_lua_sha256_stream(lua_State *L) {
  sha256_init(lua_newuserdatauv(L, sizeof(sha256), 0));
  luaL_setmetatable(L, XL_SHA256);
  return 1;
}

static int sha256_lua_update(lua_State *L) {
  sha256 *s = luaL_checkudata(L, 1, XL_SHA256);
  if (lua_type(L, 2) == LUA_TSTRING) {
    size_t n;
    const char *bytes = lua_tolstring(L, 2, &n);
    sha256_add(s, bytes, n);
  } else {
    tx_tensor *t = xl_toresolved(L, 2);
    sha256_add(s, xl_todata(L, t, NULL, "sha256"), (size_t)(tx_tensor_numel(t) * tx_tensor_itemsize(t)));
  }
  lua_settop(L, 1);
  return 1;
}

static int sha256_lua_hex(lua_State *L) {
  sha256 copy = *(sha256 *)luaL_checkudata(L, 1, XL_SHA256);
  return push_digest(L, &copy);
}

/* ---- for the tests ----------------------------------------------------------------------------------------- */
/* live_blocks() -> how many blocks of the plain C's are alive (memory.c_fail_after makes them fail) */
static int image_lua_live_blocks(lua_State *L) {
  lua_pushinteger(L, mx_alloc_live());
  return 1;
}

int luaopen_core_image(lua_State *L) {
  static const luaL_Reg functions[] = {
    { "load",          image_lua_load },
    { "load_mask",     image_lua_load_mask },
    { "info",          image_lua_info },
    { "save",          image_lua_save },
    { "encode",        image_lua_encode },
    { "decode",        image_lua_decode },
    { "dicom",         image_lua_dicom },
    { "resize",        image_lua_resize },
    { "fit",           image_lua_fit },
    { "mask",          image_lua_mask },
    { "lung_fill",     image_lua_lung_fill },
    { "digest",        image_lua_digest },
    { "sha256",        image_lua_sha256 },
    { "sha256_file",   image_lua_sha256_file },
    { "sha256_stream", image_lua_sha256_stream },
    { "live_blocks",   image_lua_live_blocks },
    { NULL, NULL },
  };
  static const luaL_Reg hash[] = { { "update", sha256_lua_update }, { "hex", sha256_lua_hex }, { NULL, NULL } };
  xl_newtype(L, XL_SHA256, hash, NULL);
  xl_newlib(L, functions);
  return 1;
}
