-- Attention rollout: Abnar and Zuidema, ACL 2020, section 3: the attention weights of every layer, averaged over heads,
-- half of them the identity for the residual connection (A = 0.5 W + 0.5 I, each row divided by its sum), multiplied
-- from the first layer to the last; the row of the class token at the places (where the head reads all tokens, the mean
-- of all rows). It asks for no class and uses no gradient: it shows what the network attends to, not why the target was
-- chosen.
local attention = require "medxai.explain.attention"

local function fuse(weights, how)
  if how == "mean" then return weights:mean({ 1 }) end
  return how == "max" and weights:amax({ 1 }) or weights:amin({ 1 })
end

return {
  title = "attention rollout",
  paper = "Abnar and Zuidema 2020, doi:10.18653/v1/2020.acl-main.385",
  version = 1,
  at = "input",
  sign = "nonnegative",
  smoothing = { aug_smooth = true },
  options = {
    fusion = { one_of = { "mean", "max", "min" }, default = "mean", doc = "of the heads' weights; mean: the paper" },
  },
  map = function(ctx, _, _, o)
    local found = attention.of(ctx.model)
    return attention.maps(ctx, "attention_rollout", false, function(weights)
      local rollout
      for _, w in ipairs(weights) do -- (n, heads, T, T)
        local a = fuse(w, o.fusion) * 0.5 + attention.identity(w:select(1, 0)) * 0.5
        a = a / a:sum({ -1 }, true)
        rollout = rollout and a:matmul(rollout) or a
      end
      return attention.to_map(found, rollout)
    end)
  end,
}
