-- Perturbed images made on the device: an image where a mask is 1 and its background elsewhere. Masks are given as
-- boxes (SHAP Partition) or as regions that are on or off (LIME, SHAP Kernel); the image is not copied per sample and
-- no mask leaves its device.
local torch = require "medxai.torch"

local hide = {}

-- (n, B, side) as 0 or 1: which rows or columns lie in [lo, hi).
local function inside(lo, hi, side)
  local at = torch.arange(0, side, { device = lo.device }):view({ 1, 1, side })
  return at:ge(lo:unsqueeze(2)):logical_and(at:lt(hi:unsqueeze(2))):to { dtype = "float32" }
end

--- Where any of an image's boxes lies: a product of row and column indicators, so the cost does not depend on their
--- size.
---@param boxes any (n, B, 6) integers: rows, columns, channels from, then to (excluded); an unused box is all 0; they
---  do not overlap
---@param channels integer
---@param height integer
---@param width integer
---@param device string
---@return any keep (n, 1, H, W) bool; (n, channels, H, W) where a box holds some channels only
function hide.boxes(boxes, channels, height, width, device)
  local whole = boxes:select(2, 2):eq(0):logical_and(boxes:select(2,
    5):eq(channels):logical_or(boxes:select(2, 5):eq(0))):all():item()
  local b = boxes:to { device = device, dtype = "int64" }
  local n, count = b:size(0), b:size(1)
  local rows = inside(b:select(2, 0), b:select(2, 3), height)
  local columns = inside(b:select(2, 1), b:select(2, 4), width)
  if whole then return torch.bmm(rows:transpose(1, 2), columns):gt(0.5):unsqueeze(1) end
  local depth = inside(b:select(2, 2), b:select(2, 5), channels) -- (n, B, C)
  local sides = (depth:unsqueeze(3) * rows:unsqueeze(2)):reshape({ n, count, channels * height })
  return torch.bmm(sides:transpose(1, 2), columns):gt(0.5):view({ n, channels, height, width })
end

--- Where the regions that are on lie.
---@param labels any (H, W) int64 on the device, 0 .. K-1
---@param on any (n, K) bool on the device
---@return any keep (n, 1, H, W) bool
function hide.regions(labels, on)
  local shape = labels.shape
  return on:index_select(1, labels:reshape(-1)):view({ on:size(0), 1, shape[1], shape[2] })
end

--- The perturbed images.
---@param x any (1, 3, H, W)
---@param background any (1, 3, H, W)
---@param keep any (n, 1 or 3, H, W) bool
---@return any (n, 3, H, W)
function hide.images(x, background, keep)
  local k = keep:to { dtype = x.dtype } -- products with 1 and 0 are exact, and torch.where takes three times as long
  return torch.addcmul(x * k, background, 1 - k)
end

return hide
