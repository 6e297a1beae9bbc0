-- Gradient attention rollout: Gildenblat's vit-explain (2020): attention rollout in which a head's weights are
-- multiplied with the target's gradient at them, averaged over heads, and negative products left out: (mean(W dW))+ ,
-- half of it the identity, each row divided by its sum, multiplied over layers. Unlike attention rollout it is of a
-- class.
-- The original divides columns, not rows, by the rows' sums (a / a.sum(-1) without keepdim): here the rows are, as in
-- rollout.
local attention = require "medxai.explain.attention"

return {
  title = "gradient attention rollout",
  paper = "Gildenblat 2020, github.com/jacobgil/vit-explain; rollout: Abnar and Zuidema 2020, "
  .. "doi:10.18653/v1/2020.acl-main.385", version = 1,
  at = "input",
  sign = "nonnegative",
  smoothing = { aug_smooth = true },
  map = function(ctx)
    local found = attention.of(ctx.model)
    return attention.maps(ctx, "gradient_attention_rollout", true, function(weights, gradients)
      local rollout
      for l, w in ipairs(weights) do -- (n, heads, T, T)
        local a = (w * gradients[l]):mean({ 1 }):relu() * 0.5 + attention.identity(w:select(1, 0)) * 0.5
        a = a / a:sum({ -1 }, true)
        rollout = rollout and a:matmul(rollout) or a
      end
      return attention.to_map(found, rollout)
    end)
  end,
}
