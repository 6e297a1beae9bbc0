local geometry = {}
function geometry.default_layer() return nil end
return geometry
