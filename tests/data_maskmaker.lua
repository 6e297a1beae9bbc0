-- maskmaker: copies that are what input = "lungs" does while training, to the last bit; resumed; never over the data.
local t = require "t"
local files = require "medxai.base.files"
local image = require("medxai.core").image
local torch = require "medxai.torch"
local xai = require "medxai"

-- Two white bars as lungs; `half`: only the left one.
local function lung_mask(half)
  local mask = torch.zeros(48, 56):to("uint8")
  mask[{ { 8, 40 }, { 6, 22 } }] = 255
  if not half then mask[{ { 10, 42 }, { 32, 50 } }] = 255 end
  return mask
end

-- A set in the COVID-QU-Ex layout, two images per class and split, an infection part of one class.
local function make_set(dir, bad)
  local k = 0
  local function put(part, split, class, name)
    local own = ("%s/%s/%s/%s"):format(dir, part, split, class)
    k = k + 1
    files.mkdir(own .. "/images")
    files.mkdir(own .. "/lung masks")
    local scope <close> = require("medxai.core").memory.scope()
    image.save(own .. "/images/" .. name, torch.arange(48 * 56):mul(k * 7 + 3):remainder(251):to("uint8"):view(48, 56))
    image.save(own .. "/lung masks/" .. name, lung_mask(bad == split .. "/" .. class))
  end
  for _, split in ipairs { "Train", "Val", "Test" } do
    for _, class in ipairs { "COVID-19", "Non-COVID", "Normal" } do
      for i = 1, 2 do put("Lung Segmentation Data", split, class, "x" .. i .. ".png") end
    end
  end
  put("Infection Segmentation Data", "Test", "COVID-19", "x1.png")
  return dir
end

-- Runs a script that calls maskmaker with these options.
local function make(options, dir)
  local script = t.write(t.tmpdir() .. "/mm.lua", "require('medxai').maskmaker { " .. options .. " }\n")
  return t.run { script, cwd = dir }, script
end

t.test("both parts are written, read back they are the masked images, and training on them gives the "
  .. "same weights", function()
  local dir = make_set(t.tmpdir())
  local r = make("root = 'data', out = 'copies'", nil)
  t.equal(r.code, 1) -- not from here
  os.execute("mkdir -p " .. t.quote(dir .. "/w"))
  r = make(("root = %q, out = %q"):format(dir, dir .. ".masked"))
  t.equal(r.code, 0, r.err)
  t.ok(r.out:find("maskmaker: 19 written, 0 there already", 1, true), r.out)
  local scope <close> = require("medxai.core").memory.scope()
  local fly = xai.dataset.covid_qu_ex { root = dir, input = "lungs", size_px = 32, resize_px = 40 }
  local copies = xai.dataset.masked_folders { root = dir .. ".masked", size_px = 32, resize_px = 40 }
  t.equal(copies.input, "lungs")
  for _, split in ipairs { "train", "val", "test" } do
    t.equal(fly[split].n, copies[split].n)
    for i = 1, fly[split].n do
      t.equal(image.digest(fly[split]:pixels(i)), image.digest(copies[split]:pixels(i)), split .. " " .. i)
    end
    t.equal(fly[split]:labels():tolist(), copies[split]:labels():tolist())
  end
  t.ok(files.exists(dir .. ".masked/Infection Segmentation Data/Masked_Test/COVID-19/x1.png"))
  t.ok(files.exists(dir .. ".masked/contact_sheet.svg"))
  local sums = {}
  for i, reader in ipairs { ("covid_qu_ex { root = %q, input = 'lungs',"):format(dir),
      ("masked_folders { root = %q,"):format(dir .. ".masked") } do
    local script = t.write(dir .. "/w/fit.lua", ([[
local xai = require "medxai"
local run = xai.run { name = "m%d", seed = 3 }
local data = xai.dataset.%s size_px = 32, resize_px = 40 }
local model = xai.graph.network { name = "tiny", classes = data.classes, size_px = 32,
  build = function(g, x) return g:linear("fc", g:flatten(nil, g:adaptive_avg_pool2d("pool", x, 4)), { 48, 3 }) end }
run:fit(model, data, { optim = xai.optim.sgd { lr = 0.1, momentum = 0.9 }, epochs = 3, batch = 4 })
]]):format(i, reader))
    local f = t.run { "--threads", "1", "--quiet", script, cwd = dir .. "/w" }
    t.equal(f.code, 0, f.err)
    sums[i] = files.read_data(dir .. "/w/runs/m" .. i .. "/model.json").weights_sha256
  end
  t.equal(sums[1], sums[2])
  os.execute("rm -rf " .. t.quote(dir .. ".masked"))
end)

t.test("a second call makes only what is missing or has changed", function()
  local dir = make_set(t.tmpdir())
  local options = ("root = %q, out = %q"):format(dir, dir .. ".masked")
  t.equal(make(options).code, 0)
  files.remove(dir .. ".masked/Lung Segmentation Data/Masked_Val/Normal/x2.png")
  image.save(dir .. "/Lung Segmentation Data/Test/Normal/images/x1.png", lung_mask())
  local r = make(options)
  t.ok(r.out:find("maskmaker: 2 written, 17 there already", 1, true), r.out .. r.err)
  r = make(options .. ", mode = 'lungs_raw'")
  t.equal(r.code, 1)
  t.ok(r.err:find("holds copies of mode 'lungs' of '", 1, true), r.err)
  os.execute("rm -rf " .. t.quote(dir .. ".masked"))
end, { leaks = true }) -- the pictures made here live until they are collected

t.test("copies of another mode say so to their reader", function()
  local dir = make_set(t.tmpdir())
  t.equal(make(("root = %q, out = %q, mode = 'lungs_hull'"):format(dir, dir .. ".hull")).code, 0)
  t.equal(xai.dataset.masked_folders { root = dir .. ".hull", size_px = 32 }.input, "lungs_hull")
  os.execute("rm -rf " .. t.quote(dir .. ".hull"))
end)

t.test("images whose mask cannot be used are left out and listed; skip leaves them out without a word", function()
  local dir = make_set(t.tmpdir(), "Val/Normal")
  local options = ("root = %q, out = %q"):format(dir, dir .. ".masked")
  local r, script = make(options)
  t.equal(r.code, 1)
  t.equal(r.err, ("medxai-run: %s:1: maskmaker: 2 of 19 images were left out, the others lie in '%s.masked'. Repair "
    .. "their masks, or list them in skip.txt:\n"):format(script, dir)
    .. "  Val/Normal/images/x1.png: the mask cannot be used (it shows no lung in its right half).\n"
    .. "  Val/Normal/images/x2.png: the mask cannot be used (it shows no lung in its right half).\n")
  os.execute("rm -rf " .. t.quote(dir .. ".masked"))
  make_set(dir)
  r = make(options .. ", skip = { 'Val/Normal/images/x1.png' }")
  t.equal(r.code, 0, r.err)
  t.ok(r.out:find("maskmaker: 18 written", 1, true), r.out)
  os.execute("rm -rf " .. t.quote(dir .. ".masked"))
end)

t.test("masks of another size are left out, or stretched as mask_resize says, as while training", function()
  local base = t.tmpdir()
  local dir = make_set(base .. "/data")
  local odd = dir .. "/Lung Segmentation Data/Val/Normal/lung masks/x2.png"
  image.save(odd, image.resize(lung_mask(), 31, 29, "nearest"))
  local r = make(("root = %q, out = %q"):format(dir, base .. "/left"))
  t.ok(r.err:find("Val/Normal/images/x2.png: the mask cannot be used (it is 31 x 29, its image 56 x 48; "
    .. "mask_resize = 'nearest' would stretch it).", 1, true), r.err)
  r = make(("root = %q, out = %q, mask_resize = 'bilinear'"):format(dir, base .. "/masked"))
  t.equal(r.code, 0, r.err)
  local scope <close> = require("medxai.core").memory.scope()
  local fly = xai.dataset.covid_qu_ex { root = dir, input = "lungs", size_px = 32, resize_px = 40,
    mask_resize = "bilinear" }
  local copies = xai.dataset.masked_folders { root = base .. "/masked", size_px = 32, resize_px = 40 }
  for i = 1, fly.val.n do t.equal(image.digest(fly.val:pixels(i)), image.digest(copies.val:pixels(i))) end
  r = make(("root = %q, out = %q, mask_resize = 'nearest'"):format(dir, base .. "/masked"))
  t.ok(r.err:find("holds copies with mask_resize = bilinear (here: nearest). Give another out, or remove it.", 1,
    true), r.err)
end)

t.test("it writes neither into its input, nor around it, nor over other files", function()
  local dir = make_set(t.tmpdir() .. "/data")
  for _, out in ipairs { dir, dir .. "/masked", dir:match "^(.*)/" } do
    local r = make(("root = %q, out = %q"):format(dir, out))
    t.equal(r.code, 1)
    t.ok(r.err:find("lie in each other: the masked copies would mix with the data. Give another out.", 1, true), r.err)
  end
  local other = t.tmpdir()
  t.write(other .. "/letter.txt", "dear")
  local r = make(("root = %q, out = %q"):format(dir, other))
  t.ok(r.err:find("holds other files (letter.txt). Give an empty or new folder.", 1, true), r.err)
end)
