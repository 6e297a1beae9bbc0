// tx_cuda.cpp: devices, threads, determinism. Reaches CUDA through ATen's hooks, so that the same object file serves a
// CPU libtorch; only the caching allocator's numbers need CUDA's headers (MEDXAI_CUDA, set by CMake).
// The device is the user's choice (--device). Nothing computes in TF32 unless it is asked for.
#include "tx_priv.hpp"
#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
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

#ifdef MEDXAI_TORCH_CUDA

// What NVIDIA's driver itself says where libtorch finds no device.
static std::string driver_problem() {
  void *driver = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL);  // stays open
  if (!driver) return "NVIDIA's driver is not installed (libcuda.so.1 cannot be opened)";
  const auto start = reinterpret_cast<int (*)(unsigned)>(dlsym(driver, "cuInit"));
  const int code = start ? start(0) : -1;
  const char *visible = getenv("CUDA_VISIBLE_DEVICES");
  if (code == 100 && visible) return std::string("CUDA_VISIBLE_DEVICES ('") + visible + "') leaves no device";
  if (code == 100) return "NVIDIA's driver finds no device";
  if (code != 0) return "NVIDIA's driver does not start (cuInit gave error " + std::to_string(code) + ")";
  return "libtorch cannot use NVIDIA's driver (is the driver older than libtorch's CUDA?)";
}

#else

static std::string driver_problem() {
  return std::string("libtorch ") + tx_version()
         + " is built without CUDA. Build with another: ./bootstrap --torch DIR build";
}

#endif

std::string why_no_cuda(int index) {
  const int count = tx_cuda_count();
  if (count == 0) return driver_problem();
  if (index < count) return "";
  return "the devices are cuda:0 to cuda:" + std::to_string(count - 1);
}

}  // namespace tx

extern "C" int tx_use_device(const char *name) noexcept {
  return tx::guard([&] {
    const at::Device device = tx::device_of(name);
    if (!device.is_cuda()) return;
    if (device.has_index()) c10::impl::getDeviceGuardImpl(at::kCUDA)->setDevice(device);
    at::globalContext().setBenchmarkCuDNN(!at::globalContext().deterministicCuDNN());
    (void)at::ones({2}, at::TensorOptions().device(device)).sum().item<double>();  // a device that computes nothing
  });
}

extern "C" int tx_set_tf32(bool on) noexcept {
  return tx::guard([&] {
    at::globalContext().setAllowTF32CuBLAS(on);
    at::globalContext().setAllowTF32CuDNN(on);
  });
}

extern "C" bool tx_get_tf32(void) noexcept {
  bool on = false;
  (void)tx::guard([&] { on = at::globalContext().allowTF32CuBLAS() && at::globalContext().allowTF32CuDNN(); });
  return on;
}

extern "C" int tx_cuda_count(void) noexcept {
  int n = 0;
  (void)tx::guard([&] { n = at::hasCUDA() ? at::detail::getCUDAHooks().getNumGPUs() : 0; });
  return n;
}

// What the device has left, and what the caching allocator holds without using it. CUDA's own function is looked up:
// libtorch has loaded it.
extern "C" int64_t tx_free_bytes(void) noexcept {
  size_t left = 0, whole = 0;
  const auto ask = reinterpret_cast<int (*)(size_t *, size_t *)>(dlsym(RTLD_DEFAULT, "cudaMemGetInfo"));
  if (!ask || tx_cuda_count() == 0 || ask(&left, &whole) != 0) return 0;
  tx_memory m = {};
  tx::cuda_memory(&m);
  return int64_t(left) + m.cuda_reserved_bytes - m.cuda_live_bytes;
}

extern "C" int tx_synchronize(void) noexcept {
  return tx::guard([] {
    const int n = tx_cuda_count();
    for (int i = 0; i < n; i++)
      if (at::detail::getCUDAHooks().hasPrimaryContext(i)) at::detail::getCUDAHooks().deviceSynchronize(i);
  });
}

// Operators without a deterministic implementation then raise. cuBLAS reads the size of its workspace from the
// environment when it starts: the program sets it before libtorch is opened (host/threads.c).
extern "C" int tx_set_deterministic(bool on) noexcept {
  return tx::guard([&] {
    at::globalContext().setDeterministicAlgorithms(on, false);
    at::globalContext().setDeterministicCuDNN(on);
    at::globalContext().setBenchmarkCuDNN(!on && tx_cuda_count() > 0);
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
