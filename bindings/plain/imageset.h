/* imageset.h: the images of a data set: decoded on demand by any thread, masked, resized and cropped to one size,
 * cached up to a budget; and facts about each (hashes, size, range). Splits and class names are Lua's. Images and masks
 * that do not fit are errors with a reason. */
#ifndef MEDXAI_IMAGESET_H
#define MEDXAI_IMAGESET_H

#include <stdbool.h>
#include <stdint.h>
#include "image.h"
#include "phantom.h"

typedef struct imageset imageset;

typedef struct imageset_options {
  const char *root;       /* put before every path; not shown in messages */
  int resize_px, size_px; /* short side, then center crop; resize_px 0: neither, for phantoms drawn at size_px */
  image_mask mask;
  int white16;            /* see image_levels; imageset_white sets that of a single image */
  dicom_window window;    /* of DICOM files */
  image_mask_resize mask_resize; /* of mask files of another size than their image */
  int64_t cache_bytes;    /* the most that prepared pixels may keep */
  const phantom *phantom; /* copied; NULL: images are files */
} imageset_options;

typedef struct imageset_facts {
  uint8_t file_digest[32]; /* of the file's bytes; of the pixels for a phantom */
  uint8_t digest[32];      /* image_digest of the image as decoded, before mask and resize */
  uint64_t hash;
  uint8_t thumbnail[1024];
  int w, h, c, bits, top, notes; /* see image */
  float over;
  bool alpha;
  uint8_t low, high; /* the smallest and the largest byte of the decoded image */
} imageset_facts;

#define IMAGESET_WHY 2048 /* room for a message with two paths */

imageset *imageset_new(const imageset_options *options); /* NULL: out of memory */
void imageset_free(imageset *s);                         /* no thread may be using it */
/* Appends one image; its index, or -1: out of memory, -2: threads are using s. lungs NULL: it has no lung mask.
 * number: which phantom (for drawn sets). */
int64_t imageset_add(imageset *s, const char *path, const char *lungs, int label, int64_t number);
/* The 16-bit sample of this image and its masks that becomes white. Not while threads are using s. */
void imageset_white(imageset *s, int64_t i, int white16);
/* While s is held, it must not be freed, and nothing can be added. Loaders and scans hold it while their threads
 * run. */
void imageset_hold(imageset *s);
void imageset_release(imageset *s);
bool imageset_is_held(const imageset *s);
int64_t imageset_count(const imageset *s);
int imageset_size(const imageset *s); /* size_px */
int imageset_label(const imageset *s, int64_t i);

/* The prepared pixels: size_px * size_px * *c bytes into px (room for 3 channels). */
int imageset_pixels(imageset *s, int64_t i, uint8_t *px, int *c, char why[IMAGESET_WHY]);
/* Decodes unless that was done before; the result lives as long as s. */
int imageset_get_facts(imageset *s, int64_t i, const imageset_facts **facts, char why[IMAGESET_WHY]);
/* A mask aligned with the prepared pixels, by nearest, 0 and 1. kind: "lungs", "infection", "lesion", "marker"; path:
 * its file below root, NULL for the lung mask given to imageset_add and for phantoms. *found false: there is none. */
int imageset_mask(imageset *s, int64_t i, const char *kind, const char *path, uint8_t *out, bool *found,
                  char why[IMAGESET_WHY]);
int64_t imageset_cached_bytes(const imageset *s);
const char *imageset_error(const imageset *s, int64_t i); /* what imageset_scan found, or NULL */

/* ---- all images, by several threads ---- */
typedef struct imageset_scan imageset_scan;
/* items copied; NULL: no memory or no thread */
imageset_scan *imageset_scan_start(imageset *s, const int64_t *items, int64_t n, int threads);
bool imageset_scan_wait(imageset_scan *scan, double seconds, int64_t *done); /* true: finished */
void imageset_scan_free(imageset_scan *scan); /* stops and joins; accepts NULL */

/* ---- near duplicates ---- */
typedef struct imageset_pair {
  int64_t a, b; /* places in `items` */
  int distance;
  double correlation;
} imageset_pair;
/* Pairs from different groups whose hashes differ in at most max_distance bits and whose thumbnails have a correlation
 * of at least min_correlation, but whose pixels are not equal. Returns their number, writes at most `room`. Images
 * without facts are left out. */
int64_t imageset_near(const imageset *s, const int64_t *items, const int *group, int64_t n, int max_distance,
                      double min_correlation, imageset_pair *out, int64_t room, bool (*stop)(void));

#endif
