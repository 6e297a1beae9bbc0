/* image_jpeg.h: JPEG in, for image.c. Results are image.h's statuses; why has room for IMAGE_WHY. No Lua, no torch. */
#ifndef MEDXAI_IMAGE_JPEG_H
#define MEDXAI_IMAGE_JPEG_H

#include "image.h"

/* Width, height and channels (1 or 3) as the header gives them. */
int image_jpeg_size(int *w, int *h, int *c, const void *bytes, size_t n, char *why);
int image_jpeg_decode(image *out, const void *bytes, size_t n, char *why); /* sets out->notes */

/* The orientation, 1 to 8, that an EXIF block (from its "II" or "MM" on) asks for; 1, as stored, if none. */
int image_exif_orientation(const uint8_t *exif, size_t n);

#endif
