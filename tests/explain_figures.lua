-- The figures of an explain step: what a method draws itself, statuses, scales and texts in the SVG.
local t = require "t"
local tiny = require "tinyexplain"
local explain = require "medxai.steps.explain"
local figure = require "medxai.show.figure"
local gallery = require "medxai.show.gallery"
local torch = require "medxai.torch"
local host = require "medxai.host"

local was_quiet = host.options.quiet
host.options.quiet = true

local function go(dir, options, n, change)
  local run = tiny.run(dir)
  local scope <close> = require("medxai.core").memory.scope()
  return explain.run(run, tiny.model(), tiny.split(n or 6, change), options), run
end

-- The SVG of the n-th figure whose name holds `kind`.
local function svg_of(result, kind, n)
  for _, f in ipairs(result.figures) do
    if f.name:find("-" .. kind .. "-", 1, true) then
      n = (n or 1) - 1
      if n == 0 then return t.read(result.dir .. "/" .. f.svg), f end
    end
  end
  error("no figure of kind " .. kind, 2)
end

local function texts_of(svg)
  local list = {}
  for text in svg:gmatch("<text[^>]*>([^<]*)</text>") do list[#list + 1] = text end
  return list, table.concat(list, " ") -- lines that were wrapped are whole again
end

-- Raises unless every text and picture lies inside the drawing.
local function check_inside(svg)
  local width, height = svg:match('viewBox="0 0 ([%d.]+) ([%d.]+)"')
  width, height = tonumber(width), tonumber(height)
  local function inside(x0, y0, x1, y1, what)
    t.ok(x0 >= -0.5 and y0 >= -0.5 and x1 <= width + 0.5 and y1 <= height + 0.5,
      ("%s at (%g, %g) to (%g, %g) leaves %g x %g"):format(what, x0, y0, x1, y1, width, height))
  end
  for tag, text in svg:gmatch("<text([^>]*)>([^<]*)</text>") do
    local x, y, size, length = tonumber(tag:match ' x="([%d.%-]+)"'), tonumber(tag:match ' y="([%d.%-]+)"'),
      tonumber(tag:match 'font%-size="([%d.]+)"'), tonumber(tag:match 'textLength="([%d.]+)"')
    if tag:find("rotate", 1, true) then
      inside(x - size, y - length, x + 0.25 * size, y, text)
    else
      inside(x, y - size, x + length, y + 0.25 * size, text)
    end
  end
  for x, y, w, h in svg:gmatch '<image x="([%d.%-]+)" y="([%d.%-]+)" width="([%d.]+)" height="([%d.]+)"' do
    inside(tonumber(x), tonumber(y), x + w, y + h, "a picture")
  end
end

t.test("rows: the image with its prediction, a column per method; wrong ones are red; nothing leaves "
  .. "the page", function()
  local result = go(t.tmpdir(), { methods = { "gradcam", "sobel" }, images = 3, figures = { "rows" } })
  local svg = svg_of(result, "maps")
  local _, texts = texts_of(svg)
  for _, part in ipairs { "image", "Grad-CAM", "Sobel", "clear", "nodule", "opacity", "image 1.png",
      "predicted nodule, 0.46", "nodule, p = 0.46",
    "tiny, test split. Target: predicted (logit); layer conv2.",
    "Own scale: each map runs from 0 to its own maximum; maps cannot be compared in strength.", "share of maximum",
    "0.5" } do
    t.ok(texts:find(part, 1, true), part .. " is not in\n" .. texts)
  end
  t.ok(svg:find('fill="#9a1b1b"[^>]*>predicted nodule, 0.46 %(wrong%)<')
    or svg:find('fill="#9a1b1b"[^>]*>image 1.png<'), "a wrong prediction is not marked")
  check_inside(svg)
end)

t.test("grid: one panel per image under its prediction, wrong ones framed with the true class", function()
  local result = go(t.tmpdir(), { methods = { "gradcam" }, images = "all", figures = { "grid" } }, 19)
  local svg = svg_of(result, "grid")
  local list, texts = texts_of(svg)
  local predictions, frames = 0, 0
  for _, text in ipairs(list) do predictions = predictions + (text:find "^nodule 0%.%d%d$" and 1 or 0) end
  for _ in svg:gmatch 'stroke="#c62828"' do frames = frames + 1 end
  t.equal({ predictions, frames }, { 19, 13 }) -- one class of three is right: images 2, 5 ... 17
  t.ok(texts:find("true: opacity", 1, true) and texts:find("Red frame: wrong (13 of 19).", 1, true), texts)
  check_inside(svg)
end)

t.test("methods: a page per image, each method with its time and the scores of the image and class that "
  .. "is drawn", function()
  local result = go(t.tmpdir(), { methods = { "gradcam", "sobel", "center_blob", "random_smooth" }, images = 2,
    target = "opacity", figures = { "methods" },
    metrics = { { "road_combined", percentiles = { 50 } }, "confidence_change",
      { "road_most_relevant_first", percentiles = { 25, 50 } } } })
  t.equal(#result.figures, 2)
  for i = 1, 2 do
    local svg = svg_of(result, "methods", i)
    local _, texts = texts_of(svg)
    local times = 0
    for _ in texts:gmatch " %d[%d.]* m?s " do times = times + 1 end
    t.equal(times, 4, texts)
    for _, row in ipairs(require("medxai.base.csv").read(result.dir .. "/scores.csv")) do
      if row.image_id == ("%016x"):format(i) and row.metric:find "^road_combined" then
        local value = ("ROAD combined %+.2f"):format(tonumber(row.value)):gsub("%-", "−")
        t.ok(texts:find(value, 1, true) or texts:find(value:gsub("[+−]", ""), 1, true),
          value .. " is not in\n" .. texts)
      end
    end
    for _, part in ipairs { ("image %d.png: opacity, p = 0."):format(i), "Grad-CAM", "center blob",
        "road_combined@1 percentiles=50 removal=noisy_linear(0.01): logit, higher is" } do
      t.ok(texts:find(part, 1, true), part .. " is not in\n" .. texts)
    end
    check_inside(svg)
  end
end)

t.test("each_layer: a map of each layer side by side, under its layer", function()
  local one = go(t.tmpdir(), { methods = { "gradcam" }, each_layer = { "conv2", "conv1" }, images = 1,
    figures = { "rows" } })
  local list = texts_of((svg_of(one, "maps")))
  -- shared settings stand above all
  t.equal({ list[1], list[2], list[3], list[4] }, { "Grad-CAM", "image", "conv2", "conv1" })
  local result = go(t.tmpdir(), { methods = { "gradcam", "sobel" }, each_layer = { "conv2", "conv1" }, images = 1,
    figures = { "rows" } })
  local _, texts = texts_of((svg_of(result, "maps")))
  t.ok(texts:find("Grad-CAM, conv2", 1, true) and texts:find("Grad-CAM, conv1", 1, true)
    and texts:find("layers conv2, conv1", 1, true), texts)
  t.equal(#result.records, 3) -- Sobel has no layer
  local model = tiny.model()
  t.fails(function() explain.check({ methods = { "gradcam" }, each_layer = { "conv2" }, layer = "conv1" }, model) end,
    "explain: layer (one map of all) and each_layer (one map of each) exclude each other.")
  t.fails(function() explain.check({ methods = { "gradcam" }, each_layer = {} }, model) end,
    "explain: each_layer is an empty list (expected names of layers).")
  t.fails_like(function() explain.check({ methods = { "gradcam" }, each_layer = { "conv2", "conv9" } }, model) end,
    "^explain: unknown layer 'conv9'%.")
end)

t.test("options that tell methods apart stand in their labels", function()
  local result = go(t.tmpdir(), { methods = { { "sobel_below", percentile = 25 }, { "sobel_below", percentile = 75 } },
    images = 1, figures = { "rows" }, metrics = { "confidence_change" } })
  local _, texts = texts_of((svg_of(result, "maps")))
  t.equal({ result.statuses[1].label, result.statuses[2].label },
    { "Sobel below, percentile 25", "Sobel below, percentile 75" })
  t.ok(texts:find("Sobel below image percentile 25 percentile 75", 1, true)
    and texts:find("confidence change", 1, true), texts)
end)

t.test("a map that is not ok is labeled as such in every kind of figure", function()
  local place <close> = tiny.beside { none_here = 'return { title = "none here", map = function(ctx) return '
    .. 'require("medxai.torch").zeros(ctx.count, ctx.height, ctx.width) - 1 end }',
    odd_one = 'return { title = "odd one", map = function(ctx) return require("medxai.torch").full({ ctx.count, '
    .. 'ctx.height, ctx.width }, 0 / 0) end }',
    breaks = 'return { title = "breaks", map = function() error("no") end }' }
  local result = go(t.tmpdir(), { methods = { "none_here", "odd_one", "breaks", "sobel" }, images = 1,
    figures = { "rows", "grid", "methods" } }, 3, function(x) return x:fill_(0.5) end)
  local said = { "all negative: nothing speaks", "not a number: the values are", "failed", "flat: no contrast in this" }
  for _, kind in ipairs { "maps", "methods" } do
    local svg = svg_of(result, kind)
    local _, texts = texts_of(svg)
    for _, words in ipairs(said) do
      t.ok(texts:find(words, 1, true), words .. " is not in " .. kind .. "\n" .. texts)
    end
    check_inside(svg)
  end
  local pictures = {} -- of a map without content the image alone is shown
  for picture in svg_of(result, "maps"):gmatch 'data:image/png;base64,([^"]+)' do pictures[#pictures + 1] = picture end
  for _, k in ipairs { 2, 3, 4, 5 } do t.equal(pictures[k], pictures[1]) end
  for i, words in ipairs(said) do
    local _, texts = texts_of((svg_of(result, "grid", i)))
    t.ok(texts:find(words:match "^%S+", 1, true), texts)
  end
end)

t.test("captions state scales and colors", function()
  local place <close> = tiny.beside { fine_lines = 'return { title = "fine lines", sign = "signed", picture = '
    .. '"detail", map = function(ctx) return ctx:image():mean({ 1 }) - 0.25 end }' }
  local function texts(options)
    options.images, options.figures = 1, { "rows" }
    local _, joined = texts_of((svg_of(go(t.tmpdir(), options), "maps")))
    return joined
  end
  t.ok(texts { methods = { "gradcam" }, scale = "shared" }:find(
    "Shared scale: the maps of a method run from 0 to their largest value over these images.", 1, true))
  t.ok(texts { methods = { "gradcam" }, colors = "jet" }:find(
    "Overlay: half image, half JET, stretched to full brightness.", 1, true))
  local detail = texts { methods = { "fine_lines" } }
  t.ok(detail:find("fine lines: signed values, each map brought to mean 0.5 and deviation 0.1; lighter speaks for, "
    .. "darker against.", 1, true), detail)
  t.ok(not detail:find("Own scale", 1, true) and not detail:find("share of maximum", 1, true),
    "a scale that the picture does not have")
end)

t.test("a signed picture equals pytorch-grad-cam's deprocess_image", function()
  local v = torch.tensor({ { -3.0, 0.0, 1.0 }, { 2.0, 40.0, -40.0 } }, { dtype = "float32" })
  local p = figure.detail(v)
  -- numpy: uint8(clip((v - mean) / (std + 1e-5) * 0.1 + 0.5, 0, 1) * 255)
  t.equal({ p.columns, p.rows }, { 3, 2 })
  local gray = {}
  for i = 1, 6 do gray[i] = p.rgb:byte(3 * i - 2) end
  t.equal(gray, { 124, 127, 128, 129, 171, 83 })
end)

t.test("removal: curves and imputed pictures of the first three images, the pictures under their shares", function()
  local result = go(t.tmpdir(), { methods = { "gradcam", "random_smooth" }, images = 5, figures = { "removal" },
    metrics = { { "road_most_relevant_first", percentiles = { 25, 75 } },
    { "road_least_relevant_first", percentiles = { 75 } }, { "road_combined", percentiles = { 50 } },
    { "deletion", steps = 4 } } })
  t.equal(#result.figures, 3)
  local svg = svg_of(result, "removal")
  local _, texts = texts_of(svg)
  for _, part in ipairs { "image 1.png: nodule, p = 0.46", "ROAD", "Grad-CAM, most relevant first",
      "random smooth, least relevant first", "pixels removed (%)", "score (logit)",
    "Deletion and insertion, black", "blur(31,31)", "0 %", "25 %", "75 %", "unchanged", "50 %" } do
    t.ok(texts:find(part, 1, true), part .. " is not in\n" .. texts)
  end
  t.ok(texts:find "most relevant first 0 %% unchanged 25 %% %S+ 50 %% %S+ 75 %% ",
    "what two metrics saw stands in one row\n" .. texts)
  check_inside(svg)
  local none = go(t.tmpdir(), { methods = { "gradcam" }, images = 2, figures = { "removal" },
    metrics = { "energy_inside" }, mask = "lesion" })
  t.equal(#none.figures, 0)
end)

t.test("table and charts: every method and metric with its interval, chance and unit", function()
  local result = go(t.tmpdir(), { methods = { "gradcam", "center_blob" }, images = "all",
    figures = { "table", "charts" }, mask = "lesion",
    metrics = { "energy_inside", { "road_combined", as = "softmax" },
      { "road_most_relevant_first", percentiles = { 25, 50, 75 } }, { "deletion", steps = 2 } } })
  local svg = svg_of(result, "scores")
  local _, texts = texts_of(svg)
  for _, part in ipairs { "Grad-CAM", "center blob", "energy inside", "mask lesion", "chance 0.062", "as softmax",
      "probability, higher", "percentile 50",
    "Means over 6 images with 95 % studentized bootstrap intervals over images (image-level, patients unknown); "
    .. "none: fewer than 10 images.", "4 of 6 images" } do
    t.ok(texts:find(part, 1, true), part .. " is not in\n" .. texts)
  end
  check_inside(svg)
  local charts = 0
  for _, f in ipairs(result.figures) do
    if f.name:find("-score-", 1, true) then
      charts = charts + 1
      check_inside(t.read(result.dir .. "/" .. f.svg))
    end
  end
  t.equal(charts, 5) -- energy, combined, one with lines over the percentiles, deletion by two removals
end)

t.test("unknown kinds of figures are refused, false draws none, a word of the command line is one kind", function()
  t.fails(function() explain.check({ methods = { "gradcam" }, figures = { "grids" } }) end,
    "explain: unknown figure 'grids'. Did you mean 'grid'?")
  t.equal(#go(t.tmpdir(), { methods = { "gradcam" }, images = 1, figures = false }).figures, 0)
  t.equal(gallery.kinds "grid", { "grid" })
end)

t.test("a method draws its own figures of the chosen images, with its arrays", function()
  local seen = {}
  rawset(_G, "seen_pages", seen) -- the method file sees the same globals
  local place <close> = tiny.beside { own_pages = [[
    local figure = require "medxai.show.figure"
    return { title = "own pages", at = "input", map = function(ctx) return ctx:image():mean({ 1 }) end,
      draw = function(page)
        local rows = {}
        for i, number in ipairs(page.numbers) do
          local image, map = page:image(number), page:map(number)
          seen_pages[i] = { image.shape, map.shape, page:record(number).status, page:item(number).name, page:array(number, "none") == nil }
          rows[i] = { label = page:record(number).label, panels = { { pixels = figure.overlay(image, map, "diverging", -1, 1), title = "drawn by itself" } } }
        end
        page:save("extra", figure.panels { rows = rows, bars = { { colors = "diverging", lo = -1, hi = 1, label = "signed" } } }, "An own figure")
      end }]] }
  local dir = t.tmpdir()
  local result = go(dir, { methods = { "own_pages" }, images = 2 })
  rawset(_G, "seen_pages", nil)
  t.equal(seen, { { { 3, 32, 32 }, { 32, 32 }, "ok", "image 1.png", true },
    { { 3, 32, 32 }, { 32, 32 }, "ok", "image 2.png", true } })
  t.equal(#result.figures, 2)
  t.equal(result.figures[2].title, "An own figure")
  t.ok(result.figures[2].name:find("^explain%-%x+%-own_pages%-%x+%-extra$"), result.figures[2].name)
  t.ok(t.read(dir .. "/" .. result.figures[2].svg):find(">drawn by itself</text>", 1, true))
end)

t.test("a drawing that fails is reported and stops nothing else", function()
  local place <close> = tiny.beside {
    broken_pages = 'return { title = "broken pages", at = "input", map = function(ctx) return ctx:image():mean({ 1 '
    .. '}) end, draw = function() error("no ink") end }', wrong_pages = 'return { map = function() end, draw = 3 }' }
  local result, run = go(t.tmpdir(), { methods = { "broken_pages" }, images = 1 })
  t.equal({ result.records[1].status, #result.figures }, { "ok", 1 })
  t.ok(run.warnings[1]:find("^explain: broken pages could not draw its figures: .*no ink$"), run.warnings[1])
  t.fails(function() explain.check({ methods = { "wrong_pages" } }) end,
    "explain: method 'wrong_pages': draw is a number (expected draw = function(page)).")
end)

host.options.quiet = was_quiet
