-- A researcher's own metrics: what they may do with what they are given, what they may return, and what is said where
-- that fails.
local t = require "t"
local tiny = require "tinyexplain"
local explain = require "medxai.steps.explain"
local csv = require "medxai.base.csv"
local files = require "medxai.base.files"
local host = require "medxai.host"
local metric = require "medxai.score.registry"

local was_quiet = host.options.quiet
host.options.quiet = true

local function go(options, n)
  local run = tiny.run(t.tmpdir())
  options.figures = options.figures or false
  local scope <close> = require("medxai.core").memory.scope()
  return explain.run(run, tiny.model(), tiny.split(n or 3), options), run
end

local function plain(x) return x:select(0, 0):select(0, 0) end

local deletion, confidence = { "deletion", steps = 10, removal = { "black" } }, "confidence_drop"

t.test("what metrics share is lent to an own one: whatever it does with it, the others give the same values", function()
  local texts = { harmless = "return { version = 1, measure = function() return 1 end }" }
  local codes = {
    "ctx:order():fill_(0)", "ctx:order():copy_(ctx:order():flip({ 0 }))",
    "local lo, hi = ctx:range() lo:fill_(0.7) hi:fill_(0.7)", "ctx.subject:input():fill_(0)",
    "ctx.subject:mask('lesion'):fill_(1)", "ctx.subject:original()[1] = 7", "ctx:image():fill_(0)", "ctx.map:zero_()",
    "ctx:once('multiplied', function() return { { 1, 2, 3 } } end)",
    "ctx:removed(require('medxai.perturb.removal').parse('noisy_linear(0.01)'), { { name = 'most 25', keep = "
    .. "map:lt(-1) } })", "ctx.model:train()" }
  for i, code in ipairs(codes) do
    texts["own" .. i] = "return { needs = { mask = true }, measure = function(map, ctx) " .. code .. " return 1 end }"
  end
  local place <close> = tiny.beside(texts)
  local function others(first)
    -- else an original asked for early is scored in another chunk
    local result, run = go { methods = { plain = plain }, images = { 2 }, mask = "lesion", deterministic = true,
      metrics = { first, deletion, confidence, { "road_most_relevant_first", percentiles = { 25 } }, "energy_inside",
        { "prediction_changed", removal = "black" } } }
    t.equal(#run.warnings, 0, run.warnings[1])
    local list = {}
    for i = 2, #result.summaries do list[i - 1] = result.summaries[i].mean end
    return list
  end
  local expected = others "harmless"
  for i, code in ipairs(codes) do t.near(others("own" .. i), expected, 0, code) end
end)

t.test("nil in a list of values is undefined, infinity too, and a reason is a text", function()
  local place <close> = tiny.beside {
    first_nil = "return { values = function() return { 'a', 'b' } end, measure = function() return { nil, 2 }, { "
    .. "nil, 0.5 }, 'no a here' end }", endless = "return { measure = function() return math.huge end }",
    endless_chance = "return { measure = function() return 1, -math.huge end }",
    reason = "return { measure = function() return nil, nil, {} end }",
    number = "return { measure = function() return nil, nil, 5 end }",
    named = "return { values = function() return { 'a', 'b' } end, measure = function() return { a = 1, b = 2 } end }" }
  local result, run = go { methods = { plain = plain }, images = 1,
    metrics = { "first_nil", "endless", "endless_chance", "reason", "number", "named" } }
  local told, rows = table.concat(run.warnings, "\n"), {}
  for i, row in ipairs(csv.read(result.dir .. "/scores.csv")) do
    rows[i] = row.value .. " " .. row.chance .. " " .. row.undefined
  end
  t.equal(rows, { "NaN NaN no a here", "2 0.5 ", "NaN NaN infinite", "NaN NaN failed", "NaN NaN failed",
    "NaN NaN failed", "NaN NaN failed", "NaN NaN failed" })
  t.ok(told:find("metric 'endless_chance' returned -inf as its level of chance (expected a finite number or nil)", 1,
    true), told)
  t.ok(told:find("metric 'reason' returned a table as its reason (expected a text)", 1, true), told)
  t.ok(told:find("metric 'number' returned a number as its reason (expected a text)", 1, true), told)
  t.ok(told:find("metric 'named' returned 0 values (expected 2 numbers, as its values() says)", 1, true), told)
end)

t.test("an error of the tensor library in an own metric has its line", function()
  local place <close> = tiny.beside { nosuch = "return {\n  measure = function(map)\n    return map:nosuch()\n  end }" }
  local _, run = go { methods = { plain = plain }, images = 1, metrics = { "nosuch" } }
  t.ok(run.warnings[1]:find("failed, first on 'folder/image 1.png': [^\n]*nosuch%.lua:3: tensor: no operator 'nosuch'"),
    run.warnings[1])
end)

t.test("metrics may be asked for by name = options, as methods are; holes in the list hide nothing", function()
  local function ids(list)
    local out = {}
    for i, m in ipairs(metric.entries(list)) do out[i] = m.id end
    return out
  end
  local named = ids { { "deletion", steps = 10 } }[1]
  t.equal(ids { deletion = { steps = 10 } }, { named })
  t.equal(ids { "confidence_change", deletion = { steps = 10 }, confidence_drop = true },
    { "confidence_change@1", "confidence_drop@1", named })
  t.equal(ids { "confidence_change", nil, "confidence_drop" }, { "confidence_change@1", "confidence_drop@1" })
  t.fails(function() metric.entries { mine = function() return 1 end } end,
    "explain: metric 'mine' takes a table of options (got function). A metric of your own is a file 'mine.lua' "
    .. "beside the experiment.")
  t.fails(function() metric.entries { deletion = 3 } end,
    "explain: metric 'deletion' takes a table of options (got number).")
  t.fails(function() metric.entries { 3 } end,
    "explain: metrics holds names or { name, option = value } (got number at 1).")
end)

host.options.quiet = was_quiet
