// What torch's ProcessGroupGloo.hpp names of Gloo, declared and not defined: PyPI's wheels and Debian's libtorch-dev
// have the library inside, but not its headers. medxai uses Gloo's classes through libtorch's own, by pointer only.
#pragma once
#include <chrono>
#include <memory>
#include <string>
#include <vector>
namespace gloo {
class Context {
 public:
  void setTimeout(std::chrono::milliseconds);  // named by an inline function of 2.x
};
namespace transport {
class Device;
class UnboundBuffer {
 public:
  virtual ~UnboundBuffer() = 0;
};
}  // namespace transport
namespace rendezvous {
class Store {  // the base of ProcessGroupGloo::GlooStore, which only libtorch makes
 public:
  static constexpr std::chrono::milliseconds kDefaultTimeout{30000};  // a default argument in 1.13
  virtual ~Store();
  virtual void set(const std::string &key, const std::vector<char> &data) = 0;
  virtual std::vector<char> get(const std::string &key) = 0;
  virtual void wait(const std::vector<std::string> &keys) = 0;
  virtual void wait(const std::vector<std::string> &keys, const std::chrono::milliseconds &timeout) = 0;
};
}  // namespace rendezvous
}  // namespace gloo
