-- The frozen part in front of a training, computed once: its outputs for every image of a split, shared by all
-- trainings with the same cut, weights and data, in memory or in a memory-mapped file under a byte budget, checked by a
-- hash. The cut is the set of values that pass from the layers that neither change nor draw random numbers into the
-- rest. It refuses, and says why, where the frozen part is not deterministic: batch norms that update, dropout,
-- augmentation.
local canon = require "medxai.base.json"
local check = require "medxai.base.check"
local core = require "medxai.core"
local files = require "medxai.base.files"
local memory = require "medxai.base.memory"
local host = require "medxai.host"
local precisions = require "medxai.train.precision"
local Progress = require "medxai.base.progress"
local torch = require "medxai.torch"
local work = require "medxai.nn.macs"

local prefix = {}

local least_share = 0.02 -- of the forward pass: less is not worth its memory

-- ---- the cut --------------------------------------------------------------------------------------------------------

-- Reason the node is not cacheable, or nil. `fixed` says it of the nodes before it.
local function obstacle(model, def, id, fixed)
  for _, slot in ipairs(def.reads[id] or {}) do
    if def.slots[slot].kind == "parameter" and model._state:requires_grad(slot) then return "trained" end
  end
  local _, op, inputs = def.native:node(id)
  for _, input in ipairs(inputs) do
    if not fixed[input] then return "after" end
  end
  if def.kinds[id] == "function" then return "a Lua function may draw" end
  if def.kinds[id] ~= "mode" or model:stays_in_eval(def.nodes[id]) then return nil end
  if op == "batch_norm" then return "its batch norms update their statistics (frozen = 'train')" end
  if def.chances[id] == 0 then return nil end
  return "it draws (" .. (op == "drop_path" and "stochastic depth" or "dropout") .. ")"
end

--- Where the frozen part of a model ends: { names = values that cross, slots = its tensors }, or nil and why there is
--- none.
---@param model medxai.Model
---@return table|nil cut
---@return string|nil why
function prefix.cut(model)
  local def, fixed, crossing, slots, why = model._def, {}, {}, {}, nil
  for id = 1, #def.nodes do
    local _, op, inputs = def.native:node(id)
    local problem = op ~= "input" and obstacle(model, def, id, fixed) or nil
    fixed[id] = not problem
    if fixed[id] then
      for _, slot in ipairs(def.reads[id] or {}) do slots[slot] = true end
    else
      if problem ~= "trained" and problem ~= "after" then why = why or ("'" .. def.nodes[id] .. "': " .. problem) end
      for _, input in ipairs(inputs) do -- what no image has a part in is computed anew, and is no row of a cache
        if fixed[input] and not (def.batches and def.batches[input].dim < 0) then crossing[input] = true end
      end
    end
  end
  for _, id in ipairs(model._both) do
    if fixed[id] then return nil, "nothing is trained" end
  end
  if crossing[1] then return nil, why or "the first layer is trained" end
  for id in pairs(crossing) do
    local batch = def.batches and def.batches[id]
    if batch and (batch.dim ~= 0 or batch.per_image ~= 1) then
      return nil, "'" .. def.nodes[id] .. "': it does not have one image per row"
    end
  end
  local cut = { names = {}, slots = check.sorted_keys(slots) }
  for _, id in ipairs(check.sorted_keys(crossing)) do cut.names[#cut.names + 1] = def.nodes[id] end
  if #cut.slots == 0 then return nil, why or "nothing is frozen" end
  return cut, why
end

-- ---- what is cached -------------------------------------------------------------------------------------------------

---@class medxai.Prefix the cached outputs of one cut over the train and val splits of one data set
local Prefix = {}
Prefix.__index = Prefix

-- One split's share of it: a matrix with a row per image. Training in bfloat16 reads what bfloat16 gives, validation
-- float32.
local Part = {}
Part.__index = Part

-- The hash of all that determines the cached numbers.
local function key_of(model, cut, data, run, precision)
  local scope <close> = core.memory.scope() -- luacheck: ignore
  local stream = core.image.sha256_stream()
  for _, slot in ipairs(cut.slots) do
    local t = model._state:get(slot):detach():cpu():contiguous()
    stream:update(model._def.slots[slot].name):update(t)
    t:close()
  end
  local splits = {}
  for _, name in ipairs { "train", "val" } do splits[name] = run:describe_split(data[name]) end
  return canon.hash { weights = stream:hex(), cut = canon.list(cut.names), network = model.name, layout = model.layout,
    dtype = model.dtype, splits = splits, engine = model.engine, libtorch = core.tensor.torch_version(),
    device = model.device:match "^%a+", precision = precision, form = 3 }
end

-- The values at the cut, without autograd.
local function outputs_of(part, x)
  local function forward()
    return torch.no_grad(function() return part.model:forward { x = x, outputs = part.cut.names } end)
  end
  return precisions.run(part.precision, part.model.device, forward)
end

-- Finds shapes and dtypes of one image's values, how many numbers they are, and the dtype that holds them all.
local function measure(part)
  local scope <close> = core.memory.scope() -- luacheck: ignore
  local model = part.model
  local values = outputs_of(part, part.split:batch({ 1 }).x:to { device = model.device, dtype = model.dtype })
  part.shapes, part.dtypes, part.numbers, part.dtype = {}, {}, 0, nil
  for i, name in ipairs(part.cut.names) do
    local shape = { table.unpack(values[name].shape, 2) }
    local n = 1
    for _, size in ipairs(shape) do n = n * size end
    part.shapes[i], part.dtypes[i], part.numbers = shape, values[name].dtype, part.numbers + n
    -- holds bfloat16 exactly
    part.dtype = (part.dtype == nil or part.dtype == values[name].dtype) and values[name].dtype or "float32"
  end
  part.bytes = part.split.n * part.numbers * ({ float64 = 8, float32 = 4, bfloat16 = 2 })[part.dtype]
end

-- A value as it is stored: (N, C, h, w) as rows of channels last.
local function to_rows(t, dtype)
  local rows = t:dim() == 4 and t:permute { 0, 2, 3, 1 } or t
  return rows:reshape({ t:size(0), -1 }):to { dtype = dtype, device = "cpu" }
end

-- Computes every image once, in the split's order, and hands over one matrix (images, numbers) a batch.
local function compute(part, batch, take)
  local model = part.model
  local training = model:is_training()
  model:train()
  local restore <close> = setmetatable({}, { __close = function() if not training then model:eval() end end })
  local bar <close> = Progress.new("frozen part, " .. part.split.name, part.split.n)
  local loader <close> = part.split:loader { batch = batch, channels_last = model.layout == "channels_last" }
  repeat
    local scope <close> = core.memory.scope() -- luacheck: ignore
    local images = loader:next()
    if images then
      local values, parts = outputs_of(part, images.x:to { dtype = model.dtype, device = model.device }), {}
      for i, name in ipairs(part.cut.names) do parts[i] = to_rows(values[name], part.dtype) end
      take(#parts == 1 and parts[1] or torch.cat(parts, 1))
      bar:add(images.x:size(0))
    end
    if host.interrupted() then error("interrupted", 0) end
  until not images
end

local function make_in_memory(part, batch)
  part.stored = core.memory.unscoped(function()
    return torch.empty({ part.split.n, part.numbers }, { dtype = part.dtype, device = part.device })
  end)
  local at = 0
  compute(part, batch, function(rows)
    part.stored:narrow(0, at, rows:size(0)):copy_(rows)
    at = at + rows:size(0)
  end)
end

-- A read-only mapping of a finished file.
local function map_file(part, path)
  part.stored = core.memory.unscoped(function()
    return torch.from_file(path, { shared = false, size = part.split.n * part.numbers, dtype = part.dtype }):view {
      part.split.n, part.numbers }
  end)
end

-- A file that an earlier or another process has made, if it is whole.
local function reuse_file(part, path, key)
  local facts = files.read_data(path .. ".json")
  if not facts or facts.key ~= key or files.size(path) ~= part.bytes then return false end
  map_file(part, path)
  if core.image.sha256_stream():update(part.stored):hex() == facts.sha256 then return true end
  check.warn("grid", "the cache '%s' is damaged: it is made again.", path)
  part.stored:close()
  return false
end

-- Written through the system, not through a mapping: a full disk is an error then, not a signal.
local function write_part(part, path, batch)
  local f <close> = files.create(path)
  local hash = core.image.sha256_stream()
  compute(part, batch, function(rows)
    local contiguous = rows:contiguous()
    hash:update(contiguous)
    files.put(f, path, contiguous:data_string())
  end)
  return hash:hex()
end

local function make_file(part, path, key, batch, leases)
  files.mkdir(files.folder(path))
  local held <close> = leases:wait("cache-" .. path:match "([^/]+)%.bin$") -- luacheck: ignore (held, not read)
  if reuse_file(part, path, key) then return end
  local sha256 = write_part(part, path .. ".part", batch)
  files.rename(path .. ".part", path)
  files.write_data(path .. ".json", { key = key, sha256 = sha256, bytes = part.bytes,
    values = canon.list(part.cut.names) })
  map_file(part, path)
end

local live -- the cache of this process: one at a time, as cells with the same cut follow one another

--- Frees the cache of this process.
function prefix.release()
  for _, part in pairs(live and live.parts or {}) do
    if part.stored then part.stored:close() end
  end
  live = nil
end

local function new_cache(model, data, cut, key, precision)
  local self = setmetatable({ key = key, parts = {}, bytes = 0, images = 0 }, Prefix)
  for _, name in ipairs { "train", "val" } do
    local part = setmetatable({ split = data[name], model = model, cut = cut,
      precision = name == "train" and precision or "float32" }, Part)
    measure(part)
    self.parts[data[name]], self.bytes, self.images = part, self.bytes + part.bytes, self.images + part.split.n
  end
  return self
end

local function fill(self, data, options)
  -- on a GPU where it fits beside the training
  local device = self.parts[data.train].model.device
  local on_gpu = device ~= "cpu" and self.bytes <= core.device.free_bytes() / 3
  for _, part in pairs(self.parts) do part.device = on_gpu and device or "cpu" end
  local in_memory = on_gpu
    or self.bytes <= math.min(options.cache_mb * (1 << 20), (memory.available() or 2 << 30) / 2)
  for _, name in ipairs { "train", "val" } do
    local part = self.parts[data[name]]
    if in_memory then make_in_memory(part, options.batch)
    else
      make_file(part, files.join(options.folder, self.key:sub(1, 16) .. "-" .. name .. ".bin"), self.key, options.batch,
        options.leases)
    end
  end
  return in_memory
end

--- The cached outputs of a model's frozen part for the train and val splits, made where they are not there yet.
---@param model medxai.Model
---@param data medxai.Dataset
---@param run table for describe_split
---@param options { cache_mb: number, cache_file_mb: number, folder: string, batch: integer, precision: string }
---@return medxai.Prefix|nil
---@return string how, or why not: for the cell's record
function prefix.open(model, data, run, options)
  local cut, why = prefix.cut(model)
  if not cut then return nil, why end
  if data.augment then return nil, "the images are augmented" end
  local share = work.share(model, cut.names)
  if share < least_share then return nil, why or string.format("it is only %.1f %% of the work", 100 * share) end
  local key = key_of(model, cut, data, run, options.precision)
  if live and live.key == key then
    for _, part in pairs(live.parts) do part.model = model end
    return live, live.how
  end
  prefix.release()
  local self = new_cache(model, data, cut, key, options.precision)
  local mb = self.bytes / (1 << 20)
  if mb > options.cache_file_mb and mb > options.cache_mb then
    return nil, string.format("its outputs take %.0f MB (cache_mb = %.0f, cache_file_mb = %.0f)", mb, options.cache_mb,
      options.cache_file_mb)
  end
  live = self
  local in_memory = fill(self, data, options)
  self.how = string.format("%s of %d images, %.0f MB %s", table.concat(cut.names, ", "), self.images, mb,
    in_memory and "in memory" or "in a file")
  return self, self.how
end

-- ---- batches --------------------------------------------------------------------------------------------------------

local Source = {}
Source.__index = Source

-- Rows (N, numbers) as the network's values.
local function to_values(part, rows)
  local values, at, model = {}, 0, part.model
  for i, name in ipairs(part.cut.names) do
    local shape, n = part.shapes[i], 1
    for _, size in ipairs(shape) do n = n * size end
    local value = n == part.numbers and rows or rows:narrow(1, at, n)
    if #shape == 3 then
      value = value:reshape { rows:size(0), shape[2], shape[3], shape[1] }:permute { 0, 3, 1, 2 }
      value = model.layout == "channels_last" and value or value:contiguous()
    else
      value = value:reshape { rows:size(0), table.unpack(shape) }
    end
    values[name] = value:to { device = model.device, dtype = part.dtypes[i] }
    at = at + n
  end
  return values
end

--- The next batch { values =, y =, index = }, or nil.
function Source:next()
  if self.at > #self.order then return nil end
  local last = math.min(self.at + self.batch - 1, #self.order)
  if self.drop_last and last - self.at + 1 < self.batch then return nil end
  local places, rows, labels = {}, {}, {}
  for k = self.at, last do
    local place = self.order[k]
    places[#places + 1], rows[#rows + 1], labels[#labels + 1] = place, place - 1, self.part.split:label(place)
  end
  self.at = last + 1
  local stored = self.part.stored
  local picked = stored:index_select(0, torch.tensor(rows, { dtype = "int64" }):to { device = stored.device })
  return { values = to_values(self.part, picked), y = torch.tensor(labels, { dtype = "int64" }), index = places }
end

function Source.close() end
Source.__close = Source.close

--- Batches of cached values, as a loader gives batches of images.
---@param split medxai.Split train or val of the data that it was made of
---@param options { batch: integer, order?: integer[], drop_last?: boolean }
function Prefix:source(split, options)
  local order = options.order
  if not order then
    order = {}
    for i = 1, split.n do order[i] = i end
  end
  local batches = (#order + (options.drop_last and 0 or options.batch - 1)) // options.batch
  return setmetatable({ part = self.parts[split], order = order, batch = options.batch, drop_last = options.drop_last,
    at = 1, batches = batches, wait_seconds = 0.0 }, Source)
end

--- Logits, and those of an auxiliary branch in training, from cached values.
function Prefix.logits(_, model, values)
  local names = model:output_names()
  local out = model:forward { base = values, outputs = names }
  return out[names[1]], names[2] and out[names[2]] or nil
end

return prefix
