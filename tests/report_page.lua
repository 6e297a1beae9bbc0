-- The report from files alone: complete, empty, damaged; nothing fetched, nothing unescaped.
local t = require "t"
local canon = require "medxai.base.json"
local files = require "medxai.base.files"
local host = require "medxai.host"
local report = require "medxai.steps.report"

local was_quiet = host.options.quiet
host.options.quiet = true

local function run_of(dir, name)
  return { dir = dir, name = name, seed = 7, step = function() return { finish = function() end } end }
end

local function write_run(dir)
  files.write_data(dir .. "/config.json", { name = "demo", question = "Is <b> a tag?", seed = 7,
    command = "medxai-run demo.lua", fit = { epochs = 2 } })
  files.append_line(dir .. "/metrics.jsonl",
    canon.write { step = "fit", epoch = 1, train_loss = 1.0, val_loss = 1.1, train_accuracy = 0.4, val_accuracy = 0.3,
      best = true })
  files.write_data(dir .. "/steps/evaluate-test.json",
    { status = "finished", key = "k", fields = {}, result = { split = "test", n = 4, classes = { "a", "b" },
    confusion = { { 2, 0 }, { 1, 1 } }, accuracy = 0.75, loss = 0.5,
    per_class = { { class = "a", precision = 2 / 3, recall = 1.0, f1 = 0.8, support = 2, auroc = 0 / 0 } },
    macro = { precision = 0.8, recall = 0.75, f1 = 0.73 }, evaluations = 2,
    intervals = { accuracy = { 0.25, 1.0 }, level = 0.95, resampled = "images",
      note = "image-level, patients unknown" } } })
  files.write_data(dir .. "/data_check.json",
    { classes = { "a", "b" }, counts = { train = { a = 3, b = 4, total = 7 }, test = { a = 2, b = 2, total = 4 } },
    images = 11, patients = 0,
    exact = { { a = "x.png", split_a = "train", b = "y.png", split_b = "test", same_class = false } },
    near = canon.list {}, near_count = 0, warnings = { "odd <things>" } })
end

t.test("a page of everything: question, settings, results with intervals, curve, how to run it again", function()
  local dir = t.tmpdir()
  write_run(dir)
  local path = report.write(run_of(dir, "demo"))
  local page = t.read(path)
  for _, part in ipairs { "Is &lt;b&gt; a tag?", "0.750", "[0.250, 1.000]", "undefined", "evaluated 2 times",
      "medxai-run demo.lua", "data: odd &lt;things&gt;",
    "<svg", "image-level, patients unknown", "Confusion matrix" } do
    t.ok(page:find(part, 1, true), "missing: " .. part)
  end
end)

t.test("the page asks nothing of the network", function()
  local dir = t.tmpdir()
  write_run(dir)
  local page = t.read(report.write(run_of(dir, "demo")))
  for address in page:gmatch("https?://[^\"'%s]*") do t.ok(address:find("^http://www%.w3%.org/"), address) end
  t.ok(not page:find("<script", 1, true) and not page:find("@import", 1, true) and not page:find("<link", 1, true))
end)

t.test("an empty folder gives a page, and a damaged file a warning on it", function()
  local dir = t.tmpdir()
  t.ok(t.read(report.write(run_of(dir, "empty"))):find("<h1>empty</h1>", 1, true))
  files.write(dir .. "/config.json", "{ broken")
  local page = t.read(report.write(run_of(dir, "empty")))
  t.ok(page:find('class="warnings"', 1, true) and page:find(dir .. "/config.json", 1, true),
    "no warning names the damaged file")
end)

t.test("unknown options are refused", function()
  t.fails(function() report.write(run_of(t.tmpdir(), "x"), { titel = "a" }) end,
    "report: unknown option 'titel'. Did you mean 'title'?")
end)

host.options.quiet = was_quiet
