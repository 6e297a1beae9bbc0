-- The style and script of a page's viewer (viewer.lua), and of its sortable tables. Plain JavaScript, nothing is
-- fetched. The state stands in the address (#image=3&method=gradcam), so that a link opens what is seen.
return {
  style = [==[
.viewer { border: 1px solid #ccc; border-radius: 4px; padding: .7rem; margin: 1rem 0; }
.viewer .bar { display: flex; flex-wrap: wrap; gap: .4rem 1.1rem; align-items: center; font-size: .86rem;
  margin-bottom: .6rem; }
.viewer label { display: inline-flex; gap: .35rem; align-items: center; }
.viewer select, .viewer button, .viewer input { font: inherit; }
.viewer select { max-width: 15rem; }
.viewer .panes { display: flex; flex-wrap: wrap; gap: .8rem; }
.viewer figure { margin: 0; flex: 0 1 13rem; min-width: 9rem; }
.viewer .one figure { flex-basis: 26rem; }
.viewer canvas { width: 100%; height: auto; display: block; background: #000; }
.viewer figcaption { font-size: .8rem; line-height: 1.35; padding-top: .25rem; color: #333; overflow-wrap: anywhere; }
.viewer figcaption b { font-weight: 600; }
.viewer .mark { color: #9a1b1b; }
.viewer .keys { font-size: .78rem; color: #555; margin: .6rem 0 0; max-width: none; }
.viewer .legend { display: inline-flex; gap: .4rem; align-items: center; }
.viewer .legend canvas { width: 8rem; height: .7rem; }
th.sortable { cursor: pointer; } th.sortable:hover, th.sortable:focus { text-decoration: underline; }
th[aria-sort=ascending]::after { content: " ▲"; font-size: .7em; } th[aria-sort=descending]::after { content: " ▼";
  font-size: .7em; }
@media print { .viewer .bar, .viewer .keys { display: none; } }
]==],
  source = [==[
(function () {
"use strict";
// ---- tables: a click on a heading sorts, a second one turns the order; what is no number stands last ----
function keyOf(cell) {
  var text = cell ? cell.textContent.trim().replace(/\u2212/g, "-").replace(/(\d),(?=\d{3})/g, "$1") : "";
  var number = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?/i.exec(text);
  return { number: number ? parseFloat(number[0]) : NaN, text: text.toLowerCase() };
}
function compare(a, b, sign) {
  var x = isNaN(a.number), y = isNaN(b.number);
  if (x !== y) return x ? 1 : -1;
  if (!x && a.number !== b.number) return sign * (a.number - b.number);
  return x ? sign * a.text.localeCompare(b.text) : 0;
}
function sortBy(table, head, column) {
  var sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
  table.querySelectorAll("thead th").forEach(function (h) { h.removeAttribute("aria-sort"); });
  head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
  var body = table.tBodies[0];
  var rows = Array.prototype.slice.call(body.rows).map(function (row, i) { return { row: row, i: i,
    key: keyOf(row.cells[column]) }; });
  rows.sort(function (a, b) { return compare(a.key, b.key, sign) || a.i - b.i; });
  rows.forEach(function (r) { body.appendChild(r.row); });
}
document.querySelectorAll("table").forEach(function (table) {
  if (!table.tHead || !table.tBodies[0] || table.tBodies[0].rows.length < 2) return;
  Array.prototype.forEach.call(table.tHead.rows[0].cells, function (head, column) {
    head.classList.add("sortable");
    head.tabIndex = 0;
    head.title = "sort by this column";
    head.addEventListener("click", function () { sortBy(table, head, column); });
    head.addEventListener("keydown", function (e) { if (e.key === "Enter" || e.key === " ") { e.preventDefault();
      sortBy(table, head, column); } });
  });
});

// ---- the viewer ----
var box = document.getElementById("viewer"), holder = document.getElementById("viewer-data");
if (!box || !holder) return;
var data = JSON.parse(holder.textContent);
var state = { image: 0, network: 0, method: 0, view: data.methods.length > 1 ? "methods" : "one", opacity: 60,
  scale: "own", colors: "inferno" };
var SIDE = 320, sheets = {}, pictures = {}, palettes = {};

function palette(name) {
  if (!palettes[name]) {
    var text = atob(data.colors[name]), out = new Uint8Array(text.length);
    for (var i = 0; i < text.length; i++) out[i] = text.charCodeAt(i);
    palettes[name] = out;
  }
  return palettes[name];
}
function load(cache, key, source, done) {
  var entry = cache[key];
  if (!entry) {
    entry = cache[key] = { image: new Image(), ready: false, waiting: [] };
    entry.image.onload = function () { entry.ready = true; entry.waiting.splice(0).forEach(function (f) { f(entry); });
      };
    entry.image.src = source;
  }
  if (entry.ready) done(entry); else entry.waiting.push(done);
}
function levelsOf(entry) { // the grey values of a sheet, read once
  if (!entry.levels) {
    var c = document.createElement("canvas");
    c.width = entry.image.naturalWidth;
    c.height = entry.image.naturalHeight;
    var g = c.getContext("2d", { willReadFrequently: true });
    g.drawImage(entry.image, 0, 0);
    entry.levels = g.getImageData(0, 0, c.width, c.height).data;
    entry.width = c.width;
  }
  return entry;
}
// What is said of one map. A list that is the same for all images holds one entry; words are counted from 1, 0 is none.
function entryOf(place, index) {
  if (place === undefined) return 0;
  var list = data.lists[place];
  return list.length === 1 ? list[0] : list[index];
}
function wordOf(place, index) { return data.words[entryOf(place, index) - 1]; }
function numbersOf(text) { return text.split(" ").map(Number); }
function factOf(sheet, index) {
  var size = wordOf(sheet.size, index), rect = wordOf(sheet.rect, index), high = entryOf(sheet.high, index);
  return { text: wordOf(sheet.text, index), note: wordOf(sheet.note, index),
    rows: size && numbersOf(size)[0], columns: size && numbersOf(size)[1],
    rect: rect ? numbersOf(rect) : [0, 0, 1, 1], raw: high ? [entryOf(sheet.low, index), high] : null };
}
// One map on a grid of columns x rows pixels: bilinear with half-pixel centres, as the library enlarges maps.
function enlarge(sheet, entry, fact, index, columns, rows) {
  var top = Math.floor(index / sheet.across) * sheet.rows,
    left = (index % sheet.across) * sheet.columns;
  var out = new Float32Array(columns * rows), px = entry.levels, width = entry.width, level = 1 / data.levels;
  function at(y, x) { return px[4 * ((top + y) * width + left + x)] * level; }
  for (var y = 0; y < rows; y++) {
    var v = Math.min(Math.max((y + 0.5) * fact.rows / rows - 0.5, 0), fact.rows - 1), y0 = Math.floor(v),
      y1 = Math.min(y0 + 1, fact.rows - 1), a = v - y0;
    for (var x = 0; x < columns; x++) {
      var u = Math.min(Math.max((x + 0.5) * fact.columns / columns - 0.5, 0), fact.columns - 1), x0 = Math.floor(u),
        x1 = Math.min(x0 + 1, fact.columns - 1), b = u - x0;
      out[y * columns + x] = (1 - a) * ((1 - b) * at(y0, x0) + b * at(y0, x1))
        + a * ((1 - b) * at(y1, x0) + b * at(y1, x1));
    }
  }
  return out;
}
// The largest raw value of a method's maps of one network: what 1 means on the shared scale. 0 where there is none.
function sharedTop(sheet) {
  if (sheet.top === undefined) {
    sheet.top = 0;
    data.images.forEach(function (_, i) { sheet.top = Math.max(sheet.top, entryOf(sheet.high, i)); });
  }
  return sheet.top;
}
function tint(values, columns, rows, fact, sheet) {
  var colors = palette(state.colors), picture = new ImageData(columns, rows), out = picture.data,
    opacity = 255 * state.opacity / 100;
  var low = 0, range = 1;
  if (state.scale === "shared") { low = fact.raw[0] / sharedTop(sheet);
    range = (fact.raw[1] - fact.raw[0]) / sharedTop(sheet); }
  for (var i = 0; i < values.length; i++) {
    var v = Math.min(Math.max(low + range * values[i], 0), 1), k = 3 * Math.round(255 * v);
    out[4 * i] = colors[k]; out[4 * i + 1] = colors[k + 1]; out[4 * i + 2] = colors[k + 2];
    out[4 * i + 3] = opacity * Math.min(1, 2 * v); // as the figures: clear where the map is low
  }
  var c = document.createElement("canvas");
  c.width = columns; c.height = rows;
  c.getContext("2d").putImageData(picture, 0, 0);
  return c;
}
function draw(canvas, network, method) {
  var index = state.image, sheet = data.sheets[network][method], fact = factOf(sheet, index);
  load(pictures, index, data.images[index].picture, function (picture) {
    if (state.image !== index || !canvas.isConnected) return;
    var w = picture.image.naturalWidth, h = picture.image.naturalHeight, share = SIDE / Math.max(w, h);
    canvas.width = Math.round(w * share); canvas.height = Math.round(h * share);
    var g = canvas.getContext("2d");
    g.drawImage(picture.image, 0, 0, canvas.width, canvas.height);
    canvas.dataset.drawn = "picture";
    if (!fact.rows || state.opacity === 0) return;
    if (state.scale === "shared" && (!fact.raw || !(sharedTop(sheet) > 0))) return;
    load(sheets, network + "/" + method, sheet.src, function (entry) {
      if (state.image !== index || !canvas.isConnected) return;
      var r = fact.rect, x = r[0] * canvas.width, y = r[1] * canvas.height;
      var columns = Math.max(1, Math.round(r[2] * canvas.width)), rows = Math.max(1, Math.round(r[3] * canvas.height));
      g.drawImage(tint(enlarge(sheet, levelsOf(entry), fact, index, columns, rows), columns, rows, fact, sheet), x, y);
      canvas.dataset.drawn = "map";
    });
  });
}
function element(name, text, parent, kind) {
  var e = document.createElement(name);
  if (text !== undefined) e.textContent = text;
  if (kind) e.className = kind;
  if (parent) parent.appendChild(e);
  return e;
}
function pane(parent, network, method, title) {
  var fact = factOf(data.sheets[network][method], state.image), figure = element("figure", undefined, parent),
    canvas = element("canvas", undefined, figure);
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", data.methods[method] + ", " + data.networks[network] + ", "
    + data.images[state.image].id);
  var caption = element("figcaption", undefined, figure);
  element("b", title, caption);
  if (fact.text) element("div", fact.text, caption);
  if (!fact.rows && !fact.note) element("div", "no map", caption, "mark");
  if (fact.note) element("div", fact.note, caption, "mark");
  if (state.scale === "shared" && fact.rows && !fact.raw) element("div", "no shared scale: not linear in raw values",
    caption, "mark");
  draw(canvas, network, method);
}
function render() {
  panes.textContent = "";
  panes.className = "panes " + state.view;
  if (state.view === "methods") data.methods.forEach(function (name, m) { pane(panes, state.network, m, name); });
  else if (state.view === "networks") data.networks.forEach(function (name, n) { pane(panes, n, state.method, name); });
  else pane(panes, state.network, state.method, data.methods[state.method] + ", " + data.networks[state.network]);
  about.textContent = data.images[state.image].text || "";
  Object.keys(controls).forEach(function (name) { controls[name].value = String(state[name]); });
  hideUnused();
  drawLegend();
  try { history.replaceState(null, "", "#" + address()); } catch (e) { /* some browsers refuse it for files */ }
}
function hideUnused() {
  controls.method.parentNode.style.display = state.view === "methods" || data.methods.length < 2 ? "none" : "";
  controls.network.parentNode.style.display = state.view === "networks" || data.networks.length < 2 ? "none" : "";
}
function drawLegend() {
  var colors = palette(state.colors), g = legend.getContext("2d");
  legend.width = 256; legend.height = 1;
  for (var i = 0; i < 256; i++) { g.fillStyle = "rgb(" + colors[3 * i] + "," + colors[3 * i + 1] + ","
    + colors[3 * i + 2] + ")"; g.fillRect(i, 0, 1, 1); }
}
function address() {
  return "image=" + (state.image + 1) + "&network=" + encodeURIComponent(data.networks[state.network]) + "&method="
    + encodeURIComponent(data.methods[state.method])
    + "&view=" + state.view + "&opacity=" + state.opacity + "&scale=" + state.scale + "&colors=" + state.colors;
}
function readAddress() {
  location.hash.slice(1).split("&").forEach(function (part) {
    var name = part.split("=")[0], value = decodeURIComponent(part.split("=")[1] || "");
    if (name === "image") state.image = Math.min(Math.max(parseInt(value, 10) - 1 || 0, 0), data.images.length - 1);
    if (name === "network" && data.networks.indexOf(value) >= 0) state.network = data.networks.indexOf(value);
    if (name === "method" && data.methods.indexOf(value) >= 0) state.method = data.methods.indexOf(value);
    if (name === "view" && ["one", "methods", "networks"].indexOf(value) >= 0) state.view = value;
    if (name === "opacity") state.opacity = Math.min(Math.max(parseInt(value, 10) || 0, 0), 100);
    if (name === "scale" && (value === "own" || value === "shared")) state.scale = value;
    if (name === "colors" && data.colors[value]) state.colors = value;
  });
}
function step(name, by, count) { state[name] = (state[name] + by + count) % count; render(); }

var bar = element("div", undefined, box, "bar"), controls = {};
function choice(name, title, options) {
  var label = element("label", title, bar), select = element("select", undefined, label);
  options.forEach(function (o) { var e = element("option", o[1], select); e.value = String(o[0]); });
  select.addEventListener("change", function () {
    state[name] = typeof state[name] === "number" ? parseInt(select.value, 10) : select.value;
    render();
  });
  controls[name] = select;
}
function numbered(list) { return list.map(function (name, i) { return [i, name]; }); }
choice("image", "image", data.images.map(function (image, i) { return [i, (i + 1) + ". " + image.id]; }));
choice("view", "show", [["one", "one map"], ["methods", "methods side by side"],
  ["networks", "networks side by side"]].filter(function (o) {
  return o[0] === "one" || (o[0] === "methods" ? data.methods : data.networks).length > 1; }));
choice("network", "network", numbered(data.networks));
choice("method", "method", numbered(data.methods));
choice("scale", "scale", [["own", "own: each map from 0 to 1"], ["shared", "shared: one per method and network"]]);
choice("colors", "colors", [["inferno", "inferno"], ["viridis", "viridis"],
  ["jet", "jet (not for color-blind readers)"]]);
var opacityLabel = element("label", "opacity", bar), slider = element("input", undefined, opacityLabel);
slider.type = "range"; slider.min = 0; slider.max = 100;
slider.addEventListener("input", function () { state.opacity = parseInt(slider.value, 10); render(); });
controls.opacity = slider;
var legendBox = element("span", undefined, bar, "legend");
element("span", "low", legendBox);
var legend = element("canvas", undefined, legendBox);
element("span", "high", legendBox);
var about = element("p", "", box, "note"), panes = element("div", undefined, box, "panes");
function fineness() {
  var text = "Maps are shown on a grid of at most " + data.map_px + " x " + data.map_px + " cells";
  text += data.off > 0 ? ", compressed: values are off by up to " + data.off.toFixed(3)
    + " of the scale (root mean square)." : ", in " + (data.levels + 1) + " levels.";
  return data.left_out > 0 ? text + " The first " + data.images.length + " of " + (data.images.length + data.left_out)
    + " images: more do not fit in the page." : text;
}
element("p", "Keys while the viewer is on the screen: left and right for the image, j and k for the method, n for the "
  + "network, v for the view, s for the scale, + and - for the opacity, m to hide the maps. "
  + fineness(), box, "keys");
var shownOpacity = state.opacity;
document.addEventListener("keydown", function (e) {
  var place = box.getBoundingClientRect();
  if (place.bottom < 0 || place.top > window.innerHeight) return; // not on the screen
  if (e.ctrlKey || e.metaKey || e.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(e.target.tagName)) return;
  var views = Array.prototype.map.call(controls.view.options, function (o) { return o.value; });
  if (e.key === "ArrowRight") step("image", 1, data.images.length);
  else if (e.key === "ArrowLeft") step("image", -1, data.images.length);
  else if (e.key === "j" && state.view !== "methods") step("method", 1, data.methods.length);
  else if (e.key === "k" && state.view !== "methods") step("method", -1, data.methods.length);
  else if (e.key === "n") step("network", 1, data.networks.length);
  else if (e.key === "v") { state.view = views[(views.indexOf(state.view) + 1) % views.length]; render(); }
  else if (e.key === "s") { state.scale = state.scale === "own" ? "shared" : "own"; render(); }
  else if (e.key === "+" || e.key === "=") { state.opacity = Math.min(100, state.opacity + 10); render(); }
  else if (e.key === "-") { state.opacity = Math.max(0, state.opacity - 10); render(); }
  else if (e.key === "m") { if (state.opacity) { shownOpacity = state.opacity; state.opacity = 0;
    } else state.opacity = shownOpacity || 60; render(); }
  else return;
  e.preventDefault();
});
window.addEventListener("hashchange", function () { readAddress(); render(); });
readAddress();
render();
})();
]==],
}
