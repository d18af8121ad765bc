/*
 * op_mount.c: ops of the phases MOUNT and ROOT. Only the mount API by fd: a mount is made detached, given its attributes, and attached to a target that
 * inroot.c resolved; no mount is ever seen without its flags, and no path is looked up twice. Tests: tests/kernel/executor/test_mounts.py and others.
 */
#include "setup.h"

#include "copyup.h"
#include "inroot.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#define NEW_TMPCOPYUP 1u
#define NEW_CREATE 2u
#define NEW_OPTIONAL 4u
#define NEW_ALL 7u

#define BIND_RECURSIVE 1u
#define BIND_CREATE 2u
#define BIND_OPTIONAL 4u
#define BIND_ATTRS_RECURSIVE 8u
#define BIND_NOSYMLINK 16u
#define BIND_ALL 31u

#define NULL_MAJOR 1
#define NULL_MINOR 3

/* ---- pieces ---- */

static int attach(int mount, int target) { return sys_move_mount(mount, "", target, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH); }

static int clone_mount(int fd, unsigned recursive) {
    return sys_open_tree(fd, "", AT_EMPTY_PATH | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | recursive);
}

/* propagation: MS_SHARED, MS_SLAVE, MS_PRIVATE or MS_UNBINDABLE, with MS_REC for all mounts below. */
static int set_propagation(int fd, uint64_t propagation) {
    struct mount_attr attr = {.propagation = propagation & ~(uint64_t)MS_REC};
    return attr.propagation ? sys_mount_setattr(fd, "", AT_EMPTY_PATH | (propagation & MS_REC ? AT_RECURSIVE : 0), &attr) : 0;
}

static int set_attrs(int fd, uint64_t set, uint64_t clear, unsigned recursive) {
    struct mount_attr attr = {.attr_set = set, .attr_clr = clear};
    return set || clear ? sys_mount_setattr(fd, "", AT_EMPTY_PATH | recursive, &attr) : 0;
}

static int kind_of(int fd, mode_t *kind) {
    struct stat st;
    if (fstat(fd, &st))
        return -1;
    *kind = st.st_mode & S_IFMT;
    return 0;
}

/* The target of a mount: neither the root itself, over which later targets would not resolve, nor (checked by move_mount) of another kind. */
static int open_target(struct setup *s, const char *target, mode_t kind, int create) {
    int fd = create ? inroot_ensure(s->root, target, kind, kind == S_IFDIR ? 0755 : 0644) : inroot_open(s->root, target, O_PATH);
    if (fd < 0)
        return fail(s, "target %s", target);
    struct stat at, root;
    if (fstat(fd, &at) == 0 && fstat(s->root, &root) == 0 && at.st_dev == root.st_dev && at.st_ino == root.st_ino) {
        close(fd);
        return refuse(s, EINVAL, "target %s is the root itself", target);
    }
    return fd;
}

static int need_root(struct setup *s) { return s->root < 0 ? refuse(s, EINVAL, "no op rootfs or join_mnt_of before it") : 0; }

/* ---- the root ---- */

int op_root_propagation(struct setup *s, const struct op *op) {
    ARGS(root_propagation, op);
    SCOPED_FD root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (root < 0 || set_propagation(root, a->flags.n))
        return fail(s, "flags %#llx on /", (unsigned long long)a->flags.n);
    s->old_root_shared = !!(a->flags.n & MS_SHARED);
    return 0;
}

/*
 * Until pivot_root the new root hangs somewhere in the host's tree. On top of "/" it hides nothing from lookups that begin at our root, so bind sources
 * still resolve. The mount below it must not be shared, or it would appear on the host and pivot_root would refuse. To take "/" out of its peer group is
 * no way: volumes on the host's root file system would no longer carry mounts to the host (Bidirectional). So then it hangs in procfs, where no volume is.
 */
static int attach_root(int tree, int shared) {
    if (!shared)
        return sys_move_mount(tree, "", AT_FDCWD, "/", MOVE_MOUNT_F_EMPTY_PATH);
    SCOPED_FD point = open("/proc/fs", O_PATH | O_DIRECTORY | O_CLOEXEC);
    SCOPED_FD proc = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (point < 0 || proc < 0)
        return -1;
    /* Where we run in a container ourselves, /proc/fs is a mount of its own; otherwise (EINVAL) the one below is that of /proc. */
    if (set_propagation(point, MS_PRIVATE) && (errno != EINVAL || set_propagation(proc, MS_PRIVATE)))
        return -1;
    return attach(tree, point);
}

int op_rootfs(struct setup *s, const struct op *op) {
    ARGS(rootfs, op);
    const char *name = a->tree.n == FD_NONE ? a->source.s : "of the plan's fd";
    int tree = plan_fd(s->plan, &a->tree);
    if (a->tree.n == FD_NONE) {
        tree = sys_open_tree(AT_FDCWD, a->source.s, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE);
        if (tree < 0)
            return fail(s, "rootfs %s", name);
    }
    /* A clone of a shared mount is a peer of the host's: what is mounted in the container would appear there. */
    uint64_t propagation = a->flags.n ? a->flags.n : a->tree.n == FD_NONE ? MS_PRIVATE | MS_REC : 0;
    if (set_propagation(tree, propagation))
        return fail(s, "rootfs %s: propagation", name);
    if (attach_root(tree, s->old_root_shared))
        return fail(s, "rootfs %s: attach", name);
    s->root_propagation = propagation ? propagation & ~(uint64_t)MS_REC : MS_PRIVATE;
    s->root = tree;
    return 0;
}

/* For programs that know only paths: op foreign. Were the mount below shared, the host would get the mount as well, so propagation comes first. */
int op_host_propagation(struct setup *s, const struct op *op) {
    ARGS(host_propagation, op);
    SCOPED_FD point = open(a->path.s, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (point < 0 || set_propagation(point, a->flags.n))
        return fail(s, "flags %#llx on %s", (unsigned long long)a->flags.n, a->path.s);
    return 0;
}

int op_place(struct setup *s, const struct op *op) {
    ARGS(place, op);
    SCOPED_FD target = open(a->path.s, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    if (target < 0 || attach(plan_fd(s->plan, &a->tree), target))
        return fail(s, "%s", a->path.s);
    return 0;
}

int op_pivot_root(struct setup *s, const struct op *op) {
    (void)op;
    if (need_root(s))
        return -1;
    SCOPED_FD old = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (old < 0 || fchdir(s->root))
        return fail(s, "working directory");
    if (sys_pivot_root(".", "."))
        return fail(s, "new root");
    /* The old root now lies on top of the new one. Unmounting a shared tree would unmount it on the host as well. */
    if (s->old_root_shared && set_propagation(old, MS_SLAVE | MS_REC))
        return fail(s, "propagation of the old root");
    if (fchdir(old) || sys_umount2(".", MNT_DETACH) || chdir("/"))
        return fail(s, "old root");
    return 0;
}

int op_rootfs_attrs(struct setup *s, const struct op *op) {
    ARGS(rootfs_attrs, op);
    SCOPED_FD root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (root < 0 || set_attrs(root, a->attr_set.n, a->attr_clr.n, 0) || set_propagation(root, a->propagation.n))
        return fail(s, "set %#llx clear %#llx propagation %#llx", (unsigned long long)a->attr_set.n, (unsigned long long)a->attr_clr.n, (unsigned long long)a->propagation.n);
    return 0;
}

int op_chroot_fd(struct setup *s, const struct op *op) {
    (void)op;
    return chdir("/") ? fail(s, "working directory /") : 0;
}

/* ---- new file systems ---- */

/* What the kernel says beyond errno: "e tmpfs: Bad value for 'size'". */
static const char *kernel_log(int context, char *text, size_t size) {
    char line[256];
    *text = 0;
    ssize_t n;
    int saved = errno;
    while ((n = read(context, line, sizeof line - 1)) > 0) {
        line[n] = 0;
        if (line[n - 1] == '\n')
            line[n - 1] = 0;
        if (n > 2 && line[0] == 'e')
            snprintf(text, size, ": %.200s", line + 2);
    }
    errno = saved;
    return text;
}

static int set_option(int context, const char *option) {
    const char *equals = strchr(option, '=');
    char key[128];
    if (!equals)
        return sys_fsconfig(context, FSCONFIG_SET_FLAG, option, NULL, 0);
    if ((size_t)(equals - option) >= sizeof key) {
        errno = ENAMETOOLONG;
        return -1;
    }
    memcpy(key, option, (size_t)(equals - option));
    key[equals - option] = 0;
    return sys_fsconfig(context, FSCONFIG_SET_STRING, key, equals + 1, 0);
}

static int has_mode(const struct field *options) {
    const char *at = options->s;
    for (uint32_t i = 0; i < options->count; i++)
        if (!strncmp(next_str(&at), "mode=", 5))
            return 1;
    return 0;
}

/* A detached mount; -2: the kernel has no such file system and the op is optional. */
static int make_mount(struct setup *s, const struct args_mount_new *a, uint64_t attrs) {
    char log[256];
    const char *type = a->fstype.s, *target = a->target.s;
    SCOPED_FD context = sys_fsopen(type, FSOPEN_CLOEXEC);
    if (context < 0) {
        if (errno == ENODEV && a->flags.n & NEW_OPTIONAL)
            return -2;
        return fail(s, "target %s: file system type %s", target, type);
    }
    if (a->source.count && sys_fsconfig(context, FSCONFIG_SET_STRING, "source", a->source.s, 0))
        return fail(s, "target %s: %s: source %s%s", target, type, a->source.s, kernel_log(context, log, sizeof log));
    const char *at = a->options.s;
    for (uint32_t i = 0; i < a->options.count; i++) {
        const char *option = next_str(&at);
        if (set_option(context, option))
            return fail(s, "target %s: %s: option %.200s%s", target, type, option, kernel_log(context, log, sizeof log));
    }
    if (sys_fsconfig(context, FSCONFIG_CMD_CREATE, NULL, NULL, 0))
        return fail(s, "target %s: %s%s", target, type, kernel_log(context, log, sizeof log));
    int mount = sys_fsmount(context, FSMOUNT_CLOEXEC, (unsigned)attrs);
    return mount < 0 ? fail(s, "target %s: %s: attributes %#llx%s", target, type, (unsigned long long)attrs, kernel_log(context, log, sizeof log)) : mount;
}

static int copy_up(struct setup *s, const struct args_mount_new *a, int target, int mount) {
    char where[128];
    if (copyup(target, mount, where, sizeof where))
        return fail(s, "target %s: copy of %s", a->target.s, *where ? where : "its contents");
    struct stat st;
    if (fstat(target, &st) || fchownat(mount, "", st.st_uid, st.st_gid, AT_EMPTY_PATH))
        return fail(s, "target %s: owner", a->target.s);
    if (has_mode(&a->options))
        return 0;
    SCOPED_FD directory = openat(mount, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return directory < 0 || fchmod(directory, st.st_mode & 07777) ? fail(s, "target %s: mode", a->target.s) : 0;
}

int op_mount_new(struct setup *s, const struct op *op) {
    ARGS(mount_new, op);
    if (need_root(s))
        return -1;
    if (a->flags.n & ~(uint64_t)NEW_ALL)
        return refuse(s, EINVAL, "target %s: unknown flags %#llx", a->target.s, (unsigned long long)a->flags.n);
    if (a->attrs.n > UINT32_MAX)
        return refuse(s, EINVAL, "target %s: attributes %#llx", a->target.s, (unsigned long long)a->attrs.n);
    /* The kernel's own trees stand where the path says, not behind a link of the image (CVE-2023-27561). */
    if (!strcmp(a->fstype.s, "proc") || !strcmp(a->fstype.s, "sysfs")) {
        SCOPED_FD plain = inroot_open_plain(s->root, a->target.s, O_PATH);
        if (plain < 0 && errno != ENOENT)
            return errno == ELOOP ? refuse(s, ELOOP, "target %s: a symbolic link cannot hold %s", a->target.s, a->fstype.s) : fail(s, "target %s", a->target.s);
    }
    SCOPED_FD target = open_target(s, a->target.s, S_IFDIR, a->flags.n & NEW_CREATE);
    mode_t kind;
    if (target < 0)
        return -1;
    if (kind_of(target, &kind) || kind != S_IFDIR)
        return refuse(s, ENOTDIR, "target %s", a->target.s);
    /* What is copied up needs a writable mount for a moment; nobody else can see it yet. */
    int late = a->flags.n & NEW_TMPCOPYUP && a->attrs.n & MOUNT_ATTR_RDONLY;
    SCOPED_FD mount = make_mount(s, a, late ? a->attrs.n & ~(uint64_t)MOUNT_ATTR_RDONLY : a->attrs.n);
    if (mount < 0)
        return mount == -2 ? 0 : -1;
    if (a->flags.n & NEW_TMPCOPYUP && copy_up(s, a, target, mount))
        return -1;
    if (late && set_attrs(mount, MOUNT_ATTR_RDONLY, 0, 0))
        return fail(s, "target %s: read-only", a->target.s);
    return attach(mount, target) ? fail(s, "target %s: %s: attach", a->target.s, a->fstype.s) : 0;
}

/* ---- binds ---- */

/* A detached clone of a host path; -2: it is missing and may be. */
static int clone_source(struct setup *s, const struct args_mount_bind *a) {
    SCOPED_FD source = open(a->source.s, O_PATH | O_CLOEXEC | (a->flags.n & BIND_NOSYMLINK ? O_NOFOLLOW : 0));
    if (source < 0)
        return errno == ENOENT && a->flags.n & BIND_OPTIONAL ? -2 : fail(s, "source %s", a->source.s);
    mode_t kind;
    if (kind_of(source, &kind) == 0 && kind == S_IFLNK)
        return refuse(s, ELOOP, "source %s is a symbolic link", a->source.s);
    if (!(a->flags.n & BIND_RECURSIVE) || !s->root_propagation) {
        int mount = clone_mount(source, a->flags.n & BIND_RECURSIVE ? AT_RECURSIVE : 0);
        return mount < 0 ? fail(s, "source %s: clone", a->source.s) : mount;
    }
    /* A source like the host's "/" has the new root below it: it must not become part of its own volume. */
    if (set_propagation(s->root, MS_UNBINDABLE))
        return fail(s, "source %s: propagation of the root", a->source.s);
    int mount = clone_mount(source, AT_RECURSIVE);
    int saved = errno;
    if (set_propagation(s->root, s->root_propagation)) {
        if (mount >= 0)
            close(mount);
        return fail(s, "source %s: propagation of the root", a->source.s);
    }
    errno = saved;
    return mount < 0 ? fail(s, "source %s: clone", a->source.s) : mount;
}

int op_mount_bind(struct setup *s, const struct op *op) {
    ARGS(mount_bind, op);
    if (need_root(s))
        return -1;
    if (a->flags.n & ~(uint64_t)BIND_ALL)
        return refuse(s, EINVAL, "target %s: unknown flags %#llx", a->target.s, (unsigned long long)a->flags.n);
    int tree = plan_fd(s->plan, &a->tree);
    SCOPED_FD cloned = tree >= 0 ? -1 : clone_source(s, a);
    if (tree < 0 && cloned < 0)
        return cloned == -2 ? 0 : -1;
    int mount = tree >= 0 ? tree : cloned;
    const char *source = a->source.count ? a->source.s : "of the plan's fd";
    mode_t kind, target_kind;
    if (kind_of(mount, &kind))
        return fail(s, "source %s", source);
    unsigned recursive = a->flags.n & BIND_ATTRS_RECURSIVE ? AT_RECURSIVE : 0;
    if (a->userns.n != FD_NONE) {
        struct mount_attr attr = {.attr_set = MOUNT_ATTR_IDMAP, .userns_fd = (unsigned)plan_fd(s->plan, &a->userns)};
        if (sys_mount_setattr(mount, "", AT_EMPTY_PATH | recursive, &attr))
            return fail(s, "source %s: id-mapped mount", source);
    }
    if (set_attrs(mount, a->attr_set.n, a->attr_clr.n, recursive))
        return fail(s, "source %s: attributes set %#llx clear %#llx", source, (unsigned long long)a->attr_set.n, (unsigned long long)a->attr_clr.n);
    if (set_propagation(mount, a->propagation.n))
        return fail(s, "source %s: propagation %#llx", source, (unsigned long long)a->propagation.n);
    SCOPED_FD target = open_target(s, a->target.s, kind == S_IFDIR ? S_IFDIR : S_IFREG, a->flags.n & BIND_CREATE);
    if (target < 0)
        return -1;
    if (kind_of(target, &target_kind) == 0 && (kind == S_IFDIR) != (target_kind == S_IFDIR))
        return refuse(s, ENOTDIR, kind == S_IFDIR ? "target %s is no directory, but source %s is" : "target %s is a directory, but source %s is none", a->target.s, source);
    return attach(mount, target) ? fail(s, "target %s: attach source %s", a->target.s, source) : 0;
}

int op_mount_move_attrs(struct setup *s, const struct op *op) {
    ARGS(mount_move_attrs, op);
    if (need_root(s))
        return -1;
    SCOPED_FD target = inroot_open(s->root, a->target.s, O_PATH);
    if (target < 0)
        return fail(s, "target %s", a->target.s);
    if (set_attrs(target, a->attr_set.n, a->attr_clr.n, a->recursive.n ? AT_RECURSIVE : 0))
        return fail(s, "target %s: attributes set %#llx clear %#llx", a->target.s, (unsigned long long)a->attr_set.n, (unsigned long long)a->attr_clr.n);
    uint64_t propagation = a->propagation.n && a->recursive.n ? a->propagation.n | MS_REC : a->propagation.n;
    return set_propagation(target, propagation) ? fail(s, "target %s: propagation %#llx", a->target.s, (unsigned long long)propagation) : 0;
}

/* The first mask of a kind is made; later ones are clones of it (a detached mount cannot be cloned before kernel 6.15, an attached one can). */
static int mask_with(struct setup *s, const char *name, int target, int *first, int (*make)(struct setup *)) {
    int mount = *first >= 0 ? clone_mount(*first, 0) : make(s);
    if (mount < 0)
        return *first >= 0 ? fail(s, "%s: clone of the mask", name) : -1;
    int failed = attach(mount, target);
    if (*first < 0 && !failed)
        *first = mount;
    else
        close(mount);
    return failed ? fail(s, "%s: attach", name) : 0;
}

/* The container's own /dev/null, which the image may have replaced (CVE-2025-31133): what is bound is the inode that was verified. Read-only, so that no chmod
 * through the mask reaches a node that is the host's. */
static int make_null_mask(struct setup *s) {
    SCOPED_FD null = inroot_open(s->root, "/dev/null", O_PATH | O_NOFOLLOW);
    struct stat st;
    if (null < 0 || fstat(null, &st))
        return fail(s, "/dev/null of the container");
    if (!S_ISCHR(st.st_mode) || st.st_rdev != makedev(NULL_MAJOR, NULL_MINOR))
        return refuse(s, ENODEV, "/dev/null of the container is not the null device 1:3");
    int mount = clone_mount(null, 0);
    if (mount >= 0 && set_attrs(mount, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC, 0, 0)) {
        close(mount);
        mount = -1;
    }
    return mount < 0 ? fail(s, "/dev/null of the container: clone") : mount;
}

static int make_empty_mask(struct setup *s) {
    SCOPED_FD context = sys_fsopen("tmpfs", FSOPEN_CLOEXEC);
    if (context < 0 || sys_fsconfig(context, FSCONFIG_SET_STRING, "mode", "0555", 0) || sys_fsconfig(context, FSCONFIG_SET_STRING, "nr_inodes", "1", 0) ||
        sys_fsconfig(context, FSCONFIG_CMD_CREATE, NULL, NULL, 0))
        return fail(s, "empty tmpfs");
    int mount = sys_fsmount(context, FSMOUNT_CLOEXEC, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC);
    return mount < 0 ? fail(s, "empty tmpfs") : mount;
}

int op_mask(struct setup *s, const struct op *op) {
    ARGS(mask, op);
    if (need_root(s))
        return -1;
    SCOPED_FD target = inroot_open(s->root, a->target.s, O_PATH);
    mode_t kind;
    if (target < 0 && (errno == ENOENT || errno == ENOTDIR))
        return 0;
    if (target < 0 || kind_of(target, &kind))
        return fail(s, "%s", a->target.s);
    return kind == S_IFDIR ? mask_with(s, a->target.s, target, &s->empty_mask, make_empty_mask) : mask_with(s, a->target.s, target, &s->null_mask, make_null_mask);
}

int op_readonly(struct setup *s, const struct op *op) {
    ARGS(readonly, op);
    if (need_root(s))
        return -1;
    SCOPED_FD target = inroot_open(s->root, a->target.s, O_PATH);
    if (target < 0)
        return errno == ENOENT || errno == ENOTDIR ? 0 : fail(s, "%s", a->target.s);
    SCOPED_FD mount = clone_mount(target, AT_RECURSIVE);
    if (mount < 0)
        return fail(s, "%s: clone", a->target.s);
    if (set_attrs(mount, MOUNT_ATTR_RDONLY, 0, AT_RECURSIVE))
        return fail(s, "%s: read-only", a->target.s);
    return attach(mount, target) ? fail(s, "%s: attach", a->target.s) : 0;
}

/* ---- files in mounts of this plan ---- */

int op_mkdir(struct setup *s, const struct op *op) {
    ARGS(mkdir, op);
    if (need_root(s))
        return -1;
    SCOPED_FD fd = inroot_ensure(s->root, a->target.s, S_IFDIR, (mode_t)a->mode.n);
    mode_t kind;
    if (fd < 0)
        return fail(s, "%s", a->target.s);
    return kind_of(fd, &kind) || kind != S_IFDIR ? refuse(s, ENOTDIR, "%s", a->target.s) : 0;
}

int op_mknod(struct setup *s, const struct op *op) {
    ARGS(mknod, op);
    char name[NAME_MAX + 1];
    if (need_root(s))
        return -1;
    SCOPED_FD parent = inroot_parent(s->root, a->target.s, name);
    dev_t device = makedev((unsigned)a->major.n, (unsigned)a->minor.n);
    struct stat st;
    if (parent < 0)
        return fail(s, "%s", a->target.s);
    if (mknodat(parent, name, (mode_t)a->mode.n, device)) {
        int same = errno == EEXIST && fstatat(parent, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && (st.st_mode & S_IFMT) == (a->mode.n & S_IFMT) &&
                   (S_ISFIFO(st.st_mode) || st.st_rdev == device);
        if (same)
            return 0;
        return fail(s, errno == EEXIST ? "%s is there and is another thing than device %u:%u" : "%s device %u:%u", a->target.s, (unsigned)a->major.n, (unsigned)a->minor.n);
    }
    if ((a->uid.n || a->gid.n) && fchownat(parent, name, (uid_t)a->uid.n, (gid_t)a->gid.n, AT_SYMLINK_NOFOLLOW))
        return fail(s, "%s: owner %u:%u", a->target.s, (unsigned)a->uid.n, (unsigned)a->gid.n);
    return 0;
}

int op_symlink(struct setup *s, const struct op *op) {
    ARGS(symlink, op);
    char name[NAME_MAX + 1];
    if (need_root(s))
        return -1;
    SCOPED_FD parent = inroot_parent(s->root, a->target.s, name);
    if (parent < 0)
        return fail(s, "%s", a->target.s);
    return symlinkat(a->linktext.s, parent, name) && errno != EEXIST ? fail(s, "%s -> %s", a->target.s, a->linktext.s) : 0;
}

int op_write_file(struct setup *s, const struct op *op) {
    ARGS(write_file, op);
    char name[NAME_MAX + 1];
    if (need_root(s))
        return -1;
    SCOPED_FD parent = inroot_parent(s->root, a->target.s, name);
    if (parent < 0)
        return fail(s, "%s", a->target.s);
    SCOPED_FD fd = openat(parent, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, (mode_t)a->mode.n);
    if (fd < 0)
        return fail(s, "%s", a->target.s);
    uint32_t done = 0;
    while (done < a->data.count) {
        ssize_t n = write(fd, a->data.s + done, a->data.count - done);
        if (n < 0)
            return fail(s, "%s", a->target.s);
        done += (uint32_t)n;
    }
    return 0;
}
