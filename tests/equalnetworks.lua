-- Helper of networks_endpoints.lua: how often equal networks are told apart, per endpoint. One network's logits for 85
-- images (15, 35, 35), and three copies with independent noise; a claim is any pair that is better or worse.
local endpoints = require "medxai.stats.endpoints"
local networks = require "medxai.steps.networks"
local random = require "medxai.tensor.random"

local classes, counts = { "a", "b", "c" }, { 15, 35, 35 }

local function normal(n, id)
  local scope <close> = require("medxai.core").memory.scope() -- luacheck: ignore
  return random.stream { seed = 11, purpose = "test_nulls@1", id = id }:normal(n):tolist()
end

-- Labels and three networks' logits of one simulated study.
local function simulated(number)
  local labels, copies = {}, {}
  for c, n in ipairs(counts) do
    for _ = 1, n do labels[#labels + 1] = c - 1 end
  end
  local shared = normal(3 * #labels, number .. " shared")
  for k = 1, 3 do
    local own = normal(3 * #labels, number .. " " .. k)
    copies[k] = {}
    for i, label in ipairs(labels) do
      copies[k][i] = {}
      for c = 1, 3 do
        copies[k][i][c] = shared[3 * i - 3 + c] + 0.5 * own[3 * i - 3 + c] + (label == c - 1 and 1.2 or 0)
      end
    end
  end
  return labels, copies
end

return function(n)
  local claims, models = {}, {}
  for _, name in ipairs(endpoints.names(classes)) do claims[name] = 0 end
  for k = 1, 3 do
    models[k] = { network = "made", name = "copy " .. k, run_name = "copy" .. k, train_seed = 1, input = "whole",
      weights_sha256 = "x" }
  end
  for number = 1, n do
    local labels, copies = simulated(number)
    local list = networks.compare({ models = models, classes = classes, seed = number },
      { n = #labels, labels = labels, patients = {}, logits = copies }, { primary = "auroc_macro", margin = 0.02,
        level = 0.95 })
    local told = {}
    for _, p in ipairs(list) do
      if p.verdict.verdict == "better" or p.verdict.verdict == "worse" then told[p.endpoint] = true end
    end
    for name in pairs(told) do claims[name] = claims[name] + 1 end
  end
  return claims
end
