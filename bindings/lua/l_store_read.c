/* l_store_read.c: medxai.core.store.read: a file of tensors as Lua values. */
#include <stdio.h>
#include <string.h>
#include "alloc.h"
#include "l_store.h"

enum { TEXT_SHARED = 40 }; /* Lua shares texts up to that length by itself */

typedef struct reading {
  store_guard *g;
  const char *path, *what;
  int order, shared, skipped; /* stack indices; shared[pickle_value] = its Lua value, false while it is being
                                 made; shared[text] = true where skipped contains it */
  char at[200];               /* the keys that lead to the value being read, "hyper_parameters.root" */
} reading;

noreturn static void broken(lua_State *L, const reading *r, const char *why) {
  xl_error(L, "%s: '%s' %s", r->what, r->path, why);
}

/* ---- tensors ------------------------------------------------------------------------------------------------ */

/* A storage as a tensor of one dimension, read when it is first asked for. A status of tx.h; why says what is wrong. */
static int read_storage(tx_tensor **out, store_guard *g, const pickle_storage *b, char *why, size_t room) {
  tx_tensor **known = &g->storages[b->index], *t = NULL;
  if (!*known) {
    int status = tx_tensor_new(&t, b->dtype, 1, &b->numel, NULL, 0);
    if (status != TX_OK) {
      snprintf(why, room, "%s", tx_error());
      return status;
    }
    if (!store_read_storage(tx_tensor_data(t), g->in, b, why, room)) {
      tx_tensor_free(t);
      return TX_ERROR;
    }
    *known = t;
  }
  *out = *known;
  return TX_OK;
}

/* Tensors of one storage share its memory. */
static int read_tensor(tx_tensor **out, store_guard *g, const pickle_tensor *t, char *why, size_t room) {
  tx_tensor *base;
  int status = read_storage(&base, g, t->storage, why, room);
  if (status != TX_OK)
    return status;
  status = tx_tensor_over(out, base, t->offset, t->dim, t->sizes, t->strides);
  if (status != TX_OK)
    snprintf(why, room, "%s", tx_error());
  return status;
}

static void push_number(lua_State *L, reading *r, const pickle_tensor *t) {
  char why[300];
  tx_tensor *numbers;
  if (read_storage(&numbers, r->g, t->storage, why, sizeof why) != TX_OK)
    broken(L, r, why);
  lua_pushnumber(L, ((const double *)tx_tensor_data(numbers))[t->offset]);
}

static void push_tensor(lua_State *L, reading *r, const pickle_tensor *t) {
  char why[300];
  tx_tensor *out = NULL;
  int status, tries = 0;
  if (store_is_number(t)) {
    push_number(L, r, t);
    return;
  }
  do
    status = read_tensor(&out, r->g, t, why, sizeof why);
  while (status == TX_NOMEM && xl_budget_retry(L, &tries));
  if (status == TX_NOMEM || status == TX_INTERRUPTED)
    xl_check(L, status, r->what);
  if (status != TX_OK)
    broken(L, r, why);
  xl_pushheld(L, xl_own(L, out));
}

/* ---- values ------------------------------------------------------------------------------------------------- */

static void push_value(lua_State *L, reading *r, const pickle_value *v, int depth);

/* Adds a key to r->at. Returns what back_to needs to remove it. */
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

/* A value that the file may refer to in several places: made once, so that a small file cannot become a large tree. */
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
  if (depth > STORE_DEPTH_MAX || !lua_checkstack(L, 20))
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

int store_read(lua_State *L) {
  char why[500];
  const char *path = luaL_checkstring(L, 1), *what = luaL_checkstring(L, 2);
  lua_settop(L, 2);
  for (int i = 3; i <= 5; i++)
    lua_newtable(L);
  reading r = { .g = store_guard_new(L), .path = path, .what = what, .order = 3, .shared = 4, .skipped = 5 };
  r.g->in = store_open(path, why, sizeof why);
  if (!r.g->in)
    broken(L, &r, why);
  r.g->storages = mx_calloc(store_storages(r.g->in) + 1, sizeof *r.g->storages);
  if (!r.g->storages)
    broken(L, &r, "does not fit into memory");
  r.g->nstorages = store_storages(r.g->in);
  if (store_root(r.g->in))
    push_value(L, &r, store_root(r.g->in), 0);
  else
    push_entries(L, &r);
  lua_pushstring(L, store_format(r.g->in));
  lua_pushvalue(L, r.order);
  lua_pushvalue(L, r.skipped);
  store_guard_close(r.g);
  return 4;
}
