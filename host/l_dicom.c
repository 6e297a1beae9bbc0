/* l_dicom.c: the module `medxai.dicom`: what the header of a DICOM file says, read without libtorch.
 *   is(path) -> whether the file begins as a DICOM file does
 *   header(path) -> { width, height, channels, bits, frames, modality, view, spacing = { rows, columns } in mm,
 *   patient, instance }, or nil and why. patient and instance: SHA-256 of the identifiers; those themselves are never
 *   told. */
#include <fcntl.h>
#include <lauxlib.h>
#include <lua.h>
#include <unistd.h>
#include "dicom_file.h"
#include "host.h"

static int dicom_lua_is(lua_State *L) {
  uint8_t first[132];
  const int fd = open(luaL_checkstring(L, 1), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
  const ssize_t n = fd >= 0 ? read(fd, first, sizeof first) : -1;
  if (fd >= 0) close(fd);
  lua_pushboolean(L, n == (ssize_t)sizeof first && dicom_is(first, sizeof first));
  return 1;
}

static void set_integer(lua_State *L, const char *name, int v) {
  lua_pushinteger(L, v);
  lua_setfield(L, -2, name);
}

static void set_text(lua_State *L, const char *name, const char *text) {
  if (!text[0]) return;
  lua_pushstring(L, text);
  lua_setfield(L, -2, name);
}

static int dicom_lua_header(lua_State *L) {
  dicom_facts f;
  char why[DICOM_WHY];
  if (dicom_file_header(&f, luaL_checkstring(L, 1), why)) {
    lua_pushnil(L);
    lua_pushstring(L, why);
    return 2;
  }
  lua_createtable(L, 0, 10);
  set_integer(L, "width", f.w);
  set_integer(L, "height", f.h);
  set_integer(L, "channels", f.c);
  set_integer(L, "bits", f.bits);
  set_integer(L, "frames", f.frames);
  set_text(L, "modality", f.modality);
  set_text(L, "view", f.view);
  set_text(L, "patient", f.patient);
  set_text(L, "instance", f.instance);
  if (f.spacing[0] > 0) {
    lua_createtable(L, 2, 0);
    for (int i = 0; i < 2; i++) {
      lua_pushnumber(L, f.spacing[i]);
      lua_rawseti(L, -2, i + 1);
    }
    lua_setfield(L, -2, "spacing");
  }
  return 1;
}

int luaopen_medxai_dicom(lua_State *L) {
  static const luaL_Reg functions[] = { { "is", dicom_lua_is }, { "header", dicom_lua_header }, { NULL, NULL } };
  luaL_newlib(L, functions);
  return 1;
}
