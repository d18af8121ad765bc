/*
 * foreign.c: containers and execs that a program of another runtime makes (op foreign). The program is launched as any process; we are its subreaper:
 *
 *   program runs -> it ends with 0 -> the process that it left is our child now; its number stands in a file -> created (exec: running), as if it were ours
 *                   else           -> error "program": the caller knows where the program has said why
 *
 * From then on nothing distinguishes it from what we launched: reaping, kill, logs, exit record. What it left may have ended before the program did,
 * and been reaped: strays are remembered for that time. Knows no runtime and none of their files. Test: tests/kernel/monitor/test_foreign.py.
 */
#include "monitor.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>

#define PROGRAM "program"

static int is_under_way(const struct container *k) { return k->launch.foreign && !k->adopted && k->state != EXITED; }

void note_stray(pid_t pid, int status) {
    int wanted = 0;
    for (const struct container *k = pod.containers; k; k = k->next)
        wanted |= is_under_way(k);
    if (!wanted)
        pod.stray_count = 0;
    else
        pod.strays[pod.stray_count++ % STRAYS] = (struct stray){pid, status};
}

static const struct stray *stray_of(pid_t pid) {
    for (uint32_t n = pod.stray_count, left = STRAYS; n && left; n--, left--)
        if (pod.strays[(n - 1) % STRAYS].pid == pid)
            return &pod.strays[(n - 1) % STRAYS];
    return NULL;
}

static pid_t left_pid(const struct container *k) {
    char text[16], *end;
    SCOPED_FD fd = openat(k->launch.left_in, k->launch.left_file, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (n <= 0)
        return -1;
    text[n] = 0;
    long pid = strtol(text, &end, 10);
    return end != text && (!*end || *end == '\n') && pid > 1 && pid <= INT32_MAX ? (pid_t)pid : -1;
}

/* The program has handed it over before it ended: nothing here waits. */
static int take_terminal(struct container *k) {
    char byte;
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int))];
    } control;
    struct iovec iov = {&byte, 1};
    struct msghdr header = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.space, .msg_controllen = sizeof control.space};
    fcntl(k->launch.left_console, F_SETFL, O_NONBLOCK);
    SCOPED_FD socket = accept4(k->launch.left_console, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (socket < 0 || recvmsg(socket, &header, MSG_CMSG_CLOEXEC) < 0)
        return -1;
    struct cmsghdr *c = CMSG_FIRSTHDR(&header);
    if (!c || c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS || c->cmsg_len != CMSG_LEN(sizeof(int))) {
        errno = EPROTO;
        return -1;
    }
    memcpy(&k->launch.terminal_master, CMSG_DATA(c), sizeof(int));
    return 0;
}

static int refuse_program(struct container *k, int errnum, const char *detail) {
    if (!k->removing) {
        answer_error(k->asker, k->asker_seq, errnum, PROGRAM, UINT32_MAX, detail);
        k->asker = NULL;
    }
    return 0; /* ended() goes on with a launch that never ran */
}

static void become(struct container *k, pid_t pid, int pidfd) {
    close_fd(&k->launch.pidfd);
    k->launch.pidfd = pidfd;
    k->pid = pid;
    k->start_time = start_time_of(pid);
    k->adopted = 1;
    close_fd(&k->launch.left_in), close_fd(&k->launch.left_console);
    k->launch.left_in = k->launch.left_console = -1;
}

static void tell_adopted(struct container *k) {
    if (k->is_exec) {
        launch_done(k);
        return;
    }
    if (k->tty)
        adopt_terminal(k);
    k->state = CREATED;
    build_begin(&reply, MSG_created, k->asker_seq);
    build_u32(&reply, (uint32_t)k->pid);
    build_u64(&reply, k->start_time);
    build_fd(&reply, k->launch.pidfd);
    send_built(k->asker);
    k->asker = NULL;
}

/* Returns 1 when another process has taken the program's place, 0 when the launch has come to nothing. */
int program_ended(struct container *k, int status) {
    char detail[80];
    siginfo_t info = {0};
    if (status) {
        snprintf(detail, sizeof detail, WIFSIGNALED(status) ? "ended by signal %d" : "exit code %d", WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
        return refuse_program(k, k->timed_out ? ETIMEDOUT : 0, detail);
    }
    pid_t pid = left_pid(k);
    if (pid < 0)
        return refuse_program(k, EPROTO, "it left no number of a process");
    int no_terminal = k->launch.left_console >= 0 && take_terminal(k) ? errno : 0;
    int pidfd = sys_pidfd_open(pid);
    if (pidfd >= 0 && waitid((idtype_t)P_PIDFD, (id_t)pidfd, &info, WEXITED | WNOHANG | WNOWAIT) == 0) {
        if (no_terminal) {
            sys_pidfd_send_signal(pidfd, SIGKILL); /* its end is a stray's */
            close_fd(&pidfd);
            return refuse_program(k, no_terminal, "it handed over no terminal");
        }
        become(k, pid, pidfd);
        if (k->removing)
            kill_all(k, SIGKILL);
        else
            tell_adopted(k);
        return 1;
    }
    close_fd(&pidfd);
    const struct stray *stray = stray_of(pid);
    if (!stray)
        return refuse_program(k, ECHILD, "the process that it left is not our child");
    if (no_terminal)
        return refuse_program(k, no_terminal, "it handed over no terminal");
    if (!k->is_exec || k->removing)
        return refuse_program(k, ECANCELED, "the process was ended before it could run its command");
    become(k, pid, -1);
    tell_adopted(k);
    ended(k, stray->status);
    return 1;
}

/* helper: the program that was to start a container has ended. The container may have ended already. */
void started_by(struct container *helper, int status) {
    struct container *k = helper->starts;
    helper->starts = NULL;
    if (k->state == STARTING && !k->reaped)
        k->state = status ? CREATED : RUNNING;
}
