-- What the tests of several findings per image share: small pictures, bright on the left where they have "left", on the
-- right where they have "right"; what is known of them is up to the test.
local t = require "t"
local files = require "medxai.base.files"
local png = require "png"
local xai = require "medxai"

local made = {}

made.names = { "left", "right" }

local folder

--- A folder with n pictures of 16 x 16 px; picture i has left where i is odd, right where i // 2 is odd.
---@return string
function made.folder(n)
  if folder and files.is_folder(folder) then return folder end -- a test takes its folders with it
  folder = t.tmpdir()
  for i = 1, n do
    local left, right = i % 2 == 1, i // 2 % 2 == 1
    files.write(("%s/%02d.png"):format(folder, i), png.bytes(16, 16, 0, 8, function(x, y)
      local noise = (x * 7 + y * 13 + i * 29) % 40
      local inside = y > 4 and y < 11
      return 60 + noise + (inside and (left and x < 6 or right and x > 9) and 120 or 0)
    end))
  end
  return folder
end

--- The truth of picture i.
function made.truth(i) return { left = i % 2, right = i // 2 % 2 } end

--- Items of all pictures: by turns 4 for training, 2 for validation, 2 for the test; label(i, split): default the
--- truth.
function made.items(n, label)
  local items = {}
  for i = 1, n do
    local split = ((i - 1) % 16 < 8) and "train" or ((i - 1) % 16 < 12) and "val" or "test"
    items[i] = { path = ("%02d.png"):format(i), label = label and label(i, split) or made.truth(i), split = split,
      patient = "p" .. i }
  end
  return items
end

function made.data(more)
  local options = { root = made.folder(64), items = made.items(64), findings = made.names, size_px = 16, resize_px = 16,
    cache_mb = 1 }
  for k, v in pairs(more or {}) do options[k] = v end
  return xai.dataset.from(options)
end

function made.model(names, more)
  local options = { name = "tiny", classes = names, size_px = 16, cam_layer = "features", seed = 3, outputs = "sigmoid",
    build = function(g, x)
      x = g:block("features", function() return g:relu("1", g:conv2d("0", x, { 3, 4, 3, padding = 1 })) end)
      return g:linear("fc", g:flatten(nil, g:adaptive_avg_pool2d("pool", x, 4)), { 64, #names })
    end }
  for k, v in pairs(more or {}) do options[k] = v end
  return xai.graph.network(options)
end

return made
