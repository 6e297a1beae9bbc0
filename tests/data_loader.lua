-- The threaded loader: order, last batches, independence of threads, augmentation keyed by (seed, epoch, image),
-- errors, early ends, flat memory, failing allocations.
local t = require "t"
local torch = require "medxai.torch"
local xai = require "medxai"
local core = require "medxai.core"
local image = core.image

local function phantom(more)
  local o = { n_train = 21, n_val = 3, n_test = 3, size_px = 24, seed = 7 }
  for k, v in pairs(more or {}) do o[k] = v end
  return xai.dataset.phantom(o)
end

-- Everything that a loader delivers: image numbers and a digest of the pixels.
local function drain(split, options)
  local loader <close> = split:loader(options)
  local places, hash, sizes = {}, image.sha256_stream(), {}
  for batch in loader:iter() do
    local scope <close> = xai.scope()
    hash:update(batch.x:contiguous()):update(batch.y)
    for _, place in ipairs(batch.index) do places[#places + 1] = place end
    sizes[#sizes + 1] = #batch.index
  end
  return places, hash:hex(), sizes
end

t.test("batches come in order, the last one smaller, or dropped", function()
  local train = phantom().train
  local places, _, sizes = drain(train, { batch = 8 })
  t.equal(sizes, { 8, 8, 5 })
  for i = 1, 21 do t.equal(places[i], i) end
  t.equal(select(3, drain(train, { batch = 8, drop_last = true })), { 8, 8 })
  t.equal(select(3, drain(train, { batch = 30 })), { 21 })
  t.equal(select(3, drain(train, { batch = 30, drop_last = true })), {})
  t.equal(select(3, drain(train, { batch = 7 })), { 7, 7, 7 })
end)

t.test("a shuffled epoch is a permutation keyed by (seed, epoch), and is split:order's", function()
  local train = phantom().train
  local a = drain(train, { batch = 4, shuffle = true, seed = 5, epoch = 1 })
  t.equal(a, train:order(5, 1))
  t.equal(a, (drain(train, { batch = 9, shuffle = true, seed = 5, epoch = 1 })))
  local sorted = table.move(a, 1, #a, 1, {})
  table.sort(sorted)
  for i = 1, 21 do t.equal(sorted[i], i) end
  local function differs(other) return table.concat(a, " ") ~= table.concat(other, " ") end
  t.ok(differs(train:order(5, 2)) and differs(train:order(6, 1)))
  t.equal(drain(train, { order = { 3, 3, 1 } }), { 3, 3, 1 })
end)

t.test("batches equal split:batch for any number of threads and any queue depth", function()
  local dir = t.tmpdir()
  local list = {}
  for i = 1, 11 do
    local x = torch.from_string(string.rep(string.char(i * 9, 255 - i, i), 40 * 30), "uint8", { 40, 30, 3 })
    if i % 2 == 0 then x = x:select(2, 0):contiguous() end -- gray among color
    list[i] = dir .. "/" .. i .. ".png"
    image.save(list[i], x)
  end
  for _, cache_mb in ipairs { 0, 64 } do
    local hashes = {}
    for _, threads in ipairs { 1, 2, 7 } do
      local data = xai.dataset.files { paths = list, size_px = 20, resize_px = 25, cache_mb = cache_mb, augment = true }
      local _, plain = drain(data.test, { batch = 4, threads = threads, depth = threads == 7 and 1 or 3 })
      local _, changed = drain(data.test, { batch = 4, threads = threads, augment = true, shuffle = true, seed = 3,
        epoch = 2 })
      hashes[#hashes + 1] = plain .. changed
      if threads == 1 then
        local all = {}
        for i = 1, 11 do all[i] = i end
        local batch = data.test:batch(all)
        local by_hand = image.sha256_stream()
        for from = 0, 8, 4 do
          local piece = { from, math.min(from + 4, 11) }
          by_hand:update(batch.x[{ piece }]:contiguous()):update(batch.y[{ piece }]:contiguous())
        end
        t.equal(plain, by_hand:hex())
      end
    end
    t.equal(hashes[2], hashes[1])
    t.equal(hashes[3], hashes[1])
  end
end)

t.test("augmentation depends on (seed, epoch, image) alone, and is off unless asked for", function()
  local data = phantom { augment = { flip = 0.5, rotate_deg = 10, shift = 0.1, scale = 0.1, brightness = 0.2,
    contrast = 0.2 } }
  local function pictures(order, seed, epoch, augment)
    local loader <close> = data.train:loader { order = order, batch = 1, seed = seed, epoch = epoch, augment = augment }
    local list = {}
    for batch in loader:iter() do
      local scope <close> = xai.scope()
      list[batch.index[1]] = image.sha256_stream():update(batch.x):hex()
    end
    return list
  end
  local plain, a, b = pictures({ 1, 2, 3 }, 1, 1, false), pictures({ 1, 2, 3 }, 1, 1, true),
    pictures({ 3, 1, 2 }, 1, 1, true)
  t.equal(a, b)
  for i = 1, 3 do
    t.ok(a[i] ~= plain[i] and a[i] ~= pictures({ i }, 1, 2, true)[i] and a[i] ~= pictures({ i }, 2, 1, true)[i])
  end
  t.equal(plain[1], image.sha256_stream():update(data.train:batch({ 1 }).x):hex())
end)

t.test("augmentation of zero strength changes nothing; a flip of probability 1 mirrors", function()
  local data = phantom { augment = { flip = 1 } }
  local flipped <close> = data.train:loader { order = { 4 }, augment = true }
  t.equal(flipped:next().x:equal(data.train:batch({ 4 }).x:flip { 3 }), true)
  local same = phantom { augment = { flip = 0 } }
  local loader <close> = same.train:loader { order = { 4 }, augment = true }
  t.equal(loader:next().x:equal(same.train:batch({ 4 }).x), true)
end)

t.test("batches before a broken image are delivered, then the image is named", function()
  local dir, list = t.tmpdir(), {}
  for i = 1, 10 do
    list[i] = ("%s/%02d.png"):format(dir, i)
    image.save(list[i], torch.full({ 20, 20 }, i, { dtype = "uint8" }))
  end
  t.write(list[6], "broken")
  t.write(list[9], "")
  for _, threads in ipairs { 1, 4 } do
    local data = xai.dataset.files { paths = list, size_px = 16, resize_px = 16 }
    local loader <close> = data.test:loader { batch = 2, threads = threads }
    t.equal(loader:next().index, { 1, 2 })
    t.equal(loader:next().index, { 3, 4 })
    local message = ("dataset: cannot read '%s' (not a PNG, JPEG or DICOM). List it in skip.txt."):format(list[6])
    t.fails(function() loader:next() end, message)
    t.fails(function() loader:next() end, message)
  end
end)

t.test("a loader that is left early or closed stops its threads", function()
  local train = phantom { size_px = 64 }.train
  local function threads()
    local count = 0
    for _ in io.popen("ls /proc/" .. require("medxai.file").pid() .. "/task"):lines() do count = count + 1 end
    return count
  end
  local before = threads()
  for _ = 1, 5 do
    local loader = train:loader { batch = 2, threads = 3 }
    for batch in loader:iter() do
      if batch.index[1] == 3 then break end
    end
    t.fails(function() loader:next() end, "loader: it is closed.")
    loader:close()
    t.equal(loader.wait_seconds, 0)
  end
  do local unused <close> = train:loader { threads = 8 } end -- luacheck: ignore
  t.equal(threads(), before)
  t.fails(function() train:loader { threads = 0 } end,
    "loader: option 'threads' is too small (expected at least 1, got 0).")
end)

t.test("the loader measures how long it waits", function()
  local loader <close> = phantom { size_px = 200, cache_mb = 0 }.train:loader { batch = 21, threads = 1 }
  t.equal(loader.batches, 1)
  loader:next()
  t.ok(loader.wait_seconds > 0)
  t.equal(loader:next(), nil)
end)

t.test("memory is flat over epochs; the cache keeps to its budget", function()
  local data = phantom { size_px = 32, cache_mb = 10 / 1024, augment = true } -- ten pictures of 32 x 32
  local blocks
  for epoch = 1, 30 do
    drain(data.train, { batch = 4, shuffle = true, augment = true, epoch = epoch })
    if epoch == 3 then collectgarbage() collectgarbage() blocks = image.live_blocks() end
  end
  collectgarbage() collectgarbage()
  t.equal(image.live_blocks(), blocks)
  t.ok(data:native():cached() <= 10240 and data:native():cached() > 8000)
end)

t.test("every failing allocation of a set and a loader is an error, and nothing is lost", function()
  collectgarbage() collectgarbage()
  local before = image.live_blocks()
  local path = t.root .. "/tests/reference/pictures/colour.png"
  local function everything()
    local set = core.loader.set { size_px = 16, resize_px = 16, cache_bytes = 0 }
    for _ = 1, 3 do set:add(path, nil, 0) end
    local native <close> = set:loader { order = { 1, 2, 3 }, batch = 2, threads = 1, augment = { rotate_deg = 3 } }
    while native:next() do end
    set:facts(2)
    set:mask(1, "lungs")
    set:pixels(3)
  end
  for _, fail_after in ipairs { core.memory.c_fail_after, core.memory.fail_after, core.memory.lua_fail_after } do
    local done
    for n = 0, 400 do
      fail_after(n, 1000000)
      local ok, message = pcall(everything)
      fail_after(-1)
      collectgarbage() collectgarbage()
      if image.live_blocks() ~= before then
        error(("allocation %d: %d blocks lost"):format(n, image.live_blocks() - before))
      end
      if ok then done = n break end
      message = tostring(message)
      if not message:find("memory", 1, true) then error(("allocation %d: %s"):format(n, message)) end
    end
    t.ok(done and done > 2)
  end
end)

t.test("a set whose sizes do not fit is refused, so that nothing is read beyond its end", function()
  local function set(o) return core.loader.set(o) end
  local small = "dataset: resize_px is too small (expected at least size_px, 64, got %d)."
  t.fails(function() set { size_px = 64 } end, small:format(0))
  t.fails(function() set { size_px = 64, resize_px = 63 } end, small:format(63))
  t.fails(function() set { size_px = (1 << 32) + 64, resize_px = 64 } end,
    "dataset: size_px is wrong (expected 1 to 8192, got 4294967360).")
  t.fails(function() set { size_px = 64, phantom = { size_px = 32 } } end,
    "dataset: phantoms of 32 pixels do not fit size_px 64. Give resize_px.")
  local drawn = set { size_px = 64, resize_px = 64, phantom = { size_px = 32 } }
  t.equal(drawn:pixels(drawn:add("drawn", nil, 0)).shape, { 64, 64, 1 })
  t.fails(function() drawn:add("drawn", nil, 1 << 32) end,
    "dataset: label 4294967296 is wrong (expected 0 to 2147483647).")
end)

t.test("a set in use by a loader or a scan takes no images", function()
  for _, use in ipairs { function(s) return s:loader { order = { 1 } } end, function(s) return s:scan({ 1 }, 2) end } do
    local set = core.loader.set { size_px = 16, phantom = { size_px = 16 } }
    set:add("drawn", nil, 0)
    local user = use(set)
    local used = "dataset: a loader or a scan is using the set. "
    t.fails(function() set:add("drawn", nil, 0) end, used .. "Close it before images are added.")
    user:close()
    t.equal(set:add("drawn", nil, 0), 2)
  end
end)

t.test("a batch that ran out of memory is delivered by the next call, none is skipped", function()
  local set <close> = core.loader.set { size_px = 16, resize_px = 16, cache_bytes = 0, phantom = { size_px = 16 } }
  for i = 0, 5 do set:add("phantom", nil, i % 3, i) end
  local native <close> = set:loader { order = { 1, 2, 3, 4, 5, 6 }, batch = 2, threads = 1 }
  local firsts = {}
  for _ = 1, 3 do
    core.memory.fail_after(0, 2) -- the second try too
    t.fails_like(function() return native:next() end, "^out of memory: dataset ")
    core.memory.fail_after(-1)
    firsts[#firsts + 1] = select(3, native:next())
  end
  t.equal({ firsts, (native:next()) }, { { 1, 3, 5 } })
end)

t.test("a loader and a scan keep the set alive that they read", function()
  local set = core.loader.set { size_px = 16, resize_px = 16, cache_bytes = 0, phantom = { size_px = 16 } }
  for i = 0, 5 do set:add("phantom", nil, i % 3, i) end
  local native <close> = set:loader { order = { 1, 2, 3, 4, 5, 6 }, batch = 2, threads = 2 }
  local scan <close> = set:scan({ 1, 2, 3, 4, 5, 6 }, 2)
  do local _ <close> = set end
  t.fails(function() return set:count() end, "dataset: the set is closed.")
  t.equal({ select(3, native:next()), (select(3, native:next())) }, { 1, 3 })
  while not scan:wait(1) do end
end)

t.test("an interrupt ends waiting for threads as well as their work", function()
  -- 20,000 images of 2,048 pixels take an hour: a wait that does not end reaches the test's limit of two minutes
  local script = t.write(t.tmpdir() .. "/e.lua", [[
    local data = require("medxai").dataset.phantom { n_train = 20000, size_px = 2048, cache_mb = 0 }
    os.execute("(sleep 0.7; kill -INT " .. require("medxai.file").pid() .. ") &")
    data:check()]])
  t.equal(t.run({ "--quiet", script }).code, 130)
end)
