// tx_cuda.cpp: devices, threads, determinism. Reaches CUDA through ATen's hooks, so that the same object file serves a
// CPU libtorch; only the caching allocator's numbers need CUDA's headers (MEDXAI_CUDA, set by CMake).
// The device is the user's choice (--device).
#include "tx_priv.hpp"
#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <dlfcn.h>
#include <cstdlib>
#ifdef MEDXAI_CUDA
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAFunctions.h>
#endif

namespace tx {

#ifdef MEDXAI_CUDA

// Sums over the devices that this process has touched. [0] is the aggregate of both pools.
void cuda_memory(tx_memory *out) noexcept {
  (void)guard([&] {
    for (int i = 0, n = c10::cuda::device_count(); i < n; i++) {
      if (!at::detail::getCUDAHooks().hasPrimaryContext(i)) continue;
      const auto s = c10::cuda::CUDACachingAllocator::getDeviceStats(i);
      out->cuda_live_bytes += s.allocated_bytes[0].current;
      out->cuda_peak_bytes += s.allocated_bytes[0].peak;
      out->cuda_reserved_bytes += s.reserved_bytes[0].current;
    }
  });
}

void cuda_reset_peak() noexcept {
  (void)guard([] {
    for (int i = 0, n = c10::cuda::device_count(); i < n; i++)
      if (at::detail::getCUDAHooks().hasPrimaryContext(i)) c10::cuda::CUDACachingAllocator::resetPeakStats(i);
  });
}

void cuda_empty_cache() noexcept {
  (void)guard([] {
    if (c10::cuda::device_count() > 0) c10::cuda::CUDACachingAllocator::emptyCache();
  });
}

#else

void cuda_memory(tx_memory *) noexcept {}
void cuda_reset_peak() noexcept {}
void cuda_empty_cache() noexcept {}

#endif

}  // namespace tx

extern "C" int tx_cuda_count(void) noexcept {
  int n = 0;
  (void)tx::guard([&] { n = at::hasCUDA() ? at::detail::getCUDAHooks().getNumGPUs() : 0; });
  return n;
}

extern "C" int tx_cuda_synchronize(void) noexcept {
  return tx::guard([] {
    const int n = tx_cuda_count();
    for (int i = 0; i < n; i++)
      if (at::detail::getCUDAHooks().hasPrimaryContext(i)) at::detail::getCUDAHooks().deviceSynchronize(i);
  });
}

// Operators without a deterministic implementation then raise. cuBLAS reads its workspace size from the environment
// when it starts.
extern "C" int tx_set_deterministic(bool on) noexcept {
  return tx::guard([&] {
    if (on) setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8", 0);
    at::globalContext().setDeterministicAlgorithms(on, false);
    at::globalContext().setDeterministicCuDNN(on);
    if (on) at::globalContext().setBenchmarkCuDNN(false);
  });
}

// Calls a library's own setter where that library is loaded.
static void set_in_library(const char *function, int n) {
  if (auto set = reinterpret_cast<void (*)(int)>(dlsym(RTLD_DEFAULT, function))) set(n);
}

extern "C" int tx_set_threads(int n) noexcept {
  return tx::guard([&] {
    if (n < 1) return tx::fail("%d threads asked for (1 or more)", n);
    at::set_num_threads(n);
    set_in_library("omp_set_num_threads", n);
    set_in_library("openblas_set_num_threads", n);
    set_in_library("MKL_Set_Num_Threads", n);
    return int(TX_OK);
  });
}

extern "C" int tx_get_threads(void) noexcept { return at::get_num_threads(); }
