-- The small network and images of tests/reference/cam.py: what the tests of the methods share.
local torch = require "medxai.torch"

local tinycam = {}

tinycam.classes = { "clear", "nodule", "opacity" }

local function filled(name, k, shape, dtype)
  local n, values = 1, {}
  for _, side in ipairs(shape) do n = n * side end
  for i = 0, n - 1 do
    local v = math.sin(i * (0.7 + 0.3 * k) + k) * 0.6
    values[i + 1] = (name:find("running_var$") or name == "features.1.weight") and v * v + 0.5 or v
  end
  return torch.tensor(values, { dtype = "float64" }):view(shape):to { dtype = dtype }
end

--- act: "relu" or "silu"; dtype "float64" by default.
function tinycam.model(act, dtype)
  local model = require("medxai.nn.graph").network {
    name = "toy", classes = tinycam.classes, size_px = 34, cam_layer = "features.6",
    build = function(g, x)
      x = g:block("features", function()
        x = g[act](g, "2", g:batch_norm2d("1", g:conv2d("0", x, { 3, 6, 3, stride = 2, padding = 1 }), 6))
        x = g[act](g, "4", g:conv2d("3", x, { 6, 8, 3, padding = 1 }))
        return g[act](g, "6", g:conv2d("5", x, { 8, 10, 3, stride = 2, padding = 1 }))
      end)
      x = g:flatten(nil, g:adaptive_avg_pool2d("pool", x, 1))
      return g:linear("fc2", g:relu("relu", g:linear("fc1", x, { 10, 7 })), { 7, 3 })
    end,
  }
  model:to { dtype = "float64" }
  local state, k = {}, 0
  for i, entry in ipairs(model:state()) do
    state[i] = entry
    if not entry.name:find("num_batches_tracked$") then
      state[i] = { name = entry.name, tensor = filled(entry.name, k, entry.tensor.shape, "float64") }
      k = k + 1
    end
  end
  model:load_state(state)
  model:to { dtype = dtype or "float64" }
  return model:eval()
end

--- (2, 3, 24, 34) float64
function tinycam.images()
  local n = torch.arange(2 * 3 * 24 * 34, { dtype = "float64" })
  local x = (0.5 + 0.5 * torch.sin(n * 0.113) * torch.cos(n * 0.0031)):view({ 2, 3, 24, 34 })
  x[{ 0, 0, { 0, 11 }, { 0, 17 } }]:mul_(0.2)
  x[{ 0, 2, { 13, 24 }, { 17, 34 } }]:fill_(1)
  x[{ 1, 1, { 0, 24 }, { 23, 34 } }]:fill_(0)
  return x
end

return tinycam
