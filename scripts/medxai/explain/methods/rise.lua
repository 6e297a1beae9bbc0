-- RISE: Petsiuk et al., BMVC 2018, eq. 5 and section 3.2: the image under random masks; a pixel's value is the mean
-- over masks of the class probability times what the mask shows of the pixel, over the mean of that. A mask is a grid
-- of cells that are each on with a chance, enlarged bilinearly and moved by less than a cell. The map is a mean of
-- probabilities: a pixel that says nothing has that of all masks, not 0. Draws are keyed by the image.
local removal = require "medxai.perturb.removal"
local torch = require "medxai.torch"

-- (count, 1, H, W): masks first ... of the image.
local function masks_of(ctx, o, first, count)
  local list = {}
  local rows, columns = math.ceil(ctx.height / o.cells), math.ceil(ctx.width / o.cells)
  for k = first, first + count - 1 do
    local u = ctx:stream("rise@1", 1, k):uniform(o.cells * o.cells + 2)
    local grid = u:narrow(0, 0, o.cells * o.cells):lt(o.share):to { dtype = "float32" }
    local moved = u:narrow(0, o.cells * o.cells, 2):tolist()
    local large = torch.upsample_bilinear2d(grid:view { 1, 1, o.cells, o.cells }, { (o.cells + 1) * rows,
      (o.cells + 1) * columns }, false)
    list[#list + 1] = large:narrow(2, math.floor(moved[1] * rows), ctx.height):narrow(3,
      math.floor(moved[2] * columns), ctx.width)
  end
  return torch.cat(list, 0)
end

return {
  title = "RISE",
  paper = "Petsiuk et al. 2018, arXiv:1806.07421",
  version = 1,
  at = "input",
  as = "softmax",
  sign = "nonnegative",
  one_by_one = true,
  rng = "rise@1",
  honesty = { { fact = "standard_error", title = "standard error over masks", short = "std. error", percent = true } },
  options = {
    samples = { "integer", default = 2000, min = 2, smoke = { divide_by = 50, least = 4 }, doc = "masks" },
    cells = { "integer", default = 7, min = 1, doc = "of a mask's grid, along each side" },
    share = { "number", default = 0.5, above = 0, max = 1, doc = "of the cells that are shown (the paper's p)" },
    removal = { "string", default = "black", lua = "medxai.RemovalName",
      doc = "what is seen where a mask hides; see help removals" },
  },
  check = function(o) o.removal = removal.of_background("rise", removal.without_regions("rise", o.removal)).id end,
  map = function(ctx, x, _, o)
    local lo, hi = ctx:range()
    local background = removal.parse(o.removal):background(x, { range = { lo, hi } })
    local logits = ctx.scorer:logits(o.samples, function(first, count)
      local m = masks_of(ctx, o, first, count):to { device = x.device, dtype = x.dtype }
      return background + (x - background) * m
    end)
    local scores = ctx.targets:score_of(1, logits):to { dtype = "float64" }
    local sum = torch.zeros(ctx.height, ctx.width, { dtype = "float64" })
    local square = sum:clone()
    for first = 0, o.samples - 1, 64 do
      local count = math.min(64, o.samples - first)
      local one = masks_of(ctx, o, first, count):squeeze(1):to { dtype = "float64" }
        * scores:narrow(0, first, count):view { count, 1, 1 }
      sum:add_(one:sum({ 0 }))
      square:add_(one:square():sum({ 0 }))
    end
    local mean = sum / o.samples
    local off = ((square / o.samples - mean:square()):clamp_min(0) / (o.samples - 1)):sqrt()
    local still, raw = ctx:unmoved(1, scores:tolist()), mean / o.share
    if still then raw:zero_() end
    return raw:unsqueeze(0), { { facts = { evaluations = o.samples,
      standard_error = off:sum():item() / mean:abs():sum():item() }, status = still == "saturated" and still or nil } }
  end,
}
