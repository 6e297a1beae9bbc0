-- Overlap of maps with masks: AUPRC, IoU, Dice, Otsu and percentiles by hand or as scikit-learn and OpenCV, thresholds
-- from other images, paired tests, strata, crops; run:overlap on a tiny network; bad masks.
local t = require "t"
local tiny = require "tinyexplain"
local auprc = require "medxai.score.metrics.auprc"
local core = require "medxai.core"
local cuts = require "medxai.score.binarize"
local csv = require "medxai.base.csv"
local files = require "medxai.base.files"
local finds = require "medxai.score.overlap_findings"
local host = require "medxai.host"
local iou = require "medxai.score.metrics.iou"
local overlap = require "medxai.steps.overlap"
local torch = require "medxai.torch"
local xai = require "medxai"

host.options.quiet = true

local function bool(rows) return torch.tensor(rows):ne(0) end

-- ---- metrics --------------------------------------------------------------------------------------------------------

t.test("AUPRC equals scikit-learn's average precision, ties counted as one threshold", function()
  local m, s, y = {}, {}, {}
  for n = 0, 59 do
    m[n + 1], s[n + 1], y[n + 1] = n * 7 % 11 / 10, math.sin(n * 1.3) * 0.5 + 0.5, n * n % 7 < 3 and 1 or 0
  end
  local mask = torch.tensor(y):view({ 6, 10 }):ne(0)
  t.near({ auprc.measure(torch.tensor(m, { dtype = "float64" }):view({ 6, 10 }), { mask = mask }) },
    { 0.7491880562172571, 43 / 60 }, 1e-12)
  t.near((auprc.measure(torch.tensor(s, { dtype = "float64" }):view({ 6, 10 }), { mask = mask })),
    0.7315421432528291, 1e-12)
  t.equal({ auprc.measure(torch.rand(2, 2), { mask = bool { { 0, 0 }, { 0, 0 } } }) }, { nil, nil, "empty mask" })
  -- a map without contrast is at chance
  t.near((auprc.measure(torch.ones(2, 3), { mask = bool { { 1, 0, 0 }, { 0, 0, 1 } } })), 1 / 3, 1e-12)
end)

t.test("Otsu's threshold equals OpenCV's; a percentile takes exactly its share", function()
  local m, s = {}, {}
  for n = 0, 59 do m[n + 1], s[n + 1] = n * 7 % 11 / 10, math.sin(n * 1.3) * 0.5 + 0.5 end
  t.equal(cuts.otsu_level(torch.tensor(s, { dtype = "float64" }):view({ 6, 10 })), 127)
  t.equal(cuts.otsu_level(torch.tensor(m, { dtype = "float64" }):view({ 6, 10 })), 102)
  t.equal(cuts.otsu_level(torch.full({ 3, 3 }, 0.4)), nil)
  local map = torch.tensor({ { 0.0, 0.2 }, { 0.9, 1.0 } })
  t.equal(cuts.inside(map, "otsu"):tolist(), { { false, false }, { true, true } })
end)

t.test("IoU, Dice and their chance levels by hand", function()
  local o = cuts.overlap(bool { { 1, 1, 0, 0 } }, bool { { 0, 1, 1, 0 } })
  t.near({ o.iou, o.dice, o.chance_iou, o.chance_dice }, { 1 / 3, 1 / 2, 1 / 3, 1 / 2 }, 1e-12)
  local ctx = { mask = bool { { 0, 0 }, { 1, 1 } }, keep = function(_, percentile)
    t.equal(percentile, 50)
    return bool { { 1, 0 }, { 1, 0 } }
  end }
  local values, chances = iou.measure(torch.tensor({ { 0.0, 0.2 }, { 0.9, 1.0 } }), ctx,
    { percentiles = { 50, "otsu" } })
  t.near(values, { 1 / 3, 1 }, 1e-12)
  t.near(chances, { 1 / 3, 1 / 3 }, 1e-12)
  t.equal(iou.values { percentiles = { 50, 97.5, "otsu" } }, { "percentile 50", "percentile 97.5", "otsu" })
  t.equal({ iou.measure(torch.ones(2, 2), { mask = ctx.mask, keep = function() end }, { percentiles = { 50 } }) },
    { nil, nil, "map without contrast" })
  t.fails(function() iou.check({ percentiles = { 0 } }, "iou") end,
    "iou: percentiles holds numbers between 0 and 100, and 'otsu' (got 0).")
  t.fails(function() iou.check({ percentiles = {} }, "iou") end,
    "iou: percentiles is an empty list (expected { 50, 95, \"otsu\" } or the like).")
end)

t.test("the curve holds the overlap at each threshold; of equal ones the lowest is best", function()
  local map, mask = torch.tensor({ { 0.1, 0.5, 0.503, 1.0 } }), bool { { 0, 0, 1, 1 } }
  local c = cuts.curves(map, mask)
  t.near({ c.iou[1], c.iou[11], c.iou[12], c.iou[51], c.iou[52], c.iou[100] },
    { 0.5, 0.5, 2 / 3, 2 / 3, 0.5, 0.5 }, 1e-12)
  t.near({ c.dice[12], c.chance_iou[12] }, { 0.8, 1.5 / 3.5 }, 1e-12)
  t.equal(cuts.best { c.iou }, 12)
  t.equal(cuts.best {}, nil)
end)

local function findings(n, patients)
  local list = {}
  for i = 1, n do
    list[i] = { item = { id = string.format("%02d", i), patient = patients and patients[i] or "unknown" } }
  end
  return list
end

-- A curve with one best threshold.
local function peak(at)
  local curve = { iou = {}, dice = {} }
  for k = 1, cuts.levels do curve.iou[k] = k == at and 1.0 or 0.0 end
  return curve
end

t.test("a cross-fitted threshold never uses the image it is applied to, nor others of its patient", function()
  local patients, curves = {}, {}
  for i = 1, 20 do
    patients[i] = "p" .. (i + 1) // 2
    curves[i] = { map = peak((i + 1) // 2 == 3 and 77 or 20) } -- the third patient alone wants another threshold
    curves[i].map.iou[77] = (i + 1) // 2 == 3 and 100.0 or 0.0 -- and would win wherever it is counted
  end
  local of, how = finds.thresholds(findings(20, patients), curves, nil, { folds = 5 }, 42)
  t.equal(how, "cross-fitted over 5 folds of patients")
  t.equal({ of(5, "map", "iou"), of(6, "map", "iou") }, { 20, 20 })
  local others = 0
  for i = 1, 20 do others = others + (of(i, "map", "iou") == 77 and 1 or 0) end
  t.ok(others >= 15, "where it is not judged, the third patient counts")
end)

t.test("thresholds of a tuning split; folds do not depend on the order of images", function()
  local of, how = finds.thresholds(findings(3), { { map = peak(5) }, {}, {} }, { { map = peak(30) } },
    { folds = 5, tune = { name = "val" } }, 42)
  t.equal({ of(1, "map", "iou"), of(2, "map", "iou"), how }, { 30, 30, "tuned on val" })
  local forth, back, curves, reversed = findings(11), {}, {}, {}
  for i = 1, 11 do
    curves[i] = { map = peak(i) }
    curves[i].map.iou[i] = 1.0 + i
    back[12 - i], reversed[12 - i] = forth[i], curves[i]
  end
  local a = finds.thresholds(forth, curves, nil, { folds = 5 }, 42)
  local b, images = finds.thresholds(back, reversed, nil, { folds = 5 }, 42)
  for i = 1, 11 do t.equal(a(i, "map", "iou"), b(12 - i, "map", "iou")) end
  t.equal(images, "cross-fitted over 5 folds of images, patients unknown")
end)

t.test("sizes are named by their bounds; findings under 0.1 % are apart", function()
  t.equal(finds.size_names { 0.05, 0.2 }, { "under 0.1 %", "0.1 to 5 %", "5 to 20 %", "over 20 %" })
end)

-- ---- the step -------------------------------------------------------------------------------------------------------

-- Findings of several sizes: none, empty, a few pixels, and squares.
local function split_of(n)
  local split = tiny.split(n)
  function split.mask(_, i, name)
    t.equal(name, "lesion")
    if i == 1 then return nil end
    local mask = torch.zeros(32, 32, { dtype = "uint8" })
    if i == 3 then mask[{ 5, 5 }] = 1 end
    if i > 3 then mask[{ { 4, 4 + 2 * i }, { 6, 6 + 2 * i } }]:fill_(1) end
    return mask
  end
  return split
end

local function go(options, n, split)
  local scope <close> = xai.scope()
  local run = tiny.run(t.tmpdir())
  options.mask, options.baselines = options.mask or "lesion", options.baselines or { "sobel", "center_blob" }
  options.figures = options.figures or false
  local result = overlap.run(run, tiny.model(), split or split_of(n or 9), options)
  return result, run
end

local function table_of(result, pattern)
  for _, one in ipairs(result.tables) do
    if one.metric:find(pattern) then return one end
  end
end

t.test("methods and baselines are rows of one table; every image, method and metric is a line of "
  .. "overlap.csv", function()
  local result, run = go { methods = { "gradcam" } }
  local rows = csv.read(run.dir .. "/overlap.csv")
  t.equal(#rows, 9 * 3 * (3 + 3 + 3 + 2)) -- auprc, energy, pointing; IoU and Dice at 3 cuts; both tuned
  local auprc_table = table_of(result, "^auprc")
  t.equal({ #auprc_table.lines, auprc_table.lines[1].method, auprc_table.lines[2].baseline,
    auprc_table.lines[3].method }, { 3, "Grad-CAM", true, "center blob" })
  t.equal(auprc_table.lines[1].all.n, 6, "one without, one empty, one tiny are outside the mean")
  t.equal(result.facts.undefined, { ["no mask"] = 1, ["empty mask"] = 1 })
  t.equal(result.facts.sizes[1], { name = "under 0.1 %", images = 1 })
  local best = auprc_table.best == "Sobel" and 2 or 3
  t.near(auprc_table.lines[1].difference.mean, auprc_table.lines[1].all.mean - auprc_table.lines[best].all.mean, 1e-12)
  t.equal(auprc_table.lines[best].difference, nil)
  t.ok(auprc_table.lines[1].difference.p_holm >= auprc_table.lines[1].difference.p)
end)

t.test("strata: images by size of finding, and by right and wrong predictions", function()
  local result = go { methods = { "gradcam" } }
  local n = {}
  for s, cell in ipairs(table_of(result, "^auprc").lines[1].strata) do n[result.strata[s]] = cell.n end
  t.equal({ n["under 0.1 %"], n["5 to 20 %"], n["over 20 %"] }, { 1, 4, 2 })
  t.equal((n["predicted right"] or 0) + (n["predicted wrong"] or 0), 6)
end)

t.test("a perfect map has IoU, Dice and AUPRC 1 and beats the baselines", function()
  local split = split_of(9)
  local function perfect(x)
    for i = 4, 9 do
      if (split:batch({ i }).x - x):abs():max():item() == 0 then return split:mask(i, "lesion"):float() end
    end
    return torch.rand(32, 32)
  end
  local result = go({ methods = { perfect = perfect } }, 9, split)
  for _, pattern in ipairs { "^auprc", "^iou.*otsu$", "^dice.*otsu$", "^iou.*threshold", "^energy" } do
    local line
    for _, one in ipairs(table_of(result, pattern).lines) do line = one.method == "perfect" and one or line end
    t.near(line.all.mean, 1, 1e-9, pattern)
    t.ok(line.difference.mean > 0)
  end
end)

t.test("intervals of overlap: studentized, Wilson's of hits; of fewer than ten findings none, and the "
  .. "tables say so", function()
  local tables = require "medxai.score.overlap_tables"
  local many, few = go({ methods = { "gradcam" } }, 14), go({ methods = { "gradcam" } }, 9)
  local area, pointing = table_of(many, "^auprc").lines[1], table_of(many, "^pointing_game").lines[1]
  t.equal({ area.all.interval, area.all.units, pointing.all.interval }, { "studentized bootstrap", 11, "Wilson" })
  t.ok(area.all.low < area.all.mean and area.all.mean < area.all.high and pointing.all.low == pointing.all.low)
  t.ok(tables.difference_text(area):find "^[+-]0%.%d%d%d %[[+-]0%.%d+, [+-]0%.%d+%], p", tables.difference_text(area))
  t.equal(many.units, "95 % studentized bootstrap intervals over images (image-level, patients unknown), of hits "
    .. "Wilson's; none: fewer than 10 images")
  local line = table_of(few, "^auprc").lines[1]
  t.ok(line.all.low ~= line.all.low and line.difference.p == line.difference.p)
  t.ok(tables.difference_text(line):find("(no interval: fewer than 10 images)", 1, true), tables.difference_text(line))
end)

t.test("it draws contours, both grids and the sizes", function()
  local result, run = go { methods = { "gradcam" }, figures = true }
  local kinds = {}
  for _, f in ipairs(result.figures) do
    kinds[#kinds + 1] = f.name:match "^overlap%-%x+%-(.*)$"
    t.ok(files.exists(run.dir .. "/" .. f.svg))
  end
  t.equal(kinds, { "contours", "iou-grid-1", "within-1", "strata" })
  t.ok(t.read(run.dir .. "/" .. result.figures[2].svg):find("IoU 0.", 1, true))
  t.ok(t.read(run.dir .. "/" .. result.figures[3].svg):find("% of the crop", 1, true))
end)

t.test("data that cannot be judged are refused", function()
  t.fails(function() go { methods = { "gradcam" }, mask = "infection", masks = 1 } end,
    "explain: unknown option 'masks'. Did you mean 'mask'?")
  t.fails(function() go { methods = { "gradcam" }, sizes = { 0.3, 0.2 } } end,
    "overlap: sizes are rising shares of the crop between 0.001 and 1 (got 0.2 at 2).")
  t.fails(function() go({ methods = { "gradcam" } }, 1) end,
    "explain: none of the 1 images has a mask 'lesion' (metric auprc).")
  t.fails_like(function() go { methods = { "gradcm" } } end, "^explain: unknown method 'gradcm'%.")
end)

-- Another split: its images have ids of their own, from `first` on.
local function other_split(n, first)
  local split = split_of(n)
  split.name = "val"
  local own = split.item
  function split:item(i)
    local item = own(self, i)
    item.id = string.format("%016x", first + i)
    return item
  end
  return split
end

t.test("thresholds may be tuned on another split that has findings and no judged image", function()
  local result = go { methods = { "gradcam" }, tune = other_split(6, 100) }
  t.equal(result.thresholds, "tuned on val")
  t.ok(table_of(result, "^iou@1 threshold=tuned on val$"))
  -- its images 4, 5 and 6
  t.equal(go({ methods = { "gradcam" }, tune = other_split(8, 3) }).thresholds,
    "tuned on val without 3 images that are judged")
  t.fails(function() go { methods = { "gradcam" }, tune = split_of(2) } end,
    "overlap: no image of test has a finding of 'lesion' to tune thresholds on. Leave tune out: they are "
    .. "cross-fitted then.")
  t.fails(function() go { methods = { "gradcam" }, tune = split_of(6) } end,
    "overlap: no image of test that is not judged itself has a finding of 'lesion' to tune thresholds on. Leave "
    .. "tune out: they are cross-fitted then.")
end)

t.test("all images of a patient are in one fold, also where some patients are unknown", function()
  local list, curves = {}, {}
  for i = 1, 12 do
    list[i] = { item = { id = "id" .. i, patient = i <= 2 and "p3" or i == 3 and "" or "unknown" } }
    local curve = {}
    for k = 1, 100 do curve[k] = k == (i <= 2 and 77 or 20) and 1 or 0 end
    curves[i] = { map = { iou = curve } }
  end
  local threshold_of, how = finds.thresholds(list, curves, nil, { folds = 5 }, 42)
  for i = 1, 2 do t.equal(threshold_of(i, "map", "iou"), 20) end -- p3's other image would say 77
  t.equal(how, "cross-fitted over 5 folds of patients where they are known, images elsewhere")
end)

t.test("two overlaps in one run: titles tell them apart, overlap.csv holds both", function()
  local scope <close> = xai.scope()
  local run, model = tiny.run(t.tmpdir()), tiny.model()
  local asked = { methods = { "gradcam" }, mask = "lesion", baselines = { "sobel" }, metrics = { "energy_inside" },
    figures = false, title = "Trained" }
  local first = overlap.run(run, model, split_of(9), asked)
  asked.title = "Random weights"
  local second = overlap.run(run, model:randomize { to = "conv1" }, split_of(9), asked)
  t.equal({ first.title, second.title, #run.overlapped }, { "Trained", "Random weights", 2 })
  local sets = {}
  for _, row in ipairs(csv.read(run.dir .. "/overlap.csv")) do sets[row.maps] = true end
  t.ok(sets[first.tables[1].lines[1].maps] and sets[second.tables[1].lines[1].maps])
  local text = {}
  require("medxai.show.report_overlap").put({ dir = run.dir,
    overlaps = { { result = first }, { result = second, earlier = true } } },
    { put = function(_, format, ...) text[#text + 1] = string.format(format, ...) end, figure = function() end })
  text = table.concat(text)
  t.ok(text:find("<h3>Trained</h3><p>lesion masks, test split", 1, true)
    and text:find("<h3>Random weights</h3>", 1, true) and text:find("earlier form", 1, true))
end)

t.test("the best baseline is chosen where all are defined, also for metrics where lower is better", function()
  local scope <close> = xai.scope()
  local split = split_of(9)
  local result = go({ methods = { "gradcam" }, baselines = { "sobel", "center_blob", "random_smooth" },
    metrics = { "confidence_drop" } }, 9, split)
  local one, least = result.tables[1], math.huge
  for _, line in ipairs(one.lines) do
    if line.baseline then least = math.min(least, line.all.mean) end
  end
  for _, line in ipairs(one.lines) do
    if line.method == one.best then t.equal(line.all.mean, least) end
  end
  -- whole_lung is defined on two images of nine, so it is no baseline for the others
  local function lungs(_, i, name)
    return name == "lungs" and i >= 8 and torch.ones(32, 32, { dtype = "uint8" })
      or name == "lesion" and split_of(9).mask(split, i, name) or nil
  end
  split.mask, split.data = lungs, { masks = { "lungs", "lesion" }, config = {} }
  result = go({ methods = { "gradcam" }, baselines = { "sobel", "whole_lung" }, metrics = { "energy_inside" } },
    9, split)
  t.equal(result.tables[1].best, "Sobel")
end)

t.test("an own map of NaN loses only its own scores and figures", function()
  local function some(x)
    local map = x:squeeze(0):mean({ 0 })
    if (x:sum():item() * 1000) // 1 % 2 == 0 then map[0][0] = 0 / 0 end
    return map
  end
  local result = go({ methods = { some = some, other = function(x) return x:squeeze(0):mean({ 0 }) / 0 end },
    figures = true })
  local n = {}
  for _, line in ipairs(table_of(result, "^auprc").lines) do n[line.method] = line.all.n end
  t.ok(n.other == 0 and n.some < 6 and n.Sobel == 6)
  t.ok(#result.figures > 0)
end)

t.test("the report shows each table with its differences, the strata and what was cut off", function()
  local result, run = go { methods = { "gradcam" } }
  local text = {}
  require("medxai.show.report_overlap").put({ dir = run.dir, overlaps = { { result = result } } },
    { put = function(_, format, ...) text[#text + 1] = string.format(format, ...) end, figure = function() end })
  text = table.concat(text)
  for _, words in ipairs { "lesion masks, test split, target predicted (logit)", "minus Sobel", "p = ", "baseline",
      "over 20 %", "predicted", "1 empty mask, 1 no mask",
    "IoU, tuned threshold", "image-level, patients unknown" } do
    t.ok(text:find(words, 1, true) or words == "minus Sobel" and text:find("minus center blob", 1, true), words)
  end
end)

t.test("lung zones of an image without lung mask: that map is not defined, the others are made", function()
  local scope <close> = xai.scope()
  local run, split = tiny.run(t.tmpdir()), tiny.split(3)
  function split.mask(_, i)
    if i == 2 then return nil end
    local mask = torch.zeros(32, 32, { dtype = "uint8" })
    if i == 1 then mask[{ { 4, 28 }, { 4, 14 } }]:fill_(1) mask[{ { 4, 28 }, { 18, 28 } }]:fill_(1) end
    return mask
  end
  local result = require("medxai.steps.explain").run(run, tiny.model(), split,
    { methods = { { "lime", samples = 20, regions = "lung_zones" } }, images = "all", figures = false })
  local told = {}
  for i, record in ipairs(result.records) do told[i] = { record.status, record.problem } end
  t.equal({ told[1][1] ~= "not_defined", told[2], told[3] },
    { true, { "not_defined", "the image has no lung mask" }, { "not_defined", "the lung mask is empty" } })
  split.data = { masks = {}, config = {} }
  t.fails(function()
    require("medxai.perturb.regions").of("lung_zones", torch.zeros(3, 32, 32), { split = split, number = 1 })
  end, "regions: lung_zones needs a data set with lung masks.")
end)

t.test("regions from files: a missing file leaves one map undefined; a path needs a placeholder", function()
  local scope <close> = xai.scope()
  local run, split = tiny.run(t.tmpdir()), tiny.split(3)
  local labels = (torch.arange(32 * 32, { dtype = "int64" }) // 256):view({ 32, 32 })
  for _, i in ipairs { 1, 3 } do torch.save_npy(string.format("%s/image %d.npy", run.dir, i), labels) end
  local function explained(path)
    local methods = { { "lime", samples = 20, regions = { "file", path = path } } }
    local result, told = require("medxai.steps.explain").run(run, tiny.model(), split,
      { methods = methods, images = "all", figures = false }), {}
    for i, record in ipairs(result.records) do told[i] = { record.status, record.problem } end
    return told
  end
  local told = explained(run.dir .. "/{name}.npy")
  t.equal(told[2], { "not_defined", "there is no file of regions '" .. run.dir .. "/image 2.npy'" })
  for _, i in ipairs { 1, 3 } do t.ok(told[i][1] == "ok" or told[i][1] == "all_negative", told[i][1]) end
  t.fails_like(function() explained(run.dir .. "/nothing.npy") end, "nothing%.npy")
end)

t.test("whole lung is not defined where the data have no lung masks", function()
  local scope <close> = xai.scope()
  local run = tiny.run(t.tmpdir())
  local result = require("medxai.steps.explain").run(run, tiny.model(), tiny.split(2),
    { methods = { "whole_lung" }, images = 1, figures = false })
  t.equal({ result.records[1].status, result.records[1].problem }, { "not_defined", "the data have no lung mask" })
end)

-- ---- the data -------------------------------------------------------------------------------------------------------

local function data_set(dir, names, masks)
  local folder = dir .. "/Infection Segmentation Data/Test/COVID-19"
  for _, kind in ipairs { "images", "lung masks", "infection masks" } do files.mkdir(folder .. "/" .. kind) end
  for i, name in ipairs(names) do
    core.image.save(folder .. "/images/" .. name, torch.full({ 40, 40 }, 40 * i, { dtype = "uint8" }))
  end
  for name, mask in pairs(masks) do core.image.save(folder .. "/infection masks/" .. name, mask) end
  return function() return xai.dataset.covid_qu_ex { root = dir, part = "infection", size_px = 20, resize_px = 40 } end
end

t.test("masks without an image are reported: masks are matched by file name", function()
  local mask = torch.zeros(40, 40, { dtype = "uint8" })
  t.fails(data_set(t.tmpdir(), { "a.png" }, { ["b.png"] = mask }),
    "dataset: no image for the mask 'Test/COVID-19/infection masks/b.png' (masks and images are matched by file "
    .. "name). Rename or remove it.")
  t.fails(data_set(t.tmpdir(), { "a.png" }, { ["b.png"] = mask, ["c.png"] = mask }),
    "dataset: no image for the mask 'Test/COVID-19/infection masks/b.png' and 1 more (masks and images are matched "
    .. "by file name). Rename or remove it.")
end)

t.test("the share of a finding outside the crop is counted in the file's pixels", function()
  local function with(rows, columns, value)
    local mask = torch.zeros(40, 40, { dtype = "uint8" })
    mask[{ rows, columns }]:fill_(value or 255)
    return mask
  end
  local data = data_set(t.tmpdir(), { "a.png", "b.png", "c.png", "d.png", "e.png" }, {
    ["a.png"] = with({ 5, 15 }, { 10, 30 }), -- the crop holds rows and columns 10 to 29: half of it is above
    ["b.png"] = with({ 0, 5 }, { 0, 5 }), ["c.png"] = with({ 12, 20 }, { 12, 20 }, 1),
    ["d.png"] = torch.zeros(40, 40, { dtype = "uint8" }) })()
  local shares = {}
  for i = 1, 5 do shares[i] = data.test:cropped_share(i, "infection") end
  t.near(shares, { 0.5, 1, 0, 0, 0 }, 1e-12)
  local o = { mask = "infection", sizes = { 0.05, 0.2 }, size_names = finds.size_names { 0.05, 0.2 } }
  local why = {}
  for i = 1, 5 do why[i] = finds.of(data.test, i, o).why or "defined" end
  t.equal(why, { "defined", "cropped away", "defined", "empty mask", "no mask" })
  t.equal(finds.of(data.test, 3, o).size, "5 to 20 %")
end)

t.test("a finding that resizing removes is not called empty", function()
  local dir, mask = t.tmpdir(), torch.zeros(80, 80, { dtype = "uint8" })
  mask[{ { 40, 41 }, { 40, 41 } }]:fill_(255) -- nearest: of rows 40 and 41 the resized picture takes one
  local data = data_set(dir, { "a.png", "b.png" }, { ["a.png"] = mask, ["b.png"] = mask:roll({ 1, 1 }, { 0, 1 }) })
  for _, name in ipairs { "a.png", "b.png" } do
    core.image.save(dir .. "/Infection Segmentation Data/Test/COVID-19/images/" .. name,
      torch.full({ 80, 80 }, 40, { dtype = "uint8" }))
  end
  local test, why = data().test, {}
  for i = 1, 2 do
    why[i] = finds.of(test, i, { mask = "infection", sizes = { 0.05 }, size_names = finds.size_names { 0.05 } }).why
      or "defined"
  end
  table.sort(why)
  t.equal(why, { "defined", "resized away" })
end)
