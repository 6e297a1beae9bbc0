/* worker.h: threads that load images. They block all signals except those of a crash of their own (SIGSEGV and the
 * like), for which the host prints its report. */
#ifndef MEDXAI_WORKER_H
#define MEDXAI_WORKER_H

#include <pthread.h>

#define WORKER_NAME "image worker" /* the thread's name, by which the host's crash report recognizes it */

int worker_start(pthread_t *thread, void *(*work)(void *), void *ud); /* 0, or pthread_create's error */

#endif
