-- CAMs on grids of convolutions, of tokens and of (N, h, w, C), integrated gradients and the attention methods on small
-- exported networks, beside pytorch-grad-cam, captum and the methods' equations.
local t = require "t"
local exportedmaps = require "exportedmaps"
local host = require "medxai.host"
local xai = require "medxai"

local folder = t.root .. "/tests/reference/exported/"
local was_quiet = host.options.quiet
host.options.quiet = true

for _, name in ipairs { "convnet", "vit", "tokens", "swin" } do
  t.test(name .. ": every map is the reference's to 2e-6", function()
    local want = xai.load_checkpoint(folder .. name .. ".pt")
    local found = exportedmaps.distances(folder .. name .. ".pt2", want)
    for _, method in ipairs(exportedmaps.methods(want)) do
      t.ok(found[method] < 2e-6, ("%s is off by %.2g"):format(method, found[method]))
    end
  end)
end

t.test("mutant: maps at another layer differ", function()
  local want = xai.load_checkpoint(folder .. "tokens.pt")
  local found = exportedmaps.distances(folder .. "tokens.pt2", want, "blocks.0")
  for _, method in ipairs { "gradcam", "layercam", "eigencam", "ablationcam" } do t.ok(found[method] > 1e-2, method) end
end)

host.options.quiet = was_quiet
