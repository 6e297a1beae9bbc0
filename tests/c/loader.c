/* The loader and a set in plain C, many threads at once: equal whatever the number of threads, stopped at any time,
 * nothing left behind. Meant to be run under the thread and address sanitizers too. */
#include <stdio.h>
#include <string.h>
#include "alloc.h"
#include "loader.h"
#include "sha256.h"

enum { N = 23, SIZE = 24 };

static imageset *make_set(int64_t cache) {
  phantom p;
  phantom_defaults(&p);
  p.size_px = SIZE;
  imageset_options o = { .root = "", .size_px = SIZE, .white16 = 65535, .cache_bytes = cache, .phantom = &p };
  imageset *s = imageset_new(&o);
  for (int64_t i = 0; s && i < N; i++)
    imageset_add(s, "drawn", NULL, (int)(i % 3), i);
  return s;
}

/* Digest of everything delivered; stops after `most` batches. */
static void drain(imageset *s, int threads, int depth, int most, char hex[65]) {
  int64_t order[N];
  for (int i = 0; i < N; i++)
    order[i] = (i * 7) % N;
  loader_augment a = { .flip = 0.5, .rotate_deg = 8, .shift = 0.1, .brightness = 0.2 };
  loader_options o = { .batch = 4, .threads = threads, .depth = depth, .seed = 3, .epoch = 2, .augment = &a };
  loader *l = loader_start(s, order, N, &o);
  loader_batch b;
  char why[IMAGESET_WHY];
  sha256 h;
  uint8_t digest[32];
  sha256_init(&h);
  for (int state, k = 0; l && k < most && (state = loader_next(l, 0.01, &b, why)) != LOADER_END;
       k += state == LOADER_READY) {
    if (state == LOADER_FAILED)
      break;
    for (int64_t i = 0; state == LOADER_READY && i < b.n; i++)
      sha256_add(&h, b.px + i * SIZE * SIZE * 3, (size_t)SIZE * SIZE * b.c[i]);
    if (state == LOADER_READY)
      loader_release(l);
  }
  loader_free(l);
  sha256_finish(&h, digest);
  sha256_hex(digest, hex);
}

static int scan_all(imageset *s) {
  int64_t items[N], done = 0;
  for (int i = 0; i < N; i++)
    items[i] = i;
  imageset_scan *scan = imageset_scan_start(s, items, N, 5);
  while (scan && !imageset_scan_wait(scan, 0.01, &done))
    ;
  imageset_scan_free(scan);
  imageset_scan_free(imageset_scan_start(s, items, N, 3)); /* stopped at once */
  for (int i = 0; i < N; i++)
    if (imageset_error(s, i))
      return 1;
  return done != N;
}

int main(void) {
  char first[65], other[65];
  int wrong = 0;
  for (int cache = 0; cache < 2; cache++) {
    imageset *s = make_set(cache ? 1 << 20 : 0);
    wrong += scan_all(s);
    for (int threads = 1; threads < 9; threads++)
      for (int depth = 1; depth < 4; depth++) {
        drain(s, threads, depth, 100, other);
        if (!cache && threads == 1 && depth == 1)
          memcpy(first, other, sizeof first);
        wrong += strcmp(first, other) != 0;
        drain(s, threads, depth, depth, other); /* left early */
      }
    imageset_free(s);
  }
  printf("%d wrong, %lld blocks alive\n", wrong, (long long)mx_alloc_live());
  return wrong != 0 || mx_alloc_live() != 0;
}
