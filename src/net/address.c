/* SPDX-License-Identifier: MIT */
/* address.c - see address.h. Names are never resolved here: that may block. */
#include "net/address.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/fail.h"

static int parse_unix(struct net_address *out, const char *path)
{
    struct sockaddr_un *un = (struct sockaddr_un *)&out->sa;
    size_t size = strlen(path);
    if (path[0] != '/' || size >= sizeof(un->sun_path)) {
        return fail(TRK_EINVAL, "unix:%s: needs an absolute path of less than %zu bytes", path,
                    sizeof(un->sun_path));
    }
    un->sun_family = AF_UNIX;
    memcpy(un->sun_path, path, size + 1);
    out->size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + size + 1);
    return 0;
}

static int parse_port(const char *text, const char *digits, uint16_t *port)
{
    size_t size = strspn(digits, "0123456789");
    if (size == 0 || size > 5 || digits[size] != '\0' || strtoul(digits, NULL, 10) > 65535) {
        return fail(TRK_EINVAL, "%s: the port must be a number from 0 to 65535", text);
    }
    *port = (uint16_t)strtoul(digits, NULL, 10);
    return 0;
}

static int parse_tcp(struct net_address *out, const char *text)
{
    char host[NET_ADDRESS_TEXT];
    const char *colon = strrchr(text, ':');
    if (colon == NULL || colon == text || (size_t)(colon - text) >= sizeof(host)) {
        return fail(TRK_EINVAL, "tcp:%s: not of the form tcp:HOST:PORT", text);
    }
    bool has_brackets = text[0] == '[' && colon[-1] == ']';
    size_t size = (size_t)(colon - text) - (has_brackets ? 2 : 0);
    memcpy(host, text + (has_brackets ? 1 : 0), size);
    host[size] = '\0';
    const struct addrinfo hints = {.ai_family = has_brackets ? AF_INET6 : AF_INET,
                                   .ai_socktype = SOCK_STREAM,
                                   .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV};
    struct addrinfo *info = NULL;
    uint16_t port;
    int rc = parse_port(text, colon + 1, &port);
    if (rc != 0) {
        return rc;
    }
    rc = getaddrinfo(host, colon + 1, &hints, &info);
    if (rc != 0) {
        return fail(TRK_EINVAL, "tcp:%s: not a numeric address: %s", text, gai_strerror(rc));
    }
    memcpy(&out->sa, info->ai_addr, info->ai_addrlen);
    out->size = info->ai_addrlen;
    freeaddrinfo(info);
    return 0;
}

int net_address_parse(struct net_address *out, const char *text)
{
    memset(out, 0, sizeof(*out));
    if (strncmp(text, "unix:", 5) == 0) {
        return parse_unix(out, text + 5);
    }
    if (strncmp(text, "tcp:", 4) == 0) {
        return parse_tcp(out, text + 4);
    }
    return fail(TRK_EINVAL, "%.100s: an address starts with unix: or tcp:", text);
}

void net_address_tcp(char *text, size_t size, const char *host, uint16_t port)
{
    snprintf(text, size, strchr(host, ':') != NULL ? "tcp:[%s]:%u" : "tcp:%s:%u", host, port);
}

/* A link-local one names its interface, which must be one of this machine: "fe80::1%eth0". */
static bool is_numeric(const char *host)
{
    const struct addrinfo hints = {.ai_family = AF_INET6, .ai_flags = AI_NUMERICHOST};
    struct addrinfo *info;
    struct in6_addr addr;
    if (inet_pton(AF_INET, host, &addr) == 1 || inet_pton(AF_INET6, host, &addr) == 1) {
        return true;
    }
    if (strchr(host, '%') == NULL || getaddrinfo(host, NULL, &hints, &info) != 0) {
        return false;
    }
    freeaddrinfo(info);
    return true;
}

int net_address_split(const char *text, char *host, size_t size, uint16_t *port)
{
    const char *begin = text, *end = text + strlen(text), *digits = NULL;
    const char *colon = strchr(text, ':');
    if (text[0] == '[') {
        begin = text + 1;
        end = strchr(text, ']');
        if (end == NULL || (end[1] != ':' && end[1] != '\0')) {
            return fail(TRK_EINVAL, "%s: give ADDR or ADDR:PORT, IPv6 as [ADDR]:PORT", text);
        }
        digits = end[1] == ':' ? end + 2 : NULL;
    } else if (colon != NULL && colon == strrchr(text, ':')) {
        end = colon;
        digits = colon + 1;
    }
    snprintf(host, size, "%.*s", (int)(end - begin), begin);
    if (strcmp(host, "localhost") == 0) {
        snprintf(host, size, "127.0.0.1");
    }
    if ((size_t)(end - begin) >= size || !is_numeric(host)) {
        return fail(TRK_EINVAL, "%s: give a numeric address, as 127.0.0.1 or [::1]", text);
    }
    return digits != NULL ? parse_port(text, digits, port) : 0;
}

static void format_unix(const struct net_address *a, char *text, size_t size)
{
    const struct sockaddr_un *un = (const struct sockaddr_un *)&a->sa;
    size_t length = a->size - offsetof(struct sockaddr_un, sun_path);
    length = strnlen(un->sun_path, length);
    if (length > 0 && un->sun_path[length - 1] == NET_UNIX_UNFINISHED) {
        length--;
    }
    snprintf(text, size, "unix:%.*s", (int)length, un->sun_path);
}

void net_address_format(const struct net_address *a, char *text, size_t size)
{
    if (a->sa.ss_family == AF_UNIX) {
        format_unix(a, text, size);
        return;
    }
    char host[NET_ADDRESS_TEXT - 16], port[8];
    const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)&a->sa;
    struct net_address ipv4 = {.size = sizeof(struct sockaddr_in)};
    if (a->sa.ss_family == AF_INET6 && IN6_IS_ADDR_V4MAPPED(&in6->sin6_addr)) {
        struct sockaddr_in *in = (struct sockaddr_in *)&ipv4.sa; /* on a socket for both */
        in->sin_family = AF_INET;
        in->sin_port = in6->sin6_port;
        memcpy(&in->sin_addr, in6->sin6_addr.s6_addr + 12, sizeof(in->sin_addr));
        a = &ipv4;
    }
    int rc = getnameinfo((const struct sockaddr *)&a->sa, a->size, host, sizeof(host), port,
                         sizeof(port), NI_NUMERICHOST | NI_NUMERICSERV);
    if (rc != 0) {
        snprintf(text, size, "?");
        return;
    }
    const char *form = a->sa.ss_family == AF_INET6 ? "tcp:[%s]:%s" : "tcp:%s:%s";
    snprintf(text, size, form, host, port);
}

void net_address_of_socket(int fd, char *text, size_t size)
{
    struct net_address a = {.size = sizeof(a.sa)};
    if (getsockname(fd, (struct sockaddr *)&a.sa, &a.size) != 0) {
        snprintf(text, size, "?");
        return;
    }
    net_address_format(&a, text, size);
}

void net_address_of_peer(int fd, char *text, size_t size)
{
    struct net_address a = {.size = sizeof(a.sa)};
    if (getpeername(fd, (struct sockaddr *)&a.sa, &a.size) != 0) {
        snprintf(text, size, "?");
        return;
    }
    if (a.sa.ss_family == AF_UNIX && a.size <= offsetof(struct sockaddr_un, sun_path)) {
        net_address_of_socket(fd, text, size);
        return;
    }
    net_address_format(&a, text, size);
}

static int family_of(int fd)
{
    int family = AF_UNSPEC;
    socklen_t size = sizeof(family);
    getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &family, &size);
    return family;
}

bool net_socket_is_unix(int fd) { return family_of(fd) == AF_UNIX; }

static void set_option(int fd, int level, int name, int value)
{
    /* All of them only make things better: a kernel that refuses one is no reason to fail. */
    (void)!setsockopt(fd, level, name, &value, sizeof(value));
}

void net_socket_tune(int fd)
{
    if (family_of(fd) == AF_UNIX) {
        set_option(fd, SOL_SOCKET, SO_SNDBUF, 1 << 20);
        return;
    }
    set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
    set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, 30);
    set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, 10);
    set_option(fd, IPPROTO_TCP, TCP_KEEPCNT, 3);
    /* What waits unsent in the kernel cannot be overtaken by a control message. */
    set_option(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, 256 * 1024);
}

int net_socket_check_peer(int fd, uint32_t *pid)
{
    *pid = 0;
    if (family_of(fd) != AF_UNIX) {
        return 0;
    }
    struct ucred cred;
    socklen_t size = sizeof(cred);
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &size) != 0) {
        return fail(TRK_EIO, "cannot tell who is at the other end: %s", strerror(errno));
    }
    if (cred.uid != geteuid()) {
        return fail(TRK_EDENIED, "the process at the other end belongs to user %u, not to user %u",
                    (unsigned)cred.uid, (unsigned)geteuid());
    }
    *pid = cred.pid > 0 ? (uint32_t)cred.pid : 0;
    return 0;
}
