-- luacheck's settings: Lua 5.4, no globals of our own, lines up to 200 characters.
std = "lua54"
max_line_length = 200
exclude_files = { "build*", "runs", "scripts/medxai/types/*", "tests/reference/checkpoints/*" }
ignore = { "212/self", "213", "542", "211/scope", "211/clock", "211/restore", "211/mode" } -- an unused self or loop variable, an empty if branch
-- with a comment, and variables that only have to be closed
