-- Lists of named things with their options, and nested settings as lines.
local t = require "t"
local named = require "medxai.base.named"
local settings = require "medxai.base.settings"

t.test("members come in the order of the list, then by name, each with its name and options", function()
  local function mine() end
  local got = {}
  for i, m in ipairs(named.members { "gradcam", { "lime", samples = 5, "x" }, zeta = { a = 1 }, alpha = mine,
      [7] = true }) do
    got[i] = { m.name or "none", m.value or "none", m.keyed, m.key }
  end
  t.equal(got, { { "gradcam", "none", false, 1 }, { "lime", { samples = 5, [2] = "x" }, false, 2 },
    { "none", "none", false, 7 }, { "alpha", mine, true, "alpha" }, { "zeta", { a = 1 }, true, "zeta" } })
end)

t.test("nested settings are told one by one, a table with a text of its own as one", function()
  local function text_of(v) return type(v) ~= "table" and tostring(v) or #v > 0 and table.concat(v, " ") or nil end
  t.equal(settings.flat({ fit = { optim = { lr = 0.5 }, list = { 1, 2 } }, seed = 3, none = {} }, text_of),
    { { "fit.list", "1 2" }, { "fit.optim.lr", "0.5" }, { "seed", "3" } })
end)
