-- The maps of an explain step, and their values under the metrics that run the network, made by all processes that
-- share the run's folder, eight images at a time (run/shards.lua). Each writes an index of maps (explain/store.lua) and
-- rows of its own. The process that has the folder puts them together in the order of images and methods; what needs
-- all of it (tables, intervals, figures) it makes alone. One process that works alone goes the same way.
-- It refuses to compute again what any process has finished.
local canon = require "medxai.base.json"
local files = require "medxai.base.files"
local host = require "medxai.host"
local judge = require "medxai.score.runner"
local Progress = require "medxai.base.progress"
local runner = require "medxai.explain.runner"
local shards = require "medxai.run.shards"

local explain_shards = {}

---@class medxai.ExplainShards a process' share in an explain step
---@field job medxai.ExplainJob
---@field name string the step's
---@field fields table
---@field shared medxai.Shards
---@field maps table the making of maps (runner.open)
---@field todo integer images of which a map was missing at the beginning
local Share = {}
Share.__index = Share

--- Opens the shards of a job's images.
---@param job medxai.ExplainJob
---@param name string the step's
---@param fields table the step's
---@return medxai.ExplainShards
function explain_shards.open(job, name, fields)
  local self = setmetatable({ job = job, name = name, fields = fields, maps = runner.open(job) }, Share)
  self.shared = shards.open(job.run, name, #job.chosen)
  if job.run.joined then job.store:look() end -- after the shards: what is done now is in the indexes
  self.todo = #runner.missing(job, job.chosen)
  return self
end

-- Tells once how long the maps take, after the first batch of n images.
local function tell(self, n, seconds)
  if self.is_told then return end
  self.is_told = true
  self.job:say("%s; %s %s", self.words, n >= self.todo and "took" or "about",
    Progress.duration(n >= self.todo and seconds or seconds / n * self.todo))
end

-- One group of shards: images first..last of those that were chosen.
local function make(self, first, last, claim)
  local job, began = self.job, host.now()
  local numbers, path = table.move(job.chosen, first, last, 1, {}), self.shared:own_file "rows"
  if claim.is_second then
    job.store:look()
    self.known = judge.known(job, self.shared:records "rows")
  end
  job.seconds, job.metric_seconds, self.maps.is_mine = {}, {}, claim.is_mine
  runner.make(self.maps, numbers, function(n)
    tell(self, n, host.now() - began)
    job.run:heartbeat(string.format("explain %d/%d", math.min(self.shared.seen * shards.images + n, #job.chosen),
      #job.chosen), true)
  end)
  if claim.is_mine() then
    judge.some(job, numbers, self.known, function(rows)
      for _, row in ipairs(claim.is_mine() and rows or {}) do files.append_line(path, canon.write(row)) end
      job.run:heartbeat("judge", true)
    end)
  end
  self.bar.count = math.min(self.shared.seen * shards.images, #job.chosen)
  self.bar:add(#numbers)
  return { maps = job.seconds, metrics = job.metric_seconds }
end

--- Works until the maps of all images are there, made by this process or others.
function Share:work()
  local job = self.job
  if job.run.joined and job.run:step(self.name, self.fields).done then return self.shared:forget() end
  self.words = runner.words(job)
  if self.todo < #job.chosen then
    self.words = self.words .. string.format(", %d of them made before", #job.chosen - self.todo)
  end
  if self.todo == 0 then
    job:say("%s", self.words)
    if not judge.runs_network(job) then return end
  end
  self.known = judge.known(job, self.shared:records "rows")
  local bar <close> = Progress.new("explain " .. job.split.name, #job.chosen)
  self.bar = bar
  self.shared:work(function() return math.max(1, runner.at_once(self.maps) // shards.images) end,
    function(first, last, claim) return make(self, first, last, claim) end)
  if self.shared:is_over() then job.store:forget() end
end

-- The records of all maps in the order of images and methods; what somebody has removed meanwhile is made again.
local function complete(job, maps)
  local lost = {}
  for _, number in ipairs(job.chosen) do
    local is_lost = false
    for _, e in ipairs(job.entries) do
      local record = job:record(e, number)
      is_lost = is_lost or not record or record.status ~= "failed" and not job.store:find(e.set, record.image_id)
    end
    if is_lost then lost[#lost + 1] = number end
  end
  maps.is_mine = nil
  if #lost > 0 then runner.make(maps, lost, function() end) end
end

local function count_failures(job)
  for _, number in ipairs(job.chosen) do
    for _, e in ipairs(job.entries) do
      local record = job:record(e, number)
      if record.status == "failed" then job:count_failure(e, record.path, record.problem) end
    end
  end
end

--- Puts together what all processes have made: for the one that has the folder.
---@return table known for judge.maps
function Share:gather()
  local job, keys, costs = self.job, {}, self.shared:costs()
  job.store:look()
  job.seconds, job.metric_seconds = costs.maps or {}, costs.metrics or {}
  complete(job, self.maps)
  for _, number in ipairs(job.chosen) do
    for _, e in ipairs(job.entries) do keys[#keys + 1] = e.set .. "/" .. job.split:item(number).id end
  end
  job.store:merge(keys)
  for _, e in ipairs(job.entries) do files.tidy(files.join(job.run.dir, "maps", e.set)) end -- of those that were killed
  count_failures(job)
  return judge.known(job, self.shared:records "rows")
end

--- Removes what belonged to the sharing, once the step is finished: for the process that has the folder.
---@param run medxai.Run
---@param name string the step's
function explain_shards.clear(run, name)
  if not run.joined then shards.clear(run, name) end
end

return explain_shards
