-- Quickshift, SLIC and boundaries against scikit-image, with MEDXAI_SEGMENTS_DIRS = folders that perturb_segments.py
-- wrote (separated by spaces; skipped without it). Two cells a label map: from the image, and from scikit-image's own
-- Lab image. From equal Lab (blurred where the setting blurs) every label must be equal. From the image the last bits
-- of Lab and of the blur's weights differ with NumPy's version and instruction set, and decide ties between links of
-- equal length: a map that differs there alone counts as without evidence, and fails where these are more than one in
-- twenty of the X-rays. The last line counts the cells; mutants must fail.
local t = require "t"
local host = require "medxai.host"
local core = require "medxai.core"
local torch = require "medxai.torch"
local xai = require "medxai"

local dirs = os.getenv "MEDXAI_SEGMENTS_DIRS"
local segment = core.segment
local count = { passed = 0, failed = 0, none = 0, mutants = 0, mutants_passed = 0 }

local function run(job, image, is_lab, change)
  if job.kind == "quickshift" then
    return (segment.quickshift(image, job.kernel_size, job.max_dist, job.ratio, job.sigma,
      job.seed + (change and 1 or 0), is_lab))
  end
  return (segment.slic(image, job.n_segments, job.compactness, job.sigma, change and 1 or 10, job.connected, 0.5, 3,
    is_lab))
end

local function differing(a, b) return a:ne(b):sum():item() end

local function settings(job)
  if job.kind == "quickshift" then
    return ("quickshift %g %g %g sigma %g"):format(job.kernel_size, job.max_dist, job.ratio, job.sigma)
  end
  return ("slic %d compactness %g sigma %g%s"):format(job.n_segments, job.compactness, job.sigma,
    job.connected and "" or " unconnected")
end

-- One label map: both cells. tied[1], tied[2]: X-rays that differ by ties, all X-rays.
local function one_map(dir, job, line, tied)
  local scope <close> = xai.scope()
  local image = torch.load_npy(("%s/%s.npy"):format(dir, job.image))
  local off = differing(run(job, image), torch.load_npy(("%s/%s.%d.npy"):format(dir, job.image, job.k)))
  local blurred = job.sigma > 0
  local lab = torch.load_npy(blurred and ("%s/%s.%d.blurred.npy"):format(dir, job.image, job.k)
    or ("%s/%s.lab.npy"):format(dir, job.image))
  local lab_off = differing(run(setmetatable({ sigma = 0 }, { __index = job }), lab, true),
    torch.load_npy(("%s/%s.%d.lab.npy"):format(dir, job.image, job.k)))
  local verdict = off == 0 and "passed" or lab_off == 0 and "none" or "failed"
  count[verdict] = count[verdict] + 1
  count[lab_off == 0 and "passed" or "failed"] = count[lab_off == 0 and "passed" or "failed"] + 1
  line[verdict] = line[verdict] + 1
  line.lab = line.lab + (lab_off == 0 and 1 or 0)
  line.n = line.n + 1
  if job.image:find "^%u" then
    tied[1], tied[2] = tied[1] + (off > 0 and 1 or 0), tied[2] + 1
  end
  if verdict ~= "passed" then line.worst = ("%s (%d pixels)"):format(job.image, off) end
end

-- Other noise or one pass instead of ten must give other labels somewhere.
local function mutant(dir, job)
  local scope <close> = xai.scope()
  local image = torch.load_npy(("%s/%s.npy"):format(dir, job.image))
  for _, changed in ipairs { run(job, image, false, true), run(job, image:flip({ 0 }):contiguous()) } do -- blue for red
    count.mutants = count.mutants + 1
    if differing(changed, torch.load_npy(("%s/%s.%d.npy"):format(dir, job.image, job.k))) == 0 then
      count.mutants_passed = count.mutants_passed + 1
    end
  end
end

local function boundaries(dir, k)
  local scope <close> = xai.scope()
  local labels = torch.load_npy(("%s/boundary.%d.npy"):format(dir, k))
  for kind, wrapped in pairs { int64 = true, int32 = false } do
    local truth = torch.load_npy(("%s/boundary.%d.%s.npy"):format(dir, k, kind))
    local good = differing(segment.boundaries(labels, 0, wrapped), truth) == 0
    count[good and "passed" or "failed"] = count[good and "passed" or "failed"] + 1
    if not good then print(("  boundaries of map %d as %s differ"):format(k, kind)) end
  end
end

local function one_version(dir)
  local jobs = dofile(dir .. "/jobs.lua")
  print(("scikit-image %s"):format(jobs.version))
  local lines, order, tied = {}, {}, { 0, 0 }
  for _, job in ipairs(jobs) do
    if host.interrupted() then error("interrupted", 0) end
    if job.boundary then
      boundaries(dir, job.boundary)
    else
      local key = settings(job)
      if not lines[key] then
        lines[key] = { n = 0, passed = 0, failed = 0, none = 0, lab = 0 }
        order[#order + 1] = key
      end
      one_map(dir, job, lines[key], tied)
      if job.image == "made" and job.k < 2 then mutant(dir, job) end
    end
  end
  for _, key in ipairs(order) do
    local l = lines[key]
    print(("  %-44s %3d maps: %3d equal, %d but for ties, %d failed; from its Lab %d equal%s"):format(key, l.n,
      l.passed, l.none, l.failed, l.lab, l.worst and "; last " .. l.worst or ""))
  end
  print(("  ties decided %d of %d X-rays"):format(tied[1], tied[2]))
  if tied[1] * 20 > tied[2] then count.failed = count.failed + 1 end
end

t.test("label maps and boundaries equal scikit-image's", function()
  if not dirs then t.skip "MEDXAI_SEGMENTS_DIRS is not set" end
  for dir in dirs:gmatch "%S+" do one_version(dir) end
  print(("mutants: %d, of which %d passed where they must fail"):format(count.mutants, count.mutants_passed))
  print(("%d cells passed, %d failed, %d without evidence"):format(count.passed, count.failed, count.none))
  t.ok(count.failed == 0 and count.mutants_passed == 0 and count.mutants > 0, "the table above has failures")
end)
