/* host.h: what the host's files share. The host is the program: it reads the command line, runs one Lua file, and
 * handles its errors and signals. It uses Lua and libedit; it opens libtorch, but does not call it. */
#ifndef MEDXAI_HOST_H
#define MEDXAI_HOST_H

#include <lauxlib.h>
#include <lua.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>

#define HOST_VERSION "0.1.0"
#define HOST_DEFAULT_SEED 42

enum { EXIT_DONE = 0, EXIT_FAILED = 1, EXIT_USAGE = 2 }; /* and 128 + signal number when stopped by one */

/* ---- options.c ---- */
typedef struct host_pair { const char *name, *value; } host_pair;
typedef struct host_options {
  const char *file; /* the experiment; "-" is standard input; NULL: none */
  const char *code; /* -e */
  const char *device, *out;
  bool command;     /* file names one of the program's own commands (command_file) */
  bool interactive, trace, profile, smoke, resume, overwrite, quiet, verbose, help, version, has_seed;
  int threads; /* 0: not given */
  int devices, restarts; /* processes that train together; 0: not given */
  long long seed;
  host_pair *fields; /* --field value after FILE; all strings are argv's own */
  int nfields;
  char **args; /* what is left for the experiment, in order */
  int nargs;
} host_options;
bool options_read(host_options *o, int argc, char **argv); /* false: an error was printed to stderr */
bool options_check_devices(const host_options *o); /* the same */
void options_free(host_options *o);
void options_help(void);
/* The file scripts/medxai/command/<file>.lua of one of the program's own commands; NULL: word is none. */
const char *command_file(const char *word);

/* ---- paths.c ---- */
typedef struct host_paths {
  char *exe, *exe_dir;
  char *scripts; /* the folder that holds medxai/; NULL when not found */
  char *core;    /* medxai_core.so */
} host_paths;
bool paths_find(host_paths *p); /* false: an error was printed */
void paths_free(host_paths *p);
void paths_install(lua_State *L, const host_paths *p, const char *script_dir); /* package.path */
char *path_folder(const char *path); /* "." where it names none; caller frees */

/* ---- threads.c ---- */
int threads_available(const char *root); /* physical cores this process may use; root: "" or a test's copy of / */
void threads_set_environment(int n);     /* for OpenMP, BLAS and cuBLAS: before libtorch is opened */

/* ---- devices.c ---- */
bool devices_run(host_options *o, int *code); /* --devices N: true in each of the N processes */

/* ---- core.c ---- */
int core_open(lua_State *L);                   /* opens libtorch; called by require "medxai.core" */
const char *core_error_full(void);             /* libtorch's whole last error, or NULL */
extern const char *volatile core_running_op;   /* set by the core while an operator runs */

/* ---- module.c ---- */
int module_open(lua_State *L);       /* require "medxai.host" */
void module_warn(lua_State *L, const char *message);
void module_lua_warning(void *state, const char *piece, int more); /* for lua_setwarnf */
int module_finish(lua_State *L, int code); /* runs at_exit functions, counts warnings, flushes; new exit code */

/* ---- report.c ---- */
int report_handler(lua_State *L);                /* message handler for lua_pcall */
int report_failure(lua_State *L, int status);    /* prints the message on top, pops it; exit code */
const char *report_last(void);                   /* the last message printed, or NULL */
void report_free(void);

/* ---- signals.c ---- */
extern volatile sig_atomic_t signals_caught; /* the first signal that stops the program; 0: none */
void signals_install(lua_State *L);
const char *signals_name(int sig);
void signals_clear(void);                    /* the REPL goes on after an interrupt */
void signals_finish(void);                   /* ends the stop, so that functions given to at_exit can run */
void signals_hold(bool on);                  /* on: SIGUSR1 and SIGUSR2 wait; off: one that waited stops the program */
int signals_asked(void);                     /* the one that waits; 0: none */
void signals_sleep(double seconds);          /* less where a signal comes */
void signals_leave(void);                    /* before the Lua state is closed: handlers no longer touch it */
int signals_stopped_by(void);                /* 0: none */
void signals_guard_library(lua_State *L);    /* replaces pcall, xpcall and coroutines: they let an interrupt pass */
lua_State *signals_enter(lua_State *L);      /* L runs from here on; returns the previous one */
lua_State *signals_running(void);            /* the running coroutine; NULL: none */

/* ---- crash.c ---- */
void crash_install(void);

/* ---- repl.c ---- */
int repl_run(lua_State *L);

/* ---- state.c ---- */
int state_prepare(lua_State *L); /* a Lua function: fills the experiment's state */
void state_fill(lua_State *L);   /* the same without the native core and Lua's own warnings; may raise */

/* ---- separate.c ---- */
int separate_run(lua_State *L);  /* host.separate(file, texts...): a file of the library in a Lua state of its own */

/* ---- main.c ---- */
typedef struct host {
  host_options options;
  host_paths paths;
  const char *script; /* what messages call the experiment */
  char *script_dir;
  int cores, threads;
  double started;
} host;
extern host the_host;

#endif
