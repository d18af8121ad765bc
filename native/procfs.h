/* procfs.h: /proc as a verified handle; nothing that a container mounted over it, or put in its place, can catch what is written here. */
#ifndef ORLOP_PROCFS_H
#define ORLOP_PROCFS_H

#include <stddef.h>
#include <stdint.h>

/* O_PATH fd of the root of a real procfs: the mounted /proc, or else a detached one made for this process. -1 with errno. */
int procfs_open(void);
/* Opens a file below it: no symlink that leaves, no mount on top. */
int procfs_at(int proc, const char *path, uint64_t flags);
/* One write(2) of the whole value; a short write is EIO. */
int procfs_write(int proc, const char *path, const char *value, size_t length);

#endif
