/* loader.h: batches of a dataset made ahead of their use by several threads, in plain C.
 * The order is the caller's; what a batch holds depends on (seed, epoch, picture) alone, never on how many threads there are.
 * The queue is bounded: threads stop when `depth` batches wait. It refuses to go on after a picture that cannot be read:
 * the batch that holds it is an error, the ones before it are delivered. */
#ifndef MEDXAI_LOADER_H
#define MEDXAI_LOADER_H

#include "imageset.h"

/* Random changes to a prepared picture, drawn afresh each epoch. All 0: none. */
typedef struct loader_augment {
  double flip;       /* probability of a left-right mirror (moves the heart: 0 by default) */
  double rotate_deg; /* turned by up to this, either way */
  double shift;      /* moved by up to this share of the side, either way */
  double scale;      /* made larger or smaller by up to this share */
  double brightness; /* multiplied by 1 +- up to this */
  double contrast;   /* stretched about the picture's mean by 1 +- up to this */
} loader_augment;

typedef struct loader_options {
  int64_t batch;
  bool drop_last;
  int threads, depth;    /* at least 1 each */
  uint64_t seed, epoch;  /* key the augmentation */
  const loader_augment *augment; /* copied; NULL: none */
} loader_options;

typedef struct loader loader;

typedef struct loader_batch {
  int64_t n, start;     /* pictures in it; place of the first in the order */
  const uint8_t *px;    /* n prepared pictures, each size * size * 3 bytes apart, c[i] channels used */
  const uint8_t *c;
} loader_batch;

enum { LOADER_READY, LOADER_WAIT, LOADER_END, LOADER_FAILED };

/* The set must outlive the loader; order: n indices into it, copied. NULL: out of memory, or no thread could start. */
loader *loader_start(imageset *set, const int64_t *order, int64_t n, const loader_options *options);
/* The next batch, valid until loader_release, and given again until then. LOADER_WAIT: not ready after `seconds`.
 * LOADER_FAILED: why is filled. */
int loader_next(loader *l, double seconds, loader_batch *batch, char why[IMAGESET_WHY]);
void loader_release(loader *l);      /* gives the batch's room back to the threads */
double loader_waited(const loader *l); /* seconds that loader_next has waited so far */
int64_t loader_batches(const loader *l);
void loader_free(loader *l);         /* stops and joins; accepts NULL */

/* What an epoch's augmentation makes of one picture (c channels, size x size), out and in apart. */
void loader_augmented(uint8_t *out, const uint8_t *in, int size, int c, const loader_augment *a, uint64_t seed, uint64_t epoch, const char *id);

#endif
