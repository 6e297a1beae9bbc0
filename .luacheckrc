-- luacheck's settings: Lua 5.4, no globals of our own, lines of at most 120 characters; tests/house_lines.lua holds comments to them, annotations and long strings excepted.
std = "lua54"
max_line_length = 120
max_comment_line_length = false
max_string_line_length = false
exclude_files = { "build*", "runs", "scripts/medxai/types/*", "tests/reference/checkpoints/*", "tests/reference/lime/*" }
-- an unused self or loop variable, an empty branch with a comment, not (a <= b) where NaN counts, variables that only have to be closed
ignore = { "212/self", "213", "542", "581", "582", "211/scope", "211/clock", "211/restore", "211/mode" }
files["tests"] = { ignore = { "211", "231", "311" } } -- tests also make things only to see them closed
