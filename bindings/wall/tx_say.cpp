// tx_say.cpp: rewords libtorch's error messages. A known message is written anew from the call's arguments ("shapes
// 32x25088 and 4096x512 do not fit (25088 is not 4096)"); any other is passed on without the operator's name in front.
// A rule that does not find what it expects leaves the message as it was.
#include <cctype>
#include <cstdio>
#include <cstring>
#include <string>
#include "tx_ops.hpp"

namespace {

using Text = std::string;

// ---- what the call was made of ------------------------------------------------------------------------------------

struct Call {
  const tx_op &op;
  const tx_value *args;
  int nargs;

  const tx_value *value(const char *name) const {
    for (int i = 0; i < nargs && i < static_cast<int>(op.args.size()); i++)
      if (strcmp(op.args[static_cast<size_t>(i)].name, name) == 0) return &args[i];
    return nullptr;
  }
  const tx_tensor *tensor(const char *name) const {
    const tx_value *v = value(name);
    return v && v->kind == TX_TENSOR ? v->t : nullptr;
  }
  // the n-th tensor that was passed, from 0
  const tx_tensor *nth(int n, const char **name = nullptr) const {
    for (int i = 0; i < nargs && i < static_cast<int>(op.args.size()); i++)
      if (args[i].kind == TX_TENSOR && args[i].t && n-- == 0) {
        if (name) *name = op.args[static_cast<size_t>(i)].name;
        return args[i].t;
      }
    return nullptr;
  }
};

Text number(int64_t n) { return std::to_string(n); }

Text shape_text(at::IntArrayRef s) {
  if (s.empty()) return "()";
  Text out;
  for (size_t i = 0; i < s.size(); i++) {
    if (i) out += 'x';
    out += number(s[i]);
  }
  return out;
}
Text shape_text(const tx_tensor *t) { return shape_text(tx::impl(t)->sizes()); }

// "[2, 3]" or "(2 x 3)" as "2x3"
Text list_text(const char *from, const char *end) {
  Text out;
  for (const char *p = from; p < end; p++) {
    if (isdigit(static_cast<unsigned char>(*p)) || *p == '-') out += *p;
    else if ((*p == ',' || *p == 'x') && !out.empty()) out += 'x';
  }
  return out.empty() ? "()" : out;
}

// The bracketed list behind the n-th opening bracket of the line, from 0.
bool bracket(const Text &line, int n, char open, char close, Text &out) {
  size_t at = line.find(open);
  while (at != Text::npos && n-- > 0) at = line.find(open, at + 1);
  if (at == Text::npos) return false;
  size_t end = line.find(close, at);
  if (end == Text::npos) return false;
  out = list_text(line.c_str() + at + 1, line.c_str() + end);
  return true;
}

bool has(const Text &line, const char *part) { return line.find(part) != Text::npos; }

// ---- products of matrices -----------------------------------------------------------------------------------------

struct Product {
  const char *op, *left, *right;
  bool transposed;  // right is (out, in)
};

const Product products[] = {
    {"matmul", "self", "other", false},   {"mm", "self", "mat2", false},        {"bmm", "self", "mat2", false},
    {"linear", "input", "weight", true},  {"addmm", "mat1", "mat2", false},     {"addmm_", "mat1", "mat2", false},
    {"mv", "self", "vec", false},         {"dot", "self", "tensor", false},     {"vdot", "self", "other", false},
    {"baddbmm", "batch1", "batch2", false}, {"addbmm", "batch1", "batch2", false}, {"addmv", "mat", "vec", false},
};

bool product(const Call &c, Text &line) {
  for (const Product &p : products) {
    if (c.op.name != p.op) continue;
    const tx_tensor *a = c.tensor(p.left), *b = c.tensor(p.right);
    if (!a || !b || tx_tensor_dim(a) == 0 || tx_tensor_dim(b) == 0) return false;
    if (strstr(p.op, "mm") && (tx_tensor_dim(a) < 2 || tx_tensor_dim(b) < 2)) return false;
    at::IntArrayRef x = tx::impl(a)->sizes();
    std::vector<int64_t> y = tx::impl(b)->sizes().vec();
    if (p.transposed && y.size() == 2) std::swap(y[0], y[1]);
    int64_t inner = y.size() == 1 ? y[0] : y[y.size() - 2];
    Text shapes = "shapes " + shape_text(x) + " and " + shape_text(y) + " do not fit";
    if (x.back() != inner) {
      line = shapes + " (" + number(x.back()) + " is not " + number(inner) + ")";
      return true;
    }
    for (size_t i = 3; i <= x.size() && i <= y.size(); i++) {  // batch dimensions, from the right
      int64_t m = x[x.size() - i], n = y[y.size() - i];
      if (m == n || m == 1 || n == 1) continue;
      line = shapes + " (" + number(m) + " is not " + number(n) + " in dimension "
             + number(static_cast<int64_t>(x.size() - i)) + ")";
      return true;
    }
    return false;
  }
  return false;
}

// ---- dtypes -------------------------------------------------------------------------------------------------------

const char *dtype_of_cpp_name(const Text &word) {
  static const char *const names[][2] = { { "Float", "float32" },
                                          { "Double", "float64" },
                                          { "Half", "float16" },
                                          { "BFloat16", "bfloat16" },
                                          { "Long", "int64" },
                                          { "Int", "int32" },
                                          { "Short", "int16" },
                                          { "Char", "int8" },
                                          { "Byte", "uint8" },
                                          { "Bool", "bool" },
                                          { "ComplexFloat", "complex64" },
                                          { "ComplexDouble", "complex128" },
                                          { "float", "float32" },
                                          { "double", "float64" },
                                          { "c10::Half", "float16" },
                                          { "c10::BFloat16", "bfloat16" },
                                          { "long", "int64" },
                                          { "long int", "int64" },
                                          { "int", "int32" },
                                          { "unsigned char", "uint8" } };
  for (const auto &n : names)
    if (word == n[0]) return n[1];
  return nullptr;
}

bool is_dtype_message(const Text &l) {
  return has(l, "expected scalar type") || has(l, "to have the same dtype") || has(l, "should be the same")
         || has(l, "expected both") || has(l, "same dtype") || has(l, "Expected object of scalar type")
         || has(l, "must have the same dtype") || has(l, "expected target dtype") || has(l, "mixed dtype");
}

bool dtypes(const Call &c, Text &line) {
  if (!is_dtype_message(line)) return false;
  const char *first_name = nullptr, *other_name = nullptr;
  const tx_tensor *first = c.nth(0, &first_name);
  for (int i = 1; first && c.nth(i, &other_name); i++) {
    const tx_tensor *other = c.nth(i, &other_name);
    bool both = at::isFloatingType(c10::typeMetaToScalarType(tx::impl(first)->dtype())) &&
                at::isFloatingType(c10::typeMetaToScalarType(tx::impl(other)->dtype()));
    if (both && strcmp(tx_tensor_dtype(first), tx_tensor_dtype(other)) != 0) {
      line = Text("dtypes differ (") + first_name + " is " + tx_tensor_dtype(first) + ", " + other_name + " "
             + tx_tensor_dtype(other) + "). Convert one with t:to(\"" + tx_tensor_dtype(first) + "\").";
      return true;
    }
  }
  char want[32], got[32];
  // libtorch 2's text for targets
  if (sscanf(line.c_str(), "expected target dtype to be %31s or Byte, but got %31s", want, got) == 2) {
    const char *have = dtype_of_cpp_name(got);
    if (!have) return false;
    line = Text("a tensor is ") + have + " (expected int64). Convert it with t:to(\"int64\").";
    return true;
  }
  if (sscanf(line.c_str(), "expected scalar type %31s but found %31s", want, got) != 2) return false;
  const char *w = dtype_of_cpp_name(want), *g = dtype_of_cpp_name(got);
  if (!w || !g) return false;
  line = Text("a tensor is ") + g + " (expected " + w + "). Convert it with t:to(\"" + w + "\").";
  return true;
}

// ---- shapes -------------------------------------------------------------------------------------------------------

bool broadcast(const Call &c, Text &line) {
  long long a, b, d;
  if (sscanf(line.c_str(),
             "The size of tensor a (%lld) must match the size of tensor b (%lld) at non-singleton dimension %lld", &a,
             &b, &d)
      == 3) {
    const tx_tensor *x = c.nth(0), *y = c.nth(1);
    Text fact = number(a) + " is not " + number(b) + " in dimension " + number(d);
    line = x && y && !c.nth(2) ? "shapes " + shape_text(x) + " and " + shape_text(y) + " do not fit (" + fact + ")"
                               : "shapes do not fit (" + fact + ")";
    return true;
  }
  Text from, to;
  if (has(line, "doesn't match the broadcast shape") && bracket(line, 0, '[', ']', to)
      && bracket(line, 1, '[', ']', from)) {
    line = "a result of shape " + from + " does not fit into a tensor of shape " + to;
    return true;
  }
  if (sscanf(
        line.c_str(),
        "The expanded size of the tensor (%lld) must match the existing size (%lld) at non-singleton dimension %lld",
        &a, &b, &d)
        == 3
      && bracket(line, 0, '[', ']', to) && bracket(line, 1, '[', ']', from)) {
    line = "shape " + from + " does not expand to " + to + " (" + number(b) + " is not " + number(a) + " in dimension "
           + number(d) + ")";
    return true;
  }
  return false;
}

bool lists(const Call &c, Text &line) {
  long long dim, want, got, which;
  if (sscanf(line.c_str(),
             "Sizes of tensors must match except in dimension %lld. Expected size %lld but got size %lld for tensor "
             "number %lld",
             &dim, &want, &got, &which)
      == 4) {
    const tx_value *v = c.value("tensors");
    Text fact = number(want) + " is not " + number(got) + "; only dimension " + number(dim) + " may differ";
    bool known = v && v->kind == TX_TENSORS && which < v->n && v->ts[0] && v->ts[which];
    line = known ? "shapes " + shape_text(v->ts[0]) + " and " + shape_text(v->ts[which]) + " do not fit (" + fact + ")"
                 : "shapes do not fit (" + fact + ")";
    return true;
  }
  if (sscanf(line.c_str(), "Tensors must have same number of dimensions: got %lld and %lld", &want, &got) == 2) {
    line = "tensors of " + number(want) + " and " + number(got) + " dimensions do not fit";
    return true;
  }
  Text a, b;
  if (has(line, "stack expects each tensor to be equal size") && bracket(line, 0, '[', ']', a)
      && bracket(line, 1, '[', ']', b)) {
    line = "shapes " + a + " and " + b + " do not fit (all must be equal)";
    return true;
  }
  if (has(line, "expected a non-empty list of Tensors") || has(line, "expects a non-empty TensorList")) {
    line = "an empty list of tensors (expected one or more)";
    return true;
  }
  return false;
}

bool reshape(const Call &c, Text &line) {
  const tx_tensor *t = c.nth(0);
  Text to;
  if (!t) return false;
  if (has(line, "is invalid for input of size") && bracket(line, 0, '[', ']', to)) {
    line = "shape " + shape_text(t) + " (" + number(tx_tensor_numel(t)) + " elements) does not become " + to;
    return true;
  }
  if (has(line, "view size is not compatible with input tensor's size and stride")) {
    line = "a tensor of shape " + shape_text(t) + " with gaps between its elements has no such view. Use t:reshape.";
    return true;
  }
  return false;
}

// ---- convolutions -------------------------------------------------------------------------------------------------

bool convolution(const Call &c, Text &line) {
  const tx_tensor *x = c.tensor("input"), *w = c.tensor("weight"), *b = c.tensor("bias");
  if (!x || !w) return false;
  Text input = "input " + shape_text(x), weight = "weight " + shape_text(w), a, k;
  long long groups, want, got;
  const char *at = strstr(line.c_str(), "to have ");
  if (at && sscanf(line.c_str(), "Given groups=%lld", &groups) == 1
      && sscanf(at, "to have %lld channels, but got %lld channels", &want, &got) == 2) {
    line = input + " has " + number(got) + (got == 1 ? " channel, " : " channels, ") + weight + " takes " + number(want)
           + (groups > 1 ? " (groups = " + number(groups) + ")" : "");
    return true;
  }
  if (has(line, "Calculated padded input size") && bracket(line, 0, '(', ')', a) && bracket(line, 1, '(', ')', k)) {
    line = "kernel " + k + " is larger than the padded input " + a;
    return true;
  }
  if (has(line, "(unbatched)") && has(line, "(batched)")) {
    line = input + " has " + number(tx_tensor_dim(x)) + " dimensions, " + weight + " takes " + number(tx_tensor_dim(w))
           + " (or one less: no batch)";
    return true;
  }
  if (has(line, "expected bias to be 1-dimensional") && b) {
    line = "bias " + shape_text(b) + " does not fit " + weight;
    return true;
  }
  return false;
}

// ---- indices, targets, the rest -----------------------------------------------------------------------------------

bool ranges(const Call &c, Text &line) {
  long long low, high, got, n;
  if (sscanf(line.c_str(), "Dimension out of range (expected to be in range of [%lld, %lld], but got %lld)", &low,
             &high, &got)
      == 3) {
    line = "dimension " + number(got) + " is out of range (expected " + number(low) + " to " + number(high) + ")";
    return true;
  }
  const tx_tensor *x = c.nth(0);
  if (sscanf(line.c_str(), "Target %lld is out of bounds", &got) == 1 && x && tx_tensor_dim(x) > 0) {
    at::IntArrayRef s = tx::impl(x)->sizes();
    n = s[s.size() > 1 ? 1 : 0];
    line = "target " + number(got) + " is out of range (expected 0 to " + number(n - 1) + ")";
    return true;
  }
  if (sscanf(line.c_str(), "Expected input batch_size (%lld) to match target batch_size (%lld)", &n, &got) == 2) {
    line = number(n) + " inputs and " + number(got) + " targets do not fit";
    return true;
  }
  Text shape;
  const char *at = strstr(line.c_str(), "index ");
  if (at && sscanf(at, "index %lld out of range for tensor of size", &got) == 1 && bracket(line, 0, '[', ']', shape)) {
    const char *dim = strstr(line.c_str(), "at dimension ");
    line = "index " + number(got) + " is out of range (shape " + shape
           + (dim ? ", dimension " + Text(dim + strlen("at dimension ")) : "") + ")";
    return true;
  }
  if (line == "index out of range in self") {
    line = x ? "an index is out of range (the tensor is " + shape_text(x) + ")" : "an index is out of range";
    return true;
  }
  return false;
}

bool gradients(const Call &, Text &line) {
  if (has(line, "a leaf Variable that requires grad is being used in an in-place operation")) {
    line = "a leaf that requires gradients is not changed in place. Do it inside torch.no_grad.";
    return true;
  }
  if (has(line, "a view of a leaf Variable that requires grad is being used in an in-place operation")) {
    line = "a view of a leaf that requires gradients is not changed in place. Do it inside torch.no_grad.";
    return true;
  }
  return false;
}

// "torch.cat(): Expected ..." -> "expected ..."
void tidy(const Text &name, Text &line) {
  size_t i = 0;
  while (i < line.size()
         && (isalnum(static_cast<unsigned char>(line[i])) || line[i] == '_' || line[i] == '.' || line[i] == ':'))
    i++;
  Text word = line.substr(0, i);
  if (word == name + ":" && line[i] == ' ') line.erase(0, i + 1);
  else if (line.compare(i, 4, "(): ") == 0) line.erase(0, i + 4);
  else if (i > 0 && word.back() == ':' && line[i] == ' '
           && (has(word, "linalg") || has(word, "torch") || has(word, "fft")))
    line.erase(0, i + 1);
  if (line.size() > 1 && isupper(static_cast<unsigned char>(line[0])) && islower(static_cast<unsigned char>(line[1])))
    line[0] = static_cast<char>(tolower(static_cast<unsigned char>(line[0])));
}

}  // namespace

namespace tx {

void reword(const tx_op &op, const tx_value *args, int nargs) noexcept {
  try {
    Call c{op, args, nargs};
    Text line = tx_error();
    const bool is_product = !is_dtype_message(line) && product(c, line);
    if (!is_product && !dtypes(c, line) && !broadcast(c, line) && !lists(c, line) && !reshape(c, line)
        && !convolution(c, line) && !ranges(c, line) && !gradients(c, line))
      tidy(op.name, line);
    set_error_line(line.c_str(), is_product && op.name == "linear" ? "matmul" : nullptr);
  } catch (...) {
    return;  // libtorch's own line stays
  }
}

}  // namespace tx

void tx_tensor_shape_text(const tx_tensor *t, char buf[128]) noexcept {
  try {
    snprintf(buf, 128, "%s", shape_text(t).c_str());
  } catch (...) {
    buf[0] = 0;  // no memory for the text: the message goes without
  }
}
