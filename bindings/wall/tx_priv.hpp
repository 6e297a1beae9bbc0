// tx_priv.hpp: what the tx_*.cpp files share. Nothing here is seen by C.
// Every exported function runs its body in tx::guard, which turns any exception into a status and a message.
// Differences between libtorch 1.13 and 2.x are handled here, by one #if each.
#pragma once
#include <ATen/ATen.h>
#include <torch/version.h>
#include <atomic>
#include <exception>
#include <optional>
#include <string>
#include <utility>
#include "mx_assert.h"
#include "tx.h"

#define TX_TORCH_2 (TORCH_VERSION_MAJOR >= 2)
#define TX_TORCH_2_3 (TORCH_VERSION_MAJOR > 2 || (TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR >= 3))

namespace tx {

// Thrown when the host's flag is up. A std::exception, since autograd's engine cleans up after no other kind.
struct Interrupted : std::exception {
  const char *what() const noexcept override { return "interrupted"; }
};

extern std::atomic<int64_t> live_tensors;           // references that C holds (tx_tensor.cpp)
extern volatile sig_atomic_t *interrupt_flag;       // never null: points at a zero until tx_attach
extern const char *volatile *running_slot;          // never null

inline bool interrupted() { return *interrupt_flag != 0; }
inline void check_interrupt() {
  if (interrupted()) throw Interrupted();
}

// Names the running operator for the crash handler, and puts the outer name back.
struct Running {
  const char *before;
  explicit Running(const char *name) : before(*running_slot) { *running_slot = name; }
  ~Running() { *running_slot = before; }
};

// inside a catch block: sorts the exception, keeps its text, gives the status
int caught() noexcept;
int fail(const char *fmt, ...) noexcept __attribute__((format(printf, 1, 2))); // sets the message, gives TX_ERROR
void set_error(int status, const char *text) noexcept; // text may have many lines
void set_error_line(const char *line, const char *lead) noexcept; // keeps the full text; lead: what tx_error_lead gives

#if TORCH_VERSION_MAJOR > 2 || (TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR >= 4)
template <class T> using optional = std::optional<T>;
#else
template <class T> using optional = c10::optional<T>;
#endif

inline int64_t int_of(const c10::IValue &v) { return v.toSymInt().expect_int(); }

// Copies lists of tensors of equal shapes.
inline void copy_lists(at::TensorList to, at::TensorList from) {
#if TX_TORCH_2_3
  at::_foreach_copy_(to, from);
#else
  for (size_t i = 0; i < to.size(); i++) to[i].copy_(from[i]);
#endif
}

// One kernel for a whole step, where libtorch has it. bad: a number on the device; the step is left out unless it is 0.
#if TX_TORCH_2_3
constexpr bool has_fused = true;
inline void fused_adam(bool decoupled, at::TensorList p, at::TensorList g, at::TensorList mean, at::TensorList square,
                       at::TensorList most, at::TensorList steps, double lr, double beta1, double beta2,
                       double weight_decay, double eps, bool amsgrad, const std::optional<at::Tensor> &bad) {
  const auto step = [&](auto &&f) {
    f(p, g, mean, square, most, steps, lr, beta1, beta2, weight_decay, eps, amsgrad, false, std::nullopt, bad);
  };
  if (decoupled) step([](auto &&...a) { at::_fused_adamw_(a...); });
  else step([](auto &&...a) { at::_fused_adam_(a...); });
}
inline void fused_sgd(at::TensorList p, at::TensorList g, at::TensorList buffers, double weight_decay, double momentum,
                      double lr, bool nesterov, const std::optional<at::Tensor> &bad) {
  at::_fused_sgd_(p, g, buffers, weight_decay, momentum, lr, 0.0, nesterov, false, false, std::nullopt, bad);
}
#else
constexpr bool has_fused = false;
inline void fused_adam(bool, at::TensorList, at::TensorList, at::TensorList, at::TensorList, at::TensorList,
                       at::TensorList, double, double, double, double, double, bool,
                       const c10::optional<at::Tensor> &) {}
inline void fused_sgd(at::TensorList, at::TensorList, at::TensorList, double, double, double, bool,
                      const c10::optional<at::Tensor> &) {}
#endif

// Runs f (returns nothing, or a status) and never throws.
template <class F>
int guard(F &&f) noexcept {
  try {
    if constexpr (std::is_void_v<decltype(f())>) {
      f();
      return TX_OK;
    } else {
      return f();
    }
  } catch (...) {
    return caught();
  }
}

// ---- tensors: a tx_tensor* is a TensorImpl* that holds one reference; an undefined tensor is NULL ----

inline c10::TensorImpl *impl(const tx_tensor *t) {
  return reinterpret_cast<c10::TensorImpl *>(const_cast<tx_tensor *>(t));
}

// Another reference; NULL gives an undefined tensor.
inline at::Tensor tensor(const tx_tensor *t) {
  if (!t) return at::Tensor();
  return at::Tensor(c10::intrusive_ptr<c10::TensorImpl, c10::UndefinedTensorImpl>::reclaim_copy(impl(t)));
}

[[noreturn]] void refuse_tensor(const at::Tensor &t);  // throws and says why

// Passes a reference to the C side. Every tensor goes through here; nested tensors (which have no sizes) and tensors of
// more than TX_MAX_DIMS dimensions are errors.
inline tx_tensor *give(at::Tensor &&t) {
  if (!t.defined()) return nullptr;
  if (t.is_nested() || t.dim() > TX_MAX_DIMS) refuse_tensor(t);
  live_tensors.fetch_add(1, std::memory_order_relaxed);
  return reinterpret_cast<tx_tensor *>(t.unsafeReleaseTensorImpl());
}
inline tx_tensor *give(const at::Tensor &t) { return give(at::Tensor(t)); }

// ---- memory (tx_memory.cpp, tx_cuda.cpp) ----

// While one lives on a thread, no number (64 bytes at most) is refused to it: libtorch makes a tensor of each scalar
// that meets a tensor, and what must not stop half way must not stop at that.
struct Unrefused {
  Unrefused() noexcept;
  ~Unrefused();
};
void cuda_memory(tx_memory *out) noexcept; // these three do nothing without CUDA
void cuda_reset_peak() noexcept;
void cuda_empty_cache() noexcept;
std::string why_no_cuda(int index);        // why there is no CUDA device of this number; empty: it is here

// ---- names: "float32", "channels_last", "strided", "cuda:0"; they throw on a name that is not known ----

at::ScalarType dtype_of(const char *name);
const char *dtype_name(at::ScalarType t) noexcept;
at::MemoryFormat memory_format_of(const char *name);
at::Layout layout_of(const char *name);
at::Device device_of(const char *name);  // throws also when the device is not here
bool looks_like_device(const char *name) noexcept;

}  // namespace tx

struct tx_generator {
  at::Generator g;
};
