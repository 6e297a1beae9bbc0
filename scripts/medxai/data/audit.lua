-- What is checked before training: counts, images that cannot be read (all of them, together), the same picture in two
-- splits (exactly, or nearly), and whether a class can be told by its source. Every image is decoded once, by several
-- threads; what fits in the cache is kept, so that training need not decode it again. It refuses to go on with
-- unreadable images; the rest are warnings.
local listing = require "medxai.data.listing"
local check = require "medxai.base.check"
local Options = require "medxai.base.options"
local host = require "medxai.host"
local text_table = require "medxai.base.text_table"

local report = {}

-- Near duplicates: difference hashes that differ in at most so many of 64 bits, and 32 x 32 thumbnails that correlate
-- at least so much. Measured: the 546 shared X-rays hold no such pair (their largest correlation is 0.972); resized,
-- brightened, noisy and slightly cropped copies reach 0.988 and more.
local MOST_BITS, LEAST_CORRELATION = 10, 0.98

local function say(text)
  if not (host.options and host.options.quiet) then io.stderr:write(text) end
end

-- Decodes everything; tells on a terminal how far it is, elsewhere a line every ten seconds.
local function scan(data, indices, threads)
  local set = data:native()
  local native <close> = set:scan(indices, threads)
  local started, told = host.now(), host.now()
  while true do
    local finished, done = native:wait(0.2)
    local now = host.now()
    if host.is_tty and now - started > 0.5 then
      say(("\rdataset: %d of %d images read%s"):format(done, #indices, finished and "\n" or ""))
    elseif now - told > 10 then
      say(("dataset: %d of %d images read\n"):format(done, #indices))
      told = now
    end
    if finished then return end
  end
end

local group_number = { train = 1, val = 2, test = 3 }

local function all_items(data)
  local items, indices, groups = {}, {}, {}
  local set = data:native()
  for _, split in ipairs(data.splits) do
    for _, item in ipairs(split.items) do
      items[#items + 1], indices[#indices + 1], groups[#groups + 1] = item, item.index,
        group_number[listing.group(item.split)]
    end
  end
  return items, indices, groups, set
end

local function raise_unreadable(wrong, n)
  if #wrong == 1 then check.fail("dataset", "%s", wrong[1].why) end
  local lines = {}
  for i = 1, math.min(#wrong, 50) do lines[i] = "  " .. wrong[i].why end
  if #wrong > 50 then lines[51] = ("  and %d more"):format(#wrong - 50) end
  local paths = {}
  for i = 1, math.min(#wrong, 50) do paths[i] = "  " .. wrong[i].path end
  check.fail("dataset", "%d of %d images cannot be used:\n%s\nRepair them, or leave them out: write these lines to "
    .. "skip.txt beside the data:\n%s", #wrong, n, table.concat(lines, "\n"), table.concat(paths, "\n"))
end

local function counts_of(data)
  local counts = {}
  for _, split in ipairs(data.splits) do
    local row = { total = split.n }
    for _, class in ipairs(data.classes) do row[class] = 0 end
    for _, item in ipairs(split.items) do
      local class = item.label and data.classes[item.label + 1]
      if class then row[class] = row[class] + 1 end
      for k, v in ipairs(item.findings or {}) do
        if v == 1 then row[data.classes[k]] = row[data.classes[k]] + 1 end
      end
    end
    counts[split.name] = row
  end
  return counts
end

-- Whether two images are said to show the same: the same class, or no finding that one has and the other has not.
local function same_label(a, b)
  for k, v in ipairs(a.findings or {}) do
    if v == v and b.findings[k] == b.findings[k] and v ~= b.findings[k] then return false end
  end
  return a.label == b.label
end

-- Pictures with the same pixels: across splits, and within one.
local function exact_duplicates(items, set)
  local first, across, within = {}, {}, {}
  for _, item in ipairs(items) do
    local id = set:facts(item.index).id
    local other = first[id]
    if other then
      local list = listing.group(other.split) ~= listing.group(item.split) and across or within
      list[#list + 1] = { a = other.path, split_a = other.split, b = item.path, split_b = item.split, id = id,
        same_class = same_label(other, item) }
    else
      first[id] = item
    end
  end
  return across, within
end

local function near_duplicates(items, indices, groups, set)
  local count, pairs_found = set:near(indices, groups, MOST_BITS, LEAST_CORRELATION, 200)
  local list = {}
  for k, p in ipairs(pairs_found) do
    local a, b = items[p.a], items[p.b]
    list[k] = { a = a.path, split_a = a.split, b = b.path, split_b = b.split, bits = p.distance,
      correlation = p.correlation, same_class = same_label(a, b) }
  end
  return list, count
end

-- Class x source: counts, and the mutual information in bits beside the classes' entropy (equal: the source gives the
-- class away).
local function sources_of(data, items)
  local table_of, names, n, class_n, source_n = {}, {}, 0, {}, {}
  for _, item in ipairs(items) do
    if item.source ~= "unknown" and item.label then
      local class = data.classes[item.label + 1]
      if not table_of[item.source] then table_of[item.source], names[#names + 1] = {}, item.source end
      table_of[item.source][class] = (table_of[item.source][class] or 0) + 1
      class_n[class], source_n[item.source] = (class_n[class] or 0) + 1, (source_n[item.source] or 0) + 1
      n = n + 1
    end
  end
  if n == 0 then return nil end
  table.sort(names)
  local information, entropy = 0, 0
  for _, class in ipairs(data.classes) do
    local p = (class_n[class] or 0) / n
    if p > 0 then entropy = entropy - p * math.log(p, 2) end
    for _, source in ipairs(names) do
      local joint = (table_of[source][class] or 0) / n
      if joint > 0 then information = information + joint * math.log(joint / (p * source_n[source] / n), 2) end
    end
  end
  return { names = names, counts = table_of, known = n, mutual_information_bits = information,
    class_entropy_bits = entropy }
end

-- ---- as text ----

-- Columns but the first to the right.
local function numbers_table(head, rows)
  local right = {}
  for i = 2, #head do right[i] = true end
  return text_table({ head, table.unpack(rows) }, { right = right })
end

local function counts_text(data, r)
  local head, rows = { "" }, {}
  for _, class in ipairs(data.classes) do head[#head + 1] = class end
  head[#head + 1] = "total"
  for i, split in ipairs(data.splits) do
    local row = { split.name }
    for _, class in ipairs(data.classes) do row[#row + 1] = tostring(r.counts[split.name][class]) end
    row[#row + 1] = tostring(split.n)
    rows[i] = row
  end
  return numbers_table(head, rows)
end

local function counted(n, one, many) return n .. " " .. (n == 1 and one or many) end

local function pairs_text(list, count, what)
  local lines = {}
  for k = 1, math.min(3, #list) do
    local p = list[k]
    lines[k] = ("    %s = %s%s"):format(p.a, p.b, p.correlation
      and (" (%d bits, r %.3f)"):format(p.bits, p.correlation) or "")
  end
  if count > 3 then lines[4] = ("    and %d more"):format(count - 3) end
  return ("%s:\n%s"):format(counted(count, table.unpack(what)), table.concat(lines, "\n"))
end

local function warnings_of(r)
  local w = {}
  if #r.exact > 0 then
    w[#w + 1] = pairs_text(r.exact, #r.exact,
      { "image is in two splits (the same pixels)", "images are in two splits (the same pixels)" })
  end
  if r.near_count > 0 then
    w[#w + 1] = pairs_text(r.near, r.near_count,
      { "pair across splits is nearly the same picture", "pairs across splits are nearly the same picture" })
  end
  local contradictions = 0
  for _, list in ipairs { r.exact, r.exact_within } do
    for _, p in ipairs(list) do contradictions = contradictions + (p.same_class and 0 or 1) end
  end
  if contradictions > 0 then
    w[#w + 1] = counted(contradictions, "picture stands under two classes", "pictures stand under two classes")
  end
  local s = r.sources
  if s and #s.names > 1 and s.mutual_information_bits > 0.1 * s.class_entropy_bits then
    w[#w + 1] = ("the source tells %.0f %% of what there is to know about the class (%.2f of %.2f bits): a network "
      .. "can use it as a shortcut")
      :format(100 * s.mutual_information_bits / s.class_entropy_bits, s.mutual_information_bits, s.class_entropy_bits)
  end
  for _, note in ipairs(r.notes) do w[#w + 1] = note end
  return w
end

local function sources_text(data, s)
  local head, rows = { "source" }, {}
  for _, class in ipairs(data.classes) do head[#head + 1] = class end
  for i, source in ipairs(s.names) do
    local row = { source }
    for _, class in ipairs(data.classes) do row[#row + 1] = tostring(s.counts[source][class] or 0) end
    rows[i] = row
  end
  return numbers_table(head, rows) .. ("\n  mutual information of class and source: %.3f of %.3f bits"):format(
    s.mutual_information_bits, s.class_entropy_bits)
end

local function as_text(data, r)
  local parts = { ("%s: %d images, %d patients known"):format(data.name, r.images, r.patients), counts_text(data, r) }
  if r.sources then parts[#parts + 1] = sources_text(data, r.sources) end
  for _, warning in ipairs(r.warnings) do parts[#parts + 1] = "  note: " .. warning end
  return table.concat(parts, "\n")
end

-- ---- images that use a part of their range alone: each is judged by its own ----

local most_cut = 0.01 -- of an image's samples above white: less is a marker, or a few bright pixels

-- What is wrong with one image's range, nil where nothing is.
local function range_fault(item, facts)
  if facts.low == facts.high then return facts.alpha and "alpha" or "flat" end
  if facts.dicom and facts.high - facts.low < 32 then return "narrow" end
  if facts.bits == 16 and not facts.dicom then
    local white = item.white or 65535
    if facts.top * 2 < white then return "dark16" end
    return facts.over > most_cut and "cut16" or nil
  end
  return facts.high < 128 and "dark" or facts.low > 127 and "bright" or nil
end

-- "3 of 40 images come out dark ('a.png', 'b.png' and 1 more)"
local function of_all(found, n, what, one, many)
  local names = {}
  for i = 1, math.min(2, #found) do names[i] = "'" .. found[i].item.path .. "'" end
  if #found > 2 then names[2] = names[2] .. (" and %d more"):format(#found - 2) end
  return ("%d of %d %s %s (%s)"):format(#found, n, what, #found == 1 and one or many, table.concat(names, ", "))
end

-- The white level of so many bits that holds them all.
local function fitting(top)
  local white = 255
  while white < top do white = white * 2 + 1 end
  return white
end

local function highest(found, key)
  local top = 0
  for _, f in ipairs(found) do top = math.max(top, f.facts[key]) end
  return top
end

local function each_or_all(found, n, white)
  if #found == n then return ("Write white_16bit = %d"):format(white) end
  return ("Write white_16bit by source or file, { [\"%s\"] = %d }, or a column white in a manifest")
    :format(found[1].item.path, white)
end

local range_words = {
  flat = function(f, n) return of_all(f, n, "images", "has one value everywhere", "have one value everywhere") end,
  alpha = function(f, n)
    local where = " content in the alpha channel, which is left out"
    local one, many = "has one color everywhere and its" .. where, "have one color everywhere and their" .. where
    return of_all(f, n, "images", one, many)
  end,
  narrow = function(f, n)
    return of_all(f, n, "images", "comes out with fewer than 32 gray levels", "come out with fewer than 32 gray levels")
      .. ". Write window = \"minmax\", or a window that fits, if the file's own does not"
  end,
  dark = function(f, n)
    local words = of_all(f, n, "images", "comes out dark", "come out dark")
    return words .. (": no value above %d of 255"):format(highest(f, "high"))
  end,
  bright = function(f, n)
    return of_all(f, n, "images", "comes out bright", "come out bright") .. ": no value below 128 of 255"
  end,
  dark16 = function(f, n)
    local top = highest(f, "top")
    return of_all(f, n, "16-bit images", "comes out dark", "come out dark")
      .. (": no sample above %d of %d. %s if the values have fewer bits"):format(top, f[1].item.white or 65535,
        each_or_all(f, n, fitting(top)))
  end,
  cut16 = function(f, n)
    local top = highest(f, "top")
    return of_all(f, n, "16-bit images", "comes out bright", "come out bright")
      .. (": more than 1 %% of %s samples lie above %d, up to %d, and are cut to white. %s")
      :format(#f == 1 and "its" or "their", f[1].item.white or 65535, top, each_or_all(f, n, fitting(top)))
  end,
}

-- Images that come out dark, bright or flat: a note of each kind.
local function range_notes(items, set)
  local found, notes, bits16 = {}, {}, 0
  for _, item in ipairs(items) do
    local facts = set:facts(item.index)
    local fault = not item.number and range_fault(item, facts) -- drawn ones are as they should be
    if facts.bits == 16 and not facts.dicom then bits16 = bits16 + 1 end
    if fault then
      found[fault] = found[fault] or {}
      table.insert(found[fault], { item = item, facts = facts })
    end
  end
  for _, fault in ipairs { "dark16", "cut16", "narrow", "dark", "bright", "flat", "alpha" } do
    local of = fault:find "16" and bits16 or #items
    if found[fault] then notes[#notes + 1] = range_words[fault](found[fault], of) end
  end
  return notes
end

-- What is odd about files that can be read all the same: pixels are those that Pillow's Image.open gives.
local odd = {
  { "orientation", "image holds an EXIF orientation", "images hold an EXIF orientation",
    "pixels are used as stored, not turned or mirrored (as Pillow's Image.open gives them). Where pictures lie on their"
      .. " side, write them turned" },
  { "stray_bytes", "JPEG holds bytes that belong to nothing", "JPEGs hold bytes that belong to nothing",
    "they are left out (as Pillow does). Look whether the picture is whole" },
}

local function odd_notes(items, set)
  local notes = {}
  for _, kind in ipairs(odd) do
    local n, first = 0, nil
    for _, item in ipairs(items) do
      if set:facts(item.index)[kind[1]] then n, first = n + 1, first or item.path end
    end
    local which = n > 1 and "the first is " or ""
    if n > 0 then notes[#notes + 1] = ("%s (%s%s): %s"):format(counted(n, kind[2], kind[3]), which, first, kind[4]) end
  end
  return notes
end

local function patients_of(items)
  local seen, n = {}, 0
  for _, item in ipairs(items) do
    if item.patient ~= "unknown" and not seen[item.patient] then seen[item.patient], n = true, n + 1 end
  end
  return n
end

--- The images that cannot be used as they are prepared (a mask that is not a mask of lungs, a file that is damaged),
--- each with why. Everything is decoded once.
---@param data medxai.Dataset
---@param threads? integer
---@return { path: string, why: string }[] in the order of the data
function report.refused(data, threads)
  if data.checked then return {} end
  local items, indices, _, set = all_items(data)
  scan(data, indices, threads or math.max(1, math.min(16, host.options and host.options.threads or host.cores or 2)))
  local wrong = {}
  for _, item in ipairs(items) do
    local why = set:error(item.index)
    if why then wrong[#wrong + 1] = { path = item.path, why = why } end
  end
  return wrong
end

report.spec = { threads = { "integer", min = 1, max = 256, doc = "that decode; default: the program's" } }

--- The report as plain values: images, patients, counts[split][class], exact and near (pairs across splits),
--- exact_within, sources, notes, warnings (lines of text), seconds, text (all of it, to be printed). Kept: asked again
--- it is the same.
---@param data medxai.Dataset
---@param options? { threads?: integer }
function report.check(data, options)
  local o = Options.check("data:check", options, report.spec)
  if data.checked then return data.checked end
  local started = host.now()
  local items, indices, groups, set = all_items(data)
  local wrong = report.refused(data, o.threads)
  if #wrong > 0 then raise_unreadable(wrong, #items) end
  local exact, within = exact_duplicates(items, set)
  local near, near_count = near_duplicates(items, indices, groups, set)
  local r = { images = #items, patients = patients_of(items), counts = counts_of(data), exact = exact,
    exact_within = within, near = near, near_count = near_count, sources = sources_of(data, items),
    notes = range_notes(items, set) }
  for _, more in ipairs { odd_notes(items, set), data.notes } do table.move(more, 1, #more, #r.notes + 1, r.notes) end
  r.warnings = warnings_of(r)
  r.seconds = host.now() - started
  r.text = as_text(data, r)
  data.checked = r
  return r
end

return report
