/*
 * monitor.c: one process a pod: parent and subreaper of its processes, holder of its namespaces, stdio, logs and exit records. Here: the start and the loop.
 *
 * One epoll loop that never blocks on a container, a client or the daemon:
 *   listener, connections   requests of messages.def           signalfd    SIGCHLD -> waitpid(-1) -> exits
 *   launch.status           a child's progress to its exec     stdout, stderr, pty   -> log and attach clients
 * The daemon may die at any moment; nothing here depends on a connection. Started as docs/native-protocol.md says. Decides nothing: what to run
 * comes as a plan (launch.h). Memory is small and bounded: tests/kernel/monitor/test_memory.py.
 */
#include "monitor.h"

#include "userns.h"

#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>

#define EVENTS 16
#define BACKLOG 16
#define OUTPUT_ROUNDS 4
#define KILL_AGAIN_NS 1000000000u

struct pod pod = {.pidns = -1, .init_pidfd = -1};
char chunk[CHUNK];

uint64_t now_ns(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* ---- epoll ---- */

static void control(int operation, const struct source *source, uint32_t events) {
    struct epoll_event event = {.events = events, .data.ptr = (void *)(uintptr_t)source};
    if (source->fd >= 0)
        epoll_ctl(pod.epoll, operation, source->fd, &event);
}

void watch(struct source *source, enum source_kind kind, int fd, void *owner, uint32_t events) {
    *source = (struct source){kind, fd, owner};
    control(EPOLL_CTL_ADD, source, events);
}

void rewatch(const struct source *source, uint32_t events) { control(EPOLL_CTL_MOD, source, events); }
void mute(const struct source *source) { control(EPOLL_CTL_DEL, source, 0); }
void unmute(struct source *source, uint32_t events) { control(EPOLL_CTL_ADD, source, events); }

void unwatch(struct source *source) {
    control(EPOLL_CTL_DEL, source, 0);
    close_fd(&source->fd);
    source->fd = -1;
}

/* ---- the loop ---- */

static void children(void) {
    struct signalfd_siginfo info;
    while (read(pod.signals.fd, &info, sizeof info) == (ssize_t)sizeof info)
        ;
    reap();
}

static void dispatch(struct source *source, uint32_t events) {
    struct container *k = source->owner;
    switch (source->kind) {
    case SOURCE_LISTENER:
        listener_readable();
        break;
    case SOURCE_CONNECTION:
        connection_readable(source->owner);
        break;
    case SOURCE_SIGNAL:
        children();
        break;
    case SOURCE_STATUS:
        pump_launch(k);
        break;
    case SOURCE_STDOUT:
        if (events & EPOLLOUT)
            input_writable(k);
        if (events & ~(uint32_t)EPOLLOUT)
            pump_output(k, source, STREAM_STDOUT, OUTPUT_ROUNDS);
        break;
    case SOURCE_STDERR:
        pump_output(k, source, STREAM_STDERR, OUTPUT_ROUNDS);
        break;
    case SOURCE_STDIN:
        if (events & EPOLLERR) /* nobody can read it any more */
            close_input(k);
        else
            input_writable(k);
        break;
    case SOURCE_OOM:
        oom_readable(k);
        break;
    case SOURCE_ATTACH:
        attach_ready(source->owner, events);
        break;
    }
}

/* Does what is due at this moment; returns the milliseconds until something is due again, -1: nothing is. */
static int deadlines(void) {
    uint64_t soonest = UINT64_MAX, now = now_ns(CLOCK_MONOTONIC);
    for (struct container *k = pod.containers, *next; k; k = next) {
        next = k->next;
        if (k->end_ns && k->end_ns <= now) {
            tell_end(k);
            continue;
        }
        if (k->deadline_ns && k->deadline_ns <= now) {
            k->timed_out = 1;
            kill_all(k, SIGKILL);
            k->deadline_ns = now + KILL_AGAIN_NS; /* once more, should something have slipped through */
        }
        if (k->oom_look_ns && k->oom_look_ns <= now)
            look_for_oom(k);
        const uint64_t due[] = {k->end_ns, k->deadline_ns, k->oom_look_ns};
        for (size_t i = 0; i < sizeof due / sizeof due[0]; i++)
            if (due[i] && due[i] < soonest)
                soonest = due[i];
    }
    if (soonest == UINT64_MAX)
        return -1;
    uint64_t ms = soonest <= now ? 0 : (soonest - now) / 1000000u + 1;
    return ms > 3600000 ? 3600000 : (int)ms;
}

static void sweep(void) {
    for (struct connection *c = pod.connections, *next; c; c = next) {
        next = c->next;
        if (c->doomed)
            disconnect(c);
    }
    for (struct container *k; (k = pod.graveyard);)
        pod.graveyard = k->next, free(k);
    for (struct attach *a; (a = pod.attach_graveyard);)
        pod.attach_graveyard = a->next, free(a);
}

/* The monitor is not to be killed for what its containers use. Lowering may be forbidden (no CAP_SYS_RESOURCE): then it is as killable as its daemon, and
 * recovery says MonitorLost. What it was before is what a container gets whose plan says nothing (control.c). */
static void own_oom_score(void) {
    SCOPED_FD fd = open("/proc/self/oom_score_adj", O_RDWR | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : pread(fd, pod.oom_score, sizeof pod.oom_score - 1, 0);
    pod.oom_score[n > 0 ? n : 0] = 0;
    if (n > 0 && pwrite(fd, "-999", 4, 0) != 4)
        pod.oom_score[0] = 0;
}

static void become_monitor(void) {
    sys_close_range(FD_DAEMON + 1, ~0u, 0);
    for (int fd = FD_POD_DIR; fd <= FD_DAEMON; fd++)
        fcntl(fd, F_SETFD, FD_CLOEXEC);
    setsid();
    umask(0);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    prctl(PR_SET_DUMPABLE, 0);
    prctl(PR_SET_NAME, "orlop-monitor"); /* the kernel has named us after the fd of the sealed copy (monitor/program.py) */
    own_oom_score();
}

static void watch_everything(void) {
    sigset_t set;
    sigfillset(&set);
    sigprocmask(SIG_BLOCK, &set, NULL); /* nothing but SIGKILL ends a monitor */
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    pod.epoll = epoll_create1(EPOLL_CLOEXEC);
    watch(&pod.signals, SOURCE_SIGNAL, signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK), NULL, EPOLLIN);
    /* Once more: SO_PEERCRED shows a client who listened last, and that is to be the monitor, not the daemon that made the socket. */
    listen(FD_LISTENER, BACKLOG);
    fcntl(FD_LISTENER, F_SETFL, O_NONBLOCK);
    watch(&pod.listener, SOURCE_LISTENER, FD_LISTENER, NULL, EPOLLIN);
    add_connection(FD_DAEMON);
}

int main(int argc, char **argv) {
    if (argc == 2 && !strcmp(argv[1], "--userns"))
        return hold_userns();
    static const char usage[] = "usage: orlop-monitor --pod ID, started by orlopd with fds 3, 4 and 5\n";
    if (argc != 3 || strcmp(argv[1], "--pod") != 0 || fcntl(FD_POD_DIR, F_GETFD) < 0 || fcntl(FD_LISTENER, F_GETFD) < 0) {
        if (write(2, usage, sizeof usage - 1) < 0)
            return 3;
        return 2;
    }
    become_monitor();
    if (fchdir(FD_POD_DIR))
        return 1;
    watch_everything();
    while (!pod.ending || lives() || pod.init > 0) {
        struct epoll_event events[EVENTS];
        int n = epoll_wait(pod.epoll, events, EVENTS, deadlines());
        for (int i = 0; i < n; i++) {
            struct source *source = events[i].data.ptr;
            if (source->fd >= 0)
                dispatch(source, events[i].events);
        }
        sweep();
    }
    unlinkat(FD_POD_DIR, "monitor.sock", 0);
    return 0;
}
