-- Readers: what they find, in which order, and every bad folder, table and option, word for word.
local t = require "t"
local torch = require "medxai.torch"
local xai = require "medxai"
local image = require("medxai.core").image

local covid = { "COVID-19", "Non-COVID", "Normal" }

local function sh(...) assert(os.execute(string.format(...))) end

-- A PNG of 20 x 24 pixels that differs by number.
local png_of = {}
local function png(number)
  if not png_of[number] then
    local bytes = {}
    for i = 0, 20 * 24 - 1 do bytes[i + 1] = string.char((i * (number + 3) + i // 24 * number) % 256) end
    png_of[number] = image.encode(torch.from_string(table.concat(bytes), "uint8", { 20, 24 }))
  end
  return png_of[number]
end

-- <dir>/<prefix><split>/<class><inner>/<name>
local function tree(dir, prefix, inner, classes, names)
  local number = 0
  for _, split in ipairs { "Train", "Val", "Test" } do
    for _, class in ipairs(classes) do
      local folder = dir .. "/" .. prefix .. split .. "/" .. class .. inner
      sh("mkdir -p '%s'", folder)
      for _, name in ipairs(names) do
        number = number + 1
        t.write(folder .. "/" .. name, png(number))
      end
    end
  end
  return dir
end

local function covid_tree(names)
  return tree(t.tmpdir(), "Lung Segmentation Data/", "/images", covid, names or { "b.png", "a.png", "c.png" })
end

local function open_covid(dir, more)
  local o = { root = dir, size_px = 16, resize_px = 16 }
  for k, v in pairs(more or {}) do o[k] = v end
  return xai.dataset.covid_qu_ex(o)
end

local function paths(split)
  local list = {}
  for i = 1, split.n do list[i] = split.items[i].path end
  return list
end

t.test("covid_qu_ex: classes in the fixed order, names sorted, items described", function()
  local data = open_covid(covid_tree())
  t.equal(data.classes, covid)
  t.equal(paths(data.val), {
    "Val/COVID-19/images/a.png", "Val/COVID-19/images/b.png", "Val/COVID-19/images/c.png", "Val/Non-COVID/images/a.png",
    "Val/Non-COVID/images/b.png", "Val/Non-COVID/images/c.png", "Val/Normal/images/a.png", "Val/Normal/images/b.png",
    "Val/Normal/images/c.png" })
  t.equal(data.train:labels():tolist(), { 0, 0, 0, 1, 1, 1, 2, 2, 2 })
  local item = data.test:item(4)
  t.equal({ item.name, item.label, item.class, item.patient, item.source, item.split, #item.id, #item.sha256 },
    { "a.png", 1, "Non-COVID", "unknown", "unknown", "test", 16, 64 })
  t.equal(item.id, image.digest(image.load(data.root .. "/" .. item.path)):sub(1, 16))
  t.equal(item.sha256, image.sha256_file(data.root .. "/" .. item.path))
  t.equal(#data:manifest(), 27)
  t.equal(data.small_test, nil)
end)

t.test("covid_qu_ex: an archive unpacked twice, or the part's own folder, gives the same data", function()
  local dir = covid_tree()
  local twice = t.tmpdir()
  sh("mkdir '%s/Lung Segmentation Data' && cp -r '%s/Lung Segmentation Data' '%s/Lung Segmentation Data/'", twice,
    dir, twice)
  t.equal(paths(open_covid(twice).train), paths(open_covid(dir).train))
  t.equal(paths(open_covid(dir .. "/Lung Segmentation Data/").train), paths(open_covid(dir).train))
end)

t.test("a missing folder says what was looked for and what is there", function()
  local dir = t.tmpdir()
  sh("mkdir '%s/x-rays' '%s/notes'", dir, dir)
  t.fails(function() open_covid(dir .. "/none") end,
    ("dataset: the folder '%s/none' does not exist ('%s' holds notes, x-rays). Write root = 'DIR', or give --data "
      .. "DIR on the command line."):format(dir, dir))
  t.fails(function() open_covid(dir) end,
    ("dataset: no COVID-QU-Ex data in '%s' (looked for 'Lung Segmentation Data/Train', 'Lung Segmentation "
      .. "Data/Val' and "
      .. "'Lung Segmentation Data/Test'; there: notes, x-rays). Give its folder as root = 'DIR' or "
      .. "--data DIR."):format(dir))
  t.fails(function() xai.dataset.covid_qu_ex {} end,
    "covid_qu_ex: no folder was given. Write root = 'DIR', or give --data DIR on the command line.")
  t.fails(function() xai.dataset.folders { root = dir } end,
    ("dataset: no split folders in '%s' (looked for Train, Val and Test; there: notes, x-rays). Give the folder "
      .. "above them as root = 'DIR' or --data DIR."):format(dir))
end)

t.test("a missing or empty class of the training split is an error", function()
  local dir = covid_tree()
  sh("rm '%s'/*/Train/Normal/images/*.png", dir)
  t.fails(function() open_covid(dir) end, "dataset: class 'Normal' is empty: no PNG, JPEG or DICOM in "
    .. "'Train/Normal/images' (there: nothing).")
  sh("rm -r '%s'/*/Train/Normal", dir)
  t.fails(function() open_covid(dir) end,
    ("dataset: class 'Normal' is missing in Train (no folder '%s/Lung Segmentation Data/Train/Normal/images'; "
      .. "there: COVID-19, Non-COVID)."):format(dir))
end)

t.test("a split other than training may lack a class: a note says so; misspelt and empty ones are errors", function()
  local dir = covid_tree()
  sh("rm '%s'/*/Test/COVID-19/images/*.png && rm -r '%s'/*/Val/Non-COVID", dir, dir)
  local data = open_covid(dir)
  t.equal(data.notes, { "val has no image of the class 'Non-COVID'", "test has no image of the class 'COVID-19'" })
  t.equal({ data.val:labels():tolist(), data.test:labels():tolist() }, { { 0, 0, 0, 2, 2, 2 }, { 1, 1, 1, 2, 2, 2 } })
  t.equal(data:check().warnings[1], "val has no image of the class 'Non-COVID'")
  sh("mkdir '%s/Lung Segmentation Data/Val/Non-Covid'", dir)
  t.fails(function() open_covid(dir) end, ("dataset: class 'Non-COVID' is missing in Val (no folder "
    .. "'%s/Lung Segmentation Data/Val/Non-COVID/images'; there: COVID-19, Non-Covid, Normal)."):format(dir))
  local two = tree(t.tmpdir(), "", "", { "sick", "healthy", "well" }, { "1.png", "2.png" })
  sh("rm -r '%s/Test/healthy' '%s/Test/sick'", two, two)
  local folders = xai.dataset.folders { root = two, classes = { "healthy", "sick", "well" } }
  t.equal(folders.test:labels():tolist(), { 2, 2 })
  t.equal(folders.notes, { "test has no image of the classes 'healthy', 'sick'" })
  sh("mv '%s/Val/well' '%s/Val/wel'", two, two)
  t.fails(function() xai.dataset.folders { root = two } end,
    "dataset: class 'well' is missing in Val (no folder 'Val/well'; there: healthy, sick, wel).")
  sh("mv '%s/Val/wel' '%s/Val/well' && rm '%s/Test/well/'*", two, two, two)
  t.fails(function() xai.dataset.folders { root = two } end,
    "dataset: Test holds no image of the classes healthy, sick, well (there: well).")
end)

t.test("corrupt, empty and foreign files are named together; skip.txt leaves them out", function()
  local dir = covid_tree()
  local own = dir .. "/Lung Segmentation Data/Train/COVID-19/images/"
  t.write(own .. "covid_19.png", "not an image")
  t.write(own .. "notes.txt", "left out")
  local one = "dataset: cannot read 'Train/COVID-19/images/covid_19.png' (not a PNG, JPEG or DICOM). List "
      .. "it in skip.txt."
  local data = open_covid(dir)
  t.fails(function() data.train:batch { 4 } end, one)
  t.fails(function() data:check() end, one)
  t.fails(function() data.train:item(4) end, one)
  t.fails(function()
    local loader <close> = open_covid(dir).train:loader { batch = 2 }
    while loader:next() do end
  end, one)
  t.write(own .. "a.png", "")
  t.write(own .. "b.png", png(1):sub(1, -30))
  t.fails(function() open_covid(dir):check() end, [[
dataset: 3 of 28 images cannot be used:
  cannot read 'Train/COVID-19/images/a.png' (the file is empty). List it in skip.txt.
  cannot read 'Train/COVID-19/images/b.png' (the PNG is truncated). List it in skip.txt.
  cannot read 'Train/COVID-19/images/covid_19.png' (not a PNG, JPEG or DICOM). List it in skip.txt.
Repair them, or leave them out: write these lines to skip.txt beside the data:
  Train/COVID-19/images/a.png
  Train/COVID-19/images/b.png
  Train/COVID-19/images/covid_19.png]])
  t.write(dir .. "/skip.txt", "# broken\r\nTrain/COVID-19/images/a.png\r\n\n  Lung Segmentation "
    .. "Data/Train/COVID-19/images/b.png\n./Train/COVID-19/images/covid_19.png\ngone.png\n")
  data = open_covid(dir)
  t.equal(data.train.n, 7)
  local report = data:check()
  t.equal(report.warnings, { "3 images are left out, as the skip list says",
    "the skip list names 'gone.png', which is not in this data set" })
end)

t.test("option skip takes a list of paths or another file", function()
  local dir = covid_tree()
  t.equal(open_covid(dir, { skip = { "Val/Normal/images/a.png" } }).val.n, 8)
  t.equal(open_covid(dir, { skip = t.write(t.tmpdir() .. "/list", "Val/Normal/images/a.png\n") }).val.n, 8)
  t.fails_like(function() open_covid(dir, { skip = "/nowhere" }) end, "^dataset: skip list: cannot read '/nowhere'")
end)

t.test("unknown and wrong options are errors", function()
  local dir = covid_tree { "a.png" }
  t.fails(function() xai.dataset.covid_qu_ex { rot = dir } end,
    "covid_qu_ex: unknown option 'rot'. Did you mean 'root'?")
  t.fails(function() open_covid(dir, { input = "lung" }) end,
    "covid_qu_ex: option 'input' is wrong (expected 'whole', 'lungs', 'lungs_raw', 'lungs_hull', "
    .. "'outside', 'box', 'border' or 'shape', got string 'lung'). Did you mean 'lungs'?")
  t.fails(function() open_covid(dir, { size_px = 32 }) end,
    "covid_qu_ex: option 'resize_px' is too small (expected at least size_px, 32, got 16).")
  t.fails(function() open_covid(dir, { mean = { 0, 0, 0 } }) end,
    "covid_qu_ex: option 'std' is missing: mean and std go together.")
  t.fails(function() open_covid(dir, { mean = { 0, 0, 0 }, std = { 1, 0, 1 } }) end,
    "covid_qu_ex: option 'std' is wrong (expected three positive numbers, for red, green and blue).")
  t.fails(function() open_covid(dir, { augment = { flips = 1 } }) end,
    "covid_qu_ex: augment: unknown option 'flips'. Did you mean 'flip'?")
  t.fails(function() return xai.dataset.covid_quex end,
    "dataset: unknown reader 'covid_quex'. Did you mean 'covid_qu_ex'?")
  local data = open_covid(dir)
  t.fails(function() data.val:batch { 4 } end, "dataset: batch: there is no image 4 in val (expected 1 to 3).")
  t.fails(function() data.val:item(0) end, "dataset: item: there is no image 0 in val (expected 1 to 3).")
  t.fails(function() data.val:subset {} end, "dataset: subset: the list is empty (expected image numbers of val).")
  t.fails(function() data.val:loader { bach = 3 } end, "loader: unknown option 'bach'. Did you mean 'batch'?")
end)

t.test("folders: classes as given, else sorted with a note, or the thesis' three in their order", function()
  local dir = tree(t.tmpdir(), "", "", { "sick", "healthy" }, { "1.png", "10.png", "2.png" })
  local data = xai.dataset.folders { root = dir, size_px = 16, resize_px = 16 }
  t.equal(data.classes, { "healthy", "sick" })
  t.equal(data.notes, { "classes in order of name: healthy, sick. Write classes = { ... } to fix another order" })
  t.equal(paths(data.test), { "Test/healthy/1.png", "Test/healthy/10.png", "Test/healthy/2.png", "Test/sick/1.png",
    "Test/sick/10.png", "Test/sick/2.png" })
  data = xai.dataset.folders { root = dir, classes = { "sick", "healthy" } }
  t.equal({ data.classes, data.notes, data.train:labels():tolist() },
    { { "sick", "healthy" }, {}, { 0, 0, 0, 1, 1, 1 } })
  t.fails(function() xai.dataset.folders { root = dir, classes = { "sick", "well" } } end,
    "dataset: class 'well' is missing in Train (no folder 'Train/well'; there: healthy, sick).")
  t.fails(function() xai.dataset.folders { root = dir, classes = { "sick", "sick" } } end,
    "folders: classes names 'sick' twice.")
  t.fails(function() xai.dataset.folders { root = dir, input = "lungs" } end,
    "folders: input = 'lungs' needs lung masks, which class folders do not have. Use covid_qu_ex, manifest or "
    .. "masked_folders.")
  local three = tree(t.tmpdir(), "", "", { "Normal", "COVID-19", "Non-COVID" }, { "1.png" })
  t.equal(xai.dataset.folders { root = three }.classes, covid)
end)

t.test("masked_folders reads Masked_<split>: input is lungs, without masking again", function()
  local dir = tree(t.tmpdir(), "Masked_", "", covid, { "1.png" })
  sh("mkdir -p '%s/Masked_Small_Test' && cp -r '%s'/Masked_Test/* '%s/Masked_Small_Test'", dir, dir, dir)
  local data = xai.dataset.masked_folders { root = dir, size_px = 16, resize_px = 20 }
  t.equal({ data.classes, data.mask, data.small_test.n, data.train.n }, { covid, "lungs", 3, 3 })
  local own = image.load(dir .. "/Masked_Train/COVID-19/1.png")
  t.equal(image.digest(data.train:pixels(1)), image.digest(image.fit(own, 20, 16)))
  local none = t.tmpdir()
  t.fails(function() xai.dataset.masked_folders { root = none } end,
    ("dataset: no split folders in '%s' (looked for Masked_Train, Masked_Val and Masked_Test; there: nothing). Give "
      .. "the folder above them as root = 'DIR' or --data DIR."):format(none))
end)

t.test("manifest: quotes, line ends, numbers or names as labels, patients and sources", function()
  local dir = t.tmpdir()
  for i = 1, 6 do t.write(dir .. "/im, " .. i .. ".png", png(i)) end
  local text = "\xEF\xBB\xBFPath,label,split,patient,source,mask\r\n\"im, 1.png\",sick,train,p1,A,\r\n\"im, "
    .. "2.png\",well,Training,p2,B,\n" .. "\"im, 3.png\",\"sick\",valid,p3,A,\n\"im, 4.png\",well,val,p4,B,\n\"im, "
    .. "5.png\",sick,TEST,p5,A,\n\n\"im, 6.png\",well,test,p6,B,"
  local path = t.write(dir .. "/table.csv", text)
  local data = xai.dataset.manifest { csv = path, size_px = 16, resize_px = 16 }
  t.equal({ data.classes, data.train.n, data.val.n, data.test.n, data.test:item(2).patient, data.test:item(2).class },
    { { "sick", "well" }, 2, 2, 2, "p6", "well" })
  local report = data:check()
  t.equal({ report.patients, report.sources.names }, { 6, { "A", "B" } })
  t.near(report.sources.mutual_information_bits, 1, 1e-12)
  t.equal(report.warnings[1], "the source tells 100 % of what there is to know about the class (1.00 of 1.00 bits): "
    .. "a network can use it as a shortcut")
  t.equal(xai.dataset.manifest { csv = path, classes = { "well", "sick" } }.train:labels():tolist(), { 1, 0 })
  local numbered = t.write(dir .. "/n.csv", (text:gsub("sick", "1"):gsub("well", "0")))
  t.equal(xai.dataset.manifest { csv = numbered, classes = { "well", "sick" } }.train:labels():tolist(), { 1, 0 })
end)

t.test("manifest: what is wrong in a table is told with its line", function()
  local dir = t.tmpdir()
  for i = 1, 3 do t.write(dir .. "/" .. i .. ".png", png(i)) end
  local function with(text, expected, more)
    local path = t.write(dir .. "/m.csv", text)
    local o = { csv = path }
    for k, v in pairs(more or {}) do o[k] = v end
    t.fails(function() xai.dataset.manifest(o) end, (expected:gsub("DIR", (dir:gsub("%%", "%%%%")))))
  end
  with("path,label\n1.png,a\n", "manifest: m.csv has no column 'split' (its header: path, label).")
  with("", "manifest: m.csv has no column 'path' (its header: none).")
  with("path,label,split\n", "manifest: m.csv has no rows.")
  with("path,label,split\n1.png,a\n", "manifest: m.csv:2: 2 fields (expected 3: path, label, split).")
  with("path,label,split\n1.png,a,trian\n", "manifest: m.csv:2: unknown split 'trian' (expected train, val or test).")
  with("path,label,split\n1.png,a,train\n1.png,a,test\n", "manifest: m.csv:3: '1.png' is already in line 2.")
  with("path,label,split\n1.png,a,train\n\"2.png,b,test\n", "manifest: m.csv:3: a quote is never closed.")
  with("path,label,split\n1.png,a,train\n./1.png,a,train\n", "manifest: m.csv:3: './1.png' is already in line 2.")
  with("path,label,split\n1.png,a,train\n2.png,,train\n", "manifest: m.csv:3: no label.")
  with("path,label,split\n1.png,a\0,train\n",
    "manifest: m.csv:2: there are zero bytes (is it UTF-16?). Save the table as UTF-8.")
  local blanks = (" "):rep(300000) -- looked at once: at each of them to the end would take minutes
  with("path,label,spl" .. blanks .. "it\n",
    "manifest: m.csv has no column 'split' (its header: path, label, spl" .. blanks .. "it).")
  with("path,label,split\n" .. blanks .. "\n", "manifest: m.csv has no rows.")
  with("path,label,split,label\n1.png,a,train,b\n", "manifest: m.csv:1: the column 'label' is there twice. Rename one.")
  with("path,label,split\n1.png,0,train\n2.png,900000000007,train\n",
    "manifest: m.csv: the labels are numbers up to 900000000007, but none is 1. Number the classes from 0, or write "
    .. "classes = { ... }.")
  with("path,label,split\n1.png,a,train\n7.png,a,train\n",
    "manifest: 1 file is not there (paths are relative to 'DIR'; the first would be 'DIR/7.png'):\n  m.csv:3: '7.png'")
  with("path,label,split\n1.png,sick,train\n", "manifest: m.csv:2: unknown class 'sick'. Did you mean 'Sick'?",
    { classes = { "Sick", "Well" } })
  with("path,label,split\n1.png,a,train\n2.png,b,test\n",
    "dataset: class 'b' has no image in train. Add some, or leave the class out of classes.")
  with("path,label,split,patient\n1.png,a,train,p7\n2.png,a,test,p7\n",
    "dataset: patient 'p7' is in two splits ('1.png' in train, '2.png' in test). Move all images of a patient "
    .. "into one.")
  t.fails(function() xai.dataset.manifest { csv = dir .. "/no.csv" } end,
    ("manifest: cannot read '%s/no.csv': No such file or directory."):format(dir))
end)

t.test("a single file or a list of files is a dataset", function()
  local dir = t.tmpdir()
  local a, b = t.write(dir .. "/a.png", png(1)), t.write(dir .. "/b.png", png(2))
  local one = xai.dataset.files(a)
  t.equal({ one.test.n, one.test:labels():tolist(), one.test:batch({ 1 }).x.shape }, { 1, { -1 }, { 1, 3, 224, 224 } })
  local two = xai.dataset.files { a, b, size_px = 16, resize_px = 16, label = { "well", "sick" },
    classes = { "sick", "well" } }
  t.equal({ two.test:labels():tolist(), two.test:item(2).name, two.test:item(2).class }, { { 1, 0 }, "b.png", "sick" })
  t.fails(function() xai.dataset.files(dir) end,
    ("files: '%s' is a folder. Use xai.dataset.folders { root = '%s' }, or name its files."):format(dir, dir))
  t.fails(function() xai.dataset.files(dir .. "/c.png") end,
    ("files: '%s/c.png' does not exist (there: a.png, b.png)."):format(dir))
  t.fails(function() xai.dataset.files {} end,
    "files: option 'paths' is missing (expected string or table: one image file, or a list). Add paths = ... to it.")
  t.fails(function() xai.dataset.files { a, label = "well", classes = { "Well" } } end,
    "files: unknown class 'well'. Did you mean 'Well'?")
end)

t.test("limit keeps the first of each class and split", function()
  local data = open_covid(covid_tree(), { limit = 2 })
  t.equal(paths(data.test), { "Test/COVID-19/images/a.png", "Test/COVID-19/images/b.png", "Test/Non-COVID/images/a.png",
    "Test/Non-COVID/images/b.png", "Test/Normal/images/a.png", "Test/Normal/images/b.png" })
end)

t.test("--smoke keeps four images per class and split, and --data gives the folder", function()
  local dir = covid_tree { "a.png", "b.png", "c.png", "d.png", "e.png", "f.png" }
  local script = t.write(t.tmpdir() .. "/e.lua",
    'local xai = require "medxai"\nprint(xai.dataset.covid_qu_ex { size_px = 16 })')
  local r = t.run { "--smoke", script, "--data", dir }
  t.equal({ r.code, r.out, r.err },
    { 0, "covid_qu_ex: train 12, val 12, test 12; classes COVID-19, Non-COVID, Normal\n",
      "--data: root = " .. dir .. " in covid_qu_ex\n" })
end)

t.test("listing needs no libtorch", function()
  local dir = covid_tree { "a.png" }
  local script = t.write(t.tmpdir() .. "/e.lua",
    ('local d = require("medxai").dataset.covid_qu_ex { root = %q }\nprint(d.train.n, '
      .. 'package.loaded["medxai.core"])'):format(dir))
  t.equal(t.run { script }.out, "3\tnil\n")
end)

t.test("the shared X-rays in the COVID-QU-Ex layout", function()
  local root = t.shared() .. "/covid-cxr"
  local data = xai.dataset.covid_qu_ex { root = root, input = "lungs", resize_px = 255,
    skip = { "Train/Normal/images/Normal (113).png" } }
  t.equal({ data.train.n, data.val.n, data.test.n }, { 402, 58, 85 })
  local report = data:check()
  t.equal({ #report.exact, report.near_count, report.counts.train },
    { 0, 0, { ["COVID-19"] = 43, ["Non-COVID"] = 180, Normal = 179, total = 402 } })
  local infection = xai.dataset.covid_qu_ex { root = root, part = "infection", resize_px = 255 }
  t.equal({ infection.test.n, infection.train }, { 60 })
  t.equal(infection.test:mask(1, "infection").shape, { 224, 224 })
  t.ok(infection.test:mask(1, "infection"):sum():item() > 0)
end)
