/* SPDX-License-Identifier: MIT */
/* main.c - trickle-vm: options, and what must be in order before anything starts. */
#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <libgen.h>
#include <limits.h>
#include <malloc.h>
#include <math.h>
#include <net/if.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fail.h"
#include "base/log.h"
#include "net/address.h"
#include "trickle/trickle.h"
#include "vm/serve.h"
#include "vm/spool.h"
#include "vm/supervisor.h"

#ifndef TRICKLE_PYTHON
#define TRICKLE_PYTHON "python3"
#endif
#ifndef TRICKLE_PKGDIR
#define TRICKLE_PKGDIR ""
#endif

#define EXIT_USAGE 2
#define LARGE_BLOCK (1 << 20) /* bytes; goes back to the system when it is freed */
#define DAY_SECONDS ((uint64_t)86400)
#define BOOT "trickle/_boot.py"
#define NO_PYTHON "; VMs that run commands need no Python: trickle-vm --rai exec"

static const char help[] =
    "Usage: trickle-vm [OPTION]...\n"
    "\n"
    "Starts Trickle VMs on this machine and looks after them until it is stopped. Programs of\n"
    "the same user on this machine find them; nothing listens on a network unless asked to.\n"
    "\n"
    "  -n, --count N           how many VMs (default: one per core)\n"
    "      --python PATH       the Python that runs the VMs, of any version from 3.11 on or of a\n"
    "                          venv (default: " TRICKLE_PYTHON ")\n"
    "      --rai MODULE        what the VMs are for: python (default); exec or native, which need\n"
    "                          no Python; or the PATH of a module of others (PATH.so). All VMs\n"
    "                          run commands (exec) and functions of shared objects (native), too\n"
    "      --listen ADDR[:PORT]\n"
    "                          listen on TCP too, at this numeric address; programs need the\n"
    "                          same key as this user (trickle key)\n"
    "      --lan               be found by multicast, listen at all addresses or ADDR; needs a\n"
    "                          key, too\n"
    "      --join HOST:PORT    connect to the program that listens there (trickle run --listen),\n"
    "                          and to the next when it has ended: for machines that nobody can\n"
    "                          connect to; needs a key, too; may be repeated\n"
    "      --key-file FILE     where the key is; -: read it from standard input (default:\n"
    "                          $XDG_CONFIG_HOME/trickle/key, else ~/.config/trickle/key)\n"
    "      --insecure          listen on TCP, or join, without key and encryption: on loopback,\n"
    "                          which is open to all users of this machine, or at the ADDR of\n"
    "                          --listen, which is open to all who can reach it\n"
    "      --memory-limit SIZE (as 512M or 2G) a VM whose running code takes more memory is\n"
    "                          killed; one that has 80 % of it between elements is replaced\n"
    "      --recycle-after N   replace a VM when it has run N elements\n"
    "      --hold-days N       how long results are kept for a job whose program has gone\n"
    "                          (default: 7)\n"
    "      --hold-bytes SIZE   and how much of them, the oldest go first (default: 10G)\n"
    "      --runtime DIR       directory of the sockets (default: $TRICKLE_RUNTIME, else\n"
    "                          /tmp/trickle-UID)\n"
    "      --log LEVEL         error, warn, info or debug (default: $TRICKLE_LOG, else warn)\n"
    "      --ready-fd FD       write \"ready\" to this descriptor when all VMs are up\n"
    "      --listening-fd FD   write \"listening\" to this descriptor when programs can find\n"
    "                          the VMs, which may still be starting; may be the same as FD above\n"
    "      --die-with-parent   end when the process that started this one ends\n"
    "  -h, --help              show this and exit\n"
    "  -V, --version           show the version and exit\n"
    "\n"
    "SIGTERM or SIGINT: VMs finish the element they run, then all ends; a second one kills them.\n";

enum { OPT_PYTHON = 256, OPT_RAI, OPT_LISTEN, OPT_JOIN, OPT_LAN, OPT_INSECURE, OPT_KEY_FILE,
       OPT_RUNTIME, OPT_LOG, OPT_READY_FD, OPT_LISTENING_FD, OPT_MEMORY_LIMIT, OPT_RECYCLE_AFTER,
       OPT_HOLD_DAYS, OPT_HOLD_BYTES, OPT_DIE_WITH_PARENT, OPT_EXEC, OPT_SERVE };

static const struct option long_options[] = {
    {"count", required_argument, NULL, 'n'},
    {"python", required_argument, NULL, OPT_PYTHON},
    {"rai", required_argument, NULL, OPT_RAI},
    {"listen", required_argument, NULL, OPT_LISTEN},
    {"join", required_argument, NULL, OPT_JOIN},
    {"lan", no_argument, NULL, OPT_LAN},
    {"key-file", required_argument, NULL, OPT_KEY_FILE},
    {"insecure", no_argument, NULL, OPT_INSECURE},
    {"runtime", required_argument, NULL, OPT_RUNTIME},
    {"log", required_argument, NULL, OPT_LOG},
    {"ready-fd", required_argument, NULL, OPT_READY_FD},
    {"listening-fd", required_argument, NULL, OPT_LISTENING_FD},
    {"memory-limit", required_argument, NULL, OPT_MEMORY_LIMIT},
    {"recycle-after", required_argument, NULL, OPT_RECYCLE_AFTER},
    {"hold-days", required_argument, NULL, OPT_HOLD_DAYS},
    {"hold-bytes", required_argument, NULL, OPT_HOLD_BYTES},
    {"die-with-parent", no_argument, NULL, OPT_DIE_WITH_PARENT},
    {"exec", required_argument, NULL, OPT_EXEC}, /* for tests: a VM program of one's own */
    {"serve", required_argument, NULL, OPT_SERVE}, /* of ourselves: be a VM of that module */
    {"help", no_argument, NULL, 'h'},
    {"version", no_argument, NULL, 'V'},
    {NULL, 0, NULL, 0},
};

/* What the options said, before it is checked. */
struct arguments {
    struct supervisor_options opt;
    const char *listen; /* ADDR[:PORT] */
    const char *key_file;
    const char *name;   /* of the interpreter, as given */
    const char *rai;    /* NULL: python */
    const char *exec;
    struct auth_watch keys;
    bool is_insecure;
    bool dies_with_parent;
    char listen_host[INET6_ADDRSTRLEN + IF_NAMESIZE]; /* of a link-local one: with interface */
    char python[PATH_MAX], boot[PATH_MAX], self[PATH_MAX], module[PATH_MAX];
};

TRK_PRINTF(1, 2)
static _Noreturn void usage_error(const char *format, ...)
{
    va_list args;
    fprintf(stderr, "trickle-vm: ");
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fprintf(stderr, "\n");
    exit(EXIT_USAGE);
}

static uint32_t parse_number(const char *option, const char *text, long min, long max)
{
    char *end;
    errno = 0;
    long value = strtol(text, &end, 10);
    if (errno != 0 || end == text || *end != '\0' || value < min || value > max) {
        usage_error("%s %s: give a number from %ld to %ld", option, text, min, max);
    }
    return (uint32_t)value;
}

/* "1500000K", "512M", "1.5G", "2T" */
static uint64_t parse_size(const char *option, const char *text)
{
    static const char units[] = "KMGT";
    char *end;
    double value = strtod(text, &end);
    const char *unit = *end != '\0' ? strchr(units, toupper((unsigned char)*end)) : NULL;
    double bytes = unit != NULL ? ldexp(value, 10 * (int)(unit - units + 1)) : 0;
    if (unit == NULL || end[1] != '\0' || !(bytes >= 1 << 20 && bytes <= ldexp(1, 60))) {
        usage_error("%s %s: give a size of at least 1M, as 512M or 2G", option, text);
    }
    return (uint64_t)bytes;
}

static void set_log_level(void)
{
    if (log_set_level(optarg) < 0) {
        usage_error("--log %s: give error, warn, info or debug", optarg);
    }
    setenv("TRICKLE_LOG", optarg, 1); /* for the VMs */
}

static void add_join(struct arguments *a)
{
    const char *colon = strrchr(optarg, ':');
    /* A file of them, or a list, is for --hosts; a wrong address is told when it is opened. */
    if (colon == NULL || colon[1] == '\0' || optarg[0] == '@' || strchr(optarg, ',') != NULL) {
        usage_error("--join %s: give HOST:PORT, IPv6 as [ADDR]:PORT", optarg);
    }
    if (a->opt.joins_count == JOINS_MAX) {
        usage_error("--join: at most %d programs can be joined", JOINS_MAX);
    }
    a->opt.joins[a->opt.joins_count++] = optarg;
}

static void parse_option(struct arguments *a, int option)
{
    switch (option) {
    case 'n':
        a->opt.count = parse_number("-n", optarg, 1, VMS_MAX);
        break;
    case OPT_PYTHON:
        a->name = optarg;
        break;
    case OPT_RAI:
        a->rai = strcmp(optarg, "python") != 0 ? optarg : NULL;
        break;
    case OPT_LISTEN:
        a->listen = optarg;
        break;
    case OPT_JOIN:
        add_join(a);
        break;
    case OPT_LAN:
        a->opt.lan = true;
        break;
    case OPT_KEY_FILE:
        a->key_file = optarg;
        break;
    case OPT_INSECURE:
        a->is_insecure = true;
        break;
    case OPT_RUNTIME:
        a->opt.runtime_dir = optarg;
        setenv("TRICKLE_RUNTIME", optarg, 1); /* for programs that VMs start */
        break;
    case OPT_LOG:
        set_log_level();
        break;
    case OPT_READY_FD:
        a->opt.ready_fd = (int)parse_number("--ready-fd", optarg, 0, INT_MAX);
        break;
    case OPT_LISTENING_FD:
        a->opt.listening_fd = (int)parse_number("--listening-fd", optarg, 0, INT_MAX);
        break;
    case OPT_MEMORY_LIMIT:
        a->opt.memory_limit = parse_size("--memory-limit", optarg);
        break;
    case OPT_RECYCLE_AFTER:
        a->opt.recycle_after = parse_number("--recycle-after", optarg, 1, INT_MAX);
        break;
    case OPT_HOLD_DAYS:
        a->opt.hold_seconds = parse_number("--hold-days", optarg, 1, 36500) * DAY_SECONDS;
        break;
    case OPT_HOLD_BYTES:
        a->opt.hold_bytes = parse_size("--hold-bytes", optarg);
        break;
    case OPT_DIE_WITH_PARENT:
        a->dies_with_parent = true;
        break;
    case OPT_EXEC:
        a->exec = optarg;
        break;
    case OPT_SERVE:
        exit(serve_module(optarg));
    case 'h':
        fputs(help, stdout);
        exit(0);
    case 'V':
        puts("trickle-vm " TRK_VERSION);
        exit(0);
    default:
        usage_error("try trickle-vm --help");
    }
}

static bool is_loopback(const char *host)
{
    struct in_addr v4;
    struct in6_addr v6;
    if (inet_pton(AF_INET, host, &v4) == 1) {
        return ntohl(v4.s_addr) >> 24 == 127;
    }
    return inet_pton(AF_INET6, host, &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6);
}

static void parse_listen(struct arguments *a)
{
    if (net_address_split(a->listen, a->listen_host, sizeof(a->listen_host),
                          &a->opt.listen_port) < 0) {
        usage_error("--listen %s", fail_text());
    }
    a->opt.listen_host = a->listen_host;
}

/* Ends this program, with what to type, when there is no key that can be used. */
static void find_keys(struct arguments *a, const char *option)
{
    bool is_stdin = a->key_file != NULL && strcmp(a->key_file, "-") == 0;
    int rc = is_stdin ? auth_watch_read(&a->keys, STDIN_FILENO)
                      : auth_watch_open(&a->keys, a->key_file);
    if (rc == AUTH_NO_KEY) {
        usage_error("%s: there is no key yet, and without one VMs listen to nobody on a network; "
                    "type\n  trickle key new\nor, on a machine that has one,\n"
                    "  trickle key show --secret | ssh THIS-HOST trickle key import", option);
    } else if (rc < 0) {
        usage_error("%s: %s", option, fail_text());
    }
    a->opt.keys = &a->keys;
}

/* Plain TCP: on loopback, or where somebody has said so in so many words. */
static void check_insecure(struct arguments *a)
{
    const char *host = a->listen != NULL ? a->opt.listen_host : "127.0.0.1";
    for (size_t i = 0; i < a->opt.joins_count; i++) {
        fprintf(stderr, "trickle-vm: warning: --insecure: whoever is at %s, or on the way there, "
                        "can run code as this user\n", a->opt.joins[i]);
    }
    if (a->opt.joins_count > 0 && a->listen == NULL && !a->opt.lan) {
        return; /* to join is not to listen */
    }
    if (a->opt.lan && is_loopback(host)) {
        usage_error("--lan --insecure: name an address of this machine; if all who can reach it "
                    "may run code as you, type: trickle-vm --lan --listen ADDR --insecure");
    }
    a->opt.listen_host = host;
    fprintf(stderr, "trickle-vm: warning: --insecure: whoever can reach %s can run code as this "
                    "user\n", host);
}

static void check_network(struct arguments *a)
{
    if (a->listen != NULL) {
        parse_listen(a);
    }
    if (a->is_insecure) {
        check_insecure(a);
        return;
    }
    if (a->opt.lan || a->listen != NULL || a->opt.joins_count > 0) {
        find_keys(a, a->opt.lan ? "--lan" : a->listen != NULL ? "--listen" : "--join");
    }
    if (a->opt.lan && a->listen == NULL) {
        a->opt.listen_host = "*";
    }
}

static bool has_boot(struct arguments *a, const char *dir)
{
    int n = snprintf(a->boot, sizeof(a->boot), "%s/" BOOT, dir);
    return n > 0 && (size_t)n < sizeof(a->boot) && access(a->boot, R_OK) == 0;
}

/* Where the Python package is: as told, beside this program in a build directory, or where it is
 * installed (TRICKLE_PKGDIR of the build: from the directory of this program). */
static void find_package(struct arguments *a)
{
    const char *told = getenv("TRICKLE_PKGDIR");
    char exe[PATH_MAX], dir[PATH_MAX + sizeof(TRICKLE_PKGDIR) + 16];
    if (told != NULL && told[0] != '\0') {
        if (!has_boot(a, told)) {
            usage_error("TRICKLE_PKGDIR=%s: there is no " BOOT " in it", told);
        }
        return;
    }
    ssize_t n = readlink("/proc/self/exe", exe, sizeof(exe) - 1);
    exe[n > 0 ? n : 0] = '\0';
    const char *place = dirname(exe);
    snprintf(dir, sizeof(dir), "%s/python", place);
    if (has_boot(a, dir)) {
        return;
    }
    snprintf(dir, sizeof(dir), "%s/%s", TRICKLE_PKGDIR[0] == '/' ? "" : place, TRICKLE_PKGDIR);
    if (!has_boot(a, dir)) {
        usage_error("Trickle's Python package was not found (%s); install it or set "
                    "TRICKLE_PKGDIR" NO_PYTHON, a->boot);
    }
}

/* As a shell would find it, so that a wrong name is told now and not by each VM. */
static void find_python(struct arguments *a)
{
    const char *name = a->name;
    const char *path = strchr(name, '/') != NULL ? NULL : getenv("PATH");
    struct stat st;
    do {
        size_t size = path != NULL ? strcspn(path, ":") : 0;
        int n = path != NULL ? snprintf(a->python, sizeof(a->python), "%.*s/%s", (int)size, path,
                                        name)
                             : snprintf(a->python, sizeof(a->python), "%s", name);
        if (n > 0 && (size_t)n < sizeof(a->python) && access(a->python, X_OK) == 0 &&
            stat(a->python, &st) == 0 && S_ISREG(st.st_mode)) {
            return;
        }
        path = path != NULL && path[size] == ':' ? path + size + 1 : NULL;
    } while (path != NULL);
    usage_error("--python %s: there is no such program" NO_PYTHON, name);
}

/* A VM of such a module is this program again. */
static void find_module(struct arguments *a)
{
    if (!serve_is_module(a->rai)) {
        usage_error("--rai %s: there is no such module; give python, exec, native, or the path of "
                    "a shared object (PATH.so)", a->rai);
    }
    if (serve_check(a->rai, a->module) < 0) {
        usage_error("--rai: %s", fail_text());
    }
    ssize_t n = readlink("/proc/self/exe", a->self, sizeof(a->self) - 1);
    if (n <= 0) {
        usage_error("--rai %s: this program does not find itself: %s", a->rai, strerror(errno));
    }
    a->opt.command[0] = a->self;
    a->opt.command[1] = "--serve";
    a->opt.command[2] = a->module;
}

/* What is started for each VM. */
static void find_command(struct arguments *a)
{
    if (a->exec != NULL) {
        a->opt.command[0] = a->exec;
    } else if (a->rai != NULL) {
        find_module(a);
    } else {
        find_python(a);
        find_package(a);
        a->opt.command[0] = a->python;
        a->opt.command[1] = a->boot;
    }
}

/* Descriptors 0 to 2 are open, and nothing else that we were given goes on to the VMs. */
static void tidy_fds(void)
{
    int fd;
    do {
        fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    } while (fd >= 0 && fd <= 2);
    if (fd > 2) {
        close(fd);
    }
    for (fd = 0; fd <= 2; fd++) {
        fcntl(fd, F_SETFD, 0);
    }
    long max = sysconf(_SC_OPEN_MAX);
    for (fd = 3; fd < max && fd < 4096; fd++) {
        int flags = fcntl(fd, F_GETFD);
        if (flags >= 0) {
            fcntl(fd, F_SETFD, flags | FD_CLOEXEC);
        }
    }
}

int main(int argc, char **argv)
{
    static struct arguments a = {
        .name = TRICKLE_PYTHON,
        .opt = {.listening_fd = -1, .ready_fd = -1,
                .hold_seconds = SPOOL_DAYS * DAY_SECONDS, .hold_bytes = SPOOL_BYTES}};
    pid_t parent = getppid();
    int option;
    (void)mallopt(M_MMAP_THRESHOLD, LARGE_BLOCK); /* and does not rise: see python/ext/module.c */
    while ((option = getopt_long(argc, argv, "n:hV", long_options, NULL)) != -1) {
        parse_option(&a, option);
    }
    if (optind < argc && strcmp(argv[optind - 1], "--") == 0) {
        a.opt.wrap = argv + optind;
    } else if (optind < argc) {
        usage_error("%s: options only are expected; try trickle-vm --help", argv[optind]);
    }
    if (a.dies_with_parent) {
        a.opt.is_quiet = true; /* VMs of one run: its output is the program's */
        prctl(PR_SET_PDEATHSIG, SIGTERM);
        if (getppid() != parent) {
            return 0; /* it has ended before we could ask to be told */
        }
    }
    check_network(&a);
    find_command(&a);
    const char *multicast = getenv("TRICKLE_MULTICAST");
    a.opt.multicast = multicast != NULL && multicast[0] != '\0' ? multicast
                                                                : DISCOVERY_MULTICAST_DEFAULT;
    tidy_fds();
    int rc = supervisor_run(&a.opt);
    if (rc < 0) {
        const char *why = fail_text();
        fprintf(stderr, "trickle-vm: %s\n", why[0] != '\0' ? why : trk_strerror(rc));
        return 1;
    }
    return 0;
}
