/* image.h: reads PNG, JPEG and DICOM, writes PNG; Pillow's resize, crops, masks, hashes. No Lua, no libtorch.
 * Pixels are 8-bit, rows from the top, channels interleaved; 1 channel (gray) or 3 (red, green, blue): alpha is
 * dropped. Truncated, corrupt or oversized files are errors with a reason. */
#ifndef MEDXAI_IMAGE_H
#define MEDXAI_IMAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "dicom.h"

typedef struct image {
  int w, h, c;  /* c: 1 or 3 */
  int bits;     /* of the file's samples: 8 or 16 (palettes and 1, 2, 4 bits count as 8); of DICOM those stored */
  int top;      /* the largest sample of a 16-bit file, else 0: shows whether it holds 12-bit values */
  int notes;    /* IMAGE_NOTE_... bits: what is unusual about the file */
  uint8_t *px;  /* h * w * c bytes; image_free frees */
  bool alpha;   /* the file's alpha channel, which is dropped, is not constant */
  float over;   /* share of a 16-bit file's samples that lie above white16 and are cut to 255 */
} image;

enum {
  IMAGE_NOTE_STRAY_BYTES = 1, /* a JPEG with extra bytes or restart markers after a scan: ignored */
  IMAGE_NOTE_ORIENTATION = 2, /* EXIF asks to rotate or mirror the image: not done, as in Pillow's open */
  IMAGE_NOTE_DICOM = 4,       /* a DICOM file: its window made 8 bits of its samples */
};

enum { IMAGE_OK = 0, IMAGE_ERROR = 1, IMAGE_NOMEM = 2 };
#define IMAGE_WHY 160                   /* room for a reason */
#define IMAGE_MAX_PIXELS (64 << 20)     /* 8192 x 8192; a larger image is an error, before it is decoded */
#define IMAGE_MAX_SIDE 32768
#define IMAGE_TOO_LARGE "%d x %d is larger than the %d megapixels this reads" /* with IMAGE_MAX_PIXELS >> 20 */

int image_new(image *out, int w, int h, int c);  /* pixels all 0 */
void image_free(image *im);                      /* accepts an empty one; may be called twice */
int image_copy(image *out, const image *im);     /* its pixels; IMAGE_OK or IMAGE_NOMEM */

/* ---- files ---- */
/* How samples of more than 8 bits become 8. white16: the sample of a 16-bit PNG that becomes 255 (65535: the format's
 * range; 4095 for 12-bit values in 16-bit files). window: of DICOM files. {65535} takes the file's first window. */
typedef struct image_levels {
  int white16;
  dicom_window window;
} image_levels;
/* why: room for IMAGE_WHY; says what is wrong, without the path. On failure out is unchanged. */
int image_decode(image *out, const void *bytes, size_t n, image_levels levels, char *why);
int image_read_file(uint8_t **bytes, size_t *n, const char *path, char *why); /* mx_free frees; at most 256 MiB */
int image_load(image *out, const char *path, image_levels levels, char *why);
int image_size(int *w, int *h, int *c, int *bits, const void *bytes, size_t n, char *why); /* header only */
int image_encode_png(uint8_t **bytes, size_t *n, const image *im); /* mx_free frees */
int image_encode_jpeg(uint8_t **bytes, size_t *n, const image *im, int quality); /* 1 to 100; mx_free frees */

/* ---- DICOM files, through dicom_file.h ---- */
/* An image's values after its modality LUT and window, as pydicom's apply_voi_lut gives them: h * w * c doubles in
 * *values (mx_free frees), and the range from black to white, which *inverted (MONOCHROME1) turns round. */
int image_dicom_values(double **values, dicom_facts *facts, double range[2], bool *inverted, const void *bytes,
                       size_t n, const dicom_window *window, char *why);

/* ---- geometry ---- */
/* Pillow's Image.resize(BILINEAR) of 8-bit pixels (antialiased, reducing_gap none), to the last bit. */
int image_resize(image *out, const image *im, int w, int h);
int image_resize_nearest(image *out, const image *im, int w, int h); /* Pillow's NEAREST, for masks */
/* torchvision's Resize(short_side): the other side is truncated to an integer. */
void image_short_side(int *w, int *h, int short_side);
/* Offset of torchvision's CenterCrop(size) along a side of at least that length: halves round to even. */
int image_crop_offset(int side, int size);
int image_crop(image *out, const image *im, int x, int y, int w, int h); /* the rectangle must lie inside */

/* ---- masks ---- */
typedef enum image_mask {
  IMAGE_MASK_NONE,
  IMAGE_MASK_LUNGS,     /* image AND mask, after the space between the lungs is filled (image_lung_fill) */
  IMAGE_MASK_LUNGS_RAW, /* image AND mask as it is */
  IMAGE_MASK_LUNGS_HULL, /* image AND the convex hull of both lungs */
  IMAGE_MASK_OUTSIDE,   /* image AND NOT mask as it is: lungs removed */
  IMAGE_MASK_BOX,       /* the bounding box of both lungs: no outline */
  IMAGE_MASK_BORDER,    /* what lies outside the bounding box: markers, collars, arms */
  IMAGE_MASK_SHAPE,     /* the mask as it is, white on black: the outline of lungs_raw and nothing else */
  IMAGE_MASK_COUNT
} image_mask;
extern const char *const image_mask_names[IMAGE_MASK_COUNT]; /* "none", "lungs", "lungs_raw", "lungs_hull", ... */
/* Converts a mask to 1 channel of 0 and 255. 255 stands for values of 128 and more, or for 1 if that is the largest
 * value. A mask that covers the whole image, or whose content is in the alpha channel, is an error. */
int image_binary(image *mask, char *why);
typedef enum image_mask_resize {
  IMAGE_MASK_RESIZE_NONE, IMAGE_MASK_RESIZE_NEAREST, IMAGE_MASK_RESIZE_BILINEAR
} image_mask_resize;
extern const char *const image_mask_resizes[3]; /* "none", "nearest", "bilinear" */
/* Stretches a binary mask to w x h: by nearest, or bilinearly with a threshold of one half. NONE: an error. */
int image_fit_mask(image *mask, int w, int h, image_mask_resize how, char *why);
/* The thesis' fill, in place, on a 1-channel mask: top is the first row (raster order) with the mask's maximum, left
 * the first column of 0 .. w/2-1 that holds 255 in rows 1 .. h-1, right the first of w-1 down to w/2+1; what lies
 * strictly between left and right and below top, rows and columns up to h-2 and w-2, becomes 255. */
int image_lung_fill(image *mask, char *why);
/* Masks im in place. mask: 1 channel, binary, of the same size; a mask without lung is an error. Its content is
 * lost. */
int image_apply_mask(image *im, image *mask, image_mask mode, char *why);

/* ---- identity ---- */
void image_digest(const image *im, uint8_t digest[32]);  /* SHA-256 of "<w> <h> <c>\n" and the pixels */
/* 64-bit difference hash (9 x 8, a bit is set where the right neighbor is brighter) and 32 x 32 gray thumbnail, both of
 * the antialiased image: near duplicates have a small Hamming distance and a high correlation. */
int image_perceptual(const image *im, uint64_t *hash, uint8_t thumbnail[1024]);
double image_correlation(const uint8_t a[1024], const uint8_t b[1024]); /* -1 .. 1; 0 if one is constant */

/* ---- to floats ---- */
/* Per channel and byte: ((float)v / 255 - mean) / std, in float32 as torchvision computes it. mean, std NULL: [0,1]. */
void image_float_table(float table[3][256], const float mean[3], const float std[3]);
/* w * h pixels of c channels into 3 channels: planar (C,H,W), or interleaved (H,W,C) for channels_last. */
void image_to_float(float *out, const uint8_t *px, int w, int h, int c, bool channels_last, const float table[3][256]);

#endif
