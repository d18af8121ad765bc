/* op_security.c: what the process may still do: capabilities, LSM label, no_new_privs, seccomp. Order is the plan's business. */
#include "setup.h"

#include "procfs.h"

#include <linux/capability.h>
#include <linux/seccomp.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>

int op_bounding_set(struct setup *s, const struct op *op) {
    ARGS(bounding_set, op);
    for (unsigned cap = 0; cap < 64; cap++) {
        if (a->keep.n >> cap & 1)
            continue;
        if (prctl(PR_CAPBSET_DROP, (unsigned long)cap, 0, 0, 0) == 0)
            continue;
        if (errno == EINVAL)
            return 0; /* beyond the kernel's last capability */
        return fail(s, "drop capability %u", cap);
    }
    return 0;
}

static int set_capabilities(struct setup *s, uint64_t effective, uint64_t permitted, uint64_t inheritable, uint64_t ambient) {
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct have[2], data[2] = {
        {(uint32_t)effective, (uint32_t)permitted, (uint32_t)inheritable},
        {(uint32_t)(effective >> 32), (uint32_t)(permitted >> 32), (uint32_t)(inheritable >> 32)},
    };
    if (syscall(SYS_capset, &header, data)) {
        int saved = errno;
        uint64_t missing = 0;
        if (syscall(SYS_capget, &header, have) == 0)
            missing = (permitted | effective) & ~((uint64_t)have[1].permitted << 32 | have[0].permitted);
        return refuse(s, saved, "effective %#llx permitted %#llx inheritable %#llx; not held by the runtime: %#llx", (unsigned long long)effective,
                      (unsigned long long)permitted, (unsigned long long)inheritable, (unsigned long long)missing);
    }
    if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0))
        return fail(s, "clear ambient capabilities");
    for (unsigned cap = 0; cap < 64; cap++)
        if (ambient >> cap & 1 && prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, (unsigned long)cap, 0, 0))
            return fail(s, "ambient capability %u", cap);
    return 0;
}

int op_capabilities(struct setup *s, const struct op *op) {
    ARGS(capabilities, op);
    return set_capabilities(s, a->effective.n, a->permitted.n, a->inheritable.n, a->ambient.n);
}

int op_final_caps(struct setup *s, const struct op *op) {
    ARGS(final_caps, op);
    return set_capabilities(s, a->effective.n, a->permitted.n, a->inheritable.n, a->ambient.n);
}

int op_lsm_label(struct setup *s, const struct op *op) {
    ARGS(lsm_label, op);
    char text[512];
    int apparmor = !strcmp(a->lsm.s, "apparmor"), n;
    if (!apparmor && strcmp(a->lsm.s, "selinux"))
        return refuse(s, EINVAL, "unknown LSM %s", a->lsm.s);
    n = snprintf(text, sizeof text, apparmor ? "exec %s" : "%s", a->label.s);
    if (n < 0 || (size_t)n >= sizeof text)
        return refuse(s, ENAMETOOLONG, "%s label %.64s...", a->lsm.s, a->label.s);
    if (!apparmor)
        return procfs_write(s->proc, "thread-self/attr/exec", text, (size_t)n) ? fail(s, "selinux label %s", a->label.s) : 0;
    int failed = procfs_write(s->proc, "thread-self/attr/apparmor/exec", text, (size_t)n);
    if (failed && errno == ENOENT) /* before Linux 5.8 */
        failed = procfs_write(s->proc, "thread-self/attr/exec", text, (size_t)n);
    return failed ? fail(s, "apparmor profile %s", a->label.s) : 0;
}

int op_no_new_privs(struct setup *s, const struct op *op) {
    (void)op;
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ? fail(s, "prctl") : 0;
}

int op_seccomp(struct setup *s, const struct op *op) {
    ARGS(seccomp, op);
    /* struct sock_fprog, with a pointer that need not be aligned: the kernel copies the filter bytewise. */
    struct {
        unsigned short length;
        const char *filter;
    } program = {(unsigned short)(a->filter.count / 8), a->filter.s};
    if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, a->flags.n, &program) == 0)
        return 0;
    return fail(s, "filter of %u instructions, flags %#x", a->filter.count / 8, (unsigned)a->flags.n);
}
