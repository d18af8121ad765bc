/* op_ids.c: who and where the process is, short of capabilities: umask, scheduling, groups, user, working directory. Raw system calls: libc's wrappers would
 * synchronise threads that do not exist here. */
#include "setup.h"

#include "inroot.h"

#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>

#define GROUPS_MAX 65536u
#define IOPRIO_WHO_PROCESS 1

int op_umask(struct setup *s, const struct op *op) {
    ARGS(umask, op);
    umask((mode_t)a->mask.n);
    s->umask_done = 1;
    return 0;
}

int op_personality(struct setup *s, const struct op *op) {
    ARGS(personality, op);
    return syscall(SYS_personality, a->persona.n) < 0 ? fail(s, "%#llx", (unsigned long long)a->persona.n) : 0;
}

int op_io_priority(struct setup *s, const struct op *op) {
    ARGS(io_priority, op);
    return syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, (int)a->priority.n) ? fail(s, "%#x", (unsigned)a->priority.n) : 0;
}

int op_scheduler(struct setup *s, const struct op *op) {
    ARGS(scheduler, op);
    struct {
        uint32_t size, policy;
        uint64_t flags;
        int32_t nice;
        uint32_t priority;
        uint64_t runtime, deadline, period;
    } attr = {.size = sizeof attr, .policy = (uint32_t)a->policy.n, .flags = a->flags.n, .nice = (int32_t)a->nice.n, .priority = (uint32_t)a->priority.n,
              .runtime = a->runtime.n, .deadline = a->deadline.n, .period = a->period.n};
    return syscall(SYS_sched_setattr, 0, &attr, 0) ? fail(s, "policy %u nice %d priority %u", attr.policy, attr.nice, attr.priority) : 0;
}

int op_groups(struct setup *s, const struct op *op) {
    ARGS(groups, op);
    uint32_t gids[GROUPS_MAX];
    if (a->gids.count > GROUPS_MAX)
        return refuse(s, EINVAL, "%u groups", a->gids.count);
    for (uint32_t i = 0; i < a->gids.count; i++)
        gids[i] = item_u32(&a->gids, i);
    return syscall(SYS_setgroups, a->gids.count, gids) ? fail(s, "%u supplemental groups", a->gids.count) : 0;
}

int op_user(struct setup *s, const struct op *op) {
    ARGS(user, op);
    if (prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0))
        return fail(s, "keep capabilities");
    if (syscall(SYS_setresgid, a->gid.n, a->gid.n, a->gid.n))
        return fail(s, "gid %u", (unsigned)a->gid.n);
    return syscall(SYS_setresuid, a->uid.n, a->uid.n, a->uid.n) ? fail(s, "uid %u", (unsigned)a->uid.n) : 0;
}

int op_chdir(struct setup *s, const struct op *op) {
    ARGS(chdir, op);
    char cwd[PATH_MAX];
    SCOPED_FD root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    /* Without magic links: "/proc/self/fd/7" is no working directory (CVE-2024-21626). */
    SCOPED_FD fd = root < 0 ? -1 : inroot_open(root, a->path.s, O_PATH | O_DIRECTORY);
    if (fd < 0 && root >= 0 && errno == ENOENT && a->create.n)
        fd = inroot_ensure(root, a->path.s, S_IFDIR, 0755);
    if (fd < 0 || fchdir(fd))
        return fail(s, "%s", a->path.s);
    long n = syscall(SYS_getcwd, cwd, sizeof cwd);
    if (n < 0)
        return fail(s, "%s", a->path.s);
    return n == 0 || cwd[0] != '/' ? refuse(s, EPERM, "%s lies outside of the root", a->path.s) : 0;
}
