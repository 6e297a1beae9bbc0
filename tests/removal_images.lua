-- Removal: backgrounds, OpenCV's blur, the imputer against pytorch-grad-cam and a dense solve, keyed noise, what is
-- refused.
local t = require "t"
local torch = require "medxai.torch"
local core = require "medxai.core"
local removal = require "medxai.perturb.removal"

local folder = t.root .. "/tests/reference/removal/"

local function npy(name) return torch.load_npy(folder .. name .. ".npy") end

local function stream(id) return core.rng.stream { seed = 42, purpose = "noisy_linear@1", id = id } end

local function furthest(a, b) return (a - b):abs():max():item() end

t.test("a removal is read with its numbers, and its id says them", function()
  for text, id in pairs { black = "black", [" mean "] = "mean", ["blur(31)"] = "blur(31,31)",
      ["blur( 128, 64 )"] = "blur(128,64)", noisy_linear = "noisy_linear(0.01)",
    ["noisy_linear(0)"] = "noisy_linear(0)", segment_mean = "segment_mean" } do
    t.equal(removal.parse(text).id, id)
  end
  local forms = " (expected black, white, mean, segment_mean, blur(k), blur(kx, ky) or noisy_linear(sigma))."
  t.fails(function() removal.parse "grey" end, "removal: unknown removal 'grey'" .. forms)
  t.fails(function() removal.parse "black(1)" end, "removal: unknown removal 'black(1)'" .. forms)
  t.fails(function() removal.parse "blur(31" end, "removal: unknown removal 'blur(31'" .. forms)
  t.fails(function() removal.parse "blur(a)" end, "removal: unknown removal 'blur(a)'" .. forms)
  t.fails(function() removal.parse(3) end, "removal: a removal is a text (expected black, white, mean, "
    .. "segment_mean, blur(k), blur(kx, ky) or noisy_linear(sigma), got number).")
  t.fails(function() removal.parse "blur(0)" end,
    "removal: a blur has whole sizes of at least 1 (expected blur(31) or blur(31, 15), got 'blur(0)').")
  t.fails(function() removal.parse "blur" end,
    "removal: a blur has whole sizes of at least 1 (expected blur(31) or blur(31, 15), got 'blur').")
  t.fails(function() removal.parse "noisy_linear(-1)" end,
    "removal: noisy_linear has one noise of at least 0 (expected noisy_linear(0.01), got 'noisy_linear(-1)').")
  t.fails(function() removal.parse "noisy_linear(0/0)" end, "removal: unknown removal 'noisy_linear(0/0)'" .. forms)
end)

t.test("the blur is OpenCV's: even sizes, kernels wider than the image, width before height", function()
  local x = npy "x":unsqueeze(0)
  for _, size in ipairs { { 5, 5 }, { 4, 3 }, { 1, 6 }, { 60, 7 }, { 9, 90 } } do
    local made = removal.parse(("blur(%d,%d)"):format(size[1], size[2])):background(x)
    t.ok(furthest(made:squeeze(0), npy(("blur_%d_%d"):format(size[1], size[2]))) < 2e-7, table.concat(size, " x "))
  end
end)

t.test("noisy_linear without noise is pytorch-grad-cam's imputer, nothing kept included", function()
  local x, keep, expected = npy "x", npy "keep":ne(0), npy "imputed"
  local n = keep:size(0)
  local made = removal.parse "noisy_linear(0)":apply(x:unsqueeze(0):expand({ n, 3, 19, 26 }), keep)
  t.equal(made.dtype, "float32")
  t.ok(furthest(made, expected) < 2e-7)
end)

-- The dense system of one mask, solved by LU in double precision.
local function dense(plane, keep)
  local rows, columns = plane:size(0), plane:size(1)
  local v, k, number, n = plane:flatten():tolist(), keep:flatten():tolist(), {}, 0
  for i = 1, rows * columns do
    if k[i] == 0 or k[i] == false then
      number[i] = n
      n = n + 1
    end
  end
  local a, b = torch.zeros(n, n, { dtype = "float64" }), torch.zeros(n, { dtype = "float64" })
  for y = 0, rows - 1 do
    for x = 0, columns - 1 do
      local me, sum, right = number[y * columns + x + 1], 0, 0
      for dy = -1, me and 1 or -2 do
        for dx = -1, 1 do
          local yy, xx = y + dy, x + dx
          if (dy ~= 0 or dx ~= 0) and yy >= 0 and yy < rows and xx >= 0 and xx < columns then
            local w, other = (dy == 0 or dx == 0) and 1 / 6 or 1 / 12, yy * columns + xx + 1
            sum = sum + w
            if number[other] then a[{ me, number[other] }] = -w else right = right + w * v[other] end
          end
        end
      end
      if me then a[{ me, me }], b[me] = sum, right end
    end
  end
  local solved = torch.linalg_solve(a, b):tolist()
  for i = 1, rows * columns do
    if number[i] then v[i] = solved[number[i] + 1] end
  end
  return torch.tensor(v, { dtype = "float64" }):view({ rows, columns })
end

t.test("the imputer equals a dense solve to 1e-8, for coloured and grey images", function()
  local rows, columns = 15, 22
  local at = torch.arange(3 * rows * columns, { dtype = "float64" })
  local colour = torch.sin(at * at * 0.37):view({ 3, rows, columns })
  local y, x = torch.arange(rows):view({ rows, 1 }), torch.arange(columns):view({ 1, columns })
  local masks = { ((y * 5 + x * 3 + y * x) % 4):eq(0), (y + x):lt(9), ((y - 7) * (y - 7) + (x - 11) * (x - 11)):gt(30),
    (y:eq(2) * x:eq(2)):ne(0), (y % 3):eq(0):expand({ rows, columns }) }
  for i, keep in ipairs(masks) do
    keep = keep:contiguous()
    local made = removal.parse "noisy_linear(0)":apply(colour:unsqueeze(0), keep:unsqueeze(0)):squeeze(0)
    for c = 0, 2 do t.ok(furthest(made:select(0, c), dense(colour:select(0, c), keep)) < 1e-8, "mask " .. i) end
    local grey = colour:narrow(0, 0, 1):expand({ 3, rows, columns })
    local same = removal.parse "noisy_linear(0)":apply(grey:unsqueeze(0), keep:unsqueeze(0)):squeeze(0)
    t.equal(furthest(same, made:narrow(0, 0, 1):expand({ 3, rows, columns })), 0)
  end
end)

t.test("the noise is keyed by image and pixel: masks, batches and order do not change it", function()
  local x = npy "x":unsqueeze(0)
  local r = removal.parse "noisy_linear(0.05)"
  local keep = npy "keep":ne(0)
  local some, fewer = keep:narrow(0, 0, 1), keep:narrow(0, 4, 1)
  local a = r:apply(x, some, { streams = { stream "a" } })
  local again = r:apply(x:expand({ 2, 3, 19, 26 }), torch.cat({ fewer, some }, 0),
    { streams = { stream "b", stream "a" } })
  t.equal(furthest(again:narrow(0, 1, 1), a), 0)
  local plain = removal.parse "noisy_linear(0)"
  local noise_a = (a - plain:apply(x, some)):masked_fill(some:unsqueeze(1), 0)
  local noise_b = (r:apply(x, fewer, { streams = { stream "a" } }) - plain:apply(x, fewer)):masked_fill(
    some:unsqueeze(1), 0)
  t.ok(furthest(noise_a, noise_b) < 1e-6) -- paired where both masks remove
  local removed = some:logical_not():unsqueeze(1):expand({ 1, 3, 19, 26 })
  local deviation = noise_a:masked_select(removed):std():item()
  t.ok(deviation > 0.045 and deviation < 0.055, "deviation " .. deviation)
  t.equal(furthest(a:masked_select(removed:logical_not()), x:masked_select(removed:logical_not())), 0)
  t.fails(function() r:apply(x, some) end, "removal: noisy_linear needs a keyed stream for each image (expected "
    .. "1, got 0).")
end)

t.test("black, white, mean and segment_mean, in a network's range with mean and deviation", function()
  local lo, hi = torch.tensor({ -2.0, -1.5, -1.0 }):view({ 1, 3, 1, 1 }),
    torch.tensor({ 2.0, 2.5, 3.0 }):view({ 1, 3, 1, 1 })
  local x = torch.arange(2 * 3 * 2 * 4, { dtype = "float32" }):view({ 2, 3, 2, 4 })
  local keep = torch.zeros(2, 2, 4, { dtype = "bool" })
  keep[{ { 0, 2 }, 0 }] = true
  local options = { range = { lo, hi } }
  local function taken(text, more) return removal.parse(text):apply(x, keep, more or options) end
  t.equal(taken "black"[{ 0, { 0, 3 }, 1, 0 }]:tolist(), { -2.0, -1.5, -1.0 })
  t.equal(taken "white"[{ 1, { 0, 3 }, 1, 3 }]:tolist(), { 2.0, 2.5, 3.0 })
  t.equal(furthest(taken "white"[{ { 0, 2 }, { 0, 3 }, 0 }], x[{ { 0, 2 }, { 0, 3 }, 0 }]), 0)
  t.equal(taken "mean"[{ 0, { 0, 3 }, 1, 0 }]:tolist(), { 3.5, 11.5, 19.5 })
  local labels = torch.tensor({ { 0, 0, 1, 1 }, { 0, 2, 2, 1 } })
  local one = removal.parse "segment_mean":background(x, { labels = labels })
  t.near(one[{ 0, 0 }], { { 5 / 3, 5 / 3, 4, 4 }, { 5 / 3, 5.5, 5.5, 4 } }, 1e-6)
  local two = removal.parse "segment_mean":background(x, { labels = torch.stack({ labels, labels * 0 }, 0) })
  t.near(two[{ 0, 0 }], one[{ 0, 0 }], 0)
  t.near(two[{ 1, 2 }], { { 43.5, 43.5, 43.5, 43.5 }, { 43.5, 43.5, 43.5, 43.5 } }, 1e-6)
  t.fails(function() taken("black", {}) end, "removal: 'black' needs the network's range (expected range = { "
    .. "lo, hi }).")
  t.fails(function() taken "segment_mean" end,
    "removal: 'segment_mean' needs the regions (expected labels = tensor (H, W)).")
  t.fails(function() removal.parse "segment_mean":background(x, { labels = torch.zeros(3, 3) }) end,
    "removal: labels do not fit the images (expected (2, 4) or (2, 2, 4), got (3, 3)).")
  t.fails(function() removal.parse "noisy_linear":background(x) end,
    "removal: 'noisy_linear(0.01)' has no background: it fills pixels from those that are kept.")
  t.fails(function() removal.parse "mean":apply(x, keep:narrow(0, 0, 1)) end,
    "removal: keep does not fit the images (expected bool (N, H, W) for images (2, 3, 2, 4), got bool (1, 2, 4)).")
end)

t.test("the native imputer refuses what does not fit, and runs out of memory without harm", function()
  local fill = core.impute.fill_
  local x, keep = torch.rand(1, 3, 8, 8, { dtype = "float64" }), torch.zeros(1, 8, 8, { dtype = "bool" })
  keep[{ 0, 2, 2 }] = true
  t.fails(function() fill(x:to { dtype = "float32" }, keep) end,
    "impute: x is wrong (expected float64 of 4 dimensions, got float32 of 4).")
  t.fails(function() fill(x, keep:to { dtype = "uint8" }) end,
    "impute: keep is wrong (expected bool of 3 dimensions, got uint8 of 3).")
  t.fails(function() fill(x, torch.zeros(1, 8, 9, { dtype = "bool" })) end,
    "impute: keep does not fit x (expected (1, 8, 8), got (1, 8, 9)).")
  t.fails(function() fill(x:transpose(2, 3), keep) end,
    "impute: x: the tensor must be contiguous and on the CPU. Use t:cpu():contiguous().")
  t.fails(function() fill(3, keep) end, "expected a tensor, got number")
  core.memory.c_fail_after(0, 1000)
  local ok, why = pcall(fill, x, keep)
  core.memory.c_fail_after(-1)
  t.equal({ ok, why }, { false, "impute: out of memory. Use smaller images, or fewer at once." })
  fill(x, keep)
  local empty = torch.zeros(0, 3, 8, 8, { dtype = "float64" })
  t.equal(fill(empty, torch.zeros(0, 8, 8, { dtype = "bool" })).shape, { 0, 3, 8, 8 })
end)
