-- An image tensor as the bytes that figures draw. It refuses what is no image of three channels.
local check = require "medxai.base.check"

--- An image (3, H, W) in [0, 1] as pixels: rgb holds 3 bytes per pixel, row by row; numbers outside are cut off.
---@param image any tensor
---@return { rgb: string, columns: integer, rows: integer }
return function(image)
  local shape = image.shape
  if #shape ~= 3 or shape[1] ~= 3 then
    check.fail("figure", "an image is (3, H, W), not (%s).", table.concat(shape, ", "))
  end
  local bytes = image:detach():to { device = "cpu" }:clamp(0,
    1):mul(255):round():to { dtype = "uint8" }:permute({ 1, 2, 0 })
  return { rgb = bytes:contiguous():data_string(), columns = shape[3], rows = shape[2] }
end
