-- Work over n things in chunks that fit a memory budget: a small first chunk tells how many bytes one thing takes, and
-- what does not fit after all is tried again by halves. With a fixed size nothing depends on memory, and nothing is
-- halved. Only out-of-memory is retried, with half the chunk.
local check = require "medxai.base.check"
local host = require "medxai.host"
local memory = require("medxai.core").memory

local chunks = {}

chunks.fixed = 8 -- with deterministic = true

local first_size = 2
local largest_cuda = 1024 -- the memory sets the limit before

--- The most things that are worth doing at once on a device, whatever the memory: on a CPU two a thread, 6 (an image's
--- views) to 16. More leave its caches (measured on 2 cores, images a second at 4 and at 16: MobileNet V2 203 and 162,
--- DenseNet-121 30 and 23, VGG-19 5.2 and 5.0).
---@param device string
function chunks.largest(device)
  if not device:find "^cpu" then return largest_cuda end
  return math.max(6, math.min(16, 2 * host.options.threads))
end

--- The bytes for chunks where nobody says them: 1 GiB, or half of what a GPU has left.
---@param device string
---@param mb? number as asked for
function chunks.budget(device, mb)
  if mb then return mb * (1 << 20) end
  local free = device:find "^cpu" and 0 or require("medxai.core").device.free_bytes()
  return math.max(1 << 30, free // 2)
end

function chunks.is_out_of_memory(problem)
  return type(problem) == "string" and problem:find("out of memory", 1, true) ~= nil
end

--- Runs f; the most bytes that it needed beyond what was alive before.
---@param device string
---@param f function
---@return integer bytes
function chunks.peak(device, f)
  local live, peak = "live_bytes", "peak_bytes"
  if device ~= "cpu" then live, peak = "cuda_live_bytes", "cuda_peak_bytes" end
  memory.reset_peak()
  local before = memory.stats()[live]
  f()
  return math.max(0, memory.stats()[peak] - before)
end

--- The bytes of one chunk of forward passes beyond which a CPU gains nothing (measured on 2 cores, VGG-19, ms an image
--- and peak MB at 1, 3 and 6 images, 40 MB each: 217, 198, 199; 90, 220, 450); nil on a GPU.
---@param device string
---@return integer?
function chunks.worth(device) return device:find "^cpu" and 128 << 20 or nil end

--- What chunks.each needs to know and learns; keep one for each kind of work.
---@param o table device, budget_bytes; deterministic: chunks of 8; chunk: a fixed size; most: never more at once;
---   worth_bytes: more of them do not pay;
---  what: for errors
function chunks.new(o)
  local device = o.device or "cpu"
  return { device = device, budget_bytes = math.min(o.budget_bytes, o.worth_bytes or o.budget_bytes),
    fixed = o.chunk or (o.deterministic and chunks.fixed) or nil,
    most = o.most or chunks.largest(device), what = o.what or "explain", looks_left = 2 }
end

-- f(first, count) in its own scope; on out of memory the halves.
local function halving(state, first, count, f)
  local ok, problem = pcall(f, first, count)
  if ok then return end
  if host.interrupted() then error("interrupted", 0) end
  if not chunks.is_out_of_memory(problem) or count == 1 then error(problem, 0) end
  if state.fixed then
    check.fail(state.what, "%d at once do not fit into memory and the chunk is fixed. Leave deterministic out. (%s)",
      count, problem)
  end
  memory.collect()
  state.size, state.looks_left = math.max(1, count // 2), 0
  halving(state, first, state.size, f)
  halving(state, first + count // 2, count - count // 2, f)
end

-- Runs a chunk and learns from it how many fit; twice, since the first one may fold batch norms besides.
local function look(state, first, count, f)
  local bytes = chunks.peak(state.device, function() halving(state, first, count, f) end)
  if state.looks_left == 0 then return end -- halved: that is the size
  state.looks_left = state.looks_left - 1
  state.bytes_each = math.min(state.bytes_each or math.huge, math.max(bytes, 1) / count)
  state.size = math.max(1, math.min(state.most, math.floor(state.budget_bytes / state.bytes_each)))
end

--- Calls f(first, count) until all of 0 .. n - 1 are done. f may keep what it makes; it may be called again for a part
--- of what failed for want of memory.
---@param state table from chunks.new
---@param n integer
---@param f fun(first: integer, count: integer)
function chunks.each(state, n, f)
  local at = 0
  while at < n do
    if host.interrupted() then error("interrupted", 0) end
    local count = math.min(n - at, state.fixed or state.size or first_size)
    if state.fixed or state.looks_left == 0 then halving(state, at, count, f) else look(state, at, count, f) end
    at = at + count
  end
end

--- The batch as it runs: padded with its last image to a fixed size (nil: as it is), so that the same operators run on
--- the same shapes.
function chunks.padded(x, size)
  local n = x:size(0)
  if not size or n >= size then return x end
  return require("medxai.torch").cat(
    { x, x:narrow(0, n - 1, 1):expand { size - n, x:size(1), x:size(2), x:size(3) } }, 0)
end

return chunks
