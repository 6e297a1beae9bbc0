// dicom_priv.hpp: what the files of medxai_dicom.so share: DCMTK opened once, elements by their tags, reasons.
#ifndef MEDXAI_DICOM_PRIV_HPP
#define MEDXAI_DICOM_PRIV_HPP

#include <cstdarg>
#include <cstdio>
#include <exception>
#include <new>
#include <string>
#include <dcmtk/config/osconfig.h>
#include <dcmtk/dcmdata/dctk.h>
#include "dicom.h"

namespace dicom {

// What ends a call: a reason in plain words.
struct refusal : std::exception {
  char why[DICOM_WHY];
  const char *what() const noexcept override { return why; }
};

[[noreturn]] void refuse(const char *format, ...) __attribute__((format(printf, 1, 2)));

// Codecs and the dictionary of tags, once; refuses where the dictionary is missing.
void start();

// Runs f; what it throws becomes a status and a reason.
template <class F> int guard(char *why, F f) noexcept {
  try {
    start();
    f();
    return DICOM_OK;
  } catch (const refusal &r) {
    std::snprintf(why, DICOM_WHY, "%s", r.what());
    return DICOM_ERROR;
  } catch (const std::bad_alloc &) {
    std::snprintf(why, DICOM_WHY, "out of memory");
    return DICOM_NOMEM;
  } catch (...) { // what DCMTK might throw may hold text of the header: it is not told
    std::snprintf(why, DICOM_WHY, "the DICOM cannot be read");
    return DICOM_ERROR;
  }
}

// The file; until: an element at which reading stops. The bytes must live as long as it.
void read_file(DcmFileFormat &file, const void *bytes, size_t n, const DcmTagKey &until);

bool has(DcmItem &item, const DcmTagKey &tag); // with a value
// A coded term (A-Z, 0-9, _ and spaces, at most 16); "" for everything else: free text is not taken.
std::string term(DcmItem &item, const DcmTagKey &tag);
bool number(DcmItem &item, const DcmTagKey &tag, unsigned long place, double &out);
long integer(DcmItem &item, const DcmTagKey &tag, long otherwise);
dicom_facts facts_of(DcmDataset &d);

} // namespace dicom
#endif
