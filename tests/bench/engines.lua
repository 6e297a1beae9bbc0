-- ./bootstrap bench engines [NETWORK ...] [batch=1,8] [threads=1,2] [repeats=5] [bfloat16] [avx2]: a pass without
-- gradients of the seven networks, ours beside torch 2.13 (NCHW and channels last), ONNX Runtime and OpenVINO from
-- PyPI, interleaved in one run. avx2: all are told to do without AVX-512 by the variables that their libraries read
-- (oneDNN, ATen, MKL; ONNX Runtime reads none and takes what the processor has). Medians of seconds; best: the fastest
-- peer's seconds over ours (above 1: ours is faster), the same of processor time, which tells more on a busy
-- machine; MB: the largest that a process grows by for network and passes.
-- The Python is MEDXAI_ENGINES, or made in build/engines with pip. It judges nothing and fails nothing.
local host = require "medxai.host"
local bench = dofile(host.script_dir .. "/side.lua")
local here, quote, median, row, heading, geometric = bench.here, bench.quote, bench.median, bench.row, bench.heading,
  bench.geometric

local networks = { "squeezenet1_0", "mobilenet_v2", "efficientnet_b0", "densenet121", "resnet50", "inception_v3",
  "vgg19" }
local batches, threads, repeats, dtype, limits = { 1, 8 }, { 1, 2 }, 5, nil, ""
local engines = { "torch", "torch_channels_last", "onnxruntime", "openvino" }

local packages = "torch==2.13.0 torchvision==0.28.0 onnxruntime openvino openvino-telemetry onnx onnx_ir onnxscript "
  .. "numpy typing_extensions sympy mpmath "
  .. "networkx jinja2 markupsafe fsspec filelock protobuf flatbuffers packaging ml_dtypes pillow setuptools"

-- The Python that has the engines; nil, and why, where it cannot be made.
local function find_python()
  local given = os.getenv "MEDXAI_ENGINES"
  if given then return given end
  local python = "build/engines/bin/python"
  local check = quote(python) .. " -c 'import torch, onnxruntime, openvino, onnx'"
  if bench.output(check) then return python end
  io.stderr:write("bench: makes build/engines with torch, ONNX Runtime and OpenVINO from PyPI\n")
  local made = os.execute(("(python3 -m venv build/engines && build/engines/bin/pip install -q --no-deps %s) "
    .. ">build/engines.log 2>&1"):format(packages))
  if made and bench.output(check) then return python end
  return nil, "the engines cannot be installed (build/engines.log)"
end

local function numbers(text)
  local list = {}
  for n in text:gmatch "%d+" do list[#list + 1] = math.tointeger(tonumber(n)) end
  return list
end

local chosen = {}
for _, word in ipairs { ... } do
  local key, value = word:match "^(%a+)=(.*)$"
  if key == "batch" then batches = numbers(value)
  elseif key == "threads" then threads = numbers(value)
  elseif key == "repeats" then repeats = numbers(value)[1]
  elseif word == "bfloat16" then dtype = word
  elseif word == "avx2" then
    limits = "DNNL_MAX_CPU_ISA=AVX2 ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 MKL_ENABLE_INSTRUCTIONS=AVX2 "
  else chosen[#chosen + 1] = word end
end
if #chosen > 0 then networks = chosen end
if dtype then engines = { "torch_channels_last", "openvino" } end

-- ---- one network ----------------------------------------------------------------------------------------------------

-- Seconds, processor seconds and MB of each side, in turns.
local function measure(children, name, batch)
  local base, walls, clocks, peaks = {}, {}, {}, {}
  for i, c in ipairs(children) do
    base[i], walls[i], clocks[i] = c:ask "mark", {}, {}
    c:ask("load", name, batch, dtype)
    c:ask "pass"
  end
  for _ = 1, repeats do
    for i, c in ipairs(children) do
      local wall, clock = c:ask "pass":match "(%S+) (%S+)"
      table.insert(walls[i], tonumber(wall))
      table.insert(clocks[i], tonumber(clock))
    end
  end
  for i, c in ipairs(children) do
    peaks[i] = c:ask "peak" - base[i]
    c:ask "drop"
    walls[i], clocks[i] = median(walls[i]), median(clocks[i])
  end
  return walls, clocks, peaks
end

local function least(list) return math.min(table.unpack(list, 2)) end

local function table_of(children, exporter, batch, count)
  local head = { ("batch %d, %d thread%s"):format(batch, count, count == 1 and "" or "s") }
  for i, c in ipairs(children) do head[i + 1] = c.name end
  for _, text in ipairs { "best", "best cpu", "MB", "MB least" } do head[#head + 1] = text end
  local widths, ratios, clocks_ratios = heading(head), {}, {}
  for _, name in ipairs(networks) do
    exporter:ask("export", name, batch)
    local walls, clocks, peaks = measure(children, name, batch)
    local cells = { name }
    for i in ipairs(children) do cells[i + 1] = ("%.4f"):format(walls[i]) end
    ratios[#ratios + 1], clocks_ratios[#clocks_ratios + 1] = least(walls) / walls[1], least(clocks) / clocks[1]
    for _, text in ipairs { ("%.2f"):format(ratios[#ratios]), ("%.2f"):format(clocks_ratios[#ratios]),
        ("%.0f"):format(peaks[1]),
      ("%.0f"):format(least(peaks)) } do cells[#cells + 1] = text end
    row(cells, widths)
  end
  print(("geometric mean of best: %.2f, of processor time %.2f"):format(geometric(ratios), geometric(clocks_ratios)))
end

-- ---- the run --------------------------------------------------------------------------------------------------------

local function processor()
  local f <close> = assert(io.open "/proc/cpuinfo")
  local text = f:read "a"
  local has = {}
  for _, flag in ipairs { "avx2", "avx512f", "avx512_bf16", "amx_tile" } do
    if text:find("[ \t]" .. flag .. "[ \n]") then has[#has + 1] = flag end
  end
  local load_average = (io.open "/proc/loadavg" or io.stdin):read "n"
  return ("%s, %d cores, %s; %sload average %s"):format(text:match "model name%s*: ([^\n]*)" or "?", host.cores,
    table.concat(has, " "), limits ~= "" and "set: " .. limits .. "; " or "", load_average)
end

io.stdout:setvbuf "line"
local python, why = find_python()
if not python then
  print(why)
  return
end
local dir = bench.output "mktemp -d ${TMPDIR:-/tmp}/medxai-bench.XXXXXX"
local running = {}
local function start(...)
  running[#running + 1] = bench.start_child(...)
  return running[#running]
end
local ok, message = xpcall(function()
  print(processor())
  local exporter = start("exporter", ("%s %s/engines.py torch 2 %s"):format(quote(python), here, dir), dir)
  for _, count in ipairs(threads) do
    local children = { start("ours" .. count,
      ("%s%s --threads %d %s/engines_worker.lua"):format(limits, quote(host.exe), count, here), dir) }
    for _, engine in ipairs(engines) do
      local child = start(engine .. count, ("%sOMP_NUM_THREADS=%d %s %s/engines.py %s %d %s"):format(limits, count,
        quote(python), here, engine, count, dir), dir)
      local version = child:ask "hello"
      child.name = engine:gsub("_channels_last", " nhwc") .. " " .. version
      children[#children + 1] = child
    end
    children[1].name = "ours"
    for _, batch in ipairs(batches) do table_of(children, exporter, batch, count) end
  end
end, function(m) return m end)
for _, c in ipairs(running) do c:close() end
os.execute("rm -rf " .. quote(dir))
if not ok then error(message, 0) end
