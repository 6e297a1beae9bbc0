-- A researcher's own methods: what they may do with what they are given, what they may return, and what is said where
-- that fails.
local t = require "t"
local tiny = require "tinyexplain"
local torch = require "medxai.torch"
local explain = require "medxai.steps.explain"
local host = require "medxai.host"

local was_quiet = host.options.quiet
host.options.quiet = true

local function go(options, n, model)
  local run = tiny.run(t.tmpdir())
  options.figures = options.figures or false
  local scope <close> = require("medxai.core").memory.scope()
  return explain.run(run, model or tiny.model(), tiny.split(n or 6), options), run
end

-- The k-th record's file: 1 the map, 2 ... its raw maps.
local function stored(result, k, file) return torch.load_npy(result.dir .. "/" .. result.records[k].files[file]) end

t.test("a method may fill one buffer again and again: each image keeps its own map, facts and arrays", function()
  local buffer = torch.zeros(32, 32)
  local function own(x) return x:mean({ 1 }):squeeze(0) end
  local result = go { images = 4, methods = { again = function(x) return buffer:copy_(own(x)) end, plain = own } }
  for i = 0, 3 do t.ok(stored(result, 2 * i + 1, 2):equal(stored(result, 2 * i + 2, 2)), "image " .. i + 1) end
  local place <close> = tiny.beside { same_extras = [[
    local array, facts = require("medxai.torch").zeros(1), {}
    return { one_by_one = true, map = function(ctx, x)
      facts.mean = x:mean():item()
      return x:sum({ 1 }), { { facts = facts, arrays = { mean = array:fill_(facts.mean) } } }
    end }]] }
  result = go { images = 2, methods = { "same_extras" } }
  local store = require("medxai.explain.store").open(result.dir)
  t.ok(result.records[1].facts.mean ~= result.records[2].facts.mean)
  for i = 1, 2 do t.near(store:array(result.records[i], "mean"):item(), result.records[i].facts.mean, 1e-6) end
end)

t.test("a method and a metric may keep a tensor for the images that follow", function()
  local kept
  local function own(x)
    kept = kept or torch.ones(32, 32) * 0.5
    return x:mean({ 1 }):squeeze(0) * kept
  end
  local place <close> = tiny.beside { keeps = [[
    local weights
    return { version = 1, measure = function(map)
      weights = weights or require("medxai.torch").full({ 32, 32 }, 0.25)
      return (map * weights):sum():item()
    end }]] }
  local result = go { images = 3, methods = { own = own }, metrics = { "keeps" } }
  for i = 1, 3 do t.equal({ result.records[i].status, result.records[i].problem }, { "ok" }) end
  local rows = require("medxai.base.csv").read(result.dir .. "/scores.csv")
  for i = 1, 3 do t.near(tonumber(rows[i].value), stored(result, i, 1):sum():item() / 4, 1e-4) end
end)

t.test("every attempt and every layer gets the images as they are, though an earlier one changed them "
  .. "in place", function()
  local place <close> = tiny.beside {
    halves = [[return { map = function(ctx, x)
      x:mul_(0.5)
      for i = 1, ctx.count do if ctx.items[i].id:find("4$") then error("image 4 is odd") end end
      return x:select(1, 0)
    end }]],
    lowers = [[return { at = "layer", map = function(ctx, x) return x:sub_(0.25):select(1, 0) end }]] }
  local result = go { methods = { "halves", half = function(x) return x:mul_(0.5):squeeze(0):select(0, 0) end },
    images = "all" }
  t.equal(tiny.statuses(result), { "ok", "ok", "ok", "ok", "ok", "ok", "failed", "ok", "ok", "ok", "ok", "ok" })
  for i = 1, 6 do
    if i ~= 4 then t.ok(stored(result, 2 * i - 1, 2):equal(stored(result, 2 * i, 2)), "image " .. i) end
  end
  result = go { methods = { "lowers" }, layer = { "conv1", "conv2" }, images = 1 }
  t.ok(stored(result, 1, 2):equal(stored(result, 1, 3)))
end)

t.test("what a method returns beside its map is checked: a failure of that method, told in words, and the "
  .. "rest goes on", function()
  local files = {}
  local function returns(name, extras)
    files[name] = "return { map = function(ctx, x) return x:sum({ 1 }), " .. extras .. " end }"
  end
  returns("a_named", "{ facts = { a = 1 } }")
  returns("b_number", "{ 5 }")
  returns("c_typo", "{ { fact = { a = 1 } } }")
  returns("d_facts", "{ { facts = { a = 1, t = x } } }")
  returns("e_text", "{ { facts = 'all' } }")
  returns("f_arrays", "{ { arrays = { a = 1 } } }")
  returns("g_slash", "{ { arrays = { ['../a'] = x } } }")
  returns("h_raw", "{ { arrays = { raw = x } } }")
  returns("i_status", "{ { status = 'weird' } }")
  returns("j_more", "{ {}, {} }")
  returns("k_half", "{ { arrays = { a = x:to { dtype = 'bfloat16' } }, facts = { n = 1, list = { 1, 2 } } } }")
  returns("l_mixed", "{ { facts = { 1, a = 2 } } }")
  local place <close> = tiny.beside(files)
  local names = require("medxai.base.check").sorted_keys(files)
  table.insert(names, "sobel")
  local methods = { max = function(x) return x:squeeze(0):max(0) end,
    text = function(x) return x:squeeze(0):select(0, 0), "brightness" end }
  for i, name in ipairs(names) do methods[i] = name end
  local result = go { images = 1, methods = methods }
  local told, expected = {}, {
    "returned extras with the name 'facts' (expected a list over the images: { { facts = ... } })",
    "returned a number as extras of image 1 (expected { status =, facts =, arrays = })",
    "returned extras with the unknown name 'fact' (expected status, facts or arrays)",
    "returned facts that are no plain data: a userdata has no text (at facts.t)",
    "returned a string as facts (expected name = value)",
    "returned a number as array 'a' (expected a tensor)",
    "returned an array called '../a' (expected a plain name that does not begin with 'raw')",
    "returned an array called 'raw' (expected a plain name that does not begin with 'raw')",
    "returned the status 'weird' (expected all_negative, flat, nan, ok, saturated, sign_undecided or none)",
    "returned extras of more images than the 1 that it was given",
    "ok",
    "returned facts that are no plain data: a table is neither a list nor a map (at facts, key 1)",
    "ok", -- sobel
    "returned a tensor as extras, its second value (expected a list over the images: { { facts = ... } }). To "
    .. "return the first value alone: return (value)",
    "returned a string as extras, its second value (expected a list over the images: { { facts = ... } }). To "
    .. "return the first value alone: return (value)",
  }
  for i, record in ipairs(result.records) do told[i] = record.problem or record.status end
  t.equal(told, expected)
end)

t.test("a method or metric that writes to the model's weights stops the step: nothing later would be of "
  .. "that model", function()
  local function own(x) return x:select(0, 0):select(0, 0) end
  local function halve(model)
    torch.no_grad(function() model:parameters()[1].tensor:mul_(0.5) end)
  end
  t.fails(function()
    go { images = 2, methods = { "sobel", a = function(x, model) halve(model) return own(x) end } }
  end,
    "explain: method 'a' changed the model's weights (expected them as they were: all maps and scores are of one "
    .. "model). Let it work on model:clone().")
  t.fails(function() go { images = 2, methods = { b = function(_, model) halve(model) error("no") end } } end,
    "explain: method 'b' changed the model's weights (expected them as they were: all maps and scores are of one "
    .. "model). Let it work on model:clone().")
  local copied = go { images = 1,
    methods = { c = function(x, model) local copy <close> = model:clone() halve(copy) return own(x) end } }
  t.equal(tiny.statuses(copied), { "ok" })
  local place <close> = tiny.beside { writes = [[return { measure = function(_, ctx)
    require("medxai.torch").no_grad(function() ctx.model:parameters()[1].tensor:mul_(0.5) end)
    return 1
  end }]] }
  t.fails(function() go { images = 1, methods = { "sobel" }, metrics = { "writes" } } end,
    "explain: metric 'writes' changed the model's weights (expected them as they were: all maps and scores are of "
    .. "one model). Let it work on model:clone().")
end)

t.test("activations and gradients that nobody asked for are told apart from those that do not exist", function()
  local place <close> = tiny.beside {
    a_gradient = "return { at = 'layer', map = function(ctx) return ctx:gradient():sum({ 1 }) end }",
    b_other = "return { at = 'layer', needs = { gradient = true }, map = function(ctx) return "
    .. "ctx:gradient('conv1'):sum({ 1 }) end }",
    c_activation = "return { at = 'layer', map = function(ctx) return ctx:activation('conv1'):sum({ 1 }) end }",
    d_input = "return { map = function(ctx) return ctx:gradient('x'):sum({ 1 }) end }",
    e_nowhere = "return { map = function(ctx) return ctx:activation():sum({ 1 }) end }",
    f_nothing = "return { needs = { gradient = true }, map = function(ctx) return ctx:gradient():sum({ 1 }) end }",
    g_base = "return { at = 'layer', map = function(ctx) return ctx:base() and ctx:activation():sum({ 1 }) end }",
    h_guess = "return { at = 'layer', needs = { gradient = true }, map = function(ctx) pcall(ctx.gradient, ctx, "
    .. "'conv1') return ctx:activation():sum({ 1 }) end }" }
  local function problem(name)
    local record = go({ images = 1, methods = { name }, layer = name:find "^[abcgh]" and "conv2" or nil }).records[1]
    return record.problem and record.problem:gsub("^[^\n:]+:%d+: ", "") or record
  end
  t.equal(problem "a_gradient", "explain: no gradient was asked for at layer 'conv2' (expected needs = { gradient = "
    .. "true } in the method).")
  t.equal(problem "b_other", "explain: no gradient was asked for at layer 'conv1' (asked for: conv2). Name it as "
    .. "the method's layer.")
  t.equal(problem "c_activation", "explain: the activation of layer 'conv1' was not kept (kept: conv2). Name it as "
    .. "the method's layer.")
  t.equal(problem "d_input", "explain: no gradient was asked for at the input (expected needs = { gradient = true } "
    .. "in the method, without a layer).")
  t.equal(problem "e_nowhere", "explain: ctx:activation() needs a layer: declare at = \"layer\" or pass a name.")
  t.equal(problem "f_nothing", "explain: the gradient at which layer? A method that works on the input writes "
    .. "ctx:gradient(\"x\").")
  t.equal(problem "g_base", "explain: what a partial run from layer 'conv2' reads was not kept (expected needs = { "
    .. "base = true } in the method).")
  local guess = problem "h_guess"
  t.equal({ guess.status, guess.forwards, guess.backwards }, { "ok", 1, 0 })
end)

t.test("a function's name becomes a folder's: it stays inside the run", function()
  local function own(x) return x:select(0, 0):select(0, 0) end
  for _, name in ipairs { "../../x", "a/b", "", ".", ".hidden", "two\nlines", ("x"):rep(101) } do
    t.fails(function() go { images = 1, methods = { [name] = own } } end,
      "explain: a method's name is that of its maps' folder (expected 1 to 100 letters, digits, '_', '-' or '.', "
      .. "the first no '.', got '" .. name .. "').")
  end
  t.equal(tiny.statuses(go { images = 1, methods = { ["mein Verfahren 2.0 ä"] = own } }), { "ok" })
end)

t.test("a method file whose name people also write for one of the library's is not passed over in silence", function()
  local place <close> = tiny.beside { grad_cam = "return function(x) return x:squeeze(0):select(0, 0) end",
    sobel = "return 3" }
  t.fails(function() go { images = 1, methods = { "grad_cam" } } end,
    "explain: 'grad_cam' is the library's gradcam, but 'grad_cam.lua' lies beside the experiment too. Write "
    .. "gradcam, or give your file another name.")
  -- an experiment may be called as a method is
  t.equal(tiny.statuses(go { images = 1, methods = { "gradcam", "sobel" } }), { "ok", "ok" })
end)

t.test("what a method or metric file declares is checked, in words", function()
  local place <close> = tiny.beside {
    bare_option = "return { options = { k = 5 }, map = print }",
    odd_type = "return { options = { k = { 'float', default = 5 } }, map = print }",
    listed = "return { options = { 'k' }, map = print }", no_options = "return { options = 5, map = print }",
    checks = "return { check = 3, map = print }", smooth = "return { smoothing = true, map = print }",
    titled = "return { title = {}, map = print }", needy = "return { needs = 'gradient', map = print }",
    m_option = "return { options = { k = 5 }, measure = print }",
    m_values = "return { values = { 'a', 'b' }, measure = print }",
    m_check = "return { check = 3, measure = print }", m_title = "return { title = {}, measure = print }",
    m_needs = "return { needs = 'mask', measure = print }",
    m_names = "return { values = function() return 'a' end, measure = print }",
    m_none = "return { values = function() return {} end, measure = print }",
    m_twice = "return { values = function() return { 'a', 'a' } end, measure = print }" }
  local function refused(name, message)
    local list = name:find "^m_" and { methods = { "sobel" }, metrics = { name } } or { methods = { name } }
    t.fails(function() explain.check(list, tiny.model()) end, "explain: " .. message)
  end
  refused("bare_option", "method 'bare_option': option 'k' is not described (expected k = { \"number\", default = "
    .. "... } or { one_of = { ... } }, got number 5).")
  refused("odd_type", "method 'odd_type': option 'k' has the unknown type 'float' (expected any, boolean, function, "
    .. "integer, number, string, table or tensor).")
  refused("listed", "method 'listed': options have names (expected name = { \"number\", default = ... }, got [1]).")
  refused("no_options", "method 'no_options': options is a number (expected a table).")
  refused("checks", "method 'checks': check is a number (expected a function).")
  refused("smooth", "method 'smooth': smoothing is a boolean (expected a table).")
  refused("titled", "method 'titled': title is a table (expected a string).")
  refused("needy", "method 'needy': needs is a string (expected a table).")
  refused("m_option", "metric 'm_option': option 'k' is not described (expected k = { \"number\", default = ... } "
    .. "or { one_of = { ... } }, got number 5).")
  refused("m_values", "metric 'm_values': values is a table (expected a function).")
  refused("m_check", "metric 'm_check': check is a number (expected a function).")
  refused("m_title", "metric 'm_title': title is a table (expected a string).")
  refused("m_needs", "metric 'm_needs': needs is a string (expected a table).")
  refused("m_names", "metric 'm_names': values() returned a string (expected a list of names).")
  refused("m_none", "metric 'm_none': values() returned an empty list (expected a list of names).")
  refused("m_twice", "metric 'm_twice': values() names 'a' twice.")
end)

host.options.quiet = was_quiet
