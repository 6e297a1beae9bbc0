/* l_archive.c: the module `medxai.archive`: the zip archives of torch.save and torch.export.save, opened without
 * libtorch, so that a network can be described before there are tensors.
 *   open(path) -> archive, or nil and why ("is cut short ..."); archive:names(), archive:size(name) (nil: absent),
 *   archive:read(name) -> bytes, or nil and why; archive:close()
 *   write(path, folder, { { name, bytes } ... }) -> true, or nil and why: such an archive, written whole or not at all
 * It refuses what zip.h refuses; a record's bytes are checked against its CRC-32. */
#include <errno.h>
#include <fcntl.h>
#include <lauxlib.h>
#include <lua.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "host.h"
#include "zip.h"

#define ARCHIVE "medxai.archive"
#define WRITING "medxai.archive.writing"

typedef struct archive { int fd; zip_reader *zip; } archive;

static int archive_close(lua_State *L) {
  archive *a = luaL_checkudata(L, 1, ARCHIVE);
  zip_close(a->zip);
  if (a->fd >= 0) close(a->fd);
  a->zip = NULL;
  a->fd = -1;
  return 0;
}

static zip_reader *to_zip(lua_State *L) {
  archive *a = luaL_checkudata(L, 1, ARCHIVE);
  if (!a->zip) luaL_error(L, "archive is closed");
  return a->zip;
}

static int refused(lua_State *L, const char *why) {
  lua_pushnil(L);
  lua_pushstring(L, why);
  return 2;
}

static int archive_open(lua_State *L) {
  const char *path = luaL_checkstring(L, 1);
  char why[300];
  archive *a = lua_newuserdatauv(L, sizeof *a, 0);
  *a = (archive){ .fd = -1 };
  luaL_setmetatable(L, ARCHIVE);
  a->fd = open(path, O_RDONLY | O_CLOEXEC);
  if (a->fd < 0) {
    snprintf(why, sizeof why, "cannot be read (%s)", strerror(errno));
    return refused(L, why);
  }
  a->zip = zip_open(a->fd, why, sizeof why);
  return a->zip ? 1 : refused(L, why);
}

static int archive_names(lua_State *L) {
  zip_reader *z = to_zip(L);
  lua_newtable(L);
  for (int64_t i = 0; i < zip_count(z); i++) {
    size_t len;
    const char *name = zip_name(z, i, &len);
    lua_pushlstring(L, name, len);
    lua_rawseti(L, -2, (lua_Integer)i + 1);
  }
  return 1;
}

static int archive_size(lua_State *L) {
  zip_reader *z = to_zip(L);
  size_t len;
  const char *name = luaL_checklstring(L, 2, &len);
  int64_t i = zip_find(z, name, len);
  if (i < 0) return lua_pushnil(L), 1;
  lua_pushinteger(L, (lua_Integer)zip_size(z, i));
  return 1;
}

static int archive_read(lua_State *L) {
  zip_reader *z = to_zip(L);
  size_t len;
  const char *name = luaL_checklstring(L, 2, &len);
  int64_t i = zip_find(z, name, len);
  char why[300];
  if (i < 0) {
    snprintf(why, sizeof why, "has no record '%.100s'", name);
    return refused(L, why);
  }
  luaL_Buffer b;
  size_t n = (size_t)zip_size(z, i);
  char *to = luaL_buffinitsize(L, &b, n);
  if (!zip_read(to, z, i, why, sizeof why)) return refused(L, why);
  luaL_pushresultsize(&b, n);
  return 1;
}

/* What writing holds outside Lua's memory. */
typedef struct writing { whole_file file; zip_writer *zip; } writing;

static int writing_gc(lua_State *L) {
  writing *w = luaL_checkudata(L, 1, WRITING);
  whole_file_abandon(&w->file);
  zip_writer_free(w->zip);
  w->zip = NULL;
  return 0;
}

/* Writes the records of the list at index 3: 0, or an errno. */
static int write_records(lua_State *L, zip_writer *zip) {
  lua_Integer count = (lua_Integer)lua_rawlen(L, 3);
  for (lua_Integer i = 1; i <= count; i++) {
    size_t n;
    lua_rawgeti(L, 3, i);
    lua_rawgeti(L, -1, 1);
    lua_rawgeti(L, -2, 2);
    const char *name = luaL_checkstring(L, -2), *bytes = luaL_checklstring(L, -1, &n);
    errno = ENOMEM;
    if (!zip_write(zip, name, bytes, n)) return errno;
    lua_pop(L, 3);
  }
  errno = ENOMEM;
  return zip_finish(zip) ? 0 : errno;
}

static int archive_write(lua_State *L) {
  const char *path = luaL_checkstring(L, 1), *folder = luaL_checkstring(L, 2);
  luaL_checktype(L, 3, LUA_TTABLE);
  writing *w = lua_newuserdatauv(L, sizeof *w, 0);
  *w = (writing){ .file.fd = -1 };
  int code = whole_file_open(&w->file, path);
  if (!code) {
    luaL_setmetatable(L, WRITING);
    w->zip = zip_writer_new(&w->file, folder);
    code = w->zip ? write_records(L, w->zip) : ENOMEM;
    if (!code) code = whole_file_commit(&w->file);
    whole_file_abandon(&w->file);
  }
  if (code) {
    lua_pushnil(L);
    lua_pushfstring(L, "cannot write '%s': %s", path, strerror(code));
    return 2;
  }
  lua_pushboolean(L, true);
  return 1;
}

static void new_type(lua_State *L, const char *name, lua_CFunction gc, const luaL_Reg *methods) {
  luaL_newmetatable(L, name);
  lua_pushcfunction(L, gc);
  lua_setfield(L, -2, "__gc");
  lua_pushcfunction(L, gc);
  lua_setfield(L, -2, "__close");
  lua_newtable(L);
  if (methods) luaL_setfuncs(L, methods, 0);
  lua_setfield(L, -2, "__index");
  lua_pop(L, 1);
}

int luaopen_medxai_archive(lua_State *L) {
  static const luaL_Reg methods[] = {
    { "names", archive_names }, { "size", archive_size },   { "read", archive_read },
    { "close", archive_close }, { NULL, NULL },
  };
  static const luaL_Reg functions[] = { { "open", archive_open }, { "write", archive_write }, { NULL, NULL } };
  new_type(L, ARCHIVE, archive_close, methods);
  new_type(L, WRITING, writing_gc, NULL);
  luaL_newlib(L, functions);
  return 1;
}
