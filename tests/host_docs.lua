-- The guides are correct: every ```lua block runs, every command exists, every link leads to a file.
local t = require "t"
local files = require "medxai.base.files"

local pages = { "README.md", "CONTRIBUTING.md", "CHANGELOG.md" }
for _, name in ipairs(files.list(t.root .. "/docs")) do
  if name:find "%.md$" then pages[#pages + 1] = "docs/" .. name end
end

local head = [[
local xai = require "medxai"
local torch = require "medxai.torch"
local run = xai.run { name = "page" }
local data = xai.dataset.phantom { n_train = 12, n_val = 6, n_test = 6, size_px = 64 }
local model = xai.models.squeezenet1_0 { classes = data.classes }
]]

-- What the guides read: class folders, a table, the COVID-QU-Ex layout, an exported network.
local function make_data(dir)
  local image = t.shared() .. "/covid-cxr"
  files.mkdir(dir .. "/mine")
  files.mkdir(dir .. "/data")
  t.ok(os.execute(("ln -s %s %s/data/COVID-QU-Ex"):format(t.quote(require("medxai.file").realpath(image)),
    t.quote(dir))))
  local covid = require("medxai").dataset.covid_qu_ex { root = image, limit = 1 }
  local png = covid.root .. "/" .. covid.train:item(1).path
  t.ok(os.execute(("cp %s %s/resnet18.pt2"):format(t.quote(t.root .. "/tests/reference/exported/convnet.pt2"),
    t.quote(dir))))
  local rows = { "path,label,split" }
  for i, name in ipairs { "a.png", "b.png", "c.png", "d.png" } do
    t.ok(os.execute(("cp %s %s/mine/%s"):format(t.quote(png), t.quote(dir), name)))
    rows[i + 1] = ("%s,%s,%s"):format(name, i % 2 == 0 and "ill" or "healthy", i < 3 and "train" or "test")
  end
  files.write(dir .. "/mine/manifest.csv", table.concat(rows, "\n") .. "\n")
  for _, split in ipairs { "Train", "Val", "Test" } do
    for _, class in ipairs { "healthy", "ill" } do
      files.mkdir(("%s/xrays/%s/%s"):format(dir, split, class))
      t.ok(os.execute(("cp %s %s/xrays/%s/%s/1.png"):format(t.quote(png), t.quote(dir), split, class)))
    end
  end
end

-- A page's experiment: its blocks one after the other, each in its own scope; blocks with file=NAME become files.
local function experiment_of(text, dir)
  local parts, count = { head }, 0
  for info, block in text:gmatch "\n```lua([^\n]*)\n(.-)\n```" do
    local name = info:match "file=(%S+)"
    count = count + 1
    if name then files.write(dir .. "/" .. name, block .. "\n")
    elseif block:find 'require "medxai"' then parts = { block, "\n" } -- a whole experiment
    else parts[#parts + 1] = "do\n" .. block .. "\nend\n" end
  end
  return table.concat(parts), count
end

for _, page in ipairs(pages) do
  local text = t.read(t.root .. "/" .. page)
  if text:find "\n```lua" then
    t.test("the Lua of " .. page .. " runs", function()
      local dir = t.tmpdir()
      make_data(dir)
      local script = experiment_of(text, dir)
      t.write(dir .. "/page.lua", script)
      local r = t.run { "--smoke", "--quiet", dir .. "/page.lua", cwd = dir, timeout = 600 }
      t.equal(r.code, 0, r.err .. "\n" .. script)
      t.ok(not r.err:find("failed", 1, true), r.err)
    end)
  end
end

-- The fields that some option offers, and the program's own options.
local function known_fields()
  local known = {}
  local reference = require "medxai.reference"
  for _, e in ipairs(reference.all()) do
    for name, rule in pairs(e.options or {}) do
      if rule.field then known[rule.field == true and name or rule.field] = true end
    end
  end
  for name in t.run({ "--help" }).out:gmatch "%-%-(%l[%w_-]+)" do known[name] = true end
  return known
end

t.test("every command of the guides names an experiment that is there, and fields and options that exist", function()
  local known, wrong, count, helped = known_fields(), {}, 0, {}
  local slurm = t.read(t.root .. "/scripts/medxai/command/slurm.lua")
  for _, page in ipairs(pages) do
    for line in t.read(t.root .. "/" .. page):gmatch "[^\n]+" do
      for command in line:gmatch "medxai%-run ([^`#]+)" do line = line .. " " .. command end
      local path = line:match "(experiments/[%w_]+%.lua)"
      if path and (line:find("bootstrap run", 1, true) or line:find("medxai-run", 1, true)) then
        count = count + 1
        if not files.exists(t.root .. "/" .. path) then wrong[#wrong + 1] = page .. ": " .. path end
        -- what stands before is a launcher's (srun, torchrun)
        for name in (line:match "bootstrap run.*" or line:match "medxai%-run.*"):gmatch " %-%-(%l[%w_]*)" do
          local is_slurm = line:find("medxai-run slurm", 1, true) and slurm:find("--" .. name, 1, true)
          if not known[name] and not is_slurm then wrong[#wrong + 1] = page .. ": --" .. name end
        end
      end
      for name in line:gmatch "medxai%-run help ([%l_ ]+)" do
        for word in name:gmatch "[%l_]+" do
          count = count + 1
          helped[#helped + 1] = word
        end
      end
    end
  end
  t.equal(table.concat(wrong, "\n"), "")
  local r = t.run { "help", table.unpack(helped) }
  t.equal(r.code, 0, r.err)
  t.ok(count > 12, "only " .. count .. " were seen")
end)

t.test("every link of the guides leads to a file", function()
  local gone = {}
  for _, page in ipairs(pages) do
    local folder = page:match "^(.*/)" or ""
    for target in t.read(t.root .. "/" .. page):gmatch "%]%(([^)#]+)[^)]*%)" do
      if not target:find "^https?:" and not files.exists(t.root .. "/" .. folder .. target) then
        gone[#gone + 1] = page .. ": " .. target
      end
    end
  end
  t.equal(table.concat(gone, "\n"), "")
end)
