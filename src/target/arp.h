/* arp: asks who has an address, and tells it to one who may remember another (RFC 826; probes as in RFC 5227). Used inside an instance's
 * network namespace. */
#pragma once

#include "base/err.h"

#include <stdint.h>

/* A packet socket bound to the interface of that namespace; its hardware address goes to mac. */
int arp_open(const char *netns_path, const char *interface, uint8_t mac[6], struct err *e);
/* 1: address answers, its hardware address is in mac; 0: nobody did within timeout_ms; -1. */
int arp_ask(int fd, uint32_t address, uint8_t mac[6], int timeout_ms, struct err *e);
/* Whether one of the addresses is somebody's: each is asked for ARP_QUESTIONS times, for a frame may get lost, within half a second for all of them.
 * 1: *which is, and its hardware address is in mac; 0: nobody answered; -1. */
#define ARP_QUESTIONS 4
int arp_taken(int fd, const uint32_t *addresses, int count, int *which, uint8_t mac[6], struct err *e);
/* Tells `to` (hardware and IP address) that `address` is at `mac`. */
int arp_tell(int fd, uint32_t address, const uint8_t mac[6], uint32_t to_address, const uint8_t to_mac[6], struct err *e);
