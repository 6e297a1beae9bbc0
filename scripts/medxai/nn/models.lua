-- The seven networks of the thesis, one file each in models/: xai.models.vgg19 { classes = 3, hidden = 256 }; and any
-- that PyTorch exports: xai.models.exported { file = "net.pt2" }.
-- torchvision's parameter names, initial weights and forward order; see medxai.nn.model for the options.
local check = require "medxai.base.check"

local names = { "squeezenet1_0", "mobilenet_v2", "efficientnet_b0", "densenet121", "resnet50", "inception_v3", "vgg19" }

return setmetatable({}, {
  __index = function(self, name)
    if name == "names" then return names end
    if name == "exported" then
      rawset(self, name, require("medxai.nn.exported").new)
      return self[name]
    end
    check.known("models", "network", name, { "exported", table.unpack(names) })
    local network = require("medxai.nn.models." .. name)
    local function build(options) return require("medxai.nn.model").new(network, options) end
    rawset(self, name, build)
    return build
  end,
  __call = function() check.fail("models", "is no function. Write xai.models.vgg19 { classes = ... }.") end,
  __names = function() return names end, -- for completion at the prompt
  __pairs = function(self)
    local i = 0
    return function()
      i = i + 1
      if names[i] then return names[i], self[names[i]] end
    end
  end,
})
