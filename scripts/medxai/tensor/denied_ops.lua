-- Operators that torch.<op> refuses and torch.raw.<op> reaches.
-- First those on which libtorch 1.13.1 ended the process: tests/fuzz/ops.lua --all yes --list FILE lists them.
-- Then insides that PyTorch does not document: kernels of one backend, quantised and compressed-sparse plumbing.
return {
  -- ended the process
  "align_as", "align_tensors", "align_to", "batch_norm_update_stats", "choose_qparams_optimized", "ctc_loss",
  "embedding_bag", "gru", "gru_cell", "lcm", "lcm_", "lstm", "lstm_cell", "lu_unpack",
  "native_batch_norm", "native_channel_shuffle", "pdist", "quantized_lstm_cell", "rnn_relu", "rnn_relu_cell",
  "rnn_tanh", "rnn_tanh_cell", "segment_reduce", "set_", "slow_conv3d_forward",
  -- insides
  "batch_norm_elemt", "batch_norm_gather_stats", "batch_norm_gather_stats_with_counts", "batch_norm_stats",
  "ccol_indices", "ccol_indices_copy", "copy_sparse_to_sparse", "copy_sparse_to_sparse_", "crow_indices",
  "crow_indices_copy", "cudnn_affine_grid_generator", "cudnn_batch_norm", "cudnn_convolution",
  "cudnn_convolution_add_relu", "cudnn_convolution_relu", "cudnn_convolution_transpose", "cudnn_grid_sampler",
  "cudnn_is_acceptable", "fake_quantize_per_channel_affine", "fake_quantize_per_channel_affine_cachemask",
  "fake_quantize_per_tensor_affine", "fake_quantize_per_tensor_affine_cachemask", "fbgemm_linear_fp16_weight",
  "fbgemm_linear_fp16_weight_fp32_activation", "fbgemm_linear_int8_weight", "fbgemm_linear_int8_weight_fp32_activation",
  "fbgemm_linear_quantize_weight", "fbgemm_pack_gemm_matrix_fp16", "fbgemm_pack_quantized_matrix", "miopen_batch_norm",
  "miopen_convolution", "miopen_convolution_add_relu", "miopen_convolution_relu", "miopen_convolution_transpose",
  "miopen_depthwise_convolution", "miopen_rnn", "mkldnn_adaptive_avg_pool2d", "mkldnn_convolution", "mkldnn_linear",
  "mkldnn_max_pool2d", "mkldnn_max_pool3d", "mkldnn_reorder_conv2d_weight", "mkldnn_reorder_conv3d_weight",
  "mkldnn_rnn_layer", "native_dropout", "native_group_norm", "native_layer_norm",
  "native_norm", "q_per_channel_axis", "q_per_channel_scales", "q_per_channel_zero_points", "q_scale", "q_zero_point",
  "quantize_per_channel", "quantize_per_tensor", "quantize_per_tensor_dynamic", "quantized_batch_norm", "quantized_gru",
  "quantized_gru_cell", "quantized_lstm", "quantized_max_pool1d", "quantized_max_pool2d", "quantized_rnn_relu_cell",
  "quantized_rnn_tanh_cell", "resize_as_sparse", "resize_as_sparse_", "set_data", "slow_conv3d", "slow_conv_dilated2d",
  "slow_conv_dilated3d", "slow_conv_transpose2d", "slow_conv_transpose3d", "sparse_bsc_tensor", "sparse_bsr_tensor",
  "sparse_compressed_tensor", "sparse_csc_tensor", "sparse_csr_tensor", "sparse_resize", "sparse_resize_",
  "sparse_resize_and_clear", "sparse_resize_and_clear_", "thnn_conv2d", "to_mkldnn", "to_sparse_bsc", "to_sparse_bsr",
  "unsafe_chunk", "unsafe_split", "unsafe_split_with_sizes",
}
