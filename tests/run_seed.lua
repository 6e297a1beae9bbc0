-- The seed that is taken where none is given.
local t = require "t"
local current_seed = require "medxai.run.current_seed"

t.test("a run's seed is taken by models made after it, another one only during a call, also where "
  .. "that raises", function()
  local xai = require "medxai"
  local host = require "medxai.host"
  local before, given = current_seed.get() or 0, host.options.seed
  local function model() return xai.models.squeezenet1_0 { classes = 2 }:start().seed end
  current_seed.during(before, function()
    current_seed.set(11)
    t.equal({ current_seed.get(), model() }, { 11, 11 })
    t.equal(current_seed.during(12, model), 12)
    t.fails(function() current_seed.during(13, error, "stop", 0) end, "stop")
    t.equal({ current_seed.get(), model() }, { 11, 11 })
  end)
  t.equal(host.options.seed, given) -- the command's option stays as it was given
end)
