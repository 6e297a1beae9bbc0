-- The figures that run:compare makes of its tables: gains and ranks per network, cost, agreement, metrics against each
-- other, and a montage of one image. Where a network was trained several times, of its first training.
local canon = require "medxai.base.json"
local compare = require "medxai.show.compare_figures"
local matrices = require "medxai.show.matrix_figures"
local plot = require "medxai.show.plot"

local study_figures = {}

local texts = { "run", "network", "metric", "method", "above_swap", "beats_baselines", "gate", "interval", "partial",
  "family", "endpoint", "a", "b", "decision", "test", "kind", "view", "measure", "reason" }

-- Why a metric's ranking is not shown for a model: of the comparison's tells.
local function silent_of(o)
  return function(model, metric)
    return (o.tells[model] or {})[metric] == false
      and "cannot tell a map from another patient's map here: its ranking is not shown" or nil
  end
end

--- Draws what run:compare left in its tables.
---@param run medxai.Run
---@param o table primary; models = names of all; firsts = those of which figures are made; baselines[label];
---  directions[metric]; short(metric) = its name to read; tells[model][metric]; partial?; album? (medxai.Album)
---@return table[] figures { name, title, svg, paths, picture? }
function study_figures.draw(run, o)
  local function read(name) return plot.rows(run, "tables/" .. name .. ".csv", texts) end
  local c = { methods = read "methods", pairs = read "pairs", costs = read "costs", agreement = read "agreement",
    tau = read "metrics_tau", primary = o.primary, models = o.models, baselines = o.baselines,
    directions = o.directions, short = o.short, silent = silent_of(o), partial = o.partial }
  local list, only = canon.list {}, {}
  plot.clear(run, "compare-")
  local function put(name, title, d, columns, rows)
    if not d then return end
    list[#list + 1] = plot.save(run, plot.file_name("compare-" .. name, list), { title = title, drawing = d,
      columns = columns, rows = rows })
  end
  local function put_parts(name, title, parts, columns)
    for k, part in ipairs(parts) do
      local more = #parts > 1
      put(more and name .. "-" .. k or name, more and ("%s, %d of %d"):format(title, k, #parts) or title, part.drawing,
        columns, part.rows)
    end
  end
  for _, model in ipairs(o.firsts) do
    only[model] = true
    local d, rows = compare.gains(c, model)
    put("gains-" .. model, "Gain over another patient's map: " .. model, d, compare.gain_columns, rows)
    put_parts("ranks-" .. model, "Ranges of ranks: " .. model, compare.ranks(c, model), compare.rank_columns)
  end
  local d, rows = compare.costs(c, o.firsts)
  put("cost", "Seconds and gain", d, compare.cost_columns, rows)
  put_parts("agreement-methods", "Agreement between methods", matrices.agreement(c, "method", only),
    matrices.agreement_columns)
  put_parts("agreement-networks", "Agreement between networks", matrices.agreement(c, "network"),
    matrices.agreement_columns)
  put_parts("metrics", "Do metrics rank alike?", matrices.tau(c, o.firsts), matrices.tau_columns)
  for _, f in ipairs(o.album and require("medxai.show.montage").draw(run, o.album) or {}) do list[#list + 1] = f end
  return list
end

return study_figures
