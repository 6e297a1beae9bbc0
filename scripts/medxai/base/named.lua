-- Lists of named things with their options, as methods and metrics are given; a single name is a list of one:
--   { "gradcam", { "lime", samples = 500 }, saliency = { option = value }, mine = function ... end }
local check = require "medxai.base.check"

local named = {}

--- The members in the order in which they count: the list part, then names sorted.
---   name   nil where a member has none
---   value  what was given under a name; of { "lime", samples = 500 } the options without the name; nil for a name
---   alone
---   keyed  given as name = value
---   key    its place in the list, or its name
---   given  the member as it was written
---@param list table|string
---@return { name: string|nil, value: any, keyed: boolean, key: any, given: any }[]
function named.members(list)
  local out = {}
  if type(list) == "string" then list = { list } end
  for i, key in ipairs(check.sorted_keys(list)) do
    local given = list[key]
    local member = { key = key, given = given, keyed = type(key) == "string" }
    if member.keyed then
      member.name, member.value = key, given
    elseif type(given) == "string" then
      member.name = given
    elseif type(given) == "table" and type(given[1]) == "string" then
      member.name, member.value = given[1], {}
      for k, v in pairs(given) do
        if k ~= 1 then member.value[k] = v end
      end
    end
    out[i] = member
  end
  return out
end

return named
