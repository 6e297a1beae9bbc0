// tx_rewind.cpp: restores what an operator that ran out of memory has changed, so that it can be called again: the
// random generator that it draws from, and the running statistics of a norm in training.
// Arguments that a schema says are written to (add_, out=) are not copied: such a call is not repeated.
#include <ATen/Context.h>
#include <ATen/core/grad_mode.h>
#include <mutex>
#include "tx_ops.hpp"

namespace tx {

static at::Tensor state_of(at::Generator g) {
  std::lock_guard<std::mutex> hold(g.mutex());
  return g.get_state();
}

// The device of the values, where it is a CUDA device; else none.
static optional<at::Device> cuda_device(const std::vector<c10::IValue> &stack) {
  for (const c10::IValue &v : stack) {
    if (v.isTensor() && v.toTensor().defined() && v.toTensor().is_cuda()) return v.toTensor().device();
    if (v.isDevice() && v.toDevice().is_cuda()) return v.toDevice();
  }
  return {};
}

void Rewind::remember(const tx_op &op, const std::vector<c10::IValue> &stack) {
  at::NoGradGuard no_grad;
  if (op.draws) {
    std::vector<at::Generator> all;
    for (const c10::IValue &v : stack)
      if (v.isGenerator()) all.push_back(v.toGenerator());
    if (all.empty()) {
      all.push_back(at::globalContext().defaultGenerator(at::kCPU));
      if (auto cuda = cuda_device(stack)) all.push_back(at::globalContext().defaultGenerator(*cuda));
    }
    for (at::Generator &g : all) generators.emplace_back(g, state_of(g));
  }
  const bool fixed = op.training >= 0 && stack[size_t(op.training)].isBool() && !stack[size_t(op.training)].toBool();
  for (int i : op.running) {
    if (i < 0 || fixed || !stack[size_t(i)].isTensor() || !stack[size_t(i)].toTensor().defined()) continue;
    const at::Tensor &t = stack[size_t(i)].toTensor();
    statistics.emplace_back(t, t.clone());
  }
}

bool Rewind::take_back() noexcept {
  try {
    at::NoGradGuard no_grad;
    for (auto &g : generators) {
      std::lock_guard<std::mutex> hold(g.first.mutex());
      g.first.set_state(g.second);
    }
    // no new version: the norm's own write was none
    for (auto &s : statistics) s.first.variable_data().copy_(s.second);
    return true;
  } catch (...) {
    return false;
  }
}

}  // namespace tx
