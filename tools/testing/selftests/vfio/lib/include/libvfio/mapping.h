/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef SELFTESTS_VFIO_LIB_INCLUDE_LIBVFIO_MAPPING_H
#define SELFTESTS_VFIO_LIB_INCLUDE_LIBVFIO_MAPPING_H

#include <stdbool.h>
#include <stddef.h>

#include <linux/pci_regs.h>
#include <linux/types.h>

#include <libvfio/vfio_pci_driver.h>

struct vfio_pci_device;

/*
 * Access 4 bytes of a device's memory that may be gone. Return false where that
 * raised SIGBUS. For any thread, also for many at once.
 */
bool mmio_try_read(const void *vaddr, u32 *value);
bool mmio_try_write(void *vaddr, u32 value);

static inline bool mmio_try_touch(const void *vaddr)
{
	u32 value;

	return mmio_try_read(vaddr, &value);
}

/* The address that the last SIGBUS of this thread came with, NULL for none so far */
const void *mmio_sigbus_addr(void);

/*
 * Read 4 bytes in each @step of @size and return how many page faults that took,
 * or UINT64_MAX where one of them raised SIGBUS.
 * With small steps through memory that is not mapped yet this is the number of
 * page table entries that it takes to map it.
 */
u64 mmio_count_faults(const void *vaddr, size_t size, size_t step);

/* Why no page of that size can map a device's memory, or NULL. */
const char *no_huge_page(size_t size);

/**
 * struct page_table_entry - The page table entry for an address
 * @size: How much memory it maps, 0 if there is no entry
 * @cache: How the CPU caches that memory
 */
struct page_table_entry {
	size_t size;
	enum cache_mode {
		CACHE_WRITE_BACK,
		CACHE_WRITE_COMBINING,
		CACHE_UNCACHED_MINUS,
		CACHE_UNCACHED,
		CACHE_OTHER,
	} cache;
};

/*
 * Look up an entry in the kernel's dump of the page tables of this process. Returns
 * 0, or -ENOENT if there is no dump. It takes seconds on a kernel with KASAN.
 */
int page_table_entry_read(const void *vaddr, struct page_table_entry *entry);

/* The size of that alone, or -ENOENT */
ssize_t page_table_entry_size(const void *vaddr);

/* Look up the line of /proc/self/maps that has an address. False if there is none. */
bool proc_maps_line(const void *vaddr, char *line, size_t size);
/* Whether the mapping at an address has this in its line */
bool proc_maps_has(const void *vaddr, const char *what);

/*
 * Find the scratch memory of a BAR. If nothing is known about the device the mask
 * is 0 and the first 4 bytes are good for being read.
 */
struct vfio_pci_scratch vfio_pci_bar_scratch(struct vfio_pci_device *device, int bar);

/* Access scratch memory at an address. Return false where that raised SIGBUS. */
bool scratch_try_write(const struct vfio_pci_scratch *scratch, void *vaddr, u32 value);
/* Also returns false if the memory is not as scratch_try_write() leaves it */
bool scratch_try_check(const struct vfio_pci_scratch *scratch, const void *vaddr, u32 value);

/*
 * Something to give to mmap(): a BAR through the device's fd, or all of the same
 * BAR exported as a DMABUF. What is true for one is true for the other.
 */
struct mmap_target {
	struct vfio_pci_device *device;
	int bar;
	bool dmabuf;
	struct vfio_pci_scratch scratch;
	int fd;
	u64 offset;
	u64 size;
};

/*
 * Returns why there is nothing to map, or NULL. What cannot be done with a BAR
 * is known beforehand: where one that should work does not, the test fails.
 */
const char *mmap_target_open(struct mmap_target *target, struct vfio_pci_device *device,
			     int bar, bool dmabuf);
/* The same for the largest BAR that there is */
const char *mmap_target_open_largest(struct mmap_target *target, struct vfio_pci_device *device,
				     bool dmabuf);
void mmap_target_close(struct mmap_target *target);

/*
 * All BARs of a device that can be mapped, in MAX_MMAP_TARGETS, with one at the
 * end that has no size.
 */
#define MAX_MMAP_TARGETS (PCI_STD_NUM_BARS + 1)

const char *mmap_targets_open(struct mmap_target *targets, struct vfio_pci_device *device,
			      bool dmabuf);
void mmap_targets_close(struct mmap_target *targets);
/* The size of the largest */
u64 mmap_targets_max_size(const struct mmap_target *targets);

/* Map at an offset of the BAR, to be read and written. */
void *mmap_target_map(const struct mmap_target *target, u64 offset, size_t size);

/*
 * Map the first page anew and touch it. Returns false where that raised SIGBUS,
 * or where the DMABUF cannot be mapped any more.
 */
bool mmap_target_try_touch(const struct mmap_target *target);

/* Access the scratch memory in a mapping that starts with the page that has it. */
static inline bool target_try_write(const struct mmap_target *target, void *vaddr, u32 value)
{
	return scratch_try_write(&target->scratch, vaddr + target->scratch.offset, value);
}

static inline bool target_try_check(const struct mmap_target *target, const void *vaddr, u32 value)
{
	return scratch_try_check(&target->scratch, vaddr + target->scratch.offset, value);
}

#endif /* SELFTESTS_VFIO_LIB_INCLUDE_LIBVFIO_MAPPING_H */
