/*
 * init.c: from a validated plan to a process that stands at the gate, and on to exec. Implements launch.h. Owns the order (SPAWN in the parent,
 * PARENT by the parent for the child, the rest in the child) and the talk on the status socket; what an op does stands in op_*.c.
 *
 *   parent                                   child
 *   clone3                                -> closes what is not the plan's, resets signals
 *   id_maps, oom_score_adj, higher limits    JOIN .. IDENTITY           <- MASTER (+fd) from op terminal
 *   BEGIN, if there are PARENT ops        -> waits for BEGIN: with id_maps at once, else here; sets its limits
 *                                         <- READY  } with a gate
 *   GO                                    -> waits    }
 *                                         <- EXECUTING                     before the first of FINAL
 *   EOF: it runs                             seccomp, final_caps, execve
 *   or                                    <- FAILED {op, errno, detail}
 *
 * The child lowers its limits itself, and last: a small RLIMIT_NOFILE would break the set-up, and once it has another user its parent may not set them
 * without CAP_SYS_RESOURCE. It shares no memory with the parent, allocates nothing and never returns. Tests: tests/kernel/executor/.
 */
#include "setup.h"

#include "procfs.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#define OP_CLONE 0x0101
#define OP_JOIN_PID 0x0102
#define OP_JOIN_POD_INIT 0x0103
#define OP_JOIN_PID_OF 0x0104
#define OP_JOIN_MNT_OF 0x0105
#define OP_FOREIGN 0x0106
#define OP_ID_MAPS 0x0201
#define OP_OOM_SCORE_ADJ 0x0202
#define OP_RLIMIT 0x0203
#define OP_GATE 0x0801
#define OP_EXEC 0x0903

#define STACK_FDS 256
#define FOREIGN_FDS 10 /* above those that the monitor was born with */
#define NOT_AN_OP UINT32_MAX

enum said { SAID_READY = 1, SAID_EXECUTING, SAID_MASTER, SAID_FAILED };

struct message {
    uint32_t said;
    struct launch_error error;
};

typedef int op_function(struct setup *, const struct op *);

#define DISPATCH_POD(name) op_##name
#define DISPATCH_SPAWN(name) NULL
#define DISPATCH_PARENT(name) NULL
#define DISPATCH_JOIN DISPATCH_POD
#define DISPATCH_NS DISPATCH_POD
#define DISPATCH_MOUNT DISPATCH_POD
#define DISPATCH_ROOT DISPATCH_POD
#define DISPATCH_IDENTITY DISPATCH_POD
#define DISPATCH_GATE(name) NULL
#define DISPATCH_FINAL DISPATCH_POD
#define OP(code, name, phase, fields) DISPATCH_##phase(name),
static op_function *const functions[] = {
#include "ops.def"
};
#undef OP

/* ---- errors ---- */

static int keep_error(struct launch_error *error, int errnum, const char *format, va_list arguments) {
    error->errnum = (uint32_t)errnum;
    vsnprintf(error->detail, sizeof error->detail, format, arguments);
    errno = errnum;
    return -1;
}

int fail(struct setup *s, const char *format, ...) {
    int errnum = errno;
    va_list arguments;
    va_start(arguments, format);
    keep_error(s->error, errnum, format, arguments);
    va_end(arguments);
    return -1;
}

int refuse(struct setup *s, int errnum, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    keep_error(s->error, errnum, format, arguments);
    va_end(arguments);
    return -1;
}

static void name_op(struct launch_error *error, uint32_t index, const char *name) {
    error->op_index = index;
    snprintf(error->op, sizeof error->op, "%s", name);
}

static int __attribute__((format(printf, 4, 5))) fail_at(struct launch_error *error, const struct op *op, const char *name, const char *format, ...) {
    int errnum = errno;
    va_list arguments;
    va_start(arguments, format);
    keep_error(error, errnum, format, arguments);
    va_end(arguments);
    name_op(error, op ? op->index : NOT_AN_OP, op ? op->kind->name : name);
    return -1;
}

/* ---- the child ---- */

int setup_run(struct setup *s, const struct op *op) {
    op_function *run = functions[op_slot(op->kind)];
    if (!run)
        return 0;
    if (run(s, op) == 0)
        return 0;
    name_op(s->error, op->index, op->kind->name);
    return -1;
}

void reset_signals(void) {
    /* CLONE_CLEAR_SIGHAND leaves ignored signals ignored, and so does execve: a monitor that ignores SIGPIPE must not hand that down. */
    struct { void (*handler)(int); unsigned long flags; void (*restorer)(void); uint64_t mask; } act = {.handler = SIG_DFL};
    for (int signal = 1; signal <= 64; signal++)
        if (signal != SIGKILL && signal != SIGSTOP)
            syscall(SYS_rt_sigaction, signal, &act, NULL, sizeof act.mask);
    syscall(SYS_rt_sigprocmask, SIG_SETMASK, &act.mask, NULL, sizeof act.mask);
}

void close_all_but(int *keep, unsigned count) {
    for (unsigned i = 1; i < count; i++)
        for (unsigned j = i; j && keep[j - 1] > keep[j]; j--) {
            int swap = keep[j];
            keep[j] = keep[j - 1], keep[j - 1] = swap;
        }
    unsigned from = 3;
    for (unsigned i = 0; i < count; i++) {
        if (keep[i] < (int)from)
            continue;
        if ((unsigned)keep[i] > from)
            sys_close_range(from, (unsigned)keep[i] - 1, 0);
        from = (unsigned)keep[i] + 1;
    }
    sys_close_range(from, ~0u, 0);
}

static void say(int status, enum said said, const struct launch_error *error) {
    struct message message = {.said = said};
    if (error)
        message.error = *error;
    /* write, not send: it is the one call that every seccomp filter lets pass, and FAILED may be said behind a filter. */
    ssize_t n = write(status, &message, sizeof message);
    if (n != sizeof message)
        _exit(125); /* the monitor is gone; SIGPIPE has usually ended us already */
}

static void wait_for_word(int status) {
    char word;
    ssize_t n;
    do
        n = read(status, &word, 1);
    while (n < 0 && errno == EINTR);
    if (n != 1)
        _exit(125);
}

int setup_send_master(struct setup *s, int master) {
    struct message message = {.said = SAID_MASTER};
    struct iovec iov = {&message, sizeof message};
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct msghdr header = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.space, .msg_controllen = sizeof control.space};
    struct cmsghdr *c = CMSG_FIRSTHDR(&header);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(c), &master, sizeof master);
    return sendmsg(s->status, &header, MSG_NOSIGNAL) == (ssize_t)sizeof message ? 0 : -1;
}

struct limits {
    uint64_t soft, hard;
};

/* What clone3's two sides need to know about the plan. */
struct spawn {
    struct op exec;
    struct op join_mnt;      /* join_mnt_of, kind NULL if none */
    int join_mnt_pidfd;
    uint64_t join_mnt_flags;
    int has_id_maps, has_parent_ops;
};

static int join_container(struct setup *s, const struct spawn *spawn) {
    const char *id = spawn->join_mnt.f[0].s;
    if (syscall(SYS_setns, spawn->join_mnt_pidfd, spawn->join_mnt_flags))
        return refuse(s, errno == ESRCH ? ENOENT : errno, "container %s: namespaces of its init", id);
    s->root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    return s->root < 0 ? fail(s, "container %s: its root", id) : 0;
}

static void __attribute__((noreturn)) give_up(struct setup *s) {
    say(s->status, SAID_FAILED, s->error);
    _exit(1);
}

static void keep_only_the_plans(struct setup *s, const struct spawn *spawn) {
    int keep[STACK_FDS + 8];
    unsigned n = 0;
    for (uint32_t i = 0; i < s->plan->fd_count; i++)
        keep[n++] = s->plan->fds[i];
    const int others[] = {s->status, s->proc, s->context->stdin_fd, s->context->stdout_fd, s->context->stderr_fd, spawn->join_mnt_pidfd};
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
        keep[n++] = others[i];
    close_all_but(keep, n);
}

static int set_limits(struct setup *s) {
    struct plan_cursor cursor;
    struct op op;
    for (plan_rewind(s->plan, &cursor); plan_next(&cursor, &op) && op.kind->phase <= PHASE_PARENT;) {
        if (op.kind->code != OP_RLIMIT)
            continue;
        ARGS(rlimit, &op);
        struct limits old, new = {a->soft.n, a->hard.n};
        if (syscall(SYS_prlimit64, 0, a->resource.n, &new, NULL) == 0)
            continue;
        if (a->clamp.n && errno == EPERM && syscall(SYS_prlimit64, 0, a->resource.n, NULL, &old) == 0) {
            new.hard = new.hard < old.hard ? new.hard : old.hard;
            new.soft = new.soft < new.hard ? new.soft : new.hard;
            if (syscall(SYS_prlimit64, 0, a->resource.n, &new, NULL) == 0)
                continue;
        }
        fail(s, "resource %u: soft %llu hard %llu", (unsigned)a->resource.n, (unsigned long long)a->soft.n, (unsigned long long)a->hard.n);
        name_op(s->error, op.index, op.kind->name);
        return -1;
    }
    return 0;
}

static void __attribute__((noreturn)) child(struct setup *s, const struct spawn *spawn) {
    /* A child parked at the gate must not hold ends of other containers' pipes: their readers would never see EOF. */
    keep_only_the_plans(s, spawn);
    reset_signals();
    prctl(PR_SET_NAME, "orlop:setup", 0, 0, 0);
    umask(0);
    if (spawn->has_id_maps) {
        wait_for_word(s->status);
        if (syscall(SYS_setresgid, 0, 0, 0) || syscall(SYS_setresuid, 0, 0, 0)) {
            fail(s, "id 0 is not mapped in the user namespace");
            name_op(s->error, NOT_AN_OP, "id_maps");
            give_up(s);
        }
    }
    /* Other containers of the pod may see this process in a shared PID namespace: without this they could reach the host through its /proc/<pid>/root
     * and fd until it execs (CVE-2016-9962). After BEGIN, because the maps of a non-dumpable process belong to the host's root. */
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    if (spawn->join_mnt.kind && join_container(s, spawn)) {
        name_op(s->error, spawn->join_mnt.index, spawn->join_mnt.kind->name);
        give_up(s);
    }
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0); /* where fs.suid_dumpable is 1, other credentials have made it dumpable again; so have those of the user below */

    if (exec_prepare(s, &spawn->exec)) {
        name_op(s->error, spawn->exec.index, spawn->exec.kind->name);
        give_up(s);
    }

    struct plan_cursor cursor;
    struct op op;
    int prepared = 0, executing = 0;
    for (plan_rewind(s->plan, &cursor); plan_next(&cursor, &op);) {
        if (op.kind->phase >= PHASE_GATE && !prepared) {
            /* Everything is set up: no fd but stdio and the status socket is needed any more, and none may reach the container (CVE-2024-21626). */
            close_all_but(&s->status, 1);
            if (spawn->has_parent_ops && !spawn->has_id_maps)
                wait_for_word(s->status);
            if (set_limits(s))
                give_up(s);
            if (!s->umask_done)
                umask(022);
            prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
            prepared = 1;
        }
        if (op.kind->code == OP_GATE) {
            say(s->status, SAID_READY, NULL);
            wait_for_word(s->status);
        }
        if (op.kind->phase == PHASE_FINAL && !executing) {
            say(s->status, SAID_EXECUTING, NULL);
            executing = 1;
        }
        if (setup_run(s, &op))
            give_up(s);
    }
    _exit(125); /* unreachable: plan_decode() demands an exec, which returns only on failure */
}

/* ---- the parent ---- */

static int pid_namespace_for(const struct op *op, const struct plan *plan, const struct launch_context *context) {
    switch (op->kind->code) {
    case OP_JOIN_PID:
        return plan_fd(plan, &op->f[0]);
    case OP_JOIN_POD_INIT:
        return context->pod_pidns;
    default:
        return context->container_pidfd ? context->container_pidfd(context->cookie, op->f[0].s) : -1;
    }
}

static int write_child(int proc, pid_t pid, const char *file, const char *text) {
    char path[64];
    snprintf(path, sizeof path, "%d/%s", (int)pid, file);
    return procfs_write(proc, path, text, strlen(text));
}

static int op_id_maps(int proc, pid_t pid, const struct op *op, struct launch_error *error) {
    ARGS(id_maps, op);
    if (!a->setgroups.n && write_child(proc, pid, "setgroups", "deny"))
        return fail_at(error, op, NULL, "setgroups");
    if (write_child(proc, pid, "uid_map", a->uid_map.s))
        return fail_at(error, op, NULL, "uid_map \"%s\"", a->uid_map.s);
    if (write_child(proc, pid, "gid_map", a->gid_map.s))
        return fail_at(error, op, NULL, "gid_map \"%s\"", a->gid_map.s);
    return 0;
}

static int op_oom_score_adj(int proc, pid_t pid, const struct op *op, struct launch_error *error) {
    ARGS(oom_score_adj, op);
    char text[24];
    snprintf(text, sizeof text, "%lld", (long long)a->value.n);
    if (write_child(proc, pid, "oom_score_adj", text) == 0 || (a->clamp.n && (errno == EACCES || errno == EPERM)))
        return 0;
    return fail_at(error, op, NULL, "%s", text);
}

/* Only what the child could not do: whether it was enough, the child finds out when it sets the limit. */
static void raise_limit(pid_t pid, const struct op *op) {
    ARGS(rlimit, op);
    struct limits limits;
    if (syscall(SYS_prlimit64, pid, a->resource.n, NULL, &limits) || a->hard.n <= limits.hard)
        return;
    limits.hard = a->hard.n;
    syscall(SYS_prlimit64, pid, a->resource.n, &limits, NULL);
}

static int clone_child(struct launch *launch, const struct plan *plan, const struct launch_context *context, struct launch_error *error, pid_t *pid) {
    struct plan_cursor cursor;
    struct op op;
    struct clone_args args = {.flags = CLONE_PIDFD | CLONE_CLEAR_SIGHAND, .exit_signal = SIGCHLD, .pidfd = (uint64_t)(uintptr_t)&launch->pidfd};
    SCOPED_FD self = -1;
    for (plan_rewind(plan, &cursor); plan_next(&cursor, &op) && op.kind->phase == PHASE_SPAWN;) {
        if (op.kind->code == OP_CLONE) {
            args.flags |= op.f[0].n;
            int cgroup = plan_fd(plan, &op.f[1]);
            if (cgroup >= 0)
                args.flags |= CLONE_INTO_CGROUP, args.cgroup = (unsigned)cgroup;
        } else if (op.kind->code != OP_JOIN_MNT_OF && op.kind->code != OP_FOREIGN) {
            int ns = pid_namespace_for(&op, plan, context);
            if (ns < 0) {
                errno = ENOENT;
                return op.kind->code == OP_JOIN_PID_OF ? fail_at(error, &op, NULL, "container %s is not running", op.f[0].s)
                                                       : fail_at(error, &op, NULL, "there is no PID namespace to join");
            }
            if (self < 0 && (self = sys_pidfd_open(getpid())) < 0)
                return fail_at(error, &op, NULL, "own PID namespace");
            if (syscall(SYS_setns, ns, CLONE_NEWPID)) {
                if (errno == ESRCH && op.kind->code == OP_JOIN_PID_OF) {
                    errno = ENOENT;
                    return fail_at(error, &op, NULL, "container %s is not running", op.f[0].s);
                }
                return fail_at(error, &op, NULL, "PID namespace");
            }
        }
    }
    *pid = sys_clone3(&args);
    int saved = errno;
    if (*pid != 0 && self >= 0 && syscall(SYS_setns, self, CLONE_NEWPID)) {
        /* From here on every child of the monitor would be born in the wrong namespace: better no monitor. */
        abort();
    }
    if (*pid >= 0)
        return 0;
    errno = saved;
    return fail_at(error, NULL, "clone3", "flags %#llx%s", (unsigned long long)args.flags, args.flags & CLONE_INTO_CGROUP ? ", into a cgroup" : "");
}

static void kill_and_reap(pid_t pid, int pidfd) {
    siginfo_t info;
    sys_pidfd_send_signal(pidfd, SIGKILL);
    while (syscall(SYS_waitid, P_PID, pid, &info, WEXITED, NULL) && errno == EINTR)
        ;
}

static int do_parent_ops(struct launch *launch, const struct plan *plan, int proc, int status, const struct spawn *spawn, struct launch_error *error) {
    struct plan_cursor cursor;
    struct op op;
    for (plan_rewind(plan, &cursor); plan_next(&cursor, &op) && op.kind->phase <= PHASE_PARENT;) {
        int outcome = 0;
        if (op.kind->code == OP_ID_MAPS)
            outcome = op_id_maps(proc, launch->pid, &op, error);
        else if (op.kind->code == OP_OOM_SCORE_ADJ)
            outcome = op_oom_score_adj(proc, launch->pid, &op, error);
        else if (op.kind->code == OP_RLIMIT)
            raise_limit(launch->pid, &op);
        if (outcome)
            return -1;
    }
    /* A child that is gone by now tells so by its end. */
    return spawn->has_parent_ops && send(status, "b", 1, MSG_NOSIGNAL) != 1 && errno != EPIPE && errno != ECONNRESET ? fail_at(error, NULL, "launch", "status socket") : 0;
}

/* Which of the container's namespaces differ from ours. One's own user namespace may not be joined again (EINVAL), and to leave it out on that error alone
 * would one day leave a host root inside the container. */
static uint64_t namespaces_of(int proc, int pidfd) {
    static const struct { const char *file; uint64_t flag; } kinds[] = {{"mnt", CLONE_NEWNS}, {"cgroup", CLONE_NEWCGROUP}, {"user", CLONE_NEWUSER}, {"time", CLONE_NEWTIME}};
    char path[64], text[1024];
    uint64_t flags = 0;
    snprintf(path, sizeof path, "self/fdinfo/%d", pidfd);
    SCOPED_FD info = procfs_at(proc, path, O_RDONLY);
    ssize_t n = info < 0 ? -1 : read(info, text, sizeof text - 1);
    if (n < 0)
        return 0;
    text[n] = 0;
    const char *line = strstr(text, "Pid:");
    long pid = line ? strtol(line + 4, NULL, 10) : -1;
    if (pid <= 0)
        return 0; /* it has ended */
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        struct stat theirs, ours;
        snprintf(path, sizeof path, "%ld/ns/%s", pid, kinds[i].file);
        if (fstatat(proc, path, &theirs, 0))
            continue;
        snprintf(path, sizeof path, "self/ns/%s", kinds[i].file);
        if (fstatat(proc, path, &ours, 0) || theirs.st_ino != ours.st_ino)
            flags |= kinds[i].flag;
    }
    return flags;
}

static int survey(struct spawn *spawn, int proc, const struct plan *plan, const struct launch_context *context, struct launch_error *error) {
    struct plan_cursor cursor;
    struct op op;
    *spawn = (struct spawn){.join_mnt_pidfd = -1};
    if (plan->is_pod || plan->fd_count > STACK_FDS) {
        errno = EINVAL;
        return fail_at(error, NULL, "plan", plan->is_pod ? "a pod plan has no process to launch" : "too many fds");
    }
    for (plan_rewind(plan, &cursor); plan_next(&cursor, &op);) {
        if (op.kind->code == OP_JOIN_MNT_OF) {
            spawn->join_mnt = op;
            spawn->join_mnt_pidfd = context->container_pidfd ? context->container_pidfd(context->cookie, op.f[0].s) : -1;
            if (spawn->join_mnt_pidfd >= 0)
                spawn->join_mnt_flags = namespaces_of(proc, spawn->join_mnt_pidfd);
            if (!spawn->join_mnt_flags) {
                errno = ENOENT;
                return fail_at(error, &op, NULL, "container %s is not running", op.f[0].s);
            }
        }
        if (op.kind->code == OP_EXEC)
            spawn->exec = op;
        spawn->has_id_maps |= op.kind->code == OP_ID_MAPS;
        spawn->has_parent_ops |= op.kind->phase == PHASE_PARENT;
    }
    return 0;
}

/* What op foreign names outlives the plan. */
static int keep_foreign(struct launch *launch, const struct plan *plan, struct launch_error *error) {
    struct plan_cursor cursor;
    struct op op;
    for (plan_rewind(plan, &cursor); plan_next(&cursor, &op) && op.kind->phase == PHASE_SPAWN;) {
        if (op.kind->code != OP_FOREIGN)
            continue;
        ARGS(foreign, &op);
        int directory = plan_fd(plan, &a->directory), console = plan_fd(plan, &a->console);
        if (launch->foreign || directory < 0 || !a->pid_file.count || a->pid_file.count >= sizeof launch->left_file || strchr(a->pid_file.s, '/')) {
            errno = EINVAL;
            return fail_at(error, &op, NULL, "pid file \"%s\"", a->pid_file.s);
        }
        launch->foreign = 1;
        memcpy(launch->left_file, a->pid_file.s, a->pid_file.count + 1);
        launch->left_in = fcntl(directory, F_DUPFD_CLOEXEC, FOREIGN_FDS);
        launch->left_console = console < 0 ? -1 : fcntl(console, F_DUPFD_CLOEXEC, FOREIGN_FDS);
        if (launch->left_in < 0 || (console >= 0 && launch->left_console < 0))
            return fail_at(error, &op, NULL, "fds");
    }
    return 0;
}

int launch_begin(struct launch *launch, const struct plan *plan, const struct launch_context *context, struct launch_error *error) {
    struct spawn spawn;
    int pair[2];
    pid_t pid = -1;
    *launch = (struct launch){.pidfd = -1, .status = -1, .terminal_master = -1, .left_in = -1, .left_console = -1};
    *error = (struct launch_error){.op_index = NOT_AN_OP};
    SCOPED_FD proc = procfs_open();
    if (proc < 0)
        return fail_at(error, NULL, "launch", "/proc is no procfs");
    if (survey(&spawn, proc, plan, context, error) || keep_foreign(launch, plan, error))
        return -1;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
        return fail_at(error, NULL, "launch", "status socket");
    SCOPED_FD parents = pair[0];
    SCOPED_FD childs = pair[1];
    if (clone_child(launch, plan, context, error, &pid))
        return -1;
    if (pid == 0) {
        struct setup s = {.plan = plan, .context = context, .error = error, .status = childs, .root = -1, .proc = proc, .slave = -1, .null_mask = -1,
                          .empty_mask = -1, .init_pidns = -1};
        child(&s, &spawn);
    }
    launch->pid = pid;
    if (do_parent_ops(launch, plan, proc, parents, &spawn, error)) {
        kill_and_reap(pid, launch->pidfd);
        close(launch->pidfd);
        launch->pidfd = -1;
        return -1;
    }
    launch->status = parents;
    parents = -1;
    fcntl(launch->status, F_SETFL, O_NONBLOCK);
    launch->state = LAUNCH_SETTING_UP;
    return 0;
}

int launch_open_gate(struct launch *launch) {
    if (launch->state != LAUNCH_AT_GATE) {
        errno = EINVAL;
        return -1;
    }
    launch->state = LAUNCH_SETTING_UP;
    return send(launch->status, "g", 1, MSG_NOSIGNAL) == 1 ? 0 : -1;
}

static void finish(struct launch *launch, enum launch_state state) {
    close(launch->status);
    launch->status = -1;
    launch->state = state;
}

static void fail_launch(struct launch *launch, const struct launch_error *error) {
    launch->error = *error;
    launch->error.op[sizeof launch->error.op - 1] = 0;
    launch->error.detail[sizeof launch->error.detail - 1] = 0;
    sys_pidfd_send_signal(launch->pidfd, SIGKILL);
    finish(launch, LAUNCH_FAILED);
}

static void on_eof(struct launch *launch) {
    if (launch->executing) {
        finish(launch, LAUNCH_RUNNING);
        return;
    }
    struct launch_error error = {.errnum = ECANCELED, .op_index = NOT_AN_OP};
    snprintf(error.op, sizeof error.op, "%s", launch->state == LAUNCH_AT_GATE ? "gate" : "launch");
    snprintf(error.detail, sizeof error.detail, "the process was ended before it could run its command");
    fail_launch(launch, &error);
}

enum launch_state launch_pump(struct launch *launch) {
    while (launch->status >= 0) {
        struct message message;
        struct iovec iov = {&message, sizeof message};
        union {
            struct cmsghdr header;
            char space[CMSG_SPACE(sizeof(int))];
        } control;
        struct msghdr header = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.space, .msg_controllen = sizeof control.space};
        ssize_t n = recvmsg(launch->status, &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
        /* ECONNRESET, once: the child went without reading our BEGIN. What it said before is still in the queue. */
        if (n < 0 && (errno == EINTR || errno == ECONNRESET))
            continue;
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            break;
        if (n != (ssize_t)sizeof message) {
            on_eof(launch);
            break;
        }
        struct cmsghdr *c = CMSG_FIRSTHDR(&header);
        int fd = -1;
        if (c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS && c->cmsg_len == CMSG_LEN(sizeof fd))
            memcpy(&fd, CMSG_DATA(c), sizeof fd);
        if (message.said == SAID_MASTER && launch->terminal_master < 0)
            launch->terminal_master = fd;
        else if (fd >= 0)
            close(fd);
        if (message.said == SAID_READY)
            launch->state = LAUNCH_AT_GATE;
        else if (message.said == SAID_EXECUTING)
            launch->executing = 1;
        else if (message.said == SAID_FAILED)
            fail_launch(launch, &message.error);
    }
    return launch->state;
}

/* ---- pod plans ---- */

int plan_run_pod(const struct plan *plan, pid_t *init_pid, int *pidns_fd, struct launch_error *error) {
    static const struct launch_context nothing = {.pod_pidns = -1, .stdin_fd = -1, .stdout_fd = -1, .stderr_fd = -1};
    *error = (struct launch_error){.op_index = NOT_AN_OP};
    *init_pid = 0;
    *pidns_fd = -1;
    if (!plan->is_pod) {
        errno = EINVAL;
        return fail_at(error, NULL, "plan", "not a pod plan");
    }
    SCOPED_FD proc = procfs_open();
    if (proc < 0)
        return fail_at(error, NULL, "plan", "/proc is no procfs");
    struct setup s = {.plan = plan, .context = &nothing, .error = error, .status = -1, .root = -1, .proc = proc, .slave = -1, .null_mask = -1,
                      .empty_mask = -1, .init_pidns = -1};
    struct plan_cursor cursor;
    struct op op;
    for (plan_rewind(plan, &cursor); plan_next(&cursor, &op);)
        if (setup_run(&s, &op)) {
            if (s.init_pid > 0) {
                SCOPED_FD pidfd = sys_pidfd_open(s.init_pid);
                kill_and_reap(s.init_pid, pidfd);
            }
            if (s.init_pidns >= 0)
                close(s.init_pidns);
            return -1;
        }
    *init_pid = s.init_pid;
    *pidns_fd = s.init_pidns;
    return 0;
}
