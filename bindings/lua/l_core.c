/* l_core.c: the modules of medxai_core.so, one per line, and the functions that the host looks up in it. */
#include "xl.h"

static const luaL_Reg modules[] = {
  { "memory", luaopen_core_memory }, /* first: installs the allocator */
  { "device", luaopen_core_device },
  { "dist", luaopen_core_dist },
  { "autograd", luaopen_core_autograd },
  { "optim", luaopen_core_optim },
  { "rng", luaopen_core_rng },
  { "tensor", luaopen_core_tensor },
  { "figure", luaopen_core_figure },
  { "image", luaopen_core_image },
  { "impute", luaopen_core_impute },
  { "lars", luaopen_core_lars },
  { "loader", luaopen_core_loader },
  { "partition", luaopen_core_partition },
  { "phantom", luaopen_core_phantom },
  { "resample", luaopen_core_resample },
  { "segment", luaopen_core_segment },
  { "pt2", luaopen_core_pt2 },
  { "ssim", luaopen_core_ssim },
  { "store",  luaopen_core_store },
  { "graph", luaopen_core_graph },
  { NULL, NULL },
};

/* interrupted: the host's flag; running_op: where its crash handler finds the running operator's name. */
__attribute__((visibility("default"))) void medxai_core_attach(volatile sig_atomic_t *interrupted,
                                                               const char *volatile *running_op) {
  tx_attach(interrupted, running_op);
}

/* libtorch's whole last error, for --trace. */
__attribute__((visibility("default"))) const char *medxai_core_error_full(void) { return tx_error_full(); }

__attribute__((visibility("default"))) int luaopen_medxai_core(lua_State *L) {
  (void)xl_root(L); /* made before any box, so that it outlives them */
  lua_newtable(L);
  for (const luaL_Reg *m = modules; m->name; m++) {
    m->func(L);
    lua_setfield(L, -2, m->name);
  }
  return 1;
}
