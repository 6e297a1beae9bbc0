-- Our side of the grid bench: grid_work.lua prepare DIR NETWORK DATA PER_CLASS writes images, labels and orders for the
-- peer and measures the training speed; run DIR NETWORK DATA PER_CLASS DEPTH VARIANT searches one depth. The last line
-- is plain data.
local canon = require "medxai.base.json"
local files = require "medxai.base.files"
local host = require "medxai.host"
local torch = require "medxai.torch"
local work = require "medxai.nn.macs"
local xai = require "medxai"

local what, dir, network, root, per_class, depth, variant = ...
per_class, depth = math.tointeger(tonumber(per_class)), math.tointeger(tonumber(depth))

local axes = {
  squeezenet1_0 = { lr = { 0.001, 0.01, 0.05 }, step_size = { 5, 8 }, epochs = { 7, 7, 12, 12 } },
  vgg19 = { lr = { 0.001, 0.01 }, step_size = { 5, 7 }, hidden = { 1024, 256 }, epochs = { 10, 10, 15, 15 } },
}
local axis = axes[network]
local batch = 8

local function data_set()
  return xai.dataset.covid_qu_ex { root = root, limit = per_class, resize_px = network == "vgg19" and 255 or 256 }
end

-- "exact": as libtorch computes it, node by node, in the peer's layout
local function build(data, cell)
  local exact = variant == "exact"
  return xai.models[network] { classes = data.classes, hidden = network == "vgg19" and cell.hidden or nil,
    train_depth = cell.train_depth, layout = exact and "nchw" or "auto", engine = exact and "reference" or "auto" }
end

local function write_json(path, value) files.write(path, canon.write(value)) end

-- Multiply-adds a second in a plain training step of the whole network, best of three.
local function speed(data)
  local model = xai.models[network] { classes = data.classes, train_depth = "all" }
  local optimizer = xai.optim.sgd { lr = 0.0 }
  local list, names = {}, {}
  for i, p in ipairs(model:parameters()) do list[i], names[i] = p.tensor, p.name end
  optimizer = optimizer:build { { names = names, params = list } }
  local places = {}
  for i = 1, math.min(batch, data.train.n) do places[i] = i end
  local best = math.huge
  for _ = 1, 4 do
    local scope <close> = xai.scope()
    local b = data.train:batch(places, { channels_last = model.layout == "channels_last" })
    local began = host.now()
    local loss = torch.cross_entropy(model(b.x), b.y)
    optimizer:zero_grad()
    loss:backward()
    optimizer:step()
    best = math.min(best, host.now() - began)
  end
  return #places * work.training_step(model) / best
end

local function prepare()
  host.options.seed = 42
  local data = data_set()
  local all = {}
  for _, name in ipairs { "train", "val" } do
    local places = {}
    for i = 1, data[name].n do places[i] = i end
    local b = data[name]:batch(places)
    torch.save_npy(files.join(dir, network .. "_x_" .. name .. ".npy"), b.x)
    torch.save_npy(files.join(dir, network .. "_y_" .. name .. ".npy"), b.y)
  end
  for epoch = 1, 15 do all[epoch] = data.train:order(42, epoch) end
  write_json(files.join(dir, network .. "_orders.json"), all)
  local flags = files.read "/proc/cpuinfo" or ""
  local cells = #axis.lr * #axis.step_size * 4 * #(axis.hidden or { 1 })
  return { cells = cells, n_train = data.train.n, n_val = data.val.n, speed = speed(data),
    has_bf16 = flags:find "avx512_bf16" ~= nil or flags:find "amx_bf16" ~= nil }
end

-- What the search had to compute: every cell alone, trajectories shared, and frozen parts cached besides.
local function count(data, cells)
  local alone, shared, cached, seen, cut_done = 0, 0, 0, {}, {}
  for _, cell in ipairs(cells) do
    local model = build(data, cell.values, "auto")
    local cut = require("medxai.train.feature_cache").cut(model)
    local step, after = work.training_step(model), work.training_step(model, cut and cut.names)
    local forward = work.forward(model)
    local prefix = cut and work.up_to(model, cut.names) or 0
    alone = alone + cell.epochs_run * (data.train.n * step + data.val.n * forward)
    local new = cell.epochs_run - (cell.shared_epochs or 0)
    shared = shared + new * (data.train.n * step + data.val.n * forward)
    cached = cached + new * (data.train.n * after + data.val.n * (forward - prefix))
    local key = cut and table.concat(cut.names, ",") or ""
    if cut and not cut_done[key] then cached, cut_done[key] = cached + (data.train.n + data.val.n) * prefix, true end
    seen[#seen + 1] = model:close()
  end
  return { alone = alone, shared = shared, cached = cached }
end

local function search()
  local data = data_set()
  local run = xai.run { name = "grid", seed = 42, out = files.join(dir, network .. "-" .. variant .. "-" .. depth) }
  data.train:item(1)
  data:check()
  local began = host.now()
  local result = run:grid {
    lr = axis.lr, step_size = axis.step_size, train_depth = { depth }, hidden = axis.hidden,
    epochs = { axis.epochs[depth + 1] }, cache = variant ~= "exact",
    search = variant == "halving" and { "halving", factor = 3, min_epochs = 1 } or "all",
    train = function(cell)
      return build(data, cell), data, { optim = xai.optim.sgd { lr = cell.lr, momentum = 0.9 },
        schedule = xai.optim.step_lr { step_size = cell.step_size, gamma = 0.1 }, epochs = cell.epochs,
        batch = batch, precision = variant == "bf16" and "bfloat16" or "float32" }
    end }
  local seconds = host.now() - began
  local cells = {}
  for _, row in ipairs(result.cells) do
    local v, loss, accuracy = row.values, canon.list {}, canon.list {}
    for i, record in ipairs(files.records(files.join(run.dir, "cells", row.cell, "metrics.jsonl"))) do
      loss[i], accuracy[i] = record.train_loss, record.val_accuracy
    end
    cells[string.format("depth %d lr %g step %d hidden %d", depth, v.lr, v.step_size, v.hidden or 0)] = { loss = loss,
      accuracy = accuracy }
  end
  return { seconds = seconds, cells = cells, work = count(data, result.cells) }
end

print(canon.write(what == "prepare" and prepare() or search()))
