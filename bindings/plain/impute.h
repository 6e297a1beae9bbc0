/* impute.h: fills the removed pixels of an image from those that were kept, so that a removed region shows no edge:
 * each is the weighted mean of its neighbors inside the image, with weight 1/6 for the four at its sides and 1/12 for
 * the four at its corners (Rong et al., ICML 2022, section 4; pytorch-grad-cam's NoisyLinearImputer without its noise).
 * The linear system is solved by conjugate gradients preconditioned with a multigrid cycle: work and memory grow with
 * the number of pixels, and the result equals that of a dense solver to 1e-9 of the kept values' range. Where nothing
 * is kept, the result is 0. No Lua, no libtorch. */
#ifndef MEDXAI_IMPUTE_H
#define MEDXAI_IMPUTE_H

#include <stdbool.h>
#include <stdint.h>

/* One image: planes[k] (rows x columns, k < count) in place. Where keep is 0 the value is replaced, others stay
 * unchanged. Equal planes are solved once. false: out of memory, nothing was changed. iterations: NULL, or receives the
 * largest number of steps that a plane took. */
bool mx_impute(int rows, int columns, const uint8_t *keep, double *const *planes, int count, int *iterations);

/* n images: x (n, channels, rows, columns), keep (n, rows, columns). Each image is solved by one thread, so the result
 * does not depend on their number. stop: NULL, or asked between steps by all threads; true ends the call, with some
 * images done and some not. */
bool mx_impute_all(int n, int channels, int rows, int columns, const uint8_t *keep, double *x, int threads,
                   bool (*stop)(void));

#endif
