-- A method of your own: a file beside the experiment, asked for by its name:
-- methods = { "my_method", { "my_method", masks = 500 } }.
-- RISE: Petsiuk et al., BMVC 2018, eq. 6: the image is shown through random masks; a pixel's value is the mean score of
-- those that show it.
local xai = require "medxai"
local torch = xai.torch

-- count masks (count, 1, H, W): coarse grids of 0 and 1, enlarged smoothly to one cell more than the image and shifted
-- at random.
local function random_masks(stream, count, height, width, o)
  local cells, list = o.cells, {}
  local cell_y, cell_x = math.ceil(height / cells), math.ceil(width / cells)
  local draws = stream:uniform(count * (cells * cells + 2)):view({ count, -1 })
  for k = 0, count - 1 do
    local grid = draws:select(0, k):narrow(0, 0, cells * cells):lt(o.shown):to { dtype = "float32" }
    local large = torch.upsample_bilinear2d(grid:view({ 1, 1, cells, cells }),
      { (cells + 1) * cell_y, (cells + 1) * cell_x }, false)
    local top, left = math.floor(draws[{ k, -2 }]:item() * cell_y), math.floor(draws[{ k, -1 }]:item() * cell_x)
    list[k + 1] = large:narrow(2, top, height):narrow(3, left, width)
  end
  return torch.cat(list, 0)
end

return {
  title = "RISE", version = 1, at = "input", sign = "signed", rng = "rise@1",
  options = { masks = { "integer", default = 4000, min = 1, smoke = { divide_by = 50, least = 2 } },
    cells = { "integer", default = 7, min = 1 }, shown = { "number", default = 0.5, above = 0, max = 1 } },
  map = function(ctx, x, targets, o)
    local n, maps = o.masks, {}
    for i = 1, ctx.count do -- numbers are keyed by the image: any batch, order or device gives the same map
      local image, sum = x:narrow(0, i - 1, 1), torch.zeros(ctx.height, ctx.width)
      for first = 0, n - 1, 100 do
        local masks = random_masks(ctx:stream("rise@1", i, first), math.min(100, n - first), ctx.height, ctx.width, o)
        local logits = ctx.scorer:logits(masks:size(0),
          function(at, count) return image * masks:narrow(0, at, count):to(image) end)
        sum = sum + (masks:squeeze(1) * targets:score_of(i, logits):view({ -1, 1, 1 })):sum({ 0 })
      end
      maps[i] = sum / (n * o.shown)
    end
    return torch.stack(maps, 0)
  end,
}
