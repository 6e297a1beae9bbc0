-- Which regions of an image are kept: rows of 0 and 1 for LIME.
-- Designs, each row alone being n fair coins, so that all aim at the same coefficients:
--   plain     every row on its own (Ribeiro et al. 2016)
--   paired    each row is followed by its complement: effects of two regions together cancel in the differences
--   balanced  paired, and within a block of 2 m rows (m the power of two above K) all regions are on equally often and
--             uncorrelated: rows of a Hadamard matrix with random columns, signs and order, folded over
-- Row 0 keeps everything. The first rows of a longer draw are those of a shorter one.
local check = require "medxai.base.check"
local core = require "medxai.core"
local torch = require "medxai.torch"

local coalitions = {}

coalitions.designs = { "plain", "paired", "balanced" }

-- ---- draws ----------------------------------------------------------------------------------------------------------

local function from_bits(bits, rows, count) return bits:view({ rows, count }):to { dtype = "uint8" } end

local function with_everything_first(masks)
  masks:select(0, 0):fill_(1)
  return masks
end

-- (2 n, K) of n rows and their complements in turn.
local function folded(rows)
  local n, count = rows:size(0), rows:size(1)
  return torch.stack({ rows, 1 - rows }, 1):view({ 2 * n, count })
end

local function parity(v)
  v = v ~ (v >> 32)
  v = v ~ (v >> 16)
  v = v ~ (v >> 8)
  v = v ~ (v >> 4)
  v = v ~ (v >> 2)
  return (v ~ (v >> 1)) & 1
end

-- m rows of K columns: m > K a power of two. Entry (i, j) of Sylvester's matrix is the parity of the bits that i and j
-- share.
local function hadamard_block(key, replicate, m, count)
  local function stream(purpose)
    return core.rng.stream { seed = key.seed, purpose = key.purpose .. purpose, id = key.id, replicate = replicate }
  end
  local columns, rows = stream("/columns"):permutation(m - 1):tolist(), stream("/rows"):permutation(m):tolist()
  local signs, block = stream("/signs"):bits(count):tolist(), {}
  for i = 1, m do
    local row = {}
    for j = 1, count do row[j] = parity(rows[i] & (columns[j] + 1)) ~ signs[j] end
    block[i] = row
  end
  return torch.tensor(block, { dtype = "uint8" })
end

local function balanced_rows(key, pairs_wanted, count)
  local m = 2
  while m <= count do m = 2 * m end
  local blocks, have = {}, 0
  while have < pairs_wanted do
    blocks[#blocks + 1] = hadamard_block(key, #blocks + (key.replicate or 0) * 1000000, m, count)
    have = have + m
  end
  return torch.cat(blocks, 0):narrow(0, 0, pairs_wanted)
end

--- Rows by a keyed stream.
---@param design string "plain" | "paired" | "balanced"
---@param n integer rows
---@param count integer regions
---@param key table seed, purpose ("lime@1"), id, replicate
---@return any masks uint8 (n, count); row 0 is all ones
function coalitions.draw(design, n, count, key)
  check.known("coalitions", "design", design, coalitions.designs)
  local stream = core.rng.stream { seed = key.seed, purpose = key.purpose, id = key.id, replicate = key.replicate }
  if design == "plain" then return with_everything_first(from_bits(stream:bits(n * count), n, count)) end
  local half = (n + 1) // 2 -- the first pair is everything and nothing
  local ones = torch.ones(1, count, { dtype = "uint8" })
  if half > 1 then
    local rows = design == "paired" and from_bits(stream:bits((half - 1) * count), half - 1, count)
      or balanced_rows(key, half - 1, count)
    ones = torch.cat({ ones, rows }, 0)
  end
  return folded(ones):narrow(0, 0, n):contiguous()
end

--- Rows as LIME draws them: n * count times randint(0, 2) of a numpy RandomState, then row 0 set to ones.
function coalitions.draw_numpy(random_state, n, count)
  return with_everything_first(from_bits(random_state:randint(0, 2, n * count), n, count))
end

--- Rows that are there twice are evaluated once.
---@param masks any uint8 (n, K) on the CPU, contiguous
---@return any distinct uint8 (m, K) in order of first appearance
---@return any number int64 (n): which of them each row is
---@return integer[] seen for each row how many distinct ones there are up to it
function coalitions.distinct(masks)
  local n, count = masks:size(0), masks:size(1)
  local bytes, known, first, number, seen = masks:data_string(), {}, {}, {}, {}
  for i = 1, n do
    local row = bytes:sub((i - 1) * count + 1, i * count)
    if not known[row] then
      known[row] = #first
      first[#first + 1] = i - 1
    end
    number[i], seen[i] = known[row], #first
  end
  return masks:index_select(0, torch.tensor(first, { dtype = "int64" })),
    torch.tensor(number, { dtype = "int64" }), seen
end

return coalitions
