-- What methods stand on: scorer, chunks, the context (views, extras, keyed streams), principal components with their
-- sign, augmentation, statuses, and what is kept beside a map.
local t = require "t"
local tiny = require "tinyexplain"
local torch = require "medxai.torch"
local chunks = require "medxai.tensor.chunks"
local context = require "medxai.explain.context"
local core = require "medxai.core"
local explain = require "medxai.steps.explain"
local host = require "medxai.host"
local map = require "medxai.explain.map"
local principal = require "medxai.explain.principal_component"
local scorer = require "medxai.perturb.scorer"

local was_quiet = host.options.quiet
host.options.quiet = true

local function distance(a, b) return (a:to { dtype = "float64" } - b:to { dtype = "float64" }):abs():max():item() end

local function images(n)
  return (torch.sin(torch.arange(n * 3 * 21 * 32, { dtype = "float32" }) * 0.37) * 0.5 + 0.5):view({ n, 3, 21, 32 })
end

local function go(dir, options, n, model)
  local run = tiny.run(dir)
  options.figures = false
  local scope <close> = core.memory.scope()
  return explain.run(run, model or tiny.model(), tiny.split(n or 6), options), run
end

-- ---- scorer ---------------------------------------------------------------------------------------------------------

t.test("a scorer's logits are the model's, whatever the chunk, and it counts its passes", function()
  local model, x = tiny.model(), images(11)
  local expected = torch.no_grad(model, x)
  for _, options in ipairs { {}, { chunk = 1 }, { chunk = 4 }, { deterministic = true }, { budget_mb = 0.01 } } do
    local s, asked = scorer.new(model, options), 0
    local got = s:logits(11, function(first, count)
      asked = asked + count
      return x:narrow(0, first, count)
    end)
    t.equal({ got.dtype, got.device, asked, s.forwards, s.partials }, { "float32", "cpu", 11, 11, 0 })
    t.ok(distance(got, expected) < 1e-5)
    t.equal(s:deviation(), nil)
  end
end)

t.test("deterministic: an image's score does not depend on how many others there are, to the last bit", function()
  local model, x = tiny.model(), images(11)
  local s = scorer.new(model, { deterministic = true })
  local all = s:logits(11, function(first, count) return x:narrow(0, first, count) end)
  for i = 0, 10 do
    local one = s:logits(1, function() return x:narrow(0, i, 1) end)
    t.ok(torch.equal(one, all:narrow(0, i, 1)))
  end
end)

t.test("from an inner layer: the same logits from its values, and other ones where a channel is taken out", function()
  local model, x = tiny.model(), images(5)
  local base = torch.no_grad(function() return model:forward { x = x, outputs = { "conv2", "output" } } end)
  local s = scorer.new(model)
  t.ok(distance(s:from_layer("conv2", nil, 5, function(first, count) return base.conv2:narrow(0, first, count) end),
    base.output) < 1e-6)
  t.equal({ s.forwards, s.partials }, { 0, 5 })
  local without = base.conv2:clone()
  without:select(1, 2):fill_(0)
  t.ok(distance(s:from_layer("conv2", {}, 5, function(first, count) return without:narrow(0, first, count) end),
    base.output) > 1e-3)
end)

t.test("bfloat16 tells its largest deviation from float32 on the first images", function()
  t.needs_bfloat16()
  local model, x = tiny.model(), images(20)
  local s = scorer.new(model, { precision = "bfloat16" })
  local make = function(first, count) return x:narrow(0, first, count) end
  local got, exact = s:logits(20, make), torch.no_grad(model, x)
  t.near(s:deviation(), distance(got:narrow(0, 0, 8), exact:narrow(0, 0, 8)), 1e-5)
  t.ok(s:deviation() > 1e-6 and s:deviation() < 0.05, tostring(s:deviation()))
  t.equal(model.dtype, "float32")
end)

t.test("chunks: a first small one, then what the budget holds; halves on out of memory; nothing else is "
  .. "tried again", function()
  local sizes, failing = {}, true
  local state = chunks.new { budget_bytes = 1 << 30 }
  chunks.each(state, 20, function(_, count)
    if failing and count > 3 then error("conv2d: out of memory: 1 MB requested", 0) end
    sizes[#sizes + 1] = count
  end)
  t.equal(sizes, { 2, 3, 3, 3, 3, 3, 3 })
  sizes, failing = {}, false
  chunks.each(chunks.new { budget_bytes = 1 << 30, chunk = 6 }, 20, function(_, count) sizes[#sizes + 1] = count end)
  t.equal(sizes, { 6, 6, 6, 2 })
  -- what the first chunk makes besides, once, does not shrink the later ones; budget and what is worth it both count
  for _, o in ipairs { { budget_bytes = 40 << 20 }, { budget_bytes = 1 << 30, worth_bytes = 40 << 20 } } do
    sizes = {}
    local first = true
    chunks.each(chunks.new(o), 20, function(_, count)
      local scope <close> = core.memory.scope()
      sizes[#sizes + 1] = count
      if first then torch.zeros(16 << 20) end
      first = false
      torch.zeros(count, 2 << 20) -- 8 MiB each
    end)
    t.equal(sizes, { 2, 1, 5, 5, 5, 2 })
  end
  local calls = 0
  t.fails(function()
    chunks.each(chunks.new { budget_bytes = 1 << 30 }, 20, function()
      calls = calls + 1
      error("something else", 0)
    end)
  end, "something else")
  t.equal(calls, 1)
  t.fails(function()
    chunks.each(chunks.new { budget_bytes = 1, deterministic = true }, 8, function() error("out of memory: x", 0) end)
  end,
    "explain: 8 at once do not fit into memory and the chunk is fixed. Leave deterministic out. (out of memory: x)")
end)

t.test("a real out of memory in a scorer halves its chunk and changes nothing", function()
  local model, x = tiny.model(), images(16)
  local expected = torch.no_grad(model, x)
  local s = scorer.new(model, { budget_mb = 64 })
  local make = function(first, count) return x:narrow(0, first, count) end
  s:logits(16, make) -- learns its chunk
  local largest = 0
  collectgarbage()
  collectgarbage()
  local before = core.memory.stats().limit_bytes / 2 ^ 20
  core.memory.set_limit((core.memory.stats().live_bytes + 40 * 1024) / 2 ^ 20)
  local ok, got = pcall(s.logits, s, 16, function(first, count)
    largest = math.max(largest, count)
    return x:narrow(0, first, count):clone()
  end)
  core.memory.set_limit(before)
  t.ok(ok, got)
  t.ok(distance(got, expected) < 1e-5)
  t.ok(s.kinds.input.size < largest, "the chunk was not halved")
end)

t.test("a scorer refuses a model in train mode and options that it does not know", function()
  local model = tiny.model()
  model:train()
  t.fails(function() scorer.new(model):logits(1, function() return images(1) end) end,
    "scorer: the model is in train mode (expected eval mode). Use model:eval().")
  t.fails(function() scorer.new(model, { precision = "half" }) end,
    "scorer: option 'precision' is wrong (expected 'float32' or 'bfloat16', got string 'half').")
end)

-- ---- principal components -------------------------------------------------------------------------------------------

-- (C, h, w): two orthogonal patterns of different strength, the stronger one with the given mean over channels.
local function patterns(lean)
  local a = torch.sin(torch.arange(12, { dtype = "float64" }) * 0.9):view({ 3, 4 })
  local b = torch.cos(torch.arange(12, { dtype = "float64" }) * 2.1):view({ 3, 4 })
  local channels = {}
  for c = 0, 4 do channels[c + 1] = a * (math.sin(c * 1.7) + lean) * 3 + b * math.cos(c) * 0.2 end
  return torch.stack(channels, 0), a
end

t.test("the first principal component is the SVD's, whichever side is the shorter, with the sign of the sum over "
  .. "channels", function()
  for _, shape in ipairs { { 5, 3, 4 }, { 30, 3, 4 }, { 12, 3, 4 } } do
    local n = shape[1] * 12
    local features = (torch.sin(torch.arange(n, { dtype = "float64" }) ^ 1.3) + 0.3
      * torch.sin(torch.arange(n, { dtype = "float64" }) % 12)):view(shape)
    local raw, extras = principal.project(features:unsqueeze(0))
    local X = features:reshape { shape[1], 12 }:t()
    X = X - X:mean({ 0 }, true)
    local _, s, vh = torch.linalg_svd(X, false)
    local expected = X:mv(vh:select(0, 0)):view({ 3, 4 })
    local sign = (raw:squeeze(0) * expected):sum():item() > 0 and 1 or -1
    t.ok(distance(raw:squeeze(0), expected * sign) < 1e-9)
    t.near(extras[1].facts.singular_ratio, s:tolist()[2] / s:tolist()[1], 1e-6)
    t.ok(extras[1].facts.sign_correlation >= 0)
  end
end)

t.test("a component that hardly correlates with the unsmoothed map is sign_undecided, with its facts; a turned "
  .. "product turns the map", function()
  local f = patterns(0.8)
  local raw, extras = principal.project(torch.stack({ f, -f }, 0))
  t.ok(distance(raw:select(0, 0), -raw:select(0, 1)) < 1e-9)
  t.equal({ extras[1].status, extras[2].status }, {})
  -- the last channel such that the sum over channels is small and all but orthogonal to the component
  local odd, p = f:clone(), raw:select(0, 0) - raw:select(0, 0):mean()
  local other = torch.cos(torch.arange(12, { dtype = "float64" }) * 5):view({ 3, 4 })
  other = other - p * ((other * p):sum():item() / (p * p):sum():item())
  odd:select(0, 4):copy_(odd:select(0, 4) - odd:sum({ 0 }) + 1e-3 * other)
  extras = select(2, principal.project(odd:unsqueeze(0)))
  t.equal(extras[1].status, "sign_undecided")
  t.ok(extras[1].facts.sign_correlation < 0.1)
end)

t.test("NaN makes that image's component NaN, constants give zero; compat counts NaN as 0 and keeps "
  .. "LAPACK's sign", function()
  local f = patterns(0.8)
  local broken = f:clone()
  broken:view({ -1 }):narrow(0, 7, 1):fill_(0 / 0)
  local raw, extras = principal.project(torch.stack({ broken, f, torch.ones(5, 3, 4, { dtype = "float64" }) }, 0))
  t.ok(raw:select(0, 0):isnan():all():item())
  t.ok(raw:select(0, 1):isfinite():all():item())
  t.near(raw:select(0, 2), torch.zeros(3, 4), 0)
  t.equal(extras[3].facts.singular_ratio, nil)
  local compat, more = principal.project(torch.stack({ broken, f, -f }, 0), "pytorch-grad-cam")
  t.ok(compat:isfinite():all():item())
  t.equal(more[2].status, nil)
  t.ok(math.abs(distance(compat:select(0, 1), raw:select(0, 1))) < 1e-9
    or distance(compat:select(0, 1), -raw:select(0, 1)) < 1e-9)
end)

-- ---- views, extras --------------------------------------------------------------------------------------------------

t.test("a smoothed map is the mean over six views of the same target, each turned back; plain maps come from the "
  .. "same passes", function()
  local dir, model = t.tmpdir(), tiny.model()
  local both = go(dir, { methods = { "gradcam", { "gradcam", aug_smooth = true } }, images = 2, target = "nodule" },
    6, model)
  local plain, smooth = both.records[1], both.records[2]
  t.equal({ plain.views, #smooth.views, smooth.forwards, smooth.backwards }, { nil, 6, 6, 6 })
  local raws = torch.load_npy(dir .. "/" .. smooth.files[2])
  t.equal(raws.shape, { 6, 8, 8 })
  local x, sum = tiny.split(6):batch({ 1 }).x, torch.zeros(32, 32)
  for v, view in ipairs(smooth.views) do
    local seen = (view.flip and x:flip({ 3 }) or x) * view.factor
    local got = model:forward { x = seen, outputs = { "conv2", "output" }, grad_from = { "conv2" } }
    local g = torch.autograd.grad(got.output:select(1, 1):sum(), { got.conv2 })[1]
    local raw = (g:mean({ 2, 3 }, true) * got.conv2:detach()):sum({ 1 })
    t.ok(distance(raw:squeeze(0), raws:select(0, v - 1)) < 1e-6)
    local one = map.minmax(map.resize(map.minmax(raw:relu()), 32, 32)):squeeze(0)
    sum = sum + (view.flip and one:flip({ 1 }) or one)
  end
  t.ok(distance(sum / 6, torch.load_npy(dir .. "/" .. smooth.files[1])) < 1e-5)
  t.ok(distance(raws:select(0, 1), torch.load_npy(dir .. "/" .. plain.files[2])) < 1e-6)
end)

t.test("targets are fixed on the image; in compat each view of it takes its own argmax", function()
  local seen = {}
  local function watching(key)
    return { title = key, at = "layer", needs = { gradient = true }, smoothing = { aug_smooth = true },
      map = function(ctx)
      for i = 1, ctx.count do seen[key] = (seen[key] or "") .. ctx.targets[i].index end
      return ctx:activation():sum({ 1 })
    end }
  end
  package.loaded["medxai.explain.methods.gradcam"], seen.before = watching "ours",
    package.loaded["medxai.explain.methods.gradcam"]
  local restore <close> = setmetatable({},
    { __close = function() package.loaded["medxai.explain.methods.gradcam"] = seen.before end })
  local model = tiny.model()
  torch.no_grad(function() -- the class follows the brightness
    for _, p in ipairs(model:parameters()) do
      if p.name == "fc.bias" then
        p.tensor:zero_()
        local logits = model(tiny.split(6):batch({ 1 }).x):tolist()[1]
        p.tensor:copy_(torch.tensor { 0.0, logits[1] - logits[2] - 1e-4, -100.0 })
      end
    end
  end)
  go(t.tmpdir(), { methods = { "gradcam" }, aug_smooth = true, images = 1 }, 6, model)
  t.ok(seen.ours == ("0"):rep(6) or seen.ours == ("1"):rep(6), seen.ours)
  seen.ours = nil
  go(t.tmpdir(), { methods = { "gradcam" }, aug_smooth = true, images = 1, compat = "pytorch-grad-cam" }, 6, model)
  t.ok(seen.ours:find "0" and seen.ours:find "1", "no view changed the argmax: " .. seen.ours)
end)

t.test("extras: facts go into the record, arrays into files beside the map, a status onto it; several calls "
  .. "make lists", function()
  local dir = t.tmpdir()
  local place <close> = tiny.beside(dir)
  t.write(dir .. "/talks.lua", [[return { title = "talks", at = "layer", smoothing = { aug_smooth = true }, map = function(ctx)
    local extras = {}
    for i = 1, ctx.count do
      extras[i] = { facts = { mean = ctx:activation():select(0, i - 1):mean():item(), seed = ctx:stream("talks@1", i):uniform(1):item() },
        arrays = { first = ctx:activation():select(0, i - 1):select(0, 0) }, status = ctx.items[i].id:find("1$") and "sign_undecided" or nil }
    end
    return ctx:activation():sum({ 1 }), extras
  end }]])
  local out = t.tmpdir()
  local result = go(out, { methods = { "talks" }, images = 2 })
  t.equal({ result.records[1].status, result.records[2].status }, { "sign_undecided", "ok" })
  t.equal(math.type(result.records[1].facts.mean), "float")
  local store = require("medxai.explain.store").open(out)
  local record = store.records[result.records[1].maps .. "/0000000000000001"]
  t.equal(record.arrays.first, ("maps/%s/0000000000000001.first.npy"):format(record.maps))
  t.equal(store:array(record, "first").shape, { 8, 8 })
  t.equal(store:array(record, "second"), nil)
  t.equal({ #store:raws(record), store:map(record).shape[1] }, { 1, 32 })
  local many = go(t.tmpdir(), { methods = { "talks" }, images = 1, layer = { "conv2", "conv1" },
    aug_smooth = true }).records[1]
  t.equal({ #many.facts.mean, #many.facts.seed }, { 12, 12 })
  t.ok(many.facts.seed[1] ~= many.facts.seed[3] and many.facts.seed[1] == many.facts.seed[2],
    "a view has its own numbers, the same at every layer")
  t.equal(many.facts.seed[3], result.records[1].facts.seed)
end)

t.test("a method that is not defined for a network is a status with its reason, no failure", function()
  local dir = t.tmpdir()
  local place <close> = tiny.beside(dir)
  t.write(dir .. "/never.lua", "return { title = 'never', map = function() "
    .. "require('medxai.explain.map').not_defined('it has no rectifiers') end }")
  local result, run = go(t.tmpdir(), { methods = { "never", "gradcam" }, images = 2, metrics = { "energy_inside" },
    mask = "lesion" })
  local record = result.records[1]
  t.equal({ record.status, record.problem, #record.files }, { "not_defined", "it has no rectifiers", 0 })
  t.equal({ result.summaries[1].n, result.summaries[1].undefined["map is not defined"] }, { 0, 2 })
  t.ok(table.concat(run.warnings, "\n"):find("explain: never: 2 of 2 maps are not defined %(not_defined%)"),
    table.concat(run.warnings, "\n"))
end)

t.test("one image that a researcher's method file cannot do fails alone", function()
  local dir = t.tmpdir()
  local place <close> = tiny.beside(dir)
  t.write(dir .. "/picky.lua", [[return { at = "layer", needs = { gradient = true }, map = function(ctx)
    for i = 1, ctx.count do if ctx.items[i].id:find("3$") then error("not this one") end end
    return (ctx:activation() * ctx:gradient()):sum({ 1 })
  end }]])
  local result = go(t.tmpdir(), { methods = { "picky" }, images = "all", batch = 6 })
  local words = {}
  for i, record in ipairs(result.records) do words[i] = record.status end
  t.equal(words, { "ok", "ok", "failed", "ok", "ok", "ok" })
  t.ok(result.records[3].problem:find("picky.lua:2: not this one$"), result.records[3].problem)
end)

t.test("a context's image and range undo mean and std", function()
  local split = { data = { config = { mean = { 0.5, 0.4, 0.3 }, std = { 0.25, 0.5, 1.0 } } } }
  local pixels = images(1)
  local mean, std = torch.tensor({ 0.5, 0.4, 0.3 }):view({ 1, 3, 1, 1 }),
    torch.tensor({ 0.25, 0.5, 1.0 }):view({ 1, 3, 1, 1 })
  local ctx = context.new { x = (pixels - mean) / std, split = split }
  t.ok(distance(ctx:image(), pixels) < 1e-6)
  local lo, hi = ctx:range()
  t.near(lo:flatten(), { -2, -0.8, -0.3 }, 1e-6)
  t.near(hi:flatten(), { 2, 1.2, 0.7 }, 1e-6)
  lo, hi = context.new({ x = pixels }):range()
  t.near({ lo:max():item(), hi:min():item() }, { 0, 1 }, 0)
end)

t.test("deterministic: the same bits however many images are explained, plain and smoothed", function()
  local a, b = t.tmpdir(), t.tmpdir()
  local methods = { "gradcam", { "gradcam", aug_smooth = true, eigen_smooth = true } }
  local all = go(a, { methods = methods, images = "all", deterministic = true }, 11)
  local one = go(b, { methods = { methods[2] }, images = { 10 }, deterministic = true }, 11)
  local record = all.records[20]
  t.equal(record.image_id, one.records[1].image_id)
  t.equal(t.read(a .. "/" .. record.files[2]), t.read(b .. "/" .. one.records[1].files[2]))
end)

t.test("names as people write them, and near misses with what was meant", function()
  local model = tiny.model()
  t.equal(explain.check({ methods = { "Grad-CAM" } }, model).entries[1].method.name, "gradcam")
  t.fails(function() explain.check({ methods = { sobel = { aug_smooth = true } } }, model) end,
    "sobel: unknown option 'aug_smooth'. Known: budget_mb, compat, layer, target.")
  t.equal(explain.check({ methods = { "sobel", "gradcam" }, aug_smooth = true }, model).entries[1].aug_smooth, false)
  t.fails(function() explain.check({ methods = { gradcam = { compat = "captum" } } }, model) end,
    "gradcam: option 'compat' is wrong (expected 'pytorch-grad-cam', got string 'captum').")
end)

host.options.quiet = was_quiet
