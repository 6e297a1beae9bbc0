/* main.c: medxai-run: reads the command line, makes a Lua state with the library's path, runs one Lua file (the
 * experiment), reports how it ended. What an experiment can do is in scripts/medxai. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "host.h"

host the_host;

/* Pushes the loaded chunk, or reports the error and returns an exit code. */
static int load(lua_State *L, const host_options *o) {
  int status;
  if (o->code) status = luaL_loadbuffer(L, o->code, strlen(o->code), "=(command line)");
  else if (strcmp(o->file, "-") == 0) status = luaL_loadfile(L, NULL);
  else {
    struct stat s;
    const char *why = stat(o->file, &s) != 0       ? strerror(errno)
                      : S_ISDIR(s.st_mode)         ? "it is a folder"
                      : access(o->file, R_OK) != 0 ? strerror(errno)
                                                   : NULL;
    if (why) {
      fprintf(stderr, "medxai-run: cannot read '%s' (%s). Name a Lua file.\n", o->file, why);
      return EXIT_USAGE;
    }
    status = luaL_loadfilex(L, o->file, "t");
    const char *said = status == LUA_ERRSYNTAX ? lua_tostring(L, -1) : NULL;
    if (said && strstr(said, "attempt to load a binary chunk")) { /* Lua's own words leave out the file */
      fprintf(stderr, "medxai-run: '%s' is not text (it begins like compiled Lua). Name a Lua file.\n", o->file);
      return EXIT_USAGE;
    }
  }
  return status == LUA_OK ? EXIT_DONE : report_failure(L, status);
}

/* A field of the command line that no option took is an error, if the experiment checks options at all. */
static int refuse_unused_fields(lua_State *L) {
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
  if (lua_getfield(L, -1, "medxai.base.fields") != LUA_TTABLE) return 0;
  lua_getfield(L, -1, "refuse_unused");
  lua_call(L, 0, 0);
  return 0;
}

/* A GPU that is not here is told before the experiment reads anything. */
static int open_device(lua_State *L) {
  lua_getglobal(L, "require");
  lua_pushliteral(L, "medxai.core");
  lua_call(L, 1, 0);
  return 0;
}

static int run(lua_State *L, const host_options *o) {
  lua_pushcfunction(L, report_handler);
  if (o->device && strcmp(o->device, "cpu") != 0 && !o->command) {
    lua_pushcfunction(L, open_device);
    int status = lua_pcall(L, 0, 0, 1);
    if (status != LUA_OK) return report_failure(L, status);
  }
  int code = load(L, o);
  if (code != EXIT_DONE) return code;
  int status = LUA_ERRRUN;
  if (lua_checkstack(L, o->nargs)) {
    for (int i = 0; i < o->nargs; i++) lua_pushstring(L, o->args[i]);
    status = lua_pcall(L, o->nargs, 0, 1);
    if (status == LUA_OK) {
      lua_pushcfunction(L, refuse_unused_fields);
      status = lua_pcall(L, 0, 0, 1);
    }
  } else lua_pushliteral(L, "host: too many arguments. Put them in a file.");
  return status == LUA_OK ? EXIT_DONE : report_failure(L, status);
}

static int run_all(lua_State *L, const host_options *o) {
  int code = o->file || o->code ? run(L, o) : EXIT_DONE;
  lua_settop(L, 0);
  return code == EXIT_DONE && o->interactive ? repl_run(L) : code;
}

static const char *script_name(const host_options *o) {
  if (o->code) return "(command line)";
  if (!o->file) return "stdin";
  return strcmp(o->file, "-") == 0 ? "stdin" : o->file;
}

/* One of the program's own commands is a Lua file of the library; a file of several commands is told which. */
static void use_command(host_options *o) {
  static char path[4096];
  const char *file = command_file(o->file);
  if (strcmp(file, o->file) != 0) {
    memmove(o->args + 1, o->args, (size_t)o->nargs * sizeof *o->args); /* has room for every word and one more */
    o->args[0] = (char *)o->file; /* nobody writes to it */
    o->nargs++;
  }
  snprintf(path, sizeof path, "%s/medxai/command/%s.lua", the_host.paths.scripts, file);
  o->file = path;
}

static int no_file(void) {
  fputs("medxai-run: no FILE named. See medxai-run --help.\n", stderr);
  return EXIT_USAGE;
}

static void choose_threads(void) { /* --threads, else OMP_NUM_THREADS, else every core that may be used */
  const char *omp = getenv("OMP_NUM_THREADS");
  int wanted = the_host.options.threads > 0 ? the_host.options.threads : omp ? atoi(omp) : 0;
  the_host.cores = threads_available("");
  the_host.threads = wanted > 0 ? wanted : the_host.cores;
}

/* The caller may have closed 0, 1 or 2. The first file opened would get that number, and printed text would go into
 * it. */
static void hold_standard_files(void) {
  int fd;
  do fd = open("/dev/null", O_RDWR); while (fd >= 0 && fd <= STDERR_FILENO);
  if (fd >= 0) close(fd);
}

int main(int argc, char **argv) {
  host_options *o = &the_host.options;
  hold_standard_files();
  if (!options_read(o, argc, argv)) return EXIT_USAGE;
  if (o->help) { options_help(); return EXIT_DONE; }
  if (o->version) {
    puts("medxai-run " HOST_VERSION " (" LUA_RELEASE ", built with libtorch " MEDXAI_TORCH_VERSION ")");
    return EXIT_DONE;
  }
  if (!o->file && !o->code && !o->interactive) return no_file();
  if (!options_check_devices(o)) return EXIT_USAGE;
  int parent_code;
  if (o->devices > 1 && !devices_run(o, &parent_code)) return parent_code;
  if (!paths_find(&the_host.paths)) return EXIT_USAGE;
  if (o->command) use_command(o);
  the_host.script = script_name(o);
  the_host.script_dir = o->code || !o->file || strcmp(o->file, "-") == 0 ? strdup(".") : path_folder(o->file);
  choose_threads();
  lua_State *L = luaL_newstate();
  if (!L) { fputs("medxai-run: host: out of memory.\n", stderr); return EXIT_FAILED; }
  signals_install(L);
  crash_install();
  lua_pushcfunction(L, report_handler);
  lua_pushcfunction(L, state_prepare);
  int status = lua_pcall(L, 0, 0, 1);
  int code = status != LUA_OK ? report_failure(L, status) : run_all(L, o);
  code = module_finish(L, code);
  signals_leave();
  lua_close(L);
  paths_free(&the_host.paths);
  options_free(o);
  report_free();
  free(the_host.script_dir);
  return code;
}
