/* sha256.h: SHA-256 (FIPS 180-4), for image ids, manifests and settings. Not for secrets. */
#ifndef MEDXAI_SHA256_H
#define MEDXAI_SHA256_H

#include <stddef.h>
#include <stdint.h>

typedef struct sha256 {
  uint32_t h[8];
  uint64_t bytes;
  uint8_t block[64];
} sha256;

void sha256_init(sha256 *s);
void sha256_add(sha256 *s, const void *data, size_t bytes);
void sha256_finish(sha256 *s, uint8_t digest[32]);
void sha256_hex(const uint8_t digest[32], char hex[65]); /* lower case, ends in 0 */

#endif
