-- The packet for readers: nothing in it names a method, letters are balanced, the key is outside; and what is made of
-- answers.
local t = require "t"
local core = require "medxai.core"
local csv = require "medxai.base.csv"
local files = require "medxai.base.files"
local packet = require "medxai.steps.packet"
local readers = require "medxai.steps.readers"
local tiny = require "tinyexplain"

local methods = { "gradcam", "hirescam", "sobel" }

-- A study of one model and n images, without runs on disk.
local function study_of(n)
  local split, study = tiny.split(n), { seed = 42, target = "predicted", classes = tiny.classes, models = {},
    images = {} }
  local model = { name = "tiny", split = split, places = {}, weights_sha256 = "w",
    open = function() return tiny.model() end, close = function() end }
  for i = 1, n do
    model.places[i], study.images[i] = i, { id = split:item(i).id, patient = "p" .. i,
      class = tiny.classes[(i - 1) % 3 + 1] }
  end
  study.models[1] = model
  return study
end

local function run_in(dir)
  local run = tiny.run(dir)
  function run.prepare() end
  function run.skipped() end
  function run.clock() return setmetatable({}, { __close = function() end }) end
  local step = run.step
  function run:step(name, fields)
    local made = step(self, name, fields)
    function made.begin() end
    return made
  end
  return run
end

local function made(n, options)
  local scope <close> = core.memory.scope() -- luacheck: ignore
  local run = run_in(t.tmpdir())
  local o = { methods = methods, images = n }
  for key, value in pairs(options or {}) do o[key] = value end
  return run, packet.run(run, study_of(n + 2), o), csv.read(run.dir .. "/packet_key.csv")
end

t.test("a packet holds pictures without a method's name; the key lies outside and its hash inside", function()
  local run, result, key = made(6, { readers = 2 })
  t.equal({ result.cases, result.readers, result.methods, #key }, { 6, 2, 3, 2 * 3 * 7 })
  t.equal(files.read(run.dir .. "/packet/KEY.sha256"):match "^%x+",
    files.sha256(files.read(run.dir .. "/packet_key.csv")))
  local pictures = files.list(run.dir .. "/packet/reader-1/cases")
  t.equal(#pictures, 7 * 4)
  for _, reader in ipairs { 1, 2 } do
    for _, name in ipairs { "index.html", "answers.csv" } do
      local text = files.read(("%s/packet/reader-%d/%s"):format(run.dir, reader, name)):lower()
      for _, word in ipairs { "gradcam", "grad-cam", "hirescam", "sobel" } do
        t.ok(not text:find(word, 1, true), name .. " says " .. word)
      end
    end
  end
  for _, name in ipairs(pictures) do
    local chunks = {}
    local bytes, at = files.read(run.dir .. "/packet/reader-1/cases/" .. name), 9
    while at < #bytes do
      local length, kind = (">I4c4"):unpack(bytes, at)
      chunks[#chunks + 1] = kind
      at = at + 12 + length
    end
    t.equal(chunks[1] .. chunks[#chunks], "IHDRIEND")
    for _, kind in ipairs(chunks) do t.ok(kind == "IHDR" or kind == "IDAT" or kind == "IEND", kind) end
  end
end)

t.test("each method is each letter equally often over readers; a case that comes again has turned letters", function()
  local _, _, key = made(6, { readers = 3, repeats = 0.5 })
  local count, of_case = {}, {}
  for _, row in ipairs(key) do
    of_case[row.case .. row.map] = row.method
    if row.repeat_of == "" then
      local k = row.method .. row.map
      count[k] = (count[k] or 0) + 1
    end
  end
  for _, method in ipairs(methods) do
    for _, letter in ipairs { "A", "B", "C" } do t.equal(count[method .. letter], 6, method .. " as " .. letter) end
  end
  local repeats = 0
  for _, row in ipairs(key) do
    if row.repeat_of ~= "" then
      repeats = repeats + 1
      t.ok(of_case[row.repeat_of .. row.map] ~= row.method)
    end
  end
  t.equal(repeats, 3 * 3 * 3)
end)

-- Answers as if a reader saw: hirescam 4 or 5, gradcam one less, sobel 1 or 2; misleading is 6 less that.
local function answer(run, key, reader, change)
  local rows = {}
  for i, row in ipairs(key) do
    if tonumber(row.reader) == reader then
      local number = tonumber(row.image_id, 16)
      local v = ({ hirescam = 4, gradcam = 3, sobel = 1 })[row.method] + (number + reader) % 2
      rows[#rows + 1] = { case = row.case, map = row.map, marks_the_finding = v, would_mislead = 6 - v, seconds = 3.5,
        remark = "a, \"b\" " .. i }
      if change then change(rows[#rows], row) end
    end
  end
  local path = ("%s/answers/r%d.csv"):format(run.dir, reader)
  files.mkdir(run.dir .. "/answers")
  csv.write(path, packet.columns, rows)
  return path
end

local function find(rows, question, kind, a, b)
  for _, row in ipairs(rows) do
    if row.question == question and row.kind == kind and row.a == a and row.b == b then return row end
  end
end

t.test("ratings by method, differences by patient with Holm's correction, decoys, kappa and ICC come "
  .. "out as made", function()
  local run, _, key = made(12, { readers = 3, repeats = 0.25 })
  for reader = 1, 3 do answer(run, key, reader) end
  local result = readers.run(run, { answers = run.dir .. "/answers/*.csv" })
  t.equal({ result.readers, result.images, result.answered, result.unanswered }, { 3, 12, 3 * 15 * 3, 0 })
  local q = "marks_the_finding"
  t.near(find(result.rows, q, "mean", "gradcam").estimate, 3.5, 1e-12)
  t.near(find(result.rows, q, "mean", "sobel").estimate, 1.5, 1e-12)
  local d = find(result.rows, q, "difference", "gradcam", "hirescam")
  -- the same for every patient: no spread
  t.equal({ d.estimate, d.decision, d.units, d.n }, { -1, "undecided", 12, 36 })
  t.equal(find(result.rows, "would_mislead", "mean", "hirescam").estimate, 1.5)
  t.near(find(result.rows, q, "weighted kappa, the same case again", "reader 1").estimate, 1, 1e-12)
  local same, other = find(result.rows, q, "weighted kappa", "reader 1", "reader 3"),
    find(result.rows, q, "weighted kappa", "reader 1", "reader 2")
  t.near(same.estimate, 1, 1e-12)
  t.ok(other.estimate < 1 and other.estimate > 0.6, other.estimate)
  local icc = find(result.rows, q, "ICC(2,1)")
  t.ok(icc.estimate > 0.7 and icc.estimate < 1 and icc.n == 36)
  t.ok(files.exists(run.dir .. "/tables/readers.csv"))
end)

t.test("a method that is rated above every decoy is told so; one reader gives no interval for other readers", function()
  local run, _, key = made(12, { readers = 1, repeats = 0 })
  answer(run, key, 1, function(row, k)
    if k.method == "gradcam" then row.marks_the_finding = 3 + tonumber(k.image_id, 16) % 3 end
  end)
  local result = readers.run(run, { answers = { run.dir .. "/answers/r1.csv" } })
  local row = find(result.rows, "marks_the_finding", "against each decoy", "gradcam")
  t.equal({ row.decision, row.low > 0, row.p_holm <= 0.05 }, { "better", true, true })
  t.equal(find(result.rows, "marks_the_finding", "difference, other readers", "gradcam", "sobel").reason,
    "fewer than 3 readers")
end)

t.test("answers that cannot be right are refused with file and line", function()
  local run, _, key = made(4, { readers = 1, repeats = 0 })
  local function refused(change, message)
    local path = answer(run, key, 1, change)
    t.fails(function() readers.run(run, { answers = path }) end, (message:gsub("PATH", (path:gsub("%%", "%%%%")))))
  end
  refused(function(row) row.marks_the_finding = 6 end,
    "readers: PATH:2: marks_the_finding is '6' (expected a whole number from 1 to 5, or nothing).")
  refused(function(row) row.case = "9-001" end, "readers: PATH:2: the packet has no case '9-001' with a map 'A'.")
  refused(function(row) row.marks_the_finding, row.would_mislead = nil, nil end,
    "readers: the files hold no answer (PATH).")
  local path = answer(run, key, 1)
  t.fails(function() readers.run(run, { answers = { path, path } }) end,
    ("readers: %s:2: case '%s', map 'A' is answered twice."):format(path, key[1].case))
  t.fails(function() readers.run(run, { answers = run.dir .. "/no/*.csv" }) end,
    ("readers: no file fits '%s/no/*.csv'."):format(run.dir))
  files.write(run.dir .. "/packet_key.csv", files.read(run.dir .. "/packet_key.csv") .. "\n")
  t.fails_like(function() readers.run(run, { answers = path }) end,
    "is not the key of the packet: its SHA%-256 differs from packet/KEY.sha256")
end)

t.test("a packet that holds answers is not made anew over them; wrong requests are refused", function()
  local run, _, key = made(4, { readers = 1, repeats = 0 })
  local path = run.dir .. "/packet/reader-1/answers.csv"
  csv.write(path, packet.columns, { { case = key[1].case, map = "A", marks_the_finding = 2 } })
  t.fails(function()
    local scope <close> = core.memory.scope() -- luacheck: ignore
    packet.run(run, study_of(6), { methods = methods, images = 3 })
  end, ("packet: '%s' holds answers to a packet of other settings. Move the folder 'packet' away first, with "
    .. "packet_key.csv."):format(path))
  t.fails(function() packet.run(run, study_of(6), { methods = { "gradcam" } }) end,
    "packet: needs two methods or more (got 1): readers compare them.")
  t.fails(function() packet.run(run, study_of(6), { methods = methods, images = 7 }) end,
    "packet: only 6 of the study's 6 images have a map by every method (asked for 7).")
  t.fails(function() packet.run(run, study_of(6), { methods = methods, model = "tinny" }) end,
    "packet: unknown model 'tinny'. Did you mean 'tiny'?")
end)
