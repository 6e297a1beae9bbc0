-- Takes information out of images, in the network's input range: one object for ROAD, deletion and insertion, LIME and
-- SHAP. It refuses to guess the network's range, and a background for noisy_linear, which has none.
local check = require "medxai.base.check"
local core = require "medxai.core"
local torch = require "medxai.torch"

local removal = {}

---@class medxai.Removal
---@field id string "blur(31,31)": part of a metric's id
---@field kind string
---@field needs_labels boolean segment_mean
---@field needs_noise boolean noisy_linear with a sigma above 0
local Removal = {}
Removal.__index = Removal

local docs = {
  black = "The network's value for black.",
  white = "The network's value for white.",
  mean = "Each image's mean, channel by channel.",
  segment_mean = "Each region's mean, channel by channel (LIME's way).",
  ["blur(k)"] = "OpenCV's box blur, k pixels wide and high (anchored at k // 2, the border mirrored without its edge).",
  ["blur(kx, ky)"] = "OpenCV's box blur, kx pixels wide and ky high.",
  ["noisy_linear(sigma)"] = "Removed pixels from their kept neighbors by a linear system, plus normal noise (ROAD's "
  .. "imputer); "
    .. "sigma is 0.01 where left out.",
}

local forms = "black, white, mean, segment_mean, blur(k), blur(kx, ky) or noisy_linear(sigma)"
local default_sigma = 0.01 -- the reference's

local function wrong(text) check.fail("removal", "unknown removal '%s' (expected %s).", tostring(text), forms) end

-- The numbers in the parentheses of "name(1, 2)".
local function parts_of(text)
  local name, inner = text:match("^%s*([%w_]+)%s*$"), nil
  if not name then name, inner = text:match("^%s*([%w_]+)%s*%((.*)%)%s*$") end
  if not name then wrong(text) end
  local numbers = {}
  for word in (inner or ""):gmatch("[^,]+") do numbers[#numbers + 1] = tonumber(word) or wrong(text) end
  return name, numbers
end

local function parse_blur(self, numbers, text)
  local kx, ky = math.tointeger(numbers[1]), math.tointeger(numbers[2] or numbers[1])
  if #numbers < 1 or #numbers > 2 or not kx or not ky or kx < 1 or ky < 1 then
    check.fail("removal", "a blur has whole sizes of at least 1 (expected blur(31) or blur(31, 15), got '%s').", text)
  end
  self.kx, self.ky, self.id = kx, ky, string.format("blur(%d,%d)", kx, ky)
end

local function parse_noisy(self, numbers, text)
  local sigma = numbers[1] or default_sigma
  if #numbers > 1 or not (sigma >= 0 and sigma < math.huge) then
    check.fail("removal", "noisy_linear has one noise of at least 0 (expected noisy_linear(0.01), got '%s').", text)
  end
  self.sigma, self.id, self.needs_noise = sigma, string.format("noisy_linear(%.12g)", sigma), sigma > 0
end

local plain = { black = true, white = true, mean = true, segment_mean = true }

--- Reads a removal as an experiment writes it.
---@param text string
---@return medxai.Removal
function removal.parse(text)
  if getmetatable(text) == Removal then return text end
  if type(text) ~= "string" then
    check.fail("removal", "a removal is a text (expected %s, got %s).", forms, type(text))
  end
  local name, numbers = parts_of(text)
  local self = setmetatable({ kind = name, id = name, needs_labels = name == "segment_mean", needs_noise = false },
    Removal)
  if name == "blur" then parse_blur(self, numbers, text)
  elseif name == "noisy_linear" then parse_noisy(self, numbers, text)
  elseif not plain[name] or #numbers > 0 then wrong(text) end
  return self
end

--- The same where whole images with everything removed are needed: noisy_linear has none.
---@param what string named in errors
---@param text string
---@return medxai.Removal
function removal.of_background(what, text)
  local self = removal.parse(text)
  if self.kind == "noisy_linear" then
    check.fail(what, "removal = '%s' has no background: it fills pixels from those that are kept (expected "
      .. "black, white, "
      .. "mean, segment_mean or blur).", self.id)
  end
  return self
end

--- The same where there are no regions to take means of.
---@param what string named in errors
---@param text string
---@return medxai.Removal
function removal.without_regions(what, text)
  local self = removal.parse(text)
  if self.needs_labels then
    check.fail(what, "'%s' needs regions, which there are none here (expected black, white, mean, blur or "
      .. "noisy_linear).", self.id)
  end
  return self
end

-- ---- backgrounds ------------------------------------------------------------------------------------------------

-- (n, n) float64: row i holds 1/k at the pixels that the box around i covers, mirrored at the border as often as
-- needed.
local function box(n, k)
  local rows = torch.zeros(n, n, { dtype = "float64" })
  local at, period = torch.arange(n), 2 * math.max(n - 1, 1)
  local ones = torch.full({ n, 1 }, 1 / k, { dtype = "float64" })
  for offset = -(k // 2), k - 1 - k // 2 do
    local index = (at + offset):remainder(period) -- 0 .. period - 1; the upper half mirrors back
    index = torch.minimum(index, period - index):clamp_max(n - 1)
    rows:scatter_add_(1, index:unsqueeze(1), ones)
  end
  return rows
end

-- The blur is separable and linear: one product a side, in double precision, as OpenCV sums.
local function blurred(x, kx, ky)
  local down, across = box(x:size(2), ky), box(x:size(3), kx)
  local double = x:to { dtype = "float64" }
  down, across = down:to { device = x.device }, across:to { device = x.device }
  return torch.matmul(torch.matmul(down, double), across:t()):to { dtype = x.dtype }
end

-- labels (H, W) or (N, H, W) int64 from 0.
local function segment_means(x, labels)
  local shape = x.shape
  local n, c, pixels = shape[1], shape[2], shape[3] * shape[4]
  local given = labels.shape
  local batched = #given == 3
  if given[#given - 1] ~= shape[3] or given[#given] ~= shape[4] or #given > 3 or batched and given[1] ~= n then
    check.fail("removal", "labels do not fit the images (expected (%d, %d) or (%d, %d, %d), got (%s)).", shape[3],
      shape[4], n, shape[3], shape[4], table.concat(given, ", "))
  end
  local index = labels:to { device = x.device, dtype = "int64" }:reshape({ batched and n or 1, 1, pixels })
  index = index:expand({ n, c, pixels })
  local count = index:max():item() + 1
  local sums = torch.zeros({ n, c, count }, { dtype = "float64", device = x.device })
  local sizes = sums:clone()
  sums:scatter_add_(2, index, x:reshape({ n, c, pixels }):to { dtype = "float64" })
  sizes:scatter_add_(2, index, torch.ones({ n, c, pixels }, { dtype = "float64", device = x.device }))
  return (sums / sizes:clamp_min(1)):gather(2, index):view(shape):to { dtype = x.dtype }
end

local function filled(x, value) return torch.zeros_like(x) + value:to { device = x.device, dtype = x.dtype } end

local function need_range(self, options)
  local range = options and options.range
  if not range then check.fail("removal", "'%s' needs the network's range (expected range = { lo, hi }).", self.id) end
  return range
end

--- The images with everything taken out.
---@param x any tensor (N, C, H, W), the network's input
---@param options? table labels: (H, W) or (N, H, W) int64, for segment_mean; range: { lo, hi }, tensors (1, C, 1, 1),
---   for black and white
---@return any tensor like x
function Removal:background(x, options)
  local shape = x.shape
  if #shape ~= 4 then check.fail("removal", "takes images (N, C, H, W), got (%s).", table.concat(shape, ", ")) end
  if self.kind == "black" then return filled(x, need_range(self, options)[1]) end
  if self.kind == "white" then return filled(x, need_range(self, options)[2]) end
  if self.kind == "mean" then return filled(x, x:to { dtype = "float64" }:mean({ 2, 3 }, true)) end
  if self.kind == "blur" then return blurred(x, self.kx, self.ky) end
  if self.kind == "segment_mean" then
    if not (options and options.labels) then
      check.fail("removal", "'segment_mean' needs the regions (expected labels = tensor (H, W)).")
    end
    return segment_means(x, options.labels)
  end
  check.fail("removal", "'%s' has no background: it fills pixels from those that are kept.", self.id)
end

-- ---- removing ---------------------------------------------------------------------------------------------------

-- Adds each image's noise (from its own stream; images with the same one share its draws) where keep is false. values:
-- float64.
local function add_noise(self, values, keep, streams)
  local shape, drawn = values.shape, {}
  for i = 1, shape[1] do
    local stream = streams and streams[i]
    if not stream then
      check.fail("removal", "noisy_linear needs a keyed stream for each image (expected %d, got %d).", shape[1], i - 1)
    end
    drawn[stream] = drawn[stream] or stream:normal(shape[2] * shape[3] * shape[4]):view(
      { shape[2], shape[3], shape[4] }):mul_(self.sigma)
    values:select(0, i - 1):add_(drawn[stream]:masked_fill(keep:select(0, i - 1), 0))
  end
end

-- What is kept comes back to the bit: float64 holds every float32.
local function imputed(self, x, keep, options)
  local on_cpu = keep:to { device = "cpu" }:contiguous()
  local values = x:detach():to { device = "cpu", dtype = "float64" }:contiguous()
  if x.dtype == "float64" then values = values:clone() end
  core.impute.fill_(values, on_cpu)
  if self.needs_noise then add_noise(self, values, on_cpu, options and options.streams) end
  return values:to { device = x.device, dtype = x.dtype }
end

--- The images with what lies outside keep taken out.
--- Draw k of an image's noise belongs to its number k (channel, row, column), whatever is removed: percentiles are
--- paired.
---@param x any tensor (N, C, H, W), the network's input
---@param keep any tensor (N, H, W) bool
---@param options? table labels, range: see background; streams: list of N keyed streams, for noisy_linear with noise
---@return any tensor like x
function Removal:apply(x, keep, options)
  local shape, given = x.shape, keep.shape
  if #shape ~= 4 or #given ~= 3 or given[1] ~= shape[1] or given[2] ~= shape[3] or given[3] ~= shape[4]
      or keep.dtype ~= "bool" then
    check.fail("removal", "keep does not fit the images (expected bool (N, H, W) for images (%s), got %s (%s)).",
      table.concat(shape, ", "), keep.dtype, table.concat(given, ", "))
  end
  if self.kind == "noisy_linear" then return imputed(self, x, keep, options) end
  return torch.where(keep:to { device = x.device }:unsqueeze(1), x, self:background(x, options))
end

-- For the reference (medxai.reference): form -> { doc }.
local function described()
  local list = {}
  for form, doc in pairs(docs) do list[form] = { doc = doc } end
  return { removals = list }
end

return setmetatable(removal, { __described = described })
