/* vector.h: functions whose loops are compiled for each vector width that a processor may have; at the program's start
 * the widest one is chosen. A loop marked "vectorized" must be so at every width: tests/house_vectors.lua compiles
 * these files for each of them and reads GCC's report. The widths give the same bits (no fused multiply-adds, sums in
 * the written order). */
#ifndef MX_VECTOR_H
#define MX_VECTOR_H

#if defined(__x86_64__) && defined(__gnu_linux__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) \
  && !defined(MX_ONE_WIDTH)
#define MX_EVERY_WIDTH __attribute__((noinline, target_clones("avx512f", "avx2", "default")))
#else
#define MX_EVERY_WIDTH __attribute__((noinline))
#endif

#endif
