/*
 * container.c: the life of a container's init or of an exec: launched, at its gate, running, ended. Owns the table of them, the reaping of every child
 * and stranger, and the order of an end:
 *
 *   init reaped -> what the kernel did not end with it is killed -> its execs reaped -> output drained -> exit record -> event
 */
#include "exitrec.h"
#include "killtree.h"
#include "monitor.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/wait.h>
#include <time.h>

/* Times 16 KiB: twice what fs.pipe-max-size lets a pipe hold, and then no more, so that a writer that goes on can't keep us here. */
#define DRAIN_ROUNDS 128
#define EXECS_END_NS 2000000000u
#define EXIT_NEVER_RAN 128

const char *const state_names[] = {"creating", "created", "starting", "running", "exited"};

struct container *find(const char *id) {
    for (struct container *k = pod.containers; k; k = k->next)
        if (strcmp(k->id, id) == 0)
            return k;
    return NULL;
}

struct container *new_container(const struct field *id) {
    struct container *k = calloc(1, sizeof *k);
    if (!k)
        return NULL;
    memcpy(k->id, id->s, id->count);
    k->cgroup = k->oom = k->held[0] = k->held[1] = k->words_to = k->words = -1;
    k->launch = (struct launch){.pidfd = -1, .status = -1, .terminal_master = -1, .left_in = -1, .left_console = -1};
    k->status.fd = k->out.fd = k->err.fd = k->in.fd = k->oom_event.fd = -1;
    k->log.fd = -1;
    k->next = pod.containers;
    pod.containers = k;
    return k;
}

static void close_directories(struct container *k) {
    unwatch(&k->oom_event);
    close_fd(&k->cgroup), close_fd(&k->oom);
    k->cgroup = k->oom = -1;
}

void release(struct container *k) {
    unwatch(&k->status);
    close_stdio(k);
    close_fd(&k->held[0]), close_fd(&k->held[1]);
    forget_words(k);
    crilog_close(&k->log);
    close_directories(k);
    close_fd(&k->launch.pidfd), close_fd(&k->launch.status), close_fd(&k->launch.terminal_master);
    close_fd(&k->launch.left_in), close_fd(&k->launch.left_console);
    for (struct container **at = &pod.containers; *at; at = &(*at)->next)
        if (*at == k) {
            *at = k->next;
            break;
        }
    for (struct container *e = pod.containers; e; e = e->next) {
        if (e->of == k)
            e->of = NULL;
        if (e->starts == k)
            e->starts = NULL;
    }
    k->next = pod.graveyard;
    pod.graveyard = k;
}

static int is_live(const struct container *k) { return !k->reaped && (k->state == CREATED || k->state == STARTING || k->state == RUNNING); }

int live_pidfd(void *cookie, const char *id) {
    (void)cookie;
    const struct container *k = find(id);
    return k && !k->is_exec && is_live(k) ? k->launch.pidfd : -1;
}

int lives(void) {
    for (struct container *k = pod.containers; k; k = k->next)
        if (k->state != EXITED)
            return 1;
    return 0;
}

/* Field 22 of /proc/<pid>/stat, counted after the last parenthesis: a name may contain anything. */
uint64_t start_time_of(pid_t pid) {
    char path[32], text[512];
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    SCOPED_FD fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (n <= 0)
        return 0;
    text[n] = 0;
    char *at = strrchr(text, ')');
    for (int field = 2; at && field < 22; field++)
        at = strchr(at + 1, ' ');
    return at ? strtoull(at + 1, NULL, 10) : 0;
}

void kill_all(struct container *k, int signal) {
    int by_cgroup = k->cgroup >= 0 && (k->kill_by_cgroup || k->is_exec || (k->launch.foreign && !k->adopted));
    if (signal == SIGKILL) {
        if (!k->reaped)
            sys_pidfd_send_signal(k->launch.pidfd, SIGKILL);
        if (by_cgroup)
            kill_tree(k->cgroup, k->v2, k->reaped ? 0 : k->pid), k->tree_killed = 1;
        else if (k->cgroup >= 0)
            thaw_tree(k->cgroup, k->v2); /* the rest dies with the PID namespace, but a frozen process does not die on v1 */
    } else if (k->cgroup >= 0) {
        signal_tree(k->cgroup, signal);
    } else if (!k->reaped) {
        sys_pidfd_send_signal(k->launch.pidfd, signal);
    }
}

/* ---- launch ---- */

void launch_done(struct container *k) {
    k->state = RUNNING;
    if (k->is_exec) {
        build_begin(&reply, MSG_exec_ok, k->asker_seq);
        build_u32(&reply, (uint32_t)k->pid);
        build_u64(&reply, k->start_time);
        build_fd(&reply, k->launch.terminal_master);
    } else {
        build_begin(&reply, MSG_started, k->asker_seq);
        build_u64(&reply, now_ns(CLOCK_REALTIME));
    }
    send_built(k->asker);
    k->asker = NULL;
}

/* The child has said something, or its exec has closed the socket. After a failure its exit follows, which releases what never ran. */
void pump_launch(struct container *k) {
    enum launch_state was = k->launch.state, is = launch_pump(&k->launch);
    if (k->launch.terminal_master >= 0 && k->out.fd < 0 && !k->is_exec && k->state == CREATING)
        adopt_terminal(k);
    if (k->launch.status < 0)
        unwatch(&k->status);
    if (is == was)
        return;
    if (is == LAUNCH_AT_GATE && k->state == CREATING) {
        k->state = CREATED;
        build_begin(&reply, MSG_created, k->asker_seq);
        build_u32(&reply, (uint32_t)k->pid);
        build_u64(&reply, k->start_time);
        build_fd(&reply, k->launch.pidfd);
        send_built(k->asker);
        k->asker = NULL;
    } else if (is == LAUNCH_RUNNING) {
        if (!k->launch.foreign) /* else it runs when its program has ended: foreign.c */
            launch_done(k);
    } else if (is == LAUNCH_FAILED && !k->removing) {
        const struct launch_error *error = &k->launch.error;
        answer_error(k->asker, k->asker_seq, (int)error->errnum, error->op, error->op_index, error->detail);
        k->asker = NULL;
    }
}

/* ---- exit ---- */

static void note_status(struct container *k) {
    int status = k->wait_status;
    k->signal = WIFSIGNALED(status) ? (uint32_t)WTERMSIG(status) : 0;
    k->exit_code = WIFSIGNALED(status) ? 128 + k->signal : (uint32_t)WEXITSTATUS(status);
    if (k->launch.state == LAUNCH_FAILED && k->state == STARTING) /* our own SIGKILL ended it: the command could not be executed */
        k->exit_code = EXIT_NEVER_RAN, k->signal = 0;
    k->finished_ns = now_ns(CLOCK_REALTIME);
}

static int has_live_execs(const struct container *k) {
    for (const struct container *e = pod.containers; e; e = e->next)
        if (e->of == k && !e->reaped)
            return 1;
    return 0;
}

/* Last output, exit record, event: in this order, and only once. */
void tell_end(struct container *k) {
    k->state = EXITED;
    k->end_ns = k->deadline_ns = k->oom_look_ns = 0;
    pump_output(k, &k->out, STREAM_STDOUT, DRAIN_ROUNDS);
    pump_output(k, &k->err, STREAM_STDERR, DRAIN_ROUNDS);
    crilog_close(&k->log);
    close_stdio(k);
    if (k->is_exec) {
        announce_exit(k, 0);
        release(k);
        return;
    }
    k->oom_looks = 0;
    look_for_oom(k);
    int oom_killed = k->oom_kills && k->exit_code == 128 + SIGKILL;
    struct exit_record record = {.id = k->id, .pid = (uint32_t)k->pid, .exit_code = k->exit_code, .signal = k->signal, .oom_killed = (uint32_t)oom_killed,
                                 .start_time = k->start_time, .oom_kills = k->oom_kills, .finished_ns = k->finished_ns};
    /* A record that cannot be written (no space) is not the end of it: hello's table has the same until `remove`. */
    (void)exit_record_write(FD_POD_DIR, &record);
    announce_exit(k, oom_killed);
    close_directories(k);
}

void never_ran(struct container *k) {
    if (k->asker) {
        if (k->removing)
            answer_ok(k->asker, k->asker_seq);
        else
            answer_error(k->asker, k->asker_seq, ECANCELED, "launch", UINT32_MAX, "the process was ended before it could run its command");
    }
    k->state = EXITED;
    release(k);
}

void ended(struct container *k, int status) {
    struct container *of = k->of;
    if (k->launch.state != LAUNCH_RUNNING)
        pump_launch(k);
    if (k->starts)
        started_by(k, status);
    if (k->launch.foreign && !k->adopted && k->launch.state == LAUNCH_RUNNING && program_ended(k, status))
        return;
    k->reaped = 1, k->wait_status = status;
    note_status(k);
    if (k->removing || k->state == CREATING || (k->is_exec && k->launch.state != LAUNCH_RUNNING) || (k->launch.foreign && !k->adopted)) {
        never_ran(k);
    } else if (k->is_exec) {
        if (k->tree_killed)
            kill_tree(k->cgroup, k->v2, 0);
        tell_end(k);
    } else {
        if (k->kill_by_cgroup && k->cgroup >= 0)
            kill_tree(k->cgroup, k->v2, 0);
        for (struct container *e = pod.containers; e; e = e->next)
            if (e->of == k && !e->reaped)
                kill_all(e, SIGKILL);
        if (has_live_execs(k))
            k->end_ns = now_ns(CLOCK_MONOTONIC) + EXECS_END_NS;
        else
            tell_end(k);
    }
    if (of && of->reaped && of->state != EXITED && !has_live_execs(of))
        tell_end(of);
}

/* Our children, and strangers that we got as their subreaper: whoever is not in the table is only taken. */
void reap(void) {
    int status;
    for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;) {
        if (pid == pod.init) {
            pod.init = 0;
            close_fd(&pod.init_pidfd);
            pod.init_pidfd = -1;
            continue;
        }
        struct container *k = pod.containers;
        while (k && (k->pid != pid || k->reaped))
            k = k->next;
        if (k)
            ended(k, status);
        else
            note_stray(pid, status);
    }
}
