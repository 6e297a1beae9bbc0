-- JPEG as Pillow decodes it: every sampling, coding and color, to the last bit; what is refused; what is noted.
local t = require "t"
local xai = require "medxai"
local core = require "medxai.core"
local image = core.image

local here = t.root .. "/tests/reference/pictures/jpeg/"
local all, expected = t.read(here .. "all.bin"), dofile(here .. "expected.lua")

local function bytes_of(case) return all:sub(case.at + 1, case.at + case.bytes) end

local function named(name)
  for _, case in ipairs(expected) do
    if case.name == name then return bytes_of(case) end
  end
  error("no case " .. name)
end

local function refused(bytes, why)
  t.fails(function() image.decode(bytes) end, "image.decode: the JPEG is " .. why .. ".")
end

-- Where the coded data of the first scan start.
local function data_start(bytes)
  local at = bytes:find("\xff\xda", 1, true)
  return at + 2 + string.unpack(">I2", bytes, at + 2)
end

t.test("JPEGs of every kind decode to Pillow's pixels", function()
  for _, case in ipairs(expected) do
    t.equal(image.digest(image.decode(bytes_of(case))), case.digest, case.name)
  end
  t.ok(#expected > 180)
end)

t.test("the header alone tells size and channels", function()
  local dir = t.tmpdir()
  for name, c in pairs { ["4x2"] = 3, grey_arithmetic = 1, inks_ycck = 3 } do
    t.equal(image.info(t.write(dir .. "/a.jpg", named(name))), { width = 27, height = 19, channels = c, bits = 8 })
  end
end)

t.test("trailing bytes and an EXIF orientation are noted, nothing else is", function()
  local dir = t.tmpdir()
  local set = core.loader.set { root = dir, size_px = 16, resize_px = 16 }
  for i, case in ipairs(expected) do
    t.write(dir .. "/" .. i .. ".jpg", bytes_of(case))
    local facts = set:facts(set:add(i .. ".jpg", nil, 0))
    local noted = facts.stray_bytes and "stray_bytes" or facts.orientation and "orientation"
    t.equal(noted, case.note or false, case.name)
  end
end)

t.test("the check before training lists such images once per kind", function()
  local dir = t.tmpdir()
  local paths = {}
  for i, name in ipairs { "orientation_6", "zeros_before_end", "orientation_8_big_endian" } do
    paths[i] = t.write(("%s/%d.jpg"):format(dir, i), named(name))
  end
  t.equal(xai.dataset.files { paths = paths, size_px = 16 }:check().warnings, {
    "2 images hold an EXIF orientation (the first is " .. paths[1] .. "): pixels are used as stored, not turned or"
      .. " mirrored (as Pillow's Image.open gives them). Where pictures lie on their side, write them turned",
    "1 JPEG holds bytes that belong to nothing (" .. paths[2] .. "): they are left out (as Pillow does). Look whether"
      .. " the picture is whole",
  })
end)

t.test("a JPEG cut anywhere is refused, whatever its coding", function()
  local names = "2x2 4x2_progressive 1x2_arithmetic 2x1_arithmetic_progressive 1x1_restart 2x2_separate inks"
  for name in names:gmatch "%S+" do
    local bytes = named(name)
    for n = 3, #bytes - 1, 5 do refused(bytes:sub(1, n), "truncated") end
    refused(bytes:sub(1, -2), "truncated")
  end
end)

t.test("corrupt coded data are refused where libjpeg would fill in gray", function()
  local bytes = named "2x2"
  local at = data_start(bytes)
  refused(bytes:sub(1, at + 50) .. bytes:sub(-2), "corrupt: premature end of data segment")
  refused(bytes:sub(1, at + 9) .. ("\xfe\x7f"):rep(20) .. bytes:sub(at + 50), "corrupt: bad Huffman code")
  local restarts = named "2x2_restart"
  local first, second = restarts:find("\xff\xd0", at, true), restarts:find("\xff\xd1", at, true)
  refused(restarts:sub(1, second) .. "\xd5" .. restarts:sub(second + 2), "corrupt: found marker 0xd5 instead of RST1")
  refused(restarts:sub(1, first - 1) .. ("\1"):rep(40) .. restarts:sub(first),
    "corrupt: extra bytes before a restart marker")
  local separate = named "2x2_separate" -- a scan for each colour: the last one taken out
  local last
  for found in separate:gmatch "()\xff\xda" do last = found end
  refused(separate:sub(1, last - 1) .. "\xff\xd9", "truncated: a color component has no data")
end)

t.test("what Pillow refuses is refused by name: precisions, numbers of colors, processes", function()
  local bytes = named "2x2"
  local frame = bytes:find("\xff\xc0", 1, true)
  local function with(at, ...)
    return bytes:sub(1, frame + at - 1) .. string.char(...) .. bytes:sub(frame + at + select("#", ...))
  end
  t.fails_like(function() image.decode(with(4, 12)) end, "^image.decode: the JPEG is not one this reads: ")
  refused(with(1, 0xc3), "not one this reads: Unsupported JPEG process: SOF type 0xc3")
  refused(with(5, 0, 0), "corrupt: Empty JPEG image (DNL not supported)")
  local two = bytes:sub(1, frame + 1) .. "\0\14" .. bytes:sub(frame + 4, frame + 8) .. "\2"
    .. bytes:sub(frame + 10, frame + 15) .. bytes:sub(frame + 19)
  local scan = two:find("\xff\xda", 1, true)
  two = two:sub(1, scan + 1) .. "\0\10\2" .. two:sub(scan + 5, scan + 8) .. two:sub(scan + 11)
  refused(two, "not one this reads: 2 components of 8 bits (expected 1, 3 or 4 of 8)")
end)

t.test("a JPEG that claims to be huge is refused before it is unpacked", function()
  for _, name in ipairs { "2x2", "2x2_progressive" } do
    local bytes = named(name)
    local frame = bytes:find("\xff[\xc0\xc2]\0\17")
    local function claims(h, w) return bytes:sub(1, frame + 4) .. string.pack(">I2I2", h, w) .. bytes:sub(frame + 9) end
    local too_large = " is larger than the 64 megapixels this reads."
    t.fails(function() image.decode(claims(30000, 30000)) end, "image.decode: 30000 x 30000" .. too_large)
    t.fails(function() image.decode(claims(1, 33000)) end, "image.decode: 33000 x 1" .. too_large)
    refused(claims(65535, 5), "not one this reads: Maximum supported image dimension is 65500 pixels")
  end
end)

t.test("a file of thousands of scans is refused quickly", function()
  local bytes = named "1x1_arithmetic_progressive"
  local scan = "\xff\xda\0\8\1\1\0\1\1\0" -- one coefficient, without data: arithmetic coding reads zeros
  image.decode(bytes:sub(1, -3) .. scan:rep(100) .. bytes:sub(-2))
  refused(bytes:sub(1, -3) .. scan:rep(5000) .. bytes:sub(-2), "corrupt: more than 500 scans")
end)

t.test("a file of hundreds of thousands of segments is refused quickly", function()
  local bytes, started = named "2x2", os.clock()
  local x = image.decode(bytes:sub(1, 2) .. ("\xff\xe1\0\8Exif\0\0"):rep(300000) .. bytes:sub(3))
  t.equal(image.digest(x), image.digest(image.decode(bytes)))
  t.ok(os.clock() - started < 10) -- it took minutes, of processor time
end)

t.test("every failing allocation of a JPEG is an error, and nothing is lost", function()
  local before = image.live_blocks()
  for _, name in ipairs { "2x2", "inks_ycck", "grey_progressive" } do
    local bytes = named(name)
    for n = 0, 20 do
      core.memory.c_fail_after(n, 1000000)
      local ok, message = pcall(image.decode, bytes)
      core.memory.c_fail_after(-1)
      if ok then break end
      t.ok(message:find("memory", 1, true), message)
      t.ok(n < 20)
    end
  end
  collectgarbage() collectgarbage()
  t.equal(image.live_blocks(), before)
end)
