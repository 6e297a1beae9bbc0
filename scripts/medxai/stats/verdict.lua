-- What an estimate lets one say, in one word: the only place where a number becomes a verdict. Three questions:
--   difference  better, worse (different where no direction is better), equivalent, identical, undecided
--   threshold   found, not_found, undecided: one-sided p-values against a threshold
--   bound       pass, fail, undecided: an interval against a threshold
-- It refuses a verdict of fewer than ten units, and of an estimate without an interval: undecided, and the reason.
-- What there is nothing to judge of is not_applicable.
local check = require "medxai.base.check"
local Options = require "medxai.base.options"
local suggest = require "medxai.base.suggest"
local units = require "medxai.stats.units"

local verdict = {}

verdict.alpha = 0.05

---@class medxai.Verdict
---@field verdict string
---@field reason string|nil why it is undecided or not applicable
---@field equivalent boolean|nil of a difference: whether it lies within the margin, also where it is better or worse

local spec = {
  direction = { one_of = { "higher", "lower", "none" }, default = "higher", doc = "which is better" },
  margin = { "number", above = 0, doc = "differences within it are equivalent" },
  narrow = { "table", doc = "{ low, high }: the 90 % interval, for equivalence" },
  threshold = { "number", doc = "of a bound" },
  pass = { one_of = { "below", "above" }, doc = "which side of the threshold passes" },
  alpha = { "number", default = verdict.alpha, above = 0, max = 1, doc = "level of the tests" },
}

-- Two one-sided tests at 5 % are a 90 % interval within the margin (Schuirmann 1987).
local function is_equivalent(o)
  local narrow = o.narrow
  if not o.margin or not narrow or narrow.low ~= narrow.low or narrow.high ~= narrow.high then return false end
  return narrow.low > -o.margin and narrow.high < o.margin
end

local questions = {}

function questions.difference(r, o)
  if r.status == "identical" then return "identical" end
  if r.p ~= r.p then return "undecided", r.why or "no p-value" end
  if r.p <= o.alpha and (r.mean > 0 and r.low > 0 or r.mean < 0 and r.high < 0) then
    if o.direction == "none" then return "different" end
    return (r.mean > 0) == (o.direction == "higher") and "better" or "worse"
  end
  if is_equivalent(o) then return "equivalent" end
  return "undecided"
end

function questions.threshold(r, o)
  if r.p_above ~= r.p_above or r.p_below ~= r.p_below then return "undecided", r.why or "no p-value" end
  if r.p_above <= o.alpha then return "found" end
  if r.p_below <= o.alpha then return "not_found" end
  return "undecided"
end

function questions.bound(r, o)
  if not o.threshold or not o.pass then
    check.fail("verdict",
      "a bound needs a threshold and which side passes (expected threshold = 0.25, pass = 'below').")
  end
  local below, above = r.high < o.threshold, r.low > o.threshold
  if below then return o.pass == "below" and "pass" or "fail" end
  if above then return o.pass == "above" and "pass" or "fail" end
  return "undecided"
end

--- The verdict on an estimate. p-values are those that Holm's method has adjusted (medxai.stats.multiple).
---   difference: r = { mean, low, high, p, units }; better or worse needs both p <= alpha and an interval without 0,
---     else equivalent the 90 % interval within the margin; r.status = "identical": the two answer alike.
---   threshold: r = { p_below, p_above, units }.
---   bound: r = { low, high, units }; options threshold and pass.
---@param question "difference"|"threshold"|"bound"
---@param r table the estimate; { nothing = "reason" } where there is nothing to judge
---@param options? { direction: string?, margin: number?, narrow: table?, threshold: number?, pass: string?, alpha:
---  number? }
---@return medxai.Verdict
function verdict.of(question, r, options)
  local o = Options.check("verdict", options, spec)
  local judge = questions[question]
  if not judge then
    check.fail("verdict", "unknown question '%s'.%s", question, suggest.hint(question, check.sorted_keys(questions)))
  end
  if r.nothing then return { verdict = "not_applicable", reason = r.nothing } end
  if (r.units or 0) < units.least and r.status ~= "identical" then
    return { verdict = "undecided", reason = string.format("fewer than %d %s", units.least, r.resampled or "units") }
  end
  if question ~= "threshold" and r.status ~= "identical" and not (r.low == r.low and r.high == r.high) then
    return { verdict = "undecided", reason = r.why or "no interval" }
  end
  local word, reason = judge(r, o)
  local equivalent = question == "difference" and o.margin and is_equivalent(o) or nil
  return { verdict = word, reason = reason, equivalent = equivalent }
end

local opposite = { pass = "fail", fail = "pass", better = "worse", worse = "better", found = "not_found",
  not_found = "found" }

--- One verdict of two measures of the same thing: contradicting ones make it undecided.
---@param first medxai.Verdict the measure that counts
---@param second medxai.Verdict
---@return medxai.Verdict
function verdict.of_both(first, second)
  if opposite[first.verdict] and opposite[first.verdict] == second.verdict then
    return { verdict = "undecided", reason = "measures disagree" }
  end
  return first
end

--- A verdict of a test whose controls are known: where any did not come out as it must, nothing that the test says
--- holds.
---@param first medxai.Verdict
---@param controls table<string, boolean> control -> whether it came out as it must
---@return medxai.Verdict
function verdict.controlled(first, controls)
  local wrong = {}
  for _, name in ipairs(check.sorted_keys(controls)) do
    if not controls[name] then wrong[#wrong + 1] = name end
  end
  if #wrong == 0 or first.verdict == "not_applicable" then return first end
  return { verdict = "undecided", reason = "controls: " .. table.concat(wrong, ", ") }
end

return verdict
