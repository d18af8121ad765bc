/* op_ns.c: ops of the phases POD, JOIN and NS: namespaces, cgroups joined by the process itself, names, sysctls. */
#include "setup.h"

#include "procfs.h"

#include <linux/keyctl.h>
#include <net/if.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

int op_pod_unshare(struct setup *s, const struct op *op) {
    ARGS(pod_unshare, op);
    return syscall(SYS_unshare, a->flags.n) ? fail(s, "flags %#llx", (unsigned long long)a->flags.n) : 0;
}

int op_pod_loopback_up(struct setup *s, const struct op *op) {
    (void)op;
    SCOPED_FD fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct ifreq request = {.ifr_name = "lo"};
    if (fd < 0 || ioctl(fd, SIOCGIFFLAGS, &request))
        return fail(s, "interface lo");
    request.ifr_flags = (short)(request.ifr_flags | IFF_UP);
    return ioctl(fd, SIOCSIFFLAGS, &request) ? fail(s, "interface lo up") : 0;
}

int op_pod_init(struct setup *s, const struct op *op) {
    (void)op;
    return pod_init_start(s);
}

int op_cgroup_join(struct setup *s, const struct op *op) {
    ARGS(cgroup_join, op);
    int fd = plan_fd(s->plan, &a->tasks);
    if (write(fd, "0", 1) == 1)
        return 0;
    return fail(s, "cgroup fd %u of the plan", (unsigned)a->tasks.n);
}

int op_setns(struct setup *s, const struct op *op) {
    ARGS(setns, op);
    int fd = plan_fd(s->plan, &a->ns);
    return syscall(SYS_setns, fd, a->nstype.n) ? fail(s, "namespace type %#llx, fd %u of the plan", (unsigned long long)a->nstype.n, (unsigned)a->ns.n) : 0;
}

int op_unshare(struct setup *s, const struct op *op) {
    ARGS(unshare, op);
    return syscall(SYS_unshare, a->flags.n) ? fail(s, "flags %#llx", (unsigned long long)a->flags.n) : 0;
}

int op_setsid(struct setup *s, const struct op *op) {
    (void)op;
    return setsid() < 0 ? fail(s, "new session") : 0;
}

int op_session_keyring(struct setup *s, const struct op *op) {
    ARGS(session_keyring, op);
    if (syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, a->name.s) >= 0 || errno == ENOSYS)
        return 0;
    return fail(s, "keyring %s", a->name.s);
}

static int set_hostname(struct setup *s, const struct field *name) {
    return sethostname(name->s, name->count) ? fail(s, "\"%s\"", name->s) : 0;
}

int op_pod_hostname(struct setup *s, const struct op *op) {
    ARGS(pod_hostname, op);
    return set_hostname(s, &a->name);
}

int op_hostname(struct setup *s, const struct op *op) {
    ARGS(hostname, op);
    return set_hostname(s, &a->name);
}

int op_domainname(struct setup *s, const struct op *op) {
    ARGS(domainname, op);
    return setdomainname(a->name.s, a->name.count) ? fail(s, "\"%s\"", a->name.s) : 0;
}

/* One write to one key (CVE-2022-0811): neither may smuggle a second one in. The key is resolved beneath /proc/sys, not /proc. */
static int set_sysctl(struct setup *s, const struct field *key, const struct field *value) {
    if (strpbrk(value->s, "\r\n"))
        return refuse(s, EINVAL, "%s: its value has more than one line", key->s);
    SCOPED_FD sys = procfs_at(s->proc, "sys", O_PATH | O_DIRECTORY);
    if (sys < 0)
        return fail(s, "%s: /proc/sys", key->s);
    return procfs_write(sys, key->s, value->s, value->count) ? fail(s, "%s = \"%s\"", key->s, value->s) : 0;
}

int op_pod_sysctl(struct setup *s, const struct op *op) {
    ARGS(pod_sysctl, op);
    return set_sysctl(s, &a->key, &a->value);
}

int op_sysctl(struct setup *s, const struct op *op) {
    ARGS(sysctl, op);
    return set_sysctl(s, &a->key, &a->value);
}
