// tx_dist.cpp: see tx_dist.h. Works with libtorch 1.13, where a backend is the group, and 2.x, where a group has
// backends. It starts no process and does not know who else there is: ranks and addresses come from above.
#include "tx_priv.hpp"
#include "tx_dist.h"

#ifndef MEDXAI_C10D

namespace {
int absent() noexcept {
  return tx::fail("this libtorch was built without c10d and Gloo, so only one process can train. Build with another "
                  "(./bootstrap --torch DIR build), or train in one process");
}
}  // namespace
extern "C" {
bool tx_dist_available(void) noexcept { return false; }
int tx_dist_store_open(tx_dist_store **, const char *, int, bool, double) noexcept { return absent(); }
void tx_dist_store_free(tx_dist_store *) noexcept {}
int tx_dist_store_set(tx_dist_store *, const char *, const char *, size_t) noexcept { return absent(); }
int tx_dist_store_get(char **, size_t *, tx_dist_store *, const char *, double) noexcept { return absent(); }
int tx_dist_open(tx_dist **, tx_dist_store *, const char *, const char *, int, int, double) noexcept {
  return absent();
}
tx_dist *tx_dist_retain(tx_dist *d) noexcept { return d; }
void tx_dist_free(tx_dist *) noexcept {}
void tx_dist_abandon(tx_dist *) noexcept {}
int tx_dist_all_reduce(tx_dist *, tx_tensor *) noexcept { return absent(); }
int tx_dist_broadcast(tx_dist *, tx_tensor *, int) noexcept { return absent(); }
int tx_dist_batch_norm(tx_tensor **, tx_dist *, const tx_value *, int) noexcept { return absent(); }
int tx_reducer_new(tx_reducer **, tx_dist *, tx_tensor *const *, const char *const *, int) noexcept {
  return absent();
}
void tx_reducer_free(tx_reducer *) noexcept {}
int tx_reducer_prepare(tx_reducer *, const tx_tensor *) noexcept { return absent(); }
}

#else

#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/variable.h>
#include <unistd.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#include <torch/csrc/distributed/c10d/reducer.hpp>
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <thread>

using Group = c10::intrusive_ptr<c10d::ProcessGroup>;
using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

struct tx_dist_store {
  c10::intrusive_ptr<c10d::Store> store;
};

struct tx_dist {
  std::atomic<int> refs{1};
  Group group;
  int rank = 0, world = 1;
  bool broken = false;
};

struct tx_reducer {
  std::shared_ptr<c10d::Reducer> reducer;
  tx_dist *dist;
  bool begun = false;
};

namespace {

milliseconds to_ms(double seconds) { return milliseconds(int64_t(std::min(seconds, 1e9) * 1000)); }

// ---- waiting -----------------------------------------------------------------------------------------------------

// Waits for a collective in slices, so that a signal is seen within a fifth of a second. At its timeout Gloo ends it.
template <class W>
void finish(tx_dist *d, const W &work) {
  try {
    while (!work->isCompleted()) {
      tx::check_interrupt();
      try {
        work->wait(milliseconds(200));
      } catch (...) {
        if (work->isCompleted()) throw;
      }
    }
    work->wait();
  } catch (...) {
    d->broken = true;
    throw;
  }
}

void all_sum(tx_dist *d, const at::Tensor &t) {
  std::vector<at::Tensor> v{t};
  finish(d, d->group->allreduce(v));
}

// ---- the Reducer -------------------------------------------------------------------------------------------------

using Buckets = std::vector<std::vector<size_t>>;
using Params = std::vector<at::Tensor>;
using Sizes = std::vector<size_t>;
using Flags = std::vector<bool>;
using Names = std::unordered_map<size_t, std::string>;
using std::is_constructible_v;
using std::make_shared;

// The constructor has grown with the versions: the one that this libtorch has. A template, so that what does not fit
// is not compiled.
template <class R>
std::shared_ptr<R> make(const Params &p, const Buckets &b, const Sizes &limits, const Group &g, int64_t cap,
                        int64_t first, const Names &names) {
  const Flags dense(p.size(), false);
  constexpr bool unused = false, views = false, off = false;
  using More = std::vector<int64_t>;
  if constexpr (is_constructible_v<R, Params, Buckets, Sizes, Group, Flags, int64_t, bool, bool, Names, int64_t>)
    return make_shared<R>(p, b, limits, g, dense, cap, unused, views, names, first);  // 1.13
  else if constexpr (is_constructible_v<R, Params, Buckets, Group, Flags, int64_t, bool, bool, Names, int64_t, bool,
                                        bool, More>)
    return make_shared<R>(p, b, g, dense, cap, unused, views, names, first, off, off, More{});
  else if constexpr (is_constructible_v<R, Params, Buckets, Group, Flags, int64_t, bool, bool, Names, int64_t, bool,
                                        bool>)
    return make_shared<R>(p, b, g, dense, cap, unused, views, names, first, off, off);
  else
    return make_shared<R>(p, b, g, dense, cap, unused, views, names, first);
}

// ---- batch norm over all processes -------------------------------------------------------------------------------

// A number per channel as (1, C, 1, 1 ...), to be used with x.
at::Tensor along(const at::Tensor &t, const at::Tensor &x) {
  std::vector<int64_t> shape(size_t(x.dim()), 1);
  shape[1] = t.numel();
  return t.view(shape);
}

std::vector<int64_t> all_but_channels(const at::Tensor &x) {
  std::vector<int64_t> dims{0};
  for (int64_t i = 2; i < x.dim(); i++) dims.push_back(i);
  return dims;
}

struct Moments {
  at::Tensor mean, squares;  // float64, per channel; squares: the sum of squared distances from the mean
  double n;                  // values per channel
};

// Each process puts its count, means and sums of squares into a row of its own; the sum of all is the table of rows.
Moments moments(tx_dist *d, const at::Tensor &x) {
  const int64_t c = x.size(1), n = x.numel() / std::max<int64_t>(c, 1);
  at::Tensor rows = at::zeros({d->world, 2 * c + 1}, x.options().dtype(at::kDouble));
  if (n > 0) {
    const at::Tensor mean = x.mean(all_but_channels(x)), away = x - along(mean, x);
    at::Tensor own = rows.select(0, d->rank);
    own.narrow(0, 0, c).copy_(mean);
    own.narrow(0, c, c).copy_((away * away).sum(all_but_channels(x)));
    own.narrow(0, 2 * c, 1).fill_(double(n));
  }
  all_sum(d, rows);
  const at::Tensor counts = rows.narrow(1, 2 * c, 1), means = rows.narrow(1, 0, c);
  const double total = counts.sum().item<double>();
  at::Tensor mean = (means * counts).sum(0) / total, away = means - mean;
  return {mean, rows.narrow(1, c, c).sum(0) + (away * away * counts).sum(0), total};
}

struct SyncNorm : torch::autograd::Function<SyncNorm> {
  static at::Tensor forward(torch::autograd::AutogradContext *ctx, const at::Tensor &x, const at::Tensor &weight,
                            const at::Tensor &bias, const Moments &m, double eps, tx_dist *d) {
    const auto type = weight.defined() ? weight.scalar_type() : x.scalar_type();
    const at::Tensor inv = (m.squares / m.n + eps).rsqrt().to(type);
    at::Tensor xh = (x.to(type) - along(m.mean.to(type), x)) * along(inv, x), y = xh;
    if (weight.defined()) y = y * along(weight, x);
    if (bias.defined()) y = y + along(bias, x);
    ctx->save_for_backward({xh, weight, inv});
    ctx->saved_data["n"] = m.n;
    ctx->saved_data["group"] = reinterpret_cast<int64_t>(d);
    return y.to(x.scalar_type());
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext *ctx,
                                                 const torch::autograd::variable_list &grads) {
    const auto saved = ctx->get_saved_variables();
    const at::Tensor &xh = saved[0], &weight = saved[1], &inv = saved[2];
    const at::Tensor g = grads[0].to(xh.scalar_type());
    const auto dims = all_but_channels(xh);
    const at::Tensor db = g.sum(dims), dw = (g * xh).sum(dims);
    at::Tensor both = at::stack({db, dw}).to(at::kDouble);
    all_sum(reinterpret_cast<tx_dist *>(ctx->saved_data["group"].toInt()), both);
    both = (both / ctx->saved_data["n"].toDouble()).to(xh.scalar_type());
    at::Tensor dx = (g - along(both[0], xh) - xh * along(both[1], xh)) * along(inv, xh);
    if (weight.defined()) dx = dx * along(weight, xh);
    const at::Tensor none;
    return {dx.to(grads[0].scalar_type()), weight.defined() ? dw : none, db, none, none, none};
  }
};

// running = (1 - momentum) running + momentum new, the variance without bias.
void update_running(const at::Tensor &mean, const at::Tensor &var, const Moments &m, double momentum) {
  at::NoGradGuard none;
  if (mean.defined()) mean.detach().mul_(1 - momentum).add_(m.mean.to(mean.scalar_type()), momentum);
  if (var.defined()) var.detach().mul_(1 - momentum).add_((m.squares / (m.n - 1)).to(var.scalar_type()), momentum);
}

at::Tensor tensor_of(const tx_value &v) { return v.kind == TX_TENSOR ? tx::tensor(v.t) : at::Tensor(); }

// The store's and Gloo's address of a process: a number with dots or colons, or the name of an interface.
std::shared_ptr<gloo::transport::Device> device(const char *address) {
  using Gloo = c10d::ProcessGroupGloo;
  if (!address) return Gloo::createDefaultDevice();
  return strpbrk(address, ".:") ? Gloo::createDeviceForHostname(address) : Gloo::createDeviceForInterface(address);
}

Group new_group(const c10::intrusive_ptr<c10d::Store> &store, const char *address, int rank, int world,
                milliseconds timeout) {
  auto options = c10d::ProcessGroupGloo::Options::create(timeout);
  options->devices.push_back(device(address));
  auto gloo = c10::make_intrusive<c10d::ProcessGroupGloo>(store, rank, world, options);
#if TX_TORCH_2
  auto group = c10::make_intrusive<c10d::ProcessGroup>(store, rank, world);
  group->setBackend(c10::DeviceType::CPU, c10d::ProcessGroup::BackendType::GLOO, gloo);
  group->setDefaultBackend(c10d::ProcessGroup::BackendType::GLOO);
  group->setGroupName("medxai");
  return group;
#else
  return gloo;
#endif
}

// A connection to an unused local port may meet itself, where the system gives it that very port.
bool is_own(int s, int port) {
  sockaddr_in6 a{};
  socklen_t n = sizeof a;  // the port stands at the same place for IPv4
  return getsockname(s, reinterpret_cast<sockaddr *>(&a), &n) == 0 && ntohs(a.sin6_port) == port;
}

// Whether something takes connections at host:port.
bool listens(const char *host, int port) {
  addrinfo hints{}, *list = nullptr;
  hints.ai_socktype = SOCK_STREAM;
  if (getaddrinfo(host, std::to_string(port).c_str(), &hints, &list) != 0) return false;
  bool found = false;
  for (const addrinfo *a = list; a && !found; a = a->ai_next) {
    const int s = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC, a->ai_protocol);
    if (s < 0) continue;
    found = connect(s, a->ai_addr, a->ai_addrlen) == 0 && !is_own(s, port);
    close(s);
  }
  freeaddrinfo(list);
  return found;
}

}  // namespace

extern "C" bool tx_dist_available(void) noexcept { return true; }

// ---- the store ---------------------------------------------------------------------------------------------------

// A client of the store tries until the process that keeps it is there. TCPStore would try by itself, but it sees no
// signal meanwhile, and it writes of every attempt.
extern "C" int tx_dist_store_open(tx_dist_store **out, const char *host, int port, bool serves,
                                  double timeout_s) noexcept {
  return tx::guard([&] {
    const auto until = Clock::now() + to_ms(timeout_s);
    c10d::TCPStoreOptions o;
    o.port = uint16_t(port), o.isServer = serves, o.waitWorkers = false, o.timeout = to_ms(timeout_s);
    while (!serves && !listens(host, port)) {
      tx::check_interrupt();
      if (Clock::now() >= until) return tx::fail("nothing answered there for %g s", timeout_s);
      std::this_thread::sleep_for(milliseconds(50));
    }
    *out = new tx_dist_store{c10::make_intrusive<c10d::TCPStore>(host, o)};
    return static_cast<int>(TX_OK);
  });
}

extern "C" void tx_dist_store_free(tx_dist_store *s) noexcept {
  (void)tx::guard([&] { delete s; });
}

extern "C" int tx_dist_store_set(tx_dist_store *s, const char *key, const char *text, size_t n) noexcept {
  return tx::guard([&] { s->store->set(key, std::vector<uint8_t>(text, text + n)); });
}

extern "C" int tx_dist_store_get(char **out, size_t *n, tx_dist_store *s, const char *key, double wait_s) noexcept {
  return tx::guard([&] {
    const auto until = Clock::now() + to_ms(wait_s < 0 ? 1e9 : wait_s);
    *out = nullptr;
    for (int pause = 1; !s->store->check({key}); pause = std::min(2 * pause, 100)) {
      tx::check_interrupt();
      if (Clock::now() >= until) return static_cast<int>(TX_OK);
      std::this_thread::sleep_for(milliseconds(pause));
    }
    const std::vector<uint8_t> text = s->store->get(key);
    char *copy = static_cast<char *>(malloc(text.size() + 1));
    if (!copy) throw std::bad_alloc();
    std::copy(text.begin(), text.end(), copy);
    copy[text.size()] = '\0';
    *out = copy, *n = text.size();
    return static_cast<int>(TX_OK);
  });
}

// ---- the group ---------------------------------------------------------------------------------------------------

extern "C" int tx_dist_open(tx_dist **out, tx_dist_store *s, const char *prefix, const char *address, int rank,
                            int world, double timeout_s) noexcept {
  return tx::guard([&] {
    tx::Running running("joining the other processes");
    auto d = std::make_unique<tx_dist>();
    auto keys = c10::make_intrusive<c10d::PrefixStore>(prefix, s->store);
    d->rank = rank, d->world = world;
    d->group = new_group(keys, address, rank, world, to_ms(timeout_s));
    *out = d.release();
  });
}

extern "C" tx_dist *tx_dist_retain(tx_dist *d) noexcept {
  if (d) d->refs.fetch_add(1);
  return d;
}

// Closing Gloo waits for what is under way. Where a process is gone, that would wait until the timeout: the group stays
// in memory instead, and ends with this process.
extern "C" void tx_dist_free(tx_dist *d) noexcept {
  if (!d || d->refs.fetch_sub(1) > 1) return;
  if (d->broken) (void)d->group.release();
  (void)tx::guard([&] { delete d; });
}

extern "C" void tx_dist_abandon(tx_dist *d) noexcept { d->broken = true; }

extern "C" int tx_dist_all_reduce(tx_dist *d, tx_tensor *t) noexcept {
  return tx::guard([&] {
    at::NoGradGuard none;
    tx::Running running("all_reduce");
    at::Tensor x = tx::tensor(t).detach(), sum = x.contiguous();
    all_sum(d, sum);
    if (!sum.is_same(x)) x.copy_(sum);
  });
}

extern "C" int tx_dist_broadcast(tx_dist *d, tx_tensor *t, int root) noexcept {
  return tx::guard([&] {
    at::NoGradGuard none;
    tx::Running running("broadcast");
    at::Tensor x = tx::tensor(t).detach();
    std::vector<at::Tensor> v{x.contiguous().clone()};
    c10d::BroadcastOptions o;
    o.rootRank = root;
    finish(d, d->group->broadcast(v, o));
    if (d->rank != root) x.copy_(v[0]);
  });
}

extern "C" int tx_dist_batch_norm(tx_tensor **out, tx_dist *d, const tx_value *args, int nargs) noexcept {
  return tx::guard([&] {
    tx::Running running("batch_norm over all processes");
    if (nargs < 8 || args[6].kind != TX_DOUBLE || args[7].kind != TX_DOUBLE)
      return tx::fail("sync_bn: this batch norm has no momentum or eps. Train without sync_bn");
    const at::Tensor x = tensor_of(args[0]), weight = tensor_of(args[1]), bias = tensor_of(args[2]);
    Moments m;
    {
      at::NoGradGuard none;
      m = moments(d, weight.defined() ? x.to(weight.scalar_type()) : x);
    }
    if (m.n < 2) return tx::fail("sync_bn: one value per channel has no variance. Use a larger batch");
    at::Tensor y = SyncNorm::apply(x, weight, bias, m, args[7].d, d);
    update_running(tensor_of(args[3]), tensor_of(args[4]), m, args[6].d);
    *out = tx::give(std::move(y));
    return static_cast<int>(TX_OK);
  });
}

// ---- gradients ---------------------------------------------------------------------------------------------------

extern "C" int tx_reducer_new(tx_reducer **out, tx_dist *d, tx_tensor *const *params, const char *const *names,
                              int n) noexcept {
  return tx::guard([&] {
    const int64_t first = 1 << 20, cap = 25 << 20;
    Params p;
    Names by_index;
    for (int i = 0; i < n; i++) p.push_back(tx::tensor(params[i])), by_index[size_t(i)] = names[i];
    auto assigned = c10d::compute_bucket_assignment_by_size(p, {size_t(first), size_t(cap)});
    Buckets buckets = std::get<0>(assigned);
    Sizes limits = std::get<1>(assigned);
    std::reverse(buckets.begin(), buckets.end());  // gradients come from the last layer on
    std::reverse(limits.begin(), limits.end());
    auto reducer = make<c10d::Reducer>(p, buckets, limits, d->group, cap, first, by_index);
    *out = new tx_reducer{reducer, tx_dist_retain(d)};
  });
}

extern "C" void tx_reducer_free(tx_reducer *r) noexcept {
  if (!r) return;
  tx_dist *d = r->dist;
  (void)tx::guard([&] { delete r; });
  tx_dist_free(d);
}

extern "C" int tx_reducer_prepare(tx_reducer *r, const tx_tensor *loss) noexcept {
  return tx::guard([&] {
    if (r->begun) r->reducer->rebuild_buckets();  // once, in the order in which the first pass gave gradients
    r->begun = true;
    r->reducer->prepare_for_forward();
    r->reducer->prepare_for_backward({tx::tensor(loss)});
  });
}

#endif
