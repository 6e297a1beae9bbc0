/* paths.c: finds the Lua library and the native core, relative to the executable, so that an installed copy works from
 * any folder. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "host.h"

static char *join(const char *folder, const char *name) {
  char *path = NULL;
  return asprintf(&path, "%s/%s", folder, name) < 0 ? NULL : path;
}

char *path_folder(const char *path) {
  const char *slash = strrchr(path, '/');
  if (!slash) return strdup(".");
  return slash == path ? strdup("/") : strndup(path, (size_t)(slash - path));
}

/* The resolved path of folder/name when it exists, else NULL; caller frees. */
static char *existing(const char *folder, const char *name) {
  char *path = join(folder, name);
  char *real = path ? realpath(path, NULL) : NULL;
  free(path);
  return real;
}

static char *scripts_in(const char *folder, const char *name) {
  char *scripts = existing(folder, name);
  if (!scripts) return NULL;
  char *library = existing(scripts, "medxai");
  if (library) { free(library); return scripts; }
  free(scripts);
  return NULL;
}

/* A build folder is recognized by CMake's cache; its source tree may be elsewhere. */
static char *scripts_of_build(const char *exe_dir) {
  char *cache = existing(exe_dir, "CMakeCache.txt");
  if (!cache) return NULL;
  free(cache);
  char *scripts = scripts_in(exe_dir, "../scripts");
  return scripts ? scripts : scripts_in(MEDXAI_SOURCE_SCRIPTS, ".");
}

bool paths_find(host_paths *p) {
  memset(p, 0, sizeof *p);
  p->exe = realpath("/proc/self/exe", NULL);
  if (!p->exe) {
    fprintf(stderr, "medxai-run: host: cannot read /proc/self/exe (%s). Mount /proc.\n", strerror(errno));
    return false;
  }
  p->exe_dir = path_folder(p->exe);
  const char *chosen = getenv("MEDXAI_SCRIPTS");
  if (chosen && *chosen) {
    p->scripts = scripts_in(chosen, ".");
    if (!p->scripts) {
      fprintf(stderr,
              "medxai-run: host: MEDXAI_SCRIPTS is '%s', which holds no folder medxai. Name the folder that does.\n",
              chosen);
      return false;
    }
  }
  if (!p->scripts) p->scripts = scripts_of_build(p->exe_dir);
  if (!p->scripts) p->scripts = scripts_in(p->exe_dir, "../share/medxai/scripts");
  if (!p->scripts) {
    fprintf(stderr, "medxai-run: host: the Lua library is not beside %s (expected ../share/medxai/scripts). "
                    "Install with cmake --install, or set MEDXAI_SCRIPTS.\n", p->exe);
    return false;
  }
  p->core = existing(p->exe_dir, "medxai_core.so");
  if (!p->core) p->core = existing(p->exe_dir, "../lib/medxai/medxai_core.so");
  return true;
}

void paths_free(host_paths *p) {
  free(p->exe); free(p->exe_dir); free(p->scripts); free(p->core);
  memset(p, 0, sizeof *p);
}

/* The library first, so that a folder medxai beside an experiment does not hide it; then the experiment's folder. */
void paths_install(lua_State *L, const host_paths *p, const char *script_dir) {
  lua_getglobal(L, "package");
  lua_getfield(L, -1, "path");
  lua_pushfstring(L, "%s/?.lua;%s/?/init.lua;%s/?.lua;%s/?/init.lua;%s",
                  p->scripts, p->scripts, script_dir, script_dir, lua_tostring(L, -1));
  lua_setfield(L, -3, "path");
  lua_pop(L, 2);
}
