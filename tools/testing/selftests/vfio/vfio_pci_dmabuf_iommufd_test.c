// SPDX-License-Identifier: GPL-2.0-only
/*
 * One device reaches the memory of another: iommufd imports a DMABUF. What the
 * IOMMU really has mapped is seen by DMA, which reaches the memory until the
 * import is revoked, and not any longer.
 *
 * Takes two devices: one that libvfio has a driver for, and one with a BAR that
 * can be written to. Some of the tests need a BAR of RAM.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <unistd.h>

#include <sys/ioctl.h>
#include <sys/mman.h>

#include <linux/compiler.h>
#include <linux/iommufd.h>
#include <linux/kernel.h>
#include <linux/pci_regs.h>
#include <linux/sizes.h>
#include <linux/vfio.h>

#include <libvfio.h>

#include "kselftest_harness.h"

#define DRIVER		"vfio-pci"
#define DMA_SIZE	256
#define DMABUF_SIZE	SZ_2M

static const char *dma_bdf, *memory_bdf;

FIXTURE(vfio_pci_dmabuf_iommufd_test) {
	/* The device that does DMA, and what it does it with */
	struct iommu *iommu;
	struct iova_allocator *iova_allocator;
	struct vfio_pci_device *device;
	struct dma_region buffer;

	/* The device that has the memory, and its largest BAR to write to */
	struct vfio_pci_device *memory;
	struct vfio_pci_scratch scratch;
	int bar;
	size_t size;
	iova_t iova;
};

#define fixture_data		FIXTURE_DATA(vfio_pci_dmabuf_iommufd_test)

static void region_setup(fixture_data *self, struct dma_region *region, size_t size)
{
	region->size = size;
	region->vaddr = mmap(NULL, size, PROT_READ | PROT_WRITE,
			     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	VFIO_ASSERT_NE(region->vaddr, MAP_FAILED);
	region->iova = iova_allocator_alloc(self->iova_allocator, size);
	iommu_map(self->iommu, region);
}

static void region_teardown(fixture_data *self, struct dma_region *region)
{
	iommu_unmap(self->iommu, region);
	VFIO_ASSERT_EQ(munmap(region->vaddr, region->size), 0);
}

static void memory_open(fixture_data *self)
{
	self->memory = vfio_pci_device_open(memory_bdf, MODE_IOMMUFD);
}

static void memory_close(fixture_data *self)
{
	vfio_pci_device_close(self->memory);
	self->memory = NULL;
}

static const char *memory_find_bar(fixture_data *self)
{
	struct mmap_target targets[MAX_MMAP_TARGETS], *target;
	const char *reason;

	reason = vfio_pci_no_dmabuf(self->memory);
	if (!reason)
		reason = mmap_targets_open(targets, self->memory, false);
	if (reason)
		return reason;

	for (target = targets; target->size; target++) {
		/* Less than a page cannot be exported. */
		if (self->memory->bars[target->bar].info.size < getpagesize())
			continue;
		if (!target->scratch.mask || target->size <= self->size)
			continue;
		self->bar = target->bar;
		self->scratch = target->scratch;
		self->size = target->size;
	}
	return self->size ? NULL : "The device has no BAR to write to";
}

FIXTURE_SETUP(vfio_pci_dmabuf_iommufd_test)
{
	const char *reason;

	if (!memory_bdf)
		SKIP(return, "It takes two devices");

	self->iommu = iommu_init(MODE_IOMMUFD);
	self->device = vfio_pci_device_init(dma_bdf, self->iommu);
	if (!self->device->driver.ops || !self->device->driver.ops->memcpy_start)
		SKIP(return, "%s has no driver that does DMA", dma_bdf);

	sysfs_driver_restore(DRIVER, memory_bdf);
	memory_open(self);
	reason = memory_find_bar(self);
	if (reason)
		SKIP(return, "%s", reason);

	self->iova_allocator = iova_allocator_init(self->iommu);
	region_setup(self, &self->device->driver.region, SZ_2M);
	region_setup(self, &self->buffer, SZ_8K);
	self->iova = iova_allocator_alloc(self->iova_allocator, DMABUF_SIZE);
	vfio_pci_driver_init(self->device);
}

FIXTURE_TEARDOWN(vfio_pci_dmabuf_iommufd_test)
{
	vfio_pci_driver_remove(self->device);
	region_teardown(self, &self->buffer);
	region_teardown(self, &self->device->driver.region);
	iova_allocator_cleanup(self->iova_allocator);
	vfio_pci_device_cleanup(self->device);
	if (self->memory)
		memory_close(self);
	iommu_cleanup(self->iommu);
	sysfs_driver_restore(DRIVER, memory_bdf);
}

static bool has_ram(fixture_data *self)
{
	return self->scratch.ram && self->size >= 2 * DMABUF_SIZE;
}

/* What is exported where it does not matter how much: all, or the start of it */
static u64 dmabuf_size(fixture_data *self)
{
	return min_t(u64, self->size, DMABUF_SIZE);
}

static int export(fixture_data *self)
{
	return vfio_pci_dmabuf_export_range(self->memory, self->bar, 0, dmabuf_size(self));
}

static int __map_dmabuf(fixture_data *self, int fd, u64 start, u64 length, u32 access)
{
	struct iommu_ioas_map_file args = {
		.size = sizeof(args),
		.flags = access | IOMMU_IOAS_MAP_FIXED_IOVA,
		.ioas_id = self->iommu->ioas_id,
		.fd = fd,
		.start = start,
		.length = length,
		.iova = self->iova,
	};

	return ioctl(self->iommu->iommufd, IOMMU_IOAS_MAP_FILE, &args) ? -errno : 0;
}

static int map_dmabuf(fixture_data *self, int fd, u64 start, u64 length)
{
	return __map_dmabuf(self, fd, start, length,
			    IOMMU_IOAS_MAP_READABLE | IOMMU_IOAS_MAP_WRITEABLE);
}

static int unmap_dmabuf(fixture_data *self, u64 length)
{
	struct iommu_ioas_unmap args = {
		.size = sizeof(args),
		.ioas_id = self->iommu->ioas_id,
		.iova = self->iova,
		.length = length,
	};

	return ioctl(self->iommu->iommufd, IOMMU_IOAS_UNMAP, &args) ? -errno : 0;
}

/* How much is accessed at once: of a BAR that is no RAM the one register */
static size_t data_size(fixture_data *self)
{
	return self->scratch.ram ? DMA_SIZE : sizeof(u32);
}

static bool data_is(fixture_data *self, const u32 *data, u8 value)
{
	const u32 expected = value * 0x01010101U ^ self->scratch.invert;
	int i;

	for (i = 0; i < data_size(self) / sizeof(u32); i++) {
		if ((data[i] ^ expected) & self->scratch.mask)
			return false;
	}
	return true;
}

/* Where the owner of the BAR finds what is at an offset of it */
static off_t memory_pos(fixture_data *self, u64 offset)
{
	return self->memory->bars[self->bar].info.offset + offset + self->scratch.offset;
}

static void memory_fill(fixture_data *self, u64 offset, u8 value)
{
	u32 data[DMA_SIZE / sizeof(u32)];
	size_t size = data_size(self);

	memset(data, value, size);
	VFIO_ASSERT_EQ(pwrite(self->memory->fd, data, size, memory_pos(self, offset)), size);
}

static bool memory_is(fixture_data *self, u64 offset, u8 value)
{
	u32 data[DMA_SIZE / sizeof(u32)];
	size_t size = data_size(self);

	VFIO_ASSERT_EQ(pread(self->memory->fd, data, size, memory_pos(self, offset)), size);
	return data_is(self, data, value);
}

/* DMA from memory of this process to the BAR, and back */
static void dma_to(fixture_data *self, u64 offset, u8 value)
{
	iova_t iova = self->iova + offset + self->scratch.offset;

	memset(self->buffer.vaddr, value, data_size(self));
	VFIO_ASSERT_EQ(vfio_pci_driver_memcpy(self->device, self->buffer.iova, iova,
					      data_size(self)), 0);
}

static bool dma_from_is(fixture_data *self, u64 offset, u8 value)
{
	iova_t iova = self->iova + offset + self->scratch.offset;

	memset(self->buffer.vaddr, ~value, data_size(self));
	VFIO_ASSERT_EQ(vfio_pci_driver_memcpy(self->device, iova, self->buffer.iova,
					      data_size(self)), 0);
	return data_is(self, self->buffer.vaddr, value);
}

/* DMA from offset in the DMABUF is pos in the BAR, both ways. */
static void expect_mapped(struct __test_metadata *_metadata, fixture_data *self,
			  u64 offset, u64 pos)
{
	memory_fill(self, pos, 0x11);
	ASSERT_TRUE(dma_from_is(self, offset, 0x11));
	dma_to(self, offset, 0x22);
	ASSERT_TRUE(memory_is(self, pos, 0x22));
}

static void expect_not_mapped(struct __test_metadata *_metadata, fixture_data *self,
			      u64 offset, u64 pos)
{
	memory_fill(self, pos, 0x33);
	dma_to(self, offset, 0x44);
	ASSERT_TRUE(memory_is(self, pos, 0x33));
	ASSERT_FALSE(dma_from_is(self, offset, 0x33));
}

TEST_F(vfio_pci_dmabuf_iommufd_test, mapped)
{
	const u64 pos = DMABUF_SIZE;
	int fd;

	if (!has_ram(self))
		SKIP(return, "%s has no BAR of RAM", memory_bdf);

	fd = vfio_pci_dmabuf_export_range(self->memory, self->bar, pos, DMABUF_SIZE);
	ASSERT_EQ(0, map_dmabuf(self, fd, 0, DMABUF_SIZE));
	ASSERT_EQ(0, close(fd));
	expect_mapped(_metadata, self, 0, pos);
	expect_mapped(_metadata, self, DMABUF_SIZE - SZ_4K, pos + DMABUF_SIZE - SZ_4K);
	ASSERT_EQ(0, unmap_dmabuf(self, DMABUF_SIZE));
	expect_not_mapped(_metadata, self, 0, pos);
}

TEST_F(vfio_pci_dmabuf_iommufd_test, sub_range)
{
	int fd;

	if (!has_ram(self))
		SKIP(return, "%s has no BAR of RAM", memory_bdf);

	fd = vfio_pci_dmabuf_export_range(self->memory, self->bar, 0, DMABUF_SIZE);
	ASSERT_EQ(0, map_dmabuf(self, fd, SZ_64K, SZ_4K));
	ASSERT_EQ(0, close(fd));
	expect_mapped(_metadata, self, 0, SZ_64K);
	expect_not_mapped(_metadata, self, SZ_4K, SZ_64K + SZ_4K);
	ASSERT_EQ(0, unmap_dmabuf(self, SZ_4K));
}

/* iommufd takes one range. Pages that follow each other are one. */
TEST_F(vfio_pci_dmabuf_iommufd_test, ranges)
{
	struct vfio_region_dma_range ranges[DMABUF_SIZE / SZ_4K];
	const char *reason;
	int fd, i;

	if (!has_ram(self))
		SKIP(return, "%s has no BAR of RAM", memory_bdf);

	for (i = 0; i < ARRAY_SIZE(ranges); i++) {
		ranges[i].offset = i * SZ_4K;
		ranges[i].length = SZ_4K;
	}

	fd = vfio_pci_dmabuf_export(self->memory, self->bar, O_RDWR | O_CLOEXEC, ranges + 1, 2);
	i = map_dmabuf(self, fd, 0, SZ_8K);
	ASSERT_EQ(0, close(fd));

	/* This came with the mappings of DMABUFs. */
	reason = vfio_pci_no_dmabuf_mmap(self->memory);
	if (reason)
		SKIP(return, "%s", reason);
	ASSERT_EQ(0, i);
	expect_mapped(_metadata, self, SZ_4K, SZ_8K);
	ASSERT_EQ(0, unmap_dmabuf(self, SZ_8K));

	fd = vfio_pci_dmabuf_export(self->memory, self->bar, O_RDWR | O_CLOEXEC,
				    ranges, ARRAY_SIZE(ranges));
	ASSERT_EQ(0, map_dmabuf(self, fd, 0, DMABUF_SIZE));
	ASSERT_EQ(0, close(fd));
	expect_mapped(_metadata, self, 0, 0);
	expect_mapped(_metadata, self, DMABUF_SIZE - SZ_4K, DMABUF_SIZE - SZ_4K);
	ASSERT_EQ(0, unmap_dmabuf(self, DMABUF_SIZE));

	/* With one missing they are two. */
	ranges[7].offset = DMABUF_SIZE;
	fd = vfio_pci_dmabuf_export(self->memory, self->bar, O_RDWR | O_CLOEXEC, ranges, 8);
	ASSERT_EQ(-EOPNOTSUPP, map_dmabuf(self, fd, 0, SZ_32K));
	ASSERT_EQ(0, close(fd));
}

/* An offset to look at in export(): of a BAR that is no RAM there is only one */
static u64 some_offset(fixture_data *self)
{
	return self->scratch.ram ? SZ_4K : 0;
}

/* An O_RDONLY fd says the same to DMA as to a process. */
TEST_F(vfio_pci_dmabuf_iommufd_test, read_only_is_not_writable)
{
	const char *reason = vfio_pci_no_dmabuf_mmap(self->memory);
	struct vfio_region_dma_range range = { 0, dmabuf_size(self) };
	int fd;

	/* This came with the mappings of DMABUFs. */
	if (reason)
		SKIP(return, "%s", reason);

	fd = vfio_pci_dmabuf_export(self->memory, self->bar, O_RDONLY | O_CLOEXEC, &range, 1);
	ASSERT_EQ(-EACCES, map_dmabuf(self, fd, 0, range.length));
	ASSERT_EQ(-EACCES, __map_dmabuf(self, fd, 0, range.length, IOMMU_IOAS_MAP_WRITEABLE));
	expect_not_mapped(_metadata, self, 0, 0);

	ASSERT_EQ(0, __map_dmabuf(self, fd, 0, range.length, IOMMU_IOAS_MAP_READABLE));
	memory_fill(self, 0, 0x55);
	ASSERT_TRUE(dma_from_is(self, 0, 0x55));
	dma_to(self, 0, 0x66);
	ASSERT_TRUE(memory_is(self, 0, 0x55));
	ASSERT_EQ(0, unmap_dmabuf(self, range.length));
	ASSERT_EQ(0, close(fd));
}

/* An import is revoked with the memory, and it takes a new one to get it back. */
static void check_event(struct __test_metadata *_metadata, fixture_data *self,
			const struct vfio_pci_memory_event *event)
{
	const char *reason = event->unsupported(self->memory);
	const u64 size = dmabuf_size(self), offset = some_offset(self);
	int fd;

	if (reason)
		SKIP(return, "%s", reason);

	fd = export(self);
	ASSERT_EQ(0, map_dmabuf(self, fd, 0, size));
	expect_mapped(_metadata, self, offset, offset);

	event->disable(self->memory);
	if (event->enable) {
		ASSERT_NE(0, map_dmabuf(self, fd, 0, size));
		/* Only in this state can the memory itself be there. */
		if (event == &vfio_pci_low_power)
			expect_not_mapped(_metadata, self, offset, offset);
		event->enable(self->memory);
	}
	expect_not_mapped(_metadata, self, offset, offset);
	ASSERT_EQ(0, unmap_dmabuf(self, size));
	expect_not_mapped(_metadata, self, offset, offset);

	ASSERT_EQ(0, map_dmabuf(self, fd, 0, size));
	expect_mapped(_metadata, self, offset, offset);
	ASSERT_EQ(0, unmap_dmabuf(self, size));
	ASSERT_EQ(0, close(fd));
}

TEST_F(vfio_pci_dmabuf_iommufd_test, memory_decode)
{
	check_event(_metadata, self, &vfio_pci_memory_decode);
}

TEST_F(vfio_pci_dmabuf_iommufd_test, low_power)
{
	check_event(_metadata, self, &vfio_pci_low_power);
}

TEST_F(vfio_pci_dmabuf_iommufd_test, d3hot)
{
	check_event(_metadata, self, &vfio_pci_d3hot);
}

TEST_F(vfio_pci_dmabuf_iommufd_test, external_reset)
{
	const char *reason = vfio_pci_no_dmabuf_mmap(self->memory);

	/* This came with the mappings of DMABUFs. */
	if (reason)
		SKIP(return, "%s", reason);
	check_event(_metadata, self, &vfio_pci_external_reset);
}

TEST_F(vfio_pci_dmabuf_iommufd_test, function_reset)
{
	check_event(_metadata, self, &vfio_pci_function_reset);
}

TEST_F(vfio_pci_dmabuf_iommufd_test, hot_reset)
{
	check_event(_metadata, self, &vfio_pci_hot_reset);
}

TEST_F(vfio_pci_dmabuf_iommufd_test, flr)
{
	check_event(_metadata, self, &vfio_pci_flr);
}

/* Import as soon as it works. It must not be revoked again by what allowed it. */
struct importer {
	fixture_data *self;
	int fd;
	u64 tries;
};

static void *import(void *arg)
{
	struct importer *importer = arg;
	int ret;

	do {
		ret = map_dmabuf(importer->self, importer->fd, 0, dmabuf_size(importer->self));
		WRITE_ONCE(importer->tries, importer->tries + 1);
	} while (ret == -ENODEV);
	VFIO_ASSERT_EQ(ret, 0);
	return NULL;
}

TEST_F(vfio_pci_dmabuf_iommufd_test, import_during_restore)
{
	struct importer importer = {
		.self = self,
	};
	pthread_t thread;
	int i;

	importer.fd = export(self);
	for (i = 0; i < 5; i++) {
		vfio_pci_memory_decode.disable(self->memory);
		importer.tries = 0;
		ASSERT_EQ(0, pthread_create(&thread, NULL, import, &importer));
		while (READ_ONCE(importer.tries) < 2)
			sched_yield();
		vfio_pci_memory_decode.enable(self->memory);
		ASSERT_EQ(0, pthread_join(thread, NULL));

		expect_mapped(_metadata, self, 0, 0);
		ASSERT_EQ(0, unmap_dmabuf(self, dmabuf_size(self)));
	}
	ASSERT_EQ(0, close(importer.fd));
}

TEST_F(vfio_pci_dmabuf_iommufd_test, export_while_disabled)
{
	int fd;

	vfio_pci_memory_decode.disable(self->memory);
	fd = export(self);
	ASSERT_EQ(-ENODEV, map_dmabuf(self, fd, 0, dmabuf_size(self)));
	vfio_pci_memory_decode.enable(self->memory);
	ASSERT_EQ(0, map_dmabuf(self, fd, 0, dmabuf_size(self)));
	expect_mapped(_metadata, self, 0, 0);
	ASSERT_EQ(0, unmap_dmabuf(self, dmabuf_size(self)));
	ASSERT_EQ(0, close(fd));
}

/* The owner revokes it: gone when that returns, and there is no way back. */
TEST_F(vfio_pci_dmabuf_iommufd_test, revoked)
{
	const char *reason = vfio_pci_no_dmabuf_revoke(self->memory);
	const u64 size = dmabuf_size(self), offset = some_offset(self);
	int fd, next, round;

	if (reason)
		SKIP(return, "%s", reason);

	fd = export(self);
	for (round = 0; round < 3; round++) {
		ASSERT_EQ(0, map_dmabuf(self, fd, 0, size));
		expect_mapped(_metadata, self, 0, 0);
		expect_mapped(_metadata, self, offset, offset);

		ASSERT_EQ(0, __vfio_pci_dmabuf_revoke(self->memory, fd));
		expect_not_mapped(_metadata, self, 0, 0);
		expect_not_mapped(_metadata, self, offset, offset);
		ASSERT_EQ(-EBADFD, __vfio_pci_dmabuf_revoke(self->memory, fd));
		ASSERT_EQ(0, unmap_dmabuf(self, size));
		ASSERT_EQ(-ENODEV, map_dmabuf(self, fd, 0, size));
		expect_not_mapped(_metadata, self, 0, 0);

		/* The memory is free for the next one. */
		next = export(self);
		ASSERT_EQ(0, close(fd));
		fd = next;
	}
	ASSERT_EQ(0, close(fd));
}

/* Neither does a change of the memory's state bring it back. */
TEST_F(vfio_pci_dmabuf_iommufd_test, revoked_and_disabled)
{
	const char *reason = vfio_pci_no_dmabuf_revoke(self->memory);
	const struct vfio_pci_memory_event *decode = &vfio_pci_memory_decode;
	const u64 size = dmabuf_size(self);
	int fd, round;

	if (reason)
		SKIP(return, "%s", reason);

	/* Revoked before, and meanwhile */
	for (round = 0; round < 2; round++) {
		fd = export(self);
		ASSERT_EQ(0, map_dmabuf(self, fd, 0, size));
		expect_mapped(_metadata, self, 0, 0);
		if (round)
			ASSERT_EQ(0, __vfio_pci_dmabuf_revoke(self->memory, fd));
		decode->disable(self->memory);
		if (!round)
			ASSERT_EQ(0, __vfio_pci_dmabuf_revoke(self->memory, fd));
		decode->enable(self->memory);

		expect_not_mapped(_metadata, self, 0, 0);
		ASSERT_EQ(0, unmap_dmabuf(self, size));
		ASSERT_EQ(-ENODEV, map_dmabuf(self, fd, 0, size));
		ASSERT_EQ(-EBADFD, __vfio_pci_dmabuf_revoke(self->memory, fd));
		ASSERT_EQ(0, close(fd));
	}
}

/* Imports of other DMABUFs stay, be they of the same memory. */
TEST_F(vfio_pci_dmabuf_iommufd_test, revoked_next_to_others)
{
	const char *reason = vfio_pci_no_dmabuf_revoke(self->memory);
	const iova_t iova = self->iova;
	int i, fds[3];

	if (reason)
		SKIP(return, "%s", reason);
	if (!has_ram(self))
		SKIP(return, "%s has no BAR of RAM", memory_bdf);

	for (i = 0; i < ARRAY_SIZE(fds); i++) {
		fds[i] = vfio_pci_dmabuf_export_range(self->memory, self->bar, 0, SZ_64K);
		self->iova = iova + i * SZ_64K;
		ASSERT_EQ(0, map_dmabuf(self, fds[i], 0, SZ_64K));
	}
	self->iova = iova;
	for (i = 0; i < ARRAY_SIZE(fds); i++)
		expect_mapped(_metadata, self, i * SZ_64K, 0);

	ASSERT_EQ(0, __vfio_pci_dmabuf_revoke(self->memory, fds[1]));
	expect_not_mapped(_metadata, self, SZ_64K, 0);
	expect_mapped(_metadata, self, 0, 0);
	expect_mapped(_metadata, self, 2 * SZ_64K, 0);

	ASSERT_EQ(0, unmap_dmabuf(self, ARRAY_SIZE(fds) * SZ_64K));
	for (i = 0; i < ARRAY_SIZE(fds); i++)
		ASSERT_EQ(0, close(fds[i]));
}

/*
 * The importer's mapping and DMABUF are of a device that has been closed: revoked for
 * good, also when the device is open once more.
 */
static void expect_revoked_for_good(struct __test_metadata *_metadata, fixture_data *self, int fd)
{
	expect_not_mapped(_metadata, self, 0, 0);
	ASSERT_EQ(0, unmap_dmabuf(self, dmabuf_size(self)));
	ASSERT_EQ(-ENODEV, map_dmabuf(self, fd, 0, dmabuf_size(self)));
	ASSERT_EQ(0, close(fd));
}

TEST_F(vfio_pci_dmabuf_iommufd_test, closed)
{
	int fd;

	fd = export(self);
	ASSERT_EQ(0, map_dmabuf(self, fd, 0, dmabuf_size(self)));
	expect_mapped(_metadata, self, 0, 0);

	memory_close(self);
	memory_open(self);
	expect_revoked_for_good(_metadata, self, fd);
}

/* The memory was disabled already when the device was closed. */
TEST_F(vfio_pci_dmabuf_iommufd_test, closed_while_disabled)
{
	int fd;

	fd = export(self);
	ASSERT_EQ(0, map_dmabuf(self, fd, 0, dmabuf_size(self)));
	expect_mapped(_metadata, self, 0, 0);

	vfio_pci_memory_decode.disable(self->memory);
	memory_close(self);
	memory_open(self);
	expect_revoked_for_good(_metadata, self, fd);
}

/* A mapping of the BAR keeps the device open, and with it the import. */
TEST_F(vfio_pci_dmabuf_iommufd_test, closed_with_bar_mapped)
{
	struct vfio_region_info *info = &self->memory->bars[self->bar].info;
	size_t page_size = getpagesize();
	void *bar;
	int fd;

	fd = export(self);
	ASSERT_EQ(0, map_dmabuf(self, fd, 0, dmabuf_size(self)));
	bar = mmap(NULL, page_size, PROT_READ | PROT_WRITE, MAP_SHARED, self->memory->fd,
		   info->offset);
	ASSERT_NE(MAP_FAILED, bar);
	memory_fill(self, 0, 0x77);
	memory_close(self);

	ASSERT_TRUE(dma_from_is(self, 0, 0x77));
	dma_to(self, 0, 0x88);
	ASSERT_TRUE(scratch_try_check(&self->scratch, bar + self->scratch.offset, 0x88888888));

	ASSERT_EQ(0, munmap(bar, page_size));
	memory_open(self);
	expect_revoked_for_good(_metadata, self, fd);
}

/* Neither does an import keep the driver. */
TEST_F(vfio_pci_dmabuf_iommufd_test, driver_unbound)
{
	int fd;

	fd = export(self);
	ASSERT_EQ(0, map_dmabuf(self, fd, 0, dmabuf_size(self)));
	expect_mapped(_metadata, self, 0, 0);

	memory_close(self);
	sysfs_driver_unbind(DRIVER, memory_bdf);
	sysfs_driver_bind(DRIVER, memory_bdf);
	memory_open(self);
	expect_revoked_for_good(_metadata, self, fd);
}

int main(int argc, char *argv[])
{
	char **bdfs;
	int nr_bdfs;

	bdfs = vfio_selftests_get_bdfs(&argc, argv, &nr_bdfs);
	dma_bdf = bdfs[0];
	if (nr_bdfs > 1)
		memory_bdf = bdfs[1];
	return test_harness_run(argc, argv);
}
