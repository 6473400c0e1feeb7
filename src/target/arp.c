#include "target/arp.h"
#include "base/clock.h"
#include "base/mem.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <netinet/if_ether.h>
#include <netpacket/packet.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define QUESTION_EVERY_MS 100
#define LAST_ANSWER_MS 250

struct order {
    int netns_fd, socket_fd, error_number;
};

/* A socket belongs to the namespace in which it was made: a short-lived thread goes there and makes it. */
static void *make_socket(void *user)
{
    struct order *order = user;

    if (setns(order->netns_fd, CLONE_NEWNET) == 0)
        order->socket_fd = socket(AF_PACKET, SOCK_DGRAM | SOCK_CLOEXEC, htons(ETH_P_ARP));
    if (order->socket_fd < 0)
        order->error_number = errno;
    return NULL;
}

static int socket_in(const char *netns_path, struct err *e)
{
    struct order order = {open(netns_path, O_RDONLY | O_CLOEXEC), -1, 0};
    pthread_t thread;
    int reason;

    if (order.netns_fd < 0)
        return err_errno(e, errno, "can't open the network namespace %s", netns_path);
    reason = pthread_create(&thread, NULL, make_socket, &order);
    if (reason == 0)
        pthread_join(thread, NULL);
    close(order.netns_fd);
    if (reason || order.socket_fd < 0)
        return err_errno(e, reason ? reason : order.error_number, "can't make a packet socket in %s", netns_path);
    return order.socket_fd;
}

int arp_open(const char *netns_path, const char *interface, uint8_t mac[6], struct err *e)
{
    CLEANUP(close_fd) int fd = socket_in(netns_path, e);
    struct sockaddr_ll at = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ARP)};
    struct ifreq request = {0};
    int kept;

    if (fd < 0)
        return -1;
    snprintf(request.ifr_name, sizeof request.ifr_name, "%s", interface);
    if (ioctl(fd, SIOCGIFINDEX, &request) < 0)
        return err_errno(e, errno, "can't find the interface %s in %s", interface, netns_path);
    at.sll_ifindex = request.ifr_ifindex;
    if (ioctl(fd, SIOCGIFHWADDR, &request) < 0 || bind(fd, (struct sockaddr *)&at, sizeof at) < 0)
        return err_errno(e, errno, "can't use the interface %s in %s", interface, netns_path);
    memcpy(mac, request.ifr_hwaddr.sa_data, 6);
    kept = fd;
    fd = -1;
    return kept;
}

/* Sends one packet to the hardware address `to`. */
static int send_arp(int fd, const struct ether_arp *packet, const uint8_t to[6], struct err *e)
{
    struct sockaddr_ll at = {0};
    socklen_t size = sizeof at;

    if (getsockname(fd, (struct sockaddr *)&at, &size) < 0)
        return err_errno(e, errno, "can't send to the network");
    at.sll_halen = 6;
    memcpy(at.sll_addr, to, 6);
    if (sendto(fd, packet, sizeof *packet, 0, (struct sockaddr *)&at, sizeof at) != (ssize_t)sizeof *packet)
        return err_errno(e, errno, "can't send to the network");
    return 0;
}

static struct ether_arp make_packet(uint16_t operation, const uint8_t sender_mac[6], uint32_t sender, uint32_t target)
{
    struct ether_arp packet = {.ea_hdr = {htons(ARPHRD_ETHER), htons(ETH_P_IP), 6, 4, htons(operation)}};

    sender = htonl(sender);
    target = htonl(target);
    memcpy(packet.arp_sha, sender_mac, 6);
    memcpy(packet.arp_spa, &sender, 4);
    memcpy(packet.arp_tpa, &target, 4);
    return packet;
}

/* From no address: it teaches nobody anything. */
static int ask(int fd, uint32_t address, struct err *e)
{
    static const uint8_t all[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
    struct sockaddr_ll own = {0};
    socklen_t size = sizeof own;
    struct ether_arp packet;

    if (getsockname(fd, (struct sockaddr *)&own, &size) < 0)
        return err_errno(e, errno, "can't ask the network");
    packet = make_packet(ARPOP_REQUEST, own.sll_addr, 0, address);
    return send_arp(fd, &packet, all, e);
}

/* Waits for whoever says that it has one of the addresses: 1, *which and its hardware address; 0: nobody until then; -1. */
static int hear(int fd, const uint32_t *addresses, int count, int timeout_ms, int *which, uint8_t mac[6], struct err *e)
{
    int64_t until_us = clock_monotonic_us() + timeout_ms * US_PER_MS;

    for (;;) {
        struct pollfd p = {fd, POLLIN, 0};
        int64_t left_us = until_us - clock_monotonic_us();
        struct ether_arp packet;
        ssize_t got;

        if (left_us <= 0 || poll(&p, 1, (int)(left_us / US_PER_MS) + 1) == 0)
            return 0;
        got = recv(fd, &packet, sizeof packet, MSG_DONTWAIT);
        if (got < 0 && errno != EAGAIN && errno != EINTR)
            return err_errno(e, errno, "can't hear the network's answer");
        for (int i = 0; got == (ssize_t)sizeof packet && ntohs(packet.ea_hdr.ar_op) == ARPOP_REPLY && i < count; i++) {
            uint32_t wanted = htonl(addresses[i]);

            if (memcmp(packet.arp_spa, &wanted, 4) == 0) {
                memcpy(mac, packet.arp_sha, 6);
                *which = i;
                return 1;
            }
        }
    }
}

int arp_ask(int fd, uint32_t address, uint8_t mac[6], int timeout_ms, struct err *e)
{
    int which;

    return ask(fd, address, e) < 0 ? -1 : hear(fd, &address, 1, timeout_ms, &which, mac, e);
}

int arp_taken(int fd, const uint32_t *addresses, int count, int *which, uint8_t mac[6], struct err *e)
{
    for (int round = 0; count > 0 && round < ARP_QUESTIONS; round++) {
        int heard;

        for (int i = 0; i < count; i++)
            if (ask(fd, addresses[i], e) < 0)
                return -1;
        heard = hear(fd, addresses, count, round < ARP_QUESTIONS - 1 ? QUESTION_EVERY_MS : LAST_ANSWER_MS, which, mac, e);
        if (heard)
            return heard;
    }
    return 0;
}

int arp_tell(int fd, uint32_t address, const uint8_t mac[6], uint32_t to_address, const uint8_t to_mac[6], struct err *e)
{
    struct ether_arp packet = make_packet(ARPOP_REPLY, mac, address, to_address);

    memcpy(packet.arp_tha, to_mac, 6);
    return send_arp(fd, &packet, to_mac, e);
}
