-- Calls a researcher's function within a training: an error in it is told with the researcher's own line and where the
-- training was. It refuses nothing itself, and hides neither Ctrl-C nor a lack of memory.
local check = require "medxai.base.check"
local host = require "medxai.host"

local own_code = {}

--- Where a function was written: "vgg19.lua:12"; nil of one in C.
---@param f function
---@return string|nil
function own_code.place(f)
  local info = type(f) == "function" and debug.getinfo(f, "S")
  if not info or info.source:sub(1, 1) ~= "@" then return nil end
  return ("%s:%d"):format(info.source:sub(2), info.linedefined)
end

--- What f(...) returns: at most two values. Tensors that it makes may outlive the call.
---@param where string for errors: "on_epoch after epoch 3"
---@param f function
function own_code.call(where, f, ...)
  local ok, first, second = xpcall(require("medxai.core").memory.unscoped, check.located, f, ...)
  if host.interrupted() then error("interrupted", 0) end
  if ok then return first, second end
  if type(first) == "string" and first:find("out of memory", 1, true) then error(first, 0) end
  local text = check.words_of(first)
  if type(first) ~= "string" then text = "fit: " .. where .. " " .. text end
  error(text .. "\n  in " .. where, 0)
end

return own_code
