/* image_dicom.c: DICOM files as images: 8 bits are made of the samples' full precision, after the window. The statuses
 * of dicom.h are those of image.h. */
#include <math.h>
#include <string.h>
#include "alloc.h"
#include "dicom_file.h"
#include "image_priv.h"

static const dicom_memory memory = { mx_malloc, mx_free };

int image_dicom_size(int *w, int *h, int *c, int *bits, const void *bytes, size_t n, char *why) {
  const dicom_calls *calls;
  dicom_facts f;
  int status = dicom_open(&calls, why);
  status = status ? status : calls->header(&f, bytes, n, why);
  if (status)
    return status;
  *w = f.w, *h = f.h, *c = f.c, *bits = f.bits;
  return IMAGE_OK;
}

/* The byte that a value becomes: low is 0 and high 255, rounded to the nearest. */
static uint8_t to_byte(double v, double low, double high, bool inverted) {
  double share = high > low || high < low ? (inverted ? high - v : v - low) / (high - low) : 0;
  share = floor(share * 255 + 0.5);
  return share >= 255 ? 255 : share > 0 ? (uint8_t)share : 0;
}

int image_dicom_decode(image *out, const void *bytes, size_t n, const dicom_window *window, char *why) {
  const dicom_calls *calls;
  dicom_image d;
  image im;
  int status = dicom_open(&calls, why);
  status = status ? status : calls->decode(&d, bytes, n, window, &memory, why);
  if (status)
    return status;
  const size_t levels = (size_t)1 << d.facts.bits, count = (size_t)d.facts.w * d.facts.h * d.facts.c;
  uint8_t *to = mx_malloc(levels);
  status = to ? image_new(&im, d.facts.w, d.facts.h, d.facts.c) : IMAGE_NOMEM;
  for (size_t s = 0; !status && s < levels; s++)
    to[s] = to_byte(d.table[s], d.low, d.high, d.inverted);
  for (size_t i = 0; !status && i < count; i++)
    im.px[i] = to[d.samples[i]];
  mx_free(to);
  mx_free(d.samples);
  mx_free(d.table);
  if (status)
    return image_no_memory(why);
  im.bits = d.facts.bits;
  im.notes = IMAGE_NOTE_DICOM;
  *out = im;
  return IMAGE_OK;
}

int image_dicom_values(double **values, dicom_facts *facts, double range[2], bool *inverted, const void *bytes,
                       size_t n, const dicom_window *window, char *why) {
  const dicom_calls *calls;
  dicom_image d;
  int status = dicom_open(&calls, why);
  status = status ? status : calls->decode(&d, bytes, n, window, &memory, why);
  if (status)
    return status;
  const size_t count = (size_t)d.facts.w * d.facts.h * d.facts.c;
  double *v = mx_malloc(count * sizeof *v);
  for (size_t i = 0; v && i < count; i++)
    v[i] = d.table[d.samples[i]];
  mx_free(d.samples);
  mx_free(d.table);
  if (!v)
    return image_no_memory(why);
  *values = v;
  *facts = d.facts;
  range[0] = d.low, range[1] = d.high;
  *inverted = d.inverted;
  return IMAGE_OK;
}
