-- Writes PNG files of any kind of samples, uncompressed: what image.save does not write, alpha and 16 bits.
local png = {}

local function chunk(body)
  local crc = 0xffffffff
  for i = 1, #body do
    crc = crc ~ body:byte(i)
    for _ = 1, 8 do crc = crc & 1 == 1 and 0xedb88320 ~ crc >> 1 or crc >> 1 end
  end
  return string.pack(">I4", #body - 4) .. body .. string.pack(">I4", ~crc & 0xffffffff)
end

local channels = { [0] = 1, [2] = 3, [4] = 2, [6] = 4 }

--- The bytes of a PNG (at most 65535 bytes of samples).
---@param width integer
---@param height integer
---@param kind integer 0 gray, 2 color, 4 gray and alpha, 6 color and alpha
---@param bits integer 8 or 16
---@param sample fun(x: integer, y: integer, channel: integer): integer all from 0
function png.bytes(width, height, kind, bits, sample)
  local rows, form = {}, bits == 16 and ">I2" or "B"
  for y = 0, height - 1 do
    rows[#rows + 1] = "\0"
    for x = 0, width - 1 do
      for c = 0, channels[kind] - 1 do rows[#rows + 1] = string.pack(form, sample(x, y, c)) end
    end
  end
  local raw, a, b = table.concat(rows), 1, 0
  for i = 1, #raw do
    a = (a + raw:byte(i)) % 65521
    b = (b + a) % 65521
  end
  local data = "\x78\1\1" .. string.pack("<I2I2", #raw, ~#raw & 0xffff) .. raw .. string.pack(">I4", b << 16 | a)
  return "\x89PNG\r\n\x1a\n" .. chunk("IHDR" .. string.pack(">I4I4BB", width, height, bits, kind) .. "\0\0\0")
    .. chunk("IDAT" .. data) .. chunk "IEND"
end

return png
