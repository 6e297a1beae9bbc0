-- The seven networks beside torchvision's, on formula-made weights and one coloured, non-square input.
-- In the test suite: three networks in float64 against the small files in tests/reference/networks. With
-- MEDXAI_PARITY_DIR (what tests/reference/networks.py wrote on this machine): all seven, also float32 to the last bit,
-- training steps and initial weights, printed as a table; the test fails where a cell does.
local t = require "t"
local cjson = require "cjson"
local core = require "medxai.core"
local models = require "medxai.nn.models"
local torch = require "medxai.torch"

local dir = os.getenv "MEDXAI_PARITY_DIR"
local only = os.getenv "MEDXAI_PARITY_NETWORKS"

-- n float64 numbers in [0, 1) from integers alone; networks.py has the same
local function uniform(n, key)
  local u = torch.arange(1, n + 1, { dtype = "int64" }) * 6364136223846793005 + (key + 1) * 1442695040888963407
  u = u:bitwise_xor((u:bitwise_right_shift(32)):bitwise_and(0xFFFFFFFF))
  u = u * 3935559000370003845
  u = u:bitwise_xor((u:bitwise_right_shift(29)):bitwise_and(0x7FFFFFFFF))
  return u:bitwise_right_shift(40):bitwise_and(0xFFFFFF):to("float64") / 16777216.0
end

local function fill(model)
  torch.no_grad(function()
    for i, entry in ipairs(model:state()) do
      local scope <close> = core.memory.scope()
      local p, name = entry.tensor, entry.name
      local u, v = uniform(p:numel(), i - 1):view(p.shape), nil
      if name:find("num_batches_tracked$") then v = u * 0
      elseif p:dim() > 1 then v = (u - 0.5) * (2 * (6.0 / (p:numel() / p:size(0))) ^ 0.5)
      elseif name:find("running_var$") then v = u + 0.5
      elseif name:find("running_mean$") then v = (u - 0.5) * 0.4
      elseif name:find("bias$") then v = (u - 0.5) * 0.2
      elseif name:find("bn3.weight$") then v = u * 0.1 + 0.15
      else v = u * 0.5 + 0.75 end
      p:copy_(v)
    end
  end)
end

local function picture(name)
  local w = name == "inception_v3" and 305 or 211 -- its auxiliary branch needs 299
  local x = uniform(2 * 3 * 320 * w, 1000):view(2, 3, 320, w)
  x:narrow(1, 0, 1):narrow(2, 0, 160):narrow(3, 0, 100):mul_(0.25)
  x:narrow(1, 1, 1):narrow(2, 160, 160):mul_(0.5)
  x:narrow(1, 2, 1):narrow(3, 100, w - 100):mul_(0.5):add_(0.5)
  return x
end

local function checksum(v)
  v = v:detach():contiguous():view(-1)
  if v.dtype == "float32" then v = v:view("int32"):to("int64") elseif v.dtype == "float64" then v = v:view("int64") end
  local w = torch.arange(v:numel(), { dtype = "int64" }) * 2862933555777941757 + 3037000493
  return string.format("%d", (v * w):sum():item())
end

-- The largest difference over the samples of a summary; nil and why where the shape is another.
local function distance(v, want)
  local shape = v.shape
  if #shape ~= #want.shape then return math.huge end
  for i = 1, #shape do if shape[i] ~= want.shape[i] then return math.huge end end -- cjson reads 3 as 3.0
  local flat, worst = v:detach():reshape(-1), 0.0
  for i, at in ipairs(want.at) do
    local d = math.abs(flat[math.tointeger(at)]:item() - want.values[i])
    if not (d <= worst) then worst = d end
  end
  return worst
end

-- One cell of the table: "exact" or the largest difference with the name where it occurs.
local function compare(list, bits)
  local worst, where, unequal, first = 0, "", 0, nil
  for _, pair in ipairs(list) do
    local scope <close> = core.memory.scope()
    local name, v, want = pair[1], pair[2], pair[3]
    local d = distance(v, want)
    if not (d <= worst) then worst, where = d, name end
    if bits and checksum(v) ~= want.sum then
      unequal = unequal + 1
      first = first or name
    end
  end
  return { worst = worst, where = where, unequal = unequal, first = first, count = #list }
end

local function build(name, o)
  o = o or {}
  return models[name] {
    classes = 3, layout = o.layout or "nchw", dtype = o.dtype or "float32", dropout = o.dropout, seed = o.seed,
    stochastic_depth = name == "efficientnet_b0" and o.stochastic_depth or nil,
    transform_input = name == "inception_v3" and o.transform_input or nil,
  }
end

local function ready(name, dtype, layout)
  local model = build(name, { dtype = dtype, layout = layout, dropout = 0.0, stochastic_depth = 0.0 })
  fill(model)
  return model:eval()
end

-- The stages that the reference has, one run: list of { name, tensor, wanted }. fold stays off: parity is of the graph
-- as it is.
local function stages(model, x, wanted)
  local names, list = {}, {}
  for name in pairs(wanted) do names[#names + 1] = name end
  table.sort(names)
  local got = torch.no_grad(function() return model:forward { x = x, outputs = names, fold = false } end)
  for _, name in ipairs(names) do list[#list + 1] = { name, got[name], wanted[name] } end
  return list
end

local function logits(model, x)
  return torch.no_grad(function() return model:forward { x = x, fold = false }.output end)
end

local function train_step(name, dtype, dropout, x)
  local model = build(name, { dtype = dtype, dropout = dropout, stochastic_depth = dropout })
  fill(model)
  model:train()
  torch.manual_seed(7)
  local y, aux = torch.tensor { 0, 2 }, nil
  local out
  out, aux = model(x:to(dtype))
  local loss = torch.cross_entropy(out, y)
  if aux then loss = loss + 0.4 * torch.cross_entropy(aux, y) end
  loss:backward()
  return model, out, loss, aux
end

local function pairs_of(model, out, loss, aux, want)
  local first, grads, buffers = { { "logits", out, want.logits }, { "loss", loss, want.loss } }, {}, {}
  if aux then first[3] = { "aux", aux, want.aux } end
  for _, p in ipairs(model:parameters()) do grads[#grads + 1] = { p.name, p.tensor.grad, want.grads[p.name] } end
  for _, b in ipairs(model:buffers()) do buffers[#buffers + 1] = { b.name, b.tensor, want.buffers[b.name] } end
  return first, grads, buffers
end

-- ---- the table ------------------------------------------------------------------------------------------------------

local rows, failures = {}, {}

local function cell(name, column, result, bound)
  local exact = bound == nil
  local ok
  if exact then ok = result.unequal == 0 and result.worst < math.huge else ok = result.worst <= bound end
  local text = exact and (ok and string.format("%d equal", result.count)
    or string.format("%d of %d differ, first %s", result.unequal, result.count, result.first))
    or string.format("%.1e", result.worst)
  rows[#rows + 1] = string.format("%-16s %-34s %-28s %s", name, column, text,
    ok and "ok" or "FAILS (" .. tostring(result.where) .. ")")
  if not ok then failures[#failures + 1] = name .. ": " .. column end
end

local function must_fail(name, column, result, bound)
  local ok = result.worst > bound
  rows[#rows + 1] = string.format("%-16s %-34s %-28s %s", name, column, string.format("%.1e", result.worst),
    ok and "fails, as it must" or "PASSES, BUT MUST NOT")
  if not ok then failures[#failures + 1] = name .. ": " .. column end
end

local function check_names(name, want, model)
  local state, lacking = model:state(), {}
  t.equal(#state, #want.state, name .. ": entries of the state")
  for i, entry in ipairs(state) do
    t.equal(entry.name, want.state[i][1], name .. ": state entry " .. i)
    t.equal(table.concat(entry.tensor.shape, "x"), table.concat(want.state[i][2], "x"):gsub("%.0", "") .. "",
      entry.name)
  end
  for _, n in ipairs(want.nodes) do
    if not model:has_node(n) then lacking[#lacking + 1] = n end
  end
  t.equal(lacking, {}, name .. ": torchvision's node names that we lack")
end

local function check_float64(name, want, x)
  local scope <close> = core.memory.scope()
  local model = ready(name, "float64")
  check_names(name, want, model)
  want.stages64.output = want.logits64
  local got = stages(model, x, want.stages64)
  local out
  for _, stage in ipairs(got) do out = stage[1] == "output" and stage[2] or out end
  cell(name, "float64 eval: logits", compare { { "logits", out, want.logits64 } }, 1e-9)
  cell(name, "float64 eval: every stage", compare(got), 1e-9)
  must_fail(name, "mutant: class shifted by one", compare { { "logits", out:roll({ 1 }, { 1 }), want.logits64 } }, 1e-9)
  must_fail(name, "mutant: channels swapped",
    compare { { "logits", logits(model, x:flip { 1 }), want.logits64 } }, 1e-9)
  torch.no_grad(function()
    cell(name, "float64 eval, norms folded", compare { { "logits", model(x), want.logits64 } }, 1e-9)
  end)
  if dir then
    must_fail(name, "mutant: height and width swapped",
      compare { { "logits", logits(model, x:transpose(2, 3)), want.logits64 } }, 1e-9)
    model:to { layout = "channels_last" }
    cell(name, "float64 eval, channels_last", compare { { "logits", logits(model, x), want.logits64 } }, 1e-9)
  end
  model:close()
  if want.transformed64 then
    model = build(name, { dtype = "float64", dropout = 0.0, transform_input = true }):eval()
    fill(model)
    cell(name, "float64 eval: transform_input", compare { { "logits", logits(model, x), want.transformed64 } }, 1e-9)
    model:close()
  end
end

local function check_float32(name, want, x)
  local scope <close> = core.memory.scope()
  x = x:to("float32")
  local model = ready(name, "float32")
  cell(name, "float32 eval: logits", compare({ { "logits", logits(model, x), want.logits32 } }, true))
  cell(name, "float32 eval: every stage", compare(stages(model, x, want.stages32), true))
  model:to { layout = "channels_last" }
  cell(name, "float32 eval, channels_last", compare { { "logits", logits(model, x), want.logits32 } }, 1e-4)
  model:close()
end

local function check_training(name, column, dtype, dropout, want, x, bound)
  local scope <close> = core.memory.scope()
  local model, out, loss, aux = train_step(name, dtype, dropout, x)
  local first, grads, buffers = pairs_of(model, out, loss, aux, want)
  cell(name, column .. ": logits, loss", compare(first, not bound), bound)
  cell(name, column .. ": gradients", compare(grads, not bound), bound)
  if #buffers > 0 then cell(name, column .. ": norm buffers", compare(buffers, not bound), bound) end
  model:close()
end

local function check_initial(name, want)
  local scope <close> = core.memory.scope()
  local model, list = build(name, { seed = 42 }), {}
  for i, entry in ipairs(model:state()) do list[i] = { entry.name, entry.tensor, want[entry.name] } end
  cell(name, "initial weights, seed 42", compare(list, true))
  model:close()
end

local function read(path)
  local file = assert(io.open(path))
  local text = file:read "a"
  file:close()
  return cjson.decode(text)
end

local function report(scope_name)
  if #rows == 0 then error("parity: no reference files were found", 0) end
  local text = table.concat(rows, "\n")
  if dir or #failures > 0 then print(text) end
  if #failures > 0 then error(scope_name .. ": " .. #failures .. " cells fail: " .. table.concat(failures, "; "), 0) end
  rows = {}
end

if dir then
  t.test("the seven networks are torchvision's, to the bounds of the parity page", function()
    for _, name in ipairs(models.names) do
      local file = io.open(dir .. "/" .. name .. ".json")
      if file and (not only or only:find(name, 1, true)) then
        file:close()
        local scope <close> = core.memory.scope()
        local want, x = read(dir .. "/" .. name .. ".json"), picture(name)
        check_float64(name, want, x)
        check_float32(name, want, x)
        check_training(name, "float64 train step", "float64", 0.0, want.train64, x, 1e-9)
        check_training(name, "float32 train step", "float32", 0.0, want.train32, x)
        check_training(name, "float32 with dropout", "float32", nil, want.dropout32, x)
        check_initial(name, want.initial)
      end
    end
    report("parity")
  end)
else
  for _, name in ipairs { "squeezenet1_0", "mobilenet_v2", "inception_v3" } do
    t.test(name .. " gives torchvision's logits and stages in float64", function()
      local path = debug.getinfo(1, "S").source:match("^@(.*)[^/]*$"):gsub("[^/]*$", "") .. "reference/networks/"
        .. name .. ".json"
      check_float64(name, read(path), picture(name))
      report(name)
    end)
  end
end
