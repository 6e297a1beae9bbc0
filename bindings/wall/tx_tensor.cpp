// tx_tensor.cpp: tensors for C, names of dtypes and devices, and the errors and flags that every tx_*.cpp
// shares.
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <mutex>
#include <new>
#include <set>
#include <string>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/function.h>
#include "tx_priv.hpp"

namespace tx {

std::atomic<int64_t> live_tensors{0};
static volatile sig_atomic_t no_interrupt = 0;
static const char *volatile no_slot = nullptr;
volatile sig_atomic_t *interrupt_flag = &no_interrupt;
const char *volatile *running_slot = &no_slot;

// ---- errors -------------------------------------------------------------------------------------------------------

// Fixed buffers: reporting an error must not allocate.
static thread_local char error_line[2048];
static thread_local char error_full[16384];
static thread_local const char *error_lead; // static text or null

static void copy(char *to, size_t room, const char *from, size_t n) noexcept {
  if (n >= room) n = room - 1;
  // not inside a UTF-8 letter
  while (n > 0 && n < strlen(from) && (static_cast<unsigned char>(from[n]) & 0xC0) == 0x80) n--;
  memcpy(to, from, n);
  to[n] = 0;
}

// The first line of the message that says something, without C++ trace, source positions and TorchScript's wrapping.
static void first_line(char *to, size_t room, const char *text) noexcept {
  const char *end = strstr(text, "\nException raised from");
  if (!end) end = strstr(text, "Exception raised from");
  if (!end) end = text + strlen(text);
  while (text < end && (*text == '\n' || *text == ' ')) text++;
  static const char *const prefixes[] = {"Error: ", "RuntimeError: "};
  for (const char *p : prefixes)
    if (strncmp(text, p, strlen(p)) == 0) text += strlen(p);
  const char *nl = static_cast<const char *>(memchr(text, '\n', end - text));
  size_t n = nl ? nl - text : end - text;
  while (n > 0 && (text[n - 1] == ' ' || text[n - 1] == '.' || text[n - 1] == ':')) n--;
  if (n == 0) text = "libtorch failed without a message", n = strlen(text);
  copy(to, room, text, n);
}

void set_error(int status, const char *text) noexcept {
  error_lead = nullptr;
  if (status == TX_INTERRUPTED) text = "interrupted";
  if (!text) text = "";
  copy(error_full, sizeof error_full, text, strlen(text));
  first_line(error_line, sizeof error_line, text);
}

void set_error_line(const char *line, const char *lead) noexcept {
  copy(error_line, sizeof error_line, line, strlen(line));
  error_lead = lead;
}

int fail(const char *fmt, ...) noexcept {
  va_list ap;
  error_lead = nullptr;
  va_start(ap, fmt);
  vsnprintf(error_line, sizeof error_line, fmt, ap);
  va_end(ap);
  copy(error_full, sizeof error_full, error_line, strlen(error_line));
  return TX_ERROR;
}

static bool says_out_of_memory(const char *text) noexcept {
  static const char *const signs[] = { "out of memory", "not enough memory", "Cannot allocate memory",
                                       "CUBLAS_STATUS_ALLOC_FAILED" };
  for (const char *s : signs)
    if (strstr(text, s)) return true;
  return false;
}

static int sorted(int status, const char *text) noexcept {
  if (status == TX_ERROR && says_out_of_memory(text)) status = TX_NOMEM;
  set_error(status, text);
  return status;
}

int caught() noexcept {
  try {
    throw;
  } catch (const Interrupted &) {
    return sorted(TX_INTERRUPTED, "interrupted");
  } catch (const c10::OutOfMemoryError &e) {
    return sorted(TX_NOMEM, e.what());
  } catch (const std::bad_alloc &) {
    return sorted(TX_NOMEM, "out of memory");
  } catch (const std::exception &e) {
    // Autograd's engine may rethrow an interrupt as another type: the flag decides.
    return sorted(interrupted() && strstr(e.what(), "interrupted") ? TX_INTERRUPTED : TX_ERROR, e.what());
  } catch (...) {
    return sorted(TX_ERROR, "an exception of unknown type");
  }
}

void refuse_tensor(const at::Tensor &t) {
  if (t.is_nested())
    throw std::invalid_argument(
      "a nested tensor has no sizes. Use tensors of one shape (padded), or a list of tensors");
  throw std::invalid_argument("a tensor of " + std::to_string(t.dim()) + " dimensions (expected at most "
                              + std::to_string(TX_MAX_DIMS) + ")");
}

// ---- warnings -----------------------------------------------------------------------------------------------------

// Prints each of libtorch's warnings once, in one line, without its C++ source.
static void tell_once(const char *text) {
  static std::mutex lock;
  static auto *told = new std::set<std::string>;
  char line[512];
  first_line(line, sizeof line, text);
  std::lock_guard<std::mutex> hold(lock);
  if (told->insert(line).second) fprintf(stderr, "medxai-run: warning: libtorch: %s\n", line);
}

struct Warnings : c10::WarningHandler {
#if TX_TORCH_2
  void process(const c10::Warning &w) override { tell_once(w.msg().c_str()); }
#else
  void process(const c10::SourceLocation &, const std::string &msg, const bool) override { tell_once(msg.c_str()); }
#endif
};

static void catch_warnings() noexcept {
  static auto *handler = new Warnings;
#if TX_TORCH_2
  c10::WarningUtils::set_warning_handler(handler);
#else
  c10::Warning::set_warning_handler(handler);
#endif
}

// ---- names --------------------------------------------------------------------------------------------------------

struct DtypeName {
  const char *name;
  at::ScalarType type;
};

// The first name of a type is the one that is printed; later ones are accepted.
static const DtypeName dtypes[] = {
    {"float32", at::kFloat},        {"float64", at::kDouble},       {"int64", at::kLong},
    {"bool", at::kBool},            {"uint8", at::kByte},           {"int32", at::kInt},
    {"float16", at::kHalf},         {"bfloat16", at::kBFloat16},    {"int16", at::kShort},
    {"int8", at::kChar},            {"complex64", at::kComplexFloat}, {"complex128", at::kComplexDouble},
    {"complex32", at::kComplexHalf},
#if TX_TORCH_2_3
    {"uint16", at::kUInt16},        {"uint32", at::kUInt32},        {"uint64", at::kUInt64},
#endif
    {"float", at::kFloat},          {"double", at::kDouble},        {"half", at::kHalf},
    {"long", at::kLong},            {"int", at::kInt},              {"short", at::kShort},
};

const char *dtype_name(at::ScalarType t) noexcept {
  for (const DtypeName &d : dtypes)
    if (d.type == t) return d.name;
  switch (t) {  // printed, never asked for: bad arguments to quantized operators crash
    case at::kQInt8: return "qint8";
    case at::kQUInt8: return "quint8";
    case at::kQInt32: return "qint32";
    default: return c10::toString(t);
  }
}

at::ScalarType dtype_of(const char *name) {
  if (strncmp(name, "torch.", 6) == 0) name += 6;
  for (const DtypeName &d : dtypes)
    if (strcmp(d.name, name) == 0) return d.type;
  throw std::invalid_argument(
    std::string("unknown dtype '") + name
    + "' (one of float32 float64 float16 bfloat16 int64 int32 int16 int8 uint8 bool complex64 complex128)");
}

at::MemoryFormat memory_format_of(const char *name) {
  if (strcmp(name, "contiguous") == 0 || strcmp(name, "contiguous_format") == 0) return at::MemoryFormat::Contiguous;
  if (strcmp(name, "preserve") == 0 || strcmp(name, "preserve_format") == 0) return at::MemoryFormat::Preserve;
  if (strcmp(name, "channels_last") == 0) return at::MemoryFormat::ChannelsLast;
  if (strcmp(name, "channels_last_3d") == 0) return at::MemoryFormat::ChannelsLast3d;
  throw std::invalid_argument(std::string("unknown memory format '") + name
                              + "' (one of contiguous preserve channels_last channels_last_3d)");
}

at::Layout layout_of(const char *name) {
  if (strcmp(name, "strided") == 0) return at::kStrided;
  if (strcmp(name, "sparse_coo") == 0) return at::kSparse;
  if (strcmp(name, "sparse_csr") == 0) return at::kSparseCsr;
  throw std::invalid_argument(std::string("unknown layout '") + name + "' (one of strided sparse_coo sparse_csr)");
}

static bool is_cuda_name(const char *name) noexcept {
  size_t n = strlen(name);
  return strcmp(name, "cuda") == 0
         || (strncmp(name, "cuda:", 5) == 0 && n > 5 && n < 9 && strspn(name + 5, "0123456789") == n - 5);
}

bool looks_like_device(const char *name) noexcept {
  return strcmp(name, "cpu") == 0 || is_cuda_name(name);
}

at::Device device_of(const char *name) {
  if (!looks_like_device(name))
    throw std::invalid_argument(std::string("unknown device '") + name + "' (one of cpu cuda cuda:0 cuda:1 ...)");
  if (is_cuda_name(name)) {
    const std::string why = why_no_cuda(name[4] ? atoi(name + 5) : 0);
    if (!why.empty()) throw std::invalid_argument(std::string("device '") + name + "' is not here: " + why);
  }
  return at::Device(std::string(name));
}

}  // namespace tx

// ---- errors, process ----------------------------------------------------------------------------------------------

const char *tx_error(void) noexcept { return tx::error_line; }
const char *tx_error_lead(void) noexcept { return tx::error_lead; }
const char *tx_error_full(void) noexcept { return tx::error_full; }

void tx_attach(volatile sig_atomic_t *interrupted, const char *volatile *running_op) noexcept {
  tx::guard([] { tx::catch_warnings(); });
  tx::interrupt_flag = interrupted ? interrupted : &tx::no_interrupt;
  tx::running_slot = running_op ? running_op : &tx::no_slot;
}

bool tx_interrupted(void) noexcept { return tx::interrupted(); }

// ---- tensors ------------------------------------------------------------------------------------------------------

void tx_tensor_free(tx_tensor *t) noexcept {
  if (!t) return;
  tx::live_tensors.fetch_sub(1, std::memory_order_relaxed);
  // its destructor gives the reference back
  c10::intrusive_ptr<c10::TensorImpl, c10::UndefinedTensorImpl>::reclaim(tx::impl(t));
}

tx_tensor *tx_tensor_ref(tx_tensor *t) noexcept {
  if (t) {
    tx::live_tensors.fetch_add(1, std::memory_order_relaxed);
    c10::raw::intrusive_ptr::incref(tx::impl(t));
  }
  return t;
}

// f's result, or `otherwise` if it throws; tx_error() stays unchanged.
template <class T, class F>
static T ask(T otherwise, F &&f) noexcept {
  try {
    return f();
  } catch (...) {
    return otherwise;
  }
}

int tx_tensor_dim(const tx_tensor *t) noexcept {
  return ask(0, [&] { return static_cast<int>(tx::impl(t)->dim()); });
}

static void fill(const tx_tensor *t, int64_t *to, at::IntArrayRef (*list)(const c10::TensorImpl *)) noexcept {
  const at::IntArrayRef v = ask(at::IntArrayRef(), [&] { return list(tx::impl(t)); });
  mx_assert(v.size() <= TX_MAX_DIMS);
  if (v.empty()) std::fill(to, to + tx_tensor_dim(t), 0);
  else std::copy(v.begin(), v.end(), to);
}

void tx_tensor_sizes(const tx_tensor *t, int64_t *sizes) noexcept {
  fill(t, sizes, [](const c10::TensorImpl *i) { return i->sizes(); });
}

void tx_tensor_strides(const tx_tensor *t, int64_t *strides) noexcept {
  fill(t, strides, [](const c10::TensorImpl *i) { return i->strides(); });
}

int64_t tx_tensor_numel(const tx_tensor *t) noexcept {
  return ask(int64_t(0), [&] { return tx::impl(t)->numel(); });
}

const char *tx_tensor_dtype(const tx_tensor *t) noexcept {
  return ask("undefined", [&] { return tx::dtype_name(c10::typeMetaToScalarType(tx::impl(t)->dtype())); });
}

int64_t tx_tensor_itemsize(const tx_tensor *t) noexcept {
  return ask(int64_t(0), [&] { return static_cast<int64_t>(tx::impl(t)->itemsize()); });
}

void tx_tensor_device(const tx_tensor *t, char buf[16]) noexcept {
  snprintf(buf, 16, "none");
  ask(0, [&] {
    c10::Device d = tx::impl(t)->device();
    if (d.is_cpu())
      snprintf(buf, 16, "cpu");
    else if (d.has_index())
      snprintf(buf, 16, "%.8s:%d", c10::DeviceTypeName(d.type(), true).c_str(), static_cast<int>(d.index()));
    else
      snprintf(buf, 16, "%.15s", c10::DeviceTypeName(d.type(), true).c_str());
    return 0;
  });
}

const char *tx_tensor_layout(const tx_tensor *t) noexcept {
  switch (ask(at::kStrided, [&] { return tx::impl(t)->layout(); })) {
    case at::kStrided: return "strided";
    case at::kSparse: return "sparse_coo";
    case at::kSparseCsr: return "sparse_csr";
    case at::kSparseCsc: return "sparse_csc";
    case at::kSparseBsr: return "sparse_bsr";
    case at::kSparseBsc: return "sparse_bsc";
    case at::kMkldnn: return "mkldnn";
    default: return "other";
  }
}

bool tx_tensor_is_contiguous(const tx_tensor *t, bool channels_last) noexcept {
  const auto format = channels_last ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous;
  return ask(false, [&] { return tx::impl(t)->is_contiguous(format); });
}

bool tx_tensor_requires_grad(const tx_tensor *t) noexcept {
  return ask(false, [&] { return tx::tensor(t).requires_grad(); });
}

bool tx_tensor_is_leaf(const tx_tensor *t) noexcept {
  return ask(true, [&] { return tx::tensor(t).is_leaf(); });
}

int tx_tensor_set_requires_grad(tx_tensor *t, bool on) noexcept {
  return tx::guard([&] {
    at::Tensor x = tx::tensor(t);
    if (on && !at::isFloatingType(x.scalar_type()) && !at::isComplexType(x.scalar_type()))
      return tx::fail("only floating-point tensors can require gradients (this one is %s)", tx_tensor_dtype(t));
    if (!on && !x.is_leaf())
      return tx::fail("requires_grad of a tensor that was computed cannot be switched off. Use t:detach()");
    x.set_requires_grad(on);
    return static_cast<int>(TX_OK);
  });
}

int tx_tensor_grad(tx_tensor **out, const tx_tensor *t) noexcept {
  return tx::guard([&] {
    at::Tensor g;
    {
      at::Tensor x = tx::tensor(t);
      if (x.is_leaf() || x.retains_grad()) g = x.grad();  // asking others makes libtorch print a warning
    }
    *out = tx::give(std::move(g));
  });
}

int tx_tensor_set_grad(tx_tensor *t, const tx_tensor *g) noexcept {
  return tx::guard([&] {
    at::Tensor x = tx::tensor(t), grad = tx::tensor(g);
    if (g) {
      if (!x.sizes().equals(grad.sizes())) return tx::fail("grad: its shape differs from the tensor's");
      if (x.scalar_type() != grad.scalar_type())
        return tx::fail("grad: expected %s, got %s", tx_tensor_dtype(t), tx_tensor_dtype(g));
      if (x.device() != grad.device()) return tx::fail("grad: it is on another device than the tensor");
      if (x.is_same(grad)) return tx::fail("grad: a tensor cannot be its own gradient");
    }
    x.mutable_grad() = std::move(grad);
    return static_cast<int>(TX_OK);
  });
}

const char *tx_tensor_grad_fn(const tx_tensor *t) noexcept {
  static thread_local char name[96];
  return ask(static_cast<const char *>(nullptr), [&]() -> const char * {
    at::Tensor x = tx::tensor(t);
    const auto &fn = x.grad_fn();
    if (!fn) return nullptr;
    snprintf(name, sizeof name, "%s", fn->name().c_str());
    return name;
  });
}

uint64_t tx_tensor_version(const tx_tensor *t) noexcept {
  return ask(uint64_t(0), [&] { return uint64_t(tx::impl(t)->version_counter().current_version()); });
}

// Whether the tensor's memory holds its values.
static bool is_plain(const at::Tensor &x) {
  return x.layout() == at::kStrided && !x.is_conj() && !x.is_neg() && !x._is_zerotensor();
}

void *tx_tensor_data(const tx_tensor *t) noexcept {
  return ask(static_cast<void *>(nullptr), [&] {
    const at::Tensor x = tx::tensor(t);
    const bool readable = x.device().is_cpu() && is_plain(x) && x.has_storage();
    return readable ? const_cast<void *>(x.data_ptr()) : nullptr;
  });
}

int tx_tensor_resolved(tx_tensor **out, const tx_tensor *t) noexcept {
  return tx::guard([&] {
    at::NoGradGuard no_grad;
    at::Tensor x = tx::tensor(t);
    *out = tx::give(x.layout() != at::kStrided || is_plain(x) ? x : x.clone());
  });
}

bool tx_tensor_same(const tx_tensor *a, const tx_tensor *b) noexcept { return a == b; }

// Bytes of a contiguous tensor of these sizes; throws when there is none of them.
static int64_t bytes_of(at::IntArrayRef sizes, size_t itemsize) {
  int64_t n = static_cast<int64_t>(itemsize);
  bool empty = false;
  for (int64_t s : sizes) {
    if (s < 0) throw std::invalid_argument("a size of " + std::to_string(s) + " is negative");
    empty = empty || s == 0;
  }
  if (empty) return 0;
  for (int64_t s : sizes)
    if (__builtin_mul_overflow(n, s, &n)) throw std::invalid_argument("the tensor is larger than the address space");
  return n;
}

int tx_tensor_new(tx_tensor **out, const char *dtype, int dim, const int64_t *sizes, const void *data,
                  size_t nbytes) noexcept {
  return tx::guard([&] {
    if (dim < 0 || dim > TX_MAX_DIMS) return tx::fail("%d dimensions (at most %d)", dim, TX_MAX_DIMS);
    at::ScalarType type = tx::dtype_of(dtype);
    at::IntArrayRef shape(sizes, static_cast<size_t>(dim));
    int64_t want = bytes_of(shape, c10::elementSize(type));
    if (data && nbytes != static_cast<size_t>(want))
      return tx::fail("%zu bytes of data for a tensor of %lld bytes", nbytes, static_cast<long long>(want));
    at::Tensor t = at::empty(shape, at::TensorOptions().dtype(type).device(at::kCPU));
    if (data && want) memcpy(t.data_ptr(), data, static_cast<size_t>(want));
    *out = tx::give(std::move(t));
    return static_cast<int>(TX_OK);
  });
}

int tx_tensor_item(double *d, int64_t *i, bool *is_int, const tx_tensor *t) noexcept {
  return tx::guard([&] {
    if (tx_tensor_numel(t) != 1)
      return tx::fail("a tensor of %lld elements is not one number", static_cast<long long>(tx_tensor_numel(t)));
    at::Scalar s = tx::tensor(t).item();
    if (s.isComplex()) return tx::fail("a complex tensor is not one number. Use torch.view_as_real");
    *is_int = s.isIntegral(true);
    *i = s.isBoolean() ? s.toBool() : *is_int ? s.toLong() : 0;
    *d = *is_int ? static_cast<double>(*i) : s.toDouble();
    return static_cast<int>(TX_OK);
  });
}

int tx_tensor_to(tx_tensor **out, const tx_tensor *t, const char *device, const char *dtype, bool channels_last,
                 bool copy) noexcept {
  return tx::guard([&] {
    at::Tensor x = tx::tensor(t);
    at::TensorOptions o = x.options();
    if (device) o = o.device(tx::device_of(device));
    if (dtype) o = o.dtype(tx::dtype_of(dtype));
    auto format = channels_last && x.dim() == 4 ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Preserve;
    *out = tx::give(x.to(o, /*non_blocking=*/false, copy, format));
  });
}

