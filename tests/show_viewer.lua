-- The viewer of a page: what it holds, that it stays under its limit, and in Chromium, where there is one, that it
-- works from the file alone: a script clicks through it and reads what was drawn.
local t = require "t"
local core = require "medxai.core"
local files = require "medxai.base.files"
local html = require "medxai.show.html"
local torch = require "medxai.torch"
local viewer = require "medxai.show.viewer"

-- A picture of slow waves, a map with one bright spot; image i, network n, method m move it.
local function album(images, networks, methods, side)
  local a = { images = {}, networks = {}, methods = {} }
  for i = 1, images do a.images[i] = { id = "image <" .. i .. ">", text = "class " .. i % 3 } end
  for n = 1, networks do a.networks[n] = "network_" .. n end
  for m = 1, methods do a.methods[m] = "method & " .. m end
  local grid = torch.arange(side, { dtype = "float32" })
  function a.picture(i)
    local wave = torch.sin(grid * (0.05 + 0.01 * i))
    return (wave:unsqueeze(0) * wave:unsqueeze(1) * 100 + 128):to { dtype = "uint8" }
  end
  function a.map(i, n, m)
    if i == 2 and m == 2 then return nil, { note = "flat: no contrast in this map" } end
    local x, y = (grid - side * (i % 5) / 5) / (4 + m), (grid - side * n / (networks + 1)) / 8
    local map = torch.exp(-(x * x):unsqueeze(0) - (y * y):unsqueeze(1))
    return map / map:max(), { text = "says class 1", raw = m ~= 3 and { 0, i } or nil,
      rect = m == 2 and { 0.25, 0, 0.5, 1 } or nil }
  end
  return a
end

local function data_of(page)
  local text = page:match '<script type="application/json" id="viewer%-data">(.-)</script>'
  return require("cjson").decode(text), text
end

-- What the page's script reads of image i, counted from 1: the entry of a list, the word that it stands for.
local function word_of(data, place, i)
  if not place then return nil end
  local list = data.lists[place + 1]
  local entry = #list == 1 and list[1] or list[i]
  return data.words[entry], entry
end

-- The gray values of a sheet.
local function levels_of(sheet)
  local file = t.write(t.tmpdir() .. "/sheet.b64", sheet.src:match "^data:image/%a+;base64,(.+)$")
  local pipe <close> = assert(io.popen("base64 -d '" .. file .. "'", "r"))
  return core.image.decode(pipe:read "a")
end

t.test("the viewer's 64 levels are within half a level of the maps", function()
  local scope <close> = core.memory.scope() -- luacheck: ignore
  local made = album(3, 2, 3, 64)
  local data, text = data_of(viewer.html(made))
  t.ok(not text:find("<", 1, true), "the text of an image's name ends no script")
  t.equal({ #data.images, #data.sheets, #data.sheets[1], data.images[1].id, data.map_px, data.off, data.left_out },
    { 3, 2, 3, "image <1>", 64, 0, 0 })
  local sheet = data.sheets[1][2]
  t.equal({ word_of(data, sheet.note, 1), word_of(data, sheet.note, 2), word_of(data, sheet.size, 2),
    word_of(data, sheet.size, 3), word_of(data, sheet.rect, 3), #data.words > 3 },
    { nil, "flat: no contrast in this map", nil, "64 64", "0.25 0 0.5 1", true })
  t.equal(data.sheets[1][3].high, nil)
  t.equal({ word_of(data, sheet.text, 3), data.lists[sheet.high + 1] }, { "says class 1", { 1, 0, 3 } })
  local levels = levels_of(data.sheets[2][1])
  t.equal(levels.shape, { 64, 192, 1 })
  local map = made.map(3, 2, 1)
  local tile = levels:select(2, 0):narrow(1, 128, 64):to { dtype = "float32" } / data.levels
  t.ok((tile - map):abs():max():item() <= 0.5 / data.levels + 1e-6)
  t.equal(viewer.html { images = {}, networks = {}, methods = {} }, "")
end)

t.test("maps get coarser until the viewer is below its limit, and the page says by how much they are off", function()
  local scope <close> = core.memory.scope() -- luacheck: ignore
  local made = album(20, 2, 3, 64)
  local data, text = data_of(viewer.html(made, { budget = 60000 }))
  t.ok(#text <= 60000 and data.map_px < 64, #text .. " bytes, maps of " .. data.map_px)
  t.equal({ data.left_out, data.levels }, { 0, 255 })
  local sum, sheet = 0, data.sheets[1][1]
  local levels, side = levels_of(sheet):select(2, 0):to { dtype = "float32" } / 255, data.map_px
  for i = 1, 20 do
    local coarse = torch.adaptive_avg_pool2d(made.map(i, 1, 1):view { 1, 1, 64, 64 }, { side, side })
      :view { side, side }
    local top, left = (i - 1) // sheet.across * sheet.rows, (i - 1) % sheet.across * sheet.columns
    local d = levels:narrow(0, top, side):narrow(1, left, side) - coarse
    sum = sum + (d * d):mean():item() / 20
  end
  t.ok(sum ^ 0.5 <= 0.04 and data.off > 0 and data.off < 0.04, ("%g, said %g"):format(sum ^ 0.5, data.off))
end)

t.test("where the coarsest maps do not fit the viewer shows fewer images and says so; it never stops a run", function()
  local scope <close> = core.memory.scope() -- luacheck: ignore
  local made = album(8, 1, 2, 32)
  local data, text = data_of(viewer.html(made, { budget = 9000 }))
  t.ok(#text <= 9000 and data.left_out > 0 and #data.images + data.left_out == 8, #text .. " bytes")
  t.equal(viewer.html(made, { budget = 1000 }), '<p class="note">The viewer of maps is left out: not even one image '
    .. "with its 2 maps fits in the 1000 bytes that the page has for it.</p>")
end)

t.test("the report's viewer shows every map of the explain steps over its image", function()
  local tiny = require "tinyexplain"
  local dir = t.tmpdir()
  local scope <close> = core.memory.scope() -- luacheck: ignore
  local run = tiny.run(dir)
  local explained = require("medxai.steps.explain").run(run, tiny.model(), tiny.split(6),
    { methods = { "gradcam", "sobel" }, images = { 1, 2, 3 }, figures = { "rows" } })
  local steps = { { fields = { images = {} }, result = { statuses = explained.statuses } } }
  for i = 1, 3 do steps[1].fields.images[i] = explained.records[2 * i].image_id end
  local album_of, left_out = require("medxai.show.album").of_run(run.dir, steps, { most = 2, network = "tiny" })
  t.equal({ #album_of.images, left_out, album_of.methods, album_of.networks },
    { 2, 1, { "Grad-CAM", "Sobel" }, { "tiny" } })
  t.equal(#files.list(run.dir .. "/pictures"), 3)
  local map, info = album_of.map(2, 1, 1)
  local record = explained.records[3]
  t.equal(map:tolist(), torch.load_npy(run.dir .. "/" .. record.files[1]):tolist())
  t.ok(info.text:find "^predicted %S+ [01]%.%d%d; map for %S+$", info.text)
  local drawn = require("medxai.explain.map").strength({ torch.load_npy(run.dir .. "/" .. record.files[2]) }, 32, 32)
  t.equal(record.status, "ok")
  t.near(info.raw, { drawn:min():item(), drawn:max():item() }, 1e-9)
  t.ok(#data_of(viewer.html(album_of)).images == 2)
end)

t.test("a JPEG is close to its picture; a quality out of range is refused", function()
  local picture = album(1, 1, 1, 64).picture(1)
  local back = core.image.decode(core.image.encode(picture, 90))
  t.ok((back:select(2, 0):to { dtype = "float32" } - picture:to { dtype = "float32" }):abs():max():item() <= 8)
  t.fails(function() core.image.encode(picture, 101) end,
    "image.encode: the quality is wrong (expected 1 to 100, got 101).")
end)

-- Uses the page's own controls and keys, and writes what it finds into the page.
local clicks = [==[
<script>
(function () {
  var found = [], steps = [];
  function select(name) {
    var labels = Array.prototype.slice.call(document.querySelectorAll(".viewer label"));
    return labels.filter(function (l) { return l.textContent.indexOf(name) === 0; })[0].querySelector("select, input");
  }
  function set(name, value) { var e = select(name); e.value = value;
    e.dispatchEvent(new Event(e.tagName === "SELECT" ? "change" : "input")); }
  function key(k) { document.dispatchEvent(new KeyboardEvent("keydown", { key: k, bubbles: true })); }
  function canvases() { return Array.prototype.slice.call(document.querySelectorAll(".viewer figure canvas")); }
  function names() { return Array.prototype.map.call(document.querySelectorAll("tbody tr"),
    function (r) { return r.cells[0].textContent; }).join(""); }
  function sum(canvas) { var s = 0, d = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
    for (var i = 0; i < d.length; i += 4) s += Math.abs(d[i] - d[i + 2]); return s; }
  function say(name, value) { found.push(name + "=" + value); }
  steps.push(function () {
    say("methods", canvases().length);
    say("drawn", canvases().map(function (c) { return c.dataset.drawn; }).join(","));
    say("colored", sum(canvases()[0]) > 1000);
  });
  steps.push(function () { key("m"); });
  steps.push(function () { say("hidden", canvases()[0].dataset.drawn + "," + (sum(canvases()[0]) < 1000)); key("m");
    key("ArrowRight"); });
  steps.push(function () { say("second", select("image").value);
    say("note", document.querySelectorAll(".viewer .mark").length); set("show", "networks"); });
  steps.push(function () { say("networks", canvases().length); set("method", "2"); set("scale", "shared"); });
  steps.push(function () { say("unscaled", document.querySelectorAll(".viewer .mark").length + ","
    + canvases()[0].dataset.drawn); set("method", "0"); });
  steps.push(function () { say("shared", canvases()[0].dataset.drawn); set("show", "one"); key("n"); key("j");
    set("opacity", "100"); set("colors", "viridis"); });
  steps.push(function () { say("one", canvases().length + "," + select("network").value + ","
    + select("method").value); say("address", location.hash); });
  steps.push(function () { var head = document.querySelectorAll("th.sortable")[1]; head.click(); say("up", names());
    head.click(); say("down", names()); });
  function run() {
    var f = steps.shift();
    if (!f) { document.title = "END " + found.join("; ") + " END"; return; }
    try { f(); } catch (e) { found.push("error " + e.message); }
    setTimeout(run, 300);
  }
  setTimeout(run, 500);
})();
</script>]==]

t.test("in Chromium a script clicks through the viewer of a file: images, methods, networks, scales, "
  .. "keys, tables", function()
  local browser = t.chromium()
  if not browser then t.skip "no Chromium" end
  local scope <close> = core.memory.scope() -- luacheck: ignore
  local rows = html.table({ { "name" }, { "value", numeric = true } },
    { { "a", "10.5" }, { "b", "−2" }, { "c", "undefined" }, { "d", "9" } })
  local dir = t.tmpdir()
  local page = t.write(dir .. "/page.html", '<!DOCTYPE html><html><head><meta charset="utf-8"><style>' .. html.style
    .. "</style></head><body>" .. rows
    .. viewer.html(album(3, 2, 3, 64)) .. clicks .. "</body></html>")
  local pipe <close> = assert(
    io.popen(string.format("HOME=%s timeout 120 %s --headless --no-sandbox --disable-gpu --user-data-dir=%s/profile "
    .. "--virtual-time-budget=20000 --dump-dom 'file://%s' 2>/dev/null", dir, browser, dir, page)))
  local said = pipe:read("a"):match "<title>END (.-) END</title>"
  t.equal(said, "methods=3; drawn=map,map,map; colored=true; hidden=picture,true; second=1; note=1; networks=2; "
    .. "unscaled=2,picture; shared=map; one=1,1,1; "
    .. "address=#image=2&amp;network=network_2&amp;method=method%20%26%202&amp;view=one&amp;opacity=100"
    .. "&amp;scale=shared&amp;colors=viridis; "
    .. "up=bdac; down=adbc")
end)
