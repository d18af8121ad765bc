/* control.c: the daemon's side of the monitor: connections, requests in, replies and events out (messages.def). A daemon that goes away is normal. */
#include "monitor.h"

#include "plan.h"

#include <arpa/inet.h>
#include <inttypes.h>
#include <linux/netlink.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>

#define CONNECTIONS_MAX 16
#define TIMEOUT_MS_MAX (1000ull * 60 * 60 * 24 * 365)

struct builder reply;

/* ---- replies and events ---- */

/* A daemon that does not read loses its connection, not our time; it finds everything again through hello and the exit records. */
void send_built(struct connection *c) {
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

void answer_ok(struct connection *c, uint32_t seq) {
    build_begin(&reply, MSG_ok, seq);
    build_u32(&reply, 0);
    send_built(c);
}

void answer_error(struct connection *c, uint32_t seq, int errnum, const char *op, uint32_t index, const char *detail) {
    build_begin(&reply, MSG_error, seq);
    build_u32(&reply, (uint32_t)errnum);
    build_str(&reply, op);
    build_u32(&reply, index);
    build_str(&reply, detail);
    send_built(c);
}

static void refuse(struct connection *c, const struct message *m, int errnum, const char *detail) {
    answer_error(c, m->seq, errnum, m->name, UINT32_MAX, detail);
}

static void answer_fd(struct connection *c, uint32_t seq, int fd) {
    build_begin(&reply, MSG_fd, seq);
    build_fd(&reply, fd);
    send_built(c);
}

void announce_exit(const struct container *k, int oom_killed) {
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

void announce_oom(const struct container *k) {
    for (struct connection *c = pod.connections; c; c = c->next) {
        build_begin(&reply, MSG_oom, 0);
        build_str(&reply, k->id);
        build_u64(&reply, k->oom_kills);
        send_built(c);
    }
}

/* ---- fields ---- */

/* The fd becomes ours; what nobody takes is closed when the request is done. */
static int take_fd(int *fds, const struct field *f) {
    if (f->n == FD_NONE)
        return -1;
    int fd = fds[f->n];
    fds[f->n] = -1;
    return fd;
}

static int lent_fd(const int *fds, const struct field *f) { return f->n == FD_NONE ? -1 : fds[f->n]; }

/* The id becomes a file name (exit record). */
static int valid_id(const struct field *f) {
    if (!f->count || f->count >= ID_MAX)
        return 0;
    for (uint32_t i = 0; i < f->count; i++)
        if (!((f->s[i] >= 'a' && f->s[i] <= 'z') || (f->s[i] >= 'A' && f->s[i] <= 'Z') || (f->s[i] >= '0' && f->s[i] <= '9') || f->s[i] == '-' || f->s[i] == '_'))
            return 0;
    return 1;
}

/* Maps the sealed memfd that carries a plan, so that what is validated is what is run; NULL with errno. */
static uint8_t *map_plan(int fd, size_t *length) {
    const int needed = F_SEAL_WRITE | F_SEAL_SHRINK;
    struct stat st;
    int seals = fd < 0 ? -1 : fcntl(fd, F_GET_SEALS);
    if (seals < 0 || (seals & needed) != needed || fstat(fd, &st) || st.st_size <= 0 || st.st_size > (off_t)ORLOP_PLAN_BYTES_MAX) {
        errno = EPROTO;
        return NULL;
    }
    *length = (size_t)st.st_size;
    void *at = mmap(NULL, *length, PROT_READ, MAP_PRIVATE, fd, 0);
    return at == MAP_FAILED ? NULL : at;
}

/* ---- the pod ---- */

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

static void do_namespaces(struct connection *c, const struct message *m) {
    SCOPED_FD net = own_namespace("net", CLONE_NEWNET), ipc = own_namespace("ipc", CLONE_NEWIPC), uts = own_namespace("uts", CLONE_NEWUTS);
    SCOPED_FD netlink = net < 0 ? -1 : socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    build_begin(&reply, MSG_pod_ok, m->seq);
    build_fd(&reply, net), build_fd(&reply, netlink), build_fd(&reply, ipc), build_fd(&reply, uts), build_fd(&reply, pod.pidns);
    build_u32(&reply, (uint32_t)pod.init);
    send_built(c);
}

static void do_pod(struct connection *c, const struct message *m, const int *fds) {
    struct launch_error error = {.op_index = UINT32_MAX};
    struct plan plan;
    size_t length = 0;
    if (pod.is_made) {
        refuse(c, m, EEXIST, "the pod is made already");
        return;
    }
    uint8_t *bytes = map_plan(lent_fd(fds, &m->f[0]), &length);
    if (!bytes) {
        refuse(c, m, errno, "the plan is no sealed memfd");
        return;
    }
    if (plan_decode(&plan, bytes, length, NULL, 0, &error) || plan_run_pod(&plan, &pod.init, &pod.pidns, &error)) {
        answer_error(c, m->seq, (int)error.errnum, error.op, error.op_index, error.detail);
    } else {
        pod.is_made = 1;
        pod.unshared = unshared_by(&plan);
        pod.init_pidfd = pod.init > 0 ? sys_pidfd_open(pod.init) : -1; /* our child, not reaped yet: the number is still its own */
        do_namespaces(c, m);
    }
    munmap(bytes, length);
}

/* ---- containers ---- */

/* A child must not inherit the monitor's own protection from the OOM killer: without the op a container gets what the daemon has, an exec what its container has. */
static void unprotect(const struct container *k, const struct plan *plan) {
    struct plan_cursor cursor;
    struct op op;
    char path[40], text[16];
    if (!pod.oom_score[0])
        return;
    for (plan_rewind(plan, &cursor); plan_next(&cursor, &op);)
        if (strcmp(op.kind->name, "oom_score_adj") == 0)
            return;
    memcpy(text, pod.oom_score, sizeof text);
    if (k->of) {
        snprintf(path, sizeof path, "/proc/%d/oom_score_adj", (int)k->of->pid);
        SCOPED_FD from = open(path, O_RDONLY | O_CLOEXEC);
        ssize_t n = from < 0 ? -1 : read(from, text, sizeof text - 1);
        text[n > 0 ? n : 0] = 0;
    }
    snprintf(path, sizeof path, "/proc/%d/oom_score_adj", (int)k->launch.pid);
    SCOPED_FD to = open(path, O_WRONLY | O_CLOEXEC);
    if (to >= 0 && write(to, text, strlen(text)) < 0)
        return; /* raising is always allowed: it has ended */
}

/* Decodes the plan, clones. On failure the container is released and the caller answered; else the reply comes when the child has spoken. */
static void begin(struct connection *c, const struct message *m, struct container *k, int plan_fd, const int *fds, const struct field *indexes, const int stdio[3]) {
    struct launch_error error = {.op_index = UINT32_MAX};
    struct plan plan;
    size_t length = 0;
    int table[MESSAGE_FDS_MAX] = {0}, failed = 1;
    uint8_t *bytes = map_plan(plan_fd, &length);
    for (uint32_t i = 0; i < indexes->count && i < MESSAGE_FDS_MAX; i++)
        table[i] = fds[item_u32(indexes, i)];
    struct launch_context context = {.pod_pidns = pod.pidns, .container_pidfd = live_pidfd, .stdin_fd = stdio[0], .stdout_fd = stdio[1], .stderr_fd = stdio[2]};
    if (!bytes || indexes->count > MESSAGE_FDS_MAX) {
        error.errnum = EPROTO;
        snprintf(error.op, sizeof error.op, "plan");
        snprintf(error.detail, sizeof error.detail, bytes ? "too many fds" : "the plan is no sealed memfd");
    } else if (plan_decode(&plan, bytes, length, table, indexes->count, &error) == 0) {
        if (plan.is_pod) {
            error.errnum = EPROTO;
            snprintf(error.op, sizeof error.op, "plan");
            snprintf(error.detail, sizeof error.detail, "a pod plan makes no container");
        } else {
            failed = launch_begin(&k->launch, &plan, &context, &error);
            if (!failed)
                unprotect(k, &plan);
        }
    }
    if (bytes)
        munmap(bytes, length);
    if (failed) {
        answer_error(c, m->seq, (int)error.errnum, error.op, error.op_index, error.detail);
        release(k);
        return;
    }
    k->pid = k->launch.pid;
    k->start_time = start_time_of(k->pid);
    k->asker = c, k->asker_seq = m->seq;
    /* A duplicate, because launch_pump() closes its own: a close does not take a socket out of epoll while a child that was cloned in between still has it. */
    watch(&k->status, SOURCE_STATUS, fcntl(k->launch.status, F_DUPFD_CLOEXEC, FD_DAEMON + 1), k, EPOLLIN);
}

static struct container *admit(struct connection *c, const struct message *m) {
    struct container *k = NULL;
    if (pod.ending)
        refuse(c, m, ESHUTDOWN, "the monitor is ending");
    else if (!valid_id(&m->f[0]))
        refuse(c, m, EINVAL, "id is empty, too long, or has other characters than letters, digits, - and _");
    else if (find(m->f[0].s))
        refuse(c, m, EEXIST, "id is taken");
    else if (!(k = new_container(&m->f[0])))
        refuse(c, m, ENOMEM, "table of containers");
    return k;
}

static void do_create(struct connection *c, const struct message *m, int *fds) {
    const struct field *f = m->f;
    struct container *k = admit(c, m);
    if (!k)
        return;
    uint32_t flags = (uint32_t)f[3].n;
    int theirs[3] = {-1, -1, -1};
    k->tty = !!(flags & CREATE_TTY), k->v2 = !!(flags & CREATE_V2), k->kill_by_cgroup = !!(flags & CREATE_KILL_BY_CGROUP);
    k->stdin_once = !!(flags & CREATE_STDIN_ONCE);
    crilog_open(&k->log, take_fd(fds, &f[4]), (uint32_t)f[7].n, f[8].n);
    k->cgroup = take_fd(fds, &f[5]), k->oom = take_fd(fds, &f[6]);
    watch_oom(k);
    if (make_pipes(k, flags, theirs)) {
        refuse(c, m, errno, "pipes for stdio");
        release(k);
    } else {
        begin(c, m, k, lent_fd(fds, &f[1]), fds, &f[2], theirs);
    }
    for (int i = 0; i < 3; i++)
        close_fd(&theirs[i]);
}

static void do_exec(struct connection *c, const struct message *m, int *fds) {
    const struct field *f = m->f;
    uint32_t flags = (uint32_t)f[4].n;
    struct container *of = f[1].count ? find(f[1].s) : NULL, *starts = flags & EXEC_STARTS ? of : NULL;
    if (f[1].count && live_pidfd(NULL, f[1].s) < 0) {
        refuse(c, m, ESRCH, "the container does not run");
        return;
    }
    if (flags & EXEC_STARTS && (!starts || starts->state != CREATED || !starts->adopted || starts->removing)) {
        refuse(c, m, EINVAL, "no container that a program has created and that waits for its start");
        return;
    }
    struct container *k = admit(c, m);
    if (!k)
        return;
    /* What starts a container does not end with it: a short one may end first. */
    k->is_exec = 1, k->of = starts ? NULL : of, k->starts = starts, k->runner = c;
    if (starts)
        starts->state = STARTING;
    k->tty = !!(flags & EXEC_TTY), k->v2 = !!(flags & EXEC_V2), k->kill_on_disconnect = !!(flags & EXEC_KILL_ON_DISCONNECT);
    k->cgroup = take_fd(fds, &f[5]);
    uint64_t timeout_ms = f[6].n < TIMEOUT_MS_MAX ? f[6].n : TIMEOUT_MS_MAX;
    k->deadline_ns = timeout_ms ? now_ns(CLOCK_MONOTONIC) + timeout_ms * 1000000u : 0;
    const int stdio[3] = {lent_fd(fds, &f[9]), lent_fd(fds, &f[7]), lent_fd(fds, &f[8])};
    if (flags & EXEC_HOLD)
        hold_outputs(k, stdio);
    begin(c, m, k, lent_fd(fds, &f[2]), fds, &f[3], stdio);
}

static void do_start(struct connection *c, const struct message *m, struct container *k) {
    if (k->state != CREATED || k->reaped || k->removing) {
        refuse(c, m, EINVAL, state_names[k->state]);
    } else if (launch_open_gate(&k->launch)) {
        refuse(c, m, ESRCH, "the process was ended before it could run its command");
    } else {
        k->state = STARTING;
        k->asker = c, k->asker_seq = m->seq;
    }
}

static void do_kill(struct connection *c, const struct message *m, struct container *k) {
    if (m->f[1].n < 1 || m->f[1].n > 64) {
        refuse(c, m, EINVAL, "no such signal");
    } else if (k->state == EXITED || k->reaped) {
        refuse(c, m, ESRCH, "it has ended");
    } else if (m->f[2].n) {
        kill_all(k, (int)m->f[1].n);
        answer_ok(c, m->seq);
    } else if (sys_pidfd_send_signal(k->launch.pidfd, (int)m->f[1].n)) {
        refuse(c, m, errno, "its process");
    } else {
        answer_ok(c, m->seq);
    }
}

/* What stands at its gate is killed first; the answer comes when it is reaped. It never ran, so it leaves no record. */
static void do_remove(struct connection *c, const struct message *m, struct container *k) {
    if (k->state == EXITED) {
        release(k);
        answer_ok(c, m->seq);
        return;
    }
    if (k->launch.state != LAUNCH_FAILED && (k->state == RUNNING || k->state == STARTING)) {
        refuse(c, m, EBUSY, "it runs");
        return;
    }
    if (k->asker)
        answer_error(k->asker, k->asker_seq, ECANCELED, k->removing ? "remove" : "create", UINT32_MAX, "removed by another request");
    k->removing = 1;
    k->asker = c, k->asker_seq = m->seq;
    kill_all(k, SIGKILL);
}

static void do_resize(struct connection *c, const struct message *m, const struct container *k) {
    struct winsize size = {.ws_row = (unsigned short)m->f[1].n, .ws_col = (unsigned short)m->f[2].n};
    if (k->launch.terminal_master < 0)
        refuse(c, m, ENOTTY, "it has no terminal");
    else if (ioctl(k->launch.terminal_master, TIOCSWINSZ, &size))
        refuse(c, m, errno, "its terminal");
    else
        answer_ok(c, m->seq);
}

static void do_attach(struct connection *c, const struct message *m, struct container *k) {
    if (k->state == EXITED || k->reaped || k->is_exec) {
        refuse(c, m, ESRCH, "no running container");
        return;
    }
    SCOPED_FD client = add_attach(k, (uint32_t)m->f[1].n);
    if (client < 0)
        refuse(c, m, errno, "one more client");
    else
        answer_fd(c, m->seq, client);
}

static void do_hello(struct connection *c, const struct message *m) {
    char text[ID_MAX + 160];
    uint32_t count = 0;
    for (struct container *k = pod.containers; k; k = k->next)
        count++;
    build_begin(&reply, MSG_hello_ok, m->seq);
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

/* ---- what the monitor keeps for the daemon ---- */

static void do_keep_fd(struct connection *c, const struct message *m, int *fds) {
    int slot = -1;
    for (int i = KEPT_MAX - 1; i >= 0; i--)
        if (!pod.kept[i].name[0])
            slot = i;
    for (int i = 0; i < KEPT_MAX; i++)
        if (m->f[0].count && strcmp(pod.kept[i].name, m->f[0].s) == 0)
            slot = i;
    if (slot < 0 || !m->f[0].count || m->f[0].count >= sizeof pod.kept[0].name || lent_fd(fds, &m->f[1]) < 0) {
        refuse(c, m, EINVAL, "no fd, a malformed name, or 16 are kept already");
        return;
    }
    if (pod.kept[slot].name[0])
        close_fd(&pod.kept[slot].fd);
    memcpy(pod.kept[slot].name, m->f[0].s, m->f[0].count + 1);
    pod.kept[slot].fd = take_fd(fds, &m->f[1]);
    answer_ok(c, m->seq);
}

static void do_kept_fd(struct connection *c, const struct message *m) {
    for (int i = 0; i < KEPT_MAX; i++)
        if (m->f[0].count && strcmp(pod.kept[i].name, m->f[0].s) == 0) {
            answer_fd(c, m->seq, pod.kept[i].fd);
            return;
        }
    refuse(c, m, ENOENT, m->f[0].s);
}

/* The monitor is in the pod's network namespace: the socket is the pod's. The caller waits for the connection to complete. */
static void do_connect(struct connection *c, const struct message *m) {
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } to = {0};
    int v6 = m->f[1].n == AF_INET6;
    if (!m->f[0].n || m->f[0].n > 65535 || (!v6 && m->f[1].n != AF_INET)) {
        refuse(c, m, EINVAL, "port or address family");
        return;
    }
    if (v6)
        to.v6 = (struct sockaddr_in6){.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)m->f[0].n), .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    else
        to.v4 = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)m->f[0].n), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    SCOPED_FD fd = socket(v6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || (connect(fd, &to.any, v6 ? sizeof to.v6 : sizeof to.v4) && errno != EINPROGRESS))
        refuse(c, m, errno, "localhost of the pod");
    else
        answer_fd(c, m->seq, fd);
}

static void do_shutdown(struct connection *c, const struct message *m) {
    if (lives() && !m->f[0].n) {
        refuse(c, m, EBUSY, "containers live");
        return;
    }
    pod.ending = 1;
    for (struct container *k = pod.containers; k; k = k->next)
        if (k->state != EXITED)
            kill_all(k, SIGKILL);
    if (pod.init > 0)
        sys_pidfd_send_signal(pod.init_pidfd, SIGKILL);
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
    case MSG_hang_up:
    case MSG_last_words:
        if (!(k = find(m->f[0].s))) {
            refuse(c, m, ENOENT, "no such container");
            return;
        }
    }
    switch (m->code) {
    case MSG_hello: do_hello(c, m); break;
    case MSG_pod: do_pod(c, m, fds); break;
    case MSG_namespaces: do_namespaces(c, m); break;
    case MSG_create: do_create(c, m, fds); break;
    case MSG_start: do_start(c, m, k); break;
    case MSG_kill: do_kill(c, m, k); break;
    case MSG_remove: do_remove(c, m, k); break;
    case MSG_exec: do_exec(c, m, fds); break;
    case MSG_resize: do_resize(c, m, k); break;
    case MSG_reopen_log:
        crilog_reopen(&k->log, take_fd(fds, &m->f[1]));
        answer_ok(c, m->seq);
        break;
    case MSG_attach: do_attach(c, m, k); break;
    case MSG_close_stdin:
        close_input(k);
        answer_ok(c, m->seq);
        break;
    case MSG_last_words:
        if (!k->is_exec || k->runner != c || lent_fd(fds, &m->f[1]) < 0 || lent_fd(fds, &m->f[2]) < 0) {
            refuse(c, m, EINVAL, "no exec of this connection, or an fd is missing");
        } else {
            forget_words(k);
            k->words_to = take_fd(fds, &m->f[1]), k->words = take_fd(fds, &m->f[2]);
            answer_ok(c, m->seq);
        }
        break;
    case MSG_hang_up:
        if (k->is_exec) {
            hang_up(k);
            answer_ok(c, m->seq);
        } else {
            refuse(c, m, EINVAL, "no exec");
        }
        break;
    case MSG_shutdown: do_shutdown(c, m); break;
    case MSG_connect: do_connect(c, m); break;
    case MSG_keep_fd: do_keep_fd(c, m, fds); break;
    case MSG_kept_fd: do_kept_fd(c, m); break;
    }
}

/* ---- connections ---- */

void disconnect(struct connection *c) {
    for (struct container *k = pod.containers; k; k = k->next) {
        if (k->asker == c)
            k->asker = NULL;
        if (k->runner == c) {
            k->runner = NULL;
            if (k->kill_on_disconnect && k->state != EXITED)
                kill_all(k, SIGKILL);
            if (k->is_exec && k->state == CREATED) /* nobody will open its gate */
                kill_all(k, SIGKILL);
            drain_held(k);
            say_last_words(k);
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

void add_connection(int fd) {
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

void listener_readable(void) {
    int fd = accept4(pod.listener.fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd >= 0)
        add_connection(fd);
}

void connection_readable(struct connection *c) {
    static uint8_t bytes[MESSAGE_BYTES_MAX];
    union {
        char space[CMSG_SPACE(sizeof(int) * MESSAGE_FDS_MAX)];
        struct cmsghdr align;
    } control;
    int fds[MESSAGE_FDS_MAX];
    uint32_t count = 0;
    struct iovec iov = {bytes, sizeof bytes};
    struct msghdr header = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.space, .msg_controllen = sizeof control.space};
    ssize_t n = c->doomed ? 0 : recvmsg(c->source.fd, &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    /* The kernel puts all fds of a packet into one control message, and without SO_PASSCRED sends no other kind. */
    struct cmsghdr *cmsg = n > 0 ? CMSG_FIRSTHDR(&header) : NULL;
    if (cmsg && cmsg->cmsg_level == SOL_SOCKET && cmsg->cmsg_type == SCM_RIGHTS) {
        count = (uint32_t)((cmsg->cmsg_len - CMSG_LEN(0)) / sizeof(int));
        memcpy(fds, CMSG_DATA(cmsg), count * sizeof(int));
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
