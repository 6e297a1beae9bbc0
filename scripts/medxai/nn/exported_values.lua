-- The values of an exported network while its graph is built. PyTorch's in-place operators write to memory that several
-- values share: a slice of a tensor, the tensor, a transposed view of it. The graph has none: a write makes a new
-- value, and the values that share its memory are made anew from it, when they are next read (functionalization).
-- It refuses to guess: where only PyTorch's memory layout tells whether two values share memory, reading one of them
-- after the other was written to is an error.
local check = require "medxai.base.check"

local values = {}

---@class medxai.ExportedValue
---@field name string in the file
---@field shape integer[] -1: the batch
---@field dtype string
---@field where "main"|"constant"|"slot" the graph that holds it, or a tensor of the model
---@field id? integer its node there
---@field slot? table parameter or buffer
---@field place? table a constant tensor in the file
---@field parent? medxai.ExportedValue the value whose memory it shares
---@field view? table { again = function(parent) -> id, where; back = function(parent, new) -> id, where }
---@field maybe? boolean it may share the parent's memory, or be a copy
---@field version integer counts the writes
---@field seen? integer the parent's version that it was made of

local function fail(fmt, ...) check.fail("exported", fmt, ...) end

--- A new value.
---@param v table name, shape, dtype, where, and id, slot or place
function values.new(v)
  v.version = 0
  return v
end

--- Makes v a view of parent: again(parent) makes it from the parent's present state, back(parent, v) puts it into it.
function values.view_of(v, parent, again, back)
  v.parent, v.view, v.seen = parent, { again = again, back = back }, parent.version
  return v
end

--- Makes v what may be a view of parent, or a copy.
function values.perhaps_of(v, parent)
  v.parent, v.maybe, v.seen = parent, true, parent.version
  return v
end

local function put(v, id, where)
  v.id, v.where, v.in_main, v.version = id, where, nil, v.version + 1
end

--- The value in its present state.
function values.current(v)
  if v.poisoned then
    fail("'%s' may share the memory of '%s', which '%s' changes in place: only PyTorch's memory layout tells. "
      .. "Write the network without that in-place operator.", v.name, v.poisoned.name, v.poisoned.writer)
  end
  local parent = v.parent
  if not parent then return v end
  values.current(parent)
  if parent.version == v.seen then return v end
  if v.maybe then
    v.poisoned = { name = parent.name, writer = parent.writer or parent.name }
    return values.current(v)
  end
  local id, where = v.view.again(parent)
  put(v, id, where)
  v.seen = parent.version
  return v
end

--- Puts what an in-place operator gives into v, and so into all that it is a view of.
---@param writer string name of the operator's node
---@param refuse fun(slot: table) raises: a parameter or buffer is written to
function values.write(v, id, where, writer, refuse)
  if v.slot then refuse(v.slot) end
  v.writer = writer
  put(v, id, where)
  local parent = v.parent
  if not parent then return end
  if v.maybe then
    parent.poisoned = { name = v.name, writer = writer }
    v.parent = nil -- its own from now on
    return
  end
  if not v.view.back then fail("'%s' writes in place to '%s', which PyTorch does not allow either.", writer, v.name) end
  local new_id, new_where = v.view.back(parent, v)
  values.write(parent, new_id, new_where, writer, refuse)
  v.seen = parent.version
end

return values
