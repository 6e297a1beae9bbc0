-- The report before training: duplicates across splits, exact and near, and what it costs.
local t = require "t"
local torch = require "medxai.torch"
local xai = require "medxai"
local image = require("medxai.core").image

-- Two classes, three splits of drawn chests, one PNG each; extra(dir) may add files.
local function make(extra)
  local dir, number = t.tmpdir(), 0
  local pictures = {}
  for _, split in ipairs { "Train", "Val", "Test" } do
    for _, class in ipairs { "a", "b" } do
      assert(os.execute(("mkdir -p '%s/%s/%s'"):format(dir, split, class)))
      for k = 1, 3 do
        local x = require("medxai.core").phantom.draw({ size_px = 96, seed = 3 }, number).image
        number = number + 1
        pictures[split .. class .. k] = x
        image.save(("%s/%s/%s/%d.png"):format(dir, split, class, k), x)
      end
    end
  end
  if extra then extra(dir, pictures) end
  return xai.dataset.folders { root = dir, classes = { "a", "b" }, size_px = 32, resize_px = 32 }
end

t.test("different chests are no duplicates", function()
  local r = make():check()
  t.equal({ r.images, #r.exact, #r.exact_within, r.near_count, r.warnings }, { 18, 0, 0, 0, {} })
  t.equal(r.text, "folders: 18 images, 0 patients known\n         a  b  total\n  train  3  3      6\n  val    3  3      6\n  test   3  3      6")
end)

t.test("the same pixels in two splits are found whatever the file is called, also under two classes", function()
  local r = make(function(dir, p)
    image.save(dir .. "/Test/a/zz.png", p.Traina1)
    image.save(dir .. "/Val/b/yy.png", p.Traina2)
    image.save(dir .. "/Train/a/xx.png", p.Traina3)
  end):check()
  t.equal({ #r.exact, #r.exact_within, r.near_count }, { 2, 1, 0 })
  t.equal({ r.exact[1].a, r.exact[1].b, r.exact[1].same_class }, { "Train/a/2.png", "Val/b/yy.png", false })
  t.equal(r.warnings, { "2 images are in two splits (the same pixels):\n    Train/a/2.png = Val/b/yy.png\n    Train/a/1.png = Test/a/zz.png", "1 picture stands under two classes" })
end)

t.test("a copy that was resized, brightened, cropped a little or made noisy is found as nearly the same", function()
  local r = make(function(dir, p)
    image.save(dir .. "/Test/a/resized.png", image.resize(p.Traina1, 70, 70))
    image.save(dir .. "/Test/a/bright.png", p.Traina2:to("float32"):mul(0.8):add(20):clamp(0, 255):to("uint8"))
    image.save(dir .. "/Test/b/noisy.png", p.Trainb1:to("float32"):add(torch.sin(torch.arange(96 * 96)):mul(6):view(96, 96)):clamp(0, 255):to("uint8"))
    image.save(dir .. "/Test/b/cropped.png", p.Trainb2[{ { 1, 95 }, { 1, 96 } }]:contiguous())
  end):check()
  t.equal({ #r.exact, r.near_count }, { 0, 4 })
end)

t.test("asked again it is the same report, and training finds the pictures in memory", function()
  local data = make()
  local r = data:check()
  t.ok(data:check() == r)
  t.equal(data:native():cached(), 18 * (32 * 32 + 1))
end)

t.test("Small_Test is a part of Test: its copies are no leak", function()
  local r = make(function(dir) assert(os.execute(("cp -r '%s/Test' '%s/Small_Test'"):format(dir, dir))) end):check()
  t.equal({ #r.exact, #r.exact_within, r.near_count, r.warnings }, { 0, 6, 0, {} })
end)

t.test("16-bit files that use a part of their range are noted with the white level that fits", function()
  local dir = t.tmpdir()
  -- a 2 x 1 grey PNG of 16 bits, samples 100 and 4000, stored uncompressed
  local raw = "\0" .. string.pack(">I2I2", 100, 4000)
  local a, b = 1, 0
  for i = 1, #raw do a = (a + raw:byte(i)) % 65521; b = (b + a) % 65521 end
  local function chunk(body)
    local c = 0xffffffff
    for i = 1, #body do
      c = c ~ body:byte(i)
      for _ = 1, 8 do c = c & 1 == 1 and 0xedb88320 ~ c >> 1 or c >> 1 end
    end
    return string.pack(">I4", #body - 4) .. body .. string.pack(">I4", ~c & 0xffffffff)
  end
  local data = "\x78\1\1" .. string.pack("<I2I2", #raw, ~#raw & 0xffff) .. raw .. string.pack(">I4", b << 16 | a)
  t.write(dir .. "/a.png", "\x89PNG\r\n\x1a\n" .. chunk("IHDR" .. string.pack(">I4I4", 2, 1) .. "\16\0\0\0\0") .. chunk("IDAT" .. data) .. chunk "IEND")
  local function notes(white) return xai.dataset.files { paths = dir .. "/a.png", size_px = 16, resize_px = 16, white_16bit = white }:check().notes end
  t.equal(notes(), { "1 16-bit image reaches 4000 of 65535 and comes out dark. Write white_16bit = 4095 if the values have fewer bits" })
  t.equal(notes(4095), {})
  t.equal(image.load(dir .. "/a.png", 4095):flatten():tolist(), { 6, 249 })
end)
