/* A stand-in for a provider: answers every chat completion with the same text, faster than a gateway can ask.
 *
 *   stub [--port 0] [--delay-ms 0] [--chunks 64] [--chunk-delay-us 0]
 *
 * Prints "port N" when it listens on 127.0.0.1. A request whose body has "stream":true gets server-sent
 * events: `chunks` of them, the last with its finish_reason, then the usage, then [DONE], each written by
 * itself. GET /set?delay_ms=50&chunk_delay_us=0 changes the delays. One thread, epoll, no dependency.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
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

enum { MAX_REQUEST = 8 << 20, MAX_CHUNKS = 4096, EVENTS = 256 };

struct part { char *data; size_t size; };

struct connection {
    int fd;
    char *in;                   /* what was received and not yet answered */
    size_t received, capacity;
    const struct part *parts;   /* of the answer under way; NULL between requests */
    int part, part_count;
    size_t sent;                /* of the part */
    bool paced, closing, blocked;
    uint64_t due_ns;
    struct queue *queue;        /* that it waits in, or NULL */
    struct connection *before, *after;
};

/* First in, first out: all that wait in one queue wait equally long. */
struct queue { struct connection *first, *last; };

static struct part buffered, missing, listed, streamed[MAX_CHUNKS + 3];
static int streamed_count, poller;
static uint64_t delay_ns, chunk_delay_ns;
static struct queue delayed, pacing;

static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static struct part part_of(const char *head, const char *body, const char *tail) {
    struct part made;
    made.size = (size_t)asprintf(&made.data, "%s%s%s", head, body, tail);
    return made;
}

static struct part json_reply(const char *status, const char *body) {
    char head[256];
    snprintf(head, sizeof head,
             "HTTP/1.1 %s\r\nContent-Type: application/json\r\nx-request-id: req_0123456789abcdef\r\n"
             "openai-processing-ms: 1\r\nContent-Length: %zu\r\n\r\n", status, strlen(body));
    return part_of(head, body, "");
}

/* One event as one piece of a body in chunked transfer coding. */
static struct part event(const char *json, const char *tail) {
    char head[16], *body;
    int size = asprintf(&body, "data: %s\n\n", json);
    snprintf(head, sizeof head, "%x\r\n", size);
    struct part made = part_of(head, body, tail);
    free(body);
    return made;
}

static void prepare(int chunks) {
    static const char *words[] = {" The", " order", " was", " sent", " on", " Monday", " and", " arrives"};
    const char *common = "{\"id\":\"chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT\",\"object\":\"chat.completion.chunk\","
                         "\"created\":1741569952,\"model\":\"stub-model\",\"service_tier\":\"default\","
                         "\"system_fingerprint\":\"fp_44709d6fcb\",";
    char json[1024];
    buffered = json_reply("200 OK",
        "{\"id\":\"chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT\",\"object\":\"chat.completion\",\"created\":1741569952,"
        "\"model\":\"stub-model\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":"
        "\"The order was sent on Monday and arrives within three working days.\",\"refusal\":null},"
        "\"logprobs\":null,\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":19,\"completion_tokens\":14,"
        "\"total_tokens\":33,\"prompt_tokens_details\":{\"cached_tokens\":0},"
        "\"completion_tokens_details\":{\"reasoning_tokens\":0}},\"service_tier\":\"default\"}");
    missing = json_reply("404 Not Found", "{\"error\":{\"message\":\"no such path\",\"type\":\"invalid_request_error\"}}");
    listed = json_reply("200 OK", "{\"object\":\"list\",\"data\":[{\"id\":\"stub-model\",\"object\":\"model\"}]}");
    streamed[streamed_count++] = part_of(
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nCache-Control: no-cache\r\n",
        "x-request-id: req_0123456789abcdef\r\n", "Transfer-Encoding: chunked\r\n\r\n");
    for (int index = 0; index < chunks; index++) {
        const char *role = index ? "" : "\"role\":\"assistant\",";
        const char *finish = index == chunks - 1 ? "\"stop\"" : "null";
        snprintf(json, sizeof json,
                 "%s\"choices\":[{\"index\":0,\"delta\":{%s\"content\":\"%s\"},\"logprobs\":null,"
                 "\"finish_reason\":%s}],\"usage\":null}", common, role, words[index % 8], finish);
        streamed[streamed_count++] = event(json, "\r\n");
    }
    snprintf(json, sizeof json,
             "%s\"choices\":[],\"usage\":{\"prompt_tokens\":19,\"completion_tokens\":%d,\"total_tokens\":%d}}",
             common, chunks, 19 + chunks);
    streamed[streamed_count++] = event(json, "\r\n");
    streamed[streamed_count++] = event("[DONE]", "\r\n0\r\n\r\n");
}

static void leave(struct connection *c) {
    struct queue *queue = c->queue;
    if (!queue) return;
    *(c->before ? &c->before->after : &queue->first) = c->after;
    *(c->after ? &c->after->before : &queue->last) = c->before;
    c->queue = NULL;
}

static void wait_in(struct queue *queue, struct connection *c, uint64_t delay) {
    c->due_ns = now_ns() + delay;
    c->queue = queue;
    c->before = queue->last;
    c->after = NULL;
    *(queue->last ? &queue->last->after : &queue->first) = c;
    queue->last = c;
}

static void end(struct connection *c) {
    leave(c);
    close(c->fd);
    free(c->in);
    free(c);
}

static void want(struct connection *c, bool writing) {
    if (c->blocked == writing) return;
    c->blocked = writing;
    struct epoll_event wanted = {.events = EPOLLIN | EPOLLRDHUP | (writing ? EPOLLOUT : 0u), .data.ptr = c};
    epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &wanted);
}

/* A header's value within the head, which ends with CRLF; NULL without it. */
static const char *header(const char *head, const char *name) {
    size_t size = strlen(name);
    for (const char *line = strstr(head, "\r\n"); line; line = strstr(line, "\r\n")) {
        line += 2;
        if (!strncasecmp(line, name, size) && line[size] == ':') {
            for (line += size + 1; *line == ' ' || *line == '\t';) line++;
            return line;
        }
    }
    return NULL;
}

/* Bytes that a body in chunked transfer coding takes: 0 while it is not complete, -1 if it is none. */
static long chunked_size(const char *body, size_t size) {
    size_t at = 0;
    for (;;) {
        const char *line = memmem(body + at, size - at, "\r\n", 2);
        if (!line) return 0;
        char *after;
        unsigned long piece = strtoul(body + at, &after, 16);
        if (after == body + at || piece > MAX_REQUEST) return -1;
        at = (size_t)(line + 2 - body);
        if (!piece) { /* the trailer ends with an empty line */
            for (;;) {
                line = memmem(body + at, size - at, "\r\n", 2);
                if (!line) return 0;
                bool empty = line == body + at;
                at = (size_t)(line + 2 - body);
                if (empty) return (long)at;
            }
        }
        at += piece + 2;
        if (at > size) return 0;
    }
}

static bool wants_stream(const char *body, size_t size) {
    const char *at = body, *stop = body + size;
    while ((at = memmem(at, (size_t)(stop - at), "\"stream\"", 8))) {
        at += 8;
        const char *value = at;
        while (value < stop && strchr(" \t\r\n:", *value)) value++;
        if (stop - value >= 4 && !memcmp(value, "true", 4)) return true;
    }
    return false;
}

static void set_delays(const char *target) {
    const char *found = strstr(target, "chunk_delay_us=");
    if (found) chunk_delay_ns = strtoull(found + 15, NULL, 10) * 1000;
    if ((found = strstr(target, "?delay_ms=")) || (found = strstr(target, "&delay_ms=")))
        delay_ns = strtoull(found + 10, NULL, 10) * 1000000;
}

/* Takes one whole request off the input and chooses its answer.
 * 1: done; 0: the request is not complete; -1: it is none, or too large. */
static int take_request(struct connection *c) {
    char *head_end = c->received ? memmem(c->in, c->received, "\r\n\r\n", 4) : NULL;
    if (!head_end) return c->received > 65536 ? -1 : 0;
    char *body = head_end + 4;
    size_t head_size = (size_t)(body - c->in), there = c->received - head_size;
    char kept = head_end[2];
    head_end[2] = 0; /* the head as a string, its last line's CRLF included */
    const char *length = header(c->in, "content-length"), *coding = header(c->in, "transfer-encoding");
    const char *connection = header(c->in, "connection");
    bool close_after = connection && !strncasecmp(connection, "close", 5);
    bool chunked = coding && !strncasecmp(coding, "chunked", 7);
    size_t body_size = length ? strtoull(length, NULL, 10) : 0;
    bool post = !strncmp(c->in, "POST ", 5), get = !strncmp(c->in, "GET ", 4);
    const char *target_end = strchr(c->in, '\r');
    bool completion = post && memmem(c->in, (size_t)(target_end - c->in), "/chat/completions ", 18);
    bool setting = get && !strncmp(c->in + 4, "/set?", 5);
    if (chunked) {
        head_end[2] = kept;
        long size = chunked_size(body, there);
        if (size <= 0) return (int)size;
        body_size = (size_t)size;
        head_end[2] = 0;
    }
    if (body_size > MAX_REQUEST) return -1;
    if (setting) set_delays(c->in);
    head_end[2] = kept;
    if (there < body_size) return 0;
    bool stream = completion && wants_stream(body, body_size);
    c->parts = stream ? streamed : completion ? &buffered : get ? &listed : &missing;
    c->part_count = stream ? streamed_count : 1;
    c->part = 0;
    c->sent = 0;
    c->paced = stream && chunk_delay_ns;
    c->closing = close_after;
    c->received -= head_size + body_size;
    memmove(c->in, body + body_size, c->received);
    if (completion && delay_ns) wait_in(&delayed, c, delay_ns);
    return 1;
}

/* Writes what may be written now. 1: the answer is complete; 0: it waits; -1: the connection is broken. */
static int write_parts(struct connection *c) {
    while (c->part < c->part_count) {
        const struct part *part = &c->parts[c->part];
        ssize_t wrote = send(c->fd, part->data + c->sent, part->size - c->sent, MSG_NOSIGNAL);
        if (wrote < 0) {
            if (errno != EAGAIN) return -1;
            want(c, true);
            return 0;
        }
        c->sent += (size_t)wrote;
        if (c->sent < part->size) continue;
        c->sent = 0;
        c->part++;
        if (c->paced && c->part > 1 && c->part < c->part_count) {
            wait_in(&pacing, c, chunk_delay_ns);
            return 0;
        }
    }
    want(c, false);
    c->parts = NULL;
    return c->closing ? -1 : 1;
}

/* Answers as many requests as have come in; ends the connection when it is broken. */
static void serve(struct connection *c) {
    for (;;) {
        if (!c->parts) {
            int taken = take_request(c);
            if (taken < 0) return end(c);
            if (!taken) return;
        }
        if (c->queue) return;
        int written = write_parts(c);
        if (written < 0) return end(c);
        if (!written) return;
    }
}

static void receive(struct connection *c) {
    if (c->capacity - c->received < 4096) {
        if (c->capacity >= 2 * MAX_REQUEST) return end(c);
        c->capacity = c->capacity ? c->capacity * 2 : 16384;
        c->in = realloc(c->in, c->capacity);
    }
    ssize_t got = recv(c->fd, c->in + c->received, c->capacity - c->received, 0);
    if (got == 0 || (got < 0 && errno != EAGAIN)) return end(c);
    if (got < 0) return;
    c->received += (size_t)got;
    serve(c);
}

static void welcome(int listener) {
    int fd, on = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        struct connection *c = calloc(1, sizeof *c);
        c->fd = fd;
        struct epoll_event wanted = {.events = EPOLLIN | EPOLLRDHUP, .data.ptr = c};
        epoll_ctl(poller, EPOLL_CTL_ADD, fd, &wanted);
    }
}

static void wake(struct queue *queue, uint64_t now) {
    while (queue->first && queue->first->due_ns <= now) {
        struct connection *c = queue->first;
        leave(c);
        serve(c);
    }
}

/* Sets the timer to the earliest that is due. */
static void arm(int timer) {
    static uint64_t armed;
    uint64_t due = delayed.first ? delayed.first->due_ns : 0;
    if (pacing.first && (!due || pacing.first->due_ns < due)) due = pacing.first->due_ns;
    if (!due || due == armed) return;
    armed = due;
    struct itimerspec at = {.it_value = {(time_t)(due / 1000000000u), (long)(due % 1000000000u)}};
    timerfd_settime(timer, TFD_TIMER_ABSTIME, &at, NULL);
}

int main(int count, char **words) {
    int port = 0, chunks = 64, on = 1;
    for (int index = 1; index + 1 < count; index += 2) {
        long value = strtol(words[index + 1], NULL, 10);
        if (!strcmp(words[index], "--port")) port = (int)value;
        else if (!strcmp(words[index], "--delay-ms")) delay_ns = (uint64_t)value * 1000000u;
        else if (!strcmp(words[index], "--chunks") && value > 0 && value <= MAX_CHUNKS) chunks = (int)value;
        else if (!strcmp(words[index], "--chunk-delay-us")) chunk_delay_ns = (uint64_t)value * 1000u;
        else return fprintf(stderr, "unknown: %s %s\n", words[index], words[index + 1]), 2;
    }
    signal(SIGPIPE, SIG_IGN);
    prepare(chunks);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    if (bind(listener, (struct sockaddr *)&address, size) || listen(listener, 1024)) return perror("stub"), 1;
    getsockname(listener, (struct sockaddr *)&address, &size);
    printf("port %d\n", ntohs(address.sin_port));
    fflush(stdout);

    poller = epoll_create1(EPOLL_CLOEXEC);
    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    struct epoll_event wanted = {.events = EPOLLIN, .data.ptr = &listener};
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &wanted);
    wanted.data.ptr = &timer;
    epoll_ctl(poller, EPOLL_CTL_ADD, timer, &wanted);
    for (;;) {
        struct epoll_event events[EVENTS];
        int ready = epoll_wait(poller, events, EVENTS, -1);
        if (ready < 0 && errno != EINTR) return perror("stub"), 1;
        for (int index = 0; index < ready; index++) {
            void *about = events[index].data.ptr;
            uint64_t expired;
            if (about == &listener) welcome(listener);
            else if (about == &timer) (void)!read(timer, &expired, sizeof expired);
            else if (events[index].events & (EPOLLIN | EPOLLHUP | EPOLLERR | EPOLLRDHUP)) receive(about);
            else serve(about);
        }
        /* After the events: a connection that ends here stands in none of them any more. */
        uint64_t now = now_ns();
        wake(&delayed, now);
        wake(&pacing, now);
        arm(timer);
    }
}
