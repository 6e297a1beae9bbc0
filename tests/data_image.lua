-- Pictures: PNG and JPEG of every kind as Pillow reads them, what is refused and why, writing PNG, ids and hashes.
local t = require "t"
local torch = require "medxai.torch"
local image, memory = require("medxai.core").image, require("medxai.core").memory

local here = t.root .. "/tests/reference/pictures/"
local expected = dofile(here .. "expected.lua")

local function picture(bytes, h, w, c) return torch.from_string(bytes, "uint8", { h, w, c }) end

-- A picture of noise-like bytes by formula.
local function made(h, w, c)
  local list = {}
  for i = 0, h * w * c - 1 do list[i + 1] = string.char((i * 7 + i // 11 * 3) % 256) end
  return picture(table.concat(list), h, w, c)
end

local function largest_difference(a, b)
  return a:to("int64"):sub(b:to("int64")):abs():max():item()
end

t.test("PNG and JPEG files of every kind decode as in Pillow", function()
  for _, case in ipairs(expected) do
    local got = image.load(here .. case.name)
    t.equal(image.digest(got), case.digest, case.name)
  end
end)

t.test("a written PNG reads back the same; info reads its header without decoding", function()
  local dir = t.tmpdir()
  for _, c in ipairs { 1, 3 } do
    local x = made(13, 29, c)
    image.save(dir .. "/a.png", x)
    t.equal(image.digest(image.load(dir .. "/a.png")), image.digest(x))
    t.equal(image.digest(image.decode(image.encode(x))), image.digest(x))
    t.equal(image.info(dir .. "/a.png"), { width = 29, height = 13, channels = c, bits = 8 })
  end
  t.equal(image.info(here .. "deep.png").bits, 16)
end)

t.test("a picture that cannot be written leaves no file and says why", function()
  t.fails(function() image.save("/nowhere/a.png", made(4, 4, 1)) end,
    "image.save: cannot write '/nowhere/a.png': No such file or directory")
end)

t.test("a PNG cut anywhere is refused", function()
  local bytes = t.read(here .. "colour.png")
  for n = 0, #bytes - 1, 7 do
    local message = t.fails_like(function() image.decode(bytes:sub(1, n)) end, "^image.decode: ")
    if n >= 8 and not message:find("truncated", 1, true) then error(n .. ": " .. message) end
  end
  t.fails(function() image.decode(bytes:sub(1, -2)) end, "image.decode: the PNG is truncated.")
end)

t.test("a JPEG cut anywhere is refused", function()
  for _, name in ipairs { "420_90.jpg", "progressive_90.jpg", "grey_40.jpg" } do
    local bytes = t.read(here .. name)
    for n = 3, #bytes - 1, 13 do
      t.fails(function() image.decode(bytes:sub(1, n)) end, "image.decode: the JPEG is truncated.")
    end
    t.fails(function() image.decode(bytes:sub(1, -2)) end, "image.decode: the JPEG is truncated.")
  end
end)

t.test("a PNG with one wrong bit is refused", function()
  local bytes = t.read(here .. "colour.png")
  for at = 60, #bytes - 20, 97 do
    local broken = bytes:sub(1, at - 1) .. string.char(bytes:byte(at) ~ 4) .. bytes:sub(at + 1)
    t.fails_like(function() image.decode(broken) end, "^image.decode: the PNG is ")
  end
end)

t.test("a color that the palette lacks is black, not uninitialized memory", function()
  local hex = "89504e470d0a1a0a0000000d4948445200000002000000010803000000c3fc8fb800000003504c5445090807fe1619fe0000"
    .. "000b49444154789c6360600500000800067a51d1920000000049454e44ae426082"
  local bytes = hex:gsub("%x%x", function(h) return string.char(tonumber(h, 16)) end)
  t.equal(image.decode(bytes):tolist(), { { { 9, 8, 7 }, { 0, 0, 0 } } })
end)

t.test("files that are no pictures are refused with what they are", function()
  local dir = t.tmpdir()
  t.fails(function() image.decode "" end, "image.decode: the file is empty.")
  t.fails(function() image.decode "hello, this is text" end, "image.decode: not a PNG, JPEG or DICOM.")
  t.fails(function() image.decode "GIF89a.............." end, "image.decode: not a PNG, JPEG or DICOM.")
  t.fails(function() image.load(dir .. "/no.png") end,
    "image.load: cannot read '" .. dir .. "/no.png' (No such file or directory).")
  t.fails(function() image.load(dir) end, "image.load: cannot read '" .. dir .. "' (not a file).")
  assert(os.execute("mkfifo " .. t.quote(dir .. "/pipe.png"))) -- nobody writes into it: it must not be waited for
  local r = t.run { "-e", ("require('medxai.core').image.load(%q)"):format(dir .. "/pipe.png"), timeout = 20 }
  t.equal({ r.code, r.err },
    { 1, ("medxai-run: (command line):1: image.load: cannot read '%s/pipe.png' (not a file).\n"):format(dir) })
end)

-- A PNG of these chunks, with correct checksums.
local function crc32(s)
  local c = 0xffffffff
  for i = 1, #s do
    c = c ~ s:byte(i)
    for _ = 1, 8 do c = c & 1 == 1 and 0xedb88320 ~ c >> 1 or c >> 1 end
  end
  return ~c & 0xffffffff
end

local function png(...)
  local parts = { "\x89PNG\r\n\x1a\n" }
  for _, chunk in ipairs { ... } do
    parts[#parts + 1] = string.pack(">I4", #chunk - 4) .. chunk .. string.pack(">I4", crc32(chunk))
  end
  return table.concat(parts)
end

t.test("a picture that claims to be huge is refused before it is unpacked", function()
  local function head(w, h) return "IHDR" .. string.pack(">I4I4", w, h) .. "\8\0\0\0\0" end
  t.fails(function() image.decode(png(head(30000, 30000), "IDAT\x78\x9c", "IEND")) end,
    "image.decode: 30000 x 30000 is larger than the 64 megapixels this reads.")
  t.fails_like(function() image.decode(png(head(2000000000, 2), "IDAT\x78\x9c", "IEND")) end,
    "^image.decode: the PNG is not one this reads: ")
  t.fails_like(function() image.decode(png(head(0, 5), "IDAT\x78\x9c", "IEND")) end,
    "^image.decode: the PNG is not one this reads: ")
  t.fails(function() image.decode(png(head(5, 5), "IEND")) end, "image.decode: the PNG holds no image.")
  t.fails_like(function() image.decode(png(head(5, 5), "IDAT\x78\x9c\3\0\0\0\0\1", "IEND")) end,
    "^image.decode: the PNG is corrupt: ")
end)

t.test("an EXIF orientation in a PNG is noted, the pixels stay as stored", function()
  local dir, bytes = t.tmpdir(), t.read(here .. "colour.png")
  local set = require("medxai.core").loader.set { root = dir, size_px = 16, resize_px = 16 }
  local function facts(orientation)
    local tiff = "MM\0*" .. string.pack(">I4I2I2I2I4I2I2I4", 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    local chunk = png("eXIf" .. tiff):sub(9) -- without the signature
    t.write(("%s/%d.png"):format(dir, orientation), bytes:sub(1, 33) .. chunk .. bytes:sub(34))
    return set:facts(set:add(orientation .. ".png", nil, 0))
  end
  t.equal({ facts(3).orientation, facts(1).orientation, facts(9).orientation }, { true, false, false })
  t.equal(facts(6).pixels, image.digest(image.decode(bytes)))
end)

t.test("16-bit samples are scaled by their range, or by the white level that is given", function()
  local whole, twelve = image.load(here .. "deep.png"), image.load(here .. "deep.png", 4095)
  t.ok(whole:max():item() > 200)
  t.equal(twelve:max():item(), 255)
  t.fails(function() image.load(here .. "deep.png", 0) end,
    "image.load: the 16-bit white level: expected 1 to 65535, got 0")
end)

t.test("resize, fit and digest refuse tensors that are no pictures", function()
  t.fails(function() image.resize(torch.zeros(4, 4), 2, 2) end,
    "image.resize: wrong type (expected a uint8 image, got float32).")
  t.fails(function() image.resize(torch.zeros(4, 4, 2, { dtype = "uint8" }), 2, 2) end,
    "image.resize: wrong shape (expected (H, W), (H, W, 1) or (H, W, 3), got 3 dimensions with other channels last).")
  t.fails(function() image.resize(made(4, 4, 1), 0, 2) end, "image.resize: the width: expected 1 to 32768, got 0")
  t.fails(function() image.fit(made(4, 4, 1), 4, 5) end,
    "image.fit: the crop is larger than the image (expected at most 4, got 5).")
  t.fails_like(function() image.resize(made(4, 6, 1):transpose(0, 1), 2, 2) end, "must be contiguous")
  t.fails_like(function() image.digest(7) end, "expected a tensor")
end)

t.test("a gray picture resizes as each channel of its color copy does", function()
  local grey = made(40, 23, 1)
  local colour = grey:expand(40, 23, 3):contiguous()
  local a, b = image.resize(grey, 17, 31), image.resize(colour, 17, 31)
  t.equal(largest_difference(a:expand(31, 17, 3), b), 0)
  t.equal(image.resize(grey:squeeze(2), 17, 31).shape, { 31, 17 })
end)

t.test("the image id depends on size and channels as well as on pixels", function()
  local a, b, c = made(2, 6, 1), made(6, 2, 1), made(2, 2, 3)
  t.ok(image.digest(a) ~= image.digest(b) and image.digest(a) ~= image.digest(c) and image.digest(b) ~= image.digest(c))
end)

t.test("hashing a stream of strings and tensors equals hashing it at once", function()
  local bytes = ("abc"):rep(50)
  local s = image.sha256_stream():update(bytes:sub(1, 70)):update(torch.from_string(bytes:sub(71), "uint8", { 80 }))
  t.equal(s:hex(), image.sha256(bytes))
  t.equal(s:hex(), image.sha256(bytes))
  local path = t.write(t.tmpdir() .. "/f", bytes)
  t.equal(image.sha256_file(path), image.sha256(bytes))
  t.equal({ image.sha256_file "/nowhere" }, { nil, "cannot read '/nowhere': No such file or directory" })
end)

t.test("every failing allocation of decoding and resizing is an error, and nothing is lost", function()
  local before = image.live_blocks()
  local bytes, jpeg, x = t.read(here .. "deep.png"), t.read(here .. "progressive_40.jpg"), made(20, 31, 3)
  local function nearly_full(rows, columns) -- a mask
    local mask = torch.full({ rows, columns }, 255, { dtype = "uint8" })
    mask[0] = 0
    return mask
  end
  local small, fitting, other = nearly_full(8, 8), nearly_full(20, 31), nearly_full(9, 7)
  local calls = {
    function() image.decode(bytes) end, function() image.decode(jpeg) end, function() image.resize(x, 11, 45) end,
    function() image.resize(x, 11, 45, "nearest") end, function() image.fit(x, 18, 12) end,
    function() image.encode(x) end, function() image.lung_fill(small) end,
    function() image.mask(x, fitting, "outside") end, function() image.mask(x, other, "outside", "bilinear") end,
    function() image.mask(x, other, "outside", "nearest") end, function() image.load_mask(here .. "alpha.png") end,
  }
  for _, fail_after in ipairs { memory.c_fail_after, memory.fail_after, memory.lua_fail_after } do
    for k, call in ipairs(calls) do
      for n = 0, 200 do
        fail_after(n, 1000000)
        local ok, message = pcall(call)
        fail_after(-1)
        if ok then break end
        message = tostring(message)
        if not message:find("memory", 1, true) then error(("call %d, allocation %d: %s"):format(k, n, message)) end
        if n == 200 then error "it never succeeds" end
      end
    end
  end
  collectgarbage() collectgarbage()
  t.equal(image.live_blocks(), before)
end)
