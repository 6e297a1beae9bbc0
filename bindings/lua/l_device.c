/* l_device.c: core.device: number of threads, CUDA devices, deterministic algorithms, TF32. */
#include "clock.h"
#include "xl.h"

/*- device.set_threads(n): for ATen, OpenMP and BLAS. */
static int device_set_threads(lua_State *L) {
  const int64_t n = xl_torange(L, 1, 1, 4096, "device.set_threads");
  xl_check(L, tx_set_threads((int)n), "device.set_threads");
  return 0;
}

static int device_threads(lua_State *L) {
  lua_pushinteger(L, tx_get_threads());
  return 1;
}

/*- device.cuda_count(): 0 without CUDA. */
static int device_cuda_count(lua_State *L) {
  lua_pushinteger(L, tx_cuda_count());
  return 1;
}

/*- device.synchronize(): waits until CUDA has finished all work; does nothing without CUDA. */
static int device_synchronize(lua_State *L) {
  xl_check(L, tx_synchronize(), "device.synchronize");
  return 0;
}

/*- device.set_deterministic(on): operators without a deterministic implementation then raise an error. */
static int device_set_deterministic(lua_State *L) {
  luaL_checktype(L, 1, LUA_TBOOLEAN);
  xl_check(L, tx_set_deterministic(lua_toboolean(L, 1)), "device.set_deterministic");
  return 0;
}

/*- device.now(): seconds, once the devices have finished: what durations are measured by. */
static int device_now(lua_State *L) {
  xl_check(L, tx_synchronize(), "device.now");
  lua_pushnumber(L, clock_seconds());
  return 1;
}

/*- device.free_bytes(): of memory that the GPU in use can still give; 0 without one. */
static int device_free_bytes(lua_State *L) {
  lua_pushinteger(L, tx_free_bytes());
  return 1;
}

/*- device.use(name): --device; an error that says why where it is not here. */
static int device_use(lua_State *L) {
  xl_check(L, tx_use_device(luaL_checkstring(L, 1)), "host");
  return 0;
}

/*- device.set_tf32(on): products of float32 on CUDA in TF32; off from the start. Returns whether they were. */
static int device_set_tf32(lua_State *L) {
  luaL_checktype(L, 1, LUA_TBOOLEAN);
  lua_pushboolean(L, tx_get_tf32());
  xl_check(L, tx_set_tf32(lua_toboolean(L, 1)), "device.set_tf32");
  return 1;
}

static const luaL_Reg functions[] = {
  { "cuda_count", device_cuda_count },
  { "free_bytes", device_free_bytes },
  { "now", device_now },
  { "set_deterministic", device_set_deterministic },
  { "set_tf32", device_set_tf32 },
  { "set_threads", device_set_threads },
  { "synchronize", device_synchronize },
  { "threads", device_threads },
  { "use", device_use },
  { NULL, NULL },
};

int luaopen_core_device(lua_State *L) {
  xl_check(L, tx_set_tf32(false), "device");
  xl_newlib(L, functions);
  return 1;
}
