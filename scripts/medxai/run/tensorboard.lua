-- TensorBoard event files: scalars, pictures and text of a run, in TFRecord framing (length, masked CRC32C, payload,
-- masked CRC32C), with protobuf messages written here. After resuming, a new file begins with a start mark at the next
-- step, so that TensorBoard drops what it had read beyond it and curves do not overlap. metrics.jsonl is the record of
-- a run; these files only show it.
local check = require "medxai.base.check"
local files = require "medxai.base.files"

local events = {}

-- ---- CRC32C (Castagnoli), reflected ---------------------------------------------------------------------------------

local crc_table = {}
for i = 0, 255 do
  local c = i
  for _ = 1, 8 do c = c & 1 == 1 and (c >> 1) ~ 0x82f63b78 or c >> 1 end
  crc_table[i] = c
end

local function crc32c(bytes)
  local c = 0xffffffff
  for i = 1, #bytes do c = crc_table[(c ~ bytes:byte(i)) & 0xff] ~ (c >> 8) end
  return c ~ 0xffffffff
end

-- TFRecord's mask: rotated right by 15, plus a constant.
local function masked_crc(bytes)
  local c = crc32c(bytes)
  return ((c >> 15 | c << 17) + 0xa282ead8) & 0xffffffff
end

--- One record as it stands in the file.
---@param payload string
function events.record(payload)
  local length = string.pack("<I8", #payload)
  return length .. string.pack("<I4", masked_crc(length)) .. payload .. string.pack("<I4", masked_crc(payload))
end

-- ---- protobuf -------------------------------------------------------------------------------------------------------

local function varint(n)
  local out = {}
  repeat
    local low = n & 0x7f
    n = n >> 7
    out[#out + 1] = string.char(n ~= 0 and low | 0x80 or low)
  until n == 0
  return table.concat(out)
end

local function bytes_field(number, bytes) return varint(number << 3 | 2) .. varint(#bytes) .. bytes end
local function int_field(number, n) return varint(number << 3) .. varint(n) end
local function float_field(number, v) return varint(number << 3 | 5) .. string.pack("<f", v) end
local function double_field(number, v) return varint(number << 3 | 1) .. string.pack("<d", v) end

local function event(time, step, rest) return double_field(1, time) .. (step and int_field(2, step) or "") .. rest end

local function summary(value) return bytes_field(5, bytes_field(1, value)) end

--- The first event of a file.
function events.version(time) return event(time, nil, bytes_field(3, "brain.Event:2")) end

--- Drops everything from `step` on that an earlier file of the folder holds.
function events.start(time, step) return event(time, step, bytes_field(7, int_field(1, 1))) end

function events.scalar(time, step, tag, value)
  return event(time, step, summary(bytes_field(1, tag) .. float_field(2, value)))
end

--- png: the bytes of a PNG.
function events.image(time, step, tag, png)
  local width, height = string.unpack(">I4I4", png, 17)
  return event(time, step,
    summary(bytes_field(1, tag) .. bytes_field(4, int_field(1, height) .. int_field(2, width) .. int_field(3, 3)
      .. bytes_field(4, png))))
end

function events.text(time, step, tag, text)
  -- a string tensor of shape (1)
  local tensor = int_field(1, 7) .. bytes_field(2, bytes_field(2, int_field(1, 1))) .. bytes_field(8, text)
  local metadata = bytes_field(1, bytes_field(1, "text"))
  return event(time, step, summary(bytes_field(1, tag .. "/text_summary") .. bytes_field(8, tensor)
    .. bytes_field(9, metadata)))
end

-- ---- a file ---------------------------------------------------------------------------------------------------------

---@class medxai.Events
local Events = {}
Events.__index = Events

local opened = 0

--- A new event file in a folder; after `last` steps that earlier files hold, what they hold beyond is dropped.
---@param folder string
---@param last? integer
---@return medxai.Events
function events.open(folder, last)
  opened = opened + 1
  local host_name = (files.read("/proc/sys/kernel/hostname") or "localhost"):match "^[%w%-%.]+" or "localhost"
  local name = string.format("events.out.tfevents.%010d.%s.%d.%d", os.time(), host_name, require("medxai.file").pid(),
    opened)
  local self = setmetatable({ path = files.join(folder, name), parts = {} }, Events)
  local first = #files.list(folder) == 0
  self:add(events.version(os.time() + 0.0))
  if not first then self:add(events.start(os.time() + 0.0, (last or 0) + 1)) end
  return self
end

function Events:add(payload) self.parts[#self.parts + 1] = events.record(payload) end

--- Hands what was added to the system.
function Events:flush()
  if #self.parts == 0 then return end
  files.append(self.path, table.concat(self.parts))
  self.parts = {}
end

local scalars = { { "loss/train", "train_loss" }, { "loss/val", "val_loss" }, { "accuracy/train", "train_accuracy" },
  { "accuracy/val", "val_accuracy" }, { "lr", "lr" } }

--- The numbers of an epoch (a record of metrics.jsonl).
function Events:epoch(record)
  local time = os.time() + 0.0
  for _, s in ipairs(scalars) do
    if record[s[2]] then self:add(events.scalar(time, record.epoch, s[1], record[s[2]])) end
  end
  for _, name in ipairs(check.sorted_keys(record.logged or {})) do
    self:add(events.scalar(time, record.epoch, "own/" .. name, record.logged[name]))
  end
  self:flush()
end

--- A PNG file as a picture.
function Events:picture(step, tag, path)
  local png = files.read(path)
  if not png or png:sub(2, 4) ~= "PNG" then check.fail("events", "'%s' is no PNG.", path) end
  self:add(events.image(os.time() + 0.0, step, tag, png))
  self:flush()
end

--- A text, shown as Markdown.
function Events:text(step, tag, text)
  self:add(events.text(os.time() + 0.0, step, tag, text))
  self:flush()
end

return events
