/* imageset.c: see imageset.h. Any number of threads may read at once: prepared pixels and facts of an image are set
 * once, by the first thread that needs them, and stay until imageset_free. */
#include "imageset.h"
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include "alloc.h"
#include "clock.h"
#include "sha256.h"
#include "worker.h"

typedef struct item {
  char *path, *lungs; /* lungs NULL: none */
  int label;
  int white16;
  int64_t number; /* which phantom */
  _Atomic(imageset_facts *) facts;
  _Atomic(uint8_t *) pixels; /* one byte of channel count, then the prepared pixels */
  char *error;               /* written by a scan, read when it is over */
} item;

struct imageset {
  imageset_options o;
  char *root;
  phantom drawn;
  item *items;
  int64_t n, room;
  atomic_int_fast64_t cached;
  atomic_int holders; /* loaders and scans whose threads use it */
};

static int fail(char *why, const char *format, ...) __attribute__((format(printf, 2, 3)));
static int fail(char *why, const char *format, ...) {
  va_list args;
  va_start(args, format);
  vsnprintf(why, IMAGESET_WHY, format, args);
  va_end(args);
  return IMAGE_ERROR;
}

static int no_memory(char *why) {
  snprintf(why, IMAGESET_WHY, "out of memory");
  return IMAGE_NOMEM;
}

imageset *imageset_new(const imageset_options *options) {
  imageset *s = mx_calloc(1, sizeof *s);
  if (!s)
    return NULL;
  s->o = *options;
  s->root = mx_strdup(options->root ? options->root : "");
  if (!s->root) {
    mx_free(s);
    return NULL;
  }
  s->o.root = s->root;
  if (options->phantom) {
    s->drawn = *options->phantom;
    s->o.phantom = &s->drawn;
  }
  return s;
}

void imageset_free(imageset *s) {
  if (!s)
    return;
  for (int64_t i = 0; i < s->n; i++) {
    item *it = &s->items[i];
    mx_free(it->path);
    mx_free(it->lungs);
    mx_free(atomic_load(&it->facts));
    mx_free(atomic_load(&it->pixels));
    mx_free(it->error);
  }
  mx_free(s->items);
  mx_free(s->root);
  mx_free(s);
}

void imageset_hold(imageset *s) { atomic_fetch_add(&s->holders, 1); }
void imageset_release(imageset *s) { atomic_fetch_sub(&s->holders, 1); }
bool imageset_is_held(const imageset *s) { return atomic_load(&s->holders) > 0; }

int64_t imageset_add(imageset *s, const char *path, const char *lungs, int label, int64_t number) {
  if (imageset_is_held(s))
    return -2;
  if (s->n == s->room) {
    int64_t room = s->room ? 2 * s->room : 64;
    item *items = mx_realloc(s->items, (size_t)room * sizeof *items);
    if (!items)
      return -1;
    s->items = items;
    s->room = room;
  }
  char *p = mx_strdup(path), *m = lungs ? mx_strdup(lungs) : NULL;
  if (!p || (lungs && !m)) {
    mx_free(p);
    mx_free(m);
    return -1;
  }
  s->items[s->n] = (item){ .path = p, .lungs = m, .label = label, .number = number, .white16 = s->o.white16 };
  return s->n++;
}

void imageset_white(imageset *s, int64_t i, int white16) { s->items[i].white16 = white16; }

int64_t imageset_count(const imageset *s) { return s->n; }
int imageset_size(const imageset *s) { return s->o.size_px; }
int imageset_label(const imageset *s, int64_t i) { return s->items[i].label; }
int64_t imageset_cached_bytes(const imageset *s) { return atomic_load(&s->cached); }
const char *imageset_error(const imageset *s, int64_t i) { return s->items[i].error; }

/* ---- one image ------------------------------------------------------------------------------------------- */
static int read_bytes(const imageset *s, const char *path, uint8_t **bytes, size_t *n, char *why) {
  size_t room = strlen(s->root) + strlen(path) + 2;
  char *full = mx_malloc(room);
  if (!full)
    return no_memory(why);
  bool absolute = *path == '/' || !*s->root; /* a table may hold both */
  snprintf(full, room, "%s%s%s", absolute ? "" : s->root, absolute ? "" : "/", path);
  int status = image_read_file(bytes, n, full, why);
  mx_free(full);
  return status;
}

static int no_fit(char *why, const item *it, const image *mask, int w, int h, const char *kind, const char *path) {
  return fail(why,
              "the %s mask '%s' does not fit its image '%s' (expected %d x %d, got %d x %d). Repair it, write "
              "mask_resize = 'nearest' to stretch such masks, or list the image in skip.txt.",
              kind, path, it->path, w, h, mask->w, mask->h);
}

static int cannot_read(char *why, const char *path, const char *reason, int status) {
  return status == IMAGE_NOMEM ? no_memory(why)
                               : fail(why, "cannot read '%s' (%s). List it in skip.txt.", path, reason);
}

/* A mask file as 0 and 255, of the size w x h. */
static int load_mask(const imageset *s, const item *it, const char *path, const char *kind, int w, int h, image *out,
                     char *why) {
  char reason[IMAGE_WHY] = "";
  uint8_t *bytes = NULL;
  size_t n = 0;
  image mask = { 0 };
  int status = read_bytes(s, path, &bytes, &n, reason);
  if (!status)
    status = image_decode(&mask, bytes, n, (image_levels){ it->white16, { .kind = DICOM_WINDOW_RANGE } }, reason);
  mx_free(bytes);
  if (!status)
    status = image_binary(&mask, reason);
  if (status == IMAGE_ERROR)
    fail(why, "cannot read the %s mask '%s' (%s). Repair it, or list its image '%s' in skip.txt.", kind, path, reason,
         it->path);
  else if (status == IMAGE_NOMEM)
    no_memory(why);
  else if (image_fit_mask(&mask, w, h, s->o.mask_resize, reason))
    status = s->o.mask_resize ? no_memory(why) : no_fit(why, it, &mask, w, h, kind, path);
  if (status)
    image_free(&mask);
  else
    *out = mask;
  return status;
}

static int mask_picture(const imageset *s, const item *it, image *im, char *why) {
  char reason[IMAGE_WHY] = "";
  image mask;
  if (!it->lungs)
    return fail(why, "'%s' has no lung mask, which mask = '%s' needs. Add it, or list the image in skip.txt.", it->path,
                image_mask_names[s->o.mask]);
  int status = load_mask(s, it, it->lungs, "lung", im->w, im->h, &mask, why);
  if (status)
    return status;
  status = image_apply_mask(im, &mask, s->o.mask, reason);
  image_free(&mask);
  if (status)
    fail(why, "the lung mask '%s' cannot be used (%s). Repair it, or list its image '%s' in skip.txt.", it->lungs,
         reason, it->path);
  return status;
}

/* Short side and center crop, in place. */
static int fit_picture(const imageset *s, image *im, bool nearest) {
  int w = im->w, h = im->h, size = s->o.size_px;
  image sized, cut;
  if (!s->o.resize_px)
    return IMAGE_OK;
  image_short_side(&w, &h, s->o.resize_px);
  int status = nearest ? image_resize_nearest(&sized, im, w, h) : image_resize(&sized, im, w, h);
  if (status)
    return status;
  status = image_crop(&cut, &sized, image_crop_offset(w, size), image_crop_offset(h, size), size, size);
  image_free(&sized);
  if (status)
    return status;
  image_free(im);
  *im = cut;
  return IMAGE_OK;
}

static int remember_facts(item *it, const image *im, const uint8_t file_digest[32], char *why) {
  if (atomic_load(&it->facts))
    return IMAGE_OK;
  imageset_facts *f = mx_calloc(1, sizeof *f), *none = NULL;
  if (!f || image_perceptual(im, &f->hash, f->thumbnail)) {
    mx_free(f);
    return no_memory(why);
  }
  image_digest(im, f->digest);
  memcpy(f->file_digest, file_digest ? file_digest : f->digest, 32);
  f->w = im->w, f->h = im->h, f->c = im->c, f->bits = im->bits, f->top = im->top, f->notes = im->notes;
  f->over = im->over, f->alpha = im->alpha, f->low = 255;
  for (size_t k = 0; k < (size_t)im->w * im->h * im->c; k++) {
    f->low = im->px[k] < f->low ? im->px[k] : f->low;
    f->high = im->px[k] > f->high ? im->px[k] : f->high;
  }
  if (!atomic_compare_exchange_strong(&it->facts, &none, f))
    mx_free(f);
  return IMAGE_OK;
}

static int draw_picture(imageset *s, int64_t i, image *im, char *why) {
  phantom_masks masks = { 0 };
  int status = phantom_draw(s->o.phantom, s->items[i].number, im, s->o.mask ? &masks : NULL);
  if (!status)
    status = remember_facts(&s->items[i], im, NULL, why);
  if (!status && s->o.mask)
    status = image_apply_mask(im, &masks.lungs, s->o.mask, why);
  phantom_masks_free(&masks);
  return status == IMAGE_NOMEM ? no_memory(why) : status;
}

static int open_picture(imageset *s, int64_t i, image *im, char *why) {
  item *it = &s->items[i];
  char reason[IMAGE_WHY] = "";
  uint8_t *bytes = NULL, digest[32];
  size_t n = 0;
  int status = read_bytes(s, it->path, &bytes, &n, reason);
  if (!status && !atomic_load(&it->facts)) {
    sha256 h;
    sha256_init(&h);
    sha256_add(&h, bytes, n);
    sha256_finish(&h, digest);
  }
  if (!status)
    status = image_decode(im, bytes, n, (image_levels){ it->white16, s->o.window }, reason);
  mx_free(bytes);
  if (status)
    return cannot_read(why, it->path, reason, status);
  return remember_facts(it, im, digest, why);
}

/* The image as the network will see it, in 8 bits. */
static int prepare(imageset *s, int64_t i, image *out, char *why) {
  image im = { 0 };
  int status = s->o.phantom ? draw_picture(s, i, &im, why) : open_picture(s, i, &im, why);
  if (!status && s->o.mask && !s->o.phantom)
    status = mask_picture(s, &s->items[i], &im, why);
  if (!status && fit_picture(s, &im, false))
    status = no_memory(why);
  if (!status && (im.w != s->o.size_px || im.h != s->o.size_px)) /* resize_px = 0, and the image has another size */
    status = fail(why, "'%s' is %d x %d pixels (expected %d x %d).", s->items[i].path, im.w, im.h, s->o.size_px,
                  s->o.size_px);
  if (status)
    image_free(&im);
  else
    *out = im;
  return status;
}

/* Keeps a copy if the cache has room. */
static void keep(imageset *s, item *it, const image *im) {
  size_t n = (size_t)im->w * im->h * im->c + 1;
  if (atomic_load(&it->pixels))
    return;
  if (atomic_fetch_add(&s->cached, (int64_t)n) + (int64_t)n > s->o.cache_bytes) {
    atomic_fetch_sub(&s->cached, (int64_t)n);
    return;
  }
  uint8_t *copy = mx_malloc(n), *none = NULL;
  if (copy) {
    copy[0] = (uint8_t)im->c;
    memcpy(copy + 1, im->px, n - 1);
    if (atomic_compare_exchange_strong(&it->pixels, &none, copy))
      return;
    mx_free(copy);
  }
  atomic_fetch_sub(&s->cached, (int64_t)n);
}

int imageset_pixels(imageset *s, int64_t i, uint8_t *px, int *c, char why[IMAGESET_WHY]) {
  item *it = &s->items[i];
  size_t places = (size_t)s->o.size_px * s->o.size_px;
  const uint8_t *kept = atomic_load(&it->pixels);
  if (kept) {
    *c = kept[0];
    memcpy(px, kept + 1, places * kept[0]);
    return IMAGE_OK;
  }
  image im;
  int status = prepare(s, i, &im, why);
  if (status)
    return status;
  keep(s, it, &im);
  *c = im.c;
  memcpy(px, im.px, places * im.c);
  image_free(&im);
  return IMAGE_OK;
}

/* Prepares one image: for its facts, and for the cache if that has room. */
static int visit(imageset *s, int64_t i, char *why) {
  item *it = &s->items[i];
  if (atomic_load(&it->facts) && (atomic_load(&it->pixels) || atomic_load(&s->cached) >= s->o.cache_bytes))
    return IMAGE_OK;
  image im;
  int status = prepare(s, i, &im, why);
  if (status)
    return status;
  keep(s, it, &im);
  image_free(&im);
  return IMAGE_OK;
}

int imageset_get_facts(imageset *s, int64_t i, const imageset_facts **facts, char why[IMAGESET_WHY]) {
  item *it = &s->items[i];
  if (!atomic_load(&it->facts)) {
    image im = { 0 };
    int status = s->o.phantom ? draw_picture(s, i, &im, why) : open_picture(s, i, &im, why);
    image_free(&im);
    if (status)
      return status;
  }
  *facts = atomic_load(&it->facts);
  return IMAGE_OK;
}

static int drawn_mask(imageset *s, int64_t i, const char *kind, image *out, bool *found, char *why) {
  phantom_masks masks = { 0 };
  image im = { 0 };
  if (phantom_draw(s->o.phantom, s->items[i].number, &im, &masks))
    return no_memory(why);
  image_free(&im);
  image *which = !strcmp(kind, "lungs")    ? &masks.lungs
                 : !strcmp(kind, "lesion") ? &masks.lesion
                 : !strcmp(kind, "marker") ? &masks.marker
                                           : NULL;
  *found = which && which->px;
  if (*found) {
    *out = *which;
    *which = (image){ 0 };
  }
  phantom_masks_free(&masks);
  return IMAGE_OK;
}

int imageset_mask(imageset *s, int64_t i, const char *kind, const char *path, uint8_t *out, bool *found,
                  char why[IMAGESET_WHY]) {
  const item *it = &s->items[i];
  const imageset_facts *f;
  image mask = { 0 };
  int status;
  *found = false;
  if (s->o.phantom) {
    status = drawn_mask(s, i, kind, &mask, found, why);
  } else {
    bool lungs = !strcmp(kind, "lungs");
    const char *file = path || !lungs ? path : it->lungs;
    if (!file)
      return IMAGE_OK;
    status = imageset_get_facts(s, i, &f, why);
    if (!status)
      status = load_mask(s, it, file, lungs ? "lung" : kind, f->w, f->h, &mask, why);
    *found = !status;
  }
  if (!status && *found && fit_picture(s, &mask, true))
    status = no_memory(why);
  size_t n = (size_t)s->o.size_px * s->o.size_px;
  for (size_t k = 0; !status && *found && k < n; k++)
    out[k] = mask.px[k] != 0;
  image_free(&mask);
  return status;
}

/* ---- all of them ------------------------------------------------------------------------------------------- */
struct imageset_scan {
  imageset *s;
  int64_t *items, n, next, done;
  pthread_mutex_t lock;
  pthread_cond_t progress;
  bool stop;
  int threads;
  pthread_t thread[];
};

static void *scan_work(void *ud) {
  imageset_scan *scan = ud;
  char why[IMAGESET_WHY];
  pthread_mutex_lock(&scan->lock);
  while (!scan->stop && scan->next < scan->n) {
    int64_t i = scan->items[scan->next++];
    item *it = &scan->s->items[i];
    pthread_mutex_unlock(&scan->lock);
    int status = visit(scan->s, i, why);
    char *error = status ? mx_strdup(why) : NULL;
    pthread_mutex_lock(&scan->lock);
    mx_free(it->error);
    it->error = error;
    scan->done++;
    if (scan->done == scan->n)
      pthread_cond_signal(&scan->progress);
  }
  pthread_mutex_unlock(&scan->lock);
  return NULL;
}

imageset_scan *imageset_scan_start(imageset *s, const int64_t *items, int64_t n, int threads) {
  imageset_scan *scan = mx_calloc(1, sizeof *scan + (size_t)threads * sizeof scan->thread[0]);
  int64_t *copy = mx_malloc((size_t)n * sizeof *copy);
  if (!scan || !copy) {
    mx_free(scan);
    mx_free(copy);
    return NULL;
  }
  memcpy(copy, items, (size_t)n * sizeof *copy);
  scan->s = s, scan->items = copy, scan->n = n;
  imageset_hold(s);
  pthread_mutex_init(&scan->lock, NULL);
  pthread_cond_init(&scan->progress, NULL);
  while (scan->threads < threads && !worker_start(&scan->thread[scan->threads], scan_work, scan))
    scan->threads++;
  if (!scan->threads && threads) {
    imageset_scan_free(scan);
    return NULL;
  }
  return scan;
}

bool imageset_scan_wait(imageset_scan *scan, double seconds, int64_t *done) {
  struct timespec until = clock_after(seconds);
  pthread_mutex_lock(&scan->lock);
  while (scan->done < scan->n && !pthread_cond_timedwait(&scan->progress, &scan->lock, &until))
    ;
  *done = scan->done;
  bool finished = scan->done == scan->n;
  pthread_mutex_unlock(&scan->lock);
  return finished;
}

void imageset_scan_free(imageset_scan *scan) {
  if (!scan)
    return;
  pthread_mutex_lock(&scan->lock);
  scan->stop = true;
  pthread_mutex_unlock(&scan->lock);
  for (int t = 0; t < scan->threads; t++)
    pthread_join(scan->thread[t], NULL);
  imageset_release(scan->s);
  pthread_cond_destroy(&scan->progress);
  pthread_mutex_destroy(&scan->lock);
  mx_free(scan->items);
  mx_free(scan);
}

/* ---- near duplicates --------------------------------------------------------------------------------------- */
#if defined(__x86_64__) && defined(__gnu_linux__)
__attribute__((target_clones("popcnt", "default")))
#endif
int64_t imageset_near(const imageset *s, const int64_t *items, const int *group, int64_t n, int max_distance,
                      double min_correlation, imageset_pair *out, int64_t room, bool (*stop)(void)) {
  int64_t found = 0;
  for (int64_t a = 0; a < n && !stop(); a++) {
    const imageset_facts *fa = atomic_load(&s->items[items[a]].facts);
    for (int64_t b = a + 1; fa && b < n; b++) {
      const imageset_facts *fb = atomic_load(&s->items[items[b]].facts);
      if (group[a] == group[b] || !fb || __builtin_popcountll(fa->hash ^ fb->hash) > max_distance)
        continue;
      double r = image_correlation(fa->thumbnail, fb->thumbnail);
      if (r < min_correlation || !memcmp(fa->digest, fb->digest, 32))
        continue;
      if (found < room)
        out[found] = (imageset_pair){ a, b, __builtin_popcountll(fa->hash ^ fb->hash), r };
      found++;
    }
  }
  return found;
}
