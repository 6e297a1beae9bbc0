-- DICOM files: pixels as pydicom gives them, what is refused and why, data sets of them, and that nothing of a person
-- comes out.
local t = require "t"
local tiny = require "tinydicom"
local native = require "medxai.dicom"

local here = t.root .. "/tests/reference/dicom/"
local _, why_not = native.header(here .. "plain8.dcm") -- before the core is there: dicom_file.c says why
if why_not and why_not:find "no DCMTK" then t.skip "this build has no DCMTK" end

local image = require("medxai.core").image
local xai = require "medxai"
local files = require "medxai.base.files"

-- ---- pixels --------------------------------------------------------------------------------------------------------
t.test("values are pydicom's, to the last bit: bits, signs, LUTs, windows, byte orders and codecs", function()
  local n = 0
  for _, case in ipairs(dofile(here .. "expected.lua")) do
    local x = image.dicom(t.read(here .. case.name))
    t.equal({ x:size(0), x:size(1) }, { case.h, case.w }, case.name)
    local third = x:numel() // 3
    t.near(x:view { -1 }:narrow(0, third, 1):item(), case.some[1], 1e-9, case.name)
    -- NumPy's exp and the C library's differ in the last bit
    local sha256 = image.sha256_stream():update(x:contiguous()):hex()
    if case.name ~= "sigmoid12.dcm" then t.equal(sha256, case.sha256, case.name) end
    n = n + 1
  end
  t.ok(n >= 26)
end)

-- The bytes of a picture as a list.
local function bytes_of(x) return x:view { -1 }:tolist() end

local function decoded(o, window) return bytes_of(image.decode(tiny.bytes(o), nil, window)) end

t.test("the window is applied to all 16 bits; its ends are black and white, MONOCHROME1 turned round", function()
  -- 256 neighboring values of 65536: each is a gray level of its own
  local o = { samples = function(i) return 30000 + i end, window = { 30128, 256 } }
  local got, back = decoded(o), {}
  for i = 0, 255 do t.equal(got[i + 1], i) end
  o.photometric = "MONOCHROME1"
  for i, v in ipairs(decoded(o)) do back[i] = 255 - v end
  t.equal(back, got)
  t.equal(image.decode(tiny.bytes(o)):size(2), 1)
end)

t.test("which window: the file's by number, a given one, the stored range, the image's own", function()
  local o = { w = 4, h = 1, bits = 12, samples = function(i) return 1000 + i * 100 end, window = { "1150\\1100",
    "301\\101" } }
  t.equal(decoded(o), decoded(o, 1))
  t.equal(decoded(o, 2), decoded(o, { center = 1100, width = 101 }))
  t.equal(decoded(o, 2), { 0, 129, 255, 255 }) -- ((1100 - 1099.5) / 100 + 0.5) * 255 = 128.8
  t.equal(decoded(o, "range"), { 62, 68, 75, 81 }) -- 1000 / 4095 * 255 = 62.3
  t.equal(decoded(o, "minmax"), { 0, 85, 170, 255 })
  t.fails(function() decoded(o, 3) end, "image.decode: it has no window number 3.")
  o.window = nil
  t.equal(decoded(o), decoded(o, "range"))
  t.fails(function() decoded(o, 2) end, "image.decode: it has no window number 2: it has none.")
  o.window = { 40, 0 }
  t.fails(function() decoded(o) end,
    "image.decode: the window's width is 0 (expected at least 1). Write window = \"range\".")
end)

t.test("bits above those stored are left out, signed values keep their sign", function()
  local stored = { 0xF800, 0x7000, 0x57FF }
  local o = { w = 3, h = 1, bits = 12, signed = true, samples = function(i) return stored[i + 1] end }
  local x, range = image.dicom(tiny.bytes(o))
  t.equal(bytes_of(x), { -2048.0, 0.0, 2047.0 })
  t.equal({ range.low, range.high, range.inverted }, { -2048.0, 2047.0, false })
end)

-- ---- headers -------------------------------------------------------------------------------------------------------
t.test("a header tells what a study needs, and of a person nothing but a hash", function()
  local path = t.write(t.tmpdir() .. "/a", tiny.bytes { w = 20, h = 10, bits = 12, view = "LL" })
  local header = native.header(path)
  t.equal({ header.width, header.height, header.bits, header.frames, header.modality, header.view, header.spacing },
    { 20, 10, 12, 1, "DX", "LL", { 0.143, 0.139 } })
  t.equal({ header.patient, header.instance },
    { files.sha256(tiny.person.id), files.sha256 "1.2.826.0.1.3680043.8.498.7" })
  t.equal({ native.is(path), native.is(t.root .. "/tests/reference/pictures/deep.png"), native.is "/nowhere" },
    { true, false, false })
  t.equal(image.info(path), { width = 20, height = 10, channels = 1, bits = 12 })
  -- free text where a coded term should stand is not taken
  path = t.write(t.tmpdir() .. "/b", tiny.bytes { modality = "dx Smith", view = "a^b" })
  t.equal({ native.header(path).modality, native.header(path).view }, {})
  t.equal({ native.header "/nowhere" }, { nil, "No such file or directory" })
end)

-- ---- what is refused -----------------------------------------------------------------------------------------------
local function refused(o, why)
  t.fails(function() image.decode(type(o) == "string" and o or tiny.bytes(o)) end, "image.decode: " .. why)
end

t.test("what is no single image of 8 to 16 bits is refused by its name", function()
  refused({ no_pixels = true, modality = "SR" }, "the DICOM holds no pixels: its modality is SR.")
  refused({ frames = 12 }, "a multi-frame image of 12 frames (expected one image per file).")
  refused({ photometric = "PALETTE COLOR" }, "1 samples per pixel of 16 bits, PALETTE COLOR (expected MONOCHROME1, "
    .. "MONOCHROME2, or RGB of 8 bits).")
  refused({ more = tiny.element(0x28, 0x1052, "DS", "1") .. tiny.element(0x28, 0x1053, "DS", "0") },
    "its rescale slope is 0, which makes all pixels the same.")
  local item = string.pack("<I2I2I4", 0xfffe, 0xe000, 4)
  local codestream = item:sub(1, 4) .. "\0\0\0\0" .. item .. "\xff\x4f\xff\x51"
    .. string.pack("<I2I2I4", 0xfffe, 0xe0dd, 0)
  local bytes = tiny.bytes { syntax = "1.2.840.10008.1.2.4.90", no_pixels = true }
    .. string.pack("<I2I2c2I2I4", 0x7fe0, 0x10, "OB", 0, 0xffffffff) .. codestream
  refused(bytes, "its pixels are compressed as JPEG 2000 (Lossless only), for which DCMTK has no codec here. gdcmconv "
    .. "--raw IN OUT writes them plain.")
  t.fails_like(function() image.decode("\0\0" .. tiny.bytes {}) end, "not a PNG, JPEG or DICOM")
end)

t.test("lengths that lie are refused: rows, columns, elements, what a JPEG inside says", function()
  refused({ rows = 17 }, "the pixels are truncated (512 of 544 bytes).")
  refused({ rows = 7 }, "the pixels take 512 bytes (expected 224 for 16 x 7 x 1 of 16 bits).")
  refused({ rows = 65535, w = 65535, pixels = "ab" }, "65535 x 65535 is larger than the 64 megapixels this reads.")
  local bytes = tiny.bytes {}
  local at = bytes:find("\xe0\x7f\x10\x00OW\0\0", 1, true) + 8
  for _, length in ipairs { 514, 1 << 20, 0xfffffffe } do
    t.fails_like(function() image.decode(bytes:sub(1, at - 1) .. string.pack("<I4", length) .. bytes:sub(at + 4)) end,
      "^image.decode: the DICOM is truncated")
  end
  local jpeg = t.read(here .. "jpeg_baseline8.dcm")
  local frame = jpeg:find("\xff\xc0\0\x0b\x08", 1, true) + 5
  refused(jpeg:sub(1, frame - 1) .. "\0\x09" .. jpeg:sub(frame + 2),
    "the JPEG inside is 21 x 9 x 1 (expected 21 x 18 x 1, as the header says).")
end)

t.test("a file that is cut anywhere is refused, plain or compressed", function()
  for _, name in ipairs { "windows12", "jpeg_lossless12", "jpeg_baseline8", "jpeg_ls12", "rle16", "voi_lut12",
    "deflated12" } do
    local bytes = t.read(here .. name .. ".dcm")
    for k = 0, 99, 2 do
      local ok, message = pcall(image.decode, bytes:sub(1, #bytes * k // 100))
      if ok or not tostring(message):find "^image.decode: " then
        error(("%s cut at %d %%: %s"):format(name, k, ok and "it was read" or tostring(message)))
      end
    end
  end
end)

t.test("a damaged file is an error or a picture of the size that the header says, never a signal", function()
  local read, total = 0, 0
  for _, name in ipairs { "jpeg_lossless16", "jpeg_baseline8", "jpeg_ls10", "rle_rgb8", "modality_lut12" } do
    local bytes = t.read(here .. name .. ".dcm")
    for k = 133, #bytes, math.max(1, #bytes // 150) do
      local damaged = bytes:sub(1, k - 1) .. string.char((bytes:byte(k) + 1 + k % 255) % 256) .. bytes:sub(k + 1)
      local ok, x = pcall(image.decode, damaged)
      total = total + 1
      if ok then
        read = read + 1
        x:close()
      end
    end
  end
  t.ok(read > 0 and read < total)
end)

t.test("an allocation that fails is told and leaves nothing behind", function()
  local memory = require("medxai.core").memory
  local bytes, before = tiny.bytes { w = 8, h = 8 }, image.live_blocks()
  for n = 0, 4 do
    memory.c_fail_after(n)
    local ok, message = pcall(image.decode, bytes)
    memory.c_fail_after(-1)
    if not ok then t.ok(message:find "out of memory", message) end
    t.equal(image.live_blocks(), before)
  end
end)

-- ---- data sets -----------------------------------------------------------------------------------------------------

-- A folder of n files; change(i) -> fields. Even ones are bright in the middle.
local function folder(n, change)
  local root = t.tmpdir()
  for i = 1, n do
    local o = { w = 20, h = 16, bits = 12, id = "MRN-" .. (i + 1) // 2, name = "Zyxwv^Quorum" .. i,
      uid = "1.2.826.0.1.3680043.8.498.7." .. i, samples = function(k)
        local x, y = k % 20, k // 20
        local inside = x > 5 and x < 14 and y > 4 and y < 12
        return 300 + (k * 29 + i * 17) % 900 + (i % 2 == 0 and inside and 2500 or 0)
      end }
    for k, v in pairs(change and change(i) or {}) do o[k] = v end
    t.write(("%s/%02d.dcm"):format(root, i), tiny.bytes(o))
  end
  return root
end

local function items(n, more)
  local list = {}
  for i = 1, n do
    list[i] = { path = ("%02d.dcm"):format(i), label = i % 2, split = i <= n // 4 * 2 and "train" or "test" }
    for k, v in pairs(more and more(i) or {}) do list[i][k] = v end
  end
  return list
end

local function data_of(root, list, more)
  local options = { root = root, items = list, classes = { "healthy", "ill" }, size_px = 16, resize_px = 16 }
  for k, v in pairs(more or {}) do options[k] = v end
  return xai.dataset.from(options)
end

t.test("a data set takes DICOM files where it takes images; patients are salted hashes", function()
  local scope <close> = xai.scope()
  local root = folder(8)
  local data = data_of(root, items(8, function(i) return { patient = i == 3 and "MRN-2" or nil } end))
  local one, two, three = data.train:item(1), data.train:item(2), data.train:item(3)
  t.ok(one.patient:find "^p%x+$" and #one.patient == 17)
  t.equal(one.patient, two.patient)
  t.equal(three.patient, data.train:item(4).patient) -- given as in the header: hashed as well
  t.ok(one.patient ~= three.patient)
  t.ok(one.patient:sub(2) ~= files.sha256("MRN-1"):sub(1, 16), "salted")
  t.equal({ one.view, one.modality, one.spacing, one.bits }, { "PA", "DX", { 0.143, 0.139 }, 12 })
  t.ok(data.train:pixels(2):equal(image.fit(image.load(root .. "/02.dcm"), 16, 16)))
  -- the same files have the same hashes, other files others
  t.equal(data_of(root, items(8)).train:item(1).patient, one.patient)
  t.ok(data_of(root, items(6)).train:item(1).patient ~= one.patient)
  t.equal(xai.dataset.files { root .. "/01.dcm", size_px = 16 }.test:item(1).modality, "DX")
end)

t.test("splits that are made do not depend on the salt; a patient in two splits is told without a name", function()
  local root = folder(24)
  local function split_of(n)
    local of, list = {}, items(n, function() return { split = false } end)
    for _, item in ipairs(list) do item.split = nil end
    for _, split in ipairs(data_of(root, list, { split = { train = 0.6, val = 0.2, test = 0.2 } }).splits) do
      for i = 1, split.n do of[split.items[i].path] = split.name end
    end
    return of
  end
  local all = split_of(24)
  for path, name in pairs(split_of(20)) do t.equal(all[path], name) end
  for i = 1, 23, 2 do t.equal(all[("%02d.dcm"):format(i)], all[("%02d.dcm"):format(i + 1)]) end
  local message = t.fails_like(function()
    data_of(root, items(24, function(i) return { split = i % 2 == 0 and "train" or "test" } end))
  end, "^dataset: patient 'p%x+' is in two splits")
  t.ok(not message:find "MRN")
end)

t.test("one identifier for all files says nothing of patients; other modalities and gray images are noted", function()
  local root = folder(8, function(i)
    return { id = "ANONYMOUS", modality = i == 2 and "CT" or nil, signed = i == 3, bits = i == 3 and 16 or nil }
  end)
  local data = data_of(root, items(8))
  t.equal(data.train:item(1).patient, "unknown")
  local notes = table.concat(data:check().notes, "\n")
  t.ok(notes:find("all 8 DICOM files have the same patient identifier: it is not used, and patients are not known", 1,
    true), notes)
  t.ok(notes:find("1 DICOM file is of a modality other than X-ray (02.dcm is CT)", 1, true), notes)
  t.ok(notes:find("1 of 8 images comes out with fewer than 32 gray levels ('03.dcm')", 1, true), notes)
end)

t.test("view positions are a column and a filter", function()
  local root = folder(8, function(i) return { view = (i - 1) % 4 < 2 and "AP" or "LATERAL" } end)
  local data = data_of(root, items(8), { views = { "ap" } })
  t.equal({ data.train.n, data.test.n, data.train:item(1).path }, { 2, 2, "01.dcm" })
  t.equal(data.notes[#data.notes], "4 of 8 images are left out, whose view position is not ap")
  t.fails(function() data_of(root, items(8), { views = { "PA" } }) end,
    "from: option 'views' leaves no image (expected one of the data's view positions: AP, LATERAL).")
  local mixed = data_of(root, items(8, function(i) return { view = i < 3 and "PA" or nil } end), { views = { "PA" } })
  t.equal(mixed.train.n, 2) -- what the list says goes before the header
end)

t.test("the window is part of how data are prepared, and of what a run remembers", function()
  local scope <close> = xai.scope()
  local root = folder(4)
  local first, other = data_of(root, items(4)), data_of(root, items(4), { window = "minmax" })
  t.equal({ first:preparation().window, other:preparation().window, other.config.window },
    { "first", "minmax", "minmax" })
  t.equal(first.config.window, nil)
  t.ok(not first.train:pixels(1):equal(other.train:pixels(1)))
  t.ok(other.train:pixels(1):equal(image.fit(image.load(root .. "/01.dcm", nil, "minmax"), 16, 16)))
  local function wrong(window, message)
    t.fails(function() data_of(root, items(4), { window = window }) end, message)
  end
  wrong("fist", "from: unknown window 'fist'. Did you mean 'first'?")
  wrong(0, "from: option 'window' is wrong (windows are numbered from 1, got 0).")
  wrong({ center = 5 }, "from: option 'window' is wrong (expected { center = 40, width = 400 }, width is missing).")
  wrong({ center = 5, width = 0.5 }, "from: option 'window' is wrong (expected a width of at least 1, got 0.5).")
end)

t.test("a file that cannot be read is told with its path and reason", function()
  local root = folder(4, function(i) return i == 2 and { frames = 3 } or nil end)
  local message = t.fails_like(function() data_of(root, items(4)):check() end, "^dataset: cannot read")
  t.ok(message:find("'02.dcm' (a multi-frame image of 3 frames (expected one image per file))", 1, true), message)
end)

-- ---- nothing of a person -------------------------------------------------------------------------------------------
t.test("no name, date or identifier of a person reaches any file or output of a run", function()
  local root, runs = folder(12, function(i) return { id = tiny.person.id .. i, name = tiny.person.name .. i } end),
    t.tmpdir()
  local out = t.run { cwd = runs, t.write(runs .. "/exp.lua", ([[
local xai = require "medxai"
local run = xai.run { name = "person", seed = 1 }
local items = {}
for i = 1, 12 do
  items[i] = { path = ("%%02d.dcm"):format(i), label = i %% 2, split = i < 7 and "train" or i < 9 and "val" or "test" }
end
local data = xai.dataset.from { root = %q, items = items, classes = { "a", "b" }, size_px = 16, resize_px = 16 }
local model = xai.graph.network { name = "tiny", classes = data.classes, size_px = 16, cam_layer = "features", seed = 3,
  build = function(g, x)
    x = g:block("features", function() return g:relu("1", g:conv2d("0", x, { 3, 4, 3, padding = 1 })) end)
    return g:linear("fc", g:flatten(nil, g:adaptive_avg_pool2d("pool", x, 4)), { 64, 2 })
  end }
run:fit(model, data, { epochs = 1, batch = 4, optim = xai.optim.sgd { lr = 0.01 } })
run:evaluate(model, data.test)
run:explain(model, data.test, { methods = { "gradcam" }, images = 2 })
run:report()
print(data.test:item(1).patient, data)
]]):format(root)) }
  t.equal(out.code, 0, out.err)
  t.ok(out.out:find "p%x+\tfrom: train 6", out.out)
  local searched, p = 0, tiny.person
  local secrets = { "Zyxwv", "Quorum", p.id, p.birth, p.accession, "Referrer", "Xenia", p.institution,
    "1.2.826.0.1.3680043", files.sha256(p.id .. "1"), files.sha256(p.id .. "12") }
  local function search(text, where)
    searched = searched + 1
    for _, secret in ipairs(secrets) do
      if text:find(secret, 1, true) then error(("'%s' is in %s"):format(secret, where)) end
    end
  end
  search(out.out .. out.err, "the program's output")
  local function walk(dir)
    for _, name in ipairs(files.list(dir)) do
      local path = dir .. "/" .. name
      if files.is_folder(path) then walk(path) else search(t.read(path), path) end
    end
  end
  walk(runs .. "/runs/person")
  t.ok(searched > 10)
  local manifest = t.read(runs .. "/runs/person/manifest.csv")
  t.ok(manifest:find("patient,source,view,modality,row_spacing_mm,column_spacing_mm\n", 1, true), manifest)
end)
