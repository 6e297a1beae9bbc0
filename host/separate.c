/* separate.c: runs one file of the library in a Lua state of its own, which shares no table, function or random
 * generator with the experiment's state. It is stopped after a number of instructions, or when it has used up its
 * memory. Only strings go in and out. */
#include <lualib.h>
#include <stdlib.h>
#include <string.h>
#include "host.h"

enum { HOOK_EVERY = 10000 };

typedef struct separate {
  size_t bytes, most_bytes;
  long long instructions, most_instructions;
} separate;

static const char stop_key = 0; /* its address is the error value that stops the file; pcall does not catch it */

static void *counted(void *ud, void *block, size_t before, size_t after) {
  separate *s = ud;
  if (!block) before = 0; /* Lua gives the kind of object there */
  if (after > before && s->bytes + (after - before) > s->most_bytes) return NULL;
  void *moved = NULL;
  if (after == 0) free(block);
  else if (!(moved = realloc(block, after))) return NULL;
  s->bytes += after - before;
  return moved;
}

static void count_instructions(lua_State *S, lua_Debug *ar) {
  (void)ar;
  void *ud;
  lua_getallocf(S, &ud);
  separate *s = ud;
  s->instructions += HOOK_EVERY;
  if (!signals_caught && s->instructions <= s->most_instructions) return;
  lua_pushlightuserdata(S, (void *)&stop_key);
  lua_error(S);
}

/* file, the texts -> the two texts that the file returns */
static int run_file(lua_State *S) {
  const char *file = lua_touserdata(S, 1);
  const char *const *texts = lua_touserdata(S, 2);
  state_fill(S);
  lua_settop(S, 0);
  if (luaL_loadfilex(S, file, "t") != LUA_OK) return lua_error(S);
  lua_pushlightuserdata(S, (void *)&stop_key);
  int n = 1;
  for (; texts[n - 1]; n++) lua_pushstring(S, texts[n - 1]);
  lua_sethook(S, count_instructions, LUA_MASKCOUNT, HOOK_EVERY);
  lua_call(S, n, 2);
  return 2;
}

/* Copies the two results, since their state is closed before they are returned. */
static void run_in(lua_State *S, const char *file, const char *const *texts, char *results[2]) {
  lua_State *before = signals_enter(S);
  lua_pushcfunction(S, run_file);
  lua_pushlightuserdata(S, (void *)file);
  lua_pushlightuserdata(S, (void *)texts);
  bool ok = lua_pcall(S, 2, 2, 0) == LUA_OK;
  signals_enter(before);
  lua_sethook(S, NULL, 0, 0);
  for (int i = 0; i < 2; i++) {
    int at = ok ? i - 2 : -1; /* an error's message is the second */
    const char *text = (ok || i == 1) && lua_type(S, at) == LUA_TSTRING ? lua_tostring(S, at) : NULL;
    results[i] = text ? strdup(text) : NULL;
  }
}

/* host.separate(file, texts...) -> the two texts that the file returns, or nil; where it failed nil and why */
int separate_run(lua_State *L) {
  enum { MOST_TEXTS = 8 };
  const char *texts[MOST_TEXTS + 1] = { NULL };
  const char *file = luaL_checkstring(L, 1);
  int n = lua_gettop(L) - 1;
  luaL_argcheck(L, n <= MOST_TEXTS, MOST_TEXTS + 2, "too many texts");
  for (int i = 0; i < n; i++) texts[i] = luaL_checkstring(L, i + 2);
  separate limits = { .most_bytes = (size_t)1 << 30, .most_instructions = 300000000 };
  lua_State *S = lua_newstate(counted, &limits);
  if (!S) return luaL_error(L, "host: out of memory.");
  char *results[2];
  run_in(S, file, texts, results);
  lua_close(S);
  luaL_checkstack(L, 2, NULL);
  for (int i = 0; i < 2; i++) {
    lua_pushstring(L, results[i]); /* NULL pushes nil */
    free(results[i]);
  }
  return 2;
}
