-- The page of a whole comparison, of made numbers and made maps: what a reader needs stands on it, and one of seven
-- networks, ten methods, three baselines and 240 images stays below 5 MB and works in Chromium.
local t = require "t"
local files = require "medxai.base.files"
local host = require "medxai.host"
local made = require "madestudy"
local report = require "medxai.steps.report"

-- Makes the folder and its page; returns the page.
local function page_of(dir, size)
  local was, real_print = host.options.quiet, print
  host.options.quiet, print = true, function() end -- luacheck: ignore
  local ok, problem = pcall(function() report.write(made.write(dir, size), {}) end)
  host.options.quiet, print = was, real_print -- luacheck: ignore
  t.ok(ok, problem)
  return t.read(dir .. "/report.html")
end

local function count(text, pattern) return select(2, text:gsub(pattern, "")) end

local small_dir, small_page -- made once

local function small()
  small_dir = small_dir or t.tmpdir()
  small_page = small_page or page_of(small_dir, { networks = 2, methods = 3, images = 2, judged = 12 })
  return small_page, small_dir
end

t.test("every figure of the page has a number, a caption that says n and chance, a text for screen readers, "
  .. "and its numbers", function()
  local page, dir = small()
  local figures, charts = 0, 0
  for figure in page:gmatch "<figure>(.-)</figure>" do
    figures = figures + 1
    local numbers = figure:match "<figcaption>.-Numbers: <code>(figures/[%w_%-]+%.csv)</code>"
    t.ok(numbers and files.exists(dir .. "/" .. numbers), figure:sub(-200))
    local description = figure:match "<svg.-<title>%S.-</title>\n<desc>(.-)</desc>"
    if description then
      charts = charts + 1
      t.ok(description:find "%d+ images" or description:find "%d+ test images", description)
    else
      t.ok(figure:find '<img alt="%S[^"]+" width="%d+" height="%d+"', figure:sub(1, 200))
    end
  end
  t.ok(figures >= 10 and charts >= 9, figures .. " figures")
  local shown = page:gsub("<script.-</script>", ""):gsub("<svg.-</svg>", "")
  for _, word in ipairs { "nan", "inf", "nil", "%-0%.00%f[^%d]", "road_combined", "auroc_macro", "macro_f1" } do
    local text = shown:match("<p>[^<]*%f[%w%-]" .. word .. "%f[^%w_][^<]*</p>")
    t.ok(not text, word .. ": " .. tostring(text))
  end
end)

t.test("the page begins with the five answers and links to its parts; headings can be linked to", function()
  local page = small()
  local first = page:match '<ol class="conclusions">.-</nav>'
  t.ok(first:find("In brackets: 95 % intervals", 1, true) and count(first, "<li ") == 5)
  t.equal(count(page, "<h2>"), 0, "a heading without a name")
  t.equal(count(first:match "<nav.+", '<a href="#'), count(page, "<h2 id="))
  t.ok(page:find("All other numbers of this page are exploratory", 1, true))
  t.ok(not page:find("Smoke run.", 1, true))
end)

-- Waits for the maps, takes the last image, the last network, one map, and sorts the first long table.
local clicks = [==[
<script>
(function () {
  var found = [], steps = [], wide = document.documentElement.scrollWidth > window.innerWidth;
  document.querySelectorAll("details").forEach(function (d) { d.open = true; });
  document.querySelectorAll(".scroll").forEach(function (s) { wide = wide || s.scrollWidth > s.clientWidth + 1; });
  function select(name) {
    return Array.prototype.filter.call(document.querySelectorAll(".viewer label"),
      function (l) { return l.textContent.indexOf(name) === 0; })[0].querySelector("select, input");
  }
  function last(name) { var e = select(name); e.value = String(e.options.length - 1);
    e.dispatchEvent(new Event("change")); }
  function drawn() { return Array.prototype.map.call(document.querySelectorAll(".viewer figure canvas"),
    function (c) { return c.dataset.drawn; }).join(","); }
  steps.push(function () { found.push(drawn()); last("image"); last("network"); });
  steps.push(function () { found.push(drawn()); var head = document.querySelectorAll("th.sortable")[0]; head.focus();
    head.dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", bubbles: true }));
    found.push(head.getAttribute("aria-sort")); });
  function run() {
    var f = steps.shift();
    if (!f) { document.title = "END " + found.join(";") + ";" + (wide ? "wide" : "fits") + " END"; return; }
    try { f(); } catch (e) { found.push("error " + e.message); }
    setTimeout(run, 1500);
  }
  setTimeout(run, 1500);
})();
</script>]==]

t.long("seven networks, ten methods, three baselines and 240 images make a page below 5 MB, all images in its viewer",
  function()
    local dir = t.tmpdir()
    local began = os.clock()
    local page = page_of(dir, { networks = 7, methods = 10, images = 240, judged = 30 })
    print(("%.2f MB, %.0f s of processor time"):format(#page / 1e6, os.clock() - began))
    local data = require("cjson").decode(page:match 'id="viewer%-data">(.-)</script>')
    t.ok(#page < 5e6, #page .. " bytes")
    t.equal({ #data.images, data.left_out, #data.networks, #data.methods }, { 240, 0, 7, 13 })
    t.ok(data.map_px >= 16 and data.off < 0.04, ("maps of %d, off by %g"):format(data.map_px, data.off))
    local browser = t.chromium()
    if not browser then t.skip "no Chromium" end
    local path = t.write(dir .. "/clicks.html", (page:gsub("</body>", function() return clicks .. "</body>" end)))
    local pipe <close> = assert(io.popen(("HOME=%s timeout 240 %s --headless --no-sandbox --disable-gpu "
      .. "--user-data-dir=%s/profile --window-size=1200,1000 --virtual-time-budget=60000 --dump-dom 'file://%s' "
      .. "2>/dev/null"):format(dir, browser, dir, path)))
    local maps = ("map,"):rep(12) .. "map"
    t.equal(pipe:read("a"):match "<title>END (.-) END</title>", ("%s;%s;ascending;fits"):format(maps, maps))
  end)
