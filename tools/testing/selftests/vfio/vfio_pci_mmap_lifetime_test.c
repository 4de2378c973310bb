// SPDX-License-Identifier: GPL-2.0-only
/*
 * The device is open for as long as its fd or a mapping made through it lives,
 * and a DMABUF is good for exactly as long, whatever else is closed and when.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include <sys/mman.h>

#include <linux/bits.h>
#include <linux/pci_regs.h>
#include <linux/vfio.h>

#include <libvfio.h>

#include "kselftest_harness.h"

static const char *device_bdf;

#define fixture_data		FIXTURE_DATA(vfio_pci_mmap_lifetime_test)

FIXTURE(vfio_pci_mmap_lifetime_test) {
	struct iommu *iommu;
	struct vfio_pci_device *device;
	struct mmap_target target;
	void *bar;
	int dmabuf_fd;
	void *dmabuf;
	size_t page_size;
};

FIXTURE_VARIANT(vfio_pci_mmap_lifetime_test) {
	const char *iommu_mode;
};

/* A group and a character device are opened in different ways. */
FIXTURE_VARIANT_ADD(vfio_pci_mmap_lifetime_test, group) { MODE_VFIO_TYPE1V2_IOMMU };
FIXTURE_VARIANT_ADD(vfio_pci_mmap_lifetime_test, iommufd) { MODE_IOMMUFD };

/* Open the device and map a page of its largest BAR. */
static const char *open_all(fixture_data *self, const char *iommu_mode)
{
	const char *reason;

	self->page_size = getpagesize();
	self->dmabuf_fd = -1;
	self->dmabuf = NULL;
	self->device = vfio_pci_device_open(device_bdf, iommu_mode);
	self->iommu = self->device->iommu;

	reason = mmap_target_open_largest(&self->target, self->device, false);
	if (reason)
		return reason;
	self->bar = mmap_target_map(&self->target, 0, self->page_size);

	if (!vfio_pci_bar_no_dmabuf_mmap(self->device, self->target.bar)) {
		self->dmabuf_fd = vfio_pci_dmabuf_export_range(self->device, self->target.bar, 0,
							       self->page_size);
		self->dmabuf = mmap(NULL, self->page_size, PROT_READ | PROT_WRITE, MAP_SHARED,
				    self->dmabuf_fd, 0);
		VFIO_ASSERT_NE(self->dmabuf, MAP_FAILED);
	}
	return NULL;
}

static void close_device(fixture_data *self)
{
	/* Also closes the group, and cannot unmap what it does not know. */
	vfio_pci_device_cleanup(self->device);
	self->device = NULL;
}

static void unmap_bar(fixture_data *self)
{
	VFIO_ASSERT_EQ(munmap(self->bar, self->page_size), 0);
	self->bar = NULL;
}

static void close_dmabuf(fixture_data *self)
{
	VFIO_ASSERT_EQ(close(self->dmabuf_fd), 0);
	self->dmabuf_fd = -1;
}

static void unmap_dmabuf(fixture_data *self)
{
	VFIO_ASSERT_EQ(munmap(self->dmabuf, self->page_size), 0);
	self->dmabuf = NULL;
}

FIXTURE_SETUP(vfio_pci_mmap_lifetime_test)
{
	const char *reason = open_all(self, variant->iommu_mode);

	if (reason)
		SKIP(return, "%s", reason);
}

FIXTURE_TEARDOWN(vfio_pci_mmap_lifetime_test)
{
	if (self->dmabuf)
		unmap_dmabuf(self);
	if (self->dmabuf_fd >= 0)
		close_dmabuf(self);
	if (self->bar)
		unmap_bar(self);
	if (self->device)
		close_device(self);
	iommu_cleanup(self->iommu);
}

/* What is left works, or it does not, as it should. */
static void check(struct __test_metadata *_metadata,
		  fixture_data *self)
{
	bool open = self->device || self->bar;
	void *vaddr;

	if (self->bar) {
		ASSERT_TRUE(target_try_write(&self->target, self->bar, 0x0badbabe));
		ASSERT_TRUE(target_try_check(&self->target, self->bar, 0x0badbabe));
	}
	if (self->dmabuf && open) {
		ASSERT_TRUE(target_try_write(&self->target, self->dmabuf, 0x0c0ffee0));
		ASSERT_TRUE(target_try_check(&self->target, self->dmabuf, 0x0c0ffee0));
	} else if (self->dmabuf) {
		ASSERT_FALSE(mmio_try_touch(self->dmabuf));
		ASSERT_FALSE(mmio_try_write(self->dmabuf + self->target.scratch.offset, 0));
	}
	if (self->dmabuf_fd >= 0) {
		vaddr = mmap(NULL, self->page_size, PROT_READ, MAP_SHARED, self->dmabuf_fd, 0);
		if (open) {
			ASSERT_NE(MAP_FAILED, vaddr);
			ASSERT_TRUE(mmio_try_touch(vaddr));
			ASSERT_EQ(0, munmap(vaddr, self->page_size));
		} else {
			ASSERT_EQ(MAP_FAILED, vaddr);
			ASSERT_EQ(ENODEV, errno);
		}
	}
}

TEST_F(vfio_pci_mmap_lifetime_test, mapping_keeps_the_device_open)
{
	check(_metadata, self);
	close_device(self);
	check(_metadata, self);
}

TEST_F(vfio_pci_mmap_lifetime_test, mapping_keeps_the_dmabuf)
{
	if (!self->dmabuf)
		SKIP(return, "No DMABUF can be mapped");

	close_dmabuf(self);
	check(_metadata, self);
}

/* After the last close: for good, also when the device is open once more */
TEST_F(vfio_pci_mmap_lifetime_test, closed_for_good)
{
	fixture_data again = {};

	if (!self->dmabuf)
		SKIP(return, "No DMABUF can be mapped");

	check(_metadata, self);
	unmap_bar(self);
	close_device(self);
	check(_metadata, self);

	ASSERT_EQ(NULL, open_all(&again, variant->iommu_mode));
	check(_metadata, &again);
	check(_metadata, self);

	vfio_pci_memory_decode.disable(again.device);
	vfio_pci_memory_decode.enable(again.device);
	check(_metadata, &again);
	check(_metadata, self);

	unmap_dmabuf(&again);
	close_dmabuf(&again);
	unmap_bar(&again);
	close_device(&again);
	iommu_cleanup(again.iommu);
	check(_metadata, self);
}

/* The memory was disabled already when the device was closed. */
TEST_F(vfio_pci_mmap_lifetime_test, closed_while_disabled)
{
	if (!self->dmabuf)
		SKIP(return, "No DMABUF can be mapped");

	check(_metadata, self);
	vfio_pci_memory_decode.disable(self->device);
	ASSERT_FALSE(mmio_try_touch(self->dmabuf));
	unmap_bar(self);
	close_device(self);
	check(_metadata, self);
}

/* Each order of closing the four */
TEST_F(vfio_pci_mmap_lifetime_test, every_order)
{
	void (* const steps[])(fixture_data *self) = {
		close_device, unmap_bar, close_dmabuf, unmap_dmabuf,
	};
	int order, i;

	if (!self->dmabuf)
		SKIP(return, "No DMABUF can be mapped");

	for (order = 0; order < 256; order++) {
		int todo[] = { order & 3, (order >> 2) & 3, (order >> 4) & 3, order >> 6 };

		/* Each of them once */
		if ((BIT(todo[0]) | BIT(todo[1]) | BIT(todo[2]) | BIT(todo[3])) != 0xf)
			continue;

		check(_metadata, self);
		for (i = 0; i < ARRAY_SIZE(todo); i++) {
			steps[todo[i]](self);
			check(_metadata, self);
		}
		iommu_cleanup(self->iommu);
		ASSERT_EQ(NULL, open_all(self, variant->iommu_mode));
	}
}

/* A child that has inherited a mapping of the BAR has the device open. */
static int keep(int sock, void *arg)
{
	client_sync(sock);
	/* Until the test has seen enough */
	client_sync(sock);
	VFIO_ASSERT_TRUE(mmio_try_touch(arg));
	return 0;
}

TEST_F(vfio_pci_mmap_lifetime_test, child_keeps_the_device_open)
{
	struct client child = client_start(keep, self->bar);

	client_sync(child.sock);
	unmap_bar(self);
	close_device(self);

	if (self->dmabuf) {
		ASSERT_TRUE(target_try_write(&self->target, self->dmabuf, 0x0c0ffee0));
		ASSERT_TRUE(target_try_check(&self->target, self->dmabuf, 0x0c0ffee0));
	}
	client_sync(child.sock);
	ASSERT_EQ(0, client_wait(&child));

	check(_metadata, self);
}

int main(int argc, char *argv[])
{
	device_bdf = vfio_selftests_get_bdf(&argc, argv);
	return test_harness_run(argc, argv);
}
