// SPDX-License-Identifier: GPL-2.0-only
/*
 * What takes the memory of a device away tells importers in the kernel to unmap
 * it, and waits until they have. They may be slow, and have fences and the lock
 * of the reservation, which delays nobody else.
 *
 * The device imports its own memory, which every machine can do. A second one,
 * if given, imports it instead.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <sys/ioctl.h>
#include <sys/mman.h>

#include <linux/compiler.h>
#include <linux/iommufd.h>
#include <linux/kernel.h>
#include <linux/pci_regs.h>
#include <linux/sizes.h>

#include <libvfio.h>

#include "kselftest_harness.h"

#define DRIVER		"vfio-pci"

/* A machine may be slow. Nothing that is waited for here takes long. */
#define PATIENCE_MS	20000

/* Enough for what does not wait to be done, and to be seen to be so */
#define CHANCE_MS	200

static const char *device_bdf, *importer_bdf;

struct importer_test {
	struct iommu *iommu;
	struct vfio_pci_device *device;
	/* Some of a BAR, as the DMABUF that is imported */
	struct mmap_target target;
	int importer;
	int second_importer;

	/* Set just before what a call waits for, which reports it as it found it */
	bool *released;

	/*
	 * Processes: whatever might wait for an importer must not be done by the
	 * process that has it. An importer lets go when that exits, and not before.
	 */
	void (*call)(struct vfio_pci_device *device);
	struct client caller;
	struct client mapper;
	struct client touchers[2];
	struct client unbinder;
};

static void device_open(struct importer_test *test)
{
	test->iommu = iommu_init(MODE_IOMMUFD);
	test->device = vfio_pci_device_init(device_bdf, test->iommu);
	vfio_pci_bar_unmap_all(test->device);
	vfio_pci_cmd_set(test->device, PCI_COMMAND_MEMORY);
}

static void device_close(struct importer_test *test)
{
	vfio_pci_device_cleanup(test->device);
	iommu_cleanup(test->iommu);
	test->device = NULL;
}

static int attach(struct importer_test *test, enum vfio_dmabuf_importer_unmap unmap)
{
	return importer_attach(test->importer, test->target.fd, importer_bdf, unmap, 0);
}

/* Without a driver that says more a device reaches 4 GiB, some of which is in use. */
#define MAX_SIZE SZ_2M

static void target_open(struct importer_test *test)
{
	test->target.size = min_t(u64, test->target.size, MAX_SIZE);
	test->target.fd = vfio_pci_dmabuf_export_range(test->device, test->target.bar, 0,
						       test->target.size);
}

/* Returns why the test cannot be done, or NULL. */
static const char *importer_test_setup(struct importer_test *test)
{
	const char *reason = importer_missing();
	int ret;

	if (reason)
		return reason;

	sysfs_driver_restore(DRIVER, device_bdf);
	device_open(test);
	reason = mmap_target_open_largest(&test->target, test->device, true);
	if (reason)
		return reason;
	mmap_target_close(&test->target);

	test->importer = importer_open();
	test->second_importer = importer_open();
	if (strcmp(importer_bdf, device_bdf)) {
		/* Not one of those that are tested, which nobody has mapped before */
		target_open(test);
		VFIO_ASSERT_EQ(attach(test, VFIO_DMABUF_IMPORTER_UNMAP_DELAYED), 0);
		ret = importer_map(test->importer);
		VFIO_ASSERT_EQ(importer_detach(test->importer), 0);
		mmap_target_close(&test->target);
		if (ret == -EINVAL)
			return "The devices cannot reach each other";
	}
	target_open(test);

	test->released = mmap(NULL, sizeof(*test->released), PROT_READ | PROT_WRITE,
			      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	VFIO_ASSERT_NE(test->released, MAP_FAILED);
	return NULL;
}

static void importer_test_teardown(struct importer_test *test)
{
	struct client *clients[] = {
		&test->caller, &test->mapper, &test->touchers[0], &test->touchers[1],
		&test->unbinder,
	};
	int i;

	/* Whatever the others wait for */
	importer_close(test->importer);
	importer_close(test->second_importer);
	for (i = 0; i < ARRAY_SIZE(clients); i++) {
		if (clients[i]->pid)
			client_kill(clients[i]);
	}
	mmap_target_close(&test->target);
	if (test->device)
		device_close(test);
	sysfs_driver_restore(DRIVER, device_bdf);
}

/* What a call returns that got through by itself, and one that had to be released */
#define UNAIDED		0
#define WHEN_RELEASED	1

static int do_call(int sock, void *arg)
{
	struct importer_test *test = arg;

	test->device->fd = recv_fd(sock);
	client_sync(sock);
	test->call(test->device);
	return READ_ONCE(*test->released) ? WHEN_RELEASED : UNAIDED;
}

/* Let another process do something with the device. */
static void call_start(struct importer_test *test, void (*call)(struct vfio_pci_device *))
{
	WRITE_ONCE(*test->released, false);
	test->call = call;
	test->caller = client_start(do_call, test);
	send_fd(test->caller.sock, test->device->fd);
	client_sync(test->caller.sock);
}

static int call(struct importer_test *test, void (*call)(struct vfio_pci_device *))
{
	call_start(test, call);
	return client_finish(&test->caller);
}

static void close_fd(struct vfio_pci_device *device)
{
	VFIO_ASSERT_EQ(close(device->fd), 0);
}

/* Let another process be the last to close the device. */
static void last_close_start(struct importer_test *test)
{
	WRITE_ONCE(*test->released, false);
	test->call = close_fd;
	test->caller = client_start(do_call, test);
	send_fd(test->caller.sock, test->device->fd);
	device_close(test);
	client_sync(test->caller.sock);
}

static int last_close(struct importer_test *test)
{
	last_close_start(test);
	return client_finish(&test->caller);
}

static int do_unbind(int sock, void *arg)
{
	sysfs_driver_unbind(DRIVER, device_bdf);
	return 0;
}

/* Wait until an importer has been told this often. */
static bool told(int importer, u64 nr)
{
	int i;

	for (i = 0; i < PATIENCE_MS && importer_nr_invalidated(importer) < nr; i++)
		usleep(1000);
	return importer_nr_invalidated(importer) == nr;
}

/* Touch a mapping of what comes once it has been told to. */
static int touch_main(int sock, void *arg)
{
	const size_t page_size = getpagesize();
	struct importer_test *test = arg;
	int fd = recv_fd(sock);
	bool touched;
	void *vaddr;

	vaddr = mmap(NULL, page_size, PROT_READ, MAP_SHARED, fd, 0);
	VFIO_ASSERT_NE(vaddr, MAP_FAILED);
	VFIO_ASSERT_TRUE(mmio_try_touch(vaddr));
	client_sync(sock);

	client_sync(sock);
	touched = mmio_try_touch(vaddr);
	VFIO_ASSERT_TRUE(READ_ONCE(*test->released), "It did not wait\n");
	return touched;
}

static void touch_prepare(struct importer_test *test, struct client *client, int fd)
{
	*client = client_start(touch_main, test);
	send_fd(client->sock, fd);
	client_sync(client->sock);
}

/* Export and map again and again. */
static int map_others(int sock, void *arg)
{
	const size_t page_size = getpagesize();
	struct importer_test *test = arg;
	struct mmap_target bar, dmabuf;
	int i;

	test->device->fd = recv_fd(sock);
	test->target.fd = recv_fd(sock);
	for (i = 0; i < 20; i++) {
		VFIO_ASSERT_NULL(mmap_target_open(&bar, test->device, test->target.bar, false));
		VFIO_ASSERT_NULL(mmap_target_open(&dmabuf, test->device, test->target.bar, true));
		VFIO_ASSERT_EQ(munmap(mmap_target_map(&bar, 0, page_size), page_size), 0);
		VFIO_ASSERT_EQ(munmap(mmap_target_map(&dmabuf, 0, page_size), page_size), 0);
		VFIO_ASSERT_EQ(munmap(mmap_target_map(&test->target, 0, page_size), page_size), 0);
		mmap_target_close(&dmabuf);
		mmap_target_close(&bar);
	}
	return 0;
}

/* Whether that can be done while somebody waits for an importer */
static bool can_map_others(struct importer_test *test)
{
	test->mapper = client_start(map_others, test);
	send_fd(test->mapper.sock, test->device->fd);
	send_fd(test->mapper.sock, test->target.fd);
	return client_finish(&test->mapper) == 0;
}

/* Map a BAR, and nothing else of the device, until told to stop. */
static int keep_bar_mapped(int sock, void *arg)
{
	const size_t page_size = getpagesize();
	struct importer_test *test = arg;
	struct mmap_target bar;
	void *vaddr;

	test->device->fd = recv_fd(sock);
	VFIO_ASSERT_NULL(mmap_target_open(&bar, test->device, test->target.bar, false));
	vaddr = mmap_target_map(&bar, 0, page_size);
	close_fd(test->device);
	client_sync(sock);

	client_sync(sock);
	VFIO_ASSERT_EQ(munmap(vaddr, page_size), 0);
	return 0;
}

/* Each event */
FIXTURE(vfio_pci_dmabuf_importer_event_test) {
	struct importer_test test;
};

FIXTURE_VARIANT(vfio_pci_dmabuf_importer_event_test) {
	const struct vfio_pci_memory_event *event;
};

#define EVENT(_variant) FIXTURE_VARIANT_ADD(vfio_pci_dmabuf_importer_event_test, _variant)

EVENT(memory_decode) { &vfio_pci_memory_decode };
EVENT(d3hot) { &vfio_pci_d3hot };
EVENT(low_power) { &vfio_pci_low_power };
EVENT(function_reset) { &vfio_pci_function_reset };
EVENT(hot_reset) { &vfio_pci_hot_reset };
EVENT(flr) { &vfio_pci_flr };

FIXTURE_SETUP(vfio_pci_dmabuf_importer_event_test)
{
	const char *reason = importer_test_setup(&self->test);

	if (!reason)
		reason = variant->event->unsupported(self->test.device);
	if (reason)
		SKIP(return, "%s", reason);
}

FIXTURE_TEARDOWN(vfio_pci_dmabuf_importer_event_test)
{
	importer_test_teardown(&self->test);
}

TEST_F(vfio_pci_dmabuf_importer_event_test, told_and_drained)
{
	const struct vfio_pci_memory_event *event = variant->event;
	struct importer_test *test = &self->test;
	int round;

	for (round = 0; round < 4; round++) {
		/* At once, and not at once */
		ASSERT_EQ(0, importer_attach(test->importer, test->target.fd, importer_bdf,
					     VFIO_DMABUF_IMPORTER_UNMAP_DELAYED,
					     round % 2 ? 20 : 0));
		ASSERT_EQ(0, importer_map(test->importer));
		ASSERT_EQ(test->target.size, importer_mapped(test->importer));

		ASSERT_EQ(UNAIDED, call(test, event->disable));
		ASSERT_EQ(1, importer_nr_invalidated(test->importer));
		ASSERT_EQ(0, importer_mapped(test->importer));
		if (event->enable) {
			ASSERT_EQ(-ENODEV, importer_map(test->importer));
			ASSERT_EQ(-ENODEV, importer_attach(test->second_importer, test->target.fd,
							   importer_bdf, 0, 0));
			event->enable(test->device);
		}

		/* There again, and not taken away by what gives it back */
		ASSERT_EQ(0, importer_map(test->importer));
		ASSERT_EQ(test->target.size, importer_mapped(test->importer));
		ASSERT_EQ(1, importer_nr_invalidated(test->importer));
		ASSERT_EQ(0, importer_detach(test->importer));
	}
}

/* Only who takes the memory away waits, and mmap() and exports go on. */
TEST_F(vfio_pci_dmabuf_importer_event_test, slow_importer)
{
	const struct vfio_pci_memory_event *event = variant->event;
	struct importer_test *test = &self->test;

	ASSERT_EQ(0, attach(test, VFIO_DMABUF_IMPORTER_UNMAP_IOCTL));
	ASSERT_EQ(0, importer_map(test->importer));

	call_start(test, event->disable);
	ASSERT_TRUE(told(test->importer, 1));
	ASSERT_TRUE(can_map_others(test));
	ASSERT_FALSE(client_done(&test->caller, CHANCE_MS));
	ASSERT_EQ(test->target.size, importer_mapped(test->importer));

	WRITE_ONCE(*test->released, true);
	ASSERT_EQ(0, importer_unmap(test->importer));
	ASSERT_EQ(WHEN_RELEASED, client_finish(&test->caller));

	if (event->enable) {
		ASSERT_EQ(-ENODEV, importer_map(test->importer));
		event->enable(test->device);
	}
	ASSERT_EQ(0, importer_map(test->importer));
	ASSERT_EQ(1, importer_nr_invalidated(test->importer));
}

/*
 * An importer that is slow does not leave the CPU in: neither of the same DMABUF
 * nor of another is there a page left that could be touched. Who tries finds out
 * what becomes of the memory, and does not die of a reset.
 */
TEST_F(vfio_pci_dmabuf_importer_event_test, touch_while_slow)
{
	const struct vfio_pci_memory_event *event = variant->event;
	struct importer_test *test = &self->test;
	struct mmap_target other;
	int i;

	ASSERT_EQ(NULL, mmap_target_open(&other, test->device, test->target.bar, true));
	touch_prepare(test, &test->touchers[0], test->target.fd);
	touch_prepare(test, &test->touchers[1], other.fd);
	ASSERT_EQ(0, attach(test, VFIO_DMABUF_IMPORTER_UNMAP_IOCTL));
	ASSERT_EQ(0, importer_map(test->importer));

	call_start(test, event->disable);
	ASSERT_TRUE(told(test->importer, 1));
	for (i = 0; i < 2; i++)
		client_sync(test->touchers[i].sock);
	for (i = 0; i < 2; i++)
		ASSERT_FALSE(client_done(&test->touchers[i], CHANCE_MS));
	ASSERT_FALSE(client_done(&test->caller, 0));

	WRITE_ONCE(*test->released, true);
	ASSERT_EQ(0, importer_unmap(test->importer));
	ASSERT_EQ(WHEN_RELEASED, client_finish(&test->caller));
	for (i = 0; i < 2; i++)
		ASSERT_EQ(!event->enable, client_finish(&test->touchers[i]));
	mmap_target_close(&other);
}

/* What one event is enough for */
FIXTURE(vfio_pci_dmabuf_importer_test) {
	struct importer_test test;
};

FIXTURE_SETUP(vfio_pci_dmabuf_importer_test)
{
	const char *reason = importer_test_setup(&self->test);

	if (reason)
		SKIP(return, "%s", reason);
}

FIXTURE_TEARDOWN(vfio_pci_dmabuf_importer_test)
{
	importer_test_teardown(&self->test);
}

#define disable_memory	(vfio_pci_memory_decode.disable)
#define enable_memory	(vfio_pci_memory_decode.enable)

TEST_F(vfio_pci_dmabuf_importer_test, two_importers)
{
	struct importer_test *test = &self->test;
	int i;

	ASSERT_EQ(0, attach(test, VFIO_DMABUF_IMPORTER_UNMAP_IOCTL));
	ASSERT_EQ(0, importer_attach(test->second_importer, test->target.fd, importer_bdf,
				     VFIO_DMABUF_IMPORTER_UNMAP_DELAYED, 0));
	ASSERT_EQ(0, importer_map(test->importer));
	ASSERT_EQ(0, importer_map(test->second_importer));

	/* One has unmapped, and it takes both. */
	call_start(test, disable_memory);
	ASSERT_TRUE(told(test->importer, 1));
	ASSERT_TRUE(told(test->second_importer, 1));
	for (i = 0; i < PATIENCE_MS && importer_mapped(test->second_importer); i++)
		usleep(1000);
	ASSERT_EQ(0, importer_mapped(test->second_importer));
	ASSERT_FALSE(client_done(&test->caller, CHANCE_MS));

	WRITE_ONCE(*test->released, true);
	ASSERT_EQ(0, importer_unmap(test->importer));
	ASSERT_EQ(WHEN_RELEASED, client_finish(&test->caller));
}

TEST_F(vfio_pci_dmabuf_importer_test, fence_of_a_mapping)
{
	struct importer_test *test = &self->test;

	ASSERT_EQ(0, attach(test, VFIO_DMABUF_IMPORTER_UNMAP_DELAYED));
	ASSERT_EQ(0, importer_map(test->importer));
	ASSERT_EQ(0, importer_add_fence(test->importer));

	call_start(test, disable_memory);
	ASSERT_TRUE(told(test->importer, 1));
	ASSERT_TRUE(can_map_others(test));
	ASSERT_FALSE(client_done(&test->caller, CHANCE_MS));

	WRITE_ONCE(*test->released, true);
	ASSERT_EQ(0, importer_signal_fence(test->importer));
	ASSERT_EQ(WHEN_RELEASED, client_finish(&test->caller));
	ASSERT_EQ(0, importer_mapped(test->importer));
}

/* What an importer had mapped may be in use until its fence says otherwise. */
TEST_F(vfio_pci_dmabuf_importer_test, fence_after_unmap)
{
	struct importer_test *test = &self->test;

	ASSERT_EQ(0, attach(test, VFIO_DMABUF_IMPORTER_UNMAP_DELAYED));
	ASSERT_EQ(0, importer_map(test->importer));
	ASSERT_EQ(0, importer_add_fence(test->importer));
	ASSERT_EQ(0, importer_unmap(test->importer));

	call_start(test, disable_memory);
	ASSERT_TRUE(told(test->importer, 1));
	ASSERT_FALSE(client_done(&test->caller, CHANCE_MS));

	WRITE_ONCE(*test->released, true);
	ASSERT_EQ(0, importer_signal_fence(test->importer));
	ASSERT_EQ(WHEN_RELEASED, client_finish(&test->caller));
}

/*
 * Whoever has the fd can add fences. They say nothing about memory that nobody
 * has mapped, or not since it was last taken away.
 */
TEST_F(vfio_pci_dmabuf_importer_test, fence_without_a_mapping)
{
	struct importer_test *test = &self->test;

	ASSERT_EQ(0, attach(test, VFIO_DMABUF_IMPORTER_UNMAP_DELAYED));
	ASSERT_EQ(0, importer_add_fence(test->importer));
	ASSERT_EQ(UNAIDED, call(test, disable_memory));
	enable_memory(test->device);
	ASSERT_EQ(0, importer_signal_fence(test->importer));

	ASSERT_EQ(0, importer_map(test->importer));
	ASSERT_EQ(UNAIDED, call(test, disable_memory));
	ASSERT_EQ(0, importer_mapped(test->importer));
	ASSERT_EQ(0, importer_add_fence(test->importer));
	enable_memory(test->device);
	ASSERT_EQ(UNAIDED, call(test, disable_memory));
	ASSERT_EQ(0, importer_signal_fence(test->importer));
}

/* iommufd has unmapped as soon as it is told, and has no work with fences. */
TEST_F(vfio_pci_dmabuf_importer_test, fence_without_a_mapping_but_iommufd)
{
	struct importer_test *test = &self->test;
	struct iommu_ioas_map_file map = {
		.size = sizeof(map),
		.flags = IOMMU_IOAS_MAP_READABLE | IOMMU_IOAS_MAP_WRITEABLE,
		.ioas_id = test->iommu->ioas_id,
		.fd = test->target.fd,
		.length = getpagesize(),
	};

	ASSERT_EQ(0, attach(test, VFIO_DMABUF_IMPORTER_UNMAP_DELAYED));
	ASSERT_EQ(0, importer_add_fence(test->importer));
	ASSERT_EQ(0, ioctl(test->iommu->iommufd, IOMMU_IOAS_MAP_FILE, &map));
	ASSERT_EQ(UNAIDED, call(test, disable_memory));
	ASSERT_EQ(0, importer_signal_fence(test->importer));
}

TEST_F(vfio_pci_dmabuf_importer_test, locked_while_mapped)
{
	struct importer_test *test = &self->test;

	ASSERT_EQ(0, attach(test, VFIO_DMABUF_IMPORTER_UNMAP_DELAYED));
	ASSERT_EQ(0, importer_map(test->importer));
	ASSERT_EQ(0, importer_lock(test->importer));

	/* It cannot even be told. */
	call_start(test, disable_memory);
	ASSERT_TRUE(can_map_others(test));
	ASSERT_FALSE(client_done(&test->caller, CHANCE_MS));
	ASSERT_EQ(0, importer_nr_invalidated(test->importer));

	WRITE_ONCE(*test->released, true);
	ASSERT_EQ(0, importer_unlock(test->importer));
	ASSERT_EQ(WHEN_RELEASED, client_finish(&test->caller));
	ASSERT_EQ(1, importer_nr_invalidated(test->importer));
	ASSERT_EQ(0, importer_mapped(test->importer));
}

/*
 * To give memory back, and to map it by the CPU, is no business of an importer's,
 * nor is it to take away what no importer has mapped.
 */
TEST_F(vfio_pci_dmabuf_importer_test, locked_while_not_mapped)
{
	const struct vfio_pci_memory_event *reset = &vfio_pci_function_reset;
	struct importer_test *test = &self->test;

	ASSERT_EQ(0, attach(test, VFIO_DMABUF_IMPORTER_UNMAP_DELAYED));
	ASSERT_EQ(0, importer_map(test->importer));
	ASSERT_EQ(UNAIDED, call(test, disable_memory));
	ASSERT_EQ(0, importer_mapped(test->importer));
	ASSERT_EQ(0, importer_lock(test->importer));

	ASSERT_EQ(UNAIDED, call(test, enable_memory));
	ASSERT_TRUE(mmap_target_try_touch(&test->target));
	ASSERT_EQ(UNAIDED, call(test, disable_memory));
	ASSERT_FALSE(mmap_target_try_touch(&test->target));
	ASSERT_EQ(UNAIDED, call(test, enable_memory));
	if (!reset->unsupported(test->device))
		ASSERT_EQ(UNAIDED, call(test, reset->disable));
	ASSERT_TRUE(mmap_target_try_touch(&test->target));

	ASSERT_EQ(0, importer_unlock(test->importer));
	ASSERT_EQ(0, importer_map(test->importer));
}

/* An importer that goes away takes with it whatever others have to wait for. */
static void check_closed(struct __test_metadata *_metadata, struct importer_test *test,
			 enum vfio_dmabuf_importer_unmap unmap, int (*use)(int importer))
{
	ASSERT_EQ(0, attach(test, unmap));
	ASSERT_EQ(0, importer_map(test->importer));
	if (use)
		ASSERT_EQ(0, use(test->importer));

	call_start(test, disable_memory);
	ASSERT_FALSE(client_done(&test->caller, CHANCE_MS));
	if (unmap == VFIO_DMABUF_IMPORTER_UNMAP_CLOSE)
		ASSERT_EQ(-EPERM, importer_unmap(test->importer));

	WRITE_ONCE(*test->released, true);
	importer_close(test->importer);
	test->importer = importer_open();
	ASSERT_EQ(WHEN_RELEASED, client_finish(&test->caller));
	enable_memory(test->device);
}

TEST_F(vfio_pci_dmabuf_importer_test, closed_while_mapped)
{
	check_closed(_metadata, &self->test, VFIO_DMABUF_IMPORTER_UNMAP_CLOSE, NULL);
}

TEST_F(vfio_pci_dmabuf_importer_test, closed_with_a_fence)
{
	check_closed(_metadata, &self->test, VFIO_DMABUF_IMPORTER_UNMAP_DELAYED,
		     importer_add_fence);
}

TEST_F(vfio_pci_dmabuf_importer_test, closed_while_locked)
{
	check_closed(_metadata, &self->test, VFIO_DMABUF_IMPORTER_UNMAP_DELAYED, importer_lock);
}

/* Map as soon as it works. It must not be lost again by what let it in. */
struct mapper {
	int importer;
	u64 tries;
};

static void *map(void *arg)
{
	struct mapper *mapper = arg;
	int ret;

	do {
		ret = importer_map(mapper->importer);
		WRITE_ONCE(mapper->tries, mapper->tries + 1);
	} while (ret == -ENODEV);
	VFIO_ASSERT_EQ(ret, 0);
	return NULL;
}

TEST_F(vfio_pci_dmabuf_importer_test, map_during_restore)
{
	struct importer_test *test = &self->test;
	struct mapper mapper = {
		.importer = test->importer,
	};
	pthread_t thread;
	u64 before;
	int i;

	ASSERT_EQ(0, attach(test, VFIO_DMABUF_IMPORTER_UNMAP_DELAYED));
	for (i = 0; i < 5; i++) {
		ASSERT_EQ(UNAIDED, call(test, disable_memory));
		ASSERT_EQ(0, importer_mapped(test->importer));
		before = importer_nr_invalidated(test->importer);
		mapper.tries = 0;
		ASSERT_EQ(0, pthread_create(&thread, NULL, map, &mapper));
		while (READ_ONCE(mapper.tries) < 2 && !importer_mapped(test->importer))
			sched_yield();
		ASSERT_EQ(0, importer_mapped(test->importer));
		enable_memory(test->device);
		ASSERT_EQ(0, pthread_join(thread, NULL));
		ASSERT_EQ(test->target.size, importer_mapped(test->importer));
		ASSERT_EQ(before, importer_nr_invalidated(test->importer));
	}
}

/* The last close waits as well, and takes the memory away for good. */
TEST_F(vfio_pci_dmabuf_importer_test, last_close)
{
	const size_t page_size = getpagesize();
	struct importer_test *test = &self->test;
	void *vaddr;

	vaddr = mmap_target_map(&test->target, 0, page_size);
	ASSERT_TRUE(mmio_try_touch(vaddr));
	ASSERT_EQ(0, attach(test, VFIO_DMABUF_IMPORTER_UNMAP_IOCTL));
	ASSERT_EQ(0, importer_map(test->importer));

	last_close_start(test);
	ASSERT_TRUE(told(test->importer, 1));
	ASSERT_FALSE(client_done(&test->caller, CHANCE_MS));

	/* There is nothing to wait for: it will not come back. */
	ASSERT_FALSE(mmio_try_touch(vaddr));
	ASSERT_FALSE(mmap_target_try_touch(&test->target));
	ASSERT_FALSE(client_done(&test->caller, 0));

	WRITE_ONCE(*test->released, true);
	ASSERT_EQ(0, importer_unmap(test->importer));
	ASSERT_EQ(WHEN_RELEASED, client_finish(&test->caller));
	ASSERT_EQ(-ENODEV, importer_map(test->importer));

	device_open(test);
	ASSERT_EQ(-ENODEV, importer_map(test->importer));
	ASSERT_EQ(-ENODEV, importer_attach(test->second_importer, test->target.fd, importer_bdf,
					   0, 0));
	ASSERT_EQ(0, munmap(vaddr, page_size));
}

/* Taken away for a while, and then for good: it has been waited for already. */
TEST_F(vfio_pci_dmabuf_importer_test, last_close_while_disabled)
{
	struct importer_test *test = &self->test;

	ASSERT_EQ(0, attach(test, VFIO_DMABUF_IMPORTER_UNMAP_DELAYED));
	ASSERT_EQ(0, importer_map(test->importer));
	ASSERT_EQ(UNAIDED, call(test, disable_memory));
	ASSERT_EQ(0, importer_mapped(test->importer));

	ASSERT_EQ(0, importer_lock(test->importer));
	ASSERT_EQ(UNAIDED, last_close(test));
	ASSERT_EQ(0, importer_unlock(test->importer));
	device_open(test);
	ASSERT_EQ(-ENODEV, importer_map(test->importer));
}

/* Not the last close: a mapping of a BAR keeps the device open. */
TEST_F(vfio_pci_dmabuf_importer_test, close_with_a_bar_mapped)
{
	struct importer_test *test = &self->test;

	test->mapper = client_start(keep_bar_mapped, test);
	send_fd(test->mapper.sock, test->device->fd);
	client_sync(test->mapper.sock);
	ASSERT_EQ(0, attach(test, VFIO_DMABUF_IMPORTER_UNMAP_DELAYED));
	ASSERT_EQ(0, importer_map(test->importer));
	ASSERT_EQ(UNAIDED, last_close(test));
	ASSERT_EQ(0, importer_nr_invalidated(test->importer));
	ASSERT_EQ(test->target.size, importer_mapped(test->importer));
	ASSERT_EQ(0, importer_unmap(test->importer));
	ASSERT_EQ(0, importer_map(test->importer));

	client_sync(test->mapper.sock);
	ASSERT_EQ(0, client_finish(&test->mapper));
	ASSERT_EQ(1, importer_nr_invalidated(test->importer));
	ASSERT_EQ(0, importer_mapped(test->importer));
	ASSERT_EQ(-ENODEV, importer_map(test->importer));
	device_open(test);
}

/* An importer may stay attached for as long as it likes. */
TEST_F(vfio_pci_dmabuf_importer_test, unbind_while_attached)
{
	struct importer_test *test = &self->test;

	ASSERT_EQ(0, attach(test, VFIO_DMABUF_IMPORTER_UNMAP_CLOSE));
	ASSERT_EQ(0, importer_attach(test->second_importer, test->target.fd, importer_bdf,
				     VFIO_DMABUF_IMPORTER_UNMAP_DELAYED, 0));
	ASSERT_EQ(0, importer_map(test->second_importer));
	ASSERT_EQ(UNAIDED, last_close(test));
	ASSERT_EQ(0, importer_mapped(test->second_importer));

	test->unbinder = client_start(do_unbind, NULL);
	ASSERT_EQ(0, client_finish(&test->unbinder));
	ASSERT_EQ(-ENODEV, importer_map(test->importer));
	ASSERT_EQ(0, importer_detach(test->second_importer));

	sysfs_driver_bind(DRIVER, device_bdf);
	device_open(test);
	ASSERT_EQ(-ENODEV, importer_map(test->importer));
	ASSERT_EQ(0, importer_detach(test->importer));
}

/* While it has the memory mapped the device is open, for which unbind waits. */
TEST_F(vfio_pci_dmabuf_importer_test, unbind_while_mapped)
{
	struct importer_test *test = &self->test;

	ASSERT_EQ(0, attach(test, VFIO_DMABUF_IMPORTER_UNMAP_IOCTL));
	ASSERT_EQ(0, importer_map(test->importer));
	last_close_start(test);
	ASSERT_TRUE(told(test->importer, 1));
	test->unbinder = client_start(do_unbind, NULL);
	ASSERT_FALSE(client_done(&test->unbinder, CHANCE_MS));
	ASSERT_FALSE(client_done(&test->caller, 0));

	WRITE_ONCE(*test->released, true);
	ASSERT_EQ(0, importer_unmap(test->importer));
	ASSERT_EQ(WHEN_RELEASED, client_finish(&test->caller));
	ASSERT_EQ(0, client_finish(&test->unbinder));
	ASSERT_EQ(-ENODEV, importer_map(test->importer));
	sysfs_driver_bind(DRIVER, device_bdf);
	device_open(test);
}

static int move_fd(int fd, int to)
{
	VFIO_ASSERT_EQ(dup2(fd, to), to);
	VFIO_ASSERT_EQ(close(fd), 0);
	return to;
}

/*
 * A process that has the device, and importers that never unmap. The order in
 * which the kernel closes its files is that of their numbers, so let there be both.
 */
static int own_everything(int sock, void *arg)
{
	int importers[2], dmabuf, i;

	importers[0] = move_fd(importer_open(), 100);
	move_fd(recv_fd(sock), 101);
	importers[1] = move_fd(importer_open(), 102);
	dmabuf = recv_fd(sock);

	for (i = 0; i < ARRAY_SIZE(importers); i++) {
		VFIO_ASSERT_EQ(importer_attach(importers[i], dmabuf, importer_bdf,
					       VFIO_DMABUF_IMPORTER_UNMAP_CLOSE, 0), 0);
		VFIO_ASSERT_EQ(importer_map(importers[i]), 0);
		VFIO_ASSERT_EQ(importer_add_fence(importers[i]), 0);
	}
	VFIO_ASSERT_EQ(importer_lock(importers[0]), 0);
	client_sync(sock);
	pause();
	return 0;
}

TEST_F(vfio_pci_dmabuf_importer_test, killed)
{
	struct importer_test *test = &self->test;

	test->caller = client_start(own_everything, NULL);
	send_fd(test->caller.sock, test->device->fd);
	send_fd(test->caller.sock, test->target.fd);
	device_close(test);
	client_sync(test->caller.sock);
	ASSERT_EQ(0, kill(test->caller.pid, SIGKILL));
	ASSERT_EQ(-SIGKILL, client_finish(&test->caller));
	device_open(test);
}

int main(int argc, char *argv[])
{
	char **bdfs;
	int nr_bdfs;

	bdfs = vfio_selftests_get_bdfs(&argc, argv, &nr_bdfs);
	device_bdf = bdfs[0];
	importer_bdf = bdfs[nr_bdfs > 1 ? 1 : 0];
	return test_harness_run(argc, argv);
}
