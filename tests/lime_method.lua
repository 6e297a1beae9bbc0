-- LIME as a method of run:explain over a tiny network: what is written, what is run once, draws, designs, early stop,
-- stability; the same answers for any chunk, thread count and order; what is refused.
local t = require "t"
local tiny = require "tinyexplain"
local coalitions = require "medxai.explain.lime_design"
local core = require "medxai.core"
local explain = require "medxai.steps.explain"
local files = require "medxai.base.files"
local hide = require "medxai.perturb.compose"
local host = require "medxai.host"
local regions = require "medxai.perturb.regions"
local removal = require "medxai.perturb.removal"
local scorer = require "medxai.perturb.scorer"
local surrogate = require "medxai.explain.lime_surrogate"
local torch = require "medxai.torch"
local xai = require "medxai"

host.options.quiet = true

local grid = { "grid", rows = 4, columns = 5 }

local function go(options, more)
  local scope <close> = xai.scope()
  local run = tiny.run(t.tmpdir())
  options.regions = options.regions or grid
  local asked = { methods = { lime = options }, images = 2, figures = false }
  for k, v in pairs(more or {}) do asked[k] = v end
  local result = explain.run(run, tiny.model(), tiny.split(4, asked.change),
    { methods = asked.methods, images = asked.images, figures = asked.figures, target = asked.target,
    batch = asked.batch, budget_mb = asked.budget_mb, deterministic = asked.deterministic })
  return result.records, run
end

local function array(run, record, name)
  return torch.load_npy(run.dir .. "/" .. (name and record.arrays[name] or record.files[2]))
end

local function apart(a, b) return (a - b):abs():max():item() / a:abs():max():item() end

-- What LIME must find, written out: samples one by one, no batches, no de-duplication.
local function by_hand(masks, o)
  local model, x = tiny.model(), tiny.split(4):batch({ 1 }).x
  local made = regions.of(o.regions or grid, x:select(0, 0))
  local background = removal.parse(o.removal or "segment_mean"):background(x,
    { labels = made.labels, range = { torch.zeros(1, 3, 1, 1), torch.ones(1, 3, 1, 1) } })
  local rows = {}
  for i = 0, masks:size(0) - 1 do
    local image = background:clone()
    for k = 0, made.count - 1 do
      if masks[{ i, k }]:item() == 1 then image = torch.where(made.labels:eq(k), x, image) end
    end
    rows[i + 1] = torch.no_grad(function()
      return torch.softmax(model:forward { x = image }.output:double(), 1):squeeze(0)
    end)
  end
  local y = torch.stack(rows, 0)
  local top = y:select(0, 0):argmax():item()
  return surrogate.coefficients(masks:double(), y:narrow(1, top, 1), surrogate.weights(masks:double(), 0.25), 1),
    y, made
end

t.test("raw is the weight of each pixel's region; regions, weights and facts are kept", function()
  local scope <close> = xai.scope()
  local records, run = go { samples = 150 }
  local record = records[1]
  local truth, y, made = by_hand(coalitions.draw("plain", 150, 20,
    { seed = 42, purpose = "lime@1", id = record.image_id, replicate = 0 }), {})
  local weights = array(run, record, "weights")
  t.equal(weights.shape, { 4, 20 }) -- the target and the three classes
  t.ok(apart(truth:squeeze(1), weights:select(0, 0)) < 1e-5)
  t.equal(array(run, record):tolist(), weights:select(0, 0):index_select(0,
    made.labels:view({ 32 * 32 })):view({ 32, 32 }):tolist())
  t.ok(array(run, record, "regions"):eq(made.labels):all():item())
  local f = record.facts
  t.equal({ f.regions.count, f.regions.source, f.regions.hash, f.samples, f.evaluated, f.stability_by },
    { 20, "grid(columns=5, rows=4)", made.hash, 150, 150, "resampling" })
  t.equal({ record.status, record.sign, record.target.as, record.forwards, record.rng },
    { "ok", "signed", "softmax", 150, "seed=42 purpose=lime@1 id=" .. record.image_id })
  t.near(f.labels[1].prediction, y:select(0, 0):max():item(), 1e-6)
  t.ok(f.labels[2].prediction >= f.labels[3].prediction and f.labels[3].prediction >= f.labels[4].prediction)
  t.ok(f.rank_correlation > 0 and f.rank_correlation <= 1 and f.overlap > 0 and f.overlap <= 1 and f.spread > 0)
end)

t.test("rng = 'numpy' takes lime's samples for the seed", function()
  local scope <close> = xai.scope()
  local generator = core.rng.numpy_random_state(42)
  generator:randint(0, 1000, 1)
  local truth = by_hand(coalitions.draw_numpy(generator, 120, 20), {})
  local records, run = go { samples = 120, rng = "numpy" }
  t.ok(apart(truth:squeeze(1), array(run, records[1], "weights"):select(0, 0)) < 1e-5)
end)

t.test("quickshift_seed = 'drawn' hands lime's first draw to quickshift", function()
  local drawn = core.rng.numpy_random_state(42):randint(0, 1000, 1):item()
  local x = tiny.split(4):batch({ 1 }).x:select(0, 0)
  local quick = { "quickshift", kernel_size = 1, max_dist = 3, ratio = 0.1 }
  local own, other = regions.of(quick, x).hash, regions.of(quick, x, { seed = drawn }).hash
  t.ok(own ~= other)
  for expected, o in pairs { [own] = { rng = "numpy" }, [other] = { rng = "numpy", quickshift_seed = "drawn" } } do
    o.samples, o.regions = 20, quick
    t.equal(go(o)[1].facts.regions.hash, expected)
  end
end)

t.test("more samples than there are masks: each mask is run once", function()
  local records = go { samples = 1000, regions = { "grid", rows = 2, columns = 2 } }
  t.equal({ records[1].facts.samples, records[1].facts.evaluated, records[1].forwards }, { 1000, 16, 16 })
end)

t.test("one region only is not defined, and says why; the other images go on", function()
  local records = go({ samples = 20, regions = function(image, item)
    return image:select(0, 0):ge(item.id:find "1$" and 2 or 0.5):to("int64")
  end })
  t.equal({ records[1].status, records[2].status }, { "not_defined", "ok" })
  t.ok(records[1].problem:find "^function %x+ gives one region only$", records[1].problem)
end)

t.test("the first 50 of 100 samples are the 50: a shorter run is a part of a longer one", function()
  local scope <close> = xai.scope()
  local short = coalitions.draw("plain", 50, 20,
    { seed = 42, purpose = "lime@1", id = "0000000000000001", replicate = 0 })
  local records, run = go { samples = 50 }
  t.ok(apart(by_hand(short, {}):squeeze(1), array(run, records[1], "weights"):select(0, 0)) < 1e-5)
end)

t.test("hidden regions show what removal says", function()
  local scope <close> = xai.scope()
  for _, shown in ipairs { "black", "white", "mean", "blur(9)" } do
    local masks = coalitions.draw("plain", 60, 20,
      { seed = 42, purpose = "lime@1", id = "0000000000000001", replicate = 0 })
    local records, run = go { samples = 60, removal = shown }
    t.ok(apart(by_hand(masks, { removal = shown }):squeeze(1),
      array(run, records[1], "weights"):select(0, 0)) < 1e-5, shown)
  end
end)

t.test("paired and balanced designs run in half the time what plain would, and say so in the settings", function()
  local found = {}
  for _, design in ipairs { "plain", "paired", "balanced" } do
    local records, run = go { samples = 400, design = design, regions = { "grid", rows = 3, columns = 3 } }
    found[design] = array(run, records[1], "weights"):select(0, 0)
    t.equal(records[1].settings.options.design, design)
  end
  t.ok(apart(found.plain, found.paired) < 0.2 and apart(found.plain, found.balanced) < 0.2)
end)

t.test("stop_error ends when the weights have settled, and the map is that of the samples so far", function()
  local scope <close> = xai.scope()
  local records, run = go { samples = 3000, stop_error = 0.25 }
  local f = records[1].facts
  t.ok(f.stopped and f.samples < 3000 and f.samples % 100 == 0, "stopped after " .. f.samples)
  t.ok(f.spread <= 0.25)
  local masks = coalitions.draw("plain", f.samples, 20,
    { seed = 42, purpose = "lime@1", id = records[1].image_id, replicate = 0 })
  t.ok(apart(by_hand(masks, {}):squeeze(1), array(run, records[1], "weights"):select(0, 0)) < 1e-5)
  t.equal(go { samples = 300, stop_error = 1e-6 }[1].facts.stopped, nil)
end)

t.test("stability is estimated by resampling as it is between real seeds", function()
  local estimated, seeds = go { samples = 300 }, go { samples = 300, repeats = 6 }
  local a, b = estimated[1].facts, seeds[1].facts
  t.equal({ seeds[1].facts.stability_by, seeds[1].forwards }, { "6 repeats", 6 * 300 })
  t.near(a.rank_correlation, b.rank_correlation, 0.15)
  t.near(a.spread / b.spread, 1, 0.5)
end)

t.test("repeats only measure: the map is that of the first draws", function()
  local scope <close> = xai.scope()
  local a, ra = go { samples = 60 }
  local b, rb = go { samples = 60, repeats = 2 }
  t.equal(array(ra, a[1]):tolist(), array(rb, b[1]):tolist())
end)

t.test("logits and contrasts are explained when they are the target", function()
  local scope <close> = xai.scope()
  local records, run = go({ samples = 200 }, { target = { "contrast(opacity, clear)", as = "logit" } })
  t.equal({ records[1].target.as, records[1].facts.labels[1].class, records[1].facts.labels[1].against },
    { "logit", "opacity", "clear" })
  local both, rb = go({ samples = 200 }, { target = { "opacity", as = "logit" } })
  local other, ro = go({ samples = 200 }, { target = { "clear", as = "logit" } })
  t.ok(apart(array(rb, both[1]) - array(ro, other[1]), array(run, records[1])) < 1e-6)
end)

t.test("chunks of 8 and of 64, images in reverse, one at a time: the same masks, values within the bound", function()
  local scope <close> = xai.scope()
  local model, x = tiny.model(), tiny.split(4):batch({ 1 }).x
  local masks = coalitions.draw("plain", 100, 20, { seed = 1, purpose = "lime@1", id = "a", replicate = 0 })
  local made = regions.of(grid, x:select(0, 0))
  local on = masks:to { dtype = "bool" }
  local make = function(first, count)
    return hide.images(x, torch.zeros_like(x), hide.regions(made.labels, on:narrow(0, first, count)))
  end
  local eight, many = scorer.new(model, { chunk = 8 }):logits(100, make),
    scorer.new(model, { chunk = 64 }):logits(100, make)
  t.ok(apart(eight, many) < 2e-5)
  local forth, back = {}, {}
  local a, ra = go({ samples = 80 }, { images = { 1, 2, 3 }, batch = 1 })
  local b, rb = go({ samples = 80 }, { images = { 3, 2, 1 }, deterministic = true })
  for i = 1, 3 do forth[a[i].image_id], back[b[i].image_id] = array(ra, a[i]), array(rb, b[i]) end
  for id, raw in pairs(forth) do t.ok(apart(raw, back[id]) < 2e-5, id) end
end)

t.test("one thread and two give the same masks and values within the bound", function()
  local scope <close> = xai.scope()
  local code = [[
    package.path = "]] .. t.root .. [[/tests/?.lua;" .. package.path
    local tiny, explain, host = require "tinyexplain", require "medxai.steps.explain", require "medxai.host"
    host.options.quiet = true
    local run = tiny.run("]] .. t.tmpdir() .. [[")
    local result = explain.run(run, tiny.model(), tiny.split(4), { methods = { lime = { samples = 80, regions = { "grid", rows = 4, columns = 5 } } }, images = 1, figures = false })
    local w = require("medxai.torch").load_npy(run.dir .. "/" .. result.records[1].arrays.weights)
    for _, v in ipairs(w:select(0, 0):tolist()) do print(string.format("%.17g", v)) end]]
  local out = {}
  for threads = 1, 2 do
    local child = t.run { "--threads", tostring(threads), "-e", code }
    t.equal(child.code, 0, child.err)
    out[threads] = {}
    for line in child.out:gmatch "%S+" do table.insert(out[threads], tonumber(line)) end
  end
  t.equal(#out[1], 20)
  t.ok(apart(torch.tensor(out[1]), torch.tensor(out[2])) < 2e-5)
end)

t.test("bfloat16 reports how far its logits are from float32", function()
  t.needs_bfloat16()
  local records = go { samples = 40, precision = "bfloat16" }
  local off = records[1].facts.bfloat16_deviation
  t.ok(off > 0 and off < 0.2, tostring(off))
  t.equal(go({ samples = 40 })[1].facts.bfloat16_deviation, nil)
end)

t.test("under --smoke a fiftieth of the samples is run", function()
  host.options.smoke = true
  local ok, records = pcall(go, { samples = 1000 })
  host.options.smoke = false
  if not ok then error(records, 0) end
  t.equal(records[1].facts.samples, 20)
end)

t.test("it draws a figure an image, and the map's row says how stable it is", function()
  local _, run = go({ samples = 60 }, { figures = { "own", "rows" } })
  local names = table.concat(files.list(run.dir .. "/figures"), " ")
  t.ok(names:find "lime%-%x+%-features%-0000000000000001%.svg" and names:find "features%-0000000000000002%.png", names)
  for _, name in ipairs(files.list(run.dir .. "/figures")) do
    local text = name:find "%.svg$" and t.read(run.dir .. "/figures/" .. name)
    if text then t.ok(text:find("rank r between draws", 1, true), name) end
    if text and name:find "features" then
      for _, words in ipairs { "5 of either sign", "10, rest hidden", "all weights", "LIME: 60 samples, 60 passes",
          "20 regions" } do t.ok(text:find(words, 1, true), words) end
    end
  end
end)

t.test("a broken network gives status nan, a constant one status flat", function()
  local function with(fill)
    local scope <close> = xai.scope()
    local run, model = tiny.run(t.tmpdir()), tiny.model()
    for _, p in ipairs(model:parameters()) do torch.no_grad(function() p.tensor:fill_(fill) end) end
    local ok = explain.run(run, model, tiny.split(2),
      { methods = { lime = { samples = 30, regions = grid, num_features = 3 } }, images = 1, figures = { "own" } })
    return ok.records[1]
  end
  t.equal(with(0 / 0).status, "nan")
  local flat = with(0)
  t.equal({ flat.status, flat.facts.rank_correlation }, { "flat", nil })
end)

t.test("what has no sense is refused before anything is run", function()
  local function with(o) return function() go(o) end end
  t.fails(with { sample = 5 }, "lime: unknown option 'sample'. Did you mean 'samples'?")
  t.fails(with { samples = 1 }, "lime: option 'samples' is too small (expected at least 2, got 1).")
  t.fails(with { removal = "noisy_linear(0)" },
    "lime: removal = 'noisy_linear(0)' has no background: it fills pixels from those that are kept (expected black, "
    .. "white, mean, segment_mean or blur).")
  t.fails(with { rng = "numpy", design = "paired" },
    "lime: rng = 'numpy' draws as lime does: design is 'plain' (got 'paired').")
  t.fails(with { regions = "quikshift" }, "regions: unknown source 'quikshift'. Did you mean 'quickshift'?")
  t.fails(with { feature_selection = "lasso" },
    "lime: option 'feature_selection' is wrong (expected 'auto', 'highest_weights', 'forward_selection', " ..
    "'lasso_path' or 'none', got string 'lasso'). Did you mean 'lasso_path'?")
  t.fails_like(with { regions = function() return torch.full({ 32, 32 }, 0 / 0) end },
    "regions: function %x+ gave labels that are not whole numbers%.$")
  t.fails_like(with { regions = function() error("my own mistake", 0) end }, "my own mistake")
end)
