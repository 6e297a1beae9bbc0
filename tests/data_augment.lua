-- torchvision's random transforms of training images: equal to torchvision 0.28 with the same parameters, the same
-- whatever the threads, batches and order, masks moved with their image, and options checked.
local t = require "t"
local torch = require "medxai.torch"
local xai = require "medxai"
local json = require "medxai.base.json"
local core = require "medxai.core"
local cases = dofile(t.root .. "/tests/reference/augment_cases.lua")

local function phantom(list, more)
  local o = { n_train = 13, n_val = 3, n_test = 3, size_px = 24, seed = 7, augment = list }
  for k, v in pairs(more or {}) do o[k] = v end
  return xai.dataset.phantom(o)
end

local everything = {
  { "random_horizontal_flip" },
  { "random_rotation", degrees = 10, interpolation = "bilinear" },
  { "random_affine", degrees = 5, translate = { 0.1, 0.1 }, scale = { 0.9, 1.1 }, shear = 5 },
  { "random_resized_crop", scale = { 0.6, 1 } },
  { "color_jitter", brightness = 0.2, contrast = 0.2 },
  { "gaussian_blur", kernel_size = 3 },
  { "random_erasing" },
}

t.test("each transform equals torchvision's with the same parameters", function()
  local reference = torch.load_npy(t.root .. "/tests/reference/augment/torchvision.npy")
  local drawn = json.read(t.read(t.root .. "/tests/reference/augment/drawn.json"))
  for i, case in ipairs(cases.list) do
    local bytes, own = cases.made(i)
    local name = ("case %d, %s"):format(i, case[1][1])
    for k, v in ipairs(drawn[i].drawn) do
      t.ok(math.abs(own[k] - v) < 1e-9, name .. ": drawn otherwise")
    end
    local scope <close> = xai.scope()
    local ours = torch.from_string(bytes, "uint8", { 24, 24, 3 }):to "int64"
    local theirs = reference:select(0, i - 1):to "int64"
    local off = (ours - theirs):abs()
    t.ok(off:max():item() <= case.off, ("%s: off by %d"):format(name, off:max():item()))
    t.ok(off:gt(0):sum():item() <= 0.05 * 24 * 24 * 3, name .. ": too many pixels are off by one")
  end
end)

t.test("draws keep to their ranges and to p, and hit both ends", function()
  local function draws(transform, n)
    local list = {}
    local native = require("medxai.data.augment").of("test", { transform }, 24)
    for i = 1, n do
      list[i] = select(2, core.loader.augmented(string.rep("\0", 576), 24, 1, native, 1, 1, "id" .. i))[1]
    end
    return list
  end
  local happened = 0
  for _, d in ipairs(draws({ "random_horizontal_flip", p = 0.3 }, 1000)) do
    if d.happens then happened = happened + 1 end
  end
  t.ok(math.abs(happened - 300) < 75, "five deviations of a binomial")
  local low, high = 0, 0
  for _, d in ipairs(draws({ "random_rotation", degrees = 10 }, 1000)) do
    low, high = math.min(low, d[1]), math.max(high, d[1])
  end
  t.ok(low >= -10 and low < -9 and high <= 10 and high > 9)
  local first = {}
  for _, d in ipairs(draws({ "color_jitter", brightness = 0.2, contrast = { 0.5, 2 } }, 300)) do
    t.ok(d[1] >= 0.8 and d[1] <= 1.2 and d[2] >= 0.5 and d[2] <= 2 and d[3] == 1 and d[4] + d[5] + d[6] == 3)
    first[d[4]] = true
  end
  t.ok(first[0] and first[1] and first[2], "each of the three comes first at times")
  for _, d in ipairs(draws({ "random_resized_crop" }, 300)) do
    t.ok(d[1] >= 0 and d[2] >= 0 and d[3] >= 1 and d[4] >= 1 and d[1] + d[3] <= 24 and d[2] + d[4] <= 24)
  end
end)

t.test("a picture depends on (seed, epoch, image) alone: not on threads, batches, order or where an epoch resumes",
function()
  local data = phantom(everything)
  local function pictures(options)
    options.augment, options.seed, options.epoch = true, options.seed or 3, options.epoch or 2
    local loader <close> = data.train:loader(options)
    local list = {}
    for batch in loader:iter() do
      local scope <close> = xai.scope()
      for k, i in ipairs(batch.index) do
        list[i] = core.image.sha256_stream():update(batch.x:select(0, k - 1):contiguous()):hex()
      end
    end
    return list
  end
  local all = pictures { batch = 4, threads = 1 }
  t.equal(pictures { batch = 13, threads = 4 }, all)
  t.equal(pictures { batch = 5, threads = 2, shuffle = true }, all)
  local later = pictures { batch = 4, order = { 9, 10, 11 } }
  t.equal({ later[9], later[10], later[11] }, { all[9], all[10], all[11] })
  local epoch, seed = pictures { batch = 4, epoch = 3 }, pictures { batch = 4, seed = 4 }
  for i = 1, 13 do t.ok(all[i] ~= epoch[i] and all[i] ~= seed[i]) end
end)

t.test("only training batches that ask for it are changed, with a cache of pictures or without", function()
  for _, cache_mb in ipairs { 0, 8 } do
    local data, plain = phantom(everything, { cache_mb = cache_mb }), phantom(false)
    for _ = 1, 2 do -- the second time from the cache
      local changed <close> = data.train:loader { augment = true, batch = 3 }
      local x = changed:next().x
      t.ok(not x:equal(plain.train:batch({ 1, 2, 3 }).x))
      t.ok(data.train:batch({ 1, 2, 3 }).x:equal(plain.train:batch({ 1, 2, 3 }).x))
      local val <close> = data.val:loader { batch = 3 }
      t.ok(val:next().x:equal(plain.val:batch({ 1, 2, 3 }).x))
    end
  end
end)

t.test("a batch's masks move with its images", function()
  -- what the network sees is the mask itself: after the same moves both are one
  local moves = { { "random_horizontal_flip" }, { "random_rotation", degrees = 40 },
    { "random_affine", degrees = 0, translate = { 0.2, 0.2 }, shear = 10 },
    { "random_resized_crop", scale = { 0.4, 0.9 }, interpolation = "nearest" } }
  local data = phantom(moves, { input = "shape", size_px = 32 })
  local loader <close> = data.train:loader { augment = true, batch = 13, seed = 1 }
  local batch, moved = loader:next(), 0
  for k = 1, 13 do
    local mask = batch:mask(k, "lungs")
    t.ok(batch.x:select(0, k - 1):select(0, 0):equal(mask:to "float32"))
    if not mask:equal(data.train:mask(k, "lungs")) then moved = moved + 1 end
  end
  t.ok(moved >= 12)
  t.ok(data.train:batch({ 2 }):mask(1, "lungs"):equal(data.train:mask(2, "lungs")))
  local few = phantom({ flip = 1, brightness = 0.3 }, { input = "shape", size_px = 32 })
  local flipped <close> = few.train:loader { augment = true, batch = 2 }
  t.ok(flipped:next():mask(2, "lungs"):equal(few.train:mask(2, "lungs"):flip { 1 }))
end)

t.test("a loss of one's own gets masks that moved with the images in training, and stay in validation", function()
  local data = phantom({ { "random_horizontal_flip", p = 1 } }, { input = "shape", size_px = 32, n_train = 4 })
  local run = xai.run { name = "augment", seed = 1, out = t.tmpdir() }
  local model = xai.models.squeezenet1_0 { classes = data.classes, weights = "random" }
  local seen = { [true] = 0, [false] = 0 }
  run:fit(model, data, { optim = xai.optim.sgd { lr = 0.001 }, epochs = 1, batch = 4, loss = function(logits, y, batch)
    for k, i in ipairs(batch.index) do
      local mask, still = batch:mask(k, "lungs"), batch.split:mask(i, "lungs")
      t.ok(batch.x:select(0, k - 1):select(0, 0):equal(mask:to "float32"))
      t.ok(mask:equal(batch.training and still:flip { 1 } or still))
      seen[batch.training] = seen[batch.training] + 1
    end
    return torch.cross_entropy(logits, y)
  end })
  t.equal(seen, { [true] = 4, [false] = 3 })
end)

t.test("two ways to write a list are one in the key; another value is another", function()
  local a = phantom { { "random_rotation", degrees = 10 } }
  local b = phantom { { name = "random_rotation", degrees = { -10, 10 }, fill = 0, interpolation = "nearest" } }
  t.equal(a.config.augment, b.config.augment)
  local described = json.read(json.write(a:description().options))
  t.equal(phantom(described.augment).config.augment, a.config.augment)
  t.ok(json.write(a.config) ~= json.write(phantom({ { "random_rotation", degrees = 11 } }).config))
end)

t.test("wrong options are one clear error each", function()
  local function wrong(list, message)
    t.fails(function() phantom(list) end, "phantom: augment: " .. message)
  end
  wrong({ { "random_rotate" } }, "there is no transform 'random_rotate' (expected color_jitter, gaussian_blur, "
    .. "random_affine, random_erasing, random_horizontal_flip, random_resized_crop, random_rotation, "
    .. "random_vertical_flip). Did you mean 'random_rotation'?")
  wrong({ "random_rotation" }, "transform 1 is wrong (expected { \"random_rotation\", degrees = 10 } or the like, "
    .. "got string 'random_rotation').")
  wrong({ { "random_rotation", degrees = 3 }, flip = 0.5 },
    "a list of transforms takes no option 'flip'. Write it inside of the transform's braces.")
  wrong({ { "random_rotation" } }, "random_rotation: option 'degrees' is missing (expected number or table: against "
    .. "the clock, -d to d or a range). Add degrees = ... to it.")
  local range = "random_rotation: option 'degrees' is wrong (expected a number of degrees or { lowest, highest }, got "
  wrong({ { "random_rotation", degrees = -3 } }, range .. "-3).")
  wrong({ { "random_rotation", degrees = { 5, 3 } } }, range .. "{ 5, 3 }).")
  wrong({ { "random_rotation", degrees = 3, expand = true } },
    "random_rotation: there is no option 'expand'. The picture keeps its size, size_px.")
  wrong({ { "random_rotation", degrees = 3, fill = 128 } }, "random_rotation: option 'fill' is wrong (expected a "
    .. "number from 0, black, to 1, white, or three, of red, green and blue, got 128).")
  wrong({ { "random_affine", degrees = 0, translate = { 0.1, 2 } } },
    "random_affine: option 'translate' is wrong (expected two shares from 0 to 1, got { 0.1, 2 }).")
  wrong({ { "random_affine", degrees = 0, scale = { 0, 1 } } },
    "random_affine: option 'scale' is wrong (expected { lowest, highest }, both above 0, got { 0, 1 }).")
  wrong({ { "random_affine", degrees = 0, shear = 90 } }, "random_affine: option 'shear' is wrong (expected a "
    .. "number of degrees, { lowest, highest } of x, or those of x and then of y, at most 89, got 90).")
  wrong({ { "random_resized_crop", scale = { 0.5, 1.5 } } },
    "random_resized_crop: option 'scale' is wrong (expected { lowest, highest }, above 0 and at most 1, "
      .. "got { 0.5, 1.5 }).")
  wrong({ { "color_jitter", brightness = -1 } }, "color_jitter: option 'brightness' is wrong (expected a number or "
    .. "{ lowest, highest }, none below 0, got -1).")
  wrong({ { "gaussian_blur", kernel_size = 4 } }, "gaussian_blur: option 'kernel_size' is wrong (expected odd pixels, "
    .. "one number or width and height, at most 47, got 4).")
  wrong({ { "gaussian_blur", kernel_size = 49 } }, "gaussian_blur: option 'kernel_size' is wrong (expected odd pixels, "
    .. "one number or width and height, at most 47, got 49).")
  wrong({ { "random_erasing", p = 2 } }, "random_erasing: option 'p' is too large (expected at most 1, got 2).")
  wrong({ { "random_horizontal_flip", p = math.huge } },
    "random_horizontal_flip: option 'p' is not a finite number (got inf).")
end)

t.test("a failing allocation within a transform is an error, and nothing is lost", function()
  local data = phantom(everything, { cache_mb = 0 })
  data.train:item(1)
  data.train:item(2)
  collectgarbage() collectgarbage()
  local before = core.image.live_blocks()
  local finished
  for n = 0, 300 do
    core.memory.c_fail_after(n, 1000000)
    local ok, message = pcall(function()
      local loader <close> = data.train:loader { augment = true, batch = 2, threads = 1, order = { 1, 2 } }
      loader:next()
    end)
    core.memory.c_fail_after(-1)
    collectgarbage() collectgarbage()
    t.equal(core.image.live_blocks(), before)
    if ok then finished = n break end
    t.ok(tostring(message):find("memory", 1, true), message)
  end
  t.ok(finished and finished > 10)
end)
