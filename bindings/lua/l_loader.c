/* l_loader.c: core.loader: sets of images and the threaded loader. Indices count from 1.
 * Loaders and scans keep their set alive, even when it is closed. Every wait ends within 50 ms of Ctrl-C. */
#include <stdlib.h>
#include <string.h>
#include "alloc.h"
#include "loader.h"
#include "rng.h"
#include "sha256.h"
#include "xl.h"

#define XL_SET "medxai.image_set"
#define XL_LOADER "medxai.loader"
#define XL_SCAN "medxai.scan"

void xl_tophantom(lua_State *L, int idx, phantom *p); /* l_phantom.c */
dicom_window xl_towindow(lua_State *L, int idx);      /* l_image.c */

typedef struct set {
  imageset *s;
  float table[3][256]; /* byte to network input */
} set;

static set *check_set(lua_State *L, int idx) { return xl_toobject(L, idx, XL_SET, "dataset: the set is closed."); }

/* The integer field from least to most; `otherwise` where it is absent. */
static int64_t opt_int(lua_State *L, int idx, const char *name, int64_t otherwise, int64_t least, int64_t most) {
  lua_getfield(L, idx, name);
  int64_t v = lua_isnil(L, -1) ? otherwise : xl_toint(L, -1, name);
  if (v < least || v > most)
    xl_error(L, "dataset: %s is wrong (expected %lld to %lld, got %lld).", name, (long long)least, (long long)most,
             (long long)v);
  lua_pop(L, 1);
  return v;
}

void xl_augment(lua_State *L, int idx, augment_step **steps, int *n); /* l_augment.c */
int xl_augmented(lua_State *L);

static double opt_number(lua_State *L, int idx, const char *name) {
  lua_getfield(L, idx, name);
  double v = luaL_optnumber(L, -1, 0);
  lua_pop(L, 1);
  return v;
}

static bool opt_bool(lua_State *L, int idx, const char *name) {
  lua_getfield(L, idx, name);
  bool v = lua_toboolean(L, -1);
  lua_pop(L, 1);
  return v;
}

static bool three_numbers(lua_State *L, int idx, const char *name, float out[3]) {
  bool given = lua_getfield(L, idx, name) == LUA_TTABLE;
  for (int i = 0; given && i < 3; i++) {
    lua_rawgeti(L, -1, i + 1);
    out[i] = (float)luaL_checknumber(L, -1);
    lua_pop(L, 1);
  }
  lua_pop(L, 1);
  return given;
}

static void check_status(lua_State *L, int status, const char *why) {
  if (status == IMAGE_NOMEM)
    xl_error(L, "dataset: out of memory.");
  if (status)
    xl_error(L, "dataset: %s", why);
}

static int64_t check_item(lua_State *L, const set *s, int64_t i) {
  if (i < 1 || i > imageset_count(s->s))
    xl_error(L, "dataset: there is no image %lld (expected 1 to %lld).", (long long)i, (long long)imageset_count(s->s));
  return i - 1;
}

/* A list of indices as a C array in a userdata, which it pushes. */
static int64_t *check_items(lua_State *L, int idx, const set *s, int64_t *n) {
  luaL_checktype(L, idx, LUA_TTABLE);
  *n = (int64_t)lua_rawlen(L, idx);
  int64_t *items = lua_newuserdatauv(L, (size_t)(*n ? *n : 1) * sizeof *items, 0);
  for (int64_t k = 0; k < *n; k++) {
    lua_rawgeti(L, idx, k + 1);
    items[k] = check_item(L, s, xl_toint(L, -1, "dataset: an index"));
    lua_pop(L, 1);
  }
  return items;
}

/* ---- sets -------------------------------------------------------------------------------------------------- */
static void destroy_set(void *s) { imageset_free(((set *)s)->s); }

/* set{ root, resize_px, size_px, mask = "none" .., mask_resize = "none" .., white16, window, cache_bytes, mean, std,
 * phantom }
 * -> set. scripts/medxai/data/dataset.lua checks the values. */
static int loader_lua_set(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_settop(L, 1);
  phantom drawn;
  float mean[3], std[3];
  bool scaled = three_numbers(L, 1, "mean", mean) & three_numbers(L, 1, "std", std);
  imageset_options o = { .resize_px = (int)opt_int(L, 1, "resize_px", 0, 0, 8192),
                         .size_px = (int)opt_int(L, 1, "size_px", 224, 1, 8192),
                         .white16 = (int)opt_int(L, 1, "white16", 65535, 1, 65535),
                         .cache_bytes = opt_int(L, 1, "cache_bytes", 0, 0, INT64_MAX / 2) };
  lua_getfield(L, 1, "window");
  o.window = xl_towindow(L, -1);
  lua_getfield(L, 1, "mask");
  const char *mode = luaL_optstring(L, -1, "none");
  while (o.mask < IMAGE_MASK_COUNT && strcmp(mode, image_mask_names[o.mask]))
    o.mask++;
  if (o.mask == IMAGE_MASK_COUNT)
    xl_error(L, "dataset: unknown mask mode '%s'.", mode);
  lua_getfield(L, 1, "mask_resize");
  const char *resize = luaL_optstring(L, -1, "none");
  while (o.mask_resize < 3 && strcmp(resize, image_mask_resizes[o.mask_resize]))
    o.mask_resize++;
  if (o.mask_resize == 3)
    xl_error(L, "dataset: unknown mask_resize '%s'.", resize);
  if (lua_getfield(L, 1, "phantom") == LUA_TTABLE) {
    xl_tophantom(L, lua_gettop(L), &drawn);
    o.phantom = &drawn;
  }
  if (o.resize_px < o.size_px && !(o.phantom && o.resize_px == 0))
    xl_error(L, "dataset: resize_px is too small (expected at least size_px, %d, got %d).", o.size_px, o.resize_px);
  if (o.phantom && drawn.size_px != o.size_px && o.resize_px == 0)
    xl_error(L, "dataset: phantoms of %d pixels do not fit size_px %d. Give resize_px.", drawn.size_px, o.size_px);
  lua_getfield(L, 1, "root");
  o.root = luaL_optstring(L, -1, "");
  set *s = xl_newobject(L, XL_SET, sizeof *s, destroy_set);
  image_float_table(s->table, scaled ? mean : NULL, scaled ? std : NULL);
  s->s = imageset_new(&o);
  if (!s->s)
    xl_error(L, "dataset: out of memory.");
  return 1;
}

static int set_gc(lua_State *L) {
  xl_closeobject(L, 1, XL_SET);
  return 0;
}

/* set:add(path, lungs | nil, label [, number]) -> index; number: index of the phantom, from 0 */
static int set_add(lua_State *L) {
  set *s = check_set(L, 1);
  int64_t label = xl_toint(L, 4, "dataset: a label");
  if (label < -1 || label > INT32_MAX)
    xl_error(L, "dataset: label %lld is wrong (expected 0 to %d).", (long long)label, INT32_MAX);
  const char *path = luaL_checkstring(L, 2), *lungs = luaL_optstring(L, 3, NULL);
  int64_t i = imageset_add(s->s, path, lungs, (int)label, luaL_optinteger(L, 5, 0));
  if (i == -2)
    xl_error(L, "dataset: a loader or a scan is using the set. Close it before images are added.");
  if (i < 0)
    xl_error(L, "dataset: out of memory.");
  lua_pushinteger(L, i + 1);
  return 1;
}

/* set:white(i, white16): the 16-bit sample of image i that becomes white. Before its first use. */
static int set_white(lua_State *L) {
  set *s = check_set(L, 1);
  int64_t i = check_item(L, s, xl_toint(L, 2, "dataset: an index"));
  int64_t white = xl_toint(L, 3, "dataset: the 16-bit white level");
  if (white < 1 || white > 65535)
    xl_error(L, "dataset: the 16-bit white level is wrong (expected 1 to 65535, got %lld).", (long long)white);
  imageset_white(s->s, i, (int)white);
  return 0;
}

static void set_hex(lua_State *L, const char *name, const uint8_t digest[32], size_t digits) {
  char hex[65];
  sha256_hex(digest, hex);
  lua_pushlstring(L, hex, digits);
  lua_setfield(L, -2, name);
}

/* set:facts(i) -> { id, sha256, pixels, width, height, channels, bits, top, over, alpha, low, high, stray_bytes,
 * orientation, dicom }; see image, IMAGE_NOTE_... and imageset_facts; decodes the image unless that was done */
static int set_facts(lua_State *L) {
  set *s = check_set(L, 1);
  int64_t i = check_item(L, s, xl_toint(L, 2, "dataset: an index"));
  const imageset_facts *f;
  char why[IMAGESET_WHY];
  check_status(L, imageset_get_facts(s->s, i, &f, why), why);
  lua_createtable(L, 0, 10);
  set_hex(L, "id", f->digest, 16);
  set_hex(L, "pixels", f->digest, 64);
  set_hex(L, "sha256", f->file_digest, 64);
  lua_pushinteger(L, f->w), lua_setfield(L, -2, "width");
  lua_pushinteger(L, f->h), lua_setfield(L, -2, "height");
  lua_pushinteger(L, f->c), lua_setfield(L, -2, "channels");
  lua_pushinteger(L, f->bits), lua_setfield(L, -2, "bits");
  lua_pushinteger(L, f->top), lua_setfield(L, -2, "top");
  lua_pushboolean(L, f->notes & IMAGE_NOTE_STRAY_BYTES), lua_setfield(L, -2, "stray_bytes");
  lua_pushboolean(L, f->notes & IMAGE_NOTE_ORIENTATION), lua_setfield(L, -2, "orientation");
  lua_pushboolean(L, f->notes & IMAGE_NOTE_DICOM), lua_setfield(L, -2, "dicom");
  lua_pushnumber(L, f->over), lua_setfield(L, -2, "over");
  lua_pushboolean(L, f->alpha), lua_setfield(L, -2, "alpha");
  lua_pushinteger(L, f->low), lua_setfield(L, -2, "low");
  lua_pushinteger(L, f->high), lua_setfield(L, -2, "high");
  return 1;
}

/* Pushes x: float32 (n, 3, S, S), or (n, S, S, 3) for channels_last, and y: int64 (n), of n prepared images. */
static void push_batch(lua_State *L, const set *s, const int64_t *items, int64_t n, const uint8_t *px, const uint8_t *c,
                       bool channels_last) {
  int64_t size = imageset_size(s->s), planar[4] = { n, 3, size, size }, last[4] = { n, size, size, 3 };
  tx_tensor **xy = xl_slots(L, 2);
  XL_TRY(L, "dataset", tx_tensor_new(&xy[0], "float32", 4, channels_last ? last : planar, NULL, 0));
  XL_TRY(L, "dataset", tx_tensor_new(&xy[1], "int64", 1, &n, NULL, 0));
  float *to = tx_tensor_data(xy[0]);
  int64_t *labels = tx_tensor_data(xy[1]), one = size * size * 3;
  for (int64_t k = 0; k < n; k++) {
    image_to_float(to + k * one, px + k * one, (int)size, (int)size, c[k], channels_last, s->table);
    labels[k] = imageset_label(s->s, items[k]);
  }
  xl_pushheld(L, xy[0]);
  xl_pushheld(L, xy[1]);
}

/* Pushes x: uint8 (n, C, S, S), C 1 where all images are gray, else 3; and y as push_batch does. */
static void push_bytes(lua_State *L, const set *s, const int64_t *items, int64_t n, const uint8_t *px,
                       const uint8_t *c) {
  int64_t size = imageset_size(s->s), most = 1, area = size * size;
  for (int64_t k = 0; k < n; k++)
    most = c[k] > most ? c[k] : most;
  int64_t shape[4] = { n, most, size, size };
  tx_tensor **xy = xl_slots(L, 2);
  XL_TRY(L, "dataset", tx_tensor_new(&xy[0], "uint8", 4, shape, NULL, 0));
  XL_TRY(L, "dataset", tx_tensor_new(&xy[1], "int64", 1, &n, NULL, 0));
  uint8_t *to = tx_tensor_data(xy[0]);
  int64_t *labels = tx_tensor_data(xy[1]);
  for (int64_t k = 0; k < n; k++) {
    const uint8_t *from = px + k * area * 3;
    for (int64_t plane = 0; plane < most; plane++)
      for (int64_t i = 0; i < area; i++)
        to[(k * most + plane) * area + i] = from[i * c[k] + (c[k] == 3 ? plane : 0)];
    labels[k] = imageset_label(s->s, items[k]);
  }
  xl_pushheld(L, xy[0]);
  xl_pushheld(L, xy[1]);
}

/* set:batch({ i, ... } [, channels_last]) -> x, y, loaded on this thread */
static int set_batch(lua_State *L) {
  set *s = check_set(L, 1);
  bool channels_last = lua_toboolean(L, 3);
  lua_settop(L, 2);
  int64_t n, size = imageset_size(s->s), *items = check_items(L, 2, s, &n);
  uint8_t *px = lua_newuserdatauv(L, (size_t)(n * size * size * 3 + n + 1), 0), *c = px + n * size * size * 3;
  char why[IMAGESET_WHY];
  for (int64_t k = 0; k < n; k++) {
    int channels;
    if (tx_interrupted())
      xl_error(L, "interrupted");
    check_status(L, imageset_pixels(s->s, items[k], px + k * size * size * 3, &channels, why), why);
    c[k] = (uint8_t)channels;
  }
  push_batch(L, s, items, n, px, c, channels_last);
  return 2;
}

/* set:pixels(i) -> uint8 (S, S, C): the prepared image before it becomes floats */
static int set_pixels(lua_State *L) {
  set *s = check_set(L, 1);
  int64_t i = check_item(L, s, xl_toint(L, 2, "dataset: an index")), size = imageset_size(s->s);
  uint8_t *px = lua_newuserdatauv(L, (size_t)(size * size * 3), 0);
  tx_tensor **out = xl_slots(L, 1);
  char why[IMAGESET_WHY];
  int c;
  check_status(L, imageset_pixels(s->s, i, px, &c, why), why);
  int64_t shape[3] = { size, size, c };
  XL_TRY(L, "dataset", tx_tensor_new(out, "uint8", 3, shape, px, (size_t)(size * size * c)));
  xl_pushheld(L, *out);
  return 1;
}

/* { flip = 0.5, ... } at idx, where it is that and no list of transforms. */
static bool read_augment(lua_State *L, int idx, loader_augment *a) {
  if (!lua_istable(L, idx) || lua_rawlen(L, idx))
    return false;
  *a = (loader_augment){ .flip = opt_number(L, idx, "flip"),
                         .rotate_deg = opt_number(L, idx, "rotate_deg"),
                         .shift = opt_number(L, idx, "shift"),
                         .scale = opt_number(L, idx, "scale"),
                         .brightness = opt_number(L, idx, "brightness"),
                         .contrast = opt_number(L, idx, "contrast") };
  return true;
}

/* Moves a mask in px as the loader moves image i; what it does, seed and epoch at idx. Without a list of transforms the
 * mask is where at least half of a pixel is. */
static void move_mask(lua_State *L, int idx, const set *s, int64_t i, uint8_t *px) {
  int64_t size = imageset_size(s->s);
  augment_step *steps;
  int n;
  const imageset_facts *f;
  char why[IMAGESET_WHY], hex[65];
  loader_augment a;
  bool few = read_augment(L, idx, &a);
  xl_augment(L, idx, &steps, &n);
  uint8_t *from = lua_newuserdatauv(L, (size_t)(size * size), 0);
  for (int64_t k = 0; k < size * size; k++)
    from[k] = few ? 255 * px[k] : px[k];
  check_status(L, imageset_get_facts(s->s, i, &f, why), why);
  sha256_hex(f->digest, hex);
  hex[16] = 0;
  augment_key key = { (uint64_t)luaL_checkinteger(L, idx + 1), (uint64_t)luaL_checkinteger(L, idx + 2), hex };
  if (!few) {
    check_status(L, augment_apply(px, from, (int)size, 1, steps, n, &key, true, NULL), why);
    return;
  }
  a.brightness = a.contrast = 0;
  loader_augmented(px, from, (int)size, 1, &a, key.seed, key.epoch, hex);
  for (int64_t k = 0; k < size * size; k++)
    px[k] = px[k] > 127;
}

/* set:moved(i, mask, augment, seed, epoch) -> the mask, uint8 (S, S) of 0 and 1, as the loader moves image i */
static int set_moved(lua_State *L) {
  set *s = check_set(L, 1);
  int64_t i = check_item(L, s, xl_toint(L, 2, "dataset: an index")), size = imageset_size(s->s),
          shape[2] = { size, size };
  lua_settop(L, 6);
  tx_tensor *mask = xl_totensor(L, 3);
  const uint8_t *from = xl_todata(L, mask, "uint8", "mask");
  if (tx_tensor_numel(mask) != size * size)
    xl_error(L, "dataset: the mask is wrong (expected %lld x %lld).", (long long)size, (long long)size);
  uint8_t *px = lua_newuserdatauv(L, (size_t)(size * size), 0);
  memcpy(px, from, (size_t)(size * size));
  move_mask(L, 4, s, i, px);
  tx_tensor **out = xl_slots(L, 1);
  XL_TRY(L, "dataset", tx_tensor_new(out, "uint8", 2, shape, px, (size_t)(size * size)));
  xl_pushheld(L, *out);
  return 1;
}

/* set:mask(i, kind [, path]) -> uint8 (S, S) of 0 and 1, or nil */
static int set_mask(lua_State *L) {
  set *s = check_set(L, 1);
  int64_t i = check_item(L, s, xl_toint(L, 2, "dataset: an index")), size = imageset_size(s->s),
          shape[2] = { size, size };
  const char *kind = luaL_checkstring(L, 3), *path = luaL_optstring(L, 4, NULL);
  uint8_t *px = lua_newuserdatauv(L, (size_t)(size * size), 0);
  tx_tensor **out = xl_slots(L, 1);
  char why[IMAGESET_WHY];
  bool found;
  check_status(L, imageset_mask(s->s, i, kind, path, px, &found, why), why);
  if (!found) {
    lua_pushnil(L);
    return 1;
  }
  XL_TRY(L, "dataset", tx_tensor_new(out, "uint8", 2, shape, px, (size_t)(size * size)));
  xl_pushheld(L, *out);
  return 1;
}

static int set_count(lua_State *L) {
  lua_pushinteger(L, imageset_count(check_set(L, 1)->s));
  return 1;
}

static int set_cached(lua_State *L) {
  lua_pushinteger(L, imageset_cached_bytes(check_set(L, 1)->s));
  return 1;
}

/* set:error(i) -> what a scan found wrong with image i, or nil */
static int set_error(lua_State *L) {
  set *s = check_set(L, 1);
  lua_pushstring(L, imageset_error(s->s, check_item(L, s, xl_toint(L, 2, "dataset: an index"))));
  return 1;
}

/* set:near({ i, ... }, { group, ... }, max_distance, min_correlation, room)
 * -> count, { { a, b, distance, correlation }, ... }; a, b: positions in the list */
static int set_near(lua_State *L) {
  set *s = check_set(L, 1);
  int64_t n, room = luaL_checkinteger(L, 6), *items = check_items(L, 2, s, &n);
  luaL_argcheck(L, room >= 0 && room <= 1 << 20, 6, "room is wrong");
  luaL_checktype(L, 3, LUA_TTABLE);
  int *group = lua_newuserdatauv(L, (size_t)(n + 1) * sizeof *group, 0);
  for (int64_t k = 0; k < n; k++) {
    lua_rawgeti(L, 3, k + 1);
    group[k] = (int)lua_tointeger(L, -1);
    lua_pop(L, 1);
  }
  imageset_pair *pairs = lua_newuserdatauv(L, (size_t)(room + 1) * sizeof *pairs, 0);
  int64_t found = imageset_near(s->s, items, group, n, (int)luaL_checkinteger(L, 4), luaL_checknumber(L, 5), pairs,
                                room, tx_interrupted);
  if (tx_interrupted())
    xl_error(L, "interrupted");
  lua_pushinteger(L, found);
  lua_newtable(L);
  for (int64_t k = 0; k < found && k < room; k++) {
    lua_createtable(L, 0, 4);
    lua_pushinteger(L, pairs[k].a + 1), lua_setfield(L, -2, "a");
    lua_pushinteger(L, pairs[k].b + 1), lua_setfield(L, -2, "b");
    lua_pushinteger(L, pairs[k].distance), lua_setfield(L, -2, "distance");
    lua_pushnumber(L, pairs[k].correlation), lua_setfield(L, -2, "correlation");
    lua_rawseti(L, -2, k + 1);
  }
  return 2;
}

/* ---- scans ------------------------------------------------------------------------------------------------- */
typedef struct scan {
  imageset_scan *scan;
  set *s; /* retained */
} scan;

static void destroy_scan(void *p) {
  imageset_scan_free(((scan *)p)->scan);
  xl_releaseobject(((scan *)p)->s);
}

/* set:scan({ i, ... }, threads) -> scan; scan:wait(seconds) -> finished, done; scan:close() */
static int set_scan(lua_State *L) {
  set *s = check_set(L, 1);
  int64_t threads = luaL_checkinteger(L, 3);
  int64_t n, *items = check_items(L, 2, s, &n);
  if (threads < 1 || threads > 256)
    xl_error(L, "dataset: threads is wrong (expected 1 to 256, got %lld).", (long long)threads);
  scan *made = xl_newobject(L, XL_SCAN, sizeof *made, destroy_scan);
  made->s = xl_retainobject(s);
  made->scan = imageset_scan_start(s->s, items, n, (int)threads);
  if (!made->scan)
    xl_error(L, "dataset: out of memory.");
  return 1;
}

static int scan_wait(lua_State *L) {
  scan *s = xl_toobject(L, 1, XL_SCAN, "dataset: the scan is closed.");
  double seconds = luaL_checknumber(L, 2);
  int64_t done = 0;
  bool finished = false;
  for (double left = seconds; left > 0 && !finished; left -= 0.05) {
    finished = imageset_scan_wait(s->scan, left < 0.05 ? left : 0.05, &done);
    if (tx_interrupted())
      xl_error(L, "interrupted");
  }
  lua_pushboolean(L, finished);
  lua_pushinteger(L, done);
  return 2;
}

static int scan_close(lua_State *L) {
  xl_closeobject(L, 1, XL_SCAN);
  return 0;
}

/* ---- loaders ----------------------------------------------------------------------------------------------- */
typedef struct box {
  loader *l;
  set *s; /* retained */
  int64_t *order;
  bool channels_last, bytes;
} box;

static void destroy_loader(void *p) {
  box *b = p;
  loader_free(b->l);
  xl_releaseobject(b->s);
  mx_free(b->order);
}

/* set:table() -> float32 (3, 256): what the network sees of a byte of red, green, blue */
static int set_table(lua_State *L) {
  set *s = check_set(L, 1);
  int64_t shape[2] = { 3, 256 };
  tx_tensor **out = xl_slots(L, 1);
  XL_TRY(L, "dataset", tx_tensor_new(out, "float32", 2, shape, s->table, sizeof s->table));
  xl_pushheld(L, *out);
  return 1;
}

/* set:draws({ i, ... }, { seed, epoch, augment = {..} }) -> float64 (n, 7), the fields of loader_draws in order; of
 * images that have been decoded */
static int set_draws(lua_State *L) {
  set *s = check_set(L, 1);
  luaL_checktype(L, 3, LUA_TTABLE);
  lua_settop(L, 3);
  loader_augment a = { 0 };
  lua_getfield(L, 3, "augment");
  if (!read_augment(L, 4, &a) && !lua_isnil(L, 4))
    xl_error(L, "dataset: a list of transforms is drawn by the loader alone.");
  lua_settop(L, 3);
  uint64_t seed = (uint64_t)opt_int(L, 3, "seed", 0, INT64_MIN, INT64_MAX);
  uint64_t epoch = (uint64_t)opt_int(L, 3, "epoch", 0, INT64_MIN, INT64_MAX);
  int64_t n, *items = check_items(L, 2, s, &n), shape[2] = { n, 7 };
  tx_tensor **out = xl_slots(L, 1);
  XL_TRY(L, "dataset", tx_tensor_new(out, "float64", 2, shape, NULL, 0));
  double *to = tx_tensor_data(*out);
  for (int64_t k = 0; k < n; k++) {
    const imageset_facts *f;
    char why[IMAGESET_WHY], hex[65];
    check_status(L, imageset_get_facts(s->s, items[k], &f, why), why);
    sha256_hex(f->digest, hex);
    hex[16] = 0; /* the image id */
    loader_draws d = loader_draw((int)imageset_size(s->s), &a, seed, epoch, hex);
    const double row[7] = { d.cosine, d.sine, d.dx, d.dy, d.mirror, d.brightness, d.contrast };
    memcpy(to + 7 * k, row, sizeof row);
  }
  xl_pushheld(L, *out);
  return 1;
}

/* set:loader{ order = { i, ... }, batch, drop_last, threads, depth, seed, epoch, augment = {..}, channels_last, bytes }
 * -> loader; bytes: x as prepared, uint8 (n, C, S, S)
 * augment: { flip = 0.5 .. } or a list of transforms (l_augment.c) */
static int set_loader(lua_State *L) {
  set *s = check_set(L, 1);
  luaL_checktype(L, 2, LUA_TTABLE);
  lua_settop(L, 2);
  loader_augment a;
  lua_getfield(L, 2, "augment"); /* at 3 */
  bool augmented = read_augment(L, 3, &a);
  loader_options o = { .batch = opt_int(L, 2, "batch", 32, 1, INT32_MAX), .drop_last = opt_bool(L, 2, "drop_last"),
                       .threads = (int)opt_int(L, 2, "threads", 2, 1, 256),
                       .depth = (int)opt_int(L, 2, "depth", 3, 1, 1024),
                       .seed = (uint64_t)opt_int(L, 2, "seed", 0, INT64_MIN, INT64_MAX),
                       .epoch = (uint64_t)opt_int(L, 2, "epoch", 0, INT64_MIN, INT64_MAX),
                       .augment = augmented ? &a : NULL };
  augment_step *steps = NULL;
  if (lua_istable(L, 3) && !augmented)
    xl_augment(L, 3, &steps, &o.n_steps); /* its memory at 4 */
  else
    lua_pushnil(L);
  o.steps = steps;
  box *b = xl_newobject(L, XL_LOADER, sizeof *b, destroy_loader); /* at 5 */
  b->s = xl_retainobject(s);
  b->channels_last = opt_bool(L, 2, "channels_last");
  b->bytes = opt_bool(L, 2, "bytes");
  lua_getfield(L, 2, "order");
  int64_t n;
  const int64_t *items = check_items(L, 6, s, &n);
  b->order = mx_malloc((size_t)n * sizeof *items);
  if (!b->order)
    xl_error(L, "loader: out of memory.");
  if (n > 0)
    memcpy(b->order, items, (size_t)n * sizeof *items);
  b->l = loader_start(s->s, b->order, n, &o);
  if (!b->l)
    xl_error(L, "loader: out of memory.");
  lua_settop(L, 5);
  return 1;
}

static box *check_loader(lua_State *L) { return xl_toobject(L, 1, XL_LOADER, "loader: it is closed."); }

/* loader:next() -> x, y, place of the first in the order; nil at the end */
static int loader_lua_next(lua_State *L) {
  box *b = check_loader(L);
  loader_batch batch;
  char why[IMAGESET_WHY];
  int state;
  while ((state = loader_next(b->l, 0.05, &batch, why)) == LOADER_WAIT)
    if (tx_interrupted())
      xl_error(L, "interrupted");
  if (state == LOADER_FAILED)
    xl_error(L, strcmp(why, "out of memory") ? "dataset: %s" : "dataset: %s.", why);
  if (state == LOADER_END) {
    lua_pushnil(L);
    return 1;
  }
  if (b->bytes)
    push_bytes(L, b->s, b->order + batch.start, batch.n, batch.px, batch.c);
  else
    push_batch(L, b->s, b->order + batch.start, batch.n, batch.px, batch.c, b->channels_last);
  loader_release(b->l);
  lua_pushinteger(L, batch.start + 1);
  return 3;
}

static int loader_lua_waited(lua_State *L) {
  box *b = xl_testobject(L, 1, XL_LOADER);
  lua_pushnumber(L, b ? loader_waited(b->l) : 0);
  return 1;
}

static int loader_lua_batches(lua_State *L) {
  lua_pushinteger(L, loader_batches(check_loader(L)->l));
  return 1;
}

static int loader_lua_close(lua_State *L) {
  xl_closeobject(L, 1, XL_LOADER);
  return 0;
}

/* order(n, seed, epoch) -> { permutation of 1 .. n }: stream (seed, "order@1", "", epoch) */
static int loader_lua_order(lua_State *L) {
  int64_t n = luaL_checkinteger(L, 1);
  mx_stream stream;
  luaL_argcheck(L, n >= 0 && n < INT32_MAX, 1, "out of range");
  mx_stream_init(&stream, (uint64_t)luaL_checkinteger(L, 2), "order@1", "", (uint64_t)luaL_checkinteger(L, 3));
  int64_t *order = lua_newuserdatauv(L, (size_t)(n + 1) * sizeof *order, 0);
  mx_stream_permutation(&stream, n, order);
  lua_createtable(L, (int)n, 0);
  for (int64_t i = 0; i < n; i++) {
    lua_pushinteger(L, order[i] + 1);
    lua_rawseti(L, -2, i + 1);
  }
  return 1;
}

int luaopen_core_loader(lua_State *L) {
  static const luaL_Reg set_methods[] = {
    { "add",    set_add },
    { "white",  set_white },
    { "facts",  set_facts },
    { "batch",  set_batch },
    { "pixels", set_pixels },
    { "mask",   set_mask },
    { "moved",  set_moved },
    { "count",  set_count },
    { "cached", set_cached },
    { "error",  set_error },
    { "near",   set_near },
    { "scan",   set_scan },
    { "table",  set_table },
    { "draws",  set_draws },
    { "loader", set_loader },
    { NULL, NULL },
  };
  static const luaL_Reg scan_methods[] = { { "wait", scan_wait }, { "close", scan_close }, { NULL, NULL } };
  static const luaL_Reg loader_methods[] = {
    { "next",    loader_lua_next },
    { "waited",  loader_lua_waited },
    { "batches", loader_lua_batches },
    { "close",   loader_lua_close },
    { NULL, NULL },
  };
  static const luaL_Reg functions[] = { { "set", loader_lua_set },
                                         { "order", loader_lua_order },
                                         { "augmented", xl_augmented }, { NULL, NULL } };
  xl_newtype(L, XL_SET, set_methods, set_gc);
  xl_newtype(L, XL_SCAN, scan_methods, scan_close);
  xl_newtype(L, XL_LOADER, loader_methods, loader_lua_close);
  xl_newlib(L, functions);
  return 1;
}
