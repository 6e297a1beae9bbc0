-- A GPU that is not here is refused in words, before anything is read; what the program sets for one that is.
local t = require "t"
local core = require "medxai.core"
local torch = require "medxai.torch"

local function no_gpu()
  if core.device.cuda_count() > 0 then t.skip "this machine has a GPU" end
end

-- Why there is none: the end of the sentence is the machine's.
local why = "^medxai%-run: .*host: device '(cuda:?%d*)' is not here: (.+)\n$"

t.test("--device cuda without a GPU says why, before the experiment does anything", function()
  no_gpu()
  local dir = t.tmpdir()
  local script = t.write(dir .. "/x.lua", "print 'begun' io.open('" .. dir .. "/made', 'w'):close()")
  for _, device in ipairs { "cuda", "cuda:7" } do
    local r = t.run { script, "--device", device }
    t.equal({ r.code, r.out }, { 1, "" })
    local name, reason = r.err:match(why)
    t.equal(name, device, r.err)
    t.ok(reason:find "built without CUDA" or reason:find "driver" or reason:find "CUDA_VISIBLE_DEVICES", r.err)
    t.equal(io.open(dir .. "/made"), nil)
  end
end)

t.test("a tensor or a model that is sent to an absent GPU says the same", function()
  no_gpu()
  t.fails_like(function() torch.ones(1, { device = "cuda" }) end, "^ones: device 'cuda' is not here: %a.+")
  t.fails_like(function() torch.ones(1):to "cuda:1" end, "device 'cuda:1' is not here: %a.+")
end)

t.test("help and the list of runs need no GPU", function()
  t.equal(t.run({ "--device", "cuda", "help", "sgd" }).code, 0)
end)

t.test("the GPU's own test says why it is skipped", function()
  no_gpu()
  local out = t.tmpdir() .. "/out"
  t.ok(os.execute(("MEDXAI_PROGRAM=%s sh %s/tests/device.sh >%s 2>&1"):format(t.quote(require("medxai.host").exe),
    t.quote(t.root), out)))
  t.ok(t.read(out):find "^skipped: no CUDA device: .+\n$", t.read(out))
end)

t.test("TF32 is off from the start, for cuDNN too, and can be asked for", function()
  t.equal(core.device.set_tf32(true), false)
  t.equal(core.device.set_tf32(false), true)
  t.equal(core.device.set_tf32(false), false)
end)

t.test("cuBLAS' workspace is fixed before libtorch is opened, unless the user chose one", function()
  local show = "require 'medxai.core' io.write(os.getenv 'CUBLAS_WORKSPACE_CONFIG')"
  t.equal(t.run({ "-e", show, env = { CUBLAS_WORKSPACE_CONFIG = ":16:8" } }).out, ":16:8")
  t.ok(os.getenv "CUBLAS_WORKSPACE_CONFIG")
end)

t.test("deterministic can be switched on and off, and durations are never negative", function()
  core.device.set_deterministic(true)
  core.device.set_deterministic(false)
  local began = core.device.now()
  torch.ones(1000):sum():item()
  t.ok(core.device.now() >= began)
end)
