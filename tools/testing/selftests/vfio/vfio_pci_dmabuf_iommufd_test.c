// SPDX-License-Identifier: GPL-2.0-only
/*
 * One device reaches the memory of another: iommufd imports a DMABUF. What the
 * IOMMU really has mapped is seen by DMA, through which the memory is there for
 * as long as it may be, and not any longer.
 *
 * Takes two devices: one that libvfio has a driver for, and one with a BAR of
 * RAM.
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
#include <linux/pci_regs.h>
#include <linux/sizes.h>
#include <linux/vfio.h>

#include <libvfio.h>

#include "kselftest_harness.h"

#define DMA_SIZE	256
#define DMABUF_SIZE	SZ_2M

static const char *dma_bdf, *memory_bdf;

FIXTURE(vfio_pci_dmabuf_iommufd_test) {
	/* The device that does DMA, and what it does it with */
	struct iommu *iommu;
	struct iova_allocator *iova_allocator;
	struct vfio_pci_device *device;
	struct dma_region buffer;

	/* The device that has the memory */
	struct iommu *memory_iommu;
	struct vfio_pci_device *memory;
	int bar;
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
	self->memory_iommu = iommu_init(MODE_IOMMUFD);
	self->memory = vfio_pci_device_init(memory_bdf, self->memory_iommu);
	vfio_pci_bar_unmap_all(self->memory);
	vfio_pci_cmd_set(self->memory, PCI_COMMAND_MEMORY);
}

static void memory_close(fixture_data *self)
{
	vfio_pci_device_cleanup(self->memory);
	iommu_cleanup(self->memory_iommu);
}

FIXTURE_SETUP(vfio_pci_dmabuf_iommufd_test)
{
	struct vfio_pci_bar_word word;
	const char *reason;

	if (!memory_bdf)
		SKIP(return, "It takes two devices");

	self->iommu = iommu_init(MODE_IOMMUFD);
	self->device = vfio_pci_device_init(dma_bdf, self->iommu);
	if (!self->device->driver.ops || !self->device->driver.ops->memcpy_start)
		SKIP(return, "%s has no driver that does DMA", dma_bdf);

	memory_open(self);
	reason = vfio_pci_no_dmabuf(self->memory);
	if (reason)
		SKIP(return, "%s", reason);
	for (self->bar = 0; self->bar < PCI_STD_NUM_BARS; self->bar++) {
		word = vfio_pci_bar_word(self->memory, self->bar);
		if (word.ram && self->memory->bars[self->bar].info.size >= 2 * DMABUF_SIZE)
			break;
	}
	if (self->bar == PCI_STD_NUM_BARS)
		SKIP(return, "%s has no BAR of RAM", memory_bdf);

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
	memory_close(self);
	iommu_cleanup(self->iommu);
}

static int map_dmabuf(fixture_data *self, int fd, u64 start, u64 length)
{
	struct iommu_ioas_map_file args = {
		.size = sizeof(args),
		.flags = IOMMU_IOAS_MAP_READABLE | IOMMU_IOAS_MAP_WRITEABLE |
			 IOMMU_IOAS_MAP_FIXED_IOVA,
		.ioas_id = self->iommu->ioas_id,
		.fd = fd,
		.start = start,
		.length = length,
		.iova = self->iova,
	};

	return ioctl(self->iommu->iommufd, IOMMU_IOAS_MAP_FILE, &args) ? -errno : 0;
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

/* What is in the BAR, as its owner sees it */
static void memory_fill(fixture_data *self, u64 offset, u8 value)
{
	struct vfio_region_info *info = &self->memory->bars[self->bar].info;
	u8 data[DMA_SIZE];

	memset(data, value, DMA_SIZE);
	VFIO_ASSERT_EQ(pwrite(self->memory->fd, data, DMA_SIZE, info->offset + offset), DMA_SIZE);
}

static bool memory_is(fixture_data *self, u64 offset, u8 value)
{
	struct vfio_region_info *info = &self->memory->bars[self->bar].info;
	u8 data[DMA_SIZE];
	int i;

	VFIO_ASSERT_EQ(pread(self->memory->fd, data, DMA_SIZE, info->offset + offset), DMA_SIZE);
	for (i = 0; i < DMA_SIZE && data[i] == value; i++)
		continue;
	return i == DMA_SIZE;
}

/* DMA from memory of this process to the BAR, and back */
static void dma_to(fixture_data *self, u64 offset, u8 value)
{
	memset(self->buffer.vaddr, value, DMA_SIZE);
	VFIO_ASSERT_EQ(vfio_pci_driver_memcpy(self->device, self->buffer.iova,
					      self->iova + offset, DMA_SIZE), 0);
}

static bool dma_from_is(fixture_data *self, u64 offset, u8 value)
{
	u8 *data = self->buffer.vaddr;
	int i;

	memset(data, ~value, DMA_SIZE);
	VFIO_ASSERT_EQ(vfio_pci_driver_memcpy(self->device, self->iova + offset,
					      self->buffer.iova, DMA_SIZE), 0);
	for (i = 0; i < DMA_SIZE && data[i] == value; i++)
		continue;
	return i == DMA_SIZE;
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

	fd = vfio_pci_dmabuf_export_range(self->memory, self->bar, pos, DMABUF_SIZE);
	ASSERT_EQ(0, map_dmabuf(self, fd, 0, DMABUF_SIZE));
	ASSERT_EQ(0, close(fd));
	expect_mapped(_metadata, self, 0, pos);
	expect_mapped(_metadata, self, DMABUF_SIZE - SZ_4K, pos + DMABUF_SIZE - SZ_4K);
	ASSERT_EQ(0, unmap_dmabuf(self, DMABUF_SIZE));
	expect_not_mapped(_metadata, self, 0, pos);
}

TEST_F(vfio_pci_dmabuf_iommufd_test, part)
{
	int fd;

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

/* A mapping dies with the memory, and it takes a new one to get it back. */
static void check_event(struct __test_metadata *_metadata, fixture_data *self,
			const struct vfio_pci_memory_event *event)
{
	int fd;

	fd = vfio_pci_dmabuf_export_range(self->memory, self->bar, 0, DMABUF_SIZE);
	ASSERT_EQ(0, map_dmabuf(self, fd, 0, DMABUF_SIZE));
	expect_mapped(_metadata, self, SZ_4K, SZ_4K);

	event->take(self->memory);
	if (event->give) {
		ASSERT_NE(0, map_dmabuf(self, fd, 0, DMABUF_SIZE));
		/* Only in this state can the memory itself be there. */
		if (event == &vfio_pci_low_power)
			expect_not_mapped(_metadata, self, SZ_4K, SZ_4K);
		event->give(self->memory);
	}
	expect_not_mapped(_metadata, self, SZ_4K, SZ_4K);
	ASSERT_EQ(0, unmap_dmabuf(self, DMABUF_SIZE));
	expect_not_mapped(_metadata, self, SZ_4K, SZ_4K);

	ASSERT_EQ(0, map_dmabuf(self, fd, 0, DMABUF_SIZE));
	expect_mapped(_metadata, self, SZ_4K, SZ_4K);
	ASSERT_EQ(0, unmap_dmabuf(self, DMABUF_SIZE));
	ASSERT_EQ(0, close(fd));
}

TEST_F(vfio_pci_dmabuf_iommufd_test, memory_decode)
{
	check_event(_metadata, self, &vfio_pci_memory_decode);
}

TEST_F(vfio_pci_dmabuf_iommufd_test, low_power)
{
	const char *reason = vfio_pci_low_power.missing(self->memory);

	if (reason)
		SKIP(return, "%s", reason);
	check_event(_metadata, self, &vfio_pci_low_power);
}

TEST_F(vfio_pci_dmabuf_iommufd_test, function_reset)
{
	const char *reason = vfio_pci_function_reset.missing(self->memory);

	if (reason)
		SKIP(return, "%s", reason);
	check_event(_metadata, self, &vfio_pci_function_reset);
}

/* Import as soon as it works. It must not be lost again by what let it in. */
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
		ret = map_dmabuf(importer->self, importer->fd, 0, DMABUF_SIZE);
		WRITE_ONCE(importer->tries, importer->tries + 1);
	} while (ret == -ENODEV);
	VFIO_ASSERT_EQ(ret, 0);
	return NULL;
}

TEST_F(vfio_pci_dmabuf_iommufd_test, import_as_memory_returns)
{
	struct importer importer = {
		.self = self,
	};
	pthread_t thread;
	int i;

	importer.fd = vfio_pci_dmabuf_export_range(self->memory, self->bar, 0, DMABUF_SIZE);
	for (i = 0; i < 5; i++) {
		vfio_pci_memory_decode.take(self->memory);
		importer.tries = 0;
		ASSERT_EQ(0, pthread_create(&thread, NULL, import, &importer));
		while (READ_ONCE(importer.tries) < 2)
			sched_yield();
		vfio_pci_memory_decode.give(self->memory);
		ASSERT_EQ(0, pthread_join(thread, NULL));

		expect_mapped(_metadata, self, 0, 0);
		ASSERT_EQ(0, unmap_dmabuf(self, DMABUF_SIZE));
	}
	ASSERT_EQ(0, close(importer.fd));
}

TEST_F(vfio_pci_dmabuf_iommufd_test, export_while_away)
{
	int fd;

	vfio_pci_memory_decode.take(self->memory);
	fd = vfio_pci_dmabuf_export_range(self->memory, self->bar, 0, DMABUF_SIZE);
	ASSERT_EQ(-ENODEV, map_dmabuf(self, fd, 0, DMABUF_SIZE));
	vfio_pci_memory_decode.give(self->memory);
	ASSERT_EQ(0, map_dmabuf(self, fd, 0, DMABUF_SIZE));
	expect_mapped(_metadata, self, 0, 0);
	ASSERT_EQ(0, unmap_dmabuf(self, DMABUF_SIZE));
	ASSERT_EQ(0, close(fd));
}

TEST_F(vfio_pci_dmabuf_iommufd_test, closed)
{
	int fd;

	fd = vfio_pci_dmabuf_export_range(self->memory, self->bar, 0, DMABUF_SIZE);
	ASSERT_EQ(0, map_dmabuf(self, fd, 0, DMABUF_SIZE));
	expect_mapped(_metadata, self, 0, 0);

	/* For good, also when the device is open once more. */
	memory_close(self);
	memory_open(self);
	expect_not_mapped(_metadata, self, 0, 0);
	ASSERT_EQ(0, unmap_dmabuf(self, DMABUF_SIZE));
	ASSERT_EQ(-ENODEV, map_dmabuf(self, fd, 0, DMABUF_SIZE));
	ASSERT_EQ(0, close(fd));
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
