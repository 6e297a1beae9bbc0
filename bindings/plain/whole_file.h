/* whole_file.h: the one writer of files for all parts of the program. A file is written whole or not at all: under a
 * temporary name beside it, synced, renamed, and the folder synced. Temporary names are unique among the threads,
 * processes, containers and machines that share a folder. Results of int functions: 0, or an errno. No Lua, no
 * libtorch, no malloc: the host links it too.
 * Only regular files are replaced; for a device, a pipe or a folder the result is EOPNOTSUPP or EISDIR. */
#ifndef MEDXAI_WHOLE_FILE_H
#define MEDXAI_WHOLE_FILE_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>

typedef struct whole_file {
  int fd; /* -1: not open */
  char path[PATH_MAX], temporary[PATH_MAX];
} whole_file;

/* open, write as often as needed, then commit; abandon at any time, also after commit: it removes what was not
 * committed. After a failure the old file is as it was, and abandon is all that is left to do. */
int whole_file_open(whole_file *w, const char *path);
int whole_file_write(whole_file *w, const void *bytes, size_t n);
int whole_file_commit(whole_file *w);
void whole_file_abandon(whole_file *w); /* of one that whole_file_open was called for */

int whole_file_put(const char *path, const void *bytes, size_t n); /* all of it at once */
/* A new file with this content; EEXIST where there is one. Of several processes exactly one succeeds. */
int whole_file_create(const char *path, const void *bytes, size_t n);
/* The same, and whole: another process finds all of it or no file. Where the file system has no hard links, two writers
 * at the same moment may both succeed; the later content stays. */
int whole_file_first(const char *path, const void *bytes, size_t n);

/* Appends to a file, which is created if it is missing. A write that a full disk cuts off is undone. sync: returns when
 * the content, and a new file's name, are on the disk. */
int whole_file_append(const char *path, const void *bytes, size_t n, bool sync);

int whole_file_sync(const char *path);        /* a file or a folder; a folder that cannot be synced is fine */
int whole_file_sync_folder(const char *path); /* the folder that holds path: a name in it was made or changed */

/* Removes from a folder the temporary files of dead writers: where it is known that the process is gone (this machine,
 * this container), or where nothing was written for a week by the clock of the folder's own file system. */
int whole_file_tidy(const char *folder);

#endif
