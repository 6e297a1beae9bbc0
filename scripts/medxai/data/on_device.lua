-- A split's images on the device that trains: prepared once, kept as bytes, and from there picked, augmented and scaled
-- by the device itself, to the bits of the loader. It refuses nothing: where the images do not fit, the loader makes
-- the batches.
local core = require "medxai.core"
local splits = require "medxai.data.split"
local torch = require "medxai.torch"

local on_device = {}

---@class medxai.OnDevice
local OnDevice = {}
OnDevice.__index = OnDevice

--- The bytes of a split's images, of one channel and of three.
---@param split medxai.Split
function on_device.bytes(split)
  local gray = split.n * split.data.size_px * split.data.size_px
  return gray, 3 * gray
end

-- A color image among gray ones: all get three channels.
local function widen(self, channels)
  if self.bytes:size(1) >= channels then return end
  local wide = core.memory.unscoped(function()
    return self.bytes:expand { self.bytes:size(0), channels, self.bytes:size(2), self.bytes:size(3) }:contiguous()
  end)
  self.bytes:close()
  self.bytes = wide
end

local function fill(self, split, alive)
  local size, at = split.data.size_px, 0
  self.bytes = core.memory.unscoped(function()
    return torch.empty({ split.n, 1, size, size }, { dtype = "uint8", device = self.device })
  end)
  local loader <close> = split:loader { batch = 64, bytes = true }
  repeat
    local scope <close> = core.memory.scope() -- luacheck: ignore
    local batch = loader:next()
    if batch then
      widen(self, batch.x:size(1))
      self.bytes:narrow(0, at, batch.x:size(0)):copy_(batch.x) -- one channel is copied to three
      at = at + batch.x:size(0)
      alive()
    end
  until not batch
end

--- A split's images on a device.
---@param split medxai.Split
---@param device string
---@param alive? fun() called often
---@return medxai.OnDevice
function on_device.open(split, device, alive)
  local self = setmetatable({ split = split, device = device }, OnDevice)
  fill(self, split, alive or function() end)
  core.memory.unscoped(function()
    self.table = split.data:native():table():to { device = device }
    self.targets = split:labels():to { device = device }
  end)
  return self
end

function OnDevice:close()
  for _, name in ipairs { "bytes", "table", "targets" } do
    if self[name] then self[name]:close() end
    self[name] = nil
  end
end
OnDevice.__close = OnDevice.close

-- ---- augmentation ---------------------------------------------------------------------------------------------------
-- The arithmetic of bindings/plain/loader.c in float64, one operator for each of its operations.

-- A column of the draws as (N, 1).
local function column(draws, k) return draws:select(1, k):unsqueeze(1) end

-- Where each pixel of the result comes from: coordinates (N, S * S).
local function sources(draws, size)
  local middle = (size - 1) / 2
  local line = torch.arange(size, { dtype = "float64", device = draws.device }):sub(middle)
  local x = line:unsqueeze(0):expand { size, size }:reshape { 1, size * size }
  local y = line:unsqueeze(1):expand { size, size }:reshape { 1, size * size }
  local px, py = x - column(draws, 2), y - column(draws, 3)
  local a, b = column(draws, 0), column(draws, 1)
  local u, v = a * px + b * py, a * py - b * px
  return column(draws, 4) * u + middle, v + middle
end

-- Bilinear samples of bytes (N, C, S, S) at u, v; black outside.
local function sampled(bytes, u, v)
  local n, channels, size = bytes:size(0), bytes:size(1), bytes:size(2)
  local flat, sum = bytes:reshape { n, channels, size * size }:double(), nil
  local x0, y0 = u:floor(), v:floor()
  local fx, fy = u - x0, v - y0
  for j = 0, 1 do
    for i = 0, 1 do
      local x, y = x0 + i, y0 + j
      local inside = x:ge(0):logical_and(x:lt(size)):logical_and(y:ge(0)):logical_and(y:lt(size)):unsqueeze(1)
      local place = (y:clamp(0, size - 1) * size + x:clamp(0, size - 1)):long():unsqueeze(1)
      local weight = ((i == 1 and fx or 1 - fx) * (j == 1 and fy or 1 - fy)):unsqueeze(1)
      local value = weight * flat:gather(2, place:expand { n, channels, size * size })
      value = torch.where(inside, value, torch.zeros_like(value))
      sum = sum and sum + value or value
    end
  end
  return sum:add(0.5):floor():reshape { n, channels, size, size }
end

-- values: whole numbers in float64 (N, C, S, S).
local function exposed(values, draws)
  local n = values:size(0)
  local mean = values:reshape { n, -1 }:sum(1):div(values:numel() // n):reshape { n, 1, 1, 1 }
  local brightness, contrast = draws:select(1, 5):reshape { n, 1, 1, 1 }, draws:select(1, 6):reshape { n, 1, 1, 1 }
  return ((values - mean) * contrast + mean):mul(brightness):add(0.5):clamp(0, 255):floor()
end

-- As an epoch augments images. A gray image of three equal channels has the mean of its one.
local function augmented(self, bytes, places, seed, epoch)
  local index = {}
  for i, place in ipairs(places) do index[i] = self.split.items[place].index end
  local draws = self.split.data:native():draws(index, { seed = seed, epoch = epoch, augment = self.split.data.augment })
  draws = draws:to { device = self.device }
  local u, v = sources(draws, bytes:size(2))
  return exposed(sampled(bytes, u, v), draws):byte()
end

-- ---- batches --------------------------------------------------------------------------------------------------------

-- What the network sees of bytes (N, C, S, S): float32 (N, 3, S, S).
local function scaled(self, bytes, channels_last)
  local planes, n, size = {}, bytes:size(0), bytes:size(2)
  for k = 0, 2 do
    local plane = bytes:select(1, math.min(k, bytes:size(1) - 1)):reshape(-1):long()
    planes[k + 1] = self.table:select(0, k):index_select(0, plane):reshape { n, size, size }
  end
  local x = torch.stack(planes, 1)
  return channels_last and x:to { memory_format = "channels_last" } or x
end

local Source = {}
Source.__index = Source

--- The next batch { x =, y =, index = }, or nil. Its tensors belong to the scope that is open now.
function Source:next()
  local o, owner = self.options, self.owner
  local last = math.min(self.at + o.batch - 1, #o.order)
  if self.at > last or o.drop_last and last - self.at + 1 < o.batch then return nil end
  local places, rows = {}, {}
  for k = self.at, last do places[#places + 1], rows[#rows + 1] = o.order[k], o.order[k] - 1 end
  self.at = last + 1
  local picked = torch.tensor(rows, { dtype = "int64" }):to { device = owner.device }
  local bytes = owner.bytes:index_select(0, picked)
  local changes = o.augment and owner.split.data.augment
  if changes then bytes = augmented(owner, bytes, places, o.seed, o.epoch) end
  return splits.batch(owner.split, scaled(owner, bytes, o.channels_last), owner.targets:index_select(0, picked), places,
    changes and { augment = changes, seed = o.seed, epoch = o.epoch } or nil)
end

function Source.close() end
Source.__close = Source.close

--- Batches, as a loader gives them.
---@param options { batch: integer, order: integer[], seed: integer, epoch: integer, augment: boolean?,
---  drop_last: boolean?, channels_last: boolean? }
function OnDevice:source(options)
  local batches = (#options.order + (options.drop_last and 0 or options.batch - 1)) // options.batch
  return setmetatable({ owner = self, options = options, at = 1, batches = batches, wait_seconds = 0.0 }, Source)
end

return on_device
