/* report.c: error messages for users: "medxai-run: FILE:LINE: what: fact. What to do." The line is the innermost one of
 * the experiment itself; the library's lines and libtorch's own text are printed with --trace only. A message of
 * another form is printed unchanged. */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "host.h"

/* The length of the "NAME:LINE: " at a message's beginning; 0: there is none. */
static size_t position_length(const char *message) {
  for (const char *c = message; *c && *c != '\n'; c++) {
    if (*c != ':' || c == message) continue;
    const char *digit = c + 1;
    while (isdigit((unsigned char)*digit)) digit++;
    if (digit > c + 1 && digit[0] == ':' && digit[1] == ' ') return (size_t)(digit + 2 - message);
  }
  return 0;
}

static bool under_scripts(const char *path) {
  size_t n = strlen(the_host.paths.scripts);
  return strncmp(path, the_host.paths.scripts, n) == 0 && path[n] == '/';
}

/* Lua shortens long names to "...tail": such a name is the library's if a file of the library ends so. */
static bool is_library(const char *name, size_t length) {
  char path[4096];
  if (length >= sizeof path) return false;
  memcpy(path, name, length);
  path[length] = '\0';
  if (strncmp(path, "...", 3) != 0) return under_scripts(path);
  const char *tail = strstr(path, "/medxai/");
  char whole[4096 + 8];
  return tail && snprintf(whole, sizeof whole, "%s%s", the_host.paths.scripts, tail) < (int)sizeof whole
         && access(whole, F_OK) == 0;
}

/* "x.lua", "[string ...", or the experiment, whatever it is called; not "store: cannot read 'x.lua". */
static bool is_lua_name(const char *name, size_t length) {
  const char *gap = strstr(name, ": ");
  if (gap && (size_t)(gap - name) < length) return false;
  return (length > 4 && memcmp(name + length - 4, ".lua", 4) == 0) || name[0] == '[' ||
         (length == strlen(the_host.script) && memcmp(name, the_host.script, length) == 0);
}

/* Finds the innermost stack level that is not in the library; false: none (a syntax error, an error outside any
 * script). */
static bool experiment_level(lua_State *L, lua_Debug *ar) {
  for (int level = 0; lua_getstack(L, level, ar); level++) {
    lua_getinfo(L, "Sl", ar);
    if (ar->currentline > 0 && !(ar->source[0] == '@' && under_scripts(ar->source + 1))) return true;
  }
  return false;
}

/* The script's name for messages, in full where Lua would shorten it. */
static const char *chunk_name(const lua_Debug *ar) {
  return ar->source[0] == '@' || ar->source[0] == '=' ? ar->source + 1 : ar->short_src;
}

/* Pushes the message at index 1 with the experiment's position in front. */
static void push_placed(lua_State *L, const char *message) {
  lua_Debug ar;
  size_t taken = position_length(message), name = taken;
  while (name > 0 && message[--name] != ':') {}     /* the last ':' */
  while (name > 0 && message[--name] != ':') {}     /* the one before the line number */
  bool at_experiment = experiment_level(L, &ar);
  if (taken && is_library(message, name)) {}        /* the library's own position is left out */
  else if (taken && is_lua_name(message, name)) {   /* already the experiment's position */
    if (at_experiment && strncmp(message, ar.short_src, name) == 0 && ar.short_src[name] == '\0') {
      lua_pushfstring(L, "%s%s", chunk_name(&ar), message + name);
      return;
    }
    lua_pushstring(L, message);
    return;
  } else taken = 0;                                 /* such as "12:30: ", which is not a position */
  if (at_experiment) lua_pushfstring(L, "%s:%d: %s", chunk_name(&ar), ar.currentline, message + taken);
  /* no line: the experiment ended in a tail call, or has ended */
  else lua_pushfstring(L, "%s: %s", the_host.script, message + taken);
}

static int to_text(lua_State *L) {
  luaL_tolstring(L, 1, NULL);
  return 1;
}

/* Replaces the error value at index 1 by text. A table without __tostring is described. */
static void make_text(lua_State *L) {
  if (lua_type(L, 1) == LUA_TSTRING) return;
  bool has_text = lua_isnumber(L, 1) || luaL_getmetafield(L, 1, "__tostring") != LUA_TNIL;
  lua_settop(L, 1);
  if (has_text) {
    lua_pushcfunction(L, to_text);
    lua_pushvalue(L, 1);
    if (lua_pcall(L, 1, 1, 0) == LUA_OK) { lua_replace(L, 1); lua_settop(L, 1); return; }
    lua_settop(L, 1);
  }
  const char *kind = lua_isnil(L, 1) ? "nil" : lua_pushfstring(L, "a %s", luaL_typename(L, 1));
  lua_pushfstring(L, "error: the error value is %s (expected a text). Write error(\"what went wrong\").", kind);
  lua_replace(L, 1);
  lua_settop(L, 1);
}

/* require lists every file it tried: kept with --trace, else replaced by one sentence. Replaces the text at index 1. */
static void shorten_require(lua_State *L) {
  const char *message = lua_tostring(L, 1), *name = strstr(message, "module '"),
             *list = strstr(message, "' not found:\n\tno field");
  if (!name || !list || list < name || the_host.options.trace) return;
  lua_pushlstring(L, message, (size_t)(name - message)); /* its place, if any */
  lua_pushlstring(L, name + 8, (size_t)(list - name - 8));
  lua_pushfstring(L, "%srequire: there is no module '%s' (looked in %s and %s). Check its name.", lua_tostring(L, -2),
                  lua_tostring(L, -1), the_host.script_dir, the_host.paths.scripts);
  lua_replace(L, 1);
  lua_settop(L, 1);
}

static void explain_overflow(lua_State *L) { /* Lua says only "stack overflow" */
  size_t n;
  const char *message = lua_tolstring(L, 1, &n);
  if (n < 14 || strcmp(message + n - 14, "stack overflow") != 0) return;
  lua_pushfstring(L, "%s: a function calls itself without end. Give it a condition that stops it.", message);
  lua_replace(L, 1);
}

/* Mistakes whose words say little: the end of Lua's message, and what to do. */
static const struct { const char *end, *lead; } leads[] = {
  { "(local 'self')", ". Was a method called with a dot? Write object:name(...), with a colon." },
  { "near '!'", ". Lua writes a ~= b for unequal, and not a." },
  { "near '!='", ". Lua writes a ~= b for unequal." },
  { "syntax error near '+'", ". Lua has no +=. Write a = a + 1." },
  { "syntax error near '-'", ". Lua has no -=. Write a = a - 1." },
};

/* Of the text at an absolute index, which is replaced. */
static void lead_on(lua_State *L, int at) {
  size_t n, m;
  const char *message = lua_tolstring(L, at, &n);
  for (size_t i = 0; i < sizeof leads / sizeof *leads; i++) {
    m = strlen(leads[i].end);
    if (n < m || strcmp(message + n - m, leads[i].end) != 0) continue;
    lua_pushfstring(L, "%s%s", message, leads[i].lead);
    lua_replace(L, at);
    return;
  }
}

int report_handler(lua_State *L) {
  if (signals_caught) {
    lua_pushliteral(L, "interrupted");
    return 1;
  }
  make_text(L);
  shorten_require(L);
  explain_overflow(L);
  lead_on(L, 1);
  push_placed(L, lua_tostring(L, 1));
  if (the_host.options.trace) {
    luaL_traceback(L, L, lua_tostring(L, -1), 1);
    const char *native = core_error_full();
    if (native && *native) lua_pushfstring(L, "%s\nlibtorch:\n%s", lua_tostring(L, -1), native);
  }
  return 1;
}

static char *last; /* owned */

const char *report_last(void) { return last; }

void report_free(void) {
  free(last);
  last = NULL;
}

int report_failure(lua_State *L, int status) {
  int sig = signals_caught;
  char text[512]; /* Lua may have no memory left for a message */
  if (status == LUA_ERRSYNTAX && lua_type(L, -1) == LUA_TSTRING) lead_on(L, lua_gettop(L));
  const char *message = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : "error: no text";
  if (sig) {
    snprintf(text, sizeof text, "interrupted (%s)", signals_name(sig));
    message = text;
  } else if (status == LUA_ERRMEM) {
    snprintf(text, sizeof text, "%s: lua: out of memory for Lua's own tables and texts. Keep numbers in tensors.",
             the_host.script);
    message = text;
  } else if (status == LUA_ERRERR) {
    snprintf(text, sizeof text, "%s: lua: an error while another was being reported. Run with --trace.",
             the_host.script);
    message = text;
  }
  fflush(stdout); /* what the experiment printed comes before its error */
  fprintf(stderr, "medxai-run: %s\n", message);
  report_free();
  last = strdup(message);
  lua_pop(L, 1);
  return sig ? 128 + sig : EXIT_FAILED;
}
