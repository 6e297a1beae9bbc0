-- Random changes of training images: a list of torchvision's transforms, { { "random_rotation", degrees = 10 }, ... },
-- in their order, with torchvision's names, defaults and meanings; or the few numbers of `short` below. The loader's
-- threads apply them to the prepared 8-bit picture, before mean and std (bindings/plain/augment.c). Values are checked
-- here and written out in full, so that two ways to write the same list are the same in a step's key and in model.json.
local check = require "medxai.base.check"
local Options = require "medxai.base.options"
local suggest = require "medxai.base.suggest"

local augment = {}

augment.short_default = { flip = 0, rotate_deg = 5, shift = 0.04, scale = 0.05, brightness = 0.1, contrast = 0.1 }

augment.short = {
  flip = { "number", default = 0, min = 0, max = 1, doc = "probability of a mirrored image" },
  rotate_deg = { "number", default = 0, min = 0, max = 180, unit = "degrees", doc = "largest rotation, either way" },
  shift = { "number", default = 0, min = 0, max = 1, doc = "largest shift, a share of the side" },
  scale = { "number", default = 0, min = 0, max = 1, doc = "largest change of size, below 1" },
  brightness = { "number", default = 0, min = 0, max = 1, doc = "largest change of the brightness" },
  contrast = { "number", default = 0, min = 0, max = 1, doc = "largest change of the contrast" },
}

-- ---- values ----

local function wrong(what, key, expected, got)
  check.fail(what, "option '%s' is wrong (expected %s, got %s).", key, expected, got)
end

local function shown(v)
  if type(v) ~= "table" then return tostring(v) end
  local parts = {}
  for i = 1, #v do parts[i] = tostring(v[i]) end
  return "{ " .. table.concat(parts, ", ") .. " }"
end

local function within(v, least, most) return type(v) == "number" and v >= least and v <= most end

-- The list of `n` numbers, all from least to most.
local function is_list(v, n, least, most)
  if type(v) ~= "table" or #v ~= n then return false end
  for i = 1, n do
    if not within(v[i], least, most) then return false end
  end
  return true
end

-- A range { lowest, highest }; from_number makes one of a single number.
local function range(expected, least, most, from_number)
  return function(what, key, v)
    local pair = v
    if type(v) == "number" and from_number and v >= 0 then pair = from_number(v) end
    if not (is_list(pair, 2, least, most) and pair[1] <= pair[2]) then wrong(what, key, expected, shown(v)) end
    return { pair[1] + 0.0, pair[2] + 0.0 }
  end
end

local function both_ways(v) return { -v, v } end
local function around_one(v) return { math.max(0, 1 - v), 1 + v } end
local function same(v) return { v, v } end

local tiny, huge = 1e-6, 1e6
local degrees = range("a number of degrees or { lowest, highest }", -huge, huge, both_ways)
local factor = range("a number or { lowest, highest }, none below 0", 0, huge, around_one)
local ratio = range("{ lowest, highest }, both above 0", tiny, huge)
local share = range("{ lowest, highest }, above 0 and at most 1", tiny, 1)

local function shear(what, key, v)
  local list = v
  if type(v) == "number" then list = { -v, v, 0, 0 } end
  if type(list) == "table" and #list == 2 then list = { list[1], list[2], 0, 0 } end
  if not (is_list(list, 4, -89, 89) and list[1] <= list[2] and list[3] <= list[4]) then
    wrong(what, key, "a number of degrees, { lowest, highest } of x, or those of x and then of y, at most 89", shown(v))
  end
  return { list[1] + 0.0, list[2] + 0.0, list[3] + 0.0, list[4] + 0.0 }
end

local function color(what, key, v)
  local list = type(v) == "number" and { v, v, v } or v
  if not is_list(list, 3, 0, 1) then
    wrong(what, key, "a number from 0, black, to 1, white, or three, of red, green and blue", shown(v))
  end
  return { list[1] + 0.0, list[2] + 0.0, list[3] + 0.0 }
end

local function two(expected, least, most)
  return function(what, key, v)
    if not is_list(v, 2, least, most) then wrong(what, key, expected, shown(v)) end
    return { v[1] + 0.0, v[2] + 0.0 }
  end
end

local function kernel(what, key, v, size)
  local pair = type(v) == "number" and same(v) or v
  for i = 1, 2 do
    local k = type(pair) == "table" and #pair == 2 and math.tointeger(pair[i])
    if not (k and k % 2 == 1 and k >= 1 and k // 2 < size) then
      wrong(what, key, ("odd pixels, one number or width and height, at most %d"):format(2 * size - 1), shown(v))
    end
  end
  return { math.tointeger(pair[1]), math.tointeger(pair[2]) }
end

-- ---- transforms ----

local function p(default) return { "number", default = default, min = 0, max = 1, doc = "probability" } end
local function interpolation(default)
  return { one_of = { "nearest", "bilinear" }, default = default, doc = "between pixels" }
end
local numbers = "number|table"
local fill = { numbers, default = 0, to = color, doc = "of what comes from outside, 0 to 1" }
local center = { "table", to = two("x and y in pixels", -huge, huge), doc = "x and y, default: the middle" }
local function jitter(what)
  return { numbers, default = 0, to = factor, doc = "change of the " .. what .. ": factors 1 - v to 1 + v, or a range" }
end
local size_is_kept = "The picture keeps its size, size_px."

-- name -> its options; `to` checks a value and writes it out in full
augment.transforms = {
  random_horizontal_flip = { p = p(0.5) },
  random_vertical_flip = { p = p(0.5) },
  random_rotation = {
    degrees = { numbers, required = true, to = degrees, doc = "against the clock, -d to d or a range" },
    interpolation = interpolation "nearest", fill = fill, center = center, expand = { instead = size_is_kept },
  },
  random_affine = {
    degrees = { numbers, required = true, to = degrees, doc = "with the clock, -d to d or a range" },
    translate = { "table", to = two("two shares from 0 to 1", 0, 1), doc = "largest shifts, shares of the sides" },
    scale = { "table", to = range("{ lowest, highest }, both above 0", tiny, huge), doc = "range of the size" },
    shear = { numbers, to = shear, doc = "degrees: of x, a range of x, or ranges of x and y" },
    interpolation = interpolation "nearest", fill = fill, center = center,
  },
  random_resized_crop = {
    scale = { "table", default = { 0.08, 1 }, to = share, doc = "range of the share of the area" },
    ratio = { "table", default = { 3 / 4, 4 / 3 }, to = ratio, doc = "range of width by height" },
    interpolation = interpolation "bilinear", size = { instead = size_is_kept },
  },
  color_jitter = {
    brightness = jitter "brightness", contrast = jitter "contrast", saturation = jitter "saturation",
    hue = { instead = "Hues are not changed; X-rays have none." },
  },
  gaussian_blur = {
    kernel_size = { numbers, required = true, to = kernel, unit = "px", doc = "odd; or width and height" },
    sigma = { numbers, default = { 0.1, 2 }, unit = "px", doc = "range of the deviation",
      to = range("a number or { lowest, highest }, above 0", tiny, huge, same) },
  },
  random_erasing = {
    p = p(0.5),
    scale = { "table", default = { 0.02, 0.33 }, to = share, doc = "range of the share of the area" },
    ratio = { "table", default = { 0.3, 3.3 }, to = ratio, doc = "range of height by width" },
    value = { numbers, default = 0, to = color, doc = "what is written, 0 to 1, before mean and std" },
  },
}

local function transform_of(what, i, given, size)
  local names = check.sorted_keys(augment.transforms)
  local name = type(given) == "table" and (given[1] or given.name)
  if type(name) ~= "string" then
    check.fail(what, "transform %d is wrong (expected { \"random_rotation\", degrees = 10 } or the like, got %s).", i,
      check.describe(given))
  end
  local spec = augment.transforms[name]
  if not spec then
    check.fail(what, "there is no transform '%s' (expected %s).%s", name, table.concat(names, ", "),
      suggest.hint(name, names))
  end
  local options = {}
  for key, value in pairs(given) do
    if not (key == 1 and given[1] == name) and key ~= "name" then options[key] = value end
  end
  what = what .. ": " .. name
  local made = Options.check(what, options, spec)
  for key, rule in pairs(spec) do
    if rule.to and made[key] ~= nil then made[key] = rule.to(what, key, made[key], size) end
  end
  made.name = name
  return made
end

--- What a dataset's option `augment` says, checked and written out in full: nil, the few numbers of augment.short, or a
--- list of transforms, each with its name.
---@param reader string named in errors
---@param value boolean|table
---@param size integer side of the picture in pixels
function augment.of(reader, value, size)
  local what = reader .. ": augment"
  if value == false then return nil end
  if value == true then return augment.short_default end
  if #value > 0 then
    local list = {}
    for key in pairs(value) do
      if math.type(key) ~= "integer" or key < 1 or key > #value then
        check.fail(what, "a list of transforms takes no option '%s'. Write it inside of the transform's braces.", key)
      end
    end
    for i, given in ipairs(value) do list[i] = transform_of(what, i, given, size) end
    return list
  end
  local a = Options.check(what, value, augment.short)
  if a.scale >= 1 then
    check.fail(what, "option 'scale' is too large (expected less than 1, got %s).", a.scale)
  end
  return a
end

--- The same for the native loader, whose colors are bytes.
function augment.native(made)
  if not made or #made == 0 then return made end
  local list = {}
  for i, one in ipairs(made) do
    local own = {}
    for key, value in pairs(one) do own[key] = value end
    local shade = one.fill or one.value
    own.fill = shade and { shade[1] * 255, shade[2] * 255, shade[3] * 255 }
    list[i] = own
  end
  return list
end

return augment
