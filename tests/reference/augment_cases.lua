-- Cases for tests/data_augment.lua and augment.py: lists of transforms, how near torchvision must be, and the picture.
-- Run as an experiment (medxai-run tests/reference/augment_cases.lua) it writes what is drawn for each to
-- tests/reference/augment/drawn.json, from which augment.py makes torchvision's pictures.
local cases = { size = 24, channels = 3, seed = 5, epoch = 2 }

function cases.picture()
  local bytes = {}
  for y = 0, 23 do
    for x = 0, 23 do
      for k = 1, 3 do bytes[#bytes + 1] = string.char((x * 7 + y * 5 * k + x * y // k) % 256) end
    end
  end
  return table.concat(bytes)
end

-- { transform, off = largest difference in steps of 1/255 }
cases.list = {
  { { "random_horizontal_flip", p = 1 }, off = 0 },
  { { "random_vertical_flip", p = 1 }, off = 0 },
  { { "random_rotation", degrees = 30 }, off = 0 },
  { { "random_rotation", degrees = { 20, 40 }, interpolation = "bilinear", fill = { 0.2, 0.4, 0.6 } }, off = 1 },
  { { "random_rotation", degrees = { 20, 40 }, center = { 3, 7 }, fill = 1 }, off = 0 },
  { { "random_affine", degrees = 15, translate = { 0.2, 0.3 }, scale = { 0.7, 1.3 }, shear = { -9, 9, -20, 20 } },
    off = 0 },
  { { "random_affine", degrees = 15, translate = { 0.2, 0.3 }, scale = { 0.7, 1.3 }, shear = 20, center = { 10, 5 },
    interpolation = "bilinear" }, off = 1 },
  { { "random_resized_crop" }, off = 0 },
  { { "random_resized_crop", scale = { 0.2, 0.5 }, ratio = { 0.5, 2 }, interpolation = "nearest" }, off = 0 },
  { { "random_resized_crop", scale = { 1, 1 }, ratio = { 2, 3 } }, off = 0 },
  { { "color_jitter", brightness = 0.5 }, off = 0 },
  { { "color_jitter", contrast = { 0.3, 1.7 } }, off = 1 },
  { { "color_jitter", brightness = 0.4, contrast = 0.4, saturation = 0.9 }, off = 1 },
  { { "gaussian_blur", kernel_size = 5 }, off = 1 },
  { { "gaussian_blur", kernel_size = { 7, 3 }, sigma = 1.3 }, off = 1 },
  { { "random_erasing", p = 1, value = { 1, 0, 0.4 } }, off = 0 },
}

--- What our own code makes of case i: bytes, and what was drawn.
function cases.made(i)
  local augment, loader = require "medxai.data.augment", require("medxai.core").loader
  local list = augment.native(augment.of("cases", { cases.list[i][1] }, cases.size))
  local bytes, drawn = loader.augmented(cases.picture(), cases.size, cases.channels, list, cases.seed, cases.epoch,
    "image" .. i)
  return bytes, drawn[1], list[1]
end

if not package.loaded.t then
  local rows = {}
  for i in ipairs(cases.list) do
    local _, drawn, transform = cases.made(i)
    drawn.happens = nil
    rows[i] = { transform = transform, drawn = drawn }
  end
  require("medxai.base.files").write("tests/reference/augment/drawn.json", require("medxai.base.json").write(rows, " "))
end
return cases
