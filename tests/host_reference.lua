-- medxai-run help, docs/reference and the editor's types: all come from the specs that check options, and none is left
-- out.
local t = require "t"
local Options = require "medxai.base.options"
local files = require "medxai.base.files"
local reference = require "medxai.reference"

local function each_option(visit)
  local function walk(entry, spec, prefix)
    for _, key in ipairs(reference.names(spec)) do
      visit(entry.kind .. " " .. entry.name .. ": " .. prefix .. key, spec[key])
      if spec[key].fields then walk(entry, spec[key].fields, prefix .. key .. ".") end
    end
  end
  for _, entry in ipairs(reference.all()) do walk(entry, entry.options or {}, "") end
end

local function lua_files(folder, list)
  for _, name in ipairs(files.list(folder)) do
    local path = folder .. "/" .. name
    if files.is_folder(path) then lua_files(path, list)
    elseif name:find "%.lua$" then list[path] = files.read(path) end
  end
  return list
end

local sources = lua_files(t.root .. "/scripts/medxai", {})

t.test("every option has a doc line", function()
  local bare, count = {}, 0
  each_option(function(name, rule)
    count = count + 1
    if not rule.doc or rule.doc == "" then bare[#bare + 1] = name end
    for _, value in ipairs(rule.values and rule.one_of or {}) do
      if not rule.values[value] then bare[#bare + 1] = name .. " = " .. value end
    end
  end)
  t.equal(table.concat(bare, "\n"), "")
  t.ok(count > 500, "only " .. count .. " options were seen")
end)

t.test("every option spec of the library has a doc line", function()
  local kinds = { number = true, integer = true, string = true, boolean = true, table = true, ["function"] = true,
    tensor = true, any = true }
  local bare, count = {}, 0
  for path, text in pairs(sources) do
    text = text:gsub("%-%-[^\n]*", "")
    for name, at in text:gmatch "([%w_]+) = (){" do
      local rule = text:match("^%b{}", at)
      local words, known = rule and rule:match '^{ "([%w|]+)"[ ,}]', true
      for word in (words or ""):gmatch "[^|]+" do known = known and kinds[word] or false end
      if words and known or rule and rule:find "^{ one_of = " then
        count = count + 1
        if not rule:find "doc = " then bare[#bare + 1] = path:match "medxai/(.*)$" .. ": " .. name end
      end
    end
  end
  table.sort(bare)
  t.equal(table.concat(bare, "\n"), "")
  t.ok(count > 200, "only " .. count .. " were seen")
end)

t.test("every default is a value that its option accepts", function()
  each_option(function(name, rule)
    if rule.default ~= nil then Options.check("test", { key = rule.default }, { key = rule }) end
    t.ok(not (rule.required and rule.default ~= nil), name .. " is required and has a default")
  end)
end)

t.test("docs/reference and the editor's types are those of the specs (medxai-run docs/reference.lua . "
  .. "renews them)", function()
  local dir = t.tmpdir()
  t.equal(t.run({ t.root .. "/docs/reference.lua", dir }).code, 0)
  for _, folder in ipairs { "docs/reference", "scripts/medxai/types" } do
    for _, name in ipairs(files.list(dir .. "/" .. folder)) do
      local path = folder .. "/" .. name
      t.ok(files.read(dir .. "/" .. path) == files.read(t.root .. "/" .. path), path .. " is stale")
    end
  end
  t.equal(#files.list(dir .. "/docs/reference"), #files.list(t.root .. "/docs/reference"))
end)

t.test("every type that an annotation names is declared", function()
  local declared, unknown = { ["medxai.torch"] = true }, {}
  for _, text in pairs(sources) do
    for name in text:gmatch "%-%-%-@class (medxai[%w_%.]*)" do declared[name] = true end
    for name in text:gmatch "%-%-%-@alias (medxai[%w_%.]*)" do declared[name] = true end
  end
  for path, text in pairs(sources) do
    for line in text:gmatch "%-%-%-@[fprat][iealy][^\n]*" do
      for name in line:gmatch "medxai%.%u[%w_%.]*" do
        name = name:gsub("%.$", "")
        if not declared[name] then unknown[#unknown + 1] = path:match "medxai/(.*)$" .. ": " .. name end
      end
    end
  end
  table.sort(unknown)
  t.equal(table.concat(unknown, "\n"), "")
end)

local function help(...)
  local words = { ... }
  return t.run { "help", table.unpack(words) }
end

t.test("help lists all names and shows an option's type, default, unit and field", function()
  local all = help()
  t.equal(all.code, 0, all.err)
  for _, name in ipairs { "gradcam", "covid_qu_ex", "vgg19", "step_lr", "fit", "iou", "slic", "noisy_linear" } do
    t.ok(all.out:find(name, 1, true), name)
  end
  local fit = help "run:fit"
  t.ok(fit.out:find("batch +integer, at least 1; default 32 images, %-%-batch, at most 4 with %-%-smoke\n +per step "
    .. "of the optimizer"), fit.out)
  local both = help("grid", "Grad-CAM++")
  t.ok(both.out:find("Rectangles of equal size", 1, true) and both.out:find("run:grid", 1, true), both.out)
  t.ok(both.out:find("gradcam_plus_plus: Grad-CAM++", 1, true), both.out)
  t.ok(help("methods").out:find "shap_kernel")
end)

t.test("help suggests names near an unknown one", function()
  local r = help "gradcm"
  t.equal(r.code, 2)
  t.equal(r.err, "medxai-run: help: nothing is called 'gradcm'. Did you mean 'gradcam' or 'xgradcam'? See "
    .. "medxai-run help.\n")
end)

-- ---- experiments beside the types -----------------------------------------------------------------------------------

-- The names before "=" in a table's text, not those of tables within it.
local function keys_of(text)
  local keys, depth = {}, 0
  text = text:sub(2, -2):gsub('"[^"\n]*"', '""')
  for at, word in text:gmatch "()([%a_][%w_]*)%s*=[^=]" do
    local before = text:sub(1, at - 1)
    depth = select(2, before:gsub("[{(]", "")) - select(2, before:gsub("[})]", ""))
    if depth == 0 and not before:find "[%w_%.]$" and not before:match "%f[%w]local%s+$" then keys[#keys + 1] = word end
  end
  return keys
end

-- What an experiment's text gives to whom: name of the entry, kinds, keys.
local function uses_of(text)
  local uses = {}
  text = text:gsub("%-%-[^\n]*", "")
  local function add(kinds, name, table_text)
    if table_text then uses[#uses + 1] = { kinds = kinds, name = name, keys = keys_of(table_text) } end
  end
  for room, name, given in text:gmatch "xai%.(%a+)%.([%w_]+) ?(%b{})" do
    add(({ models = { "networks" }, dataset = { "readers" }, optim = { "optimizers", "schedules" } })[room] or {},
      name, given)
  end
  for name, given in text:gmatch "run:(%l+)(%b())" do
    if name ~= "grid" then add({ "steps" }, name, given:match "(%b{})%s*%)$") end
  end
  for given in text:gmatch "xai%.run (%b{})" do add({ "steps" }, "run", given) end
  for at, name in text:gmatch '(){ "([%w_+]+)",' do
    add({ "methods", "metrics", "regions" }, name:gsub("%+", "_plus", 1):gsub("%+", ""):gsub("_plus$", "_plus_plus"),
      text:match("^%b{}", at))
  end
  return uses
end

local entries = reference.all()

-- The options in a text that nothing takes.
local function unknown_options(text)
  local unknown, count = {}, 0
  for _, use in ipairs(uses_of(text)) do
    local takes = nil
    for _, e in ipairs(entries) do
      for _, kind in ipairs(use.kinds) do
        if e.kind == kind and e.name == use.name then takes = takes or e end
      end
    end
    for _, key in ipairs(takes and use.keys or {}) do
      count = count + 1
      if not takes.options[key] then unknown[#unknown + 1] = use.name .. ": " .. key end
    end
  end
  return unknown, count
end

t.test("experiments name no option that does not exist, and a misspelt one would be found", function()
  local wrong, count = {}, 0
  for _, name in ipairs(files.list(t.root .. "/experiments")) do
    local unknown, n = unknown_options(files.read(t.root .. "/experiments/" .. name))
    for _, text in ipairs(unknown) do wrong[#wrong + 1] = name .. ": " .. text end
    count = count + n
  end
  t.equal(table.concat(wrong, "\n"), "")
  t.ok(count > 300, "only " .. count .. " options were seen")
  local text = t.read(t.root .. "/experiments/vgg19.lua")
  t.equal(unknown_options((text:gsub("epochs = ", "epohcs = "))), { "fit: epohcs" })
  t.equal(unknown_options((t.read(t.root .. "/experiments/extras.lua"):gsub("percentile = 25", "percentil = 25"))),
    { "sobel_below: percentil" })
end)

t.test("models, methods, metrics and datasets list every entry on one line with its own options", function()
  for word, kind in pairs { models = "networks", methods = "methods", metrics = "metrics", datasets = "readers" } do
    local r, names = t.run { word }, {}
    t.equal(r.code, 0, r.err)
    for _, e in ipairs(reference.of(kind)) do names[#names + 1] = e.name end
    local listed = {}
    for line in r.out:match "^(.-)\n\n":gmatch "[^\n]+" do listed[#listed + 1] = line:match "^%S+" end
    t.equal(listed, names)
    t.ok(r.out:find "most also take: [%w_]+", r.out)
  end
  local methods = t.run { "methods" }.out
  t.ok(methods:find "\nlrp +LRP %(alpha=2, composite=", methods)
  t.equal(t.run { "methods", "gradcam" }.err, "medxai-run: methods: takes no words (got 'gradcam'). The options of "
    .. "one: medxai-run help gradcam.\n")
end)

t.test("--help NAME is help NAME; before an experiment or a command it tells the usage", function()
  t.equal(t.run({ "--help", "gradcam", "lime" }).out, help("gradcam", "lime").out)
  t.equal(t.run({ "--help", "models" }).out:match "^%S+", "usage:")
  t.equal(t.run({ "--help", "absent.lua" }).out:match "^%S+", "usage:")
  t.equal(help("datasets").out, help("readers").out)
end)
