-- Lung-masked copies of the data, as the thesis made them: the lungs and what lies between them, everything else black.
-- Training on them and training with input = "lungs" on the data themselves are the same, to the last bit.
local xai = require "medxai"

xai.maskmaker {
  root = "data/COVID-QU-Ex",        -- another folder by --data DIR
  out = "data/COVID-QU-Ex-masked",  -- by --masked DIR
  mode = "lungs",                   -- "lungs_raw": the mask as it is; "lungs_hull": the convex hull of both lungs
}
