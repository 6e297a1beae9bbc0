/* store.c: opens a file of tensors, finds where each storage lies, reads it straight into a tensor's memory.
 * Floating-point numbers of our own .pt files are 0-d views of one float64 storage named "numbers": torch 1.13's
 * weights_only reader knows no float. It refuses TorchScript, big-endian and compressed files by name. */
#include "store.h"
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "alloc.h"
#include "zip.h"

enum { PICKLE_LIMIT = 1 << 30, HEADER_LIMIT = 100 << 20 };

typedef struct place { /* of a storage in the file */
  int64_t at, record; /* byte offset (legacy, safetensors) or zip record */
  bool known;
  tx_tensor *data;    /* 1-d, once read */
} place;

struct store {
  int fd;
  int64_t size;
  const char *format;
  pickle *pickle;
  const pickle_value *root;
  char *bytes; /* what the pickle's values point into; the JSON header */
  zip_reader *zip;
  place *places;
  size_t nplaces;
  store_entry *entries;
  size_t nentries, entries_room;
  pickle_storage *blocks; /* safetensors: one a tensor */
  pickle_tensor *tensors;
  int64_t *dims;
};

static bool say(char *error, size_t room, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static bool say(char *error, size_t room, const char *fmt, ...) {
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(error, room, fmt, ap);
  va_end(ap);
  return false;
}

static bool read_at(int fd, void *buf, int64_t n, int64_t at) {
  char *p = buf;
  while (n > 0) {
    ssize_t got = pread(fd, p, n > 1 << 30 ? 1 << 30 : (size_t)n, at);
    if (got < 0 && errno == EINTR)
      continue;
    if (got <= 0)
      return false;
    p += got;
    n -= got;
    at += got;
  }
  return true;
}

static bool make_places(store *s, size_t n, char *error, size_t room) {
  s->places = mx_calloc(n + 1, sizeof *s->places);
  s->nplaces = s->places ? n : 0;
  return s->places || say(error, room, "does not fit into memory");
}

/* ---- zip .pt ------------------------------------------------------------------------------------------------ */

static bool zip_text_is(store *s, const char *record, const char *text) {
  char buf[32] = "", why[64];
  int64_t r = zip_find(s->zip, record, strlen(record));
  if (r < 0)
    return true; /* absent: older files */
  if (zip_size(s->zip, r) >= (int64_t)sizeof buf || !zip_read(buf, s->zip, r, why, sizeof why))
    return false;
  return strcmp(buf, text) == 0;
}

static bool open_zip(store *s, char *error, size_t room) {
  s->format = "zip";
  if (!(s->zip = zip_open(s->fd, error, room)))
    return false;
  int64_t r = zip_find(s->zip, "data.pkl", 8);
  if (zip_find(s->zip, "constants.pkl", 13) >= 0 || zip_has_folder(s->zip, "code/"))
    return say(error, room, "is a TorchScript program, not a state dict");
  if (r < 0)
    return say(error, room, "is a zip file, but not one of torch.save (no data.pkl)");
  if (!zip_text_is(s, "byteorder", "little"))
    return say(error, room, "holds big-endian numbers, which are not read");
  int64_t n = zip_size(s->zip, r);
  if (n > PICKLE_LIMIT || !(s->bytes = mx_malloc((size_t)n + 1)))
    return say(error, room, "does not fit into memory");
  pickle_value *root;
  size_t used;
  if (!zip_read(s->bytes, s->zip, r, error, room))
    return false;
  if (pickle_read(&root, &used, s->pickle, s->bytes, (size_t)n) != PICKLE_OK)
    return say(error, room, "%s", pickle_error(s->pickle));
  s->root = root;
  pickle_storage *const *list;
  if (!make_places(s, pickle_storages(s->pickle, &list), error, room))
    return false;
  for (size_t i = 0; i < s->nplaces; i++) {
    char name[300];
    int len = snprintf(name, sizeof name, "data/%.*s", list[i]->key_len < 256 ? (int)list[i]->key_len : 256, list[i]->key);
    r = zip_find(s->zip, name, (size_t)len);
    if (r < 0 || zip_size(s->zip, r) != list[i]->numel * list[i]->itemsize)
      return say(error, room, "is damaged (record %s is absent or has the wrong size)", name);
    s->places[i] = (place){ .record = r, .known = true };
  }
  return true;
}

/* ---- legacy .pth -------------------------------------------------------------------------------------------- */

/* Reads the pickle at *at and moves past it. The bytes are read in growing pieces, since nothing tells its length. */
static bool legacy_pickle(const pickle_value **out, store *s, int64_t *at, char **bytes, char *error, size_t room) {
  int64_t left = s->size - *at, n = left < 1 << 16 ? left : 1 << 16;
  pickle_value *v;
  size_t used;
  for (;; n = n > left / 8 ? left : n * 8) {
    mx_free(*bytes);
    if (!(*bytes = n <= PICKLE_LIMIT ? mx_malloc((size_t)n + 1) : NULL))
      return say(error, room, "does not fit into memory");
    if (!read_at(s->fd, *bytes, n, *at))
      return say(error, room, "cannot be read (%s)", strerror(errno));
    int status = pickle_read(&v, &used, s->pickle, *bytes, (size_t)n);
    if (status == PICKLE_OK)
      break;
    if (status != PICKLE_SHORT || n == left)
      return say(error, room, "%s", pickle_error(s->pickle));
    pickle_free(s->pickle); /* storages of the piece must not be seen twice */
    if (!(s->pickle = pickle_new(PICKLE_LIMIT)))
      return say(error, room, "does not fit into memory");
  }
  *at += (int64_t)used;
  *out = v;
  return true;
}

static bool legacy_system(const pickle_value *sys, char *error, size_t room) {
  for (size_t i = 0; sys->kind == PICKLE_DICT && i + 1 < sys->seq.n; i += 2) {
    const pickle_value *k = sys->seq.items[i], *v = sys->seq.items[i + 1];
    if (k->kind == PICKLE_STR && k->str.len == 13 && !memcmp(k->str.s, "little_endian", 13) && v->kind == PICKLE_BOOL && !v->b)
      return say(error, room, "holds big-endian numbers, which are not read");
  }
  return true;
}

/* After the pickles: for each key of the list, its number of elements and its raw numbers. */
static bool legacy_places(store *s, const pickle_value *keys, const pickle *names, int64_t at, char *error, size_t room) {
  pickle_storage *const *list;
  if (!make_places(s, pickle_storages(names, &list), error, room))
    return false;
  if (keys->kind != PICKLE_LIST)
    return say(error, room, "is damaged (no list of storages)");
  for (size_t i = 0; i < keys->seq.n; i++) {
    const pickle_value *k = keys->seq.items[i];
    const pickle_storage *b = k->kind == PICKLE_STR ? pickle_find_storage(names, k->str.s, k->str.len) : NULL;
    unsigned char head[8];
    int64_t n = 0;
    if (!b || s->places[b->index].known)
      return say(error, room, "is damaged (a storage that no tensor names)");
    if (s->size - at < 8 || !read_at(s->fd, head, 8, at))
      return say(error, room, "is cut short");
    for (int j = 8; j-- > 0;)
      n = (int64_t)((uint64_t)n << 8 | head[j]);
    at += 8;
    if (n != b->numel)
      return say(error, room, "is damaged (a storage has the wrong size)");
    if (s->size - at < b->numel * b->itemsize)
      return say(error, room, "is cut short");
    s->places[b->index] = (place){ .at = at, .known = true };
    at += b->numel * b->itemsize;
  }
  for (size_t i = 0; i < s->nplaces; i++)
    if (!s->places[i].known)
      return say(error, room, "is damaged (a storage is absent)");
  return true;
}

static bool open_legacy(store *s, char *error, size_t room) {
  static const unsigned char magic[10] = { 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19 };
  const pickle_value *v, *keys;
  char *scratch = NULL;
  int64_t at = 0;
  s->format = "legacy";
  bool ok = legacy_pickle(&v, s, &at, &scratch, error, room);
  if (ok && (v->kind != PICKLE_LONG || v->str.len != 10 || memcmp(v->str.s, magic, 10) != 0))
    ok = say(error, room, "is a pickle, but not one of torch.save");
  ok = ok && legacy_pickle(&v, s, &at, &scratch, error, room);
  if (ok && (v->kind != PICKLE_INT || v->i != 1001))
    ok = say(error, room, "is in a version of torch's format that is not read (expected 1001)");
  ok = ok && legacy_pickle(&v, s, &at, &scratch, error, room) && legacy_system(v, error, room);
  ok = ok && legacy_pickle(&s->root, s, &at, &s->bytes, error, room);
  pickle *names = s->pickle; /* root's; the list of keys gets its own, as a short read throws the pickle away */
  if (ok) {
    s->pickle = pickle_new(PICKLE_LIMIT);
    ok = s->pickle ? legacy_pickle(&keys, s, &at, &scratch, error, room) : say(error, room, "does not fit into memory");
    ok = ok && legacy_places(s, keys, names, at, error, room);
    pickle_free(s->pickle);
    s->pickle = names;
  }
  mx_free(scratch);
  return ok;
}

/* ---- .safetensors: a strict reader for the one shape of JSON that its header has ------------------------------ */

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

static const char *safetensors_dtype(const char *name) {
  static const char *const map[][2] = {
    { "F64", "float64" }, { "F32", "float32" }, { "F16", "float16" }, { "BF16", "bfloat16" }, { "I64", "int64" }, { "I32", "int32" },
    { "I16", "int16" },   { "I8", "int8" },     { "U8", "uint8" },    { "BOOL", "bool" },     { "C64", "complex64" },
  };
  for (size_t i = 0; i < sizeof map / sizeof *map; i++)
    if (!strcmp(map[i][0], name))
      return map[i][1];
  return NULL;
}

typedef struct header_line { /* one tensor as the header describes it */
  const char *dtype;
  int64_t sizes[PICKLE_MAX_DIMS], range[2];
  int dim;
} header_line;

/* {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, keys in any order, each once */
static bool tensor_line(header_line *h, json *j) {
  int seen = 0, n = 0;
  if (!sign(j, '{'))
    return false;
  do {
    const char *key, *text;
    size_t len, text_len;
    if (!string(&key, &len, j) || !sign(j, ':'))
      return false;
    int bit = !strcmp(key, "dtype") ? 1 : !strcmp(key, "shape") ? 2 : !strcmp(key, "data_offsets") ? 4 : 0;
    if (bit == 0 || seen & bit)
      return false;
    seen |= bit;
    if (bit == 1 ? !string(&text, &text_len, j) : bit == 2 ? !integers(h->sizes, PICKLE_MAX_DIMS, &h->dim, j)
                                                           : !integers(h->range, 2, &n, j))
      return false;
    if (bit == 1)
      h->dtype = text;
  } while (sign(j, ','));
  return sign(j, '}') && seen == 7 && n == 2;
}

static store_entry *new_entry(store *s) {
  if (s->nentries == s->entries_room) {
    size_t n = s->entries_room ? s->entries_room * 2 : 64;
    store_entry *more = mx_realloc(s->entries, n * sizeof *more);
    if (!more)
      return NULL;
    s->entries = more;
    s->entries_room = n;
  }
  s->entries[s->nentries] = (store_entry){ 0 };
  return &s->entries[s->nentries++];
}

static bool metadata(store *s, json *j, bool keep) {
  store_entry unkept;
  if (!sign(j, '{'))
    return false;
  if (sign(j, '}'))
    return true;
  do {
    store_entry *e = keep ? new_entry(s) : &unkept;
    if (!e || !string(&e->name, &e->len, j) || !sign(j, ':') || !string(&e->text, &e->text_len, j))
      return false;
  } while (sign(j, ','));
  return sign(j, '}');
}

/* The whole header, once to count (lines NULL) and once to fill. Text is changed in place, so the first pass works on a copy. */
static bool header(store *s, json *j, header_line *lines, size_t *n, const char **bad_dtype) {
  header_line skipped;
  *n = 0;
  if (!sign(j, '{'))
    return false;
  if (!sign(j, '}')) {
    do {
      const char *name;
      size_t len;
      if (!string(&name, &len, j) || !sign(j, ':'))
        return false;
      if (!strcmp(name, "__metadata__")) {
        if (!metadata(s, j, lines != NULL))
          return false;
        continue;
      }
      header_line *h = lines ? &lines[*n] : &skipped;
      if (!tensor_line(h, j))
        return false;
      if (!safetensors_dtype(h->dtype))
        *bad_dtype = h->dtype;
      if (lines) {
        store_entry *e = new_entry(s);
        if (!e)
          return false;
        e->name = name;
        e->len = len;
        e->tensor = &s->tensors[*n];
      }
      (*n)++;
    } while (sign(j, ','));
    if (!sign(j, '}'))
      return false;
  }
  space(j);
  return j->p == j->end;
}

static int by_name(const void *a, const void *b) { return strcmp((*(store_entry *const *)a)->name, (*(store_entry *const *)b)->name); }
static int by_start(const void *a, const void *b) {
  const int64_t *x = *(int64_t *const *)a, *y = *(int64_t *const *)b;
  return x[0] != y[0] ? (x[0] > y[0]) - (x[0] < y[0]) : (x[1] > y[1]) - (x[1] < y[1]);
}

/* The ranges must follow each other without gap or overlap and end with the file; names must differ. */
static bool ranges_and_names(store *s, header_line *lines, size_t n, int64_t bytes, char *error, size_t room) {
  void **sorted = mx_malloc((s->nentries + n + 1) * sizeof *sorted);
  if (!sorted)
    return say(error, room, "does not fit into memory");
  for (size_t i = 0; i < n; i++)
    sorted[i] = lines[i].range;
  qsort(sorted, n, sizeof *sorted, by_start);
  int64_t at = 0;
  bool ok = true;
  for (size_t i = 0; ok && i < n; i++) {
    const int64_t *r = sorted[i];
    ok = r[0] == at && r[1] >= r[0];
    at = r[1];
  }
  if (!ok)
    say(error, room, "has a broken header (tensors overlap or leave gaps)");
  else if (at != bytes)
    ok = say(error, room, at > bytes ? "is cut short" : "is damaged (bytes after the last tensor)");
  for (size_t i = 0; i < s->nentries; i++)
    sorted[i] = &s->entries[i];
  qsort(sorted, s->nentries, sizeof *sorted, by_name);
  for (size_t i = 1; ok && i < s->nentries; i++) {
    const store_entry *a = sorted[i - 1], *b = sorted[i];
    if (!strcmp(a->name, b->name) && !a->tensor == !b->tensor)
      ok = say(error, room, "has a broken header ('%.100s' twice)", a->name);
  }
  mx_free(sorted);
  return ok;
}

static bool describe(store *s, size_t i, const header_line *h, int64_t *dims, int64_t data_at, char *error, size_t room) {
  const char *dtype = safetensors_dtype(h->dtype);
  int64_t numel = 1, bytes, itemsize = pickle_itemsize(dtype);
  for (int d = h->dim - 1; d >= 0; d--) {
    dims[d] = h->sizes[d];
    dims[h->dim + d] = numel;
    if (__builtin_mul_overflow(numel, h->sizes[d] ? h->sizes[d] : 1, &numel))
      return say(error, room, "has a broken header (a shape is too large)");
  }
  for (int d = 0; d < h->dim; d++)
    if (h->sizes[d] == 0)
      numel = 0;
  if (__builtin_mul_overflow(numel, itemsize, &bytes) || bytes != h->range[1] - h->range[0])
    return say(error, room, "has a broken header (a shape does not fit its bytes)");
  s->blocks[i] = (pickle_storage){ .dtype = dtype, .numel = numel, .itemsize = itemsize, .index = i };
  s->tensors[i] = (pickle_tensor){ &s->blocks[i], 0, h->dim, dims, dims + h->dim };
  s->places[i] = (place){ .at = data_at + h->range[0], .known = true };
  return true;
}

static bool open_safetensors(store *s, int64_t length, char *error, size_t room) {
  const char *bad = NULL;
  header_line *lines = NULL;
  size_t n, again;
  s->format = "safetensors";
  if (length > s->size - 8)
    return say(error, room, "is cut short");
  if (length > HEADER_LIMIT)
    return say(error, room, "has a header of %lld bytes, which is too long", (long long)length);
  char *copy = mx_malloc((size_t)length + 1);
  s->bytes = copy ? mx_malloc((size_t)length + 1) : NULL;
  bool ok = s->bytes ? read_at(s->fd, s->bytes, length, 8) || say(error, room, "cannot be read (%s)", strerror(errno))
                     : say(error, room, "does not fit into memory");
  if (ok) {
    memcpy(copy, s->bytes, (size_t)length);
    json count = { copy, copy + length };
    ok = header(s, &count, NULL, &n, &bad) || say(error, room, "has a broken header (not the JSON of safetensors)");
    if (ok && bad)
      ok = say(error, room, "holds a tensor of type %.20s, which is not read", bad);
  }
  if (ok) {
    size_t dims = 0;
    lines = mx_calloc(n + 1, sizeof *lines);
    s->blocks = mx_calloc(n + 1, sizeof *s->blocks);
    s->tensors = mx_calloc(n + 1, sizeof *s->tensors);
    json fill = { s->bytes, s->bytes + length };
    ok = lines && s->blocks && s->tensors && make_places(s, n, error, room) && header(s, &fill, lines, &again, &bad);
    for (size_t i = 0; ok && i < n; i++)
      dims += 2 * (size_t)lines[i].dim;
    ok = ok && (s->dims = mx_malloc((dims + 1) * sizeof *s->dims));
    if (!ok)
      say(error, room, "does not fit into memory");
    dims = 0;
    for (size_t i = 0; ok && i < n; dims += 2 * (size_t)lines[i].dim, i++)
      ok = describe(s, i, &lines[i], s->dims + dims, 8 + length, error, room);
    ok = ok && ranges_and_names(s, lines, n, s->size - 8 - length, error, room);
  }
  mx_free(lines);
  mx_free(copy);
  return ok;
}

/* ---- opening ------------------------------------------------------------------------------------------------ */

/* What a file that is none of ours seems to be. */
static bool unknown(const unsigned char *head, int64_t n, char *error, size_t room) {
  if (n == 0)
    return say(error, room, "is empty");
  if (n > 262 && !memcmp(head + 257, "ustar", 5))
    return say(error, room, "is in torch's tar format of 2016, which is not read (load it with an old PyTorch and save it again)");
  if (n > 20 && !memcmp(head, "version https://git-", 20))
    return say(error, room, "is a Git LFS pointer, not the file itself (run git lfs pull)");
  if (n > 8 && !memcmp(head, "\x89HDF\r\n", 6))
    return say(error, room, "is an HDF5 file (Keras?), which is not read");
  if (head[0] == '<')
    return say(error, room, "is a web page, not a file of weights (a failed download?)");
  return say(error, room, "is neither a file of torch.save nor a safetensors file");
}

static bool open_any(store *s, char *error, size_t room) {
  unsigned char head[512] = { 0 };
  int64_t n = s->size < (int64_t)sizeof head ? s->size : (int64_t)sizeof head, length = 0;
  if (!read_at(s->fd, head, n, 0))
    return say(error, room, "cannot be read (%s)", strerror(errno ? errno : EIO));
  if (n >= 4 && !memcmp(head, "PK\3\4", 4))
    return open_zip(s, error, room);
  if (n >= 2 && head[0] == 0x80 && head[1] >= 2 && head[1] <= 5)
    return open_legacy(s, error, room);
  for (int i = 8; i-- > 0;)
    length = (int64_t)((uint64_t)length << 8 | head[i]);
  if (n > 8 && head[8] == '{' && length > 0)
    return open_safetensors(s, length, error, room);
  return unknown(head, n, error, room);
}

store *store_open(const char *path, char *error, size_t room) {
  struct stat st;
  store *s = mx_calloc(1, sizeof *s);
  if (!s || !(s->pickle = pickle_new(PICKLE_LIMIT))) {
    mx_free(s);
    say(error, room, "does not fit into memory");
    return NULL;
  }
  s->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe must not hang */
  bool ok = s->fd >= 0 && fstat(s->fd, &st) == 0 ? true : say(error, room, "cannot be read (%s)", strerror(errno));
  if (ok && !S_ISREG(st.st_mode))
    ok = say(error, room, S_ISDIR(st.st_mode) ? "is a folder (expected a file of weights)" : "is not a regular file");
  if (ok) {
    s->size = st.st_size;
    ok = open_any(s, error, room);
  }
  if (ok)
    return s;
  store_close(s);
  return NULL;
}

void store_close(store *s) {
  if (!s)
    return;
  for (size_t i = 0; i < s->nplaces; i++)
    tx_tensor_free(s->places[i].data);
  if (s->fd >= 0)
    close(s->fd);
  pickle_free(s->pickle);
  zip_close(s->zip);
  mx_free(s->bytes);
  mx_free(s->places);
  mx_free(s->entries);
  mx_free(s->blocks);
  mx_free(s->tensors);
  mx_free(s->dims);
  mx_free(s);
}

const char *store_format(const store *s) { return s->format; }
const pickle_value *store_root(const store *s) { return s->root; }

size_t store_entries(const store *s, const store_entry **out) {
  *out = s->entries;
  return s->nentries;
}

/* Reads storage b into a new 1-d tensor. A bool that is neither 0 nor 1 would be undefined behaviour: it becomes 1. */
static int read_block(store *s, const pickle_storage *b, char *error, size_t room) {
  place *p = &s->places[b->index];
  tx_tensor *t = NULL;
  int64_t bytes = b->numel * b->itemsize;
  int status = tx_tensor_new(&t, b->dtype, 1, &b->numel, NULL, 0);
  if (status != TX_OK)
    return say(error, room, "%s", tx_error()), status;
  char *data = bytes ? tx_tensor_data(t) : NULL;
  bool ok = bytes == 0 || (s->zip ? zip_read(data, s->zip, p->record, error, room)
                                  : read_at(s->fd, data, bytes, p->at) || say(error, room, "is cut short"));
  for (int64_t i = 0; ok && b->dtype[0] == 'b' && b->itemsize == 1 && i < bytes; i++)
    data[i] = data[i] != 0;
  if (!ok) {
    tx_tensor_free(t);
    return TX_ERROR;
  }
  p->data = t;
  return TX_OK;
}

int store_tensor(tx_tensor **out, store *s, const pickle_tensor *t, char *error, size_t room) {
  const pickle_storage *b = t->storage;
  place *p = &s->places[b->index];
  int status = p->data ? TX_OK : read_block(s, b, error, room);
  if (status != TX_OK)
    return status;
  status = tx_tensor_over(out, p->data, t->offset, t->dim, t->sizes, t->strides);
  if (status != TX_OK)
    say(error, room, "%s", tx_error());
  return status;
}

bool store_is_number(const pickle_tensor *t) {
  const pickle_storage *b = t->storage;
  return t->dim == 0 && b->key && b->key_len == strlen(STORE_NUMBERS) && !memcmp(b->key, STORE_NUMBERS, b->key_len) &&
         !strcmp(b->dtype, "float64");
}

int store_number(double *out, store *s, const pickle_tensor *t, char *error, size_t room) {
  place *p = &s->places[t->storage->index];
  int status = p->data ? TX_OK : read_block(s, t->storage, error, room);
  if (status == TX_OK)
    *out = ((const double *)tx_tensor_data(p->data))[t->offset];
  return status;
}

/* ---- writing ------------------------------------------------------------------------------------------------ */

void store_layout_of(store_layout *l, const tx_tensor *t) {
  int64_t own[TX_MAX_DIMS], expected = 1;
  bool used[TX_MAX_DIMS] = { false };
  l->dim = tx_tensor_dim(t);
  tx_tensor_sizes(t, l->sizes);
  tx_tensor_strides(t, own);
  for (int i = l->dim - 1; i >= 0; i--) {
    l->strides[i] = expected;
    expected *= l->sizes[i] ? l->sizes[i] : 1;
  }
  l->dense = true;
  expected = 1;
  for (int k = 0; l->dense && k < l->dim; k++) { /* each step finds the dimension that continues the block */
    int found = -1;
    for (int i = 0; i < l->dim; i++)
      if (!used[i] && (own[i] == expected || l->sizes[i] == 1) && (found < 0 || l->sizes[i] == 1))
        found = i;
    l->dense = found >= 0;
    if (l->dense) {
      used[found] = true;
      expected *= l->sizes[found];
    }
  }
  if (l->dense && tx_tensor_numel(t) > 0)
    memcpy(l->strides, own, (size_t)l->dim * sizeof *own);
}

struct store_out {
  whole_file file;
  zip_writer *zip;
  bool failed;
  char error[160];
};

static bool out_failed(store_out *o, int code) {
  if (!o->failed)
    snprintf(o->error, sizeof o->error, "%s", strerror(code));
  o->failed = true;
  return false;
}

store_out *store_create(const char *path, char *error, size_t room) {
  store_out *o = mx_calloc(1, sizeof *o);
  int code = o ? whole_file_open(&o->file, path) : ENOMEM;
  if (!code)
    return o;
  say(error, room, "%s", strerror(code));
  mx_free(o);
  return NULL;
}

bool store_write_start(store_out *o, const pickle_out *pickle, const double *numbers, size_t n) {
  errno = ENOMEM;
  o->zip = zip_writer_new(&o->file, "archive");
  bool ok = o->zip && zip_write(o->zip, "data.pkl", pickle->data, pickle->n) && zip_write(o->zip, "byteorder", "little", 6) &&
            (n == 0 || zip_write(o->zip, "data/" STORE_NUMBERS, numbers, n * sizeof *numbers));
  return ok || out_failed(o, errno);
}

bool store_write_storage(store_out *o, size_t key, const void *data, size_t n) {
  char name[40];
  snprintf(name, sizeof name, "data/%zu", key);
  return zip_write(o->zip, name, data, n) || out_failed(o, errno);
}

bool store_write_bytes(store_out *o, const void *data, size_t n) {
  int code = whole_file_write(&o->file, data, n);
  return code == 0 || out_failed(o, code);
}

bool store_commit(store_out *o) {
  if (o->failed)
    return false;
  if (o->zip && !(zip_write(o->zip, "version", "3\n", 2) && zip_finish(o->zip)))
    return out_failed(o, errno);
  int code = whole_file_commit(&o->file);
  return code == 0 || out_failed(o, code);
}

void store_abandon(store_out *o) {
  if (!o)
    return;
  whole_file_abandon(&o->file);
  zip_writer_free(o->zip);
  mx_free(o);
}

const char *store_out_error(const store_out *o) { return o->error; }
