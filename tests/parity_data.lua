-- Pictures as the network gets them against Pillow and torchvision's rules, with MEDXAI_PICTURES_DIR = what
-- `tests/reference/resize.py --all DIR` wrote here and MEDXAI_JPEG_DIR = what `jpeg.py --all DIR XRAYS` wrote
-- (skipped without them). All must be equal in every byte. Mutants that must fail: a crop one pixel off, red and blue
-- exchanged, a resize without antialiasing.
local t = require "t"
local torch = require "medxai.torch"
local xai = require "medxai"
local image = require("medxai.core").image

local dir = os.getenv "MEDXAI_PICTURES_DIR"

local function difference(got, want)
  if got:dim() == 3 and want:dim() == 2 then got = got:squeeze(2) end
  t.equal(got.shape, want.shape)
  return got:to("int64"):sub(want:to("int64")):abs():max():item()
end

local function mutants(path, resize, size, want)
  local x = image.load(path)
  local found = {}
  if x:size(2) == 3 then found.exchanged = image.fit(x:flip({ 2 }):contiguous(), resize, size) end
  if resize > size then
    local wide = image.fit(x, resize, size + 1)
    found.shifted = wide[{ { 0, size }, { 0, size } }]:contiguous()
    if difference(found.shifted, want) == 0 then
      found.shifted = wide[{ { 1, size + 1 }, { 1, size + 1 } }]:contiguous()
    end
  end
  if x:size(0) > 2 * resize then found.aliased = image.fit(x, resize, size, "nearest") end
  for name, made in pairs(found) do
    if difference(made, want) == 0 then error(("the mutant '%s' passes on %s"):format(name, path)) end
  end
end

t.test("every picture equals Pillow's", function()
  if not dir then t.skip "MEDXAI_PICTURES_DIR is not set" end
  local count, worst = { fit = 0, exact = 0, jpeg = 0 }, { fit = 0, exact = 0, jpeg = 0 }
  for line in io.lines(dir .. "/index.txt") do
    local scope <close> = xai.scope()
    local kind, file, npy, resize, size = line:match "^(%S+) (%S+) (%S+) ?(%d*) ?(%d*)$"
    local want = torch.load_npy(dir .. "/" .. npy)
    local got
    if kind == "fit" then
      resize, size = tonumber(resize), tonumber(size)
      got = xai.dataset.files { paths = dir .. "/" .. file, resize_px = resize, size_px = size }.test:pixels(1)
      mutants(dir .. "/" .. file, resize, size, want)
    else
      got = image.load(dir .. "/" .. file)
    end
    count[kind], worst[kind] = count[kind] + 1, math.max(worst[kind], difference(got, want))
  end
  print(("  resize and crop: %d cells, largest difference %d; PNG: %d, %d; JPEG: %d, %d")
    :format(count.fit, worst.fit, count.exact, worst.exact, count.jpeg, worst.jpeg))
  t.equal(worst, { fit = 0, exact = 0, jpeg = 0 })
  t.ok(count.fit >= 70 and count.jpeg >= 50)
end)

t.test("every kind of JPEG equals Pillow's, and what Pillow refuses is refused", function()
  local folder = os.getenv "MEDXAI_JPEG_DIR"
  if not folder then t.skip "MEDXAI_JPEG_DIR is not set" end
  local count, different = 0, {}
  for line in io.lines(folder .. "/digests.txt") do
    local scope <close> = xai.scope()
    local file, want = line:match "^(%S+) (%S+)$"
    local ok, x = pcall(image.load, folder .. "/" .. file)
    count = count + 1
    if (ok and image.digest(x) or "refused") ~= want then different[#different + 1] = file end
  end
  print(("  JPEG of every kind: %d files, %d different"):format(count, #different))
  t.equal(different, {})
  t.ok(count > 2000)
end)
