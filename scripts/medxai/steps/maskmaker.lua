-- xai.maskmaker { root =, out =, mode = "lungs" }: writes lung-masked copies of a COVID-QU-Ex data set, lung part and
-- infection part, as <part>/Masked_<Split>/<class>/<name>.png, which xai.dataset.masked_folders reads. What input =
-- "lungs" does while training is the same, to the last bit. Progress, resumed where it stopped, a contact sheet to look
-- at. It refuses to write into the data that it reads, or over copies of another mode; images whose mask cannot be used
-- are left out and listed together at the end.
local canon = require "medxai.base.json"
local check = require "medxai.base.check"
local Options = require "medxai.base.options"
local file = require "medxai.file"
local files = require "medxai.base.files"
local folders = require "medxai.data.covid_qu_ex_folders"
local host = require "medxai.host"
local Progress = require "medxai.base.progress"

local modes = { "lungs", "lungs_raw", "lungs_hull" }

local shared = require("medxai.data.dataset").spec()

local spec = {
  root = { "string", required = true, field = "data", doc = "the folder of COVID-QU-Ex" },
  out = { "string", required = true, field = "masked", doc = "the folder to write" },
  skip = shared.skip,
  mask_resize = shared.mask_resize,
  mode = { one_of = modes, field = true, default = "lungs", values = shared.input.values,
    doc = "what is kept of an image" },
}

-- ---- where to -------------------------------------------------------------------------------------------------------

local function real(path) return file.realpath(path) or path:gsub("/+$", "") end

local function inside(a, b) return a == b or a:sub(1, #b + 1) == b .. "/" end

local function check_out(o)
  local listing = require "medxai.data.listing"
  o.root = listing.root("maskmaker", o.root)
  local parent = files.folder(o.out)
  local to = files.exists(o.out) and real(o.out) or files.join(real(parent or "."), o.out:match "[^/]+/*$")
  local from = real(o.root)
  if inside(to, from) or inside(from, to) then
    check.fail("maskmaker", "'%s' and '%s' lie in each other: the masked copies would mix with the data. Give "
      .. "another out.", o.out, o.root)
  end
end

-- The copies' own description: what they were made of and how. Copies of another kind are not written over.
local function open_out(o)
  local path = files.join(o.out, "maskmaker.json")
  local stored = files.read_data(path)
  local mine = { mode = o.mode, root = real(o.root), version = 1, mask_resize = o.mask_resize }
  if stored and (stored.mode ~= mine.mode or stored.root ~= mine.root) then
    check.fail("maskmaker", "'%s' holds copies of mode '%s' of '%s' (here: '%s' of '%s'). Give another out, or "
      .. "remove it.", o.out, tostring(stored.mode), tostring(stored.root),
      mine.mode, mine.root)
  end
  if stored and stored.mask_resize ~= mine.mask_resize then
    check.fail("maskmaker", "'%s' holds copies with mask_resize = %s (here: %s). Give another out, or remove it.",
      o.out, tostring(stored.mask_resize), tostring(mine.mask_resize))
  end
  if not stored and files.is_folder(o.out) and #files.list(o.out) > 0 then
    check.fail("maskmaker", "'%s' holds other files (%s). Give an empty or new folder.", o.out, files.list(o.out)[1])
  end
  files.write_data(path, mine)
end

-- ---- one image ------------------------------------------------------------------------------------------------------

local function source_item(data, item, part)
  local folder = folders.split[item.split]
  local name = item.path:match "[^/]+$":gsub("%.[^.]+$", "") .. ".png"
  return { image = data.root .. "/" .. item.path, mask = item.lungs and data.root .. "/" .. item.lungs,
    path = item.path, class = data.classes[item.label + 1], split = item.split,
    to = files.join(part, "Masked_" .. folder, data.classes[item.label + 1], name) }
end

-- Everything that is to be written, part by part.
local function list_items(o)
  local items = {}
  for _, part in ipairs(folders.parts) do
    local folder = folders.part[part]
    if files.is_folder(files.join(o.root, folder)) or part == "lung" then
      local data = require("medxai.data.readers").covid_qu_ex { root = o.root, part = part, skip = o.skip }
      for _, split in ipairs(data.splits) do
        for _, item in ipairs(split.items) do items[#items + 1] = source_item(data, item, folder) end
      end
    end
  end
  return items
end

-- The hashes of what a copy is made of: it is made again where one of them has changed.
local function sources_of(item) return files.sha256_file(item.image) .. " " .. files.sha256_file(item.mask) end

local function masked(item, o)
  local image = require("medxai.core").image
  return image.mask(image.load(item.image), image.load_mask(item.mask), o.mode, o.mask_resize)
end

-- Writes one copy; returns nil, or why it could not be made.
local function write_one(o, item)
  if not item.mask then return "it has no lung mask" end
  local scope <close> = require("medxai.core").memory.scope() -- luacheck: ignore
  local ok, result = pcall(masked, item, o)
  if host.interrupted() then error("interrupted", 0) end
  if not ok then return (tostring(result):gsub("^image%.%l+_?%l*: ", "")) end
  files.write(files.join(o.out, item.to), require("medxai.core").image.encode(result))
end

-- ---- the contact sheet ----------------------------------------------------------------------------------------------

local function panel(pixels, title)
  local figure = require "medxai.show.figure"
  local image = pixels:dim() == 3 and pixels or pixels:unsqueeze(2)
  local planes = image:permute { 2, 0, 1 }:to { dtype = "float32" }:div(255)
  return { pixels = figure.pixels(planes:size(0) == 1 and planes:expand { 3, planes:size(1), planes:size(2) }
    or planes), title = title }
end

-- The first image of every class and split, at most six rows: as it was, its mask, as it is now.
local function contact_sheet(o, items)
  local figure, image = require "medxai.show.figure", require("medxai.core").image
  local rows, seen = {}, {}
  for _, item in ipairs(items) do
    local key = item.split .. item.class .. item.to:match "^[^/]+"
    if not seen[key] and #rows < 6 and files.exists(files.join(o.out, item.to)) then
      local scope <close> = require("medxai.core").memory.scope() -- luacheck: ignore
      seen[key] = true
      rows[#rows + 1] = { label = item.class,
        panels = { panel(image.load(item.image), item.path:match "[^/]+$"), panel(image.load(item.mask), item.split),
        panel(image.load(files.join(o.out, item.to)), "") } }
    end
  end
  if #rows == 0 then return end
  local d = figure.panels { rows = rows, headings = { "image", "lung mask", "written" }, width_pt = 320, most_pt = 92,
    caption = { string.format("Masked copies, mode %s. The first image of each class and split.", o.mode) } }
  figure.save(d, files.join(o.out, "contact_sheet"), { title = "Masked copies" })
end

-- ---- all ------------------------------------------------------------------------------------------------------------

local function tell_unusable(o, unusable, count)
  if #unusable == 0 then return end
  local lines = {}
  for i = 1, math.min(8, #unusable) do lines[i] = "\n  " .. unusable[i].path .. ": " .. unusable[i].why end
  check.fail("maskmaker", "%d of %d images were left out, the others lie in '%s'. Repair their masks, or list them "
    .. "in skip.txt:%s%s", #unusable, count, o.out, table.concat(lines), #unusable > 8 and "\n  and more" or "")
end

--- Writes the masked copies.
---@param options medxai.MaskmakerOptions
---@return table { written = integer, kept = integer (from an earlier call), out = string }
local function run(options)
  local o = Options.check("maskmaker", options, spec)
  check_out(o)
  local items = list_items(o)
  open_out(o)
  local lock <close> = files.lock(files.join(o.out, ".lock")) -- luacheck: ignore
    or check.fail("maskmaker", "'%s' is in use by another process.", o.out)
  local log, done = files.join(o.out, "maskmaker.jsonl"), {}
  files.repair_lines(log)
  for _, record in ipairs(files.records(log)) do done[record.path] = record.sources end
  local written, unusable = 0, {}
  local bar <close> = Progress.new("maskmaker", #items)
  for _, item in ipairs(items) do
    local sources = item.mask and sources_of(item)
    if not sources or done[item.to] ~= sources or not files.exists(files.join(o.out, item.to)) then
      local why = write_one(o, item)
      if why then
        unusable[#unusable + 1] = { path = item.path, why = why }
      else
        files.append_line(log, canon.write { path = item.to, sources = sources })
        written = written + 1
      end
    end
    bar:add(1)
    if host.interrupted() then error("interrupted", 0) end
  end
  contact_sheet(o, items)
  tell_unusable(o, unusable, #items)
  print(string.format("maskmaker: %d written, %d there already, in '%s' (mode %s; see contact_sheet.png)", written,
    #items - written, o.out, o.mode))
  return { written = written, kept = #items - written, out = o.out }
end

return { spec = spec, run = run }
