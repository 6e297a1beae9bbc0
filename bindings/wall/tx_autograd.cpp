// tx_autograd.cpp: grad mode, backward, gradients of several outputs for several inputs, guided ReLU, autocast, and
// torch's own random generators. A backward pass stops at the next node when the host's flag is up.
// No hook leads out of C++.
#include "tx_priv.hpp"
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>
#include <ATen/SequenceNumber.h>
#include <ATen/autocast_mode.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>
#include <chrono>
#include <cstring>
#include <mutex>
#include <string>
#include <unordered_set>
#include <vector>

using torch::autograd::Node;
using torch::autograd::variable_list;

namespace {

// ---- times of a backward pass ------------------------------------------------------------------------------------

struct Timed {
  uint64_t sequence;
  std::string name;
  double seconds;
};
struct Profile {
  bool on = false;
  std::vector<Timed> list;
  std::chrono::steady_clock::time_point begun;
  bool runs = false;  // the last entry's operator

  void end() noexcept {
    if (runs) list.back().seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count();
    runs = false;
  }
  void begin(const Node &n) {
    end();
    list.push_back({n.sequence_nr(), n.name(), 0});
    runs = true;
    begun = std::chrono::steady_clock::now();
  }
};
thread_local Profile profile;

// ---- interrupts ------------------------------------------------------------------------------------------------

struct StopHook : torch::autograd::FunctionPreHook {
  explicit StopHook(const Node &n) : node(n) {}
  variable_list operator()(const variable_list &grads) override {
    tx::check_interrupt();
    if (profile.on) profile.begin(node);
    return grads;
  }
  const Node &node;  // that it stands at
};

// Puts a hook on every node of the outputs' graph and removes it again: a retained graph, and the leaves' nodes, must
// not collect one hook per pass. The nodes live as long as the outputs, which the caller holds; but for the node of an
// output that is a leaf itself, which lives as long as somebody asks for it: it is held here.
class Watch {
 public:
  explicit Watch(const variable_list &outputs) {
    tx::check_interrupt();
    try {
      for (const auto &t : outputs)
        if (t.defined() && t.requires_grad()) roots.push_back(torch::autograd::impl::gradient_edge(t).function);
      for (const auto &root : roots) reach(root.get());
      for (size_t i = 0; i < nodes.size(); i++)  // nodes grows while it is walked
        for (const auto &edge : nodes[i]->next_edges()) reach(edge.function.get());
    } catch (...) {
      release();
      throw;
    }
  }
  ~Watch() {
    profile.end();
    release();
  }
  Watch(const Watch &) = delete;
  Watch &operator=(const Watch &) = delete;

 private:
  void reach(Node *n) {
    if (!n || !seen.insert(n).second) return;
    nodes.push_back(n);
    n->add_pre_hook(std::make_unique<StopHook>(*n));
  }
  void release() noexcept {
    for (Node *n : nodes) {
      auto &hooks = n->pre_hooks();
      if (!hooks.empty() && dynamic_cast<StopHook *>(hooks.back().get())) hooks.pop_back();
    }
  }
  std::vector<std::shared_ptr<Node>> roots;
  std::vector<Node *> nodes;
  std::unordered_set<Node *> seen;
};

variable_list tensors(tx_tensor *const *v, int n) {
  variable_list out;
  out.reserve(size_t(n));
  for (int i = 0; i < n; i++) out.push_back(v ? tx::tensor(v[i]) : at::Tensor());
  return out;
}

// A backward pass frees the graph and adds to gradients as it goes: after out of memory it cannot be repeated.
template <class F>
int pass(F &&f) noexcept {
  const int status = tx::guard(f);
  return status == TX_NOMEM ? static_cast<int>(TX_NOMEM_CHANGED) : status;
}

// ---- guided ReLU -------------------------------------------------------------------------------------------------

// Springenberg et al. 2015: the gradient passes where the input was positive and the gradient is.
struct GuidedRelu : torch::autograd::Function<GuidedRelu> {
  static at::Tensor forward(torch::autograd::AutogradContext *ctx, const at::Tensor &x, double limit) {
    ctx->save_for_backward({limit > 0 ? x.gt(0).logical_and_(x.lt(limit)) : x.gt(0)});
    return limit > 0 ? x.clamp(0, limit) : x.relu();
  }
  static variable_list backward(torch::autograd::AutogradContext *ctx, const variable_list &grads) {
    return {grads[0].clamp_min(0) * ctx->get_saved_variables()[0], at::Tensor()};
  }
};

// ---- autocast ----------------------------------------------------------------------------------------------------

#if TORCH_VERSION_MAJOR > 2 || (TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR >= 4)
bool autocast_on(at::DeviceType d) { return at::autocast::is_autocast_enabled(d); }
at::ScalarType autocast_dtype(at::DeviceType d) { return at::autocast::get_autocast_dtype(d); }
void autocast_set(at::DeviceType d, bool on, at::ScalarType t) {
  at::autocast::set_autocast_enabled(d, on);
  if (on) at::autocast::set_autocast_dtype(d, t);
}
#else
bool autocast_on(at::DeviceType d) {
  return d == at::kCPU ? at::autocast::is_cpu_enabled() : at::autocast::is_enabled();
}
at::ScalarType autocast_dtype(at::DeviceType d) {
  return d == at::kCPU ? at::autocast::get_autocast_cpu_dtype() : at::autocast::get_autocast_gpu_dtype();
}
void autocast_set(at::DeviceType d, bool on, at::ScalarType t) {
  if (d == at::kCPU) {
    at::autocast::set_cpu_enabled(on);
    if (on) at::autocast::set_autocast_cpu_dtype(t);
  } else {
    at::autocast::set_enabled(on);
    if (on) at::autocast::set_autocast_gpu_dtype(t);
  }
}
#endif

}  // namespace

extern "C" bool tx_grad_mode(bool on) noexcept {
  const bool before = at::GradMode::is_enabled();
  at::GradMode::set_enabled(on);
  return before;
}

extern "C" bool tx_grad_mode_get(void) noexcept { return at::GradMode::is_enabled(); }

extern "C" int tx_backward(tx_tensor *const *outputs, tx_tensor *const *grads, int n, bool retain_graph,
                           bool create_graph) noexcept {
  return pass([&] {
    tx::Running running("backward");
    const variable_list out = tensors(outputs, n);
    Watch watch(out);
    torch::autograd::backward(out, tensors(grads, n), retain_graph, create_graph);
  });
}

extern "C" int tx_autograd_grad(tx_tensor **results, tx_tensor *const *outputs, tx_tensor *const *grads, int nout,
                                tx_tensor *const *inputs, int nin, bool retain_graph, bool create_graph,
                                bool allow_unused) noexcept {
  return pass([&] {
    tx::Running running("autograd.grad");
    const variable_list out = tensors(outputs, nout);
    variable_list found;
    {
      Watch watch(out);
      found = torch::autograd::grad(out, tensors(inputs, nin), tensors(grads, nout), retain_graph, create_graph,
                                    allow_unused);
    }
    for (int i = 0; i < nin; i++) results[i] = tx::give(std::move(found[size_t(i)]));
  });
}

extern "C" uint64_t tx_sequence(void) noexcept { return at::sequence_number::peek(); }

extern "C" void tx_profile(bool on) noexcept {
  profile.on = on;
  if (on) profile.list.clear();
}

extern "C" int tx_profile_count(void) noexcept { return int(profile.list.size()); }

extern "C" void tx_profile_get(int i, uint64_t *sequence, double *seconds, const char **name) noexcept {
  const Timed &t = profile.list[size_t(i)];
  *sequence = t.sequence;
  *seconds = t.seconds;
  *name = t.name.c_str();
}

extern "C" int tx_guided_relu(tx_tensor **out, const tx_tensor *x, double limit) noexcept {
  return tx::guard([&] {
    tx::Running running("guided_relu");
    tx::check_interrupt();
    *out = tx::give(GuidedRelu::apply(tx::tensor(x), limit));
  });
}

extern "C" int tx_autocast(const char *device_type, const char *dtype) noexcept {
  return tx::guard([&] {
    const at::DeviceType device = tx::device_of(device_type).type();
    if (device != at::kCPU && device != at::kCUDA) return tx::fail("no autocast on '%s' (cpu or cuda)", device_type);
    if (!dtype) {
      autocast_set(device, false, at::kFloat);
      return int(TX_OK);
    }
    const at::ScalarType t = tx::dtype_of(dtype);
    if (t != at::kBFloat16 && t != at::kHalf) return tx::fail("no autocast to %s (bfloat16 or float16)", dtype);
    if (t == at::kHalf && device == at::kCPU && !TX_TORCH_2_3)
      return tx::fail("no autocast to float16 on the CPU with libtorch %s (bfloat16)", tx_version());
    autocast_set(device, true, t);
    return int(TX_OK);
  });
}

extern "C" const char *tx_autocast_get(const char *device_type) noexcept {
  const char *name = nullptr;
  tx::guard([&] {
    const at::DeviceType device = strncmp(device_type, "cuda", 4) == 0 ? at::kCUDA : at::kCPU;
    if (autocast_on(device)) name = tx::dtype_name(autocast_dtype(device));
  });
  return name;
}

extern "C" void tx_autocast_clear_cache(void) noexcept {
  tx::guard([] { at::autocast::clear_cache(); });
}

// ---- torch's own random numbers ----------------------------------------------------------------------------------

extern "C" int tx_manual_seed(int64_t seed) noexcept {
  return tx::guard([&] { at::manual_seed(uint64_t(seed)); });
}

extern "C" int tx_generator_default(tx_generator **out, const char *device) noexcept {
  return tx::guard([&] { *out = new tx_generator{at::globalContext().defaultGenerator(tx::device_of(device))}; });
}

extern "C" int tx_generator_new(tx_generator **out, const char *device, int64_t seed) noexcept {
  return tx::guard([&] {
    at::Generator g = at::globalContext().defaultGenerator(tx::device_of(device));
    {
      std::lock_guard<std::mutex> hold(g.mutex());
      g = g.clone();
    }
    g.set_current_seed(uint64_t(seed));
    *out = new tx_generator{std::move(g)};
  });
}

extern "C" void tx_generator_free(tx_generator *g) noexcept { delete g; }

extern "C" int tx_generator_get_state(tx_tensor **out, const tx_generator *g) noexcept {
  return tx::guard([&] {
    at::Generator gen = g->g;
    std::lock_guard<std::mutex> hold(gen.mutex());
    *out = tx::give(gen.get_state());
  });
}

extern "C" int tx_generator_set_state(tx_generator *g, const tx_tensor *state) noexcept {
  return tx::guard([&] {
    std::lock_guard<std::mutex> hold(g->g.mutex());
    g->g.set_state(tx::tensor(state));
  });
}
