-- What `require "medxai"` offers: all of it opens, all of it is described, and nothing else is there.
local t = require "t"
local files = require "medxai.base.files"
local xai = require "medxai"

t.test("every name of the front door opens and has its line for editors, and every line its name", function()
  local offered, described = {}, {}
  for _, name in ipairs(getmetatable(xai).__names()) do
    t.ok(xai[name] ~= nil, name)
    offered[#offered + 1] = name
  end
  for name in files.read(t.root .. "/scripts/medxai/init.lua"):gmatch "%-%-%-@field ([%w_]+)" do
    described[#described + 1] = name
  end
  table.sort(described)
  t.equal(offered, described)
end)

t.test("parts that are private are not offered, and the library is not changed from outside", function()
  for _, name in ipairs { "check", "canon", "files", "store", "metric", "explain", "weights", "model" } do
    t.fails_like(function() return xai[name] end, "^medxai: unknown name '" .. name .. "'%.")
  end
  t.fails_like(function() xai.check = {} end, "the library is not changed from outside")
end)

t.test("methods and metrics of your own find what takes pixels out and what scores changed images", function()
  t.equal(xai.removal, require "medxai.perturb.removal")
  t.equal(xai.scorer, require "medxai.perturb.scorer")
  t.fails_like(function() return xai.smoke_count end,
    "^medxai: there is no 'smoke_count' any more%. Give the option smoke = ")
end)
