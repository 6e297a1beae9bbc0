-- Phantoms: drawn from (seed, number) alone, classes that are there to see and masks that are true, markers at their
-- rates.
local t = require "t"
local xai = require "medxai"
local core = require "medxai.core"
local draw, digest = core.phantom.draw, core.image.digest

local function phantom(more)
  local o = { n_train = 30, n_val = 9, n_test = 9, size_px = 64 }
  for k, v in pairs(more or {}) do o[k] = v end
  return xai.dataset.phantom(o)
end

t.test("a picture depends on seed and number alone", function()
  local a = digest(draw({ size_px = 64, seed = 1 }, 5).image)
  t.equal(digest(draw({ size_px = 64, seed = 1 }, 5).image), a)
  t.ok(digest(draw({ size_px = 64, seed = 2 }, 5).image) ~= a
    and digest(draw({ size_px = 64, seed = 1 }, 6).image) ~= a)
  local data = phantom { seed = 1 }
  t.equal(digest(data.train:pixels(6)), a)
  t.equal(phantom { seed = 1, n_train = 3 }.val:item(3).id, data.train:item(6).id) -- number 5 in both
  t.ok(data.train:item(1).id ~= data.train:item(4).id)
end)

t.test("classes are as many, splits are apart, masks are where the dataset says", function()
  local data = phantom()
  t.equal({ data.classes, data.masks }, { { "clear", "nodule", "opacity" }, { "lungs", "lesion" } })
  local r = data:check()
  t.equal({ r.counts.train, #r.exact, r.near_count }, { { clear = 10, nodule = 10, opacity = 10, total = 30 }, 0, 0 })
  for i = 1, data.train.n do
    local label = data.train:item(i).label
    local lungs, lesion = data.train:mask(i, "lungs"):to("float32"), data.train:mask(i, "lesion"):to("float32")
    local share, part = lungs:mean():item(), lesion:mean():item()
    t.ok(share > 0.15 and share < 0.55, "lungs " .. share)
    if label == 0 then
      t.equal(part, 0.0)
    else
      t.ok(part > 0.002 and part < 0.15, data.classes[label + 1] .. " " .. part)
    end
    t.ok(lesion:mul(1 - lungs):sum():item() <= 0.1 * math.max(1, lesion:sum():item()), "a lesion outside the lungs")
  end
  t.fails(function() data.train:mask(1, "marker") end, "dataset: unknown mask 'marker'. Known: lungs, lesion.")
end)

t.test("a lesion is brighter than the lung about it, and overall brightness does not tell the class", function()
  local data = phantom { n_train = 90 }
  local means = { {}, {}, {} }
  local contrast = 0
  for i = 1, 90 do
    local scope <close> = xai.scope()
    local item = data.train.items[i]
    local x, lesion = data.train:batch({ i }).x[0][0], data.train:mask(i, "lesion"):to("float32")
    local lungs = data.train:mask(i, "lungs"):to("float32")
    table.insert(means[item.label + 1], x:mean():item())
    if item.label > 0 then
      local inside = x:mul(lesion):sum():item() / lesion:sum():item()
      local rest = lungs:mul(1 - lesion)
      contrast = contrast + inside - x:mul(rest):sum():item() / rest:sum():item()
    end
  end
  t.ok(contrast / 60 > 0.1)
  local function stats(list)
    local sum, squares = 0, 0
    for _, v in ipairs(list) do sum, squares = sum + v, squares + v * v end
    return sum / #list, math.sqrt(squares / #list - (sum / #list) ^ 2)
  end
  local m1, s1 = stats(means[1])
  for k = 2, 3 do
    local m = stats(means[k])
    t.ok(math.abs(m - m1) < s1, "class means apart by more than a deviation")
  end
end)

t.test("a marker comes at its rate in every class, in any corner, and its mask is its box", function()
  local data = phantom { n_train = 150, marker = 0.6 }
  t.equal(data.masks, { "lungs", "lesion", "marker" })
  local count, corners = { 0, 0, 0 }, {}
  for i = 1, 150 do
    local mask = data.train:mask(i, "marker")
    local ys = mask:amax { 1 }:nonzero():flatten():tolist()
    if #ys > 0 then
      local xs = mask:amax { 0 }:nonzero():flatten():tolist()
      t.equal(mask:sum():item(), #ys * #xs)
      local label = data.train.items[i].label + 1
      count[label] = count[label] + 1
      corners[(ys[1] < 32 and "top " or "bottom ") .. (xs[1] < 32 and "left" or "right")] = true
      t.ok(data.train:pixels(i):squeeze(2):mul(mask):max():item() >= 250)
    end
  end
  for k = 1, 3 do t.ok(count[k] > 20 and count[k] < 41, "class " .. k .. " " .. count[k]) end
  t.equal(corners, { ["top left"] = true, ["top right"] = true, ["bottom left"] = true, ["bottom right"] = true })
  local one = phantom { marker = { rate = { nodule = 1 } } }
  for i = 1, 9 do t.equal(one.train:mask(i, "marker"):sum():item() > 0, one.train.items[i].label == 1) end
end)

t.test("marker options that make no sense are errors", function()
  t.fails(function() phantom { marker = 1.5 } end,
    "phantom: marker: the rate of class 'clear' is wrong (expected 0 to 1, got 1.5).")
  t.fails(function() phantom { marker = { rates = 1 } } end,
    "phantom: marker: unknown option 'rates'. Did you mean 'rate'?")
  t.fails(function() xai.dataset.phantom { n_train = 0, n_val = 0, n_test = 0 } end,
    "phantom: no images: n_train, n_val and n_test are all 0.")
  t.fails(function() phantom { size_px = 8 } end,
    "phantom: option 'size_px' is too small (expected at least 16, got 8).")
end)

t.test("input masking works on phantoms too", function()
  local plain, lungs, outside = phantom().train:pixels(2), phantom { input = "lungs_raw" }.train:pixels(2),
    phantom { input = "outside" }.train:pixels(2)
  t.equal(lungs:add(outside):equal(plain), true)
  t.equal(phantom { input = "lungs_raw" }.train:item(2).id, phantom().train:item(2).id)
end)
