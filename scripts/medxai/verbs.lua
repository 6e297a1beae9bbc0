-- What run:<verb> does: { module, its function }. The module's check_call(unknown, run, ...) checks a call without
-- making it; an argument that is `unknown` is left out (run/preflight.lua). begins: it is told in the status file from
-- the start; logs: TensorBoard gets its figures.
return {
  fit = { "medxai.steps.fit", "run" },
  grid = { "medxai.steps.search", "run" },
  evaluate = { "medxai.steps.evaluate", "run" },
  cross_evaluate = { "medxai.steps.cross_evaluate", "run" },
  explain = { "medxai.steps.explain", "run", begins = true, logs = true },
  overlap = { "medxai.steps.overlap", "run", begins = true },
  compare = { "medxai.steps.compare", "run" },
  study = { "medxai.steps.study", "run" },
  packet = { "medxai.steps.packet", "run" },
  readers = { "medxai.steps.readers", "run" },
  sanity = { "medxai.steps.sanity", "run" },
  networks = { "medxai.steps.networks", "run" },
  audit = { "medxai.steps.audit", "run" },
  report = { "medxai.steps.report", "write", begins = true },
}
