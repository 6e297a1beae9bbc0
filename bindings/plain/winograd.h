/* winograd.h: 3x3 convolutions of stride 1 by Winograd's F(2x2, 3x3) (Lavin and Gray 2016, section 4.1), one float32
 * image in blocks of 8 or 16 channels: 2.25 times fewer products than the direct sum, no larger rounding errors.
 * Plain C in vectors that GCC compiles for AVX2 and AVX-512. Every sum runs over the input channels in their order, so
 * that a number depends neither on threads nor on its place. It refuses channels that do not fill whole blocks. */
#ifndef MEDXAI_WINOGRAD_H
#define MEDXAI_WINOGRAD_H

#include <stdbool.h>
#include <stddef.h>

typedef enum winograd_act { WINOGRAD_NO_ACT, WINOGRAD_RELU, WINOGRAD_RELU6 } winograd_act;

typedef struct winograd {
  int block;         /* channels that lie together: 8 (AVX2) or 16 (AVX-512) */
  int in, out;       /* channels: multiples of block */
  int height, width; /* of the input */
  int pad[2];        /* zeros around it: above and below, left and right */
  int out_height, out_width;
  int threads;
  bool adds; /* to what lies in the result's memory, before the activation */
  winograd_act act;
} winograd;

size_t winograd_weight_floats(const winograd *w);
/* weight: (out, in, 3, 3) in any strides (in floats) */
void winograd_pack(const winograd *w, const float *weight, const long stride[4], float *packed);
size_t winograd_scratch_bytes(const winograd *w);
/* source (in / block, height, width, block), result likewise, both aligned to 4 * block bytes; bias: out numbers, or
 * NULL */
void winograd_run(const winograd *w, const float *source, const float *packed, const float *bias, float *result,
                  void *scratch);

#endif
