-- What a reader opens: pictures of the cases, a page that asks and saves answers.csv, a text that says what to do.
-- Every map is drawn alike: from 0 to 1, the same colors, the same opacity. Nothing here names a method.
local core = require "medxai.core"
local figure = require "medxai.show.figure"
local html = require "medxai.show.html"
local json = require "medxai.base.json"
local palette = require "medxai.show.palette"
local torch = require "medxai.torch"

local page = {}

local SIDE = 512
local COLORS = "inferno"

local function enlarged(t) -- (C, H, W) or (H, W) to a longest side of SIDE
  local planes = t:dim() == 3 and t or t:unsqueeze(0)
  local h, w = planes:size(1), planes:size(2)
  local share = SIDE / math.max(h, w)
  local size = { math.floor(h * share + 0.5), math.floor(w * share + 0.5) }
  local out = torch.upsample_bilinear2d(planes:unsqueeze(0), size, false):select(0, 0):clamp(0, 1)
  return t:dim() == 3 and out or out:select(0, 0)
end

-- A PNG of pixels alone, without any text in it.
local function png(pixels)
  return core.image.encode(torch.from_string(pixels.rgb, "uint8", { pixels.rows, pixels.columns, 3 }))
end

--- The PNG files of a case: plain, and one per map.
---@param case { picture: any, maps: any[] }
---@return table { plain = bytes, [k] = bytes }
function page.pictures(case)
  local image = enlarged(case.picture)
  local out = { plain = png(figure.pixels(image)) }
  for k, map in ipairs(case.maps) do
    out[k] = png(figure.tint(image, enlarged(map:to { dtype = "float32" }), COLORS, 0, 1))
  end
  return out
end

--- README.txt of the packet.
---@param readers integer
function page.readme(readers)
  return ([[
Reading heat maps

Each reader gets one of the folders reader-1 to reader-%d, alone. Open index.html in a browser: no network is needed,
and what is answered stays in the browser until "Save answers.csv". Or fill in answers.csv with any spreadsheet.

For each map, two questions:
  marks_the_finding  1 (not at all) to 5 (exactly): does the map mark the finding that the case names?
  would_mislead      1 (not at all) to 5 (strongly): would the map lead a colleague to a wrong reading?
seconds and remark may be empty. The letters change from case to case; some cases come twice.

This asks for opinions on maps. It does not measure whether maps help anybody to read X-rays better.
]]):format(readers)
end

local style = [[
body { max-width: none; }
.maps { display: flex; flex-wrap: wrap; gap: 1rem; }
.maps figure { margin: 0; width: 22rem; } .maps img { width: 100%; display: block; background: #000; }
fieldset { border: 0; padding: 0; margin: .5rem 0; font-size: .9rem; } legend { padding: 0; }
fieldset label { margin-right: .7rem; }
nav { display: flex; gap: .8rem; align-items: center; margin: 1rem 0; }
input[type=text] { width: 100%; font: inherit; }
button { font: inherit; padding: .25rem .9rem; }
.bar { height: .7rem; width: 10rem; display: inline-block; vertical-align: middle; }
]]

local script = [==[
(function () {
"use strict";
var cases = JSON.parse(document.getElementById("cases").textContent), reader = cases.reader, list = cases.cases;
var store = "medxai-packet-" + reader + "-" + cases.code, at = 0, answers = {}, began = Date.now();
try { answers = JSON.parse(localStorage.getItem(store)) || {}; } catch (e) { answers = {}; }
var questions = [["marks_the_finding", "Marks the finding (1 not at all, 5 exactly)"],
  ["would_mislead", "Would mislead (1 not at all, 5 strongly)"]];
function el(name, text, parent) { var e = document.createElement(name); if (text !== undefined) e.textContent = text;
  if (parent) parent.appendChild(e); return e; }
function keep() { try { localStorage.setItem(store, JSON.stringify(answers)); } catch (e) { /* private window */ } }
function answer(c, m) { var key = c + "," + m; if (!answers[key]) answers[key] = { seconds: 0 }; return answers[key]; }
function spend() {
  var c = list[at], seconds = (Date.now() - began) / 1000;
  c.maps.forEach(function (m) { answer(c.case, m).seconds += seconds / c.maps.length; });
  began = Date.now();
  keep();
}
function complete(c) { return c.maps.every(function (m) { var a = answer(c.case, m);
  return a.marks_the_finding && a.would_mislead; }); }
function ask(parent, c, m) {
  var a = answer(c.case, m);
  questions.forEach(function (q) {
    var set = el("fieldset", undefined, parent);
    el("legend", q[1], set);
    for (var v = 1; v <= 5; v++) (function (v) {
      var label = el("label", undefined, set), radio = el("input", undefined, label);
      radio.type = "radio"; radio.name = m + q[0]; radio.value = v; radio.checked = a[q[0]] === v;
      radio.addEventListener("change", function () { a[q[0]] = v; keep(); state(); });
      label.appendChild(document.createTextNode(" " + v));
    })(v);
  });
  var remark = el("input", undefined, parent);
  remark.type = "text"; remark.placeholder = "remark"; remark.value = a.remark || "";
  remark.addEventListener("input", function () { a.remark = remark.value; keep(); });
}
function figure(parent, source, title) {
  var f = el("figure", undefined, parent), image = el("img", undefined, f);
  image.src = source; image.alt = title;
  el("figcaption", title, f);
  return f;
}
function show() {
  var c = list[at], box = document.getElementById("case");
  box.textContent = "";
  el("h2", "Case " + c.case + " (" + (at + 1) + " of " + list.length + "): " + c.finding, box);
  var maps = el("div", undefined, box);
  maps.className = "maps";
  figure(maps, "cases/" + c.case + ".png", "the image");
  c.maps.forEach(function (m) { ask(figure(maps, "cases/" + c.case + "-" + m + ".png", "map " + m), c, m); });
  state();
}
function state() {
  var done = list.filter(complete).length;
  document.getElementById("state").textContent = done + " of " + list.length + " cases answered";
}
function go(by) { spend(); at = Math.min(Math.max(at + by, 0), list.length - 1); show(); window.scrollTo(0, 0); }
function quoted(text) { return /[",\n\r]/.test(text) ? '"' + text.replace(/"/g, '""') + '"' : text; }
function csv() {
  var rows = ["case,map,marks_the_finding,would_mislead,seconds,remark"];
  list.forEach(function (c) { c.maps.forEach(function (m) {
    var a = answer(c.case, m);
    rows.push([c.case, m, a.marks_the_finding || "", a.would_mislead || "", a.seconds ? a.seconds.toFixed(1) : "",
      quoted(a.remark || "")].join(","));
  }); });
  return rows.join("\n") + "\n";
}
window.answersCsv = csv;
document.getElementById("back").addEventListener("click", function () { go(-1); });
document.getElementById("next").addEventListener("click", function () { go(1); });
document.getElementById("save").addEventListener("click", function () {
  spend();
  var link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([csv()], { type: "text/csv" }));
  link.download = "answers-reader-" + reader + ".csv";
  link.click();
});
show();
})();
]==]

local function color_bar()
  local stops = {}
  for i = 0, 8 do stops[#stops + 1] = ("#%06x"):format(palette.at(COLORS, i / 8)) end
  return '<span class="bar" style="background:linear-gradient(to right,' .. table.concat(stops, ",") .. ')"></span>'
end

--- A reader's page.
---@param reader integer
---@param cases { case: string, finding: string, maps: string[] }[]
---@return string
function page.html(reader, cases)
  local data = json.write { reader = reader, cases = json.list(cases), code = json.hash(cases):sub(1, 8) }
  return '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
    .. 'content="width=device-width, initial-scale=1">'
    .. ("<title>Reader %d</title><style>%s%s</style></head><body>\n<h1>Heat maps, reader %d</h1>\n"):format(reader,
      html.style, style, reader)
    .. "<p>Each map is drawn over its image, from low " .. color_bar()
    .. " high, all on the same scale. The letters change from case to case. Answers stay in this "
    .. "browser; save them at the end.</p>\n"
    .. '<div id="case"></div>\n<nav><button id="back">Back</button><button id="next">Next</button><button '
    .. 'id="save">Save answers.csv</button><span id="state"></span></nav>\n'
    .. '<script type="application/json" id="cases">' .. data:gsub("<", "\\u003c") .. "</script>\n<script>" .. script
    .. "</script>\n</body></html>\n"
end

return page
