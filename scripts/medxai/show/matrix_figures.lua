-- Matrices of run:compare, from its tables alone: how far methods, and networks, agree beyond what maps of different
-- patients share, with a tree (average linkage on 1 - A); how far the metrics rank the methods alike.
-- It refuses a number where the table has none: such a cell is crossed out, and what is unknown joins no tree.
local drawing = require "medxai.show.drawing"
local linkage = require "medxai.stats.linkage"
local palette = require "medxai.show.palette"
local plot = require "medxai.show.plot"
local title_of = require("medxai.score.registry").title

local figures = {}

local SMALL = drawing.SMALL
local SOFT, INK, GRID, MARGIN = drawing.SOFT, drawing.INK, drawing.GRID, plot.MARGIN

-- ---- one matrix -----------------------------------------------------------------------------------------------------

local function color_of(v) return palette.at("diverging", 0.5 + 0.5 * math.max(-1, math.min(1, v))) end

-- Numbers are printed where they can be read; a key of colors stands under the matrices.
local least_side, key_steps = 13, 40

local function put_cell(d, x, y, side, v, diagonal)
  if diagonal then return d:rect(x, y, side, side, GRID) end
  if not plot.is_finite(v) then
    d:rect(x, y, side, side, 0xffffff)
    return d:line({ x + 2, y + 2, x + side - 2, y + side - 2 }, 0.5, plot.GRAY)
  end
  local color = color_of(v)
  d:rect(x, y, side, side, color)
  if side < least_side then return end
  local size = math.min(SMALL, side / 2.7)
  d:text(x + side / 2, y + side / 2 + size * 0.36, (drawing.fixed(v, 2):gsub("^(−?)0%.", "%1.")),
    { size = size, align = "center", color = plot.ink_on(color) })
end

local function put_key(d, y, label)
  local width = 80
  for k = 0, key_steps - 1 do
    d:rect(MARGIN + k * width / key_steps, y, width / key_steps + 0.2, 5, color_of(2 * k / (key_steps - 1) - 1))
  end
  d:frame(MARGIN, y, width, 5, 0.4, SOFT)
  for _, v in ipairs { -1, 0, 1 } do
    d:text(MARGIN + width * (v + 1) / 2, y + 6 + SMALL, drawing.fixed(v, 0), { size = SMALL,
      align = v < 0 and "left" or v > 0 and "right" or "center" })
  end
  d:text(MARGIN + width + 6, y + 5, label, { size = SMALL })
  return y + 6 + SMALL * 1.25
end

-- The tree right of a matrix: a merge at its height (1 - A), which is printed where there is room.
local function put_tree(d, merges, order, x, width, y, side)
  local top, place, printed = 0, {}, {}
  for _, m in ipairs(merges) do top = math.max(top, m.height) end
  for k, leaf in ipairs(order) do place[leaf] = { x = x, y = y + (k - 0.5) * side } end
  for _, m in ipairs(merges) do
    local a, b = place[m.a], place[m.b]
    local at = x + (top > 0 and math.max(0, m.height) / top or 0) * (width - 20)
    d:line({ a.x, a.y, at, a.y, at, b.y, b.x, b.y }, 0.7, INK)
    place[m] = { x = at, y = (a.y + b.y) / 2 }
    printed[#printed + 1] = { x = at, y = place[m].y, text = drawing.fixed(m.height, 2) }
  end
  local taken = {}
  for i = #printed, 1, -1 do
    local p, is_free = printed[i], true
    local wide = drawing.text_width(p.text, SMALL - 1)
    for _, t in ipairs(taken) do
      is_free = is_free and (math.abs(t.y - p.y) > SMALL - 1 or p.x + 2 + wide < t.x or t.x + wide < p.x + 2)
    end
    if is_free then
      d:rect(p.x + 1.5, p.y - 0.8 * SMALL, wide + 1, 0.72 * SMALL, 0xffffff) -- no line of the tree crosses a number
      d:text(p.x + 2, p.y - 1.2, p.text, { size = SMALL - 1, color = SOFT })
      taken[#taken + 1] = { x = p.x + 2, y = p.y }
    end
  end
end

-- Numbers stand over the columns, and before the names of the rows: names over columns would be turned, and long.
local function put_matrix(d, m, box)
  local y = plot.title(d, box.left, box.top, m.title, box.width)
  local names = {}
  for k, i in ipairs(m.order) do names[k] = m.names[i] end
  local tree = m.merges and math.min(70, 0.26 * box.width) or 0
  local widest, labels = plot.fitted(names, 0.33 * box.width)
  local left = box.left + widest + 15
  local side = math.min(box.side, (box.left + box.width - left - tree) / #names)
  y = y + SMALL + 1
  local wide = drawing.text_width(tostring(#names), 1) -- of the largest number in a font of one point
  local size = math.min(SMALL, side * 0.75, (side - 1.2) / wide)
  for k, i in ipairs(m.order) do
    d:text(left + (k - 0.5) * side, y - 1.5, tostring(k), { size = size, align = "center" })
    d:text(left - 3, y + (k - 0.5) * side + SMALL * 0.36, tostring(k), { size = SMALL, align = "right" })
    d:text(left - 14, y + (k - 0.5) * side + SMALL * 0.36, labels[k], { size = SMALL, align = "right",
      color = m.soft and m.soft[m.names[i]] and SOFT or INK })
    for l, j in ipairs(m.order) do put_cell(d, left + (l - 1) * side, y + (k - 1) * side, side, m.of[i][j], i == j) end
  end
  d:frame(left, y, #names * side, #names * side, 0.5, INK)
  if m.merges then put_tree(d, m.merges, m.order, left + #names * side + 3, tree - 3, y, side) end
  return y + #names * side + 2
end

local page_height = 640 -- of the matrices of one figure, points

-- Columns, the side of a cell and how many matrices stand in one figure.
local function layout_of(list)
  local most, tree = 0, false
  for _, m in ipairs(list) do most, tree = math.max(most, #m.names), tree or m.merges ~= nil end
  local columns = math.min(#list, most <= 7 and 3 or most <= 16 and 2 or 1)
  if columns == 3 and not tree then columns = 2 end
  local at = { columns = columns, side = 22, gap = 12 }
  at.width = columns == 1 and most <= 8 and drawing.COLUMN or drawing.PAGE
  at.each = (at.width - 2 * MARGIN - (columns - 1) * at.gap) / columns
  if columns == 1 and most > 16 then at.side = math.max(7.5, math.min(12, 420 / most)) end
  local tall = most * math.min(at.side, at.each * 0.6 / most * 1.2) + 30
  at.per_figure = columns * math.max(1, math.floor(page_height / tall))
  return at
end

-- Figures of so many matrices as fill a page: { drawing, y = below the matrices, shown = the matrices' titles }.
local function put_all(list, key_label)
  if #list == 0 then return {} end
  local at, out = layout_of(list), {}
  for first = 1, #list, at.per_figure do
    local d, y, below, shown = drawing.new(at.width), MARGIN, MARGIN, {}
    for k = first, math.min(#list, first + at.per_figure - 1) do
      local column = (k - first) % at.columns
      if column == 0 and k > first then y = below + 8 end
      local box = { left = MARGIN + column * (at.each + at.gap), top = y, width = at.each, side = at.side }
      below, shown[list[k].title] = math.max(below, put_matrix(d, list[k], box)), true
    end
    out[#out + 1] = { drawing = d, y = put_key(d, below + 6, key_label), shown = shown }
  end
  return out
end

-- A symmetric matrix of pairs { a, b, value }; names in the order in which they come.
local function matrix_of(pairs_)
  local m = { names = {}, of = {}, order = {} }
  local place = {}
  local function at(name)
    if not place[name] then
      m.names[#m.names + 1], place[name] = name, #m.names + 1
      m.of[#m.names], m.order[#m.names] = {}, #m.names
    end
    return place[name]
  end
  for _, p in ipairs(pairs_) do
    local i, j = at(p.a), at(p.b)
    m.of[i][j], m.of[j][i] = p.value, p.value
  end
  return m
end

-- Captions under the figures, and with each the rows that it draws: those whose `key` is one of its titles.
local function finished(parts, caption, rows, key)
  for _, part in ipairs(parts) do
    part.drawing.height = plot.caption(part.drawing, part.y, caption)
    part.rows = {}
    for _, row in ipairs(rows) do
      if part.shown[row[key]] then part.rows[#part.rows + 1] = row end
    end
  end
  return parts
end

-- ---- agreement ------------------------------------------------------------------------------------------------------

-- "vgg19: Grad-CAM" -> "vgg19", "Grad-CAM"; a model's name may hold ": " itself.
local function parts_of(c, text)
  for _, model in ipairs(c.models) do
    if text:sub(1, #model + 2) == model .. ": " then return model, text:sub(#model + 3) end
  end
  return text:match "^(.-): (.*)$"
end

local function with_tree(m)
  local distance = {}
  for i = 1, #m.names do
    distance[i] = {}
    for j = 1, #m.names do
      local v = m.of[i][j]
      distance[i][j] = plot.is_finite(v) and 1 - v or nil
    end
  end
  m.merges, m.order = linkage.average(distance)
  return m
end

-- Pairs of the primary measure of one kind, grouped by what both sides share: the model, or the method.
local function agreement_groups(c, kind)
  local groups, by, drawn = {}, {}, {}
  for _, row in ipairs(c.agreement) do
    local model_a, method_a = parts_of(c, row.a)
    local trivial = kind == "network" and c.baselines[method_a] -- which knows nothing of a network
    if row.kind == kind and row.measure == "spearman" and row.view == "shown" and not trivial then
      local model_b, method_b = parts_of(c, row.b)
      local key = kind == "method" and model_a or method_a
      if not by[key] then
        by[key] = { title = key, pairs = {}, n = row.n }
        groups[#groups + 1] = by[key]
      end
      local a, b = kind == "method" and method_a or model_a, kind == "method" and method_b or model_b
      table.insert(by[key].pairs, { a = a, b = b, value = row.agreement })
      drawn[#drawn + 1] = { of = key, a = a, b = b, agreement = row.agreement, low = row.low, high = row.high,
        n = row.n, units = row.units, reason = row.reason }
    end
  end
  return groups, drawn
end

local agreement_titles = { method = "between methods, per network", network = "between networks, per method" }

--- How far maps agree beyond those of different patients: methods on a model, or networks under a method.
---@param c table agreement (rows of tables/agreement.csv), models, baselines
---@param kind "method"|"network"
---@param only? table<string, boolean> of kind "method": the models that are drawn
---@return { drawing: table, rows: table[] }[] figures none where there is no pair
function figures.agreement(c, kind, only)
  local groups, drawn = agreement_groups(c, kind)
  local list, n, unknown = {}, 0, 0
  for _, group in ipairs(groups) do
    if not only or only[group.title] then
      local m = with_tree(matrix_of(group.pairs))
      m.title, m.soft, n = group.title, kind == "method" and c.baselines or nil, math.max(n, group.n or 0)
      list[#list + 1] = m
      for _, p in ipairs(group.pairs) do unknown = unknown + (plot.is_finite(p.value) and 0 or 1) end
    end
  end
  local parts = put_all(list, "agreement A")
  local caption = { ("Agreement A %s: mean rank correlation of the maps of %s beyond that of different "
    .. "patients (0: chance, 1: the same); intervals are in the table; tree: average linkage on 1 - A, heights "
    .. "printed, descriptive only."):format(agreement_titles[kind], plot.count(n, "image")),
    unknown > 0 and ("Crossed out: undefined (%s)."):format(plot.count(unknown, "pair")),
    c.partial and "PARTIAL: of " .. c.partial .. "." }
  return finished(parts, caption, drawn, "of")
end

figures.agreement_columns = { "of", "a", "b", "agreement", "low", "high", "n", "units", "reason" }

-- ---- metrics --------------------------------------------------------------------------------------------------------

--- How far the metrics rank the methods alike, a matrix of Kendall's tau-b per model.
---@param c table tau (rows of tables/metrics_tau.csv), short
---@param models string[]
---@return { drawing: table, rows: table[] }[] figures none where no two metrics rank
function figures.tau(c, models)
  local list, drawn, n, methods = {}, {}, 0, 0
  for _, model in ipairs(models) do
    local pairs_ = {}
    for _, row in ipairs(c.tau) do
      if row.run == model then
        pairs_[#pairs_ + 1] = { a = title_of(c.short(row.a)), b = title_of(c.short(row.b)),
          value = row.tau_b }
        drawn[#drawn + 1], n, methods = row, math.max(n, row.n or 0), math.max(methods, row.methods or 0)
      end
    end
    if #pairs_ > 0 then
      list[#list + 1] = matrix_of(pairs_)
      list[#list].title = model
    end
  end
  local caption = { ("Kendall's tau-b of the rankings of %s by two metrics, by their means over %s "
    .. "(1: the same ranking, 0: chance level, -1: turned around); intervals for pairs with the primary metric are in "
    .. "tables/stability.csv."):format(plot.count(methods, "method"), plot.count(n, "image")),
    c.partial and "PARTIAL: of " .. c.partial .. "." }
  return finished(put_all(list, "tau-b"), caption, drawn, "run")
end

figures.tau_columns = { "run", "a", "b", "tau_b", "methods", "n" }

return figures
