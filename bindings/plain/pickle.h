/* pickle.h: reads and writes the pickles of torch.save (protocols 2 to 5) without running anything in them.
 * The reader is a stack machine for plain values, tensors and storages. Objects of classes that are known to hold data
 * only (argparse.Namespace, numpy's arrays, paths, dates) become a value that names their class, without their
 * contents; any other global is an error that names it. It does not recurse, allocates no more than a limit and no more
 * than the data's length can explain, and checks every size against the storage.
 * No Lua, no libtorch. */
#ifndef MEDXAI_PICKLE_H
#define MEDXAI_PICKLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PICKLE_MAX_DIMS 64

typedef enum pickle_kind {
  PICKLE_NONE, PICKLE_BOOL, PICKLE_INT, PICKLE_FLOAT,
  PICKLE_STR, PICKLE_BYTES,
  PICKLE_LONG,                          /* an integer beyond 64 bits: its little-endian bytes are in str */
  PICKLE_LIST, PICKLE_TUPLE, PICKLE_DICT,
  PICKLE_TENSOR,
  PICKLE_INERT,                         /* an object of a class that holds data alone: its contents are dropped */
  PICKLE_STORAGE, PICKLE_GLOBAL         /* parts of a tensor; a damaged file may have them elsewhere too */
} pickle_kind;

/* One named block of raw numbers; tensors are views of it. */
typedef struct pickle_storage {
  const char *key;                      /* not ended by 0: key_len bytes */
  size_t key_len;
  const char *dtype;                    /* "float32": static */
  int64_t numel, itemsize;
  size_t index;                         /* its place in pickle_storages() */
} pickle_storage;

typedef struct pickle_tensor {
  const pickle_storage *storage;
  int64_t offset;                       /* all in elements, and checked against the storage */
  int dim;
  int64_t *sizes, *strides;
} pickle_tensor;

typedef struct pickle_value {
  pickle_kind kind;
  union {
    bool b;
    int64_t i;
    double d;
    struct { const char *s; size_t len; } str;                         /* borrowed from the input */
    struct { struct pickle_value **items; size_t n, room; } seq;       /* a dict: key, value, key, value ... */
    const pickle_tensor *tensor;
    struct { const pickle_storage *storage; int64_t offset, numel; } view;
    struct { int id; const char *name; } global;                       /* also of PICKLE_INERT: its class */
  };
} pickle_value;

typedef struct pickle pickle; /* owns every value it read */

enum { PICKLE_OK = 0, PICKLE_BAD = 1, PICKLE_SHORT = 2, PICKLE_NOMEM = 3 };

pickle *pickle_new(size_t limit_bytes); /* NULL: out of memory. limit: of all that its values may take */
void pickle_free(pickle *p);            /* NULL allowed */
/* Reads one pickle from the start of data, which must live as long as the values. *used: its length in bytes.
 * PICKLE_SHORT: the data end before the pickle does. Values of earlier reads stay valid; each read has a new memo.
 * A value that the pickle refers to in several places is one pickle_value: a caller that walks the tree must expect
 * shared values, and lists and dicts that contain themselves. */
int pickle_read(pickle_value **out, size_t *used, pickle *p, const void *data, size_t len);
const char *pickle_error(const pickle *p); /* of the last read: "asks to run os.system; refused" */
size_t pickle_storages(const pickle *p, pickle_storage *const **out); /* in the order of first mention; borrowed */
const pickle_storage *pickle_find_storage(const pickle *p, const char *key, size_t len);

int64_t pickle_itemsize(const char *dtype); /* 0: a dtype that torch.save files do not hold */

/* ---- writing: protocol 2, only what torch.load(weights_only=True) of 1.13 takes ------------------------------- */
typedef struct pickle_out {
  char *data;
  size_t n, room;
  bool failed; /* out of memory: everything after is ignored */
} pickle_out;

void pickle_begin(pickle_out *o);
void pickle_end(pickle_out *o);
void pickle_put_none(pickle_out *o);
void pickle_put_bool(pickle_out *o, bool b);
void pickle_put_int(pickle_out *o, int64_t i);
void pickle_put_str(pickle_out *o, const char *s, size_t len); /* UTF-8 */
void pickle_put_dict(pickle_out *o, bool ordered); /* then _mark, key, value, ..., _setitems */
void pickle_put_list(pickle_out *o);               /* then _mark, values, _appends */
void pickle_put_mark(pickle_out *o);
void pickle_put_setitems(pickle_out *o);
void pickle_put_appends(pickle_out *o);
void pickle_put_tensor(pickle_out *o, const char *dtype, const char *key, int64_t storage_numel, int64_t offset,
                       int dim, const int64_t *sizes, const int64_t *strides);
void pickle_out_free(pickle_out *o);

#endif
