/* inroot.h: names inside a container's root, resolved the way the container itself would, and never outside of it. */
#ifndef ORLOP_INROOT_H
#define ORLOP_INROOT_H

#include <limits.h>
#include <stdint.h>
#include <sys/stat.h>

/* openat2(2) below root: "/" and ".." stay inside, magic links are refused. Returns an fd or -1. */
int inroot_open(int root, const char *path, uint64_t flags);
/* The same, and no component may be a symbolic link. */
int inroot_open_plain(int root, const char *path, uint64_t flags);
/* O_PATH fd of path; what is missing is made: directories with `mode`, or, for kind S_IFREG, an empty file as the last component. */
int inroot_ensure(int root, const char *path, mode_t kind, mode_t mode);
/* O_PATH fd of the directory that path's last component stands in (made if missing); name gets that component. */
int inroot_parent(int root, const char *path, char name[NAME_MAX + 1]);

#endif
