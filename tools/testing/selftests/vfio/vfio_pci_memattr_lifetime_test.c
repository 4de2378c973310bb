// SPDX-License-Identifier: GPL-2.0-only
/*
 * The memory type of a DMABUF's pages lasts for as long as it can be mapped: not a
 * moment less, whatever the memory is up to meanwhile, and not longer, whoever keeps
 * the DMABUF.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include <sys/mman.h>

#include <linux/compiler.h>
#include <linux/pci_regs.h>
#include <linux/sizes.h>
#include <linux/vfio.h>

#include <libvfio.h>

#include "kselftest_harness.h"

#define DRIVER		"vfio-pci"

static const char *device_bdf;

/* What a process that is not the owner finds, which is asked for it as VFIO_ASSERTs. */
static void check_wc(const void *vaddr, size_t size)
{
	struct page_table_entry entry;

	VFIO_ASSERT_TRUE(mmio_try_touch(vaddr + size / 2));
	if (!memory_types_shown())
		return;
	VFIO_ASSERT_EQ(page_table_entry_read(vaddr + size / 2, &entry), 0);
	VFIO_ASSERT_EQ(entry.cache, CACHE_WRITE_COMBINING);
	VFIO_ASSERT_EQ(entry.size, size);
}

/* Who has a DMABUF can keep it, and it is over all the same. */
FIXTURE(vfio_pci_memattr_end_test) {
	struct memattr_test test;
};

FIXTURE_VARIANT(vfio_pci_memattr_end_test) {
	bool close;
	bool unbind;
	bool disabled;
};

#define END(_variant) FIXTURE_VARIANT_ADD(vfio_pci_memattr_end_test, _variant)

END(revoke) { false, false, false };
END(revoke_while_disabled) { false, false, true };
END(close) { true, false, false };
END(close_while_disabled) { true, false, true };
END(unbind) { true, true, false };

FIXTURE_SETUP(vfio_pci_memattr_end_test)
{
	const char *reason = memattr_open_wc(&self->test, device_bdf);

	if (reason)
		SKIP(return, "%s", reason);
}

FIXTURE_TEARDOWN(vfio_pci_memattr_end_test)
{
	memattr_close(&self->test);
}

#define end_variant		FIXTURE_VARIANT(vfio_pci_memattr_end_test)

#define END_PAGES	4

/* Keep all of it: the fd, a handle of its path, a mapping. */
static int keep_all(int sock, void *arg)
{
	const size_t size = END_PAGES * getpagesize();
	int fd = recv_fd(sock), handle;
	char path[64];
	void *vaddr;

	snprintf_assert(path, sizeof(path), "/proc/self/fd/%d", fd);
	handle = open(path, O_PATH);
	VFIO_ASSERT_GE(handle, 0);
	vaddr = memattr_map(fd, 0, size);
	check_wc(vaddr, getpagesize());
	client_sync(sock);

	/* It is over, and somebody else has had the pages. */
	client_sync(sock);
	VFIO_ASSERT_FALSE(mmio_try_touch(vaddr));
	VFIO_ASSERT_FALSE(mmio_try_touch(vaddr + size - sizeof(u32)));
	VFIO_ASSERT_EQ(mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0), MAP_FAILED);
	VFIO_ASSERT_EQ(errno, ENODEV);
	client_sync(sock);

	/* And has them now. */
	client_sync(sock);
	VFIO_ASSERT_FALSE(mmio_try_touch(vaddr + size - sizeof(u32)));
	VFIO_ASSERT_EQ(munmap(vaddr, size), 0);
	VFIO_ASSERT_EQ(close(fd), 0);
	VFIO_ASSERT_EQ(close(handle), 0);
	return 0;
}

/* Keep a handle of the path, which keeps no file. */
static int keep_path(int sock, void *arg)
{
	int fd = recv_fd(sock), handle;
	char path[64];

	snprintf_assert(path, sizeof(path), "/proc/self/fd/%d", fd);
	handle = open(path, O_PATH);
	VFIO_ASSERT_GE(handle, 0);
	VFIO_ASSERT_EQ(close(fd), 0);
	client_sync(sock);
	client_sync(sock);
	client_sync(sock);
	client_sync(sock);
	VFIO_ASSERT_EQ(close(handle), 0);
	return 0;
}

static void end_and_check(struct __test_metadata *_metadata, struct memattr_test *test,
			  const end_variant *variant,
			  int (*main)(int sock, void *arg))
{
	const size_t page = test->page_size, size = END_PAGES * page;
	struct client *client = &test->client;
	struct memattr_holder next;
	int fd, type;

	*client = client_start(main, NULL);
	fd = memattr_export_wc(test, 4 * page, size);
	ASSERT_LE(0, fd);
	send_fd(client->sock, fd);
	client_sync(client->sock);
	ASSERT_TYPES(1, memattr_nr_exact(test, 4 * page, size, TYPE_WRITE_COMBINING));
	memattr_expect_taken(test, 4 * page, page);

	if (variant->disabled)
		vfio_pci_memory_decode.disable(test->device);
	if (variant->close) {
		vfio_pci_device_close(test->device);
		test->device = NULL;
		/* All is as if there had been no vfio. */
		expect_memory_types(test->types);
		if (variant->unbind) {
			sysfs_driver_unbind(DRIVER, device_bdf);
			expect_memory_types(test->types);
			sysfs_driver_bind(DRIVER, device_bdf);
		}
		test->device = vfio_pci_device_open(device_bdf, default_iommu_mode);
		ASSERT_TYPES(1, memattr_nr_exact(test, 0, test->size, TYPE_UNCACHED_MINUS));
	} else {
		vfio_pci_dmabuf_revoke(test->device, fd);
		if (variant->disabled)
			vfio_pci_memory_decode.enable(test->device);
	}
	ASSERT_TYPES(0, memattr_nr_types(test, TYPE_WRITE_COMBINING));
	memattr_expect_free(test, 4 * page, size);
	client_sync(client->sock);
	client_sync(client->sock);

	for (type = NR_MEMATTR_TYPES - 1; type >= 0; type--) {
		ASSERT_EQ(0, memattr_hold(test, &next, type, 4 * page, size));
		if (type)
			memattr_let_go(&next);
	}
	client_sync(client->sock);
	ASSERT_EQ(0, client_finish(client));
	ASSERT_TRUE(mmio_try_touch(next.vaddr));
	expect_uncached(next.vaddr);
	memattr_let_go(&next);

	/* The owner had it all the time as well. */
	ASSERT_EQ(0, close(fd));
	memattr_expect_free(test, 4 * page, size);
}

TEST_F(vfio_pci_memattr_end_test, client_keeps_all)
{
	end_and_check(_metadata, &self->test, variant, keep_all);
}

TEST_F(vfio_pci_memattr_end_test, client_keeps_path)
{
	end_and_check(_metadata, &self->test, variant, keep_path);
}

/* No fd and no mapping is left, but a handle of the path: until the last close at most */
TEST_F(vfio_pci_memattr_end_test, only_path_is_left)
{
	struct memattr_test *test = &self->test;
	const size_t page = test->page_size;
	struct client *client = &test->client;
	int fd;

	if (!variant->close || variant->disabled)
		SKIP(return, "Without an fd there is nothing to revoke");

	*client = client_start(keep_path, NULL);
	fd = memattr_export_wc(test, 4 * page, page);
	ASSERT_LE(0, fd);
	send_fd(client->sock, fd);
	ASSERT_EQ(0, close(fd));
	client_sync(client->sock);

	vfio_pci_device_close(test->device);
	test->device = NULL;
	expect_memory_types(test->types);
	if (variant->unbind) {
		sysfs_driver_unbind(DRIVER, device_bdf);
		sysfs_driver_bind(DRIVER, device_bdf);
	}
	test->device = vfio_pci_device_open(device_bdf, default_iommu_mode);
	memattr_expect_free(test, 4 * page, page);
	client_sync(client->sock);
	client_sync(client->sock);
	client_sync(client->sock);
	ASSERT_EQ(0, client_finish(client));
	memattr_expect_free(test, 4 * page, page);
}

/* The memory goes away for a while. Its type does not. */
FIXTURE(vfio_pci_memattr_event_test) {
	struct memattr_test test;
};

FIXTURE_VARIANT(vfio_pci_memattr_event_test) {
	const struct vfio_pci_memory_event *event;
};

#define EVENT(_variant) FIXTURE_VARIANT_ADD(vfio_pci_memattr_event_test, _variant)

EVENT(memory_decode) { &vfio_pci_memory_decode };
EVENT(d3hot) { &vfio_pci_d3hot };
EVENT(external_reset) { &vfio_pci_external_reset };
EVENT(low_power) { &vfio_pci_low_power };
EVENT(function_reset) { &vfio_pci_function_reset };
EVENT(hot_reset) { &vfio_pci_hot_reset };
EVENT(flr) { &vfio_pci_flr };

FIXTURE_SETUP(vfio_pci_memattr_event_test)
{
	const char *reason = memattr_open_wc(&self->test, device_bdf);

	if (!reason)
		reason = variant->event->unsupported(self->test.device);
	if (reason)
		SKIP(return, "%s", reason);
}

FIXTURE_TEARDOWN(vfio_pci_memattr_event_test)
{
	memattr_close(&self->test);
}

TEST_F(vfio_pci_memattr_event_test, stays_write_combining)
{
	const struct vfio_pci_memory_event *event = variant->event;
	struct memattr_test *test = &self->test;
	const size_t page = test->page_size;
	struct memattr_holder wc, uc, late;
	int round;

	ASSERT_EQ(0, memattr_hold(test, &wc, MEMATTR_WC, 4 * page, 4 * page));
	ASSERT_EQ(0, memattr_hold(test, &uc, MEMATTR_UC, 8 * page, 4 * page));
	for (round = 0; round < 2; round++) {
		event->disable(test->device);
		ASSERT_TYPES(1, memattr_nr_types(test, NULL));
		if (event->enable) {
			ASSERT_FALSE(mmio_try_touch(wc.vaddr));
			ASSERT_FALSE(mmio_try_touch(uc.vaddr));
			/* The type is that of the page, be it there or not. */
			memattr_expect_taken(test, 5 * page, page);
			ASSERT_EQ(-EBUSY, memattr_export_wc(test, 10 * page, page));
			event->enable(test->device);
		}
		ASSERT_TRUE(mmio_try_touch(wc.vaddr + page));
		ASSERT_TRUE(mmio_try_touch(uc.vaddr + page));
		expect_write_combining(wc.vaddr + page);
		expect_uncached(uc.vaddr + page);
		memattr_expect_taken(test, 5 * page, page);
		ASSERT_EQ(-EBUSY, memattr_export_wc(test, 10 * page, page));
		ASSERT_TYPES(1, memattr_nr_exact(test, 4 * page, 4 * page, TYPE_WRITE_COMBINING));
	}

	/* What comes and goes meanwhile */
	memattr_let_go(&uc);
	event->disable(test->device);
	ASSERT_EQ(0, memattr_try_export(test, ATTR_WC, 12 * page, page));
	late.fd = memattr_export_wc(test, 8 * page, 2 * page);
	ASSERT_LE(0, late.fd);
	late.size = 2 * page;
	late.vaddr = memattr_map(late.fd, 0, late.size);
	memattr_let_go(&wc);
	ASSERT_TYPES(1, memattr_nr_types(test, NULL));
	ASSERT_EQ(0, memattr_try_map_bar(test, 4 * page, 4 * page));
	if (event->enable)
		event->enable(test->device);
	ASSERT_TRUE(mmio_try_touch(late.vaddr));
	expect_write_combining(late.vaddr);
	memattr_expect_free(test, 4 * page, 4 * page);
	memattr_let_go(&late);
	memattr_expect_free(test, 0, test->size);
}

/*
 * The pages are given to the next one when nobody can reach them any more, and not
 * before. A thread waits for the moment at which they can be had, while a revoke
 * takes them from a mapping that is large enough for it to get in between: by small
 * pages, of which the last one is looked at.
 */
FIXTURE(vfio_pci_memattr_order_test) {
	struct memattr_test test;
};

FIXTURE_VARIANT(vfio_pci_memattr_order_test) {
	bool close;
};

FIXTURE_VARIANT_ADD(vfio_pci_memattr_order_test, revoke) { false };
FIXTURE_VARIANT_ADD(vfio_pci_memattr_order_test, close) { true };

#define ORDER_SIZE	SZ_32M
#define ORDER_ROUNDS	100

struct order {
	struct memattr_test *test;
	bool by_list;
	pthread_barrier_t barrier;
	void *last_page;
	/* The revoke has begun and has not ended */
	bool revoking;
	int tries;
	bool reached;
};

FIXTURE_SETUP(vfio_pci_memattr_order_test)
{
	const char *reason = memattr_open_wc(&self->test, device_bdf);

	if (!reason && self->test.size < ORDER_SIZE)
		reason = "The BAR is too small";
	if (!reason && variant->close && !memory_types_shown())
		reason = "This architecture does not show memory types";
	if (reason)
		SKIP(return, "%s", reason);
}

FIXTURE_TEARDOWN(vfio_pci_memattr_order_test)
{
	memattr_close(&self->test);
}

/* Whether the last page can be had, by those who do not have it */
static bool is_released(const struct order *order)
{
	struct memattr_test *test = order->test;
	const u64 last = ORDER_SIZE - test->page_size;
	int i;

	if (!order->by_list)
		return !memattr_try_export(test, ATTR_UC, last, test->page_size);

	/* The kernel may skip an entry when another one goes away, but not each time. */
	for (i = 0; i < 3; i++) {
		if (memory_type_count(test->phys + last, test->phys + ORDER_SIZE,
				      TYPE_WRITE_COMBINING))
			return false;
	}
	return true;
}

/*
 * Where a sleep ends with a tick of the clock only, the revoke has to begin at another
 * moment between two ticks each time.
 */
static void spin(int usec)
{
	struct timespec start, now;

	VFIO_ASSERT_EQ(clock_gettime(CLOCK_MONOTONIC, &start), 0);
	do {
		VFIO_ASSERT_EQ(clock_gettime(CLOCK_MONOTONIC, &now), 0);
	} while ((now.tv_sec - start.tv_sec) * 1000000 +
		 (now.tv_nsec - start.tv_nsec) / 1000 < usec);
}

static void *watch(void *arg)
{
	struct sched_param fifo = { .sched_priority = 1 };
	struct order *order = arg;
	bool released;

	/* On a single CPU it has to interrupt the revoke. */
	VFIO_ASSERT_EQ(sched_setscheduler(0, SCHED_FIFO, &fifo), 0);
	VFIO_ASSERT_FALSE(is_released(order));
	pthread_barrier_wait(&order->barrier);
	do {
		usleep(20);
		released = is_released(order);
		if (released)
			order->reached = mmio_try_touch(order->last_page);
		else if (READ_ONCE(order->revoking))
			order->tries++;
	} while (!released);
	return NULL;
}

TEST_F(vfio_pci_memattr_order_test, zap_comes_first)
{
	struct memattr_test *test = &self->test;
	const size_t page = test->page_size;
	struct order order = {
		.test = test,
		.by_list = variant->close,
	};
	pthread_t thread;
	void *vaddr;
	int fd, round;

	for (round = 0; round < ORDER_ROUNDS && order.tries < 2; round++) {
		fd = memattr_export_wc(test, 0, ORDER_SIZE);
		ASSERT_LE(0, fd);
		/* An address at which nothing larger fits */
		vaddr = mmap_reserve(ORDER_SIZE, SZ_2M, page);
		vaddr = mmap(vaddr, ORDER_SIZE, PROT_READ, MAP_SHARED | MAP_FIXED, fd, 0);
		ASSERT_NE(MAP_FAILED, vaddr);
		ASSERT_EQ(ORDER_SIZE / page, mmio_count_faults(vaddr, ORDER_SIZE, page));
		order.last_page = vaddr + ORDER_SIZE - page;

		ASSERT_EQ(0, pthread_barrier_init(&order.barrier, NULL, 2));
		ASSERT_EQ(0, pthread_create(&thread, NULL, watch, &order));
		pthread_barrier_wait(&order.barrier);
		spin(round * 100);
		WRITE_ONCE(order.revoking, true);
		if (variant->close)
			vfio_pci_device_close(test->device);
		else
			vfio_pci_dmabuf_revoke(test->device, fd);
		WRITE_ONCE(order.revoking, false);
		ASSERT_EQ(0, pthread_join(thread, NULL));
		ASSERT_EQ(0, pthread_barrier_destroy(&order.barrier));
		ASSERT_FALSE(order.reached);
		ASSERT_FALSE(mmio_try_touch(vaddr));

		ASSERT_EQ(0, munmap(vaddr, ORDER_SIZE));
		ASSERT_EQ(0, close(fd));
		if (variant->close)
			test->device = vfio_pci_device_open(device_bdf, default_iommu_mode);
	}
	/* Or there was nothing in between */
	ASSERT_NE(0, order.tries);
	TH_LOG("%d tries in %d rounds", order.tries, round);
}

int main(int argc, char *argv[])
{
	device_bdf = vfio_selftests_get_bdf(&argc, argv);
	return test_harness_run(argc, argv);
}
