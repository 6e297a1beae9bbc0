-- A step of a run (fit, evaluate, one explain method, report): a file steps/<name>.json with the fields that determine
-- its numbers, their hash (the key), and the result once finished. The same key finds the result again; another key
-- means that the step has to be redone. It refuses to decide whether redoing is allowed: run.lua does.
local canon = require "medxai.base.json"
local files = require "medxai.base.files"

---@class medxai.Step
---@field name string
---@field key string sha256 of the canonical text of fields
---@field fields table plain data: everything that determines the step's numbers
---@field done boolean finished earlier with the same key, its files still there
---@field begun boolean begun earlier with the same key, not finished
---@field result table|nil what finish() stored
---@field run table|nil learns that it did work
local Step = {}
Step.__index = Step

-- Bump when a code change alters results; invalidates cached steps.
Step.numerics = 1

local function all_there(dir, list)
  for _, entry in ipairs(list or {}) do
    local bytes = files.size(files.join(dir, entry.path))
    if not bytes or (entry.bytes and bytes ~= entry.bytes) then return false end
  end
  return true
end

--- Opens a step of the run in `dir`; nothing is written yet.
---@param dir string
---@param name string
---@param fields table
---@return medxai.Step
function Step.open(dir, name, fields)
  local step = setmetatable({ dir = dir, name = name, fields = fields,
    path = files.join(dir, "steps", name .. ".json") }, Step)
  step.key = canon.hash(fields)
  step.stored = files.read_data(step.path)
  local same = step.stored ~= nil and step.stored.key == step.key
  step.done = same and step.stored.status == "finished" and all_there(dir, step.stored.files)
  step.begun = same and step.stored.status ~= "finished"
  step.result = step.done and step.stored.result or nil
  return step
end

--- True where a step of this name is on disk with another key.
function Step:changed()
  return self.stored ~= nil and self.stored.key ~= self.key
end

-- A value for people: numbers as short as they are exact.
local function shown(value)
  if math.type(value) == "float" then
    local short = string.format("%.15g", value)
    return tonumber(short) == value and short or canon.number(value)
  end
  return value == nil and "absent" or canon.write(value)
end

--- Up to `most` differing fields as text: "epochs is 8 there and 9 here, ..."
---@param most? integer
function Step:differences(most)
  local list, words = canon.diff(self.stored.fields, self.fields), {}
  for i, difference in ipairs(list) do
    if i > (most or 4) then
      words[i] = string.format("and %d more", #list - i + 1)
      break
    end
    local part, kind = difference.field:match "^(.-)%.?(%l+)_sha256$"
    local what = kind == "manifest" and "images" or kind == "masks" and "masks"
    words[i] = what and string.format("the %s%s are not the same (their list%s or contents)", what,
      part ~= "" and " of " .. part or "", what == "images" and ", labels" or "")
      or string.format("%s is %s there and %s here", difference.field, shown(difference.a), shown(difference.b))
  end
  return table.concat(words, ", ")
end

function Step:write(status, result, list)
  if self.run then self.run.worked, self.run.busy = true, true end
  files.write_data(self.path, { step = self.name, key = self.key, status = status, fields = self.fields,
    result = result, files = list })
end

--- Notes on disk that the step has begun.
function Step:begin()
  self:write("running")
  self.begun = true
end

--- Stores the result, and the size of the files that belong to it (paths relative to the run folder). Files that other
--- steps write to as well only have to be there.
---@param result table plain data
---@param paths? string[]
---@param shared? string[]
function Step:finish(result, paths, shared)
  local list = canon.list()
  for i, path in ipairs(paths or {}) do
    list[i] = { path = path, bytes = files.size(files.join(self.dir, path)) or 0 }
  end
  for _, path in ipairs(shared or {}) do list[#list + 1] = { path = path } end
  self:write("finished", result, list)
  self.result, self.done, self.begun = result, true, false
end

return Step
