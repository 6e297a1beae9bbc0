/* devices.c: --devices N: this process becomes a small parent of N processes that run the same FILE and train together.
 * It never opens libtorch. It gives each its place (torchrun's names in the environment) and its share of the cores,
 * passes signals on, and ends them all when one fails. The first one (rank 0) has this terminal; the output of the
 * others is kept, and shown where one of them fails and the first one has nothing to say of it. */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include "clock.h"
#include "host.h"

/* After a failure: the others may end by themselves, are asked to, and are killed. All within five seconds. */
enum { ALONE_MS = 1000, ASKED_MS = 3000, STOPPED_MS = 5000 };

typedef struct child { pid_t pid; int words, status; bool ended; } child;

static child *children;
static int n_children, failed = -1; /* failed: the rank that failed first */

static int free_port(void) {
  struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
  socklen_t n = sizeof a;
  int s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), port = 0;
  if (s < 0) return 0;
  if (bind(s, (struct sockaddr *)&a, sizeof a) == 0 && getsockname(s, (struct sockaddr *)&a, &n) == 0)
    port = ntohs(a.sin_port);
  close(s);
  return port;
}

static void set_number(const char *name, int value) {
  char text[16];
  snprintf(text, sizeof text, "%d", value);
  setenv(name, text, 1);
}

static void watched(sigset_t *set) {
  static const int signals[] = { SIGCHLD, SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2 };
  sigemptyset(set);
  for (size_t i = 0; i < sizeof signals / sizeof *signals; i++) sigaddset(set, signals[i]);
}

/* In a new child. A process group of its own: Ctrl-C reaches the parent alone, which passes it on once. */
static void become(host_options *o, int rank, int port, int words, pid_t parent) {
  sigset_t set;
  watched(&set);
  setpgid(0, 0);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(EXIT_FAILED);
  int nothing = open("/dev/null", O_RDWR);
  dup2(nothing, STDIN_FILENO);
  if (rank > 0) {
    dup2(nothing, STDOUT_FILENO);
    dup2(words, STDERR_FILENO);
  }
  set_number("RANK", rank);
  set_number("LOCAL_RANK", rank);
  set_number("WORLD_SIZE", o->devices);
  set_number("LOCAL_WORLD_SIZE", o->devices);
  setenv("MASTER_ADDR", "127.0.0.1", 1);
  set_number("MASTER_PORT", port);
  setenv("TORCH_CPP_LOG_LEVEL", "ERROR", 0); /* c10d tells of every attempt to connect */
  unsetenv("TORCHELASTIC_USE_AGENT_STORE");
  if (o->threads == 0 && !getenv("OMP_NUM_THREADS")) {
    int share = threads_available("") / o->devices;
    o->threads = share > 0 ? share : 1;
  }
  sigprocmask(SIG_UNBLOCK, &set, NULL);
}

/* True in a child. False in the parent: all were started, or *error says why not. */
static bool start(host_options *o, const char **error) {
  int port = free_port();
  pid_t parent = getpid();
  failed = -1;
  *error = port ? NULL : "no free port on 127.0.0.1";
  for (int rank = 0; rank < n_children && !*error; rank++) {
    child *c = &children[rank];
    *c = (child){ .words = memfd_create("words", MFD_CLOEXEC) };
    c->pid = c->words < 0 ? -1 : fork();
    if (c->pid == 0) {
      become(o, rank, port, c->words, parent);
      return true;
    }
    if (c->pid < 0) {
      *error = strerror(errno);
      c->ended = true;
      for (int i = rank + 1; i < n_children; i++) children[i] = (child){ .words = -1, .ended = true };
    }
  }
  return false;
}

static void tell_all(int sig) {
  for (int i = 0; i < n_children; i++)
    if (!children[i].ended) kill(children[i].pid, sig);
}

static bool by_itself(const child *c) { return WIFEXITED(c->status) && WEXITSTATUS(c->status) <= EXIT_USAGE; }

static int code_of(const child *c) {
  return WIFEXITED(c->status) ? WEXITSTATUS(c->status) : 128 + WTERMSIG(c->status);
}

/* Takes in whoever has ended; how many are left. */
static int collect(void) {
  int left = 0;
  for (int i = 0; i < n_children; i++) {
    child *c = &children[i];
    if (!c->ended && waitpid(c->pid, &c->status, WNOHANG) == c->pid) {
      c->ended = true;
      if (c->status != 0 && failed < 0) failed = i;
    }
    left += !c->ended;
  }
  return left;
}

/* Waits until all have ended. Returns the signal that came for this process, or 0. */
static int watch(void) {
  static const int after[] = { ALONE_MS, ASKED_MS, STOPPED_MS };
  static const int send[] = { SIGTERM, SIGKILL };
  sigset_t set;
  watched(&set);
  int stopped = 0, step = 0;
  double since = 0;
  while (collect() > 0) {
    if (failed >= 0 && since == 0) since = clock_seconds();
    struct timespec slice = { .tv_nsec = 100 * 1000 * 1000 };
    int sig = sigtimedwait(&set, NULL, since > 0 ? &slice : &(struct timespec){ .tv_sec = 3600 });
    if (sig > 0 && sig != SIGCHLD) {
      tell_all(sig);
      if (!stopped) stopped = sig, step = 1, since = clock_seconds(); /* asked already */
    }
    if (since == 0 || step > 1) continue;
    if (clock_seconds() - since < (stopped ? STOPPED_MS : after[step]) / 1000.0) continue;
    tell_all(send[step++]);
  }
  return stopped;
}

/* What a rank has written to standard error, each line with its number in front. */
static void show(int rank) {
  char line[4096];
  FILE *f = children[rank].words >= 0 ? fdopen(dup(children[rank].words), "r") : NULL;
  if (!f) return;
  rewind(f);
  while (fgets(line, sizeof line, f)) fprintf(stderr, "[rank %d] %s", rank, line);
  fclose(f);
}

/* Says who failed. The first process' own words are on the terminal already. */
static int report(void) {
  const child *c = &children[failed];
  const bool first_spoke = by_itself(&children[0]) && children[0].status != 0;
  if (failed > 0 && !first_spoke) show(failed);
  if (WIFSIGNALED(c->status))
    fprintf(stderr, "medxai-run: process %d of %d (rank %d) was ended by signal %d (%s).\n", failed + 1, n_children,
            failed, WTERMSIG(c->status), strsignal(WTERMSIG(c->status)));
  else if (failed > 0 && !first_spoke)
    fprintf(stderr, "medxai-run: process %d of %d (rank %d) failed.\n", failed + 1, n_children, failed);
  return code_of(c);
}

static void close_words(void) {
  for (int i = 0; i < n_children; i++)
    if (children[i].words >= 0) close(children[i].words);
}

/* The parent's own way: all children, again where restarts allow it. *code: its exit status. True in a child. */
bool devices_run(host_options *o, int *code) {
  sigset_t set;
  watched(&set);
  n_children = o->devices;
  children = calloc((size_t)n_children, sizeof *children);
  if (!children) { fputs("medxai-run: host: out of memory.\n", stderr); *code = EXIT_FAILED; return false; }
  sigprocmask(SIG_BLOCK, &set, NULL);
  for (int left = o->restarts;; left--) {
    const char *error;
    if (start(o, &error)) return true;
    if (error) { fprintf(stderr, "medxai-run: --devices: cannot start a process (%s).\n", error); tell_all(SIGKILL); }
    int stopped = watch();
    if (stopped) *code = 128 + stopped;
    else *code = error ? EXIT_FAILED : failed < 0 ? EXIT_DONE : report();
    close_words();
    if (stopped || error || *code == EXIT_DONE || *code == EXIT_USAGE || left == 0) break;
    fprintf(stderr, "medxai-run: all %d processes start again (%d more times at most).\n", n_children, left - 1);
    o->overwrite = o->resume = false; /* what was interrupted goes on by itself */
  }
  free(children);
  return false;
}
