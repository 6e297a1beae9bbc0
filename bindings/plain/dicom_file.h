/* dicom_file.h: medxai_dicom.so (bindings/dicom, over DCMTK), which lies beside the program and is opened when the
 * first DICOM file is read; and what a file's header says. Without the module: an error that says how to get it. */
#ifndef MEDXAI_DICOM_FILE_H
#define MEDXAI_DICOM_FILE_H

#include <stdbool.h>
#include "dicom.h"

/* The module's calls, as dicom.h declares them. */
typedef struct dicom_calls {
  int (*header)(dicom_facts *, const void *, size_t, char *);
  int (*decode)(dicom_image *, const void *, size_t, const dicom_window *, const dicom_memory *, char *);
} dicom_calls;

int dicom_open(const dicom_calls **calls, char *why); /* any thread; DICOM_OK or DICOM_ERROR */
bool dicom_is(const void *bytes, size_t n);           /* whether they begin as a DICOM file does */
int dicom_file_header(dicom_facts *out, const char *path, char *why); /* reads no more of a file than it needs */

#endif
