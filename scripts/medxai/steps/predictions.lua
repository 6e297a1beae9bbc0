-- predictions.csv: a row per image with label, logits and probabilities; of findings label_<name> is 1, 0 or empty.
local csv = require "medxai.base.csv"
local files = require "medxai.base.files"

local predictions = {}

local function prediction_columns(classes, findings)
  local columns = { "image_id", "path", "patient", "source", "split", "label", "predicted" }
  if findings then
    columns = { table.unpack(columns, 1, 5) }
    for _, name in ipairs(classes) do columns[#columns + 1] = "label_" .. name end
  end
  for _, name in ipairs(classes) do columns[#columns + 1] = "logit_" .. name end
  for _, name in ipairs(classes) do columns[#columns + 1] = "prob_" .. name end
  columns[#columns + 1] = "input"
  return columns
end

local function prediction_rows(split, classes, answers, input)
  local rows = {}
  for i = 1, split.n do
    local item = split:item(i)
    local row = { image_id = item.id, path = item.path, patient = item.patient, source = item.source,
      split = split.name, input = input }
    if not split.data.findings then
      row.label, row.predicted = classes[answers.labels[i] + 1], classes[answers.predicted[i] + 1]
    end
    for c, name in ipairs(classes) do
      local y = split.data.findings and answers.labels[i][c] or nil
      if y and y == y then row["label_" .. name] = math.tointeger(y) end -- empty where nobody knows
      row["logit_" .. name] = answers.logits[i][c]
      row["prob_" .. name] = answers.probabilities[i][c]
    end
    rows[i] = row
  end
  return rows
end

--- Writes a split's predictions into the run's table, in the place of earlier ones of the same split.
---@param run table
---@param split table
---@param answers table from predict
---@param file? string default predictions.csv
function predictions.write(run, split, answers, file)
  local path = files.join(run.dir, file or "predictions.csv")
  local columns = prediction_columns(split.classes, split.data.findings)
  local kept = {}
  local earlier, earlier_columns = csv.read(path)
  if earlier and table.concat(earlier_columns, "\0") == table.concat(columns, "\0") then
    for _, row in ipairs(earlier) do
      if row.split ~= split.name then kept[#kept + 1] = row end
    end
  end
  local rows = prediction_rows(split, split.classes, answers, run:input(split))
  local first, second = kept, rows
  if split.name == "val" then first, second = rows, kept end -- validation before test
  table.move(second, 1, #second, #first + 1, first)
  csv.write(path, columns, first)
end

--- A split's answers as predictions.write wrote them: path -> { label = 0 .., logits, patient }.
---@param run medxai.Run
---@param file string
---@param split medxai.Split
---@return table<string, table>
function predictions.read(run, file, split)
  local place, out = {}, {}
  for c, name in ipairs(split.classes) do place[name] = c - 1 end
  for _, row in ipairs(csv.read(files.join(run.dir, file)) or {}) do
    local logits = {}
    for c, name in ipairs(split.classes) do logits[c] = tonumber(row["logit_" .. name]) end
    if row.split == split.name then
      out[row.path] = { label = place[row.label], logits = logits, patient = row.patient }
    end
  end
  return out
end

return predictions
