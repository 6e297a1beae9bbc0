-- luacheck's settings: Lua 5.4, no globals of our own, lines up to 200 characters.
std = "lua54"
max_line_length = 200
exclude_files = { "build*", "scripts/medxai/types/*" }
ignore = { "212/self", "213", "542" } -- an unused self, an unused loop variable, an empty if branch with a comment
