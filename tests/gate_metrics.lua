-- The metrics of run:compare through whole calls on tiny networks: reference values of shared/spec/comparison.md,
-- section 13, mistakes of other libraries (section 14), undefined cases, shared perturbations, and batches.
local t = require "t"
local tiny = require "tinyexplain"
local torch = require "medxai.torch"
local contexts = require "medxai.score.context"
local core = require "medxai.core"
local csv = require "medxai.base.csv"
local explain = require "medxai.steps.explain"
local files = require "medxai.base.files"
local frame = require "medxai.score.frame"
local host = require "medxai.host"
local metric = require "medxai.score.registry"
local perturbed = require "medxai.score.perturbed"
local scorer = require "medxai.perturb.scorer"

local was_quiet = host.options.quiet
host.options.quiet = true

local nan = 0 / 0

-- ---- a made network: its first logit is a function of the image's red channel --------------------------------

-- What a metric gives; o: x (1, 3, H, W), map, metric, logit(red: flat list) -> number, masks, mask, method
-- (derivative).
local function context(o)
  local calls = { n = 0, images = {} }
  local function logits(_, n, make)
    local rows = {}
    for k = 0, n - 1 do
      local red = make(k, 1):select(1, 0):to { dtype = "float64" }:flatten():tolist()
      calls.n, calls.images[#calls.images + 1] = calls.n + 1, red
      rows[k + 1] = { o.logit(red), 0 }
    end
    return torch.tensor(rows, { dtype = "float64" })
  end
  local split = { n = 1, name = "test" }
  function split.item() return { id = o.id or "00000000000000aa", path = "made.png" } end
  function split.batch() return { x = o.x } end
  function split.mask(_, _, name) return o.masks and o.masks[name] end
  local model = { dtype = "float64", classes = { "red", "none" }, device = "cpu" }
  local job = { model = model, split = split, run = { seed = o.seed or 42 }, scorer = { logits = logits } }
  if o.raw then job.store = { raws = function() return { o.raw } end } end
  local record = { status = o.status or "ok", target = { kind = "class", as = o.as or "logit", class = "red",
    index = 0 },
    image_id = split.item().id, maps = "made", derivative = o.of_record }
  local subject = o.subject or contexts.subject(job, 1)
  local m = metric.entries({ o.metric }, o.mask)[1]
  local entry = o.derivative and { method = { derivative = true } } or nil
  return m, contexts.new(subject, o.map, record, m, {}, nil, entry), subject, calls
end

local function value(o)
  local scope <close> = core.memory.scope() -- luacheck: ignore
  local m, ctx, subject, calls = context(o)
  local found = require("medxai.score.measure")(m, o.map, ctx)
  if not o.subject then subject:close() end
  return found[1].value, found[1].why, calls
end

-- An image of red 1 in one row, and a map of these numbers.
local function row_of(list) return torch.tensor({ list }, { dtype = "float64" }) end
local function red_row(list)
  local x = torch.zeros(1, 3, 1, #list, { dtype = "float64" })
  x[{ 0, 0 }] = row_of(list)
  return x
end

local function golden(got, want, what) t.near(got, want, 1e-9 * math.abs(want), what) end

local cells5 = { "grid", rows = 1, columns = 5 }

t.test("faithfulness estimate of the whole metric equals the reference value", function()
  local w = { 0.2, 0.1, 0.01, -0.03, 0.12 }
  local function logit(red)
    local sum = 0.0
    for i, v in ipairs(red) do sum = sum + w[i] * v end
    return sum
  end
  local o = { x = red_row { 1, 1, 1, 1, 1 }, map = row_of { 3, 1, 0, -1, 2 }, logit = logit,
    metric = { "faithfulness_estimate", regions = cells5, removal = "black" } }
  golden(value(o), 0.986283169794)
end)

-- Runs f with these sets instead of the drawn ones.
local function with_sets(sets, f)
  local drawn = perturbed.sets
  local restore <close> = setmetatable({}, { __close = function() perturbed.sets = drawn end }) -- luacheck: ignore
  perturbed.sets = function() return sets end
  return f()
end

t.test("faithfulness correlation of the whole metric equals the reference value", function()
  local drops = { ["01"] = 0.30, ["23"] = 0.02, ["04"] = 0.42, ["13"] = -0.05, ["34"] = 0.08, ["02"] = 0.25 }
  local function logit(red)
    local gone = ""
    for i, v in ipairs(red) do gone = v == 0 and gone .. i - 1 or gone end
    return 1 - (drops[gone] or 0)
  end
  local o = { x = red_row { 1, 1, 1, 1, 1 }, map = row_of { 3, 1, 0, -1, 2 }, logit = logit,
    metric = { "faithfulness_correlation", regions = cells5, removal = "black", sets = 6, share = 0.4 } }
  local sets = { { 1, 2 }, { 3, 4 }, { 1, 5 }, { 2, 4 }, { 4, 5 }, { 1, 3 } }
  with_sets(sets, function() golden(value(o), 0.963635356274) end)
end)

-- A linear network of 8 x 8 pixels and its weights as a map.
local function linear(scale)
  local w, x = {}, torch.rand(1, 3, 8, 8, { dtype = "float64" })
  for i = 1, 64 do w[i] = math.sin(i * 0.7) end
  local function logit(red)
    local sum = 0.0
    for i, v in ipairs(red) do sum = sum + w[i] * v end
    return sum
  end
  local weights = torch.tensor(w, { dtype = "float64" }):view({ 8, 8 })
  return { x = x, logit = logit, map = (weights * x[{ 0, 0 }] * (scale or 1)), weights = weights }
end

t.test("infidelity: 0 for exact maps at any scale (Quantus scores gradient x 100 at 70,939), 1 for "
  .. "inverted ones", function()
  local metric_of = { "infidelity", regions = { "grid", rows = 4, columns = 4 }, removal = "black" }
  for _, scale in ipairs { 1, 100, 1e-6 } do
    local o = linear(scale)
    o.metric = metric_of
    t.near(value(o), 0, 1e-12)
  end
  local inverted = linear(-1)
  inverted.metric = metric_of
  t.equal(value(inverted), 1)
end)

t.test("infidelity of a derivative uses each pixel's change and signed raw values", function()
  local o = linear()
  o.x[{ 0, 1 }], o.x[{ 0, 2 }] = o.x[{ 0, 0 }], o.x[{ 0, 0 }] -- gray: one change for all channels
  o.metric, o.raw = { "infidelity", removal = "black" }, o.weights * 3
  o.map = o.weights:clamp_min(0) -- what is shown
  local shown = value(o)
  o.derivative = true
  t.near(value(o), 0, 1e-12)
  t.ok(shown > 0.01, shown)
  o.derivative, o.of_record = nil, true -- another patient's map, whose method is not at hand: judged in the same way
  t.near(value(o), 0, 1e-12)
end)

t.test("infidelity by hand: squared error at the best scale over the squared drops", function()
  local o, u, d = linear(), {}, {}
  o.map = o.map:abs()
  o.metric = { "infidelity", regions = { "grid", rows = 4, columns = 4 }, removal = "mean", sets = 40 }
  local sets = perturbed.sets(42, "00000000000000aa", 16, { sets = 40, share = 0.2 })
  local red, map = o.x[{ 0, 0 }]:flatten():tolist(), o.map:flatten():tolist()
  local mean, base = 0.0, o.logit(red)
  for _, v in ipairs(red) do mean = mean + v / 64 end
  for k, set in ipairs(sets) do
    t.equal(#set, 4) -- ceil(16 / 5)
    local inside = {}
    for _, r in ipairs(set) do inside[r] = true end
    local without = {}
    u[k] = 0.0
    for i, v in ipairs(red) do
      local y, x = (i - 1) // 8, (i - 1) % 8
      local gone = inside[y // 2 * 4 + x // 2 + 1]
      without[i] = gone and mean or v
      u[k] = u[k] + (gone and map[i] or 0)
    end
    d[k] = base - o.logit(without)
  end
  local uu, ud, dd, miss = 0.0, 0.0, 0.0, 0.0
  for k in ipairs(u) do uu, ud, dd = uu + u[k] ^ 2, ud + u[k] * d[k], dd + d[k] ^ 2 end
  for k in ipairs(u) do miss = miss + (math.max(0, ud / uu) * u[k] - d[k]) ^ 2 end
  t.near(value(o), miss / dd, 1e-9)
end)

t.test("sets are keyed by the image, a fifth of the regions; the first 20 of 200 are the same 20", function()
  local sets = perturbed.sets(42, "a", 64, { sets = 200, share = 0.2 })
  t.equal({ #sets, #sets[1] }, { 200, 13 })
  for _, set in ipairs(sets) do
    for i = 2, #set do t.ok(set[i] > set[i - 1] and set[i] <= 64 and set[1] >= 1) end
  end
  local few, other = perturbed.sets(42, "a", 64, { sets = 20, share = 0.2 }), perturbed.sets(42, "b", 64, { sets = 20,
    share = 0.2 })
  t.equal(few, table.move(sets, 1, 20, 1, {}))
  t.ok(table.concat(few[1], " ") ~= table.concat(other[1], " "))
  t.equal(#perturbed.sets(42, "a", 3, { sets = 2, share = 0.2 })[1], 1)
end)

t.test("an image is perturbed once for all maps and metrics", function()
  local scope <close> = core.memory.scope() -- luacheck: ignore
  local o = linear()
  o.x = torch.rand(1, 3, 16, 16, { dtype = "float64" })
  o.logit = function(red) return red[1] + 2 * red[200] * red[17] end
  local counted
  for _, name in ipairs { "faithfulness_correlation", "infidelity", "faithfulness_estimate" } do
    for _ = 1, 3 do
      o.metric, o.map = name, torch.rand(16, 16)
      local m, ctx, subject, calls = context(o)
      counted, o.subject = counted or calls, subject -- the first one's scorer serves the image to the end
      t.equal(require("medxai.score.measure")(m, o.map, ctx)[1].why, nil)
    end
  end
  o.subject:close()
  t.equal(counted.n, 265)
end)

t.test("with `within`, nothing outside the mask is removed or counted", function()
  local o = linear()
  local inside = torch.zeros(8, 8, { dtype = "uint8" })
  inside[{ { 0, 4 } }]:fill_(1)
  local seen = {}
  local plain = o.logit
  o.logit = function(red)
    seen[#seen + 1] = table.concat(red, " ", 33)
    return plain(red)
  end
  o.masks = { lungs = inside }
  o.metric = { "faithfulness_estimate", within = "lungs", removal = "black" }
  t.near(value(o), 1, 1e-9)
  t.equal(#seen, 33) -- the image, and 32 regions of one pixel
  for _, half in ipairs(seen) do t.equal(half, seen[1]) end
  o.map[{ { 4, 8 } }]:fill_(99)
  t.near(value(o), 1, 1e-9)
end)

t.test("undefined values have a reason", function()
  local o = linear()
  local function why(name, change)
    local all = setmetatable(change or {}, { __index = o })
    all.metric = name
    local v, reason = value(all)
    t.ok(v ~= v, name)
    return reason
  end
  local flat = torch.full({ 8, 8 }, 0.0)
  for _, name in ipairs { "faithfulness_correlation", "faithfulness_estimate" } do
    t.equal(why(name, { map = flat }), "map without contrast")
    t.equal(why(name, { logit = function() return 3 end }), "the score does not change")
    t.equal(why(name, { logit = function(red) return red[1] == o.x[{ 0, 0, 0, 0 }]:item() and 1 or nan end }),
      "not a number")
    t.equal(why(name, { status = "nan" }), "map is nan")
  end
  t.equal(why("infidelity", { map = flat }), "map without energy")
  t.equal(why("infidelity", { logit = function() return 3 end }), "the score does not change")
  for _, name in ipairs { "gini", "entropy", "effective_area" } do t.equal(why(name, { map = flat }),
    "map without energy") end
  local empty = torch.zeros(8, 8)
  t.equal(why("relevance_rank_accuracy", { mask = "lesion", masks = { lesion = empty } }), "empty mask")
  t.equal(why("relevance_rank_accuracy", { mask = "lesion", masks = { lesion = empty + 1 }, map = flat }),
    "map without contrast")
  t.equal(why("max_sensitivity"), "the method is not at hand")
  t.fails(function() metric.entries { { "infidelity", removal = "noisy_linear(0.01)" } } end,
    "infidelity: 'noisy_linear(0.01)' has no background (expected removal = mean, black, white, segment_mean or "
    .. "blur(k)).")
  t.equal(metric.entries { { "infidelity", regions = { "grid", rows = 2, columns = 3 } } }[1].id,
    "infidelity@1 regions=grid(columns=3,rows=2) removal=mean sets=200 share=0.2")
end)

-- ---- complexity and localisation -----------------------------------------------------------------------------------

t.test("Gini, entropy and effective area are computed on 16 x 16 cells, at any image size", function()
  local function of(name, map)
    return value { x = torch.zeros(1, 3, map:size(0), map:size(1)), map = map, metric = name,
      logit = function() return 0 end }
  end
  -- the golden numbers 0 1 2 3 4 10 in columns of a frame of 6 cells: by the same functions on as many cells
  local list = {}
  for i, v in ipairs { 0, 1, 2, 3, 4, 10 } do list[i] = v end
  local complexity = require "medxai.stats.complexity"
  golden(complexity.gini(list), 1 / 2)
  golden(complexity.entropy(list), 0.744002929172)
  golden(complexity.effective_area(list), 1 / 6)
  -- a blob drawn at three sizes: raw entropy grows from 7.1 to 9.9 in Quantus, and its effective complexity counts all
  -- pixels
  local function blob(n)
    local at = (torch.arange(n, { dtype = "float64" }) + 0.5) / n - 0.4
    local bell = torch.exp(at * at * -20)
    return (bell:unsqueeze(1) * bell:unsqueeze(0)):to { dtype = "float32" }
  end
  local cells = frame.cells(blob(224))
  t.near(of("gini", blob(224)), complexity.gini(cells), 1e-12)
  for _, name in ipairs { "gini", "entropy", "effective_area" } do
    t.near(of(name, blob(48)), of(name, blob(224)), 0.01, name)
  end
  t.ok(of("effective_area", blob(224)) < 0.25)
  local map = torch.rand(32, 32)
  local before = map:clone()
  for _, name in ipairs { "gini", "entropy", "effective_area" } do of(name, map) end
  t.equal(map:eq(before):all():item(), true) -- Quantus may change the caller's array
end)

t.test("the frame: area-averaged cells of the part that two crops share", function()
  local map = torch.arange(0, 6, { dtype = "float64" }):view({ 2, 3 })
  t.near(frame.cells(map, 1), { 2.5 }, 1e-12)
  t.near(frame.cells(map, 2), { (0 + 0.5 * 1) / 1.5, (0.5 * 1 + 2) / 1.5, (3 + 0.5 * 4) / 1.5,
    (0.5 * 4 + 5) / 1.5 }, 1e-12)
  local function place(size, left, top, scale) -- a crop of size x size of a file of 24 x 24, resized by 1 / scale
    return { file = { 24, 24 }, resized = { 24 / scale, 24 / scale }, crop = { left / scale, top / scale, size, size } }
  end
  local a, b = place(8, 0, 0, 2), place(4, 4, 2, 3) -- of the file 0..16 and 4..16 x 2..14
  local shared = frame.shared { a, b }
  t.equal({ shared.left, shared.top, shared.right, shared.bottom, shared.share }, { 4, 2, 16, 14, 144 / 576 })
  -- a picture of the file's x coordinate: both networks say the same of each cell
  local function picture(p, size)
    local x = (torch.arange(size, { dtype = "float64" }) + 0.5 + p.crop[1]) * p.file[1] / p.resized[1]
    return x:unsqueeze(0):expand({ size, size })
  end
  local left = frame.into(a, shared, 8, 8, 2)(picture(a, 8)):flatten():tolist()
  t.near(left, { 7, 13, 7, 13 }, 1e-12)
  t.near(frame.into(b, shared, 4, 4, 2)(picture(b, 4)):flatten():tolist(), left, 1e-12)
  t.ok(math.abs(frame.cells(picture(a, 8), 2)[1] - left[1]) > 1) -- a mutant: the frame without the crop
  t.fails(function() frame.shared { place(4, 0, 0, 1), place(4, 5, 0, 1) } end,
    "study: the models' crops of an image have nothing in common.")
end)

t.test("relevance rank accuracy equals the reference value and stays in [0, 1]", function()
  local map = torch.tensor({ { 0.1, 0.9, 0.3 }, { 0.8, 0.2, 0.7 }, { 0.05, 0.6, -0.4 } }, { dtype = "float64" })
  local mask = torch.tensor({ { 0, 1, 0 }, { 1, 0, 0 }, { 0, 0, 1 } }, { dtype = "uint8" })
  local function of(name) return value { x = torch.zeros(1, 3, 3, 3), map = map, metric = name, mask = "lesion",
    masks = { lesion = mask }, logit = function() return 0 end } end
  golden(of "relevance_rank_accuracy", 2 / 3)
  golden(of "energy_inside", 0.465753424658)
  golden(of "auprc", 0.777777777778)
  t.near(value { x = torch.zeros(1, 3, 3, 3), map = map, metric = { "relevance_rank_accuracy", within = "top" },
    mask = "lesion",
    masks = { lesion = mask, top = torch.tensor({ { 1, 1, 1 }, { 1, 1, 1 }, { 0, 0, 0 } }, { dtype = "uint8" }) },
      logit = function() return 0 end }, 1, 1e-12)
  local function pointing(m, of_mask)
    return value { x = torch.zeros(1, 3, 3, 3), map = m, metric = { "pointing_game", margin_px = 0 }, mask = "lesion",
      masks = { lesion = of_mask }, logit = function() return 0 end }
  end
  local empty, flat, both = torch.zeros(3, 3), torch.ones(3, 3), torch.tensor({ { 1, 1, 1 }, { 0, 0, 0 }, { 0, 0, 0 } },
    { dtype = "float32" })
  t.near({ (pointing(map, empty)), (pointing(flat, mask)) }, { nan, nan }, 0) -- hits for Quantus
  t.equal(pointing(both, mask), 1) -- the center of the plateau
  -- not any tied pixel
  t.equal(pointing(both, torch.tensor({ { 1, 0, 0 }, { 0, 0, 0 }, { 0, 0, 0 } }, { dtype = "uint8" })), 0)
end)

-- ---- whole runs ----------------------------------------------------------------------------------------------------

local function go(dir, options, n)
  local run = tiny.run(dir)
  options.figures = options.figures or false
  local scope <close> = core.memory.scope() -- luacheck: ignore
  return explain.run(run, tiny.model(), tiny.split(n or 3), options), run
end

local function scores(dir)
  local list, n = {}, 0
  for _, row in ipairs(csv.read(dir .. "/scores.csv")) do
    list[row.image_id .. " " .. row.method .. " " .. row.metric] = row.value ~= "NaN" and row.value or row.undefined
    n = n + 1
  end
  return list, n
end

t.test("sensitivity by hand for an own method: same noise in all channels, clamped, over the map's norm", function()
  local dir, n = t.tmpdir(), 4
  local function square(x) return (x * x):mean({ 1 }) end
  go(dir, { methods = { own = function(x) return square(x) end }, images = 1, target = 0,
    metrics = { { "max_sensitivity", draws = n, radius = 0.05 }, { "local_lipschitz", draws = n, radius = 0.05 } } }, 1)
  local scope <close> = core.memory.scope() -- luacheck: ignore
  local got, split = scores(dir), tiny.split(1)
  local x = split:batch({ 1 }).x:to { dtype = "float64" }
  local function shown(image)
    local m = square(image:to { dtype = "float32" })
    return ((m - m:min()) / (m:max() - m:min())):to { dtype = "float64" }
  end
  local own, most, steepest = shown(x), 0, 0
  for k = 1, n do
    local stream = core.rng.stream { seed = 42, purpose = "sensitivity@1", id = string.format("%016x", 1),
      replicate = k }
    local noise = ((stream:uniform(32 * 32) * 2 - 1) * 0.05):view({ 1, 1, 32, 32 })
    local changed = (x + noise):clamp(0, 1)
    local change = (shown(changed) - own):norm():item() / own:norm():item()
    most, steepest = math.max(most, change), math.max(steepest, change / (changed - x):norm():item())
  end
  local id = string.format("%016x own ", 1)
  t.near(tonumber(got[id .. "max_sensitivity@1 draws=4 radius=0.05"]), most, 1e-5 * most)
  t.near(tonumber(got[id .. "local_lipschitz@1 draws=4 radius=0.05"]), steepest, 1e-5 * steepest)
  t.ok(most > 0.001 and tonumber(got[id .. "max_sensitivity@1 draws=4 radius=0.05 predictions_changed"]) <= 1)
end)

t.test("ARCC by hand for an own method: harmonic mean of coherency, brevity and twice ROAD combined", function()
  local dir = t.tmpdir()
  local function square(x) return (x * x):mean({ 1 }) end
  local how = { percentiles = { 30, 60 }, removal = "mean" }
  go(dir, { methods = { own = function(x) return square(x) end, zero = function(x) return x:select(1, 0) * 0 end },
    images = 1, target = 0, metrics = { { "arcc", percentiles = how.percentiles, removal = how.removal },
      { "road_combined", percentiles = how.percentiles, removal = how.removal } } }, 1)
  local got = {}
  for key, number in pairs(scores(dir)) do
    local method, name = key:match "^%x+ (%a+) (.*)$"
    local short, part = name:match "^([%a_]+)@", name:match " (%a+)$"
    got[method .. " " .. short .. (short == "arcc" and part and not part:find "=" and " " .. part or "")] = number
  end
  local scope <close> = core.memory.scope() -- luacheck: ignore
  local function shown(image)
    local m = square(image)
    return ((m - m:min()) / (m:max() - m:min())):to { dtype = "float64" }
  end
  local x = tiny.split(1):batch({ 1 }).x
  local own = shown(x)
  local masked = shown(x * own:to { dtype = "float32" }:view { 1, 1, 32, 32 })
  local a, b = own - own:mean(), masked - masked:mean()
  local coherency = ((a * b):sum():item() / (a:norm() * b:norm()):item() + 1) / 2
  local brevity, road = 1 - own:mean():item(), math.max(0, math.min(1, 2 * tonumber(got["own road_combined"])))
  t.near(tonumber(got["own arcc coherency"]), coherency, 1e-5)
  t.near(tonumber(got["own arcc brevity"]), brevity, 1e-5)
  t.near(tonumber(got["own arcc road"]), road, 1e-6)
  t.ok(coherency < 0.999 and coherency > 0.1)
  t.near(tonumber(got["own arcc"]), road > 0 and 3 / (1 / coherency + 1 / brevity + 1 / road) or 0, 1e-5)
  t.equal(got["zero arcc"], "map without contrast")
end)

t.test("a map that is the same for all images is perfectly stable; a zero map has no sensitivity", function()
  local dir = t.tmpdir()
  go(dir, { methods = { "center_blob", zero = function(x) return x:select(1, 0) * 0 end }, images = 1,
    metrics = { { "max_sensitivity", draws = 2 } } }, 1)
  local got = scores(dir)
  local id = string.format("%016x ", 1)
  t.equal(tonumber(got[id .. "center_blob max_sensitivity@1 draws=2 radius=0.02"]), 0)
  t.equal(got[id .. "zero max_sensitivity@1 draws=2 radius=0.02"], "map without energy")
  local m = metric.entries { "max_sensitivity", "gini" }
  t.equal({ m[1].definition.direction, metric.better(m[2].definition.direction) }, { "none",
    "it describes, neither way is better" })
end)

local nine = { "faithfulness_correlation", "faithfulness_estimate", "infidelity", { "max_sensitivity", draws = 3 },
  { "local_lipschitz", draws = 3 }, "gini", "entropy", "effective_area", "relevance_rank_accuracy" }

t.test("all nine metrics: a batch equals single images bit for bit, and every image has a row", function()
  local all, dir = t.tmpdir(), t.tmpdir()
  local o = { methods = { "gradcam", "saliency" }, images = "all", mask = "lesion", metrics = nine,
    deterministic = true }
  go(all, o, 4)
  local together, n = scores(all)
  t.equal(n, 4 * 2 * 10)
  for i = 4, 1, -1 do
    o.images = { i }
    if i % 3 == 1 then o.mask = nil end -- it has none, and a metric of a mask that no image has is refused
    if o.mask then go(dir, o, 4) end
    o.mask = "lesion"
  end
  local apart, compared = scores(dir), 0
  for key, v in pairs(apart) do
    t.equal(v, together[key], key)
    compared = compared + 1
  end
  t.equal(compared, 2 * 2 * 10)
end)

t.test("another step and the next start reuse the stored perturbations: byte-equal scores", function()
  local dir, evaluated = t.tmpdir(), 0
  local new = scorer.new
  local restore <close> = setmetatable({}, { __close = function() scorer.new = new end }) -- luacheck: ignore
  scorer.new = function(...)
    local s = new(...)
    local plain = s.logits
    s.logits = function(self, n, make)
      if n > 1 then evaluated = evaluated + n end
      return plain(self, n, make)
    end
    return s
  end
  local o = { methods = { "gradcam" }, images = "all", metrics = { "faithfulness_correlation", "faithfulness_estimate",
    "infidelity" } }
  go(dir, o)
  t.equal(evaluated, 3 * 264)
  o.methods = { "layercam", "sobel", "random_smooth" }
  go(dir, o)
  t.equal(evaluated, 3 * 264)
  local first = scores(dir)
  files.remove(dir .. "/scores.csv")
  o.methods = { "gradcam", "layercam", "sobel", "random_smooth" }
  go(dir, o)
  t.equal(evaluated, 3 * 264)
  t.equal(scores(dir), first)
  o.seed = nil
  o.metrics = { { "infidelity", removal = "black" } } -- another removal is another evaluation
  go(dir, o)
  t.equal(evaluated, 3 * 464)
end)

t.test("a faithful map scores above chance, an inverted one below, a random one at chance", function()
  local o = { x = torch.rand(1, 3, 16, 16, { dtype = "float64" }) }
  o.logit = function(red)
    local sum = 0.0
    for y = 0, 3 do
      for x = 0, 3 do sum = sum + red[y * 16 + x + 1] end
    end
    return sum
  end
  local map = torch.zeros(16, 16)
  map[{ { 0, 4 }, { 0, 4 } }]:fill_(1)
  for name, bound in pairs { faithfulness_correlation = 0.5, faithfulness_estimate = 0.5 } do
    o.metric, o.map = { name, removal = "black" }, map
    t.ok(value(o) > bound, name)
    o.map = 1 - map
    t.ok(value(o) < -bound, name)
  end
  o.metric, o.map = { "infidelity", removal = "black" }, map
  local exact = value(o)
  o.map = 1 - map
  t.ok(exact < 0.2 and value(o) > exact + 0.2, exact)
end)

host.options.quiet = was_quiet
