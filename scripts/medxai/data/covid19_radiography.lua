-- COVID-19 Radiography Database (Chowdhury et al. 2020, Rahman et al. 2021): <class>/images/*.png of 299 px and
-- <class>/masks/*.png of 256 px, lung masks of the same names, which are stretched to their image. The authors gave
-- neither splits nor patients: images are drawn one by one.
local check = require "medxai.base.check"
local listing = require "medxai.data.listing"
local official = require "medxai.data.official"
local Options = require "medxai.base.options"

local what = "covid19_radiography"

local classes = { "COVID", "Lung_Opacity", "Normal", "Viral Pneumonia" }

local spec = official.spec { split = official.shares,
  mask_resize = { one_of = { "nearest", "bilinear" }, default = "nearest",
    doc = "how the masks of 256 px are stretched to their images of 299 px" } }

local function read(options)
  local o = Options.check(what, options, spec)
  local root, items = listing.root(what, o.root), {}
  for k, class in ipairs(classes) do
    local masks = {}
    for _, name in ipairs(listing.pictures(root .. "/" .. class .. "/masks")) do masks[name] = true end
    local pictures = listing.pictures(root .. "/" .. class .. "/images")
    if #pictures == 0 then
      check.fail(what, "no images in '%s/images' (%s).", class, listing.there(root .. "/" .. class))
    end
    for _, name in ipairs(pictures) do
      local mask = class .. "/masks/" .. name
      items[#items + 1] = { path = class .. "/images/" .. name, label = k - 1, lungs = masks[name] and mask or nil,
        lungs_wanted = mask }
    end
  end
  local drawn = official.draw_splits(what, items, o.split)
  return official.make { name = what, root = root, classes = { table.unpack(classes) }, items = items,
    masks = { "lungs" }, options = o, config = { split = drawn } }
end

return {
  doc = "COVID-19 Radiography Database: <class>/images and <class>/masks (lungs); splits are drawn per image.",
  options = spec,
  read = read,
}
