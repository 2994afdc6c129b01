/* A load client that costs next to nothing: it sends one request again and again.
 *
 *   load --port N [--connections 1] [--seconds 3] [--rate 0] < request
 *
 * The request is raw HTTP/1.1 on standard input. Without a rate, a closed loop: each connection sends its next
 * request as soon as it has its answer. With one, an open loop: Poisson arrivals a second, on as many
 * connections as are free, timed from the intended send. Prints one line of JSON; `events` counts "data: " in
 * the bodies. An answer other than 200 is an error, and the first of them goes to standard error.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <math.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { HEAD = 16384, PIECE = 65536, DRAIN_S = 15 };
enum state { HEADERS, SIZED, SIZE_LINE, DATA, AFTER_DATA, TRAILER, UNTIL_CLOSE };

struct connection {
    int fd, status;
    bool busy, closing;
    enum state state;
    size_t head_size, left, line;
    int matched;               /* bytes of "data: " */
    uint64_t intended_ns;
    char head[HEAD + 1];
};

static char request[1 << 20];
static size_t request_size;
static int port, poller, idle_count, *idle;
static struct connection *connections;
static uint64_t end_ns, events, bytes, errors;
static double *latencies_us;
static size_t done, done_in_time, room;

static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void dial(struct connection *c) {
    int on = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(c->fd, (struct sockaddr *)&address, sizeof address)) {
        perror("load: connect");
        exit(1);
    }
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    struct epoll_event wanted = {.events = EPOLLIN, .data.ptr = c};
    epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &wanted);
    c->closing = false;
}

static void redial(struct connection *c) {
    close(c->fd);
    dial(c);
}

static void ask(struct connection *c, uint64_t intended_ns) {
    c->busy = true;
    c->state = HEADERS;
    c->head_size = c->line = 0;
    c->status = c->matched = 0;
    c->intended_ns = intended_ns;
    for (size_t sent = 0; sent < request_size;) {
        ssize_t wrote = send(c->fd, request + sent, request_size - sent, MSG_NOSIGNAL);
        if (wrote < 0 && sent == 0) redial(c); /* closed while it was idle */
        else if (wrote < 0) return;            /* told as a broken answer */
        else sent += (size_t)wrote;
    }
}

static void answered(struct connection *c, bool whole) {
    uint64_t now = now_ns();
    if (whole && c->status == 200) {
        if (done == room) latencies_us = realloc(latencies_us, (room = room ? room * 2 : 65536) * sizeof(double));
        latencies_us[done++] = (double)(now - c->intended_ns) / 1000;
        if (now <= end_ns) done_in_time++;
    } else if (!errors++) {
        fprintf(stderr, "load: first error: status %d%s\n%.*s\n", c->status, whole ? "" : ", broken",
                (int)(c->head_size > 1500 ? 1500 : c->head_size), c->head);
    }
    c->busy = false;
    if (!whole || c->closing) redial(c);
    idle[idle_count++] = (int)(c - connections);
}

static void count_events(struct connection *c, const char *data, size_t size) {
    bytes += size;
    for (size_t at = 0; at < size; at++) {
        c->matched = data[at] == "data: "[c->matched] ? c->matched + 1 : data[at] == 'd';
        if (c->matched == 6) {
            events++;
            c->matched = 0;
        }
    }
}

/* Chooses how the body ends; the head is complete. */
static void read_head(struct connection *c) {
    c->head[c->head_size] = 0;
    c->status = atoi(c->head + 9);
    const char *length = strcasestr(c->head, "\r\ncontent-length:");
    c->closing = strcasestr(c->head, "\r\nconnection: close") != NULL;
    if (strcasestr(c->head, "\r\ntransfer-encoding: chunked")) c->state = SIZE_LINE;
    else if (length) c->state = SIZED;
    else c->state = UNTIL_CLOSE;
    c->left = length ? strtoull(length + 17, NULL, 10) : 0;
}

/* Reads on; true at the end of the answer. */
static bool parse(struct connection *c, const char *data, size_t size) {
    size_t at = 0;
    while (at < size) {
        if (c->state == HEADERS) {
            c->head[c->head_size++] = data[at++];
            if (c->head_size == HEAD) { fprintf(stderr, "load: a head too large\n"); exit(1); }
            if (c->head_size < 4 || memcmp(c->head + c->head_size - 4, "\r\n\r\n", 4)) continue;
            read_head(c);
            if (c->state == SIZED && !c->left) return true;
        } else if (c->state == SIZED || c->state == DATA || c->state == UNTIL_CLOSE) {
            size_t piece = size - at;
            if (c->state != UNTIL_CLOSE && piece > c->left) piece = c->left;
            count_events(c, data + at, piece);
            if (c->status != 200 && c->head_size + piece < HEAD) { /* to be shown */
                memcpy(c->head + c->head_size, data + at, piece);
                c->head_size += piece;
            }
            at += piece;
            if (c->state == UNTIL_CLOSE || (c->left -= piece)) continue;
            if (c->state == SIZED) return true;
            c->state = AFTER_DATA;
        } else if (c->state == AFTER_DATA) { /* CRLF */
            if (data[at++] == '\n') c->state = SIZE_LINE;
        } else if (c->state == SIZE_LINE) {
            char byte = data[at++];
            if (byte == '\n') {
                c->state = c->left ? DATA : TRAILER;
                c->line = 0;
            } else if (byte != '\r' && byte != ';' && c->line != SIZE_MAX) {
                int digit = byte <= '9' ? byte - '0' : (byte | 32) - 'a' + 10;
                c->left = (c->line++ ? c->left * 16 : 0) + (size_t)digit;
            } else if (byte == ';') c->line = SIZE_MAX;
        } else { /* TRAILER: to an empty line */
            char byte = data[at++];
            if (byte == '\n' && !c->line) return true;
            c->line = byte == '\n' ? 0 : byte == '\r' ? c->line : c->line + 1;
        }
    }
    return false;
}

static void receive(struct connection *c) {
    static char piece[PIECE];
    ssize_t got = recv(c->fd, piece, sizeof piece, MSG_DONTWAIT);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) {
        if (!c->busy) return redial(c);
        bool whole = got == 0 && c->state == UNTIL_CLOSE;
        c->closing = true;
        return answered(c, whole);
    }
    if (c->busy && parse(c, piece, (size_t)got)) answered(c, true);
}

static int ascending(const void *a, const void *b) {
    double left = *(const double *)a, right = *(const double *)b;
    return (left > right) - (left < right);
}

static double quantile(double share) {
    if (!done) return 0;
    return latencies_us[(size_t)ceil(share * (double)done) - (share > 0)];
}

static void tell(double seconds, size_t unanswered) {
    double sum = 0;
    qsort(latencies_us, done, sizeof(double), ascending);
    for (size_t index = 0; index < done; index++) sum += latencies_us[index];
    printf("{\"requests\": %zu, \"per_s\": %.1f, \"errors\": %llu, \"unanswered\": %zu, \"events\": %llu, "
           "\"bytes\": %llu, \"mean_us\": %.1f, \"p50_us\": %.1f, \"p99_us\": %.1f, \"max_us\": %.1f}\n",
           done, (double)done_in_time / seconds, (unsigned long long)errors, unanswered,
           (unsigned long long)events, (unsigned long long)bytes, done ? sum / (double)done : 0, quantile(0.5),
           quantile(0.99), quantile(1));
}

int main(int count, char **words) {
    int wanted_connections = 1;
    double seconds = 3, rate = 0;
    for (int index = 1; index + 1 < count; index += 2) {
        double value = strtod(words[index + 1], NULL);
        if (!strcmp(words[index], "--port")) port = (int)value;
        else if (!strcmp(words[index], "--connections")) wanted_connections = (int)value;
        else if (!strcmp(words[index], "--seconds")) seconds = value;
        else if (!strcmp(words[index], "--rate")) rate = value;
        else return fprintf(stderr, "unknown: %s\n", words[index]), 2;
    }
    signal(SIGPIPE, SIG_IGN);
    request_size = fread(request, 1, sizeof request, stdin);
    poller = epoll_create1(EPOLL_CLOEXEC);
    connections = calloc((size_t)wanted_connections, sizeof *connections);
    idle = calloc((size_t)wanted_connections, sizeof *idle);
    for (int index = 0; index < wanted_connections; index++) {
        dial(&connections[index]);
        idle[idle_count++] = index;
    }
    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    struct epoll_event wanted = {.events = EPOLLIN, .data.ptr = NULL};
    epoll_ctl(poller, EPOLL_CTL_ADD, timer, &wanted);
    srand48(20261123);
    uint64_t arrival_ns = now_ns(), now;
    end_ns = arrival_ns + (uint64_t)(seconds * 1e9);
    while ((now = now_ns()) < end_ns + DRAIN_S * 1000000000ull) {
        if (now >= end_ns && idle_count == wanted_connections && (rate == 0 || arrival_ns >= end_ns)) break;
        while (idle_count && arrival_ns < end_ns && (rate > 0 ? arrival_ns <= now : now < end_ns)) {
            ask(&connections[idle[--idle_count]], rate > 0 ? arrival_ns : now_ns());
            if (rate > 0) arrival_ns += (uint64_t)(-log(1 - drand48()) / rate * 1e9);
        }
        if (rate > 0 && idle_count && arrival_ns < end_ns) {
            struct itimerspec at = {.it_value = {(time_t)(arrival_ns / 1000000000u),
                                                 (long)(arrival_ns % 1000000000u)}};
            timerfd_settime(timer, TFD_TIMER_ABSTIME, &at, NULL);
        }
        struct epoll_event ready[256];
        int some = epoll_wait(poller, ready, 256, 100);
        for (int index = 0; index < some; index++) {
            uint64_t expired;
            if (ready[index].data.ptr) receive(ready[index].data.ptr);
            else (void)!read(timer, &expired, sizeof expired);
        }
    }
    tell(seconds, (size_t)(wanted_connections - idle_count));
    return 0;
}
