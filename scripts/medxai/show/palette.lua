-- Color scales: 768 bytes each, 256 RGB colors from the low to the high end.
-- inferno (default over images: its low end is black, so that it tints nothing), viridis and diverging are perceptually
-- even; jet is OpenCV's, exactly, for comparison with older figures. diverging runs from blue to red, diverging_r from
-- red to blue.
local check = require "medxai.base.check"

local palette = {}

local function to_bytes(color_at)
  local out = {}
  for i = 0, 255 do
    local rgb = color_at(i)
    for c = 1, 3 do rgb[c] = math.max(0, math.min(255, math.floor(rgb[c] + 0.5))) end
    out[#out + 1] = string.char(rgb[1], rgb[2], rgb[3])
  end
  return table.concat(out)
end

-- Sixth-degree fit of viridis (van der Walt and Smith 2015), fit by M. Zucker, public domain; within 1.2 % of the
-- table.
local viridis_fit = {
  { 0.2777273272234177, 0.1050930431085774, -0.3308618287255563, -4.634230498983486, 6.228269936347081,
    4.776384997670288, -5.435455855934631 },
  { 0.005407344544966578, 1.404613529898575, 0.214847559468213, -5.799100973351585, 14.17993336680509,
    -13.74514537774601, 4.645852612178535 },
  { 0.3340998053353061, 1.384590162594685, 0.09509516302823659, -19.33244095627987, 56.69055260068105,
    -65.35303263337234, 26.3124352495832 },
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

-- inferno (van der Walt and Smith 2015, CC0), matplotlib's table.
local inferno_table = table.concat {
  "00000401000501010601010802010a02020c02020e03021004031204031405041706041907051b08051d09061f0a07220b0724",
  "0c08260d08290e092b10092d110a30120a32140b34150b37160b39180c3c190c3e1b0c411c0c431e0c451f0c48210c4a230c4c",
  "240c4f260c51280b53290b552b0b572d0b592f0a5b310a5c320a5e340a5f3609613809623909633b09643d09653e0966400a67",
  "420a68440a68450a69470b6a490b6a4a0c6b4c0c6b4d0d6c4f0d6c510e6c520e6d540f6d550f6d57106e59106e5a116e5c126e",
  "5d126e5f136e61136e62146e64156e65156e67166e69166e6a176e6c186e6d186e6f196e71196e721a6e741a6e751b6e771c6d",
  "781c6d7a1d6d7c1d6d7d1e6d7f1e6c801f6c82206c84206b85216b87216b88226a8a226a8c23698d23698f2469902568922568",
  "9326679526679727669827669a28659b29649d29649f2a63a02a63a22b62a32c61a52c60a62d60a82e5fa92e5eab2f5ead305d",
  "ae305cb0315bb1325ab3325ab43359b63458b73557b93556ba3655bc3754bd3853bf3952c03a51c13a50c33b4fc43c4ec63d4d",
  "c73e4cc83f4bca404acb4149cc4248ce4347cf4446d04545d24644d34743d44842d54a41d74b3fd84c3ed94d3dda4e3cdb503b",
  "dd513ade5238df5337e05536e15635e25734e35933e45a31e55c30e65d2fe75e2ee8602de9612bea632aeb6429eb6628ec6726",
  "ed6925ee6a24ef6c23ef6e21f06f20f1711ff1731df2741cf3761bf37819f47918f57b17f57d15f67e14f68013f78212f78410",
  "f8850ff8870ef8890cf98b0bf98c0af98e09fa9008fa9207fa9407fb9606fb9706fb9906fb9b06fb9d07fc9f07fca108fca309",
  "fca50afca60cfca80dfcaa0ffcac11fcae12fcb014fcb216fcb418fbb61afbb81dfbba1ffbbc21fbbe23fac026fac228fac42a",
  "fac62df9c72ff9c932f9cb35f8cd37f8cf3af7d13df7d340f6d543f6d746f5d949f5db4cf4dd4ff4df53f4e156f3e35af3e55d",
  "f2e661f2e865f2ea69f1ec6df1ed71f1ef75f1f179f2f27df2f482f3f586f3f68af4f88ef5f992f6fa96f8fb9af9fc9dfafda1",
  "fcffa4",
}

local function inferno(i)
  local rgb = {}
  for c = 1, 3 do rgb[c] = tonumber(inferno_table:sub(6 * i + 2 * c - 1, 6 * i + 2 * c), 16) end
  return rgb
end

-- OpenCV's COLORMAP_JET in closed form.
local function jet(i)
  local r, g, b = 0, 0, 0
  if i == 96 then r = 2 elseif i > 96 and i <= 158 then r = 6 + 4 * (i - 97) elseif i == 159 then r = 254
  elseif i >= 160 and i <= 223 then r = 255 elseif i >= 224 then r = 252 - 4 * (i - 224) end
  if i >= 33 and i <= 95 then g = 4 * (i - 32) elseif i >= 96 and i <= 159 then g = 255
  elseif i >= 160 and i <= 222 then g = 252 - 4 * (i - 160) end
  if i <= 31 then
    b = 128 + 4 * i
  elseif i <= 95 then
    b = 255
  elseif i <= 158 then
    b = 254 - 4 * (i - 96)
  elseif i == 159 then
    b = 1
  end
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
  diverging_r = function(i) return diverging(255 - i) end,
  gray = function(i) return { i, i, i } end,
  inferno = inferno,
  jet = jet,
  viridis = viridis,
  -- for counts: white to dark blue, even in lightness
  blues = function(i) return lab_to_srgb(98 - 68 * i / 255, 4 * i / 255, -45 * i / 255) end,
}

palette.names = { "inferno", "viridis", "jet", "diverging", "diverging_r", "gray", "blues" }

local made = {}

--- The bytes of one scale.
---@param name string one of palette.names
---@return string bytes 768 bytes
function palette.get(name)
  if not makers[name] then
    check.fail("figure", "unknown colors '%s'. Choose one of %s.", tostring(name), table.concat(palette.names, ", "))
  end
  made[name] = made[name] or to_bytes(makers[name])
  return made[name]
end

--- The color at a position of a scale.
---@param name string
---@param at number 0 to 1
---@return integer color 0xRRGGBB
function palette.at(name, at)
  local i = math.floor(255 * math.max(0, math.min(1, at)))
  local r, g, b = palette.get(name):byte(3 * i + 1, 3 * i + 3)
  return r << 16 | g << 8 | b
end

return palette
