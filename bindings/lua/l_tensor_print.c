/* l_tensor_print.c: tostring(t), letter for letter what PyTorch's repr gives with its default options: four digits, 80
 * columns, three items at each edge beyond 1000 elements. Only the elements that are shown are fetched.
 * Tensors of other layouts than strided print their shape and dtype alone. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "l_tensor.h"

enum { PRECISION = 4, THRESHOLD = 1000, EDGE = 3, COLUMNS = 80, NUMBER = 400 };

/* How the numbers of one tensor (or of its real or imaginary parts) are written. */
typedef struct formatter {
  bool floats, bools, integral, exponent;
  int width;
} formatter;

typedef struct printer {
  luaL_Buffer *out;
  formatter f, imaginary;
  bool complex;
  const double *values; /* of a floating or complex tensor (pairs) */
  const int64_t *integers;
  const int64_t *sizes; /* of what is shown */
  const bool *cut;      /* dimension d shows its edges only */
  int dim;
  int64_t next; /* element */
} printer;

/* ---- numbers ------------------------------------------------------------------------------------------------ */

/* C's text of v where Python's differs: nan has no sign there */
static int write_float(char *buf, const char *format, double v) {
  return isnan(v) ? snprintf(buf, NUMBER, "nan") : snprintf(buf, NUMBER, format, PRECISION, v);
}

static int write_number(char *buf, const formatter *f, double v, int64_t i) {
  if (f->bools)
    return snprintf(buf, NUMBER, "%s", i ? "True" : "False");
  if (!f->floats)
    return snprintf(buf, NUMBER, "%lld", (long long)i);
  if (f->exponent)
    return write_float(buf, "%.*e", v);
  if (!f->integral)
    return write_float(buf, "%.*f", v);
  return isfinite(v) ? snprintf(buf, NUMBER, "%.0f.", v) : write_float(buf, "%.*f", v);
}

static void widen(formatter *f, double v, int64_t i) {
  char buf[NUMBER];
  int n = write_number(buf, f, v, i);
  if (n > f->width)
    f->width = n;
}

/* v: n values, stride apart. Zeros and non-finite values take no part, as in PyTorch. */
static formatter float_formatter(const double *v, int64_t n, int stride) {
  formatter f = { .floats = true, .integral = true, .width = 1 };
  double low = INFINITY, high = 0;
  for (int64_t i = 0; i < n; i++) {
    double x = v[i * stride], a = fabs(x);
    if (!isfinite(x) || x == 0)
      continue;
    low = fmin(low, a), high = fmax(high, a);
    f.integral = f.integral && x == ceil(x);
  }
  if (high == 0)
    return f;
  f.exponent = high / low > 1000 || high > 1e8 || (!f.integral && low < 1e-4);
  for (int64_t i = 0; i < n; i++)
    if (isfinite(v[i * stride]) && v[i * stride] != 0)
      widen(&f, v[i * stride], 0);
  return f;
}

static formatter integer_formatter(const int64_t *v, int64_t n, bool bools) {
  formatter f = { .bools = bools, .width = 1 };
  for (int64_t i = 0; i < n; i++)
    widen(&f, 0, v[i]);
  return f;
}

/* The text of the next element in buf, padded to the width. */
static int write_next(printer *p, char buf[2 * NUMBER + 8]) {
  char number[NUMBER];
  int64_t i = p->next++;
  if (!p->complex) {
    int n = write_number(number, &p->f, p->values ? p->values[i] : 0, p->integers ? p->integers[i] : 0);
    return sprintf(buf, "%*s%s", p->f.width > n ? p->f.width - n : 0, "", number);
  }
  int n = write_number(number, &p->f, p->values[2 * i], 0);
  int len = sprintf(buf, "%*s%s", p->f.width > n ? p->f.width - n : 0, "", number);
  write_number(number, &p->imaginary, p->values[2 * i + 1], 0);
  return len + sprintf(buf + len, "%s%sj", number[0] == '-' ? "" : "+", number);
}

/* ---- brackets ----------------------------------------------------------------------------------------------- */

static void add_spaces(luaL_Buffer *b, int n) {
  for (int i = 0; i < n; i++)
    luaL_addchar(b, ' ');
}

/* The last dimension: as many elements per line as fit. */
static void write_vector(printer *p, int indent) {
  char buf[2 * NUMBER + 8];
  int length = p->f.width + 2 + (p->complex ? p->imaginary.width + 1 : 0);
  int per_line = (COLUMNS - indent) / length, column = 0;
  if (per_line < 1)
    per_line = 1;
  bool cut = p->cut[p->dim - 1];
  int64_t n = p->sizes[p->dim - 1] + cut;
  luaL_addchar(p->out, '[');
  for (int64_t i = 0; i < n; i++, column++) {
    if (column == per_line) {
      luaL_addstring(p->out, ",\n");
      add_spaces(p->out, indent + 1);
      column = 0;
    } else if (i > 0) {
      luaL_addstring(p->out, ", ");
    }
    if (cut && i == EDGE)
      luaL_addstring(p->out, " ...");
    else
      luaL_addlstring(p->out, buf, (size_t)write_next(p, buf));
  }
  luaL_addchar(p->out, ']');
}

static void write_dimension(printer *p, int d, int indent) {
  if (d == p->dim - 1) {
    write_vector(p, indent);
    return;
  }
  int64_t n = p->sizes[d] + p->cut[d];
  luaL_addchar(p->out, '[');
  for (int64_t i = 0; i < n; i++) {
    if (i > 0) {
      luaL_addchar(p->out, ',');
      for (int k = d; k < p->dim - 1; k++)
        luaL_addchar(p->out, '\n');
      add_spaces(p->out, indent + 1);
    }
    if (p->cut[d] && i == EDGE)
      luaL_addstring(p->out, "...");
    else
      write_dimension(p, d + 1, indent + 1);
  }
  luaL_addchar(p->out, ']');
}

/* ---- fetching what is shown --------------------------------------------------------------------------------- */

/* The shown elements as a dense CPU tensor of float64, complex128 or int64; also fills sizes and cut per dimension. */
static tx_tensor *fetch(lua_State *L, tx_tensor *t, int64_t *sizes, bool *cut, const char *as) {
  int dim = tx_tensor_dim(t);
  bool summarise = tx_tensor_numel(t) > THRESHOLD;
  tx_tensor *shown = lt_call(L, "detach", "", (tx_value[]){ lt_tensor(t) }, 1), **plain = xl_slots(L, 2);
  tx_tensor_sizes(t, sizes);
  for (int d = 0; d < dim; d++) {
    cut[d] = summarise && sizes[d] > 2 * EDGE;
    if (!cut[d])
      continue;
    tx_value first[] = { lt_tensor(shown), lt_int(d), lt_int(0), lt_int(EDGE) };
    tx_value last[] = { lt_tensor(shown), lt_int(d), lt_int(sizes[d] - EDGE), lt_int(EDGE) };
    tx_tensor *edges[] = { lt_call(L, "narrow", "", first, 4), lt_call(L, "narrow", "", last, 4) };
    tx_value both = { .kind = TX_TENSORS, .n = 2, .ts = edges };
    shown = lt_call(L, "cat", "", (tx_value[]){ both, lt_int(d) }, 2);
    sizes[d] = 2 * EDGE;
  }
  XL_TRY(L, "tostring", tx_tensor_to(&plain[0], shown, "cpu", as, false, true));
  XL_TRY(L, "tostring", tx_tensor_packed(&plain[1], plain[0], false));
  return plain[1];
}

static void write_elements(luaL_Buffer *out, tx_tensor *shown, const int64_t *sizes, const bool *cut, const char *dtype,
                           const char *as) {
  int64_t n = tx_tensor_numel(shown);
  printer p = { .out = out, .sizes = sizes, .cut = cut, .dim = tx_tensor_dim(shown) };
  void *data = tx_tensor_data(shown);
  if (strcmp(as, "int64") == 0) {
    p.integers = data;
    p.f = integer_formatter(p.integers, n, strcmp(dtype, "bool") == 0);
  } else {
    p.values = data;
    p.complex = strcmp(as, "complex128") == 0;
    p.f = float_formatter(p.values, n, p.complex ? 2 : 1);
    if (p.complex)
      p.imaginary = float_formatter(p.values + 1, n, 2);
  }
  if (p.dim == 0) {
    char buf[2 * NUMBER + 8];
    luaL_addlstring(out, buf, (size_t)write_next(&p, buf));
  } else {
    write_dimension(&p, 0, (int)strlen("tensor("));
  }
}

/* ---- suffixes ----------------------------------------------------------------------------------------------- */

/* Appends a suffix; on a new line if it would pass the last column. */
static void add_suffix(luaL_Buffer *out, size_t *column, const char *suffix) {
  size_t n = strlen(suffix);
  if (*column + n + 2 > COLUMNS) {
    luaL_addstring(out, ",\n       ");
    *column = strlen("tensor(") + n;
  } else {
    luaL_addstring(out, ", ");
    *column += n + 2;
  }
  luaL_addstring(out, suffix);
}

/* "size=(2, 3)", as PyTorch prints it */
static void size_suffix(const tx_tensor *t, char *buf, size_t room) {
  int64_t sizes[TX_MAX_DIMS];
  int dim = tx_tensor_dim(t);
  size_t n = (size_t)snprintf(buf, room, "size=(");
  tx_tensor_sizes(t, sizes);
  for (int d = 0; d < dim && n < room - 24; d++)
    n += (size_t)snprintf(buf + n, room - n, d + 1 < dim ? "%lld, " : "%lld", (long long)sizes[d]);
  snprintf(buf + n, room - n, dim == 1 ? ",)" : ")");
}

static bool starts(const char *s, const char *with) { return strncmp(s, with, strlen(with)) == 0; }

/* elements: the text of the values, on top of Lua's stack */
static void write_whole(lua_State *L, tx_tensor *t, bool shows_size, bool shows_dtype) {
  char text[1600], device[16];
  size_t len;
  const char *elements = lua_tolstring(L, -1, &len), *newline = strrchr(elements, '\n'),
             *grad_fn = tx_tensor_grad_fn(t);
  size_t column = newline ? len - (size_t)(newline - elements) + 1 : len + strlen("tensor(") + 2;
  luaL_Buffer out;
  luaL_buffinit(L, &out);
  luaL_addstring(&out, "tensor(");
  luaL_addlstring(&out, elements, len);
  tx_tensor_device(t, device);
  if (strcmp(device, "cpu") != 0)
    snprintf(text, sizeof text, "device='%s'", device), add_suffix(&out, &column, text);
  if (shows_size)
    size_suffix(t, text, sizeof text), add_suffix(&out, &column, text);
  if (shows_dtype)
    snprintf(text, sizeof text, "dtype=torch.%s", tx_tensor_dtype(t)), add_suffix(&out, &column, text);
  if (strcmp(tx_tensor_layout(t), "strided") != 0)
    snprintf(text, sizeof text, "layout=torch.%s", tx_tensor_layout(t)), add_suffix(&out, &column, text);
  if (grad_fn)
    snprintf(text, sizeof text, "grad_fn=<%s>", grad_fn), add_suffix(&out, &column, text);
  else if (tx_tensor_requires_grad(t))
    add_suffix(&out, &column, "requires_grad=True");
  luaL_addchar(&out, ')');
  luaL_pushresult(&out);
}

static bool default_dtype(const char *dtype) {
  return strcmp(dtype, "float32") == 0 || strcmp(dtype, "int64") == 0 || strcmp(dtype, "bool") == 0
         || strcmp(dtype, "complex64") == 0;
}

int lt_tostring(lua_State *L) {
  int64_t sizes[TX_MAX_DIMS];
  bool cut[TX_MAX_DIMS];
  if (!((xl_tensor *)luaL_checkudata(L, 1, XL_TENSOR))->t) {
    lua_pushliteral(L, "tensor (closed)");
    return 1;
  }
  tx_tensor *t = xl_totensor(L, 1);
  const char *dtype = tx_tensor_dtype(t);
  char device[16];
  luaL_checkstack(L, 16, "tostring");
  tx_tensor_device(t, device);
  bool dense = strcmp(tx_tensor_layout(t), "strided") == 0 && strcmp(device, "meta") != 0 && !strstr(dtype, "qint")
               && !strstr(dtype, "quint");
  if (!dense) {
    lua_pushliteral(L, "...");
    write_whole(L, t, true, !default_dtype(dtype));
  } else if (tx_tensor_numel(t) == 0) {
    lua_pushliteral(L, "[]");
    write_whole(L, t, tx_tensor_dim(t) != 1, strcmp(dtype, "float32") != 0);
  } else {
    const char *as = starts(dtype, "complex")                            ? "complex128"
                     : starts(dtype, "float") || starts(dtype, "bfloat") ? "float64"
                                                                         : "int64";
    tx_tensor *shown = fetch(L, t, sizes, cut, as);
    luaL_Buffer out;
    luaL_buffinit(L, &out);
    write_elements(&out, shown, sizes, cut, dtype, as);
    luaL_pushresult(&out);
    write_whole(L, t, false, !default_dtype(dtype));
  }
  return 1;
}
