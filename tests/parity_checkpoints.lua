-- Whole networks in every format that Python writes, with MEDXAI_CHECKPOINTS_DIR = what
-- tests/reference/networks_files.py wrote (skipped without it): each file loads completely, all formats hold the same
-- bits, the logits are torchvision's. Leaves ours/NAME.pt and .safetensors there for Python to open. Two mutants must
-- fail.
local t = require "t"
local core = require "medxai.core"
local files = require "medxai.base.files"
local match = require "medxai.nn.match"
local store = require "medxai.nn.checkpoint"
local torch = require "medxai.torch"
local xai = require "medxai"

local dir = os.getenv "MEDXAI_CHECKPOINTS_DIR"
local networks = { "squeezenet1_0", "mobilenet_v2", "efficientnet_b0", "densenet121", "resnet50", "inception_v3",
  "vgg19" }

local function logits(model, x)
  return torch.no_grad(function() return model:forward { x = x, fold = false }.output end)
end

local function same(a, b)
  for i, entry in ipairs(a) do
    if not entry.tensor:equal(b[i].tensor) then return false end
  end
  return true
end

for _, name in ipairs(networks) do
  t.test(name .. " in every format of torchvision, and back", function()
    if not dir then t.skip "MEDXAI_CHECKPOINTS_DIR is not set" end
    if not files.exists(dir .. "/" .. name .. ".pt") then t.skip("no " .. name .. " there") end
    local scope <close> = core.memory.scope() -- luacheck: ignore
    local function build()
      return xai.models[name] { classes = 3, head = "torchvision", layout = "nchw",
        transform_input = name == "inception_v3" and false or nil }:eval()
    end
    local first, done = build(), {}
    for _, ending in ipairs { ".pt", ".pth", ".torch2.pt", ".safetensors" } do
      local path = dir .. "/" .. name .. ending
      if files.exists(path) then
        local model = ending == ".pt" and first or build()
        local loaded = store.load(path)
        local report = match.load_into(model:state(), loaded.tensors, { from = path })
        t.equal(report.matched, #model:state(), path)
        t.ok(same(first:state(), model:state()), ending .. " holds other numbers than .pt")
        for _, entry in ipairs(loaded.tensors) do entry.tensor:close() end
        if model ~= first then model:close() end
        done[#done + 1] = ending
      end
    end
    local x, want = torch.load_npy(dir .. "/" .. name .. ".x.npy"), torch.load_npy(dir .. "/" .. name .. ".logits.npy")
    local function far(y) return (y - want):abs():max():item() end
    local d = far(logits(first, x))
    print(("%-16s %-40s logits %.1e from torchvision's"):format(name, table.concat(done, " "), d))
    t.ok(d <= 1e-4, "the logits differ by " .. d)
    t.ok(far(logits(first, x:flip { 2 })) > 1e-4, "the mutant 'picture upside down' passes")
    t.ok(far(logits(first, x):roll({ 1 }, { 1 })) > 1e-4, "the mutant 'class shifted' passes")
    for _, ending in ipairs { "pt", "safetensors" } do xai.save(dir .. "/ours/" .. name .. "." .. ending, first) end
    first:close()
  end)
end
