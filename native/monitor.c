/*
 * monitor.c: one process a pod: parent and subreaper of its processes, holder of its namespaces, stdio, logs and exit records.
 *
 * One epoll loop that never blocks on a container, a client or the daemon:
 *   listener, connections   requests of messages.def           signalfd    SIGCHLD -> waitpid(-1) -> exits
 *   launch.status           a child's progress to its exec     stdout, stderr, pty   -> log and attach clients
 * The daemon may die at any moment; nothing here depends on a connection. Started as docs/native-protocol.md says. Decides nothing: what to run
 * comes as a plan (launch.h). Memory is small and bounded: a pod's share is measured by tests/kernel/monitor.
 */
#include "crilog.h"
#include "exitrec.h"
#include "killtree.h"
#include "launch.h"
#include "message.h"
#include "plan.h"
#include "sys.h"

#include <arpa/inet.h>
#include <inttypes.h>
#include <linux/netlink.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#define FD_POD_DIR 3
#define FD_LISTENER 4
#define FD_DAEMON 5
#define ID_MAX 80
#define KEPT_MAX 16
#define CHUNK 16384
#define ATTACH_CHUNK 8192
#define CONNECTIONS_MAX 16
#define ATTACH_MAX 64

enum { CREATE_TTY = 1, CREATE_STDIN = 2, CREATE_STDIN_ONCE = 4, CREATE_V2 = 8, CREATE_KILL_BY_CGROUP = 16 };
enum { EXEC_TTY = 1, EXEC_KILL_ON_DISCONNECT = 2, EXEC_V2 = 8 };
enum { ATTACH_STDIN = 1, ATTACH_STDOUT = 2, ATTACH_STDERR = 4 };

/* What an epoll event points at. */
enum source_kind { SOURCE_LISTENER, SOURCE_CONNECTION, SOURCE_SIGNAL, SOURCE_STATUS, SOURCE_STDOUT, SOURCE_STDERR, SOURCE_STDIN, SOURCE_OOM, SOURCE_ATTACH };
struct source {
    enum source_kind kind;
    int fd;
    void *owner;
};

struct connection {
    struct source source;
    struct connection *next;
    int doomed;
};

struct attach {
    struct source source;
    struct attach *next;
    struct container *container;
    uint32_t flags;
    char *waiting; /* stdin that the container has not taken yet; while there is some the client is not read */
    uint32_t waiting_length, waiting_at;
    int doomed;
};

enum state { CREATING, CREATED, STARTING, RUNNING, EXITED };
static const char *const state_names[] = {"creating", "created", "starting", "running", "exited"};

struct container {
    struct container *next;
    char id[ID_MAX];
    enum state state;
    int is_exec, v2, kill_by_cgroup, stdin_once, kill_on_disconnect, timed_out;
    pid_t pid;
    uint64_t start_time, deadline_ns, finished_ns, oom_base, oom_kills;
    uint32_t exit_code, signal;
    int cgroup, oom;
    struct launch launch;
    struct source status, out, err, in, oom_event;
    struct crilog log;
    struct attach *attached;
    struct connection *asker; /* who waits for the outcome of create, start or exec */
    uint32_t asker_seq;
    struct connection *runner; /* exec: whose end it shares */
};

static struct {
    int epoll, pidns;
    pid_t init;
    uint64_t unshared;
    int is_pod, ending;
    struct source listener, signals;
    struct connection *connections;
    struct container *containers;
    struct {
        char name[32];
        int fd;
    } kept[KEPT_MAX];
} pod = {.pidns = -1};

static struct builder reply;
static char chunk[CHUNK];

static uint64_t now_ns(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* ---- epoll ---- */

static void watch(struct source *source, enum source_kind kind, int fd, void *owner, uint32_t events) {
    *source = (struct source){kind, fd, owner};
    struct epoll_event event = {.events = events, .data.ptr = source};
    if (fd >= 0)
        epoll_ctl(pod.epoll, EPOLL_CTL_ADD, fd, &event);
}

static void rewatch(struct source *source, uint32_t events) {
    struct epoll_event event = {.events = events, .data.ptr = source};
    if (source->fd >= 0)
        epoll_ctl(pod.epoll, EPOLL_CTL_MOD, source->fd, &event);
}

static void unwatch(struct source *source) {
    if (source->fd >= 0) {
        epoll_ctl(pod.epoll, EPOLL_CTL_DEL, source->fd, NULL);
        close(source->fd);
    }
    source->fd = -1;
}

/* ---- talking to the daemon ---- */

/* A daemon that does not read loses its connection, not our time; it finds everything again through hello and the exit records. */
static void send_built(struct connection *c) {
    if (!c || c->doomed)
        return;
    if (build_end(&reply)) {
        c->doomed = 1;
        return;
    }
    struct iovec iov = {reply.bytes, reply.length};
    union {
        char space[CMSG_SPACE(sizeof(int) * MESSAGE_FDS_MAX)];
        struct cmsghdr align;
    } control;
    struct msghdr header = {.msg_iov = &iov, .msg_iovlen = 1};
    if (reply.fd_count) {
        memset(&control, 0, sizeof control);
        header.msg_control = control.space;
        header.msg_controllen = (socklen_t)CMSG_SPACE(sizeof(int) * reply.fd_count);
        struct cmsghdr *cmsg = CMSG_FIRSTHDR(&header);
        cmsg->cmsg_level = SOL_SOCKET;
        cmsg->cmsg_type = SCM_RIGHTS;
        cmsg->cmsg_len = (socklen_t)CMSG_LEN(sizeof(int) * reply.fd_count);
        memcpy(CMSG_DATA(cmsg), reply.fds, sizeof(int) * reply.fd_count);
    }
    if (sendmsg(c->source.fd, &header, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
        c->doomed = 1;
}

static void answer_ok(struct connection *c, uint32_t seq) {
    build_begin(&reply, MSG_ok, seq);
    build_u32(&reply, 0);
    send_built(c);
}

static void answer_error(struct connection *c, uint32_t seq, int errnum, const char *op, uint32_t index, const char *detail) {
    build_begin(&reply, MSG_error, seq);
    build_u32(&reply, (uint32_t)errnum);
    build_str(&reply, op);
    build_u32(&reply, index);
    build_str(&reply, detail);
    send_built(c);
}

static void announce_exit(const struct container *k, int oom_killed) {
    for (struct connection *c = pod.connections; c; c = c->next) {
        build_begin(&reply, MSG_exited, 0);
        build_str(&reply, k->id);
        build_u32(&reply, (uint32_t)k->pid);
        build_u32(&reply, k->exit_code);
        build_u32(&reply, k->signal);
        build_u32(&reply, (uint32_t)oom_killed);
        build_u64(&reply, k->finished_ns);
        build_u32(&reply, (uint32_t)k->is_exec);
        build_u32(&reply, (uint32_t)k->timed_out);
        send_built(c);
    }
}

static void announce_oom(const struct container *k) {
    for (struct connection *c = pod.connections; c; c = c->next) {
        build_begin(&reply, MSG_oom, 0);
        build_str(&reply, k->id);
        build_u64(&reply, k->oom_kills);
        send_built(c);
    }
}

/* ---- containers ---- */

static struct container *find(const char *id) {
    for (struct container *k = pod.containers; k; k = k->next)
        if (strcmp(k->id, id) == 0)
            return k;
    return NULL;
}

static int live_pidfd(void *cookie, const char *id) {
    (void)cookie;
    const struct container *k = find(id);
    return k && !k->is_exec && (k->state == CREATED || k->state == STARTING || k->state == RUNNING) ? k->launch.pidfd : -1;
}

/* Field 22 of /proc/<pid>/stat, counted after the last parenthesis: a name may contain anything. */
static uint64_t start_time_of(pid_t pid) {
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

static void drop_attach(struct attach *a) {
    unwatch(&a->source);
    free(a->waiting);
    a->waiting = NULL;
    a->doomed = 1;
}

static void close_stdio(struct container *k) {
    unwatch(&k->out), unwatch(&k->err), unwatch(&k->in);
    for (struct attach *a = k->attached; a; a = a->next)
        if (!a->doomed)
            drop_attach(a);
}

static void release(struct container *k) {
    unwatch(&k->status), unwatch(&k->oom_event);
    close_stdio(k);
    crilog_close(&k->log);
    close_fd(&k->cgroup), close_fd(&k->oom), close_fd(&k->launch.pidfd), close_fd(&k->launch.terminal_master);
    for (struct attach *a = k->attached, *next; a; a = next)
        next = a->next, free(a);
    for (struct container **at = &pod.containers; *at; at = &(*at)->next)
        if (*at == k) {
            *at = k->next;
            break;
        }
    free(k);
}

static void kill_all(struct container *k, int signal) {
    if (k->launch.pidfd >= 0 && k->state != EXITED)
        sys_pidfd_send_signal(k->launch.pidfd, signal);
    if (k->cgroup >= 0 && (k->kill_by_cgroup || k->is_exec)) {
        if (signal == SIGKILL)
            kill_tree(k->cgroup, k->v2);
        else
            signal_tree(k->cgroup, signal);
    }
}

/* ---- stdio ---- */

static void fan_out(struct container *k, int stream, const char *data, size_t length) {
    for (struct attach *a = k->attached; a; a = a->next) {
        if (a->doomed || !(a->flags & (stream == 2 ? ATTACH_STDERR : ATTACH_STDOUT)))
            continue;
        for (size_t at = 0; at < length; at += ATTACH_CHUNK) {
            char tag = (char)stream;
            size_t n = length - at < ATTACH_CHUNK ? length - at : ATTACH_CHUNK;
            struct iovec iov[2] = {{&tag, 1}, {(void *)(uintptr_t)(data + at), n}};
            struct msghdr header = {.msg_iov = iov, .msg_iovlen = 2};
            /* A reader that has let its socket's buffer fill is cut off: the container must not wait for it. */
            if (sendmsg(a->source.fd, &header, MSG_DONTWAIT | MSG_NOSIGNAL) < 0) {
                drop_attach(a);
                break;
            }
        }
    }
}

/* Reads what is there, at most `rounds` chunks; closes the stream at its end. */
static void pump_output(struct container *k, struct source *source, int stream, int rounds) {
    while (source->fd >= 0 && rounds--) {
        ssize_t n = read(source->fd, chunk, sizeof chunk);
        if (n > 0) {
            crilog_write(&k->log, stream, chunk, (size_t)n);
            fan_out(k, stream, chunk, (size_t)n);
        } else if (n < 0 && errno == EINTR) {
            continue;
        } else if (n < 0 && errno == EAGAIN) {
            return;
        } else { /* end of file; EIO: the last slave of a pty was closed */
            unwatch(source);
            crilog_flush(&k->log, stream);
        }
    }
}

static void close_input(struct container *k) {
    if (k->in.kind == SOURCE_STDIN)
        unwatch(&k->in);
}

static int input_fd(struct container *k) { return k->launch.terminal_master >= 0 ? k->out.fd : k->in.fd; }

static void push_input(struct attach *a) {
    struct container *k = a->container;
    while (a->waiting_at < a->waiting_length) {
        ssize_t n = write(input_fd(k), a->waiting + a->waiting_at, a->waiting_length - a->waiting_at);
        if (n < 0 && errno == EAGAIN) {
            if (k->in.fd >= 0)
                rewatch(&k->in, EPOLLOUT);
            else
                rewatch(&k->out, EPOLLIN | EPOLLOUT);
            return;
        }
        if (n < 0)
            break;
        a->waiting_at += (uint32_t)n;
    }
    free(a->waiting);
    a->waiting = NULL;
    a->waiting_at = a->waiting_length = 0;
    rewatch(&a->source, EPOLLIN);
}

static void attach_readable(struct attach *a) {
    struct container *k = a->container;
    ssize_t n = recv(a->source.fd, chunk, ATTACH_CHUNK, MSG_DONTWAIT);
    if (n < 0 && errno == EAGAIN)
        return;
    if (n <= 0) {
        if (k->stdin_once && (a->flags & ATTACH_STDIN))
            close_input(k);
        drop_attach(a);
        return;
    }
    if (!(a->flags & ATTACH_STDIN) || input_fd(k) < 0)
        return;
    a->waiting = malloc((size_t)n);
    if (!a->waiting) {
        drop_attach(a);
        return;
    }
    memcpy(a->waiting, chunk, (size_t)n);
    a->waiting_length = (uint32_t)n, a->waiting_at = 0;
    rewatch(&a->source, 0);
    push_input(a);
}

static void input_writable(struct container *k) {
    if (k->in.fd >= 0)
        rewatch(&k->in, 0);
    else
        rewatch(&k->out, EPOLLIN);
    for (struct attach *a = k->attached; a; a = a->next)
        if (!a->doomed && a->waiting)
            push_input(a);
}

/* ---- launches and exits ---- */

static void launch_failed(struct container *k, const struct launch_error *error) {
    answer_error(k->asker, k->asker_seq, (int)error->errnum, error->op, error->op_index, error->detail);
    k->asker = NULL;
}

/* The child has said something, or its exec has closed the socket. */
static void pump_launch(struct container *k) {
    enum launch_state was = k->launch.state, is = launch_pump(&k->launch);
    if (k->launch.terminal_master >= 0 && k->out.fd < 0 && !k->is_exec && k->state == CREATING) {
        fcntl(k->launch.terminal_master, F_SETFL, O_NONBLOCK);
        watch(&k->out, SOURCE_STDOUT, fcntl(k->launch.terminal_master, F_DUPFD_CLOEXEC, 6), k, EPOLLIN);
    }
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
        epoll_ctl(pod.epoll, EPOLL_CTL_DEL, k->status.fd, NULL);
        k->status.fd = -1;
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
    } else if (is == LAUNCH_FAILED) {
        epoll_ctl(pod.epoll, EPOLL_CTL_DEL, k->status.fd, NULL);
        k->status.fd = -1;
        launch_failed(k, &k->launch.error);
        sys_pidfd_send_signal(k->launch.pidfd, SIGKILL);
        /* The exit that follows releases it: it never ran, so it leaves no record (create, exec) or one that StartContainer's error explains. */
    }
}

static void container_ended(struct container *k, int status) {
    if (k->launch.state != LAUNCH_RUNNING)
        pump_launch(k);
    k->signal = WIFSIGNALED(status) ? (uint32_t)WTERMSIG(status) : 0;
    k->exit_code = WIFSIGNALED(status) ? 128 + k->signal : (uint32_t)WEXITSTATUS(status);
    k->finished_ns = now_ns(CLOCK_REALTIME);
    int never_ran = k->state == CREATING || (k->is_exec && k->launch.state != LAUNCH_RUNNING);
    if (never_ran) {
        if (k->asker)
            answer_error(k->asker, k->asker_seq, EPROTO, "launch", UINT32_MAX, "the process ended before its exec (killed?)");
        k->state = EXITED;
        release(k);
        return;
    }
    if (k->asker) { /* killed between gate and exec */
        answer_error(k->asker, k->asker_seq, ESRCH, "launch", UINT32_MAX, "the process was killed before its exec");
        k->asker = NULL;
    }
    if (!k->is_exec) {
        for (struct container *e = pod.containers; e; e = e->next)
            if (e->is_exec && e->state != EXITED && e->cgroup >= 0 && k->kill_by_cgroup)
                kill_tree(e->cgroup, e->v2);
        if (k->kill_by_cgroup && k->cgroup >= 0)
            kill_tree(k->cgroup, k->v2);
    }
    k->state = EXITED;
    pump_output(k, &k->out, 1, 1 << 16);
    pump_output(k, &k->err, 2, 1 << 16);
    crilog_close(&k->log);
    close_stdio(k);
    uint64_t kills = oom_kill_count(k->oom, k->v2);
    k->oom_kills = kills > k->oom_base ? kills - k->oom_base : k->oom_kills;
    int oom_killed = k->oom_kills && k->exit_code == 137;
    if (!k->is_exec) {
        struct exit_record record = {.id = k->id, .pid = (uint32_t)k->pid, .exit_code = k->exit_code, .signal = k->signal, .oom_killed = (uint32_t)oom_killed,
                                     .start_time = k->start_time, .oom_kills = k->oom_kills, .finished_ns = k->finished_ns};
        exit_record_write(FD_POD_DIR, &record);
    }
    announce_exit(k, oom_killed);
    if (k->is_exec) {
        release(k);
        return;
    }
    unwatch(&k->oom_event);
    close_fd(&k->cgroup), close_fd(&k->oom);
    k->cgroup = k->oom = -1;
}

static void reap(void) {
    struct signalfd_siginfo info;
    while (read(pod.signals.fd, &info, sizeof info) == (ssize_t)sizeof info)
        ;
    int status;
    for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;) {
        struct container *k = pod.containers;
        while (k && (k->pid != pid || k->state == EXITED))
            k = k->next;
        if (k)
            container_ended(k, status);
    }
}

/* ---- requests ---- */

static int valid_id(const struct field *f) {
    if (!f->count || f->count >= ID_MAX)
        return 0;
    for (uint32_t i = 0; i < f->count; i++)
        if (!((f->s[i] >= 'a' && f->s[i] <= 'z') || (f->s[i] >= 'A' && f->s[i] <= 'Z') || (f->s[i] >= '0' && f->s[i] <= '9') || f->s[i] == '-' || f->s[i] == '_'))
            return 0;
    return 1;
}

/* Maps the sealed memfd that carries a plan; NULL with errno. */
static uint8_t *map_plan(int fd, size_t *length) {
    struct stat st;
    int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0 || (seals & (F_SEAL_WRITE | F_SEAL_SHRINK)) != (F_SEAL_WRITE | F_SEAL_SHRINK) || fstat(fd, &st) || st.st_size <= 0 || st.st_size > 8 << 20) {
        errno = EPROTO;
        return NULL;
    }
    *length = (size_t)st.st_size;
    void *at = mmap(NULL, *length, PROT_READ, MAP_PRIVATE, fd, 0);
    return at == MAP_FAILED ? NULL : at;
}

static int own_namespace(const char *name, uint64_t flag) {
    char path[40];
    snprintf(path, sizeof path, "/proc/self/ns/%s", name);
    return pod.unshared & flag ? open(path, O_RDONLY | O_CLOEXEC) : -1;
}

/* The namespaces that a pod plan has made for us. */
static uint64_t unshared_by(const struct plan *plan) {
    struct plan_cursor cursor;
    struct op op;
    uint64_t flags = 0;
    for (plan_rewind(plan, &cursor); plan_next(&cursor, &op);)
        if (strcmp(op.kind->name, "pod_unshare") == 0)
            flags |= op.f[0].n;
    return flags;
}

static void answer_namespaces(struct connection *c, uint32_t seq) {
    SCOPED_FD net = own_namespace("net", CLONE_NEWNET), ipc = own_namespace("ipc", CLONE_NEWIPC), uts = own_namespace("uts", CLONE_NEWUTS);
    SCOPED_FD netlink = net < 0 ? -1 : socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    build_begin(&reply, MSG_pod_ok, seq);
    build_fd(&reply, net), build_fd(&reply, netlink), build_fd(&reply, ipc), build_fd(&reply, uts), build_fd(&reply, pod.pidns);
    build_u32(&reply, (uint32_t)pod.init);
    send_built(c);
}

static void do_pod(struct connection *c, const struct message *m, const int *fds) {
    struct launch_error error = {0};
    struct plan plan;
    size_t length = 0;
    uint8_t *bytes = m->f[0].n == FD_NONE || pod.is_pod ? NULL : map_plan(fds[m->f[0].n], &length);
    if (!bytes) {
        answer_error(c, m->seq, pod.is_pod ? EEXIST : EPROTO, "pod", UINT32_MAX, pod.is_pod ? "the pod is made already" : "the plan is no sealed memfd");
        return;
    }
    if (plan_decode(&plan, bytes, length, NULL, 0, &error) || plan_run_pod(&plan, &pod.init, &pod.pidns, &error)) {
        answer_error(c, m->seq, (int)error.errnum, error.op, error.op_index, error.detail);
    } else {
        pod.is_pod = 1;
        pod.unshared = unshared_by(&plan);
        answer_namespaces(c, m->seq);
    }
    munmap(bytes, length);
}

static struct container *new_container(const struct field *id) {
    struct container *k = calloc(1, sizeof *k);
    if (!k)
        return NULL;
    memcpy(k->id, id->s, id->count);
    k->cgroup = k->oom = -1;
    k->launch = (struct launch){.pidfd = -1, .status = -1, .terminal_master = -1};
    k->status.fd = k->out.fd = k->err.fd = k->in.fd = k->oom_event.fd = -1;
    k->log.fd = -1;
    k->next = pod.containers;
    pod.containers = k;
    return k;
}

static int take_fd(int *fds, const struct field *f) {
    if (f->n == FD_NONE)
        return -1;
    int fd = fds[f->n];
    fds[f->n] = -1;
    return fd;
}

/* v1 tells of an OOM through an eventfd registered with the memory cgroup; v2 has memory.events, which is read at the exit. */
static void watch_oom(struct container *k) {
    if (k->oom < 0)
        return;
    k->oom_base = oom_kill_count(k->oom, k->v2);
    if (k->v2)
        return;
    int event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    SCOPED_FD control = openat(k->oom, "memory.oom_control", O_RDONLY | O_CLOEXEC), door = openat(k->oom, "cgroup.event_control", O_WRONLY | O_CLOEXEC);
    char text[48];
    int n = snprintf(text, sizeof text, "%d %d", event, control);
    if (event >= 0 && control >= 0 && door >= 0 && write(door, text, (size_t)n) == n)
        watch(&k->oom_event, SOURCE_OOM, event, k, EPOLLIN);
    else
        close_fd(&event);
}

static int pipe_for(int *ours, int *theirs, int we_read) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC))
        return -1;
    *ours = ends[!we_read], *theirs = ends[we_read];
    return fcntl(*ours, F_SETFL, O_NONBLOCK);
}

/* Decodes the plan, clones. On failure the container is released and the caller answered. */
static void begin(struct connection *c, const struct message *m, struct container *k, int plan_fd, const int *fds, const struct field *indexes, const int stdio[3]) {
    struct launch_error error = {.op_index = UINT32_MAX};
    struct plan plan;
    size_t length = 0;
    int table[MESSAGE_FDS_MAX];
    uint8_t *bytes = plan_fd < 0 ? NULL : map_plan(plan_fd, &length);
    for (uint32_t i = 0; i < indexes->count && i < MESSAGE_FDS_MAX; i++)
        table[i] = fds[item_u32(indexes, i)];
    struct launch_context context = {.pod_pidns = pod.pidns, .container_pidfd = live_pidfd, .stdin_fd = stdio[0], .stdout_fd = stdio[1], .stderr_fd = stdio[2]};
    if (!bytes) {
        error.errnum = EPROTO;
        snprintf(error.op, sizeof error.op, "plan");
        snprintf(error.detail, sizeof error.detail, "the plan is no sealed memfd");
    } else if (plan_decode(&plan, bytes, length, table, indexes->count, &error) == 0 && plan.is_pod) {
        error.errnum = EPROTO;
        snprintf(error.op, sizeof error.op, "plan");
        snprintf(error.detail, sizeof error.detail, "a pod plan makes no container");
    } else if (!error.errnum) {
        launch_begin(&k->launch, &plan, &context, &error);
    }
    if (bytes)
        munmap(bytes, length);
    if (error.errnum) {
        answer_error(c, m->seq, (int)error.errnum, error.op, error.op_index, error.detail);
        release(k);
        return;
    }
    k->pid = k->launch.pid;
    k->start_time = start_time_of(k->pid);
    k->asker = c, k->asker_seq = m->seq;
    watch(&k->status, SOURCE_STATUS, k->launch.status, k, EPOLLIN);
}

static void do_create(struct connection *c, const struct message *m, int *fds) {
    const struct field *f = m->f;
    if (!valid_id(&f[0]) || find(f[0].s)) {
        answer_error(c, m->seq, valid_id(&f[0]) ? EEXIST : EINVAL, "create", UINT32_MAX, "container id is taken or malformed");
        return;
    }
    struct container *k = new_container(&f[0]);
    if (!k) {
        answer_error(c, m->seq, ENOMEM, "create", UINT32_MAX, "no memory for the container");
        return;
    }
    uint32_t flags = (uint32_t)f[3].n;
    int theirs[3] = {-1, -1, -1}, ours[3] = {-1, -1, -1}, failed = 0;
    k->v2 = !!(flags & CREATE_V2), k->kill_by_cgroup = !!(flags & CREATE_KILL_BY_CGROUP), k->stdin_once = !!(flags & CREATE_STDIN_ONCE);
    crilog_open(&k->log, take_fd(fds, &f[4]), (uint32_t)f[7].n);
    k->cgroup = take_fd(fds, &f[5]), k->oom = take_fd(fds, &f[6]);
    watch_oom(k);
    if (!(flags & CREATE_TTY)) {
        failed |= pipe_for(&ours[1], &theirs[1], 1) | pipe_for(&ours[2], &theirs[2], 1);
        if (flags & CREATE_STDIN)
            failed |= pipe_for(&ours[0], &theirs[0], 0);
        watch(&k->out, SOURCE_STDOUT, ours[1], k, EPOLLIN);
        watch(&k->err, SOURCE_STDERR, ours[2], k, EPOLLIN);
        watch(&k->in, SOURCE_STDIN, ours[0], k, 0);
    }
    if (failed) {
        answer_error(c, m->seq, EMFILE, "create", UINT32_MAX, "no pipes for stdio");
        release(k);
    } else {
        begin(c, m, k, f[1].n == FD_NONE ? -1 : fds[f[1].n], fds, &f[2], theirs);
    }
    for (int i = 0; i < 3; i++)
        close_fd(&theirs[i]);
}

static void do_exec(struct connection *c, const struct message *m, int *fds) {
    const struct field *f = m->f;
    if (!valid_id(&f[0]) || find(f[0].s) || live_pidfd(NULL, f[1].s) < 0) {
        answer_error(c, m->seq, live_pidfd(NULL, f[1].s) < 0 ? ESRCH : EINVAL, "exec", UINT32_MAX, "the container does not run, or the exec id is taken or malformed");
        return;
    }
    struct container *k = new_container(&f[0]);
    if (!k) {
        answer_error(c, m->seq, ENOMEM, "exec", UINT32_MAX, "no memory for the exec");
        return;
    }
    uint32_t flags = (uint32_t)f[4].n;
    int stdio[3];
    k->is_exec = 1, k->v2 = !!(flags & EXEC_V2), k->kill_on_disconnect = !!(flags & EXEC_KILL_ON_DISCONNECT), k->runner = c;
    k->cgroup = take_fd(fds, &f[5]);
    k->deadline_ns = f[6].n ? now_ns(CLOCK_MONOTONIC) + f[6].n * 1000000u : 0;
    for (int i = 0; i < 3; i++) {
        const struct field *pipe_field = &f[i == 0 ? 9 : 6 + i];
        stdio[i] = pipe_field->n == FD_NONE ? -1 : fds[pipe_field->n];
    }
    begin(c, m, k, f[2].n == FD_NONE ? -1 : fds[f[2].n], fds, &f[3], stdio);
}

static void do_attach(struct connection *c, const struct message *m, struct container *k) {
    int ends[2], count = 0;
    for (struct attach *a = k->attached; a; a = a->next)
        count += !a->doomed;
    struct attach *a = count < ATTACH_MAX ? calloc(1, sizeof *a) : NULL;
    if (!a || k->state == EXITED || k->is_exec || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends)) {
        answer_error(c, m->seq, k->state == EXITED ? ESRCH : EMFILE, "attach", UINT32_MAX, k->state == EXITED ? "the container has ended" : "too many attached clients");
        free(a);
        return;
    }
    a->container = k, a->flags = (uint32_t)m->f[1].n, a->next = k->attached;
    k->attached = a;
    watch(&a->source, SOURCE_ATTACH, ends[0], a, EPOLLIN);
    build_begin(&reply, MSG_fd, m->seq);
    build_fd(&reply, ends[1]);
    send_built(c);
    close(ends[1]);
}

static void do_hello(struct connection *c, uint32_t seq) {
    char text[ID_MAX + 160];
    uint32_t count = 0;
    for (struct container *k = pod.containers; k; k = k->next)
        count++;
    build_begin(&reply, MSG_hello_ok, seq);
    build_u32(&reply, MESSAGE_VERSION);
    build_u32(&reply, (uint32_t)getpid());
    build_u64(&reply, start_time_of(getpid()));
    build_u32(&reply, count);
    for (struct container *k = pod.containers; k; k = k->next) {
        snprintf(text, sizeof text, "%s%s %s %d %" PRIu64 " %u %u %" PRIu64 " %" PRIu64, k->is_exec ? "exec:" : "", k->id, state_names[k->state], (int)k->pid,
                 k->start_time, k->exit_code, k->signal, k->oom_kills, k->finished_ns);
        build_str(&reply, text);
    }
    send_built(c);
}

static void do_keep(struct connection *c, const struct message *m, int *fds) {
    int slot = -1;
    for (int i = 0; i < KEPT_MAX; i++) {
        if (strcmp(pod.kept[i].name, m->f[0].s) == 0 && m->f[0].count) {
            close_fd(&pod.kept[i].fd);
            slot = i;
            break;
        }
        if (slot < 0 && !pod.kept[i].name[0])
            slot = i;
    }
    if (slot < 0 || !m->f[0].count || m->f[0].count >= sizeof pod.kept[0].name || m->f[1].n == FD_NONE) {
        answer_error(c, m->seq, EINVAL, "keep_fd", UINT32_MAX, "no fd, a malformed name, or 16 are kept already");
        return;
    }
    memcpy(pod.kept[slot].name, m->f[0].s, m->f[0].count + 1);
    pod.kept[slot].fd = take_fd(fds, &m->f[1]);
    answer_ok(c, m->seq);
}

static void do_kept(struct connection *c, const struct message *m) {
    for (int i = 0; i < KEPT_MAX; i++)
        if (m->f[0].count && strcmp(pod.kept[i].name, m->f[0].s) == 0) {
            build_begin(&reply, MSG_fd, m->seq);
            build_fd(&reply, pod.kept[i].fd);
            send_built(c);
            return;
        }
    answer_error(c, m->seq, ENOENT, "kept_fd", UINT32_MAX, m->f[0].s);
}

/* The monitor is in the pod's network namespace: the socket is the pod's. The caller waits for the connection to complete. */
static void do_connect(struct connection *c, const struct message *m) {
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } to = {0};
    int v6 = m->f[1].n == AF_INET6;
    if (v6)
        to.v6 = (struct sockaddr_in6){.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)m->f[0].n), .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    else
        to.v4 = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)m->f[0].n), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    SCOPED_FD fd = socket(v6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || (connect(fd, &to.any, v6 ? sizeof to.v6 : sizeof to.v4) && errno != EINPROGRESS)) {
        answer_error(c, m->seq, errno, "connect", UINT32_MAX, "localhost of the pod");
        return;
    }
    build_begin(&reply, MSG_fd, m->seq);
    build_fd(&reply, fd);
    send_built(c);
}

static void do_shutdown(struct connection *c, const struct message *m) {
    int living = 0;
    for (struct container *k = pod.containers; k; k = k->next)
        living += k->state != EXITED;
    if (living && !m->f[0].n) {
        answer_error(c, m->seq, EBUSY, "shutdown", UINT32_MAX, "containers live");
        return;
    }
    for (struct container *k = pod.containers; k; k = k->next)
        if (k->state != EXITED)
            kill_all(k, SIGKILL);
    if (pod.init > 0)
        kill(pod.init, SIGKILL);
    pod.ending = 1;
    answer_ok(c, m->seq);
}

static void do_remove(struct connection *c, const struct message *m, struct container *k) {
    if (k->state == RUNNING || k->state == STARTING) {
        answer_error(c, m->seq, EBUSY, "remove", UINT32_MAX, "it runs");
        return;
    }
    if (k->state != EXITED) { /* at its gate: it never ran, so it leaves no record */
        kill_all(k, SIGKILL);
        waitpid(k->pid, NULL, 0);
    }
    release(k);
    answer_ok(c, m->seq);
}

static void handle(struct connection *c, const struct message *m, int *fds) {
    struct container *k = NULL;
    switch (m->code) {
    case MSG_start:
    case MSG_kill:
    case MSG_remove:
    case MSG_resize:
    case MSG_reopen_log:
    case MSG_attach:
    case MSG_close_stdin:
        if (!(k = find(m->f[0].s))) {
            answer_error(c, m->seq, ENOENT, m->name, UINT32_MAX, "no such container");
            return;
        }
    }
    switch (m->code) {
    case MSG_hello:
        do_hello(c, m->seq);
        break;
    case MSG_pod:
        do_pod(c, m, fds);
        break;
    case MSG_namespaces:
        answer_namespaces(c, m->seq);
        break;
    case MSG_create:
        do_create(c, m, fds);
        break;
    case MSG_start:
        if (k->state != CREATED || launch_open_gate(&k->launch)) {
            answer_error(c, m->seq, EINVAL, "start", UINT32_MAX, state_names[k->state]);
            break;
        }
        k->state = STARTING;
        k->asker = c, k->asker_seq = m->seq;
        break;
    case MSG_kill:
        if (k->state == EXITED) {
            answer_error(c, m->seq, ESRCH, "kill", UINT32_MAX, "it has ended");
            break;
        }
        if (m->f[2].n)
            kill_all(k, (int)m->f[1].n);
        else if (sys_pidfd_send_signal(k->launch.pidfd, (int)m->f[1].n)) {
            answer_error(c, m->seq, errno, "kill", UINT32_MAX, "signal");
            break;
        }
        answer_ok(c, m->seq);
        break;
    case MSG_remove:
        do_remove(c, m, k);
        break;
    case MSG_exec:
        do_exec(c, m, fds);
        break;
    case MSG_resize: {
        struct winsize size = {.ws_row = (unsigned short)m->f[1].n, .ws_col = (unsigned short)m->f[2].n};
        if (k->launch.terminal_master < 0 || ioctl(k->launch.terminal_master, TIOCSWINSZ, &size))
            answer_error(c, m->seq, k->launch.terminal_master < 0 ? ENOTTY : errno, "resize", UINT32_MAX, "terminal");
        else
            answer_ok(c, m->seq);
        break;
    }
    case MSG_reopen_log:
        crilog_reopen(&k->log, take_fd(fds, &m->f[1]));
        answer_ok(c, m->seq);
        break;
    case MSG_attach:
        do_attach(c, m, k);
        break;
    case MSG_close_stdin:
        close_input(k);
        answer_ok(c, m->seq);
        break;
    case MSG_shutdown:
        do_shutdown(c, m);
        break;
    case MSG_connect:
        do_connect(c, m);
        break;
    case MSG_keep_fd:
        do_keep(c, m, fds);
        break;
    case MSG_kept_fd:
        do_kept(c, m);
        break;
    }
}

/* ---- connections ---- */

static void disconnect(struct connection *c) {
    for (struct container *k = pod.containers; k; k = k->next) {
        if (k->asker == c)
            k->asker = NULL;
        if (k->runner == c) {
            k->runner = NULL;
            if (k->kill_on_disconnect && k->state != EXITED)
                kill_all(k, SIGKILL);
        }
    }
    unwatch(&c->source);
    for (struct connection **at = &pod.connections; *at; at = &(*at)->next)
        if (*at == c) {
            *at = c->next;
            break;
        }
    free(c);
}

static void add_connection(int fd) {
    struct ucred peer;
    socklen_t size = sizeof peer;
    int count = 0;
    for (struct connection *c = pod.connections; c; c = c->next)
        count++;
    struct connection *c = NULL;
    if (count < CONNECTIONS_MAX && getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 && peer.uid == geteuid())
        c = calloc(1, sizeof *c);
    if (!c) {
        close(fd);
        return;
    }
    fcntl(fd, F_SETFL, O_NONBLOCK);
    watch(&c->source, SOURCE_CONNECTION, fd, c, EPOLLIN);
    c->next = pod.connections;
    pod.connections = c;
}

static void connection_readable(struct connection *c) {
    static uint8_t bytes[MESSAGE_BYTES_MAX];
    union {
        char space[CMSG_SPACE(sizeof(int) * MESSAGE_FDS_MAX)];
        struct cmsghdr align;
    } control;
    int fds[MESSAGE_FDS_MAX];
    uint32_t count = 0;
    struct iovec iov = {bytes, sizeof bytes};
    struct msghdr header = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.space, .msg_controllen = sizeof control.space};
    ssize_t n = recvmsg(c->source.fd, &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n > 0)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wsign-conversion" /* musl's CMSG_NXTHDR */
        for (struct cmsghdr *cmsg = CMSG_FIRSTHDR(&header); cmsg; cmsg = CMSG_NXTHDR(&header, cmsg))
#pragma GCC diagnostic pop
            if (cmsg->cmsg_level == SOL_SOCKET && cmsg->cmsg_type == SCM_RIGHTS) {
                uint32_t here = (uint32_t)((cmsg->cmsg_len - CMSG_LEN(0)) / sizeof(int));
                memcpy(fds + count, CMSG_DATA(cmsg), here * sizeof(int));
                count += here;
            }
    struct message message;
    if (n <= 0) {
        c->doomed = 1;
    } else if ((header.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) || message_decode(&message, bytes, (size_t)n, count)) {
        answer_error(c, 0, EPROTO, "message", UINT32_MAX, "request does not parse");
        c->doomed = 1;
    } else {
        handle(c, &message, fds);
    }
    for (uint32_t i = 0; i < count; i++)
        close_fd(&fds[i]);
}

/* ---- the loop ---- */

static void dispatch(struct source *source, uint32_t events) {
    struct container *k = source->owner;
    switch (source->kind) {
    case SOURCE_LISTENER: {
        int fd = accept4(source->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd >= 0)
            add_connection(fd);
        break;
    }
    case SOURCE_CONNECTION:
        connection_readable(source->owner);
        break;
    case SOURCE_SIGNAL:
        reap();
        break;
    case SOURCE_STATUS:
        pump_launch(k);
        break;
    case SOURCE_STDOUT:
        if (events & EPOLLOUT)
            input_writable(k);
        if (events & ~(uint32_t)EPOLLOUT)
            pump_output(k, source, 1, 4);
        break;
    case SOURCE_STDERR:
        pump_output(k, source, 2, 4);
        break;
    case SOURCE_STDIN:
        if (events & EPOLLOUT)
            input_writable(k);
        else
            close_input(k); /* EPOLLERR: the reading end is gone */
        break;
    case SOURCE_OOM: {
        uint64_t value, kills;
        if (read(source->fd, &value, sizeof value) == (ssize_t)sizeof value && (kills = oom_kill_count(k->oom, k->v2)) > k->oom_base + k->oom_kills) {
            k->oom_kills = kills - k->oom_base;
            announce_oom(k);
        }
        break;
    }
    case SOURCE_ATTACH:
        attach_readable(source->owner);
        break;
    }
}

/* Kills execs whose time is over; returns the milliseconds until the next is, -1: none. */
static int next_deadline(void) {
    uint64_t soonest = UINT64_MAX, now = now_ns(CLOCK_MONOTONIC);
    for (struct container *k = pod.containers; k; k = k->next) {
        if (!k->deadline_ns || k->state == EXITED)
            continue;
        if (k->deadline_ns <= now) {
            k->timed_out = 1;
            kill_all(k, SIGKILL);
            k->deadline_ns = now + 1000000000u; /* once more, should something have slipped through */
        }
        if (k->deadline_ns < soonest)
            soonest = k->deadline_ns;
    }
    return soonest == UINT64_MAX ? -1 : (int)((soonest - now) / 1000000u) + 1;
}

static void sweep(void) {
    for (struct connection *c = pod.connections, *next; c; c = next) {
        next = c->next;
        if (c->doomed)
            disconnect(c);
    }
    for (struct container *k = pod.containers; k; k = k->next)
        for (struct attach **at = &k->attached; *at;) {
            struct attach *a = *at;
            if (a->doomed) {
                *at = a->next;
                free(a);
            } else {
                at = &a->next;
            }
        }
}

static int lives(void) {
    for (struct container *k = pod.containers; k; k = k->next)
        if (k->state != EXITED)
            return 1;
    return 0;
}

static void own_oom_score(void) {
    SCOPED_FD fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    /* Lowering may be forbidden (no CAP_SYS_RESOURCE): then the monitor is as killable as its daemon, and recovery says MonitorLost. */
    if (fd >= 0 && write(fd, "-999", 4) != 4)
        return;
}

int main(int argc, char **argv) {
    if (argc != 3 || strcmp(argv[1], "--pod") != 0 || fcntl(FD_POD_DIR, F_GETFD) < 0 || fcntl(FD_LISTENER, F_GETFD) < 0) {
        fprintf(stderr, "usage: orlop-monitor --pod ID, started by orlopd with fds 3, 4 and 5\n");
        return 2;
    }
    sys_close_range(6, ~0u, 0);
    for (int fd = FD_POD_DIR; fd <= FD_DAEMON; fd++)
        fcntl(fd, F_SETFD, FD_CLOEXEC);
    setsid();
    umask(0);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    prctl(PR_SET_DUMPABLE, 0);
    own_oom_score();
    if (fchdir(FD_POD_DIR))
        return 1;

    sigset_t set;
    sigfillset(&set);
    sigprocmask(SIG_BLOCK, &set, NULL); /* nothing but SIGKILL ends a monitor */
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    pod.epoll = epoll_create1(EPOLL_CLOEXEC);
    watch(&pod.signals, SOURCE_SIGNAL, signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK), NULL, EPOLLIN);
    watch(&pod.listener, SOURCE_LISTENER, FD_LISTENER, NULL, EPOLLIN);
    fcntl(FD_LISTENER, F_SETFL, O_NONBLOCK);
    add_connection(FD_DAEMON);

    while (!pod.ending || lives()) {
        struct epoll_event events[16];
        int n = epoll_wait(pod.epoll, events, 16, next_deadline());
        /* One event a round when something may be freed by it: a freed owner must not be met again in the same batch. */
        for (int i = 0; i < n; i++) {
            struct source *source = events[i].data.ptr;
            int frees = source->kind == SOURCE_SIGNAL || source->kind == SOURCE_CONNECTION;
            if (frees && i > 0)
                break;
            dispatch(source, events[i].events);
            if (frees)
                break;
        }
        sweep();
    }
    return 0;
}
