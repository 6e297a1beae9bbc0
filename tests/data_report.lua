-- The report before training: duplicates across splits, exact and near, and what it costs.
local t = require "t"
local torch = require "medxai.torch"
local xai = require "medxai"
local image = require("medxai.core").image
local png = require "png"

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
  t.equal(r.text, "folders: 18 images, 0 patients known\n         a  b  total\n  train  3  3      6\n  val    3  "
    .. "3      6\n  test   3  3      6")
end)

t.test("the same pixels in two splits are found whatever the file is called, also under two classes", function()
  local r = make(function(dir, p)
    image.save(dir .. "/Test/a/zz.png", p.Traina1)
    image.save(dir .. "/Val/b/yy.png", p.Traina2)
    image.save(dir .. "/Train/a/xx.png", p.Traina3)
  end):check()
  t.equal({ #r.exact, #r.exact_within, r.near_count }, { 2, 1, 0 })
  t.equal({ r.exact[1].a, r.exact[1].b, r.exact[1].same_class }, { "Train/a/2.png", "Val/b/yy.png", false })
  t.equal(r.warnings, { "2 images are in two splits (the same pixels):\n    Train/a/2.png = Val/b/yy.png\n    "
    .. "Train/a/1.png = Test/a/zz.png", "1 picture stands under two classes" })
end)

t.test("a copy that was resized, brightened, cropped a little or made noisy is found as nearly the same", function()
  local r = make(function(dir, p)
    image.save(dir .. "/Test/a/resized.png", image.resize(p.Traina1, 70, 70))
    image.save(dir .. "/Test/a/bright.png", p.Traina2:to("float32"):mul(0.8):add(20):clamp(0, 255):to("uint8"))
    image.save(dir .. "/Test/b/noisy.png",
      p.Trainb1:to("float32"):add(torch.sin(torch.arange(96 * 96)):mul(6):view(96, 96)):clamp(0, 255):to("uint8"))
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

-- Files of a data set of images, made by sample(x, y, channel) of the kind that png.lua writes: notes of its check.
local function notes_of(list, options)
  local dir, paths = t.tmpdir(), {}
  for i, one in ipairs(list) do
    paths[i] = t.write(("%s/%d.png"):format(dir, i), png.bytes(16, 16, one.kind or 0, one.bits or 16, one.sample))
  end
  local o = { paths = paths, size_px = 16, resize_px = 16 }
  for k, v in pairs(options and options(paths) or {}) do o[k] = v end
  local data = xai.dataset.files(o)
  local notes = data:check().notes
  for i, note in ipairs(notes) do notes[i] = note:gsub(dir:gsub("%p", "%%%0") .. "/", "") end
  return notes, data
end

local function up_to(top, bits, kind)
  return { bits = bits, kind = kind, sample = function(x, y, c)
    return (c == 1 or c == 3) and 65535 or (x + y) * top // 30
  end }
end

t.test("16-bit files that use a part of their range are noted with the white level that fits", function()
  t.equal(notes_of { up_to(4000) }, { "1 of 1 16-bit images comes out dark ('1.png'): no sample above 4000 of 65535. "
    .. "Write white_16bit = 4095 if the values have fewer bits" })
  t.equal(notes_of({ up_to(4000) }, function() return { white_16bit = 4095 } end), {})
  t.equal(notes_of { up_to(65535) }, {})
end)

t.test("each image is judged by its own range: one full one hides no dark ones, nor does an alpha channel", function()
  local list = { up_to(4000), up_to(65535), up_to(900), up_to(3000, 16, 4), up_to(40000) }
  local dark = "3 of 5 16-bit images come out dark ('1.png', '3.png' and 1 more): no sample above 4000 of 65535. Write "
    .. "white_16bit by source or file, { [\"1.png\"] = 4095 }, or a column white in a manifest if the values have "
    .. "fewer bits"
  t.equal(notes_of(list), { dark })
  local mine, data = notes_of(list, function(p)
    return { white_16bit = { [p[1]] = 4095, [p[3]] = 1023, [p[4]] = 4095 } }
  end)
  t.equal(mine, {})
  for i, top in ipairs { 4000 / 4095, 1, 900 / 1023, 3000 / 4095, 40000 / 65535 } do
    t.near(data.test:pixels(i):max():item(), 255 * top, 0.5)
  end
  local one_for_all = notes_of(list, function() return { white_16bit = 4095 } end)
  t.equal(one_for_all[2], "2 of 5 16-bit images come out bright ('2.png', "
    .. "'5.png'): more than 1 % of their samples lie above 4095, up to 65535, and are cut to white. Write "
    .. "white_16bit by "
    .. "source or file, { [\"2.png\"] = 65535 }, or a column white in a manifest")
end)

t.test("images that are dark, bright, of one value, or with their content in the alpha channel are noted", function()
  local function of(f, kind) return { bits = 8, kind = kind, sample = f } end
  local dark, bright = of(function(x) return 6 * x end), of(function(x) return 255 - 6 * x end)
  local flat, alpha = of(function() return 7 end), of(function(x, _, c) return c == 1 and 10 * x or 0 end, 4)
  local usual = of(function(x, y, c) return c == 3 and 10 * y or 17 * x end, 6)
  t.equal(notes_of { dark, bright, flat, flat, alpha, usual },
    { "1 of 6 images comes out dark ('1.png'): no value above 90 of 255",
    "1 of 6 images comes out bright ('2.png'): no value below 128 of 255",
    "2 of 6 images have one value everywhere ('3.png', '4.png')",
    "1 of 6 images has one color everywhere and its content in the alpha channel, which is left out ('5.png')" })
end)

t.test("white levels by source, in a manifest, and names that nothing has", function()
  local dir = t.tmpdir()
  local twelve = png.bytes(16, 16, 0, 16, up_to(4000).sample)
  for i = 1, 4 do t.write(("%s/%d.png"):format(dir, i), twelve:sub(1, -1)) end
  local function open(white, column)
    local rows = { "path,label,split,source,white" }
    for i = 1, 4 do
      rows[i + 1] = ("%d.png,%s,train,%s,%s"):format(i, i % 2 == 0 and "a" or "b", i < 3 and "A" or "B", column or "")
    end
    t.write(dir .. "/m.csv", table.concat(rows, "\n"))
    return xai.dataset.manifest { csv = dir .. "/m.csv", size_px = 16, resize_px = 16, white_16bit = white }
  end
  local function tops(data)
    local list = {}
    for i = 1, 4 do list[i] = data.train:pixels(i):max():item() end
    return list
  end
  t.equal(tops(open { A = 4095, ["4.png"] = 8000 }), { 249, 249, 16, 128 })
  t.equal(tops(open({ ["4.png"] = 8000 }, "4095")), { 249, 249, 249, 128 })
  t.equal(tops(open(4095)), { 249, 249, 249, 249 })
  t.equal(open { A = 4095 }.config.white_16bit, { A = 4095 })
  t.fails(function() open { A = 4095, C = 4095 } end,
    "manifest: option 'white_16bit' names 'C', which is no source and no file of these data.")
  t.fails(function() open { A = 70000 } end, "manifest: option 'white_16bit' is wrong (expected a number from 1 to "
    .. "65535, or one for each "
    .. "source or file, got A = 70000).")
  t.fails(function() open(nil, "0") end, "manifest: m.csv:2: the white level '0' is wrong (expected a number from 1 "
    .. "to 65535).")
end)
