// SPDX-License-Identifier: GPL-2.0-only
/*
 * Memory attributes: how a CPU maps the memory of a buffer.
 *
 * A page has one memory type at a time. x86 does not support mappings of one page
 * that differ in that, and on arm64 accesses through different ones are not in order.
 * So a buffer that is write-combined and one that is uncached never overlap, and
 * this is the same on every architecture. Mappings of a BAR are uncached, and so is
 * what the kernel maps for itself, for ioeventfds and for the MSI-X table. read() and
 * write() follow the type that a page has.
 *
 * vfio_pci_memory.wc_ranges has all ranges that are write-combined. Whoever wants a
 * page makes that known first, and looks for the other type then: write-combined
 * ranges are in the tree before the list of buffers is searched, and uncached
 * buffers are on the list before the tree is. Of two that come at the same time at
 * least one finds the other, and fails.
 *
 * The ranges are in the tree for as long as they are reserved with PAT, which is what
 * x86 asks for the type whenever it maps a page. Both change together, under
 * attr_lock, and so does what the kernel maps by what they say: it would leave the
 * type of its mapping to those who map the page after it. This lock is held for as
 * long as it takes to look at all buffers and to reserve all ranges of a new one, and
 * the last user of a write-combined buffer takes it as well, be it a process of little
 * priority.
 *
 * Uncached pages of a BAR that was split are not reserved, as PAT takes a page that it
 * does not know for uncached. So what others map of such a BAR has the type of the
 * first page in it that PAT knows, and gives that type to all of its pages for as long
 * as it lives: root, by resourceN or resourceN_wc in sysfs or /dev/mem, and those
 * quirks of the PCI core that map a BAR for a reset.
 */
#include <linux/interval_tree.h>
#include <linux/mm.h>
#include <linux/pgtable.h>
#include <linux/sched/signal.h>

#include "vfio_pci_dmabuf.h"
#include "vfio_pci_priv.h"

/*
 * Of one device. PAT visits all that overlap with a new range, with a lock held that
 * every mapping of device memory needs.
 */
#define VFIO_PCI_WC_RANGES_MAX	8192

/* Whether some memory is write-combined, by the buffer @of where that is not NULL */
static bool vfio_pci_memattr_is_wc(struct vfio_pci_memory *memory,
				   phys_addr_t paddr, size_t len,
				   const struct vfio_pci_dma_buf *of)
{
	const unsigned long start = PHYS_PFN(paddr);
	const unsigned long last = PHYS_PFN(paddr + len - 1);
	struct vfio_pci_wc *wc = of ? vfio_pci_dma_buf_wc(of) : NULL;
	struct interval_tree_node *node;

	guard(spinlock)(&memory->lock);
	for (node = interval_tree_iter_first(&memory->wc_ranges, start, last);
	     node; node = interval_tree_iter_next(node, start, last)) {
		if (!wc || (node >= wc->ranges &&
			    node < wc->ranges + of->nr_ranges))
			return true;
	}
	return false;
}

/* The same for an ioeventfd; I/O ports have no memory type. */
static bool vfio_pci_ioeventfd_is_wc(struct vfio_pci_core_device *vdev,
				     const struct vfio_pci_ioeventfd *ioeventfd,
				     const struct vfio_pci_dma_buf *of)
{
	phys_addr_t paddr = pci_resource_start(vdev->pdev, ioeventfd->bar) +
			    ioeventfd->pos;

	return ioeventfd->test_mem &&
	       vfio_pci_memattr_is_wc(vdev->memory, paddr, ioeventfd->count, of);
}

/**
 * vfio_pci_memattr_overlaps() - Is any page of a buffer write-combined?
 * @memory: The memory of the device
 * @priv: A buffer that is uncached
 * @of: A buffer that is write-combined, or NULL for all of them
 *
 * Return: Whether @priv must not be mapped, as far as @of is concerned. Also true for
 * a caller that was killed.
 */
bool vfio_pci_memattr_overlaps(struct vfio_pci_memory *memory,
			       const struct vfio_pci_dma_buf *priv,
			       const struct vfio_pci_dma_buf *of)
{
	u32 i;

	for (i = 0; i < priv->nr_ranges; i++) {
		const struct phys_vec *range = &priv->phys_vec[i];

		if (vfio_pci_memattr_is_wc(memory, range->paddr, range->len, of) ||
		    fatal_signal_pending(current))
			return true;
		cond_resched();
	}
	return false;
}

/**
 * vfio_pci_memattr_iomap_ioeventfd() - Map what an ioeventfd writes to, uncached
 * @vdev: The device, open, its ioeventfds_lock held
 * @ioeventfd: The ioeventfd, which must be on the list before that lock is dropped
 *
 * Return: 0, -EBUSY if that memory is write-combined, -ENOMEM.
 */
int vfio_pci_memattr_iomap_ioeventfd(struct vfio_pci_core_device *vdev,
				     struct vfio_pci_ioeventfd *ioeventfd)
{
	lockdep_assert_held(&vdev->ioeventfds_lock);

	guard(mutex)(&vdev->memory->attr_lock);
	if (vfio_pci_ioeventfd_is_wc(vdev, ioeventfd, NULL))
		return -EBUSY;

	ioeventfd->addr = pci_iomap_range(vdev->pdev, ioeventfd->bar,
					  ioeventfd->pos, ioeventfd->count);
	return ioeventfd->addr ? 0 : -ENOMEM;
}

/**
 * vfio_pci_memattr_iomap_page() - Map a page of a BAR with the type that it has
 * @vdev: The device, open
 * @bar: A BAR of memory
 * @offset: Offset in the BAR in bytes
 *
 * Context: attr_lock is held until the page is unmapped, by pci_iounmap().
 * Return: The mapping, or NULL.
 */
void __iomem *vfio_pci_memattr_iomap_page(struct vfio_pci_core_device *vdev,
					  int bar, unsigned long offset)
{
	phys_addr_t paddr = pci_resource_start(vdev->pdev, bar) + offset;

	lockdep_assert_held(&vdev->memory->attr_lock);

	if (vfio_pci_memattr_is_wc(vdev->memory, paddr, PAGE_SIZE, NULL))
		return pci_iomap_wc_range(vdev->pdev, bar, offset, PAGE_SIZE);
	return pci_iomap_range(vdev->pdev, bar, offset, PAGE_SIZE);
}

/* Some platforms find out at boot whether they have another type. */
static bool vfio_pci_memattr_has_wc(void)
{
	const pgprot_t uncached = pgprot_noncached(PAGE_KERNEL);

	return arch_can_pci_mmap_wc() &&
	       pgprot_val(pgprot_writecombine(uncached)) != pgprot_val(uncached);
}

/* The PCI core has the table of the MSI-X vectors mapped, and uses it. */
static bool vfio_pci_memattr_has_msix_table(struct vfio_pci_core_device *vdev,
					    const struct vfio_pci_dma_buf *priv,
					    unsigned int bar)
{
	phys_addr_t start, end;
	u32 i;

	if (bar != vdev->msix_bar)
		return false;

	start = pci_resource_start(vdev->pdev, bar) + vdev->msix_offset;
	end = PAGE_ALIGN(start + vdev->msix_size);
	start = ALIGN_DOWN(start, PAGE_SIZE);
	for (i = 0; i < priv->nr_ranges; i++) {
		const struct phys_vec *range = &priv->phys_vec[i];

		if (range->paddr < end && start < range->paddr + range->len)
			return true;
	}
	return false;
}

/* Whether somebody relies on a page of the buffer being uncached */
static int vfio_pci_memattr_find_uncached(struct vfio_pci_core_device *vdev,
					  const struct vfio_pci_dma_buf *priv)
{
	struct vfio_pci_memory *memory = vdev->memory;
	struct vfio_pci_ioeventfd *ioeventfd;
	struct vfio_pci_dma_buf *other;
	int ret = 0;

	list_for_each_entry(ioeventfd, &vdev->ioeventfds_list, next) {
		if (vfio_pci_ioeventfd_is_wc(vdev, ioeventfd, priv))
			return -EBUSY;
	}

	vfio_pci_memory_for_each(other, memory) {
		/* Pairs with the release in vfio_pci_memattr_release(). */
		bool zapped = smp_load_acquire(&other->zapped);

		if (fatal_signal_pending(current))
			ret = -EINTR;
		else if (!other->write_combine && !zapped &&
			 vfio_pci_memattr_overlaps(memory, other, priv))
			ret = -EBUSY;

		/* The uncached ones come first. */
		if (ret || other->write_combine) {
			vfio_pci_dma_buf_put(other);
			break;
		}
	}
	return ret;
}

/* Reserve the ranges with whatever decides about the type of their pages. */
static int vfio_pci_memattr_track(struct vfio_pci_dma_buf *priv)
{
	const pgprot_t write_combined = pgprot_writecombine(PAGE_KERNEL);
	struct vfio_pci_wc *wc = vfio_pci_dma_buf_wc(priv);

	while (wc->nr_tracked < priv->nr_ranges) {
		struct phys_vec *range = &priv->phys_vec[wc->nr_tracked];
		pgprot_t prot = write_combined;
		int ret;

		ret = pfnmap_track(PHYS_PFN(range->paddr), range->len, &prot);
		if (ret)
			return ret == -ENOMEM ? ret : -EBUSY;

		/* Somebody has it with another type, which is the one that counts. */
		if (pgprot_val(prot) != pgprot_val(write_combined)) {
			pfnmap_untrack(PHYS_PFN(range->paddr), range->len);
			return -EBUSY;
		}
		wc->nr_tracked++;

		if (fatal_signal_pending(current))
			return -EINTR;
		cond_resched();
	}
	return 0;
}

/* Take the last range out of the tree, if there is one. */
static bool vfio_pci_memattr_unclaim(struct vfio_pci_memory *memory,
				     struct vfio_pci_dma_buf *priv)
{
	struct vfio_pci_wc *wc = vfio_pci_dma_buf_wc(priv);

	lockdep_assert_held(&memory->attr_lock);

	if (!wc->nr_ranges)
		return false;

	wc->nr_ranges--;
	memory->nr_wc_ranges--;
	if (wc->nr_tracked > wc->nr_ranges) {
		struct phys_vec *range = &priv->phys_vec[--wc->nr_tracked];

		pfnmap_untrack(PHYS_PFN(range->paddr), range->len);
	}
	guard(spinlock)(&memory->lock);
	interval_tree_remove(&wc->ranges[wc->nr_ranges], &memory->wc_ranges);
	return true;
}

/* Put all ranges into the tree, if nobody is in the way. */
static int vfio_pci_memattr_claim(struct vfio_pci_core_device *vdev,
				  struct vfio_pci_dma_buf *priv)
{
	struct vfio_pci_wc *wc = vfio_pci_dma_buf_wc(priv);
	struct vfio_pci_memory *memory = vdev->memory;

	lockdep_assert_held(&vdev->ioeventfds_lock);
	lockdep_assert_held(&memory->attr_lock);

	if (priv->nr_ranges > VFIO_PCI_WC_RANGES_MAX - memory->nr_wc_ranges)
		return -ENOSPC;

	while (wc->nr_ranges < priv->nr_ranges) {
		struct phys_vec *range = &priv->phys_vec[wc->nr_ranges];
		struct interval_tree_node *node;

		node = &wc->ranges[wc->nr_ranges++];
		memory->nr_wc_ranges++;
		node->start = PHYS_PFN(range->paddr);
		node->last = node->start + PFN_DOWN(range->len) - 1;
		scoped_guard(spinlock, &memory->lock)
			interval_tree_insert(node, &memory->wc_ranges);
		cond_resched();
	}
	return vfio_pci_memattr_find_uncached(vdev, priv);
}

/**
 * vfio_pci_memattr_write_combine() - Make a buffer write-combined
 * @vdev: The device, open
 * @priv: The buffer, allocated for that, with its ranges, of which nobody knows yet
 * @bar: The BAR that it is of
 *
 * Return: 0, -EOPNOTSUPP if this memory can never be write-combined, -EBUSY if
 * that is in conflict with a type that it has now, -ENOSPC if too many ranges are,
 * -EINTR if the caller was killed, -ENOMEM.
 */
int vfio_pci_memattr_write_combine(struct vfio_pci_core_device *vdev,
				   struct vfio_pci_dma_buf *priv,
				   unsigned int bar)
{
	struct vfio_pci_memory *memory = vdev->memory;
	int ret;

	if (!vdev->pci_ops->allow_write_combine || !priv->can_mmap ||
	    !vfio_pci_memattr_has_wc())
		return -EOPNOTSUPP;

	if (vfio_pci_memattr_has_msix_table(vdev, priv, bar))
		return -EBUSY;

	/* In other memory a CPU may not read ahead, nor combine what it writes. */
	if (!(pci_resource_flags(vdev->pdev, bar) & IORESOURCE_PREFETCH))
		return -EOPNOTSUPP;

	for (;;) {
		/* The mapping of the BAR as a whole is uncached, too. */
		bool split = vfio_pci_bar_is_split(vdev, bar);

		scoped_guard(mutex, &vdev->ioeventfds_lock) {
			guard(mutex)(&memory->attr_lock);

			ret = vfio_pci_memattr_claim(vdev, priv);
			if (!ret && split)
				ret = vfio_pci_memattr_track(priv);
			if (ret || !split)
				while (vfio_pci_memattr_unclaim(memory, priv))
					cond_resched();
		}
		if (ret || split)
			return ret;

		/*
		 * Only for a buffer that nobody else is in the way of, and with no
		 * lock held: this can take as long as a page fault.
		 */
		ret = vfio_pci_bar_split(vdev, bar);
		if (ret)
			return ret;
	}
}

/**
 * vfio_pci_memattr_release() - Let the pages of a buffer have another type
 * @memory: The memory of the device
 * @priv: The buffer, which no CPU has mapped, or can map, any more
 *
 * For all who have revoked the buffer for good, and for its release: none of them
 * returns before this is done.
 */
void vfio_pci_memattr_release(struct vfio_pci_memory *memory,
			      struct vfio_pci_dma_buf *priv)
{
	bool more = priv->write_combine;

	/* A write-combined buffer that finds this set may map the pages. */
	smp_store_release(&priv->zapped, true);

	while (more) {
		scoped_guard(mutex, &memory->attr_lock)
			more = vfio_pci_memattr_unclaim(memory, priv);
		cond_resched();
	}
}
