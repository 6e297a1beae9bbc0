-- Masks: the thesis' fill between the lungs, input masking in 8 bits at the file's size, judging masks aligned by
-- nearest.
local t = require "t"
local torch = require "medxai.torch"
local xai = require "medxai"
local image = require("medxai.core").image
local png = require "png"

local function empty(h, w)
  local m = {}
  for y = 0, h - 1 do
    m[y] = {}
    for x = 0, w - 1 do m[y][x] = 0 end
  end
  return m
end

local function ellipse(m, cx, cy, rx, ry)
  for y, row in pairs(m) do
    for x in pairs(row) do
      if ((x - cx) / rx) ^ 2 + ((y - cy) / ry) ^ 2 <= 1 then row[x] = 255 end
    end
  end
end

local function tensor(m, h, w)
  local bytes = {}
  for y = 0, h - 1 do
    for x = 0, w - 1 do bytes[#bytes + 1] = string.char(m[y][x]) end
  end
  return torch.from_string(table.concat(bytes), "uint8", { h, w })
end

-- The thesis' loops, word for word, on 256 x 256.
local function thesis_fill(m)
  local top, most = 0, 0
  for y = 0, 255 do
    for x = 0, 255 do
      if m[y][x] > most then top, most = y, m[y][x] end
    end
  end
  local function first(from, to, step)
    for x = from, to, step do
      for y = 255, 1, -1 do
        if m[y][x] == 255 then return x end
      end
    end
  end
  local left, right = first(0, 127, 1), first(255, 129, -1)
  for y = 0, 254 do
    for x = 0, 254 do
      if x > left and x < right and y > top then m[y][x] = 255 end
    end
  end
end

t.test("the fill between the lungs is the thesis' on masks of 256 x 256", function()
  for k, shape in ipairs { { 80, 120, 40, 90, 180, 125, 38, 85 }, { 60, 70, 30, 69, 200, 200, 54, 56 },
      { 120, 128, 119, 10, 250, 100, 30, 101 },
    { 70, 255, 30, 30, 190, 20, 30, 30 } } do
    local m = empty(256, 256)
    ellipse(m, shape[1], shape[2], shape[3], shape[4])
    ellipse(m, shape[5], shape[6], shape[7], shape[8])
    local got = image.lung_fill(tensor(m, 256, 256))
    thesis_fill(m)
    t.equal(image.digest(got), image.digest(tensor(m, 256, 256)), "shape " .. k)
  end
end)

t.test("a mask without lung in one half is an error", function()
  local m = empty(64, 64)
  t.fails(function() image.lung_fill(tensor(m, 64, 64)) end,
    "image.lung_fill: the mask cannot be used (it shows no lung).")
  ellipse(m, 15, 30, 8, 20)
  t.fails(function() image.lung_fill(tensor(m, 64, 64)) end,
    "image.lung_fill: the mask cannot be used (it shows no lung in its right half).")
  local grey = tensor(m, 64, 64):div(5, { rounding_mode = "floor" }):to("uint8")
  t.fails(function() image.lung_fill(grey) end,
    "image.lung_fill: the mask cannot be used (its largest value is 51 (expected 0 and 255, or 0 and 1)).")
end)

-- A set in the COVID-QU-Ex layout, one image a class and split; edit(path, picture, mask) may change what is written.
local function make_set(dir, h, w, edit)
  local m = empty(h, w)
  ellipse(m, w * 0.3, h * 0.5, w * 0.15, h * 0.3)
  ellipse(m, w * 0.7, h * 0.5, w * 0.15, h * 0.3)
  local k = 0
  for _, split in ipairs { "Train", "Val", "Test" } do
    for _, class in ipairs { "COVID-19", "Non-COVID", "Normal" } do
      local own = dir .. "/Lung Segmentation Data/" .. split .. "/" .. class
      os.execute("mkdir -p '" .. own .. "/images' '" .. own .. "/lung masks'")
      local bytes = {}
      k = k + 1
      for i = 0, h * w - 1 do bytes[i + 1] = string.char((i * 3 + i // w * k * 7) % 256) end
      local x, mask = torch.from_string(table.concat(bytes), "uint8", { h, w }), tensor(m, h, w)
      if edit then x, mask = edit(split .. "/" .. class, x, mask) end
      image.save(own .. "/images/a.png", x)
      if mask then image.save(own .. "/lung masks/a.png", mask) end
    end
  end
  return dir
end

t.test("input = 'lungs' masks in 8 bits at the file's size, before the resize", function()
  local dir = make_set(t.tmpdir(), 80, 64)
  local own = dir .. "/Lung Segmentation Data/Train/Normal"
  local x, mask = image.load(own .. "/images/a.png"), image.load(own .. "/lung masks/a.png")
  for _, mode in ipairs { "none", "lungs", "lungs_raw", "outside" } do
    local data = xai.dataset.covid_qu_ex { root = dir, input = mode == "none" and "whole" or mode, resize_px = 40,
      size_px = 32 }
    local by_hand = image.fit(image.mask(x, mask, mode), 40, 32)
    t.equal(image.digest(data.train:pixels(3)), image.digest(by_hand), mode)
    local batch = data.train:batch { 3 }
    t.near(batch.x[0][1], by_hand:squeeze(2):to("float32"):div(255), 0)
  end
end)

t.test("a judging mask is the file's, by nearest, cropped as the image is", function()
  local dir = make_set(t.tmpdir(), 80, 64)
  local data = xai.dataset.covid_qu_ex { root = dir, resize_px = 40, size_px = 32 }
  local mask = image.load(dir .. "/Lung Segmentation Data/Train/Normal/lung masks/a.png")
  local by_hand = image.fit(mask, 40, 32, "nearest"):squeeze(2):div(255):to("uint8")
  t.equal(data.train:mask(3, "lungs"):tolist(), by_hand:tolist())
  t.equal(data.train:mask(3, "infection"), nil)
  t.fails(function() data.train:mask(3, "lung") end, "dataset: unknown mask 'lung'. Did you mean 'lungs'?")
  t.equal(data.train:geometry(3), { file = { 64, 80 }, resized = { 40, 50 }, crop = { 4, 9, 32, 32 } })
end)

t.test("masks that do not fit are errors that name the file", function()
  local small = make_set(t.tmpdir(), 40, 40, function(path, x, mask)
    if path == "Val/Normal" then mask = image.resize(mask, 20, 20, "nearest") end
    return x, mask
  end)
  local data = xai.dataset.covid_qu_ex { root = small, input = "lungs", size_px = 32 }
  local message = "dataset: the lung mask 'Val/Normal/lung masks/a.png' does not fit its image "
    .. "'Val/Normal/images/a.png' (expected 40 x 40, got 20 x 20). "
    .. "Repair it, write mask_resize = 'nearest' to stretch such masks, or list the image in skip.txt."
  t.fails(function() data.val:batch { 3 } end, message)
  t.fails(function() data:check() end, message)
  t.fails(function() data.val:mask(3, "lungs") end, message)

  -- 0 and 1 in 16 bits would be an empty mask in 8
  local deep = make_set(t.tmpdir(), 20, 24)
  local hex = "89504e470d0a1a0a0000000d4948445200000018000000141000000000e24e7e1c000000184944415478da636018d1"
    .. "80110e098b8e6a18511a862e0000cba2006f1354506a0000000049454e44ae426082"
  t.write(deep .. "/Lung Segmentation Data/Test/Normal/lung masks/a.png",
    (hex:gsub("%x%x", function(h) return string.char(tonumber(h, 16)) end)))
  t.fails(function() xai.dataset.covid_qu_ex { root = deep, size_px = 16 }.test:mask(3, "lungs") end,
    "dataset: cannot read the lung mask 'Test/Normal/lung masks/a.png' (its largest 16-bit value is 1 (expected 0 "
    .. "and 65535, or 0 and 1 in 8 bits)). "
    .. "Repair it, or list its image 'Test/Normal/images/a.png' in skip.txt.")

  local missing = make_set(t.tmpdir(), 40, 40, function(path, x, mask)
    return x, path ~= "Train/COVID-19" and mask or nil
  end)
  t.fails(function() xai.dataset.covid_qu_ex { root = missing, input = "lungs" } end,
    "dataset: no lung mask for 'Train/COVID-19/images/a.png' (looked for 'Train/COVID-19/lung masks/a.png'; input = "
    .. "'lungs' needs one). Add it, or list the image in skip.txt.")
  t.equal(xai.dataset.covid_qu_ex { root = missing, size_px = 32 }.train:mask(1, "lungs"), nil)

  local half = make_set(t.tmpdir(), 40, 40, function(path, x, mask)
    if path == "Test/Non-COVID" then mask = mask:clone(); mask[{ { 0, 40 }, { 0, 20 } }] = 0 end
    return x, mask
  end)
  t.fails(function() xai.dataset.covid_qu_ex { root = half, input = "lungs", size_px = 32 }:check() end,
    "dataset: the lung mask 'Test/Non-COVID/lung masks/a.png' cannot be used (it shows no lung in its left half). "
    .. "Repair it, or list its image 'Test/Non-COVID/images/a.png' in skip.txt.")
end)

t.test("mask_resize stretches masks of another size, as Pillow would, for the network's input and "
  .. "for metrics", function()
  local big, own = nil, nil
  local dir = make_set(t.tmpdir(), 40, 44, function(path, x, mask)
    if path == "Val/Normal" then
      big, own = x, image.resize(mask, 23, 31, "nearest")
      mask = own
    end
    return x, mask
  end)
  local function stretched(how)
    if how == "nearest" then return image.resize(own, 44, 40, "nearest") end
    return image.resize(own, 44, 40):ge(128):to("uint8"):mul(255):contiguous()
  end
  for _, how in ipairs { "nearest", "bilinear" } do
    for _, mode in ipairs { "lungs", "outside" } do
      local data = xai.dataset.covid_qu_ex { root = dir, input = mode, size_px = 32, resize_px = 36, mask_resize = how }
      t.equal(image.digest(data.val:pixels(3)),
        image.digest(image.fit(image.mask(big, stretched(how), mode), 36, 32)), how)
      t.ok(data.val:mask(3, "lungs"):eq(image.fit(stretched(how), 36, 32, "nearest"):ne(0):to "uint8"):all():item())
      t.equal(data.config.mask_resize, how)
    end
    local same = image.mask(big, own, "lungs", how)
    t.equal(image.digest(same), image.digest(image.mask(big, stretched(how), "lungs")))
  end
  t.fails(function() image.mask(big, own, "lungs") end,
    "image.mask: the mask cannot be used (it is 23 x 31, its image 44 x 40; "
    .. "mask_resize = 'nearest' would stretch it).")
  t.fails(function() xai.dataset.covid_qu_ex { root = dir, mask_resize = "cubic" } end,
    "covid_qu_ex: option 'mask_resize' is wrong (expected 'nearest' or 'bilinear', got string 'cubic').")
end)

t.test("a mask that marks the whole picture, or has its content in the alpha channel, is no mask", function()
  local function with(bytes)
    local dir = make_set(t.tmpdir(), 20, 24)
    t.write(dir .. "/Lung Segmentation Data/Test/Normal/lung masks/a.png", bytes)
    return xai.dataset.covid_qu_ex { root = dir, size_px = 16, input = "lungs" }, dir
  end
  local function inside(x, y) return x > 3 and x < 20 and y > 3 end
  local whole = "it marks the whole image"
  local alpha = "its color is the same everywhere, its content lies in the alpha channel. Save that as gray values"
  for _, case in ipairs {
    { whole, 0, function() return 255 end }, { whole, 0, function() return 1 end },
    { whole, 2, function() return 200 end }, { whole, 4, function() return 255 end },
    { alpha, 4, function(x, y, c) return c == 0 and 255 or inside(x, y) and 255 or 0 end },
    { alpha, 6, function(x, y, c) return c < 3 and 0 or inside(x, y) and 255 or 0 end } } do
    local data, dir = with(png.bytes(24, 20, case[2], 8, case[3]))
    local message = ("dataset: cannot read the lung mask 'Test/Normal/lung masks/a.png' (%s). Repair it, or list "
      .. "its image "
      .. "'Test/Normal/images/a.png' in skip.txt."):format(case[1])
    t.fails(function() data:check() end, message)
    t.fails(function() data.test:mask(3, "lungs") end, message)
    local path = dir .. "/Lung Segmentation Data/Test/Normal/lung masks/a.png"
    t.fails(function() image.load_mask(path) end, ("image.load_mask: cannot read '%s' (%s)."):format(path, case[1]))
  end
  -- colour that says something counts, whatever lies in the alpha channel
  local data = with(png.bytes(24, 20, 4, 8, function(x, y, c) return c == 0 and inside(x, y) and 255 or x end))
  t.equal(data.test:mask(3, "lungs"):max():item(), 1)
end)

t.test("mean and std, channels_last and labels reach the batch as torchvision would make it", function()
  local dir = make_set(t.tmpdir(), 40, 44)
  local plain = xai.dataset.covid_qu_ex { root = dir, size_px = 32, resize_px = 32 }
  local scaled = xai.dataset.covid_qu_ex { root = dir, size_px = 32, resize_px = 32, mean = { 0.485, 0.456, 0.406 },
    std = { 0.229, 0.224, 0.225 } }
  local a, b = plain.train:batch { 2, 1 }, scaled.train:batch({ 2, 1 }, { channels_last = true })
  t.equal(a.x.shape, { 2, 3, 32, 32 })
  t.equal(a.y:tolist(), { 1, 0 })
  t.equal(a.y.dtype, "int64")
  t.equal(b.x.shape, { 2, 3, 32, 32 })
  t.equal(b.x:stride(1), 1)
  local mean = torch.tensor({ 0.485, 0.456, 0.406 }):view(1, 3, 1, 1)
  local std = torch.tensor({ 0.229, 0.224, 0.225 }):view(1, 3, 1, 1)
  t.near(b.x, a.x:sub(mean):div(std), 0)
  t.equal(a.x[0][0]:equal(a.x[0][2]), true)
end)

-- The pixels whose centres lie in the convex hull of the lung's, by trying every half-plane through two of them.
local function hull_by_force(m, h, w)
  local points, out = {}, empty(h, w)
  for y = 0, h - 1 do
    for x = 0, w - 1 do
      if m[y][x] == 255 then points[#points + 1] = { x, y } end
    end
  end
  local planes = {}
  for i, a in ipairs(points) do
    for k, b in ipairs(points) do
      if i ~= k then
        local all = true
        for _, c in ipairs(points) do
          if (b[1] - a[1]) * (c[2] - a[2]) - (b[2] - a[2]) * (c[1] - a[1]) < 0 then all = false break end
        end
        if all then planes[#planes + 1] = { a, b } end
      end
    end
  end
  for y = 0, h - 1 do
    for x = 0, w - 1 do
      local inside = true
      for _, p in ipairs(planes) do
        local a, b = p[1], p[2]
        if (b[1] - a[1]) * (y - a[2]) - (b[2] - a[2]) * (x - a[1]) < 0 then inside = false break end
      end
      if inside and #points > 1 then out[y][x] = 255 end
    end
  end
  return out
end

t.test("the hull of the lungs is the convex hull of their pixels' centres", function()
  for k, list in ipairs { { { 4, 6, 2, 4 }, { 15, 8, 3, 5 } }, { { 3, 3, 2, 2 } },
      { { 2, 10, 1, 1 }, { 17, 2, 1, 2 }, { 10, 14, 2, 1 } } } do
    local m = empty(18, 22)
    for _, e in ipairs(list) do ellipse(m, table.unpack(e)) end
    local white = torch.full({ 18, 22 }, 255, { dtype = "uint8" })
    local got = image.mask(white, tensor(m, 18, 22), "lungs_hull")
    t.equal(got:tolist(), tensor(hull_by_force(m, 18, 22), 18, 22):tolist(), "case " .. k)
  end
end)

t.test("box and border cut along the rectangle of the lungs, outside and shape along the lungs; together they are "
  .. "the picture", function()
  local m = empty(20, 24)
  ellipse(m, 6, 9, 3, 6)
  ellipse(m, 17, 10, 3, 5)
  local picture, mask = torch.randint(1, 256, { 20, 24 }):to("uint8"), tensor(m, 20, 24)
  local function kept(mode) return image.mask(picture, mask, mode) end
  local box = kept "box"
  t.equal((box + kept "border"):tolist(), picture:tolist())
  t.equal((kept "lungs_raw" + kept "outside"):tolist(), picture:tolist())
  local inside = box:ne(0)
  t.equal(inside:sum():item(), 13 * 18) -- rows 3..15, columns 3..20
  t.ok(inside[{ 3, 3 }]:item() and inside[{ 15, 20 }]:item() and not inside[{ 2, 10 }]:item()
    and not inside[{ 10, 21 }]:item())
  t.equal(kept("shape"):tolist(), image.lung_fill(mask):tolist())
  for _, mode in ipairs { "lungs_raw", "lungs_hull", "outside", "box", "border", "shape" } do
    t.fails(function() image.mask(picture, torch.zeros(20, 24):to("uint8"), mode) end,
      "image.mask: the mask cannot be used (it shows no lung).")
  end
end)

t.test("permuted labels: the same images and counts, another order, keyed by the seed; other splits "
  .. "keep theirs", function()
  local function labels(options)
    local data = xai.dataset.phantom { n_train = 60, n_val = 12, n_test = 12, size_px = 32, labels = options }
    return data.train:labels():tolist(), data.val:labels():tolist(), data.config.labels
  end
  local current_seed = require "medxai.run.current_seed"
  local plain, val = current_seed.during(5, labels)
  local a, other_val, name = current_seed.during(5, labels, "permuted")
  local b = current_seed.during(6, labels, "permuted")
  local moved, count = 0, { 0, 0, 0 }
  for i, label in ipairs(a) do
    moved = moved + (label ~= plain[i] and 1 or 0)
    count[label + 1] = count[label + 1] + 1
  end
  t.equal(count, { 20, 20, 20 })
  t.ok(moved > 20, "only " .. moved .. " of 60 labels moved")
  t.equal(val, other_val)
  t.equal(name, "permuted by seed 5")
  local differ = false
  for i, label in ipairs(a) do differ = differ or label ~= b[i] end
  t.ok(differ, "two seeds give the same order")
end)

t.test("permuted_all: the labels of all splits in one order, keyed by the seed; a class's images change splits' "
  .. "counts alone", function()
  local host = require "medxai.host"
  local seed = host.options.seed
  local restore <close> = setmetatable({}, { __close = function() host.options.seed = seed end }) -- luacheck: ignore
  host.options.seed = 5
  local function all(which)
    local data = xai.dataset.phantom { n_train = 60, n_val = 30, n_test = 30, size_px = 32, labels = which }
    local list = {}
    for _, split in ipairs(data.splits) do
      for _, label in ipairs(split:labels():tolist()) do list[#list + 1] = label end
    end
    return list, data
  end
  local plain, a = all "true", nil
  a = all "permuted_all"
  local _, data = all "permuted_all"
  t.equal(data.config.labels, "of all splits permuted by seed 5")
  local moved, count = { 0, 0, 0 }, { 0, 0, 0 }
  for i, label in ipairs(a) do
    local split = i <= 60 and 1 or i <= 90 and 2 or 3
    moved[split] = moved[split] + (label ~= plain[i] and 1 or 0)
    count[label + 1] = count[label + 1] + 1
  end
  t.equal(count, { 40, 40, 40 }) -- jointly
  t.ok(moved[1] > 25 and moved[2] > 10 and moved[3] > 10, table.concat(moved, " ")) -- about two thirds of each
  t.equal(all "permuted_all", a)
  host.options.seed = 6
  local differ = false
  for i, label in ipairs(all "permuted_all") do differ = differ or label ~= a[i] end
  t.ok(differ, "two seeds give the same order")
end)
