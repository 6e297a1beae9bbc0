/* worker.c: see worker.h. If SIGSEGV were blocked, a crash in a worker would end the process without a report. */
#include "worker.h"
#include <signal.h>
#include <stddef.h>

int worker_start(pthread_t *thread, void *(*work)(void *), void *ud) {
  static const int faults[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP, SIGSYS };
  sigset_t blocked, before;
  sigfillset(&blocked);
  for (size_t i = 0; i < sizeof faults / sizeof *faults; i++)
    sigdelset(&blocked, faults[i]);
  pthread_sigmask(SIG_BLOCK, &blocked, &before);
  int code = pthread_create(thread, NULL, work, ud);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  if (!code)
    pthread_setname_np(*thread, WORKER_NAME);
  return code;
}
