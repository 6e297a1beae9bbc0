#include <torch/version.h>
#include "tx.h"
extern "C" const char *tx_version(void) noexcept { return TORCH_VERSION; }
