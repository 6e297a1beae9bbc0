-- Nested settings as lines for people.
local sorted_keys = require("medxai.base.check").sorted_keys

--- Nested settings as a list of { "fit.optim.lr", "0.01" }, names in order.
---@param settings table
---@param text_of fun(value: any): string|nil the text of a value; nil for a table whose members are told one by one
---@return string[][]
local function flat(settings, text_of, prefix, out)
  out = out or {}
  for _, key in ipairs(sorted_keys(settings)) do
    local value, name = settings[key], prefix and prefix .. "." .. tostring(key) or tostring(key)
    local text = text_of(value)
    if text then out[#out + 1] = { name, text } else flat(value, text_of, name, out) end
  end
  return out
end

return { flat = function(settings, text_of) return flat(settings, text_of) end }
