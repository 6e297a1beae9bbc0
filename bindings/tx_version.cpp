#include <torch/version.h>
#include "tx.h"
extern "C" const char *tx_version(void) { return TORCH_VERSION; }
