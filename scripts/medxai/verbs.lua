-- What run:<verb> does: { module, its function }. The module's check_call(unknown, run, ...) checks a call without
-- making it; an argument that is `unknown` is left out (run/preflight.lua). begins: it is told in the status file from
-- the start; logs: TensorBoard gets its figures; shares: further processes that run the same experiment help with it;
-- joins: so they do, and the step sees to that itself. Before any other step they wait until the process that began the
-- run has ended.
return {
  fit = { "medxai.steps.fit", "run" },
  grid = { "medxai.steps.search", "run", joins = true },
  evaluate = { "medxai.steps.evaluate", "run_alone", shares = true },
  cross_evaluate = { "medxai.steps.cross_evaluate", "run" },
  explain = { "medxai.steps.explain", "run", begins = true, logs = true, shares = true },
  overlap = { "medxai.steps.overlap", "run", begins = true, shares = true },
  compare = { "medxai.steps.compare", "run", joins = true },
  study = { "medxai.steps.study", "run", joins = true },
  packet = { "medxai.steps.packet", "run" },
  readers = { "medxai.steps.readers", "run" },
  sanity = { "medxai.steps.sanity", "run", joins = true },
  networks = { "medxai.steps.networks", "run", joins = true },
  audit = { "medxai.steps.audit", "run" },
  report = { "medxai.steps.report", "write", begins = true },
}
