/* SHA-256 against FIPS 180-4's examples, in one piece and in pieces of every length, across both forms of the block
 * function. */
#include <stdio.h>
#include <string.h>
#include "sha256.h"

static void hash(const char *text, size_t n, size_t piece, char hex[65]) {
  sha256 s;
  uint8_t digest[32];
  sha256_init(&s);
  for (size_t at = 0; at < n; at += piece)
    sha256_add(&s, text + at, n - at < piece ? n - at : piece);
  sha256_finish(&s, digest);
  sha256_hex(digest, hex);
}

int main(void) {
  static char million[1000000];
  memset(million, 'a', sizeof million);
  const char *two = "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq";
  const struct { const char *text; size_t n; const char *hex; } known[] = {
    { "", 0, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" },
    { "abc", 3, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" },
    { two, 56, "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1" },
    { million, sizeof million, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0" },
  };
  int wrong = 0;
  char hex[65];
  for (int i = 0; i < 4; i++)
    for (size_t piece = 1; piece < 200; piece += i == 3 ? 61 : 1) {
      hash(known[i].text, known[i].n, piece, hex);
      if (strcmp(hex, known[i].hex))
        wrong += printf("example %d in pieces of %zu: %s\n", i, piece, hex) > 0;
    }
  return wrong != 0;
}
