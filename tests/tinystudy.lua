-- What the tests of studies share: 48 pictures of 36 patients in three classes, and three tiny trainings of one network
-- ("one"; "two" with seeds 1 and 2), made once per test file by the program itself, in a folder where experiments run.
local t = require "t"
local files = require "medxai.base.files"
local host = require "medxai.host"
local image = require "medxai.core".image
local torch = require "medxai.torch"

local tiny = {}

tiny.classes = { "clear", "nodule", "opacity" }

local train = [[
local xai = require "medxai"
local run = xai.run { name = "NAME", seed = 7, seeds = SEEDS }
local data = xai.dataset.manifest { csv = "data", size_px = 48, resize_px = 48 }
local model = xai.models.squeezenet1_0 { classes = data.classes, head = "torchvision", weights = "random",
  train_depth = "all" }
run:fit(model, data, { optim = xai.optim.sgd { lr = 0.001 }, epochs = 1, batch = 6 })
]]

local head = [[
local xai = require "medxai"
local run = xai.run { name = "NAME", seed = 42 }
local data = xai.dataset.manifest { csv = "data", size_px = 48, resize_px = 48 }
]]

local function left_of(i, class) return 6 + 18 * class + i % 5 end

-- A picture by formula: the class is where the bright square lies.
local function picture(i, class)
  local scope <close> = require("medxai.core").memory.scope()
  local at = torch.arange(64 * 64, { dtype = "float64" })
  local x = (torch.sin(at * at * (0.011 + 0.0007 * i)) * 40 + 90):view { 64, 64, 1 }
  x[{ { 20, 34 }, { left_of(i, class), left_of(i, class) + 12 } }]:fill_(230)
  return scope:keep(x:to { dtype = "uint8" })
end

-- The "lungs" of a picture lie around its square, so that no other picture's map fits equally well.
local function make_mask(path, i, class)
  local mask <close> = torch.zeros({ 64, 64, 1 }, { dtype = "uint8" })
  mask[{ { 16, 38 }, { left_of(i, class) - 2, left_of(i, class) + 14 } }]:fill_(255)
  image.save(path, mask)
end

local function make_data(dir)
  files.mkdir(dir .. "/data")
  local lines, number = { "path,label,split,patient,source,mask" }, 0
  local function add(split, class, patient, source)
    number = number + 1
    local name, x <close> = ("%03d.png"):format(number), picture(number, class)
    image.save(dir .. "/data/" .. name, x)
    make_mask(dir .. "/data/mask" .. name, number, class)
    lines[#lines + 1] = ("%s,%s,%s,%s,%s,mask%s"):format(name, tiny.classes[class + 1], split, patient, source, name)
  end
  for i = 0, 5 do add("train", i % 3, "t" .. i, "hospital") end
  for i = 0, 5 do add("val", i % 3, "v" .. i, "hospital") end
  for i = 0, 35 do add("test", i % 3, "p" .. (i < 30 and i or i - 12), i % 2 == 0 and "hospital" or "clinic") end
  t.write(dir .. "/data/manifest.csv", table.concat(lines, "\n") .. "\n")
end

local made

--- The folder with data and trained runs, made when first asked for; removed at the end of the process.
function tiny.dir()
  if made then return made end
  local pipe = assert(io.popen "mktemp -d ${TMPDIR:-/tmp}/medxai-study.XXXXXX")
  local dir = pipe:read "l"
  pipe:close()
  host.at_exit(function() os.execute("rm -rf " .. t.quote(dir)) end)
  make_data(dir)
  for name, seeds in pairs { one = "nil", two = "{ 1, 2 }" } do
    local script = t.write(dir .. "/" .. name .. ".lua", (train:gsub("NAME", name):gsub("SEEDS", seeds)))
    local r = t.run { "--threads", "1", "--quiet", script, cwd = dir, timeout = 600 }
    t.equal(r.code, 0, r.err)
  end
  made = dir
  return dir
end

--- The path of an experiment of that name whose text follows the head (run, data).
function tiny.experiment(name, text) return t.write(tiny.dir() .. "/" .. name .. ".lua", head:gsub("NAME", name)
  .. text) end

--- Runs an experiment in the folder.
---@param name string also the run's
---@param text string
---@param more? table further words of the command line; timeout
function tiny.go(name, text, more)
  local args = { "--threads", "1", "--quiet", tiny.experiment(name, text), cwd = tiny.dir(), timeout = 600 }
  for _, word in ipairs(more or {}) do args[#args + 1] = word end
  return t.run(args)
end

--- Removes a run of the folder.
function tiny.forget(name) os.execute("rm -rf " .. t.quote(tiny.dir() .. "/runs/" .. name)) end

return tiny
