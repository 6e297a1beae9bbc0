/* store.h: files of tensors. Reads torch's zip .pt, its older .pth, and .safetensors, told apart by content; writes .pt
 * and .safetensors whole or not at all (whole_file.h). It runs nothing that a file asks for, and accepts no
 * size from a file that is larger than the file's own length allows. Plain C: no Lua, no libtorch. */
#ifndef MEDXAI_STORE_H
#define MEDXAI_STORE_H

#include "pickle.h"

/* ---- reading ------------------------------------------------------------------------------------------------ */

typedef struct store store; /* an open file: its structure is read, its numbers are not yet */

typedef struct store_entry { /* of a .safetensors file */
  const char *name;          /* ended by 0, unescaped */
  size_t len;
  const pickle_tensor *tensor; /* NULL: a line of __metadata__, its value is in text */
  const char *text;
  size_t text_len;
} store_entry;

/* NULL: error says why, as "is cut short" or "cannot be read (...)" */
store *store_open(const char *path, char *error, size_t room);
void store_close(store *s);                                    /* NULL allowed */
const char *store_format(const store *s);                      /* "zip", "legacy" or "safetensors" */
const pickle_value *store_root(const store *s);                /* NULL for safetensors */
size_t store_entries(const store *s, const store_entry **out); /* safetensors: in the order of the header */
size_t store_storages(const store *s);                         /* their `index` runs from 0 to this */
/* Reads the numbers of b, numel * itemsize bytes. false: error says what is wrong with the file. */
bool store_read_storage(void *to, store *s, const pickle_storage *b, char *error, size_t room);
bool store_is_number(const pickle_tensor *t); /* a floating-point number of ours, see store.c */

/* ---- writing ------------------------------------------------------------------------------------------------ */

typedef struct store_out store_out; /* a file being written under its temporary name */
store_out *store_create(const char *path, char *error, size_t room);
/* .pt: data.pkl, the numbers */
bool store_write_start(store_out *o, const pickle_out *pickle, const double *numbers, size_t n);
bool store_write_storage(store_out *o, size_t key, const void *data, size_t n);                 /* .pt: data/<key> */
/* .safetensors: as they come */
bool store_write_bytes(store_out *o, const void *data, size_t n);
bool store_commit(store_out *o); /* syncs and renames */
void store_abandon(store_out *o); /* removes what was not committed, and frees; NULL allowed */
const char *store_out_error(const store_out *o); /* the system's text of the first failure */

#define STORE_NUMBERS "numbers" /* key of the storage that holds a .pt file's floating-point numbers, see store.c */

#endif
