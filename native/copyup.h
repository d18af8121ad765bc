/* copyup.h: copies a directory of the image into a fresh tmpfs (mount_new with TMPCOPYUP). */
#ifndef ORLOP_COPYUP_H
#define ORLOP_COPYUP_H

/* Copies what is in `from` into `to`: files, directories, links, device nodes, with owner, mode and times. Both are directory fds and stay open.
 * Returns 0, or -1 with errno and the name of the entry in `where` (size bytes). */
int copyup(int from, int to, char *where, unsigned size);

#endif
