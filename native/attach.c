/*
 * attach.c: clients that watch a container's output and feed its stdin. The container never waits for a client: what one has not taken is kept for
 * it (backlog.c), also beyond the container's end; who falls too far behind is cut off, and told so behind what it still got. A container that does
 * not read its stdin is waited for: its client is not read meanwhile.
 */
#include "monitor.h"

#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#define ATTACH_MAX 64
#define ATTACH_BUFFER (256 << 10)
#define DRAIN_PACKETS 64

static const char cut_off[] = "\003this client reads more slowly than the container writes, and was cut off; the log has everything";

/* What epoll is to tell of a client. One whose stdin waits for the container is not read, and without anything else to wait for even its hang-up is not told. */
static void rethink(struct attach *a) {
    uint32_t events = (a->container && !a->stdin_done && !a->waiting ? (uint32_t)EPOLLIN : 0) | (a->block || a->cut ? (uint32_t)EPOLLOUT : 0);
    int mute_it = a->waiting && !events;
    if (mute_it && !a->muted)
        mute(&a->source);
    else if (!mute_it && a->muted)
        unmute(&a->source, events);
    else if (!mute_it)
        rewatch(&a->source, events);
    a->muted = mute_it;
}

/* Returns the client's end, or -1 with errno. */
int add_attach(struct container *k, uint32_t flags) {
    int ends[2], count = 0, buffer = ATTACH_BUFFER;
    for (struct attach *a = k->attached; a; a = a->next)
        count++;
    if (count == ATTACH_MAX) {
        errno = EMFILE;
        return -1;
    }
    struct attach *a = calloc(1, sizeof *a);
    if (!a || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends)) {
        free(a);
        return -1;
    }
    setsockopt(ends[0], SOL_SOCKET, SO_SNDBUF, &buffer, sizeof buffer); /* the kernel may grant less: then more is kept here */
    a->container = k, a->flags = flags, a->next = k->attached;
    k->attached = a;
    watch(&a->source, SOURCE_ATTACH, ends[0], a, EPOLLIN);
    return ends[1];
}

static void unlink_from(struct attach **at, const struct attach *a) {
    for (; *at; at = &(*at)->next)
        if (*at == a) {
            *at = a->next;
            return;
        }
}

static void drop_attach(struct attach *a) {
    unwatch(&a->source);
    free(a->waiting);
    a->waiting = NULL;
    backlog_leave(a);
    unlink_from(a->container ? &a->container->attached : &pod.leaving, a);
    a->next = pod.attach_graveyard;
    pod.attach_graveyard = a;
}

/* The container has ended. A client that is not behind sees its end at once, another one when it has taken the rest. */
void part_attach(struct attach *a) {
    int count = 0;
    for (struct attach *each = pod.leaving; each; each = each->next)
        count++;
    if ((!a->block && !a->cut) || count == ATTACH_MAX) {
        drop_attach(a);
        return;
    }
    unlink_from(&a->container->attached, a);
    a->container = NULL;
    free(a->waiting);
    a->waiting = NULL;
    a->next = pod.leaving;
    pod.leaving = a;
    rethink(a);
}

/* Too far behind: it gets what is in its socket already, and then the reason. */
void cut_attach(struct attach *a) {
    backlog_leave(a);
    a->cut = 1;
    rethink(a);
}

/* Nobody is there to read any more; what it said before may still wait to be read by us. */
static void stop_output(struct attach *a) {
    backlog_leave(a);
    a->cut = 0;
    a->flags &= ~(uint32_t)(ATTACH_STDOUT | ATTACH_STDERR);
    if (a->container)
        rethink(a);
    else
        drop_attach(a);
}

static int wants(const struct attach *a, int stream) { return !!(a->flags & (stream == STREAM_STDERR ? ATTACH_STDERR : ATTACH_STDOUT)); }

static int send_packet(const struct attach *a, const char *head, size_t head_length, const char *data, size_t length) {
    struct iovec iov[2] = {{(void *)(uintptr_t)head, head_length}, {(void *)(uintptr_t)data, length}};
    struct msghdr header = {.msg_iov = iov, .msg_iovlen = 2};
    return sendmsg(a->source.fd, &header, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? -1 : 0;
}

static int is_full(void) { return errno == EAGAIN || errno == ENOBUFS || errno == ENOMEM; }

/* One read of the container's output, for all who asked for it. */
void fan_out(struct container *k, int stream, const char *data, size_t length) {
    const char tag = (char)stream;
    int behind = 0;
    for (struct attach *a = k->attached, *next; a; a = next) {
        next = a->next;
        if (!wants(a, stream) || a->cut)
            continue;
        if (!a->block && send_packet(a, &tag, 1, data, length)) {
            if (is_full())
                a->late = 1;
            else
                stop_output(a);
        }
        behind |= a->late || a->block;
    }
    if (!behind)
        return;
    int kept = backlog_keep(k, &tag, 1, data, length) == 0;
    for (struct attach *a = k->attached; a; a = a->next) {
        if (!kept && (a->late || a->block))
            cut_attach(a);
        else if (a->late)
            backlog_join(a, 1 + length), rethink(a);
        a->late = 0;
    }
}

/* There is room again. */
static void attach_writable(struct attach *a) {
    if (a->cut) {
        if (send_packet(a, cut_off, sizeof cut_off - 1, NULL, 0) == 0 || !is_full())
            drop_attach(a);
        return;
    }
    const char *packet = NULL;
    uint32_t size;
    for (int i = 0; i < DRAIN_PACKETS && a->block; i++) {
        if (!(packet = backlog_next(a, &size))) {
            if (!a->container) {
                drop_attach(a);
                return;
            }
            backlog_leave(a);
            rethink(a);
        } else if (wants(a, *packet) && send_packet(a, packet, size, NULL, 0)) {
            if (!is_full())
                stop_output(a);
            return;
        } else {
            backlog_pass(a, size);
        }
    }
}

/* Hands waiting stdin on; when all is taken the client is read again. */
void push_input(struct attach *a) {
    struct container *k = a->container;
    while (a->waiting_at < a->waiting_length) {
        ssize_t n = write(input_fd(k), a->waiting + a->waiting_at, a->waiting_length - a->waiting_at);
        if (n < 0 && errno == EAGAIN) {
            if (k->tty)
                rewatch(&k->out, EPOLLIN | EPOLLOUT);
            else
                rewatch(&k->in, EPOLLOUT);
            return;
        }
        if (n < 0)
            break; /* nobody reads it any more: it is dropped, as a terminal's would be */
        a->waiting_at += (size_t)n;
    }
    free(a->waiting);
    a->waiting = NULL;
    a->waiting_at = a->waiting_length = 0;
    rethink(a);
}

void attach_ready(struct attach *a, uint32_t events) {
    const int gone = !!(events & (EPOLLHUP | EPOLLERR));
    struct container *k = a->container;
    if (gone && (a->block || a->cut || !k))
        stop_output(a);
    else if (events & EPOLLOUT)
        attach_writable(a);
    if (a->source.fd < 0 || !k || a->waiting || !(events & ~(uint32_t)EPOLLOUT))
        return;
    struct iovec iov = {chunk, sizeof chunk};
    struct msghdr header = {.msg_iov = &iov, .msg_iovlen = 1};
    ssize_t n = a->stdin_done ? 0 : recvmsg(a->source.fd, &header, MSG_DONTWAIT);
    if (n < 0 && errno == ECONNRESET) /* told once, when it was closed with output unread; what it said before waits behind it */
        n = recvmsg(a->source.fd, &header, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0 || (header.msg_flags & MSG_TRUNC)) {
        if (k->stdin_once && (a->flags & ATTACH_STDIN) && !a->stdin_done)
            close_input(k);
        if (n == 0 && !a->stdin_done && !(events & EPOLLHUP)) {
            /* shutdown(SHUT_WR): no more stdin, but the output is still wanted. Its close comes as EPOLLHUP, which needs no subscription. */
            a->stdin_done = 1;
            rethink(a);
        } else {
            drop_attach(a);
        }
        return;
    }
    if (!(a->flags & ATTACH_STDIN) || input_fd(k) < 0)
        return;
    ssize_t taken = write(input_fd(k), chunk, (size_t)n);
    if (taken == n || (taken < 0 && errno != EAGAIN))
        return;
    size_t rest = (size_t)(n - (taken < 0 ? 0 : taken));
    if (!(a->waiting = malloc(rest))) {
        drop_attach(a);
        return;
    }
    memcpy(a->waiting, chunk + ((size_t)n - rest), rest);
    a->waiting_length = rest, a->waiting_at = 0;
    rethink(a);
    push_input(a);
}
