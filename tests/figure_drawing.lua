-- Figures: text that fits and stays text, color scales, charts with empty and NaN data.
local t = require "t"
local core = require "medxai.core"
local drawing = require "medxai.show.drawing"
local figure = require "medxai.show.figure"
local palette = require "medxai.show.palette"
local torch = require "medxai.torch"

t.test("JET's colors equal OpenCV's at every index", function()
  local jet = palette.get "jet"
  local function at(i) return { jet:byte(3 * i + 1, 3 * i + 3) } end
  for i, rgb in pairs { [0] = { 0, 0, 128 }, [31] = { 0, 0, 252 }, [32] = { 0, 0, 255 }, [33] = { 0, 4, 255 },
      [95] = { 0, 252, 255 }, [96] = { 2, 255, 254 },
    [97] = { 6, 255, 250 }, [158] = { 250, 255, 6 }, [159] = { 254, 255, 1 }, [160] = { 255, 252, 0 },
    [222] = { 255, 4, 0 }, [223] = { 255, 0, 0 }, [224] = { 252, 0, 0 }, [255] = { 128, 0, 0 } } do
    t.equal(at(i), rgb, "index " .. i)
  end
end)

t.test("an overlay leaves the gray image where the map is 0 or NaN, and covers at most 60 %", function()
  local image = torch.full({ 3, 1, 4 }, 0.5)
  image[{ 0, 0, 0 }] = 1 -- red: only its gray counts
  local p = figure.tint(image, torch.tensor({ { 0.0, 0 / 0, 0.5, 1.0 } }), "inferno", 0, 1)
  local function pixel(i) return { p.rgb:byte(3 * i + 1, 3 * i + 3) } end
  t.equal(pixel(0), { 166, 166, 166 }) -- 0.299 + 0.701 / 2
  t.equal(pixel(1), { 128, 128, 128 })
  for i, at in pairs { [2] = 127, [3] = 255 } do
    local r, g, b = palette.get("inferno"):byte(3 * at + 1, 3 * at + 3)
    for k, v in ipairs { r, g, b } do t.near(pixel(i)[k], 0.6 * v + 0.4 * 127.5, 1) end
  end
end)

t.test("viridis and inferno get lighter from end to end, diverging is lightest in the middle", function()
  local function light(name, i)
    local r, g, b = palette.get(name):byte(3 * i + 1, 3 * i + 3)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b
  end
  for i = 8, 255, 8 do
    t.ok(light("viridis", i) > light("viridis", i - 8) and light("inferno", i) > light("inferno", i - 8), i)
  end
  t.equal({ palette.get("inferno"):byte(1, 3) }, { 0, 0, 4 })
  t.equal({ palette.get("inferno"):byte(766, 768) }, { 252, 255, 164 })
  for i = 8, 120, 8 do
    t.ok(light("diverging", i) > light("diverging", i - 8), i)
    t.ok(light("diverging", 255 - i) > light("diverging", 263 - i), i)
  end
  t.fails(function() palette.get "rainbow" end,
    "figure: unknown colors 'rainbow'. Choose one of inferno, viridis, jet, diverging, diverging_r, gray, blues.")
end)

t.test("text is wrapped and shortened to fit; bytes that are not UTF-8 become ?", function()
  local lines = drawing.wrap("a class with a rather long name and averyveryverylongwordindeed", 60, 7)
  for _, line in ipairs(lines) do t.ok(core.figure.text_width(line, 7) <= 60, line) end
  t.ok(core.figure.text_width(drawing.fit("a class with a rather long name", 60, 7), 7) <= 60)
  t.equal(drawing.fit("short", 60, 7), "short")
  t.equal(drawing.clean("a\255b\nc"), "a?b c")
  t.equal(#drawing.wrap("one two three four five six seven", 30, 7, false, 2), 2)
end)

t.test("the overlay with JET equals show_cam_on_image", function()
  local image = torch.tensor({ { { 1.0, 0.0 } }, { { 0.5, 0.0 } }, { { 0.25, 0.0 } } }) -- (3, 1, 2)
  local pixels = figure.overlay_reference(image, torch.tensor({ { 0.5, 0.0 } }))
  -- index 127: R 126, G 255, B 130; index 0: B 128. Half of each, over the largest value, (0.5 + 1) / 2 of green.
  local top = 0.75
  local function byte(v) return math.floor(255 * v / top) end
  t.equal({ pixels.rgb:byte(1, 6) }, { byte(0.5 * (1 + 126 / 255)), byte(0.5 * (0.5 + 1)),
    byte(0.5 * (0.25 + 130 / 255)), 0, 0, byte(0.5 * 128 / 255) })
end)

t.test("a drawing gives PNG, PDF and SVG of one size; quotes and angle brackets survive", function()
  local d = drawing.new(100, 50)
  d:text(10, 20, 'a < b & "c"', { size = 7 })
  d:line({ 0, 0, 10, 10 }, 1, 0xff0000)
  d:image(20, 20, 10, 10, "\255\0\0\0\255\0", 2, 1)
  local png = d:bytes("png", { dpi = 144 })
  local width, height = string.unpack(">I4I4", png, 17)
  t.equal({ width, height }, { 200, 100 })
  t.equal(d:bytes("pdf"):sub(1, 5), "%PDF-")
  t.ok(d:svg("title"):find("a &lt; b &amp; &quot;c&quot;", 1, true))
end)

t.test("charts and matrices draw with no rows, one point, NaN and long names", function()
  local nan = 0 / 0
  for _, d in ipairs {
    figure.learning_curve({}, nil),
    figure.learning_curve({ { epoch = 1, train_loss = 1.0, val_loss = nan, train_accuracy = 0.5, val_accuracy = 0.5 } },
      1),
    figure.lines {
      charts = { { series = { { label = "a very long name of a series that would not fit into the column", x = { 1, 2 },
        y = { 1e-9, 1e9 } } } } } },
    figure.confusion { classes = { "a class with a rather long name", "b" }, counts = { { 0, 0 }, { 3, 1 } } },
    figure.dots { rows = { { label = "x" }, { label = "y", value = 0.5, lo = nan, hi = nan, chance = 0.5 } },
      x_label = "v" },
  } do t.ok(#d:bytes("png", { dpi = 36 }) > 100) end
  t.fails(function() figure.panels { rows = {} } end, "figure: there is no picture to draw.")
end)

t.test("arguments that cannot be drawn are errors", function()
  local canvas <close> = core.figure.canvas("png", 10, 10, 72)
  t.fails_like(function() canvas:rect(0, 0, 1, 1, -1) end, "a color is 0x000000 to 0xffffff")
  t.fails_like(function() canvas:image(0, 0, 1, 1, "abc", 2, 2) end, "needs 3 bytes per pixel")
  t.fails_like(function() canvas:line({ 1 }, 1, 0) end, "points are x1, y1, x2, y2, ...")
  t.fails_like(function() canvas:text(0, 0, "\255", 7, 0) end, "text is not UTF%-8")
  t.fails_like(function() core.figure.color("abc", ("x"):rep(768), 0, 1) end, "needs float32 bytes")
  t.fails_like(function() core.figure.canvas("png", 8000, 8000, 600) end, "is over 32767 pixels. Use dpi = 294 or less")
  canvas:finish()
  t.fails_like(function() canvas:rect(0, 0, 1, 1, 0) end, "canvas is finished")
end)

t.test("NaN and infinite coordinates are refused, and later drawing is unaffected", function()
  local width, nan = core.figure.text_width("text", 7), 0 / 0
  for _, bad in ipairs { nan, 1 / 0, -1 / 0, 0, -1, 1e300 } do
    t.fails_like(function() core.figure.text_width("text", bad) end, "a size must be within 0.01 to 14400 pt")
  end
  t.equal(core.figure.text_width("text", 7), width)
  local function draw(also)
    local canvas <close> = core.figure.canvas("png", 20, 20, 72)
    if also then also(canvas) end
    canvas:text(1, 10, "text", 7, 0)
    return canvas:finish()
  end
  local plain = draw()
  for _, bad in ipairs { nan, 1 / 0, 1e300 } do
    t.ok(draw(function(c)
      local finite = "must be a? ?finite number"
      t.fails_like(function() c:rect(0, bad, 1, 1, 0) end, finite)
      t.fails_like(function() c:line({ 0, 0, bad, 1 }, 1, 0) end, finite)
      t.fails_like(function() c:line({ 0, 0, 1, 1 }, bad, 0) end, finite)
      t.fails_like(function() c:line({ 0, 0, 1, 1 }, 1, 0, bad) end, finite)
      t.fails_like(function() c:polygon({ 0, 0, bad, 1, 1, 1 }, 0) end, finite)
      t.fails_like(function() c:circle(0, 0, bad, 0) end, finite)
      t.fails_like(function() c:text(bad, 0, "x", 7, 0) end, finite)
      t.fails_like(function() c:text(0, 0, "x", bad, 0) end, "a size must be within")
      t.fails_like(function() c:image(0, 0, bad, 1, "abc", 1, 1) end, finite)
      t.fails_like(function() c:rect(0, 0, 1, 1, 0, bad) end, "an opacity is within 0 to 1")
    end) == plain)
  end
end)

t.test("base64 for every length modulo 3", function()
  t.equal({ core.figure.base64 "", core.figure.base64 "f", core.figure.base64 "fo", core.figure.base64 "foo",
    core.figure.base64 "\0\255\254\253" }, { "", "Zg==", "Zm8=", "Zm9v", "AP/+/Q==" })
end)

-- Fails the n-th allocation for n = 0, 1, 2 ... until f succeeds; nothing may leak.
local function sweep(fail_after, f)
  f() -- what is made once for the life of the process
  for n = 0, 2000 do
    fail_after(n, 1000000)
    local ok, message = pcall(f)
    fail_after(-1)
    if ok then return t.ok(n > 0, "no allocation was made to fail") end
    message = tostring(message)
    t.ok(message:find "out of memory" or message:find "not enough memory", message)
    collectgarbage()
  end
  error "it never got through"
end

local function draw_everything()
  local canvas <close> = core.figure.canvas("png", 20, 20, 72)
  canvas:text(1, 10, "text", 7, 0)
  canvas:image(0, 0, 5, 5, "\1\2\3", 1, 1)
  canvas:finish()
  local pdf <close> = core.figure.canvas("pdf", 20, 20)
  pdf:finish()
  return core.figure.base64(core.figure.png(core.figure.color(string.pack("<f", 0.5), palette.get "gray", 0, 1), 1, 1))
end

t.test("each allocation of the drawing surface may fail, Lua's and ours", function()
  sweep(core.memory.c_fail_after, draw_everything)
  sweep(core.memory.lua_fail_after, draw_everything)
end)

t.test("a drawing too long for 300 dpi is saved with as many as fit", function()
  local long = require("medxai.show.drawing").new(40)
  long.height = 12750
  local path = t.tmpdir() .. "/long"
  t.equal(#require("medxai.show.figure").save(long, path, { formats = { "png" } }), 1)
  local bytes = t.read(path .. ".png")
  local height = string.unpack(">I4", bytes, 21) -- 185 dpi
  t.ok(height > 32700 and height <= 32767, height)
  t.fails_like(function() require("medxai.show.figure").save(long, path, { formats = { "png" }, dpi = 300 }) end,
    "Use dpi = 185 or less")
end)
