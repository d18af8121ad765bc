/*
 * userns.c: `orlop-monitor --userns`: a user namespace and nothing else, for as long as standard input stays open. The daemon, which may not fork, writes its
 * id maps from outside and takes an fd of it: an id-mapped mount needs no more. Says one byte when the namespace is there; ends with errno as exit status
 * when the kernel makes none. Test: tests/kernel/monitor/test_userns.py.
 */
#include "userns.h"

#include <errno.h>
#include <sched.h>
#include <unistd.h>

int hold_userns(void) {
    char byte = 0;
    if (unshare(CLONE_NEWUSER))
        return errno;
    if (write(STDOUT_FILENO, &byte, 1) != 1)
        return EPIPE;
    while (read(STDIN_FILENO, &byte, 1) > 0)
        ;
    return 0;
}
