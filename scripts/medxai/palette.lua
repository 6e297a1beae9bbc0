-- Colour scales: 768 bytes each, 256 RGB colours from the low to the high end.
-- viridis (default) and diverging are perceptually even; jet is OpenCV's, exactly, for comparison with older figures.
-- It refuses to know what is drawn with them.
local check = require "medxai.check"

local palette = {}

local function to_bytes(colour_at)
  local out = {}
  for i = 0, 255 do
    local rgb = colour_at(i)
    for c = 1, 3 do rgb[c] = math.max(0, math.min(255, math.floor(rgb[c] + 0.5))) end
    out[#out + 1] = string.char(rgb[1], rgb[2], rgb[3])
  end
  return table.concat(out)
end

-- Sixth-degree fit of viridis (van der Walt and Smith 2015), fit by M. Zucker, public domain; within 1.2 % of the table.
local viridis_fit = {
  { 0.2777273272234177, 0.1050930431085774, -0.3308618287255563, -4.634230498983486, 6.228269936347081, 4.776384997670288, -5.435455855934631 },
  { 0.005407344544966578, 1.404613529898575, 0.214847559468213, -5.799100973351585, 14.17993336680509, -13.74514537774601, 4.645852612178535 },
  { 0.3340998053353061, 1.384590162594685, 0.09509516302823659, -19.33244095627987, 56.69055260068105, -65.35303263337234, 26.3124352495832 },
}

local function viridis(i)
  local rgb = {}
  for c, fit in ipairs(viridis_fit) do
    local v = 0
    for k = #fit, 1, -1 do v = v * (i / 255) + fit[k] end
    rgb[c] = 255 * v
  end
  return rgb
end

-- OpenCV's COLORMAP_JET in closed form.
local function jet(i)
  local r, g, b = 0, 0, 0
  if i == 96 then r = 2 elseif i > 96 and i <= 158 then r = 6 + 4 * (i - 97) elseif i == 159 then r = 254
  elseif i >= 160 and i <= 223 then r = 255 elseif i >= 224 then r = 252 - 4 * (i - 224) end
  if i >= 33 and i <= 95 then g = 4 * (i - 32) elseif i >= 96 and i <= 159 then g = 255
  elseif i >= 160 and i <= 222 then g = 252 - 4 * (i - 160) end
  if i <= 31 then b = 128 + 4 * i elseif i <= 95 then b = 255 elseif i <= 158 then b = 254 - 4 * (i - 96) elseif i == 159 then b = 1 end
  return { r, g, b }
end

-- Blue, white, red with even steps of lightness on both arms: straight lines in CIE Lab from (32, 28, -70) over
-- (97, 0, 0) to (40, 62, 42), converted to sRGB (D65).
local function lab_to_srgb(l, a, b)
  local fy = (l + 16) / 116
  local function inverse(f) return f > 6 / 29 and f ^ 3 or 3 * (6 / 29) ^ 2 * (f - 4 / 29) end
  local x, y, z = 0.95047 * inverse(fy + a / 500), inverse(fy), 1.08883 * inverse(fy - b / 200)
  local function gamma(v)
    v = math.max(0, math.min(1, v))
    return 255 * (v <= 0.0031308 and 12.92 * v or 1.055 * v ^ (1 / 2.4) - 0.055)
  end
  return {
    gamma(3.2406 * x - 1.5372 * y - 0.4986 * z),
    gamma(-0.9689 * x + 1.8758 * y + 0.0415 * z),
    gamma(0.0557 * x - 0.2040 * y + 1.0570 * z),
  }
end

local function diverging(i)
  local at = (i - 127.5) / 127.5 -- -1 .. 1
  local s = math.abs(at)
  if at < 0 then return lab_to_srgb(97 - 65 * s, 28 * s, -70 * s) end
  return lab_to_srgb(97 - 57 * s, 62 * s, 42 * s)
end

local makers = {
  diverging = diverging,
  grey = function(i) return { i, i, i } end,
  jet = jet,
  viridis = viridis,
  -- for counts: white to dark blue, even in lightness
  blues = function(i) return lab_to_srgb(98 - 68 * i / 255, 4 * i / 255, -45 * i / 255) end,
}

palette.names = { "viridis", "jet", "diverging", "grey", "blues" }

local made = {}

--- The bytes of one scale.
---@param name string one of palette.names
---@return string bytes 768 bytes
function palette.get(name)
  if not makers[name] then
    check.fail("figure", "unknown colours '%s'. Choose one of %s.", tostring(name), table.concat(palette.names, ", "))
  end
  made[name] = made[name] or to_bytes(makers[name])
  return made[name]
end

--- The colour at a position of a scale.
---@param name string
---@param at number 0 to 1
---@return integer colour 0xRRGGBB
function palette.at(name, at)
  local i = math.floor(255 * math.max(0, math.min(1, at)))
  local r, g, b = palette.get(name):byte(3 * i + 1, 3 * i + 3)
  return r << 16 | g << 8 | b
end

return palette
