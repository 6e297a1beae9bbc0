-- The figures of studies: what they show is what the tables say, nothing overlaps or is cut, and what has no number is
-- not drawn but said; with one network or seven, one method or thirty.
local t = require "t"
local compare = require "medxai.show.compare_figures"
local csv = require "medxai.base.csv"
local drawing = require "medxai.show.drawing"
local files = require "medxai.base.files"
local linkage = require "medxai.stats.linkage"
local montage = require "medxai.show.montage"
local palette = require "medxai.show.palette"
local plot = require "medxai.show.plot"
local torch = require "medxai.torch"
local tiny = require "tinyrows"

-- ---- drawings -------------------------------------------------------------------------------------------------------

-- The boxes of a drawing's texts: { left, right, top, bottom, text }, letters without what hangs below the line.
local function boxes_of(d)
  local list = {}
  for _, m in ipairs(d.marks) do
    if m[1] == "text" then
      local x, y, size, width = m[2], m[3], m[5], m[9]
      list[#list + 1] = m[8] and { left = x - 0.7 * size, right = x, top = y - width, bottom = y, text = m[4] }
        or { left = x, right = x + width, top = y - 0.7 * size, bottom = y, text = m[4] }
    end
  end
  return list
end

-- Raises where a text lies outside the drawing, or on another text.
local function check_texts(d, name)
  local list = boxes_of(d)
  for i, a in ipairs(list) do
    if a.left < -0.5 or a.right > d.width + 0.5 or a.top < -0.5 or a.bottom > d.height + 3.5 then
      error(("%s: '%s' is cut: %.1f to %.1f, %.1f to %.1f of %.1f x %.1f"):format(name, a.text, a.left, a.right, a.top,
        a.bottom, d.width, d.height), 2)
    end
    for j = i + 1, #list do
      local b = list[j]
      if a.left + 0.5 < b.right and b.left + 0.5 < a.right and a.top + 0.5 < b.bottom and b.top + 0.5 < a.bottom then
        error(("%s: '%s' and '%s' overlap"):format(name, a.text, b.text), 2)
      end
    end
  end
end

-- Draws everything that a folder's tables give without writing files; name -> drawing.
local function drawn_in(dir, o)
  local save, out = plot.save, {}
  plot.save = function(_, name, f) -- luacheck: ignore
    out[name] = f.drawing
    return { name = name, title = f.title, svg = "", paths = {}, rows = f.rows }
  end
  local ok, problem = pcall(function()
    local run = { dir = dir }
    require("medxai.show.network_figures").draw(run, { primary = "auroc_macro", margin = 0.05 })
    require("medxai.show.sanity_figures").draw(run)
    require("medxai.show.audit_figures").draw(run, 0.638)
    require("medxai.show.study_figures").draw(run, o)
  end)
  plot.save = save
  if not ok then error(problem, 0) end
  return out
end

local function all_texts(d)
  local list = {}
  for _, m in ipairs(d.marks) do
    if m[1] == "text" then list[#list + 1] = m[4] end
  end
  return table.concat(list, " ")
end

-- ---- all figures ----------------------------------------------------------------------------------------------------

t.test("with one to seven networks and one to thirty methods no text is cut or lies on another, however long the names",
  function()
  for _, size in ipairs { { 1, 1 }, { 2, 4 }, { 3, 10 }, { 7, 4 }, { 12, 2 }, { 2, 30 } } do
    local dir = t.tmpdir()
    local drawings = drawn_in(dir, tiny.write(dir, size[1], size[2]))
    local count = 0
    for name, d in pairs(drawings) do
      check_texts(d, ("%s of %d networks and %d methods"):format(name, size[1], size[2]))
      t.ok(d.width <= drawing.PAGE and d.height > 20 and d.height <= 760, ("%s: %.0f x %.0f pt is no page"):format(name,
        d.width, d.height))
      count = count + 1
    end
    t.ok(count >= 2 * size[1] + 5, ("%d figures"):format(count))
  end
end)

t.test("every figure is there as SVG, PDF, PNG and table, the same to the byte when drawn again; old ones are removed",
  function()
  local dir = t.tmpdir()
  local o, run = tiny.write(dir, 2, 4), { dir = dir }
  files.mkdir(dir .. "/figures")
  files.write(dir .. "/figures/compare-gains-gone.svg", "old")
  files.write(dir .. "/figures/maps.svg", "of another step")
  local function draw()
    local list = require("medxai.show.study_figures").draw(run, o)
    for _, f in ipairs(require("medxai.show.network_figures").draw(run, { primary = "auroc_macro" })) do
      list[#list + 1] = f
    end
    local bytes = {}
    for _, path in ipairs(plot.paths(list)) do bytes[path] = t.ok(files.read(dir .. "/" .. path), path) end
    return list, bytes
  end
  local list, bytes = draw()
  t.ok(#list >= 8)
  for _, f in ipairs(list) do
    t.equal(#f.paths, 4)
    t.ok(bytes[f.svg]:find("^<svg") and bytes[f.paths[2]]:find "^%%PDF" and bytes[f.paths[3]]:find "^\137PNG", f.name)
  end
  local _, again = draw()
  for path, one in pairs(bytes) do t.ok(again[path] == one, path .. " differs when drawn again") end
  t.ok(not files.exists(dir .. "/figures/compare-gains-gone.svg") and files.exists(dir .. "/figures/maps.svg"))
end)

t.test("the table beside a figure says what the step's table says: gains, ranks, areas, stages", function()
  local dir = t.tmpdir()
  local o, run = tiny.write(dir, 2, 4), { dir = dir }
  require("medxai.show.study_figures").draw(run, o)
  require("medxai.show.audit_figures").draw(run, 0.638)
  require("medxai.show.sanity_figures").draw(run)
  local methods = {}
  for _, row in ipairs((csv.read(dir .. "/tables/methods.csv"))) do
    methods[row.run .. row.metric .. row.method] = row
  end
  for _, part in ipairs { { "gains", { "gain", "gain_low", "gain_high", "above_swap", "gate" } },
    { "ranks", { "mean", "rank_low", "rank_high", "gate" } } } do
    local rows = csv.read(dir .. "/figures/compare-" .. part[1] .. "-net1.csv")
    t.ok(#rows >= 12)
    for _, row in ipairs(rows) do
      local own = t.ok(methods[row.run .. row.metric .. row.method])
      for _, key in ipairs(part[2]) do t.equal(tonumber(row[key]) or row[key], tonumber(own[key]) or own[key], key) end
    end
  end
  local function same(first, second, columns)
    local a, b = csv.read(dir .. first), csv.read(dir .. second)
    for i, row in ipairs(a) do
      for _, key in ipairs(columns) do t.equal(row[key], b[i][key], key) end
    end
    return #a
  end
  t.equal(same("/figures/audit-inputs.csv", "/tables/audit.csv", { "input", "class", "auroc", "low", "verdict" }), 20)
  t.equal(same("/figures/sanity-cascade-net1.csv", "/tables/gate_stages.csv", { "label", "stage", "similarity" }), 18)
end)

t.test("two models whose names differ in signs alone have figures of their own", function()
  t.equal(plot.file_name("gains-a b", {}), "gains-a-b")
  t.equal(plot.file_name("gains-a:b", { { name = "gains-a-b" }, { name = "gains-a-b-2" } }), "gains-a-b-3")
end)

-- ---- gains ----------------------------------------------------------------------------------------------------------

-- What figures.gains and the others take, of rows written down here.
local function context(methods, more)
  local c = { methods = methods, pairs = {}, costs = {}, primary = "up", baselines = {},
    directions = { up = "higher", down = "lower", size = "none" }, short = function(m) return m end,
    silent = function() end, models = { "net" } }
  for key, value in pairs(more or {}) do c[key] = value end
  return c
end

local function gain(metric, method, value, more)
  local row = { run = "net", metric = metric, method = method, n = 20, units = 20, gain = value, mean = value,
    interval = "studentized bootstrap" }
  for key, v in pairs(more or {}) do row[key] = v end
  return row
end

local function rects(d, color)
  local n = 0
  for _, m in ipairs(d.marks) do n = n + (m[1] == "rect" and m[6] == color and m[5] == 12 and 1 or 0) end
  return n
end

t.test("a gain is blue only where its row says that it is above swap; lower is better turns the sign; none is said",
  function()
  local c = context { gain("up", "a", 0.25, { above_swap = "better" }),
    gain("up", "b", 0.2, { above_swap = "undecided" }),
    gain("down", "a", -0.5, { above_swap = "better" }), gain("down", "b", 0.1, { above_swap = "worse" }),
    gain("up", "c", 0 / 0), gain("down", "c", nil), gain("size", "a", 3) }
  local d, rows = compare.gains(c, "net")
  t.equal(rects(d, plot.PALE), 2, "gray: not above")
  t.equal(rects(d, palette.at("blues", 0.87)), 2, "the largest of each column")
  local texts = all_texts(d)
  for _, text in ipairs { "+0.25", "+0.20", "+0.50", "−0.10", "none", "down ↓", "Not shown, since they describe" } do
    t.ok(texts:find(text, 1, true), text)
  end
  t.ok(not texts:find("3.0", 1, true) and not texts:find("nan", 1, true), "what describes has no gain")
  local shown = {}
  for _, row in ipairs(rows) do shown[row.metric .. row.method] = row.shown end
  t.equal(shown, { upa = 0.25, upb = 0.2, downa = 0.5, downb = -0.1 })
  local same = compare.gains(context { gain("up", "a", 0, { above_swap = "undecided" }) }, "net")
  t.equal(rects(same, plot.PALE), 1, "all gains 0")
end)

t.test("a method that failed the gate is hatched and stands after the others; without a gate nothing is", function()
  local function slanted(d)
    local n = 0
    for _, m in ipairs(d.marks) do n = n + (m[1] == "line" and #m[2] == 4 and m[2][1] ~= m[2][3] and m[2][2] ~= m[2][4]
      and 1 or 0) end
    return n
  end
  local better = { above_swap = "better" }
  local key = slanted((compare.gains(context { gain("up", "a", 1, better), gain("up", "b", 2, better) }, "net")))
  local bad = { above_swap = "better", gate = "gate failed: weights" }
  local d, rows = compare.gains(context { gain("up", "a", 1, bad), gain("up", "b", 2, better) }, "net")
  t.ok(slanted(d) > key, "the key alone is hatched where nothing failed")
  t.equal({ rows[1].method, rows[2].method }, { "b", "a" })
end)

-- ---- ranks, cost ----------------------------------------------------------------------------------------------------

t.test("ranks: bars are the rows' ranges; a metric that cannot tell says so; groups come from the pairs", function()
  local methods = {}
  for i, name in ipairs { "a", "b", "c" } do
    methods[i] = gain("up", name, 1 - i / 10, { rank_low = i < 3 and 1 or 3, rank_high = i < 3 and 2 or 3 })
    methods[i + 3] = gain("down", name, i)
  end
  local function pair(a, b, decision)
    return { family = "compare net up", a = a, b = b, decision = decision }
  end
  local c = context(methods, { pairs = { pair("a", "b", "undecided"), pair("a", "c", "better"),
    pair("b", "c", "better") }, silent = function(_, metric) return metric == "down" and "cannot tell" or nil end })
  local parts = compare.ranks(c, "net")
  t.equal({ #parts, #parts[1].rows }, { 1, 6 })
  local d = parts[1].drawing
  local wide, groups = {}, 0
  for _, m in ipairs(d.marks) do
    if m[1] == "rect" then wide[#wide + 1] = m[4] end
    groups = groups + (m[1] == "circle" and 1 or 0)
  end
  t.equal(#wide, 3)
  t.ok(wide[1] > 20 and wide[1] == wide[2] and wide[3] == 4, "two ranks, two ranks, one")
  t.equal(groups, 2, "one group, of a and b")
  t.ok(all_texts(d):find("cannot tell", 1, true))
  t.equal(#compare.ranks(context { gain("up", "a", 1) }, "net"), 0, "one method is not ranked")
end)

t.test("cost: marked is what nothing beats in seconds and gain; baselines and failed methods beat nothing", function()
  local c = context({ gain("up", "fast", 0.1), gain("up", "good", 0.3), gain("up", "slow", 0.2),
    gain("up", "base", 0.9), gain("up", "bad", 0.8, { gate = "gate failed: image" }), gain("up", "untimed", 0.5),
    gain("up", "equal", 0.3) }, { baselines = { base = true } })
  for name, seconds in pairs { fast = 1, good = 2, slow = 5, base = 0.1, bad = 0.1, equal = 2 } do
    c.costs[#c.costs + 1] = { run = "net", method = name, images = 10, map_seconds = 10 * seconds }
  end
  local d, rows = compare.costs(c, { "net" })
  local best = {}
  for _, row in ipairs(rows) do best[row.method] = row.undominated end
  t.equal(best, { fast = "yes", good = "yes", equal = "yes", slow = "no", base = "no", bad = "no", untimed = "no" })
  t.ok(all_texts(d):find("without a gain or a time: 6", 1, true))
  c.costs = {}
  t.equal(compare.costs(c, { "net" }), nil, "no times, no figure")
end)

-- ---- matrices -------------------------------------------------------------------------------------------------------

t.test("average linkage: heights are means over members; what is unknown of everything stays apart", function()
  -- By hand: 1 and 2 at 0.2, 3 and 4 at 0.3, then the mean of 0.6, 0.8, 0.7, 0.9.
  local merges, order = linkage.average { { 0, 0.2, 0.6, 0.8 }, { 0.2, 0, 0.7, 0.9 }, { 0.6, 0.7, 0, 0.3 },
    { 0.8, 0.9, 0.3, 0 } }
  t.near({ merges[1].height, merges[2].height, merges[3].height }, { 0.2, 0.3, 0.75 }, 1e-12)
  t.equal(order, { 1, 2, 3, 4 })
  t.equal({ merges[3].a == merges[1], merges[3].b == merges[2] }, { true, true })
  merges, order = linkage.average { { 0, 0 / 0, 0.1 }, { 0 / 0, 0 }, { 0.1, nil, 0 } }
  t.equal({ #merges, order }, { 1, { 1, 3, 2 } })
  merges = linkage.average { { 0, 0.5, 0.1 }, { 0.5, 0 }, { 0.1, nil, 0 } }
  t.equal({ #merges, merges[2].height }, { 2, 0.5 }, "2 and 3 are unknown: the mean is of what is known")
end)

t.test("agreement that is undefined is crossed out and counted", function()
  local matrices = require "medxai.show.matrix_figures"
  local function row(a, b, value)
    return { kind = "method", a = "net: " .. a, b = "net: " .. b, measure = "spearman", view = "shown",
      agreement = value, n = 20 }
  end
  local c = context({}, { agreement = { row("x", "y", 0.8), row("x", "z", nil), row("y", "z", 0.1) } })
  local parts = matrices.agreement(c, "method")
  t.equal(#parts, 1)
  local texts = all_texts(parts[1].drawing)
  t.ok(texts:find("Crossed out: undefined (1 pair).", 1, true), texts)
  t.ok(texts:find(".80", 1, true) and texts:find("0.20", 1, true), "a cell, and the height of its merge")
  t.equal(#matrices.agreement(context({}, { agreement = {} }), "network"), 0)
end)

-- ---- montage --------------------------------------------------------------------------------------------------------

-- An album of one image, two networks, two methods: the second network's first map is half as strong, its second none.
local function made_album()
  local function map(_, n, m)
    local info = { text = "predicted " .. (n == 1 and "Normal" or "COVID-19"), raw = { 0, n == 1 and 4 or 2 } }
    if m == 3 then return torch.zeros { 8, 8 }, info end
    if m == 2 and n == 2 then return nil, { note = "gate failed: weights; no map" } end
    if m == 2 then info.raw = nil end
    return torch.arange(64, { dtype = "float32" }):div(63):view { 8, 8 }, info
  end
  return { images = { { id = "a.png", text = "label Normal", class = "Normal" } }, networks = { "one", "two" },
    methods = { "first", "second", "third" }, map = map,
    picture = function() return torch.zeros({ 40, 60, 3 }, { dtype = "uint8" }) end }
end

-- The colors in the middle of the pictures of a drawing, in their order.
local function centers(d)
  local out = {}
  for _, m in ipairs(d.marks) do
    if m[1] == "image" then
      local at = 3 * ((m[8] // 2) * m[7] + m[7] // 2)
      out[#out + 1] = m[6]:byte(at + 1)
    end
  end
  return out
end

t.test("a montage shows every map of an image: on the shared scale the weaker map is darker", function()
  local list = montage.of(made_album(), 1)
  t.equal({ #list, list[1].name, list[2].name }, { 2, "montage-own", "montage-shared" })
  local own, shared = centers(list[1].drawing), centers(list[2].drawing)
  t.equal(#own, 8, "the image and three maps, for two networks")
  t.equal(own[3], own[4])
  t.equal(shared[3], own[3], "the strongest map is the same on both scales")
  t.ok(shared[4] < shared[3], "half as strong")
  local texts = all_texts(list[2].drawing)
  for _, text in ipairs { "Without a shared scale, and not shown: second.", "predicted COVID-19", "flat map" } do
    t.ok(texts:gsub("%s+", " "):find(text, 1, true), text)
  end
  t.ok(all_texts(list[1].drawing):find("gate failed: weights;", 1, true))
  t.equal({ #list[1].rows, #list[2].rows }, { 6, 4 })
  t.equal({ list[2].rows[2].raw_maximum, list[2].rows[2].scale_maximum, list[1].rows[4].note }, { 2, 4,
    "gate failed: weights; no map" })
  for _, one in ipairs(list) do check_texts(one.drawing, one.name) end
end)

t.test("the page shows charts as SVG and a montage as a picture, each with its title", function()
  local dir, out = t.tmpdir(), {}
  local figures = montage.draw({ dir = dir }, made_album())
  local d = drawing.new(100, 50)
  d:text(10, 20, "chart", { size = 7 })
  figures[#figures + 1] = plot.save({ dir = dir }, "chart", { title = "A & B", drawing = d, columns = { "x" },
    rows = { { x = 0 / 0 } } })
  t.equal(files.read(dir .. "/figures/chart.csv"), "x\n\n")
  plot.put({ dir = dir }, function(_, form, ...) out[#out + 1] = form:format(...) end, { figures = figures })
  t.equal(#out, 3)
  t.ok(out[1]:find('src="data:image/jpeg;base64,', 1, true) and out[1]:find("own scale", 1, true))
  t.ok(out[3]:find("<svg", 1, true) and out[3]:find("<figcaption>A &amp; B. <span", 1, true))
end)

-- ---- what the steps compute for figures -----------------------------------------------------------------------------

t.test("the chance band of a reliability diagram is the binomial's where confidences are equal, and exact where not",
  function()
  local calibration = require "medxai.stats.calibration"
  local function band(confidences)
    local hits = {}
    for i = 1, #confidences do hits[i] = 1 end
    local bins = calibration.reliability(confidences, hits, { groups = 1 })
    t.equal({ #bins, bins[1].n, bins[1].accuracy }, { 1, #confidences, 1 })
    return { bins[1].low, bins[1].high }
  end
  local function equal(n, p)
    local list = {}
    for i = 1, n do list[i] = p end
    return list
  end
  t.near(band(equal(20, 0.5)), { 6 / 20, 14 / 20 }, 1e-12, "qbinom(c(.025, .975), 20, .5) of R")
  t.near(band(equal(10, 0.9)), { 7 / 10, 1 }, 1e-12, "qbinom(c(.025, .975), 10, .9)")
  t.near(band { 1, 1, 0.5 }, { 2 / 3, 1 }, 1e-12, "two are certain")
  t.near(band { 0, 0, 0 }, { 0, 0 }, 1e-12)
  t.equal(#calibration.reliability({}, {}), 0)
  local bins = calibration.reliability({ 0.9, 0.2, 0.8, 0.3 }, { 1, 0, 1, 1 }, { groups = 2 })
  t.near({ bins[1].confidence, bins[1].accuracy, bins[2].confidence, bins[2].accuracy }, { 0.25, 0.5, 0.85, 1 }, 1e-12)
end)

t.test("tau-b of two metrics is that of the ranking with intervals; settings and metrics that cannot tell are left out",
  function()
  local rankings, tables = require "medxai.stats.rankings", require "medxai.score.study_tables"
  local units = require "medxai.stats.units"
  local images, patients, groups = {}, {}, {}
  for i = 1, 12 do images[i], patients[i] = "i" .. i, "p" .. i end
  local over = units.over(12, patients, { seed = 1, id = "compare" })
  local metrics, methods = { "a", "b", "blind", "a2" }, { "x", "y", "z", "base" }
  for m, metric in ipairs(metrics) do
    for k, method in ipairs(methods) do
      local values = {}
      for i = 1, 12 do values[i] = (k * (m == 2 and 5 or 3)) % 7 + 0.01 * i end
      groups[metric .. method] = { value = values }
    end
  end
  local data = { runs = { "net" }, metrics = metrics, methods = methods, images = images, over = over,
    baselines = { base = true }, directions = { a = "higher", b = "lower", blind = "higher", a2 = "higher" },
    of = function(_, metric, method) return groups[metric .. method] end }
  local rows = tables.metrics_tau(data, { tells = { net = { blind = false } } }, { a2 = "a" })
  t.equal({ #rows, rows[1].a, rows[1].b, rows[1].methods, rows[1].n }, { 1, "a", "b", 3, 12 })
  local function of(metric, direction)
    return { values = { groups[metric .. "x"].value, groups[metric .. "y"].value, groups[metric .. "z"].value },
      direction = direction }
  end
  t.near(rows[1].tau_b, rankings.tau_b(over, of("a", "higher"), of("b", "lower")).mean, 1e-15)
end)
