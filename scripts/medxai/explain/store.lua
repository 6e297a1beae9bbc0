-- The maps of a run on disk: maps/<method>-<8 hex>/<image id>.npy (on the input's grid), .raw.npy or .raw<k>.npy
-- (signed, on each layer's grid; under augmentation (views, h, w)), <image id>.<name>.npy for what else a method keeps,
-- and one line each in maps/index.jsonl with everything that made the map.
-- Written whole, one image at a time, the line last: what a crash leaves is complete or not mentioned. Processes that
-- share a step write their lines into maps/index-<worker>.jsonl until one of them puts all into index.jsonl. Records
-- stay in the files: of ten thousand maps only their places there are held in memory.
-- It refuses to overwrite a finished map.
local check = require "medxai.base.check"
local canon = require "medxai.base.json"
local file = require "medxai.file"
local files = require "medxai.base.files"
local torch = require "medxai.torch"

local Store = {}
Store.__index = Store

local mapstore = {}

local function key_of(record) return record.maps .. "/" .. record.image_id end

local function line_at(path, at)
  local f <close> = assert(io.open(path, "rb"))
  f:seek("set", at)
  return f:read "l"
end

-- Where a record stands. An index of another process' may have been put into index.jsonl since it was read.
local function place_of(store, key)
  if store.paths[key] and not files.exists(store.paths[key]) then store:look() end
  return store.paths[key] or store.index, store.places[key]
end

-- store.records["set/image id"]: read from its index when it is asked for.
local function lazy_records(store)
  return setmetatable({}, { __index = function(_, key)
    local path, at = place_of(store, key)
    return at and canon.read(line_at(path, at), path) or nil
  end })
end

-- Notes where the records of an index stand. A map that index.jsonl has is not another's: there it was put already.
local function note(store, path)
  local is_main, at = path == store.index, 0
  for number, line in ipairs((files.lines(path))) do
    local record = canon.read(line, path .. ":" .. number)
    local key = key_of(record)
    if is_main or not store.places[key] or store.paths[key] or store.failed[key] then
      store.places[key], store.paths[key] = at, not is_main and path or nil
      store.failed[key] = record.status == "failed" or nil
    end
    at = at + #line + 1
  end
end

-- The indexes that index.jsonl does not hold yet.
local function own_indexes(store)
  local list = {}
  for _, name in ipairs(files.list(store.dir .. "/maps")) do
    if name:find "^index%-.+%.jsonl$" then list[#list + 1] = store.dir .. "/maps/" .. name end
  end
  return list
end

--- Opens the maps of a run folder; a torn last line of an index is left out.
---@param dir string
---@param worker? string this process' name where it shares the folder: what it adds stands in an index of its own
function mapstore.open(dir, worker)
  local store = setmetatable({ dir = dir, index = dir .. "/maps/index.jsonl", worker = worker }, Store)
  store.own = worker and dir .. "/maps/index-" .. worker .. ".jsonl" or store.index
  store.records = lazy_records(store)
  store:look()
  return store
end

--- Reads the indexes again: other processes may have added to them.
function Store:look()
  self.places, self.paths, self.failed = {}, {}, {}
  note(self, self.index)
  for _, path in ipairs(own_indexes(self)) do note(self, path) end
end

--- Puts all processes' lines into index.jsonl: for the one that has the run's folder, once nobody adds any more.
---@param keys string[] "set/image id" in the order in which they come; what else there is follows
function Store:merge(keys)
  local indexes = own_indexes(self)
  if #indexes == 0 then return end
  for _, path in ipairs(indexes) do note(self, path) end
  files.repair_lines(self.index)
  local lines, at = {}, files.size(self.index) or 0
  local function move(key)
    if not self.paths[key] then return end
    lines[#lines + 1] = line_at(self.paths[key], self.places[key])
    self.places[key], self.paths[key], at = at, nil, at + #lines[#lines] + 1
  end
  local others = check.sorted_keys(self.paths)
  for _, key in ipairs(keys) do move(key) end
  for _, key in ipairs(others) do move(key) end
  if #lines > 0 then files.append(self.index, table.concat(lines, "\n") .. "\n") end
  for _, path in ipairs(indexes) do files.remove(path) end
end

--- Removes the index of this process, where others have put all together and finished: what it has added since, before
--- it saw that its work had been taken over, they have made as well.
function Store:forget()
  if self.worker then file.remove(self.own) end
end

--- The finished record of an image in a set, nil where it has to be made (a failed one is made again).
function Store:find(set, image_id)
  local record = self.records[set .. "/" .. image_id]
  if not record or record.status == "failed" then return nil end
  for _, name in ipairs(record.files) do
    if not files.exists(self.dir .. "/" .. name) then return nil end
  end
  return record
end

-- Where the next line of this process comes: at first a torn one is cut off. Others may have moved what stood there.
local function own_bytes(self)
  if not self.is_repaired then files.repair_lines(self.own) end
  self.is_repaired = true
  return files.size(self.own) or 0
end

--- Adds one map. record needs maps (the set) and image_id; map and raws may be nil (failed, not defined).
---@param record table
---@param map any tensor (H, W) on the CPU
---@param raws any[] tensors (h, w) or (views, h, w) on the CPU
---@param arrays? table<string, any> tensors on the CPU by name; record.arrays gets their files
function Store:add(record, map, raws, arrays)
  if self:find(record.maps, record.image_id) then
    check.fail("explain", "the map %s/%s is there already.", record.maps, record.image_id)
  end
  record.files = canon.list {}
  local folder = "maps/" .. record.maps
  files.mkdir(self.dir .. "/" .. folder)
  local function put(name, tensor)
    torch.save_npy(self.dir .. "/" .. folder .. "/" .. name, tensor)
    record.files[#record.files + 1] = folder .. "/" .. name
  end
  if map then
    put(record.image_id .. ".npy", map)
    for k, raw in ipairs(raws) do
      put(record.image_id .. (#raws == 1 and ".raw.npy" or string.format(".raw%d.npy", k)), raw)
    end
  end
  for _, name in ipairs(check.sorted_keys(arrays or {})) do
    record.arrays = record.arrays or {}
    put(record.image_id .. "." .. name .. ".npy", arrays[name])
    record.arrays[name] = record.files[#record.files]
  end
  local key, at = key_of(record), own_bytes(self)
  files.append_line(self.own, canon.write(record))
  self.places[key], self.paths[key] = at, self.worker and self.own or nil
  self.failed[key] = record.status == "failed" or nil
  return record
end

--- The map (H, W) of a record, nil where the method failed.
function Store:map(record)
  if not record.files[1] then return nil end
  return torch.load_npy(self.dir .. "/" .. record.files[1])
end

--- The raw maps of a record, one per layer: (h, w), or (views, h, w) under augmentation.
function Store:raws(record)
  local out = {}
  for _, name in ipairs(record.files) do
    if name:find("%.raw%d*%.npy$") then out[#out + 1] = torch.load_npy(self.dir .. "/" .. name) end
  end
  return out
end

--- What a method kept beside its map under that name; nil where it kept nothing.
function Store:array(record, name)
  local path = record.arrays and record.arrays[name]
  return path and torch.load_npy(self.dir .. "/" .. path) or nil
end

return mapstore
