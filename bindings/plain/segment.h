/* segment.h: superpixels in plain C: sRGB to Lab, quickshift, SLIC, boundaries. No Lua, no torch. As scikit-image
 * defines them (label maps equal to those of 0.19.3 and 0.26 in float64), the same for any number of threads.
 * Images are planar: red, green and blue planes of h * w doubles in [0, 1]. Labels are int64, row-major.
 * The only error is out of memory: the caller checks ranges and that every value is finite. */
#ifndef MEDXAI_SEGMENT_H
#define MEDXAI_SEGMENT_H

#include <stdbool.h>
#include <stdint.h>

enum { SEGMENT_OK = 0, SEGMENT_STOPPED = 1, SEGMENT_NOMEM = 2 };

/* Called often, by several threads; true ends the call with SEGMENT_STOPPED and without results. NULL: never ends
 * it. */
typedef bool (*segment_stop)(void);

/* n pixels; lab: L, a, b planes. D65, 2 degrees. */
int segment_lab(double *lab, const double *rgb, int64_t n, segment_stop stop);

/* Quick shift (Vedaldi and Soatto, ECCV 2008): each pixel climbs to its nearest denser one within a window. */
typedef struct segment_quickshift_options {
  double kernel_size;  /* sigma of the density, >= 1; the window reaches ceil(3 kernel_size) pixels */
  double max_dist;     /* a link longer than this is cut */
  double ratio;        /* weight of color beside position */
  double sigma;        /* Gaussian blur of the Lab image before, 0: none */
  uint64_t seed;       /* of the tie-breaking noise, as numpy.random.default_rng(seed).normal */
  const double *noise; /* h * w standard normals instead, NULL: drawn */
  bool is_lab;         /* the image is in Lab already, or any other space of three channels */
  segment_stop stop;
} segment_quickshift_options;
int segment_quickshift(int64_t *labels, int64_t *count, const double *image, int h, int w,
                       const segment_quickshift_options *o);

/* SLIC (Achanta et al., PAMI 2012): k-means in position and color from a grid of about n_segments seeds. */
typedef struct segment_slic_options {
  int64_t n_segments;
  double compactness;    /* weight of position beside color */
  double sigma;          /* Gaussian blur of the Lab image before, 0: none */
  int iterations;
  bool connected;        /* splits and merges until each label is one 4-connected piece */
  double min_size, max_size; /* of a connected piece, as shares of h * w / seeds */
  bool is_lab;
  segment_stop stop;
} segment_slic_options;
/* Labels begin at 0 (scikit-image's at 1); without `connected` some numbers may be missing. count: the largest label +
 * 1. */
int segment_slic(int64_t *labels, int64_t *count, const double *image, int h, int w, const segment_slic_options *o);

/* Where scikit-image's mark_boundaries(mode = "outer") draws: 1 on pixels beside another label, within the background
 * or where two foreground labels touch. wrapped: as it does with int64 labels on x86-64, where a column of background
 * in the 3 x 3 window counts as another label (its fill value overflows in SciPy's filter), so that boundaries get a
 * second line. */
void segment_boundaries(uint8_t *marked, const int64_t *labels, int h, int w, int64_t background, bool wrapped);

#endif
