-- Closes the arguments of a call while it runs. For every binding of the core and for n = 0, 1, 2 ... a finalizer runs
-- at the n-th place of the call where Lua may collect garbage, until the call has no more such places. It closes every
-- tensor and object that was passed, or the scope that holds them and the results. The same is tried where a tensor
-- allocation fails. The call must return the undisturbed result, or raise that something is closed or that memory is
-- out. A call fails the test when it ends the process or returns anything else.
--   medxai-run tests/fuzz/closing.lua [PATTERN]
-- The last line names the bindings that no case calls; the exit status is 1 where there are any. tests/memory_held.lua
-- runs it.
local core = require "medxai.core"
local core_methods = {} -- of a tensor, before torch.lua adds its own
for name in pairs(core.tensor.methods) do core_methods[#core_methods + 1] = name end
local torch = require "medxai.torch"

local only = ... -- a pattern for the names of the cases
local memory = core.memory
local dir = os.tmpname()
os.remove(dir)
os.execute("mkdir -p '" .. dir .. "'")

-- ---- what a call gave ----

local function closable(v)
  local meta = type(v) == "userdata" and debug.getmetatable(v)
  return meta and meta.__close ~= nil
end

local function text_of(v, depth)
  if core.tensor.is_tensor(v) then
    if v:is_closed() then return "closed" end
    local ok, list = pcall(v.data_string, v)
    return v.dtype .. tostring(v.shape) .. (ok and list or list)
  end
  if type(v) == "table" and depth < 5 then
    local keys, parts = {}, {}
    for k in next, v do keys[#keys + 1] = k end
    table.sort(keys, function(a, b) return tostring(a) < tostring(b) end)
    for i, k in ipairs(keys) do parts[i] = text_of(k, 5) .. "=" .. text_of(v[k], depth + 1) end
    return "{" .. table.concat(parts, ",") .. "}"
  end
  if type(v) == "number" then return ("%.17g"):format(v) end
  return (type(v) == "string" or type(v) == "boolean") and tostring(v) or type(v)
end

-- ---- the finalizer ----

local target, fired, action -- which of its runs acts, how often it ran, what it does
local witness = {}
witness.__gc = function()
  if not target then return end
  fired = fired + 1
  if fired == target + 1 then pcall(action) end
  setmetatable({}, witness) -- garbage for the next collection
end

-- f(...) with a collection at every place where Lua looks for one; with failing: at those alone where tensor allocation
-- number failing fails, for a second try collects first.
local function disturbed(n, failing, act, f, ...)
  if not failing then collectgarbage("incremental", 1, 1000, 40) end -- a whole collection each time, and soon again
  collectgarbage()
  target, fired, action = n, 0, act
  setmetatable({}, witness)
  if failing then memory.fail_after(failing, 1) end
  local result = table.pack(pcall(f, ...))
  memory.fail_after(-1)
  collectgarbage("incremental", 200, 100, 13)
  target = nil
  return fired > n, result
end

local function close_all(v, depth)
  if closable(v) then
    local _ <close> = v
  elseif type(v) == "table" and depth < 4 then
    for _, e in next, v do close_all(e, depth + 1) end
  end
end

local calls = 0
local function run_case(name, make, call)
  -- at place n, or undisturbed; gives whether there was such a place, whether it went well, and what came out
  local function attempt(n, failing, of_scope)
    local scope <close> = memory.scope()
    torch.manual_seed(1)
    local args = make()
    calls = calls + 1
    local reached, result = disturbed(n, failing, function()
      if of_scope then scope:close() else close_all(args, 0) end
    end, call, args)
    return reached, result[1], result[1] and text_of({ table.unpack(result, 2, result.n) }, 0) or tostring(result[2])
  end
  local _, good, want = attempt(-1)
  if not good then error(name .. ": the case itself fails: " .. want, 0) end
  local function check(n, failing, of_scope)
    local reached, ok, got = attempt(n, failing, of_scope)
    local says_so = got:find("closed", 1, true) or got:find("finished", 1, true)
    says_so = says_so or failing and got:find("out of memory", 1, true)
    if says_so or (ok and got == want) then return reached end
    local what = of_scope and "its scope" or "what it works with"
    local where = failing and "allocation " .. failing .. " failing" or "place " .. n
    error(("%s: %s closed, %s: %s"):format(name, what, where, ok and "another result" or "the error was: " .. got), 0)
  end
  for _, of_scope in ipairs { false, true } do
    local n = 0
    while check(n, nil, of_scope) and n < 500 do n = n + 1 end
    for failing = 0, 12 do check(0, failing, of_scope) end
  end
end

-- ---- the cases: { names of the bindings, make() -> arguments, call(arguments) -> results } ----

local cases, listed = {}, {}
local function case(names, make, call)
  cases[#cases + 1] = { names, make, call }
  for name in names:gmatch "%S+" do listed[name] = true end
end

local function x64(...) return torch.randn({ ... }, { dtype = "float64" }) end
local function none() return {} end
local function abc() return { a = torch.randn(2, 3), b = torch.randn(2, 3), c = torch.randn(3) } end

-- operators
case("tensor.op", abc, function(v) return torch.add(v.a, v.b) end)
case("tensor.op", abc, function(v) return torch.max(v.a, 1), torch.cat({ v.a, v.b, v.a }, 0), torch.split(v.a, 1) end)
case("tensor.op", abc, function(v)
  return torch.einsum("ij,kj->ik", v.a, v.b), torch.sum(v.a, { dim = { 1 }, dtype = "float64" })
end)
case("tensor.op", abc, function(v) return v.a:add_(v.b), torch.add(v.b, v.c, { out = v.a }) end)
case("tensor.op", abc, function(v)
  return torch.sort(v.a, 1, false, { out = { v.b, torch.empty({ 0 }, { dtype = "int64" }) } })
end)
case("tensor.op", abc, function(v) return v.a + v.b, v.a + 1, 2 / v.a, 7 // v.a, -v.a, 2 - v.a, v.a == v.b end)
case("tensor.op", abc, function(v)
  return torch.full({ 2, 2 }, 0.5, { dtype = "float64", device = "cpu", requires_grad = true }), v.a:clone()
end)
case("tensor.op autograd.generator", function()
  return { g = core.autograd.generator { seed = 3 }, p = torch.rand(5) }
end,
  function(v) return torch.bernoulli(v.p, { generator = v.g }) end)
case("tensor.op", function() return { a = torch.ones(2, 3) } end, function(v)
  local list = {}
  for i = 1, 100 do list[i] = v.a end
  return torch.cat(list, 0)
end)
case("tensor.op", abc, function(v) return pcall(torch.add, v.a, "one") end)

-- indexing
case("index", abc, function(v) return v.a[1], v.a[{ 1, 2 }], v.a[{ {}, { 0, 2 } }], v.a[torch.none] end)
local function rows()
  local m, i = torch.tensor { true, false, true, true }, torch.tensor({ 2, 0 }, { dtype = "int32" })
  return { a = torch.randn(4, 3), m = m, i = i, w = torch.ones({ 1, 3 }, { dtype = "float64" }) }
end
case("index", rows, function(v) return v.a[v.m], v.a[{ v.i }], v.a[{ { 1, 3 }, v.i }] end)
case("newindex", rows, function(v)
  v.a[0] = 1
  v.a[{ 1 }] = v.w
  v.a[v.m] = 5
  v.a[{ 2, { 0, 2 } }] = v.w[{ 0, { 0, 2 } }]
  return v.a:sum():item()
end)

-- fields and methods of a tensor
case("tensor.size tensor.dim tensor.numel tensor.element_size tensor.version tensor.is_same", abc, function(v)
  return v.a:size(), v.a:size(1), v.a:dim(), v.a:numel(), v.a:element_size(), v.a:version(), v.a:is_same(v.b), #v.a
end)
case("fields tensor.requires_grad_ tensor.is_closed", abc, function(v)
  v.a:requires_grad_()
  v.a.grad = v.b
  local a = v.a
  return a.shape, a.dtype, a.device, a.layout, a.grad, a.requires_grad, a.is_leaf, a.grad_fn, v.b:is_closed()
end)
case("tensor.tolist tensor.data_string tensor.item", abc, function(v)
  return v.a:tolist(), v.a:t():data_string(), v.c[0]:item()
end)
case("tostring", function()
  return { a = torch.randn(40, 40), z = torch.complex(torch.ones(3), torch.ones(3)):conj() }
end,
  function(v) return tostring(v.a), tostring(v.z), tostring(v.a:gt(0)) end)
case("tensor.to", abc, function(v)
  return core.tensor.to(v.a, nil, "float64"), core.tensor.to(v.a:t(), "cpu", nil, "contiguous", true)
end)
case("tensor.from_table tensor.from_string", none, function()
  local half = core.tensor.from_table({ 1, 2 }, "float16")
  return core.tensor.from_table { { 1.5, 2 }, { 3, 4 } }, half, core.tensor.from_string("\1\2", "int8", { 2 })
end)

-- autograd
local function leaf() return { x = torch.randn(3):requires_grad_(), g = torch.ones(3) } end
case("autograd.backward", leaf, function(v) (v.x * v.x):backward(v.g); (v.x * 2):sum():backward() return 1 end)
case("autograd.backward", function()
  local v = leaf() v.y = v.x * v.x return v end, function(v) core.autograd.backward({ v.y }, { v.g }) return v.x.grad
end)
case("autograd.grad", function() local v = leaf() v.y = v.x * v.x return v end, function(v)
  local options = { grad_outputs = { v.g, v.g }, allow_unused = true, retain_graph = true }
  return core.autograd.grad({ v.y, v.y }, { v.x }, options)
end)
case("autograd.profile", leaf, function(v)
  core.autograd.profile(true)
  local ok, message = pcall(function() (v.x * v.x):sum():backward() end)
  local ran = core.autograd.profile(false)
  if not ok then error(message, 0) end
  return #ran > 0
end)
case("autograd.guided_relu", abc, function(v) return core.autograd.guided_relu(v.a, 6) end)
case("autograd.get_rng_state autograd.set_rng_state", function()
  return { s = core.autograd.get_rng_state() }
end, function(v)
  core.autograd.set_rng_state(v.s)
  return core.autograd.get_rng_state()
end)
case("generator.get_state generator.set_state", function()
  local g = core.autograd.generator { seed = 3 }
  return { g = g, s = g:get_state() }
end, function(v) v.g:set_state(v.s) return v.g:get_state() end)
case("autograd.no_grad autograd.enable_grad autograd.autocast memory.unscoped", abc, function(v)
  local f = function(p) return p + v.b, v.a:mm(v.b:t()) end
  local cast = core.autograd.autocast({ dtype = "bfloat16" }, f, v.a)
  return core.autograd.no_grad(f, v.a), core.autograd.enable_grad(f, v.a), cast, memory.unscoped(f, v.a)
end)
case("memory.scope scope.keep scope.close", function()
  return { s = memory.scope(), a = torch.ones(2), b = torch.ones(3) }
end,
  function(v) return v.s:keep(v.a, { v.b }) end)

-- optimizers
local function optimizer()
  local w = torch.ones(4):requires_grad_()
  w.grad = torch.ones(4)
  local o = core.optim.new("adam", { lr = 0.1, beta1 = 0.8 })
  o:add_group({ "w" }, { w }, { weight_decay = 0.01 })
  return { o = o, w = w, s = torch.full({ 4 }, 0.5) }
end
case("optim.new optimizer.add_group", function()
  return { w = torch.ones(4):requires_grad_(), v = torch.ones(3):requires_grad_() }
end, function(v)
  local o = core.optim.new("sgd", { lr = 0.1, momentum = 0.5 })
  o:add_group({ "w", "v" }, { v.w, v.v }, { lr = 0.2, weight_decay = 0.1 })
  return o:lr()
end)
case("optimizer.step optimizer.state optimizer.set_state optimizer.lr optimizer.set_lr optimizer.groups \z
  optimizer.zero_grad optimizer.clear_state",
  optimizer, function(v)
    v.o:step()
    v.o:set_state("w", "exp_avg", v.s)
    local list = v.o:state()
    v.o:set_lr(0.5, 1)
    local lr, groups = v.o:lr(1), v.o:groups()
    v.o:zero_grad()
    v.o:clear_state()
    return #list, list[1].param, lr, groups
  end)

-- graphs
local function network()
  local g = core.graph.new "net"
  local x = g:input "x"
  local y = g:op("y", "linear", { { id = x }, { slot = 1 }, { slot = 2 } })
  local f = g:func("f", function(v) return v * 2 end, { y })
  local d = g:drop_path("d", f, 0.5)
  local r = g:op("r", "relu", { { id = d } })
  local s = g:state(2)
  s:set(1, torch.randn(3, 3):requires_grad_())
  s:set(2, torch.randn(3))
  return { g = g, s = s, x = torch.randn(2, 3), ids = { x, y, f, d, r }, w = torch.randn(3, 3) }
end
case("graph.new graph.input graph.op graph.func graph.drop_path graph.state graph.node graph.batch graph.count "
  .. "graph.plans",
none, function()
  local v = network()
  v.g:batch(2, 0, 1)
  return v.ids, v.g:node(2), v.g:count(), v.g:plans()
end)
case("state.run", network, function(v) return v.s:run { x = v.x, outputs = { 2, 5 }, training = true } end)
case("state.run", network, function(v)
  return core.autograd.no_grad(function()
  return v.s:run { x = v.x, outputs = { 5 }, override = { 2 }, override_tensors = { v.w }, layout = 1 }
end)
end)
case("state.run", network, function(v)
  local seen = {}
  v.s:run { x = v.x, outputs = { 5 }, each = function(id, t) seen[#seen + 1] = { id, t:sum():item() } end }
  return seen
end)
case("state.run", network, function(v)
  local values = v.s:run { x = v.x, outputs = { 2, 5 }, leaves = { 2 }, guided = true }
  return core.autograd.grad({ values[2]:sum() }, { values[1] })
end)
case("state.get state.set state.set_eval state.drop_folded state.set_requires_grad state.requires_grad \z
  state.zero_grad state.version state.close", network,
  function(v)
    v.s:set(1, v.w)
    v.s:set_eval(2, true)
    v.s:set_requires_grad(1, true)
    v.s:zero_grad()
    v.s:drop_folded()
    local w, same, version = v.s:get(1), v.s:get(1):is_same(v.s:get(1)), v.s:version()
    return w:sum():item(), same, v.s:requires_grad(1), math.type(version)
  end)

-- files
case("pt2.tensors", function() return { a = torch.ones(2, 3) } end, function(v)
  core.store.write_pt(dir .. "/y.pt", "save", { "dict", "a", v.a })
  return core.pt2.tensors(dir .. "/y.pt", "exported",
    { { record = "data/0", dtype = "float32", sizes = { 3, 2 }, strides = { 1, 3 } } })
end)
case("store.write_pt store.write_safetensors store.read", function()
  return { a = torch.ones(2, 3), b = torch.ones({ 4 }, { dtype = "int64" }):t() }
end, function(v)
  core.store.write_pt(dir .. "/x.pt", "save", { "dict", "a", v.a, "b", { "list", v.b, 1.5, "text", true }, "n", 3 })
  core.store.write_safetensors(dir .. "/x.safetensors", "save",
    '{"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},"b":{"dtype":"I64","shape":[4],"data_offsets":[24,56]}}',
    { v.a, v.b })
  return core.store.read(dir .. "/x.pt", "load"), core.store.read(dir .. "/x.safetensors", "load")
end)

-- pictures
local function picture()
  local p = torch.randint(0, 256, { 8, 9, 3 }, { dtype = "uint8" })
  local m = torch.zeros({ 8, 9 }, { dtype = "uint8" })
  m[{ { 2, 6 }, { 1, 8 } }]:fill_(255)
  return { p = p, m = m }
end
case("image.save image.load image.info image.sha256_file", picture, function(v)
  local path = dir .. "/p.png"
  core.image.save(path, v.p)
  return core.image.load(path), core.image.info(path), core.image.sha256_file(path)
end)
case("image.encode image.decode", picture, function(v)
  return core.image.decode(core.image.encode(v.p)), core.image.encode(v.m)
end)
case("image.dicom", function()
  local f <close> = assert(io.open(require("medxai.host").script_dir .. "/../reference/dicom/plain8.dcm", "rb"))
  return { bytes = f:read "a" }
end, function(v)
  local ok, x = pcall(core.image.dicom, v.bytes)
  if ok or x:find "no DCMTK" then return ok and x end
  error(x, 0)
end)
case("image.resize image.fit", picture, function(v)
  return core.image.resize(v.p, 5, 4), core.image.resize(v.m, 5, 4, "nearest"), core.image.fit(v.p, 6, 5)
end)
case("image.mask image.lung_fill image.digest", picture, function(v)
  return core.image.mask(v.p, v.m, "box"), core.image.lung_fill(v.m), core.image.digest(v.p)
end)
case("image.sha256 image.sha256_stream sha256.update sha256.hex image.live_blocks", abc, function(v)
  local hash = core.image.sha256_stream():update(v.a):update "text":hex()
  return core.image.sha256 "x", hash, type(core.image.live_blocks())
end)
case("phantom.draw", none, function() return core.phantom.draw({ size_px = 16 }, 1) end)
case("segment.lab segment.slic segment.quickshift segment.boundaries", function()
  return { p = x64(3, 10, 12):sigmoid(), n = x64(10, 12) }
end, function(v)
  local labels, count = core.segment.quickshift(v.p, 2, 4, 0.5, 0, 1, false, v.n)
  local drawn = core.segment.boundaries(labels, 0, false)
  return core.segment.lab(v.p), labels, count, drawn, core.segment.slic(v.p, 6, 10, 0, 5, true, 0.5, 3)
end)
case("impute.fill_", function()
  return { x = x64(1, 2, 5, 5), k = torch.randn(1, 5, 5):gt(0) } end, function(v) return core.impute.fill_(v.x, v.k)
end)
case("lars.path", function()
  return { g = torch.eye(3, { dtype = "float64" }), y = x64(3) }
end, function(v)
  return core.lars.path(v.g, v.y, { samples = 9, lasso = true })
end)
case("partition.new partition.start partition.ask partition.tell partition.values partition.evaluated \z
  partition.leaf_order", function()
  local p = core.partition.new { size = { 4, 4, 3 }, outputs = 2, budget = 30, queue_batch = 4, context = -1 }
  return { p = p, z = x64(2):abs(), o = x64(2) }
end, function(v)
  v.p:start(v.z, v.o)
  local boxes = v.p:ask()
  v.p:tell(torch.ones({ 2 * boxes.shape[1] }, { dtype = "float64" }))
  return v.p:values(), v.p:evaluated(), boxes, core.partition.leaf_order({ -1, 1, -2, -3 }, 3)
end)

-- sets and loaders
local function set()
  local s = core.loader.set { size_px = 8, resize_px = 8, cache_bytes = 0, phantom = { size_px = 16 } }
  for i = 0, 5 do s:add("phantom", nil, i % 3, i) end
  return s
end
case("loader.set set.add set.count set.cached set.error", none, function()
  local s = set()
  return s:count(), s:cached() >= 0, s:error(1)
end)
case("set.white image.load_mask", picture, function(v)
  local s, path = set(), dir .. "/m.png"
  s:white(1, 4095)
  core.image.save(path, v.m)
  return core.image.load_mask(path), s:count()
end)
case("set.facts set.batch set.pixels set.mask set.table set.draws", function() return { s = set() } end, function(v)
  return v.s:facts(2), v.s:batch { 1, 3 }, v.s:batch({ 2 }, true), v.s:pixels(1), v.s:mask(1, "lungs"), v.s:table(),
    v.s:draws({ 1, 2 }, { seed = 3, epoch = 1, augment = { shift = 0.1 } })
end)
case("set.moved loader.augmented", function()
  local s = set()
  return { s = s, m = s:mask(1, "lungs") }
end, function(v)
  local list = { { name = "random_rotation", degrees = { 30, 30 } },
    { name = "gaussian_blur", kernel_size = { 3, 3 } } }
  return v.s:moved(1, v.m, list, 3, 1), v.s:moved(1, v.m, { flip = 1 }, 3, 1),
    core.loader.augmented(("a"):rep(64), 8, 1, list, 3, 1, "image")
end)
case("set.near", function()
  return { s = set() } end, function(v) return v.s:near({ 1, 2, 3 }, { 1, 2, 3 }, 64, -1, 10)
end)
case("set.scan scan.wait scan.close", function() return { s = set() } end, function(v)
  local scan = v.s:scan({ 1, 2, 3, 4 }, 2)
  while not scan:wait(5) do end
  scan:close()
  return true
end)
case("set.loader loader.next loader.waited loader.batches loader.close loader.order", function()
  local s = set()
  return { s = s, l = s:loader { order = { 3, 1, 2, 5, 4 }, batch = 2, threads = 2, augment = { flip = 0.5 } } }
end, function(v)
  local batches = { v.l:batches(), v.l:waited() >= 0, core.loader.order(5, 1, 2) }
  while true do
    local x, y, first = v.l:next()
    if not x then break end
    batches[#batches + 1] = { x, y, first }
  end
  v.l:close()
  return batches
end)
case("set.loader", function() return { s = set() } end, function(v)
  local l = v.s:loader { order = { 1, 2 }, batch = 2, threads = 1 }
  local x, y = l:next()
  l:close()
  return x, y
end)

-- random numbers and drawings
case("rng.stream stream.at stream.bits stream.integers stream.normal stream.permutation stream.uniform", none,
function()
  local s = core.rng.stream { seed = 1, purpose = "test@1" }
  return s:at(3):uniform(4), s:normal(3), s:bits(3), s:integers(3, 9), s:permutation(5)
end)
case("rng.numpy_random_state rng.numpy_default_rng numpy.choice numpy.integers numpy.normal numpy.permutation \z
  numpy.randint numpy.uniform", none, function()
  local a, b = core.rng.numpy_random_state(1), core.rng.numpy_default_rng(1)
  local drawn = { a:choice(3, 4, { 0.2, 0.3, 0.5 }), b:integers(0, 9, 3), a:randint(0, 9, 3) }
  return drawn, b:normal(2), a:permutation(4), b:uniform(2)
end)
case("resample.new resample.matrix resample.signs resample.studentized bootstrap.ratio bootstrap.totals "
  .. "bootstrap.spread ssim", none,
function()
  local r = core.resample.new { seed = 1, purpose = "test@1", id = "a", units = 3, resamples = 4 }
  local x, map = core.resample.matrix({ 1, 2, 3, 4, 5, 6 }, 2), {}
  for i = 1, 144 do map[i] = i % 7 / 7 end
  local found = { #r, r:ratio({ 1, 2, 3 }, { 1, 1, 1 }), r:totals(x, 2), r:spread(x, 2, { 0.5, 1 }) }
  found[#found + 1] = core.resample.studentized(1, 0, { 1, 2 }, { 1, 1 })
  return found, core.resample.signs({ 1, -2, 3 }, 2), core.ssim(map, map, 12, 12)
end)
case("figure.canvas canvas.rect canvas.line canvas.polygon canvas.circle canvas.text canvas.image canvas.finish \z
  canvas.close", function()
  return { c = core.figure.canvas("png", 40, 30, 72) }
end, function(v)
  v.c:rect(1, 1, 9, 9, 0xff0000, 0.5)
  v.c:line({ 0, 0, 9, 9 }, 1, 0, 2)
  v.c:polygon({ 0, 0, 9, 9, 0, 9 }, 0)
  v.c:circle(5, 5, 2, 0)
  v.c:text(3, 9, "text", 8, 0)
  v.c:image(2, 2, 5, 5, ("\1"):rep(12), 2, 2)
  return v.c:finish()
end)

-- Processes that train together: a store that this process serves, and groups of one.
local function serve()
  for port = 29500, 29999 do
    local ok, store = pcall(core.dist.store, "127.0.0.1", port, true, 5)
    if ok then return port, store end
  end
  error("no port from 29500 to 29999 is free", 0)
end
local dist_names = "dist.available dist.store state.sync store.set store.get store.group store.close group.all_reduce "
  .. "group.broadcast group.reducer group.abandon group.close reducer.prepare reducer.close"
local server -- serves until this program ends
if core.dist.available() then
  local port, groups = nil, 0
  port, server = serve()
  case(dist_names, network, function(v)
    groups = groups + 1
    local store = core.dist.store("127.0.0.1", port, false, 5)
    store:set("key" .. groups, "value")
    local found = { store:get("key" .. groups, 5) }
    local group = store:group(("group%d/"):format(groups), "127.0.0.1", 0, 1, 5)
    v.s:sync(group)
    local sum = group:all_reduce(v.x:detach():clone()):sum():item()
    group:broadcast(v.w, 0)
    local p = torch.ones(3):requires_grad_()
    local reducer = group:reducer({ p }, { "p" })
    local loss = (p * 2):sum()
    reducer:prepare(loss)
    loss:backward()
    reducer:close()
    v.s:sync(nil)
    group:abandon()
    group:close()
    store:close()
    return found[1], sum, p.grad:sum():item()
  end)
else
  case(dist_names, network, function(v)
    v.s:sync(nil)
    return core.dist.available(), pcall(core.dist.store, "127.0.0.1", 29500, true, 1)
  end)
end

-- ---- which bindings there are ----

local exempt = {} -- they take no tensor and no object, and give none
for name in ([[
  tensor.is_tensor tensor.error_full tensor.torch_version tensor.name_fits tensor.deny tensor.op_names tensor.op_schemas
  tensor.close autograd.manual_seed autograd.is_grad_enabled optimizer.close device.cuda_count device.set_deterministic
  device.set_threads device.synchronize device.threads device.now device.use
  device.set_tf32 device.free_bytes memory.c_fail_after memory.collect memory.empty_cache
  memory.fail_after memory.live memory.lua_fail_after memory.reset_peak memory.set_cache memory.set_limit memory.stats
  figure.base64 figure.blend figure.color figure.png figure.text_width]]):gmatch "%S+" do exempt[name] = true end

local classes = {
  generator = "medxai.generator", optimizer = "medxai.optimizer", scope = "medxai.scope", graph = "medxai.graph",
  state = "medxai.graph_state", sha256 = "medxai.sha256", partition = "medxai.partition", set = "medxai.image_set",
  scan = "medxai.scan", loader = "medxai.loader", stream = "medxai.stream", numpy = "medxai.numpy.RandomState",
  canvas = "medxai.canvas", bootstrap = "medxai.resample", store = "medxai.dist.store", group = "medxai.dist.group",
  reducer = "medxai.dist.reducer",
}

local function missing(tensor_methods)
  local all, list = {}, {}
  local function note(prefix, functions)
    for name, f in next, functions do
      if type(f) == "function" and not name:find "^__" then all[prefix .. "." .. name] = true end
    end
  end
  for module, functions in next, core do
    if type(functions) == "function" then all[module] = true else note(module, functions) end
  end
  for prefix, class in next, classes do note(prefix, debug.getregistry()[class].__index) end
  for _, name in ipairs(tensor_methods) do all["tensor." .. name] = true end
  for name in next, all do
    if not listed[name] and not exempt[name] then list[#list + 1] = name end
  end
  table.sort(list)
  return list
end

for _, entry in ipairs(cases) do
  if not only or entry[1]:find(only) then
    io.stderr:write(entry[1], "\n") -- where it dies, this was the last one
    run_case(entry[1], entry[2], entry[3])
  end
end
os.execute("rm -rf '" .. dir .. "'")
local list = missing(core_methods)
local names = #list == 0 and "none" or table.concat(list, " ")
print(("%d cases, %d calls; bindings without a case: %s"):format(#cases, calls, names))
if #list > 0 then os.exit(1) end
