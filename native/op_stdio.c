/* op_stdio.c: what 0, 1 and 2 are: the monitor's pipes, /dev/null of the container, or the slave of a terminal of the container's devpts. */
#include "setup.h"

#include "inroot.h"

#include <linux/magic.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <termios.h>

#ifndef TIOCGPTPEER
#define TIOCGPTPEER 0x5441
#endif
#define DEVPTS_ROOT_INO 1

int op_terminal(struct setup *s, const struct op *op) {
    ARGS(terminal, op);
    struct statfs fs;
    struct stat st;
    int unlock = 0;
    if (s->root < 0)
        return refuse(s, EINVAL, "no root to find /dev/pts in");
    SCOPED_FD pts = inroot_open(s->root, "/dev/pts", O_PATH | O_DIRECTORY);
    if (pts < 0)
        return fail(s, "/dev/pts");
    /* The root of a real devpts: no other file system's ptmx, and no link in place of it. */
    if (fstatfs(pts, &fs) || fs.f_type != DEVPTS_SUPER_MAGIC || fstat(pts, &st) || st.st_ino != DEVPTS_ROOT_INO)
        return refuse(s, ENODEV, "/dev/pts is not a devpts");
    SCOPED_FD master = openat(pts, "ptmx", O_RDWR | O_NOCTTY | O_NOFOLLOW | O_CLOEXEC);
    if (master < 0 || ioctl(master, TIOCSPTLCK, &unlock))
        return fail(s, "/dev/pts/ptmx");
    /* By the master, not by the path /dev/pts/N, which another process may have swapped (CVE-2025-52565). */
    s->slave = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (s->slave < 0)
        return fail(s, "slave of /dev/pts/ptmx");
    if (a->rows.n || a->cols.n) {
        struct winsize size = {.ws_row = (unsigned short)a->rows.n, .ws_col = (unsigned short)a->cols.n};
        if (ioctl(master, TIOCSWINSZ, &size))
            return fail(s, "window size %u x %u", (unsigned)a->rows.n, (unsigned)a->cols.n);
    }
    for (int i = 0; i <= 2; i++)
        if (dup2(s->slave, i) < 0)
            return fail(s, "slave as fd %d", i);
    if (ioctl(s->slave, TIOCSCTTY, 0))
        return fail(s, "controlling terminal (is setsid before it?)");
    return setup_send_master(s, master) ? fail(s, "master to the monitor") : 0;
}

int op_console(struct setup *s, const struct op *op) {
    (void)op;
    if (s->slave < 0)
        return refuse(s, EINVAL, "no op terminal before it");
    SCOPED_FD target = inroot_ensure(s->root, "/dev/console", S_IFREG, 0600);
    if (target < 0)
        return fail(s, "/dev/console");
    SCOPED_FD mount = sys_open_tree(s->slave, "", AT_EMPTY_PATH | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
    if (mount < 0 || sys_move_mount(mount, "", target, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH))
        return fail(s, "/dev/console: bind of the terminal");
    return 0;
}

/* A program of another runtime gives what it is handed to its container's user (crun: fchown of stdin): that must not be the host's own node. */
static int private_null(void) {
    SCOPED_FD context = sys_fsopen("tmpfs", FSOPEN_CLOEXEC);
    if (context < 0 || sys_fsconfig(context, FSCONFIG_CMD_CREATE, NULL, NULL, 0))
        return -1;
    SCOPED_FD tree = sys_fsmount(context, FSMOUNT_CLOEXEC, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC);
    if (tree < 0 || mknodat(tree, "null", S_IFCHR | 0666, makedev(1, 3)))
        return -1;
    return openat(tree, "null", O_RDWR | O_NOCTTY | O_CLOEXEC);
}

static int open_null(struct setup *s) {
    struct stat st;
    if (s->root < 0) {
        int own = private_null();
        if (own >= 0 || errno != EPERM) /* who may make no nodes is in a user namespace, and cannot give the host's away either */
            return own < 0 ? fail(s, "a null device for the program") : own;
    }
    SCOPED_FD host = s->root < 0 ? open("/", O_PATH | O_DIRECTORY | O_CLOEXEC) : -1; /* a program of the host: op foreign */
    int root = s->root < 0 ? host : s->root;
    SCOPED_FD checked = inroot_open(root, "/dev/null", O_PATH | O_NOFOLLOW);
    if (checked < 0 || fstat(checked, &st))
        return fail(s, "/dev/null of the container");
    if (S_ISCHR(st.st_mode) && st.st_rdev == makedev(1, 3)) {
        int fd = inroot_open(root, "/dev/null", O_RDWR | O_NOFOLLOW | O_NOCTTY | O_NONBLOCK);
        if (fd < 0)
            return fail(s, "/dev/null of the container");
        if (fstat(fd, &st) == 0 && S_ISCHR(st.st_mode) && st.st_rdev == makedev(1, 3))
            return fd;
        close(fd);
    }
    return refuse(s, ENODEV, "/dev/null of the container is not the null device 1:3");
}

int op_stdio(struct setup *s, const struct op *op) {
    ARGS(stdio, op);
    const struct field *named[3] = {&a->in, &a->out, &a->err};
    const int given[3] = {s->context->stdin_fd, s->context->stdout_fd, s->context->stderr_fd};
    int from[3];
    SCOPED_FD null = -1;
    for (int i = 0; i < 3; i++) {
        from[i] = named[i]->n != FD_NONE ? plan_fd(s->plan, named[i]) : s->slave >= 0 ? s->slave : given[i];
        if (from[i] >= 0)
            continue;
        if (null < 0 && (null = open_null(s)) < 0)
            return -1;
        from[i] = null;
    }
    /* No source may be one of 0, 1, 2 that an earlier dup2 has replaced by then. */
    for (int i = 0; i < 3; i++)
        if (from[i] < 3 && (from[i] = fcntl(from[i], F_DUPFD_CLOEXEC, 3)) < 0)
            return fail(s, "fd %d", i);
    for (int i = 0; i < 3; i++)
        if (dup2(from[i], i) < 0)
            return fail(s, "fd %d", i);
    return 0;
}

int op_stdio_owner(struct setup *s, const struct op *op) {
    ARGS(stdio_owner, op);
    struct stat st;
    for (int i = 0; i <= 2; i++) {
        if (fstat(i, &st))
            return fail(s, "fd %d", i);
        int failed = 0;
        if (S_ISFIFO(st.st_mode))
            failed = fchown(i, (uid_t)a->uid.n, (gid_t)a->gid.n);
        else if (s->slave >= 0 && S_ISCHR(st.st_mode) && major(st.st_rdev) != 1)
            failed = fchown(i, (uid_t)a->uid.n, (gid_t)-1); /* the group stays tty */
        if (failed)
            return fail(s, "fd %d: owner %u:%u", i, (unsigned)a->uid.n, (unsigned)a->gid.n);
    }
    return 0;
}
