/* Whole files: writers in one process, in many and in process spaces of their own never meet; readers see whole content
 * only; what dead writers left goes, what a live one may own stays. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <dirent.h>
#include <unistd.h>
#include "whole_file.h"

enum { BYTES = 300000, WRITERS = 4, ROUNDS = 12 };

static int failures;
static char folder[] = "/tmp/medxai-whole.XXXXXX", content[BYTES];

static void expect(int ok, const char *what, int detail) {
  if (ok)
    return;
  printf("whole_file: %s (%d)\n", what, detail);
  failures++;
}

static const char *in_folder(const char *name) {
  static char path[2][PATH_MAX];
  static int turn;
  turn = !turn;
  snprintf(path[turn], PATH_MAX, "%s/%s", folder, name);
  return path[turn];
}

/* The one byte that the whole file consists of; -1: something else. */
static int letter(const char *path) {
  static char got[BYTES + 1];
  int fd = open(path, O_RDONLY), n = 0;
  for (ssize_t k = 1; fd >= 0 && k > 0 && n <= BYTES; n += k > 0 ? (int)k : 0)
    k = read(fd, got + n, sizeof got - (size_t)n);
  if (fd >= 0)
    close(fd);
  for (int i = 1; i < n; i++)
    if (got[i] != got[0])
      return -1;
  return n == BYTES ? got[0] : -1;
}

static int entries(void) { /* and removes them */
  DIR *d = opendir(folder);
  int n = 0;
  for (struct dirent *e; (e = readdir(d));)
    if (e->d_name[0] != '.' || strlen(e->d_name) > 2) {
      n++;
      unlinkat(dirfd(d), e->d_name, 0);
    }
  closedir(d);
  return n;
}

static void two_in_one_process(void) {
  whole_file a, b;
  expect(whole_file_open(&a, in_folder("f")) == 0 && whole_file_open(&b, in_folder("f")) == 0, "cannot open", errno);
  memset(content, 'a', BYTES);
  expect(whole_file_write(&a, content, BYTES / 2) == 0, "cannot write", 0);
  memset(content, 'b', BYTES);
  expect(whole_file_write(&b, content, BYTES) == 0 && whole_file_commit(&b) == 0, "the second cannot commit", 0);
  expect(letter(in_folder("f")) == 'b', "it is not the second's", letter(in_folder("f")));
  memset(content, 'a', BYTES);
  expect(whole_file_write(&a, content, BYTES / 2) == 0 && whole_file_commit(&a) == 0, "the first cannot commit", 0);
  expect(letter(in_folder("f")) == 'a', "it is not the first's", 0);
  whole_file_abandon(&a);
  whole_file_abandon(&b);
  expect(whole_file_open(&a, in_folder("f")) == 0 && whole_file_write(&a, "half", 4) == 0, "cannot write", 0);
  whole_file_abandon(&a);
  expect(letter(in_folder("f")) == 'a', "an abandoned write has changed the file", 0);
  expect(entries() == 1, "something is left behind", 0);
}

/* Writes the same file again and again, in a process space of its own where that is allowed: all are number 1 there. */
static void write_rounds(int which) {
  if (unshare(CLONE_NEWPID) == 0 || unshare(CLONE_NEWUSER | CLONE_NEWPID) == 0) {
    int status;
    pid_t child = fork();
    if (child > 0)
      _exit(waitpid(child, &status, 0) == child && WIFEXITED(status) ? WEXITSTATUS(status) : 99);
    if (child < 0)
      _exit(98);
  }
  int failed = 0;
  memset(content, 'A' + which, BYTES);
  for (int i = 0; i < ROUNDS; i++)
    failed += whole_file_put(in_folder("shared"), content, BYTES) != 0;
  _exit(failed);
}

static void many_processes(void) {
  pid_t child[WRITERS];
  int status, running = WRITERS, torn = 0;
  memset(content, '.', BYTES);
  expect(whole_file_put(in_folder("shared"), content, BYTES) == 0, "cannot write", 0);
  for (int i = 0; i < WRITERS; i++)
    if ((child[i] = fork()) == 0)
      write_rounds(i);
  while (running > 0) {
    torn += letter(in_folder("shared")) < 0;
    while (running > 0 && waitpid(-1, &status, WNOHANG) > 0) {
      expect(WIFEXITED(status) && WEXITSTATUS(status) == 0, "writes were lost", WEXITSTATUS(status));
      running--;
    }
  }
  expect(torn == 0, "a reader met half a file", torn);
  expect(entries() == 1, "something is left behind", 0);
}

static void only_new(void) {
  int made = 0, refused = 0, status;
  for (int i = 0; i < WRITERS; i++)
    if (fork() == 0)
      _exit(whole_file_create(in_folder("claim"), "mine", 4));
  for (int i = 0; i < WRITERS; i++) {
    wait(&status);
    made += WEXITSTATUS(status) == 0;
    refused += WEXITSTATUS(status) == EEXIST;
  }
  expect(made == 1 && refused == WRITERS - 1, "not exactly one has made the file", made);
  entries();
}

static void refusals(void) {
  char name[257];
  struct stat st;
  expect(mkfifo(in_folder("pipe"), 0600) == 0, "cannot make a pipe", errno);
  expect(whole_file_put(in_folder("pipe"), "x", 1) == EOPNOTSUPP, "a pipe was replaced", 0);
  expect(stat(in_folder("pipe"), &st) == 0 && S_ISFIFO(st.st_mode), "the pipe is gone", 0);
  expect(whole_file_put(folder, "x", 1) == EISDIR, "a folder was replaced", 0);
  expect(whole_file_put("", "x", 1) == ENOENT, "an empty path was taken", 0);
  expect(whole_file_put("/nowhere/f", "x", 1) == ENOENT, "a missing folder was taken", 0);
  memset(name, 'n', sizeof name);
  name[256] = 0;
  expect(whole_file_put(in_folder(name), "x", 1) == ENAMETOOLONG, "a name of 256 bytes was taken", 0);
  name[255] = 0;
  expect(whole_file_put(in_folder(name), "x", 1) == 0, "a name of 255 bytes was not taken", 0);
  expect(entries() == 2, "something is left behind", 0);
}

/* In a child: the limit stays. */
static void full_disk(void) {
  pid_t child = fork();
  int status;
  if (child == 0) {
    struct stat st;
    int before = failures;
    memset(content, 'x', BYTES);
    expect(whole_file_put(in_folder("f"), content, BYTES) == 0, "cannot write", 0);
    expect(whole_file_append(in_folder("log"), "line\n", 5, true) == 0, "cannot append", 0);
    setrlimit(RLIMIT_FSIZE, &(struct rlimit){ BYTES / 2, BYTES / 2 });
    signal(SIGXFSZ, SIG_IGN);
    memset(content, 'y', BYTES);
    expect(whole_file_put(in_folder("f"), content, BYTES) == EFBIG, "a file over the limit was written", 0);
    expect(letter(in_folder("f")) == 'x', "the old file is gone", 0);
    expect(whole_file_append(in_folder("log"), content, BYTES, false) == EFBIG, "too much was appended", 0);
    expect(stat(in_folder("log"), &st) == 0 && st.st_size == 5, "half a line was left", (int)st.st_size);
    expect(whole_file_create(in_folder("new"), content, BYTES) == EFBIG, "a file over the limit was made", 0);
    expect(entries() == 2, "something is left behind", 0);
    _exit(failures - before);
  }
  waitpid(child, &status, 0);
  failures += WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

/* ---- tidying up ---- */

/* The name of the temporary file that a writer of f has open; it stays. dead: of a process that has ended. */
static void leave(char name[PATH_MAX], int dead) {
  int channel[2];
  if (pipe(channel) != 0)
    exit(1);
  pid_t child = dead ? fork() : 0;
  if (child == 0) {
    static whole_file w;
    if (whole_file_open(&w, in_folder("f")) != 0 || write(channel[1], w.temporary, PATH_MAX) != PATH_MAX)
      exit(1);
    if (dead)
      _exit(0);
  }
  if (read(channel[0], name, PATH_MAX) != PATH_MAX)
    exit(1);
  if (dead)
    waitpid(child, NULL, 0);
  close(channel[0]);
  close(channel[1]);
}

/* Renames a temporary file so that field number `field` (place, pid, token, counter) is another one. */
static void disguise(char name[PATH_MAX], int field, const char *value) {
  char other[PATH_MAX + 32], *at = strstr(name, ".tmp-") + 5;
  for (; field > 0; field--)
    at = strchr(at, '-') + 1;
  snprintf(other, sizeof other, "%.*s%s%s", (int)(at - name), name, value, at + strcspn(at, "-"));
  if (rename(name, other) != 0)
    exit(1);
  snprintf(name, PATH_MAX, "%.*s", PATH_MAX - 1, other);
}

static void age(const char *path, int days) {
  struct stat st;
  if (stat(path, &st) != 0)
    exit(1);
  struct timespec times[2] = { { st.st_mtime - days * 86400L, 0 }, { st.st_mtime - days * 86400L, 0 } };
  utimensat(AT_FDCWD, path, times, 0);
}

static int is_there(const char *path) { return access(path, F_OK) == 0; }

static void tidy(void) {
  static char live[PATH_MAX], old_live[PATH_MAX], dead[PATH_MAX], reused[PATH_MAX], elsewhere[PATH_MAX], old[PATH_MAX];
  static const char *const foreign[] = { "mine.tmp", ".f.tmp-", ".f.tmp-1-2-3", ".f.tmp-1-2-3-4-5", ".f.tmp-1-0-3-4",
                                         ".f.tmp-1-2-3-x", "f.tmp-1-2-3-4", ".f.tmp-1-ffffffff-3-4" };
  leave(live, 0);
  leave(old_live, 0);
  leave(dead, 1);
  leave(reused, 0);
  leave(elsewhere, 1);
  leave(old, 1);
  age(old_live, 30);
  disguise(reused, 2, "77");      /* our number, an earlier process */
  disguise(elsewhere, 0, "abc1"); /* another machine: whether it lives cannot be told */
  disguise(old, 0, "abc1");
  age(elsewhere, 6);
  age(old, 8);
  for (size_t i = 0; i < sizeof foreign / sizeof *foreign; i++) {
    whole_file_create(in_folder(foreign[i]), "x", 1);
    age(in_folder(foreign[i]), 30);
  }
  expect(whole_file_tidy(folder) == 0, "cannot tidy up", errno);
  expect(is_there(live) && is_there(old_live), "a live writer's file was removed", 0);
  expect(is_there(elsewhere), "a file that another machine may be writing was removed", 0);
  expect(!is_there(dead), "a dead writer's file stays", 0);
  expect(!is_there(reused), "a file of an earlier process with our number stays", 0);
  expect(!is_there(old), "an old file of another machine stays", 0);
  for (size_t i = 0; i < sizeof foreign / sizeof *foreign; i++)
    expect(is_there(in_folder(foreign[i])), foreign[i], (int)i);
  expect(entries() == 3 + (int)(sizeof foreign / sizeof *foreign), "the clock's file is left behind", 0);
  expect(whole_file_tidy("/nowhere") == 0, "a missing folder is an error", 0);
}

int main(void) {
  if (!mkdtemp(folder))
    return 1;
  two_in_one_process();
  many_processes();
  only_new();
  refusals();
  full_disk();
  tidy();
  entries();
  rmdir(folder);
  return failures != 0;
}
