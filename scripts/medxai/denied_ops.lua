-- Operators whose bad arguments end the process on libtorch 1.13.1 instead of raising an error, found by tests/fuzz_ops.lua.
-- torch.<op> refuses them; torch.raw.<op> reaches them.
return {
  "native_channel_shuffle", "segment_reduce", "ctc_loss",
}
