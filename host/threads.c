/* threads.c: how many threads to use: the physical cores that this process may run on (affinity; two hardware threads
 * of one core count once), but no more than the CPU quota of its control group (v2 or v1, its own and every group above
 * it). The load of the machine is not considered. */
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "host.h"

static bool read_line(const char *path, char *line, int size) {
  FILE *f = fopen(path, "r");
  if (!f) return false;
  bool ok = fgets(line, size, f) != NULL;
  fclose(f);
  return ok;
}

/* The lowest-numbered hardware thread of the core that cpu belongs to; cpu itself where the kernel does not say. */
static int first_sibling(const char *root, int cpu) {
  char path[PATH_MAX], line[256];
  snprintf(path, sizeof path, "%s/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", root, cpu);
  return read_line(path, line, sizeof line) ? atoi(line) : cpu;
}

static int allowed_cores(const char *root) {
  static bool seen[CPU_SETSIZE];
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) != 0) return 1;
  memset(seen, 0, sizeof seen);
  int n = 0;
  for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
    if (!CPU_ISSET(cpu, &set)) continue;
    int core = first_sibling(root, cpu);
    if (core < 0 || core >= CPU_SETSIZE) core = cpu;
    if (!seen[core]) { seen[core] = true; n++; }
  }
  return n > 0 ? n : 1;
}

/* The quota in cores of one group's folder; 0: none. v2: "200000 100000" or "max 100000"; v1: two files, -1 is none. */
static double quota_of(const char *folder, bool v2) {
  char path[PATH_MAX + 32], line[128];
  double quota = 0, period = 0;
  if (v2) {
    snprintf(path, sizeof path, "%s/cpu.max", folder);
    if (!read_line(path, line, sizeof line) || sscanf(line, "%lf %lf", &quota, &period) != 2) return 0;
  } else {
    snprintf(path, sizeof path, "%s/cpu.cfs_quota_us", folder);
    if (!read_line(path, line, sizeof line)) return 0;
    quota = atof(line);
    snprintf(path, sizeof path, "%s/cpu.cfs_period_us", folder);
    if (!read_line(path, line, sizeof line)) return 0;
    period = atof(line);
  }
  return quota > 0 && period > 0 ? quota / period : 0;
}

/* The smallest quota from the group named up to the mount itself (a container sees only the mount). */
static double smallest_quota(const char *mount, const char *group, bool v2) {
  char folder[PATH_MAX];
  double least = 0;
  if (snprintf(folder, sizeof folder, "%s%s", mount, group) >= (int)sizeof folder) return 0;
  size_t stop = strlen(mount);
  for (;;) {
    double q = quota_of(folder, v2);
    if (q > 0 && (least == 0 || q < least)) least = q;
    if (strlen(folder) <= stop) return least;
    char *slash = strrchr(folder + stop, '/');
    *(slash ? slash : folder + stop) = '\0';
  }
}

static bool has_word(const char *list, const char *word) { /* in "cpu,cpuacct" */
  size_t n = strlen(word);
  for (const char *at = list; (at = strstr(at, word)); at += n)
    if ((at == list || at[-1] == ',') && (at[n] == ',' || at[n] == '\0')) return true;
  return false;
}

static double group_quota(const char *root) {
  char path[PATH_MAX], line[PATH_MAX], mount[PATH_MAX];
  double least = 0;
  snprintf(path, sizeof path, "%s/proc/self/cgroup", root);
  FILE *f = fopen(path, "r");
  if (!f) return 0;
  while (fgets(line, sizeof line, f)) { /* "0::/group" (v2) or "4:cpu,cpuacct:/group" (v1) */
    line[strcspn(line, "\n")] = '\0';
    char *controllers = strchr(line, ':'), *group = controllers ? strchr(controllers + 1, ':') : NULL;
    if (!group) continue;
    *group++ = '\0';
    controllers++;
    if (strcmp(group, "/") == 0) group = "";
    bool v2 = *controllers == '\0';
    if (!v2 && !has_word(controllers, "cpu")) continue;
    if (snprintf(mount, sizeof mount, "%s/sys/fs/cgroup%s%s", root, v2 ? "" : "/", controllers) >= (int)sizeof mount)
      continue;
    double q = smallest_quota(mount, group, v2);
    if (q > 0 && (least == 0 || q < least)) least = q;
  }
  fclose(f);
  return least;
}

int threads_available(const char *root) {
  int cores = allowed_cores(root);
  double quota = group_quota(root);
  /* rounded down: more threads would only be throttled */
  if (quota > 0 && quota < cores) cores = quota < 1 ? 1 : (int)quota;
  return cores;
}

void threads_set_environment(int n) {
  static const char *const names[] = { "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS" };
  char text[16];
  snprintf(text, sizeof text, "%d", n);
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) setenv(names[i], text, 1);
  /* cuBLAS is deterministic with one workspace of a fixed size alone, and reads it when it starts: NVIDIA's 32 MiB,
   * which is what a large GPU has anyway. */
  setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8", 0);
  /* How long a waiting thread spins before it sleeps, unless the user chose. Sleeping at once costs two wake-ups per
   * operator (MobileNet, one image: 18 ms instead of 12.5). GNU's default of 300,000 rounds costs seconds on a busy
   * machine, where the thread that is waited for needs the core (a training step: 3.6 to 8.2 s instead of 0.4 to 1.1).
   * 1,000 rounds, about ten microseconds, keep nearly all of the gain, and beside two other processes were as fast as
   * no spinning. For OpenBLAS: 2^16 cycles instead of 2^26. */
  if (getenv("OMP_WAIT_POLICY")) return;
  setenv("OMP_WAIT_POLICY", "passive", 0);
  setenv("GOMP_SPINCOUNT", "1000", 0);
  setenv("OPENBLAS_THREAD_TIMEOUT", "16", 0);
}
