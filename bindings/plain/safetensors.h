/* safetensors.h: the header of a .safetensors file: JSON of one shape, which names each tensor, its type, its sizes and
 * where its numbers lie. The reader is strict: whatever differs from that shape is an error.
 * Plain C: no Lua, no libtorch. */
#ifndef MEDXAI_SAFETENSORS_H
#define MEDXAI_SAFETENSORS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SAFETENSORS_MAX_DIMS 64

typedef struct safetensors_entry { /* a tensor, or a line of __metadata__ */
  const char *name;                /* ended by 0, unescaped */
  size_t len;
  const char *text; /* the value of a line of __metadata__; NULL: a tensor */
  size_t text_len;
  const char *dtype; /* "float32": static */
  int64_t itemsize, numel;
  int dim;
  int64_t sizes[SAFETENSORS_MAX_DIMS];
  int64_t range[2]; /* its first byte and the one after its last, counted from the end of the header */
} safetensors_entry;

typedef struct safetensors {
  safetensors_entry *entries; /* in the order of the header */
  size_t n, room;
} safetensors;

/* Reads a header of `length` bytes, behind which data_bytes of numbers lie. The text is changed: strings are unescaped
 * where they stand, and entries point into it. false: error says what is wrong with the file, and nothing is left to
 * free. */
bool safetensors_read(safetensors *out, char *text, size_t length, int64_t data_bytes, char *error, size_t room);
void safetensors_free(safetensors *s); /* safe on an empty one, safe twice */

#endif
