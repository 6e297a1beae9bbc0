-- Helper of audit_probe.lua: what the cheap probe tells of the shared X-rays, and how often it finds a class in labels
-- that are permuted over all splits jointly. Thumbnails are made once.
local delong = require "medxai.stats.delong"
local inputs = require "medxai.steps.audit_inputs"
local logits_of = require "medxai.stats.logits"
local multiple = require "medxai.stats.multiple"
local probe = require "medxai.stats.probe"
local random = require "medxai.tensor.random"
local units = require "medxai.stats.units"

local permuted = {}

--- Data of an input of the shared X-rays, the whole image at 64 x 64 pixels.
function permuted.data(folder, input)
  return require("medxai").dataset.covid_qu_ex { root = folder .. "/covid-cxr", input = input, size_px = 64,
    resize_px = 64,
    skip = { "Train/Normal/images/Normal (113).png" } } -- its mask shows one lung
end

-- One-sided tests of each class against tau, Holm's method over them: whether any is found.
local function any_found(logits, labels, tau)
  local over, ps = units.over(#labels), {}
  for c = 1, 3 do
    local scores, is_positive = {}, {}
    for i, row in ipairs(logits) do scores[i], is_positive[i] = logits_of.log_odds(row)[c], labels[i] == c - 1 end
    ps[c] = delong.one_sided(delong.placements(scores, is_positive), over, tau).p_above
  end
  local holm = multiple.holm(ps)
  return math.min(ps[1]) <= 0.05, (holm[1] <= 0.05 or holm[2] <= 0.05 or holm[3] <= 0.05)
end

--- Of `n` permutations of all labels jointly: in how many the first class is found at tau = 0.5, at 0.638, and any
--- class at 0.638 after Holm's method.
---@return table { first_half, first, any }
function permuted.count(folder, input, n)
  local data = permuted.data(folder, input)
  local scope <close> = require("medxai.core").memory.scope() -- luacheck: ignore
  local train, labels = inputs.thumbnails(data.train)
  local test, truth = inputs.thumbnails(data.test)
  local all, found = table.move(truth, 1, #truth, #labels + 1, table.move(labels, 1, #labels, 1, {})),
    { first_half = 0, first = 0, any = 0 }
  for b = 1, n do
    local inner <close> = require("medxai.core").memory.scope() -- luacheck: ignore
    local order = random.stream { seed = 5, purpose = "test_permuted@1", id = input,
      replicate = b }:permutation(#all):tolist()
    local own, judged = {}, {}
    for i = 1, #labels do own[i] = all[order[i] + 1] end
    for i = 1, #truth do judged[i] = all[order[#labels + i] + 1] end
    local logits = probe.read(train, own, test, 3)
    local half = any_found(logits, judged, 0.5)
    local first, any = any_found(logits, judged, 0.638)
    found.first_half, found.first = found.first_half + (half and 1 or 0), found.first + (first and 1 or 0)
    found.any = found.any + (any and 1 or 0)
  end
  return found
end

return permuted
