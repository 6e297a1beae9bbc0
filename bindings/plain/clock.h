/* clock.h: time that never goes back, and deadlines for pthread_cond_timedwait. */
#ifndef MEDXAI_CLOCK_H
#define MEDXAI_CLOCK_H

#include <time.h>

double clock_seconds(void);                    /* since an arbitrary moment, the same for the whole process */
struct timespec clock_after(double seconds);   /* from now, as a condition variable of default attributes wants it */

#endif
