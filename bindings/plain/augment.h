/* augment.h: torchvision's random transforms of a prepared 8-bit image, drawn from a keyed stream. No Lua, no libtorch.
 * A step's draws depend on (seed, epoch, image, place in the list) alone. Angles, boxes and orders are drawn as
 * torchvision 0.28 draws them, from other random numbers. An image may have a mask: it is moved by the same draws. */
#ifndef MEDXAI_AUGMENT_H
#define MEDXAI_AUGMENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
  AUGMENT_HORIZONTAL_FLIP,
  AUGMENT_VERTICAL_FLIP,
  AUGMENT_ROTATION,
  AUGMENT_AFFINE,
  AUGMENT_RESIZED_CROP,
  AUGMENT_JITTER,
  AUGMENT_BLUR,
  AUGMENT_ERASING,
  AUGMENT_COUNT
};
extern const char *const augment_names[AUGMENT_COUNT]; /* torchvision's classes: "random_rotation" ... */

/* One transform. Pairs are a least and a largest value; a step reads what torchvision's class of its name takes. */
typedef struct augment_step {
  int kind;
  double p; /* probability that it happens */
  bool bilinear, centered;
  double center[2];             /* x, y in pixels from the upper left corner, where centered; else the middle */
  double fill[3];               /* 0 .. 255, of what comes from outside; what random_erasing writes */
  double degrees[2], shear[4];  /* shear: of x, then of y, in degrees */
  double translate[2];          /* largest shift, shares of width and height */
  double scale[2], ratio[2];    /* of the size for random_affine, else of the area */
  double brightness[2], contrast[2], saturation[2]; /* factors */
  double kernel[2], sigma[2];   /* width and height of the kernel, odd, at most 2 x size - 1 */
} augment_step;

/* What was drawn for a step. v: rotation { degrees }; affine { degrees, x, y, scale, shear x, shear y }; crop and
 * erasing { top, left, height, width }; jitter { brightness, contrast, saturation, first, second, third }: which of
 * the three comes when; blur { sigma }. */
typedef struct augment_drawn {
  bool happens;
  int n;
  double v[6];
} augment_drawn;

typedef struct augment_key {
  uint64_t seed, epoch;
  const char *id; /* the image's */
} augment_key;

/* Applies n steps in their order. in, out: size x size pixels of c channels (1 or 3), apart from each other. mask: in
 * is a mask (c 1): it is moved by nearest neighbor, its values stay. drawn: n, or NULL. IMAGE_OK or IMAGE_NOMEM. */
int augment_apply(uint8_t *out, const uint8_t *in, int size, int c, const augment_step *steps, int n,
                  const augment_key *key, bool mask, augment_drawn *drawn);

#endif
