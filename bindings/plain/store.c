/* store.c: opens a file of tensors, finds where each storage lies, reads it directly into the caller's memory.
 * Floating-point numbers in our own .pt files are 0-d views of one float64 storage named "numbers", since torch 1.13's
 * weights_only reader cannot read floats. TorchScript, big-endian and compressed files are errors that say so. */
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
#include "safetensors.h"
#include "zip.h"

enum { PICKLE_LIMIT = 1 << 30, HEADER_LIMIT = 100 << 20 };

typedef struct place { /* of a storage in the file */
  int64_t at, record; /* byte offset (legacy, safetensors) or zip record */
  bool known;
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
  safetensors header;
  store_entry *entries; /* of header, as are the next three */
  pickle_storage *blocks;
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
    int len =
      snprintf(name, sizeof name, "data/%.*s", list[i]->key_len < 256 ? (int)list[i]->key_len : 256, list[i]->key);
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
    if (k->kind == PICKLE_STR && k->str.len == 13 && !memcmp(k->str.s, "little_endian", 13) && v->kind == PICKLE_BOOL
        && !v->b)
      return say(error, room, "holds big-endian numbers, which are not read");
  }
  return true;
}

/* After the pickles: for each key of the list, its number of elements and its raw numbers. */
static bool legacy_places(store *s, const pickle_value *keys, const pickle *names, int64_t at, char *error,
                          size_t room) {
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

/* ---- .safetensors -------------------------------------------------------------------------------------------- */

/* What the header says, as pickle.h describes tensors: each is the whole of a storage of its own. */
static bool safetensors_tensors(store *s, int64_t data_at, char *error, size_t room) {
  size_t n = s->header.n, dims = 0;
  for (size_t i = 0; i < n; i++)
    dims += 2 * (size_t)s->header.entries[i].dim;
  s->entries = mx_calloc(n + 1, sizeof *s->entries);
  s->blocks = mx_calloc(n + 1, sizeof *s->blocks);
  s->tensors = mx_calloc(n + 1, sizeof *s->tensors);
  s->dims = mx_malloc((dims + 1) * sizeof *s->dims);
  if (!s->entries || !s->blocks || !s->tensors || !s->dims)
    return say(error, room, "does not fit into memory");
  if (!make_places(s, n, error, room))
    return false;
  int64_t *sizes = s->dims;
  for (size_t i = 0; i < n; i++) {
    const safetensors_entry *e = &s->header.entries[i];
    int64_t *strides = sizes + e->dim, stride = 1;
    for (int d = e->dim - 1; d >= 0; d--) {
      sizes[d] = e->sizes[d];
      strides[d] = stride;
      stride *= sizes[d] ? sizes[d] : 1;
    }
    s->blocks[i] = (pickle_storage){ .dtype = e->dtype, .numel = e->numel, .itemsize = e->itemsize, .index = i };
    s->tensors[i] = (pickle_tensor){ &s->blocks[i], 0, e->dim, sizes, strides };
    s->places[i] = (place){ .at = data_at + e->range[0], .known = !e->text };
    s->entries[i] = (store_entry){ e->name, e->len, e->text ? NULL : &s->tensors[i], e->text, e->text_len };
    sizes += 2 * e->dim;
  }
  return true;
}

static bool open_safetensors(store *s, int64_t length, char *error, size_t room) {
  s->format = "safetensors";
  if (length > s->size - 8)
    return say(error, room, "is cut short");
  if (length > HEADER_LIMIT)
    return say(error, room, "has a header of %lld bytes, which is too long", (long long)length);
  if (!(s->bytes = mx_malloc((size_t)length + 1)))
    return say(error, room, "does not fit into memory");
  if (!read_at(s->fd, s->bytes, length, 8))
    return say(error, room, "cannot be read (%s)", strerror(errno));
  return safetensors_read(&s->header, s->bytes, (size_t)length, s->size - 8 - length, error, room) &&
         safetensors_tensors(s, 8 + length, error, room);
}

/* ---- opening ------------------------------------------------------------------------------------------------ */

/* What a file in an unknown format seems to be. */
static bool unknown(const unsigned char *head, int64_t n, char *error, size_t room) {
  if (n == 0)
    return say(error, room, "is empty");
  if (n > 262 && !memcmp(head + 257, "ustar", 5))
    return say(error, room,
               "is in torch's tar format of 2016, which is not read (load it with an old PyTorch and save it again)");
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
  if (s->fd >= 0)
    close(s->fd);
  pickle_free(s->pickle);
  zip_close(s->zip);
  mx_free(s->bytes);
  mx_free(s->places);
  safetensors_free(&s->header);
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
  return s->header.n;
}

size_t store_storages(const store *s) { return s->nplaces; }

/* A bool other than 0 and 1 would be undefined behavior: it becomes 1. */
bool store_read_storage(void *to, store *s, const pickle_storage *b, char *error, size_t room) {
  const place *p = &s->places[b->index];
  int64_t bytes = b->numel * b->itemsize;
  char *data = to;
  bool ok = bytes == 0 || (s->zip ? zip_read(data, s->zip, p->record, error, room)
                                  : read_at(s->fd, data, bytes, p->at) || say(error, room, "is cut short"));
  for (int64_t i = 0; ok && b->dtype[0] == 'b' && b->itemsize == 1 && i < bytes; i++)
    data[i] = data[i] != 0;
  return ok;
}

bool store_is_number(const pickle_tensor *t) {
  const pickle_storage *b = t->storage;
  return t->dim == 0 && b->key && b->key_len == strlen(STORE_NUMBERS) && !memcmp(b->key, STORE_NUMBERS, b->key_len) &&
         !strcmp(b->dtype, "float64");
}

/* ---- writing ------------------------------------------------------------------------------------------------ */

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
  bool ok = o->zip && zip_write(o->zip, "data.pkl", pickle->data, pickle->n)
            && zip_write(o->zip, "byteorder", "little", 6)
            && (n == 0 || zip_write(o->zip, "data/" STORE_NUMBERS, numbers, n * sizeof *numbers));
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
