-- Where initial weights come from: "imagenet" (torch's cache folders, else torchvision's file is downloaded by curl or
-- wget, resumed and checked against the hash in its name), a file, or the name of a run. Prints what matched.
-- It refuses files that do not fit the model, runs of another network, classes, hidden units, size or mask.
local check = require "medxai.check"
local files = require "medxai.files"
local host = require "medxai.host"
local store = require "medxai.store"

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

-- ---- cache -----------------------------------------------------------------------------------------------------------------

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

-- ---- download --------------------------------------------------------------------------------------------------------------

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

-- The fetch runs in the background of a shell that tells its size twice a second. When nobody listens any more (Ctrl-C, a
-- kill) the shell ends the fetch and tidies up; what came so far stays, for the next try.
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
    check.fail("weights", "there are no ImageNet weights for '%s' (%s have some). Give a file.", network, table.concat(check.sorted_keys(imagenet), ", "))
  end
  local path = cached(network)
  if path then return path end
  if options and options.download == false then return nil, "no file " .. imagenet[network][1] .. " in " .. weights.folders()[1] end
  return download(network)
end

-- ---- runs ------------------------------------------------------------------------------------------------------------------

local function is_path(spec) return spec:find "/" or spec:find "%.%w+$" ~= nil and not spec:find "^[%w_%-]+$" end

-- The experiment that makes a run of that name, if it lies beside this one or in experiments/.
local function experiment_of(name)
  for _, folder in ipairs { host.script_dir or ".", "experiments" } do
    local path = files.join(folder, name .. ".lua")
    if files.exists(path) then return path end
  end
end

-- The folder of a run by its name; under --smoke a smoke run's is taken first. Of an experiment with several seeds the one
-- of this run's seed.
local function run_folder(name)
  local names = check.smoke() and { name .. "-smoke", name } or { name }
  for _, n in ipairs(names) do
    for _, folder in ipairs { files.join("runs", n), files.join("runs", n, "seed-" .. tostring(host.options.seed)) } do
      if files.exists(files.join(folder, "weights.pt")) then return folder end
    end
  end
  local experiment = experiment_of(name)
  check.fail("weights", "there is no run '%s' (looked for runs/%s/weights.pt). %s", name, name,
    experiment and ("Run %s first."):format(experiment) or "Run the experiment of that name first, or give a path to a file.")
end

local function list_text(v)
  if type(v) ~= "table" then return tostring(v) end
  local parts = {}
  for i, item in ipairs(v) do parts[i] = tostring(item) end
  return table.concat(parts, ", ")
end

local function must_agree(from, what, theirs, ours)
  if theirs == nil or ours == nil or list_text(theirs) == list_text(ours) then return end
  check.fail("weights", "%s has %s %s (here: %s). Use the same, or other weights.", from, what, list_text(theirs), list_text(ours))
end

--- Raises unless what a run's model.json says about its data agrees with the data to be used.
---@param model table whose weights came from a run
---@param data { size_px?: integer, input_mode?: string } input_mode: "none", "lungs", ...
function weights.check_data(model, data)
  local described = model.weights_of
  if not described then return end
  if not model.other_size then must_agree("the run '" .. described.run .. "'", "size_px", described.size_px, data.size_px) end
  must_agree("the run '" .. described.run .. "'", "mask", described.input_mode, data.input_mode)
end

local function check_model(described, name, model)
  local from, config = "the run '" .. name .. "'", model.config or {}
  must_agree(from, "the network", described.network, model.name)
  must_agree(from, "the classes", described.classes, model.classes)
  must_agree(from, "the head", described.head, config.head)
  must_agree(from, "hidden =", described.hidden, config.hidden)
end

-- ---- apply -----------------------------------------------------------------------------------------------------------------

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

local function load_file(model, path, what, options)
  local scope <close> = require("medxai.core").memory.scope() -- luacheck: ignore
  local loaded = store.load(path)
  local state = model:state()
  options.from = path
  local report = store.load_into(state, loaded.tensors, options)
  report.path, report.format = path, loaded.format
  say("weights: %s '%s': %s%s", what, path, store.counts(report),
    #report.renamed > 0 and " (names " .. table.concat(report.renamed, ", ") .. ")" or "")
  for _, line in ipairs(store.describe(report, state)) do say("  %s", line) end
  return report
end

--- Where the weights are that `spec` names: { path, kind = "ImageNet" | "file" | "run", run, described = its model.json }.
--- nil: drawn at random; nil and why: ImageNet's file is absent and options.on_missing is "scratch".
---@param spec? string nil or "random"; "imagenet" (downloaded where absent); a path; the name of a run
---@param network string
---@param options? { on_missing?: "error"|"scratch" }
function weights.find(spec, network, options)
  if spec == nil or spec == "random" then return nil end
  if spec == "imagenet" then
    local path, why = weights.imagenet(network, { download = not check.smoke() })
    if path then return { path = path, kind = "ImageNet" } end
    if options and options.on_missing == "scratch" then return nil, why end
    check.fail("weights", "the ImageNet weights of %s are not here and cannot be downloaded (%s). Put https://download.pytorch.org/models/%s into '%s', or give weights = \"random\".",
      network, why, imagenet[network][1], weights.folders()[1])
  end
  if is_path(spec) or files.exists(spec) and not files.is_folder(spec) then return { path = spec, kind = "file" } end
  local folder = run_folder(spec)
  local described = files.exists(files.join(folder, "model.json")) and files.read_data(files.join(folder, "model.json")) or nil
  return { path = files.join(folder, "weights.pt"), kind = "run", run = spec, described = described }
end

--- What a model keeps of the run that its weights come from; nil where they come from elsewhere.
function weights.origin(found)
  local described = found.described
  return described and { run = found.run, size_px = described.size_px, input_mode = described.input_mode }
end

--- Loads what weights.find found into a model.
---@param model table
---@param found table
---@param options? { strict?: boolean }
---@return medxai.Match report with .path
function weights.load(model, found, options)
  if found.kind == "ImageNet" then return load_file(model, found.path, found.kind, { optional = in_head(model) }) end
  if found.described then check_model(found.described, found.run, model) end
  local report = load_file(model, found.path, found.kind, { strict = options and options.strict })
  report.run, report.model = found.run, found.described
  return report
end

--- Finds and loads what `spec` names.
---@param model table
---@param spec? string nil or "random": nothing
---@param options? { on_missing?: "error"|"scratch", strict?: boolean } "scratch": where the ImageNet file is absent return nil and why
---@return medxai.Match? report with .path
---@return string? why
function weights.apply(model, spec, options)
  local found, why = weights.find(spec, model.name, options)
  if found then
    model.weights_of = weights.origin(found)
    return weights.load(model, found, options)
  end
  if why then return nil, why end
  return { matched = 0, missing = {}, extra = {}, shape_differs = {}, renamed = {} }
end

return weights
