-- run:readers: what readers answered to a packet (steps/packet.lua): how each method's maps were rated, differences of
-- methods by patient, against the decoys, and how far readers agree with each other and with themselves.
-- It measures opinions of maps, not whether maps help; the page says so. It refuses answers to unknown cases, answers
-- out of range, two answers to one map, and a key that is not the packet's.
local canon = require "medxai.base.json"
local check = require "medxai.base.check"
local Options = require "medxai.base.options"
local components = require "medxai.stats.components"
local csv = require "medxai.base.csv"
local files = require "medxai.base.files"
local agreement = require "medxai.stats.readers"
local multiple = require "medxai.stats.multiple"
local tables = require "medxai.run.tables"
local text_table = require "medxai.base.text_table"
local units = require "medxai.stats.units"
local verdict = require "medxai.stats.verdict"

local readers = {}

local nan = 0 / 0
-- The two questions; which way is better.
local questions = { { name = "marks_the_finding", better = "higher" }, { name = "would_mislead", better = "lower" } }

readers.columns = { "question", "kind", "a", "b", "estimate", "low", "high", "p", "p_holm", "decision", "reason", "n",
  "units", "readers" }

readers.spec = {
  answers = { "string|table", required = true, lua = "string|string[]",
    doc = "files as the packet's page saves them, or its answers.csv filled in: a pattern (\"answers/*.csv\") "
    .. "or a list" },
  key = { "string", doc = "packet_key.csv; default: the run's own" },
}

--- Checks a call of run:readers without making it (medxai.run.preflight).
function readers.check_call(_, _, options) Options.check("readers", options, readers.spec) end

-- ---- reading --------------------------------------------------------------------------------------------------------

-- "answers/*.csv": the files of a folder whose names fit.
local function expand(pattern)
  local folder, name = pattern:match "^(.*)/([^/]*)$"
  folder, name = folder or ".", name or pattern
  if not name:find("*", 1, true) then return { pattern } end
  local fits, list = "^" .. name:gsub("[%^%$%(%)%%%.%[%]%+%-%?]", "%%%0"):gsub("%*", ".*") .. "$", {}
  for _, entry in ipairs(files.is_folder(folder) and files.list(folder) or {}) do
    if entry:find(fits) then list[#list + 1] = folder .. "/" .. entry end
  end
  if #list == 0 then check.fail("readers", "no file fits '%s'.", pattern) end
  return list
end

local function paths_of(answers)
  local list = {}
  for _, pattern in ipairs(type(answers) == "table" and answers or { answers }) do
    for _, path in ipairs(expand(pattern)) do list[#list + 1] = path end
  end
  if #list == 0 then check.fail("readers", "answers is an empty list (expected files: \"answers/*.csv\").") end
  return list
end

-- "case map" -> the key's row.
local function read_key(run, o)
  local path = o.key or files.join(run.dir, "packet_key.csv")
  local bytes = files.read(path)
  if not bytes then check.fail("readers", "there is no key '%s'. Give key = the packet's packet_key.csv.", path) end
  local promised = files.read(files.join(run.dir, "packet", "KEY.sha256"))
  if promised and promised:match "^%x+" ~= files.sha256(bytes) then
    check.fail("readers", "'%s' is not the key of the packet: its SHA-256 differs from packet/KEY.sha256.", path)
  end
  local key, order = {}, {}
  for _, row in ipairs(csv.read(path)) do
    key[row.case .. " " .. row.map] = row
    order[#order + 1] = row
  end
  return key, order
end

-- A rating as written: a whole number from 1 to 5, nil where it is empty.
local function rating(text, name, path, line)
  if text == nil or text == "" then return nil end
  local v = math.tointeger(tonumber(text))
  if not v or v < 1 or v > 5 then
    check.fail("readers", "%s:%d: %s is '%s' (expected a whole number from 1 to 5, or nothing).", path, line,
      name, text)
  end
  return v
end

-- Adds a file's answers to the rows of the key.
local function read_answers(path, key)
  local rows, columns = csv.read(path)
  if not rows then check.fail("readers", "cannot read '%s'.", path) end
  local there = {}
  for _, name in ipairs(columns) do there[name] = true end
  for _, name in ipairs { "case", "map", "marks_the_finding", "would_mislead" } do
    if not there[name] then
      check.fail("readers", "'%s' has no column '%s' (expected case, map, marks_the_finding, would_mislead, "
        .. "seconds, remark).", path, name)
    end
  end
  local answered = 0
  for i, row in ipairs(rows) do
    local known = key[(row.case or "") .. " " .. (row.map or "")]
    if not known then
      check.fail("readers", "%s:%d: the packet has no case '%s' with a map '%s'.", path, i + 1, row.case or "",
        row.map or "")
    end
    local given = {}
    for _, q in ipairs(questions) do given[q.name] = rating(row[q.name], q.name, path, i + 1) end
    if next(given) then
      if known.given then
        check.fail("readers", "%s:%d: case '%s', map '%s' is answered twice.", path, i + 1, row.case, row.map)
      end
      known.given, answered = given, answered + 1
    end
  end
  return answered
end

-- ---- ratings of one question ----------------------------------------------------------------------------------------

local function ordered_set(order, column)
  local list, seen = {}, {}
  for _, row in ipairs(order) do
    if not seen[row[column]] then list[#list + 1], seen[row[column]] = row[column], true end
  end
  table.sort(list)
  return list, seen
end

-- first[method][image][reader], again likewise for cases that came a second time.
local function ratings_of(order, question)
  local first, again = {}, {}
  for _, row in ipairs(order) do
    local v = row.given and row.given[question]
    if v then
      local set = row.repeat_of ~= "" and row.repeat_of and again or first
      set[row.method] = set[row.method] or {}
      set[row.method][row.image_id] = set[row.method][row.image_id] or {}
      set[row.method][row.image_id][row.reader] = v
    end
  end
  return first, again
end

-- One value per image and reader, in the order of the list's images and readers; NaN where there is no answer.
local function column(all, method, list)
  local out = {}
  for i, pair in ipairs(list.pairs) do
    local of = all[method] and all[method][pair.image]
    out[i] = of and of[pair.reader] or nan
  end
  return out
end

-- Patients by readers of a difference, those that every reader answered: for readers that were not asked.
local function crossed(values, list)
  local sums, counts = {}, {}
  for i, pair in ipairs(list.pairs) do
    local v = values[i]
    if v == v then
      local u, r = list.over.unit[i], list.reader_number[pair.reader]
      sums[u], counts[u] = sums[u] or {}, counts[u] or {}
      sums[u][r], counts[u][r] = (sums[u][r] or 0) + v, (counts[u][r] or 0) + 1
    end
  end
  local rows = {}
  for u = 1, list.over.count do
    local row = {}
    for r = 1, #list.readers do row[r] = sums[u] and sums[u][r] and sums[u][r] / counts[u][r] or nil end
    if #row == #list.readers and #row > 0 then rows[#rows + 1] = row end
  end
  return rows
end

local function row_of(q, kind, a, b, r, list)
  return { question = q.name, kind = kind, a = a, b = b, estimate = r.mean, low = r.low, high = r.high, p = r.p,
    reason = r.why, n = r.n, units = r.units, readers = #list.readers }
end

local function put_means(out, q, first, list)
  for _, method in ipairs(list.methods) do
    local values = column(first, method, list)
    out[#out + 1] = row_of(q, "mean", method, nil, list.over:mean(values, { range = { 1, 5 } }), list)
  end
end

-- Every pair of methods: for these readers by signs and the bootstrap over patients; for other readers from three on.
local function put_differences(out, q, first, list)
  local family, p = {}, {}
  for x = 1, #list.methods do
    for y = x + 1, #list.methods do
      local a, b = list.methods[x], list.methods[y]
      local va, vb = column(first, a, list), column(first, b, list)
      local r = list.over:difference(va, vb, q.name .. " " .. a .. " " .. b)
      family[#family + 1] = { a = a, b = b, r = r }
      p[#p + 1] = r.p or nan
      local d = {}
      for i = 1, #va do d[i] = va[i] - vb[i] end
      family[#family].other = #list.readers >= 3 and components.of(crossed(d, list))
        or { mean = nan, why = "fewer than 3 readers" }
    end
  end
  local adjusted = multiple.holm(p)
  for i, f in ipairs(family) do
    local row = row_of(q, "difference", f.a, f.b, f.r, list)
    f.r.p = adjusted[i]
    local v = verdict.of("difference", f.r, { direction = q.better })
    row.p_holm, row.decision, row.reason = adjusted[i], v.verdict, v.reason
    out[#out + 1] = row
    out[#out + 1] = { question = q.name, kind = "difference, other readers", a = f.a, b = f.b, estimate = f.other.mean,
      low = f.other.low, high = f.other.high, reason = f.other.why, units = f.other.n, readers = #list.readers }
  end
end

-- A method beats the decoys where it beats each of them.
local function put_decoys(out, q, first, list)
  local found, p = {}, {}
  for _, method in ipairs(list.methods) do
    if not list.decoys[method] then
      local against = {}
      for _, decoy in ipairs(list.methods) do
        if list.decoys[decoy] then
          against[#against + 1] = list.over:difference(column(first, method, list), column(first, decoy, list),
            q.name .. " " .. method .. " " .. decoy)
        end
      end
      if #against > 0 then
        found[#found + 1] = { method = method, r = multiple.each_of(against, q.better) }
        p[#p + 1] = found[#found].r.p or nan
      end
    end
  end
  local adjusted = multiple.holm(p)
  for i, f in ipairs(found) do
    local row = row_of(q, "against each decoy", f.method, nil, f.r, list)
    f.r.p = adjusted[i]
    local v = verdict.of("difference", f.r, { direction = q.better })
    row.p_holm, row.decision, row.reason = adjusted[i], v.verdict, v.reason
    out[#out + 1] = row
  end
end

-- ---- agreement ------------------------------------------------------------------------------------------------------

local function put_agreement(out, q, first, again, list)
  local rows, complete = {}, {}
  for _, method in ipairs(list.methods) do
    for _, image in ipairs(list.images) do
      local of, row = first[method] and first[method][image] or {}, {}
      for r, reader in ipairs(list.readers) do row[r] = of[reader] end
      rows[#rows + 1] = row
      local all = true
      for r = 1, #list.readers do all = all and row[r] ~= nil end
      if all then complete[#complete + 1] = row end
    end
  end
  for x = 1, #list.readers do
    for y = x + 1, #list.readers do
      local a, b = {}, {}
      for _, row in ipairs(rows) do
        if row[x] and row[y] then a[#a + 1], b[#b + 1] = row[x], row[y] end
      end
      out[#out + 1] = { question = q.name, kind = "weighted kappa", a = "reader " .. list.readers[x],
        b = "reader " .. list.readers[y], estimate = #a > 0 and agreement.kappa(a, b) or nan, n = #a }
    end
  end
  if #list.readers > 1 then
    out[#out + 1] = { question = q.name, kind = "ICC(2,1)", estimate = agreement.icc(complete) or nan, n = #complete,
      readers = #list.readers }
  end
  for _, reader in ipairs(list.readers) do
    local a, b = {}, {}
    for _, method in ipairs(list.methods) do
      for image, of in pairs(again[method] or {}) do
        local once = first[method] and first[method][image] and first[method][image][reader]
        if of[reader] and once then a[#a + 1], b[#b + 1] = once, of[reader] end
      end
    end
    out[#out + 1] = { question = q.name, kind = "weighted kappa, the same case again", a = "reader " .. reader,
      estimate = #a > 0 and agreement.kappa(a, b) or nan, n = #a }
  end
end

-- ---- the step -------------------------------------------------------------------------------------------------------

-- Methods, readers, images, decoys of the answered rows, and the units of an (image, reader) list.
local function lists_of(order, seed)
  local answered = {}
  for _, row in ipairs(order) do
    if row.given then answered[#answered + 1] = row end
  end
  local list = { methods = ordered_set(order, "method"), readers = ordered_set(answered, "reader"),
    images = ordered_set(order, "image_id"), decoys = {}, reader_number = {}, pairs = {} }
  local patient, patients = {}, {}
  for _, row in ipairs(order) do
    list.decoys[row.method] = row.decoy == "yes" or nil
    patient[row.image_id] = row.patient
  end
  for r, reader in ipairs(list.readers) do list.reader_number[reader] = r end
  for _, image in ipairs(list.images) do
    for _, reader in ipairs(list.readers) do
      list.pairs[#list.pairs + 1] = { image = image, reader = reader }
      patients[#list.pairs] = units.is_known(patient[image]) and patient[image] or "image " .. image
    end
  end
  list.over = units.over(#list.pairs, patients, { seed = seed, id = "readers" })
  return list
end

local function say(rows, list)
  local shown = {}
  for _, row in ipairs(rows) do
    if row.kind == "mean" or row.kind == "against each decoy" or row.kind:find "kappa" or row.kind == "ICC(2,1)" then
      local function fixed(v) return v and v == v and ("%.3f"):format(v) or "" end
      shown[#shown + 1] = { row.question, row.kind, row.a or "", row.b or "", fixed(row.estimate),
        row.low and row.low == row.low and ("[%.3f, %.3f]"):format(row.low, row.high) or "",
        row.decision or "" }
    end
  end
  table.insert(shown, 1, { "question", "what", "", "", "value", "interval", "decision" })
  print(("readers: %d readers, %d images, %d methods; opinions of maps, not whether maps help"):format(#list.readers,
    #list.images, #list.methods))
  print(text_table(shown, { right = { [5] = true } }))
end

--- run:readers { answers = "answers/*.csv" }: the ratings of a packet.
--- Leaves tables/readers.csv: means with intervals over patients, differences with Holm's correction, methods against
--- each decoy, Cohen's kappa with quadratic weights, ICC(2,1). The verdicts speak of these readers; "other readers" is
--- the interval over patients and readers, from three readers on.
---@param run medxai.Run
---@param options table
---@return table result { rows, readers, images, methods, answered, unanswered }
function readers.run(run, options)
  local o = Options.check("readers", options, readers.spec)
  local paths = paths_of(o.answers)
  require("medxai.run.preflight").check()
  run:prepare()
  local key, order = read_key(run, o)
  local hashes, answered = canon.list {}, 0
  for i, path in ipairs(paths) do
    answered = answered + read_answers(path, key)
    hashes[i] = files.sha256(files.read(path))
  end
  if answered == 0 then check.fail("readers", "the files hold no answer (%s).", table.concat(paths, ", ")) end
  table.sort(hashes)
  local step = run:step("readers", { answers = hashes, seed = run.seed, version = 1 })
  if step.done then
    run:skipped "readers"
    return step.result
  end
  local list, rows = lists_of(order, run.seed), {}
  for _, q in ipairs(questions) do
    local first, again = ratings_of(order, q.name)
    put_means(rows, q, first, list)
    put_decoys(rows, q, first, list)
    put_differences(rows, q, first, list)
    put_agreement(rows, q, first, again, list)
  end
  step:begin()
  files.mkdir(files.join(run.dir, "tables"))
  tables.write(run, "tables/readers.csv", readers.columns, rows)
  local result = { rows = canon.list(rows), readers = #list.readers, images = #list.images,
    methods = canon.list(list.methods), answered = answered, unanswered = 0 }
  local asked = {}
  for _, reader in ipairs(list.readers) do asked[reader] = true end
  for _, row in ipairs(order) do
    if asked[row.reader] and not row.given then result.unanswered = result.unanswered + 1 end
  end
  step:finish(result, { "tables/readers.csv" })
  say(rows, list)
  return result
end

return readers
