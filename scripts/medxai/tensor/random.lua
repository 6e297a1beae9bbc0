-- Random numbers for experiments: keyed streams, so that a draw depends on what it is for and never on when it is
-- asked, and NumPy's two generators for comparisons with Python. Weights, dropout and stochastic depth alone use
-- torch's own generator (torch.manual_seed). It refuses streams without a purpose.
--
--   local s = random.stream { seed = 42, purpose = "lime@1", id = item.id }
--   s:uniform(1000)     float64 in [0, 1); s:uniform(2000) begins with the same 1000
--   s:at(500):uniform(1)  the 501st of them
local rng = require("medxai.core").rng

---@class medxai.Stream draws of one kind: uniform, normal, bits and integers read the same numbers
---@field uniform fun(self, n: integer): medxai.Tensor float64 in [0, 1)
---@field normal fun(self, n: integer): medxai.Tensor float64, mean 0, deviation 1
---@field bits fun(self, n: integer): medxai.Tensor int64, 0 or 1
---@field integers fun(self, n: integer, below: integer): medxai.Tensor int64 in [0, below)
---@field permutation fun(self, n: integer): medxai.Tensor int64, 0 .. n-1 shuffled
---@field at fun(self, i: integer): medxai.Stream the same stream from draw i on

---@class medxai.NumpyRandom numpy.random.RandomState or numpy.random.default_rng, to the last bit
--- int64 in [low, high); also named randint
---@field integers fun(self, low: integer, high: integer, n: integer): medxai.Tensor
---@field uniform fun(self, n: integer, low?: number, high?: number): medxai.Tensor float64
---@field normal fun(self, n: integer, mean?: number, deviation?: number): medxai.Tensor float64
---@field choice fun(self, n: integer, size: integer, p?: number[]): medxai.Tensor int64 in [0, n), with replacement
---@field permutation fun(self, n: integer): medxai.Tensor int64

return {
  ---@type fun(key: { seed: integer, purpose: string, id?: string, replicate?: integer }): medxai.Stream
  stream = rng.stream,
  ---@type fun(seed: integer): medxai.NumpyRandom
  numpy_random_state = rng.numpy_random_state,
  ---@type fun(seed: integer): medxai.NumpyRandom
  numpy_default_rng = rng.numpy_default_rng,
}
