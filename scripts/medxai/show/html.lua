-- Little pieces of HTML: text made safe, tables, lists of facts. Plain strings in, plain strings out.
local drawing = require "medxai.show.drawing"

local html = {}

local entities = { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ['"'] = "&quot;" }

function html.text(value) return (drawing.clean(value):gsub('[&<>"]', entities)) end

--- A number for reading: integers whole, others with three decimals (or four significant digits), NaN by name.
function html.number(v, decimals)
  if v ~= v then return "undefined" end
  if v == math.huge or v == -math.huge then return v > 0 and "∞" or "−∞" end
  if math.type(v) == "integer" then return (string.format("%d", v)) end
  if decimals then return (string.format("%." .. decimals .. "f", v):gsub("^%-", "−")) end
  local size = math.abs(v)
  if size ~= 0 and (size < 1e-3 or size >= 1e6) then return (string.format("%.4g", v):gsub("^%-", "−")) end
  return (string.format("%.4f", v):gsub("0+$", ""):gsub("%.$", ""):gsub("^%-", "−"))
end

function html.value(v)
  if type(v) == "number" then return html.number(v) end
  if type(v) == "boolean" then return v and "yes" or "no" end
  return html.text(v)
end

--- A table. columns: list of { title, numeric = true }; rows: lists of ready HTML, with id =, warn =, mark =; class:
--- extra CSS class.
function html.table(columns, rows, class)
  local out = { string.format('<div class="scroll"><table class="%s"><thead><tr>', class or "") }
  for _, c in ipairs(columns) do
    out[#out + 1] = string.format('<th%s scope="col">%s</th>', c.numeric and ' class="n"' or "", html.text(c[1]))
  end
  out[#out + 1] = "</tr></thead><tbody>"
  for _, row in ipairs(rows) do
    local kind = row.warn and ' class="warn"' or row.mark and ' class="mark"' or ""
    out[#out + 1] = ("<tr%s%s>"):format(row.id and (' id="%s"'):format(row.id) or "", kind)
    for k, c in ipairs(columns) do
      out[#out + 1] = string.format("<td%s>%s</td>", c.numeric and ' class="n"' or "", row[k] or "")
    end
    out[#out + 1] = "</tr>"
  end
  out[#out + 1] = "</tbody></table></div>"
  return table.concat(out)
end

--- Two columns of names and values.
function html.facts(pairs_list)
  local out = { '<table class="facts"><tbody>' }
  for _, p in ipairs(pairs_list) do
    out[#out + 1] = string.format('<tr><th scope="row">%s</th><td>%s</td></tr>', html.text(p[1]), p[2])
  end
  out[#out + 1] = "</tbody></table>"
  return table.concat(out)
end

--- A figure of a page: an SVG text, or an image, with a caption of ready HTML. Figures are drawn for print; on a screen
--- they are shown larger, narrow ones so that two stand side by side.
function html.figure(svg, caption)
  svg = svg:gsub('width="([%d.]+)pt" height="([%d.]+)pt"', function(w, h)
    local scale = tonumber(w) < 320 and 1.1 or 1.2
    return string.format('width="%.1fpt" height="%.1fpt"', scale * w, scale * h)
  end, 1)
  return string.format("<figure>%s%s</figure>", svg, caption and "<figcaption>" .. caption .. "</figcaption>" or "")
end

html.style = [[
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.2rem 1.5rem 4rem; max-width: 64rem; background: #fff; color: #1a1a1a;
  font: 15px/1.5 "Noto Sans", "DejaVu Sans", "Segoe UI", Arial, sans-serif; }
h1 { font-size: 1.65rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.15rem; margin: 2.4rem 0 .7rem; padding-bottom: .25rem; border-bottom: 1px solid #1a1a1a; }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem; }
h4 { font-size: .9rem; margin: 1rem 0 .3rem; }
p { margin: .5rem 0; max-width: 46rem; }
.question { font-size: 1.05rem; color: #333; margin: 0 0 .6rem; }
.meta, .note, figcaption { color: #555; font-size: .86rem; }
table { border-collapse: collapse; font-size: .86rem; margin: .4rem 0 .8rem; }
th, td { text-align: left; padding: .24rem .9rem .24rem 0; vertical-align: top; }
thead th { border-bottom: 1px solid #1a1a1a; font-weight: 600; }
tbody td, tbody th { border-bottom: 1px solid #e4e4e4; }
tbody th { font-weight: 400; color: #555; white-space: nowrap; }
.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.n, th.n { padding-left: .9rem; padding-right: .3rem; }
.scores th.n { white-space: normal; max-width: 9rem; overflow-wrap: anywhere; } .scores .note { font-size: .9em; }
td.n + td:not(.n), th.n + th:not(.n) { padding-left: 1.2rem; }
.facts td { overflow-wrap: anywhere; }
.scroll { overflow-x: auto; }
.head { display: flex; flex-wrap: wrap; gap: .8rem 2.4rem; margin: 1.2rem 0 .4rem; }
.head div { min-width: 7rem; }
.head b { display: block; font-size: 1.45rem; font-weight: 600; line-height: 1.2; font-variant-numeric: tabular-nums; }
.head span { color: #555; font-size: .82rem; }
.warnings { border-left: 4px solid #9a1b1b; background: #fbf3f3; padding: .5rem .9rem; margin: 1rem 0; }
.warnings ul { margin: .2rem 0; padding-left: 1.2rem; }
.remark, tr.warn td { color: #9a1b1b; }
.conclusions { list-style: none; margin: 1.1rem 0; padding: 0; border-top: 2px solid #1a1a1a; border-bottom: 2px solid #1a1a1a;
  max-width: 52rem; }
.conclusions li { padding: .55rem 0; border-bottom: 1px solid #e4e4e4; }
.conclusions li:last-child { border-bottom: 0; }
.conclusions a { white-space: nowrap; margin: 0 .35rem; font-weight: 600; } .conclusions span { display: block; }
.conclusions .not_run span { color: #555; }
.judged { font-size: .78rem; } .judged th.n, .judged td.n { white-space: normal; }
.judged td.n, .judged th.n { padding: .24rem .2rem .24rem .7rem; }
tr.mark td { background: #f4f1e6; } tr:target td { background: #fdf0b5; }
figcaption a { margin-left: .35rem; }
figure { margin: 1rem 0 1.4rem; }
figure svg, figure img { display: block; max-width: 100%; height: auto; }
.numbers { color: #555; margin-left: .35rem; } .numbers code { font-size: .95em; overflow-wrap: anywhere; }
body { counter-reset: figure; } main > figure > figcaption::before, .pair > figure > figcaption::before {
  counter-increment: figure; content: "Figure " counter(figure) ". "; font-weight: 600; }
nav { display: flex; flex-wrap: wrap; gap: .2rem 1rem; font-size: .86rem; margin: .8rem 0; max-width: 52rem; }
a { color: #0b4f8a; } a:focus-visible, summary:focus-visible, th:focus-visible { outline: 2px solid #0b4f8a;
  outline-offset: 2px; }
.smoke { border-left: 4px solid #9a5b00; background: #fbf5e9; padding: .5rem .9rem; margin: 1rem 0; }
.pair { display: flex; flex-wrap: wrap; gap: 0 1.4rem; align-items: flex-start; }
pre { background: #f6f6f6; padding: .6rem .8rem; overflow-x: auto;
  font: .84rem/1.45 "DejaVu Sans Mono", Consolas, monospace; white-space: pre-wrap; }
code { font-family: "DejaVu Sans Mono", Consolas, monospace; font-size: .92em; }
details summary { cursor: pointer; color: #333; }
@media (max-width: 40rem) {
  body { padding: 1.2rem .9rem 3rem; } h1 { font-size: 1.4rem; }
  main > figure { overflow-x: auto; } main > figure > svg, main > figure > img { max-width: 38rem; }
  .scroll { background: linear-gradient(to right, #fff 60%, #fff0) local,
    linear-gradient(to left, #8886, #8880 1rem) right/1rem 100% no-repeat; }
}
@media print {
  body { max-width: none; padding: 0; font-size: 9.5pt; }
  h2 { break-after: avoid; } figure, tr, .warnings { break-inside: avoid; }
  details::details-content { content-visibility: visible; display: block; }
  details.long::details-content { display: none; } details.long summary::after { content: " (not printed)"; }
  nav { display: none; } .scroll { overflow: visible; } table { font-size: 7.5pt; }
  @page { margin: 16mm; }
}
]]

return html
