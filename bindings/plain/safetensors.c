/* safetensors.c: see safetensors.h. Names that occur twice, tensors that overlap or leave gaps, and sizes that do not
 * fit their bytes are errors. */
#include "safetensors.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "alloc.h"

/* ---- JSON ---------------------------------------------------------------------------------------------------- */

typedef struct json {
  char *p, *end;
} json;

static void space(json *j) {
  while (j->p < j->end && (*j->p == ' ' || *j->p == '\n' || *j->p == '\r' || *j->p == '\t'))
    j->p++;
}

static bool sign(json *j, char c) {
  space(j);
  if (j->p >= j->end || *j->p != c)
    return false;
  j->p++;
  return true;
}

static int hex4(const char *p) {
  int v = 0;
  for (int i = 0; i < 4; i++) {
    int c = p[i] | 32, d = p[i] >= '0' && p[i] <= '9' ? p[i] - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
    if (d < 0)
      return -1;
    v = v << 4 | d;
  }
  return v;
}

static char *put_utf8(char *to, unsigned c) {
  if (c < 0x80) {
    *to++ = (char)c;
  } else if (c < 0x800) {
    *to++ = (char)(0xc0 | c >> 6);
    *to++ = (char)(0x80 | (c & 63));
  } else if (c < 0x10000) {
    *to++ = (char)(0xe0 | c >> 12);
    *to++ = (char)(0x80 | (c >> 6 & 63));
    *to++ = (char)(0x80 | (c & 63));
  } else {
    *to++ = (char)(0xf0 | c >> 18);
    *to++ = (char)(0x80 | (c >> 12 & 63));
    *to++ = (char)(0x80 | (c >> 6 & 63));
    *to++ = (char)(0x80 | (c & 63));
  }
  return to;
}

/* The code point of a \u escape whose four digits start at j->p; surrogates come in pairs. */
static bool unicode(unsigned *out, json *j) {
  int hi = j->end - j->p >= 4 ? hex4(j->p) : -1;
  if (hi < 0)
    return false;
  j->p += 4;
  *out = (unsigned)hi;
  if (hi < 0xd800 || hi > 0xdfff)
    return true;
  int lo = hi < 0xdc00 && j->end - j->p >= 6 && j->p[0] == '\\' && j->p[1] == 'u' ? hex4(j->p + 2) : -1;
  if (lo < 0xdc00 || lo > 0xdfff)
    return false;
  j->p += 6;
  *out = 0x10000u + ((unsigned)(hi - 0xd800) << 10) + (unsigned)(lo - 0xdc00);
  return true;
}

/* A string, unescaped in place (it never grows) and ended by 0 over its closing quote. */
static bool string(const char **s, size_t *len, json *j) {
  if (!sign(j, '"'))
    return false;
  char *to = j->p;
  *s = to;
  while (j->p < j->end && *j->p != '"') {
    unsigned char c = (unsigned char)*j->p++;
    static const char from[] = "\"\\/bfnrt", into[] = "\"\\/\b\f\n\r\t";
    if (c < 32)
      return false;
    if (c != '\\') {
      *to++ = (char)c;
      continue;
    }
    if (j->p >= j->end)
      return false;
    const char *at = *j->p ? strchr(from, *j->p) : NULL;
    unsigned u;
    if (*j->p == 'u') {
      j->p++;
      if (!unicode(&u, j))
        return false;
      to = put_utf8(to, u);
    } else if (at) {
      *to++ = into[at - from];
      j->p++;
    } else {
      return false;
    }
  }
  if (j->p >= j->end)
    return false;
  j->p++;
  *len = (size_t)(to - *s);
  *to = 0;
  return true;
}

static bool integer(int64_t *out, json *j) {
  space(j);
  const char *start = j->p;
  for (*out = 0; j->p < j->end && *j->p >= '0' && *j->p <= '9'; j->p++)
    if (__builtin_mul_overflow(*out, 10, out) || __builtin_add_overflow(*out, *j->p - '0', out))
      return false;
  return j->p > start && (*start != '0' || j->p == start + 1);
}

/* A list of at most max integers. */
static bool integers(int64_t *v, int max, int *n, json *j) {
  *n = 0;
  if (!sign(j, '['))
    return false;
  if (sign(j, ']'))
    return true;
  do {
    if (*n == max || !integer(&v[(*n)++], j))
      return false;
  } while (sign(j, ','));
  return sign(j, ']');
}

/* ---- the header ---------------------------------------------------------------------------------------------- */

typedef struct dtype {
  const char *code, *name;
  int64_t itemsize;
} dtype;

static const dtype *find_dtype(const char *code) {
  static const dtype dtypes[] = {
    { "F64", "float64", 8 }, { "F32", "float32", 4 }, { "F16", "float16", 2 }, { "BF16", "bfloat16", 2 },
    { "I64", "int64", 8 },   { "I32", "int32", 4 },   { "I16", "int16", 2 },   { "I8", "int8", 1 },
    { "U8", "uint8", 1 },    { "BOOL", "bool", 1 },   { "C64", "complex64", 8 },
  };
  for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++)
    if (!strcmp(dtypes[i].code, code))
      return &dtypes[i];
  return NULL;
}

enum { OK, BAD, NOMEM };

static int new_entry(safetensors_entry **out, safetensors *s) {
  if (s->n == s->room) {
    size_t room = s->room ? s->room * 2 : 64;
    safetensors_entry *more = mx_realloc(s->entries, room * sizeof *more);
    if (!more)
      return NOMEM;
    s->entries = more;
    s->room = room;
  }
  *out = &s->entries[s->n++];
  **out = (safetensors_entry){ 0 };
  return OK;
}

/* {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, keys in any order, each once. The type as it is
 * written. */
static bool describe_tensor(safetensors_entry *e, json *j) {
  int seen = 0, n = 0;
  if (!sign(j, '{'))
    return false;
  do {
    const char *key;
    size_t len;
    if (!string(&key, &len, j) || !sign(j, ':'))
      return false;
    int bit = !strcmp(key, "dtype") ? 1 : !strcmp(key, "shape") ? 2 : !strcmp(key, "data_offsets") ? 4 : 0;
    if (bit == 0 || seen & bit)
      return false;
    seen |= bit;
    if (!(bit == 1 ? string(&e->dtype, &len, j)
                   : bit == 2 ? integers(e->sizes, SAFETENSORS_MAX_DIMS, &e->dim, j) : integers(e->range, 2, &n, j)))
      return false;
  } while (sign(j, ','));
  return sign(j, '}') && seen == 7 && n == 2;
}

/* {"key": "text", ...}: an entry for each */
static int read_metadata(safetensors *s, json *j) {
  safetensors_entry *e;
  if (!sign(j, '{'))
    return BAD;
  if (sign(j, '}'))
    return OK;
  do {
    int status = new_entry(&e, s);
    if (status)
      return status;
    if (!string(&e->name, &e->len, j) || !sign(j, ':') || !string(&e->text, &e->text_len, j))
      return BAD;
  } while (sign(j, ','));
  return sign(j, '}') ? OK : BAD;
}

static int read_member(safetensors *s, json *j) {
  const char *name;
  size_t len;
  safetensors_entry *e;
  if (!string(&name, &len, j) || !sign(j, ':'))
    return BAD;
  if (!strcmp(name, "__metadata__"))
    return read_metadata(s, j);
  int status = new_entry(&e, s);
  if (status)
    return status;
  e->name = name;
  e->len = len;
  return describe_tensor(e, j) ? OK : BAD;
}

static int read_header(safetensors *s, json *j) {
  if (!sign(j, '{'))
    return BAD;
  if (!sign(j, '}')) {
    do {
      int status = read_member(s, j);
      if (status)
        return status;
    } while (sign(j, ','));
    if (!sign(j, '}'))
      return BAD;
  }
  space(j);
  return j->p == j->end ? OK : BAD;
}

/* ---- what the header says must fit together ------------------------------------------------------------------ */

static bool say(char *error, size_t room, const char *text) {
  snprintf(error, room, "%s", text);
  return false;
}

/* Our names for the types in place of the file's. */
static bool resolve_dtypes(safetensors *s, char *error, size_t room) {
  for (size_t i = 0; i < s->n; i++) {
    safetensors_entry *e = &s->entries[i];
    const dtype *d = e->text ? NULL : find_dtype(e->dtype);
    if (!e->text && !d) {
      snprintf(error, room, "holds a tensor of type %.20s, which is not read", e->dtype);
      return false;
    }
    e->dtype = d ? d->name : NULL;
    e->itemsize = d ? d->itemsize : 0;
  }
  return true;
}

/* Sets numel. Strides are computed later from the same sizes: none of them may overflow either, a size of 0 or not. */
static bool check_sizes(safetensors_entry *e, char *error, size_t room) {
  int64_t strides = 1, bytes;
  bool empty = false;
  for (int d = e->dim - 1; d >= 0; d--) {
    empty |= e->sizes[d] == 0;
    if (__builtin_mul_overflow(strides, e->sizes[d] ? e->sizes[d] : 1, &strides))
      return say(error, room, "has a broken header (a shape is too large)");
  }
  e->numel = empty ? 0 : strides;
  if (__builtin_mul_overflow(e->numel, e->itemsize, &bytes) || bytes != e->range[1] - e->range[0])
    return say(error, room, "has a broken header (a shape does not fit its bytes)");
  return true;
}

static int by_start(const void *a, const void *b) {
  const safetensors_entry *x = *(safetensors_entry *const *)a, *y = *(safetensors_entry *const *)b;
  const int64_t *r = x->range, *q = y->range;
  return r[0] != q[0] ? (r[0] > q[0]) - (r[0] < q[0]) : (r[1] > q[1]) - (r[1] < q[1]);
}

/* Tensors apart from the lines of __metadata__. */
static int by_kind_and_name(const void *a, const void *b) {
  const safetensors_entry *x = *(safetensors_entry *const *)a, *y = *(safetensors_entry *const *)b;
  return !x->text != !y->text ? !x->text - !y->text : strcmp(x->name, y->name);
}

/* The tensors' bytes must follow each other without gap or overlap and end with the file. */
static bool check_ranges(safetensors_entry **sorted, size_t n, int64_t data_bytes, char *error, size_t room) {
  int64_t at = 0;
  qsort(sorted, n, sizeof *sorted, by_start);
  for (size_t i = 0; i < n; i++) {
    const int64_t *r = sorted[i]->range;
    if (r[0] != at || r[1] < r[0])
      return say(error, room, "has a broken header (tensors overlap or leave gaps)");
    at = r[1];
  }
  if (at != data_bytes)
    return say(error, room, at > data_bytes ? "is cut short" : "is damaged (bytes after the last tensor)");
  return true;
}

/* No two tensors and no two lines of __metadata__ may have the same name. */
static bool check_names(safetensors_entry **sorted, size_t n, char *error, size_t room) {
  qsort(sorted, n, sizeof *sorted, by_kind_and_name);
  for (size_t i = 1; i < n; i++) {
    const safetensors_entry *a = sorted[i - 1], *b = sorted[i];
    if (strcmp(a->name, b->name) || !a->text != !b->text)
      continue;
    snprintf(error, room, "has a broken header ('%.100s' twice)", a->name);
    return false;
  }
  return true;
}

static bool check(safetensors *s, int64_t data_bytes, char *error, size_t room) {
  size_t n = 0;
  if (!resolve_dtypes(s, error, room))
    return false;
  for (size_t i = 0; i < s->n; i++)
    if (!s->entries[i].text && !check_sizes(&s->entries[i], error, room))
      return false;
  safetensors_entry **sorted = mx_malloc((s->n + 1) * sizeof *sorted);
  if (!sorted)
    return say(error, room, "does not fit into memory");
  for (size_t i = 0; i < s->n; i++)
    if (!s->entries[i].text)
      sorted[n++] = &s->entries[i];
  bool ok = check_ranges(sorted, n, data_bytes, error, room);
  for (size_t i = 0; i < s->n; i++)
    sorted[i] = &s->entries[i];
  ok = ok && check_names(sorted, s->n, error, room);
  mx_free(sorted);
  return ok;
}

bool safetensors_read(safetensors *out, char *text, size_t length, int64_t data_bytes, char *error, size_t room) {
  safetensors s = { 0 };
  json j = { text, text + length };
  int status = read_header(&s, &j);
  if (status)
    say(error, room,
        status == NOMEM ? "does not fit into memory" : "has a broken header (not the JSON of safetensors)");
  if (status || !check(&s, data_bytes, error, room)) {
    safetensors_free(&s);
    return false;
  }
  *out = s;
  return true;
}

void safetensors_free(safetensors *s) {
  mx_free(s->entries);
  *s = (safetensors){ 0 };
}
