-- What a method or a metric raises where it means nothing for this network or image: the result is then "not defined",
-- with the reason, and nothing has failed. It refuses to be confused with an error: it is a value of its own kind.
local not_defined = {}
not_defined.__index = not_defined
not_defined.__tostring = function(self) return "not defined: " .. self.why end

--- Raises it.
---@param why string "the image has no lung mask"
function not_defined.raise(why) error(setmetatable({ why = why }, not_defined), 0) end

--- The reason, where an error is one that raise() raised; else nil.
---@param problem any
---@return string|nil
function not_defined.reason(problem) return getmetatable(problem) == not_defined and problem.why or nil end

return not_defined
