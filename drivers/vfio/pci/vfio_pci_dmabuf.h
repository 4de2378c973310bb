/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef VFIO_PCI_DMABUF_H
#define VFIO_PCI_DMABUF_H

#include <linux/atomic.h>
#include <linux/completion.h>
#include <linux/dma-buf.h>
#include <linux/interval_tree.h>
#include <linux/kref.h>
#include <linux/list.h>
#include <linux/mutex.h>
#include <linux/pci.h>
#include <linux/pfn.h>
#include <linux/rbtree.h>
#include <linux/refcount.h>
#include <linux/rwsem.h>
#include <linux/spinlock.h>
#include <linux/types.h>

#include "vfio_pci_priv.h"

/*
 * Pieces of a device's memory, as DMABUFs. Where to find what:
 *
 *	vfio_pci_memory.c	whether the memory of a device can be reached, and
 *				what happens to its buffers when that changes
 *	vfio_pci_mmap.c		mappings by a CPU: VMAs and page faults
 *	vfio_pci_dmabuf.c	exporting, and mappings by other devices
 *	vfio_pci_memattr.c	which memory is write-combined
 *
 * Locks, outer first:
 *
 *	vfio_pci_core_device.barmap_lock	read() and write() of a BAR
 *	vfio_pci_core_device.memory_lock	changes of the device's memory
 *	mmap_lock, or the lock of a VMA		page faults, mmap()
 *	dma-buf's dmabuf_list_mutex		dma_buf_export() for a mmap()
 *	dmabuf->resv				mappings of importers
 *	vfio_pci_dma_buf.lock
 *	fs_reclaim				vmf_insert_pfn() may allocate
 *	address_space.i_mmap_rwsem		the zap, with memory_lock or nothing
 *
 * vfio_pci_memory.attr_lock comes after memory_lock and ioeventfds_lock, and before
 * fs_reclaim. vfio_pci_memory.lock, for the lists of buffers and the tree of ranges,
 * is a leaf.
 *
 * vfio_pci_memory_revoke() zaps VMAs and waits for importers to unmap with
 * nothing of this held but memory_lock. It tells importers, and waits for their
 * fences, with dmabuf->resv held as well. mmap() must not take memory_lock: some
 * drivers copy to and from user memory under it.
 */

struct p2pdma_provider;
struct vfio_pci_core_device;
struct vfio_region_dma_range;

/**
 * enum vfio_pci_memory_state - Can the memory of a device be reached?
 * @VFIO_PCI_MEMORY_REVOKED: Never again: the device has been closed, or the buffer
 *	was revoked, see vfio_pci_dma_buf.source.
 * @VFIO_PCI_MEMORY_ENABLED: Yes, unless the device is in D3. The PCI core can
 *	bring it back from there without asking vfio, for a reset through sysfs,
 *	error recovery or a resume of the host, so that is not part of the state:
 *	see vfio_pci_dma_buf_state().
 * @VFIO_PCI_MEMORY_DISABLED: No, until vfio_pci_memory_restore(). The user has
 *	disabled it, or sent the device to low power.
 * @VFIO_PCI_MEMORY_CHANGING: Not now. Whoever holds memory_lock for writing is
 *	about to call vfio_pci_memory_restore(): page faults wait for it.
 */
enum vfio_pci_memory_state {
	VFIO_PCI_MEMORY_REVOKED,
	VFIO_PCI_MEMORY_ENABLED,
	VFIO_PCI_MEMORY_DISABLED,
	VFIO_PCI_MEMORY_CHANGING,
};

/**
 * struct vfio_pci_memory - The memory of a device, from open to last close
 *
 * @kref: One reference of the open device, one of each buffer. Buffers outlive
 *	the last close, and need the state and the lock then.
 * @state: Written under memory_lock. A buffer's lock, held for reading, keeps
 *	what it allows from being taken back.
 * @pdev: The device. Valid under a buffer's lock until @state is REVOKED.
 * @name: Its name, for trace events: buffers outlive @pdev.
 * @lock: Guards @buffers and @wc_ranges.
 * @buffers: All buffers that are not released: those that are uncached, and those
 *	that are write-combined. A walk goes on with the second list after the first,
 *	and each grows at the end where it begins, or it might never end.
 * @attr_lock: Held while memory gets another type, or the kernel maps some of it
 *	by the type that it has.
 * @wc_ranges: Page frames of the ranges that are write-combined. They change under
 *	@attr_lock and @lock.
 * @nr_wc_ranges: How many there are. Guarded by @attr_lock.
 */
struct vfio_pci_memory {
	struct kref kref;
	enum vfio_pci_memory_state state;
	struct pci_dev *pdev;
	char name[20];
	spinlock_t lock;		/* for @buffers and @wc_ranges */
	struct list_head buffers[2];
	struct mutex attr_lock;		/* for memory types */
	struct rb_root_cached wc_ranges;
	u32 nr_wc_ranges;
};

/**
 * struct vfio_pci_dma_buf - A piece of a device's memory, as a DMABUF
 *
 * Either exported by VFIO_DEVICE_FEATURE_DMA_BUF, or made for a mapping of the
 * device fd: then there is no fd of the DMABUF, its file is the VMA's.
 *
 * @dmabuf: The DMABUF; valid until it is released.
 * @memory: The memory that this is a piece of.
 * @source: Where the state comes from: @memory, or vfio_pci_memory_revoked once
 *	the buffer was revoked for good, so that a page fault has one thing to look
 *	at. Guarded by @lock.
 * @memory_elm: Place in its list of buffers.
 * @users: One for the DMABUF until its release, one for each walker over the
 *	list. Holding one guarantees that the buffer is on the list and that its
 *	DMABUF has not been released.
 * @unused: Completed by the last user, where the release waits for it.
 * @lock: Held for reading by whoever maps the memory, from looking at the state
 *	until the mapping can be found: by a page fault until the page table entry
 *	is there. vfio_pci_memory_revoke() changes the state, takes and drops the
 *	lock for writing, and then finds all that was mapped under the old state.
 *	A page fault allocates the page table before, so this wait is a short one.
 *	(But for huge pages on powerpc with the hash MMU, which need another.)
 * @inode: The inode of the DMABUF's file; its i_mapping has all VMAs. Held here,
 *	since the dentry drops it before the DMABUF is released.
 * @device_file: The file of the device, open for as long as a mapping of it
 *	lives; NULL for an exported buffer.
 * @vm_pgoff: The vm_pgoff that is offset 0 of the buffer, in pages.
 * @provider: Where peer to peer traffic with this memory starts from; NULL if
 *	it cannot be imported.
 * @nr_mapped: Mappings of importers, but for iommufd's.
 * @imported: Whether an importer may have mapped the memory since it was last
 *	revoked; changes under dmabuf->resv.
 * @fenced: Whether map_dma_buf() has succeeded since then, so that fences can be
 *	those of work on the memory; guarded by dmabuf->resv. iommufd has none.
 * @can_mmap: Whether an exported buffer can be mapped by the CPU.
 * @write_combine: Whether the CPU maps it write-combined, and not uncached.
 * @exported: Whether its export has succeeded, so that its release is traced.
 * @bar: Number of the BAR that it is of.
 * @zapped: Set when it was revoked for good, and no CPU has it mapped any more.
 * @nr_ranges: Number of entries in @phys_vec and in @range_end.
 * @range_end: The offset in the buffer behind each range, in pages.
 * @phys_vec: Physical ranges, in the order of their offsets in the buffer.
 *
 * Lifetime: The DMABUF owns its buffer from dma_buf_export() until the release.
 * An exported buffer knows nothing about the vfio device. A client that keeps a DMABUF,
 * or only an O_PATH handle of it, keeps this structure and the vfio_pci_memory,
 * and nothing else.
 */
struct vfio_pci_dma_buf {
	struct dma_buf *dmabuf;
	struct vfio_pci_memory *memory;
	const struct vfio_pci_memory *source;
	struct list_head memory_elm;
	refcount_t users;
	struct completion unused;
	struct rw_semaphore lock;
	struct inode *inode;
	struct file *device_file;
	unsigned long vm_pgoff;
	struct p2pdma_provider *provider;
	atomic_t nr_mapped;
	bool imported;
	bool fenced;
	bool can_mmap;
	bool write_combine;
	bool zapped;
	bool exported;
	u8 bar;
	u32 nr_ranges;
	unsigned long *range_end;
	struct phys_vec phys_vec[] __counted_by(nr_ranges);
};

/**
 * struct vfio_pci_wc - What a write-combined buffer has behind its @range_end
 *
 * @nr_ranges: How many of @ranges are in the tree, from the first on. Guarded by
 *	vfio_pci_memory.attr_lock, as is
 * @nr_tracked: how many of these ranges are reserved, from the first on.
 * @ranges: Entries for vfio_pci_memory.wc_ranges, one for each range of the buffer
 */
struct vfio_pci_wc {
	u32 nr_ranges;
	u32 nr_tracked;
	struct interval_tree_node ranges[];
};

/* Only if it is write_combine */
static inline struct vfio_pci_wc *
vfio_pci_dma_buf_wc(const struct vfio_pci_dma_buf *priv)
{
	return (void *)(priv->range_end + priv->nr_ranges);
}

/**
 * vfio_pci_dma_buf_state() - Can the memory of a buffer be reached right now?
 * @priv: The buffer
 *
 * Context: Its lock is held, which keeps the answer valid.
 * Return: The state, with D3 taken into account.
 */
static inline enum vfio_pci_memory_state
vfio_pci_dma_buf_state(const struct vfio_pci_dma_buf *priv)
{
	const struct vfio_pci_memory *memory = priv->source;
	enum vfio_pci_memory_state state = READ_ONCE(memory->state);

	if (state == VFIO_PCI_MEMORY_ENABLED && vfio_pci_in_d3(memory->pdev))
		return VFIO_PCI_MEMORY_DISABLED;
	return state;
}

/**
 * vfio_pci_dma_buf_find_pfn() - Find the memory of some pages of a buffer
 * @priv: The buffer
 * @pgoff: Offset in the buffer, in pages
 * @order: How many pages, as a power of two
 * @pfn: Returns the number of the first page frame
 *
 * A page fault comes here, and a buffer may have thousands of ranges: search,
 * do not scan.
 *
 * Return: Whether all of the pages are in the buffer and in one range.
 */
static inline bool
vfio_pci_dma_buf_find_pfn(const struct vfio_pci_dma_buf *priv,
			  unsigned long pgoff, unsigned int order,
			  unsigned long *pfn)
{
	const unsigned long *range_end = priv->range_end;
	u32 low = 0, high = priv->nr_ranges - 1;
	unsigned long start;

	/* The first range that ends behind pgoff, or the last one */
	while (low < high) {
		u32 mid = low + (high - low) / 2;

		if (pgoff < range_end[mid])
			high = mid;
		else
			low = mid + 1;
	}

	/* In this order none of it can overflow. */
	if (pgoff >= range_end[low] || (1UL << order) > range_end[low] - pgoff)
		return false;

	start = low ? range_end[low - 1] : 0;
	*pfn = PHYS_PFN(priv->phys_vec[low].paddr) + (pgoff - start);
	return true;
}

int vfio_pci_memory_add(struct vfio_pci_core_device *vdev,
			struct vfio_pci_dma_buf *priv);
void vfio_pci_memory_remove(struct vfio_pci_dma_buf *priv);
int vfio_pci_memory_wait(struct vfio_pci_memory *memory, bool interruptible);
int vfio_pci_dma_buf_revoke(struct vfio_pci_core_device *vdev,
			    struct vfio_pci_dma_buf *priv);

struct vfio_pci_dma_buf *vfio_pci_memory_next(struct vfio_pci_memory *memory,
					      struct vfio_pci_dma_buf *prev);
void vfio_pci_dma_buf_put(struct vfio_pci_dma_buf *priv);

/* Whoever leaves the loop early has to drop the reference of @priv. */
#define vfio_pci_memory_for_each(priv, memory)				\
	for (priv = vfio_pci_memory_next(memory, NULL); priv;		\
	     priv = vfio_pci_memory_next(memory, priv))

int vfio_pci_memattr_write_combine(struct vfio_pci_core_device *vdev,
				   struct vfio_pci_dma_buf *priv,
				   unsigned int bar);
void vfio_pci_memattr_release(struct vfio_pci_memory *memory,
			      struct vfio_pci_dma_buf *priv);
bool vfio_pci_memattr_overlaps(struct vfio_pci_memory *memory,
			       const struct vfio_pci_dma_buf *priv,
			       const struct vfio_pci_dma_buf *of);
int vfio_pci_memattr_iomap_ioeventfd(struct vfio_pci_core_device *vdev,
				     struct vfio_pci_ioeventfd *ioeventfd);
void __iomem *vfio_pci_memattr_iomap_page(struct vfio_pci_core_device *vdev,
					  int bar, unsigned long offset);

struct vfio_pci_dma_buf *vfio_pci_dma_buf_alloc(u32 nr_ranges,
						bool write_combine);
void vfio_pci_dma_buf_init_ranges(struct vfio_pci_dma_buf *priv);
int vfio_pci_dma_buf_create(struct vfio_pci_dma_buf *priv,
			    const struct dma_buf_ops *ops, size_t size,
			    const char *name, int flags);

extern const struct dma_buf_ops vfio_pci_bar_dmabuf_ops;

int vfio_pci_mmap_bar(struct vfio_pci_core_device *vdev,
		      struct vm_area_struct *vma, unsigned int bar,
		      phys_addr_t paddr);
int vfio_pci_dma_buf_mmap(struct dma_buf *dmabuf, struct vm_area_struct *vma);
void vfio_pci_dma_buf_zap(struct vfio_pci_dma_buf *priv);
u64 vfio_pci_dma_buf_nr_vmas(struct vfio_pci_dma_buf *priv);

#if IS_ENABLED(CONFIG_KUNIT)
u32 vfio_pci_merge_ranges(struct vfio_region_dma_range *ranges, u32 nr_ranges);
#endif

#endif /* VFIO_PCI_DMABUF_H */
