/*
 * pod_init.c: PID 1 of a pod whose containers share a PID namespace. Reaps what is orphaned in it; forwards nothing; ends on SIGTERM or SIGKILL
 * from outside (signals from inside the pod are ignored, so a container cannot end the others). It sees an empty read-only root and holds no
 * capability, no fd and no host file: a container that may ptrace it gains nothing. Test: tests/kernel/executor/test_pod.py.
 */
#include "setup.h"

#include <linux/capability.h>
#include <poll.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/wait.h>

static int empty_root(void) {
    struct mount_attr slave = {.propagation = MS_SLAVE};
    if (sys_mount_setattr(AT_FDCWD, "/", AT_RECURSIVE, &slave))
        return -1;
    SCOPED_FD context = sys_fsopen("tmpfs", FSOPEN_CLOEXEC);
    if (context < 0 || sys_fsconfig(context, FSCONFIG_SET_STRING, "mode", "0555", 0) || sys_fsconfig(context, FSCONFIG_CMD_CREATE, NULL, NULL, 0))
        return -1;
    SCOPED_FD tree = sys_fsmount(context, FSMOUNT_CLOEXEC, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC);
    if (tree < 0 || sys_move_mount(tree, "", AT_FDCWD, "/", MOVE_MOUNT_F_EMPTY_PATH) || fchdir(tree) || sys_pivot_root(".", "."))
        return -1;
    return sys_umount2(".", MNT_DETACH) || chdir("/") ? -1 : 0;
}

static int drop_everything(void) {
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct none[2] = {0};
    for (unsigned long cap = 0; cap < 64; cap++)
        if (prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) && errno != EINVAL)
            return -1;
    return syscall(SYS_capset, &header, none) || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ? -1 : 0;
}

static void __attribute__((noreturn)) reap_forever(void) {
    const uint64_t wanted = 1ull << (SIGCHLD - 1) | 1ull << (SIGTERM - 1);
    for (;;) {
        siginfo_t info;
        long signal = syscall(SYS_rt_sigtimedwait, &wanted, &info, NULL, sizeof wanted);
        if (signal == SIGTERM && info.si_pid == 0)
            _exit(0); /* a sender outside of this PID namespace has no pid in it */
        while (syscall(SYS_wait4, -1, NULL, WNOHANG | __WALL, NULL) > 0)
            ;
    }
}

static void __attribute__((noreturn)) init_main(int ready) {
    const uint64_t blocked = 1ull << (SIGCHLD - 1) | 1ull << (SIGTERM - 1);
    reset_signals();
    syscall(SYS_rt_sigprocmask, SIG_SETMASK, &blocked, NULL, sizeof blocked);
    prctl(PR_SET_NAME, "orlop:pod-init", 0, 0, 0);
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    const char *step = "empty root";
    int failed = empty_root();
    if (!failed)
        step = "capabilities", failed = drop_everything();
    /* It must not outlive the monitor, which nobody else would end it for. Last, because a change of credentials may take the wish away. */
    if (!failed)
        step = "death signal", failed = prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    struct pollfd monitor = {.fd = ready};
    if (!failed && poll(&monitor, 1, 0) > 0 && (monitor.revents & POLLERR))
        _exit(1); /* it has ended before the wish was made */
    if (failed) {
        struct { int errnum; char step[32]; } word = {.errnum = errno};
        snprintf(word.step, sizeof word.step, "%s", step);
        if (write(ready, &word, sizeof word) != sizeof word)
            _exit(2);
        _exit(1);
    }
    sys_close_range(0, ~0u, 0); /* ready too: its EOF is the good news */
    reap_forever();
}

int pod_init_start(struct setup *s) {
    int ends[2], pidfd = -1;
    if (pipe2(ends, O_CLOEXEC))
        return fail(s, "pipe");
    struct clone_args args = {.flags = CLONE_NEWPID | CLONE_NEWNS | CLONE_PIDFD | CLONE_CLEAR_SIGHAND, .exit_signal = SIGCHLD, .pidfd = (uint64_t)(uintptr_t)&pidfd};
    pid_t pid = sys_clone3(&args);
    if (pid == 0)
        init_main(ends[1]);
    SCOPED_FD own = pidfd;
    SCOPED_FD reading = ends[0];
    close(ends[1]);
    if (pid < 0)
        return fail(s, "clone3");
    s->init_pid = pid; /* plan_run_pod() ends it when this op or a later one fails */
    struct { int errnum; char step[32]; } word;
    ssize_t n;
    do
        n = read(reading, &word, sizeof word);
    while (n < 0 && errno == EINTR);
    if (n == (ssize_t)sizeof word)
        return refuse(s, word.errnum, "%.31s", word.step);
    char path[64];
    snprintf(path, sizeof path, "%d/ns/pid", (int)pid);
    s->init_pidns = openat(s->proc, path, O_RDONLY | O_CLOEXEC);
    return s->init_pidns < 0 ? fail(s, "its PID namespace") : 0;
}
