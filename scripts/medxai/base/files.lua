-- Files as this library writes them: whole or not at all, synced, with the folder made when missing; lines appended to
-- a log; logs read back with a torn last line skipped. What the system refuses is an error that names the path and the
-- reason; what was on the disk before stays as it was.
local check = require "medxai.base.check"
local file = require "medxai.file"
local host = require "medxai.host"

local files = {}

local advice = {
  ENOSPC = "Make room on that disk and run again; what was written before is whole.",
  EDQUOT = "Make room on that disk and run again; what was written before is whole.",
  EFBIG = "Raise the file size limit (ulimit -f) and run again; what was written before is whole.",
  EACCES = "Give --out a folder that you may write.",
  EROFS = "Give --out a folder that you may write.",
}

--- Raises what the system said, with what to do about it.
function files.refuse(message, code)
  check.fail("files", "%s.%s", message, advice[code] and " " .. advice[code] or "")
end
local refuse = files.refuse

local function must(result, message, code)
  if result == nil then refuse(message, code) end
  return result
end

--- The folder part of a path, or nil.
function files.folder(path)
  return path:match("^(.+)/[^/]*$")
end

--- Joins path parts with one slash.
function files.join(...)
  return (table.concat({ ... }, "/"):gsub("//+", "/"))
end

--- Makes a folder and its parents.
function files.mkdir(path)
  must(file.mkdir(path))
end

--- Writes a whole file: a temporary name, synced, renamed. The folder is made when missing.
---@param path string
---@param bytes string
function files.write(path, bytes)
  local folder = files.folder(path)
  if folder then files.mkdir(folder) end
  must(file.write(path, bytes))
end

--- Appends one line and hands it to the system; `synced` also waits for the disk.
---@param path string
---@param line string without its newline
---@param synced? boolean
function files.append_line(path, line, synced)
  local folder = files.folder(path)
  if folder then files.mkdir(folder) end
  local done, message, code = file.append(path, line .. "\n", synced or false)
  if done == nil then refuse(message, code) end
end

--- Appends bytes to a file.
function files.append(path, bytes)
  local folder = files.folder(path)
  if folder then files.mkdir(folder) end
  local done, message, code = file.append(path, bytes, false)
  if done == nil then refuse(message, code) end
end

--- A file's bytes, or nil where there is none.
---@return string|nil
function files.read(path)
  local bytes, message, code = file.read(path)
  if bytes == nil and code ~= "ENOENT" and code ~= "ENOTDIR" then refuse(message, code) end
  return bytes
end

--- The complete lines of a file (none where it is absent). A last line without newline was torn by a crash: it is left
--- out.
---@return string[] lines
---@return integer bytes how many bytes those lines take
function files.lines(path)
  local bytes, lines, at = files.read(path) or "", {}, 1
  while true do
    local stop = bytes:find("\n", at, true)
    if not stop then return lines, at - 1 end
    lines[#lines + 1] = bytes:sub(at, stop - 1)
    at = stop + 1
  end
end

--- Cuts off a last line that a crash has torn, so that the next one is not glued to it.
function files.repair_lines(path)
  local bytes = files.size(path)
  if not bytes then return end
  local _, whole = files.lines(path)
  if bytes > whole then must(file.truncate(path, whole)) end
end

function files.exists(path)
  return file.stat(path) ~= nil
end

function files.is_folder(path)
  local stat = file.stat(path)
  return stat ~= nil and stat.kind == "folder"
end

--- A file's size in bytes, or nil where there is none.
function files.size(path)
  local stat = file.stat(path)
  return stat and stat.bytes
end

--- Names in a folder, sorted; empty where there is none.
function files.list(path)
  return file.list(path) or {}
end

--- Removes a file if it is there.
function files.remove(path)
  local done, message, code = file.remove(path)
  if done == nil and code ~= "ENOENT" and code ~= "ENOTDIR" then refuse(message, code) end
end

--- Removes a folder with all it holds, if it is there.
function files.remove_all(path)
  if files.is_folder(path) then
    for _, name in ipairs(files.list(path)) do
      if name ~= "." and name ~= ".." then files.remove_all(path .. "/" .. name) end
    end
  end
  files.remove(path)
end

--- Removes what processes that were killed in the middle of a whole write have left in a folder: of this machine and
--- container those that are gone, of others what is a week old.
function files.tidy(path) must(file.tidy(path)) end

--- Takes the lock of a path, or returns nil where another process holds it. Closing it (or leaving its scope) gives it
--- back.
function files.lock(path)
  local folder = files.folder(path)
  if folder then files.mkdir(folder) end
  local lock, message, code = file.lock(path)
  if lock == nil and code ~= "EAGAIN" and code ~= "EACCES" then refuse(message, code) end
  return lock
end

--- Writes a file, whole, where there is none of that name. Of several processes exactly one succeeds.
---@return boolean whether this one did
function files.first(path, bytes)
  local folder = files.folder(path)
  if folder then files.mkdir(folder) end
  local done, message, code = file.first(path, bytes)
  if done == nil and code ~= "EEXIST" then refuse(message, code) end
  return done == true
end

--- Waits; a signal ends it early.
function files.sleep(seconds)
  host.sleep(seconds)
  if host.interrupted() then error("interrupted", 0) end
end

--- Takes a lock, waiting as long as another process holds it.
function files.wait_lock(path)
  local lock = files.lock(path)
  while not lock do
    files.sleep(0.2)
    lock = files.lock(path)
  end
  return lock
end

--- Gives a file another name, in the place of what has that name.
function files.rename(from, to) must(file.rename(from, to)) end

--- Opens a new file for writing; files.put writes to it.
function files.create(path)
  local f, message = io.open(path, "wb")
  if not f then check.fail("files", "cannot write %s.", message) end
  return f
end

--- Writes bytes to a file that files.create opened.
function files.put(f, path, bytes)
  local done, message = f:write(bytes)
  if done then done, message = f:flush() end
  if not done then check.fail("files", "cannot write '%s' (%s). %s", path, message, advice.ENOSPC) end
end

-- ---- canonical data on disk --------------------------------------------------------------------------------------

--- Writes a plain value as canonical text, one value per line.
function files.write_data(path, value)
  files.write(path, require("medxai.base.json").write(value, "  ") .. "\n")
end

--- Reads what write_data wrote; nil where there is no file. A damaged file is an error that names it.
function files.read_data(path)
  local text = files.read(path)
  if not text then return nil end
  return require("medxai.base.json").read(text, path)
end

--- Every whole record of a file of JSON lines. Torn or empty last lines are skipped; a bad line inside is an error.
---@return table[]
function files.records(path)
  local canon = require "medxai.base.json"
  local records = {}
  for number, line in ipairs((files.lines(path))) do
    if line:find("%S") then records[#records + 1] = canon.read(line, path .. ":" .. number) end
  end
  return records
end

-- ---- hashes -------------------------------------------------------------------------------------------------------

--- SHA-256 of bytes, 64 hex digits.
---@param bytes string
---@return string
function files.sha256(bytes)
  return require("medxai.core").image.sha256(bytes)
end

local digests = {} -- path, size and time of change -> digest

--- SHA-256 of a file, 64 hex digits; remembered while the file is the same.
---@param path string
---@return string
function files.sha256_file(path)
  local stat = file.stat(path)
  local key = stat and path .. "\0" .. stat.bytes .. "\0" .. stat.mtime
  if key and digests[key] then return digests[key] end
  local digest, why = require("medxai.core").image.sha256_file(path)
  if not digest then check.fail("files", "%s.", why) end
  if key then digests[key] = digest end
  return digest
end

return files
