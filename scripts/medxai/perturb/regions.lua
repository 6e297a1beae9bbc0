-- Regions of an image: a label map with its hash, the same for all models, methods and seeds of that image. Sources:
--   "quickshift"   LIME's: { "quickshift", kernel_size = 4, max_dist = 200, ratio = 0.2, sigma = 0, seed = 42 }
--   "slic"         Kernel SHAP's: { "slic", n_segments = 10, compactness = 10, sigma = 0, iterations = 10 }
--   "grid"         { "grid", rows = 8, columns = 8 }
--   "lung_zones"   right and left lung (the patient's), upper, middle and lower third of each, and what lies outside;
--                  from the lung mask
--   a file         { "file", path = "regions/{name}.npy" }: .npy or PNG on the input's grid; {id} and {name} (without
--                  ending) are the image's
--   a function     (image (3, H, W), item) -> (H, W) integers
-- Labels are renumbered 0 .. K-1 in ascending order. It refuses one region only (there is nothing to compare), wrong
-- shapes, and labels that are not whole numbers.
local not_defined = require "medxai.base.not_defined"
local check = require "medxai.base.check"
local Options = require "medxai.base.options"
local code = require "medxai.base.fingerprint"
local core = require "medxai.core"
local files = require "medxai.base.files"
local has_mask = require("medxai.data.split").has_mask
local torch = require "medxai.torch"

local regions = {}

local sigma_option = { "number", default = 0, min = 0, max = 1000, unit = "px", doc = "of a Gaussian blur before" }

local specs = {
  quickshift = {
    kernel_size = { "number", default = 4, min = 1, max = 100, unit = "px", doc = "width of the density's kernel" },
    max_dist = { "number", default = 200, min = 0, doc = "where the tree of neighbors is cut" },
    ratio = { "number", default = 0.2, min = 0, doc = "of color to place" },
    sigma = sigma_option,
    seed = { "integer", min = 0, doc = "of the noise that breaks ties; default 42" },
  },
  slic = {
    n_segments = { "integer", default = 10, min = 1, max = 1000000, doc = "regions, about" },
    compactness = { "number", default = 10, above = 0, doc = "of place to color" },
    sigma = sigma_option,
    iterations = { "integer", default = 10, min = 1, max = 10000, doc = "of k-means" },
  },
  grid = {
    rows = { "integer", default = 8, min = 1, doc = "of rectangles" },
    columns = { "integer", default = 8, min = 1, doc = "of rectangles" },
  },
  lung_zones = {},
  file = { path = { "string", required = true,
    doc = ".npy or PNG of labels on the input's grid; {id} and {name} (without ending) are the image's" } },
}
local docs = {
  quickshift = "Superpixels by quickshift, as scikit-image (LIME's).",
  slic = "Superpixels by SLIC, as scikit-image (kernel SHAP's).",
  grid = "Rectangles of equal size.",
  lung_zones = "Upper, middle and lower third of each lung, and what lies outside; from the lung mask.",
  file = "Regions from a file of labels.",
}
local names = { "file", "grid", "lung_zones", "quickshift", "slic" }

---@class medxai.RegionSource
---@field kind string
---@field options table
---@field text string what names it in records: "quickshift(kernel_size=4, max_dist=200, ratio=0.2, sigma=0)"
local Source = {}
Source.__tostring = function(self) return self.text end

local function text_of(kind, options)
  local parts = {}
  for _, key in ipairs(check.sorted_keys(options)) do
    parts[#parts + 1] = string.format("%s=%.12g", key, options[key])
  end
  return #parts == 0 and kind or kind .. "(" .. table.concat(parts, ", ") .. ")"
end

--- Reads a source as an experiment writes it; raises what is wrong with it.
---@param source string|table|function
---@return medxai.RegionSource
function regions.parse(source)
  if getmetatable(source) == Source then return source end
  if type(source) == "function" then
    local hash = files.sha256(code.of_function(source))
    return setmetatable({ kind = "function", options = {}, text = "function " .. hash:sub(1, 8), f = source }, Source)
  end
  local given = type(source) == "table" and source or { source }
  local kind, own = given[1], {}
  if type(kind) ~= "string" then
    check.fail("regions", "a source is a name, { name, option = value } or a function (got %s).",
      type(source) == "table" and "a table without a name" or type(source))
  end
  check.known("regions", "source", kind, names)
  for key, value in pairs(given) do
    if key ~= 1 then own[key] = value end
  end
  local options = Options.check("regions: " .. kind, own, specs[kind])
  local text = kind == "file" and "file " .. options.path or text_of(kind, options)
  return setmetatable({ kind = kind, options = options, text = text }, Source)
end

--- One hash of the files from which a source's regions come: lung masks, or the files themselves, where each image has
--- one those of their folder (one that is added defines another map). nil where there are none.
---@param source medxai.RegionSource|nil
---@param split table
---@return string|nil
function regions.files_sha256(source, split)
  local kind = getmetatable(source) == Source and source.kind
  if kind == "lung_zones" then return split.masks_sha256 and split:masks_sha256 "lungs" end
  if kind ~= "file" then return nil end
  local folder, list = source.options.path:match "^(.*)/[^/]*{%w+}" or source.options.path:find "{%w+}" and ".", {}
  for i, name in ipairs(folder and files.is_folder(folder) and files.list(folder) or {}) do
    local path = folder .. "/" .. name
    list[i] = name .. " " .. (files.is_folder(path) and "folder" or files.sha256_file(path))
  end
  if not folder and files.exists(source.options.path) then list[1] = files.sha256_file(source.options.path) end
  return files.sha256(table.concat(list, "\n"))
end

-- ---- sources: each gives (H, W) int64 and, where the regions have names, label -> name ------------------------------

local make = {}

function make.quickshift(source, image, given)
  local o = source.options
  return (core.segment.quickshift(image, o.kernel_size, o.max_dist, o.ratio, o.sigma, o.seed or given.seed or 42))
end

function make.slic(source, image)
  local o = source.options
  return (core.segment.slic(image, o.n_segments, o.compactness, o.sigma, o.iterations, true, 0.5, 3))
end

function make.grid(source, image)
  local o, h, w = source.options, image:size(1), image:size(2)
  if o.rows > h or o.columns > w then
    check.fail("regions", "a grid of %d x %d is finer than the image (%d x %d).", o.rows, o.columns, h, w)
  end
  local row = torch.arange(h, { dtype = "int64" }):mul(o.rows):div(h, { rounding_mode = "floor" })
  local column = torch.arange(w, { dtype = "int64" }):mul(o.columns):div(w, { rounding_mode = "floor" })
  return row:unsqueeze(1) * o.columns + column:unsqueeze(0)
end

-- The column between the lungs: in the middle of the emptiest run of columns in the middle half of the mask's width.
local function midline(mask)
  local sums = mask:sum({ 0 }):tolist()
  local first, last
  for x, n in ipairs(sums) do
    if n > 0 then first, last = first or x, x end
  end
  local quarter = (last - first) // 4
  local least, from, to = math.huge, first, first
  for x = first + quarter, last - quarter do
    if sums[x] < least then least, from, to = sums[x], x, x
    elseif sums[x] == least and to == x - 1 then to = x end
  end
  return (from + to) // 2 -- 1-based: columns up to it are on the image's left
end

-- The rows of one lung in thirds: 0, 1, 2 for each row, by its own top and bottom.
local function thirds(half, h)
  local rows = half:sum({ 1 }):tolist()
  local top, bottom
  for y, n in ipairs(rows) do
    if n > 0 then top, bottom = top or y, y end
  end
  local zone = {}
  for y = 1, h do zone[y] = top and math.max(0, math.min(2, (y - top) * 3 // (bottom - top + 1))) or 0 end
  return torch.tensor(zone, { dtype = "int64" }):unsqueeze(1)
end

local zone_names = { "outside the lungs", "right upper", "right middle", "right lower", "left upper", "left middle",
  "left lower" }

--- Zones of a lung mask (H, W): 0 outside; 1 .. 3 the patient's right lung (on the image's left) from above, 4 .. 6 the
--- left.
function regions.lung_zones(mask)
  local inside = mask:to { device = "cpu" }:ne(0):to { dtype = "int64" }
  if inside:sum():item() == 0 then check.fail("regions", "the lung mask is empty (lung_zones needs lungs).") end
  local h, w = inside:size(0), inside:size(1)
  local middle = midline(inside)
  local labels = torch.zeros(h, w, { dtype = "int64" })
  for side, columns in ipairs { { 0, middle }, { middle, w } } do
    local at = { { 0, h }, columns }
    local half = inside[at]
    labels[at]:copy_((thirds(half, h) + 3 * side - 2) * half)
  end
  return labels, zone_names
end

-- Whether regions are for the map of one image of many: where it lacks what they are made of, that map is not defined
-- and the others are made.
local function is_one_of_many(given) return (given.least or 2) < 2 end

function make.lung_zones(_, image, given)
  if not given.split or not given.number or has_mask(given.split, "lungs") == false then
    check.fail("regions", "lung_zones needs a data set with lung masks.")
  end
  local mask = given.split:mask(given.number, "lungs")
  if is_one_of_many(given) and not (mask and mask:ne(0):any():item()) then
    not_defined.raise(mask and "the lung mask is empty" or "the image has no lung mask")
  end
  if not mask then
    check.fail("regions", "'%s' has no lung mask (lung_zones needs one).", tostring(given.item and given.item.path))
  end
  local mh, mw, h, w = mask:size(0), mask:size(1), image:size(1), image:size(2)
  if mh ~= h or mw ~= w then
    check.fail("regions", "the lung mask does not fit the image (expected (%d, %d), got (%d, %d)).", h, w, mh, mw)
  end
  return regions.lung_zones(mask)
end

function make.file(source, _, given)
  local item = given.item or {}
  local path = source.options.path:gsub("{(%w+)}", { id = item.id, name = item.name and item.name:gsub("%.%w+$", "") })
  if is_one_of_many(given) and path ~= source.options.path and not files.exists(path) then
    not_defined.raise("there is no file of regions '" .. path .. "'")
  end
  if path:find("%.npy$") then return torch.load_npy(path) end
  local picture = core.image.load(path)
  if picture:size(2) ~= 1 then
    check.fail("regions", "'%s' is a picture in color (expected gray: the labels).", path)
  end
  return picture:squeeze(2)
end

make["function"] = function(source, image, given)
  local labels = source.f(image, given.item)
  if type(labels) ~= "userdata" then
    check.fail("regions", "the function returned %s (expected a tensor (H, W)).",
      labels == nil and "nothing" or "a " .. type(labels))
  end
  return labels
end

-- ---- checks ---------------------------------------------------------------------------------------------------------

-- (H, W) int64 on the CPU of what a source gave; raises where that has no sense.
local function whole_numbers(source, labels, h, w)
  local shape = labels.shape
  if #shape ~= 2 or shape[1] ~= h or shape[2] ~= w then
    check.fail("regions", "%s gave labels of shape (%s) (expected (%d, %d)).", source.text,
      table.concat(shape, ", "), h, w)
  end
  labels = labels:detach():to { device = "cpu" }
  if labels.dtype:find("^float") or labels.dtype == "bfloat16" then
    local values = labels:to { dtype = "float64" }
    if not values:isfinite():all():item() or values:ne(values:floor()):any():item() then
      check.fail("regions", "%s gave labels that are not whole numbers.", source.text)
    end
  elseif labels.dtype:find("^complex") then
    check.fail("regions", "%s gave labels of %s (expected whole numbers).", source.text, labels.dtype)
  end
  return labels:to { dtype = "int64" }:contiguous()
end

local function renumbered(labels)
  local values, number = torch.unique(labels, { return_inverse = true })
  return number:contiguous(), values
end

--- The regions of one image.
---@param source string|table|function
---@param image any tensor (3, H, W), pixels in [0, 1]
---@param given? table item, split and number (lung_zones), seed of quickshift's tie-breaking noise (42), least = 1: one
---   region is no error
---@return table regions { labels = int64 (H, W) of 0 .. count-1 on the CPU, count =, hash = 16 hex digits, names =
---  list or nil, source = text }
function regions.of(source, image, given)
  source, given = regions.parse(source), given or {}
  local shape = image.shape
  if #shape ~= 3 or shape[1] ~= 3 then
    check.fail("regions", "takes an image (3, H, W), got (%s).", table.concat(shape, ", "))
  end
  local pixels = image:detach():to { device = "cpu", dtype = "float64" }:contiguous()
  if not pixels:isfinite():all():item() then check.fail("regions", "the image holds values that are not finite.") end
  local made, made_names = make[source.kind](source, pixels, given)
  local labels, values = renumbered(whole_numbers(source, made, shape[2], shape[3]))
  local count = values:size(0)
  if count < (given.least or 2) then
    check.fail("regions", "%s gives one region only (expected at least 2). Choose a finer source, for instance { "
      .. "\"grid\", rows = 8, columns = 8 }.", source.text)
  end
  local named = made_names and {}
  for k, value in ipairs(made_names and values:tolist() or {}) do named[k] = made_names[value + 1] end
  local hash = core.image.sha256(string.format("%d %d\n", shape[2], shape[3]) .. labels:data_string())
  return { labels = labels, count = count, hash = hash:sub(1, 16), names = named or nil, source = source.text }
end

-- ---- boundaries -----------------------------------------------------------------------------------------------------

regions.boundaries_spec = {
  background = { "integer", default = 0, doc = "the label that is no region" },
  compat = { one_of = { "scikit-image" }, doc = "as it is with int64 labels" },
}

--- Where scikit-image's find_boundaries(mode = "outer") is true. compat = "scikit-image": as it is with int64 labels,
--- where the sides of a region (not its top and bottom) get a second line.
---@param labels any tensor (H, W) of whole numbers
---@param options? { background: integer, compat: string }
---@return any tensor (H, W) bool
function regions.boundaries(labels, options)
  local o = Options.check("boundaries", options, regions.boundaries_spec)
  return core.segment.boundaries(labels:to { device = "cpu", dtype = "int64" }:contiguous(), o.background,
    o.compat ~= nil):ne(0)
end

--- The image (3, H, W) in [0, 1] with the boundaries of labels in yellow, as scikit-image's mark_boundaries.
function regions.mark_boundaries(image, labels, options)
  local line = regions.boundaries(labels, options):unsqueeze(0)
  local yellow = torch.tensor({ 1, 1, 0 }, { dtype = image.dtype }):view({ 3, 1, 1 })
  return torch.where(line, yellow, image:to { device = "cpu" })
end

-- For the reference (medxai.reference): name -> { doc, options }.
local function described()
  local list = {}
  for kind, options in pairs(specs) do list[kind] = { doc = docs[kind], options = options } end
  return { regions = list }
end

return setmetatable(regions, { __described = described })
