/* infer.h: the inference plan: steps of a run (graph.h) that record no gradients, as one program of oneDNN primitives.
 * Activations stay in oneDNN's blocked layout, weights are reordered once, batch norms, activations and sums are fused,
 * concatenations are written in place, and every buffer has its place in one workspace. A program computes one image:
 * a batch is divided among the threads image by image, so that a result depends on its image alone.
 * It refuses what oneDNN has no fast form for, float64, other devices, and numbers that could overflow: those steps run
 * node by node (graph.c), and the note says why. */
#ifndef MEDXAI_INFER_H
#define MEDXAI_INFER_H

#include "graph_look.h"

typedef struct infer infer; /* programs and packed weights of one graph_state */

/* Computes as many of the run's next steps as a program can take, puts the values that are read later into the run, and
 * says how many steps these were; 0: the next step is to be run by itself. note: why steps were left, "" before.
 * TX_OK, TX_NOMEM (nothing has happened; may be tried again), TX_INTERRUPTED, TX_ERROR. */
int infer_steps(int *done, graph_run *run, char *note, size_t room);
const char *infer_error(void); /* of the last failure on this thread */
void infer_free(infer *p);     /* accepts NULL */

#endif
