-- Where initial weights come from: "imagenet" (torch's cache folders, else torchvision's file is downloaded by curl or
-- wget, resumed and checked against the hash in its name), a file, or a run, by its name or a path into its folder.
-- Prints what matched. It refuses files that do not fit the model, and runs of other settings (model_file.lua).
local check = require "medxai.base.check"
local Options = require "medxai.base.options"
local current_seed = require "medxai.run.current_seed"
local environment = require "medxai.run.environment"
local files = require "medxai.base.files"
local host = require "medxai.host"
local match = require "medxai.nn.match"
local model_file = require "medxai.nn.model_file"
local run_folders = require "medxai.run.folder"
local store = require "medxai.nn.checkpoint"

local weights = {}

-- torchvision's IMAGENET1K_V1 files: the name ends in the first 8 digits of the SHA-256. MB: for the progress line.
local imagenet = {
  squeezenet1_0   = { "squeezenet1_0-b66bff10.pth", mb = 5 },
  mobilenet_v2    = { "mobilenet_v2-b0353104.pth", mb = 14 },
  efficientnet_b0 = { "efficientnet_b0_rwightman-7f5810bc.pth", "efficientnet_b0_rwightman-3dd342df.pth", mb = 21 },
  densenet121     = { "densenet121-a639ec97.pth", mb = 32 },
  resnet50        = { "resnet50-0676ba61.pth", mb = 103 },
  inception_v3    = { "inception_v3_google-0cc3c7bd.pth", mb = 109 },
  vgg19           = { "vgg19-dcbb9e9d.pth", mb = 575 },
}

local function quote(s) return "'" .. s:gsub("'", "'\\''") .. "'" end

local function say(fmt, ...)
  if not host.options.quiet then io.stderr:write(string.format(fmt, ...), "\n") end
end

-- ---- cache ----------------------------------------------------------------------------------------------------------

--- The folders in which torch keeps what it downloads; a download goes into the first.
---@return string[]
function weights.folders()
  local list = {}
  local function add(base, rest)
    if base and base ~= "" then list[#list + 1] = files.join(base, rest) end
  end
  add(os.getenv "TORCH_HOME", "hub/checkpoints")
  add(os.getenv "TORCH_HOME", "checkpoints")
  add(os.getenv "XDG_CACHE_HOME", "torch/hub/checkpoints")
  add(os.getenv "HOME", ".cache/torch/hub/checkpoints")
  if #list == 0 then list[1] = "weights" end
  return list
end

local function hash_fits(path, name) return files.sha256_file(path):sub(1, 8) == name:match "%-(%x+)%.pth$" end

-- The cached file of a network, or nil.
local function cached(network)
  for _, folder in ipairs(weights.folders()) do
    for _, name in ipairs(imagenet[network]) do
      local path = files.join(folder, name)
      if files.exists(path) then
        if hash_fits(path, name) then return path end
        check.fail("weights", "'%s' is damaged (its hash is not the one in its name). Delete it and run again.", path)
      end
    end
  end
end

-- ---- download -------------------------------------------------------------------------------------------------------

local function has_program(name) return os.execute("command -v " .. name .. " >/dev/null 2>&1") == true end

-- The command that fetches url into part, going on where part ends.
local function fetch_command(url, part)
  if has_program "curl" then
    return ("curl -sS -f -L -C - --retry 2 --connect-timeout 20 -o %s %s"):format(quote(part), quote(url))
  elseif has_program "wget" then
    return ("wget -q -c --tries=3 --timeout=20 -O %s %s"):format(quote(part), quote(url))
  end
end

local function show_progress(name, bytes, mb, at)
  if host.options.quiet then return at end
  local now = host.now()
  local text = ("weights: %s %d of %d MB"):format(name, bytes // 1000000, mb)
  if host.is_tty then io.stderr:write("\r", text)
  elseif now - at >= 10 then io.stderr:write(text, "\n")
  else return at end
  io.stderr:flush()
  return now
end

-- The fetch runs in the background of a shell that tells its size twice a second. When nobody listens any more (Ctrl-C,
-- a kill) the shell ends the fetch and tidies up; what came so far stays, for the next try.
local watcher = [[
trap '' PIPE; part=%s; rm -f "$part.status"
( %s 2>"$part.log" & echo $! >"$part.pid"; wait $!; echo $? >"$part.status" ) &
while [ ! -s "$part.status" ]; do
  echo size $({ wc -c <"$part"; } 2>/dev/null) 2>/dev/null || { kill $(cat "$part.pid"); wait; break; }
  sleep 0.5
done
echo exit $(cat "$part.status") 2>/dev/null
tail -n 1 "$part.log" 2>/dev/null
rm -f "$part.status" "$part.pid" "$part.log"]]

-- Runs a fetch. Returns its exit status and last words.
local function watch(command, part, name, mb)
  local pipe <close> = assert(io.popen(watcher:format(quote(part), command)))
  local shown, code, words = host.now(), nil, nil
  for line in pipe:lines() do
    local bytes = tonumber(line:match "^size (%d+)")
    if code then words = line
    elseif bytes then shown = show_progress(name, bytes, mb, shown)
    else code = tonumber(line:match "^exit (%d+)") end
    if host.interrupted() then error("interrupted", 0) end
  end
  if host.is_tty and not host.options.quiet then io.stderr:write "\n" end
  return code or 1, words
end

-- Downloads a network's file. Returns its path, or nil and why not.
local function download(network)
  local name, mb, folder = imagenet[network][1], imagenet[network].mb, weights.folders()[1]
  local url = (os.getenv "MEDXAI_WEIGHTS_URL" or "https://download.pytorch.org/models") .. "/" .. name
  local path = files.join(folder, name)
  local part = path .. ".part"
  files.mkdir(folder)
  local lock <close> = files.wait_lock(path .. ".lock") -- luacheck: ignore (held, not read)
  if files.exists(path) then return path end -- another process has brought it meanwhile
  local command = fetch_command(url, part)
  if not command then return nil, "neither curl nor wget is installed" end
  local resumed = files.exists(part)
  if not (resumed and hash_fits(part, name)) then
    say("weights: downloading %s (%d MB) into %s%s", url, mb, folder, resumed and ", going on where it stopped" or "")
    local code, words = watch(command, part, name, mb)
    if code ~= 0 and resumed and files.exists(part) then -- the rest cannot be had: from the start, once
      os.remove(part)
      code, words = watch(command, part, name, mb)
    end
    if code ~= 0 then return nil, words or ("exit status " .. code) end
  end
  if not hash_fits(part, name) then
    os.remove(part)
    return nil, "what came has another hash than " .. name:match "%-(%x+)%.pth$"
  end
  assert(os.rename(part, path))
  return path
end

--- The file of a network's ImageNet weights, downloaded where it is absent.
---@param network string
---@param options? { download?: boolean }
---@return string? path nil where it cannot be had
---@return string? why
function weights.imagenet(network, options)
  if not imagenet[network] then
    check.fail("weights", "there are no ImageNet weights for '%s' (%s have some). Give a file.", network,
      table.concat(check.sorted_keys(imagenet), ", "))
  end
  local path = cached(network)
  if path then return path end
  if options and options.download == false then
    return nil, "no file " .. imagenet[network][1] .. " in " .. weights.folders()[1]
  end
  return download(network)
end

-- ---- runs -----------------------------------------------------------------------------------------------------------

-- A name with a dot may be a file's or a run's: "try.2".
local function is_path(spec)
  if spec:find "/" or files.exists(spec) and not files.is_folder(spec) then return true end
  return spec:find "%.%w+$" ~= nil and not files.exists(files.join("runs", spec, "weights.pt"))
end

-- The experiment that makes a run of that name, if it lies beside this one or in experiments/.
local function experiment_of(name)
  for _, folder in ipairs { host.script_dir or ".", "experiments" } do
    local path = files.join(folder, name .. ".lua")
    if files.exists(path) then return path end
  end
end

-- The folder of a run by its name. Of an experiment with several seeds the one of this run's seed.
local function run_folder(name)
  for _, dir in ipairs(run_folders.named(name)) do
    for _, folder in ipairs { dir, files.join(dir, "seed-" .. tostring(current_seed.get())) } do
      if files.exists(files.join(folder, "weights.pt")) then return folder end
    end
  end
  local experiment = experiment_of(name)
  local word = name:lower()
  if word == "imagenet" or word == "pretrained" or word == "default" or word:find "^imagenet1k" then
    check.fail("weights", "there is no run '%s'. torchvision's weights are weights = \"imagenet\".", name)
  end
  check.fail("weights", "there is no run '%s' (looked for runs/%s/weights.pt). %s", name, name,
    experiment and ("Run %s first."):format(experiment)
    or "Run the experiment of that name first, or give a path to a file.")
end

-- ---- apply ----------------------------------------------------------------------------------------------------------

-- Whether a tensor belongs to a part that ImageNet weights may leave as drawn.
local function in_head(model)
  local heads = { model.head_name, "AuxLogits.fc" }
  return function(name)
    for _, head in ipairs(heads) do
      if name == head or name:sub(1, #head + 1) == head .. "." then return true end
    end
    return false
  end
end

-- Inception's auxiliary branch takes part in training alone: a file may lack it, or have it for other classes.
local function in_auxiliary(name) return name:find "^AuxLogits%." ~= nil end

local function tell_auxiliary(report)
  local absent, other = 0, 0
  for _, name in ipairs(report.missing) do absent = absent + (in_auxiliary(name) and 1 or 0) end
  for _, d in ipairs(report.shape_differs) do other = other + (in_auxiliary(d.name) and 1 or 0) end
  if absent + other == 0 then return end
  say("  the auxiliary branch (AuxLogits) is %s in the file: it stays as drawn; it has a part in training, none in "
    .. "evaluation", other == 0 and "not" or "of another shape")
end

-- options: kind ("file"), set and strict of the weights, optional as match.load_into has it
local function load_file(model, path, options)
  local scope <close> = require("medxai.core").memory.scope() -- luacheck: ignore
  local loaded = store.read(path)
  local state = model:state()
  local tensors, taken, others = match.choose(loaded, state, options.set)
  local report = match.load_into(state, tensors, { from = path, strict = options.strict, optional = options.optional })
  report.path, report.format, report.set = path, loaded.format, taken
  say("weights: %s '%s': %s%s", options.kind, path, match.counts(report),
    #report.renamed > 0 and " (names " .. table.concat(report.renamed, ", ") .. ")" or "")
  if #others > 0 then
    say("  it holds several sets of weights: '%s' is taken, not '%s'. To choose: weights = { file = '%s', set = '%s' }",
      taken, table.concat(others, "', '"), path, others[1])
  end
  for _, line in ipairs(match.describe(report, state)) do say("  %s", line) end
  tell_auxiliary(report)
  return report
end

weights.spec = {
  file = { "string", doc = "a .pt, .pth or .safetensors file" },
  run = { "string", doc = "an earlier run, by its name or folder, instead of a file" },
  set = { "string", doc = "which of several sets of weights in the file, for instance \"model_ema\"" },
  strict = { "boolean", default = true, doc = "false: load what fits and leave the rest as drawn" },
}

-- What an experiment gives as weights, as a table: { file = PATH or run = NAME, set, strict }.
local function complete(spec)
  if type(spec) ~= "table" then return { word = spec, strict = true } end
  local o = Options.check("weights", spec, weights.spec)
  if (o.file == nil) == (o.run == nil) then check.fail("weights", "give either file = PATH or run = NAME.") end
  o.word = o.file or o.run
  return o
end

-- A path: of a run's folder, of a file beside a run's model.json, or of a plain file.
local function find_path(path)
  local folder = files.is_folder(path) and path or files.folder(path) or "."
  local described = model_file.read(folder)
  if not described then return { path = path, kind = "file" } end
  local file = files.is_folder(path) and files.join(path, "weights.pt") or path
  return { path = file, kind = "run", run = path, described = described }
end

local function find_imagenet(network, options)
  local path, why = weights.imagenet(network, { download = environment.may_download() })
  if path then return { path = path, kind = "ImageNet" } end
  if options and options.on_missing == "scratch" then return nil, why end
  check.fail("weights", "the ImageNet weights of %s are not here and cannot be downloaded (%s). "
    .. "Put https://download.pytorch.org/models/%s into '%s', or give weights = \"random\".",
    network, why, imagenet[network][1], weights.folders()[1])
end

--- Where the weights are that `spec` names: { path, kind = "ImageNet" | "file" | "run", run, described = its
--- model.json, set, strict }. nil: drawn at random; nil and why: ImageNet's file is absent and options.on_missing is
--- "scratch".
---@param spec? string|table nil or "random"; "imagenet" (downloaded where absent); a path; the name of a run;
---  { file = PATH or run = NAME, set = which of several in it, strict = false: what fits }
---@param network string
---@param options? { on_missing?: "error"|"scratch" }
function weights.find(spec, network, options)
  local o = complete(spec)
  local found
  if o.word == nil or spec == "random" then return nil end
  if spec == "imagenet" then return find_imagenet(network, options) end
  if o.file or not o.run and is_path(o.word) then
    found = find_path(o.word)
  else
    local folder = run_folder(o.word)
    found = { path = files.join(folder, "weights.pt"), kind = "run", run = o.word, described = model_file.read(folder) }
  end
  found.set, found.strict = o.set, o.strict
  return found
end

--- Whether a plain file is torchvision's own ImageNet file of a network.
---@param path string
---@param network string
---@return boolean
function weights.is_imagenet(path, network)
  if not imagenet[network] or not files.exists(path) or files.is_folder(path) then return false end
  local digest = require("medxai.core").image.sha256_file(path)
  for _, name in ipairs(imagenet[network]) do
    if digest and digest:sub(1, 8) == name:match "%-(%x+)%.pth$" then return true end
  end
  return false
end

-- Raises where a file beside a model.json holds other weights than that describes.
local function check_hash(model, found)
  local described = found.described
  if not described.weights_sha256 or not found.strict or described.dtype ~= model.dtype then return end
  local hash = model:sha256()
  if hash == described.weights_sha256 then return end
  check.fail("weights", "'%s' does not hold the weights that '%s' beside it describes (SHA-256 %s..., not %s...). "
    .. "Train that run again, or move the file elsewhere.", found.path,
    files.join(files.folder(found.path) or ".", "model.json"), hash:sub(1, 12), described.weights_sha256:sub(1, 12))
end

--- Loads what weights.find found into a model, whose settings have been compared with a run's (model_file.check_model).
---@param model table
---@param found table
---@return medxai.Match report with .path
function weights.load(model, found)
  if found.kind == "ImageNet" then
    return load_file(model, found.path, { kind = found.kind, optional = in_head(model) })
  end
  local report = load_file(model, found.path,
    { kind = found.kind, set = found.set, strict = found.strict, optional = in_auxiliary })
  if found.described then
    check_hash(model, found)
  elseif found.kind == "run" then
    check.warn("weights", "the run '%s' has no model.json: with what settings it was trained is not known, and is not "
      .. "compared.", found.run)
  end
  return report
end

return weights
