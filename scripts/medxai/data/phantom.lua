-- Drawn chest X-rays of three classes (clear, nodule, opacity) with lung, lesion and marker masks known exactly: what
-- to try things on where no data are, and the truth that explainers are judged against. Drawn by
-- bindings/plain/phantom.c from (seed, number) alone. marker: plants a shortcut, a lead letter in a random corner. A
-- number is its rate in every class, so that its absence tells nothing while its letter tells the class; { rate = 0.8
-- or one per class, tells = false } plants any letter, at rates that may differ.
local base = require "medxai.data.dataset"
local check = require "medxai.base.check"
local Options = require "medxai.base.options"

local classes = { "clear", "nodule", "opacity" }

local marker_spec = {
  rate = { "number|table", required = true, lua = "number|number[]|table<string, number>",
    doc = "share of images with a letter, 0 to 1: one, or one per class" },
  tells = { "boolean", default = true, doc = "true: each class has its own letter; false: any letter" },
}

local spec = base.spec {
  root = false, resize_px = false, white_16bit = false, mask_resize = false, skip = false, window = false,
  views = false,
  n_train = { "integer", field = true, default = 600, min = 0, unit = "images", doc = "in the training split" },
  n_val = { "integer", field = true, default = 150, min = 0, unit = "images", doc = "in the validation split" },
  n_test = { "integer", field = true, default = 150, min = 0, unit = "images", doc = "in the test split" },
  seed = { "integer", default = 42, doc = "of the drawing" },
  contrast = { "number", default = 1, min = 0, doc = "of the lesions; 0: invisible" },
  marker = { "number|table", fields = marker_spec,
    doc = "plants a shortcut, a lead letter in a random corner; a number is its rate in every class" },
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
  local m = Options.check("phantom: marker", value, marker_spec)
  return { rate = rates(m.rate), tells = m.tells }
end

local function read(options)
  local o = Options.check("phantom", options, spec)
  local marker, items, number = marker_of(o.marker), {}, 0
  for _, split in ipairs { "train", "val", "test" } do
    for _ = 1, o["n_" .. split] do
      items[#items + 1] = { path = ("phantom-%d-%d"):format(o.seed, number), label = number % 3, split = split,
        source = "phantom", number = number }
      number = number + 1
    end
  end
  if number == 0 then check.fail("phantom", "no images: n_train, n_val and n_test are all 0.") end
  local drawn = { seed = o.seed, size_px = o.size_px, contrast = o.contrast, marker_rate = marker and marker.rate,
    marker_tells = marker and marker.tells }
  local masks = marker and { "lungs", "lesion", "marker" } or { "lungs", "lesion" }
  return base.make { name = "phantom", classes = { table.unpack(classes) }, items = items, masks = masks, options = o,
    drawn = drawn, empty_ok = number < 9, config = { phantom = 1, seed = o.seed, contrast = o.contrast,
      marker = marker } }
end

return {
  doc = "Drawn chest X-rays of three classes (clear, nodule, opacity), with lung, lesion and marker masks known "
  .. "exactly.", options = spec,
  read = read,
}
