// What torch's reducer.hpp names of RPC's autograd, declared only: Debian's libtorch-dev 1.13 leaves this header out.
#pragma once
#include <ATen/core/Tensor.h>
#include <functional>
#include <memory>
namespace torch {
namespace distributed {
namespace autograd {
class DistAutogradContext {
 public:
  using GradCallback = std::function<bool(at::Tensor &)>;
};
using ContextPtr = std::shared_ptr<DistAutogradContext>;
}  // namespace autograd
}  // namespace distributed
}  // namespace torch
