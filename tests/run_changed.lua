-- What an experiment reads beside images and weights is noticed when it changes: mask files, the code of a researcher's
-- own methods and metrics with all that it leans on, their options, the seed. What has not changed is not done again.
local t = require "t"
local code = require "medxai.base.fingerprint"
local core = require "medxai.core"
local csv = require "medxai.base.csv"
local files = require "medxai.base.files"
local host = require "medxai.host"
local tiny = require "tinyexplain"
local torch = require "medxai.torch"

local was_quiet = host.options.quiet
host.options.quiet = true

-- Four images with their lungs and lesions as a manifest, and a tiny network.
local experiment = [[
local xai = require "medxai"
local run = xai.run { name = "tiny", seed = 7 }
local data = xai.dataset.manifest { csv = "manifest.csv", size_px = 32, resize_px = 32, classes = { "a", "b" } }
local model = xai.graph.network { name = "tiny", classes = data.classes, size_px = 32, cam_layer = "conv", seed = 7,
  build = function(g, x)
    x = g:relu("relu", g:conv2d("conv", x, { 3, 4, 3, padding = 1 }))
    return g:linear("fc", g:flatten("flat", g:adaptive_avg_pool2d("pool", x, 2)), { 16, 2 })
  end }
]]

local function square(top, left)
  local m = torch.zeros(32, 32, { dtype = "uint8" })
  m[{ { top, top + 12 }, { left, left + 10 } }]:fill_(255)
  return m
end

local function lungs(top) return square(top, 2) + square(top, 18) end

local function make_data(dir)
  local lines, at = { "path,label,split,lungs,lesion" }, torch.arange(32 * 32, { dtype = "float64" })
  for i = 1, 4 do
    core.image.save(dir .. ("/%d.png"):format(i),
      (torch.sin(at * at * (0.11 + 0.01 * i)) * 120 + 125):view({ 32, 32 }):to { dtype = "uint8" })
    core.image.save(dir .. ("/%d_lungs.png"):format(i), lungs(6))
    core.image.save(dir .. ("/%d_lesion.png"):format(i), square(10, i))
    lines[i + 1] = ("%d.png,%s,test,%d_lungs.png,%d_lesion.png"):format(i, i % 2 == 0 and "a" or "b", i, i)
  end
  t.write(dir .. "/manifest.csv", table.concat(lines, "\n") .. "\n")
end

-- Runs the experiment with more lines in its folder; its answer, with the values that scores.csv holds by metric, image
-- and method.
local function go(dir, more, ...)
  t.write(dir .. "/tiny.lua", experiment .. more)
  local r = t.run { cwd = dir, "--threads", "1", "--out", dir .. "/out", "tiny.lua", ... }
  if r.code ~= 0 then error(r.err .. r.out, 2) end
  r.values, r.skipped = {}, select(2, r.err:gsub("not done again", ""))
  for _, row in ipairs(csv.read(dir .. "/out/scores.csv") or {}) do
    r.values[row.metric .. " " .. row.image_id .. " " .. row.method] = row.value
  end
  return r
end

local function differing(a, b)
  local keys = {}
  for key, value in pairs(a.values) do
    if b.values[key] ~= value then keys[#keys + 1] = (key:gsub(" %x+ ", " ")) end
  end
  table.sort(keys)
  return keys
end

t.test("masks by which maps are judged: another file, another score", function()
  local dir = t.tmpdir()
  make_data(dir)
  local explain = [[run:explain(model, data.test, { methods = { "sobel" }, images = "all", mask = "lesion", figures = false,
    metrics = { "energy_inside", { "confidence_change", within = "lungs" }, "confidence_drop" } })]]
  local first, again = go(dir, explain), go(dir, explain)
  t.equal({ first.skipped, again.skipped, differing(first, again) }, { 0, 1, {} })
  core.image.save(dir .. "/2_lesion.png", square(18, 20))
  local lesion = go(dir, explain)
  t.equal({ lesion.skipped, differing(again, lesion) }, { 0, { "energy_inside@1 mask=lesion sobel" } })
  core.image.save(dir .. "/3_lungs.png", lungs(18))
  local lung = go(dir, explain)
  t.equal({ lung.skipped, differing(lesion, lung) }, { 0, { "confidence_change@1 within=lungs sobel" } })
  local rows = csv.read(dir .. "/out/scores.csv")
  t.equal(#rows, 12)
  for _, row in ipairs(rows) do t.equal(#row.mask_sha256, row.metric:find "drop" and 0 or 16, row.metric) end
  t.equal(files.lines(dir .. "/out/maps/index.jsonl")[5], nil) -- no map was made again
end)

t.test("masks of which maps are made: the lung baseline, a data mask, lung zones and regions in files", function()
  local dir = t.tmpdir()
  make_data(dir)
  files.mkdir(dir .. "/own")
  for i = 1, 4 do torch.save_npy(dir .. ("/own/%d.npy"):format(i), square(8, 8):to { dtype = "int64" }) end
  local explain = [[
    local function grid(regions) return { "lime", samples = 8, regions = regions } end
    run:explain(model, data.test, { images = 1, figures = false, methods = { "whole_lung", { "data_mask", mask = "lesion" }, grid "lung_zones",
      grid { "file", path = "own/{name}.npy" }, grid { "grid", rows = 2, columns = 2 } } })]]
  local function sets(r)
    t.equal(r.code, 0)
    return #files.list(dir .. "/out/maps") - 1 -- without the index
  end
  t.equal(sets(go(dir, explain)), 5)
  t.equal(go(dir, explain).skipped, 1)
  core.image.save(dir .. "/1_lesion.png", square(18, 20))
  t.equal(sets(go(dir, explain)), 6)
  core.image.save(dir .. "/1_lungs.png", lungs(18))
  t.equal(sets(go(dir, explain)), 8)
  torch.save_npy(dir .. "/own/1.npy", square(4, 4):to { dtype = "int64" })
  t.equal(sets(go(dir, explain)), 9)
end)

t.test("masks through which the network sees the images: maps and evaluation are those of the new ones", function()
  local dir = t.tmpdir()
  make_data(dir)
  local steps = [[run:evaluate(model, data.test)
    run:explain(model, data.test, { methods = { "sobel" }, images = 2, figures = false })]]
  go(dir, steps, "--input", "lungs_raw")
  local before = t.read(dir .. "/out/predictions.csv")
  t.equal(go(dir, steps, "--input", "lungs_raw").skipped, 2)
  core.image.save(dir .. "/1_lungs.png", lungs(18))
  local r = go(dir, steps, "--input", "lungs_raw")
  t.equal(r.skipped, 0)
  t.ok(t.read(dir .. "/out/predictions.csv") ~= before)
  t.equal(#files.list(dir .. "/out/maps"), 3)
  local step = files.read_data(dir .. "/out/steps/evaluate-test.json")
  t.equal(#step.fields.data.masks_sha256, 64)
end)

-- Runs an own function with these lines before it; how many sets of maps there are then, and how many steps were not
-- done again.
local function own(dir, before, body)
  local r = go(dir, before .. "\nrun:explain(model, data.test, { images = 1, figures = false, methods = { mine = "
    .. "function(x, m) " .. body .. " end } })")
  t.equal(r.err:find "failed", nil, r.err)
  return { #files.list(dir .. "/out/maps") - 1, r.skipped }
end

t.test("an own function is what it leans on: numbers, tables, tensors and functions outside it", function()
  local form = [[
    local torch = require "medxai.torch"
    local GAIN, rules, floor = %s, { at = { %s }, [1] = true }, math.%s
    rules.self = rules -- a table that holds itself
    local w = torch.full({ 32, 32 }, %s)
    local function count(n) return n == 0 and floor(%s) or count(n - 1) end
    local function helper(y) return y:mul(%s):add(w):mul(rules.at[1] + count(2)) end
    return function(x) return helper(x) * GAIN end]]
  local values, seen = { "1", "2", "floor", "1.5", "3.7", "4" }, {}
  local function text() return code.of_function(load(form:format(table.unpack(values)))()) end
  local first = text()
  t.equal(text(), first)
  for i, other in ipairs { "2", "3", "ceil", "2.5", "4.7", "5" } do
    local kept = values[i]
    values[i] = other
    seen[i] = text()
    for k = 0, i - 1 do t.ok(seen[i] ~= (seen[k] or first), "value " .. i .. " changes nothing") end
    values[i] = kept
  end
  form = form:gsub(" %-%- a table", " -- one")
  t.equal(text(), first)
  t.equal(code.of_function(load "return function(x) return x end" ()),
    string.dump(load "return function(x) return x end" (), true))
end)

t.test("an own function whose helper changes is done again", function()
  local dir = t.tmpdir()
  make_data(dir)
  local helper = "local GAIN, helper = %s, function(x) return x:select(0, 0):select(0, 0):%s() end"
  t.equal(own(dir, helper:format(1, "abs"), "return helper(x) * GAIN"), { 1, 0 })
  t.equal(own(dir, helper:format(1, "abs"), "return helper(x) * GAIN"), { 1, 1 })
  t.equal(own(dir, helper:format(2, "abs"), "return helper(x) * GAIN"), { 2, 0 })
  t.equal(own(dir, helper:format(2, "neg"), "return helper(x) * GAIN"), { 3, 0 })
end)

t.test("an own function that holds on to the run, the data and the model is not done again; other weights are "
  .. "another method", function()
  local dir = t.tmpdir()
  make_data(dir)
  local more = "local torch = require 'medxai.torch' local started = run:heartbeat('beginning')"
  local body = "assert(run.name and xai.dataset and data.test.n == 4) return "
    .. "model:parameters()[1].tensor:sum():detach() * x:select(0, 0):select(0, 0)"
  t.equal(own(dir, more, body), { 1, 0 })
  t.equal(own(dir, more, body), { 1, 1 })
  local other = "local mine = model model = xai.graph.network { name = 'tiny', classes = data.classes, size_px = "
    .. "32, cam_layer = 'conv', seed = 7, build = function(g, x) return "
    .. "g:linear('fc', g:flatten('flat', g:adaptive_avg_pool2d('pool', g:conv2d('conv', x, { 3, 4, 3, padding = 1 "
    .. "}), 2)), { 16, 2 }) end } "
  body = body:gsub("model", "mine")
  local doubled = "require('medxai.torch').no_grad(function() mine:parameters()[1].tensor:mul_(2) end)"
  t.equal({ own(dir, other, body), own(dir, other .. doubled, body) }, { { 2, 0 }, { 3, 0 } })
end)

t.test("an own file is also the modules beside it that it requires, at once or when it runs", function()
  local dir = t.tmpdir()
  make_data(dir)
  files.mkdir(dir .. "/more")
  local function helpers(a, b)
    t.write(dir .. "/my_helper.lua",
      ("local deep = require 'more.deep' return { f = function(x) return deep(x):mul(%s) end }"):format(a))
    t.write(dir .. "/more/deep.lua", ("return function(x) return x:mul(%s) end"):format(b))
  end
  t.write(dir .. "/my_m.lua", [[return function(x) return require("my_helper").f(x:select(0, 0):select(0, 0)) end]])
  t.write(dir .. "/my_s.lua",
    [[local helper = require "my_helper" return { measure = function(map) return helper.f(map):sum():item() end }]])
  local explain = [[local h = require "my_helper" run:explain(model, data.test, { images = 1, figures = false, metrics = { "my_s" },
    methods = { "my_m", mine = function(x) return h.f(x:select(0, 0):select(0, 0)) end, sobel = {} } })]]
  local function after()
    local r, ids = go(dir, explain), {}
    for _, row in ipairs(csv.read(dir .. "/out/scores.csv")) do ids[row.metric] = true end
    local n = 0
    for _ in pairs(ids) do n = n + 1 end
    return { #files.list(dir .. "/out/maps") - 1, n, r.skipped }
  end
  helpers(1, 1)
  t.equal(after(), { 3, 1, 0 })
  t.equal(after(), { 3, 1, 1 })
  helpers(2, 1)
  t.equal(after(), { 5, 2, 0 })
  helpers(2, 2)
  t.equal(after(), { 7, 3, 0 })
  t.write(dir .. "/other.lua", "return 1") -- which nobody requires
  t.equal(after(), { 7, 3, 1 })
end)

t.test("an own method may draw from anywhere: with another seed its maps are others", function()
  local dir = t.tmpdir()
  t.write(dir .. "/drawn.lua", "return { map = function(ctx, x) local torch = require 'medxai.torch' return "
    .. "torch.full({ 1, 32, 32 }, math.random()):add(x:select(1, 0)) end }")
  local restore <close> = tiny.beside(dir)
  local function sets(seed)
    local run = tiny.run(dir)
    run.seed = seed
    local result = require("medxai.steps.explain").run(run, tiny.model(), tiny.split(1), { images = 1, figures = false,
      methods = { "drawn", "random_smooth", "sobel",
        mine = function(x) return x:select(0, 0):select(0, 0) * math.random() end } })
    local list = {}
    for i, s in ipairs(result.statuses) do list[i] = s.maps end
    return list
  end
  local one, two = sets(1), sets(2)
  t.equal(sets(1), one)
  for k, other in ipairs { true, true, false, true } do t.equal(one[k] ~= two[k], other, one[k]) end
end)

t.test("options that are tables have one text: of the same value the same in every process, of "
  .. "another another", function()
  local function text(source) return code.setting(load("return " .. source)()) end
  t.equal({ text "3", text "'mean'", text "true", text "{ 50, 75 }", text "{ 50, 'otsu' }", text "{}" },
    { "3", "mean", "true", "50,75", "50,otsu", "" })
  t.equal({ text "{ red = 1 }", text "{ red = 2 }", text "{ { 1, 2 }, { 3 } }", text "{ 1, 2, 3, up = 'a_b' }",
    text "{ 'a,b' }" }, { '{"red":1}', '{"red":2}', "[[1,2],[3]]", '{"1":1,"2":2,"3":3,"up":"a_b"}', '["a,b"]' })
  t.equal({ text("{ up = 'a b' }"):gsub("%x%x%x%x%x%x%x%x$", "") }, { '{"up":"a_b"}#', 1 })
  local long = text "{ one = 1, two = 'a long word that says much', three = { 1, 2, 3, 4, 5, 6, 7, 8 } }"
  t.equal({ long:gsub("%x%x%x%x%x%x%x%x$", "") }, { '{"one":1,"three":[1,2,3,4,5,6,7,8],"...#', 1 })
  t.ok(text "{ 1, function(x) return x end }" == text "{ 1, function(x) return x end }"
    and text "{ 1, function(x) return x end }" ~= text "{ 1, function(x) return -x end }")
  t.equal(text "{ [2] = 1 }", '{"2":1}')
end)

t.test("a metric's and a method's options that are tables part their ids and labels by what is in them", function()
  local dir = t.tmpdir()
  t.write(dir .. "/weighed.lua", "return { options = { weights = { 'table', default = {} } }, measure = function(_, "
    .. "_, o) return o.weights.red or #o.weights end }")
  t.write(dir .. "/scaled.lua", "return { title = 'scaled', options = { by = { 'table' }, how = { 'table' } }, map "
    .. "= function(_, x, _, o) return x:select(1, 0):mul(o.by[1] or o.by.k) end }")
  local restore <close> = tiny.beside(dir)
  local function go_with(weights)
    local result = require("medxai.steps.explain").run(tiny.run(dir), tiny.model(), tiny.split(1),
      { images = 1, figures = false, metrics = { { "weighed", weights = weights } },
      methods = { { "scaled", by = { 2 }, how = { { 1 } } }, { "scaled", by = { k = 3 }, how = { { 1 } } } } })
    t.equal({ result.statuses[1].label, result.statuses[2].label }, { "scaled, by 2", 'scaled, by {"k":3}' })
    return result.summaries[1].metric:gsub(" source=%x+", "") .. " " .. result.summaries[1].mean
  end
  t.equal({ go_with { red = 1 }, go_with { red = 2 }, go_with { { 1 }, { 2 } }, go_with { { 1 }, { 2 } } },
    { 'weighed@0 weights={"red":1} 1.0', 'weighed@0 weights={"red":2} 2.0', "weighed@0 weights=[[1],[2]] 2.0",
      "weighed@0 weights=[[1],[2]] 2.0" })
  t.equal(#csv.read(dir .. "/scores.csv"), 6)
end)

t.test("an own metric that failed is measured again, in a finished step and from scores.csv", function()
  local dir = t.tmpdir()
  make_data(dir)
  t.write(dir .. "/shaky.lua", "return { needs = { model = true }, measure = function(map) if "
    .. "require('medxai.file').stat 'broken' then error 'boom' end return map:mean():item() end }")
  local explain =
    [[run:explain(model, data.test, { methods = { "sobel" }, images = 2, metrics = { "shaky" }, figures = false })]]
  local function states()
    local r, list = go(dir, explain), {}
    for i, row in ipairs(csv.read(dir .. "/out/scores.csv")) do list[i] = row.undefined end
    return { r.skipped, table.unpack(list) }
  end
  t.write(dir .. "/broken", "")
  t.equal(states(), { 0, "failed", "failed" })
  t.equal(states(), { 0, "failed", "failed" })
  files.remove(dir .. "/broken")
  t.equal(states(), { 0, "", "" })
  t.equal(states(), { 1, "", "" })
end)

t.test("scores.csv that was deleted, emptied or torn is made again, each step's rows", function()
  local dir = t.tmpdir()
  make_data(dir)
  local explain = [[for _, metric in ipairs { "confidence_drop", "confidence_change" } do
    run:explain(model, data.test, { methods = { "sobel" }, images = 2, metrics = { metric }, figures = false })
  end]]
  local path = dir .. "/out/scores.csv"
  go(dir, explain)
  local whole = t.read(path)
  local header, rows = whole:match "^([^\n]*\n)(.*)$"
  for _, left in ipairs { false, "", "image_id,path,pat\n" .. rows, header .. rows:match "^[^\n]*\n" } do
    if left then t.write(path, left) else files.remove(path) end
    t.equal(go(dir, explain).skipped, 0)
    t.equal(t.read(path), whole, left)
  end
  t.equal(go(dir, explain).skipped, 2)
end)

t.test("rows that a torn header still names are kept", function()
  local dir = t.tmpdir()
  make_data(dir)
  local explain =
    [[run:explain(model, data.test, { methods = { "sobel" }, images = 2, metrics = { "confidence_drop" },
      figures = false })]]
  local first, path = go(dir, explain), dir .. "/out/scores.csv"
  local columns = table.concat(require("medxai.score.registry").columns, ",")
  t.write(path, (t.read(path):gsub("confidence,[^\n]*", "confi", 1)))
  local again = go(dir, explain)
  t.equal({ again.skipped, differing(first, again), #csv.read(path), files.lines(path)[1] }, { 1, {}, 2, columns })
end)

host.options.quiet = was_quiet
