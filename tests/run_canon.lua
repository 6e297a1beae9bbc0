-- The canonical text: one text for the same data, and the same data back.
local t = require "t"
local canon = require "medxai.base.json"

t.test("keys are sorted, integers stay integers, floats take 17 digits, NaN and infinity have names", function()
  t.equal(canon.write { b = 1, a = 1.0, c = { 0.1, 0 / 0, 1 / 0, -1 / 0 }, d = canon.list {}, e = {}, f = false,
    g = 2 ^ 53 },
    '{"a":1.0,"b":1,"c":[0.10000000000000001,NaN,Infinity,-Infinity],"d":[],"e":{},"f":false,"g":9007199254740992.0}')
end)

t.test("the text does not depend on how a table was filled", function()
  local a, b = {}, {}
  for i = 1, 200 do a["k" .. i] = i end
  for i = 200, 1, -1 do b["k" .. i] = i end
  t.equal(canon.write(a), canon.write(b))
end)

t.test("what was written comes back the same, to the last bit", function()
  local value = { list = { 1, 2.5, "x" }, text = "a\"b\\c\n\1\127é", n = math.mininteger, tiny = 5e-324, third = 1 / 3,
    no = false, empty = canon.list {}, map = {}, minus_zero = -0.0 }
  local text = canon.write(value)
  t.equal(canon.write(canon.read(text)), text)
  t.equal(canon.write(canon.read(canon.write(value, "  "))), text)
  t.equal(math.type(canon.read "8"), "integer")
  t.equal(math.type(canon.read "8.0"), "float")
  t.equal(canon.read '"\\u00e9\\ud83d\\ude00"', "é😀")
end)

t.test("what has no one text is refused, with its place", function()
  t.fails(function() canon.write { a = { 1, x = 2 } } end,
    "canon: a table is neither a list nor a map (at value.a, key 1).")
  t.fails(function() canon.write { a = print } end, "canon: a function has no text (at value.a).")
  t.fails(function() canon.write { a = { [1.5] = 1 } } end,
    "canon: a table is neither a list nor a map (at value.a, key 1.5).")
  t.fails(function()
    local loop = {}
    loop.self = loop
    canon.write(loop)
  end, "canon: the data contain themselves (at value.self).")
end)

t.test("damaged text is an error with its place", function()
  t.fails(function() canon.read('{"a":1,}', "config.json") end, "config.json: expected a key at line 1, byte 8.")
  t.fails(function() canon.read("[1,\n2", "x") end, "x: expected ',' or ']' at line 2, byte 6.")
  t.fails(function() canon.read('{"a":truth}', "x") end, "x: unknown word 'truth' at line 1, byte 11.")
  t.fails(function() canon.read("1 2", "x") end, "x: text after the end at line 1, byte 3.")
  t.equal(#canon.read(("["):rep(1000) .. ("]"):rep(1000)), 1)
  t.fails(function() canon.read(("["):rep(300000), "x") end,
    "x: lists and maps lie in each other 1000 deep at line 1, byte 1002.")
end)

t.test("differences are named by their path", function()
  local list = canon.diff({ a = { b = 1, c = 2 }, d = 1 }, { a = { b = 1, c = 3 }, e = 1 })
  t.equal(#list, 3)
  t.equal({ list[1].field, list[2].field, list[3].field }, { "a.c", "d", "e" })
end)
