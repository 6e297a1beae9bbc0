/* crc32.h: the CRC-32 of zip and PNG files (ISO 3309). */
#ifndef MEDXAI_CRC32_H
#define MEDXAI_CRC32_H

#include <stddef.h>
#include <stdint.h>

uint32_t mx_crc32(uint32_t crc, const void *data, size_t n); /* crc: 0, or the CRC of the data before this piece */

#endif
