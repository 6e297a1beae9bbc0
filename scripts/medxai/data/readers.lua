-- Datasets: readers that turn folders, tables or a drawing program into splits of labelled pictures.
--   covid_qu_ex { root =, part = "lung" | "infection", mask = "lungs" }   the COVID-QU-Ex layout
--   folders { root =, classes = { ... } }         <split>/<class>/*.png
--   masked_folders { root = }                     Masked_<split>/<class>/*.png, as maskmaker writes them
--   manifest { csv = }                            a table: path, label, split, and mask, patient, source where known
--   files { "a.png", "b.png" }                    a single file or a list of files
--   phantom { n_train =, size_px =, marker = }    drawn chest X-rays, masks known exactly
-- Every reader takes size_px, resize_px, mask, mean, std, augment, cache_mb, limit (dataset/base.lua says what they mean).
-- Listing needs no libtorch; the first picture opens it. Readers refuse what is not there; nothing is guessed from file order.
local check = require "medxai.base.options"

---@class medxai.Dataset
---@field name string the reader's name
---@field classes string[] in label order: class k has label k - 1
---@field train medxai.Split|nil
---@field val medxai.Split|nil
---@field test medxai.Split|nil
---@field splits medxai.Split[] those that there are, in that order
---@field config table what determines the pictures, plain values, for hashing
---@field size_px integer
---@field mask string "none", "lungs", "lungs_raw", "outside"
---@field root string|nil

local readers = {
  covid_qu_ex = { "medxai.data.covid_qu_ex" },
  folders = { "medxai.data.folders", "folders" },
  masked_folders = { "medxai.data.folders", "masked_folders" },
  manifest = { "medxai.data.manifest" },
  files = { "medxai.data.files" },
  phantom = { "medxai.data.phantom" },
}

---@class medxai.Datasets
---@field covid_qu_ex fun(options: table): medxai.Dataset
---@field folders fun(options: table): medxai.Dataset
---@field masked_folders fun(options: table): medxai.Dataset
---@field manifest fun(options: table): medxai.Dataset
---@field files fun(options: table|string): medxai.Dataset
---@field phantom fun(options: table|nil): medxai.Dataset
return setmetatable({}, {
  __names = function() return check.sorted_keys(readers) end, -- for completion at the prompt
  __index = function(self, name)
    local reader = readers[name]
    if not reader then check.known("dataset", "reader", name, check.sorted_keys(readers)) end
    local value = require(reader[1])
    if reader[2] then value = value[reader[2]] end
    rawset(self, name, value)
    return value
  end,
})
