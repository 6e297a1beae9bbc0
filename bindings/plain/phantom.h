/* phantom.h: drawn chest X-rays of three classes with exact masks, for tests and demonstrations without data.
 * clear: nothing; nodule: one or two round spots in the lungs; opacity: a large hazy patch in a lung. Exposure, pose,
 * anatomy and noise vary at random and alike in all classes, so that brightness does not give the class away.
 * An image is a function of (seed, index) alone; its class is index % 3. Results on them say nothing about patients. */
#ifndef MEDXAI_PHANTOM_H
#define MEDXAI_PHANTOM_H

#include <stdbool.h>
#include <stdint.h>
#include "image.h"

enum { PHANTOM_CLASSES = 3 };
extern const char *const phantom_classes[PHANTOM_CLASSES]; /* "clear", "nodule", "opacity" */

typedef struct phantom {
  uint64_t seed;
  int size_px;
  double contrast;                     /* of lesions: 1 is the default */
  double marker_rate[PHANTOM_CLASSES]; /* share of each class' images with a lead letter in a random corner */
  bool marker_tells;                   /* the letter is R, L or P by class; false: any of them */
} phantom;

/* 1 channel, 0 and 255, as large as the image. lesion and marker are all 0 where there is none; marker is the
 * letter's box. */
typedef struct phantom_masks {
  image lungs, lesion, marker;
} phantom_masks;

void phantom_defaults(phantom *p);
/* masks NULL: not wanted; IMAGE_OK or IMAGE_NOMEM */
int phantom_draw(const phantom *p, int64_t index, image *out, phantom_masks *masks);
void phantom_masks_free(phantom_masks *m);

#endif
