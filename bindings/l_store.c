/* l_store.c: medxai.core.store: files of tensors to and from Lua values. store.lua gives them their names and rules.
 *   read(path, what) -> tree, format, order, skipped     order[table] = its keys as the file has them; skipped: a list
 *     of texts, the objects that are not read ("args (argparse.Namespace)"). What the file shares is shared here.
 *   write_pt(path, what, node)                   node: see store.lua; write_safetensors(path, what, header, tensors)
 * It refuses values that no file of plain data should hold, and trees that are endless. */
#include <stdlib.h>
#include <string.h>
#include "alloc.h"
#include "store.h"
#include "xl.h"

#define GUARD "medxai.store"

enum { DEPTH_MAX = 60, TEXT_SHARED = 40 }; /* Lua shares texts up to that length by itself */

/* What a read or a write holds outside Lua's memory; the finalizer frees it also after an error. */
typedef struct guard {
  store *in;
  store_out *out;
  pickle_out pickle;
  double *numbers; /* the floating-point numbers of a .pt being written */
  size_t nnumbers, room;
  tx_tensor **tensors; /* those to be written; held by the call */
  size_t ntensors, tensors_room;
  tx_tensor *packed;
} guard;

static void guard_close(guard *g) {
  store_close(g->in);
  store_abandon(g->out);
  pickle_out_free(&g->pickle);
  mx_free(g->numbers);
  mx_free(g->tensors);
  tx_tensor_free(g->packed);
  memset(g, 0, sizeof *g);
}

static int guard_gc(lua_State *L) {
  guard_close(luaL_checkudata(L, 1, GUARD));
  return 0;
}

static guard *new_guard(lua_State *L) {
  guard *g = lua_newuserdatauv(L, sizeof *g, 0);
  memset(g, 0, sizeof *g);
  luaL_setmetatable(L, GUARD);
  return g;
}

/* ---- reading ------------------------------------------------------------------------------------------------ */

typedef struct reading {
  guard *g;
  const char *path, *what;
  int order, shared, skipped; /* stack indices; shared[pickle_value] = its Lua value, false while it is being
                                 made; shared[text] = true where skipped holds it */
  char at[200];               /* the keys that lead to the value being read, "hyper_parameters.root" */
} reading;

noreturn static void broken(lua_State *L, const reading *r, const char *why) { xl_error(L, "%s: '%s' %s", r->what, r->path, why); }

static void push_tensor(lua_State *L, reading *r, const pickle_tensor *t) {
  char why[300];
  if (store_is_number(t)) {
    double d;
    if (store_number(&d, r->g->in, t, why, sizeof why) != TX_OK)
      broken(L, r, why);
    lua_pushnumber(L, d);
    return;
  }
  tx_tensor *out = NULL;
  int status, tries = 0;
  do
    status = store_tensor(&out, r->g->in, t, why, sizeof why);
  while (status == TX_NOMEM && xl_budget_retry(L, &tries));
  if (status == TX_NOMEM || status == TX_INTERRUPTED)
    xl_check(L, status, r->what);
  if (status != TX_OK)
    broken(L, r, why);
  xl_pushheld(L, xl_own(L, out));
}

static void push_value(lua_State *L, reading *r, const pickle_value *v, int depth);

/* Adds a key to where the reading is. Returns what to give back_to afterwards. */
static size_t go_to(reading *r, const pickle_value *key) {
  size_t before = strlen(r->at), room = sizeof r->at - before;
  char *to = r->at + before;
  const char *dot = before ? "." : "";
  if (key->kind == PICKLE_STR || key->kind == PICKLE_BYTES)
    snprintf(to, room, "%s%.*s", dot, key->str.len < 100 ? (int)key->str.len : 100, key->str.s);
  else if (key->kind == PICKLE_INT)
    snprintf(to, room, "%s%lld", dot, (long long)key->i);
  else
    snprintf(to, room, "%s(an entry)", dot);
  for (; *to; to++)
    if ((unsigned char)*to < 32 || *to == 127)
      *to = '?';
  return before;
}

static void back_to(reading *r, size_t before) { r->at[before] = 0; }

/* Notes, once, that an object is not read. */
static void skip(lua_State *L, reading *r, const char *class) {
  lua_pushfstring(L, "%s (%s)", r->at[0] ? r->at : "the value", class);
  lua_pushvalue(L, -1);
  if (lua_rawget(L, r->shared) == LUA_TNIL) {
    lua_pushvalue(L, -2);
    lua_rawseti(L, r->skipped, (lua_Integer)lua_rawlen(L, r->skipped) + 1);
    lua_pushvalue(L, -2);
    lua_pushboolean(L, true);
    lua_rawset(L, r->shared);
  }
  lua_pop(L, 2);
}

static bool may_be_key(const pickle_value *k) {
  return k->kind == PICKLE_STR || k->kind == PICKLE_BYTES || k->kind == PICKLE_INT || k->kind == PICKLE_BOOL ||
         (k->kind == PICKLE_FLOAT && k->d == k->d);
}

/* One entry of the dict at stack index dict, whose list of keys is the index after it. */
static void add_entry(lua_State *L, reading *r, int dict, const pickle_value *k, const pickle_value *v, int depth) {
  size_t before = go_to(r, k);
  if (!may_be_key(k)) {
    skip(L, r, "its key is neither text nor a number");
  } else {
    push_value(L, r, k, depth);
    push_value(L, r, v, depth);
    if (lua_isnil(L, -1)) {
      lua_pop(L, 2);
    } else {
      lua_pushvalue(L, -2);
      if (lua_rawget(L, dict) == LUA_TNIL) { /* a key that comes twice keeps its first place and its last value */
        lua_pushvalue(L, -3);
        lua_rawseti(L, dict + 1, (lua_Integer)lua_rawlen(L, dict + 1) + 1);
      }
      lua_pop(L, 1);
      lua_rawset(L, dict);
    }
  }
  back_to(r, before);
}

static void push_dict(lua_State *L, reading *r, const pickle_value *v, int depth) {
  lua_createtable(L, 0, (int)(v->seq.n / 2 < 100000 ? v->seq.n / 2 : 100000));
  lua_newtable(L);
  int dict = lua_gettop(L) - 1;
  for (size_t i = 0; i + 1 < v->seq.n; i += 2)
    add_entry(L, r, dict, v->seq.items[i], v->seq.items[i + 1], depth);
  lua_pushvalue(L, dict);
  lua_insert(L, -2);
  lua_rawset(L, r->order); /* order[dict] = keys */
}

static void push_list(lua_State *L, reading *r, const pickle_value *v, int depth) {
  lua_createtable(L, (int)(v->seq.n < 100000 ? v->seq.n : 100000), 0);
  for (size_t i = 0; i < v->seq.n; i++) {
    push_value(L, r, v->seq.items[i], depth);
    if (lua_isnil(L, -1)) {
      lua_pop(L, 1);
      xl_pushnone(L);
    }
    lua_rawseti(L, -2, (lua_Integer)i + 1);
  }
}

static void push_long(lua_State *L, const pickle_value *v) {
  const unsigned char *b = (const unsigned char *)v->str.s;
  bool negative = b[v->str.len - 1] & 0x80;
  double d = 0;
  for (size_t i = v->str.len; i-- > 0;)
    d = d * 256 + (negative ? 255 - b[i] : b[i]);
  lua_pushnumber(L, negative ? -d - 1 : d);
}

/* A value that the file may mention in several places: made once, so that a small file cannot become a large tree. */
static void push_shared(lua_State *L, reading *r, const pickle_value *v, int depth) {
  if (lua_rawgetp(L, r->shared, v) != LUA_TNIL) {
    if (lua_isboolean(L, -1))
      broken(L, r, "holds a value without end (a list or dict that holds itself)");
    return;
  }
  lua_pop(L, 1);
  lua_pushboolean(L, false);
  lua_rawsetp(L, r->shared, v);
  if (v->kind == PICKLE_TENSOR)
    push_tensor(L, r, v->tensor);
  else if (v->kind == PICKLE_DICT)
    push_dict(L, r, v, depth + 1);
  else if (v->kind == PICKLE_LIST || v->kind == PICKLE_TUPLE)
    push_list(L, r, v, depth + 1);
  else
    lua_pushlstring(L, v->str.s, v->str.len);
  lua_pushvalue(L, -1);
  lua_rawsetp(L, r->shared, v);
}

static void push_value(lua_State *L, reading *r, const pickle_value *v, int depth) {
  if (depth > DEPTH_MAX || !lua_checkstack(L, 20))
    broken(L, r, "holds a value without end (nested too deeply)");
  switch (v->kind) {
    case PICKLE_NONE: lua_pushnil(L); break;
    case PICKLE_BOOL: lua_pushboolean(L, v->b); break;
    case PICKLE_INT: lua_pushinteger(L, v->i); break;
    case PICKLE_FLOAT: lua_pushnumber(L, v->d); break;
    case PICKLE_STR: case PICKLE_BYTES:
      if (v->str.len > TEXT_SHARED)
        push_shared(L, r, v, depth);
      else
        lua_pushlstring(L, v->str.s, v->str.len);
      break;
    case PICKLE_LONG: push_long(L, v); break;
    case PICKLE_LIST: case PICKLE_TUPLE: case PICKLE_DICT: case PICKLE_TENSOR: push_shared(L, r, v, depth); break;
    case PICKLE_INERT: case PICKLE_GLOBAL:
      skip(L, r, v->global.name);
      lua_pushnil(L);
      break;
    case PICKLE_STORAGE: broken(L, r, "holds a bare storage (expected tensors and plain values)");
  }
}

/* { name = tensor ..., __metadata__ = { key = text } } and their order */
static void push_entries(lua_State *L, reading *r) {
  const store_entry *e;
  size_t n = store_entries(r->g->in, &e);
  lua_newtable(L);
  lua_newtable(L);
  lua_newtable(L);
  int tree = lua_gettop(L) - 2, keys = tree + 1, meta = tree + 2;
  lua_Integer nkeys = 0;
  for (size_t i = 0; i < n; i++) {
    lua_pushlstring(L, e[i].name, e[i].len);
    if (e[i].tensor) {
      lua_pushvalue(L, -1);
      lua_rawseti(L, keys, ++nkeys);
      push_tensor(L, r, e[i].tensor);
    } else {
      lua_pushlstring(L, e[i].text, e[i].text_len);
    }
    lua_rawset(L, e[i].tensor ? tree : meta);
  }
  lua_setfield(L, tree, "__metadata__");
  lua_pushvalue(L, tree);
  lua_insert(L, -2);
  lua_rawset(L, r->order);
}

static int store_read(lua_State *L) {
  char why[500];
  const char *path = luaL_checkstring(L, 1), *what = luaL_checkstring(L, 2);
  lua_settop(L, 2);
  for (int i = 3; i <= 5; i++)
    lua_newtable(L);
  reading r = { .g = new_guard(L), .path = path, .what = what, .order = 3, .shared = 4, .skipped = 5 };
  r.g->in = store_open(path, why, sizeof why);
  if (!r.g->in)
    broken(L, &r, why);
  if (store_root(r.g->in))
    push_value(L, &r, store_root(r.g->in), 0);
  else
    push_entries(L, &r);
  lua_pushstring(L, store_format(r.g->in));
  lua_pushvalue(L, r.order);
  lua_pushvalue(L, r.skipped);
  guard_close(r.g);
  return 4;
}

/* ---- writing ------------------------------------------------------------------------------------------------ */

noreturn static void cannot_write(lua_State *L, const char *what, const char *path, const char *why) {
  bool full = strstr(why, "No space") || strstr(why, "too large") || strstr(why, "quota");
  xl_error(L, "%s: cannot write '%s' (%s).%s", what, path, why,
           full ? " Free some space and run again; the file that was there is untouched." : " Give a path that can be written.");
}

static bool is_utf8(const unsigned char *s, size_t n) {
  for (size_t i = 0; i < n;) {
    int more = s[i] < 0x80 ? 0 : s[i] >= 0xc2 && s[i] < 0xe0 ? 1 : s[i] >= 0xe0 && s[i] < 0xf0 ? 2 : s[i] >= 0xf0 && s[i] < 0xf5 ? 3 : -1;
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

static void put_text(lua_State *L, guard *g, int idx, const char *what) {
  size_t n;
  const char *s = lua_tolstring(L, idx, &n);
  if (!is_utf8((const unsigned char *)s, n))
    xl_error(L, "%s: a text that is not UTF-8 cannot be written (use a uint8 tensor for bytes)", what);
  pickle_put_str(&g->pickle, s, n);
}

/* Floating-point numbers of the tree, counted before anything is written: each names the size of their storage. */
static size_t count_numbers(lua_State *L, int idx, int depth, const char *what) {
  size_t n = lua_type(L, idx) == LUA_TNUMBER && !lua_isinteger(L, idx);
  if (lua_type(L, idx) != LUA_TTABLE)
    return n;
  if (depth > DEPTH_MAX || !lua_checkstack(L, 10))
    xl_error(L, "%s: the value is nested too deeply (does a table hold itself?)", what);
  lua_Integer len = (lua_Integer)lua_rawlen(L, idx);
  for (lua_Integer i = 1; i <= len; i++) {
    lua_rawgeti(L, idx, i);
    n += count_numbers(L, lua_gettop(L), depth + 1, what);
    lua_pop(L, 1);
  }
  return n;
}

static void put_number(guard *g, double d) {
  int64_t none = 0;
  g->numbers[g->nnumbers] = d;
  pickle_put_tensor(&g->pickle, "float64", STORE_NUMBERS, (int64_t)g->room, (int64_t)g->nnumbers++, 0, &none, &none);
}

static void add_tensor(lua_State *L, guard *g, tx_tensor *t, const char *what) {
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
static void put_tensor(lua_State *L, guard *g, int idx, const char *what) {
  tx_tensor *t = xl_totensor(L, idx);
  store_layout l;
  char key[32];
  if (pickle_itemsize(tx_tensor_dtype(t)) == 0)
    xl_error(L, "%s: a tensor of type %s cannot be written", what, tx_tensor_dtype(t));
  store_layout_of(&l, t);
  snprintf(key, sizeof key, "%zu", g->ntensors);
  pickle_put_tensor(&g->pickle, tx_tensor_dtype(t), key, tx_tensor_numel(t), 0, l.dim, l.sizes, l.strides);
  add_tensor(L, g, t, what);
}

static void put_node(lua_State *L, guard *g, int idx, const char *what);

/* { "dict" | "odict" | "list", ... }: key, value, key, value ... or values */
static void put_table(lua_State *L, guard *g, int idx, const char *what) {
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

static void put_node(lua_State *L, guard *g, int idx, const char *what) {
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
static bool write_tensor(lua_State *L, guard *g, tx_tensor *t, size_t i, bool pt, const char *what) {
  store_layout l;
  store_layout_of(&l, t);
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

static void create(lua_State *L, guard *g, const char *path, const char *what) {
  char why[200];
  g->out = store_create(path, why, sizeof why);
  if (!g->out)
    cannot_write(L, what, path, why);
}

static void commit(lua_State *L, guard *g, const char *path, const char *what, bool ok) {
  char why[200];
  if (!ok || !store_commit(g->out)) {
    snprintf(why, sizeof why, "%s", store_out_error(g->out));
    guard_close(g);
    cannot_write(L, what, path, why);
  }
  guard_close(g);
}

static int store_write_pt(lua_State *L) {
  const char *path = luaL_checkstring(L, 1), *what = luaL_checkstring(L, 2);
  luaL_checktype(L, 3, LUA_TTABLE);
  lua_settop(L, 3);
  guard *g = new_guard(L);
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

static int store_write_safetensors(lua_State *L) {
  const char *path = luaL_checkstring(L, 1), *what = luaL_checkstring(L, 2);
  size_t n;
  const char *header = luaL_checklstring(L, 3, &n);
  lua_settop(L, 4);
  int count;
  tx_tensor **tensors = xl_totensors(L, 4, &count, what);
  guard *g = new_guard(L);
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

static const luaL_Reg functions[] = {
  { "read",              store_read },
  { "write_pt",          store_write_pt },
  { "write_safetensors", store_write_safetensors },
  { NULL, NULL }
};

int luaopen_core_store(lua_State *L) {
  luaL_newmetatable(L, GUARD);
  lua_pushcfunction(L, guard_gc);
  lua_setfield(L, -2, "__gc");
  lua_pop(L, 1);
  xl_newlib(L, functions);
  return 1;
}
