/* ssim.h: structural similarity of two maps (Wang, Bovik, Sheikh, Simoncelli 2004, IEEE TIP 13), without Lua and
 * without libtorch: Gaussian window of 11 px, sigma 1.5, population covariance, range 1, mean over the pixels whose
 * window lies inside. Nothing here allocates; sums go in one order, so that the same numbers come out on every
 * processor. */
#ifndef MEDXAI_SSIM_H
#define MEDXAI_SSIM_H

#include <stdint.h>

enum { MX_SSIM_WINDOW = 11 };

/* a, b: (height, width), both sides at least MX_SSIM_WINDOW. scratch: 6 x height x width. NAN where a map holds NAN. */
double mx_ssim(const double *a, const double *b, int64_t height, int64_t width, double *scratch);

#endif
