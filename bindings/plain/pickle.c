/* pickle.c: see pickle.h. The reader is a loop over opcodes with a stack, marks and a memo; values lie in an arena.
 * Only the globals in push_global() are known, and none of them runs code: each is a case in reduce(), or a class whose
 * objects are dropped. Any other global is an error that names it, as is any opcode that torch.save does not write. */
#include "pickle.h"
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "alloc.h"

typedef struct block {
  struct block *next;
  size_t used, room;
  max_align_t data[];
} block;

struct pickle {
  block *blocks;
  size_t bytes, limit;                       /* allocated; the most that may be */
  size_t most;                               /* of this read: at most limit */
  const unsigned char *p, *end, *start;      /* the input, while reading */
  pickle_value **stack, **memo;
  size_t *marks;
  size_t n, stack_room, memo_room, nmarks, marks_room;
  pickle_storage **storages, **table;        /* in order; hashed by key (table_room is a power of two) */
  size_t nstorages, storages_room, table_room;
  int status;
  char error[400];
};

/* How much memory the values of a pickle may take per byte: the shortest opcode that makes a value is one byte long,
 * and a value with its places on the stack, in the memo and in a list takes about 150 bytes. A pickle that needs more
 * is built to multiply the same values. */
enum { BYTES_OF_ANY = 4 << 20, BYTES_PER_BYTE = 256 };

/* ---- memory ------------------------------------------------------------------------------------------------- */

static void *fail(pickle *p, int status, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static void *fail(pickle *p, int status, const char *fmt, ...) {
  if (p->status == PICKLE_OK) {
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(p->error, sizeof p->error, fmt, ap);
    va_end(ap);
    p->status = status;
  }
  return NULL;
}

static void *too_short(pickle *p) { return fail(p, PICKLE_SHORT, "ends in the middle of its pickle"); }
static void *malformed(pickle *p, const char *why) { return fail(p, PICKLE_BAD, "has a broken pickle (%s)", why); }

static bool charge(pickle *p, size_t bytes) {
  if (bytes > p->most - p->bytes) {
    fail(p, PICKLE_NOMEM, "has a pickle that needs more than %zu MB", p->most >> 20);
    return false;
  }
  p->bytes += bytes;
  return true;
}

static void *arena(pickle *p, size_t bytes) {
  bytes = (bytes + 15) & ~(size_t)15;
  block *b = p->blocks;
  if (!b || b->room - b->used < bytes) {
    size_t room = bytes > 65536 - sizeof *b ? bytes : 65536 - sizeof *b;
    if (!charge(p, room + sizeof *b))
      return NULL;
    b = mx_malloc(sizeof *b + room);
    if (!b)
      return fail(p, PICKLE_NOMEM, "does not fit into memory");
    b->used = 0;
    b->room = room;
    b->next = p->blocks;
    p->blocks = b;
  }
  void *out = (char *)b->data + b->used;
  b->used += bytes;
  return out;
}

/* Room for n + 1 elements of size each in a malloc'ed array. */
static bool grow(pickle *p, void *array, size_t *room, size_t n, size_t size) {
  if (n < *room)
    return true;
  size_t want = n < 32 ? 64 : n * 2;
  if (want > SIZE_MAX / size || !charge(p, (want - *room) * size))
    return fail(p, PICKLE_NOMEM, "has a pickle that is too large") != NULL;
  void *more = mx_realloc(*(void **)array, want * size);
  if (!more)
    return fail(p, PICKLE_NOMEM, "does not fit into memory") != NULL;
  memset((char *)more + *room * size, 0, (want - *room) * size);
  *(void **)array = more;
  *room = want;
  return true;
}

pickle *pickle_new(size_t limit_bytes) {
  pickle *p = mx_calloc(1, sizeof *p);
  if (p)
    p->limit = p->most = limit_bytes;
  return p;
}

void pickle_free(pickle *p) {
  if (!p)
    return;
  for (block *b = p->blocks, *next; b; b = next) {
    next = b->next;
    mx_free(b);
  }
  mx_free(p->stack);
  mx_free(p->memo);
  mx_free(p->marks);
  mx_free(p->storages);
  mx_free(p->table);
  mx_free(p);
}

const char *pickle_error(const pickle *p) { return p->error; }

/* ---- input -------------------------------------------------------------------------------------------------- */

static const unsigned char *take(pickle *p, uint64_t n) {
  if ((uint64_t)(p->end - p->p) < n)
    return too_short(p);
  const unsigned char *at = p->p;
  p->p += n;
  return at;
}

static bool take_uint(uint64_t *out, pickle *p, int bytes) {
  const unsigned char *b = take(p, (uint64_t)bytes);
  *out = 0;
  for (int i = bytes; b && i-- > 0;)
    *out = *out << 8 | b[i];
  return b != NULL;
}

/* A line without its newline. */
static bool take_line(const char **s, size_t *len, pickle *p) {
  const unsigned char *nl = memchr(p->p, '\n', (size_t)(p->end - p->p));
  if (!nl)
    return too_short(p) != NULL;
  *s = (const char *)p->p;
  *len = (size_t)(nl - p->p);
  p->p = nl + 1;
  return true;
}

/* ---- stack -------------------------------------------------------------------------------------------------- */

static pickle_value *push(pickle *p, pickle_value v) {
  pickle_value *at = arena(p, sizeof v);
  if (!at || !grow(p, &p->stack, &p->stack_room, p->n, sizeof *p->stack))
    return NULL;
  *at = v;
  return p->stack[p->n++] = at;
}

static bool push_again(pickle *p, pickle_value *v) {
  if (!grow(p, &p->stack, &p->stack_room, p->n, sizeof *p->stack))
    return false;
  p->stack[p->n++] = v;
  return true;
}

static size_t base(const pickle *p) { return p->nmarks ? p->marks[p->nmarks - 1] : 0; }

static pickle_value *pop(pickle *p) {
  if (p->n <= base(p))
    return malformed(p, "empty stack");
  return p->stack[--p->n];
}

static pickle_value *top(pickle *p) { return p->n > base(p) ? p->stack[p->n - 1] : malformed(p, "empty stack"); }

/* The values above the last mark, which goes; they stay in p->stack[p->n ...] until the next push. */
static bool pop_mark(pickle_value ***items, size_t *n, pickle *p) {
  if (!p->nmarks)
    return malformed(p, "no mark") != NULL;
  size_t from = p->marks[--p->nmarks];
  *items = p->stack + from;
  *n = p->n - from;
  p->n = from;
  return true;
}

static bool append(pickle *p, pickle_value *seq, pickle_value *v) {
  if (seq->seq.n == seq->seq.room) {
    size_t room = seq->seq.room ? seq->seq.room * 2 : 4;
    pickle_value **items = arena(p, room * sizeof *items);
    if (!items)
      return false;
    if (seq->seq.n)
      memcpy(items, seq->seq.items, seq->seq.n * sizeof *items);
    seq->seq.items = items;
    seq->seq.room = room;
  }
  seq->seq.items[seq->seq.n++] = v;
  return true;
}

static bool push_seq(pickle *p, pickle_kind kind, pickle_value **items, size_t n) {
  pickle_value v = { .kind = kind };
  if (n) {
    v.seq.items = arena(p, n * sizeof *items);
    if (!v.seq.items)
      return false;
    memcpy(v.seq.items, items, n * sizeof *items);
    v.seq.n = v.seq.room = n;
  }
  return push(p, v) != NULL;
}

static bool push_str(pickle *p, pickle_kind kind, uint64_t len) {
  const unsigned char *s = take(p, len);
  return s && push(p, (pickle_value){ .kind = kind, .str = { (const char *)s, (size_t)len } });
}

static bool extend(pickle *p, pickle_kind kind, pickle_value **items, size_t n) {
  pickle_value *seq = top(p);
  if (!seq)
    return false;
  if (seq->kind == PICKLE_INERT)
    return true;
  if (seq->kind != kind || (kind == PICKLE_DICT && n % 2))
    return malformed(p, kind == PICKLE_DICT ? "items for something that is not a dict"
                                            : "items for something that is not a list")
           != NULL;
  for (size_t i = 0; i < n; i++)
    if (!append(p, seq, items[i]))
      return false;
  return true;
}

static bool is_str(const pickle_value *v, const char *s) {
  return (v->kind == PICKLE_STR || v->kind == PICKLE_BYTES) && v->str.len == strlen(s)
         && !memcmp(v->str.s, s, v->str.len);
}

/* ---- globals ------------------------------------------------------------------------------------------------ */

enum {
  G_DICT, G_DEFAULTDICT, G_COUNTER, G_LIST, G_SIZE, G_DEVICE, G_ENCODE,
  G_TENSOR, G_TENSOR_V2, G_PARAMETER, G_PARAMETER_STATE,
  G_INERT,
  G_UNTYPED, G_STORAGE /* + index into dtypes */
};

static const struct { const char *module, *name; int id; } globals[] = {
  { "collections",       "OrderedDict",                   G_DICT },
  { "collections",       "defaultdict",                   G_DEFAULTDICT },
  { "collections",       "Counter",                       G_COUNTER },
  { "builtins",          "set",                           G_LIST },
  { "builtins",          "frozenset",                     G_LIST },
  { "__builtin__",       "set",                           G_LIST },
  { "__builtin__",       "frozenset",                     G_LIST },
  { "_codecs",           "encode",                        G_ENCODE },
  { "torch",             "Size",                          G_SIZE },
  { "torch",             "device",                        G_DEVICE },
  { "torch._utils",      "_rebuild_tensor",               G_TENSOR },
  { "torch._utils",      "_rebuild_tensor_v2",            G_TENSOR_V2 },
  { "torch._utils",      "_rebuild_parameter",            G_PARAMETER },
  { "torch._utils",      "_rebuild_parameter_with_state", G_PARAMETER_STATE },
  { "torch",             "UntypedStorage",                G_UNTYPED },
  { "torch.storage",     "UntypedStorage",                G_UNTYPED },
};

#define PATHS "PosixPath WindowsPath PurePosixPath PureWindowsPath"
#define BUILTINS "complex bytearray range slice object int float bool str bytes list tuple dict"

/* Classes that hold data only and are common beside weights in training files, and functions that only make such
 * objects. None of them may call, import or open anything in Python.
 * shown: how messages name it, if not by its class. torch.save writes Python 2's names (__builtin__, copy_reg). */
static const struct { const char *module, *names, *shown; } inert[] = {
  { "argparse", "Namespace", NULL },
  { "types", "SimpleNamespace", NULL },
  { "collections", "deque", NULL },
  { "decimal", "Decimal", NULL },
  { "fractions", "Fraction", NULL },
  { "uuid", "UUID", NULL },
  { "time", "struct_time", NULL },
  { "datetime", "date datetime time timedelta timezone", NULL },
  { "pathlib", PATHS, NULL },
  { "pathlib._local", PATHS, NULL },
  { "builtins", BUILTINS, NULL },
  { "__builtin__", BUILTINS " long unicode xrange", NULL },
  { "copyreg", "_reconstructor", "an object" },
  { "copy_reg", "_reconstructor", "an object" },
  { "numpy", "dtype ndarray bool bool_ int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64 "
             "complex64 complex128 str_ bytes_", NULL },
  { "numpy.core.multiarray", "scalar", "a numpy scalar" },
  { "numpy._core.multiarray", "scalar", "a numpy scalar" },
  { "numpy.core.multiarray", "_reconstruct", "numpy.ndarray" },
  { "numpy._core.multiarray", "_reconstruct", "numpy.ndarray" },
  { "numpy.core.numeric", "_frombuffer", "numpy.ndarray" },
  { "numpy._core.numeric", "_frombuffer", "numpy.ndarray" },
  { "numpy.random._pickle", "__randomstate_ctor __generator_ctor __bit_generator_ctor", "a numpy random generator" },
  { "numpy.random.bit_generator", "__pyx_unpickle_SeedSequence SeedSequence", "a numpy random seed" },
  { "numpy.random._mt19937", "MT19937", NULL },
  { "numpy.random._pcg64", "PCG64 PCG64DXSM", NULL },
  { "numpy.random._philox", "Philox", NULL },
  { "numpy.random._sfc64", "SFC64", NULL },
  { "torch.torch_version", "TorchVersion", NULL },
  { "torch.serialization", "_get_layout", "torch.layout" },
  { "pytorch_lightning.utilities.parsing", "AttributeDict", NULL },
  { "lightning_fabric.utilities.data", "AttributeDict", NULL },
  { "lightning.fabric.utilities.data", "AttributeDict", NULL },
};

static const struct { const char *dtype, *storage; int itemsize; } dtypes[] = {
  { "float32", "FloatStorage", 4 },
  { "float64", "DoubleStorage", 8 },
  { "float16", "HalfStorage", 2 },
  { "bfloat16", "BFloat16Storage", 2 },
  { "int64", "LongStorage", 8 },
  { "int32", "IntStorage", 4 },
  { "int16", "ShortStorage", 2 },
  { "int8", "CharStorage", 1 },
  { "uint8", "ByteStorage", 1 },
  { "bool", "BoolStorage", 1 },
  { "complex64", "ComplexFloatStorage", 8 },
  { "complex128", "ComplexDoubleStorage", 16 },
};
enum { NDTYPES = sizeof dtypes / sizeof *dtypes };

int64_t pickle_itemsize(const char *dtype) {
  for (int i = 0; i < NDTYPES; i++)
    if (!strcmp(dtypes[i].dtype, dtype))
      return dtypes[i].itemsize;
  return 0;
}

static bool same(const char *s, size_t len, const char *word) { return strlen(word) == len && !memcmp(s, word, len); }

static void *refuse(pickle *p, const char *m, size_t mlen, const char *n, size_t nlen) {
  char name[200];
  size_t k = 0;
  for (size_t i = 0; i < mlen && k < 120; i++)
    name[k++] = m[i];
  name[k++] = '.';
  for (size_t i = 0; i < nlen && k < sizeof name - 1; i++)
    name[k++] = n[i];
  for (size_t i = 0; i < k; i++)
    if ((unsigned char)name[i] < 32 || (unsigned char)name[i] > 126)
      name[i] = '?';
  return fail(p, PICKLE_BAD, "asks to run %.*s; refused. In Python save model.state_dict() alone", (int)k, name);
}

/* Whether a word stands in a list of words apart by spaces. */
static bool among(const char *words, const char *s, size_t len) {
  while (*words) {
    size_t n = strcspn(words, " ");
    if (n == len && !memcmp(words, s, len))
      return true;
    words += n + (words[n] == ' ');
  }
  return false;
}

static bool push_known(pickle *p, int id, const char *name) {
  return push(p, (pickle_value){ .kind = PICKLE_GLOBAL, .global = { id, name } }) != NULL;
}

/* Pushes a class of the table above with its full name, which is known to be short. */
static bool push_inert(pickle *p, const char *m, size_t mlen, const char *n, size_t nlen, const char *shown) {
  char *name = arena(p, mlen + nlen + 2);
  if (name)
    snprintf(name, mlen + nlen + 2, "%.*s.%.*s", (int)mlen, m, (int)nlen, n);
  return name && push_known(p, G_INERT, shown ? shown : name);
}

/* Pushes what a global stands for; an unknown one is an error that names it. */
static bool push_global(pickle *p, const char *m, size_t mlen, const char *n, size_t nlen) {
  for (size_t i = 0; i < sizeof globals / sizeof *globals; i++)
    if (same(m, mlen, globals[i].module) && same(n, nlen, globals[i].name))
      return push_known(p, globals[i].id, globals[i].name);
  for (size_t i = 0; i < sizeof inert / sizeof *inert; i++)
    if (same(m, mlen, inert[i].module) && among(inert[i].names, n, nlen))
      return push_inert(p, m, mlen, n, nlen, inert[i].shown);
  if (same(m, mlen, "torch") || same(m, mlen, "torch.cuda"))
    for (int i = 0; i < NDTYPES; i++) {
      if (same(n, nlen, dtypes[i].storage))
        return push_known(p, G_STORAGE + i, dtypes[i].storage);
      if (mlen == 5 && same(n, nlen, dtypes[i].dtype))
        return push(p, (pickle_value){ .kind = PICKLE_STR, .str = { dtypes[i].dtype, nlen } }) != NULL;
    }
  return refuse(p, m, mlen, n, nlen) != NULL;
}

/* ---- storages ----------------------------------------------------------------------------------------------- */

static size_t slot_of(pickle_storage *const *table, size_t room, const char *key, size_t len) {
  uint64_t h = 1469598103934665603u;
  for (size_t i = 0; i < len; i++)
    h = (h ^ (unsigned char)key[i]) * 1099511628211u;
  size_t at = (h ^ h >> 32) & (room - 1);
  while (table[at] && (table[at]->key_len != len || memcmp(table[at]->key, key, len)))
    at = (at + 1) & (room - 1);
  return at;
}

const pickle_storage *pickle_find_storage(const pickle *p, const char *key, size_t len) {
  return p->table_room ? p->table[slot_of(p->table, p->table_room, key, len)] : NULL;
}

size_t pickle_storages(const pickle *p, pickle_storage *const **out) {
  *out = p->storages;
  return p->nstorages;
}

static bool rehash(pickle *p) {
  size_t room = p->table_room ? p->table_room * 2 : 64;
  if (!charge(p, room * sizeof *p->table))
    return false;
  pickle_storage **table = mx_calloc(room, sizeof *table);
  if (!table)
    return fail(p, PICKLE_NOMEM, "does not fit into memory") != NULL;
  for (size_t i = 0; i < p->nstorages; i++)
    table[slot_of(table, room, p->storages[i]->key, p->storages[i]->key_len)] = p->storages[i];
  mx_free(p->table);
  p->table = table;
  p->table_room = room;
  return true;
}

/* The storage of that key, made at its first mention; later mentions must agree with the first. */
static const pickle_storage *storage_get(pickle *p, const pickle_value *key, int dtype, int64_t numel) {
  if (p->nstorages * 2 >= p->table_room && !rehash(p))
    return NULL;
  size_t at = slot_of(p->table, p->table_room, key->str.s, key->str.len);
  pickle_storage *s = p->table[at];
  if (s) {
    if (s->dtype != dtypes[dtype].dtype || s->numel != numel)
      return malformed(p, "one storage with two sizes or types");
    return s;
  }
  s = arena(p, sizeof *s);
  if (!s || !grow(p, &p->storages, &p->storages_room, p->nstorages, sizeof *p->storages))
    return NULL;
  *s = (pickle_storage){ key->str.s, key->str.len, dtypes[dtype].dtype, numel, dtypes[dtype].itemsize, p->nstorages };
  p->storages[p->nstorages++] = s;
  return p->table[at] = s;
}

/* ('storage', type, key, location, numel[, view]) -> a storage; view: (key, offset, numel) of old files. */
static bool persistent(pickle *p) {
  pickle_value *id = pop(p), **t;
  if (!id)
    return false;
  if (id->kind != PICKLE_TUPLE || id->seq.n < 5 || !is_str((t = id->seq.items)[0], "storage"))
    return malformed(p, "a persistent id that is not a storage") != NULL;
  if (t[1]->kind != PICKLE_GLOBAL || t[1]->global.id < G_UNTYPED || t[4]->kind != PICKLE_INT || t[4]->i < 0 ||
      (t[2]->kind != PICKLE_STR && t[2]->kind != PICKLE_BYTES))
    return malformed(p, "a storage without type, key or size") != NULL;
  int dtype = t[1]->global.id - G_STORAGE;
  if (t[1]->global.id == G_UNTYPED)
    for (dtype = 0; strcmp(dtypes[dtype].dtype, "uint8") != 0;)
      dtype++;
  if (t[4]->i > INT64_MAX / 16)
    return malformed(p, "an impossible storage size") != NULL;
  const pickle_storage *s = storage_get(p, t[2], dtype, t[4]->i);
  if (!s)
    return false;
  pickle_value v = { .kind = PICKLE_STORAGE, .view = { s, 0, s->numel } };
  if (id->seq.n > 5 && t[5]->kind == PICKLE_TUPLE) {
    pickle_value **w = t[5]->seq.items;
    if (t[5]->seq.n != 3 || w[1]->kind != PICKLE_INT || w[2]->kind != PICKLE_INT || w[1]->i < 0 || w[2]->i < 0 ||
        w[1]->i > s->numel || w[2]->i > s->numel - w[1]->i)
      return malformed(p, "a view outside its storage") != NULL;
    v.view.offset = w[1]->i;
    v.view.numel = w[2]->i;
  }
  return push(p, v) != NULL;
}

/* ---- reduce: the few calls that mean something -------------------------------------------------------------- */

static bool all_ints(const pickle_value *t) {
  if (t->kind != PICKLE_TUPLE && t->kind != PICKLE_LIST)
    return false;
  for (size_t i = 0; i < t->seq.n; i++)
    if (t->seq.items[i]->kind != PICKLE_INT || t->seq.items[i]->i < 0)
      return false;
  return t->seq.n <= PICKLE_MAX_DIMS;
}

/* Whether every element of t lies inside the view of numel elements that starts at t->offset - within. */
static bool inside(const pickle_tensor *t, int64_t within, int64_t numel) {
  int64_t last = within;
  bool empty = false;
  for (int i = 0; i < t->dim; i++)
    empty = empty || t->sizes[i] == 0;
  if (within < 0 || within > numel)
    return false;
  int64_t count = 1; /* of elements: must fit even where strides of 0 repeat them */
  for (int i = 0; i < t->dim && !empty; i++) {
    int64_t step;
    if (__builtin_mul_overflow(t->sizes[i] - 1, t->strides[i], &step) || __builtin_add_overflow(last, step, &last) ||
        __builtin_mul_overflow(count, t->sizes[i], &count) || count > INT64_MAX / 16)
      return false;
  }
  return empty || last < numel;
}

static bool push_tensor(pickle *p, const pickle_value *args, size_t least) {
  pickle_value **a = args->seq.items;
  if (args->seq.n < least || a[0]->kind != PICKLE_STORAGE || a[1]->kind != PICKLE_INT || !all_ints(a[2])
      || !all_ints(a[3]) || a[2]->seq.n != a[3]->seq.n)
    return malformed(p, "a tensor without storage, size or strides") != NULL;
  size_t dim = a[2]->seq.n;
  pickle_tensor *t = arena(p, sizeof *t);
  int64_t *sizes = arena(p, 2 * dim * sizeof *sizes + 1);
  if (!t || !sizes)
    return false;
  *t = (pickle_tensor){ a[0]->view.storage, 0, (int)dim, sizes, sizes + dim };
  for (int i = 0; i < t->dim; i++) {
    t->sizes[i] = a[2]->seq.items[i]->i;
    t->strides[i] = a[3]->seq.items[i]->i;
  }
  if (!inside(t, a[1]->i, a[0]->view.numel))
    return malformed(p, "a tensor that reaches outside its storage") != NULL;
  t->offset = a[0]->view.offset + a[1]->i;
  return push(p, (pickle_value){ .kind = PICKLE_TENSOR, .tensor = t }) != NULL;
}

/* OrderedDict(), OrderedDict([(key, value), ...]) or [[key, value], ...] */
static bool push_dict(pickle *p, const pickle_value *args) {
  if (!push(p, (pickle_value){ .kind = PICKLE_DICT }))
    return false;
  pickle_value *d = p->stack[p->n - 1];
  if (args->seq.n == 0)
    return true;
  const pickle_value *list = args->seq.items[0];
  if (args->seq.n != 1 || (list->kind != PICKLE_LIST && list->kind != PICKLE_TUPLE))
    return malformed(p, "an odd OrderedDict") != NULL;
  for (size_t i = 0; i < list->seq.n; i++) {
    const pickle_value *pair = list->seq.items[i];
    if ((pair->kind != PICKLE_LIST && pair->kind != PICKLE_TUPLE) || pair->seq.n != 2)
      return malformed(p, "an odd OrderedDict") != NULL;
    if (!append(p, d, pair->seq.items[0]) || !append(p, d, pair->seq.items[1]))
      return false;
  }
  return true;
}

/* How protocol 2 writes bytes: text whose code points are the bytes. */
static bool push_encoded(pickle *p, const pickle_value *args) {
  if (args->seq.n != 2 || args->seq.items[0]->kind != PICKLE_STR || !is_str(args->seq.items[1], "latin1"))
    return malformed(p, "an odd byte string") != NULL;
  const unsigned char *s = (const unsigned char *)args->seq.items[0]->str.s;
  size_t len = args->seq.items[0]->str.len, n = 0;
  char *out = arena(p, len + 1);
  if (!out)
    return false;
  for (size_t i = 0; i < len; i++)
    if (s[i] < 0x80)
      out[n++] = (char)s[i];
    else if ((s[i] == 0xc2 || s[i] == 0xc3) && i + 1 < len && (s[i + 1] & 0xc0) == 0x80) {
      out[n++] = (char)((s[i] & 3) << 6 | (s[i + 1] & 0x3f));
      i++;
    } else
      return malformed(p, "an odd byte string") != NULL;
  return push(p, (pickle_value){ .kind = PICKLE_BYTES, .str = { out, n } }) != NULL;
}

static bool reduce(pickle *p) {
  pickle_value *args = pop(p), *f = args ? pop(p) : NULL;
  if (!f)
    return false;
  if (f->kind != PICKLE_GLOBAL || args->kind != PICKLE_TUPLE)
    return malformed(p, "a call of something that is not a function") != NULL;
  pickle_value **a = args->seq.items;
  size_t n = args->seq.n;
  switch (f->global.id) {
    case G_DICT: return push_dict(p, args);
    case G_DEFAULTDICT: return push(p, (pickle_value){ .kind = PICKLE_DICT }) != NULL; /* without its defaults */
    case G_INERT: return push(p, (pickle_value){ .kind = PICKLE_INERT, .global = f->global }) != NULL;
    case G_COUNTER: /* Counter() or Counter({...}) */
      if (n == 0)
        return push(p, (pickle_value){ .kind = PICKLE_DICT }) != NULL;
      if (n == 1 && a[0]->kind == PICKLE_DICT)
        return push_again(p, a[0]);
      break;
    case G_LIST:
      if (n == 0)
        return push(p, (pickle_value){ .kind = PICKLE_LIST }) != NULL;
      if (n == 1 && (a[0]->kind == PICKLE_LIST || a[0]->kind == PICKLE_TUPLE))
        return push_again(p, a[0]);
      break;
    case G_SIZE:
      if (n == 1 && all_ints(a[0]))
        return push_again(p, a[0]);
      break;
    case G_DEVICE: /* ('cuda', 0): its type is enough */
      if (n >= 1 && a[0]->kind == PICKLE_STR)
        return push_again(p, a[0]);
      break;
    case G_ENCODE: return push_encoded(p, args);
    case G_TENSOR: return push_tensor(p, args, 4);
    case G_TENSOR_V2: return push_tensor(p, args, 6);
    case G_PARAMETER: case G_PARAMETER_STATE:
      if (n >= 3 && a[0]->kind == PICKLE_TENSOR)
        return push_again(p, a[0]);
      break;
    default: break;
  }
  return malformed(p, "a call with the wrong arguments") != NULL;
}

/* ---- the machine -------------------------------------------------------------------------------------------- */

static bool push_int(pickle *p, int bytes, bool is_signed) {
  uint64_t u;
  if (!take_uint(&u, p, bytes))
    return false;
  return push(p, (pickle_value){ .kind = PICKLE_INT, .i = is_signed ? (int32_t)u : (int64_t)u }) != NULL;
}

static bool push_long(pickle *p, uint64_t len) {
  const unsigned char *b = take(p, len);
  if (!b)
    return false;
  if (len > 8)
    return push(p, (pickle_value){ .kind = PICKLE_LONG, .str = { (const char *)b, (size_t)len } }) != NULL;
  uint64_t u = len && b[len - 1] & 0x80 ? UINT64_MAX : 0;
  for (size_t i = len; i-- > 0;)
    u = u << 8 | b[i];
  return push(p, (pickle_value){ .kind = PICKLE_INT, .i = (int64_t)u }) != NULL;
}

static bool push_double(pickle *p) {
  const unsigned char *b = take(p, 8);
  uint64_t u = 0;
  double d;
  for (int i = 0; b && i < 8; i++)
    u = u << 8 | b[i];
  memcpy(&d, &u, 8);
  return b && push(p, (pickle_value){ .kind = PICKLE_FLOAT, .d = d });
}

/* A memo number is never larger than the pickle's length, which bounds the memo. */
static bool memo_put(pickle *p, uint64_t at, uint64_t *count) {
  pickle_value *v = top(p);
  if (!v)
    return false;
  if (at > (uint64_t)(p->p - p->start))
    return malformed(p, "a memo number that is too large") != NULL;
  while (p->memo_room <= at)
    if (!grow(p, &p->memo, &p->memo_room, p->memo_room > at / 2 ? p->memo_room : (size_t)at, sizeof *p->memo))
      return false;
  p->memo[at] = v;
  (*count)++;
  return true;
}

static bool memo_get(pickle *p, uint64_t at) {
  if (at >= p->memo_room || !p->memo[at])
    return malformed(p, "a memo number that was never set") != NULL;
  return push_again(p, p->memo[at]);
}

static bool tuple_of(pickle *p, size_t n) {
  if (p->n - base(p) < n)
    return malformed(p, "empty stack") != NULL;
  p->n -= n;
  return push_seq(p, PICKLE_TUPLE, p->stack + p->n, n);
}

static bool global_line(pickle *p) {
  const char *m = "", *n = "";
  size_t mlen = 0, nlen = 0;
  return take_line(&m, &mlen, p) && take_line(&n, &nlen, p) && push_global(p, m, mlen, n, nlen);
}

static bool global_stack(pickle *p) {
  pickle_value *n = pop(p), *m = n ? pop(p) : NULL;
  if (!m)
    return false;
  if (n->kind != PICKLE_STR || m->kind != PICKLE_STR)
    return malformed(p, "a global without a name") != NULL;
  return push_global(p, m->str.s, m->str.len, n->str.s, n->str.len);
}

static bool set_items(pickle *p, pickle_kind kind, size_t n) {
  pickle_value *items[2];
  for (size_t i = n; i-- > 0;)
    if (!(items[i] = pop(p)))
      return false;
  return extend(p, kind, items, n);
}

/* BUILD sets an object's state, which is dropped, as are an OrderedDict's attributes (_metadata). */
static bool build(pickle *p) {
  if (!pop(p))
    return false;
  pickle_value *v = top(p);
  if (v && v->kind != PICKLE_DICT && v->kind != PICKLE_INERT)
    return malformed(p, "a state for an object that takes none") != NULL;
  return v != NULL;
}

/* Opcodes that stand for a value of their own: None, booleans, numbers, strings, bytes. */
static bool push_literal(pickle *p, int op) {
  uint64_t u;
  switch (op) {
    case 'N': return push(p, (pickle_value){ .kind = PICKLE_NONE }) != NULL;
    case 0x88: case 0x89: return push(p, (pickle_value){ .kind = PICKLE_BOOL, .b = op == 0x88 }) != NULL;
    case 'J': return push_int(p, 4, true);                                                      /* BININT */
    case 'K': return push_int(p, 1, false);
    case 'M': return push_int(p, 2, false);
    case 0x8a: return take_uint(&u, p, 1) && push_long(p, u);                                   /* LONG1, LONG4 */
    case 0x8b: return take_uint(&u, p, 4) && push_long(p, u);
    case 'G': return push_double(p);                                                            /* BINFLOAT */
    case 'X': return take_uint(&u, p, 4) && push_str(p, PICKLE_STR, u);                         /* BINUNICODE ... */
    case 0x8c: return take_uint(&u, p, 1) && push_str(p, PICKLE_STR, u);
    case 0x8d: return take_uint(&u, p, 8) && push_str(p, PICKLE_STR, u);
    case 'U': return take_uint(&u, p, 1) && push_str(p, PICKLE_STR, u);                         /* Python 2's str */
    case 'T': return take_uint(&u, p, 4) && push_str(p, PICKLE_STR, u);
    case 'C': return take_uint(&u, p, 1) && push_str(p, PICKLE_BYTES, u);                       /* BINBYTES ... */
    case 'B': return take_uint(&u, p, 4) && push_str(p, PICKLE_BYTES, u);
    case 0x8e: case 0x96: return take_uint(&u, p, 8) && push_str(p, PICKLE_BYTES, u);
    default: return fail(p, PICKLE_BAD, "has a pickle with opcode 0x%02x, which torch.save does not write", op) != NULL;
  }
}

/* POP: the mark itself where nothing lies above it. */
static bool pop_value(pickle *p) {
  if (p->nmarks && p->n == base(p))
    return p->nmarks--, true;
  return pop(p) != NULL;
}

static bool push_mark(pickle *p) {
  if (!grow(p, &p->marks, &p->marks_room, p->nmarks, sizeof *p->marks))
    return false;
  p->marks[p->nmarks++] = p->n;
  return true;
}

/* INST: an object of a class named in text. torch.save does not write it. */
static bool refuse_inst(pickle *p) {
  const char *m = "", *s = "";
  size_t mlen = 0, slen = 0;
  return take_line(&m, &mlen, p) && take_line(&s, &slen, p) && refuse(p, m, mlen, s, slen);
}

/* One opcode. *done at STOP. memoized counts what the memo holds, for MEMOIZE. */
static bool step(pickle *p, bool *done, uint64_t *memoized) {
  const unsigned char *op = take(p, 1);
  pickle_value **items = NULL;
  uint64_t u;
  size_t n = 0;
  if (!op)
    return false;
  switch (*op) {
    case 0x80: return take_uint(&u, p, 1) && (u <= 5 || malformed(p, "an unknown protocol"));   /* PROTO */
    case 0x95: return take(p, 8) != NULL;                                                       /* FRAME */
    case '.': *done = true; return true;                                                        /* STOP */
    case '(': return push_mark(p);                                                              /* MARK */
    case '0': return pop_value(p);                                                              /* POP */
    case '1': return pop_mark(&items, &n, p);                                                   /* POP_MARK */
    case '2': return top(p) && push_again(p, top(p));                                           /* DUP */
    case ']': case 0x8f: return push(p, (pickle_value){ .kind = PICKLE_LIST }) != NULL;         /* list, set */
    case '}': return push(p, (pickle_value){ .kind = PICKLE_DICT }) != NULL;
    case ')': return push(p, (pickle_value){ .kind = PICKLE_TUPLE }) != NULL;
    case 't': return pop_mark(&items, &n, p) && push_seq(p, PICKLE_TUPLE, items, n);
    case 'l': case 0x91: return pop_mark(&items, &n, p) && push_seq(p, PICKLE_LIST, items, n);  /* list, frozenset */
    case 'd':
      return pop_mark(&items, &n, p) && (n % 2 == 0 || malformed(p, "a dict with half a pair"))
          && push_seq(p, PICKLE_DICT, items, n);
    case 0x85: case 0x86: case 0x87: return tuple_of(p, (size_t)(*op - 0x84));                  /* TUPLE1 ... 3 */
    case 'a': return set_items(p, PICKLE_LIST, 1);                                              /* APPEND */
    case 's': return set_items(p, PICKLE_DICT, 2);                                              /* SETITEM */
    case 'e': case 0x90: return pop_mark(&items, &n, p) && extend(p, PICKLE_LIST, items, n);    /* APPENDS, ADDITEMS */
    case 'u': return pop_mark(&items, &n, p) && extend(p, PICKLE_DICT, items, n);               /* SETITEMS */
    case 'c': return global_line(p);
    case 0x93: return global_stack(p);
    case 'R': case 0x81: return reduce(p);                                                      /* REDUCE, NEWOBJ */
    case 0x92: return pop(p) && reduce(p);                                                      /* NEWOBJ_EX */
    case 'b': return build(p);
    case 'Q': return persistent(p);                                                             /* BINPERSID */
    case 'q': return take_uint(&u, p, 1) && memo_put(p, u, memoized);                           /* BINPUT ... */
    case 'r': return take_uint(&u, p, 4) && memo_put(p, u, memoized);
    case 0x94: return memo_put(p, *memoized, memoized);                                         /* MEMOIZE */
    case 'h': return take_uint(&u, p, 1) && memo_get(p, u);
    case 'j': return take_uint(&u, p, 4) && memo_get(p, u);
    case 'i': return refuse_inst(p);                                                            /* INST */
    default: return push_literal(p, *op);
  }
}

int pickle_read(pickle_value **out, size_t *used, pickle *p, const void *data, size_t len) {
  bool done = false;
  uint64_t memoized = 0;
  size_t explained = len < p->limit / BYTES_PER_BYTE ? p->bytes + BYTES_OF_ANY + len * BYTES_PER_BYTE : p->limit;
  p->most = explained < p->limit ? explained : p->limit;
  p->start = p->p = data;
  p->end = p->p + len;
  p->n = p->nmarks = 0;
  p->status = PICKLE_OK;
  p->error[0] = 0;
  if (p->memo_room)
    memset(p->memo, 0, p->memo_room * sizeof *p->memo);
  while (!done && step(p, &done, &memoized)) {}
  if (p->status == PICKLE_OK && (!done || p->n != 1 || p->nmarks))
    malformed(p, "it does not end with one value");
  if (p->status == PICKLE_OK) {
    *out = p->stack[0];
    *used = (size_t)(p->p - p->start);
  }
  return p->status;
}

/* ---- writing ------------------------------------------------------------------------------------------------ */

static void out_bytes(pickle_out *o, const void *data, size_t n) {
  if (o->failed)
    return;
  if (n > o->room - o->n) {
    size_t room = (o->n + n) * 2 + 1024;
    char *more = mx_realloc(o->data, room);
    if (!more) {
      o->failed = true;
      return;
    }
    o->data = more;
    o->room = room;
  }
  memcpy(o->data + o->n, data, n);
  o->n += n;
}

static void out_text(pickle_out *o, const char *s) { out_bytes(o, s, strlen(s)); }

static void out_op(pickle_out *o, int op, uint64_t value, int bytes) {
  unsigned char b[9] = { (unsigned char)op };
  for (int i = 0; i < bytes; i++)
    b[1 + i] = (unsigned char)(value >> 8 * i);
  out_bytes(o, b, (size_t)bytes + 1);
}

void pickle_begin(pickle_out *o) { out_op(o, 0x80, 2, 1); }
void pickle_end(pickle_out *o) { out_op(o, '.', 0, 0); }
void pickle_put_none(pickle_out *o) { out_op(o, 'N', 0, 0); }
void pickle_put_bool(pickle_out *o, bool b) { out_op(o, b ? 0x88 : 0x89, 0, 0); }

void pickle_put_int(pickle_out *o, int64_t i) {
  if (i >= 0 && i < 256)
    out_op(o, 'K', (uint64_t)i, 1);
  else if (i >= INT32_MIN && i <= INT32_MAX)
    out_op(o, 'J', (uint64_t)i, 4);
  else {
    out_op(o, 0x8a, 8, 1);
    unsigned char b[8];
    for (int k = 0; k < 8; k++)
      b[k] = (unsigned char)((uint64_t)i >> 8 * k);
    out_bytes(o, b, 8);
  }
}

void pickle_put_str(pickle_out *o, const char *s, size_t len) {
  if (len > UINT32_MAX) {
    o->failed = true;
    return;
  }
  out_op(o, 'X', len, 4);
  out_bytes(o, s, len);
}

void pickle_put_dict(pickle_out *o, bool ordered) { out_text(o, ordered ? "ccollections\nOrderedDict\n)R" : "}"); }
void pickle_put_list(pickle_out *o) { out_text(o, "]"); }
void pickle_put_mark(pickle_out *o) { out_text(o, "("); }
void pickle_put_setitems(pickle_out *o) { out_text(o, "u"); }
void pickle_put_appends(pickle_out *o) { out_text(o, "e"); }

static void out_ints(pickle_out *o, int n, const int64_t *v) {
  out_text(o, "(");
  for (int i = 0; i < n; i++)
    pickle_put_int(o, v[i]);
  out_text(o, "t");
}

void pickle_put_tensor(pickle_out *o, const char *dtype, const char *key, int64_t storage_numel, int64_t offset,
                       int dim, const int64_t *sizes, const int64_t *strides) {
  const char *type = NULL;
  for (int i = 0; i < NDTYPES; i++)
    if (!strcmp(dtypes[i].dtype, dtype))
      type = dtypes[i].storage;
  if (!type) {
    o->failed = true;
    return;
  }
  out_text(o, "ctorch._utils\n_rebuild_tensor_v2\n((");
  pickle_put_str(o, "storage", 7);
  out_text(o, "ctorch\n");
  out_text(o, type);
  out_text(o, "\n");
  pickle_put_str(o, key, strlen(key));
  pickle_put_str(o, "cpu", 3);
  pickle_put_int(o, storage_numel);
  out_text(o, "tQ");
  pickle_put_int(o, offset);
  out_ints(o, dim, sizes);
  out_ints(o, dim, strides);
  pickle_put_bool(o, false);
  pickle_put_dict(o, true); /* no backward hooks */
  out_text(o, "tR");
}

void pickle_out_free(pickle_out *o) {
  mx_free(o->data);
  *o = (pickle_out){ 0 };
}
