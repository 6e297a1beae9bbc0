/* heart.c: see heart.h. The thread takes no signal: those are the main thread's. A beat that cannot be written (a full
 * disk, a server that is away) is tried again at the next. */
#include "heart.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

struct heart {
  pthread_t thread;
  pthread_mutex_t lock;
  pthread_cond_t ended;
  bool is_ended;
  int fd;
  unsigned long long count;
  double seconds;
  char path[]; /* ends with a zero byte */
};

static int write_count(heart *h) {
  char line[32];
  int n = snprintf(line, sizeof line, "%-20llu\n", h->count);
  if (pwrite(h->fd, line, (size_t)n, 0) != n) return errno ? errno : EIO;
  return fdatasync(h->fd) == 0 || errno == EINVAL || errno == ENOTSUP ? 0 : errno;
}

static struct timespec next_beat(const heart *h) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  double at = (double)t.tv_nsec * 1e-9 + h->seconds;
  t.tv_sec += (time_t)at;
  t.tv_nsec = (long)((at - (double)(time_t)at) * 1e9);
  return t;
}

static void *beat(void *of) {
  heart *h = of;
  pthread_mutex_lock(&h->lock);
  struct timespec next = next_beat(h);
  while (!h->is_ended) {
    if (pthread_cond_timedwait(&h->ended, &h->lock, &next) != ETIMEDOUT) continue;
    pthread_mutex_unlock(&h->lock); /* a write may hang where a server is away */
    h->count++;
    write_count(h);
    next = next_beat(h);
    pthread_mutex_lock(&h->lock);
  }
  pthread_mutex_unlock(&h->lock);
  return NULL;
}

static int start_thread(heart *h) {
  sigset_t all, before;
  pthread_condattr_t monotonic;
  pthread_condattr_init(&monotonic);
  pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
  pthread_mutex_init(&h->lock, NULL);
  pthread_cond_init(&h->ended, &monotonic);
  pthread_condattr_destroy(&monotonic);
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  int code = pthread_create(&h->thread, NULL, beat, h);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  if (code == 0) return 0;
  pthread_cond_destroy(&h->ended);
  pthread_mutex_destroy(&h->lock);
  return code;
}

int heart_start(heart **out, const char *path, const char *text, double seconds, bool *locked) {
  size_t n = strlen(path), length = strlen(text);
  *out = NULL;
  heart *h = calloc(1, sizeof *h + n + 1);
  if (!h) return ENOMEM;
  memcpy(h->path, path, n + 1);
  h->seconds = seconds;
  h->fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  int code = h->fd < 0 ? errno : 0;
  *locked = code == 0 && flock(h->fd, LOCK_EX | LOCK_NB) == 0;
  errno = 0;
  if (code == 0 && pwrite(h->fd, text, length, 21) != (ssize_t)length) code = errno ? errno : EIO;
  if (code == 0) code = write_count(h);
  if (code == 0) code = start_thread(h);
  if (code == 0) { *out = h; return 0; }
  if (h->fd >= 0) { unlink(path); close(h->fd); }
  free(h);
  return code;
}

void heart_stop(heart *h) {
  if (!h) return;
  pthread_mutex_lock(&h->lock);
  h->is_ended = true;
  pthread_cond_signal(&h->ended);
  pthread_mutex_unlock(&h->lock);
  pthread_join(h->thread, NULL);
  pthread_cond_destroy(&h->ended);
  pthread_mutex_destroy(&h->lock);
  unlink(h->path); /* before the lock goes: nobody takes the process for one that died */
  close(h->fd);
  free(h);
}
