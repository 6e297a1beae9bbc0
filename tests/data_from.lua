-- Data sets from a list of the experiment's own, and from a reader beside it.
local t = require "t"
local made = require "findings"
local tiny = require "tinyexplain"
local xai = require "medxai"

local function from(items, more)
  local options = { root = made.folder(64), items = items, classes = { "healthy", "ill" }, size_px = 16,
    resize_px = 16 }
  for k, v in pairs(more or {}) do options[k] = v end
  return xai.dataset.from(options)
end

local function items(n, f)
  local list = {}
  for i = 1, n do
    list[i] = { path = ("%02d.png"):format(i), label = i % 2, patient = "p" .. i // 3 }
    for k, v in pairs(f and f(i) or {}) do list[i][k] = v end
  end
  return list
end

t.test("a list of items becomes splits; labels are names or numbers, paths below root", function()
  local data = from(items(6, function(i)
    return { split = i < 4 and "train" or "test", label = i < 3 and "ill" or 0, patient = i }
  end))
  t.equal({ data.train.n, data.test.n, data.train:label(1), data.train:label(3) }, { 3, 3, 1, 0 })
  t.equal({ data.train:item(1).path, data.train:item(2).patient, data.name }, { "01.png", "2", "from" })
end)

t.test("splits that are made keep a patient's images together, whatever the order and the rest of the list", function()
  local function splits_of(list)
    local of = {}
    for _, split in ipairs(from(list, { split = { train = 0.5, val = 0.25, test = 0.25 } }).splits) do
      for i = 1, split.n do of[split:item(i).path] = split.name end
    end
    return of
  end
  local list, back = items(60), {}
  for i, item in ipairs(list) do back[#list + 1 - i] = item end
  local one = splits_of(list)
  t.equal(splits_of(back), one)
  local count, of_patient = {}, {}
  for i, item in ipairs(list) do
    local split = one[item.path]
    count[split] = (count[split] or 0) + 1
    t.equal(of_patient[item.patient] or split, split)
    of_patient[item.patient] = split
    if i > 30 then list[i] = nil end
  end
  t.ok(count.train > count.val and count.train > count.test and count.val > 0 and count.test > 0)
  for path, split in pairs(splits_of(items(30))) do t.equal(split, one[path]) end
end)

t.test("what is wrong with an item is told by its number", function()
  local function wrong(list, message, more) t.fails(function() from(list, more) end, message) end
  local function one(more) return items(1, function() return more end) end
  wrong(one { label = "sick" }, "from: item 1: unknown class 'sick'. Known: healthy, ill.")
  wrong(one { label = 2 }, "from: item 1: label 2 is beyond the 2 classes (labels are numbered from 0).")
  wrong(one { lable = 1 }, "from: item 1: unknown field 'lable'. Did you mean 'label'?")
  wrong(one { split = "dev" }, "from: item 1: unknown split 'dev' (expected train, val or test).")
  wrong({ { label = 1 } }, "from: item 1: no path.")
  wrong({ "01.png" }, "from: item 1: is a string (expected { path = \"a.png\", label = ... }).")
  wrong({}, "from: the list of items is empty.")
  wrong({ { path = "01.png", label = 1 }, { path = "./01.png", label = 0 } },
    "from: item 2: './01.png' is item 1 already.")
  wrong(items(2, function(i) return { split = i == 1 and "train" or nil } end),
    "from: item 1 has a split, item 2 has none. Give all of them one, or none.")
  wrong(one { path = "nothing.png" },
    ("from: 1 file is not there (paths are relative to '%s'):\n  item 1: 'nothing.png'")
    :format(made.folder(64)))
  t.fails(function() xai.dataset.from { items = items(1) } end,
    "from: option 'classes' is missing (expected names in the "
    .. "order of labels). Or write findings = { ... }.")
end)

t.test("a reader beside the experiment is found by its name", function()
  local place <close> = tiny.beside { my_reader = [[
    return function(options)
      local items = {}
      for i = 1, options.n do
        items[i] = { path = ("%02d.png"):format(i), label = i % 2, split = i < 5 and "train" or "test" }
      end
      return { items = items, classes = { "healthy", "ill" }, root = options.root }
    end]], number = "return 5" }
  local data = xai.dataset.my_reader { n = 8, root = made.folder(64), size_px = 16, resize_px = 16 }
  t.equal({ data.name, data.train.n, data.test.n, data.size_px }, { "my_reader", 4, 4, 16 })
  t.equal(data:description(), { reader = "my_reader", options = { n = 8, root = made.folder(64), size_px = 16,
    resize_px = 16 } })
  t.fails(function() return xai.dataset.number end,
    "dataset: 'number.lua' returns a number (expected a function(options) "
    .. "that returns { items = ..., classes = ... }).")
  t.fails(function() return xai.dataset.my_raeder end,
    "dataset: unknown reader 'my_raeder'. Known: chexpert, "
    .. "covid19_radiography, covid_qu_ex, files, folders, from, manifest, masked_folders, mimic_cxr_jpg, "
    .. "nih_chestxray14, padchest, phantom, rsna_pneumonia, vindr_cxr. Or write it as 'my_raeder.lua' "
    .. "beside the experiment.")
end)

t.test("paths of a table and of a list are relative to its folder, or absolute", function()
  local scope <close> = xai.scope()
  local root = made.folder(64)
  t.write(root .. "/both.csv", ("path,split,label\n%s/01.png,train,a\n01.png,test,a\n"):format(root))
  local data = xai.dataset.manifest { csv = root .. "/both.csv", size_px = 16, resize_px = 16 }
  t.ok(data.train:batch({ 1 }).x:equal(data.test:batch({ 1 }).x))
  data = from { { path = root .. "/01.png", label = 0, split = "train" },
    { path = "02.png", label = 1, split = "train" }, { path = "01.png", label = 1, split = "test" } }
  t.ok(data.train:batch({ 1 }).x:equal(data.test:batch({ 1 }).x))
end)
