-- The statistics against what SciPy, scikit-learn, statsmodels, pingouin, scikit-image and the code of DeLong's fast
-- algorithm say (tests/reference/stats_peers.py): the stored cases, or those of the file MEDXAI_STATS_PEERS
-- (./bootstrap parity statistics).
local t = require "t"
local accuracy = require "medxai.stats.accuracy"
local calibration = require "medxai.stats.calibration"
local cjson = require "cjson"
local complexity = require "medxai.stats.complexity"
local components = require "medxai.stats.components"
local delong = require "medxai.stats.delong"
local distributions = require "medxai.stats.distributions"
local multiple = require "medxai.stats.multiple"
local rankings = require "medxai.stats.rankings"
local readers = require "medxai.stats.readers"
local similarity = require "medxai.stats.similarity"
local units = require "medxai.stats.units"

local path = os.getenv "MEDXAI_STATS_PEERS" or t.root .. "/tests/reference/stats_peers.json"
local stored = cjson.decode(t.read(path))
local compared = 0

local function near(got, want, relative, what)
  compared = compared + 1
  t.near(got, want, relative * math.max(math.abs(want), 1e-6), what)
end

local function all_near(got, want, relative, what)
  for i, v in ipairs(want) do near(got[i], v, relative, what .. " " .. i) end
end

local kinds = {}

function kinds.distributions(c)
  near(distributions.normal_p(c.z), c.p_z, 1e-11, "normal p")
  near(distributions.t_p(c.z, c.df), c.p_t, 1e-11, "t p")
  near(distributions.t_quantile(0.95, c.df), c.q_t, 1e-11, "t quantile")
  near(distributions.normal_quantile(c.x / 31), c.q_z, 1e-11, "normal quantile")
  near(distributions.f_upper(c.x, c.d1, c.d2), c.p_f, 1e-10, "F")
  near(distributions.chi_squared_upper(c.x, c.d1), c.p_chi, 1e-10, "chi squared")
  near(distributions.range_quantile(0.95, c.k), c.q_range, 1e-7, "studentized range") -- SciPy's own tolerance
end

function kinds.mean_over_patients(c)
  local names = {}
  for i, g in ipairs(c.groups) do names[i] = "p" .. g end
  local s = units.over(#names, names):ratio(c.values)
  near(s.value, c.mean, 1e-12, "mean")
  near(s.se, c.se, 1e-9, "cluster-robust standard error")
end

function kinds.tests(c)
  near(units.signs(c.differences), c.signs, 1e-12, "permutation of signs")
  near((accuracy.mcnemar(c.b, c.c)), c.mcnemar, 1e-11, "McNemar")
  all_near(multiple.holm(c.ps), c.holm, 1e-12, "Holm")
  all_near({ units.wilson(c.hits / c.n, c.n) }, c.wilson, 1e-9, "Wilson")
end

function kinds.delong(c)
  local is_positive = {}
  for i, y in ipairs(c.y) do is_positive[i] = y == 1 end
  local over, a, b = units.over(#c.y), delong.placements(c.a, is_positive), delong.placements(c.b, is_positive)
  local r = delong.difference(a, b, over)
  all_near({ a.auc, b.auc }, c.aucs, 1e-12, "area")
  near(delong.standard_error(a, over), c.se_a, 1e-9, "standard error of one area")
  near(r.se, c.se, 1e-9, "standard error of a difference")
  near(r.p, c.p, 1e-9, "DeLong's p")
end

function kinds.calibration(c)
  local p = calibration.softmax(c.logits, 1)
  near(calibration.nll(c.y, p), c.nll, 1e-11, "log loss")
  near(calibration.brier(c.y, p), c.brier, 1e-11, "Brier")
  local s = calibration.slope(c.y, c.logits, 0)
  near(s.slope, c.slope, 1e-7, "slope")
  near(s.intercept, c.intercept, 1e-7, "intercept")
  near(s.intercept_at_1, c.intercept_at_1, 1e-7, "intercept at slope 1")
  local temperature = calibration.temperature(c.y, c.logits)
  -- a minimum is flat: a search finds it only to the square root of the precision
  near(temperature, c.temperature, 1e-5, "temperature")
  near(calibration.nll(c.y, calibration.softmax(c.logits, temperature)), c.nll_at_best, 1e-10,
    "log loss at the temperature")
  local confidences, hits = calibration.top(c.y, p)
  near((calibration.ece(confidences, hits, { by = "width" })), c.ece_width, 1e-11, "ECE, equal widths")
  near((calibration.ece(confidences, hits, { groups = 7 })), c.ece_mass, 1e-11, "ECE, equal masses")
end

function kinds.rankings(c)
  local r = rankings.friedman(c.blocks, "higher")
  all_near(r.ranks, c.ranks, 1e-12, "mean rank")
  near(r.chi2, c.chi2, 1e-11, "chi squared")
  near(r.p, c.p, 1e-10, "p")
  near(r.w, c.w, 1e-11, "W")
  near(r.f, c.f, 1e-10, "F")
end

function kinds.seeds(c)
  local r = components.of(c.rows)
  all_near({ r.ms_images, r.ms_seeds, r.ms_error }, c.ms, 1e-9, "mean square")
end

function kinds.similarity(c)
  near(similarity.spearman(c.a, c.b), c.spearman, 1e-11, "Spearman")
  near(similarity.tau_b(c.few, c.other), c.tau_b, 1e-12, "tau-b")
  near(similarity.pearson(c.few, c.other), c.pearson, 1e-12, "Pearson")
  near(similarity.ssim(c.a, c.b, 14, 18), c.ssim, 1e-9, "SSIM")
  near(complexity.entropy(c.energy), c.entropy, 1e-12, "entropy")
  for i, join in ipairs(similarity.linkage(c.distance)) do
    near(join.height, c.heights[i], 1e-12, "height of join " .. i)
    near(join.size, c.sizes[i], 0, "size of join " .. i)
  end
end

function kinds.readers(c)
  local rows = {}
  for i in ipairs(c.a) do rows[i] = { c.a[i], c.b[i] } end
  near(readers.kappa(c.a, c.b), c.kappa, 1e-11, "kappa")
  near(readers.icc(rows), c.icc, 1e-9, "ICC(2,1)")
end

local names = {}
for name in pairs(kinds) do names[#names + 1] = name end
table.sort(names)
local before = t.failed
for _, name in ipairs(names) do
  t.test((name:gsub("_", " ")) .. " equal what the Python libraries say", function()
    t.ok(#stored[name] > 0)
    for _, case in ipairs(stored[name]) do kinds[name](case) end
  end)
end
if os.getenv "MEDXAI_STATS_PEERS" then
  print(string.format("%d cells passed, %d failed, 0 without evidence", compared, t.failed - before))
end
