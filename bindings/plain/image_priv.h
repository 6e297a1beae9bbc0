/* image_priv.h: what the image*.c files share. Results are image.h's statuses; why has room for IMAGE_WHY
 * characters. */
#ifndef MEDXAI_IMAGE_PRIV_H
#define MEDXAI_IMAGE_PRIV_H

#include "image.h"

int image_fail(char *why, const char *format, ...) __attribute__((format(printf, 2, 3))); /* gives IMAGE_ERROR */
int image_no_memory(char *why);                                                          /* gives IMAGE_NOMEM */

/* ---- image_png.c: bytes that begin as a PNG does ---- */
/* Width, height and channels (1 or 3) as the header gives them. */
int image_png_size(int *w, int *h, int *c, const uint8_t *p, size_t n, char *why);
int image_png_decode(image *out, const void *bytes, size_t n, int white16, char *why);

/* ---- image_jpeg.c: bytes that begin as a JPEG does ---- */
int image_jpeg_size(int *w, int *h, int *c, const void *bytes, size_t n, char *why);
int image_jpeg_decode(image *out, const void *bytes, size_t n, char *why); /* sets out->notes */
/* The orientation, 1 to 8, that an EXIF block (from its "II" or "MM" on) asks for; 1, as stored, if none. */
int image_exif_orientation(const uint8_t *exif, size_t n);

/* ---- image_dicom.c: bytes that begin as a DICOM file does ---- */
int image_dicom_size(int *w, int *h, int *c, int *bits, const void *bytes, size_t n, char *why);
int image_dicom_decode(image *out, const void *bytes, size_t n, const dicom_window *window, char *why);

#endif
