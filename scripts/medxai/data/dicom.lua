-- DICOM files among a data set's images: what their headers add to the list (patient, view position, modality, pixel
-- spacing), and which window makes their gray values black and white.
-- Patients become salted hashes. The salt is made of all the files' instance identifiers (SHA-256), so whoever lacks
-- the files cannot try identifiers until one fits; of the same list of files it is the same. Neither identifiers nor
-- salt are written anywhere. It refuses a window that cannot be one.
local check = require "medxai.base.check"
local files = require "medxai.base.files"
local native = require "medxai.dicom"

local dicom = {}

dicom.windows = { "first", "range", "minmax" }

--- The options of readers about DICOM files.
dicom.spec = {
  window = { "string|integer|table", default = "first", lua = "string|integer|{ center: number, width: number }",
    doc = "of DICOM files: what becomes black and white. \"first\" is the file's VOI LUT or first window (its whole "
      .. "range where it has none), a number another of its windows, { center =, width = } a window of your own, "
      .. "\"range\" all that the stored bits can hold, \"minmax\" the image's smallest to its largest value" },
  views = { "table", of = "string", field = true,
    doc = "keep images of these view positions alone: { \"PA\", \"AP\" }, as the data's tables or DICOM files say" },
}

--- Raises where a window is none.
---@param what string
---@param window string|integer|table
function dicom.check_window(what, window)
  if type(window) == "string" then return check.known(what, "window", window, dicom.windows) end
  if type(window) == "table" then
    for key in pairs(window) do check.known(what, "field of window", key, { "center", "width" }) end
    for _, key in ipairs { "center", "width" } do
      if math.type(window[key]) == nil then
        check.fail(what, "option 'window' is wrong (expected { center = 40, width = 400 }, %s is %s).", key,
          window[key] == nil and "missing" or "a " .. type(window[key]))
      end
    end
    if window.width < 1 then
      check.fail(what, "option 'window' is wrong (expected a width of at least 1, got %s).", window.width)
    end
  elseif window < 1 or window > 1000 then
    check.fail(what, "option 'window' is wrong (windows are numbered from 1, got %d).", window)
  end
end

local plain = { png = true, jpg = true, jpeg = true }

local function is_dicom(path)
  local ending = path:match "%.(%w+)$"
  return not plain[(ending or ""):lower()] and native.is(path)
end

-- SHA-256 as 16 hex digits: 2^64 values, and no two patients of a data set with the same.
local function salted(salt, hash) return "p" .. files.sha256(salt .. hash):sub(1, 16) end

local function set_patients(found)
  table.sort(found, function(a, b) return a.item.path < b.item.path end)
  local instances, of = {}, {}
  for i, f in ipairs(found) do
    instances[i] = f.header.instance or f.item.path
    local p = f.header.patient
    if p then of[#of + 1], of[p] = p, (of[p] or 0) + 1 end
  end
  table.sort(instances)
  local salt = files.sha256("dicom@1\0" .. table.concat(instances, "\0"))
  -- one identifier for everything is what some tools write in the place of all
  local same = #of > 1 and of[of[1]] == #found
  for _, f in ipairs(found) do
    local item, p = f.item, f.header.patient
    local given = item.patient and item.patient ~= "unknown"
    if p and (given and files.sha256(item.patient) == p or not given and not same) then
      item.patient, item.patient_key = salted(salt, p), p
    end
  end
  return same
end

--- Fills what the headers of DICOM files say into items that do not say it; once for each item.
---@param items table[]
---@param root string|nil
---@return string[] notes
function dicom.describe(items, root)
  local found, notes, strange = {}, {}, {}
  for _, item in ipairs(items) do
    if item.dicom == nil then
      local path = item.path:sub(1, 1) == "/" and item.path or (root or ".") .. "/" .. item.path
      item.dicom = is_dicom(path)
      local header = item.dicom and native.header(path) -- what is wrong with a file is told where it is decoded
      if header then
        found[#found + 1] = { item = item, header = header }
        item.view, item.modality, item.spacing = item.view or header.view, header.modality, header.spacing
        if header.modality and not dicom.xray[header.modality] then strange[#strange + 1] = item end
      end
    end
  end
  if #found > 0 and set_patients(found) then
    notes[1] = ("all %d DICOM files have the same patient identifier: it is not used, and patients are not known")
      :format(#found)
  end
  if #strange > 0 then
    notes[#notes + 1] = ("%d DICOM file%s of a modality other than X-ray (%s is %s)"):format(#strange,
      #strange == 1 and " is" or "s are", strange[1].path, strange[1].modality)
  end
  return notes
end

--- Modalities of X-ray images, and those of pictures made from others.
dicom.xray = { CR = true, DX = true, RG = true, RF = true, XA = true, MG = true, IO = true, PX = true, OT = true,
  SC = true }

--- Those of items that have one of the views; a note of how many are left out.
---@param items table[]
---@param views string[]|nil
---@return table[] items
---@return string|nil note
function dicom.of_views(what, items, views)
  if not views then return items end
  local wanted, kept, seen = {}, {}, {}
  for i = 1, #views do wanted[views[i]:upper()] = true end
  for _, item in ipairs(items) do
    local view = (item.view or "unknown"):upper()
    seen[view] = true
    if wanted[view] then kept[#kept + 1] = item end
  end
  if #kept == 0 then
    check.fail(what, "option 'views' leaves no image (expected one of the data's view positions: %s).",
      table.concat(check.sorted_keys(seen), ", "))
  end
  return kept, #kept < #items and ("%d of %d images are left out, whose view position is not %s"):format(
    #items - #kept, #items, table.concat(views, " or ")) or nil
end

return dicom
