-- Proposals for lead letters and other markers in images without a mask of markers: bright, compact spots outside the
-- lungs' rectangle, brighter than their surroundings, neither as large as anatomy nor as small as noise. They are to be
-- looked at before they are believed.
local torch = require "medxai.torch"

local markers = {}

markers.least_area, markers.most_area = 0.0003, 0.02 -- shares of the image
markers.least_fill = 0.2                              -- of its bounding box
markers.most_side = 0.25                              -- of the image's side
markers.least_contrast = 0.2                          -- of the image's range, over its surroundings

-- The pixels connected (8 neighbours) with start, taken out of `open`; places are y * width + x.
local function component(open, start, height, width)
  local stack, list = { start }, {}
  open[start] = nil
  while #stack > 0 do
    local at = table.remove(stack)
    list[#list + 1] = at
    local y, x = at // width, at % width
    for ny = math.max(y - 1, 0), math.min(y + 1, height - 1) do
      for nx = math.max(x - 1, 0), math.min(x + 1, width - 1) do
        local other = ny * width + nx
        if open[other] then
          open[other] = nil
          stack[#stack + 1] = other
        end
      end
    end
  end
  return list
end

-- Its box, area and mean.
local function measure(list, values, width)
  local s = { top = math.huge, left = math.huge, bottom = -1, right = -1, area = #list, mean = 0.0 }
  for _, at in ipairs(list) do
    local y, x = at // width, at % width
    s.top, s.bottom, s.left, s.right = math.min(s.top, y), math.max(s.bottom, y), math.min(s.left, x),
      math.max(s.right, x)
    s.mean = s.mean + values[y + 1][x + 1] / #list
  end
  return s
end

-- Mean of a ring of a tenth of the image's side around the box.
local function surroundings(s, values, height, width)
  local ring, sum, n = math.max(2, height // 20), 0.0, 0
  for y = math.max(s.top - ring, 0), math.min(s.bottom + ring, height - 1) do
    for x = math.max(s.left - ring, 0), math.min(s.right + ring, width - 1) do
      if y < s.top or y > s.bottom or x < s.left or x > s.right then sum, n = sum + values[y + 1][x + 1], n + 1 end
    end
  end
  return n > 0 and sum / n or 0
end

local function is_marker(s, height, width)
  local area, box = s.area / (height * width), (s.bottom - s.top + 1) * (s.right - s.left + 1)
  return area >= markers.least_area and area <= markers.most_area and s.area / box >= markers.least_fill
    and s.bottom - s.top < markers.most_side * height and s.right - s.left < markers.most_side * width
    and s.contrast >= markers.least_contrast
end

--- Bright, compact spots of an image within a zone.
---@param gray any tensor (H, W), float
---@param zone any tensor (H, W) bool where to look
---@return any|nil mask tensor (H, W) bool of all spots; nil where there is none
---@return table[] spots { top, left, bottom, right, area, mean, contrast } in pixels and shares of the image's range
function markers.find(gray, zone)
  local shape = gray.shape
  local low, high = gray:min():item(), gray:max():item()
  if not (high > low) then return nil, {} end
  local scaled = (gray - low) / (high - low)
  local bright = scaled:ge(0.8):logical_and(zone)
  local values, open, order = scaled:tolist(), {}, {}
  for _, p in ipairs(bright:nonzero():tolist()) do
    local at = p[1] * shape[2] + p[2]
    open[at], order[#order + 1] = true, at
  end
  local spots, kept = {}, {}
  for _, at in ipairs(order) do
    if open[at] then
      local list = component(open, at, shape[1], shape[2])
      local s = measure(list, values, shape[2])
      s.contrast = s.mean - surroundings(s, values, shape[1], shape[2])
      if is_marker(s, shape[1], shape[2]) then
        spots[#spots + 1] = s
        table.move(list, 1, #list, #kept + 1, kept)
      end
    end
  end
  if #spots == 0 then return nil, spots end
  local mask = torch.zeros(shape[1] * shape[2], { dtype = "bool" })
  mask:index_fill_(0, torch.tensor(kept, { dtype = "int64" }), 1)
  return mask:view({ shape[1], shape[2] }), spots
end

return markers
