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
  bool writes = false;   // its results are arguments
  bool mutates = false;  // it writes to an argument that its schema names
  bool draws = false;    // random numbers, of its generator argument or of the default generators
  // a norm's running statistics: written in training, though not by its schema
  int running[2] = {-1, -1}, training = -1;
  bool guarded = false;  // tx_guard.cpp looks at its arguments before the call
  explicit tx_op(c10::OperatorHandle h) : handle(std::move(h)) {}
};

namespace tx {

// Rewords the message of the last failure, which op's call with these arguments raised.
void reword(const tx_op &op, const tx_value *args, int nargs) noexcept;

// Restores what a failed call has changed without its schema saying so: the random generator, and a norm's running
// statistics.
class Rewind {
 public:
  void remember(const tx_op &op, const std::vector<c10::IValue> &stack);
  bool take_back() noexcept;  // false: it could not be

 private:
  std::vector<std::pair<at::Generator, at::Tensor>> generators;
  std::vector<std::pair<at::Tensor, at::Tensor>> statistics;
};

// Whether some arguments of this operator crash libtorch.
bool is_guarded(const std::string &name);
// Throws std::invalid_argument where these arguments, in schema order, would crash libtorch.
void guard_arguments(const tx_op &op, const std::vector<c10::IValue> &stack);

}  // namespace tx
