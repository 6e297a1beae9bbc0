/* zip.c: finds records through the central directory, reads them with pread, checks their CRC-32; writes stored
 * records. Compressed, encrypted and split archives, names that occur twice, and records that overlap or reach beyond
 * the file are errors. */
#include "zip.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "alloc.h"
#include "crc32.h"

enum { LOCAL = 0x04034b50, CENTRAL = 0x02014b50, END = 0x06054b50, END64 = 0x06064b50, LOCATOR64 = 0x07064b50 };
enum { LOCAL_SIZE = 30, CENTRAL_SIZE = 46, END_SIZE = 22, END64_SIZE = 56, LOCATOR64_SIZE = 20 };
enum { DIRECTORY_MAX = 256 << 20 };

typedef struct record {
  const char *name; /* within the directory's bytes */
  size_t len;
  uint64_t at, size; /* of the local header; of the data */
  uint32_t crc;
} record;

struct zip_reader {
  int fd;
  uint64_t file_size, directory_at;
  unsigned char *directory;
  record *records; /* sorted by name */
  size_t n;
};

static uint64_t le(const unsigned char *p, int bytes) {
  uint64_t v = 0;
  while (bytes-- > 0)
    v = v << 8 | p[bytes];
  return v;
}

/* ---- reading ------------------------------------------------------------------------------------------------ */

static bool say(char *error, size_t room, const char *text) {
  snprintf(error, room, "%s", text);
  return false;
}

static bool read_at(int fd, void *buf, uint64_t n, uint64_t at) {
  char *p = buf;
  while (n > 0) {
    ssize_t got = pread(fd, p, n > 1 << 30 ? 1 << 30 : n, (off_t)at);
    if (got < 0 && errno == EINTR)
      continue;
    if (got <= 0)
      return false;
    p += got;
    n -= (uint64_t)got;
    at += (uint64_t)got;
  }
  return true;
}

/* Finds the central directory from the end of the file. */
static bool find_directory(uint64_t *at, uint64_t *size, uint64_t *count, const zip_reader *z) {
  unsigned char tail[65535 + END_SIZE + LOCATOR64_SIZE], end64[END64_SIZE];
  size_t n = z->file_size < sizeof tail ? (size_t)z->file_size : sizeof tail;
  if (n < END_SIZE || !read_at(z->fd, tail, n, z->file_size - n))
    return false;
  size_t i = n - END_SIZE;
  while (le(tail + i, 4) != END || i + END_SIZE + le(tail + i + 20, 2) != n)
    if (i-- == 0)
      return false;
  *count = le(tail + i + 10, 2);
  *size = le(tail + i + 12, 4);
  *at = le(tail + i + 16, 4);
  if (*count == 0xffff || *size == 0xffffffff || *at == 0xffffffff) {
    if (i < LOCATOR64_SIZE || le(tail + i - LOCATOR64_SIZE, 4) != LOCATOR64)
      return false;
    uint64_t where = le(tail + i - LOCATOR64_SIZE + 8, 8);
    if (where > z->file_size || z->file_size - where < END64_SIZE || !read_at(z->fd, end64, END64_SIZE, where) ||
        le(end64, 4) != END64)
      return false;
    *count = le(end64 + 32, 8);
    *size = le(end64 + 40, 8);
    *at = le(end64 + 48, 8);
  }
  return *at <= z->file_size && *size <= z->file_size - *at && *size <= DIRECTORY_MAX && *count <= *size / CENTRAL_SIZE;
}

/* The 64-bit values of a directory entry whose 32-bit fields are all ones. */
static bool wide_fields(record *r, const unsigned char *extra, size_t n, bool usize, bool csize, bool at) {
  while (n >= 4) {
    size_t len = le(extra + 2, 2);
    if (len > n - 4)
      return false;
    if (le(extra, 2) == 1) {
      const unsigned char *p = extra + 4;
      if (len < 8u * ((size_t)usize + csize + at))
        return false;
      if (usize)
        r->size = le(p, 8), p += 8;
      if (csize)
        p += 8;
      if (at)
        r->at = le(p, 8);
      return true;
    }
    extra += 4 + len;
    n -= 4 + len;
  }
  return false;
}

/* Reads the entry at p; *used: its length. NULL or why not. */
static const char *read_entry(record *r, size_t *used, const unsigned char *p, size_t n) {
  if (n < CENTRAL_SIZE || le(p, 4) != CENTRAL)
    return "has a broken zip directory";
  size_t name = le(p + 28, 2), extra = le(p + 30, 2), comment = le(p + 32, 2);
  if (CENTRAL_SIZE + name + extra + comment > n || name == 0)
    return "has a broken zip directory";
  if (le(p + 8, 2) & 1)
    return "is encrypted";
  *r = (record){ (const char *)p + CENTRAL_SIZE, name, le(p + 42, 4), le(p + 24, 4), (uint32_t)le(p + 16, 4) };
  uint64_t csize = le(p + 20, 4), usize = r->size;
  bool wide[3] = { usize == 0xffffffff, csize == 0xffffffff, r->at == 0xffffffff };
  if ((wide[0] || wide[1] || wide[2]) &&
      !wide_fields(r, p + CENTRAL_SIZE + name, extra, wide[0], wide[1], wide[2]))
    return "has a broken zip directory";
  if (le(p + 10, 2) != 0 && memmem(r->name, r->len, "/code/", 6))
    return "is a program of torch.jit.save (in Python save torch.jit.load(FILE).state_dict(), and give that file)";
  if (le(p + 10, 2) != 0)
    return "is a compressed zip, which torch.save does not write (unpack it first)";
  if (!wide[1] && !wide[0] && csize != usize)
    return "has a broken zip directory";
  *used = CENTRAL_SIZE + name + extra + comment;
  return NULL;
}

static int by_name(const void *a, const void *b) {
  const record *x = a, *y = b;
  int c = memcmp(x->name, y->name, x->len < y->len ? x->len : y->len);
  return c ? c : (x->len > y->len) - (x->len < y->len);
}

/* Removes the archive's own folder from every name; all names must be in the same one. */
static bool strip_folder(zip_reader *z) {
  if (z->n == 0)
    return false;
  const char *slash = memchr(z->records[0].name, '/', z->records[0].len);
  if (!slash)
    return false;
  size_t folder = (size_t)(slash - z->records[0].name) + 1;
  const char *name = z->records[0].name;
  for (size_t i = 0; i < z->n; i++) {
    record *r = &z->records[i];
    if (r->len < folder || memcmp(r->name, name, folder))
      return false;
    r->name += folder;
    r->len -= folder;
  }
  return true;
}

static const char *read_directory(zip_reader *z) {
  uint64_t size, count, total = 0;
  if (!find_directory(&z->directory_at, &size, &count, z))
    return "is cut short or damaged (no zip directory at its end)";
  z->directory = mx_malloc(size + 1);
  z->records = mx_calloc(count + 1, sizeof *z->records);
  if (!z->directory || !z->records)
    return "does not fit into memory";
  if (!read_at(z->fd, z->directory, size, z->directory_at))
    return "cannot be read";
  size_t at = 0, used;
  for (; z->n < count; z->n++, at += used) {
    record *r = &z->records[z->n];
    const char *why = read_entry(r, &used, z->directory + at, size - at);
    if (why)
      return why;
    if (r->at > z->directory_at || r->size > z->directory_at - r->at || (total += r->size) > z->directory_at)
      return "is damaged (a record lies outside the file)";
  }
  if (!strip_folder(z))
    return "is a zip file, but not one of torch.save";
  qsort(z->records, z->n, sizeof *z->records, by_name);
  for (size_t i = 1; i < z->n; i++)
    if (by_name(&z->records[i - 1], &z->records[i]) == 0)
      return "is damaged (one record twice)";
  return NULL;
}

zip_reader *zip_open(int fd, char *error, size_t room) {
  struct stat st;
  zip_reader *z = mx_calloc(1, sizeof *z);
  const char *why = "does not fit into memory";
  if (z) {
    z->fd = fd;
    z->file_size = fstat(fd, &st) == 0 ? (uint64_t)st.st_size : 0;
    why = read_directory(z);
  }
  if (!why)
    return z;
  say(error, room, why);
  zip_close(z);
  return NULL;
}

void zip_close(zip_reader *z) {
  if (!z)
    return;
  mx_free(z->directory);
  mx_free(z->records);
  mx_free(z);
}

int64_t zip_find(const zip_reader *z, const char *name, size_t len) {
  record key = { .name = name, .len = len };
  const record *r = bsearch(&key, z->records, z->n, sizeof key, by_name);
  return r ? r - z->records : -1;
}

int64_t zip_size(const zip_reader *z, int64_t i) { return (int64_t)z->records[i].size; }
int64_t zip_count(const zip_reader *z) { return (int64_t)z->n; }

const char *zip_name(const zip_reader *z, int64_t i, size_t *len) {
  *len = z->records[i].len;
  return z->records[i].name;
}

bool zip_has_folder(const zip_reader *z, const char *folder) {
  size_t len = strlen(folder);
  for (size_t i = 0; i < z->n; i++)
    if (z->records[i].len > len && !memcmp(z->records[i].name, folder, len))
      return true;
  return false;
}

/* A CRC of 0 is what torch.save leaves when its checksums are switched off. */
bool zip_read(void *buf, zip_reader *z, int64_t i, char *error, size_t room) {
  const record *r = &z->records[i];
  unsigned char head[LOCAL_SIZE];
  if (!read_at(z->fd, head, sizeof head, r->at) || le(head, 4) != LOCAL)
    return say(error, room, "is damaged (a record's header is broken)");
  uint64_t at = r->at + LOCAL_SIZE + le(head + 26, 2) + le(head + 28, 2);
  if (at > z->directory_at || r->size > z->directory_at - at || !read_at(z->fd, buf, r->size, at))
    return say(error, room, "is cut short or damaged (a record lies outside the file)");
  if (r->crc && mx_crc32(0, buf, r->size) != r->crc) {
    snprintf(error, room, "is damaged (record %.*s has the wrong checksum)", r->len < 60 ? (int)r->len : 60, r->name);
    return false;
  }
  return true;
}

/* ---- writing ------------------------------------------------------------------------------------------------ */

struct zip_writer {
  whole_file *f;
  char folder[64];
  uint64_t at, count;
  unsigned char *directory;
  size_t n, room;
};

static unsigned char *put(unsigned char *p, uint64_t v, int bytes) {
  for (int i = 0; i < bytes; i++)
    *p++ = (unsigned char)(v >> 8 * i);
  return p;
}

static bool out(zip_writer *w, const void *data, size_t n) {
  w->at += n;
  int code = whole_file_write(w->f, data, n);
  if (code)
    errno = code;
  return code == 0;
}

zip_writer *zip_writer_new(whole_file *f, const char *folder) {
  zip_writer *w = mx_calloc(1, sizeof *w);
  if (w) {
    w->f = f;
    snprintf(w->folder, sizeof w->folder, "%s/", folder);
  }
  return w;
}

void zip_writer_free(zip_writer *w) {
  if (w)
    mx_free(w->directory);
  mx_free(w);
}

static uint64_t narrow(uint64_t v) { return v < 0xffffffff ? v : 0xffffffff; }

static bool directory_entry(zip_writer *w, const char *name, size_t len, uint64_t at, uint64_t size, uint32_t crc) {
  if (w->room - w->n < CENTRAL_SIZE + len + 28) {
    size_t room = (w->room + CENTRAL_SIZE + len + 28) * 2;
    unsigned char *more = mx_realloc(w->directory, room);
    if (!more)
      return errno = ENOMEM, false;
    w->directory = more;
    w->room = room;
  }
  bool wide = size >= 0xffffffff || at >= 0xffffffff;
  unsigned char *p = w->directory + w->n;
  p = put(put(put(put(p, CENTRAL, 4), 45, 2), 45, 2), 0x800, 2); /* made by, needs 4.5; names are UTF-8 */
  p = put(put(put(p, 0, 2), 0, 2), 0x21, 2);                     /* stored; 1980-01-01, so that files repeat */
  p = put(put(put(p, crc, 4), wide ? 0xffffffff : size, 4), wide ? 0xffffffff : size, 4);
  p = put(put(put(p, len, 2), wide ? 28 : 0, 2), 0, 2);
  p = put(put(put(p, 0, 2), 0, 2), 0, 4);
  p = put(p, wide ? 0xffffffff : at, 4);
  memcpy(p, name, len);
  p += len;
  if (wide)
    p = put(put(put(put(put(p, 1, 2), 24, 2), size, 8), size, 8), at, 8);
  w->n = (size_t)(p - w->directory);
  w->count++;
  return true;
}

bool zip_write(zip_writer *w, const char *name, const void *data, size_t n) {
  char path[256];
  int len = snprintf(path, sizeof path, "%s%s", w->folder, name);
  unsigned char head[LOCAL_SIZE + 20 + 4 + 64] = { 0 }, *p = head;
  if (len < 0 || (size_t)len >= sizeof path)
    return errno = ENAMETOOLONG, false;
  uint64_t at = w->at;
  uint32_t crc = mx_crc32(0, data, n);
  bool wide = n >= 0xffffffff;
  size_t fixed = LOCAL_SIZE + (size_t)len + (wide ? 20 : 0) + 4, pad = (64 - (at + fixed) % 64) % 64;
  p = put(put(put(p, LOCAL, 4), 45, 2), 0x800, 2);
  p = put(put(put(p, 0, 2), 0, 2), 0x21, 2);
  p = put(put(put(p, crc, 4), narrow(n), 4), narrow(n), 4);
  p = put(put(p, (uint64_t)len, 2), (wide ? 20 : 0) + 4 + pad, 2);
  if (!out(w, head, LOCAL_SIZE) || !out(w, path, (size_t)len))
    return false;
  p = head;
  if (wide)
    p = put(put(put(put(p, 1, 2), 16, 2), n, 8), n, 8);
  p = put(put(p, 0x4246, 2), pad, 2); /* "FB": torch's padding field */
  memset(p, 'Z', pad);
  return out(w, head, (size_t)(p - head) + pad) && out(w, data, n) && directory_entry(w, path, (size_t)len, at, n, crc);
}

bool zip_finish(zip_writer *w) {
  uint64_t at = w->at;
  unsigned char end[END64_SIZE + LOCATOR64_SIZE + END_SIZE] = { 0 }, *p = end;
  if (!out(w, w->directory, w->n))
    return false;
  uint64_t end64_at = w->at;
  p = put(put(put(put(p, END64, 4), END64_SIZE - 12, 8), 45, 2), 45, 2);
  p = put(put(put(put(p, 0, 4), 0, 4), w->count, 8), w->count, 8);
  p = put(put(p, w->n, 8), at, 8);
  p = put(put(put(put(p, LOCATOR64, 4), 0, 4), end64_at, 8), 1, 4);
  p = put(put(put(p, END, 4), 0, 2), 0, 2);
  p = put(put(p, w->count < 0xffff ? w->count : 0xffff, 2), w->count < 0xffff ? w->count : 0xffff, 2);
  p = put(put(put(p, narrow(w->n), 4), narrow(at), 4), 0, 2);
  return out(w, end, (size_t)(p - end));
}
