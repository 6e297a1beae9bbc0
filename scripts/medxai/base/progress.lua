-- Progress on standard error: on a terminal one line for each level of nested work (search, cell, epoch), drawn anew at
-- most five times a second, elsewhere plain lines, one every half minute at most; nothing under --quiet. It reads the
-- accuracy, which lies on the device, only when it draws.
local host = require "medxai.host"

---@class medxai.Progress
local Progress = {}
Progress.__index = Progress

local redraw_seconds, plain_seconds = 0.2, 30.0

--- A duration as people read it: 42 s, 3:05, 1:02:03.
function Progress.duration(seconds)
  if seconds ~= seconds or seconds == math.huge then return "?" end
  local s = math.floor(seconds + 0.5)
  if s < 60 then return s .. " s" end
  if s < 3600 then return string.format("%d:%02d", s // 60, s % 60) end
  return string.format("%d:%02d:%02d", s // 3600, s // 60 % 60, s % 60)
end

--- Bytes as people read them.
function Progress.megabytes(bytes)
  return bytes >= 1 << 30 and string.format("%.1f GB", bytes / (1 << 30)) or string.format("%.0f MB", bytes / (1 << 20))
end

--- Begins the progress of something of `total` units (images).
---@param name string "epoch 2/8"
---@param total integer
---@param whole? { done: number, total: number, extra: number, left: fun(): number } units of the whole work and seconds
---   beside them (validation): makes the time left one for all of it; or left: who knows better says the seconds
---@return medxai.Progress
function Progress.new(name, total, whole)
  local now = host.now()
  return setmetatable({ name = name, total = total, whole = whole, count = 0, began = now, drawn = now - 1, plain = now,
    quiet = (host.options or {}).quiet and true or false, tty = host.is_tty and true or false }, Progress)
end

local function bar(share, width)
  local full = math.floor(share * width + 0.5)
  return "[" .. string.rep("=", full) .. string.rep(" ", width - full) .. "]"
end

-- ---- the lines on the terminal, outermost first ----

local active, shown = {}, 0 -- bars that have a text; how many lines are on the screen

-- Takes all lines away; the cursor stands where the first was.
function Progress.clear()
  if shown == 0 then return end
  io.stderr:write(shown > 1 and string.format("\27[%dA", shown - 1) or "", "\r\27[J")
  shown = 0
end

local function draw()
  local room = (host.columns or tonumber(os.getenv("COLUMNS")) or 120) - 1
  local lines = {}
  for i, bar_ in ipairs(active) do lines[i] = bar_.text:sub(1, room) .. "\27[K" end
  io.stderr:write(shown > 1 and string.format("\27[%dA", shown - 1) or "", "\r", table.concat(lines, "\n"),
    #lines < shown and "\27[J" or "")
  io.stderr:flush()
  shown = #lines
end

--- Writes a line that stays, above the lines of progress. Nothing under --quiet.
---@param format string
function Progress.say(format, ...)
  if (host.options or {}).quiet then return end
  Progress.clear()
  io.stderr:write(string.format(format, ...), "\n")
  if #active > 0 then draw() end
end

function Progress:show(text)
  if not self.tty then
    io.stderr:write(text, "\n")
    return
  end
  if not self.text then active[#active + 1] = self end
  self.text = text
  draw()
end

function Progress:left(elapsed)
  if self.whole and self.whole.left then return self.whole.left() end
  if self.count == 0 then return math.huge end
  local units = self.total - self.count
  if self.whole then units = self.whole.total - self.whole.done - self.count end
  return elapsed / self.count * units + (self.whole and self.whole.extra or 0)
end

--- Counts `n` more units; `facts()` gives the words behind the bar and is called only when the line is drawn.
---@param n integer
---@param facts? fun(): string
function Progress:add(n, facts)
  self.count = self.count + n
  if self.quiet then return end
  local now = host.now()
  if self.tty and now - self.drawn < redraw_seconds and self.count < self.total then return end
  if not self.tty and now - self.plain < plain_seconds then return end
  self.drawn, self.plain = now, now
  local elapsed = math.max(now - self.began, 1e-9)
  local share = self.total > 0 and math.min(self.count / self.total, 1) or 1
  local words = { self.name, self.tty and bar(share, 20) or nil }
  words[#words + 1] = string.format("%d/%d", self.count, self.total)
  words[#words + 1] = string.format("%.1f/s", self.count / elapsed)
  words[#words + 1] = "left " .. Progress.duration(self:left(elapsed))
  words[#words + 1] = facts and facts() or nil
  self:show(table.concat(words, "  "))
end

--- Takes the line away.
function Progress:finish()
  if not self.text then return end
  self.text = nil
  for i, other in ipairs(active) do
    if other == self then table.remove(active, i) break end
  end
  if #active == 0 then Progress.clear() else draw() end
end

Progress.__close = function(self) self:finish() end

return Progress
