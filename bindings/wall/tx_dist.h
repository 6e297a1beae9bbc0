/* tx_dist.h: processes that train one network together, over libtorch's own c10d: a store of keys and texts (TCPStore),
 * collectives (Gloo), and the sums of gradients (the Reducer of DistributedDataParallel). As in tx.h, no exception
 * leaves a function. Every process calls the collectives of a group in the same order. After an error in one, the
 * group cannot be used again: another process has ended or does not answer. */
#ifndef MEDXAI_TX_DIST_H
#define MEDXAI_TX_DIST_H

#include "tx.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tx_dist_store tx_dist_store;
typedef struct tx_dist tx_dist;       /* a group of processes; counted references */
typedef struct tx_reducer tx_reducer; /* averages gradients over a group while the backward pass runs */

bool tx_dist_available(void) TX_NOEXCEPT; /* is c10d with Gloo in the libtorch that this was built with? */

/* Connects to the store at host:port, trying until timeout_s have passed; serves: this process keeps it. */
int tx_dist_store_open(tx_dist_store **out, const char *host, int port, bool serves, double timeout_s) TX_NOEXCEPT;
void tx_dist_store_free(tx_dist_store *s) TX_NOEXCEPT;
int tx_dist_store_set(tx_dist_store *s, const char *key, const char *text, size_t n) TX_NOEXCEPT;
/* Waits for the key until interrupted. *out: malloc'ed; NULL: it has not come within wait_s (< 0: for ever). */
int tx_dist_store_get(char **out, size_t *n, tx_dist_store *s, const char *key, double wait_s) TX_NOEXCEPT;

/* prefix: of the group's keys in the store, its own. address: of this process, or the name of its network interface;
 * NULL: libtorch's choice. timeout_s: how long a process waits for the others in a collective. */
int tx_dist_open(tx_dist **out, tx_dist_store *s, const char *prefix, const char *address, int rank, int world,
                 double timeout_s) TX_NOEXCEPT;
tx_dist *tx_dist_retain(tx_dist *d) TX_NOEXCEPT; /* accepts NULL, as does the next */
void tx_dist_free(tx_dist *d) TX_NOEXCEPT;
void tx_dist_abandon(tx_dist *d) TX_NOEXCEPT; /* others may be gone: what is under way is waited for no more */
int tx_dist_all_reduce(tx_dist *d, tx_tensor *t) TX_NOEXCEPT;          /* the sum over all processes, in place */
int tx_dist_broadcast(tx_dist *d, tx_tensor *t, int root) TX_NOEXCEPT; /* root's values, in place */

/* aten::batch_norm(x, weight, bias, running_mean, running_var, training, momentum, eps, cudnn_enabled) in training over
 * the batches of all processes, and its gradient. Ioffe and Szegedy 2015, equations of section 3; moments are merged as
 * Chan, Golub and LeVeque 1983 do. args: as that operator takes them. */
int tx_dist_batch_norm(tx_tensor **out, tx_dist *d, const tx_value *args, int nargs) TX_NOEXCEPT;

/* params: what is trained, in the same order in every process. Buckets of 1 MiB (the first) and 25 MiB, as
 * DistributedDataParallel's. */
int tx_reducer_new(tx_reducer **out, tx_dist *d, tx_tensor *const *params, const char *const *names,
                   int n) TX_NOEXCEPT;
void tx_reducer_free(tx_reducer *r) TX_NOEXCEPT;
/* Before a backward pass from loss: at its end every parameter's gradient is the mean over all processes. */
int tx_reducer_prepare(tx_reducer *r, const tx_tensor *loss) TX_NOEXCEPT;

#ifdef __cplusplus
}
#endif
#endif
