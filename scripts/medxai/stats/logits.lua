-- Rows of logits as plain lists of numbers, in float64: softmax, cross entropy and log-odds that keep the digits of
-- sure answers, and the largest class. It refuses nothing: NaN gives NaN.
local logits = {}

--- Softmax in float64 of one row of logits.
---@param row number[]
---@return number[]
function logits.softmax(row)
  local top, sum, out = -math.huge, 0.0, {}
  for _, z in ipairs(row) do top = math.max(top, z) end
  for c, z in ipairs(row) do
    out[c] = math.exp(z - top)
    sum = sum + out[c]
  end
  for c = 1, #row do out[c] = out[c] / sum end
  return out
end

-- log(1 + x) to full precision for small x (Kahan).
local function log1p(x)
  local u = 1 + x
  return u == 1 and x or math.log(u) * x / (u - 1)
end

-- The place (from 1) of the largest logit, and how much the others add to its 1 in the softmax's divisor.
local function top_and_rest(row)
  local top, rest = 1, 0.0
  for c, z in ipairs(row) do
    if z > row[top] then top = c end
  end
  for c, z in ipairs(row) do
    if c ~= top then rest = rest + math.exp(z - row[top]) end
  end
  return top, rest
end

--- -log softmax[label] of one row of logits in float64; a sure answer's loss keeps its digits.
---@param row number[]
---@param label integer from 0
function logits.cross_entropy(row, label)
  local top, rest = top_and_rest(row)
  return row[top] - row[label + 1] + log1p(rest)
end

--- log(p / (1 - p)) of every class of a row: in the order of the probabilities, also where they have all become 1.
---@param row number[]
---@return number[]
function logits.log_odds(row)
  local top, rest = top_and_rest(row)
  local out = {}
  for c, z in ipairs(row) do
    local own = z - row[top]
    out[c] = c == top and -math.log(rest) or own - math.log(1 + rest - math.exp(own))
  end
  return out
end

--- The class with the largest value of each row, 0-based; the first of equals.
---@param rows number[][]
---@return integer[]
function logits.argmax(rows)
  local list = {}
  for i, row in ipairs(rows) do
    local best = 1
    for c = 2, #row do
      if row[c] > row[best] or row[best] ~= row[best] and row[c] == row[c] then best = c end
    end
    list[i] = best - 1
  end
  return list
end

return logits
