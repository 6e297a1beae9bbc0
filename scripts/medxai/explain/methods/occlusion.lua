-- Occlusion: Zeiler and Fergus, ECCV 2014, section 4.2: a square is moved over the image and hidden; a pixel's value is
-- what the target loses, the mean over the squares that cover it. captum's Occlusion: the last squares are cut at the
-- border.
local check = require "medxai.base.check"
local hide = require "medxai.perturb.compose"
local removal = require "medxai.perturb.removal"
local torch = require "medxai.torch"

-- Where squares begin along a side: captum's, by whole strides until one reaches the end.
local function starts(side, window, stride)
  local list = {}
  for k = 0, math.ceil((side - window) / stride) do list[#list + 1] = k * stride end
  return list
end

-- (n, 6) boxes for hide.boxes, and (n, 1, H, W) masks of them made chunk by chunk.
local function boxes_of(ctx, o)
  local rows, columns, list = starts(ctx.height, o.window, o.stride), starts(ctx.width, o.window, o.stride), {}
  for _, y in ipairs(rows) do
    for _, x in ipairs(columns) do
      list[#list + 1] = { { y, x, 0, math.min(y + o.window, ctx.height), math.min(x + o.window, ctx.width), 3 } }
    end
  end
  return torch.tensor(list, { dtype = "int64" })
end

return {
  title = "occlusion",
  paper = "Zeiler and Fergus 2014, arXiv:1311.2901",
  version = 1,
  at = "input",
  sign = "signed",
  one_by_one = true,
  options = {
    window = { "integer", default = 32, min = 1, unit = "px", doc = "side of the square" },
    stride = { "integer", default = 16, min = 1, unit = "px", doc = "by which it moves; at most its side" },
    removal = { "string", default = "black", lua = "medxai.RemovalName",
      doc = "what it shows; see help removals" },
  },
  check = function(o)
    o.removal = removal.of_background("occlusion", removal.without_regions("occlusion", o.removal)).id
    if o.stride > o.window then
      check.fail("occlusion", "a stride of %d px leaves pixels uncovered (expected at most the window's %d px).",
        o.stride, o.window)
    end
  end,
  map = function(ctx, x, _, o)
    if o.window > ctx.height or o.window > ctx.width then
      check.fail("occlusion", "a window of %d px is larger than the image (%d x %d px).", o.window, ctx.height,
        ctx.width)
    end
    local lo, hi = ctx:range()
    local boxes, background = boxes_of(ctx, o), removal.parse(o.removal):background(x, { range = { lo, hi } })
    local n = boxes:size(0)
    local function covered(first, count)
      return hide.boxes(boxes:narrow(0, first, count), 3, ctx.height, ctx.width, x.device)
    end
    local logits = ctx.scorer:logits(n, function(first, count)
      return hide.images(x, background, covered(first, count):logical_not())
    end)
    local lost = -ctx.targets:change_of(1, logits, ctx.logits:cpu())
    local sum = torch.zeros(ctx.height, ctx.width, { dtype = "float64" })
    local times = sum:clone()
    for first = 0, n - 1, 64 do
      local count = math.min(64, n - first)
      local where = covered(first, count):to { device = "cpu", dtype = "float64" }:squeeze(1)
      sum:add_((where * lost:narrow(0, first, count):view { count, 1, 1 }):sum({ 0 }))
      times:add_(where:sum({ 0 }))
    end
    local still = ctx:unmoved(1, { 0, table.unpack(lost:tolist()) })
    local raw = sum / times
    if still then raw:zero_() end
    return raw:unsqueeze(0), { { facts = { evaluations = n }, status = still == "saturated" and still or nil } }
  end,
}
