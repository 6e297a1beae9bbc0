/* worker.h: threads that read images ahead. They leave signals to the main thread, but for those of a fault of their
 * own, which must find the host's crash report. */
#ifndef MEDXAI_WORKER_H
#define MEDXAI_WORKER_H

#include <pthread.h>

#define WORKER_NAME "image worker" /* the thread's name: what the host's crash report knows it by */

int worker_start(pthread_t *thread, void *(*work)(void *), void *ud); /* 0, or pthread_create's error */

#endif
