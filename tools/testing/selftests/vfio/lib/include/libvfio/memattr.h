/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef SELFTESTS_VFIO_LIB_INCLUDE_LIBVFIO_MEMATTR_H
#define SELFTESTS_VFIO_LIB_INCLUDE_LIBVFIO_MEMATTR_H

#include <stddef.h>

#include <linux/types.h>
#include <linux/vfio.h>

#include <asm/barrier.h>

#include <libvfio/client.h>
#include <libvfio/mapping.h>
#include <libvfio/memory_type.h>
#include <libvfio/vfio_pci_driver.h>

struct vfio_pci_device;

#define ATTR_UC		VFIO_DEVICE_FEATURE_DMA_BUF_ATTR_UC
#define ATTR_WC		VFIO_DEVICE_FEATURE_DMA_BUF_ATTR_WC
#define ATTR_MASK	VFIO_DEVICE_FEATURE_DMA_BUF_ATTR_MASK

/**
 * struct memattr_test - What a test of memory attributes starts from
 * @device: The device, with nothing of it mapped; NULL while it is closed
 * @bdf: Its name
 * @page_size: The size of a page
 * @bar: A BAR that can be mapped write-combining, if the test asked for that
 * @size: The size of that BAR
 * @offset: Where the device's fd has it
 * @phys: Its physical address
 * @scratch: Memory of it that may be written
 * @client: A process that is to be gone when the test ends
 * @types: The memory types as they were before the device was opened
 */
struct memattr_test {
	struct vfio_pci_device *device;
	const char *bdf;
	size_t page_size;
	int bar;
	u64 size;
	u64 offset;
	u64 phys;
	struct vfio_pci_scratch scratch;
	struct client client;
	char *types;
};

/* Returns why the test cannot be done, or NULL. */
const char *memattr_open(struct memattr_test *test, const char *bdf);
/* The same, and find a BAR that can be mapped write-combining */
const char *memattr_open_wc(struct memattr_test *test, const char *bdf);
/* The end of it: all memory types are what they were. */
void memattr_close(struct memattr_test *test);

/*
 * Export, or map, some of a BAR. Returns an fd, or 0 from those that leave nothing,
 * or a negative errno.
 */
int memattr_export_bar(struct memattr_test *test, int bar, u32 flags, u64 offset, u64 length);
int memattr_export_ranges(struct memattr_test *test, u32 flags,
			  const struct vfio_region_dma_range *ranges, u32 nr_ranges);
int memattr_try_export(struct memattr_test *test, u32 flags, u64 offset, u64 length);
int memattr_try_map_bar(struct memattr_test *test, u64 offset, size_t size);

static inline int memattr_export_uc(struct memattr_test *test, u64 offset, u64 length)
{
	return memattr_export_bar(test, test->bar, ATTR_UC, offset, length);
}

static inline int memattr_export_wc(struct memattr_test *test, u64 offset, u64 length)
{
	return memattr_export_bar(test, test->bar, ATTR_WC, offset, length);
}

/* Map what can be mapped. */
void *memattr_map(int fd, u64 offset, size_t size);
void *memattr_map_bar(struct memattr_test *test, u64 offset, size_t size);

/* Those who can have some of the BAR */
enum memattr_type {
	MEMATTR_BAR,
	MEMATTR_UC,
	MEMATTR_WC,
	NR_MEMATTR_TYPES,
};

struct memattr_holder {
	enum memattr_type type;
	int fd;
	void *vaddr;
	size_t size;
};

/* Have it mapped and in use. Returns 0 or a negative errno. */
int memattr_hold(struct memattr_test *test, struct memattr_holder *holder,
		 enum memattr_type type, u64 offset, size_t size);
void memattr_let_go(struct memattr_holder *holder);

/* The entries of the list of memory types that have any of the BAR, or are a part of it */
int memattr_nr_types(struct memattr_test *test, const char *type);
int memattr_nr_exact(struct memattr_test *test, u64 offset, u64 size, const char *type);

/* That number is what it should be, where there is such a list. */
#define ASSERT_TYPES(_expected, _nr) do {				\
	if (memory_types_shown())					\
		ASSERT_EQ(_expected, _nr);				\
} while (0)

/* What was written by one mapping is there for another one. */
static inline void memattr_sync(void)
{
	/* The CPU may hold back, and combine, what was written. */
	mb();
}

/* All of these end the test where it is not so. */

/* The list of memory types is as it was. */
void expect_memory_types(const char *before);
/* A page table entry has this mode, and this size unless it is 0. */
void expect_cache_mode(const void *vaddr, enum cache_mode cache, size_t size);
void expect_write_combining(const void *vaddr);
void expect_uncached(const void *vaddr);
/* Nobody has any of it. */
void memattr_expect_free(struct memattr_test *test, u64 offset, size_t size);
/* Somebody has some of it, write-combining. */
void memattr_expect_taken(struct memattr_test *test, u64 offset, size_t size);

#endif /* SELFTESTS_VFIO_LIB_INCLUDE_LIBVFIO_MEMATTR_H */
