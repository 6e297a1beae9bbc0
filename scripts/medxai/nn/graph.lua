-- xai.graph: a network of one's own, built of named layers (nn/builder.lua).
local graph = { builder = require("medxai.nn.builder").builder }

--- A model of your own network; the options are those of xai.models, and build.
--- Layers begin as torch.nn's do; all are trained.
---@param options table { name=, classes=, build = function(g, x) -> logits [, aux logits], size_px =, cam_layer =,
---  seed = ... }
---@return medxai.Model
function graph.network(options)
  return require("medxai.nn.model").own(options)
end

return graph
