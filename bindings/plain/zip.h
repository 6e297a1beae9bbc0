/* zip.h: the zip archives of torch.save: stored records (never compressed), zip64, CRC-32.
 * The reader checks every offset, size and name against the file before it uses it.
 * Why not libtorch's own PyTorchStreamReader: Debian's 1.13.1 is built without the checksum test (of 6,000 damaged
 * files it read 2,346 without an error, one with a changed weight among them), it copies each record through a buffer
 * of its own, and its writer's bytes differ between versions of libtorch. */
#ifndef MEDXAI_ZIP_H
#define MEDXAI_ZIP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "whole_file.h"

typedef struct zip_reader zip_reader;

/* fd is borrowed. NULL: error says why ("is cut short", ...). */
zip_reader *zip_open(int fd, char *error, size_t room);
void zip_close(zip_reader *z); /* NULL allowed */
/* Records are named without the archive's own folder: "data.pkl", "data/0". -1: none of that name. */
int64_t zip_find(const zip_reader *z, const char *name, size_t len);
int64_t zip_size(const zip_reader *z, int64_t record);
int64_t zip_count(const zip_reader *z);
const char *zip_name(const zip_reader *z, int64_t record, size_t *len); /* not ended by 0; valid until zip_close */
bool zip_has_folder(const zip_reader *z, const char *folder); /* "code/" */
bool zip_read(void *buf, zip_reader *z, int64_t record, char *error, size_t room); /* zip_size bytes, CRC checked */

typedef struct zip_writer zip_writer;
zip_writer *zip_writer_new(whole_file *f, const char *folder); /* f is borrowed and at offset 0; NULL: out of memory */
void zip_writer_free(zip_writer *w);
/* Records are aligned to 64 bytes. false: out of memory, or f failed (errno). */
bool zip_write(zip_writer *w, const char *name, const void *data, size_t n);
bool zip_finish(zip_writer *w);

#endif
