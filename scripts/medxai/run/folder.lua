-- A run's folder: what lies in one, and what --overwrite may remove. It refuses a folder that holds something else.
local check = require "medxai.base.check"
local files = require "medxai.base.files"
local host = require "medxai.host"

local folder = {}

-- What a run writes; the only things that --overwrite removes.
local own_files = { "config.json", "environment.json", "manifest.csv", "data_check.json", "metrics.jsonl",
  "metrics.csv", "weights.pt", "model.json", "network.pt2", "report.html", "status", "times.csv", "evaluations.jsonl",
  "checkpoint.pt", "scores.csv", "overlap.csv", "cross.csv", "grid.csv", "grid.jsonl", "verdicts.csv",
  "packet_key.csv" }
local own_patterns = { "^predictions.*%.csv$", "^manifest%-%d+%.csv$", "^data_check%-%d+%.json$" }
local own_folders = { "steps", "maps", "figures", "events", "cells", "families", "cache", "study", "tables",
  "perturbed", "audit", "pictures", "done", "logs" }

--- The folders in which the run of a name may lie, the first one first: under --smoke that of its smoke run.
---@param name string
---@return string[]
function folder.named(name)
  local dir = files.join("runs", name)
  return host.options.smoke and { dir .. "-smoke", dir } or { dir }
end

--- Whether a folder holds a run that was begun.
---@param dir string
---@return boolean
function folder.is_run(dir)
  return files.exists(files.join(dir, "config.json")) or files.is_folder(files.join(dir, "steps"))
    or files.exists(files.join(dir, "status")) or files.is_folder(files.join(dir, "families"))
end

--- Raises where something else than a run lies there.
function folder.refuse_foreign(dir)
  if not files.exists(dir) then return end
  if not files.is_folder(dir) then check.fail("run", "'%s' is a file (expected a folder). Give another --out.", dir) end
  local names = files.list(dir)
  if folder.is_run(dir) then return end -- after the list: another process may be just about to begin the run
  for _, name in ipairs(names) do
    if name ~= "." and name ~= ".." and name ~= "claims" then
      check.fail("run", "'%s' holds other files (%s) and no run. Give another --out.", dir, name)
    end
  end
end

--- Removes what a run writes, and nothing else.
function folder.clear(dir)
  for _, name in ipairs(files.list(dir)) do
    for _, pattern in ipairs(own_patterns) do
      if name:find(pattern) then files.remove(files.join(dir, name)) end
    end
  end
  for _, name in ipairs(own_folders) do files.remove_all(files.join(dir, name)) end
  for _, name in ipairs(own_files) do files.remove(files.join(dir, name)) end
end

return folder
