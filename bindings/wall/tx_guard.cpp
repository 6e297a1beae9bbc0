// tx_guard.cpp: arguments with which libtorch 1.13 crashes, in the call or in its backward pass, raise an error before
// it. Only useful operators have a rule here; others are denied by name (scripts/medxai/tensor/denied_ops.lua).
#include <stdexcept>
#include <string>
#include "tx_ops.hpp"

namespace tx {

bool is_guarded(const std::string &name) {
  return name == "nll_loss" || name == "nll_loss_nd" || name == "nll_loss2d" || name == "cross_entropy_loss"
         || name == "unsqueeze_";
}

// unsqueeze_ is the one operator that adds a dimension in place: not beyond TX_MAX_DIMS.
static void guard_unsqueeze(const at::Tensor &x) {
  if (x.dim() >= TX_MAX_DIMS)
    throw std::invalid_argument("a tensor of " + std::to_string(x.dim()) + " dimensions gets no more (at most " +
                                std::to_string(TX_MAX_DIMS) + ")");
}

// Arguments 0 and 1: (C) with one target, or (N, C, ...). No class, or one row with no target, is read out of bounds.
void guard_arguments(const tx_op &op, const std::vector<c10::IValue> &stack) {
  if (op.name == "unsqueeze_") return guard_unsqueeze(stack[0].toTensor());
  if (stack.size() < 2 || !stack[0].isTensor() || !stack[1].isTensor()) return;
  const at::Tensor &x = stack[0].toTensor(), &target = stack[1].toTensor();
  if (x.dim() == 0) throw std::invalid_argument("the input has no dimension (expected (classes) or (N, classes, ...))");
  if (x.size(x.dim() == 1 ? 0 : 1) == 0) throw std::invalid_argument("the input has no class (a dimension of size 0)");
  if (x.dim() == 1 && target.numel() == 0) throw std::invalid_argument("1 input and 0 targets do not fit");
}

}  // namespace tx
