-- The maps of a run on disk: maps/<method>-<8 hex>/<image id>.npy (on the input's grid), .raw.npy or .raw<k>.npy
-- (signed, on each layer's grid; under augmentation (views, h, w)), <image id>.<name>.npy for what else a method keeps,
-- and one line each in maps/index.jsonl with everything that made the map.
-- Written whole, one image at a time, the line last: what a crash leaves is complete or not mentioned. Records stay in
-- the file: of ten thousand maps only their places in it are held in memory.
-- It refuses to overwrite a finished map.
local check = require "medxai.base.check"
local canon = require "medxai.base.json"
local files = require "medxai.base.files"
local torch = require "medxai.torch"

local Store = {}
Store.__index = Store

local mapstore = {}

-- store.records["set/image id"]: read from the index when it is asked for.
local function lazy_records(store)
  return setmetatable({}, { __index = function(_, key)
    local at = store.places[key]
    if not at then return nil end
    local f <close> = assert(io.open(store.index, "rb"))
    f:seek("set", at)
    return canon.read(f:read "l", store.index)
  end })
end

--- Opens the maps of a run folder; a torn last line of the index is left out.
---@param dir string
function mapstore.open(dir)
  local store = setmetatable({ dir = dir, index = dir .. "/maps/index.jsonl", places = {}, bytes = 0 }, Store)
  files.repair_lines(store.index)
  for number, line in ipairs((files.lines(store.index))) do
    local record = canon.read(line, store.index .. ":" .. number)
    store.places[record.maps .. "/" .. record.image_id] = store.bytes
    store.bytes = store.bytes + #line + 1
  end
  store.records = lazy_records(store)
  return store
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
  local line = canon.write(record)
  files.append_line(self.index, line)
  self.places[record.maps .. "/" .. record.image_id] = self.bytes
  self.bytes = self.bytes + #line + 1
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
