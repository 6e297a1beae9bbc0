// dicom_header.cpp: opens DCMTK, reads files and the part of the header that may leave this module.
#include <charconv>
#include <cstring>
#include <mutex>
#include <dcmtk/dcmdata/dcistrmb.h>
#include <dcmtk/dcmdata/dcrledrg.h>
#include <dcmtk/dcmjpeg/djdecode.h>
#include <dcmtk/dcmjpls/djdecode.h>
#include <dcmtk/oflog/oflog.h>
#include "dicom_priv.hpp"
extern "C" {
#include "sha256.h"
}

namespace dicom {

void refuse(const char *format, ...) {
  refusal r;
  va_list args;
  va_start(args, format);
  std::vsnprintf(r.why, sizeof r.why, format, args);
  va_end(args);
  throw r;
}

void start() {
  static std::once_flag once;
  std::call_once(once, [] {
    OFLog::configure(OFLogger::OFF_LOG_LEVEL); // its messages quote the header
    DJDecoderRegistration::registerCodecs(EDC_photometricInterpretation, EUC_never, EPC_colorByPixel);
    DJLSDecoderRegistration::registerCodecs(EJLSUC_never, EJLSPC_colorByPixel);
    DcmRLEDecoderRegistration::registerCodecs();
  });
  if (!dcmDataDict.isDictionaryLoaded())
    refuse("DCMTK's dictionary of tags is missing (on Debian the package libdcmtk17 has it; DCMDICTPATH names it)");
}

void read_file(DcmFileFormat &file, const void *bytes, size_t n, const DcmTagKey &until) {
  DcmInputBufferStream stream;
  stream.setBuffer(bytes, static_cast<offile_off_t>(n));
  stream.setEos();
  file.transferInit();
  OFCondition status = file.readUntilTag(stream, EXS_Unknown, EGL_noChange, DCM_MaxReadLength, until);
  file.transferEnd();
  if (status == EC_MemoryExhausted) throw std::bad_alloc();
  if (status.bad())
    refuse(status == EC_EndOfStream || status == EC_StreamNotifyClient ? "the DICOM is truncated"
                                                                       : "the DICOM is truncated or corrupt");
}

bool has(DcmItem &item, const DcmTagKey &tag) { return item.tagExistsWithValue(tag); }

static std::string text(DcmItem &item, const DcmTagKey &tag, unsigned long place = 0) {
  OFString value;
  if (item.findAndGetOFString(tag, value, place).bad()) return {};
  std::string out(value.c_str(), value.length());
  out.erase(0, out.find_first_not_of(" \0"));
  out.erase(out.find_last_not_of(std::string(" \0", 2)) + 1);
  return out;
}

std::string term(DcmItem &item, const DcmTagKey &tag) {
  std::string out = text(item, tag);
  if (out.size() > 16) return {};
  for (char c : out)
    if (!((c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == ' ')) return {};
  return out;
}

bool number(DcmItem &item, const DcmTagKey &tag, unsigned long place, double &out) {
  std::string s = text(item, tag, place);
  const char *first = s.c_str() + (s[0] == '+'), *last = s.c_str() + s.size();
  double v;
  auto [end, error] = std::from_chars(first, last, v);
  if (error != std::errc() || end != last || !(v - v == 0)) return false;
  out = v;
  return true;
}

long integer(DcmItem &item, const DcmTagKey &tag, long otherwise) {
  Uint16 v;
  double d;
  if (item.findAndGetUint16(tag, v).good()) return v;
  return number(item, tag, 0, d) && d == static_cast<long>(d) ? static_cast<long>(d) : otherwise;
}

static void hash_of(const std::string &s, char out[65]) {
  uint8_t digest[32];
  sha256 h;
  if (s.empty()) return;
  sha256_init(&h);
  sha256_add(&h, s.data(), s.size());
  sha256_finish(&h, digest);
  sha256_hex(digest, out);
}

dicom_facts facts_of(DcmDataset &d) {
  dicom_facts f = {};
  f.w = static_cast<int>(integer(d, DCM_Columns, 0));
  f.h = static_cast<int>(integer(d, DCM_Rows, 0));
  f.c = static_cast<int>(integer(d, DCM_SamplesPerPixel, 1));
  f.bits = static_cast<int>(integer(d, DCM_BitsStored, integer(d, DCM_BitsAllocated, 0)));
  f.frames = static_cast<int>(integer(d, DCM_NumberOfFrames, 1));
  const DcmTagKey &spacing = has(d, DCM_PixelSpacing) ? DCM_PixelSpacing : DCM_ImagerPixelSpacing;
  double rows, columns;
  if (number(d, spacing, 0, rows) && number(d, spacing, 1, columns) && rows > 0 && columns > 0)
    f.spacing[0] = rows, f.spacing[1] = columns;
  std::strcpy(f.modality, term(d, DCM_Modality).c_str());
  std::strcpy(f.view, term(d, DCM_ViewPosition).c_str());
  hash_of(text(d, DCM_PatientID), f.patient);
  hash_of(text(d, DCM_SOPInstanceUID), f.instance);
  return f;
}

} // namespace dicom

extern "C" int dicom_version(void) noexcept { return DICOM_VERSION; }

extern "C" int dicom_header(dicom_facts *out, const void *bytes, size_t n, char *why) noexcept {
  return dicom::guard(why, [&] {
    DcmFileFormat file;
    dicom::read_file(file, bytes, n, DCM_PixelData);
    *out = dicom::facts_of(*file.getDataset());
  });
}
