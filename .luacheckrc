-- luacheck's settings: Lua 5.4, no globals of our own, lines up to 200 characters.
std = "lua54"
max_line_length = 200
exclude_files = { "build*", "runs", "scripts/medxai/types/*", "tests/reference/checkpoints/*", "tests/reference/lime/*" }
-- an unused self or loop variable, an empty branch with a comment, not (a <= b) where NaN counts, variables that only have to be closed
ignore = { "212/self", "213", "542", "581", "582", "211/scope", "211/clock", "211/restore", "211/mode" }
files["tests"] = { ignore = { "211", "231", "311" } } -- tests also make things only to see them closed
