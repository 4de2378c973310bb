/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef SELFTESTS_VFIO_LIB_INCLUDE_LIBVFIO_MAPPING_H
#define SELFTESTS_VFIO_LIB_INCLUDE_LIBVFIO_MAPPING_H

#include <stdbool.h>
#include <stddef.h>

#include <linux/pci_regs.h>
#include <linux/types.h>

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

/*
 * Read 4 bytes in each @step of @size and return how many page faults that took.
 * With small steps through memory that is not mapped yet this is the number of
 * page table entries that it takes to map it.
 */
u64 mmio_count_faults(const void *vaddr, size_t size, size_t step);

/*
 * How much memory the page table entry for an address maps, as the kernel's
 * dump of the page tables has it: 0 for no entry, -ENOENT without the dump.
 */
ssize_t page_table_entry_size(const void *vaddr);

/* Look up the line of /proc/self/maps that has an address. False if there is none. */
bool proc_maps_line(const void *vaddr, char *line, size_t size);
/* Whether the mapping at an address has this in its line */
bool proc_maps_has(const void *vaddr, const char *what);

/*
 * Something in a BAR to write to: 4 bytes, of which those in @mask read back as
 * what was written ^ @invert. @ram is the same everywhere in the BAR.
 */
struct vfio_pci_bar_word {
	u64 offset;
	u32 mask;
	u32 invert;
	bool ram;
};

/*
 * Look up the word of a BAR. If nothing is known about the device the mask is 0
 * and the word is good for a read of the first 4 bytes.
 */
struct vfio_pci_bar_word vfio_pci_bar_word(struct vfio_pci_device *device, int bar);

/* Access the word at an address. Return false where that raised SIGBUS. */
bool bar_word_try_write(const struct vfio_pci_bar_word *word, void *vaddr, u32 value);
/* Also returns false if the word is not as bar_word_try_write() leaves it */
bool bar_word_try_check(const struct vfio_pci_bar_word *word, const void *vaddr, u32 value);

/*
 * Something to give to mmap(): a BAR through the device's fd, or all of the
 * same BAR as a DMABUF, delegated. What holds for one holds for the other.
 */
struct bar_source {
	struct vfio_pci_device *device;
	int bar;
	bool delegated;
	struct vfio_pci_bar_word word;
	int fd;
	u64 offset;
	u64 size;
};

/*
 * Returns why there is nothing to map, or NULL. What cannot be done with a BAR
 * is known beforehand: where one that should work does not, the test fails.
 */
const char *bar_source_open(struct bar_source *source, struct vfio_pci_device *device,
			    int bar, bool delegated);
/* The same for the largest BAR that there is */
const char *bar_source_open_largest(struct bar_source *source, struct vfio_pci_device *device,
				    bool delegated);
void bar_source_close(struct bar_source *source);

/*
 * All BARs of a device that can be mapped, in MAX_BAR_SOURCES, with one at the
 * end that has no size.
 */
#define MAX_BAR_SOURCES (PCI_STD_NUM_BARS + 1)

const char *bar_sources_open(struct bar_source *sources, struct vfio_pci_device *device,
			     bool delegated);
void bar_sources_close(struct bar_source *sources);
/* The size of the largest */
u64 bar_sources_largest(const struct bar_source *sources);

/* Map at an offset of the BAR, to be read and written. */
void *bar_source_mmap(const struct bar_source *source, u64 offset, size_t size);

/*
 * Map the first page anew and touch it. Returns false where that raised SIGBUS,
 * or where the DMABUF cannot be mapped any more.
 */
bool bar_source_try_touch(const struct bar_source *source);

/* Access the word of the BAR in a mapping that starts at a page that has it. */
static inline bool source_try_write(const struct bar_source *source, void *vaddr, u32 value)
{
	return bar_word_try_write(&source->word, vaddr + source->word.offset, value);
}

static inline bool source_try_check(const struct bar_source *source, const void *vaddr, u32 value)
{
	return bar_word_try_check(&source->word, vaddr + source->word.offset, value);
}

#endif /* SELFTESTS_VFIO_LIB_INCLUDE_LIBVFIO_MAPPING_H */
