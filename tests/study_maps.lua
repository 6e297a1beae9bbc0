-- The frame shared by maps of several networks, their similarity, and which patient's map is compared with which.
local t = require "t"
local cells = require "medxai.steps.study_cells"
local csv = require "medxai.base.csv"
local frame = require "medxai.score.frame"
local likeness = require "medxai.score.study_similarity"
local similarity = require "medxai.stats.similarity"
local torch = require "medxai.torch"

-- A file of 20 x 10, shown whole at 10 x 5 of which the middle 6 x 5 is kept: columns 4 to 16 of the file.
local wide = { file = { 20, 10 }, resized = { 10, 5 }, crop = { 2, 0, 6, 5 } }
local whole = { file = { 20, 10 }, resized = { 20, 10 }, crop = { 0, 0, 20, 10 } }

t.test("the shared rectangle is what all crops show, in the file's pixels", function()
  t.equal(frame.crop(wide), { left = 4.0, top = 0.0, right = 16.0, bottom = 10.0 })
  local r = frame.shared { wide, whole, { file = { 20, 10 }, resized = { 40, 20 }, crop = { 10, 4, 20, 12 } } }
  t.equal({ r.left, r.top, r.right, r.bottom }, { 5.0, 2.0, 15.0, 8.0 })
  t.near(r.share, 10 * 6 / 200)
  t.fails(function() frame.shared { { file = { 20, 10 }, resized = { 20, 10 }, crop = { 0, 0, 5, 10 } },
    { file = { 20, 10 }, resized = { 20, 10 },
    crop = { 15, 0, 5, 10 } } } end, "study: the models' crops of an image have nothing in common.")
  t.fails(function() frame.shared { whole, { file = { 21, 10 }, resized = { 21, 10 }, crop = { 0, 0, 21, 10 } } } end,
    "study: a file is 20 x 10 for one model and 21 x 10 for another: they are not the same images.")
end)

t.test("a map's cells are means over their area in the file: the same picture through two crops gives the same cells",
  function()
  -- of the file: value = its column; the whole file at 20 px, and the crop at 6 px whose pixels are 2 columns wide
  local full, cut = {}, {}
  for y = 1, 10 do
    full[y] = {}
    for x = 1, 20 do full[y][x] = x - 0.5 end
  end
  for y = 1, 5 do
    cut[y] = {}
    for x = 1, 6 do cut[y][x] = 4 + 2 * x - 1 end
  end
  local rectangle = frame.shared { wide, whole }
  local a = frame.into(whole, rectangle, 10, 20, 4)(torch.tensor(full))
  local b = frame.into(wide, rectangle, 5, 6, 4)(torch.tensor(cut))
  t.near(a:tolist()[1], { 5.5, 8.5, 11.5, 14.5 }, 1e-12)
  t.near(a:select(0, 0):mean():item(), 10, 1e-12)
  -- a pixel that two cells share counts for each by its part: cell 1 is columns 4 to 7, pixels 4-6 (5) and half of 6-8
  -- (7)
  t.near(b:tolist()[3], { (5 * 2 + 7 * 1) / 3, (7 * 1 + 9 * 2) / 3, (11 * 2 + 13 * 1) / 3, (13 * 1 + 15 * 2) / 3 },
    1e-12)
  -- without the crop the cells would begin at the file's left border
  t.ok(math.abs(frame.into({ file = { 20, 10 }, resized = { 20, 10 }, crop = { 0, 0, 20, 10 } }, frame.crop(whole), 10,
    20, 4)(torch.tensor(full))
    :tolist()[1][1] - a:tolist()[1][1]) > 1)
end)

local function rows_of(list)
  local x <close> = torch.tensor(list, { dtype = "float32" })
  return setmetatable(likeness.prepare(x), { __close = function(p) p:close() end })
end

-- n maps as a cell keeps them: blobs and noise by formula, the last one constant.
local function made(n, change)
  local list = {}
  for i = 1, n do
    local row = {}
    for k = 1, 64 * 64 do
      local y, x = (k - 1) // 64, (k - 1) % 64
      row[k] = i == n and 0.5
        or math.exp(-((y - 20 - 3 * i) ^ 2 + (x - 30 + change * i) ^ 2) / 150)
          + 0.05 * math.sin(k * (0.37 + 0.01 * change))
    end
    for k = 1, 512 do row[4096 + k] = i == n and 0 or math.floor(10 * math.sin(k * (0.11 + 0.02 * i * change))) end
    list[i] = row
  end
  return list
end

local function cells_of(row)
  local out = {}
  for y = 0, 15 do
    for x = 0, 15 do
      local sum = 0.0
      for dy = 0, 3 do
        for dx = 0, 3 do sum = sum + string.unpack("f", string.pack("f", row[(4 * y + dy) * 64 + 4 * x + dx + 1])) end
      end
      out[#out + 1] = sum / 16
    end
  end
  return out
end

t.test("all pairs at once have the numbers of stats/similarity, ties and constant maps included", function()
  local one, two = made(4, 1), made(4, -2)
  local a <close> = rows_of(one)
  local b <close> = rows_of(two)
  local spearman, signed = likeness.compare(a, b, "spearman", "shown"), likeness.compare(a, b, "spearman", "signed")
  local top, ssim = likeness.compare(a, b, "top_tenth", "shown"), likeness.compare(a, b, "ssim", "shown")
  for i = 1, 3 do
    t.near(spearman[i], similarity.spearman(cells_of(one[i]), cells_of(two[i])), 1e-9)
    -- many ties
    t.near(signed[i], similarity.spearman(table.move(one[i], 4097, 4352, 1, {}), table.move(two[i], 4097, 4352, 1, {})),
      1e-9)
    t.near(top[i], similarity.top_overlap(cells_of(one[i]), cells_of(two[i])), 1e-9)
    -- float32 on disk
    t.near(ssim[i], similarity.ssim(table.move(one[i], 1, 4096, 1, {}), table.move(two[i], 1, 4096, 1, {}), 64, 64),
      1e-6)
  end
  for _, list in ipairs { spearman, signed, top, ssim } do t.ok(list[4] ~= list[4], "a number for a constant map") end
  local other <close> = torch.tensor({ 1, 2, 0, 3 }, { dtype = "int64" })
  t.near(likeness.compare(a, b, "spearman", "shown", other)[1], similarity.spearman(cells_of(one[1]), cells_of(two[2])),
    1e-9)
end)

local function image(id, patient, label) return { id = id, patient = patient, label = label, class = "c" .. label } end

t.test("strangers are other patients, of the same class where there are any, never the image itself", function()
  local images = { image("a", "p1", 0), image("b", "p1", 0), image("c", "p2", 0), image("d", "p3", 1),
    image("e", "unknown", 1), image("f", "unknown", 1),
    image("g", "p4", 2) }
  local lists = likeness.strangers_of(images)
  local function of(i)
    local out = {}
    for k = 1, likeness.strangers do
      if lists[k][i] >= 0 then out[#out + 1] = images[lists[k][i] + 1].id end
    end
    return table.concat(out, " ")
  end
  t.equal({ of(1), of(2), of(3) }, { "c", "c", "a b" })
  -- where no patient is known, every other image counts as another patient
  t.equal({ of(4), of(5), of(6) }, { "e f", "f d", "d e" })
  t.equal(of(7), "a b c d e") -- no other patient of its class
end)

t.test("a map is compared with one of another patient of the same class, within the block if possible", function()
  local images = {}
  for i = 1, 20 do images[i] = image("i" .. i, "p" .. i, i % 3) end
  images[4].patient = images[1].patient -- the next one of its class is the same patient
  local blocks = cells.blocks(images, 20, 1)
  t.equal({ #blocks, #blocks[1].images, #blocks[2].images, blocks[2].images[1] }, { 2, 16, 4, 17 })
  for _, block in ipairs(blocks) do
    for _, i in ipairs(block.images) do
      local k = block.donors[i][1]
      t.equal(images[k].label, images[i].label)
      t.ok(images[k].patient ~= images[i].patient, ("image %d lends to its own patient"):format(i))
    end
  end
  t.equal(blocks[1].donors[1], { 7 })
  t.equal(blocks[1].donors[16], { 1 }) -- in a circle
  t.equal(blocks[1].lenders, {})
  t.equal({ blocks[2].donors[17], blocks[2].donors[18], blocks[2].lenders }, { { 20 }, { 3 }, { 3, 1 } })
  t.equal(cells.blocks({ image("a", "p", 0), image("b", "p", 0) }, 2, 1)[1].donors, { {}, {} })
end)

t.test("agreement is what is left when strangers' likeness is taken off; two networks of one method, with the rows "
  .. "it is made of", function()
  local images, dir = {}, t.tmpdir()
  for i = 1, 12 do images[i] = image("i" .. i, "p" .. i, i % 2) end
  local function maps(shift)
    local list = {}
    for i = 1, 12 do
      local row = {}
      for k = 1, 64 * 64 do
        local y, x = (k - 1) // 64, (k - 1) % 64
        row[k] = math.exp(-((y - 5 * i) ^ 2 + (x - 20 - 2 * i) ^ 2) / 300)
          + 0.3 * math.exp(-((y - 32) ^ 2 + (x - 32) ^ 2) / 200) + shift * math.sin(k * 1.7)
      end
      for k = 4097, 4608 do row[k] = math.sin(k * i) end
      list[i] = row
    end
    return torch.tensor(list, { dtype = "float32" })
  end
  local sets = { a = 0, b = 0.05, c = 0.02 }
  local rows = likeness.write { path = dir .. "/similarity.csv", images = images, seed = 3,
    maps_of = function(set) return maps(sets[set.name]) end,
    groups = { { kind = "network", sets = { { name = "a" }, { name = "b" } } },
      { kind = "method", sets = { { name = "c" } } } } }
  t.equal(#rows, 5) -- the measures of one pair; a set alone has none
  local first = rows[1]
  t.equal({ first.kind, first.measure, first.view, first.n, first.units, first.interval },
    { "network", "spearman", "shown", 12, 12, "studentized bootstrap" })
  t.near(first.agreement, (first.same - first.strangers) / (1 - first.strangers), 1e-12)
  t.ok(first.same > first.strangers and first.low < first.agreement and first.agreement < first.high)
  local sum, strangers = 0.0, 0
  for _, row in ipairs(csv.read(dir .. "/similarity.csv")) do
    if row.kind == "network" and row.measure == "spearman"
      and row.view == "shown" then sum = sum + tonumber(row.value) end
    if row.kind == "stranger" then strangers = strangers + 1 end
  end
  t.near(sum / 12, first.same, 1e-12)
  t.equal(strangers, 60)
end)
