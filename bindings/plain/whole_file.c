/* whole_file.c: see whole_file.h. A temporary name is .<name>.tmp-<place>-<pid>-<token>-<counter>; all but the name,
 * which may be cut, are hexadecimal. The place identifies one boot of one machine and one namespace of process ids:
 * only there does a process id tell whether the writer is alive. The token is a random number per process, since ids
 * are reused. */
#include "whole_file.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

enum { NAME_PART = 100, WEEK = 7 * 24 * 3600 }; /* a name may have 255 bytes: so many are the file's own */

/* ---- names --------------------------------------------------------------------------------------------------- */

static uint64_t random_bits(void) {
  uint64_t v;
  struct timespec t;
  if (getrandom(&v, sizeof v, GRND_NONBLOCK) == (ssize_t)sizeof v)
    return v;
  clock_gettime(CLOCK_REALTIME, &t); /* no random numbers yet, early at boot */
  return ((uint64_t)t.tv_nsec ^ (uint64_t)t.tv_sec << 30 ^ (uintptr_t)&v) * 0x9E3779B97F4A7C15u;
}

/* The first value that a thread finds stays. */
static uint64_t settle(_Atomic uint64_t *known, uint64_t found) {
  uint64_t none = 0;
  return atomic_compare_exchange_strong(known, &none, found) ? found : none;
}

static uint64_t token(void) {
  static _Atomic uint64_t known;
  return known ? known : settle(&known, random_bits() | 1);
}

static uint64_t hash(uint64_t h, const char *text, size_t n) { /* FNV-1a */
  for (size_t i = 0; i < n; i++)
    h = (h ^ (unsigned char)text[i]) * 0x100000001b3u;
  return h;
}

/* The place, see the top; a random number if the system does not tell. */
static uint64_t place(void) {
  static _Atomic uint64_t known;
  char boot[64], space[64];
  struct utsname machine;
  if (known)
    return known;
  int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
  ssize_t n = fd >= 0 ? read(fd, boot, sizeof boot) : -1, m = readlink("/proc/self/ns/pid", space, sizeof space);
  if (fd >= 0)
    close(fd);
  if (n <= 0 || m <= 0 || uname(&machine) != 0)
    return settle(&known, random_bits() | 1);
  uint64_t h = hash(hash(0xcbf29ce484222325u, boot, (size_t)n), space, (size_t)m);
  return settle(&known, hash(h, machine.nodename, strlen(machine.nodename)) | 1);
}

static const char *base_name(const char *path) {
  const char *slash = strrchr(path, '/');
  return slash ? slash + 1 : path;
}

static int temporary_name(char out[PATH_MAX], const char *path) {
  static atomic_uint counter;
  const char *name = base_name(path);
  int n = snprintf(out, PATH_MAX, "%.*s.%.*s.tmp-%" PRIx64 "-%x-%" PRIx64 "-%x", (int)(name - path), path, NAME_PART,
                   name, place(), (unsigned)getpid(), token(), atomic_fetch_add(&counter, 1));
  return n < PATH_MAX ? 0 : ENAMETOOLONG;
}

/* ---- syncing ------------------------------------------------------------------------------------------------- */

int whole_file_sync(const char *path) {
  struct stat st;
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  int code = fd < 0 ? errno : 0;
  if (code == EACCES && stat(path, &st) == 0 && S_ISDIR(st.st_mode))
    return 0; /* a folder that may be written but not read */
  if (code)
    return code;
  code = fsync(fd) == 0 || errno == EINVAL || errno == ENOTSUP ? 0 : errno;
  close(fd);
  return code;
}

int whole_file_sync_folder(const char *path) {
  char folder[PATH_MAX];
  size_t n = strlen(path);
  while (n > 1 && path[n - 1] == '/') /* "a/b/" is a name in a */
    n--;
  while (n > 0 && path[n - 1] != '/')
    n--;
  while (n > 1 && path[n - 1] == '/')
    n--;
  if (n >= sizeof folder)
    return ENAMETOOLONG;
  memcpy(folder, n ? path : ".", n ? n : 1);
  folder[n ? n : 1] = 0;
  return whole_file_sync(folder);
}

/* ---- writing ------------------------------------------------------------------------------------------------- */

static int write_all(int fd, const char *bytes, size_t n) {
  while (n > 0) {
    ssize_t done = write(fd, bytes, n < 1 << 30 ? n : 1 << 30);
    if (done < 0 && errno == EINTR)
      continue;
    if (done <= 0)
      return done < 0 ? errno : EIO;
    bytes += done;
    n -= (size_t)done;
  }
  return 0;
}

/* Closes fd always. */
static int finish(int fd, int code, bool sync) {
  if (!code && sync && fsync(fd) != 0 && errno != EINVAL && errno != ENOTSUP)
    code = errno;
  if (close(fd) != 0 && !code)
    code = errno;
  return code;
}

int whole_file_open(whole_file *w, const char *path) {
  struct stat st;
  size_t n = strlen(path);
  w->fd = -1;
  w->temporary[0] = 0;
  if (n == 0 || n >= PATH_MAX)
    return n ? ENAMETOOLONG : ENOENT;
  if (stat(path, &st) == 0 && !S_ISREG(st.st_mode))
    return S_ISDIR(st.st_mode) ? EISDIR : EOPNOTSUPP;
  memcpy(w->path, path, n + 1);
  do {
    int code = temporary_name(w->temporary, path);
    if (code)
      return w->temporary[0] = 0, code;
    w->fd = open(w->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  } while (w->fd < 0 && errno == EEXIST);
  if (w->fd >= 0)
    return 0;
  w->temporary[0] = 0;
  return errno;
}

int whole_file_write(whole_file *w, const void *bytes, size_t n) { return write_all(w->fd, bytes, n); }

int whole_file_commit(whole_file *w) {
  int code = finish(w->fd, 0, true);
  w->fd = -1;
  if (!code && rename(w->temporary, w->path) != 0)
    code = errno;
  if (code)
    return code;
  w->temporary[0] = 0;
  return whole_file_sync_folder(w->path);
}

void whole_file_abandon(whole_file *w) {
  if (w->fd >= 0)
    close(w->fd);
  if (w->temporary[0])
    unlink(w->temporary);
  w->fd = -1;
  w->temporary[0] = 0;
}

int whole_file_put(const char *path, const void *bytes, size_t n) {
  whole_file w;
  int code = whole_file_open(&w, path);
  code = code ? code : whole_file_write(&w, bytes, n);
  code = code ? code : whole_file_commit(&w);
  whole_file_abandon(&w);
  return code;
}

int whole_file_create(const char *path, const void *bytes, size_t n) {
  int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (fd < 0)
    return errno;
  int code = finish(fd, write_all(fd, bytes, n), true);
  code = code ? code : whole_file_sync_folder(path);
  if (code)
    unlink(path);
  return code;
}

/* A link is made once, even where the answer of a network file system was lost: then the file has two names. */
static int link_first(whole_file *w) {
  struct stat st;
  if (link(w->temporary, w->path) == 0)
    return 0;
  int code = errno;
  if (code == EEXIST)
    return stat(w->temporary, &st) == 0 && st.st_nlink == 2 ? 0 : EEXIST;
  if (code != EPERM && code != EOPNOTSUPP && code != ENOSYS)
    return code;
  if (stat(w->path, &st) == 0) /* no hard links here */
    return EEXIST;
  return rename(w->temporary, w->path) == 0 ? 0 : errno;
}

int whole_file_first(const char *path, const void *bytes, size_t n) {
  whole_file w;
  int code = whole_file_open(&w, path);
  code = code ? code : whole_file_write(&w, bytes, n);
  if (!code) {
    code = finish(w.fd, 0, true);
    w.fd = -1;
  }
  code = code ? code : link_first(&w);
  whole_file_abandon(&w); /* of two names the temporary one */
  return code ? code : whole_file_sync_folder(path);
}

/* Truncates fd to its length before a failed write, unless another process has appended since. */
static void take_back(int fd, off_t before, size_t n) {
  struct stat st;
  if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size > before && st.st_size - before < (off_t)n &&
      ftruncate(fd, before) != 0) {
    /* a torn last line stays; readers skip it */
  }
}

int whole_file_append(const char *path, const void *bytes, size_t n, bool sync) {
  int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  if (fd < 0)
    return errno;
  off_t before = lseek(fd, 0, SEEK_END);
  int code = write_all(fd, bytes, n);
  if (code && before >= 0)
    take_back(fd, before, n);
  code = finish(fd, code, sync);
  return code || !sync || before > 0 ? code : whole_file_sync_folder(path);
}

/* ---- tidying up ---------------------------------------------------------------------------------------------- */

typedef struct writer {
  uint64_t place, token;
  unsigned pid, counter;
} writer;

/* The writer of a temporary name; false: it is none of ours. */
static bool writer_of(writer *out, const char *name) {
  const char *mark = NULL, *next = name;
  int end = -1;
  while ((next = strstr(next + 1, ".tmp-"))) /* the last one */
    mark = next;
  if (name[0] != '.' || !mark || strspn(mark + 5, "0123456789abcdef-") != strlen(mark + 5))
    return false;
  int n = sscanf(mark, ".tmp-%16" SCNx64 "-%8x-%16" SCNx64 "-%8x%n", &out->place, &out->pid, &out->token,
                 &out->counter, &end);
  return n == 4 && mark[end] == 0 && out->pid > 0 && out->pid <= INT_MAX;
}

/* The time on the folder's file system: that of a file made there just now. 0: it cannot be told. */
static time_t time_there(const char *folder) {
  char path[PATH_MAX];
  struct stat st;
  whole_file w;
  time_t t = 0;
  if (snprintf(path, sizeof path, "%s/clock", folder) >= (int)sizeof path)
    return 0;
  if (whole_file_open(&w, path) == 0 && whole_file_write(&w, "", 1) == 0 && fstat(w.fd, &st) == 0)
    t = st.st_mtime;
  whole_file_abandon(&w);
  return t;
}

/* Whether a writer is dead, alive or unknown, without the clock. A writer with our process id and another token is an
 * earlier process. */
typedef enum fate { OURS, GONE, UNKNOWN } fate;

static fate fate_of(const writer *w) {
  if (w->place != place())
    return UNKNOWN;
  if (w->pid == (unsigned)getpid())
    return w->token == token() ? OURS : GONE;
  return kill((pid_t)w->pid, 0) != 0 && errno == ESRCH ? GONE : UNKNOWN;
}

int whole_file_tidy(const char *folder) {
  DIR *d = opendir(folder);
  if (!d)
    return errno == ENOENT ? 0 : errno;
  time_t now = 0;
  for (struct dirent *e; (e = readdir(d));) {
    writer w;
    struct stat st;
    if (!writer_of(&w, e->d_name) || fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW) != 0)
      continue;
    fate known = fate_of(&w);
    if (known == UNKNOWN && !now)
      now = time_there(folder);
    if (known == GONE || (known == UNKNOWN && now && now - st.st_mtime > WEEK))
      unlinkat(dirfd(d), e->d_name, 0);
  }
  closedir(d);
  return 0;
}
