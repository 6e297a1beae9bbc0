// tx_optim.cpp: SGD, Adam, AdamW and RMSprop with parameter groups, as torch.optim's, over libtorch's operators on
// lists of tensors (_foreach_*) or its one kernel for a whole step (_fused_*). Their state lies beside each parameter's
// name. Everything that a step needs is allocated before the first weight is written, so that a step that runs out of
// memory changes nothing.
#include "tx_priv.hpp"
#include <ATen/core/grad_mode.h>
#include <cmath>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

using at::Tensor;
using Tensors = std::vector<Tensor>;
using Scalars = std::vector<at::Scalar>;

namespace {

struct Options {
  double lr = 1e-3, momentum = 0, dampening = 0, weight_decay = 0, beta1 = 0.9, beta2 = 0.999, eps = 1e-8, alpha = 0.99;
  double nesterov = 0, amsgrad = 0, centered = 0;  // 0 or 1
};

struct Option {
  const char *name;
  double Options::*at;
};

constexpr int most_slots = 3;

// What a kind takes and keeps. slots: the entries of its state beside "step"; null where it has fewer.
struct Kind {
  const char *name;
  std::vector<Option> options;
  const char *slots[most_slots];
  bool counts;  // its steps
};

const Option lr = { "lr", &Options::lr }, weight_decay = { "weight_decay", &Options::weight_decay },
             eps = { "eps", &Options::eps }, momentum = { "momentum", &Options::momentum },
             beta1 = { "beta1", &Options::beta1 }, beta2 = { "beta2", &Options::beta2 },
             amsgrad = { "amsgrad", &Options::amsgrad };

enum { SGD, ADAM, ADAMW, RMSPROP };

const Kind kinds[] = {
  { "sgd",
    { lr, momentum, weight_decay, { "dampening", &Options::dampening }, { "nesterov", &Options::nesterov } },
    { "momentum_buffer" },
    false },
  { "adam", { lr, beta1, beta2, eps, weight_decay, amsgrad }, { "exp_avg", "exp_avg_sq", "max_exp_avg_sq" }, true },
  { "adamw", { lr, beta1, beta2, eps, weight_decay, amsgrad }, { "exp_avg", "exp_avg_sq", "max_exp_avg_sq" }, true },
  { "rmsprop",
    { lr, eps, weight_decay, momentum, { "alpha", &Options::alpha }, { "centered", &Options::centered } },
    { "square_avg", "momentum_buffer", "grad_avg" },
    true },
};

struct Parameter {
  std::string name;
  Tensor tensor;
  bool begun = false;        // it has a state
  Tensor slots[most_slots];  // undefined where the options need none
  int64_t step = 0;
  Tensor steps;              // a fused step counts on the device: 0-d float32; else undefined
};

struct Group {
  Options options;
  std::vector<Parameter> parameters;
};

// Parameters of one group that are updated together, with what that needs. All lists are of the same length.
struct Part {
  const Options *o = nullptr;
  std::vector<Parameter *> owners;
  Tensors p, g;               // parameters and gradients
  Tensors slots[most_slots];  // their state; new ones are zeros
  Tensors steps;              // of a fused step
  std::vector<bool> fresh;    // no state before
  Tensors one, two;           // scratch, where the rule needs it
};

constexpr int64_t part_bytes_cpu = int64_t(1) << 20;  // what the second-level cache holds
constexpr int64_t part_bytes = int64_t(1) << 28;      // scratch of a GPU

}  // namespace

struct tx_optim {
  int kind = 0;
  bool fused = false;
  tx::optional<at::Device> device;  // of all parameters
  Options defaults;
  std::vector<Group> groups;
};

namespace {

// ---- options -----------------------------------------------------------------------------------------------------

void apply(Options &o, const Kind &kind, const tx_option *options, int n) {
  for (int i = 0; i < n; i++) {
    bool known = strcmp(options[i].name, "fused") == 0;  // of the whole optimizer
    for (const Option &option : kind.options)
      if (strcmp(option.name, options[i].name) == 0) {
        o.*option.at = options[i].value;
        known = true;
      }
    TORCH_CHECK(known, kind.name, " has no option '", options[i].name, "'");
  }
}

// Whether a slot of the state is kept with these options.
bool keeps(int kind, int slot, const Options &o) {
  switch (kind) {
    case SGD: return o.momentum != 0;
    case RMSPROP: return slot == 0 || (slot == 1 ? o.momentum > 0 : o.centered != 0);
    default: return slot < 2 || o.amsgrad != 0;
  }
}

// ---- what a step works on ------------------------------------------------------------------------------------------

// Strides that walk memory alike: those of dimensions of size 1 do not count.
bool same_strides(const Tensor &a, const Tensor &b) {
  for (int64_t d = 0; d < a.dim(); d++)
    if (a.size(d) > 1 && a.stride(d) != b.stride(d)) return false;
  return true;
}

// The fused kernels walk parameter, gradient and state as one row of numbers.
bool can_fuse(const tx_optim *o, const Group &group, const Parameter &q) {
  return tx::has_fused && o->fused && o->kind != RMSPROP && !(o->kind == SGD && group.options.dampening != 0)
         && q.tensor.is_non_overlapping_and_dense() && (q.tensor.is_cuda() || q.tensor.is_cpu());
}

Tensor like(const Tensor &t) { return at::empty_like(t, t.options().requires_grad(false)); }

// Adds a parameter with a gradient to the part. Allocates its state where it has none.
void add(Part &part, int kind, Parameter &q, bool fuse) {
  Tensor g = q.tensor.grad();
  TORCH_CHECK(!g.is_sparse(), "the gradient of '", q.name, "' is sparse, which no optimizer here takes");
  if (fuse && !same_strides(g, q.tensor)) g = like(q.tensor).copy_(g);
  part.owners.push_back(&q);
  part.p.push_back(q.tensor);
  part.g.push_back(g);
  part.fresh.push_back(!q.begun);
  for (int s = 0; s < most_slots; s++) {
    if (!kinds[kind].slots[s] || !keeps(kind, s, *part.o)) continue;
    Tensor state = q.slots[s].defined() ? q.slots[s] : like(q.tensor).zero_();
    if (fuse && !same_strides(state, q.tensor)) state = like(q.tensor).copy_(state);
    part.slots[s].push_back(state);
  }
  if (fuse && kinds[kind].counts)
    part.steps.push_back(q.steps.defined() ? q.steps
                                           : at::full({}, double(q.step), q.tensor.options().dtype(at::kFloat)));
}

bool fits(const Part &part, int64_t bytes, const Tensor &p) {
  return part.p.empty()
         || (bytes + int64_t(p.nbytes()) <= (p.is_cpu() ? part_bytes_cpu : part_bytes)
             && part.p[0].scalar_type() == p.scalar_type());
}

struct Work {
  std::vector<Part> parts, fused;
  bool any = false;
};

Work gather(tx_optim *o) {
  Work work;
  for (Group &group : o->groups) {
    std::vector<Part> *last = nullptr;
    int64_t bytes = 0;
    for (Parameter &q : group.parameters) {
      if (!q.tensor.grad().defined()) continue;
      work.any = true;
      const bool fuse = can_fuse(o, group, q);
      std::vector<Part> &list = fuse ? work.fused : work.parts;
      if (last != &list || !fits(list.back(), fuse ? 0 : bytes, q.tensor)) {
        list.emplace_back();
        list.back().o = &group.options;
        last = &list, bytes = 0;
      }
      add(list.back(), o->kind, q, fuse);
      bytes += int64_t(q.tensor.nbytes());
    }
  }
  return work;
}

// Scratch for the largest part, used by one after the other.
int scratch_lists(int kind, const Options &o) {
  switch (kind) {
    case SGD: return o.weight_decay != 0 || (o.nesterov != 0 && o.momentum != 0);
    case ADAM: return o.weight_decay != 0 ? 2 : 1;
    case ADAMW: return 1;
    default: return o.weight_decay != 0 ? 2 : 1;
  }
}

// Memory for the scratch of every part; each takes its views of it when it is its turn.
struct Scratch {
  Tensor block[2];
  void make(const std::vector<Part> &parts, int kind) {
    int64_t most[2] = { 0, 0 };
    for (const Part &part : parts) {
      int64_t bytes = 0;
      for (const Tensor &p : part.p) bytes += (int64_t(p.nbytes()) + 63) / 64 * 64;
      for (int k = 0; k < scratch_lists(kind, *part.o); k++) most[k] = std::max(most[k], bytes);
    }
    for (int k = 0; k < 2; k++)
      if (most[k] > 0) block[k] = at::empty({ most[k] }, parts[0].p[0].options().dtype(at::kByte).requires_grad(false));
  }
};

// Views of a block in the shapes and strides of the parameters.
Tensors views(const Tensor &block, const Tensors &p) {
  Tensors out;
  int64_t at = 0;
  for (const Tensor &t : p) {
    const int64_t bytes = int64_t(t.nbytes());
    Tensor flat = block.narrow(0, at, bytes).view(t.scalar_type());
    out.push_back(t.is_non_overlapping_and_dense() ? flat.as_strided(t.sizes(), t.strides()) : flat.view(t.sizes()));
    at += (bytes + 63) / 64 * 64;
  }
  return out;
}

// ---- the rules -----------------------------------------------------------------------------------------------------
// Each writes in place, in the order of operations of torch.optim, and allocates no memory for numbers.

// Gradients with the L2 penalty: in scratch, since the gradients themselves stay as they are.
Tensors penalized(const Part &part, const Tensors &scratch) {
  if (part.o->weight_decay == 0) return part.g;
  tx::copy_lists(scratch, part.g);
  at::_foreach_add_(scratch, part.p, part.o->weight_decay);
  return scratch;
}

void square_roots(const Tensors &out, const Tensors &of) {
  if (!of[0].is_cpu()) {
    tx::copy_lists(out, of);
    return at::_foreach_sqrt_(out);
  }
  for (size_t i = 0; i < of.size(); i++) {
    Tensor to = out[i];
    at::sqrt_out(to, of[i]);
  }
}

void step_sgd(Part &part) {
  const Options &o = *part.o;
  Tensors d = penalized(part, part.one);
  if (o.momentum != 0) {
    Tensors begun, by, fresh, from;
    for (size_t i = 0; i < part.p.size(); i++) {
      (part.fresh[i] ? fresh : begun).push_back(part.slots[0][i]);
      (part.fresh[i] ? from : by).push_back(d[i]);
    }
    if (!fresh.empty()) tx::copy_lists(fresh, from);
    if (!begun.empty()) {
      at::_foreach_mul_(begun, o.momentum);
      at::_foreach_add_(begun, by, 1 - o.dampening);
    }
    if (o.nesterov != 0) {
      if (o.weight_decay == 0) tx::copy_lists(part.one, d);
      d = part.one;
      at::_foreach_add_(d, part.slots[0], o.momentum);
    } else d = part.slots[0];
  }
  at::_foreach_add_(part.p, d, -o.lr);
}

void step_adam(Part &part, bool decoupled) {
  const Options &o = *part.o;
  Tensors &mean = part.slots[0], &square = part.slots[1];
  if (decoupled && o.weight_decay != 0) at::_foreach_mul_(part.p, 1 - o.lr * o.weight_decay);
  const Tensors g = decoupled ? part.g : penalized(part, part.two);
  at::_foreach_mul_(mean, o.beta1);
  at::_foreach_add_(mean, g, 1 - o.beta1);
  at::_foreach_mul_(square, o.beta2);
  at::_foreach_addcmul_(square, g, g, 1 - o.beta2);
  for (size_t i = 0; o.amsgrad != 0 && i < square.size(); i++)
    at::maximum_out(part.slots[2][i], part.slots[2][i], square[i]);
  Scalars roots, sizes;
  for (const Parameter *q : part.owners) {
    const double n = double(q->step + 1);
    roots.emplace_back(std::sqrt(1 - std::pow(o.beta2, n)));
    sizes.emplace_back(-(o.lr / (1 - std::pow(o.beta1, n))));
  }
  square_roots(part.one, o.amsgrad != 0 ? part.slots[2] : square);
  at::_foreach_div_(part.one, roots);
  at::_foreach_add_(part.one, o.eps);
  at::_foreach_addcdiv_(part.p, mean, part.one, sizes);
}

void step_rmsprop(Part &part) {
  const Options &o = *part.o;
  Tensors &square = part.slots[0], &buffer = part.slots[1], &mean = part.slots[2];
  const Tensors g = penalized(part, part.two);
  at::_foreach_mul_(square, o.alpha);
  at::_foreach_addcmul_(square, g, g, 1 - o.alpha);
  if (o.centered != 0) {
    at::_foreach_mul_(mean, o.alpha);
    at::_foreach_add_(mean, g, 1 - o.alpha);
    tx::copy_lists(part.one, square);
    at::_foreach_addcmul_(part.one, mean, mean, -1);
    at::_foreach_sqrt_(part.one);
  } else square_roots(part.one, square);
  at::_foreach_add_(part.one, o.eps);
  if (o.momentum > 0) {
    at::_foreach_mul_(buffer, o.momentum);
    at::_foreach_addcdiv_(buffer, g, part.one);
    at::_foreach_add_(part.p, buffer, -o.lr);
  } else at::_foreach_addcdiv_(part.p, g, part.one, -o.lr);
}

void step_fused(Part &part, int kind, const tx::optional<Tensor> &bad) {
  const Options &o = *part.o;
  if (kind == SGD) { // a buffer of zeros gives the gradient itself, as a first step does
    return tx::fused_sgd(part.p, part.g, part.slots[0], o.weight_decay, o.momentum, o.lr, o.nesterov != 0, bad);
  }
  at::_foreach_add_(part.steps, 1);
  tx::fused_adam(kind == ADAMW, part.p, part.g, part.slots[0], part.slots[1], part.slots[2], part.steps, o.lr, o.beta1,
                 o.beta2, o.weight_decay, o.eps, o.amsgrad != 0, bad);
  if (bad) at::_foreach_sub_(part.steps, Tensors(part.steps.size(), *bad)); // a step that was left out does not count
}

void run(Part &part, int kind) {
  switch (kind) {
    case SGD: return step_sgd(part);
    case RMSPROP: return step_rmsprop(part);
    default: return step_adam(part, kind == ADAMW);
  }
}

// The state becomes the parameters' own.
void keep(Part &part, int kind) {
  for (size_t i = 0; i < part.owners.size(); i++) {
    Parameter &q = *part.owners[i];
    q.begun = true;
    if (part.steps.empty()) q.step++;
    else q.steps = part.steps[i];
    for (int s = 0; s < most_slots; s++)
      if (!part.slots[s].empty()) q.slots[s] = part.slots[s][i];
  }
}

// ---- state, names --------------------------------------------------------------------------------------------------

Parameter *find_parameter(tx_optim *o, const char *name) {
  for (Group &group : o->groups)
    for (Parameter &q : group.parameters)
      if (q.name == name) return &q;
  return nullptr;
}

int64_t steps_of(const Parameter &q) { return q.steps.defined() ? int64_t(q.steps.item<double>()) : q.step; }

void set_entry(const tx_optim *o, Parameter &q, const char *entry, const Tensor &value) {
  const Kind &kind = kinds[o->kind];
  if (kind.counts && strcmp(entry, "step") == 0) {
    TORCH_CHECK(value.numel() == 1, "step of '", q.name, "' is not one number");
    q.step = value.item<int64_t>();
    q.steps = Tensor();
    q.begun = true;
    return;
  }
  for (int s = 0; s < most_slots; s++) {
    if (!kind.slots[s] || strcmp(kind.slots[s], entry) != 0) continue;
    TORCH_CHECK(value.sizes() == q.tensor.sizes(), entry, " of '", q.name, "' has shape ", value.sizes(),
                ", the parameter ", q.tensor.sizes());
    q.slots[s] = like(q.tensor).copy_(value);  // a copy, since the state changes in place
    q.begun = true;
    return;
  }
  TORCH_CHECK(false, kind.name, " keeps no '", entry, "'");
}

// Tensors saved for a backward pass, and caches keyed by the version, must notice a step through lists.
void count_version(const Tensor &p, int64_t before) {
  if (p._version() == before) p.unsafeGetTensorImpl()->bump_version();
}

}  // namespace

extern "C" int tx_optim_new(tx_optim **out, const char *kind, const tx_option *options, int n) noexcept {
  return tx::guard([&] {
    auto o = std::make_unique<tx_optim>();
    o->kind = -1;
    for (int k = SGD; k <= RMSPROP; k++)
      if (strcmp(kinds[k].name, kind) == 0) o->kind = k;
    TORCH_CHECK(o->kind >= 0, "no optimizer '", kind, "' (sgd, adam, adamw, rmsprop)");
    if (o->kind == ADAMW) o->defaults.weight_decay = 1e-2;
    if (o->kind == RMSPROP) o->defaults.lr = 1e-2;
    apply(o->defaults, kinds[o->kind], options, n);
    for (int i = 0; i < n; i++)
      if (strcmp(options[i].name, "fused") == 0) o->fused = options[i].value != 0;
    *out = o.release();
  });
}

extern "C" void tx_optim_free(tx_optim *o) noexcept { delete o; }

extern "C" int tx_optim_add_group(tx_optim *o, tx_tensor *const *params, const char *const *names, int n,
                                  const tx_option *options, int noptions) noexcept {
  return tx::guard([&] {
    Group group;
    group.options = o->defaults;
    apply(group.options, kinds[o->kind], options, noptions);
    for (int i = 0; i < n; i++) {
      Parameter q;
      q.name = names[i], q.tensor = tx::tensor(params[i]);
      TORCH_CHECK(!find_parameter(o, names[i]), "two parameters are named '", names[i], "'");
      TORCH_CHECK(q.tensor.defined(), "parameter '", names[i], "' is none");
      TORCH_CHECK(q.tensor.is_leaf(), "parameter '", names[i],
                  "' is not a leaf (it was computed). Optimize the tensor that it was computed from");
      for (const Group &other : o->groups)
        for (const Parameter &p : other.parameters)
          TORCH_CHECK(!p.tensor.is_same(q.tensor), "parameter '", names[i], "' is in another group already");
      for (const Parameter &p : group.parameters) {
        TORCH_CHECK(p.name != q.name, "two parameters are named '", names[i], "'");
        TORCH_CHECK(!p.tensor.is_same(q.tensor), "parameter '", names[i], "' is in the group twice");
      }
      if (!o->device) o->device = q.tensor.device();
      TORCH_CHECK(q.tensor.device() == *o->device, "parameter '", names[i], "' is on ", q.tensor.device(),
                  ", others are on ", *o->device);
      group.parameters.push_back(std::move(q));
    }
    o->groups.push_back(std::move(group));
  });
}

// Writes the parts one after the other. No memory for numbers is allocated here.
static void write_parts(tx_optim *o, Work &work, const Scratch &scratch, const tx::optional<Tensor> &bad) {
  for (std::vector<Part> *list : { &work.parts, &work.fused })
    for (Part &part : *list) {
      std::vector<int64_t> versions;
      for (const Tensor &p : part.p) versions.push_back(p._version());
      if (list == &work.fused) step_fused(part, o->kind, bad);
      else {
        if (scratch.block[0].defined()) part.one = views(scratch.block[0], part.p);
        if (scratch.block[1].defined()) part.two = views(scratch.block[1], part.p);
        run(part, o->kind);
      }
      keep(part, o->kind);
      for (size_t i = 0; i < part.p.size(); i++) count_version(part.p[i], versions[i]);
    }
}

extern "C" int tx_optim_step(tx_optim *o, const tx_tensor *bad) noexcept {
  bool begun = false;
  const int status = tx::guard([&] {
    tx::Running running("optimizer step");
    tx::check_interrupt();
    at::NoGradGuard no_grad;
    Work work = gather(o);
    if (!work.any) return tx::fail("no parameter has a gradient. Call backward on the loss before step");
    tx::optional<Tensor> left_out;
    if (bad) left_out = tx::tensor(bad).ne(0).to(at::kFloat).reshape({});
    // what is not fused must be told by the host
    if (bad && !work.parts.empty() && left_out->item<float>() != 0) return int(TX_OK);
    Scratch scratch;
    if (!work.parts.empty()) scratch.make(work.parts, o->kind);
    const tx::Unrefused numbers;
    begun = true;
    write_parts(o, work, scratch, left_out);
    return int(TX_OK);
  });
  if (status != TX_NOMEM || !begun) return status;
  return tx::fail("out of memory in the middle of a step: some parameters are changed, others not. Start again from "
                  "the last checkpoint");
}

extern "C" int tx_optim_zero_grad(tx_optim *o) noexcept {
  return tx::guard([&] {
    for (Group &group : o->groups)
      for (Parameter &q : group.parameters) q.tensor.mutable_grad() = Tensor();
  });
}

extern "C" int tx_optim_set_lr(tx_optim *o, int group, double value) noexcept {
  const int n = int(o->groups.size());
  if (group < -1 || group >= n) return tx::fail("no group %d (%d groups)", group + 1, n);
  for (int i = 0; i < n; i++)
    if (group == -1 || group == i) o->groups[size_t(i)].options.lr = value;
  return TX_OK;
}

extern "C" int tx_optim_get_lr(double *value, const tx_optim *o, int group) noexcept {
  const int n = int(o->groups.size());
  if (group < 0 || group >= n) return tx::fail("no group %d (%d groups)", group + 1, n);
  *value = o->groups[size_t(group)].options.lr;
  return TX_OK;
}

extern "C" int tx_optim_groups(const tx_optim *o) noexcept { return int(o->groups.size()); }

extern "C" int tx_optim_state_each(const tx_optim *o, void (*fn)(void *, const char *, const char *, tx_tensor *),
                                   void *ud) noexcept {
  return tx::guard([&] {
    const Kind &kind = kinds[o->kind];
    auto give = [&](const Parameter &q, const char *entry, const Tensor &t) {
      if (t.defined()) fn(ud, q.name.c_str(), entry, reinterpret_cast<tx_tensor *>(t.unsafeGetTensorImpl()));
    };
    for (const Group &group : o->groups)
      for (const Parameter &q : group.parameters) {
        if (!q.begun) continue;
        if (kind.counts) give(q, "step", at::scalar_tensor(steps_of(q), at::kLong));
        for (int s = 0; s < most_slots && kind.slots[s]; s++) give(q, kind.slots[s], q.slots[s]);
      }
  });
}

extern "C" int tx_optim_state_set(tx_optim *o, const char *param, const char *entry, tx_tensor *t) noexcept {
  return tx::guard([&] {
    at::NoGradGuard no_grad;
    const Tensor value = tx::tensor(t);
    TORCH_CHECK(value.defined(), "the state of '", param, "' is none");
    Parameter *q = find_parameter(o, param);
    TORCH_CHECK(q, "no parameter '", param, "'");
    set_entry(o, *q, entry, value);
  });
}

extern "C" int tx_optim_state_clear(tx_optim *o) noexcept {
  return tx::guard([&] {
    for (Group &group : o->groups)
      for (Parameter &q : group.parameters) {
        for (Tensor &slot : q.slots) slot = Tensor();
        q.begun = false, q.step = 0, q.steps = Tensor();
      }
  });
}
