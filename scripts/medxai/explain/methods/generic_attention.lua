-- Generic attention explainability for self-attention: Chefer, Gur and Wolf, ICCV 2021, eq. 5 and 6: relevances begin
-- as the identity; every layer adds what its heads carry: R = R + (mean over heads of (dW W)+) R, dW the target's
-- gradient at the attention weights W. The map is the class token's row at the places (where the head reads all tokens,
-- the mean of all rows).
local attention = require "medxai.explain.attention"

return {
  title = "generic attention",
  paper = "Chefer et al. 2021, doi:10.1109/ICCV48922.2021.00045",
  version = 1,
  at = "input",
  sign = "nonnegative",
  smoothing = { aug_smooth = true },
  map = function(ctx)
    local found = attention.of(ctx.model)
    return attention.maps(ctx, "generic_attention", true, function(weights, gradients)
      local relevance = attention.identity(weights[1]:select(1, 0))
      for l, w in ipairs(weights) do -- (n, heads, T, T)
        relevance = relevance + (w * gradients[l]):relu():mean({ 1 }):matmul(relevance)
      end
      return attention.to_map(found, relevance)
    end)
  end,
}
