/* rng.c against Random123's published known answers for Philox4x32-10, and MT19937's and a stream's basic laws. */
#include <stdio.h>
#include <string.h>
#include "rng.h"

static int failures;

static void expect(const char *what, bool ok) {
  if (ok)
    return;
  printf("rng: %s\n", what);
  failures++;
}

/* Random123, kat_vectors: philox4x32 10, counter, key, answer */
static const uint32_t known[3][10] = {
  { 0, 0, 0, 0, 0, 0, 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8 },
  { 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0x408f276d, 0x41c83b0e, 0xa20bc7c6,
    0x6d5451fd },
  { 0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344, 0xa4093822, 0x299f31d0, 0xd16cfe09, 0x94fdcceb, 0x5001e420,
    0x24126ea1 },
};

int main(void) {
  for (int i = 0; i < 3; i++) {
    uint32_t out[4];
    mx_philox(out, known[i], known[i] + 4);
    expect("Philox4x32-10 differs from its known answer", memcmp(out, known[i] + 6, sizeof out) == 0);
  }

  mx_mt19937 g;
  mx_mt19937_seed(&g, 42);
  expect("MT19937 of seed 42 begins otherwise",
         mx_mt19937_next(&g) == 1608637542u && mx_mt19937_next(&g) == 3421126067u);
  mx_mt19937_seed(&g, 5489);
  for (int i = 1; i < 10000; i++)
    mx_mt19937_next(&g);
  expect("the 10,000th output of std::mt19937 is 4123659995", mx_mt19937_next(&g) == 4123659995u);

  mx_stream s;
  mx_stream_init(&s, 7, "test@1", "", 0);
  bool below = true;
  for (uint64_t i = 0; i < 20000; i++)
    /* a quarter of the draws is rejected */
    below = below && mx_stream_integer(&s, i, UINT64_C(3) << 62) < UINT64_C(3) << 62;
  expect("an integer is not below its bound", below);
  expect("an integer below 1 is not 0", mx_stream_integer(&s, 3, 1) == 0);
  return failures > 0;
}
