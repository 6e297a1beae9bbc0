-- Regions: label maps of real X-rays equal to scikit-image's (tests/reference/perturb_segments.py), zones of a lung
-- mask by hand, the same labels on any number of threads, what is refused, and failing allocations.
local t = require "t"
local core = require "medxai.core"
local regions = require "medxai.perturb.regions"
local torch = require "medxai.torch"
local xai = require "medxai"

local function picture(h, w) -- coloured, no two pixels alike
  local at = torch.arange(3 * h * w, { dtype = "float64" })
  return (torch.sin(at * at * 0.011) * 0.5 + 0.5):view({ 3, h, w })
end

t.test("quickshift and SLIC of twelve real X-rays equal those of scikit-image 0.19.3 and 0.26", function()
  local shared = t.shared() .. "/covid-cxr/"
  local seen = 0
  for line in io.lines(t.root .. "/tests/reference/perturb_segments.txt") do
    local scope <close> = xai.scope()
    local kind, count, digest, path = line:match "^(%S+) (%d+) (%S+) (.+)$"
    local data = xai.dataset.files { shared .. path, size_px = 224, resize_px = 224 }
    local made = regions.of(kind, data.test:batch({ 1 }).x:select(0, 0))
    t.equal(made.count, math.tointeger(tonumber(count)), path)
    t.equal(core.image.sha256(made.labels:data_string()), digest, kind .. " of " .. path)
    seen = seen + 1
  end
  t.equal(seen, 24)
end)

t.test("a window wider than the picture gives the labels of one that ends with it", function()
  local list = {}
  for i = 0, 3599 do list[i + 1] = ((i * i * 7 + i // 40 * 3) % 256) / 255 end
  local x = torch.tensor(list, { dtype = "float64" }):view(3, 30, 40)
  -- kernel size -> labels, the start of their hash, as an uncut window of 6,001 pixels a side gave them
  local expected = { [14] = "3 affdb0b5536ab077", [200] = "3 99866e147e968137", [1000] = "3 99866e147e968137" }
  for size, known in pairs(expected) do
    local labels, count = core.segment.quickshift(x, size, 20, 0.5, 0, 42)
    t.equal(("%d %s"):format(count, core.image.sha256(labels:data_string()):sub(1, 16)), known)
  end
end)

t.test("labels are the same on one thread and on two", function()
  local code = [[
    local regions, torch = require "medxai.perturb.regions", require "medxai.torch"
    local at = torch.arange(3 * 97 * 131, { dtype = "float64" })
    local image = (torch.sin(at * at * 0.011) * 0.2 + torch.sin(at * 0.0003) * 0.3 + 0.5):view({ 3, 97, 131 })
    for _, source in ipairs { "quickshift", { "slic", n_segments = 60, compactness = 30 } } do
      print(regions.of(source, image).hash)
    end]]
  local one, two = t.run { "--threads", "1", "-e", code }, t.run { "--threads", "2", "-e", code }
  t.equal(one.code, 0, one.err)
  t.equal(one.out, two.out)
end)

t.test("a grid of 2 x 3 has its cells in reading order, as even as they come", function()
  local made = regions.of({ "grid", rows = 2, columns = 3 }, picture(4, 7))
  t.equal(made.labels:tolist(), { { 0, 0, 0, 1, 1, 2, 2 }, { 0, 0, 0, 1, 1, 2, 2 }, { 3, 3, 3, 4, 4, 5, 5 },
    { 3, 3, 3, 4, 4, 5, 5 } })
  t.equal({ made.count, made.source }, { 6, "grid(columns=3, rows=2)" })
end)

t.test("lung zones: thirds of each lung by its own height, the patient's right on the image's left", function()
  local mask = torch.zeros(8, 9, { dtype = "uint8" })
  mask[{ { 1, 7 }, { 1, 4 } }]:fill_(1) -- six rows: two a zone
  mask[{ { 2, 5 }, { 5, 8 } }]:fill_(1) -- three rows: one a zone
  local labels, names = regions.lung_zones(mask)
  t.equal(labels:select(1, 2):tolist(), { 0, 1, 1, 2, 2, 3, 3, 0 })
  t.equal(labels:select(1, 6):tolist(), { 0, 0, 4, 5, 6, 0, 0, 0 })
  t.equal(labels:select(1, 4):sum():item(), 0)
  t.equal(names[2], "right upper")
end)

t.test("lung zones of a data set come from its masks and keep their names", function()
  local data = xai.dataset.covid_qu_ex { root = t.shared() .. "/covid-cxr", size_px = 64, resize_px = 64 }
  local scope <close> = xai.scope()
  local made = regions.of("lung_zones", data.test:batch({ 1 }).x:select(0, 0),
    { split = data.test, number = 1, item = data.test:item(1) })
  t.equal(made.count, 7)
  t.equal(made.names[1], "outside the lungs")
  t.equal(made.labels:eq(0):eq(data.test:mask(1, "lungs"):eq(0)):all():item(), true)
end)

t.test("a file and a function give any whole numbers, which are renumbered in ascending order", function()
  local dir = t.tmpdir()
  local labels = torch.tensor({ { 7, 7, -2 }, { 300, 7, -2 } }, { dtype = "int64" })
  torch.save_npy(dir .. "/b0.npy", labels)
  local image = picture(2, 3)
  local from_file = regions.of({ "file", path = dir .. "/{name}.npy" }, image, { item = { id = "x", name = "b0.png" } })
  t.equal(from_file.labels:tolist(), { { 1, 1, 0 }, { 2, 1, 0 } })
  local from_function = regions.of(function(_, item)
    t.equal(item.id, "x")
    return labels:double()
  end, image, { item = { id = "x" } })
  t.equal({ from_function.hash, from_function.count }, { from_file.hash, 3 })
  core.image.save(dir .. "/grey.png", torch.tensor({ { 0, 0, 9 }, { 0, 200, 9 } }, { dtype = "uint8" }))
  t.equal(regions.of({ "file", path = dir .. "/grey.png" }, image).labels:tolist(), { { 0, 0, 1 }, { 0, 2, 1 } })
end)

t.test("the hash depends on labels and shape alone", function()
  local flat = function(h, w)
    return regions.of(function() return torch.arange(6):view({ h, w }) end, picture(h, w)).hash
  end
  t.ok(flat(2, 3) ~= flat(3, 2))
  t.equal(regions.of({ "grid", rows = 2, columns = 3 }, picture(2, 3)).hash, flat(2, 3))
end)

t.test("boundaries: the plain rule, and scikit-image's with int64 labels", function()
  local map = torch.tensor({ { 0, 0, 0, 0 }, { 0, 1, 1, 0 }, { 0, 1, 1, 0 }, { 0, 0, 0, 0 } })
  local ring = { { false, true, true, false }, { true, false, false, true }, { true, false, false, true },
    { false, true, true, false } }
  t.equal(regions.boundaries(map):tolist(), ring)
  local double = { { false, true, true, false }, { true, true, true, true }, { true, true, true, true },
    { false, true, true, false } }
  t.equal(regions.boundaries(map, { compat = "scikit-image" }):tolist(), double)
  local marked = regions.mark_boundaries(torch.zeros(3, 4, 4), map)
  t.equal(marked:sum({ 1, 2 }):tolist(), { 8, 8, 0 })
end)

t.test("what has no sense is refused with its reason", function()
  local image = picture(6, 5)
  local function of(source, given) return function() regions.of(source, image, given) end end
  local function gives(labels) return of(function() return labels end) end
  t.fails_like(gives(torch.zeros(6, 5)), "^regions: function %x+ gives one region only %(expected at least 2%)%. "
    .. "Choose a finer source, for instance { \"grid\", rows = 8, columns = 8 }%.$")
  t.fails_like(gives(torch.zeros(5, 6)), "^regions: function %x+ gave labels of shape %(5, 6%) %(expected %(6, "
    .. "5%)%)%.$")
  t.fails_like(gives(torch.rand(6, 5)), "^regions: function %x+ gave labels that are not whole numbers%.$")
  t.fails_like(gives(torch.full({ 6, 5 }, 0 / 0)), "gave labels that are not whole numbers%.$")
  t.fails(gives(nil), "regions: the function returned nothing (expected a tensor (H, W)).")
  t.fails(gives(3), "regions: the function returned a number (expected a tensor (H, W)).")
  t.fails(of("quickshft"), "regions: unknown source 'quickshft'. Did you mean 'quickshift'?")
  t.fails(of({ "slic", segments = 3 }), "regions: slic: unknown option 'segments'. Did you mean 'n_segments'?")
  t.fails(of({ "quickshift", kernel_size = 0.5 }),
    "regions: quickshift: option 'kernel_size' is too small (expected at least 1, got 0.5).")
  t.fails(of({ rows = 3 }), "regions: a source is a name, { name, option = value } or a function (got a table "
    .. "without a name).")
  t.fails(of({ "grid", rows = 9, columns = 2 }), "regions: a grid of 9 x 2 is finer than the image (6 x 5).")
  t.fails(of("lung_zones"), "regions: lung_zones needs a data set with lung masks.")
  t.fails(of("lung_zones", { number = 1, split = { mask = function() end }, item = { path = "a.png" } }),
    "regions: 'a.png' has no lung mask (lung_zones needs one).")
  t.fails(of("lung_zones",
    { number = 1, split = { mask = function() return torch.zeros(6, 5, { dtype = "uint8" }) end } }),
    "regions: the lung mask is empty (lung_zones needs lungs).")
  t.fails_like(of({ "file", path = "/nowhere/x.npy" }), "/nowhere/x%.npy")
  t.fails(function() regions.of("grid", torch.zeros(2, 6, 5)) end, "regions: takes an image (3, H, W), got (2, 6, 5).")
  t.fails(function() regions.of("grid", image / 0) end, "regions: the image holds values that are not finite.")
end)

t.test("the native functions refuse other tensors and settings", function()
  local s, image = core.segment, picture(6, 5)
  t.fails(function() s.lab(image:float()) end,
    "lab: wrong tensor (expected float64 of 3 dimensions, got float32 of 3).")
  t.fails(function() s.lab(image:transpose(1, 2)) end,
    "lab: the tensor must be contiguous and on the CPU. Use t:cpu():contiguous().")
  t.fails(function() s.quickshift(image, 0, 1, 1, 0, 1) end,
    "quickshift: kernel_size: expected a number from 1 to 1000, got 0")
  t.fails(function() s.quickshift(image, 4, 1, 1, 0, 1, false, torch.zeros(5, 6, { dtype = "float64" })) end,
    "quickshift: noise: expected (6, 5), got (5, 6)")
  t.fails(function() s.slic(image, 0, 1, 0, 1, true, 0.5, 3) end, "slic: n_segments: expected 1 to 2147483647, got 0")
  t.fails(function() s.boundaries(image, 0) end,
    "boundaries: wrong tensor (expected int64 of 2 dimensions, got float64 of 3).")
end)

t.test("every allocation of a segmentation may fail", function()
  local memory, image = core.memory, torch.rand(3, 1, 1):expand({ 3, 20, 30 }) * torch.linspace(0, 1, 30)
  for _, fail_after in ipairs { memory.c_fail_after, memory.fail_after, memory.lua_fail_after } do
    for _, source in ipairs { { "quickshift", kernel_size = 1, max_dist = 2 }, { "slic", n_segments = 5 } } do
      for n = 0, 400 do
        local scope <close> = xai.scope()
        fail_after(n, 1000000)
        local ok, problem = pcall(regions.of, source, image)
        fail_after(-1)
        if ok then break end
        t.ok(tostring(problem):find "memory", tostring(problem))
        t.ok(n < 400, "never succeeds")
      end
    end
  end
end)
