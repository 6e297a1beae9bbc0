-- What a run says of where and how it was made: the program, the machine, the command, the experiment and its question.
local check = require "medxai.base.check"
local files = require "medxai.base.files"
local host = require "medxai.host"

local environment = {}

--- The leading comment of the experiment file: the question that it asks.
---@param script string|nil
---@return string
function environment.question(script)
  local text = script and script ~= "-" and files.read(script)
  local lines = {}
  for line in (text or ""):gmatch("([^\n]*)\n?") do
    local comment = line:match("^%-%-+%s?(.*)$")
    if not comment and not (line:find("^#!") and #lines == 0) then break end
    if comment then lines[#lines + 1] = comment end
  end
  return table.concat(lines, " ")
end

--- A word as a shell takes it.
---@return string
function environment.shell_word(value)
  local word = tostring(value)
  return word:find "^[%w_@%%+=:,./%-]+$" and word or "'" .. word:gsub("'", "'\\''") .. "'"
end

-- What to type to run the experiment again.
local function command_line()
  local words = { "medxai-run" }
  for _, name in ipairs { "device", "out", "overwrite", "resume", "seed", "smoke", "threads" } do
    local value = host.options[name]
    if value then
      words[#words + 1] = value == true and "--" .. name or "--" .. name .. " " .. environment.shell_word(value)
    end
  end
  words[#words + 1] = environment.shell_word(host.script)
  for _, name in ipairs(check.sorted_keys(host.fields or {})) do
    words[#words + 1] = "--" .. name .. " " .. environment.shell_word(host.fields[name])
  end
  return table.concat(words, " ")
end

--- Whether files that are not here may be downloaded: not under --smoke, which is to take seconds.
function environment.may_download() return not host.options.smoke end

-- HEAD of the git folder that holds `path`, read without git; nil where there is none.
local function git_head(path)
  while path and path ~= "" do
    local head = files.read(files.join(path, ".git", "HEAD"))
    if head then
      local ref = head:match("^ref: (%S+)")
      return ref and (files.read(files.join(path, ".git", ref)) or ref):match("%S+") or head:match("%S+")
    end
    path = files.folder(path)
  end
end

local function first_line(path, pattern)
  local f = io.open(path)
  local text = f and f:read("a") or ""
  if f then f:close() end
  return text:match(pattern)
end

--- The version of libtorch that is loaded.
---@return string
function environment.libtorch() return require("medxai.core").tensor.torch_version() end

--- Writes environment.json, and warns where an earlier process of the run had another processor, libtorch, device or
--- number of threads: results may differ in their last bits.
---@param dir string
function environment.write(dir)
  local path = files.join(dir, "environment.json")
  local now = {
    program = host.version, lua = _VERSION, libtorch = environment.libtorch(), device = host.options.device,
    threads = host.options.threads, cores = host.cores,
    processor = first_line("/proc/cpuinfo", "model name%s*:%s*([^\n]+)") or "unknown",
    system = first_line("/proc/version", "([^\n]+)") or "unknown",
    machine = first_line("/proc/sys/kernel/hostname", "(%S+)") or "unknown",
    command = command_line(), git = git_head(host.scripts_dir) or "unknown", experiment = host.script or "none",
    experiment_sha256 = host.script and host.script ~= "-" and files.sha256(files.read(host.script) or "") or "none",
  }
  local before = files.read_data(path)
  for _, name in ipairs { "threads", "processor", "libtorch", "device" } do
    if before and before[name] ~= nil and before[name] ~= now[name] then
      check.warn("run", "%s was %s when '%s' was begun and is %s now: its last bits may differ.", name,
        tostring(before[name]), dir, tostring(now[name]))
    end
  end
  files.write_data(path, now)
end

return environment
