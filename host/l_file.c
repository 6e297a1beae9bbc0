/* l_file.c: medxai.file: what Lua's io library lacks: files written whole or not at all, sync, exclusive creation,
 * locks. Linked into the host, without libtorch, so that run folders can be listed and claimed in milliseconds.
 * A failure of the system is returned as nil, "verb 'path': reason", "ENOSPC", and the caller decides whether it is an
 * error. Wrong arguments raise. Names, formats and retries are the business of scripts/medxai/base/files.lua. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <lauxlib.h>
#include <lua.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>
#include "heart.h"
#include "whole_file.h"

#define HEART "medxai.file.heart"
#define HOLD "medxai.file.lock"

/* A userdata that owns a file descriptor and memory, so that a Lua error leaks nothing; file.lock returns one. */
typedef struct hold { int fd; void *mem; } hold;

static hold *push_hold(lua_State *L) {
  hold *h = lua_newuserdatauv(L, sizeof *h, 0);
  h->fd = -1;
  h->mem = NULL;
  luaL_setmetatable(L, HOLD);
  return h;
}

static int hold_close(lua_State *L) {
  hold *h = luaL_checkudata(L, 1, HOLD);
  if (h->fd >= 0) close(h->fd);
  free(h->mem);
  h->fd = -1;
  h->mem = NULL;
  return 0;
}

static const struct { int code; const char *name; } errno_names[] = {
  { EACCES, "EACCES" }, { EAGAIN, "EAGAIN" },   { EBUSY, "EBUSY" },         { EDQUOT, "EDQUOT" },
  { EEXIST, "EEXIST" }, { EFBIG, "EFBIG" },     { EINVAL, "EINVAL" },       { EIO, "EIO" },
  { EISDIR, "EISDIR" }, { ELOOP, "ELOOP" },     { EMFILE, "EMFILE" },       { ENAMETOOLONG, "ENAMETOOLONG" },
  { ENFILE, "ENFILE" }, { EINTR, "EINTR" },     { ENOENT, "ENOENT" },       { ENOMEM, "ENOMEM" },
  { ENOSPC, "ENOSPC" }, { ENOTDIR, "ENOTDIR" }, { ENOTEMPTY, "ENOTEMPTY" }, { EPERM, "EPERM" },
  { EROFS, "EROFS" },   { ESTALE, "ESTALE" },   { EXDEV, "EXDEV" },
};

static int failed(lua_State *L, const char *verb, const char *path, int code) {
  const char *name = NULL;
  for (size_t i = 0; i < sizeof errno_names / sizeof *errno_names && !name; i++)
    if (errno_names[i].code == code) name = errno_names[i].name;
  lua_pushnil(L);
  lua_pushfstring(L, "%s '%s': %s", verb, path, strerror(code));
  if (name) lua_pushstring(L, name);
  else lua_pushfstring(L, "errno %d", code);
  return 3;
}

/* A path with a zero byte is an error: the system would cut it short silently. */
static const char *check_path(lua_State *L, int arg) {
  size_t n;
  const char *path = luaL_checklstring(L, arg, &n);
  luaL_argcheck(L, strlen(path) == n, arg, "path holds a zero byte");
  luaL_argcheck(L, n > 0, arg, "path is empty");
  return path;
}

static int done(lua_State *L, int code, const char *verb, const char *path) { /* code: 0 or an errno */
  if (code != 0) return failed(L, verb, path, code);
  lua_pushboolean(L, true);
  return 1;
}

/* file.sync(path): the file's or folder's content is on the disk. */
static int file_sync(lua_State *L) {
  const char *path = check_path(L, 1);
  return done(L, whole_file_sync(path), "cannot sync", path);
}

/* file.write(path, bytes): the whole new content or, on any failure, the old file untouched. */
static int file_write(lua_State *L) {
  const char *path = check_path(L, 1);
  size_t n;
  const char *bytes = luaL_checklstring(L, 2, &n);
  return done(L, whole_file_put(path, bytes, n), "cannot write", path);
}

/* file.create(path, bytes): a new file with this content, synced; nil, text, "EEXIST" where there is one already.
 * Of several processes exactly one succeeds. */
static int file_create(lua_State *L) {
  const char *path = check_path(L, 1);
  size_t n;
  const char *bytes = luaL_optlstring(L, 2, "", &n);
  return done(L, whole_file_create(path, bytes, n), "cannot create", path);
}

/* file.first(path, bytes): the same, and whole at once: what another process finds is all of it. */
static int file_first(lua_State *L) {
  const char *path = check_path(L, 1);
  size_t n;
  const char *bytes = luaL_checklstring(L, 2, &n);
  return done(L, whole_file_first(path, bytes, n), "cannot write", path);
}

/* file.tidy(folder): removes temporary files of dead processes. */
static int file_tidy(lua_State *L) {
  const char *path = check_path(L, 1);
  return done(L, whole_file_tidy(path), "cannot list", path);
}

/* file.append(path, bytes [, synced]): one write at the end; a write that a full disk cuts off is undone. */
static int file_append(lua_State *L) {
  const char *path = check_path(L, 1);
  size_t n;
  const char *bytes = luaL_checklstring(L, 2, &n);
  bool sync = lua_toboolean(L, 3);
  return done(L, whole_file_append(path, bytes, n, sync), "cannot append to", path);
}

/* file.truncate(path, bytes) */
static int file_truncate(lua_State *L) {
  const char *path = check_path(L, 1);
  lua_Integer n = luaL_checkinteger(L, 2);
  luaL_argcheck(L, n >= 0, 2, "size must not be negative");
  return done(L, truncate(path, (off_t)n) == 0 ? 0 : errno, "cannot truncate", path);
}

/* Reads fd to its end into h->mem; returns 0 or an errno. */
static int read_all(hold *h, size_t room, size_t *got) {
  *got = 0;
  if (!(h->mem = malloc(room + 1))) return ENOMEM;
  for (;;) {
    if (*got == room + 1) { /* the file grew, or has no size (a pipe) */
      void *more = realloc(h->mem, 2 * room + 4096);
      if (!more) return ENOMEM;
      h->mem = more;
      room = 2 * room + 4095;
    }
    ssize_t k = read(h->fd, (char *)h->mem + *got, room + 1 - *got);
    if (k == 0) return 0;
    if (k > 0) *got += (size_t)k;
    else if (errno != EINTR) return errno;
  }
}

/* file.read(path): all bytes. */
static int file_read(lua_State *L) {
  const char *path = check_path(L, 1);
  hold *h = push_hold(L);
  struct stat st;
  size_t got;
  h->fd = open(path, O_RDONLY | O_CLOEXEC);
  if (h->fd < 0 || fstat(h->fd, &st) != 0) return failed(L, "cannot read", path, errno);
  if (S_ISDIR(st.st_mode)) return failed(L, "cannot read", path, EISDIR);
  int code = read_all(h, S_ISREG(st.st_mode) ? (size_t)st.st_size : 0, &got);
  if (code != 0) return failed(L, "cannot read", path, code);
  lua_pushlstring(L, h->mem, got);
  free(h->mem);
  h->mem = NULL;
  close(h->fd);
  h->fd = -1;
  return 1;
}

/* file.rename(from, to): atomic within a file system; replaces to; both folders are synced. */
static int file_rename(lua_State *L) {
  const char *from = check_path(L, 1), *to = check_path(L, 2);
  if (rename(from, to) != 0) return failed(L, "cannot rename", from, errno);
  int code = whole_file_sync_folder(to);
  return done(L, code ? code : whole_file_sync_folder(from), "cannot sync the folder of", to);
}

/* file.remove(path): a file or an empty folder. */
static int file_remove(lua_State *L) {
  const char *path = check_path(L, 1);
  return done(L, remove(path) == 0 ? 0 : errno, "cannot remove", path);
}

/* file.mkdir(path): creates the folder and its parents and syncs them; succeeds if it exists. */
static int file_mkdir(lua_State *L) {
  const char *path = check_path(L, 1);
  char part[4096];
  size_t n = strlen(path);
  if (n >= sizeof part) return failed(L, "cannot make folder", path, ENAMETOOLONG);
  for (size_t i = 1; i <= n; i++) {
    if (i < n && path[i] != '/') continue;
    memcpy(part, path, i);
    part[i] = 0;
    struct stat st;
    int code = mkdir(part, 0777) == 0 ? 0 : errno;
    if (code == 0) {
      code = whole_file_sync_folder(part);
      if (code != 0) return failed(L, "cannot sync the folder of", part, code);
      continue;
    }
    if (code != EEXIST && code != EISDIR) return failed(L, "cannot make folder", part, code);
    if (stat(part, &st) != 0 || !S_ISDIR(st.st_mode)) return failed(L, "cannot make folder", part, ENOTDIR);
  }
  return done(L, 0, "", path);
}

/* file.mkdtemp(prefix): a new folder whose name starts with prefix. */
static int file_mkdtemp(lua_State *L) {
  const char *prefix = check_path(L, 1);
  char path[4096];
  if (snprintf(path, sizeof path, "%sXXXXXX", prefix) >= (int)sizeof path)
    return failed(L, "cannot make folder", prefix, ENAMETOOLONG);
  if (!mkdtemp(path)) return failed(L, "cannot make folder", path, errno);
  int code = whole_file_sync_folder(path);
  if (code != 0) return failed(L, "cannot sync the folder of", path, code);
  lua_pushstring(L, path);
  return 1;
}

/* file.stat(path): { kind = "file"|"folder"|"other", bytes =, mtime = seconds } */
static int file_stat(lua_State *L) {
  const char *path = check_path(L, 1);
  struct stat st;
  if (stat(path, &st) != 0) return failed(L, "cannot look at", path, errno);
  lua_createtable(L, 0, 3);
  lua_pushstring(L, S_ISREG(st.st_mode) ? "file" : S_ISDIR(st.st_mode) ? "folder" : "other");
  lua_setfield(L, -2, "kind");
  lua_pushinteger(L, (lua_Integer)st.st_size);
  lua_setfield(L, -2, "bytes");
  lua_pushnumber(L, (lua_Number)st.st_mtim.tv_sec + 1e-9 * (lua_Number)st.st_mtim.tv_nsec);
  lua_setfield(L, -2, "mtime");
  return 1;
}

static int compare_names(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

/* file.list(folder): names without . and .., sorted by their bytes whatever the locale. */
static int file_list(lua_State *L) {
  const char *path = check_path(L, 1);
  hold *h = push_hold(L); /* one block: pointers, then the names themselves */
  struct dirent **found;
  int n = scandir(path, &found, NULL, NULL);
  if (n < 0) return failed(L, "cannot list", path, errno);
  size_t bytes = 0, at = 0;
  for (int i = 0; i < n; i++) bytes += strlen(found[i]->d_name) + 1;
  char **names = h->mem = malloc((size_t)n * sizeof *names + bytes + 1);
  char *text = names ? (char *)(names + n) : NULL;
  for (int i = 0; i < n; i++) {
    if (names) names[i] = strcpy(text + at, found[i]->d_name);
    at += strlen(found[i]->d_name) + 1;
    free(found[i]);
  }
  free(found);
  if (!names) return failed(L, "cannot list", path, ENOMEM);
  qsort(names, (size_t)n, sizeof *names, compare_names);
  lua_createtable(L, n, 0);
  lua_Integer k = 0;
  for (int i = 0; i < n; i++) {
    if (strcmp(names[i], ".") == 0 || strcmp(names[i], "..") == 0) continue;
    lua_pushstring(L, names[i]);
    lua_rawseti(L, -2, ++k);
  }
  return 1;
}

/* file.realpath(path) */
static int file_realpath(lua_State *L) {
  const char *path = check_path(L, 1);
  char *real = realpath(path, NULL);
  if (!real) return failed(L, "cannot find", path, errno);
  lua_pushstring(L, real);
  free(real);
  return 1;
}

/* file.free_bytes(path): free space on its file system, as available to this user. */
static int file_free_bytes(lua_State *L) {
  const char *path = check_path(L, 1);
  struct statvfs s;
  if (statvfs(path, &s) != 0) return failed(L, "cannot look at", path, errno);
  lua_pushinteger(L, (lua_Integer)s.f_bavail * (lua_Integer)s.f_frsize);
  return 1;
}

/* file.lock(path [, wait]): an exclusive lock, held until :close(), its collection or the end of the process, even by a
 * crash; nil, text, "EAGAIN" while another process has it. The file is created if missing and never removed. */
static int file_lock(lua_State *L) {
  const char *path = check_path(L, 1);
  bool wait = lua_toboolean(L, 2);
  hold *h = push_hold(L);
  h->fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (h->fd < 0) return failed(L, "cannot lock", path, errno);
  if (flock(h->fd, wait ? LOCK_EX : LOCK_EX | LOCK_NB) == 0) return 1;
  int code = errno; /* EINTR too: the caller checks for Ctrl-C and tries again */
  close(h->fd);
  h->fd = -1;
  return failed(L, "cannot lock", path, code);
}

/* file.heart(path, text, seconds): a new file whose first line is a counter that a thread raises every so many seconds
 * until :close(), which removes the file; below it stands text. The file is locked where the system can do that.
 * Returns the heart and whether it is locked. */
static int file_heart(lua_State *L) {
  const char *path = check_path(L, 1), *text = luaL_checkstring(L, 2);
  double seconds = luaL_checknumber(L, 3);
  luaL_argcheck(L, seconds >= 0.001 && seconds < 1e6, 3, "seconds from 0.001 expected");
  heart **h = lua_newuserdatauv(L, sizeof *h, 0);
  *h = NULL;
  luaL_setmetatable(L, HEART);
  bool locked;
  int code = heart_start(h, path, text, seconds, &locked);
  if (code != 0) return failed(L, "cannot create", path, code);
  lua_pushboolean(L, locked);
  return 2;
}

static int heart_close(lua_State *L) {
  heart **h = luaL_checkudata(L, 1, HEART);
  heart_stop(*h);
  *h = NULL;
  return 0;
}

/* file.pid() */
static int file_pid(lua_State *L) {
  lua_pushinteger(L, (lua_Integer)getpid());
  return 1;
}

static const luaL_Reg functions[] = {
  { "append",     file_append },
  { "create",     file_create },
  { "first",      file_first },
  { "free_bytes", file_free_bytes },
  { "heart",      file_heart },
  { "list",       file_list },
  { "lock",       file_lock },
  { "mkdir",      file_mkdir },
  { "mkdtemp",    file_mkdtemp },
  { "pid",        file_pid },
  { "read",       file_read },
  { "realpath",   file_realpath },
  { "remove",     file_remove },
  { "rename",     file_rename },
  { "stat",       file_stat },
  { "sync",       file_sync },
  { "tidy",       file_tidy },
  { "truncate",   file_truncate },
  { "write",      file_write },
  { NULL, NULL },
};

static const luaL_Reg hold_methods[] = {
  { "close",   hold_close },
  { "__close", hold_close },
  { "__gc",    hold_close },
  { NULL, NULL },
};

static const luaL_Reg heart_methods[] = {
  { "close",   heart_close },
  { "__close", heart_close },
  { "__gc",    heart_close },
  { NULL, NULL },
};

static void new_class(lua_State *L, const char *name, const luaL_Reg *methods) {
  luaL_newmetatable(L, name);
  luaL_setfuncs(L, methods, 0);
  lua_pushvalue(L, -1);
  lua_setfield(L, -2, "__index");
  lua_pop(L, 1);
}

int luaopen_medxai_file(lua_State *L) {
  new_class(L, HOLD, hold_methods);
  new_class(L, HEART, heart_methods);
  luaL_newlib(L, functions);
  return 1;
}
