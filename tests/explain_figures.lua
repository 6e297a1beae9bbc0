-- The figures of an explain step: what a method draws itself, statuses, scales and texts in the SVG.
local t = require "t"
local tiny = require "tinyexplain"
local explain = require "medxai.explain"
local host = require "medxai.host"

local was_quiet = host.options.quiet
host.options.quiet = true

local function go(dir, options, n, change)
  local run = tiny.run(dir)
  local scope <close> = require("medxai.core").memory.scope()
  return explain.run(run, tiny.model(), tiny.split(n or 6, change), options), run
end

-- A folder with method files counts as the experiment's.
local function beside(text_by_name)
  local dir, before = t.tmpdir(), host.script_dir
  for name, text in pairs(text_by_name) do t.write(dir .. "/" .. name .. ".lua", text) end
  host.script_dir = dir
  return setmetatable({}, { __close = function() host.script_dir = before end })
end

t.test("a method draws its own figures of the chosen images, with its arrays", function()
  local seen = {}
  rawset(_G, "seen_pages", seen) -- the method file sees the same globals
  local place <close> = beside { own_pages = [[
    local figure = require "medxai.figure"
    return { title = "own pages", at = "input", map = function(ctx) return ctx:image():mean({ 1 }) end,
      draw = function(page)
        local rows = {}
        for i, number in ipairs(page.numbers) do
          local image, map = page:image(number), page:map(number)
          seen_pages[i] = { image.shape, map.shape, page:record(number).status, page:item(number).name, page:array(number, "none") == nil }
          rows[i] = { label = page:record(number).label, panels = { { pixels = figure.overlay(image, map, "diverging", -1, 1), title = "drawn by itself" } } }
        end
        page:save("extra", figure.panels { rows = rows, bars = { { colours = "diverging", lo = -1, hi = 1, label = "signed" } } }, "An own figure")
      end }]] }
  local dir = t.tmpdir()
  local result = go(dir, { methods = { "own_pages" }, images = 2 })
  rawset(_G, "seen_pages", nil)
  t.equal(seen, { { { 3, 32, 32 }, { 32, 32 }, "ok", "image 1.png", true }, { { 3, 32, 32 }, { 32, 32 }, "ok", "image 2.png", true } })
  t.equal(#result.figures, 2)
  t.equal(result.figures[2].title, "An own figure")
  t.ok(result.figures[2].name:find("^explain%-%x+%-own_pages%-%x+%-extra$"), result.figures[2].name)
  t.ok(t.read(dir .. "/" .. result.figures[2].svg):find(">drawn by itself</text>", 1, true))
end)

t.test("a drawing that fails is told and costs nothing else", function()
  local place <close> = beside {
    broken_pages = 'return { title = "broken pages", at = "input", map = function(ctx) return ctx:image():mean({ 1 }) end, draw = function() error("no ink") end }',
    wrong_pages = 'return { map = function() end, draw = 3 }' }
  local result, run = go(t.tmpdir(), { methods = { "broken_pages" }, images = 1 })
  t.equal({ result.records[1].status, #result.figures }, { "ok", 1 })
  t.ok(run.warnings[1]:find("^explain: broken pages could not draw its figures: .*no ink$"), run.warnings[1])
  t.fails(function() explain.check({ methods = { "wrong_pages" } }) end, "explain: method 'wrong_pages': draw is a number (expected draw = function(page)).")
end)

host.options.quiet = was_quiet
