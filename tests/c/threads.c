/* host/threads.c against made-up /proc and /sys trees: hyper-threads count once, quotas of both control group
 * versions. */
#include "../../host/threads.c"

#include <stdio.h>
#include <sys/stat.h>

static char root[] = "/tmp/medxai-threads.XXXXXX";
static int failures;

static void put(const char *path, const char *text) {
  char whole[512], command[600];
  snprintf(whole, sizeof whole, "%s%s", root, path);
  snprintf(command, sizeof command, "mkdir -p \"$(dirname %s)\"", whole);
  if (system(command) != 0) exit(1);
  FILE *f = fopen(whole, "w");
  if (!f) exit(1);
  fputs(text, f);
  fclose(f);
}

static void expect(const char *what, double got, double wanted) {
  if (got == wanted) return;
  printf("%s: got %g, expected %g\n", what, got, wanted);
  failures++;
}

static void start(void) {
  char command[128];
  snprintf(command, sizeof command, "rm -rf %s && mkdir %s", root, root);
  if (system(command) != 0) exit(1);
}

int main(void) {
  if (!mkdtemp(root)) return 1;
  expect("no control groups", group_quota(root), 0);

  put("/proc/self/cgroup", "0::/user/run\n");
  put("/sys/fs/cgroup/user/run/cpu.max", "max 100000\n");
  expect("v2, no limit", group_quota(root), 0);
  put("/sys/fs/cgroup/user/cpu.max", "350000 100000\n");
  expect("v2, limit of the group above", group_quota(root), 3.5);
  put("/sys/fs/cgroup/user/run/cpu.max", "200000 100000\n");
  expect("v2, the smaller of two", group_quota(root), 2);

  start();
  put("/proc/self/cgroup", "0::/seen/from/outside\n");
  put("/sys/fs/cgroup/cpu.max", "150000 100000\n");
  expect("v2 in a container: the mount itself", group_quota(root), 1.5);
  expect("half a core is not used", threads_available(root), 1);

  start();
  put("/proc/self/cgroup", "5:cpuset:/x\n4:cpu,cpuacct:/job\n0::/\n");
  put("/sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us", "400000\n");
  put("/sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us", "100000\n");
  expect("v1", group_quota(root), 4);
  put("/sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us", "-1\n");
  expect("v1, no limit", group_quota(root), 0);
  put("/sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us", "10000\n");
  expect("a tenth of a core still gives one thread", threads_available(root), 1);

  start();
  char path[160];
  for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) { /* every hardware thread belongs to the core of cpu 0 */
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) != 0 || !CPU_ISSET(cpu, &set)) continue;
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", cpu);
    put(path, "0-63\n");
  }
  expect("hardware threads of one core", threads_available(root), 1);

  start();
  snprintf(path, sizeof path, "rm -rf %s", root);
  if (system(path) != 0) return 1;
  return failures != 0;
}
