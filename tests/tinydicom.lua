-- Writes small DICOM files for tests: explicit VR, little endian, one gray image; and reads their pixels' formula.
local tinydicom = {}

local long = { OB = true, OW = true, SQ = true, UN = true, UT = true }

local function element(group, number, vr, value)
  if #value % 2 == 1 then value = value .. ((vr == "UI" or vr == "OB" or vr == "OW") and "\0" or " ") end
  if long[vr] then return string.pack("<I2I2c2I2I4", group, number, vr, 0, #value) .. value end
  return string.pack("<I2I2c2I2", group, number, vr, #value) .. value
end
tinydicom.element = element

local function word(v) return string.pack("<I2", v) end

-- What stands in the header of a person, and must not come out anywhere.
tinydicom.person = { name = "Zyxwv^Quorum", id = "MRN-7731-XQ", birth = "19470231", accession = "ACCNO55812",
  physician = "Referrer^Xenia", institution = "Hospital of Nowhere" }

--- The bytes of a file. o: w, h, bits (16), signed, samples (function(i) -> value, from 0), modality, photometric, id,
--- name, view, uid, window = { center, width }, frames, syntax, pixels (bytes in the place of the samples), more (bytes
--- of elements of group 28 after the window), no_pixels.
function tinydicom.bytes(o)
  local p, bits = tinydicom.person, o.bits or 16
  local w, h, uid = o.w or 16, o.h or 16, o.uid or "1.2.826.0.1.3680043.8.498.7"
  local meta = element(2, 0x10, "UI", o.syntax or "1.2.840.10008.1.2.1")
  local pixels = {}
  for i = 0, o.pixels and -1 or w * h - 1 do
    local v = o.samples and o.samples(i) or i * 37 % (1 << bits)
    pixels[#pixels + 1] = bits <= 8 and string.char(v & 255) or word(v & 0xffff)
  end
  local parts = {
    element(8, 0x16, "UI", "1.2.840.10008.5.1.4.1.1.1"), element(8, 0x18, "UI", uid),
    element(8, 0x20, "DA", p.birth), element(8, 0x50, "SH", p.accession),
    element(8, 0x60, "CS", o.modality or "DX"), element(8, 0x80, "LO", p.institution),
    element(8, 0x90, "PN", p.physician), element(0x10, 0x10, "PN", o.name or p.name),
    element(0x10, 0x20, "LO", o.id or p.id), element(0x10, 0x30, "DA", p.birth),
    element(0x18, 0x5101, "CS", o.view or "PA"), element(0x20, 0x0d, "UI", "1.2.826.0.1.3680043.8.498.5"),
    element(0x28, 2, "US", word(1)), element(0x28, 4, "CS", o.photometric or "MONOCHROME2"),
    o.frames and element(0x28, 8, "IS", tostring(o.frames)) or "",
    element(0x28, 0x10, "US", word(o.rows or h)), element(0x28, 0x11, "US", word(w)),
    element(0x28, 0x30, "DS", "0.143\\0.139"), element(0x28, 0x100, "US", word(bits <= 8 and 8 or 16)),
    element(0x28, 0x101, "US", word(bits)), element(0x28, 0x102, "US", word(bits - 1)),
    element(0x28, 0x103, "US", word(o.signed and 1 or 0)),
    o.window and element(0x28, 0x1050, "DS", tostring(o.window[1]))
      .. element(0x28, 0x1051, "DS", tostring(o.window[2])) or "",
    o.more or "",
    o.no_pixels and "" or element(0x7fe0, 0x10, bits <= 8 and "OB" or "OW", o.pixels or table.concat(pixels)),
  }
  return ("\0"):rep(128) .. "DICM" .. element(2, 0, "UL", string.pack("<I4", #meta)) .. meta .. table.concat(parts)
end

return tinydicom
