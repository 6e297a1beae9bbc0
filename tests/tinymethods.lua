-- The small network and images of tests/reference/methods.py, by formula, and what the tests of its methods share:
-- convolutions with batch norms behind and before them, max and mean pooling, a residual sum, a concatenation.
local t = require "t"
local core = require "medxai.core"
local tiny = require "tinyexplain"
local torch = require "medxai.torch"

local tinymethods = {}

tinymethods.classes = { "clear", "nodule", "opacity", "effusion" }

local function filled(name, k, shape)
  local n, values = 1, {}
  for _, side in ipairs(shape) do n = n * side end
  for i = 0, n - 1 do
    local v = math.sin(i * (0.7 + 0.3 * k) + k) * 0.6
    values[i + 1] = (name:find "running_var$" or name:find "^bn%d%.weight$") and v * v + 0.5 or v
  end
  return torch.tensor(values, { dtype = "float64" }):view(shape)
end

local function build(g, x)
  local function conv(name, at, from, to, size, o)
    return g:conv2d(name, at, { from, to, size, padding = size // 2, bias = not o or o.bias })
  end
  x = g:max_pool2d("pool1", g:relu("relu1", g:batch_norm2d("bn1", conv("conv1", x, 3, 6, 3), 6)), { 2 })
  local y = g:relu("relu2", g:batch_norm2d("bn2", conv("conv2", x, 6, 6, 3, { bias = false }), 6))
  x = g:relu("relu3", g:add("sum", g:batch_norm2d("bn3", conv("conv3", y, 6, 6, 3), 6), x))
  x = g:cat("cat", { x, conv("conv4", g:relu("relu4", g:batch_norm2d("bn4", x, 6)), 6, 4, 1) })
  x = g:relu("relu5", conv("conv5", g:avg_pool2d("pool2", x, { 2 }), 10, 8, 3))
  x = g:flatten(nil, g:adaptive_avg_pool2d("pool", x, 1))
  return g:linear("fc2", g:relu("relu6", g:linear("fc1", x, { 8, 7 })), { 7, 4 })
end

--- In float64, in evaluation.
function tinymethods.model(dtype)
  local model = require("medxai.nn.graph").network { name = "mixed", classes = tinymethods.classes, size_px = 24,
    cam_layer = "relu5", build = build }
  model:to { dtype = "float64" }
  local state, k = {}, 0
  for i, entry in ipairs(model:state()) do
    state[i] = entry
    if not entry.name:find "num_batches_tracked$" then
      state[i] = { name = entry.name, tensor = filled(entry.name, k, entry.tensor.shape) }
      k = k + 1
    end
  end
  model:load_state(state)
  return model:to({ dtype = dtype or "float64" }):eval()
end

--- (2, 3, 16, 24) float64, different in each quadrant and channel
function tinymethods.images()
  local n = torch.arange(2 * 3 * 16 * 24, { dtype = "float64" })
  local x = (0.5 + 0.5 * torch.sin(n * 0.113) * torch.cos(n * 0.0031)):view({ 2, 3, 16, 24 })
  x[{ 0, 0, { 0, 7 }, { 0, 11 } }]:mul_(0.2)
  x[{ 0, 2, { 9, 16 }, { 11, 24 } }]:fill_(1)
  x[{ 1, 1, { 0, 16 }, { 15, 24 } }]:fill_(0)
  return x
end

--- Explains both images: the maps (2, h, w) float64 as they are kept, and the records.
---@param method string|table one entry of a list of methods
---@param options? table of run:explain; model and images may stand there too
function tinymethods.maps(method, options)
  local scope <close> = core.memory.scope()
  local dir, o = t.tmpdir(), {}
  for k, v in pairs(options or {}) do o[k] = v end
  local model, images = o.model or tinymethods.model(), o.x or tinymethods.images()
  o.model, o.x, o.methods, o.figures, o.images = nil, nil, { method }, false, o.images or "all"
  local split = tiny.tensor_split(images, model.classes)
  if o.train then split.data, o.train = { train = o.train, test = split }, nil end
  local explain = require "medxai.steps.explain"
  local result = explain.run(tiny.run(dir), model, split, o)
  local store, raws = require("medxai.explain.store").open(dir), {}
  for i, record in ipairs(result.records) do
    raws[i] = not record.problem and store:raws(record)[1]:to { dtype = "float64" } or nil
  end
  return raws[1] and scope:keep(torch.stack(raws, 0)), result.records, store
end

--- What tests/reference/methods.py wrote: (2, h, w) float64.
function tinymethods.reference(name)
  return torch.load_npy(t.root .. "/tests/reference/methods/" .. name .. ".npy"):to { dtype = "float64" }
end

--- The largest difference of two maps, of the second's largest value.
function tinymethods.apart(a, b) return ((a - b):abs():max() / b:abs():max()):item() end

--- A map equals the reference's to 2e-6 (it is kept in float32), and no map turned upside down or of another image
--- does.
function tinymethods.equal(maps, name, most)
  local reference = tinymethods.reference(name)
  t.equal(maps.shape, reference.shape)
  local off = tinymethods.apart(maps, reference)
  if os.getenv "MEDXAI_SHOW_PARITY" then io.stderr:write(("%-24s %.2g\n"):format(name, off)) end
  t.ok(off <= (most or 2e-6), name .. ": " .. off)
  t.ok(tinymethods.apart(maps:flip { 1 }, reference) > 1e-2, name .. " turned upside down")
  t.ok(tinymethods.apart(maps:flip { 0 }, reference) > 1e-2, name .. " of the other image")
end

--- A method gives both images together what it gives each alone.
function tinymethods.batch_equals_singles(method, options)
  local both = tinymethods.maps(method, options)
  for i = 1, 2 do
    local o = { images = { i } }
    for k, v in pairs(options or {}) do o[k] = v end
    local one = tinymethods.maps(method, o)
    t.ok(tinymethods.apart(one:select(0, 0), both:select(0, i - 1)) < 1e-6,
      "image " .. i .. " alone: " .. tinymethods.apart(one:select(0, 0), both:select(0, i - 1)))
  end
end

return tinymethods
