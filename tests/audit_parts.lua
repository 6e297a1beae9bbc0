-- The audit of a network: places of parts and placebos, accuracy without them, the effect of hiding them, and the
-- verdict from all findings.
local t = require "t"
local combine = require "medxai.steps.audit_verdict"
local maps = require "medxai.steps.audit_maps"
local markers = require "medxai.perturb.markers"
local parts = require "medxai.steps.audit_parts"
local placebo = require "medxai.perturb.placebo"
local random = require "medxai.tensor.random"
local sources = require "medxai.steps.audit_sources"
local torch = require "medxai.torch"
local xai = require "medxai"

local function stream(id) return random.stream { seed = 42, purpose = "test_placebo@1", id = id } end

-- A mask (20, 20) that is true in a rectangle.
local function box(top, left, height, width)
  local mask = torch.zeros(20, 20, { dtype = "bool" })
  mask:narrow(0, top, height):narrow(1, left, width):fill_(1)
  return mask
end

t.test("placebo patches have the part's shape, lie in its zone, off the part, each at another place", function()
  local scope <close> = xai.scope() -- luacheck: ignore
  local patch, zone = box(2, 3, 3, 2), box(0, 0, 20, 8)
  local list, seen = placebo.shifted(patch, zone, 4, stream "a"), {}
  t.equal(#list, 4)
  for _, other in ipairs(list) do
    t.equal(other:sum():item(), 6)
    t.equal(other:logical_and(patch):sum():item(), 0)
    t.equal(other:logical_and(zone):sum():item(), 6)
    local rows = other:any(1):sum():item()
    t.equal(rows, 3)
    local key = table.concat(other:nonzero():tolist()[1], " ")
    t.ok(not seen[key], "twice the same place")
    seen[key] = true
  end
  t.equal(#placebo.shifted(patch, patch, 4, stream "b"), 0, "no room")
  t.equal(#placebo.shifted(box(0, 0, 0, 0), zone, 4, stream "c"), 0, "an empty patch")
end)

t.test("large parts are moved over the image to where the draws overlap least", function()
  local scope <close> = xai.scope() -- luacheck: ignore
  local part = box(5, 5, 8, 8)
  local list, overlap = placebo.rolled(part, 4, stream "d")
  t.equal(#list, 4)
  for _, other in ipairs(list) do t.equal(other:sum():item(), 64) end
  t.equal(overlap, 0, "64 of 400 pixels leave room")
  local _, much = placebo.rolled(box(0, 0, 20, 15), 4, stream "e")
  t.ok(much >= 2 / 3 - 1e-9 and much < 0.72, "300 of 400 pixels overlap by 200 at least: " .. much)
end)

t.test("letters in phantoms are proposed as markers, with few false proposals", function()
  local scope <close> = xai.scope() -- luacheck: ignore
  local data = xai.dataset.phantom { n_train = 0, n_val = 0, n_test = 12, size_px = 96,
    marker = { rate = { 0, 1, 1 } } }
  local found, wrong = 0, 0
  for i = 1, 12 do
    local truth, lungs = data.test:mask(i, "marker"):ne(0), data.test:mask(i, "lungs"):ne(0)
    local zone = torch.ones(96, 96, { dtype = "bool" })
    local rows, columns = lungs:any(1):nonzero():tolist(), lungs:any(0):nonzero():tolist()
    zone:narrow(0, rows[1][1], #rows):narrow(1, columns[1][1], #columns):fill_(0)
    local mask, spots = markers.find(data.test:pixels(i):to { dtype = "float64" }:mean(2), zone)
    t.equal(mask ~= nil, #spots > 0)
    if mask and mask:logical_and(truth):any():item() then found = found + 1 end
    if mask and mask:logical_and(truth:logical_not()):any():item() then wrong = wrong + 1 end
  end
  t.equal(found, 8, "letters found, of 8")
  t.ok(wrong <= 1, wrong .. " of 12 images with a spot that is no letter")
  t.equal(markers.find(torch.ones(16, 16, { dtype = "float64" }), torch.ones(16, 16, { dtype = "bool" })), nil)
end)

-- Made logits of n images in two classes: whole images give the class away; without the lungs a share of that is left.
local function made(n, left, marker_drop, mean_drop)
  local scope <close> = xai.scope() -- luacheck: ignore
  local draws, images = random.stream { seed = 1, purpose = "test_parts@1", id = "x" }:normal(8 * n):tolist(), {}
  for i = 1, n do
    local d = function(k) return draws[8 * i - 8 + k] end
    local class = i % 2 + 1
    local function logits(signal, noise)
      local z = { noise, 0 }
      z[class] = z[class] + signal
      return z
    end
    local answers = { ["none none 0"] = logits(2, d(1)) }
    for w, way in ipairs { "blur", "mean" } do
      answers["lungs " .. way .. " 0"] = logits(2 * left, d(1) + 0.3 * d(1 + w))
      answers["markers " .. way .. " 0"] = logits(2 - (way == "mean" and mean_drop or marker_drop),
        d(1) + 0.2 * d(3 + w))
      for k = 1, 4 do
        answers[("lungs %s %d"):format(way, k)] = logits(1.9, d(1))
        answers[("markers %s %d"):format(way, k)] = logits(2, d(1) + 0.1 * d(5 + w))
      end
    end
    images[i] = { class = class, patient = "p" .. i, answers = answers }
  end
  return images
end

t.test("without the lungs, a class is found above 0.5, not found below, else undecided", function()
  local function verdict_of(n, left) return parts.retained(made(n, left, 0), { "a", "b" }, 42)[1] end
  local kept = verdict_of(120, 0.95)
  t.equal(kept.verdict.verdict, "found")
  t.near(kept.removals.blur.share.mean, (kept.removals.blur.auc - 0.5) / (kept.whole - 0.5), 1e-12)
  t.equal(verdict_of(120, 0).verdict.verdict, "not_found")
  local mute = made(60, 1, 0)
  for i, image in ipairs(mute) do image.class = i % 4 // 2 + 1 end -- labels that the answers know nothing of
  t.equal(parts.retained(mute, { "a", "b" }, 42)[1].verdict.verdict, "undecided", "what is not told is not kept")
  t.equal(verdict_of(8, 0.95).verdict, { verdict = "undecided", reason = "fewer than 10 patients" })
end)

t.test("hiding a marker counts as used where the score drops more than for placebos", function()
  local o = { regions = { "markers", "border" }, placebo = 4, seed = 42 }
  local rows = parts.occlusion(made(80, 1, 1.5), o)
  t.equal(rows[1].verdict.verdict, "found")
  t.near(rows[1].removals.blur.mean, 1.5, 0.2)
  t.equal(rows[2].verdict, { verdict = "not_applicable", reason = "no image has it" })
  rows = parts.occlusion(made(80, 1, 0), o)
  t.equal(rows[1].verdict.verdict, "not_found")
end)

t.test("two removals that disagree give no verdict", function()
  t.equal(parts.occlusion(made(80, 1, 1.5, 0), { regions = { "markers" }, placebo = 4, seed = 42 })[1].verdict,
    { verdict = "undecided", reason = "removals disagree" })
end)

t.test("each map is compared with one of another patient of the same class, keyed by the image", function()
  local items = {}
  for i = 1, 40 do items[i] = { id = "image " .. i, label = i % 2, patient = "p" .. i // 8 } end
  items[41] = { id = "alone", label = 2, patient = "p9" }
  local swaps = maps.swaps(items, 42)
  for i = 1, 40 do
    t.ok(items[swaps[i]].label == items[i].label and items[swaps[i]].patient ~= items[i].patient, "image " .. i)
  end
  t.equal(swaps[41], nil)
  t.equal(maps.swaps(items, 42), swaps)
  for i = 1, 41 do items[i].patient = "unknown" end
  swaps = maps.swaps(items, 42)
  for i = 1, 40 do t.ok(swaps[i] ~= i and items[swaps[i]].label == items[i].label) end
end)

local function row(class, input, word) return { class = class, input = input, verdict = { verdict = word } } end

t.test("the verdict \"shortcut\" needs both: a class can be told outside the lungs, and the network uses it", function()
  local told, not_told = { row("a", "outside", "found") }, { row("a", "outside", "not_found") }
  local function of(f) return combine.of(f).verdict end
  local marker = { { part = "markers", verdict = { verdict = "found" } } }
  local lungs = { { part = "lungs", verdict = { verdict = "found" } } }
  local clean = { { part = "markers", verdict = { verdict = "not_found" } } }
  local confounded = { { class = "a", verdict = { verdict = "confounded", reason = "one source" } } }
  t.equal(of { probe = told, retained = { row("a", nil, "found") } }, "shortcut found")
  t.equal(of { probe = told, retained = { row("b", nil, "found") } }, "undecided", "another class")
  t.equal(of { probe = not_told, occlusion = marker }, "shortcut found")
  t.equal(of { probe = told, retained = { row("a", nil, "not_found") } }, "undecided")
  t.equal(of { probe = not_told, occlusion = lungs }, "none of these found")
  t.equal(of { probe = not_told, occlusion = clean }, "none of these found")
  t.equal(of { probe = { row("a", "outside", "undecided") } }, "undecided")
  t.equal(of { probe = told, trained = not_told }, "undecided")
  t.equal(of { probe = told, sources = confounded }, "confounded")
  t.equal(of { probe = not_told, sources = confounded }, "confounded")
  t.equal(of { probe = told, retained = { row("a", nil, "found") }, sources = confounded }, "shortcut found")
  t.ok(combine.of { probe = told, retained = { row("a", nil, "found") },
    sources = confounded }.reason:find "confounded")
  t.equal(combine.of { probe = not_told, sources = { row("a", nil, "found") } }.verdict, "undecided")
end)

-- A data set of labels and sources only.
local function labels(list)
  local items = {}
  for i, one in ipairs(list) do items[i] = { label = one[1], source = one[2], patient = "unknown" } end
  return { classes = { "a", "b" }, splits = { { items = items, n = #items, classes = { "a", "b" } } } }
end

t.test("a class from one source is confounded; the information that the source gives is reported", function()
  local data = labels { { 0, "A" }, { 0, "A" }, { 1, "B" }, { 1, "B" } }
  local found = sources.table_of(nil, data)
  t.near(found.share, 1, 1e-12)
  t.equal(found.single, { a = "A", b = "B" })
  local rows = sources.rows(nil, data.splits[1], { seed = 42 }, found)
  t.equal(rows[1].verdict.verdict, "confounded")
  t.ok(rows[1].verdict.reason:find "100 %%")
  -- two sources in each class, in equal shares: they predict nothing
  found = sources.table_of(nil, labels { { 0, "A" }, { 0, "B" }, { 1, "A" }, { 1, "B" } })
  t.near(found.share, 0, 1e-12)
  t.equal(found.single, {})
  -- one source only: the check is not applicable
  found = sources.table_of(nil, labels { { 0, "A" }, { 1, "A" } })
  t.equal(found.single, {})
  t.equal(sources.rows(nil, data.splits[1], { seed = 42 }, found)[1].verdict,
    { verdict = "not_applicable", reason = "one source: 'A'" })
end)

t.test("a network whose features predict the source within a class is found; shuffled sources are not", function()
  local scope <close> = xai.scope() -- luacheck: ignore
  local data = xai.dataset.phantom { n_train = 9, n_val = 0, n_test = 90, size_px = 32 }
  local model <close> = xai.graph.network { name = "tiny", classes = data.classes, size_px = 32, cam_layer = "0",
    seed = 1, build = function(g, x)
    x = g:relu("1", g:conv2d("0", x, { 3, 8, 5, padding = 2 }))
    return g:linear("fc", g:flatten(nil, g:adaptive_avg_pool2d("pool", x, 2)), { 32, 3 })
  end }
  model:eval()
  local bright, sorted = {}, {}
  for i = 1, 90 do bright[i] = data.test:pixels(i):to { dtype = "float64" }:mean():item() end
  table.move(bright, 1, 90, 1, sorted)
  table.sort(sorted)
  local function rows(source_of)
    for i, item in ipairs(data.test.items) do item.source = source_of(i) end
    local found = sources.table_of(nil, { classes = data.classes, splits = { data.test } })
    return sources.rows(model, data.test, { seed = 42 }, found)
  end
  local known = rows(function(i) return bright[i] > sorted[45] and "A" or "B" end)
  for _, r in ipairs(known) do
    t.equal(r.verdict.verdict, "found", r.class)
    t.ok(r.auc > 0.8 and r.n == 30 and r.units == 30, ("%.17g of %d and %d"):format(r.auc, r.n, r.units))
  end
  local order = stream "sources":permutation(90):tolist()
  local unknown = rows(function(i) return order[i] < 45 and "A" or "B" end) -- nothing in the pictures
  for _, r in ipairs(unknown) do t.equal(r.verdict.verdict, "undecided", r.class) end
  local function few() return rows(function(i) return i <= 6 and "A" or "B" end)[1].verdict end -- two of each class
  t.equal(few(), { verdict = "undecided", reason = "fewer than 5 images of a source" })
  for i, item in ipairs(data.test.items) do item.patient = "p" .. i end
  t.equal(few().reason, "fewer than 5 patients of a source")
end)

t.test("sources per class: unknown classes, missing ones and one name for all are errors", function()
  local classes = { "a", "b" }
  t.fails(function() sources.check({ a = "A", b = "A" }, classes) end,
    "audit: sources: every class comes from 'A': with one source there is "
    .. "nothing to audit. Leave sources out, or name those that differ.")
  t.fails(function() sources.check({ a = "A" }, classes) end,
    "audit: sources: the class 'b' has none (expected a source of every class).")
  t.fails_like(function() sources.check({ a = "A", c = "B" }, classes) end, "unknown class 'c'")
  t.fails_like(function() sources.check({ a = "A", b = 2 }, classes) end, "'b' is a number")
  sources.check(nil, classes)
end)

t.test("what the gate said of a method on these weights stands beside where its maps lie", function()
  local scope <close> = require("medxai.core").memory.scope() -- luacheck: ignore
  local dir, gate = t.tmpdir(), require "medxai.score.gate"
  local split = require("medxai.data.readers").phantom { size_px = 32, n_train = 0, n_val = 0, n_test = 6 }.test
  local base = { chosen = { 1, 2, 3 }, records = {}, statuses = {
    { method = "gradcam", label = "Grad-CAM", maps = "gradcam-1" },
    { method = "saliency", label = "saliency", maps = "saliency-1" } } }
  local function words(weights)
    local list = {}
    for i, one in ipairs(maps.rows({ dir = dir, seed = 1 }, split, base, weights)) do list[i] = one.gate end
    return list
  end
  t.equal(words "w1", { "not judged", "not judged" })
  gate.save(dir, { { model = "a", network = "tiny", weights_sha256 = "w1", method = "gradcam", settings = "s",
    state = "failed", failed = { "weights" } }, { model = "a", network = "tiny", weights_sha256 = "w1",
    method = "saliency", settings = "s", state = "passed", failed = {} } })
  t.equal(words "w1", { "failed", "passed" })
  t.equal(words "w2", { "not judged", "not judged" }, "other weights were not judged")
end)

t.test("maps on the letter hold all of their energy there, which their gain over other patients' maps tells", function()
  local scope <close> = require("medxai.core").memory.scope() -- luacheck: ignore
  local dir, store = t.tmpdir(), require "medxai.explain.store"
  local split = require("medxai.data.readers").phantom { size_px = 32, n_train = 0, n_val = 0, n_test = 36,
    marker = { rate = { 0, 1, 1 } } }.test -- no letter in the 12 images of the first class
  local made_maps, base = store.open(dir), { chosen = {}, records = {}, statuses = {
    { method = "letter", label = "letter", maps = "letter-1" },
    { method = "flat", label = "flat", maps = "flat-1" } } }
  for i = 1, 36 do
    base.chosen[i] = i
    local letter, flat = split:mask(i, "marker"):to { dtype = "float32" }, torch.ones(32, 32)
    for k, map in ipairs { letter, flat } do
      base.records[2 * i - 2 + k] = made_maps:add({ maps = base.statuses[k].maps, image_id = split:item(i).id,
        status = "ok" }, map, {})
    end
  end
  local rows, at = maps.rows({ dir = dir, seed = 1 }, split, base, "w"), {}
  t.equal(#rows, 4)
  for _, one in ipairs(rows) do at[one.method .. " " .. one.part] = one end
  local on, flat = at["letter markers"], at["flat markers"]
  t.equal({ on.share.n, on.share.mean, on.verdict.verdict }, { 24, 1, "better" })
  t.ok(on.swap.mean < 0.7 and on.area.mean < 0.1, on.swap.mean) -- other letters lie in one of four corners
  t.near(flat.share.mean, flat.area.mean, 1e-12)
  t.equal({ flat.gain.mean, flat.verdict.verdict ~= "better" }, { 0, true })
  t.equal({ at["letter lungs"].share.n, at["flat lungs"].share.n }, { 24, 36 }, "a map of zeros has no share")
end)
