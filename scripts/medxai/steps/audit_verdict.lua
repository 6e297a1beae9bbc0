-- What the audit's findings say together. A shortcut is found where a class is told without the lungs, or hiding a
-- marker or the border changes the answer, and the network is seen to go by it. Where class and source are one, no
-- statistic separates them. It refuses to say that there is no shortcut: for what was not found it states the power
-- with which it was looked for.
local units = require "medxai.stats.units"

local combine = {}

local function any(rows, f)
  for _, row in ipairs(rows or {}) do
    if f(row) then return row end
  end
end

local function is(word) return function(row) return row.verdict and row.verdict.verdict == word end end

--- Classes and inputs of the rows with a verdict: "COVID-19 (outside, border)".
---@param rows table[]|nil
---@param word string
---@return string
function combine.named(rows, word)
  local list, at, groups, of = {}, {}, {}, {}
  for _, row in ipairs(rows or {}) do
    if row.verdict and row.verdict.verdict == word then
      if not at[row.class] then
        list[#list + 1] = { row.class }
        at[row.class] = list[#list]
      end
      table.insert(at[row.class], row.input)
    end
  end
  for _, one in ipairs(list) do -- classes with the same inputs stand together
    local inputs = table.concat(one, ", ", 2)
    if not of[inputs] then groups[#groups + 1], of[inputs] = inputs, {} end
    table.insert(of[inputs], one[1])
  end
  for i, inputs in ipairs(groups) do groups[i] = ("%s (input %s)"):format(table.concat(of[inputs], ", "), inputs) end
  return table.concat(groups, "; ")
end

local function hidden(rows)
  return any(rows, function(row) return row.part ~= "lungs" and row.verdict.verdict == "found" end)
end

-- A class that is told without the lungs, and of which the network keeps more than half when the lungs are replaced.
local function kept(f)
  local told = {}
  for _, row in ipairs(f.trained or f.probe or {}) do
    if row.verdict and row.verdict.verdict == "found" then told[row.class] = true end
  end
  return any(f.retained, function(row) return row.verdict.verdict == "found" and told[row.class] end)
end

-- Why nothing can be said, in the order of the checks; nil where every check has an answer.
local function open_question(f)
  local told = f.trained or f.probe
  if any(told, is "found") then
    return ("told without the lungs: %s; it is not shown that the network goes by it"):format(combine.named(told,
      "found"))
  end
  if f.trained and any(f.probe, is "found") then
    return ("the cheap probe tells without the lungs: %s; the trainings do not"):format(combine.named(f.probe, "found"))
  end
  if any(told, is "undecided") then
    return ("whether these are told without the lungs: %s"):format(combine.named(told, "undecided"))
  end
  if not any(told, is "not_found") then return "no input without lungs was judged" end
  local part = any(f.occlusion, function(row) -- what fewer than ten images have is no question of these data
    local few = row.removals and row.removals.blur.n < units.least
    return row.part ~= "lungs" and row.verdict.verdict == "undecided" and not few
  end)
  if part then
    return ("whether the network goes by the %s"):format(part.part)
  end
  local source = any(f.sources, is "found")
  if source then return ("the network knows the source within '%s'"):format(source.class) end
end

--- The audit's verdict.
---@param f table probe, trained (rows of audit_inputs; trained nil where nothing was trained), retained, occlusion,
---  sources; each may be nil
---@return table { verdict = "shortcut found" | "confounded" | "undecided" | "none of these found", reason }
function combine.of(f)
  local part = hidden(f.occlusion)
  local confounded = any(f.sources, is "confounded")
  local beside = confounded and ("; class and source are confounded besides (%s)"):format(confounded.verdict.reason)
    or ""
  if part then
    return { verdict = "shortcut found", reason = ("hiding the %s changes the network's answers%s"):format(part.part,
      beside) }
  end
  if kept(f) then
    local reason = ("told without the lungs: %s; of what the network tells of %s it keeps more than half without "
      .. "them%s"):format(combine.named(f.trained or f.probe, "found"), kept(f).class, beside)
    return { verdict = "shortcut found", reason = reason }
  end
  if confounded then
    return { verdict = "confounded", reason = ("%s: %s. No analysis of these data can separate class and "
    .. "source"):format(confounded.class, confounded.verdict.reason) }
  end
  local why = open_question(f)
  if why then return { verdict = "undecided", reason = why } end
  return { verdict = "none of these found" }
end

return combine
