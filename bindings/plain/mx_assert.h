/* mx_assert.h: assertions that are checked in the sanitize build (MEDXAI_CHECKED) and not in the release build. They
 * are for programming errors; whatever a user, a file or a lack of memory can cause is an error with a message
 * instead. */
#ifndef MEDXAI_MX_ASSERT_H
#define MEDXAI_MX_ASSERT_H

#ifdef MEDXAI_CHECKED
#include <stdio.h>
#include <stdlib.h>
#define mx_assert(holds) \
  ((holds) ? (void)0 : (fprintf(stderr, "%s:%d: broken: %s\n", __FILE__, __LINE__, #holds), abort()))
#else
#define mx_assert(holds) ((void)sizeof(holds)) /* compiled, never evaluated */
#endif

#endif
