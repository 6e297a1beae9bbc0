/* A worker leaves signals to the main thread, but a fault of its own finds the handler; it bears its name. */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "worker.h"

static volatile sig_atomic_t handled;
static int failures;

static void expect(int ok, const char *what, int detail) {
  if (ok)
    return;
  printf("worker: %s (%d)\n", what, detail);
  failures++;
}

static void on_fault(int sig) { handled = sig; }

static void *work(void *ud) {
  char name[16] = "";
  sigset_t blocked;
  (void)ud;
  pthread_sigmask(SIG_SETMASK, NULL, &blocked);
  for (int sig = 1; sig < 32; sig++) {
    const int is_fault = sig == SIGSEGV || sig == SIGBUS || sig == SIGFPE || sig == SIGILL || sig == SIGABRT ||
                         sig == SIGTRAP || sig == SIGSYS;
    if (sig != SIGKILL && sig != SIGSTOP)
      expect(sigismember(&blocked, sig) == !is_fault, "the wrong signals are blocked", sig);
  }
  raise(SIGSEGV);
  expect(handled == SIGSEGV, "a fault does not find its handler", handled);
  for (int i = 0; i < 1000 && strcmp(name, WORKER_NAME); i++) { /* named by who started it */
    pthread_getname_np(pthread_self(), name, sizeof name);
    usleep(1000);
  }
  expect(!strcmp(name, WORKER_NAME), name, 0);
  return NULL;
}

int main(void) {
  sigset_t before, after;
  pthread_t thread;
  signal(SIGSEGV, on_fault);
  pthread_sigmask(SIG_SETMASK, NULL, &before);
  expect(worker_start(&thread, work, NULL) == 0, "cannot start", 0);
  pthread_sigmask(SIG_SETMASK, NULL, &after);
  pthread_join(thread, NULL);
  for (int sig = 1; sig < 32; sig++)
    expect(sigismember(&before, sig) == sigismember(&after, sig), "the main thread's signals have changed", sig);
  return failures != 0;
}
