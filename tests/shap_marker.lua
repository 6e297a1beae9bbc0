-- Taking out what a mask marks: the data's mask as a map, and whether the prediction changes without it.
local t = require "t"
local tiny = require "tinyexplain"
local torch = require "medxai.torch"
local core = require "medxai.core"
local explain = require "medxai.steps.explain"
local host = require "medxai.host"

local was_quiet = host.options.quiet
host.options.quiet = true

-- Predicts 1 where the lesion's square of the tiny split is bright, else 0: the mean of the brightest pixels decides.
local function square_model()
  local graph = require "medxai.nn.graph"
  local model = graph.network {
    name = "square", classes = tiny.classes, size_px = 32, cam_layer = "pool8",
    build = function(g, x)
      x = g:avg_pool2d("pool8", x, { 8, stride = 1 })
      x = g:flatten("flat", g:op("top", "adaptive_max_pool2d", { x, { 1, 1 } })) -- (N, 3)
      return g:linear("fc", x, { 3, 3 })
    end,
  }
  model:load_state { ["fc.weight"] = torch.tensor { { 0.0, 0, 0 }, { 4.0, 4, 4 }, { 0.0, 0, 0 } },
    ["fc.bias"] = torch.tensor { 10.0, 0, -10 } }
  model:eval()
  return model
end

local function split()
  local made = tiny.split(6)
  made.data = { masks = { "lesion" }, config = {} }
  return made
end

local function go(options, model)
  local run = tiny.run(t.tmpdir())
  options.figures, options.images = false, "all"
  local scope <close> = core.memory.scope()
  return explain.run(run, model or square_model(), split(), options), run.dir
end

t.test("the prediction changes without the pixels that it hangs on, and not without as many elsewhere; images "
  .. "without them are undefined", function()
  local result = go { methods = { { "data_mask", mask = "lesion" } },
    metrics = { { "prediction_changed", removal = "black" } } }
  local statuses = {}
  for i, record in ipairs(result.records) do statuses[i] = record.status end
  t.equal(statuses, { "not_defined", "ok", "ok", "not_defined", "ok", "ok" })
  local s = result.summaries[1]
  t.equal({ s.metric, s.mean, s.chance, s.n, s.of }, { "prediction_changed@2 removal=black", 1, 0, 4, 6 })
end)

t.test("a mask that the data do not have is refused by name", function()
  t.fails(function() go { methods = { { "data_mask", mask = "lesio" } } } end,
    "data_mask: unknown mask 'lesio'. Did you mean 'lesion'?")
  t.fails(function() go { methods = { "data_mask" } } end,
    "data_mask: option 'mask' is missing (expected string: name of one of the data's masks). Add mask = ... to it.")
end)

host.options.quiet = was_quiet
