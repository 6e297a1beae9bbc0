// tx_memory.cpp: the CPU allocator that libtorch uses in this process. Counts live and peak bytes, keeps freed blocks
// of 64 KiB and more for the next tensor that nearly fills one (page faults cost more than most operators), and fails
// requests that would not fit into the limit, so that a typo ends in an error and not in the OOM killer.
// Blocks are never split or merged; the bytes counted are those that were asked for.
// Measured (2 cores): x + 1 on 64 MB 55 -> 4 to 12 ms; a mobilenet_v2 training step 11 % less processor time.
#include "tx_priv.hpp"
#include <c10/core/CPUAllocator.h>
#include <malloc.h>
#include <sys/mman.h>
#include <sys/sysinfo.h>
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <new>

namespace {

constexpr int64_t MiB = int64_t(1) << 20;
constexpr size_t alignment = 64;         // a cache line, an AVX-512 register
constexpr size_t keep_from = 64 << 10;   // smaller blocks are quick with malloc
constexpr size_t map_from = 1 << 20;     // from here on straight from the system, so that what is given back is back
constexpr size_t huge_from = 4 << 20;    // from here on in 2 MB pages where the system has them
constexpr int64_t always_kept = 192 * MiB;
constexpr int64_t look_from = 64 * MiB;  // from here on a look at /proc/meminfo costs nothing beside the page faults

// Lies in the 64 bytes before each block.
struct alignas(alignment) Header {
  size_t bytes;                 // as asked for
  size_t room;                  // that the block has: more where a kept block was a little too large
  Header *same_prev, *same_next;  // free blocks of one size, the last freed first
  Header *old_prev, *old_next;    // all free blocks, the last freed first
};
static_assert(sizeof(Header) == alignment, "the block behind the header must stay aligned");

void *block_of(Header *h) { return h + 1; }
Header *header_of(void *p) { return static_cast<Header *>(p) - 1; }

std::atomic<int64_t> live{0}, peak{0}, most{0}, cached{0};  // most: the peak since the start, never reset
std::atomic<int64_t> spare{0};                               // what live blocks have beyond what was asked for
std::atomic<int64_t> limit{0}, cache_cap{0}, last_request{0};
std::atomic<int64_t> fail_countdown{-1}, fail_times{0};

// The free blocks. One lock: only blocks of 64 KiB and more come here, and they are filled outside it.
std::mutex lock;
Header newest;  // sentinel of the ring old_prev/old_next
std::map<size_t, Header *> *free_of_size;  // by room

// The room of all live blocks.
int64_t held() { return live.load(std::memory_order_relaxed) + spare.load(std::memory_order_relaxed); }

// The number in a file of one line; 0 where there is none.
int64_t read_bytes(const char *path) {
  FILE *f = fopen(path, "re");
  if (!f) return 0;
  long long v = 0;
  if (fscanf(f, "%lld", &v) != 1 || v < 0) v = 0;  // "max" is not a number
  fclose(f);
  return v;
}

int64_t smaller(int64_t a, int64_t b) { return a > 0 && (b <= 0 || a < b) ? a : b; }

// The limits of this process' cgroup and of every one above it (v2 under root, v1 under root/memory).
int64_t cgroup_bytes() {
  int64_t found =
    smaller(read_bytes("/sys/fs/cgroup/memory.max"), read_bytes("/sys/fs/cgroup/memory/memory.limit_in_bytes"));
  FILE *f = fopen("/proc/self/cgroup", "re");
  if (!f) return found;
  char line[1024];
  while (fgets(line, sizeof line, f)) {
    line[strcspn(line, "\n")] = 0;
    const bool v2 = strncmp(line, "0::/", 4) == 0;
    char *path = v2 ? line + 3 : strstr(line, ":memory:/");
    if (!path) continue;
    if (!v2) path += strlen(":memory:");
    for (; path[0] && path[1]; *strrchr(path, '/') = 0) {
      char file[1200];
      snprintf(file, sizeof file, "/sys/fs/cgroup%s%s/%s", v2 ? "" : "/memory", path,
               v2 ? "memory.max" : "memory.limit_in_bytes");
      found = smaller(read_bytes(file), found);
    }
  }
  fclose(f);
  return found;
}

int64_t machine_bytes() {
  struct sysinfo s;
  const int64_t total = sysinfo(&s) == 0 ? int64_t(s.totalram) * s.mem_unit : 0;
  return smaller(cgroup_bytes(), total);
}

// What the kernel could hand out now without swapping; INT64_MAX where it does not say.
int64_t available_bytes() {
  FILE *f = fopen("/proc/meminfo", "re");
  if (!f) return INT64_MAX;
  char line[256];
  long long kib = -1;
  while (fgets(line, sizeof line, f) && sscanf(line, "MemAvailable: %lld", &kib) != 1) continue;
  fclose(f);
  return kib < 0 ? INT64_MAX : int64_t(kib) << 10;
}

Header *system_take(size_t bytes) {
  const size_t whole = bytes + sizeof(Header);
  void *p = nullptr;
  if (whole < map_from) {
    // whole lines, so that the small lists may give the block to any size of its class
    if (posix_memalign(&p, alignment, (whole + alignment - 1) / alignment * alignment) != 0) return nullptr;
  } else {
    p = mmap(nullptr, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return nullptr;
    if (whole >= huge_from) (void)madvise(p, whole, MADV_HUGEPAGE);
  }
  return new (p) Header{bytes, bytes, nullptr, nullptr, nullptr, nullptr};
}

void system_free(Header *h) {
  const size_t whole = h->room + sizeof(Header);
  if (whole < map_from) free(h);
  else munmap(h, whole);
}

// How many bytes may be kept beside `used` live ones: at most the cap, and live and kept together at most 9/8 of the
// largest live size so far (7/8 evicts what the next step needs: measured). 192 MiB are always allowed, since one
// forward pass frees blocks of more sizes than are live at once. Measured on 2 cores, forward passes of 4 images,
// without these and with 128 MiB: DenseNet-121 210 -> 134 ms, EfficientNet-B0 57 -> 36 ms, MobileNet V2 32 -> 20 ms.
int64_t room_to_keep(int64_t used) {
  const int64_t high = most.load(std::memory_order_relaxed);
  return std::min(cache_cap.load(std::memory_order_relaxed), std::max(always_kept, high + high / 8 - used));
}

void take_out(Header *h) {  // under the lock
  if (h->same_prev) h->same_prev->same_next = h->same_next;
  else if (h->same_next) (*free_of_size)[h->room] = h->same_next;
  else free_of_size->erase(h->room);
  if (h->same_next) h->same_next->same_prev = h->same_prev;
  h->old_prev->old_next = h->old_next;
  h->old_next->old_prev = h->old_prev;
  cached.fetch_sub(int64_t(h->room), std::memory_order_relaxed);
}

// Gives the blocks that lay unused longest back to the system until at most `keep` bytes are kept.
void shrink_cache(int64_t keep) {  // under the lock
  while (cached.load(std::memory_order_relaxed) > keep && newest.old_prev != &newest) {
    Header *oldest = newest.old_prev;
    take_out(oldest);
    system_free(oldest);
  }
}

// The smallest kept block that n fills to four fifths or more: a network's tensors grow in steps, each a new size.
Header *take_cached(size_t n) {
  std::lock_guard<std::mutex> hold(lock);
  auto it = free_of_size->lower_bound(n);
  if (it == free_of_size->end() || it->first > n + n / 4) return nullptr;
  Header *h = it->second;
  mx_assert(h->room >= n && !h->same_prev);
  take_out(h);
  h->bytes = n;
  spare.fetch_add(int64_t(h->room - n), std::memory_order_relaxed);
  return h;
}

// Keeps the block; false where it is not to be kept.
bool put_cached(Header *h) noexcept {
  const int64_t n = int64_t(h->room), cap = room_to_keep(held());
  if (n > cap) return false;
  try {
    std::lock_guard<std::mutex> hold(lock);
    shrink_cache(cap - n);
    Header *&first = (*free_of_size)[h->room];
    h->same_prev = nullptr;
    h->same_next = first;
    if (first) first->same_prev = h;
    first = h;
    h->old_prev = &newest;
    h->old_next = newest.old_next;
    newest.old_next->old_prev = h;
    newest.old_next = h;
    cached.fetch_add(n, std::memory_order_relaxed);
    return true;
  } catch (...) {  // no memory for the table's node: the block goes back to the system instead
    return false;
  }
}

// Freed blocks of up to 1 KiB, in classes of 64 bytes, kept per thread: posix_memalign takes a tenth of a small
// operator's time. Not under the address sanitizer, which must see every free.
struct Small {
  static constexpr size_t classes = 16, most = 1024;
  Header *first[classes + 1] = {};
  size_t count[classes + 1] = {};
  ~Small() {
    for (Header *&h : first)
      while (h) {
        Header *next = h->same_next;
        free(h);
        h = next;
      }
    std::fill(count, count + classes + 1, most);  // frees that come after this thread's end keep nothing
  }
  static size_t class_of(size_t n) { return (n + 63) / 64; }
  Header *take(size_t n) {
    const size_t c = class_of(n);
    if (c > classes || !first[c]) return nullptr;
    Header *h = first[c];
    first[c] = h->same_next;
    count[c]--;
    h->bytes = n;
    h->same_next = nullptr;
    return h;
  }
  bool put(Header *h) {
    const size_t c = class_of(h->bytes);
    if (c > classes || count[c] >= most) return false;
    h->same_next = first[c];
    first[c] = h;
    count[c]++;
    return true;
  }
};
#if defined(__SANITIZE_ADDRESS__)
constexpr bool keep_small = false;
#else
constexpr bool keep_small = true;
#endif
thread_local Small small;

void release(void *p) {
  if (!p) return;
  Header *h = header_of(p);
  mx_assert(h->room >= h->bytes && live.load() >= int64_t(h->bytes));
  live.fetch_sub(int64_t(h->bytes), std::memory_order_relaxed);
  if (keep_small && small.put(h)) return;
  if (h->room < keep_from) return system_free(h);
  if (h->room != h->bytes) spare.fetch_sub(int64_t(h->room - h->bytes), std::memory_order_relaxed);
  if (!put_cached(h)) system_free(h);
}

[[noreturn]] void refuse(size_t n, const char *why) {
  last_request.store(int64_t(n), std::memory_order_relaxed);
  TORCH_CHECK_WITH(OutOfMemoryError, false, "out of memory: ", n, " bytes asked for, ", why);
  abort();
}

bool told_to_fail() {
  if (fail_countdown.load(std::memory_order_relaxed) < 0) return false;
  if (fail_countdown.fetch_sub(1, std::memory_order_relaxed) > 0) return false;
  if (fail_times.fetch_sub(1, std::memory_order_relaxed) > 1) fail_countdown.store(0, std::memory_order_relaxed);
  return true;
}

// Frees kept blocks until `want` bytes fit; throws if the limit or the machine does not have them.
void make_room(size_t n) {
  const int64_t cap = limit.load(std::memory_order_relaxed), want = int64_t(n);
  if (cap > 0) {
    if (want > cap - live.load(std::memory_order_relaxed)) refuse(n, "beyond the limit");
    const int64_t room = cap - held();
    if (want > room - cached.load(std::memory_order_relaxed)) {
      std::lock_guard<std::mutex> hold(lock);
      shrink_cache(std::max<int64_t>(0, room - want));
    }
    if (want >= look_from && want > available_bytes()) {
      tx_memory_empty_cache();
      if (want > available_bytes()) refuse(n, "more than the machine has left");
    }
  }
}

thread_local int unrefused = 0;  // tx::Unrefused that live

bool cannot_be_refused(size_t n) { return unrefused > 0 && n <= alignment; }

Header *take_fresh(size_t n) {
  if (!cannot_be_refused(n)) make_room(n);
  const int64_t room = room_to_keep(held() + int64_t(n));
  if (cached.load(std::memory_order_relaxed) > room) {
    std::lock_guard<std::mutex> hold(lock);
    shrink_cache(room);
  }
  Header *h = system_take(n);
  if (!h) {
    tx_memory_empty_cache();
    h = system_take(n);
  }
  if (!h) refuse(n, "the system gave none");
  return h;
}

void *take(size_t n) {
  if (n == 0) return nullptr;
  if (!cannot_be_refused(n) && told_to_fail()) refuse(n, "a test made it fail");
  if (n > size_t(INT64_MAX) / 2) refuse(n, "beyond any machine");
  Header *h = n >= keep_from ? take_cached(n) : keep_small ? small.take(n) : nullptr;
  if (!h) h = take_fresh(n);
  const int64_t now = live.fetch_add(int64_t(n), std::memory_order_relaxed) + int64_t(n);
  int64_t seen = peak.load(std::memory_order_relaxed);
  while (now > seen && !peak.compare_exchange_weak(seen, now, std::memory_order_relaxed)) continue;
  seen = most.load(std::memory_order_relaxed);
  while (now > seen && !most.compare_exchange_weak(seen, now, std::memory_order_relaxed)) continue;
  return block_of(h);
}

struct CountingAllocator final : at::Allocator {
  // allocate is const up to 2.2 and not after; copy_data came in between. What the base lacks here is an unused
  // function.
  at::DataPtr allocate(size_t n) const { return fresh(n); }
  at::DataPtr allocate(size_t n) { return fresh(n); }
  void copy_data(void *dest, const void *src, std::size_t count) const { memcpy(dest, src, count); }
  at::DeleterFnPtr raw_deleter() const override { return &release; }

 private:
  static at::DataPtr fresh(size_t n) {
    void *p = take(n);
    return {p, p, &release, at::Device(at::DeviceType::CPU)};
  }
};

}  // namespace

extern "C" int tx_memory_setup(void) noexcept {
  return tx::guard([] {
    static CountingAllocator allocator;
    static bool done = false;
    if (done) return;
    free_of_size = new std::map<size_t, Header *>;  // never freed: tensors of static objects die after it would
    newest.old_prev = newest.old_next = &newest;
    // 90 %: the rest is for the program itself, oneDNN's and OpenBLAS' buffers, which do not come from here, and for
    // the system.
    const int64_t machine = machine_bytes();
    limit = machine / 10 * 9;
    cache_cap = machine > 0 ? std::min(1024 * MiB, limit / 4) : 1024 * MiB;
    c10::SetCPUAllocator(&allocator, 255);
    done = true;
  });
}

tx::Unrefused::Unrefused() noexcept { unrefused++; }
tx::Unrefused::~Unrefused() { unrefused--; }

extern "C" int64_t tx_memory_live_bytes(void) noexcept { return live.load(std::memory_order_relaxed); }

extern "C" void tx_memory_stats(tx_memory *out) noexcept {
  *out = tx_memory{};
  out->live_bytes = live;
  out->peak_bytes = peak;
  out->cached_bytes = cached;
  out->live_tensors = tx::live_tensors;
  out->limit_bytes = limit;
  out->cache_cap_bytes = cache_cap;
  out->last_request_bytes = last_request;
  tx::cuda_memory(out);
}

extern "C" void tx_memory_reset_peak(void) noexcept {
  peak = live.load();
  tx::cuda_reset_peak();
}

extern "C" void tx_memory_set_limit(int64_t bytes) noexcept {
  limit = bytes > 0 ? bytes : 0;
  if (bytes <= 0) return;
  std::lock_guard<std::mutex> hold(lock);
  shrink_cache(std::max<int64_t>(0, bytes - held()));
}

extern "C" void tx_memory_set_cache(int64_t bytes) noexcept {
  cache_cap = bytes > 0 ? bytes : 0;
  std::lock_guard<std::mutex> hold(lock);
  shrink_cache(cache_cap);
}

extern "C" void tx_memory_empty_cache(void) noexcept {
  {
    std::lock_guard<std::mutex> hold(lock);
    shrink_cache(0);
  }
#ifdef __GLIBC__
  malloc_trim(0); // what the libraries below have freed
#endif
  tx::cuda_empty_cache();
}

extern "C" void tx_memory_fail_after(int64_t n, int64_t times) noexcept {
  fail_times = times > 0 ? times : 1;
  fail_countdown = n < 0 ? -1 : n;
}
