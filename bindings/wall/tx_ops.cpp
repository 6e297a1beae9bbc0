// tx_ops.cpp: every operator of libtorch by its schema. An operator's overloads are looked up once in the dispatcher,
// read into tx_arg, and called boxed over a stack that is kept between calls.
// Overloads with argument types that Lua has no value for (dimension names, storages, streams) are left out.
#include <ATen/core/enum_tag.h>
#include <ATen/core/jit_type.h>
#include <cmath>
#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>
#include "tx_ops.hpp"

namespace {

// ---- schema -------------------------------------------------------------------------------------------------------

tx_kind element_kind(const c10::Type &t) {
  switch (t.kind()) {
    case c10::TypeKind::TensorType: return TX_TENSORS;
    case c10::TypeKind::OptionalType:
      return t.containedType(0)->kind() == c10::TypeKind::TensorType ? TX_OPT_TENSORS : TX_OTHER;
    case c10::TypeKind::IntType:
    case c10::TypeKind::SymIntType: return TX_INTS;
    case c10::TypeKind::FloatType: return TX_DOUBLES;
    case c10::TypeKind::BoolType: return TX_BOOLS;
    case c10::TypeKind::NumberType: return TX_SCALARS;
    default: return TX_OTHER;
  }
}

tx_kind kind_of(const c10::Type &t) {
  switch (t.kind()) {
    case c10::TypeKind::TensorType: return TX_TENSOR;
    case c10::TypeKind::IntType:
    case c10::TypeKind::SymIntType: return TX_INT;
    case c10::TypeKind::FloatType: return TX_DOUBLE;
    case c10::TypeKind::BoolType: return TX_BOOL;
    case c10::TypeKind::StringType: return TX_STRING;
    case c10::TypeKind::NumberType: return TX_SCALAR;
    case c10::TypeKind::ScalarTypeType: return TX_DTYPE;
    case c10::TypeKind::LayoutType: return TX_LAYOUT;
    case c10::TypeKind::MemoryFormatType: return TX_MEMORY_FORMAT;
    case c10::TypeKind::DeviceObjType: return TX_DEVICE;
    case c10::TypeKind::GeneratorType: return TX_GENERATOR;
    case c10::TypeKind::NoneType: return TX_NONE;
    case c10::TypeKind::ListType: return element_kind(*t.containedType(0));
    case c10::TypeKind::OptionalType: return kind_of(*t.containedType(0));
    default: return TX_OTHER;
  }
}

const char *type_text(tx_kind k) {
  static const char *const names[] = { "None",     "Tensor",    "int",      "float",   "bool",
                                       "str",      "Scalar",    "dtype",    "layout",  "memory_format",
                                       "device",   "Generator", "int[]",    "float[]", "bool[]",
                                       "Tensor[]", "Tensor?[]", "Scalar[]", "?" };
  return names[k];
}

void read_argument(tx_op &op, const c10::Argument &a) {
  tx_arg x = {};
  const c10::Type &t = *a.real_type();
  x.kind = kind_of(t);
  x.optional = t.kind() == c10::TypeKind::OptionalType || x.kind == TX_NONE;
  x.has_default = a.default_value().has_value();
  x.kwarg_only = a.kwarg_only();
  x.is_out = a.kwarg_only() && a.alias_info() && a.alias_info()->isWrite();
  x.fixed = a.N() ? static_cast<int>(*a.N()) : 0;
  std::string text = x.kind == TX_OTHER ? t.annotation_str() : type_text(x.kind);
  if (x.fixed) text.insert(text.size() - 1, std::to_string(x.fixed));
  if (x.optional) text += "?";
  op.types.push_back(std::move(text));
  op.args.push_back(x);
  op.defaults.push_back(x.has_default ? *a.default_value() : c10::IValue());
  op.complete = op.complete && (x.kind != TX_OTHER || x.has_default);
  op.has_out = op.has_out || x.is_out;
}

bool is_name(const tx_arg &a, std::initializer_list<const char *> names) {
  return std::any_of(names.begin(), names.end(), [&](const char *n) { return strcmp(a.name, n) == 0; });
}

// Side effects of a call.
void read_effects(tx_op &op) {
  const c10::FunctionSchema &s = op.handle.schema();
  const bool in_place = op.name.back() == '_' && op.name[0] != '_';
  op.mutates = in_place || op.writes || op.has_out || s.is_mutable();
  op.draws = op.handle.hasTag(at::Tag::nondeterministic_seeded);
  const bool backward = op.name.find("_backward") != std::string::npos;  // reads the statistics
  for (size_t i = 0; i < op.args.size(); i++) {
    const tx_arg &a = op.args[i];
    op.draws = op.draws || a.kind == TX_GENERATOR || strstr(a.name, "dropout");
    if (backward) continue;
    if (is_name(a, {"running_mean"})) op.running[0] = static_cast<int>(i);
    if (is_name(a, {"running_var"})) op.running[1] = static_cast<int>(i);
    if (is_name(a, {"training", "train", "use_input_stats"})) op.training = static_cast<int>(i);
  }
}

std::unique_ptr<tx_op> read_operator(c10::OperatorHandle handle) {
  auto op = std::make_unique<tx_op>(std::move(handle));
  const c10::FunctionSchema &s = op->handle.schema();
  op->name = s.name().rfind("aten::", 0) == 0 ? s.name().substr(6) : s.name();
  op->overload = s.overload_name();
  op->guarded = tx::is_guarded(op->name);
  op->schema = c10::toString(s);
  for (size_t at; (at = op->schema.find("SymInt")) != std::string::npos;) op->schema.replace(at, 6, "int");
  for (const c10::Argument &a : s.arguments()) read_argument(*op, a);
  for (size_t i = 0; i < op->args.size(); i++) {
    op->args[i].name = s.arguments()[i].name().c_str();  // the schema lives as long as the process
    op->args[i].type = op->types[i].c_str();
  }
  for (const c10::Argument &r : s.returns()) {
    op->results.push_back(kind_of(*r.real_type()));
    op->complete = op->complete && op->results.back() != TX_OTHER;
    op->writes = op->writes || (r.alias_info() && r.alias_info()->isWrite());
  }
  op->complete = op->complete && !s.is_vararg() && !s.is_varret();
  read_effects(*op);
  return op;
}

// Overloads with tensors come before those with numbers in the same place; of two that begin alike the shorter comes
// first.
int rank(const tx_arg &a) {
  switch (a.kind) {
    case TX_TENSOR: return 0;
    case TX_TENSORS: return 1;
    case TX_OPT_TENSORS: return 2;
    case TX_BOOL: return 3;
    case TX_INT: return 4;
    case TX_SCALAR: return 5;
    case TX_DOUBLE: return 6;
    case TX_INTS: return 7;
    default: return 8;
  }
}

bool tried_before(const std::unique_ptr<tx_op> &a, const std::unique_ptr<tx_op> &b) {
  if (a->has_out != b->has_out) return b->has_out;
  for (size_t i = 0; i < a->args.size() && i < b->args.size(); i++) {
    const tx_arg &x = a->args[i], &y = b->args[i];
    if (x.kwarg_only != y.kwarg_only) return x.kwarg_only;
    if (rank(x) != rank(y)) return rank(x) < rank(y);
  }
  if (a->args.size() != b->args.size()) return a->args.size() < b->args.size();
  return a->overload < b->overload;
}

// ---- look-up ------------------------------------------------------------------------------------------------------

using Family = std::vector<std::unique_ptr<tx_op>>;

// "aten::add" -> its overloads' names; made at the first look-up and again when a library registered more.
std::unordered_map<std::string, std::vector<std::string>> &names_index() {
  static auto *index = [] {
    auto *m = new std::unordered_map<std::string, std::vector<std::string>>;
    for (const c10::OperatorName &n : c10::Dispatcher::singleton().getAllOpNames())
      (*m)[n.name].push_back(n.overload_name);
    return m;
  }();
  return *index;
}

// Cached for the life of the process. Used under Lua's single thread; the graph looks up when it is built.
const Family &family(const char *name) {
  static auto *cache = new std::unordered_map<std::string, Family>;
  auto found = cache->find(name);
  if (found != cache->end()) return found->second;
  std::string full = strstr(name, "::") ? name : std::string("aten::") + name;
  Family ops;
  auto overloads = names_index().find(full);
  if (overloads != names_index().end())
    for (const std::string &o : overloads->second) {
      auto handle = c10::Dispatcher::singleton().findSchema({full, o});
      if (!handle) continue;
      auto op = read_operator(*handle);
      if (op->complete) ops.push_back(std::move(op));
    }
  std::sort(ops.begin(), ops.end(), tried_before);
  return (*cache)[name] = std::move(ops);
}

// ---- values in ----------------------------------------------------------------------------------------------------

[[noreturn]] void mismatch(const tx_arg &a, const char *got) {
  throw std::invalid_argument(std::string("argument '") + a.name + "' (expected " + a.type + ", got " + got + ")");
}

c10::IValue from_list(const tx_arg &a, const tx_value &v) {
  size_t n = static_cast<size_t>(v.n);
  switch (v.kind) {
    case TX_INTS: return c10::IValue(at::IntArrayRef(v.is, n));
    case TX_DOUBLES: return c10::IValue(at::ArrayRef<double>(v.ds, n));
    case TX_BOOLS: {
      c10::List<bool> l;
      for (size_t i = 0; i < n; i++) l.push_back(v.bs[i]);
      return c10::IValue(std::move(l));
    }
    case TX_TENSORS:
    case TX_OPT_TENSORS: {
      if (a.kind == TX_OPT_TENSORS) {
        c10::List<tx::optional<at::Tensor>> l;
        for (size_t i = 0; i < n; i++)
          l.push_back(v.ts[i] ? tx::optional<at::Tensor>(tx::tensor(v.ts[i])) : tx::optional<at::Tensor>());
        return c10::IValue(std::move(l));
      }
      c10::List<at::Tensor> l;
      l.reserve(n);
      for (size_t i = 0; i < n; i++) {
        if (!v.ts[i]) mismatch(a, "None in the list");
        l.push_back(tx::tensor(v.ts[i]));
      }
      return c10::IValue(std::move(l));
    }
    case TX_SCALARS: {
      c10::impl::GenericList l(c10::NumberType::get());
      for (size_t i = 0; i < n; i++) {
        const tx_value &e = v.vs[i];
        if (e.kind == TX_INT) l.push_back(c10::IValue(e.i));
        else if (e.kind == TX_DOUBLE) l.push_back(c10::IValue(e.d));
        else if (e.kind == TX_BOOL) l.push_back(c10::IValue(e.b));
        else mismatch(a, type_text(e.kind));
      }
      return c10::IValue(std::move(l));
    }
    default: mismatch(a, type_text(v.kind));
  }
}

bool fits(tx_kind want, tx_kind have) {
  if (want == have) return true;
  switch (want) {
    case TX_SCALAR: return have == TX_INT || have == TX_DOUBLE || have == TX_BOOL;
    case TX_DOUBLE: return have == TX_INT;
    case TX_INTS: return have == TX_INT;
    case TX_DOUBLES: return have == TX_DOUBLE || have == TX_INT;
    case TX_DTYPE:
    case TX_LAYOUT:
    case TX_MEMORY_FORMAT:
    case TX_DEVICE: return have == TX_STRING;
    case TX_OPT_TENSORS: return have == TX_TENSORS;
    default: return false;
  }
}

c10::IValue from_string(const tx_arg &a, const char *s) {
  switch (a.kind) {
    case TX_DTYPE: return c10::IValue(static_cast<int64_t>(tx::dtype_of(s)));
    case TX_LAYOUT: return c10::IValue(static_cast<int64_t>(tx::layout_of(s)));
    case TX_MEMORY_FORMAT: return c10::IValue(static_cast<int64_t>(tx::memory_format_of(s)));
    case TX_DEVICE: return c10::IValue(tx::device_of(s));
    default: return c10::IValue(std::string(s));
  }
}

// One number where a list is wanted: int[2] takes 3 as {3, 3}.
c10::IValue repeated(const tx_arg &a, const tx_value &v) {
  if (!a.fixed) mismatch(a, type_text(v.kind));
  size_t n = static_cast<size_t>(a.fixed);
  if (a.kind == TX_INTS) return c10::IValue(std::vector<int64_t>(n, v.i));
  return c10::IValue(std::vector<double>(n, v.kind == TX_INT ? static_cast<double>(v.i) : v.d));
}

c10::IValue to_ivalue(const tx_arg &a, const tx_value &v) {
  if (v.kind == TX_TENSOR && a.kind == TX_TENSOR && v.t) return c10::IValue(tx::tensor(v.t));
  if (v.kind == TX_NONE || (v.kind == TX_TENSOR && !v.t)) {
    if (!a.optional) mismatch(a, "None");
    return c10::IValue();
  }
  if (!fits(a.kind, v.kind)) mismatch(a, type_text(v.kind));
  switch (v.kind) {
    case TX_INT:
      if (a.kind == TX_INTS || a.kind == TX_DOUBLES) return repeated(a, v);
      return a.kind == TX_DOUBLE ? c10::IValue(static_cast<double>(v.i)) : c10::IValue(v.i);
    case TX_DOUBLE: return a.kind == TX_DOUBLES ? repeated(a, v) : c10::IValue(v.d);
    case TX_BOOL: return c10::IValue(v.b);
    case TX_STRING: return from_string(a, v.s);
    case TX_GENERATOR: return c10::IValue(v.g->g);
    default: return from_list(a, v);
  }
}

// ---- values out ---------------------------------------------------------------------------------------------------

template <class T>
T *allocate(size_t n) {
  T *p = static_cast<T *>(calloc(n ? n : 1, sizeof(T)));
  if (!p) throw std::bad_alloc();
  return p;
}

void number_out(tx_value &v, const c10::IValue &x) {
  if (x.isInt() || x.isSymInt()) {
    v.i = x.isInt() ? x.toInt() : tx::int_of(x);
    v.kind = TX_INT;
  } else if (x.isDouble()) {
    v.d = x.toDouble();
    v.kind = TX_DOUBLE;
  } else if (x.isBool()) {
    v.b = x.toBool();
    v.kind = TX_BOOL;
  } else {
    throw std::invalid_argument("the result is a complex number, which Lua has not. Use torch.view_as_real");
  }
}

void list_out(tx_value &v, c10::IValue &x) {
  if (x.isTensorList() || x.isList()) {
    c10::List<c10::IValue> l = x.toList();
    size_t n = l.size();
    bool tensors = true;
    for (size_t i = 0; i < n; i++) tensors = tensors && (l.get(i).isTensor() || l.get(i).isNone());
    if (!tensors || (n == 0 && !x.isTensorList()))
      throw std::invalid_argument("the result is a list of a type that Lua has not");
    v.ts = allocate<tx_tensor *>(n);
    v.kind = TX_TENSORS;
    v.n = static_cast<int64_t>(n);
    for (size_t i = 0; i < n; i++) {
      c10::IValue e = l.get(i);
      v.ts[i] = e.isNone() ? nullptr : tx::give(std::move(e).toTensor());
    }
  }
}

template <class T>
void numbers_out(tx_value &v, tx_kind kind, const std::vector<T> &from) {
  T *p = allocate<T>(from.size());
  std::copy(from.begin(), from.end(), p);
  v.n = static_cast<int64_t>(from.size());
  if constexpr (std::is_same_v<T, double>) v.ds = p;
  else v.is = p;
  v.kind = kind;
}

// s lives until the next string result on this thread
void string_out(tx_value &v, std::string s) {
  static thread_local std::string kept;
  kept = std::move(s);
  v.s = kept.c_str();
  v.kind = TX_STRING;
}

void value_out(tx_value &v, tx_kind declared, c10::IValue &&x) {
  v.kind = TX_NONE;
  if (x.isTensor()) {
    v.t = tx::give(std::move(x).toTensor());
    v.kind = v.t ? TX_TENSOR : TX_NONE;
  } else if (x.isNone()) {
    return;
  } else if (declared == TX_DTYPE && x.isInt()) {
    string_out(v, tx::dtype_name(static_cast<at::ScalarType>(x.toInt())));
  } else if (x.isString()) {
    string_out(v, x.toStringRef());
  } else if (x.isDevice()) {
    string_out(v, x.toDevice().str());
  } else if (x.isIntList()) {
    numbers_out(v, TX_INTS, x.toIntVector());
  } else if (x.isDoubleList()) {
    numbers_out(v, TX_DOUBLES, x.toDoubleVector());
  } else if (x.isBoolList()) {
    c10::List<bool> l = x.toBoolList();
    bool *p = allocate<bool>(l.size());
    for (size_t i = 0; i < l.size(); i++) p[i] = l.get(i);
    v.bs = p, v.n = static_cast<int64_t>(l.size()), v.kind = TX_BOOLS;
  } else if (x.isList()) {
    list_out(v, x);
  } else {
    number_out(v, x);
  }
}

// The stack of the last call, kept for its memory. A call takes it away, so a call inside a call finds an empty one.
thread_local std::vector<c10::IValue> spare_stack;

// Lists of integers on which libtorch 1.13 crashes: int[2] with none or three, sizes that overflow when multiplied.
// Returns the list to pass: one number for int[N] counts N times.
c10::IValue checked_ints(const tx_op &op, size_t i, const tx_value &v) {
  const tx_arg &a = op.args[i];
  if (a.fixed > 1 && v.n != a.fixed) {
    const bool empty_default =
      v.n == 0 && a.has_default && op.defaults[i].isIntList() && op.defaults[i].toIntVector().empty();
    if (v.n == 1) return c10::IValue(std::vector<int64_t>(static_cast<size_t>(a.fixed), v.is[0]));
    if (!empty_default)
      throw std::invalid_argument(std::string("argument '") + a.name + "' (expected " + std::to_string(a.fixed)
                                  + " integers, got " + std::to_string(v.n) + ")");
  }
  if (strstr(a.name, "size") && strncmp(a.name, "split", 5) != 0) {
    if (v.n > TX_MAX_DIMS)
      throw std::invalid_argument(std::string("argument '") + a.name + "' (expected at most "
                                  + std::to_string(TX_MAX_DIMS) + " dimensions, got " + std::to_string(v.n) + ")");
    int64_t elements = 1;
    for (int64_t k = 0; k < v.n; k++) {
      if (v.is[k] > 1 && __builtin_mul_overflow(elements, v.is[k], &elements)) elements = INT64_MAX;
      if (v.is[k] < INT32_MIN || elements > (int64_t(1) << 52))
        throw std::invalid_argument(std::string("argument '") + a.name + "' names a tensor that no machine can hold");
    }
  }
  return from_list(a, v);
}

void push_arguments(std::vector<c10::IValue> &stack, const tx_op &op, const tx_value *args, int nargs) {
  int n = static_cast<int>(op.args.size());
  if (nargs > n)
    throw std::invalid_argument("too many arguments (" + std::to_string(nargs) + " for " + op.schema + ")");
  for (int i = 0; i < n; i++) {
    if (i < nargs && args[i].kind != TX_DEFAULT) {
      const bool ints = op.args[i].kind == TX_INTS && args[i].kind == TX_INTS;
      stack.push_back(ints ? checked_ints(op, static_cast<size_t>(i), args[i]) : to_ivalue(op.args[i], args[i]));
    } else {
      if (!op.args[i].has_default && !op.args[i].optional)
        throw std::invalid_argument(std::string("argument '") + op.args[i].name + "' is missing (" + op.schema + ")");
      stack.push_back(op.defaults[i]);
    }
  }
}

void take_results(tx_value *results, const tx_op &op, std::vector<c10::IValue> &stack) {
  size_t n = op.results.size(), done = 0;
  if (stack.size() != n)
    throw std::runtime_error("the operator left " + std::to_string(stack.size()) + " results, its schema says "
                             + std::to_string(n));
  try {
    for (; done < n; done++) value_out(results[done], op.results[done], std::move(stack[done]));
  } catch (...) {
    for (size_t i = 0; i <= done && i < n; i++) tx_value_free(&results[i]);
    throw;
  }
}

// libtorch sets an output's sizes before it allocates its memory: after a failure the tensor would reach beyond its
// storage. Such a tensor is made empty, and so is an output with more than TX_MAX_DIMS dimensions.
void mend(const tx_value *args, int nargs) noexcept {
  for (int i = 0; i < nargs; i++) {
    if (args[i].kind != TX_TENSOR || !args[i].t) continue;
    c10::TensorImpl *t = tx::impl(args[i].t);
    try {
      if (t->layout() != at::kStrided || !t->has_storage() || t->numel() == 0) continue;
      int64_t last = t->storage_offset();
      bool beyond = false;
      for (int64_t d = 0; d < t->dim(); d++) {
        int64_t step;
        beyond = beyond || __builtin_mul_overflow(t->sizes()[d] - 1, t->strides()[d], &step)
                 || __builtin_add_overflow(last, step, &last);
      }
      const int64_t have = static_cast<int64_t>(t->storage().nbytes() / t->itemsize());
      if (beyond || last >= have || t->dim() > TX_MAX_DIMS) t->set_sizes_contiguous({0});
    } catch (...) {
      continue;
    }
  }
}

}  // namespace

// ---- for C --------------------------------------------------------------------------------------------------------

int tx_op_overloads(const char *name, const tx_op **ops, int room) noexcept {
  int n = 0;
  tx::guard([&] {
    for (const auto &op : family(name)) {
      if (n < room) ops[n] = op.get();
      n++;
    }
  });
  return n;
}

const tx_op *tx_op_find(const char *name, const char *overload) noexcept {
  const tx_op *found = nullptr;
  tx::guard([&] {
    for (const auto &op : family(name))
      if (op->overload == overload) found = op.get();
  });
  return found;
}

const char *tx_op_schema(const tx_op *op) noexcept { return op->schema.c_str(); }
const char *tx_op_name(const tx_op *op) noexcept { return op->name.c_str(); }
const char *tx_op_overload(const tx_op *op) noexcept { return op->overload.c_str(); }
int tx_op_nargs(const tx_op *op) noexcept { return static_cast<int>(op->args.size()); }
const tx_arg *tx_op_arg(const tx_op *op, int i) noexcept { return &op->args[static_cast<size_t>(i)]; }
const tx_arg *tx_op_args(const tx_op *op) noexcept { return op->args.data(); }
int tx_op_nresults(const tx_op *op) noexcept { return static_cast<int>(op->results.size()); }
tx_kind tx_op_result(const tx_op *op, int i) noexcept { return op->results[static_cast<size_t>(i)]; }
bool tx_op_writes(const tx_op *op) noexcept { return op->writes; }
bool tx_op_has_out(const tx_op *op) noexcept { return op->has_out; }

bool tx_name_fits(tx_kind kind, const char *name) noexcept {
  try {
    switch (kind) {
      case TX_DTYPE: tx::dtype_of(name); return true;
      case TX_LAYOUT: tx::layout_of(name); return true;
      case TX_MEMORY_FORMAT: tx::memory_format_of(name); return true;
      case TX_DEVICE: return tx::looks_like_device(name);
      default: return false;
    }
  } catch (...) {
    return false;
  }
}

int tx_op_names(const char **names, int room) noexcept {
  int n = 0;
  tx::guard([&] {
    static auto *sorted = [] {
      auto *m = new std::map<std::string, int>;
      for (const auto &entry : names_index())
        if (entry.first.rfind("aten::", 0) == 0) (*m)[entry.first.substr(6)];
      return m;
    }();
    for (const auto &entry : *sorted) {
      if (n < room) names[n] = entry.first.c_str();
      n++;
    }
  });
  return n;
}

int tx_op_call(tx_value *results, const tx_op *op, const tx_value *args, int nargs) noexcept {
  tx::Rewind before;
  bool begun = false;
  int status = tx::guard([&] {
    tx::check_interrupt();
    tx::Running running(op->name.c_str());
    std::vector<c10::IValue> stack = std::move(spare_stack);
    stack.clear();
    push_arguments(stack, *op, args, nargs);
    if (op->guarded) tx::guard_arguments(*op, stack);
    if (!op->mutates && (op->draws || op->running[0] >= 0)) before.remember(*op, stack);
    begun = true;
    op->handle.callBoxed(stack);
    take_results(results, *op, stack);
    stack.clear();
    spare_stack = std::move(stack);
  });
  if (status == TX_NOMEM && begun && (op->mutates || !before.take_back())) status = TX_NOMEM_CHANGED;
  if (status != TX_OK) mend(args, nargs);
  if (status == TX_ERROR) tx::reword(*op, args, nargs);
  return status;
}

void tx_value_free(tx_value *v) noexcept {
  if (!v) return;
  switch (v->kind) {
    case TX_TENSOR: tx_tensor_free(v->t); break;
    case TX_TENSORS:
    case TX_OPT_TENSORS:
      for (int64_t i = 0; i < v->n; i++) tx_tensor_free(v->ts[i]);
      free(v->ts);
      break;
    case TX_INTS: free(const_cast<int64_t *>(v->is)); break;
    case TX_DOUBLES: free(const_cast<double *>(v->ds)); break;
    case TX_BOOLS: free(const_cast<bool *>(v->bs)); break;
    default: break;
  }
  v->kind = TX_NONE;
}
