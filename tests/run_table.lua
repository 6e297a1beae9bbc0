-- Tables for the terminal.
local t = require "t"
local text_table = require "medxai.base.text_table"

t.test("columns are as wide as their longest cell in characters, numbers stand to the right", function()
  t.equal(text_table({ { "class", "recall", "" }, { "Lungenentzündung", "0.5", "" }, { "Größe", "10.25" } },
    { right = { [2] = true } }), "  class             recall\n  Lungenentzündung     0.5\n  Größe              10.25")
  t.equal(text_table({ { "a", "b" } }, { indent = "" }), "a  b")
  t.equal(text_table {}, "")
end)

t.test("a classification report stays aligned under names that are not ASCII", function()
  local metrics = require "medxai.stats.classification"
  local names = { "Lungenentzündung", "normal" }
  local result = metrics.classification({ 0, 1, 0, 1 },
    { { 0.9, 0.1 }, { 0.2, 0.8 }, { 0.7, 0.3 }, { 0.6, 0.4 } }, names)
  local ends = {}
  for line in metrics.report(result):gmatch "[^\n]+" do
    if line:find "^Lungen" or line:find "^normal" then ends[#ends + 1] = utf8.len(line) end
  end
  t.equal({ #ends, ends[1] - ends[2], ends[3] - ends[4] }, { 4, 0, 0 }, metrics.report(result))
end)
