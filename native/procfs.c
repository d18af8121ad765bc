/*
 * procfs.c: see procfs.h. A sysctl or an LSM label written through a path can be redirected by a mount over a part of /proc (CVE-2019-16884,
 * CVE-2025-52881); through a handle whose superblock is checked, with RESOLVE_NO_XDEV, it cannot.
 */
#include "procfs.h"

#include "sys.h"

#include <linux/magic.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#define PROC_ROOT_INO 1

int procfs_open(void) {
    int fd = open("/proc", O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    struct statfs fs;
    struct stat st;
    if (fd >= 0 && fstatfs(fd, &fs) == 0 && fs.f_type == PROC_SUPER_MAGIC && fstat(fd, &st) == 0 && st.st_ino == PROC_ROOT_INO)
        return fd;
    if (fd >= 0)
        close(fd);
    SCOPED_FD context = sys_fsopen("proc", FSOPEN_CLOEXEC);
    if (context < 0 || sys_fsconfig(context, FSCONFIG_CMD_CREATE, NULL, NULL, 0))
        return -1;
    return sys_fsmount(context, FSMOUNT_CLOEXEC, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC);
}

int procfs_at(int proc, const char *path, uint64_t flags) {
    return sys_openat2(proc, path, flags | O_CLOEXEC, 0, RESOLVE_BENEATH | RESOLVE_NO_XDEV | RESOLVE_NO_MAGICLINKS);
}

int procfs_write(int proc, const char *path, const char *value, size_t length) {
    SCOPED_FD fd = procfs_at(proc, path, O_WRONLY);
    if (fd < 0)
        return -1;
    ssize_t n = write(fd, value, length);
    if (n == (ssize_t)length)
        return 0;
    if (n >= 0)
        errno = EIO;
    return -1;
}
