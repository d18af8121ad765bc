/* probe.c: asks the kernel what the default seccomp profile lets through; one line a question: name errno (0: allowed). x86_64. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/sched.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void say(const char *name, long result) { printf("%s %d\n", name, result < 0 ? errno : 0); }

static void close_after(const char *name, long fd) {
    say(name, fd);
    if (fd >= 0)
        close((int)fd);
}

/* A system call by the 32-bit gate; the kernel's negative errno becomes ours. */
static long call32(long number, long a, long b, long c) {
    long result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(a), "c"(b), "d"(c) : "memory", "r8", "r9", "r10", "r11");
    if (result < 0 && result > -4096) {
        errno = (int)-result;
        return -1;
    }
    return result;
}

static void *thread(void *argument) { return argument; }

int main(void) {
    close_after("inet", socket(AF_INET, SOCK_STREAM, 0));
    close_after("unix", socket(AF_UNIX, SOCK_STREAM, 0));
    close_after("netlink", socket(AF_NETLINK, SOCK_RAW, 0));
    close_after("alg", socket(38, SOCK_SEQPACKET, 0));
    close_after("vsock", socket(40, SOCK_STREAM, 0));
    close_after("alg_upper", syscall(SYS_socket, 0x100000026UL, SOCK_SEQPACKET, 0));
    close_after("vsock_upper", syscall(SYS_socket, 0xffffffff00000028UL, SOCK_STREAM, 0));
    close_after("unix32", call32(359, AF_UNIX, SOCK_STREAM, 0));
    close_after("alg32", call32(359, 38, SOCK_SEQPACKET, 0));
    close_after("socketcall32", call32(102, 1, 0, 0));
    say("getpid32", call32(20, 0, 0, 0));
    struct clone_args args = {.exit_signal = 17};
    long child = syscall(SYS_clone3, &args, sizeof args);
    if (child == 0)
        _exit(0);
    say("clone3", child);
    say("keyctl", syscall(SYS_keyctl, 0, -3, 0));
    say("io_uring", syscall(SYS_io_uring_setup, 1, NULL));
    say("userfaultfd", syscall(SYS_userfaultfd, 0));
    say("bpf", syscall(SYS_bpf, 0, NULL, 0));
    say("unshare_user", syscall(SYS_unshare, CLONE_NEWUSER));
    say("newer", syscall(999));
    pthread_t id;
    errno = pthread_create(&id, NULL, thread, NULL);
    say("thread", errno ? -1 : pthread_join(id, NULL));
    pid_t forked = fork();
    if (forked == 0)
        _exit(0);
    say("fork", forked < 0 ? -1 : waitpid(forked, NULL, 0));
    return 0;
}
