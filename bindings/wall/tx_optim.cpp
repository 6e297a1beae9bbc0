// tx_optim.cpp: torch::optim's SGD, Adam, AdamW and RMSprop with parameter groups, and their state by parameter name.
// libtorch keys the state by the tensor's address (1.13: as text, 2.x: as pointer), which no file can hold: names are
// kept here. A step that fails half way is TX_NOMEM_CHANGED, since some weights are changed already.
#include "tx_priv.hpp"
#include <torch/optim/adam.h>
#include <torch/optim/adamw.h>
#include <torch/optim/rmsprop.h>
#include <torch/optim/sgd.h>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

namespace optim = torch::optim;

struct tx_optim {
  std::string kind;
  std::unique_ptr<optim::Optimizer> optimizer;
  std::vector<tx_option> given;                // of tx_optim_new; the names are string literals of apply()
  std::vector<std::vector<std::string>> names; // [group][parameter]
};

namespace {

using at::Tensor;

// ---- options -----------------------------------------------------------------------------------------------------

// Calls set where name is the option asked for; the chain says whether any was.
#define TX_SET(option_name, expression) \
  if (strcmp(name, option_name) == 0) { \
    expression;                         \
    return option_name;                 \
  }

const char *set_option(optim::SGDOptions &o, const char *name, double v) {
  TX_SET("lr", o.lr(v))
  TX_SET("momentum", o.momentum(v))
  TX_SET("dampening", o.dampening(v))
  TX_SET("weight_decay", o.weight_decay(v))
  TX_SET("nesterov", o.nesterov(v != 0))
  return nullptr;
}

template <class Options>  // AdamOptions, AdamWOptions
const char *set_option(Options &o, const char *name, double v) {
  TX_SET("lr", o.lr(v))
  TX_SET("beta1", o.betas(std::make_tuple(v, std::get<1>(o.betas()))))
  TX_SET("beta2", o.betas(std::make_tuple(std::get<0>(o.betas()), v)))
  TX_SET("eps", o.eps(v))
  TX_SET("weight_decay", o.weight_decay(v))
  TX_SET("amsgrad", o.amsgrad(v != 0))
  return nullptr;
}

const char *set_option(optim::RMSpropOptions &o, const char *name, double v) {
  TX_SET("lr", o.lr(v))
  TX_SET("alpha", o.alpha(v))
  TX_SET("eps", o.eps(v))
  TX_SET("weight_decay", o.weight_decay(v))
  TX_SET("momentum", o.momentum(v))
  TX_SET("centered", o.centered(v != 0))
  return nullptr;
}

#undef TX_SET

template <class Options>
void apply(Options &o, const char *kind, const tx_option *options, int n) {
  for (int i = 0; i < n; i++)
    TORCH_CHECK(set_option(o, options[i].name, options[i].value), kind, " has no option '", options[i].name, "'");
}

// ---- state: the named entries of each kind -------------------------------------------------------------------------

// fn(entry, Tensor &) for each tensor, count(entry, get, set) for the step.
template <class F, class G>
void each_entry(optim::SGDParamState &s, F &&tensor, G &&) {
  tensor("momentum_buffer", s.momentum_buffer(), [&](const Tensor &t) { s.momentum_buffer(t); });
}
template <class State, class F, class G>  // AdamParamState, AdamWParamState
void each_entry(State &s, F &&tensor, G &&count) {
  count("step", s.step(), [&](int64_t n) { s.step(n); });
  tensor("exp_avg", s.exp_avg(), [&](const Tensor &t) { s.exp_avg(t); });
  tensor("exp_avg_sq", s.exp_avg_sq(), [&](const Tensor &t) { s.exp_avg_sq(t); });
  tensor("max_exp_avg_sq", s.max_exp_avg_sq(), [&](const Tensor &t) { s.max_exp_avg_sq(t); });
}
template <class F, class G>
void each_entry(optim::RMSpropParamState &s, F &&tensor, G &&count) {
  count("step", s.step(), [&](int64_t n) { s.step(n); });
  tensor("square_avg", s.square_avg(), [&](const Tensor &t) { s.square_avg(t); });
  tensor("momentum_buffer", s.momentum_buffer(), [&](const Tensor &t) { s.momentum_buffer(t); });
  tensor("grad_avg", s.grad_avg(), [&](const Tensor &t) { s.grad_avg(t); });
}

#if TX_TORCH_2
auto state_key(const Tensor &p) { return static_cast<void *>(p.unsafeGetTensorImpl()); }
#else
auto state_key(const Tensor &p) { return c10::guts::to_string(p.unsafeGetTensorImpl()); }
#endif

// ---- one place that knows the four kinds ---------------------------------------------------------------------------

template <class O, class Opt, class S>
struct Kind {
  using Optimizer = O;
  using Options = Opt;
  using State = S;
};
using Sgd = Kind<optim::SGD, optim::SGDOptions, optim::SGDParamState>;
using Adam = Kind<optim::Adam, optim::AdamOptions, optim::AdamParamState>;
using AdamW = Kind<optim::AdamW, optim::AdamWOptions, optim::AdamWParamState>;
using RMSprop = Kind<optim::RMSprop, optim::RMSpropOptions, optim::RMSpropParamState>;

template <class F>
void with_kind(const std::string &kind, F &&f) {
  if (kind == "sgd") f(Sgd());
  else if (kind == "adam") f(Adam());
  else if (kind == "adamw") f(AdamW());
  else if (kind == "rmsprop") f(RMSprop());
  else TORCH_CHECK(false, "no optimizer '", kind, "' (sgd, adam, adamw, rmsprop)");
}

template <class Options>
Options fresh_options() {
  if constexpr (std::is_same_v<Options, optim::SGDOptions>) return Options(1e-3);
  else return Options();
}

// ---- steps ---------------------------------------------------------------------------------------------------------

struct Need {
  int64_t bytes = 0;
  bool any = false;
};

// What a step will allocate at most: the state of parameters that have none yet, and the largest one's temporaries.
Need bytes_of_step(tx_optim *o) {
  Need need;
  int64_t largest = 0;
  const int64_t entries = o->kind == "sgd" ? 1 : 3;
  for (auto &group : o->optimizer->param_groups())
    for (auto &p : group.params()) {
      if (!p.grad().defined()) continue;
      need.any = true;
      const int64_t bytes = p.numel() * int64_t(p.element_size());
      largest = std::max(largest, bytes);
      if (p.device().is_cpu() && o->optimizer->state().count(state_key(p)) == 0) need.bytes += entries * bytes;
    }
  need.bytes += 4 * largest;
  return need;
}

// In 1.13 a step writes through p.data(), which has a version counter of its own: tensors saved for a backward pass,
// and caches keyed by the version, would not notice the change.
void count_versions(tx_optim *o, const std::vector<int64_t> &before) {
  size_t at = 0;
  for (auto &group : o->optimizer->param_groups())
    for (auto &p : group.params()) {
      const int64_t seen = before[at++];
      if (p.grad().defined() && p._version() == seen) p.unsafeGetTensorImpl()->bump_version();
    }
}

// Runs f(parameter, name) on the parameter of that name; false where there is none.
template <class F>
bool find_parameter(tx_optim *o, const char *param, F &&f) {
  auto &groups = o->optimizer->param_groups();
  for (size_t g = 0; g < groups.size(); g++)
    for (size_t i = 0; i < o->names[g].size(); i++)
      if (o->names[g][i] == param) {
        f(groups[g].params()[i]);
        return true;
      }
  return false;
}

}  // namespace

extern "C" int tx_optim_new(tx_optim **out, const char *kind, const tx_option *options, int n) noexcept {
  return tx::guard([&] {
    auto o = std::make_unique<tx_optim>();
    o->kind = kind;
    with_kind(kind, [&](auto k) {
      using K = decltype(k);
      auto defaults = fresh_options<typename K::Options>();
      apply(defaults, kind, options, n);
      for (int i = 0; i < n; i++)
        o->given.push_back({ set_option(defaults, options[i].name, options[i].value), options[i].value });
      o->optimizer = std::make_unique<typename K::Optimizer>(std::vector<optim::OptimizerParamGroup>(), defaults);
    });
    *out = o.release();
  });
}

extern "C" void tx_optim_free(tx_optim *o) noexcept { delete o; }

extern "C" int tx_optim_add_group(tx_optim *o, tx_tensor *const *params, const char *const *names, int n,
                                  const tx_option *options, int noptions) noexcept {
  return tx::guard([&] {
    std::vector<Tensor> tensors;
    std::vector<std::string> own;
    for (int i = 0; i < n; i++) {
      TORCH_CHECK(!find_parameter(o, names[i], [](Tensor &) {}), "two parameters are named '", names[i], "'");
      for (const auto &name : own) TORCH_CHECK(name != names[i], "two parameters are named '", names[i], "'");
      Tensor t = tx::tensor(params[i]);
      TORCH_CHECK(t.defined(), "parameter '", names[i], "' is none");
      TORCH_CHECK(t.is_leaf(), "parameter '", names[i],
                  "' is not a leaf (it was computed). Optimize the tensor that it was computed from");
      for (const auto &group : o->optimizer->param_groups())
        for (const auto &p : group.params())
          TORCH_CHECK(!p.is_same(t), "parameter '", names[i], "' is in another group already");
      for (const auto &p : tensors) TORCH_CHECK(!p.is_same(t), "parameter '", names[i], "' is in the group twice");
      tensors.push_back(std::move(t));
      own.emplace_back(names[i]);
    }
    with_kind(o->kind, [&](auto k) {
      using Options = typename decltype(k)::Options;
      auto mine = fresh_options<Options>();
      apply(mine, o->kind.c_str(), o->given.data(), int(o->given.size()));
      apply(mine, o->kind.c_str(), options, noptions);
      o->names.push_back(own);
      try {
        o->optimizer->add_param_group(optim::OptimizerParamGroup(tensors));
      } catch (...) {
        o->names.pop_back();
        throw;
      }
      // set afterwards: 2.x takes an option that equals libtorch's default for one that was not given
      o->optimizer->param_groups().back().set_options(std::make_unique<Options>(mine));
    });
  });
}

extern "C" int tx_optim_step(tx_optim *o) noexcept {
  bool begun = false;
  const int status = tx::guard([&] {
    tx::Running running("optimizer step");
    tx::check_interrupt();
    const Need need = bytes_of_step(o);
    if (!need.any) return tx::fail("no parameter has a gradient. Call backward on the loss before step");
    tx::reserve(need.bytes);
    std::vector<int64_t> versions;
    for (auto &group : o->optimizer->param_groups())
      for (auto &p : group.params()) versions.push_back(p._version());
    begun = true;
    o->optimizer->step();
    count_versions(o, versions);
    return int(TX_OK);
  });
  if (status != TX_NOMEM || !begun) return status;
  return tx::fail("out of memory in the middle of a step: some parameters are changed, others not. Start again from "
                  "the last checkpoint");
}

extern "C" int tx_optim_zero_grad(tx_optim *o) noexcept {
  return tx::guard([&] {
    for (auto &group : o->optimizer->param_groups())
      for (auto &p : group.params()) p.mutable_grad() = Tensor();
  });
}

extern "C" int tx_optim_set_lr(tx_optim *o, int group, double lr) noexcept {
  return tx::guard([&] {
    auto &groups = o->optimizer->param_groups();
    const int n = int(groups.size());
    if (group < -1 || group >= n) return tx::fail("no group %d (%d groups)", group + 1, n);
    for (int i = 0; i < n; i++)
      if (group == -1 || group == i) groups[size_t(i)].options().set_lr(lr);
    return int(TX_OK);
  });
}

extern "C" int tx_optim_get_lr(double *lr, const tx_optim *o, int group) noexcept {
  return tx::guard([&] {
    auto &groups = o->optimizer->param_groups();
    if (group < 0 || group >= int(groups.size()))
      return tx::fail("no group %d (%d groups)", group + 1, int(groups.size()));
    *lr = groups[size_t(group)].options().get_lr();
    return int(TX_OK);
  });
}

extern "C" int tx_optim_groups(const tx_optim *o) noexcept { return int(o->optimizer->param_groups().size()); }

extern "C" int tx_optim_state_each(const tx_optim *o, void (*fn)(void *, const char *, const char *, tx_tensor *),
                                   void *ud) noexcept {
  return tx::guard([&] {
    auto give = [&](const std::string &param, const char *entry, const Tensor &t) {
      if (t.defined()) fn(ud, param.c_str(), entry, reinterpret_cast<tx_tensor *>(t.unsafeGetTensorImpl()));
    };
    with_kind(o->kind, [&](auto k) {
      using State = typename decltype(k)::State;
      auto &groups = o->optimizer->param_groups();
      for (size_t g = 0; g < groups.size(); g++)
        for (size_t i = 0; i < o->names[g].size(); i++) {
          auto found = o->optimizer->state().find(state_key(groups[g].params()[i]));
          if (found == o->optimizer->state().end()) continue;
          const std::string &param = o->names[g][i];
          each_entry(
            static_cast<State &>(*found->second),
            [&](const char *entry, const Tensor &t, auto &&) { give(param, entry, t); },
            [&](const char *entry, int64_t n, auto &&) { give(param, entry, at::scalar_tensor(n, at::kLong)); });
        }
    });
  });
}

extern "C" int tx_optim_state_set(tx_optim *o, const char *param, const char *entry, tx_tensor *t) noexcept {
  return tx::guard([&] {
    bool entry_found = false;
    const Tensor value = tx::tensor(t);
    TORCH_CHECK(value.defined(), "the state of '", param, "' is none");
    const bool there = find_parameter(o, param, [&](Tensor &p) {
      with_kind(o->kind, [&](auto k) {
        using State = typename decltype(k)::State;
        auto &states = o->optimizer->state();
        const auto found = states.find(state_key(p));
        // put in its place only once it holds something: a failure leaves no half of a state
        std::unique_ptr<State> fresh;
        if (found == states.end()) fresh = std::make_unique<State>();
        each_entry(
          fresh ? *fresh : static_cast<State &>(*found->second),
          [&](const char *name, const Tensor &, auto &&set) {
            if (strcmp(name, entry) != 0) return;
            entry_found = true;
            TORCH_CHECK(value.sizes() == p.sizes(), entry, " of '", param, "' has shape ", value.sizes(),
                        ", the parameter ", p.sizes());
            // a copy in the value's own memory layout, since the state changes in place
            set(value.to(value.options().device(p.device()).dtype(p.scalar_type()), false, true,
                         at::MemoryFormat::Preserve));
          },
          [&](const char *name, int64_t, auto &&set) {
            if (strcmp(name, entry) != 0) return;
            entry_found = true;
            TORCH_CHECK(value.numel() == 1, "step of '", param, "' is not one number");
            set(value.item<int64_t>());
          });
        if (fresh && entry_found) states[state_key(p)] = std::move(fresh);
      });
    });
    TORCH_CHECK(there, "no parameter '", param, "'");
    TORCH_CHECK(entry_found, o->kind, " keeps no '", entry, "'");
  });
}

extern "C" int tx_optim_state_clear(tx_optim *o) noexcept {
  return tx::guard([&] { o->optimizer->state().clear(); });
}
