/*
 * attach.c: clients that watch a container's output and feed its stdin. A client that does not read is cut off when its socket's buffer is full:
 * the container never waits for it. A container that does not read its stdin is waited for: its client is not read meanwhile.
 */
#include "monitor.h"

#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#define ATTACH_MAX 64
#define ATTACH_BUFFER (256 << 10)
#define PACKET_DATA 8192

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
    setsockopt(ends[0], SOL_SOCKET, SO_SNDBUF, &buffer, sizeof buffer); /* the kernel may grant less: then the client is cut off earlier */
    a->container = k, a->flags = flags, a->next = k->attached;
    k->attached = a;
    watch(&a->source, SOURCE_ATTACH, ends[0], a, EPOLLIN);
    return ends[1];
}

void drop_attach(struct attach *a) {
    unwatch(&a->source);
    free(a->waiting);
    a->waiting = NULL;
    for (struct attach **at = &a->container->attached; *at; at = &(*at)->next)
        if (*at == a) {
            *at = a->next;
            break;
        }
    a->next = pod.attach_graveyard;
    pod.attach_graveyard = a;
}

void fan_out(struct container *k, int stream, const char *data, size_t length) {
    for (struct attach *a = k->attached, *next; a; a = next) {
        next = a->next;
        if (!(a->flags & (stream == STREAM_STDERR ? ATTACH_STDERR : ATTACH_STDOUT)))
            continue;
        for (size_t at = 0; at < length; at += PACKET_DATA) {
            char tag = (char)stream;
            size_t n = length - at < PACKET_DATA ? length - at : PACKET_DATA;
            struct iovec iov[2] = {{&tag, 1}, {(void *)(uintptr_t)(data + at), n}};
            struct msghdr header = {.msg_iov = iov, .msg_iovlen = 2};
            if (sendmsg(a->source.fd, &header, MSG_DONTWAIT | MSG_NOSIGNAL) < 0) {
                drop_attach(a);
                break;
            }
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
    unmute(&a->source, EPOLLIN);
}

void attach_readable(struct attach *a, uint32_t events) {
    struct container *k = a->container;
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
            rewatch(&a->source, 0);
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
    mute(&a->source);
    push_input(a);
}
