/* l_store_write.c: medxai.core.store.write_pt and write_safetensors: Lua values as a file of tensors. */
#include <stdio.h>
#include <string.h>
#include "alloc.h"
#include "l_store.h"

/* A tensor's memory layout in a file: its own strides where they cover a block without gaps (channels_last), else
 * contiguous. */
typedef struct layout {
  int dim;
  int64_t sizes[TX_MAX_DIMS], strides[TX_MAX_DIMS];
  bool dense; /* its own strides are kept: its memory can be written as it is */
} layout;

static void layout_of(layout *l, const tx_tensor *t) {
  int64_t own[TX_MAX_DIMS], expected = 1;
  bool used[TX_MAX_DIMS] = { false };
  l->dim = tx_tensor_dim(t);
  tx_tensor_sizes(t, l->sizes);
  tx_tensor_strides(t, own);
  for (int i = l->dim - 1; i >= 0; i--) {
    l->strides[i] = expected;
    expected *= l->sizes[i] ? l->sizes[i] : 1;
  }
  l->dense = true;
  expected = 1;
  for (int k = 0; l->dense && k < l->dim; k++) { /* each step finds the dimension that continues the block */
    int found = -1;
    for (int i = 0; i < l->dim; i++)
      if (!used[i] && (own[i] == expected || l->sizes[i] == 1) && (found < 0 || l->sizes[i] == 1))
        found = i;
    l->dense = found >= 0;
    if (l->dense) {
      used[found] = true;
      expected *= l->sizes[found];
    }
  }
  if (l->dense && tx_tensor_numel(t) > 0)
    memcpy(l->strides, own, (size_t)l->dim * sizeof *own);
}

noreturn static void cannot_write(lua_State *L, const char *what, const char *path, const char *why) {
  bool full = strstr(why, "No space") || strstr(why, "too large") || strstr(why, "quota");
  xl_error(L, "%s: cannot write '%s' (%s).%s", what, path, why,
           full ? " Free some space and run again; the file that was there is untouched."
                : " Give a path that can be written.");
}

static bool is_utf8(const unsigned char *s, size_t n) {
  for (size_t i = 0; i < n;) {
    int more = s[i] < 0x80                   ? 0
               : s[i] >= 0xc2 && s[i] < 0xe0 ? 1
               : s[i] >= 0xe0 && s[i] < 0xf0 ? 2
               : s[i] >= 0xf0 && s[i] < 0xf5 ? 3
                                             : -1;
    if (more < 0 || (size_t)more >= n - i)
      return false;
    if ((s[i] == 0xe0 && s[i + 1] < 0xa0) || (s[i] == 0xed && s[i + 1] > 0x9f) || (s[i] == 0xf0 && s[i + 1] < 0x90) ||
        (s[i] == 0xf4 && s[i + 1] > 0x8f))
      return false;
    for (i++; more-- > 0; i++)
      if ((s[i] & 0xc0) != 0x80)
        return false;
  }
  return true;
}

static void put_text(lua_State *L, store_guard *g, int idx, const char *what) {
  size_t n;
  const char *s = lua_tolstring(L, idx, &n);
  if (!is_utf8((const unsigned char *)s, n))
    xl_error(L, "%s: a text that is not UTF-8 cannot be written (use a uint8 tensor for bytes)", what);
  pickle_put_str(&g->pickle, s, n);
}

/* Counts the tree's floating-point numbers before anything is written, since each names the size of their storage. */
static size_t count_numbers(lua_State *L, int idx, int depth, const char *what) {
  size_t n = lua_type(L, idx) == LUA_TNUMBER && !lua_isinteger(L, idx);
  if (lua_type(L, idx) != LUA_TTABLE)
    return n;
  if (depth > STORE_DEPTH_MAX || !lua_checkstack(L, 10))
    xl_error(L, "%s: the value is nested too deeply (does a table hold itself?)", what);
  lua_Integer len = (lua_Integer)lua_rawlen(L, idx);
  for (lua_Integer i = 1; i <= len; i++) {
    lua_rawgeti(L, idx, i);
    n += count_numbers(L, lua_gettop(L), depth + 1, what);
    lua_pop(L, 1);
  }
  return n;
}

static void put_number(store_guard *g, double d) {
  int64_t none = 0;
  g->numbers[g->nnumbers] = d;
  pickle_put_tensor(&g->pickle, "float64", STORE_NUMBERS, (int64_t)g->room, (int64_t)g->nnumbers++, 0, &none, &none);
}

static void add_tensor(lua_State *L, store_guard *g, tx_tensor *t, const char *what) {
  if (g->ntensors == g->tensors_room) {
    const size_t room = g->tensors_room ? 2 * g->tensors_room : 256;
    tx_tensor **more = mx_realloc(g->tensors, room * sizeof *more);
    if (!more)
      xl_error(L, "%s: out of memory", what);
    g->tensors = more;
    g->tensors_room = room;
  }
  g->tensors[g->ntensors++] = t;
}

/* Adds the tensor at idx to those to write. */
static void put_tensor(lua_State *L, store_guard *g, int idx, const char *what) {
  tx_tensor *t = xl_totensor(L, idx);
  layout l;
  char key[32];
  if (pickle_itemsize(tx_tensor_dtype(t)) == 0)
    xl_error(L, "%s: a tensor of type %s cannot be written", what, tx_tensor_dtype(t));
  layout_of(&l, t);
  snprintf(key, sizeof key, "%zu", g->ntensors);
  pickle_put_tensor(&g->pickle, tx_tensor_dtype(t), key, tx_tensor_numel(t), 0, l.dim, l.sizes, l.strides);
  add_tensor(L, g, t, what);
}

static void put_node(lua_State *L, store_guard *g, int idx, const char *what);

/* { "dict" | "odict" | "list", ... }: key, value, key, value ... or values */
static void put_table(lua_State *L, store_guard *g, int idx, const char *what) {
  lua_rawgeti(L, idx, 1);
  const char *kind = lua_tostring(L, -1);
  bool list = kind && !strcmp(kind, "list");
  if (list)
    pickle_put_list(&g->pickle);
  else
    pickle_put_dict(&g->pickle, kind && !strcmp(kind, "odict"));
  lua_pop(L, 1);
  pickle_put_mark(&g->pickle);
  lua_Integer len = (lua_Integer)lua_rawlen(L, idx);
  for (lua_Integer i = 2; i <= len; i++) {
    lua_rawgeti(L, idx, i);
    put_node(L, g, lua_gettop(L), what);
    lua_pop(L, 1);
  }
  if (list)
    pickle_put_appends(&g->pickle);
  else
    pickle_put_setitems(&g->pickle);
}

static void put_node(lua_State *L, store_guard *g, int idx, const char *what) {
  switch (lua_type(L, idx)) {
    case LUA_TBOOLEAN: pickle_put_bool(&g->pickle, lua_toboolean(L, idx)); break;
    case LUA_TSTRING: put_text(L, g, idx, what); break;
    case LUA_TTABLE: put_table(L, g, idx, what); break;
    case LUA_TNUMBER:
      if (lua_isinteger(L, idx))
        pickle_put_int(&g->pickle, lua_tointeger(L, idx));
      else
        put_number(g, lua_tonumber(L, idx));
      break;
    default:
      if (xl_isnone(L, idx))
        pickle_put_none(&g->pickle);
      else
        put_tensor(L, g, idx, what);
  }
}

/* Writes t, the i-th storage of a .pt file. */
static bool write_tensor(lua_State *L, store_guard *g, tx_tensor *t, size_t i, bool pt, const char *what) {
  layout l;
  layout_of(&l, t);
  XL_TRY(L, what, tx_tensor_packed(&g->packed, t, pt && l.dense));
  size_t n = (size_t)(tx_tensor_numel(t) * tx_tensor_itemsize(t));
  const void *data = n ? tx_tensor_data(g->packed) : "";
  if (!data)
    xl_error(L, "%s: only dense tensors can be written", what);
  bool ok = pt ? store_write_storage(g->out, i, data, n) : store_write_bytes(g->out, data, n);
  tx_tensor_free(g->packed);
  g->packed = NULL;
  return ok;
}

static void create(lua_State *L, store_guard *g, const char *path, const char *what) {
  char why[200];
  g->out = store_create(path, why, sizeof why);
  if (!g->out)
    cannot_write(L, what, path, why);
}

static void commit(lua_State *L, store_guard *g, const char *path, const char *what, bool ok) {
  char why[200];
  if (!ok || !store_commit(g->out)) {
    snprintf(why, sizeof why, "%s", store_out_error(g->out));
    store_guard_close(g);
    cannot_write(L, what, path, why);
  }
  store_guard_close(g);
}

int store_write_pt(lua_State *L) {
  const char *path = luaL_checkstring(L, 1), *what = luaL_checkstring(L, 2);
  luaL_checktype(L, 3, LUA_TTABLE);
  lua_settop(L, 3);
  store_guard *g = store_guard_new(L);
  g->room = count_numbers(L, 3, 0, what);
  g->numbers = mx_malloc((g->room + 1) * sizeof *g->numbers);
  if (!g->numbers)
    xl_error(L, "%s: out of memory", what);
  pickle_begin(&g->pickle);
  put_node(L, g, 3, what);
  pickle_end(&g->pickle);
  if (g->pickle.failed)
    xl_error(L, "%s: out of memory", what);
  create(L, g, path, what);
  bool ok = store_write_start(g->out, &g->pickle, g->numbers, g->nnumbers);
  for (size_t i = 0; ok && i < g->ntensors; i++)
    ok = write_tensor(L, g, g->tensors[i], i, true, what);
  commit(L, g, path, what, ok);
  return 0;
}

int store_write_safetensors(lua_State *L) {
  const char *path = luaL_checkstring(L, 1), *what = luaL_checkstring(L, 2);
  size_t n;
  const char *header = luaL_checklstring(L, 3, &n);
  lua_settop(L, 4);
  int count;
  tx_tensor **tensors = xl_totensors(L, 4, &count, what);
  store_guard *g = store_guard_new(L);
  unsigned char length[8];
  for (int i = 0; i < 8; i++)
    length[i] = (unsigned char)((uint64_t)n >> 8 * i);
  create(L, g, path, what);
  bool ok = store_write_bytes(g->out, length, 8) && store_write_bytes(g->out, header, n);
  for (int i = 0; ok && i < count; i++) {
    if (!tensors[i])
      xl_error(L, "%s: tensor %d is none", what, i + 1);
    ok = write_tensor(L, g, tensors[i], (size_t)i, false, what);
  }
  commit(L, g, path, what, ok);
  return 0;
}
