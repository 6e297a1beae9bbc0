/* repl.c: the prompt (-i): a line is an expression whose values are printed, or statements; an unfinished line
 * continues on the next. On a terminal libedit gives history and completion; from a pipe plain lines are read. Ctrl-C
 * drops the line or stops the running code. libtorch is opened by the first line that needs it. */
#include <editline/readline.h>
#include <errno.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "host.h"

enum { HISTORY_LINES = 1000 };

static lua_State *completing; /* libedit's callbacks have no argument for it */
static bool on_terminal;

/* ---- completion: medxai.repl's complete(text) -> list of whole words ---- */

static char *next_match(const char *text, int state) {
  (void)text;
  static lua_Integer i;
  if (state == 0) i = 0;
  if (lua_type(completing, -1) != LUA_TTABLE) return NULL;
  lua_rawgeti(completing, -1, ++i);
  const char *word = lua_tostring(completing, -1);
  char *copy = word ? strdup(word) : NULL; /* libedit frees it */
  lua_pop(completing, 1);
  return copy;
}

static int push_matches(lua_State *L) { /* text */
  lua_getglobal(L, "require");
  lua_pushliteral(L, "medxai.base.prompt");
  lua_call(L, 1, 1);
  lua_getfield(L, -1, "complete");
  lua_pushvalue(L, 1);
  lua_call(L, 1, 1);
  return 1;
}

static char **complete(const char *text, int start, int end) {
  (void)start; (void)end;
  rl_attempted_completion_over = 1; /* no file names */
  int top = lua_gettop(completing);
  lua_pushcfunction(completing, push_matches);
  lua_pushstring(completing, text);
  char **matches = NULL;
  if (lua_pcall(completing, 1, 1, 0) == LUA_OK) matches = rl_completion_matches(text, next_match);
  lua_settop(completing, top); /* a failed look-up only means no completions */
  return matches;
}

/* ---- reading ---- */

/* One UTF-8 character from the terminal; EOF on a signal, so that readline drops the line. */
static int read_character(FILE *f) {
  unsigned char c;
  ssize_t n;
  do n = read(fileno(f), &c, 1); while (n < 0 && errno == EINTR && !signals_caught);
  if (n != 1) return EOF;
  int more = c >= 0xF0 ? 3 : c >= 0xE0 ? 2 : c >= 0xC0 ? 1 : 0;
  int code = more ? c & (0x3F >> more) : c;
  for (; more > 0 && read(fileno(f), &c, 1) == 1; more--) code = code << 6 | (c & 0x3F);
  return code;
}

static void start_terminal(lua_State *L) {
  completing = L;
  on_terminal = isatty(STDIN_FILENO);
  if (!on_terminal) return;
  setlocale(LC_CTYPE, "");
  rl_readline_name = (char *)"medxai-run";
  rl_catch_signals = 0; /* ours stay */
  rl_initialize();
  rl_getc_function = read_character;
  rl_attempted_completion_function = complete;
  rl_completion_append_character = '\0';
  rl_basic_word_break_characters = " \t\n\"'`@$><=;|&{}()[]+-*/%^~#,";
}

/* The next line without its newline, caller frees; NULL at the end of input or after a signal. */
static char *read_line(const char *prompt) {
  if (on_terminal) return readline(prompt);
  char *line = NULL;
  size_t size = 0;
  ssize_t n = getline(&line, &size, stdin);
  if (n < 0) { free(line); return NULL; }
  if (n > 0 && line[n - 1] == '\n') line[n - 1] = '\0';
  return line;
}

static char *history_path(void) { /* caller frees; NULL: keep none */
  const char *chosen = getenv("MEDXAI_HISTORY"), *home = getenv("HOME");
  char *path = NULL;
  if (chosen) return *chosen ? strdup(chosen) : NULL;
  if (!home || asprintf(&path, "%s/.medxai_history", home) < 0) return NULL;
  return path;
}

/* ---- evaluating ---- */

static bool is_incomplete(lua_State *L, int status) {
  size_t n;
  const char *message = lua_tolstring(L, -1, &n);
  return status == LUA_ERRSYNTAX && n >= 5 && strcmp(message + n - 5, "<eof>") == 0;
}

/* Loads text as an expression, else as statements; pushes the function or the message. */
static int compile(lua_State *L, const char *text) {
  const char *as_value = lua_pushfstring(L, "return %s", text);
  int status = luaL_loadbufferx(L, as_value, strlen(as_value), "=stdin", "t");
  if (status == LUA_OK) {
    lua_remove(L, -2);
    return status;
  }
  bool goes_on = is_incomplete(L, status);
  lua_remove(L, -2);
  int as_statements = luaL_loadbufferx(L, text, strlen(text), "=stdin", "t");
  if (as_statements != LUA_OK && goes_on) { /* "1 +" */
    lua_pop(L, 1);
    return status;
  }
  lua_remove(L, -2);
  return as_statements;
}

/* Reads lines until they form a whole chunk; pushes its function. False: end of input, or *code is a failure's. */
static bool read_chunk(lua_State *L, int *status) {
  char *line = read_line("> ");
  if (!line) return false;
  lua_pushstring(L, line);
  free(line);
  while ((*status = compile(L, lua_tostring(L, -1)), is_incomplete(L, *status))) {
    line = read_line(">> ");
    if (!line) break; /* keep the message: the input ended too early, or Ctrl-C dropped it */
    lua_pop(L, 1);
    lua_pushfstring(L, "%s\n%s", lua_tostring(L, -1), line);
    lua_remove(L, -2);
    free(line);
  }
  const char *text = lua_tostring(L, -2);
  if (on_terminal && text[strspn(text, " \t\n")]) add_history(text);
  lua_remove(L, -2);
  return true;
}

static int show(lua_State *L) { /* values */
  lua_getglobal(L, "require");
  lua_pushliteral(L, "medxai.base.prompt");
  lua_call(L, 1, 1);
  lua_getfield(L, -1, "show");
  lua_insert(L, 1);
  lua_pop(L, 1);
  lua_call(L, lua_gettop(L) - 1, 0);
  return 0;
}

static void evaluate(lua_State *L) { /* function on top; popped */
  int base = lua_gettop(L);
  lua_pushcfunction(L, report_handler);
  lua_insert(L, base);
  int status = lua_pcall(L, 0, LUA_MULTRET, base);
  if (status == LUA_OK && lua_gettop(L) > base) {
    lua_pushcfunction(L, show);
    lua_insert(L, base + 1);
    status = lua_pcall(L, lua_gettop(L) - base - 1, 0, base);
  }
  if (status != LUA_OK) report_failure(L, status);
  fflush(stdout);
  lua_settop(L, base - 1);
}

static int open_prompt(lua_State *L) { /* globals may be made at a prompt; torch and xai are there when first named */
  lua_getglobal(L, "require");
  lua_pushliteral(L, "medxai.base.prompt");
  lua_call(L, 1, 1);
  lua_getfield(L, -1, "open");
  lua_call(L, 0, 0);
  return 0;
}

int repl_run(lua_State *L) {
  lua_pushcfunction(L, open_prompt);
  int status = lua_pcall(L, 0, 0, 0);
  if (status != LUA_OK) return report_failure(L, status);
  start_terminal(L);
  char *path = on_terminal ? history_path() : NULL;
  if (path) { stifle_history(HISTORY_LINES); read_history(path); }
  if (on_terminal)
    printf("medxai-run %s, %s. torch and xai are loaded when named; Ctrl-D leaves.\n", HOST_VERSION, LUA_RELEASE);
  for (;;) {
    bool read = read_chunk(L, &status);
    if (signals_caught) { /* Ctrl-C at the prompt, or SIGTERM */
      if (signals_caught != SIGINT) break;
      signals_clear();
      putchar('\n');
    } else if (!read) break;
    else if (status != LUA_OK) { report_failure(L, status); continue; }
    else { evaluate(L); if (signals_caught == SIGINT) signals_clear(); continue; }
    lua_settop(L, 0);
  }
  if (on_terminal) putchar('\n');
  if (path) write_history(path);
  free(path);
  return signals_caught ? 128 + signals_caught : EXIT_DONE;
}
