-- What the viewer shows of a run's explain steps: small pictures that the steps leave in pictures/, one per image as
-- the network sees it, and the maps of maps/.
-- It refuses to show a map without its picture: images of runs made before there were pictures are left out.
local core = require "medxai.core"
local files = require "medxai.base.files"
local map = require "medxai.explain.map"
local mapstore = require "medxai.explain.store"

local album = {}

local SIDE, QUALITY = 256, 90 -- of the pictures

local function picture_path(dir, image_id) return dir .. "/pictures/" .. image_id .. ".jpg" end

--- Writes the pictures of images that have none yet.
---@param dir string the run folder
---@param images { id: string, pixels: fun(): any }[] pixels: (3, H, W) in [0, 1]
function album.save_pictures(dir, images)
  for _, image in ipairs(images) do
    local path = picture_path(dir, image.id)
    if not files.exists(path) then
      local scope <close> = core.memory.scope() -- luacheck: ignore
      local x = image.pixels():mul(255):round():clamp(0, 255):to { dtype = "uint8" }:permute({ 1, 2, 0 }):contiguous()
      local share = math.min(1, SIDE / math.max(x:size(0), x:size(1)))
      local small = core.image.resize(x, math.max(1, math.floor(x:size(1) * share + 0.5)),
        math.max(1, math.floor(x:size(0) * share + 0.5)))
      files.mkdir(dir .. "/pictures")
      files.write(path, core.image.encode(small, QUALITY))
    end
  end
end

-- The raw values that 0 and 1 of a map stand for, where the map is a straight line of them (one layer, nothing
-- averaged).
local function raw_range(record, shown, raws)
  if #raws == 0 or shown:dim() ~= 2 then return nil end
  local strength = map.strength(raws, shown:size(0), shown:size(1), record.views)
  local low, high = strength:min():item(), strength:max():item()
  if not (high > low) or (shown * (high - low) + low - strength):abs():max():item() > 0.01 * high then return nil end
  return { low, high }
end

local function sentence(record)
  local t = record.target or {}
  local confidence = t.confidence and (" %.2f"):format(t.confidence) or ""
  return ("predicted %s%s; map for %s"):format(t.predicted or "?", confidence, t.class or tostring(t.index or "?"))
end

local function about(record)
  local words = { "label " .. (record.label or "unknown") }
  if record.patient ~= "unknown" then words[#words + 1] = "patient " .. record.patient end
  if record.source ~= "unknown" then words[#words + 1] = "source " .. record.source end
  return table.concat(words, ", ")
end

-- Images and methods of all steps, in their order; a method that several steps share once.
local function gather(dir, store, steps, most)
  local images, methods, seen, left_out = {}, {}, {}, 0
  for _, step in ipairs(steps) do
    for _, s in ipairs(step.result.statuses or {}) do
      if s.maps and not seen[s.maps] then
        methods[#methods + 1], seen[s.maps] = { set = s.maps, label = s.label or s.method }, true
      end
    end
    for _, id in ipairs(step.fields.images or {}) do
      if not seen["image " .. id] and files.exists(picture_path(dir, id)) then
        seen["image " .. id] = true
        if #images < most then images[#images + 1] = { id = id } else left_out = left_out + 1 end
      end
    end
  end
  for _, image in ipairs(images) do
    for _, m in ipairs(methods) do
      local record = not image.text and store.records[m.set .. "/" .. image.id]
      if record then image.text, image.name = about(record), tostring(record.path or image.id):match "[^/\\]+$" end
    end
    image.id, image.key = image.name or image.id, image.id
  end
  return images, methods, left_out
end

--- The album of a run's explain steps.
---@param dir string the run folder
---@param steps table[] finished explain steps: { fields = { images }, result = { statuses } }
---@param options { most: integer, network: string? } most images; the network's name
---@return medxai.Album
---@return integer images that were left out
function album.of_run(dir, steps, options)
  local store = mapstore.open(dir)
  local images, methods, left_out = gather(dir, store, steps, options.most)
  local names = {}
  for i, m in ipairs(methods) do names[i] = m.label end
  return {
    images = images, networks = { options.network or "this run's network" }, methods = names,
    picture = function(i) return (core.image.load(picture_path(dir, images[i].key))) end,
    map = function(i, _, m)
      local record = store.records[methods[m].set .. "/" .. images[i].key]
      if not record then return nil, { note = "not explained by this method" } end
      local note = record.status ~= "ok" and map.explain_status(record.status) or nil
      local made = store:map(record)
      if not made then return nil, { text = sentence(record), note = note } end
      return made, { text = sentence(record), note = note,
        raw = record.status == "ok" and raw_range(record, made, store:raws(record)) or nil }
    end,
  }, left_out
end

return album
