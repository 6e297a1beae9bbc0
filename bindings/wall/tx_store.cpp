// tx_store.cpp: what reading and writing files of tensors needs of libtorch.
#include "tx_priv.hpp"
#include <ATen/core/grad_mode.h>

extern "C" int tx_tensor_over(tx_tensor **out, const tx_tensor *base, int64_t offset, int dim, const int64_t *sizes,
                              const int64_t *strides) noexcept {
  return tx::guard([&] {
    at::NoGradGuard no_grad;
    at::Tensor b = tx::tensor(base), t = at::empty({0}, b.options());
    t.set_(b.storage(), offset, at::IntArrayRef(sizes, dim), at::IntArrayRef(strides, dim));
    *out = tx::give(std::move(t));
  });
}

extern "C" int tx_tensor_packed(tx_tensor **out, const tx_tensor *t, bool keep_strides) noexcept {
  return tx::guard([&] {
    at::NoGradGuard no_grad;
    at::Tensor b = tx::tensor(t);
    if (b.layout() != at::kStrided || b.device().is_meta())
      return tx::fail("a %s tensor is not dense. Use t:to_dense()",
                      b.device().is_meta() ? "meta" : tx_tensor_layout(t));
    b = b.detach().to(at::kCPU).resolve_conj().resolve_neg();
    if (b._is_zerotensor()) b = b.clone();
    *out = tx::give(keep_strides ? b : b.contiguous());
    return static_cast<int>(TX_OK);
  });
}
