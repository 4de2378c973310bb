// SPDX-License-Identifier: GPL-2.0-only
/*
 * The address of a mapping of a DMABUF is no way to have its memory mapped for DMA:
 * nothing would take it out of the IOMMU when the DMABUF is revoked. The address of
 * a mapping of a BAR is one where it has always been.
 *
 * Takes one device, and two to see it by DMA: the first does the DMA, the other one
 * has a BAR of RAM.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <sys/mman.h>

#include <linux/io.h>
#include <linux/kernel.h>
#include <linux/pci_regs.h>
#include <linux/sizes.h>

#include <libvfio.h>

#include "kselftest_harness.h"

#define DMA_SIZE	256

/* Pieces of the window: next to each other in memory, as they are in the BAR */
#define NR_PIECES	3

static const char *dma_bdf, *memory_bdf;

FIXTURE(vfio_pci_dmabuf_type1_test) {
	/* Whose IOMMU it is, and the one that has the memory: they may be the same */
	struct iommu *iommu;
	struct iova_allocator *iova_allocator;
	struct vfio_pci_device *device;
	struct vfio_pci_device *memory;

	/* The start of a BAR, as a BAR and as a DMABUF */
	struct mmap_target bar;
	struct mmap_target dmabuf;

	/* Where pieces of this and that are mapped */
	void *window;
	size_t piece_size;
	iova_t iova;

	/* What DMA takes */
	bool has_dma;
	struct dma_region buffer;
};

FIXTURE_VARIANT(vfio_pci_dmabuf_type1_test) {
	const char *iommu_mode;
	size_t piece_size;
};

#define FIXTURE_VARIANT_ADD_IOMMU_MODE(_iommu_mode, _name, _piece_size)		\
FIXTURE_VARIANT_ADD(vfio_pci_dmabuf_type1_test, _iommu_mode ## _ ## _name) {	\
	.iommu_mode = #_iommu_mode,						\
	.piece_size = _piece_size,						\
}

FIXTURE_VARIANT_ADD_ALL_IOMMU_MODES(pages, 0);
/* As much as one entry of the IOMMU's page tables */
FIXTURE_VARIANT_ADD_ALL_IOMMU_MODES(2m, SZ_2M);

#undef FIXTURE_VARIANT_ADD_IOMMU_MODE

#define fixture_data		FIXTURE_DATA(vfio_pci_dmabuf_type1_test)

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

static const char *memory_setup(fixture_data *self)
{
	const char *reason;

	reason = mmap_target_open_largest(&self->dmabuf, self->memory, true);
	if (reason)
		return reason;
	if (self->dmabuf.size < NR_PIECES * self->piece_size)
		return "There is no BAR of that size";

	return mmap_target_open(&self->bar, self->memory, self->dmabuf.bar, false);
}

static void memory_teardown(fixture_data *self)
{
	mmap_target_close(&self->bar);
	mmap_target_close(&self->dmabuf);
	if (self->memory != self->device)
		vfio_pci_device_close(self->memory);
}

FIXTURE_SETUP(vfio_pci_dmabuf_type1_test)
{
	const struct vfio_pci_driver_ops *ops;
	const char *reason;
	size_t size;

	self->piece_size = variant->piece_size ?: getpagesize();
	self->iommu = iommu_init(variant->iommu_mode);
	self->device = vfio_pci_device_init(dma_bdf, self->iommu);
	vfio_pci_cmd_set(self->device, PCI_COMMAND_MEMORY);
	self->memory = self->device;
	if (memory_bdf)
		self->memory = vfio_pci_device_open(memory_bdf, MODE_IOMMUFD);

	reason = memory_setup(self);
	if (reason)
		SKIP(return, "%s", reason);

	size = NR_PIECES * self->piece_size;
	self->window = mmap_reserve(size, SZ_2M, 0);
	self->iova_allocator = iova_allocator_init(self->iommu);
	self->iova = iova_allocator_alloc(self->iova_allocator, SZ_8M);

	ops = self->device->driver.ops;
	self->has_dma = memory_bdf && ops && ops->memcpy_start && self->bar.scratch.ram;
	if (self->has_dma) {
		region_setup(self, &self->device->driver.region, SZ_2M);
		region_setup(self, &self->buffer, SZ_8K);
		vfio_pci_driver_init(self->device);
	}
}

FIXTURE_TEARDOWN(vfio_pci_dmabuf_type1_test)
{
	if (self->has_dma) {
		vfio_pci_driver_remove(self->device);
		region_teardown(self, &self->buffer);
		region_teardown(self, &self->device->driver.region);
	}
	VFIO_ASSERT_EQ(munmap(self->window, NR_PIECES * self->piece_size), 0);
	iova_allocator_cleanup(self->iova_allocator);
	memory_teardown(self);
	vfio_pci_device_cleanup(self->device);
	iommu_cleanup(self->iommu);
}

static void *piece(fixture_data *self, int i)
{
	return self->window + i * self->piece_size;
}

/* Map a piece of a target in its place of the window, or anonymous memory for NULL. */
static void place(fixture_data *self, int i, const struct mmap_target *target)
{
	u64 offset = i * self->piece_size;
	void *vaddr;

	if (target)
		vaddr = mmap(piece(self, i), self->piece_size, PROT_READ | PROT_WRITE,
			     MAP_SHARED | MAP_FIXED, target->fd, target->offset + offset);
	else
		vaddr = mmap(piece(self, i), self->piece_size, PROT_READ | PROT_WRITE,
			     MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	VFIO_ASSERT_EQ(vaddr, piece(self, i));
}

static int try_map(fixture_data *self, void *vaddr, size_t size, struct dma_region *region)
{
	*region = (struct dma_region) {
		.vaddr = vaddr,
		.size = size,
		.iova = self->iova,
	};
	return __iommu_map(self->iommu, region);
}

/* Nothing is mapped at the IOVA, and as much as that could be. */
static void expect_free(struct __test_metadata *_metadata, fixture_data *self, size_t size)
{
	struct dma_region region;
	void *vaddr;

	vaddr = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, vaddr);
	ASSERT_EQ(0, try_map(self, vaddr, size, &region));
	iommu_unmap(self->iommu, &region);
	ASSERT_EQ(0, munmap(vaddr, size));
}

static void expect_refused(struct __test_metadata *_metadata, fixture_data *self,
			   void *vaddr, size_t size)
{
	struct dma_region region;

	ASSERT_EQ(-EFAULT, try_map(self, vaddr, size, &region));
	expect_free(_metadata, self, size);
}

/* iommufd takes no addresses of a BAR, see vfio_dma_mapping_mmio_test. */
static bool takes_bars(fixture_data *self)
{
	return !strcmp(self->iommu->mode->name, MODE_VFIO_TYPE1_IOMMU) ||
	       !strcmp(self->iommu->mode->name, MODE_VFIO_TYPE1V2_IOMMU);
}

static void expect_bar(struct __test_metadata *_metadata, fixture_data *self,
		       void *vaddr, size_t size)
{
	struct dma_region region;

	if (takes_bars(self)) {
		ASSERT_EQ(0, try_map(self, vaddr, size, &region));
		iommu_unmap(self->iommu, &region);
	} else {
		ASSERT_NE(0, try_map(self, vaddr, size, &region));
	}
	expect_free(_metadata, self, size);
}

TEST_F(vfio_pci_dmabuf_type1_test, untouched)
{
	place(self, 0, &self->dmabuf);
	expect_refused(_metadata, self, piece(self, 0), self->piece_size);

	/* The same with a BAR, of which there is no page table entry either */
	place(self, 0, &self->bar);
	expect_bar(_metadata, self, piece(self, 0), self->piece_size);
}

TEST_F(vfio_pci_dmabuf_type1_test, touched)
{
	place(self, 0, &self->dmabuf);
	ASSERT_TRUE(mmio_try_touch(piece(self, 0)));
	expect_refused(_metadata, self, piece(self, 0), self->piece_size);
	ASSERT_TRUE(mmio_try_touch(piece(self, 0)));

	place(self, 0, &self->bar);
	ASSERT_TRUE(mmio_try_touch(piece(self, 0)));
	expect_bar(_metadata, self, piece(self, 0), self->piece_size);
}

TEST_F(vfio_pci_dmabuf_type1_test, moved)
{
	void *moved;

	place(self, 0, &self->dmabuf);
	ASSERT_TRUE(mmio_try_touch(piece(self, 0)));
	moved = mremap(piece(self, 0), self->piece_size, self->piece_size,
		       MREMAP_MAYMOVE | MREMAP_FIXED, piece(self, 2));
	ASSERT_EQ(piece(self, 2), moved);
	expect_refused(_metadata, self, moved, self->piece_size);

	place(self, 0, &self->bar);
	ASSERT_TRUE(mmio_try_touch(piece(self, 0)));
	moved = mremap(piece(self, 0), self->piece_size, self->piece_size,
		       MREMAP_MAYMOVE | MREMAP_FIXED, piece(self, 2));
	ASSERT_EQ(piece(self, 2), moved);
	expect_bar(_metadata, self, moved, self->piece_size);
}

/* A range of which only a part is refused is not mapped at all. */
static void check_neighbour(struct __test_metadata *_metadata, fixture_data *self,
			    const struct mmap_target *other)
{
	const size_t size = self->piece_size;
	struct dma_region region;

	place(self, 0, other);
	place(self, 1, &self->dmabuf);
	place(self, 2, other);

	/* Its end, its start, its middle */
	expect_refused(_metadata, self, piece(self, 0), 2 * size);
	expect_refused(_metadata, self, piece(self, 1), 2 * size);
	expect_refused(_metadata, self, piece(self, 0), 3 * size);
	/* The last page of a neighbour, and the first of this */
	expect_refused(_metadata, self, piece(self, 1) - getpagesize(), 2 * getpagesize());
	expect_refused(_metadata, self, piece(self, 1), size);

	/* Nothing is the matter with the rest of it. */
	place(self, 1, other);
	if (other) {
		expect_bar(_metadata, self, piece(self, 0), 3 * size);
	} else {
		ASSERT_EQ(0, try_map(self, piece(self, 0), 3 * size, &region));
		iommu_unmap(self->iommu, &region);
	}
}

TEST_F(vfio_pci_dmabuf_type1_test, next_to_anonymous_memory)
{
	check_neighbour(_metadata, self, NULL);
}

TEST_F(vfio_pci_dmabuf_type1_test, next_to_a_bar)
{
	check_neighbour(_metadata, self, &self->bar);
}

/* A BAR is taken wherever it is mapped. */
TEST_F(vfio_pci_dmabuf_type1_test, bar_between_dmabufs)
{
	place(self, 0, &self->dmabuf);
	place(self, 1, &self->bar);
	place(self, 2, &self->dmabuf);
	expect_bar(_metadata, self, piece(self, 1), self->piece_size);

	ASSERT_TRUE(mmio_try_touch(piece(self, 0)));
	ASSERT_TRUE(mmio_try_touch(piece(self, 2)));
	expect_bar(_metadata, self, piece(self, 1), self->piece_size);
	expect_refused(_metadata, self, piece(self, 0), self->piece_size);
	expect_refused(_metadata, self, piece(self, 2), self->piece_size);
}

static void fill(u32 *vaddr, u8 value)
{
	int i;

	for (i = 0; i < DMA_SIZE / sizeof(*vaddr); i++)
		writel(value * 0x01010101U, vaddr + i);
}

static bool is_filled(const u32 *vaddr, u8 value)
{
	int i;

	for (i = 0; i < DMA_SIZE / sizeof(*vaddr); i++) {
		if (readl(vaddr + i) != value * 0x01010101U)
			return false;
	}
	return true;
}

/* DMA at an offset of the IOVA */
static void dma_to(fixture_data *self, u64 offset, u8 value)
{
	memset(self->buffer.vaddr, value, DMA_SIZE);
	VFIO_ASSERT_EQ(vfio_pci_driver_memcpy(self->device, self->buffer.iova,
					      self->iova + offset, DMA_SIZE), 0);
}

static bool dma_from_is(fixture_data *self, u64 offset, u8 value)
{
	memset(self->buffer.vaddr, ~value, DMA_SIZE);
	VFIO_ASSERT_EQ(vfio_pci_driver_memcpy(self->device, self->iova + offset,
					      self->buffer.iova, DMA_SIZE), 0);
	return is_filled(self->buffer.vaddr, value);
}

/* Whether DMA gets to what a mapping has, and the other way round */
static void expect_dma(struct __test_metadata *_metadata, fixture_data *self,
		       u64 offset, void *vaddr)
{
	fill(vaddr, 0x11);
	ASSERT_TRUE(dma_from_is(self, offset, 0x11));
	dma_to(self, offset, 0x22);
	ASSERT_TRUE(is_filled(vaddr, 0x22));
}

static void expect_no_dma(struct __test_metadata *_metadata, fixture_data *self,
			  u64 offset, void *vaddr)
{
	fill(vaddr, 0x33);
	dma_to(self, offset, 0x44);
	ASSERT_TRUE(is_filled(vaddr, 0x33));
	ASSERT_FALSE(dma_from_is(self, offset, 0x33));
}

TEST_F(vfio_pci_dmabuf_type1_test, dma)
{
	const size_t size = self->piece_size;
	struct dma_region region;
	void *bar, *anonymous;

	if (!self->has_dma)
		SKIP(return, "It takes a device that does DMA, and one with a BAR of RAM");

	/* Another way to the memory of the second piece */
	bar = mmap_target_map(&self->bar, size, size);
	anonymous = piece(self, 0);
	place(self, 0, NULL);
	place(self, 1, &self->dmabuf);
	ASSERT_TRUE(mmio_try_touch(piece(self, 1)));

	ASSERT_EQ(-EFAULT, try_map(self, piece(self, 1), size, &region));
	expect_no_dma(_metadata, self, 0, bar);
	ASSERT_EQ(-EFAULT, try_map(self, anonymous, 2 * size, &region));
	expect_no_dma(_metadata, self, 0, anonymous);
	expect_no_dma(_metadata, self, size, bar);

	/* Or nothing gets there, whatever is mapped. */
	ASSERT_EQ(0, try_map(self, anonymous, size, &region));
	expect_dma(_metadata, self, 0, anonymous);
	expect_no_dma(_metadata, self, size, bar);
	iommu_unmap(self->iommu, &region);
	expect_no_dma(_metadata, self, 0, anonymous);

	if (takes_bars(self)) {
		place(self, 1, &self->bar);
		ASSERT_EQ(0, try_map(self, anonymous, 2 * size, &region));
		expect_dma(_metadata, self, 0, anonymous);
		expect_dma(_metadata, self, size, bar);
		iommu_unmap(self->iommu, &region);
		expect_no_dma(_metadata, self, size, bar);
	}
	ASSERT_EQ(0, munmap(bar, size));
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
