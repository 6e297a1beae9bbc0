-- What `require "medxai"` offers: every name opens, is described, and there are no others.
local t = require "t"
local files = require "medxai.base.files"
local xai = require "medxai"

t.test("every name of the front door opens and has a line for editors, and the reverse", function()
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

t.test("private parts are not offered, and the library cannot be changed from outside", function()
  for _, name in ipairs { "check", "canon", "files", "store", "metric", "explain", "weights", "model" } do
    t.fails_like(function() return xai[name] end, "^medxai: unknown name '" .. name .. "'%.")
  end
  t.fails_like(function() xai.check = {} end, "the library is not changed from outside")
end)

t.test("own methods and metrics get removals and scorers from the front door", function()
  t.equal(xai.removal, require "medxai.perturb.removal")
  t.equal(xai.scorer, require "medxai.perturb.scorer")
  t.fails_like(function() return xai.smoke_count end,
    "^medxai: there is no 'smoke_count' any more%. Give the option smoke = ")
end)
