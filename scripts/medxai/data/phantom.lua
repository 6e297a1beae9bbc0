-- Drawn chest X-rays of three classes (clear, nodule, opacity) with lung, lesion and marker masks known exactly: what to try
-- things on where no data are, and the truth that explainers are judged against. Drawn by bindings/phantom.c from (seed, number) alone.
-- marker: plants a shortcut, a lead letter in a random corner. A number is its rate in every class, so that its absence tells
-- nothing while its letter tells the class; { rate = 0.8 or one a class, tells = false } plants any letter, at rates that may differ.
local base = require "medxai.data.dataset"
local check = require "medxai.base.options"

local classes = { "clear", "nodule", "opacity" }

local spec = base.spec {
  root = false, resize_px = false, white_16bit = false, mask_resize = false, skip = false,
  n_train = { "integer", field = true, default = 600, min = 0 },
  n_val = { "integer", field = true, default = 150, min = 0 },
  n_test = { "integer", field = true, default = 150, min = 0 },
  seed = { "integer", default = 42 },
  contrast = { "number", default = 1, min = 0 },
  marker = { "number|table" },
}

local function rates(value)
  local list = {}
  for k, class in ipairs(classes) do
    local rate = value
    if type(value) == "table" then rate = value[class] or value[k] or 0 end
    if type(rate) ~= "number" or rate < 0 or rate > 1 then
      check.fail("phantom", "marker: the rate of class '%s' is wrong (expected 0 to 1, got %s).", class, tostring(rate))
    end
    list[k] = rate
  end
  return list
end

local function marker_of(value)
  if value == nil then return nil end
  if type(value) == "number" then return { rate = rates(value), tells = true } end
  local m = check.options("phantom: marker", value, { rate = { "number|table", required = true }, tells = { "boolean", default = true } })
  return { rate = rates(m.rate), tells = m.tells }
end

---@param options { n_train?: integer, n_val?: integer, n_test?: integer, size_px?: integer, seed?: integer, contrast?: number, marker?: number|table }|nil
---@return medxai.Dataset
return function(options)
  local o = check.options("phantom", options, spec)
  local marker, items, number = marker_of(o.marker), {}, 0
  for _, split in ipairs { "train", "val", "test" } do
    for _ = 1, o["n_" .. split] do
      items[#items + 1] = { path = ("phantom-%d-%d"):format(o.seed, number), label = number % 3, split = split, source = "phantom", number = number }
      number = number + 1
    end
  end
  if number == 0 then check.fail("phantom", "no images: n_train, n_val and n_test are all 0.") end
  local drawn = { seed = o.seed, size_px = o.size_px, contrast = o.contrast, marker_rate = marker and marker.rate, marker_tells = marker and marker.tells }
  local masks = marker and { "lungs", "lesion", "marker" } or { "lungs", "lesion" }
  return base.make { name = "phantom", classes = { table.unpack(classes) }, items = items, masks = masks, options = o, drawn = drawn, empty_ok = number < 9,
    config = { phantom = 1, seed = o.seed, contrast = o.contrast, marker = marker } }
end
