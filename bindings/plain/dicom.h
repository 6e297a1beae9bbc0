/* dicom.h: what medxai_dicom.so does, the module over DCMTK that plain/image_dicom.c opens when the first DICOM file is
 * read. Plain C types alone; nothing throws. No name, date or identifier of a person leaves it: what tells patients and
 * files apart is their SHA-256, and reasons hold nothing of the header but coded terms such as a modality. */
#ifndef MEDXAI_DICOM_H
#define MEDXAI_DICOM_H

#include <stddef.h>
#include <stdint.h>

#define DICOM_EXPORT __attribute__((visibility("default")))
#ifdef __cplusplus
extern "C" {
#define DICOM_NOEXCEPT noexcept
#else
#define DICOM_NOEXCEPT
#endif

#define DICOM_VERSION 1 /* of this file: the program and the module must agree */

enum { DICOM_OK = 0, DICOM_ERROR = 1, DICOM_NOMEM = 2 };
#define DICOM_WHY 160 /* room for a reason; that of image.h */

/* Which gray values become black and white. */
enum {
  DICOM_WINDOW_FILE,   /* the file's VOI LUT or window of that number; its whole range where it has none */
  DICOM_WINDOW_RANGE,  /* the whole range that its stored bits can hold */
  DICOM_WINDOW_MINMAX, /* from the image's smallest to its largest value */
  DICOM_WINDOW_GIVEN,  /* center and width, after the modality LUT */
};
typedef struct dicom_window {
  int kind, number; /* number from 0 */
  double center, width;
} dicom_window;

typedef struct dicom_facts {
  int w, h, c, bits, frames; /* c: samples per pixel; bits: stored per sample */
  double spacing[2];         /* mm between rows, between columns; 0: not known */
  char modality[17], view[17]; /* coded terms: "CR", "PA"; "" where there is none, or something else stands there */
  char patient[65], instance[65]; /* SHA-256 of the patient's identifier and of the file's; "" where there is none */
} dicom_facts;

/* An image: w * h * c samples as stored, and what each stored value means: table[sample], after modality LUT and
 * window, from low (black) to high (white), not yet inverted where MONOCHROME1 asks for it. samples and table: from
 * alloc. */
typedef struct dicom_image {
  dicom_facts facts;
  uint16_t *samples;
  double *table; /* 1 << facts.bits values */
  double low, high;
  int inverted; /* MONOCHROME1: low is white */
} dicom_image;

/* The calls take any bytes. why: room for DICOM_WHY. alloc may return NULL; what it gave is release's. */
typedef struct dicom_memory {
  void *(*alloc)(size_t bytes);
  void (*release)(void *p);
} dicom_memory;

DICOM_EXPORT int dicom_version(void) DICOM_NOEXCEPT;
/* The header alone; bytes may end inside the pixels (a first part of a file). */
DICOM_EXPORT int dicom_header(dicom_facts *out, const void *bytes, size_t n, char *why) DICOM_NOEXCEPT;
DICOM_EXPORT int dicom_decode(dicom_image *out, const void *bytes, size_t n, const dicom_window *window,
                              const dicom_memory *memory, char *why) DICOM_NOEXCEPT;

#ifdef __cplusplus
}
#endif
#endif
