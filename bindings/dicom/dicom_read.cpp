// dicom_read.cpp: a DICOM image decoded: samples as stored, and by PS3.3 C.11 what each of them means (modality LUT or
// rescale, then VOI LUT or window), as pydicom's apply_modality_lut and apply_voi_lut compute it. Samples above
// BitsStored are masked, as the standard says. Pixel padding values are pixels like others.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>
#include <dcmtk/dcmdata/dccodec.h>
#include <dcmtk/dcmdata/dcpixel.h>
#include <dcmtk/dcmdata/dcpixseq.h>
#include <dcmtk/dcmdata/dcpxitem.h>
#include "dicom_priv.hpp"

namespace {

using dicom::refuse;

constexpr long max_pixels = 64 << 20; // IMAGE_MAX_PIXELS

// How samples lie in the pixel data.
struct layout {
  int allocated, stored, high;
  bool is_signed, is_compressed;
  bool planar; // red, green and blue planes
};

layout check_image(DcmDataset &d, const dicom_facts &f) {
  const std::string photometric = dicom::term(d, DCM_PhotometricInterpretation);
  layout l = {};
  if (d.tagExists(DCM_FloatPixelData) || d.tagExists(DCM_DoubleFloatPixelData))
    refuse("pixels are floats (expected integers of 8 to 16 bits)");
  if (!d.tagExists(DCM_PixelData))
    refuse("the DICOM holds no pixels%s%s", f.modality[0] ? ": its modality is " : "", f.modality);
  if (f.frames != 1) refuse("a multi-frame image of %d frames (expected one image per file)", f.frames);
  if (f.w < 1 || f.h < 1) refuse("the DICOM does not say its rows and columns");
  if (static_cast<long>(f.w) * f.h > max_pixels)
    refuse("%d x %d is larger than the %ld megapixels this reads", f.w, f.h, max_pixels >> 20);
  l.allocated = static_cast<int>(dicom::integer(d, DCM_BitsAllocated, 0));
  l.stored = static_cast<int>(dicom::integer(d, DCM_BitsStored, l.allocated));
  l.high = static_cast<int>(dicom::integer(d, DCM_HighBit, l.stored - 1));
  l.is_signed = dicom::integer(d, DCM_PixelRepresentation, 0) == 1;
  if ((l.allocated != 8 && l.allocated != 16) || l.stored < 1 || l.stored > l.allocated || l.high < l.stored - 1
      || l.high >= l.allocated)
    refuse("samples of %d bits in %d, the highest %d (expected 1 to 16 bits in 8 or 16)", l.stored, l.allocated,
           l.high);
  const bool gray = photometric == "MONOCHROME1" || photometric == "MONOCHROME2";
  if (f.c != (gray ? 1 : 3) || (f.c == 3 && (l.stored != 8 || l.is_signed)))
    refuse("%d samples per pixel of %d bits, %s (expected MONOCHROME1, MONOCHROME2, or RGB of 8 bits)", f.c, l.stored,
           photometric.empty() ? "no photometric interpretation" : photometric.c_str());
  return l;
}

// ---- the pixels ----------------------------------------------------------------------------------------------------

// All fragments of the one frame, behind the offset table.
std::vector<uint8_t> compressed_bytes(DcmDataset &d) {
  std::vector<uint8_t> all;
  DcmElement *element = nullptr;
  E_TransferSyntax syntax;
  const DcmRepresentationParameter *parameter = nullptr;
  DcmPixelSequence *sequence = nullptr;
  d.findAndGetElement(DCM_PixelData, element);
  DcmPixelData *pixels = dynamic_cast<DcmPixelData *>(element);
  if (!pixels) refuse("the compressed pixels are corrupt");
  pixels->getOriginalRepresentationKey(syntax, parameter);
  if (pixels->getEncapsulatedRepresentation(syntax, parameter, sequence).bad() || !sequence || sequence->card() < 2)
    refuse("the compressed pixels are corrupt: no fragment");
  for (unsigned long i = 1; i < sequence->card(); i++) {
    DcmPixelItem *item = nullptr;
    Uint8 *bytes = nullptr;
    if (sequence->getItem(item, i).bad() || item->getUint8Array(bytes).bad() || !bytes) continue;
    all.insert(all.end(), bytes, bytes + item->getLength());
  }
  return all;
}

// DCMTK takes a JPEG of another size than the header's for what it is, and leaves the rest of the image empty.
void check_jpeg(const std::vector<uint8_t> &p, const dicom_facts &f) {
  size_t at = 2;
  const bool ended = p.size() > 4 && (p[p.size() - 1] == 0xd9 || p[p.size() - 2] == 0xd9);
  if (p.size() < 4 || p[0] != 0xff || p[1] != 0xd8) refuse("the compressed pixels are no JPEG, as they should be");
  if (!ended) refuse("the compressed pixels are truncated");
  while (at + 9 < p.size()) {
    if (p[at] != 0xff) refuse("the compressed pixels are corrupt");
    const int marker = p[at + 1];
    if (marker == 0xff || marker == 0x01 || (marker >= 0xd0 && marker <= 0xd8)) {
      at += marker == 0xff ? 1 : 2;
      continue;
    }
    if (marker == 0xd9 || marker == 0xda) break;
    const bool frame = (marker >= 0xc0 && marker <= 0xcf && marker != 0xc4 && marker != 0xc8 && marker != 0xcc)
                       || marker == 0xf7;
    if (frame) {
      const int h = p[at + 5] << 8 | p[at + 6], w = p[at + 7] << 8 | p[at + 8], c = p[at + 9];
      if (w != f.w || h != f.h || c != f.c)
        refuse("the JPEG inside is %d x %d x %d (expected %d x %d x %d, as the header says)", w, h, c, f.w, f.h, f.c);
      return;
    }
    at += 2u + (p[at + 2] << 8 | p[at + 3]);
  }
  refuse("the compressed pixels are corrupt: no frame in the JPEG");
}

void decompress(DcmDataset &d, const dicom_facts &f) {
  const DcmXfer syntax(d.getOriginalXfer());
  const bool jpeg = std::strncmp(syntax.getXferName(), "JPEG", 4) == 0;
  if (!DcmCodecList::canChangeCoding(d.getOriginalXfer(), EXS_LittleEndianExplicit))
    refuse("its pixels are compressed as %s, for which DCMTK has no codec here. gdcmconv --raw IN OUT writes them "
           "plain", syntax.getXferName());
  if (jpeg) check_jpeg(compressed_bytes(d), f);
  OFCondition status = d.chooseRepresentation(EXS_LittleEndianExplicit, nullptr);
  if (status == EC_MemoryExhausted) throw std::bad_alloc();
  if (status.bad()) refuse("the compressed pixels are truncated or corrupt (%s)", syntax.getXferName());
}

// The bytes of the plain pixels, as many as they should be; DCMTK has put words into this machine's order.
const uint8_t *plain_bytes(DcmDataset &d, const dicom_facts &f, const layout &l) {
  DcmElement *element = nullptr;
  Uint16 *words = nullptr;
  Uint8 *bytes = nullptr;
  const unsigned long row = static_cast<unsigned long>(f.w) * f.c * (l.allocated / 8), want = row * f.h;
  if (d.findAndGetElement(DCM_PixelData, element).bad()) refuse("the DICOM holds no pixels");
  const unsigned long length = element->getLength();
  if (length < want) refuse("the pixels are truncated (%lu of %lu bytes)", length, want);
  if (length >= want + std::max(row, 256ul))
    refuse("the pixels take %lu bytes (expected %lu for %d x %d x %d of %d bits)", length, want, f.w, f.h, f.c,
           l.allocated);
  if (element->getUint16Array(words).good() && words) return reinterpret_cast<const uint8_t *>(words);
  if (element->getUint8Array(bytes).good() && bytes) return bytes;
  refuse("the pixels are corrupt");
}

void copy_samples(uint16_t *to, const uint8_t *from, const dicom_facts &f, const layout &l) {
  const size_t pixels = static_cast<size_t>(f.w) * f.h, n = pixels * f.c;
  const unsigned mask = (1u << l.stored) - 1, shift = static_cast<unsigned>(l.high - l.stored + 1);
  for (size_t i = 0; i < n; i++) {
    const size_t at = l.planar ? (i % f.c) * pixels + i / f.c : i;
    uint16_t word;
    if (l.allocated == 8)
      word = from[at];
    else
      std::memcpy(&word, from + 2 * at, 2);
    to[i] = static_cast<uint16_t>((word >> shift) & mask);
  }
}

// ---- what stored values mean ---------------------------------------------------------------------------------------

struct lut {
  long first;
  int bits;
  std::vector<uint16_t> entries;
  double operator()(double v) const {
    const double place = std::trunc(v - first), last = static_cast<double>(entries.size()) - 1;
    return entries[static_cast<size_t>(std::clamp(place, 0.0, last))];
  }
};

bool has_lut(DcmDataset &d, const DcmTagKey &sequence, long place, DcmItem *&item) {
  return d.findAndGetSequenceItem(sequence, item, place).good() && item && dicom::has(*item, DCM_LUTDescriptor)
         && dicom::has(*item, DCM_LUTData);
}

lut read_lut(DcmItem &item, bool is_signed, const char *name) {
  DcmElement *descriptor = nullptr;
  Uint16 n = 0, first = 0, bits = 0;
  Sint16 below = 0;
  const Uint16 *data = nullptr;
  unsigned long count = 0;
  item.findAndGetElement(DCM_LUTDescriptor, descriptor);
  const bool words = descriptor->ident() == EVR_SS || (is_signed && descriptor->ident() == EVR_xs);
  auto get = [&](unsigned long place, Uint16 &out) {
    Sint16 s = 0;
    if (descriptor->getUint16(out, place).good()) return true;
    if (descriptor->getSint16(s, place).bad()) return false;
    out = static_cast<Uint16>(s);
    return true;
  };
  if (!get(0, n) || !get(1, first) || !get(2, bits) || item.findAndGetUint16Array(DCM_LUTData, data, &count).bad()
      || !data)
    refuse("its %s is corrupt", name);
  below = static_cast<Sint16>(first);
  lut l = { words ? static_cast<long>(below) : static_cast<long>(first), bits, {} };
  const size_t entries = n ? n : 65536;
  if (count < entries && 2 * count >= entries && bits == 8) { // two entries per word
    const uint8_t *p = reinterpret_cast<const uint8_t *>(data);
    l.entries.assign(p, p + entries);
  } else if (count < entries || bits < 8 || bits > 16) {
    refuse("its %s has %lu entries of %d bits (expected %zu of 8 to 16)", name, count, bits, entries);
  } else {
    l.entries.assign(data, data + entries);
  }
  return l;
}

// Values after the modality LUT, and the range that they can have.
struct meaning {
  std::vector<double> values; // of each stored sample
  double low, high;           // what the smallest and the largest stored sample become
};

meaning modality(DcmDataset &d, const layout &l) {
  const size_t n = size_t{1} << l.stored;
  meaning m = { std::vector<double>(n), 0, 0 };
  const double half = static_cast<double>(n) / 2;
  for (size_t s = 0; s < n; s++)
    m.values[s] = l.is_signed && s >= n / 2 ? static_cast<double>(s) - static_cast<double>(n) : static_cast<double>(s);
  m.low = l.is_signed ? -half : 0;
  m.high = l.is_signed ? half - 1 : static_cast<double>(n) - 1;
  DcmItem *item = nullptr;
  double slope, intercept;
  if (has_lut(d, DCM_ModalityLUTSequence, 0, item)) {
    const lut table = read_lut(*item, l.is_signed, "modality LUT");
    for (double &v : m.values) v = table(v);
    m.low = 0;
    m.high = static_cast<double>((1l << table.bits) - 1);
  } else if (dicom::number(d, DCM_RescaleSlope, 0, slope) && dicom::number(d, DCM_RescaleIntercept, 0, intercept)) {
    if (slope == 0) refuse("its rescale slope is 0, which makes all pixels the same");
    for (double &v : m.values) {
      v = v * slope;
      v += intercept;
    }
    m.low = m.low * slope + intercept;
    m.high = m.high * slope + intercept;
  }
  return m;
}

// PS3.3 C.11.2.1.2 and C.11.2.1.3; 'exact': without the half and the one of LINEAR.
void apply_window(meaning &m, double center, double width, const std::string &function) {
  const double range = m.high - m.low;
  const bool sigmoid = function == "SIGMOID", exact = function == "LINEAR_EXACT";
  if (!function.empty() && !sigmoid && !exact && function != "LINEAR")
    refuse("its VOI LUT function is %s (expected LINEAR, LINEAR_EXACT or SIGMOID)", function.c_str());
  if (sigmoid || exact ? !(width > 0) : !(width >= 1))
    refuse("the window's width is %g (expected at least 1). Write window = \"range\"", width);
  if (!sigmoid && !exact) center -= 0.5, width -= 1;
  for (double &v : m.values) {
    if (sigmoid)
      v = range / (1 + std::exp(-4 * (v - center) / width)) + m.low;
    else if (v <= center - width / 2)
      v = m.low;
    else if (v > center + width / 2)
      v = m.high;
    else
      v = ((v - center) / width + 0.5) * range + m.low;
  }
}

// The file's VOI LUT of a number, or its window of that number.
void apply_of_file(meaning &m, DcmDataset &d, const layout &l, int which) {
  DcmItem *item = nullptr;
  double center, width;
  if (has_lut(d, DCM_VOILUTSequence, 0, item)) {
    if (!has_lut(d, DCM_VOILUTSequence, which, item)) refuse("it has no VOI LUT number %d", which + 1);
    const lut table = read_lut(*item, l.is_signed, "VOI LUT");
    for (double &v : m.values) v = table(v);
    m.low = 0;
    m.high = static_cast<double>((1l << table.bits) - 1);
  } else if (dicom::has(d, DCM_WindowCenter) && dicom::has(d, DCM_WindowWidth)) {
    const unsigned long place = static_cast<unsigned long>(which);
    if (!dicom::number(d, DCM_WindowCenter, place, center) || !dicom::number(d, DCM_WindowWidth, place, width))
      refuse("it has no window number %d", which + 1);
    apply_window(m, center, width, dicom::term(d, DCM_VOILUTFunction));
  } else {
    if (which > 0) refuse("it has no window number %d: it has none", which + 1);
    if (m.low > m.high) std::swap(m.low, m.high); // a negative slope: the larger value is the brighter one
  }
}

void apply_minmax(meaning &m, const uint16_t *samples, size_t n) {
  double low = INFINITY, high = -INFINITY;
  for (size_t i = 0; i < n; i++) {
    low = std::min(low, m.values[samples[i]]);
    high = std::max(high, m.values[samples[i]]);
  }
  m.low = low;
  m.high = high;
}

meaning meaning_of(DcmDataset &d, const layout &l, const dicom_window &w, const uint16_t *samples, size_t n) {
  meaning m = modality(d, l);
  if (w.kind == DICOM_WINDOW_FILE)
    apply_of_file(m, d, l, w.number);
  else if (w.kind == DICOM_WINDOW_GIVEN)
    apply_window(m, w.center, w.width, "");
  else if (w.kind == DICOM_WINDOW_MINMAX)
    apply_minmax(m, samples, n);
  else if (m.low > m.high)
    std::swap(m.low, m.high);
  return m;
}

struct holder { // gives memory back where a call fails
  const dicom_memory &memory;
  void *p;
  holder(const dicom_memory &m, size_t bytes) : memory(m), p(m.alloc(bytes)) {
    if (!p) throw std::bad_alloc();
  }
  ~holder() { memory.release(p); }
  holder(const holder &) = delete;
  void *give() {
    void *given = p;
    p = nullptr;
    return given;
  }
};

void decode(dicom_image *out, const void *bytes, size_t n, const dicom_window &window, const dicom_memory &memory) {
  DcmFileFormat file;
  dicom::read_file(file, bytes, n, DCM_UndefinedTagKey);
  DcmDataset &d = *file.getDataset();
  dicom_facts f = dicom::facts_of(d);
  layout l = check_image(d, f);
  const bool inverted = dicom::term(d, DCM_PhotometricInterpretation) == "MONOCHROME1";
  if (DcmXfer(d.getOriginalXfer()).isEncapsulated()) decompress(d, f);
  const std::string photometric = dicom::term(d, DCM_PhotometricInterpretation); // a codec may have changed it
  if (f.c == 3 && photometric != "RGB")
    refuse("its photometric interpretation is %s (expected MONOCHROME1, MONOCHROME2 or RGB)", photometric.c_str());
  l.planar = f.c == 3 && dicom::integer(d, DCM_PlanarConfiguration, 0) == 1;
  f.bits = l.stored;
  const size_t count = static_cast<size_t>(f.w) * f.h * f.c;
  const uint8_t *plain = plain_bytes(d, f, l);
  holder samples(memory, count * sizeof(uint16_t));
  copy_samples(static_cast<uint16_t *>(samples.p), plain, f, l);
  const meaning m = f.c == 3 ? meaning_of(d, l, { DICOM_WINDOW_RANGE, 0, 0, 0 }, nullptr, 0)
                             : meaning_of(d, l, window, static_cast<uint16_t *>(samples.p), count);
  holder table(memory, m.values.size() * sizeof(double));
  std::memcpy(table.p, m.values.data(), m.values.size() * sizeof(double));
  *out = { f, static_cast<uint16_t *>(samples.give()), static_cast<double *>(table.give()), m.low, m.high,
           inverted ? 1 : 0 };
}

} // namespace

extern "C" int dicom_decode(dicom_image *out, const void *bytes, size_t n, const dicom_window *window,
                            const dicom_memory *memory, char *why) noexcept {
  return dicom::guard(why, [&] { decode(out, bytes, n, *window, *memory); });
}
