/* loader.h: prepares the batches of a data set ahead of their use, by several threads.
 * The order is the caller's. An image of a batch depends on (seed, epoch, image) alone, not on the number of threads.
 * Threads pause when `depth` batches are ready. A batch with an image that cannot be read is an error and ends the
 * queue; the batches before it are delivered. */
#ifndef MEDXAI_LOADER_H
#define MEDXAI_LOADER_H

#include "augment.h"
#include "imageset.h"

/* Random augmentation of a prepared image, drawn anew for each epoch. All 0: none. */
typedef struct loader_augment {
  double flip;       /* probability of a left-right mirror (moves the heart: 0 by default) */
  double rotate_deg; /* rotated by up to this, in either direction */
  double shift;      /* shifted by up to this fraction of the side, in either direction */
  double scale;      /* enlarged or shrunk by up to this fraction */
  double brightness; /* multiplied by 1 +- up to this */
  double contrast;   /* differences from the image's mean multiplied by 1 +- up to this */
} loader_augment;

typedef struct loader_options {
  int64_t batch;
  bool drop_last;
  int threads, depth;    /* at least 1 each */
  uint64_t seed, epoch;  /* key the augmentation */
  const loader_augment *augment; /* copied; NULL: none */
  const augment_step *steps;     /* copied; used in place of `augment` where there are any */
  int n_steps;
} loader_options;

typedef struct loader loader;

typedef struct loader_batch {
  int64_t n, start;     /* images in it; place of the first in the order */
  const uint8_t *px;    /* n prepared images, each size * size * 3 bytes apart, c[i] channels used */
  const uint8_t *c;
} loader_batch;

enum { LOADER_READY, LOADER_WAIT, LOADER_END, LOADER_FAILED };

/* The set must outlive the loader; order: n indices into it, copied. NULL: out of memory, or no thread could start. */
loader *loader_start(imageset *set, const int64_t *order, int64_t n, const loader_options *options);
/* The next batch, valid until loader_release; until then the same batch is returned. LOADER_WAIT: not ready after
 * `seconds`. LOADER_FAILED: why says what is wrong. */
int loader_next(loader *l, double seconds, loader_batch *batch, char why[IMAGESET_WHY]);
void loader_release(loader *l);         /* the batch's memory may be reused */
double loader_waited(const loader *l); /* seconds that loader_next has waited so far */
int64_t loader_batches(const loader *l);
void loader_free(loader *l);         /* stops and joins; accepts NULL */

/* How epoch `epoch` augments an image: out(x, y) is in at middle + R (x - middle - dx, y - middle - dy), mirrored or
 * not, with R = (cosine, sine; -sine, cosine), turned and scaled; middle = (size - 1) / 2. */
typedef struct loader_draws {
  double cosine, sine, dx, dy, mirror; /* mirror: -1 or 1, times the first coordinate */
  double brightness, contrast;
} loader_draws;
loader_draws loader_draw(int size, const loader_augment *a, uint64_t seed, uint64_t epoch, const char *id);

/* Augments one image (c channels, size x size) as epoch `epoch` does; out and in must not overlap. */
void loader_augmented(uint8_t *out, const uint8_t *in, int size, int c, const loader_augment *a, uint64_t seed,
                      uint64_t epoch, const char *id);

#endif
