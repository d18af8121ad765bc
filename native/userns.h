/* userns.h: the monitor program's other mode, see userns.c. */
#ifndef ORLOP_USERNS_H
#define ORLOP_USERNS_H

/* Returns the exit status of the process. */
int hold_userns(void);

#endif
