---@meta medxai.host
-- What the program (medxai-run) tells the library and does for it. For editors; the module itself is host/module.c.

---@class medxai.host
---@field version string
---@field options medxai.host.options what the command line said
---@field fields table<string, string> --field value pairs, as text
---@field script string the experiment's file
---@field script_dir string
---@field scripts_dir string the folder that holds medxai/
---@field exe string
---@field is_tty boolean standard error is a terminal
---@field cores integer physical cores that this process may use
local host = {}

---@class medxai.host.options
---@field device string "cpu", "cuda" or "cuda:N"
---@field threads integer
---@field seed integer|nil
---@field out string|nil
---@field smoke boolean
---@field resume boolean
---@field overwrite boolean
---@field quiet boolean
---@field verbose boolean
---@field trace boolean
---@field profile boolean

---The signal that asked the program to stop, nil while none has.
---@return "SIGINT"|"SIGTERM"|"SIGPIPE"|nil
function host.interrupted() end

---Seconds of a clock that only goes forward.
---@return number
function host.now() end

---Prints a warning at once; all are counted again at the end.
---@param message string
function host.warn(message) end

---The warnings so far.
---@return string[]
function host.warnings() end

---Runs f when the script has ended, however it did; the last one given runs first.
---@param f fun(state: "finished"|"failed"|"interrupted"|"terminated", message: string|nil)
function host.at_exit(f) end

return host
