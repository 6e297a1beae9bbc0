// tx_ops.hpp: an operator as tx_ops.cpp reads it, for the files that look inside one.
#pragma once
#include <ATen/core/dispatch/Dispatcher.h>
#include <string>
#include <vector>
#include "tx_priv.hpp"

struct tx_op {
  c10::OperatorHandle handle;
  std::string name, overload, schema;
  std::vector<tx_arg> args;
  std::vector<std::string> types;  // what tx_arg::type points to
  std::vector<c10::IValue> defaults;
  std::vector<tx_kind> results;
  bool complete = true;  // false: takes or returns something that this binding does not pass
  bool has_out = false;
  bool writes = false;
  bool guarded = false;  // tx_guard.cpp looks at its arguments before the call
  explicit tx_op(c10::OperatorHandle h) : handle(std::move(h)) {}
};

namespace tx {

// Puts the message of the last failure, which op's call with these arguments raised, into the house's words.
void reword(const tx_op &op, const tx_value *args, int nargs) noexcept;

// Does tx_guard.cpp know arguments of this operator that crash libtorch?
bool is_guarded(const std::string &name);
// Throws std::invalid_argument where these arguments, in schema order, would crash libtorch.
void guard_arguments(const tx_op &op, const std::vector<c10::IValue> &stack);

}  // namespace tx
