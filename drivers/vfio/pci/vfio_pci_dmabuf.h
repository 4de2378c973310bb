/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef VFIO_PCI_DMABUF_H
#define VFIO_PCI_DMABUF_H

#include <linux/atomic.h>
#include <linux/dma-buf.h>
#include <linux/pfn.h>
#include <linux/rwsem.h>
#include <linux/types.h>

struct vfio_pci_core_device;

/**
 * enum vfio_pci_dma_buf_state - May the memory of a buffer be reached?
 * @VFIO_PCI_DMA_BUF_REVOKED: Never again. For a device: it is not open.
 * @VFIO_PCI_DMA_BUF_USABLE: It may.
 * @VFIO_PCI_DMA_BUF_BLOCKED: Not now. The device is about to change, whoever
 *	holds the device's memory_lock for writing will say how it ends.
 * @VFIO_PCI_DMA_BUF_SUSPENDED: Not until the device's memory is back, be it
 *	disabled, in D3 or in low power.
 */
enum vfio_pci_dma_buf_state {
	VFIO_PCI_DMA_BUF_REVOKED,
	VFIO_PCI_DMA_BUF_USABLE,
	VFIO_PCI_DMA_BUF_BLOCKED,
	VFIO_PCI_DMA_BUF_SUSPENDED,
};

/**
 * struct vfio_pci_dma_buf - A piece of a device's memory, as a DMABUF
 *
 * Either exported by VFIO_DEVICE_FEATURE_DMA_BUF, or made for a mapping of the
 * device fd: then there is no fd of the DMABUF, its file is the VMA's.
 *
 * @dmabuf: The DMABUF; valid while it is not released.
 * @dmabufs_elm: Place in the device's list of buffers.
 * @users: One for the DMABUF until its release, one for each walker over the
 *	list. Whoever has one has a buffer that is in the list and not released.
 * @lock: Guards @state, and whatever must not happen after @state has changed:
 *	a page fault holds it for reading until its page table entry is there.
 * @state: Whether the memory may be reached. REVOKED until the buffer is put in
 *	the list; there is nobody to race with by then.
 * @nr_mapped: Mappings that importers have; goes up under dmabuf->resv, and
 *	only while @state is USABLE.
 * @inode: The inode of the DMABUF's file; its mapping has all VMAs. Held here,
 *	since the dentry gives it up before the DMABUF is released.
 * @device_file: The file of the device, open for as long as a mapping of it
 *	lives; NULL for an exported buffer.
 * @vm_pgoff: The vm_pgoff that is offset 0 of the buffer, in pages.
 * @can_mmap: Whether the CPU may map it as what it is.
 * @provider: Where peer to peer traffic with this memory starts from; NULL if
 *	it cannot be imported.
 * @phys_vec: Physical ranges, in the order of their offsets in the buffer,
 *	neighbours merged.
 * @range_end: For each of them the offset in the buffer behind it, in pages.
 * @nr_ranges: How many.
 * @bar_range: What @phys_vec of a mapping of the device fd points to.
 * @bar_range_end: The same for @range_end.
 *
 * Lifetime: The DMABUF owns its buffer from dma_buf_export() until the release.
 * The device has the buffer in its list from the export until the release or
 * the last close, whichever comes first, and takes a user for as long as it
 * looks at it. The buffer knows nothing about the device. A client that keeps
 * a DMABUF, or only an O_PATH handle of it, keeps this structure and nothing
 * else.
 *
 * Locks, outer first:
 *
 *	vfio_pci_core_device.memory_lock	how the device's memory changes
 *	mmap_lock, or the lock of a VMA		page faults, mmap()
 *	dmabuf->resv				what importers map
 *	vfio_pci_dma_buf.lock
 *	vfio_pci_dma_bufs_lock			the lists of buffers
 *
 * VMAs are zapped, and the last unmap of an importer is waited for, with nothing
 * of this held but memory_lock. Importers are told, and their fences waited for,
 * with dmabuf->resv held, too. mmap() must not take memory_lock: drivers copy to
 * and from user memory under it.
 *
 * A client decides how many VMAs there are to zap, and a page fault of it that
 * allocates a page table holds @lock. Both take time, neither can wait for the
 * client.
 */
struct vfio_pci_dma_buf {
	struct dma_buf *dmabuf;
	struct list_head dmabufs_elm;
	atomic_t users;
	enum vfio_pci_dma_buf_state state;
	struct rw_semaphore lock;
	struct inode *inode;
	struct file *device_file;
	unsigned long vm_pgoff;
	struct p2pdma_provider *provider;
	struct phys_vec *phys_vec;
	unsigned long *range_end;
	u32 nr_ranges;
	atomic_t nr_mapped;
	struct phys_vec bar_range;
	unsigned long bar_range_end;
	bool can_mmap;
};

struct vfio_pci_dma_buf *vfio_pci_dma_buf_alloc(void);
void vfio_pci_dma_buf_free(struct vfio_pci_dma_buf *priv);
int vfio_pci_dma_buf_create(struct vfio_pci_dma_buf *priv, size_t size,
			    int flags);
void vfio_pci_dma_buf_publish(struct vfio_pci_core_device *vdev,
			      struct vfio_pci_dma_buf *priv);
int vfio_pci_mmap_bar(struct vfio_pci_core_device *vdev,
		      struct vm_area_struct *vma, unsigned int bar,
		      phys_addr_t paddr);
int vfio_pci_dma_buf_mmap(struct dma_buf *dmabuf, struct vm_area_struct *vma);
void vfio_pci_dma_buf_zap(struct vfio_pci_dma_buf *priv);

u32 vfio_pci_merge_ranges(struct phys_vec *phys_vec, u32 nr_ranges);
void vfio_pci_sum_ranges(const struct phys_vec *phys_vec, u32 nr_ranges,
			 unsigned long *range_end);

/**
 * vfio_pci_find_pfn() - Find the memory of some pages of a buffer
 * @phys_vec: Ranges, in the order of their offsets in the buffer
 * @range_end: What vfio_pci_sum_ranges() made of them
 * @nr_ranges: How many, at least one
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
vfio_pci_find_pfn(const struct phys_vec *phys_vec,
		  const unsigned long *range_end, u32 nr_ranges,
		  unsigned long pgoff, unsigned int order, unsigned long *pfn)
{
	u32 low = 0, high = nr_ranges - 1;
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
	*pfn = PHYS_PFN(phys_vec[low].paddr) + (pgoff - start);
	return true;
}

#endif /* VFIO_PCI_DMABUF_H */
