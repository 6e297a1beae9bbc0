/* dicom_file.c: see dicom_file.h. */
#include "dicom_file.h"
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "alloc.h"

static int fail(char *why, const char *format, ...) __attribute__((format(printf, 2, 3)));
static int fail(char *why, const char *format, ...) {
  va_list args;
  va_start(args, format);
  vsnprintf(why, DICOM_WHY, format, args);
  va_end(args);
  return DICOM_ERROR;
}

/* ---- the module --------------------------------------------------------------------------------------------- */
static pthread_once_t once = PTHREAD_ONCE_INIT;
static dicom_calls found;
static char missing[DICOM_WHY];

/* Its libraries' own functions before those of the same name in libraries that are open: Debian's libtorch brings
 * another version of CharLS (JPEG-LS), whose calls take other arguments. Sanitizers refuse that; in their builds a file
 * must be read before the core is opened. */
#if defined(__SANITIZE_ADDRESS__)
#define OPEN_FLAGS (RTLD_NOW | RTLD_LOCAL)
#else
#define OPEN_FLAGS (RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND)
#endif

/* Beside the program as it is built, or in lib/medxai as it is installed. */
static void *open_beside_program(void) {
  static const char *const places[] = { "medxai_dicom.so", "../lib/medxai/medxai_dicom.so" };
  char path[4096];
  const ssize_t n = readlink("/proc/self/exe", path, sizeof path - 64);
  char *end = n > 0 ? (path[n] = 0, strrchr(path, '/')) : NULL;
  fail(missing, "a DICOM file, for which this build has no DCMTK: install Debian's libdcmtk-dev and build again "
                "(./bootstrap build)");
  for (int i = 0; end && i < 2; i++) {
    strcpy(end + 1, places[i]);
    if (access(path, R_OK))
      continue;
    void *module = dlopen(path, OPEN_FLAGS);
    if (!module)
      fail(missing, "a DICOM file, but medxai_dicom.so cannot be opened: %s", dlerror());
    return module;
  }
  return NULL;
}

static void open_module(void) {
  void *module = open_beside_program();
  int (*version)(void) = module ? (int (*)(void))dlsym(module, "dicom_version") : NULL;
  if (!module)
    return;
  if (!version || version() != DICOM_VERSION) {
    fail(missing, "a DICOM file, but medxai_dicom.so is of another build: build again (./bootstrap build)");
    return;
  }
  found.header = (int (*)(dicom_facts *, const void *, size_t, char *))dlsym(module, "dicom_header");
  found.decode = (int (*)(dicom_image *, const void *, size_t, const dicom_window *, const dicom_memory *,
                          char *))dlsym(module, "dicom_decode");
}

int dicom_open(const dicom_calls **calls, char *why) {
  pthread_once(&once, open_module);
  if (!found.header || !found.decode)
    return fail(why, "%s", missing);
  *calls = &found;
  return DICOM_OK;
}

/* ---- headers -------------------------------------------------------------------------------------------------- */
bool dicom_is(const void *bytes, size_t n) { return n >= 132 && !memcmp((const uint8_t *)bytes + 128, "DICM", 4); }

/* Up to n bytes from the beginning of a file; how many, or -1. */
static ssize_t read_first(const char *path, uint8_t *to, size_t n) {
  const int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
  size_t got = 0;
  ssize_t k = fd < 0 ? -1 : 1;
  while (k > 0 && got < n)
    if ((k = read(fd, to + got, n - got)) > 0)
      got += (size_t)k;
  const int error = errno;
  if (fd >= 0)
    close(fd);
  errno = error;
  return k < 0 ? -1 : (ssize_t)got;
}

int dicom_file_header(dicom_facts *out, const char *path, char *why) {
  const dicom_calls *calls;
  int status = DICOM_ERROR;
  for (size_t room = 64 << 10; status == DICOM_ERROR && room <= 256 << 20; room <<= 4) { /* 64 KiB hold most headers */
    uint8_t *bytes = mx_malloc(room);
    const ssize_t n = bytes ? read_first(path, bytes, room) : 0;
    if (!bytes)
      status = fail(why, "out of memory"), status = DICOM_NOMEM;
    else if (n < 0)
      fail(why, "%s", strerror(errno));
    else if (!dicom_is(bytes, (size_t)n))
      fail(why, "not a DICOM file");
    else if (!dicom_open(&calls, why))
      status = calls->header(out, bytes, (size_t)n, why);
    mx_free(bytes);
    if (n < (ssize_t)room)
      break; /* that was the whole file */
  }
  return status;
}
