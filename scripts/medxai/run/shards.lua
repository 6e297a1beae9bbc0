-- The shards of a step: its images in groups of eight, which processes that share the run's folder divide among
-- themselves. A shard is claimed by one process (run/lease.lua). When it is done, shards/<step>/<number>.json says what
-- it cost, written once: the first one counts. What was made (maps, rows) stands in files that only its process writes,
-- and is put together by the process that has the run's folder.
-- It refuses to know what the work is, and to keep anything of a step that is finished.
local canon = require "medxai.base.json"
local file = require "medxai.file"
local files = require "medxai.base.files"

local shards = {}

shards.images = 8

local longest_pause_s = 2.0

---@class medxai.Shards a step's images, divided
---@field run medxai.Run
---@field name string the step
---@field images integer how many
---@field count integer of shards
---@field dir string
---@field done table<integer, boolean>
---@field seen integer how many are known to be done
local Shards = {}
Shards.__index = Shards

-- Claims that are held together and given back together.
local Group = {}
Group.__close = function(group)
  for _, held in ipairs(group) do held:close() end
end

local function path_of(self, k) return files.join(self.dir, k .. ".json") end

local function claim_of(self, k) return string.format("shard-%s-%d", self.name, k) end

--- The shards of a step of so many images; those that earlier starts have done stay so.
---@param run medxai.Run
---@param name string the step's
---@param images integer
---@return medxai.Shards
function shards.open(run, name, images)
  local self = setmetatable({ run = run, name = name, images = images, count = math.ceil(images / shards.images),
    dir = files.join(run.dir, "shards", name), done = {}, seen = 0 }, Shards)
  files.mkdir(self.dir)
  self:look()
  return self
end

--- Looks at what is done, by whomever; true where all is.
---@return boolean
function Shards:look()
  for _, entry in ipairs(files.list(self.dir)) do
    local k = math.tointeger(tonumber(entry:match "^(%d+)%.json$" or ""))
    if k and not self.done[k] then self.done[k], self.seen = true, self.seen + 1 end
  end
  return self.seen >= self.count
end

--- Whether the step was finished by others, who have cleared it, while this process stood still.
---@return boolean
function Shards:is_over() return not files.is_folder(self.dir) end

-- Claims shard k and those behind it, at most so many, as far as they are neither done nor another process'.
local function claim(self, group, k, most)
  group.first = k
  while #group < most and k <= self.count and not self.done[k] do
    local held = self.run.leases:take(claim_of(self, k))
    if not held then return end
    group[#group + 1] = held
    if files.exists(path_of(self, k)) or self:is_over() then -- its last owner has ended it
      group[#group]:close()
      group[#group] = nil
      return
    end
    group.is_second = group.is_second or held.generation > 1
    k = k + 1
  end
end

-- What was done under claims that are held still, all of them.
local function record(self, group, cost)
  self.run.worked = true
  for i = 1, #group do
    local k = group.first + i - 1
    files.first(path_of(self, k), canon.write(i == 1 and cost or {}) .. "\n")
    if not self.done[k] then self.done[k], self.seen = true, self.seen + 1 end
  end
end

local function try(self, k, most, work)
  local group <close> = setmetatable({}, Group)
  claim(self, group, k, most)
  if #group == 0 then return false end
  local function is_mine()
    for _, held in ipairs(group) do
      if not held:is_mine() then return false end
    end
    return true
  end
  local first = (k - 1) * shards.images + 1
  local cost = work(first, math.min(self.images, first - 1 + #group * shards.images),
    { is_second = group.is_second or false, is_mine = is_mine })
  if is_mine() and not self:is_over() then record(self, group, cost) end
  return true
end

-- The process that has the folder begins at the first shard, others elsewhere, so that hardly any two meet.
local function place_of(self)
  if not self.run.joined then return 0 end
  return tonumber(self.run.leases.worker:sub(-6), 16) % self.count
end

--- Works until every shard is done, by this process or another.
---@param most fun(): integer how many shards that follow one another this process takes at once
---@param work fun(first: integer, last: integer, claim: { is_second: boolean, is_mine: fun(): boolean }): table makes
---  what belongs to these images; is_second: another process has begun some of it; is_mine: nobody has taken the work
---  over. What it returns is kept as the cost.
function Shards:work(most, work)
  local place, pause = place_of(self), nil
  file.first(files.join(self.dir, "images"), self.images .. "\n") -- for shards.progress; makes no folder
  while not self:look() and not self:is_over() do
    local worked = false
    for i = 0, self.count - 1 do
      local k = (place + i) % self.count + 1
      if not self.done[k] then worked = try(self, k, most(), work) or worked end
    end
    pause = not worked and (pause or self.run.leases:pauses(longest_pause_s)) or nil
    if pause then
      self.run:heartbeat(self.name .. ": waiting for another process", true)
      pause()
    end
  end
end

--- How far the steps of a run are that processes share: { name, done, images }, for people.
---@param dir string the run's folder
---@return table[]
function shards.progress(dir)
  local list = {}
  for _, name in ipairs(files.list(files.join(dir, "shards"))) do
    local images = tonumber(files.read(files.join(dir, "shards", name, "images")) or "")
    local done = 0
    for _, entry in ipairs(images and files.list(files.join(dir, "shards", name)) or {}) do
      if entry:find "^%d+%.json$" then done = done + 1 end
    end
    if images then list[#list + 1] = { name = name, done = math.min(done * shards.images, images), images = images } end
  end
  return list
end

--- The sums of what the shards cost, name by name: { seconds = { gradcam = 1.5 } }.
---@return table<string, table<string, number>>
function Shards:costs()
  local sums = {}
  for k = 1, self.count do
    for kind, numbers in pairs(files.read_data(path_of(self, k)) or {}) do
      sums[kind] = sums[kind] or {}
      for name, value in pairs(numbers) do sums[kind][name] = (sums[kind][name] or 0) + value end
    end
  end
  return sums
end

--- A file in the step's shards that this process alone writes.
---@param what string
---@return string path
function Shards:own_file(what) return files.join(self.dir, what .. "-" .. self.run.leases.worker .. ".jsonl") end

--- The whole records of all such files.
---@param what string
---@return table[]
function Shards:records(what)
  local all = {}
  for _, entry in ipairs(files.list(self.dir)) do
    if entry:sub(1, #what + 1) == what .. "-" and entry:find "%.jsonl$" then
      local list = files.records(files.join(self.dir, entry))
      table.move(list, 1, #list, #all + 1, all)
    end
  end
  return all
end

--- Takes back what open() has made where the step had been finished by then: an empty folder.
function Shards:forget() file.remove(self.dir) end

--- Removes all that belongs to a step's shards, once it is finished: for the process that has the run's folder. The
--- step's folder goes at once: that is how others know.
---@param run medxai.Run
---@param name string the step's
function shards.clear(run, name)
  local dir, prefix = files.join(run.dir, "shards", name), "shard-" .. name .. "-"
  files.remove_all(dir .. ".over")
  if not files.is_folder(dir) then return end
  files.rename(dir, dir .. ".over")
  files.remove_all(dir .. ".over")
  run.leases:clear(function(claim_name) return claim_name:sub(1, #prefix) == prefix end)
end

return shards
