-- The readers of data sets: folders, tables and a drawing program become splits of labeled images. Each reader is a
-- file that returns { doc, options, read }; the options that all share are dataset.lua's.
-- Listing needs no libtorch; the first image opens it. Readers refuse what is not there; nothing is guessed from file
-- order.
local check = require "medxai.base.check"
local plugin = require "medxai.base.plugin"

---@class medxai.Dataset
---@field name string the reader's name
---@field classes string[] in label order: class k has label k - 1
---@field train medxai.Split|nil
---@field val medxai.Split|nil
---@field test medxai.Split|nil
---@field splits medxai.Split[] those that there are, in that order
---@field config table what determines the pictures, plain values, for hashing
---@field size_px integer
---@field input string what the network sees: "whole", "lungs", "outside" ...
---@field masks string[] the masks that there are: "lungs", "infection", "lesion", "marker"
---@field root string|nil

local readers = {
  covid_qu_ex = { "medxai.data.covid_qu_ex" },
  folders = { "medxai.data.folders", "folders" },
  masked_folders = { "medxai.data.folders", "masked_folders" },
  manifest = { "medxai.data.manifest" },
  files = { "medxai.data.files" },
  phantom = { "medxai.data.phantom" },
  from = { "medxai.data.from" },
  chexpert = { "medxai.data.chexpert" },
  covid19_radiography = { "medxai.data.covid19_radiography" },
  mimic_cxr_jpg = { "medxai.data.mimic_cxr_jpg" },
  nih_chestxray14 = { "medxai.data.nih_chestxray14" },
  padchest = { "medxai.data.padchest" },
  rsna_pneumonia = { "medxai.data.rsna_pneumonia" },
  vindr_cxr = { "medxai.data.vindr_cxr" },
}

-- A reader that lies beside the experiment, my_reader.lua: it returns a function(options) -> options of `from`.
local function own_reader(name)
  local f = plugin.beside("dataset", "reader", name, check.sorted_keys(readers))
  if type(f) ~= "function" then
    check.fail("dataset", "'%s.lua' returns a %s (expected a function(options) that returns { items = ..., classes "
      .. "= ... }).", name, type(f))
  end
  return { read = function(options)
    local made = f(options or {})
    if type(made) ~= "table" then
      check.fail("dataset", "the reader '%s' returns a %s (expected { items = ..., classes = ... }).", name, type(made))
    end
    local from, all = require "medxai.data.from", {}
    for key, value in pairs(options or {}) do
      if from.options[key] then all[key] = value end -- size_px, augment: as every reader takes them
    end
    for key, value in pairs(made) do all[key] = value end
    local data = from.make(all, name)
    data.options = {}
    for key, value in pairs(options or {}) do data.options[key] = value end
    if data.options.augment then data.options.augment = data.augment end -- written out in full
    return data
  end }
end

local function reader_of(name)
  local part = readers[name]
  if not part then return own_reader(name) end
  local reader = require(part[1])
  return part[2] and reader[part[2]] or reader
end

-- For the reference (medxai.reference): name -> { doc, options }.
local function described()
  local list = {}
  for name in pairs(readers) do list[name] = reader_of(name) end
  return { readers = list }
end

return setmetatable({}, {
  __call = function() check.fail("dataset", "is no function. Write xai.dataset.folders { root = ... }.") end,
  __names = function() return check.sorted_keys(readers) end, -- for completion at the prompt
  __described = described,
  __index = function(self, name)
    local read = reader_of(name).read
    rawset(self, name, read)
    return read
  end,
})
