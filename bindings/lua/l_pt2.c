/* l_pt2.c: medxai.core.pt2: the tensors of an archive of torch.export.save, whose records are plain storages.
 *   tensors(path, what, { { record =, dtype =, sizes =, strides =, offset = } ... }) -> list of tensors; those of one
 *     record share its memory
 * It refuses a tensor that does not lie inside its record. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "pickle.h"
#include "xl.h"
#include "zip.h"

#define FILE_BOX "medxai.pt2"
enum { PATH_AT = 1, WHAT_AT = 2, LIST_AT = 3, BLOCKS_AT = 4 };

typedef struct file_box { int fd; zip_reader *zip; } file_box;

static int file_gc(lua_State *L) {
  file_box *f = luaL_checkudata(L, 1, FILE_BOX);
  zip_close(f->zip);
  if (f->fd >= 0) close(f->fd);
  *f = (file_box){ .fd = -1 };
  return 0;
}

noreturn static void broken(lua_State *L, const char *why) {
  xl_error(L, "%s: '%s' %s", lua_tostring(L, WHAT_AT), lua_tostring(L, PATH_AT), why);
}

/* What an entry of the list, at the top of the stack, says; its list of numbers is copied into v. */
static const char *text_field(lua_State *L, const char *name) {
  lua_getfield(L, -1, name);
  const char *s = luaL_checkstring(L, -1);
  lua_pop(L, 1); /* the entry still holds it */
  return s;
}

static int numbers_field(lua_State *L, const char *name, int64_t v[TX_MAX_DIMS]) {
  lua_getfield(L, -1, name);
  luaL_checktype(L, -1, LUA_TTABLE);
  int n = (int)lua_rawlen(L, -1);
  if (n > TX_MAX_DIMS) broken(L, "is damaged (a tensor of too many dimensions)");
  for (int i = 0; i < n; i++) {
    lua_rawgeti(L, -1, i + 1);
    v[i] = luaL_checkinteger(L, -1);
    lua_pop(L, 1);
  }
  lua_pop(L, 1);
  return n;
}

/* The record's numbers as a 1-d tensor, read once: pushes its box. */
static tx_tensor *push_block(lua_State *L, file_box *f, const char *record, const char *dtype, int64_t itemsize) {
  char why[300];
  lua_pushfstring(L, "%s %s", record, dtype);
  lua_pushvalue(L, -1);
  if (lua_rawget(L, BLOCKS_AT) != LUA_TNIL) return lua_remove(L, -2), xl_totensor(L, -1);
  lua_pop(L, 1);
  int64_t at = zip_find(f->zip, record, strlen(record));
  int64_t bytes = at < 0 ? 0 : zip_size(f->zip, at), n = bytes / itemsize;
  snprintf(why, sizeof why, "is damaged (record %.100s is absent or has the wrong size)", record);
  if (at < 0 || bytes % itemsize) broken(L, why);
  xl_tensor *box = xl_newtensor(L);
  int status, tries = 0;
  do status = tx_tensor_new(&box->t, dtype, 1, &n, NULL, 0);
  while (status == TX_NOMEM && xl_budget_retry(L, &tries));
  xl_check(L, status, lua_tostring(L, WHAT_AT));
  if (bytes && !zip_read(tx_tensor_data(box->t), f->zip, at, why, sizeof why)) broken(L, why);
  unsigned char *data = !strcmp(dtype, "bool") ? tx_tensor_data(box->t) : NULL;
  for (int64_t i = 0; data && i < bytes; i++) data[i] = data[i] != 0; /* another value would be undefined behaviour */
  lua_pushvalue(L, -2);
  lua_pushvalue(L, -2);
  lua_rawset(L, BLOCKS_AT);
  lua_remove(L, -2);
  return box->t;
}

static bool lies_inside(int dim, const int64_t *sizes, const int64_t *strides, int64_t offset, int64_t n) {
  int64_t last = offset;
  if (offset < 0) return false;
  for (int i = 0; i < dim; i++)
    if (sizes[i] == 0) return true;
  for (int i = 0; i < dim; i++) {
    int64_t step;
    if (sizes[i] < 0 || strides[i] < 0 || __builtin_mul_overflow(sizes[i] - 1, strides[i], &step) ||
        __builtin_add_overflow(last, step, &last))
      return false;
  }
  return last < n;
}

/* Pushes the tensor that the entry at the top of the stack describes. */
static void push_tensor(lua_State *L, file_box *f) {
  int64_t sizes[TX_MAX_DIMS], strides[TX_MAX_DIMS];
  const char *record = text_field(L, "record"), *dtype = text_field(L, "dtype");
  int dim = numbers_field(L, "sizes", sizes), same = numbers_field(L, "strides", strides);
  lua_getfield(L, -1, "offset");
  int64_t offset = luaL_optinteger(L, -1, 0), itemsize = pickle_itemsize(dtype);
  lua_pop(L, 1);
  if (!itemsize) broken(L, "holds a tensor of a type that is not read");
  xl_tensor *box = xl_newtensor(L);
  lua_insert(L, -2);
  tx_tensor *block = push_block(L, f, record, dtype, itemsize);
  if (dim != same || !lies_inside(dim, sizes, strides, offset, tx_tensor_numel(block))) {
    char why[200];
    snprintf(why, sizeof why, "is damaged (a tensor of record %.100s lies outside it)", record);
    broken(L, why);
  }
  xl_check(L, tx_tensor_over(&box->t, block, offset, dim, sizes, strides), lua_tostring(L, WHAT_AT));
  lua_pop(L, 2);
}

static int pt2_tensors(lua_State *L) {
  char why[300];
  const char *path = luaL_checkstring(L, PATH_AT);
  luaL_checkstring(L, WHAT_AT);
  luaL_checktype(L, LIST_AT, LUA_TTABLE);
  lua_settop(L, 3);
  lua_newtable(L);
  file_box *f = lua_newuserdatauv(L, sizeof *f, 0);
  *f = (file_box){ .fd = -1 };
  luaL_setmetatable(L, FILE_BOX);
  f->fd = open(path, O_RDONLY | O_CLOEXEC);
  if (f->fd < 0) {
    snprintf(why, sizeof why, "cannot be read (%s)", strerror(errno));
    broken(L, why);
  }
  if (!(f->zip = zip_open(f->fd, why, sizeof why))) broken(L, why);
  lua_Integer n = (lua_Integer)lua_rawlen(L, LIST_AT);
  lua_newtable(L);
  for (lua_Integer i = 1; i <= n; i++) {
    lua_rawgeti(L, LIST_AT, i);
    push_tensor(L, f);
    lua_rawseti(L, -2, i);
    if (tx_interrupted()) xl_check(L, TX_INTERRUPTED, lua_tostring(L, WHAT_AT));
  }
  return 1;
}

int luaopen_core_pt2(lua_State *L) {
  static const luaL_Reg functions[] = { { "tensors", pt2_tensors }, { NULL, NULL } };
  luaL_newmetatable(L, FILE_BOX);
  lua_pushcfunction(L, file_gc);
  lua_setfield(L, -2, "__gc");
  lua_pop(L, 1);
  xl_newlib(L, functions);
  return 1;
}
