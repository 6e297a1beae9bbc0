/* heart.h: a file that says that this process lives, for others that share its folder from any machine. A thread raises
 * a counter in it: who sees the counter stand still for long enough by a clock of their own may take the process for
 * dead. Nobody compares clocks. The file is locked as well (flock): on this machine the kernel knows at once. */
#ifndef MEDXAI_HEART_H
#define MEDXAI_HEART_H

#include <stdbool.h>

typedef struct heart heart;

/* A new file: 20 characters of counter and a newline, then text; raised every so many seconds. locked: whether the file
 * system has taken the lock. 0, or an errno and *out NULL. */
int heart_start(heart **out, const char *path, const char *text, double seconds, bool *locked);
void heart_stop(heart *h); /* removes the file; accepts NULL */

#endif
