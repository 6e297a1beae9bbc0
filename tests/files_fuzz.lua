-- A short run of the file fuzzer: damaged files are refused or read without harm. The long run is tests/fuzz/files.lua.
local t = require "t"
local host = require "medxai.host"

local program = t.quote(host.exe) .. " " .. t.quote(t.root .. "/tests/fuzz/files.lua")

for _, kind in ipairs { "csv", "jpeg", "json", "npy", "png", "pt", "pth", "safetensors" } do
  t.test("damaged " .. kind .. " files are read or refused in words: no crash, no leak, no waste", function()
    local keep = t.tmpdir() .. "/kept"
    local pipe = assert(io.popen(("%s --only %s --cases %d --keep %s 2>&1"):format(program, kind, 4000, keep)))
    local output = pipe:read "a"
    if not pipe:close() then error(output, 0) end
    t.equal(output, "4000 files, 0 wrong\n")
  end)
end
