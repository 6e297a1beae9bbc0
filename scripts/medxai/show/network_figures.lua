-- The figures of run:networks, from its tables alone: the networks on the primary endpoint with all pairs of them
-- beside; the other endpoints; reliability diagrams with the band in which a calibrated network would lie.
-- It refuses to draw an interval that the tables do not have: such a network is a point, and the caption says why.
local canon = require "medxai.base.json"
local drawing = require "medxai.show.drawing"
local plot = require "medxai.show.plot"

local figures = {}

local SMALL, TEXT, LEADING = drawing.SMALL, drawing.TEXT, drawing.LEADING
local SOFT, MARGIN = drawing.SOFT, plot.MARGIN
local line_height = 11

local titles = { auroc_macro = "macro AUROC", accuracy = "accuracy", balanced_accuracy = "balanced accuracy",
  macro_f1 = "macro F1", nll = "log loss (nats)", brier = "Brier score" }

local function title_of(score)
  return titles[score] or (score:gsub("^auroc ", "AUROC, "):gsub("_", " "))
end

local is_lower_better = { nll = true, brier = true }

local function is_area(score) return score:find "^auroc" ~= nil end

-- What stays between 0 and 1.
local function is_share(score) return not is_lower_better[score] end

-- ---- lines: a recipe with its trainings -----------------------------------------------------------------------------

-- Of one score, a line per recipe: the row of its one training, or the mean over its trainings, with the interval for
-- other seeds and the single trainings. In the table the trainings of a recipe come before their mean.
local function lines_of(rows, score)
  local lines, open = {}, {}
  local function close()
    for _, row in ipairs(open) do lines[#lines + 1] = { label = row.run, row = row, singles = {} } end
    open = {}
  end
  for _, row in ipairs(rows) do
    if row.score == score then
      if row.train_seed == "mean" then
        local own, others = {}, {}
        for _, one in ipairs(open) do
          local list = tostring(one.run):sub(1, #row.run + 1) == row.run .. " " and own or others
          list[#list + 1] = one
        end
        open = others
        close()
        lines[#lines + 1] = { label = ("%s, mean of %d seeds"):format(row.run, #own), row = row, singles = own }
      elseif row.train_seed == "recipe" then
        lines[#lines].recipe = row
      else
        open[#open + 1] = row
      end
    end
  end
  close()
  return lines
end

-- All numbers that a panel of lines draws.
local function values_of(lines)
  local list = {}
  local function add(row)
    for _, key in ipairs { "value", "low", "high" } do
      if row and plot.is_finite(row[key]) then list[#list + 1] = row[key] end
    end
  end
  for _, line in ipairs(lines) do
    add(line.row)
    add(line.recipe)
    for _, one in ipairs(line.singles) do add { value = one.value } end
  end
  return list
end

-- One line: the interval for other seeds above, that of these weights, single trainings as rings.
local function put_line(d, line, y, to_x, left)
  local row, recipe = line.row, line.recipe
  if recipe and recipe.low then
    plot.interval(d, y - 3.4, nil, to_x(recipe.low), to_x(recipe.high), { color = plot.ORANGE, thin = true })
  end
  for _, one in ipairs(line.singles) do
    if one.value then plot.dot(d, to_x(one.value), y, { color = plot.GRAY, hollow = true, radius = 1.7 }) end
  end
  if row.value then
    plot.interval(d, y, to_x(row.value), row.low and to_x(row.low), row.high and to_x(row.high), {})
  else
    d:text(left + 4, y + SMALL * 0.36, "undefined", { size = SMALL, color = SOFT })
  end
end

-- Lines of one score in a box; the chance level of an area is dashed. Returns the y below the axis.
local function put_lines(d, box, lines, score)
  local values = values_of(lines)
  local lo, hi = plot.range(values, is_share(score) and { 0, 1 } or { 0 })
  if is_area(score) and lo < 0.62 and lo > 0.5 then lo = 0.48 end
  local label = title_of(score) .. (is_lower_better[score] and ", lower is better" or "")
  local to_x, y = plot.x_axis(d, box, { lo = lo, hi = hi, label = label })
  if is_area(score) and lo <= 0.5 and hi >= 0.5 then
    d:line({ to_x(0.5), box.top, to_x(0.5), box.top + box.height }, 0.7, SOFT, 2)
  end
  for i, line in ipairs(lines) do put_line(d, line, box.top + (i - 0.5) * box.line, to_x, box.left) end
  return y
end

local function put_labels(d, lines, box, widest)
  for i, line in ipairs(lines) do
    d:text(box.left - 5, box.top + (i - 0.5) * box.line + SMALL * 0.36, drawing.fit(line.label, widest, SMALL),
      { size = SMALL, align = "right" })
  end
end

local function label_width(lines, most)
  local texts = {}
  for i, line in ipairs(lines) do texts[i] = line.label end
  return (plot.fitted(texts, most))
end

-- ---- what captions say ----------------------------------------------------------------------------------------------

-- "412 images of 300 patients; bars: 95 % intervals, DeLong over patients": of all rows of some scores.
local function about(rows, scores)
  local n, units, kinds, why, is_asked = 0, 0, {}, nil, {}
  for _, score in ipairs(scores) do is_asked[score] = true end
  for _, row in ipairs(rows) do
    if is_asked[row.score] then
      n, units = math.max(n, row.n or 0), math.max(units, row.units or 0)
      if row.interval and row.train_seed ~= "recipe" and not kinds[row.interval] then
        kinds[#kinds + 1], kinds[row.interval] = row.interval, true
      end
      if row.status and row.status ~= "ok" and row.train_seed ~= "recipe" then why = why or row.status end
    end
  end
  local text = plot.images(n, units)
  if #kinds > 0 then return ("%s; bars: 95 %% intervals, %s"):format(text, table.concat(kinds, ", ")) end
  return ("%s; no intervals%s"):format(text, why and " (" .. why .. ")" or "")
end

local function seeds_key(lines)
  local several, recipe = false, false
  for _, line in ipairs(lines) do
    several, recipe = several or #line.singles > 0, recipe or line.recipe and line.recipe.low ~= nil
  end
  local items = {}
  if several or recipe then
    items[1] = { mark = "dot", label = "these weights", color = plot.BLUE }
  end
  if several then
    items[#items + 1] = { mark = "dot", bare = true, hollow = true, radius = 1.7, color = plot.GRAY,
      label = "single trainings" }
  end
  if recipe then
    items[#items + 1] = { mark = "line", label = "recipe: other seeds as well", color = plot.ORANGE, width = 0.7 }
  end
  return items
end

-- ---- the primary endpoint and its pairs -----------------------------------------------------------------------------

local decision_colors = { better = plot.BLUE, worse = plot.BLUE, equivalent = plot.GREEN, identical = plot.GREEN }

-- "vgg19 − resnet50": each of the two shortened, so that neither is lost.
local function pair_name(a, b, most)
  local half = most / 2 - 6
  local left = half - drawing.text_width(a, SMALL)
  local right = half - drawing.text_width(b, SMALL)
  return drawing.fit(a, half + math.max(0, right), SMALL) .. " − " .. drawing.fit(b, half + math.max(0, left), SMALL)
end

-- Pairs of an endpoint: one line a pair, of these weights, with that of the recipes where there is one.
local function pair_lines(pairs_, score)
  local list, at = {}, {}
  for _, row in ipairs(pairs_) do
    local family = tostring(row.family)
    if row.endpoint == score and family:find "^networks " then
      local key = tostring(row.a) .. "\0" .. tostring(row.b)
      if family:find ", recipes$" then
        if at[key] then at[key].recipe = row end
      elseif not at[key] then
        at[key] = { label = pair_name(row.a, row.b, 0.23 * drawing.PAGE), row = row }
        list[#list + 1] = at[key]
      end
    end
  end
  return list
end

local function put_pair(d, line, y, to_x, box)
  local row, recipe = line.row, line.recipe
  local decision = row.decision or "undecided"
  local color = decision_colors[decision] or plot.GRAY
  if recipe and recipe.low then
    plot.interval(d, y - 3.4, nil, to_x(recipe.low), to_x(recipe.high), { color = plot.ORANGE, thin = true })
  end
  if row.estimate then
    plot.interval(d, y, to_x(row.estimate), row.low and to_x(row.low), row.high and to_x(row.high), { color = color })
  end
  local text = row.estimate and (decision:gsub("_", " ")) or "undefined"
  d:text(box.left + box.width + 4, y + SMALL * 0.36, drawing.fit(text, box.right - box.left - box.width - 4, SMALL),
    { size = SMALL, color = color == plot.GRAY and SOFT or color })
end

-- Differences of all pairs in a box; the margin of equivalence is a band. Returns the y below.
local function put_pairs(d, box, lines, margin, score)
  local values = { 0, margin, margin and -margin }
  for _, line in ipairs(lines) do
    for _, row in ipairs { line.row, line.recipe } do
      for _, key in ipairs { "estimate", "low", "high" } do values[#values + 1] = row[key] or 0 end
    end
  end
  local lo, hi = plot.range(values)
  local band = margin and { lo = math.max(lo, -margin), hi = math.min(hi, margin) }
  if band then
    local x = box.left + box.width * (band.lo - lo) / (hi - lo)
    d:rect(x, box.top, box.width * (band.hi - band.lo) / (hi - lo), box.height, plot.BAND)
  end
  local to_x, y = plot.x_axis(d, box, { lo = lo, hi = hi, label = "difference of " .. title_of(score) })
  d:line({ to_x(0), box.top, to_x(0), box.top + box.height }, 0.7, SOFT, 2)
  for i, line in ipairs(lines) do put_pair(d, line, box.top + (i - 0.5) * box.line, to_x, box) end
  put_labels(d, lines, box, box.labels)
  return y
end

-- The pairs that fill a page, and the caption's word where there are more.
local most_pairs = 55
local function cut_pairs(pairs_)
  if #pairs_ <= most_pairs then return pairs_ end
  local words = ("The first %d of %d pairs; all are in the table."):format(most_pairs, #pairs_)
  return table.move(pairs_, 1, most_pairs, 1, {}), words
end

local function forest_caption(data, lines, pairs_)
  local chance = is_area(data.primary) and "chance level 0.5" or "no fixed chance level"
  local list = { ("%s; %s."):format(about(data.rows, { data.primary }), chance) }
  if #pairs_ > 0 then
    list[2] = ("Right: differences of these weights, named where Holm's test over %s and the interval agree%s."):format(
      plot.count(#pairs_, "pair"), data.margin and (" (band: equivalence margin ±%g)"):format(data.margin) or "")
  end
  if #lines == 1 then list[#list + 1] = "There is one network: nothing is compared." end
  return list
end

--- The networks on the primary endpoint, and beside them all pairs of them.
---@param data table rows (of tables/networks.csv), pairs (of tables/pairs.csv), primary, margin
---@return table drawing
---@return table[] rows what is drawn
function figures.forest(data)
  local lines, all = lines_of(data.rows, data.primary), pair_lines(data.pairs, data.primary)
  local pairs_, more = cut_pairs(all)
  local width = #pairs_ > 0 and drawing.PAGE or drawing.COLUMN
  local d = drawing.new(width)
  local half = #pairs_ > 0 and 0.45 * width or width
  local labels = label_width(lines, 0.45 * half)
  local top = plot.key(d, MARGIN, MARGIN, half - MARGIN, seeds_key(lines))
  local line = math.max(line_height, math.min(18, #pairs_ * line_height / #lines))
  local box = { left = MARGIN + labels + 6, top = top, line = line, height = #lines * line }
  box.width = half - box.left - 12
  put_labels(d, lines, box, labels)
  local y = put_lines(d, box, lines, data.primary)
  if #pairs_ > 0 then
    local names = label_width(pairs_, 0.5 * (width - half))
    local right = { left = half + names + 8, top = top, line = line_height, height = #pairs_ * line_height,
      labels = names, right = width - MARGIN }
    right.width = right.right - right.left - 44
    y = math.max(y, put_pairs(d, right, pairs_, data.margin, data.primary))
  end
  local caption = forest_caption(data, lines, all)
  caption[#caption + 1] = more
  d.height = plot.caption(d, y, caption)
  local drawn = {}
  for _, row in ipairs(data.rows) do
    if row.score == data.primary then
      drawn[#drawn + 1] = { kind = "network", a = row.run, train_seed = row.train_seed, value = row.value,
        low = row.low, high = row.high, n = row.n, units = row.units, interval = row.interval, status = row.status }
    end
  end
  for _, row in ipairs(data.pairs) do
    if row.endpoint == data.primary and tostring(row.family):find "^networks " then
      drawn[#drawn + 1] = { kind = tostring(row.family):find ", recipes$" and "pair, recipes" or "pair", a = row.a,
        b = row.b, value = row.estimate, low = row.low, high = row.high, n = row.n, units = row.units,
        interval = row.test, status = row.decision }
    end
  end
  return d, drawn
end

local forest_columns = { "kind", "a", "b", "train_seed", "value", "low", "high", "n", "units", "interval", "status" }

-- ---- the other endpoints --------------------------------------------------------------------------------------------

-- The scores that are endpoints, but for the primary one, in the order of the table.
local function other_endpoints(rows, primary)
  local list, seen = {}, { [primary] = true }
  for _, row in ipairs(rows) do
    local score = tostring(row.score)
    if not seen[score] and (titles[score] or score:find "^auroc ") then list[#list + 1] = score end
    seen[score] = true
  end
  return list
end

--- The networks on every other endpoint: small forests, exploratory.
---@return table|nil drawing nil where there is none
---@return table[] rows
function figures.endpoints(data)
  local scores, drawn = other_endpoints(data.rows, data.primary), {}
  if #scores == 0 then return nil, drawn end
  local d, columns, gap = drawing.new(drawing.PAGE), 3, 14
  local first = lines_of(data.rows, scores[1])
  local labels = label_width(first, 0.26 * d.width)
  local each = (d.width - 2 * MARGIN - labels - 6 - columns * gap) / columns
  local y = plot.key(d, MARGIN, MARGIN, d.width - 2 * MARGIN, seeds_key(first))
  for k, score in ipairs(scores) do
    local column = (k - 1) % columns
    if column == 0 and k > 1 then y = y + first.height + 8 end
    local lines = lines_of(data.rows, score)
    local box = { left = MARGIN + labels + 6 + column * (each + gap), top = y, width = each, line = line_height,
      height = #lines * line_height }
    if column == 0 then
      put_labels(d, lines, box, labels)
      first.height = 0
    end
    first.height = math.max(first.height, put_lines(d, box, lines, score) - y)
    for _, row in ipairs(data.rows) do
      if row.score == score then drawn[#drawn + 1] = row end
    end
  end
  d.height = plot.caption(d, y + first.height, { about(data.rows, scores)
    .. "; chance level of an AUROC 0.5; all of these are exploratory." })
  return d, drawn
end

-- ---- reliability ----------------------------------------------------------------------------------------------------

-- A gray bar per group: where a calibrated network's hit rate would lie.
local function put_band(d, bins, to_x, to_y)
  for _, bin in ipairs(bins) do
    if bin.chance_low and bin.chance_high then
      local low, high = to_y(bin.chance_low), to_y(bin.chance_high)
      d:rect(to_x(bin.confidence) - 2, high, 4, math.max(0.4, low - high), plot.PALE)
    end
  end
end

local function fact(rows, run, score, key)
  for _, row in ipairs(rows) do
    if row.run == run and row.score == score then return row[key] end
  end
end

local function number(v) return v and drawing.fixed(v, 3) or "undefined" end

-- One network's diagram; the texts under its title say its error and what chance gives.
local function put_reliability(d, box, name, bins, rows)
  local y = box.top
  d:text(box.left, y + TEXT, drawing.fit(name, box.width, TEXT, true), { size = TEXT, bold = true })
  local tempered = fact(rows, name, "ece_tempered", "value")
  local said = { ("ECE %s, by chance %s"):format(number(fact(rows, name, "ece", "value")),
    number(fact(rows, name, "ece", "chance"))), tempered and "after temperature " .. number(tempered) or " " }
  for i, text in ipairs(said) do said[i] = drawing.fit(text, box.width, SMALL) end
  d:block(box.left, y + TEXT + 3, said, SMALL, { align = "left", color = SOFT })
  local inner = { left = box.left, top = y + TEXT + 3.2 * SMALL * LEADING, width = box.width, height = box.width }
  local axis = { lo = box.lo, hi = box.hi, label = box.x_label }
  local to_x, bottom = plot.x_axis(d, inner, axis)
  local to_y = plot.y_axis(d, inner, { lo = 0, hi = 1, label = box.y_label })
  put_band(d, bins, to_x, to_y)
  d:line({ to_x(box.lo), to_y(box.lo), to_x(box.hi), to_y(box.hi) }, 0.6, SOFT, 2)
  local points = {}
  for _, bin in ipairs(bins) do
    points[#points + 1], points[#points + 2] = to_x(bin.confidence), to_y(bin.accuracy)
  end
  if #points >= 4 then d:line(points, 0.8, plot.BLUE) end
  for i = 1, #points, 2 do plot.dot(d, points[i], points[i + 1], { radius = 1.7 }) end
  return bottom
end

--- Reliability diagrams: the hit rate of each group of images by the confidence in their top class, and the band that
--- holds 95 % of a calibrated network's.
---@param data table bins (rows of tables/reliability.csv), rows (of tables/networks.csv)
---@return table|nil drawing nil without bins
function figures.reliability(data)
  local groups = plot.grouped(data.bins, "run")
  if #groups == 0 then return nil end
  local columns = math.min(#groups, 4)
  local d = drawing.new(columns == 1 and drawing.COLUMN or drawing.PAGE)
  local room, gap = plot.y_room({ lo = 0, hi = 1, label = "x" }, 110), 12
  local each = math.min(150, (d.width - 2 * MARGIN - room - 6 - (columns - 1) * (gap + room - 9)) / columns)
  local all, n, tall, y = {}, 0, 0, MARGIN
  for i, bin in ipairs(data.bins) do all[i] = bin.confidence end
  local lo, hi = plot.range(all, { 0, 1 })
  for _, bin in ipairs(groups[1].rows) do n = n + bin.n end
  for k, group in ipairs(groups) do
    local column = (k - 1) % columns
    if column == 0 and k > 1 then y, tall = y + tall + 8, 0 end
    local box = { left = MARGIN + room + column * (each + gap + room - 9), top = y, width = each, lo = lo, hi = hi,
      x_label = "confidence in the top class", y_label = column == 0 and "share that is right" or nil }
    tall = math.max(tall, put_reliability(d, box, group.name, group.rows, data.rows) - y)
  end
  d.height = plot.caption(d, y + tall, { ("%s in groups of equal size by confidence, at most %d per group; gray: the "
    .. "chance band, in which 95 %% of a calibrated network's hit rates of that group lie; dashed: calibrated.")
    :format(plot.count(n, "image"), groups[1].rows[1].n) })
  return d
end

local reliability_columns = { "network", "run", "train_seed", "group", "n", "confidence", "accuracy", "chance_low",
  "chance_high" }

-- ---- the step's figures ---------------------------------------------------------------------------------------------

local texts = { "network", "run", "train_seed", "input", "weights_sha256", "score", "role", "interval", "status",
  "family", "endpoint", "a", "b", "decision", "test" }

--- Draws what run:networks left in its tables.
---@param run medxai.Run
---@param o table primary, margin, firsts[model] = true where the reliability of a model is drawn (of all if absent)
---@return table[] figures { name, title, svg, paths }
function figures.draw(run, o)
  local data = { rows = plot.rows(run, "tables/networks.csv", texts), pairs = plot.rows(run, "tables/pairs.csv", texts),
    bins = {}, primary = o.primary, margin = o.margin }
  for _, bin in ipairs(plot.rows(run, "tables/reliability.csv", texts)) do
    if not o.firsts or o.firsts[bin.run] then table.insert(data.bins, bin) end
  end
  plot.clear(run, "networks-")
  local list = canon.list {}
  local function put(name, title, d, columns, rows)
    if d then list[#list + 1] = plot.save(run, name, { title = title, drawing = d, columns = columns, rows = rows }) end
  end
  local d, rows = figures.forest(data)
  put("networks-primary", "Networks by " .. title_of(o.primary), d, forest_columns, rows)
  d, rows = figures.endpoints(data)
  put("networks-endpoints", "Networks by the other endpoints", d, { "network", "run", "train_seed", "input",
    "weights_sha256", "score", "role", "value", "low", "high", "interval", "chance", "n", "units", "status" }, rows)
  put("networks-reliability", "Reliability of each network's confidence", figures.reliability(data),
    reliability_columns, data.bins)
  return list
end

return figures
