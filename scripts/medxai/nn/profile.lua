-- Where the time of a pass goes: seconds of every node and operator, forward and backward, of a copy of the model. It
-- refuses other devices than the CPU: there an operator returns before its work is done.
local check = require "medxai.base.check"
local core = require "medxai.core"
local host = require "medxai.host"
local text_table = require "medxai.base.text_table"
local torch = require "medxai.torch"

local profile = {}

profile.spec = {
  batch = { "integer", default = 8, min = 1, unit = "images", doc = "of the pass" },
  training = { "boolean", default = false,
    doc = "forward and backward in train mode; default: a pass without gradients" },
  nodes = { "integer", default = 20, min = 1, doc = "that are listed, the slowest first" },
  repeats = { "integer", default = 3, min = 1, doc = "a node's fastest one counts" },
}

-- One pass: seconds per node forward, and what ran backward.
local function pass(model, x, training)
  local scope <close> = core.memory.scope() -- luacheck: ignore
  local function forward()
    return model._state:run { x = x, outputs = training and model._both or model._main, training = training,
      layout = model.layout == "channels_last" and 2 or 1, infer = model.engine ~= "reference", profile = true }
  end
  if not training then
    local _, _, _, _, seconds = torch.no_grad(forward)
    return seconds
  end
  local out, _, _, _, seconds, numbers = forward()
  local sum = out[1]:sum()
  if out[2] then sum = sum + out[2]:sum() end
  core.autograd.profile(true)
  local ok, problem = pcall(sum.backward, sum)
  local ran = core.autograd.profile(false)
  if not ok then error(problem, 0) end
  return seconds, numbers, ran
end

-- Backward seconds per node: autograd numbers operators as the forward pass records them, so one belongs to the node
-- with the largest number that is not above its own. Sums into gradients have no number.
local function backward_of(numbers, ran)
  local starts, seconds, sums = {}, {}, 0.0
  for id, number in ipairs(numbers) do
    if number >= 0 then starts[#starts + 1] = { id = id, number = number } end
  end
  table.sort(starts, function(a, b) return a.number < b.number end)
  for _, entry in ipairs(ran) do
    local low, high = 0, #starts
    while entry.number and low < high do
      local middle = (low + high + 1) // 2
      if starts[middle].number <= entry.number then low = middle else high = middle - 1 end
    end
    if low == 0 then sums = sums + entry.seconds
    else
      local id = starts[low].id
      seconds[id] = (seconds[id] or 0.0) + entry.seconds
    end
  end
  return seconds, sums
end

local function total_of(rows)
  local total = 0.0
  for _, row in ipairs(rows) do total = total + row.forward + row.backward end
  return total
end

local function slowest_first(rows)
  table.sort(rows, function(a, b)
    local x, y = a.forward + a.backward, b.forward + b.backward
    if x ~= y then return x > y end
    return a.name < b.name
  end)
  return rows
end

local function rows_of(model, seconds, numbers, ran)
  local backward, sums, rows = {}, 0.0, {}
  if numbers then backward, sums = backward_of(numbers, ran) end
  for id, name in ipairs(model._def.nodes) do
    local row = { name = name, operator = model:node(name).op, forward = seconds[id], backward = backward[id] or 0.0 }
    if row.forward + row.backward > 0 then rows[#rows + 1] = row end
  end
  local copies = seconds[#model._def.nodes + 1]
  if copies > 0 then
    rows[#rows + 1] = { name = "(into blocks of channels and back)", operator = "copies", forward = copies,
      backward = 0.0 }
  end
  if sums > 0 then
    rows[#rows + 1] = { name = "(sums into parameters' gradients)", operator = "sums", forward = 0.0, backward = sums }
  end
  return slowest_first(rows)
end

local function by_operator(rows)
  local list, known = {}, {}
  for _, row in ipairs(rows) do
    local sum = known[row.operator]
    if not sum then
      sum = { name = row.operator, nodes = 0, forward = 0.0, backward = 0.0 }
      known[row.operator] = sum
      list[#list + 1] = sum
    end
    sum.nodes, sum.forward, sum.backward = sum.nodes + 1, sum.forward + row.forward, sum.backward + row.backward
  end
  return slowest_first(list)
end

local function lines(rows, first, second, total, most)
  local cells = { { first, second, "forward ms", "backward ms", "share" } }
  for i = 1, math.min(most, #rows) do
    local row = rows[i]
    cells[#cells + 1] = { row.name, tostring(row.nodes or row.operator), ("%.2f"):format(1000 * row.forward),
      ("%.2f"):format(1000 * row.backward), ("%.1f %%"):format(100 * (row.forward + row.backward) / total) }
  end
  if #rows > most then
    local rest = total_of { table.unpack(rows, most + 1) }
    cells[#cells + 1] = { ("%d others"):format(#rows - most), "", "", "", ("%.1f %%"):format(100 * rest / total) }
  end
  return text_table(cells, { right = { [3] = true, [4] = true, [5] = true } })
end

-- Other programs take the processor away for a while: each node's fastest time of all passes is nearer to its own.
local function fastest(rows, again)
  local known = {}
  for _, row in ipairs(rows) do known[row.name] = row end
  for _, row in ipairs(again) do
    local other = known[row.name]
    if other then
      other.forward, other.backward = math.min(other.forward, row.forward), math.min(other.backward, row.backward)
    end
  end
  return rows
end

--- Runs passes of a copy of the model on images drawn at random; the model, its mode and torch's generator stay.
---@param model medxai.Model
---@param o { batch: integer, training: boolean, nodes: integer, repeats: integer }
---@return string text
---@return { name: string, operator: string, forward: number, backward: number }[] rows seconds, the slowest first
function profile.run(model, o)
  if model.device ~= "cpu" then
    check.fail(model.name .. ": profile", "the model is on %s (expected cpu): operators return there before they are "
      .. "done.", model.device)
  end
  if not model.size_px then
    check.fail(model.name .. ": profile", "the network names no size of its images. Give it size_px.")
  end
  local scope <close> = core.memory.scope() -- luacheck: ignore
  local drawn, best = torch.get_rng_state(), nil
  local copy <close> = model:clone()
  if o.training then copy:train() else copy:eval() end
  local x = torch.rand({ o.batch, model._network.channels or 3, model.size_px, model.size_px }, { dtype = model.dtype })
  local ok, problem = pcall(function()
    for _ = 0, o.repeats do -- one more: the first warms up
      local rows = rows_of(copy, pass(copy, x, o.training))
      best = best and fastest(best, rows) or rows
      if host.interrupted() then error("interrupted", 0) end
    end
  end)
  torch.set_rng_state(drawn)
  if not ok then error(problem, 0) end
  local least = total_of(slowest_first(best))
  local head = ("%s: a %s of %d images of %d px, threads: %d; %.1f ms in operators, the fastest of %d passes each")
    :format(model.name, o.training and "training step" or "pass without gradients", o.batch, model.size_px,
      host.options.threads, 1000 * least, o.repeats + 1)
  return table.concat({ head, lines(best, "node", "operator", least, o.nodes),
    lines(by_operator(best), "operator", "nodes", least, o.nodes) }, "\n\n") .. "\n", best
end

return profile
