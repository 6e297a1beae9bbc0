-- Tables for the terminal.
local t = require "t"
local text_table = require "medxai.base.text_table"

t.test("columns are as wide as their longest cell in characters, numbers stand to the right", function()
  t.equal(text_table({ { "class", "recall", "" }, { "Lungenentzündung", "0.5", "" }, { "Größe", "10.25" } }, { right = { [2] = true } }),
    "  class             recall\n  Lungenentzündung     0.5\n  Größe              10.25")
  t.equal(text_table({ { "a", "b" } }, { indent = "" }), "a  b")
  t.equal(text_table {}, "")
end)
