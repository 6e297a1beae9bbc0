-- Metrics of maps: by hand on a network that is a mean, and against pytorch-grad-cam without noise; ties, masks,
-- undefined values, passes shared between metrics, a researcher's own file, and what is refused.
local t = require "t"
local tiny = require "tinyexplain"
local torch = require "medxai.torch"
local canon = require "medxai.base.json"
local contexts = require "medxai.score.context"
local explain = require "medxai.steps.explain"
local csv = require "medxai.base.csv"
local files = require "medxai.base.files"
local graph = require "medxai.nn.graph"
local host = require "medxai.host"
local measure = require "medxai.score.measure"
local metric = require "medxai.score.registry"
local ranking = require "medxai.perturb.pixel_order"

local was_quiet = host.options.quiet
host.options.quiet = true

-- ---- a network whose first logit is the mean of the red channel -----------------------------------------------------

local classes = { "red", "none" }

local function mean_model()
  local model = graph.network { name = "mean", classes = classes, size_px = 8, build = function(g, x)
    return g:linear("fc", g:flatten("flat", g:adaptive_avg_pool2d("pool", x, 1)), { 3, 2 })
  end }
  model:load_state { { name = "fc.weight",
    tensor = torch.tensor({ { 1.0, 0.0, 0.0 }, { 0.0, 0.0, 0.0 } }, { dtype = "float32" }) },
    { name = "fc.bias", tensor = torch.zeros(2) } }
  return model:eval()
end

-- The context of one metric on one map; options: x (1, 3, H, W), map (H, W), m (entry), target, masks, config.
local function context(o)
  local calls = { n = 0 }
  local scorer = { logits = function(_, n, make)
    calls.n = calls.n + n
    return torch.no_grad(function() return o.model(make(0, n)) end)
  end }
  local split = { n = 1, name = "test", data = o.config and { config = o.config } or nil }
  function split.item() return { id = o.id or "00000000000000aa", path = "made.png" } end
  function split.batch() return { x = o.x } end
  function split.mask(_, _, name) return o.masks and o.masks[name] end
  local job = { model = o.model, split = split, run = { seed = o.seed or 42 }, scorer = scorer, compat = o.compat }
  local record = { status = o.status or "ok", target = o.target
    or { kind = "class", as = "logit", class = "red", index = 0 }, image_id = split.item().id, maps = "made" }
  return contexts.new(contexts.subject(job, 1), o.map, record, o.m, o.kept or {}, o.drawn), calls
end

-- The values of a metric, as a list of numbers (NaN where undefined) with reasons.
local function values(o)
  local scope <close> = require("medxai.core").memory.scope()
  o.m = metric.entries({ o.metric }, o.mask, o.compat)[1]
  local ctx, calls = context(o)
  local out, whys = {}, {}
  local subject <close> = ctx.subject -- luacheck: ignore
  for i, r in ipairs(measure(o.m, o.map, ctx)) do out[i], whys[i] = r.value, r.why end
  return out, whys, calls.n
end

-- 4 x 4 pixels of red 1 .. 16 (and nothing else), and a map that grows with them.
local function staircase()
  local x = torch.zeros(1, 3, 4, 4)
  x[{ 0, 0 }] = torch.arange(1, 17, { dtype = "float32" }):view({ 4, 4 })
  return x, torch.arange(0, 16, { dtype = "float32" }):view({ 4, 4 }):div(15)
end

t.test("confidence change, drop and increase by hand, as logit and as probability", function()
  local x, map = staircase()
  local model, before, after = mean_model(), 136 / 16, 0
  for k = 1, 16 do after = after + k * (k - 1) / 15 / 16 end
  local function one(name, as, change)
    local o = { model = model, x = x, map = map, metric = { name, as = as } }
    if change then o.x = x * -1 end
    return values(o)[1]
  end
  t.near(one "confidence_change", after - before, 1e-5)
  t.near(one "confidence_drop", before - after, 1e-5)
  t.equal({ one "confidence_increase", one("confidence_increase", nil, true) }, { 0, 1 })
  t.equal(one("confidence_drop", nil, true), 0)
  local against = { kind = "contrast", as = "logit", class = "none", index = 1, against = "red" }
  t.near(values { model = model, x = x, map = map, metric = "confidence_change", target = against }[1],
    before - after, 1e-5)
  local function softmax(y) return 1 / (1 + math.exp(-y)) end
  t.near(one("confidence_change", "softmax"), softmax(after) - softmax(before), 1e-6)
end)

t.test("multiplication fades to the network's black; compat multiplies the input as the reference does", function()
  local _, map = staircase()
  local pixels = torch.rand(1, 3, 4, 4)
  local config = { mean = { 0.5, 0.4, 0.3 }, std = { 0.25, 0.2, 0.1 } }
  local function column(v) return torch.tensor(v, { dtype = "float32" }):view({ 1, 3, 1, 1 }) end
  local x = (pixels - column(config.mean)) / column(config.std)
  local model = mean_model()
  local red = pixels:select(1, 0):squeeze(0)
  local faded = ((red * map):mean():item() - red:mean():item()) / 0.25
  t.near(values { model = model, x = x, map = map, metric = "confidence_change", config = config }[1], faded, 1e-5)
  local raw = x:select(1, 0):squeeze(0)
  t.near(values { model = model, x = x, map = map, metric = "confidence_change", config = config,
    compat = "pytorch-grad-cam" }[1], (raw * map):mean():item() - raw:mean():item(), 1e-5)
end)

t.test("deletion and insertion by hand: a value per removal, the curve from image to background", function()
  local x, map = staircase()
  local model = mean_model()
  local function areas(name, removals, steps)
    return values { model = model, x = x, map = map, metric = { name, removal = removals, steps = steps } }
  end
  -- four steps of four pixels: 136, 136 - 58, ... taken out from the largest
  local left = { 136, 136 - 58, 136 - 100, 136 - 126, 0 }
  local area = (left[1] / 2 + left[2] + left[3] + left[4] + left[5] / 2) / 4 / 16
  local mirrored = ((136 - left[1]) / 2 + (136 - left[2]) + (136 - left[3]) + (136 - left[4]) + (136 - left[5]) / 2)
    / 4 / 16
  local mean = 8.5 -- a grey image keeps the mean at both ends
  local grey = { 0, 58 - 4 * mean, 100 - 8 * mean, 126 - 12 * mean, 0 }
  local lost = (grey[2] + grey[3] + grey[4]) / 4 / 16
  t.near(areas("deletion", { "black", "mean" }, 4), { area, mean - lost }, 1e-5)
  t.near(areas("insertion", { "mean", "black" }, 4), { mean + lost, mirrored }, 1e-5)
  local _, _, passes = areas("deletion", { "black" }, 100)
  t.equal(passes, 101)
end)

t.test("ROAD by hand: what is removed is interpolated, percentiles remove exactly their share", function()
  local x = torch.full({ 1, 3, 6, 6 }, 0.25)
  x[{ 0, 0, { 0, 6 }, 0 }]:fill_(1) -- a bright column, which the map finds
  local map = torch.zeros(6, 6)
  map[{ { 0, 6 }, 0 }]:fill_(1)
  local model = mean_model()
  local function road(name, percentiles)
    return values { model = model, x = x, map = map,
      metric = { name, percentiles = percentiles, removal = "noisy_linear(0)" } }
  end
  local p = 100 * (1 - 6 / 36) -- the six brightest pixels
  t.near(road("road_most_relevant_first", { p }), { -6 * 0.75 / 36 }, 1e-6)
  t.near(road("road_most_relevant_first", { 100, p, 0 }), { 0, -6 * 0.75 / 36, -(6 + 30 * 0.25) / 36 }, 1e-6)
  t.near(road("road_least_relevant_first", { 50 })[1] > 0 and 1 or 0, 1) -- the bright column is kept and spreads
  local both = road("road_combined", { p })[1]
  t.near(both, (road("road_least_relevant_first", { p })[1] - road("road_most_relevant_first", { p })[1]) / 2, 1e-6)
end)

t.test("metrics of one map share their passes: ROAD combined takes 2 P, and nothing more after its parts", function()
  local scope <close> = require("medxai.core").memory.scope()
  local x, map = staircase()
  local model, kept = mean_model(), {}
  local entries = metric.entries { { "road_combined", percentiles = { 20, 40, 60, 80 } },
    { "road_most_relevant_first", percentiles = { 40, 80 } }, { "road_least_relevant_first", percentiles = { 20, 50 } },
    "confidence_change", "confidence_drop", "confidence_increase" }
  -- the unchanged image once, one new percentile, one multiplication
  local subject, total, expected = nil, 0, { 8, 1, 1, 1, 0, 0 }
  for i, m in ipairs(entries) do
    local ctx, calls = context { model = model, x = x, map = map, m = m, kept = kept }
    subject = subject or ctx.subject
    ctx.subject, calls.n = subject, 0
    subject.job.scorer = { logits = function(_, n, make)
      calls.n = calls.n + n
      return torch.no_grad(function() return model(make(0, n)) end)
    end }
    measure(m, map, ctx)
    t.equal(calls.n, expected[i], m.id)
    total = total + calls.n
  end
  subject:close()
  t.equal(total, 11)
end)

-- ---- the reference ------------------------------------------------------------------------------------------------

local function formula_maps()
  local n = torch.arange(2 * 21 * 32, { dtype = "float64" })
  local m = (torch.sin(n * 0.0173 + 1) * torch.cos(n * 0.31) * 0.5 + 0.5):view({ 2, 21, 32 }):to { dtype = "float32" }
  return { m:select(0, 0):clone(), (m:select(0, 1) * 2 - 0.5):clamp(0, 1) }
end

local percentiles = { 20, 25, 40, 50, 60, 75, 80, 90 }

local function against_reference(as, image, compat, wrong_class)
  local scope <close> = require("medxai.core").memory.scope()
  local model, map = tiny.model(), formula_maps()[image]
  local index = image + (wrong_class and -1 or 0)
  local x, kept, out = tiny.images():narrow(0, image - 1, 1):to { dtype = "float32" }, {}, {}
  local function ask(value)
    local m = metric.entries({ value }, nil, compat)[1]
    local ctx = context { model = model, x = x, map = map, m = m, kept = kept, compat = compat,
      target = { kind = "class", as = as, class = tiny.classes[index + 1], index = index } }
    local list = {}
    local subject <close> = ctx.subject -- luacheck: ignore
    for i, r in ipairs(measure(m, map, ctx)) do list[i] = r.value end
    kept["order within nil"] = nil -- it ends with the subject, of which each call here makes a new one
    return list
  end
  for _, name in ipairs { "confidence_change", "confidence_drop",
      "confidence_increase" } do out[name] = ask(name)[1] end
  for _, which in ipairs { "most", "least" } do
    for i, v in ipairs(ask { "road_" .. which .. "_relevant_first", percentiles = percentiles,
        removal = "noisy_linear(0)" }) do
      out[which .. " " .. percentiles[i]] = v
    end
  end
  for _, list in ipairs { { 25, 50, 75 }, { 20, 40, 60, 80 } } do
    out["combined " .. table.concat(list, ",")] = ask { "road_combined", percentiles = list,
      removal = "noisy_linear(0)" }[1]
  end
  return out
end

t.test("all metrics equal pytorch-grad-cam's with compat, as logit and probability, on maps with and without "
  .. "plateaus", function()
  local reference = canon.read(t.read(t.root .. "/tests/reference/cam_metrics.json"), "cam_metrics.json")
  for _, as in ipairs { "logit", "softmax" } do
    for image = 1, 2 do
      local ours, compared = against_reference(as, image, "pytorch-grad-cam"), 0
      for name, both in pairs(reference[as]) do
        t.near(ours[name], both[image], 1e-6, as .. " " .. name .. " of image " .. image)
        compared = compared + 1
      end
      t.equal(compared, 21)
    end
  end
end)

t.test("without ties the default is the reference's too; a plateau is cut at its share instead of whole", function()
  local reference = canon.read(t.read(t.root .. "/tests/reference/cam_metrics.json"), "cam_metrics.json").logit
  local smooth, flat = against_reference("logit", 1), against_reference("logit", 2)
  for name, both in pairs(reference) do t.near(smooth[name], both[1], 1e-6, name) end
  -- the percentile lies on the plateau at 1, a fifth of the map: there all of it is removed
  t.ok(math.abs(flat["most 90"] - reference["most 90"][2]) > 1e-4)
  local wrong = against_reference("logit", 1, "pytorch-grad-cam", true)
  t.ok(math.abs(wrong["most 50"] - reference["most 50"][1]) > 1e-3) -- a mutant: another class
end)

-- ---- ranking -----------------------------------------------------------------------------------------------------

local function stream(id) return require("medxai.core").rng.stream { seed = 42, purpose = "ties@1", id = id } end

t.test("percentile masks take exactly the share, ties in a keyed random order; the reference's threshold takes "
  .. "plateaus whole", function()
  local map = torch.zeros(10, 10)
  map[{ { 0, 2 }, { 0, 10 } }] = torch.arange(1, 21, { dtype = "float32" }):view({ 2, 10 })
  local order = ranking.order(map, stream "a")
  t.equal(order:narrow(0, 0, 20):tolist(), { 19, 18, 17, 16, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0 })
  local keep = ranking.without(order, 50, "most", 10, 10)
  t.equal(keep:sum():item(), 50)
  t.equal(keep[{ { 0, 2 } }]:sum():item(), 0)
  local rest = keep[{ { 2, 10 } }]:to { dtype = "float32" }:sum({ 1 }):tolist() -- spread over rows, not cut at one
  for _, v in ipairs(rest) do t.ok(v > 2 and v < 10, "a row of ties keeps " .. v) end
  t.equal(ranking.without(order, 50, "least", 10, 10):logical_not():eq(keep):all():item(), true)
  t.equal(ranking.order(map, stream "a"):eq(order):all():item(), true)
  t.equal(ranking.order(map, stream "b"):eq(order):all():item(), false)
  t.equal(ranking.below(map, 50, "most"):sum():item(), 0) -- the percentile is 0: nothing lies below
  t.equal(ranking.below(map, 90, "most"):sum():item(), 90)
  t.near(ranking.percentile(map, 85), 5.15, 1e-12)
  t.equal(ranking.order(torch.ones(3, 3), stream "a"), nil)
  local within = torch.zeros(10, 10, { dtype = "bool" })
  within[{ { 0, 2 }, { 0, 5 } }]:fill_(true)
  t.equal(ranking.order(map, stream "a", within):tolist(), { 14, 13, 12, 11, 10, 4, 3, 2, 1, 0 })
end)

t.test("within: only pixels of the mask are ranked, removed, multiplied and counted", function()
  local x, map = staircase()
  local model, mask = mean_model(), torch.zeros(4, 4, { dtype = "uint8" })
  mask[{ { 0, 2 }, { 0, 4 } }]:fill_(1) -- red 1 .. 8
  local function one(m)
    return values { model = model, x = x, map = map, metric = m,
      masks = { lungs = mask, lesion = torch.ones(4, 4, { dtype = "uint8" }) } }[1]
  end
  local change = 0
  for k = 1, 8 do change = change + (k * (k - 1) / 15 - k) / 16 end
  t.near(one { "confidence_change", within = "lungs" }, change, 1e-5)
  local left = { 136, 136 - 15, 136 - 26, 136 - 33, 136 - 36 }
  t.near(one { "deletion", removal = { "black" }, steps = 4, within = "lungs" },
    (left[1] / 2 + left[2] + left[3] + left[4] + left[5] / 2) / 4 / 16, 1e-5)
  t.near(one { "road_most_relevant_first", percentiles = { 100 }, within = "lungs" }, 0, 1e-9)
  local inside = torch.zeros(4, 4, { dtype = "uint8" })
  inside[{ 1, 3 }] = 1
  local o = { model = model, x = x, map = map, metric = { "energy_inside", within = "lungs" }, mask = "lesion",
    masks = { lungs = mask, lesion = inside } }
  t.near(values(o)[1], 7 / 28, 1e-6) -- not of the energy outside the lungs
  o.metric = { "pointing_game", within = "lungs", margin_px = 0 }
  t.equal(values(o)[1], 1) -- the maximum within the lungs
end)

-- ---- undefined, own files, refusals ---------------------------------------------------------------------------------

t.test("what has no answer is undefined, with its reason", function()
  local x, map = staircase()
  local model = mean_model()
  local function why(m, o)
    o = o or {}
    local list, whys = values { model = model, x = x, map = o.map or map, metric = m, status = o.status,
      masks = o.masks, compat = o.compat }
    for _, v in ipairs(list) do t.ok(v ~= v) end
    return whys[1], #list
  end
  local flat = { map = torch.zeros(4, 4) }
  t.equal({ why("road_combined", flat) }, { "map without contrast", 1 })
  t.equal({ why("road_most_relevant_first", flat) }, { "map without contrast", 3 })
  t.equal({ why("deletion", flat) }, { "map without contrast", 2 })
  t.equal(why("confidence_change", flat), "map without energy")
  t.equal(why("confidence_drop", flat), "map without energy")
  t.equal(why("confidence_increase", { status = "nan" }), "map is nan")
  t.equal({ why("insertion", { status = "not_defined" }) }, { "map is not defined", 2 })
  t.equal(why { "deletion", within = "lungs" }, "no mask 'lungs'")
  t.equal(why({ "deletion", within = "lungs" }, { masks = { lungs = torch.zeros(4, 4) } }), "empty mask 'lungs'")
  -- the reference has an answer
  t.near(values { model = model, x = x, map = flat.map, metric = "confidence_change", compat = "pytorch-grad-cam" }[1],
    -8.5, 1e-6)
end)

t.test("a score that is not a number is undefined for metrics that count images too", function()
  local x, map = staircase()
  local model, nan = mean_model(), 0 / 0
  model:load_state { { name = "fc.weight",
    tensor = torch.tensor({ { nan, 0.0, 0.0 }, { 0.0, 0.0, 0.0 } }, { dtype = "float32" }) },
    { name = "fc.bias", tensor = torch.zeros(2) } }
  for _, name in ipairs { "confidence_change", "confidence_drop", "confidence_increase", "prediction_changed" } do
    local list, whys = values { model = model, x = x, map = map, metric = name }
    t.near(list, { nan }, 0, name)
    t.equal(whys[1], "not a number", name)
  end
end)

t.test("prediction changed within a mask takes out what is marked there, and nothing marked there is "
  .. "undefined", function()
  local x, model = torch.ones(1, 3, 4, 4), mean_model()
  x[{ 0, 0 }] = -1
  x[{ 0, 0, 0 }]:fill_(10) -- the first row alone makes it red
  local marked, upper, lower = torch.zeros(4, 4), torch.zeros(4, 4, { dtype = "uint8" }),
    torch.zeros(4, 4, { dtype = "uint8" })
  marked[{ { 0, 2 } }]:fill_(1)
  upper[{ { 1, 2 } }]:fill_(1)
  lower[{ { 2, 4 } }]:fill_(1)
  local function one(within)
    return values { model = model, x = x, map = marked,
      metric = { "prediction_changed", removal = "black", within = within }, masks = { upper = upper, lower = lower } }
  end
  t.equal({ one()[1], one("upper")[1] }, { 1, 0 }) -- the row that decides lies outside
  local list, whys = one "lower"
  t.near(list, { 0 / 0 }, 0)
  t.equal(whys[1], "nothing is marked")
end)

local function go(dir, options, n)
  local run = tiny.run(dir)
  options.figures = options.figures or false
  local scope <close> = require("medxai.core").memory.scope()
  return explain.run(run, tiny.model(), tiny.split(n or 3), options), run
end

t.test("long rows for any metric: unit by target, one id a value, undefined ones counted", function()
  local dir = t.tmpdir()
  local result = go(dir, { methods = { "gradcam", "sobel" }, images = "all", target = { "predicted", as = "softmax" },
    metrics = { { "road_most_relevant_first", percentiles = { 50, 75 } }, { "road_combined", as = "logit" },
      { "deletion", steps = 2, removal = { "black", "blur(5)" } } } })
  local rows, seen = csv.read(dir .. "/scores.csv"), {}
  t.equal(#rows, 3 * 2 * 5)
  for _, row in ipairs(rows) do seen[row.metric] = row.unit end
  t.equal(seen, { ["road_most_relevant_first@1 removal=noisy_linear(0.01) percentile=50"] = "probability",
    ["road_most_relevant_first@1 removal=noisy_linear(0.01) percentile=75"] = "probability",
    ["road_combined@1 percentiles=25,50,75 removal=noisy_linear(0.01) as=logit"] = "logit",
    ["deletion@1 steps=2 removal=black"] = "probability", ["deletion@1 steps=2 removal=blur(5,5)"] = "probability" })
  t.equal({ rows[1].image_id, rows[1].method, rows[2].method, rows[1].target, rows[1].status, rows[1].seed },
    { "0000000000000001", "gradcam", "sobel", "predicted (softmax)", "ok", "42" })
  t.equal(#result.summaries, 10)
end)

t.test("maps of a logit and of a probability are scored in different numbers: no table, chart or line "
  .. "mixes them", function()
  local dir = t.tmpdir()
  local result = go(dir, { methods = { "gradcam", { "layercam", target = { "predicted", as = "softmax" } }, "sobel" },
    images = 2, figures = { "charts", "table" },
    metrics = { "confidence_change", { "road_most_relevant_first", percentiles = { 50, 75 } },
      { "deletion", steps = 2, removal = { "black" }, as = "softmax" } } })
  local told = {}
  for i, group in ipairs(require("medxai.score.summary").comparable(result.summaries)) do
    told[i] = { group[1].title, group[1].unit, #group }
  end
  t.equal(told, { { "confidence change", "logit", 2 }, { "confidence change", "probability", 1 },
    { "ROAD, most relevant first", "logit", 2 }, { "ROAD, most relevant first", "probability", 1 },
    { "ROAD, most relevant first", "logit", 2 }, { "ROAD, most relevant first", "probability", 1 },
    { "deletion", "probability", 3 } })
  local charts, page = {}, {}
  for _, f in ipairs(result.figures) do charts[f.kind] = (charts[f.kind] or 0) + 1 end
  t.equal(charts, { score = 5, scores = 1 })
  require("medxai.show.report_explain").put({ dir = dir, explanations = { { result = result } } },
    { put = function(_, ...) page[#page + 1] = string.format(...) end, figure = function() end,
    interval = function() return "" end })
  page = table.concat(page)
  t.ok(page:find("confidence change<br><span class=\"note\">logit, ", 1, true)
    and page:find("confidence change<br><span class=\"note\">probability, ", 1, true), page)
end)

t.test("scores do not depend on batch or order of images", function()
  local function scores(options)
    local dir, list = t.tmpdir(), {}
    options.methods, options.metrics = { "gradcam" },
      { "road_combined", { "insertion", steps = 5 }, "confidence_change" }
    go(dir, options, 5)
    for _, row in ipairs(csv.read(dir .. "/scores.csv")) do list[row.image_id .. row.metric] = tonumber(row.value) end
    return list
  end
  local a, b = scores { images = { 1, 2, 3, 4, 5 }, batch = 5 }, scores { images = { 5, 3, 1, 2, 4 }, batch = 1 }
  local n = 0
  for key, v in pairs(a) do
    -- a batch's rounding swaps neighbours in a ranking of pixels
    t.near(b[key], v, key:find "confidence_change" and 1e-5 or 1e-3, key)
    n = n + 1
  end
  t.equal(n, 20)
end)

t.test("a researcher's own metric is one file; what it computed is kept for the next start", function()
  local calls = 0
  rawset(_G, "count_call", function() calls = calls + 1 end)
  local place <close> = tiny.beside { mean_inside = [[
    -- The mean of the map where the image is bright.
    return { title = "mean on bright", direction = "higher", unit = "share", needs = { model = true }, options = { above = { "number", default = 0.5 } },
      measure = function(map, ctx, options)
        count_call()
        local bright = ctx:image():mean({ 1 }):squeeze(0):gt(options.above)
        if not bright:any():item() then return nil, nil, "nothing bright" end
        return map:masked_select(bright):mean():item(), map:mean():item()
      end }]] }
  local dir = t.tmpdir()
  local result = go(dir, { methods = { "gradcam" }, images = 3, metrics = { { "mean_inside", above = 0.9 } } })
  t.equal(#result.summaries, 1)
  t.ok(result.summaries[1].metric:find("^mean_inside@0 above=0%.9 source=%x%x%x%x%x%x%x%x$"),
    result.summaries[1].metric)
  t.equal({ result.summaries[1].n, calls }, { 3, 3 })
  t.write(dir .. "/scores.csv", t.read(dir .. "/scores.csv"):sub(1, -20)) -- killed while the last line was written
  local again = go(dir, { methods = { "gradcam" }, images = "all", metrics = { { "mean_inside", above = 0.9 } } }, 4)
  t.equal({ again.summaries[1].n, calls }, { 4, 5 }) -- two known, the torn one and the new one computed
  t.equal(#csv.read(dir .. "/scores.csv"), 4)
  rawset(_G, "count_call", nil)
end)

t.test("an interrupt while judging keeps the images that were done", function()
  local seen, before = 0, host.interrupted
  rawset(_G, "on_call", function()
    seen = seen + 1
    if seen == 3 then
      host.interrupted = function() return "SIGINT" end
      error("interrupted", 0)
    end
  end)
  local place <close> = tiny.beside { stops_here = 'return { needs = { model = true }, measure = function(map) '
    .. 'on_call() return map:mean():item() end }' }
  local restore <close> = setmetatable({}, { __close = function()
    host.interrupted = before
    rawset(_G, "on_call", nil)
  end })
  local dir = t.tmpdir()
  t.fails(function() go(dir, { methods = { "gradcam" }, images = 3, metrics = { "stops_here" } }) end, "interrupted")
  t.equal(#csv.read(dir .. "/scores.csv"), 2)
  host.interrupted = before
  local result = go(dir, { methods = { "gradcam" }, images = 3, metrics = { "stops_here" } })
  t.equal({ result.summaries[1].n, seen }, { 3, 4 }) -- the third alone was still to do
end)

t.test("experiments/my_metric.lua, the example of an own metric: the Gini index by hand, and in a run", function()
  local place <close> = tiny.beside(t.root .. "/experiments")
  local m = metric.entries { "my_metric" }[1]
  local function gini(list) return measure(m, torch.tensor({ list }, { dtype = "float32" }), { status = "ok" })[1] end
  t.near(gini { 1, 1, 1, 1 }.value, 0, 1e-9)
  t.near(gini { 0, 0, 0, 1 }.value, 0.75, 1e-9)
  t.near(gini { 1, 2, 3, 4 }.value, 0.25, 1e-9)
  t.near({ gini({ 0, 0 }).value, gini({ 1 }).chance }, { 0 / 0, 1 / 3 }, 1e-9)
  local result = go(t.tmpdir(), { methods = { "gradcam" }, images = 2, metrics = { { "my_metric", below = 0.1 } } })
  t.ok(result.summaries[1].metric:find("^my_metric@1 below=0%.1 source="), result.summaries[1].metric)
  t.equal({ result.summaries[1].n, result.summaries[1].unit }, { 2, "Gini index" })
end)

t.test("an own metric that fails leaves undefined values and a warning; the rest goes on", function()
  local place <close> = tiny.beside {
    raises_here = 'return { title = "x", measure = function() error("no luck") end }',
    wrong_number = 'return { values = function() return { "a", "b" } end, measure = function() return { 1 } end }',
    text_value = 'return { measure = function() return "one" end }',
    of_chance = 'return { measure = function() return 1, "half" end }',
    tensor_value = 'return { measure = function(map) return map:mean() end }',
    half_version = 'return { version = 1.5, measure = function() return 1 end }', no_measure = 'return { title = "x" }',
    up = 'return { direction = "up", measure = function() return 1 end }' }
  local result, run = go(t.tmpdir(), { methods = { "gradcam" }, images = 2,
    metrics = { "raises_here", "wrong_number", "text_value", "confidence_change" } })
  local counts = {}
  for _, s in ipairs(result.summaries) do counts[#counts + 1] = { s.n, s.undefined.failed } end
  t.equal(counts, { { 0, 2 }, { 0, 2 }, { 0, 2 }, { 0, 2 }, { 2 } })
  local told = table.concat(run.warnings, "\n")
  t.ok(told:find("explain: metric raises_here failed, first on 'folder/image 1.png': [^\n]*no luck"), told)
  t.ok(told:find("explain: metric 'wrong_number' returned 1 values %(expected 2 numbers, as its "
    .. "values%(%) says%)"), told)
  t.ok(told:find("explain: metric 'text_value' returned a string %(expected a number%)"), told)
  local more, again = go(t.tmpdir(), { methods = { "gradcam" }, images = 1, metrics = { "of_chance", "tensor_value" } })
  t.equal({ more.summaries[1].n, more.summaries[2].n }, { 0, 0 })
  told = table.concat(again.warnings, "\n")
  t.ok(told:find("metric 'of_chance' returned a string as its level of chance %(expected a number or nil%)"), told)
  t.ok(told:find("metric 'tensor_value' returned a tensor, whose number is tensor:item%(%) %(expected a "
    .. "number%)"), told)
  t.fails(function() metric.entries { "half_version" } end,
    "explain: metric 'half_version': version is a whole number (got 1.5).")
  t.fails(function() metric.entries { "no_measure" } end,
    "explain: metric 'no_measure' has no measure (expected a table with measure = function(map, ctx)).")
  t.fails(function() metric.entries { "up" } end,
    "explain: metric 'up': direction is 'higher', 'lower' or 'none' (got 'up').")
end)

t.test("an own metric that works in place changes nothing for the others", function()
  local place <close> = tiny.beside { in_place = 'return { needs = { mask = true }, measure = function(map, ctx) '
    .. 'map:zero_() ctx.x:zero_() ctx.mask:zero_() return 1 end }' }
  local function means_beside(first)
    local result = go(t.tmpdir(), { methods = { "gradcam" }, images = 2, mask = "lesion",
      metrics = { first, "confidence_change", "energy_inside", "deletion" } })
    local list = {}
    for i = 2, #result.summaries do list[i - 1] = result.summaries[i].mean end
    return list
  end
  t.equal(means_beside "in_place", means_beside "pointing_game")
end)

t.test("wrong settings are refused before anything is computed", function()
  local function refused(list, message, mask) t.fails(function() metric.entries(list, mask) end, message) end
  refused({ { "road_combined", percentiles = { 25, 101 } } },
    "road_combined: a percentile is a number from 0 to 100 (got 101).")
  refused({ { "road_combined", percentiles = {} } },
    "road_combined: percentiles is an empty list (expected numbers from 0 to 100).")
  refused({ { "road_most_relevant_first", percentiles = { 25, 25 } } },
    "road_most_relevant_first: percentile 25 is listed twice.")
  refused({ { "road_combined", removal = "noisy" } },
    "removal: unknown removal 'noisy' (expected black, white, mean, segment_mean, blur(k), blur(kx, ky) or "
    .. "noisy_linear(sigma)).")
  refused({ { "deletion", removal = { "noisy_linear" } } },
    "deletion: 'noisy_linear(0.01)' is no background (expected black, white, mean or blur).")
  refused({ { "deletion", removal = { "blur(3)", "blur(3,3)" } } }, "deletion: removal 'blur(3,3)' is listed twice.")
  refused({ { "road_combined", removal = "segment_mean" } },
    "road_combined: 'segment_mean' needs regions, which there are none here (expected black, white, mean, blur or "
    .. "noisy_linear).")
  refused({ { "prediction_changed", removal = "segment_mean" } },
    "prediction_changed: 'segment_mean' needs regions, which there are none here (expected black, white, mean, blur "
    .. "or noisy_linear).")
  refused({ { "insertion", removal = {} } }, "insertion: removal is an empty list (expected { \"black\", "
    .. "\"blur(31)\" } or the like).")
  refused({ { "insertion", steps = 0 } }, "insertion: option 'steps' is too small (expected at least 1, got 0).")
  refused({ { "confidence_change", as = "odds" } },
    "confidence_change: option 'as' is wrong (expected 'logit' or 'softmax', got string 'odds').")
  refused({ "deletion", "deletion" }, "explain: metric 'deletion@1 steps=100 removal=black' is asked for twice with "
    .. "the same settings.")
  refused({ "road" }, "explain: unknown metric 'road'. Did you mean 'road_combined', 'road_most_relevant_first' or "
    .. "'road_least_relevant_first'?")
  t.fails(function() go(t.tmpdir(), { methods = { "gradcam" }, metrics = { { "deletion", within = "heart" } } }) end,
    "dataset: unknown mask 'heart'. Known: lesion.")
end)

t.test("Sobel below a percentile keeps exactly that share of each image; with compat what lies "
  .. "strictly below", function()
  local ctx = { count = 2, seed = 42, items = { { id = "a" }, { id = "b" } },
    image = function() return tiny.split(2):batch({ 1, 2 }).x end }
  local edges = require "medxai.explain.methods.sobel".map(ctx)
  local below = require "medxai.explain.methods.sobel_below"
  for _, p in ipairs { 25, 50, 75, 90 } do
    local masks = below.map(ctx, nil, nil, { percentile = p })
    t.equal(masks:sum({ 1, 2 }):tolist(), { math.ceil(1023 * p / 100), math.ceil(1023 * p / 100) })
    for i = 0, 1 do -- nothing kept is stronger than anything dropped
      local kept = masks:select(0, i):gt(0)
      t.ok(edges:select(0, i):masked_select(kept):max():item() <= edges:select(0,
        i):masked_select(kept:logical_not()):min():item())
    end
    ctx.compat = "pytorch-grad-cam"
    local strict = below.map(ctx, nil, nil, { percentile = p })
    for i = 0, 1 do
      local e = edges:select(0, i)
      t.equal(strict:select(0, i):sum():item(), e:lt(ranking.percentile(e, p)):sum():item())
    end
    ctx.compat = nil
  end
end)

host.options.quiet = was_quiet
